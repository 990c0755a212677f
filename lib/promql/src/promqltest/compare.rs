//! Results against what a script expects.

use super::When;
use super::answer::{Answered, Point, PrintedBucket, PrintedHistogram};
use super::script::Eval;
use super::series::SeriesValue;
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
        && a.zero_threshold == b.zero_threshold
        && almost_equal(a.zero_count, b.zero_count)
        && almost_equal(a.count, b.count)
        && almost_equal(a.sum, b.sum)
        && a.positive_spans == b.positive_spans
        && a.negative_spans == b.negative_spans
        && close(&a.positive_buckets, &b.positive_buckets)
        && close(&a.negative_buckets, &b.negative_buckets)
        && a.custom_values == b.custom_values
}

/// What is not printed cannot be compared: the reset hint, empty buckets, schema and zero threshold where no bucket
/// tells them.
fn same_printed(expected: &FloatHistogram, got: &PrintedHistogram) -> bool {
    let expected = PrintedHistogram::of(&expected.clone().compacted());
    let close = |a: &PrintedBucket, b: &PrintedBucket| {
        a.0 == b.0 && almost_equal(a.1, b.1) && almost_equal(a.2, b.2) && almost_equal(a.3, b.3)
    };
    almost_equal(expected.count, got.count)
        && almost_equal(expected.sum, got.sum)
        && expected.buckets.len() == got.buckets.len()
        && expected.buckets.iter().zip(&got.buckets).all(|(a, b)| close(a, b))
}

fn compare_point(labels: &Labels, expected: &SeriesValue, got: &Point) -> Result<(), String> {
    let same = match (expected, got) {
        (SeriesValue::Float(expected), Point::Float(got)) => almost_equal(*expected, *got),
        (SeriesValue::Histogram { histogram, hint_set }, Point::Histogram(got)) => {
            same_histogram(histogram, got, *hint_set)
        }
        (SeriesValue::Histogram { histogram, .. }, Point::Printed(got)) => same_printed(histogram, got),
        _ => false,
    };
    if same {
        Ok(())
    } else {
        let (expected, got) = (show_expected(expected), show(got));
        Err(format!("expected {expected} for {labels}, got {got}"))
    }
}

fn show_histogram(histogram: &FloatHistogram) -> String {
    format!("{histogram} ({:?}, schema {})", histogram.reset_hint, histogram.schema)
}

fn show_expected(value: &SeriesValue) -> String {
    match value {
        SeriesValue::Float(value) => value.to_string(),
        SeriesValue::Histogram { histogram, .. } => show_histogram(histogram),
    }
}

fn show(point: &Point) -> String {
    match point {
        Point::Float(value) => value.to_string(),
        Point::Histogram(histogram) => show_histogram(histogram),
        Point::Printed(printed) => format!("{printed:?}"),
    }
}

pub(super) fn compare(eval: &Eval, value: &Answered) -> Result<(), String> {
    match value {
        Answered::Scalar(value) => match eval.scalar {
            Some(expected) if almost_equal(expected, *value) => Ok(()),
            Some(expected) => Err(format!("expected scalar {expected}, got {value}")),
            None => Err(format!("unexpected scalar {value}")),
        },
        Answered::String(text) if *text == eval.string => Ok(()),
        Answered::String(text) => Err(format!("expected string {:?}, got {text:?}", eval.string)),
        Answered::Vector(_) | Answered::Matrix(_) if eval.scalar.is_some() => Err("expected a scalar".to_owned()),
        Answered::Vector(vector) => compare_vector(eval, vector),
        Answered::Matrix(_) if eval.is_ordered() => Err("an order can be expected of a vector only".to_owned()),
        Answered::Matrix(matrix) => {
            let (start_ms, end_ms, step_ms) = match (eval.when, eval.range_vector) {
                (_, Some(given)) => given,
                (
                    When::Range {
                        start_ms,
                        end_ms,
                        step_ms,
                    },
                    None,
                ) => (start_ms, end_ms, step_ms),
                (When::At(_), None) => return Err("unexpected range vector".to_owned()),
            };
            check_sorted(matrix)?;
            compare_matrix(eval, matrix, (start_ms, end_ms, step_ms))
        }
    }
}

fn compare_vector(eval: &Eval, vector: &[(Labels, Point)]) -> Result<(), String> {
    let mut got: BTreeMap<&Labels, (usize, &Point)> = BTreeMap::new();
    for (i, (labels, point)) in vector.iter().enumerate() {
        got.insert(labels, (i, point));
    }
    for (i, expected) in eval.expected.iter().enumerate() {
        // No sample is expected as a zero.
        let value = match expected.values.first() {
            Some(Some(value)) => value,
            _ => &SeriesValue::Float(0.0),
        };
        let Some((at, point)) = got.remove(&expected.labels) else {
            let value = show_expected(value);
            return Err(format!("expected {} with {value}, not found", expected.labels));
        };
        if eval.is_ordered() && at != i {
            return Err(format!("expected {} at position {i}, is at {at}", expected.labels));
        }
        compare_point(&expected.labels, value, point)?;
    }
    match got.iter().next() {
        Some((labels, (_, point))) => Err(format!("unexpected {labels} in result with {}", show(point))),
        None => Ok(()),
    }
}

fn check_sorted(matrix: &[(Labels, Vec<(i64, Point)>)]) -> Result<(), String> {
    match matrix.windows(2).find(|pair| pair[0].0 > pair[1].0) {
        Some(pair) => Err(format!("not sorted: {} is before {}", pair[0].0, pair[1].0)),
        None => Ok(()),
    }
}

fn compare_matrix(
    eval: &Eval,
    matrix: &[(Labels, Vec<(i64, Point)>)],
    (start_ms, end_ms, step_ms): (i64, i64, i64),
) -> Result<(), String> {
    let mut got: BTreeMap<&Labels, &Vec<(i64, Point)>> = matrix.iter().map(|(labels, all)| (labels, all)).collect();
    for expected in &eval.expected {
        let labels = &expected.labels;
        let points = got
            .remove(labels)
            .ok_or_else(|| format!("expected {labels}, not found"))?;
        let mut points: BTreeMap<i64, &Point> = points.iter().map(|(time, point)| (*time, point)).collect();
        for (step, value) in (0i64..).zip(&expected.values) {
            let time = start_ms + step * step_ms;
            if time > end_ms {
                let values = expected.values.len();
                return Err(format!(
                    "{values} values for {labels} are more than the range has steps"
                ));
            }
            match (value, points.remove(&time)) {
                (None, None) => {}
                (Some(value), Some(point)) => {
                    compare_point(labels, value, point).map_err(|e| format!("at {time} ms: {e}"))?;
                }
                (Some(value), None) => {
                    let value = show_expected(value);
                    return Err(format!("at {time} ms: expected {value} for {labels}"));
                }
                (None, Some(point)) => {
                    return Err(format!("at {time} ms: unexpected {} for {labels}", show(point)));
                }
            }
        }
        if let Some((time, point)) = points.iter().next() {
            return Err(format!("at {time} ms: unexpected {} for {labels}", show(point)));
        }
    }
    match got.keys().next() {
        Some(labels) => Err(format!("unexpected {labels} in result")),
        None => Ok(()),
    }
}

/// What a range query gives at one of its steps, as an instant query would give it.
pub(super) fn step_of(value: &Answered, at_ms: i64, scalar: bool) -> Result<Answered, String> {
    let Answered::Matrix(matrix) = value else {
        return Err("a range query did not give a matrix".to_owned());
    };
    check_sorted(matrix)?;
    let at = |all: &[(i64, Point)]| {
        all.iter()
            .find(|(time, _)| *time == at_ms)
            .map(|(_, point)| point.clone())
    };
    let vector: Vec<_> = matrix
        .iter()
        .filter_map(|(labels, all)| Some((labels.clone(), at(all)?)))
        .collect();
    if !scalar {
        return Ok(Answered::Vector(vector));
    }
    match vector.as_slice() {
        [(_, Point::Float(value))] => Ok(Answered::Scalar(*value)),
        other => Err(format!("as a range query: a scalar is {other:?}")),
    }
}
