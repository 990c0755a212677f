//! Projection: which labels, and whether the values, of a selector's series the result depends on. A source may leave
//! out the rest; notes name metrics, so the name stays wherever a function may say something.

use crate::ast::AggregateOp;
use crate::functions::FunctionId;
use crate::plan::fragment::of_range;
use crate::plan::{Node, NodeKind, Plan};
use crate::source::SelectRequest;
use gnomon_model::METRIC_NAME;

/// What of a node's elements is looked at.
#[derive(Clone)]
struct Need {
    /// None is all.
    labels: Option<Vec<String>>,
    values: bool,
}

impl Need {
    const ALL: Self = Self {
        labels: None,
        values: true,
    };

    fn with_name(mut self) -> Self {
        if let Some(labels) = &mut self.labels
            && !labels.iter().any(|label| label == METRIC_NAME)
        {
            labels.push(METRIC_NAME.to_owned());
        }
        self
    }
}

pub(super) fn note(mut plan: Plan) -> Plan {
    node(&plan.root, &Need::ALL, &mut plan.requests);
    plan
}

fn node(at: &Node, need: &Need, requests: &mut [SelectRequest]) {
    if let Some(request) = at.request().and_then(|request| requests.get_mut(request)) {
        request.hints.labels.clone_from(&need.labels);
        request.hints.presence_only = !need.values;
    }
    match &at.kind {
        NodeKind::Invariant(input) | NodeKind::Shared { input, .. } | NodeKind::Fragment { input, .. } => {
            node(input, need, requests);
        }
        NodeKind::Aggregate {
            op,
            input,
            param,
            grouping,
            without,
        } => {
            if let Some(param) = param {
                node(param, &Need::ALL, requests);
            }
            node(input, &of_input(*op, grouping, *without), requests);
        }
        NodeKind::Call { func, args } => {
            let need = of_arguments(*func, need);
            args.iter().for_each(|arg| node(arg, &need, requests));
        }
        _ => at
            .children()
            .into_iter()
            .for_each(|child| node(child, &Need::ALL, requests)),
    }
}

fn of_input(op: AggregateOp, grouping: &[String], without: bool) -> Need {
    let whole = matches!(
        op,
        AggregateOp::TopK | AggregateOp::BottomK | AggregateOp::LimitK | AggregateOp::LimitRatio
    );
    Need {
        labels: (!whole && !without).then(|| grouping.to_vec()),
        values: !matches!(op, AggregateOp::Count | AggregateOp::Group),
    }
}

fn of_arguments(func: FunctionId, need: &Need) -> Need {
    use FunctionId as F;
    let labels = |labels: &Need, values| {
        Need {
            labels: labels.labels.clone(),
            values,
        }
        .with_name()
    };
    match func {
        F::Absent => Need {
            labels: Some(Vec::new()),
            values: false,
        },
        F::Scalar => Need {
            labels: Some(Vec::new()),
            values: true,
        },
        // Whether there are samples, and when, is all that these tell.
        F::CountOverTime | F::PresentOverTime | F::TsOfFirstOverTime | F::TsOfLastOverTime => labels(need, false),
        func if of_range(func) => labels(need, true),
        _ => Need::ALL,
    }
}
