//! Instant selectors, and the raw material of range vectors.

use super::column::{Column, Kind};
use super::context::{Evaluated, Exec, Sink};
use super::shared::Each;
use super::window::Alike;
use crate::ast::Span;
use crate::buffers;
use crate::limits::EvalError;
use crate::plan::{Extended, Grid, Node, Shift, Window, WindowInput};
use crate::source::{Samples, Series};
use gnomon_model::histogram::{FloatHistogram, ResetHint};
use gnomon_model::{Labels, is_stale_nan};
use std::ops::Range;
use std::sync::Arc;

/// The samples of one series without stale markers, floats and histograms apart, each by time.
#[derive(Debug)]
pub(crate) struct Points {
    pub(crate) labels: Labels,
    pub(crate) drop_name: bool,
    pub(crate) float_times: Vec<i64>,
    pub(crate) floats: Vec<f64>,
    pub(crate) histogram_times: Vec<i64>,
    pub(crate) histograms: Vec<Arc<FloatHistogram>>,
    /// When the counters behind the floats began, 0 where that is not known; empty where it is known of none.
    pub(crate) float_starts: Vec<i64>,
}

/// An instant selector with the steps it is looked at.
#[derive(Clone, Copy)]
pub(crate) struct Selector {
    pub(crate) request: usize,
    pub(crate) shift: Shift,
    pub(crate) extended: Extended,
    pub(crate) grid: Grid,
    pub(crate) span: Span,
}

/// What is taken of the newest sample.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Take {
    Value,
    /// Its time in seconds.
    Time,
    /// When the counter behind it began, in seconds; 0 where that is not known.
    StartTime,
    /// The time of a float, in milliseconds; a histogram stays one.
    TimeOfFloat,
}

impl Drop for Points {
    fn drop(&mut self) {
        buffers::give_back(std::mem::take(&mut self.float_times), std::mem::take(&mut self.floats));
    }
}

impl Points {
    const fn of_floats(labels: Labels, float_times: Vec<i64>, floats: Vec<f64>) -> Self {
        Self {
            labels,
            drop_name: false,
            float_times,
            floats,
            histogram_times: Vec::new(),
            histograms: Vec::new(),
            float_starts: Vec::new(),
        }
    }

    fn weight(&self) -> u64 {
        self.floats.len() as u64 + self.histograms.iter().map(|h| h.weight()).sum::<u64>()
    }

    fn of_series(series: Series) -> Self {
        let Samples {
            timestamps,
            values,
            histograms,
            start_times,
        } = series.samples;
        let labels = series.labels;
        if histograms.is_empty() && start_times.is_empty() {
            // Without a branch for each: there hardly ever is one.
            let any_stale = |part: &[f64]| part.iter().fold(false, |any, v| any | is_stale_nan(*v));
            let stale = values.chunks(256).any(any_stale);
            let (float_times, floats) = if stale {
                timestamps
                    .into_iter()
                    .zip(values)
                    .filter(|(_, v)| !is_stale_nan(*v))
                    .unzip()
            } else {
                (timestamps, values)
            };
            return Self::of_floats(labels, float_times, floats);
        }
        let mut points = Self::of_floats(labels, Vec::new(), Vec::new());
        let mut histograms = histograms.into_iter();
        for (at, (time, value)) in timestamps.into_iter().zip(values).enumerate() {
            match histograms.next().flatten() {
                Some(histogram) if histogram.is_stale() => {}
                Some(histogram) => {
                    points.histogram_times.push(time);
                    points.histograms.push(histogram);
                }
                None if is_stale_nan(value) => {}
                None => {
                    points.float_times.push(time);
                    points.floats.push(value);
                    points.float_starts.extend(start_times.get(at));
                }
            }
        }
        points
    }

    fn of_column(column: &Column, grid: Grid) -> Self {
        let mut points = Self::of_floats(column.labels.clone(), Vec::new(), Vec::new());
        points.drop_name = column.drop_name;
        for i in 0..column.len() {
            match column.get(i) {
                Some(super::column::Point::Float(value)) => {
                    points.float_times.push(grid.time(i));
                    points.floats.push(value);
                }
                Some(super::column::Point::Histogram(value)) => {
                    points.histogram_times.push(grid.time(i));
                    points.histograms.push(without_hint(value));
                }
                None => {}
            }
        }
        points
    }
}

impl Exec<'_> {
    pub(crate) fn each_series(&self, request: usize, each: &mut Each<'_>) -> Evaluated<()> {
        let mut read = |each: &mut Each<'_>| self.read_series(request, each);
        self.each_series_once(request, &mut read, each)
    }

    fn read_series(&self, request: usize, each: &mut Each<'_>) -> Evaluated<()> {
        let missing = || EvalError::execution("a selector of the plan is missing");
        let request = self.plan.selectors().get(request).ok_or_else(missing)?;
        let narrowed = self.narrowed(request);
        let mut series = self.source.select(narrowed.as_ref().unwrap_or(request))?;
        while let Some(mut series) = series.next_series()? {
            self.check()?;
            series.samples.make_even();
            if request.hints.histogram_stats {
                detect_resets(&mut series.samples.histograms);
            }
            self.count_series(series.samples.len() as u64);
            self.admit(&series)?;
            each(series)?;
        }
        Ok(())
    }

    /// An instant selector: at each step the newest sample that is younger than the lookback and not a stale marker.
    pub(crate) fn select(&self, selector: Selector, take: Take, sink: &mut Sink<'_>) -> Evaluated<()> {
        self.select_where(selector, take, &|_| true, sink)
    }

    /// As [`Self::select`], of the series with labels that are wanted.
    pub(crate) fn select_where(
        &self,
        selector: Selector,
        take: Take,
        wanted: &dyn Fn(&Labels) -> bool,
        sink: &mut Sink<'_>,
    ) -> Evaluated<()> {
        let lookback_ms = self.plan.params.lookback_ms.max(1);
        self.each_series(selector.request, &mut |series| {
            if !wanted(&series.labels) {
                return Ok(());
            }
            let mut held = self.hold(series.samples.len() as u64)?;
            held.add_bytes(series.samples.histogram_bytes())?;
            // A time is that of a sample, not of a point between two.
            let is_value = matches!(take, Take::Value);
            let column = if selector.extended == Extended::Smoothed && is_value {
                self.smoothed(Points::of_series(series), selector, lookback_ms)
            } else {
                newest(series, selector, lookback_ms, take)
            };
            drop(held);
            self.count_column(&column, selector.grid);
            if column.has_any() { sink(column) } else { Ok(()) }
        })
    }

    /// `smoothed`: between the samples on both sides of the step a line, else the one before it.
    fn smoothed(&self, points: Points, selector: Selector, lookback_ms: i64) -> Column {
        let mut column = Column::empty(points.labels.clone(), selector.grid.n);
        for i in 0..selector.grid.n {
            let at = selector.shift.apply(selector.grid.time(i));
            let (from, to) = (at.saturating_sub(lookback_ms), at.saturating_add(lookback_ms));
            let floats = around(&points.float_times, from, at, to);
            let histograms = around(&points.histogram_times, from, at, to);
            if floats.any() && histograms.any() {
                self.notes
                    .mixed_floats_histograms(selector.span, points.labels.metric_name());
            } else if floats.any() {
                if let Some(value) = line(&points.float_times, &points.floats, floats, at) {
                    column.set_float(i, value);
                }
            } else if histograms.any() {
                match line(&points.histogram_times, &points.histograms, histograms, at) {
                    Some(Some(value)) => column.set_histogram(i, value),
                    Some(None) => self
                        .notes
                        .mixed_exponential_custom(selector.span, points.labels.metric_name()),
                    None => {}
                }
            }
        }
        column
    }

    /// The series of a range vector with all their points.
    pub(crate) fn each_points(&self, window: &Window, each: &mut dyn FnMut(Points) -> Evaluated<()>) -> Evaluated<()> {
        let mut give = |points: Points| {
            let held = self.hold(points.weight())?;
            each(points)?;
            drop(held);
            Ok(())
        };
        match &window.input {
            WindowInput::Request(request) => self.each_series(*request, &mut |mut series| {
                if !self.plan.params.use_start_times {
                    series.samples.start_times = Vec::new();
                }
                give(Points::of_series(series))
            }),
            WindowInput::Subquery(node) => self.each_subquery(node, &mut give),
        }
    }

    fn each_subquery(&self, node: &Node, each: &mut dyn FnMut(Points) -> Evaluated<()>) -> Evaluated<()> {
        if node.grid.n == 0 {
            return Ok(());
        }
        let grid = node.grid;
        // The points of a column are made while it is there.
        let _in_hand = self.hold_bytes((grid.n as u64).saturating_mul(16))?;
        self.stream(node, &mut |column| each(Points::of_column(&column, grid)))
    }
}

/// A subquery skips samples: what is known about a sample and the one before it does not hold for it.
fn without_hint(histogram: &Arc<FloatHistogram>) -> Arc<FloatHistogram> {
    if matches!(histogram.reset_hint, ResetHint::Unknown | ResetHint::Gauge) {
        return Arc::clone(histogram);
    }
    Arc::new(FloatHistogram {
        reset_hint: ResetHint::Unknown,
        ..FloatHistogram::clone(histogram)
    })
}

/// Finds resets while the samples are all at hand, as Prometheus does where only counts and sums are read.
fn detect_resets(histograms: &mut [Option<Arc<FloatHistogram>>]) {
    let mut before: Option<Arc<FloatHistogram>> = None;
    for histogram in histograms.iter_mut().flatten().filter(|h| !h.is_stale()) {
        let original = Arc::clone(histogram);
        if histogram.reset_hint == ResetHint::Unknown
            && let Some(before) = before
        {
            let reset = histogram.is_reset_after(&before);
            let reset_hint = if reset { ResetHint::Reset } else { ResetHint::NotReset };
            *histogram = Arc::new(FloatHistogram {
                reset_hint,
                ..FloatHistogram::clone(histogram)
            });
        }
        before = Some(original);
    }
}

fn newest(series: Series, selector: Selector, lookback_ms: i64, take: Take) -> Column {
    let samples = series.samples;
    let (grid, shift) = (selector.grid, selector.shift);
    let mut column = Column::empty(series.labels, grid.n);
    let alike = match take {
        Take::Value if samples.histograms.is_empty() => Alike::of(shift, lookback_ms, grid, &samples.timestamps),
        _ => None,
    };
    let together = alike.map_or(grid.n..grid.n, |alike| {
        newest_alike(&alike, &samples.values, &mut column)
    });
    // How many samples lie at or before the step.
    let mut until = 0;
    for i in (0..together.start).chain(together.end..grid.n) {
        let at = shift.apply(grid.time(i));
        if i == together.end {
            until = samples.timestamps.partition_point(|t| *t <= at);
        }
        while samples.timestamps.get(until).is_some_and(|t| *t <= at) {
            until += 1;
        }
        let Some(last) = until.checked_sub(1) else {
            continue;
        };
        let time = samples.timestamps[last];
        if time <= at.saturating_sub(lookback_ms) {
            continue;
        }
        let seconds = time as f64 / 1000.0;
        if let Some(histogram) = samples.histogram(last) {
            match take {
                _ if histogram.is_stale() => {}
                Take::Value | Take::TimeOfFloat => column.set_histogram(i, Arc::clone(histogram)),
                Take::Time => column.set_float(i, seconds),
                Take::StartTime => column.set_float(i, 0.0),
            }
        } else if !is_stale_nan(samples.values[last]) {
            let taken = match take {
                Take::Value => samples.values[last],
                Take::Time => seconds,
                Take::TimeOfFloat => time as f64,
                Take::StartTime => samples.start_time(last) as f64 / 1000.0,
            };
            column.set_float(i, taken);
        }
    }
    buffers::give_back(samples.timestamps, samples.values);
    column
}

/// Takes the newest sample of steps whose lookbacks have as many samples as each other; which steps these are.
fn newest_alike(alike: &Alike, values: &[f64], column: &mut Column) -> Range<usize> {
    let Some(newest) = (alike.first + alike.count).checked_sub(1).filter(|_| alike.count > 0) else {
        return alike.steps.start..alike.steps.start;
    };
    let taken = values[newest..].iter().step_by(alike.stride);
    let floats = &mut column.floats[alike.steps.clone()];
    let kinds = &mut column.kinds[alike.steps.clone()];
    for ((float, kind), value) in floats.iter_mut().zip(kinds).zip(taken) {
        let is_there = !is_stale_nan(*value);
        (*float, *kind) = match is_there {
            true => (*value, Kind::Float),
            false => (0.0, Kind::Absent),
        };
    }
    alike.steps.clone()
}

/// The samples next to a moment.
#[derive(Clone, Copy)]
struct Neighbours {
    before: Option<usize>,
    /// At the moment or after it.
    after: Option<usize>,
}

impl Neighbours {
    const fn any(self) -> bool {
        self.before.is_some() || self.after.is_some()
    }
}

fn around(times: &[i64], from: i64, at: i64, to: i64) -> Neighbours {
    let next = times.partition_point(|t| *t < at);
    Neighbours {
        before: next.checked_sub(1).filter(|before| times[*before] > from),
        after: times.get(next).filter(|t| **t <= to).map(|_| next),
    }
}

/// What can be interpolated.
trait OnLine: Clone {
    type Between;
    fn whole(&self) -> Self::Between;
    fn between(&self, next: &Self, share: f64) -> Self::Between;
}

impl OnLine for f64 {
    type Between = Self;

    fn whole(&self) -> Self {
        *self
    }

    fn between(&self, next: &Self, share: f64) -> Self {
        self + (next - self) * share
    }
}

impl OnLine for Arc<FloatHistogram> {
    /// None where exponential and custom buckets meet.
    type Between = Option<Self>;

    fn whole(&self) -> Option<Self> {
        Some(Self::clone(self))
    }

    fn between(&self, next: &Self, share: f64) -> Option<Self> {
        let counter = self.reset_hint != ResetHint::Gauge;
        super::window::extended::between(self, next, share, counter).map(Arc::new)
    }
}

fn line<T: OnLine>(times: &[i64], values: &[T], near: Neighbours, at: i64) -> Option<T::Between> {
    match (near.before, near.after) {
        (_, Some(after)) if times[after] == at => Some(values[after].whole()),
        (Some(before), Some(after)) => {
            let share = at.saturating_sub(times[before]) as f64 / times[after].saturating_sub(times[before]) as f64;
            Some(values[before].between(&values[after], share))
        }
        (Some(before), None) => Some(values[before].whole()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_step_has_the_newest_sample_before_it(
            interval in 1i64..20,
            step in 1i64..60,
            begins in -50i64..50,
            samples in prop::collection::vec(prop_oneof![4 => 0.0..1e6, 1 => Just(gnomon_model::STALE_NAN)], 0..80),
            (start, steps, lookback, offset) in (-60i64..60, 0usize..60, 1i64..120, -30i64..30),
            is_multiple in any::<bool>(),
            late in 0i64..3,
        ) {
            let mut timestamps: Vec<i64> = (0..samples.len() as i64).map(|at| begins + at * interval).collect();
            if let Some(last) = timestamps.last_mut() {
                *last += late / 2;
            }
            let selector = Selector {
                request: 0,
                shift: Shift { at_ms: None, offset_ms: offset },
                extended: Extended::No,
                grid: Grid { start_ms: start, step_ms: if is_multiple { step * interval } else { step }, n: steps },
                span: Span::default(),
            };
            let expected: Vec<Option<u64>> = (0..steps)
                .map(|i| {
                    let at = selector.shift.apply(selector.grid.time(i));
                    let newest = timestamps.iter().zip(&samples).rev().find(|(t, _)| **t <= at)?;
                    (*newest.0 > at - lookback && !is_stale_nan(*newest.1)).then_some(newest.1.to_bits())
                })
                .collect();
            let series = Series {
                labels: Labels::default(),
                samples: Samples { timestamps: timestamps.clone(), values: samples.clone(), ..Samples::default() },
            };
            let column = newest(series, selector, lookback, Take::Value);
            let found: Vec<Option<u64>> = (0..steps).map(|i| column.float(i).map(f64::to_bits)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
