//! What remote write answers to bad requests: each is sent to a real Prometheus 2.42 too. The two differ only where a
//! row of docs/compat.md says so (`ROWS`).

use crate::harness::reference::Prometheus;
use crate::harness::{Http, Node, peers, remote};
use gnomon_proto::prometheus::{MetricMetadata, WriteRequest};
use prost::Message;

/// How docs/compat.md names the differences; the test fails where one of them is not there.
const HEADERS: &str = "| content type and encoding";
const INVALID: &str = "| series with invalid labels";
const LARGE: &str = "| a body of more than 64 MiB";
const LATE: &str = "| late samples";
const FUTURE: &str = "| samples from the future";

/// A request and the codes of both.
struct Case {
    name: &'static str,
    method: reqwest::Method,
    headers: Vec<(&'static str, &'static str)>,
    body: Vec<u8>,
    prometheus: u16,
    gnomon: u16,
    row: Option<&'static str>,
}

const STANDARD: [(&str, &str); 3] = [
    ("content-type", "application/x-protobuf"),
    ("content-encoding", "snappy"),
    ("x-prometheus-remote-write-version", "0.1.0"),
];

fn same(name: &'static str, body: Vec<u8>, code: u16) -> Case {
    Case {
        name,
        method: reqwest::Method::POST,
        headers: STANDARD.to_vec(),
        body,
        prometheus: code,
        gnomon: code,
        row: None,
    }
}

fn differs(row: &'static str, name: &'static str, body: Vec<u8>, prometheus: u16, gnomon: u16) -> Case {
    Case {
        prometheus,
        gnomon,
        row: Some(row),
        ..same(name, body, 0)
    }
}

/// With one of the standard headers replaced (or left out, by an empty value).
fn header(name: &'static str, value: &'static str, body: Vec<u8>, gnomon: u16) -> Case {
    let mut case = differs(HEADERS, value, body, 204, gnomon);
    case.headers.retain(|(n, _)| *n != name);
    if !value.is_empty() {
        case.headers.push((name, value));
    }
    if gnomon == 204 {
        case.row = None;
    }
    case
}

fn method(method: reqwest::Method, code: u16) -> Case {
    Case {
        method,
        ..same("another method", Vec::new(), code)
    }
}

fn pack(bytes: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(bytes).expect("snappy")
}

fn one(labels: &[(&str, &str)], samples: &[(i64, f64)]) -> Vec<u8> {
    remote::body(vec![remote::time_series(labels, samples)])
}

/// A series, and another one beside it that is in order.
fn with_rest(name: &str, samples: &[(i64, f64)], now: i64) -> Vec<u8> {
    let rest = format!("rest_of_{name}");
    remote::body(vec![
        remote::time_series(&[("__name__", name), ("job", "j")], samples),
        remote::time_series(&[("__name__", &rest), ("job", "j")], &[(now, 1.0)]),
    ])
}

/// Labels whose text is not UTF-8: the encoder takes none, so that the bytes are changed afterwards.
fn not_utf8(labels: &[(&str, &str)], now: i64) -> Vec<u8> {
    let mut bytes = WriteRequest {
        timeseries: vec![remote::time_series(labels, &[(now, 1.0)])],
        metadata: vec![],
    }
    .encode_to_vec();
    for byte in &mut bytes {
        if *byte == b'@' {
            *byte = 0xff;
        }
    }
    pack(&bytes)
}

fn metadata(kind: i32) -> Vec<u8> {
    let metadata = MetricMetadata {
        r#type: kind,
        metric_family_name: "m".into(),
        help: "help".into(),
        unit: String::new(),
    };
    pack(
        &WriteRequest {
            timeseries: vec![],
            metadata: vec![metadata],
        }
        .encode_to_vec(),
    )
}

/// A snappy block that is not compressed: one unknown field of so many zero bytes.
fn stored(bytes: usize) -> Vec<u8> {
    let varint = |mut n: usize| {
        let mut out = Vec::new();
        while n >= 0x80 {
            out.push(n as u8 | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
        out
    };
    let mut message = vec![0x7a];
    message.extend(varint(bytes));
    message.resize(message.len() + bytes, 0);
    let mut block = varint(message.len());
    for literal in message.chunks(1 << 16) {
        block.push(61 << 2);
        block.extend(((literal.len() - 1) as u16).to_le_bytes());
        block.extend(literal);
    }
    block
}

fn bodies(now: i64) -> Vec<Case> {
    let labels = [("__name__", "good"), ("instance", "a:1"), ("job", "j")];
    let good = || one(&labels, &[(now, 1.0)]);
    let mut truncated = good();
    truncated.truncate(truncated.len() - 3);
    let mut longer = good();
    longer.extend(b"xx");
    let mut large = vec![0x7a, 0x80, 0x80, 0x80, 0x21];
    large.resize(large.len() + (66 << 20), 0);
    vec![
        same("good", good(), 204),
        same("truncated", truncated, 400),
        same("more behind the block", longer, 400),
        same("not snappy", b"garbage that is no snappy block".to_vec(), 400),
        same("says 4 GiB", vec![0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2, 3], 400),
        same("says 100 MiB", vec![0x80, 0x80, 0x80, 0x32, 0, 0, 0], 400),
        differs(LARGE, "has 66 MiB decompressed", pack(&large), 204, 400),
        differs(LARGE, "has 40 MiB as sent", stored(40 << 20), 204, 400),
        same("no protobuf", pack(&[0xff; 100]), 400),
        same("a number for a series", pack(&[0x08, 0x01]), 400),
        same("an unknown field", pack(&[0x7a, 3, b'a', b'b', b'c']), 204),
        same("empty", vec![], 400),
        same("an empty message", pack(&[]), 204),
        same("metadata", metadata(1), 204),
        same("metadata of an unknown kind", metadata(99), 204),
        same("no samples", one(&labels, &[]), 204),
        same(
            "labels out of order",
            one(&[("job", "j"), ("__name__", "unsorted")], &[(now, 1.0)]),
            204,
        ),
        same(
            "an empty value",
            one(&[("__name__", "empty_value"), ("x", "")], &[(now, 1.0)]),
            204,
        ),
    ]
}

fn headers(now: i64) -> Vec<Case> {
    let good = || one(&[("__name__", "good"), ("job", "headers")], &[(now, 1.0)]);
    vec![
        header("content-type", "", good(), 204),
        header(
            "content-type",
            "application/x-protobuf;proto=prometheus.WriteRequest",
            good(),
            204,
        ),
        header("content-type", "text/plain", good(), 415),
        header("content-type", "application/json", good(), 415),
        header(
            "content-type",
            "application/x-protobuf;proto=io.prometheus.write.v2.Request",
            good(),
            204,
        ),
        header("content-encoding", "", good(), 204),
        header("content-encoding", "gzip", good(), 415),
        header("content-encoding", "zstd", good(), 415),
        method(reqwest::Method::GET, 405),
        method(reqwest::Method::PUT, 405),
        method(reqwest::Method::DELETE, 405),
        method(reqwest::Method::HEAD, 405),
        method(reqwest::Method::OPTIONS, 204),
    ]
}

fn labels(now: i64) -> Vec<Case> {
    let at = &[(now, 1.0)];
    let twice = |value| one(&[("__name__", "twice"), ("job", "j"), ("job", value)], at);
    vec![
        differs(INVALID, "no name", one(&[("job", "j")], at), 204, 400),
        differs(INVALID, "no labels", one(&[], at), 500, 400),
        differs(INVALID, "a label twice", twice("k"), 500, 400),
        differs(INVALID, "a label twice, alike", twice("j"), 500, 400),
        differs(
            INVALID,
            "an empty label name",
            one(&[("__name__", "x"), ("", "x")], at),
            204,
            400,
        ),
        differs(
            INVALID,
            "a value that is not UTF-8",
            not_utf8(&[("__name__", "x"), ("v", "@")], now),
            204,
            400,
        ),
        differs(
            INVALID,
            "a name that is not UTF-8",
            not_utf8(&[("__name__", "@")], now),
            204,
            400,
        ),
        // Dropped by 2.42, valid since Prometheus 3.0.
        same("a name of UTF-8", one(&[("__name__", "a-b"), ("job", "j")], at), 204),
        same(
            "a label name of UTF-8",
            one(&[("__name__", "x"), ("a-b", "j")], at),
            204,
        ),
    ]
}

/// In this order, one after the other.
fn order(now: i64) -> Vec<Case> {
    let minutes = 60_000;
    vec![
        same("first", with_rest("o", &[(now, 1.0)], now), 204),
        same("the same again", with_rest("o", &[(now, 1.0)], now), 204),
        same("another value", with_rest("o", &[(now, 2.0)], now), 400),
        differs(
            LATE,
            "a second back",
            with_rest("o", &[(now - 1000, 2.0)], now),
            400,
            204,
        ),
        same(
            "an hour back, in its series",
            with_rest("o", &[(now - 60 * minutes, 2.0)], now),
            400,
        ),
        differs(
            LATE,
            "unordered within one series",
            with_rest("u", &[(now, 1.0), (now - 5000, 2.0)], now),
            204,
            204,
        ),
        same(
            "14 hours back",
            with_rest("old", &[(now - 840 * minutes, 1.0)], now),
            400,
        ),
        same(
            "5 minutes ahead",
            with_rest("soon", &[(now + 5 * minutes, 1.0)], now),
            204,
        ),
        differs(
            FUTURE,
            "30 minutes ahead",
            with_rest("ahead", &[(now + 30 * minutes, 1.0)], now),
            204,
            400,
        ),
    ]
}

async fn ask(http: &Http, case: &Case) -> (u16, String, Option<String>) {
    let mut request = http
        .client()
        .request(case.method.clone(), http.url("/api/v1/write"))
        .body(case.body.clone());
    for (name, value) in &case.headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap_or_else(|e| panic!("{}: {e}", case.name));
    let allow = response
        .headers()
        .get("allow")
        .map(|v| v.to_str().unwrap_or("?").to_owned());
    (
        response.status().as_u16(),
        response.text().await.unwrap_or_default(),
        allow,
    )
}

async fn start_prometheus(folder: &std::path::Path) -> Option<Prometheus> {
    let program = peers::find("prometheus", "prometheus")?;
    let peer = Prometheus::launch(&program, folder, "peer", "", &["--web.enable-remote-write-receiver"]);
    peer.until_ready().await;
    Some(peer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_are_answered_as_prometheus_does_and_the_rest_is_kept() {
    let folder = tempfile::tempdir().expect("temp folder");
    let node = Node::start(folder.path(), "", &["--web.enable-remote-write-receiver"]).await;
    let peer = start_prometheus(folder.path()).await;
    let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
    let page = include_str!("../../docs/compat.md");
    let rows = page.split("## ").find(|section| section.starts_with("Remote write"));
    let rows = rows.expect("a section on remote write");
    let cases = [bodies(now), headers(now), labels(now), order(now)];
    let mut wrong = Vec::new();
    for case in cases.iter().flatten() {
        let (code, text, allow) = ask(&node.http, case).await;
        if code != case.gnomon {
            wrong.push(format!(
                "{}: gnomon {code} {text:?}, expected {}",
                case.name, case.gnomon
            ));
        }
        let is_error = code >= 400 && case.method != reqwest::Method::HEAD;
        assert_eq!(text.is_empty(), !is_error, "{}: {code} {text:?}", case.name);
        if let Some(peer) = &peer {
            let (theirs, text, their_allow) = ask(&peer.http, case).await;
            if theirs != case.prometheus {
                wrong.push(format!(
                    "{}: prometheus {theirs} {text:?}, expected {}",
                    case.name, case.prometheus
                ));
            }
            assert_eq!(allow, their_allow, "{}", case.name);
        }
        if let Some(row) = case.row {
            assert!(rows.contains(row), "docs/compat.md has no row {row:?} of remote write");
        } else {
            assert_eq!(
                case.gnomon, case.prometheus,
                "{}: a difference without a row",
                case.name
            );
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // What stood beside a refused sample is there, and the refused one is not.
    let count = async |query: &str| {
        let data = node.http.query(query, (now + 1000) as f64 / 1000.0).await;
        data["result"].as_array().map_or(0, Vec::len)
    };
    for name in ["o", "u", "old", "ahead"] {
        assert_eq!(count(&format!("rest_of_{name}")).await, 1, "rest_of_{name}");
    }
    assert_eq!(count("old or ahead").await, 0);
    assert_eq!(count(r#"{job="headers"}"#).await, 1);
    let values = node.http.query("o", now as f64 / 1000.0).await;
    assert_eq!(values["result"][0]["value"][1], "1", "the first value stays");
}

#[tokio::test]
async fn new_series_beyond_a_limit_are_refused_and_the_rest_is_taken() {
    let folder = tempfile::tempdir().expect("temp folder");
    let flags = [
        "--web.enable-remote-write-receiver",
        "--ingest.shards=1",
        "--ingest.max-series=4",
        "--ingest.max-series-per-metric=2",
    ];
    let mut node = Node::start(folder.path(), "", &flags).await;
    let now = crate::retention::now_ms();
    let write = async |series: &[(&str, &str)], at: i64| {
        let series = series.iter().map(|(name, instance)| {
            let labels = [("__name__", *name), ("instance", *instance)];
            remote::time_series(&labels, &[(at, 1.0)])
        });
        remote::send(&node.http, remote::body(series.collect()))
            .await
            .expect("an answer")
    };
    let (code, text) = write(&[("a", "1"), ("a", "2"), ("a", "3"), ("b", "1")], now - 2).await;
    assert_eq!(code, 400, "{text}");
    assert!(text.contains("1 samples refused, 3 committed"), "{text}");
    assert!(
        text.contains("--ingest.max-series-per-metric") && text.contains(r#"instance="3""#),
        "{text}"
    );
    let (code, text) = write(&[("c", "1"), ("d", "1"), ("a", "1")], now - 1).await;
    assert_eq!(code, 400, "{text}");
    assert!(text.contains("1 samples refused, 2 committed"), "{text}");
    assert!(
        text.contains("--ingest.max-series,") && text.contains(r#"__name__="d""#),
        "{text}"
    );
    // What is there goes on.
    let (code, text) = write(&[("a", "1"), ("a", "2"), ("b", "1"), ("c", "1")], now).await;
    assert_eq!(code, 204, "{text}");
    let (_, metrics) = node.http.get("/metrics").await;
    let refused = |reason: &str| {
        let line = format!("gnomon_ingester_refused_samples_total{{reason=\"{reason}\"}} ");
        metrics.lines().find_map(|l| l.strip_prefix(&line)).map(str::to_owned)
    };
    assert_eq!(refused("metric_limit").as_deref(), Some("1"), "{metrics}");
    assert_eq!(refused("series_limit").as_deref(), Some("1"), "{metrics}");
    assert_eq!(node.process.interrupt().await, Some(0), "{}", node.process.log());
}
