//! What the metadata group takes and refuses, and what holds after any commands.

mod blocks;
mod changes;
mod deletes;
mod epochs;
mod forget;
mod ha;
pub(crate) mod large;
mod levels;
mod random;
mod refused;
mod ring;

use super::MetaMachine;
use crate::raft::{Applied, StateError, StateMachine, StateReader, StateWriter};
use bytes::Bytes;
use gnomon_proto::v1::block_record::State;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::*;
use parking_lot::Mutex;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;

const CLUSTER: &str = "0000000000000000000000000000002a";

fn at(ms: i64, command: Command) -> MetaCommand {
    MetaCommand {
        proposed_at_ms: ms,
        command: Some(command),
    }
}

fn init() -> Command {
    Command::InitCluster(InitCluster {
        cluster_id: CLUSTER.into(),
        epoch: Some(PlacementEpoch {
            epoch: 1,
            from_ms: i64::MIN,
            shards: vec![0, 1],
            by_labels: vec!["job".into(), "instance".into()],
            spreads: vec![],
        }),
        shards: [0, 1].map(|shard| ShardReplicas { shard, nodes: vec![1] }).into(),
        ..InitCluster::default()
    })
}

fn node(id: u64, incarnation: u64) -> Command {
    Command::RegisterNode(RegisterNode {
        node: Some(Node {
            id,
            address: "127.0.0.1:9095".into(),
            incarnation,
            feature_level: 1,
            ..Node::default()
        }),
        lease_ms: 1000,
    })
}

fn renew(node: u64, incarnation: u64, lease_ms: i64) -> Command {
    Command::RenewLease(RenewLease {
        node,
        incarnation,
        lease_ms,
        clock_off_ms: 0,
    })
}

fn block(n: u64, parts: &[u64], inputs: &[u64]) -> BlockRecord {
    BlockRecord {
        id: id(n),
        tenant: "anonymous".into(),
        shard: 0,
        start_ms: 0,
        end_ms: 7_200_000,
        bytes: 100,
        parts: parts.to_vec(),
        path: format!("blocks/{n}"),
        inputs: inputs.iter().map(|i| id(*i)).collect(),
        ..BlockRecord::default()
    }
}

fn id(n: u64) -> String {
    format!("{n:032x}")
}

fn stage(n: u64, parts: &[u64], inputs: &[u64]) -> Command {
    stage_below(n, parts, inputs, 0)
}

fn stage_below(n: u64, parts: &[u64], inputs: &[u64], cap_bytes: u64) -> Command {
    Command::StageBlock(StageBlock {
        block: Some(block(n, parts, inputs)),
        cap_bytes,
    })
}

fn publish(n: u64, parts: &[u64], inputs: &[u64]) -> Command {
    let mut exact = block(n, parts, inputs);
    (exact.bytes, exact.samples, exact.series) = (90, 10, 2);
    Command::PublishBlock(PublishBlock { block: Some(exact) })
}

fn condemn(ids: &[u64]) -> Command {
    Command::CondemnBlocks(CondemnBlocks {
        ids: ids.iter().map(|i| id(*i)).collect(),
        only_staged: false,
    })
}

fn give_up(ids: &[u64]) -> Command {
    Command::CondemnBlocks(CondemnBlocks {
        ids: ids.iter().map(|i| id(*i)).collect(),
        only_staged: true,
    })
}

fn forget(ids: &[u64]) -> Command {
    Command::ForgetBlocks(ForgetBlocks {
        ids: ids.iter().map(|i| id(*i)).collect(),
    })
}

fn acquire(job: &str, node: u64, lease_ms: i64) -> Command {
    Command::AcquireJob(AcquireJob {
        job: job.into(),
        node,
        lease_ms,
    })
}

fn config(hash: &str, explicit: bool, from_ms: i64) -> Command {
    Command::ProposeConfig(ProposeConfig {
        content_hash: hash.into(),
        redacted_yaml: format!("# {hash}"),
        from_ms,
        explicit,
    })
}

/// A machine with nodes 1 and 2.
fn machine() -> MetaMachine {
    let machine = MetaMachine::default();
    for command in [init(), node(0, 1), node(0, 1)] {
        assert_eq!(machine.apply_command(&at(0, command)).refused, "");
    }
    machine
}

/// Runs the commands; each is taken ("") or refused with words that hold the given ones. A refusal changes nothing.
fn run(machine: &MetaMachine, script: &[(i64, Command, &str)]) {
    for (step, (ms, command, refusal)) in script.iter().enumerate() {
        let before = machine.state();
        let answer = machine.apply_command(&at(*ms, command.clone()));
        let after = machine.state();
        if refusal.is_empty() {
            assert_eq!(answer.refused, "", "step {step}: {command:?}");
        } else {
            assert!(answer.refused.contains(refusal), "step {step}: {:?}", answer.refused);
            assert_eq!(before, after, "step {step}");
        }
        let changed = before != after;
        assert_eq!(after.revision, before.revision + u64::from(changed), "step {step}");
        assert_eq!(answer.revision, after.revision);
        let catalogue_changed = before.blocks != after.blocks;
        let grown = before.catalogue_revision + u64::from(catalogue_changed);
        assert_eq!(after.catalogue_revision, grown, "step {step}");
    }
}

fn state_of(machine: &MetaMachine, n: u64) -> Option<State> {
    machine
        .state()
        .blocks
        .iter()
        .find(|b| b.id == id(n))
        .map(BlockRecord::state)
}

#[test]
fn nothing_goes_before_the_cluster_is_initialized_and_that_happens_once() {
    let machine = MetaMachine::default();
    let mut other = init();
    if let Command::InitCluster(c) = &mut other {
        c.cluster_id = "0000000000000000000000000000002b".into();
    }
    let mut no_replica = init();
    if let Command::InitCluster(c) = &mut no_replica {
        c.shards.pop();
    }
    run(
        &machine,
        &[
            (0, node(0, 1), "not initialized"),
            (0, no_replica, "shard 1 has no replicas"),
            (0, init(), ""),
            (0, init(), ""),
            (0, other, "this is cluster 0000000000000000000000000000002a already"),
        ],
    );
    assert_eq!(machine.state().revision, 1);
}

#[test]
fn node_ids_are_given_once_and_leases_belong_to_a_life() {
    let machine = machine();
    run(
        &machine,
        &[
            (0, node(1, 0), "was started again since"),
            (0, node(1, 5), ""),
            (10, renew(1, 1, 500), "its present life is 5"),
            (10, renew(1, 5, 2000), ""),
            (20, renew(1, 5, 0), "a lease of 0 ms"),
            (20, renew(9, 5, 100), "node 9 is not registered"),
            (20, node(7, 1), ""),
        ],
    );
    let given = machine.apply_command(&at(30, node(0, 1)));
    assert_eq!(given.node_id, 8, "never one that was used or skipped");
    let state = machine.state();
    assert_eq!(state.nodes[0].lease_until_ms, 2010);
    let mut bad = node(0, 1);
    if let Command::RegisterNode(c) = &mut bad {
        c.node.as_mut().unwrap().address = "nowhere".into();
    }
    run(&machine, &[(40, bad, "\"nowhere\" is not host:port")]);
}

#[test]
fn a_lease_never_gets_shorter() {
    let machine = machine();
    run(&machine, &[(100, renew(1, 1, 5000), ""), (50, renew(1, 1, 1000), "")]);
    assert_eq!(machine.state().nodes[0].lease_until_ms, 5100);
}

#[test]
fn jobs_have_one_holder_at_a_time_and_a_term_for_each() {
    let machine = machine();
    let term = |ms, node| machine.apply_command(&at(ms, acquire("compact", node, 100))).job_term;
    assert_eq!(term(0, 1), 1);
    assert_eq!(term(50, 1), 1, "a renewal keeps the term");
    run(
        &machine,
        &[
            (60, acquire("compact", 2, 100), "node 1 has the job"),
            (60, acquire("compact", 9, 100), "node 9 is not registered"),
        ],
    );
    assert_eq!(term(150, 2), 2, "expired");
    let release = |node, term| {
        Command::ReleaseJob(ReleaseJob {
            job: "compact".into(),
            node,
            term,
        })
    };
    run(&machine, &[(160, release(1, 1), "")]);
    assert!(
        !machine
            .apply_command(&at(170, acquire("compact", 1, 100)))
            .refused
            .is_empty()
    );
    run(&machine, &[(180, release(2, 2), "")]);
    assert_eq!(term(190, 1), 3);
}

#[test]
fn a_start_never_brings_back_what_was_superseded_but_a_reload_does() {
    let machine = machine();
    let propose = |ms, hash, explicit, from| machine.apply_command(&at(ms, config(hash, explicit, from)));
    assert_eq!(propose(10, "a", false, 0).config_revision, 1);
    assert_eq!(propose(20, "a", false, 0).config_revision, 1);
    assert_eq!(propose(30, "b", true, 100).config_revision, 2);
    assert_eq!(machine.state().configs.len(), 2, "a until 100, then b");
    let refused = propose(40, "a", false, 0);
    assert!(
        refused.refused.contains("revision 2 is in force"),
        "{}",
        refused.refused
    );
    assert_eq!(propose(50, "c", true, 200).config_revision, 3);
    let hashes = |m: &MetaMachine| {
        m.state()
            .configs
            .iter()
            .map(|c| c.content_hash.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(hashes(&machine), ["a", "c"], "b never came into force");
    assert!(!propose(60, "b", false, 0).refused.is_empty());
    assert_eq!(propose(300, "a", true, 0).config_revision, 4);
    assert_eq!(hashes(&machine), ["c", "a"]);
    assert_eq!(machine.state().configs[1].from_ms, 300, "never in the past");
    assert_eq!(propose(310, "d", false, 0).config_revision, 5, "new content of a start");
}

#[test]
fn the_feature_level_waits_for_every_live_node_and_for_who_has_a_shard() {
    let machine = machine();
    let raise = |level| Command::RaiseFeatureLevel(RaiseFeatureLevel { level });
    let newer = |id: u64| {
        let Command::RegisterNode(mut register) = node(id, 2) else {
            unreachable!("a registration");
        };
        if let Some(node) = &mut register.node {
            node.feature_level = 2;
        }
        Command::RegisterNode(register)
    };
    run(
        &machine,
        &[
            (10, raise(2), "understands feature level 1 only"),
            // All leases are over; node 1 has shards.
            (5000, raise(2), "node 1 "),
            (5001, newer(1), ""),
            (5002, raise(2), ""),
            (5002, raise(1), ""),
            // It was away meanwhile.
            (5003, renew(2, 1, 1000), "start a newer build"),
            (5003, node(0, 1), "start a newer one"),
        ],
    );
    assert_eq!(machine.state().feature_level, 2);
}

#[test]
fn a_lease_gets_shorter_where_the_clock_that_gave_it_was_ahead_by_more_than_a_lease() {
    for (level, lease_until_ms) in [(7, 45_000), (8, 6_000)] {
        let machine = machine();
        let newer = |id: u64| {
            let Command::RegisterNode(mut register) = node(id, 2) else {
                unreachable!("a registration");
            };
            if let Some(node) = &mut register.node {
                node.feature_level = level;
            }
            Command::RegisterNode(register)
        };
        let raise = Command::RaiseFeatureLevel(RaiseFeatureLevel { level });
        let begin = [(100, newer(1), ""), (100, newer(2), ""), (100, raise, "")];
        run(&machine, &begin);
        run(
            &machine,
            &[(40_000, renew(1, 2, 5000), ""), (35_001, renew(1, 2, 5000), "")],
        );
        assert_eq!(machine.state().nodes[0].lease_until_ms, 45_000, "two leaders' times");
        run(&machine, &[(1_000, renew(1, 2, 5000), "")]);
        assert_eq!(machine.state().nodes[0].lease_until_ms, lease_until_ms, "level {level}");
    }
}

#[test]
fn a_lease_that_a_wrong_clock_made_too_long_gets_shorter_and_how_far_clocks_are_off_is_noted() {
    let machine = machine();
    let off = |clock_off_ms| {
        let Command::RenewLease(renewal) = renew(1, 2, 5000) else {
            unreachable!("a renewal");
        };
        Command::RenewLease(RenewLease {
            clock_off_ms,
            ..renewal
        })
    };
    let newer = |id: u64| {
        let Command::RegisterNode(mut register) = node(id, 2) else {
            unreachable!("a registration");
        };
        if let Some(node) = &mut register.node {
            node.feature_level = 5;
        }
        Command::RegisterNode(register)
    };
    let told = |machine: &MetaMachine| {
        let state = machine.state();
        (state.nodes[0].lease_until_ms, state.nodes[0].clock_off_ms)
    };
    run(
        &machine,
        &[(100, newer(1), ""), (300_000, off(7), ""), (1000, off(7), "")],
    );
    assert_eq!(told(&machine), (305_000, 0), "before the level at which all know of it");
    let raise = Command::RaiseFeatureLevel(RaiseFeatureLevel { level: 5 });
    run(
        &machine,
        &[(100, newer(2), ""), (1000, raise, ""), (1000, off(-300_000), "")],
    );
    assert_eq!(told(&machine), (6_000, -300_000));
    run(&machine, &[(50, off(0), "")]);
    assert_eq!(
        told(&machine),
        (6_000, 0),
        "times of two leaders that are a little apart"
    );
    assert_eq!(machine.apply_command(&at(70, off(0))).proposed_at_ms, 70);
}

#[test]
fn replicas_are_registered_nodes_and_change_once_the_group_is_founded() {
    let machine = machine();
    let set = |shard, from: &[u64], nodes: &[u64]| {
        Command::SetShardReplicas(SetShardReplicas {
            shard: Some(ShardReplicas {
                shard,
                nodes: nodes.to_vec(),
            }),
            from_nodes: from.to_vec(),
        })
    };
    let told = |voters: &[u64], at_index| {
        Command::ReportMembers(ReportMembers {
            members: Some(GroupMembers {
                group: 2,
                voters: voters.to_vec(),
                at_index,
            }),
        })
    };
    run(
        &machine,
        &[
            (1, set(0, &[1], &[]), "needs a replica"),
            (1, set(0, &[1], &[1, 1]), "named twice"),
            (1, set(0, &[1], &[3]), "node 3 is not registered"),
            (1, set(5, &[1], &[1]), "no placement epoch"),
            (1, set(1, &[], &[2, 1]), "other replicas by now"),
            (1, set(1, &[1], &[2, 1]), "just being founded"),
            (1, told(&[2, 1], 0), "ascending"),
            (1, told(&[1], 0), ""),
            (1, set(1, &[1], &[2, 1]), ""),
            (1, set(1, &[1], &[2]), "other replicas by now"),
            (1, told(&[1, 2], 7), ""),
            (1, told(&[1], 5), ""),
        ],
    );
    let state = machine.state();
    assert_eq!(state.shards[1].nodes, [2, 1]);
    assert_eq!(state.members[0].voters, [1, 2], "what was told later counts");
}

#[test]
fn the_founders_id_is_nobody_elses() {
    let machine = MetaMachine::default();
    let Command::InitCluster(founded) = init() else {
        unreachable!()
    };
    let founded = InitCluster { founder: 1, ..founded };
    run(&machine, &[(1, Command::InitCluster(founded), "")]);
    let first = machine.apply_command(&at(2, node(0, 1)));
    assert_eq!(first.node_id, 2, "it came before the founder");
    assert_eq!(machine.apply_command(&at(3, node(1, 1))).node_id, 1);
    assert_eq!(machine.apply_command(&at(4, node(0, 1))).node_id, 3);
}

/// A store for one machine.
#[derive(Clone, Default)]
struct Records(Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>);

impl StateWriter for Records {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.0.lock().insert(key.to_vec(), value.to_vec());
    }
    fn delete(&mut self, key: &[u8]) {
        self.0.lock().remove(key);
    }
    fn delete_range(&mut self, from: &[u8], to: &[u8]) {
        self.0.lock().retain(|k, _| k.as_slice() < from || k.as_slice() >= to);
    }
}

impl StateReader for Records {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        Ok(self.0.lock().get(key).map(|v| Bytes::copy_from_slice(v)))
    }
    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StateError> {
        for (key, value) in self.0.lock().range(from.to_vec()..) {
            if to.is_some_and(|to| key.as_slice() >= to) || !visit(key, value) {
                break;
            }
        }
        Ok(())
    }
    fn index(&self) -> u64 {
        0
    }
    fn share(&self) -> Arc<dyn StateReader> {
        Arc::new(self.clone())
    }
}

fn restored(records: &Records) -> Arc<MetaState> {
    let machine = MetaMachine::default();
    machine.restore(records).unwrap();
    machine.state()
}

#[test]
fn a_flush_writes_what_changed_and_a_restore_reads_it_back() {
    let machine = machine();
    let mut records = Records::default();
    run(&machine, &[(1, stage(1, &[1], &[]), ""), (1, stage(2, &[2], &[]), "")]);
    machine.flush(&mut records).unwrap();
    machine.flushed(1);
    assert_eq!(restored(&records), machine.state());
    run(
        &machine,
        &[
            (2, publish(1, &[1], &[]), ""),
            (2, condemn(&[2]), ""),
            (2, forget(&[2]), ""),
        ],
    );
    let untouched = records.0.lock().clone();
    machine.flush(&mut records).unwrap();
    assert_eq!(restored(&records), machine.state());
    assert_ne!(untouched, *records.0.lock());
    // The batch of that flush was lost: the machine starts again from what is stored.
    *records.0.lock() = untouched;
    machine.restore(&records).unwrap();
    assert_eq!(state_of(&machine, 1), Some(State::Staged));
    records.put(b"block/x", &[0xff]);
    assert!(matches!(machine.restore(&records), Err(StateError::Corrupt(_))));
}

#[test]
fn entries_that_are_no_commands_are_answered() {
    let machine = machine();
    let entry = |payload| Applied {
        index: 9,
        term: 1,
        payload,
    };
    let answers = machine.apply(&[entry(&[0xff, 0xff]), entry(&[])]);
    for answer in answers {
        assert!(!MetaResponse::decode(answer).unwrap().refused.is_empty());
    }
}

fn scraper(id: u64, incarnation: u64) -> Command {
    let Command::RegisterNode(mut c) = node(id, incarnation) else {
        unreachable!()
    };
    c.node.as_mut().unwrap().roles = vec!["scraper".into()];
    Command::RegisterNode(c)
}

fn expire() -> Command {
    Command::ExpireLeases(ExpireLeases {})
}

fn end(node: u64, incarnation: u64) -> Command {
    Command::EndLease(EndLease { node, incarnation })
}
