//! What a query gives back.

use gnomon_model::Labels;
use gnomon_model::histogram::FloatHistogram;
use std::sync::Arc;

/// The value of one sample.
#[derive(Clone, Debug, PartialEq)]
pub enum SampleValue {
    Float(f64),
    Histogram(Arc<FloatHistogram>),
}

/// One element of an instant vector.
#[derive(Clone, Debug, PartialEq)]
pub struct InstantSample {
    pub labels: Labels,
    /// Milliseconds since the Unix epoch: the evaluation time.
    pub timestamp_ms: i64,
    pub value: SampleValue,
}

impl InstantSample {
    fn held_bytes(&self) -> u64 {
        let histogram = match &self.value {
            SampleValue::Float(_) => 0,
            SampleValue::Histogram(h) => 16 * h.weight(),
        };
        (SERIES_BYTES + self.labels.as_bytes().len()) as u64 + histogram
    }
}

/// One series of a matrix; each list by time, no time in both.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RangeSeries {
    pub labels: Labels,
    pub floats: Vec<(i64, f64)>,
    pub histograms: Vec<(i64, Arc<FloatHistogram>)>,
}

/// What a series takes beside its points and the bytes of its labels.
const SERIES_BYTES: usize = 128;

/// Two points of a series at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SameTime;

impl RangeSeries {
    /// How many plain samples its points weigh.
    pub(crate) fn weight(&self) -> u64 {
        let histograms: u64 = self.histograms.iter().map(|(_, h)| 1 + h.weight()).sum();
        self.floats.len() as u64 + histograms
    }

    /// One series of some that have the same labels, whose points it takes.
    pub(crate) fn joined(series: &mut [Self]) -> Result<Self, SameTime> {
        let mut parts = series.iter_mut().map(std::mem::take);
        let mut whole = parts.next().unwrap_or_default();
        for part in parts {
            whole.floats.extend(part.floats);
            whole.histograms.extend(part.histograms);
        }
        whole.floats.sort_by_key(|(time, _)| *time);
        whole.histograms.sort_by_key(|(time, _)| *time);
        let twice = |a: i64, b: i64| a == b;
        let floats_twice = whole.floats.windows(2).any(|pair| twice(pair[0].0, pair[1].0));
        let histograms_twice = whole.histograms.windows(2).any(|pair| twice(pair[0].0, pair[1].0));
        let mut histograms = whole.histograms.iter();
        let both = histograms.any(|(time, _)| whole.floats.binary_search_by_key(time, |(at, _)| *at).is_ok());
        if floats_twice || histograms_twice || both {
            return Err(SameTime);
        }
        Ok(whole)
    }

    /// Bytes in memory.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        let histograms: u64 = self.histograms.iter().map(|(_, h)| 16 * (h.weight() + 1)).sum();
        (SERIES_BYTES + self.labels.as_bytes().len() + 16 * self.floats.capacity()) as u64 + histograms
    }
}

/// The answer to a query: a range query always gives a matrix.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Scalar {
        timestamp_ms: i64,
        value: f64,
    },
    String {
        timestamp_ms: i64,
        text: String,
    },
    Vector(Vec<InstantSample>),
    /// Sorted by labels.
    Matrix(Vec<RangeSeries>),
}

impl Value {
    /// Bytes in memory, about.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        match self {
            Self::Scalar { .. } => 0,
            Self::String { text, .. } => text.len() as u64,
            Self::Vector(samples) => samples.iter().map(InstantSample::held_bytes).sum(),
            Self::Matrix(series) => series.iter().map(RangeSeries::held_bytes).sum(),
        }
    }

    /// The `resultType` of the HTTP API.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::Scalar { .. } => "scalar",
            Self::String { .. } => "string",
            Self::Vector(_) => "vector",
            Self::Matrix(_) => "matrix",
        }
    }
}

/// What it took to answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueryStats {
    /// Series that the source gave.
    pub series_read: u64,
    /// Samples that the source gave.
    pub samples_read: u64,
    /// Most samples held at once.
    pub peak_samples: u64,
}

/// The samples of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepSamples {
    pub timestamp_ms: i64,
    /// Samples that were looked at; one in the ranges of several steps counts for each of them.
    pub queryable: u64,
    /// Samples that had not been looked at for an earlier step.
    pub read: u64,
}

/// A value with what is to be said about it.
#[derive(Clone, Debug, PartialEq)]
pub struct QueryResult {
    pub value: Value,
    /// Whole texts, with positions (`PromQL warning: … (1:5)`), sorted, each once.
    pub warnings: Vec<String>,
    /// Whole texts, with positions (`PromQL info: … (1:5)`), sorted, each once.
    pub infos: Vec<String>,
    pub stats: QueryStats,
    /// One a step where [`crate::EvalParams::count_steps`] is set; else empty.
    pub steps: Vec<StepSamples>,
}
