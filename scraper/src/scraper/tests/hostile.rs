//! Targets that do not answer as they should: each is contained and reported in Prometheus' words.

use super::*;
use flate2::write::GzEncoder;
use std::io::Write;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

#[tokio::test]
async fn a_target_that_hangs_is_given_up_at_its_timeout() {
    let server = Server::start(|_, socket| {
        Box::pin(async move {
            let _held = socket;
            std::future::pending::<()>().await;
        })
    })
    .await;
    let rig = Rig::scraping(job(&server.address)).await;
    let target = rig.failed().await;
    assert_eq!(
        target.last_error,
        format!("Get \"http://{}/metrics\": context deadline exceeded", server.address)
    );
    assert!(target.last_scrape_duration_seconds < 5.0);
}

#[tokio::test]
async fn a_target_that_is_not_there_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let target = Rig::scraping(job(&address)).await.failed().await;
    assert_eq!(
        target.last_error,
        format!("Get \"http://{address}/metrics\": dial tcp {address}: connect: connection refused")
    );
}

#[tokio::test]
async fn a_name_that_does_not_resolve_is_said() {
    let mut config = job("does-not-exist.invalid:1");
    config.scrape_interval = Duration::from_secs(2);
    config.scrape_timeout = Duration::from_secs(2);
    let target = Rig::scraping(config).await.failed().await;
    let error = &target.last_error;
    assert!(
        error.contains("no such host") || error.contains("context deadline exceeded"),
        "{error}"
    );
}

/// An endless body: chunks of good lines, as fast as they are taken.
async fn endless(pause: Option<Duration>) -> Server {
    Server::start(move |_, mut socket| {
        Box::pin(async move {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
            let lines = "a_metric_of_some_length 1\n".repeat(200);
            let chunk = format!("{:x}\r\n{lines}\r\n", lines.len());
            let _ = socket.write_all(head.as_bytes()).await;
            while socket.write_all(chunk.as_bytes()).await.is_ok() {
                if let Some(pause) = pause {
                    tokio::time::sleep(pause).await;
                }
            }
        })
    })
    .await
}

#[tokio::test]
async fn an_endless_stream_ends_at_the_body_limit() {
    let server = endless(None).await;
    let mut config = job(&server.address);
    config.limits.body_size_bytes = Some(1 << 20);
    config.scrape_interval = Duration::from_secs(2);
    config.scrape_timeout = Duration::from_secs(2);
    config.extra_scrape_metrics = true;
    let rig = Rig::scraping(config).await;
    let tick = rig.sink.wait_for("up 0", |t| t.value("up") == Some(0.0)).await;
    assert_eq!(tick.value("scrape_body_size_bytes"), Some(-1.0));
    assert_eq!(tick.value("scrape_timeout_seconds"), Some(2.0));
    assert_eq!(rig.list().active[0].last_error, "body size limit exceeded");
    assert_eq!(
        rig.counter("prometheus_target_scrapes_exceeded_body_size_limit_total"),
        1.0
    );
}

#[tokio::test]
async fn a_slow_endless_stream_ends_at_the_timeout() {
    let server = endless(Some(Duration::from_millis(10))).await;
    let target = Rig::scraping(job(&server.address)).await.failed().await;
    assert_eq!(target.last_error, "context deadline exceeded");
}

#[tokio::test]
async fn a_packed_bomb_ends_at_the_body_limit() {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
    let zeros = vec![b'\n'; 1 << 20];
    for _ in 0..64 {
        encoder.write_all(&zeros).unwrap();
    }
    let packed = encoder.finish().unwrap();
    assert!(packed.len() < 100 << 10);
    let headers = [("Content-Type", "text/plain"), ("Content-Encoding", "gzip")];
    let server = Server::fixed(testing::ok(&headers, &packed)).await;
    let mut config = job(&server.address);
    config.limits.body_size_bytes = Some(10 << 20);
    config.scrape_interval = Duration::from_secs(2);
    config.scrape_timeout = Duration::from_secs(2);
    let target = Rig::scraping(config).await.failed().await;
    assert_eq!(target.last_error, "body size limit exceeded");
}

#[tokio::test]
async fn a_body_shorter_than_promised_is_refused() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\na 1\n";
    let server = Server::fixed(answer.as_bytes().to_vec()).await;
    let target = Rig::scraping(job(&server.address)).await.failed().await;
    assert_eq!(target.last_error, "unexpected EOF");
}

#[tokio::test]
async fn a_chunked_body_that_is_cut_has_an_unexpected_end() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
    for cut in ["4\r\na 1\n\r\n", "4\r\na 1\n", "4\r\na", "4\r\na 1\n\r\n4"] {
        let server = Server::fixed(format!("{head}{cut}").into_bytes()).await;
        let target = Rig::scraping(job(&server.address)).await.failed().await;
        assert_eq!(target.last_error, "unexpected EOF", "{cut:?}");
    }
    let server = Server::fixed(format!("{head}4\r\na 1\n\r\nx\r\n").into_bytes()).await;
    let target = Rig::scraping(job(&server.address)).await.failed().await;
    assert_eq!(target.last_error, "invalid byte in chunk length");
}

#[tokio::test]
async fn the_error_of_a_redirect_names_where_it_led() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = listener.local_addr().unwrap().to_string();
    drop(listener);
    let moved =
        |to: &str| format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let server = Server::fixed(moved(&format!("http://user:pass@{closed}/there")).into_bytes()).await;
    let target = Rig::scraping(job(&server.address)).await.failed().await;
    assert_eq!(
        target.last_error,
        format!("Get \"http://user:***@{closed}/there\": dial tcp {closed}: connect: connection refused")
    );
    let server = Server::fixed(moved("/metrics").into_bytes()).await;
    let target = Rig::scraping(job(&server.address)).await.failed().await;
    let url = format!("http://{}/metrics", server.address);
    assert_eq!(target.last_error, format!("Get {url:?}: stopped after 10 redirects"));
    assert_eq!(server.heads.lock().len() % 10, 0, "ten requests each time");
}

#[tokio::test]
async fn packed_garbage_and_cut_gzip_are_refused() {
    let headers = [("Content-Type", "text/plain"), ("Content-Encoding", "gzip")];
    let server = Server::fixed(testing::ok(&headers, b"not gzip at all")).await;
    let target = Rig::scraping(job(&server.address)).await.failed().await;
    assert!(target.last_error.starts_with("gzip: "), "{}", target.last_error);
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(b"a 1\nb 2\n").unwrap();
    let packed = encoder.finish().unwrap();
    let server = Server::fixed(testing::ok(&headers, &packed[..packed.len() - 6])).await;
    let target = Rig::scraping(job(&server.address)).await.failed().await;
    assert_eq!(target.last_error, "unexpected EOF");
}

#[tokio::test]
async fn garbage_is_refused_with_what_was_expected() {
    let server = Server::exposing_text("a 1\n\u{1}\u{2}garbage\n").await;
    let rig = Rig::scraping(job(&server.address)).await;
    let error = rig.failed().await.last_error;
    assert!(error.starts_with("expected a valid start token, got "), "{error}");
}

#[tokio::test]
async fn a_failing_server_and_no_server_at_all_are_told_apart() {
    let answer = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let server = Server::fixed(answer.to_vec()).await;
    let target = Rig::scraping(job(&server.address)).await.failed().await;
    assert_eq!(
        target.last_error,
        "server returned HTTP status 500 Internal Server Error"
    );
    let answer = b"HTTP/1.1 418 Short and stout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let server = Server::fixed(answer.to_vec()).await;
    let target = Rig::scraping(job(&server.address)).await.failed().await;
    assert_eq!(target.last_error, "server returned HTTP status 418 Short and stout");
    let closing = Server::fixed(Vec::new()).await;
    let target = Rig::scraping(job(&closing.address)).await.failed().await;
    assert_eq!(
        target.last_error,
        format!("Get \"http://{}/metrics\": EOF", closing.address)
    );
}

#[tokio::test]
async fn failures_are_written_to_the_log_of_the_job() {
    let server = Server::exposing_text("garbage\n").await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("failures.log");
    let mut config = job(&server.address);
    config.scrape_failure_log_file = Some(path.clone());
    let rig = Rig::scraping(config).await;
    let error = rig.failed().await.last_error;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let written = loop {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if let Some(line) = text.lines().next() {
            break serde_json::from_str::<serde_json::Value>(line).unwrap();
        }
        assert!(tokio::time::Instant::now() < deadline, "nothing was written");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert_eq!(written["msg"].as_str(), Some(error.as_str()));
}

#[tokio::test]
async fn limits_refuse_the_scrape_and_say_which() {
    let server = Server::exposing_text("a 1\nb{long_label=\"1\"} 2\nc 3\n").await;
    let mut samples = job(&server.address);
    samples.limits.samples = Some(2);
    let rig = Rig::scraping(samples).await;
    assert_eq!(rig.failed().await.last_error, "sample limit exceeded");
    let tick = rig.sink.ticks.lock()[0].clone();
    assert_eq!(tick.value("scrape_samples_post_metric_relabeling"), Some(3.0));
    assert!(rig.counter("prometheus_target_scrapes_exceeded_sample_limit_total") >= 1.0);
    let mut labels = job(&server.address);
    labels.limits.label_name_bytes = Some(9);
    let error = Rig::scraping(labels).await.failed().await.last_error;
    assert!(
        error.starts_with("label_name_length_limit exceeded (metric: b,"),
        "{error}"
    );
    let mut targets = named("job", &[&server.address, "127.0.0.1:1"]);
    targets.limits.targets = Some(1);
    let error = Rig::scraping(targets).await.failed().await.last_error;
    assert_eq!(error, "target_limit exceeded (number of targets: 2, limit: 1)");
}

#[tokio::test]
async fn ten_million_series_are_refused_in_bounded_memory() {
    let server = Server::start(|_, mut socket| {
        Box::pin(async move {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n";
            let _ = socket.write_all(head.as_bytes()).await;
            for thousand in 0..10_000 {
                let lines: String = (0..1000).map(|i| format!("m{{n=\"{thousand}_{i}\"}} 1\n")).collect();
                if socket.write_all(lines.as_bytes()).await.is_err() {
                    return;
                }
            }
        })
    })
    .await;
    let mut config = job(&server.address);
    config.limits.body_size_bytes = Some(8 << 20);
    config.limits.samples = Some(100_000);
    config.scrape_interval = Duration::from_secs(5);
    config.scrape_timeout = Duration::from_secs(5);
    let target = Rig::scraping(config).await.failed().await;
    assert_eq!(target.last_error, "body size limit exceeded");
}
