//! Reading from heads and blocks while parts move between them.

#![allow(clippy::unwrap_used)]

mod support;

use gnomon_model::{BlockId, Matcher};
use gnomon_proto::{ServiceError, v1};
use http::StatusCode;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use std::time::Duration;
use support::{Cluster, NOW_MS, example, labels};

const STEP_MS: i64 = 15_000;

/// One series, ten samples in part 1, ten in part 2 (open), values counting up.
fn two_parts() -> Cluster {
    let cluster = Cluster::new(1);
    for i in 0..20 {
        let part = if i < 10 { 1 } else { 2 };
        let at = NOW_MS - (19 - i) * STEP_MS;
        cluster.add(0, part, labels(&[("__name__", "n")]), &[(at, i as f64)]);
    }
    cluster
}

async fn values(cluster: &Cluster) -> (Vec<String>, serde_json::Value) {
    let json: serde_json::Value = serde_json::from_str(&cluster.ok("/api/v1/query?query=n%5B1h%5D").await).unwrap();
    let values = json["data"]["result"][0]["values"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let text = |point: &serde_json::Value| point[1].as_str().unwrap().to_owned();
    (values.iter().map(text).collect(), json["warnings"].clone())
}

fn counted(range: std::ops::Range<i32>) -> Vec<String> {
    range.map(|i| i.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sample_is_read_once_wherever_its_part_is() {
    let cluster = two_parts();
    let all = (counted(0..20), serde_json::Value::Null);
    assert_eq!(values(&cluster).await, all, "in the head");
    cluster.publish(0, 1).await;
    assert_eq!(values(&cluster).await, all, "published, the querier has not heard");
    cluster.tell();
    assert_eq!(
        values(&cluster).await,
        all,
        "in block and head, the querier takes the block"
    );
    cluster.drop_part(0, 1);
    assert_eq!(values(&cluster).await, all, "dropped by the head");
    assert_eq!(*cluster.meta.reads.lock(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_is_too_old_is_read_again() {
    let cluster = two_parts();
    cluster.publish(0, 1).await;
    cluster.drop_part(0, 1);
    assert_eq!(values(&cluster).await, (counted(0..20), serde_json::Value::Null));
    assert_eq!(*cluster.meta.reads.lock(), 1);
    let body = cluster.ok("/api/v1/labels").await;
    assert_eq!(body, r#"{"status":"success","data":["__name__"]}"#);
    let body = cluster.ok("/api/v1/label/__name__/values?match%5B%5D=n").await;
    assert_eq!(body, r#"{"status":"success","data":["n"]}"#);
    let body = cluster.ok("/api/v1/series?match%5B%5D=n").await;
    assert_eq!(body, r#"{"status":"success","data":[{"__name__":"n"}]}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_replaced_meanwhile_is_looked_up_again() {
    let cluster = two_parts();
    let path = cluster.publish(0, 1).await;
    cluster.publish_as(BlockId(7), 0, 1).await;
    let successor = cluster.meta.state.lock().blocks.pop().unwrap();
    cluster.drop_part(0, 1);
    cluster.tell();
    // A compactor has put another block in its place.
    cluster.store.delete(&Path::from(path.as_str())).await.unwrap();
    {
        let mut state = cluster.meta.state.lock();
        state.catalogue_revision += 1;
        state.blocks[0] = successor;
    }
    assert_eq!(values(&cluster).await, (counted(0..20), serde_json::Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_block_is_said_or_refused() {
    let cluster = two_parts();
    let path = cluster.publish(0, 1).await;
    cluster.drop_part(0, 1);
    cluster.tell();
    cluster.store.delete(&Path::from(path.as_str())).await.unwrap();
    let (found, warnings) = values(&cluster).await;
    assert_eq!(found, counted(10..20));
    let warning = warnings[0].as_str().unwrap();
    assert!(
        warning.contains("of shard 0 (samples from 2015-07-01T20:06:55Z to 2015-07-01T20:09:10Z)"),
        "{warning}"
    );
    assert!(
        warning.ends_with("is in the catalogue but not in the object store, the result is incomplete"),
        "{warning}"
    );
    let (status, body) = cluster
        .get("/api/v1/query?query=n%5B1h%5D&partial_response=false")
        .await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.contains(r#""errorType":"unavailable""#), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_block_is_left_out_and_that_is_said() {
    let cluster = two_parts();
    let path = Path::from(cluster.publish(0, 1).await.as_str());
    cluster.tell();
    let mut bytes = cluster.store.get(&path).await.unwrap().bytes().await.unwrap().to_vec();
    let end = bytes.len() - 40;
    bytes[end] ^= 0xff;
    cluster.store.put(&path, bytes.into()).await.unwrap();
    for _ in 0..2 {
        let (status, body) = cluster.get("/api/v1/query?query=n").await;
        assert_eq!(status, StatusCode::OK, "{body}");
        assert!(body.contains("the result is incomplete: block blocks/"), "{body}");
        assert!(body.contains("is damaged: checksum of the footer"), "{body}");
        // What the head has.
        assert!(body.contains(r#""19""#), "{body}");
    }
    let (status, body) = cluster.get("/api/v1/query?query=n&partial_response=false").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_earlier_part_wins_at_equal_times() {
    let cluster = two_parts();
    cluster.publish(0, 1).await;
    cluster.tell();
    // The head holds another value for a time that part 1 has.
    cluster.add(0, 2, labels(&[("__name__", "n")]), &[(NOW_MS - 12 * STEP_MS, 1000.0)]);
    assert_eq!(values(&cluster).await.0, counted(0..20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_does_not_answer_is_said_or_refused() {
    let cluster = example();
    cluster.with_head(1, |head| {
        head.failure = Some(ServiceError::Unavailable("no leader".into()))
    });
    let body = cluster.ok("/api/v1/query?query=count(up)").await;
    assert!(body.contains(r#""value":[1435781500,"1"]"#), "{body}");
    let warning = r#""warnings":["shard 1 (samples from 2015-07-01T20:06:40.001Z to 2015-07-01T20:11:40Z) could not be read, the result is incomplete: unavailable: no leader"]"#;
    assert!(body.contains(warning), "{body}");
    for path in ["query?query=up", "labels?x", "series?match%5B%5D=up", "metadata?x"] {
        let (status, body) = cluster.get(&format!("/api/v1/{path}&partial_response=false")).await;
        // Metadata has no failure in this double.
        let expected = if path.starts_with("metadata") {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        assert_eq!(status, expected, "{path}: {body}");
    }
    // Lost after its first series.
    cluster.with_head(1, |head| {
        head.failure = None;
        head.fail_after = Some(0);
    });
    let body = cluster.ok("/api/v1/query?query=up").await;
    assert!(body.contains("shard 1"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn matchers_on_placement_labels_spare_the_other_shards() {
    let cluster = example();
    cluster
        .ok("/api/v1/query?query=up%7Bjob%3D%22node%22,instance%3D%22a:9100%22%7D")
        .await;
    assert_eq!(cluster.shards.asked.lock().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_time_end_a_query() {
    let mut cluster = example();
    cluster.query.max_samples = 10;
    let (status, body) = cluster.get("/api/v1/query?query=up%5B1h%5D").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    assert!(
        body.contains("query processing would load too many samples into memory in query execution"),
        "{body}"
    );

    let mut cluster = example();
    cluster.query.fetch.max_bytes = 100;
    let (status, body) = cluster.get("/api/v1/query?query=up").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    assert!(body.contains("more than 100 bytes"), "{body}");

    let cluster = example();
    cluster.with_head(1, |head| head.hangs = true);
    let (status, body) = cluster.get("/api/v1/query?query=up&timeout=0.2").await;
    assert_eq!(
        (status, body.as_str()),
        (
            StatusCode::SERVICE_UNAVAILABLE,
            r#"{"status":"error","errorType":"timeout","error":"query timed out in expression evaluation"}"#
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_frees_its_place() {
    let mut cluster = example();
    cluster.query.max_concurrency = 1;
    cluster.with_head(1, |head| head.hangs = true);
    let router = cluster.router();
    let ask = || {
        let request = http::Request::get("/api/v1/query?query=up")
            .body(axum::body::Body::empty())
            .unwrap();
        tower::ServiceExt::oneshot(router.clone(), request)
    };
    let gone = tokio::time::timeout(Duration::from_millis(100), ask()).await;
    assert!(gone.is_err());
    cluster.with_head(1, |head| head.hangs = false);
    let response = tokio::time::timeout(Duration::from_secs(10), ask())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn range_queries_leave_places_to_others() {
    let mut cluster = example();
    cluster.query.max_concurrency = 4;
    cluster.with_head(1, |head| head.hangs = true);
    let router = cluster.router();
    let ask = |path: String| {
        let request = http::Request::get(path).body(axum::body::Body::empty()).unwrap();
        tower::ServiceExt::oneshot(router.clone(), request)
    };
    let ranges: Vec<_> = (0..10)
        .map(|i| {
            tokio::spawn(ask(format!(
                "/api/v1/query_range?query=up&start=1&end=9&step={}",
                i + 1
            )))
        })
        .collect();
    // Whenever it comes: one place is kept, and a number needs no head.
    for _ in 0..50 {
        let response = ask("/api/v1/query?query=1".to_owned());
        let response = tokio::time::timeout(Duration::from_secs(10), response).await;
        assert_eq!(response.unwrap().unwrap().status(), StatusCode::OK);
        tokio::task::yield_now().await;
    }
    ranges.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_newer_view_what_is_missing_is_said_or_refused() {
    let cluster = two_parts();
    cluster.publish(0, 1).await;
    cluster.drop_part(0, 1);
    *cluster.meta.failure.lock() = Some(ServiceError::Unavailable("no quorum".into()));
    let body = cluster.ok("/api/v1/query?query=n").await;
    let warning = "shard 0 (samples from 2015-07-01T20:06:40.001Z to 2015-07-01T20:11:40Z) has moved samples to blocks \
                   that are not known here, the result is incomplete: the metadata group cannot be asked";
    assert!(body.contains(warning), "{body}");
    let (status, body) = cluster.get("/api/v1/query?query=n&partial_response=false").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_are_whole() {
    let cluster = Cluster::new(2);
    for i in 0..300 {
        let series = labels(&[("__name__", "m"), ("i", &format!("{i:03}"))]);
        let points: Vec<_> = (0..240).map(|k| (NOW_MS - (239 - k) * STEP_MS, f64::from(i))).collect();
        cluster.add(i as u32 % 2, 1, series, &points);
    }
    let start = (NOW_MS - 200 * STEP_MS) / 1000;
    let path = format!(
        "/api/v1/query_range?query=m&start={start}&end={}&step=15",
        NOW_MS / 1000
    );
    let json: serde_json::Value = serde_json::from_str(&cluster.ok(&path).await).unwrap();
    let series = json["data"]["result"].as_array().unwrap();
    assert_eq!(series.len(), 300);
    for (i, series) in series.iter().enumerate() {
        assert_eq!(series["metric"]["i"], format!("{i:03}"));
        assert_eq!(series["values"].as_array().unwrap().len(), 201);
    }
    let json: serde_json::Value = serde_json::from_str(&cluster.ok("/api/v1/series?match%5B%5D=m").await).unwrap();
    assert_eq!(json["data"].as_array().unwrap().len(), 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_read_without_what_newer_deletes_mask() {
    let cluster = two_parts();
    cluster.publish(0, 1).await;
    cluster.tell();
    cluster.drop_part(0, 1);
    let revision = {
        let mut state = cluster.meta.state.lock();
        state.catalogue_revision += 1;
        let revision = state.catalogue_revision;
        state.tombstones.push(v1::TombstoneRecord {
            revision,
            tenant: "anonymous".into(),
            series: gnomon_proto::matchers::sets_to_wire(&[vec![Matcher::equal("__name__", "n")]]),
            // Also what is in the head: that is for the shard to take out.
            start_ms: NOW_MS - 17 * STEP_MS,
            end_ms: NOW_MS,
            ..v1::TombstoneRecord::default()
        });
        revision
    };
    let all = (counted(0..20), serde_json::Value::Null);
    assert_eq!(values(&cluster).await, all, "the querier has not heard");
    cluster.tell();
    let left = [counted(0..2), counted(10..20)].concat();
    assert_eq!(values(&cluster).await, (left, serde_json::Value::Null));
    let series = cluster.ok("/api/v1/series?match[]=n&start=0").await;
    assert!(series.contains("\"n\""), "some of it is left: {series}");
    for block in &mut cluster.meta.state.lock().blocks {
        block.tombstone_revision = revision;
    }
    cluster.tell();
    assert_eq!(
        values(&cluster).await,
        all,
        "a block that has carried it out is not masked"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_an_answer_may_be_partial_is_what_the_request_says_or_else_the_flag() {
    let mut cluster = example();
    cluster.with_head(1, |head| {
        head.failure = Some(ServiceError::Unavailable("no leader".into()))
    });
    let times = format!("start={}&end={}", NOW_MS / 1000 - 600, NOW_MS / 1000);
    let paths = [
        "query?query=up".to_owned(),
        "query?query=count(up)".to_owned(),
        format!("query_range?query=up&step=60&{times}"),
        format!("labels?{times}"),
        format!("label/job/values?{times}"),
        format!("series?match%5B%5D=up&{times}"),
    ];
    for by_default in [true, false] {
        cluster.query.partial_response = by_default;
        for path in &paths {
            for (word, partial) in [
                ("", by_default),
                ("&partial=true", true),
                ("&partial=false", false),
                ("&partial=0&partial_response=1", false),
                ("&partial_response=false", false),
                ("&partial_response=t", true),
            ] {
                let (status, body) = cluster.get(&format!("/api/v1/{path}{word}")).await;
                let expected = if partial {
                    StatusCode::OK
                } else {
                    StatusCode::SERVICE_UNAVAILABLE
                };
                assert_eq!(status, expected, "{path}{word}: {body}");
                // The same words, as a warning or as the error.
                let said = body.contains("shard 1 (samples from 2015-07-01T")
                    && body.contains("could not be read, the result is incomplete: unavailable: no leader");
                assert!(said, "{path}{word}: {body}");
            }
        }
    }
    let (status, body) = cluster.get("/api/v1/query?query=up&partial=maybe").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.contains("\\\"maybe\\\" is not true or false"), "{body}");
    // Of the double exemplars are never missing; where all are it is an error anyway.
    cluster.shards.heads.lock().clear();
    let (status, body) = cluster
        .get(&format!("/api/v1/query_exemplars?query=up&partial=true&{times}"))
        .await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    assert!(body.contains("nothing could be read: shard 0"), "{body}");
}

fn exemplars_of(name: &str, all: &[(i64, f64)]) -> v1::SeriesExemplars {
    v1::SeriesExemplars {
        labels: labels(&[("__name__", name), ("job", "j")]).as_bytes().to_vec().into(),
        exemplars: all
            .iter()
            .map(|(timestamp_ms, value)| v1::Exemplar {
                labels: labels(&[("trace_id", &value.to_string())]).as_bytes().to_vec().into(),
                value: *value,
                timestamp_ms: *timestamp_ms,
            })
            .collect(),
    }
}

/// Series with value and time of each exemplar, as the API gives them.
async fn exemplars(cluster: &Cluster, query: &str) -> Vec<(String, Vec<(String, f64)>)> {
    let body = cluster.ok(&format!("/api/v1/query_exemplars?{query}")).await;
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert!(body.get("warnings").is_none(), "{body}");
    let series = |s: &serde_json::Value| {
        let name = s["seriesLabels"]["__name__"].as_str().unwrap().to_owned();
        let its = s["exemplars"].as_array().unwrap().iter();
        let its = its.map(|e| {
            (
                e["value"].as_str().unwrap().to_owned(),
                e["timestamp"].as_f64().unwrap(),
            )
        });
        (name, its.collect())
    };
    body["data"].as_array().unwrap().iter().map(series).collect()
}

fn found(all: &[(&str, &[(&str, f64)])]) -> Vec<(String, Vec<(String, f64)>)> {
    let its = |its: &[(&str, f64)]| its.iter().map(|(value, at)| ((*value).to_owned(), *at)).collect();
    all.iter()
        .map(|(name, its_of)| ((*name).to_owned(), its(its_of)))
        .collect()
}

#[tokio::test]
async fn exemplars_of_heads_and_blocks_come_once() {
    let cluster = Cluster::new(1);
    let series = |name: &str| labels(&[("__name__", name), ("job", "j")]);
    for name in ["a", "b"] {
        cluster.add(0, 1, series(name), &[(0, 1.0), (100_000, 2.0)]);
    }
    cluster.with_head(0, |head| {
        head.exemplars
            .push(exemplars_of("a", &[(10_000, 1.5), (20_000, 2.5), (20_000, f64::NAN)]));
        head.exemplars.push(exemplars_of("b", &[(30_000, 3.5)]));
    });
    let of_head = exemplars(&cluster, "query=a&start=0&end=200").await;
    let path = cluster.publish(0, 1).await;
    cluster.drop_part(0, 1);
    cluster.tell();
    // Both have them.
    let expected = found(&[("a", &[("1.5", 10.0), ("2.5", 20.0), ("NaN", 20.0)])]);
    assert_eq!(of_head, expected);
    assert_eq!(exemplars(&cluster, "query=a&start=0&end=200").await, expected);
    // The head has let go of some, and got another.
    cluster.with_head(0, |head| {
        head.exemplars = vec![exemplars_of("a", &[(20_000, 2.5), (150_000, 9.0)])]
    });
    let expected = found(&[("a", &[("1.5", 10.0), ("2.5", 20.0), ("NaN", 20.0), ("9", 150.0)])]);
    assert_eq!(exemplars(&cluster, "query=a&start=0&end=200").await, expected);
    // Ranges are inclusive, all selectors of the query count.
    let expected = found(&[("a", &[("2.5", 20.0), ("NaN", 20.0)]), ("b", &[("3.5", 30.0)])]);
    assert_eq!(exemplars(&cluster, "query=a%2Bb&start=20&end=30").await, expected);
    assert_eq!(
        exemplars(&cluster, "query=a%7Bjob%3D%22k%22%7D&start=0&end=200").await,
        []
    );
    // A block that is damaged is said to be missing.
    let mut bytes = cluster
        .store
        .get(&path.as_str().into())
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap()
        .to_vec();
    bytes.fill(0xaa);
    cluster.store.put(&path.as_str().into(), bytes.into()).await.unwrap();
    let (status, body) = cluster.get("/api/v1/query_exemplars?query=a&start=0&end=200").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert!(body.contains("warnings") && body.contains("damaged"), "{body}");
}

#[tokio::test]
async fn deletes_mask_exemplars_of_blocks() {
    let cluster = Cluster::new(1);
    cluster.add(
        0,
        1,
        labels(&[("__name__", "a"), ("job", "j")]),
        &[(0, 1.0), (100_000, 2.0)],
    );
    cluster.with_head(0, |head| {
        head.exemplars.push(exemplars_of("a", &[(10_000, 1.5), (20_000, 2.5)]))
    });
    cluster.publish(0, 1).await;
    cluster.with_head(0, |head| head.exemplars.clear());
    cluster.meta.state.lock().tombstones.push(v1::TombstoneRecord {
        revision: 7,
        tenant: "anonymous".into(),
        series: gnomon_proto::matchers::sets_to_wire(&[vec![gnomon_model::Matcher::equal("__name__", "a")]]),
        start_ms: 20_000,
        end_ms: 30_000,
        ..v1::TombstoneRecord::default()
    });
    // Of a view that does not know of it yet: what is acknowledged counts.
    let expected = found(&[("a", &[("1.5", 10.0)])]);
    assert_eq!(exemplars(&cluster, "query=a&start=0&end=200").await, expected);
}

#[tokio::test]
async fn metadata_of_metrics_that_no_head_knows_is_that_of_the_newest_block() {
    let cluster = Cluster::new(1);
    let entry = |metric: &str, help: &str| v1::MetricMetadata {
        metric: metric.into(),
        r#type: "counter".into(),
        help: help.into(),
        unit: String::new(),
    };
    for (part, from, helps) in [(1, 0, ["old", "of a"]), (2, 500_000, ["new", "of a"])] {
        for name in ["gone_total", "a"] {
            cluster.add(
                0,
                part,
                labels(&[("__name__", name)]),
                &[(from, 1.0), (from + 1000, 2.0)],
            );
        }
        cluster.with_head(0, |head| {
            head.metadata = vec![entry("gone", helps[0]), entry("a", helps[1])]
        });
        cluster.publish(0, part).await;
        cluster.drop_part(0, part);
    }
    cluster.tell();
    cluster.with_head(0, |head| head.metadata = vec![entry("a", "of a head")]);
    let known = |metric: &str, help: &str| format!(r#""{metric}":[{{"type":"counter","help":"{help}","unit":""}}]"#);
    let (a, gone) = (known("a", "of a head"), known("gone", "new"));
    for (path, data) in [
        ("/api/v1/metadata", format!("{{{a},{gone}}}")),
        ("/api/v1/metadata?metric=gone", format!("{{{gone}}}")),
        ("/api/v1/metadata?metric=a", format!("{{{a}}}")),
        ("/api/v1/metadata?metric=none", "{}".to_owned()),
    ] {
        assert_eq!(
            cluster.ok(path).await,
            format!(r#"{{"status":"success","data":{data}}}"#),
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exemplars_are_charged_for_what_they_hold() {
    let mut cluster = Cluster::new(1);
    let series = labels(&[("__name__", "a"), ("job", "j")]);
    cluster.add(0, 1, series, &[(0, 1.0), (100_000, 2.0)]);
    let all: Vec<_> = (0..200).map(|i| (i * 100, i as f64)).collect();
    cluster.with_head(0, |head| head.exemplars.push(exemplars_of("a", &all)));
    let query = "query=a&start=0&end=200";
    for of in ["the head", "a block"] {
        cluster.query.memory.query_bytes = 4000;
        let (status, body) = cluster.get(&format!("/api/v1/query_exemplars?{query}")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{of}: {body}");
        assert!(body.contains("--query.max-bytes"), "{of}: {body}");
        cluster.query.memory.query_bytes = 0;
        assert_eq!(exemplars(&cluster, query).await[0].1.len(), all.len(), "{of}");
        if of == "the head" {
            cluster.publish(0, 1).await;
            cluster.with_head(0, |head| head.exemplars.clear());
        }
    }
}
