//! The endpoints for reading that are not queries: federation, remote read, search, syntax trees.

#![allow(clippy::unwrap_used)]

mod support;

use axum::body::Body;
use gnomon_proto::ServiceError;
use gnomon_proto::prometheus::{ChunkedReadResponse, LabelMatcher, Query, ReadHints, ReadRequest, ReadResponse};
use http::{Request, StatusCode};
use prost::Message;
use support::{Cluster, NOW_MS, example, labels};
use tower::ServiceExt as _;

#[tokio::test(flavor = "multi_thread")]
async fn federation_gives_the_newest_samples_with_external_labels() {
    let cluster = example();
    let (status, body) = cluster.get("/federate?match[]=up&match[]=requests_total").await;
    assert_eq!(status, StatusCode::OK);
    let time = NOW_MS;
    assert_eq!(
        body,
        format!(
            "# TYPE requests_total untyped\n\
             requests_total{{job=\"api\",path=\"/<x>&\",instance=\"\",region=\"eu\",replica=\"r1\"}} 1170 {time}\n\
             # TYPE up untyped\n\
             up{{instance=\"a:9100\",job=\"node\",region=\"eu\",replica=\"r1\"}} 1 {time}\n\
             up{{instance=\"b:9100\",job=\"node\",region=\"eu\",replica=\"r1\"}} 0 {time}\n"
        )
    );
    let (status, body) = cluster.get("/federate?match[]=up%7B").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.contains("unexpected end of input"), "{body}");
    // Without matchers nothing is asked for.
    assert_eq!(
        cluster.get("/federate?match[]=%7B%7D").await,
        (StatusCode::OK, String::new())
    );
    let (_, one) = cluster.get("/federate?match[]=%7B%7D&match[]=requests_total").await;
    assert!(one.contains("requests_total") && !one.contains("up"), "{one}");
}

fn read_request(matchers: &[(&str, &str)]) -> Request<Body> {
    hinted_request(matchers, None, &[])
}

fn hinted_request(matchers: &[(&str, &str)], hints: Option<ReadHints>, accepted: &[i32]) -> Request<Body> {
    let matcher = |(name, value): &(&str, &str)| LabelMatcher {
        r#type: 0,
        name: (*name).into(),
        value: (*value).into(),
    };
    let request = ReadRequest {
        queries: vec![Query {
            start_timestamp_ms: NOW_MS - 60_000,
            end_timestamp_ms: NOW_MS,
            matchers: matchers.iter().map(matcher).collect(),
            hints,
        }],
        accepted_response_types: accepted.to_vec(),
    };
    let packed = snap::raw::Encoder::new()
        .compress_vec(&request.encode_to_vec())
        .unwrap();
    Request::post("/api/v1/read").body(Body::from(packed)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn remote_reads_give_samples_with_external_labels() {
    let cluster = example();
    let (status, body) = cluster
        .send_for_bytes(read_request(&[("__name__", "up"), ("region", "eu")]))
        .await;
    assert_eq!(status, StatusCode::OK);
    let bytes = snap::raw::Decoder::new().decompress_vec(&body).unwrap();
    let response = ReadResponse::decode(&bytes[..]).unwrap();
    let series = &response.results[0].timeseries;
    assert_eq!(series.len(), 2);
    let names: Vec<_> = series[0].labels.iter().map(|l| l.name.as_str()).collect();
    assert_eq!(names, ["__name__", "instance", "job", "region", "replica"]);
    assert_eq!(series[0].samples.last().map(|s| s.timestamp), Some(NOW_MS));
}

/// Each series' labels, with its number of samples.
fn unpacked(body: &[u8]) -> Vec<(usize, usize)> {
    let bytes = snap::raw::Decoder::new().decompress_vec(body).unwrap();
    let response = ReadResponse::decode(&bytes[..]).unwrap();
    let series = response.results.iter().flat_map(|result| &result.timeseries);
    series.map(|one| (one.labels.len(), one.samples.len())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn remote_reads_follow_hints_and_ask_for_nothing_without_matchers() {
    let cluster = example();
    let up = [("__name__", "up")];
    let hints = |func: &str, start_ms: i64| {
        Some(ReadHints {
            func: func.into(),
            start_ms,
            ..ReadHints::default()
        })
    };
    for (matchers, hints, expected) in [
        (&up[..], None, vec![(5, 5), (5, 5)]),
        (&up, hints("rate", NOW_MS - 20_000), vec![(5, 2), (5, 2)]),
        (&up, hints("series", 0), vec![(5, 0), (5, 0)]),
        (&up, hints("", NOW_MS + 1), vec![]),
        (&[], None, vec![]),
        (&[], hints("series", 0), vec![]),
    ] {
        let (status, body) = cluster
            .send_for_bytes(hinted_request(matchers, hints.clone(), &[]))
            .await;
        assert_eq!((status, unpacked(&body)), (StatusCode::OK, expected), "{hints:?}");
    }
    let request = hinted_request(&up, hints("series", 0), &[1]);
    let (status, mut frames) = cluster.send_for_bytes(request).await;
    assert_eq!(status, StatusCode::OK);
    let mut series = 0;
    while !frames.is_empty() {
        // Short ones: a byte says how long, four are the checksum.
        let rest = frames.split_off(5 + usize::from(frames[0]));
        let message = ChunkedReadResponse::decode(&frames[5..]).unwrap();
        assert_eq!(message.chunked_series[0].labels.len(), 5);
        assert!(message.chunked_series[0].chunks.is_empty());
        series += 1;
        frames = rest;
    }
    assert_eq!(series, 2);
    let (_, nothing) = cluster.send_for_bytes(hinted_request(&[], None, &[1])).await;
    assert!(nothing.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_slowly_takes_no_place_from_others() {
    let mut cluster = example();
    cluster.query.remote_read.concurrent = 1;
    let router = cluster.router();
    let silent = Body::from_stream(futures::stream::pending::<std::io::Result<Vec<u8>>>());
    let slow = Request::post("/api/v1/read").body(silent).unwrap();
    let slow = tokio::spawn(router.clone().oneshot(slow));
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let fast = router.oneshot(read_request(&[("__name__", "up")]));
    let answer = tokio::time::timeout(std::time::Duration::from_secs(20), fast).await;
    assert_eq!(answer.expect("no place").unwrap().status(), StatusCode::OK);
    assert!(!slow.is_finished());
    slow.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn remote_reads_are_limited() {
    let mut cluster = example();
    cluster.query.remote_read.samples = 3;
    let (status, body) = cluster.send(read_request(&[("__name__", "up")])).await;
    assert_eq!(
        (status, body.as_str()),
        (StatusCode::BAD_REQUEST, "exceeded sample limit (3)\n")
    );
    cluster.query.remote_read.samples = 0;
    cluster.query.memory.query_bytes = 100;
    let (status, body) = cluster.send(read_request(&[("__name__", "up")])).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(body.contains("--query.max-bytes"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_searched_for() {
    let mut cluster = example();
    let (status, body) = cluster.get("/api/v1/search/metric_names").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(
        body,
        r#"{"status":"error","errorType":"unavailable","error":"search API disabled"}"#
    );
    cluster.query.search.enabled = true;
    for (request, lines) in [
        (
            "metric_names?search[]=up",
            "{\"results\":[{\"name\":\"up\"}]}\n{\"status\":\"success\",\"has_more\":false}\n",
        ),
        (
            "label_names?batch_size=2&limit=3&sort_by=alpha&sort_dir=dsc",
            "{\"results\":[{\"name\":\"path\"},{\"name\":\"job\"}]}\n{\"results\":[{\"name\":\"instance\"}]}\n{\"status\":\"success\",\"has_more\":true}\n",
        ),
        (
            "label_values?label=instance&search[]=b&sort_by=score&include_score=true",
            "{\"results\":[{\"name\":\"b:9100\",\"score\":1}]}\n{\"status\":\"success\",\"has_more\":false}\n",
        ),
        (
            "label_values?label=instance&search[]=zzz",
            "{\"results\":[]}\n{\"status\":\"success\",\"has_more\":false}\n",
        ),
    ] {
        assert_eq!(
            cluster.ok(&format!("/api/v1/search/{request}")).await,
            lines,
            "{request}"
        );
    }
    for (request, why) in [
        ("label_values", "missing required parameter \\\"label\\\""),
        (
            "label_names?sort_by=size",
            "invalid sort_by \\\"size\\\" for label_names: must be \\\"alpha\\\" or \\\"score\\\"",
        ),
        ("label_names?sort_by=score", "sort_by=score requires search[] to be set"),
        ("label_names?sort_dir=asc", "sort_dir is only valid when sort_by is set"),
        (
            "label_names?limit=10001",
            "limit 10001 exceeds the configured maximum (10000, see --web.search.max-limit)",
        ),
        (
            "label_names?fuzz_threshold=101",
            "invalid fuzz_threshold \\\"101\\\": must be 0-100",
        ),
        (
            "label_names?fuzz_alg=x",
            "unsupported fuzz_alg \\\"x\\\": must be one of [subsequence jarowinkler]",
        ),
        (
            "label_names?case_sensitive=maybe",
            "invalid case_sensitive \\\"maybe\\\": must be boolean",
        ),
        (
            "metric_names?start=x",
            r#""error":"invalid time value for 'start': cannot parse \"x\" to a valid timestamp""#,
        ),
        (
            "label_names?start=2&end=1",
            "end timestamp must not be before start timestamp",
        ),
    ] {
        let (status, body) = cluster.get(&format!("/api/v1/search/{request}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{request}");
        assert!(body.contains(why), "{request}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn syntax_trees_are_shown() {
    let cluster = example();
    assert_eq!(
        cluster.ok("/api/v1/parse_query?query=-up").await,
        concat!(
            r#"{"status":"success","data":{"expr":{"anchored":false,"matchers":[{"name":"__name__","type":"=","value":"up"}],"#,
            r#""name":"up","offset":0,"smoothed":false,"startOrEnd":null,"timestamp":null,"type":"vectorSelector"},"#,
            r#""op":"-","type":"unaryExpr"}}"#
        )
    );
    let (status, body) = cluster.get("/api/v1/parse_query?query=").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(body.contains(r#"invalid parameter \"query\""#), "{body}");
}

/// Nothing at all is no answer, not even an incomplete one.
#[tokio::test(flavor = "multi_thread")]
async fn without_any_source_there_is_no_answer() {
    let cluster = Cluster::new(2);
    for shard in [0, 1] {
        cluster.add(
            shard,
            1,
            labels(&[("__name__", "up"), ("job", "a")]),
            &[(NOW_MS - 1000, 1.0)],
        );
        cluster.with_head(shard, |head| {
            head.failure = Some(ServiceError::Unavailable("no leader".into()))
        });
    }
    for request in [
        "/api/v1/query?query=up",
        "/api/v1/series?match[]=up",
        "/api/v1/labels",
        "/api/v1/label/job/values",
    ] {
        let (status, body) = cluster.get(request).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{request}");
        assert!(body.contains("nothing could be read: shard 0"), "{request}: {body}");
    }
    cluster.with_head(1, |head| head.failure = None);
    let found = cluster.ok("/api/v1/query?query=up").await;
    assert!(found.contains("\"warnings\""), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_listed() {
    let cluster = Cluster::new(1);
    cluster.add(0, 1, labels(&[("__name__", "up")]), &[(1000, 1.0), (2000, 1.0)]);
    let path = cluster.publish(0, 1).await;
    cluster.tell();
    let body = cluster.ok("/api/v1/status/tsdb/blocks").await;
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    let block = &json["data"]["blocks"][0];
    assert_eq!(
        (block["minTime"].as_i64(), block["maxTime"].as_i64()),
        (Some(1000), Some(2001))
    );
    assert!(path.contains(block["ulid"].as_str().unwrap()), "{body}");
}
