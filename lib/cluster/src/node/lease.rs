//! Keeping a node's lease.

use gnomon_model::NodeId;
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{MetaCommand, RenewLease};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Renews one life's lease, three times in its length.
pub(super) struct Renewal {
    pub(super) meta: Arc<dyn MetaService>,
    pub(super) node: NodeId,
    pub(super) incarnation: u64,
    pub(super) lease: Duration,
}

impl Renewal {
    /// Until `stop`, or until the cluster says that this life is over.
    pub(super) async fn run(self, stop: CancellationToken) {
        let command = MetaCommand {
            proposed_at_ms: 0,
            command: Some(Command::RenewLease(RenewLease {
                node: self.node.0,
                incarnation: self.incarnation,
                lease_ms: i64::try_from(self.lease.as_millis()).unwrap_or(i64::MAX),
            })),
        };
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.lease / 3) => {}
            }
            let renewed = tokio::select! {
                () = stop.cancelled() => return,
                renewed = self.meta.propose(command.clone()) => renewed,
            };
            match renewed {
                Ok(answer) if answer.refused.is_empty() => {}
                Ok(answer) => {
                    tracing::error!(
                        node = %self.node, reason = %answer.refused,
                        "the cluster does not renew this node's lease: another process runs with its identity"
                    );
                    return;
                }
                Err(error) => tracing::warn!(%error, "cannot renew the node's lease; trying again"),
            }
        }
    }
}
