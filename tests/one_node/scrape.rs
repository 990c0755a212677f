//! Real exporters, scraped and queried.

use crate::harness::{Node, Process, client, eventually, free_port, peers};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Without this one and its neighbour Debian's alertmanager does not start.
const TEMPLATE: &str = "/usr/share/prometheus/alertmanager/email.tmpl";

fn now() -> f64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_exporters_are_scraped_and_a_missing_one_says_why() {
    let (Some(node_exporter), Some(alertmanager), Some(prometheus)) = (
        peers::find("prometheus-node-exporter", "prometheus-node-exporter"),
        peers::find("prometheus-alertmanager", "prometheus-alertmanager"),
        peers::find("prometheus", "prometheus"),
    ) else {
        return;
    };
    if !Path::new(TEMPLATE).exists() {
        assert!(
            std::env::var_os("CI").is_none(),
            "{TEMPLATE} is missing: run `make peers`"
        );
        eprintln!("skipped: {TEMPLATE} is missing (`make peers` copies it)");
        return;
    }
    let folder = tempfile::tempdir().expect("temp folder");
    let path = |name: &str| folder.path().join(name);
    let (node_port, alert_port, prom_port, absent) = (free_port(), free_port(), free_port(), free_port());
    let _exporter = Process::start(
        "node exporter",
        Command::new(node_exporter).arg(format!("--web.listen-address=127.0.0.1:{node_port}")),
        path("node.log"),
    );
    std::fs::write(path("am.yml"), "route: {receiver: none}\nreceivers: [{name: none}]\n").expect("write");
    let _alertmanager = Process::start(
        "alertmanager",
        Command::new(alertmanager)
            .arg(format!("--config.file={}", path("am.yml").display()))
            .arg(format!("--storage.path={}", path("am").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{alert_port}"))
            .arg("--cluster.listen-address="),
        path("am.log"),
    );
    std::fs::write(path("p.yml"), "global: {scrape_interval: 1s}\n").expect("write");
    let _prometheus = Process::start(
        "prometheus",
        Command::new(prometheus)
            .arg(format!("--config.file={}", path("p.yml").display()))
            .arg(format!("--storage.tsdb.path={}", path("p").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{prom_port}")),
        path("p.log"),
    );
    let yaml = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n\
         - {{job_name: node, static_configs: [{{targets: ['127.0.0.1:{node_port}']}}]}}\n\
         - {{job_name: alertmanager, static_configs: [{{targets: ['127.0.0.1:{alert_port}']}}]}}\n\
         - {{job_name: prometheus, static_configs: [{{targets: ['127.0.0.1:{prom_port}']}}]}}\n\
         - {{job_name: absent, static_configs: [{{targets: ['127.0.0.1:{absent}']}}]}}\n"
    );
    let node = Node::start(folder.path(), &yaml, &[]).await;
    // Every target has its own offset in the interval, so each is waited for: the missing one may well be the last.
    let jobs = eventually("three targets up and one down", async || {
        let up = client::series(&node.http.query("up", now()).await);
        let health: BTreeMap<String, String> = up
            .into_iter()
            .map(|(labels, samples)| (labels, samples[0].1.clone()))
            .collect();
        (health.len() == 4 && health.values().filter(|v| *v == "1").count() == 3).then_some(health)
    })
    .await;
    let down: Vec<_> = jobs.iter().filter(|(_, v)| *v == "0").collect();
    assert!(down.len() == 1 && down[0].0.contains("absent"), "{jobs:?}");
    let targets = node.http.api("/api/v1/targets").await;
    let absent = targets["activeTargets"]
        .as_array()
        .expect("targets")
        .iter()
        .find(|t| t["scrapePool"] == "absent");
    let error = absent.and_then(|t| t["lastError"].as_str()).unwrap_or_default();
    assert!(error.contains("connection refused"), "{error}");
    eventually("each exporter's own series", async || {
        let query = "count by (job) ({__name__=~'node_cpu.*|alertmanager_.*|prometheus_.*'})";
        (client::series(&node.http.query(query, now()).await).len() == 3).then_some(())
    })
    .await;
    eventually("a rate over two scrapes", async || {
        let rate = node.http.query("sum(rate(node_cpu_seconds_total[1m]))", now()).await;
        client::series(&rate)
            .values()
            .next()
            .and_then(|s| s[0].1.parse::<f64>().ok())
            .filter(|r| *r > 0.0)
    })
    .await;
}
