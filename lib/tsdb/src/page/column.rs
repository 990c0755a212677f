//! Coding 3: floats, times and values apart, as packed whole numbers. Coding 4, which `dense.rs` writes, is read here too:
//! it has numbers in other ways.
//!
//! ```text
//! body    = times values                                            times as `times.rs` has them
//! values  = 0  bits:uvarint(byte-swapped)                           one for all samples
//!         | 1  exponent:u8  flags:u8  first:uvarint(zigzag)  unit:uvarint  numbers, packed  [errors, packed]  [others]
//! others  = n:uvarint  n * { gap:uvarint  bits:u64 }
//! ```
//! A value is `(first + number * unit) / 10^exponent`, its bits plus its error; `flags`: 1 numbers are differences from
//! the one before (from 0 for the second sample), 2 there are errors, 4 which are differences, 8 there are others. The
//! first sample has no number. `others` are values that are not so, with the samples between them.

use super::bits::{unzigzag, zigzag};
use super::coded::Coded;
use super::decimals::{Decimals, POWERS, differences, unit_of};
use super::packed::{BLOCK, pack, packed_len, unpack};
use super::times::{decode_times, put_times};
use super::{Coding, PageError, PageHeader};
use gnomon_model::labels::{get_uvarint, put_uvarint};
use std::ops::Range;

pub(crate) const ONE_VALUE: u8 = 0;
const NUMBERS: u8 = 1;
pub(super) const DENSE_NUMBERS: u8 = 2;

/// How the numbers of coding 4 are written.
pub(super) const PACKED: u8 = 0;
pub(super) const CODED: u8 = 1;

pub(super) const DIFFERENCES: u8 = 1;
pub(super) const ERRORS: u8 = 2;
pub(super) const ERROR_DIFFERENCES: u8 = 4;
pub(super) const OTHERS: u8 = 8;
/// Of coding 4 only.
pub(super) const SECOND_DIFFERENCES: u8 = 16;

/// Page bytes; none where there are no samples, too many, or their times do not ascend.
pub(super) fn encode(timestamps: &[i64], values: &[f64]) -> Option<Vec<u8>> {
    let header = PageHeader::of_columns(Coding::Columns, timestamps, values)?;
    let mut out = Vec::with_capacity(64 + values.len() * 2);
    header.write(&mut out);
    put_times(timestamps, &mut out);
    put_values(values, &mut out);
    Some(out)
}

/// Appends a value that all samples have; none where they have not one.
pub(super) fn put_one_value(values: &[f64], out: &mut Vec<u8>) -> Option<()> {
    let first = values.first()?.to_bits();
    if values.iter().any(|v| v.to_bits() != first) {
        return None;
    }
    out.push(ONE_VALUE);
    put_uvarint(out, first.swap_bytes());
    Some(())
}

fn put_values(values: &[f64], out: &mut Vec<u8>) {
    if put_one_value(values, out).is_some() {
        return;
    }
    out.push(NUMBERS);
    let decimals = Decimals::exact(values).unwrap_or_else(|| Decimals::near(values));
    put_numbers(&decimals, values, out);
}

/// Appends numbers, and what they lack.
fn put_numbers(decimals: &Decimals, values: &[f64], out: &mut Vec<u8>) {
    let first = decimals.numbers[0];
    let from_first: Vec<i64> = decimals.numbers[1..].iter().map(|n| n - first).collect();
    let unit = unit_of(&from_first);
    let from_first: Vec<i64> = if unit == 1 {
        from_first
    } else {
        from_first.into_iter().map(|n| n / unit).collect()
    };
    let steps = differences(&from_first);
    let has_steps = packed_len(&steps) <= packed_len(&from_first);
    let numbers = if has_steps { steps } else { from_first };
    let error_steps = differences(&decimals.errors);
    let has_error_steps = packed_len(&error_steps) < packed_len(&decimals.errors);
    let has_errors = decimals.errors.iter().any(|e| *e != 0);
    let flag = |is, flag| if is { flag } else { 0 };
    out.push(decimals.places as u8);
    out.push(
        flag(has_steps, DIFFERENCES)
            | flag(has_errors, ERRORS)
            | flag(has_errors && has_error_steps, ERROR_DIFFERENCES)
            | flag(!decimals.others.is_empty(), OTHERS),
    );
    put_uvarint(out, zigzag(first));
    put_uvarint(out, unit as u64);
    pack(&numbers, out);
    if has_errors {
        pack(
            if has_error_steps {
                &error_steps
            } else {
                &decimals.errors
            },
            out,
        );
    }
    if decimals.others.is_empty() {
        return;
    }
    put_uvarint(out, decimals.others.len() as u64);
    let mut next = 0;
    for at in &decimals.others {
        put_uvarint(out, (at - next) as u64);
        out.extend_from_slice(&values[*at].to_bits().to_le_bytes());
        next = at + 1;
    }
}

/// Appends the samples of a page that lie in `start_ms..=end_ms`; nothing where it is damaged, as far as it is looked at.
pub(super) fn decode_into(
    bytes: &[u8],
    (start_ms, end_ms): (i64, i64),
    timestamps: &mut Vec<i64>,
    values: &mut Vec<f64>,
) -> Result<(), PageError> {
    let (header, body) = PageHeader::split(bytes)?;
    if !matches!(header.coding, Coding::Columns | Coding::Dense) {
        return Err(PageError::OtherCoding);
    }
    let start = (timestamps.len(), values.len());
    let result = decode_times(&header, body, (start_ms, end_ms), timestamps)
        .and_then(|(within, rest)| decode_values(&header, rest, within, values));
    if result.is_err() {
        timestamps.truncate(start.0);
        values.truncate(start.1);
    }
    result
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
    let is_dense = header.coding == Coding::Dense;
    let rest = match (kind, is_dense) {
        (ONE_VALUE, _) => {
            let (bits, rest) = get_uvarint(rest).ok_or(PageError::Truncated)?;
            values.resize(start + within.len(), f64::from_bits(bits.swap_bytes()));
            rest
        }
        (NUMBERS, false) | (DENSE_NUMBERS, true) => {
            values.reserve(within.len());
            let (flags, mut rest) = decode_numbers(rest, is_dense, count, &within, values)?;
            let values = &mut values[start..];
            if flags & ERRORS != 0 {
                let mut errors = Numbers::new(rest, is_dense)?;
                add_errors(&mut errors, flags & ERROR_DIFFERENCES != 0, count, within.start, values)?;
                rest = errors.after()?;
            }
            if flags & OTHERS != 0 {
                rest = put_others(rest, is_dense, count, within.start, values)?;
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

/// Numbers that are read, block by block.
enum Numbers<'a> {
    Packed(&'a [u8]),
    Coded(Box<Coded<'a>>),
}

impl<'a> Numbers<'a> {
    fn new(bytes: &'a [u8], is_dense: bool) -> Result<Self, PageError> {
        if !is_dense {
            return Ok(Self::Packed(bytes));
        }
        let (&kind, rest) = bytes.split_first().ok_or(PageError::Truncated)?;
        match kind {
            PACKED => Ok(Self::Packed(rest)),
            CODED => {
                let coded = Coded::new(rest).ok_or(PageError::Corrupt("tokens of numbers are no such"))?;
                Ok(Self::Coded(Box::new(coded)))
            }
            _ => Err(PageError::Corrupt("numbers are written in a way that is not known")),
        }
    }

    #[inline]
    fn read(&mut self, count: usize, block: &mut [i64; BLOCK]) -> Result<(), PageError> {
        let read = match self {
            Self::Packed(rest) => unpack(rest, count, block).map(|after| *rest = after),
            Self::Coded(coded) => coded.read(count, block),
        };
        read.ok_or(PageError::Truncated)
    }

    /// What follows, once all are read.
    fn after(&self) -> Result<&'a [u8], PageError> {
        match self {
            Self::Packed(rest) => Ok(rest),
            Self::Coded(coded) => coded
                .after()
                .ok_or(PageError::Corrupt("numbers do not end where they should")),
        }
    }
}

/// The part of `block` (places of samples) that is `within`, counted from the begin of the block.
fn overlap(block: &Range<usize>, within: &Range<usize>) -> Range<usize> {
    let from = within.start.clamp(block.start, block.end);
    let to = within.end.clamp(from, block.end);
    from - block.start..to - block.start
}

fn decode_numbers<'a>(
    body: &'a [u8],
    is_dense: bool,
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
    let (unit, rest) = get_uvarint(rest).ok_or(CUT)?;
    let mut stream = Numbers::new(rest, is_dense)?;
    let (first, unit) = (unzigzag(first), unit as i64);
    if within.contains(&0) {
        values.push(first as f64 / power);
    }
    let mut block = [0; BLOCK];
    let mut floats = [0.0; BLOCK];
    let (mut sum, mut step) = (0_i64, 0_i64);
    let has_second = is_dense && flags & SECOND_DIFFERENCES != 0;
    // What follows the numbers has to be found where there is something.
    let end = if flags & (ERRORS | OTHERS) == 0 {
        count.min(within.end)
    } else {
        count
    };
    for begin in (1..end).step_by(BLOCK) {
        let n = (count - begin).min(BLOCK);
        stream.read(n, &mut block)?;
        if has_second {
            for number in &mut block[..n] {
                step = step.wrapping_add(*number);
                *number = step;
            }
        }
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
    // Of part of the numbers nothing is known of what follows.
    Ok((flags, if end == count { stream.after()? } else { &[] }))
}

/// `values` are those from the place `from` on, of `count`.
fn add_errors(
    stream: &mut Numbers<'_>,
    differences: bool,
    count: usize,
    from: usize,
    values: &mut [f64],
) -> Result<(), PageError> {
    let mut block = [0; BLOCK];
    let mut sum = 0_i64;
    for begin in (0..count).step_by(BLOCK) {
        let n = (count - begin).min(BLOCK);
        stream.read(n, &mut block)?;
        for (place, error) in (begin..).zip(&block[..n]) {
            sum = if differences { sum.wrapping_add(*error) } else { *error };
            if let Some(value) = place.checked_sub(from).and_then(|at| values.get_mut(at)) {
                *value = f64::from_bits(value.to_bits().wrapping_add(sum as u64));
            }
        }
    }
    Ok(())
}

/// `values` are those from the place `from` on, of `count`. In coding 4 each other is there several times, maybe.
fn put_others<'a>(
    body: &'a [u8],
    is_dense: bool,
    count: usize,
    from: usize,
    values: &mut [f64],
) -> Result<&'a [u8], PageError> {
    const CUT: PageError = PageError::Truncated;
    let (others, mut rest) = get_uvarint(body).ok_or(CUT)?;
    let mut next = 0_u64;
    for _ in 0..others {
        let (gap, after) = get_uvarint(rest).ok_or(CUT)?;
        let (more, after) = if is_dense {
            get_uvarint(after).ok_or(CUT)?
        } else {
            (0, after)
        };
        let (bits, after) = after.split_first_chunk().ok_or(CUT)?;
        let first = next.checked_add(gap);
        let end = first.and_then(|first| first.checked_add(more)?.checked_add(1));
        let end = end.filter(|end| *end <= count as u64);
        let (first, end) = first
            .zip(end)
            .ok_or(PageError::Corrupt("a value lies beyond the page"))?;
        let value = f64::from_bits(u64::from_le_bytes(*bits));
        for place in first..end {
            if let Some(slot) = (place as usize).checked_sub(from).and_then(|at| values.get_mut(at)) {
                *slot = value;
            }
        }
        next = end;
        rest = after;
    }
    Ok(rest)
}
