//! A chunk's encoding, and its samples.

use super::xor::{Floats, Wrong};
use super::{histogram, xor, xor2};
use crate::page::{HistogramSample, PageSamples, Starts};

const XOR: u8 = 1;
const HISTOGRAM: u8 = 2;
const FLOAT_HISTOGRAM: u8 = 3;
const XOR2: u8 = 4;

/// Samples of a chunk, as Prometheus has them by default.
const CHUNK_SAMPLES: usize = 120;

/// A chunk with its encoding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// 1 XOR, 2 histogram, 3 float histogram, 4 XOR2.
    pub encoding: u8,
    /// Without length, encoding and checksum.
    pub data: Vec<u8>,
    /// First and last sample, inclusive, milliseconds.
    pub min_ms: i64,
    pub max_ms: i64,
    pub samples: u64,
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
    decode_started(encoding, data).map(|(samples, _)| samples)
}

/// As [`decode_chunk`], with the start timestamps of the samples, which XOR2 has.
///
/// # Errors
/// As [`decode_chunk`].
pub fn decode_started(encoding: u8, data: &[u8]) -> Result<(PageSamples, Starts), &'static str> {
    let floats = |floats: Floats| {
        let samples = PageSamples::Floats {
            timestamps: floats.timestamps,
            values: floats.values,
        };
        (samples, floats.starts)
    };
    let histograms = |all| (PageSamples::Histograms(all), Starts::default());
    match encoding {
        XOR => xor::decode(data).map(floats),
        XOR2 => xor2::decode(data).map(floats),
        HISTOGRAM => histogram::decode(data, true).map(histograms),
        FLOAT_HISTOGRAM => histogram::decode(data, false).map(histograms),
        _ => Err("its encoding is unknown: 1 (XOR), 2 (histogram), 3 (float histogram) and 4 (XOR2) are known"),
    }
}

/// Chunks of consecutive samples of one series with their starts (histograms lose them); small pages of one kind go together.
///
/// # Errors
/// When a histogram has other buckets than its spans say.
pub fn encode_chunks(pages: &[(PageSamples, Starts)]) -> Result<Vec<Chunk>, &'static str> {
    let mut chunks = Vec::new();
    let (mut timestamps, mut values, mut starts) = (Vec::new(), Vec::new(), Vec::new());
    let mut histograms: Vec<HistogramSample> = Vec::new();
    for (page, its_starts) in pages {
        match page {
            PageSamples::Floats {
                timestamps: times,
                values: floats,
            } => {
                chunks.extend(encode_histograms(&histograms, None, CHUNK_SAMPLES)?);
                histograms.clear();
                timestamps.extend_from_slice(times);
                values.extend_from_slice(floats);
                if !its_starts.is_empty() || !starts.is_empty() {
                    starts.resize(timestamps.len() - times.len(), 0);
                    starts.extend(its_starts.iter(times.len() as u32));
                }
            }
            PageSamples::Histograms(all) => {
                chunks.extend(encode_floats(&timestamps, &values, &starts, CHUNK_SAMPLES));
                (timestamps, values, starts) = (Vec::new(), Vec::new(), Vec::new());
                histograms.extend_from_slice(all);
            }
        }
    }
    chunks.extend(encode_floats(&timestamps, &values, &starts, CHUNK_SAMPLES));
    chunks.extend(encode_histograms(&histograms, None, CHUNK_SAMPLES)?);
    Ok(chunks)
}

/// Chunks of `samples` samples (at most [`xor2::MOST_SAMPLES`]) each of floats, ascending by time; of `starts` there are
/// none, or one for each. Where there are some the encoding is XOR2.
pub(super) fn encode_floats(timestamps: &[i64], values: &[f64], starts: &[i64], samples: usize) -> Vec<Chunk> {
    let runs = timestamps.chunks(samples).zip(values.chunks(samples));
    let chunk = |(nth, (times, values)): (usize, (&[i64], &[f64]))| {
        let starts = starts.get(nth * samples..).unwrap_or_default();
        let starts = starts.get(..times.len()).unwrap_or_default();
        let (encoding, data) = if starts.iter().any(|start| *start != 0) {
            (XOR2, xor2::encode(times, values, starts))
        } else {
            let pairs = times.iter().copied().zip(values.iter().copied());
            (XOR, xor::encode(pairs))
        };
        Some(Chunk {
            encoding,
            data,
            min_ms: *times.first()?,
            max_ms: *times.last()?,
            samples: times.len() as u64,
        })
    };
    runs.enumerate().filter_map(chunk).collect()
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
