//! Who scrapes, and the term of it.

use super::*;
use gnomon_model::ids::RING_TIMES_FEATURE_LEVEL;

/// Applies the commands (all are taken) and gives the ring after each.
fn rings(machine: &MetaMachine, script: &[(i64, Command)]) -> Vec<(u64, Vec<u64>)> {
    let ring = |(ms, command): &(i64, Command)| {
        run(machine, &[(*ms, command.clone(), "")]);
        let ring = machine.state().scrapers.clone().unwrap_or_default();
        (ring.term, ring.nodes)
    };
    script.iter().map(ring).collect()
}

#[test]
fn the_scrapers_term_grows_with_every_change_of_who_scrapes() {
    let machine = machine();
    let found = rings(
        &machine,
        &[
            (0, node(3, 1)),           // no scraper
            (0, scraper(4, 0)),        // an id was asked for, nobody lives yet
            (0, scraper(4, 1)),        // the first
            (0, scraper(5, 1)),        // a second
            (0, scraper(5, 1)),        // said twice
            (500, renew(5, 1, 1000)),  // until 1500
            (999, expire()),           // nobody is overdue
            (1000, expire()),          // the first is, to the millisecond
            (1100, expire()),          // once
            (1200, renew(4, 1, 1000)), // it was paused, and wakes up
            (1300, scraper(5, 2)),     // a new life of the other, before its lease ended
            (1400, end(5, 1)),         // its old life has nothing to end
            (1400, end(5, 2)),         // it stops in good order
            (1400, end(5, 2)),
            (1500, node(4, 2)), // the first comes back in another role
        ],
    );
    let expected: &[(u64, &[u64])] = &[
        (0, &[]),
        (0, &[]),
        (1, &[4]),
        (2, &[4, 5]),
        (2, &[4, 5]),
        (2, &[4, 5]),
        (2, &[4, 5]),
        (3, &[5]),
        (3, &[5]),
        (4, &[4, 5]),
        (5, &[4, 5]),
        (5, &[4, 5]),
        (6, &[4]),
        (6, &[4]),
        (7, &[]),
    ];
    let expected: Vec<_> = expected.iter().map(|(term, nodes)| (*term, nodes.to_vec())).collect();
    assert_eq!(found, expected);
    let lease = machine.state().nodes.iter().find(|n| n.id == 5).unwrap().lease_until_ms;
    assert_eq!(lease, 1400, "ended when it said so");
}

/// Terms come from the log alone: whoever applies it later, in whatever pieces, has the same.
#[test]
fn the_ring_is_the_same_on_every_replica_and_after_a_restart() {
    let (one, other) = (machine(), machine());
    let script = [
        (0, scraper(1, 2)),
        (10, scraper(2, 2)),
        (1005, expire()),
        (1006, renew(1, 2, 500)),
    ];
    let here = rings(&one, &script);
    assert_eq!(here, rings(&other, &script));
    let mut store = Records::default();
    one.flush(&mut store).unwrap();
    let again = MetaMachine::default();
    again.restore(&store).unwrap();
    assert_eq!(again.state().scrapers, one.state().scrapers);
    assert_eq!(again.state().scrapers.as_ref().map(|r| r.term), Some(4));
}

/// Noted from the feature level on that says so; renewals and what is registered again do not change it.
#[test]
fn the_group_notes_when_a_scraper_came_or_went() {
    let machine = MetaMachine::default();
    run(&machine, &[(0, init(), "")]);
    let level = RING_TIMES_FEATURE_LEVEL.0;
    let newer = |id, incarnation| {
        let Command::RegisterNode(mut register) = scraper(id, incarnation) else {
            unreachable!("a registration");
        };
        register.node.as_mut().unwrap().feature_level = level;
        Command::RegisterNode(register)
    };
    let raise = Command::RaiseFeatureLevel(RaiseFeatureLevel { level });
    let script = [
        (0, newer(4, 1), (0, 0)), // before the level
        (10, raise, (0, 0)),
        (100, newer(5, 1), (0, 100)), // comes, until 1100
        (200, renew(4, 1, 1000), (0, 100)),
        (1200, expire(), (1200, 1100)), // when their leases ended
        (1300, renew(4, 1, 500), (1300, 1100)),
        (1400, renew(4, 1, 500), (1300, 1100)),
        (1500, newer(4, 1), (1300, 1100)),
        (1600, newer(4, 2), (1600, 1100)), // a new life
        (1700, end(4, 2), (1700, 1100)),
        (1800, end(4, 2), (1700, 1100)),
    ];
    for (ms, command, expected) in script {
        run(&machine, &[(ms, command, "")]);
        let state = machine.state();
        let noted = |id| state.nodes.iter().find(|n| n.id == id).map_or(0, |n| n.ring_changed_ms);
        assert_eq!((noted(4), noted(5)), expected, "at {ms}");
    }
}
