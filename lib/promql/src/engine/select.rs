//! Instant selectors, and the raw material of range vectors.

use super::column::Column;
use super::context::{Evaluated, Exec, Sink};
use crate::limits::EvalError;
use crate::plan::{Extended, Grid, Node, Shift, Window, WindowInput};
use crate::source::{Samples, Series};
use gnomon_model::histogram::FloatHistogram;
use gnomon_model::{Labels, is_stale_nan};
use std::sync::Arc;

/// The samples of one series without stale markers, floats and histograms apart, each by time.
#[derive(Debug, Default)]
pub(crate) struct Points {
    pub(crate) labels: Labels,
    pub(crate) drop_name: bool,
    pub(crate) float_times: Vec<i64>,
    pub(crate) floats: Vec<f64>,
    pub(crate) histogram_times: Vec<i64>,
    pub(crate) histograms: Vec<Arc<FloatHistogram>>,
}

impl Points {
    fn weight(&self) -> u64 {
        self.floats.len() as u64 + self.histograms.iter().map(|h| h.weight()).sum::<u64>()
    }

    fn of_series(series: Series) -> Self {
        let Samples {
            timestamps,
            values,
            histograms,
        } = series.samples;
        let labels = series.labels;
        if histograms.is_empty() {
            let stale = values.iter().any(|v| is_stale_nan(*v));
            let (float_times, floats) = if stale {
                timestamps
                    .into_iter()
                    .zip(values)
                    .filter(|(_, v)| !is_stale_nan(*v))
                    .unzip()
            } else {
                (timestamps, values)
            };
            return Self {
                labels,
                float_times,
                floats,
                ..Self::default()
            };
        }
        let mut points = Self {
            labels,
            ..Self::default()
        };
        for ((time, value), histogram) in timestamps.into_iter().zip(values).zip(histograms) {
            match histogram {
                Some(histogram) if histogram.is_stale() => {}
                Some(histogram) => {
                    points.histogram_times.push(time);
                    points.histograms.push(histogram);
                }
                None if is_stale_nan(value) => {}
                None => {
                    points.float_times.push(time);
                    points.floats.push(value);
                }
            }
        }
        points
    }

    fn of_column(column: &Column, grid: Grid) -> Self {
        let mut points = Self {
            labels: column.labels.clone(),
            drop_name: column.drop_name,
            ..Self::default()
        };
        for i in 0..column.len() {
            match column.get(i) {
                Some(super::column::Point::Float(value)) => {
                    points.float_times.push(grid.time(i));
                    points.floats.push(value);
                }
                Some(super::column::Point::Histogram(value)) => {
                    points.histogram_times.push(grid.time(i));
                    points.histograms.push(Arc::clone(value));
                }
                None => {}
            }
        }
        points
    }
}

impl Exec<'_> {
    pub(crate) fn each_series(&self, request: usize, each: &mut dyn FnMut(Series) -> Evaluated<()>) -> Evaluated<()> {
        let missing = || EvalError::execution("a selector of the plan is missing");
        let request = self.plan.selectors().get(request).ok_or_else(missing)?;
        let mut series = self.source.select(request)?;
        while let Some(series) = series.next_series()? {
            self.check()?;
            self.count_series(series.samples.len() as u64);
            each(series)?;
        }
        Ok(())
    }

    /// An instant selector: at each step the newest sample that is younger than the lookback and not a stale marker;
    /// or, if `times`, that sample's time in seconds.
    pub(crate) fn select(
        &self,
        request: usize,
        shift: Shift,
        extended: Extended,
        grid: Grid,
        times: bool,
        sink: &mut Sink<'_>,
    ) -> Evaluated<()> {
        let lookback_ms = self.plan.params.lookback_ms.max(1);
        self.each_series(request, &mut |series| {
            let held = self.hold(series.samples.len() as u64)?;
            let column = if extended == Extended::Smoothed {
                smoothed(series, shift, grid, lookback_ms)
            } else {
                newest(series, shift, grid, lookback_ms, times)
            };
            drop(held);
            if column.has_any() { sink(column) } else { Ok(()) }
        })
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
            WindowInput::Request(request) => self.each_series(*request, &mut |series| give(Points::of_series(series))),
            WindowInput::Subquery(node) => self.each_subquery(node, &mut give),
        }
    }

    fn each_subquery(&self, node: &Node, each: &mut dyn FnMut(Points) -> Evaluated<()>) -> Evaluated<()> {
        if node.grid.n == 0 {
            return Ok(());
        }
        let grid = node.grid;
        self.stream(node, &mut |column| each(Points::of_column(&column, grid)))
    }
}

fn newest(series: Series, shift: Shift, grid: Grid, lookback_ms: i64, times: bool) -> Column {
    let samples = &series.samples;
    let mut column = Column::empty(series.labels, grid.n);
    // How many samples lie at or before the step.
    let mut until = 0;
    for i in 0..grid.n {
        let at = shift.apply(grid.time(i));
        while samples.timestamps.get(until).is_some_and(|t| *t <= at) {
            until += 1;
        }
        let Some(last) = until.checked_sub(1) else { continue };
        let time = samples.timestamps[last];
        if time <= at.saturating_sub(lookback_ms) {
            continue;
        }
        if let Some(histogram) = samples.histogram(last) {
            if !histogram.is_stale() {
                if times {
                    column.set_float(i, time as f64 / 1000.0);
                } else {
                    column.set_histogram(i, Arc::clone(histogram));
                }
            }
        } else if !is_stale_nan(samples.values[last]) {
            column.set_float(
                i,
                if times {
                    time as f64 / 1000.0
                } else {
                    samples.values[last]
                },
            );
        }
    }
    column
}

/// `smoothed`: between the samples on both sides of the step a line, else the one there is.
fn smoothed(series: Series, shift: Shift, grid: Grid, lookback_ms: i64) -> Column {
    let mut column = Column::empty(series.labels.clone(), grid.n);
    let points = Points::of_series(series);
    for i in 0..grid.n {
        let at = shift.apply(grid.time(i));
        let after = points.float_times.partition_point(|t| *t < at);
        let next = points
            .float_times
            .get(after)
            .filter(|t| **t <= at.saturating_add(lookback_ms));
        let before = after
            .checked_sub(1)
            .filter(|b| points.float_times[*b] > at.saturating_sub(lookback_ms));
        match (before, next) {
            (_, Some(time)) if *time == at => column.set_float(i, points.floats[after]),
            (Some(before), Some(time)) => {
                let (t0, v0, v1) = (points.float_times[before], points.floats[before], points.floats[after]);
                let share = (at - t0) as f64 / (*time - t0) as f64;
                column.set_float(i, v0 + (v1 - v0) * share);
            }
            (Some(before), None) => column.set_float(i, points.floats[before]),
            _ => {}
        }
    }
    column
}
