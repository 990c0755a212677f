//! Encodings 2 and 3: native histograms with whole counts and with floats.
//!
//! ```text
//! chunk   = samples: u16   flags: u8   zero threshold   schema: int   spans (positive)   spans (negative)   [bounds]
//!           sample*                                                     as bits from the zero threshold on
//! flags   = 00 unknown | 01 not a reset | 10 a reset before the first sample | 11 gauges      (the two high bits)
//! zero threshold = 0: u8 | exponent + 243: u8 (a power of two) | 255: u8 f64
//! spans   = n: uint  n * { length: uint  offset: int }
//! bounds  = n: uint  n * { 1000 * bound + 1: uint | 0: 1 bit  f64 }     only with schema -53
//! sample  = first: time: int  count: uint  zero count: uint  sum: f64  buckets: int*          encoding 2
//!         | first: time: int  count: f64   zero count: f64   sum: f64  buckets: f64*          encoding 3
//!         | time  count  zero count: int (changes of changes)  sum: XOR value  buckets: int*  encoding 2
//!         | time: int  count  zero count  sum  buckets: XOR value*                            encoding 3
//! ```
//! `int` and `uint` are `varbit` numbers. Buckets of encoding 2 are differences to the bucket to the left, those of
//! encoding 3 are absolute. A sample with the stale marker as its sum has no buckets.

use super::bits::{BitReader, BitWriter};
use super::xor::{CUT, Wrong, XorValue, split_count};
use crate::page::HistogramSample;
use gnomon_model::histogram::{CUSTOM_BUCKETS_SCHEMA, FloatHistogram, ResetHint, Span};
use gnomon_model::sample::is_stale_nan;

/// Buckets of all samples of a chunk together: bounds what its decoded form takes (8 bytes each).
const MAX_BUCKETS: usize = 1 << 22;
const DISORDER: Wrong = "times of samples in the chunk do not ascend";
/// The largest whole number that a bound is written as.
const MAX_WHOLE_BOUND: f64 = 33_554_430.0;

const FLAG_RESET: u8 = 0b10;
const FLAG_NOT_RESET: u8 = 0b01;
const FLAG_GAUGE: u8 = 0b11;

/// Everything that samples of one chunk have in common.
#[derive(Clone, Debug, PartialEq)]
struct Layout {
    zero_threshold: f64,
    schema: i32,
    positive: Vec<Span>,
    negative: Vec<Span>,
    bounds: Vec<f64>,
}

fn bucket_total(spans: &[Span]) -> u64 {
    spans.iter().map(|span| u64::from(span.length)).sum()
}

impl Layout {
    fn of(histogram: &FloatHistogram) -> Self {
        Self {
            zero_threshold: histogram.zero_threshold,
            schema: histogram.schema,
            positive: histogram.positive_spans.clone(),
            negative: histogram.negative_spans.clone(),
            bounds: histogram.custom_values.clone(),
        }
    }

    fn is_of(&self, histogram: &FloatHistogram) -> bool {
        self.zero_threshold.to_bits() == histogram.zero_threshold.to_bits()
            && self.schema == histogram.schema
            && self.positive == histogram.positive_spans
            && self.negative == histogram.negative_spans
            && self.bounds == histogram.custom_values
    }

    fn give(&self, histogram: &mut FloatHistogram) {
        histogram.schema = self.schema;
        histogram.zero_threshold = self.zero_threshold;
        histogram.positive_spans.clone_from(&self.positive);
        histogram.negative_spans.clone_from(&self.negative);
        histogram.custom_values.clone_from(&self.bounds);
    }

    fn read(bits: &mut BitReader<'_>) -> Result<Self, Wrong> {
        let zero_threshold = match bits.bits(8).ok_or(CUT)? {
            0 => 0.0,
            255 => bits.float().ok_or(CUT)?,
            exponent => 2_f64.powi(exponent as i32 - 244),
        };
        let schema = bits.varbit_int().ok_or(CUT)?;
        let schema = i32::try_from(schema).map_err(|_| "the chunk has a schema that no histogram has")?;
        let mut layout = Self {
            zero_threshold,
            schema,
            positive: read_spans(bits)?,
            negative: read_spans(bits)?,
            bounds: Vec::new(),
        };
        if schema == CUSTOM_BUCKETS_SCHEMA {
            let count = bits.varbit_uint().ok_or(CUT)?;
            // Each takes a bit at least.
            if count > bits.left() as u64 {
                return Err(CUT);
            }
            for _ in 0..count {
                layout.bounds.push(match bits.varbit_uint().ok_or(CUT)? {
                    0 => bits.float().ok_or(CUT)?,
                    whole => (whole - 1) as f64 / 1000.0,
                });
            }
        }
        Ok(layout)
    }

    fn write(&self, out: &mut BitWriter) {
        write_zero_threshold(self.zero_threshold, out);
        out.varbit_int(i64::from(self.schema));
        for spans in [&self.positive, &self.negative] {
            out.varbit_uint(spans.len() as u64);
            for span in spans {
                out.varbit_uint(u64::from(span.length));
                out.varbit_int(i64::from(span.offset));
            }
        }
        if self.schema == CUSTOM_BUCKETS_SCHEMA {
            out.varbit_uint(self.bounds.len() as u64);
            for bound in &self.bounds {
                let whole = bound * 1000.0;
                let exact = (0.0..=MAX_WHOLE_BOUND).contains(&whole)
                    && whole.fract() == 0.0
                    && (whole / 1000.0).to_bits() == bound.to_bits();
                if exact {
                    out.varbit_uint(whole as u64 + 1);
                } else {
                    out.bits(0, 1);
                    out.float(*bound);
                }
            }
        }
    }
}

fn read_spans(bits: &mut BitReader<'_>) -> Result<Vec<Span>, Wrong> {
    let count = bits.varbit_uint().ok_or(CUT)?;
    // Each takes two bits at least.
    if count > bits.left() as u64 {
        return Err(CUT);
    }
    let mut spans = Vec::new();
    for _ in 0..count {
        let length = bits.varbit_uint().ok_or(CUT)?;
        let offset = bits.varbit_int().ok_or(CUT)?;
        let wrong = "the chunk has a span of buckets that no histogram has";
        spans.push(Span {
            offset: i32::try_from(offset).map_err(|_| wrong)?,
            length: u32::try_from(length).map_err(|_| wrong)?,
        });
    }
    Ok(spans)
}

fn write_zero_threshold(threshold: f64, out: &mut BitWriter) {
    if threshold == 0.0 {
        return out.bits(0, 8);
    }
    // Powers of two have no fraction bits: from 2^-243 to 2^10.
    let bits = threshold.to_bits();
    let exponent = (bits >> 52) as i64 - 1023;
    if bits << 12 == 0 && (-243..=10).contains(&exponent) {
        return out.bits((exponent + 244) as u64, 8);
    }
    out.bits(255, 8);
    out.float(threshold);
}

/// A whole number, how it changed last.
#[derive(Clone, Copy, Default)]
struct Counter {
    value: i64,
    change: i64,
}

impl Counter {
    const fn of(value: i64) -> Self {
        Self { value, change: 0 }
    }

    fn read(&mut self, bits: &mut BitReader<'_>) -> Result<(), Wrong> {
        self.change = self.change.wrapping_add(bits.varbit_int().ok_or(CUT)?);
        self.value = self.value.wrapping_add(self.change);
        Ok(())
    }

    fn write(&mut self, value: i64, out: &mut BitWriter) {
        let change = value.wrapping_sub(self.value);
        out.varbit_int(change.wrapping_sub(self.change));
        (self.value, self.change) = (value, change);
    }
}

/// The counts of a sample, as far as a chunk has been read.
enum Counts {
    Whole(Series<Counter>),
    Floats(Series<XorValue>),
}

struct Series<T> {
    count: T,
    zero_count: T,
    buckets: Vec<T>,
}

/// Absolute counts of buckets that are differences to the bucket to the left.
fn absolute(buckets: &[Counter]) -> Vec<f64> {
    let mut sum = 0_i64;
    let one = |bucket: &Counter| {
        sum = sum.wrapping_add(bucket.value);
        sum as f64
    };
    buckets.iter().map(one).collect()
}

impl Counts {
    fn first(is_integer: bool, buckets: usize, bits: &mut BitReader<'_>) -> Result<(Self, XorValue), Wrong> {
        let float = |bits: &mut BitReader<'_>| bits.float().map(XorValue::of).ok_or(CUT);
        if is_integer {
            let count = Counter::of(bits.varbit_uint().ok_or(CUT)? as i64);
            let zero_count = Counter::of(bits.varbit_uint().ok_or(CUT)? as i64);
            let sum = float(bits)?;
            let bucket = |_| bits.varbit_int().map(Counter::of).ok_or(CUT);
            let counts = Series {
                count,
                zero_count,
                buckets: (0..buckets).map(bucket).collect::<Result<_, _>>()?,
            };
            return Ok((Self::Whole(counts), sum));
        }
        let (count, zero_count, sum) = (float(bits)?, float(bits)?, float(bits)?);
        let counts = Series {
            count,
            zero_count,
            buckets: (0..buckets).map(|_| float(bits)).collect::<Result<_, _>>()?,
        };
        Ok((Self::Floats(counts), sum))
    }

    /// Reads what changed; a stale marker has no buckets.
    fn next(&mut self, sum: &mut XorValue, bits: &mut BitReader<'_>) -> Result<(), Wrong> {
        match self {
            Self::Whole(counts) => {
                counts.count.read(bits)?;
                counts.zero_count.read(bits)?;
                sum.read(bits)?;
                if !is_stale_nan(sum.value) {
                    counts.buckets.iter_mut().try_for_each(|bucket| bucket.read(bits))?;
                }
            }
            Self::Floats(counts) => {
                counts.count.read(bits)?;
                counts.zero_count.read(bits)?;
                sum.read(bits)?;
                if !is_stale_nan(sum.value) {
                    counts.buckets.iter_mut().try_for_each(|bucket| bucket.read(bits))?;
                }
            }
        }
        Ok(())
    }

    /// Writes them into a histogram, the first `positive` buckets as those above zero.
    fn give(&self, positive: usize, histogram: &mut FloatHistogram) {
        match self {
            Self::Whole(counts) => {
                histogram.count = counts.count.value as u64 as f64;
                histogram.zero_count = counts.zero_count.value as u64 as f64;
                let (above, below) = counts.buckets.split_at(positive.min(counts.buckets.len()));
                histogram.positive_buckets = absolute(above);
                histogram.negative_buckets = absolute(below);
            }
            Self::Floats(counts) => {
                histogram.count = counts.count.value;
                histogram.zero_count = counts.zero_count.value;
                let (above, below) = counts.buckets.split_at(positive.min(counts.buckets.len()));
                histogram.positive_buckets = above.iter().map(|bucket| bucket.value).collect();
                histogram.negative_buckets = below.iter().map(|bucket| bucket.value).collect();
            }
        }
    }
}

/// Decodes a chunk of histograms of encoding 2 (`is_integer`) or 3.
pub(super) fn decode(data: &[u8], is_integer: bool) -> Result<Vec<HistogramSample>, Wrong> {
    let (count, rest) = split_count(data)?;
    let (&flags, rest) = rest.split_first().ok_or("the chunk has no header")?;
    if count == 0 {
        return Ok(Vec::new());
    }
    let mut bits = BitReader::new(rest);
    let layout = Layout::read(&mut bits)?;
    let positive = bucket_total(&layout.positive);
    let buckets = positive.saturating_add(bucket_total(&layout.negative));
    // Each bucket takes a bit at least in the first sample.
    if buckets > bits.left() as u64 {
        return Err("the chunk ends before the buckets that its spans name");
    }
    if buckets as usize > MAX_BUCKETS / usize::from(count) {
        return Err("the chunk has more than 4194304 buckets");
    }
    let mut time = Counter::of(bits.varbit_int().ok_or(CUT)?);
    let (mut counts, mut sum) = Counts::first(is_integer, buckets as usize, &mut bits)?;
    let mut out: Vec<HistogramSample> = Vec::new();
    for i in 0..count {
        if i > 0 {
            time.read(&mut bits)?;
            counts.next(&mut sum, &mut bits)?;
        }
        if out.last().is_some_and(|last| last.timestamp_ms >= time.value) {
            return Err(DISORDER);
        }
        let mut histogram = FloatHistogram {
            sum: sum.value,
            ..FloatHistogram::default()
        };
        if !histogram.is_stale() {
            histogram.reset_hint = hint(flags >> 6, i);
            layout.give(&mut histogram);
            counts.give(positive as usize, &mut histogram);
        }
        out.push(HistogramSample {
            timestamp_ms: time.value,
            is_integer,
            histogram,
        });
    }
    Ok(out)
}

fn hint(flags: u8, i: u16) -> ResetHint {
    match flags {
        FLAG_GAUGE => ResetHint::Gauge,
        // A chunk ends where a counter is reset.
        _ if i > 0 => ResetHint::NotReset,
        FLAG_RESET => ResetHint::Reset,
        // The chunk before may not be there any more.
        _ => ResetHint::Unknown,
    }
}

/// How many samples (one at least, `most` at most) the first chunk of `samples` takes: those of one kind and layout,
/// up to a reset.
pub(super) fn run_len(samples: &[HistogramSample], most: usize) -> usize {
    let Some(first) = samples.first() else { return 0 };
    let layout = Layout::of(&first.histogram);
    let is_gauge = first.histogram.reset_hint == ResetHint::Gauge;
    let goes_on = |pair: &&[HistogramSample]| {
        let (before, next) = (&pair[0].histogram, &pair[1].histogram);
        if pair[1].is_integer != first.is_integer {
            return false;
        }
        // After a stale marker only others follow in a chunk.
        if next.is_stale() || before.is_stale() {
            return next.is_stale();
        }
        let is_of_kind = (next.reset_hint == ResetHint::Gauge) == is_gauge && layout.is_of(next);
        is_of_kind && (is_gauge || !next.is_reset_after(before))
    };
    1 + samples
        .windows(2)
        .take(most.saturating_sub(1))
        .take_while(goes_on)
        .count()
}

/// A chunk of samples that [`run_len`] found to fit together; `before` is the one before them.
///
/// # Errors
/// When a histogram has other buckets than its spans say.
pub(super) fn encode(samples: &[HistogramSample], before: Option<&HistogramSample>) -> Result<Vec<u8>, Wrong> {
    let Some(first) = samples.first() else {
        return Err("a chunk has one sample at least");
    };
    let count = u16::try_from(samples.len()).map_err(|_| "a chunk has 65535 samples at most")?;
    let mut header = count.to_be_bytes().to_vec();
    header.push(flags(&first.histogram, before) << 6);
    let mut out = BitWriter::after(header);
    Layout::of(&first.histogram).write(&mut out);
    let buckets = first.histogram.positive_buckets.len() + first.histogram.negative_buckets.len();
    let mut writer = SampleWriter {
        is_integer: first.is_integer,
        time: Counter::default(),
        whole: vec![Counter::default(); buckets + 2],
        floats: vec![XorValue::default(); buckets + 2],
        sum: XorValue::default(),
    };
    for (i, sample) in samples.iter().enumerate() {
        let h = &sample.histogram;
        let matches = |spans: &[Span], buckets: &[f64]| bucket_total(spans) == buckets.len() as u64;
        if !matches(&h.positive_spans, &h.positive_buckets) || !matches(&h.negative_spans, &h.negative_buckets) {
            return Err("the histogram has other buckets than its spans say");
        }
        writer.write(i == 0, sample, &mut out);
    }
    Ok(out.finish())
}

fn flags(first: &FloatHistogram, before: Option<&HistogramSample>) -> u8 {
    let before = before.map(|before| &before.histogram);
    match (first.reset_hint, before) {
        (ResetHint::Gauge, _) => FLAG_GAUGE,
        (ResetHint::Reset, _) => FLAG_RESET,
        (_, Some(before)) if !first.is_stale() && !before.is_stale() && before.reset_hint != ResetHint::Gauge => {
            if first.is_reset_after(before) {
                FLAG_RESET
            } else {
                FLAG_NOT_RESET
            }
        }
        _ => 0,
    }
}

/// What is written of a sample depends on the one before.
struct SampleWriter {
    is_integer: bool,
    time: Counter,
    /// Count, zero count, then the buckets.
    whole: Vec<Counter>,
    floats: Vec<XorValue>,
    sum: XorValue,
}

impl SampleWriter {
    fn write(&mut self, is_first: bool, sample: &HistogramSample, out: &mut BitWriter) {
        let h = &sample.histogram;
        if is_first {
            self.time = Counter::of(sample.timestamp_ms);
            out.varbit_int(sample.timestamp_ms);
        } else {
            self.time.write(sample.timestamp_ms, out);
        }
        if self.is_integer {
            self.write_whole(is_first, h, out);
        } else {
            self.write_floats(is_first, h, out);
        }
    }

    fn write_sum(&mut self, is_first: bool, sum: f64, out: &mut BitWriter) {
        if is_first {
            self.sum = XorValue::of(sum);
            out.float(sum);
        } else {
            self.sum.write(sum, out);
        }
    }

    fn write_whole(&mut self, is_first: bool, h: &FloatHistogram, out: &mut BitWriter) {
        let counts = [h.count, h.zero_count].map(|count| count as i64);
        for (counter, count) in self.whole.iter_mut().zip(counts) {
            if is_first {
                *counter = Counter::of(count);
                out.varbit_uint(count as u64);
            } else if h.is_stale() {
                // As if it went on; nobody looks at it.
                out.bits(0, 1);
            } else {
                counter.write(count, out);
            }
        }
        self.write_sum(is_first, h.sum, out);
        if h.is_stale() {
            return;
        }
        let mut counters = self.whole.iter_mut().skip(2);
        for side in [&h.positive_buckets, &h.negative_buckets] {
            let mut left = 0;
            for (bucket, counter) in side.iter().zip(&mut counters) {
                let count = *bucket as i64;
                let difference = count - left;
                left = count;
                if is_first {
                    *counter = Counter::of(difference);
                    out.varbit_int(difference);
                } else {
                    counter.write(difference, out);
                }
            }
        }
    }

    fn write_floats(&mut self, is_first: bool, h: &FloatHistogram, out: &mut BitWriter) {
        let mut values = self.floats.iter_mut();
        let mut write = |value: f64, out: &mut BitWriter| {
            let Some(known) = values.next() else { return };
            if is_first {
                *known = XorValue::of(value);
                out.float(value);
            } else {
                known.write(value, out);
            }
        };
        write(h.count, out);
        write(h.zero_count, out);
        if is_first {
            self.sum = XorValue::of(h.sum);
            out.float(h.sum);
        } else {
            self.sum.write(h.sum, out);
        }
        if !h.is_stale() {
            for bucket in h.positive_buckets.iter().chain(&h.negative_buckets) {
                write(*bucket, out);
            }
        }
    }
}
