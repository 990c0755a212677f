//! An object store that fails, is slow, or is away.

use super::{NOTHING, Nemesis};
use crate::members::Cluster;
use rand::RngExt;
use std::time::Duration;

impl Nemesis {
    pub(super) async fn store_fails(&mut self, cluster: &Cluster) -> String {
        let per_mille = self.rng.random_range(50..500);
        let Some(proxy) = cluster.disturb_store() else {
            return format!("{NOTHING}not possible here");
        };
        proxy.fail(per_mille);
        self.for_a_while(3_000, 10_000).await;
        format!("{per_mille} requests of 1000")
    }

    pub(super) async fn store_slow(&mut self, cluster: &Cluster) -> String {
        let ms = self.rng.random_range(200..2_500);
        let Some(proxy) = cluster.disturb_store() else {
            return format!("{NOTHING}not possible here");
        };
        proxy.delay(Duration::from_millis(ms));
        self.for_a_while(3_000, 10_000).await;
        format!("{ms} ms before each request")
    }

    pub(super) async fn store_away(&mut self, cluster: &Cluster) -> String {
        let Some(proxy) = cluster.disturb_store() else {
            return format!("{NOTHING}not possible here");
        };
        proxy.go_away(true);
        let began = tokio::time::Instant::now();
        self.for_a_while(3_000, if self.has_time { 25_000 } else { 6_000 })
            .await;
        proxy.go_away(false);
        format!("for {:.1?}", began.elapsed())
    }
}
