//! Nodes that do not come back are forgotten; those that are needed are not.

use super::*;
use crate::meta::forget::forgettable;
use gnomon_model::ids::OPERATIONS_FEATURE_LEVEL;

const LEVEL: u32 = OPERATIONS_FEATURE_LEVEL.0;

/// As [`node`], of a build that understands all.
fn newer(id: u64, incarnation: u64) -> Command {
    let Command::RegisterNode(mut c) = node(id, incarnation) else {
        unreachable!("it registers");
    };
    if let Some(node) = &mut c.node {
        node.feature_level = LEVEL;
        node.roles = vec!["ingester".into(), "scraper".into()];
    }
    Command::RegisterNode(c)
}

/// Nodes 1 (which has the shards), 2 and 3, alive until 1000.
pub(super) fn cluster(level: u32) -> MetaMachine {
    let machine = MetaMachine::default();
    let apply = |command| {
        let answer = machine.apply_command(&at(0, command));
        assert_eq!(answer.refused, "");
    };
    apply(init());
    for id in 1..=3 {
        apply(newer(if id == 1 { 1 } else { 0 }, 1));
    }
    apply(Command::RaiseFeatureLevel(RaiseFeatureLevel { level }));
    machine
}

fn forget(machine: &MetaMachine, now_ms: i64, node: u64) -> String {
    machine
        .apply_command(&at(now_ms, Command::ForgetNode(ForgetNode { node })))
        .refused
}

fn ids(machine: &MetaMachine) -> Vec<u64> {
    machine.state().nodes.iter().map(|node| node.id).collect()
}

#[test]
fn a_node_that_is_gone_and_not_needed_is_forgotten_and_its_id_never_used_again() {
    let machine = cluster(LEVEL);
    assert!(forget(&machine, 500, 3).contains("is alive"));
    assert!(forget(&machine, 5000, 9).contains("no node 9"));
    assert!(forget(&machine, 5000, 1).contains("replica of shard 0"));
    let ring = machine.state().scrapers.clone().unwrap();
    assert_eq!(forget(&machine, 5000, 3), "");
    let now = machine.state().scrapers.clone().unwrap();
    assert_eq!((now.nodes, now.term), (vec![1, 2], ring.term + 1));
    assert_eq!(ids(&machine), [1, 2]);
    let back = machine.apply_command(&at(5000, newer(3, 2)));
    assert!(back.refused.contains("not a member any more"), "{}", back.refused);
    assert_eq!(machine.apply_command(&at(5000, newer(0, 1))).node_id, 4);
}

#[test]
fn who_votes_stays_until_another_does() {
    let machine = cluster(LEVEL);
    let report = |voters: &[u64], at_index| {
        let members = GroupMembers {
            group: 0,
            voters: voters.to_vec(),
            at_index,
        };
        let command = Command::ReportMembers(ReportMembers { members: Some(members) });
        assert_eq!(machine.apply_command(&at(0, command)).refused, "");
    };
    report(&[1, 2], 1);
    assert!(forget(&machine, 5000, 2).contains("votes in the metadata group"));
    report(&[1, 3], 2);
    assert_eq!(forget(&machine, 5000, 2), "");
}

#[test]
fn the_founder_stays_forgotten_too() {
    let machine = cluster(LEVEL);
    for shard in [0, 1] {
        let command = Command::ReportMembers(ReportMembers {
            members: Some(GroupMembers {
                group: shard + 1,
                voters: vec![2],
                at_index: 1,
            }),
        });
        machine.apply_command(&at(0, command));
        let command = Command::SetShardReplicas(SetShardReplicas {
            shard: Some(ShardReplicas { shard, nodes: vec![2] }),
            from_nodes: vec![1],
        });
        assert_eq!(machine.apply_command(&at(0, command)).refused, "");
    }
    assert_eq!(forget(&machine, 5000, 1), "");
    let back = machine.apply_command(&at(5000, newer(1, 2)));
    assert!(back.refused.contains("not a member any more"), "{}", back.refused);
    assert_eq!(ids(&machine), [2, 3]);
}

#[test]
fn nothing_is_forgotten_before_all_understand_it() {
    let machine = cluster(LEVEL - 1);
    assert!(forget(&machine, 5000, 3).contains("feature level"));
}

#[test]
fn the_leader_forgets_by_both_clocks() {
    let state = cluster(LEVEL).state();
    let heard = |ms: i64| move |_: u64| ms;
    assert_eq!(
        forgettable(&state, 1_000 + 60_001, 60_000, heard(20_000), 10_000),
        [2, 3]
    );
    assert!(forgettable(&state, 1_000 + 60_000, 60_000, heard(20_000), 10_000).is_empty());
    // A clock that jumped a day ahead.
    assert!(forgettable(&state, i64::MAX, 60_000, heard(10_000), 10_000).is_empty());
}
