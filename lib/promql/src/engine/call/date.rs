//! Dates, always in UTC.

use super::super::context::{Evaluated, Exec, Sink};
use super::arg;
use crate::engine::column::Column;
use crate::functions::FunctionId as F;
use crate::plan::Node;
use gnomon_model::Labels;
use gnomon_model::time::date_of_days;

/// A moment in the proleptic Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Date {
    year: i64,
    /// 1 to 12.
    month: i64,
    /// 1 to 31.
    day: i64,
    days_since_epoch: i64,
    second_of_day: i64,
}

impl Date {
    fn from_unix(seconds: i128) -> Self {
        let days = seconds.div_euclid(86_400) as i64;
        let (year, month, day) = date_of_days(days);
        Self {
            year,
            month,
            day,
            days_since_epoch: days,
            second_of_day: seconds.rem_euclid(86_400) as i64,
        }
    }

    const fn is_leap(self) -> bool {
        self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0)
    }

    const fn days_in(self, month: i64) -> i64 {
        match month {
            2 if self.is_leap() => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    fn day_of_year(self) -> i64 {
        (1..self.month).map(|month| self.days_in(month)).sum::<i64>() + self.day
    }
}

pub(super) type DateFunction = fn(Date) -> i64;

pub(super) fn date_function(func: F) -> Option<DateFunction> {
    Some(match func {
        F::Year => |d| d.year,
        F::Month => |d| d.month,
        F::DayOfMonth => |d| d.day,
        // The epoch was a Thursday; Sunday is 0.
        F::DayOfWeek => |d| (d.days_since_epoch + 4).rem_euclid(7),
        F::DayOfYear => Date::day_of_year,
        F::DaysInMonth => |d| d.days_in(d.month),
        F::Hour => |d| d.second_of_day / 3600,
        F::Minute => |d| d.second_of_day / 60 % 60,
        _ => return None,
    })
}

/// Seconds from Go's absolute year zero (-292277022399) to the epoch.
const ABSOLUTE_TO_UNIX: i64 = 9_223_371_966_579_724_800;

/// The date of so many seconds after the epoch. What no `i64` holds, not-a-number included, is the lowest one, and
/// seconds are counted from Go's year zero on, modulo 2^64: as Prometheus has it on amd64.
fn at(seconds: f64) -> Date {
    let fits = (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&seconds);
    let seconds = if fits { seconds as i64 } else { i64::MIN };
    let absolute = seconds.wrapping_add(ABSOLUTE_TO_UNIX).cast_unsigned();
    Date::from_unix(i128::from(absolute) - i128::from(ABSOLUTE_TO_UNIX))
}

impl Exec<'_> {
    pub(super) fn date(&self, of: DateFunction, args: &[Node], node: &Node, sink: &mut Sink<'_>) -> Evaluated<()> {
        if args.is_empty() {
            let mut column = Column::empty(Labels::empty(), node.grid.n);
            for i in 0..node.grid.n {
                column.set_float(i, of(at(node.grid.time(i).div_euclid(1000) as f64)) as f64);
            }
            return sink(column);
        }
        self.of_floats(&|value, _| Some(of(at(value)) as f64), arg(args, 0)?, sink)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_around_leap_days_and_the_epoch() {
        let parts = |seconds| {
            let d = Date::from_unix(seconds);
            (d.year, d.month, d.day, d.day_of_year())
        };
        assert_eq!(parts(0), (1970, 1, 1, 1));
        assert_eq!(parts(-1), (1969, 12, 31, 365));
        assert_eq!(parts(951_782_400), (2000, 2, 29, 60));
        assert_eq!(parts(1_709_251_199), (2024, 2, 29, 60));
        assert_eq!(Date::from_unix(4_107_542_400).days_in(2), 28);
    }

    /// What Prometheus 2.42 answers.
    #[test]
    fn dates_beyond_all_calendars() {
        for (seconds, expected) in [
            (f64::INFINITY, [292_277_026_596, 12, 4, 0, 339, 31, 15, 30]),
            (f64::NAN, [292_277_026_596, 12, 4, 0, 339, 31, 15, 30]),
            (-1e30, [292_277_026_596, 12, 4, 0, 339, 31, 15, 30]),
            (9.2e18, [291_536_396_232, 8, 31, 5, 244, 31, 11, 33]),
            (-9.2e18, [-291_536_392_293, 5, 3, 2, 123, 31, 12, 26]),
            (1e17, [3_168_875_820, 9, 6, 3, 250, 30, 9, 46]),
        ] {
            let functions = [
                F::Year,
                F::Month,
                F::DayOfMonth,
                F::DayOfWeek,
                F::DayOfYear,
                F::DaysInMonth,
                F::Hour,
                F::Minute,
            ];
            let got = functions.map(|function| date_function(function).unwrap()(at(seconds)));
            assert_eq!(got, expected, "{seconds}");
        }
    }
}
