//! Floats as whole numbers: multiples of a power of ten, with the few that are none aside, or all with their errors.

use super::packed::packed_len;

/// Powers of ten that are floats exactly.
pub(super) const POWERS: [f64; 16] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
];
/// Decimal places that are looked for.
const MOST_PLACES: usize = 12;
/// Sums of decimals are near multiples of these.
const PLACES_OF_SUMS: [usize; 3] = [9, 6, 3];
/// Up to here each whole number is a float.
const EXACT: u64 = 1 << 53;
/// Larger ones have no decimal places; differences of two stay within 63 bits.
const LARGEST: u64 = 1 << 61;

/// Values as multiples of a power of ten.
pub(super) struct Decimals {
    pub(super) places: usize,
    pub(super) numbers: Vec<i64>,
    /// Bits of each value less those of its multiple; empty where all are 0.
    pub(super) errors: Vec<i64>,
    /// Positions of values that are not so.
    pub(super) others: Vec<usize>,
}

/// The multiple nearest to a value, if it is the value.
#[inline]
fn multiple(value: f64, places: usize) -> Option<i64> {
    let number = nearest(value, places);
    let largest = if places == 0 { LARGEST } else { EXACT };
    (value_of(number, places).to_bits() == value.to_bits() && number.unsigned_abs() <= largest).then_some(number)
}

#[inline]
fn nearest(value: f64, places: usize) -> i64 {
    let scaled = value * POWERS[places];
    (scaled + 0.5_f64.copysign(scaled)) as i64
}

#[inline]
fn value_of(number: i64, places: usize) -> f64 {
    number as f64 / POWERS[places]
}

impl Decimals {
    /// None where more than a few values are no short decimals.
    pub(super) fn exact(values: &[f64]) -> Option<Self> {
        let most_others = 1 + values.len() / 16;
        let mut places = 0;
        let mut failed = 0;
        for value in values {
            if multiple(*value, places).is_some() {
                continue;
            }
            match (places + 1..=MOST_PLACES).find(|more| multiple(*value, *more).is_some()) {
                Some(more) => places = more,
                None => failed += 1,
            }
            if failed > most_others {
                return None;
            }
        }
        let mut last = 0;
        let (mut numbers, mut others) = (Vec::with_capacity(values.len()), Vec::new());
        for (at, value) in values.iter().enumerate() {
            match multiple(*value, places) {
                Some(number) => last = number,
                None => others.push(at),
            }
            numbers.push(last);
        }
        (others.len() <= most_others).then_some(Self {
            places,
            numbers,
            errors: Vec::new(),
            others,
        })
    }

    /// With errors, whatever the values are.
    pub(super) fn near(values: &[f64]) -> Self {
        let candidates = PLACES_OF_SUMS.map(|places| Self::near_at(values, places));
        let len = |d: &Self| {
            packed_len(&differences(&d.numbers)) + packed_len(&d.errors).min(packed_len(&differences(&d.errors)))
        };
        let [a, b, c] = candidates;
        let (mut best, mut best_len) = (c, usize::MAX);
        for candidate in [a, b] {
            if best_len == usize::MAX {
                best_len = len(&best);
            }
            let its = len(&candidate);
            if its < best_len {
                (best, best_len) = (candidate, its);
            }
        }
        best
    }

    pub(super) fn near_at(values: &[f64], places: usize) -> Self {
        let most = EXACT as f64 / POWERS[places];
        let (mut number, mut error) = (0, 0);
        let mut decimals = Self {
            places,
            numbers: Vec::with_capacity(values.len()),
            errors: Vec::with_capacity(values.len()),
            others: Vec::new(),
        };
        for (at, value) in values.iter().enumerate() {
            // NaN is not less either.
            if value.abs() < most {
                number = nearest(*value, places);
                error = value.to_bits().wrapping_sub(value_of(number, places).to_bits()) as i64;
            } else {
                decimals.others.push(at);
            }
            decimals.numbers.push(number);
            decimals.errors.push(error);
        }
        decimals
    }
}

/// Each less the one before; the first as it is.
pub(super) fn differences(numbers: &[i64]) -> Vec<i64> {
    let before = std::iter::once(&0).chain(numbers);
    numbers.iter().zip(before).map(|(n, b)| n.wrapping_sub(*b)).collect()
}

/// What all are multiples of.
pub(super) fn unit_of(numbers: &[i64]) -> i64 {
    let mut unit = 0_u64;
    for number in numbers {
        let (mut a, mut b) = (number.unsigned_abs(), unit);
        if b != 0 && a % b == 0 {
            continue;
        }
        while b != 0 {
            (a, b) = (b, a % b);
        }
        unit = a;
        if unit == 1 {
            break;
        }
    }
    unit.max(1) as i64
}
