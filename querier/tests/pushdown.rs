//! Queries of which shards evaluate parts have the answers of those that are evaluated in one place, byte for byte:
//! whatever lies in which shard, part, block and epoch, and however late samples came.

#![allow(clippy::unwrap_used)]

#[path = "../../lib/promql/tests/random/mod.rs"]
mod random;
mod support;

use gnomon_model::Labels;
use gnomon_proto::{ServiceError, v1};
use proptest::prelude::*;
use random::Sample;
use std::sync::atomic::Ordering;
use support::{Cluster, Points, labels};

/// How the samples of a case lie.
#[derive(Clone, Debug)]
struct Layout {
    shards: u32,
    placement: u64,
    /// Where further epochs begin, ascending, whose shards are others.
    epochs_ms: Vec<i64>,
    /// The last of them is listed and not in force yet: what is of its time is in the shards before.
    coming: bool,
    /// The querier has not heard of them before a shard says so.
    old_map: bool,
    /// Ends of parts, ascending; what is after the last is in the open part.
    parts_ms: Vec<i64>,
    /// How many of them are published, from the first, and how many of these are dropped by the head.
    published: usize,
    dropped: usize,
    /// Of so many samples one comes late: to the open part.
    late: usize,
    /// Whether the querier has heard of the blocks.
    told: bool,
    /// This shard is of an older version.
    old: Option<u32>,
}

fn layout() -> impl Strategy<Value = Layout> {
    (
        (
            1u32..4,
            any::<u64>(),
            prop_oneof![Just(Vec::new()), prop::collection::vec(50_000i64..500_000, 1..4)],
            prop::bool::weighted(0.2),
            any::<bool>(),
        ),
        prop::collection::vec(20_000i64..600_000, 0..3),
        (0usize..3, 0usize..3, prop_oneof![Just(0usize), 2usize..12]),
        (any::<bool>(), prop::option::weighted(0.1, 0u32..3)),
    )
        .prop_map(
            |(
                (shards, placement, mut epochs_ms, coming, old_map),
                mut parts_ms,
                (published, dropped, late),
                (told, old),
            )| {
                parts_ms.sort_unstable();
                epochs_ms.sort_unstable();
                epochs_ms.dedup();
                Layout {
                    shards,
                    placement,
                    epochs_ms,
                    coming,
                    old_map,
                    parts_ms,
                    published,
                    dropped,
                    late,
                    told,
                    old,
                }
            },
        )
}

impl Layout {
    fn owner(&self, labels: &Labels, time_ms: i64) -> u32 {
        let hash = labels.stable_hash().wrapping_mul(self.placement | 1) >> 32;
        let epoch = self.in_force().iter().filter(|from_ms| time_ms >= **from_ms).count() as u32;
        epoch * self.shards + (hash >> (5 * epoch)) as u32 % self.shards
    }

    fn in_force(&self) -> &[i64] {
        let coming = usize::from(self.coming && !self.epochs_ms.is_empty());
        &self.epochs_ms[..self.epochs_ms.len() - coming]
    }

    async fn cluster(&self, series: &[random::Series]) -> Cluster {
        let all = self.shards * (1 + self.epochs_ms.len() as u32);
        let cluster = Cluster::new(all);
        {
            let mut state = cluster.meta.state.lock();
            state.revision += 1;
            state.epochs[0].shards = (0..self.shards).collect();
            for (number, from_ms) in (1u32..).zip(&self.epochs_ms) {
                let next = v1::PlacementEpoch {
                    epoch: number + 1,
                    from_ms: *from_ms,
                    shards: (number * self.shards..(number + 1) * self.shards).collect(),
                    ..state.epochs[0].clone()
                };
                for shard in (number - 1) * self.shards..number * self.shards {
                    cluster.with_head(shard, |head| head.until = Some((*from_ms, number + 1)));
                }
                state.epochs.push(next);
            }
            if self.coming && !self.epochs_ms.is_empty() {
                state.epoch_change = Some(v1::EpochChange {
                    epoch: state.epochs.last().cloned(),
                    ..v1::EpochChange::default()
                });
            }
        }
        let mut count = 0;
        for (labels, samples) in series {
            for (time_ms, sample) in samples {
                let value = match sample {
                    Sample::Float(value) => *value,
                    Sample::Stale => gnomon_model::STALE_NAN,
                    Sample::Histogram(_) => continue,
                };
                count += 1;
                let is_late = self.late > 0 && count % self.late == 0;
                let part = self.parts_ms.iter().filter(|end| *end <= time_ms).count();
                let part = if is_late { self.parts_ms.len() } else { part } as u64 + 1;
                let points: Points = vec![(*time_ms, value)];
                cluster.add(self.owner(labels, *time_ms), part, labels.clone(), &points);
            }
        }
        for shard in 0..all {
            for part in 1..=self.published.min(self.parts_ms.len()) as u64 {
                let there = cluster.shards.heads.lock()[&shard].parts.contains_key(&part);
                if there {
                    cluster.publish(shard, part).await;
                    if part <= self.dropped as u64 {
                        cluster.drop_part(shard, part);
                    }
                }
            }
        }
        if self.told || (!self.epochs_ms.is_empty() && !self.old_map) {
            cluster.tell();
        } else if !self.epochs_ms.is_empty() {
            cluster.tell_of_one_epoch(self.shards);
        }
        if let Some(old) = self.old.filter(|old| *old < all) {
            cluster.with_head(old, |head| head.is_old = true);
        }
        cluster
    }
}

fn encoded(query: &str) -> String {
    query.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(random::cases(150)) })]

    #[test]
    fn pushed_down_is_evaluated_in_one_place(
        query in random::query(),
        series in random::series(),
        layout in layout(),
        start in 0i64..400_000,
        step in 1i64..150,
        steps in 0i64..12,
        // A few series at a time, or all at once.
        apart_samples in prop_oneof![1u64..40, Just(u64::MAX)],
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (apart, spread, whole) = runtime.block_on(async {
            let mut cluster = layout.cluster(&series).await;
            cluster.query.language = gnomon_promql::ParseOptions::everything();
            cluster.query.lookback_ms = 60_000;
            cluster.query.apart_samples = apart_samples;
            let (start, query) = (start / 1000, encoded(&query));
            let path = if steps == 0 {
                format!("/api/v1/query?query={query}&time={start}")
            } else {
                let end = start + (steps - 1) * step;
                format!("/api/v1/query_range?query={query}&start={start}&end={end}&step={step}")
            };
            let apart = cluster.get(&path).await;
            cluster.spread = true;
            let spread = cluster.get(&path).await;
            (cluster.spread, cluster.query.push_down) = (false, false);
            (apart, spread, cluster.get(&path).await)
        });
        prop_assert_eq!(&apart, &whole, "{}", query);
        prop_assert_eq!(spread, whole, "blocks read by others: {}", query);
    }
}

fn counter(cluster: &Cluster, shard: u32, part: u64, instance: &str) {
    let series = labels(&[("__name__", "c_total"), ("job", "a"), ("instance", instance)]);
    for i in 0..40 {
        cluster.add(shard, part, series.clone(), &[(i * 15_000, i as f64)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_evaluate_what_only_their_heads_have() {
    let cluster = Cluster::new(2);
    counter(&cluster, 0, 1, "a");
    counter(&cluster, 1, 1, "b");
    let path = "/api/v1/query_range?query=sum(rate(c_total%5B2m%5D))&start=300&end=600&step=60";
    cluster.ok(path).await;
    assert_eq!(*cluster.shards.evaluated.lock(), 2);
    // In blocks: nothing is left for heads to evaluate.
    cluster.publish(0, 1).await;
    cluster.publish(1, 1).await;
    cluster.tell();
    cluster.ok(path).await;
    assert_eq!(*cluster.shards.evaluated.lock(), 2);
    // Steps that look beyond the blocks.
    cluster
        .ok("/api/v1/query_range?query=sum(rate(c_total%5B2m%5D))&start=300&end=900&step=60")
        .await;
    assert_eq!(*cluster.shards.evaluated.lock(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn queriers_evaluate_what_only_their_blocks_have() {
    let mut cluster = Cluster::new(2);
    let (windows, each) = (6, 40);
    for (shard, instance) in [(0, "a"), (1, "b"), (1, "c")] {
        let series = labels(&[("__name__", "c_total"), ("job", "a"), ("instance", instance)]);
        for i in 0..windows * each {
            let value = (i * i) as f64 / 7.0 + f64::from(shard);
            cluster.add(shard, (i / each) as u64 + 1, series.clone(), &[(i * 15_000, value)]);
        }
    }
    for shard in 0..2 {
        for part in 1..=windows as u64 {
            cluster.publish(shard, part).await;
        }
    }
    cluster.tell();
    for (query, evaluated) in [
        ("sum(rate(c_total[2m]))", true),
        ("avg by (instance) (rate(c_total[3m] offset 1m))", true),
        ("max(c_total)", true),
        ("count(c_total > 900)", true),
        // What comes back are columns.
        ("topk(2, c_total)", false),
        // Most steps look at two blocks.
        ("sum(rate(c_total[9m]))", false),
    ] {
        let path = format!("/api/v1/query_range?query={}&start=60&end=3500&step=15", encoded(query));
        cluster.spread = false;
        let whole = cluster.ok(&path).await;
        cluster.spread = true;
        cluster.evaluated_elsewhere.store(0, Ordering::Relaxed);
        assert_eq!(cluster.ok(&path).await, whole, "{query}");
        let elsewhere = cluster.evaluated_elsewhere.load(Ordering::Relaxed);
        assert_eq!(elsewhere > 0, evaluated, "{query}: {elsewhere}");
    }
    // A late sample that only a head has: its step is none of a block's alone.
    let series = labels(&[("__name__", "c_total"), ("job", "a"), ("instance", "a")]);
    cluster.add(0, windows as u64 + 1, series, &[(700_001, 5.0)]);
    let path = "/api/v1/query_range?query=sum(rate(c_total%5B2m%5D))&start=60&end=3500&step=15";
    cluster.evaluated_elsewhere.store(0, Ordering::Relaxed);
    let spread = cluster.ok(path).await;
    assert_eq!(cluster.evaluated_elsewhere.load(Ordering::Relaxed), 0);
    cluster.spread = false;
    assert_eq!(spread, cluster.ok(path).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_fails_is_said_as_ever() {
    let cluster = Cluster::new(2);
    counter(&cluster, 0, 1, "a");
    counter(&cluster, 1, 1, "b");
    let path = "/api/v1/query?query=count(c_total)&time=585";
    cluster.with_head(1, |head| {
        head.failure = Some(ServiceError::Unavailable("no leader".into()))
    });
    let body = cluster.ok(path).await;
    assert!(body.contains(r#""value":[585,"1"]"#), "{body}");
    assert!(
        body.contains("could not be read, the result is incomplete: unavailable: no leader"),
        "{body}"
    );
    let (status, _) = cluster.get(&format!("{path}&partial_response=false")).await;
    assert_eq!(status, http::StatusCode::SERVICE_UNAVAILABLE);
    cluster.with_head(1, |head| {
        head.failure = None;
        head.is_old = true;
    });
    let body = cluster.ok(path).await;
    assert!(body.contains(r#""value":[585,"2"]"#), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_a_shard_reaches_ends_the_query() {
    let mut cluster = Cluster::new(2);
    counter(&cluster, 0, 1, "a");
    counter(&cluster, 1, 1, "b");
    cluster.query.max_samples = 5;
    let path = "/api/v1/query?query=sum(rate(c_total%5B2m%5D))&time=585";
    let (status, body) = cluster.get(path).await;
    assert_eq!(status, http::StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    assert!(
        body.contains(
            r#""errorType":"execution","error":"query processing would load too many samples into memory in query execution""#
        ),
        "{body}"
    );
    // By the shards: it is not tried again from all samples.
    assert!(*cluster.shards.evaluated.lock() >= 1);
    assert_eq!(cluster.shards.asked.lock().len(), *cluster.shards.evaluated.lock());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_each_part_took_is_told() {
    let cluster = Cluster::new(2);
    counter(&cluster, 0, 1, "a");
    counter(&cluster, 1, 1, "b");
    let path = "/api/v1/query?query=sum(rate(c_total%5B2m%5D))&time=585&explain=1";
    let plain = cluster.ok(path).await;
    assert!(!plain.contains("analysis"), "{plain}");
    let analyzed = |body: String| {
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        json["data"].clone()
    };
    let data = analyzed(cluster.ok(&format!("{path}&analyze=1")).await);
    let (nodes, sources) = (&data["analysis"]["nodes"], &data["analysis"]["sources"]);
    assert_eq!(nodes[0]["node"], "fragment f0");
    assert_eq!(
        (&nodes[0]["series"], &nodes[0]["samples"]),
        (&2.into(), &16.into()),
        "{data}"
    );
    for source in [&sources[0], &sources[1]] {
        assert_eq!(
            (&source["of"], &source["evaluated"]),
            (&"f0".into(), &true.into()),
            "{data}"
        );
        assert_eq!(
            (&source["series"], &source["samples"]),
            (&1.into(), &8.into()),
            "{data}"
        );
    }
    let text = data["explain"].as_str().unwrap();
    assert!(text.contains("f0 evaluated by shard 0 ("), "{text}");
    // The same from blocks: read here.
    for shard in [0, 1] {
        cluster.publish(shard, 1).await;
        cluster.drop_part(shard, 1);
    }
    let data = analyzed(cluster.ok(&format!("{path}&analyze=1")).await);
    let sources = data["analysis"]["sources"].as_array().unwrap();
    let read = sources
        .iter()
        .filter(|source| source["pages"] == 1 && source["evaluated"] == false);
    assert_eq!(read.count(), 2, "{data}");
    assert!(
        data["explain"].as_str().unwrap().contains("1 pages, 0 skipped"),
        "{data}"
    );
}
