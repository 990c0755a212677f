//! Fragments: the largest parts of a plan that can be evaluated where the samples are.

use crate::ast::AggregateOp;
use crate::plan::{Fragment, NOT_PUSHED, Node, NodeKind, Plan, merges};

/// Columns are worth sending instead of samples where a step stands for at least so many milliseconds of them.
const MIN_MS_OF_STEP: i64 = 120_000;

pub(super) fn mark(mut plan: Plan) -> Plan {
    let mut root = std::mem::replace(&mut plan.root, Node::placeholder());
    node(&mut root, &plan);
    plan.root = root;
    plan
}

/// The only request of the nodes, none if there are more.
pub(super) fn only_request(at: &Node) -> Option<usize> {
    fn collect(at: &Node, all: &mut Vec<usize>) {
        all.extend(at.request());
        at.children().into_iter().for_each(|child| collect(child, all));
    }
    // A fragment is no deeper than a few nodes; others are not looked at.
    let mut all = Vec::new();
    collect(at, &mut all);
    match all.as_slice() {
        [request] => Some(*request),
        _ => None,
    }
}

/// Whether a node is of the kind that a fragment begins with.
fn may_begin(at: &Node) -> bool {
    match &at.kind {
        NodeKind::Aggregate { op, .. } => merges(*op) || matches!(op, AggregateOp::TopK | AggregateOp::BottomK),
        NodeKind::Select { .. } | NodeKind::Call { .. } | NodeKind::Negate(_) | NodeKind::Binary { .. } => {
            at.value_type == crate::ast::ValueType::Vector
        }
        _ => false,
    }
}

fn worthwhile(fragment: &Fragment) -> bool {
    if !fragment.is_column() || fragment.steps == 1 {
        return true;
    }
    let (start_ms, end_ms) = fragment.samples();
    let steps = i64::try_from(fragment.steps).unwrap_or(i64::MAX);
    end_ms.saturating_sub(start_ms) / steps >= MIN_MS_OF_STEP
}

fn node(at: &mut Node, plan: &Plan) {
    if may_begin(at)
        && let Some(request) = shallow(at).then(|| only_request(at)).flatten()
        && let Some(request) = plan.requests.get(request)
        && !request.hints.histogram_stats
        && Fragment::of(at, request, &plan.params).is_some_and(|fragment| worthwhile(&fragment))
    {
        let input = Node {
            kind: std::mem::replace(&mut at.kind, NodeKind::Number(0.0)),
            ..at.clone()
        };
        at.kind = NodeKind::Fragment {
            id: NOT_PUSHED,
            input: Box::new(input),
        };
        return;
    }
    // Who looks at samples rather than at values needs the selector itself.
    let samples = at.looks_at_samples();
    for child in at.children_mut() {
        if !(samples && matches!(child.bare().kind, NodeKind::Select { .. })) {
            node(child, plan);
        }
    }
}

/// Whether the nodes are few, one below the other, so that it is worth looking at all of them.
fn shallow(at: &Node) -> bool {
    fn within(at: &Node, left: usize) -> bool {
        left > 0 && at.children().into_iter().all(|child| within(child, left - 1))
    }
    within(at, 12)
}
