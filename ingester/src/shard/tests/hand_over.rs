//! A scraper that is paused, is taken for dead and wakes up, under the terms that the metadata group gives.

use super::*;
use gnomon_cluster::meta::MetaMachine;
use gnomon_proto::v1::meta_command::Command as Meta;
use gnomon_proto::v1::{
    ExpireLeases, InitCluster, MetaCommand, Node, PlacementEpoch as Epoch, RegisterNode, RenewLease, ShardReplicas,
};

const LEASE_MS: i64 = 15_000;

/// The metadata group, as its log says.
struct Cluster(MetaMachine);

impl Cluster {
    fn new() -> Self {
        let cluster = Self(MetaMachine::default());
        let epoch = Epoch {
            epoch: 1,
            from_ms: i64::MIN,
            shards: vec![0],
            by_labels: vec!["job".into()],
            spreads: Vec::new(),
        };
        cluster.commit(
            T0,
            Meta::InitCluster(InitCluster {
                cluster_id: "0000000000000000000000000000002a".into(),
                epoch: Some(epoch),
                shards: vec![ShardReplicas {
                    shard: 0,
                    nodes: vec![1],
                }],
                ..InitCluster::default()
            }),
        );
        cluster
    }

    /// The ring's term and members after a command that was taken.
    fn commit(&self, at_ms: i64, command: Meta) -> (u64, Vec<u64>) {
        let answer = self.0.apply_command(&MetaCommand {
            proposed_at_ms: at_ms,
            command: Some(command),
        });
        assert_eq!(answer.refused, "");
        let ring = self.0.state().scrapers.clone().unwrap_or_default();
        (ring.term, ring.nodes)
    }

    fn start(&self, at_ms: i64, id: u64) -> u64 {
        let node = Node {
            id,
            address: "127.0.0.1:9095".into(),
            roles: vec!["scraper".into()],
            incarnation: 1,
            feature_level: 1,
            ..Node::default()
        };
        let register = RegisterNode {
            node: Some(node),
            lease_ms: LEASE_MS,
        };
        self.commit(at_ms, Meta::RegisterNode(register)).0
    }

    fn renew(&self, at_ms: i64, node: u64) -> (u64, Vec<u64>) {
        let renew = RenewLease {
            node,
            incarnation: 1,
            lease_ms: LEASE_MS,
            ..RenewLease::default()
        };
        self.commit(at_ms, Meta::RenewLease(renew))
    }

    fn expire(&self, at_ms: i64) -> (u64, Vec<u64>) {
        self.commit(at_ms, Meta::ExpireLeases(ExpireLeases {}))
    }
}

fn by(term: u64, tick_ms: i64) -> TickHeader {
    TickHeader {
        term,
        ..header(tick_ms)
    }
}

#[test]
fn a_scraper_that_wakes_up_neither_doubles_a_scrape_nor_writes_false_markers() {
    let (cluster, mut rig) = (Cluster::new(), Rig::new());
    let tick = |n: i64| T0 + n * 15_000;
    cluster.start(T0, 1);
    let both = cluster.start(T0, 2);
    assert_eq!(rig.tick(&by(both, tick(1)), &["a", "b"]).ticks_taken, [true]);

    // Scraper 1 is paused in the middle of its second scrape; the other goes on, until the leader counts 1 out.
    cluster.renew(tick(1), 2);
    assert_eq!(cluster.expire(T0 + LEASE_MS - 1).0, both, "not yet");
    let (without, ring) = cluster.expire(T0 + LEASE_MS);
    assert!(without > both && ring == [2]);
    assert_eq!(rig.tick(&by(without, tick(2)), &["a", "b"]).ticks_taken, [true]);

    // It wakes up: what it had in hand (an exposition without b) is refused, and so is whatever it scrapes before it
    // hears of the new term, be it later than the other's.
    assert_eq!(rig.tick(&by(both, tick(2)), &["a"]).ticks_taken, [false]);
    assert_eq!(rig.tick(&by(both, tick(3)), &["a"]).ticks_taken, [false]);
    assert_eq!(rig.tick(&by(without, tick(3)), &["a", "b"]).ticks_taken, [true]);
    for name in ["a", "b"] {
        let values = rig.values(name);
        assert!(
            values.len() == 3 && values.iter().all(|(_, value)| !is_stale_nan(*value)),
            "{name}: {values:?}"
        );
    }

    // It renews, which brings it back under a term of its own; from there on it may own the target again.
    let (back, ring) = cluster.renew(tick(3), 1);
    assert!(back > without && ring == [1, 2]);
    assert_eq!(rig.tick(&by(back, tick(4)), &["a", "b"]).ticks_taken, [true]);
    assert_eq!(rig.tick(&by(without, tick(5)), &["a"]).ticks_taken, [false]);
}
