//! When a target is scraped, and which time its samples get.

use gnomon_cluster::node::LEASE;
use std::time::Duration;

/// Prometheus' tolerance: a scrape that begins this little after its tick is given the tick's time, so that times of
/// successive scrapes are evenly spaced and compress to almost nothing.
pub(super) const DEFAULT_TOLERANCE: Duration = Duration::from_millis(2);

/// How long a scrape may be kept before it is pushed, and which part of its interval.
const GATHER: Duration = Duration::from_millis(250);
const GATHER_PART: u32 = 20;

fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1)
}

/// The first tick after `after_ms`: ticks are `offset` past multiples of the interval since the epoch.
pub(super) fn next_tick(after_ms: i64, interval: Duration, offset: Duration) -> i64 {
    let interval = ms(interval);
    let offset = i64::try_from(offset.as_millis()).unwrap_or(0) % interval;
    let past = after_ms.saturating_sub(offset).rem_euclid(interval);
    after_ms.saturating_add(interval - past)
}

/// The time of a scrape that was due at `tick_ms` and began at `began_ms`.
pub(super) fn align(tick_ms: i64, began_ms: i64, interval: Duration, tolerance: Duration) -> i64 {
    let tolerance = ms(tolerance).min(ms(interval) / 100).max(0);
    if (began_ms - tick_ms).unsigned_abs() <= tolerance.unsigned_abs() {
        tick_ms
    } else {
        began_ms
    }
}

/// For so long after a change of the ring the scraper before may not have heard of it, and makes the target's ticks as well:
/// at most to the end of its lease.
const MADE_BY_TWO: Duration = LEASE;
/// As late as a scrape may be, within its interval, that is given its tick's time then.
const LATE: Duration = Duration::from_secs(1);

/// Which ring's owner makes the ticks, and since when.
pub(super) struct Ownership {
    term: u64,
    since: Duration,
}

impl Ownership {
    /// A loop that begins at `now`, by the monotonic clock.
    pub(super) const fn new(term: u64, now: Duration) -> Self {
        Self { term, since: now }
    }

    /// Whether the owner before may still make ticks, of a target that goes from one to another with `term`.
    pub(super) fn is_new(&mut self, term: u64, now: Duration) -> bool {
        if self.term != term {
            *self = Self::new(term, now);
        }
        now.saturating_sub(self.since) < MADE_BY_TWO
    }
}

/// The time of a scrape whose tick another scraper may have made as well: the tick's, whoever makes it, as a shard takes
/// one time once. Two times a few milliseconds apart would be two scrapes to it. Not of one that began long after its tick.
pub(super) fn align_to_other(tick_ms: i64, began_ms: i64, interval: Duration) -> i64 {
    if (0..ms(interval.min(LATE))).contains(&began_ms.saturating_sub(tick_ms)) {
        tick_ms
    } else {
        began_ms
    }
}

/// How long after `now` a scrape is pushed: at the end of a short stretch of time that is the same for all, so that the
/// shards write to their logs, and sync, what came in it together.
pub(super) fn until_pushed(now: Duration, interval: Duration) -> Duration {
    let (stretch, now) = (GATHER.min(interval / GATHER_PART).as_millis(), now.as_millis());
    let left = stretch - now.checked_rem(stretch).unwrap_or(0);
    Duration::from_millis(u64::try_from(left).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn ticks_stand_on_one_grid_whoever_asks_and_when() {
        let offset = Duration::from_millis(300);
        assert_eq!(next_tick(1000, SECOND, offset), 1300);
        assert_eq!(next_tick(1300, SECOND, offset), 2300);
        assert_eq!(next_tick(1299, SECOND, offset), 1300);
        assert_eq!(next_tick(1500, SECOND, offset), 2300);
        assert_eq!(next_tick(-100, SECOND, offset), 300);
        assert_eq!(next_tick(0, SECOND, Duration::ZERO), 1000);
    }

    #[test]
    fn scrapes_are_pushed_together_and_soon() {
        let ms = Duration::from_millis;
        let at = |now: Duration, interval| now + until_pushed(now, interval);
        for interval in [5, 15, 60].map(Duration::from_secs) {
            assert_eq!(at(ms(1_001), interval), ms(1_250));
            assert_eq!(at(ms(1_249), interval), ms(1_250));
            assert_eq!(at(ms(1_250), interval), ms(1_500));
        }
        // Also with those of long intervals, now and then.
        assert_eq!(at(ms(1_001), SECOND), ms(1_050));
        assert_eq!(until_pushed(ms(1_001), ms(10)), Duration::ZERO);
    }

    #[test]
    fn what_two_scrapers_make_of_a_tick_has_one_time() {
        let ten = 10 * SECOND;
        // Each as late as it happens to be, and one by a clock that is a little behind.
        let times = [5000, 5002, 5003, 5250, 5999].map(|began| align_to_other(5000, began, ten));
        assert_eq!(times, [5000; 5]);
        assert_eq!(align_to_other(5000, 6000, ten), 6000, "that is long after it");
        assert_eq!(align_to_other(5000, 5100, SECOND / 10), 5100, "that is the next");
        assert_eq!(align_to_other(5000, 4999, ten), 4999, "a clock that was set back");
    }

    #[test]
    fn an_owner_is_new_for_as_long_as_the_one_before_may_not_know() {
        let mut own = Ownership::new(3, 100 * SECOND);
        assert!(own.is_new(3, 100 * SECOND));
        assert!(own.is_new(3, 114 * SECOND));
        assert!(!own.is_new(3, 115 * SECOND));
        assert!(own.is_new(5, 200 * SECOND), "another may have had it in between");
        assert!(own.is_new(5, 214 * SECOND));
        assert!(!own.is_new(5, 215 * SECOND));
    }

    #[test]
    fn small_delays_are_smoothed_out_and_large_ones_told() {
        let ten = 10 * SECOND;
        assert_eq!(align(5000, 5002, ten, DEFAULT_TOLERANCE), 5000);
        assert_eq!(align(5000, 5003, ten, DEFAULT_TOLERANCE), 5003);
        assert_eq!(align(5000, 5002, SECOND / 10, DEFAULT_TOLERANCE), 5002);
        assert_eq!(align(5000, 5001, SECOND / 10, DEFAULT_TOLERANCE), 5000);
    }
}
