//! What holds after any commands, and that a replica has the same.

use super::*;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

const CAP: u64 = 4 * 4096;

pub(super) fn any_command() -> impl Strategy<Value = Command> {
    let ids = prop::collection::vec(1u64..7, 0..3);
    let parts = prop::collection::btree_set(1u64..5, 1..4).prop_map(|set| set.into_iter().collect::<Vec<_>>());
    prop_oneof![
        4 => (1u64..7, parts.clone(), ids.clone()).prop_map(|(n, p, i)| stage_below(n, &p, &i, CAP)),
        4 => (1u64..7, parts, ids.clone()).prop_map(|(n, p, i)| publish(n, &p, &i)),
        1 => ids.clone().prop_map(|ids| condemn(&ids)),
        1 => ids.clone().prop_map(|ids| give_up(&ids)),
        1 => ids.prop_map(|ids| forget(&ids)),
        1 => (0u64..5, 0u64..4).prop_map(|(id, life)| node(id, life)),
        1 => (0u64..5, 0u64..4).prop_map(|(id, life)| scraper(id, life)),
        1 => (1u64..5, 0u64..4).prop_map(|(id, life)| renew(id, life, 50)),
        1 => (1u64..5, 0u64..4).prop_map(|(id, life)| end(id, life)),
        1 => Just(expire()),
        1 => (1u64..4).prop_map(|node| acquire("job", node, 40)),
        1 => (0u8..4, any::<bool>(), 0i64..500).prop_map(|(h, e, f)| config(&h.to_string(), e, f)),
    ]
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
    fn any_sequence_keeps_the_invariants(commands in prop::collection::vec((0i64..20, any_command()), 1..80)) {
        let (machine, replica) = (machine(), machine());
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
