//! Bits of Prometheus' chunks (`tsdb/docs/format/chunks.md`): high bits first, numbers in as few bits as their size
//! needs.

/// Grows bit by bit.
#[derive(Debug, Default)]
pub(super) struct Bits {
    bytes: Vec<u8>,
    /// Bits of the last byte that are not taken yet.
    free: u32,
}

/// A number that is written as what differs from the one before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Xor {
    bits: u64,
    /// Zeros before and after the differing bits that were written last; none yet if beyond 64.
    leading: u32,
    trailing: u32,
}

/// Widths of `varbit_int` and `varbit_uint`, shortest first; a number that fits none takes 64 bits.
const WIDTHS: [u32; 7] = [3, 6, 9, 12, 18, 25, 56];

/// Widths of the difference between two intervals in an XOR chunk.
const TIME_WIDTHS: [u32; 3] = [14, 17, 20];

/// Whether a signed number fits so many bits as the readers of chunks understand them: one more above than below.
const fn fits(value: i64, width: u32) -> bool {
    let half = 1i64 << (width - 1);
    -half < value && value <= half
}

impl Bits {
    pub(super) const fn after(bytes: Vec<u8>) -> Self {
        Self { bytes, free: 0 }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The lowest `count` bits of `value`.
    pub(super) fn put(&mut self, value: u64, count: u32) {
        let mut left = count;
        while left > 0 {
            if self.free == 0 {
                self.bytes.push(0);
                self.free = 8;
            }
            let take = left.min(self.free);
            let part = (value >> (left - take)) & ((1 << take) - 1);
            if let Some(last) = self.bytes.last_mut() {
                *last |= (part << (self.free - take)) as u8;
            }
            self.free -= take;
            left -= take;
        }
    }

    pub(super) fn put_float(&mut self, value: f64) {
        self.put(value.to_bits(), 64);
    }

    /// LEB128.
    pub(super) fn put_uvarint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put(value & 0x7f | 0x80, 8);
            value >>= 7;
        }
        self.put(value, 8);
    }

    /// Zigzag, then LEB128.
    pub(super) fn put_varint(&mut self, value: i64) {
        self.put_uvarint(((value << 1) ^ (value >> 63)) as u64);
    }

    /// As many ones as there are narrower widths, a zero, then the number in the width.
    fn put_in_width(&mut self, value: u64, at: Option<usize>, widths: &[u32]) {
        match at {
            Some(at) => {
                let ones = at as u32 + 1;
                self.put(((1 << ones) - 1) << 1, ones + 1);
                self.put(value, widths[at]);
            }
            None => {
                let ones = widths.len() as u32 + 1;
                self.put((1 << ones) - 1, ones);
                self.put(value, 64);
            }
        }
    }

    /// `varbit_int`.
    pub(super) fn put_varbit(&mut self, value: i64) {
        if value == 0 {
            return self.put(0, 1);
        }
        let at = WIDTHS.iter().position(|width| fits(value, *width));
        self.put_in_width(value as u64, at, &WIDTHS);
    }

    /// `varbit_uint`.
    pub(super) fn put_varbit_unsigned(&mut self, value: u64) {
        if value == 0 {
            return self.put(0, 1);
        }
        let at = WIDTHS.iter().position(|width| value >> width == 0);
        self.put_in_width(value, at, &WIDTHS);
    }

    /// `varbit_ts`.
    pub(super) fn put_time(&mut self, value: i64) {
        if value == 0 {
            return self.put(0, 1);
        }
        let at = TIME_WIDTHS.iter().position(|width| fits(value, *width));
        self.put_in_width(value as u64, at, &TIME_WIDTHS);
    }

    /// `varbit_xor`.
    pub(super) fn put_xor(&mut self, state: &mut Xor, value: f64) {
        let differing = state.bits ^ value.to_bits();
        state.bits = value.to_bits();
        if differing == 0 {
            return self.put(0, 1);
        }
        // Five bits tell the leading zeros.
        let (leading, trailing) = (differing.leading_zeros().min(31), differing.trailing_zeros());
        if leading >= state.leading && trailing >= state.trailing {
            self.put(0b10, 2);
            return self.put(differing >> state.trailing, 64 - state.leading - state.trailing);
        }
        (state.leading, state.trailing) = (leading, trailing);
        let width = 64 - leading - trailing;
        self.put(0b11, 2);
        self.put(u64::from(leading), 5);
        // 64 does not fit six bits and is written as 0.
        self.put(u64::from(width), 6);
        self.put(differing >> trailing, width);
    }
}

impl Xor {
    pub(super) const fn new(first: f64) -> Self {
        Self {
            bits: first.to_bits(),
            leading: u32::MAX,
            trailing: u32::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(put: impl FnOnce(&mut Bits)) -> String {
        let mut bits = Bits::default();
        put(&mut bits);
        let free = bits.free as usize;
        let text: String = bits.into_bytes().iter().map(|byte| format!("{byte:08b}")).collect();
        text[..text.len() - free].to_owned()
    }

    #[test]
    fn numbers_take_the_bits_that_the_format_says() {
        assert_eq!(written(|b| b.put_varbit(0)), "0");
        assert_eq!(written(|b| b.put_varbit(4)), "10100");
        assert_eq!(written(|b| b.put_varbit(-3)), "10101");
        assert_eq!(written(|b| b.put_varbit(5)), "110000101");
        assert_eq!(written(|b| b.put_varbit(-4)).len(), 9);
        assert_eq!(
            written(|b| b.put_varbit(i64::MIN)),
            format!("{}1{}", "1".repeat(8), "0".repeat(63))
        );
        assert_eq!(written(|b| b.put_varbit_unsigned(7)), "10111");
        assert_eq!(written(|b| b.put_varbit_unsigned(8)), "110001000");
        assert_eq!(written(|b| b.put_varbit_unsigned(u64::MAX)), "1".repeat(72));
        assert_eq!(written(|b| b.put_time(8192)), format!("10{:014b}", 8192));
        assert_eq!(written(|b| b.put_time(-8192)).len(), 3 + 17);
        assert_eq!(written(|b| b.put_time(1 << 40)).len(), 4 + 64);
        assert_eq!(written(|b| b.put_varint(-1)), "00000001");
        assert_eq!(written(|b| b.put_uvarint(300)), "1010110000000010");
    }

    #[test]
    fn floats_take_what_differs() {
        let mut state = Xor::new(12.0);
        assert_eq!(written(|b| b.put_xor(&mut state, 12.0)), "0");
        // 12 and 24 differ in one bit.
        let text = written(|b| b.put_xor(&mut state, 24.0));
        assert_eq!(text, "11010110000011");
        assert_eq!(written(|b| b.put_xor(&mut state, 12.0)), "101");
    }
}
