//! Regression and smoothing.

use super::{Out, View};
use crate::engine::arithmetic::Kahan;
use crate::engine::context::Evaluated;
use crate::limits::EvalError;
use gnomon_model::gofloat::fixed;

type Result = Evaluated<Option<Out>>;

/// Slope per second, and value at `at_ms`, of the least-squares line.
fn regression(view: &View<'_>, at_ms: i64) -> (f64, f64) {
    let first = view.floats[0];
    if view.floats.iter().skip(1).all(|v| *v == first) {
        return if first.is_infinite() {
            (f64::NAN, f64::NAN)
        } else {
            (0.0, first)
        };
    }
    let (mut x_sum, mut y_sum, mut xy_sum, mut x2_sum) =
        (Kahan::default(), Kahan::default(), Kahan::default(), Kahan::default());
    for (time, y) in view.float_times.iter().zip(view.floats) {
        let x = time.saturating_sub(at_ms) as f64 / 1000.0;
        x_sum.add(x);
        y_sum.add(*y);
        xy_sum.add(x * y);
        x2_sum.add(x * x);
    }
    let n = view.floats.len() as f64;
    let (x, y, xy, x2) = (x_sum.both(), y_sum.both(), xy_sum.both(), x2_sum.both());
    let slope = (xy - x * y / n) / (x2 - x * x / n);
    (slope, y / n - slope * x / n)
}

/// Whether there are two floats at least; notes histograms among them.
fn enough(view: &View<'_>) -> bool {
    if !view.floats.is_empty() {
        view.note_ignored_histograms();
    }
    view.floats.len() >= 2
}

pub(crate) fn deriv(view: &View<'_>) -> Result {
    Ok(enough(view).then(|| Out::Float(regression(view, view.float_times[0]).0)))
}

pub(crate) fn predict_linear(view: &View<'_>) -> Result {
    Ok(enough(view).then(|| {
        let (slope, intercept) = regression(view, view.step_ms);
        Out::Float(slope * view.args[0] + intercept)
    }))
}

pub(crate) fn double_exponential_smoothing(view: &View<'_>) -> Result {
    let [smoothing, trend] = view.args;
    for (name, short, factor) in [("smoothing", "sf", smoothing), ("trend", "tf", trend)] {
        if factor <= 0.0 || factor >= 1.0 {
            let got = fixed(factor, 6);
            return Err(EvalError::execution(format!(
                "invalid {name} factor. Expected: 0 < {short} < 1, got: {got}"
            )));
        }
    }
    if !enough(view) {
        return Ok(None);
    }
    let (mut before, mut level) = (0.0, view.floats[0]);
    let mut slope = view.floats[1] - view.floats[0];
    for (i, value) in view.floats.iter().enumerate().skip(1) {
        if i > 1 {
            slope = trend * (level - before) + (1.0 - trend) * slope;
        }
        (before, level) = (level, smoothing * value + (1.0 - smoothing) * (level + slope));
    }
    Ok(Some(Out::Float(level)))
}
