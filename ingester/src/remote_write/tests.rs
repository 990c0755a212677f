use super::*;
use crate::service::WriteOptions;
use crate::testing::{NOW, Node};
use axum::http::Method;
use gnomon_proto::prometheus as wire;
use gnomon_proto::service::ShardReadService;
use gnomon_proto::v1::{ExemplarsRequest, MetricMetadataRequest, View};
use http_body_util::BodyExt;
use prost::Message;
use std::collections::BTreeMap;
use tower::ServiceExt;

pub(super) struct Rig {
    node: Node,
    receiver: Arc<RemoteWrite>,
}

impl Rig {
    fn new(options: RemoteWriteOptions, write: WriteOptions) -> Self {
        Self::with_timeout(options, write, Duration::from_secs(25))
    }

    fn with_timeout(options: RemoteWriteOptions, write: WriteOptions, timeout: Duration) -> Self {
        let node = Node::new(write);
        let intake = Intake::with_timeout(node.router.clone(), None, timeout);
        let receiver = RemoteWrite::new(intake, options, &node.metrics, node.clock.clone());
        Self { node, receiver }
    }

    async fn send(&self, headers: &[(&str, &str)], body: Vec<u8>) -> (u16, String, Option<String>) {
        let mut request = Request::builder().method(Method::POST).uri("/api/v1/write");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body)).unwrap();
        let response = self.receiver.routes().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let retry = response
            .headers()
            .get("retry-after")
            .map(|v| v.to_str().unwrap().to_owned());
        let text = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&text).trim_end().to_owned(), retry)
    }

    /// Code, text, and what version 2.0 says was written.
    pub(super) async fn send_2(&self, headers: &[(&str, &str)], body: Vec<u8>) -> (u16, String, Vec<String>) {
        let mut request = Request::builder().method(Method::POST).uri("/api/v1/write");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body)).unwrap();
        let response = self.receiver.routes().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let written = ["samples", "histograms", "exemplars"].map(|what| {
            let name = format!("x-prometheus-remote-write-{what}-written");
            response.headers().get(name).map(|v| v.to_str().unwrap().to_owned())
        });
        let text = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&text).trim_end().to_owned();
        (status, text, written.into_iter().flatten().collect())
    }

    async fn post(&self, body: Vec<u8>) -> (u16, String) {
        let headers = [
            ("content-type", "application/x-protobuf"),
            ("content-encoding", "snappy"),
        ];
        let (status, text, _) = self.send(&headers, body).await;
        (status, text)
    }

    pub(super) async fn read(&self) -> BTreeMap<String, Vec<(i64, f64)>> {
        self.node.read(View::default()).await.unwrap()
    }
}

impl Default for Rig {
    fn default() -> Self {
        Self::new(RemoteWriteOptions::default(), WriteOptions::default())
    }
}

fn pack(request: &wire::WriteRequest) -> Vec<u8> {
    snap::raw::Encoder::new()
        .compress_vec(&request.encode_to_vec())
        .unwrap()
}

fn series(labels: &[(&str, &str)], samples: &[(i64, f64)]) -> wire::TimeSeries {
    let label = |(name, value): &(&str, &str)| wire::Label {
        name: (*name).into(),
        value: (*value).into(),
    };
    let sample = |(timestamp, value): &(i64, f64)| wire::Sample {
        value: *value,
        timestamp: *timestamp,
    };
    wire::TimeSeries {
        labels: labels.iter().map(label).collect(),
        samples: samples.iter().map(sample).collect(),
        ..wire::TimeSeries::default()
    }
}

fn request(timeseries: Vec<wire::TimeSeries>) -> wire::WriteRequest {
    wire::WriteRequest {
        timeseries,
        metadata: Vec::new(),
    }
}

#[tokio::test]
async fn samples_are_readable_once_they_are_acknowledged() {
    let rig = Rig::default();
    let body = pack(&request(vec![
        series(&[("__name__", "up"), ("job", "a")], &[(NOW, 1.0), (NOW + 1, 2.5)]),
        series(&[("__name__", "up"), ("job", "b"), ("none", "")], &[(NOW, f64::NAN)]),
    ]));
    assert_eq!(rig.post(body.clone()).await, (204, String::new()));
    // Sent again, it is there already.
    assert_eq!(rig.post(body).await.0, 204);
    let all = rig.read().await;
    assert_eq!(all[r#"{__name__="up", job="a"}"#], [(NOW, 1.0), (NOW + 1, 2.5)]);
    assert!(all[r#"{__name__="up", job="b"}"#][0].1.is_nan());
    assert_eq!(rig.node.metrics.duplicates.get(), 3);
}

#[tokio::test]
async fn labels_in_any_order_are_one_series() {
    let rig = Rig::default();
    for (i, labels) in [[("__name__", "m"), ("a", "1")], [("a", "1"), ("__name__", "m")]]
        .iter()
        .enumerate()
    {
        let body = pack(&request(vec![series(labels, &[(NOW + i as i64, 1.0)])]));
        assert_eq!(rig.post(body).await.0, 204);
    }
    assert_eq!(rig.read().await[r#"{__name__="m", a="1"}"#].len(), 2);
}

#[tokio::test]
async fn refused_samples_are_told_of_and_the_rest_is_committed() {
    let rig = Rig::default();
    let body = pack(&request(vec![
        series(&[("__name__", "ok")], &[(NOW, 1.0)]),
        series(&[("__name__", "ok"), ("x", "1"), ("x", "2")], &[(NOW, 1.0)]),
        series(&[("job", "nameless")], &[(NOW, 1.0)]),
        series(&[("__name__", "old")], &[(NOW - 86_400_000, 1.0)]),
        series(&[("__name__", "new")], &[(NOW + 700_000, 1.0)]),
        series(&[("__name__", "ok")], &[(NOW, 2.0)]),
    ]));
    let (status, text) = rig.post(body).await;
    assert_eq!(status, 400);
    for part in [
        "5 samples refused, 1 committed",
        r#"2: invalid metric name or labels (such as {__name__="ok", x="1", x="2"}: label name "x" is not unique)"#,
        r#"1: too old sample (such as {__name__="old"} at"#,
        "1: out of bounds",
        r#"1: duplicate sample for timestamp (such as {__name__="ok"}"#,
    ] {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    assert_eq!(rig.read().await.len(), 1);
    assert_eq!(rig.node.metrics.remote_write.invalid_labels.get(), 2);
}

#[tokio::test]
async fn histograms_exemplars_and_metadata_come_along() {
    let rig = Rig::default();
    let mut one = series(&[("__name__", "h"), ("job", "x")], &[]);
    one.histograms.push(wire::Histogram {
        count: Some(wire::histogram::Count::CountInt(3)),
        sum: 7.5,
        schema: 1,
        zero_count: Some(wire::histogram::ZeroCount::ZeroCountInt(0)),
        positive_spans: vec![wire::BucketSpan { offset: 0, length: 2 }],
        positive_deltas: vec![1, 1],
        timestamp: NOW,
        ..wire::Histogram::default()
    });
    one.exemplars.push(wire::Exemplar {
        labels: vec![wire::Label {
            name: "trace_id".into(),
            value: "abc".into(),
        }],
        value: 2.0,
        timestamp: NOW,
    });
    let mut all = request(vec![one.clone()]);
    all.metadata.push(wire::MetricMetadata {
        r#type: 3,
        metric_family_name: "h".into(),
        help: "What it is.".into(),
        unit: "seconds".into(),
    });
    assert_eq!(rig.post(pack(&all)).await.0, 204);
    assert_eq!(rig.read().await[r#"{__name__="h", job="x"}"#], [(NOW, 7.5)]);
    let exemplars = rig.node.shards.exemplars(ExemplarsRequest {
        tenant: "anonymous".into(),
        start_ms: NOW,
        end_ms: NOW,
        ..ExemplarsRequest::default()
    });
    assert_eq!(exemplars.await.unwrap().series[0].exemplars[0].value, 2.0);
    let metadata = rig.node.shards.metric_metadata(MetricMetadataRequest {
        tenant: "anonymous".into(),
        ..MetricMetadataRequest::default()
    });
    let metadata = metadata.await.unwrap().metadata;
    assert_eq!(
        (metadata[0].r#type.as_str(), metadata[0].unit.as_str()),
        ("histogram", "seconds")
    );
    // Finer than what is kept.
    one.histograms[0].schema = 12;
    one.histograms[0].timestamp += 1;
    assert_eq!(rig.post(pack(&request(vec![one.clone()]))).await, (204, String::new()));
    assert_eq!(
        rig.read().await[r#"{__name__="h", job="x"}"#],
        [(NOW, 7.5), (NOW + 1, 7.5)]
    );
    // Buckets that do not add up.
    one.histograms[0].positive_deltas = vec![9, 9];
    one.histograms[0].timestamp += 1;
    let (status, text) = rig.post(pack(&request(vec![one]))).await;
    assert_eq!(status, 400);
    assert!(text.contains("1: invalid histogram"), "{text}");
}

#[tokio::test]
async fn headers_decide_as_in_prometheus() {
    let rig = Rig::default();
    let body = || pack(&request(vec![series(&[("__name__", "a")], &[(NOW, 1.0)])]));
    let v2 = "application/x-protobuf;proto=io.prometheus.write.v2.Request";
    type Headers<'a> = &'a [(&'a str, &'a str)];
    let cases: [(Headers<'_>, u16, &str); 8] = [
        (&[], 204, ""),
        (
            &[("content-type", "application/x-protobuf;proto=prometheus.WriteRequest")],
            204,
            "",
        ),
        (&[("content-encoding", "Snappy")], 204, ""),
        (
            &[("content-type", "application/json")],
            415,
            "expected application/x-protobuf as the first",
        ),
        (
            &[("content-type", "application/x-protobuf;x")],
            415,
            "expected parameters to be key-values",
        ),
        (
            &[("content-type", "application/x-protobuf;proto=x")],
            415,
            "unknown type for remote write",
        ),
        (&[("content-type", v2)], 204, ""),
        (
            &[("content-encoding", "gzip")],
            415,
            "gzip encoding (compression) is not accepted",
        ),
    ];
    for (headers, status, part) in cases {
        let (got, text, _) = rig.send(headers, body()).await;
        assert_eq!(got, status, "{headers:?}: {text}");
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}

#[tokio::test]
async fn bad_bodies_change_nothing() {
    let options = RemoteWriteOptions {
        max_compressed_bytes: 4096,
        max_body_bytes: 8192,
        ..RemoteWriteOptions::default()
    };
    let rig = Rig::new(options, WriteOptions::default());
    let good = request(vec![
        series(&[("__name__", "a"), ("b", "c")], &[(NOW, 1.5)]),
        series(&[("__name__", "b")], &[(NOW, 2.0)]),
    ]);
    let plain = good.encode_to_vec();
    let pack = |bytes: &[u8]| snap::raw::Encoder::new().compress_vec(bytes).unwrap();
    // Every cut that does not fall between two fields of the request.
    let first = good.timeseries[0].encoded_len() + 2;
    for cut in (1..plain.len()).filter(|cut| *cut != first) {
        assert_eq!(rig.post(pack(&plain[..cut])).await.0, 400, "cut at {cut}");
    }
    let packed = pack(&plain);
    for cut in 0..packed.len() {
        assert_eq!(rig.post(packed[..cut].to_vec()).await.0, 400);
    }
    assert_eq!(rig.post(plain).await.0, 400);
    // Lengths that promise more than is there, and more than is taken.
    assert_eq!(rig.post(vec![0xff, 0xff, 0xff, 0xff, 0x0f]).await.0, 400);
    assert_eq!(rig.post(vec![0xff, 0x3f, 0x00]).await.0, 400);
    assert_eq!(rig.post(pack(&vec![0; 10_000])).await.0, 400);
    assert_eq!(rig.post(vec![7; 5000]).await.0, 400);
    // Wrong wire types.
    assert_eq!(rig.post(pack(&[0x08, 0x01])).await.0, 400);
    assert_eq!(rig.post(pack(&[0x0a, 0x02, 0x10, 0x01])).await.0, 400);
    assert_eq!(rig.post(pack(&[0x0b])).await.0, 400);
    assert!(rig.read().await.is_empty());
    // Unknown fields are of a newer sender.
    assert_eq!(rig.post(pack(&[0x78, 0x01])).await.0, 204);
}

#[tokio::test]
async fn what_may_succeed_later_is_a_503() {
    let options = RemoteWriteOptions::default();
    let rig = Rig::with_timeout(options, WriteOptions::default(), Duration::from_millis(50));
    rig.node.log.leads.store(false, std::sync::atomic::Ordering::Relaxed);
    let body = pack(&request(vec![series(&[("__name__", "a")], &[(NOW, 1.0)])]));
    let (status, _, retry) = rig.send(&[], body).await;
    assert_eq!((status, retry.as_deref()), (503, Some("1")));
}

#[tokio::test]
async fn a_sender_that_went_away_gives_up_its_place() {
    let options = RemoteWriteOptions {
        max_requests: 1,
        body_timeout: Duration::from_millis(200),
        ..RemoteWriteOptions::default()
    };
    let rig = Rig::new(options, WriteOptions::default());
    let routes = rig.receiver.routes();
    let silent = |length: &str| {
        let body = Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
        let request = Request::builder().method(Method::POST).uri("/api/v1/write");
        routes
            .clone()
            .oneshot(request.header("content-length", length).body(body).unwrap())
    };
    // The second is refused for its length, and read to its end all the same.
    for length in ["1000", "99999999999"] {
        let answer = silent(length).await.unwrap();
        assert_eq!(answer.status(), 503, "{length}");
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(text, "the body did not arrive within 0.2 s\n");
    }
    let body = pack(&request(vec![series(&[("__name__", "a")], &[(NOW, 1.0)])]));
    assert_eq!(rig.post(body).await.0, 204);
}

#[tokio::test]
async fn labels_that_are_too_long_are_told_in_short() {
    let rig = Rig::default();
    let long = "é".repeat(1 << 19);
    let body = request(vec![series(&[("__name__", "a"), ("b", &long)], &[(NOW, 1.0)])]);
    let (status, text) = rig.post(pack(&body)).await;
    assert_eq!(status, 400);
    assert!(
        text.starts_with("1 samples refused, 0 committed; 1: invalid metric name or labels (such as {__name__=\"a\"")
    );
    assert!(text.len() < 1200 && text.contains("…"), "{} bytes", text.len());
}

#[test]
fn labels_that_are_no_label_set_are_told_as_text() {
    let long = "é".repeat(1 << 19);
    let told = |labels: &[(&str, &str)]| {
        let labels: Vec<_> = labels.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes())).collect();
        labels::what_is_wrong(&labels)
    };
    let name = ("__name__", "m");
    assert_eq!(told(&[name, ("b", ""), ("a", "1")]), None);
    for (bad, text) in [
        (&[("job", "x")][..], r#"{job="x"}: there is no metric name"#),
        (&[name, ("a b", "\"\n")], ""),
        (&[("__name__", "")], r#"{__name__=""}: there is no metric name"#),
        (&[name, ("", "1")], r#"{__name__="m", ""="1"}: a label has no name"#),
        (
            &[("a", "\"\n"), name, ("a", "2")],
            r#"{a="\"\n", __name__="m", a="2"}: label name "a" is not unique"#,
        ),
    ] {
        assert_eq!(told(bad).unwrap_or_default(), text);
    }
    let latin = labels::what_is_wrong(&[(b"__name__", b"m"), (b"a", b"\xff")]).unwrap();
    assert_eq!(latin, "{__name__=\"m\", a=\"\u{fffd}\"}: label \"a\" is not UTF-8");
    let bounded = told(&[name, (&long, &long), (&long, "")]).unwrap();
    assert!(bounded.len() < 3000 && bounded.contains('…'), "{} bytes", bounded.len());
}

#[test]
fn identities_are_of_labels_alone() {
    let labels = [("__name__", "m"), ("a", "1")];
    let one = series(&labels, &[(NOW, 1.0)]).encode_to_vec();
    let two = series(&labels, &[(NOW + 5, 7.0)]).encode_to_vec();
    let other = series(&[("__name__", "m"), ("a", "2")], &[(NOW, 1.0)]).encode_to_vec();
    let id = |bytes: &[u8]| labels::identity(bytes, 9).unwrap().0;
    assert_eq!(id(&one), id(&two));
    assert_ne!(id(&one), id(&other));
    assert_ne!(id(&one), labels::identity(&one, 8).unwrap().0);
    // Labels with samples between them have the identity of the same labels together.
    let sample = series(&[], &[(NOW, 1.0)]).encode_to_vec();
    let mut apart = Vec::new();
    for label in &series(&labels, &[]).labels {
        let bytes = label.encode_to_vec();
        apart.push(0x0a);
        apart.push(bytes.len() as u8);
        apart.extend_from_slice(&bytes);
        apart.extend_from_slice(&sample);
    }
    assert_eq!(id(&apart), id(&one));
}

#[test]
fn labels_of_any_length_stand_before_or_after_samples() {
    let long = "x".repeat(300);
    let labels = [("__name__", "m"), ("a", long.as_str()), ("b", "2")];
    let only_labels = series(&labels, &[]).encode_to_vec();
    let sample = series(&[], &[(NOW, 1.0)]).encode_to_vec();
    let (before, after) = ([&*only_labels, &sample].concat(), [&*sample, &only_labels].concat());
    let (id, items) = labels::identity(&before, 9).unwrap();
    assert_eq!(items, sample);
    assert_eq!(labels::identity(&after, 9), Ok((id, &*after)));
    assert_eq!(labels::identity(&only_labels, 9), Ok((id, &[][..])));
    assert_eq!(labels::identity(&before[..40], 9), Err(BadBody::Truncated));
}

#[test]
fn groups_are_skipped_as_prometheus_skips_them() {
    let one = series(&[("__name__", "m")], &[(NOW, 1.0)]).encode_to_vec();
    let (id, _) = labels::identity(&one, 9).unwrap();
    // Field 15: a group with a varint and a group in it.
    let group = [0x7b, 0x08, 0x05, 0x13, 0x14, 0x7c];
    let with_group = [&one[..], &group].concat();
    assert_eq!(labels::identity(&with_group, 9).map(|(id, _)| id), Ok(id));
    for end in 1..group.len() {
        let cut = [&one[..], &group[..end]].concat();
        assert_eq!(labels::identity(&cut, 9), Err(BadBody::Truncated), "{end}");
    }
    let ended = [&one[..], &[0x7c]].concat();
    assert!(labels::identity(&ended, 9).is_err());
}
