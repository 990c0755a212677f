//! The other ways in which an instant query is evaluated too.

use crate::ast::{At, Expr, ExprKind, VectorSelector};
use crate::plan::looks_at_time;

/// The query with `@ at_ms` at every selector and subquery that is not below one with a time, with times at which it
/// must give the same; none where a function looks at the time itself.
pub(super) fn with_at(expr: &Expr, at_ms: i64) -> Vec<(String, i64)> {
    let mut pinned = expr.clone();
    if !pin(&mut pinned, at_ms) {
        return Vec::new();
    }
    let query = pinned.to_string();
    if depends_on_range(&query) {
        return Vec::new();
    }
    let times = if at_ms == 0 {
        vec![-1000, 0, 1000]
    } else {
        vec![at_ms.saturating_mul(-10), 0, at_ms / 5, at_ms, at_ms.saturating_mul(10)]
    };
    times.into_iter().map(|time| (query.clone(), time)).collect()
}

/// Whether the value depends on the range and step of the query it stands in.
pub(super) fn depends_on_range(query: &str) -> bool {
    ["start()", "end()", "range()", "step()"]
        .iter()
        .any(|function| query.contains(function))
}

fn pin_selector(selector: &mut VectorSelector, at_ms: i64) {
    if !matches!(selector.at, Some(At::Millis(_))) {
        selector.at = Some(At::Millis(at_ms));
    }
}

/// False where a function does not allow it.
fn pin(expr: &mut Expr, at_ms: i64) -> bool {
    match &mut expr.kind {
        ExprKind::Number { .. } | ExprKind::String(_) | ExprKind::Bytes(_) => true,
        ExprKind::Paren(inner) | ExprKind::Unary { expr: inner, .. } => pin(inner, at_ms),
        ExprKind::Binary(binary) => pin(&mut binary.lhs, at_ms) & pin(&mut binary.rhs, at_ms),
        ExprKind::Aggregate(aggregate) => {
            pin(&mut aggregate.expr, at_ms) & aggregate.param.as_mut().is_none_or(|param| pin(param, at_ms))
        }
        ExprKind::Call(call) => {
            !looks_at_time(call.func.id) & call.args.iter_mut().fold(true, |all, arg| pin(arg, at_ms) & all)
        }
        ExprKind::Vector(selector) => {
            pin_selector(selector, at_ms);
            true
        }
        ExprKind::Matrix(matrix) => {
            pin_selector(&mut matrix.selector, at_ms);
            true
        }
        ExprKind::Subquery(subquery) => {
            if !matches!(subquery.at, Some(At::Millis(_))) {
                subquery.at = Some(At::Millis(at_ms));
            }
            // What is inside goes by the subquery's time, and is left alone.
            true
        }
    }
}
