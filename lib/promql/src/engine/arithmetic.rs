//! What operators do with two numbers.

use crate::ast::BinaryOp;

/// The result for two scalars; comparisons give 0 or 1. None for operators that have no scalar form.
pub(crate) fn scalar_binary(op: BinaryOp, a: f64, b: f64) -> Option<f64> {
    let truth = |holds: bool| f64::from(u8::from(holds));
    Some(match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Mod => a % b,
        BinaryOp::Pow => power(a, b),
        BinaryOp::Atan2 => a.atan2(b),
        BinaryOp::Eq => truth(a == b),
        BinaryOp::Ne => truth(a != b),
        BinaryOp::Gt => truth(a > b),
        BinaryOp::Lt => truth(a < b),
        BinaryOp::Ge => truth(a >= b),
        BinaryOp::Le => truth(a <= b),
        BinaryOp::TrimUpper | BinaryOp::TrimLower | BinaryOp::And | BinaryOp::Or | BinaryOp::Unless => return None,
    })
}

/// Go's `math.Pow`, which agrees with C99's.
fn power(a: f64, b: f64) -> f64 {
    a.powf(b)
}
