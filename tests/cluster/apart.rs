//! Two ingesters that do not reach each other, while a third reaches both: what comes to one and belongs to the other goes
//! through the third, and both keep their leases.

use crate::harness::{Http, client, eventually, remote};
use crate::members::{Cluster, Surroundings};
use crate::{Clocks, Store, net};
use serde_json::Value;
use std::time::Duration;
use tokio::time::Instant;

const SERIES: usize = 40;
/// Longer than a lease.
const APART: Duration = Duration::from_secs(25);
/// That an ingester took so many one after the other shows that it was no luck.
const IN_A_ROW: u64 = 10;
const ANSWER_WITHIN: Duration = Duration::from_secs(8);

/// Series of all shards.
fn request(from: usize, at_ms: i64) -> Vec<u8> {
    let (from, mut series) = (from.to_string(), Vec::new());
    for n in 0..SERIES {
        let n = n.to_string();
        let labels = [("__name__", "apart"), ("from", &from), ("instance", &n), ("job", "j")];
        series.push(remote::time_series(&labels, &[(at_ms, at_ms as f64)]));
    }
    remote::body(series)
}

/// Until so many requests in a row were taken there; how many were taken in all.
async fn written(clocks: &Clocks, server: &Http, from: usize, until: Instant) -> u64 {
    let (mut taken, mut in_a_row) = (0, 0);
    let mut at_ms = 0;
    while in_a_row < IN_A_ROW || Instant::now() < until {
        // No two samples of a series have one time.
        at_ms = clocks.now_ms().max(at_ms + 1);
        let body = request(from, at_ms);
        let is_taken = async {
            let sent = tokio::time::timeout(ANSWER_WITHIN, remote::send(server, body.clone())).await;
            matches!(sent, Ok(Ok((204, _))))
        };
        match is_taken.await {
            true => in_a_row += 1,
            false => in_a_row = 0,
        }
        taken += u64::from(in_a_row > 0);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    taken
}

/// Returns when the cluster says that a node is not live.
async fn silent_node(cluster: &Cluster) -> Value {
    loop {
        let nodes = cluster.told("nodes").await.unwrap_or_default();
        let mut nodes = nodes["nodes"].as_array().into_iter().flatten();
        if let Some(silent) = nodes.find(|node| node["state"] != "live") {
            return silent.clone();
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Batches that it has passed on.
async fn passed_on(server: &Http) -> f64 {
    let answer = server
        .client()
        .get(server.url("/metrics"))
        .send()
        .await
        .expect("metrics");
    let text = answer.text().await.expect("metrics");
    let mut lines = text.lines();
    let count = lines.find_map(|line| line.strip_prefix("gnomon_ingester_appends_passed_on_total "));
    count.and_then(|count| count.parse().ok()).expect("the counter")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_ingesters_that_do_not_reach_each_other_write_by_the_third() {
    let Some(net) = net::Net::make(4) else {
        return;
    };
    let folder = tempfile::tempdir().expect("temp folder");
    let clocks = Clocks::find(Duration::from_secs(3600));
    let around = Surroundings {
        store: Store::start(folder.path(), &net.outside(), 1),
        net,
        clocks: clocks.clone(),
        folder: folder.path().to_owned(),
        seed: 1,
    };
    let roles = ["ingester", "ingester", "ingester", "querier"];
    let mut cluster = Cluster::start(around, "", &roles, &[]).await;
    let mut ids = Vec::new();
    for at in 0..3 {
        ids.push(eventually("a number", async || cluster.number(at).await).await);
    }
    // The leader of the metadata group, by which leases are kept, and another.
    let leader = eventually("all to vote in the metadata group", async || {
        let shards = cluster.told("shards").await?;
        (shards["metadata"]["voters"].as_array()?.len() == ids.len()).then_some(())?;
        let leader = shards["metadata"]["leader"].as_u64()?;
        ids.iter().position(|id| *id == leader)
    })
    .await;
    let other = (leader + 1) % 3;
    cluster.lose(leader, other);
    cluster.lose(other, leader);
    let until = Instant::now() + APART;
    let servers = cluster.https("ingester");
    let [first, second, third] = [0, 1, 2].map(|at| written(&clocks, &servers[at], at, until));
    let all = async { tokio::join!(first, second, third) };
    let taken = tokio::select! {
        taken = tokio::time::timeout(4 * APART, all) => taken,
        silent = silent_node(&cluster) => panic!("a lease has ended: {silent}"),
    };
    let (first, second, third) = taken.expect("writes to be taken by each ingester");
    let passed_on = passed_on(&servers[3 - leader - other]).await;
    assert!(passed_on > 0.0, "by the third, unless it has come to lead everything");
    cluster.heal().await;
    for (from, taken) in [first, second, third].into_iter().enumerate() {
        let query = format!("count_over_time(apart{{from=\"{from}\"}}[10m])");
        let at = clocks.now_ms() as f64 / 1000.0;
        let found = client::series(&cluster.https("querier")[0].query(&query, at).await);
        assert_eq!(found.len(), SERIES);
        for (labels, samples) in found {
            let count: u64 = samples[0].1.parse().expect("a count");
            // What was not answered may have been taken.
            assert!(count >= taken, "{labels}: {count} of {taken} that were acknowledged");
        }
    }
    cluster.stop().await;
}
