//! What goes wrong: one thing after another, and sometimes two at once, as a seed says.

use crate::members::Cluster;
use rand::RngExt;
use rand::rngs::StdRng;
use std::time::Duration;

pub(crate) struct Nemesis {
    rng: StdRng,
}

/// What can happen.
#[derive(Clone, Copy, Debug)]
enum Fault {
    KillIngester,
    KillLeader,
    KillQuerier,
    KillCompactor,
    KillAllIngesters,
    StopIngester,
    StopQuerier,
    CutIngester,
    CutLeader,
    CutQuerier,
    LoseOneWay,
    LoseBothWays,
    RestartOne,
    RestartAll,
    KillTwoCutOne,
}

const FAULTS: [Fault; 15] = [
    Fault::KillIngester,
    Fault::KillLeader,
    Fault::KillQuerier,
    Fault::KillCompactor,
    Fault::KillAllIngesters,
    Fault::StopIngester,
    Fault::StopQuerier,
    Fault::CutIngester,
    Fault::CutLeader,
    Fault::CutQuerier,
    Fault::LoseOneWay,
    Fault::LoseBothWays,
    Fault::RestartOne,
    Fault::RestartAll,
    Fault::KillTwoCutOne,
];

impl Nemesis {
    pub(crate) fn new(rng: StdRng) -> Self {
        Self { rng }
    }

    fn one_of(&mut self, among: &[usize]) -> usize {
        among[self.rng.random_range(0..among.len())]
    }

    async fn for_a_while(&mut self, least_ms: u64, most_ms: u64) {
        let ms = self.rng.random_range(least_ms..most_ms);
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// Makes one thing go wrong for a while, and mends it; says what it was.
    pub(crate) async fn step(&mut self, cluster: &mut Cluster) -> String {
        let fault = FAULTS[self.rng.random_range(0..FAULTS.len())];
        let ingesters = cluster.of("ingester");
        let ingester = self.one_of(&ingesters);
        let other = ingesters[(ingester + 1 + self.rng.random_range(0..ingesters.len() - 1)) % ingesters.len()];
        let queriers = cluster.of("querier");
        let querier = self.one_of(&queriers);
        let leader = cluster.leader(self.rng.random_range(0..2)).await.unwrap_or(ingester);
        let on = match fault {
            Fault::KillIngester => self.kill(cluster, &[ingester]).await,
            Fault::KillLeader => self.kill(cluster, &[leader]).await,
            Fault::KillQuerier => self.kill(cluster, &[querier]).await,
            Fault::KillCompactor => {
                let compactor = cluster.of("compactor");
                self.kill(cluster, &compactor).await
            }
            Fault::KillAllIngesters => self.kill(cluster, &ingesters).await,
            Fault::StopIngester => self.pause(cluster, ingester).await,
            Fault::StopQuerier => self.pause(cluster, querier).await,
            Fault::CutIngester => self.cut(cluster, ingester).await,
            Fault::CutLeader => self.cut(cluster, leader).await,
            Fault::CutQuerier => self.cut(cluster, querier).await,
            Fault::LoseOneWay => {
                cluster.net.lose(ingester, other);
                self.for_a_while(2_000, 8_000).await;
                cluster.net.heal();
                vec![ingester, other]
            }
            Fault::LoseBothWays => {
                cluster.net.lose(ingester, other);
                cluster.net.lose(other, ingester);
                self.for_a_while(2_000, 8_000).await;
                cluster.net.heal();
                vec![ingester, other]
            }
            Fault::RestartOne => {
                cluster.restart(ingester).await;
                vec![ingester]
            }
            Fault::RestartAll => {
                let all: Vec<usize> = (0..cluster.members.len()).collect();
                for at in &all {
                    cluster.restart(*at).await;
                }
                all
            }
            Fault::KillTwoCutOne => {
                cluster.net.cut(ingester);
                self.for_a_while(500, 2_000).await;
                let two = self.kill(cluster, &[other, querier]).await;
                cluster.net.heal();
                two
            }
        };
        cluster.heal().await;
        format!("{fault:?} {on:?}")
    }

    async fn kill(&mut self, cluster: &mut Cluster, which: &[usize]) -> Vec<usize> {
        for at in which {
            cluster.kill(*at);
        }
        self.for_a_while(500, 5_000).await;
        for at in which {
            cluster.launch(*at);
        }
        which.to_vec()
    }

    /// Past every lease at times: it wakes up as one that has been replaced.
    async fn pause(&mut self, cluster: &Cluster, at: usize) -> Vec<usize> {
        cluster.process(at).signal("-STOP");
        let most_ms = if self.rng.random_bool(0.3) { 30_000 } else { 6_000 };
        self.for_a_while(2_000, most_ms).await;
        cluster.process(at).signal("-CONT");
        vec![at]
    }

    async fn cut(&mut self, cluster: &Cluster, at: usize) -> Vec<usize> {
        cluster.net.cut(at);
        self.for_a_while(2_000, 8_000).await;
        cluster.net.heal();
        vec![at]
    }
}
