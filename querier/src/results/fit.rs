//! Which queries can be put together from results of some of their steps: those of which each step is evaluated for itself.

use gnomon_model::{MatchOp, Matcher};
use gnomon_promql::Expr;
use gnomon_promql::ast::{AggregateOp, At, DurationExpr, ExprKind, VectorSelector};

/// What looks at several steps, or at the first or the last one, or may fail for several that each are well: two series that have one name each, and none
/// after it is dropped, must not become one, whichever steps they have.
const UNFIT: [&str; 9] = [
    "info",
    "label_join",
    "label_replace",
    "sort_by_label",
    "sort_by_label_desc",
    "absent_over_time",
    "start",
    "end",
    "range",
];

/// Whether the results of all steps are those of some of them and of the others, put together.
pub(super) fn is_fit(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Number { .. } | ExprKind::String(_) => true,
        ExprKind::Bytes(_) => false,
        ExprKind::Paren(inner) | ExprKind::Unary { expr: inner, .. } => is_fit(inner),
        ExprKind::Binary(binary) => is_fit(&binary.lhs) && is_fit(&binary.rhs),
        ExprKind::Aggregate(aggregate) => {
            let unfit = [AggregateOp::CountValues, AggregateOp::LimitK, AggregateOp::LimitRatio];
            !unfit.contains(&aggregate.op) && is_fit(&aggregate.expr) && aggregate.param.as_ref().is_none_or(is_fit)
        }
        ExprKind::Call(call) => !UNFIT.contains(&call.func.name) && call.args.iter().all(is_fit),
        ExprKind::Vector(selector) => is_fit_selector(selector),
        ExprKind::Matrix(matrix) => is_fit_selector(&matrix.selector) && is_fixed(&matrix.range),
        ExprKind::Subquery(subquery) => {
            let durations = [subquery.step.as_ref(), subquery.offset.as_ref()];
            is_fit(&subquery.expr)
                && is_absolute(subquery.at)
                && is_fixed(&subquery.range)
                && durations.into_iter().flatten().all(is_fixed)
        }
    }
}

fn is_fit_selector(selector: &VectorSelector) -> bool {
    let is_name = |m: &Matcher| m.name() == "__name__" && m.op() == MatchOp::Equal && !m.value().is_empty();
    let extended = selector.anchored || selector.smoothed;
    selector.matchers.iter().any(is_name)
        && !extended
        && is_absolute(selector.at)
        && selector.offset.as_ref().is_none_or(is_fixed)
}

/// Not at the beginning or the end of the query, which are others where it has some of its steps.
fn is_absolute(at: Option<At>) -> bool {
    !matches!(at, Some(At::Start | At::End))
}

/// The same, whichever steps a query has.
fn is_fixed(duration: &DurationExpr) -> bool {
    match duration {
        DurationExpr::Seconds { .. } | DurationExpr::Step(_) => true,
        DurationExpr::Range(_) => false,
        DurationExpr::Paren(inner) | DurationExpr::Unary { expr: inner, .. } => is_fixed(inner),
        DurationExpr::Binary { lhs, rhs, .. } => is_fixed(lhs) && is_fixed(rhs),
        DurationExpr::Min(a, b) | DurationExpr::Max(a, b) => is_fixed(a) && is_fixed(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_promql::{ParseOptions, parse};

    #[test]
    fn what_looks_beyond_a_step_is_not_fit() {
        let fit = |query: &str| is_fit(&parse(query, &ParseOptions::everything()).unwrap());
        for query in [
            "up",
            "sum by (job) (rate(x_total[5m] offset 1h))",
            "a / on (job) group_left b",
            "max_over_time(rate(x_total[5m])[1h:1m])",
            "histogram_quantile(0.9, sum by (le) (rate(x_bucket[5m])))",
            "topk(3, up) or vector(1)",
            "x @ 100 + x offset -5m",
            "x offset step()",
            "x + step() + time()",
        ] {
            assert!(fit(query), "{query}");
        }
        for query in [
            "{__name__=~\"a|b\"}",
            "{job=\"x\"}",
            "rate({__name__!=\"a\",job=\"b\"}[5m])",
            "x @ start()",
            "rate(x[5m] @ end())",
            "max_over_time(x[1h:1m] @ end())",
            "label_replace(x, \"a\", \"$1\", \"b\", \"(.*)\")",
            "limitk(3, x)",
            "count_values(\"v\", x)",
            "x offset range()",
            "rate(x[range()])",
            "info(x)",
            "start()",
            "x - end()",
            "x / range()",
            "sum(x) + vector(end() - start())",
            "x > bool scalar(vector(range()))",
            "absent_over_time(x[5m])",
        ] {
            assert!(!fit(query), "{query}");
        }
    }
}
