//! Scrapers share the targets out among them: what happens when one is paused or killed, comes, leaves or reloads.

use super::cluster::{Four, exporter::Exporter, now};
use crate::harness::{client, eventually};
use std::collections::BTreeMap;
use std::fmt::Write as _;

const TARGETS: usize = 24;
/// More than twice of what a scrape is late on a machine that does much else: by lateness alone ticks could not be told apart.
const INTERVAL_MS: i64 = 3000;
const TWO_TICKS: f64 = 6.0;

fn config(address: &str) -> String {
    let mut yaml = format!(
        "global: {{scrape_interval: {INTERVAL_MS}ms, scrape_timeout: {INTERVAL_MS}ms}}\n\
         scrape_configs: [{{job_name: app, static_configs: [\n"
    );
    for n in 0..TARGETS {
        let _ = writeln!(yaml, "{{targets: ['{address}'], labels: {{n: 'n{n}'}}}},");
    }
    yaml + "]}]\n"
}

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

/// Every scrape of every target, in milliseconds.
async fn scrapes(four: &Four) -> BTreeMap<String, Vec<i64>> {
    let found = client::series(&four.http("querier").query("up{job=\"app\"}[10m]", now()).await);
    let times = |samples: Vec<(f64, String)>| samples.iter().map(|(at, _)| (at * 1000.0).round() as i64).collect();
    found
        .into_iter()
        .map(|(labels, samples)| (labels, times(samples)))
        .collect()
}

/// Where in the interval a target is scraped, unless it is late: where the longest time without a scrape ends.
fn usual_offset(times: &[i64]) -> i64 {
    let mut places: Vec<i64> = times.iter().map(|at| at.rem_euclid(INTERVAL_MS)).collect();
    places.sort_unstable();
    let last = places.last().map(|last| last - INTERVAL_MS);
    let before = last.into_iter().chain(places.iter().copied());
    let gaps = places.iter().zip(before).map(|(at, before)| (at - before, *at));
    gaps.max().map_or(0, |(_, at)| at)
}

/// Ticks by target, each as often as it was scraped: numbers of intervals.
async fn ticks(four: &Four) -> BTreeMap<String, Vec<i64>> {
    let of_target = |(target, times): (String, Vec<i64>)| {
        let offset = usual_offset(&times);
        let ticks = times.iter().map(|at| (at - offset).div_euclid(INTERVAL_MS));
        (target, ticks.collect())
    };
    scrapes(four).await.into_iter().map(of_target).collect()
}

/// No tick since then was missed or doubled.
async fn ticks_are_kept(four: &Four, since: f64, what: &str) {
    let since = (since * 1000.0) as i64 / INTERVAL_MS;
    let all = ticks(four).await;
    assert_eq!(all.len(), TARGETS);
    let mut wrong = Vec::new();
    for (target, mut ticks) in all {
        ticks.retain(|tick| *tick > since);
        assert!(ticks.len() > 1, "{what}: {target} was scraped at ticks {ticks:?}");
        if ticks.windows(2).any(|pair| pair[1] - pair[0] != 1) {
            wrong.push((target, ticks));
        }
    }
    assert!(wrong.is_empty(), "{what}: scraped at ticks {wrong:?}");
}

/// Waits until every target was scraped after `after`.
async fn until_scraped(four: &Four, after: f64) {
    eventually("every target to be scraped", async || {
        let newest = client::series(&four.http("querier").query("timestamp(up{job=\"app\"})", now()).await);
        let later = |samples: &Vec<(f64, String)>| samples[0].1.parse::<f64>().is_ok_and(|at| at > after);
        (newest.len() == TARGETS && newest.values().all(later)).then_some(())
    })
    .await;
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
    until_scraped(&four, 0.0).await;

    // Paused for longer than its lease: the other has all. Then it wakes up, and they share again.
    four.node("second").process.signal("-STOP");
    until_shared(&four, &["scraper"]).await;
    until_scraped(&four, now()).await;
    four.node("second").process.signal("-CONT");
    until_shared(&four, &["scraper", "second"]).await;
    until_scraped(&four, now()).await;

    let killed = now();
    four.node("second").process.kill();
    until_shared(&four, &["scraper"]).await;
    until_scraped(&four, now()).await;
    println!("taken over {:.1} s after the kill", now() - killed);

    for (target, ticks) in ticks(&four).await {
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
    until_scraped(&four, now()).await;
    let begun = now();

    four.launch_as("third", "scraper");
    four.until_ready().await;
    until_shared(&four, &["scraper", "second", "third"]).await;
    until_scraped(&four, now() + TWO_TICKS).await;
    ticks_are_kept(&four, begun, "a scraper came").await;

    for leaves in ["second", "third"] {
        let before = now();
        four.node(leaves).process.signal("-TERM");
        assert_eq!(four.node(leaves).process.ended().await, Some(0));
        four.forget(leaves);
        until_scraped(&four, now() + TWO_TICKS).await;
        ticks_are_kept(&four, before - TWO_TICKS / 2.0, "a scraper left").await;
        four.launch_as(leaves, "scraper");
        four.until_ready().await;
        until_shared(&four, &["scraper", "second", "third"]).await;
        until_scraped(&four, now() + TWO_TICKS).await;
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
    until_scraped(&four, now() + TWO_TICKS).await;
    ticks_are_kept(&four, before - TWO_TICKS / 2.0, "scrapers have reloaded").await;
    for name in ["scraper", "second", "third", "querier", "ingester"] {
        four.interrupt(name).await;
    }
}
