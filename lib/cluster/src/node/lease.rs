//! Keeping a node's lease, and looking at its clock on the way.
//!
//! A scraper whose clock is wrong gives its lease up, and so its targets to others: its scrapes would have times that no
//! shard takes. It goes on asking, and takes a lease again once its clock is right.

use super::clocks::{CLOCK_MAY_BE_OFF_MS, is_wrong, off_ms};
use gnomon_model::ids::CLOCKS_FEATURE_LEVEL;
use gnomon_model::{Clock, NodeId};
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{EndLease, MetaCommand, MetaState, RenewLease};
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
    /// It has targets, and no replicas, which would be made anew elsewhere without its lease.
    pub(super) only_scrapes: bool,
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
        let mut steps_aside = false;
        let mut wait = self.lease / 3;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = self.lease / 3;
            let command = match steps_aside {
                true => self.farewell(),
                false => self.renewal(clock_off_ms),
            };
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
                    let goes = self.has_to_go(clock_off_ms, answer.proposed_at_ms);
                    if goes != steps_aside {
                        steps_aside = goes;
                        // At once: nobody scrapes its targets meanwhile.
                        wait = Duration::ZERO;
                        self.say_aside(steps_aside);
                    }
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

    /// Whether its clock is wrong and there is somebody for its targets. `now_ms` is the leader's time.
    fn has_to_go(&self, clock_off_ms: i64, now_ms: i64) -> bool {
        let state = self.states.borrow();
        let ring = state.scrapers.iter().flat_map(|ring| &ring.nodes);
        let has_others = || ring.into_iter().any(|node| *node != self.node.0);
        self.only_scrapes && is_wrong(&state, clock_off_ms, now_ms) && has_others()
    }

    fn farewell(&self) -> MetaCommand {
        MetaCommand {
            proposed_at_ms: 0,
            command: Some(Command::EndLease(EndLease {
                node: self.node.0,
                incarnation: self.incarnation,
            })),
        }
    }

    fn say_aside(&self, aside: bool) {
        match aside {
            true => tracing::error!("this scraper's clock is wrong: others take its targets until it is set"),
            false => tracing::info!("this scraper takes targets again"),
        }
    }

    fn renewal(&self, clock_off_ms: i64) -> MetaCommand {
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
