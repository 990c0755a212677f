//! Adding and subtracting histograms of different resolution, zero threshold and custom boundaries.

use super::buckets::{exponential_bound, indexed, to_spans};
use super::{FloatHistogram, ResetHint};

/// Exponential and custom buckets cannot be combined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("histograms with exponential and custom buckets cannot be combined")]
pub struct IncompatibleSchemas;

/// What is to be said about a combination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Combined {
    /// One side is known to follow a counter reset, the other not to.
    pub reset_collision: bool,
    /// Custom boundaries differed; the result has those that are in both.
    pub bounds_reconciled: bool,
}

/// A number with what rounding has lost of it (Neumaier's variant of Kahan's summation).
#[derive(Clone, Copy, Debug, Default)]
struct Exact {
    sum: f64,
    lost: f64,
}

impl Exact {
    const fn new(sum: f64) -> Self {
        Self { sum, lost: 0.0 }
    }

    fn add(&mut self, value: f64) {
        let total = self.sum + value;
        if total.is_infinite() {
            self.lost = 0.0;
        } else if self.sum.abs() >= value.abs() {
            self.lost += (self.sum - total) + value;
        } else {
            self.lost += (value - total) + self.sum;
        }
        self.sum = total;
    }

    fn merge(&mut self, other: Self) {
        self.add(other.sum);
        self.add(other.lost);
    }

    fn value(self) -> f64 {
        if self.sum.is_finite() {
            self.sum + self.lost
        } else {
            self.sum
        }
    }
}

/// A sum of histograms that does not lose precision as it grows.
#[derive(Clone, Debug)]
pub struct Accumulator {
    reset_hint: ResetHint,
    schema: i32,
    zero_threshold: f64,
    zero_count: Exact,
    count: Exact,
    sum: Exact,
    positive: Vec<(i32, Exact)>,
    negative: Vec<(i32, Exact)>,
    custom_values: Vec<f64>,
}

/// Merges neighbours to the index that `target` gives, which must not fall.
fn reindex(buckets: &mut Vec<(i32, Exact)>, target: impl Fn(i32) -> i32) {
    let mut out: Vec<(i32, Exact)> = Vec::with_capacity(buckets.len());
    for (index, value) in buckets.drain(..) {
        let index = target(index);
        match out.last_mut() {
            Some((last, sum)) if *last == index => sum.merge(value),
            _ => out.push((index, value)),
        }
    }
    *buckets = out;
}

fn merge(into: &mut Vec<(i32, Exact)>, other: Vec<(i32, Exact)>) {
    let mut out = Vec::with_capacity(into.len().max(other.len()));
    let (mut left, mut right) = (into.drain(..).peekable(), other.into_iter().peekable());
    loop {
        match (left.peek().map(|b| b.0), right.peek().map(|b| b.0)) {
            (None, None) => break,
            (Some(a), Some(b)) if a == b => {
                if let (Some((index, mut sum)), Some((_, value))) = (left.next(), right.next()) {
                    sum.merge(value);
                    out.push((index, sum));
                }
            }
            (Some(a), b) if b.is_none_or(|b| a < b) => out.extend(left.next()),
            _ => out.extend(right.next()),
        }
    }
    drop(left);
    *into = out;
}

/// The boundaries that are in both lists.
fn intersection(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().copied().filter(|bound| b.contains(bound)).collect()
}

impl Accumulator {
    #[must_use]
    pub fn new(first: &FloatHistogram) -> Self {
        let exact = |(index, count)| (index, Exact::new(count));
        Self {
            reset_hint: first.reset_hint,
            schema: first.schema,
            zero_threshold: first.zero_threshold,
            zero_count: Exact::new(first.zero_count),
            count: Exact::new(first.count),
            sum: Exact::new(first.sum),
            positive: indexed(&first.positive_spans, &first.positive_buckets)
                .map(exact)
                .collect(),
            negative: indexed(&first.negative_spans, &first.negative_buckets)
                .map(exact)
                .collect(),
            custom_values: first.custom_values.clone(),
        }
    }

    /// Adds `factor` times a histogram.
    ///
    /// # Errors
    /// When one has exponential and the other custom buckets.
    pub fn add_scaled(&mut self, histogram: &FloatHistogram, factor: f64) -> Result<Combined, IncompatibleSchemas> {
        let mut other = Self::new(histogram);
        let custom = super::CUSTOM_BUCKETS_SCHEMA;
        if (self.schema == custom) != (other.schema == custom) {
            return Err(IncompatibleSchemas);
        }
        let mut said = Combined {
            reset_collision: self.adjust_hint(other.reset_hint),
            bounds_reconciled: false,
        };
        if self.schema == custom {
            if self.custom_values != other.custom_values {
                said.bounds_reconciled = true;
                let common = intersection(&self.custom_values, &other.custom_values);
                self.restrict(&common);
                other.restrict(&common);
            }
        } else {
            self.reconcile_zero(&mut other);
            let schema = self.schema.min(other.schema);
            self.reduce(schema);
            other.reduce(schema);
        }
        other.scale(factor);
        self.zero_count.merge(other.zero_count);
        self.count.merge(other.count);
        self.sum.merge(other.sum);
        merge(&mut self.positive, other.positive);
        merge(&mut self.negative, other.negative);
        Ok(said)
    }

    fn scale(&mut self, factor: f64) {
        if factor == 1.0 {
            return;
        }
        let singles = [&mut self.zero_count, &mut self.count, &mut self.sum];
        let buckets = self
            .positive
            .iter_mut()
            .chain(&mut self.negative)
            .map(|(_, value)| value);
        for value in singles.into_iter().chain(buckets) {
            value.sum *= factor;
            value.lost *= factor;
        }
    }

    /// Applies a factor to every count and to the sum.
    pub fn multiply(&mut self, factor: f64) {
        self.scale(factor);
    }

    /// Whether adding the histogram would leave the range of f64.
    #[must_use]
    pub fn would_overflow(&self, histogram: &FloatHistogram) -> bool {
        let largest = |values: &mut dyn Iterator<Item = f64>| values.fold(0.0, |max: f64, v| max.max(v.abs()));
        let buckets = self.positive.iter().chain(&self.negative).map(|(_, v)| v.sum);
        let own = largest(
            &mut [self.zero_count.sum, self.count.sum, self.sum.sum]
                .into_iter()
                .chain(buckets),
        );
        let buckets = histogram
            .positive_buckets
            .iter()
            .chain(&histogram.negative_buckets)
            .copied();
        let singles = [histogram.zero_count, histogram.count, histogram.sum];
        let other = largest(&mut singles.into_iter().chain(buckets));
        own.is_finite() && other.is_finite() && (own + other).is_infinite()
    }

    /// Gives whether the two hints contradict each other.
    fn adjust_hint(&mut self, other: ResetHint) -> bool {
        let (hint, collision) = match (self.reset_hint, other) {
            (a, b) if a == b => (a, false),
            (ResetHint::Gauge, _) | (_, ResetHint::Gauge) => (ResetHint::Gauge, false),
            (ResetHint::Unknown, _) | (_, ResetHint::Unknown) => (ResetHint::Unknown, false),
            _ => (ResetHint::Unknown, true),
        };
        self.reset_hint = hint;
        collision
    }

    /// Lowers the resolution.
    fn reduce(&mut self, schema: i32) {
        let shift = self.schema.saturating_sub(schema).clamp(0, 31);
        if shift > 0 {
            let target = |index: i32| (index.saturating_sub(1) >> shift) + 1;
            reindex(&mut self.positive, target);
            reindex(&mut self.negative, target);
            self.schema = schema;
        }
    }

    /// Keeps the custom boundaries in `common`, all of which are its own.
    fn restrict(&mut self, common: &[f64]) {
        let own = std::mem::take(&mut self.custom_values);
        let target = |index: i32| {
            let upper = usize::try_from(index)
                .ok()
                .and_then(|i| own.get(i))
                .copied()
                .unwrap_or(f64::INFINITY);
            i32::try_from(common.partition_point(|bound| *bound < upper)).unwrap_or(i32::MAX)
        };
        reindex(&mut self.positive, target);
        self.custom_values = common.to_vec();
    }

    /// Widens the smaller zero bucket, and again if that ended within a populated bucket.
    fn reconcile_zero(&mut self, other: &mut Self) {
        while self.zero_threshold != other.zero_threshold {
            if self.zero_threshold < other.zero_threshold {
                self.widen_zero(other.zero_threshold);
            } else if self.zero_threshold > other.zero_threshold {
                other.widen_zero(self.zero_threshold);
            } else {
                // Not-a-number: nothing to reconcile.
                return;
            }
        }
    }

    fn widen_zero(&mut self, wanted: f64) {
        let mut threshold = wanted;
        loop {
            let schema = self.schema;
            let straddled = self.positive.iter().chain(&self.negative).find(|(index, count)| {
                let lower = exponential_bound(schema, index.saturating_sub(1));
                let upper = exponential_bound(schema, *index);
                lower < threshold && upper > threshold && count.value() != 0.0
            });
            let Some((index, _)) = straddled else { break };
            threshold = exponential_bound(schema, *index);
        }
        let schema = self.schema;
        for buckets in [&mut self.positive, &mut self.negative] {
            let within =
                buckets.partition_point(|(index, _)| exponential_bound(schema, index.saturating_sub(1)) < threshold);
            for (_, count) in buckets.drain(..within) {
                self.zero_count.merge(count);
            }
        }
        self.zero_threshold = threshold;
    }

    #[must_use]
    pub fn finish(&self) -> FloatHistogram {
        let plain = |buckets: &[(i32, Exact)]| to_spans(buckets.iter().map(|(index, value)| (*index, value.value())));
        let (positive_spans, positive_buckets) = plain(&self.positive);
        let (negative_spans, negative_buckets) = plain(&self.negative);
        FloatHistogram {
            reset_hint: self.reset_hint,
            schema: self.schema,
            zero_threshold: self.zero_threshold,
            zero_count: self.zero_count.value(),
            count: self.count.value(),
            sum: self.sum.value(),
            positive_spans,
            negative_spans,
            positive_buckets,
            negative_buckets,
            custom_values: self.custom_values.clone(),
        }
    }
}

impl FloatHistogram {
    /// The sum of two histograms, at the lower resolution of both.
    ///
    /// # Errors
    /// When one has exponential and the other custom buckets.
    pub fn plus(&self, other: &Self) -> Result<(Self, Combined), IncompatibleSchemas> {
        self.plus_scaled(other, 1.0)
    }

    /// The difference of two histograms, at the lower resolution of both.
    ///
    /// # Errors
    /// When one has exponential and the other custom buckets.
    pub fn minus(&self, other: &Self) -> Result<(Self, Combined), IncompatibleSchemas> {
        self.plus_scaled(other, -1.0)
    }

    fn plus_scaled(&self, other: &Self, factor: f64) -> Result<(Self, Combined), IncompatibleSchemas> {
        let mut sum = Accumulator::new(self);
        let said = sum.add_scaled(other, factor)?;
        Ok((sum.finish(), said))
    }

    /// At a lower resolution; a schema that is not lower changes nothing.
    #[must_use]
    pub fn at_schema(&self, schema: i32) -> Self {
        if self.uses_custom_buckets() || schema >= self.schema {
            return self.clone();
        }
        let mut sum = Accumulator::new(self);
        sum.reduce(schema);
        sum.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Span;
    use super::*;

    fn simple(schema: i32, offset: i32, counts: &[f64]) -> FloatHistogram {
        FloatHistogram {
            schema,
            count: counts.iter().sum(),
            positive_spans: vec![Span {
                offset,
                length: counts.len() as u32,
            }],
            positive_buckets: counts.to_vec(),
            ..FloatHistogram::default()
        }
    }

    #[test]
    fn resolution_is_the_lower_one() {
        let (sum, _) = simple(1, 1, &[1.0, 2.0, 3.0, 4.0])
            .plus(&simple(0, 1, &[10.0, 20.0]))
            .unwrap();
        assert_eq!((sum.schema, sum.positive_buckets), (0, vec![13.0, 27.0]));
        assert_eq!(sum.count, 40.0);
    }

    #[test]
    fn zero_bucket_grows_to_a_boundary_of_both() {
        let wide = FloatHistogram {
            zero_threshold: 1.5,
            zero_count: 1.0,
            count: 1.0,
            ..FloatHistogram::default()
        };
        let (sum, _) = wide.plus(&simple(0, 1, &[5.0, 7.0])).unwrap();
        assert_eq!((sum.zero_threshold, sum.zero_count), (2.0, 6.0));
        assert_eq!(sum.positive_buckets, [7.0]);
    }

    #[test]
    fn custom_boundaries_are_intersected() {
        let custom = |bounds: &[f64], counts: &[f64]| FloatHistogram {
            custom_values: bounds.to_vec(),
            ..simple(super::super::CUSTOM_BUCKETS_SCHEMA, 0, counts)
        };
        let a = custom(&[1.0, 2.0, 3.0], &[1.0, 2.0, 3.0, 4.0]);
        let (sum, said) = a.plus(&custom(&[1.0, 3.0], &[10.0, 20.0, 30.0])).unwrap();
        assert!(said.bounds_reconciled);
        assert_eq!(
            (sum.custom_values, sum.positive_buckets),
            (vec![1.0, 3.0], vec![11.0, 25.0, 34.0])
        );
        assert_eq!(a.plus(&simple(0, 0, &[1.0])), Err(IncompatibleSchemas));
    }
}
