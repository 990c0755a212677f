//! Real senders at their default settings, while the cluster that they write to is overloaded, one of its nodes stands still
//! and one is away: nothing that was acknowledged is missing in the end, and nothing was given up. `make test-senders` does
//! it for ten minutes.

#[path = "senders/flood.rs"]
mod flood;

use crate::harness::reference::Prometheus;
use crate::harness::{Http, Process, eventually, eventually_within, free_port, package, peers};
use crate::trio::{NODES, Trio, now_ms};
use flood::Flood;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Longer than senders wait between two attempts: the SDK's exporter and vmagent up to a minute, gRPC up to two.
const SOME_INTERVALS: Duration = Duration::from_secs(240);

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

/// The samples of the one series that a selector finds: milliseconds, value.
async fn samples(http: &Http, selector: &str) -> Vec<(i64, f64)> {
    let data = http.query(&format!("{selector}[1h]"), now_ms() as f64 / 1000.0).await;
    let values = data["result"][0]["values"].as_array().into_iter().flatten();
    let sample = |pair: &serde_json::Value| {
        let at_ms = (pair[0].as_f64()? * 1000.0).round() as i64;
        Some((at_ms, pair[1].as_str()?.parse().ok()?))
    };
    values.filter_map(sample).collect()
}

/// Every scrape up to the last is there, once, but for those that failed, of which `up` says so: where everybody fights for the
/// processor, some are not answered in time. vmagent sends several blocks at a time, each again after its own pause: one may
/// come long after the last.
async fn all_scrapes_are_there(http: &Http, job: &str, scrapes: u64) {
    let mut lacks = String::new();
    let (stored, failed) =
        eventually_within(
            SOME_INTERVALS,
            &format!("all scrapes of {job}"),
            async || match scrapes_there(http, job, scrapes).await {
                Ok(there) => Some(there),
                Err(now) => {
                    if now != lacks {
                        println!("{job}: {now}");
                        lacks = now;
                    }
                    None
                }
            },
        )
        .await;
    println!("{job}: {stored} scrapes stored, {failed} failed");
    assert!(failed * 10 < stored, "{job}: too many failed to say anything");
}

/// How many are stored, and how many failed; or what is missing. Panics where one is there twice.
async fn scrapes_there(http: &Http, job: &str, scrapes: u64) -> Result<(usize, usize), String> {
    let stored = samples(http, &format!("scrape_number{{job='{job}'}}")).await;
    let up = samples(http, &format!("up{{job='{job}'}}")).await;
    let of = |wanted: f64| -> Vec<i64> { up.iter().filter(|(_, up)| *up == wanted).map(|(at, _)| *at).collect() };
    let (served, failed) = (of(1.0), of(0.0));
    let (mut last, mut missing) = (0.0, 0);
    let mut what = Ok((stored.len(), failed.len()));
    for (at, number) in &stored {
        assert!(*number > last, "{job}: {number} is there again after {last}");
        missing += (number - last) as usize - 1;
        let explained = failed.iter().filter(|failed| *failed < at).count();
        if missing > explained && what.is_ok() {
            what = Err(format!(
                "{missing} scrapes are missing up to {number}, of which {explained} failed"
            ));
        }
        last = *number;
    }
    if last < scrapes as f64 {
        return Err(format!("the last one is {last}, not yet {scrapes}"));
    }
    let times: Vec<i64> = stored.iter().map(|(at, _)| *at).collect();
    if times != served {
        return Err("some are there by their number or by what `up` says of them alone".to_owned());
    }
    what
}

/// The sum of a metric's series. Panics where it has none.
fn metric(text: &str, name: &str) -> f64 {
    let lines = text.lines().filter(|line| line.starts_with(name));
    let values: Vec<f64> = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    assert!(!values.is_empty(), "there is no {name}");
    values.iter().sum()
}

/// Connections of the flood count, and a process may have 1,024 at first.
fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the limit on open files");
}

/// A file that tells senders in Python to end.
const END: &str = "end";

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

/// The interpreter that `deploy/setup.sh senders` made ready; none, with a word, where it is missing.
fn python() -> Option<PathBuf> {
    let home = std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home)?;
    let folder = cache.join("gnomon/peers/senders");
    let python = folder.join("bin/python3");
    if !folder.join("complete").is_file() {
        eprintln!("skipped: Python with grpcio and the OpenTelemetry SDK is missing (`make peers` fetches it)");
        return None;
    }
    Some(python)
}

/// What a sender in Python says beside its first word, line by line.
fn told(sender: &Process, word: &str) -> Vec<String> {
    let log = sender.log();
    let lines = log
        .lines()
        .filter_map(|line| line.strip_prefix(word)?.strip_prefix(' '));
    lines.map(str::to_owned).collect()
}

/// The nodes, and where each takes gRPC of senders.
async fn start(folder: &Path) -> (Trio, Vec<String>) {
    let mut trio = Trio::new(folder, &["--web.enable-otlp-receiver"]);
    let grpc: Vec<String> = (0..NODES).map(|_| format!("127.0.0.1:{}", free_port())).collect();
    for (at, address) in grpc.iter().enumerate() {
        trio.launch(at, Some(&format!("--ingest.grpc-listen-address={address}")));
    }
    trio.until_all_ready().await;
    trio.until_whole().await;
    (trio, grpc)
}

/// More writers than the nodes serve, all the time; meanwhile one node stands still, as a machine that swaps, and one is
/// killed and started again. How many samples of the flood are there.
async fn trouble(trio: &mut Trio, grpc: &[String]) -> u64 {
    let third = overload() / 3;
    let nodes: Vec<_> = (0..NODES).map(|at| (trio.http(at), grpc[at].clone())).collect();
    let flood = Flood::start(&nodes);
    let counts = Arc::clone(&flood.counts);
    eventually("the nodes to refuse what is too much", async || {
        counts.each_refused().iter().all(|refused| *refused > 0).then_some(())
    })
    .await;
    tokio::time::sleep(third).await;
    trio.node(0).process.signal("-STOP");
    tokio::time::sleep(third).await;
    trio.node(0).process.signal("-CONT");
    trio.until_ready(0).await;
    trio.kill(1);
    tokio::time::sleep(third).await;
    trio.launch(1, Some(&format!("--ingest.grpc-listen-address={}", grpc[1])));
    trio.until_ready(1).await;
    let samples = flood.stop().await;
    let [http, otlp, grpc] = counts.each_refused();
    println!(
        "the flood: {samples} samples; the nodes refused {http} requests of remote write, {otlp} of OTLP, {grpc} of gRPC"
    );
    samples
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_senders_lose_nothing_through_an_overload_of_the_cluster() {
    let folder = tempfile::tempdir().expect("temp folder");
    raise_open_files();
    let (mut trio, grpc) = start(folder.path()).await;
    let scrape = |job: &str, port: u16| {
        format!(
            "global: {{scrape_interval: 1s}}\n\
             scrape_configs: [{{job_name: {job}, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]\n"
        )
    };
    // Of the node that will stand still, and of the one that will be killed.
    let mut scraping = Vec::new();
    let prometheus = match peers::find("prometheus", "prometheus") {
        Some(program) => {
            let (port, scrapes) = counting_target().await;
            scraping.push(("prometheus", scrapes));
            let url = trio.http(0).url("/api/v1/write");
            let yaml = format!("{}remote_write: [{{url: '{url}'}}]\n", scrape("prometheus", port));
            let server = Prometheus::launch_at(free_port(), &program, folder.path(), "sender", &yaml, &[]);
            Some(server)
        }
        None => None,
    };
    let vmagent = match peers::find("victoria-metrics", "vmagent") {
        Some(program) => {
            let (port, scrapes) = counting_target().await;
            scraping.push(("vmagent", scrapes));
            let url = trio.http(1).url("/api/v1/write");
            Some(launch_vmagent(&program, folder.path(), &scrape("vmagent", port), &url))
        }
        None => None,
    };
    let mut in_python = match python() {
        Some(python) => start_in_python(&python, folder.path(), &trio, &grpc),
        None => Vec::new(),
    };
    let names = scraping.iter().map(|(job, _)| format!("scrape_number{{job='{job}'}}"));
    for first in names.chain(in_python.iter().map(|sender| sender.first.to_owned())) {
        eventually_within(SOME_INTERVALS, &format!("the first samples of {first}"), async || {
            let data = trio.http(2).query(&first, now_ms() as f64 / 1000.0).await;
            data["result"][0].is_object().then_some(())
        })
        .await;
    }
    let flooded = trouble(&mut trio, &grpc).await;
    trio.until_whole().await;
    std::fs::write(folder.path().join(END), "").expect("a file");
    for sender in &mut in_python {
        sender.until_ended().await;
    }
    let http = trio.http(2);
    for (job, scrapes) in &scraping {
        all_scrapes_are_there(&http, job, scrapes.load(Ordering::SeqCst)).await;
    }
    for sender in &in_python {
        sender.all_is_there(&http).await;
    }
    let count = number(&http, "sum(count_over_time(flood[1h]))").await;
    assert_eq!(count as u64, flooded, "samples of the flood");
    // By their own account too.
    if let Some(prometheus) = &prometheus {
        let (_, text) = prometheus.http.get("/metrics").await;
        for name in [
            "prometheus_remote_storage_samples_failed_total",
            "prometheus_remote_storage_samples_dropped_total",
        ] {
            assert_eq!(metric(&text, name), 0.0, "{name}");
        }
        let retried = metric(&text, "prometheus_remote_storage_samples_retried_total");
        println!("Prometheus sent {retried} samples again");
    }
    if let Some(vmagent) = &vmagent {
        let (_, text) = vmagent.http.get("/metrics").await;
        assert_eq!(metric(&text, "vmagent_remotewrite_packets_dropped_total"), 0.0);
        let retried = metric(&text, "vmagent_remotewrite_retries_count_total");
        println!("vmagent sent {retried} blocks again");
        assert!(retried > 0.0, "{}", vmagent.process.log());
    }
}

/// The one number that a query comes to.
async fn number(http: &Http, query: &str) -> f64 {
    let data = http.query(query, now_ms() as f64 / 1000.0).await;
    let value = data["result"][0]["value"][1].as_str();
    value.and_then(|v| v.parse().ok()).unwrap_or(f64::NAN)
}

/// How a sender in Python sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sends {
    /// The state of a counter, every so often.
    Exports,
    /// Numbers from 0 on.
    Writes,
}

struct InPython {
    process: Process,
    sends: Sends,
    name: &'static str,
    /// The series whose first sample says that it writes.
    first: &'static str,
}

/// The OpenTelemetry SDK's exporters for HTTP and gRPC, and clients made from `write.proto`.
fn start_in_python(python: &Path, folder: &Path, trio: &Trio, grpc: &[String]) -> Vec<InPython> {
    let scripts = package().join("tests/senders");
    let end = folder.join(END);
    let start = |sends, script: &str, name: &'static str, first, to: &str, more: &[&str]| {
        let mut command = Command::new(python);
        command
            .arg(scripts.join(script))
            .args([to, name])
            .arg(&end)
            .args(more)
            .env_remove("http_proxy")
            .env("no_proxy", "127.0.0.1");
        InPython {
            process: Process::start(name, &mut command, folder.join(format!("{name}.log"))),
            sends,
            name,
            first,
        }
    };
    let otlp_url = trio.http(2).url("/api/v1/otlp/v1/metrics");
    // The SDK's own interval is a minute.
    let export_ms = match overload().as_secs() {
        0..300 => "500",
        _ => "60000",
    };
    vec![
        start(
            Sends::Exports,
            "otlp.py",
            "otlp_http",
            "otlp_http_total",
            &otlp_url,
            &[export_ms],
        ),
        start(
            Sends::Exports,
            "otlp.py",
            "otlp_grpc",
            "otlp_grpc_total",
            &grpc[0],
            &[export_ms],
        ),
        start(
            Sends::Writes,
            "write.py",
            "write_stream",
            "write_stream",
            &grpc[1],
            &["stream"],
        ),
        start(
            Sends::Writes,
            "write.py",
            "write_unary",
            "write_unary",
            &grpc[0],
            &["unary"],
        ),
    ]
}

impl InPython {
    async fn until_ended(&mut self) {
        let ended = tokio::time::timeout(SOME_INTERVALS, async {
            while !self.process.has_ended() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        if ended.await.is_err() {
            panic!("{} goes on for ever: {}", self.name, self.process.log());
        }
        assert_eq!(self.process.ended().await, Some(0), "{}", self.process.log());
    }

    /// Each number that was acknowledged, or each export.
    async fn all_is_there(&self, http: &Http) {
        match self.sends {
            Sends::Writes => {
                let count: f64 = told(&self.process, "acknowledged")[0].parse().expect("a count");
                let found = number(http, &format!("count_over_time({}[1h])", self.name)).await;
                assert_eq!(found, count, "{}", self.name);
                let sum = number(http, &format!("sum_over_time({}[1h])", self.name)).await;
                assert_eq!(sum, count * (count - 1.0) / 2.0, "{}", self.name);
            }
            Sends::Exports => {
                let exported = told(&self.process, "exported");
                let failed = told(&self.process, "failed").len();
                println!("{}: {} exports taken, {failed} given up", self.name, exported.len());
                let data = http
                    .query(&format!("{}_total[1h]", self.name), now_ms() as f64 / 1000.0)
                    .await;
                let values = data["result"][0]["values"].as_array().into_iter().flatten();
                let found: BTreeMap<i64, &str> = values
                    .filter_map(|pair| Some(((pair[0].as_f64()? * 1000.0).round() as i64, pair[1].as_str()?)))
                    .collect();
                for export in &exported {
                    let (at, value) = export.split_once(' ').expect("a time and a number");
                    let at: i64 = at.parse().expect("milliseconds");
                    assert_eq!(found.get(&at), Some(&value), "{} at {at}: {found:?}", self.name);
                }
                let counted = &told(&self.process, "counted")[0];
                assert!(
                    exported
                        .last()
                        .is_some_and(|last| last.ends_with(&format!(" {counted}"))),
                    "{} counted {counted}: {exported:?}",
                    self.name
                );
            }
        }
    }
}
