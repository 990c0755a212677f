//! The rate family, resets and changes.

use super::moving::began_anew;
use super::{Out, View, extended};
use crate::engine::context::Evaluated;
use crate::engine::notes::Operation;
use crate::plan::Extended;
use gnomon_model::histogram::{Accumulator, FloatHistogram, ResetHint};
use std::sync::Arc;

type Result = Evaluated<Option<Out>>;

pub(crate) fn rate(view: &View<'_>) -> Result {
    view.whole(extrapolated(view, true, true))
}

pub(crate) fn increase(view: &View<'_>) -> Result {
    view.whole(extrapolated(view, true, false))
}

pub(crate) fn delta(view: &View<'_>) -> Result {
    view.whole(extrapolated(view, false, false))
}

pub(super) fn note_incompatible(view: &View<'_>) {
    view.notes.mixed_exponential_custom(view.span, view.name);
}

/// The change over the range, extrapolated to its ends where samples come close to them.
fn extrapolated(view: &View<'_>, counter: bool, per_second: bool) -> Option<Out> {
    if view.extended != Extended::No {
        return extended::change(view, counter, per_second);
    }
    if !view.floats.is_empty() && !view.histograms.is_empty() {
        view.notes.mixed_floats_histograms(view.span, view.name);
        return None;
    }
    let began_ms = if counter { began_within(view) } else { None };
    let (times, first_value, mut change, histogram) = if view.histograms.len() > 1 {
        let histogram = histogram_change(view, counter)?;
        (
            view.histogram_times,
            view.histograms[0].count,
            histogram.count,
            Some(histogram),
        )
    } else if view.floats.len() > 1 || began_ms.is_some() {
        (view.float_times, view.floats[0], float_change(view, counter), None)
    } else {
        return None;
    };
    if began_ms.is_some() {
        // It was zero then, and nothing before.
        change += first_value;
    }
    let range = Sampled {
        first_ms: times[0],
        last_ms: times[times.len() - 1],
        count: times.len(),
        start_ms: view.start_ms,
        end_ms: view.end_ms,
        began_ms,
    };
    let seconds = per_second.then_some(view.range_ms as f64 / 1000.0);
    let factor = range.spacing().factor(first_value, change, Rate { counter, seconds });
    match histogram {
        Some(mut histogram) => {
            histogram.scale(|v| v * factor);
            Out::histogram(histogram)
        }
        None => Some(Out::Float(change * factor)),
    }
}

/// When the counter behind the first sample began, where that is within the range.
fn began_within(view: &View<'_>) -> Option<i64> {
    let (first, began_ms) = (view.float_times.first()?, view.float_starts.first()?);
    let within = *began_ms != 0 && *began_ms > view.start_ms && began_ms < first;
    within.then_some(*began_ms)
}

/// What is made of a change.
#[derive(Clone, Copy)]
pub(super) struct Rate {
    pub(super) counter: bool,
    /// The width of the range, where the change per second is wanted.
    pub(super) seconds: Option<f64>,
}

/// Where the samples of a range lie in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sampled {
    pub(super) first_ms: i64,
    pub(super) last_ms: i64,
    pub(super) count: usize,
    /// Of the range.
    pub(super) start_ms: i64,
    pub(super) end_ms: i64,
    /// When the counter began, where that is within the range; there are two samples at least otherwise.
    pub(super) began_ms: Option<i64>,
}

/// What extrapolation goes by, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spacing {
    sampled: f64,
    to_start: f64,
    to_end: f64,
}

impl Sampled {
    pub(super) fn spacing(&self) -> Spacing {
        let mut sampled = self.last_ms.saturating_sub(self.first_ms) as f64 / 1000.0;
        let between = sampled / (self.count - 1).max(1) as f64;
        // An end is taken to be covered if it is no further away than samples are from each other.
        let threshold = between * 1.1;
        let mut to_start = self.first_ms.saturating_sub(self.start_ms) as f64 / 1000.0;
        if to_start >= threshold {
            to_start = between / 2.0;
        }
        if let Some(began_ms) = self.began_ms {
            sampled = self.last_ms.saturating_sub(began_ms) as f64 / 1000.0;
            to_start = 0.0;
        }
        let mut to_end = self.end_ms.saturating_sub(self.last_ms) as f64 / 1000.0;
        if to_end >= threshold {
            to_end = between / 2.0;
        }
        Spacing {
            sampled,
            to_start,
            to_end,
        }
    }
}

impl Spacing {
    /// What a change from `first_value` on is to be multiplied by.
    pub(super) fn factor(&self, first_value: f64, change: f64, rate: Rate) -> f64 {
        if self.is_usual(first_value, change, rate) {
            return self.usual_factor(rate);
        }
        self.factor_from(self.to_start.min(self.sampled * (first_value / change)), rate)
    }

    /// Whether it does not matter that a counter cannot have been below zero: there is no change up from zero or more, or
    /// it would have been zero longer ago than the range is extended by (the quotient is at least 1 then).
    #[inline]
    pub(super) fn is_usual(&self, first_value: f64, change: f64, rate: Rate) -> bool {
        let counts_up = rate.counter && change > 0.0 && first_value >= 0.0;
        !counts_up || (first_value >= change && self.to_start <= self.sampled)
    }

    /// What is [`Self::factor`] wherever [`Self::is_usual`].
    pub(super) fn usual_factor(&self, rate: Rate) -> f64 {
        self.factor_from(self.to_start, rate)
    }

    fn factor_from(&self, to_start: f64, rate: Rate) -> f64 {
        let factor = (self.sampled + to_start + self.to_end) / self.sampled;
        rate.seconds.map_or(factor, |seconds| factor / seconds)
    }
}

fn float_change(view: &View<'_>, counter: bool) -> f64 {
    let change = view.floats[view.floats.len() - 1] - view.floats[0];
    if counter {
        view.fallen_from.iter().fold(change, |change, before| change + before)
    } else {
        change
    }
}

/// The change of a histogram; none, with a note, where the samples do not go together.
fn histogram_change(view: &View<'_>, counter: bool) -> Option<FloatHistogram> {
    let points = view.histograms;
    let (first, last) = (&points[0], &points[points.len() - 1]);
    if counter {
        if points.iter().any(|h| h.reset_hint == ResetHint::Gauge) {
            view.notes.not_counter(view.span, view.name);
        }
    } else if first.reset_hint != ResetHint::Gauge || last.reset_hint != ResetHint::Gauge {
        view.notes.not_gauge(view.span, view.name);
    }
    // Nothing of a first sample before a reset counts, not even its layout.
    let mut start = Arc::clone(first);
    if counter && points[1].is_reset_after(first) {
        start = Arc::new(FloatHistogram {
            schema: points[1].schema,
            custom_values: points[1].custom_values.clone(),
            ..FloatHistogram::default()
        });
    }
    let relevant = if counter {
        &points[1..]
    } else {
        &points[points.len() - 1..]
    };
    if relevant
        .iter()
        .any(|h| h.uses_custom_buckets() != start.uses_custom_buckets())
    {
        note_incompatible(view);
        return None;
    }
    let schema = relevant
        .iter()
        .map(|h| h.schema)
        .min()
        .unwrap_or(last.schema)
        .min(start.schema);
    let mut change = Accumulator::new(&last.at_schema(schema));
    let Ok(said) = change.add_scaled(&start, -1.0) else {
        note_incompatible(view);
        return None;
    };
    if said.bounds_reconciled {
        view.notes.bounds_reconciled(view.span, Operation::Subtraction);
    }
    if counter {
        let mut before = start;
        for (i, now) in points[1..].iter().enumerate() {
            if !view.goes_on(i) {
                return None;
            }
            if now.is_reset_after(&before) {
                match change.add_scaled(&before, 1.0) {
                    Ok(said) if said.bounds_reconciled => {
                        view.notes.bounds_reconciled(view.span, Operation::Addition);
                    }
                    Ok(_) => {}
                    Err(_) => {
                        note_incompatible(view);
                        return None;
                    }
                }
            }
            before = Arc::clone(now);
        }
    }
    let mut change = change.finish().compacted();
    change.reset_hint = ResetHint::Gauge;
    Some(change)
}

/// A sample of either kind.
#[derive(Clone, Copy)]
enum Sample<'a> {
    Float(Float),
    Histogram(&'a Arc<FloatHistogram>),
}

#[derive(Clone, Copy)]
struct Float {
    value: f64,
    time_ms: i64,
    /// When the counter behind it began; 0 where that is not known.
    start_ms: i64,
}

impl Float {
    /// Whether a counter was reset between a sample and this one.
    fn is_reset_after(self, before: Self) -> bool {
        let times = [before.time_ms, self.time_ms];
        self.value < before.value || began_anew(times, [before.start_ms, self.start_ms])
    }
}

/// All samples by time.
fn in_order<'a>(view: &View<'a>) -> impl Iterator<Item = (i64, Sample<'a>)> {
    let starts = view.float_starts.iter().chain(std::iter::repeat(&0));
    let floats = view.float_times.iter().zip(view.floats).zip(starts);
    let mut floats = floats
        .map(|((time_ms, value), start_ms)| Float {
            value: *value,
            time_ms: *time_ms,
            start_ms: *start_ms,
        })
        .peekable();
    let mut histograms = view.histogram_times.iter().zip(view.histograms).peekable();
    std::iter::from_fn(move || {
        let float_first = match (floats.peek(), histograms.peek()) {
            (Some(float), Some((time, _))) => float.time_ms < **time,
            (float, _) => float.is_some(),
        };
        if float_first {
            floats.next().map(|float| (float.time_ms, Sample::Float(float)))
        } else {
            histograms.next().map(|(t, h)| (*t, Sample::Histogram(h)))
        }
    })
}

pub(crate) fn irate(view: &View<'_>) -> Result {
    Ok(last_two(view, true))
}

pub(crate) fn idelta(view: &View<'_>) -> Result {
    Ok(last_two(view, false))
}

fn last_two(view: &View<'_>, counter: bool) -> Option<Out> {
    let total = view.floats.len() + view.histograms.len();
    let tail = View {
        floats: &view.floats[view.floats.len().saturating_sub(2)..],
        float_times: &view.float_times[view.float_times.len().saturating_sub(2)..],
        float_starts: &view.float_starts[view.float_starts.len().saturating_sub(2)..],
        histograms: &view.histograms[view.histograms.len().saturating_sub(2)..],
        histogram_times: &view.histogram_times[view.histogram_times.len().saturating_sub(2)..],
        ..*view
    };
    let newest: Vec<(i64, Sample<'_>)> = in_order(&tail).collect();
    let [.., (t0, before), (t1, now)] = newest.as_slice() else {
        return None;
    };
    if total < 2 || t0 == t1 {
        return None;
    }
    let seconds = t1.saturating_sub(*t0) as f64 / 1000.0;
    match (before, now) {
        (Sample::Float(before), Sample::Float(now)) => {
            let anew = counter && now.is_reset_after(*before);
            let change = if anew { now.value } else { now.value - before.value };
            Some(Out::Float(if counter { change / seconds } else { change }))
        }
        (Sample::Histogram(before), Sample::Histogram(now)) => {
            let gauges = [before, now].map(|h| h.reset_hint == ResetHint::Gauge);
            if counter && gauges.contains(&true) {
                view.notes.not_counter(view.span, view.name);
            }
            if !counter && gauges.contains(&false) {
                view.notes.not_gauge(view.span, view.name);
            }
            let mut change = FloatHistogram::clone(now);
            if !counter || !now.is_reset_after(before) {
                let Ok((difference, said)) = now.minus(before) else {
                    note_incompatible(view);
                    return None;
                };
                if said.bounds_reconciled {
                    view.notes.bounds_reconciled(view.span, Operation::Subtraction);
                }
                change = difference;
            }
            change.reset_hint = ResetHint::Gauge;
            if counter {
                change.scale(|v| v / seconds);
            }
            Out::histogram(change.compacted())
        }
        _ => {
            view.notes.mixed_floats_histograms(view.span, view.name);
            None
        }
    }
}

/// The samples to compare: with `anchored` from the last one at or before the range on.
fn compared<'a>(view: &View<'a>) -> Option<Vec<Sample<'a>>> {
    let all: Vec<(i64, Sample<'a>)> = in_order(view).collect();
    let mut from = 0;
    if view.extended == Extended::Anchored {
        let within = all.partition_point(|(time, _)| *time <= view.start_ms);
        if within == all.len() {
            return None;
        }
        from = within.saturating_sub(1);
    }
    Some(all[from..].iter().map(|(_, sample)| *sample).collect())
}

fn count_pairs(view: &View<'_>, differ: impl Fn(Sample<'_>, Sample<'_>) -> bool) -> Result {
    let Some(samples) = compared(view) else {
        return Ok(None);
    };
    let pairs = samples.windows(2).enumerate();
    let pairs = pairs.take_while(|(i, _)| view.goes_on(*i));
    let count = pairs.filter(|(_, pair)| differ(pair[0], pair[1])).count();
    view.whole(Some(Out::Float(count as f64)))
}

pub(crate) fn resets(view: &View<'_>) -> Result {
    count_pairs(view, |before, now| match (before, now) {
        (Sample::Float(before), Sample::Float(now)) => now.is_reset_after(before),
        (Sample::Histogram(before), Sample::Histogram(now)) => now.is_reset_after(before),
        _ => true,
    })
}

pub(crate) fn changes(view: &View<'_>) -> Result {
    count_pairs(view, |before, now| match (before, now) {
        (Sample::Float(before), Sample::Float(now)) => {
            now.value != before.value && !(now.value.is_nan() && before.value.is_nan())
        }
        (Sample::Histogram(before), Sample::Histogram(now)) => !now.same_as(before),
        _ => true,
    })
}
