//! A cluster that grows and shrinks, and gets more shards.

use super::{NOTHING, Nemesis, Reshard};
use crate::harness::eventually;
use crate::members::Cluster;
use serde_json::Value;
use std::time::Duration;

/// The number of shards is changed when the next window begins so soon, milliseconds.
pub(super) const SOON_MS: i64 = 100_000;
/// What takes minutes is not begun when the next window begins so soon, milliseconds.
pub(super) const LONG_MS: i64 = 220_000;
/// What it takes to open and close shards, milliseconds: later it is too late for this window.
const LATE_MS: i64 = 15_000;
const SHARDS: u32 = 8;
/// Something else goes wrong while shards open and close only where they have so much time, milliseconds.
const EASY_MS: i64 = 40_000;

impl Nemesis {
    /// Two ingesters join and get replicas; later they are drained, and end.
    pub(super) async fn scale(&mut self, cluster: &mut Cluster) -> String {
        if !may_grow(cluster) {
            return format!("{NOTHING}no hosts are left");
        }
        let new = [cluster.add("ingester"), cluster.add("ingester")];
        let mut said = self.begin_some(cluster);
        self.for_a_while(2_000, 8_000).await;
        cluster.ease();
        for at in new {
            cluster.until_ready(at).await;
        }
        for at in new {
            let id = eventually("a number", async || cluster.number(at).await).await;
            eventually("the new node to have replicas", async || {
                let shards = cluster.told("shards").await?;
                let mut shards = shards["shards"].as_array()?.iter();
                let votes = |shard: &Value| {
                    shard["voters"]
                        .as_array()
                        .is_some_and(|all| all.iter().any(|v| *v == id))
                };
                shards.any(votes).then_some(())
            })
            .await;
        }
        self.for_a_while(2_000, 10_000).await;
        for at in new {
            said = format!("{said}; {}", self.begin_some(cluster));
            let (drained, ()) = tokio::join!(drain(cluster, at), async {
                self.for_a_while(2_000, 8_000).await;
                cluster.ease();
            });
            cluster.end(at).await;
            cluster.members[at].is_gone = true;
            assert!(drained, "ingester {at} was not drained");
        }
        self.scaled += 1;
        format!("{new:?} joined and went; meanwhile {said}")
    }

    /// From the next window on there are more shards.
    pub(super) async fn reshard(&mut self, cluster: &Cluster) -> String {
        let from_ms = cluster.clocks.next_window_ms();
        let left_ms = from_ms - cluster.clocks.now_ms();
        if !cluster.clocks.can_be_set() || self.reshard != Reshard::NotYet || !(LATE_MS..SOON_MS).contains(&left_ms) {
            return format!("{NOTHING}not now");
        }
        self.reshard = Reshard::Asked;
        let mut why = String::new();
        let done = async {
            while let Err(error) = cluster.reshard(SHARDS, from_ms).await {
                why = error;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        if tokio::time::timeout(Duration::from_millis(LATE_MS.unsigned_abs()), done)
            .await
            .is_err()
        {
            return format!("not taken: {why}");
        }
        self.reshard = Reshard::Taken;
        let meanwhile = match left_ms > EASY_MS {
            true => self.begin_some(cluster),
            false => "nothing".to_owned(),
        };
        self.for_a_while(2_000, 8_000).await;
        cluster.ease();
        eventually("the new epoch to be in force", async || {
            let shards = cluster.told("shards").await?;
            shards["epochChange"].is_null().then_some(())
        })
        .await;
        format!("{SHARDS} shards in {} s; meanwhile {meanwhile}", left_ms / 1000)
    }
}

/// Whether there are hosts for two more.
pub(super) fn may_grow(cluster: &Cluster) -> bool {
    cluster.members.len() + 2 <= cluster.net.hosts()
}

/// Until nothing is left on the node.
async fn drain(cluster: &Cluster, at: usize) -> bool {
    let http = &cluster.members[at].http;
    let done = eventually("a drain to be answered", async || {
        let answer = http.client().post(http.url("/-/drain")).send().await.ok()?;
        answer.status().is_success().then_some(())
    });
    tokio::time::timeout(Duration::from_secs(90), done).await.is_ok()
}
