//! Samples of a chunk.

use super::{Counter, FLAG_GAUGE, FLAG_RESET, Layout, bucket_total};
use crate::page::HistogramSample;
use crate::prometheus::bits::BitReader;
use crate::prometheus::xor::{CUT, Wrong, XorValue, split_count};
use gnomon_model::histogram::{FloatHistogram, ResetHint};
use gnomon_model::sample::is_stale_nan;

/// Buckets of all samples of a chunk together: bounds what its decoded form takes (8 bytes each).
const MAX_BUCKETS: usize = 1 << 22;
const DISORDER: Wrong = "times of samples in the chunk do not ascend";

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
pub(in crate::prometheus) fn decode(data: &[u8], is_integer: bool) -> Result<Vec<HistogramSample>, Wrong> {
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
