use super::*;
use gnomon_model::histogram::{ResetHint, Span};
use gnomon_proto::client::{
    self, Bucket, BucketSpan, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType, Quantile, Summary,
};
use prost::Message;

fn pair(name: &str, value: &str) -> LabelPair {
    LabelPair {
        name: Some(name.to_owned()),
        value: Some(value.to_owned()),
    }
}

fn family(name: &str, kind: MetricType, metric: Metric) -> MetricFamily {
    MetricFamily {
        name: Some(name.to_owned()),
        help: Some("Help.".to_owned()),
        r#type: Some(kind as i32),
        metric: vec![metric],
        unit: None,
    }
}

fn exemplar(id: &str, seconds: Option<i64>) -> client::Exemplar {
    client::Exemplar {
        label: vec![pair("trace_id", id)],
        value: Some(0.5),
        timestamp: seconds.map(|seconds| prost_types::Timestamp {
            seconds,
            nanos: 5_000_000,
        }),
    }
}

fn read(families: &[MetricFamily], classic_too: bool) -> Result<Read, ParseError> {
    let bytes: Vec<u8> = families
        .iter()
        .flat_map(MetricFamily::encode_length_delimited_to_vec)
        .collect();
    drain(&mut ProtobufParser::new(&bytes, true, classic_too))
}

fn native() -> Histogram {
    Histogram {
        sample_count: Some(7),
        sample_sum: Some(2.5),
        schema: Some(3),
        zero_threshold: Some(1e-6),
        zero_count: Some(1),
        positive_span: vec![
            BucketSpan {
                offset: Some(-1),
                length: Some(2),
            },
            BucketSpan {
                offset: Some(2),
                length: Some(1),
            },
        ],
        positive_delta: vec![2, -1, 2],
        bucket: vec![Bucket {
            cumulative_count: Some(5),
            upper_bound: Some(1.0),
            exemplar: Some(exemplar("classic", Some(3))),
            ..Bucket::default()
        }],
        ..Histogram::default()
    }
}

fn of_histogram(histogram: Histogram) -> Metric {
    Metric {
        label: vec![pair("job", "x")],
        histogram: Some(histogram),
        ..Metric::default()
    }
}

#[test]
fn plain_metrics_are_series() {
    let counter = Metric {
        label: vec![pair("z", "1"), pair("b", "")],
        counter: Some(Counter {
            value: Some(3.0),
            exemplar: Some(exemplar("c", None)),
            created_timestamp: Some(prost_types::Timestamp { seconds: 9, nanos: 0 }),
        }),
        timestamp_ms: Some(77),
        ..Metric::default()
    };
    let gauge = Metric {
        gauge: Some(Gauge { value: Some(-1.5) }),
        ..Metric::default()
    };
    let summary = Metric {
        summary: Some(Summary {
            sample_count: Some(4),
            sample_sum: Some(8.0),
            quantile: vec![Quantile {
                quantile: Some(0.5),
                value: Some(2.0),
            }],
            ..Summary::default()
        }),
        ..Metric::default()
    };
    let mut with_unit = family("s_seconds", MetricType::Summary, summary);
    with_unit.unit = Some("seconds".to_owned());
    let read = read(
        &[
            family("c_total", MetricType::Counter, counter),
            family("g", MetricType::Gauge, gauge),
            with_unit,
        ],
        false,
    )
    .unwrap();
    let expected = [
        (r#"{__name__="c_total", z="1"}"#, 3.0, Some(77)),
        (r#"{__name__="g"}"#, -1.5, None),
        (r#"{__name__="s_seconds_count"}"#, 4.0, None),
        (r#"{__name__="s_seconds_sum"}"#, 8.0, None),
        (r#"{__name__="s_seconds", quantile="0.5"}"#, 2.0, None),
    ];
    assert_eq!(read.samples, expected.map(|(l, v, t)| (l.to_owned(), v, t)));
    assert_eq!(read.created[..2], [Some(9000), None]);
    assert_eq!(read.exemplars.len(), 1);
    assert_eq!(read.exemplars[0].1.timestamp_ms, None);
    assert!(read.metadata.contains(&"unit s_seconds seconds".to_owned()));
    assert!(read.metadata.contains(&"type c_total counter".to_owned()));
}

#[test]
fn native_histograms_come_alone_or_with_their_classic_series() {
    let input = [family("h", MetricType::Histogram, of_histogram(native()))];
    let alone = read(&input, false).unwrap();
    assert!(alone.samples.is_empty());
    let (labels, NativeHistogram { histogram, is_integer }) = &alone.histograms[0];
    assert!(is_integer);
    assert_eq!(labels, r#"{__name__="h", job="x"}"#);
    assert_eq!(histogram.positive_buckets, [2.0, 1.0, 3.0]);
    assert_eq!(
        histogram.positive_spans,
        [Span { offset: -1, length: 2 }, Span { offset: 2, length: 1 }]
    );
    assert_eq!((histogram.count, histogram.zero_count, histogram.schema), (7.0, 1.0, 3));
    assert_eq!(
        alone.exemplars.len(),
        1,
        "a classic bucket's exemplar with a time stands in"
    );
    let both = read(&input, true).unwrap();
    assert_eq!(both.histograms.len(), 1);
    let series: Vec<_> = both.samples.iter().map(|s| (s.0.as_str(), s.1)).collect();
    assert_eq!(
        series,
        [
            (r#"{__name__="h_count", job="x"}"#, 7.0),
            (r#"{__name__="h_sum", job="x"}"#, 2.5),
            (r#"{__name__="h_bucket", job="x", le="1.0"}"#, 5.0),
            (r#"{__name__="h_bucket", job="x", le="+Inf"}"#, 7.0),
        ]
    );
    assert_eq!(both.exemplars.len(), 2);
}

#[test]
fn float_and_gauge_histograms_are_read() {
    let histogram = Histogram {
        sample_count_float: Some(1.5),
        schema: Some(0),
        zero_threshold: Some(0.001),
        negative_span: vec![BucketSpan {
            offset: Some(0),
            length: Some(2),
        }],
        negative_count: vec![1.5, 0.0],
        exemplars: vec![exemplar("none", None), exemplar("a", Some(1)), exemplar("b", Some(2))],
        ..Histogram::default()
    };
    let read = read(
        &[family("h", MetricType::GaugeHistogram, of_histogram(histogram))],
        false,
    )
    .unwrap();
    let NativeHistogram { histogram, is_integer } = &read.histograms[0].1;
    assert!(!is_integer);
    assert_eq!(histogram.reset_hint, ResetHint::Gauge);
    assert_eq!(histogram.negative_buckets, [1.5]);
    assert_eq!(read.exemplars.len(), 2);
}

#[test]
fn what_is_not_well_formed_is_refused() {
    let mut wrong = native();
    wrong.positive_delta.pop();
    let error = read(&[family("h", MetricType::Histogram, of_histogram(wrong))], false).unwrap_err();
    assert!(
        error.message.contains("spans need 3 buckets, have 2 buckets"),
        "{error}"
    );
    let unit = MetricFamily {
        unit: Some("bytes".to_owned()),
        ..family("c_total", MetricType::Counter, Metric::default())
    };
    let error = read(&[unit], false).unwrap_err();
    assert!(error.message.contains("unit \"bytes\" not a suffix"), "{error}");
    let error = drain(&mut ProtobufParser::new(&[200, 1, 0], true, false)).unwrap_err();
    assert!(error.message.contains("insufficient length of buffer"), "{error}");
}

#[test]
fn every_cut_and_flip_of_a_message_is_survived() {
    let bytes = family("h", MetricType::Histogram, of_histogram(native())).encode_length_delimited_to_vec();
    for at in 0..bytes.len() {
        for flip in [0x01, 0x10, 0x80, 0xff] {
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            let _ = drain(&mut ProtobufParser::new(&damaged, true, true));
            let _ = drain(&mut ProtobufParser::new(&damaged[..at], true, true));
        }
    }
}

#[test]
fn resolutions_finer_than_are_stored_are_merged() {
    let mut fine = native();
    fine.schema = Some(10);
    let merged = read(&[family("h", MetricType::Histogram, of_histogram(fine))], false).unwrap();
    let histogram = &merged.histograms[0].1.histogram;
    // Indices -1, 0 and 3 with 2, 1 and 3 observations; four buckets of schema 10 are one of schema 8.
    assert_eq!(histogram.schema, 8);
    assert_eq!(histogram.positive_buckets, [3.0, 3.0]);
    assert_eq!(histogram.positive_spans, [Span { offset: 0, length: 2 }]);
    let mut finest = native();
    finest.schema = Some(53);
    let error = read(&[family("h", MetricType::Histogram, of_histogram(finest))], false).unwrap_err();
    assert!(
        error.message.contains("unsupported schema of a native histogram: 53"),
        "{error}"
    );
}

#[test]
fn an_exemplar_with_a_label_name_twice_is_left_out_and_the_next_is_not() {
    let mut twice = exemplar("t", Some(1));
    twice.label.push(pair("trace_id", "u"));
    let histogram = Histogram {
        exemplars: vec![twice, exemplar("v", Some(2))],
        ..native()
    };
    let read = read(&[family("h", MetricType::Histogram, of_histogram(histogram))], false).unwrap();
    assert_eq!(read.histograms.len(), 1);
    let labels: Vec<&str> = read.exemplars.iter().map(|e| e.0.as_str()).collect();
    assert_eq!(labels, [r#"{trace_id="v"}"#]);
}
