//! What a replica that is not the leader passes on to it, for those who do not reach it themselves.

use gnomon_model::NodeId;
use gnomon_proto::ServiceError;
use gnomon_proto::service::{MetaService, ShardWriteService};
use std::sync::Arc;

/// Reaches the replicas on other nodes.
pub trait OtherNodes: Send + Sync + 'static {
    /// # Errors
    /// `Unavailable` where the node is not known.
    fn shard_write(&self, node: NodeId) -> Result<Arc<dyn ShardWriteService>, ServiceError>;
    /// # Errors
    /// `Unavailable` where the node is not known.
    fn meta(&self, node: NodeId) -> Result<Arc<dyn MetaService>, ServiceError>;
}
