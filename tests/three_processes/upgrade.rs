//! A rolling upgrade by one step: processes that are told to understand no more than the level before stand for the older
//! build. (What a build of then does is tried by hand, see docs/cluster.md.)

use crate::harness::{Http, Node, client, eventually, remote};
use crate::trio::{NODES, Trio, now_ms};
use gnomon_model::ids::CURRENT_FEATURE_LEVEL;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Between two samples of the series.
const STEP_MS: i64 = 10;
const PATIENCE: Duration = Duration::from_secs(8);

/// What one writer has had acknowledged, and may have written.
#[derive(Debug, Default)]
struct Steps {
    acknowledged: i64,
    attempted: i64,
}

/// One series whose samples are numbered.
struct Ledger {
    base_ms: i64,
    steps: Mutex<Steps>,
}

impl Ledger {
    fn time_ms(&self, step: i64) -> i64 {
        self.base_ms + step * STEP_MS
    }

    /// Each step until it is acknowledged, as a sender does.
    async fn write(self: Arc<Self>, servers: Vec<Http>, stop: CancellationToken) {
        let mut server = 0;
        for step in 0.. {
            self.steps.lock().attempted = step + 1;
            let labels = [("__name__", "step"), ("instance", "a:1"), ("job", "j")];
            let body = remote::body(vec![remote::time_series(&labels, &[(self.time_ms(step), step as f64)])]);
            loop {
                if stop.is_cancelled() {
                    return;
                }
                match tokio::time::timeout(PATIENCE, remote::send(&servers[server], body.clone())).await {
                    Ok(Ok((204, _))) => break,
                    Ok(Ok((503, _)) | Err(_)) | Err(_) => server = (server + 1) % servers.len(),
                    Ok(Ok((code, text))) => panic!("step {step} was answered {code}: {text}"),
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            self.steps.lock().acknowledged = step + 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// What is wrong with what a server says: all that is acknowledged is there once, and nothing that was not written. None
    /// where it did not answer in full.
    async fn look(&self, http: &Http) -> Option<Vec<String>> {
        let sure = self.steps.lock().acknowledged;
        let end = self.time_ms(sure.max(1) + 10_000) as f64 / 1000.0;
        let path = format!("/api/v1/query?query={}&time={end}", client::encode("step[30m]"));
        let asked = async { http.client().get(http.url(&path)).send().await.ok()?.text().await.ok() };
        let text = tokio::time::timeout(Duration::from_secs(30), asked).await.ok()??;
        let answer: serde_json::Value = serde_json::from_str(&text).ok()?;
        if answer["status"] != "success" || answer["warnings"].as_array().is_some_and(|w| !w.is_empty()) {
            return None;
        }
        let attempted = self.steps.lock().attempted;
        let mut found = BTreeMap::<i64, usize>::new();
        let mut wrong = Vec::new();
        for pair in answer["data"]["result"][0]["values"].as_array().into_iter().flatten() {
            let value = pair[1].as_str().and_then(|v| v.parse::<i64>().ok()).unwrap_or(-1);
            let at_ms = (pair[0].as_f64().unwrap_or_default() * 1000.0).round() as i64;
            if at_ms != self.time_ms(value) || value >= attempted {
                wrong.push(format!("{value} at {at_ms} was never written"));
            }
            *found.entry(value).or_default() += 1;
        }
        wrong.extend(
            (0..sure)
                .filter(|s| !found.contains_key(s))
                .map(|s| format!("step {s} of {sure} is missing")),
        );
        wrong.extend(
            found
                .iter()
                .filter(|(_, n)| **n > 1)
                .map(|(s, _)| format!("step {s} is there twice")),
        );
        Some(wrong)
    }

    async fn read(self: Arc<Self>, servers: Vec<Http>, stop: CancellationToken) -> usize {
        let mut looked = 0;
        for server in (0..servers.len()).cycle() {
            if stop.is_cancelled() {
                break;
            }
            if let Some(wrong) = self.look(&servers[server]).await {
                assert!(wrong.is_empty(), "server {server}: {wrong:?}");
                looked += 1;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        looked
    }

    /// Something is acknowledged that was not attempted at the call.
    async fn until_written(&self, when: &str) {
        let before = self.steps.lock().attempted;
        eventually(&format!("writes to go on {when}"), async || {
            (self.steps.lock().acknowledged > before).then_some(())
        })
        .await;
    }
}

/// It ends by itself with an error, and says so.
async fn is_refused(node: &mut Node, says: &[String]) {
    let code = node.process.ended().await;
    let log = node.process.log();
    assert!(code.is_some_and(|code| code != 0), "{code:?}: {log}");
    let last: Vec<_> = log.lines().rev().take(15).collect();
    assert!(
        says.iter()
            .all(|text| last.iter().any(|line| line.contains(text.as_str()))),
        "{says:?} in {last:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_upgraded_node_by_node_and_refuses_the_older_build_from_then_on() {
    let newer = u64::from(CURRENT_FEATURE_LEVEL.0);
    let older = newer - 1;
    let as_older = format!("--cluster.feature-level={older}");
    let folder = tempfile::tempdir().expect("temp folder");
    let mut trio = Trio::new(folder.path(), &[]);
    trio.start(Some(&as_older)).await;
    eventually("the level that all understand", async || {
        (trio.level().await == Some(older)).then_some(())
    })
    .await;

    let ledger = Arc::new(Ledger {
        base_ms: now_ms() - 5 * 60_000,
        steps: Mutex::default(),
    });
    let stop = CancellationToken::new();
    let servers: Vec<Http> = (0..NODES).map(|at| trio.http(at)).collect();
    let mut writers = JoinSet::new();
    writers.spawn(Arc::clone(&ledger).write(servers.clone(), stop.clone()));
    let reader = tokio::spawn(Arc::clone(&ledger).read(servers.clone(), stop.clone()));
    ledger.until_written("before the upgrade").await;

    for at in 0..NODES {
        assert_eq!(trio.level().await, Some(older), "{at} of {NODES} are new");
        trio.stop(at).await;
        ledger.until_written(&format!("without node {at}")).await;
        trio.launch(at, None);
        trio.until_ready(at).await;
        trio.until_whole().await;
        ledger.until_written(&format!("after node {at} was upgraded")).await;
    }
    eventually("the new level", async || {
        (trio.level().await == Some(newer)).then_some(())
    })
    .await;
    ledger.until_written("at the new level").await;

    // An older build is refused: one that is new, and one that has been a member.
    let says = [format!("feature level {newer}"), format!("understands {older} only")];
    is_refused(&mut trio.launch_another(&as_older), &says).await;
    trio.stop(2).await;
    trio.launch(2, Some(&as_older));
    is_refused(trio.node(2), &says).await;
    ledger.until_written("without the node that was refused").await;
    trio.launch(2, None);
    trio.until_ready(2).await;
    trio.until_whole().await;
    ledger.until_written("after it came back as it was").await;

    stop.cancel();
    while let Some(done) = writers.join_next().await {
        done.expect("a writer");
    }
    let looked = reader.await.expect("a reader");
    assert!(looked > 10, "only {looked} answers were whole");
    for (at, http) in servers.iter().enumerate() {
        let wrong = eventually("a whole answer", async || ledger.look(http).await).await;
        assert_eq!(wrong, Vec::<String>::new(), "server {at}, after all is over");
    }
    for at in 0..NODES {
        trio.stop(at).await;
    }
}

/// A level that no build has is a mistake in the flag.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feature_level_that_this_build_does_not_have_is_refused() {
    let folder = tempfile::tempdir().expect("temp folder");
    let trio = Trio::new(folder.path(), &[]);
    for level in [0, CURRENT_FEATURE_LEVEL.0 + 1] {
        let mut node = trio.launch_another(&format!("--cluster.feature-level={level}"));
        let says = [
            "--cluster.feature-level".to_owned(),
            format!("1 to {CURRENT_FEATURE_LEVEL}"),
        ];
        is_refused(&mut node, &says).await;
    }
}
