//! Hosts that are cut off from all, or lose what they send to another.

use super::Nemesis;
use crate::members::Cluster;

impl Nemesis {
    pub(super) async fn cut(&mut self, cluster: &Cluster, at: usize) -> String {
        let began = tokio::time::Instant::now();
        cluster.cut(at);
        self.for_a_while(2_000, if self.has_time { 20_000 } else { 6_000 })
            .await;
        cluster.net.heal();
        format!("{at} for {:.1?}", began.elapsed())
    }

    /// What the first of each pair sends to the second is lost.
    pub(super) async fn lose(&mut self, cluster: &Cluster, pairs: &[(usize, usize)]) -> String {
        for (from, to) in pairs {
            cluster.lose(*from, *to);
        }
        self.for_a_while(2_000, 8_000).await;
        cluster.net.heal();
        format!("{pairs:?}")
    }
}
