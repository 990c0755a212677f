//! Ingesters that scrape too: restarted one after the other as for an upgrade, their targets miss no tick; where one is killed its
//! targets are scraped again within a lease and an interval.

use crate::harness::eventually;
use crate::harness::exporter::Exporter;
use crate::harness::ticks::{INTERVAL_MS, TARGETS, TWO_TICKS, Ticks, config};
use crate::trio::{NODES, Trio, now_ms};
use gnomon_cluster::node::LEASE;
use std::path::Path;

/// What a scrape may be late on a machine that does much else.
const LATE_MS: i64 = 2_000;

fn now() -> f64 {
    now_ms() as f64 / 1000.0
}

/// How many targets there are by who scrapes them, as a node's own metrics say.
async fn counted(trio: &Trio, at: usize) -> Vec<u64> {
    let (_, text) = trio.http(at).get("/metrics").await;
    let lines = text.lines().filter(|line| line.starts_with("gnomon_cluster_targets{"));
    let up = lines.filter(|line| line.contains("health=\"up\""));
    up.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect()
}

/// Three nodes with all roles, and what all their targets are.
async fn that_scrape(folder: &Path) -> (Trio, Exporter) {
    let exporter = Exporter::start().await;
    exporter.say("steady 1\n");
    let mut trio = Trio::new(folder, &[]);
    trio.scrape(config(&exporter.address));
    trio.start(None).await;
    (trio, exporter)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_tick_is_missed_or_doubled_by_a_rolling_restart_of_nodes_with_all_roles() {
    let folder = tempfile::tempdir().expect("temp folder");
    let (mut trio, _exporter) = that_scrape(folder.path()).await;
    Ticks::of(trio.http(0)).until_scraped(now() + TWO_TICKS).await;
    for at in 0..NODES {
        eventually("the targets of the cluster in the metrics of each node", async || {
            (counted(&trio, at).await.iter().sum::<u64>() == TARGETS as u64).then_some(())
        })
        .await;
    }
    // The third would be one more of the same.
    for at in 0..2 {
        let other = Ticks::of(trio.http((at + 1) % NODES));
        let before = now();
        trio.stop(at).await;
        other.until_scraped(now() + TWO_TICKS).await;
        other
            .are_kept(before - TWO_TICKS / 2.0, &format!("node {at} stopped"))
            .await;
        let before = now();
        trio.launch(at, None);
        trio.until_ready(at).await;
        trio.until_whole().await;
        other.until_scraped(now() + TWO_TICKS).await;
        other
            .are_kept(before - TWO_TICKS / 2.0, &format!("node {at} is back"))
            .await;
    }
}

/// It leads the metadata group too: who judges its lease has to be elected first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn targets_of_a_killed_node_that_led_the_metadata_group_are_scraped_within_a_lease_and_an_interval() {
    let folder = tempfile::tempdir().expect("temp folder");
    let (mut trio, _exporter) = that_scrape(folder.path()).await;
    trio.until_whole().await;
    let leads = trio.metadata_leader().await;
    let reader = (leads + 1) % NODES;
    let ticks = Ticks::of(trio.http(reader));
    ticks.until_scraped(now() + TWO_TICKS).await;
    let its_own = eventually("all to scrape", async || {
        let of_each = counted(&trio, reader).await;
        (of_each.len() == NODES && of_each.iter().sum::<u64>() == TARGETS as u64).then_some(of_each)
    })
    .await;
    trio.kill(leads);
    let died = now_ms();
    ticks.until_scraped(now() + TWO_TICKS).await;
    let again = now_ms();

    let within = LEASE.as_millis() as i64 + INTERVAL_MS + LATE_MS;
    let mut latest = 0;
    for (target, times) in ticks.scrapes().await {
        let first = times.iter().find(|at| **at > died).expect("it was scraped");
        assert!(
            first - died <= within,
            "{target}: scraped again after {} ms",
            first - died
        );
        latest = latest.max(first - died);
    }
    // No target was taken for gone meanwhile.
    let path = format!(
        "/api/v1/query_range?query=count(up%7Bjob%3D%22app%22%7D)&start={}&end={}&step=1",
        died / 1000,
        again / 1000
    );
    let counted = trio.told_by(reader, &path).await.expect("an answer");
    let steps = counted["result"][0]["values"].as_array().expect("steps").clone();
    assert!(steps.len() as i64 >= (again - died) / 1000, "{steps:?}");
    let all = TARGETS.to_string();
    assert!(steps.iter().all(|step| step[1] == all.as_str()), "{steps:?}");
    println!("targets by node {its_own:?}; those of the dead one scraped again after {latest} ms at most");
    for at in (0..NODES).filter(|at| *at != leads) {
        trio.stop(at).await;
    }
}
