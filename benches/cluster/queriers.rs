//! The same queries spread over ever more queriers: what one of them costs all processes together.

use crate::harness::{client, eventually};
use crate::load::Load;
use crate::nodes::{Cluster, Shape};
use crate::written::{Target, write};
use std::time::Duration;
use tokio::task::JoinSet;

/// Each is asked so often, by so many at a time.
const TIMES: usize = 40;
const CLIENTS: usize = 2;
/// Queries of a dashboard, over all that was written.
const QUERIES: [&str; 3] = [
    "sum by (mode) (rate(node_metric_1_total[5m]))",
    "max by (instance) (node_metric_2_total)",
    "topk(5, sum by (instance) (rate(node_metric_3_total[5m])))",
];

pub(crate) async fn run(series: usize, rounds: usize) {
    println!(
        "Queriers: 1 ingester, 2 shards, {series} series, {rounds} samples of each, {TIMES} times {} queries:\n",
        QUERIES.len()
    );
    println!("| queriers | CPU ms per query | … of it in queriers | queries per second |\n|---:|---:|---:|---:|");
    for queriers in [1, 2, 3] {
        let shape = Shape {
            queriers,
            ..Shape::ingesters(1, 2, 1)
        };
        let Some(cluster) = Cluster::start(shape).await else {
            return;
        };
        let now_ms = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
        let load = Load::new(series, rounds, now_ms);
        write(&Target::of(&cluster), &load).await;
        let (start, end) = (load.start_ms() as f64 / 1e3, load.end_ms as f64 / 1e3);
        let servers = cluster.servers("querier");
        let path = |query: &str| {
            let query = client::encode(query);
            format!("/api/v1/query_range?query={query}&start={start}&end={end}&step=15&nocache=1")
        };
        // Once each beforehand: connections are open, and what is to be there is.
        for http in &servers {
            for query in QUERIES {
                eventually("an answer", async || {
                    let answer = http.client().get(http.url(&path(query))).send().await.ok()?;
                    answer.status().is_success().then_some(())
                })
                .await;
            }
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let before = (cluster.used().await.cpu_seconds, cluster.cpu_of("querier"));
        let began = tokio::time::Instant::now();
        let mut clients = JoinSet::new();
        for number in 0..TIMES * QUERIES.len() {
            while clients.len() >= CLIENTS {
                clients.join_next().await;
            }
            let (http, path) = (
                servers[number % servers.len()].clone(),
                path(QUERIES[number % QUERIES.len()]),
            );
            clients.spawn(async move {
                let (code, text) = http.get(&path).await;
                assert!(code == 200 && !text.contains("\"warnings\""), "{code} {text}");
            });
        }
        while let Some(done) = clients.join_next().await {
            done.expect("an answer");
        }
        let (wall, asked) = (began.elapsed().as_secs_f64(), (TIMES * QUERIES.len()) as f64);
        let all = (cluster.used().await.cpu_seconds - before.0) / asked * 1e3;
        let in_queriers = (cluster.cpu_of("querier") - before.1) / asked * 1e3;
        println!("| {queriers} | {all:.1} | {in_queriers:.1} | {:.1} |", asked / wall);
    }
    println!();
}
