//! The buckets of a native histogram in the order and with the bounds that the HTTP API shows.

use gnomon_model::histogram::FloatHistogram;

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
pub(crate) fn for_each(histogram: &FloatHistogram, each: impl FnMut(Bucket)) {
    let all = histogram.all_buckets().into_iter().filter(|b| b.count != 0.0);
    let shown = all.map(|b| Bucket {
        boundaries: match (b.lower_inclusive, b.upper_inclusive) {
            (false, true) => 0,
            (true, false) => 1,
            (false, false) => 2,
            (true, true) => 3,
        },
        lower: b.lower,
        upper: b.upper,
        count: b.count,
    });
    shown.for_each(each);
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::histogram::{CUSTOM_BUCKETS_SCHEMA, Span};

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
    fn what_the_zero_bucket_covers_is_not_shown_twice() {
        let histogram = FloatHistogram {
            schema: 0,
            zero_threshold: 0.75,
            zero_count: -2.0,
            positive_spans: vec![Span { offset: 0, length: 1 }],
            positive_buckets: vec![3.0],
            negative_spans: vec![Span { offset: 0, length: 1 }],
            negative_buckets: vec![5.0],
            ..FloatHistogram::default()
        };
        // As in Prometheus, a zero bucket with less than nothing in it is not shown at all.
        assert_eq!(buckets(&histogram), [(1, -1.0, -0.75, 5.0), (0, 0.75, 1.0, 3.0)]);
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
