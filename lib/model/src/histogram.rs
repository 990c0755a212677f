//! Native histograms: exponential buckets (schemas -4 to 8) and custom buckets (schema -53), as in Prometheus'
//! `model/histogram`.

use serde::{Deserialize, Serialize};

/// The schema number of histograms with custom bucket boundaries (NHCB).
pub const CUSTOM_BUCKETS_SCHEMA: i32 = -53;

/// A run of consecutive buckets, placed relative to the end of the run before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Gap to the previous span; for the first span the index of its first bucket.
    pub offset: i32,
    /// Number of buckets in the run.
    pub length: u32,
}

/// What is known about whether a counter histogram was reset before this sample.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum ResetHint {
    #[default]
    Unknown = 0,
    Reset = 1,
    NotReset = 2,
    Gauge = 3,
}

/// A histogram sample with absolute float counts. Integer histograms are exactly representable in it up to 2^53
/// observations a bucket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FloatHistogram {
    pub reset_hint: ResetHint,
    /// -4..=8 for exponential buckets, or [`CUSTOM_BUCKETS_SCHEMA`].
    pub schema: i32,
    /// Width of the zero bucket; 0 for custom buckets.
    pub zero_threshold: f64,
    pub zero_count: f64,
    pub count: f64,
    /// A stale marker when it is the stale NaN.
    pub sum: f64,
    pub positive_spans: Vec<Span>,
    pub negative_spans: Vec<Span>,
    /// Absolute counts (not deltas), as many as the spans have buckets.
    pub positive_buckets: Vec<f64>,
    pub negative_buckets: Vec<f64>,
    /// Upper bounds of custom buckets, strictly increasing, without +Inf; empty for exponential schemas.
    pub custom_values: Vec<f64>,
}
