//! Parts and the retention in force, and what attempts leave that did not come to their end.

use super::*;
use gnomon_cluster::retention::{Budget, Retention, charged_bytes, used_bytes};
use gnomon_model::{BlockId, ShardId, TimestampMs};
use gnomon_proto::v1::{BlockRecord, CondemnBlocks, ForgetBlocks, PublishBlock, StageBlock};
use gnomon_tsdb::bucket::block_path;
use object_store::path::Path;

/// What the copies of a small catalogue count for.
const COPIES: u64 = 6 * 4096;
const DUE: Duration = Duration::from_millis(WINDOW_MS as u64 + 3_600_000);

impl Rig {
    fn keep(&mut self, time_ms: Option<i64>, room_for_blocks: Option<u64>) {
        self.duties.context.budget = Budget::fixed(Retention {
            time_ms,
            size_bytes: room_for_blocks.map(|bytes| bytes + COPIES),
        });
    }

    fn change(&self, change: Change) {
        let answer = self.meta.machine.apply_command(&MetaCommand {
            proposed_at_ms: NOW,
            command: Some(change),
        });
        assert_eq!(answer.refused, "");
    }

    /// What the compactor does after a while.
    async fn collect_garbage(&self) {
        let condemned = self.blocks(State::Condemned);
        for block in &condemned {
            let _ = self.bucket.delete(&Path::from(block.path.as_str())).await;
        }
        let ids = condemned.into_iter().map(|b| b.id).collect();
        self.change(Change::ForgetBlocks(ForgetBlocks { ids }));
    }

    async fn bucket_bytes(&self) -> u64 {
        use futures::TryStreamExt;
        let all: Vec<_> = self.bucket.list(None).try_collect().await.unwrap();
        all.iter().map(|o| charged_bytes(o.size)).sum()
    }

    fn used(&self) -> u64 {
        used_bytes(&self.meta.machine.state().blocks)
    }

    /// A part of one sample, of the window that is open now.
    async fn next_part(&mut self) {
        let at = self.node.clock.now().0;
        self.sample("a", at, 1.0).await.unwrap();
        self.pass(DUE).await;
    }

    /// As a leader of the part's shard stages it.
    fn record(&self, part: u64) -> BlockRecord {
        let id = BlockId(rand::random());
        let start = window();
        BlockRecord {
            id: id.to_string(),
            tenant: "anonymous".into(),
            start_ms: start,
            end_ms: start + WINDOW_MS,
            bytes: 100_000,
            parts: vec![part],
            path: block_path(&TenantId::anonymous(), ShardId(0), TimestampMs(start), id).to_string(),
            ..BlockRecord::default()
        }
    }

    fn stage(&self, block: &BlockRecord) {
        self.change(Change::StageBlock(StageBlock {
            block: Some(block.clone()),
            cap_bytes: 0,
        }));
    }
}

#[tokio::test]
async fn the_oldest_blocks_make_room_and_a_part_waits_for_their_bytes() {
    let mut rig = Rig::new(WriteOptions::default());
    // One part while it is written (64 KiB and some), beside two that are stored.
    let room = charged_bytes((64 << 10) + 1000) + 2 * 4096;
    rig.keep(None, Some(room));
    for _ in 0..2 {
        rig.next_part().await;
    }
    assert_eq!(rig.blocks(State::Live).len(), 2);
    let oldest = rig.blocks(State::Live).into_iter().min_by_key(|b| b.start_ms).unwrap();
    rig.next_part().await;
    assert_eq!(rig.blocks(State::Live).len(), 3);
    rig.next_part().await;
    // Let go, and still there: nothing is uploaded yet, however long it takes.
    assert_eq!(
        rig.blocks(State::Condemned),
        [BlockRecord {
            state: State::Condemned as i32,
            since_ms: rig.blocks(State::Condemned)[0].since_ms,
            ..oldest
        }]
    );
    assert_eq!(rig.sealed().len(), 1);
    assert!(rig.used() <= room && rig.bucket_bytes().await <= room);
    assert_eq!(rig.node.metrics.upload_failures.get(), 0, "waiting is no failure");
    rig.collect_garbage().await;
    rig.pass(Duration::from_secs(10)).await;
    assert_eq!((rig.blocks(State::Live).len(), rig.sealed().len()), (3, 0));
    assert!(rig.used() <= room && rig.bucket_bytes().await <= room);
}

#[tokio::test]
async fn a_part_that_will_never_fit_is_let_go_and_readers_learn_of_it() {
    let mut rig = Rig::new(WriteOptions::default());
    rig.keep(None, Some(4096));
    rig.sample("a", NOW, 1.0).await.unwrap();
    let before = rig.meta.machine.state().catalogue_revision;
    rig.pass(DUE).await;
    assert!(rig.sealed().is_empty());
    assert!(rig.meta.machine.state().blocks.is_empty());
    assert_eq!(rig.node.metrics.parts_let_go.with_label_values(&["size"]).get(), 1);
    let now = View {
        catalogue_revision: before,
        parts_from_blocks: vec![],
        ..View::default()
    };
    assert!(rig.node.read(now).await.unwrap().is_empty());
    // Writing goes on.
    rig.sample("a", rig.node.clock.now().0, 2.0).await.unwrap();
}

#[tokio::test]
async fn what_is_older_than_the_retention_time_is_not_uploaded() {
    let mut rig = Rig::new(WriteOptions::default());
    rig.keep(Some(3_600_000), None);
    rig.sample("a", NOW, 1.0).await.unwrap();
    rig.pass(DUE + Duration::from_millis(WINDOW_MS as u64)).await;
    assert!(rig.sealed().is_empty() && rig.blocks(State::Live).is_empty());
    assert_eq!(rig.node.metrics.parts_let_go.with_label_values(&["time"]).get(), 1);
}

#[tokio::test]
async fn a_reservation_that_is_too_small_is_made_larger() {
    let mut rig = Rig::new(WriteOptions::default());
    let mut batch = builder();
    batch.begin_rows();
    for series in 0..40_u32 {
        // Labels that do not become shorter.
        let random: String = (0..4000)
            .map(|_| char::from(b'0' + rand::random::<u8>() % 75))
            .collect();
        let labels = Labels::from_pairs([("__name__", format!("m{series}")), ("long", random)]);
        let key = batch.new_series(labels.as_ref());
        batch.sample(key, NOW, 1.0);
    }
    rig.append(batch).await.unwrap();
    rig.pass(DUE).await;
    let live = rig.blocks(State::Live);
    assert_eq!((live.len(), rig.sealed().len()), (1, 0));
    assert!(live[0].bytes > 40 * 300 + (64 << 10), "{}", live[0].bytes);
    assert!(
        rig.node.metrics.upload_failures.get() > 0,
        "the first reservation did not do"
    );
    assert_eq!(rig.meta.machine.state().blocks.len(), 1);
    assert_eq!(
        rig.bucket_bytes().await,
        charged_bytes(live[0].bytes),
        "nothing was left behind"
    );
}

/// A leader died after it staged a block; another after it had uploaded one as well.
#[tokio::test]
async fn a_new_leader_clears_away_what_the_old_one_left() {
    for uploaded in [false, true] {
        let mut rig = Rig::new(WriteOptions::default());
        rig.sample("a", NOW, 1.0).await.unwrap();
        let left = rig.record(1);
        rig.stage(&left);
        if uploaded {
            let path = Path::from(left.path.as_str());
            rig.bucket.put(&path, "whatever was in it".into()).await.unwrap();
        }
        rig.pass(DUE).await;
        let all = rig.meta.machine.state().blocks.clone();
        assert_eq!((all.len(), all[0].state(), rig.sealed().len()), (1, State::Live, 0));
        assert_ne!(all[0].id, left.id);
        assert_eq!(rig.bucket_bytes().await, charged_bytes(all[0].bytes));
    }
}

/// While the store does not answer, attempts do not add up: neither records nor what they reserve.
#[tokio::test]
async fn an_outage_leaves_one_reservation() {
    let mut rig = Rig::new(WriteOptions::default());
    rig.sample("a", NOW, 1.0).await.unwrap();
    let outage = Faults {
        refused: 1.0,
        ..Faults::default()
    };
    let bucket = FaultyStore::new(rig.bucket.clone(), 1, outage);
    rig.duties.context.bucket = Arc::new(bucket.clone());
    rig.pass(DUE + Duration::from_secs(3600)).await;
    assert!(rig.node.metrics.upload_failures.get() > 5);
    assert_eq!(rig.meta.machine.state().blocks.len(), 1);
    bucket.set(Faults::default());
    rig.pass(Duration::from_secs(120)).await;
    assert_eq!(rig.meta.machine.state().blocks.len(), 1);
    assert_eq!(rig.blocks(State::Live).len(), 1);
}

/// The old leader publishes just when the new one gives its block up: it stays, and the part is in it alone.
#[tokio::test]
async fn two_leaders_publish_one_block() {
    let mut rig = Rig::new(WriteOptions::default());
    rig.sample("a", NOW, 1.0).await.unwrap();
    let mut old = rig.record(1);
    rig.stage(&old);
    rig.bucket
        .put(&Path::from(old.path.as_str()), "its block".into())
        .await
        .unwrap();
    (old.bytes, old.samples, old.series) = (9, 1, 1);
    let publish = Change::PublishBlock(PublishBlock {
        block: Some(old.clone()),
    });
    *rig.meta.before_condemning.lock() = Some(publish);
    rig.pass(DUE).await;
    let all = rig.meta.machine.state().blocks.clone();
    assert_eq!((all.len(), &all[0].id, all[0].state()), (1, &old.id, State::Live));
    assert!(rig.sealed().is_empty());
    assert!(rig.bucket.head(&Path::from(old.path.as_str())).await.is_ok());
    assert!(rig.meta.before_condemning.lock().is_none(), "the race took place");
}

/// A leader died after it had published, before it told the shard.
#[tokio::test]
async fn a_part_that_was_published_is_not_uploaded_again() {
    for gone_since in [false, true] {
        let mut rig = Rig::new(WriteOptions::default());
        rig.sample("a", NOW, 1.0).await.unwrap();
        let mut old = rig.record(1);
        rig.stage(&old);
        (old.bytes, old.samples, old.series) = (9, 1, 1);
        rig.change(Change::PublishBlock(PublishBlock {
            block: Some(old.clone()),
        }));
        if gone_since {
            // By retention, say.
            rig.change(Change::CondemnBlocks(CondemnBlocks {
                ids: vec![old.id.clone()],
                only_staged: false,
            }));
        }
        rig.pass(DUE).await;
        assert_eq!(rig.meta.machine.state().blocks.len(), 1);
        assert!(rig.sealed().is_empty());
        assert_eq!(rig.node.metrics.parts_uploaded.get(), 0);
    }
}
