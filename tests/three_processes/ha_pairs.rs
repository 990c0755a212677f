//! Two real Prometheus servers that scrape the same and write it through different ingesters: each sample counts once,
//! through the death of the one in force, and of the ingester that it writes to. A third server, which writes to nobody,
//! says what there was to be seen.

use crate::harness::reference::Prometheus;
use crate::harness::{Http, client, eventually, free_port, peers};
use crate::trio::{NODES, Trio, now_ms};
use std::path::Path;
use std::time::Duration;

/// Of all three servers.
const INTERVAL_MS: i64 = 1_000;
/// `--ingest.ha-update-timeout`: what would be missing after a death, if nothing of the other one's were held.
const UPDATE_MS: i64 = 5_000;

/// Of two samples one after the other: a scrape before a death, the next one of the other server, on a busy machine.
const MOST_BETWEEN_MS: i64 = 3 * INTERVAL_MS;

const FILLED: &str = "gnomon_ha_filled_samples_total";

/// Says what time it is.
async fn clock() -> u16 {
    let metrics = || async {
        let text = format!("# TYPE clock_ms gauge\nclock_ms {}\n", now_ms());
        ([("content-type", "text/plain; version=0.0.4")], text)
    };
    let routes = axum::Router::new().route("/metrics", axum::routing::get(metrics));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    port
}

fn launch(program: &Path, folder: &Path, name: &str, target: u16, to: Option<&Http>) -> Prometheus {
    let mut yaml = "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\n".to_owned();
    if to.is_some() {
        yaml += &format!("  external_labels: {{cluster: shop, __replica__: {name}}}\n");
    }
    yaml += &format!("scrape_configs: [{{job_name: app, static_configs: [{{targets: ['127.0.0.1:{target}']}}]}}]\n");
    if let Some(to) = to {
        yaml += &format!("remote_write: [{{url: '{}'}}]\n", to.url("/api/v1/write"));
    }
    Prometheus::launch_at(free_port(), program, folder, name, &yaml, &[])
}

/// Samples of the clock, milliseconds and values, of one series.
async fn samples(http: &Http, end_ms: i64) -> Vec<(i64, f64)> {
    let data = http.query("clock_ms[10m]", end_ms as f64 / 1000.0).await;
    let found = client::series(&data);
    assert!(
        found.len() <= 1,
        "one series, without the label of the replica: {:?}",
        found.keys()
    );
    let Some((labels, samples)) = found.first_key_value() else {
        return Vec::new();
    };
    assert!(!labels.contains("replica"), "{labels}");
    let sample = |(at, value): &(f64, String)| ((at * 1000.0).round() as i64, value.parse().unwrap_or(f64::NAN));
    samples.iter().map(sample).collect()
}

/// The newest sample is of after the moment.
async fn until_later(what: &str, http: &Http, ms: i64) {
    eventually(what, async || {
        let time = now_ms() as f64 / 1e3;
        let url = http.url(&format!("/api/v1/query?query=timestamp(clock_ms)&time={time}"));
        // It may be starting.
        let answer = http.client().get(url).send().await.ok()?.error_for_status().ok()?;
        let answer: serde_json::Value = serde_json::from_str(&answer.text().await.ok()?).ok()?;
        let at: f64 = answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()?;
        (at * 1000.0 > ms as f64).then_some(())
    })
    .await;
}

async fn sum(trio: &Trio, name: &str, running: &[usize]) -> f64 {
    let mut all = 0.0;
    for at in running {
        let (_, text) = trio.http(*at).get("/metrics").await;
        let lines = text.lines().filter(|line| line.starts_with(name));
        all += lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum::<f64>();
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pair_that_writes_through_different_ingesters_counts_once_whoever_dies() {
    let Some(program) = peers::find("prometheus", "prometheus") else {
        return;
    };
    let folder = tempfile::tempdir().expect("temp folder");
    let update = format!("--ingest.ha-update-timeout={UPDATE_MS}ms");
    let flags = ["--ingest.ha-tracker", &update, "--ingest.ha-failover-timeout=12s"];
    let mut trio = Trio::new(folder.path(), &flags);
    trio.start(None).await;
    let reader = trio.http(2);
    let target = clock().await;
    let truth = launch(&program, folder.path(), "truth", target, None);
    let (to_first, to_second) = (trio.http(0), trio.http(1));
    let first = launch(&program, folder.path(), "a", target, Some(&to_first));
    let began = now_ms();
    until_later("the first server's samples", &reader, began).await;
    let _second = launch(&program, folder.path(), "b", target, Some(&to_second));
    eventually("the second server's samples to be left out", async || {
        (sum(&trio, "gnomon_ha_deduplicated_samples_total", &[0, 1, 2]).await > 0.0).then_some(())
    })
    .await;

    // The one in force dies, and comes back when the other is.
    drop(first);
    let died = now_ms();
    until_later("the second server to be taken", &reader, died + 3_000).await;
    let taken = now_ms();
    until_later("samples of the second server's own turn", &reader, taken).await;
    assert!(
        sum(&trio, FILLED, &[0, 1, 2]).await > 0.0,
        "what the second server sent before"
    );
    let first = launch(&program, folder.path(), "a", target, Some(&to_first));
    // What is missing of the other's turn is looked for at this one: it has to have been there.
    let scrapes_again = now_ms() + 2_000;
    until_later("the first server to scrape again", &first.http, scrapes_again).await;
    eventually("what the first server sends to be held", async || {
        (sum(&trio, "gnomon_ha_held_bytes", &[0]).await > 0.0).then_some(())
    })
    .await;
    // The one in force cannot write any more: the ingester that it writes to dies.
    trio.kill(1);
    let died = now_ms();
    until_later("the first server to be taken again", &reader, died + 3_000).await;
    trio.launch(1, None);
    trio.until_ready(1).await;
    let back = now_ms();
    until_later("samples after all is well again", &reader, back + 5_000).await;
    // What either has kept meanwhile is dropped, or was of its turn.
    eventually("nothing to be waiting at either server", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let newest = samples(&reader, now_ms()).await.last()?.0;
        (newest > back + 8_000).then_some(())
    })
    .await;

    let end = back + 4_000;
    let seen = samples(&truth.http, end).await;
    let turns = sum(&trio, "gnomon_ha_turns_total", &[0, 1, 2]).await;
    assert!(
        sum(&trio, FILLED, &[0]).await > 0.0,
        "what the first server sent before"
    );
    assert_eq!(sum(&trio, "gnomon_ha_held_dropped_total", &[0, 1, 2]).await, 0.0);
    for at in 0..NODES {
        let counted = samples(&trio.http(at), end).await;
        let (Some(from), Some(to)) = (counted.first(), counted.last()) else {
            panic!("no samples at {at}");
        };
        let is_within = |ms: i64| ms >= from.0 && ms <= to.0;
        let there = seen.iter().filter(|(ms, _)| is_within(*ms)).count();
        // Each says when it was scraped: no sample is of another moment than it says.
        for (ms, value) in &counted {
            assert!((*value - *ms as f64).abs() < 900.0, "{value} at {ms}");
        }
        let steps: Vec<i64> = counted.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
        let longest = steps.iter().max().copied().unwrap_or_default();
        assert!(longest <= MOST_BETWEEN_MS, "a gap of {longest} ms: {steps:?}");
        // Where a turn ends and the next begins, two scrapes may be close together; nowhere else.
        let close = steps.iter().filter(|step| **step < INTERVAL_MS / 2).count();
        assert!(close <= 3, "{close} samples are doubled: {steps:?}");
        assert!(
            counted.len() <= there + 3 && counted.len() + 6 >= there,
            "{} samples where the third server has {there}",
            counted.len()
        );
        println!(
            "node {at}: {} samples, the third server has {there}; longest gap {longest} ms, {close} close to each other, {turns} \
             turns",
            counted.len()
        );
    }
    for at in 0..NODES {
        trio.stop(at).await;
    }
}
