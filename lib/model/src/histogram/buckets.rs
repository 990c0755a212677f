//! Boundaries, and walking over buckets.

use super::{FloatHistogram, Span};

/// One bucket with its boundaries and count.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bucket {
    pub lower: f64,
    pub upper: f64,
    pub lower_inclusive: bool,
    pub upper_inclusive: bool,
    pub count: f64,
}

/// `fraction * 2^exponent` without leaving the range of f64 on the way.
fn scale_by_power(fraction: f64, exponent: i32) -> f64 {
    if exponent < -1000 {
        fraction * 2f64.powi(-1000) * 2f64.powi(exponent.max(-2200) + 1000)
    } else if exponent > 1000 {
        fraction * 2f64.powi(1000) * 2f64.powi(exponent.min(2200) - 1000)
    } else {
        fraction * 2f64.powi(exponent)
    }
}

/// The upper boundary (by absolute value) of the bucket with an index in an exponential schema.
pub(super) fn exponential_bound(schema: i32, index: i32) -> f64 {
    let bound = if schema <= 0 {
        let exponent = i64::from(index) << (-schema).min(16);
        if exponent >= 1024 {
            return f64::MAX;
        }
        scale_by_power(1.0, i32::try_from(exponent).unwrap_or(-2200))
    } else {
        let schema = schema.min(30);
        let parts = 1i64 << schema;
        let within = i64::from(index) & (parts - 1);
        let fraction = 0.5 * (within as f64 / parts as f64).exp2();
        scale_by_power(fraction, (index >> schema).saturating_add(1))
    };
    bound.min(f64::MAX)
}

/// The buckets of a run of spans with their indexes.
pub(super) fn indexed<'a>(spans: &'a [Span], buckets: &'a [f64]) -> impl Iterator<Item = (i32, f64)> + 'a {
    let mut next = 0i64;
    let indexes = spans.iter().flat_map(move |span| {
        let start = next + i64::from(span.offset);
        next = start + i64::from(span.length);
        start..next
    });
    let clamp = |index: i64| index.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32;
    indexes.map(clamp).zip(buckets.iter().copied())
}

/// Spans and counts of buckets that are sorted by index.
pub(super) fn to_spans(buckets: impl Iterator<Item = (i32, f64)>) -> (Vec<Span>, Vec<f64>) {
    let (mut spans, mut counts) = (Vec::<Span>::new(), Vec::new());
    let mut end = 0i32;
    for (index, count) in buckets {
        let gap = index.saturating_sub(end);
        match spans.last_mut() {
            Some(span) if gap == 0 => span.length += 1,
            _ => spans.push(Span { offset: gap, length: 1 }),
        }
        end = index.saturating_add(1);
        counts.push(count);
    }
    (spans, counts)
}

impl FloatHistogram {
    /// The boundaries of the positive bucket with an index.
    pub(super) fn bounds(&self, index: i32) -> (f64, f64) {
        if self.uses_custom_buckets() {
            let at = |i: i64| {
                if i < 0 {
                    f64::NEG_INFINITY
                } else {
                    usize::try_from(i)
                        .ok()
                        .and_then(|i| self.custom_values.get(i))
                        .copied()
                        .unwrap_or(f64::INFINITY)
                }
            };
            return (at(i64::from(index) - 1), at(i64::from(index)));
        }
        (
            exponential_bound(self.schema, index.saturating_sub(1)),
            exponential_bound(self.schema, index),
        )
    }

    fn positive_bucket(&self, index: i32, count: f64) -> Bucket {
        let (lower, upper) = self.bounds(index);
        let custom = self.uses_custom_buckets();
        Bucket {
            lower,
            upper,
            // Of custom buckets the lowest alone has its lower bound, whatever it is.
            lower_inclusive: if custom { index == 0 } else { lower < 0.0 },
            upper_inclusive: custom || upper > 0.0,
            count,
        }
    }

    fn negative_bucket(&self, index: i32, count: f64) -> Bucket {
        let (lower, upper) = self.bounds(index);
        Bucket {
            lower: -upper,
            upper: -lower,
            lower_inclusive: true,
            upper_inclusive: false,
            count,
        }
    }

    /// Positive buckets upwards.
    pub fn positive(&self) -> impl Iterator<Item = Bucket> + '_ {
        indexed(&self.positive_spans, &self.positive_buckets).map(|(index, count)| self.positive_bucket(index, count))
    }

    /// Negative buckets downwards, from zero.
    pub fn negative(&self) -> impl Iterator<Item = Bucket> + '_ {
        indexed(&self.negative_spans, &self.negative_buckets).map(|(index, count)| self.negative_bucket(index, count))
    }

    /// The bucket around zero.
    #[must_use]
    pub fn zero_bucket(&self) -> Bucket {
        Bucket {
            lower: -self.zero_threshold,
            upper: self.zero_threshold,
            lower_inclusive: true,
            upper_inclusive: true,
            count: self.zero_count,
        }
    }

    /// All buckets upwards; the zero bucket only if it has observations. Neighbours of the zero bucket end at its
    /// threshold where they would overlap it.
    #[must_use]
    pub fn all_buckets(&self) -> Vec<Bucket> {
        let mut all: Vec<Bucket> = self.negative().collect();
        all.reverse();
        let threshold = self.zero_threshold;
        if !self.uses_custom_buckets() {
            for bucket in &mut all {
                if bucket.lower < -threshold && bucket.upper > -threshold {
                    bucket.upper = -threshold;
                }
            }
        }
        if self.zero_count > 0.0 {
            all.push(self.zero_bucket());
        }
        let custom = self.uses_custom_buckets();
        all.extend(self.positive().map(|mut bucket| {
            if !custom && bucket.lower < threshold && bucket.upper > threshold {
                bucket.lower = threshold;
            }
            bucket
        }));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_are_powers_of_the_schemas_base() {
        for (schema, index, bound) in [
            (0, 0, 1.0),
            (0, 3, 8.0),
            (-1, 1, 4.0),
            (1, 1, 2f64.sqrt()),
            (3, 8, 2.0),
            (2, -4, 0.5),
        ] {
            assert!(
                (exponential_bound(schema, index) - bound).abs() < 1e-12,
                "{schema} {index}"
            );
        }
        assert_eq!(exponential_bound(0, 1024), f64::MAX);
        assert_eq!(exponential_bound(8, i32::MAX), f64::MAX);
        assert_eq!(exponential_bound(-4, i32::MIN), 0.0);
    }

    #[test]
    fn spans_and_indexes_are_inverse() {
        let buckets = [(-3, 1.0), (-2, 2.0), (0, 3.0), (7, 4.0)];
        let (spans, counts) = to_spans(buckets.into_iter());
        assert_eq!(spans.len(), 3);
        assert_eq!(indexed(&spans, &counts).collect::<Vec<_>>(), buckets);
    }
}
