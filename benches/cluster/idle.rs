//! What a cluster costs that does nothing, by how much of what it has: the coefficients of docs/capacity.md.

use crate::nodes::{Cluster, Shape, Used};
use std::time::Duration;

/// After the start, elections and first flushes are over.
const CALM: Duration = Duration::from_secs(15);

/// A cluster at rest.
struct Rest {
    shape: Shape,
    seconds: f64,
    used: Used,
    ingester_kib: f64,
    resident_mib: [f64; 4],
}

impl Rest {
    async fn of(shape: Shape, seconds: u64) -> Option<Self> {
        let cluster = Cluster::start(shape).await?;
        tokio::time::sleep(CALM).await;
        let before = cluster.used().await;
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let each = |role: &str, of: usize| cluster.resident_kib(role) / 1024.0 / of.max(1) as f64;
        Some(Self {
            shape,
            seconds: seconds as f64,
            used: cluster.used().await.since(before),
            ingester_kib: cluster.anonymous_kib("ingester") / shape.ingesters as f64,
            resident_mib: [
                each("ingester", shape.ingesters),
                each("querier", shape.queriers),
                each("scraper", shape.scrapers),
                each("compactor", shape.compactors),
            ],
        })
    }

    fn nodes(&self) -> usize {
        self.shape.ingesters + self.shape.queriers + self.shape.scrapers + self.shape.compactors
    }

    fn metadata_per_second(&self) -> f64 {
        self.used.metadata_entries / self.seconds
    }

    fn bytes_per_second(&self) -> f64 {
        (self.used.received_bytes - self.used.from_outside_bytes) / self.seconds
    }

    fn cpu_percent(&self) -> f64 {
        self.used.cpu_seconds / self.seconds * 100.0
    }
}

/// Few shards, many shards, and more nodes: what differs is what each of them costs.
pub(crate) async fn run(seconds: u64, many_shards: usize) {
    let few = Shape {
        queriers: 1,
        scrapers: 1,
        compactors: 1,
        ..Shape::ingesters(3, 6, 3)
    };
    let many = Shape {
        shards: many_shards,
        ..few
    };
    let more = Shape {
        queriers: 3,
        scrapers: 3,
        ..few
    };
    let mut rests = Vec::new();
    for shape in [few, many, more] {
        let Some(rest) = Rest::of(shape, seconds).await else {
            return;
        };
        rests.push(rest);
    }
    let [few, many, more] = &rests[..] else { return };
    println!("At rest, {seconds} s each, 3 ingesters with 3 replicas of each shard:\n");
    println!(
        "| nodes | shards | metadata commands per second | bytes per second between nodes | CPU, % of a core, all nodes |"
    );
    println!("|---:|---:|---:|---:|---:|");
    for rest in &rests {
        println!(
            "| {} | {} | {:.2} | {:.0} | {:.1} |",
            rest.nodes(),
            rest.shape.shards,
            rest.metadata_per_second(),
            rest.bytes_per_second(),
            rest.cpu_percent()
        );
    }
    let shards = (many.shape.shards - few.shape.shards) as f64;
    let nodes = (more.nodes() - few.nodes()) as f64;
    let by = |figure: fn(&Rest) -> f64, other: &Rest, of: f64| (figure(other) - figure(few)) / of;
    println!("\n| coefficient | |\n|---|---:|");
    println!(
        "| metadata commands per second and node | {:.3} |",
        by(Rest::metadata_per_second, more, nodes)
    );
    println!(
        "| metadata commands per second and shard | {:.3} |",
        by(Rest::metadata_per_second, many, shards)
    );
    println!(
        "| bytes per second for each shard group (3 replicas) | {:.0} |",
        by(Rest::bytes_per_second, many, shards)
    );
    println!(
        "| bytes per second for each node more | {:.0} |",
        by(Rest::bytes_per_second, more, nodes)
    );
    println!(
        "| CPU, % of a core, for each shard group (3 replicas) | {:.3} |",
        by(Rest::cpu_percent, many, shards)
    );
    println!(
        "| anonymous memory of a replica of an empty shard, KiB | {:.0} |",
        by(|r| r.ingester_kib, many, shards)
    );
    for (role, mib) in ["ingester", "querier", "scraper", "compactor"]
        .iter()
        .zip(few.resident_mib)
    {
        println!("| resident memory of a {role} at rest, MiB | {mib:.0} |");
    }
    println!();
}
