//! Cutting a histogram off at a value: the operators `</` and `>/`.

use super::FloatHistogram;
use super::buckets::Bucket;

/// How positions within a bucket relate to counts.
#[derive(Clone, Copy, PartialEq)]
enum Spread {
    Linear,
    Exponential,
}

/// The share of a bucket's observations that lie below `cutoff`.
fn share_below(bucket: &Bucket, cutoff: f64, spread: Spread) -> f64 {
    let (lower, upper) = (bucket.lower, bucket.upper);
    if cutoff >= upper {
        return 1.0;
    }
    if cutoff <= lower {
        return 0.0;
    }
    if lower.is_infinite() || upper.is_infinite() {
        // Nothing is known about where the observations of an unbounded bucket lie.
        return if upper.is_infinite() { 0.0 } else { 1.0 };
    }
    match spread {
        Spread::Linear => (cutoff - lower) / (upper - lower),
        Spread::Exponential if lower >= 0.0 => (cutoff / lower).log2() / (upper / lower).log2(),
        Spread::Exponential => 1.0 - (cutoff / upper).log2() / (lower / upper).log2(),
    }
}

/// The value that stands for all observations between two bounds.
fn middle(lower: f64, upper: f64, spread: Spread) -> f64 {
    if lower.is_infinite() {
        return upper;
    }
    if upper.is_infinite() {
        return lower;
    }
    match spread {
        Spread::Linear => f64::midpoint(lower, upper),
        Spread::Exponential if upper <= 0.0 => -(lower * upper).sqrt(),
        Spread::Exponential => (lower * upper).sqrt(),
    }
}

struct Trim {
    cutoff: f64,
    keep_below: bool,
    count: f64,
    sum: f64,
    removed: bool,
}

impl Trim {
    /// The count that is left of a bucket.
    fn keep(&mut self, bucket: &Bucket, spread: Spread) -> f64 {
        if bucket.count == 0.0 {
            return 0.0;
        }
        let inside = self.cutoff > bucket.lower && self.cutoff < bucket.upper;
        let unbounded = bucket.lower.is_infinite() || bucket.upper.is_infinite();
        let share = if inside && unbounded {
            // Nothing is known about where the observations of an unbounded bucket lie: it is kept whole, at the
            // cutoff, where it reaches away from it without end, and dropped where it ends there.
            let kept = if self.keep_below {
                bucket.upper.is_finite()
            } else {
                bucket.lower.is_finite()
            };
            f64::from(u8::from(kept))
        } else {
            let below = share_below(bucket, self.cutoff, spread);
            if self.keep_below { below } else { 1.0 - below }
        };
        let kept = bucket.count * share;
        self.removed |= kept != bucket.count || (inside && unbounded);
        if kept > 0.0 {
            let (lower, upper) = if self.keep_below {
                (bucket.lower, bucket.upper.min(self.cutoff))
            } else {
                (bucket.lower.max(self.cutoff), bucket.upper)
            };
            self.sum += kept * middle(lower, upper, spread);
            self.count += kept;
        }
        kept
    }
}

impl FloatHistogram {
    /// Only the observations below (or, if not `keep_below`, above) `cutoff`. Within a bucket they are taken to be
    /// spread evenly, by logarithm in exponential buckets; the sum is estimated anew unless nothing was cut off.
    #[must_use]
    pub fn trimmed(&self, cutoff: f64, keep_below: bool) -> Self {
        let mut trim = Trim {
            cutoff,
            keep_below,
            count: 0.0,
            sum: 0.0,
            removed: false,
        };
        let mut out = self.clone();
        let custom = self.uses_custom_buckets();
        let spread = if custom { Spread::Linear } else { Spread::Exponential };
        let threshold = self.zero_threshold;
        for (slot, mut bucket) in out.positive_buckets.iter_mut().zip(self.positive()) {
            // A first bucket that ends above 0 begins there, unless it is asked what lies below.
            let begins_at_zero = cutoff >= 0.0 || keep_below;
            if custom
                && bucket.lower == f64::NEG_INFINITY
                && bucket.upper > 0.0
                && bucket.upper.is_finite()
                && begins_at_zero
            {
                bucket.lower = 0.0;
            }
            if !custom && bucket.lower < threshold && bucket.upper > threshold {
                bucket.lower = threshold;
            }
            *slot = trim.keep(&bucket, spread);
        }
        for (slot, mut bucket) in out.negative_buckets.iter_mut().zip(self.negative()) {
            if bucket.lower < -threshold && bucket.upper > -threshold {
                bucket.upper = -threshold;
            }
            *slot = trim.keep(&bucket, spread);
        }
        if !custom {
            let mut zero = self.zero_bucket();
            let any = |buckets: &[f64]| buckets.iter().any(|count| *count != 0.0);
            match (any(&self.negative_buckets), any(&self.positive_buckets)) {
                (false, true) => zero.lower = 0.0,
                (true, false) => zero.upper = 0.0,
                _ => {}
            }
            out.zero_count = trim.keep(&zero, Spread::Linear);
        }
        if !trim.removed {
            return self.clone();
        }
        (out.count, out.sum) = (trim.count, trim.sum);
        out.compacted()
    }
}
