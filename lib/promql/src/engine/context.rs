//! What every part of a running query shares: source, limits, notes, and the evaluation of nodes.

use super::column::{Column, Kind};
use super::notes::Notes;
use super::select::{Selector, Take};
use crate::ast::ValueType;
use crate::limits::{CancelFlag, EvalError, Limits};
use crate::plan::{Node, NodeKind, Plan};
use crate::printer::QuotedBytes;
use crate::source::SeriesSource;
use crate::value::QueryStats;
use std::cell::Cell;

pub(crate) type Evaluated<T> = Result<T, EvalError>;

/// Takes columns one by one.
pub(crate) type Sink<'s> = dyn FnMut(Column) -> Evaluated<()> + 's;

pub(crate) struct Exec<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) source: &'a dyn SeriesSource,
    pub(crate) notes: Notes,
    limits: &'a Limits,
    cancel: &'a CancelFlag,
    held: Cell<u64>,
    stats: Cell<QueryStats>,
}

/// Samples that are held; given back when dropped.
pub(crate) struct Held<'e, 'a> {
    exec: &'e Exec<'a>,
    samples: u64,
}

impl Held<'_, '_> {
    pub(crate) fn add(&mut self, samples: u64) -> Evaluated<()> {
        self.exec.acquire(samples)?;
        self.samples += samples;
        Ok(())
    }
}

impl Drop for Held<'_, '_> {
    fn drop(&mut self) {
        self.exec.held.set(self.exec.held.get().saturating_sub(self.samples));
    }
}

/// Columns with the samples they hold.
pub(crate) struct Columns<'e, 'a> {
    pub(crate) columns: Vec<Column>,
    _held: Held<'e, 'a>,
}

impl<'a> Exec<'a> {
    pub(crate) fn new(
        plan: &'a Plan,
        source: &'a dyn SeriesSource,
        limits: &'a Limits,
        cancel: &'a CancelFlag,
    ) -> Self {
        Self {
            plan,
            source,
            notes: Notes::new(&plan.query),
            limits,
            cancel,
            held: Cell::new(0),
            stats: Cell::new(QueryStats::default()),
        }
    }

    pub(crate) fn check(&self) -> Evaluated<()> {
        self.cancel.check()
    }

    pub(crate) fn delayed(&self) -> bool {
        self.plan.params.delayed_name_removal
    }

    fn acquire(&self, samples: u64) -> Evaluated<()> {
        let held = self.held.get().saturating_add(samples);
        if held > self.limits.max_samples {
            return Err(EvalError::TooManySamples);
        }
        self.held.set(held);
        let mut stats = self.stats.get();
        stats.peak_samples = stats.peak_samples.max(held);
        self.stats.set(stats);
        Ok(())
    }

    pub(crate) fn hold(&self, samples: u64) -> Evaluated<Held<'_, 'a>> {
        self.acquire(samples)?;
        Ok(Held { exec: self, samples })
    }

    pub(crate) fn count_series(&self, samples: u64) {
        let mut stats = self.stats.get();
        stats.series_read += 1;
        stats.samples_read += samples;
        self.stats.set(stats);
    }

    pub(crate) fn into_notes_and_stats(self) -> (Notes, QueryStats) {
        (self.notes, self.stats.get())
    }

    /// All columns of a vector node at once.
    pub(crate) fn collect(&self, node: &Node) -> Evaluated<Columns<'_, 'a>> {
        let mut held = self.hold(0)?;
        let mut columns = Vec::new();
        self.stream(node, &mut |column| {
            held.add(column.weight())?;
            columns.push(column);
            Ok(())
        })?;
        Ok(Columns { columns, _held: held })
    }

    /// The values of a scalar node, one a step.
    pub(crate) fn scalar(&self, node: &Node) -> Evaluated<Vec<f64>> {
        let n = node.grid.n;
        let held = self.hold(n as u64)?;
        let values = match &node.kind {
            NodeKind::Number(value) => vec![*value; n],
            NodeKind::Invariant(inner) => vec![self.scalar(inner)?.first().copied().unwrap_or(f64::NAN); n],
            NodeKind::Negate(inner) => self.scalar(inner)?.into_iter().map(|v| -v).collect(),
            NodeKind::Binary { op, lhs, rhs, .. } => {
                let (a, b) = (self.scalar(lhs)?, self.scalar(rhs)?);
                let both = a.into_iter().zip(b);
                both.map(|(a, b)| super::arithmetic::scalar_binary(*op, a, b).unwrap_or(f64::NAN))
                    .collect()
            }
            NodeKind::Call { func, args } => self.scalar_call(*func, args, node)?,
            _ => return Err(EvalError::execution("expected a scalar expression")),
        };
        drop(held);
        Ok(values)
    }

    /// The text of a string node.
    pub(crate) fn string<'n>(&self, node: &'n Node) -> Evaluated<&'n str> {
        match &node.kind {
            NodeKind::String(text) => Ok(text),
            NodeKind::Bytes(bytes) => Err(EvalError::execution(format!(
                "string {} is not valid UTF-8",
                QuotedBytes(bytes)
            ))),
            _ => Err(EvalError::execution("expected a string literal")),
        }
    }

    /// Gives the columns of a vector node to `sink`, one by one.
    pub(crate) fn stream(&self, node: &Node, sink: &mut Sink<'_>) -> Evaluated<()> {
        self.check()?;
        // A column has an entry a step whether or not there is a sample: one alone must fit.
        drop(self.hold(node.grid.n as u64)?);
        match &node.kind {
            NodeKind::Select {
                request,
                shift,
                extended,
            } => {
                let (request, shift, extended) = (*request, *shift, *extended);
                let selector = Selector {
                    request,
                    shift,
                    extended,
                    grid: node.grid,
                    span: node.span,
                };
                self.select(selector, Take::Value, sink)
            }
            NodeKind::Invariant(inner) => {
                let n = node.grid.n;
                self.stream(inner, &mut |column| sink(column.repeated(n)))
            }
            NodeKind::Negate(inner) => self.negate(inner, sink),
            NodeKind::Binary {
                op,
                lhs,
                rhs,
                return_bool,
                matching,
            } => self.binary(
                node,
                super::binary::Operator {
                    op: *op,
                    return_bool: *return_bool,
                    matching,
                },
                lhs,
                rhs,
                sink,
            ),
            NodeKind::Aggregate {
                op,
                input,
                param,
                grouping,
                without,
            } => {
                let by = super::aggregate::Grouping {
                    labels: grouping,
                    without: *without,
                };
                self.aggregate(node, *op, input, param.as_deref(), by, sink)
            }
            NodeKind::Call { func, args } => self.call(*func, args, node, sink),
            NodeKind::Info { input, request, shift } => self.info(node, input, *request, *shift, sink),
            NodeKind::Window(_) => Err(EvalError::execution("a range vector cannot be used here")),
            NodeKind::Number(_) | NodeKind::String(_) | NodeKind::Bytes(_) => {
                Err(EvalError::execution("expected an instant vector expression"))
            }
        }
    }

    /// Passes columns on with their name dropped. Where columns of several names could become equal by that they are
    /// merged.
    pub(crate) fn stream_nameless(
        &self,
        input: &Node,
        each: &mut dyn FnMut(&mut Column) -> Evaluated<()>,
        sink: &mut Sink<'_>,
    ) -> Evaluated<()> {
        let delayed = self.delayed();
        let mut finish = |mut column: Column| -> Evaluated<Column> {
            each(&mut column)?;
            Ok(column.without_name(delayed))
        };
        if delayed || !may_collide(input, self.plan) {
            return self.stream(input, &mut |column| {
                let column = finish(column)?;
                if column.has_any() { sink(column) } else { Ok(()) }
            });
        }
        let mut held = self.hold(0)?;
        let mut columns = Vec::new();
        self.stream(input, &mut |column| {
            held.add(column.weight())?;
            columns.push(finish(column)?);
            Ok(())
        })?;
        for column in super::column::merge_same_labels(columns)? {
            if column.has_any() {
                sink(column)?;
            }
        }
        Ok(())
    }

    fn negate(&self, inner: &Node, sink: &mut Sink<'_>) -> Evaluated<()> {
        debug_assert_eq!(inner.value_type, ValueType::Vector);
        self.stream_nameless(
            inner,
            &mut |column| {
                for i in 0..column.len() {
                    match column.kinds[i] {
                        Kind::Float => column.floats[i] = -column.floats[i],
                        Kind::Histogram => {
                            if let Some(super::column::Point::Histogram(histogram)) = column.get(i) {
                                let mut negated = gnomon_model::histogram::FloatHistogram::clone(histogram);
                                negated.scale(|v| -v);
                                negated.reset_hint = gnomon_model::histogram::ResetHint::Gauge;
                                column.set_histogram(i, std::sync::Arc::new(negated));
                            }
                        }
                        Kind::Absent => {}
                    }
                }
                Ok(())
            },
            sink,
        )
    }
}

/// Whether columns of the node can become equal by losing their names.
pub(crate) fn may_collide(node: &Node, plan: &Plan) -> bool {
    match &node.kind {
        NodeKind::Select { request, .. } => {
            let exact = |m: &gnomon_model::Matcher| {
                m.name() == gnomon_model::METRIC_NAME && m.op() == gnomon_model::MatchOp::Equal
            };
            plan.selectors()
                .get(*request)
                .is_none_or(|request| !request.matchers.iter().any(exact))
        }
        NodeKind::Invariant(inner) => may_collide(inner, plan),
        NodeKind::Negate(_) => false,
        NodeKind::Aggregate { grouping, without, .. } => {
            !*without && grouping.iter().any(|label| super::column::is_metadata(label))
        }
        _ => true,
    }
}
