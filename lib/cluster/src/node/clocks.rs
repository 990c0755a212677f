//! Clocks that are wrong: each node measures its own against that of the metadata group's leader, and tells it with its
//! lease. From all of them together follows whose clock is wrong: such a node does not lead, and says so.
//!
//! ```text
//! RenewLease ->            proposed, committed; the answer has the leader's time of the proposal
//! <- time                  own clock before the call and after it: by how much it is off for certain
//! RenewLease(off) ->       from the next on, in the node's record
//! ```
//! The leader's own clock may be the wrong one. So it is not nearness to the leader that decides, but nearness to the middle
//! of all ingesters.

use gnomon_model::NodeId;
use gnomon_model::ids::CLOCKS_FEATURE_LEVEL;
use gnomon_proto::v1::{MetaState, Node};
use std::time::Duration;

/// A clock may be so far from the others, milliseconds; one that is further is wrong.
pub const CLOCK_MAY_BE_OFF_MS: i64 = 60_000;

/// Whether a clock was set: what has lasted for long enough by that alone has not.
#[derive(Debug, Default)]
pub struct Jumps {
    /// The wall clock less the one that does not jump, milliseconds.
    apart_ms: Option<i64>,
}

impl Jumps {
    /// By how much wall time may differ from time that passed and still count as the same.
    const SLACK_MS: u64 = 1_000;

    /// Whether it was set since it was looked at last. Both times are of now; the wall clock's is the one that is judged by.
    pub fn look(&mut self, wall_ms: i64, monotonic: Duration) -> bool {
        let passed_ms = i64::try_from(monotonic.as_millis()).unwrap_or(i64::MAX);
        let apart_ms = wall_ms.saturating_sub(passed_ms);
        let before = self.apart_ms.replace(apart_ms);
        before.is_some_and(|before| before.abs_diff(apart_ms) > Self::SLACK_MS)
    }
}

/// By how much a clock that showed `before_ms` and then `after_ms` is at least ahead of one that showed `theirs_ms` in
/// between; negative where it is behind, 0 where it may be neither.
pub(super) fn off_ms(before_ms: i64, after_ms: i64, theirs_ms: i64) -> i64 {
    let (least, most) = (
        before_ms.min(after_ms).saturating_sub(theirs_ms),
        after_ms.max(before_ms).saturating_sub(theirs_ms),
    );
    if least > 0 {
        least
    } else if most < 0 {
        most
    } else {
        0
    }
}

/// What the cluster knows of a node's clock, milliseconds; 0 where nothing is known.
pub(super) fn known_off_ms(state: &MetaState, node: NodeId) -> i64 {
    let node = state.nodes.iter().find(|n| n.id == node.0);
    node.map_or(0, |n| n.clock_off_ms)
}

/// Ingesters whose clocks are wrong, of those whose leases are not over at `now_ms` of the leader's clock.
pub(super) fn wrong_clocks(state: &MetaState, now_ms: i64) -> Vec<NodeId> {
    if state.feature_level < CLOCKS_FEATURE_LEVEL.0 {
        return Vec::new();
    }
    let middle = middle_of_ingesters(state, now_ms);
    let wrong = ingesters(state, now_ms).filter(|n| is_far(n.clock_off_ms, middle));
    wrong.map(|n| NodeId(n.id)).collect()
}

/// Whether the cluster knows that this ingester's clock is wrong, at `now_ms` of a clock that is right.
pub fn is_clock_wrong(state: &MetaState, node: NodeId, now_ms: i64) -> bool {
    wrong_clocks(state, now_ms).contains(&node)
}

/// Whether a clock that is so far from the leader's is wrong, by the clocks of the ingesters whose leases are not over at
/// `now_ms` of the leader's clock.
pub(super) fn is_wrong(state: &MetaState, off_ms: i64, now_ms: i64) -> bool {
    state.feature_level >= CLOCKS_FEATURE_LEVEL.0 && is_far(off_ms, middle_of_ingesters(state, now_ms))
}

fn ingesters(state: &MetaState, now_ms: i64) -> impl Iterator<Item = &Node> {
    let is_there = move |n: &&Node| {
        n.incarnation > 0 && n.lease_until_ms >= now_ms && n.roles.iter().any(|role| role == "ingester")
    };
    state.nodes.iter().filter(is_there)
}

fn middle_of_ingesters(state: &MetaState, now_ms: i64) -> i64 {
    let mut offs: Vec<i64> = ingesters(state, now_ms).map(|n| n.clock_off_ms).collect();
    offs.sort_unstable();
    middle(&offs)
}

fn is_far(off_ms: i64, middle_ms: i64) -> bool {
    off_ms.abs_diff(middle_ms) > CLOCK_MAY_BE_OFF_MS.unsigned_abs()
}

/// Of two in the middle it is the one that is nearer to the leader's clock; 0 of none.
fn middle(sorted: &[i64]) -> i64 {
    let upper = sorted.get(sorted.len() / 2).copied();
    let lower = sorted.get(sorted.len().saturating_sub(1) / 2).copied();
    match (lower, upper) {
        (Some(lower), Some(upper)) if lower.unsigned_abs() < upper.unsigned_abs() => lower,
        (_, upper) => upper.unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_off_by_what_is_certain() {
        assert_eq!(off_ms(1000, 1500, 1200), 0);
        assert_eq!(off_ms(1000, 1500, 900), 100);
        assert_eq!(off_ms(1000, 1500, 1700), -200);
        assert_eq!(off_ms(1500, 1000, 1200), 0, "it was set back meanwhile");
        assert_eq!(off_ms(i64::MIN, i64::MAX, 0), 0);
    }

    fn state(offs: &[i64]) -> MetaState {
        let node = |(id, clock_off_ms): (u64, &i64)| Node {
            id,
            incarnation: 1,
            roles: vec!["ingester".into()],
            lease_until_ms: 100,
            clock_off_ms: *clock_off_ms,
            ..Node::default()
        };
        MetaState {
            feature_level: CLOCKS_FEATURE_LEVEL.0,
            nodes: (1..).zip(offs).map(node).collect(),
            ..MetaState::default()
        }
    }

    const NOBODY: [u64; 0] = [];

    fn ids(nodes: Vec<NodeId>) -> Vec<u64> {
        nodes.into_iter().map(|node| node.0).collect()
    }

    fn wrong(offs: &[i64]) -> Vec<u64> {
        ids(wrong_clocks(&state(offs), 50))
    }

    #[test]
    fn whose_clock_is_wrong_is_decided_by_most_of_them() {
        assert_eq!(wrong(&[0, 59_000, -59_000]), NOBODY);
        assert_eq!(wrong(&[0, 300_000, 10]), [2]);
        assert_eq!(wrong(&[0, -300_000, 10]), [2]);
        assert_eq!(wrong(&[0, 300_000, 300_010]), [1], "the leader's own");
        assert_eq!(wrong(&[0, -300_000, -300_010, 0, 5]), [2, 3]);
        assert_eq!(wrong(&[0, 300_000]), [2], "of two the leader is right");
        assert_eq!(wrong(&[0, -300_000, -300_000, 1]), [2, 3]);
        assert_eq!(wrong(&[0]), NOBODY);
        assert_eq!(wrong(&[]), NOBODY);
    }

    #[test]
    fn another_nodes_clock_is_wrong_where_it_is_far_from_most_ingesters() {
        let scrapers = |offs: &[i64], off_ms| is_wrong(&state(offs), off_ms, 50);
        assert!(scrapers(&[0, 10, -10], 300_000));
        assert!(scrapers(&[0, 10, -10], -300_000));
        assert!(!scrapers(&[0, 10, -10], 59_000));
        assert!(
            !scrapers(&[0, 300_000, 300_010], 300_000),
            "it is the leader's that is wrong"
        );
        assert!(scrapers(&[0, 300_000, 300_010], 0), "as the leader's is");
        let old = MetaState {
            feature_level: CLOCKS_FEATURE_LEVEL.0 - 1,
            ..state(&[0, 0, 0])
        };
        assert!(!is_wrong(&old, 300_000, 50), "nobody can know");
    }

    #[test]
    fn a_clock_that_is_set_is_noticed_once() {
        let s = Duration::from_secs;
        let mut jumps = Jumps::default();
        assert!(!jumps.look(1_000_000, s(5)));
        assert!(!jumps.look(1_001_400, s(6)), "it goes a little faster");
        assert!(jumps.look(1_302_000, s(7)) && !jumps.look(1_303_000, s(8)));
        assert!(jumps.look(1_004_000, s(9)) && !jumps.look(1_005_000, s(10)));
    }

    #[test]
    fn who_is_not_there_is_not_asked() {
        let mut state = state(&[0, 300_000, 300_000]);
        assert_eq!(ids(wrong_clocks(&state, 50)), [1]);
        state.nodes[1].lease_until_ms = 49;
        assert_eq!(ids(wrong_clocks(&state, 50)), [3]);
        state.nodes[2].roles = vec!["querier".into()];
        assert_eq!(ids(wrong_clocks(&state, 50)), NOBODY);
        state.nodes[1].lease_until_ms = 60;
        assert_eq!(ids(wrong_clocks(&state, 50)), [2]);
        state.feature_level = 4;
        assert_eq!(ids(wrong_clocks(&state, 50)), NOBODY);
    }
}
