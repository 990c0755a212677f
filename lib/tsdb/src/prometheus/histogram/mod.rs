//! Encodings 2 and 3: native histograms with whole counts and with floats.
//!
//! ```text
//! chunk   = samples: u16   flags: u8   zero threshold   schema: int   spans (positive)   spans (negative)   [bounds]
//!           sample*                                                     as bits from the zero threshold on
//! flags   = 00 unknown | 01 not a reset | 10 a reset before the first sample | 11 gauges      (the two high bits)
//! zero threshold = 0: u8 | exponent + 244: u8 (a power of two) | 255: u8 f64
//! spans   = n: uint  n * { length: uint  offset: int }
//! bounds  = n: uint  n * { 1000 * bound + 1: uint | 0: 1 bit  f64 }     only with schema -53
//! sample  = first: time: int  count: uint  zero count: uint  sum: f64  buckets: int*          encoding 2
//!         | first: time: int  count: f64   zero count: f64   sum: f64  buckets: f64*          encoding 3
//!         | time  count  zero count: int (changes of changes)  sum: XOR value  buckets: int*  encoding 2
//!         | time: int  count  zero count  sum  buckets: XOR value*                            encoding 3
//! ```
//! `int` and `uint` are `varbit` numbers. Buckets of encoding 2 are differences to the bucket to the left, those of
//! encoding 3 are absolute. A sample with the stale marker as its sum has no buckets.

mod read;
mod write;

pub(super) use read::decode;
pub(super) use write::{encode, run_len};

use super::bits::{BitReader, BitWriter};
use super::xor::{CUT, Wrong};
use gnomon_model::histogram::{CUSTOM_BUCKETS_SCHEMA, FloatHistogram, Span};

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
                // Of 0.07 the product is no whole number, and the quotient is 0.07 nevertheless.
                let whole = (bound * 1000.0).round();
                let exact = (0.0..=MAX_WHOLE_BOUND).contains(&whole) && (whole / 1000.0).to_bits() == bound.to_bits();
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
