//! A scraper that is killed, and its targets taken over.

use super::Nemesis;
use crate::members::Cluster;
use crate::targets::INTERVAL_MS;
use std::time::Duration;

/// How long a node is waited for that says nothing.
const LEASE: Duration = Duration::from_secs(15);
/// The end of a lease is looked for ten times a second, the ring told, a target scraped and read: on a machine that does more.
const SLACK: Duration = Duration::from_secs(10);
/// After what time other scrapers have the targets of one that is gone, or has a wrong clock.
pub(super) const TAKEN_OVER_WITHIN: Duration =
    Duration::from_millis(LEASE.as_millis() as u64 + INTERVAL_MS.unsigned_abs() + SLACK.as_millis() as u64);

impl Nemesis {
    /// It comes back only once the others have its targets.
    pub(super) async fn kill_scraper(&mut self, cluster: &mut Cluster, at: usize) -> String {
        cluster.kill(at);
        let took = self
            .targets
            .until_scraped(&cluster.https("querier"), TAKEN_OVER_WITHIN)
            .await;
        cluster.launch(at);
        format!("{at}, all targets were scraped again after {took:.1?}")
    }
}
