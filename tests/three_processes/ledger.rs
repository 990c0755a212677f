//! What was acknowledged, and that it is there: one series, whose samples are numbered.

use crate::harness::{Http, client, eventually, remote};
use crate::trio::now_ms;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
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
pub(crate) struct Ledger {
    instance: String,
    base_ms: i64,
    steps: Mutex<Steps>,
}

impl Ledger {
    /// Of a series of its own, which begins some minutes ago.
    pub(crate) fn new(instance: &str) -> Arc<Self> {
        Arc::new(Self {
            instance: instance.to_owned(),
            base_ms: now_ms() - 5 * 60_000,
            steps: Mutex::default(),
        })
    }

    fn time_ms(&self, step: i64) -> i64 {
        self.base_ms + step * STEP_MS
    }

    /// Each step until it is acknowledged, as a sender does.
    pub(crate) async fn write(self: Arc<Self>, servers: Vec<Http>, stop: CancellationToken) {
        let mut server = 0;
        for step in 0.. {
            self.steps.lock().attempted = step + 1;
            let labels = [("__name__", "step"), ("instance", self.instance.as_str()), ("job", "j")];
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
    pub(crate) async fn look(&self, http: &Http) -> Option<Vec<String>> {
        let sure = self.steps.lock().acknowledged;
        let end = self.time_ms(sure.max(1) + 10_000) as f64 / 1000.0;
        let query = format!("step{{instance=\"{}\"}}[30m]", self.instance);
        let path = format!("/api/v1/query?query={}&time={end}", client::encode(&query));
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

    pub(crate) async fn read(self: Arc<Self>, servers: Vec<Http>, stop: CancellationToken) -> usize {
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
    pub(crate) async fn until_written(&self, when: &str) {
        let before = self.steps.lock().attempted;
        eventually(&format!("writes to go on {when}"), async || {
            (self.steps.lock().acknowledged > before).then_some(())
        })
        .await;
    }
}
