//! Encoding 1, XOR: floats.
//!
//! ```text
//! chunk  = samples: u16   first time: varint   first value: f64
//!          [ time - first: uvarint   value ]   { time   value }*        as bits, zero padded
//! time   = 0 | 10 + 14 | 110 + 17 | 1110 + 20 | 1111 + 64 bits          the change of the spacing
//! value  = 0                                                            as before
//!        | 10 bits                                                      XOR with the value before, of the last window
//!        | 11 leading: 5  width: 6 (0 is 64)  bits                      a new window
//! ```

use super::bits::{BitReader, BitWriter, fits_signed};
use crate::page::Starts;

/// Why bytes are no chunk.
pub(super) type Wrong = &'static str;

pub(super) const CUT: Wrong = "the chunk ends within a sample";
const DISORDER: Wrong = "times of samples in the chunk do not ascend";
const WINDOW: Wrong = "the chunk has a value of more than 64 bits";

/// Classes of spacings, by the ones before them.
const SPACING: [u32; 5] = [0, 14, 17, 20, 64];

/// What stands before a value, and of how many bits it is.
pub(super) struct Prefixes {
    pub(super) same: (u64, u32),
    pub(super) in_window: (u64, u32),
    pub(super) new_window: (u64, u32),
}

const XOR_PREFIXES: Prefixes = Prefixes {
    same: (0, 1),
    in_window: (0b10, 2),
    new_window: (0b11, 2),
};

/// A value, and which of its bits changed last.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct XorValue {
    pub(super) value: f64,
    leading: u32,
    trailing: u32,
    /// There is no window before the first change.
    has_window: bool,
}

impl XorValue {
    pub(super) fn of(value: f64) -> Self {
        Self {
            value,
            ..Self::default()
        }
    }

    /// The bits that changed, of the window as it is.
    pub(super) fn read_in_window(&mut self, bits: &mut BitReader<'_>) -> Result<(), Wrong> {
        let width = 64 - self.leading - self.trailing;
        let changed = bits.bits(width).ok_or(CUT)?;
        self.value = f64::from_bits(self.value.to_bits() ^ changed << self.trailing);
        Ok(())
    }

    pub(super) fn read_window(&mut self, bits: &mut BitReader<'_>) -> Result<(), Wrong> {
        let leading = bits.bits(5).ok_or(CUT)? as u32;
        let width = match bits.bits(6).ok_or(CUT)? as u32 {
            0 => 64,
            width => width,
        };
        self.leading = leading;
        self.trailing = 64_u32.checked_sub(leading + width).ok_or(WINDOW)?;
        self.read_in_window(bits)
    }

    pub(super) fn read(&mut self, bits: &mut BitReader<'_>) -> Result<(), Wrong> {
        match bits.ones(2).ok_or(CUT)? {
            0 => Ok(()),
            1 => self.read_in_window(bits),
            _ => self.read_window(bits),
        }
    }

    pub(super) fn write(&mut self, value: f64, out: &mut BitWriter) {
        self.write_with(&XOR_PREFIXES, value, out);
    }

    /// With other bits before each kind of value.
    pub(super) fn write_with(&mut self, prefixes: &Prefixes, value: f64, out: &mut BitWriter) {
        let put = |(bits, count): (u64, u32), out: &mut BitWriter| out.bits(bits, count);
        let changed = self.value.to_bits() ^ value.to_bits();
        self.value = value;
        if changed == 0 {
            return put(prefixes.same, out);
        }
        let (leading, trailing) = (changed.leading_zeros().min(31), changed.trailing_zeros());
        if self.has_window && leading >= self.leading && trailing >= self.trailing {
            put(prefixes.in_window, out);
        } else {
            (self.leading, self.trailing, self.has_window) = (leading, trailing, true);
            put(prefixes.new_window, out);
            out.bits(u64::from(leading), 5);
            out.bits(u64::from(64 - leading - trailing) & 63, 6);
        }
        out.bits(changed >> self.trailing, 64 - self.leading - self.trailing);
    }
}

/// Samples of floats, ascending by time.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Floats {
    pub(super) timestamps: Vec<i64>,
    pub(super) values: Vec<f64>,
    pub(super) starts: Starts,
}

impl Floats {
    pub(super) fn push(&mut self, timestamp: i64, value: f64) -> Result<(), Wrong> {
        if self.timestamps.last().is_some_and(|last| *last >= timestamp) {
            return Err(DISORDER);
        }
        self.timestamps.push(timestamp);
        self.values.push(value);
        Ok(())
    }
}

/// The number of samples, and what follows it.
pub(super) fn split_count(data: &[u8]) -> Result<(u16, &[u8]), Wrong> {
    let (count, rest) = data.split_first_chunk::<2>().ok_or("the chunk has no header")?;
    Ok((u16::from_be_bytes(*count), rest))
}

pub(super) fn decode(data: &[u8]) -> Result<Floats, Wrong> {
    let (count, rest) = split_count(data)?;
    let mut bits = BitReader::new(rest);
    let mut out = Floats::default();
    let (mut time, mut spacing, mut value) = (0_i64, 0_i64, XorValue::default());
    for i in 0..count {
        match i {
            0 => {
                time = bits.varint().ok_or(CUT)?;
                value = XorValue::of(bits.float().ok_or(CUT)?);
            }
            1 => {
                spacing = bits.uvarint().ok_or(CUT)? as i64;
                time = time.wrapping_add(spacing);
                value.read(&mut bits)?;
            }
            _ => {
                let class = bits.ones(4).ok_or(CUT)?;
                let change = bits.signed(SPACING[class as usize]).ok_or(CUT)?;
                spacing = spacing.wrapping_add(change);
                time = time.wrapping_add(spacing);
                value.read(&mut bits)?;
            }
        }
        out.push(time, value.value)?;
    }
    Ok(out)
}

/// A chunk of samples, the times of which ascend; at most 65,535.
pub(super) fn encode(samples: impl ExactSizeIterator<Item = (i64, f64)>) -> Vec<u8> {
    let count = u16::try_from(samples.len()).unwrap_or(u16::MAX);
    let mut out = BitWriter::after(count.to_be_bytes().to_vec());
    let (mut last, mut last_spacing, mut value) = (0_i64, 0_i64, XorValue::default());
    for (i, (time, sample)) in samples.take(usize::from(count)).enumerate() {
        let spacing = time.wrapping_sub(last);
        match i {
            0 => {
                out.varint(time);
                out.float(sample);
                value = XorValue::of(sample);
            }
            1 => {
                out.uvarint(spacing as u64);
                value.write(sample, &mut out);
            }
            _ => {
                write_spacing(spacing.wrapping_sub(last_spacing), &mut out);
                value.write(sample, &mut out);
            }
        }
        (last, last_spacing) = (time, spacing);
    }
    out.finish()
}

fn write_spacing(change: i64, out: &mut BitWriter) {
    if change == 0 {
        out.bits(0, 1);
        return;
    }
    let class = (1..4).find(|class| fits_signed(change, SPACING[*class as usize]));
    match class {
        Some(class) => out.ones(class),
        None => out.bits(0b1111, 4),
    }
    out.bits(change as u64, SPACING[class.unwrap_or(4) as usize]);
}
