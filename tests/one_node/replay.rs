//! The same exposition, step by step with its own timestamps, scraped by gnomon and by a real Prometheus 2.42: the same
//! queries must have the same answers.

use crate::harness::{Http, Node, Process, client, eventually, free_port, peers};
use axum::extract::{Path, State};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::process::Command;
use std::sync::Arc;

const STEPS: usize = 120;
const STEP_MS: i64 = 15_000;

/// Serves step after step to each of its readers, and stays at the last.
struct Replay {
    base_ms: i64,
    next: parking_lot::Mutex<HashMap<String, usize>>,
}

impl Replay {
    fn exposition(&self, step: usize) -> String {
        let at = self.base_ms + step as i64 * STEP_MS;
        let mut out = String::new();
        node(&mut out, step, at);
        containers(&mut out, step, at);
        federated(&mut out, step, at);
        out
    }

    fn is_done(&self, reader: &str) -> bool {
        self.next.lock().get(reader).is_some_and(|n| *n > STEPS + 2)
    }
}

/// Counters with a reset, gauges, a classic histogram and a summary.
fn node(out: &mut String, step: usize, at: i64) {
    out.push_str("# HELP cpu_seconds_total CPU time.\n# TYPE cpu_seconds_total counter\n");
    for cpu in 0..3 {
        for (m, mode) in ["idle", "user", "system"].iter().enumerate() {
            // Everything but cpu 2 starts again at step 70, as after a reboot.
            let since = if step >= 70 && cpu < 2 { step - 70 } else { step };
            let value = since as f64 * (0.37 + cpu as f64 + m as f64 * 3.1);
            let _ = writeln!(out, "cpu_seconds_total{{cpu=\"{cpu}\",mode=\"{mode}\"}} {value} {at}");
        }
    }
    out.push_str("# TYPE memory_bytes gauge\n");
    for (i, kind) in ["free", "cached", "used"].iter().enumerate() {
        let value = 1e9 + ((step * 7919 + i * 104_729) % 1000) as f64 * 12_345.678;
        let _ = writeln!(out, "memory_bytes{{kind=\"{kind}\"}} {value} {at}");
    }
    out.push_str("# TYPE request_seconds histogram\n");
    for handler in ["/", "/api"] {
        let mut total = 0.0;
        for (b, le) in ["0.1", "0.5", "1", "+Inf"].iter().enumerate() {
            total += (step * (b + 1 + handler.len())) as f64;
            let _ = writeln!(
                out,
                "request_seconds_bucket{{handler=\"{handler}\",le=\"{le}\"}} {total} {at}"
            );
        }
        let _ = writeln!(out, "request_seconds_sum{{handler=\"{handler}\"}} {} {at}", total * 0.3);
        let _ = writeln!(out, "request_seconds_count{{handler=\"{handler}\"}} {total} {at}");
    }
    out.push_str("# TYPE gc_seconds summary\n");
    for q in ["0.5", "0.9"] {
        let _ = writeln!(
            out,
            "gc_seconds{{quantile=\"{q}\"}} {} {at}",
            if step.is_multiple_of(9) { "NaN" } else { "0.25" }
        );
    }
}

/// Containers come and go, each with timestamps of its own.
fn containers(out: &mut String, step: usize, at: i64) {
    out.push_str("# TYPE container_memory_bytes gauge\n# TYPE container_cpu_total counter\n");
    for generation in 0..=step / 20 {
        if step >= generation * 20 + 30 {
            continue;
        }
        for pod in 0..3 {
            let own = at - (pod as i64 * 1700 + generation as i64 * 13);
            let id = format!("id=\"/pod/{generation}/{pod}\",image=\"img:{}\"", pod % 2);
            let age = step - generation * 20;
            let _ = writeln!(out, "container_memory_bytes{{{id}}} {} {own}", 1e6 * (age + pod) as f64);
            let _ = writeln!(out, "container_cpu_total{{{id}}} {} {own}", age as f64 * 0.125);
        }
    }
}

/// Labels that collide with the target's.
fn federated(out: &mut String, step: usize, at: i64) {
    for job in ["a", "b"] {
        let _ = writeln!(
            out,
            "federated_up{{job=\"{job}\",instance=\"far:{job}\"}} {} {at}",
            step % 2
        );
    }
    let _ = writeln!(
        out,
        "escaped{{text=\"a\\\\b\\\"c\\nd\",utf=\"\u{e4}\u{2603}\"}} {step} {at}"
    );
}

async fn serve(State(replay): State<Arc<Replay>>, Path(reader): Path<String>) -> impl axum::response::IntoResponse {
    let step = {
        let mut next = replay.next.lock();
        let step = next.entry(reader).or_insert(0);
        *step += 1;
        (*step - 1).min(STEPS - 1)
    };
    ([("content-type", "text/plain; version=0.0.4")], replay.exposition(step))
}

const INSTANT: &[&str] = &[
    "cpu_seconds_total",
    "sum by (mode) (rate(cpu_seconds_total[5m]))",
    "sum without (cpu, instance) (increase(cpu_seconds_total[7m]))",
    "irate(cpu_seconds_total{mode!='idle'}[2m])",
    "resets(cpu_seconds_total[20m])",
    "changes(memory_bytes[10m])",
    "histogram_quantile(0.9, sum by (le, handler) (rate(request_seconds_bucket[5m])))",
    "histogram_quantile(0.5, request_seconds_bucket)",
    "avg_over_time(memory_bytes[11m])",
    "stddev_over_time(memory_bytes[11m])",
    "quantile_over_time(0.3, memory_bytes[11m])",
    "max_over_time(container_memory_bytes[9m]) - min_over_time(container_memory_bytes[9m])",
    "count_over_time(container_memory_bytes[29m])",
    "topk(3, container_memory_bytes)",
    "bottomk(2, memory_bytes)",
    "count_values('v', federated_up)",
    "federated_up",
    "escaped",
    "label_replace(escaped, 'short', '$1', 'text', '(?s:(.).*)')",
    "label_join(memory_bytes, 'both', '-', 'kind', 'job')",
    "memory_bytes{kind='used'} / ignoring(kind) group_left sum without (kind) (memory_bytes)",
    "memory_bytes and on(kind) memory_bytes{kind=~'free|used'}",
    "memory_bytes unless memory_bytes{kind='free'}",
    "absent(nothing_here)",
    "absent_over_time(cpu_seconds_total[5m])",
    "quantile(0.75, container_memory_bytes)",
    "stdvar(memory_bytes)",
    "gc_seconds",
];

const RANGE: &[&str] = &[
    "rate(cpu_seconds_total[3m])",
    "delta(memory_bytes[4m])",
    "deriv(memory_bytes[6m])",
    "predict_linear(memory_bytes[6m], 600)",
    "sum(container_memory_bytes)",
    "count by (image) (container_cpu_total)",
    "avg by (kind) (memory_bytes offset 3m)",
    "max_over_time(rate(cpu_seconds_total[2m])[10m:1m])",
    "histogram_quantile(0.99, rate(request_seconds_bucket[4m]))",
    "memory_bytes > bool 1.005e9",
    "clamp(memory_bytes, 1.001e9, 1.008e9)",
    "group(cpu_seconds_total) by (cpu)",
    "sum(rate(request_seconds_sum[5m])) / sum(rate(request_seconds_count[5m]))",
    "-memory_bytes % 1000",
    "sort_desc(memory_bytes)",
];

fn equal(a: &str, b: &str) -> bool {
    let (Ok(x), Ok(y)) = (a.parse::<f64>(), b.parse::<f64>()) else {
        return a == b;
    };
    x.to_bits() == y.to_bits() || (x.is_nan() && y.is_nan()) || (x - y).abs() <= 1e-12 * x.abs().max(y.abs())
}

fn differences(query: &str, ours: &client::Series, theirs: &client::Series) -> Vec<String> {
    let mut found = Vec::new();
    if ours.keys().ne(theirs.keys()) {
        found.push(format!(
            "{query}: series {:?} but Prometheus has {:?}",
            ours.keys(),
            theirs.keys()
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
    replay: &Arc<Replay>,
) -> (Node, Http, Process) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let routes = axum::Router::new()
        .route("/{reader}", axum::routing::get(serve))
        .with_state(Arc::clone(replay));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let yaml = |reader: &str| {
        format!(
            "scrape_configs:\n- job_name: replay\n  scrape_interval: 100ms\n  scrape_timeout: 100ms\n  honor_labels: true\n  \
             metrics_path: /{reader}\n  static_configs: [{{targets: ['{address}']}}]\n"
        )
    };
    let port = free_port();
    std::fs::write(folder.join("reference.yml"), yaml("prometheus")).expect("write");
    let process = Process::start(
        "prometheus",
        Command::new(prometheus)
            .arg(format!("--config.file={}", folder.join("reference.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("reference").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}")),
        folder.join("reference.log"),
    );
    let node = Node::start(folder, &yaml("gnomon"), &[]).await;
    (node, Http::new(&format!("http://127.0.0.1:{port}")), process)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_scrapes_give_the_same_answers_as_prometheus() {
    let Some(prometheus) = peers::find("prometheus", "prometheus") else {
        return;
    };
    let folder = tempfile::tempdir().expect("temp folder");
    let now_ms = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
    let replay = Arc::new(Replay {
        base_ms: now_ms - 40 * 60_000,
        next: parking_lot::Mutex::default(),
    });
    let (node, reference, _process) = scrape_both(folder.path(), &prometheus, &replay).await;
    eventually("both to have scraped every step", async || {
        (replay.is_done("gnomon") && replay.is_done("prometheus")).then_some(())
    })
    .await;
    // Off the grid of the samples, so that Prometheus 2's closed and 3's left-open ranges hold the same ones.
    let base = replay.base_ms as f64 / 1000.0 + 3.25;
    let mut wrong = Vec::new();
    for at in [60, 1100, 1795] {
        for query in INSTANT {
            let (a, b) = (
                node.http.query(query, base + f64::from(at)).await,
                reference.query(query, base + f64::from(at)).await,
            );
            wrong.extend(differences(query, &client::series(&a), &client::series(&b)));
        }
    }
    for query in RANGE {
        let (a, b) = (
            node.http.query_range(query, base, base + 1790.0, 37.0).await,
            reference.query_range(query, base, base + 1790.0, 37.0).await,
        );
        wrong.extend(differences(query, &client::series(&a), &client::series(&b)));
    }
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
}
