//! A cluster of real processes, each in a network namespace of its own, under a seeded nemesis: nothing acknowledged is
//! lost or doubled, no answer is wrong or short without a word.
//!
//! `GNOMON_NEMESIS_STEPS` and `GNOMON_SEED` change it; `make test-nemesis` does.

mod harness;

#[path = "cluster/ledger.rs"]
mod ledger;
#[path = "cluster/members.rs"]
mod members;
#[path = "cluster/nemesis.rs"]
mod nemesis;
#[path = "cluster/net.rs"]
mod net;

use ledger::{Ledger, Report};
use members::Cluster;
use nemesis::Nemesis;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::sync::Arc;

const INGESTERS: usize = 3;
const QUERIERS: usize = 2;

fn number(variable: &str, default: u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_wrong_whatever_the_nemesis_does() {
    let Some(net) = net::Net::make(INGESTERS + QUERIERS + 2) else {
        return;
    };
    let steps = number("GNOMON_NEMESIS_STEPS", 8);
    let seed = number("GNOMON_SEED", rand::rng().random_range(0..1_000_000));
    println!("seed {seed}, {steps} steps");
    let folder = tempfile::tempdir().expect("temp folder");
    let mut cluster = Cluster::start(net, folder.path(), INGESTERS, QUERIERS).await;
    let ledger = Arc::new(Ledger::new());
    let load = ledger::Load::start(&cluster, &ledger, seed);
    let mut nemesis = Nemesis::new(StdRng::seed_from_u64(seed));
    for step in 0..steps {
        let what = nemesis.step(&mut cluster).await;
        println!("step {step}: {what}: {}", ledger.progress());
        ledger
            .until_written(&format!("writes to go on after step {step}, {what} (seed {seed})"))
            .await;
    }
    cluster.heal().await;
    let Report {
        longest_stall,
        reads,
        partial,
        failed,
        wrong,
        errors,
    } = load.stop().await;
    let samples = ledger.check_all(&cluster).await;
    println!(
        "seed {seed}: {steps} steps, {samples} samples acknowledged and read; longest stall of a writer {longest_stall:?}; \
         {reads} reads: {partial} partial, {failed} errors, {} wrong",
        wrong.len()
    );
    for error in errors {
        println!("a read failed: {}", error.chars().take(300).collect::<String>());
    }
    assert!(wrong.is_empty(), "seed {seed}: {wrong:#?}");
    cluster.stop().await;
}
