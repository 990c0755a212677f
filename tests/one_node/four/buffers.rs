//! The ingester is away: scrapes wait, and come late with their own times; what does not fit is counted.

use super::cluster::{Four, now};
use crate::harness::exporter::Exporter;
use crate::harness::ticks::config_of;
use crate::harness::{client, eventually};
use std::collections::BTreeMap;
use std::time::Duration;

const INTERVAL_MS: i64 = 1000;
const TARGETS: usize = 6;

fn config(address: &str) -> String {
    config_of(address, TARGETS, INTERVAL_MS)
}

/// The sum of a metric of a node over all its labels.
async fn metric(four: &Four, node: &str, name: &str) -> f64 {
    let (_, text) = four.try_get(node, "/metrics").await.unwrap_or_default();
    let of_it = |line: &&str| line.split(['{', ' ']).next() == Some(name);
    let values = text
        .lines()
        .filter(of_it)
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}

/// Every scrape of every target, in milliseconds.
async fn scrapes(four: &Four, until: f64) -> BTreeMap<String, Vec<i64>> {
    let found = client::series(&four.http("querier").query("up[10m]", until).await);
    let times = |samples: Vec<(f64, String)>| samples.iter().map(|(at, _)| (at * 1000.0).round() as i64).collect();
    found
        .into_iter()
        .map(|(labels, samples)| (labels, times(samples)))
        .collect()
}

async fn until_scraped(four: &Four, after: f64) {
    eventually("every target to be scraped", async || {
        let newest = client::series(&four.http("querier").query("timestamp(up)", now()).await);
        let later = |samples: &Vec<(f64, String)>| samples[0].1.parse::<f64>().is_ok_and(|at| at > after);
        (newest.len() == TARGETS && newest.values().all(later)).then_some(())
    })
    .await;
}

/// Ingester, querier and scraper, every target scraped.
async fn started(folder: &std::path::Path, exporter: &Exporter, flags: &[&str]) -> Four {
    let mut four = Four::new(folder, &config(&exporter.address)).with_flags(flags);
    for role in ["ingester", "querier", "scraper"] {
        four.launch(role);
    }
    four.until_ready().await;
    until_scraped(&four, 0.0).await;
    four
}

/// A counter that grows by ten a second, whenever it is looked at.
fn count_up(exporter: Exporter) -> tokio::task::JoinHandle<()> {
    let start = now();
    tokio::spawn(async move {
        loop {
            exporter.say(&format!("jobs_total {}\n", ((now() - start) * 10.0).round()));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minute_without_ingesters_leaves_no_gap() {
    let folder = tempfile::tempdir().expect("temp folder");
    let exporter = Exporter::start().await;
    exporter.say("jobs_total 0\n");
    // Little memory, so that the disk has its part.
    let mut four = started(folder.path(), &exporter, &["--scrape.buffer-memory=200KB"]).await;
    let counting = count_up(exporter);
    let began = now();
    until_scraped(&four, began).await;

    four.node("ingester").process.kill();
    let killed = now();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let waiting = metric(&four, "scraper", "gnomon_scrape_buffer_ticks").await;
    assert!(waiting > 50.0 * TARGETS as f64, "{waiting} scrapes wait");
    assert!(metric(&four, "scraper", "gnomon_scrape_buffer_oldest_age_seconds").await > 50.0);
    four.restart("ingester").await;
    let back = now();
    until_scraped(&four, back).await;
    eventually("nothing to wait any more", async || {
        (metric(&four, "scraper", "gnomon_scrape_buffer_ticks").await == 0.0).then_some(())
    })
    .await;
    println!("away for {:.0} s, caught up {:.1} s after", back - killed, now() - back);
    let end = now();
    until_scraped(&four, end).await;
    counting.abort();

    assert_eq!(
        metric(&four, "scraper", "gnomon_scrape_buffer_shed_samples_total").await,
        0.0
    );
    let skipped = metric(&four, "scraper", "gnomon_scraper_ticks_skipped_total").await as i64;
    let scrapes = scrapes(&four, end).await;
    assert_eq!(scrapes.len(), TARGETS);
    let mut missing = 0;
    for (target, times) in &scrapes {
        assert!(times.is_sorted(), "{target}: {times:?}");
        for pair in times.windows(2) {
            let passed = pair[1] - pair[0];
            assert!(passed > INTERVAL_MS / 4, "{target} was scraped twice: {pair:?}");
            missing += (passed + INTERVAL_MS / 2) / INTERVAL_MS - 1;
        }
    }
    assert!(
        missing <= skipped,
        "{missing} scrapes are missing, {skipped} were never made"
    );
    // No marker stands between them either.
    let (from, to) = (began.ceil() + 6.0, end.floor());
    let steps = client::series(&four.http("querier").query_range("up", from, to, 1.0).await);
    for (target, steps) in &steps {
        assert_eq!(steps.len() as f64, to - from + 1.0, "{target}: {steps:?}");
    }
    let rates = client::series(
        &four
            .http("querier")
            .query_range("rate(jobs_total[10s])", from, to, 1.0)
            .await,
    );
    assert_eq!(rates.len(), TARGETS);
    for (target, rates) in &rates {
        assert_eq!(rates.len() as f64, to - from + 1.0, "{target}");
        let off = rates
            .iter()
            .find(|(_, rate)| rate.parse::<f64>().is_ok_and(|rate| !(5.0..15.0).contains(&rate)));
        assert_eq!(off, None, "{target}");
    }
    for role in ["scraper", "querier", "ingester"] {
        four.interrupt(role).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_is_missing_and_counted_by_target() {
    let folder = tempfile::tempdir().expect("temp folder");
    let exporter = Exporter::start().await;
    exporter.say("a 1\nb 2\nc 3\n");
    let flags = ["--scrape.buffer-memory=16KB", "--scrape.buffer-disk=0"];
    let mut four = started(folder.path(), &exporter, &flags).await;
    four.node("ingester").process.kill();
    eventually("scrapes to be given up", async || {
        (metric(&four, "scraper", "gnomon_scrape_buffer_shed_ticks_total").await > 30.0).then_some(())
    })
    .await;
    four.restart("ingester").await;
    let back = now();
    until_scraped(&four, back).await;
    eventually("nothing to wait any more", async || {
        (metric(&four, "scraper", "gnomon_scrape_buffer_ticks").await == 0.0).then_some(())
    })
    .await;
    let end = now();
    until_scraped(&four, end).await;
    let per_scrape = {
        let count = client::series(&four.http("querier").query("count({n=\"n0\"})", now()).await);
        count
            .values()
            .next()
            .map_or(0.0, |samples| samples[0].1.parse::<f64>().unwrap_or_default())
    };
    assert_eq!(per_scrape, 8.0, "three of its own, five of the scrape");
    let shed_ticks = metric(&four, "scraper", "gnomon_scrape_buffer_shed_ticks_total").await;
    let shed_samples = metric(&four, "scraper", "gnomon_scrape_buffer_shed_samples_total").await;
    assert_eq!(shed_samples, shed_ticks * per_scrape);
    let skipped = metric(&four, "scraper", "gnomon_scraper_ticks_skipped_total").await;
    let mut missing = 0;
    for (target, times) in scrapes(&four, end).await {
        let gaps = times
            .windows(2)
            .map(|pair| (pair[1] - pair[0] + INTERVAL_MS / 2) / INTERVAL_MS - 1);
        let of_target: i64 = gaps.sum();
        assert!(of_target > 0, "{target}: each gives up some");
        missing += of_target;
    }
    let missing = missing as f64;
    assert!(
        shed_ticks <= missing && missing <= shed_ticks + skipped,
        "{missing} scrapes are missing, {shed_ticks} were given up, {skipped} never made"
    );
    let targets = four.http("querier").api("/api/v1/targets").await;
    let of = |target: &serde_json::Value| target["shedSamples"].as_f64().unwrap_or_default();
    let told: f64 = targets["activeTargets"].as_array().into_iter().flatten().map(of).sum();
    assert_eq!(told, shed_samples, "{targets}");
    assert!(four.log("scraper").contains("samples of scrapes given up"));
    for role in ["scraper", "querier", "ingester"] {
        four.interrupt(role).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_when_the_scraper_stops_is_sent_by_its_next_life() {
    let folder = tempfile::tempdir().expect("temp folder");
    let exporter = Exporter::start().await;
    exporter.say("steady 1\n");
    let mut four = started(folder.path(), &exporter, &[]).await;
    four.node("ingester").process.kill();
    eventually("scrapes to wait", async || {
        (metric(&four, "scraper", "gnomon_scrape_buffer_ticks").await > 8.0 * TARGETS as f64).then_some(())
    })
    .await;
    four.interrupt("scraper").await;
    assert!(four.log("scraper").contains("are on disk"));
    let stopped = now();
    four.launch("ingester");
    four.node("ingester").until_ready().await;
    four.launch("scraper");
    four.until_ready().await;
    until_scraped(&four, stopped).await;
    eventually("nothing to wait any more", async || {
        (metric(&four, "scraper", "gnomon_scrape_buffer_ticks").await == 0.0).then_some(())
    })
    .await;
    assert_eq!(
        metric(&four, "scraper", "gnomon_scrape_buffer_shed_samples_total").await,
        0.0
    );
    for (target, times) in scrapes(&four, now()).await {
        let before: Vec<_> = times.iter().filter(|at| (**at as f64) < stopped * 1000.0).collect();
        let longest = before.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(longest < Some(2 * INTERVAL_MS + INTERVAL_MS / 2), "{target}: {times:?}");
    }
    for role in ["scraper", "querier", "ingester"] {
        four.interrupt(role).await;
    }
}
