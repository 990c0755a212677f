//! kill -9 at random moments under remote-write load, with a ledger of what was acknowledged.
//!
//! Sample time runs far ahead of the clock (a minute from step to step), so windows are sealed, uploaded and dropped
//! while the node is being killed, and its state is flushed after little log.
//!
//! `GNOMON_KILL_ROUNDS`, `GNOMON_KILL_SERIES`, `GNOMON_KILL_ARGS` and `GNOMON_SEED` change it; `make test-kill` does.

use crate::harness::{Node, client, eventually, remote};
use gnomon_proto::prometheus::TimeSeries;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const WRITERS: usize = 4;
/// From step to step.
const STEP_MS: i64 = 60_000;
/// All steps lie within what the shards take as merely late.
const STEPS: i64 = 580;
/// Steps that one query asks for.
const PIECE: i64 = 30;

/// Where one writer is: `acknowledged` steps are certain, `attempted` ones may be there or not.
#[derive(Default)]
struct Ledger {
    acknowledged: BTreeSet<i64>,
    attempted: BTreeSet<i64>,
}

fn number(variable: &str, default: u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// What is sent, and when it began.
#[derive(Clone, Copy)]
struct Load {
    /// Each writer sends one sample for each of its series in a request.
    series_per_writer: usize,
    base_ms: i64,
}

impl Load {
    fn value(self, writer: usize, series: usize, step: i64) -> f64 {
        (step * 1_000_000) as f64 + (writer * self.series_per_writer + series) as f64 + 0.5
    }

    fn time_ms(self, step: i64) -> i64 {
        self.base_ms + step * STEP_MS
    }

    fn series(self, writer: usize) -> Vec<TimeSeries> {
        let writer = writer.to_string();
        let one = |i| {
            let series = format!("s{i}");
            let labels = [
                ("__name__", "ledger"),
                ("instance", &writer),
                ("job", "kill"),
                ("series", &series),
            ];
            remote::time_series(&labels, &[(0, 0.0)])
        };
        (0..self.series_per_writer).map(one).collect()
    }

    fn request(self, series: &mut [TimeSeries], writer: usize, step: i64) -> Vec<u8> {
        for (i, one) in series.iter_mut().enumerate() {
            one.samples[0].timestamp = self.time_ms(step);
            one.samples[0].value = self.value(writer, i, step);
        }
        remote::body(series.to_vec())
    }

    /// Writes steps from `from` on until told to stop or until the node is gone; sends the last one again and again
    /// once there are `most`.
    async fn write(self, http: client::Http, writer: usize, from: i64, most: i64, stop: Arc<AtomicBool>) -> Ledger {
        let mut ledger = Ledger::default();
        let mut series = self.series(writer);
        let mut step = from;
        while !stop.load(Ordering::Relaxed) {
            ledger.attempted.insert(step);
            match remote::send(&http, self.request(&mut series, writer, step)).await {
                Ok((code, _)) if (200..300).contains(&code) => {
                    ledger.acknowledged.insert(step);
                }
                Ok((503, _)) => {}
                Ok((code, text)) => panic!("writer {writer} step {step}: {code} {text}"),
                Err(_) => break,
            }
            step = (step + 1).min(from + most - 1);
        }
        ledger
    }

    /// Whether every series has every acknowledged step of `from..to` once and nothing that was never sent.
    async fn check(self, node: &Node, writer: usize, ledger: &Ledger, from: i64, to: i64) {
        for from in (from..to).step_by(PIECE as usize) {
            self.check_piece(node, writer, ledger, from, (from + PIECE).min(to))
                .await;
        }
    }

    async fn check_piece(self, node: &Node, writer: usize, ledger: &Ledger, from: i64, to: i64) {
        let seconds = (to - from) * STEP_MS / 1000 - 30;
        let selector = format!("ledger{{instance=\"{writer}\"}}[{seconds}s]");
        let end = self.time_ms(to - 1) as f64 / 1000.0;
        let path = format!("/api/v1/query?query={}&time={end}", client::encode(&selector));
        // An answer that says it is incomplete (a part was dropped under it) is asked for again.
        let answer: Answer = eventually("a complete answer", async || {
            let (code, body) = node.http.get(&path).await;
            assert_eq!(code, 200, "{body:.1000}");
            let answer: Answer = serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {body:.1000}"));
            if !answer.warnings.is_empty() {
                println!("asked again: {:?}", answer.warnings);
            }
            answer.warnings.is_empty().then_some(answer)
        })
        .await;
        let acknowledged: Vec<i64> = ledger.acknowledged.range(from..to).copied().collect();
        let mut met = BTreeSet::new();
        for row in &answer.data.result {
            let index = row
                .metric
                .series
                .strip_prefix('s')
                .and_then(|s| s.parse::<usize>().ok());
            let index = index.unwrap_or_else(|| panic!("series {:?}", row.metric.series));
            assert!(met.insert(index), "series s{index} is there twice");
            let mut seen = BTreeSet::new();
            for (seconds, text) in &row.values {
                let offset_ms = (seconds * 1000.0).round() as i64 - self.base_ms;
                let step = offset_ms / STEP_MS;
                assert_eq!(offset_ms % STEP_MS, 0, "never sent: s{index} at {seconds}");
                assert!(seen.insert(step), "twice: s{index} step {step}");
                assert!(ledger.attempted.contains(&step), "never sent: s{index} step {step}");
                assert_eq!(
                    text.parse::<f64>().ok(),
                    Some(self.value(writer, index, step)),
                    "wrong: s{index} step {step}"
                );
            }
            let lost: Vec<_> = acknowledged.iter().filter(|step| !seen.contains(step)).collect();
            assert!(lost.is_empty(), "lost: writer {writer} s{index} steps {lost:?}");
        }
        assert!(
            acknowledged.is_empty() || met.len() == self.series_per_writer,
            "writer {writer}: {} series of {} in steps {from}..{to}",
            met.len(),
            self.series_per_writer
        );
    }
}

#[derive(Deserialize)]
struct Answer {
    data: Data,
    #[serde(default)]
    warnings: Vec<String>,
}

#[derive(Deserialize)]
struct Data {
    result: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    metric: Metric,
    values: Vec<(f64, String)>,
}

#[derive(Deserialize)]
struct Metric {
    series: String,
}

/// Kills the node after a random time under load and adds to the ledgers.
async fn kill_under_load(node: &mut Node, load: Load, ledgers: &mut [Ledger], most: i64, random: &mut StdRng) {
    let stop = Arc::new(AtomicBool::new(false));
    let from = ledgers
        .iter()
        .filter_map(|l| l.attempted.last())
        .max()
        .map_or(0, |s| s + 1);
    let writers: Vec<_> = (0..WRITERS)
        .map(|w| tokio::spawn(load.write(node.http.clone(), w, from, most, Arc::clone(&stop))))
        .collect();
    tokio::time::sleep(Duration::from_millis(random.random_range(50..1500))).await;
    node.process.kill();
    stop.store(true, Ordering::Relaxed);
    for (ledger, task) in ledgers.iter_mut().zip(writers) {
        let new = task.await.expect("writer");
        ledger.acknowledged.extend(new.acknowledged);
        ledger.attempted.extend(new.attempted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_by_kill_9() {
    let folder = tempfile::tempdir().expect("temp folder");
    let rounds = number("GNOMON_KILL_ROUNDS", 10);
    let seed = number("GNOMON_SEED", 20_261_123);
    let load = Load {
        series_per_writer: number("GNOMON_KILL_SERIES", 2_000) as usize / WRITERS,
        base_ms: std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64 - (STEPS + 5) * STEP_MS,
    };
    println!(
        "seed {seed}, {rounds} rounds, {} series",
        load.series_per_writer * WRITERS
    );
    let mut random = StdRng::seed_from_u64(seed);
    let more = std::env::var("GNOMON_KILL_ARGS").unwrap_or_else(|_| "--ingest.flush-bytes=256KiB".into());
    let mut args = vec!["--web.enable-remote-write-receiver", "--ingest.seal-quiet=100ms"];
    args.extend(more.split_whitespace());
    let mut node = Node::start(folder.path(), "", &args).await;
    let mut ledgers: Vec<Ledger> = (0..WRITERS).map(|_| Ledger::default()).collect();
    let mut slowest = (Duration::ZERO, Duration::ZERO);
    let mut checked = 0;
    for round in 0..rounds {
        kill_under_load(&mut node, load, &mut ledgers, STEPS / rounds as i64, &mut random).await;
        let (again, took) = node.restart().await;
        node = again;
        let cpu = node.process.cpu_time();
        slowest = (slowest.0.max(took), slowest.1.max(cpu));
        let next = ledgers
            .iter()
            .filter_map(|l| l.attempted.last())
            .max()
            .map_or(0, |s| s + 1);
        // What is new, and something older.
        let older = random.random_range(0..=checked);
        for (writer, ledger) in ledgers.iter().enumerate() {
            load.check(&node, writer, ledger, checked, next).await;
            load.check(&node, writer, ledger, older, (older + 3).min(checked)).await;
        }
        checked = next;
        let acknowledged: usize = ledgers.iter().map(|l| l.acknowledged.len()).sum();
        println!(
            "round {round}: {acknowledged} requests acknowledged so far, restart to ready {took:.2?} ({cpu:?} of CPU)"
        );
    }
    for (writer, ledger) in ledgers.iter().enumerate() {
        load.check(&node, writer, ledger, 0, checked).await;
    }
    let acknowledged: usize = ledgers.iter().map(|l| l.acknowledged.len()).sum();
    assert!(
        acknowledged >= rounds as usize,
        "hardly anything was acknowledged: {acknowledged}"
    );
    let log = node.process.log();
    let count = |what: &str| log.matches(what).count();
    println!(
        "{} samples acknowledged, none lost; slowest restart {:.2?} ({:?} of CPU); {} windows sealed, {} parts published",
        acknowledged * load.series_per_writer,
        slowest.0,
        slowest.1,
        count("window sealed"),
        count("part published"),
    );
    if checked * STEP_MS > 3 * 2 * 3_600_000 {
        eventually("a window to be sealed", async || {
            node.process.log().contains("window sealed").then_some(())
        })
        .await;
    }
}
