//! Samples as Prometheus' chunks: at most 120 samples of one kind each.

use gnomon_promql::Samples;
use gnomon_proto::prometheus::Chunk;
use gnomon_tsdb::prometheus::encode_chunks;
use gnomon_tsdb::{HistogramSample, PageSamples, Starts};

/// The chunks of a series; `is_integer` says of the histogram at a time whether its counts were whole numbers when it
/// was taken.
///
/// # Errors
/// When a histogram has other buckets than its spans say.
pub(super) fn chunks(samples: &Samples, is_integer: impl Fn(i64) -> bool) -> Result<Vec<Chunk>, &'static str> {
    // The message has no field for starts, and who reads it knows no chunks that have some.
    let runs: Vec<_> = runs(samples, is_integer)
        .into_iter()
        .map(|run| (run, Starts::default()))
        .collect();
    let chunk = |chunk: gnomon_tsdb::prometheus::Chunk| Chunk {
        min_time_ms: chunk.min_ms,
        max_time_ms: chunk.max_ms,
        // The message numbers encodings as chunks do.
        r#type: i32::from(chunk.encoding),
        data: chunk.data,
    };
    Ok(encode_chunks(&runs)?.into_iter().map(chunk).collect())
}

/// Floats and histograms apart.
fn runs(samples: &Samples, is_integer: impl Fn(i64) -> bool) -> Vec<PageSamples> {
    if samples.histograms.is_empty() {
        return vec![PageSamples::Floats {
            timestamps: samples.timestamps.clone(),
            values: samples.values.clone(),
        }];
    }
    let mut runs = Vec::new();
    for (at, timestamp_ms) in samples.timestamps.iter().copied().enumerate() {
        match (samples.histogram(at), runs.last_mut()) {
            (Some(histogram), last) => {
                let sample = HistogramSample {
                    timestamp_ms,
                    is_integer: is_integer(timestamp_ms),
                    histogram: (**histogram).clone(),
                };
                match last {
                    Some(PageSamples::Histograms(run)) => run.push(sample),
                    _ => runs.push(PageSamples::Histograms(vec![sample])),
                }
            }
            (None, Some(PageSamples::Floats { timestamps, values })) => {
                timestamps.push(timestamp_ms);
                values.push(samples.values[at]);
            }
            (None, _) => runs.push(PageSamples::Floats {
                timestamps: vec![timestamp_ms],
                values: vec![samples.values[at]],
            }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::histogram::{FloatHistogram, Span};
    use gnomon_proto::prometheus::chunk::Encoding;
    use std::sync::Arc;

    /// The first two bits of a histogram chunk's flags.
    const RESET: u8 = 0b1000_0000;
    const NOT_RESET: u8 = 0b0100_0000;

    /// The bytes that Prometheus 2.42 gives for the same samples.
    #[test]
    fn floats_are_an_xor_chunk() {
        let mut samples = Samples::default();
        for (i, value) in [12.0, 12.0, 24.0, 13.5].into_iter().enumerate() {
            samples.push_float(1_000_000 + i as i64 * 15_000, value);
        }
        let chunks = chunks(&samples, |_| false).unwrap();
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
        let chunks = chunks(&samples, |time| time < 203).unwrap();
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
                // Stale markers go on with the chunk, as in Prometheus' own.
                (203, 205, Encoding::FloatHistogram as i32),
            ]
        );
        let flags: Vec<_> = chunks[2..].iter().map(|c| c.data[2]).collect();
        assert_eq!(flags, [0, RESET, NOT_RESET]);
    }
}
