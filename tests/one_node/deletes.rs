//! Deletes by HTTP: the answers of a real Prometheus 2.42, and what is hidden, for how long, and what is not.

use crate::harness::client::{encode, series};
use crate::harness::reference::Prometheus;
use crate::harness::{Http, Node, eventually, peers, remote};
use crate::retention::{newest_due_window, now_ms};
use std::path::Path;

/// Method, path, form.
const REQUESTS: &[(&str, &str, &str)] = &[
    ("POST", "/api/v1/admin/tsdb/delete_series", ""),
    ("PUT", "/api/v1/admin/tsdb/delete_series?match[]=nothing_at_all", ""),
    (
        "POST",
        "/api/v1/admin/tsdb/delete_series",
        "match[]=nothing_at_all&start=1&end=2",
    ),
    (
        "POST",
        "/api/v1/admin/tsdb/delete_series?match[]={a=%22b%22}&match[]=c",
        "",
    ),
    ("POST", "/api/v1/admin/tsdb/delete_series?match[]=a&start=2&end=1", ""),
    (
        "POST",
        "/api/v1/admin/tsdb/delete_series?match[]=a&start=2001-01-01T00:00:00Z",
        "",
    ),
    ("GET", "/api/v1/admin/tsdb/delete_series?match[]=a", ""),
    ("DELETE", "/api/v1/admin/tsdb/delete_series?match[]=a", ""),
    ("OPTIONS", "/api/v1/admin/tsdb/delete_series", ""),
    ("POST", "/api/v1/admin/tsdb/clean_tombstones", ""),
    ("PUT", "/api/v1/admin/tsdb/clean_tombstones", ""),
    ("GET", "/api/v1/admin/tsdb/clean_tombstones", ""),
    ("GET", "/api/v1/admin/tsdb/snapshot", ""),
    ("POST", "/api/v1/admin/tsdb/snapshot?skip_head=perhaps", ""),
];
/// The same status; gnomon says more, or in the words of a newer version.
const LIKE: &[(&str, &str, &str)] = &[
    ("POST", "/api/v1/admin/tsdb/delete_series?match[]=a&start=x", ""),
    ("POST", "/api/v1/admin/tsdb/delete_series?match[]=a&end=2001-01-01", ""),
    ("POST", "/api/v1/admin/tsdb/delete_series?match[]={a=%22b", ""),
    ("POST", "/api/v1/admin/tsdb/delete_series?match[]={}", ""),
];

async fn ask(http: &Http, (method, path, form): &(&str, &str, &str)) -> (u16, String, String) {
    let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
    let mut request = http.client().request(method, http.url(path));
    if !form.is_empty() {
        request = request
            .header("content-type", "application/x-www-form-urlencoded")
            .body((*form).to_owned());
    }
    let response = request.send().await.unwrap_or_else(|e| panic!("{path}: {e}"));
    let status = response.status().as_u16();
    let allow = response.headers().get("allow").and_then(|v| v.to_str().ok());
    let allow = allow.unwrap_or("").to_owned();
    (status, allow, response.text().await.expect("a body"))
}

#[tokio::test]
async fn the_answers_are_those_of_prometheus() {
    let folder = tempfile::tempdir().expect("temp folder");
    let Some(program) = peers::find("prometheus", "prometheus") else {
        return;
    };
    for flags in [&["--web.enable-admin-api"][..], &[]] {
        let folder = folder.path().join(flags.len().to_string());
        std::fs::create_dir_all(&folder).expect("a folder");
        let reference = Prometheus::launch(&program, &folder, "reference", "", flags);
        let node = Node::start(&folder, "", flags).await;
        reference.until_ready().await;
        for request in REQUESTS {
            let expected = ask(&reference.http, request).await;
            assert_eq!(ask(&node.http, request).await, expected, "{request:?} with {flags:?}");
        }
        for request in LIKE {
            let expected = ask(&reference.http, request).await;
            let found = ask(&node.http, request).await;
            assert_eq!((found.0, found.1), (expected.0, expected.1), "{request:?}: {}", found.2);
        }
    }
}

/// A node whose windows become blocks soon after they are due.
async fn quick_node(folder: &Path) -> Node {
    let args = [
        "--web.enable-remote-write-receiver",
        "--web.enable-admin-api",
        "--ingest.shards=2",
        "--ingest.seal-quiet=200ms",
        "--compactor.interval=500ms",
        "--compactor.grace=500ms",
    ];
    Node::start(folder, "", &args).await
}

async fn write(node: &Node, name: &str, instance: &str, times: &[i64], value: f64) {
    let samples: Vec<_> = times.iter().map(|t| (*t, value)).collect();
    let labels = [("__name__", name), ("instance", instance), ("job", "j")];
    let body = remote::body(vec![remote::time_series(&labels, &samples)]);
    let (code, text) = remote::send(&node.http, body).await.expect("an answer");
    assert_eq!(code, 204, "{text}");
}

async fn delete(node: &Node, selector: &str, start_ms: i64, end_ms: i64) {
    let seconds = |ms: i64| ms as f64 / 1000.0;
    let path = format!(
        "/api/v1/admin/tsdb/delete_series?match[]={}&start={}&end={}",
        encode(selector),
        seconds(start_ms),
        seconds(end_ms)
    );
    let (code, _, text) = ask(&node.http, &("POST", &path, "")).await;
    assert_eq!((code, &*text), (204, ""));
}

/// Samples of a selector over many hours, as (ms, value) by instance.
async fn samples(node: &Node, name: &str, now_ms: i64) -> Vec<(String, Vec<(i64, String)>)> {
    let query = format!("{name}[100h]");
    let found = series(&node.http.query(&query, now_ms as f64 / 1000.0).await);
    let ms = |points: Vec<(f64, String)>| {
        points
            .into_iter()
            .map(|(t, v)| ((t * 1000.0).round() as i64, v))
            .collect()
    };
    let instance = |labels: &str| {
        labels
            .split("\"instance\": \"")
            .nth(1)
            .unwrap_or("")
            .chars()
            .take(1)
            .collect()
    };
    found
        .into_iter()
        .map(|(labels, points)| (instance(&labels), ms(points)))
        .collect()
}

async fn blocks(node: &Node) -> Vec<serde_json::Value> {
    let found = node.http.api("/api/v1/status/tsdb/blocks").await;
    found["blocks"].as_array().cloned().unwrap_or_default()
}

fn expected(rows: &[(&str, &[(i64, f64)])]) -> Vec<(String, Vec<(i64, String)>)> {
    let points = |points: &[(i64, f64)]| points.iter().map(|(t, v)| (*t, v.to_string())).collect();
    rows.iter().map(|(i, p)| ((*i).to_owned(), points(p))).collect()
}

#[tokio::test]
async fn deleted_samples_stay_away_and_later_ones_stay() {
    let folder = tempfile::tempdir().expect("temp folder");
    let mut node = quick_node(folder.path()).await;
    let now = now_ms();
    let old = newest_due_window(now);
    let recent = now - 60_000;
    let times = [old, old + 1000, old + 2000];
    for instance in ["a", "b", "c"] {
        write(&node, "m", instance, &times, 1.0).await;
    }
    eventually("the old window to be blocks", async || {
        let samples: u64 = blocks(&node)
            .await
            .iter()
            .filter_map(|b| b["stats"]["numSamples"].as_u64())
            .sum();
        (samples == 9).then_some(())
    })
    .await;
    for instance in ["a", "b"] {
        write(&node, "m", instance, &[recent, recent + 1000], 2.0).await;
    }
    // In blocks and in heads; a whole series; nothing of another metric.
    write(&node, "other", "a", &[recent], 3.0).await;
    delete(&node, r#"{__name__="m",instance="a"}"#, old + 1000, recent).await;
    delete(&node, r#"m{instance="c"}"#, i64::MIN / 2, now + 1_000_000).await;
    let rows = [
        ("a", &[(old, 1.0), (recent + 1000, 2.0)][..]),
        (
            "b",
            &[
                (old, 1.0),
                (old + 1000, 1.0),
                (old + 2000, 1.0),
                (recent, 2.0),
                (recent + 1000, 2.0),
            ],
        ),
    ];
    let check = async |node: &Node, rows: &[(&str, &[(i64, f64)])]| {
        assert_eq!(samples(node, "m", now).await, expected(rows));
        // Pushed down to shards, counted from indexes, and what lists series.
        let count = series(&node.http.query("count(m)", (recent + 500) as f64 / 1000.0).await);
        assert_eq!(
            count.values().next().map(|p| p[0].1.as_str()),
            Some("1"),
            "a has no sample just then"
        );
        let sums = node
            .http
            .query("sum by (instance) (sum_over_time(m[100h]))", now as f64 / 1000.0)
            .await;
        let sums: Vec<_> = series(&sums).into_values().map(|p| p[0].1.clone()).collect();
        let sum = |row: &&(&str, &[(i64, f64)])| row.1.iter().map(|(_, v)| v).sum::<f64>().to_string();
        assert_eq!(sums, rows.iter().map(|row| sum(&row)).collect::<Vec<_>>());
        let listed = node.http.api("/api/v1/series?match[]=m&start=0").await;
        assert_eq!(listed.as_array().map(Vec::len), Some(rows.len()), "{listed}");
        let (code, text) = node.http.get("/federate?match[]=m").await;
        assert!(code == 200 && !text.contains("instance=\"c\""), "{text}");
    };
    check(&node, &rows).await;
    assert_eq!(samples(&node, "other", now).await.len(), 1);
    (node, _) = node.kill_and_restart().await;
    check(&node, &rows).await;
    // Written again, with old times: late, but within what a shard takes.
    write(&node, "m", "a", &[recent], 7.0).await;
    write(&node, "m", "c", &times[..2], 7.0).await;
    let rows = [
        ("a", &[(old, 1.0), (recent, 7.0), (recent + 1000, 2.0)][..]),
        rows[1],
        ("c", &[(old, 7.0), (old + 1000, 7.0)]),
    ];
    assert_eq!(samples(&node, "m", now).await, expected(&rows));
    // As blocks of their own, merged with the old ones, and after everything was carried out.
    let (code, _, text) = ask(&node.http, &("POST", "/api/v1/admin/tsdb/clean_tombstones", "")).await;
    assert_eq!((code, &*text), (204, ""));
    assert_eq!(samples(&node, "m", now).await, expected(&rows));
    let tombstones = folder.path().join("data/bucket/anonymous/tombstones");
    let left = || std::fs::read_dir(&tombstones).map_or(0, |entries| entries.count());
    eventually("the deletes to be forgotten", async || (left() == 0).then_some(())).await;
    eventually("late samples to be in blocks", async || {
        let samples: u64 = blocks(&node)
            .await
            .iter()
            .filter_map(|b| b["stats"]["numSamples"].as_u64())
            .sum();
        // Of the nine one of `a` and those of `b` are left; two of `c` came later.
        (samples == 6).then_some(())
    })
    .await;
    assert_eq!(samples(&node, "m", now).await, expected(&rows));
    (node, _) = node.kill_and_restart().await;
    assert_eq!(samples(&node, "m", now).await, expected(&rows));
    assert_eq!(node.process.interrupt().await, Some(0), "{}", node.process.log());
}

#[tokio::test]
async fn a_snapshot_is_served_by_a_node_that_is_founded_with_it() {
    let folder = tempfile::tempdir().expect("temp folder");
    let mut node = quick_node(folder.path()).await;
    let now = now_ms();
    let (old, recent) = (newest_due_window(now), now - 60_000);
    for instance in ["a", "b"] {
        write(&node, "m", instance, &[old, old + 1000], 1.0).await;
    }
    eventually("the old window to be blocks", async || {
        let found = blocks(&node).await;
        let samples: u64 = found.iter().filter_map(|b| b["stats"]["numSamples"].as_u64()).sum();
        (samples == 4).then_some(())
    })
    .await;
    write(&node, "m", "a", &[recent], 2.0).await;
    delete(&node, r#"m{instance="b"}"#, old + 1000, old + 1000).await;
    let mut names = Vec::new();
    for path in [
        "/api/v1/admin/tsdb/snapshot",
        "/api/v1/admin/tsdb/snapshot?skip_head=true",
    ] {
        let (code, body) = node.http.post(path, "text/plain", Vec::new()).await;
        let answer: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!((code, answer["status"].as_str()), (200, Some("success")), "{body}");
        let name = answer["data"]["name"].as_str().expect("a name").to_owned();
        let looks_right = name.len() == 33 && name.as_bytes()[16] == b'-' && name.as_bytes()[8] == b'T';
        assert!(looks_right, "{name}");
        names.push(name);
    }
    // What comes after it is not in it.
    write(&node, "m", "a", &[recent + 1000], 3.0).await;
    let whole = [
        ("a", &[(old, 1.0), (old + 1000, 1.0), (recent, 2.0)][..]),
        ("b", &[(old, 1.0)]),
    ];
    let without_head = [("a", &[(old, 1.0), (old + 1000, 1.0)][..]), ("b", &[(old, 1.0)])];
    for (name, rows) in names.iter().zip([whole, without_head]) {
        let copy = folder.path().join("data/snapshots").join(name);
        let url = format!("--storage.object-store=file://{}", copy.display());
        let home = tempfile::tempdir().expect("temp folder");
        let args = [
            url.as_str(),
            "--web.enable-remote-write-receiver",
            "--web.enable-admin-api",
            "--ingest.seal-quiet=200ms",
            "--compactor.interval=500ms",
        ];
        let mut other = Node::start(home.path(), "", &args).await;
        assert_eq!(samples(&other, "m", now).await, expected(&rows));
        // New samples of the old window become parts of their own, beside the blocks that were there.
        write(&other, "m", "b", &[old + 1000, old + 2000], 5.0).await;
        let mut rows = rows.to_vec();
        rows[1] = ("b", &[]);
        let of_b = [(old, 1.0), (old + 1000, 5.0), (old + 2000, 5.0)];
        rows[1] = ("b", &of_b);
        let total: usize = rows.iter().map(|(_, points)| points.len()).sum();
        eventually("new samples to be in blocks", async || {
            let found = blocks(&other).await;
            let samples: u64 = found.iter().filter_map(|b| b["stats"]["numSamples"].as_u64()).sum();
            // All, but for what is recent and still in the head or masked in a block.
            (samples >= total as u64).then_some(())
        })
        .await;
        assert_eq!(samples(&other, "m", now).await, expected(&rows));
        (other, _) = other.kill_and_restart().await;
        assert_eq!(samples(&other, "m", now).await, expected(&rows));
        assert_eq!(other.process.interrupt().await, Some(0), "{}", other.process.log());
    }
    assert_eq!(node.process.interrupt().await, Some(0), "{}", node.process.log());
}
