//! From a syntax tree to a plan: times resolved, constants folded, selectors listed.

mod build;
mod duration;
mod effort;
mod explain;
mod fragment;
mod rewrite;
mod tree;

pub use effort::Effort;
pub use explain::PlanLine;
pub use fragment::{BadFragment, Fragment, FragmentKind, FragmentNode};
pub(crate) use fragment::{drops_names, merges};
pub(crate) use tree::looks_at_time;

use crate::ast::{AggregateOp, BinaryOp, Expr, Span, ValueType, VectorMatching};
use crate::functions::FunctionId;
use crate::source::SelectRequest;
use gnomon_model::Matcher;
use std::collections::HashSet;

/// Milliseconds; the default of `--query.lookback-delta`.
pub const DEFAULT_LOOKBACK_MS: i64 = 5 * 60 * 1000;

/// When to evaluate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalParams {
    /// First step, milliseconds since the Unix epoch.
    pub start_ms: i64,
    /// Last step is at most this, inclusive.
    pub end_ms: i64,
    /// Milliseconds between steps; 0 for an instant query (`start_ms` = `end_ms`), whose result keeps its type. A range
    /// query's result is a matrix always.
    pub step_ms: i64,
    /// How old a sample an instant selector takes, exclusive; at least 1.
    pub lookback_ms: i64,
    /// Step of subqueries that name none: the global evaluation interval.
    pub subquery_step_ms: i64,
    /// Prometheus' feature `promql-delayed-name-removal`.
    pub delayed_name_removal: bool,
    /// Prometheus' feature `use-start-timestamps`: counters reset where their samples say when they began.
    pub use_start_times: bool,
    /// Counts the samples of each step.
    pub count_steps: bool,
}

impl EvalParams {
    #[must_use]
    pub const fn instant(at_ms: i64) -> Self {
        Self::range(at_ms, at_ms, 0)
    }

    #[must_use]
    pub const fn range(start_ms: i64, end_ms: i64, step_ms: i64) -> Self {
        Self {
            start_ms,
            end_ms,
            step_ms,
            lookback_ms: DEFAULT_LOOKBACK_MS,
            subquery_step_ms: 60_000,
            delayed_name_removal: false,
            use_start_times: false,
            count_steps: false,
        }
    }
}

/// Why an expression cannot be planned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A duration expression without a usable value.
    #[error("{0}")]
    Duration(String),
    #[error("invalid expression type {0:?} for range query, must be Scalar or instant Vector")]
    NotForRange(&'static str),
    #[error("the step of a range query must be greater than 0 and its end not before its start")]
    BadRange,
    /// A modifier on a function that cannot take it.
    #[error("{0}")]
    Modifier(String),
}

/// The steps of a node: `start`, `start + step`, …, `n` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) start_ms: i64,
    pub(crate) step_ms: i64,
    pub(crate) n: usize,
}

impl Grid {
    pub(crate) fn time(&self, i: usize) -> i64 {
        self.start_ms
            .saturating_add(self.step_ms.saturating_mul(i64::try_from(i).unwrap_or(i64::MAX)))
    }

    pub(crate) fn last(&self) -> i64 {
        self.time(self.n.saturating_sub(1))
    }

    fn single(&self) -> Self {
        Self {
            n: self.n.min(1),
            ..*self
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) kind: NodeKind,
    pub(crate) span: Span,
    pub(crate) value_type: ValueType,
    pub(crate) grid: Grid,
}

/// How a selector's or subquery's time follows from a step's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shift {
    pub(crate) at_ms: Option<i64>,
    pub(crate) offset_ms: i64,
}

impl Shift {
    pub(crate) fn apply(&self, step_ms: i64) -> i64 {
        self.at_ms.unwrap_or(step_ms).saturating_sub(self.offset_ms)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extended {
    No,
    Anchored,
    Smoothed,
}

/// A range vector: what a function like `rate` looks through.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    pub(crate) input: WindowInput,
    pub(crate) range_ms: i64,
    pub(crate) shift: Shift,
    pub(crate) extended: Extended,
}

#[derive(Clone, Debug)]
pub(crate) enum WindowInput {
    Request(usize),
    Subquery(Box<Node>),
}

/// The number of a fragment that nobody else is asked for.
pub(crate) const NOT_PUSHED: usize = usize::MAX;

#[derive(Clone, Debug)]
pub(crate) enum NodeKind {
    Number(f64),
    String(String),
    /// A string that is not UTF-8.
    Bytes(Vec<u8>),
    Select {
        request: usize,
        shift: Shift,
        extended: Extended,
    },
    Window(Window),
    /// Evaluated for one step, whose result stands for all.
    Invariant(Box<Node>),
    /// What others may evaluate, all of it or for later steps.
    Fragment {
        /// Position in [`Plan::pushed`]; [`NOT_PUSHED`] where it is none of them after all.
        id: usize,
        input: Box<Node>,
    },
    /// Stands in several places, and is evaluated once for all that have the slot.
    Shared {
        slot: usize,
        input: Box<Node>,
    },
    Negate(Box<Node>),
    Binary {
        op: BinaryOp,
        lhs: Box<Node>,
        rhs: Box<Node>,
        return_bool: bool,
        matching: VectorMatching,
    },
    Aggregate {
        op: AggregateOp,
        input: Box<Node>,
        param: Option<Box<Node>>,
        grouping: Vec<String>,
        without: bool,
    },
    Call {
        func: FunctionId,
        args: Vec<Node>,
    },
    /// `info(v, {…})`: the request selects the info series.
    Info {
        input: Box<Node>,
        request: usize,
        shift: Shift,
    },
}

/// A query that is ready to run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) query: String,
    pub(crate) params: EvalParams,
    pub(crate) root: Node,
    requests: Vec<SelectRequest>,
    /// How many nodes make each request.
    request_uses: Vec<usize>,
    /// How many nodes share each slot.
    slot_uses: Vec<usize>,
    fragments: Vec<Pushed>,
}

/// A fragment, and the request by which its series can be had otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Pushed {
    pub(crate) fragment: Fragment,
    pub(crate) request: usize,
}

impl Plan {
    /// Plans `expr`, which came from parsing `query` (annotations point into it).
    ///
    /// # Errors
    /// When a duration has no usable value, or the expression does not fit a range query.
    pub fn new(query: &str, expr: &Expr, params: EvalParams) -> Result<Self, PlanError> {
        let plan = Self::naive(query, expr, params)?;
        // Where the samples of steps are counted, all that the query says is looked at as often as it says it.
        Ok(if params.count_steps { plan } else { rewrite::all(plan) })
    }

    /// As [`Self::new`], without the rewrites: what the rewritten plan must agree with.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn naive(query: &str, expr: &Expr, params: EvalParams) -> Result<Self, PlanError> {
        Self::built(query, expr, params).map(rewrite::meaning)
    }

    /// The plan as the query says it.
    fn built(query: &str, expr: &Expr, params: EvalParams) -> Result<Self, PlanError> {
        let value_type = expr.value_type();
        if params.step_ms == 0 {
            if params.start_ms != params.end_ms {
                return Err(PlanError::BadRange);
            }
        } else {
            if params.step_ms < 0 || params.end_ms < params.start_ms {
                return Err(PlanError::BadRange);
            }
            if !matches!(value_type, ValueType::Scalar | ValueType::Vector) {
                return Err(PlanError::NotForRange(value_type.documented()));
            }
        }
        let (root, requests) = build::build(expr, params)?;
        Ok(Self {
            query: query.to_owned(),
            params,
            root,
            request_uses: vec![1; requests.len()],
            requests,
            slot_uses: Vec::new(),
            fragments: Vec::new(),
        })
    }

    /// All that the query will ask of its source, with the times it can look at. A request's `id` is its position.
    #[must_use]
    pub fn selectors(&self) -> &[SelectRequest] {
        &self.requests
    }

    /// What the regular expressions of all selectors occupy.
    #[must_use]
    pub fn pattern_bytes(&self) -> usize {
        let matchers = self.requests.iter().flat_map(|request| &request.matchers);
        let mut known = HashSet::new();
        let once = matchers.filter(|matcher| matcher.pattern_bytes() > 0 && known.insert(matcher.value()));
        once.map(Matcher::pattern_bytes).sum()
    }

    /// Whether the query has expressions, those of `label_replace` among them, that may take more than a moment to compile.
    #[must_use]
    pub fn is_costly(&self) -> bool {
        gnomon_model::re2::is_costly(&self.query)
    }

    pub(crate) fn request_uses(&self) -> &[usize] {
        &self.request_uses
    }

    pub(crate) fn fragments(&self) -> &[Pushed] {
        &self.fragments
    }

    /// What can be evaluated elsewhere, each with the position of the request that stands for it in
    /// [`Self::selectors`]. A fragment's `id` is its position.
    pub fn pushed(&self) -> impl Iterator<Item = (&Fragment, usize)> {
        self.fragments.iter().map(|pushed| (&pushed.fragment, pushed.request))
    }

    pub(crate) fn slot_uses(&self) -> &[usize] {
        &self.slot_uses
    }

    #[must_use]
    pub fn params(&self) -> &EvalParams {
        &self.params
    }

    /// The type of the expression (a range query's result is a matrix whatever it is).
    #[must_use]
    pub fn value_type(&self) -> ValueType {
        self.root.value_type
    }

    /// The plan, a node a line.
    #[must_use]
    pub fn lines(&self) -> Vec<PlanLine> {
        explain::lines(self)
    }

    /// The plan as indented text, a node a line.
    #[must_use]
    pub fn explain(&self) -> String {
        explain::explain(self)
    }
}
