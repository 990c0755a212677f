//! Reads Prometheus' chunks (`tsdb/docs/format/chunks.md`) and streams of them, as a remote reader does.

use gnomon_proto::prometheus::{Chunk, ChunkedReadResponse, chunk::Encoding};
use prost::Message;
use std::collections::BTreeMap;

/// A histogram by its buckets, however they are laid out: empty ones are left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Histogram {
    pub is_integer: bool,
    pub schema: i64,
    pub zero_threshold: f64,
    pub zero_count: f64,
    pub count: f64,
    /// Bits, so that stale markers are equal.
    pub sum: u64,
    /// By side (false is the negative one) and index.
    pub buckets: BTreeMap<(bool, i64), u64>,
    pub bounds: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Bits.
    Float(u64),
    Histogram(Box<Histogram>),
}

/// Messages of a stream: `uvarint(length) crc32c(big endian) bytes`, each.
pub fn frames(mut stream: &[u8]) -> Vec<ChunkedReadResponse> {
    let mut messages = Vec::new();
    while !stream.is_empty() {
        let (length, rest) = gnomon_model::labels::get_uvarint(stream).expect("a length");
        let (sum, rest) = rest.split_at(4);
        let (bytes, rest) = rest.split_at(length as usize);
        assert_eq!(
            u32::from_be_bytes(sum.try_into().expect("4 bytes")),
            crc32c::crc32c(bytes)
        );
        messages.push(ChunkedReadResponse::decode(bytes).expect("a message"));
        stream = rest;
    }
    messages
}

/// Buckets of spans `(offset, length)` by index; 0 is left out.
pub fn buckets(spans: &[(i64, u64)], counts: &[f64]) -> Vec<(i64, u64)> {
    let mut found = Vec::new();
    let (mut index, mut counts) = (0, counts.iter());
    for (offset, length) in spans {
        index += offset;
        for _ in 0..*length {
            let count = counts.next().copied().unwrap_or(0.0);
            if count != 0.0 {
                found.push((index, count.to_bits()));
            }
            index += 1;
        }
    }
    found
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

#[derive(Clone, Copy, Default)]
struct Xor {
    bits: u64,
    leading: u64,
    trailing: u64,
}

impl Bits<'_> {
    fn take(&mut self, count: u64) -> u64 {
        let mut value = 0;
        for _ in 0..count {
            let bit = self.bytes[self.at / 8] >> (7 - self.at % 8) & 1;
            value = value << 1 | u64::from(bit);
            self.at += 1;
        }
        value
    }

    fn float(&mut self) -> f64 {
        f64::from_bits(self.take(64))
    }

    fn uvarint(&mut self) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.take(8);
            value |= (byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }

    fn varint(&mut self) -> i64 {
        let raw = self.uvarint();
        (raw >> 1) as i64 ^ -((raw & 1) as i64)
    }

    /// Ones up to a zero, at most `most`; then the width that they stand for.
    fn in_width(&mut self, widths: &[u64]) -> (u64, u64) {
        let mut ones = 0;
        while ones <= widths.len() && self.take(1) == 1 {
            ones += 1;
        }
        match ones {
            0 => (0, 0),
            ones if ones > widths.len() => (self.take(64), 64),
            ones => (self.take(widths[ones - 1]), widths[ones - 1]),
        }
    }

    fn signed(&mut self, widths: &[u64]) -> i64 {
        let (raw, width) = self.in_width(widths);
        if width > 0 && width < 64 && raw > 1 << (width - 1) {
            raw as i64 - (1 << width)
        } else {
            raw as i64
        }
    }

    fn varbit(&mut self) -> i64 {
        self.signed(&[3, 6, 9, 12, 18, 25, 56])
    }

    fn varbit_unsigned(&mut self) -> u64 {
        self.in_width(&[3, 6, 9, 12, 18, 25, 56]).0
    }

    fn xor(&mut self, state: &mut Xor) -> f64 {
        if self.take(1) == 1 {
            if self.take(1) == 1 {
                state.leading = self.take(5);
                let width = self.take(6);
                let width = if width == 0 { 64 } else { width };
                state.trailing = 64 - state.leading - width;
            }
            state.bits ^= self.take(64 - state.leading - state.trailing) << state.trailing;
        }
        f64::from_bits(state.bits)
    }
}

/// The samples of a chunk, by time.
pub fn decode(chunk: &Chunk) -> Vec<(i64, Value)> {
    let count = usize::from(u16::from_be_bytes([chunk.data[0], chunk.data[1]]));
    match chunk.r#type() {
        Encoding::Xor => floats(&chunk.data[2..], count),
        Encoding::Histogram => histograms(&chunk.data[3..], count, true),
        Encoding::FloatHistogram => histograms(&chunk.data[3..], count, false),
        Encoding::Unknown => panic!("a chunk of no known encoding"),
    }
}

fn floats(bytes: &[u8], count: usize) -> Vec<(i64, Value)> {
    let mut bits = Bits { bytes, at: 0 };
    let mut found = Vec::new();
    let (mut time, mut step, mut value) = (0, 0, Xor::default());
    for i in 0..count {
        match i {
            0 => {
                time = bits.varint();
                value.bits = bits.take(64);
            }
            1 => step = bits.uvarint() as i64,
            _ => step += bits.signed(&[14, 17, 20]),
        }
        if i > 0 {
            time += step;
            bits.xor(&mut value);
        }
        found.push((time, Value::Float(value.bits)));
    }
    found
}

/// What a chunk says of all its histograms.
struct Layout {
    schema: i64,
    zero_threshold: f64,
    positive: Vec<(i64, u64)>,
    negative: Vec<(i64, u64)>,
    bounds: Vec<u64>,
}

fn layout(bits: &mut Bits<'_>) -> Layout {
    let zero_threshold = match bits.take(8) {
        0 => 0.0,
        255 => bits.float(),
        exponent => 0.5 * 2f64.powi(exponent as i32 - 243),
    };
    let schema = bits.varbit();
    let mut spans = || -> Vec<(i64, u64)> {
        let count = bits.varbit_unsigned();
        let span = |_| {
            let length = bits.varbit_unsigned();
            (bits.varbit(), length)
        };
        (0..count).map(span).collect()
    };
    let (positive, negative) = (spans(), spans());
    let mut bounds = Vec::new();
    if schema == -53 {
        for _ in 0..bits.varbit_unsigned() {
            let bound = match bits.varbit_unsigned() {
                0 => bits.float(),
                thousandths => (thousandths - 1) as f64 / 1000.0,
            };
            bounds.push(bound.to_bits());
        }
    }
    Layout {
        schema,
        zero_threshold,
        positive,
        negative,
        bounds,
    }
}

fn histograms(bytes: &[u8], count: usize, is_integer: bool) -> Vec<(i64, Value)> {
    let mut bits = Bits { bytes, at: 0 };
    if count == 0 {
        return Vec::new();
    }
    let layout = layout(&mut bits);
    let length = |spans: &[(i64, u64)]| spans.iter().map(|(_, length)| *length as usize).sum::<usize>();
    let (positive, negative) = (length(&layout.positive), length(&layout.negative));
    // Count, zero count, then the buckets; the sum stands after the first two.
    let numbers = 2 + positive + negative;
    let (mut time, mut step, mut sum) = (0i64, 0i64, Xor::default());
    let mut integers = vec![(0i64, 0i64); numbers];
    let mut exact = vec![Xor::default(); numbers];
    let mut found = Vec::new();
    for i in 0..count {
        if i == 0 {
            time = bits.varbit();
        } else {
            step += bits.varbit();
            time += step;
        }
        let mut is_stale = false;
        for at in 0..numbers {
            if at == 2 {
                is_stale = read_sum(&mut bits, &mut sum, i == 0);
                if is_stale {
                    break;
                }
            }
            match (is_integer, i) {
                (true, 0) if at < 2 => integers[at].0 = bits.varbit_unsigned() as i64,
                (true, 0) => integers[at].0 = bits.varbit(),
                (true, _) => {
                    integers[at].1 += bits.varbit();
                    integers[at].0 += integers[at].1;
                }
                (false, 0) => exact[at].bits = bits.take(64),
                (false, _) => {
                    bits.xor(&mut exact[at]);
                }
            }
        }
        if numbers == 2 {
            is_stale = read_sum(&mut bits, &mut sum, i == 0);
        }
        let numbers: Vec<f64> = if is_integer {
            absolute(&integers, positive)
        } else {
            exact.iter().map(|x| f64::from_bits(x.bits)).collect()
        };
        let histogram = built(&layout, &numbers, positive, is_integer, sum.bits, is_stale);
        found.push((time, Value::Histogram(Box::new(histogram))));
    }
    found
}

fn read_sum(bits: &mut Bits<'_>, sum: &mut Xor, first: bool) -> bool {
    if first {
        sum.bits = bits.take(64);
    } else {
        bits.xor(sum);
    }
    gnomon_model::is_stale_nan(f64::from_bits(sum.bits))
}

/// Counts of integer histograms are differences to the bucket before, on each side.
fn absolute(integers: &[(i64, i64)], positive: usize) -> Vec<f64> {
    let mut last = 0;
    let each = integers.iter().enumerate().map(|(at, (value, _))| {
        if at < 2 {
            return *value as f64;
        }
        if at == 2 || at == 2 + positive {
            last = 0;
        }
        last += value;
        last as f64
    });
    each.collect()
}

fn built(layout: &Layout, numbers: &[f64], positive: usize, is_integer: bool, sum: u64, is_stale: bool) -> Histogram {
    if is_stale {
        return stale(is_integer);
    }
    let (up, down) = numbers[2..].split_at(positive);
    let of = |side, spans: &[(i64, u64)], counts: &[f64]| {
        let found = buckets(spans, counts).into_iter();
        found.map(|(index, count)| ((side, index), count)).collect::<Vec<_>>()
    };
    let all = of(true, &layout.positive, up)
        .into_iter()
        .chain(of(false, &layout.negative, down));
    Histogram {
        is_integer,
        schema: layout.schema,
        zero_threshold: layout.zero_threshold,
        zero_count: numbers[1],
        count: numbers[0],
        sum,
        buckets: all.collect(),
        bounds: layout.bounds.clone(),
    }
}

/// Of a stale marker only the sum counts.
pub fn stale(is_integer: bool) -> Histogram {
    Histogram {
        is_integer,
        schema: 0,
        zero_threshold: 0.0,
        zero_count: 0.0,
        count: 0.0,
        sum: gnomon_model::STALE_NAN.to_bits(),
        buckets: BTreeMap::new(),
        bounds: Vec::new(),
    }
}
