//! Several things go wrong at once, or stay wrong while others begin.

use super::Nemesis;
use crate::members::Cluster;
use crate::wire::Trouble;
use rand::RngExt;
use std::time::Duration;

/// What stays wrong until all is mended.
#[derive(Clone, Copy, Debug)]
enum Lasting {
    Stopped,
    CutOff,
    DiskFull,
    DiskSlow,
    ClockAhead,
    PacketsLost,
    ConnectionsEnd,
    StoreFails,
    StoreSlow,
}

const LASTING: [Lasting; 9] = [
    Lasting::Stopped,
    Lasting::CutOff,
    Lasting::DiskFull,
    Lasting::DiskSlow,
    Lasting::ClockAhead,
    Lasting::PacketsLost,
    Lasting::ConnectionsEnd,
    Lasting::StoreFails,
    Lasting::StoreSlow,
];

impl Nemesis {
    /// Something stays wrong with one ingester, on its way to another, or with the object store: a majority of the others is
    /// well. None where that is not possible here.
    fn begin(&mut self, cluster: &Cluster, what: Lasting, one: usize, other: usize) -> Option<String> {
        let said = match what {
            Lasting::Stopped => {
                cluster.pause(one);
                format!("{one} stands still")
            }
            Lasting::CutOff => {
                cluster.cut(one);
                format!("{one} is cut off")
            }
            Lasting::DiskFull => {
                let left = [0, 64 << 10, 1 << 20][self.rng.random_range(0..3)];
                cluster.fill_disk(one, left).then_some(())?;
                format!("the disk of {one} is full but for {left} bytes")
            }
            Lasting::DiskSlow => {
                let takes = Duration::from_millis(self.rng.random_range(50..300));
                cluster.slow_disk(one, takes).then_some(())?;
                format!("the disk of {one} is slow")
            }
            Lasting::ClockAhead => {
                cluster.clocks.can_be_set().then_some(())?;
                cluster.set_clock(one, 300);
                format!("the clock of {one} is ahead")
            }
            Lasting::PacketsLost => {
                cluster.lose(one, other);
                format!("what {one} sends to {other} is lost")
            }
            Lasting::ConnectionsEnd => {
                cluster.disturb_wire(
                    one,
                    Trouble {
                        delay_ms: 20,
                        ended: 20,
                        stalled: 10,
                    },
                );
                format!("connections to {one} are slow and end")
            }
            Lasting::StoreFails => {
                cluster.disturb_store()?.fail(200);
                "the store fails".to_owned()
            }
            Lasting::StoreSlow => {
                let delay = Duration::from_millis(self.rng.random_range(200..1_500));
                cluster.disturb_store()?.delay(delay);
                "the store is slow".to_owned()
            }
        };
        Some(said)
    }

    /// One thing, or two, of one ingester and the object store; empty where nothing is possible here.
    pub(super) fn begin_some(&mut self, cluster: &Cluster) -> String {
        let ingesters = cluster.of("ingester");
        let first = self.rng.random_range(0..ingesters.len());
        let [one, other] = [0, 1].map(|i| ingesters[(first + i) % ingesters.len()]);
        let mut said = Vec::new();
        for _ in 0..self.rng.random_range(1..=2) {
            let what = LASTING[self.rng.random_range(0..LASTING.len())];
            said.extend(self.begin(cluster, what, one, other));
        }
        said.join(", ")
    }

    /// Each of what can last with some chance, of two ingesters; then a kill or two, or a power cut. Until those who were
    /// killed run again there may be no majority.
    pub(super) async fn many(&mut self, cluster: &mut Cluster) -> String {
        let ingesters = cluster.of("ingester");
        let first = self.rng.random_range(0..ingesters.len());
        let [one, two] = [0, 1].map(|i| ingesters[(first + i) % ingesters.len()]);
        let chances = [
            (Lasting::StoreFails, 0.6, one, two),
            (Lasting::DiskSlow, 0.5, one, two),
            (Lasting::ClockAhead, 0.5, two, one),
            (Lasting::PacketsLost, 0.5, one, two),
            (Lasting::ConnectionsEnd, 0.4, one, two),
            (Lasting::DiskFull, 0.3, one, two),
            (Lasting::Stopped, 0.3, one, two),
        ];
        let mut what = Vec::new();
        for (lasting, chance, at, other) in chances {
            if self.rng.random_bool(chance) {
                what.extend(self.begin(cluster, lasting, at, other));
            }
        }
        self.for_a_while(500, 2_000).await;
        let mut killed = vec![two];
        for role in ["querier", "scraper", "compactor"] {
            if self.rng.random_bool(0.4) {
                killed.push(self.one_of(&cluster.of(role)));
            }
        }
        what.push(match self.rng.random_bool(0.3) {
            true => format!("without power: {}", self.cut_power(cluster, &killed).await),
            false => format!("{} killed", self.kill(cluster, &killed).await),
        });
        what.join(", ")
    }
}
