//! Retention by size holds at every instant, and follows the file on reload.

use crate::harness::{Node, client, eventually, remote};
use rand::{RngExt, SeedableRng};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const HOUR_MS: i64 = 3_600_000;

pub(crate) fn now_ms() -> i64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64
}

/// The start of the newest window that ended longer ago than late samples are waited for.
pub(crate) fn newest_due_window(now_ms: i64) -> i64 {
    (now_ms - HOUR_MS / 2 - 60_000).div_euclid(2 * HOUR_MS) * 2 * HOUR_MS - 2 * HOUR_MS
}

/// What files below a folder hold, those of uploads that are not whole included.
fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

/// Looks at a folder again and again, and remembers the most it held.
struct Watcher {
    most: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watcher {
    fn of(folder: PathBuf) -> Self {
        let (most, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (most_seen, stopped) = (Arc::clone(&most), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                most_seen.fetch_max(bytes_below(&folder), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self {
            most,
            stop,
            thread: Some(thread),
        }
    }

    fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Series of one round in one window, with values that do not become shorter by coding.
fn incompressible(round: u64, window: i64, series: usize, samples: i64) -> Vec<u8> {
    let mut random = rand::rngs::StdRng::seed_from_u64(round);
    let round = round.to_string();
    let all = (0..series).map(|n| {
        let number = n.to_string();
        let labels = [("__name__", "noise"), ("n", &number), ("round", &round)];
        let samples: Vec<_> = (0..samples)
            .map(|i| (window + i * 1000, f64::from_bits(random.random::<u64>() >> 2)))
            .collect();
        remote::time_series(&labels, &samples)
    });
    remote::body(all.collect())
}

async fn metric(node: &Node, name: &str) -> f64 {
    let (_, text) = node.http.get("/metrics").await;
    let values = text
        .lines()
        .filter(|l| l.starts_with(name))
        .filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok());
    values.sum()
}

/// Several times the size is written, sealed, uploaded, merged and let go, under a watch that never rests.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bucket_never_holds_more_than_the_retention_size() {
    let folder = tempfile::tempdir().expect("temp folder");
    let cap: u64 = 32 << 20;
    let args = [
        "--web.enable-remote-write-receiver",
        "--storage.tsdb.retention.size=32MB",
        "--ingest.shards=2",
        "--ingest.seal-quiet=100ms",
        "--compactor.interval=500ms",
        "--compactor.grace=500ms",
    ];
    let node = Node::start(folder.path(), "", &args).await;
    let runtime = node.http.api("/api/v1/status/runtimeinfo").await;
    assert_eq!(runtime["storageRetention"], "32MiB");
    let bucket = Watcher::of(folder.path().join("data/bucket"));
    let newest = newest_due_window(now_ms());
    let mut sent = 0;
    for round in 0..24 {
        // Four windows after each other, the oldest first, then late parts of all of them again.
        let window = newest - (3 - round as i64 % 4) * 2 * HOUR_MS;
        for piece in 0..8 {
            let body = incompressible(round * 8 + piece, window + piece as i64, 100, 300);
            sent += body.len() as u64;
            eventually("the write to be taken", async || {
                let (code, text) = remote::send(&node.http, body.clone()).await.ok()?;
                assert!(code == 204 || code == 503, "{code} {text}");
                (code == 204).then_some(())
            })
            .await;
        }
    }
    assert!(sent > 2 * cap, "{sent} bytes are not enough to press");
    eventually("every part to be published or let go", async || {
        (metric(&node, "gnomon_ingester_sealed_parts").await == 0.0).then_some(())
    })
    .await;
    eventually("something to be evicted", async || {
        let evicted = metric(&node, "gnomon_compactor_evicted_blocks_total").await;
        (evicted + metric(&node, "gnomon_compactor_deleted_objects_total{reason=\"condemned\"}").await > 0.0)
            .then_some(())
    })
    .await;
    assert!(metric(&node, "gnomon_ingester_parts_uploaded_total").await > 4.0);
    assert!(bucket.most() <= cap, "{} of {cap}", bucket.most());
    assert!(bucket.most() > cap / 4, "{} bytes: nothing was kept", bucket.most());
    // The newest window is there, whatever went.
    let found = node
        .http
        .query("count(noise)", (newest + 200_000) as f64 / 1000.0)
        .await;
    assert!(!found["result"].as_array().expect("vector").is_empty(), "{found}");
}

/// `storage.tsdb.retention` of the file: at the start, and with each reload.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_in_the_file_holds_at_the_start_and_at_reload() {
    let folder = tempfile::tempdir().expect("temp folder");
    let yaml = |retention: &str| format!("storage: {{tsdb: {{retention: {{{retention}}}}}}}\n");
    let args = [
        "--web.enable-remote-write-receiver",
        "--web.enable-lifecycle",
        "--storage.tsdb.retention.time=30d",
        "--ingest.seal-quiet=100ms",
        "--compactor.interval=200ms",
        "--compactor.grace=200ms",
    ];
    let node = Node::start(folder.path(), &yaml("time: 12d"), &args).await;
    let shown = async || {
        let info = node.http.api("/api/v1/status/runtimeinfo").await;
        info["storageRetention"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(shown().await, "12d");
    let window = newest_due_window(now_ms()) - 2 * HOUR_MS;
    let body = remote::body(vec![remote::time_series(
        &[("__name__", "old")],
        &[(window + 1000, 1.0)],
    )]);
    assert_eq!(remote::send(&node.http, body).await.expect("send").0, 204);
    let found = async || {
        let data = node.http.query("old", (window + 1000) as f64 / 1000.0).await;
        client::series(&data).len()
    };
    let blocks = || {
        let mut all = Vec::new();
        files_below(&folder.path().join("data/bucket/anonymous"), &mut all);
        all.len()
    };
    eventually("the window to become a block", async || (blocks() == 1).then_some(())).await;
    assert_eq!(found().await, 1);
    std::fs::write(node.config_file(), yaml("time: 1h, size: 3GB")).expect("write");
    let (code, text) = node.http.post("/-/reload", "text/plain", vec![]).await;
    assert_eq!((code, text.as_str()), (200, ""));
    assert_eq!(shown().await, "1h or 3GiB");
    eventually("what is older than an hour to go", async || {
        (blocks() == 0).then_some(())
    })
    .await;
    assert_eq!(found().await, 0);
    // Without a word in the file the flags hold again.
    std::fs::write(node.config_file(), "").expect("write");
    assert_eq!(node.http.post("/-/reload", "text/plain", vec![]).await.0, 200);
    assert_eq!(shown().await, "30d");
    assert_eq!(
        metric(&node, "prometheus_tsdb_retention_limit_seconds ").await,
        30.0 * 86_400.0
    );
}

/// `out_of_order_time_window` of the file follows too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_samples_are_judged_by_the_file_in_force() {
    let folder = tempfile::tempdir().expect("temp folder");
    let yaml = |window: &str| format!("storage: {{tsdb: {{out_of_order_time_window: {window}}}}}\n");
    let args = ["--web.enable-remote-write-receiver", "--web.enable-lifecycle"];
    let node = Node::start(folder.path(), &yaml("1m"), &args).await;
    let now = now_ms();
    let send = async |at_ms: i64| {
        let body = remote::body(vec![remote::time_series(&[("__name__", "m")], &[(at_ms, 1.0)])]);
        remote::send(&node.http, body).await.expect("send").0
    };
    assert_eq!(send(now).await, 204);
    assert_eq!(send(now - 30_000).await, 204);
    assert_eq!(send(now - 20 * 60_000).await, 400);
    std::fs::write(node.config_file(), yaml("30m")).expect("write");
    assert_eq!(node.http.post("/-/reload", "text/plain", vec![]).await.0, 200);
    assert_eq!(send(now - 20 * 60_000).await, 204);
    assert_eq!(send(now - 40 * 60_000).await, 400);
}

fn files_below(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            files_below(&entry.path(), all);
        } else {
            all.push(entry.path());
        }
    }
}
