//! Samples as Prometheus' chunks: at most 120 samples of one kind each.

use super::bits::{Bits, Xor};
use gnomon_model::histogram::{FloatHistogram, ResetHint, Span};
use gnomon_promql::Samples;
use gnomon_proto::prometheus::{Chunk, chunk::Encoding};

const MOST_SAMPLES: u16 = 120;

/// The first two bits of a histogram chunk's flags.
const RESET: u8 = 0b1000_0000;
const NOT_RESET: u8 = 0b0100_0000;
const GAUGE: u8 = 0b1100_0000;

/// Bounds of custom buckets up to this, in thousandths, are written as whole numbers.
const MOST_THOUSANDTHS: f64 = 33_554_430.0;

/// The chunks of a series; `is_integer` says of the histogram at a time whether its counts were whole numbers when it
/// was taken.
pub(super) fn chunks(samples: &Samples, is_integer: impl Fn(i64) -> bool) -> Vec<Chunk> {
    let mut done = Vec::new();
    let mut current: Option<Building> = None;
    let mut before: Option<&FloatHistogram> = None;
    for (at, time) in samples.timestamps.iter().copied().enumerate() {
        let sample = match samples.histogram(at) {
            None => Sample::Float(samples.values[at]),
            Some(histogram) => Sample::Histogram(histogram, is_integer(time)),
        };
        let fits = current.as_ref().is_some_and(|chunk| chunk.takes(&sample, before));
        if !fits {
            done.extend(current.take().map(Building::done));
        }
        let chunk = current.get_or_insert_with(|| Building::begin(&sample, before));
        chunk.add(time, &sample);
        before = match sample {
            Sample::Histogram(histogram, _) if !histogram.is_stale() => Some(histogram),
            _ => None,
        };
    }
    done.extend(current.map(Building::done));
    done
}

#[derive(Clone, Copy)]
enum Sample<'a> {
    Float(f64),
    Histogram(&'a FloatHistogram, bool),
}

/// Which buckets the samples of a chunk have. Of stale markers there are none.
#[derive(Clone, Debug, Default, PartialEq)]
struct Layout {
    stale: bool,
    gauge: bool,
    integer: bool,
    schema: i32,
    zero_threshold: f64,
    positive: Vec<Span>,
    negative: Vec<Span>,
    bounds: Vec<f64>,
}

impl Layout {
    fn of(histogram: &FloatHistogram, integer: bool) -> Self {
        if histogram.is_stale() {
            return Self {
                stale: true,
                integer,
                ..Self::default()
            };
        }
        Self {
            stale: false,
            gauge: histogram.reset_hint == ResetHint::Gauge,
            integer,
            schema: histogram.schema,
            zero_threshold: histogram.zero_threshold,
            positive: histogram.positive_spans.clone(),
            negative: histogram.negative_spans.clone(),
            bounds: histogram.custom_values.clone(),
        }
    }

    fn write(&self, bits: &mut Bits) {
        put_zero_threshold(bits, self.zero_threshold);
        bits.put_varbit(i64::from(self.schema));
        for spans in [&self.positive, &self.negative] {
            bits.put_varbit_unsigned(spans.len() as u64);
            for span in spans {
                bits.put_varbit_unsigned(u64::from(span.length));
                bits.put_varbit(i64::from(span.offset));
            }
        }
        if self.schema == gnomon_model::histogram::CUSTOM_BUCKETS_SCHEMA {
            bits.put_varbit_unsigned(self.bounds.len() as u64);
            for bound in &self.bounds {
                put_bound(bits, *bound);
            }
        }
    }
}

/// A byte for 0 and for powers of two that are near; else 255 and the number.
fn put_zero_threshold(bits: &mut Bits, threshold: f64) {
    let raw = threshold.to_bits();
    let (exponent, fraction) = ((raw >> 52) as i64, raw & ((1 << 52) - 1));
    // The exponent of a mantissa between a half and one.
    let exponent = exponent - 1022;
    if threshold == 0.0 {
        bits.put(0, 8);
    } else if fraction == 0 && (-242..=11).contains(&exponent) {
        bits.put((exponent + 243) as u64, 8);
    } else {
        bits.put(255, 8);
        bits.put(raw, 64);
    }
}

fn put_bound(bits: &mut Bits, bound: f64) {
    let thousandths = (bound * 1000.0).round();
    let whole = (0.0..=MOST_THOUSANDTHS).contains(&(bound * 1000.0)) && thousandths / 1000.0 == bound;
    if whole {
        bits.put_varbit_unsigned(thousandths as u64 + 1);
    } else {
        bits.put(0, 1);
        bits.put_float(bound);
    }
}

/// A whole number that is written as how its growth changes.
#[derive(Clone, Copy, Default)]
struct Growing {
    value: i64,
    growth: i64,
}

impl Growing {
    /// How the growth to `value` differs from the growth before.
    fn to(&mut self, value: i64) -> i64 {
        let growth = value.wrapping_sub(self.value);
        let change = growth.wrapping_sub(self.growth);
        *self = Self { value, growth };
        change
    }

    const fn new(value: i64) -> Self {
        Self { value, growth: 0 }
    }
}

/// Count, zero count, and each bucket of a histogram chunk.
enum Counts {
    Integers(Vec<Growing>),
    Floats(Vec<Xor>),
}

enum Kind {
    Floats { value: Xor },
    Histograms { layout: Layout, sum: Xor, counts: Counts },
}

struct Building {
    bits: Bits,
    count: u16,
    min_ms: i64,
    time: Growing,
    kind: Kind,
}

impl Building {
    /// `before` is the sample that precedes the chunk's first one.
    fn begin(sample: &Sample<'_>, before: Option<&FloatHistogram>) -> Self {
        let (header, kind) = match sample {
            Sample::Float(_) => (vec![0, 0], Kind::Floats { value: Xor::new(0.0) }),
            Sample::Histogram(histogram, integer) => {
                let layout = Layout::of(histogram, *integer);
                let counts = if *integer {
                    Counts::Integers(Vec::new())
                } else {
                    Counts::Floats(Vec::new())
                };
                let kind = Kind::Histograms {
                    layout,
                    sum: Xor::new(0.0),
                    counts,
                };
                (vec![0, 0, reset_flags(histogram, before)], kind)
            }
        };
        Self {
            bits: Bits::after(header),
            count: 0,
            min_ms: 0,
            time: Growing::default(),
            kind,
        }
    }

    /// Whether the sample can be added. A counter that was reset begins a chunk: readers take it for granted that the
    /// samples within one grow.
    fn takes(&self, sample: &Sample<'_>, before: Option<&FloatHistogram>) -> bool {
        let same_kind = match (&self.kind, sample) {
            (Kind::Floats { .. }, Sample::Float(_)) => true,
            (Kind::Histograms { layout, .. }, Sample::Histogram(histogram, integer)) => {
                *layout == Layout::of(histogram, *integer)
                    && (layout.stale || layout.gauge || !was_reset(histogram, before))
            }
            _ => false,
        };
        same_kind && self.count < MOST_SAMPLES
    }

    fn add(&mut self, time: i64, sample: &Sample<'_>) {
        let first = self.count == 0;
        self.count += 1;
        if first {
            self.min_ms = time;
        }
        match (&mut self.kind, sample) {
            (Kind::Floats { value }, Sample::Float(float)) => {
                match self.count {
                    1 => {
                        self.bits.put_varint(time);
                        self.bits.put_float(*float);
                        (self.time, *value) = (Growing::new(time), Xor::new(*float));
                        return;
                    }
                    2 => {
                        let growth = self.time.to(time);
                        self.bits.put_uvarint(growth as u64);
                    }
                    _ => {
                        let change = self.time.to(time);
                        self.bits.put_time(change);
                    }
                }
                self.bits.put_xor(value, *float);
            }
            (Kind::Histograms { layout, sum, counts }, Sample::Histogram(histogram, _)) => {
                if first {
                    layout.write(&mut self.bits);
                    self.bits.put_varbit(time);
                    self.time = Growing::new(time);
                } else {
                    let change = self.time.to(time);
                    self.bits.put_varbit(change);
                }
                put_counts(&mut self.bits, counts, sum, histogram, first);
            }
            _ => {}
        }
    }

    fn done(mut self) -> Chunk {
        let count = self.count.to_be_bytes();
        self.bits.bytes_mut()[..2].copy_from_slice(&count);
        let encoding = match &self.kind {
            Kind::Floats { .. } => Encoding::Xor,
            Kind::Histograms { layout, .. } if layout.integer => Encoding::Histogram,
            Kind::Histograms { .. } => Encoding::FloatHistogram,
        };
        Chunk {
            min_time_ms: self.min_ms,
            max_time_ms: self.time.value,
            r#type: encoding as i32,
            data: self.bits.into_bytes(),
        }
    }
}

fn was_reset(histogram: &FloatHistogram, before: Option<&FloatHistogram>) -> bool {
    match histogram.reset_hint {
        ResetHint::Reset => true,
        ResetHint::NotReset | ResetHint::Gauge => false,
        ResetHint::Unknown => before.is_some_and(|before| histogram.is_reset_after(before)),
    }
}

fn reset_flags(histogram: &FloatHistogram, before: Option<&FloatHistogram>) -> u8 {
    match histogram.reset_hint {
        _ if histogram.is_stale() => 0,
        ResetHint::Gauge => GAUGE,
        _ if was_reset(histogram, before) => RESET,
        _ if before.is_some() => NOT_RESET,
        _ => 0,
    }
}

/// Count, zero count, sum, buckets; a stale marker has a sum only.
fn put_counts(bits: &mut Bits, counts: &mut Counts, sum: &mut Xor, histogram: &FloatHistogram, first: bool) {
    let stale = histogram.is_stale();
    let totals = if stale {
        [0.0, 0.0]
    } else {
        [histogram.count, histogram.zero_count]
    };
    let sides: [&[f64]; 2] = if stale {
        [&[], &[]]
    } else {
        [&histogram.positive_buckets, &histogram.negative_buckets]
    };
    match counts {
        Counts::Integers(states) => {
            let mut all: Vec<i64> = totals.iter().map(|total| *total as i64).collect();
            for side in sides {
                // Each bucket as its difference to the one before on its side.
                let mut last = 0i64;
                for bucket in side {
                    let bucket = *bucket as i64;
                    all.push(bucket - last);
                    last = bucket;
                }
            }
            put_integers(bits, states, sum, &all, histogram.sum, first);
        }
        Counts::Floats(states) => {
            let all: Vec<f64> = totals.iter().chain(sides[0]).chain(sides[1]).copied().collect();
            put_floats(bits, states, sum, &all, histogram.sum, first);
        }
    }
}

/// How many numbers stand before the sum.
const TOTALS: usize = 2;

fn put_integers(bits: &mut Bits, states: &mut Vec<Growing>, sum: &mut Xor, all: &[i64], total: f64, first: bool) {
    if first {
        *states = all.iter().copied().map(Growing::new).collect();
    }
    for (at, value) in all.iter().enumerate() {
        if at == TOTALS {
            put_sum(bits, sum, total, first);
        }
        match states.get_mut(at) {
            _ if first && at < TOTALS => bits.put_varbit_unsigned(*value as u64),
            _ if first => bits.put_varbit(*value),
            Some(state) => bits.put_varbit(state.to(*value)),
            None => {}
        }
    }
    if all.len() == TOTALS {
        put_sum(bits, sum, total, first);
    }
}

fn put_floats(bits: &mut Bits, states: &mut Vec<Xor>, sum: &mut Xor, all: &[f64], total: f64, first: bool) {
    if first {
        *states = all.iter().copied().map(Xor::new).collect();
    }
    for (at, value) in all.iter().enumerate() {
        if at == TOTALS {
            put_sum(bits, sum, total, first);
        }
        match states.get_mut(at) {
            _ if first => bits.put_float(*value),
            Some(state) => bits.put_xor(state, *value),
            None => {}
        }
    }
    if all.len() == TOTALS {
        put_sum(bits, sum, total, first);
    }
}

fn put_sum(bits: &mut Bits, state: &mut Xor, sum: f64, first: bool) {
    if first {
        *state = Xor::new(sum);
        bits.put_float(sum);
    } else {
        bits.put_xor(state, sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// The bytes that Prometheus 2.42 gives for the same samples.
    #[test]
    fn floats_are_an_xor_chunk() {
        let mut samples = Samples::default();
        for (i, value) in [12.0, 12.0, 24.0, 13.5].into_iter().enumerate() {
            samples.push_float(1_000_000 + i as i64 * 15_000, value);
        }
        let chunks = chunks(&samples, |_| false);
        assert_eq!(chunks.len(), 1);
        let chunk = &chunks[0];
        assert_eq!(
            (chunk.min_time_ms, chunk.max_time_ms, chunk.r#type),
            (1_000_000, 1_045_000, Encoding::Xor as i32)
        );
        assert_eq!(chunk.data[..5], [0, 4, 0x80, 0x89, 0x7a]);
    }

    #[test]
    fn chunks_end_with_their_kind_layout_or_growth() {
        let histogram = |count: f64| FloatHistogram {
            schema: 1,
            count,
            sum: count * 2.0,
            positive_spans: vec![Span { offset: 1, length: 2 }],
            positive_buckets: vec![1.0, count - 1.0],
            ..FloatHistogram::default()
        };
        let mut samples = Samples::default();
        for i in 0..130 {
            samples.push_float(i, 1.0);
        }
        samples.push_histogram(200, Arc::new(histogram(5.0)));
        samples.push_histogram(201, Arc::new(histogram(7.0)));
        // A reset, a float histogram, a stale marker, another one.
        samples.push_histogram(202, Arc::new(histogram(2.0)));
        samples.push_histogram(203, Arc::new(histogram(3.5)));
        let stale = FloatHistogram {
            sum: gnomon_model::STALE_NAN,
            ..FloatHistogram::default()
        };
        samples.push_histogram(204, Arc::new(stale.clone()));
        samples.push_histogram(205, Arc::new(stale));
        let chunks = chunks(&samples, |time| time < 203);
        let seen: Vec<_> = chunks
            .iter()
            .map(|c| (c.min_time_ms, c.max_time_ms, c.r#type))
            .collect();
        assert_eq!(
            seen,
            [
                (0, 119, Encoding::Xor as i32),
                (120, 129, Encoding::Xor as i32),
                (200, 201, Encoding::Histogram as i32),
                (202, 202, Encoding::Histogram as i32),
                (203, 203, Encoding::FloatHistogram as i32),
                (204, 205, Encoding::FloatHistogram as i32),
            ]
        );
        let flags: Vec<_> = chunks[2..].iter().map(|c| c.data[2]).collect();
        assert_eq!(flags, [0, RESET, NOT_RESET, 0]);
    }
}
