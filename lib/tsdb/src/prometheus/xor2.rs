//! Encoding 4, XOR2: floats as newer releases of Prometheus can write them, with start timestamps or without.
//!
//! ```text
//! chunk  = samples: u16   starts: u8   first time: varint   first value: f64   [time - start: varint, if starts has bit 7]
//!          [ time - first: uvarint   value   start ]   { control   start }*
//! starts = bits 0-6: the first sample (from 1 on) with a start of its own, 0 is none | bit 7: the first sample has one
//! start  = nothing before that sample; there the time before - start: int, then the change of that: int
//! control = 0                                      spacing and value as before
//!         | 10  0 bits | 10  1 window              spacing as before, another value
//!         | 110 + 13 value | 1110 + 20 value | 11110 + 64 value     two's complement: the change of the spacing
//!         | 11111                                  spacing as before, a stale marker
//! value  = 0 | 10 bits | 110 window | 111 a stale marker
//! ```
//! Stale markers are no base for the values after them. `int` is a `varbit` number, as histograms have them.

use super::bits::{BitReader, BitWriter};
use super::xor::{CUT, Floats, Prefixes, Wrong, XorValue, split_count};
use gnomon_model::sample::{STALE_NAN, is_stale_nan};

/// No chunk that is written has more: the sample with the first change of the start has to have a number of 7 bits.
pub(super) const MOST_SAMPLES: usize = 127;

/// Of a value with the spacing as before.
const AFTER_SAME_SPACING: Prefixes = Prefixes {
    same: (0, 1),
    in_window: (0b100, 3),
    new_window: (0b101, 3),
};
/// Of any other.
const ALONE: Prefixes = Prefixes {
    same: (0, 1),
    in_window: (0b10, 2),
    new_window: (0b110, 3),
};

pub(super) fn decode(data: &[u8]) -> Result<Floats, Wrong> {
    let (count, rest) = split_count(data)?;
    let (&starts, rest) = rest.split_first().ok_or("the chunk has no header")?;
    let first_start = u16::from(starts & 0x7f);
    let mut bits = BitReader::new(rest);
    let mut out = Floats::default();
    let (mut time, mut spacing, mut base) = (0_i64, 0_i64, XorValue::default());
    let (mut start, mut since_start) = (0_i64, 0_i64);
    for i in 0..count {
        let value = match i {
            0 => {
                time = bits.varint().ok_or(CUT)?;
                let value = bits.float().ok_or(CUT)?;
                if !is_stale_nan(value) {
                    base = XorValue::of(value);
                }
                if starts & 0x80 != 0 {
                    start = time.wrapping_sub(bits.varint().ok_or(CUT)?);
                }
                value
            }
            1 => {
                spacing = bits.uvarint().ok_or(CUT)? as i64;
                value(&mut base, &mut bits)?
            }
            _ => {
                let (change, value) = joint(&mut base, &mut bits)?;
                spacing = spacing.wrapping_add(change);
                value
            }
        };
        if i > 0 {
            if first_start > 0 && i >= first_start {
                since_start = since_start.wrapping_add(bits.varbit_int().ok_or(CUT)?);
                start = time.wrapping_sub(since_start);
            }
            time = time.wrapping_add(spacing);
        }
        out.push(time, value)?;
        out.starts.push(u32::from(i), start);
    }
    Ok(out)
}

/// The change of the spacing, and the value.
fn joint(base: &mut XorValue, bits: &mut BitReader<'_>) -> Result<(i64, f64), Wrong> {
    let width = match bits.ones(5).ok_or(CUT)? {
        0 => return Ok((0, base.value)),
        1 => {
            if bits.bit().ok_or(CUT)? {
                base.read_window(bits)?;
            } else {
                base.read_in_window(bits)?;
            }
            return Ok((0, base.value));
        }
        2 => 13,
        3 => 20,
        4 => 64,
        _ => return Ok((0, STALE_NAN)),
    };
    let raw = bits.bits(width).ok_or(CUT)?;
    // Two's complement of so many bits.
    let change = (raw << (64 - width)) as i64 >> (64 - width);
    Ok((change, value(base, bits)?))
}

fn value(base: &mut XorValue, bits: &mut BitReader<'_>) -> Result<f64, Wrong> {
    match bits.ones(3).ok_or(CUT)? {
        0 => {}
        1 => base.read_in_window(bits)?,
        2 => base.read_window(bits)?,
        _ => return Ok(STALE_NAN),
    }
    Ok(base.value)
}

/// A chunk of at most [`MOST_SAMPLES`] samples, the times of which ascend, with the start of each (0 is none).
pub(super) fn encode(timestamps: &[i64], values: &[f64], starts: &[i64]) -> Vec<u8> {
    let count = timestamps.len().min(MOST_SAMPLES);
    let first_start = starts.first().copied().unwrap_or(0);
    let change = starts.iter().take(count).position(|start| *start != first_start);
    let mut header = (count as u16).to_be_bytes().to_vec();
    header.push(u8::from(first_start != 0) << 7 | change.unwrap_or(0) as u8);
    let mut out = BitWriter::after(header);
    let (mut last, mut last_spacing, mut since_start) = (0_i64, 0_i64, 0_i64);
    let mut base = XorValue::default();
    let samples = timestamps.iter().zip(values).zip(starts).take(count);
    for (i, ((time, value), start)) in samples.enumerate() {
        let spacing = time.wrapping_sub(last);
        match i {
            0 => {
                out.varint(*time);
                out.float(*value);
                if !is_stale_nan(*value) {
                    base = XorValue::of(*value);
                }
                if *start != 0 {
                    out.varint(time.wrapping_sub(*start));
                }
            }
            1 => {
                out.uvarint(spacing as u64);
                put_value(&mut base, *value, &mut out);
            }
            _ => put_joint(&mut base, spacing.wrapping_sub(last_spacing), *value, &mut out),
        }
        if change.is_some_and(|change| i >= change) {
            let since = last.wrapping_sub(*start);
            out.varbit_int(since.wrapping_sub(since_start));
            since_start = since;
        }
        (last, last_spacing) = (*time, spacing);
    }
    out.finish()
}

fn put_joint(base: &mut XorValue, change: i64, value: f64, out: &mut BitWriter) {
    match change {
        0 if is_stale_nan(value) => return out.bits(0b11111, 5),
        0 => return base.write_with(&AFTER_SAME_SPACING, value, out),
        -4_096..=4_095 => {
            out.bits(0b110, 3);
            out.bits(change as u64, 13);
        }
        -524_288..=524_287 => {
            out.bits(0b1110, 4);
            out.bits(change as u64, 20);
        }
        _ => {
            out.bits(0b11110, 5);
            out.bits(change as u64, 64);
        }
    }
    put_value(base, value, out);
}

fn put_value(base: &mut XorValue, value: f64, out: &mut BitWriter) {
    if is_stale_nan(value) {
        return out.bits(0b111, 3);
    }
    base.write_with(&ALONE, value, out);
}
