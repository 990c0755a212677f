//! Common sub-expressions: what stands in a query more than once, for the same steps, is evaluated once.

use crate::ast::ValueType;
use crate::plan::{Node, NodeKind, Plan, WindowInput};
use std::collections::HashMap;
use std::fmt::Write;

/// Sub-plans by number: equal ones have the same.
#[derive(Default)]
struct Numbers {
    by_text: HashMap<String, usize>,
    /// How many nodes have each number.
    counts: Vec<usize>,
    /// The numbers of all nodes, children before parents.
    of_nodes: Vec<usize>,
    slots: HashMap<usize, usize>,
    /// How often each slot is used.
    uses: Vec<usize>,
}

pub(super) fn share(mut plan: Plan) -> Plan {
    // What is shared reads, and is there twice.
    if readers(&plan.root) < 2 {
        return plan;
    }
    let mut numbers = Numbers::default();
    number(&plan.root, &plan, &mut numbers);
    let mut at = numbers.of_nodes.len();
    mark(&mut plan.root, &mut numbers, &mut at, true);
    dissolve(&mut plan.root, &numbers.uses);
    plan.slot_uses = numbers.uses;
    plan
}

/// Takes out what stands in one place only after all.
fn dissolve(node: &mut Node, uses: &[usize]) {
    if let NodeKind::Shared { slot, input } = &mut node.kind
        && uses.get(*slot) == Some(&1)
    {
        node.kind = std::mem::replace(&mut input.kind, NodeKind::Number(0.0));
    }
    node.children_mut().into_iter().for_each(|child| dissolve(child, uses));
}

/// Numbers a node by what it says itself, its children's numbers, and where in it they stand (what notes point at).
fn number(node: &Node, plan: &Plan, numbers: &mut Numbers) -> usize {
    let mut text = own_text(node, plan);
    for child in node.children() {
        let number = number(child, plan, numbers);
        let from = child.span.start.wrapping_sub(node.span.start) as isize;
        // Writing to a String cannot fail.
        let _ = write!(text, "|{number}@{from}");
    }
    let next = numbers.counts.len();
    let number = *numbers.by_text.entry(text).or_insert(next);
    if number == next {
        numbers.counts.push(0);
    }
    numbers.counts[number] += 1;
    numbers.of_nodes.push(number);
    number
}

/// Everything about a node but its children and its place.
fn own_text(node: &Node, plan: &Plan) -> String {
    let request = |id: usize| {
        plan.requests
            .get(id)
            .map(|r| (&r.matchers, r.start_ms, r.end_ms, r.hints.histogram_stats))
    };
    let kind = match &node.kind {
        NodeKind::Number(value) => format!("number {}", value.to_bits()),
        NodeKind::Bytes(bytes) => format!("bytes {bytes:?}"),
        NodeKind::String(text) => format!("string {text:?}"),
        NodeKind::Select {
            request: id,
            shift,
            extended,
        } => format!("select {:?} {shift:?} {extended:?}", request(*id)),
        NodeKind::Window(window) => {
            let input = match &window.input {
                WindowInput::Request(id) => format!("{:?}", request(*id)),
                WindowInput::Subquery(_) => "subquery".to_owned(),
            };
            let (range, shift, extended) = (window.range_ms, window.shift, window.extended);
            format!("range {range} {shift:?} {extended:?} {input}")
        }
        NodeKind::Invariant(_) => "once".to_owned(),
        NodeKind::Fragment { .. } => "fragment".to_owned(),
        NodeKind::Shared { slot, .. } => format!("shared {slot}"),
        NodeKind::Negate(_) => "negate".to_owned(),
        NodeKind::Binary {
            op,
            return_bool,
            matching,
            ..
        } => format!("binary {op:?} {return_bool} {matching:?}"),
        NodeKind::Aggregate {
            op,
            param,
            grouping,
            without,
            ..
        } => format!("aggregate {op:?} {} {grouping:?} {without}", param.is_some()),
        NodeKind::Call { func, .. } => format!("call {func:?}"),
        NodeKind::Info { request: id, shift, .. } => format!("info {:?} {shift:?}", request(*id)),
    };
    format!("{kind} {:?} {:?}", node.grid, node.value_type)
}

/// Nodes that read samples themselves.
fn readers(node: &Node) -> usize {
    let below = node.children().into_iter().map(readers).sum::<usize>();
    below + usize::from(node.request().is_some())
}

fn reads(node: &Node) -> bool {
    node.request().is_some() || node.children().into_iter().any(reads)
}

/// Puts the outermost nodes that occur more than once into slots. `at` is the number of nodes that are not yet gone
/// through; parents come before their children, from the last.
fn mark(node: &mut Node, numbers: &mut Numbers, at: &mut usize, may: bool) {
    *at -= 1;
    let number = numbers.of_nodes[*at];
    let repeated = numbers.counts[number] > 1;
    let shares = may && repeated && node.value_type == ValueType::Vector && reads(node);
    let selector_below = node.looks_at_samples();
    // A fragment goes to others as it is: it is shared as a whole, or not.
    let below = may && !shares && !matches!(node.kind, NodeKind::Fragment { .. });
    for child in node.children_mut().into_iter().rev() {
        let is_sample = selector_below && matches!(child.bare().kind, NodeKind::Select { .. });
        mark(child, numbers, at, below && !is_sample);
    }
    if shares {
        let next = numbers.slots.len();
        let slot = *numbers.slots.entry(number).or_insert(next);
        if slot == next {
            numbers.uses.push(0);
        }
        numbers.uses[slot] += 1;
        let inner = std::mem::replace(&mut node.kind, NodeKind::Number(0.0));
        let input = Node {
            kind: inner,
            span: node.span,
            value_type: node.value_type,
            grid: node.grid,
        };
        node.kind = NodeKind::Shared {
            slot,
            input: Box::new(input),
        };
    }
}
