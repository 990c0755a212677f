//! Encoding 4, XOR2: floats as newer releases of Prometheus can write them, with start timestamps or without.
//!
//! ```text
//! chunk  = samples: u16   starts: u8   first time: varint   first value: f64   [start: varint, if starts has bit 7]
//!          [ time - first: uvarint   value   start ]   { control   start }*
//! starts = bits 0-6: the first sample (from 1 on) with a start of its own, 0 is none | bit 7: the first sample has one
//! control = 0                                      spacing and value as before
//!         | 10  0 bits | 10  1 window              spacing as before, another value
//!         | 110 + 13 value | 1110 + 20 value | 11110 + 64 value     two's complement: the change of the spacing
//!         | 11111                                  spacing as before, a stale marker
//! value  = 0 | 10 bits | 110 window | 111 a stale marker
//! ```
//! Stale markers are no base for the values after them. Start timestamps are read over: blocks have no place for them.

use super::bits::BitReader;
use super::xor::{CUT, Floats, Wrong, XorValue, split_count};
use gnomon_model::sample::{STALE_NAN, is_stale_nan};

pub(super) fn decode(data: &[u8]) -> Result<Floats, Wrong> {
    let (count, rest) = split_count(data)?;
    let (&starts, rest) = rest.split_first().ok_or("the chunk has no header")?;
    let first_start = u16::from(starts & 0x7f);
    let mut bits = BitReader::new(rest);
    let mut out = Floats::default();
    let (mut time, mut spacing, mut base) = (0_i64, 0_i64, XorValue::default());
    for i in 0..count {
        let value = match i {
            0 => {
                time = bits.varint().ok_or(CUT)?;
                let value = bits.float().ok_or(CUT)?;
                if !is_stale_nan(value) {
                    base = XorValue::of(value);
                }
                if starts & 0x80 != 0 {
                    bits.varint().ok_or(CUT)?;
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
            time = time.wrapping_add(spacing);
            if first_start > 0 && i >= first_start {
                bits.varbit_int().ok_or(CUT)?;
            }
        }
        out.push(time, value)?;
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
