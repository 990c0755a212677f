//! What a cluster asks of an object store, by what for: counted at a proxy before a real S3 server.

use crate::harness::{client, eventually};
use crate::load::{Load, STEP_MS};
use crate::nodes::{Cluster, Shape, metric};
use crate::queriers::QUERIES;
use crate::written::{Target, write};
use std::collections::BTreeMap;
use std::time::Duration;

const WINDOW_MS: i64 = 7_200_000;
/// Windows whose blocks are merged into one.
const WINDOWS: i64 = 3;
/// What comes after the last of something is over by then.
const QUIET: Duration = Duration::from_secs(10);
/// A window waits for late parts before its blocks are merged, milliseconds.
const SETTLE_MS: i64 = 45 * 60 * 1000;
/// Some cycles of a compactor, a minute each.
const CYCLES: Duration = Duration::from_secs(300);

type Requests = BTreeMap<String, u64>;

fn counted(cluster: &Cluster) -> Requests {
    let proxy = cluster.store.as_ref().and_then(|store| store.proxy.as_ref());
    proxy.map(|proxy| proxy.by_method()).unwrap_or_default()
}

/// Of a metric, over all processes.
async fn sum(cluster: &Cluster, role: &str, name: &str, labels: &str) -> f64 {
    let mut all = 0.0;
    for host in cluster.of(role) {
        all += metric(&cluster.metrics(host).await, name, labels);
    }
    all
}

fn row(what: &str, before: &Requests, after: &Requests, of: f64) {
    let each = |method: &str| {
        let count = |at: &Requests| at.get(method).copied().unwrap_or(0) as f64;
        (count(after) - count(before)) / of
    };
    let [put, post, get, head, list, delete] = ["PUT", "POST", "GET", "HEAD", "LIST", "DELETE"].map(each);
    println!("| {what} | {put:.2} | {post:.2} | {get:.2} | {head:.2} | {list:.2} | {delete:.2} |");
}

/// At rest; then parts are uploaded while no compactor runs; then one merges them and collects what it has replaced.
pub(crate) async fn run(series: usize, rounds: usize, shards: usize, seconds: u64) {
    let shape = Shape {
        compactors: 1,
        queriers: 1,
        ..Shape::ingesters(3, shards, 3)
    };
    let Some(mut cluster) = Cluster::start_on_s3(shape).await else {
        return;
    };
    tokio::time::sleep(QUIET).await;
    println!(
        "Requests to the object store: 3 ingesters, {shards} shards with 3 replicas, {series} series, {WINDOWS} windows with \
         {rounds} samples of each:\n"
    );
    println!("| | PUT | POST | GET | HEAD | LIST | DELETE |\n|---|---:|---:|---:|---:|---:|---:|");
    let start = counted(&cluster);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    row(
        "an hour at rest, with a compactor",
        &start,
        &counted(&cluster),
        seconds as f64 / 3600.0,
    );
    let compactor = cluster.of("compactor")[0];
    cluster.kill(compactor);
    let before = counted(&cluster);
    let now_ms = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
    let last_ms = (now_ms - SETTLE_MS).div_euclid(WINDOWS * WINDOW_MS) * WINDOWS * WINDOW_MS;
    for window in (0..WINDOWS).rev() {
        let load = Load::new(series, rounds, last_ms - window * WINDOW_MS - 1);
        write(&Target::of(&cluster), &load).await;
    }
    let parts = (shards as i64 * WINDOWS) as f64;
    eventually("all parts to be uploaded", async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let uploaded = sum(&cluster, "ingester", "gnomon_ingester_parts_uploaded_total", "").await;
        (uploaded >= parts).then_some(())
    })
    .await;
    tokio::time::sleep(QUIET).await;
    let uploaded = counted(&cluster);
    row("each part that is uploaded", &before, &uploaded, parts);
    cluster.launch(compactor);
    cluster.until_ready(compactor).await;
    let all_gone = async {
        while sum(&cluster, "compactor", "gnomon_compactor_deleted_objects_total", "").await < parts {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    let in_time = tokio::time::timeout(CYCLES, all_gone).await;
    in_time.expect("the parts to be merged, and deleted");
    let merges = sum(
        &cluster,
        "compactor",
        "gnomon_compactor_merges_total",
        "outcome=\"success\"",
    )
    .await;
    row(
        &format!("each merge of {WINDOWS} blocks, and their end ({merges:.0} merges)"),
        &uploaded,
        &counted(&cluster),
        merges.max(1.0),
    );
    println!();
    let first_ms = last_ms - (WINDOWS - 1) * WINDOW_MS - rounds as i64 * STEP_MS;
    queries(&mut cluster, first_ms, last_ms).await;
}

/// What queriers fetch: of merged blocks that the querier has not read yet, that it has read, and that it had read before it
/// was started again.
async fn queries(cluster: &mut Cluster, first_ms: i64, last_ms: i64) {
    println!("What a querier fetches for a query of all of it, which the compactor has merged, one after the other:\n");
    println!(
        "| query | GET, MiB, asked the first time | again | by a querier that was started again |\n|---|---:|---:|---:|"
    );
    let querier = cluster.of("querier")[0];
    let (start, end) = (first_ms as f64 / 1e3, last_ms as f64 / 1e3);
    let mut columns = vec![Vec::new(); QUERIES.len()];
    for round in 0..3 {
        if round == 2 {
            cluster.kill(querier);
            cluster.launch(querier);
            cluster.until_ready(querier).await;
        }
        for (query, columns) in QUERIES.iter().zip(&mut columns) {
            let query = client::encode(query);
            let path = format!("/api/v1/query_range?query={query}&start={start}&end={end}&step=60&nocache=1");
            let before = fetched(cluster);
            let (code, text) = cluster.members[querier].http.get(&path).await;
            assert!(
                code == 200 && text.contains("\"values\"") && !text.contains("\"warnings\""),
                "{code} {text}"
            );
            let after = fetched(cluster);
            let mib = (after.1 - before.1) as f64 / f64::from(1 << 20);
            columns.push(format!("{}, {mib:.2}", after.0 - before.0));
        }
    }
    for (query, columns) in QUERIES.iter().zip(columns) {
        println!("| `{query}` | {} |", columns.join(" | "));
    }
    println!();
}

/// Objects' ranges that were fetched so far, and their bytes.
fn fetched(cluster: &Cluster) -> (u64, u64) {
    let proxy = cluster.store.as_ref().and_then(|store| store.proxy.as_ref());
    let gets = counted(cluster).get("GET").copied().unwrap_or(0);
    (gets, proxy.map_or(0, |proxy| proxy.got_bytes()))
}
