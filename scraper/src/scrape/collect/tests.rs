use super::*;
use crate::testing::config;
use gnomon_cluster::router::LabelSource;

struct Bench {
    config: ScrapeConfig,
    cache: SeriesCache,
    scratch: Scratch,
    metadata: Metadata,
}

impl Bench {
    fn new() -> Self {
        Self {
            config: config("j"),
            cache: SeriesCache::new(vec![Labels::from_pairs([("__name__", "up")])]),
            scratch: Scratch::default(),
            metadata: Metadata::default(),
        }
    }

    fn collect(&mut self, body: &str) -> (Counts, Result<(), Refusal>) {
        self.scratch.clear();
        let mut collector = Collector {
            config: &self.config,
            target: &Labels::from_pairs([("job", "j")]),
            tick_ms: 1000,
            cache: &mut self.cache,
            scratch: &mut self.scratch,
            metadata: &self.metadata,
            counts: Counts::default(),
        };
        let result = collector.collect(Format::Text, body.as_bytes());
        (collector.counts, result)
    }

    fn samples(&self) -> Vec<(String, i64, f64)> {
        let text = |series| {
            let mut bytes = Vec::new();
            self.cache.write_labels(series, &mut bytes);
            LabelsRef::from_canonical(&bytes).to_string()
        };
        let samples = self.scratch.samples.iter();
        samples.map(|s| (text(s.series), s.timestamp_ms, s.value)).collect()
    }
}

#[test]
fn duplicates_are_dropped_and_counted_unless_they_bring_times() {
    let mut bench = Bench::new();
    let (counts, result) = bench.collect("a 1\na 2\na{} 3\nb 1 5\nb 2 6\n");
    result.unwrap();
    assert_eq!(
        (counts.scraped, counts.kept, counts.series_added, counts.duplicates),
        // A text of the exposition is what is new, not a series: `a` and `a{}` are two.
        (5, 5, 3, 2)
    );
    let a = r#"{__name__="a", job="j"}"#.to_owned();
    let b = r#"{__name__="b", job="j"}"#.to_owned();
    assert_eq!(bench.samples(), [(a, 1000, 1.0), (b.clone(), 5, 1.0), (b, 6, 2.0)]);
    let (counts, _) = bench.collect("a 1\nb 1 7\nc 1\n");
    assert_eq!(counts.series_added, 1);
}

#[test]
fn the_scrape_does_not_stand_where_a_sample_has_its_own_time() {
    let mut bench = Bench::new();
    let times = |bench: &Bench| -> Vec<i64> { bench.scratch.samples.iter().map(|s| s.timestamp_ms).collect() };
    bench.collect("a 1\nb 1 1000\nc 1 1001\nd 1\ne 1 1003\n").1.unwrap();
    assert_eq!(times(&bench), [1002, 1000, 1001, 1002, 1003]);
    bench.collect("a 1\nb 1 999\nc 1 1001\n").1.unwrap();
    assert_eq!(times(&bench), [1000, 999, 1001]);
    // Whoever has them all taken stays where it is.
    let many: String = (0..100).map(|n| format!("b{n} 1 {}\n", 1000 + n)).collect();
    bench.collect(&format!("a 1\n{many}")).1.unwrap();
    assert_eq!(times(&bench)[..2], [1000, 1000]);
    // Where series with own times go stale too, nobody needs to tell them.
    bench.config.track_timestamps_staleness = true;
    bench.collect("a 1\nb 1 1000\n").1.unwrap();
    assert_eq!(times(&bench), [1000, 1000]);
}

#[test]
fn timestamps_are_not_honored_when_told_so() {
    let mut bench = Bench::new();
    bench.config.honor_timestamps = false;
    bench.collect("b 1 5\nb 2 6\n").1.unwrap();
    assert_eq!(bench.samples(), [(r#"{__name__="b", job="j"}"#.to_owned(), 1000, 1.0)]);
}

#[test]
fn beyond_the_sample_limit_nothing_is_kept_but_all_is_counted() {
    let mut bench = Bench::new();
    bench.config.limits.samples = Some(2);
    let (counts, result) = bench.collect("a 1\nb 1\nc 1\nd 1\n");
    assert_eq!(result, Err(Refusal::SampleLimit));
    assert_eq!((counts.kept, bench.scratch.samples.len()), (4, 2));
    assert_eq!(counts.series_added, 2);
    // What was beyond the limit is not known.
    assert_eq!(bench.collect("a 1\nc 1\n").0.series_added, 1);
    assert!(bench.collect("a 1\nb 1\n").1.is_ok());
}

#[test]
fn a_bad_line_refuses_the_body_and_keeps_the_cache() {
    let mut bench = Bench::new();
    bench.collect("a 1\nb 1\n").1.unwrap();
    let (_, result) = bench.collect("a 1\nb\n");
    assert!(matches!(result, Err(Refusal::Parse(m)) if m.contains("expected value after metric")));
    assert_eq!(bench.collect("a 1\nb 1\n").0.series_added, 0);
}

#[test]
fn metadata_is_noted_once_and_again_when_it_changes() {
    let mut bench = Bench::new();
    let body = "# HELP a Help\n# TYPE a counter\na 1\n";
    bench.collect(body).1.unwrap();
    let unsent = bench.metadata.unsent();
    assert_eq!(unsent.len(), 1);
    assert_eq!((unsent[0].0.as_str(), unsent[0].1.help.as_str()), ("a", "Help"));
    bench.metadata.mark_sent(&unsent);
    bench.collect(body).1.unwrap();
    assert!(bench.metadata.unsent().is_empty());
    bench.collect("# HELP a Other\n# TYPE a counter\na 1\n").1.unwrap();
    assert_eq!(bench.metadata.unsent().len(), 1);
}

#[test]
fn more_series_than_the_limit_take_no_more_memory() {
    let mut bench = Bench::new();
    bench.config.limits.samples = Some(1000);
    let body: String = (0..300_000).map(|i| format!("metric_{i} 1\n")).collect();
    let (counts, result) = bench.collect(&body);
    assert_eq!((result, counts.kept), (Err(Refusal::SampleLimit), 300_000));
    assert!(bench.cache.len() <= 1001, "{} series are remembered", bench.cache.len());
}

/// A delimited protobuf exposition of one counter and one native histogram that began then.
fn since(created_ms: i64, value: f64) -> Vec<u8> {
    use gnomon_proto::client::{BucketSpan, Counter, Histogram, LabelPair, Metric, MetricFamily, MetricType};
    let created = prost_types::Timestamp {
        seconds: created_ms.div_euclid(1000),
        nanos: (created_ms.rem_euclid(1000) * 1_000_000) as i32,
    };
    let label = vec![LabelPair {
        name: Some("l".into()),
        value: Some("v".into()),
    }];
    let counter = Metric {
        label: label.clone(),
        counter: Some(Counter {
            value: Some(value),
            created_timestamp: Some(created),
            ..Counter::default()
        }),
        ..Metric::default()
    };
    let histogram = Metric {
        label,
        histogram: Some(Histogram {
            sample_count: Some(value as u64),
            sample_sum: Some(value),
            schema: Some(3),
            zero_threshold: Some(0.25),
            positive_span: vec![BucketSpan {
                offset: Some(1),
                length: Some(1),
            }],
            positive_delta: vec![value as i64],
            created_timestamp: Some(created),
            ..Histogram::default()
        }),
        ..Metric::default()
    };
    let mut body = Vec::new();
    for (name, kind, metric) in [
        ("c_total", MetricType::Counter, counter),
        ("h", MetricType::Histogram, histogram),
    ] {
        let family = MetricFamily {
            name: Some(name.into()),
            r#type: Some(kind as i32),
            metric: vec![metric],
            ..MetricFamily::default()
        };
        body.extend(family.encode_length_delimited_to_vec());
    }
    body
}

#[test]
fn a_zero_stands_where_a_series_began_once_for_each_beginning() {
    const NOW: i64 = 10_000_000;
    let mut bench = Bench::new();
    bench.config.scrape_native_histograms = true;
    let mut scrape = |zero: bool, created_ms: i64, value: f64| {
        bench.config.zero_at_created = zero;
        bench.scratch.clear();
        let mut collector = Collector {
            config: &bench.config,
            target: &Labels::from_pairs([("job", "j")]),
            tick_ms: NOW,
            cache: &mut bench.cache,
            scratch: &mut bench.scratch,
            metadata: &bench.metadata,
            counts: Counts::default(),
        };
        collector.collect(Format::Protobuf, &since(created_ms, value)).unwrap();
        assert_eq!(collector.counts.kept, 2);
        assert!(bench.scratch.samples.iter().all(|sample| sample.start_ms == created_ms));
        assert!(bench.scratch.histograms.iter().all(|h| h.start_ms == created_ms));
        let samples: Vec<_> = bench
            .scratch
            .samples
            .iter()
            .map(|s| (s.timestamp_ms, s.value))
            .collect();
        let histogram = |h: &TickHistogram| {
            let wire = gnomon_proto::prometheus::Histogram::decode(&h.encoded[..]).unwrap();
            let read = gnomon_proto::histogram::from_wire(&wire).unwrap();
            let (schema, hint) = (read.histogram.schema, read.histogram.reset_hint);
            assert_eq!((wire.timestamp, schema, read.is_integer), (h.timestamp_ms, 3, true));
            (h.timestamp_ms, read.histogram.count, hint == ResetHint::Reset)
        };
        let histograms: Vec<_> = bench.scratch.histograms.iter().map(histogram).collect();
        (samples, histograms)
    };
    let alone = |value: f64| (vec![(NOW, value)], vec![(NOW, value, false)]);
    let with_zero = |at: i64, value: f64| {
        (
            vec![(at, 0.0), (NOW, value)],
            vec![(at, 0.0, true), (NOW, value, false)],
        )
    };
    assert_eq!(scrape(false, NOW - 5000, 1.0), alone(1.0));
    assert_eq!(scrape(true, NOW - 5000, 1.0), with_zero(NOW - 5000, 1.0));
    assert_eq!(scrape(true, NOW - 5000, 2.0), alone(2.0));
    assert_eq!(
        scrape(true, NOW - 1000, 3.0),
        with_zero(NOW - 1000, 3.0),
        "it began anew"
    );
    // Not before the sample, and longer ago than is taken.
    for created_ms in [NOW, NOW + 1, NOW - ZERO_REACH_MS - 1] {
        assert_eq!(scrape(true, created_ms, 4.0), alone(4.0), "{created_ms}");
    }
    assert_eq!(
        scrape(true, NOW - ZERO_REACH_MS, 5.0),
        with_zero(NOW - ZERO_REACH_MS, 5.0)
    );
}

#[test]
fn a_histogram_that_shards_would_refuse_fails_the_scrape() {
    use gnomon_proto::client::{BucketSpan, Histogram, Metric, MetricFamily, MetricType};
    let scrape = |count: u64, sum: f64, schema: i32| {
        let histogram = Histogram {
            sample_count: Some(count),
            sample_sum: Some(sum),
            schema: Some(schema),
            zero_count: Some(1),
            positive_span: vec![BucketSpan {
                offset: Some(0),
                length: Some(2),
            }],
            positive_delta: vec![2, 1],
            ..Histogram::default()
        };
        let family = MetricFamily {
            name: Some("h".into()),
            r#type: Some(MetricType::Histogram as i32),
            metric: vec![Metric {
                histogram: Some(histogram),
                ..Metric::default()
            }],
            ..MetricFamily::default()
        };
        let mut bench = Bench::new();
        bench.config.scrape_native_histograms = true;
        let mut collector = Collector {
            config: &bench.config,
            target: &Labels::empty(),
            tick_ms: 1000,
            cache: &mut bench.cache,
            scratch: &mut bench.scratch,
            metadata: &bench.metadata,
            counts: Counts::default(),
        };
        let result = collector.collect(Format::Protobuf, &family.encode_length_delimited_to_vec());
        result.map_err(|refusal| refusal.message(&bench.config.limits))
    };
    assert_eq!(scrape(6, 1.5, 3), Ok(()));
    // Finer than what is stored: merged.
    assert_eq!(scrape(6, 1.5, 12), Ok(()));
    // Observed NaNs are in no bucket.
    assert_eq!(scrape(9, f64::NAN, 3), Ok(()));
    let refused = |count, sum, schema| scrape(count, sum, schema).unwrap_err();
    assert_eq!(
        refused(7, 1.5, 3),
        "invalid histogram of metric \"h\": 6 observations found in buckets, but the Count field is 7: histogram's \
         observation count should equal the number of observations found in the buckets (in absence of NaN)"
    );
    assert_eq!(
        refused(5, f64::NAN, 3),
        "invalid histogram of metric \"h\": 6 observations found in buckets, but the Count field is 5: histogram's \
         observation count should be at least the number of observations found in the buckets"
    );
    assert!(refused(6, 1.5, -9).contains("schema"));
}
