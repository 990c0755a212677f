//! Instants and ranges, always in milliseconds since the Unix epoch.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Milliseconds since 1970-01-01T00:00:00Z; negative before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TimestampMs(pub i64);

impl TimestampMs {
    pub const MIN: Self = Self(i64::MIN);
    pub const MAX: Self = Self(i64::MAX);

    /// Saturates at the ends of the representable range.
    #[must_use]
    pub const fn saturating_add_ms(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

impl fmt::Display for TimestampMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A range of instants, **half-open**: `start` is in it, `end` is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TimeRange {
    pub start: TimestampMs,
    pub end: TimestampMs,
}

impl TimeRange {
    #[must_use]
    pub const fn new(start: TimestampMs, end: TimestampMs) -> Self {
        Self { start, end }
    }

    /// The aligned window of `width_ms` (> 0) that holds `at`.
    #[must_use]
    pub const fn window_of(at: TimestampMs, width_ms: i64) -> Self {
        let start = at.0.div_euclid(width_ms) * width_ms;
        Self {
            start: TimestampMs(start),
            end: TimestampMs(start.saturating_add(width_ms)),
        }
    }

    #[must_use]
    pub const fn contains(&self, at: TimestampMs) -> bool {
        self.start.0 <= at.0 && at.0 < self.end.0
    }

    #[must_use]
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.start.0 < other.end.0 && other.start.0 < self.end.0
    }

    /// Milliseconds from start to end.
    #[must_use]
    pub const fn width_ms(&self) -> i64 {
        self.end.0.saturating_sub(self.start.0)
    }
}

/// Year, month (1 to 12) and day (1 to 31) of the proleptic Gregorian calendar, so many days after 1970-01-01.
///
/// As in H. Hinnant, "chrono-compatible low-level date algorithms": years begin in March, eras have 400 of them.
#[must_use]
pub const fn date_of_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let (month, is_next) = match march_month {
        0..10 => (march_month + 3, 0),
        _ => (march_month - 9, 1),
    };
    (era * 400 + year_of_era + is_next, month, day)
}

/// Days from 1970-01-01 to a date: the inverse of [`date_of_days`].
#[must_use]
pub const fn days_of_date(year: i64, month: i64, day: i64) -> i64 {
    let (march_month, is_before) = if month > 2 { (month - 3, 0) } else { (month + 9, 1) };
    let year = year - is_before;
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_days_and_back() {
        for (date, days) in [((1970, 1, 1), 0), ((2000, 2, 29), 11_016), ((1969, 12, 31), -1)] {
            assert_eq!((date_of_days(days), days_of_date(date.0, date.1, date.2)), (date, days));
        }
        for days in (-1_000_000..1_000_000).step_by(97) {
            let (year, month, day) = date_of_days(days);
            assert_eq!(days_of_date(year, month, day), days);
        }
    }

    #[test]
    fn windows_are_aligned_and_half_open_before_the_epoch_too() {
        let w = TimeRange::window_of(TimestampMs(-1), 10);
        assert_eq!((w.start.0, w.end.0), (-10, 0));
        assert!(w.contains(TimestampMs(-10)) && !w.contains(TimestampMs(0)));
        assert!(!w.overlaps(&TimeRange::window_of(TimestampMs(0), 10)));
    }
}
