//! Targets that nobody scrapes any more.

use super::Duties;
use crate::shard::entry::{Command, SilentTarget};
use gnomon_cluster::node::{SCRAPER_LEAVING, SCRAPER_STARTING};
use gnomon_model::ids::OPERATIONS_FEATURE_LEVEL;
use gnomon_proto::v1::MetaState;
use std::time::Duration;

/// Targets of one entry.
const MOST: usize = 1000;
/// As long as a scraper's lease. A leader of less has heard of no target yet that its scraper, or the next one, holds for it;
/// and a target whose scraper has died is scraped again within this and an interval.
const LEASE_MS: u64 = 15_000;
/// So long after a shard was closed its targets are in the shards of the next epoch, if anywhere: it lets go of them.
const HANDED_OVER_MS: i64 = 10 * 60 * 1000;

impl Duties {
    /// A leader gives targets the time to come to it, before it counts what went before it against them; and as long as there
    /// are scrapers, what they hold, or the next owner of a target, the time to come. Where markers stand does not depend on
    /// when they are made.
    pub(super) async fn expire_targets(&mut self, leading: Duration) {
        let now_ms = self.context.clock.now().0;
        let is_scraped = has_live_scraper(&self.context.states.borrow(), now_ms);
        let leading_ms = u64::try_from(leading.as_millis()).unwrap_or(u64::MAX);
        let targets: Vec<_> = self.shard.machine.read(|state| {
            // What comes after that goes to other shards: only who was silent before was silent.
            let until_ms = state.counters.bounds.until_ms;
            let is_closed = until_ms <= now_ms;
            let is_handed_over = until_ms.saturating_add(HANDED_OVER_MS) <= now_ms;
            let all = state.tenants.iter().flat_map(|(tenant, there)| {
                let silent = there.head.targets.iter().filter(|(_, t)| {
                    let silent_ms = u64::try_from(now_ms.saturating_sub(t.heard_ms)).unwrap_or(0);
                    let is_ours = !is_closed || is_handed_over || t.is_overdue_at(until_ms);
                    let patience_ms = t.patience_ms();
                    let could_hear = leading_ms > patience_ms.max(LEASE_MS);
                    let waits_ms = match is_scraped {
                        true => patience_ms.max(t.handed_over_within_ms(LEASE_MS)),
                        false => patience_ms,
                    };
                    !t.is_idle() && silent_ms > waits_ms && could_hear && is_ours
                });
                silent.map(|(id, target)| SilentTarget {
                    tenant: tenant.clone(),
                    target: *id,
                    term: target.term,
                    heard_ms: target.heard_ms,
                })
            });
            all.take(MOST).collect()
        });
        if targets.is_empty() {
            return;
        }
        let (shard, count) = (self.shard.id().0, targets.len());
        let is_understood = self.context.states.borrow().feature_level >= OPERATIONS_FEATURE_LEVEL.0;
        let command = match is_understood {
            true => Command::ExpireBetweenTicks { targets },
            false => Command::ExpireTargets { targets },
        };
        match self.shard.propose(command).await {
            Ok(_) => {
                self.context.metrics.targets_expired.inc_by(count as u64);
                tracing::info!(shard, targets = count, "silent targets expired");
            }
            Err(error) => tracing::warn!(shard, targets = count, %error, "silent targets not expired"),
        }
    }
}

/// Whether somebody is there who scrapes, or may hold scrapes, by his lease. One whose lease has just ended is in the ring
/// until that is committed; one that starts or stops is in it no more, or not yet.
fn has_live_scraper(state: &MetaState, now_ms: i64) -> bool {
    let ring = state.scrapers.iter().flat_map(|ring| &ring.nodes);
    let in_ring: Vec<u64> = ring.copied().collect();
    let may_hold = |role: &String| role == SCRAPER_STARTING || role == SCRAPER_LEAVING;
    let mut live = state.nodes.iter().filter(|node| node.lease_until_ms >= now_ms);
    live.any(|node| in_ring.contains(&node.id) || node.roles.iter().any(may_hold))
}
