//! What an earlier cluster left, in a bucket or in a data folder.

use super::*;
use object_store::throttle::{ThrottleConfig, ThrottledStore};

/// A bucket whose cluster changed the number of its shards, and was about to once more.
#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_with_several_epochs_is_taken_over() {
    use crate::placement::{EPOCH_STEP_MS, Placement};
    use gnomon_proto::v1::{BlockRecord, EpochChange, PlacementEpoch, block_record::State};
    let (folder, bucket) = (tempfile::tempdir().unwrap(), Arc::new(InMemory::new()));
    let epoch = |epoch, from_ms, shards: std::ops::Range<u32>| PlacementEpoch {
        epoch,
        from_ms,
        shards: shards.collect(),
        ..PlacementEpoch::default()
    };
    let coming = epoch(5, 2 * EPOCH_STEP_MS, 6..9);
    let block = |shard: u32, min_ms| BlockRecord {
        id: format!("{shard:032x}"),
        tenant: "anonymous".into(),
        shard,
        start_ms: min_ms,
        end_ms: min_ms + 10,
        min_sample_ms: min_ms,
        max_sample_ms: min_ms,
        state: State::Live as i32,
        bytes: 1,
        samples: 1,
        parts: vec![7],
        path: format!("a/{shard}"),
        ..BlockRecord::default()
    };
    let left = MetaState {
        revision: 9,
        catalogue_revision: 9,
        feature_level: 5,
        // The first is forgotten.
        epochs: vec![epoch(2, i64::MIN, 1..4), epoch(4, EPOCH_STEP_MS, 4..6), coming.clone()],
        epoch_change: Some(EpochChange {
            epoch: Some(coming),
            ..EpochChange::default()
        }),
        blocks: vec![block(2, 0), block(5, EPOCH_STEP_MS)],
        ..MetaState::default()
    };
    crate::meta::write_checkpoint(bucket.as_ref(), &left).await.unwrap();
    let node = start_node(options(folder.path(), &bucket, &["ingester"]))
        .await
        .unwrap();
    let state = node.meta_watch.borrow().clone();
    assert_eq!(state.epochs, left.epochs[..2]);
    assert_eq!(
        state.shards.iter().map(|r| r.shard).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5]
    );
    assert_eq!((state.blocks.len(), state.feature_level), (2, 5));
    let first_parts: Vec<_> = state.first_parts.iter().map(|f| (f.shard, f.part)).collect();
    assert_eq!(first_parts, [(2, 8), (5, 8)]);
    assert_eq!(
        *node.directory.placement().borrow().as_ref(),
        Placement::in_force(&state).unwrap()
    );
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_of_a_newer_build_is_left_alone() {
    let (folder, bucket) = (tempfile::tempdir().unwrap(), Arc::new(InMemory::new()));
    let left = MetaState {
        revision: 9,
        feature_level: 5,
        epochs: vec![gnomon_proto::v1::PlacementEpoch {
            epoch: 1,
            from_ms: i64::MIN,
            shards: vec![0],
            ..Default::default()
        }],
        ..MetaState::default()
    };
    crate::meta::write_checkpoint(bucket.as_ref(), &left).await.unwrap();
    let mut older = options(folder.path(), &bucket, &["ingester"]);
    older.feature_level = FeatureLevel(4);
    let error = start_node(older).await.err().unwrap();
    assert!(matches!(error, NodeError::NewerCatalogue { .. }), "{error}");
    // The newer one, in its place. (This process has the store open still.)
    let newer = tempfile::tempdir().unwrap();
    std::fs::copy(folder.path().join("node.json"), newer.path().join("node.json")).unwrap();
    let node = start_node(options(newer.path(), &bucket, &["ingester"])).await.unwrap();
    assert_eq!(node.meta_watch.borrow().feature_level, 5);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_does_not_answer_keeps_nobody_waiting_for_ever() {
    let (folder, bucket) = (tempfile::tempdir().unwrap(), Arc::new(InMemory::new()));
    let founder = start_node(options(folder.path(), &bucket, &["ingester"]))
        .await
        .unwrap();
    let stop = CancellationToken::new();
    let peer = serve(&founder, stop.clone()).await;
    let joining = |folder: &Path, role: &str| {
        let mut options = options(folder, &bucket, &[role]);
        let hangs = ThrottleConfig {
            wait_get_per_call: Duration::from_secs(3600),
            ..ThrottleConfig::default()
        };
        options.bucket = Arc::new(ThrottledStore::new(InMemory::new(), hangs));
        options.peers = vec![peer.clone()];
        options.address = "127.0.0.1:9096".into();
        options
    };
    let others = tempfile::tempdir().unwrap();
    let mut ingester = joining(&others.path().join("ingester"), "ingester");
    ingester.join_timeout = Duration::from_secs(1);
    let within = async |options| {
        let starting = tokio::time::timeout(Duration::from_secs(20), start_node(options)).await;
        starting.expect("it is found out within its time")
    };
    let error = within(ingester).await.err().unwrap().to_string();
    assert!(error.contains("--storage.object-store"), "{error}");
    let querier = within(joining(&others.path().join("querier"), "querier"))
        .await
        .unwrap();
    querier.shutdown().await;
    stop.cancel();
    founder.shutdown().await;
}
