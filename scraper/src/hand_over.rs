//! Which of two scrapers makes which scrape where a target goes from one to the other.
//!
//! ```text
//! a scraper comes      from COMES_MS after it came into the ring on its targets are its own
//! a scraper is gone    from LEAVES_MS after it left its targets are others', or once its lease has ended
//! ```
//! The time stands in the metadata state: both hear the same one, and where they hear of it before it has come, the one makes
//! all ticks before it and the other all from it on. Who hears of it later acts at once; what both make then is for the
//! target's shards to tell apart.

use crate::ring::{Members, Ring};
use gnomon_model::{NodeId, TargetId};

/// For all to hear of it: its targets stay where they are until then.
const COMES_MS: i64 = 2_000;
/// For others to hear of it.
const LEAVES_MS: i64 = 1_000;
/// A time that is further away than this is of another clock: nobody waits for it.
const MOST_AHEAD_MS: i64 = 3_000;

/// When a scraper that came into the ring at `since_ms` begins to make ticks.
#[must_use]
pub(crate) const fn after_join(since_ms: i64) -> i64 {
    since_ms.saturating_add(COMES_MS)
}

/// When a scraper that left the ring at `left_ms` makes no more ticks.
#[must_use]
pub(crate) const fn after_leave(left_ms: i64) -> i64 {
    left_ms.saturating_add(LEAVES_MS)
}

/// When a scraper left the ring that makes no more ticks from `end_ms` on.
#[must_use]
pub(crate) const fn before_leave(end_ms: i64) -> i64 {
    end_ms.saturating_sub(LEAVES_MS)
}

/// The time of a change, as long as it is still to come.
pub(crate) fn ahead(change_ms: Option<i64>, now_ms: i64) -> Option<i64> {
    let is_near = |at: &i64| (1..=MOST_AHEAD_MS).contains(&at.saturating_sub(now_ms));
    change_ms.filter(is_near)
}

/// After which time the next owner looks for its next tick.
pub(crate) fn ticks_after(from_ms: Option<i64>, now_ms: i64) -> i64 {
    ahead(from_ms, now_ms).map_or(now_ms, |from| from - 1)
}

/// Whether the last owner makes a tick that is still to come.
pub(crate) fn still_makes(tick_ms: i64, until_ms: i64, now_ms: i64) -> bool {
    ahead(Some(until_ms), now_ms).is_some_and(|until| tick_ms < until)
}

/// Who has which target, and who had it before the last change.
pub(crate) struct Owners {
    pub(crate) me: NodeId,
    members: Members,
    ring: Ring,
    before: (Vec<NodeId>, Ring),
}

impl Owners {
    pub(crate) fn new(me: NodeId, members: Members) -> Self {
        let ring = Ring::new(&members.nodes);
        Self {
            me,
            members,
            ring,
            before: (Vec::new(), Ring::new(&[])),
        }
    }

    pub(crate) fn change(&mut self, members: Members) {
        let ring = std::mem::replace(&mut self.ring, Ring::new(&members.nodes));
        let before = std::mem::replace(&mut self.members, members);
        self.before = (before.nodes, ring);
    }

    /// When the last of those who have just come begins: until then this scraper makes ticks for it.
    pub(crate) fn given_until_ms(&self) -> Option<i64> {
        let came = self.members.nodes.iter().filter(|node| !self.before.0.contains(node));
        came.filter_map(|node| self.members.since_ms(*node))
            .map(after_join)
            .max()
    }

    pub(crate) fn term(&self) -> u64 {
        self.members.term
    }

    /// Whether other scrapers have, or had under the ring before, targets.
    pub(crate) fn are_several(&self) -> bool {
        self.members
            .nodes
            .iter()
            .chain(&self.before.0)
            .any(|node| *node != self.me)
    }

    pub(crate) fn is_mine(&self, target: TargetId) -> bool {
        self.ring.owner(target) == Some(self.me)
    }

    /// When the last change gives the target to another; none where it does not, or at once.
    pub(crate) fn change_ms(&self, target: TargetId) -> Option<i64> {
        let to = self.ring.owner(target)?;
        let (known, ring) = &self.before;
        let from = ring.owner(target).filter(|from| *from != to)?;
        let since_ms = |node| self.members.since_ms(node);
        if self.members.nodes.len() > 1 && !known.contains(&to) {
            return since_ms(to).map(after_join);
        }
        let is_gone = !self.members.nodes.contains(&from);
        since_ms(from).filter(|_| is_gone).map(after_leave)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(term: u64, nodes: &[u64]) -> Members {
        Members {
            term,
            nodes: nodes.iter().copied().map(NodeId).collect(),
            since_ms: [1, 2, 3].map(|n| (NodeId(n), 10_000 * n as i64)).to_vec(),
        }
    }

    fn targets() -> impl Iterator<Item = TargetId> {
        (0..500u64).map(|n| TargetId(n << 53))
    }

    #[test]
    fn both_sides_read_one_time_from_the_state() {
        let (before, after) = (members(1, &[1, 2]), members(2, &[1, 2, 3]));
        let mut had = [1, 2].map(|n| Owners::new(NodeId(n), before.clone()));
        had.iter_mut().for_each(|owners| owners.change(after.clone()));
        let mut new = Owners::new(NodeId(3), before);
        new.change(after);
        assert!(targets().any(|target| new.is_mine(target)));
        for target in targets() {
            let at = new.is_mine(target).then_some(30_000 + COMES_MS);
            for owners in had.iter().chain([&new]) {
                assert_eq!(owners.change_ms(target), at);
            }
        }
        for owners in &mut had {
            owners.change(members(3, &[1, 2]));
            for target in targets() {
                let at = new.is_mine(target).then_some(after_leave(30_000));
                assert_eq!(owners.change_ms(target), at);
            }
        }
        let alone = Owners::new(NodeId(1), members(1, &[1]));
        assert!(targets().all(|target| alone.change_ms(target).is_none()), "nobody else");
        assert!(!alone.are_several());
        let mut left = Owners::new(NodeId(1), members(1, &[1, 2]));
        left.change(members(2, &[1]));
        assert!(left.are_several(), "the other may not have heard of it");
    }

    /// Numbers of ticks of every 100 ms that one made: whether it gives or takes, hearing of it at that time.
    fn made(takes: bool, change_ms: i64, heard_ms: i64) -> Vec<i64> {
        let is_made = |tick: &i64| match takes {
            true => *tick > ticks_after(Some(change_ms), heard_ms),
            false => *tick <= heard_ms || still_makes(*tick, change_ms, heard_ms),
        };
        (0..100).map(|n| n * 100).filter(is_made).collect()
    }

    #[test]
    fn every_tick_is_made_once_by_whom_hears_in_time_and_late_ones_act_at_once() {
        let change_ms = 5_000;
        let all: Vec<i64> = (0..100).map(|n| n * 100).collect();
        for gives_ms in (2_200..7_000).step_by(50) {
            for late_ms in (-200..=200).step_by(50) {
                let takes_ms = gives_ms + late_ms;
                let (gave, took) = (made(false, change_ms, gives_ms), made(true, change_ms, takes_ms));
                let mut once = [gave.clone(), took.clone()].concat();
                once.sort_unstable();
                let in_time = gives_ms < change_ms && takes_ms < change_ms;
                if in_time || late_ms == 0 {
                    assert_eq!(once, all, "heard at {gives_ms} and {takes_ms}");
                }
                // One hears too late: nothing is made twice or missed but between the two.
                let off = |tick: &i64| gave.contains(tick) == took.contains(tick);
                let between = gives_ms.min(takes_ms)..=gives_ms.max(takes_ms);
                assert!(all.iter().filter(|tick| off(tick)).all(|tick| between.contains(tick)));
            }
        }
    }

    #[test]
    fn nobody_waits_for_the_time_of_another_clock() {
        assert_eq!(ahead(Some(MOST_AHEAD_MS), 0), Some(MOST_AHEAD_MS));
        assert_eq!(ahead(Some(MOST_AHEAD_MS + 1), 0), None);
        assert_eq!(ticks_after(Some(100_000), 50_000), 50_000);
        assert!(!still_makes(60_000, 100_000, 50_000));
    }
}
