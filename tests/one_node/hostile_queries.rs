//! Queries that ask for more than there is: each is answered, with a result or with an error that names a limit, and
//! the node lives on within its memory. And queries that nobody waits for any more: their work ends.

use crate::harness::client::encode;
use crate::harness::{Http, Node, eventually, remote};
use futures::StreamExt;
use futures::future::join_all;
use std::time::Duration;

/// Of the process, for all that it allocates.
const MEMORY_KIB: u64 = 1 << 20;
const SERIES: usize = 6_000;
const SAMPLES: i64 = 120;
const STEP_MS: i64 = 15_000;
/// Of an answer this much is read before it is dropped.
const READ_BYTES: usize = 1 << 20;

struct Loaded {
    node: Node,
    /// Of the last sample.
    end_s: i64,
}

/// `m{i="0"…, g="0"…"9"}` for half an hour.
async fn loaded(folder: &std::path::Path, more: &[&str], memory_kib: Option<u64>) -> Loaded {
    let flags: Vec<&str> = ["--web.enable-remote-write-receiver"]
        .iter()
        .chain(more)
        .copied()
        .collect();
    let node = Node::start_limited(folder, "global: {}", &flags, memory_kib).await;
    let now_s = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs() as i64;
    let end_ms = (now_s - 60) * 1000;
    let numbers: Vec<String> = (0..SERIES).map(|i| i.to_string()).collect();
    for part in numbers.chunks(500) {
        let series = part.iter().map(|i| {
            let value = |k: i64| (i.len() as i64 * 1000 + k * 7 % 13) as f64;
            let samples: Vec<_> = (0..SAMPLES).map(|k| (end_ms - k * STEP_MS, value(k))).rev().collect();
            let group = &i[i.len() - 1..];
            remote::time_series(&[("__name__", "m"), ("g", group), ("i", i)], &samples)
        });
        let sent = remote::send(&node.http, remote::body(series.collect()))
            .await
            .expect("sent");
        assert_eq!(sent.0, 204, "{}", sent.1);
    }
    Loaded {
        node,
        end_s: end_ms / 1000,
    }
}

fn instant(query: &str, at_s: i64) -> String {
    format!("query query={}&time={at_s}", encode(query))
}

/// As many steps as a range query may have, at a step of a second.
fn range(query: &str, end_s: i64) -> String {
    let start_s = end_s - 11_000;
    format!("query_range query={}&start={start_s}&end={end_s}&step=1", encode(query))
}

fn nested(depth: usize, call: &str, inner: &str) -> String {
    format!("{}{inner}{}", format!("{call}(").repeat(depth), ")".repeat(depth))
}

const ALL: &str = r#"{__name__=~".+"}"#;

/// Asked for one moment.
const INSTANTS: &[&str] = &[
    "max_over_time(vector(1)[1y:1s])",
    "sum_over_time(m[1y:1s])",
    "quantile_over_time(0.5, vector(time())[1y:1s])",
    "max_over_time(max_over_time(m[1h:1s])[1h:1s])",
    "m[1y:1ms]",
    "absent_over_time(m[1y:1s])",
    "m * on (g) group_left () m",
    "m * on () group_right () sum by (i) (m)",
    "count_values(\"v\", max_over_time(m[30m]))",
    "sort_by_label_desc(m, \"i\", \"g\")",
    "topk(1000000, m)",
    "histogram_quantile(0.9, label_replace(m, \"le\", \"$1\", \"i\", \"(.*)\"))",
    "info(m)",
    r#"m{i=~"(.*.*.*.*.*.*.*.*)*x"}"#,
    r#"m{i=~"((a{1,100}){1,100}){1,100}"}"#,
    r#"m{i=~"(1|2|3|4|5|6|7|8|9|0|.){1000}"}"#,
    "label_join(m, \"j\", \"-\", \"i\", \"g\", \"i\", \"g\", \"i\", \"g\")",
];

/// Asked for as many steps as there may be.
const RANGES: &[&str] = &[
    ALL,
    "m",
    "m + m",
    "m or m offset 1s",
    "m unless on (i) m offset 1h",
    "sum by (i) (m)",
    "topk(100, m)",
    "quantile by (g) (0.5, m)",
    "count_values(\"v\", m)",
    "stddev by (i) (m)",
    "rate(m[30m])",
    "quantile_over_time(0.5, m[30m])",
    "absent(m)",
    "avg_over_time(sum(m)[1h:1s])",
    "predict_linear(m[30m:1s], 3600)",
    "label_replace(m, \"j\", \"$1$1$1$1\", \"i\", \"(.*)\")",
    "m ^ m % 7",
    "timestamp(m)",
    "scalar(m) * m",
];

fn worst(end_s: i64) -> Vec<String> {
    let mut doubled = "m".to_owned();
    for _ in 0..40 {
        doubled = format!(r#"label_replace({doubled}, "i", "$1$1$1", "i", "(.*)")"#);
    }
    let alternatives: Vec<String> = (0..20_000).map(|i| format!("x{i}y*")).collect();
    let patterns: Vec<String> = (0..40).map(|i| format!(r#"m{{i=~"{i}(?i)\\pL{{300}}"}}"#)).collect();
    let everything_twice = vec!["m"; 300].join(" or ");
    let mut requests: Vec<String> = INSTANTS.iter().map(|query| instant(query, end_s)).collect();
    requests.extend(RANGES.iter().map(|query| range(query, end_s)));
    for query in [
        doubled,
        everything_twice,
        patterns.join(" or "),
        patterns[..2].join(" or "),
        nested(2_000, "abs", "m"),
        nested(100_000, "", "m"),
        format!("{}m", "-".repeat(50_000)),
        nested(40, "max_over_time", &format!("m[1h:1s]{}", "")),
        format!("m{{i=~\"{}\"}}", alternatives.join("|")),
    ] {
        requests.push(instant(&query, end_s));
    }
    let sets: Vec<String> = patterns.iter().map(|p| format!("match[]={}", encode(p))).collect();
    requests.push(format!("series {}", sets.join("&")));
    for path in ["series", "labels", "query_exemplars"] {
        requests.push(format!("{path} match[]={}&query={}", encode(ALL), encode(ALL)));
    }
    requests
}

/// The status, and the beginning of the body.
async fn ask(http: &Http, request: &str) -> Result<(u16, String), reqwest::Error> {
    let (path, form) = request.split_once(' ').expect("a path and a form");
    let request = http
        .client()
        .post(http.url(&format!("/api/v1/{path}")))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form.to_owned());
    let response = request.send().await?;
    let status = response.status().as_u16();
    let mut body = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        body.extend_from_slice(&chunk?);
        if body.len() > READ_BYTES {
            break;
        }
    }
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// What is wrong with an answer, if anything is.
fn complaint(status: u16, body: &str) -> Option<String> {
    let shown: String = body.chars().take(300).collect();
    let named = |part: &str| body.contains(part);
    let fine = match status {
        200 => named("\"status\":\"success\""),
        400 => named("\"errorType\":\"bad_data\""),
        422 => named("\"errorType\":\"execution\""),
        503 => named("timed out") || named("queries wait"),
        _ => false,
    };
    (!fine).then(|| format!("{status} {shown}"))
}

async fn metric(http: &Http, name: &str) -> f64 {
    let (_, text) = http.get("/metrics").await;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|v| v.parse().ok()).unwrap_or(f64::NAN)
}

async fn is_at_rest(http: &Http) {
    eventually("all work for queries to end", async || {
        let engines = metric(http, "gnomon_query_engines").await;
        let bytes = metric(http, "gnomon_query_memory_bytes").await;
        (engines == 0.0 && bytes == 0.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_worst_queries_are_survived_within_a_gibibyte() {
    let folder = tempfile::tempdir().expect("temp folder");
    let flags = ["--query.timeout=5s", "--enable-feature=promql-experimental-functions"];
    let Loaded { mut node, end_s } = loaded(folder.path(), &flags, Some(MEMORY_KIB)).await;
    let requests = worst(end_s);
    let mut wrong = Vec::new();
    let mut codes = std::collections::BTreeMap::<u16, usize>::new();
    // One after the other, then all at once.
    let mut answers = Vec::new();
    for request in &requests {
        answers.push((request, ask(&node.http, request).await));
    }
    let http = &node.http;
    let together = requests
        .iter()
        .map(|request| async move { (request, ask(http, request).await) });
    answers.extend(join_all(together).await);
    for (request, answer) in answers {
        let shown: String = request.chars().take(120).collect();
        match answer {
            Ok((status, body)) => {
                *codes.entry(status).or_default() += 1;
                wrong.extend(complaint(status, &body).map(|why| format!("{shown}: {why}")));
            }
            Err(error) => wrong.push(format!("{shown}: {error:?}")),
        }
    }
    println!(
        "{} of the worst queries, twice: answers by status {codes:?}; most memory {}",
        requests.len(),
        node.process.peak_memory()
    );
    assert!(!node.process.has_ended(), "the node ended:\n{}", node.process.log());
    assert!(
        wrong.is_empty(),
        "{} are not answered as they should be:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    is_at_rest(&node.http).await;
    let light = node.http.query("count(m)", end_s as f64).await;
    assert_eq!(light["result"][0]["value"][1], SERIES.to_string());
}

/// A heavy query does not keep light ones from their answers, nor from their memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn light_queries_are_answered_beside_heavy_ones() {
    let folder = tempfile::tempdir().expect("temp folder");
    let flags = ["--query.max-total-bytes=64MB", "--query.max-bytes=64MB"];
    let Loaded { node, end_s } = loaded(folder.path(), &flags, None).await;
    let heavy = range("sum(quantile_over_time(0.5, m[30m]))", end_s);
    let many: Vec<_> = (0..4)
        .map(|_| {
            let (http, heavy) = (node.http.clone(), heavy.clone());
            tokio::spawn(async move { ask(&http, &heavy).await })
        })
        .collect();
    eventually("the heavy queries to run", async || {
        (metric(&node.http, "gnomon_query_engines").await >= 1.0).then_some(())
    })
    .await;
    for i in 0..20 {
        let found = node
            .http
            .query(&format!("sum(m{{g=\"{}\"}})", i % 10), end_s as f64)
            .await;
        assert_eq!(found["result"].as_array().map(Vec::len), Some(1));
    }
    for query in &many {
        query.abort();
    }
    is_at_rest(&node.http).await;
}

/// Of each kind of loop: fetching and decoding, ranges, sorting, joins, subqueries, values.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_work_for_a_query_ends_with_its_request() {
    let folder = tempfile::tempdir().expect("temp folder");
    let Loaded { node, end_s } = loaded(folder.path(), &["--query.timeout=2m"], None).await;
    let queries = [
        range("sum(quantile_over_time(0.5, m[30m]))", end_s),
        range("max(stddev_over_time(m[30m]))", end_s),
        range("count_values(\"v\", sum by (g) (rate(m[30m])))", end_s),
        range("sum(m{g=\"1\"} * on (i) group_left () m{g=\"1\"})", end_s),
        range("topk(3, avg_over_time(m{g=\"2\"}[30m]))", end_s),
        instant("quantile_over_time(0.5, sum(m)[1y:2s])", end_s),
        instant("sum(max_over_time(m[1d:1s]))", end_s),
        instant("stdvar_over_time((vector(time()) ^ 0.3)[1y:2s])", end_s),
    ];
    let mut begun = 0;
    for query in &queries {
        let (http, asked) = (node.http.clone(), query.clone());
        let request = tokio::spawn(async move { ask(&http, &asked).await });
        let running = eventually("the query to run or to be answered", async || {
            if request.is_finished() {
                return Some(false);
            }
            (metric(&node.http, "gnomon_query_engines").await >= 1.0).then_some(true)
        })
        .await;
        begun += u32::from(running);
        // The connection goes with the request.
        request.abort();
        is_at_rest(&node.http).await;
    }
    let count = metric(&node.http, "gnomon_query_stop_duration_seconds_count").await;
    let sum = metric(&node.http, "gnomon_query_stop_duration_seconds_sum").await;
    let within = metric(&node.http, "gnomon_query_stop_duration_seconds_bucket{le=\"0.1\"}").await;
    println!(
        "{begun} of {} queries were given up while they ran; {count} stops noticed, {within} within 100 ms, {:?} each",
        queries.len(),
        Duration::from_secs_f64(sum / count.max(1.0))
    );
    assert!(begun > 0 && count >= 1.0, "no query ran long enough to be given up");
}

/// Answers that nobody takes from the wire are held, and counted: more of them are refused, and light queries are not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_readers_hold_no_more_than_queries_may() {
    let folder = tempfile::tempdir().expect("temp folder");
    let flags = ["--query.max-total-bytes=64MB", "--query.max-bytes=48MB"];
    let Loaded { node, end_s } = loaded(folder.path(), &flags, None).await;
    // About 12 MB as a result, 18 MB as JSON.
    let query = encode(r#"m{i=~"[1-4].."}"#);
    let url = format!(
        "/api/v1/query_range?query={query}&start={}&end={end_s}&step=1",
        end_s - 1790
    );
    let mut readers = Vec::new();
    let mut refused = 0;
    for _ in 0..12 {
        // The head of the answer, and nothing of its body.
        let response = node
            .http
            .client()
            .get(node.http.url(&url))
            .send()
            .await
            .expect("an answer");
        match response.status().as_u16() {
            200 => readers.push(response),
            422 => {
                let body = response.text().await.expect("a body");
                assert!(body.contains("--query.max-total-bytes"), "{body}");
                refused += 1;
            }
            other => panic!("{other}"),
        }
    }
    assert!(
        readers.len() >= 2 && refused > 0,
        "{} answers, {refused} refused",
        readers.len()
    );
    let light = node.http.query("count(m{i=\"777\"})", end_s as f64).await;
    assert_eq!(light["result"][0]["value"][1], "1");
    // A reader that begins to read gets all of it.
    let slow = readers.pop().expect("a reader");
    let whole = slow.text().await.expect("a whole answer");
    let whole: serde_json::Value = serde_json::from_str(&whole).expect("JSON");
    assert_eq!(whole["data"]["result"].as_array().map(Vec::len), Some(400));
    drop(readers);
    is_at_rest(&node.http).await;
}
