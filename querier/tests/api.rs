//! The HTTP API, byte for byte.

#![allow(clippy::unwrap_used)]

mod support;

use axum::body::Body;
use gnomon_proto::{ServiceError, v1};
use http::{Request, StatusCode, header};
use std::sync::Arc;
use support::{Cluster, NOW_MS, Scraper, example, labels};
use tower::ServiceExt;

#[tokio::test(flavor = "multi_thread")]
async fn instant_queries_of_every_type() {
    let cluster = example();
    for (query, data) in [
        (
            "up",
            r#"{"resultType":"vector","result":[{"metric":{"__name__":"up","instance":"a:9100","job":"node"},"value":[1435781500,"1"]},{"metric":{"__name__":"up","instance":"b:9100","job":"node"},"value":[1435781500,"0"]}]}"#,
        ),
        (
            "sum(up)",
            r#"{"resultType":"vector","result":[{"metric":{},"value":[1435781500,"1"]}]}"#,
        ),
        (
            "1e21%20%2B%200",
            r#"{"resultType":"scalar","result":[1435781500,"1000000000000000000000"]}"#,
        ),
        (
            "%22a%3Cb%22",
            r#"{"resultType":"string","result":[1435781500,"a\u003cb"]}"#,
        ),
        ("nothing", r#"{"resultType":"vector","result":[]}"#),
        (
            "up%7Binstance%3D%22a:9100%22%7D%5B30s%5D",
            r#"{"resultType":"matrix","result":[{"metric":{"__name__":"up","instance":"a:9100","job":"node"},"values":[[1435781485,"1"],[1435781500,"1"]]}]}"#,
        ),
        (
            "requests_total%2F10&time=1435781500.000",
            r#"{"resultType":"vector","result":[{"metric":{"job":"api","path":"/<x>&"},"value":[1435781500,"117"]}]}"#,
        ),
    ] {
        let body = cluster.ok(&format!("/api/v1/query?query={query}")).await;
        assert_eq!(body, format!(r#"{{"status":"success","data":{data}}}"#), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn range_queries_and_posted_forms() {
    let cluster = example();
    let start = NOW_MS / 1000 - 60;
    let form = format!("query=sum(up)&start={start}&end={}&step=30s", NOW_MS / 1000);
    let request = Request::post("/api/v1/query_range")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded; charset=utf-8")
        .body(Body::from(form))
        .unwrap();
    let (status, body) = cluster.send(request).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        body,
        r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1435781440,"1"],[1435781470,"1"],[1435781500,"1"]]}]}}"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn stats_explain_limit_and_infos_come_beside_the_result() {
    let cluster = example();
    let body = cluster.ok("/api/v1/query?query=up&limit=1&stats=all&explain=1").await;
    let json: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(json["data"]["result"].as_array().unwrap().len(), 1);
    assert_eq!(json["warnings"], serde_json::json!(["results truncated due to limit"]));
    assert!(json["data"]["stats"]["timings"]["execTotalTime"].is_number());
    assert!(
        json["data"]["stats"]["samples"]["totalQueryableSamples"]
            .as_u64()
            .unwrap()
            > 0
    );
    assert!(json["data"]["explain"].as_str().unwrap().contains("up"));
    let body = cluster.ok("/api/v1/query?query=rate(up%5B5m%5D)").await;
    assert!(
        body.contains(r#""infos":["PromQL info: metric might not be a counter"#),
        "{body}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_have_prometheus_words_and_codes() {
    let cluster = example();
    let range = "/api/v1/query_range?query=up&start=0&end=100";
    let bad = [
        (
            "/api/v1/query?query=up%7B",
            r#"invalid parameter \"query\": 1:4: parse error: unexpected end of input inside braces"#,
        ),
        (
            "/api/v1/query?query=up&time=abc",
            r#"invalid parameter \"time\": invalid time value for 'time': cannot parse \"abc\" to a valid timestamp"#,
        ),
        (
            "/api/v1/query?query=up&timeout=abc",
            r#"invalid parameter \"timeout\": cannot parse \"abc\" to a valid duration"#,
        ),
        (
            "/api/v1/query?query=up&lookback_delta=abc",
            r#"error parsing lookback delta duration: cannot parse \"abc\" to a valid duration"#,
        ),
        (
            "/api/v1/query?query=up&limit=abc",
            r#"invalid parameter \"limit\": strconv.Atoi: parsing \"abc\": invalid syntax"#,
        ),
        (
            "/api/v1/query?query=up&limit=-1",
            r#"invalid parameter \"limit\": limit must be non-negative"#,
        ),
        (
            "/api/v1/query_range?query=up&end=1&step=1",
            r#"invalid parameter \"start\": cannot parse \"\" to a valid timestamp"#,
        ),
        (
            "/api/v1/query_range?query=up&start=2&end=1&step=1",
            r#"invalid parameter \"end\": end timestamp must not be before start time"#,
        ),
        (
            &format!("{range}&step=0"),
            r#"invalid parameter \"step\": zero or negative query resolution step widths are not accepted. Try a positive integer"#,
        ),
        (
            &format!("{range}&step=0.001"),
            "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)",
        ),
        (
            "/api/v1/query_range?query=up%5B1m%5D&start=0&end=1&step=1",
            r#"invalid parameter \"query\": invalid expression type \"range vector\" for range query, must be Scalar or instant Vector"#,
        ),
        ("/api/v1/series", "no match[] parameter provided"),
        (
            "/api/v1/series?match%5B%5D=%7B%7D",
            r#"invalid parameter \"match[]\": match[] must contain at least one non-empty matcher"#,
        ),
        (
            "/api/v1/labels?start=x",
            r#"invalid parameter \"start\": invalid time value for 'start': cannot parse \"x\" to a valid timestamp"#,
        ),
        (
            "/api/v1/query_exemplars?query=up&start=2&end=1",
            "end timestamp must not be before start timestamp",
        ),
        ("/api/v1/metadata?limit=x", "limit must be a number"),
        (
            "/api/v1/rules?type=x",
            r#"invalid parameter \"type\": not supported value \"x\""#,
        ),
        ("/api/v1/status/tsdb?limit=0", "limit must be a positive number"),
    ];
    for (path, message) in bad {
        let (status, body) = cluster.get(path).await;
        assert_eq!(
            body,
            format!(r#"{{"status":"error","errorType":"bad_data","error":"{message}"}}"#),
            "{path}"
        );
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path}");
    }
    let (status, body) = cluster
        .get("/api/v1/query?query=label_replace(up,%22instance%22,%22x%22,%22%22,%22%22)")
        .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(body.contains(r#""errorType":"execution""#), "{body}");
    assert_eq!(cluster.get("/api/v1/nothing").await.0, StatusCode::NOT_FOUND);
    let (status, body) = cluster
        .send(Request::post("/api/v1/targets").body(Body::empty()).unwrap())
        .await;
    assert_eq!(
        (status, body.as_str()),
        (StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn series_and_labels() {
    let cluster = example();
    cluster.add(
        1,
        1,
        labels(&[("__name__", "dotted"), ("http.status", "200")]),
        &[(NOW_MS, 1.0)],
    );
    for (path, data) in [
        (
            "/api/v1/series?match%5B%5D=up&match%5B%5D=up%7Binstance%3D%22a:9100%22%7D",
            r#"[{"__name__":"up","instance":"a:9100","job":"node"},{"__name__":"up","instance":"b:9100","job":"node"}]"#,
        ),
        ("/api/v1/series?match%5B%5D=nothing", "[]"),
        (
            "/api/v1/labels",
            r#"["__name__","http.status","instance","job","path"]"#,
        ),
        ("/api/v1/labels?match%5B%5D=up", r#"["__name__","instance","job"]"#),
        ("/api/v1/label/job/values", r#"["api","node"]"#),
        ("/api/v1/label/job/values?end=1", "[]"),
        (
            "/api/v1/label/path/values?match%5B%5D=requests_total",
            r#"["/\u003cx\u003e\u0026"]"#,
        ),
        ("/api/v1/label/U__http_2e_status/values", r#"["200"]"#),
        ("/api/v1/label/http.status/values", r#"["200"]"#),
    ] {
        assert_eq!(
            cluster.ok(path).await,
            format!(r#"{{"status":"success","data":{data}}}"#),
            "{path}"
        );
    }
    assert_eq!(
        cluster.ok("/api/v1/series?match%5B%5D=up&limit=1").await,
        r#"{"status":"success","data":[{"__name__":"up","instance":"a:9100","job":"node"}],"warnings":["results truncated due to limit"]}"#
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn exemplars_and_metadata() {
    let cluster = example();
    let exemplar = |timestamp_ms, value| v1::Exemplar {
        labels: labels(&[("trace_id", "x")]).as_bytes().to_vec().into(),
        value,
        timestamp_ms,
    };
    cluster.with_head(0, |head| {
        head.exemplars.push(v1::SeriesExemplars {
            labels: labels(&[("__name__", "requests_total")]).as_bytes().to_vec().into(),
            exemplars: vec![exemplar(2_500, 6.5), exemplar(1_000, 1.0)],
        });
        head.metadata.push(v1::MetricMetadata {
            metric: "up".into(),
            r#type: "gauge".into(),
            help: "Is it?".into(),
            unit: String::new(),
        });
    });
    cluster.with_head(1, |head| {
        for help in ["Is it?", "Is it up?"] {
            head.metadata.push(v1::MetricMetadata {
                metric: "up".into(),
                r#type: "gauge".into(),
                help: help.into(),
                unit: String::new(),
            });
        }
    });
    for (path, data) in [
        (
            "/api/v1/query_exemplars?query=requests_total",
            r#"[{"seriesLabels":{"__name__":"requests_total"},"exemplars":[{"labels":{"trace_id":"x"},"value":"1","timestamp":1},{"labels":{"trace_id":"x"},"value":"6.5","timestamp":2.500}]}]"#,
        ),
        (
            "/api/v1/metadata",
            r#"{"up":[{"type":"gauge","help":"Is it up?","unit":""},{"type":"gauge","help":"Is it?","unit":""}]}"#,
        ),
        (
            "/api/v1/metadata?limit_per_metric=1",
            r#"{"up":[{"type":"gauge","help":"Is it up?","unit":""}]}"#,
        ),
        ("/api/v1/metadata?metric=down", "{}"),
        ("/api/v1/metadata?limit=0", "{}"),
    ] {
        assert_eq!(
            cluster.ok(path).await,
            format!(r#"{{"status":"success","data":{data}}}"#),
            "{path}"
        );
    }
    assert_eq!(
        cluster.get("/api/v1/query_exemplars?query=1").await.0,
        StatusCode::NO_CONTENT
    );
}

fn scraper(pool: &str, health: &str) -> Scraper {
    let bytes = |pairs: &[(&str, &str)]| labels(pairs).as_bytes().to_vec().into();
    let instance = format!("{pool}:9100");
    Scraper {
        targets: v1::ListTargetsResponse {
            active: vec![v1::ActiveTarget {
                discovered_labels: bytes(&[("__address__", &instance), ("job", pool)]),
                labels: bytes(&[("instance", &instance), ("job", pool)]),
                scrape_pool: pool.into(),
                scrape_url: format!("http://{instance}/metrics"),
                global_url: format!("http://{instance}/metrics"),
                last_error: if health == "up" {
                    String::new()
                } else {
                    "connection refused".into()
                },
                last_scrape_ms: if health == "unknown" { 0 } else { NOW_MS - 1 },
                last_scrape_duration_seconds: 0.006_158_981,
                health: health.into(),
                scrape_interval_ms: 15_000,
                scrape_timeout_ms: 10_000,
                held_scrapes: 0,
                held_since_ms: 0,
                shed_samples: 0,
                scraper: String::new(),
            }],
            dropped: vec![v1::DroppedTarget {
                discovered_labels: bytes(&[("__address__", "gone:1")]),
                scrape_pool: "node".into(),
            }],
            dropped_counts: [("node".to_owned(), 1)].into(),
            counts: Vec::new(),
        },
        metadata: vec![v1::TargetMetadata {
            target_labels: bytes(&[("instance", &instance), ("job", pool)]),
            metric: "up".into(),
            r#type: "gauge".into(),
            help: "h".into(),
            unit: String::new(),
        }],
        failure: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn targets_of_all_scrapers() {
    let mut cluster = Cluster::new(1);
    cluster.scrapers = vec![
        ("s2".into(), Arc::new(scraper("node", "down"))),
        ("s1".into(), Arc::new(scraper("api", "up"))),
    ];
    let api = r#"{"discoveredLabels":{"__address__":"api:9100","job":"api"},"labels":{"instance":"api:9100","job":"api"},"scrapePool":"api","scrapeUrl":"http://api:9100/metrics","globalUrl":"http://api:9100/metrics","lastError":"","lastScrape":"2015-07-01T20:11:39.999Z","lastScrapeDuration":0.006158981,"health":"up","scrapeInterval":"15s","scrapeTimeout":"10s","scraper":"s1"}"#;
    let node = api
        .replace("api", "node")
        .replace("s1", "s2")
        .replace(r#""lastError":"""#, r#""lastError":"connection refused""#)
        .replace(r#""health":"up""#, r#""health":"down""#);
    let dropped = r#"{"discoveredLabels":{"__address__":"gone:1"},"scrapePool":"node"}"#;
    for (path, data) in [
        (
            "/api/v1/targets",
            format!(
                r#"{{"activeTargets":[{api},{node}],"droppedTargets":[{dropped}],"droppedTargetCounts":{{"node":2}}}}"#
            ),
        ),
        (
            "/api/v1/targets?state=active&scrapePool=api",
            format!(r#"{{"activeTargets":[{api}],"droppedTargets":[],"droppedTargetCounts":{{}}}}"#),
        ),
        ("/api/v1/scrape_pools", r#"{"scrapePools":["api","node"]}"#.to_owned()),
        (
            "/api/v1/targets/metadata?metric=up&limit=1",
            r#"[{"target":{"instance":"api:9100","job":"api"},"type":"gauge","help":"h","unit":""}]"#.to_owned(),
        ),
        (
            "/api/v1/targets/metadata?limit=1",
            r#"[{"target":{"instance":"api:9100","job":"api"},"metric":"up","type":"gauge","help":"h","unit":""}]"#
                .to_owned(),
        ),
    ] {
        assert_eq!(
            cluster.ok(path).await,
            format!(r#"{{"status":"success","data":{data}}}"#),
            "{path}"
        );
    }
    // A selector is for the labels of targets, none of which has a metric's name.
    for (selector, targets) in [
        ("up", 0),
        ("%7B__name__=~%22.%2B%22%7D", 0),
        ("%7Bjob=%22node%22%7D", 1),
        ("%7Bjob!='x'%7D", 2),
        ("%7B%7D", 2),
    ] {
        let body = cluster
            .ok(&format!("/api/v1/targets/metadata?match_target={selector}"))
            .await;
        assert_eq!(body.matches("\"target\"").count(), targets, "{selector}: {body}");
        assert!(!body.contains("warnings"), "{selector}: {body}");
    }
    let lost = Scraper {
        failure: Some(ServiceError::Unavailable("gone".into())),
        ..Scraper::default()
    };
    cluster.scrapers[0] = ("s2".into(), Arc::new(lost));
    let body = cluster.ok("/api/v1/targets?state=active").await;
    assert!(
        body.ends_with(r#""warnings":["scraper s2 could not be asked for its targets: unavailable: gone"]}"#),
        "{body}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn status_endpoints() {
    let cluster = example();
    for (path, data) in [
        ("config", r#"{"yaml":"global:\n  scrape_interval: 15s\n"}"#),
        ("flags", r#"{"web.enable-lifecycle":"true"}"#),
        (
            "runtimeinfo",
            r#"{"startTime":"2015-07-01T20:10:39.999Z","CWD":"/data","hostname":"host","serverTime":"2015-07-01T20:11:40Z","reloadConfigSuccess":true,"lastConfigTime":"2015-07-01T20:10:40Z","corruptionCount":0,"goroutineCount":7,"GOMAXPROCS":2,"GOMEMLIMIT":9223372036854775807,"GOGC":"","GODEBUG":"","storageRetention":"15d","gnomonRoles":["querier"]}"#,
        ),
        (
            "buildinfo",
            r#"{"version":"3.14.0","revision":"abc","branch":"main","buildUser":"me","buildDate":"20260101-00:00:00","goVersion":"rustc 1.95.0","gnomonVersion":"0.1.0"}"#,
        ),
        (
            "tsdb",
            r#"{"headStats":{"numSeries":3,"numLabelPairs":6,"chunkCount":3,"minTime":1435780915000,"maxTime":1435781500000},"seriesCountByMetricName":[{"name":"up","value":3}],"labelValueCountByLabelName":[],"memoryInBytesByLabelName":[],"seriesCountByLabelValuePair":[]}"#,
        ),
        ("walreplay", r#"{"min":0,"max":0,"current":0}"#),
    ] {
        let body = cluster.ok(&format!("/api/v1/status/{path}")).await;
        assert_eq!(body, format!(r#"{{"status":"success","data":{data}}}"#), "{path}");
    }
    for (path, data) in [
        ("rules", r#"{"groups":[]}"#),
        ("alerts", r#"{"alerts":[]}"#),
        (
            "alertmanagers",
            r#"{"activeAlertmanagers":[],"droppedAlertmanagers":[]}"#,
        ),
        ("notifications", "[]"),
        ("format_query?query=sum(up)by(job)", r#""sum by (job) (up)""#),
    ] {
        let body = cluster.ok(&format!("/api/v1/{path}")).await;
        assert_eq!(body, format!(r#"{{"status":"success","data":{data}}}"#), "{path}");
    }
    let features: serde_json::Value = serde_json::from_str(&cluster.ok("/api/v1/features").await).unwrap();
    assert_eq!(features["data"]["promql_functions"]["rate"], true);
    assert_eq!(features["data"]["api"]["lifecycle"], true);
    for (area, feature, there) in [
        ("api", "admin", false),
        ("api", "openapi_3.2", true),
        ("otlp_receiver", "native_delta_ingestion", false),
        ("prometheus", "server_mode", true),
        ("promql", "group_left", true),
        ("promql", "fill", false),
        ("promql", "per_query_lookback_delta", true),
        ("promql_operators", "=~", true),
        ("promql_operators", "limitk", false),
        ("rules", "keep_firing_for", false),
        ("scrape", "extra_scrape_metrics", true),
        ("service_discovery_providers", "file", true),
        ("tsdb", "exemplar_storage", true),
        ("ui", "ui_v3", false),
    ] {
        assert_eq!(features["data"][area][feature], there, "{area} {feature}");
    }
    assert!(features["data"]["service_discovery_providers"]["consul"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn health_readiness_metrics_and_page() {
    let mut cluster = example();
    assert_eq!(cluster.ok("/-/healthy").await, "gnomon is Healthy.\n");
    assert_eq!(cluster.ok("/-/ready").await, "gnomon is Ready.\n");
    assert!(cluster.ok("/").await.contains("gnomon"));
    cluster.registry = prometheus::Registry::new();
    let router = cluster.router();
    for path in ["/api/v1/query?query=up", "/api/v1/label/job/values", "/metrics"] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        assert_eq!(router.clone().oneshot(request).await.unwrap().status(), StatusCode::OK);
    }
    let request = Request::get("/api/v1/query").body(Body::empty()).unwrap();
    assert_eq!(router.oneshot(request).await.unwrap().status(), StatusCode::BAD_REQUEST);
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&cluster.registry.gather())
        .unwrap();
    for line in [
        r#"prometheus_http_requests_total{code="200",handler="/api/v1/query"} 1"#,
        r#"prometheus_http_requests_total{code="400",handler="/api/v1/query"} 1"#,
        r#"prometheus_http_requests_total{code="200",handler="/api/v1/label/:name/values"} 1"#,
        r#"prometheus_http_request_duration_seconds_count{handler="/metrics"} 1"#,
        r#"gnomon_query_duration_seconds_count{outcome="success"} 1"#,
        r#"prometheus_engine_query_duration_seconds_count{slice="inner_eval"} 1"#,
        "process_resident_memory_bytes",
        "prometheus_engine_queries_concurrent_max 20",
    ] {
        assert!(text.contains(line), "{text}");
    }
    *cluster.node.0.lock() = Err("the log is being replayed".into());
    let unavailable = "Service Unavailable: the log is being replayed\n";
    for path in ["/-/ready", "/api/v1/query?query=up"] {
        assert_eq!(
            cluster.get(path).await,
            (StatusCode::SERVICE_UNAVAILABLE, unavailable.to_owned())
        );
    }
    assert_eq!(cluster.get("/-/healthy").await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn compression_cors_and_prefix() {
    let mut cluster = example();
    cluster.web.route_prefix = "/prom/".into();
    cluster.web.cors_origin = "https://a\\.example".into();
    let router = cluster.router();
    let ask = |path: &str, headers: &[(header::HeaderName, &str)]| {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        router.clone().oneshot(request.body(Body::empty()).unwrap())
    };
    let path = "/prom/api/v1/query_range?query=up&start=1435781000&end=1435781500&step=1";
    for encoding in ["gzip", "zstd"] {
        let response = ask(path, &[(header::ACCEPT_ENCODING, encoding)]).await.unwrap();
        assert_eq!(response.headers()[header::CONTENT_ENCODING], encoding);
    }
    let response = ask(path, &[(header::ORIGIN, "https://a.example")]).await.unwrap();
    assert_eq!(
        response.headers()[header::ACCESS_CONTROL_ALLOW_ORIGIN],
        "https://a.example"
    );
    let response = ask(path, &[(header::ORIGIN, "https://b.example")]).await.unwrap();
    assert!(response.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN).is_none());
    assert_eq!(ask("/", &[]).await.unwrap().headers()[header::LOCATION], "/prom/");
    assert_eq!(ask("/prom/", &[]).await.unwrap().status(), StatusCode::OK);
    let preflight = Request::options("/prom/api/v1/query").header(header::ORIGIN, "https://a.example");
    let response = router
        .clone()
        .oneshot(preflight.body(Body::empty()).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::NO_CONTENT);
    assert_eq!(
        response.headers()[header::ACCESS_CONTROL_ALLOW_METHODS],
        "GET, POST, OPTIONS"
    );
    let options = async |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap()
    };
    for (path, allowed) in [
        ("/prom/", "GET, OPTIONS"),
        ("/prom/federate", "GET, OPTIONS"),
        ("/prom/metrics", "GET, OPTIONS"),
        ("/prom/-/healthy", "GET, HEAD, OPTIONS"),
        ("/prom/-/ready", "GET, HEAD, OPTIONS"),
    ] {
        let told = options("OPTIONS", path).await;
        assert_eq!(told.status(), StatusCode::OK, "{path}");
        assert_eq!(told.headers()[header::ALLOW], allowed, "{path}");
        let refused = options("DELETE", path).await;
        assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        assert_eq!(refused.headers()[header::ALLOW], allowed, "{path}");
        assert_eq!(refused.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
    }
    for (method, path, status) in [("GET", "/prom/nothing", 404), ("POST", "/prom/api/v1/read", 400)] {
        let refused = options(method, path).await;
        assert_eq!(refused.status().as_u16(), status, "{path}");
        assert_eq!(refused.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
    }
    let well = options("GET", "/prom/-/healthy").await;
    assert!(!well.headers().contains_key(header::X_CONTENT_TYPE_OPTIONS));
}

/// What a query may hold is bounded, each and all together; what was held is given back.
#[tokio::test(flavor = "multi_thread")]
async fn queries_over_their_memory_end_with_an_error_that_names_the_limit() {
    let mut cluster = example();
    cluster.query.memory.query_bytes = 1 << 20;
    let heavy = "/api/v1/query?query=max_over_time(vector(1)%5B10d:1s%5D)";
    let (status, body) = cluster.get(heavy).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(
        body,
        r#"{"status":"error","errorType":"execution","error":"query processing would hold more than 1MiB in memory in query execution (--query.max-bytes)"}"#
    );
    cluster.query.memory.query_bytes = 0;
    cluster.query.memory.total_bytes = 8 << 20;
    let (status, body) = cluster.get(heavy).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(body.contains("leave of 8MiB (--query.max-total-bytes)"), "{body}");
    cluster.ok("/api/v1/query?query=up").await;
    let held = cluster.ok("/metrics").await;
    assert!(held.contains("gnomon_query_memory_bytes 0\n"), "{held}");
}
