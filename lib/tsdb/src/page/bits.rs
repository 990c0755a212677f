//! Bits, most significant first.

/// Appends bits to a byte vector of its owner; `free` is how many low bits of the last byte are still unused.
pub(super) struct BitWriter<'a> {
    pub(super) bytes: &'a mut Vec<u8>,
    pub(super) free: &'a mut u8,
}

impl BitWriter<'_> {
    /// Appends the low `width` (at most 64) bits of `value`.
    #[inline]
    pub(super) fn put(&mut self, value: u64, width: u32) {
        let value = value & 1u64.checked_shl(width).map_or(u64::MAX, |bit| bit - 1);
        let free = u32::from(*self.free);
        let last = self.bytes.last_mut().filter(|_| free > 0);
        if width <= free {
            if let Some(last) = last {
                *last |= (value << (free - width)) as u8;
            }
            *self.free -= width as u8;
            return;
        }
        let left = width - free;
        if let Some(last) = last {
            *last |= (value >> left) as u8;
        }
        let count = left.div_ceil(8) as usize;
        // A hundred thousand of these live in a head: growth in small steps wastes less than doubling.
        if self.bytes.len() + count > self.bytes.capacity() {
            self.bytes.reserve_exact((self.bytes.len() / 4).max(16));
        }
        let all = (value << (64 - left)).to_be_bytes();
        let end = self.bytes.len() + count;
        if self.bytes.capacity() - self.bytes.len() >= all.len() {
            // Of a length that is known: copied without a call.
            self.bytes.extend_from_slice(&all);
            self.bytes.truncate(end);
        } else {
            self.bytes.extend_from_slice(&all[..count]);
        }
        *self.free = (count * 8) as u8 - left as u8;
    }
}

/// Reads bits from a byte slice.
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    /// Next byte to load.
    at: usize,
    /// Loaded bits, at the high end.
    loaded: u64,
    /// How many of `loaded` count.
    left: u32,
}

impl<'a> BitReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            loaded: 0,
            left: 0,
        }
    }

    #[inline]
    fn refill(&mut self) {
        if let Some(eight) = self.bytes.get(self.at..self.at + 8).and_then(|b| b.first_chunk::<8>()) {
            self.loaded |= u64::from_be_bytes(*eight) >> self.left;
            self.at += ((63 - self.left) >> 3) as usize;
            self.left |= 56;
            return;
        }
        while self.left <= 56 {
            let Some(&byte) = self.bytes.get(self.at) else { return };
            self.loaded |= u64::from(byte) << (56 - self.left);
            self.at += 1;
            self.left += 8;
        }
    }

    /// The next `width` (1 to 56) bits; none when fewer are left.
    #[inline]
    pub(super) fn take(&mut self, width: u32) -> Option<u64> {
        if self.left < width {
            self.refill();
            if self.left < width {
                return None;
            }
        }
        let value = self.loaded >> (64 - width);
        self.loaded <<= width;
        self.left -= width;
        Some(value)
    }

    /// Bits at the high end, the next `width` (at most 56) of which are there; none when fewer are left. Nothing is
    /// consumed.
    #[inline]
    pub(super) fn peek(&mut self, width: u32) -> Option<u64> {
        if self.left < width {
            self.refill();
        }
        (self.left >= width).then_some(self.loaded)
    }

    /// Consumes bits that were seen.
    #[inline]
    pub(super) fn skip(&mut self, width: u32) {
        self.loaded <<= width;
        self.left -= width.min(self.left);
    }

    #[inline]
    pub(super) fn bit(&mut self) -> Option<bool> {
        self.take(1).map(|b| b == 1)
    }

    /// The next `width` (1 to 64) bits.
    #[inline]
    pub(super) fn take_wide(&mut self, width: u32) -> Option<u64> {
        if width <= 56 {
            return self.take(width);
        }
        let high = self.take(width - 32)?;
        Some(high << 32 | self.take(32)?)
    }

    /// Bits consumed so far.
    pub(super) fn position(&self) -> usize {
        self.at * 8 - self.left as usize
    }
}

/// Maps small magnitudes of either sign to small numbers.
#[inline]
pub(crate) const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[inline]
pub(crate) const fn unzigzag(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}
