//! `gnomon bucket check`: what it finds beside a running node, what it mends, and a cluster whose data folder is lost.

use crate::harness::client::series;
use crate::harness::{Node, binary, eventually, remote};
use crate::retention::{newest_due_window, now_ms};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A tenth of the retention is one window: nothing is merged, at whatever hour of the day this runs.
const FLAGS: [&str; 6] = [
    "--web.enable-remote-write-receiver",
    "--storage.tsdb.retention.time=20h",
    "--web.enable-admin-api",
    "--ingest.shards=2",
    "--ingest.seal-quiet=200ms",
    "--compactor.interval=500ms",
];

/// Exit code and the document.
fn check(folder: &Path, more: &[&str]) -> (Option<i32>, Value) {
    let data = format!("--storage.tsdb.path={}", folder.join("data").display());
    let output = Command::new(binary())
        .args(["bucket", "check", "--json", &data])
        .args(more)
        .output()
        .expect("gnomon runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let document = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{errors}"));
    (output.status.code(), document)
}

/// Exit code, and what was said of errors.
fn refused(args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(binary()).args(["bucket", "check"]).args(args).output();
    let output = output.expect("gnomon runs");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// As if files had been written so long ago.
fn written_before(files: &[PathBuf], age: Duration) {
    let since_epoch = std::time::UNIX_EPOCH.elapsed().expect("after 1970") - age;
    for path in files {
        let file = std::fs::File::options().write(true).open(path).expect("a file");
        file.set_modified(std::time::UNIX_EPOCH + since_epoch).expect("a time");
    }
}

fn kinds(document: &Value) -> Vec<(&str, bool)> {
    let findings = document["findings"].as_array().into_iter().flatten();
    findings
        .map(|f| {
            (
                f["kind"].as_str().unwrap_or(""),
                f["repaired"].as_bool().unwrap_or(false),
            )
        })
        .collect()
}

/// Whole objects: one that is being written has a `#` in its name until it
/// is renamed (object_store's local folders).
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else if !path.to_string_lossy().contains('#') {
            found.push(path);
        }
    }
    found.sort();
    found
}

async fn count(node: &Node, now: i64) -> usize {
    let found = series(&node.http.query("m[100h]", now as f64 / 1000.0).await);
    found.values().map(Vec::len).sum()
}

/// A node with blocks of two windows.
async fn filled(folder: &Path, now: i64) -> Node {
    let node = Node::start(folder, "", &FLAGS).await;
    let newest = newest_due_window(now);
    for window in [newest - 7_200_000, newest] {
        let samples: Vec<_> = (0..10).map(|i| (window + i * 1000, 1.0)).collect();
        let written = ["a", "b", "c", "d"].map(|instance| {
            let labels = [("__name__", "m"), ("instance", instance), ("job", "j")];
            remote::time_series(&labels, &samples)
        });
        // At once: a window that is sealed between two requests has two parts, which would be merged.
        let body = remote::body(written.into());
        assert_eq!(remote::send(&node.http, body).await.expect("an answer").0, 204);
    }
    eventually("both windows to be blocks", async || {
        let found = node.http.api("/api/v1/status/tsdb/blocks").await;
        let blocks = found["blocks"].as_array().into_iter().flatten();
        let samples: u64 = blocks.filter_map(|b| b["stats"]["numSamples"].as_u64()).sum();
        (samples == 80).then_some(())
    })
    .await;
    node
}

fn grpc_address(node: &Node) -> String {
    let flag = node
        .args()
        .iter()
        .find_map(|a| a.strip_prefix("--cluster.listen-address="));
    format!("--cluster.peers={}", flag.expect("an address"))
}

#[tokio::test]
async fn a_running_node_is_checked_and_mended() {
    let folder = tempfile::tempdir().expect("temp folder");
    let now = now_ms();
    let mut node = filled(folder.path(), now).await;
    let peers = grpc_address(&node);
    let (code, document) = check(folder.path(), &[&peers, "--verify"]);
    assert_eq!((code, &document["sound"]), (Some(0), &Value::from(true)), "{document}");
    assert_eq!(document["totals"]["live"], document["totals"]["objects"], "{document}");
    // Without the cluster, its newest checkpoint is as good once it is there.
    eventually("a checkpoint of the present catalogue", async || {
        let (code, document) = check(folder.path(), &[]);
        let live = document["totals"]["live"]["blocks"].as_u64();
        (code == Some(0) && live == document["totals"]["objects"]["blocks"].as_u64()).then_some(())
    })
    .await;
    let blocks = files_below(&folder.path().join("data/bucket/anonymous/blocks"));
    // One is gone, one is cut short, one is nobody's.
    let orphan = blocks[0].with_file_name("000000000000000000000000000000ff.gnb");
    std::fs::copy(&blocks[0], &orphan).expect("copy");
    std::fs::remove_file(&blocks[1]).expect("remove");
    let bytes = std::fs::read(&blocks[2]).expect("read");
    std::fs::write(&blocks[2], &bytes[..bytes.len() - 100]).expect("write");
    let (code, document) = check(folder.path(), &[&peers]);
    assert_eq!(code, Some(1));
    assert_eq!(kinds(&document), [("missing", false), ("damaged", false)], "{document}");
    assert_eq!(
        document["totals"]["unjudged"], 1,
        "an orphan may be an upload: {document}"
    );
    // Whose bucket it is comes first: all would be missing in another.
    let other = folder.path().join("other");
    let own = std::fs::read_to_string(folder.path().join("data/bucket/cluster.json")).expect("a mark");
    let mut mark: Value = serde_json::from_str(&own).expect("JSON");
    mark["cluster_id"] = "00000000000000000000000000000001".into();
    for mark in [None, Some(mark.to_string())] {
        std::fs::create_dir_all(&other).expect("a folder");
        if let Some(mark) = mark {
            std::fs::write(other.join("cluster.json"), mark).expect("write");
        }
        let store = format!("--storage.object-store=file://{}", other.display());
        let refused = Command::new(binary())
            .args(["bucket", "check", &store, &peers, "--repair"])
            .output();
        let refused = refused.expect("gnomon runs");
        assert_eq!(
            refused.status.code(),
            Some(2),
            "{}",
            String::from_utf8_lossy(&refused.stdout)
        );
        let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(errors.contains("--storage.object-store"), "{errors}");
    }
    let (code, document) = check(folder.path(), &[&peers, "--grace=0s", "--repair"]);
    assert_eq!(code, Some(1), "what is damaged stays");
    let expected = [("missing", true), ("damaged", false), ("orphan", true)];
    assert_eq!(kinds(&document), expected, "{document}");
    assert!(!orphan.exists());
    std::fs::write(&blocks[2], &bytes).expect("write");
    let (code, document) = check(folder.path(), &[&peers, "--grace=0s"]);
    assert_eq!(code, Some(0), "{document}");
    // Queries do not miss it any more.
    let (_, body) = node
        .http
        .get(&format!(
            "/api/v1/query?query=count_over_time(m[100h])&time={}",
            now / 1000
        ))
        .await;
    assert!(!body.contains("in the catalogue but not in the object store"), "{body}");
    assert_eq!(node.process.interrupt().await, Some(0), "{}", node.process.log());
}

#[tokio::test]
async fn a_cluster_whose_folders_are_lost_is_founded_anew() {
    for without_checkpoints in [false, true] {
        let folder = tempfile::tempdir().expect("temp folder");
        let now = now_ms();
        let mut node = filled(folder.path(), now).await;
        let path = format!(
            "/api/v1/admin/tsdb/delete_series?match[]=m{{instance=%22a%22}}&end={}",
            now / 1000
        );
        let (code, body) = node.http.post(&path, "text/plain", Vec::new()).await;
        assert_eq!(code, 204, "{body}");
        assert_eq!(count(&node, now).await, 60);
        let data = folder.path().join("data");
        let checkpoints = data.join("bucket/catalogue");
        if !without_checkpoints {
            eventually("a checkpoint", async || {
                (!files_below(&checkpoints).is_empty()).then_some(())
            })
            .await;
        }
        let path = format!("--storage.tsdb.path={}", data.display());
        let take = [path.as_str(), "--repair", "--found-anew", "--ingest.shards=2"];
        // Not from a node that runs, however old the copies of its catalogue are.
        written_before(&files_below(&checkpoints), Duration::from_secs(120));
        let (code, errors) = refused(&take);
        assert!(
            code == Some(2) && errors.contains("in use by another process"),
            "{errors}"
        );
        node.process.kill();
        assert!(data.join("bucket/cluster.json").exists());
        if !without_checkpoints {
            // Somebody wrote it: elsewhere, it may be.
            written_before(&files_below(&checkpoints), Duration::ZERO);
            let (code, errors) = refused(&take);
            assert!(
                code == Some(2) && errors.contains("its cluster seems to run"),
                "{errors}"
            );
            written_before(&files_below(&checkpoints), Duration::from_secs(120));
        }
        std::fs::remove_dir_all(data.join("store")).expect("the store is lost");
        for file in std::fs::read_dir(&data).expect("the folder").flatten() {
            if file.path().is_file() {
                std::fs::remove_file(file.path()).expect("lost");
            }
        }
        let mut more = vec!["--repair", "--found-anew"];
        if without_checkpoints {
            // Where the first was written already.
            let _ = std::fs::remove_dir_all(data.join("bucket/catalogue"));
            let (code, document) = check(folder.path(), &[]);
            assert_eq!(code, Some(1), "a lost catalogue is not sound: {document}");
            more.push("--ingest.shards=2");
        }
        let (code, document) = check(folder.path(), &more);
        assert_eq!(code, Some(0), "{document}");
        let mut node = Node::start(folder.path(), "", &FLAGS).await;
        // The delete is there too: by a checkpoint, or by its object.
        assert_eq!(count(&node, now).await, 60);
        // And what is written now has parts of its own.
        let labels = [("__name__", "m"), ("instance", "e"), ("job", "j")];
        let body = remote::body(vec![remote::time_series(&labels, &[(newest_due_window(now), 1.0)])]);
        assert_eq!(remote::send(&node.http, body).await.expect("an answer").0, 204);
        eventually("the new part to be a block", async || {
            let (_, text) = node.http.get("/metrics").await;
            let uploaded = text
                .lines()
                .find(|l| l.starts_with("gnomon_ingester_parts_uploaded_total"));
            uploaded.is_some_and(|l| !l.ends_with(" 0")).then_some(())
        })
        .await;
        assert_eq!(count(&node, now).await, 61);
        assert_eq!(node.process.interrupt().await, Some(0), "{}", node.process.log());
    }
}

/// The mark goes into its place in one step, as a put to a bucket does.
fn mark(bucket: &Path, text: &str) {
    let written = bucket.join("mark.new");
    std::fs::write(&written, text).expect("write");
    std::fs::rename(&written, bucket.join("cluster.json")).expect("rename");
}

#[tokio::test]
async fn a_node_that_runs_leaves_a_bucket_alone_that_another_cluster_has() {
    let folder = tempfile::tempdir().expect("temp folder");
    let now = now_ms();
    let mut node = filled(folder.path(), now).await;
    let bucket = folder.path().join("data/bucket");
    let own = std::fs::read_to_string(bucket.join("cluster.json")).expect("a mark");
    let mut other: Value = serde_json::from_str(&own).expect("JSON");
    let id = other["cluster_id"].as_str().expect("an id").to_owned();
    let other_id = "00000000000000000000000000000001";
    other["cluster_id"] = other_id.into();
    mark(&bucket, &other.to_string());
    // The other one's: this node's catalogue does not name it.
    let blocks = files_below(&bucket.join("anonymous/blocks"));
    let foreign = blocks[0].with_file_name("000000000000000000000000000000ff.gnb");
    std::fs::copy(&blocks[0], &foreign).expect("copy");
    written_before(std::slice::from_ref(&foreign), Duration::from_secs(2 * 3600));
    let is_foreign = async |value: u8| {
        eventually("the node to see whose bucket it is", async || {
            let (_, metrics) = node.http.get("/metrics").await;
            metrics
                .contains(&format!("gnomon_bucket_foreign {value}\n"))
                .then_some(())
        })
        .await;
    };
    is_foreign(1).await;
    eventually("a cycle of the compactor that was refused", async || {
        node.process.log().contains("compactor cycle failed").then_some(())
    })
    .await;
    assert!(foreign.exists());
    let log = node.process.log();
    let said = log
        .lines()
        .find(|line| line.contains("the bucket is not this cluster's"));
    let said = said.unwrap_or_else(|| panic!("{log}"));
    assert!(
        said.contains("level=ERROR") && said.contains(&id) && said.contains(other_id),
        "{said}"
    );
    assert_eq!(count(&node, now).await, 80, "queries are answered all the same");
    mark(&bucket, &own);
    eventually(
        "the object to go, which is nobody's in the node's own bucket",
        async || (!foreign.exists()).then_some(()),
    )
    .await;
    is_foreign(0).await;
    assert_eq!(node.process.interrupt().await, Some(0), "{}", node.process.log());
}

#[test]
fn nothing_can_be_told_of_a_folder_that_is_no_bucket() {
    let folder = tempfile::tempdir().expect("temp folder");
    let url = format!("--storage.object-store=file://{}", folder.path().display());
    let (code, errors) = refused(&[&url]);
    let name = folder.path().display().to_string();
    assert!(
        code == Some(2) && errors.contains("neither a cluster's mark") && errors.contains(&name),
        "{code:?} {errors}"
    );
    let (code, errors) = refused(&[&format!("{url}/absent")]);
    assert!(
        code == Some(2) && errors.contains("there is no bucket in the folder"),
        "{errors}"
    );
    assert!(!folder.path().join("absent").exists());
}
