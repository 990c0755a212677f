//! Functions.

mod absent;
mod buckets;
mod classic;
mod date;
mod labels;
mod math;
mod native;
mod sort;

pub(crate) use math::{max as max_of, min as min_of};

use super::column::{Column, Kind, Point};
use super::context::{Evaluated, Exec, Sink};
use super::select::{Selector, Take};
use crate::ast::ValueType;
use crate::functions::FunctionId as F;
use crate::limits::EvalError;
use crate::plan::{Node, NodeKind};
use gnomon_model::Labels;

fn missing() -> EvalError {
    EvalError::execution("a function lacks an argument")
}

/// The argument at a position, which the parser has seen to.
fn arg(args: &[Node], at: usize) -> Evaluated<&Node> {
    args.get(at).ok_or_else(missing)
}

impl Exec<'_> {
    /// A function whose result is a scalar.
    pub(crate) fn scalar_call(&self, func: F, args: &[Node], node: &Node) -> Evaluated<Vec<f64>> {
        let n = node.grid.n;
        match func {
            F::Time => Ok((0..n).map(|i| node.grid.time(i) as f64 / 1000.0).collect()),
            F::Scalar => {
                // None yet, one, or many.
                let mut found: Vec<Option<f64>> = vec![None; n];
                let mut many = vec![false; n];
                self.stream(arg(args, 0)?, &mut |column| {
                    for i in 0..n {
                        if let Some(value) = column.float(i) {
                            many[i] |= found[i].is_some();
                            found[i] = Some(value);
                        }
                    }
                    Ok(())
                })?;
                let value = |(found, many): (Option<f64>, bool)| found.filter(|_| !many).unwrap_or(f64::NAN);
                Ok(found.into_iter().zip(many).map(value).collect())
            }
            F::MaxOf | F::MinOf => {
                let (a, b) = (self.scalar(arg(args, 0)?)?, self.scalar(arg(args, 1)?)?);
                let pick = if func == F::MaxOf { math::max } else { math::min };
                Ok(a.into_iter().zip(b).map(|(a, b)| pick(a, b)).collect())
            }
            _ => Err(EvalError::execution("expected a scalar expression")),
        }
    }

    /// A function whose result is an instant vector.
    pub(crate) fn call(&self, func: F, args: &[Node], node: &Node, sink: &mut Sink<'_>) -> Evaluated<()> {
        match func {
            F::Absent => return self.absent(arg(args, 0)?, node, sink),
            F::AbsentOverTime => return self.absent_over_time(args, node, sink),
            F::LabelReplace => return self.label_replace(args, sink),
            F::LabelJoin => return self.label_join(args, sink),
            F::Sort | F::SortDesc | F::SortByLabel | F::SortByLabelDesc => return self.sort(func, args, sink),
            F::HistogramQuantile | F::HistogramFraction | F::HistogramQuantiles => {
                return self.buckets(func, args, node, sink);
            }
            F::Vector => return self.vector(arg(args, 0)?, sink),
            F::Timestamp => return self.timestamp(Take::Time, arg(args, 0)?, node, sink),
            F::StartTimestamp => return self.timestamp(Take::StartTime, arg(args, 0)?, node, sink),
            _ => {}
        }
        if self.range_call(func, args, node, sink)? {
            return Ok(());
        }
        if let Some(of) = native::histogram_function(func) {
            return self.of_histograms(of, arg(args, 0)?, sink);
        }
        if let Some(of) = date::date_function(func) {
            return self.date(of, args, node, sink);
        }
        if let Some(of) = math::simple(func) {
            return self.of_floats(&|value, _| Some(of(value)), arg(args, 0)?, sink);
        }
        self.with_parameters(func, args, node, sink)
    }

    /// Applies a function to every float; histograms have no result.
    fn of_floats(&self, of: &dyn Fn(f64, usize) -> Option<f64>, input: &Node, sink: &mut Sink<'_>) -> Evaluated<()> {
        let mut each = |column: &mut Column| {
            for i in 0..column.len() {
                self.check_at(i)?;
                match column.kinds[i] {
                    Kind::Float => match of(column.floats[i], i) {
                        Some(value) => column.floats[i] = value,
                        None => column.clear(i),
                    },
                    Kind::Histogram => column.clear(i),
                    Kind::Absent => {}
                }
            }
            Ok(())
        };
        self.stream_nameless(input, &mut each, sink)
    }

    /// Applies a function to every histogram; floats have no result.
    fn of_histograms(&self, of: native::HistogramFunction, input: &Node, sink: &mut Sink<'_>) -> Evaluated<()> {
        let mut each = |column: &mut Column| {
            for i in 0..column.len() {
                match column.get(i) {
                    Some(Point::Histogram(histogram)) => {
                        let value = of(histogram);
                        column.clear(i);
                        column.set_float(i, value);
                    }
                    _ => column.clear(i),
                }
            }
            Ok(())
        };
        self.stream_nameless(input, &mut each, sink)
    }

    fn with_parameters(&self, func: F, args: &[Node], node: &Node, sink: &mut Sink<'_>) -> Evaluated<()> {
        let input = arg(args, 0)?;
        let parameter = |at: usize, default: f64| match args.get(at) {
            Some(parameter) => self.scalar(parameter),
            None => Ok(vec![default; node.grid.n]),
        };
        let (low, high) = match func {
            F::Round => {
                let nearest = parameter(1, 1.0)?;
                return self.of_floats(&|value, i| Some(math::round(value, nearest[i])), input, sink);
            }
            F::Clamp => (parameter(1, 0.0)?, parameter(2, 0.0)?),
            F::ClampMin => (parameter(1, 0.0)?, vec![f64::INFINITY; node.grid.n]),
            F::ClampMax => (vec![f64::NEG_INFINITY; node.grid.n], parameter(1, 0.0)?),
            _ => return Err(EvalError::execution(format!("function {func:?} has no vector result"))),
        };
        let clamp = |value: f64, i: usize| {
            let empty = high[i] < low[i];
            (!empty).then(|| math::max(low[i], math::min(high[i], value)))
        };
        self.of_floats(&clamp, input, sink)
    }

    fn vector(&self, scalar: &Node, sink: &mut Sink<'_>) -> Evaluated<()> {
        debug_assert_eq!(scalar.value_type, ValueType::Scalar);
        let values = self.scalar(scalar)?;
        let mut column = Column::empty(Labels::empty(), values.len());
        for (i, value) in values.into_iter().enumerate() {
            column.set_float(i, value);
        }
        if column.has_any() { sink(column) } else { Ok(()) }
    }

    fn timestamp(&self, take: Take, input: &Node, node: &Node, sink: &mut Sink<'_>) -> Evaluated<()> {
        let n = node.grid.n;
        let delayed = self.delayed();
        let mut columns = Vec::new();
        let mut held = self.hold(0)?;
        let mut keep = |column: Column| {
            held.add_column(&column)?;
            columns.push(column.without_name(delayed));
            Ok(())
        };
        match &input.kind {
            NodeKind::Select {
                request,
                shift,
                extended,
            } => {
                let selector = Selector {
                    request: *request,
                    shift: *shift,
                    extended: *extended,
                    grid: input.grid,
                    span: input.span,
                };
                self.select(selector, take, &mut keep)?;
            }
            NodeKind::Invariant(inner) if matches!(inner.kind, NodeKind::Select { .. }) => {
                if let NodeKind::Select {
                    request,
                    shift,
                    extended,
                } = &inner.kind
                {
                    let mut repeated = |column: Column| keep(column.repeated(n));
                    let selector = Selector {
                        request: *request,
                        shift: *shift,
                        extended: *extended,
                        grid: inner.grid,
                        span: inner.span,
                    };
                    self.select(selector, take, &mut repeated)?;
                }
            }
            _ => self.stream(input, &mut |mut column| {
                for i in 0..n {
                    if column.present(i) {
                        column.clear(i);
                        let seconds = node.grid.time(i) as f64 / 1000.0;
                        // What is calculated has no start.
                        column.set_float(i, if take == Take::StartTime { 0.0 } else { seconds });
                    }
                }
                keep(column)
            })?,
        }
        for column in super::column::merge_same_labels(columns)? {
            sink(column)?;
        }
        Ok(())
    }
}
