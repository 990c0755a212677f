//! How long samples of a new turn wait for what fills the end of the turn before: were they first, nothing before them would be
//! newer than what its series has.

use gnomon_proto::v1::HaTurn;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::Duration;

/// For what other ingesters hold, from when this one first had to do with the turn: they hear of it and write meanwhile.
const FOR_OTHERS: Duration = Duration::from_secs(3);
/// For what this one holds, which is tried for as long.
pub(super) const FOR_OWN: Duration = Duration::from_secs(30);
/// A turn that was claimed so long ago waits for nothing. Clocks may be off by less.
const RECENT_MS: u64 = 300_000;
/// More than there may be pairs.
const MAX_REMEMBERED: usize = 16_384;

/// When this node first had to do with turns that fill the one before (monotonic): by pair and replica, with the turn's beginning.
#[derive(Debug, Default)]
pub(super) struct Waits(Mutex<HashMap<u64, (i64, Duration)>>);

impl Waits {
    /// Whether there is anything to be waited for at all.
    pub(super) fn may_wait(turn: &HaTurn, now_ms: i64) -> bool {
        turn.fills_from_ms.is_some() && now_ms.abs_diff(turn.claimed_ms) < RECENT_MS
    }

    pub(super) fn for_others(since: Duration) -> bool {
        since < FOR_OTHERS
    }

    pub(super) fn for_own(since: Duration) -> bool {
        since < FOR_OWN
    }

    /// How long ago that was for the turn that begins at `from_ms`.
    pub(super) fn since(&self, key: u64, from_ms: i64, now: Duration) -> Duration {
        let mut first = self.0.lock();
        if first.len() >= MAX_REMEMBERED && !first.contains_key(&key) {
            first.retain(|_, (_, at)| Self::for_own(now.saturating_sub(*at)));
            if first.len() >= MAX_REMEMBERED {
                return FOR_OWN;
            }
        }
        let (turn, at) = first.entry(key).or_insert((from_ms, now));
        if *turn != from_ms {
            (*turn, *at) = (from_ms, now);
        }
        now.saturating_sub(*at)
    }
}
