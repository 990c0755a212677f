//! Quantiles and fractions of classic histograms: cumulative buckets with upper bounds.

#[derive(Clone, Copy, Debug)]
pub(super) struct ClassicBucket {
    pub(super) upper: f64,
    /// Cumulative.
    pub(super) count: f64,
}

/// Relative difference of counts that is taken to be rounding.
const SMALL: f64 = 1e-12;

fn almost_equal(a: f64, b: f64, tolerance: f64) -> bool {
    if a == b {
        return true;
    }
    let (sum, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < tolerance * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < tolerance
}

/// Sorted by bound, equal bounds added up.
fn coalesced(buckets: &mut Vec<ClassicBucket>) {
    buckets.sort_by(|a, b| a.upper.total_cmp(&b.upper));
    let mut out: Vec<ClassicBucket> = Vec::with_capacity(buckets.len());
    for bucket in buckets.drain(..) {
        match out.last_mut() {
            Some(last) if last.upper == bucket.upper => last.count += bucket.count,
            _ => out.push(bucket),
        }
    }
    *buckets = out;
}

/// Takes small differences for rounding and removes decreases; whether there were any.
fn make_monotonic(buckets: &mut [ClassicBucket]) -> bool {
    let mut forced = false;
    let Some(first) = buckets.first() else { return false };
    let mut before = first.count;
    for bucket in &mut buckets[1..] {
        if almost_equal(before, bucket.count, SMALL) {
            bucket.count = before;
        } else if bucket.count < before {
            bucket.count = before;
            forced = true;
        } else {
            before = bucket.count;
        }
    }
    forced
}

/// The φ-quantile, linear within a bucket, and whether counts had to be made monotonic.
pub(super) fn quantile(q: f64, mut buckets: Vec<ClassicBucket>) -> (f64, bool) {
    if q.is_nan() {
        return (f64::NAN, false);
    }
    if q < 0.0 {
        return (f64::NEG_INFINITY, false);
    }
    if q > 1.0 {
        return (f64::INFINITY, false);
    }
    coalesced(&mut buckets);
    let Some(last) = buckets.last().copied() else {
        return (f64::NAN, false);
    };
    if last.upper != f64::INFINITY {
        return (f64::NAN, false);
    }
    let forced = make_monotonic(&mut buckets);
    if buckets.len() < 2 {
        return (f64::NAN, false);
    }
    let end = buckets.len() - 1;
    let observations = buckets[end].count;
    if observations == 0.0 {
        return (f64::NAN, false);
    }
    let mut rank = q * observations;
    // No count reaches a rank that is not a number.
    let at = buckets[..end].partition_point(|bucket| bucket.count < rank || rank.is_nan());
    if at == end {
        return (buckets[end - 1].upper, forced);
    }
    if at == 0 && buckets[0].upper <= 0.0 {
        return (buckets[0].upper, forced);
    }
    let (mut lower, upper, mut count) = (0.0, buckets[at].upper, buckets[at].count);
    if at > 0 {
        lower = buckets[at - 1].upper;
        count -= buckets[at - 1].count;
        rank -= buckets[at - 1].count;
    }
    (lower + (upper - lower) * (rank / count), forced)
}

/// The share of observations between two values, linear within a bucket.
pub(super) fn fraction(lower: f64, upper: f64, mut buckets: Vec<ClassicBucket>) -> f64 {
    coalesced(&mut buckets);
    make_monotonic(&mut buckets);
    let Some(last) = buckets.last().copied() else {
        return f64::NAN;
    };
    let observations = last.count;
    if last.upper != f64::INFINITY || observations == 0.0 || observations.is_nan() || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let rank_of = |bound: f64, is_lower: bool| {
        let mut before = ClassicBucket {
            upper: if buckets[0].upper > 0.0 { 0.0 } else { f64::NEG_INFINITY },
            count: 0.0,
        };
        for bucket in &buckets {
            if before.upper >= bound {
                return before.count;
            }
            if bucket.upper > bound {
                // Of an unbounded bucket that a bound lies in nothing is counted.
                if bucket.upper == f64::INFINITY {
                    return before.count;
                }
                if before.upper == f64::NEG_INFINITY {
                    return if is_lower { bucket.count } else { before.count };
                }
                let share = (bound - before.upper) / (bucket.upper - before.upper);
                return before.count + (bucket.count - before.count) * share;
            }
            before = *bucket;
        }
        observations
    };
    (rank_of(upper, false) - rank_of(lower, true)) / observations
}
