//! Wishes, carried out one after another, come to an end, and what is there then is level.

use super::*;
use gnomon_proto::v1::GroupMembers;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeSet;

const NOW: i64 = 1_000_000_000;

fn node(id: u64, zone: &str) -> Node {
    Node {
        id,
        address: format!("10.0.0.{id}:9095"),
        roles: vec!["ingester".into()],
        zone: zone.into(),
        lease_until_ms: NOW + 10_000,
        incarnation: 1,
        ..Node::default()
    }
}

fn cluster(zones: &[&str], shards: u32, replicas: u32) -> MetaState {
    let shard = |shard| ShardReplicas { shard, nodes: vec![] };
    MetaState {
        nodes: (1..).zip(zones).map(|(id, zone)| node(id, zone)).collect(),
        shards: (0..shards).map(shard).collect(),
        replicas,
        expect: 1,
        ..MetaState::default()
    }
}

fn set_voters(state: &mut MetaState, shard: u32, voters: &[u64]) {
    let group = GroupId::of_shard(ShardId(shard)).0;
    let mut voters = voters.to_vec();
    voters.sort_unstable();
    let members = GroupMembers {
        group,
        voters,
        at_index: 1,
    };
    match state.members.binary_search_by_key(&group, |m| m.group) {
        Ok(at) => state.members[at] = members,
        Err(at) => state.members.insert(at, members),
    }
}

fn node_mut(state: &mut MetaState, id: u64) -> &mut Node {
    state.nodes.iter_mut().find(|n| n.id == id).unwrap()
}

/// Wishes as the leader of the metadata group proposes them, and members as their groups carry them out.
fn settle(state: &mut MetaState) -> Vec<Change> {
    let mut all = Vec::new();
    for _ in 0..10_000 {
        let changes = plan(state, NOW, &Rules::default());
        if changes.is_empty() {
            return all;
        }
        for change in changes {
            let shard = state.shards.iter_mut().find(|s| s.shard == change.shard).unwrap();
            assert_eq!(shard.nodes, change.from);
            let distinct: BTreeSet<_> = change.to.iter().collect();
            assert_eq!(distinct.len(), change.to.len(), "{change:?}");
            assert!(!change.to.is_empty());
            let stayed = change.to.iter().filter(|n| change.from.contains(n)).count();
            assert!(change.from.is_empty() || stayed + 1 >= change.from.len(), "{change:?}");
            shard.nodes.clone_from(&change.to);
            set_voters(state, change.shard, &change.to);
            all.push(change);
        }
    }
    panic!("it does not come to an end: {:?}", &all[all.len() - 10..]);
}

fn counts(state: &MetaState, of: impl Fn(&ShardReplicas, u64) -> bool) -> Vec<usize> {
    let live = state
        .nodes
        .iter()
        .filter(|n| standing(state, n, NOW, &Rules::default()) == Standing::Live);
    live.map(|n| state.shards.iter().filter(|s| of(s, n.id)).count())
        .collect()
}

fn spread(counts: &[usize]) -> usize {
    counts.iter().max().unwrap() - counts.iter().min().unwrap()
}

#[test]
fn shards_wait_for_the_nodes_that_are_expected() {
    let mut state = cluster(&["", ""], 4, 3);
    state.expect = 3;
    assert_eq!(plan(&state, NOW, &Rules::default()), []);
    state.nodes.push(node(3, ""));
    let placed = settle(&mut state);
    assert_eq!(placed.len(), 4);
    assert!(placed.iter().all(|c| c.why == Why::Placed && c.to.len() == 3));
    assert_eq!(spread(&counts(&state, |s, n| s.nodes[0] == n)), 1);
}

#[test]
fn one_node_grows_to_three_and_to_five() {
    let mut state = cluster(&[""], 4, 3);
    settle(&mut state);
    assert!(state.shards.iter().all(|s| s.nodes == [1]));
    state.nodes.push(node(2, ""));
    settle(&mut state);
    assert!(
        state.shards.iter().all(|s| s.nodes.len() == 1),
        "two are no better than one"
    );
    assert_eq!(counts(&state, |s, n| s.nodes.contains(&n)), [2, 2]);
    state.nodes.push(node(3, ""));
    settle(&mut state);
    assert!(state.shards.iter().all(|s| s.nodes.len() == 3));
    state.nodes.extend([node(4, ""), node(5, "")]);
    settle(&mut state);
    let replicas = counts(&state, |s, n| s.nodes.contains(&n));
    assert!(spread(&replicas) <= 1, "{replicas:?}");
    let leads = counts(&state, |s, n| s.nodes[0] == n);
    assert!(spread(&leads) <= 1, "{leads:?}");
}

#[test]
fn a_node_that_is_away_is_waited_for_and_one_that_is_gone_replaced() {
    let mut state = cluster(&["", "", "", ""], 4, 3);
    settle(&mut state);
    let silent_until = |state: &mut MetaState, ms: i64| node_mut(state, 2).lease_until_ms = ms;
    silent_until(&mut state, NOW - REPLACE_AFTER_MS);
    assert_eq!(plan(&state, NOW, &Rules::default()), []);
    silent_until(&mut state, NOW - REPLACE_AFTER_MS - 1);
    let changes = settle(&mut state);
    assert!(!changes.is_empty() && changes[0].why == Why::Gone);
    assert!(state.shards.iter().all(|s| s.nodes.len() == 3 && !s.nodes.contains(&2)));
}

#[test]
fn a_clock_that_jumps_makes_nobody_gone() {
    let mut state = cluster(&["", "", "", ""], 4, 3);
    settle(&mut state);
    let later = NOW + 2 * REPLACE_AFTER_MS;
    node_mut(&mut state, 1).lease_until_ms = later + 1;
    assert_ne!(plan(&state, later, &Rules::default()), []);
    let heard = Rules {
        heard_ms_ago: (1..=4).map(|node| (node, 5000)).collect(),
        ..Rules::default()
    };
    assert_eq!(plan(&state, later, &heard), []);
}

#[test]
fn a_lease_that_a_wrong_clock_made_long_keeps_nobody() {
    let mut state = cluster(&["", "", "", ""], 4, 3);
    settle(&mut state);
    node_mut(&mut state, 2).lease_until_ms = NOW + 10 * REPLACE_AFTER_MS;
    let heard = |ago| Rules {
        heard_ms_ago: [(1, 1000), (2, ago), (3, 1000), (4, 1000)].into(),
        ..Rules::default()
    };
    assert_eq!(plan(&state, NOW, &heard(REPLACE_AFTER_MS)), []);
    let changes = plan(&state, NOW, &heard(REPLACE_AFTER_MS + 1));
    assert!(
        changes.first().is_some_and(|change| change.why == Why::Gone),
        "{changes:?}"
    );
}

#[test]
fn with_nobody_to_take_its_place_one_that_is_gone_stays_and_one_that_is_drained_goes() {
    let mut state = cluster(&["", "", ""], 2, 3);
    settle(&mut state);
    node_mut(&mut state, 3).lease_until_ms = 0;
    assert_eq!(plan(&state, NOW, &Rules::default()), []);
    node_mut(&mut state, 3).lease_until_ms = NOW + 1;
    node_mut(&mut state, 3).draining = true;
    settle(&mut state);
    assert!(state.shards.iter().all(|s| s.nodes.len() == 2 && !s.nodes.contains(&3)));
    node_mut(&mut state, 3).draining = false;
    settle(&mut state);
    assert!(state.shards.iter().all(|s| s.nodes.len() == 3));
}

#[test]
fn who_has_the_only_replica_is_drained_only_to_another() {
    let mut state = cluster(&[""], 2, 1);
    settle(&mut state);
    node_mut(&mut state, 1).draining = true;
    assert_eq!(plan(&state, NOW, &Rules::default()), []);
    state.nodes.push(node(2, ""));
    settle(&mut state);
    assert!(state.shards.iter().all(|s| s.nodes == [2]));
}

#[test]
fn a_node_whose_address_another_has_is_gone_at_once() {
    let mut state = cluster(&["", "", ""], 2, 3);
    settle(&mut state);
    node_mut(&mut state, 2).lease_until_ms = NOW - 1;
    assert_eq!(plan(&state, NOW, &Rules::default()), []);
    let address = state.nodes[1].address.clone();
    state.nodes.push(Node { address, ..node(4, "") });
    settle(&mut state);
    assert!(
        state
            .shards
            .iter()
            .all(|s| !s.nodes.contains(&2) && s.nodes.contains(&4))
    );
}

#[test]
fn a_shard_whose_members_are_not_as_wished_is_left_alone() {
    let mut state = cluster(&["", "", "", ""], 1, 3);
    settle(&mut state);
    // One that votes is gone; another, which is wished, has yet to come.
    let [first, coming, gone] = state.shards[0].nodes[..] else {
        panic!("three replicas")
    };
    node_mut(&mut state, gone).lease_until_ms = 0;
    set_voters(&mut state, 0, &[first, gone]);
    assert_ne!(coming, gone);
    assert_eq!(plan(&state, NOW, &Rules::default()), []);
}

#[test]
fn a_drain_does_not_take_a_majority_away() {
    let mut state = cluster(&["", "", ""], 2, 3);
    settle(&mut state);
    node_mut(&mut state, 3).lease_until_ms = NOW - 1;
    node_mut(&mut state, 2).draining = true;
    let changes = plan(&state, NOW, &Rules::default());
    assert!(changes.iter().all(|c| c.why == Why::Leaders), "{changes:?}");
    assert_eq!(meta_voters(&state, &[1, 2, 3], NOW, &Rules::default()), [1, 2, 3]);
    node_mut(&mut state, 3).lease_until_ms = NOW + 1;
    settle(&mut state);
    assert!(state.shards.iter().all(|s| s.nodes.len() == 2 && !s.nodes.contains(&2)));
}

#[test]
fn who_is_on_its_way_and_will_not_come_is_replaced() {
    let mut state = cluster(&["", "", "", "", ""], 1, 3);
    settle(&mut state);
    let voters = state.shards[0].nodes.clone();
    let others: Vec<u64> = (1..=5).filter(|id| !voters.contains(id)).collect();
    // One that votes is gone, and so is who was to take its place.
    node_mut(&mut state, voters[2]).lease_until_ms = 0;
    state.shards[0].nodes = vec![voters[0], voters[1], others[0]];
    assert_eq!(plan(&state, NOW, &Rules::default()), []);
    node_mut(&mut state, others[0]).lease_until_ms = 0;
    let changes = plan(&state, NOW, &Rules::default());
    assert_eq!(changes[0].to, [voters[0], voters[1], others[1]]);
    // Where the former voter is back, it is the one.
    node_mut(&mut state, voters[2]).lease_until_ms = NOW + 1;
    assert_eq!(
        plan(&state, NOW, &Rules::default())[0].to,
        [voters[0], voters[1], voters[2]]
    );
    node_mut(&mut state, others[0]).lease_until_ms = NOW + 1;
    node_mut(&mut state, others[0]).draining = true;
    assert_eq!(plan(&state, NOW, &Rules::default())[0].why, Why::Drained);
}

#[test]
fn who_is_gone_before_fewer_vote_is_none_of_the_fewer() {
    let mut state = cluster(&["", "", ""], 1, 3);
    settle(&mut state);
    // One of three was drained, and before it had left another one was lost with its disk.
    state.shards[0].nodes = vec![1, 3];
    node_mut(&mut state, 3).lease_until_ms = NOW - 1;
    assert_eq!(plan(&state, NOW, &Rules::default()), [], "it may come back");
    node_mut(&mut state, 3).lease_until_ms = 0;
    let changes = plan(&state, NOW, &Rules::default());
    assert_eq!((&changes[0].to[..], changes[0].why), (&[1, 2][..], Why::Gone));
    // Where the rest can decide, it goes on as it is.
    state.shards[0].nodes = vec![1, 2, 3];
    set_voters(&mut state, 0, &[1, 3]);
    assert_eq!(plan(&state, NOW, &Rules::default()), []);
}

#[test]
fn voters_of_the_metadata_group_are_one_three_and_five() {
    let zones = [""; 7];
    let voters = |n: usize, now: &[u64]| meta_voters(&cluster(&zones[..n], 0, 3), now, NOW, &Rules::default());
    assert_eq!(voters(1, &[1]), [1]);
    assert_eq!(voters(2, &[1]), [1]);
    assert_eq!(voters(3, &[1]), [1, 2, 3]);
    assert_eq!(voters(4, &[1, 2, 3]), [1, 2, 3]);
    assert_eq!(voters(7, &[1, 2, 3]), [1, 2, 3, 4, 5]);
    // Two of five are gone, and there is nobody else: three that tell, rather than five of which three must.
    let mut state = cluster(&zones[..5], 0, 3);
    for id in [1, 2] {
        node_mut(&mut state, id).lease_until_ms = 0;
    }
    assert_eq!(meta_voters(&state, &[1, 2, 3, 4, 5], NOW, &Rules::default()), [3, 4, 5]);
    state.nodes.push(node(6, ""));
    // One takes the place of one, and nobody that of the other: three of the four do, as an even number survives no more.
    assert_eq!(meta_voters(&state, &[1, 2, 3, 4, 5], NOW, &Rules::default()), [3, 4, 5]);
    assert_eq!(meta_voters(&state, &[3, 4, 5, 6], NOW, &Rules::default()), [3, 4, 5]);
    assert_eq!(
        meta_voters(&state, &[6, 3, 4, 5], NOW, &Rules::default()),
        [3, 4, 6],
        "6 leads"
    );
    // Not while one of them is away: it may be the next that is lost.
    node_mut(&mut state, 6).lease_until_ms = NOW - 1;
    assert_eq!(meta_voters(&state, &[3, 4, 5, 6], NOW, &Rules::default()), [3, 4, 5, 6]);
    node_mut(&mut state, 6).lease_until_ms = NOW + 1_000_000;
    node_mut(&mut state, 3).draining = true;
    assert_eq!(meta_voters(&state, &[3, 4, 5], NOW, &Rules::default()), [4, 5, 6]);
}

/// Any history of nodes that come, go, drain and die ends level, and apart by zones as far as there are any.
#[test]
fn whatever_happens_to_nodes_it_ends_level() {
    for seed in 0..300 {
        let mut rng = StdRng::seed_from_u64(seed);
        let zones = ["a", "b", "c"];
        let with_zones = rng.random_bool(0.5);
        let zone = |id: u64| if with_zones { zones[id as usize % 3] } else { "" };
        let replicas = [1, 3, 5][rng.random_range(0..3)];
        let mut state = cluster(&[], rng.random_range(1..12), replicas);
        let mut next_id = 1;
        for _ in 0..rng.random_range(1..8) {
            match rng.random_range(0..6) {
                0..3 => {
                    for _ in 0..rng.random_range(1..4) {
                        state.nodes.push(node(next_id, zone(next_id)));
                        next_id += 1;
                    }
                }
                3 if state.nodes.len() > 1 => {
                    let at = rng.random_range(0..state.nodes.len());
                    state.nodes[at].draining ^= true;
                }
                4 if state.nodes.len() > 1 => {
                    let at = rng.random_range(0..state.nodes.len());
                    state.nodes[at].lease_until_ms = 0;
                }
                _ => state.replicas = [1, 3, 5][rng.random_range(0..3)],
            }
            settle(&mut state);
        }
        let live = counts(&state, |s, n| s.nodes.contains(&n));
        if live.is_empty() || state.nodes.iter().any(|n| n.draining || n.lease_until_ms == 0) {
            continue;
        }
        let wanted = match state.replicas as usize {
            replicas if replicas <= live.len() => replicas,
            _ => live.len() - (1 - live.len() % 2),
        };
        for shard in &state.shards {
            assert!(shard.nodes.len() >= wanted, "seed {seed}: {shard:?}");
            if with_zones && live.len() >= 3 {
                let apart: BTreeSet<_> = shard.nodes.iter().map(|n| zone(*n)).collect();
                assert!(apart.len() >= shard.nodes.len().min(3), "seed {seed}: {shard:?}");
            }
        }
        if !with_zones {
            assert!(spread(&live) <= 1, "seed {seed}: {live:?}");
        }
        let leads = counts(&state, |s, n| s.nodes[0] == n);
        assert!(spread(&leads) <= 1 || with_zones, "seed {seed}: {leads:?}");
    }
}
