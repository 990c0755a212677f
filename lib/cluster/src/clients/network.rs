//! The seam of the network for whole nodes: what reaches others where it is not gRPC.

use crate::raft::RaftTransport;
use gnomon_model::NodeId;
use gnomon_proto::service::{MetaService, ShardReadService, ShardWriteService};
use std::fmt;
use std::sync::Arc;

/// Reaches the nodes of a simulated cluster. Each node has one of its own, which knows who calls; the bodies that it
/// gives fail as connections do.
pub trait PeerNetwork: fmt::Debug + Send + Sync + 'static {
    /// What `from`, which is the caller itself, sends Raft's messages through.
    fn raft(&self, from: NodeId) -> Arc<dyn RaftTransport>;
    /// Whoever answers at an address, host:port.
    fn meta(&self, address: &str) -> Arc<dyn MetaService>;
    /// Refused where another node answers there.
    fn shard_write(&self, address: &str, node: NodeId) -> Arc<dyn ShardWriteService>;
    /// Refused where another node answers there.
    fn shard_read(&self, address: &str, node: NodeId) -> Arc<dyn ShardReadService>;
}
