//! The same expositions, step by step with their own timestamps, scraped by gnomon and by a real Prometheus 2.42: the
//! same queries must have the same answers.

#[path = "replay/made.rs"]
mod made;
#[path = "replay/queries.rs"]
mod queries;
#[path = "replay/recorded.rs"]
mod recorded;

use crate::harness::reference::Prometheus;
use crate::harness::{Http, Node, client, eventually, free_port, peers};
use axum::extract::{Path, State};
use queries::{INSTANT, RANGE, RECORDED};
use std::collections::HashMap;
use std::sync::Arc;

const STEPS: usize = 120;
const STEP_MS: i64 = 15_000;

/// What is recorded of real exporters. The push gateway's series bring labels of their own (`honor_labels`).
const RECORDINGS: [&str; 3] = ["node", "prometheus", "pushgateway"];

/// Serves step after step to each of its readers, and stays at the last. A step is served again to a reader whose scrape
/// of it failed (a machine that is busy), so that every reader has every step.
struct Replay {
    base_ms: i64,
    /// By the name of the pool.
    recordings: HashMap<&'static str, Vec<String>>,
    readers: HashMap<&'static str, Http>,
    /// The step that was served last, by reader and pool.
    served: parking_lot::Mutex<HashMap<(String, String), usize>>,
}

impl Replay {
    fn exposition(&self, pool: &str, step: usize) -> String {
        let at = self.base_ms + step as i64 * STEP_MS;
        if let Some(recording) = self.recordings.get(pool) {
            return recorded::at(&recording[step], at);
        }
        let mut out = String::new();
        made::node(&mut out, step, at);
        made::containers(&mut out, step, at);
        made::federated(&mut out, step, at);
        out
    }

    fn pools(&self) -> Vec<&'static str> {
        let mut pools: Vec<_> = self.recordings.keys().copied().collect();
        pools.push("replay");
        pools
    }

    /// Whether the reader's last scrape was good.
    async fn is_up(&self, reader: &str, pool: &str) -> bool {
        let Some(http) = self.readers.get(reader) else {
            return false;
        };
        let (_, body) = http.get(&format!("/api/v1/targets?scrapePool={pool}")).await;
        body.contains(r#""health":"up""#)
    }

    async fn is_done(&self, reader: &str) -> bool {
        for pool in self.pools() {
            let key = (reader.to_owned(), pool.to_owned());
            let last = self.served.lock().get(&key).copied();
            if last < Some(STEPS - 1) || !self.is_up(reader, pool).await {
                return false;
            }
        }
        true
    }
}

async fn serve(
    State(replay): State<Arc<Replay>>,
    Path((reader, pool)): Path<(String, String)>,
) -> impl axum::response::IntoResponse {
    let key = (reader.clone(), pool.clone());
    let last = replay.served.lock().get(&key).copied();
    let step = match last {
        None => 0,
        Some(last) if replay.is_up(&reader, &pool).await => (last + 1).min(STEPS - 1),
        Some(last) => last,
    };
    replay.served.lock().insert(key, step);
    (
        [("content-type", "text/plain; version=0.0.4")],
        replay.exposition(&pool, step),
    )
}

fn equal(a: &str, b: &str) -> bool {
    let (Ok(x), Ok(y)) = (a.parse::<f64>(), b.parse::<f64>()) else {
        return a == b;
    };
    x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan()) || (x - y).abs() <= 1e-12 * x.abs().max(y.abs())
}

/// 2.42 stores `le` and `quantile` as they are exposed; 3.x (and gnomon) as floats: `1.0` for `1`.
fn normalized(theirs: client::Series) -> client::Series {
    let whole = |labels: String| {
        ["le", "quantile"].iter().fold(labels, |labels, name| {
            let Some((before, rest)) = labels.split_once(&format!("\"{name}\": \"")) else {
                return labels;
            };
            let (value, after) = rest.split_once('"').unwrap_or((rest, ""));
            let dot = if value.parse::<i64>().is_ok() { ".0" } else { "" };
            format!("{before}\"{name}\": \"{value}{dot}\"{after}")
        })
    };
    theirs
        .into_iter()
        .map(|(labels, samples)| (whole(labels), samples))
        .collect()
}

fn differences(query: &str, ours: &client::Series, theirs: &client::Series) -> Vec<String> {
    let mut found = Vec::new();
    if ours.keys().ne(theirs.keys()) {
        found.push(format!(
            "{query}: series only here {:?}, only in Prometheus {:?}",
            ours.keys().filter(|k| !theirs.contains_key(*k)).collect::<Vec<_>>(),
            theirs.keys().filter(|k| !ours.contains_key(*k)).collect::<Vec<_>>()
        ));
        return found;
    }
    for (labels, samples) in ours {
        let expected = &theirs[labels];
        if samples.len() != expected.len() {
            found.push(format!(
                "{query}: {labels}: {} samples but Prometheus has {}",
                samples.len(),
                expected.len()
            ));
        }
        let wrong = samples
            .iter()
            .zip(expected)
            .find(|(a, b)| a.0 != b.0 || !equal(&a.1, &b.1));
        found.extend(wrong.map(|(a, b)| format!("{query}: {labels}: {a:?} but Prometheus has {b:?}")));
    }
    found
}

async fn scrape_both(
    folder: &std::path::Path,
    prometheus: &std::path::Path,
    base_ms: i64,
) -> (Arc<Replay>, Node, Prometheus) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let (ours, theirs) = (free_port(), free_port());
    let reader = |port: u16| Http::new(&format!("http://127.0.0.1:{port}"));
    let recordings = RECORDINGS
        .into_iter()
        .filter_map(|name| Some((name, recorded::recording(name, STEPS)?)));
    let replay = Arc::new(Replay {
        base_ms,
        recordings: recordings.collect(),
        readers: HashMap::from([("gnomon", reader(ours)), ("prometheus", reader(theirs))]),
        served: parking_lot::Mutex::default(),
    });
    let routes = axum::Router::new()
        .route("/{reader}/{pool}", axum::routing::get(serve))
        .with_state(Arc::clone(&replay));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let yaml = |reader: &str| {
        let job = |pool: &str| {
            format!(
                "- job_name: {pool}\n  scrape_interval: 100ms\n  scrape_timeout: 100ms\n  honor_labels: true\n  \
                 metrics_path: /{reader}/{pool}\n  static_configs: [{{targets: ['{address}']}}]\n"
            )
        };
        format!(
            "scrape_configs:\n{}",
            replay.pools().into_iter().map(job).collect::<String>()
        )
    };
    let reference = Prometheus::launch_at(theirs, prometheus, folder, "reference", &yaml("prometheus"), &[]);
    let address = format!("--web.listen-address=127.0.0.1:{ours}");
    let node = Node::start(folder, &yaml("gnomon"), &[&address]).await;
    (replay, node, reference)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_scrapes_give_the_same_answers_as_prometheus() {
    let Some(prometheus) = peers::find("prometheus", "prometheus") else {
        return;
    };
    let folder = tempfile::tempdir().expect("temp folder");
    let now_ms = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
    let (replay, node, _reference) = scrape_both(folder.path(), &prometheus, now_ms - 40 * 60_000).await;
    eventually("both to have scraped every step", async || {
        (replay.is_done("gnomon").await && replay.is_done("prometheus").await).then_some(())
    })
    .await;
    let reference = &replay.readers["prometheus"];
    // Off the grid of the samples, so that Prometheus 2's closed and 3's left-open ranges hold the same ones.
    let base = replay.base_ms as f64 / 1000.0 + 3.25;
    let mut wrong = Vec::new();
    for at in [60, 1100, 1795] {
        for query in INSTANT {
            let (a, b) = (
                node.http.query(query, base + f64::from(at)).await,
                reference.query(query, base + f64::from(at)).await,
            );
            wrong.extend(differences(query, &client::series(&a), &normalized(client::series(&b))));
        }
    }
    let recorded = if replay.recordings.is_empty() {
        &[][..]
    } else {
        RECORDED
    };
    for query in RANGE.iter().chain(recorded) {
        let (a, b) = (
            node.http.query_range(query, base, base + 2090.0, 37.0).await,
            reference.query_range(query, base, base + 2090.0, 37.0).await,
        );
        let theirs = normalized(client::series(&b));
        wrong.extend(differences(query, &client::series(&a), &theirs));
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    at_the_edge(&node.http, reference, replay.base_ms as f64 / 1000.0).await;
}

/// On the grid a range of 2.42 has a sample more than one of 3.x: the one at its beginning. A row of `docs/compat.md`.
async fn at_the_edge(ours: &Http, reference: &Http, base: f64) {
    let at = base + 900.0;
    let query = "count_over_time(memory_bytes{kind='used'}[1m])";
    for (http, expected) in [(ours, "4"), (reference, "5")] {
        let found = client::series(&http.query(query, at).await);
        let value = found.values().next().map(|samples| samples[0].1.as_str());
        assert_eq!(value, Some(expected), "{query} of {}", http.url(""));
    }
    // The lookback: a sample exactly five minutes old is not seen any more.
    let last = base + (STEPS as f64 - 1.0) * STEP_MS as f64 / 1000.0;
    for (after, here, there) in [(299.9, 3, 3), (300.0, 0, 3), (300.1, 0, 0)] {
        for (http, expected) in [(ours, here), (reference, there)] {
            let found = client::series(&http.query("memory_bytes", last + after).await);
            assert_eq!(
                found.len(),
                expected,
                "{after} s after the last sample, {}",
                http.url("")
            );
        }
    }
}
