//! How placement epochs come, move on and go.

use super::*;
use crate::bounds::bounds_of;
use crate::meta::{Beginning, CannotReshard, EPOCH_GUARD_MS, Reshard, plan_reshard, reshard_progress};
use crate::placement::{EPOCH_STEP_MS, Placement, epochs_in_force};
use gnomon_model::{PlacementEpoch as Number, ShardId, TimestampMs};
use shard_step::Step;

const H: i64 = 60 * 60 * 1000;
/// Half an hour before a window begins.
const NOW: i64 = 1000 * EPOCH_STEP_MS - H / 2;
const T: i64 = 1000 * EPOCH_STEP_MS;

/// A cluster at level 4 with two ingesters, of which the first has shards 0 and 1.
fn cluster() -> MetaMachine {
    let machine = MetaMachine::default();
    told(&machine, NOW, init()).unwrap();
    all_understand(&machine, [0, 0], 1, 4);
    machine
}

/// Two ingesters begin their lives with builds of a level, which the cluster comes to; id 0 is a new node.
fn all_understand(machine: &MetaMachine, ids: [u64; 2], incarnation: u64, level: u32) {
    for id in ids {
        let node = Node {
            id,
            address: "127.0.0.1:9095".into(),
            incarnation,
            feature_level: level,
            roles: vec!["ingester".into()],
            ..Node::default()
        };
        let register = RegisterNode {
            node: Some(node),
            lease_ms: 600_000,
        };
        told(machine, NOW, Command::RegisterNode(register)).unwrap();
    }
    told(machine, NOW, Command::RaiseFeatureLevel(RaiseFeatureLevel { level })).unwrap();
}

fn told(machine: &MetaMachine, now_ms: i64, command: Command) -> Result<MetaResponse, String> {
    let answer = machine.apply_command(&at(now_ms, command));
    match answer.refused.is_empty() {
        true => Ok(answer),
        false => Err(answer.refused),
    }
}

fn add(machine: &MetaMachine, now_ms: i64, wanted: &Reshard) -> Result<MetaResponse, String> {
    let planned = plan_reshard(&machine.state(), wanted, now_ms).map_err(|e| e.to_string())?;
    told(machine, now_ms, Command::AddEpoch(planned))
}

fn step(machine: &MetaMachine, now_ms: i64, step: Step, shard: u32, from_ms: i64) {
    let command = ShardStep {
        step: step as i32,
        shard,
        epoch: machine
            .state()
            .epoch_change
            .as_ref()
            .map_or(0, |c| c.epoch.as_ref().unwrap().epoch),
        from_ms,
        newest_ms: from_ms + 5,
    };
    told(machine, now_ms, Command::ShardStep(command)).unwrap();
}

fn epochs(machine: &MetaMachine) -> Vec<(u32, i64, Vec<u32>)> {
    let state = machine.state();
    state
        .epochs
        .iter()
        .map(|e| (e.epoch, e.from_ms, e.shards.clone()))
        .collect()
}

fn in_force(machine: &MetaMachine) -> Option<Number> {
    Placement::in_force(&machine.state()).unwrap().newest()
}

#[test]
fn an_epoch_is_announced_listed_and_in_force() {
    let machine = cluster();
    add(&machine, NOW, &Reshard::to(3)).unwrap();
    let state = machine.state();
    let progress = reshard_progress(&state).unwrap();
    assert_eq!((progress.from_ms, progress.opening, progress.closing), (T, 3, 2));
    let replicas: Vec<_> = state.shards.iter().map(|r| (r.shard, r.nodes.len())).collect();
    assert_eq!(replicas, [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1)]);
    assert_eq!(epochs(&machine).len(), 1, "nobody reads its shards yet");
    // Old shards do not close before all new ones are open.
    step(&machine, NOW, Step::Closed, 0, T);
    for shard in [2, 3] {
        step(&machine, NOW, Step::Opened, shard, T);
    }
    step(&machine, NOW, Step::Opened, 3, T);
    assert_eq!(epochs(&machine).len(), 1);
    let before = machine.state().catalogue_revision;
    step(&machine, NOW, Step::Opened, 4, T);
    assert_eq!(epochs(&machine)[1], (2, T, vec![2, 3, 4]));
    assert!(
        machine.state().catalogue_revision > before,
        "the next checkpoint has it"
    );
    assert_eq!(in_force(&machine), Some(Number(1)));
    assert_eq!(bounds_of(&machine.state(), ShardId(0)).unwrap().until_ms, T);
    step(&machine, NOW, Step::Closed, 1, T);
    assert_eq!(in_force(&machine), Some(Number(1)));
    step(&machine, NOW, Step::Closed, 0, T);
    assert_eq!(in_force(&machine), Some(Number(2)));
    assert!(machine.state().epoch_change.is_none());
    // What comes again has no effect.
    let revision = machine.state().revision;
    step(&machine, NOW, Step::Late, 0, T);
    assert_eq!(machine.state().revision, revision);
}

#[test]
fn one_at_a_time_and_within_bounds() {
    let machine = cluster();
    let plan = |shards| plan_reshard(&machine.state(), &Reshard::to(shards), NOW);
    assert_eq!(plan(0), Err(CannotReshard::Number(0)));
    assert_eq!(plan(4097), Err(CannotReshard::Number(4097)));
    assert_eq!(plan(2), Err(CannotReshard::Same(2)));
    let first = plan(3).unwrap();
    let other = plan(4).unwrap();
    told(&machine, NOW, Command::AddEpoch(first.clone())).unwrap();
    let revision = machine.state().revision;
    told(&machine, NOW, Command::AddEpoch(first)).unwrap();
    assert_eq!(machine.state().revision, revision, "asked twice, done once");
    let refused = told(&machine, NOW, Command::AddEpoch(other)).unwrap_err();
    assert!(refused.contains("epoch 2 is not in force yet"), "{refused}");
    let under_way = plan_reshard(&machine.state(), &Reshard::to(5), NOW).unwrap_err();
    assert!(
        matches!(
            under_way,
            CannotReshard::UnderWay {
                epoch: 2,
                waiting: 5,
                ..
            }
        ),
        "{under_way}"
    );
    assert_eq!(
        plan_reshard(&machine.state(), &Reshard::to(5), NOW + H).unwrap_err(),
        under_way,
        "leases do not matter then"
    );
    let machine = cluster();
    let nobody = plan_reshard(&machine.state(), &Reshard::to(5), NOW + H);
    assert_eq!(nobody, Err(CannotReshard::NoIngester));
}

#[test]
fn what_is_no_next_epoch_is_refused() {
    let machine = cluster();
    let good = plan_reshard(&machine.state(), &Reshard::to(3), NOW).unwrap();
    let refused = |change: &dyn Fn(&mut AddEpoch)| {
        let mut command = good.clone();
        change(&mut command);
        told(&machine, NOW, Command::AddEpoch(command)).unwrap_err()
    };
    let epoch = |c: &mut AddEpoch, change: fn(&mut PlacementEpoch)| change(c.epoch.as_mut().unwrap());
    for (change, why) in [
        (
            &(|c: &mut AddEpoch| epoch(c, |e| e.epoch = 3)) as &dyn Fn(&mut AddEpoch),
            "the next placement epoch is 2",
        ),
        (&|c| epoch(c, |e| e.shards = vec![1, 2, 3]), "those from 2 on"),
        (&|c| epoch(c, |e| e.shards.clear()), "0 shards"),
        (
            &|c| epoch(c, |e| e.by_labels = vec!["job".into()]),
            "the placement labels are",
        ),
        (
            &|c| {
                epoch(c, |e| {
                    e.spreads = vec![SpreadRule {
                        job: "a".into(),
                        ways: 9,
                    }]
                })
            },
            "9 ways",
        ),
        (&|c| drop(c.shards.pop()), "replicas of 2 shards"),
        (&|c| c.shards[0].nodes.clear(), "shard 2 has no replicas"),
        (&|c| c.shards[0].nodes = vec![9], "node 9"),
        (&|c| c.lead_ms = -1, "-1 ms ahead"),
        (&|c| c.lead_ms = i64::MAX, "ms ahead"),
        (&|c| c.lead_ms = 0, "not at 0"),
    ] {
        // A beginning at 0 is one after the minimum.
        if why == "not at 0" {
            let text = refused(&|c| {
                change(c);
                epoch(c, |e| e.from_ms = 5);
            });
            assert!(text.contains("not at 5"), "{text}");
            continue;
        }
        let text = refused(change);
        assert!(text.contains(why), "{text}");
    }
    assert_eq!(machine.state().epochs.len(), 1);
    assert!(machine.state().epoch_change.is_none());
    let old = MetaMachine::default();
    told(&old, NOW, init()).unwrap();
    let below = told(&old, NOW, Command::AddEpoch(good)).unwrap_err();
    assert!(below.contains("needs 4"), "{below}");
}

#[test]
fn a_beginning_that_is_too_near_moves_on_and_shards_say_so_anew() {
    let machine = cluster();
    add(&machine, NOW, &Reshard::to(1)).unwrap();
    step(&machine, NOW, Step::Opened, 2, T);
    step(&machine, NOW, Step::Closed, 0, T);
    let postpone = |now_ms, from_ms| {
        let command = PostponeEpoch { epoch: 2, from_ms };
        told(&machine, now_ms, Command::PostponeEpoch(command)).unwrap();
    };
    postpone(T - EPOCH_GUARD_MS - 1, T);
    assert_eq!(
        reshard_progress(&machine.state()).unwrap().from_ms,
        T,
        "there is time yet"
    );
    postpone(T - EPOCH_GUARD_MS, T);
    let later = T + EPOCH_STEP_MS;
    let progress = reshard_progress(&machine.state()).unwrap();
    assert_eq!((progress.from_ms, progress.opening, progress.closing), (later, 1, 2));
    assert_eq!(epochs(&machine)[1].1, later, "it stays listed: readers ask both");
    // Of the old beginning, or once more: nothing.
    step(&machine, T, Step::Closed, 0, T);
    postpone(T, T);
    assert_eq!(reshard_progress(&machine.state()).unwrap(), progress);
    for (step_is, shard) in [(Step::Closed, 0), (Step::Opened, 2), (Step::Closed, 1)] {
        assert_eq!(in_force(&machine), Some(Number(1)));
        step(&machine, T, step_is, shard, later);
    }
    assert_eq!(in_force(&machine), Some(Number(2)));
}

#[test]
fn a_shard_that_has_later_samples_moves_the_beginning_behind_them() {
    let machine = cluster();
    let wanted = Reshard {
        beginning: Beginning::At(T),
        ..Reshard::to(1)
    };
    add(&machine, NOW, &wanted).unwrap();
    let late = |shard, newest_ms| {
        let command = ShardStep {
            step: Step::Late as i32,
            shard,
            epoch: 2,
            from_ms: T,
            newest_ms,
        };
        told(&machine, NOW, Command::ShardStep(command)).unwrap();
    };
    late(0, T + 5);
    assert_eq!(reshard_progress(&machine.state()).unwrap().from_ms, T, "not listed yet");
    step(&machine, NOW, Step::Opened, 2, T);
    step(&machine, NOW, Step::Closed, 1, T);
    // Its time was given: no clock moves it.
    told(
        &machine,
        T + H,
        Command::PostponeEpoch(PostponeEpoch { epoch: 2, from_ms: T }),
    )
    .unwrap();
    assert_eq!(reshard_progress(&machine.state()).unwrap().from_ms, T);
    late(0, T + EPOCH_STEP_MS);
    let progress = reshard_progress(&machine.state()).unwrap();
    assert_eq!(
        progress.from_ms,
        T + 2 * EPOCH_STEP_MS,
        "the first window after its newest sample"
    );
    assert_eq!((progress.opening, progress.closing), (1, 2));
}

#[test]
fn an_epoch_begins_after_all_blocks_that_there_are_and_blocks_stay_within() {
    let machine = cluster();
    let block = |n: u64, shard, start_ms: i64, max_ms| BlockRecord {
        shard,
        start_ms,
        end_ms: start_ms + EPOCH_STEP_MS,
        min_sample_ms: start_ms,
        max_sample_ms: max_ms,
        samples: 1,
        bytes: 10,
        ..super::block(n, &[n], &[])
    };
    let publish = |block: &BlockRecord| {
        let staged = BlockRecord {
            samples: 0,
            ..block.clone()
        };
        let stage = StageBlock {
            block: Some(staged),
            cap_bytes: 0,
        };
        told(&machine, NOW, Command::StageBlock(stage))?;
        let publish = PublishBlock {
            block: Some(block.clone()),
        };
        told(&machine, NOW, Command::PublishBlock(publish))
    };
    publish(&block(1, 0, T, T + 7)).unwrap();
    let at_t = Reshard {
        beginning: Beginning::At(T),
        ..Reshard::to(3)
    };
    let refused = add(&machine, NOW, &at_t).unwrap_err();
    assert!(refused.contains(&format!("samples up to {}", T + 7)), "{refused}");
    let later = T + EPOCH_STEP_MS;
    let wanted = Reshard {
        beginning: Beginning::At(later),
        ..Reshard::to(3)
    };
    add(&machine, NOW, &wanted).unwrap();
    for shard in [2, 3, 4] {
        step(&machine, NOW, Step::Opened, shard, later);
    }
    for shard in [0, 1] {
        step(&machine, NOW, Step::Closed, shard, later);
    }
    assert!(
        publish(&block(2, 0, later, later + 1)).is_err(),
        "of a shard whose epoch is over"
    );
    assert!(
        publish(&block(3, 2, T, T + 1)).is_err(),
        "of one whose epoch is not yet"
    );
    publish(&block(4, 2, later, later + 1)).unwrap();
    publish(&block(5, 1, T, T + 1)).unwrap();
}

#[test]
fn the_first_epoch_is_forgotten_once_all_its_shards_have_ended() {
    let machine = cluster();
    for (shards, from_ms) in [(1, T), (2, 2 * T)] {
        let wanted = Reshard {
            beginning: Beginning::At(from_ms),
            ..Reshard::to(shards)
        };
        let (old, _) = {
            let state = machine.state();
            (state.epochs.last().unwrap().shards.clone(), ())
        };
        add(&machine, NOW, &wanted).unwrap();
        let new = machine.state().epoch_change.clone().unwrap().opening;
        for shard in new {
            step(&machine, NOW, Step::Opened, shard, from_ms);
        }
        for shard in old {
            step(&machine, NOW, Step::Closed, shard, from_ms);
        }
    }
    assert_eq!(epochs(&machine).len(), 3);
    let end = |shard| {
        let command = ShardStep {
            step: Step::Ended as i32,
            shard,
            ..ShardStep::default()
        };
        told(&machine, NOW, Command::ShardStep(command))
    };
    told(&machine, NOW, stage(1, &[1], &[])).unwrap();
    assert!(end(0).unwrap_err().contains("is of shard 0"));
    told(&machine, NOW, condemn(&[1])).unwrap();
    told(&machine, NOW, forget(&[1])).unwrap();
    end(0).unwrap();
    end(0).unwrap();
    // The second epoch waits for its turn, and the newest is not over.
    end(2).unwrap();
    assert_eq!(epochs(&machine).len(), 3);
    end(1).unwrap();
    assert_eq!(epochs(&machine), [(2, i64::MIN, vec![2]), (3, 2 * T, vec![3, 4])]);
    assert_eq!(bounds_of(&machine.state(), ShardId(2)).unwrap().from_ms, i64::MIN);
    let shards: Vec<_> = machine.state().shards.iter().map(|r| r.shard).collect();
    assert_eq!(shards, [2, 3, 4]);
    end(2).unwrap();
    assert_eq!(epochs(&machine).len(), 1);
    assert!(end(3).unwrap_err().contains("is not over"));
    // Numbers are not given again.
    let next = plan_reshard(&machine.state(), &Reshard::to(1), NOW)
        .unwrap()
        .epoch
        .unwrap();
    assert_eq!((next.epoch, next.shards), (4, vec![5]));
}

#[test]
fn a_cluster_that_is_taken_over_has_all_epochs() {
    let machine = MetaMachine::default();
    let Command::InitCluster(mut first) = init() else {
        panic!("not the first command");
    };
    first.later_epochs = vec![PlacementEpoch {
        epoch: 4,
        from_ms: T,
        shards: vec![7],
        ..first.epoch.clone().unwrap()
    }];
    let refused = told(&machine, NOW, Command::InitCluster(first.clone())).unwrap_err();
    assert!(refused.contains("shard 7 has no replicas"), "{refused}");
    first.shards.push(ShardReplicas {
        shard: 7,
        nodes: vec![1],
    });
    told(&machine, NOW, Command::InitCluster(first)).unwrap();
    assert_eq!(machine.state().feature_level, 4);
    assert_eq!(epochs_in_force(&machine.state()).len(), 2);
    let placement = Placement::in_force(&machine.state()).unwrap();
    assert_eq!(placement.epoch_at(TimestampMs(T - 1)), Some(Number(1)));
    assert_eq!(placement.epoch_at(TimestampMs(T)), Some(Number(4)));
}

/// The same, at the level at which epochs are called off.
fn newer_cluster() -> MetaMachine {
    let machine = cluster();
    all_understand(&machine, [1, 2], 2, 5);
    machine
}

fn call_off(machine: &MetaMachine, epoch: u32) -> Result<MetaResponse, String> {
    told(machine, NOW, Command::AbortEpoch(AbortEpoch { epoch }))
}

#[test]
fn an_epoch_is_called_off_however_far_it_is_until_it_is_in_force() {
    for far in 0..=6 {
        let machine = newer_cluster();
        add(&machine, NOW, &Reshard::to(3)).unwrap();
        let members = GroupMembers {
            group: 3,
            voters: vec![1],
            at_index: 1,
        };
        told(
            &machine,
            NOW,
            Command::ReportMembers(ReportMembers { members: Some(members) }),
        )
        .unwrap();
        let steps = [
            (Step::Opened, 2),
            (Step::Opened, 3),
            (Step::Opened, 4),
            (Step::Closed, 0),
            (Step::Closed, 1),
        ];
        for (what, shard) in steps.into_iter().take(far) {
            step(&machine, NOW, what, shard, T);
        }
        if far >= 5 {
            let refused = call_off(&machine, 2).unwrap_err();
            assert!(refused.contains("in force"), "{refused}");
            assert_eq!(in_force(&machine), Some(Number(2)));
            continue;
        }
        assert!(call_off(&machine, 3).unwrap_err().contains("epoch 2 is on its way"));
        call_off(&machine, 2).unwrap();
        let state = machine.state();
        assert!(state.epoch_change.is_none() && state.members.is_empty());
        assert_eq!(state.shards.iter().map(|r| r.shard).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(epochs(&machine), [(1, i64::MIN, vec![0, 1])]);
        assert_eq!(in_force(&machine), Some(Number(1)));
        // The shards that closed take everything again.
        assert_eq!(bounds_of(&state, ShardId(0)).unwrap(), crate::bounds::ShardBounds::ALL);
        assert_eq!(bounds_of(&state, ShardId(2)), None);
        // What comes late of it has no effect, and neither number is used again.
        let revision = state.revision;
        step(&machine, NOW, Step::Closed, 1, T);
        step(&machine, NOW, Step::Opened, 4, T);
        assert_eq!(machine.state().revision, revision);
        assert!(
            call_off(&machine, 2)
                .unwrap_err()
                .contains("no placement epoch is on its way")
        );
        add(&machine, NOW, &Reshard::to(3)).unwrap();
        let change = machine.state().epoch_change.clone().unwrap().epoch.unwrap();
        assert_eq!((change.epoch, change.shards), (3, vec![5, 6, 7]));
    }
}

#[test]
fn nothing_is_called_off_before_all_understand_it() {
    let machine = cluster();
    add(&machine, NOW, &Reshard::to(3)).unwrap();
    assert!(call_off(&machine, 2).unwrap_err().contains("feature level"));
}
