//! Deletes: their revisions, who waits for them, when they go; and taking over a catalogue that was left.

use super::*;

/// Applies; the revision of a delete, or why not.
fn told(machine: &MetaMachine, command: Command) -> Result<u64, String> {
    let response = machine.apply_command(&at(5, command));
    match response.refused.as_str() {
        "" => Ok(response.tombstone_revision),
        why => Err(why.to_owned()),
    }
}

pub(super) fn tombstone(path: &str, value: &str) -> Command {
    let matcher = LabelMatcher {
        name: "a".into(),
        value: value.into(),
        ..LabelMatcher::default()
    };
    Command::AddTombstone(AddTombstone {
        tombstone: Some(TombstoneRecord {
            path: path.into(),
            tenant: "anonymous".into(),
            series: vec![MatcherSet {
                matchers: vec![matcher],
            }],
            start_ms: 0,
            end_ms: 10,
            ..TombstoneRecord::default()
        }),
    })
}

pub(super) fn applied(shard: u32, revision: u64) -> Command {
    Command::TombstonesApplied(TombstonesApplied { shard, revision })
}

pub(super) fn forget(revisions: &[u64]) -> Command {
    Command::ForgetTombstones(ForgetTombstones {
        revisions: revisions.to_vec(),
    })
}

fn ready() -> MetaMachine {
    let machine = MetaMachine::default();
    told(&machine, init()).unwrap();
    machine
}

#[test]
fn a_delete_has_the_catalogues_revision_and_waits_for_all_shards() {
    let machine = ready();
    let refused = told(&machine, tombstone("p", "b")).unwrap_err();
    assert!(refused.contains("feature level 1"), "{refused}");
    told(&machine, Command::RaiseFeatureLevel(RaiseFeatureLevel { level: 2 })).unwrap();
    let first = told(&machine, tombstone("p", "b")).unwrap();
    assert_eq!((first, machine.state().catalogue_revision), (1, 1));
    assert_eq!(told(&machine, tombstone("p", "b")), Ok(1), "the same attempt again");
    let second = told(&machine, tombstone("q", "b")).unwrap();
    assert_eq!(second, 2);
    told(&machine, applied(1, second)).unwrap();
    told(&machine, applied(0, first)).unwrap();
    let pending: Vec<_> = machine
        .state()
        .tombstones
        .iter()
        .map(|t| t.pending_shards.clone())
        .collect();
    assert_eq!(pending, [vec![], vec![0]]);
    assert!(
        told(&machine, forget(&[first, second]))
            .unwrap_err()
            .contains("shard 0")
    );
    assert_eq!(machine.state().tombstones.len(), 2, "all or none");
    told(&machine, forget(&[first])).unwrap();
    assert_eq!(machine.state().forgotten_tombstone_revision, first);
}

#[test]
fn what_is_too_much_is_refused() {
    let machine = ready();
    told(&machine, Command::RaiseFeatureLevel(RaiseFeatureLevel { level: 2 })).unwrap();
    let long = "x".repeat(crate::meta::MAX_DELETE_BYTES);
    assert!(told(&machine, tombstone("long", &long)).is_err());
    for n in 0..crate::meta::MAX_TOMBSTONES {
        told(&machine, tombstone(&format!("p{n}"), "b")).unwrap();
    }
    assert!(
        told(&machine, tombstone("one more", "b"))
            .unwrap_err()
            .contains("clean_tombstones")
    );
    let machine = ready();
    told(&machine, Command::RaiseFeatureLevel(RaiseFeatureLevel { level: 2 })).unwrap();
    let much = "x".repeat(60 << 10);
    let taken = (0..100).take_while(|n| told(&machine, tombstone(&format!("p{n}"), &much)).is_ok());
    assert_eq!(taken.count(), 17);
}

#[test]
fn a_block_of_any_state_keeps_the_delete_that_masks_it() {
    let machine = ready();
    told(&machine, Command::RaiseFeatureLevel(RaiseFeatureLevel { level: 2 })).unwrap();
    told(&machine, stage(1, &[1], &[])).unwrap();
    let revision = told(&machine, tombstone("p", "b")).unwrap();
    for shard in [0, 1] {
        told(&machine, applied(shard, revision)).unwrap();
    }
    for step in [publish(1, &[1], &[]), condemn(&[1])] {
        assert!(told(&machine, forget(&[revision])).unwrap_err().contains("masks block"));
        told(&machine, step).unwrap();
    }
    assert!(told(&machine, forget(&[revision])).is_err(), "its object may be there");
    told(&machine, Command::ForgetBlocks(ForgetBlocks { ids: vec![id(1)] })).unwrap();
    told(&machine, forget(&[revision])).unwrap();
    assert!(
        told(&machine, stage(2, &[2], &[]))
            .unwrap_err()
            .contains("are forgotten")
    );
}

/// A delete of other times that is forgotten while a block is written is nothing to the block.
#[test]
fn a_finished_block_is_published_whatever_was_forgotten_elsewhere() {
    let machine = ready();
    told(&machine, Command::RaiseFeatureLevel(RaiseFeatureLevel { level: 2 })).unwrap();
    told(&machine, stage(1, &[1], &[])).unwrap();
    let Command::AddTombstone(mut elsewhere) = tombstone("p", "b") else {
        unreachable!()
    };
    let record = elsewhere.tombstone.as_mut().unwrap();
    (record.start_ms, record.end_ms) = (i64::MAX - 1, i64::MAX);
    let revision = told(&machine, Command::AddTombstone(elsewhere)).unwrap();
    for shard in [0, 1] {
        told(&machine, applied(shard, revision)).unwrap();
    }
    told(&machine, forget(&[revision])).unwrap();
    assert_eq!(machine.state().forgotten_tombstone_revision, revision);
    told(&machine, publish(1, &[1], &[])).unwrap();
    // One that says less than when it was staged is another.
    let mut less = block(2, &[2], &[]);
    less.tombstone_revision = revision;
    let staging = StageBlock {
        block: Some(less.clone()),
        cap_bytes: 0,
    };
    told(&machine, Command::StageBlock(staging)).unwrap();
    less.tombstone_revision = revision - 1;
    let refused = told(&machine, Command::PublishBlock(PublishBlock { block: Some(less) })).unwrap_err();
    assert!(refused.contains("when it was staged"), "{refused}");
}

#[test]
fn a_catalogue_is_taken_over_before_the_cluster_begins_and_not_later() {
    let machine = MetaMachine::default();
    let mut left = block(7, &[4, 9], &[]);
    left.set_state(State::Live);
    let adopt = |blocks: Vec<BlockRecord>| {
        Command::AdoptCatalogue(AdoptCatalogue {
            blocks,
            tombstones: Vec::new(),
            catalogue_revision: 30,
            forgotten_tombstone_revision: 12,
        })
    };
    assert!(
        told(&machine, adopt(vec![block(8, &[1], &[])]))
            .unwrap_err()
            .contains("not live")
    );
    for _ in 0..2 {
        told(&machine, adopt(vec![left.clone()])).unwrap();
    }
    told(&machine, Command::RaiseFeatureLevel(RaiseFeatureLevel { level: 6 })).unwrap();
    told(&machine, init()).unwrap();
    let state = machine.state();
    assert_eq!((state.blocks.len(), state.forgotten_tombstone_revision), (1, 12));
    assert_eq!(state.feature_level, 6, "and an older build does not come in");
    assert!(told(&machine, node(0, 1)).unwrap_err().contains("feature level 6"));
    assert!(state.catalogue_revision >= 30);
    assert!(
        told(&machine, adopt(Vec::new()))
            .unwrap_err()
            .contains("this is cluster")
    );
    // A block of a shard that there is not.
    let machine = MetaMachine::default();
    left.shard = 5;
    told(&machine, adopt(vec![left])).unwrap();
    assert!(told(&machine, init()).unwrap_err().contains("shard 5"));
}
