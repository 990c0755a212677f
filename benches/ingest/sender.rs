//! A real Prometheus as the sender: it scrapes exporters that this process plays, and sends to the server with the
//! defaults of its `remote_write`.

use super::check;
use super::exporters::Played;
use super::harness::{Http, Process, eventually, free_port, peers};
use super::load::{Load, SERIES_OF_EACH};
use crate::side_by_side::measure::cpu_seconds;
use crate::side_by_side::servers::Server;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// CPU seconds per million samples, and millions of samples.
pub(crate) struct Sent {
    pub(crate) cpu_per_million: f64,
    pub(crate) millions: f64,
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
    let played = Played::start(load).await;
    let file = folder.join("sender.yml");
    let config = format!(
        "{}remote_write:\n- url: {}\n",
        played.scrape_config(),
        server.http.url("/api/v1/write")
    );
    std::fs::write(&file, config).expect("configuration");
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
    played.fall_silent();
    let few = (exporters * 10) as f64;
    eventually("the sender to have sent everything", async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        (counter(&sender, "prometheus_remote_storage_samples_pending").await < few).then_some(())
    })
    .await;
    let cpu = cpu_seconds(process.id()) - cpu;
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
