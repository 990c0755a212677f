//! `kill -9` of who leads, again and again: how long a shard's writes stand still, and what queries say meanwhile.

use crate::harness::{Http, client, eventually};
use crate::load::{Load, METRICS};
use crate::nodes::{Cluster, Leaders, Shape};
use crate::writers::Writers;
use crate::written::{Target, write};
use serde_json::Value;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Writes have to flow again within this, in 99 of 100 kills.
const GOAL: Duration = Duration::from_secs(3);
/// Queries are under way for so long before the kill.
const AHEAD: Duration = Duration::from_millis(150);
/// Queries at a time.
const READERS: usize = 3;
/// Series and samples of each that queries look at.
const SERIES: usize = 20_000;
const ROUNDS: usize = 60;

/// What queries that were under way at a kill, or came before all was well again, were answered.
#[derive(Debug, Default)]
struct Answers {
    right: usize,
    partial: usize,
    failed: usize,
    wrong: Vec<String>,
}

/// A query whose answer is known, since what it looks at does not change.
#[derive(Clone, Debug)]
struct Known {
    path: String,
    answer: Value,
}

enum Heard {
    Whole(Value),
    Partial,
    Failed,
}

async fn ask(http: &Http, path: &str) -> Heard {
    let asked = async { http.client().get(http.url(path)).send().await.ok()?.text().await.ok() };
    let body = asked.await.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    match body {
        Some(body) if body["status"] != "success" => Heard::Failed,
        Some(body) if body["warnings"].as_array().is_some_and(|w| !w.is_empty()) => Heard::Partial,
        Some(mut body) => Heard::Whole(body["data"]["result"].take()),
        None => Heard::Failed,
    }
}

/// Queries over what was written, with what they answer while all is well.
async fn known_queries(http: &Http, load: &Load) -> Vec<Known> {
    let (start, end) = (load.start_ms() as f64 / 1e3, load.end_ms as f64 / 1e3);
    let instant = |query: &str| format!("/api/v1/query?query={}&time={end}", client::encode(query));
    let range = |query: &str| {
        let query = client::encode(query);
        format!("/api/v1/query_range?query={query}&start={start}&end={end}&step=15")
    };
    let paths = [
        instant("sum(count_over_time(node_metric_1_total[1h]))"),
        instant("sort(node_metric_7_total{device=\"dev1\"})"),
        range("sum by (mode) (node_metric_1_total)"),
        range("node_metric_2_total{device=\"dev2\"}"),
    ];
    let mut known = Vec::new();
    for path in paths {
        let answer = eventually(&format!("a whole answer to {path}"), async || {
            match ask(http, &path).await {
                Heard::Whole(answer) => Some(answer),
                Heard::Partial | Heard::Failed => None,
            }
        })
        .await;
        known.push(Known { path, answer });
    }
    let counted = known[0].answer[0]["value"][1].as_str().unwrap_or_default();
    assert_eq!(
        counted,
        (SERIES / METRICS * ROUNDS).to_string(),
        "samples before the first kill"
    );
    known
}

/// Asks until it is stopped; only answers that came after the kill count.
async fn read(
    http: Http,
    known: Vec<Known>,
    first: usize,
    killed: CancellationToken,
    stop: CancellationToken,
) -> Answers {
    let mut answers = Answers::default();
    for at in first.. {
        let Known { path, answer } = &known[at % known.len()];
        let heard = ask(&http, path).await;
        if killed.is_cancelled() {
            match heard {
                Heard::Whole(whole) if whole == *answer => answers.right += 1,
                Heard::Whole(whole) => answers.wrong.push(format!("{path}: {whole}, not {answer}")),
                Heard::Partial => answers.partial += 1,
                Heard::Failed => answers.failed += 1,
            }
        }
        if stop.is_cancelled() {
            break;
        }
    }
    answers
}

/// Whom a kill is to hit: each shard's leader in turn, every fifth time the metadata group's.
fn victim(kill: usize, leaders: &Leaders) -> usize {
    match kill % 5 {
        4 => leaders.metadata,
        _ => leaders.shards[kill % leaders.shards.len()],
    }
}

/// The shards whose writes a kill concerns: all where the victim led none, since it led the metadata group then.
fn concerned(host: usize, leaders: &Leaders) -> Vec<usize> {
    let led: Vec<_> = (0..leaders.shards.len())
        .filter(|s| leaders.shards[*s] == host)
        .collect();
    match led.is_empty() {
        true => (0..leaders.shards.len()).collect(),
        false => led,
    }
}

fn percentile(sorted: &[Duration], share: f64) -> Duration {
    let at = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(at.saturating_sub(1)).copied().unwrap_or_default()
}

fn print(title: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let seconds = |d: Duration| format!("{:.2}", d.as_secs_f64());
    let [p50, p90, p99, most] = [0.5, 0.9, 0.99, 1.0].map(|share| seconds(percentile(&times, share)));
    println!("| {title} | {} | {p50} | {p90} | {p99} | {most} |", times.len());
}

/// Kills so often; prints the table. Panics where an answer was wrong.
pub(crate) async fn run(kills: usize, shards: usize) {
    let shape = Shape {
        queriers: 1,
        ..Shape::ingesters(3, shards, 3)
    };
    let Some(mut cluster) = Cluster::start(shape).await else {
        return;
    };
    let load = Load::new(SERIES, ROUNDS, now_ms());
    write(&Target::of(&cluster), &load).await;
    let querier = cluster.servers("querier").remove(0);
    let known = known_queries(&querier, &load).await;
    let writers = Writers::start(&cluster.servers("ingester"), shards);
    let (mut data, mut metadata, mut answers) = (Vec::new(), Vec::new(), Answers::default());
    for kill in 0..kills {
        let leaders = cluster.until_healthy().await;
        let host = victim(kill, &leaders);
        let (killed, stop) = (CancellationToken::new(), CancellationToken::new());
        let mut readers = JoinSet::new();
        for reader in 0..READERS {
            readers.spawn(read(
                querier.clone(),
                known.clone(),
                kill + reader,
                killed.clone(),
                stop.clone(),
            ));
        }
        tokio::time::sleep(AHEAD).await;
        killed.cancel();
        let began = Instant::now();
        cluster.kill(host);
        // Only now: what it acknowledges while it dies is none of its successor's.
        let to_kill = began.elapsed();
        writers.await_next();
        let after = eventually("writes to all shards after a kill", async || writers.all_after()).await;
        let flow_again = began.elapsed();
        stop.cancel();
        while let Some(of_one) = readers.join_next().await {
            let Answers {
                right,
                partial,
                failed,
                wrong,
            } = of_one.expect("a reader");
            answers.right += right;
            answers.partial += partial;
            answers.failed += failed;
            answers.wrong.extend(wrong);
        }
        let concerned = concerned(host, &leaders).into_iter();
        let longest = concerned.map(|shard| to_kill + after[shard]).max();
        let longest = longest.unwrap_or(flow_again);
        if leaders.metadata == host {
            metadata.push(longest);
        } else {
            data.push(longest);
        }
        eprintln!(
            "kill {kill}: node {host} of {leaders:?}: writes after {:.2} s",
            longest.as_secs_f64()
        );
        cluster.launch(host);
        cluster.until_ready(host).await;
    }
    let requests = writers.stop().await;
    let all: Vec<_> = data.iter().chain(&metadata).copied().collect();
    let met = |times: &[Duration]| {
        let mut times = times.to_vec();
        times.sort_unstable();
        percentile(&times, 0.99) < GOAL
    };
    println!("Fail-over: {kills} kills, {shards} shards, 3 ingesters, {requests} requests acknowledged:\n");
    println!("| killed, seconds until all its shards took writes again | kills | p50 | p90 | p99 | longest |");
    println!("|---|---:|---:|---:|---:|---:|");
    let verdict = if met(&all) { "met" } else { "**not met**" };
    print("who led shards", data);
    print("who led the metadata group (and shards)", metadata);
    print(&format!("all (goal: p99 below 3 s, {verdict})"), all);
    println!("\n| queries under way at a kill, or asked before writes flowed again | |\n|---|---:|");
    println!("| right | {} |", answers.right);
    println!("| partial, with a warning | {} |", answers.partial);
    println!("| errors | {} |", answers.failed);
    println!("| wrong | {} |\n", answers.wrong.len());
    assert!(answers.wrong.is_empty(), "wrong answers: {:#?}", answers.wrong);
}

fn now_ms() -> i64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64
}
