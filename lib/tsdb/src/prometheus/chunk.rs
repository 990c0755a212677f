//! A chunk's encoding, and its samples.

use super::xor::{Floats, Wrong};
use super::{histogram, xor, xor2};
use crate::page::{HistogramSample, PageSamples};

const XOR: u8 = 1;
const HISTOGRAM: u8 = 2;
const FLOAT_HISTOGRAM: u8 = 3;
const XOR2: u8 = 4;

/// A chunk with its encoding, as the writer takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) encoding: u8,
    pub(super) data: Vec<u8>,
    /// First and last sample, inclusive.
    pub(super) min_ms: i64,
    pub(super) max_ms: i64,
    pub(super) samples: u64,
}

/// Whether [`decode_chunk`] knows chunks of it.
pub(super) const fn is_known(encoding: u8) -> bool {
    matches!(encoding, XOR | HISTOGRAM | FLOAT_HISTOGRAM | XOR2)
}

/// Samples of a chunk, ascending by time. Allocates in proportion to the length of `data`, 32 MiB for buckets at most.
///
/// # Errors
/// What is wrong with the bytes, or that the encoding is none of 1 to 4.
pub fn decode_chunk(encoding: u8, data: &[u8]) -> Result<PageSamples, &'static str> {
    let floats = |floats: Floats| PageSamples::Floats {
        timestamps: floats.timestamps,
        values: floats.values,
    };
    match encoding {
        XOR => xor::decode(data).map(floats),
        XOR2 => xor2::decode(data).map(floats),
        HISTOGRAM => histogram::decode(data, true).map(PageSamples::Histograms),
        FLOAT_HISTOGRAM => histogram::decode(data, false).map(PageSamples::Histograms),
        _ => Err("its encoding is unknown: 1 (XOR), 2 (histogram), 3 (float histogram) and 4 (XOR2) are known"),
    }
}

/// Chunks of `samples` samples each of floats, ascending by time.
pub(super) fn encode_floats(timestamps: &[i64], values: &[f64], samples: usize) -> Vec<Chunk> {
    let runs = timestamps.chunks(samples).zip(values.chunks(samples));
    let chunk = |(times, values): (&[i64], &[f64])| {
        let pairs = times.iter().copied().zip(values.iter().copied());
        Some(Chunk {
            encoding: XOR,
            data: xor::encode(pairs),
            min_ms: *times.first()?,
            max_ms: *times.last()?,
            samples: times.len() as u64,
        })
    };
    runs.filter_map(chunk).collect()
}

/// Chunks of at most `samples` samples each of histograms, ascending by time; `before` is the sample before them.
///
/// # Errors
/// When a histogram has other buckets than its spans say.
pub(super) fn encode_histograms(
    all: &[HistogramSample],
    before: Option<&HistogramSample>,
    samples: usize,
) -> Result<Vec<Chunk>, Wrong> {
    let (mut out, mut rest, mut before) = (Vec::new(), all, before);
    while let Some(first) = rest.first() {
        let (run, next) = rest.split_at(histogram::run_len(rest, samples));
        out.push(Chunk {
            encoding: if first.is_integer { HISTOGRAM } else { FLOAT_HISTOGRAM },
            data: histogram::encode(run, before)?,
            min_ms: first.timestamp_ms,
            max_ms: run.last().unwrap_or(first).timestamp_ms,
            samples: run.len() as u64,
        });
        before = run.last();
        rest = next;
    }
    Ok(out)
}
