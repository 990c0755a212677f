//! Evaluation, series by series: a node hands its columns on one by one, so that `sum(rate(x[5m]))` over a million
//! series holds one series and one sum.

mod aggregate;
mod analysis;
pub(crate) mod arithmetic;
mod binary;
mod call;
mod column;
mod context;
mod counted;
mod info;
mod notes;
mod order;
mod pushed;
mod select;
mod shared;
mod window;

pub use analysis::NodeCost;
pub(crate) use analysis::identity;
pub(crate) use arithmetic::scalar_binary;
pub(crate) use call::{max_of, min_of};
pub(crate) use column::is_metadata;
pub use notes::Note;
pub use pushed::FragmentError;

use crate::ast::ValueType;
use crate::limits::{CancelFlag, EvalError, Limits};
use crate::partial::Partial;
use crate::plan::{Fragment, NodeKind, Plan, PlanLine};
use crate::source::SeriesSource;
use crate::value::{InstantSample, QueryResult, RangeSeries, SampleValue, Value};
use analysis::Analyzer;
use column::{Column, Kind, Point, drop_name, merge_same_labels, same_labelset};
use context::{Columns, Evaluated, Exec};
use gnomon_model::{Clock, Labels};
use std::sync::Arc;

/// Runs plans.
#[derive(Clone, Copy, Debug)]
pub struct Engine;

impl Engine {
    /// Evaluates a plan against a source.
    ///
    /// # Errors
    /// When the data does not fit the expression, a limit is reached, the query is cancelled or the source fails.
    pub fn execute(
        plan: &Plan,
        source: &dyn SeriesSource,
        limits: &Limits,
        cancel: &CancelFlag,
    ) -> Result<QueryResult, EvalError> {
        let mut exec = Exec::new(plan, source, limits, cancel);
        Self::finish(plan, &mut exec)
    }

    /// As [`Engine::execute`], and tells what each node of the plan took.
    ///
    /// # Errors
    /// As [`Engine::execute`].
    pub fn analyze(
        plan: &Plan,
        source: &dyn SeriesSource,
        limits: &Limits,
        cancel: &CancelFlag,
        clock: &dyn Clock,
    ) -> Result<(QueryResult, Vec<PlanLine>), EvalError> {
        let mut exec = Exec::new(plan, source, limits, cancel);
        exec.analyzer = Some(Analyzer::new(clock));
        let result = Self::finish(plan, &mut exec)?;
        let costs = exec.analyzer.take().map(Analyzer::into_costs).unwrap_or_default();
        let mut lines = plan.lines();
        for line in &mut lines {
            line.cost = costs.get(&line.node).copied();
        }
        Ok((result, lines))
    }

    fn finish(plan: &Plan, exec: &mut Exec<'_>) -> Result<QueryResult, EvalError> {
        exec.check()?;
        let value = if plan.params.step_ms == 0 {
            exec.instant_value()?
        } else {
            Value::Matrix(exec.matrix_value()?)
        };
        let (notes, stats, steps) = exec.notes_and_stats();
        let (warnings, infos) = notes.into_texts();
        Ok(QueryResult {
            value,
            warnings,
            infos,
            stats,
            steps,
        })
    }
}

impl Engine {
    /// Evaluates a fragment of someone else's plan over `source`, which has all samples of each series that it gives
    /// in the fragment's time. What comes of it is given piece by piece.
    ///
    /// # Errors
    /// When the data does not allow to evaluate it apart, or as [`Engine::execute`].
    pub fn fragment(
        fragment: &Fragment,
        source: &dyn SeriesSource,
        limits: &Limits,
        cancel: &CancelFlag,
        give: &mut dyn FnMut(Partial) -> Result<(), EvalError>,
    ) -> Result<(), FragmentError> {
        pushed::run(fragment, source, limits, cancel, give)
    }
}

/// The names that were to be dropped go now.
fn final_names(columns: Vec<Column>) -> Evaluated<Vec<Column>> {
    let dropped = columns.into_iter().map(|mut column| {
        if column.drop_name {
            column.labels = drop_name(&column.labels);
        }
        column
    });
    merge_same_labels(dropped.collect())
}

fn range_series(column: &Column, points: usize, time: impl Fn(usize) -> i64) -> RangeSeries {
    let floats_only = !column.kinds.contains(&Kind::Histogram);
    let mut series = RangeSeries {
        labels: column.labels.clone(),
        floats: Vec::with_capacity(if floats_only { points } else { 0 }),
        histograms: Vec::new(),
    };
    for i in 0..column.len() {
        match column.get(i) {
            Some(Point::Float(value)) => series.floats.push((time(i), value)),
            Some(Point::Histogram(value)) => series.histograms.push((time(i), Arc::clone(value))),
            None => {}
        }
    }
    series
}

impl Exec<'_> {
    fn instant_value(&self) -> Evaluated<Value> {
        let root = &self.plan.root;
        let timestamp_ms = self.plan.params.start_ms;
        Ok(match root.value_type {
            ValueType::Scalar => {
                let value = self.scalar(root)?.first().copied().unwrap_or(f64::NAN);
                Value::Scalar { timestamp_ms, value }
            }
            ValueType::String => Value::String {
                timestamp_ms,
                text: match &root.kind {
                    NodeKind::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                    _ => self.string(root)?.to_owned(),
                },
            },
            ValueType::Matrix => Value::Matrix(self.window_value()?),
            ValueType::Vector => {
                let Columns { columns, mut held } = self.collect(root)?;
                let columns = final_names(columns)?;
                held.add_bytes((columns.len() * size_of::<InstantSample>()) as u64)?;
                let sample = |column: &Column| {
                    let value = match column.get(0)? {
                        Point::Float(value) => SampleValue::Float(value),
                        Point::Histogram(value) => SampleValue::Histogram(Arc::clone(value)),
                    };
                    Some(InstantSample {
                        labels: column.labels.clone(),
                        timestamp_ms,
                        value,
                    })
                };
                Value::Vector(columns.iter().filter_map(sample).collect())
            }
        })
    }

    /// An instant query for a range vector: the samples themselves.
    fn window_value(&self) -> Evaluated<Vec<RangeSeries>> {
        let root = &self.plan.root;
        let window = window::window_of(root).ok_or_else(|| EvalError::execution("expected a range vector"))?;
        let end_ms = window.shift.apply(root.grid.start_ms);
        let start_ms = end_ms.saturating_sub(window.range_ms);
        let mut held = self.hold(0)?;
        let mut out = Vec::new();
        self.each_points(window, &mut |points| {
            self.count_windows(window, &points, root);
            let within = |time: i64| time > start_ms && time <= end_ms;
            let floats = points.float_times.iter().copied().zip(points.floats.iter().copied());
            let histograms = points
                .histogram_times
                .iter()
                .copied()
                .zip(points.histograms.iter().map(Arc::clone));
            let series = RangeSeries {
                labels: if points.drop_name {
                    drop_name(&points.labels)
                } else {
                    points.labels.clone()
                },
                floats: floats.filter(|(time, _)| within(*time)).collect(),
                histograms: histograms.filter(|(time, _)| within(*time)).collect(),
            };
            held.add((series.floats.len() + series.histograms.len()) as u64)?;
            held.add_bytes(series.held_bytes())?;
            if !series.floats.is_empty() || !series.histograms.is_empty() {
                out.push(series);
            }
            Ok(())
        })?;
        order::sort_by(&mut out, self.cancel, |a, b| a.labels.cmp(&b.labels))?;
        Ok(out)
    }

    /// Columns are as long as the query has steps; what is kept of them is what they have.
    fn matrix_value(&self) -> Evaluated<Vec<RangeSeries>> {
        let root = &self.plan.root;
        let mut held = self.hold(0)?;
        let mut out = Vec::new();
        let mut take = |mut column: Column| {
            self.check()?;
            let points = column.kinds.iter().filter(|kind| **kind != Kind::Absent).count();
            if points == 0 {
                return Ok(());
            }
            if column.drop_name {
                column.labels = drop_name(&column.labels);
            }
            let series = range_series(&column, points, |i| root.grid.time(i));
            held.add_bytes(series.held_bytes())?;
            held.add_samples(series.weight())?;
            out.push(series);
            Ok(())
        };
        if root.value_type == ValueType::Scalar {
            let values = self.scalar(root)?;
            let mut column = Column::empty(Labels::empty(), values.len());
            for (i, value) in values.into_iter().enumerate() {
                column.set_float(i, value);
            }
            take(column)?;
        } else {
            self.stream(root, &mut take)?;
        }
        order::sort_by(&mut out, self.cancel, |a, b| a.labels.cmp(&b.labels))?;
        self.merge_equal(out)
    }

    /// Makes one series of those that have the same labels, which are next to each other. Two values at one step are an
    /// error.
    fn merge_equal(&self, mut series: Vec<RangeSeries>) -> Evaluated<Vec<RangeSeries>> {
        if series.windows(2).all(|pair| pair[0].labels != pair[1].labels) {
            return Ok(series);
        }
        let mut merged = Vec::with_capacity(series.len());
        for equal in series.chunk_by_mut(|a, b| a.labels == b.labels) {
            self.check()?;
            if let [alone] = equal {
                merged.push(std::mem::take(alone));
                continue;
            }
            let _copied = self.hold_bytes(equal.iter().map(RangeSeries::held_bytes).sum())?;
            merged.push(RangeSeries::joined(equal).map_err(|_| same_labelset())?);
        }
        Ok(merged)
    }
}
