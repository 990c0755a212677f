//! TLS of listeners and between nodes: certificates that are read again when their files change, handshakes within
//! limits, and both ends of the cluster's mutual TLS.
//!
//! Invariant: a handshake uses what was in the files a second ago at most, or, where that cannot be used, what they held
//! when it last could.

mod accept;
mod between_nodes;
mod connect;
pub mod der;
mod leaf;
mod pem;
mod refusals;
mod reread;
mod stream;
#[cfg(test)]
pub(crate) mod tests;

pub use accept::{HandshakeLimits, HandshakeMetrics, Offer, accept};
pub use between_nodes::{ClusterTls, TlsFiles};
pub(crate) use connect::{host_of, lazily};
pub use leaf::Leaf;
pub use pem::{certificates, private_key, roots};
pub use reread::{Files, Made, Reread};
pub use stream::Secured;

/// What cannot be used, where it is, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(pub String);

impl TlsError {
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}
