//! What a cluster does when its leaders are killed, and what it costs: real processes, each in a network namespace of its
//! own (root is needed), one after the other. Prints Markdown tables for docs/benchmarks.md, which says what they mean.
//!
//! `make bench-cluster`. In the environment: PARTS (a list of `failover`, `replication`, `scraping`, `shards`, `queriers`,
//! `requests`, `idle`), KILLS and SHARDS, SERIES and ROUNDS (one sample of each series per round), SCRAPING (seconds), QUERIES (of
//! each number of queriers), CLIENTS (that ask them at a time) and PLACES (where the samples are then: `heads`, `blocks`), IDLE
//! (seconds of rest) and MANY (shards of the larger cluster at rest), GNOMON (another binary), FLAGS (of all processes besides,
//! with a space between).

#[path = "../ingest/exporters.rs"]
#[allow(dead_code, reason = "`make bench` uses all of it")]
mod exporters;
#[path = "../../tests/harness/mod.rs"]
mod harness;
#[path = "../ingest/load.rs"]
#[allow(dead_code, reason = "`make bench` uses all of it")]
mod load;
#[path = "../../tests/cluster/net.rs"]
#[allow(dead_code, reason = "tests/cluster.rs uses all of it")]
mod net;
#[path = "../side_by_side/mod.rs"]
mod side_by_side;

mod compared;
mod failover;
mod idle;
mod nodes;
mod queriers;
mod replication;
mod requests;
mod scraping;
#[path = "../../tests/cluster/store.rs"]
#[allow(dead_code, reason = "tests/cluster.rs uses all of it")]
mod store;
mod writers;
mod written;

use side_by_side::{number, setting};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    // cargo passes --bench; there is nothing to choose.
    let parts = setting("PARTS", "failover,replication,scraping,shards,queriers,requests,idle");
    let wants = |part: &str| parts.split(',').any(|p| p.trim() == part);
    let (series, rounds) = (number("SERIES", 100_000), number("ROUNDS", 60));
    let shards = number("SHARDS", 6);
    if wants("failover") {
        failover::run(number("KILLS", 50), shards).await;
    }
    if wants("replication") {
        replication::run(series, rounds, shards).await;
    }
    if wants("scraping") {
        scraping::run(series, shards, number("SCRAPING", 60) as u64).await;
    }
    if wants("shards") {
        replication::by_shards(series, rounds).await;
    }
    if wants("queriers") {
        let asking = queriers::Asking {
            times: number("QUERIES", 1_000),
            clients: number("CLIENTS", 2),
        };
        queriers::run(&setting("PLACES", "heads,blocks"), series / 5, rounds, asking).await;
    }
    if wants("requests") {
        requests::run(series / 5, rounds, shards, number("IDLE", 60) as u64).await;
    }
    if wants("idle") {
        idle::run(number("IDLE", 60) as u64, number("MANY", 60)).await;
    }
}
