//! Keeping a node's lease, and looking at its clock on the way.

use super::clocks::{CLOCK_MAY_BE_OFF_MS, off_ms};
use gnomon_model::ids::CLOCKS_FEATURE_LEVEL;
use gnomon_model::{Clock, NodeId};
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{MetaCommand, MetaState, RenewLease};
use prometheus::{Gauge, Registry};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Renews one life's lease, three times in its length.
pub(super) struct Renewal {
    pub(super) meta: Arc<dyn MetaService>,
    pub(super) node: NodeId,
    pub(super) incarnation: u64,
    pub(super) lease: Duration,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) states: watch::Receiver<Arc<MetaState>>,
    /// How far its clock is off, seconds.
    pub(super) clock_off: Gauge,
}

/// How far this node's clock is from that of the metadata group's leader.
pub(super) fn register(registry: &Registry) -> prometheus::Result<Gauge> {
    let gauge = Gauge::new(
        "gnomon_cluster_clock_off_seconds",
        "How far this node's clock is ahead of that of the metadata group's leader, at least.",
    )?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

impl Renewal {
    /// Until `stop`, or until the cluster says that this life is over.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut clock_off_ms = 0;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.lease / 3) => {}
            }
            let command = self.command(clock_off_ms);
            let before_ms = self.clock.now().0;
            let renewed = tokio::select! {
                () = stop.cancelled() => return,
                renewed = self.meta.propose(command) => renewed,
            };
            match renewed {
                Ok(answer) if answer.refused.is_empty() => {
                    let now_off_ms = match answer.proposed_at_ms {
                        0 => 0,
                        theirs_ms => off_ms(before_ms, self.clock.now().0, theirs_ms),
                    };
                    self.say(clock_off_ms, now_off_ms);
                    clock_off_ms = now_off_ms;
                }
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

    fn command(&self, clock_off_ms: i64) -> MetaCommand {
        let may_tell = self.states.borrow().feature_level >= CLOCKS_FEATURE_LEVEL.0;
        MetaCommand {
            proposed_at_ms: 0,
            command: Some(Command::RenewLease(RenewLease {
                node: self.node.0,
                incarnation: self.incarnation,
                lease_ms: i64::try_from(self.lease.as_millis()).unwrap_or(i64::MAX),
                clock_off_ms: if may_tell { clock_off_ms } else { 0 },
            })),
        }
    }

    fn say(&self, before_ms: i64, now_ms: i64) {
        self.clock_off.set(now_ms as f64 / 1000.0);
        let is_wrong = |off_ms: i64| off_ms.unsigned_abs() > CLOCK_MAY_BE_OFF_MS.unsigned_abs();
        match (is_wrong(before_ms), is_wrong(now_ms)) {
            (false, true) => tracing::error!(
                off_ms = now_ms,
                "this node's clock is more than a minute from that of the metadata group's leader: whichever of the two \
                 most ingesters disagree with gives up its leadership; set the clocks, by NTP for example"
            ),
            (true, false) => tracing::info!("this node's clock agrees again with that of the metadata group's leader"),
            _ => {}
        }
    }
}
