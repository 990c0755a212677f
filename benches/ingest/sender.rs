//! A real Prometheus as the sender: it scrapes exporters that this process plays, and sends to the server with the
//! defaults of its `remote_write`.

use super::check;
use super::harness::{Http, Process, eventually, free_port, peers};
use super::load::{Load, SERIES_OF_EACH};
use crate::side_by_side::measure::cpu_seconds;
use crate::side_by_side::servers::Server;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use std::fmt::Write as _;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_secs(5);

/// CPU seconds per million samples, and millions of samples.
pub(crate) struct Sent {
    pub(crate) cpu_per_million: f64,
    pub(crate) millions: f64,
}

/// What the exporters say; nothing once there is no load.
#[derive(Clone)]
struct Exporters(tokio::sync::watch::Receiver<Option<Arc<Load>>>);

async fn exposition(State(exporters): State<Exporters>, Path(exporter): Path<usize>) -> Result<String, StatusCode> {
    let load = exporters.0.borrow().clone().ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    let round = (now.as_secs() / INTERVAL.as_secs() % 10_000) as usize;
    let mut text = String::with_capacity(SERIES_OF_EACH * 80);
    for n in 0..SERIES_OF_EACH {
        let i = exporter * SERIES_OF_EACH + n;
        let value = load.value(i, round);
        let _ = writeln!(text, "{} {value}", Load::exposition_name(i));
    }
    Ok(text)
}

fn config(exporters: usize, port: u16, server: &Server) -> String {
    let mut text = format!(
        "global: {{scrape_interval: {}s}}\nremote_write:\n- url: {}\nscrape_configs:\n- job_name: node\n  static_configs:\n",
        INTERVAL.as_secs(),
        server.http.url("/api/v1/write"),
    );
    for exporter in 0..exporters {
        let instance = Load::instance(exporter);
        let _ = writeln!(
            text,
            "  - {{targets: ['127.0.0.1:{port}'], labels: {{__metrics_path__: /exporter/{exporter}, instance: '{instance}'}}}}"
        );
    }
    text
}

/// A counter of the sender, summed.
async fn counter(sender: &Http, name: &str) -> f64 {
    let (_, text) = sender.get("/metrics").await;
    let lines = text.lines().filter(|l| l.starts_with(name));
    lines.filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Lets the sender run for a time; none where a program is missing.
pub(crate) async fn run(name: &str, load: &Arc<Load>, seconds: u64) -> Option<Sent> {
    let program = peers::find("prometheus", "prometheus")?;
    let folder = tempfile::tempdir().expect("temp folder");
    let folder = folder.path();
    let server = Server::new(name, folder, false)?;
    let (process, _) = server.start(folder).await;
    let exporters = load.series / SERIES_OF_EACH;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (exposed, watched) = tokio::sync::watch::channel(Some(Arc::clone(load)));
    let routes = Router::new()
        .route("/exporter/{n}", get(exposition))
        .with_state(Exporters(watched));
    let playing = tokio::spawn(async move { axum::serve(listener, routes).await });
    let file = folder.join("sender.yml");
    std::fs::write(&file, config(exporters, port, &server)).expect("configuration");
    let address = format!("127.0.0.1:{}", free_port());
    let sender = Http::new(&format!("http://{address}"));
    let mut command = Command::new(program);
    command.args([
        format!("--config.file={}", file.display()),
        format!("--storage.tsdb.path={}", folder.join("sender").display()),
        format!("--web.listen-address={address}"),
    ]);
    let cpu = cpu_seconds(process.id());
    let _sending = Process::start("sender", &mut command, folder.join("sender.log"));
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    // Scrapes fail from here on: what is left to be sent is what was scraped before, and then only `up` and the like.
    exposed.send_replace(None);
    let few = (exporters * 10) as f64;
    eventually("the sender to have sent everything", async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        (counter(&sender, "prometheus_remote_storage_samples_pending").await < few).then_some(())
    })
    .await;
    let cpu = cpu_seconds(process.id()) - cpu;
    playing.abort();
    let count = check::instant("count(last_over_time({__name__=~\"node_metric_.*\"}[5m]))", now_ms());
    let count = check::query(&server, &count).await.expect("a count");
    assert_eq!(
        count[0]["value"][1],
        (exporters * SERIES_OF_EACH).to_string(),
        "{name}: series"
    );
    let failed = counter(&sender, "prometheus_remote_storage_samples_failed_total").await;
    assert!(failed == 0.0, "{name}: {failed} samples failed");
    // Every attempt is counted.
    let attempted = counter(&sender, "prometheus_remote_storage_samples_total").await;
    let again = counter(&sender, "prometheus_remote_storage_samples_retried_total").await;
    let millions = (attempted - again) / 1e6;
    Some(Sent {
        cpu_per_million: cpu / millions,
        millions,
    })
}

fn now_ms() -> i64 {
    std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_millis() as i64
}
