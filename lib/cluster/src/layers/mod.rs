//! What every remote call passes through, put on once when a client is built: trace and count, shed load, limit
//! concurrency, time out (all around the connection), and retry within a budget (around the typed call). On the side of
//! the server: go on with the trace, refuse
//! what is meant for another cluster or node, count, limit concurrency and shed what is beyond it.

mod channel;
mod context;
mod membership;
mod metrics;
mod retry;
mod serve;
mod trace;

pub(crate) use channel::explained;
pub use channel::{BadAddress, ChannelOptions, PeerChannel, connect, connect_as};
pub use context::{TRACEPARENT, TraceContext};
pub(crate) use membership::Answering;
pub use membership::{CLUSTER_HEADER, Members, Membership, NODE_HEADER};
pub use metrics::{CallMetrics, ServeMetrics};
pub use retry::{Retries, RetryPolicy};
pub use serve::{Serve, ServeLayer};
pub use trace::{Trace, TraceLayer};
