//! Type checking.

use crate::ast::{AggregateOp, BinaryExpr, Call, Cardinality, Expr, ExprKind, Span, ValueType};

type Errors = Vec<(Span, String)>;

/// Notes what is wrong with an expression and gives its type.
pub(super) fn check(query: &str, expr: &Expr, errors: &mut Errors) -> ValueType {
    match &expr.kind {
        ExprKind::Number { .. } | ExprKind::String(_) | ExprKind::Bytes(_) => {}
        ExprKind::Paren(inner) => {
            check(query, inner, errors);
        }
        ExprKind::Unary { expr: inner, .. } => {
            let got = check(query, inner, errors);
            if !matches!(got, ValueType::Scalar | ValueType::Vector) {
                errors.push((
                    expr.span,
                    format!(
                        "unary expression only allowed on expressions of type scalar or instant vector, got {:?}",
                        got.documented()
                    ),
                ));
            }
        }
        ExprKind::Binary(binary) => check_binary(query, expr.span, binary, errors),
        ExprKind::Aggregate(aggregate) => {
            expect(
                query,
                &aggregate.expr,
                ValueType::Vector,
                "aggregation expression",
                errors,
            );
            if let Some(param) = &aggregate.param {
                let wanted = if aggregate.op == AggregateOp::CountValues {
                    ValueType::String
                } else {
                    ValueType::Scalar
                };
                expect(query, param, wanted, "aggregation parameter", errors);
            }
        }
        ExprKind::Call(call) => check_call(query, expr.span, call, errors),
        ExprKind::Vector(selector) => check_selector(expr.span, selector, errors),
        ExprKind::Matrix(matrix) => check_selector(matrix.selector_span, &matrix.selector, errors),
        ExprKind::Subquery(subquery) => {
            let got = check(query, &subquery.expr, errors);
            if got != ValueType::Vector {
                errors.push((
                    expr.span,
                    format!(
                        "subquery is only allowed on instant vector, got {} instead",
                        got.short()
                    ),
                ));
            }
        }
    }
    expr.value_type()
}

fn expect(query: &str, expr: &Expr, wanted: ValueType, context: &str, errors: &mut Errors) {
    let got = check(query, expr, errors);
    if got != wanted {
        errors.push((
            expr.span,
            format!(
                "expected type {} in {context}, got {}",
                wanted.documented(),
                got.documented()
            ),
        ));
    }
}

fn check_selector(span: Span, selector: &crate::ast::VectorSelector, errors: &mut Errors) {
    if !selector.name.is_empty() {
        let others = &selector.matchers[..selector.matchers.len().saturating_sub(1)];
        for matcher in others.iter().filter(|m| m.name() == gnomon_model::METRIC_NAME) {
            errors.push((
                span,
                format!(
                    "metric name must not be set twice: {:?} or {:?}",
                    selector.name,
                    matcher.value()
                ),
            ));
        }
    } else if selector.matchers.iter().all(gnomon_model::Matcher::matches_empty) {
        errors.push((
            span,
            "vector selector must contain at least one non-empty matcher".to_owned(),
        ));
    }
}

/// The place of a binary operator with its modifiers.
fn operator_span(query: &str, binary: &BinaryExpr) -> Span {
    let (start, end) = (binary.lhs.span.end, binary.rhs.span.start);
    let between = query.get(start..end).unwrap_or("");
    let leading = between.len() - between.trim_start().len();
    Span::new(start + leading, start + between.trim_end().len())
}

fn check_binary(query: &str, span: Span, binary: &BinaryExpr, errors: &mut Errors) {
    let left = check(query, &binary.lhs, errors);
    let right = check(query, &binary.rhs, errors);
    let (op, matching) = (binary.op, &binary.matching);
    let at_operator = operator_span(query, binary);
    if binary.return_bool && !op.is_comparison() {
        errors.push((
            at_operator,
            "bool modifier can only be used on comparison operators".to_owned(),
        ));
    }
    let scalars = left == ValueType::Scalar && right == ValueType::Scalar;
    if op.is_comparison() && !binary.return_bool && scalars {
        errors.push((
            at_operator,
            "comparisons between scalars must use BOOL modifier".to_owned(),
        ));
    }
    if matching.on {
        for label in matching.labels.iter().filter(|label| matching.include.contains(label)) {
            errors.push((
                at_operator,
                format!("label {label:?} must not occur in ON and GROUP clause at once"),
            ));
        }
    }
    for (side, got) in [(&binary.lhs, left), (&binary.rhs, right)] {
        if !matches!(got, ValueType::Scalar | ValueType::Vector) {
            let message = "binary expression must contain only scalar and instant vector types";
            errors.push((side.span, message.to_owned()));
        }
    }
    let filled = matching.fill_left.is_some() || matching.fill_right.is_some();
    if left != ValueType::Vector || right != ValueType::Vector {
        if !matching.labels.is_empty() {
            errors.push((span, "vector matching only allowed between instant vectors".to_owned()));
        }
        if filled {
            errors.push((
                span,
                "filling in missing series only allowed between instant vectors".to_owned(),
            ));
        }
    } else if op.is_set() {
        if matches!(matching.card, Cardinality::OneToMany | Cardinality::ManyToOne) {
            errors.push((span, format!("no grouping allowed for {:?} operation", op.symbol())));
        }
        if filled {
            errors.push((
                span,
                "filling in missing series not allowed for set operators".to_owned(),
            ));
        }
    }
    if (left == ValueType::Scalar || right == ValueType::Scalar) && op.is_set() {
        errors.push((
            span,
            format!("set operator {:?} not allowed in binary scalar expression", op.symbol()),
        ));
    }
}

fn check_call(query: &str, span: Span, call: &Call, errors: &mut Errors) {
    let (func, got) = (call.func, call.args.len());
    let (name, declared) = (func.name, func.args.len());
    if func.variadic == 0 {
        if declared != got {
            errors.push((
                span,
                format!("expected {declared} argument(s) in call to {name:?}, got {got}"),
            ));
        }
    } else {
        let least = declared - 1;
        let most = usize::try_from(func.variadic).map(|extra| least + extra);
        if got < least {
            errors.push((
                span,
                format!("expected at least {least} argument(s) in call to {name:?}, got {got}"),
            ));
        } else if let Ok(most) = most
            && got > most
        {
            errors.push((
                span,
                format!("expected at most {most} argument(s) in call to {name:?}, got {got}"),
            ));
        }
    }
    for (i, arg) in call.args.iter().enumerate() {
        let wanted = match func.args.get(i) {
            Some(wanted) => *wanted,
            None if func.variadic == 0 => break,
            None => match func.args.last() {
                Some(wanted) => *wanted,
                None => break,
            },
        };
        if name == "info" && i == 1 {
            check_info_selector(span, arg, errors);
            continue;
        }
        let got = check(query, arg, errors);
        if got != wanted {
            errors.push((
                arg.span,
                format!(
                    "expected type {} in call to function {name:?}, got {}",
                    wanted.documented(),
                    got.documented()
                ),
            ));
        }
    }
}

/// The second argument of `info` holds matchers only; all of them may match the empty text.
fn check_info_selector(span: Span, arg: &Expr, errors: &mut Errors) {
    let got = arg.value_type();
    if got != ValueType::Vector {
        let message = format!(
            "expected type instant vector in call to function \"info\", got {}",
            got.documented()
        );
        errors.push((span, message));
    }
    match &arg.kind {
        ExprKind::Vector(selector) if selector.name.is_empty() => {}
        ExprKind::Vector(_) => {
            errors.push((
                arg.span,
                "expected label selectors only, got vector selector instead".to_owned(),
            ));
        }
        _ => errors.push((arg.span, "expected label selectors only".to_owned())),
    }
}
