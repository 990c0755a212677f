//! A process' clock that jumps by five minutes, forward or back, and later back again.

use super::scraper::TAKEN_OVER_WITHIN;
use super::{NOTHING, Nemesis};
use crate::harness::eventually;
use crate::members::Cluster;
use rand::RngExt;

const JUMP_S: i64 = 300;

impl Nemesis {
    pub(super) async fn jump(&mut self, cluster: &Cluster, at: usize) -> String {
        if !cluster.clocks.can_be_set() {
            return format!("{NOTHING}not possible here");
        }
        let by_s = if self.rng.random_bool(0.5) { JUMP_S } else { -JUMP_S };
        cluster.set_clock(at, by_s);
        // The library reads it once a second.
        self.for_a_while(3_000, if self.has_time { 20_000 } else { 5_000 })
            .await;
        let said = match cluster.members[at].role {
            "ingester" if self.has_time && self.rng.random_bool(0.5) => until_it_follows(cluster, at).await,
            "scraper" if self.has_time && self.rng.random_bool(0.5) => self.until_others_scrape(cluster).await,
            _ => String::new(),
        };
        cluster.set_clock(at, 0);
        self.for_a_while(1_000, 2_000).await;
        format!("{at} by {by_s} s{said}")
    }
}

impl Nemesis {
    /// Waits until the targets of a scraper whose clock is wrong are scraped by another.
    async fn until_others_scrape(&self, cluster: &Cluster) -> String {
        let took = self
            .targets
            .until_scraped(&cluster.https("querier"), TAKEN_OVER_WITHIN)
            .await;
        format!(", all targets were scraped again after {took:.1?} more")
    }
}

/// Waits until the node leads nothing: its clock is wrong.
async fn until_it_follows(cluster: &Cluster, at: usize) -> String {
    let began = tokio::time::Instant::now();
    let id = eventually("a number", async || cluster.number(at).await).await;
    eventually(
        &format!("ingester {at}, whose clock is wrong, to lead nothing"),
        async || {
            let told = cluster.told("shards").await?;
            let groups = told["shards"].as_array()?.iter().chain([&told["metadata"]]);
            groups.into_iter().all(|group| group["leader"] != id).then_some(())
        },
    )
    .await;
    // It may have led nothing before: others were made to lead by what went wrong then.
    eventually(&format!("ingester {at} to say that its clock is wrong"), async || {
        let log = cluster.process(at).log();
        log.contains("this node's clock is more than a minute from")
            .then_some(())
    })
    .await;
    format!(", it led nothing after {:.1?} more", began.elapsed())
}
