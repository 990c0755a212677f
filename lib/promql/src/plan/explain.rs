//! A plan as text.

use super::{Extended, NOT_PUSHED, Node, NodeKind, Plan, Shift, Window, WindowInput};
use crate::engine::{NodeCost, identity};
use crate::printer::QuotedBytes;
use std::fmt;

/// A node of a plan, as a line of its text.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanLine {
    /// How deep the node lies; the root is at 0.
    pub depth: usize,
    pub text: String,
    /// What it took, where that was asked for and it was evaluated by itself.
    pub cost: Option<NodeCost>,
    pub(crate) node: usize,
}

impl fmt::Display for PlanLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:indent$}{}", "", self.text, indent = self.depth * 2)?;
        let Some(cost) = &self.cost else { return Ok(()) };
        write!(f, "  ({:.3} ms", cost.own.as_secs_f64() * 1000.0)?;
        if cost.columns > 0 {
            write!(f, ", gave {} series, {} values", cost.columns, cost.values)?;
        }
        if cost.series > 0 {
            write!(f, ", read {} series, {} samples", cost.series, cost.samples)?;
        }
        f.write_str(")")
    }
}

pub(super) fn explain(plan: &Plan) -> String {
    lines(plan).iter().map(|line| format!("{line}\n")).collect()
}

pub(super) fn lines(plan: &Plan) -> Vec<PlanLine> {
    let mut out = Vec::new();
    node(plan, &plan.root, 0, &mut out);
    out
}

type Lines = Vec<PlanLine>;

fn shift(shift: &Shift) -> String {
    let at = shift.at_ms.map(|at| format!(" at {at}ms")).unwrap_or_default();
    let offset = if shift.offset_ms == 0 {
        String::new()
    } else {
        format!(" offset {}ms", shift.offset_ms)
    };
    at + &offset
}

fn request(plan: &Plan, id: usize) -> String {
    let Some(request) = plan.requests.get(id) else {
        return format!("#{id}");
    };
    let matchers: Vec<String> = request.matchers.iter().map(ToString::to_string).collect();
    let labels = request
        .hints
        .labels
        .as_ref()
        .map(|labels| format!(" labels [{}]", labels.join(", ")));
    let presence = if request.hints.presence_only { " presence" } else { "" };
    format!(
        "#{id} {{{}}} {}..={}ms{}{presence}",
        matchers.join(", "),
        request.start_ms,
        request.end_ms,
        labels.unwrap_or_default()
    )
}

fn line(out: &mut Lines, at: &Node, depth: usize, text: &str) {
    out.push(PlanLine {
        depth,
        text: text.to_owned(),
        cost: None,
        node: identity(at),
    });
}

fn window(plan: &Plan, at: &Node, window: &Window, depth: usize, out: &mut Lines) {
    let modifier = match window.extended {
        Extended::No => "",
        Extended::Anchored => " anchored",
        Extended::Smoothed => " smoothed",
    };
    let head = format!("{}ms{}{modifier}", window.range_ms, shift(&window.shift));
    match &window.input {
        WindowInput::Request(id) => line(out, at, depth, &format!("range {head} of {}", request(plan, *id))),
        WindowInput::Subquery(inner) => {
            let grid = inner.grid;
            let steps = format!("{} steps of {}ms from {}ms", grid.n, grid.step_ms, grid.start_ms);
            line(out, at, depth, &format!("subquery {head}, {steps}"));
            node(plan, inner, depth + 1, out);
        }
    }
}

fn node(plan: &Plan, at: &Node, depth: usize, out: &mut Lines) {
    match &at.kind {
        NodeKind::Number(value) => line(out, at, depth, &format!("number {value}")),
        NodeKind::String(text) => line(out, at, depth, &format!("string {text:?}")),
        NodeKind::Bytes(bytes) => line(out, at, depth, &format!("string {}", QuotedBytes(bytes))),
        NodeKind::Select {
            request: id, shift: by, ..
        } => {
            line(
                out,
                at,
                depth,
                &format!("select{} of {}", shift(by), request(plan, *id)),
            );
        }
        NodeKind::Window(inner) => window(plan, at, inner, depth, out),
        NodeKind::Invariant(inner) => {
            line(out, at, depth, &format!("once for {} steps", at.grid.n));
            node(plan, inner, depth + 1, out);
        }
        NodeKind::Fragment { id: NOT_PUSHED, input } => node(plan, input, depth, out),
        NodeKind::Fragment { id, input } => {
            line(out, at, depth, &format!("fragment f{id}"));
            node(plan, input, depth + 1, out);
        }
        NodeKind::Shared { slot, input } => {
            line(out, at, depth, &format!("shared ${slot}"));
            node(plan, input, depth + 1, out);
        }
        NodeKind::Negate(inner) => {
            line(out, at, depth, "negate");
            node(plan, inner, depth + 1, out);
        }
        NodeKind::Binary {
            op,
            lhs,
            rhs,
            return_bool,
            ..
        } => {
            line(
                out,
                at,
                depth,
                &format!("binary {}{}", op.symbol(), if *return_bool { " bool" } else { "" }),
            );
            node(plan, lhs, depth + 1, out);
            node(plan, rhs, depth + 1, out);
        }
        NodeKind::Aggregate {
            op,
            input,
            param,
            grouping,
            without,
        } => {
            let by = if *without { "without" } else { "by" };
            line(
                out,
                at,
                depth,
                &format!("aggregate {} {by} ({})", op.name(), grouping.join(", ")),
            );
            if let Some(param) = param {
                node(plan, param, depth + 1, out);
            }
            node(plan, input, depth + 1, out);
        }
        NodeKind::Call { func, args } => {
            line(out, at, depth, &format!("call {func:?}"));
            for arg in args {
                node(plan, arg, depth + 1, out);
            }
        }
        NodeKind::Info { input, request: id, .. } => {
            line(out, at, depth, &format!("info from {}", request(plan, *id)));
            node(plan, input, depth + 1, out);
        }
    }
}
