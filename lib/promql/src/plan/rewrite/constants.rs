//! Constant folding: operators and functions of numbers become their value.

use crate::engine::{max_of, min_of, scalar_binary};
use crate::functions::FunctionId;
use crate::plan::{Node, NodeKind, Plan};

pub(super) fn fold(mut plan: Plan) -> Plan {
    node(&mut plan.root);
    plan
}

fn node(at: &mut Node) {
    at.children_mut().into_iter().for_each(node);
    if let Some(value) = value(&at.kind) {
        at.kind = NodeKind::Number(value);
    }
}

fn number(node: &Node) -> Option<f64> {
    match node.kind {
        NodeKind::Number(value) => Some(value),
        _ => None,
    }
}

fn value(kind: &NodeKind) -> Option<f64> {
    match kind {
        NodeKind::Invariant(inner) => number(inner),
        NodeKind::Negate(inner) => Some(-number(inner)?),
        NodeKind::Binary { op, lhs, rhs, .. } => scalar_binary(*op, number(lhs)?, number(rhs)?),
        NodeKind::Call { func, args } => match (func, args.as_slice()) {
            (FunctionId::MaxOf, [a, b]) => Some(max_of(number(a)?, number(b)?)),
            (FunctionId::MinOf, [a, b]) => Some(min_of(number(a)?, number(b)?)),
            (FunctionId::Scalar, [vector]) => match &vector.kind {
                NodeKind::Call {
                    func: FunctionId::Vector,
                    args,
                } => number(args.first()?),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    }
}
