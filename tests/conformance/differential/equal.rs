//! When two answers are equal.

use gnomon_model::Labels;
use gnomon_promql::promqltest::{Answer, Answered, Point, PrintedBucket};
use std::collections::BTreeMap;

const RELATIVE: f64 = 1e-12;

type Told = Result<Answer, String>;
type Series = BTreeMap<Labels, BTreeMap<i64, Point>>;

fn close(a: f64, b: f64) -> bool {
    let largest = a.abs().max(b.abs());
    a == b || (a.is_nan() && b.is_nan()) || (largest.is_finite() && (a - b).abs() <= RELATIVE * largest)
}

fn same_point(a: &Point, b: &Point) -> bool {
    match (a, b) {
        (Point::Float(a), Point::Float(b)) => close(*a, *b),
        (Point::Printed(a), Point::Printed(b)) => {
            let same_bucket = |(a, b): (&PrintedBucket, &PrintedBucket)| {
                a.0 == b.0 && close(a.1, b.1) && close(a.2, b.2) && close(a.3, b.3)
            };
            close(a.count, b.count)
                && close(a.sum, b.sum)
                && a.buckets.len() == b.buckets.len()
                && a.buckets.iter().zip(&b.buckets).all(same_bucket)
        }
        _ => false,
    }
}

fn series(value: &Answered) -> Option<Series> {
    match value {
        Answered::Vector(vector) => {
            let one = |(labels, point): &(Labels, Point)| (labels.clone(), BTreeMap::from([(0, point.clone())]));
            Some(vector.iter().map(one).collect())
        }
        Answered::Matrix(matrix) => {
            let one =
                |(labels, points): &(Labels, Vec<(i64, Point)>)| (labels.clone(), points.iter().cloned().collect());
            Some(matrix.iter().map(one).collect())
        }
        Answered::Scalar(_) | Answered::String(_) => None,
    }
}

/// Whether there is anything in it.
pub(super) fn has_result(told: &Told) -> bool {
    match told.as_ref().map(|answer| &answer.value) {
        Ok(Answered::Vector(vector)) => !vector.is_empty(),
        Ok(Answered::Matrix(matrix)) => !matrix.is_empty(),
        Ok(Answered::Scalar(_) | Answered::String(_)) => true,
        Err(_) => false,
    }
}

/// That elements do not match each other: where several do not, which of them is told is a matter of order, that of
/// 2.42's series of a metric being random.
fn is_conflict(error: &str) -> bool {
    error.starts_with("found duplicate series for the match group") || error.starts_with("multiple matches for labels")
}

/// 3.x finds elements that match several others even where a comparison drops them from the result (a row of
/// `docs/compat.md`).
fn is_found_behind_a_filter(query: &str, error: &str) -> bool {
    let filters = [" == ", " != ", " > ", " < ", " >= ", " <= "];
    error.starts_with("multiple matches for labels: many-to-one") && filters.iter().any(|op| query.contains(op))
}

/// What the comparison of two answers gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Equal,
    /// By a row of `docs/compat.md`.
    Excepted,
}

/// Errors are equal where both fail with the same words.
///
/// # Errors
/// The first difference.
pub(super) fn compare(query: &str, ours: &Told, theirs: &Told) -> Result<Outcome, String> {
    match (ours, theirs) {
        (Err(error), theirs) if is_found_behind_a_filter(query, error) => match theirs {
            Err(other) if is_conflict(other) => Ok(Outcome::Equal),
            // Prometheus may fail later, for another reason.
            _ => Ok(Outcome::Excepted),
        },
        _ => compare_strictly(ours, theirs).map(|()| Outcome::Equal),
    }
}

fn compare_strictly(ours: &Told, theirs: &Told) -> Result<(), String> {
    let (ours, theirs) = match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => (&ours.value, &theirs.value),
        (Err(ours), Err(theirs)) if ours == theirs || (is_conflict(ours) && is_conflict(theirs)) => return Ok(()),
        (Err(ours), Err(theirs)) => return Err(format!("error {ours:?} but Prometheus has {theirs:?}")),
        (Err(error), Ok(_)) => return Err(format!("only gnomon fails: {error}")),
        (Ok(_), Err(error)) => return Err(format!("only Prometheus fails: {error}")),
    };
    match (ours, theirs) {
        (Answered::Scalar(a), Answered::Scalar(b)) if close(*a, *b) => return Ok(()),
        (Answered::String(a), Answered::String(b)) if a == b => return Ok(()),
        _ => {}
    }
    let (Some(ours), Some(theirs)) = (series(ours), series(theirs)) else {
        return Err("another value, or another type".to_owned());
    };
    if let Some(labels) = ours.keys().find(|labels| !theirs.contains_key(*labels)) {
        return Err(format!("only gnomon has {labels}"));
    }
    for (labels, expected) in theirs {
        let Some(points) = ours.get(&labels) else {
            return Err(format!("only Prometheus has {labels}"));
        };
        if points.keys().ne(expected.keys()) {
            return Err(format!("{labels} has other points in time"));
        }
        let mut pairs = points.iter().zip(expected.values());
        if let Some(((time, ours), theirs)) = pairs.find(|((_, ours), theirs)| !same_point(ours, theirs)) {
            return Err(format!(
                "{labels} at {time} ms is {ours:?} but Prometheus has {theirs:?}"
            ));
        }
    }
    Ok(())
}

#[test]
fn what_differs_is_found() {
    let vector = |value: f64| {
        Ok(Answer {
            value: Answered::Vector(vec![(Labels::from_pairs([("a", "b")]), Point::Float(value))]),
            warnings: Vec::new(),
            infos: Vec::new(),
        })
    };
    let failed = |text: &str| Err(text.to_owned());
    let compare = |ours: &Told, theirs: &Told| compare("a > b", ours, theirs);
    assert_eq!(compare(&vector(1.0), &vector(1.0 + 1e-13)), Ok(Outcome::Equal));
    assert_eq!(compare(&vector(f64::NAN), &vector(f64::NAN)), Ok(Outcome::Equal));
    assert_eq!(compare(&failed("x"), &failed("x")), Ok(Outcome::Equal));
    let many = failed("multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)");
    assert_eq!(compare(&many, &vector(1.0)), Ok(Outcome::Excepted));
    assert!(super::equal::compare("a + b", &many, &vector(1.0)).is_err());
    for (a, b) in [
        (vector(1.0), vector(1.0 + 1e-11)),
        (vector(0.0), vector(1e-300)),
        (vector(1.0), failed("x")),
        (failed("x"), failed("y")),
        (vector(f64::INFINITY), vector(f64::NEG_INFINITY)),
    ] {
        assert!(compare(&a, &b).is_err(), "{a:?} {b:?}");
    }
}
