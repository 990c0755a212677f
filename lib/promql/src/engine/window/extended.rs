//! `anchored` and `smoothed`: the change between values at the very ends of the range, without extrapolation.

use super::rate::note_incompatible;
use super::{Out, View};
use crate::plan::Extended;
use gnomon_model::histogram::{Accumulator, FloatHistogram, ResetHint};
use std::sync::Arc;

/// Positions of the samples that decide.
struct Ends {
    first: usize,
    last: usize,
    /// The left value lies between `first` and the sample after it.
    left_between: bool,
    /// The right value lies between `last` and the sample before it.
    right_between: bool,
    /// The samples strictly within, whose resets count.
    within: std::ops::Range<usize>,
}

fn ends(view: &View<'_>, times: &[i64]) -> Option<Ends> {
    let (start, end) = (view.start_ms, view.end_ms);
    let newest = times.len().checked_sub(1)?;
    let smoothed = view.extended == Extended::Smoothed;
    let first = times[..newest].partition_point(|t| *t <= start).saturating_sub(1);
    let last = if smoothed {
        times[..newest].partition_point(|t| *t < end)
    } else {
        newest
    };
    // Nothing to see where all samples lie on one side of the range.
    if times[last] <= start || (smoothed && times[first] > end) {
        return None;
    }
    let from = first + usize::from(times[first] <= start);
    let to = last + usize::from(times[last] < end);
    Some(Ends {
        first,
        last,
        left_between: smoothed && times[first] < start && first < newest,
        right_between: smoothed && last > 0 && times[last] > end,
        within: from..to.max(from),
    })
}

fn share(times: &[i64], left: usize, at_ms: i64) -> f64 {
    at_ms.saturating_sub(times[left]) as f64 / times[left + 1].saturating_sub(times[left]) as f64
}

pub(super) fn change(view: &View<'_>, counter: bool, per_second: bool) -> Option<Out> {
    if !view.histograms.is_empty() && !view.floats.is_empty() {
        view.notes.mixed_floats_histograms(view.span, view.name);
        return None;
    }
    let seconds = if per_second { view.range_ms as f64 / 1000.0 } else { 1.0 };
    if view.histograms.is_empty() {
        return Some(Out::Float(float_change(view, counter)? / seconds));
    }
    let mut change = histogram_change(view, counter)?;
    change.scale(|v| v / seconds);
    Out::histogram(change)
}

fn float_change(view: &View<'_>, counter: bool) -> Option<f64> {
    let ends = ends(view, view.float_times)?;
    let between = |left: usize, at_ms: i64| {
        let (mut before, after) = (view.floats[left], view.floats[left + 1]);
        // A counter that fell is taken to have started at 0.
        if counter && after < before {
            before = 0.0;
        }
        before + (after - before) * share(view.float_times, left, at_ms)
    };
    let left = if ends.left_between {
        between(ends.first, view.start_ms)
    } else {
        view.floats[ends.first]
    };
    let right = if ends.right_between {
        between(ends.last - 1, view.end_ms)
    } else {
        view.floats[ends.last]
    };
    let mut change = right - left;
    if counter {
        let mut before = left;
        for value in view.floats.get(ends.within).unwrap_or(&[]).iter().chain([&right]) {
            if *value < before {
                change += before;
            }
            before = *value;
        }
    }
    Some(change)
}

/// A share of the way from one histogram to the next; a counter that was reset in between is taken to have started
/// empty. None where exponential and custom buckets meet.
pub(crate) fn between(
    before: &FloatHistogram,
    after: &FloatHistogram,
    share: f64,
    counter: bool,
) -> Option<FloatHistogram> {
    if before.uses_custom_buckets() != after.uses_custom_buckets() {
        return None;
    }
    if counter && after.is_reset_after(before) {
        let mut value = after.clone();
        value.scale(|v| v * share);
        return Some(value);
    }
    let mut value = Accumulator::new(before);
    value.add_scaled(before, -share).ok()?;
    value.add_scaled(after, share).ok()?;
    Some(value.finish())
}

fn unhinted(histogram: &FloatHistogram) -> FloatHistogram {
    FloatHistogram {
        reset_hint: ResetHint::Unknown,
        ..histogram.clone()
    }
}

/// The samples that a reset came after.
fn resets<'h>(
    points: &'h [Arc<FloatHistogram>],
    ends: &Ends,
    left: &'h FloatHistogram,
    right: &FloatHistogram,
    goes_on: impl Fn(usize) -> bool,
) -> Vec<&'h FloatHistogram> {
    let mut before = left;
    let mut found = Vec::new();
    let within = points.get(ends.within.clone()).unwrap_or(&[]);
    for (i, point) in within.iter().enumerate().take_while(|(i, _)| goes_on(*i)) {
        // What the left value was interpolated towards does not start anew against it.
        let reset = if i == 0 && ends.left_between {
            unhinted(point).is_reset_after(before)
        } else {
            point.is_reset_after(before)
        };
        if reset {
            found.push(before);
        }
        before = point;
    }
    // The right value may be the last sample within, or interpolated from where the left one was.
    let copied = !ends.right_between && ends.within.end > ends.last;
    let reset = if within.is_empty() {
        unhinted(right).is_reset_after(before)
    } else {
        !copied && right.is_reset_after(before)
    };
    if reset {
        found.push(before);
    }
    found
}

fn histogram_change(view: &View<'_>, counter: bool) -> Option<FloatHistogram> {
    let points = view.histograms;
    let ends = ends(view, view.histogram_times)?;
    let used = &points[ends.first..=ends.last];
    let boundaries = [&points[ends.first], &points[ends.last]];
    if counter && used.iter().any(|h| h.reset_hint == ResetHint::Gauge) {
        view.notes.not_counter(view.span, view.name);
    }
    if !counter && boundaries.iter().any(|h| h.reset_hint != ResetHint::Gauge) {
        view.notes.not_gauge(view.span, view.name);
    }
    if used
        .iter()
        .any(|h| h.uses_custom_buckets() != points[ends.first].uses_custom_buckets())
    {
        note_incompatible(view);
        return None;
    }
    let at = |left: usize, at_ms: i64| {
        between(
            &points[left],
            &points[left + 1],
            share(view.histogram_times, left, at_ms),
            counter,
        )
    };
    let left = if ends.left_between {
        at(ends.first, view.start_ms)?
    } else {
        FloatHistogram::clone(boundaries[0])
    };
    let right = if ends.right_between {
        at(ends.last - 1, view.end_ms)?
    } else {
        FloatHistogram::clone(boundaries[1])
    };
    let mut change = Accumulator::new(&right);
    let mut combine = |histogram: &FloatHistogram, factor: f64| change.add_scaled(histogram, factor).is_ok();
    let mut fits = combine(&left, -1.0);
    if counter {
        let found = resets(points, &ends, &left, &right, |done| view.goes_on(done));
        for (_, before) in found.into_iter().enumerate().take_while(|(i, _)| view.goes_on(*i)) {
            fits &= combine(before, 1.0);
        }
    }
    if !fits {
        note_incompatible(view);
        return None;
    }
    let mut change = change.finish().compacted();
    change.reset_hint = ResetHint::Gauge;
    Some(change)
}
