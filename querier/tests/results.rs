//! Answers that are put together from kept results are those that evaluating all steps gives, byte for byte: whatever was
//! written late, deleted, flushed or moved meanwhile, and however little of it the querier has heard.

#![allow(clippy::unwrap_used)]

mod support;

use axum::body::Body;
use gnomon_model::{BlockId, Labels};
use gnomon_proto::v1;
use gnomon_querier::{ResultCache, api_router};
use http::{Request, StatusCode};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use proptest::prelude::*;
use std::collections::BTreeSet;
use support::{Cluster, labels};
use tower::ServiceExt;

const SHARDS: u32 = 2;
const SERIES: usize = 6;
/// Samples lie in so many seconds.
const SECONDS: i64 = 1200;

const QUERIES: [&str; 10] = [
    "c_total",
    "sum(rate(c_total[2m]))",
    "sum by (instance) (increase(c_total[5m] offset 1m))",
    "max_over_time(g[1m]) - g offset -30s",
    "g @ 300 + g",
    "g + end()",
    "topk(1, g)",
    "max_over_time(rate(c_total[1m])[3m:30s])",
    "count({job=\"a\"})",
    "label_replace(g, \"x\", \"$1\", \"instance\", \"(.*)\")",
];

fn series(i: usize) -> (u32, Labels) {
    let name = if i.is_multiple_of(2) { "c_total" } else { "g" };
    let instance = format!("i{}", i / 2);
    let labels = labels(&[("__name__", name), ("job", "a"), ("instance", &instance)]);
    ((i / 2) as u32 % SHARDS, labels)
}

/// A cluster with one API that lives on, which keeps results.
struct Rig {
    cluster: Cluster,
    api: axum::Router,
    /// The open part of each shard.
    open: [u64; SHARDS as usize],
    renamed: u128,
    /// Series and seconds; a shard takes no second sample of one.
    written: BTreeSet<(usize, i64)>,
}

impl Rig {
    fn new() -> Self {
        let mut cluster = Cluster::new(SHARDS);
        cluster.query.language = gnomon_promql::ParseOptions::everything();
        cluster.query.lookback_ms = 60_000;
        let api = cluster.router();
        Self {
            cluster,
            api,
            open: [1; SHARDS as usize],
            renamed: 1 << 100,
            written: BTreeSet::new(),
        }
    }

    fn write(&mut self, i: usize, second: i64, value: f64) {
        if !self.written.insert((i, second)) {
            return;
        }
        let (shard, labels) = series(i);
        let part = self.open[shard as usize];
        self.cluster.add(shard, part, labels, &[(second * 1000, value)]);
    }

    async fn flush(&mut self, shard: u32) {
        let part = self.open[shard as usize];
        let has = self.cluster.shards.heads.lock()[&shard]
            .parts
            .get(&part)
            .is_some_and(|series| !series.is_empty());
        if has {
            self.tidy(shard, part);
            self.cluster.publish(shard, part).await;
            self.open[shard as usize] += 1;
        }
    }

    /// A head has one sample of a series and time, and those ascending.
    fn tidy(&self, shard: u32, part: u64) {
        self.cluster.with_head(shard, |head| {
            for points in head.parts.entry(part).or_default().values_mut() {
                points.sort_by_key(|(t, _)| *t);
                points.dedup_by_key(|(t, _)| *t);
            }
        });
    }

    fn drop_oldest(&self, shard: u32) {
        let open = self.open[shard as usize];
        let oldest = self.cluster.shards.heads.lock()[&shard].parts.keys().next().copied();
        if let Some(part) = oldest.filter(|part| *part < open) {
            self.cluster.drop_part(shard, part);
        }
    }

    fn delete(&self, instance: &str, from: i64, to: i64) {
        let (start_ms, end_ms) = (from * 1000, to * 1000);
        let revision = {
            let mut state = self.cluster.meta.state.lock();
            state.revision += 1;
            state.catalogue_revision += 1;
            let revision = state.catalogue_revision;
            state.tombstones.push(v1::TombstoneRecord {
                revision,
                tenant: "anonymous".into(),
                series: vec![v1::MatcherSet {
                    matchers: vec![v1::LabelMatcher {
                        op: 0,
                        name: "instance".into(),
                        value: instance.into(),
                    }],
                }],
                start_ms,
                end_ms,
                ..v1::TombstoneRecord::default()
            });
            revision
        };
        for shard in 0..SHARDS {
            self.cluster.with_head(shard, |head| {
                head.delete_revision = revision;
                for series in head.parts.values_mut() {
                    for (labels, points) in series.iter_mut() {
                        if labels.get("instance") == Some(instance) {
                            points.retain(|(t, _)| !(start_ms..=end_ms).contains(t));
                        }
                    }
                    series.retain(|_, points| !points.is_empty());
                }
            });
        }
    }

    /// A compactor has put a block's samples into another one.
    async fn rename_a_block(&mut self, at: usize) {
        let block = {
            let state = self.cluster.meta.state.lock();
            let at = at % state.blocks.len().max(1);
            state.blocks.get(at).map(|block| (at, block.path.clone()))
        };
        let Some((at, path)) = block else { return };
        self.renamed += 1;
        let id = BlockId(self.renamed).to_string();
        let moved = format!("blocks/{id}.gnb");
        let (from, to) = (Path::from(path), Path::from(moved.as_str()));
        self.cluster.store.rename(&from, &to).await.unwrap();
        let mut state = self.cluster.meta.state.lock();
        state.revision += 1;
        state.catalogue_revision += 1;
        (state.blocks[at].id, state.blocks[at].path) = (id, moved);
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = self.api.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 64 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn path(query: &str, start: i64, end: i64, step: i64) -> String {
        let query: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        format!("/api/v1/query_range?query={query}&start={start}&end={end}&step={step}")
    }

    /// The answer, which is the one that evaluating everything gives.
    async fn checked(&self, query: &str, start: i64, end: i64, step: i64) -> String {
        let path = Self::path(query, start, end, step);
        let kept = self.get(&path).await;
        let whole = self.get(&format!("{path}&nocache=1")).await;
        assert_eq!(kept, whole, "{query} {start} {end} {step}");
        assert_eq!(kept.0, StatusCode::OK, "{}", kept.1);
        kept.1
    }

    /// How often all, some and none of the steps were kept.
    fn lookups(&self) -> [u64; 3] {
        let families = self.cluster.registry.gather();
        let family = families
            .iter()
            .find(|f| f.name() == "gnomon_result_cache_lookups_total")
            .unwrap();
        ["all", "some", "none"].map(|kept| {
            let metrics = family.get_metric().iter();
            let of = metrics.filter(|m| m.get_label().iter().any(|l| l.value() == kept));
            of.map(|m| m.get_counter().get_value() as u64).sum()
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_that_are_kept_are_not_evaluated_again_until_something_changes_them() {
    let mut rig = Rig::new();
    for i in 0..SERIES {
        for second in (0..1200).step_by(10) {
            rig.write(i, second, (second * (i as i64 + 1)) as f64 / 7.0);
        }
    }
    for shard in 0..SHARDS {
        rig.flush(shard).await;
    }
    rig.cluster.tell();
    // In heads and blocks, of which queries take the blocks; newer samples are in heads alone.
    for i in 0..SERIES {
        for second in (1200..2000).step_by(10) {
            rig.write(i, second, second as f64);
        }
    }
    let query = "sum by (instance) (rate(c_total[2m]))";
    rig.checked(query, 200, 1600, 20).await;
    assert_eq!(rig.lookups(), [0, 0, 1]);
    // The same again; and what a dashboard asks for a little later.
    rig.checked(query, 200, 1600, 20).await;
    rig.checked(query, 260, 1700, 20).await;
    assert_eq!(rig.lookups(), [2, 0, 1]);
    // Steps before those that are kept; and then they are, too.
    rig.checked(query, 0, 1600, 20).await;
    assert_eq!(rig.lookups(), [2, 1, 1]);
    rig.checked(query, 0, 1600, 20).await;
    assert_eq!(rig.lookups(), [3, 1, 1]);
    // Other steps, and another lookback, are other queries.
    rig.checked(query, 5, 1600, 20).await;
    let (_, _) = rig
        .get(&format!("{}&lookback_delta=90s", Rig::path(query, 0, 1600, 20)))
        .await;
    assert_eq!(rig.lookups(), [3, 1, 3]);
    for shard in 0..SHARDS {
        rig.drop_oldest(shard);
    }
    rig.checked(query, 0, 1600, 20).await;
    assert_eq!(rig.lookups(), [4, 1, 3]);
    // A late sample is in the head: nothing that looks at it is taken from what was kept.
    let before = rig.checked(query, 0, 1600, 20).await;
    rig.write(0, 605, 1e9);
    let after = rig.checked(query, 0, 1600, 20).await;
    assert_ne!(before, after);
    assert_eq!(rig.lookups(), [5, 1, 4]);
    // In a block, which the querier has not heard of, and then has.
    for shard in 0..SHARDS {
        rig.flush(shard).await;
        rig.drop_oldest(shard);
    }
    assert_eq!(rig.checked(query, 0, 1600, 20).await, after);
    rig.cluster.tell();
    assert_eq!(rig.checked(query, 0, 1600, 20).await, after);
    // A delete.
    let [hits, ..] = rig.lookups();
    assert_eq!(rig.checked(query, 0, 1600, 20).await, after);
    rig.delete("i0", 300, 400);
    let deleted = rig.checked(query, 0, 1600, 20).await;
    assert_ne!(deleted, after);
    rig.cluster.tell();
    assert_eq!(rig.checked(query, 0, 1600, 20).await, deleted);
    assert_eq!(rig.checked(query, 0, 1600, 20).await, deleted);
    assert!(rig.lookups()[0] > hits, "{:?}", rig.lookups());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_incomplete_or_noted_is_not_kept() {
    let mut rig = Rig::new();
    for i in 0..SERIES {
        for second in (0..1200).step_by(10) {
            rig.write(i, second, second as f64);
        }
    }
    for shard in 0..SHARDS {
        rig.flush(shard).await;
        rig.drop_oldest(shard);
    }
    rig.cluster.tell();
    let failure = gnomon_proto::ServiceError::Unavailable("no leader".into());
    rig.cluster.with_head(1, |head| head.failure = Some(failure));
    let path = Rig::path("sum(g)", 0, 1000, 20);
    let (_, partial) = rig.get(&path).await;
    assert!(partial.contains("warnings"), "{partial}");
    rig.cluster.with_head(1, |head| head.failure = None);
    let whole = rig.checked("sum(g)", 0, 1000, 20).await;
    assert!(!whole.contains("warnings"), "{whole}");
    // A shard that does not say whether it has something: nothing is taken from what was kept.
    let failure = gnomon_proto::ServiceError::Unavailable("no leader".into());
    rig.cluster.with_head(0, |head| head.failure = Some(failure));
    let (_, partial) = rig.get(&path).await;
    assert!(partial.contains("warnings"), "{partial}");
    rig.cluster.with_head(0, |head| head.failure = None);
    let hits = rig.lookups();
    // The rate of what is no counter by its name.
    for _ in 0..2 {
        let noted = rig.checked("rate(g[1m])", 0, 1000, 20).await;
        assert!(noted.contains("infos"), "{noted}");
    }
    assert_eq!(rig.lookups()[..2], hits[..2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_where_that_is_switched_off() {
    let mut rig = Rig::new();
    rig.cluster.results_bytes = 0;
    rig.cluster.registry = prometheus::Registry::new();
    rig.api = rig.cluster.router();
    for second in (0..1200).step_by(10) {
        rig.write(1, second, second as f64);
    }
    rig.flush(0).await;
    rig.cluster.tell();
    rig.checked("g", 0, 1000, 20).await;
    let names = rig.cluster.registry.gather();
    assert!(names.iter().all(|family| !family.name().contains("result_cache")));
}

/// One of two queriers that share what they keep was started again with another `--query.lookback-delta`.
#[tokio::test(flavor = "multi_thread")]
async fn queriers_of_other_settings_do_not_take_what_is_kept_for_one_another() {
    let mut rig = Rig::new();
    for second in (0..1200).step_by(90) {
        rig.write(1, second, second as f64);
    }
    for shard in 0..SHARDS {
        rig.flush(shard).await;
        rig.drop_oldest(shard);
    }
    rig.cluster.tell();
    let cache = ResultCache::new(1 << 20, "test").unwrap();
    let mut answers = Vec::new();
    for (lookback_ms, found) in [(60_000, [1, 0, 1]), (300_000, [1, 0, 1]), (60_000, [2, 0, 0])] {
        rig.cluster.registry = prometheus::Registry::new();
        rig.cluster.query.lookback_ms = lookback_ms;
        let mut state = rig.cluster.state();
        state.results = Some(cache.clone());
        rig.api = api_router(state).unwrap();
        for _ in 0..2 {
            answers.push(rig.checked("count(g)", 0, 1000, 20).await);
        }
        assert_eq!(rig.lookups(), found, "with a lookback of {lookback_ms} ms");
    }
    assert_ne!(answers[0], answers[2], "the setting changes the answer");
    assert_eq!(answers[0], answers[4]);
}

#[derive(Clone, Debug)]
enum Op {
    /// Of a series, at a time that may be anywhere.
    Write(usize, i64, f64),
    /// Of all series, in the last of so many seconds.
    Scrape(i64),
    Flush(u32),
    Drop(u32),
    Tell,
    Delete(usize, i64, i64),
    Rename(usize),
    Query(usize, i64, i64, i64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        2 => (0..SERIES, 0..SECONDS, 0u32..1000).prop_map(|(i, at, v)| Op::Write(i, at, f64::from(v))),
        6 => (1i64..=20).prop_map(Op::Scrape),
        3 => (0..SHARDS).prop_map(Op::Flush),
        2 => (0..SHARDS).prop_map(Op::Drop),
        3 => Just(Op::Tell),
        1 => (0..SERIES / 2, 0..SECONDS, 1i64..300).prop_map(|(i, at, long)| Op::Delete(i, at, at + long)),
        1 => (0usize..8).prop_map(Op::Rename),
        12 => (0..QUERIES.len(), 0i64..20, 200i64..SECONDS, prop_oneof![Just(10i64), Just(20), Just(30)])
            .prop_map(|(q, start, long, step)| Op::Query(q, start * 10, start * 10 + long, step)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(
        std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(60)) })]

    #[test]
    fn kept_results_change_no_answer(ops in prop::collection::vec(op(), 20..90)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut rig = Rig::new();
            let mut now = 0;
            for op in ops {
                match op {
                    Op::Write(i, at, value) => rig.write(i, at, value),
                    Op::Scrape(times) => for _ in 0..times {
                        now = (now + 10) % SECONDS;
                        for i in 0..SERIES {
                            rig.write(i, now, (now * (i as i64 + 3) % 971) as f64);
                        }
                    },
                    Op::Flush(shard) => rig.flush(shard).await,
                    Op::Drop(shard) => rig.drop_oldest(shard),
                    Op::Tell => rig.cluster.tell(),
                    Op::Delete(i, from, to) => rig.delete(&format!("i{i}"), from, to),
                    Op::Rename(at) => rig.rename_a_block(at).await,
                    Op::Query(q, start, end, step) => {
                        rig.checked(QUERIES[q], start, end, step).await;
                    }
                }
                for shard in 0..SHARDS {
                    rig.tidy(shard, rig.open[shard as usize]);
                }
            }
        });
    }
}
