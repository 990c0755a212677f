//! Scrapers share the targets out among them: what happens when one is paused or killed, comes, leaves or reloads.

use super::cluster::{Four, now};
use crate::harness::exporter::Exporter;
use crate::harness::ticks::{TARGETS, TWO_TICKS, Ticks, config};
use crate::harness::{client, eventually};

/// Targets that a scraper has now.
async fn share(four: &Four, name: &str) -> Option<usize> {
    let (_, metrics) = four.try_get(name, "/metrics").await?;
    let line = metrics
        .lines()
        .find(|l| l.starts_with("prometheus_target_scrape_pool_targets{"))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// Waits until the scrapers have all targets between them, each some.
async fn until_shared(four: &Four, names: &[&str]) {
    eventually(&format!("{TARGETS} targets shared by {names:?}"), async || {
        let mut sum = 0;
        for name in names {
            sum += share(four, name).await.filter(|share| *share > 0)?;
        }
        (sum == TARGETS).then_some(())
    })
    .await;
}

fn ticks(four: &Four) -> Ticks {
    Ticks::of(four.http("querier").clone())
}

async fn launch_with_two_scrapers(four: &mut Four) {
    four.launch("ingester");
    four.launch("querier");
    four.launch("scraper");
    four.launch_as("second", "scraper");
    four.until_ready().await;
    until_shared(four, &["scraper", "second"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_leaves_the_other_takes_over_and_no_tick_is_doubled() {
    let folder = tempfile::tempdir().expect("temp folder");
    let exporter = Exporter::start().await;
    exporter.say("steady 1\n");
    let mut four = Four::new(folder.path(), &config(&exporter.address));
    launch_with_two_scrapers(&mut four).await;
    let targets = four.http("querier").api("/api/v1/targets").await;
    assert_eq!(targets["activeTargets"].as_array().map(Vec::len), Some(TARGETS));
    ticks(&four).until_scraped(0.0).await;

    // Paused for longer than its lease: the other has all. Then it wakes up, and they share again.
    four.node("second").process.signal("-STOP");
    until_shared(&four, &["scraper"]).await;
    ticks(&four).until_scraped(now()).await;
    four.node("second").process.signal("-CONT");
    until_shared(&four, &["scraper", "second"]).await;
    ticks(&four).until_scraped(now()).await;

    let killed = now();
    four.node("second").process.kill();
    until_shared(&four, &["scraper"]).await;
    ticks(&four).until_scraped(now()).await;
    println!("taken over {:.1} s after the kill", now() - killed);

    for (target, ticks) in ticks(&four).of_targets().await {
        let doubled = ticks.windows(2).find(|pair| pair[0] == pair[1]);
        assert_eq!(doubled, None, "{target} was scraped twice at one tick: {ticks:?}");
    }
    // One that stops in good order leaves its targets at once.
    four.launch_as("third", "scraper");
    four.until_ready_except("second").await;
    until_shared(&four, &["scraper", "third"]).await;
    four.interrupt("third").await;
    until_shared(&four, &["scraper"]).await;
    for role in ["scraper", "querier", "ingester"] {
        four.interrupt(role).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ticks_are_kept_where_a_scraper_comes_leaves_or_reloads() {
    let folder = tempfile::tempdir().expect("temp folder");
    let exporter = Exporter::start().await;
    exporter.say("steady 1\n");
    let yaml = config(&exporter.address);
    let mut four = Four::new(folder.path(), &yaml).with_flags(&["--web.enable-lifecycle"]);
    launch_with_two_scrapers(&mut four).await;
    ticks(&four).until_scraped(now()).await;
    let begun = now();

    four.launch_as("third", "scraper");
    four.until_ready().await;
    until_shared(&four, &["scraper", "second", "third"]).await;
    ticks(&four).until_scraped(now() + TWO_TICKS).await;
    ticks(&four).are_kept(begun, "a scraper came").await;

    for leaves in ["second", "third"] {
        let before = now();
        four.node(leaves).process.signal("-TERM");
        assert_eq!(four.node(leaves).process.ended().await, Some(0));
        four.forget(leaves);
        ticks(&four).until_scraped(now() + TWO_TICKS).await;
        ticks(&four).are_kept(before - TWO_TICKS / 2.0, "a scraper left").await;
        four.launch_as(leaves, "scraper");
        four.until_ready().await;
        until_shared(&four, &["scraper", "second", "third"]).await;
        ticks(&four).until_scraped(now() + TWO_TICKS).await;
    }

    let before = now();
    let more = format!(
        "]}}, {{job_name: more, static_configs: [{{targets: ['{}']}}]}}]",
        exporter.address
    );
    let yaml = yaml.replace("]}]", &more);
    for name in ["ingester", "querier", "scraper", "second", "third"] {
        std::fs::write(four.node(name).config_file(), &yaml).expect("configuration");
        let (code, text) = four.http(name).post("/-/reload", "text/plain", Vec::new()).await;
        assert_eq!(code, 200, "{name}: {text}");
    }
    eventually("the new target to be scraped", async || {
        let up = client::series(&four.http("querier").query("up{job=\"more\"}", now()).await);
        (up.len() == 1).then_some(())
    })
    .await;
    ticks(&four).until_scraped(now() + TWO_TICKS).await;
    ticks(&four)
        .are_kept(before - TWO_TICKS / 2.0, "scrapers have reloaded")
        .await;
    for name in ["scraper", "second", "third", "querier", "ingester"] {
        four.interrupt(name).await;
    }
}
