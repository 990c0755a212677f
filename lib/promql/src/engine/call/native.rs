//! What is read off a native histogram.

use crate::ast::Span;
use crate::engine::arithmetic::Kahan;
use crate::engine::notes::Notes;
use crate::functions::FunctionId as F;
use gnomon_model::histogram::{Bucket, FloatHistogram};

pub(super) type HistogramFunction = fn(&FloatHistogram) -> f64;

pub(super) fn histogram_function(func: F) -> Option<HistogramFunction> {
    Some(match func {
        F::HistogramCount => |h| h.count,
        F::HistogramSum => |h| h.sum,
        F::HistogramAvg => |h| h.sum / h.count,
        F::HistogramStdvar => variance,
        F::HistogramStddev => |h| variance(h).sqrt(),
        _ => return None,
    })
}

fn variance(histogram: &FloatHistogram) -> f64 {
    let mean = histogram.sum / histogram.count;
    let mut sum = Kahan::default();
    for bucket in histogram.all_buckets() {
        if bucket.count == 0.0 {
            continue;
        }
        let value = if histogram.uses_custom_buckets() {
            middle_of_custom(&bucket)
        } else if bucket.lower <= 0.0 && bucket.upper >= 0.0 {
            0.0
        } else {
            (bucket.upper * bucket.lower).sqrt().copysign(bucket.upper)
        };
        let delta = value - mean;
        sum.add(bucket.count * delta * delta);
    }
    sum.both() / histogram.count
}

/// An unbounded bucket stands for its bound; the first one begins at 0 if it ends above.
fn middle_of_custom(bucket: &Bucket) -> f64 {
    if bucket.upper == f64::INFINITY {
        bucket.lower
    } else if bucket.lower == f64::NEG_INFINITY {
        if bucket.upper > 0.0 {
            bucket.upper / 2.0
        } else {
            bucket.upper
        }
    } else {
        f64::midpoint(bucket.upper, bucket.lower)
    }
}

/// In a histogram of one sign the zero bucket reaches to 0 only.
fn one_sided(histogram: &FloatHistogram, mut bucket: Bucket) -> Bucket {
    match (
        histogram.negative_buckets.is_empty(),
        histogram.positive_buckets.is_empty(),
    ) {
        (true, false) => bucket.lower = 0.0,
        (false, true) => bucket.upper = 0.0,
        _ => {}
    }
    bucket
}

/// The φ-quantile: linear within custom buckets and the zero bucket, exponential within others.
pub(super) fn quantile(q: f64, histogram: &FloatHistogram, notes: &Notes, span: Span, name: &str) -> f64 {
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    if histogram.count == 0.0 || q.is_nan() {
        return f64::NAN;
    }
    let mut buckets = histogram.all_buckets();
    // Not-a-number observations are in the count but in no bucket: then the ranks must be counted from below.
    let has_nan = histogram.sum.is_nan() && buckets.iter().map(|b| b.count).sum::<f64>() < histogram.count;
    let forward = histogram.sum.is_nan() || q < 0.5;
    let mut rank = if forward {
        q * histogram.count
    } else {
        (1.0 - q) * histogram.count
    };
    if !forward {
        buckets.reverse();
    }
    let mut count = 0.0;
    let empty = Bucket {
        lower: 0.0,
        upper: 0.0,
        lower_inclusive: true,
        upper_inclusive: true,
        count: 0.0,
    };
    let mut bucket = buckets.last().copied().unwrap_or(empty);
    for candidate in buckets.iter().filter(|b| b.count != 0.0) {
        bucket = *candidate;
        count += bucket.count;
        if count >= rank {
            break;
        }
    }
    let custom = histogram.uses_custom_buckets();
    if !custom && bucket.lower < 0.0 && bucket.upper > 0.0 {
        bucket = one_sided(histogram, bucket);
    } else if custom {
        if bucket.lower == f64::NEG_INFINITY {
            if bucket.upper <= 0.0 {
                return bucket.upper;
            }
            bucket.lower = 0.0;
        } else if bucket.upper == f64::INFINITY {
            return bucket.lower;
        }
    }
    count = count.min(histogram.count);
    if count < rank {
        if has_nan {
            notes.quantile_is_nan(span, name);
            return f64::NAN;
        }
        return bucket.upper;
    }
    if has_nan {
        notes.quantile_is_skewed(span, name);
    }
    rank = if forward {
        rank - (count - bucket.count)
    } else {
        count - rank
    };
    at_share(&bucket, rank / bucket.count, custom)
}

/// The value that a share of a bucket's observations lies below: on a line, or on a logarithmic scale where the bucket
/// is exponential.
fn at_share(bucket: &Bucket, share: f64, custom: bool) -> f64 {
    if custom || (bucket.lower <= 0.0 && bucket.upper >= 0.0) {
        return bucket.lower + (bucket.upper - bucket.lower) * share;
    }
    let (lower, upper) = (bucket.lower.abs().log2(), bucket.upper.abs().log2());
    if bucket.lower > 0.0 {
        (lower + (upper - lower) * share).exp2()
    } else {
        -(upper + (lower - upper) * (1.0 - share)).exp2()
    }
}

/// How many observations of a bucket lie below a value within it.
fn below(bucket: &Bucket, value: f64, linear: bool) -> f64 {
    if linear {
        return bucket.count * (value - bucket.lower) / (bucket.upper - bucket.lower);
    }
    let (lower, upper, at) = (bucket.lower.abs().log2(), bucket.upper.abs().log2(), value.abs().log2());
    let share = if value > 0.0 {
        (at - lower) / (upper - lower)
    } else {
        1.0 - (at - upper) / (lower - upper)
    };
    bucket.count * share
}

/// The share of observations between two values.
pub(super) fn fraction(
    lower: f64,
    upper: f64,
    histogram: &FloatHistogram,
    notes: &Notes,
    span: Span,
    name: &str,
) -> f64 {
    if histogram.count == 0.0 || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    let buckets = histogram.all_buckets();
    let total = buckets.iter().map(|b| b.count).sum::<f64>();
    if histogram.sum.is_nan() && total < histogram.count {
        notes.fraction_has_nan(span, name);
    }
    if lower >= upper {
        return 0.0;
    }
    let custom = histogram.uses_custom_buckets();
    let mut rank = 0.0;
    let (mut from, mut to) = (None, None);
    for mut bucket in buckets {
        let zero = bucket.lower <= 0.0 && bucket.upper >= 0.0;
        if zero && !custom {
            bucket = one_sided(histogram, bucket);
        }
        if custom && bucket.lower == f64::NEG_INFINITY && bucket.upper > 0.0 {
            bucket.lower = 0.0;
        }
        for (bound, slot, is_lower) in [(lower, &mut from, true), (upper, &mut to, false)] {
            if slot.is_some() {
                continue;
            }
            if bucket.lower >= bound {
                *slot = Some(rank);
            } else if bucket.upper > bound {
                let unbounded = bucket.upper == f64::INFINITY || bucket.lower == f64::NEG_INFINITY;
                // Of an unbounded bucket that a bound lies in nothing is counted.
                let part = if unbounded {
                    if is_lower && bucket.upper.is_finite() {
                        bucket.count
                    } else {
                        0.0
                    }
                } else {
                    below(&bucket, bound, custom || zero)
                };
                *slot = Some(rank + part);
            }
        }
        if from.is_some() && to.is_some() {
            break;
        }
        rank += bucket.count;
    }
    // Beyond the last bucket all observations that are numbers are counted.
    let end = if histogram.sum.is_nan() { total } else { histogram.count };
    let rank_of = |slot: Option<f64>| slot.unwrap_or(end).min(end);
    (rank_of(to) - rank_of(from)) / histogram.count
}
