//! Several things go wrong at once.

use super::Nemesis;
use crate::members::Cluster;
use crate::wire::Trouble;
use rand::RngExt;
use std::time::Duration;

impl Nemesis {
    /// A store that fails, a slow disk, a clock that is wrong, packets that are lost; then a kill or two.
    pub(super) async fn many(&mut self, cluster: &mut Cluster) -> String {
        let ingesters = cluster.of("ingester");
        let first = self.rng.random_range(0..ingesters.len());
        let [one, two] = [0, 1].map(|i| ingesters[(first + i) % ingesters.len()]);
        let mut what = Vec::new();
        if self.rng.random_bool(0.6)
            && let Some(proxy) = &cluster.store.proxy
        {
            proxy.fail(200);
            what.push("the store fails".to_owned());
        }
        if self.rng.random_bool(0.6)
            && let Some(disk) = &cluster.members[one].disk
        {
            disk.set_sync_takes(Duration::from_millis(100));
            what.push(format!("the disk of {one} is slow"));
        }
        if self.rng.random_bool(0.6) && cluster.clocks.can_be_set() {
            cluster.clocks.set(&cluster.members[two].clock, 300);
            what.push(format!("the clock of {two} is ahead"));
        }
        if self.rng.random_bool(0.6) {
            cluster.net.lose(one, two);
            what.push(format!("what {one} sends to {two} is lost"));
        }
        if self.rng.random_bool(0.4) {
            cluster.members[one].relay.make(Trouble {
                delay_ms: 20,
                ended: 20,
                stalled: 10,
            });
            what.push(format!("connections to {one} are slow and end"));
        }
        self.for_a_while(500, 2_000).await;
        let mut killed = vec![two];
        for role in ["querier", "scraper", "compactor"] {
            if self.rng.random_bool(0.4) {
                killed.push(self.one_of(&cluster.of(role)));
            }
        }
        let killed = self.kill(cluster, &killed).await;
        what.push(format!("{killed} killed"));
        what.join(", ")
    }
}
