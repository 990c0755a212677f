//! Whether a counter histogram was reset between two samples.

use super::buckets::{exponential_bound, indexed};
use super::{FloatHistogram, ResetHint};

/// Whether a populated bucket of `previous` is smaller in, or missing from, `current`; both sorted by index.
fn fell(previous: impl Iterator<Item = (i32, f64)>, current: impl Iterator<Item = (i32, f64)>) -> bool {
    let mut current = current.peekable();
    for (index, count) in previous {
        while current.peek().is_some_and(|(i, _)| *i < index) {
            current.next();
        }
        match current.peek() {
            Some((i, now)) if *i == index => {
                if *now < count {
                    return true;
                }
            }
            _ => {
                if count != 0.0 {
                    return true;
                }
            }
        }
    }
    false
}

/// Adds up neighbours of the same index.
fn merged(buckets: impl Iterator<Item = (i32, f64)>, target: impl Fn(i32) -> i32) -> Vec<(i32, f64)> {
    let mut out: Vec<(i32, f64)> = Vec::new();
    for (index, count) in buckets {
        let index = target(index);
        match out.last_mut() {
            Some((last, sum)) if *last == index => *sum += count,
            _ => out.push((index, count)),
        }
    }
    out
}

impl FloatHistogram {
    /// Whether the counter was reset between `previous` and this sample: by the hint if it says so, else because a
    /// count fell, or the resolution or zero threshold changed in a way that only a reset brings.
    #[must_use]
    pub fn is_reset_after(&self, previous: &Self) -> bool {
        match self.reset_hint {
            ResetHint::Reset => return true,
            ResetHint::NotReset => return false,
            ResetHint::Unknown | ResetHint::Gauge => {}
        }
        if self.count < previous.count {
            return true;
        }
        if self.uses_custom_buckets() != previous.uses_custom_buckets() {
            return true;
        }
        if self.uses_custom_buckets() {
            return self.custom_fell(previous);
        }
        if self.schema > previous.schema || self.zero_threshold < previous.zero_threshold {
            return true;
        }
        self.exponential_fell(previous)
    }

    fn exponential_fell(&self, previous: &Self) -> bool {
        let threshold = self.zero_threshold;
        let mut zero_count = previous.zero_count;
        let shift = previous.schema.saturating_sub(self.schema).clamp(0, 31);
        let target = |index: i32| {
            if shift == 0 {
                index
            } else {
                (index.saturating_sub(1) >> shift) + 1
            }
        };
        let sides = [
            (
                &previous.positive_spans,
                &previous.positive_buckets,
                &self.positive_spans,
                &self.positive_buckets,
            ),
            (
                &previous.negative_spans,
                &previous.negative_buckets,
                &self.negative_spans,
                &self.negative_buckets,
            ),
        ];
        for (spans, buckets, ..) in sides {
            for (index, count) in indexed(spans, buckets) {
                if exponential_bound(previous.schema, index.saturating_sub(1)) >= threshold {
                    break;
                }
                // The zero bucket grew to the middle of a populated bucket: only a reset does that.
                if exponential_bound(previous.schema, index) > threshold && count != 0.0 {
                    return true;
                }
                zero_count += count;
            }
        }
        if self.zero_count < zero_count {
            return true;
        }
        let schema = self.schema;
        let above = |bucket: &(i32, f64)| exponential_bound(schema, bucket.0) > threshold;
        sides.into_iter().any(|(spans, buckets, now_spans, now_buckets)| {
            let before = merged(indexed(spans, buckets), target);
            fell(
                before.into_iter().filter(above),
                indexed(now_spans, now_buckets).filter(above),
            )
        })
    }

    fn custom_fell(&self, previous: &Self) -> bool {
        if self.custom_values == previous.custom_values {
            return fell(
                indexed(&previous.positive_spans, &previous.positive_buckets),
                indexed(&self.positive_spans, &self.positive_buckets),
            );
        }
        let common: Vec<f64> = self
            .custom_values
            .iter()
            .copied()
            .filter(|b| previous.custom_values.contains(b))
            .collect();
        let restricted = |h: &Self| {
            merged(indexed(&h.positive_spans, &h.positive_buckets), |index| {
                let (_, upper) = h.bounds(index);
                i32::try_from(common.partition_point(|bound| *bound < upper)).unwrap_or(i32::MAX)
            })
        };
        fell(restricted(previous).into_iter(), restricted(self).into_iter())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Span;
    use super::*;

    fn counts(schema: i32, counts: &[f64]) -> FloatHistogram {
        FloatHistogram {
            schema,
            count: counts.iter().sum(),
            positive_spans: vec![Span {
                offset: 1,
                length: counts.len() as u32,
            }],
            positive_buckets: counts.to_vec(),
            ..FloatHistogram::default()
        }
    }

    #[test]
    fn a_falling_bucket_is_a_reset_even_if_the_count_grows() {
        assert!(!counts(0, &[1.0, 2.0]).is_reset_after(&counts(0, &[1.0, 1.0])));
        assert!(counts(0, &[1.0, 5.0]).is_reset_after(&counts(0, &[2.0, 1.0])));
        assert!(counts(0, &[9.0]).is_reset_after(&counts(0, &[1.0, 1.0])));
        assert!(counts(1, &[9.0]).is_reset_after(&counts(0, &[1.0])));
        assert!(!counts(0, &[3.0, 0.0]).is_reset_after(&counts(1, &[1.0, 2.0])));
        let told = FloatHistogram {
            reset_hint: ResetHint::NotReset,
            ..counts(0, &[0.0])
        };
        assert!(!told.is_reset_after(&counts(0, &[2.0])));
    }
}
