//! What is the same at every step (all that `@` pins) is evaluated for one.

use crate::plan::{Node, NodeKind, Plan};

pub(super) fn mark(mut plan: Plan) -> Plan {
    node(&mut plan.root);
    plan
}

fn node(at: &mut Node) {
    if at.grid.n > 1 && !at.is_constant() && at.is_invariant() {
        let inner = NodeKind::Number(0.0);
        let mut once = Node {
            kind: std::mem::replace(&mut at.kind, inner),
            span: at.span,
            value_type: at.value_type,
            grid: at.grid,
        };
        single_step(&mut once);
        at.kind = NodeKind::Invariant(Box::new(once));
    }
    at.children_mut().into_iter().for_each(node);
}

/// Leaves the first step only; subqueries below keep theirs, which their range and `@` decide.
fn single_step(at: &mut Node) {
    at.grid = at.grid.single();
    if !matches!(at.kind, NodeKind::Window(_)) {
        at.children_mut().into_iter().for_each(single_step);
    }
}
