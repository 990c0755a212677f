//! Coding 3: floats, times and values apart, as packed whole numbers.
//!
//! ```text
//! body    = times values
//! times   = 0                                                       evenly spaced
//!         | 1  first spacing:uvarint  n:uvarint  n * { gap:uvarint  change of the spacing:uvarint(zigzag) }
//!         | 2  spacings, packed
//! values  = 0  bits:uvarint(byte-swapped)                           one for all samples
//!         | 1  exponent:u8  flags:u8  first:uvarint(zigzag)  unit:uvarint  numbers, packed  [errors, packed]  [others]
//! others  = n:uvarint  n * { gap:uvarint  bits:u64 }
//! ```
//! A value is `(first + number * unit) / 10^exponent`, its bits plus its error; `flags`: 1 numbers are differences from
//! the one before (from 0 for the second sample), 2 there are errors, 4 which are differences, 8 there are others. The
//! first sample has no number. `others` are values that are not so, with the samples between them.

use super::packed::{BLOCK, pack, packed_len, unpack};
use super::{Coding, MAX_PAGE_SAMPLES, PageError, PageHeader};
use crate::page::bits::{unzigzag, zigzag};
use gnomon_model::labels::{get_uvarint, put_uvarint};
use std::ops::Range;

const EVEN: u8 = 0;
const MOSTLY_EVEN: u8 = 1;
const UNEVEN: u8 = 2;

const ONE_VALUE: u8 = 0;
const NUMBERS: u8 = 1;

const DIFFERENCES: u8 = 1;
const ERRORS: u8 = 2;
const ERROR_DIFFERENCES: u8 = 4;
const OTHERS: u8 = 8;

/// Powers of ten that are floats exactly.
const POWERS: [f64; 16] = [
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

/// Page bytes; none where there are no samples, too many, or their times do not ascend.
pub(super) fn encode(timestamps: &[i64], values: &[f64]) -> Option<Vec<u8>> {
    let (min_ts, max_ts) = (*timestamps.first()?, *timestamps.last()?);
    let ascending = timestamps.windows(2).all(|w| w[0] < w[1]);
    if timestamps.len() != values.len() || values.len() > MAX_PAGE_SAMPLES as usize || !ascending {
        return None;
    }
    let mut out = Vec::with_capacity(64 + values.len() * 2);
    let header = PageHeader {
        coding: Coding::Columns,
        count: values.len() as u32,
        min_ts,
        max_ts,
    };
    header.write(&mut out);
    put_times(timestamps, &mut out);
    put_values(values, &mut out);
    Some(out)
}

fn put_times(timestamps: &[i64], out: &mut Vec<u8>) {
    let spacing = |w: &[i64]| w[1].wrapping_sub(w[0]) as u64;
    let spacings = || timestamps.windows(2).map(spacing);
    let Some(first) = spacings().next() else {
        out.push(EVEN);
        return;
    };
    let changes = spacings().zip(spacings().skip(1)).filter(|(a, b)| a != b).count();
    if changes == 0 {
        out.push(EVEN);
    } else if changes <= timestamps.len() / 16 {
        out.push(MOSTLY_EVEN);
        put_uvarint(out, first);
        put_uvarint(out, changes as u64);
        let (mut last, mut gap) = (first, 0);
        for spacing in spacings().skip(1) {
            if spacing == last {
                gap += 1;
                continue;
            }
            put_uvarint(out, gap);
            put_uvarint(out, zigzag(spacing.wrapping_sub(last) as i64));
            (last, gap) = (spacing, 0);
        }
    } else {
        out.push(UNEVEN);
        let spacings: Vec<i64> = spacings().map(|s| s as i64).collect();
        pack(&spacings, out);
    }
}

fn put_values(values: &[f64], out: &mut Vec<u8>) {
    let first = values[0].to_bits();
    if values.iter().all(|v| v.to_bits() == first) {
        out.push(ONE_VALUE);
        put_uvarint(out, first.swap_bytes());
        return;
    }
    out.push(NUMBERS);
    let decimals = Decimals::exact(values).unwrap_or_else(|| Decimals::near(values));
    decimals.write(values, out);
}

/// Values as multiples of a power of ten.
struct Decimals {
    places: usize,
    numbers: Vec<i64>,
    /// Bits of each value less those of its multiple; empty where all are 0.
    errors: Vec<i64>,
    /// Positions of values that are not so.
    others: Vec<usize>,
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
    fn exact(values: &[f64]) -> Option<Self> {
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
    fn near(values: &[f64]) -> Self {
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

    fn near_at(values: &[f64], places: usize) -> Self {
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

    fn write(&self, values: &[f64], out: &mut Vec<u8>) {
        let first = self.numbers[0];
        let from_first: Vec<i64> = self.numbers[1..].iter().map(|n| n - first).collect();
        let unit = unit_of(&from_first);
        let from_first: Vec<i64> = if unit == 1 {
            from_first
        } else {
            from_first.into_iter().map(|n| n / unit).collect()
        };
        let steps = differences(&from_first);
        let has_steps = packed_len(&steps) <= packed_len(&from_first);
        let numbers = if has_steps { steps } else { from_first };
        let error_steps = differences(&self.errors);
        let has_error_steps = packed_len(&error_steps) < packed_len(&self.errors);
        let has_errors = self.errors.iter().any(|e| *e != 0);
        let flag = |is, flag| if is { flag } else { 0 };
        out.push(self.places as u8);
        out.push(
            flag(has_steps, DIFFERENCES)
                | flag(has_errors, ERRORS)
                | flag(has_errors && has_error_steps, ERROR_DIFFERENCES)
                | flag(!self.others.is_empty(), OTHERS),
        );
        put_uvarint(out, zigzag(first));
        put_uvarint(out, unit as u64);
        pack(&numbers, out);
        if has_errors {
            pack(if has_error_steps { &error_steps } else { &self.errors }, out);
        }
        if self.others.is_empty() {
            return;
        }
        put_uvarint(out, self.others.len() as u64);
        let mut next = 0;
        for at in &self.others {
            put_uvarint(out, (at - next) as u64);
            out.extend_from_slice(&values[*at].to_bits().to_le_bytes());
            next = at + 1;
        }
    }
}

/// Each less the one before; the first as it is.
fn differences(numbers: &[i64]) -> Vec<i64> {
    let before = std::iter::once(&0).chain(numbers);
    numbers.iter().zip(before).map(|(n, b)| n.wrapping_sub(*b)).collect()
}

/// What all are multiples of.
fn unit_of(numbers: &[i64]) -> i64 {
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

/// Appends the samples of a page that lie in `start_ms..=end_ms`; nothing where it is damaged, as far as it is looked at.
pub(super) fn decode_into(
    bytes: &[u8],
    (start_ms, end_ms): (i64, i64),
    timestamps: &mut Vec<i64>,
    values: &mut Vec<f64>,
) -> Result<(), PageError> {
    let (header, body) = PageHeader::read_as(bytes, Coding::Columns)?;
    let start = (timestamps.len(), values.len());
    let result = decode_times(&header, body, (start_ms, end_ms), timestamps)
        .and_then(|(within, rest)| decode_values(&header, rest, within, values));
    if result.is_err() {
        timestamps.truncate(start.0);
        values.truncate(start.1);
    }
    result
}

const DESCENDING: PageError = PageError::Corrupt("timestamps do not increase");

/// Appends the times within the range; tells which samples have them, and what follows.
fn decode_times<'a>(
    header: &PageHeader,
    body: &'a [u8],
    (start_ms, end_ms): (i64, i64),
    timestamps: &mut Vec<i64>,
) -> Result<(Range<usize>, &'a [u8]), PageError> {
    let (&kind, rest) = body.split_first().ok_or(PageError::Truncated)?;
    let begin = timestamps.len();
    let rest = match kind {
        EVEN => {
            let within = put_even_times(header, (start_ms, end_ms), timestamps)?;
            return Ok((within, rest));
        }
        MOSTLY_EVEN => {
            timestamps.reserve(header.count as usize);
            decode_mostly_even(header, rest, timestamps)?
        }
        UNEVEN => {
            timestamps.reserve(header.count as usize);
            decode_uneven(header, rest, timestamps)?
        }
        _ => return Err(PageError::Corrupt("times are written in a way that is not known")),
    };
    if timestamps.last() != Some(&header.max_ts) {
        return Err(PageError::Corrupt("last timestamp is not the header's"));
    }
    let all = &timestamps[begin..];
    let from = all.partition_point(|t| *t < start_ms);
    let to = all.partition_point(|t| *t <= end_ms).max(from);
    timestamps.truncate(begin + to);
    timestamps.drain(begin..begin + from);
    Ok((from..to, rest))
}

fn put_even_times(
    header: &PageHeader,
    (start_ms, end_ms): (i64, i64),
    timestamps: &mut Vec<i64>,
) -> Result<Range<usize>, PageError> {
    let steps = u64::from(header.count) - 1;
    let width = header.max_ts.wrapping_sub(header.min_ts) as u64;
    let spacing = width.checked_div(steps).unwrap_or(1);
    if spacing.wrapping_mul(steps) != width {
        return Err(PageError::Corrupt("evenly spaced samples do not end with the page"));
    }
    // Of a later time; may be more than 2^63 ms.
    let distance = |time_ms: i64| time_ms.wrapping_sub(header.min_ts) as u64;
    let from = if start_ms <= header.min_ts {
        0
    } else {
        distance(start_ms).div_ceil(spacing)
    };
    let to = if end_ms < header.min_ts {
        0
    } else {
        (distance(end_ms) / spacing).min(steps) + 1
    };
    let from = from.min(to);
    let time = |i: u64| header.min_ts.wrapping_add_unsigned(spacing.wrapping_mul(i));
    timestamps.extend((from..to).map(time));
    Ok(from as usize..to as usize)
}

fn decode_mostly_even<'a>(
    header: &PageHeader,
    body: &'a [u8],
    timestamps: &mut Vec<i64>,
) -> Result<&'a [u8], PageError> {
    let (first, rest) = get_uvarint(body).ok_or(PageError::Truncated)?;
    let (changes, mut rest) = get_uvarint(rest).ok_or(PageError::Truncated)?;
    let mut left = u64::from(header.count) - 1;
    let (mut last, mut spacing) = (header.min_ts, first);
    timestamps.push(last);
    for change in 0..=changes {
        // The first spacing and those that follow each change.
        let (mut steps, mut by) = (left, 0);
        if change < changes {
            let (gap, after) = get_uvarint(rest).ok_or(PageError::Truncated)?;
            let (delta, after) = get_uvarint(after).ok_or(PageError::Truncated)?;
            rest = after;
            by = unzigzag(delta);
            steps = gap.checked_add(1).filter(|steps| *steps <= left).ok_or(DESCENDING)?;
        }
        let end = i128::from(last) + i128::from(spacing) * i128::from(steps);
        if steps > 0 && (spacing == 0 || end > i128::from(header.max_ts)) {
            return Err(DESCENDING);
        }
        let from = last;
        timestamps.extend((1..=steps as i64).map(|i| from.wrapping_add((spacing as i64).wrapping_mul(i))));
        left -= steps;
        last = end as i64;
        spacing = spacing.wrapping_add(by as u64);
    }
    Ok(rest)
}

fn decode_uneven<'a>(
    header: &PageHeader,
    mut rest: &'a [u8],
    timestamps: &mut Vec<i64>,
) -> Result<&'a [u8], PageError> {
    let mut left = header.count as usize - 1;
    let mut last = header.min_ts;
    timestamps.push(last);
    let mut block = [0; BLOCK];
    while left > 0 {
        let count = left.min(BLOCK);
        rest = unpack(rest, count, &mut block).ok_or(PageError::Truncated)?;
        let mut ascending = true;
        for number in &mut block[..count] {
            let next = last.wrapping_add(*number);
            ascending &= next > last;
            last = next;
            *number = next;
        }
        if !ascending {
            return Err(DESCENDING);
        }
        timestamps.extend_from_slice(&block[..count]);
        left -= count;
    }
    Ok(rest)
}

/// Appends the values of the samples `within`.
fn decode_values(
    header: &PageHeader,
    body: &[u8],
    within: Range<usize>,
    values: &mut Vec<f64>,
) -> Result<(), PageError> {
    let (&kind, rest) = body.split_first().ok_or(PageError::Truncated)?;
    let start = values.len();
    let count = header.count as usize;
    let is_whole = within.len() == count;
    let rest = match kind {
        ONE_VALUE => {
            let (bits, rest) = get_uvarint(rest).ok_or(PageError::Truncated)?;
            values.resize(start + within.len(), f64::from_bits(bits.swap_bytes()));
            rest
        }
        NUMBERS => {
            values.reserve(within.len());
            let (flags, mut rest) = decode_numbers(rest, count, &within, values)?;
            let values = &mut values[start..];
            if flags & ERRORS != 0 {
                rest = add_errors(rest, flags & ERROR_DIFFERENCES != 0, count, within.start, values)?;
            }
            if flags & OTHERS != 0 {
                rest = put_others(rest, count, within.start, values)?;
            }
            rest
        }
        _ => return Err(PageError::Corrupt("values are written in a way that is not known")),
    };
    if rest.is_empty() || !is_whole {
        return Ok(());
    }
    Err(PageError::Corrupt("bytes follow the last value"))
}

/// The part of `block` (places of samples) that is `within`, counted from the begin of the block.
fn overlap(block: &Range<usize>, within: &Range<usize>) -> Range<usize> {
    let from = within.start.clamp(block.start, block.end);
    let to = within.end.clamp(from, block.end);
    from - block.start..to - block.start
}

fn decode_numbers<'a>(
    body: &'a [u8],
    count: usize,
    within: &Range<usize>,
    values: &mut Vec<f64>,
) -> Result<(u8, &'a [u8]), PageError> {
    const CUT: PageError = PageError::Truncated;
    let (&[places, flags], rest) = body.split_first_chunk().ok_or(CUT)?;
    let power = POWERS
        .get(usize::from(places))
        .copied()
        .ok_or(PageError::Corrupt("values have more than 15 decimal places"))?;
    let (first, rest) = get_uvarint(rest).ok_or(CUT)?;
    let (unit, mut rest) = get_uvarint(rest).ok_or(CUT)?;
    let (first, unit) = (unzigzag(first), unit as i64);
    if within.contains(&0) {
        values.push(first as f64 / power);
    }
    let mut block = [0; BLOCK];
    let mut floats = [0.0; BLOCK];
    let mut sum = 0_i64;
    // What follows the numbers has to be found where there is something.
    let end = if flags & (ERRORS | OTHERS) == 0 {
        count.min(within.end)
    } else {
        count
    };
    for begin in (1..end).step_by(BLOCK) {
        let n = (count - begin).min(BLOCK);
        rest = unpack(rest, n, &mut block).ok_or(CUT)?;
        if flags & DIFFERENCES != 0 {
            for number in &mut block[..n] {
                sum = sum.wrapping_add(*number);
                *number = sum;
            }
        }
        let wanted = overlap(&(begin..begin + n), within);
        if wanted.is_empty() {
            continue;
        }
        let floats = &mut floats[..wanted.len()];
        let numbers = block[wanted].iter().zip(&mut *floats);
        if unit == 1 {
            numbers.for_each(|(number, float)| *float = first.wrapping_add(*number) as f64);
        } else {
            numbers.for_each(|(number, float)| *float = first.wrapping_add(number.wrapping_mul(unit)) as f64);
        }
        if places > 0 {
            floats.iter_mut().for_each(|float| *float /= power);
        }
        values.extend_from_slice(floats);
    }
    Ok((flags, rest))
}

/// `values` are those from the place `from` on, of `count`.
fn add_errors<'a>(
    mut rest: &'a [u8],
    differences: bool,
    count: usize,
    from: usize,
    values: &mut [f64],
) -> Result<&'a [u8], PageError> {
    let mut block = [0; BLOCK];
    let mut sum = 0_i64;
    for begin in (0..count).step_by(BLOCK) {
        let n = (count - begin).min(BLOCK);
        rest = unpack(rest, n, &mut block).ok_or(PageError::Truncated)?;
        for (place, error) in (begin..).zip(&block[..n]) {
            sum = if differences { sum.wrapping_add(*error) } else { *error };
            if let Some(value) = place.checked_sub(from).and_then(|at| values.get_mut(at)) {
                *value = f64::from_bits(value.to_bits().wrapping_add(sum as u64));
            }
        }
    }
    Ok(rest)
}

/// `values` are those from the place `from` on, of `count`.
fn put_others<'a>(body: &'a [u8], count: usize, from: usize, values: &mut [f64]) -> Result<&'a [u8], PageError> {
    let (others, mut rest) = get_uvarint(body).ok_or(PageError::Truncated)?;
    let mut next = 0_u64;
    for _ in 0..others {
        let (gap, after) = get_uvarint(rest).ok_or(PageError::Truncated)?;
        let (bits, after) = after.split_first_chunk().ok_or(PageError::Truncated)?;
        let place = next.checked_add(gap).filter(|place| *place < count as u64);
        let place = place.ok_or(PageError::Corrupt("a value lies beyond the page"))?;
        if let Some(value) = (place as usize).checked_sub(from).and_then(|at| values.get_mut(at)) {
            *value = f64::from_bits(u64::from_le_bytes(*bits));
        }
        next = place + 1;
        rest = after;
    }
    Ok(rest)
}
