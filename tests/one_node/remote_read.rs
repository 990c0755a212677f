//! Remote read beside that of a real Prometheus 2.42 with the same samples: samples, streamed chunks, external labels,
//! limits; and a Prometheus that reads from gnomon.

use crate::harness::chunks::{self, Histogram, Value};
use crate::harness::reference::Prometheus;
use crate::harness::{Http, Node, eventually, families, peers, remote};
use gnomon_proto::client::MetricFamily;
use gnomon_proto::prometheus::histogram::{Count, ResetHint, ZeroCount};
use gnomon_proto::prometheus::label_matcher::Type;
use gnomon_proto::prometheus::{
    BucketSpan, Histogram as Wire, Label, LabelMatcher, Query, ReadRequest, ReadResponse, TimeSeries,
};
use prost::Message;
use std::collections::BTreeMap;
use std::path::Path;

const YAML: &str = "global: {external_labels: {region: eu, replica: a}}";
const SAMPLES: i32 = 0;
const STREAMED: i32 = 1;

/// By labels, as text, then by time.
type Read = BTreeMap<String, BTreeMap<i64, Value>>;

fn spans(of: &[(i32, u32)]) -> Vec<BucketSpan> {
    of.iter()
        .map(|(offset, length)| BucketSpan {
            offset: *offset,
            length: *length,
        })
        .collect()
}

fn integer_histogram(timestamp: i64, n: u64) -> Wire {
    Wire {
        count: Some(Count::CountInt(4 * n + 1)),
        sum: n as f64 * 1.5,
        schema: 2,
        zero_threshold: 1e-128,
        zero_count: Some(ZeroCount::ZeroCountInt(1)),
        positive_spans: spans(&[(0, 2), (3, 1)]),
        positive_deltas: vec![n as i64, 0, 0],
        negative_spans: spans(&[(-2, 1)]),
        negative_deltas: vec![n as i64],
        timestamp,
        ..Wire::default()
    }
}

fn float_histogram(timestamp: i64, n: f64) -> Wire {
    Wire {
        count: Some(Count::CountFloat(2.0 * n)),
        sum: -n,
        schema: -1,
        zero_threshold: 0.0,
        zero_count: Some(ZeroCount::ZeroCountFloat(0.0)),
        positive_spans: spans(&[(1, 2)]),
        positive_counts: vec![n * 0.5, n * 1.5],
        timestamp,
        ..Wire::default()
    }
}

/// Floats of all kinds at uneven times, and histograms: whole numbers with a reset and a wider layout, fractions, stale
/// markers; more than a chunk of each.
fn series(at_ms: i64) -> Vec<TimeSeries> {
    let floats = [
        1.0,
        1.0,
        -0.0,
        f64::NAN,
        1e300,
        5e-324,
        f64::INFINITY,
        gnomon_model::STALE_NAN,
        12.5,
        12.25,
    ];
    let uneven = |i: i64| at_ms + i * 5_000 + (i * i * 37) % 991;
    let samples: Vec<_> = (0..300)
        .map(|i| (uneven(i), floats[(i * i) as usize % floats.len()]))
        .collect();
    let mut all = vec![
        remote::time_series(&[("__name__", "f"), ("l", "b\u{fc}")], &[(at_ms, 1.0)]),
        remote::time_series(&[("__name__", "f"), ("l", "a"), ("region", "own")], &samples),
    ];
    let mut whole = remote::time_series(&[("__name__", "h"), ("of", "integers")], &[]);
    whole.histograms = (0..150)
        .map(|i| integer_histogram(at_ms + i * 1000, (i % 100) as u64 + 1))
        .collect();
    let mut wider = integer_histogram(at_ms + 200_000, 60);
    wider.positive_spans = spans(&[(0, 3), (2, 1)]);
    wider.positive_deltas = vec![60, 0, 0, 0];
    wider.count = Some(Count::CountInt(60 * 5 + 1));
    whole.histograms.push(wider);
    whole.histograms.push(Wire {
        sum: gnomon_model::STALE_NAN,
        count: Some(Count::CountInt(0)),
        timestamp: at_ms + 300_000,
        ..Wire::default()
    });
    let mut fractions = remote::time_series(&[("__name__", "h"), ("of", "floats")], &[]);
    fractions.histograms = (0..130)
        .map(|i| float_histogram(at_ms + i * 1000, 0.3 + i as f64))
        .collect();
    all.extend([whole, fractions]);
    all
}

fn matcher(kind: Type, name: &str, value: &str) -> LabelMatcher {
    LabelMatcher {
        r#type: kind as i32,
        name: name.into(),
        value: value.into(),
    }
}

fn query(range: (i64, i64), matchers: Vec<LabelMatcher>) -> Query {
    Query {
        start_timestamp_ms: range.0,
        end_timestamp_ms: range.1,
        matchers,
        hints: None,
    }
}

struct Answer {
    status: u16,
    content_type: String,
    body: Vec<u8>,
}

async fn read(http: &Http, queries: Vec<Query>, accepted: &[i32]) -> Answer {
    let request = ReadRequest {
        queries,
        accepted_response_types: accepted.to_vec(),
    };
    let packed = snap::raw::Encoder::new()
        .compress_vec(&request.encode_to_vec())
        .expect("snappy");
    let asked = http.client().post(http.url("/api/v1/read"));
    let asked = asked
        .header("content-encoding", "snappy")
        .header("content-type", "application/x-protobuf");
    let response = asked.body(packed).send().await.expect("an answer");
    let content_type = response.headers().get("content-type").and_then(|v| v.to_str().ok());
    Answer {
        status: response.status().as_u16(),
        content_type: content_type.unwrap_or("").to_owned(),
        body: response.bytes().await.expect("a body").to_vec(),
    }
}

fn shown(labels: &[Label]) -> String {
    let pairs: Vec<_> = labels.iter().map(|l| format!("{}={}", l.name, l.value)).collect();
    pairs.join(",")
}

fn of_wire(wire: &Wire) -> Value {
    let is_integer = matches!(wire.count, Some(Count::CountInt(_)) | None);
    if gnomon_model::is_stale_nan(wire.sum) {
        return Value::Histogram(Box::new(chunks::stale(is_integer)));
    }
    let mut found = BTreeMap::new();
    for (side, spans, deltas, counts) in [
        (true, &wire.positive_spans, &wire.positive_deltas, &wire.positive_counts),
        (
            false,
            &wire.negative_spans,
            &wire.negative_deltas,
            &wire.negative_counts,
        ),
    ] {
        let mut last = 0;
        let summed = deltas.iter().map(|delta| (last += delta, last as f64).1);
        let counts: Vec<f64> = if is_integer { summed.collect() } else { counts.clone() };
        let spans: Vec<_> = spans
            .iter()
            .map(|s| (i64::from(s.offset), u64::from(s.length)))
            .collect();
        let buckets = chunks::buckets(&spans, &counts);
        found.extend(buckets.into_iter().map(|(index, count)| ((side, index), count)));
    }
    Value::Histogram(Box::new(Histogram {
        is_integer,
        schema: i64::from(wire.schema),
        zero_threshold: wire.zero_threshold,
        zero_count: match wire.zero_count {
            Some(ZeroCount::ZeroCountInt(n)) => n as f64,
            Some(ZeroCount::ZeroCountFloat(n)) => n,
            None => 0.0,
        },
        count: match wire.count {
            Some(Count::CountInt(n)) => n as f64,
            Some(Count::CountFloat(n)) => n,
            None => 0.0,
        },
        sum: wire.sum.to_bits(),
        buckets: found,
        bounds: wire.custom_values.iter().map(|b| b.to_bits()).collect(),
    }))
}

/// One entry a query.
fn of_samples(answer: &Answer) -> Vec<Read> {
    assert_eq!(
        (answer.status, answer.content_type.as_str()),
        (200, "application/x-protobuf")
    );
    let bytes = snap::raw::Decoder::new().decompress_vec(&answer.body).expect("snappy");
    let response = ReadResponse::decode(&bytes[..]).expect("a message");
    let of_series = |series: &TimeSeries| {
        let floats = series
            .samples
            .iter()
            .map(|s| (s.timestamp, Value::Float(s.value.to_bits())));
        let histograms = series.histograms.iter().map(|h| (h.timestamp, of_wire(h)));
        (shown(&series.labels), floats.chain(histograms).collect())
    };
    response
        .results
        .iter()
        .map(|result| result.timeseries.iter().map(of_series).collect())
        .collect()
}

fn of_chunks(answer: &Answer, queries: usize) -> Vec<Read> {
    let streamed = "application/x-streamed-protobuf; proto=prometheus.ChunkedReadResponse";
    assert_eq!((answer.status, answer.content_type.as_str()), (200, streamed));
    let mut found = vec![Read::new(); queries];
    for message in chunks::frames(&answer.body) {
        for series in &message.chunked_series {
            let samples = found[message.query_index as usize]
                .entry(shown(&series.labels))
                .or_default();
            for chunk in &series.chunks {
                let decoded = chunks::decode(chunk);
                let times = (decoded.first().map(|s| s.0), decoded.last().map(|s| s.0));
                assert_eq!(times, (Some(chunk.min_time_ms), Some(chunk.max_time_ms)));
                samples.extend(decoded);
            }
        }
    }
    found
}

/// Says where two answers differ first.
fn same(ours: &[Read], theirs: &[Read]) {
    assert_eq!(ours.len(), theirs.len());
    for (a, b) in ours.iter().zip(theirs) {
        assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
        for (labels, samples) in a {
            let others = &b[labels];
            let times = |of: &BTreeMap<i64, Value>| of.keys().copied().collect::<Vec<_>>();
            assert_eq!(times(samples), times(others), "{labels}");
            for (time, value) in samples {
                assert_eq!(value, &others[time], "{labels} at {time}");
            }
        }
    }
}

struct Both {
    gnomon: Node,
    prometheus: Prometheus,
    at_ms: i64,
}

async fn both(folder: &Path, program: &Path, more: &[&str]) -> Both {
    let mut flags = vec![
        "--web.enable-remote-write-receiver",
        "--enable-feature=native-histograms",
    ];
    flags.extend(more);
    let prometheus = Prometheus::launch(program, folder, "reference", YAML, &flags);
    let gnomon = Node::start(folder, YAML, &flags).await;
    eventually("Prometheus to be ready", async || {
        prometheus.http.is_ready().await.then_some(())
    })
    .await;
    let at_ms = (std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs() as i64 - 5400) * 1000;
    for http in [&gnomon.http, &prometheus.http] {
        for one in series(at_ms) {
            let sent = remote::send(http, remote::body(vec![one])).await.expect("sent");
            assert_eq!(sent.0, 204, "{}", sent.1);
        }
    }
    Both {
        gnomon,
        prometheus,
        at_ms,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_are_answered_as_prometheus_answers_them() {
    let Some(program) = peers::find("prometheus", "prometheus") else {
        return;
    };
    let folder = tempfile::tempdir().expect("temp folder");
    let both = both(
        folder.path(),
        &program,
        &["--storage.remote.read-max-bytes-in-frame=300"],
    )
    .await;
    let all = (both.at_ms - 1000, both.at_ms + 5_400_000);
    let named = |name: &str| matcher(Type::Eq, "__name__", name);
    let sets = [
        vec![query(all, vec![named("f")]), query(all, vec![named("h")])],
        vec![query(
            (both.at_ms + 20_000, both.at_ms + 900_000),
            vec![matcher(Type::Re, "__name__", "f|h")],
        )],
        // External labels are not stored: with their values they are taken to be there.
        vec![query(all, vec![named("f"), matcher(Type::Eq, "region", "eu")])],
        vec![query(all, vec![named("f"), matcher(Type::Eq, "replica", "b")])],
        vec![query(all, vec![named("f"), matcher(Type::Neq, "region", "own")])],
        vec![query(all, vec![named("nothing")])],
        // Without matchers nothing is asked for.
        vec![query(all, Vec::new()), query(all, vec![named("f")])],
        Vec::new(),
    ];
    for queries in sets {
        let count = queries.len();
        let (ours, theirs) = (&both.gnomon.http, &both.prometheus.http);
        let samples = of_samples(&read(ours, queries.clone(), &[]).await);
        // 2.42 leaves native histograms out of samples, though not out of chunks.
        let floats = |mut of: Vec<Read>| {
            of.iter_mut()
                .for_each(|read| read.retain(|labels, _| !labels.contains("__name__=h,")));
            of
        };
        let theirs_read = of_samples(&read(theirs, queries.clone(), &[SAMPLES]).await);
        same(&floats(samples.clone()), &floats(theirs_read));
        let streamed = of_chunks(&read(ours, queries.clone(), &[STREAMED, SAMPLES]).await, count);
        same(
            &streamed,
            &of_chunks(&read(theirs, queries.clone(), &[STREAMED]).await, count),
        );
        same(&samples, &streamed);
    }
    let (ours, theirs) = (
        read(&both.gnomon.http, Vec::new(), &[9]).await,
        read(&both.prometheus.http, Vec::new(), &[9]).await,
    );
    assert_eq!((ours.status, &ours.content_type), (theirs.status, &theirs.content_type));
    let mut unknown = named("f");
    unknown.r#type = 9;
    let queries = vec![query(all, vec![unknown])];
    let (ours, theirs) = (
        read(&both.gnomon.http, queries.clone(), &[]).await,
        read(&both.prometheus.http, queries, &[]).await,
    );
    assert_eq!(ours.status, theirs.status);
    let federate = "/federate?match[]=f&match[]={__name__=\"h\"}";
    assert_eq!(
        both.gnomon.http.get(federate).await,
        both.prometheus.http.get(federate).await
    );
    histograms_are_federated(&both).await;
}

/// Native histograms, of counters and gauges, as protobuf messages.
async fn histograms_are_federated(both: &Both) {
    let now_ms = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64 - 30_000;
    let mut gauge = float_histogram(now_ms, 7.5);
    gauge.reset_hint = ResetHint::Gauge as i32;
    let stale = Wire {
        sum: gnomon_model::STALE_NAN,
        count: Some(Count::CountInt(0)),
        timestamp: now_ms,
        ..Wire::default()
    };
    let histograms = [
        ("integers", integer_histogram(now_ms, 5)),
        ("floats", float_histogram(now_ms, 0.5)),
        ("gauge", gauge),
        ("stale", stale),
    ];
    let mut written = vec![remote::time_series(
        &[("__name__", "recent"), ("of", "number")],
        &[(now_ms, 1.5)],
    )];
    for (of, histogram) in histograms {
        let mut series = remote::time_series(&[("__name__", "recent"), ("of", of)], &[]);
        series.histograms.push(histogram);
        written.push(series);
    }
    for http in [&both.gnomon.http, &both.prometheus.http] {
        let (code, text) = remote::send(http, remote::body(written.clone())).await.expect("send");
        assert!(code < 300, "{text}");
    }
    let path = "/federate?match[]=recent";
    let ours = families::federated(&both.gnomon.http, path).await;
    // One name is several families, in the order of the labels of the samples, which only gnomon keeps.
    let one_by_one = |families: &[MetricFamily]| {
        let metrics = families.iter().flat_map(|family| {
            family
                .metric
                .iter()
                .map(move |m| (format!("{:?}", m.label), family.r#type, m.clone()))
        });
        let mut all: Vec<_> = metrics.collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    };
    let theirs = families::federated(&both.prometheus.http, path).await;
    let mut theirs = one_by_one(&theirs);
    // A marker is no sample to newer servers.
    theirs.retain(|(labels, ..)| !labels.contains("\"stale\""));
    assert_eq!(one_by_one(&ours), theirs);
    assert_eq!(theirs.len(), 4);
    let text = both.gnomon.http.get(path).await;
    assert_eq!(text, both.prometheus.http.get(path).await);
    assert_eq!(text.1.lines().count(), 2, "{text:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_of_too_many_samples_is_refused_and_a_prometheus_can_read() {
    let Some(program) = peers::find("prometheus", "prometheus") else {
        return;
    };
    let folder = tempfile::tempdir().expect("temp folder");
    let both = both(folder.path(), &program, &["--storage.remote.read-sample-limit=320"]).await;
    let all = (both.at_ms - 1000, both.at_ms + 5_400_000);
    for name in ["f", "h"] {
        let queries = vec![query(all, vec![matcher(Type::Re, "__name__", name)])];
        let ours = read(&both.gnomon.http, queries.clone(), &[]).await;
        let theirs = read(&both.prometheus.http, queries, &[]).await;
        assert_eq!(ours.status, theirs.status, "{name}");
        if ours.status != 200 {
            assert_eq!(
                String::from_utf8_lossy(&ours.body),
                String::from_utf8_lossy(&theirs.body)
            );
        }
    }
    let reader = tempfile::tempdir().expect("temp folder");
    let url = both.gnomon.http.url("/api/v1/read");
    let yaml = format!("remote_read: [{{url: '{url}', read_recent: true}}]");
    let prometheus = Prometheus::launch(&program, reader.path(), "reader", &yaml, &[]);
    eventually("Prometheus to be ready", async || {
        prometheus.http.is_ready().await.then_some(())
    })
    .await;
    let at_s = both.at_ms as f64 / 1000.0 + 1.0;
    for text in ["f{l!=\"a\"}", "count_over_time(f{l!=\"a\"}[1m])"] {
        let read = prometheus.http.query(text, at_s).await;
        assert_eq!(read["result"].as_array().map(Vec::len), Some(1), "{text}: {read}");
        assert!(read.to_string().contains("\"region\":\"eu\""), "{read}");
    }
}
