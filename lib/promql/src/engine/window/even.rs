//! Series whose samples come at even intervals, looked at in steps that are multiples of the interval: as scrapes come, and
//! as dashboards ask.

use crate::plan::{Grid, Shift};
use std::ops::Range;

/// Fewer are looked at one by one: all times would be looked at for them.
const FEW_STEPS: usize = 4;

/// Steps whose ranges have as many samples as each other, in the same places, none being cut short by the series' ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alike {
    pub(crate) steps: Range<usize>,
    /// Position of the first sample in the first step's range.
    pub(crate) first: usize,
    /// Samples in each range.
    pub(crate) count: usize,
    /// Samples from one step to the next.
    pub(crate) stride: usize,
}

impl Alike {
    pub(super) const fn none(grid: Grid) -> Self {
        Self {
            steps: grid.n..grid.n,
            first: 0,
            count: 0,
            stride: 1,
        }
    }

    /// Of ranges that end at the steps, moved by `shift`. None where the times are not even, or steps are no multiples of
    /// their interval.
    pub(crate) fn of(shift: Shift, range_ms: i64, grid: Grid, times: &[i64]) -> Option<Self> {
        if grid.n < FEW_STEPS {
            return None;
        }
        let interval = interval(times)?;
        let end_ms = |i| shift.apply(grid.time(i));
        let step = end_ms(1).checked_sub(end_ms(0)).filter(|step| *step > 0)?;
        let last = i64::try_from(grid.n.checked_sub(1)?).ok()?;
        // Where time itself ends steps are not even.
        let is_even = step.checked_mul(last).and_then(|all| end_ms(0).checked_add(all)) == Some(end_ms(grid.n - 1));
        if !is_even || step % interval != 0 {
            return None;
        }
        // Samples up to a time, as if there were some before the first and after the last.
        let until = |time: i64| Some(time.checked_sub(times[0])?.div_euclid(interval) + 1);
        let (first, end) = (until(end_ms(0).checked_sub(range_ms)?)?, until(end_ms(0))?);
        let stride = step / interval;
        let begin = first.checked_neg()?.max(0).div_euclid(stride) + i64::from(first < 0 && first % stride != 0);
        let behind = i64::try_from(times.len()).ok()?.checked_sub(end)?.div_euclid(stride) + 1;
        let steps = begin..behind.min(last + 1);
        if steps.is_empty() {
            return None;
        }
        Some(Self {
            first: usize::try_from(first + stride * begin).ok()?,
            count: usize::try_from(end - first).ok()?,
            stride: usize::try_from(stride).ok()?,
            steps: usize::try_from(steps.start).ok()?..usize::try_from(steps.end).ok()?,
        })
    }
}

/// The time from each sample to the next, where that is always the same.
fn interval(times: &[i64]) -> Option<i64> {
    let [first, second, ..] = times else { return None };
    let interval = second.checked_sub(*first).filter(|interval| *interval > 0)?;
    let (before, after) = (&times[..times.len() - 1], &times[1..]);
    let is_even = |before: &[i64], after: &[i64]| {
        let pairs = before.iter().zip(after);
        pairs.fold(true, |even, (a, b)| even & (b.wrapping_sub(*a) == interval))
    };
    // What is not even shows soon, mostly.
    let stretches = before.chunks(STRETCH).zip(after.chunks(STRETCH));
    stretches
        .into_iter()
        .all(|(before, after)| is_even(before, after))
        .then_some(interval)
}

/// Samples that are looked at together.
const STRETCH: usize = 64;
