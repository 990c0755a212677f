//! What an older build does with what a newer one has written.

use super::*;
use gnomon_model::FeatureLevel;

fn raise(level: u32) -> Command {
    Command::RaiseFeatureLevel(RaiseFeatureLevel { level })
}

/// A machine whose only node understands much.
fn newer() -> MetaMachine {
    let machine = MetaMachine::default();
    let Command::RegisterNode(mut register) = node(0, 1) else {
        unreachable!("a registration");
    };
    register.node.as_mut().unwrap().feature_level = 5;
    run(&machine, &[(0, init(), ""), (0, Command::RegisterNode(register), "")]);
    machine
}

#[test]
fn a_store_of_a_newer_level_is_refused_with_both_levels() {
    let machine = newer();
    let mut records = Records::default();
    run(&machine, &[(1, raise(4), "")]);
    machine.flush(&mut records).unwrap();
    machine.flushed(1);
    let older = MetaMachine::understanding(FeatureLevel(4));
    older.restore(&records).unwrap();
    assert_eq!(older.state(), machine.state());

    run(&machine, &[(1, raise(5), "")]);
    machine.flush(&mut records).unwrap();
    let refused = older.restore(&records).unwrap_err().to_string();
    assert!(
        refused.contains("it is at feature level 5") && refused.contains("understands 4 only: start the newer one"),
        "{refused}"
    );
    assert_eq!(older.state().feature_level, 4, "what was there before stays");
    MetaMachine::default().restore(&records).unwrap();
}

#[test]
fn a_replica_that_does_not_understand_a_level_applies_nothing_after_it() {
    let (newer, older) = (newer(), MetaMachine::understanding(FeatureLevel(4)));
    let mut records = Records::default();
    newer.flush(&mut records).unwrap();
    older.restore(&records).unwrap();
    let entry = |command: Command| at(5, command).encode_to_vec();
    let (raising, after) = (entry(raise(5)), entry(stage(1, &[1], &[])));
    let applied = |payload| Applied {
        index: 9,
        term: 1,
        payload,
    };
    let answers = older.apply(&[applied(&raising), applied(&after)]);
    let refused = MetaResponse::decode(answers[1].clone()).unwrap().refused;
    assert!(refused.contains("does not understand feature level 5"), "{refused}");
    assert_eq!(older.state().blocks.len(), 0);
    // It writes nothing of it either: a newer build goes on from what the log has.
    let before = records.0.lock().clone();
    assert!(matches!(older.flush(&mut records), Err(StateError::Newer { .. })));
    assert_eq!(before, *records.0.lock());
}
