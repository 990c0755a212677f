//! A fragment to and from its message.

use gnomon_model::Matcher;
use gnomon_promql::ast::{AggregateOp, BinaryOp, Span};
use gnomon_promql::functions::Function;
use gnomon_promql::{Fragment, FragmentKind, FragmentNode};
use gnomon_proto::ServiceError;
use gnomon_proto::v1::{self, fragment_node::Kind};

#[must_use]
pub fn to_wire(fragment: &Fragment) -> v1::Fragment {
    v1::Fragment {
        first_step_ms: fragment.first_step_ms,
        step_ms: fragment.step_ms,
        steps: fragment.steps as u64,
        lookback_ms: fragment.lookback_ms,
        delayed_name_removal: fragment.delayed_name_removal,
        use_start_times: fragment.use_start_times,
        root: Some(node_to_wire(&fragment.root)),
    }
}

fn node_to_wire(node: &FragmentNode) -> v1::FragmentNode {
    let boxed = |node: &FragmentNode| Some(Box::new(node_to_wire(node)));
    let kind = match &node.kind {
        FragmentKind::Number(value) => Kind::Number(*value),
        FragmentKind::Select { at_ms, offset_ms } => Kind::Select(v1::SelectNode {
            at_ms: *at_ms,
            offset_ms: *offset_ms,
            range_ms: 0,
        }),
        FragmentKind::Range {
            range_ms,
            at_ms,
            offset_ms,
        } => Kind::Range(v1::SelectNode {
            at_ms: *at_ms,
            offset_ms: *offset_ms,
            range_ms: *range_ms,
        }),
        FragmentKind::Call { func, args } => Kind::Call(v1::CallNode {
            func: func.name().to_owned(),
            args: args.iter().map(node_to_wire).collect(),
        }),
        FragmentKind::Negate(inner) => Kind::Negate(Box::new(node_to_wire(inner))),
        FragmentKind::Binary {
            op,
            return_bool,
            lhs,
            rhs,
        } => Kind::Binary(Box::new(v1::BinaryNode {
            op: op.symbol().to_owned(),
            return_bool: *return_bool,
            lhs: boxed(lhs),
            rhs: boxed(rhs),
        })),
        FragmentKind::Aggregate {
            op,
            grouping,
            without,
            param,
            input,
        } => Kind::Aggregate(Box::new(v1::AggregateNode {
            op: op.name().to_owned(),
            grouping: grouping.clone(),
            without: *without,
            param: param.as_deref().and_then(boxed),
            input: boxed(input),
        })),
    };
    v1::FragmentNode {
        span_start: node.span.start as u64,
        span_end: node.span.end as u64,
        kind: Some(kind),
    }
}

fn bad(what: impl std::fmt::Display) -> ServiceError {
    ServiceError::Invalid(format!("a fragment with {what} cannot be evaluated here"))
}

/// The fragment of a message over series that satisfy `matchers`.
///
/// # Errors
/// `Invalid` where it is none that this node can evaluate: one of a newer version, perhaps.
pub fn from_wire(wire: &v1::Fragment, matchers: Vec<Matcher>) -> Result<Fragment, ServiceError> {
    let root = wire.root.as_ref().ok_or_else(|| bad("nothing in it"))?;
    let fragment = Fragment {
        matchers,
        first_step_ms: wire.first_step_ms,
        step_ms: wire.step_ms,
        steps: usize::try_from(wire.steps).map_err(bad)?,
        lookback_ms: wire.lookback_ms,
        delayed_name_removal: wire.delayed_name_removal,
        use_start_times: wire.use_start_times,
        root: node_from_wire(root)?,
    };
    fragment.check().map_err(|e| ServiceError::Invalid(e.to_string()))?;
    Ok(fragment)
}

fn node_from_wire(wire: &v1::FragmentNode) -> Result<FragmentNode, ServiceError> {
    let boxed = |node: &Option<Box<v1::FragmentNode>>| match node {
        Some(node) => node_from_wire(node).map(Box::new),
        None => Err(bad("a node missing")),
    };
    let kind = match wire.kind.as_ref().ok_or_else(|| bad("an unknown kind of node"))? {
        Kind::Number(value) => FragmentKind::Number(*value),
        Kind::Select(select) => FragmentKind::Select {
            at_ms: select.at_ms,
            offset_ms: select.offset_ms,
        },
        Kind::Range(range) => FragmentKind::Range {
            range_ms: range.range_ms,
            at_ms: range.at_ms,
            offset_ms: range.offset_ms,
        },
        Kind::Call(call) => FragmentKind::Call {
            func: Function::named(&call.func)
                .ok_or_else(|| bad(format!("function {:?}", call.func)))?
                .id,
            args: call.args.iter().map(node_from_wire).collect::<Result<_, _>>()?,
        },
        Kind::Negate(inner) => FragmentKind::Negate(Box::new(node_from_wire(inner)?)),
        Kind::Binary(binary) => FragmentKind::Binary {
            op: BinaryOp::named(&binary.op).ok_or_else(|| bad(format!("operator {:?}", binary.op)))?,
            return_bool: binary.return_bool,
            lhs: boxed(&binary.lhs)?,
            rhs: boxed(&binary.rhs)?,
        },
        Kind::Aggregate(aggregate) => FragmentKind::Aggregate {
            op: AggregateOp::named(&aggregate.op).ok_or_else(|| bad(format!("aggregation {:?}", aggregate.op)))?,
            grouping: aggregate.grouping.clone(),
            without: aggregate.without,
            param: match &aggregate.param {
                None => None,
                param => Some(boxed(param)?),
            },
            input: boxed(&aggregate.input)?,
        },
    };
    let position = |at: u64| usize::try_from(at).map_err(bad);
    Ok(FragmentNode {
        span: Span::new(position(wire.span_start)?, position(wire.span_end)?),
        kind,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_promql::{EvalParams, ParseOptions, Plan, parse};

    #[test]
    fn fragments_survive_the_wire() {
        for query in [
            "sum by (job) (rate(x{a=\"b\"}[5m] offset 1m))",
            "topk(3, abs(-x * 2) > bool 7)",
            "quantile_over_time(0.5, x[5m] @ 100)",
            "count without (a, b) ({__name__=~\"a|b\"})",
        ] {
            let expr = parse(query, &ParseOptions::default()).unwrap();
            let plan = Plan::new(query, &expr, EvalParams::instant(1000)).unwrap();
            let (fragment, _) = plan.pushed().next().unwrap();
            let wire = to_wire(fragment);
            let bytes = prost::Message::encode_to_vec(&wire);
            let read: v1::Fragment = prost::Message::decode(bytes.as_slice()).unwrap();
            assert_eq!(&from_wire(&read, fragment.matchers.clone()).unwrap(), fragment);
        }
    }

    #[test]
    fn what_is_not_known_here_is_refused() {
        let query = "sum(rate(x[5m]))";
        let expr = parse(query, &ParseOptions::default()).unwrap();
        let plan = Plan::new(query, &expr, EvalParams::instant(1000)).unwrap();
        let (fragment, _) = plan.pushed().next().unwrap();
        let refused = |change: &dyn Fn(&mut v1::FragmentNode)| {
            let mut wire = to_wire(fragment);
            change(wire.root.as_mut().unwrap());
            matches!(
                from_wire(&wire, fragment.matchers.clone()),
                Err(ServiceError::Invalid(_))
            )
        };
        assert!(refused(&|root| root.kind = None));
        assert!(refused(&|root| root.kind = Some(Kind::Number(1.0))));
        assert!(refused(&|root| match &mut root.kind {
            Some(Kind::Aggregate(aggregate)) => aggregate.op = "stddev".into(),
            _ => panic!("no aggregation"),
        }));
        assert!(
            from_wire(&to_wire(fragment), Vec::new()).is_err(),
            "several names, which are dropped"
        );
    }
}
