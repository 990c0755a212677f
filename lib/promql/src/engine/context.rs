//! What every part of a running query shares: source, limits, notes, and the evaluation of nodes.

use super::analysis::Analyzer;
use super::column::{Column, Kind};
use super::counted::Counted;
use super::notes::Notes;
use super::select::{Selector, Take};
use super::shared::Shared;
use crate::ast::ValueType;
use crate::limits::{CancelFlag, EvalError, Limits};
use crate::plan::{Node, NodeKind, Plan, drops_names};
use crate::printer::QuotedBytes;
use crate::source::{SelectRequest, Series, SeriesSource};
use crate::value::{QueryStats, StepSamples};
use gnomon_model::Labels;
use std::cell::{Cell, RefCell};

/// What a held sample is taken to occupy: a time and a value.
const SAMPLE_BYTES: u64 = 16;

/// Bytes are charged to the query's budget by so many at a time.
const GRANT_BYTES: u64 = 64 << 10;

pub(crate) type Evaluated<T> = Result<T, EvalError>;

/// Takes columns one by one.
pub(crate) type Sink<'s> = dyn FnMut(Column) -> Evaluated<()> + 's;

pub(crate) struct Exec<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) source: &'a dyn SeriesSource,
    pub(crate) notes: Notes,
    limits: &'a Limits,
    pub(crate) cancel: &'a CancelFlag,
    held: Cell<Size>,
    /// Of the query's budget, at least what is held.
    granted_bytes: Cell<u64>,
    pub(super) shared: Shared,
    pub(super) analyzer: Option<Analyzer<'a>>,
    /// Where the series that is looked at is kept in mind, whole labels and all: for fragments.
    tracks: Cell<bool>,
    origin: RefCell<Labels>,
    /// A request that is not wanted beyond a time.
    until: Cell<Option<(usize, i64)>>,
    /// Set where this is a fragment: whether it drops names.
    fragment: Option<bool>,
    unfit: Cell<Option<&'static str>>,
    stats: Cell<QueryStats>,
    pub(crate) counted: Counted,
}

/// How much something is, by either limit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Size {
    pub(super) samples: u64,
    pub(super) bytes: u64,
}

impl Size {
    pub(super) fn add(&mut self, more: Self) {
        self.samples = self.samples.saturating_add(more.samples);
        self.bytes = self.bytes.saturating_add(more.bytes);
    }
}

/// Samples and bytes that are held; given back when dropped.
pub(crate) struct Held<'e, 'a> {
    exec: &'e Exec<'a>,
    size: Size,
}

impl Held<'_, '_> {
    /// Samples, and the bytes that they take.
    pub(crate) fn add(&mut self, samples: u64) -> Evaluated<()> {
        let bytes = samples.saturating_mul(SAMPLE_BYTES);
        self.add_size(Size { samples, bytes })
    }

    pub(crate) fn add_column(&mut self, column: &Column) -> Evaluated<()> {
        let (samples, bytes) = (column.weight(), column.bytes());
        self.add_size(Size { samples, bytes })
    }

    /// Samples whose bytes are counted apart.
    pub(crate) fn add_samples(&mut self, samples: u64) -> Evaluated<()> {
        self.add_size(Size { samples, bytes: 0 })
    }

    /// Bytes that no samples are counted for.
    pub(crate) fn add_bytes(&mut self, bytes: u64) -> Evaluated<()> {
        self.add_size(Size { samples: 0, bytes })
    }

    fn add_size(&mut self, size: Size) -> Evaluated<()> {
        self.exec.acquire(size)?;
        self.size.samples += size.samples;
        self.size.bytes += size.bytes;
        Ok(())
    }
}

impl Drop for Held<'_, '_> {
    fn drop(&mut self) {
        self.exec.give_back(self.size);
    }
}

/// Columns with what they hold.
pub(crate) struct Columns<'e, 'a> {
    pub(crate) columns: Vec<Column>,
    pub(crate) held: Held<'e, 'a>,
}

impl Drop for Exec<'_> {
    fn drop(&mut self) {
        self.limits.memory.release(self.granted_bytes.get());
    }
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
            held: Cell::default(),
            granted_bytes: Cell::new(0),
            analyzer: None,
            shared: Shared::new(plan.slot_uses(), plan.request_uses()),
            tracks: Cell::new(false),
            origin: RefCell::default(),
            until: Cell::new(None),
            fragment: None,
            unfit: Cell::new(None),
            stats: Cell::new(QueryStats::default()),
            counted: Counted::of(plan),
        }
    }

    /// For a fragment, whose result must be that of the whole.
    pub(crate) fn for_fragment(
        plan: &'a Plan,
        source: &'a dyn SeriesSource,
        limits: &'a Limits,
        cancel: &'a CancelFlag,
        drops_names: bool,
    ) -> Self {
        let mut exec = Self::new(plan, source, limits, cancel);
        exec.tracks = Cell::new(true);
        exec.fragment = Some(drops_names);
        exec
    }

    /// Why the data does not allow a fragment to be evaluated apart.
    pub(crate) fn unfit(&self) -> Option<&'static str> {
        self.unfit.get()
    }

    /// Looks at a series before it is evaluated.
    pub(crate) fn admit(&self, series: &Series) -> Evaluated<()> {
        if self.tracks.get() {
            self.origin.replace(series.labels.clone());
        }
        let Some(drops_names) = self.fragment else {
            return Ok(());
        };
        let why = if !series.samples.histograms.is_empty() {
            "there are histograms"
        } else if drops_names
            && ["__type__", "__unit__"]
                .iter()
                .any(|name| series.labels.get(name).is_some())
        {
            "series that differ in type or unit may become equal"
        } else {
            return Ok(());
        };
        self.unfit.set(Some(why));
        Err(EvalError::Canceled)
    }

    /// The labels of the series that is evaluated, as they are stored.
    pub(crate) fn origin(&self) -> Labels {
        self.origin.borrow().clone()
    }

    pub(crate) fn tracked_origin(&self) -> Option<Labels> {
        self.tracks.get().then(|| self.origin())
    }

    /// Evaluates with series kept in mind, and a request cut off at a time (inclusive).
    pub(crate) fn tracking<T>(
        &self,
        request: usize,
        until_ms: i64,
        evaluate: &mut dyn FnMut() -> Evaluated<T>,
    ) -> Evaluated<T> {
        let tracked = self.tracks.replace(true);
        self.until.set(Some((request, until_ms)));
        let result = evaluate();
        self.until.set(None);
        self.tracks.set(tracked);
        result
    }

    /// The request with the times that are wanted now.
    pub(crate) fn narrowed(&self, request: &SelectRequest) -> Option<SelectRequest> {
        let (id, until_ms) = self.until.get()?;
        (id == request.id).then(|| SelectRequest {
            end_ms: until_ms.min(request.end_ms),
            ..request.clone()
        })
    }

    pub(crate) fn count_read(&self, series: u64, samples: u64) {
        if let Some(analyzer) = &self.analyzer {
            analyzer.read(series, samples);
        }
        let mut stats = self.stats.get();
        stats.series_read += series;
        stats.samples_read += samples;
        self.stats.set(stats);
    }

    pub(crate) fn check(&self) -> Evaluated<()> {
        self.cancel.check()
    }

    /// For loops over many steps: looks at every few thousandth whether the query has ended.
    pub(crate) fn check_at(&self, i: usize) -> Evaluated<()> {
        if i % super::order::STRIDE == super::order::STRIDE - 1 {
            self.check()?;
        }
        Ok(())
    }

    pub(crate) fn delayed(&self) -> bool {
        self.plan.params.delayed_name_removal
    }

    pub(super) fn max_samples(&self) -> u64 {
        self.limits.max_samples
    }

    pub(super) fn acquire(&self, size: Size) -> Evaluated<()> {
        let held = self.held.get();
        let samples = held.samples.saturating_add(size.samples);
        if samples > self.limits.max_samples {
            return Err(EvalError::TooManySamples);
        }
        let bytes = held.bytes.saturating_add(size.bytes);
        let granted = self.granted_bytes.get();
        if bytes > granted {
            let more = (bytes - granted).max(GRANT_BYTES);
            self.limits.memory.charge(more)?;
            self.granted_bytes.set(granted + more);
        }
        self.held.set(Size { samples, bytes });
        let mut stats = self.stats.get();
        stats.peak_samples = stats.peak_samples.max(samples);
        self.stats.set(stats);
        Ok(())
    }

    pub(super) fn give_back(&self, size: Size) {
        let mut held = self.held.get();
        held.samples = held.samples.saturating_sub(size.samples);
        held.bytes = held.bytes.saturating_sub(size.bytes);
        self.held.set(held);
        let granted = self.granted_bytes.get();
        // Some is kept, as the next column is likely to be as large.
        let surplus = granted.saturating_sub(held.bytes.saturating_add(2 * GRANT_BYTES));
        if surplus > 2 * GRANT_BYTES {
            self.limits.memory.release(surplus);
            self.granted_bytes.set(granted - surplus);
        }
    }

    pub(crate) fn hold(&self, samples: u64) -> Evaluated<Held<'_, 'a>> {
        let mut held = Held {
            exec: self,
            size: Size::default(),
        };
        held.add(samples)?;
        Ok(held)
    }

    /// Bytes that no samples are counted for.
    pub(crate) fn hold_bytes(&self, bytes: u64) -> Evaluated<Held<'_, 'a>> {
        let mut held = self.hold(0)?;
        held.add_bytes(bytes)?;
        Ok(held)
    }

    pub(crate) fn count_series(&self, samples: u64) {
        self.count_read(1, samples);
    }

    pub(crate) fn notes_and_stats(&mut self) -> (Notes, QueryStats, Vec<StepSamples>) {
        let steps = self.counted.take();
        (std::mem::take(&mut self.notes), self.stats.get(), steps)
    }

    /// All columns of a vector node at once.
    pub(crate) fn collect(&self, node: &Node) -> Evaluated<Columns<'_, 'a>> {
        let mut held = self.hold(0)?;
        let mut columns = Vec::new();
        self.stream(node, &mut |column| {
            held.add_column(&column)?;
            columns.push(column);
            Ok(())
        })?;
        Ok(Columns { columns, held })
    }

    /// The values of a scalar node, one a step.
    pub(crate) fn scalar(&self, node: &Node) -> Evaluated<Vec<f64>> {
        let Some(analyzer) = &self.analyzer else {
            return self.scalar_node(node);
        };
        let outer = analyzer.switch(super::analysis::identity(node));
        let result = self.scalar_node(node);
        analyzer.switch(outer);
        result
    }

    fn scalar_node(&self, node: &Node) -> Evaluated<Vec<f64>> {
        self.check()?;
        let n = node.grid.n;
        let held = self.hold(n as u64)?;
        let values = match &node.kind {
            NodeKind::Number(value) => vec![*value; n],
            NodeKind::Invariant(inner) => vec![self.scalar(inner)?.first().copied().unwrap_or(f64::NAN); n],
            NodeKind::Negate(inner) => self.scalar(inner)?.into_iter().map(|v| -v).collect(),
            NodeKind::Binary { op, lhs, rhs, .. } => {
                let (a, b) = (self.scalar(lhs)?, self.scalar(rhs)?);
                let mut values = Vec::with_capacity(n);
                for (i, (a, b)) in a.into_iter().zip(b).enumerate() {
                    self.check_at(i)?;
                    values.push(super::arithmetic::scalar_binary(*op, a, b).unwrap_or(f64::NAN));
                }
                values
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
        let _in_hand = self.hold_bytes(in_hand_bytes(node))?;
        let Some(analyzer) = &self.analyzer else {
            return self.stream_node(node, sink);
        };
        let me = super::analysis::identity(node);
        let outer = analyzer.switch(me);
        let result = self.stream_node(node, &mut |column| {
            analyzer.gave(me, &column);
            let inner = analyzer.switch(outer);
            let taken = sink(column);
            analyzer.switch(inner);
            taken
        });
        analyzer.switch(outer);
        result
    }

    fn stream_node(&self, node: &Node, sink: &mut Sink<'_>) -> Evaluated<()> {
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
            NodeKind::Fragment { id, input } => self.stream_pushed(node, *id, input, sink),
            NodeKind::Shared { slot, input } => self.stream_shared(node, *slot, input, sink),
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
        // What is tracked has one name, and must come as its series do.
        if delayed || self.tracks.get() || !may_collide(input, self.plan) {
            return self.stream(input, &mut |column| {
                let column = finish(column)?;
                if column.has_any() { sink(column) } else { Ok(()) }
            });
        }
        let mut held = self.hold(0)?;
        let mut columns = Vec::new();
        self.stream(input, &mut |column| {
            held.add_column(&column)?;
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

/// What a node has in hand while it streams: a column, and the values of scalar arguments.
fn in_hand_bytes(node: &Node) -> u64 {
    let scalars = match &node.kind {
        NodeKind::Binary { .. } | NodeKind::Aggregate { .. } => 1,
        NodeKind::Call { args, .. } => args.len() as u64,
        _ => 0,
    };
    (node.grid.n as u64).saturating_mul(SAMPLE_BYTES + 8 * scalars)
}

/// Whether columns of the node can become equal by losing their names.
pub(crate) fn may_collide(node: &Node, plan: &Plan) -> bool {
    match &node.kind {
        NodeKind::Select { request, .. } => names_may_differ(*request, plan),
        NodeKind::Invariant(inner)
        | NodeKind::Shared { input: inner, .. }
        | NodeKind::Fragment { input: inner, .. } => may_collide(inner, plan),
        NodeKind::Negate(_) => false,
        // These have dropped them already, and made sure.
        NodeKind::Call { func, .. } => !drops_names(*func),
        NodeKind::Aggregate { grouping, without, .. } => {
            !*without && grouping.iter().any(|label| super::column::is_metadata(label))
        }
        _ => true,
    }
}

/// Whether a request's series can have different names.
pub(crate) fn names_may_differ(request: usize, plan: &Plan) -> bool {
    let exact =
        |m: &gnomon_model::Matcher| m.name() == gnomon_model::METRIC_NAME && m.op() == gnomon_model::MatchOp::Equal;
    plan.selectors()
        .get(request)
        .is_none_or(|request| !request.matchers.iter().any(exact))
}
