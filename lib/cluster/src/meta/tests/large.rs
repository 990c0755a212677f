//! A cluster of a thousand nodes: what is shown of it, and what its state costs (docs/capacity.md).

use super::*;
use crate::assign::{Rules, plan};
use crate::placement::Placement;
use gnomon_proto::v1::GroupMembers;

const LEASE_MS: i64 = 15_000;

fn ingester(id: u64) -> Node {
    Node {
        id,
        address: format!("ingester-{id}.gnomon.svc.cluster.local:9095"),
        roles: vec!["ingester".into()],
        zone: format!("zone-{}", id % 3),
        lease_until_ms: LEASE_MS,
        incarnation: 1,
        feature_level: 4,
        version: "0.1.0".into(),
        ..Node::default()
    }
}

/// As if it had run for long: `blocks` of them over all shards, replicas on three nodes each.
pub(crate) fn large(nodes: u64, shards: u32, blocks: u64) -> MetaState {
    let replicas = |shard: u32| {
        let first = u64::from(shard) % nodes;
        [0, 1, 2].map(|n| (first + n * 7) % nodes + 1).to_vec()
    };
    let record = |n: u64| {
        let shard = (n % u64::from(shards)) as u32;
        let start_ms = (n / u64::from(shards)) as i64 * 7_200_000;
        BlockRecord {
            shard,
            start_ms,
            end_ms: start_ms + 7_200_000,
            min_sample_ms: start_ms,
            max_sample_ms: start_ms + 7_199_999,
            state: State::Live as i32,
            path: format!("blocks/anonymous/{shard}/{}", id(n)),
            parts: vec![n / u64::from(shards) + 1],
            series: 250_000,
            samples: 120_000_000,
            ..block(n, &[], &[])
        }
    };
    MetaState {
        revision: 1,
        cluster_id: CLUSTER.into(),
        feature_level: 4,
        nodes: (1..=nodes).map(ingester).collect(),
        epochs: vec![PlacementEpoch {
            epoch: 1,
            from_ms: i64::MIN,
            shards: (0..shards).collect(),
            by_labels: vec!["job".into(), "instance".into()],
            spreads: vec![],
        }],
        shards: (0..shards)
            .map(|shard| ShardReplicas {
                shard,
                nodes: replicas(shard),
            })
            .collect(),
        members: (0..=shards)
            .map(|group| {
                let mut voters = replicas(group.saturating_sub(1));
                voters.sort_unstable();
                GroupMembers {
                    group,
                    voters,
                    at_index: 1,
                }
            })
            .collect(),
        blocks: (0..blocks).map(record).collect(),
        next_node_id: nodes + 1,
        catalogue_revision: 1,
        replicas: 3,
        ..MetaState::default()
    }
}

pub(crate) fn holding(state: &MetaState) -> MetaMachine {
    let mut records = Records::default();
    let without_blocks = MetaState {
        blocks: Vec::new(),
        ..state.clone()
    };
    records.put(b"state", &without_blocks.encode_to_vec());
    for block in &state.blocks {
        records.put(format!("block/{}", block.id).as_bytes(), &block.encode_to_vec());
    }
    let machine = MetaMachine::default();
    machine.restore(&records).unwrap();
    machine
}

#[test]
fn leases_of_many_nodes_are_shown_together_and_everything_else_at_once() {
    let machine = holding(&large(40, 4, 0));
    let mut shown = machine.watch();
    shown.borrow_and_update();
    let mut times = 0;
    for node in 1..=40 {
        run(&machine, &[(1, renew(node, 1, LEASE_MS), "")]);
        times += usize::from(shown.has_changed().unwrap());
        shown.borrow_and_update();
    }
    assert_eq!(times, 4, "while each lease gets longer once");
    // What somebody waits for is shown with all that was before it.
    run(&machine, &[(2, renew(1, 1, LEASE_MS), "")]);
    assert!(!shown.has_changed().unwrap());
    let answer = machine.apply_command(&at(2, acquire("job", 1, 10)));
    assert_eq!(shown.borrow_and_update().revision, answer.revision);
    // So it is with one that changes nothing.
    run(&machine, &[(3, renew(1, 1, LEASE_MS), "")]);
    assert!(!shown.has_changed().unwrap());
    let answer = machine.apply_command(&at(3, Command::RaiseFeatureLevel(RaiseFeatureLevel { level: 1 })));
    assert_eq!(shown.borrow_and_update().revision, answer.revision);
    // In a small cluster each is.
    let small = holding(&large(7, 4, 0));
    let mut shown = small.watch();
    shown.borrow_and_update();
    run(&small, &[(1, renew(1, 1, LEASE_MS), "")]);
    assert!(shown.has_changed().unwrap());
}

#[test]
fn nodes_that_are_gone_make_nobody_wait_for_the_leases_of_the_others() {
    let mut state = large(63, 4, 0);
    for gone in &mut state.nodes[3..] {
        gone.lease_until_ms = LEASE_MS - 100_000;
    }
    let machine = holding(&state);
    let mut shown = machine.watch();
    shown.borrow_and_update();
    for node in 1..=3 {
        run(&machine, &[(1, renew(node, 1, LEASE_MS), "")]);
        assert!(shown.has_changed().unwrap(), "node {node}");
        shown.borrow_and_update();
    }
}

#[test]
fn a_clock_that_wanders_a_little_is_noted_and_shown_with_the_next() {
    let mut state = large(40, 4, 0);
    state.feature_level = 5;
    for node in &mut state.nodes {
        node.feature_level = 5;
    }
    let machine = holding(&state);
    let mut shown = machine.watch();
    shown.borrow_and_update();
    // A step of a second, and one across a minute, from which a clock counts as wrong.
    let told = [
        (900, false),
        (1_500, false),
        (3_000, true),
        (59_900, true),
        (60_100, true),
    ];
    for (clock_off_ms, is_news) in told {
        let renewal = RenewLease {
            node: 1,
            incarnation: 1,
            lease_ms: LEASE_MS,
            clock_off_ms,
        };
        run(&machine, &[(1, Command::RenewLease(renewal), "")]);
        assert_eq!(machine.state().nodes[0].clock_off_ms, clock_off_ms);
        assert_eq!(shown.has_changed().unwrap(), is_news, "{clock_off_ms} ms");
        shown.borrow_and_update();
    }
}

/// The least of some runs, milliseconds.
fn least_ms(mut what: impl FnMut()) -> f64 {
    let once = |_| {
        let began = tokio::time::Instant::now();
        what();
        began.elapsed().as_secs_f64() * 1e3
    };
    (0..5).map(once).fold(f64::INFINITY, f64::min)
}

fn print(what: &str, ms: f64) {
    println!("| {what} | {ms:.2} ms |");
}

/// Prints what docs/capacity.md says of the metadata group.
/// `cargo test --workspace --release --lib -- --ignored --nocapture meta::tests::large`
#[test]
#[ignore = "a measurement"]
fn what_the_state_of_a_thousand_nodes_costs() {
    let state = large(1_000, 4_000, 200_000);
    let (encoded, without) = (
        state.encoded_len(),
        MetaState {
            blocks: Vec::new(),
            ..state.clone()
        }
        .encoded_len(),
    );
    println!("| 1,000 nodes, 4,000 shards, 200,000 blocks | |\n|---|---:|");
    println!(
        "| the state, encoded (a checkpoint) | {:.1} MiB |",
        encoded as f64 / 1_048_576.0
    );
    println!("| … without blocks | {:.0} KiB |", without as f64 / 1_024.0);
    let machine = holding(&state);
    print(
        "to copy the state",
        least_ms(|| drop(std::hint::black_box(state.clone()))),
    );
    print(
        "to encode it",
        least_ms(|| drop(std::hint::black_box(state.encode_to_vec()))),
    );
    let bytes = state.encode_to_vec();
    print(
        "to decode it",
        least_ms(|| drop(std::hint::black_box(MetaState::decode(bytes.as_slice())))),
    );
    let (mut now_ms, mut node) = (1, 0);
    let mut renewal = || {
        (now_ms, node) = (now_ms + 1, node % 1_000 + 1);
        machine.apply_command(&at(now_ms, renew(node, 1, LEASE_MS)));
    };
    renewal();
    let thousand = least_ms(|| (0..1_000).for_each(|_| renewal()));
    print("to apply the renewals of 1,000 leases (5 s of them)", thousand);
    let mut job = 0;
    let one = least_ms(|| {
        job += 1;
        machine.apply_command(&at(1, acquire(&format!("job-{job}"), 1, 10)));
    });
    print("to apply any other command, once the state before it was shown", one);
    let mut number = 1_000_000;
    let staged = least_ms(|| {
        number += 1;
        let mut block = block(number, &[number], &[]);
        block.shard = 1;
        let stage = StageBlock {
            block: Some(block),
            cap_bytes: 0,
        };
        assert_eq!(machine.apply_command(&at(1, Command::StageBlock(stage))).refused, "");
    });
    print("to stage a block", staged);
    let mut records = Records::default();
    machine.flush(&mut records).unwrap();
    machine.flushed(1);
    machine.apply_command(&at(1, acquire("again", 1, 10)));
    print("to flush one change", least_ms(|| machine.flush(&mut records).unwrap()));
    let rules = Rules::after(600_000);
    print(
        "the assigner, where nothing is to be moved",
        least_ms(|| drop(plan(&state, 1, &rules))),
    );
    let mut gone = state.clone();
    gone.nodes[0].lease_until_ms = -10_000_000;
    let changes = plan(&gone, 1, &rules).len();
    print(
        &format!("the assigner, after a node was given up ({changes} changes)"),
        least_ms(|| drop(plan(&gone, 1, &rules))),
    );
    print(
        "the map of shards of a router",
        least_ms(|| drop(std::hint::black_box(Placement::in_force(&state)))),
    );
}
