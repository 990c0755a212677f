//! Queries while windows become blocks, blocks are merged, and what they were is deleted: no sample is ever missing or
//! doubled, and no answer is called incomplete.

use super::retention::{newest_due_window, now_ms};
use crate::harness::{Node, client, eventually, remote};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

const SERIES: usize = 300;
/// Between two samples of a series.
const STEP_MS: i64 = 60_000;
/// Two spans of the first merge: at any time of the day a whole one ended longer ago than the compactor waits.
const HOURS: i64 = 12;

fn step(at_ms: i64) -> Vec<u8> {
    let one = |n: usize| {
        let number = format!("{n:03}");
        let labels = [("__name__", "m"), ("instance", &number), ("job", "swap")];
        remote::time_series(&labels, &[(at_ms, (at_ms / 1000) as f64)])
    };
    remote::body((0..SERIES).map(one).collect())
}

/// Asks for everything again and again: each series has every step up to what was acknowledged before the question,
/// and none that was not sent when it was answered.
async fn look(http: client::Http, start: i64, acknowledged: Arc<AtomicI64>, sent: Arc<AtomicI64>) {
    let end = start + HOURS * 3_600_000;
    let least = acknowledged.load(Ordering::SeqCst);
    let path = format!(
        "/api/v1/query?query={}&time={}",
        client::encode(&format!("m[{}h]", HOURS + 1)),
        end as f64 / 1000.0
    );
    let (code, text) = http.get(&path).await;
    let most = sent.load(Ordering::SeqCst);
    let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (code, answer.get("warnings")),
        (200, None),
        "{}",
        &text[..text.len().min(300)]
    );
    let all = client::series(&answer["data"]);
    if least > 0 {
        assert_eq!(all.len(), SERIES, "series at step {least}");
    }
    for (labels, samples) in all {
        let count = samples.len() as i64;
        assert!(
            (least..=most).contains(&count),
            "{labels}: {count} samples, between {least} and {most} are right"
        );
        for (i, (at, value)) in samples.iter().enumerate() {
            let expected = (start + i as i64 * STEP_MS) as f64 / 1000.0;
            assert_eq!(
                (*at, value.parse::<f64>().ok()),
                (expected, Some(expected)),
                "{labels}: sample {i}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_sample_is_missing_or_doubled_while_data_moves() {
    let folder = tempfile::tempdir().expect("temp folder");
    let args = [
        "--web.enable-remote-write-receiver",
        "--ingest.shards=2",
        "--ingest.seal-quiet=50ms",
        "--compactor.interval=200ms",
        "--compactor.grace=1s",
    ];
    let node = Node::start(folder.path(), "", &args).await;
    let start = newest_due_window(now_ms()) - (HOURS - 2) * 3_600_000;
    let (acknowledged, sent) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicI64::new(0)));
    let stop = Arc::new(AtomicBool::new(false));
    let lookers: Vec<_> = (0..3)
        .map(|_| {
            let (http, acknowledged, sent) = (node.http.clone(), acknowledged.clone(), sent.clone());
            let stop = stop.clone();
            tokio::spawn(async move {
                let mut looks = 0;
                while !stop.load(Ordering::SeqCst) {
                    look(http.clone(), start, acknowledged.clone(), sent.clone()).await;
                    looks += 1;
                }
                looks
            })
        })
        .collect();
    for number in 0..HOURS * 60 {
        sent.store(number + 1, Ordering::SeqCst);
        let (code, text) = remote::send(&node.http, step(start + number * STEP_MS))
            .await
            .expect("send");
        assert_eq!(code, 204, "{text}");
        acknowledged.store(number + 1, Ordering::SeqCst);
    }
    let metric = async |name: &str| {
        let (_, text) = node.http.get("/metrics").await;
        let values = text.lines().filter(|l| l.starts_with(name));
        values
            .filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum::<f64>()
    };
    eventually("windows to be merged and their blocks to be deleted", async || {
        let merged = metric("gnomon_compactor_merges_total{outcome=\"success\"}").await;
        let deleted = metric("gnomon_compactor_deleted_objects_total{reason=\"condemned\"}").await;
        (merged >= 2.0 && deleted >= 6.0).then_some(())
    })
    .await;
    stop.store(true, Ordering::SeqCst);
    for looker in lookers {
        assert!(looker.await.expect("no look failed") > 0);
    }
    look(node.http.clone(), start, acknowledged, sent).await;
}
