//! Functions over ranges: each series is taken through all steps with two moving ends.

mod even;
pub(crate) mod extended;
mod floats;
pub(crate) mod moving;
pub(crate) mod over_time;
pub(crate) mod rate;
pub(crate) mod trend;

use super::column::{Column, drop_name, same_labelset};
use super::context::{Evaluated, Exec, Sink};
use super::notes::Notes;
use super::order::STRIDE;
use super::select::Points;
use crate::ast::Span;
use crate::functions::FunctionId;
use crate::limits::{CancelFlag, EvalError};
use crate::plan::{Extended, Node, NodeKind, Window, WindowInput};
pub(crate) use even::Alike;
use floats::Simple;
use gnomon_model::histogram::FloatHistogram;
use gnomon_model::{Labels, METRIC_NAME};
use hashbrown::HashSet;
use moving::{Extreme, Falls, Moving};
use std::sync::Arc;

/// An entry of a set of labels, beside the labels.
const SEEN_BYTES: u64 = 64;

/// What a function sees of a series at a step.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) float_times: &'a [i64],
    pub(crate) floats: &'a [f64],
    pub(crate) histogram_times: &'a [i64],
    pub(crate) histograms: &'a [Arc<FloatHistogram>],
    /// When the counters behind the floats began; empty where that is not known or not to be looked at.
    pub(crate) float_starts: &'a [i64],
    /// For counters: the values from which the floats fell within the range, in order.
    pub(crate) fallen_from: &'a [f64],
    /// Left end, exclusive.
    pub(crate) start_ms: i64,
    /// Right end, inclusive.
    pub(crate) end_ms: i64,
    /// The step's time, without offset.
    pub(crate) step_ms: i64,
    pub(crate) range_ms: i64,
    pub(crate) extended: Extended,
    /// Scalar arguments at this step.
    pub(crate) args: [f64; 2],
    pub(crate) name: &'a str,
    /// Place of the range vector.
    pub(crate) span: Span,
    /// Place of the first argument.
    pub(crate) first_span: Span,
    pub(crate) notes: &'a Notes,
    pub(crate) cancel: &'a CancelFlag,
}

/// Gives each value to `each`; with many it looks every so often, by `check`, whether the query has ended.
pub(crate) fn each_value(
    values: &[f64],
    check: impl Fn() -> Evaluated<()>,
    mut each: impl FnMut(f64),
) -> Evaluated<()> {
    let (first, rest) = values.split_at(values.len().min(STRIDE));
    first.iter().copied().for_each(&mut each);
    for stride in rest.chunks(STRIDE) {
        check()?;
        stride.iter().copied().for_each(&mut each);
    }
    Ok(())
}

/// Histograms between two looks at whether the query has ended: each may have thousands of buckets.
const HISTOGRAM_STRIDE: usize = 64;

impl View<'_> {
    /// Whether a loop over histograms that has done so many may go on. Where it may not, the query has ended, and what its
    /// function gives is not looked at: see [`View::whole`].
    fn goes_on(&self, done: usize) -> bool {
        !done.is_multiple_of(HISTOGRAM_STRIDE) || self.cancel.check().is_ok()
    }

    /// A result, unless the query ended before it was whole.
    fn whole(&self, result: Option<Out>) -> Evaluated<Option<Out>> {
        if !self.histograms.is_empty() {
            self.cancel.check()?;
        }
        Ok(result)
    }

    /// Gives each float to `each`, as [`each_value`].
    fn each_float(&self, each: impl FnMut(f64)) -> Evaluated<()> {
        each_value(self.floats, || self.cancel.check(), each)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.floats.is_empty() && self.histograms.is_empty()
    }

    pub(crate) fn note_ignored_histograms(&self) {
        if !self.histograms.is_empty() {
            self.notes.histogram_ignored_in_range(self.span, self.name);
        }
    }
}

/// A result at a step.
pub(crate) enum Out {
    Float(f64),
    Histogram(Arc<FloatHistogram>),
}

impl Out {
    pub(crate) fn histogram(histogram: FloatHistogram) -> Option<Self> {
        Some(Self::Histogram(Arc::new(histogram)))
    }
}

type RangeFunction = fn(&View<'_>) -> Evaluated<Option<Out>>;

/// How a function goes about it.
#[derive(Clone, Copy)]
enum How {
    /// Looks at the whole range at every step.
    Each(RangeFunction),
    /// The greatest (true) or least value, kept up from step to step.
    Extreme(bool),
}

fn range_function(func: FunctionId) -> Option<How> {
    use FunctionId as F;
    let each: RangeFunction = match func {
        F::MaxOverTime => return Some(How::Extreme(true)),
        F::MinOverTime => return Some(How::Extreme(false)),
        F::Rate => rate::rate,
        F::Increase => rate::increase,
        F::Delta => rate::delta,
        F::Irate => rate::irate,
        F::Idelta => rate::idelta,
        F::Resets => rate::resets,
        F::Changes => rate::changes,
        F::Deriv => trend::deriv,
        F::PredictLinear => trend::predict_linear,
        F::DoubleExponentialSmoothing => trend::double_exponential_smoothing,
        F::AvgOverTime => over_time::avg,
        F::SumOverTime => over_time::sum,
        F::CountOverTime => over_time::count,
        F::LastOverTime => over_time::last,
        F::FirstOverTime => over_time::first,
        F::PresentOverTime | F::AbsentOverTime => over_time::present,
        F::StddevOverTime => over_time::stddev,
        F::StdvarOverTime => over_time::stdvar,
        F::QuantileOverTime => over_time::quantile,
        F::MadOverTime => over_time::mad,
        F::TsOfFirstOverTime => over_time::time_of_first,
        F::TsOfLastOverTime => over_time::time_of_last,
        F::TsOfMaxOverTime => over_time::time_of_max,
        F::TsOfMinOverTime => over_time::time_of_min,
        _ => return None,
    };
    Some(How::Each(each))
}

impl Exec<'_> {
    /// A function with a range vector among its arguments; false if `func` is none.
    pub(crate) fn range_call(
        &self,
        func: FunctionId,
        args: &[Node],
        node: &Node,
        sink: &mut Sink<'_>,
    ) -> Evaluated<bool> {
        let Some(how) = range_function(func) else {
            return Ok(false);
        };
        let is_window = |arg: &&Node| window_of(arg).is_some();
        let Some(arg) = args.iter().find(is_window) else {
            return Err(EvalError::execution("expected a range vector"));
        };
        let Some(window) = window_of(arg) else { return Ok(false) };
        let mut scalars = Vec::new();
        for arg in args.iter().filter(|arg| !is_window(arg)) {
            scalars.push(self.scalar(arg)?);
        }
        let first_span = args.first().map_or(node.span, |arg| arg.span);
        let keeps_name = matches!(func, FunctionId::LastOverTime | FunctionId::FirstOverTime);
        let simple = Simple::of(func);
        let may_collide = match &window.input {
            WindowInput::Request(request) => super::context::names_may_differ(*request, self.plan),
            WindowInput::Subquery(_) => true,
        };
        let mut seen: HashSet<Labels> = HashSet::new();
        let mut held = self.hold(0)?;
        self.each_points(window, &mut |points| {
            let call = RangeCall {
                how,
                simple,
                counter: matches!(func, FunctionId::Rate | FunctionId::Increase),
                window,
                scalars: &scalars,
                span: arg.span,
                first_span,
            };
            self.count_windows(window, &points, node);
            let mut column = self.range_column(&call, &points, node)?;
            column.drop_name = !keeps_name || points.drop_name;
            if !keeps_name && !self.delayed() {
                column.labels = drop_name(&column.labels);
            }
            if !column.has_any() {
                return Ok(());
            }
            self.note_non_counter(func, &column, points.labels.metric_name(), arg.span);
            let differs = || !may_collide && lost_name_only(&points.labels, &column.labels);
            if !self.delayed() && func != FunctionId::AbsentOverTime && !differs() {
                held.add_bytes(column.labels.as_bytes().len() as u64 + SEEN_BYTES)?;
                if !seen.insert(column.labels.clone()) {
                    return Err(same_labelset());
                }
            }
            sink(column)
        })?;
        Ok(true)
    }

    fn note_non_counter(&self, func: FunctionId, column: &Column, name: &str, span: Span) {
        if !matches!(func, FunctionId::Rate | FunctionId::Increase) || name.is_empty() {
            return;
        }
        let counter = ["_total", "_sum", "_count", "_bucket"]
            .iter()
            .any(|end| name.ends_with(end));
        if !counter && column.kinds.contains(&super::column::Kind::Float) {
            self.notes.possible_non_counter(span, name);
        }
    }

    fn range_column(&self, call: &RangeCall<'_>, points: &Points, node: &Node) -> Evaluated<Column> {
        let starts = self.plan.params.use_start_times && !points.float_starts.is_empty();
        let simple = call.simple.filter(|_| !starts);
        let scratch = simple.map_or(0, |simple| simple.scratch_bytes(points));
        let in_hand = (scratch > 0).then(|| self.hold_bytes(scratch)).transpose()?;
        if let Some(simple) = simple
            && let Some(column) = simple.column(call.window, points, node.grid, &|| self.check())?
        {
            return Ok(column);
        }
        drop(in_hand);
        match call.how {
            How::Each(function) => self.each_range(call, function, points, node),
            How::Extreme(greatest) => self.extremes(call, greatest, points, node),
        }
    }

    fn extremes(&self, call: &RangeCall<'_>, greatest: bool, points: &Points, node: &Node) -> Evaluated<Column> {
        let mut column = Column::empty(points.labels.clone(), node.grid.n);
        let mut moving = Moving::new(call.window, self.plan.params.lookback_ms);
        let mut extreme = Extreme::new(greatest);
        for i in 0..node.grid.n {
            self.check_at(i)?;
            let range = moving.to(node.grid.time(i), points);
            if let Some(value) = extreme.advance(&points.floats, range.floats) {
                if !range.histograms.is_empty() {
                    self.notes
                        .histogram_ignored_in_range(call.span, points.labels.metric_name());
                }
                column.set_float(i, value);
            }
        }
        Ok(column)
    }

    fn each_range(
        &self,
        call: &RangeCall<'_>,
        function: RangeFunction,
        points: &Points,
        node: &Node,
    ) -> Evaluated<Column> {
        let mut column = Column::empty(points.labels.clone(), node.grid.n);
        let mut moving = Moving::new(call.window, self.plan.params.lookback_ms);
        let use_starts = self.plan.params.use_start_times
            && call.window.extended == Extended::No
            && points.float_starts.len() == points.floats.len();
        let starts = if use_starts {
            points.float_starts.as_slice()
        } else {
            &[]
        };
        let mut falls = if call.counter {
            Falls::of(&points.floats, &points.float_times, starts)
        } else {
            Falls::default()
        };
        let name = points.labels.metric_name();
        // Samples since it was last looked whether the query has ended.
        let mut looked_at = 0;
        for i in 0..node.grid.n {
            if looked_at >= STRIDE {
                self.check()?;
                looked_at = 0;
            }
            let step_ms = node.grid.time(i);
            let range = moving.to(step_ms, points);
            let (f, h) = (range.floats, range.histograms);
            let argument = |at: usize| {
                call.scalars
                    .get(at)
                    .and_then(|values| values.get(i))
                    .copied()
                    .unwrap_or(0.0)
            };
            let view = View {
                float_times: &points.float_times[f.clone()],
                floats: &points.floats[f.clone()],
                float_starts: starts.get(f.clone()).unwrap_or_default(),
                histogram_times: &points.histogram_times[h.clone()],
                histograms: &points.histograms[h],
                start_ms: range.start_ms,
                end_ms: range.end_ms,
                step_ms,
                range_ms: call.window.range_ms,
                extended: call.window.extended,
                args: [argument(0), argument(1)],
                fallen_from: falls.within(&f),
                name,
                span: call.span,
                first_span: call.first_span,
                notes: &self.notes,
                cancel: self.cancel,
            };
            looked_at += view.floats.len() + 8 * view.histograms.len() + 1;
            if view.is_empty() {
                continue;
            }
            match function(&view)? {
                Some(Out::Float(value)) => column.set_float(i, value),
                Some(Out::Histogram(value)) => column.set_histogram(i, value),
                None => {}
            }
        }
        Ok(column)
    }
}

/// Whether labels are as they were but for the metric's name: those of one name differ by what is left.
fn lost_name_only(before: &Labels, after: &Labels) -> bool {
    let name = before
        .as_ref()
        .raw_pairs()
        .find(|pair| pair.name == METRIC_NAME.as_bytes());
    before.as_bytes().len() == after.as_bytes().len() + name.map_or(0, |pair| pair.bytes.len())
}

struct RangeCall<'a> {
    how: How,
    simple: Option<Simple>,
    /// Whether falls are to be found.
    counter: bool,
    window: &'a Window,
    scalars: &'a [Vec<f64>],
    span: Span,
    first_span: Span,
}

pub(crate) fn window_of(node: &Node) -> Option<&Window> {
    match &node.kind {
        NodeKind::Window(window) => Some(window),
        NodeKind::Invariant(inner) => window_of(inner),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_values_of_one_window_are_not_gone_through_for_nobody() {
        let values: Vec<f64> = (0..4 * STRIDE).map(|n| n as f64).collect();
        let cancel = CancelFlag::new();
        let mut seen = Vec::new();
        let result = each_value(&values, || cancel.check(), |value| seen.push(value));
        assert!(result.is_ok() && seen == values);
        let mut count = 0;
        let result = each_value(
            &values,
            || cancel.check(),
            |_| {
                count += 1;
                if count == STRIDE + 1 {
                    cancel.cancel();
                }
            },
        );
        assert!(result == Err(EvalError::Canceled) && count == 2 * STRIDE, "{count}");
        assert!(
            each_value(&values[..STRIDE], || cancel.check(), |_| ()).is_ok(),
            "few are not looked at"
        );
    }

    type Function = fn(&View<'_>) -> Evaluated<Option<Out>>;

    #[test]
    fn many_histograms_of_one_window_are_not_gone_through_for_nobody() {
        let histograms: Vec<_> = (0..4 * HISTOGRAM_STRIDE)
            .map(|n| {
                Arc::new(FloatHistogram {
                    count: n as f64,
                    sum: n as f64,
                    ..FloatHistogram::default()
                })
            })
            .collect();
        let times: Vec<i64> = (0..histograms.len() as i64).collect();
        let (notes, cancel) = (Notes::default(), CancelFlag::new());
        let view = View {
            float_times: &[],
            floats: &[],
            histogram_times: &times,
            histograms: &histograms,
            float_starts: &[],
            fallen_from: &[],
            start_ms: -1,
            end_ms: times.len() as i64,
            step_ms: times.len() as i64,
            range_ms: times.len() as i64 + 1,
            extended: Extended::No,
            args: [0.0; 2],
            name: "h",
            span: Span::default(),
            first_span: Span::default(),
            notes: &notes,
            cancel: &cancel,
        };
        let functions: [Function; 5] = [over_time::sum, over_time::avg, rate::rate, rate::resets, rate::changes];
        for function in functions {
            assert!(function(&view).is_ok_and(|out| out.is_some()));
        }
        cancel.cancel();
        assert!(!view.goes_on(HISTOGRAM_STRIDE) && view.goes_on(HISTOGRAM_STRIDE + 1));
        for function in functions {
            assert!(matches!(function(&view), Err(EvalError::Canceled)));
        }
    }
}
