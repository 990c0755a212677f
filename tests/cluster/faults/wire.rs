//! Connections between nodes that are slow, stall, or end in the middle of what they carry.

use super::Nemesis;
use crate::members::Cluster;
use crate::wire::Trouble;
use rand::RngExt;

impl Nemesis {
    /// On the way to one node, or to all.
    pub(super) async fn trouble(&mut self, cluster: &Cluster, at: usize, trouble: Trouble) -> String {
        let at = self.rng.random_bool(0.6).then_some(at);
        for host in 0..cluster.members.len() {
            if at.is_none_or(|at| at == host) {
                cluster.disturb_wire(host, trouble);
            }
        }
        self.for_a_while(3_000, 10_000).await;
        match at {
            Some(at) => format!("{trouble:?} on the way to {at}"),
            None => format!("{trouble:?} between all"),
        }
    }

    pub(super) async fn delay(&mut self, cluster: &Cluster, at: usize) -> String {
        let delay_ms = self.rng.random_range(5..150);
        let trouble = Trouble {
            delay_ms,
            ..Trouble::default()
        };
        self.trouble(cluster, at, trouble).await
    }

    pub(super) async fn stall(&mut self, cluster: &Cluster, at: usize) -> String {
        let trouble = Trouble {
            stalled: self.rng.random_range(20..=100),
            ..Trouble::default()
        };
        self.trouble(cluster, at, trouble).await
    }

    pub(super) async fn end_connections(&mut self, cluster: &Cluster, at: usize) -> String {
        let trouble = Trouble {
            ended: self.rng.random_range(5..80),
            ..Trouble::default()
        };
        self.trouble(cluster, at, trouble).await
    }
}
