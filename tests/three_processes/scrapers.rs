//! Ingesters that scrape too, restarted one after the other as for an upgrade: their targets miss no tick.

use crate::harness::eventually;
use crate::harness::exporter::Exporter;
use crate::harness::ticks::{TARGETS, TWO_TICKS, Ticks, config};
use crate::trio::{NODES, Trio, now_ms};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_tick_is_missed_or_doubled_by_a_rolling_restart_of_nodes_with_all_roles() {
    let folder = tempfile::tempdir().expect("temp folder");
    let exporter = Exporter::start().await;
    exporter.say("steady 1\n");
    let mut trio = Trio::new(folder.path(), &[]);
    trio.scrape(config(&exporter.address));
    trio.start(None).await;
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
