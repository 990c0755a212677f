//! Regression and smoothing.

use super::{Out, View, each_value};
use crate::engine::arithmetic::Kahan;
use crate::engine::context::Evaluated;
use crate::limits::EvalError;
use gnomon_model::gofloat::fixed;

type Result = Evaluated<Option<Out>>;

/// Slope per second, and value at `at_ms`, of the least-squares line.
fn regression(view: &View<'_>, at_ms: i64) -> Evaluated<(f64, f64)> {
    let first = view.floats[0];
    if view.floats.iter().skip(1).all(|v| *v == first) {
        return Ok(if first.is_infinite() {
            (f64::NAN, f64::NAN)
        } else {
            (0.0, first)
        });
    }
    let (mut x_sum, mut y_sum, mut xy_sum, mut x2_sum) =
        (Kahan::default(), Kahan::default(), Kahan::default(), Kahan::default());
    let mut times = view.float_times.iter();
    view.each_float(|y| {
        let x = times.next().map_or(0, |time| time.saturating_sub(at_ms)) as f64 / 1000.0;
        x_sum.add(x);
        y_sum.add(y);
        xy_sum.add(x * y);
        x2_sum.add(x * x);
    })?;
    let n = view.floats.len() as f64;
    let (x, y, xy, x2) = (x_sum.both(), y_sum.both(), xy_sum.both(), x2_sum.both());
    let slope = (xy - x * y / n) / (x2 - x * x / n);
    Ok((slope, y / n - slope * x / n))
}

/// Whether there are two floats at least; notes histograms among them.
fn enough(view: &View<'_>) -> bool {
    if !view.floats.is_empty() {
        view.note_ignored_histograms();
    }
    view.floats.len() >= 2
}

pub(crate) fn deriv(view: &View<'_>) -> Result {
    if !enough(view) {
        return Ok(None);
    }
    let (slope, _) = regression(view, view.float_times[0])?;
    Ok(Some(Out::Float(slope)))
}

pub(crate) fn predict_linear(view: &View<'_>) -> Result {
    if !enough(view) {
        return Ok(None);
    }
    let (slope, intercept) = regression(view, view.step_ms)?;
    Ok(Some(Out::Float(slope * view.args[0] + intercept)))
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
    let (first, second) = (view.floats[0], view.floats[1]);
    let mut slope = second - first;
    let step = |level: f64, slope: f64, value: f64| smoothing * value + (1.0 - smoothing) * (level + slope);
    let (mut before, mut level) = (first, step(first, slope, second));
    each_value(
        &view.floats[2..],
        || view.cancel.check(),
        |value| {
            slope = trend * (level - before) + (1.0 - trend) * slope;
            (before, level) = (level, step(level, slope, value));
        },
    )?;
    Ok(Some(Out::Float(level)))
}
