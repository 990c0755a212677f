//! What every remote call passes through, put on once when a client is built: trace and count, shed load, limit
//! concurrency, time out (all around the connection), and retry within a budget (around the typed call).

mod channel;
mod metrics;
mod retry;
mod trace;

pub use channel::{BadAddress, ChannelOptions, PeerChannel, connect};
pub use metrics::CallMetrics;
pub use retry::{Retries, RetryPolicy};
pub use trace::{Trace, TraceLayer};
