//! What holds after any commands, and that a replica has the same.

use super::*;
use crate::placement::EPOCH_STEP_MS;
use gnomon_model::ids::CURRENT_FEATURE_LEVEL;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

const CAP: u64 = 4 * 4096;
pub(super) const LEAP_MS: i64 = EPOCH_STEP_MS / 8;

/// Any kind of command, most of them such as may be taken.
pub(super) fn any_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        11 => of_blocks(),
        8 => of_nodes(),
        4 => of_shards(),
        3 => of_epochs(),
        4 => of_deletes(),
        4 => of_the_rest(),
    ]
}

fn ids() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(1u64..7, 0..3)
}

fn ascending() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::btree_set(1u64..5, 1..4).prop_map(|set| set.into_iter().collect())
}

fn of_blocks() -> impl Strategy<Value = Command> {
    prop_oneof![
        4 => (1u64..7, ascending(), ids()).prop_map(|(n, p, i)| stage_below(n, &p, &i, CAP)),
        4 => (1u64..7, ascending(), ids()).prop_map(|(n, p, i)| publish(n, &p, &i)),
        1 => ids().prop_map(|ids| condemn(&ids)),
        1 => ids().prop_map(|ids| give_up(&ids)),
        1 => ids().prop_map(|ids| forget(&ids)),
    ]
}

/// As it begins a life with a build of that level.
fn understanding(command: Command, level: u32) -> Command {
    let Command::RegisterNode(mut c) = command else {
        unreachable!()
    };
    c.node.as_mut().unwrap().feature_level = level;
    Command::RegisterNode(c)
}

fn of_nodes() -> impl Strategy<Value = Command> {
    let life = || (0u64..5, 0u64..4, any::<bool>());
    let level = |is_newer| if is_newer { CURRENT_FEATURE_LEVEL.0 } else { 1 };
    prop_oneof![
        2 => life().prop_map(move |(id, life, newer)| understanding(node(id, life), level(newer))),
        1 => life().prop_map(move |(id, life, newer)| understanding(scraper(id, life), level(newer))),
        1 => (1u64..5, 0u64..4).prop_map(|(id, life)| renew(id, life, 50)),
        1 => (1u64..5, 0u64..4).prop_map(|(id, life)| end(id, life)),
        1 => Just(expire()),
        1 => (1..=CURRENT_FEATURE_LEVEL.0).prop_map(|level| Command::RaiseFeatureLevel(RaiseFeatureLevel { level })),
        1 => (1u64..5, any::<bool>()).prop_map(|(node, draining)| {
            Command::SetDraining(SetDraining { node, draining })
        }),
        1 => (1u64..5).prop_map(|node| Command::ForgetNode(ForgetNode { node })),
    ]
}

fn of_shards() -> impl Strategy<Value = Command> {
    let replicas = |(shard, nodes, from): (u32, Vec<u64>, bool)| {
        Command::SetShardReplicas(SetShardReplicas {
            shard: Some(ShardReplicas { shard, nodes }),
            from_nodes: if from { vec![1] } else { Vec::new() },
        })
    };
    let members = |(group, voters, at_index): (u32, Vec<u64>, u64)| {
        Command::ReportMembers(ReportMembers {
            members: Some(GroupMembers {
                group,
                voters,
                at_index,
            }),
        })
    };
    prop_oneof![
        2 => (0u32..5, ascending(), any::<bool>()).prop_map(replicas),
        2 => (0u32..5, ascending(), 0u64..9).prop_map(members),
        1 => (0u32..6).prop_map(|replicas| Command::SetReplication(SetReplication { replicas })),
        1 => Just(init()),
    ]
}

fn of_epochs() -> impl Strategy<Value = Command> {
    let window = || (0i64..4).prop_map(|windows| windows * EPOCH_STEP_MS);
    let add = |(epoch, first, from_ms, lead): (u32, u32, i64, bool)| {
        let shards = vec![first, first + 1];
        let replicas = |shard: &u32| ShardReplicas {
            shard: *shard,
            nodes: vec![1],
        };
        Command::AddEpoch(AddEpoch {
            shards: shards.iter().map(replicas).collect(),
            epoch: Some(PlacementEpoch {
                epoch,
                from_ms: if lead { 0 } else { from_ms },
                shards,
                by_labels: vec!["job".into(), "instance".into()],
                spreads: Vec::new(),
            }),
            lead_ms: i64::from(lead),
        })
    };
    let step = |(step, shard, epoch, from_ms): (i32, u32, u32, i64)| {
        Command::ShardStep(ShardStep {
            step,
            shard,
            epoch,
            from_ms,
            newest_ms: from_ms + 5,
        })
    };
    prop_oneof![
        3 => (2u32..4, 2u32..5, window(), any::<bool>()).prop_map(add),
        4 => (0i32..5, 0u32..5, 1u32..4, window()).prop_map(step),
        2 => (1u32..4, window()).prop_map(|(epoch, from_ms)| {
            Command::PostponeEpoch(PostponeEpoch { epoch, from_ms })
        }),
        1 => (1u32..4).prop_map(|epoch| Command::AbortEpoch(AbortEpoch { epoch })),
    ]
}

/// A delete of the tenant that has blocks, or of another.
fn of_tenant(command: Command, has_blocks: bool) -> Command {
    let Command::AddTombstone(mut c) = command else {
        unreachable!()
    };
    if !has_blocks {
        c.tombstone.as_mut().unwrap().tenant = "another".into();
    }
    Command::AddTombstone(c)
}

fn of_deletes() -> impl Strategy<Value = Command> {
    prop_oneof![
        2 => (0u8..4, any::<bool>()).prop_map(|(n, masks)| of_tenant(deletes::tombstone(&format!("deletes/{n}"), "x"), masks)),
        3 => (0u32..3, 0u64..120).prop_map(|(shard, revision)| deletes::applied(shard, revision)),
        2 => prop::collection::vec(0u64..60, 1..9).prop_map(|revisions| deletes::forget(&revisions)),
        1 => Just(Command::CleanTombstones(CleanTombstones {})),
        1 => (0u64..30).prop_map(|catalogue_revision| {
            Command::AdoptCatalogue(AdoptCatalogue {
                catalogue_revision,
                ..AdoptCatalogue::default()
            })
        }),
    ]
}

fn of_the_rest() -> impl Strategy<Value = Command> {
    let release = |(node, term)| {
        Command::ReleaseJob(ReleaseJob {
            job: "job".into(),
            node,
            term,
        })
    };
    prop_oneof![
        1 => (1u64..4).prop_map(|node| acquire("job", node, 40)),
        1 => (1u64..4, 0u64..4).prop_map(release),
        1 => (0u8..4, any::<bool>(), 0i64..500).prop_map(|(h, e, f)| config(&h.to_string(), e, f)),
        1 => (0u8..3, 0u8..3, 0i64..500).prop_map(|(c, r, at)| ha::claim(&c.to_string(), &r.to_string(), at)),
    ]
}

/// Nodes 1 and 2 begin lives with this build, and the cluster comes to all that it understands.
pub(super) fn raised() -> [Command; 3] {
    let level = CURRENT_FEATURE_LEVEL.0;
    let raise = Command::RaiseFeatureLevel(RaiseFeatureLevel { level });
    let newer = |id| understanding(node(id, 2), level);
    [newer(1), newer(2), raise]
}

/// From command to command, milliseconds. Seldom it is so long that windows pass.
fn step() -> impl Strategy<Value = i64> {
    prop_oneof![9 => 0i64..20, 1 => Just(LEAP_MS)]
}

/// Whoever adds a command has to give it a number here, and to make some above.
fn number(command: &Command) -> usize {
    match command {
        Command::InitCluster(_) => 0,
        Command::RegisterNode(_) => 1,
        Command::RenewLease(_) => 2,
        Command::StageBlock(_) => 3,
        Command::PublishBlock(_) => 4,
        Command::CondemnBlocks(_) => 5,
        Command::ForgetBlocks(_) => 6,
        Command::AcquireJob(_) => 7,
        Command::ReleaseJob(_) => 8,
        Command::ProposeConfig(_) => 9,
        Command::RaiseFeatureLevel(_) => 10,
        Command::SetShardReplicas(_) => 11,
        Command::ExpireLeases(_) => 12,
        Command::EndLease(_) => 13,
        Command::AddTombstone(_) => 14,
        Command::TombstonesApplied(_) => 15,
        Command::ForgetTombstones(_) => 16,
        Command::CleanTombstones(_) => 17,
        Command::AdoptCatalogue(_) => 18,
        Command::ReportMembers(_) => 19,
        Command::SetDraining(_) => 20,
        Command::SetReplication(_) => 21,
        Command::AddEpoch(_) => 22,
        Command::ShardStep(_) => 23,
        Command::PostponeEpoch(_) => 24,
        Command::AbortEpoch(_) => 25,
        Command::ClaimHaTurn(_) => 26,
        Command::ForgetNode(_) => 27,
    }
}

const KINDS: usize = 28;

/// All kinds come, and those that change anything at all once the cluster is there are taken, too.
#[test]
fn any_command_is_any_command() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut came, mut taken) = (vec![false; KINDS], vec![false; KINDS]);
    for round in 0..200 {
        let machine = machine();
        for command in raised().into_iter().filter(|_| round % 2 == 0) {
            assert_eq!(machine.apply_command(&at(0, command)).refused, "");
        }
        for step in 0..250i64 {
            let command = any_command().new_tree(&mut runner).unwrap().current();
            let (kind, before) = (number(&command), machine.state().revision);
            let answer = machine.apply_command(&at(step * 7 + step / 10 * LEAP_MS, command));
            came[kind] = true;
            taken[kind] |= answer.refused.is_empty() && machine.state().revision > before;
        }
    }
    let missing = |of: &[bool]| -> Vec<usize> { (0..KINDS).filter(|kind| !of[*kind]).collect() };
    assert_eq!(missing(&came), Vec::<usize>::new());
    assert_eq!(missing(&taken), [0, 18], "those are for a cluster's beginning");
}

fn check_invariants(before: &MetaState, after: &MetaState) {
    let mut covered = HashSet::new();
    for block in after.blocks.iter().filter(|b| b.state() != State::Condemned) {
        for part in &block.parts {
            assert!(
                covered.insert((block.state(), *part)),
                "part {part} twice in {:?}",
                block.state()
            );
        }
    }
    let states: HashMap<_, _> = after.blocks.iter().map(|b| (&b.id, b.state())).collect();
    for old in &before.blocks {
        match (old.state(), states.get(&old.id)) {
            (State::Live | State::Staged, None) => panic!("a block was forgotten that was not condemned"),
            (was, Some(is)) => assert!(*is as i32 >= was as i32, "{was:?} became {is:?}"),
            _ => {}
        }
    }
    assert!(after.blocks.is_sorted_by(|a, b| a.id < b.id));
    assert!(crate::retention::used_bytes(&after.blocks) <= CAP);
    let mut nodes: Vec<_> = after.nodes.iter().map(|n| n.id).collect();
    nodes.sort_unstable();
    nodes.dedup();
    assert_eq!(nodes.len(), after.nodes.len());
    assert!(nodes.iter().all(|n| *n < after.next_node_id));
    assert!(after.next_node_id >= before.next_node_id);
    assert!(
        after
            .configs
            .is_sorted_by(|a, b| a.revision < b.revision && a.from_ms <= b.from_ms)
    );
    let ring = |state: &MetaState| state.scrapers.clone().unwrap_or_default();
    let (was, is) = (ring(before), ring(after));
    assert!(was.term < is.term || was == is, "{was:?} {is:?}");
    assert!(is.nodes.is_sorted_by(|a, b| a < b));
    for (was, is) in before.jobs.iter().zip(&after.jobs) {
        assert!(was.term <= is.term && (was.node == is.node || was.term < is.term));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes, in whatever order: the invariants hold, two replicas agree, and what is stored is what is.
    #[test]
    fn any_sequence_keeps_the_invariants(
        is_raised in any::<bool>(),
        commands in prop::collection::vec((step(), any_command()), 1..80),
    ) {
        let (machine, replica) = (machine(), machine());
        for command in raised().into_iter().filter(|_| is_raised) {
            machine.apply_command(&at(0, command.clone()));
            replica.apply_command(&at(0, command));
        }
        let mut records = Records::default();
        let mut now = 0;
        for (i, (step, command)) in commands.into_iter().enumerate() {
            now += step;
            let before = machine.state();
            let command = at(now, command);
            let answer = machine.apply_command(&command);
            check_invariants(&before, &machine.state());
            prop_assert_eq!(&answer, &replica.apply_command(&command));
            if i % 7 == 0 {
                machine.flush(&mut records).unwrap();
                machine.flushed(i as u64);
                prop_assert_eq!(&restored(&records), &machine.state());
            }
        }
        prop_assert_eq!(machine.state(), replica.state());
    }
}
