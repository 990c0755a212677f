//! What of the HTTP API came with Prometheus 3, and bodies that are multipart forms.

#![allow(clippy::unwrap_used)]

mod support;

use axum::body::{Body, BodyDataStream};
use futures::StreamExt;
use gnomon_proto::ServiceError;
use gnomon_proto::client::{MetricFamily, MetricType};
use http::{Request, StatusCode, header};
use prost::Message;
use support::{Cluster, NOW_MS, example, labels};
use tower::ServiceExt;

const PROTOBUF: &str =
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.7,text/plain;q=0.3";

fn accepting(path: &str, accept: &str) -> Request<Body> {
    let request = Request::get(path).header(header::ACCEPT, accept);
    request.body(Body::empty()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn federation_speaks_protobuf() {
    let cluster = example();
    let router = cluster.router();
    let request = accepting("/federate?match[]=up&match[]=up&match[]=requests_total", PROTOBUF);
    let response = router.clone().oneshot(request).await.unwrap();
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited; \
         escaping=underscores"
    );
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let mut rest = &bytes[..];
    let mut families = Vec::new();
    while !rest.is_empty() {
        families.push(MetricFamily::decode_length_delimited(&mut rest).unwrap());
    }
    let shown: Vec<_> = families
        .iter()
        .map(|f| (f.name(), f.r#type(), f.metric.len()))
        .collect();
    assert_eq!(
        shown,
        [
            ("requests_total", MetricType::Untyped, 1),
            ("up", MetricType::Untyped, 2)
        ]
    );
    let first = &families[1].metric[0];
    let pairs: Vec<_> = first.label.iter().map(|pair| (pair.name(), pair.value())).collect();
    let expected = [
        ("instance", "a:9100"),
        ("job", "node"),
        ("region", "eu"),
        ("replica", "r1"),
    ];
    assert_eq!(pairs, expected);
    assert_eq!((first.untyped.unwrap().value(), first.timestamp_ms()), (1.0, NOW_MS));
    let text = router.oneshot(accepting("/federate?match[]=up", "*/*")).await.unwrap();
    assert_eq!(
        text.headers()[header::CONTENT_TYPE],
        "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_value_of_stats_than_those_there_are_is_warned_of() {
    let cluster = example();
    let warning = r#"value "foo" for parameter "stats" is deprecated and will be rejected in the next major release, use "true" or "all""#;
    for query in ["query?query=up", "query_range?query=up&start=1&end=2&step=1"] {
        for (stats, warnings) in [
            ("foo", serde_json::json!([warning])),
            ("true", serde_json::Value::Null),
            ("all", serde_json::Value::Null),
        ] {
            let body = cluster.ok(&format!("/api/v1/{query}&stats={stats}")).await;
            let json: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(json["warnings"], warnings, "{body}");
            assert!(json["data"]["stats"].is_object(), "{body}");
        }
    }
}

/// Who federates writes markers for series that are not there: better no answer.
#[tokio::test(flavor = "multi_thread")]
async fn federation_is_refused_where_a_source_is_missing() {
    let cluster = example();
    cluster.with_head(1, |head| {
        head.failure = Some(ServiceError::Unavailable("no leader".into()))
    });
    let router = cluster.router();
    let ask = |path: &str, accept: &str| router.clone().oneshot(accepting(path, accept));
    let text = async |response: axum::response::Response| {
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    };
    for accept in ["*/*", PROTOBUF] {
        // Also where the request says that it would take a part.
        let response = ask("/federate?match[]=up&partial_response=true", accept).await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body = text(response).await;
        assert!(body.contains("shard 1") && body.contains("no leader"), "{body}");
    }
    let metrics = text(ask("/metrics", "*/*").await.unwrap()).await;
    assert!(
        metrics.contains("prometheus_web_federation_errors_total 2\n"),
        "{metrics}"
    );
    let partial = text(ask("/api/v1/query?query=up", "*/*").await.unwrap()).await;
    assert!(partial.contains("a:9100") && partial.contains("warnings"), "{partial}");
}

async fn event(stream: &mut BodyDataStream) -> Option<String> {
    let next = stream.next().await?;
    Some(String::from_utf8(next.unwrap().to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_are_listed_and_streamed() {
    let cluster = example();
    let router = cluster.router();
    // Before the node is ready, too.
    *cluster.node.0.lock() = Err("starting".into());
    cluster.notifications.add(gnomon_querier::STARTING);
    let starting = r#"{"text":"gnomon is starting.","date":"2015-07-01T20:11:40Z","active":true}"#;
    assert_eq!(
        cluster.ok("/api/v1/notifications").await,
        format!(r#"{{"status":"success","data":[{starting}]}}"#)
    );
    let live = || {
        let request = Request::get("/api/v1/notifications/live").header(header::ORIGIN, "http://elsewhere");
        router.clone().oneshot(request.body(Body::empty()).unwrap())
    };
    let response = live().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-cache");
    assert_eq!(response.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN], "*");
    let mut first = response.into_body().into_data_stream();
    assert_eq!(event(&mut first).await.unwrap(), format!("data: {starting}\n\n"));
    cluster.notifications.remove(gnomon_querier::STARTING);
    let ended = starting.replace("true", "false");
    assert_eq!(event(&mut first).await.unwrap(), format!("data: {ended}\n\n"));
    // The test's limit is two.
    let second = live().await.unwrap();
    let refused = live().await.unwrap();
    assert_eq!(refused.status(), StatusCode::NO_CONTENT);
    assert_eq!(refused.headers()[header::CONTENT_TYPE], "text/event-stream");
    drop(second);
    let mut third = live().await.unwrap().into_body().into_data_stream();
    cluster.notifications.close();
    assert_eq!(event(&mut third).await, None);
    assert_eq!(event(&mut first).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn own_metrics_are_shown_by_name() {
    let cluster = example();
    let of = |pattern: &str| format!("/api/v1/status/self_metrics?metric_name_pattern={pattern}");
    assert_eq!(
        cluster.ok(&of("prometheus_engine_queries(_concurrent_max)?")).await,
        r#"{"status":"success","data":[{"name":"prometheus_engine_queries","help":"The current number of queries being executed or waiting.","type":"GAUGE","metric":[{"gauge":{"value":0}}]},{"name":"prometheus_engine_queries_concurrent_max","help":"The max number of concurrent queries.","type":"GAUGE","metric":[{"gauge":{"value":20}}]}]}"#
    );
    // The whole name has to match.
    let nothing = r#"{"status":"success","data":[]}"#;
    assert_eq!(cluster.ok(&of("engine")).await, nothing);
    let all = cluster.ok("/api/v1/status/self_metrics").await;
    assert!(
        all.contains(r#""type":"HISTOGRAM""#) && all.contains(r#""type":"SUMMARY""#),
        "{all}"
    );
    let (status, body) = cluster.get(&of("(")).await;
    assert_eq!(
        (status, body.as_str()),
        (
            StatusCode::BAD_REQUEST,
            r#"{"status":"error","errorType":"bad_data","error":"invalid metric_name_pattern: error parsing regexp: missing closing ): `^(?:()$`"}"#
        )
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn relabelling_is_shown_rule_by_rule() {
    let cluster = example();
    let of = |pool: &str, labels: &str| format!("/api/v1/targets/relabel_steps?scrapePool={pool}&labels={labels}");
    let host = r#""rule":{"source_labels":["__address__"],"separator":";","regex":"(.*):\\d+","target_label":"host","replacement":"$1","action":"replace"}"#;
    let zone =
        r#""rule":{"source_labels":["zone","host"],"separator":";","regex":"b;.*","replacement":"$1","action":"drop"}"#;
    let shard = r#""rule":{"source_labels":["host"],"separator":";","regex":"(.*)","modulus":4,"target_label":"shard","replacement":"$1","action":"hashmod"}"#;
    let labels = r#""__address__":"a:9100","host":"a""#;
    assert_eq!(
        cluster.ok(&of("node", "{%22__address__%22:%22a:9100%22}")).await,
        format!(
            r#"{{"status":"success","data":{{"steps":[{{{host},"output":{{{labels}}},"keep":true}},{{{zone},"output":{{{labels}}},"keep":true}},{{{shard},"output":{{{labels},"shard":"1"}},"keep":true}}]}}}}"#
        )
    );
    let dropped = cluster
        .ok(&of("node", "{%22__address__%22:%22a:1%22,%22zone%22:%22b%22}"))
        .await;
    let end = format!(r#"{{{zone},"output":{{}},"keep":false}},{{{shard},"output":{{}},"keep":false}}]}}}}"#);
    assert!(dropped.ends_with(&end), "{dropped}");
    for (path, why) in [
        (of("", "{}"), "no scrapePool parameter provided"),
        (of("node", ""), "no labels parameter provided"),
        (of("node", "x"), "error parsing labels: "),
        (
            of("other", "{}"),
            r#"error retrieving scrape config: scrape pool \"other\" not found"#,
        ),
    ] {
        let (status, body) = cluster.get(&path).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
        assert!(body.contains(why), "{path}: {body}");
    }
}

fn multipart(path: &str, content_type: &str, body: &str) -> Request<Body> {
    let request = Request::post(path).header(header::CONTENT_TYPE, content_type);
    request.body(Body::from(body.to_owned())).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn multipart_forms_are_read() {
    let cluster = example();
    let field =
        |name: &str, value: &str| format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    let content_type = "multipart/form-data; boundary=B";
    let body = field("query", "1+1") + &field("time", "5") + "--B--\r\n";
    let (status, answer) = cluster.send(multipart("/api/v1/query", content_type, &body)).await;
    assert_eq!(
        (status, answer.as_str()),
        (
            StatusCode::OK,
            r#"{"status":"success","data":{"resultType":"scalar","result":[5,"2"]}}"#
        )
    );
    // As in Go, what the query string says comes first here.
    let (_, answer) = cluster
        .send(multipart("/api/v1/query?query=7", content_type, &body))
        .await;
    assert!(answer.contains(r#"[5,"7"]"#), "{answer}");
    let both = field("match[]", "up{instance=\"a:9100\"}") + &field("match[]", "requests_total") + "--B--";
    for path in ["/api/v1/series", "/api/v1/labels"] {
        let (status, answer) = cluster.send(multipart(path, content_type, &both)).await;
        assert_eq!(status, StatusCode::OK);
        assert!(answer.contains("path") && !answer.contains("b:9100"), "{answer}");
    }
    for (content_type, body, why) in [
        ("multipart/form-data", "", "no multipart boundary param in Content-Type"),
        (content_type, "--B\r\n", "multipart: it ends in the header of a part"),
    ] {
        let (status, answer) = cluster.send(multipart("/api/v1/query", content_type, body)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        let expected = format!(r#""error":"error parsing form values: {why}"}}"#);
        assert!(answer.ends_with(&expected), "{answer}");
    }
    let large = field("query", &"x".repeat(10 << 20));
    let (status, answer) = cluster.send(multipart("/api/v1/query", content_type, &large)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(answer.contains("at most 10485760 bytes are read"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_labels_come_escaped_or_not_and_are_valid_utf8() {
    let cluster = Cluster::new(1);
    let odd = labels(&[("__name__", "m"), ("ä/b", "1")]);
    cluster.add(0, 1, odd, &[(NOW_MS, 1.0)]);
    for name in ["U___e4__2f_b", "%C3%A4%2Fb"] {
        let found = cluster.ok(&format!("/api/v1/label/{name}/values")).await;
        assert_eq!(found, r#"{"status":"success","data":["1"]}"#, "{name}");
    }
    for name in ["%ff", "U__"] {
        let (status, body) = cluster.get(&format!("/api/v1/label/{name}/values")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(
            body.contains(r#""errorType":"bad_data","error":"invalid label name: "#),
            "{body}"
        );
    }
}

/// Caches are to tell answers apart by the origin, whoever asked first.
#[tokio::test(flavor = "multi_thread")]
async fn answers_vary_with_the_origin() {
    let router = example().router();
    for path in ["/api/v1/query?query=1", "/api/v1/query", "/api/v1/nothing"] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let vary = response.headers().get_all(header::VARY);
        assert!(vary.iter().any(|value| value == "Origin"), "{path}");
        assert!(response.headers().get(header::ACCESS_CONTROL_ALLOW_METHODS).is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_warnings_ten_are_shown() {
    let cluster = Cluster::new(13);
    cluster.add(0, 1, labels(&[("__name__", "up")]), &[(NOW_MS, 1.0)]);
    for shard in 1..13 {
        cluster.with_head(shard, |head| {
            head.failure = Some(ServiceError::Unavailable("no leader".into()))
        });
    }
    let answer: serde_json::Value = serde_json::from_str(&cluster.ok("/api/v1/query?query=up").await).unwrap();
    let warnings = answer["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 11, "{answer}");
    assert_eq!(warnings[10], "2 more warning annotations omitted");
}

/// A query that cannot even be read within its own time waits no longer than that for others that are being read.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reading_a_query_counts_against_its_timeout() {
    let router = example().router();
    let post = |timeout: &str, n: usize| {
        // Each another one, so that none is known already; reading one takes a good part of a second.
        let expression = format!("(?i)({}x{n}.*)", "host-0123456789-abcdefgh.example.com|".repeat(6_000));
        let form = format!("query=up%7Ba%3D~%22{expression}%22%7D&timeout={timeout}");
        let request = Request::post("/api/v1/query").header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        let router = router.clone();
        let request = request.body(Body::from(form)).unwrap();
        tokio::spawn(async move { router.oneshot(request).await.unwrap() })
    };
    let others: Vec<_> = (0..4).map(|n| post("1m", n)).collect();
    let waiting = async || {
        let request = Request::get("/metrics").body(Body::empty()).unwrap();
        let answer = router.clone().oneshot(request).await.unwrap();
        let text = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(text.to_vec())
            .unwrap()
            .contains("gnomon_queries_waiting 2\n")
    };
    while !waiting().await {
        assert!(
            !others.iter().all(tokio::task::JoinHandle::is_finished),
            "none had to wait"
        );
        tokio::task::yield_now().await;
    }
    let answer = post("1ms", 4).await.unwrap();
    assert!(
        !others.iter().all(tokio::task::JoinHandle::is_finished),
        "it waited for the others"
    );
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    assert!(String::from_utf8_lossy(&body).contains("query timed out in query queue"));
    for other in others {
        assert_eq!(other.await.unwrap().status(), StatusCode::BAD_REQUEST);
    }
}
