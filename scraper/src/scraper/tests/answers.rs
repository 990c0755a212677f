//! Targets that answer as they should.

use super::*;
use crate::config::http::{Auth, Authorization, BasicAuth};
use crate::config::{ScrapeProtocol, Secret, SecretSource, TextSource};
use flate2::write::GzEncoder;
use gnomon_proto::client::{Gauge, Histogram, Metric, MetricFamily, MetricType};
use prost::Message;
use std::io::Write;
use tokio::io::AsyncWriteExt;

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_text_exposition_becomes_a_tick_with_report_series_and_metadata() {
    let server = Server::exposing_text("# HELP a Help.\n# TYPE a counter\na{x=\"1\"} 5\na{x=\"2\"} 6 1234\n").await;
    let rig = Rig::scraping(job(&server.address)).await;
    let tick = rig.good().await;
    let instance = &server.address;
    let labels = |name: &str| format!(r#"{{__name__="{name}", instance="{instance}", job="job"}}"#);
    let x = |x| format!(r#"{{__name__="a", instance="{instance}", job="job", x="{x}"}}"#);
    assert_eq!(tick.samples[0], (x(1), tick.tick_ms, 5.0));
    assert_eq!(tick.samples[1], (x(2), 1234, 6.0));
    assert_eq!(tick.samples[2], (labels("up"), tick.tick_ms, 1.0));
    assert_eq!(tick.value("scrape_samples_scraped"), Some(2.0));
    assert_eq!(tick.value("scrape_samples_post_metric_relabeling"), Some(2.0));
    assert_eq!(tick.value("scrape_series_added"), Some(2.0));
    assert_eq!(tick.metadata, ["a counter Help."]);
    let second = rig.sink.wait_for("a later tick", |t| t.tick_ms > tick.tick_ms).await;
    assert_eq!(second.value("scrape_series_added"), Some(0.0));
    assert!(second.metadata.is_empty());
    let target = rig.list().active.remove(0);
    assert_eq!((target.health.as_str(), target.last_error.as_str()), ("up", ""));
    assert_eq!(target.scrape_url, format!("http://{instance}/metrics"));
    assert_eq!((target.scrape_interval_ms, target.scrape_timeout_ms), (150, 140));
    assert!(target.last_scrape_ms > 0 && target.last_scrape_duration_seconds > 0.0);
}

#[tokio::test]
async fn requests_say_what_is_wanted_and_until_when() {
    let server = Server::exposing_text("a 1\n").await;
    let mut config = job(&server.address);
    config.params.insert("collect".to_owned(), vec!["a b".to_owned()]);
    let rig = Rig::scraping(config).await;
    rig.good().await;
    let head = server.heads.lock()[0].to_lowercase();
    for line in [
        "get /metrics?collect=a+b http/1.1",
        "accept: application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,",
        "accept-encoding: gzip",
        "user-agent: gnomon/",
        "x-prometheus-scrape-timeout-seconds: 0.14\r\n",
    ] {
        assert!(head.contains(line), "{line:?} is missing in {head}");
    }
}

#[tokio::test]
async fn open_metrics_packed_brings_exemplars() {
    let body = "# TYPE a counter\na_total 1 # {trace_id=\"t\"} 0.5\n# EOF\n";
    let headers = [
        ("Content-Type", "application/openmetrics-text; version=1.0.0"),
        ("Content-Encoding", "gzip"),
    ];
    let server = Server::fixed(testing::ok(&headers, &gzip(body.as_bytes()))).await;
    let rig = Rig::scraping(job(&server.address)).await;
    let tick = rig.good().await;
    assert_eq!(tick.exemplars.len(), 1);
    assert_eq!(tick.exemplars[0].1, r#"{trace_id="t"}"#);
    let second = rig.sink.wait_for("a later tick", |t| t.tick_ms > tick.tick_ms).await;
    assert!(second.exemplars.is_empty(), "the same exemplar is sent once");
}

#[tokio::test]
async fn protobuf_brings_native_histograms() {
    let family = |name: &str, kind, metric| MetricFamily {
        name: Some(name.to_owned()),
        r#type: Some(kind as i32),
        metric: vec![metric],
        ..MetricFamily::default()
    };
    let gauge = Metric {
        gauge: Some(Gauge { value: Some(2.0) }),
        ..Metric::default()
    };
    let histogram = Metric {
        histogram: Some(Histogram {
            sample_count: Some(3),
            sample_sum: Some(1.0),
            schema: Some(0),
            zero_threshold: Some(0.5),
            zero_count: Some(3),
            ..Histogram::default()
        }),
        ..Metric::default()
    };
    let body: Vec<u8> = [
        family("g", MetricType::Gauge, gauge),
        family("h", MetricType::Histogram, histogram),
    ]
    .iter()
    .flat_map(MetricFamily::encode_length_delimited_to_vec)
    .collect();
    let kind = "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited";
    let server = Server::exposing(kind, &body).await;
    let mut config = job(&server.address);
    config.scrape_native_histograms = true;
    let rig = Rig::scraping(config).await;
    let tick = rig.good().await;
    assert_eq!(tick.value("g"), Some(2.0));
    assert_eq!(tick.histograms.len(), 1);
    assert!(tick.histograms[0].starts_with(r#"{__name__="h""#));
    assert_eq!(tick.value("scrape_samples_scraped"), Some(2.0));
}

#[tokio::test]
async fn a_large_body_is_read_whole() {
    let lines: String = (0..20_000)
        .map(|i| format!("metric_{i}{{label=\"value\"}} {i}\n"))
        .collect();
    let server = Server::exposing_text(&lines).await;
    let mut config = job(&server.address);
    config.scrape_interval = Duration::from_secs(1);
    config.scrape_timeout = Duration::from_secs(1);
    let rig = Rig::scraping(config).await;
    let tick = rig.good().await;
    assert_eq!(tick.samples.len(), 20_005);
    assert_eq!(tick.value("metric_19999"), Some(19_999.0));
}

#[tokio::test]
async fn an_empty_body_is_a_good_scrape() {
    let server = Server::fixed(testing::ok(&[], b"")).await;
    let rig = Rig::scraping(job(&server.address)).await;
    assert_eq!(rig.good().await.samples.len(), 5);
}

#[tokio::test]
async fn unknown_types_need_a_fallback() {
    let server = Server::exposing("text/html", "a 1\n").await;
    let rig = Rig::scraping(job(&server.address)).await;
    assert_eq!(
        rig.failed().await.last_error,
        "received unsupported Content-Type \"text/html\" and no fallback_scrape_protocol specified for target"
    );
    let mut config = job(&server.address);
    config.fallback_scrape_protocol = Some(ScrapeProtocol::PrometheusText0_0_4);
    assert_eq!(Rig::scraping(config).await.good().await.value("a"), Some(1.0));
}

#[tokio::test]
async fn redirects_are_followed_unless_told_otherwise() {
    let server = Server::start(|head, mut socket| {
        Box::pin(async move {
            let answer = if head.starts_with("GET /metrics ") {
                b"HTTP/1.1 302 Found\r\nLocation: /moved\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec()
            } else {
                testing::ok(&[("Content-Type", "text/plain")], b"a 1\n")
            };
            let _ = socket.write_all(&answer).await;
        })
    })
    .await;
    assert_eq!(
        Rig::scraping(job(&server.address)).await.good().await.value("a"),
        Some(1.0)
    );
    let mut config = job(&server.address);
    config.http.follow_redirects = false;
    let target = Rig::scraping(config).await.failed().await;
    assert_eq!(target.last_error, "server returned HTTP status 302 Found");
}

#[tokio::test]
async fn an_empty_answer_is_none_of_open_metrics() {
    let server = Server::exposing("application/openmetrics-text; version=1.0.0", "").await;
    let target = Rig::scraping(job(&server.address)).await.failed().await;
    assert_eq!(target.last_error, "data does not end with # EOF");
    let server = Server::exposing("text/plain", "").await;
    Rig::scraping(job(&server.address)).await.good().await;
}

#[tokio::test]
async fn many_headers_are_no_failure() {
    let names: Vec<String> = (0..300).map(|n| format!("X-Header-{n}")).collect();
    let mut headers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "value")).collect();
    headers.push(("Content-Type", "text/plain"));
    let server = Server::fixed(testing::ok(&headers, b"a 1\n")).await;
    Rig::scraping(job(&server.address)).await.good().await;
}

async fn guarded(wanted: &'static str) -> Server {
    Server::start(move |head, mut socket| {
        Box::pin(async move {
            let answer = if head.contains(wanted) {
                testing::ok(&[("Content-Type", "text/plain")], b"a 1\n")
            } else {
                b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec()
            };
            let _ = socket.write_all(&answer).await;
        })
    })
    .await
}

#[tokio::test]
async fn basic_auth_is_sent() {
    let server = guarded("authorization: Basic dXNlcjpwYXNz\r\n").await;
    let rig = Rig::scraping(job(&server.address)).await;
    assert_eq!(
        rig.failed().await.last_error,
        "server returned HTTP status 401 Unauthorized"
    );
    let mut config = job(&server.address);
    config.http.auth = Some(Auth::Basic(BasicAuth {
        username: Some(TextSource::Inline("user".to_owned())),
        password: Some(SecretSource::Inline(Secret::new("pass"))),
    }));
    Rig::scraping(config).await.good().await;
}

#[tokio::test]
async fn a_rotated_token_is_used_without_a_reload() {
    let server = guarded("authorization: Bearer new\r\n").await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "old\n").unwrap();
    let mut config = job(&server.address);
    config.http.auth = Some(Auth::Authorization(Authorization {
        scheme: "Bearer".to_owned(),
        credentials: Some(SecretSource::File(file.path().to_owned())),
    }));
    let rig = Rig::scraping(config).await;
    rig.failed().await;
    std::fs::write(file.path(), "new\n").unwrap();
    rig.good().await;
}

#[tokio::test]
async fn what_the_shards_did_not_take_is_said_again() {
    let server = Server::exposing_text("# HELP a Help.\n# TYPE a gauge\na 1\n").await;
    let rig = Rig::new();
    rig.sink.failures.store(2, std::sync::atomic::Ordering::Relaxed);
    rig.apply([job(&server.address)]).await;
    let said = rig.sink.wait_for("metadata", |tick| !tick.metadata.is_empty()).await;
    assert_eq!(said.metadata, ["a gauge Help."], "metadata is sent until it is taken");
    // The loop's own push failed, and one of what waited; nothing is missing, and all is in order.
    assert_eq!(rig.counter("gnomon_scraper_pushes_failed_total"), 1.0);
    assert!(rig.counter("gnomon_scrape_buffer_ticks_held_total") >= 1.0);
    let ticks = rig.sink.ticks.lock();
    assert!(ticks.iter().all(|tick| tick.value("a") == Some(1.0)));
    assert!(ticks.is_sorted_by_key(|tick| tick.tick_ms));
    let before = ticks.iter().position(|tick| !tick.metadata.is_empty());
    let sent = rig.counter("gnomon_scrape_buffer_ticks_sent_total");
    assert_eq!(before, Some(sent as usize), "what waited came first");
}

#[tokio::test]
async fn what_is_well_before_the_shards_newest_is_counted_as_given_up() {
    let server = Server::exposing_text("a 1\nb 2\n").await;
    let rig = Rig::new();
    rig.sink.earlier.store(1, std::sync::atomic::Ordering::Relaxed);
    rig.apply([job(&server.address)]).await;
    let taken = rig.sink.wait_for("a tick that is taken", |_| true).await;
    let shed = |what: &str| rig.counter_of(&format!("gnomon_scrape_buffer_shed_{what}_total"), "clock");
    assert_eq!((shed("ticks"), shed("samples")), (1.0, taken.samples.len() as f64));
    assert_eq!(rig.counter("gnomon_scraper_ticks_refused_total"), 0.0);
    assert_eq!(
        rig.counter("gnomon_scrape_buffer_ticks_held_total"),
        0.0,
        "nor offered again"
    );
}
