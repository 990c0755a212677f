//! Coding 1: floats.
//!
//! After Gorilla (Pelkonen et al., VLDB 2015): delta-of-delta timestamps and XORed values, with three additions: a run of
//! samples that are as predicted (same spacing, same value) is a number, whole numbers may be written as a difference,
//! and the first value is written once in the header.
//!
//! ```text
//! body   = first_value:uvarint(byte-swapped bits)  item*         (bits, most significant first, zero padded)
//! item   = run | sample                                          the sample after a run has no leading 1
//! run    = 0 length        length = 0 (1) | 10 +2 bits (2..5) | 110 +5 bits (6..37) | 111 +16 bits
//! sample = 1 time value    time   = 0 (as predicted) | 10 +6 | 110 +12 | 1110 +17 | 1111 +64   (dod, two's complement)
//!                          value  = 0 (same) | 10 xor in the last window | 110 leading:5 width-1:6 xor
//!                                 | 111 class:2 zigzag(difference): 6 | 12 | 20 | 54 bits
//! ```

mod quick;

use super::bits::{BitReader, BitWriter, unzigzag, zigzag};
use super::{AppendError, Coding, MAX_PAGE_SAMPLES, Page, PageError, PageHeader};
use gnomon_model::labels::{get_uvarint, put_uvarint};

const INTEGER_WIDTHS: [u32; 4] = [6, 12, 20, 54];

/// What a sample takes at most, with a run before it: 20 + 68 + 78 bits.
const MAX_SAMPLE_BYTES: usize = 21;
/// A page's data has room for so many bytes at first, then for as many as pages of series that change have in the end, and
/// so many more each time: builders are many and grow in step, and an allocator keeps what each step leaves.
const FIRST_BYTES: usize = 40;
const MORE_BYTES: usize = 112;

/// What encoder and decoder both know after a sample.
#[derive(Clone, Copy, Debug)]
struct State {
    last_ts: i64,
    last_delta: i64,
    last_value: u64,
    leading: u8,
    /// Bits of the last window; 0 before there is one.
    width: u8,
}

impl State {
    const fn starting(ts: i64, value: u64) -> Self {
        Self {
            last_ts: ts,
            last_delta: 0,
            last_value: value,
            leading: 0,
            width: 0,
        }
    }
}

/// A page of floats that grows. Holds some 80 bytes and the encoded data.
#[derive(Clone, Debug)]
pub struct FloatPageBuilder {
    bits: Vec<u8>,
    state: State,
    first_ts: i64,
    first_value: u64,
    count: u32,
    /// Samples at the end that were as predicted and are not in `bits` yet.
    run: u32,
    free: u8,
}

impl Default for FloatPageBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl FloatPageBuilder {
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bits: Vec::new(),
            state: State::starting(0, 0),
            first_ts: 0,
            first_value: 0,
            count: 0,
            run: 0,
            free: 0,
        }
    }

    /// Continues a page that [`Self::bytes`] gave.
    ///
    /// # Errors
    /// When `bytes` are not a page of floats or are damaged.
    pub fn resume(bytes: &[u8]) -> Result<Self, PageError> {
        let mut decoder = Decoder::new(bytes)?;
        while decoder.remaining > 0 {
            decoder.item(&mut NoSamples)?;
        }
        decoder.check_end()?;
        // An open run is taken back into the counter, since more samples may lengthen it.
        let (run, end_bit) = match decoder.last_run {
            Some((length, before)) => (length, before),
            None => (0, decoder.reader.position()),
        };
        let mut bits = decoder.body.get(..end_bit.div_ceil(8)).unwrap_or(decoder.body).to_vec();
        let free = (bits.len() * 8 - end_bit) as u8;
        if let Some(last) = bits.last_mut() {
            *last &= 0xff_u8.checked_shl(u32::from(free)).unwrap_or(0);
        }
        Ok(Self {
            bits,
            state: decoder.state,
            first_ts: decoder.header.min_ts,
            first_value: decoder.first_value,
            count: decoder.header.count,
            run,
            free,
        })
    }

    /// Begins another page, in the memory of the one before.
    pub fn restart(&mut self) {
        let mut bits = std::mem::take(&mut self.bits);
        bits.clear();
        *self = Self { bits, ..Self::new() };
    }

    /// Bytes of data so far, without header and first value.
    #[must_use]
    pub const fn data_len(&self) -> usize {
        self.bits.len()
    }

    /// Adds a sample.
    ///
    /// # Errors
    /// When `ts_ms` is not after the last one, or the page has [`MAX_PAGE_SAMPLES`]; the page is as before then.
    #[inline]
    pub fn append(&mut self, ts_ms: i64, value: f64) -> Result<(), AppendError> {
        let value = value.to_bits();
        if self.count == 0 {
            self.first_ts = ts_ms;
            self.first_value = value;
            self.state = State::starting(ts_ms, value);
            self.count = 1;
            return Ok(());
        }
        if ts_ms <= self.state.last_ts {
            return Err(AppendError::OutOfOrder);
        }
        if self.count >= MAX_PAGE_SAMPLES {
            return Err(AppendError::Full);
        }
        let delta = ts_ms.wrapping_sub(self.state.last_ts);
        let dod = delta.wrapping_sub(self.state.last_delta);
        self.count += 1;
        if dod == 0 && value == self.state.last_value {
            self.run += 1;
            self.state.last_ts = ts_ms;
            return Ok(());
        }
        let room = self.bits.capacity() - self.bits.len();
        if room < MAX_SAMPLE_BYTES {
            let more = if self.bits.capacity() == 0 {
                FIRST_BYTES
            } else {
                MORE_BYTES
            };
            self.bits.reserve_exact(room + more);
        }
        let mut out = BitWriter {
            bytes: &mut self.bits,
            free: &mut self.free,
        };
        if self.run > 0 {
            put_run(&mut out, self.run);
            self.run = 0;
        } else {
            out.put(1, 1);
        }
        put_time(&mut out, dod);
        put_value(&mut out, &mut self.state, value);
        self.state.last_ts = ts_ms;
        self.state.last_delta = delta;
        self.state.last_value = value;
        Ok(())
    }

    /// Number of samples.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    #[must_use]
    pub fn first_ts(&self) -> Option<i64> {
        (self.count > 0).then_some(self.first_ts)
    }

    #[must_use]
    pub fn last_ts(&self) -> Option<i64> {
        (self.count > 0).then_some(self.state.last_ts)
    }

    #[must_use]
    pub fn last_value(&self) -> Option<f64> {
        (self.count > 0).then_some(f64::from_bits(self.state.last_value))
    }

    /// Memory held, in bytes, this struct included.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.bits.capacity()
    }

    /// A complete page of the samples so far; empty when there are none. The builder can go on.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bits.len() + 28);
        self.write_to(&mut out);
        out
    }

    /// Appends what [`Self::bytes`] returns to `out`.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        if self.count == 0 {
            return;
        }
        let header = PageHeader {
            coding: Coding::Float,
            count: self.count,
            min_ts: self.first_ts,
            max_ts: self.state.last_ts,
        };
        header.write(out);
        put_uvarint(out, self.first_value.swap_bytes());
        out.extend_from_slice(&self.bits);
        if self.run > 0 {
            // Without bits of its own the body begins on a byte boundary.
            let mut free = self.free;
            put_run(
                &mut BitWriter {
                    bytes: out,
                    free: &mut free,
                },
                self.run,
            );
        }
    }

    /// The samples so far as a page; none when there are none.
    #[must_use]
    pub fn page(&self) -> Option<Page> {
        (self.count > 0).then(|| Page {
            coding: Coding::Float,
            count: self.count,
            min_ts: self.first_ts,
            max_ts: self.state.last_ts,
            bytes: self.bytes().into(),
        })
    }
}

fn put_run(out: &mut BitWriter<'_>, length: u32) {
    let length = u64::from(length);
    match length {
        1 => out.put(0b00, 2),
        2..=5 => out.put(0b010 << 2 | (length - 2), 5),
        6..=37 => out.put(0b0110 << 5 | (length - 6), 9),
        _ => out.put(0b0111 << 16 | length, 20),
    }
}

#[inline]
fn put_time(out: &mut BitWriter<'_>, dod: i64) {
    let fits = |width: u32| dod >> (width - 1) == 0 || dod >> (width - 1) == -1;
    let low = |width: u32| dod as u64 & ((1 << width) - 1);
    if dod == 0 {
        out.put(0, 1);
    } else if fits(6) {
        out.put(0b10 << 6 | low(6), 8);
    } else if fits(12) {
        out.put(0b110 << 12 | low(12), 15);
    } else if fits(17) {
        out.put(0b1110 << 17 | low(17), 21);
    } else {
        out.put(0b1111, 4);
        out.put(dod as u64, 64);
    }
}

/// The whole number that a float is, if it is one that survives the way there and back to the bit.
#[inline]
fn whole(bits: u64) -> Option<i64> {
    let value = f64::from_bits(bits);
    let number = value as i64;
    ((number as f64).to_bits() == bits && number.unsigned_abs() < 1 << 53).then_some(number)
}

#[inline]
fn put_value(out: &mut BitWriter<'_>, state: &mut State, value: u64) {
    let xor = value ^ state.last_value;
    if xor == 0 {
        out.put(0, 1);
        return;
    }
    let leading = xor.leading_zeros().min(31);
    let trailing = xor.trailing_zeros();
    let width = 64 - leading - trailing;
    let (last_leading, last_width) = (u32::from(state.leading), u32::from(state.width));
    let fits_last = last_width > 0 && leading >= last_leading && trailing >= 64 - last_leading - last_width;
    let reuse_bits = if fits_last { 2 + last_width } else { u32::MAX };
    let new_bits = 3 + 11 + width;
    let difference = match (whole(value), whole(state.last_value)) {
        (Some(now), Some(before)) => Some(zigzag(now - before)),
        _ => None,
    };
    if let Some(difference) = difference {
        let class = INTEGER_WIDTHS.iter().position(|w| difference >> w == 0).unwrap_or(3);
        if 5 + INTEGER_WIDTHS[class] < reuse_bits.min(new_bits) && difference >> INTEGER_WIDTHS[class] == 0 {
            out.put(0b111 << 2 | class as u64, 5);
            out.put(difference, INTEGER_WIDTHS[class]);
            return;
        }
    }
    if reuse_bits <= new_bits {
        out.put(0b10, 2);
        out.put(xor >> (64 - last_leading - last_width), last_width);
    } else {
        out.put(0b110 << 11 | u64::from(leading) << 6 | u64::from(width - 1), 14);
        out.put(xor >> trailing, width);
        state.leading = leading as u8;
        state.width = width as u8;
    }
}

/// Where decoded samples go.
trait Output {
    fn sample(&mut self, ts: i64, value: u64);
    fn run(&mut self, after_ts: i64, delta: i64, value: u64, length: u32);
}

struct NoSamples;

impl Output for NoSamples {
    fn sample(&mut self, _: i64, _: u64) {}
    fn run(&mut self, _: i64, _: i64, _: u64, _: u32) {}
}

/// Samples that are decoded before they are appended to the columns: few enough to stay in the processor's first cache.
const CHUNK: usize = 128;

/// Columns that grow chunk by chunk, so that their memory is written once.
struct Columns<'a> {
    timestamps: &'a mut Vec<i64>,
    values: &'a mut Vec<f64>,
    times_of_chunk: [i64; CHUNK],
    values_of_chunk: [f64; CHUNK],
    filled: usize,
}

impl<'a> Columns<'a> {
    fn new(timestamps: &'a mut Vec<i64>, values: &'a mut Vec<f64>) -> Self {
        Self {
            timestamps,
            values,
            times_of_chunk: [0; CHUNK],
            values_of_chunk: [0.0; CHUNK],
            filled: 0,
        }
    }

    fn flush(&mut self) {
        self.timestamps.extend_from_slice(&self.times_of_chunk[..self.filled]);
        self.values.extend_from_slice(&self.values_of_chunk[..self.filled]);
        self.filled = 0;
    }
}

impl Output for Columns<'_> {
    #[inline]
    fn sample(&mut self, ts: i64, value: u64) {
        if self.filled == CHUNK {
            self.flush();
        }
        let at = self.filled;
        (self.times_of_chunk[at], self.values_of_chunk[at]) = (ts, f64::from_bits(value));
        self.filled += 1;
    }

    #[inline]
    fn run(&mut self, after_ts: i64, delta: i64, value: u64, length: u32) {
        self.flush();
        let end = self.values.len() + length as usize;
        self.values.resize(end, f64::from_bits(value));
        let times = (1..=i64::from(length)).map(|i| after_ts.wrapping_add(delta.wrapping_mul(i)));
        self.timestamps.extend(times);
    }
}

struct Decoder<'a> {
    header: PageHeader,
    body: &'a [u8],
    reader: BitReader<'a>,
    state: State,
    first_value: u64,
    remaining: u32,
    after_run: bool,
    /// When the last item was a run: its length and the bit at which it began.
    last_run: Option<(u32, usize)>,
}

impl<'a> Decoder<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, PageError> {
        let (header, rest) = PageHeader::read_as(bytes, Coding::Float)?;
        let (first, body) = get_uvarint(rest).ok_or(PageError::Truncated)?;
        let first_value = first.swap_bytes();
        Ok(Self {
            header,
            body,
            reader: BitReader::new(body),
            state: State::starting(header.min_ts, first_value),
            first_value,
            remaining: header.count - 1,
            after_run: false,
            last_run: None,
        })
    }

    /// Decodes a run or a sample.
    #[inline]
    fn item(&mut self, out: &mut impl Output) -> Result<(), PageError> {
        let before = if self.after_run { 0 } else { self.reader.position() };
        let is_sample = self.after_run || self.reader.bit().ok_or(PageError::Truncated)?;
        if is_sample {
            self.after_run = false;
            self.last_run = None;
            return self.sample(out);
        }
        let length = self.run_length().ok_or(PageError::Truncated)?;
        if length == 0 || length > self.remaining {
            return Err(PageError::Corrupt("a run is longer than the page"));
        }
        let delta = self.state.last_delta;
        // Wider than the result: the way there may be longer than 2^63 ms.
        let end = i128::from(self.state.last_ts) + i128::from(delta) * i128::from(length);
        let end = i64::try_from(end)
            .ok()
            .filter(|_| delta > 0)
            .ok_or(PageError::Corrupt("timestamps do not increase"))?;
        out.run(self.state.last_ts, delta, self.state.last_value, length);
        self.state.last_ts = end;
        self.remaining -= length;
        self.after_run = true;
        self.last_run = Some((length, before));
        Ok(())
    }

    #[inline]
    fn run_length(&mut self) -> Option<u32> {
        let reader = &mut self.reader;
        let length = if !reader.bit()? {
            1
        } else if !reader.bit()? {
            reader.take(2)? + 2
        } else if !reader.bit()? {
            reader.take(5)? + 6
        } else {
            reader.take(16)?
        };
        Some(length as u32)
    }

    #[inline]
    fn sample(&mut self, out: &mut impl Output) -> Result<(), PageError> {
        let dod = read_time(&mut self.reader).ok_or(PageError::Truncated)?;
        let delta = self.state.last_delta.wrapping_add(dod);
        let ts = self.state.last_ts.wrapping_add(delta);
        if ts <= self.state.last_ts {
            return Err(PageError::Corrupt("timestamps do not increase"));
        }
        let value = read_value(&mut self.reader, &mut self.state)?;
        self.state.last_ts = ts;
        self.state.last_delta = delta;
        self.state.last_value = value;
        self.remaining -= 1;
        out.sample(ts, value);
        Ok(())
    }

    fn check_end(&self) -> Result<(), PageError> {
        if self.state.last_ts != self.header.max_ts {
            return Err(PageError::Corrupt("last timestamp is not the header's"));
        }
        Ok(())
    }
}

#[inline]
fn read_time(reader: &mut BitReader<'_>) -> Option<i64> {
    let signed = |value: u64, width: u32| ((value << (64 - width)) as i64) >> (64 - width);
    Some(if !reader.bit()? {
        0
    } else if !reader.bit()? {
        signed(reader.take(6)?, 6)
    } else if !reader.bit()? {
        signed(reader.take(12)?, 12)
    } else if !reader.bit()? {
        signed(reader.take(17)?, 17)
    } else {
        reader.take_wide(64)? as i64
    })
}

#[inline]
fn read_value(reader: &mut BitReader<'_>, state: &mut State) -> Result<u64, PageError> {
    const CUT: PageError = PageError::Truncated;
    if !reader.bit().ok_or(CUT)? {
        return Ok(state.last_value);
    }
    if !reader.bit().ok_or(CUT)? {
        let (leading, width) = (u32::from(state.leading), u32::from(state.width));
        if width == 0 {
            return Err(PageError::Corrupt("a value refers to a window before there is one"));
        }
        let xor = reader.take_wide(width).ok_or(CUT)? << (64 - leading - width);
        return Ok(state.last_value ^ xor);
    }
    if !reader.bit().ok_or(CUT)? {
        let window = reader.take(11).ok_or(CUT)?;
        let (leading, width) = ((window >> 6) as u32, (window & 63) as u32 + 1);
        if leading + width > 64 {
            return Err(PageError::Corrupt("a value's window is wider than 64 bits"));
        }
        let xor = reader.take_wide(width).ok_or(CUT)? << (64 - leading - width);
        state.leading = leading as u8;
        state.width = width as u8;
        return Ok(state.last_value ^ xor);
    }
    let class = reader.take(2).ok_or(CUT)? as usize;
    let difference = unzigzag(reader.take(INTEGER_WIDTHS[class]).ok_or(CUT)?);
    let before = f64::from_bits(state.last_value) as i64;
    Ok((before.wrapping_add(difference) as f64).to_bits())
}

pub(super) fn decode_into(bytes: &[u8], timestamps: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), PageError> {
    let start = (timestamps.len(), values.len());
    let result = decode_all(bytes, timestamps, values);
    if result.is_err() {
        timestamps.truncate(start.0);
        values.truncate(start.1);
    }
    result
}

fn decode_all(bytes: &[u8], timestamps: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), PageError> {
    let mut decoder = Decoder::new(bytes)?;
    let count = decoder.header.count as usize;
    timestamps.reserve(count);
    values.reserve(count);
    let mut out = Columns::new(timestamps, values);
    out.sample(decoder.header.min_ts, decoder.first_value);
    while decoder.remaining > 0 {
        decoder.item(&mut out)?;
        decoder.quick(&mut out);
    }
    out.flush();
    decoder.check_end()
}
