//! The buckets of a native histogram in the order and with the bounds that the HTTP API shows.

use gnomon_model::histogram::{CUSTOM_BUCKETS_SCHEMA, FloatHistogram, Span};

/// One bucket that is not empty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Bucket {
    /// 0: upper bound inclusive, 1: lower bound inclusive, 2: none, 3: both.
    pub(crate) boundaries: u8,
    pub(crate) lower: f64,
    pub(crate) upper: f64,
    pub(crate) count: f64,
}

/// From the lowest to the highest, without empty ones.
pub(crate) fn for_each(histogram: &FloatHistogram, mut each: impl FnMut(Bucket)) {
    let custom = histogram.schema == CUSTOM_BUCKETS_SCHEMA;
    let negative: Vec<_> = indexed(&histogram.negative_spans, &histogram.negative_buckets).collect();
    for (index, count) in negative.into_iter().rev().filter(|(_, count)| *count != 0.0) {
        each(Bucket {
            boundaries: 1,
            lower: -upper_bound(histogram, index),
            upper: -upper_bound(histogram, index.saturating_sub(1)),
            count,
        });
    }
    if !custom && histogram.zero_count != 0.0 {
        each(Bucket {
            boundaries: 3,
            lower: -histogram.zero_threshold,
            upper: histogram.zero_threshold,
            count: histogram.zero_count,
        });
    }
    for (index, count) in indexed(&histogram.positive_spans, &histogram.positive_buckets) {
        if count != 0.0 {
            each(Bucket {
                boundaries: if custom && index == 0 { 3 } else { 0 },
                lower: upper_bound(histogram, index.saturating_sub(1)),
                upper: upper_bound(histogram, index),
                count,
            });
        }
    }
}

fn indexed<'a>(spans: &'a [Span], counts: &'a [f64]) -> impl Iterator<Item = (i32, f64)> + 'a {
    let mut next = 0_i32;
    let indices = spans.iter().flat_map(move |span| {
        let start = next.saturating_add(span.offset);
        let end = start.saturating_add(i32::try_from(span.length).unwrap_or(i32::MAX));
        next = end;
        start..end
    });
    indices.zip(counts.iter().copied())
}

/// 2^(index / 2^schema), or the custom bound of that index.
fn upper_bound(histogram: &FloatHistogram, index: i32) -> f64 {
    if histogram.schema == CUSTOM_BUCKETS_SCHEMA {
        return match usize::try_from(index) {
            Err(_) => f64::NEG_INFINITY,
            Ok(at) => histogram.custom_values.get(at).copied().unwrap_or(f64::INFINITY),
        };
    }
    let exponent = f64::from(index) * 2_f64.powi(-histogram.schema.clamp(-8, 8));
    // The topmost bucket ends at the largest float rather than at infinity.
    if exponent >= 1024.0 { f64::MAX } else { exponent.exp2() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(histogram: &FloatHistogram) -> Vec<(u8, f64, f64, f64)> {
        let mut all = Vec::new();
        for_each(histogram, |b| all.push((b.boundaries, b.lower, b.upper, b.count)));
        all
    }

    #[test]
    fn buckets_ascend_through_zero() {
        let histogram = FloatHistogram {
            schema: 0,
            zero_threshold: 0.001,
            zero_count: 2.0,
            positive_spans: vec![Span { offset: 0, length: 2 }, Span { offset: 1, length: 1 }],
            positive_buckets: vec![3.0, 0.0, 1.0],
            negative_spans: vec![Span { offset: 1, length: 2 }],
            negative_buckets: vec![5.0, 6.0],
            ..FloatHistogram::default()
        };
        assert_eq!(
            buckets(&histogram),
            [
                (1, -4.0, -2.0, 6.0),
                (1, -2.0, -1.0, 5.0),
                (3, -0.001, 0.001, 2.0),
                (0, 0.5, 1.0, 3.0),
                (0, 4.0, 8.0, 1.0)
            ]
        );
    }

    #[test]
    fn custom_buckets_begin_at_minus_infinity() {
        let histogram = FloatHistogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            custom_values: vec![1.0, 2.5],
            positive_spans: vec![Span { offset: 0, length: 3 }],
            positive_buckets: vec![1.0, 2.0, 3.0],
            ..FloatHistogram::default()
        };
        assert_eq!(
            buckets(&histogram),
            [
                (3, f64::NEG_INFINITY, 1.0, 1.0),
                (0, 1.0, 2.5, 2.0),
                (0, 2.5, f64::INFINITY, 3.0)
            ]
        );
    }
}
