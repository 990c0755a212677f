//! A chunk of samples.

use super::{Counter, FLAG_GAUGE, FLAG_NOT_RESET, FLAG_RESET, Layout, bucket_total};
use crate::page::HistogramSample;
use crate::prometheus::bits::BitWriter;
use crate::prometheus::xor::{Wrong, XorValue};
use gnomon_model::histogram::{FloatHistogram, ResetHint, Span};

/// How many samples (one at least, `most` at most) the first chunk of `samples` takes: those of one kind and layout,
/// up to a reset.
pub(in crate::prometheus) fn run_len(samples: &[HistogramSample], most: usize) -> usize {
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
pub(in crate::prometheus) fn encode(
    samples: &[HistogramSample],
    before: Option<&HistogramSample>,
) -> Result<Vec<u8>, Wrong> {
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
