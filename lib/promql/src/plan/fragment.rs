//! Fragments: parts of a plan that whoever has the samples can evaluate: a selector, functions of it, an aggregation.

use super::{EvalParams, Extended, Grid, Node, NodeKind, Plan, Shift, Window, WindowInput};
use crate::ast::{AggregateOp, BinaryOp, Span, ValueType, VectorMatching};
use crate::functions::{Function, FunctionId};
use crate::source::{SelectHints, SelectRequest};
use gnomon_model::Matcher;

/// Nodes that a fragment may be deep; those that a plan has are of a few.
const MAX_DEPTH: usize = 32;
/// Steps that a fragment may have.
const MAX_STEPS: usize = 1 << 20;

/// A node of a fragment. All have the fragment's steps.
#[derive(Clone, Debug, PartialEq)]
pub struct FragmentNode {
    /// Place in the query's text, for notes.
    pub span: Span,
    pub kind: FragmentKind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum FragmentKind {
    Number(f64),
    /// The newest sample of each series at each step.
    Select {
        at_ms: Option<i64>,
        offset_ms: i64,
    },
    /// The samples of a range before each step.
    Range {
        range_ms: i64,
        at_ms: Option<i64>,
        offset_ms: i64,
    },
    Call {
        func: FunctionId,
        args: Vec<FragmentNode>,
    },
    Negate(Box<FragmentNode>),
    /// With a number on one side.
    Binary {
        op: BinaryOp,
        return_bool: bool,
        lhs: Box<FragmentNode>,
        rhs: Box<FragmentNode>,
    },
    Aggregate {
        op: AggregateOp,
        grouping: Vec<String>,
        without: bool,
        param: Option<Box<FragmentNode>>,
        input: Box<FragmentNode>,
    },
}

/// What is evaluated elsewhere: one selector, and what is made of its series.
#[derive(Clone, Debug, PartialEq)]
pub struct Fragment {
    /// All of them must match.
    pub matchers: Vec<Matcher>,
    /// First step, milliseconds since the epoch.
    pub first_step_ms: i64,
    /// Milliseconds between steps.
    pub step_ms: i64,
    pub steps: usize,
    /// As [`EvalParams::lookback_ms`].
    pub lookback_ms: i64,
    pub delayed_name_removal: bool,
    /// As [`EvalParams::use_start_times`].
    pub use_start_times: bool,
    pub root: FragmentNode,
}

/// A fragment that cannot be evaluated here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a fragment that can be evaluated here: {0}")]
pub struct BadFragment(pub String);

/// Functions of a range that look at one series at a time, and fail for no data: a fragment may have them.
pub(crate) const fn of_range(func: FunctionId) -> bool {
    use FunctionId as F;
    matches!(
        func,
        F::Rate
            | F::Increase
            | F::Delta
            | F::Irate
            | F::Idelta
            | F::Resets
            | F::Changes
            | F::Deriv
            | F::PredictLinear
            | F::AvgOverTime
            | F::SumOverTime
            | F::MinOverTime
            | F::MaxOverTime
            | F::CountOverTime
            | F::LastOverTime
            | F::FirstOverTime
            | F::PresentOverTime
            | F::StddevOverTime
            | F::StdvarOverTime
            | F::QuantileOverTime
            | F::MadOverTime
            | F::TsOfFirstOverTime
            | F::TsOfLastOverTime
            | F::TsOfMaxOverTime
            | F::TsOfMinOverTime
    )
}

/// Functions of single values that give the same bits on every machine.
const fn of_value(func: FunctionId) -> bool {
    use FunctionId as F;
    matches!(
        func,
        F::Abs | F::Ceil | F::Floor | F::Sqrt | F::Sgn | F::Round | F::Clamp | F::ClampMin | F::ClampMax
    )
}

/// Whether columns come out of the function without names, each label set once (unless names are dropped at the end).
pub(crate) const fn drops_names(func: FunctionId) -> bool {
    let keeps = matches!(func, FunctionId::LastOverTime | FunctionId::FirstOverTime);
    !keeps && (of_range(func) || of_value(func))
}

const fn of_vector_and_number(op: BinaryOp) -> bool {
    use BinaryOp as B;
    op.is_comparison() || matches!(op, B::Add | B::Sub | B::Mul | B::Div | B::Mod)
}

/// Aggregations whose partial states merge to the same bits in any order.
pub(crate) const fn merges(op: AggregateOp) -> bool {
    use AggregateOp as A;
    matches!(op, A::Sum | A::Avg | A::Count | A::Min | A::Max | A::Group)
}

impl FragmentNode {
    /// None where the node is none that a fragment may have.
    pub(crate) fn of(node: &Node) -> Option<Self> {
        let boxed = |node: &Node| Self::of(node).map(Box::new);
        let kind = match &node.kind {
            NodeKind::Number(value) => FragmentKind::Number(*value),
            NodeKind::Select {
                shift,
                extended: Extended::No,
                ..
            } => FragmentKind::Select {
                at_ms: shift.at_ms,
                offset_ms: shift.offset_ms,
            },
            NodeKind::Window(Window {
                input: WindowInput::Request(_),
                range_ms,
                shift,
                extended: Extended::No,
            }) => FragmentKind::Range {
                range_ms: *range_ms,
                at_ms: shift.at_ms,
                offset_ms: shift.offset_ms,
            },
            NodeKind::Negate(inner) => FragmentKind::Negate(boxed(inner)?),
            NodeKind::Call { func, args } => FragmentKind::Call {
                func: *func,
                args: args.iter().map(Self::of).collect::<Option<_>>()?,
            },
            NodeKind::Binary {
                op,
                lhs,
                rhs,
                return_bool,
                ..
            } => FragmentKind::Binary {
                op: *op,
                return_bool: *return_bool,
                lhs: boxed(lhs)?,
                rhs: boxed(rhs)?,
            },
            NodeKind::Aggregate {
                op,
                input,
                param,
                grouping,
                without,
            } => FragmentKind::Aggregate {
                op: *op,
                grouping: grouping.clone(),
                without: *without,
                param: match param {
                    Some(param) => Some(boxed(param)?),
                    None => None,
                },
                input: boxed(input)?,
            },
            _ => return None,
        };
        let span = node.span;
        Some(Self { span, kind })
    }

    /// Whether this is one series in, one column out: a selector and functions of it.
    fn is_column(&self, depth: usize) -> bool {
        use FragmentKind as K;
        let number = |node: &Self| matches!(node.kind, K::Number(_));
        let range = |node: &&Self| matches!(node.kind, K::Range { .. });
        let deeper = |node: &Self| depth < MAX_DEPTH && node.is_column(depth + 1);
        match &self.kind {
            K::Select { .. } => true,
            K::Negate(inner) => deeper(inner),
            K::Call { func, args } if of_range(*func) => {
                args.iter().filter(range).count() == 1 && args.iter().all(|arg| range(&arg) || number(arg))
            }
            K::Call { func, args } if of_value(*func) => match args.split_first() {
                Some((vector, numbers)) => deeper(vector) && numbers.iter().all(number),
                None => false,
            },
            K::Binary { op, lhs, rhs, .. } if of_vector_and_number(*op) => {
                (number(lhs) && deeper(rhs)) || (number(rhs) && deeper(lhs))
            }
            _ => false,
        }
    }

    fn is_whole(&self) -> bool {
        match &self.kind {
            FragmentKind::Aggregate { op, param, input, .. } => {
                let number = |param: &FragmentNode| matches!(param.kind, FragmentKind::Number(_));
                let ranks = matches!(op, AggregateOp::TopK | AggregateOp::BottomK);
                input.is_column(1)
                    && match param {
                        None => merges(*op),
                        Some(param) => ranks && number(param),
                    }
            }
            _ => self.is_column(0),
        }
    }

    /// Whether the result has lost the metric's name.
    fn drops_name(&self) -> bool {
        use FragmentKind as K;
        match &self.kind {
            K::Call { func, args } => drops_names(*func) || args.iter().any(Self::drops_name),
            K::Negate(_) => true,
            K::Binary {
                op,
                return_bool,
                lhs,
                rhs,
            } => *return_bool || !op.is_comparison() || lhs.drops_name() || rhs.drops_name(),
            K::Aggregate { input, .. } => input.drops_name(),
            _ => false,
        }
    }

    /// How a step's samples lie: range (or lookback), `@` and offset.
    fn reach(&self, lookback_ms: i64) -> Option<(i64, Shift)> {
        use FragmentKind as K;
        match &self.kind {
            K::Number(_) => None,
            K::Select { at_ms, offset_ms } => Some((lookback_ms, shift(*at_ms, *offset_ms))),
            K::Range {
                range_ms,
                at_ms,
                offset_ms,
            } => Some((*range_ms, shift(*at_ms, *offset_ms))),
            K::Call { args, .. } => args.iter().find_map(|arg| arg.reach(lookback_ms)),
            K::Negate(inner) | K::Aggregate { input: inner, .. } => inner.reach(lookback_ms),
            K::Binary { lhs, rhs, .. } => lhs.reach(lookback_ms).or_else(|| rhs.reach(lookback_ms)),
        }
    }

    fn node(&self, grid: Grid) -> Node {
        let boxed = |node: &Self| Box::new(node.node(grid));
        let (kind, value_type) = match &self.kind {
            FragmentKind::Number(value) => (NodeKind::Number(*value), ValueType::Scalar),
            FragmentKind::Select { at_ms, offset_ms } => (
                NodeKind::Select {
                    request: 0,
                    shift: shift(*at_ms, *offset_ms),
                    extended: Extended::No,
                },
                ValueType::Vector,
            ),
            FragmentKind::Range {
                range_ms,
                at_ms,
                offset_ms,
            } => (
                NodeKind::Window(Window {
                    input: WindowInput::Request(0),
                    range_ms: *range_ms,
                    shift: shift(*at_ms, *offset_ms),
                    extended: Extended::No,
                }),
                ValueType::Matrix,
            ),
            FragmentKind::Call { func, args } => (
                NodeKind::Call {
                    func: *func,
                    args: args.iter().map(|arg| arg.node(grid)).collect(),
                },
                ValueType::Vector,
            ),
            FragmentKind::Negate(inner) => (NodeKind::Negate(boxed(inner)), ValueType::Vector),
            FragmentKind::Binary {
                op,
                return_bool,
                lhs,
                rhs,
            } => (
                NodeKind::Binary {
                    op: *op,
                    lhs: boxed(lhs),
                    rhs: boxed(rhs),
                    return_bool: *return_bool,
                    matching: VectorMatching::default(),
                },
                ValueType::Vector,
            ),
            FragmentKind::Aggregate {
                op,
                grouping,
                without,
                param,
                input,
            } => (
                NodeKind::Aggregate {
                    op: *op,
                    input: boxed(input),
                    param: param.as_deref().map(boxed),
                    grouping: grouping.clone(),
                    without: *without,
                },
                ValueType::Vector,
            ),
        };
        Node {
            kind,
            span: self.span,
            value_type,
            grid,
        }
    }
}

const fn shift(at_ms: Option<i64>, offset_ms: i64) -> Shift {
    Shift { at_ms, offset_ms }
}

impl Fragment {
    /// None where others could not evaluate the node and give the same result. `request` is its only one.
    pub(crate) fn of(node: &Node, request: &SelectRequest, params: &EvalParams) -> Option<Self> {
        let fragment = Self {
            matchers: request.matchers.clone(),
            first_step_ms: node.grid.start_ms,
            step_ms: node.grid.step_ms,
            steps: node.grid.n,
            lookback_ms: params.lookback_ms.max(1),
            delayed_name_removal: params.delayed_name_removal,
            use_start_times: params.use_start_times,
            root: FragmentNode::of(node)?,
        };
        fragment.check().is_ok().then_some(fragment)
    }

    /// Whether the fragment can be evaluated by parts, each series in one place, with the same result.
    ///
    /// # Errors
    /// When not, and why.
    pub fn check(&self) -> Result<(), BadFragment> {
        let bad = |what: &str| Err(BadFragment(what.to_owned()));
        if !self.root.is_whole() {
            return bad("it has other parts than a selector, functions and an aggregation of it");
        }
        // Series of two names may become equal, which only he who sees all of them can tell.
        let exact = |m: &Matcher| m.name() == gnomon_model::METRIC_NAME && m.op() == gnomon_model::MatchOp::Equal;
        if self.root.drops_name() && !self.matchers.iter().any(exact) {
            return bad("it drops the names of several metrics");
        }
        if self.steps == 0 || self.steps > MAX_STEPS || self.step_ms < 0 || self.lookback_ms < 1 {
            return bad("its steps make no sense");
        }
        Ok(())
    }

    /// Whether what comes back are groups, which merge to the same in any order.
    #[must_use]
    pub fn is_merging(&self) -> bool {
        matches!(&self.root.kind, FragmentKind::Aggregate { op, param: None, .. } if merges(*op))
    }

    /// Whether what comes back is one column a series.
    #[must_use]
    pub fn is_column(&self) -> bool {
        self.root.is_column(0)
    }

    pub(crate) fn drops_name(&self) -> bool {
        self.root.drops_name()
    }

    fn grid(&self) -> Grid {
        Grid {
            start_ms: self.first_step_ms,
            step_ms: self.step_ms,
            n: self.steps,
        }
    }

    /// The first and the last sample time that a step looks at, both inclusive, milliseconds.
    #[must_use]
    pub fn samples_of_step(&self, step: usize) -> (i64, i64) {
        let (range_ms, shift) = self.root.reach(self.lookback_ms).unwrap_or((
            0,
            Shift {
                at_ms: None,
                offset_ms: 0,
            },
        ));
        let end_ms = shift.apply(self.grid().time(step));
        (end_ms.saturating_sub(range_ms).saturating_add(1), end_ms)
    }

    /// The first and the last sample time that any step looks at, both inclusive, milliseconds.
    #[must_use]
    pub fn samples(&self) -> (i64, i64) {
        let last = self.steps.saturating_sub(1);
        (self.samples_of_step(0).0, self.samples_of_step(last).1)
    }

    /// The first step from which on no step looks at samples before a time; the number of steps if there is none.
    #[must_use]
    pub fn first_step_after(&self, time_ms: i64) -> usize {
        // Later steps never look further back.
        let (mut low, mut high) = (0, self.steps);
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.samples_of_step(middle).0 >= time_ms {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }

    /// The steps from `first` on.
    #[must_use]
    pub fn from_step(&self, first: usize) -> Self {
        Self {
            first_step_ms: self.grid().time(first),
            steps: self.steps.saturating_sub(first),
            ..self.clone()
        }
    }

    /// Some of the steps.
    #[must_use]
    pub fn some_steps(&self, steps: &std::ops::Range<usize>) -> Self {
        self.first_steps(steps.end).from_step(steps.start)
    }

    /// The first `steps` steps.
    #[must_use]
    pub fn first_steps(&self, steps: usize) -> Self {
        Self {
            steps: self.steps.min(steps),
            ..self.clone()
        }
    }

    /// A plan of nothing but the fragment.
    pub(crate) fn plan(&self) -> Plan {
        let grid = self.grid();
        let (start_ms, end_ms) = self.samples();
        let request = SelectRequest {
            id: 0,
            matchers: self.matchers.clone(),
            start_ms,
            end_ms,
            hints: SelectHints::default(),
        };
        let params = EvalParams {
            lookback_ms: self.lookback_ms,
            delayed_name_removal: self.delayed_name_removal,
            use_start_times: self.use_start_times,
            ..EvalParams::range(grid.start_ms, grid.last(), grid.step_ms)
        };
        Plan {
            query: String::new(),
            params,
            root: self.root.node(grid),
            requests: vec![request],
            request_uses: vec![1],
            slot_uses: Vec::new(),
            fragments: Vec::new(),
        }
    }
}

impl FunctionId {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        Function::of(self).name
    }
}
