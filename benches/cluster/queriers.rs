//! The same queries spread over ever more queriers: what one of them costs all processes together, where the samples lie in the
//! heads, and where they lie in blocks.

use crate::harness::{client, eventually};
use crate::load::Load;
use crate::nodes::{Cluster, Shape};
use crate::side_by_side::grouped;
use crate::written::{Target, end_of_data, shards_with_series, until_in_blocks, write};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

const QUERIERS: [usize; 3] = [1, 2, 3];
const SHARDS: usize = 2;
/// After writing, and after the first queries, for what was put off.
const CALM: Duration = Duration::from_secs(5);
/// So long the cluster's CPU at rest is measured: it is told in ticks of 10 ms.
const REST: Duration = Duration::from_secs(10);
/// Queries of a dashboard, over all that was written.
pub(crate) const QUERIES: [&str; 3] = [
    "sum by (mode) (rate(node_metric_1_total[5m]))",
    "max by (instance) (node_metric_2_total)",
    "topk(5, sum by (instance) (rate(node_metric_3_total[5m])))",
];

/// Where the samples lie that are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    Heads,
    Blocks,
}

/// Which querier is asked next.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// Another one each time: all of them are at work at once, on cores and in processor caches that they share here.
    InTurn,
    /// The first as often as is its share, then the next one: what a querier of several does for a query, by itself.
    OneAfterTheOther,
}

impl Order {
    /// The querier and the kind of the `number`th of `times` queries.
    fn place(self, number: usize, times: usize, queriers: usize) -> (usize, usize) {
        let (querier, turn) = match self {
            Self::InTurn => (number % queriers, number / queriers),
            Self::OneAfterTheOther => (number * queriers / times, number),
        };
        (querier, turn % QUERIES.len())
    }
}

/// CPU seconds so far: of all processes, and of the queriers.
#[derive(Clone, Copy, Debug)]
struct Cpu {
    all: f64,
    queriers: f64,
}

impl Cpu {
    async fn of(cluster: &Cluster) -> Self {
        Self {
            all: cluster.used().await.cpu_seconds,
            queriers: cluster.cpu_of("querier"),
        }
    }

    /// A second's, on the average since `before`.
    fn each_second(self, before: Self, seconds: f64) -> Self {
        Self {
            all: (self.all - before.all) / seconds,
            queriers: (self.queriers - before.queriers) / seconds,
        }
    }
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asking {
    /// Queries that each number of queriers is asked.
    pub(crate) times: usize,
    /// Of them under way at a time.
    pub(crate) clients: usize,
}

/// `places` names where the samples are to lie: `heads`, `blocks`.
pub(crate) async fn run(places: &str, series: usize, rounds: usize, asking: Asking) {
    let Asking { times, clients } = asking;
    for at in [Where::Heads, Where::Blocks] {
        let (place, lie) = match at {
            Where::Heads => ("heads", "in the heads"),
            Where::Blocks => ("blocks", "in blocks"),
        };
        if !places.split(',').any(|wanted| wanted == place) {
            continue;
        }
        println!(
            "Queriers, samples {lie}: 1 ingester, {SHARDS} shards, {} series, {rounds} samples of each, {} queries of {} kinds, \
             {clients} at a time:\n",
            grouped(series as f64),
            grouped(times as f64),
            QUERIES.len()
        );
        println!(
            "| queriers | CPU ms per query (of it in queriers), in turn | … one after the other | queries per second, in turn \
             | … one after the other | CPU at rest, % of a core |"
        );
        println!("|---:|---:|---:|---:|---:|---:|");
        for queriers in QUERIERS {
            let shape = Shape {
                queriers,
                ..Shape::ingesters(1, SHARDS, 1)
            };
            let Some(cluster) = Cluster::start(shape).await else {
                return;
            };
            println!("| {queriers} | {}", asked(&cluster, at, series, rounds, asking).await);
        }
        println!();
    }
}

/// The rest of a row.
async fn asked(cluster: &Cluster, at: Where, series: usize, rounds: usize, asking: Asking) -> String {
    let Asking { times, clients: most } = asking;
    let now_ms = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
    let end_ms = match at {
        Where::Heads => now_ms,
        Where::Blocks => end_of_data(now_ms),
    };
    let load = Load::new(series, rounds, end_ms);
    write(&Target::of(cluster), &load).await;
    if at == Where::Blocks {
        until_in_blocks(cluster, shards_with_series(cluster).await).await;
    }
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
                let text = answer.text().await.ok()?;
                (text.contains("\"success\"") && text.contains("\"values\"")).then_some(())
            })
            .await;
        }
    }
    tokio::time::sleep(CALM).await;
    let (before, began) = (Cpu::of(cluster).await, Instant::now());
    tokio::time::sleep(REST).await;
    let rest = Cpu::of(cluster)
        .await
        .each_second(before, began.elapsed().as_secs_f64());
    let mut columns = Vec::new();
    let mut each_second = Vec::new();
    for order in [Order::InTurn, Order::OneAfterTheOther] {
        let (before, began) = (Cpu::of(cluster).await, Instant::now());
        let mut clients = JoinSet::new();
        for number in 0..times {
            while clients.len() >= most.max(1) {
                clients.join_next().await.expect("one").expect("an answer");
            }
            let (server, kind) = order.place(number, times, servers.len());
            let (http, path) = (servers[server].clone(), path(QUERIES[kind]));
            clients.spawn(async move {
                let (code, text) = http.get(&path).await;
                assert!(code == 200 && !text.contains("\"warnings\""), "{code} {text}");
            });
        }
        while let Some(done) = clients.join_next().await {
            done.expect("an answer");
        }
        let seconds = began.elapsed().as_secs_f64();
        let asking = Cpu::of(cluster).await.each_second(before, seconds);
        let each = |asking: f64, rest: f64| (asking - rest) * seconds / times as f64 * 1e3;
        columns.push(format!(
            "{:.2} ({:.2})",
            each(asking.all, rest.all),
            each(asking.queriers, rest.queriers)
        ));
        each_second.push(grouped(times as f64 / seconds));
    }
    format!(
        "{} | {} | {:.1} |",
        columns.join(" | "),
        each_second.join(" | "),
        rest.all * 100.0
    )
}
