//! kill -9 at random moments under remote-write load, with a ledger of what was acknowledged.

use crate::harness::{Node, client, remote};
use rand::{RngExt, SeedableRng};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const WRITERS: usize = 4;
/// Each writer sends one sample for each of its series in a request.
const SERIES_PER_WRITER: usize = 1_000;

/// Where one writer is: `acknowledged` steps are certain, `attempted` ones may be there or not.
#[derive(Default)]
struct Ledger {
    acknowledged: BTreeSet<i64>,
    attempted: BTreeSet<i64>,
}

fn value(writer: usize, series: usize, step: i64) -> f64 {
    (step * 1_000_000) as f64 + (writer * SERIES_PER_WRITER + series) as f64 + 0.5
}

fn request(writer: usize, step: i64, at_ms: i64) -> Vec<u8> {
    let writer_text = writer.to_string();
    let series = (0..SERIES_PER_WRITER)
        .map(|i| {
            let labels = [
                ("__name__", "ledger"),
                ("instance", &writer_text),
                ("job", "kill"),
                ("series", &format!("s{i}")),
            ];
            remote::time_series(&labels, &[(at_ms, value(writer, i, step))])
        })
        .collect();
    remote::body(series)
}

fn time_of(base_ms: i64, step: i64) -> i64 {
    base_ms + step * 250
}

/// Writes steps from `from` on until told to stop or until the node is gone.
async fn write(http: client::Http, writer: usize, base_ms: i64, from: i64, stop: Arc<AtomicBool>) -> Ledger {
    let mut ledger = Ledger::default();
    let mut step = from;
    while !stop.load(Ordering::Relaxed) {
        ledger.attempted.insert(step);
        match remote::send(&http, request(writer, step, time_of(base_ms, step))).await {
            Ok((code, _)) if (200..300).contains(&code) => {
                ledger.acknowledged.insert(step);
            }
            Ok((503, _)) => {}
            Ok((code, text)) => panic!("writer {writer} step {step}: {code} {text}"),
            Err(_) => break,
        }
        step += 1;
    }
    ledger
}

async fn check(node: &Node, writer: usize, base_ms: i64, ledger: &Ledger) {
    let last = ledger.attempted.last().copied().unwrap_or(0);
    let end = time_of(base_ms, last + 1) as f64 / 1000.0;
    let selector = format!("ledger{{instance=\"{writer}\"}}[{}s]", (last + 8) / 4 + 1);
    let found = client::series(&node.http.query(&selector, end).await);
    assert!(
        found.len() == SERIES_PER_WRITER || ledger.acknowledged.is_empty(),
        "{} series",
        found.len()
    );
    for (labels, samples) in &found {
        let index = labels
            .split("\"series\": \"s")
            .nth(1)
            .and_then(|s| s.split('"').next())
            .and_then(|s| s.parse::<usize>().ok());
        let index = index.unwrap_or_else(|| panic!("no series label: {labels}"));
        let mut seen = BTreeSet::new();
        for (seconds, text) in samples {
            let step = ((seconds * 1000.0).round() as i64 - base_ms) / 250;
            assert!(seen.insert(step), "twice: {labels} step {step}");
            assert!(ledger.attempted.contains(&step), "never sent: {labels} step {step}");
            assert_eq!(
                text.parse::<f64>().ok(),
                Some(value(writer, index, step)),
                "wrong: {labels} step {step}"
            );
        }
        let lost: Vec<_> = ledger.acknowledged.difference(&seen).collect();
        assert!(lost.is_empty(), "lost: {labels} steps {lost:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes in a development build: cargo test --test one_node -- --ignored kill"]
async fn nothing_acknowledged_is_lost_by_kill_9() {
    let folder = tempfile::tempdir().expect("temp folder");
    let rounds: usize = std::env::var("GNOMON_KILL_ROUNDS")
        .ok()
        .and_then(|r| r.parse().ok())
        .unwrap_or(20);
    let seed: u64 = std::env::var("GNOMON_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(20_261_123);
    println!("seed {seed}, {rounds} rounds");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let mut node = Node::start(folder.path(), "", &["--web.enable-remote-write-receiver"]).await;
    let now_ms = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
    let base_ms = now_ms - 30 * 60_000;
    let mut ledgers: Vec<Ledger> = (0..WRITERS).map(|_| Ledger::default()).collect();
    let mut slowest = Duration::ZERO;
    for round in 0..rounds {
        let stop = Arc::new(AtomicBool::new(false));
        let from = ledgers
            .iter()
            .filter_map(|l| l.attempted.last())
            .max()
            .map_or(0, |s| s + 1);
        let writers: Vec<_> = (0..WRITERS)
            .map(|w| tokio::spawn(write(node.http.clone(), w, base_ms, from, Arc::clone(&stop))))
            .collect();
        tokio::time::sleep(Duration::from_millis(random.random_range(50..900))).await;
        node.process.kill();
        stop.store(true, Ordering::Relaxed);
        for (writer, task) in writers.into_iter().enumerate() {
            let new = task.await.expect("writer");
            ledgers[writer].acknowledged.extend(new.acknowledged);
            ledgers[writer].attempted.extend(new.attempted);
        }
        let (again, took) = node.restart().await;
        node = again;
        slowest = slowest.max(took);
        for (writer, ledger) in ledgers.iter().enumerate() {
            check(&node, writer, base_ms, ledger).await;
        }
        let acknowledged: usize = ledgers.iter().map(|l| l.acknowledged.len()).sum();
        println!("round {round}: {acknowledged} requests acknowledged so far, restart to ready {took:?}");
    }
    let acknowledged: usize = ledgers.iter().map(|l| l.acknowledged.len()).sum();
    assert!(
        acknowledged >= rounds,
        "hardly anything was acknowledged: {acknowledged}"
    );
    println!(
        "{} samples acknowledged, none lost; slowest restart {slowest:?}",
        acknowledged * SERIES_PER_WRITER
    );
}
