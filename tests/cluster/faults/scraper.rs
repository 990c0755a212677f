//! A scraper that is killed, and its targets taken over.

use super::Nemesis;
use crate::members::Cluster;
use crate::targets::INTERVAL_MS;
use std::time::Duration;

/// How long a node is waited for that says nothing.
const LEASE: Duration = Duration::from_secs(15);
/// The end of a lease is looked for twice a second, the ring told, a target scraped and read: on a machine that does more.
const SLACK: Duration = Duration::from_secs(10);

impl Nemesis {
    /// It comes back only once the others have its targets.
    pub(super) async fn kill_scraper(&mut self, cluster: &mut Cluster, at: usize) -> String {
        cluster.kill(at);
        let within = LEASE + Duration::from_millis(INTERVAL_MS.unsigned_abs()) + SLACK;
        let took = self.targets.until_scraped(&cluster.https("querier"), within).await;
        cluster.launch(at);
        format!("{at}, all targets were scraped again after {took:.1?}")
    }
}
