//! Which nodes replicate new shards: a pure function of the metadata state.

use gnomon_proto::v1::{MetaState, Node, ShardReplicas};
use std::collections::{BTreeMap, BTreeSet};

/// What a node has by now: replicas, and shards of which it is the first.
#[derive(Clone, Copy, Default)]
struct Load {
    replicas: usize,
    firsts: usize,
}

/// Gives each of `shards` as many replicas as the shards of the newest epoch have, or as many as there are live ingesters
/// if they are fewer: on the nodes with the fewest replicas, no two in one zone while there are others. Empty where no
/// ingester is alive at `now_ms`.
#[must_use]
pub(crate) fn assign(state: &MetaState, shards: &[u32], now_ms: i64) -> Vec<ShardReplicas> {
    let is_live = |n: &&Node| n.incarnation > 0 && n.lease_until_ms > now_ms && n.roles.iter().any(|r| r == "ingester");
    let nodes: Vec<&Node> = state.nodes.iter().filter(is_live).collect();
    if nodes.is_empty() {
        return Vec::new();
    }
    let newest = state.epochs.last().map_or(&[][..], |epoch| &epoch.shards);
    let of_newest = state.shards.iter().filter(|r| newest.contains(&r.shard));
    let wanted = of_newest
        .map(|r| r.nodes.len())
        .max()
        .unwrap_or(1)
        .clamp(1, nodes.len());
    let mut loads: BTreeMap<u64, Load> = BTreeMap::new();
    for replicas in &state.shards {
        for (i, node) in replicas.nodes.iter().enumerate() {
            let load = loads.entry(*node).or_default();
            load.replicas += 1;
            load.firsts += usize::from(i == 0);
        }
    }
    let mut assigned = Vec::with_capacity(shards.len());
    for shard in shards {
        let chosen = choose(&nodes, &loads, wanted);
        for (i, node) in chosen.iter().enumerate() {
            let load = loads.entry(*node).or_default();
            load.replicas += 1;
            load.firsts += usize::from(i == 0);
        }
        assigned.push(ShardReplicas {
            shard: *shard,
            nodes: chosen,
        });
    }
    assigned
}

/// The replicas of one shard; the first founds its group and leads it at first.
fn choose(nodes: &[&Node], loads: &BTreeMap<u64, Load>, wanted: usize) -> Vec<u64> {
    let load = |id: u64| loads.get(&id).copied().unwrap_or_default();
    let mut zones: BTreeSet<&str> = BTreeSet::new();
    let mut chosen: Vec<u64> = Vec::with_capacity(wanted);
    while chosen.len() < wanted {
        let left = nodes.iter().filter(|n| !chosen.contains(&n.id));
        // A node without a zone shares none.
        let is_used = |n: &Node| !n.zone.is_empty() && zones.contains(n.zone.as_str());
        let Some(next) = left.min_by_key(|n| (is_used(n), load(n.id).replicas, load(n.id).firsts, n.id)) else {
            break;
        };
        zones.insert(&next.zone);
        chosen.push(next.id);
    }
    chosen.sort_by_key(|id| (load(*id).firsts, *id));
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_proto::v1::PlacementEpoch;

    fn state(zones: &[&str], shards: &[&[u64]]) -> MetaState {
        let node = |(i, zone): (usize, &&str)| Node {
            id: i as u64 + 1,
            zone: (*zone).to_owned(),
            roles: vec!["ingester".to_owned()],
            incarnation: 1,
            lease_until_ms: 100,
            ..Node::default()
        };
        let replicas = |(i, nodes): (usize, &&[u64])| ShardReplicas {
            shard: i as u32,
            nodes: nodes.to_vec(),
        };
        MetaState {
            nodes: zones.iter().enumerate().map(node).collect(),
            shards: shards.iter().enumerate().map(replicas).collect(),
            epochs: vec![PlacementEpoch {
                shards: (0..shards.len() as u32).collect(),
                ..PlacementEpoch::default()
            }],
            ..MetaState::default()
        }
    }

    #[test]
    fn new_shards_are_spread_as_widely_as_the_old_ones() {
        let state = state(&["", "", "", ""], &[&[1, 2, 3], &[2, 1, 3]]);
        let assigned = assign(&state, &[2, 3, 4, 5], 0);
        let mut replicas = BTreeMap::from([(1, 2), (2, 2), (3, 2)]);
        let mut firsts: BTreeMap<u64, i32> = BTreeMap::new();
        for shard in &assigned {
            assert_eq!(shard.nodes.iter().collect::<BTreeSet<_>>().len(), 3, "{shard:?}");
            for node in &shard.nodes {
                *replicas.entry(*node).or_insert(0) += 1;
            }
            *firsts.entry(shard.nodes[0]).or_default() += 1;
        }
        let counts: Vec<_> = replicas.values().collect();
        assert!(counts.iter().all(|c| (4..=5).contains(*c)), "{replicas:?}");
        assert!(firsts.values().all(|n| *n <= 2), "{firsts:?}");
    }

    #[test]
    fn zones_differ_while_they_can() {
        let state = state(&["a", "a", "b", "b"], &[&[1, 3]]);
        for shard in assign(&state, &[1, 2, 3], 0) {
            let of = |node: u64| node <= 2;
            assert_ne!(of(shard.nodes[0]), of(shard.nodes[1]), "{shard:?}");
        }
    }

    #[test]
    fn only_live_ingesters_get_shards() {
        let mut state = state(&["", "", ""], &[&[1, 2, 3]]);
        state.nodes[0].lease_until_ms = 5;
        state.nodes[1].roles = vec!["querier".to_owned()];
        let assigned = assign(&state, &[1], 5);
        assert_eq!(assigned[0].nodes, [3]);
        state.nodes[2].incarnation = 0;
        assert!(assign(&state, &[1], 5).is_empty());
    }
}
