//! What it costs where a scraper reads exporters and pushes to ingesters: each one's CPU, what goes over the wire, and what a
//! scraper keeps of its targets.

use crate::compared::{self, Row};
use crate::exporters::{INTERVAL, Played, Sent};
use crate::load::{Load, SERIES_OF_EACH};
use crate::nodes::{Cluster, Shape, Used};
use crate::side_by_side::grouped;
use std::sync::Arc;
use std::time::Duration;

/// Scrapes of each exporter before it counts: series are made once, and blocks of memory are what they come to be.
const FIRST: u64 = 6;
/// So long the cluster's CPU without targets is measured: it is told in ticks of 10 ms.
const REST: Duration = Duration::from_secs(20);

struct Scraped {
    samples: f64,
    targets: f64,
    used: Used,
    /// CPU seconds beyond what they take without targets.
    cpu: Cpu,
    /// Anonymous memory of the scraper before and after, KiB.
    idle_kib: f64,
    loaded_kib: f64,
}

/// CPU seconds by role.
#[derive(Clone, Copy, Debug)]
struct Cpu {
    scraper: f64,
    ingesters: f64,
}

impl Cpu {
    fn of(cluster: &Cluster) -> Self {
        Self {
            scraper: cluster.cpu_of("scraper"),
            ingesters: cluster.cpu_of("ingester"),
        }
    }

    /// What these took more than `times` of what others did.
    fn beyond(self, others: Self, times: f64) -> Self {
        Self {
            scraper: self.scraper - others.scraper * times,
            ingesters: self.ingesters - others.ingesters * times,
        }
    }
}

/// One replica on one node, and three on three; the same exporters, and one scraper.
pub(crate) async fn run(series: usize, shards: usize, seconds: u64) {
    let Some(one) = measure(Shape::ingesters(1, shards, 1), series, seconds).await else {
        return;
    };
    let Some(three) = measure(Shape::ingesters(3, shards, 3), series, seconds).await else {
        return;
    };
    let rows: [Row<Scraped>; 7] = [
        ("CPU s per million samples, ingesters", 2, |s| {
            s.cpu.ingesters / s.samples * 1e6
        }),
        ("CPU s per million samples, the scraper", 2, |s| {
            s.cpu.scraper / s.samples * 1e6
        }),
        ("bytes on the wire per sample, from targets, gzip", 1, |s| {
            s.used.from_outside_bytes / s.samples
        }),
        ("bytes on the wire per sample, between nodes", 1, |s| {
            (s.used.received_bytes - s.used.from_outside_bytes) / s.samples
        }),
        ("bytes of log per sample, all nodes", 1, |s| {
            s.used.log_bytes / s.samples
        }),
        ("anonymous memory of the scraper for each target, KiB", 1, |s| {
            (s.loaded_kib - s.idle_kib) / s.targets
        }),
        ("… before there were any, MiB", 1, |s| s.idle_kib / 1024.0),
    ];
    println!(
        "Scraping: {} targets with {SERIES_OF_EACH} series each, scraped every {} s, {} samples, one scraper, {shards} shards; CPU \
         beyond that without targets:\n",
        grouped(one.targets),
        INTERVAL.as_secs(),
        grouped(one.samples)
    );
    compared::print(&one, &three, &rows);
}

async fn measure(shape: Shape, series: usize, seconds: u64) -> Option<Scraped> {
    let cluster = Cluster::start(Shape {
        scrapers: 1,
        queriers: 1,
        ..shape
    })
    .await?;
    let load = Arc::new(Load::new(series, 1, 0));
    let played = Played::start_at(&cluster.outside(), &load, Sent::Gzip).await;
    let idle_kib = cluster.anonymous_kib("scraper");
    let start = Cpu::of(&cluster);
    tokio::time::sleep(REST).await;
    let rest = Cpu::of(&cluster).beyond(start, 1.0);
    cluster.configure(&played.scrape_config()).await;
    crate::harness::eventually("every exporter to be known", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        (played.samples() >= FIRST * series as u64).then_some(())
    })
    .await;
    played.until_known(&cluster.servers("querier")[0]).await;
    let (before, start, samples) = (cluster.used().await, Cpu::of(&cluster), played.samples());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let (cpu, samples) = (Cpu::of(&cluster).beyond(start, 1.0), played.samples() - samples);
    Some(Scraped {
        samples: samples as f64,
        targets: (series / SERIES_OF_EACH) as f64,
        used: cluster.used().await.since(before),
        cpu: cpu.beyond(rest, seconds as f64 / REST.as_secs_f64()),
        idle_kib,
        loaded_kib: cluster.anonymous_kib("scraper"),
    })
}
