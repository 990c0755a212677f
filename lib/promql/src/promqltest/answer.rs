//! What a subject answers: the engine's values, or what can be read from an HTTP answer.

use crate::value::{QueryResult, SampleValue, Value};
use gnomon_model::Labels;
use gnomon_model::histogram::FloatHistogram;
use std::sync::Arc;

/// Which boundaries are inclusive (0: upper, 1: lower, 2: none, 3: both), lower, upper, count.
pub type PrintedBucket = (u8, f64, f64, f64);

/// A histogram as the HTTP API prints it: without schema, spans, empty buckets and reset hint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PrintedHistogram {
    pub count: f64,
    pub sum: f64,
    pub buckets: Vec<PrintedBucket>,
}

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Point {
    Float(f64),
    Histogram(Arc<FloatHistogram>),
    Printed(PrintedHistogram),
}

impl From<SampleValue> for Point {
    fn from(value: SampleValue) -> Self {
        match value {
            SampleValue::Float(value) => Self::Float(value),
            SampleValue::Histogram(histogram) => Self::Histogram(histogram),
        }
    }
}

/// The value of a query.
#[derive(Clone, Debug, PartialEq)]
pub enum Answered {
    Scalar(f64),
    String(String),
    /// In the order of the answer.
    Vector(Vec<(Labels, Point)>),
    /// In the order of the answer; the points of a series ascending by time in milliseconds.
    Matrix(Vec<(Labels, Vec<(i64, Point)>)>),
}

/// A value and what was said about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub value: Answered,
    /// Whole texts, with positions.
    pub warnings: Vec<String>,
    /// Whole texts, with positions.
    pub infos: Vec<String>,
}

impl From<QueryResult> for Answer {
    fn from(result: QueryResult) -> Self {
        let value = match result.value {
            Value::Scalar { value, .. } => Answered::Scalar(value),
            Value::String { text, .. } => Answered::String(text),
            Value::Vector(vector) => Answered::Vector(vector.into_iter().map(|s| (s.labels, s.value.into())).collect()),
            Value::Matrix(matrix) => Answered::Matrix(
                matrix
                    .into_iter()
                    .map(|series| {
                        let floats = series.floats.into_iter().map(|(t, v)| (t, Point::Float(v)));
                        let histograms = series.histograms.into_iter().map(|(t, h)| (t, Point::Histogram(h)));
                        let mut points: Vec<_> = floats.chain(histograms).collect();
                        points.sort_by_key(|(t, _)| *t);
                        (series.labels, points)
                    })
                    .collect(),
            ),
        };
        Self {
            value,
            warnings: result.warnings,
            infos: result.infos,
        }
    }
}

impl PrintedHistogram {
    /// How the API would print it.
    #[must_use]
    pub fn of(histogram: &FloatHistogram) -> Self {
        let full = histogram.all_buckets();
        let buckets = full.into_iter().filter(|b| b.count != 0.0).map(|b| {
            let boundaries = match (b.lower_inclusive, b.upper_inclusive) {
                (false, true) => 0,
                (true, false) => 1,
                (false, false) => 2,
                (true, true) => 3,
            };
            (boundaries, b.lower, b.upper, b.count)
        });
        Self {
            count: histogram.count,
            sum: histogram.sum,
            buckets: buckets.collect(),
        }
    }
}
