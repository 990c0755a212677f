//! A sample's value, and since when its counter counts.

use gnomon_model::histogram::FloatHistogram;
use gnomon_model::is_stale_nan;
use gnomon_proto::histogram::Decoded;

/// A float, or a histogram of either kind.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    Float(f64),
    Histogram(Box<Decoded>),
}

/// What a series has at an instant.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) value: Value,
    /// Since when its counter counts, in milliseconds; 0 where that is not known.
    pub(crate) start_ms: i64,
}

impl From<Value> for Sample {
    /// Without a start.
    fn from(value: Value) -> Self {
        Self { value, start_ms: 0 }
    }
}

impl Value {
    /// Whether it is a stale marker.
    pub(super) fn ends_series(&self) -> bool {
        match self {
            Self::Float(value) => is_stale_nan(*value),
            Self::Histogram(value) => is_stale_nan(value.histogram.sum),
        }
    }

    /// Equal to the bit.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Histogram(a), Self::Histogram(b)) => {
                a.is_integer == b.is_integer && same_histogram(&a.histogram, &b.histogram)
            }
            _ => false,
        }
    }
}

fn same_histogram(a: &FloatHistogram, b: &FloatHistogram) -> bool {
    let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    let floats = |h: &FloatHistogram| [h.sum, h.count, h.zero_count, h.zero_threshold].map(f64::to_bits);
    a.reset_hint == b.reset_hint
        && a.schema == b.schema
        && floats(a) == floats(b)
        && a.positive_spans == b.positive_spans
        && a.negative_spans == b.negative_spans
        && bits(&a.positive_buckets) == bits(&b.positive_buckets)
        && bits(&a.negative_buckets) == bits(&b.negative_buckets)
        && bits(&a.custom_values) == bits(&b.custom_values)
}
