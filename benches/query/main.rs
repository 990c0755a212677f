//! The same queries of dashboards and alerts to gnomon, Debian's Prometheus and VictoriaMetrics over the same data, side
//! by side in one run. Prints Markdown tables for docs/benchmarks.md, which says what they mean.
//!
//! `make bench-query`. In the environment: SMALL=1 (a fifth of the series, a quarter of the hours), LONG and SHORT (each
//! SERIESxHOURS, or 0 to leave it out), RUNS (of each query), SERVERS (a list), DATA (a folder in which the servers' data
//! is kept, to be used again), ONLY (a part of the queries' text), GNOMON (another binary), BEFORE (a binary for
//! SERVERS=gnomon,gnomon-before), LEAST=1 (the least of the runs instead of the median: what else runs shows less).

#[path = "../../tests/harness/mod.rs"]
mod harness;
#[path = "../side_by_side/mod.rs"]
mod side_by_side;

mod answers;
mod data;
mod queries;
mod report;

use data::Data;
use harness::Process;
use queries::{Meaning, QUERIES, Query, Range};
use report::{Figures, Times};
use side_by_side::measure::cpu_seconds;
use side_by_side::servers::Server;
use side_by_side::{number, send, setting, wanted_servers};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Samples of a series in one request, and series.
const ROUNDS_PER_REQUEST: usize = 40;
const SERIES_PER_REQUEST: usize = 500;
/// A query that takes longer than this is asked three times only.
const SLOW: Duration = Duration::from_secs(2);
const WINDOW_MS: i64 = 7_200_000;

/// A server with its process.
struct Running {
    server: Server,
    process: Process,
}

fn now_ms() -> i64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64
}

/// The newest moment that lies 30 minutes after the begin of a two-hour window: all windows but the newest are sealed.
fn end_of_data() -> i64 {
    let half_an_hour = WINDOW_MS / 4;
    (now_ms() - half_an_hour).div_euclid(WINDOW_MS) * WINDOW_MS + half_an_hour
}

/// Series and hours of a data set; none where it is left out.
fn shape(name: &str, default: (usize, f64)) -> Option<(usize, f64)> {
    let small = number("SMALL", 0) > 0;
    let (series, hours) = if small {
        (default.0 / 5, default.1 / 4.0)
    } else {
        default
    };
    let text = setting(name, &format!("{series}x{hours}"));
    let (series, hours) = text.split_once('x').unwrap_or((&text, "0"));
    let shape = (series.parse().ok()?, hours.parse().ok()?);
    (shape.0 > 0).then_some(shape)
}

async fn load(servers: &[Running], data: &Arc<Data>) {
    for first_round in (0..data.rounds).step_by(ROUNDS_PER_REQUEST) {
        let rounds = first_round..(first_round + ROUNDS_PER_REQUEST).min(data.rounds);
        let mut senders = tokio::task::JoinSet::new();
        for first in (0..data.len()).step_by(SERIES_PER_REQUEST) {
            let (data, rounds) = (Arc::clone(data), rounds.clone());
            let body = tokio::task::spawn_blocking(move || data.body(first, SERIES_PER_REQUEST, rounds));
            let body = body.await.expect("a body");
            for running in servers {
                senders.spawn(send(running.server.http.clone(), body.clone()));
            }
            while senders.len() > 2 * servers.len() {
                senders.join_next().await;
            }
        }
        while let Some(sent) = senders.join_next().await {
            sent.expect("a sender");
        }
    }
}

/// Waits until no server is busy with what the load left it to do.
async fn settle(servers: &[Running]) {
    let began = tokio::time::Instant::now();
    let mut quiet = 0;
    while quiet < 2 && began.elapsed() < Duration::from_secs(180) {
        let before: Vec<f64> = servers.iter().map(|r| cpu_seconds(r.process.id())).collect();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let used = servers
            .iter()
            .zip(before)
            .map(|(r, before)| cpu_seconds(r.process.id()) - before);
        quiet = if used.fold(0.0, f64::max) < 0.3 { quiet + 1 } else { 0 };
    }
}

fn path_of(query: &Query, range: Range, data: &Data, hours: f64) -> String {
    let text = harness::client::encode(query.text);
    let end = data.end_ms / 1000;
    match range {
        Range::Instant => format!("/api/v1/query?query={text}&time={end}"),
        Range::Steps { share, step_s } => {
            let start = end - (hours * 3_600.0 * share) as i64 / step_s as i64 * step_s as i64;
            format!("/api/v1/query_range?query={text}&start={start}&end={end}&step={step_s}")
        }
    }
}

/// Asks once; the body, seconds and CPU seconds.
async fn ask(running: &Running, path: &str) -> (Vec<u8>, f64, f64) {
    let http = &running.server.http;
    let url = http.url(&format!("{path}{}", running.server.query_more));
    let cpu = cpu_seconds(running.process.id());
    let began = tokio::time::Instant::now();
    let answer = http.client().get(url).send().await.expect("an answer");
    let body = answer.bytes().await.expect("a body").to_vec();
    let seconds = began.elapsed().as_secs_f64();
    (body, seconds, cpu_seconds(running.process.id()) - cpu)
}

/// Compares the answers of all with the first one's; how many series there are.
async fn check(servers: &[Running], query: &Query, path: &str) -> (usize, Duration) {
    let mut first: Option<answers::Answer> = None;
    let mut slowest = 0.0_f64;
    for running in servers {
        let (body, seconds, _) = ask(running, path).await;
        slowest = slowest.max(seconds);
        let name = running.server.name;
        let answer = answers::read(&body).unwrap_or_else(|e| panic!("{name}: {}: {e}", query.text));
        let Some(ours) = &first else {
            first = Some(answer);
            continue;
        };
        let own_ranges = name == "victoria-metrics" && query.meaning == Meaning::OwnRanges;
        let difference = if own_ranges {
            None
        } else {
            answers::difference(ours, &answer)
        };
        if let Some(what) = difference {
            println!("DIFFERENT from {name}: {}: {what}\n", query.text);
        }
        if own_ranges && ours.len() != answer.len() {
            println!(
                "{name} finds {} series, gnomon {}: {}\n",
                answer.len(),
                ours.len(),
                query.text
            );
        }
    }
    (first.map_or(0, |answer| answer.len()), Duration::from_secs_f64(slowest))
}

async fn measure(servers: &[Running], query: &Query, path: &str, runs: usize) -> Figures {
    let (series, slowest) = check(servers, query, path).await;
    let runs = if slowest > SLOW { runs.min(3) } else { runs };
    let mut times: Vec<Times> = servers.iter().map(|_| Times::default()).collect();
    // One after the other, so that what else the machine does is the same for all.
    for _ in 0..runs {
        for (running, times) in servers.iter().zip(&mut times) {
            let (_, seconds, cpu) = ask(running, path).await;
            times.add(seconds, cpu);
        }
    }
    Figures { series, times }
}

/// The data set in `folder`: begun anew, or as it was left.
async fn start(folder: &Path, names: &[&str], series: usize, hours: f64) -> (Vec<Running>, Arc<Data>) {
    std::fs::create_dir_all(folder).expect("data folder");
    let note = folder.join(format!("{series}x{hours}"));
    let kept = std::fs::read_to_string(&note).ok().and_then(|text| text.parse().ok());
    let data = Arc::new(Data::new(series, hours, kept.unwrap_or_else(end_of_data)));
    let mut servers = Vec::new();
    for name in names {
        let Some(mut server) = Server::new(name, folder, false) else {
            continue;
        };
        if server.is_gnomon() {
            // What takes minutes otherwise: windows that are over become blocks, blocks are merged.
            for flag in [
                "--ingest.seal-quiet=1s",
                "--compactor.interval=2s",
                "--compactor.grace=10s",
            ] {
                server = server.with_flag(flag);
            }
        }
        let (process, _) = server.start(folder).await;
        servers.push(Running { server, process });
    }
    if kept.is_none() {
        let began = tokio::time::Instant::now();
        load(&servers, &data).await;
        println!("loaded in {:.0} s", began.elapsed().as_secs_f64());
        std::fs::write(note, data.end_ms.to_string()).expect("a note");
    }
    settle(&servers).await;
    (servers, data)
}

async fn run(name: &str, (series, hours): (usize, f64), names: &[&str], is_long: bool) {
    let temporary = tempfile::tempdir().expect("temp folder");
    let kept = setting("DATA", "");
    let folder = if kept.is_empty() {
        temporary.path().to_owned()
    } else {
        PathBuf::from(kept).join(name)
    };
    let (servers, data) = start(&folder, names, series, hours).await;
    for running in &servers {
        println!(
            "{}: {:.0} CPU s so far",
            running.server.name,
            cpu_seconds(running.process.id())
        );
    }
    println!("\n{} series, {hours} hours, a sample every 15 s:\n", data.len());
    let (runs, only) = (number("RUNS", 7), setting("ONLY", ""));
    let mut all = Vec::new();
    for query in QUERIES.iter().filter(|q| q.text.contains(&only)) {
        let range = if is_long { query.long } else { query.short };
        let path = path_of(query, range, &data, hours);
        all.push((query, range, measure(&servers, query, &path, runs).await));
    }
    let names: Vec<_> = servers.iter().map(|r| r.server.name).collect();
    report::print(&names, &all, hours);
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    // cargo passes --bench; there is nothing to choose.
    let names = wanted_servers();
    for (name, default) in [("LONG", (10_000, 24.0)), ("SHORT", (100_000, 2.0))] {
        if let Some(shape) = shape(name, default) {
            run(name, shape, &names, name == "LONG").await;
        }
    }
}
