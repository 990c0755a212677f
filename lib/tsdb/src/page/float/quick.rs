//! The two kinds of samples that make up most pages, decoded with one look at the bits: at the predicted time, with a
//! small whole difference (`1 0 111 class difference`) or within the last window (`1 0 10 xor`).

use super::{Decoder, INTEGER_WIDTHS, Output, unzigzag};

const DIFFERENCE: u64 = 0b101_1100;
const WINDOW: u64 = 0b1010;
/// Floats below this are whole numbers to the unit.
const WHOLE: u64 = 1 << 53;

impl Decoder<'_> {
    /// Decodes samples of these kinds as long as they come; leaves everything else, and all that is wrong, where it is.
    #[inline]
    pub(super) fn quick(&mut self, out: &mut impl Output) {
        let delta = self.state.last_delta;
        if self.after_run || delta <= 0 {
            return;
        }
        let decoded = self.remaining;
        let mut ts = self.state.last_ts;
        let mut value = self.state.last_value;
        let mut whole = f64::from_bits(value) as i64;
        let width = u32::from(self.state.width);
        let low_zeros = 64u32.saturating_sub(u32::from(self.state.leading) + width);
        while self.remaining > 0 {
            let Some(next_ts) = ts.checked_add(delta) else { break };
            let Some(bits) = self.reader.peek_many() else { break };
            if bits >> 57 & 0b111_1100 == DIFFERENCE {
                let class = (bits >> 57 & 0b11) as usize;
                let difference_width = INTEGER_WIDTHS[class];
                let difference = unzigzag(bits << 7 >> (64 - difference_width));
                let now = whole.wrapping_add(difference);
                if class == 3 || whole.unsigned_abs() >= WHOLE || now.unsigned_abs() >= WHOLE {
                    break;
                }
                self.reader.skip(7 + difference_width);
                whole = now;
                value = (now as f64).to_bits();
            } else if bits >> 60 == WINDOW && (1..=52).contains(&width) {
                self.reader.skip(4 + width);
                value ^= bits << 4 >> (64 - width) << low_zeros;
                whole = f64::from_bits(value) as i64;
            } else {
                break;
            }
            ts = next_ts;
            self.remaining -= 1;
            out.sample(ts, value);
        }
        if self.remaining < decoded {
            self.state.last_ts = ts;
            self.state.last_value = value;
            self.last_run = None;
        }
    }
}
