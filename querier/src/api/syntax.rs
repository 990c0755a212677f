//! `parse_query`: the syntax tree as JSON, in the shape that Prometheus' page draws it from.

use crate::answer::Answer;
use crate::error::ApiError;
use crate::form::Form;
use crate::router::Api;
use axum::extract::State;
use gnomon_model::Matcher;
use gnomon_model::gofloat::Plain;
use gnomon_promql::ast::{
    AggregateExpr, At, BinaryExpr, Call, Cardinality, DurationExpr, Expr, ExprKind, MatrixSelector, SubqueryExpr,
    ValueType, VectorMatching, VectorSelector,
};
use serde_json::{Value, json};
use std::sync::Arc;

/// `/parse_query`.
pub(super) async fn parse(State(api): State<Arc<Api>>, form: Form) -> Result<Answer, ApiError> {
    let expr = api.parse(form.get("query"), api.state.query.timeout).await?;
    let expr = expr.map_err(|e| ApiError::parameter("query", e))?;
    Answer::of(&node(&expr))
}

fn node(expr: &Expr) -> Value {
    match &expr.kind {
        ExprKind::Number { value, .. } => json!({"type": "numberLiteral", "val": Plain(*value).to_string()}),
        ExprKind::String(text) => json!({"type": "stringLiteral", "val": text}),
        ExprKind::Bytes(bytes) => json!({"type": "stringLiteral", "val": String::from_utf8_lossy(bytes)}),
        ExprKind::Paren(inner) => json!({"type": "parenExpr", "expr": node(inner)}),
        ExprKind::Unary { negative, expr } => {
            json!({"type": "unaryExpr", "op": if *negative { "-" } else { "+" }, "expr": node(expr)})
        }
        ExprKind::Binary(binary) => of_binary(binary),
        ExprKind::Aggregate(aggregate) => of_aggregate(aggregate),
        ExprKind::Call(call) => of_call(call),
        ExprKind::Vector(selector) => of_selector("vectorSelector", selector),
        ExprKind::Matrix(matrix) => of_matrix(matrix),
        ExprKind::Subquery(subquery) => of_subquery(subquery),
    }
}

fn of_binary(binary: &BinaryExpr) -> Value {
    let vectors = [&binary.lhs, &binary.rhs].map(|side| side.value_type()) == [ValueType::Vector; 2];
    json!({
        "type": "binaryExpr",
        "op": binary.op.symbol(),
        "lhs": node(&binary.lhs),
        "rhs": node(&binary.rhs),
        "matching": vectors.then(|| of_matching(&binary.matching)),
        "bool": binary.return_bool,
    })
}

fn of_matching(matching: &VectorMatching) -> Value {
    let card = match matching.card {
        Cardinality::OneToOne => "one-to-one",
        Cardinality::ManyToOne => "many-to-one",
        Cardinality::OneToMany => "one-to-many",
        Cardinality::ManyToMany => "many-to-many",
    };
    json!({
        "card": card,
        "labels": matching.labels,
        "on": matching.on,
        "include": matching.include,
        "fillValues": {"lhs": matching.fill_left, "rhs": matching.fill_right},
    })
}

fn of_aggregate(aggregate: &AggregateExpr) -> Value {
    json!({
        "type": "aggregation",
        "op": aggregate.op.name(),
        "expr": node(&aggregate.expr),
        "param": aggregate.param.as_ref().map(node),
        "grouping": aggregate.grouping,
        "without": aggregate.without,
    })
}

fn of_call(call: &Call) -> Value {
    let types: Vec<_> = call.func.args.iter().map(|kind| kind.short()).collect();
    json!({
        "type": "call",
        "func": {
            "name": call.func.name,
            "argTypes": types,
            "variadic": call.func.variadic,
            "returnType": call.func.returns.short(),
        },
        "args": call.args.iter().map(node).collect::<Vec<_>>(),
    })
}

fn of_selector(kind: &str, selector: &VectorSelector) -> Value {
    let (timestamp, start_or_end) = at(selector.at);
    json!({
        "type": kind,
        "name": selector.name,
        "offset": selector.offset.as_ref().map_or(0, milliseconds),
        "matchers": selector.matchers.iter().map(of_matcher).collect::<Vec<_>>(),
        "timestamp": timestamp,
        "startOrEnd": start_or_end,
        "anchored": selector.anchored,
        "smoothed": selector.smoothed,
    })
}

fn of_matrix(matrix: &MatrixSelector) -> Value {
    let mut shown = of_selector("matrixSelector", &matrix.selector);
    shown["range"] = milliseconds(&matrix.range).into();
    shown
}

fn of_subquery(subquery: &SubqueryExpr) -> Value {
    let (timestamp, start_or_end) = at(subquery.at);
    json!({
        "type": "subquery",
        "expr": node(&subquery.expr),
        "range": milliseconds(&subquery.range),
        "offset": subquery.offset.as_ref().map_or(0, milliseconds),
        "step": subquery.step.as_ref().map_or(0, milliseconds),
        "timestamp": timestamp,
        "startOrEnd": start_or_end,
    })
}

fn of_matcher(matcher: &Matcher) -> Value {
    json!({"name": matcher.name(), "value": matcher.value(), "type": matcher.op().to_string()})
}

/// Milliseconds, or the word for one end of the query's range.
fn at(at: Option<At>) -> (Option<i64>, Option<&'static str>) {
    match at {
        None => (None, None),
        Some(At::Millis(ms)) => (Some(ms), None),
        Some(At::Start) => (None, Some("start")),
        Some(At::End) => (None, Some("end")),
    }
}

/// 0 for arithmetic and what only a running query knows (`step()`, say), as Prometheus shows it.
fn milliseconds(duration: &DurationExpr) -> i64 {
    match duration {
        DurationExpr::Seconds { value, .. } => (value * 1000.0).round() as i64,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_promql::ParseOptions;

    fn shown(query: &str) -> String {
        let expr = gnomon_promql::parse(query, &ParseOptions::default()).unwrap();
        crate::gojson::to_string(&node(&expr)).unwrap()
    }

    #[test]
    fn trees_are_as_prometheus_shows_them() {
        for (query, json) in [
            ("1.5", r#"{"type":"numberLiteral","val":"1.5"}"#),
            (
                r#"("<x>")"#,
                r#"{"expr":{"type":"stringLiteral","val":"\u003cx\u003e"},"type":"parenExpr"}"#,
            ),
            (
                r#"a{b!="c"} offset -5m @ 10"#,
                r#"{"anchored":false,"matchers":[{"name":"b","type":"!=","value":"c"},{"name":"__name__","type":"=","value":"a"}],"name":"a","offset":-300000,"smoothed":false,"startOrEnd":null,"timestamp":10000,"type":"vectorSelector"}"#,
            ),
            (
                "max by (x, y) (-rate(a[5m]))",
                r#"{"expr":{"expr":{"args":[{"anchored":false,"matchers":[{"name":"__name__","type":"=","value":"a"}],"name":"a","offset":0,"range":300000,"smoothed":false,"startOrEnd":null,"timestamp":null,"type":"matrixSelector"}],"func":{"argTypes":["matrix"],"name":"rate","returnType":"vector","variadic":0},"type":"call"},"op":"-","type":"unaryExpr"},"grouping":["x","y"],"op":"max","param":null,"type":"aggregation","without":false}"#,
            ),
            (
                "a == bool on (j) group_left (k) b",
                r#"{"bool":true,"lhs":{"anchored":false,"matchers":[{"name":"__name__","type":"=","value":"a"}],"name":"a","offset":0,"smoothed":false,"startOrEnd":null,"timestamp":null,"type":"vectorSelector"},"matching":{"card":"many-to-one","fillValues":{"lhs":null,"rhs":null},"include":["k"],"labels":["j"],"on":true},"op":"==","rhs":{"anchored":false,"matchers":[{"name":"__name__","type":"=","value":"b"}],"name":"b","offset":0,"smoothed":false,"startOrEnd":null,"timestamp":null,"type":"vectorSelector"},"type":"binaryExpr"}"#,
            ),
        ] {
            assert_eq!(shown(query), json, "{query}");
        }
        assert!(shown("1 + a").contains(r#""matching":null"#));
        assert!(shown("a[1h:5m] @ end()").starts_with(r#"{"expr":"#));
        assert!(shown("a[1h:5m] @ end()").ends_with(
            r#""offset":0,"range":3600000,"startOrEnd":"end","step":300000,"timestamp":null,"type":"subquery"}"#
        ));
    }
}
