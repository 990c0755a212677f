//! Without timestamps of their own: each scrape of gnomon's is compared with the scrape of the same content by a real
//! Prometheus 2.42. At the time of a scrape, all series of the target have the same values in both, those that went away
//! are gone in both, and so is what a scrape reports of itself.

#[path = "steps/jobs.rs"]
mod jobs;

use crate::harness::reference::Prometheus;
use crate::harness::{Http, Node, client, eventually, peers};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use jobs::{JOBS, Job};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Scrapes of one job that are compared.
const ROUNDS: usize = 10;

struct Exporter {
    at_ms: i64,
    asked: parking_lot::Mutex<HashMap<(String, String), usize>>,
}

/// The n-th scrape of a reader gets the n-th step; the last step stays.
async fn serve(
    State(exporter): State<Arc<Exporter>>,
    Path((reader, name)): Path<(String, String)>,
) -> impl axum::response::IntoResponse {
    let Some(job) = JOBS.iter().find(|job| job.name == name) else {
        return (StatusCode::NOT_FOUND, [("content-type", "text/plain")], String::new());
    };
    let mut asked = exporter.asked.lock();
    let count = asked.entry((reader, name)).or_insert(0);
    let (status, body) = job.steps[(*count).min(job.steps.len() - 1)];
    *count += 1;
    let body = body.replace("{T}", &exporter.at_ms.to_string());
    let body = body.replace("{U}", &(exporter.at_ms + 1000).to_string());
    let status = StatusCode::from_u16(status).expect("a status");
    (status, [("content-type", job.content_type)], body)
}

fn yaml(reader: &str, address: &std::net::SocketAddr) -> String {
    let job = |job: &Job| {
        let comma = if job.config.is_empty() { "" } else { ", " };
        format!(
            "- {{job_name: {0}, metrics_path: /{reader}/{0}, scrape_interval: 2s, scrape_timeout: 2s, \
             static_configs: [{{targets: ['{address}'], labels: {{case: {0}}}}}]{comma}{1}}}\n",
            job.name, job.config
        )
    };
    format!("scrape_configs:\n{}", JOBS.iter().map(job).collect::<String>())
}

/// When the scrapes of a job were, in order.
async fn times(http: &Http, job: &str) -> Vec<f64> {
    let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs_f64();
    let up = client::series(&http.query(&format!("up{{case='{job}'}}[1h]"), now).await);
    let samples = up.into_values().next().unwrap_or_default();
    samples.into_iter().map(|(at, _)| at).collect()
}

/// All series of a job at the time of a scrape, by labels; how long the scrape took is nobody's promise.
async fn state(http: &Http, job: &str, at: f64) -> BTreeMap<String, String> {
    // 2.42 stores `le` and `quantile` as they are exposed; 3.x as floats.
    let float = |labels: String| {
        let labels = labels.replace("\"le\": \"1\"", "\"le\": \"1.0\"");
        labels.replace("\"quantile\": \"1\"", "\"quantile\": \"1.0\"")
    };
    client::series(&http.query(&format!("{{case='{job}'}}"), at).await)
        .into_iter()
        .filter(|(labels, _)| !labels.contains("scrape_duration_seconds"))
        .map(|(labels, samples)| (float(labels), samples[0].1.clone()))
        .collect()
}

fn is_report(labels: &str) -> bool {
    labels.contains("\"__name__\": \"scrape_") || labels.contains("\"__name__\": \"up\"")
}

fn is_down(state: &BTreeMap<String, String>) -> bool {
    state
        .iter()
        .any(|(labels, value)| labels.contains("\"__name__\": \"up\"") && value == "0")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_scrape_leaves_what_it_leaves_in_prometheus() {
    let Some(prometheus) = peers::find("prometheus", "prometheus") else {
        return;
    };
    let folder = tempfile::tempdir().expect("temp folder");
    let now_ms = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let exporter = Arc::new(Exporter {
        at_ms: now_ms - 10_000,
        asked: parking_lot::Mutex::default(),
    });
    let routes = axum::Router::new()
        .route("/{reader}/{job}", axum::routing::get(serve))
        .with_state(exporter);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let theirs = yaml("prometheus", &address);
    let reference = Prometheus::launch(&prometheus, folder.path(), "reference", &theirs, &[]);
    let node = Node::start(folder.path(), &yaml("gnomon", &address), &[]).await;
    reference.until_ready().await;
    let reference = &reference.http;
    let mut wrong = Vec::new();
    for Job { name, .. } in JOBS {
        let both = eventually("the scrapes of both", async || {
            let both = (times(&node.http, name).await, times(reference, name).await);
            (both.0.len() >= ROUNDS && both.1.len() >= ROUNDS).then_some(both)
        })
        .await;
        for round in 0..ROUNDS {
            let ours = state(&node.http, name, both.0[round]).await;
            let mut theirs = state(reference, name, both.1[round]).await;
            if is_down(&ours) && is_down(&theirs) {
                // A scrape that is refused in its middle ends all series of the target here; in Prometheus those that
                // came before the middle stay as they were. A row of `docs/compat.md`.
                theirs.retain(|labels, value| is_report(labels) || ours.get(labels) == Some(value));
            }
            if ours != theirs {
                let only = |a: &BTreeMap<String, String>, b: &BTreeMap<String, String>| -> Vec<String> {
                    let differs = a.iter().filter(|(labels, value)| b.get(*labels) != Some(value));
                    differs.map(|(labels, value)| format!("{labels} {value}")).collect()
                };
                wrong.push(format!(
                    "{name}, scrape {round}:\n  here {:?}\n  Prometheus {:?}",
                    only(&ours, &theirs),
                    only(&theirs, &ours)
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}
