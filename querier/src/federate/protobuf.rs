//! The protobuf format: `io.prometheus.client.MetricFamily` messages, each behind its length. A family's length stands
//! before its metrics, so these are made twice: to be measured, and to be written. None is kept.

use super::format::Escaping;
use super::{Found, Newest, Sample, attached};
use crate::json::{CHUNK_BYTES, Gone, Sink};
use gnomon_model::histogram::{FloatHistogram, ResetHint, Span};
use gnomon_model::{Labels, METRIC_NAME};
use gnomon_promql::Reserved;
use gnomon_proto::client::{Bucket, BucketSpan, Histogram, LabelPair, Metric, MetricFamily, MetricType, Untyped};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

/// The field of a family that has its metrics.
const METRIC: u32 = 4;

pub(super) fn write(
    sink: &Sink,
    found: &[(Labels, Newest)],
    external: &Labels,
    escaping: Escaping,
) -> Result<(), Gone> {
    let mut out = Vec::with_capacity(CHUNK_BYTES);
    // A name with floats and histograms is several families; readers take that.
    for family in found.chunk_by(|(a, x), (b, y)| a.metric_name() == b.metric_name() && kind(x) == kind(y)) {
        let Some((first, newest)) = family.first() else {
            continue;
        };
        let head = MetricFamily {
            name: Some(escaping.escape(first.metric_name()).into_owned()),
            r#type: Some(kind(newest).into()),
            ..MetricFamily::default()
        };
        let metrics = || {
            family
                .iter()
                .map(|(labels, newest)| metric(labels, newest, external, escaping))
        };
        let length = |metric: Metric| {
            let length = metric.encoded_len();
            key_len(METRIC) + encoded_len_varint(length as u64) + length
        };
        let length = head.encoded_len() + metrics().map(length).sum::<usize>();
        encode_varint(length as u64, &mut out);
        // Fields may come in any order and in parts: a message is what its fields are, one after the other.
        out.extend(head.encode_to_vec());
        for metric in metrics() {
            encode_key(METRIC, WireType::LengthDelimited, &mut out);
            out.extend(metric.encode_length_delimited_to_vec());
            if out.len() >= CHUNK_BYTES {
                sink.send(std::mem::replace(&mut out, Vec::with_capacity(CHUNK_BYTES)).into())?;
            }
        }
    }
    sink.send(out.into())
}

/// Writes all, and gives back what was `held` for it.
pub(super) fn write_all(
    sink: &Sink,
    found: Found,
    held: Reserved,
    external: &Labels,
    escaping: Escaping,
) -> Result<(), Gone> {
    write(sink, &found, external, escaping)?;
    drop((found, held));
    Ok(())
}

fn kind(newest: &Newest) -> MetricType {
    match &newest.sample {
        Sample::Float(_) => MetricType::Untyped,
        Sample::Histogram(histogram) if histogram.reset_hint == ResetHint::Gauge => MetricType::GaugeHistogram,
        Sample::Histogram(_) => MetricType::Histogram,
    }
}

fn metric(labels: &Labels, newest: &Newest, external: &Labels, escaping: Escaping) -> Metric {
    let own = labels.iter().filter(|(label, _)| *label != METRIC_NAME);
    let pair = |(name, value): (&str, &str)| LabelPair {
        name: Some(escaping.escape(name).into_owned()),
        value: Some(value.to_owned()),
    };
    let mut metric = Metric {
        label: own.chain(attached(labels, external)).map(pair).collect(),
        timestamp_ms: Some(newest.time_ms),
        ..Metric::default()
    };
    match &newest.sample {
        Sample::Float(value) => metric.untyped = Some(Untyped { value: Some(*value) }),
        Sample::Histogram(histogram) if histogram.uses_custom_buckets() => metric.histogram = Some(classic(histogram)),
        Sample::Histogram(histogram) => metric.histogram = Some(native(histogram)),
    }
    metric
}

fn spans(of: &[Span]) -> Vec<BucketSpan> {
    let span = |span: &Span| BucketSpan {
        offset: Some(span.offset),
        length: Some(span.length),
    };
    of.iter().map(span).collect()
}

fn native(histogram: &FloatHistogram) -> Histogram {
    let mut positive_span = spans(&histogram.positive_spans);
    let has_none = positive_span.is_empty() && histogram.negative_spans.is_empty();
    if has_none && histogram.zero_threshold == 0.0 && histogram.zero_count == 0.0 {
        // Else nothing would tell that it is a native one (the message's own convention).
        positive_span.push(BucketSpan {
            offset: Some(0),
            length: Some(0),
        });
    }
    Histogram {
        sample_count_float: Some(histogram.count),
        sample_sum: Some(histogram.sum),
        schema: Some(histogram.schema),
        zero_threshold: Some(histogram.zero_threshold),
        zero_count_float: Some(histogram.zero_count),
        negative_span: spans(&histogram.negative_spans),
        negative_count: histogram.negative_buckets.clone(),
        positive_span,
        positive_count: histogram.positive_buckets.clone(),
        ..Histogram::default()
    }
}

/// Custom buckets have no field of their own; classic buckets say the same.
fn classic(histogram: &FloatHistogram) -> Histogram {
    let mut counts = vec![0.0; histogram.custom_values.len()];
    let mut at = 0_i64;
    let mut buckets = histogram.positive_buckets.iter();
    for span in &histogram.positive_spans {
        at += i64::from(span.offset);
        for count in buckets.by_ref().take(span.length as usize) {
            // What is above the last bound is in the count only.
            if let Some(slot) = usize::try_from(at).ok().and_then(|at| counts.get_mut(at)) {
                *slot = *count;
            }
            at += 1;
        }
    }
    let mut sum = 0.0;
    let bucket = |(bound, count): (&f64, f64)| {
        sum += count;
        Bucket {
            cumulative_count_float: Some(sum),
            upper_bound: Some(*bound),
            ..Bucket::default()
        }
    };
    Histogram {
        sample_count_float: Some(histogram.count),
        sample_sum: Some(histogram.sum),
        bucket: histogram.custom_values.iter().zip(counts).map(bucket).collect(),
        ..Histogram::default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{float, gauge_histogram, histogram};
    use super::*;
    use gnomon_model::histogram::CUSTOM_BUCKETS_SCHEMA;
    use std::sync::Arc;

    async fn written(found: Found, external: Labels, escaping: Escaping) -> Vec<MetricFamily> {
        let (chunks, mut received) = tokio::sync::mpsc::channel(64);
        let sink = Sink::new(chunks, tokio::runtime::Handle::current(), &crate::writers::WRITERS);
        let writing = tokio::task::spawn_blocking(move || write(&sink, &found, &external, escaping));
        writing.await.unwrap().unwrap();
        let mut bytes = Vec::new();
        while let Some(chunk) = received.recv().await {
            bytes.extend(chunk);
        }
        let mut rest = &bytes[..];
        let mut families = Vec::new();
        while !rest.is_empty() {
            families.push(MetricFamily::decode_length_delimited(&mut rest).unwrap());
        }
        families
    }

    fn pairs(metric: &Metric) -> Vec<(&str, &str)> {
        metric.label.iter().map(|pair| (pair.name(), pair.value())).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn families_are_messages_with_histograms_and_external_labels() {
        let found = vec![
            float(&[(METRIC_NAME, "a.b"), ("x.y", "1")], 1000, f64::NAN),
            float(&[(METRIC_NAME, "m"), ("l", "1")], 1, 2.5),
            histogram(&[(METRIC_NAME, "m"), ("l", "2")], 2),
            gauge_histogram(&[(METRIC_NAME, "m"), ("l", "3")], 3),
            float(&[(METRIC_NAME, "m"), ("l", "4")], 4, 1.0),
        ];
        let external = Labels::from_pairs([("l", "own"), ("region", "eu")]);
        let families = written(found, external, Escaping::Underscores).await;
        let shown: Vec<_> = families
            .iter()
            .map(|f| (f.name(), f.r#type(), f.metric.len()))
            .collect();
        assert_eq!(
            shown,
            [
                ("a_b", MetricType::Untyped, 1),
                ("m", MetricType::Untyped, 1),
                ("m", MetricType::Histogram, 1),
                ("m", MetricType::GaugeHistogram, 1),
                ("m", MetricType::Untyped, 1),
            ]
        );
        let first = &families[0].metric[0];
        assert_eq!(
            pairs(first),
            [("x_y", "1"), ("instance", ""), ("l", "own"), ("region", "eu")]
        );
        assert_eq!(first.timestamp_ms, Some(1000));
        assert!(first.untyped.unwrap().value().is_nan());
        let native = families[2].metric[0].histogram.as_ref().unwrap();
        assert_eq!((native.sample_count_float(), native.sample_sum()), (6.0, 4.5));
        assert_eq!(
            (native.schema(), native.zero_threshold(), native.zero_count_float()),
            (2, 0.001, 1.0)
        );
        assert_eq!(native.positive_count, [2.0, 3.0]);
        assert_eq!(native.positive_span[0].offset(), -3);
        assert!(native.bucket.is_empty() && native.sample_count.is_none());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn empty_histograms_are_native_and_custom_buckets_classic() {
        let labels = Labels::from_pairs([(METRIC_NAME, "h")]);
        let of = |histogram| {
            let sample = Sample::Histogram(Arc::new(histogram));
            vec![(labels.clone(), Newest { time_ms: 1, sample })]
        };
        let empty = written(of(FloatHistogram::default()), Labels::empty(), Escaping::Nothing).await;
        let empty = empty[0].metric[0].histogram.as_ref().unwrap();
        assert_eq!((empty.positive_span.len(), empty.positive_count.len()), (1, 0));
        let custom = FloatHistogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            count: 10.0,
            sum: 20.0,
            positive_spans: vec![Span { offset: 0, length: 1 }, Span { offset: 1, length: 2 }],
            positive_buckets: vec![1.0, 4.0, 5.0],
            custom_values: vec![0.5, 1.0, 2.0],
            ..FloatHistogram::default()
        };
        let custom = written(of(custom), Labels::empty(), Escaping::Nothing).await;
        let custom = custom[0].metric[0].histogram.as_ref().unwrap();
        let buckets: Vec<_> = custom
            .bucket
            .iter()
            .map(|b| (b.upper_bound(), b.cumulative_count_float()))
            .collect();
        assert_eq!(buckets, [(0.5, 1.0), (1.0, 1.0), (2.0, 5.0)]);
        assert_eq!((custom.sample_count_float(), custom.schema), (10.0, None));
    }
}
