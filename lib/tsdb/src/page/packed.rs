//! Whole numbers in blocks of up to 128: each as its distance from the block's base, in as many bits as most need; the
//! few that need more have the rest of their bits after the block.
//!
//! ```text
//! block = base:uvarint(zigzag)  head:u8 = width (0..=64) | 128 if there is a rest
//!         low `width` bits of each distance, least significant first, zero padded to a byte
//!         rest: n:u8  n * { place in the block:u8  high bits:uvarint }
//! ```

use super::bits::{unzigzag, zigzag};
use gnomon_model::labels::{get_uvarint, put_uvarint};

/// Numbers in a block; the last may have fewer.
pub(super) const BLOCK: usize = 128;

const HAS_REST: u8 = 0x80;

/// How a block is written.
#[derive(Clone, Copy, Debug)]
struct Shape {
    base: i64,
    width: u32,
    /// About.
    bytes: usize,
}

const fn low_bits(width: u32) -> u64 {
    if width >= 64 { u64::MAX } else { (1 << width) - 1 }
}

impl Shape {
    fn of(block: &[i64]) -> Self {
        let (mut least, mut second, mut most) = (i64::MAX, i64::MAX, i64::MIN);
        for number in block {
            most = most.max(*number);
            second = second.min((*number).max(least));
            least = least.min(*number);
        }
        let whole = Self::above(block, least);
        // A counter that began anew steps far down, once.
        let alone = second > least && second.abs_diff(least) > most.abs_diff(second);
        if !alone || whole.width == 0 {
            return whole;
        }
        let without = Self::above(block, second);
        if without.bytes < whole.bytes { without } else { whole }
    }

    fn above(block: &[i64], base: i64) -> Self {
        let mut lengths = [0_u16; 65];
        for number in block {
            let distance = number.wrapping_sub(base) as u64;
            lengths[(64 - distance.leading_zeros()) as usize] += 1;
        }
        let longest = lengths.iter().rposition(|n| *n > 0).unwrap_or(0) as u32;
        let base_bytes = 2 + (64 - zigzag(base).leading_zeros()) as usize / 7;
        let bytes = |width: u32| base_bytes + (block.len() * width as usize).div_ceil(8);
        let mut best = Self {
            base,
            width: longest,
            bytes: bytes(longest),
        };
        let (mut longer, mut high_bits) = (0_usize, 0_usize);
        for width in (0..longest).rev() {
            longer += usize::from(lengths[width as usize + 1]);
            high_bits += longer;
            let all = bytes(width) + 1 + longer + longer / 2 + high_bits.div_ceil(7);
            if all < best.bytes {
                best = Self {
                    base,
                    width,
                    bytes: all,
                };
            }
            if longer > block.len() / 4 {
                break;
            }
        }
        best
    }

    fn write(&self, block: &[i64], out: &mut Vec<u8>) {
        let Self { base, width, .. } = *self;
        let mask = low_bits(width);
        let distance = |number: &i64| number.wrapping_sub(base) as u64;
        let longer = block.iter().filter(|n| distance(n) & !mask != 0).count();
        put_uvarint(out, zigzag(base));
        out.push(width as u8 | if longer > 0 { HAS_REST } else { 0 });
        let (mut bits, mut filled) = (0_u64, 0_u32);
        for number in block {
            let low = distance(number) & mask;
            bits |= low << filled;
            filled += width;
            if filled >= 64 {
                out.extend_from_slice(&bits.to_le_bytes());
                filled -= 64;
                bits = low.checked_shr(width - filled).unwrap_or(0);
            }
        }
        out.extend_from_slice(&bits.to_le_bytes()[..filled.div_ceil(8) as usize]);
        if longer == 0 {
            return;
        }
        out.push(longer as u8);
        for (at, number) in block.iter().enumerate() {
            let distance = distance(number);
            if distance & !mask != 0 {
                out.push(at as u8);
                put_uvarint(out, distance >> width);
            }
        }
    }
}

/// About how long [`pack`] makes them.
pub(super) fn packed_len(numbers: &[i64]) -> usize {
    numbers.chunks(BLOCK).map(|block| Shape::of(block).bytes).sum()
}

pub(super) fn pack(numbers: &[i64], out: &mut Vec<u8>) {
    for block in numbers.chunks(BLOCK) {
        Shape::of(block).write(block, out);
    }
}

/// Reads a block of `count` (at most [`BLOCK`]) numbers from the front of `bytes`; gives what follows. None where it is
/// cut short or no block is so.
#[inline]
pub(super) fn unpack<'a>(bytes: &'a [u8], count: usize, numbers: &mut [i64; BLOCK]) -> Option<&'a [u8]> {
    let (base, rest) = get_uvarint(bytes)?;
    let (&head, rest) = rest.split_first()?;
    let (base, width) = (unzigzag(base), u32::from(head & !HAS_REST));
    if width > 64 || count > BLOCK {
        return None;
    }
    let packed_bytes = (count * width as usize).div_ceil(8);
    let after = rest.get(packed_bytes..)?;
    match width {
        0 => numbers.fill(base),
        1..=NARROW => {
            // What follows the block is loaded with its last bytes.
            unpack_narrow(rest, width, base, &mut numbers[..count.next_multiple_of(8)])?;
        }
        _ => unpack_wide(&rest[..packed_bytes], width, base, &mut numbers[..count])?,
    }
    if head & HAS_REST == 0 {
        return Some(after);
    }
    let (&longer, mut rest) = after.split_first()?;
    for _ in 0..longer {
        let (&at, high) = rest.split_first()?;
        let (high, next) = get_uvarint(high)?;
        let number = numbers[..count].get_mut(usize::from(at))?;
        *number = number.wrapping_add(high.checked_shl(width)? as i64);
        rest = next;
    }
    Some(rest)
}

/// Skips a block of `count` numbers.
pub(super) fn skip(bytes: &[u8], count: usize) -> Option<&[u8]> {
    let (_, rest) = get_uvarint(bytes)?;
    let (&head, rest) = rest.split_first()?;
    let rest = rest.get((count * usize::from(head & !HAS_REST)).div_ceil(8)..)?;
    if head & HAS_REST == 0 {
        return Some(rest);
    }
    let (&longer, mut rest) = rest.split_first()?;
    for _ in 0..longer {
        rest = get_uvarint(rest.get(1..)?)?.1;
    }
    Some(rest)
}

/// Widths that are unpacked eight numbers at a time, which begin at a byte each.
const NARROW: u32 = 32;

fn unpack_narrow(bytes: &[u8], width: u32, base: i64, numbers: &mut [i64]) -> Option<()> {
    macro_rules! of_width {
        ($($width:literal)*) => {
            match width {
                $($width => unpack_eights::<$width>(bytes, base, numbers),)*
                _ => None,
            }
        };
    }
    of_width!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32)
}

/// With all places and shifts known to the compiler.
fn unpack_eights<const WIDTH: usize>(bytes: &[u8], base: i64, numbers: &mut [i64]) -> Option<()> {
    let (eights, _) = numbers.as_chunks_mut::<8>();
    for (n, eight) in eights.iter_mut().enumerate() {
        let mut padded = [0; NARROW as usize + 8];
        let window = if let Some(window) = bytes.get(n * WIDTH..n * WIDTH + WIDTH + 8) {
            window
        } else {
            let rest = bytes.get(n * WIDTH..)?;
            padded[..rest.len()].copy_from_slice(rest);
            &padded[..WIDTH + 8]
        };
        for (i, number) in eight.iter_mut().enumerate() {
            let mut loaded = [0; 8];
            loaded.copy_from_slice(&window[i * WIDTH / 8..i * WIDTH / 8 + 8]);
            let low = (u64::from_le_bytes(loaded) >> (i * WIDTH % 8)) & low_bits(WIDTH as u32);
            *number = base.wrapping_add(low as i64);
        }
    }
    Some(())
}

fn unpack_wide(bytes: &[u8], width: u32, base: i64, numbers: &mut [i64]) -> Option<()> {
    let mut bit = 0_usize;
    for number in numbers {
        let rest = bytes.get(bit / 8..)?;
        let mut loaded = [0; 16];
        let len = rest.len().min(16);
        loaded[..len].copy_from_slice(&rest[..len]);
        let low = (u128::from_le_bytes(loaded) >> (bit % 8)) as u64 & low_bits(width);
        *number = base.wrapping_add(low as i64);
        bit += width as usize;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unpacked(mut bytes: &[u8], count: usize) -> Option<Vec<i64>> {
        let mut all = Vec::new();
        while all.len() < count {
            let mut block = [0; BLOCK];
            let n = (count - all.len()).min(BLOCK);
            bytes = unpack(bytes, n, &mut block)?;
            all.extend_from_slice(&block[..n]);
        }
        bytes.is_empty().then_some(all)
    }

    fn numbers() -> impl Strategy<Value = Vec<i64>> {
        let number = |width: u32| {
            prop_oneof![
                9 => any::<i64>().prop_map(move |n| if width == 0 { 7 } else { n >> (64 - width) }),
                1 => any::<i64>(),
            ]
        };
        (0..=64_u32).prop_flat_map(move |width| prop::collection::vec(number(width), 0..300))
    }

    proptest! {
        #[test]
        fn numbers_come_back(numbers in numbers()) {
            let mut bytes = Vec::new();
            pack(&numbers, &mut bytes);
            prop_assert_eq!(unpacked(&bytes, numbers.len()), Some(numbers));
        }

        #[test]
        fn damage_is_nothing_or_numbers(numbers in numbers(), at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            pack(&numbers, &mut bytes);
            if bytes.is_empty() {
                return Ok(());
            }
            let at = at.index(bytes.len());
            bytes[at] = with;
            let _ = unpacked(&bytes, numbers.len());
            bytes.truncate(cut.index(bytes.len()));
            let _ = unpacked(&bytes, numbers.len());
        }
    }

    #[test]
    fn steady_numbers_take_no_bits_and_a_single_jump_few() {
        let mut bytes = Vec::new();
        pack(&[41; 128], &mut bytes);
        assert_eq!(bytes, [82, 0]);
        for jump in [1 << 40, -(1 << 40)] {
            let mut numbers = [41; 128];
            numbers[77] = jump;
            bytes.clear();
            pack(&numbers, &mut bytes);
            assert!(bytes.len() <= 14, "{jump}: {}", bytes.len());
        }
    }
}
