//! Whole numbers as tokens of an asymmetric numeral system with tables (tANS; Duda, arXiv:1311.2540): numbers that are
//! frequent take few bits, less than one where nearly all are the same. Smaller than packed, decoded half as fast.
//!
//! ```text
//! coded = shape:u8  center:uvarint(zigzag)  from:u8  below:u8  len:uvarint  len bytes of bits
//! shape = bits 0-3 log (6 to 11), bits 4-5 top (0 to 3)
//! bits  = (gap level:4){from}  (gap level:4){below}  state:log  number*        least significant first, zero padded
//! gap   = Elias gamma of the token's distance to the one before in its list (the first: of the token + 1)
//! ```
//! `from` tokens are of numbers that are at least `center`, `below` of those below. A token and some bits are a distance
//! from the center: `2 << top` small distances are a token each, larger ones share one where their `top + 1` highest
//! bits are the same. `level` says how frequent a token is ([`WEIGHTS`]). The bits of a number are the rest of its
//! distance, then those that lead to the next state; the state after the last number is 0.

#[cfg(test)]
mod tests;

use super::bits::{unzigzag, zigzag};
use super::packed::BLOCK;
use gnomon_model::labels::{get_uvarint, put_uvarint};

const LEAST_LOG: u32 = 6;
const MOST_LOG: u32 = 11;
const MOST_TOP: u32 = 3;
/// Tokens of one sign: with `top` 3 the largest is 495.
const MOST_TOKENS: usize = 496;
const LEVEL_BITS: u32 = 4;

/// 16 times 2 to the power of three fifths of the level.
const WEIGHTS: [u32; 16] = [
    16, 24, 37, 56, 84, 128, 194, 294, 446, 676, 1024, 1552, 2353, 3566, 5405, 8192,
];

/// States for so many numbers: more of them tell frequencies more exactly and take longer to set up.
const fn log_for(count: usize) -> u32 {
    match count {
        0..=600 => 7,
        601..=4000 => 9,
        _ => MOST_LOG,
    }
}

/// Token of a distance, and how many of its bits are not in it.
#[inline]
const fn token_of(distance: u64, top: u32) -> (usize, u32) {
    if distance < 2 << top {
        return (distance as usize, 0);
    }
    let rest = 63 - distance.leading_zeros() - top;
    (((rest as usize) << top) + (distance >> rest) as usize, rest)
}

/// The least distance that has a token, and how many bits are to be added; none where there is no such token.
const fn distance_of(token: usize, top: u32) -> Option<(u64, u32)> {
    if token < 2 << top {
        return Some((token as u64, 0));
    }
    let rest = (token >> top) as u32 - 1;
    if rest + top > 63 {
        return None;
    }
    let high = (token & ((1 << top) - 1)) as u64 + (1 << top);
    Some((high << rest, rest))
}

/// States of each token: in proportion to the weights, at least one, together `1 << log`. None where it cannot be.
fn share(levels: &[u8], log: u32) -> Option<Vec<u16>> {
    let states = 1_u32 << log;
    let weights = || levels.iter().map(|level| WEIGHTS[usize::from(*level & 15)]);
    let all: u32 = weights().sum();
    let mut shares: Vec<u16> = weights().map(|w| (w * states / all.max(1)).max(1) as u16).collect();
    let given: u32 = shares.iter().map(|n| u32::from(*n)).sum();
    // What is missing or too much is the first most frequent token's.
    let largest = shares.iter().max().copied()?;
    let first = shares.iter_mut().find(|n| **n == largest)?;
    *first = u16::try_from((u32::from(*first) + states).checked_sub(given).filter(|n| *n > 0)?).ok()?;
    Some(shares)
}

/// The token of each state, by its place among all.
fn spread(shares: &[u16], log: u32) -> Vec<u16> {
    let states = 1_usize << log;
    let step = states / 2 + states / 8 + 3;
    let mut tokens = vec![0; states];
    let mut at = 0;
    for (token, share) in shares.iter().enumerate() {
        for _ in 0..*share {
            tokens[at] = token as u16;
            at = (at + step) & (states - 1);
        }
    }
    tokens
}

/// How numbers are written, and about how many bits they take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    center: i64,
    top: u32,
    pub(super) bits: f32,
}

/// How often tokens occur.
struct Counts {
    of: [[u32; MOST_TOKENS]; 2],
    /// Tokens there are.
    tokens: usize,
    rest_bits: u64,
}

impl Counts {
    fn new(numbers: &[i64], center: i64, top: u32) -> Self {
        let mut counts = Self {
            of: [[0; MOST_TOKENS]; 2],
            tokens: ((63 - top as usize) << top) + (2 << top),
            rest_bits: 0,
        };
        for number in numbers {
            let distance = number.wrapping_sub(center);
            let (token, rest) = token_of(distance.unsigned_abs(), top);
            counts.of[usize::from(distance < 0)][token] += 1;
            counts.rest_bits += u64::from(rest);
        }
        counts
    }

    /// Tokens that occur, with how often.
    fn used(&self, below: usize) -> impl Iterator<Item = (usize, u32)> {
        let counts = self.of[below].iter().take(self.tokens);
        counts.copied().enumerate().filter(|(_, n)| *n > 0)
    }
}

const fn gamma_bits(number: usize) -> u32 {
    2 * number.ilog2() + 1
}

impl Plan {
    fn at(numbers: &[i64], center: i64, top: u32) -> Option<Self> {
        let counts = Counts::new(numbers, center, top);
        let log = log_for(numbers.len());
        let total = numbers.len() as f32;
        let mut bits = counts.rest_bits as f32 + total * total.log2() + 40.0 + log as f32;
        let mut tokens = 0;
        for below in 0..2 {
            let mut before = 0;
            for (token, n) in counts.used(below) {
                bits += (gamma_bits(token + 1 - before) + LEVEL_BITS) as f32 - n as f32 * (n as f32).log2();
                before = token + 1;
                tokens += 1;
            }
        }
        bits += (64 - zigzag(center).leading_zeros()) as f32;
        (tokens <= (1 << log) / 2 && tokens < 256).then_some(Self { center, top, bits })
    }

    /// A plan that tells which of several columns of numbers becomes the shortest; none where there are too few numbers,
    /// or too different ones.
    pub(super) fn rough(numbers: &[i64]) -> Option<Self> {
        if numbers.len() < 8 {
            return None;
        }
        let mut sorted = numbers.to_vec();
        let (_, median, _) = sorted.select_nth_unstable(numbers.len() / 2);
        let median = *median;
        let around_0 = Self::at(numbers, 0, 0);
        if median == 0 {
            return around_0;
        }
        Self::shorter(around_0, Self::at(numbers, median, 0))
    }

    /// The shortest of some.
    pub(super) fn refined(self, numbers: &[i64]) -> Self {
        let more = (1..=MOST_TOP).map(|top| Self::at(numbers, self.center, top));
        more.fold(Some(self), Self::shorter).unwrap_or(self)
    }

    fn shorter(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        match (a, b) {
            (Some(a), Some(b)) if b.bits < a.bits => Some(b),
            (None, b) => b,
            (a, _) => a,
        }
    }

    /// Appends the numbers; none where they cannot be written so.
    pub(super) fn write(&self, numbers: &[i64], out: &mut Vec<u8>) -> Option<()> {
        let counts = Counts::new(numbers, self.center, self.top);
        let log = log_for(numbers.len());
        let most = counts.of.iter().flatten().max().copied().unwrap_or(1) as f32;
        let mut bits = Bits::default();
        let (mut levels, mut listed, mut place_of) = (Vec::new(), [0_u8; 2], [[0_u16; MOST_TOKENS]; 2]);
        for below in 0..2 {
            let mut before = 0;
            for (token, n) in counts.used(below) {
                bits.put_gamma((token + 1 - before) as u64);
                let level = (15.5 - (most / n as f32).log2() / 0.6).max(0.0) as u8;
                bits.put(u64::from(level), LEVEL_BITS);
                before = token + 1;
                place_of[below][token] = levels.len() as u16;
                levels.push(level);
                listed[below] = listed[below].checked_add(1)?;
            }
        }
        let states = States::new(&share(&levels, log)?, log);
        // Backwards: the first number that is read is the last that is written.
        let mut state = 0;
        let mut steps = Vec::with_capacity(numbers.len());
        for number in numbers.iter().rev() {
            let distance = number.wrapping_sub(self.center);
            let below = usize::from(distance < 0);
            let (token, rest) = token_of(distance.unsigned_abs(), self.top);
            let (width, low, before) = states.before(usize::from(place_of[below][token]), state);
            state = before;
            steps.push((distance.unsigned_abs(), rest, low, width));
        }
        bits.put(u64::from(state), log);
        for (distance, rest, low, width) in steps.into_iter().rev() {
            bits.put(distance, rest);
            bits.put(u64::from(low), width);
        }
        let bits = bits.finish();
        out.push((log | self.top << 4) as u8);
        put_uvarint(out, zigzag(self.center));
        out.extend(listed);
        put_uvarint(out, bits.len() as u64);
        out.extend_from_slice(&bits);
        Some(())
    }
}

/// What leads to a state, for who writes.
struct States {
    shares: Vec<u16>,
    /// Where each token's states begin in `states`.
    begins: Vec<u16>,
    states: Vec<u16>,
    log: u32,
}

impl States {
    fn new(shares: &[u16], log: u32) -> Self {
        let mut begins = Vec::with_capacity(shares.len());
        let mut begin = 0;
        for share in shares {
            begins.push(begin);
            begin += share;
        }
        let mut next = begins.clone();
        let mut states = vec![0; 1 << log];
        for (state, token) in spread(shares, log).into_iter().enumerate() {
            let at = &mut next[usize::from(token)];
            states[usize::from(*at)] = state as u16;
            *at += 1;
        }
        Self {
            shares: shares.to_vec(),
            begins,
            states,
            log,
        }
    }

    /// The state of a token that leads to `after` by some bits: their width, they, and the state.
    fn before(&self, token: usize, after: u16) -> (u32, u16, u16) {
        let share = u32::from(self.shares[token]);
        let after = u32::from(after) + (1 << self.log);
        let mut width = self.log - share.ilog2();
        if after >> width < share {
            width -= 1;
        }
        let low = after & ((1 << width) - 1);
        let at = u32::from(self.begins[token]) + (after >> width) - share;
        (width, low as u16, self.states[at as usize])
    }
}

/// Bits, least significant first.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    last: u64,
    filled: u32,
}

impl Bits {
    /// The low `width` (at most 63) bits.
    fn put(&mut self, value: u64, width: u32) {
        let value = value & ((1 << width) - 1);
        self.last |= value << self.filled;
        if self.filled + width < 64 {
            self.filled += width;
            return;
        }
        self.bytes.extend_from_slice(&self.last.to_le_bytes());
        self.last = value.checked_shr(64 - self.filled).unwrap_or(0);
        self.filled = self.filled + width - 64;
    }

    fn put_gamma(&mut self, number: u64) {
        let width = number.ilog2();
        self.put(1 << width, width + 1);
        self.put(number, width);
    }

    fn finish(mut self) -> Vec<u8> {
        let rest = self.filled.div_ceil(8) as usize;
        self.bytes.extend_from_slice(&self.last.to_le_bytes()[..rest]);
        self.bytes
    }
}

/// Bits that [`load`] gives at least.
const LOADED: u32 = 57;

/// Bits from a place on; zeros beyond the end.
#[inline]
fn load(bytes: &[u8], bit: usize) -> u64 {
    let at = bit / 8;
    let word = if let Some(eight) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        u64::from_le_bytes(*eight)
    } else {
        let rest = bytes.get(at..).unwrap_or_default();
        let mut padded = [0; 8];
        padded[..rest.len()].copy_from_slice(rest);
        u64::from_le_bytes(padded)
    };
    word >> (bit % 8)
}

#[inline]
const fn low_bits(value: u64, width: u32) -> u64 {
    value & ((1 << width) - 1)
}

/// What a state stands for.
#[derive(Clone, Copy, Default)]
struct Entry {
    /// Of the distance.
    least: u64,
    /// -1 below the center, else 0.
    sign: i8,
    rest: u8,
    width: u8,
    /// The next state, less the bits.
    next: u16,
}

/// Numbers that are read.
pub(super) struct Coded<'a> {
    bits: &'a [u8],
    at: usize,
    state: usize,
    center: i64,
    entries: Vec<Entry>,
    /// What follows the numbers.
    after: &'a [u8],
}

impl<'a> Coded<'a> {
    /// None where the bytes are cut short or are nothing such. Allocates some tens of KiB at most.
    pub(super) fn new(bytes: &'a [u8]) -> Option<Self> {
        let (&shape, rest) = bytes.split_first()?;
        let (log, top) = (u32::from(shape & 15), u32::from(shape >> 4));
        if !(LEAST_LOG..=MOST_LOG).contains(&log) || top > MOST_TOP {
            return None;
        }
        let (center, rest) = get_uvarint(rest)?;
        let (listed, rest) = rest.split_first_chunk::<2>()?;
        let (len, rest) = get_uvarint(rest)?;
        let (bits, after) = rest.split_at_checked(usize::try_from(len).ok()?)?;
        let mut at = 0;
        let mut levels = Vec::with_capacity(32);
        let mut tokens = Vec::with_capacity(32);
        for (listed, sign) in listed.iter().zip([0, -1]) {
            let mut token = 0;
            for _ in 0..*listed {
                let word = load(bits, at);
                let width = word.trailing_zeros();
                if width > 9 {
                    return None;
                }
                let gap = 1 << width | low_bits(word >> (width + 1), width);
                token += gap as usize;
                let (least, rest) = distance_of(token - 1, top)?;
                tokens.push((least, sign, rest as u8));
                levels.push(low_bits(word >> (2 * width + 1), LEVEL_BITS) as u8);
                at += (2 * width + 1 + LEVEL_BITS) as usize;
            }
        }
        let shares = share(&levels, log)?;
        let mut next = shares.clone();
        let mut entries = Vec::with_capacity(1 << log);
        for token in spread(&shares, log) {
            let (least, sign, rest) = tokens[usize::from(token)];
            let number = &mut next[usize::from(token)];
            let width = log - u32::from(*number).ilog2();
            entries.push(Entry {
                least,
                sign,
                rest,
                width: width as u8,
                next: ((u32::from(*number) << width) - (1 << log)) as u16,
            });
            *number += 1;
        }
        let state = low_bits(load(bits, at), log) as usize;
        Some(Self {
            bits,
            at: at + log as usize,
            state,
            center: unzigzag(center),
            entries,
            after,
        })
    }

    /// The next `count` (at most [`BLOCK`]) numbers; what they are after the end of the bits is told by [`Self::after`].
    #[inline]
    pub(super) fn read(&mut self, count: usize, numbers: &mut [i64; BLOCK]) -> Option<()> {
        let (mut at, mut state) = (self.at, self.state);
        // Bits from `at` on, so many of which count.
        let (mut word, mut loaded) = (0, 0);
        for number in numbers.get_mut(..count)? {
            let entry = self.entries.get(state)?;
            let (rest, width) = (u32::from(entry.rest), u32::from(entry.width));
            if loaded < rest + width {
                (word, loaded) = (load(self.bits, at), LOADED);
            }
            let distance;
            if rest + width <= LOADED {
                distance = low_bits(word, rest);
                word >>= rest;
                state = usize::from(entry.next) + low_bits(word, width) as usize;
                word >>= width;
                loaded -= rest + width;
            } else {
                distance = low_bits(low_bits(word, 32) | load(self.bits, at + 32) << 32, rest);
                state = usize::from(entry.next) + low_bits(load(self.bits, at + rest as usize), width) as usize;
                loaded = 0;
            }
            at += (rest + width) as usize;
            let (distance, sign) = ((entry.least | distance) as i64, i64::from(entry.sign));
            *number = self.center.wrapping_add((distance ^ sign).wrapping_sub(sign));
        }
        (self.at, self.state) = (at, state);
        Some(())
    }

    /// What follows, once all numbers are read; none where they were not these.
    pub(super) fn after(&self) -> Option<&'a [u8]> {
        (self.state == 0 && self.at.div_ceil(8) == self.bits.len()).then_some(self.after)
    }
}
