//! One element with one.

use crate::ast::{BinaryOp, Span};
use crate::engine::arithmetic::{compare, scalar_binary};
use crate::engine::column::Point;
use crate::engine::notes::{Notes, Operation};
use crate::engine::window::Out;
use gnomon_model::histogram::{FloatHistogram, ResetHint};
use std::sync::Arc;

/// What comes of two elements.
pub(super) enum Outcome {
    /// The result; of a comparison that holds the left element.
    Value(Out),
    /// A comparison does not hold.
    False,
    /// The operator has no meaning for the types.
    Senseless,
}

impl Outcome {
    fn if_holds(holds: bool, left: Out) -> Self {
        if holds { Self::Value(left) } else { Self::False }
    }
}

/// The result for two elements; notes where there is none.
pub(super) fn element(op: BinaryOp, lhs: Point<'_>, rhs: Point<'_>, notes: &Notes, span: Span) -> Outcome {
    let senseless = |left: &str, right: &str| {
        notes.incompatible_types(span, left, op.symbol(), right);
        Outcome::Senseless
    };
    match (lhs, rhs) {
        (Point::Float(a), Point::Float(b)) => match (compare(op, a, b), scalar_binary(op, a, b)) {
            (Some(holds), _) => Outcome::if_holds(holds, Out::Float(a)),
            (None, Some(value)) => Outcome::Value(Out::Float(value)),
            (None, None) => senseless("float", "float"),
        },
        (Point::Float(factor), Point::Histogram(histogram)) => match op {
            BinaryOp::Mul => scaled(histogram, factor, |v| v * factor),
            _ => senseless("float", "histogram"),
        },
        (Point::Histogram(histogram), Point::Float(value)) => match op {
            BinaryOp::Mul => scaled(histogram, value, |v| v * value),
            BinaryOp::Div => divided(histogram, value),
            BinaryOp::TrimUpper => of(histogram.trimmed(value, true)),
            BinaryOp::TrimLower => of(histogram.trimmed(value, false)),
            _ => senseless("histogram", "float"),
        },
        (Point::Histogram(a), Point::Histogram(b)) => match op {
            BinaryOp::Add | BinaryOp::Sub => combined(op, a, b, notes, span),
            BinaryOp::Eq => Outcome::if_holds(equal(a, b), Out::Histogram(Arc::clone(a))),
            BinaryOp::Ne => Outcome::if_holds(!equal(a, b), Out::Histogram(Arc::clone(a))),
            _ => senseless("histogram", "histogram"),
        },
    }
}

fn of(histogram: FloatHistogram) -> Outcome {
    Outcome::Value(Out::Histogram(Arc::new(histogram)))
}

fn equal(a: &FloatHistogram, b: &FloatHistogram) -> bool {
    a.clone().compacted().same_as(&b.clone().compacted())
}

fn scaled(histogram: &FloatHistogram, factor: f64, scale: impl Fn(f64) -> f64) -> Outcome {
    let mut out = histogram.clone();
    out.scale(scale);
    if factor < 0.0 {
        out.reset_hint = ResetHint::Gauge;
    }
    of(out.compacted())
}

fn divided(histogram: &FloatHistogram, divisor: f64) -> Outcome {
    let mut out = histogram.clone();
    out.scale(|v| v / divisor);
    if divisor < 0.0 {
        out.reset_hint = ResetHint::Gauge;
    }
    if divisor == 0.0 {
        // Prometheus drops the buckets, which are all infinite or not a number.
        (out.positive_spans, out.negative_spans) = (Vec::new(), Vec::new());
        (out.positive_buckets, out.negative_buckets) = (Vec::new(), Vec::new());
    }
    of(out.compacted())
}

fn combined(op: BinaryOp, a: &FloatHistogram, b: &FloatHistogram, notes: &Notes, span: Span) -> Outcome {
    let (result, operation) = if op == BinaryOp::Add {
        (a.plus(b), Operation::Addition)
    } else {
        (a.minus(b), Operation::Subtraction)
    };
    let Ok((mut sum, said)) = result else {
        notes.incompatible_layout(span, op.symbol());
        return Outcome::Senseless;
    };
    if op == BinaryOp::Sub {
        sum.reset_hint = ResetHint::Gauge;
    }
    if said.reset_collision {
        notes.reset_collision(span, operation);
    }
    if said.bounds_reconciled {
        notes.bounds_reconciled(span, operation);
    }
    of(sum.compacted())
}
