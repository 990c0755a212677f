//! Matcher propagation: what one side of a binary operator is selected by, the other need not have series without.
//!
//! Only where nothing but the result depends on the series that are left out: where they could have made an error
//! (two elements of a match group on a side that may have one) or a note (what `rate` says of its metric), they are
//! read.

use crate::ast::{AggregateOp, BinaryOp, Cardinality, ValueType, VectorMatching};
use crate::engine::is_metadata;
use crate::functions::FunctionId;
use crate::plan::{Extended, Node, NodeKind, Plan, WindowInput};
use crate::source::SelectRequest;
use gnomon_model::{METRIC_NAME, MatchOp, Matcher};

pub(super) fn propagate(mut plan: Plan) -> Plan {
    node(&mut plan.root, &mut plan.requests);
    plan
}

fn node(at: &mut Node, requests: &mut [SelectRequest]) {
    // Operands first: what they learn of each other can be passed on.
    at.children_mut().into_iter().for_each(|child| node(child, requests));
    let NodeKind::Binary {
        op, lhs, rhs, matching, ..
    } = &mut at.kind
    else {
        return;
    };
    if lhs.value_type != ValueType::Vector || rhs.value_type != ValueType::Vector {
        return;
    }
    let (to_left, to_right) = directions(*op, matching, lhs, rhs, requests);
    if to_right {
        let matchers = known(lhs, matching, requests);
        pass_on(rhs, &matchers, requests);
    }
    if to_left {
        let matchers = known(rhs, matching, requests);
        pass_on(lhs, &matchers, requests);
    }
}

/// Whether the left, and the right side may be narrowed.
fn directions(
    op: BinaryOp,
    matching: &VectorMatching,
    lhs: &Node,
    rhs: &Node,
    requests: &[SelectRequest],
) -> (bool, bool) {
    if matching.fill_left.is_some() || matching.fill_right.is_some() {
        return (false, false);
    }
    match op {
        BinaryOp::And => (true, true),
        BinaryOp::Unless => (false, true),
        BinaryOp::Or => (false, false),
        _ => {
            let one = if matching.card == Cardinality::OneToMany {
                lhs
            } else {
                rhs
            };
            let both = is_unique(one, matching, requests);
            (both, both)
        }
    }
}

/// Whether elements with this label match by it.
fn matched_by(matching: &VectorMatching, name: &str) -> bool {
    let listed = matching.labels.iter().any(|label| label == name);
    listed == matching.on && !is_metadata(name)
}

fn has_exact_name(request: usize, requests: &[SelectRequest]) -> bool {
    let exact = |m: &Matcher| m.name() == METRIC_NAME && m.op() == MatchOp::Equal && !m.value().is_empty();
    requests.get(request).is_some_and(|r| r.matchers.iter().any(exact))
}

/// Functions of a range that say nothing of what they see, and keep all labels (where some are dropped two series may
/// become equal, which is an error).
const fn is_silent(func: FunctionId) -> bool {
    matches!(func, FunctionId::LastOverTime | FunctionId::FirstOverTime)
}

/// The request of a selector, or of a silent function of a range of one, under a single name.
fn plain_request(at: &Node, requests: &[SelectRequest]) -> Option<usize> {
    let request = match &at.kind {
        NodeKind::Invariant(inner) => return plain_request(inner, requests),
        NodeKind::Select {
            request,
            extended: Extended::No,
            ..
        } => *request,
        NodeKind::Call { func, args } if is_silent(*func) => match args.as_slice() {
            [range] => plain_range(range)?,
            _ => return None,
        },
        _ => return None,
    };
    has_exact_name(request, requests).then_some(request)
}

fn plain_range(at: &Node) -> Option<usize> {
    match &at.kind {
        NodeKind::Invariant(inner) => plain_range(inner),
        NodeKind::Window(window) => match window.input {
            WindowInput::Request(request) if window.extended == Extended::No => Some(request),
            _ => None,
        },
        _ => None,
    }
}

/// Whether no two elements of the operand can have the same signature.
fn is_unique(at: &Node, matching: &VectorMatching, requests: &[SelectRequest]) -> bool {
    match &at.kind {
        NodeKind::Invariant(inner) => is_unique(inner, matching, requests),
        NodeKind::Aggregate {
            op, grouping, without, ..
        } if folds(*op) => {
            let name = |label: &String| label == METRIC_NAME;
            if *without || grouping.iter().any(name) {
                return false;
            }
            grouping.iter().all(|label| matched_by(matching, label))
        }
        // One name: the other labels tell the series apart, if all of them are looked at.
        _ => !matching.on && matching.labels.is_empty() && plain_request(at, requests).is_some(),
    }
}

const fn folds(op: AggregateOp) -> bool {
    matches!(
        op,
        AggregateOp::Sum
            | AggregateOp::Avg
            | AggregateOp::Count
            | AggregateOp::Min
            | AggregateOp::Max
            | AggregateOp::Group
            | AggregateOp::Stddev
            | AggregateOp::Stdvar
            | AggregateOp::Quantile
    )
}

/// Matchers that every element of the operand satisfies, on labels that elements match by.
fn known(at: &Node, matching: &VectorMatching, requests: &[SelectRequest]) -> Vec<Matcher> {
    let mut found = guaranteed(at, requests);
    found.retain(|m| matched_by(matching, m.name()) && matches!(m.op(), MatchOp::Equal | MatchOp::Regex));
    found
}

fn of_request(request: usize, requests: &[SelectRequest]) -> Vec<Matcher> {
    let matchers = requests.get(request).map_or(&[][..], |r| &r.matchers);
    matchers.iter().filter(|m| !is_metadata(m.name())).cloned().collect()
}

fn guaranteed(at: &Node, requests: &[SelectRequest]) -> Vec<Matcher> {
    match &at.kind {
        NodeKind::Select { request, .. } => of_request(*request, requests),
        NodeKind::Invariant(inner) | NodeKind::Negate(inner) => guaranteed(inner, requests),
        NodeKind::Call { func, args } => {
            let changes_labels = matches!(
                func,
                FunctionId::LabelReplace
                    | FunctionId::LabelJoin
                    | FunctionId::Absent
                    | FunctionId::AbsentOverTime
                    | FunctionId::Vector
                    | FunctionId::HistogramQuantile
                    | FunctionId::HistogramQuantiles
                    | FunctionId::HistogramFraction
                    | FunctionId::Info
            );
            let range = args.iter().find_map(plain_range);
            let vector = args.iter().find(|arg| arg.value_type == ValueType::Vector);
            match (changes_labels, range, vector) {
                (true, ..) => Vec::new(),
                (false, Some(request), _) => of_request(request, requests),
                (false, None, Some(vector)) => guaranteed(vector, requests),
                _ => Vec::new(),
            }
        }
        NodeKind::Aggregate {
            op,
            input,
            grouping,
            without,
            ..
        } if folds(*op) => {
            let mut found = guaranteed(input, requests);
            found.retain(|m| grouping.iter().any(|label| label == m.name()) != *without);
            found
        }
        NodeKind::Binary { lhs, rhs, .. } => match (lhs.value_type, rhs.value_type) {
            (ValueType::Vector, ValueType::Scalar) => guaranteed(lhs, requests),
            (ValueType::Scalar, ValueType::Vector) => guaranteed(rhs, requests),
            _ => Vec::new(),
        },
        _ => Vec::new(),
    }
}

/// Adds matchers to the selectors of an operand, as far as nothing of it but elements without a match depends on them.
fn pass_on(at: &mut Node, matchers: &[Matcher], requests: &mut [SelectRequest]) {
    if let Some(request) = plain_request(at, requests) {
        if let Some(request) = requests.get_mut(request) {
            for matcher in matchers {
                if !request.matchers.contains(matcher) {
                    request.matchers.push(matcher.clone());
                }
            }
        }
        return;
    }
    match &mut at.kind {
        NodeKind::Invariant(inner) => pass_on(inner, matchers, requests),
        // These say nothing of what they see either.
        NodeKind::Aggregate {
            op: AggregateOp::Count | AggregateOp::Group,
            input,
            grouping,
            without,
            ..
        } => {
            let kept = |m: &&Matcher| grouping.iter().any(|label| label == m.name()) != *without;
            let matchers: Vec<Matcher> = matchers.iter().filter(kept).cloned().collect();
            pass_on(input, &matchers, requests);
        }
        _ => {}
    }
}
