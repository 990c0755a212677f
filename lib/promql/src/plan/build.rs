//! Resolves times and lists selectors.

use super::duration::milliseconds;
use super::{EvalParams, Extended, Grid, Node, NodeKind, PlanError, Shift, Window, WindowInput};
use crate::ast::{AggregateExpr, AggregateOp, At, Call, Expr, ExprKind, MatrixSelector, SubqueryExpr, VectorSelector};
use crate::functions::FunctionId;
use crate::source::{SelectHints, SelectRequest};
use gnomon_model::{METRIC_NAME, MatchOp, Matcher};

/// What directly surrounds a selector.
#[derive(Clone, Default)]
struct Around {
    func: &'static str,
    grouping: Vec<String>,
    by: bool,
    /// A function further out reads nothing of histograms but their count and sum.
    histogram_stats: bool,
}

/// How far from its time a selector looks.
#[derive(Clone, Copy)]
struct Reach {
    /// 0 for an instant selector.
    range_ms: i64,
    extended: Extended,
}

struct Builder {
    params: EvalParams,
    requests: Vec<SelectRequest>,
}

pub(super) fn build(expr: &Expr, params: EvalParams) -> Result<(Node, Vec<SelectRequest>), PlanError> {
    let n = if params.step_ms == 0 {
        1
    } else {
        // The difference of two i64 needs 65 bits; steps that many never fit in memory anyway.
        usize::try_from(params.end_ms.saturating_sub(params.start_ms) / params.step_ms).unwrap_or(usize::MAX - 1) + 1
    };
    let grid = Grid {
        start_ms: params.start_ms,
        step_ms: params.step_ms,
        n,
    };
    let mut builder = Builder {
        params,
        requests: Vec::new(),
    };
    let root = builder.node(expr, grid, &Around::default())?;
    Ok((root, builder.requests))
}

/// Whether the function reads nothing of histograms but their count and sum.
const fn reads_stats(func: FunctionId) -> bool {
    matches!(
        func,
        FunctionId::HistogramCount | FunctionId::HistogramSum | FunctionId::HistogramAvg
    )
}

/// Whether count and sum of the function's result depend on nothing but those of its argument.
const fn keeps_stats(func: FunctionId) -> bool {
    matches!(
        func,
        FunctionId::Rate
            | FunctionId::Increase
            | FunctionId::Delta
            | FunctionId::Irate
            | FunctionId::Idelta
            | FunctionId::SumOverTime
            | FunctionId::AvgOverTime
            | FunctionId::FirstOverTime
            | FunctionId::LastOverTime
            | FunctionId::LabelReplace
            | FunctionId::LabelJoin
    )
}

impl Builder {
    fn node(&mut self, expr: &Expr, grid: Grid, around: &Around) -> Result<Node, PlanError> {
        let whole = |kind| Node {
            kind,
            span: expr.span,
            value_type: expr.value_type(),
            grid,
        };
        let kind = match &expr.kind {
            ExprKind::Number { value, .. } => NodeKind::Number(*value),
            ExprKind::String(text) => NodeKind::String(text.clone()),
            ExprKind::Bytes(bytes) => NodeKind::Bytes(bytes.clone()),
            ExprKind::Paren(inner) => return self.node(inner, grid, around),
            ExprKind::Unary {
                negative: false,
                expr: inner,
            } => return self.node(inner, grid, &Around::default()),
            ExprKind::Unary { expr: inner, .. } => {
                NodeKind::Negate(Box::new(self.node(inner, grid, &Around::default())?))
            }
            ExprKind::Binary(binary) => {
                let lhs = self.node(&binary.lhs, grid, &Around::default())?;
                let rhs = self.node(&binary.rhs, grid, &Around::default())?;
                NodeKind::Binary {
                    op: binary.op,
                    lhs: Box::new(lhs),
                    rhs: Box::new(rhs),
                    return_bool: binary.return_bool,
                    matching: binary.matching.clone(),
                }
            }
            ExprKind::Aggregate(aggregate) => self.aggregate(aggregate, grid, around)?,
            ExprKind::Call(call) => self.call(call, grid, around)?,
            ExprKind::Vector(selector) => {
                let (request, shift, extended) = self.select(selector, 0, grid, around)?;
                NodeKind::Select {
                    request,
                    shift,
                    extended,
                }
            }
            ExprKind::Matrix(matrix) => NodeKind::Window(self.matrix(matrix, grid, around)?),
            ExprKind::Subquery(subquery) => NodeKind::Window(self.subquery(subquery, grid)?),
        };
        Ok(whole(kind))
    }

    fn aggregate(&mut self, aggregate: &AggregateExpr, grid: Grid, around: &Around) -> Result<NodeKind, PlanError> {
        let param = match &aggregate.param {
            Some(param) => Some(Box::new(self.node(param, grid, &Around::default())?)),
            None => None,
        };
        let around = Around {
            func: aggregate.op.name(),
            grouping: aggregate.grouping.clone(),
            by: !aggregate.without,
            histogram_stats: around.histogram_stats && matches!(aggregate.op, AggregateOp::Sum | AggregateOp::Avg),
        };
        let input = Box::new(self.node(&aggregate.expr, grid, &around)?);
        let (grouping, without) = (aggregate.grouping.clone(), aggregate.without);
        Ok(NodeKind::Aggregate {
            op: aggregate.op,
            input,
            param,
            grouping,
            without,
        })
    }

    fn call(&mut self, call: &Call, grid: Grid, around: &Around) -> Result<NodeKind, PlanError> {
        let around = Around {
            func: call.func.name,
            histogram_stats: reads_stats(call.func.id) || (around.histogram_stats && keeps_stats(call.func.id)),
            ..Around::default()
        };
        let (start, end) = (self.params.start_ms as f64 / 1000.0, self.params.end_ms as f64 / 1000.0);
        match call.func.id {
            FunctionId::Pi => return Ok(NodeKind::Number(std::f64::consts::PI)),
            FunctionId::Start => return Ok(NodeKind::Number(start)),
            FunctionId::End => return Ok(NodeKind::Number(end)),
            FunctionId::Range => return Ok(NodeKind::Number(end - start)),
            FunctionId::Step => return Ok(NodeKind::Number(self.params.step_ms as f64 / 1000.0)),
            FunctionId::Info => return self.info(call, grid),
            _ => {}
        }
        let mut args = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            check_extended(call, arg)?;
            args.push(self.node(arg, grid, &around)?);
        }
        Ok(NodeKind::Call {
            func: call.func.id,
            args,
        })
    }

    fn shift(&self, at: Option<At>, offset: Option<&crate::ast::DurationExpr>) -> Result<Shift, PlanError> {
        let offset_ms = match offset {
            Some(offset) => milliseconds(offset, &self.params, true)?,
            None => 0,
        };
        let at_ms = at.map(|at| match at {
            At::Millis(ms) => ms,
            At::Start => self.params.start_ms,
            At::End => self.params.end_ms,
        });
        Ok(Shift { at_ms, offset_ms })
    }

    /// Notes a request for a selector with a range, 0 for none.
    fn select(
        &mut self,
        selector: &VectorSelector,
        range_ms: i64,
        grid: Grid,
        around: &Around,
    ) -> Result<(usize, Shift, Extended), PlanError> {
        let shift = self.shift(selector.at, selector.offset.as_ref())?;
        let extended = match (selector.anchored, selector.smoothed) {
            (true, _) => Extended::Anchored,
            (_, true) => Extended::Smoothed,
            _ => Extended::No,
        };
        let id = self.request(selector, Reach { range_ms, extended }, shift, grid, around);
        Ok((id, shift, extended))
    }

    fn request(&mut self, selector: &VectorSelector, reach: Reach, shift: Shift, grid: Grid, around: &Around) -> usize {
        let lookback_ms = self.params.lookback_ms;
        let Reach { range_ms, extended } = reach;
        let back_ms = match (range_ms, extended) {
            (0, _) => lookback_ms,
            (range_ms, Extended::No) => range_ms,
            (range_ms, _) => range_ms.saturating_add(lookback_ms),
        };
        let ahead_ms = if extended == Extended::Smoothed { lookback_ms } else { 0 };
        let id = self.requests.len();
        self.requests.push(SelectRequest {
            id,
            matchers: selector.matchers.clone(),
            // Ranges and lookback are open on the left.
            start_ms: shift.apply(grid.start_ms).saturating_sub(back_ms).saturating_add(1),
            end_ms: shift.apply(grid.last()).saturating_add(ahead_ms),
            hints: SelectHints {
                step_ms: grid.step_ms,
                range_ms,
                func: around.func,
                grouping: around.grouping.clone(),
                by: around.by,
                histogram_stats: around.histogram_stats,
                labels: None,
                presence_only: false,
                extended: extended != Extended::No,
            },
        });
        id
    }

    fn matrix(&mut self, matrix: &MatrixSelector, grid: Grid, around: &Around) -> Result<Window, PlanError> {
        let range_ms = milliseconds(&matrix.range, &self.params, false)?;
        let (request, shift, extended) = self.select(&matrix.selector, range_ms, grid, around)?;
        Ok(Window {
            input: WindowInput::Request(request),
            range_ms,
            shift,
            extended,
        })
    }

    fn subquery(&mut self, subquery: &SubqueryExpr, grid: Grid) -> Result<Window, PlanError> {
        let range_ms = milliseconds(&subquery.range, &self.params, false)?;
        let step_ms = match &subquery.step {
            Some(step) => milliseconds(step, &self.params, false)?,
            None => self.params.subquery_step_ms,
        }
        .max(1);
        let shift = self.shift(subquery.at, subquery.offset.as_ref())?;
        // The first multiple of the step after the left, open, end of the first range.
        let open = shift.apply(grid.start_ms).saturating_sub(range_ms);
        let mut start_ms = open / step_ms * step_ms;
        if start_ms <= open {
            start_ms = start_ms.saturating_add(step_ms);
        }
        let end_ms = shift.apply(grid.last());
        let n = if end_ms < start_ms || grid.n == 0 {
            0
        } else {
            usize::try_from(end_ms.saturating_sub(start_ms) / step_ms).unwrap_or(usize::MAX - 1) + 1
        };
        let inner = self.node(&subquery.expr, Grid { start_ms, step_ms, n }, &Around::default())?;
        Ok(Window {
            input: WindowInput::Subquery(Box::new(inner)),
            range_ms,
            shift,
            extended: Extended::No,
        })
    }

    fn info(&mut self, call: &Call, grid: Grid) -> Result<NodeKind, PlanError> {
        let around = Around {
            func: "info",
            ..Around::default()
        };
        let [input, rest @ ..] = call.args.as_slice() else {
            return Err(PlanError::Modifier("info needs a vector".to_owned()));
        };
        let input = Box::new(self.node(input, grid, &around)?);
        let mut selector = VectorSelector {
            name: String::new(),
            matchers: Vec::new(),
            offset: None,
            at: None,
            anchored: false,
            smoothed: false,
        };
        if let Some(Expr {
            kind: ExprKind::Vector(given),
            ..
        }) = rest.first().map(Expr::without_parens)
        {
            selector.matchers.clone_from(&given.matchers);
        }
        let positive = |m: &Matcher| m.name() == METRIC_NAME && matches!(m.op(), MatchOp::Equal | MatchOp::Regex);
        if !selector.matchers.iter().any(positive) {
            // Without any name it is the target's info; where names are only excluded, all that are called so.
            let excluded = selector.matchers.iter().any(|m| m.name() == METRIC_NAME);
            selector.matchers.push(if excluded {
                Matcher::new(METRIC_NAME, MatchOp::Regex, ".+_info").map_err(|e| PlanError::Modifier(e.to_string()))?
            } else {
                Matcher::equal(METRIC_NAME, "target_info")
            });
        }
        let shift = reference_time(&input);
        let id = self.request(
            &selector,
            Reach {
                range_ms: 0,
                extended: Extended::No,
            },
            shift,
            grid,
            &around,
        );
        Ok(NodeKind::Info {
            input,
            request: id,
            shift,
        })
    }
}

/// Info series are looked at when the samples are: with the offsets and `@` on the way to the selector.
fn reference_time(node: &Node) -> Shift {
    let none = Shift {
        at_ms: None,
        offset_ms: 0,
    };
    let within = |outer: Shift, inner: Shift| match inner.at_ms {
        Some(_) => inner,
        None => Shift {
            at_ms: outer.at_ms,
            offset_ms: outer.offset_ms.saturating_add(inner.offset_ms),
        },
    };
    match &node.kind {
        NodeKind::Select { shift, .. } => *shift,
        NodeKind::Invariant(inner) | NodeKind::Negate(inner) => reference_time(inner),
        NodeKind::Window(Window {
            input: WindowInput::Subquery(inner),
            shift,
            ..
        }) => within(*shift, reference_time(inner)),
        NodeKind::Window(window) => window.shift,
        NodeKind::Call { args, .. } => args.iter().find(|arg| !arg.is_constant()).map_or(none, reference_time),
        NodeKind::Aggregate { input, .. } => reference_time(input),
        _ => none,
    }
}

/// `anchored` and `smoothed` have a meaning for a few functions only.
fn check_extended(call: &Call, arg: &Expr) -> Result<(), PlanError> {
    let ExprKind::Matrix(matrix) = &arg.without_parens().kind else {
        return Ok(());
    };
    let (modifier, allowed): (_, &[&str]) = match (matrix.selector.anchored, matrix.selector.smoothed) {
        (true, _) => ("anchored", &["changes", "delta", "increase", "rate", "resets"]),
        (_, true) => ("smoothed", &["delta", "increase", "rate"]),
        _ => return Ok(()),
    };
    let name = call.func.name;
    if allowed.contains(&name) {
        return Ok(());
    }
    let list = allowed.join(", ");
    Err(PlanError::Modifier(format!(
        "{modifier} modifier can only be used with: {list} - not with {name}"
    )))
}
