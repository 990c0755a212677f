//! Results against what a script expects.

use super::script::{Eval, When};
use super::series::{SeriesDescription, SeriesValue};
use crate::value::{InstantSample, RangeSeries, SampleValue, Value};
use gnomon_model::Labels;
use gnomon_model::histogram::FloatHistogram;
use std::collections::BTreeMap;

const EPSILON: f64 = 0.000_001;

/// Equal but for a relative error; not-a-number equals itself.
fn almost_equal(a: f64, b: f64) -> bool {
    if a == b || (a.is_nan() && b.is_nan()) {
        return true;
    }
    let (sum, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < EPSILON * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < EPSILON
}

fn same_histogram(expected: &FloatHistogram, got: &FloatHistogram, hint: bool) -> bool {
    let (a, b) = (expected.clone().compacted(), got.clone().compacted());
    let close = |x: &[f64], y: &[f64]| x.len() == y.len() && x.iter().zip(y).all(|(x, y)| almost_equal(*x, *y));
    a.schema == b.schema
        && (!hint || expected.reset_hint == got.reset_hint)
        && almost_equal(a.zero_threshold, b.zero_threshold)
        && almost_equal(a.zero_count, b.zero_count)
        && almost_equal(a.count, b.count)
        && almost_equal(a.sum, b.sum)
        && a.positive_spans == b.positive_spans
        && a.negative_spans == b.negative_spans
        && close(&a.positive_buckets, &b.positive_buckets)
        && close(&a.negative_buckets, &b.negative_buckets)
        && close(&a.custom_values, &b.custom_values)
}

fn compare_sample(labels: &Labels, expected: &SeriesValue, got: &SampleValue) -> Result<(), String> {
    let same = match (expected, got) {
        (SeriesValue::Float(expected), SampleValue::Float(got)) => almost_equal(*expected, *got),
        (SeriesValue::Histogram { histogram, hint_set }, SampleValue::Histogram(got)) => {
            same_histogram(histogram, got, *hint_set)
        }
        _ => false,
    };
    if same {
        Ok(())
    } else {
        Err(format!(
            "expected {} for {labels}, got {}",
            show_expected(expected),
            show(got)
        ))
    }
}

fn show_expected(value: &SeriesValue) -> String {
    match value {
        SeriesValue::Float(value) => value.to_string(),
        SeriesValue::Histogram { histogram, .. } => {
            format!("{histogram} ({:?}, schema {})", histogram.reset_hint, histogram.schema)
        }
    }
}

fn show(value: &SampleValue) -> String {
    match value {
        SampleValue::Float(value) => value.to_string(),
        SampleValue::Histogram(histogram) => {
            format!("{histogram} ({:?}, schema {})", histogram.reset_hint, histogram.schema)
        }
    }
}

pub(super) fn compare(eval: &Eval, value: &Value) -> Result<(), String> {
    match value {
        Value::Scalar { value, .. } => match eval.scalar {
            Some(expected) if almost_equal(expected, *value) => Ok(()),
            Some(expected) => Err(format!("expected scalar {expected}, got {value}")),
            None => Err(format!("unexpected scalar {value}")),
        },
        Value::String { text, .. } => match &eval.string {
            Some(expected) if expected == text => Ok(()),
            Some(expected) => Err(format!("expected string {expected:?}, got {text:?}")),
            None => Err(format!("unexpected string {text:?}")),
        },
        Value::Vector(vector) => compare_vector(eval, vector),
        Value::Matrix(matrix) => match (eval.when, eval.range_vector) {
            (When::Range { start_ms, step_ms, .. }, _) | (When::At(_), Some((start_ms, step_ms))) => {
                compare_matrix(eval, matrix, start_ms, step_ms)
            }
            (When::At(_), None) => Err("unexpected range vector".to_owned()),
        },
    }
}

fn compare_vector(eval: &Eval, vector: &[InstantSample]) -> Result<(), String> {
    if let Some(expected) = eval.scalar {
        return Err(format!("expected scalar {expected}, got a vector of {}", vector.len()));
    }
    let mut got: BTreeMap<&Labels, (usize, &InstantSample)> = BTreeMap::new();
    for (i, sample) in vector.iter().enumerate() {
        got.insert(&sample.labels, (i, sample));
    }
    for (i, expected) in eval.expected.iter().enumerate() {
        let [Some(value)] = expected.values.as_slice() else {
            return Err(format!("expected one value for {}", expected.labels));
        };
        let Some((at, sample)) = got.remove(&expected.labels) else {
            return Err(format!(
                "expected {} with {}, not found",
                expected.labels,
                show_expected(value)
            ));
        };
        if eval.ordered && at != i {
            return Err(format!("expected {} at position {i}, is at {at}", expected.labels));
        }
        compare_sample(&expected.labels, value, &sample.value)?;
    }
    match got.values().next() {
        Some((_, sample)) => Err(format!(
            "unexpected {} in result with {}",
            sample.labels,
            show(&sample.value)
        )),
        None => Ok(()),
    }
}

/// All samples of a series by time.
fn by_time(series: &RangeSeries) -> BTreeMap<i64, SampleValue> {
    let floats = series
        .floats
        .iter()
        .map(|(time, value)| (*time, SampleValue::Float(*value)));
    let histograms = series
        .histograms
        .iter()
        .map(|(time, value)| (*time, SampleValue::Histogram(value.clone())));
    floats.chain(histograms).collect()
}

fn compare_matrix(eval: &Eval, matrix: &[RangeSeries], start_ms: i64, step_ms: i64) -> Result<(), String> {
    let mut got: BTreeMap<&Labels, &RangeSeries> = matrix.iter().map(|series| (&series.labels, series)).collect();
    let scalar: Vec<SeriesDescription> = Vec::new();
    let expected = if eval.scalar.is_some() { &scalar } else { &eval.expected };
    for (i, expected) in expected.iter().enumerate() {
        if eval.ordered && matrix.get(i).is_none_or(|series| series.labels != expected.labels) {
            return Err(format!("expected {} at position {i}", expected.labels));
        }
        let mut samples = got.remove(&expected.labels).map(by_time).unwrap_or_default();
        for (step, value) in (0i64..).zip(&expected.values) {
            let time = start_ms + step * step_ms;
            match (value, samples.remove(&time)) {
                (None, None) => {}
                (Some(value), Some(sample)) => {
                    compare_sample(&expected.labels, value, &sample).map_err(|e| format!("at {time} ms: {e}"))?;
                }
                (Some(value), None) => {
                    return Err(format!(
                        "at {time} ms: expected {} for {}",
                        show_expected(value),
                        expected.labels
                    ));
                }
                (None, Some(sample)) => {
                    return Err(format!(
                        "at {time} ms: unexpected {} for {}",
                        show(&sample),
                        expected.labels
                    ));
                }
            }
        }
        if let Some((time, sample)) = samples.iter().next() {
            return Err(format!(
                "at {time} ms: unexpected {} for {}",
                show(sample),
                expected.labels
            ));
        }
    }
    match got.keys().next() {
        Some(labels) => Err(format!("unexpected {labels} in result")),
        None => Ok(()),
    }
}

/// Whether a step of a range query's result is the same as an instant query's.
pub(super) fn same_step(vector: &[InstantSample], matrix: &[RangeSeries], at_ms: i64) -> Result<(), String> {
    let mut step: BTreeMap<&Labels, SampleValue> = BTreeMap::new();
    for series in matrix {
        if let Some(value) = by_time(series).remove(&at_ms) {
            step.insert(&series.labels, value);
        }
    }
    for sample in vector {
        let Some(value) = step.remove(&sample.labels) else {
            return Err(format!("as a range query: {} is missing", sample.labels));
        };
        let same = match (&sample.value, &value) {
            (SampleValue::Float(a), SampleValue::Float(b)) => almost_equal(*a, *b),
            (SampleValue::Histogram(a), SampleValue::Histogram(b)) => same_histogram(a, b, true),
            _ => false,
        };
        if !same {
            let (a, b) = (show(&sample.value), show(&value));
            return Err(format!("as a range query: {} is {b} rather than {a}", sample.labels));
        }
    }
    match step.keys().next() {
        Some(labels) => Err(format!("as a range query: {labels} is there")),
        None => Ok(()),
    }
}
