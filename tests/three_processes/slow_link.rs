//! A follower that needs a snapshot, or much of the log, behind a link that takes long to pass it: nobody else notices.

use crate::harness::cutter::Cutter;
use crate::harness::{eventually, eventually_within, remote};
use crate::ledger::Ledger;
use crate::trio::{NODES, Trio, now_ms};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const SHARDS: usize = 2;
/// The follower.
const AWAY: usize = 2;
/// What the state is made of: series with so long a label, of which none looks like another.
const SERIES: usize = 32_000;
const LABEL_BYTES: usize = 1000;
const STATE_BYTES: u64 = (SERIES * LABEL_BYTES) as u64;
const AT_ONCE: usize = 1000;
/// Of the link.
const BYTES_PER_SECOND: u64 = 500_000;
/// More than four times as long as the link needs.
const PATIENCE: Duration = Duration::from_secs(300);

/// Digits that do not compress well.
fn noise(series: usize) -> String {
    let mut text = String::with_capacity(LABEL_BYTES + 16);
    let mut state = series as u64 + 1;
    while text.len() < LABEL_BYTES {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let _ = write!(text, "{:016x}", mixed ^ (mixed >> 31));
    }
    text
}

/// One sample of each of these series, through one node.
async fn write(trio: &Trio, at: usize, metric: &str, series: std::ops::Range<usize>, at_ms: i64) {
    let series = series.map(|n| {
        let (instance, noise) = (n.to_string(), noise(n));
        let labels = [("__name__", metric), ("instance", &instance), ("noise", &noise)];
        remote::time_series(&labels, &[(at_ms, n as f64)])
    });
    remote::send_until_taken(&trio.http(at), &remote::body(series.collect())).await;
}

/// Leader and term of each group, as a node shows them; none where a group is not led.
async fn led(trio: &Trio, asked: usize) -> Option<BTreeMap<String, (u64, u64)>> {
    let shown = trio.told_by(asked, "/api/v1/cluster/shards").await?;
    let shards = shown["shards"].as_array()?;
    let mut groups = shards.iter().chain([&shown["metadata"]]);
    let one = |group: &Value| {
        Some((
            group["shard"].to_string(),
            (group["leader"].as_u64()?, group["term"].as_u64()?),
        ))
    };
    groups.by_ref().map(one).collect()
}

/// Sum of a metric of a node.
async fn metric(trio: &Trio, at: usize, name: &str) -> Option<f64> {
    let http = trio.http(at);
    let text = http
        .client()
        .get(http.url("/metrics"))
        .send()
        .await
        .ok()?
        .text()
        .await
        .ok()?;
    let of_it = text
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
    let values = of_it.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Some(values.sum())
}

async fn id_of(trio: &Trio, place: usize) -> u64 {
    let shown = trio.told_by(place, "/api/v1/cluster/nodes").await.expect("an answer");
    let mut nodes = shown["nodes"].as_array().expect("nodes").iter();
    let own = nodes.find(|node| trio.place_of(node["address"].as_str().unwrap_or_default()) == Some(place));
    own.and_then(|node| node["id"].as_u64()).expect("its id")
}

/// Three nodes, of which one is behind a link, the link, and that node's id. Logs are flushed after so many bytes, and who
/// leads stays as it comes.
async fn behind_a_link(folder: &Path, flush_bytes: &str) -> (Trio, Cutter, u64) {
    let (shards, flush) = (
        format!("--ingest.shards={SHARDS}"),
        format!("--ingest.flush-bytes={flush_bytes}"),
    );
    let mut trio = Trio::new(folder, &[&shards, &flush, "--cluster.prefer-after=1h"]);
    let link = Cutter::start(trio.port(AWAY)).await;
    trio.is_behind(AWAY, link.address());
    trio.start(None).await;
    let away = id_of(&trio, AWAY).await;
    (trio, link, away)
}

/// Who leads which group, once it is not that node.
async fn led_by_others(trio: &Trio, away: u64) -> BTreeMap<String, (u64, u64)> {
    eventually("the others to lead every group", async || {
        led(trio, 0)
            .await
            .filter(|groups| groups.values().all(|(leader, _)| *leader != away))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_over_a_slow_link_delays_nobody() {
    let folder = tempfile::tempdir().expect("temp folder");
    // The log is short.
    let (mut trio, link, away) = behind_a_link(folder.path(), "256KiB").await;
    let at_ms = now_ms();
    write(&trio, 0, "wide", 0..AT_ONCE, at_ms).await;

    trio.kill(AWAY);
    for first in (AT_ONCE..SERIES).step_by(AT_ONCE) {
        write(&trio, 0, "wide", first..first + AT_ONCE, at_ms).await;
    }
    let ledger = Ledger::new("a:1");
    let stop = CancellationToken::new();
    let servers = vec![trio.http(0), trio.http(1)];
    let writer = tokio::spawn(Arc::clone(&ledger).write(servers, stop.clone()));
    let before = led_by_others(&trio, away).await;
    assert_eq!(before.len(), SHARDS + 1, "{before:?}");

    link.slow_down(BYTES_PER_SECOND);
    let others: Vec<_> = (0..NODES).filter(|at| *at != AWAY).collect();
    let had: Vec<_> = others.iter().map(|at| trio.node(*at).process.memory()).collect();
    let passed = link.passed();
    trio.launch(AWAY, None);
    let (mut most, mut looked, mut written) = (had.clone(), 0, 0);
    eventually_within(PATIENCE, "the snapshots to have come", async || {
        for (most, at) in most.iter_mut().zip(&others) {
            *most = (*most).max(trio.node(*at).process.memory());
        }
        // One of them may be asked for something else right now.
        if let Some(now) = led(&trio, 0).await {
            assert_eq!(now, before, "somebody was elected");
            looked += 1;
        }
        let is_over = link.passed() - passed > STATE_BYTES;
        if !is_over {
            ledger.until_written("while the snapshot is under way").await;
            written += 1;
        }
        let received = metric(&trio, AWAY, "gnomon_raft_snapshots_received_total").await?;
        (received >= SHARDS as f64).then_some(())
    })
    .await;
    let bytes = link.passed() - passed;
    let grown: Vec<_> = most
        .iter()
        .zip(&had)
        .map(|(most, had)| most.saturating_sub(*had))
        .collect();
    println!("{bytes} bytes over the link, looked {looked} times, of memory {had:?} grew {grown:?}");
    assert!(bytes > STATE_BYTES, "{bytes} bytes are not all of it");
    assert!(bytes < STATE_BYTES * 3, "{bytes} bytes: it was sent several times");
    assert!(
        looked > 10 && written > 10,
        "looked {looked} times, written {written} times"
    );
    assert!(grown.iter().all(|grown| *grown < STATE_BYTES), "{grown:?} bytes");

    until_near(&trio, away, 50).await;
    assert_eq!(led(&trio, 0).await, Some(before), "at its end");
    link.speed_up();
    stop.cancel();
    writer.await.expect("a writer");
    it_has_all(&mut trio, away, at_ms, &ledger).await;
}

/// Waits until the follower has about all of the metadata, which change all the time, and of each shard's log all but so many
/// entries.
async fn until_near(trio: &Trio, away: u64, entries: u64) {
    eventually_within(PATIENCE, "the follower to have what came since", async || {
        let shown = trio.told_by(0, "/api/v1/cluster/shards").await?;
        let is_there = |group: &Value, entries: u64| {
            let mut members = group["members"].as_array().into_iter().flatten();
            let behind = members.find(|member| member["node"] == away)?["behind"].as_u64()?;
            (behind <= entries).then_some(())
        };
        for shard in shown["shards"].as_array()? {
            is_there(shard, entries)?;
        }
        is_there(&shown["metadata"], 50)
    })
    .await;
}

/// What is read of a log at once takes longer than an answer is waited for, many times over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_over_a_slow_link_is_not_sent_again_and_again() {
    const SERIES: usize = 4_000;
    /// Entries are not cut: these are small beside what the link passes in the time for an answer.
    const AT_ONCE: usize = 50;
    const BYTES_PER_SECOND: u64 = 100_000;
    let folder = tempfile::tempdir().expect("temp folder");
    // Nothing is taken from the log.
    let (mut trio, link, away) = behind_a_link(folder.path(), "256MiB").await;
    let at_ms = now_ms();
    trio.kill(AWAY);
    for first in (0..SERIES).step_by(AT_ONCE) {
        write(&trio, 0, "wide", first..first + AT_ONCE, at_ms).await;
    }
    let before = led_by_others(&trio, away).await;

    link.slow_down(BYTES_PER_SECOND);
    let passed = link.passed();
    trio.launch(AWAY, None);
    // Each write is one.
    until_near(&trio, away, 0).await;
    let bytes = link.passed() - passed;
    println!("{bytes} bytes over the link");
    let logged = (SERIES * LABEL_BYTES) as u64;
    assert!(bytes > logged / 4, "{bytes} bytes are not all of it");
    assert!(bytes < logged * 2, "{bytes} bytes: it was sent several times");
    assert_eq!(led(&trio, 0).await, Some(before), "somebody was elected");
    assert_eq!(
        metric(&trio, AWAY, "gnomon_raft_snapshots_received_total").await,
        Some(0.0)
    );
    link.speed_up();
    for at in 0..NODES {
        trio.stop(at).await;
    }
}

/// Makes the follower the only one that can lead, and reads from it.
async fn it_has_all(trio: &mut Trio, id: u64, at_ms: i64, ledger: &Ledger) {
    trio.until_ready(AWAY).await;
    let others: Vec<_> = (0..NODES).filter(|at| *at != AWAY).collect();
    trio.kill(others[0]);
    // Every shard has something in its log that who is gone has not.
    write(trio, AWAY, "newer", 0..100, at_ms).await;
    trio.kill(others[1]);
    trio.launch(others[0], None);
    eventually_within(PATIENCE, "the follower to lead every shard", async || {
        let groups = led(trio, AWAY).await?;
        let mut shards = groups.iter().filter(|(shard, _)| *shard != "null");
        shards.all(|(_, (leader, _))| *leader == id).then_some(())
    })
    .await;
    let http = trio.http(AWAY);
    let wrong = eventually("a whole answer", async || ledger.look(&http).await).await;
    assert_eq!(wrong, Vec::<String>::new());
    let time = at_ms as f64 / 1000.0;
    for (query, sum) in [("sum(wide)", SERIES * (SERIES - 1) / 2), ("count(newer)", 100)] {
        let found = http.query(query, time).await;
        assert_eq!(found["result"][0]["value"][1], Value::from(sum.to_string()), "{query}");
    }
    for at in [AWAY, others[0]] {
        trio.stop(at).await;
    }
}
