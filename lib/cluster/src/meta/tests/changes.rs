//! Whoever has whatever state comes to the newest one by what differs.

use super::large::{holding, large};
use super::random::{LEAP_MS, any_command, raised};
use super::*;
use crate::meta::changes::{Assembling, History, Pieces};
use proptest::prelude::*;

/// Puts an update on a state; gives the state and how many pieces there were.
fn reached(base: &Arc<MetaState>, pieces: Pieces) -> (Arc<MetaState>, usize) {
    let mut assembling = Assembling::on(base.clone());
    let mut count = 0;
    for piece in pieces {
        count += 1;
        if let Some(state) = assembling.put(piece).unwrap() {
            return (state, count);
        }
    }
    panic!("no last piece");
}

proptest! {
    #[test]
    fn every_state_leads_to_every_later_one(
        is_raised in any::<bool>(),
        commands in prop::collection::vec(any_command(), 1..60),
        shown in prop::collection::vec(any::<bool>(), 60),
    ) {
        let machine = MetaMachine::default();
        let mut history = History::default();
        let mut all = vec![Arc::new(MetaState::default())];
        // What was there before the history began is not known to it.
        machine.apply_command(&at(1, node(7, 1)));
        machine.apply_command(&at(1, init()));
        for command in raised().into_iter().filter(|_| is_raised) {
            machine.apply_command(&at(1, command));
        }
        all.push(machine.state());
        let mut now_ms = 1;
        for (step, (command, shown)) in commands.into_iter().zip(shown).enumerate() {
            now_ms += if step % 10 == 9 { LEAP_MS } else { 7 };
            machine.apply_command(&at(now_ms, command));
            all.push(machine.state());
            if !shown {
                continue;
            }
            history.observe(&machine.state());
            for base in &all {
                let (state, _) = reached(base, history.since(base.revision));
                prop_assert_eq!(&state, &machine.state());
            }
        }
    }
}

fn publish_one(machine: &MetaMachine, number: u64) -> Arc<MetaState> {
    let mut block = block(number, &[number], &[]);
    block.shard = 1;
    let stage = StageBlock {
        block: Some(block),
        cap_bytes: 0,
    };
    assert_eq!(machine.apply_command(&at(1, Command::StageBlock(stage))).refused, "");
    machine.state()
}

#[test]
fn a_large_state_comes_in_pieces_and_a_change_of_it_in_one_that_is_small() {
    let mut state = large(50, 40, 60_000);
    // The founder registered last.
    state.nodes.rotate_left(1);
    let machine = holding(&state);
    let mut history = History::default();
    let first = machine.state();
    history.observe(&first);
    for piece in history.since(0) {
        assert!(piece.encoded_len() < 4 << 20, "{}", piece.encoded_len());
    }
    let (whole, pieces) = reached(&Arc::default(), history.since(0));
    assert_eq!(whole, first);
    assert!(pieces > 2, "{pieces}");
    let second = publish_one(&machine, 1_000_000);
    let mut another = node(0, 1);
    if let Command::RegisterNode(c) = &mut another {
        c.node.as_mut().unwrap().feature_level = 5;
    }
    for command in [renew(9, 1, 60_000), another] {
        assert_eq!(machine.apply_command(&at(2, command)).refused, "");
    }
    history.observe(&second);
    history.observe(&machine.state());
    for (base, most) in [(&first, 2_000), (&second, 2_000)] {
        let bytes: usize = history.since(base.revision).map(|piece| piece.encoded_len()).sum();
        assert!(bytes < most, "{bytes}");
        assert_eq!(reached(base, history.since(base.revision)), (machine.state(), 1));
    }
}

#[test]
fn what_is_forgotten_of_the_history_is_told_whole() {
    let machine = holding(&large(5, 4, 10));
    let mut history = History::default();
    let first = machine.state();
    history.observe(&first);
    for n in 0..5_000 {
        machine.apply_command(&at(10 + n, acquire("job", 1, 10)));
        history.observe(&machine.state());
    }
    let update = history.since(first.revision).next().unwrap();
    assert_eq!(update.base_revision, 0);
    let near = machine.state().revision - 3;
    let update = history.since(near).next().unwrap();
    assert_eq!((update.base_revision, update.set.unwrap().blocks.len()), (near, 0));
    // One who is ahead has heard of something else.
    let update = history.since(machine.state().revision + 1).next().unwrap();
    assert_eq!(update.base_revision, 0);
    assert_eq!(reached(&first, history.since(first.revision)).0, machine.state());
}

#[test]
fn what_does_not_fit_is_not_taken() {
    let machine = holding(&large(5, 4, 10));
    let mut history = History::default();
    let first = machine.state();
    history.observe(&first);
    history.observe(&publish_one(&machine, 1_000));
    let other = Arc::new(MetaState {
        blocks: first.blocks[1..].to_vec(),
        ..first.as_ref().clone()
    });
    let update = history.since(first.revision).next().unwrap();
    for base in [other, Arc::default()] {
        let error = Assembling::on(base).put(update.clone()).unwrap_err();
        assert!(matches!(error, gnomon_proto::ServiceError::Damaged(_)), "{error}");
    }
}
