//! When a target is scraped, and which time its samples get.

use std::time::Duration;

/// Prometheus' tolerance: a scrape that begins this little after its tick is given the tick's time, so that times of
/// successive scrapes are evenly spaced and compress to almost nothing.
pub(super) const DEFAULT_TOLERANCE: Duration = Duration::from_millis(2);

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
    fn small_delays_are_smoothed_out_and_large_ones_told() {
        let ten = 10 * SECOND;
        assert_eq!(align(5000, 5002, ten, DEFAULT_TOLERANCE), 5000);
        assert_eq!(align(5000, 5003, ten, DEFAULT_TOLERANCE), 5003);
        assert_eq!(align(5000, 5002, SECOND / 10, DEFAULT_TOLERANCE), 5002);
        assert_eq!(align(5000, 5001, SECOND / 10, DEFAULT_TOLERANCE), 5000);
    }
}
