//! Start timestamps of samples go into blocks.

use super::*;
use gnomon_model::ids::START_TIMES_FEATURE_LEVEL;
use gnomon_proto::v1::RaiseFeatureLevel;
use gnomon_tsdb::BlockReader;
use object_store::path::Path;

const HOURS: Duration = Duration::from_millis(WINDOW_MS as u64 + 3_600_000);

impl Rig {
    async fn started(&self, name: &str, at_ms: i64, start_ms: i64) -> Result<AppendResponse, ServiceError> {
        let mut batch = builder();
        batch.begin_rows();
        let key = batch.new_series(Labels::from_pairs([("__name__", name)]).as_ref());
        batch.since(start_ms);
        batch.sample(key, at_ms, at_ms as f64);
        self.append(batch).await
    }

    /// Metric, time and start of all samples of live blocks.
    async fn starts_in_blocks(&self) -> Vec<(String, i64, i64)> {
        let mut all = Vec::new();
        for block in self.blocks(State::Live) {
            let reader = BlockReader::open(self.bucket.clone(), Path::from(block.path.as_str()));
            let reader = Arc::new(reader.await.unwrap());
            reader.verify().await.unwrap();
            let mut found = reader.select(&[], i64::MIN, i64::MAX).await.unwrap();
            while let Some(series) = found.next().await.unwrap() {
                for page in series.pages {
                    let starts = page.starts().unwrap();
                    let name = series.labels.metric_name();
                    let times = page.decode().unwrap().times().into_iter();
                    let samples = times.zip(starts.iter(page.count));
                    all.extend(samples.map(|(at, start)| (name.to_owned(), at, start)));
                }
            }
        }
        all
    }
}

#[tokio::test]
async fn a_block_has_the_starts_of_its_samples() {
    let mut rig = Rig::new(WriteOptions::default());
    let early = rig.started("a", NOW, NOW - 5).await;
    assert!(matches!(early, Err(ServiceError::Busy(_))), "{early:?}");
    assert_eq!(rig.node.shards.wanted_feature_level(), None);
    // Whoever has some leaves them out, and says so.
    let request = AppendRequest {
        shard: 0,
        batch: builder().finish(),
        starts_left_out: true,
        only_newer: false,
    };
    rig.node.shards.append(request).await.unwrap();
    let level = START_TIMES_FEATURE_LEVEL.0;
    let wanted = rig.node.shards.wanted_feature_level();
    assert_eq!(wanted.map(|(level, _)| level), Some(level));
    let raised = rig.meta.machine.apply_command(&MetaCommand {
        proposed_at_ms: NOW,
        command: Some(Change::RaiseFeatureLevel(RaiseFeatureLevel { level })),
    });
    assert_eq!(raised.refused, "");
    rig.node.shards.set_feature_level(level);
    assert_eq!(rig.node.shards.wanted_feature_level(), None);
    let samples = [
        ("a", 0, NOW - 5),
        ("a", 1, NOW - 5),
        ("a", 2, NOW + 1),
        ("b", 0, 0),
        ("b", 3, 9),
    ];
    for (name, after, start_ms) in samples {
        rig.started(name, NOW + after, start_ms).await.unwrap();
    }
    // What comes late, and what comes again.
    rig.started("b", NOW + 1, 8).await.unwrap();
    assert_eq!(rig.started("b", NOW + 1, 7).await.unwrap().duplicates, 1);
    rig.pass(HOURS).await;
    assert_eq!(rig.blocks(State::Live).len(), 1);
    let expected = [
        ("a", 0, NOW - 5),
        ("a", 1, NOW - 5),
        ("a", 2, NOW + 1),
        ("b", 0, 0),
        ("b", 1, 8),
        ("b", 3, 9),
    ];
    let expected = expected.map(|(name, after, start_ms)| (name.to_owned(), NOW + after, start_ms));
    assert_eq!(rig.starts_in_blocks().await, expected);
}
