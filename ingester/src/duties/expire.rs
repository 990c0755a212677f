//! Targets that nobody scrapes any more.

use super::Duties;
use crate::shard::entry::{Command, SilentTarget};
use gnomon_cluster::node::{CLOCK_MAY_BE_OFF_MS, LEASE, SCRAPER_LEAVING, SCRAPER_STARTING, scrapes_or_may};
use gnomon_model::ids::{OPERATIONS_FEATURE_LEVEL, RING_TIMES_FEATURE_LEVEL};
use gnomon_proto::v1::MetaState;

/// Targets of one entry.
const MOST: usize = 1000;
/// As long as a scraper's lease. A leader of less has heard of no target yet that its scraper, or the next one, holds for it;
/// and a target whose scraper has died is scraped again within this and an interval of its death.
const LEASE_MS: u64 = LEASE.as_millis() as u64;
/// So long after a shard was closed its targets are in the shards of the next epoch, if anywhere: it lets go of them.
const HANDED_OVER_MS: i64 = 10 * 60 * 1000;

impl Duties {
    /// A leader gives targets the time to come to it, before it counts what went before it against them; and as long as there
    /// are scrapers, what they hold, or the next owner of a target, the time to come. One whose clock was set does so as if it
    /// led only since: how long a target was silent by it, it was not. Where markers stand does not depend on when they are
    /// made.
    pub(super) async fn expire_targets(&mut self) {
        let (now_ms, now) = (self.context.clock.now().0, self.context.clock.monotonic());
        if self.jumps.look(now_ms, now) {
            self.leading_since = None;
        }
        let leading = now.saturating_sub(*self.leading_since.get_or_insert(now));
        let scrapers = Scrapers::of(&self.context.states.borrow(), now_ms);
        let leading_ms = u64::try_from(leading.as_millis()).unwrap_or(u64::MAX);
        let targets: Vec<_> = self.shard.machine.read(|state| {
            // What comes after that goes to other shards: only who was silent before was silent.
            let until_ms = state.counters.bounds.until_ms;
            let is_closed = until_ms <= now_ms;
            let is_handed_over = until_ms.saturating_add(HANDED_OVER_MS) <= now_ms;
            let all = state.tenants.iter().flat_map(|(tenant, there)| {
                let silent = there.head.targets.iter().filter(|(_, t)| {
                    // Of a time to come, by a clock that was ahead: until then nothing can be taken for a tick of it.
                    let heard_ms = t.newest_ms().map_or(t.heard_ms, |newest| newest.max(t.heard_ms));
                    let silent_ms = u64::try_from(now_ms.saturating_sub(heard_ms)).unwrap_or(0);
                    let is_ours = !is_closed || is_handed_over || t.is_overdue_at(until_ms);
                    let patience_ms = t.patience_ms();
                    let waits_ms = match scrapers {
                        Scrapers::None => patience_ms,
                        Scrapers::Alive(alive) if alive.went_on(t.heard_ms, t.next_within_ms()) => {
                            patience_ms.max(LEASE_MS.saturating_add(t.next_within_ms()))
                        }
                        Scrapers::Alive(_) => LEASE_MS.saturating_add(patience_ms),
                    };
                    let could_hear = leading_ms > waits_ms.max(LEASE_MS);
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

/// Who could still bring scrapes of a target that is silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scrapers {
    /// Nobody is there who scrapes, or may hold scrapes, by his lease.
    None,
    Alive(Alive),
}

/// What is known of all of them together, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Alive {
    /// Each of the ring renewed its lease then or later.
    renewed_ms: i64,
    /// One came or went for the last time; none where the cluster does not note it.
    changed_ms: Option<i64>,
    /// No other could have its targets.
    is_only_one: bool,
}

impl Scrapers {
    /// One whose lease has just ended is in the ring until that is committed; one that starts or stops is in it no more, or not
    /// yet.
    fn of(state: &MetaState, now_ms: i64) -> Self {
        let ring = state.scrapers.as_ref().map_or(&[][..], |ring| &ring.nodes);
        let in_ring = || state.nodes.iter().filter(|node| ring.contains(&node.id));
        let may_hold = |role: &String| role == SCRAPER_STARTING || role == SCRAPER_LEAVING;
        let mut live = state.nodes.iter().filter(|node| node.lease_until_ms >= now_ms);
        let lease_ms = i64::try_from(LEASE_MS).unwrap_or(i64::MAX);
        // What is known here may be some seconds old, and another have come since: somebody has renewed a lease after theirs.
        let is_known = || {
            let scrapers = state.nodes.iter().filter(|node| scrapes_or_may(node));
            let ended_ms = scrapers.map(|node| node.lease_until_ms).max().unwrap_or(i64::MIN);
            let newest_ms = state.nodes.iter().map(|node| node.lease_until_ms).max();
            newest_ms.is_none_or(|until| until.saturating_sub(lease_ms) >= ended_ms)
        };
        if !live.any(|node| ring.contains(&node.id) || node.roles.iter().any(may_hold)) && is_known() {
            return Self::None;
        }
        let lease_until_ms = in_ring().map(|node| node.lease_until_ms).min().unwrap_or(i64::MIN);
        // By a clock that was wrong something may have happened that is still to come.
        let latest_ms = now_ms.saturating_add(CLOCK_MAY_BE_OFF_MS);
        let changes = state.nodes.iter().map(|node| node.ring_changed_ms);
        let changed_ms = changes.filter(|at| *at <= latest_ms).max();
        Self::Alive(Alive {
            renewed_ms: lease_until_ms.saturating_sub(lease_ms),
            changed_ms: changed_ms.filter(|_| state.feature_level >= RING_TIMES_FEATURE_LEVEL.0),
            is_only_one: state.nodes.iter().filter(|node| scrapes_or_may(node)).count() == 1,
        })
    }
}

impl Alive {
    /// Whether a target's scraper lived until after its next scrape, and no other has come by the target. It is not so, or not
    /// known, of one that died: up to an interval after its last scrape that is, its lease ends, and its successor's first
    /// scrape comes within another interval.
    fn went_on(self, heard_ms: i64, next_within_ms: u64) -> bool {
        let next_ms = heard_ms.saturating_add_unsigned(next_within_ms);
        let nobody_came = self.changed_ms.is_some_and(|changed| changed <= heard_ms);
        self.is_only_one || (self.renewed_ms > next_ms && nobody_came)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_proto::v1::{Node, ScraperRing};

    fn node(id: u64, role: &str, lease_until_ms: i64, ring_changed_ms: i64) -> Node {
        Node {
            id,
            roles: vec![role.into()],
            lease_until_ms,
            ring_changed_ms,
            ..Node::default()
        }
    }

    fn state(level: u64, ring: &[u64], nodes: &[Node]) -> MetaState {
        MetaState {
            feature_level: level as u32,
            scrapers: Some(ScraperRing {
                term: 1,
                nodes: ring.to_vec(),
            }),
            nodes: nodes.to_vec(),
            ..MetaState::default()
        }
    }

    #[test]
    fn scrapers_that_went_on_bring_nothing_more_of_a_silent_target() {
        let newest = u64::from(RING_TIMES_FEATURE_LEVEL.0);
        let at = |level, ring: &[u64], nodes: &[&Node]| {
            let nodes: Vec<Node> = nodes.iter().copied().cloned().collect();
            match Scrapers::of(&state(level, ring, &nodes), 100_000) {
                Scrapers::None => None,
                Scrapers::Alive(alive) => Some(alive.went_on(60_000, 11_000)),
            }
        };
        let of = |ring: &[u64], nodes: &[&Node]| at(newest, ring, nodes);
        let well = node(1, "scraper", 111_000, 5_000);
        let too = node(2, "scraper", 112_000, 0);
        assert_eq!(of(&[1, 2], &[&well, &too]), Some(true));
        assert_eq!(at(newest - 1, &[1, 2], &[&well, &too]), Some(false), "not noted");
        let renewed_just_before = node(2, "scraper", 86_000, 5_000);
        assert_eq!(of(&[1, 2], &[&well, &renewed_just_before]), Some(false));
        let died = node(2, "scraper", 86_000, 86_000);
        assert_eq!(of(&[1], &[&well, &died]), Some(false), "another has its targets");
        let by_a_wrong_clock = node(2, "scraper", 112_000, 400_000);
        assert_eq!(of(&[1, 2], &[&well, &by_a_wrong_clock]), Some(true));
        // Who is alone leaves its targets to nobody.
        let ingester = node(3, "ingester", 111_000, 0);
        let not_renewed = node(1, "scraper", 101_000, 90_000);
        assert_eq!(at(1, &[1], &[&not_renewed, &ingester]), Some(true));
        assert_eq!(of(&[2], &[&renewed_just_before, &ingester]), None, "its lease is over");
        // Nothing is known of the time since: another may have come.
        let as_long = node(3, "ingester", 100_000, 0);
        assert_ne!(of(&[2], &[&renewed_just_before, &as_long]), None);
        let starting = node(4, SCRAPER_STARTING, 111_000, 5_000);
        assert_eq!(of(&[], &[&starting, &died]), Some(false));
        assert_eq!(of(&[], &[&ingester]), None);
    }
}
