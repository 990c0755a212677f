//! Functions of one number.

use crate::functions::FunctionId as F;

/// As Go's `math.Max`: not-a-number wins.
pub(crate) fn max(a: f64, b: f64) -> f64 {
    if a.is_infinite() && a > 0.0 || b.is_infinite() && b > 0.0 {
        f64::INFINITY
    } else if a.is_nan() || b.is_nan() {
        f64::NAN
    } else {
        a.max(b)
    }
}

/// As Go's `math.Min`: not-a-number wins.
pub(crate) fn min(a: f64, b: f64) -> f64 {
    -max(-a, -b)
}

/// To the nearest multiple, halves up.
pub(super) fn round(value: f64, nearest: f64) -> f64 {
    // Multiplying by the inverse loses less than dividing.
    let inverse = 1.0 / nearest;
    (value * inverse + 0.5).floor() / inverse
}

fn sign(value: f64) -> f64 {
    if value < 0.0 {
        -1.0
    } else if value > 0.0 {
        1.0
    } else {
        value
    }
}

/// Beyond this Go halves the exponential function, which is infinite a little earlier than these are.
const FAR: f64 = 21.0;

fn sinh(v: f64) -> f64 {
    if v.abs() > FAR {
        (v.abs().exp() * 0.5).copysign(v)
    } else {
        v.sinh()
    }
}

fn cosh(v: f64) -> f64 {
    if v.abs() > FAR { v.abs().exp() * 0.5 } else { v.cosh() }
}

pub(super) fn simple(func: F) -> Option<fn(f64) -> f64> {
    Some(match func {
        F::Abs => f64::abs,
        F::Ceil => f64::ceil,
        F::Floor => f64::floor,
        F::Exp => f64::exp,
        F::Sqrt => f64::sqrt,
        F::Ln => f64::ln,
        F::Log2 => f64::log2,
        F::Log10 => f64::log10,
        F::Sin => f64::sin,
        F::Cos => f64::cos,
        F::Tan => f64::tan,
        F::Asin => f64::asin,
        F::Acos => f64::acos,
        F::Atan => f64::atan,
        F::Sinh => sinh,
        F::Cosh => cosh,
        F::Tanh => f64::tanh,
        F::Asinh => f64::asinh,
        F::Acosh => f64::acosh,
        F::Atanh => f64::atanh,
        F::Rad => |v| v * std::f64::consts::PI / 180.0,
        F::Deg => |v| v * 180.0 / std::f64::consts::PI,
        F::Sgn => sign,
        _ => return None,
    })
}
