//! How many samples a query looks at, step by step, as Prometheus tells it with `stats=all`. Counted only where it is
//! asked for.

use super::column::{Column, Point};
use super::context::Exec;
use super::select::Points;
use super::window::moving::Moving;
use crate::plan::{Grid, Node, Plan, Window};
use crate::value::StepSamples;
use std::cell::RefCell;

/// One entry for each step of the query; none where nothing is counted.
pub(crate) struct Counted(Option<RefCell<Vec<StepSamples>>>);

impl Counted {
    pub(crate) fn of(plan: &Plan) -> Self {
        let grid = plan.root.grid;
        let step = |i| StepSamples {
            timestamp_ms: grid.time(i),
            ..StepSamples::default()
        };
        let steps = || RefCell::new((0..grid.n).map(step).collect());
        Self(plan.params.count_steps.then(steps))
    }

    pub(crate) fn take(&mut self) -> Vec<StepSamples> {
        self.0.take().map(RefCell::into_inner).unwrap_or_default()
    }
}

impl Exec<'_> {
    /// Adds to a step of a node. What is the same at all steps is looked at for each of them; what a subquery's own
    /// selectors find is counted by the ranges over it alone, as Prometheus has it.
    fn count(&self, grid: Grid, i: usize, queryable: u64, read: u64) {
        let Some(steps) = &self.counted.0 else { return };
        let mut steps = steps.borrow_mut();
        let places = if grid == self.plan.root.grid {
            i..i + 1
        } else if grid.n == 1 && steps.len() > 1 {
            0..steps.len()
        } else {
            return;
        };
        for step in steps.get_mut(places).into_iter().flatten() {
            step.queryable += queryable;
            step.read += read;
        }
    }

    /// What an instant selector found.
    pub(crate) fn count_column(&self, column: &Column, grid: Grid) {
        if self.counted.0.is_none() {
            return;
        }
        for i in 0..column.len() {
            let samples = match column.get(i) {
                None => continue,
                Some(Point::Float(_)) => 1,
                Some(Point::Histogram(histogram)) => histogram.weight(),
            };
            self.count(grid, i, samples, samples);
        }
    }

    /// What a range vector shows at each step: all of it is looked at, what was not there the step before is read.
    pub(crate) fn count_windows(&self, window: &Window, points: &Points, node: &Node) {
        if self.counted.0.is_none() {
            return;
        }
        let weigh = |range: std::ops::Range<usize>| -> u64 {
            let histograms = points.histograms.get(range).unwrap_or_default();
            histograms.iter().map(|histogram| histogram.weight()).sum()
        };
        let mut moving = Moving::new(window, self.plan.params.lookback_ms);
        let (mut floats_read, mut histograms_read) = (0, 0);
        for i in 0..node.grid.n {
            let place = moving.to(node.grid.time(i), points);
            let (f, h) = (place.floats, place.histograms);
            let new_floats = f.end.saturating_sub(f.start.max(floats_read)) as u64;
            let new_histograms = weigh(h.start.max(histograms_read).min(h.end)..h.end);
            (floats_read, histograms_read) = (floats_read.max(f.end), histograms_read.max(h.end));
            self.count(node.grid, i, f.len() as u64 + weigh(h), new_floats + new_histograms);
        }
    }
}
