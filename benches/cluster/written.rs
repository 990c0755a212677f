//! The load of `make bench`, written through all ingesters of a cluster, and what that took.

use crate::harness::{Http, eventually_within};
use crate::load::{Load, STEP_MS};
use crate::nodes::{Cluster, Shape, Used, metric};
use crate::side_by_side::send;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::task::JoinSet;

/// What was put off (flushes, a late compaction of the store) is counted for this long.
const SETTLE: Duration = Duration::from_secs(10);
/// Parts of some ten million samples take minutes, with the rest of the load still under way.
const UPLOADED_WITHIN: Duration = Duration::from_secs(600);
const WINDOW_MS: i64 = 7_200_000;
const SENDERS: usize = 4;
pub(crate) const PER_REQUEST: usize = 2_000;

/// Where requests go: to each in turn.
pub(crate) struct Target {
    servers: Vec<Http>,
}

impl Target {
    pub(crate) fn of(cluster: &Cluster) -> Self {
        Self {
            servers: cluster.servers("ingester"),
        }
    }
}

/// One sample of each series after the other.
pub(crate) async fn write(target: &Target, load: &Load) {
    for round in 0..load.rounds {
        let mut senders = JoinSet::new();
        for (number, first) in (0..load.series).step_by(PER_REQUEST).enumerate() {
            while senders.len() >= SENDERS {
                senders.join_next().await;
            }
            let http = target.servers[number % target.servers.len()].clone();
            senders.spawn(send(http, load.body(first, PER_REQUEST, round)));
        }
        while let Some(sent) = senders.join_next().await {
            sent.expect("a sender");
        }
    }
}

/// What a load took.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) samples: f64,
    pub(crate) series: f64,
    pub(crate) replicas: f64,
    /// From the first request to the answer to the last.
    pub(crate) seconds: f64,
    /// From the first request to some seconds after the last.
    pub(crate) writing: Used,
    /// The same, and what sealing and uploading took.
    pub(crate) all: Used,
    /// Anonymous memory of all ingesters before and after, KiB.
    pub(crate) idle_kib: f64,
    pub(crate) loaded_kib: f64,
}

/// The end of the newest window that is over, with some time before it left: all samples are in one window, and it is
/// sealed as soon as nothing more comes.
pub(crate) fn end_of_data(now_ms: i64) -> i64 {
    let seal_after_ms = WINDOW_MS / 4;
    (now_ms - seal_after_ms).div_euclid(WINDOW_MS) * WINDOW_MS - STEP_MS
}

/// Few series may leave a shard without any.
pub(crate) async fn shards_with_series(cluster: &Cluster) -> usize {
    let mut found = BTreeSet::new();
    for host in cluster.of("ingester") {
        for line in cluster.metrics(host).await.lines() {
            let shard = line.strip_prefix("gnomon_ingester_shard_series{");
            if let Some((labels, series)) = shard.and_then(|rest| rest.rsplit_once(' '))
                && series != "0"
            {
                found.insert(labels.to_owned());
            }
        }
    }
    found.len()
}

/// Waits until what was written, in one window that is over, is in blocks, and in no head any more. Each shard's leader uploads
/// one part.
pub(crate) async fn until_in_blocks(cluster: &Cluster, shards: usize) {
    eventually_within(UPLOADED_WITHIN, "all parts to be uploaded", async || {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (mut uploaded, mut waiting) = (0.0, 0.0);
        for host in cluster.of("ingester") {
            let text = cluster.metrics(host).await;
            uploaded += metric(&text, "gnomon_ingester_parts_uploaded_total", "");
            waiting += metric(&text, "gnomon_ingester_sealed_parts", "");
        }
        (uploaded >= shards as f64 && waiting == 0.0).then_some(())
    })
    .await;
}

/// Starts a cluster, writes, waits until all of it is uploaded.
pub(crate) async fn measure(shape: Shape, series: usize, rounds: usize) -> Option<Written> {
    let cluster = Cluster::start(shape).await?;
    let now_ms = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
    let load = Load::new(series, rounds, end_of_data(now_ms));
    let target = Target::of(&cluster);
    let idle_kib = cluster.anonymous_kib("ingester");
    let before = cluster.used().await;
    let began = tokio::time::Instant::now();
    write(&target, &load).await;
    let seconds = began.elapsed().as_secs_f64();
    let loaded_kib = cluster.anonymous_kib("ingester");
    let shards = shards_with_series(&cluster).await;
    tokio::time::sleep(SETTLE).await;
    let writing = cluster.used().await.since(before);
    until_in_blocks(&cluster, shards).await;
    let all = cluster.used().await.since(before);
    Some(Written {
        samples: (series * rounds) as f64,
        series: series as f64,
        replicas: shape.replicas as f64,
        seconds,
        writing,
        all,
        idle_kib,
        loaded_kib,
    })
}

impl Written {
    pub(crate) fn cpu_per_million(&self) -> f64 {
        self.all.cpu_seconds / self.samples * 1e6
    }

    /// As many as four senders with one request each under way brought in.
    pub(crate) fn samples_per_second(&self) -> f64 {
        self.samples / self.seconds
    }
}
