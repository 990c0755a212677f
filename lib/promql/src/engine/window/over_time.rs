//! `*_over_time`.

use super::{Out, View};
use crate::engine::arithmetic::{Kahan, Mean, Variance, quantile as quantile_of};
use crate::engine::context::Evaluated;
use crate::engine::notes::Operation;
use gnomon_model::histogram::{Accumulator, FloatHistogram, ResetHint};
use std::sync::Arc;

type Result = Evaluated<Option<Out>>;

fn float(value: f64) -> Result {
    Ok(Some(Out::Float(value)))
}

pub(crate) fn count(view: &View<'_>) -> Result {
    float((view.floats.len() + view.histograms.len()) as f64)
}

pub(crate) fn present(_: &View<'_>) -> Result {
    float(1.0)
}

/// Notes a range of floats and histograms, which has no result.
fn mixed(view: &View<'_>) -> bool {
    let mixed = !view.floats.is_empty() && !view.histograms.is_empty();
    if mixed {
        view.notes.mixed_floats_histograms(view.span, view.name);
    }
    mixed
}

pub(crate) fn sum(view: &View<'_>) -> Result {
    if mixed(view) {
        return Ok(None);
    }
    if view.floats.is_empty() {
        return view.whole(sum_histograms(view).and_then(Out::histogram));
    }
    let mut sum = Kahan::default();
    view.each_float(|value| sum.add(value))?;
    float(sum.value())
}

pub(crate) fn avg(view: &View<'_>) -> Result {
    if mixed(view) {
        return Ok(None);
    }
    if !view.floats.is_empty() {
        let mut mean = Mean::default();
        view.each_float(|value| mean.add(value))?;
        return float(mean.value());
    }
    let Some(mut sum) = sum_histograms(view) else {
        return view.whole(None);
    };
    let count = view.histograms.len() as f64;
    if sum.has_overflow() {
        // Divide before adding where the sum does not fit.
        let scaled: Vec<Arc<FloatHistogram>> = view
            .histograms
            .iter()
            .enumerate()
            .take_while(|(i, _)| view.goes_on(*i))
            .map(|(_, h)| {
                let mut part = FloatHistogram::clone(h);
                part.scale(|v| v / count);
                Arc::new(part)
            })
            .collect();
        let parts = View {
            histograms: &scaled,
            ..*view
        };
        return view.whole(sum_histograms(&parts).and_then(Out::histogram));
    }
    sum.scale(|v| v / count);
    view.whole(Out::histogram(sum))
}

fn sum_histograms(view: &View<'_>) -> Option<FloatHistogram> {
    let (first, rest) = view.histograms.split_first()?;
    let mut total = Accumulator::new(first);
    let mut reconciled = false;
    for (i, histogram) in rest.iter().enumerate() {
        if !view.goes_on(i) {
            return None;
        }
        match total.add_scaled(histogram, 1.0) {
            Ok(said) => reconciled |= said.bounds_reconciled,
            Err(_) => {
                view.notes.mixed_exponential_custom(view.span, view.name);
                return None;
            }
        }
    }
    let hinted = |hint| view.histograms.iter().any(|h| h.reset_hint == hint);
    if hinted(ResetHint::Reset) && hinted(ResetHint::NotReset) {
        view.notes.reset_collision(view.span, Operation::Aggregation);
    }
    if reconciled {
        view.notes.bounds_reconciled(view.span, Operation::Aggregation);
    }
    Some(total.finish())
}

/// The time, in seconds, of the float that `better` prefers over all before it.
fn time_of_best(view: &View<'_>, better: impl Fn(f64, f64) -> bool) -> Option<Out> {
    let mut best = *view.floats.first()?;
    let mut time = *view.float_times.first()?;
    view.note_ignored_histograms();
    for (value, at) in view.floats.iter().zip(view.float_times) {
        if better(*value, best) || best.is_nan() {
            (best, time) = (*value, *at);
        }
    }
    Some(Out::Float(time as f64 / 1000.0))
}

pub(crate) fn time_of_max(view: &View<'_>) -> Result {
    Ok(time_of_best(view, |v, best| v >= best))
}

pub(crate) fn time_of_min(view: &View<'_>) -> Result {
    Ok(time_of_best(view, |v, best| v <= best))
}

pub(crate) fn first(view: &View<'_>) -> Result {
    Ok(match (view.floats.first(), view.histograms.first()) {
        (Some(value), histogram) if histogram.is_none() || view.float_times[0] < view.histogram_times[0] => {
            Some(Out::Float(*value))
        }
        (_, Some(histogram)) => Some(Out::Histogram(Arc::clone(histogram))),
        _ => None,
    })
}

pub(crate) fn last(view: &View<'_>) -> Result {
    let newer = view.float_times.last() > view.histogram_times.last();
    Ok(match (view.floats.last(), view.histograms.last()) {
        (Some(value), histogram) if histogram.is_none() || newer => Some(Out::Float(*value)),
        (_, Some(histogram)) => Some(Out::Histogram(Arc::clone(histogram))),
        _ => None,
    })
}

pub(crate) fn time_of_first(view: &View<'_>) -> Result {
    let first = view
        .float_times
        .first()
        .into_iter()
        .chain(view.histogram_times.first())
        .min();
    Ok(first.map(|t| Out::Float(*t as f64 / 1000.0)))
}

pub(crate) fn time_of_last(view: &View<'_>) -> Result {
    let last = view
        .float_times
        .last()
        .into_iter()
        .chain(view.histogram_times.last())
        .max();
    Ok(last.map(|t| Out::Float(*t as f64 / 1000.0)))
}

fn variance(view: &View<'_>) -> Evaluated<Option<f64>> {
    if view.floats.is_empty() {
        return Ok(None);
    }
    view.note_ignored_histograms();
    let mut variance = Variance::default();
    view.each_float(|value| variance.add(value))?;
    Ok(Some(variance.value()))
}

pub(crate) fn stdvar(view: &View<'_>) -> Result {
    Ok(variance(view)?.map(Out::Float))
}

pub(crate) fn stddev(view: &View<'_>) -> Result {
    Ok(variance(view)?.map(|v| Out::Float(v.sqrt())))
}

pub(crate) fn quantile(view: &View<'_>) -> Result {
    if view.floats.is_empty() {
        return Ok(None);
    }
    let q = view.args[0];
    if !(0.0..=1.0).contains(&q) {
        view.notes.invalid_quantile(view.first_span, q);
    }
    view.note_ignored_histograms();
    float(quantile_of(q, view.floats, view.cancel)?)
}

pub(crate) fn mad(view: &View<'_>) -> Result {
    if view.floats.is_empty() {
        return Ok(None);
    }
    view.note_ignored_histograms();
    if view.floats.iter().any(|v| v.is_nan()) {
        return float(f64::NAN);
    }
    let median = quantile_of(0.5, view.floats, view.cancel)?;
    let distances: Vec<f64> = view.floats.iter().map(|v| (v - median).abs()).collect();
    float(quantile_of(0.5, &distances, view.cancel)?)
}
