//! Disks that lose what was not synced, are full, or take long.

use super::{NOTHING, Nemesis};
use crate::members::Cluster;
use rand::RngExt;
use std::time::Duration;

impl Nemesis {
    /// The hosts of all go dark at once: what their disks were not told to sync is gone.
    pub(super) async fn cut_power(&mut self, cluster: &mut Cluster, which: &[usize]) -> String {
        for at in which {
            cluster.kill(*at);
        }
        let mut forgetful = Vec::new();
        for at in which {
            if let Some(disk) = &mut cluster.members[*at].disk {
                disk.cut_power();
                forgetful.push(*at);
            }
        }
        self.for_a_while(200, 2_000).await;
        for at in which {
            cluster.launch(*at);
        }
        format!("{which:?}, writes that were not synced are lost on {forgetful:?}")
    }

    /// To the last byte, or with a little left. It gets room again.
    pub(super) async fn fill_disk(&mut self, cluster: &Cluster, at: usize) -> String {
        let left = [0, 64 << 10, 4 << 20][self.rng.random_range(0..3)];
        if !cluster.fill_disk(at, left) {
            return format!("{NOTHING}not possible here");
        }
        self.for_a_while(2_000, 8_000).await;
        format!("{at}, {left} bytes left")
    }

    pub(super) async fn slow_disk(&mut self, cluster: &Cluster, at: usize) -> String {
        let ms = self.rng.random_range(50..800);
        if !cluster.slow_disk(at, Duration::from_millis(ms)) {
            return format!("{NOTHING}not possible here");
        }
        self.for_a_while(2_000, 10_000).await;
        format!("{at}, {ms} ms for a sync")
    }
}
