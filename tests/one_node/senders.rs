//! Real senders at their default settings, while the receiver is overloaded, stands still, and is away: nothing that was
//! scraped is missing in the end. `make test-senders` does it for ten minutes.

use super::writers::now_ms;
use crate::harness::reference::Prometheus;
use crate::harness::{Http, Node, Process, eventually, free_port, package, peers};
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How long the trouble lasts.
fn overload() -> Duration {
    let seconds = std::env::var("GNOMON_OVERLOAD_SECONDS").ok();
    Duration::from_secs(seconds.and_then(|s| s.parse().ok()).unwrap_or(12))
}

/// Counts its scrapes: what it says is their number, so that one that is missing is seen.
async fn counting_target() -> (u16, Arc<AtomicU64>) {
    let scrapes = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&scrapes);
    let metrics = move || {
        let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
        let text = format!("# TYPE scrape_number gauge\nscrape_number {number}\n");
        async move { ([("content-type", "text/plain; version=0.0.4")], text) }
    };
    let routes = axum::Router::new().route("/metrics", axum::routing::get(metrics));
    (serve(routes).await, scrapes)
}

async fn serve(routes: axum::Router) -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    port
}

/// Stands before the receiver, and answers in its place that there is too much to do.
#[derive(Clone)]
struct Front {
    to: Http,
    overloaded: Arc<AtomicBool>,
    refused: Arc<AtomicU64>,
}

async fn forward(State(front): State<Front>, request: Request) -> Response {
    if front.overloaded.load(Ordering::SeqCst) {
        front.refused.fetch_add(1, Ordering::SeqCst);
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            [("retry-after", "1")],
            "too much to do\n",
        )
            .into_response();
    }
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    let Ok(body) = to_bytes(body, 64 << 20).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let headers: HeaderMap = parts
        .headers
        .into_iter()
        .filter_map(|(n, v)| Some((n?, v)))
        .filter(|(n, _)| n != "host")
        .collect();
    let sent = front
        .to
        .client()
        .request(parts.method, front.to.url(&path))
        .headers(headers)
        .body(body);
    match sent.send().await {
        Ok(answer) => {
            let mut response = Response::builder().status(answer.status());
            for (name, value) in answer.headers().iter().filter(|(n, _)| *n == "retry-after") {
                response = response.header(name, value);
            }
            let body = answer.bytes().await.unwrap_or_default();
            response.body(Body::from(body)).unwrap_or_default()
        }
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

/// Overloaded; then still, as a machine that swaps; then killed and started again.
async fn trouble(mut node: Node, front: &Front) -> Node {
    let third = overload() / 3;
    front.overloaded.store(true, Ordering::SeqCst);
    tokio::time::sleep(third).await;
    front.overloaded.store(false, Ordering::SeqCst);
    node.process.signal("-STOP");
    tokio::time::sleep(third).await;
    node.process.signal("-CONT");
    node.until_ready().await;
    node.process.kill();
    tokio::time::sleep(third).await;
    node.restart().await.0
}

/// Every scrape from the first one that arrived to the last is there, once.
async fn all_scrapes_are_there(node: &Node, job: &str, scrapes: u64) {
    let last = eventually(&format!("scrape {scrapes} of {job}"), async || {
        let query = format!("scrape_number{{job='{job}'}}");
        let data = node.http.query(&query, now_ms() as f64 / 1000.0).await;
        let value = data["result"][0]["value"][1].as_str()?.parse::<u64>().ok()?;
        (value >= scrapes).then_some(value)
    })
    .await;
    let query = format!("scrape_number{{job='{job}'}}[30m]");
    let data = node.http.query(&query, now_ms() as f64 / 1000.0).await;
    let mut seen = BTreeMap::<u64, u32>::new();
    for value in data["result"][0]["values"].as_array().into_iter().flatten() {
        if let Some(number) = value[1].as_str().and_then(|v| v.parse().ok()) {
            *seen.entry(number).or_default() += 1;
        }
    }
    let missing: Vec<_> = (1..=last).filter(|n| !seen.contains_key(n)).collect();
    assert!(
        missing.is_empty(),
        "{job}: of {last} scrapes these are missing: {missing:?}"
    );
    assert!(seen.values().all(|n| *n == 1), "{job}: twice: {seen:?}");
}

fn metric(text: &str, name: &str) -> f64 {
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

struct Vmagent {
    process: Process,
    http: Http,
}

fn launch_vmagent(program: &Path, folder: &Path, scrape: &str, url: &str) -> Vmagent {
    let port = free_port();
    let config = folder.join("vmagent.yml");
    std::fs::write(&config, scrape).expect("configuration");
    let mut command = Command::new(program);
    command
        .arg(format!("-promscrape.config={}", config.display()))
        .arg(format!("-remoteWrite.url={url}"))
        .arg(format!("-remoteWrite.tmpDataPath={}", folder.join("vmagent").display()))
        .arg(format!("-httpListenAddr=127.0.0.1:{port}"));
    Vmagent {
        process: Process::start("vmagent", &mut command, folder.join("vmagent.log")),
        http: Http::new(&format!("http://127.0.0.1:{port}")),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stock_senders_lose_nothing_through_an_overload() {
    let prometheus = peers::find("prometheus", "prometheus");
    let vmagent = peers::find("victoria-metrics", "vmagent");
    if prometheus.is_none() && vmagent.is_none() {
        return;
    }
    let folder = tempfile::tempdir().expect("temp folder");
    let node = Node::start(folder.path(), "", &["--web.enable-remote-write-receiver"]).await;
    let front = Front {
        to: node.http.clone(),
        overloaded: Arc::default(),
        refused: Arc::default(),
    };
    let routes = axum::Router::new().fallback(forward).with_state(front.clone());
    let url = format!("http://127.0.0.1:{}/api/v1/write", serve(routes).await);
    let scrape = |job: &str, port: u16| {
        format!(
            "global: {{scrape_interval: 1s}}\n\
             scrape_configs: [{{job_name: {job}, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]\n"
        )
    };
    let mut senders = Vec::new();
    let (port, scrapes) = counting_target().await;
    let prometheus = prometheus.map(|program| {
        let yaml = format!("{}remote_write: [{{url: '{url}'}}]\n", scrape("prometheus", port));
        senders.push(("prometheus", scrapes));
        Prometheus::launch_at(free_port(), &program, folder.path(), "sender", &yaml, &[])
    });
    let (port, scrapes) = counting_target().await;
    let vmagent = vmagent.map(|program| {
        senders.push(("vmagent", scrapes));
        launch_vmagent(&program, folder.path(), &scrape("vmagent", port), &url)
    });
    for (job, _) in &senders {
        eventually(&format!("the first samples of {job}"), async || {
            let data = node
                .http
                .query(&format!("scrape_number{{job='{job}'}}"), now_ms() as f64 / 1000.0)
                .await;
            data["result"][0].is_object().then_some(())
        })
        .await;
    }
    let node = trouble(node, &front).await;
    assert!(
        front.refused.load(Ordering::SeqCst) > 0,
        "nobody was told to come again"
    );
    for (job, scrapes) in &senders {
        all_scrapes_are_there(&node, job, scrapes.load(Ordering::SeqCst)).await;
    }
    // By their own account too.
    if let Some(prometheus) = &prometheus {
        let (_, text) = prometheus.http.get("/metrics").await;
        for name in [
            "prometheus_remote_storage_samples_failed_total",
            "prometheus_remote_storage_samples_dropped_total",
        ] {
            assert_eq!(metric(&text, name), 0.0, "{name}");
        }
        // Whether it was its requests that met the refusals is chance.
        let retried = metric(&text, "prometheus_remote_storage_samples_retried_total");
        println!("Prometheus sent {retried} samples again");
    }
    if let Some(vmagent) = &vmagent {
        let (_, text) = vmagent.http.get("/metrics").await;
        assert_eq!(metric(&text, "vmagent_remotewrite_packets_dropped_total"), 0.0);
        assert!(
            metric(&text, "vmagent_remotewrite_retries_count_total") > 0.0,
            "{}",
            vmagent.process.log()
        );
    }
}

/// The interpreter that `deploy/setup.sh senders` made ready; none, with a word, where it is missing.
fn python() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home)?;
    let python = cache.join("gnomon/peers/senders/bin/python3");
    if !python.is_file() {
        eprintln!("skipped: Python with grpcio and the OpenTelemetry SDK is missing (`make test-senders` fetches it)");
        return None;
    }
    Some(python)
}

/// Senders in Python: the OpenTelemetry SDK's exporters for HTTP and gRPC, and a client made from `write.proto`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn senders_in_python_lose_nothing_through_an_overload() {
    let Some(python) = python() else { return };
    let folder = tempfile::tempdir().expect("temp folder");
    let grpc = free_port();
    let address = format!("--ingest.grpc-listen-address=127.0.0.1:{grpc}");
    let flags = [
        "--web.enable-remote-write-receiver",
        "--web.enable-otlp-receiver",
        &address,
    ];
    let node = Node::start(folder.path(), "", &flags).await;
    let front = Front {
        to: node.http.clone(),
        overloaded: Arc::default(),
        refused: Arc::default(),
    };
    let routes = axum::Router::new().fallback(forward).with_state(front.clone());
    let http = format!("http://127.0.0.1:{}", serve(routes).await);
    let scripts = package().join("tests/senders");
    let seconds = (overload().as_secs() + 5).to_string();
    let start = |script: &str, name: &str, to: &str| {
        let mut command = Command::new(&python);
        command
            .arg(scripts.join(script))
            .args([to, name, &seconds])
            .env_remove("http_proxy")
            .env("no_proxy", "127.0.0.1");
        Process::start(name, &mut command, folder.path().join(format!("{name}.log")))
    };
    let grpc = format!("127.0.0.1:{grpc}");
    let mut senders = vec![
        start("otlp.py", "otlp_http", &format!("{http}/api/v1/otlp/v1/metrics")),
        start("otlp.py", "otlp_grpc", &grpc),
        start("write.py", "write_stream", &grpc),
    ];
    for name in ["otlp_http_total", "otlp_grpc_total", "write_stream"] {
        eventually(&format!("the first samples of {name}"), async || {
            let data = node.http.query(name, now_ms() as f64 / 1000.0).await;
            data["result"][0].is_object().then_some(())
        })
        .await;
    }
    let node = trouble(node, &front).await;
    for sender in &mut senders {
        // After a long absence gRPC looks for its server every two minutes only.
        let until = tokio::time::Instant::now() + Duration::from_secs(240);
        while !sender.has_ended() && tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(sender.has_ended(), "it goes on for ever: {}", sender.log());
        assert_eq!(sender.ended().await, Some(0), "{}", sender.log());
    }
    // What each of them says it has sent in the end is there.
    for (name, sender) in ["otlp_http_total", "otlp_grpc_total"].iter().zip(&senders) {
        let log = sender.log();
        let sent = log
            .lines()
            .rev()
            .find_map(|line| line.strip_prefix("counted "))
            .expect("a count")
            .to_owned();
        let data = node
            .http
            .query(&format!("max_over_time({name}[30m])"), now_ms() as f64 / 1000.0)
            .await;
        assert_eq!(data["result"][0]["value"][1], sent.as_str(), "{name}: {data}");
    }
    let log = senders[2].log();
    let sent = log
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("acknowledged "))
        .expect("a count")
        .to_owned();
    let data = node
        .http
        .query("count_over_time(write_stream[30m])", now_ms() as f64 / 1000.0)
        .await;
    assert_eq!(data["result"][0]["value"][1], sent.as_str(), "{data}");
}
