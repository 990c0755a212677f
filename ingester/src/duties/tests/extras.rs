//! Exemplars and metadata of a window go into its block.

use super::*;
use gnomon_model::Matcher;
use gnomon_proto::service::ShardReadService;
use gnomon_proto::v1::{
    AddTombstone, ExemplarsRequest, Node as ClusterNode, RaiseFeatureLevel, RegisterNode, TombstoneRecord,
};
use gnomon_tsdb::{BlockReader, ExemplarFilter};
use object_store::path::Path;

const HOURS: Duration = Duration::from_millis(WINDOW_MS as u64 + 3_600_000);

impl Rig {
    /// A sample of a series with an exemplar, and what is known of its metric.
    async fn told(&self, name: &str, at_ms: i64, value: f64) {
        let mut batch = builder();
        batch.begin_rows();
        let key = batch.new_series(Labels::from_pairs([("__name__", name)]).as_ref());
        batch.sample(key, at_ms, value);
        let trace = Labels::from_pairs([("trace_id", format!("{name}-{value}"))]);
        batch.exemplar(key, at_ms, value, trace.as_ref());
        batch.metadata(name, "gauge", "", &format!("help of {name}"));
        self.append(batch).await.unwrap();
    }

    /// Metric, time and value of all exemplars of live blocks; metrics with help.
    async fn in_blocks(&self) -> (Vec<(String, i64, f64)>, Vec<String>) {
        let (mut exemplars, mut metadata) = (Vec::new(), Vec::new());
        for block in self.blocks(State::Live) {
            let reader = BlockReader::open(self.bucket.clone(), Path::from(block.path.as_str()));
            let reader = Arc::new(reader.await.unwrap());
            reader.verify().await.unwrap();
            let mut found = reader.exemplars(ExemplarFilter::default()).await.unwrap();
            while let Some(series) = found.next().await.unwrap() {
                let name = series.labels.metric_name().to_owned();
                let its = series.exemplars.iter();
                exemplars.extend(its.map(|e| (name.clone(), e.timestamp_ms, e.value)));
            }
            metadata.extend(reader.metadata(None).await.unwrap().into_iter().map(|(_, m)| m.help));
        }
        (exemplars, metadata)
    }

    /// What the head answers.
    async fn in_head(&self) -> Vec<(String, i64, f64)> {
        let request = ExemplarsRequest {
            tenant: TenantId::anonymous().to_string(),
            shard: 0,
            start_ms: i64::MIN,
            end_ms: i64::MAX,
            ..ExemplarsRequest::default()
        };
        let answer = self.node.shards.exemplars(request).await.unwrap();
        let mut all = Vec::new();
        for series in answer.series {
            let name = gnomon_model::LabelsRef::from_canonical(&series.labels)
                .metric_name()
                .to_owned();
            all.extend(series.exemplars.iter().map(|e| (name.clone(), e.timestamp_ms, e.value)));
        }
        all.sort_by(|a, b| a.partial_cmp(b).unwrap());
        all.dedup();
        all
    }

    fn delete(&self, name: &str, start_ms: i64, end_ms: i64) {
        let commit = |change| {
            let response = self.meta.machine.apply_command(&MetaCommand {
                proposed_at_ms: NOW,
                command: Some(change),
            });
            assert_eq!(response.refused, "");
        };
        commit(Change::RaiseFeatureLevel(RaiseFeatureLevel { level: 5 }));
        let sets = [vec![Matcher::equal("__name__", name)]];
        commit(Change::AddTombstone(AddTombstone {
            tombstone: Some(TombstoneRecord {
                path: format!("anonymous/tombstones/{name}-{start_ms}"),
                tenant: "anonymous".into(),
                series: gnomon_proto::matchers::sets_to_wire(&sets),
                start_ms,
                end_ms,
                ..TombstoneRecord::default()
            }),
        }));
    }

    fn stop_uploads(&mut self) {
        let outage = Faults {
            refused: 1.0,
            ..Faults::default()
        };
        self.duties.context.bucket = Arc::new(FaultyStore::new(self.bucket.clone(), 1, outage));
    }
}

fn listed(all: &[(&str, i64, f64)]) -> Vec<(String, i64, f64)> {
    all.iter()
        .map(|(name, at, value)| ((*name).to_owned(), *at, *value))
        .collect()
}

#[tokio::test]
async fn a_block_has_the_exemplars_and_metadata_of_its_window() {
    let mut rig = Rig::new(WriteOptions::default());
    rig.told("a", NOW, 1.0).await;
    rig.told("a", NOW + 1, 2.0).await;
    rig.told("b", NOW + 2, 3.0).await;
    let due = window() + WINDOW_MS + 1_800_000 - NOW;
    rig.pass(Duration::from_millis(due as u64 - 10_000)).await;
    // Of the window that follows.
    rig.told("a", NOW + WINDOW_MS, 4.0).await;
    rig.told("c", NOW + WINDOW_MS, 5.0).await;
    assert_eq!(rig.meta.machine.state().feature_level, 1);
    rig.pass(Duration::from_secs(90)).await;
    assert_eq!(
        rig.meta.machine.state().feature_level,
        5,
        "once there is something that needs it"
    );
    assert_eq!(rig.blocks(State::Live).len(), 1);
    let (exemplars, metadata) = rig.in_blocks().await;
    assert_eq!(
        exemplars,
        listed(&[("a", NOW, 1.0), ("a", NOW + 1, 2.0), ("b", NOW + 2, 3.0)])
    );
    assert_eq!(metadata, ["help of a", "help of b"]);
    let block = &rig.blocks(State::Live)[0];
    let object = rig.bucket.head(&Path::from(block.path.as_str())).await.unwrap();
    assert_eq!(object.size, block.bytes);
}

#[tokio::test]
async fn nothing_changes_while_a_node_is_older() {
    let mut rig = Rig::new(WriteOptions::default());
    let register = rig.meta.machine.apply_command(&MetaCommand {
        proposed_at_ms: NOW,
        command: Some(Change::RegisterNode(RegisterNode {
            node: Some(ClusterNode {
                address: "old:1".into(),
                incarnation: 1,
                feature_level: 4,
                ..ClusterNode::default()
            }),
            lease_ms: 600_000,
        })),
    });
    assert_eq!(register.refused, "");
    rig.told("a", NOW, 1.0).await;
    rig.pass(HOURS).await;
    assert_eq!(rig.blocks(State::Live).len(), 1);
    assert_eq!(rig.in_blocks().await, (Vec::new(), Vec::new()));
    assert_eq!(rig.meta.machine.state().feature_level, 1);
}

#[tokio::test]
async fn what_newer_exemplars_push_out_is_in_the_part_that_waits() {
    let mut rig = Rig::new(WriteOptions::default());
    rig.stop_uploads();
    rig.told("a", NOW, 1.0).await;
    rig.pass(HOURS).await;
    assert_eq!(rig.sealed(), [1]);
    let now = rig.node.clock.now().0;
    for some in 0..20 {
        let mut batch = builder();
        batch.begin_rows();
        let key = batch.new_series(Labels::from_pairs([("__name__", "b")]).as_ref());
        batch.sample(key, now + some * 1000, 0.0);
        for i in 0..1000 {
            batch.exemplar(key, now + some * 1000 + i, i as f64, Labels::empty().as_ref());
        }
        rig.append(batch).await.unwrap();
    }
    let all = rig.in_head().await;
    assert_eq!(all.len(), 1 + 16 * 1024);
    assert_eq!(all[0], ("a".to_owned(), NOW, 1.0));
    rig.duties.context.bucket = rig.bucket.clone();
    rig.pass(Duration::from_secs(120)).await;
    assert_eq!(rig.in_blocks().await.0, listed(&[("a", NOW, 1.0)]));
    assert_eq!(rig.in_head().await.len(), 16 * 1024);
}

#[tokio::test]
async fn deletes_take_exemplars_of_windows_of_parts_and_of_what_is_uploaded() {
    let mut rig = Rig::new(WriteOptions::default());
    rig.stop_uploads();
    for (name, at, value) in [("a", NOW, 1.0), ("b", NOW, 2.0), ("a", NOW + 5, 3.0)] {
        rig.told(name, at, value).await;
    }
    rig.pass(HOURS).await;
    assert_eq!(rig.sealed(), [1]);
    let now = rig.node.clock.now().0;
    for (name, at, value) in [("a", now, 4.0), ("b", now, 5.0), ("a", now + 1, 6.0)] {
        rig.told(name, at, value).await;
    }
    assert_eq!(rig.in_head().await.len(), 6);
    rig.delete("a", NOW + 1, now);
    rig.duties.take_deletes().await;
    let left = [("a", NOW, 1.0), ("a", now + 1, 6.0), ("b", NOW, 2.0), ("b", now, 5.0)];
    assert_eq!(rig.in_head().await, listed(&left));
    // One of the same time again is taken, as its sample is.
    rig.told("a", now, 7.0).await;
    assert_eq!(rig.in_head().await.len(), 4, "older than the series' newest");
    rig.duties.context.bucket = rig.bucket.clone();
    rig.pass(Duration::from_secs(120)).await;
    assert_eq!(rig.in_blocks().await.0, listed(&[("a", NOW, 1.0), ("b", NOW, 2.0)]));
}
