//! The values of duration expressions.

use super::{EvalParams, PlanError};
use crate::ast::{BinaryOp, DurationExpr};

/// As Prometheus says where in the query it is: in bytes.
fn wrong(expr: &DurationExpr, message: &str) -> PlanError {
    let span = expr.span();
    PlanError::Duration(format!("{}:{}: {message}", span.start, span.end))
}

fn seconds(expr: &DurationExpr, params: &EvalParams) -> Result<f64, PlanError> {
    let fail = |message: &str| Err(wrong(expr, message));
    Ok(match expr {
        DurationExpr::Seconds { value, .. } => *value,
        DurationExpr::Step(_) => params.step_ms as f64 / 1000.0,
        DurationExpr::Range(_) => params.end_ms.saturating_sub(params.start_ms) as f64 / 1000.0,
        DurationExpr::Paren(inner) => seconds(inner, params)?,
        DurationExpr::Unary { negative, expr, .. } => {
            let value = seconds(expr, params)?;
            if *negative { -value } else { value }
        }
        DurationExpr::Min(a, b) => seconds(a, params)?.min(seconds(b, params)?),
        DurationExpr::Max(a, b) => seconds(a, params)?.max(seconds(b, params)?),
        DurationExpr::Binary { op, lhs, rhs } => {
            let (a, b) = (seconds(lhs, params)?, seconds(rhs, params)?);
            match op {
                BinaryOp::Add => a + b,
                BinaryOp::Sub => a - b,
                BinaryOp::Mul => a * b,
                BinaryOp::Div if b == 0.0 => return fail("division by zero"),
                BinaryOp::Div => a / b,
                BinaryOp::Mod if b == 0.0 => return fail("modulo by zero"),
                BinaryOp::Mod => a % b,
                BinaryOp::Pow => a.powf(b),
                _ => return fail("unexpected duration expression operator"),
            }
        }
    })
}

/// Milliseconds; cut off, not rounded, as Prometheus does.
pub(super) fn milliseconds(expr: &DurationExpr, params: &EvalParams, may_be_negative: bool) -> Result<i64, PlanError> {
    let value = seconds(expr, params)?;
    if value <= 0.0 && !may_be_negative {
        return Err(wrong(expr, "duration must be greater than 0"));
    }
    // The bound of a Go time.Duration, 64 bits of nanoseconds, in seconds.
    if value.is_nan() || value.abs() > 9_223_372_036.0 {
        return Err(wrong(expr, "duration is out of range"));
    }
    // A decimal such as 0.29 s must not lose its last millisecond to the binary representation.
    let ms = value * 1000.0;
    let nearest = ms.round();
    Ok(if (ms - nearest).abs() < 1e-6 {
        nearest as i64
    } else {
        ms.trunc() as i64
    })
}
