//! Going through a plan's nodes.

use super::{Grid, Node, NodeKind, WindowInput};
use crate::ast::{Span, ValueType};
use crate::functions::FunctionId;

impl Node {
    /// Stands where a node has been taken out.
    pub(crate) fn placeholder() -> Self {
        Self {
            kind: NodeKind::Number(0.0),
            span: Span::default(),
            value_type: ValueType::Scalar,
            grid: Grid {
                start_ms: 0,
                step_ms: 0,
                n: 0,
            },
        }
    }

    /// The nodes right below, in the order of the query's text; a subquery's is below its range.
    pub(crate) fn children(&self) -> Vec<&Self> {
        match &self.kind {
            NodeKind::Number(_) | NodeKind::String(_) | NodeKind::Bytes(_) | NodeKind::Select { .. } => Vec::new(),
            NodeKind::Window(window) => match &window.input {
                WindowInput::Request(_) => Vec::new(),
                WindowInput::Subquery(inner) => vec![inner],
            },
            NodeKind::Invariant(input)
            | NodeKind::Negate(input)
            | NodeKind::Shared { input, .. }
            | NodeKind::Fragment { input, .. }
            | NodeKind::Info { input, .. } => vec![input],
            NodeKind::Binary { lhs, rhs, .. } => vec![lhs, rhs],
            NodeKind::Aggregate { input, param, .. } => param.as_deref().into_iter().chain([input.as_ref()]).collect(),
            NodeKind::Call { args, .. } => args.iter().collect(),
        }
    }

    /// As [`Self::children`].
    pub(crate) fn children_mut(&mut self) -> Vec<&mut Self> {
        match &mut self.kind {
            NodeKind::Number(_) | NodeKind::String(_) | NodeKind::Bytes(_) | NodeKind::Select { .. } => Vec::new(),
            NodeKind::Window(window) => match &mut window.input {
                WindowInput::Request(_) => Vec::new(),
                WindowInput::Subquery(inner) => vec![inner],
            },
            NodeKind::Invariant(input)
            | NodeKind::Negate(input)
            | NodeKind::Shared { input, .. }
            | NodeKind::Fragment { input, .. }
            | NodeKind::Info { input, .. } => vec![input],
            NodeKind::Binary { lhs, rhs, .. } => vec![lhs, rhs],
            NodeKind::Aggregate { input, param, .. } => {
                param.as_deref_mut().into_iter().chain([input.as_mut()]).collect()
            }
            NodeKind::Call { args, .. } => args.iter_mut().collect(),
        }
    }

    /// The request that the node itself makes of the source.
    pub(crate) fn request(&self) -> Option<usize> {
        match &self.kind {
            NodeKind::Select { request, .. } | NodeKind::Info { request, .. } => Some(*request),
            NodeKind::Window(window) => match window.input {
                WindowInput::Request(request) => Some(request),
                WindowInput::Subquery(_) => None,
            },
            _ => None,
        }
    }

    pub(crate) fn request_mut(&mut self) -> Option<&mut usize> {
        match &mut self.kind {
            NodeKind::Select { request, .. } | NodeKind::Info { request, .. } => Some(request),
            NodeKind::Window(window) => match &mut window.input {
                WindowInput::Request(request) => Some(request),
                WindowInput::Subquery(_) => None,
            },
            _ => None,
        }
    }

    /// What is evaluated, without what says how often.
    pub(crate) fn bare(&self) -> &Self {
        match &self.kind {
            NodeKind::Invariant(input) | NodeKind::Shared { input, .. } | NodeKind::Fragment { input, .. } => {
                input.bare()
            }
            _ => self,
        }
    }

    /// Whether the node looks at the samples of a selector right below rather than at its values.
    pub(crate) fn looks_at_samples(&self) -> bool {
        matches!(
            self.kind,
            NodeKind::Call {
                func: FunctionId::Timestamp | FunctionId::StartTimestamp,
                ..
            }
        )
    }

    /// Whether the value is a number or text that the query has.
    pub(crate) fn is_constant(&self) -> bool {
        match &self.kind {
            NodeKind::Number(_) | NodeKind::String(_) | NodeKind::Bytes(_) => true,
            NodeKind::Negate(_) | NodeKind::Binary { .. } => self.children().into_iter().all(Self::is_constant),
            _ => false,
        }
    }

    /// Whether the value is the same at every step. Prometheus excepts the functions that look at the step's time.
    pub(crate) fn is_invariant(&self) -> bool {
        match &self.kind {
            NodeKind::Select { shift, .. } => shift.at_ms.is_some(),
            NodeKind::Window(window) => window.shift.at_ms.is_some(),
            NodeKind::Info { .. } => false,
            NodeKind::Call { func, .. } if looks_at_time(*func) => false,
            _ => self.children().into_iter().all(Self::is_invariant),
        }
    }
}

pub(crate) const fn looks_at_time(func: FunctionId) -> bool {
    matches!(
        func,
        FunctionId::DaysInMonth
            | FunctionId::DayOfMonth
            | FunctionId::DayOfWeek
            | FunctionId::DayOfYear
            | FunctionId::Hour
            | FunctionId::Minute
            | FunctionId::Month
            | FunctionId::Year
            | FunctionId::PredictLinear
            | FunctionId::Time
            | FunctionId::Timestamp
            | FunctionId::StartTimestamp
            | FunctionId::Info
    )
}
