//! Sums without rounding until the end: the result is the sum's nearest float whatever the order, so that partial sums
//! of shards and blocks give what one sum over everything gives, bit for bit.
//!
//! Two floats hold the exact sum while it fits into them (error-free transformation of a sum: Knuth, TAOCP vol. 2,
//! 4.2.2, theorem B). What does not fit goes to a fixed-point number of 2,240 bits ([`Wide`]), which few cells need.

use crate::engine::arithmetic::two_sum;
use std::collections::BTreeMap;

/// Bits of a digit of [`Wide`].
const DIGIT_BITS: u32 = 32;
/// The weight of the least bit: the least positive float.
const LEAST_EXPONENT: i32 = -1074;
/// Digits of [`Wide`]: the floats' range and 64 bits for carries.
const DIGITS: usize = 70;
/// Additions after which carries have to be worked off.
const ADDITIONS: u32 = 1 << 29;

/// `value` times 2 to the power of `exponent`, rounded at most once.
fn scaled(value: f64, exponent: i32) -> f64 {
    let power = |e: i32| f64::from_bits(u64::try_from(e.clamp(-1022, 1023) + 1023).unwrap_or(1) << 52);
    let half = exponent / 2;
    value * power(half) * power(exponent - half)
}

/// A fixed-point number over the whole range of floats.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wide {
    /// Least first, each 2^32 times the one before; signed, so that carries can wait.
    digits: Box<[i64; DIGITS]>,
    additions: u32,
}

impl Default for Wide {
    fn default() -> Self {
        Self {
            digits: Box::new([0; DIGITS]),
            additions: 0,
        }
    }
}

impl Wide {
    /// Adds a finite number.
    fn add(&mut self, value: f64) {
        let bits = value.to_bits();
        let field = (bits >> 52) & 0x7ff;
        let fraction = bits & ((1 << 52) - 1);
        let (mantissa, position) = match field {
            0 => (fraction, 0),
            field => (fraction | 1 << 52, u32::try_from(field).unwrap_or(0) - 1),
        };
        let first = (position / DIGIT_BITS) as usize;
        let shifted = u128::from(mantissa) << (position % DIGIT_BITS);
        for (i, digit) in self.digits.iter_mut().skip(first).take(3).enumerate() {
            let part = (shifted >> (DIGIT_BITS as usize * i)) as u32;
            *digit += if value < 0.0 { -i64::from(part) } else { i64::from(part) };
        }
        self.added(1);
    }

    fn added(&mut self, additions: u32) {
        self.additions = self.additions.saturating_add(additions);
        if self.additions >= ADDITIONS {
            self.carry();
        }
    }

    /// Works off carries: every digit but the last is in `0..2^32` then; the last has the sign.
    fn carry(&mut self) {
        let mut carry = 0;
        for digit in &mut self.digits[..DIGITS - 1] {
            let whole = *digit + carry;
            carry = whole >> DIGIT_BITS;
            *digit = whole & i64::from(u32::MAX);
        }
        self.digits[DIGITS - 1] += carry;
        self.additions = 1;
    }

    fn merge(&mut self, other: &Self) {
        let mut other = other.clone();
        other.carry();
        self.carry();
        for (digit, more) in self.digits.iter_mut().zip(other.digits.iter()) {
            *digit += more;
        }
        self.added(1);
    }

    /// Sign, mantissa below 2^53 + 1, exponent: the nearest number of 53 bits, ties to even.
    fn rounded(&self) -> (bool, u64, i32) {
        let mut number = self.clone();
        number.carry();
        let negative = number.digits[DIGITS - 1] < 0;
        if negative {
            number.digits.iter_mut().for_each(|digit| *digit = -*digit);
            number.carry();
        }
        let digits = &number.digits;
        let Some(top) = digits.iter().rposition(|digit| *digit != 0) else {
            return (false, 0, 0);
        };
        let low = top.saturating_sub(2);
        let head = digits[low..=top]
            .iter()
            .rev()
            .fold(0u128, |head, digit| head << DIGIT_BITS | u128::from(*digit as u64));
        let sticky = digits[..low].iter().any(|digit| *digit != 0);
        let exponent = LEAST_EXPONENT + i32::try_from(low * DIGIT_BITS as usize).unwrap_or(0);
        let length = u128::BITS - head.leading_zeros();
        let Some(surplus) = length.checked_sub(53).filter(|surplus| *surplus > 0) else {
            // Three digits have more than 64 bits: nothing lies below.
            return (negative, head as u64, exponent);
        };
        let mantissa = (head >> surplus) as u64;
        let (rest, half) = (head & ((1 << surplus) - 1), 1u128 << (surplus - 1));
        let up = rest > half || (rest == half && (sticky || mantissa & 1 == 1));
        (
            negative,
            mantissa + u64::from(up),
            exponent + i32::try_from(surplus).unwrap_or(0),
        )
    }

    /// The number divided by `divisor` (1 for the number itself).
    fn divided(&self, divisor: f64) -> f64 {
        let (negative, mantissa, exponent) = self.rounded();
        let value = scaled(mantissa as f64 / divisor, exponent);
        if negative { -value } else { value }
    }

    /// The digits with carries worked off, for the wire.
    pub(crate) fn to_digits(&self) -> Vec<i64> {
        let mut number = self.clone();
        number.carry();
        number.digits.to_vec()
    }

    /// None where these are no digits of a number.
    pub(crate) fn from_digits(digits: &[i64]) -> Option<Self> {
        let digits: [i64; DIGITS] = digits.try_into().ok()?;
        let low = digits[..DIGITS - 1].iter().all(|d| (0..1 << DIGIT_BITS).contains(d));
        (low && digits[DIGITS - 1].abs() < 1 << 40).then(|| Self {
            digits: Box::new(digits),
            additions: 1,
        })
    }
}

/// A sum a step.
///
/// Invariant: a cell's exact sum is `high + low + wide`; where an infinity or not-a-number was added, `high` is what
/// comes of those alone and the rest is zero.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sums {
    high: Vec<f64>,
    low: Vec<f64>,
    wide: BTreeMap<usize, Wide>,
}

/// Steps that are gone through at a time, so that the compiler can do several at once.
const LANES: usize = 8;

impl Sums {
    pub(crate) fn new(n: usize) -> Self {
        Self {
            high: vec![0.0; n],
            low: vec![0.0; n],
            wide: BTreeMap::new(),
        }
    }

    /// Adds a value at every step; a value that is not there is 0.
    pub(crate) fn add_all(&mut self, values: &[f64]) {
        let n = values.len().min(self.high.len());
        let whole = n - n % LANES;
        for at in (0..whole).step_by(LANES) {
            let lanes = at..at + LANES;
            let (high, low) = (&mut self.high[lanes.clone()], &mut self.low[lanes.clone()]);
            let values = &values[lanes];
            let (mut sums, mut rests) = ([0.0; LANES], [0.0; LANES]);
            let mut fits = true;
            for i in 0..LANES {
                let (sum, lost) = two_sum(high[i], values[i]);
                let (rest, lost) = two_sum(low[i], lost);
                (sums[i], rests[i]) = (sum, rest);
                // Not-a-number, and what overflows, do not fit either.
                fits &= lost == 0.0;
            }
            if fits {
                high.copy_from_slice(&sums);
                low.copy_from_slice(&rests);
            } else {
                (at..at + LANES).zip(values).for_each(|(i, value)| self.add(i, *value));
            }
        }
        (whole..n).for_each(|i| self.add(i, values[i]));
    }

    pub(crate) fn add(&mut self, i: usize, value: f64) {
        let (sum, lost) = two_sum(self.high[i], value);
        let (rest, lost) = two_sum(self.low[i], lost);
        if lost == 0.0 {
            (self.high[i], self.low[i]) = (sum, rest);
        } else {
            self.add_rare(i, value);
        }
    }

    #[cold]
    fn add_rare(&mut self, i: usize, value: f64) {
        let high = self.high[i];
        if !high.is_finite() || !value.is_finite() {
            let before = if high.is_finite() { 0.0 } else { high };
            self.high[i] = if value.is_finite() { before } else { before + value };
            self.low[i] = 0.0;
            self.wide.remove(&i);
            return;
        }
        let wide = self.wide.entry(i).or_default();
        for part in [high, self.low[i], value] {
            wide.add(part);
        }
        (self.high[i], self.low[i]) = (0.0, 0.0);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.add_all(&other.high);
        self.add_all(&other.low);
        for (i, wide) in other
            .wide
            .iter()
            .filter(|(i, _)| self.high.get(**i).is_some_and(|h| h.is_finite()))
        {
            self.wide.entry(*i).or_default().merge(wide);
        }
    }

    fn wide_of(&self, i: usize) -> Option<Wide> {
        let mut wide = self.wide.get(&i)?.clone();
        wide.add(self.high[i]);
        wide.add(self.low[i]);
        Some(wide)
    }

    /// The sum; infinite where it is beyond the range of floats.
    pub(crate) fn sum(&self, i: usize) -> f64 {
        match self.wide_of(i) {
            Some(wide) => wide.divided(1.0),
            None => self.high[i] + self.low[i],
        }
    }

    /// The sum divided by a count; finite also where the sum is beyond the range of floats.
    pub(crate) fn mean(&self, i: usize, count: f64) -> f64 {
        let sum = self.sum(i);
        match self.wide_of(i) {
            Some(wide) if sum.is_infinite() => wide.divided(count),
            _ => sum / count,
        }
    }

    /// How many plain samples more than its steps this weighs.
    pub(crate) fn surplus(&self) -> u64 {
        self.wide.len() as u64 * (DIGITS as u64 / 2)
    }

    pub(crate) fn parts(&self) -> (&[f64], &[f64], &BTreeMap<usize, Wide>) {
        (&self.high, &self.low, &self.wide)
    }

    /// From what [`Self::parts`] gave; none where the lengths differ.
    pub(crate) fn from_parts(high: Vec<f64>, low: Vec<f64>, wide: BTreeMap<usize, Wide>) -> Option<Self> {
        let fits = high.len() == low.len() && wide.keys().all(|i| *i < high.len());
        fits.then_some(Self { high, low, wide })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sums_of(values: &[f64]) -> Sums {
        let mut sums = Sums::new(1);
        values.iter().for_each(|value| sums.add(0, *value));
        sums
    }

    fn sum(values: &[f64]) -> f64 {
        sums_of(values).sum(0)
    }

    #[test]
    fn nothing_is_lost_on_the_way() {
        assert_eq!(sum(&[1.0, 1e100, 1.0, -1e100]), 2.0);
        assert_eq!(sum(&[1e16, 1.0, 1e-30, -1e16, -1.0]), 1e-30);
        assert_eq!(sum(&[0.1; 10]), 1.0);
        assert_eq!(sum(&[f64::MIN_POSITIVE, 5e-324, -f64::MIN_POSITIVE]), 5e-324);
        assert_eq!(sum(&[1e300, 5e-324, -1e300]), 5e-324);
        assert_eq!(sum(&[1.0, f64::EPSILON / 2.0, 5e-324]), 1.0 + f64::EPSILON);
        assert_eq!(sum(&[1.0, f64::EPSILON / 2.0]), 1.0);
        assert_eq!(sum(&[-0.0, -0.0]).to_bits(), 0.0f64.to_bits());
    }

    #[test]
    fn sums_overflow_only_where_they_do() {
        assert_eq!(sum(&[f64::MAX, f64::MAX]), f64::INFINITY);
        assert_eq!(sum(&[f64::MAX, f64::MAX, -f64::MAX]), f64::MAX);
        assert_eq!(sum(&[-f64::MAX, -f64::MAX]), f64::NEG_INFINITY);
        assert_eq!(sums_of(&[f64::MAX, f64::MAX, f64::MAX]).mean(0, 3.0), f64::MAX);
        assert_eq!(sums_of(&[1.0, 2.0, 6.0]).mean(0, 3.0), 3.0);
    }

    #[test]
    fn infinities_and_not_a_number_stay() {
        let infinity = f64::INFINITY;
        assert_eq!(sum(&[1.0, infinity, 2.0]), infinity);
        assert_eq!(sum(&[1e300, 1e-300, 1.0, -infinity, f64::MAX]), -infinity);
        assert!(sum(&[infinity, 1.0, -infinity]).is_nan());
        assert!(sum(&[1.0, f64::NAN, 2.0]).is_nan());
        assert!(sums_of(&[infinity, -infinity]).mean(0, 2.0).is_nan());
    }

    fn value() -> impl Strategy<Value = f64> {
        prop_oneof![
            (-50i32..50).prop_map(f64::from),
            any::<f64>(),
            (any::<i32>(), -40i32..40).prop_map(|(m, e)| f64::from(m) * 2f64.powi(e)),
            Just(f64::MAX),
            Just(-f64::MAX),
        ]
    }

    fn bits(value: f64) -> u64 {
        if value.is_nan() {
            f64::NAN.to_bits()
        } else {
            value.to_bits()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

        #[test]
        fn order_and_grouping_do_not_matter(
            values in prop::collection::vec(value(), 0..40),
            cuts in prop::collection::vec(0usize..40, 0..4),
            seed in any::<u64>(),
        ) {
            let whole = sums_of(&values);
            let mut shuffled = values.clone();
            shuffled.sort_by_key(|v| v.to_bits().wrapping_mul(seed | 1));
            let mut merged = Sums::new(1);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(values.len())).collect();
            cuts.extend([0, values.len()]);
            cuts.sort_unstable();
            for pair in cuts.windows(2) {
                let part = sums_of(&shuffled[pair[0]..pair[1]]);
                let (high, low, wide) = part.parts();
                let wide = wide.iter().map(|(i, w)| (*i, Wide::from_digits(&w.to_digits()).unwrap())).collect();
                merged.merge(&Sums::from_parts(high.to_vec(), low.to_vec(), wide).unwrap());
            }
            let count = values.len().max(1) as f64;
            prop_assert_eq!(bits(whole.sum(0)), bits(merged.sum(0)));
            prop_assert_eq!(bits(whole.mean(0, count)), bits(merged.mean(0, count)));
        }

        #[test]
        fn columns_add_as_single_values_do(rows in prop::collection::vec(prop::collection::vec(value(), 19), 0..12)) {
            let (mut all, mut single) = (Sums::new(19), Sums::new(19));
            for row in &rows {
                all.add_all(row);
                row.iter().enumerate().for_each(|(i, value)| single.add(i, *value));
            }
            for i in 0..19 {
                prop_assert_eq!(bits(all.sum(i)), bits(single.sum(i)));
            }
        }

        #[test]
        fn two_sums_that_fit_are_the_nearest(a in -1e15f64..1e15, b in -1e15f64..1e15) {
            prop_assert_eq!(sum(&[a, b]), a + b);
        }
    }
}
