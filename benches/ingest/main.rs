//! The same remote-write load into gnomon, Debian's Prometheus and VictoriaMetrics, one after the other in one run:
//! CPU, memory, restart after kill -9, a query over what was written; and what they use while they only scrape
//! themselves. Prints Markdown tables for docs/benchmarks.md, which says what they mean.
//!
//! `make bench`. In the environment: SERIES and ROUNDS (one sample of each series per round), SENDERS, PER_REQUEST (a
//! list of samples per request, a table for each), SERVERS (a list of those to run), IDLE, SCRAPING and SENDING (seconds of
//! scraping only itself, of scraping SERIES series, and of receiving them from a real Prometheus; 0 leaves it out), SETTLE
//! (seconds after the load that count, and before memory is looked at), GNOMON (another binary, to compare).

#[path = "../../tests/harness/mod.rs"]
mod harness;

#[path = "../side_by_side/mod.rs"]
mod side_by_side;

mod check;
#[allow(dead_code, reason = "`make bench-cluster` uses all of it")]
mod exporters;
mod load;
mod scraping;
mod sender;

use harness::eventually;
use load::{Load, STEP_MS, Shape};
use side_by_side::measure::{Peak, cpu_seconds, status_kib};
use side_by_side::servers::Server;
use side_by_side::{number, send, setting, wanted_servers};
use std::sync::Arc;
use std::time::Duration;

const QUERIES: usize = 5;

/// One server's column of the table.
#[derive(Debug)]
struct Figures {
    server: &'static str,
    load_cpu: f64,
    load_wall: f64,
    settle_cpu: f64,
    peak_anonymous_kib: f64,
    anonymous_kib: f64,
    peak_resident_mib: f64,
    resident_bytes: f64,
    wrong: usize,
    query_ms: f64,
    query_cpu_ms: f64,
    restart_ready: f64,
    restart_cpu: f64,
    restart_peak_mib: f64,
    restart_answer: f64,
    wrong_after_kill: usize,
}

async fn write(server: &Server, load: &Arc<Load>, shape: Shape) {
    for round in 0..load.rounds {
        let mut senders = tokio::task::JoinSet::new();
        for sender in 0..shape.senders {
            let (load, http) = (Arc::clone(load), server.http.clone());
            senders.spawn(async move {
                let stride = shape.senders * shape.per_request;
                for first in (sender * shape.per_request..load.series).step_by(stride) {
                    send(http.clone(), load.body(first, shape.per_request, round)).await;
                }
            });
        }
        while let Some(sent) = senders.join_next().await {
            sent.expect("a sender");
        }
    }
}

/// Median time of a query and mean CPU, milliseconds.
async fn time_query(server: &Server, load: &Load, pid: u32) -> (f64, f64) {
    let query = harness::client::encode("sum by (mode) (rate(node_metric_1_total[5m]))");
    let start_ms = load.start_ms().max(load.end_ms - 3_600_000);
    let (start, end) = (start_ms as f64 / 1e3, load.end_ms as f64 / 1e3);
    let path = format!("/api/v1/query_range?query={query}&start={start}&end={end}&step=15");
    let cpu = cpu_seconds(pid);
    let mut times = Vec::new();
    for _ in 0..QUERIES {
        let began = tokio::time::Instant::now();
        let result = check::query(server, &path).await.expect("an answer");
        times.push(began.elapsed().as_secs_f64() * 1e3);
        assert!(
            !result.as_array().expect("a matrix").is_empty(),
            "{}: no result",
            server.name
        );
    }
    times.sort_by(f64::total_cmp);
    (times[QUERIES / 2], (cpu_seconds(pid) - cpu) * 1e3 / QUERIES as f64)
}

async fn run(name: &str, load: &Arc<Load>, shape: Shape) -> Option<Figures> {
    let folder = tempfile::tempdir().expect("temp folder");
    let folder = folder.path();
    let server = Server::new(name, folder, false)?;
    let (mut process, _) = server.start(folder).await;
    let pid = process.id();
    let peak = Peak::of(pid);
    let (began, cpu_before) = (tokio::time::Instant::now(), cpu_seconds(pid));
    write(&server, load, shape).await;
    let load_cpu = cpu_seconds(pid) - cpu_before;
    let load_wall = began.elapsed().as_secs_f64();
    // What a server put off (compaction, garbage collection, a late flush) is counted for this long.
    tokio::time::sleep(Duration::from_secs(number("SETTLE", 10) as u64)).await;
    let resident_bytes = status_kib(pid, "VmRSS") as f64 * 1024.0 / load.series as f64;
    let settle_cpu = cpu_seconds(pid) - cpu_before - load_cpu;
    let per_series = |kib: u64| kib as f64 / load.series as f64;
    let peak_anonymous_kib = per_series(peak.end());
    let anonymous_kib = per_series(status_kib(pid, "RssAnon"));
    let peak_resident_mib = status_kib(pid, "VmHWM") as f64 / 1024.0;
    eventually("all series to be found", async || {
        check::has_all(&server, load).await.then_some(())
    })
    .await;
    let wrong = check::wrong(&server, load).await;
    let (query_ms, query_cpu_ms) = time_query(&server, load, pid).await;
    process.kill();
    let again = tokio::time::Instant::now();
    let (process, ready) = server.start(folder).await;
    let restart_cpu = cpu_seconds(process.id());
    let restart_peak_mib = status_kib(process.id(), "VmHWM") as f64 / 1024.0;
    // A server that lost something never has them all.
    let all = async {
        while !check::has_all(&server, load).await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let all = tokio::time::timeout(Duration::from_secs(60), all).await;
    Some(Figures {
        server: server.name,
        load_cpu,
        load_wall,
        settle_cpu,
        peak_anonymous_kib,
        anonymous_kib,
        peak_resident_mib,
        resident_bytes,
        wrong,
        query_ms,
        query_cpu_ms,
        restart_ready: ready.as_secs_f64(),
        restart_cpu,
        restart_peak_mib,
        restart_answer: all.map_or(f64::INFINITY, |()| again.elapsed().as_secs_f64()),
        wrong_after_kill: check::wrong(&server, load).await,
    })
}

type Row = (&'static str, usize, fn(&Figures, f64) -> f64);

fn print_table(all: &[Figures], samples: f64) {
    let rows: [Row; 16] = [
        ("CPU s per million samples", 2, |f, n| {
            (f.load_cpu + f.settle_cpu) / n * 1e6
        }),
        ("… of it after the load", 2, |f, n| f.settle_cpu / n * 1e6),
        ("samples per CPU second", 0, |f, n| n / (f.load_cpu + f.settle_cpu)),
        ("anonymous memory at its peak, KiB per series", 2, |f, _| {
            f.peak_anonymous_kib
        }),
        ("anonymous memory after the load, KiB per series", 2, |f, _| {
            f.anonymous_kib
        }),
        ("resident memory at its peak, MiB", 0, |f, _| f.peak_resident_mib),
        ("resident memory after the load, bytes per series", 0, |f, _| {
            f.resident_bytes
        }),
        ("restart after kill -9: ready, s", 2, |f, _| f.restart_ready),
        ("CPU s until then", 2, |f, _| f.restart_cpu),
        ("resident memory at its peak until then, MiB", 0, |f, _| {
            f.restart_peak_mib
        }),
        ("restart after kill -9: first answer with all series, s", 2, |f, _| {
            f.restart_answer
        }),
        ("range query, ms", 0, |f, _| f.query_ms),
        ("range query, CPU ms", 0, |f, _| f.query_cpu_ms),
        ("duration of the load, s", 1, |f, _| f.load_wall),
        ("series without their last value", 0, |f, _| f.wrong as f64),
        ("series without their last value after kill -9", 0, |f, _| {
            f.wrong_after_kill as f64
        }),
    ];
    let names: Vec<_> = all.iter().map(|f| f.server).collect();
    println!("| | {} |", names.join(" | "));
    println!("|---|{}", "---:|".repeat(all.len()));
    for (what, digits, figure) in rows {
        let cells: Vec<_> = all.iter().map(|f| format!("{:.digits$}", figure(f, samples))).collect();
        println!("| {what} | {} |", cells.join(" | "));
    }
    println!();
    let Some(own) = all.iter().find(|f| f.server == "gnomon") else {
        return;
    };
    for other in all.iter().filter(|f| f.server != "gnomon") {
        let (cpu, memory) = (
            (own.load_cpu + own.settle_cpu) / (other.load_cpu + other.settle_cpu),
            own.peak_anonymous_kib / other.peak_anonymous_kib,
        );
        println!(
            "gnomon : {} = {cpu:.2} of its CPU, {memory:.2} of its anonymous memory",
            other.server
        );
    }
    println!();
}

/// All servers at once, each scraping itself.
async fn idle(names: &[&str], seconds: u64) {
    let folder = tempfile::tempdir().expect("temp folder");
    let folder = folder.path();
    let mut running = Vec::new();
    for name in names {
        if let Some(server) = Server::new(name, folder, true) {
            let (process, _) = server.start(folder).await;
            running.push((server, process));
        }
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    let before: Vec<_> = running.iter().map(|(_, p)| cpu_seconds(p.id())).collect();
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    println!("Scraping only itself, over {seconds} s:\n");
    println!("| | CPU, % of a core | anonymous MiB | resident MiB |");
    println!("|---|---:|---:|---:|");
    for ((server, process), before) in running.iter().zip(before) {
        let cpu = (cpu_seconds(process.id()) - before) / seconds as f64 * 100.0;
        let mib = |field| status_kib(process.id(), field) as f64 / 1024.0;
        let (anonymous, resident) = (mib("RssAnon"), mib("VmRSS"));
        println!("| {} | {cpu:.2} | {anonymous:.0} | {resident:.0} |", server.name);
    }
    println!();
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    // cargo passes --bench; there is nothing to choose.
    let names = wanted_servers();
    for name in &names {
        let folder = tempfile::tempdir().expect("temp folder");
        if let Some(server) = Server::new(name, folder.path(), false) {
            println!("{}: {}", name, server.version());
        }
    }
    println!();
    let idle_seconds = number("IDLE", 60) as u64;
    if idle_seconds > 0 {
        idle(&names, idle_seconds).await;
    }
    let (series, rounds) = (number("SERIES", 100_000), number("ROUNDS", 60));
    let seconds = number("SCRAPING", 60) as u64;
    if seconds > 0 {
        println!("Each scrapes {series} series, {seconds} s:\n");
        println!("| | CPU s per million samples | million samples | resident MiB |\n|---|---:|---:|---:|");
        let pushed = names.iter().filter(|name| name.starts_with("gnomon"));
        let all = names.iter().map(|name| (name, false));
        for (name, apart) in all.chain(pushed.map(|name| (name, true))) {
            let load = Arc::new(Load::new(series, rounds, 0));
            if let Some(scraping::Scraped {
                cpu_per_million,
                millions,
                resident_mib,
            }) = scraping::run(name, &load, seconds, apart).await
            {
                let what = if apart { ", what another process scrapes" } else { "" };
                println!("| {name}{what} | {cpu_per_million:.2} | {millions:.2} | {resident_mib:.0} |");
            }
        }
        println!();
    }
    let seconds = number("SENDING", 60) as u64;
    if seconds > 0 {
        println!("A real Prometheus scrapes {series} series and sends them, {seconds} s:\n");
        println!("| | CPU s per million samples | million samples |\n|---|---:|---:|");
        for name in &names {
            let load = Arc::new(Load::new(series, rounds, 0));
            if let Some(sent) = sender::run(name, &load, seconds).await {
                println!("| {name} | {:.2} | {:.2} |", sent.cpu_per_million, sent.millions);
            }
        }
        println!();
    }
    for per_request in setting("PER_REQUEST", "2000,500").split(',') {
        let shape = Shape {
            per_request: per_request.trim().parse().expect("PER_REQUEST: numbers"),
            senders: number("SENDERS", 4),
        };
        println!(
            "{series} series, {rounds} samples of each {} s apart, {} samples a request, {} senders:\n",
            STEP_MS / 1000,
            shape.per_request,
            shape.senders
        );
        let mut all = Vec::new();
        for name in &names {
            let now_ms = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
            let load = Arc::new(Load::new(series, rounds, now_ms));
            all.extend(run(name, &load, shape).await);
        }
        print_table(&all, (series * rounds) as f64);
    }
}
