//! Numbers of so many bits, most significant first, as chunks hold them.

/// Reads bits; every call gives none where the bytes end before.
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    /// Of the next bit.
    at: usize,
}

impl<'a> BitReader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) const fn left(&self) -> usize {
        self.bytes.len() * 8 - self.at
    }

    pub(super) fn bit(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1 == 1;
        self.at += 1;
        Some(bit)
    }

    /// `count` is at most 64.
    pub(super) fn bits(&mut self, count: u32) -> Option<u64> {
        if count == 0 {
            return Some(0);
        }
        if self.left() < count as usize {
            return None;
        }
        let rest = &self.bytes[self.at / 8..];
        let rest = &rest[..rest.len().min(9)];
        let mut word = [0; 16];
        word[..rest.len()].copy_from_slice(rest);
        let value = u128::from_be_bytes(word) << (self.at % 8) >> (128 - count);
        self.at += count as usize;
        Some(value as u64)
    }

    pub(super) fn float(&mut self) -> Option<f64> {
        self.bits(64).map(f64::from_bits)
    }

    /// LEB128, as Go's `binary.Uvarint`.
    pub(super) fn uvarint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.bits(8)?;
            value |= (byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// Zigzag, as Go's `binary.Varint`.
    pub(super) fn varint(&mut self) -> Option<i64> {
        self.uvarint().map(unzigzag)
    }

    /// Ones before the first zero, `most` at most.
    pub(super) fn ones(&mut self, most: u32) -> Option<u32> {
        for ones in 0..most {
            if !self.bit()? {
                return Some(ones);
            }
        }
        Some(most)
    }

    /// So many bits, of which more than the half of their range stands for a number below zero.
    pub(super) fn signed(&mut self, count: u32) -> Option<i64> {
        let bits = self.bits(count)?;
        if (1..64).contains(&count) && bits > 1 << (count - 1) {
            return Some((bits as i64).wrapping_sub(1 << count));
        }
        Some(bits as i64)
    }

    /// `varbit_int` of histograms.
    pub(super) fn varbit_int(&mut self) -> Option<i64> {
        let class = self.ones(8)?;
        self.signed(*VARBIT.get(class as usize)?)
    }

    /// `varbit_uint` of histograms.
    pub(super) fn varbit_uint(&mut self) -> Option<u64> {
        let class = self.ones(8)?;
        self.bits(*VARBIT.get(class as usize)?)
    }
}

/// Lengths of `varbit` numbers by the ones before them.
const VARBIT: [u32; 9] = [0, 3, 6, 9, 12, 18, 25, 56, 64];

pub(super) const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

pub(super) const fn zigzag(value: i64) -> u64 {
    (value << 1 ^ value >> 63) as u64
}

/// Writes bits.
#[derive(Default)]
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    /// Bits of the last byte that are free.
    free: u32,
}

impl BitWriter {
    /// Goes on after whole bytes.
    pub(super) const fn after(bytes: Vec<u8>) -> Self {
        Self { bytes, free: 0 }
    }

    /// The low `count` bits (at most 64) of `value`.
    pub(super) fn bits(&mut self, value: u64, count: u32) {
        let mut left = count;
        while left > 0 {
            if self.free == 0 {
                self.bytes.push(0);
                self.free = 8;
            }
            let take = left.min(self.free);
            let bits = (value >> (left - take)) as u8 & (0xff >> (8 - take));
            if let Some(last) = self.bytes.last_mut() {
                *last |= bits << (self.free - take);
            }
            self.free -= take;
            left -= take;
        }
    }

    pub(super) fn float(&mut self, value: f64) {
        self.bits(value.to_bits(), 64);
    }

    pub(super) fn uvarint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bits(value & 0x7f | 0x80, 8);
            value >>= 7;
        }
        self.bits(value, 8);
    }

    pub(super) fn varint(&mut self, value: i64) {
        self.uvarint(zigzag(value));
    }

    /// So many ones, and a zero.
    pub(super) fn ones(&mut self, count: u32) {
        self.bits((2 << count) - 2, count + 1);
    }

    pub(super) fn varbit_int(&mut self, value: i64) {
        let fits = |bits: u32| bits == 64 || fits_signed(value, bits);
        self.varbit(value as u64, value == 0, fits);
    }

    pub(super) fn varbit_uint(&mut self, value: u64) {
        let fits = |bits: u32| bits == 64 || value >> bits == 0;
        self.varbit(value, value == 0, fits);
    }

    fn varbit(&mut self, value: u64, is_zero: bool, fits: impl Fn(u32) -> bool) {
        let class = (1..8).find(|class| fits(VARBIT[*class as usize])).unwrap_or(8);
        match class {
            _ if is_zero => self.bits(0, 1),
            // The longest prefix has no zero after it.
            8 => self.bits(0xff, 8),
            class => self.ones(class),
        }
        if !is_zero {
            self.bits(value, VARBIT[class as usize]);
        }
    }

    /// Zero padded to a byte.
    pub(super) fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Whether [`BitReader::signed`] of so many bits (below 64) gives it back: the range is from `-(2^(n-1) - 1)` to `2^(n-1)`.
pub(super) const fn fits_signed(value: i64, bits: u32) -> bool {
    let half = 1_i64 << (bits - 1);
    -half < value && value <= half
}
