//! A plan as text.

use super::{Extended, Node, NodeKind, Plan, Shift, Window, WindowInput};
use crate::printer::QuotedBytes;
use std::fmt::Write;

pub(super) fn explain(plan: &Plan) -> String {
    let mut out = String::new();
    node(plan, &plan.root, 0, &mut out);
    out
}

fn line(out: &mut String, depth: usize, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{:indent$}{text}", "", indent = depth * 2);
}

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

fn window(plan: &Plan, window: &Window, depth: usize, out: &mut String) {
    let modifier = match window.extended {
        Extended::No => "",
        Extended::Anchored => " anchored",
        Extended::Smoothed => " smoothed",
    };
    let head = format!("{}ms{}{modifier}", window.range_ms, shift(&window.shift));
    match &window.input {
        WindowInput::Request(id) => line(out, depth, &format!("range {head} of {}", request(plan, *id))),
        WindowInput::Subquery(inner) => {
            let grid = inner.grid;
            let steps = format!("{} steps of {}ms from {}ms", grid.n, grid.step_ms, grid.start_ms);
            line(out, depth, &format!("subquery {head}, {steps}"));
            node(plan, inner, depth + 1, out);
        }
    }
}

fn node(plan: &Plan, at: &Node, depth: usize, out: &mut String) {
    match &at.kind {
        NodeKind::Number(value) => line(out, depth, &format!("number {value}")),
        NodeKind::String(text) => line(out, depth, &format!("string {text:?}")),
        NodeKind::Bytes(bytes) => line(out, depth, &format!("string {}", QuotedBytes(bytes))),
        NodeKind::Select {
            request: id, shift: by, ..
        } => {
            line(out, depth, &format!("select{} of {}", shift(by), request(plan, *id)));
        }
        NodeKind::Window(inner) => window(plan, inner, depth, out),
        NodeKind::Invariant(inner) => {
            line(out, depth, &format!("once for {} steps", at.grid.n));
            node(plan, inner, depth + 1, out);
        }
        NodeKind::Fragment { id, input } => {
            line(out, depth, &format!("fragment f{id}"));
            node(plan, input, depth + 1, out);
        }
        NodeKind::Shared { slot, input } => {
            line(out, depth, &format!("shared ${slot}"));
            node(plan, input, depth + 1, out);
        }
        NodeKind::Negate(inner) => {
            line(out, depth, "negate");
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
                depth,
                &format!("aggregate {} {by} ({})", op.name(), grouping.join(", ")),
            );
            if let Some(param) = param {
                node(plan, param, depth + 1, out);
            }
            node(plan, input, depth + 1, out);
        }
        NodeKind::Call { func, args } => {
            line(out, depth, &format!("call {func:?}"));
            for arg in args {
                node(plan, arg, depth + 1, out);
            }
        }
        NodeKind::Info { input, request: id, .. } => {
            line(out, depth, &format!("info from {}", request(plan, *id)));
            node(plan, input, depth + 1, out);
        }
    }
}
