//! The two kinds of samples that make up most pages, decoded with one look at the bits: at the predicted time, with a
//! small whole difference (`1 0 111 class difference`) or within the last window (`1 0 10 xor`).

use super::{CHUNK, Columns, Decoder, INTEGER_WIDTHS, unzigzag};

const DIFFERENCE: u64 = 0b101_1100;
const WINDOW: u64 = 0b1010;
/// Bits of a sample with a difference of the classes 0 to 2, at most.
const DIFFERENCE_BITS: u32 = 27;
/// The widths of differences, eight bits each.
const WIDTHS: u32 = INTEGER_WIDTHS[0] | INTEGER_WIDTHS[1] << 8 | INTEGER_WIDTHS[2] << 16;
/// Floats below this are whole numbers to the unit.
const WHOLE: u64 = 1 << 53;

impl Decoder<'_> {
    /// Decodes samples of these kinds as long as they come and the chunk has room; leaves everything else, and all that is
    /// wrong, where it is.
    #[inline]
    pub(super) fn quick(&mut self, out: &mut Columns<'_>) {
        let delta = self.state.last_delta;
        let longest = delta.checked_mul(i64::from(self.remaining));
        let fits = longest.is_some_and(|longest| self.state.last_ts.checked_add(longest).is_some());
        if self.after_run || delta <= 0 || !fits {
            return;
        }
        if out.filled == CHUNK {
            out.flush();
        }
        let mut value = self.state.last_value;
        let mut whole = f64::from_bits(value) as i64;
        let width = u32::from(self.state.width);
        let low_zeros = 64u32.saturating_sub(u32::from(self.state.leading) + width);
        let reader = &mut self.reader;
        let mut count = 0;
        let room = out.values_of_chunk.get_mut(out.filled..).unwrap_or_default();
        for slot in room.iter_mut().take(self.remaining as usize) {
            let Some(bits) = reader.peek(DIFFERENCE_BITS) else {
                break;
            };
            let head = bits >> 57;
            if head & 0b111_1100 == DIFFERENCE {
                let class = (head & 0b11) as u32;
                if class == 3 {
                    break;
                }
                let difference_width = WIDTHS >> (class * 8) & 0xff;
                let now = whole.wrapping_add(unzigzag(bits << 7 >> (64 - difference_width)));
                if whole.unsigned_abs() >= WHOLE || now.unsigned_abs() >= WHOLE {
                    break;
                }
                reader.skip(7 + difference_width);
                whole = now;
                value = (now as f64).to_bits();
            } else if bits >> 60 == WINDOW && (1..=52).contains(&width) {
                let Some(bits) = reader.peek(4 + width) else { break };
                reader.skip(4 + width);
                value ^= bits << 4 >> (64 - width) << low_zeros;
                whole = f64::from_bits(value) as i64;
            } else {
                break;
            }
            *slot = f64::from_bits(value);
            count += 1;
        }
        if count == 0 {
            return;
        }
        let times = out
            .times_of_chunk
            .get_mut(out.filled..out.filled + count)
            .unwrap_or_default();
        let after_ts = self.state.last_ts;
        for (time, i) in times.iter_mut().zip(1..) {
            *time = after_ts.wrapping_add(delta.wrapping_mul(i));
        }
        out.filled += count;
        self.state.last_ts = after_ts.wrapping_add(delta.wrapping_mul(count as i64));
        self.state.last_value = value;
        self.remaining -= count as u32;
        self.last_run = None;
    }
}
