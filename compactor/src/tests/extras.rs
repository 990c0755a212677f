//! Exemplars and metadata go along with merges.

use super::*;
use gnomon_proto::v1::RaiseFeatureLevel;
use gnomon_tsdb::{BlockSink, Exemplar, ExemplarFilter, MetricMetadata};

/// What each part of [`World::add_part`] has where the cluster's level allows it: exemplars of two series, of which one is
/// also in every other part of the window, and help of a metric that says which part it is of.
pub(super) fn add(writer: &mut BlockWriter<impl BlockSink>, number: u64, at_ms: i64) {
    let exemplar = |timestamp_ms: i64, value: u64| Exemplar {
        timestamp_ms,
        value: value as f64,
        labels: Labels::from_pairs([("trace_id", format!("{timestamp_ms}-{value}"))]),
    };
    let window_ms = at_ms.div_euclid(2 * H) * 2 * H;
    for series in [3, 77] {
        let its = vec![exemplar(window_ms + 5, series), exemplar(at_ms + 60_000, number)];
        writer.add_exemplars(labels(series).as_ref(), its).unwrap();
    }
    for metric in ["m003", "gone"] {
        let known = MetricMetadata {
            at_ms,
            kind: "gauge".into(),
            unit: String::new(),
            help: format!("of part {number}"),
        };
        writer.add_metadata(metric, known);
    }
}

impl World {
    async fn extras(&self) -> Vec<(String, Vec<(i64, f64)>)> {
        let live = self.live();
        assert_eq!(live.len(), 1);
        let reader = BlockReader::open(self.memory.clone(), Path::from(live[0].path.as_str()));
        let reader = Arc::new(reader.await.unwrap());
        reader.verify().await.unwrap();
        let mut all = Vec::new();
        let mut found = reader.exemplars(ExemplarFilter::default()).await.unwrap();
        while let Some(series) = found.next().await.unwrap() {
            let its = series.exemplars.iter().map(|e| (e.timestamp_ms, e.value));
            all.push((series.labels.metric_name().to_owned(), its.collect()));
        }
        for (metric, known) in reader.metadata(None).await.unwrap() {
            all.push((format!("{metric}: {}", known.help), Vec::new()));
        }
        all
    }
}

#[tokio::test]
async fn a_merge_has_exemplars_once_and_the_newest_metadata() {
    let world = World::new(0, settings()).await;
    propose(&world.meta, Command::RaiseFeatureLevel(RaiseFeatureLevel { level: 5 })).await;
    world.add_part(1, 0, 0, 1).await;
    world.add_part(2, 2 * H, 0, 2).await;
    // Of the first window once more.
    world.add_part(5, 0, 30 * 60_000, 5).await;
    // Takes what one of the two series has of the second window, and everything of the third.
    world.delete("m077", 2 * H, 5 * H).await;
    world.at(100);
    world.settle().await;
    let of = |series: f64| vec![(5, series), (60_000, 1.0), (31 * 60_000, 5.0)];
    let mut third = of(3.0);
    third.extend([(2 * H + 5, 3.0), (2 * H + 60_000, 2.0)]);
    let expected = vec![
        ("m003".to_owned(), third),
        ("m077".to_owned(), of(77.0)),
        ("m003: of part 2".to_owned(), Vec::new()),
    ];
    assert_eq!(world.extras().await, expected);
}

#[tokio::test]
async fn a_cluster_with_older_nodes_gets_blocks_that_they_read() {
    let world = World::new(0, settings()).await;
    world.add_part(1, 0, 0, 1).await;
    world.add_part(2, 2 * H, 0, 2).await;
    world.at(100);
    world.settle().await;
    assert_eq!(world.extras().await, Vec::new());
    let path = Path::from(world.live()[0].path.as_str());
    let reader = BlockReader::open(world.memory.clone(), path).await.unwrap();
    assert_eq!(reader.meta().format_version, 3);
}
