//! Deletes are carried out as blocks are merged, or when it is asked for, and are forgotten then.

use super::*;
use gnomon_model::{MatchOp, Matcher};
use gnomon_proto::v1::{
    AddTombstone, CleanTombstones, ForgetTombstones, RaiseFeatureLevel, TombstoneRecord, TombstonesApplied,
};
use gnomon_tsdb::bucket::tombstone_path;
use gnomon_tsdb::deletes::TombstoneObject;
use proptest::prelude::*;
use std::collections::BTreeSet;

impl World {
    /// Records a delete that the log of the shard takes at once; gives its revision.
    pub(super) async fn delete(&self, metric: &str, start_ms: i64, end_ms: i64) -> u64 {
        let revision = self.record_delete(metric, start_ms, end_ms).await;
        let told = TombstonesApplied { shard: 0, revision };
        propose(&self.meta, Command::TombstonesApplied(told)).await;
        revision
    }

    async fn record_delete(&self, metric: &str, start_ms: i64, end_ms: i64) -> u64 {
        propose(&self.meta, Command::RaiseFeatureLevel(RaiseFeatureLevel { level: 2 })).await;
        let path = tombstone_path(&TenantId::anonymous(), BlockId(self.state().revision.into()));
        self.memory.put(&path, b"x".as_slice().into()).await.unwrap();
        let matcher = Matcher::new("__name__", MatchOp::Regex, metric).unwrap();
        let tombstone = TombstoneRecord {
            path: path.to_string(),
            tenant: "anonymous".into(),
            series: gnomon_proto::matchers::sets_to_wire(&[vec![matcher]]),
            start_ms,
            end_ms,
            ..TombstoneRecord::default()
        };
        let add = AddTombstone {
            tombstone: Some(tombstone),
        };
        propose(&self.meta, Command::AddTombstone(add)).await.tombstone_revision
    }

    async fn clean(&self) {
        propose(&self.meta, Command::CleanTombstones(CleanTombstones {})).await;
    }

    /// After all graces.
    pub(super) async fn settle(&self) {
        for _ in 0..3 {
            self.cycle().await.unwrap();
            self.clock.advance(Duration::from_secs(61));
        }
    }
}

#[tokio::test]
async fn a_merge_carries_out_deletes_in_what_was_there_before_them_only() {
    let world = World::new(0, settings()).await;
    world.add_part(1, 0, 0, 1).await;
    world.add_part(2, 2 * H, 0, 2).await;
    let revision = world.delete("m00.", 0, 2 * H + 60_000).await;
    // The same times again, written after the delete, and a part that was sealed before and uploaded after it.
    world.add_part_as_of(revision, 4, 0, 0, 4).await;
    world.add_part(3, 0, 19 * 60_000, 3).await;
    let expected: Data = {
        let all = world.data().await;
        let is_gone = |name: &str, at: i64, bits: u64| {
            let later = f64::from_bits(bits) >= 4000.0;
            name < "m010" && at <= 2 * H + 60_000 && !later
        };
        let mut kept: Data = all.into_iter().filter(|((n, t), v)| !is_gone(n, *t, *v)).collect();
        // Where the newest of two samples of one instant is all that is left, it is the one that counts.
        for series in 0..10 {
            for i in 0..20 {
                let key = (format!("m{series:03}"), i * 60_000);
                kept.insert(key, ((4000 + series) as f64).to_bits());
            }
        }
        kept
    };
    world.at(100);
    world.settle().await;
    let live = world.live();
    assert_eq!((live.len(), live[0].tombstone_revision), (1, revision));
    assert_eq!(world.data().await, expected);
    // Nothing is masked any more: the delete is forgotten, and its object gone.
    assert_eq!((world.state().tombstones.len(), world.objects().await), (0, 1));
    assert_eq!(world.state().forgotten_tombstone_revision, revision);
}

#[tokio::test]
async fn cleaning_writes_masked_blocks_anew_and_no_others() {
    let mut alone = settings();
    alone.policy.max_merge_bytes = 0;
    let world = World::new(0, alone).await;
    for (number, window) in [(1, 0), (2, 2), (3, 4)] {
        world.add_part(number, window * H, 0, number).await;
    }
    let before = world.live();
    let revision = world.delete("m00.", 0, H).await;
    world.delete(".*", 2 * H, 4 * H - 1).await;
    world.at(100);
    world.settle().await;
    assert_eq!(world.live(), before, "nobody asked for it");
    assert_eq!(world.state().tombstones.len(), 2);
    world.clean().await;
    world.compactor.look(&CancellationToken::new()).await.unwrap();
    let after = world.live();
    // The second window has nothing left; the third was never masked.
    assert_eq!(
        after.iter().map(|b| b.parts[0]).collect::<BTreeSet<_>>(),
        BTreeSet::from([1, 3])
    );
    let first = after.iter().find(|b| b.parts == [1]).unwrap();
    assert_eq!((first.samples, first.series, first.level), (1800, 90, 0));
    assert!(first.tombstone_revision >= revision);
    assert!(after.contains(before.iter().find(|b| b.parts == [3]).unwrap()));
    world.settle().await;
    assert!(world.state().tombstones.is_empty());
    assert_eq!((world.state().blocks.len(), world.objects().await), (2, 2));
}

#[tokio::test]
async fn what_forgotten_deletes_mask_does_not_come_back() {
    let world = World::new(0, settings()).await;
    world.add_part(1, 0, 0, 1).await;
    let revision = world.record_delete("m000", 0, H).await;
    let forget = || {
        Command::ForgetTombstones(ForgetTombstones {
            revisions: vec![revision],
        })
    };
    let refusal = async |command| {
        let command = MetaCommand {
            proposed_at_ms: 0,
            command: Some(command),
        };
        world.meta.propose(command).await.unwrap().refused
    };
    assert!(refusal(forget()).await.contains("the log of shard 0 does not have"));
    let told = TombstonesApplied { shard: 0, revision };
    propose(&world.meta, Command::TombstonesApplied(told)).await;
    assert!(refusal(forget()).await.contains("masks block"));
    world.clean().await;
    world.at(100);
    world.settle().await;
    assert!(world.state().tombstones.is_empty());
    // A leader that was deposed long ago still has a part, and does not know of the delete.
    let late = BlockRecord {
        id: BlockId(77).to_string(),
        tenant: "anonymous".into(),
        end_ms: 2 * H,
        parts: vec![7],
        path: "late".into(),
        ..BlockRecord::default()
    };
    let stage = Command::StageBlock(StageBlock {
        block: Some(late),
        cap_bytes: 0,
    });
    let refused = refusal(stage).await;
    assert!(refused.contains("are forgotten"), "{refused}");
}

/// Whoever deleted ended after the delete was recorded: its object is made to say which it is.
#[tokio::test]
async fn objects_of_deletes_say_their_revisions() {
    let world = World::new(0, settings()).await;
    world.add_part(1, 0, 0, 1).await;
    let revision = world.record_delete("m000", 0, H).await;
    let path = Path::from(world.state().tombstones[0].path.as_str());
    let object = TombstoneObject {
        cluster: CLUSTER.parse().unwrap(),
        after_revision: revision - 1,
        revision: None,
        tenant: TenantId::anonymous(),
        sets: vec![vec![Matcher::equal("a", "b")]],
        start_ms: 0,
        end_ms: H,
    };
    world.memory.put(&path, object.encode().unwrap().into()).await.unwrap();
    world.cycle().await.unwrap();
    let bytes = world.memory.get(&path).await.unwrap().bytes().await.unwrap();
    let read = TombstoneObject::decode(&bytes).unwrap();
    assert_eq!(read.revision, Some(revision));
    assert_eq!(TombstoneObject { revision: None, ..read }, object);
}

#[derive(Clone, Debug)]
enum Step {
    Part {
        window: u8,
        offset: u8,
    },
    /// A part that was sealed before the newest delete and comes after it.
    OldPart {
        window: u8,
        offset: u8,
    },
    Delete {
        ones: u8,
        from: i64,
        length: i64,
    },
    Clean,
    Cycle,
    Hours(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..4_u8, 0..3_u8).prop_map(|(window, offset)| Step::Part { window, offset }),
        2 => (0..4_u8, 0..3_u8).prop_map(|(window, offset)| Step::OldPart { window, offset }),
        3 => (0..11_u8, 0..8 * H, 0..8 * H).prop_map(|(ones, from, length)| Step::Delete { ones, from, length }),
        1 => Just(Step::Clean),
        3 => Just(Step::Cycle),
        1 => (1..9_i64).prop_map(Step::Hours),
    ]
}

/// What readers see: every block without the deletes that mask it, the earlier part before the later one.
async fn seen(world: &World) -> Data {
    let known = gnomon_cluster::deletes::KnownDeletes::default();
    let state = world.state();
    let mut records = world.live();
    records.sort_by(|a, b| b.parts.cmp(&a.parts));
    let mut data = Data::new();
    for record in records {
        let reader = BlockReader::open(world.memory.clone(), Path::from(record.path.as_str()));
        let reader = Arc::new(reader.await.unwrap());
        let deletes = known.masking(&state.tombstones, &record).unwrap();
        let mut all = reader.select(&[], i64::MIN, i64::MAX).await.unwrap().without(deletes);
        while let Some(series) = all.next().await.unwrap() {
            for page in series.pages {
                let (mut timestamps, mut values) = (Vec::new(), Vec::new());
                decode_into(&page.bytes, &mut timestamps, &mut values).unwrap();
                let name = series.labels.metric_name();
                let samples = timestamps.iter().zip(values);
                data.extend(samples.map(|(t, v)| ((name.to_owned(), *t), v.to_bits())));
            }
        }
    }
    data
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Every part is written with its own values; a sample counts from the earliest part that was not masked when it came.
    #[test]
    fn no_deleted_sample_comes_back_and_no_other_is_lost(steps in prop::collection::vec(step(), 1..24)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new(0, settings()).await;
            // Of each part what is left of it, by part number.
            let mut parts: BTreeMap<u64, Data> = BTreeMap::new();
            let (mut number, mut hours, mut newest, mut before) = (0, 20, 0, 0);
            let mut deletes: Vec<(u64, u8, i64, i64)> = Vec::new();
            world.at(hours);
            for step in &steps {
                match step {
                    Step::Part { window, offset } | Step::OldPart { window, offset } => {
                        number += 1;
                        let is_old = matches!(step, Step::OldPart { .. })
                            && before >= world.state().forgotten_tombstone_revision;
                        let revision = if is_old { before } else { newest };
                        let start = i64::from(*window) * 2 * H;
                        let offset_ms = i64::from(*offset) * 10 * 60_000;
                        world.add_part_as_of(revision, number, start, offset_ms, number).await;
                        let mut data = Data::new();
                        for series in 0..100 {
                            for i in 0..20 {
                                let at = start + offset_ms + i * 60_000;
                                let masked = deletes.iter().any(|(of, ones, from, to)| {
                                    *of > revision
                                        && (*from..=*to).contains(&at)
                                        && (*ones == 10 || series % 10 == u64::from(*ones))
                                });
                                if !masked {
                                    let value = (number * 1000 + series) as f64;
                                    data.insert((format!("m{series:03}"), at), value.to_bits());
                                }
                            }
                        }
                        parts.insert(number, data);
                    }
                    Step::Delete { ones, from, length } => {
                        let metric = if *ones == 10 { ".*".to_owned() } else { format!("m..{ones}") };
                        before = newest;
                        newest = world.delete(&metric, *from, from + length).await;
                        deletes.push((newest, *ones, *from, from + length));
                        let is_gone = |name: &str, at: i64| {
                            (*from..=from + length).contains(&at) && (*ones == 10 || name.ends_with(&ones.to_string()))
                        };
                        for data in parts.values_mut() {
                            data.retain(|(name, at), _| !is_gone(name, *at));
                        }
                    }
                    Step::Clean => world.clean().await,
                    Step::Cycle => world.cycle().await.unwrap(),
                    Step::Hours(more) => {
                        hours += more;
                        world.at(hours);
                    }
                }
                let mut expected = Data::new();
                for data in parts.values().rev() {
                    expected.extend(data.clone());
                }
                assert_eq!(seen(&world).await, expected, "after {step:?}");
            }
            world.clean().await;
            world.settle().await;
            assert!(world.state().tombstones.is_empty());
        });
    }
}
