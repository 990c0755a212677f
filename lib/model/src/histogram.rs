//! Native histograms: exponential buckets (schemas -4 to 8) and custom buckets (schema -53), as in Prometheus'
//! `model/histogram`.

mod buckets;
mod combine;
mod compact;
mod reset;
mod trim;

pub use buckets::Bucket;
pub use combine::{Accumulator, Combined, IncompatibleSchemas};

use crate::sample::is_stale_nan;
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

impl FloatHistogram {
    /// Whether the buckets have boundaries of their own rather than a schema's.
    #[must_use]
    pub const fn uses_custom_buckets(&self) -> bool {
        self.schema == CUSTOM_BUCKETS_SCHEMA
    }

    /// Whether this is a staleness marker.
    #[must_use]
    pub const fn is_stale(&self) -> bool {
        is_stale_nan(self.sum)
    }

    /// Applies `scale` to every count and to the sum.
    pub fn scale(&mut self, scale: impl Fn(f64) -> f64) {
        for value in [&mut self.zero_count, &mut self.count, &mut self.sum] {
            *value = scale(*value);
        }
        for value in self.positive_buckets.iter_mut().chain(&mut self.negative_buckets) {
            *value = scale(*value);
        }
    }

    /// Whether a count or the sum is infinite.
    #[must_use]
    pub fn has_overflow(&self) -> bool {
        let buckets = self.positive_buckets.iter().chain(&self.negative_buckets);
        [self.zero_count, self.count, self.sum]
            .iter()
            .chain(buckets)
            .any(|value| value.is_infinite())
    }

    /// How many plain samples this one weighs in limits: its size in units of 16 bytes, at least 1.
    #[must_use]
    pub fn weight(&self) -> u64 {
        let words = self.positive_buckets.len()
            + self.negative_buckets.len()
            + self.custom_values.len()
            + self.positive_spans.len()
            + self.negative_spans.len();
        words as u64 / 2 + 6
    }
}
