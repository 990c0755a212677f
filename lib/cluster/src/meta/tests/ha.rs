//! HA pairs: whose samples count.

use super::*;

pub(super) fn claim(cluster: &str, replica: &str, newest_ms: i64) -> Command {
    Command::ClaimHaTurn(ClaimHaTurn {
        tenant: "anonymous".into(),
        cluster: cluster.into(),
        replica: replica.into(),
        newest_ms,
        extend_ms: 15_000,
        failover_ms: 30_000,
        max_pairs: 2,
        fills: false,
    })
}

/// Of one whose samples are held.
fn claim_and_fill(cluster: &str, replica: &str, newest_ms: i64) -> Command {
    let mut command = claim(cluster, replica, newest_ms);
    if let Command::ClaimHaTurn(claim) = &mut command {
        claim.fills = true;
    }
    command
}

fn at_level_4() -> MetaMachine {
    let machine = machine();
    let level = Command::RaiseFeatureLevel(RaiseFeatureLevel { level: 4 });
    let node = |id| {
        Command::RegisterNode(RegisterNode {
            node: Some(Node {
                id,
                address: "127.0.0.1:9095".into(),
                incarnation: 1,
                feature_level: 4,
                ..Node::default()
            }),
            lease_ms: 1000,
        })
    };
    run(&machine, &[(0, node(1), ""), (0, node(2), ""), (0, level, "")]);
    machine
}

/// Replicas with the times from which they count, where the last turn ends, when it was heard of.
fn pair(machine: &MetaMachine, cluster: &str) -> (Vec<(String, i64)>, i64, i64) {
    let state = machine.state();
    let pair = state.ha_pairs.iter().find(|p| p.cluster == cluster).expect("the pair");
    let turns = pair.turns.iter().map(|t| (t.replica.clone(), t.from_ms)).collect();
    (turns, pair.until_ms, pair.seen_ms)
}

fn turns(list: &[(&str, i64)]) -> Vec<(String, i64)> {
    list.iter().map(|(r, t)| ((*r).to_owned(), *t)).collect()
}

#[test]
fn the_other_has_its_turn_after_silence_from_where_the_first_ends() {
    let machine = at_level_4();
    run(&machine, &[(1000, claim("c", "a", 900), "")]);
    assert_eq!(pair(&machine, "c"), (turns(&[("a", -14_100)]), 15_900, 1000));
    // The other one, while the first is heard of: nothing.
    let revision = machine.state().revision;
    run(&machine, &[(20_000, claim("c", "b", 19_000), "")]);
    assert_eq!(machine.state().revision, revision);
    run(&machine, &[(21_000, claim("c", "a", 20_000), "")]);
    assert_eq!(pair(&machine, "c"), (turns(&[("a", -14_100)]), 35_000, 21_000));
    run(&machine, &[(50_999, claim("c", "b", 50_000), "")]);
    assert_eq!(pair(&machine, "c").0.len(), 1);
    run(&machine, &[(51_000, claim("c", "b", 50_000), "")]);
    let expected = turns(&[("a", -14_100), ("b", 35_000)]);
    assert_eq!(pair(&machine, "c"), (expected, 65_000, 51_000));
    // The first one is back: its turn is over, and what it claims is without effect.
    run(&machine, &[(52_000, claim("c", "a", 52_000), "")]);
    assert_eq!(pair(&machine, "c").1, 65_000);
}

#[test]
fn who_has_samples_of_the_end_of_the_turn_before_takes_that_too() {
    let machine = at_level_4();
    let refused = "the cluster is at feature level 4, filling needs 8";
    run(
        &machine,
        &[
            (1000, claim("c", "a", 900), ""),
            (80_000, claim_and_fill("c", "b", 80_000), refused),
        ],
    );
    let node = |id| {
        Command::RegisterNode(RegisterNode {
            node: Some(Node {
                id,
                address: "127.0.0.1:9095".into(),
                incarnation: 2,
                feature_level: 8,
                ..Node::default()
            }),
            lease_ms: 1000,
        })
    };
    let level = Command::RaiseFeatureLevel(RaiseFeatureLevel { level: 8 });
    run(&machine, &[(0, node(1), ""), (0, node(2), ""), (0, level, "")]);
    let last = || {
        let state = machine.state();
        let turn = state.ha_pairs[0].turns.last().expect("a turn").clone();
        (turn.replica, turn.from_ms, turn.fills_from_ms, turn.claimed_ms)
    };
    // Not before its beginning.
    run(&machine, &[(80_000, claim_and_fill("c", "b", 80_000), "")]);
    assert_eq!(last(), ("b".into(), 15_900, Some(-14_100), 80_000));
    // What a target had an interval of a minute before the newest sample, which was at 180 s, is filled behind.
    run(
        &machine,
        &[
            (180_000, claim_and_fill("c", "b", 180_000), ""),
            (300_000, claim_and_fill("c", "a", 300_000), ""),
        ],
    );
    assert_eq!(last(), ("a".into(), 195_000, Some(115_000), 300_000));
    run(
        &machine,
        &[
            (301_000, claim_and_fill("c", "a", 301_000), ""),
            (400_000, claim("c", "b", 400_000), ""),
        ],
    );
    assert_eq!(last(), ("b".into(), 316_000, None, 0));
}

#[test]
fn one_that_lags_behind_loses_its_turn() {
    let machine = at_level_4();
    run(&machine, &[(1_000_000, claim("c", "a", 500_000), "")]);
    run(&machine, &[(1_000_001, claim("c", "b", 544_999), "")]);
    assert_eq!(pair(&machine, "c").0.len(), 1);
    run(&machine, &[(1_000_001, claim("c", "b", 545_000), "")]);
    assert_eq!(pair(&machine, "c").0, turns(&[("a", 485_000), ("b", 515_000)]));
}

#[test]
fn a_turn_ends_soon_however_far_ahead_its_samples_are() {
    let machine = at_level_4();
    run(&machine, &[(1000, claim("c", "a", i64::MAX), "")]);
    assert_eq!(pair(&machine, "c").1, 16_000);
    // Time goes back between two leaders: nothing does here.
    run(&machine, &[(500, claim("c", "a", 0), "")]);
    assert_eq!(pair(&machine, "c").2, 1000);
    // Nor is one that is heard of behind another that is ahead.
    run(&machine, &[(30_000, claim("c", "b", i64::MAX), "")]);
    assert_eq!(pair(&machine, "c").0.len(), 1);
    run(&machine, &[(31_000, claim("c", "b", 30_000), "")]);
    let (turns, until, _) = pair(&machine, "c");
    assert_eq!((turns[1].1, until), (16_000, 45_000));
}

#[test]
fn pairs_and_turns_are_bounded() {
    let machine = at_level_4();
    run(
        &machine,
        &[
            (0, claim("c", "a", 0), ""),
            (0, claim("b", "a", 0), ""),
            (0, claim("a", "a", 0), "the limit is reached"),
            (0, claim("", "a", 0), "has not 1 to 1024 bytes"),
        ],
    );
    for turn in 1..=40 {
        let (now, replica) = (turn * 60_000, if turn % 2 == 0 { "a" } else { "b" });
        run(&machine, &[(now, claim("c", replica, now), "")]);
    }
    assert_eq!(pair(&machine, "c").0.len(), 16);
    // A day later the other pair makes room.
    run(&machine, &[(24 * 3_600_000, claim("a", "a", 0), "")]);
    let names: Vec<_> = machine.state().ha_pairs.iter().map(|p| p.cluster.clone()).collect();
    assert_eq!(names, ["a", "c"]);
}

#[test]
fn nothing_is_claimed_before_all_nodes_understand_it() {
    let machine = machine();
    run(&machine, &[(0, claim("c", "a", 0), "feature level 1")]);
    assert!(machine.state().ha_pairs.is_empty());
}

/// Whatever is claimed when: no turn overlaps another, and none that is over changes.
#[test]
fn turns_that_are_over_stay_as_they_are() {
    let machine = at_level_4();
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % below
    };
    let (mut now, mut before) = (0_i64, Vec::new());
    for _ in 0..2000 {
        now += random(20_000) as i64;
        let replica = ["a", "b", "c"][random(3) as usize];
        let newest = now - random(60_000) as i64;
        run(&machine, &[(now, claim("c", replica, newest), "")]);
        let (turns, until, _) = pair(&machine, "c");
        assert!(turns.is_sorted_by_key(|t| t.1) && turns.last().is_some_and(|t| t.1 <= until));
        let kept: Vec<_> = before.iter().filter(|t| turns.contains(t)).cloned().collect();
        let forgotten = before.len() - kept.len();
        assert_eq!(before[forgotten..], kept[..], "only the oldest are forgotten");
        before = turns;
    }
    assert!(before.len() == 16, "{before:?}");
}
