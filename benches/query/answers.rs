//! Answers of the servers, and whether they are the same.

use serde_json::Value;
use std::collections::BTreeMap;

/// Values of a series by time, milliseconds.
type Points = BTreeMap<i64, f64>;
/// By the text of the labels.
pub(crate) type Answer = BTreeMap<String, Points>;

/// The relative difference that is taken to be rounding.
const TOLERANCE: f64 = 1e-9;

/// Reads the body of an answer.
///
/// # Errors
/// What the server said, where it is no result.
pub(crate) fn read(body: &[u8]) -> Result<Answer, String> {
    let text = || String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
    let body: Value = serde_json::from_slice(body).map_err(|e| format!("{e}: {}", text()))?;
    if body["status"] != "success" {
        return Err(text());
    }
    let mut answer = Answer::new();
    for row in body["data"]["result"].as_array().into_iter().flatten() {
        let point = |pair: &Value| {
            let at_ms = (pair[0].as_f64().unwrap_or(f64::NAN) * 1e3).round() as i64;
            (at_ms, pair[1].as_str().and_then(|v| v.parse().ok()).unwrap_or(f64::NAN))
        };
        let values = row["values"].as_array().into_iter().flatten();
        let points = values.chain(row.get("value")).map(point).collect();
        answer.insert(row["metric"].to_string(), points);
    }
    Ok(answer)
}

fn close(a: f64, b: f64) -> bool {
    a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs())
}

/// The first difference in series, times or values.
pub(crate) fn difference(ours: &Answer, theirs: &Answer) -> Option<String> {
    if let Some(more) = difference_of_series(ours, theirs) {
        return Some(more);
    }
    for (labels, points) in ours {
        let other = &theirs[labels];
        if points.len() != other.len() {
            return Some(format!("{labels}: {} points, not {}", points.len(), other.len()));
        }
        for ((at, a), (other_at, b)) in points.iter().zip(other) {
            if at != other_at || !close(*a, *b) {
                return Some(format!("{labels}: {a} at {at}, not {b} at {other_at}"));
            }
        }
    }
    None
}

/// The first series that only one of them has.
pub(crate) fn difference_of_series(ours: &Answer, theirs: &Answer) -> Option<String> {
    let only = |a: &Answer, b: &Answer| a.keys().find(|labels| !b.contains_key(*labels)).cloned();
    let (left, right) = (only(ours, theirs), only(theirs, ours));
    match (left, right) {
        (None, None) => None,
        (left, right) => Some(format!(
            "{} series, not {}; {left:?}; {right:?}",
            ours.len(),
            theirs.len()
        )),
    }
}
