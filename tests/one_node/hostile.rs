//! A target of ten million series, against the binary as it is, without any limit set.

use crate::harness::{Node, client, eventually};
use axum::body::Body;
use axum::http::Response;
use std::convert::Infallible;

const SERIES: u32 = 10_000_000;
/// What the process may take at most; the bodies and caches of all scrapes are bounded well below it.
const MOST_RESIDENT_KIB: u64 = 2 << 20;

/// As many series as it takes, line by line.
async fn millions() -> Response<Body> {
    let chunks = (0..SERIES / 1000).map(|thousand| {
        let line = |i: u32| format!("huge{{n=\"{}\"}} 1\n", thousand * 1000 + i);
        Ok::<_, Infallible>((0..1000).map(line).collect::<String>())
    });
    let mut response = Response::new(Body::from_stream(futures::stream::iter(chunks)));
    let content_type = "text/plain; version=0.0.4".parse().expect("a header");
    response.headers_mut().insert("content-type", content_type);
    response
}

fn peak_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_million_series_are_refused_and_cost_the_others_nothing() {
    let folder = tempfile::tempdir().expect("temp folder");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let small = || async { ([("content-type", "text/plain; version=0.0.4")], "small 1\n") };
    let routes = axum::Router::new()
        .route("/huge", axum::routing::get(millions))
        .route("/small", axum::routing::get(small));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let yaml = format!(
        "scrape_configs:\n\
         - {{job_name: huge, scrape_interval: 50s, scrape_timeout: 50s, metrics_path: /huge, static_configs: [{{targets: ['{address}']}}]}}\n\
         - {{job_name: small, scrape_interval: 1s, scrape_timeout: 1s, metrics_path: /small, static_configs: [{{targets: ['{address}']}}]}}\n"
    );
    let node = Node::start(folder.path(), &yaml, &[]).await;
    let scraped = || async {
        let targets = node.http.api("/api/v1/targets?scrapePool=huge").await;
        let target = targets["activeTargets"][0].clone();
        (target["health"] != "unknown").then_some(target)
    };
    // Its offset may be the whole interval.
    let target = match eventually_twice(scraped).await {
        Some(target) => target,
        None => panic!("the huge target was not scraped"),
    };
    assert_eq!(target["health"], "down");
    assert_eq!(
        target["lastError"],
        "sample limit exceeded: more than 2000000 samples, and the job sets no sample_limit"
    );
    let peak = peak_kib(node.process.id());
    println!("peak resident memory: {} MiB", peak >> 10);
    assert!(peak < MOST_RESIDENT_KIB, "{peak} KiB");
    let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs_f64();
    let huge = client::series(&node.http.query("count(huge)", now).await);
    assert!(
        huge.is_empty(),
        "nothing of a scrape that was refused is stored: {huge:?}"
    );
    // Shown as down before it is pushed that it is.
    eventually("both to be known", async || {
        let up = client::series(&node.http.query("up", now).await);
        let values: Vec<_> = up.values().map(|samples| samples[0].1.as_str()).collect();
        (values == ["0", "1"]).then_some(())
    })
    .await;
    eventually("the other target to be scraped on", async || {
        let later = client::series(
            &node
                .http
                .query(&format!("small and timestamp(small) > {now}"), now + 60.0)
                .await,
        );
        (!later.is_empty()).then_some(())
    })
    .await;
}

/// Patience for two intervals.
async fn eventually_twice<T, F: Future<Output = Option<T>>>(check: impl Fn() -> F) -> Option<T> {
    for _ in 0..2 {
        let deadline = tokio::time::Instant::now() + crate::harness::PATIENCE;
        while tokio::time::Instant::now() < deadline {
            if let Some(found) = check().await {
                return Some(found);
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
    None
}
