//! By which time scrapes are held to be of a time that is still to come.

use gnomon_cluster::node::{CLOCK_MAY_BE_OFF_MS, LEASE};
use gnomon_model::{Clock, TimestampMs};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A node whose clock is wrong leads nothing any more after that long: the others see it with its lease.
const WRONG_CLOCKS_LEAD: Duration = LEASE.saturating_mul(2);

/// A clock that jumps by more than any may be off is not believed at once: were it wrong, this node would soon lead no more,
/// and what it took from a scraper whose clock is wrong, too, would stand in the way of the right scrapes until that time has
/// come. Where no other node could say so, it is believed.
///
/// ```text
/// clock      12:00:00   12:00:01   12:05:02   12:05:03   ...   12:05:32
/// believed   12:00:00   12:00:01   12:00:02   12:00:03   ...   12:05:32    two leases later, if it leads still
/// ```
pub(crate) struct BelievedClock {
    clock: Arc<dyn Clock>,
    /// None before it is asked for the first time.
    seen: Mutex<Option<Seen>>,
    has_others: AtomicBool,
    /// The others say so.
    is_known_wrong: AtomicBool,
}

/// A moment by both clocks.
#[derive(Clone, Copy)]
struct Seen {
    wall_ms: i64,
    at: Duration,
    /// Monotonic: since when the clock shows something else.
    doubted_since: Option<Duration>,
}

impl BelievedClock {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            seen: Mutex::new(None),
            has_others: AtomicBool::new(false),
            is_known_wrong: AtomicBool::new(false),
        }
    }

    /// Whether there are other ingesters, which would take the lead.
    pub(crate) fn set_has_others(&self, has_others: bool) {
        self.has_others.store(has_others, Ordering::Relaxed);
    }

    pub(crate) fn has_others(&self) -> bool {
        self.has_others.load(Ordering::Relaxed)
    }

    /// What the cluster knows of this node's clock: while it is wrong it is not believed, and where it jumps from there, it
    /// is.
    pub(crate) fn set_known_wrong(&self, is_known_wrong: bool) {
        self.is_known_wrong.store(is_known_wrong, Ordering::Relaxed);
    }

    /// The time, as far as it is believed; each call is a look at the clock, too.
    pub(crate) fn now(&self) -> TimestampMs {
        let (now, at) = (self.clock.now(), self.clock.monotonic());
        let is_new = Seen {
            wall_ms: now.0,
            at,
            doubted_since: None,
        };
        let mut seen = self.seen.lock();
        let Some(before) = seen.as_mut().filter(|_| self.has_others()) else {
            *seen = Some(is_new);
            return now;
        };
        let passed_ms = i64::try_from(at.saturating_sub(before.at).as_millis()).unwrap_or(i64::MAX);
        let expected_ms = before.wall_ms.saturating_add(passed_ms);
        if now.0.abs_diff(expected_ms) <= CLOCK_MAY_BE_OFF_MS.unsigned_abs() {
            *before = is_new;
            return now;
        }
        let jumped_s = now.0.saturating_sub(expected_ms) / 1000;
        let is_known_wrong = self.is_known_wrong.load(Ordering::Relaxed);
        match before.doubted_since {
            None if is_known_wrong => {
                tracing::info!(jumped_s, "this node's clock was wrong, and jumped: scrapes go by it");
            }
            None => {
                before.doubted_since = Some(at);
                tracing::warn!(
                    jumped_s,
                    "this node's clock jumped: scrapes go by the time before, for now"
                );
                return TimestampMs(expected_ms);
            }
            Some(since) if is_known_wrong || at.saturating_sub(since) < WRONG_CLOCKS_LEAD => {
                return TimestampMs(expected_ms);
            }
            Some(_) => tracing::warn!(
                jumped_s,
                "this node's clock jumped, and nobody says that it is wrong: scrapes go by it"
            ),
        }
        *before = is_new;
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::ManualClock;

    const T0: i64 = 1_700_000_000_000;

    struct Rig {
        clock: Arc<ManualClock>,
        believed: BelievedClock,
    }

    impl Rig {
        fn new(has_others: bool) -> Self {
            let clock = Arc::new(ManualClock::at(TimestampMs(T0)));
            let believed = BelievedClock::new(clock.clone());
            believed.set_has_others(has_others);
            Self { clock, believed }
        }

        /// The clock is set so far ahead, or back.
        fn jump(&self, by_ms: i64) {
            let now = self.clock.now().0;
            self.clock.set_wall(TimestampMs(now + by_ms));
        }

        fn after(&self, by: Duration) -> i64 {
            self.clock.advance(by);
            self.believed.now().0 - T0
        }
    }

    #[test]
    fn a_clock_that_jumped_is_believed_after_two_leases() {
        for jump_ms in [300_000, -300_000] {
            let rig = Rig::new(true);
            assert_eq!(rig.after(Duration::ZERO), 0);
            // However long nobody asked.
            assert_eq!(rig.after(Duration::from_secs(3_600)), 3_600_000);
            rig.jump(jump_ms);
            assert_eq!(rig.after(Duration::from_millis(1)), 3_600_001);
            assert_eq!(rig.after(WRONG_CLOCKS_LEAD - Duration::from_millis(1)), 3_630_000);
            assert_eq!(rig.after(Duration::from_millis(1)), 3_630_001 + jump_ms);
            assert_eq!(rig.after(Duration::from_millis(1)), 3_630_002 + jump_ms);
        }
    }

    #[test]
    fn a_clock_that_is_set_right_again_was_not_believed_meanwhile() {
        let rig = Rig::new(true);
        rig.after(Duration::ZERO);
        rig.jump(300_000);
        assert_eq!(rig.after(Duration::from_secs(20)), 20_000);
        rig.jump(-300_000);
        assert_eq!(rig.after(Duration::from_secs(1)), 21_000);
        // The next jump is doubted anew.
        rig.jump(300_000);
        assert_eq!(rig.after(Duration::from_secs(20)), 41_000);
    }

    #[test]
    fn a_clock_that_is_known_to_be_wrong_is_not_believed_and_from_there_it_is() {
        let rig = Rig::new(true);
        rig.after(Duration::ZERO);
        rig.jump(300_000);
        assert_eq!(rig.after(Duration::from_secs(10)), 10_000);
        rig.believed.set_known_wrong(true);
        assert_eq!(rig.after(Duration::from_secs(3_590)), 3_600_000);
        rig.jump(-300_000);
        assert_eq!(rig.after(Duration::from_secs(1)), 3_601_000);
        // One that was so from the start is followed to where it is right.
        let rig = Rig::new(true);
        rig.after(Duration::ZERO);
        rig.believed.set_known_wrong(true);
        rig.jump(300_000);
        assert_eq!(rig.after(Duration::from_secs(1)), 301_000);
    }

    #[test]
    fn small_steps_are_followed_and_so_is_everything_where_nobody_else_is() {
        let rig = Rig::new(true);
        rig.after(Duration::ZERO);
        for n in 1..=10 {
            rig.jump(CLOCK_MAY_BE_OFF_MS);
            assert_eq!(rig.after(Duration::from_secs(1)), n * (CLOCK_MAY_BE_OFF_MS + 1_000));
        }
        let alone = Rig::new(false);
        alone.after(Duration::ZERO);
        alone.jump(28_800_000);
        assert_eq!(alone.after(Duration::from_secs(1)), 28_801_000);
    }
}
