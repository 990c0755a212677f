//! The object store is S3: a real server, stopped and started while the node runs. `azure.rs` and `gcs.rs` do the same with
//! others.

#[path = "../../lib/tsdb/tests/object_stores/mod.rs"]
pub(super) mod servers;

use servers::Server;
use servers::weed::{self, proxy::Proxy};

use super::retention::{newest_due_window, now_ms};
use crate::harness::{Node, client, eventually, remote};

const SERIES: usize = 50;

fn history(name: &str, window: i64) -> Vec<u8> {
    let one = |n: usize| {
        let number = n.to_string();
        let labels = [("__name__", name), ("instance", number.as_str()), ("job", "s3")];
        let samples: Vec<_> = (0..100).map(|i| (window + i * 60_000, i as f64)).collect();
        remote::time_series(&labels, &samples)
    };
    remote::body((0..SERIES).map(one).collect())
}

/// How many samples a query of all of them finds, and the warnings.
async fn count(node: &Node, name: &str, window: i64) -> (f64, Vec<String>) {
    let query = client::encode(&format!("sum(count_over_time({name}[2h]))"));
    let time = (window + 2 * 3_600_000 - 1000) as f64 / 1000.0;
    let (code, text) = node.http.get(&format!("/api/v1/query?query={query}&time={time}")).await;
    assert_eq!(code, 200, "{text}");
    let answer: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let value = answer["data"]["result"][0]["value"][1]
        .as_str()
        .and_then(|v| v.parse().ok());
    let warnings = answer["warnings"].as_array().into_iter().flatten();
    let warnings = warnings.filter_map(|w| w.as_str().map(str::to_owned)).collect();
    (value.unwrap_or(0.0), warnings)
}

/// 100 samples of each series, the first of which is at the window's start.
const ALL: f64 = (SERIES * 100) as f64;

async fn sealed_parts(node: &Node) -> f64 {
    let (_, text) = node.http.get("/metrics").await;
    let values = text.lines().filter(|l| l.starts_with("gnomon_ingester_sealed_parts{"));
    values.filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_live_in_s3_through_a_restart_and_an_outage() {
    let Some(program) = weed::find() else { return };
    live_through_a_restart_and_an_outage(&mut weed::Server::start(program)).await;
}

/// A window becomes a block of the store and is read from there after a `kill -9`; another waits while nobody answers.
pub(super) async fn live_through_a_restart_and_an_outage(server: &mut dyn Server) {
    let folder = tempfile::tempdir().expect("temp folder");
    let store = format!("--storage.object-store={}/some/prefix", server.url());
    let args = [
        store.as_str(),
        "--web.enable-remote-write-receiver",
        "--ingest.seal-quiet=100ms",
        "--compactor.interval=1s",
        // What was read before would be answered from there.
        "--query.block-cache-size=0",
    ];
    let node = Node::start_with(folder.path(), "", &args, &server.environment()).await;
    let newest = newest_due_window(now_ms());
    let first = newest - 2 * 3_600_000;
    let send = async |node: &Node, body: Vec<u8>| remote::send(&node.http, body).await.expect("send");
    assert_eq!(send(&node, history("first", first)).await.0, 204);
    let blocks = |server: &dyn Server| server.keys("some/prefix/anonymous/blocks/").len();
    eventually(
        "the window to be a block, and no part to be left in the head",
        async || (blocks(server) > 0 && sealed_parts(&node).await == 0.0).then_some(()),
    )
    .await;
    assert!(!server.keys("some/prefix/cluster.json").is_empty());
    assert_eq!(count(&node, "first", first).await, (ALL, vec![]));
    eventually("a copy of the catalogue", async || {
        (!server.keys("some/prefix/catalogue/checkpoint-").is_empty()).then_some(())
    })
    .await;

    let (node, _) = node.kill_and_restart().await;
    assert_eq!(count(&node, "first", first).await, (ALL, vec![]));

    // Nobody answers: writes are taken, windows are sealed, and an answer says what it lacks.
    server.stop();
    assert_eq!(send(&node, history("second", newest)).await.0, 204);
    eventually("the second window to be sealed", async || {
        (sealed_parts(&node).await > 0.0).then_some(())
    })
    .await;
    assert_eq!(count(&node, "second", newest).await, (ALL, vec![]), "in the head");
    let (found, warnings) = count(&node, "first", first).await;
    assert!(
        found == ALL || (found < ALL && !warnings.is_empty()),
        "{found} of {ALL} without a word"
    );
    // Nor does a restart need the bucket; what was read before is not remembered then.
    let (node, took) = node.kill_and_restart().await;
    assert!(took < crate::harness::PATIENCE);
    let (found, warnings) = count(&node, "first", first).await;
    assert_eq!(found, 0.0);
    assert!(
        warnings.iter().any(|w| w.contains("block") && w.contains("incomplete")),
        "{warnings:?}"
    );
    assert_eq!(count(&node, "second", newest).await, (ALL, vec![]));

    server.start_again();
    eventually("the second window to be uploaded", async || {
        (sealed_parts(&node).await == 0.0).then_some(())
    })
    .await;
    assert_eq!(count(&node, "first", first).await, (ALL, vec![]));
    assert_eq!(count(&node, "second", newest).await, (ALL, vec![]));
}

/// Attempts over the wire that came to nothing.
async fn failed_attempts(node: &Node) -> f64 {
    let (_, text) = node.http.get("/metrics").await;
    let of = |line: &&str| {
        line.starts_with("gnomon_object_store_attempts_total{")
            && ["unavailable", "broken", "torn"]
                .iter()
                .any(|outcome| line.contains(outcome))
    };
    let values = text.lines().filter(of);
    values.filter_map(|l| l.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// Parts are uploaded, blocks merged, a delete carried out and garbage collected through a network that fails one request of
/// ten, in every way; queries meanwhile are whole, or say what they lack; and at the end the bucket is as it should be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_gets_through_a_network_that_fails() {
    let Some(program) = weed::find() else { return };
    get_everything_through_a_network_that_fails(&weed::Server::start(program)).await;
}

pub(super) async fn get_everything_through_a_network_that_fails(server: &dyn Server) {
    let seed = std::env::var("GNOMON_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or(20_261_126);
    let proxy = Proxy::start(&server.endpoint(), seed, 100, false);
    let folder = tempfile::tempdir().expect("temp folder");
    let store = format!("--storage.object-store={}/some/prefix", server.url());
    let args = [
        store.as_str(),
        "--web.enable-remote-write-receiver",
        "--web.enable-admin-api",
        "--ingest.seal-quiet=100ms",
        "--compactor.interval=500ms",
        "--compactor.grace=500ms",
    ];
    let mut environment = server.environment_at(&proxy.endpoint());
    environment.push((server.read_timeout(), "5 seconds".into()));
    let node = Node::start_with(folder.path(), "", &args, &environment).await;
    let newest = newest_due_window(now_ms());
    // Five windows have three that are merged among them.
    let windows: Vec<i64> = (0..5).rev().map(|i| newest - i * 2 * 3_600_000).collect();
    for window in &windows {
        let (code, text) = remote::send(&node.http, history("m", *window)).await.expect("send");
        assert_eq!(code, 204, "{text}");
        let (found, warnings) = count(&node, "m", *window).await;
        assert!(found == ALL || !warnings.is_empty(), "{found} of {ALL} without a word");
    }
    eventually("all windows to be blocks, and some to be merged", async || {
        let found = node.http.api("/api/v1/status/tsdb/blocks").await;
        let blocks = found["blocks"].as_array().into_iter().flatten();
        let samples: u64 = blocks.filter_map(|b| b["stats"]["numSamples"].as_u64()).sum();
        let is_all = samples as f64 == ALL * windows.len() as f64;
        (is_all && node.process.log().contains("merged blocks")).then_some(())
    })
    .await;
    let first = windows[0];
    let delete = format!(
        "/api/v1/admin/tsdb/delete_series?match[]={}&start={}&end={}",
        client::encode("m{instance=\"7\"}"),
        first / 1000,
        (newest + 7_199_000) / 1000
    );
    let form = "application/x-www-form-urlencoded";
    for path in [delete.as_str(), "/api/v1/admin/tsdb/clean_tombstones"] {
        eventually(path, async || {
            let (code, _) = node.http.post(path, form, Vec::new()).await;
            (code == 204).then_some(())
        })
        .await;
    }
    for window in &windows {
        eventually("a whole answer", async || {
            let (found, warnings) = count(&node, "m", *window).await;
            assert!(found <= ALL - 100.0, "what was deleted is back: {found}");
            (found == ALL - 100.0 && warnings.is_empty()).then_some(())
        })
        .await;
    }
    let failed = failed_attempts(&node).await;
    println!("{} requests, {failed} failed: {:?}", proxy.requests(), proxy.counts());
    assert!(failed > 0.0, "attempts that failed are counted");
    proxy.heal();
    let peers = node
        .args()
        .iter()
        .find_map(|a| a.strip_prefix("--cluster.listen-address="));
    let peers = format!("--cluster.peers={}", peers.expect("an address"));
    eventually("the bucket to be as its catalogue says", async || {
        let output = std::process::Command::new(crate::harness::binary())
            .args(["bucket", "check", "--json", "--verify", &store, &peers])
            .envs(server.environment())
            .output()
            .expect("gnomon runs");
        let document: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
        let totals = &document["totals"];
        (output.status.success() && totals["live"] == totals["objects"] && totals["deletes"] == 0).then_some(())
    })
    .await;
}
