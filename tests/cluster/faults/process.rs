//! Processes that are killed, stand still, or are restarted in good order.

use super::{NOTHING, Nemesis, until};
use crate::harness::{client, eventually, send_signal};
use crate::members::Cluster;
use crate::targets::ask;
use rand::RngExt;
use serde_json::Value;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Longer than leases last, and than replaced blocks are kept.
const PAST_LEASES_MS: (u64, u64) = (30_000, 40_000);
/// The compactor looks for work every two seconds, and there is some while windows are sealed.
const MERGED_WITHIN: Duration = Duration::from_secs(20);
/// What `--cluster.replace-after` says in this test, its lease, and copies of all shards.
const REPLACED_WITHIN: Duration = Duration::from_secs(120);

/// Until a compactor that woke up has committed what it had put into the bucket, or it was given up.
const DECIDED_WITHIN: Duration = Duration::from_secs(60);

/// What the catalogue says of the block at a path of the bucket: `given up` where it has none; none where it does not say.
async fn state_of(cluster: &Cluster, path: &str) -> Option<String> {
    let told = cluster.told("blocks").await?;
    let mut blocks = told["blocks"].as_array()?.iter();
    let state = match blocks.find(|block| block["id"].as_str().is_some_and(|id| path.contains(id))) {
        Some(block) => block["state"].as_str()?,
        None => "given up",
    };
    Some(state.to_owned())
}

impl Nemesis {
    pub(super) async fn kill(&mut self, cluster: &mut Cluster, which: &[usize]) -> String {
        for at in which {
            cluster.kill(*at);
        }
        self.for_a_while(500, 5_000).await;
        for at in which {
            cluster.launch(*at);
        }
        format!("{which:?}")
    }

    /// Past every lease at times: it wakes up as one that has been replaced.
    pub(super) async fn pause(&mut self, cluster: &Cluster, at: usize) -> String {
        let is_long = self.has_time && self.rng.random_bool(0.4);
        self.pause_for(cluster, at, if is_long { PAST_LEASES_MS } else { (2_000, 6_000) })
            .await
    }

    async fn pause_for(&mut self, cluster: &Cluster, at: usize, (least_ms, most_ms): (u64, u64)) -> String {
        cluster.pause(at);
        let began = tokio::time::Instant::now();
        self.for_a_while(least_ms, most_ms).await;
        cluster.resume(at);
        format!("{at} for {:.1?}", began.elapsed())
    }

    /// Whoever leads a shard, or the metadata group, stands still for longer than any lease lasts.
    pub(super) async fn pause_leader(&mut self, cluster: &Cluster, of_shard: usize) -> String {
        if self.rng.random_bool(0.5) {
            return format!(
                "of a shard, {}",
                self.pause_for(cluster, of_shard, PAST_LEASES_MS).await
            );
        }
        let at = eventually("a leader of the metadata group", async || {
            cluster.metadata_leader().await
        })
        .await;
        format!(
            "of the metadata group, {}",
            self.pause_for(cluster, at, PAST_LEASES_MS).await
        )
    }

    /// An ingester stands still until others have all that it had. It wakes up, and gets a share again.
    pub(super) async fn outlast(&mut self, cluster: &Cluster, at: usize) -> String {
        let id = eventually("a number", async || cluster.number(at).await).await;
        let began = tokio::time::Instant::now();
        cluster.pause(at);
        until(&format!("ingester {at} to be replaced"), REPLACED_WITHIN, async || {
            let told = cluster.told("shards").await?;
            let lists = told["shards"]
                .as_array()?
                .iter()
                .flat_map(|s| [&s["voters"], &s["wished"]]);
            let mut ids = lists.filter_map(Value::as_array).flatten();
            ids.all(|voter| *voter != id).then_some(())
        })
        .await;
        let replaced = began.elapsed();
        self.for_a_while(500, 5_000).await;
        cluster.resume(at);
        let woken = tokio::time::Instant::now();
        until(
            &format!("ingester {at}, which was replaced, to have a share again"),
            REPLACED_WITHIN,
            async || {
                let nodes = cluster.told("nodes").await?;
                let mut nodes = nodes["nodes"].as_array()?.iter();
                let own = nodes.find(|node| node["id"] == id)?;
                let told = cluster.told("shards").await?;
                let is_settled = told["shards"].as_array()?.iter().all(|shard| shard["settled"] == true);
                (is_settled && own["state"] == "live" && own["replicas"].as_u64() > Some(0)).then_some(())
            },
        )
        .await;
        format!(
            "{at}: others had its replicas after {replaced:.1?}; {:.1?} after it woke up it had a share again",
            woken.elapsed()
        )
    }

    /// A compactor stands still at any moment of its work, at times for longer than its lease of the work lasts.
    pub(super) async fn pause_compactor(&mut self, cluster: &Cluster, at: usize) -> String {
        let mut all = Duration::ZERO;
        for _ in 0..3 {
            self.for_a_while(100, 2_500).await;
            let began = tokio::time::Instant::now();
            cluster.pause(at);
            let most_ms = if self.rng.random_bool(0.3) { 30_000 } else { 3_000 };
            self.for_a_while(1_000, most_ms).await;
            cluster.resume(at);
            all += began.elapsed();
        }
        format!("{at} three times, {all:.1?} in all")
    }

    /// A compactor has put a block into the bucket, and stands still before it hears so: it has not committed it. At
    /// times until its lease of the work is over, and another has done it.
    pub(super) async fn pause_at_commit(&mut self, cluster: &Cluster) -> String {
        let Some(proxy) = &cluster.store.proxy else {
            return format!("{NOTHING}not possible here");
        };
        let compactors: Vec<(IpAddr, usize, u32)> = cluster
            .of("compactor")
            .into_iter()
            .map(|at| {
                let address = cluster.net.address(at).parse().expect("an address");
                (address, at, cluster.process(at).id())
            })
            .collect();
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let is_done = AtomicBool::new(false);
        proxy.tell_of_puts(Some(Box::new(move |from, path| {
            let maker = compactors.iter().find(|(address, ..)| *address == from);
            let Some((_, at, process)) = maker.filter(|_| path.contains("/blocks/")) else {
                return;
            };
            if !is_done.swap(true, Ordering::Relaxed) {
                send_signal(*process, "-STOP");
                let _ = tell.send((*at, path.to_owned()));
            }
        })));
        let merged = tokio::time::timeout(MERGED_WITHIN, told.recv()).await;
        proxy.tell_of_puts(None);
        let Some((at, path)) = merged.ok().flatten().or_else(|| told.try_recv().ok()) else {
            return format!("{NOTHING}no block was put within {MERGED_WITHIN:?}");
        };
        let began = tokio::time::Instant::now();
        let is_long = self.rng.random_bool(0.5);
        let (least_ms, most_ms) = if is_long { PAST_LEASES_MS } else { (1_000, 5_000) };
        self.for_a_while(least_ms, most_ms).await;
        let stood_still = began.elapsed();
        // Before it wakes up the other one may have done the work, and given up what this one had put there.
        let while_still = until("the state of the block that was put", DECIDED_WITHIN, async || {
            state_of(cluster, &path).await
        })
        .await;
        cluster.resume(at);
        let after = until(
            "the block that was put to be live, or given up",
            DECIDED_WITHIN,
            async || Some(state_of(cluster, &path).await?).filter(|state| state != "staged"),
        )
        .await;
        if is_long {
            assert!(
                while_still != "staged",
                "{path} of compactor {at} waits for it after {stood_still:.1?}: no other took over"
            );
        }
        format!("{at} for {stood_still:.1?}, {path}: {while_still} meanwhile, {after} in the end")
    }

    pub(super) async fn restart_all(&mut self, cluster: &mut Cluster) -> String {
        let all: Vec<usize> = (0..cluster.members.len())
            .filter(|at| !cluster.members[*at].is_gone)
            .collect();
        for at in &all {
            cluster.restart(*at).await;
        }
        format!("{all:?}")
    }

    /// One querier is asked for everything, of which the other has its part, and that is killed meanwhile: the answer is
    /// whole, or says that it is not.
    pub(super) async fn kill_at_query(&mut self, cluster: &mut Cluster, killed: usize) -> String {
        let asked = cluster.of("querier").into_iter().find(|at| *at != killed);
        let Some(asked) = asked else {
            return format!("{NOTHING}there is one querier");
        };
        let counting = self.count_all(cluster, asked);
        self.for_a_while(0, 150).await;
        cluster.kill(killed);
        let said = counting.said(self).await;
        self.for_a_while(500, 3_000).await;
        cluster.launch(killed);
        format!("{killed}, the answer of {asked} was {said}")
    }

    /// The same with one that stands still, which may be the one that is asked.
    pub(super) async fn stop_at_query(&mut self, cluster: &Cluster, stopped: usize) -> String {
        let other = cluster.of("querier").into_iter().find(|at| *at != stopped);
        let asked = other.filter(|_| self.rng.random_bool(0.6)).unwrap_or(stopped);
        let counting = self.count_all(cluster, asked);
        self.for_a_while(0, 150).await;
        let paused = self.pause(cluster, stopped).await;
        let said = counting.said(self).await;
        format!("{paused}, the answer of {asked} was {said}")
    }

    /// Asks a querier how many samples there are.
    fn count_all(&self, cluster: &Cluster, asked: usize) -> Counting {
        let http = cluster.members[asked].http.clone();
        let (sure, _) = self.ledger.counts();
        let path = format!(
            "/api/v1/query?query={}&time={}",
            client::encode("sum(count_over_time(ledger[14h]))"),
            cluster.clocks.now_ms() as f64 / 1000.0 + 1.0
        );
        Counting {
            asked,
            sure,
            asking: tokio::spawn(async move { ask(&http, &path).await }),
        }
    }
}

/// A querier that was asked how many samples there are.
struct Counting {
    asked: usize,
    /// So many were acknowledged then.
    sure: i64,
    asking: JoinHandle<Result<Value, String>>,
}

impl Counting {
    /// What its answer was. Panics if it is wrong.
    async fn said(self, nemesis: &Nemesis) -> &'static str {
        let Self { asked, sure, asking } = self;
        let Ok(answer) = asking.await.expect("it does not panic") else {
            return "an error";
        };
        let (_, maybe) = nemesis.ledger.counts();
        let is_whole = answer["warnings"].as_array().is_none_or(Vec::is_empty);
        let text = answer["data"]["result"][0]["value"][1].as_str();
        let count = text.and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0) as i64;
        assert!(count <= maybe, "querier {asked} has counted {count}, there are {maybe}");
        assert!(
            count >= sure || !is_whole,
            "querier {asked} has counted {count} of {sure} without a warning"
        );
        if is_whole { "whole" } else { "partial" }
    }
}
