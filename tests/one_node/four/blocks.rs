//! The compactor's process merges what the ingester's has uploaded, and the querier's follows.

use super::cluster::{Four, now_ms};
use crate::harness::{PATIENCE, client, eventually, remote};
use serde_json::Value;
use std::time::Duration;

const HOUR_MS: i64 = 3_600_000;
const SERIES: usize = 6;
const STEP_MS: i64 = 5 * 60_000;

/// Values of the samples whose line begins so, summed.
fn sum(metrics: &str, begin: &str) -> f64 {
    let lines = metrics.lines().filter(|line| line.starts_with(begin));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_are_merged_by_the_compactor_and_the_querier_follows() {
    let folder = tempfile::tempdir().expect("temp folder");
    let mut four = Four::new(folder.path(), "").with_flags(&["--ingest.seal-quiet=1s", "--compactor.interval=500ms"]);
    four.start().await;
    // Three windows, of which the widest but one makes one block; all ended long ago, so that they are sealed once
    // nothing more comes.
    let start = now_ms().div_euclid(6 * HOUR_MS) * 6 * HOUR_MS - 24 * HOUR_MS;
    let steps = 6 * HOUR_MS / STEP_MS;
    for step in 0..steps {
        let at = start + step * STEP_MS;
        let series = (0..SERIES).map(|i| {
            let n = format!("n{i}");
            let labels = [("__name__", "old"), ("instance", n.as_str()), ("job", "j")];
            remote::time_series(&labels, &[(at, (step * 100) as f64 + i as f64)])
        });
        let sent = remote::send(four.http("ingester"), remote::body(series.collect())).await;
        assert_eq!(sent.expect("send"), (204, String::new()), "step {step}");
    }
    let end = (start + 6 * HOUR_MS) as f64 / 1000.0;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut checked = 0;
    loop {
        // Whatever is moved meanwhile: the answer is whole, and nothing is warned of.
        let (code, text) = four
            .http("querier")
            .get(&format!(
                "/api/v1/query?query={}&time={end}",
                client::encode("old[6h1s]")
            ))
            .await;
        assert!(code == 200 && !text.contains("warnings"), "{code} {text}");
        let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let found = client::series(&answer["data"]);
        assert_eq!(found.len(), SERIES);
        for samples in found.values() {
            assert_eq!(samples.len() as i64, steps);
        }
        checked += 1;
        let (_, metrics) = four.http("compactor").get("/metrics").await;
        assert!(
            sum(&metrics, "gnomon_compactor_merges_total{outcome=\"failure\"}") < 1.0,
            "{metrics}"
        );
        if sum(&metrics, "gnomon_compactor_merged_samples_total ") >= (SERIES as i64 * steps) as f64 {
            println!("merged; {checked} answers meanwhile were whole");
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "not merged:\n{metrics}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for role in Four::ROLES {
        the_cluster_shows_them(&four, role, start, SERIES as u64 * steps as u64).await;
    }
    // What the head has forgotten, a new querier finds in blocks.
    four.interrupt("querier").await;
    four.restart("querier").await;
    let found = client::series(&four.http("querier").query("count_over_time(old[6h1s])", end).await);
    assert!(
        found.len() == SERIES && found.values().all(|s| s[0].1 == steps.to_string()),
        "{found:?}"
    );
    four.stop().await;
}

/// Blocks and jobs, as any process tells of them.
async fn the_cluster_shows_them(four: &Four, role: &str, start_ms: i64, samples: u64) {
    let http = four.http(role);
    let count = |blocks: &[Value], of: fn(&Value) -> &Value| blocks.iter().filter_map(|b| of(b).as_u64()).sum::<u64>();
    eventually(&format!("the {role} to show all samples in live blocks"), async || {
        let shown = http.api("/api/v1/cluster/blocks").await;
        let all = shown["blocks"].as_array()?;
        assert_eq!(shown["bytes"].as_u64(), Some(count(all, |b| &b["bytes"])), "{shown}");
        let live: Vec<Value> = all.iter().filter(|b| b["state"] == "live").cloned().collect();
        for block in &live {
            let times = (block["startMs"].as_i64()?, block["endMs"].as_i64()?);
            assert!(times.0 >= start_ms && times.1 <= start_ms + 6 * HOUR_MS, "{block}");
        }
        let catalogue = http.api("/api/v1/status/tsdb/blocks").await;
        let catalogue = count(catalogue["blocks"].as_array()?, |b| &b["stats"]["numSamples"]);
        (count(&live, |b| &b["samples"]) == samples && catalogue == samples).then_some(())
    })
    .await;
    let nodes = http.api("/api/v1/cluster/nodes").await;
    let nodes = nodes["nodes"].as_array().cloned().expect("nodes");
    let compactor = nodes.iter().find(|node| node["roles"][0] == "compactor");
    let compactor = compactor.expect("the compactor's node")["id"].clone();
    let jobs = http.api("/api/v1/cluster/jobs").await;
    let jobs = jobs["jobs"].as_array().expect("jobs");
    assert!(jobs.iter().any(|job| job["job"] == "compactor/sweep"), "{jobs:?}");
    for job in jobs {
        assert!(
            job["node"] == compactor && job["term"].as_u64() >= Some(1) && job["held"].is_boolean(),
            "{job}"
        );
    }
}
