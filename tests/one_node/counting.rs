//! Counts that come from the index are those that reading the series gives.

use crate::harness::client::series;
use crate::harness::{Node, remote};

const STALE: f64 = f64::from_bits(0x7ff0_0000_0000_0002);
const MINUTE_MS: i64 = 60_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_from_the_index_are_those_of_the_series() {
    let folder = tempfile::tempdir().expect("temp folder");
    let more = ["--web.enable-remote-write-receiver", "--ingest.shards=3"];
    let node = Node::start(folder.path(), "", &more).await;
    let now_ms = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
    let mut written = Vec::new();
    for n in 0..60_i64 {
        let (instance, job) = (format!("host-{n}"), format!("job-{}", n % 4));
        let labels = [
            ("__name__", ["up", "load"][n as usize % 2]),
            ("instance", &instance),
            ("job", &job),
        ];
        // Some ended, some were not heard of for long.
        let newest = now_ms - n % 9 * MINUTE_MS;
        let last = if n % 7 == 0 { STALE } else { n as f64 };
        let samples = [(newest - MINUTE_MS, 1.0), (newest, last)];
        written.push(remote::time_series(&labels[..3 - usize::from(n % 11 == 0)], &samples));
    }
    let (code, text) = remote::send(&node.http, remote::body(written)).await.expect("send");
    assert_eq!(code, 204, "{text}");
    let path = format!(
        "/api/v1/query?query=count(up)&time={}&explain=1&analyze=1",
        now_ms as f64 / 1e3
    );
    let data = node.http.api(&path).await;
    let sources = data["analysis"]["sources"].as_array().expect("sources");
    assert!(
        sources.len() == 3
            && sources
                .iter()
                .all(|s| s["counted"] == true && s["of"] == "#0" && s["samples"] == 0),
        "{data}"
    );
    let text = data["explain"].as_str().unwrap_or("");
    assert!(text.contains("#0 counted by the index of shard 2 "), "{text}");
    let data = node.http.api(&path.replace("count(up)", "count(up+or+up)")).await;
    let sources = data["analysis"]["sources"].as_array().expect("sources");
    assert!(sources.iter().all(|s| s["counted"] == false), "{data}");
    for grouping in [
        "",
        "by (job)",
        "by (__name__)",
        "by (job, __name__)",
        "by (nowhere)",
        "without (instance)",
    ] {
        for selector in [
            "up",
            "{__name__=~'up|load'}",
            "{job!='job-1', __name__=~'.+d'}",
            "nothing",
        ] {
            for back_ms in [0, 2 * MINUTE_MS, 7 * MINUTE_MS, 60 * MINUTE_MS] {
                let at = (now_ms - back_ms) as f64 / 1e3;
                let counted = node.http.query(&format!("count {grouping} ({selector})"), at).await;
                let read = node
                    .http
                    .query(&format!("count {grouping} ({selector} or {selector})"), at)
                    .await;
                assert_eq!(
                    series(&counted),
                    series(&read),
                    "{grouping} {selector} {back_ms} ms ago"
                );
            }
        }
    }
}
