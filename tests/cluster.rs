//! A cluster of real processes, each in a network namespace of its own with a clock and a disk of its own, under a seeded
//! nemesis: nothing acknowledged is lost or doubled, no answer is wrong or short without a word, and every answer about what
//! a real Prometheus scrapes as well is the same as that one's.
//!
//! `GNOMON_NEMESIS_STEPS`, `GNOMON_NEMESIS_ONLY` (kinds of faults) and `GNOMON_SEED` change it; `make test-nemesis` does.

mod harness;

#[path = "cluster/answers.rs"]
mod answers;
#[path = "cluster/apart.rs"]
mod apart;
#[path = "cluster/clocks.rs"]
mod clocks;
#[path = "cluster/incidents.rs"]
mod incidents;
#[path = "cluster/ledger.rs"]
mod ledger;
#[path = "cluster/members.rs"]
mod members;
#[path = "cluster/nemesis.rs"]
mod nemesis;
#[path = "cluster/net.rs"]
mod net;
#[path = "cluster/store.rs"]
mod store;
#[path = "cluster/targets.rs"]
mod targets;
#[path = "cluster/twin.rs"]
mod twin;
#[path = "cluster/wire.rs"]
mod wire;

use clocks::Clocks;
use harness::reference::Prometheus;
use ledger::Ledger;
use members::{Cluster, Surroundings};
use nemesis::Nemesis;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use store::Store;
use targets::Targets;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use twin::{Compared, Pace, Twin};

const ROLES: [&str; 9] = [
    "ingester",
    "ingester",
    "ingester",
    "querier",
    "querier",
    "compactor",
    "compactor",
    "scraper",
    "scraper",
];
/// In some runs there is one ingester more than a shard has replicas, and one that is silent is replaced soon.
const REPLACE_AFTER: &str = "--cluster.replace-after=20s";
/// Hosts for ingesters that join.
const SPARE: usize = 4;
/// From so many steps on faults may last as long as leases do.
const MANY_STEPS: u64 = 20;

fn number(variable: &str, default: u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_wrong_whatever_the_nemesis_does() {
    let Some(net) = net::Net::make(ROLES.len() + 1 + SPARE) else {
        return;
    };
    let steps = number("GNOMON_NEMESIS_STEPS", 10);
    let seed = number("GNOMON_SEED", rand::rng().random_range(0..1_000_000));
    let only = std::env::var("GNOMON_NEMESIS_ONLY").ok();
    let has_time = steps > MANY_STEPS;
    let is_asked = only
        .as_ref()
        .map(|only| only.split(',').any(|kind| kind == nemesis::OUTLAST));
    let replaces = is_asked.unwrap_or(has_time && seed.is_multiple_of(2));
    println!("seed {seed}, {steps} steps, silent nodes are replaced soon: {replaces}");
    let folder = tempfile::tempdir().expect("temp folder");
    let clocks = Clocks::find(Duration::from_secs(if has_time { 240 } else { 70 }));
    let sources = Sources::start(&clocks, &net.outside(), folder.path()).await;
    let config = sources.config.clone();
    let around = Surroundings {
        store: Store::start(folder.path(), &net.outside(), seed),
        net,
        clocks: clocks.clone(),
        folder: folder.path().to_owned(),
        seed,
    };
    let mut roles = ROLES.to_vec();
    let mut flags = Vec::new();
    if replaces {
        roles.insert(0, "ingester");
        flags.push(REPLACE_AFTER);
    }
    let mut cluster = Cluster::start(around, &config, &roles, &flags).await;
    let ledger = Arc::new(Ledger::new(&clocks));
    let load = ledger::Load::start(&cluster, &ledger, seed);
    let watch = sources.watch(&cluster, seed);
    let rng = StdRng::seed_from_u64(seed);
    let mut nemesis = Nemesis::new(rng, has_time, only.as_deref(), replaces, &ledger, &sources.targets);
    for step in 0..steps {
        let began = tokio::time::Instant::now();
        let what = nemesis.step(&mut cluster).await;
        println!("step {step}: {what} ({:.1?}): {}", began.elapsed(), ledger.progress());
        ledger
            .until_written(&format!("writes to go on after step {step}, {what} (seed {seed})"))
            .await;
    }
    cluster.heal().await;
    let report = load.stop().await;
    let (wrong_targets, compared, late) = watch.stop().await;
    println!("object store: {}", cluster.store.told());
    println!(
        "scrapes: {}",
        sources
            .targets
            .check_all(&cluster.https("querier"), &cluster.incidents)
            .await
    );
    if let Some(reference) = &sources.reference {
        let mut said = Vec::new();
        for (twin, compared) in [(&sources.twin, &compared), (&sources.late, &late)] {
            let seconds = twin.check_all(&cluster.https("querier"), &reference.http).await;
            assert!(
                compared.seconds > 0,
                "seed {seed}: no second could be compared with Prometheus"
            );
            said.push(format!("{} as they came, {seconds} at the end", compared.seconds));
        }
        assert!(
            !late.published.is_empty(),
            "seed {seed}: no window of the late samples was published"
        );
        println!(
            "beside Prometheus, seconds: {}; late ones: {}, of {} windows that were published meanwhile",
            said[0],
            said[1],
            late.published.len()
        );
    }
    let samples = ledger.check_all(&cluster).await;
    println!(
        "seed {seed}: {steps} steps, {samples} samples acknowledged and read; longest stall of a writer {:.1?}; {} wrong",
        report.longest_stall,
        report.wrong.len()
    );
    println!("{}", report.rates());
    let kept = cluster.kept_results().await;
    println!("range queries of which a querier that runs had kept something: {kept}");
    print!("{}", nemesis.by_kind(&report));
    for error in &report.errors {
        println!("the first by {error}");
    }
    if has_time {
        println!("{}", nemesis.told());
    }
    assert!(report.wrong.is_empty(), "seed {seed}: {:#?}", report.wrong);
    assert!(
        kept > 0 || !has_time,
        "seed {seed}: no result was kept and asked for again"
    );
    assert!(!nemesis.is_reshard_missing(), "seed {seed}: {}", nemesis.told());
    assert!(wrong_targets.is_empty(), "seed {seed}: {wrong_targets:#?}");
    for compared in [compared, late] {
        assert!(compared.wrong.is_empty(), "seed {seed}: {:#?}", compared.wrong);
    }
    cluster.stop().await;
}

/// What is scraped, and a Prometheus that scrapes the same.
struct Sources {
    targets: Arc<Targets>,
    twin: Arc<Twin>,
    late: Arc<Twin>,
    reference: Option<Prometheus>,
    /// The cluster's configuration.
    config: String,
}

impl Sources {
    async fn start(clocks: &Clocks, host: &str, folder: &Path) -> Self {
        let targets = Targets::new(clocks);
        let [twin, late] = [Pace::Now, Pace::Late].map(|pace| Twin::new(clocks, pace));
        let listener = tokio::net::TcpListener::bind((host, 0)).await.expect("listener");
        let address = listener.local_addr().expect("address").to_string();
        let routes = targets.routes().merge(twin.routes()).merge(late.routes());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n{}{}",
            targets::config(&address),
            twin::config(&address, "cluster")
        );
        Self {
            reference: Twin::prometheus(folder, &address),
            targets,
            twin,
            late,
            config,
        }
    }

    fn watch(&self, cluster: &Cluster, seed: u64) -> Watch {
        let stop = CancellationToken::new();
        let queriers = || cluster.https("querier");
        let compare = |twin: &Arc<Twin>, seed| {
            let reference = self.reference.as_ref()?.http.clone();
            Some(twin::compare(twin.clone(), queriers(), reference, seed, stop.clone()))
        };
        Watch {
            targets: targets::watch(self.targets.clone(), queriers(), seed + 300, stop.clone()),
            twin: compare(&self.twin, seed + 400),
            late: compare(&self.late, seed + 500),
            stop,
        }
    }
}

/// Those who read what was scraped, all the time.
struct Watch {
    stop: CancellationToken,
    targets: JoinHandle<Vec<String>>,
    twin: Option<JoinHandle<Compared>>,
    late: Option<JoinHandle<Compared>>,
}

impl Watch {
    async fn stop(self) -> (Vec<String>, Compared, Compared) {
        self.stop.cancel();
        let wrong = self.targets.await.expect("targets are watched");
        let compared = async |task: Option<JoinHandle<Compared>>| match task {
            Some(task) => task.await.expect("seconds are compared"),
            None => Compared::default(),
        };
        (wrong, compared(self.twin).await, compared(self.late).await)
    }
}
