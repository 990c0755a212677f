//! Ingesters that scrape too, restarted one after the other as for an upgrade: their targets miss no tick.

use crate::harness::exporter::Exporter;
use crate::harness::ticks::{TWO_TICKS, Ticks, config};
use crate::trio::{NODES, Trio, now_ms};

fn now() -> f64 {
    now_ms() as f64 / 1000.0
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
