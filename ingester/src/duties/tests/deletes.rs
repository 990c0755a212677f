//! From the catalogue into the log, and into the blocks of parts that were sealed before.

use super::*;
use gnomon_model::Matcher;
use gnomon_proto::v1::{AddTombstone, RaiseFeatureLevel, TombstoneRecord};
use gnomon_tsdb::BlockReader;
use object_store::path::Path;

impl Rig {
    fn commit(&self, change: Change) -> MetaResponse {
        let response = self.meta.machine.apply_command(&MetaCommand {
            proposed_at_ms: NOW,
            command: Some(change),
        });
        assert_eq!(response.refused, "");
        response
    }

    /// Records a delete of all samples of a metric in a range.
    fn record_delete(&self, name: &str, start_ms: i64, end_ms: i64) -> u64 {
        self.commit(Change::RaiseFeatureLevel(RaiseFeatureLevel { level: 2 }));
        let sets = [vec![Matcher::equal("__name__", name)]];
        let tombstone = TombstoneRecord {
            path: format!("anonymous/tombstones/{name}-{start_ms}"),
            tenant: "anonymous".into(),
            series: gnomon_proto::matchers::sets_to_wire(&sets),
            start_ms,
            end_ms,
            ..TombstoneRecord::default()
        };
        let add = AddTombstone {
            tombstone: Some(tombstone),
        };
        self.commit(Change::AddTombstone(add)).tombstone_revision
    }

    fn pending(&self) -> Vec<Vec<u32>> {
        let state = self.meta.machine.state();
        state.tombstones.iter().map(|t| t.pending_shards.clone()).collect()
    }

    async fn series(&self, view_revision: u64) -> Vec<String> {
        let view = View {
            catalogue_revision: view_revision,
            parts_from_blocks: Vec::new(),
            ..View::default()
        };
        self.node.read(view).await.unwrap().into_keys().collect()
    }
}

#[tokio::test]
async fn deletes_come_into_the_log_in_their_order_and_the_catalogue_is_told() {
    let mut rig = Rig::new(WriteOptions::default());
    for name in ["a", "b", "c"] {
        rig.sample(name, NOW, 1.0).await.unwrap();
    }
    let first = rig.record_delete("a", NOW, NOW);
    let second = rig.record_delete("b", NOW + 1, i64::MAX);
    assert!(second > first);
    assert_eq!(rig.pending(), [[0], [0]]);
    rig.node.log.leads.store(false, std::sync::atomic::Ordering::Relaxed);
    rig.duties.take_deletes().await;
    assert_eq!(rig.pending(), [[0], [0]], "who does not lead proposes nothing");
    rig.node.log.leads.store(true, std::sync::atomic::Ordering::Relaxed);
    *rig.meta.lost_answers.lock() = 1;
    rig.duties.take_deletes().await;
    rig.duties.take_deletes().await;
    assert_eq!(rig.pending(), [[0_u32; 0], []]);
    assert_eq!(rig.series(second).await, [r#"{__name__="b"}"#, r#"{__name__="c"}"#]);
    let old = rig.node.read(View::default()).await.unwrap_err();
    assert_eq!(old, ServiceError::StaleView { revision: second });
    // Later samples are not touched, whatever is looked at again.
    rig.sample("a", NOW, 2.0).await.unwrap();
    rig.duties.round().await;
    assert_eq!(rig.series(second).await.len(), 3);
}

#[tokio::test]
async fn what_was_deleted_of_a_sealed_part_is_not_in_its_block() {
    let mut rig = Rig::new(WriteOptions::default());
    rig.sample("a", NOW, 1.0).await.unwrap();
    rig.sample("b", NOW, 1.0).await.unwrap();
    rig.sample("b", NOW + 1, 1.0).await.unwrap();
    let down = Faults {
        refused: 1.0,
        ..Faults::default()
    };
    let bucket = FaultyStore::new(rig.bucket.clone(), 1, down);
    rig.duties.context.bucket = Arc::new(bucket.clone());
    rig.pass(Duration::from_millis(WINDOW_MS as u64 + 3_600_000)).await;
    assert_eq!(rig.sealed(), [1]);
    rig.record_delete("a", i64::MIN, i64::MAX);
    let revision = rig.record_delete("b", NOW + 1, NOW + 1);
    rig.duties.take_deletes().await;
    assert_eq!(rig.series(revision).await, [r#"{__name__="b"}"#]);
    bucket.set(Faults::default());
    rig.pass(Duration::from_secs(120)).await;
    let live = rig.blocks(State::Live);
    assert_eq!((live.len(), live[0].samples, live[0].series), (1, 1, 1));
    assert_eq!((live[0].tombstone_revision, live[0].max_sample_ms), (revision, NOW));
    let block = BlockReader::open(rig.bucket.clone(), Path::from(live[0].path.as_str()))
        .await
        .unwrap();
    assert_eq!(block.meta().tombstone_revision, revision);
    assert!(
        rig.node
            .log
            .machine
            .read(|s| s.head(&TenantId::anonymous()).unwrap().deletes.is_empty())
    );
}

#[tokio::test]
async fn a_part_of_which_nothing_is_left_has_no_block() {
    let mut rig = Rig::new(WriteOptions::default());
    rig.sample("a", NOW, 1.0).await.unwrap();
    let down = Faults {
        refused: 1.0,
        ..Faults::default()
    };
    let bucket = FaultyStore::new(rig.bucket.clone(), 1, down);
    rig.duties.context.bucket = Arc::new(bucket.clone());
    rig.pass(Duration::from_millis(WINDOW_MS as u64 + 3_600_000)).await;
    rig.record_delete("a", i64::MIN, i64::MAX);
    bucket.set(Faults::default());
    rig.pass(Duration::from_secs(120)).await;
    assert!(rig.sealed().is_empty());
    assert!(rig.blocks(State::Live).is_empty() && rig.blocks(State::Staged).is_empty());
}

#[tokio::test]
async fn a_new_shard_of_an_old_catalogue_begins_after_its_parts_and_deletes() {
    // What another shard of this number left: its block, and a delete that it has taken.
    let mut block = gnomon_proto::v1::BlockRecord {
        id: "000000000000000000000000000000aa".into(),
        tenant: "anonymous".into(),
        start_ms: 0,
        end_ms: 1,
        bytes: 10,
        parts: vec![3, 7],
        path: "x".into(),
        ..Default::default()
    };
    block.set_state(State::Live);
    let adopt = Change::AdoptCatalogue(gnomon_proto::v1::AdoptCatalogue {
        blocks: vec![block],
        ..Default::default()
    });
    let mut rig = Rig::founded_after(Some(adopt), WriteOptions::default());
    let revision = rig.record_delete("a", i64::MIN, i64::MAX);
    let told = gnomon_proto::v1::TombstonesApplied { shard: 0, revision };
    rig.commit(Change::TombstonesApplied(told));
    rig.sample("a", NOW, 1.0).await.unwrap();
    rig.pass(Duration::from_millis(WINDOW_MS as u64 + 3_600_000)).await;
    let live = rig.blocks(State::Live);
    let own = live.iter().find(|b| b.parts == [8]).unwrap();
    assert_eq!((live.len(), own.samples, own.tombstone_revision), (2, 1, revision));
}
