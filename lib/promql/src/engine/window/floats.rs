//! The functions that dashboards use most, over series of floats alone: the same results as the general way, with less
//! work a step.

use super::each_value;
use super::even::Alike;
use super::moving::{Ends, Falls};
use super::rate::{Rate, Sampled, Spacing};
use crate::engine::arithmetic::{Kahan, Mean, Sliding};
use crate::engine::column::{Column, Kind};
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

    /// What making the column takes beside it, where that is worth counting.
    pub(super) fn scratch_bytes(self, points: &Points) -> u64 {
        let floats = &points.floats;
        match self {
            Self::Sum | Self::Avg if floats.len() > STRIDE && Sliding::is_exact_for(floats) => {
                (floats.len() as u64).saturating_mul(size_of::<Sliding>() as u64)
            }
            _ => 0,
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
/// exact: the sum of a range is that of all before its end without that of all before its begin.
fn sums(
    window: &Window,
    points: &Points,
    grid: Grid,
    of: impl Fn(f64, f64) -> f64,
    check: &dyn Fn() -> Evaluated<()>,
) -> Evaluated<Column> {
    let mut column = Column::empty(points.labels.clone(), grid.n);
    let mut before = Vec::with_capacity(points.floats.len() + 1);
    let mut sum = Sliding::default();
    before.push(sum);
    each_value(&points.floats, check, |value| {
        sum.add(value);
        before.push(sum);
    })?;
    let mut ends = Ends::default();
    for i in 0..grid.n {
        if i.is_multiple_of(STRIDE) {
            check()?;
        }
        let end_ms = window.shift.apply(grid.time(i));
        let start_ms = end_ms.saturating_sub(window.range_ms);
        let range = ends.advance(&points.float_times, start_ms, end_ms);
        if !range.is_empty() {
            let sum = before[range.end].without(before[range.start]);
            column.set_float(i, of(sum.value(), range.len() as f64));
        }
    }
    Ok(column)
}

fn changes(window: &Window, points: &Points, grid: Grid, counter: bool, per_second: bool) -> Column {
    let (times, floats) = (&points.float_times, &points.floats);
    let falls = if counter {
        Falls::of(floats, times, &[])
    } else {
        Falls::default()
    };
    let alike = match falls.is_empty() {
        true => Alike::of(window.shift, window.range_ms, grid, times),
        false => None,
    };
    let rate = Rate {
        counter,
        seconds: per_second.then_some(window.range_ms as f64 / 1000.0),
    };
    Changes::new(window, points, falls, rate).column(grid, alike)
}

/// What a counter or a gauge changed by, as the range of a step moves over its samples.
struct Changes<'p> {
    window: &'p Window,
    points: &'p Points,
    falls: Falls,
    rate: Rate,
    ends: Ends,
    /// How the samples of the last step lie, and what follows from it.
    sampled: Sampled,
    spacing: Spacing,
    usual: f64,
}

impl<'p> Changes<'p> {
    fn new(window: &'p Window, points: &'p Points, falls: Falls, rate: Rate) -> Self {
        let sampled = Sampled {
            first_ms: 0,
            last_ms: 1,
            count: 2,
            start_ms: 0,
            end_ms: 1,
            began_ms: None,
        };
        let spacing = sampled.spacing();
        Self {
            window,
            points,
            falls,
            rate,
            ends: Ends::default(),
            sampled,
            spacing,
            usual: spacing.usual_factor(rate),
        }
    }

    fn column(mut self, grid: Grid, alike: Option<Alike>) -> Column {
        let mut column = Column::empty(self.points.labels.clone(), grid.n);
        let alike = alike.unwrap_or(Alike::none(grid));
        self.each(0..alike.steps.start, grid, &mut column);
        self.all(&alike, grid, &mut column);
        self.each(alike.steps.end..grid.n, grid, &mut column);
        column
    }

    fn each(&mut self, steps: Range<usize>, grid: Grid, column: &mut Column) {
        let (times, floats) = (&self.points.float_times, &self.points.floats);
        for i in steps {
            let end_ms = self.window.shift.apply(grid.time(i));
            let start_ms = end_ms.saturating_sub(self.window.range_ms);
            let range = self.ends.advance(times, start_ms, end_ms);
            if range.len() < 2 {
                continue;
            }
            let (first, last) = (floats[range.start], floats[range.end - 1]);
            let mut change = last - first;
            for before in self.falls.within(&range) {
                change += before;
            }
            self.look_at(&times[range], start_ms, end_ms);
            column.set_float(i, change * self.factor(first, change));
        }
    }

    /// Steps with the same samples in the same places: nothing between them fell.
    fn all(&mut self, alike: &Alike, grid: Grid, column: &mut Column) {
        let Alike {
            steps,
            first,
            count,
            stride,
        } = alike;
        if steps.is_empty() || *count < 2 {
            return;
        }
        let floats = &self.points.floats;
        let end_ms = self.window.shift.apply(grid.time(steps.start));
        let start_ms = end_ms.saturating_sub(self.window.range_ms);
        self.look_at(&self.points.float_times[*first..first + count], start_ms, end_ms);
        column.kinds[steps.clone()].fill(Kind::Float);
        let changed = &mut column.floats[steps.clone()];
        let (firsts, lasts) = (&floats[*first..], &floats[first + count - 1..]);
        let is_usual = match stride {
            // Several at a time.
            1 => self.usually(changed, firsts.iter(), lasts.iter()),
            _ => self.usually(changed, firsts.iter().step_by(*stride), lasts.iter().step_by(*stride)),
        };
        if is_usual {
            return;
        }
        for (i, changed) in changed.iter_mut().enumerate() {
            let (first, last) = (firsts[i * stride], lasts[i * stride]);
            *changed = (last - first) * self.factor(first, last - first);
        }
    }

    /// Whether all of them are as usual; only then they are right.
    fn usually<'f>(
        &self,
        changed: &mut [f64],
        firsts: impl Iterator<Item = &'f f64>,
        lasts: impl Iterator<Item = &'f f64>,
    ) -> bool {
        let (spacing, rate, usual) = (self.spacing, self.rate, self.usual);
        let mut is_usual = true;
        for ((changed, first), last) in changed.iter_mut().zip(firsts).zip(lasts) {
            let change = last - first;
            is_usual &= spacing.is_usual(*first, change, rate);
            *changed = change * usual;
        }
        is_usual
    }

    /// Where steps are multiples of the interval between samples, they lie in every range alike.
    fn look_at(&mut self, times: &[i64], start_ms: i64, end_ms: i64) {
        let sampled = Sampled {
            first_ms: times[0].saturating_sub(start_ms),
            last_ms: times[times.len() - 1].saturating_sub(start_ms),
            count: times.len(),
            start_ms: 0,
            end_ms: end_ms.saturating_sub(start_ms),
            began_ms: None,
        };
        if sampled != self.sampled {
            (self.sampled, self.spacing) = (sampled, sampled.spacing());
            self.usual = self.spacing.usual_factor(self.rate);
        }
    }

    fn factor(&self, first: f64, change: f64) -> f64 {
        if self.spacing.is_usual(first, change, self.rate) {
            self.usual
        } else {
            self.spacing.factor(first, change, self.rate)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Shift, WindowInput};
    use gnomon_model::Labels;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn steps_that_are_looked_at_together_give_what_each_gives(
            interval in 1i64..20,
            times_interval in 1i64..5,
            begins in -50i64..50,
            samples in prop::collection::vec(prop_oneof![0.0..1e6, Just(0.0), -5.0..5.0, Just(f64::NAN), Just(f64::INFINITY)], 0..80),
            counts in any::<bool>(),
            (start, steps, range, offset) in (-60i64..60, 1usize..60, 1i64..120, -30i64..30),
            (counter, per_second) in any::<(bool, bool)>(),
        ) {
            let mut total = 0.0f64;
            let floats: Vec<f64> = match counts {
                true => samples.iter().map(|value: &f64| { total += value.abs(); total }).collect(),
                false => samples,
            };
            let points = Points {
                labels: Labels::default(),
                drop_name: false,
                float_times: (0..floats.len() as i64).map(|at| begins + at * interval).collect(),
                floats,
                histogram_times: Vec::new(),
                histograms: Vec::new(),
                float_starts: Vec::new(),
            };
            let window = Window {
                input: WindowInput::Request(0),
                range_ms: range,
                shift: Shift { at_ms: None, offset_ms: offset },
                extended: Extended::No,
            };
            let grid = Grid { start_ms: start, step_ms: interval * times_interval, n: steps };
            let rate = Rate { counter, seconds: per_second.then_some(range as f64 / 1000.0) };
            let falls = || if counter { Falls::of(&points.floats, &points.float_times, &[]) } else { Falls::default() };
            let alike = Alike::of(window.shift, window.range_ms, grid, &points.float_times);
            let together = Changes::new(&window, &points, falls(), rate).column(grid, alike.filter(|_| falls().is_empty()));
            let each = Changes::new(&window, &points, falls(), rate).column(grid, None);
            let bits = |column: &Column| (0..steps).map(|i| column.float(i).map(f64::to_bits)).collect::<Vec<_>>();
            prop_assert_eq!(bits(&together), bits(&each));
        }
    }
}
