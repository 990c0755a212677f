//! The functions that dashboards use most, over series of floats alone: the same results as the general way, with less
//! work a step.

use super::each_value;
use super::moving::{Ends, Falls};
use super::rate::{Rate, Sampled};
use crate::engine::arithmetic::{Kahan, Mean, Sliding};
use crate::engine::column::Column;
use crate::engine::context::Evaluated;
use crate::engine::order::STRIDE;
use crate::engine::select::Points;
use crate::functions::FunctionId;
use crate::plan::{Extended, Grid, Window};
use std::ops::Range;

/// A function over plain ranges of floats.
#[derive(Clone, Copy, Debug)]
pub(super) enum Simple {
    Change { counter: bool, per_second: bool },
    Sum,
    Avg,
    Count,
    Last,
}

impl Simple {
    pub(super) const fn of(func: FunctionId) -> Option<Self> {
        match func {
            FunctionId::Rate => Some(Self::Change {
                counter: true,
                per_second: true,
            }),
            FunctionId::Increase => Some(Self::Change {
                counter: true,
                per_second: false,
            }),
            FunctionId::Delta => Some(Self::Change {
                counter: false,
                per_second: false,
            }),
            FunctionId::SumOverTime => Some(Self::Sum),
            FunctionId::AvgOverTime => Some(Self::Avg),
            FunctionId::CountOverTime => Some(Self::Count),
            FunctionId::LastOverTime => Some(Self::Last),
            _ => None,
        }
    }

    /// The column of a series; none where it is not of that kind. Looks now and then by `check` whether the query has
    /// ended.
    pub(super) fn column(
        self,
        window: &Window,
        points: &Points,
        grid: Grid,
        check: &dyn Fn() -> Evaluated<()>,
    ) -> Evaluated<Option<Column>> {
        if !points.histograms.is_empty() || window.extended != Extended::No {
            return Ok(None);
        }
        let floats = &points.floats;
        let each = |of: &dyn Fn(Range<usize>) -> Evaluated<f64>| each(window, points, grid, of, check);
        Ok(Some(match self {
            Self::Change { counter, per_second } => changes(window, points, grid, counter, per_second),
            Self::Sum if Sliding::is_exact_for(floats) => sums(window, points, grid, |sum, _| sum, check)?,
            Self::Avg if Sliding::is_exact_for(floats) => sums(window, points, grid, |sum, n| sum / n, check)?,
            Self::Sum => each(&|range| {
                let mut sum = Kahan::default();
                each_value(&floats[range], check, |value| sum.add(value))?;
                Ok(sum.value())
            })?,
            Self::Avg => each(&|range| {
                let mut mean = Mean::default();
                each_value(&floats[range], check, |value| mean.add(value))?;
                Ok(mean.value())
            })?,
            Self::Count => each(&|range| Ok(range.len() as f64))?,
            Self::Last => each(&|range| Ok(floats[range.end - 1]))?,
        }))
    }
}

/// Gives each step's range, that is not empty, to `of`.
fn each(
    window: &Window,
    points: &Points,
    grid: Grid,
    of: &dyn Fn(Range<usize>) -> Evaluated<f64>,
    check: &dyn Fn() -> Evaluated<()>,
) -> Evaluated<Column> {
    let mut looked_at = 0;
    let mut column = Column::empty(points.labels.clone(), grid.n);
    let mut ends = Ends::default();
    for i in 0..grid.n {
        let end_ms = window.shift.apply(grid.time(i));
        let start_ms = end_ms.saturating_sub(window.range_ms);
        let range = ends.advance(&points.float_times, start_ms, end_ms);
        looked_at += range.len() + 1;
        if looked_at >= STRIDE {
            check()?;
            looked_at = 0;
        }
        if !range.is_empty() {
            column.set_float(i, of(range)?);
        }
    }
    Ok(column)
}

/// Gives each step's sum and how many values it is of, unless there are none, to `of`. Only for values whose sums are
/// exact.
fn sums(
    window: &Window,
    points: &Points,
    grid: Grid,
    of: impl Fn(f64, f64) -> f64,
    check: &dyn Fn() -> Evaluated<()>,
) -> Evaluated<Column> {
    let floats = &points.floats;
    let mut column = Column::empty(points.labels.clone(), grid.n);
    let mut sum = Sliding::default();
    let mut summed = 0..0;
    let mut looked_at = 0;
    let mut ends = Ends::default();
    for i in 0..grid.n {
        let end_ms = window.shift.apply(grid.time(i));
        let start_ms = end_ms.saturating_sub(window.range_ms);
        let range = ends.advance(&points.float_times, start_ms, end_ms);
        if range.start >= summed.end {
            // Nothing of the step before is left.
            sum = Sliding::default();
            summed = range.start..range.start;
        }
        each_value(&floats[summed.start..range.start], check, |gone| sum.remove(gone))?;
        each_value(&floats[summed.end..range.end], check, |come| sum.add(come))?;
        looked_at += range.start - summed.start + range.end - summed.end + 1;
        if looked_at >= STRIDE {
            check()?;
            looked_at = 0;
        }
        if !range.is_empty() {
            column.set_float(i, of(sum.value(), range.len() as f64));
        }
        summed = range;
    }
    Ok(column)
}

fn changes(window: &Window, points: &Points, grid: Grid, counter: bool, per_second: bool) -> Column {
    let (times, floats) = (&points.float_times, &points.floats);
    let mut column = Column::empty(points.labels.clone(), grid.n);
    let mut ends = Ends::default();
    let mut falls = if counter {
        Falls::of(floats, times, &[])
    } else {
        Falls::default()
    };
    let rate = Rate {
        counter,
        seconds: per_second.then_some(window.range_ms as f64 / 1000.0),
    };
    let mut last_sampled = Sampled {
        first_ms: 0,
        last_ms: 1,
        count: 2,
        start_ms: 0,
        end_ms: 1,
        began_ms: None,
    };
    let mut spacing = last_sampled.spacing();
    let mut usual = spacing.usual_factor(rate);
    for i in 0..grid.n {
        let end_ms = window.shift.apply(grid.time(i));
        let start_ms = end_ms.saturating_sub(window.range_ms);
        let range = ends.advance(times, start_ms, end_ms);
        let (first, count) = (range.start, range.len());
        if count < 2 {
            continue;
        }
        let last = range.end - 1;
        let mut change = floats[last] - floats[first];
        for before in falls.within(&range) {
            change += before;
        }
        let sampled = Sampled {
            first_ms: times[first].saturating_sub(start_ms),
            last_ms: times[last].saturating_sub(start_ms),
            count,
            start_ms: 0,
            end_ms: end_ms.saturating_sub(start_ms),
            began_ms: None,
        };
        // Where steps are multiples of the interval between samples, they lie in every range alike.
        if sampled != last_sampled {
            (last_sampled, spacing) = (sampled, sampled.spacing());
            usual = spacing.usual_factor(rate);
        }
        let factor = if spacing.is_usual(floats[first], change, rate) {
            usual
        } else {
            spacing.factor(floats[first], change, rate)
        };
        column.set_float(i, change * factor);
    }
    column
}
