//! What is done with plain numbers: operators, sums, means, quantiles.

use super::context::Evaluated;
use super::order;
use crate::ast::BinaryOp;
use crate::limits::CancelFlag;

/// The result for two scalars; comparisons give 0 or 1. None for operators that have no scalar form.
pub(crate) fn scalar_binary(op: BinaryOp, a: f64, b: f64) -> Option<f64> {
    if let Some(holds) = compare(op, a, b) {
        return Some(f64::from(u8::from(holds)));
    }
    Some(match op {
        BinaryOp::Add => a + b,
        BinaryOp::Sub => a - b,
        BinaryOp::Mul => a * b,
        BinaryOp::Div => a / b,
        BinaryOp::Mod => a % b,
        BinaryOp::Pow => a.powf(b),
        BinaryOp::Atan2 => a.atan2(b),
        _ => return None,
    })
}

/// Whether a comparison holds; none if `op` is not one.
pub(crate) fn compare(op: BinaryOp, a: f64, b: f64) -> Option<bool> {
    Some(match op {
        BinaryOp::Eq => a == b,
        BinaryOp::Ne => a != b,
        BinaryOp::Gt => a > b,
        BinaryOp::Lt => a < b,
        BinaryOp::Ge => a >= b,
        BinaryOp::Le => a <= b,
        _ => return None,
    })
}

/// A sum with what rounding has lost of it: Neumaier's variant of Kahan's summation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kahan {
    sum: f64,
    lost: f64,
}

impl Kahan {
    pub(crate) const fn new(sum: f64) -> Self {
        Self { sum, lost: 0.0 }
    }

    pub(crate) fn add(&mut self, value: f64) {
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

    pub(crate) const fn is_infinite(&self) -> bool {
        self.sum.is_infinite()
    }

    /// Sum and loss, also where the sum is infinite.
    pub(crate) fn both(self) -> f64 {
        self.sum + self.lost
    }

    pub(crate) fn value(self) -> f64 {
        if self.sum.is_infinite() { self.sum } else { self.both() }
    }

    fn scaled(self, factor: f64) -> Self {
        Self {
            sum: self.sum * factor,
            lost: self.lost * factor,
        }
    }
}

impl FromIterator<f64> for Kahan {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut sum = Self::default();
        values.into_iter().for_each(|value| sum.add(value));
        sum
    }
}

/// The sum of two floats, and what rounding lost of it. Exact unless the sum overflows. Source: Knuth, TAOCP vol. 2,
/// 4.2.2, theorem B.
pub(crate) fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let part = sum - a;
    (sum, (a - (sum - part)) + (b - part))
}

/// The sum of values of which some are taken back, exact: the same as [`Kahan`]'s of those that are left, to the bit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sliding {
    sum: f64,
    lost: f64,
}

impl Sliding {
    /// Whether no sum of any of these values, however they are added and taken back (each once), loses anything to rounding:
    /// neither here nor in [`Kahan`].
    ///
    /// With values of `min..=max` binary exponents, and n of them coming or going, sums stay below n 2^(max+1), so that
    /// all that rounding takes off them stays below n^2 2^(max-52); it is a multiple of 2^(min-52). A float holds that
    /// as long as n^2 2^max < 2^(min+53).
    pub(crate) fn is_exact_for(values: &[f64]) -> bool {
        let (mut min, mut max) = (u64::MAX, 0);
        for value in values {
            let magnitude = value.to_bits() << 1;
            // The least, zeros aside, by wrapping around.
            min = min.min(magnitude.wrapping_sub(1));
            max = max.max(magnitude);
        }
        if max == 0 {
            return true;
        }
        // Those below the normal floats have the distance of the least of them.
        let (min, max) = (((min + 1) >> 53).max(1), (max >> 53).max(1));
        let changes = 2 * values.len() as u64;
        let bits = u64::from(u64::BITS - changes.leading_zeros());
        max + bits < 0x7ff && max - min + 2 * bits < 53
    }

    pub(crate) fn add(&mut self, value: f64) {
        let (sum, lost) = two_sum(self.sum, value);
        self.sum = sum;
        self.lost += lost;
    }

    /// What was added since it was as `before`.
    pub(crate) fn without(self, before: Self) -> Self {
        let mut left = self;
        left.add(-before.sum);
        left.lost -= before.lost;
        left
    }

    pub(crate) fn value(self) -> f64 {
        self.sum + self.lost
    }
}

/// A mean: a sum divided at the end, or, once the sum would overflow, a running mean.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mean {
    total: Kahan,
    count: f64,
    running: bool,
}

impl Mean {
    pub(crate) fn add(&mut self, value: f64) {
        self.count += 1.0;
        if self.count == 1.0 {
            self.total = Kahan::new(value);
            return;
        }
        if !self.running {
            let mut sum = self.total;
            sum.add(value);
            if !sum.is_infinite() {
                self.total = sum;
                return;
            }
            self.running = true;
            let before = self.count - 1.0;
            self.total = Kahan {
                sum: self.total.sum / before,
                lost: self.total.lost / before,
            };
        }
        self.total = self.total.scaled((self.count - 1.0) / self.count);
        self.total.add(value / self.count);
    }

    pub(crate) fn value(self) -> f64 {
        let total = self.total.both();
        match self.running {
            true => total,
            // Divided once, so that it is the sum that counts and not how rounding has split it.
            false if total.is_finite() => total / self.count,
            false => self.total.sum / self.count + self.total.lost / self.count,
        }
    }
}

impl FromIterator<f64> for Mean {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut mean = Self::default();
        values.into_iter().for_each(|value| mean.add(value));
        mean
    }
}

/// A population variance in one pass (Welford), with compensated sums.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Variance {
    count: f64,
    mean: Kahan,
    squares: Kahan,
}

impl Variance {
    pub(crate) fn add(&mut self, value: f64) {
        self.count += 1.0;
        let delta = value - self.mean.both();
        self.mean.add(delta / self.count);
        self.squares.add(delta * (value - self.mean.both()));
    }

    pub(crate) fn value(self) -> f64 {
        self.squares.both() / self.count
    }
}

impl FromIterator<f64> for Variance {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut variance = Self::default();
        values.into_iter().for_each(|value| variance.add(value));
        variance
    }
}

/// Numbers by size, not-a-number before all.
pub(crate) fn nan_first(a: f64, b: f64) -> std::cmp::Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => std::cmp::Ordering::Equal,
        (true, false) => std::cmp::Ordering::Less,
        (false, true) => std::cmp::Ordering::Greater,
        (false, false) => a.partial_cmp(&b).unwrap_or(std::cmp::Ordering::Equal),
    }
}

/// The quantile of numbers by linear interpolation between neighbours.
pub(crate) fn quantile(q: f64, values: &[f64], cancel: &CancelFlag) -> Evaluated<f64> {
    if values.len() <= order::STRIDE {
        return Ok(quantile_in(q, &mut values.to_vec()));
    }
    let nth = |n| order::nth(values, n, cancel);
    between(q, values.len(), |lower, upper| Ok((nth(lower)?, nth(upper)?)))
}

/// As [`quantile`], of a few; they come out in another order.
pub(crate) fn quantile_in(q: f64, values: &mut [f64]) -> f64 {
    let found = between(q, values.len(), |lower, _| {
        let (_, at_lower, above) = values.select_nth_unstable_by(lower, |a, b| nan_first(*a, *b));
        let next = above.iter().copied().min_by(|a, b| nan_first(*a, *b));
        Ok::<_, std::convert::Infallible>((*at_lower, next.unwrap_or(*at_lower)))
    });
    match found {
        Ok(found) => found,
    }
}

/// Of so many values, by the two of them, in their order, between which it lies.
fn between<E>(q: f64, count: usize, two: impl FnOnce(usize, usize) -> Result<(f64, f64), E>) -> Result<f64, E> {
    let Some(last) = count.checked_sub(1).filter(|_| !q.is_nan()) else {
        return Ok(f64::NAN);
    };
    if q < 0.0 {
        return Ok(f64::NEG_INFINITY);
    }
    if q > 1.0 {
        return Ok(f64::INFINITY);
    }
    let rank = q * last as f64;
    let lower = (rank.floor() as usize).min(last);
    let weight = rank - rank.floor();
    let (lower, upper) = two(lower, (lower + 1).min(last))?;
    Ok(lower * (1.0 - weight) + upper * weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sums_do_not_lose_small_terms() {
        assert_eq!([1.0, 1e100, 1.0, -1e100].into_iter().collect::<Kahan>().value(), 2.0);
        assert_eq!(
            [f64::MAX, f64::MAX].into_iter().collect::<Kahan>().value(),
            f64::INFINITY
        );
    }

    #[test]
    fn means_survive_sums_that_overflow() {
        let mean = [f64::MAX, f64::MAX, f64::MAX].into_iter().collect::<Mean>().value();
        assert!((mean / f64::MAX - 1.0).abs() < 1e-15);
        assert_eq!([1.0, 2.0, 6.0].into_iter().collect::<Mean>().value(), 3.0);
    }

    #[test]
    fn what_slides_is_exact_or_says_that_it_is_not() {
        for values in [
            &[1.0, 1e100, 1.0, -1e100][..],
            &[f64::NAN],
            &[1.0, f64::INFINITY],
            &[f64::MAX; 3],
            &[1e-310, 1.0],
        ] {
            assert!(!Sliding::is_exact_for(values), "{values:?}");
        }
        for values in [
            &[][..],
            &[0.0, -0.0],
            &[0.01, 153.27, 0.0],
            &[1e-320, 1e-310],
            &[5e8, 12.0, -7.5],
        ] {
            assert!(Sliding::is_exact_for(values), "{values:?}");
        }
    }

    #[test]
    fn a_mean_is_finite_where_its_sum_just_is() {
        let x = 0.9 * 2f64.powi(969);
        let mean = [f64::MAX, x, x, x].into_iter().collect::<Mean>().value();
        assert!(mean.is_finite(), "{mean}");
    }

    #[test]
    fn quantiles_interpolate() {
        let quantile = |q, values: &[f64]| quantile(q, values, &CancelFlag::new()).unwrap();
        assert_eq!(quantile(0.8, &[2.0, 0.0, 1.0]), 1.6);
        assert!(quantile(0.2, &[1.0, f64::NAN, 0.0]).is_nan());
        assert_eq!(quantile(1.5, &[1.0]), f64::INFINITY);
        // So many that they are not sorted.
        let many: Vec<f64> = (0..40_001).rev().map(f64::from).collect();
        assert_eq!(quantile(0.5, &many), 20_000.0);
        assert_eq!(quantile(0.75, &many), 30_000.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

        #[test]
        fn what_comes_and_goes_leaves_the_sum_of_what_is_there(
            values in prop::collection::vec((any::<i64>(), 0u32..52, -20i32..20), 1..60),
            width in 1usize..20,
        ) {
            let values: Vec<f64> = values.into_iter().map(|(m, cut, e)| (m >> cut) as f64 * 2f64.powi(e)).collect();
            if Sliding::is_exact_for(&values) {
                let mut before = vec![Sliding::default()];
                for end in 1..=values.len() {
                    let mut sum = before[end - 1];
                    sum.add(values[end - 1]);
                    before.push(sum);
                    let start = end.saturating_sub(width);
                    let left = sum.without(before[start]).value();
                    let there = values[start..end].iter().copied();
                    prop_assert_eq!(left.to_bits(), there.clone().collect::<Kahan>().value().to_bits());
                    let count = there.len() as f64;
                    prop_assert_eq!((left / count).to_bits(), there.collect::<Mean>().value().to_bits());
                }
            }
        }
    }
}
