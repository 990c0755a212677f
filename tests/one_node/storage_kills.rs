//! kill -9 while blocks are merged, series deleted, deletes carried out and snapshots made, with a ledger of what was
//! acknowledged. Sample time runs ahead of the clock as in `kill.rs`, so that there is something of all of it in each life.
//!
//! `GNOMON_KILL_ROUNDS` and `GNOMON_SEED` change it; `make test-crash` does.

#[path = "../crash/ledger.rs"]
mod ledger;

use crate::harness::client::encode;
use crate::harness::{Http, Node, binary, eventually, remote};
use ledger::{Ledger, Place, Samples};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const MINUTE_MS: i64 = 60_000;
/// Steps of a minute each, within what the shards take as merely late.
const STEPS: i64 = 600;
const SERIES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Longer than a lease of the compactor's lasts.
const SETTLED_WITHIN: Duration = Duration::from_secs(200);

const FORM: &str = "application/x-www-form-urlencoded";

const FLAGS: [&str; 7] = [
    "--web.enable-remote-write-receiver",
    "--web.enable-admin-api",
    "--ingest.shards=2",
    "--ingest.seal-quiet=100ms",
    "--ingest.flush-bytes=64KiB",
    "--compactor.interval=100ms",
    "--compactor.grace=100ms",
];

fn number(variable: &str, default: u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

struct Run {
    base_ms: i64,
    ledger: Ledger,
    random: StdRng,
    /// What is asked for beside writing: how often it was under way when the node was killed.
    interrupted: [usize; 4],
}

/// What a node is asked for when it is killed.
#[derive(Clone, Copy, Debug)]
enum Work {
    Nothing,
    Delete,
    Clean,
    Snapshot,
}

impl Run {
    fn values(&self, from: i64, to: i64) -> Vec<(Place, f64)> {
        let one = |name: &str, series: usize, step: i64| {
            let value = (step * 100 + series as i64) as f64 + 0.5;
            ((name.to_owned(), self.base_ms + step * MINUTE_MS), value)
        };
        let of = |(series, name): (usize, &&str)| (from..to).map(|step| one(name, series, step)).collect::<Vec<_>>();
        SERIES.iter().enumerate().flat_map(of).collect()
    }

    /// Steps of all series, again and again until they are acknowledged.
    async fn write(&mut self, http: &Http, from: i64, to: i64) {
        let samples = self.values(from, to);
        self.ledger.sent(&samples);
        let series = SERIES.iter().map(|name| {
            let own: Vec<_> = samples
                .iter()
                .filter(|((n, _), _)| n == name)
                .map(|((_, at), v)| (*at, *v))
                .collect();
            remote::time_series(&[("__name__", name), ("instance", "i"), ("job", "j")], &own)
        });
        let body = remote::body(series.collect());
        remote::send_until_taken(http, &body).await;
        self.ledger.acknowledged(&samples);
    }

    /// A path, and what it may delete.
    fn request(&mut self, work: Work, steps: i64) -> Option<(String, &'static str, i64, i64)> {
        let name = SERIES[self.random.random_range(0..SERIES.len())];
        let from = self.random.random_range(0..steps.max(1));
        let to = (from + self.random.random_range(0..90)).min(steps - 1);
        let (from_ms, to_ms) = (self.base_ms + from * MINUTE_MS, self.base_ms + to * MINUTE_MS);
        let path = match work {
            Work::Nothing => return None,
            Work::Delete => format!(
                "/api/v1/admin/tsdb/delete_series?match[]={name}&start={}&end={}",
                from_ms as f64 / 1e3,
                to_ms as f64 / 1e3
            ),
            Work::Clean => "/api/v1/admin/tsdb/clean_tombstones".into(),
            Work::Snapshot => "/api/v1/admin/tsdb/snapshot".into(),
        };
        Some((path, name, from_ms, to_ms))
    }

    /// Asks for something and kills the node a random moment later.
    async fn ask_and_kill(&mut self, node: &mut Node, work: Work, steps: i64) {
        // Most deletes are done within some milliseconds.
        let longest_ms = match work {
            Work::Delete | Work::Clean => 25,
            Work::Snapshot => 150,
            Work::Nothing => 400,
        };
        let wait = Duration::from_millis(self.random.random_range(1..longest_ms));
        let Some((path, name, from_ms, to_ms)) = self.request(work, steps) else {
            tokio::time::sleep(wait).await;
            node.process.kill();
            return;
        };
        let hits = |place: &Place| place.0 == name && (from_ms..=to_ms).contains(&place.1);
        let is_delete = matches!(work, Work::Delete);
        if is_delete {
            self.ledger.delete_sent(hits);
        }
        let http = node.http.clone();
        let asking = tokio::spawn(async move {
            let request = http.client().post(http.url(&path)).send();
            request.await.map(|answer| answer.status().as_u16())
        });
        tokio::time::sleep(wait).await;
        node.process.kill();
        match asking.await.expect("no panic") {
            Ok(204) if is_delete => self.ledger.delete_acknowledged(hits),
            Ok(code) => assert!((200..300).contains(&code) || code == 503, "{work:?}: {code}"),
            Err(_) => self.interrupted[work as usize] += 1,
        }
    }

    async fn check(&self, node: &Node, steps: i64, when: &str) {
        let end = (self.base_ms + steps * MINUTE_MS) as f64 / 1e3;
        let query = encode(r#"{__name__=~".+",job="j"}[24h]"#);
        let path = format!("/api/v1/query?query={query}&time={end}");
        let answer: serde_json::Value = eventually("a whole answer", async || {
            let (code, text) = node.http.get(&path).await;
            let is_whole = code == 200 && !text.contains("\"warnings\"");
            is_whole.then(|| serde_json::from_str(&text).expect("JSON"))
        })
        .await;
        let mut read = Samples::new();
        for row in answer["data"]["result"].as_array().expect("rows") {
            let name = row["metric"]["__name__"].as_str().expect("a name");
            for pair in row["values"].as_array().expect("values") {
                let at = (pair[0].as_f64().expect("a time") * 1e3).round() as i64;
                let value = pair[1].as_str().and_then(|v| v.parse().ok()).expect("a value");
                assert!(
                    read.insert((name.to_owned(), at), value).is_none(),
                    "{name} at {at} twice"
                );
            }
        }
        let wrong = self.ledger.differences(&read);
        assert!(
            wrong.is_empty(),
            "{when}: {} are wrong: {:?}",
            wrong.len(),
            &wrong[..wrong.len().min(5)]
        );
    }
}

/// The bucket as its catalogue says, nothing missing and nothing without a record.
fn is_sound(node: &Node, folder: &Path) -> Option<()> {
    let flag = "--cluster.listen-address=";
    let address = node
        .args()
        .iter()
        .find_map(|a| a.strip_prefix(flag))
        .expect("an address");
    let output = Command::new(binary())
        .args(["bucket", "check", "--json", "--verify"])
        .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
        .arg(format!("--cluster.peers={address}"))
        .output()
        .expect("gnomon runs");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let totals = &document["totals"];
    let is_quiet = totals["staged"]["blocks"] == 0 && totals["condemned"]["blocks"] == 0 && totals["deletes"] == 0;
    (output.status.success() && is_quiet && totals["live"] == totals["objects"]).then_some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_and_nothing_comes_back_by_kill_9() {
    let folder = tempfile::tempdir().expect("temp folder");
    let rounds = number("GNOMON_KILL_ROUNDS", 8) as i64;
    let seed = number("GNOMON_SEED", 20_261_126);
    println!("seed {seed}, {rounds} rounds");
    let now_ms = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
    let mut run = Run {
        base_ms: (now_ms - (STEPS + 5) * MINUTE_MS) / MINUTE_MS * MINUTE_MS,
        ledger: Ledger::default(),
        random: StdRng::seed_from_u64(seed),
        interrupted: [0; 4],
    };
    let mut node = Node::start(folder.path(), "", &FLAGS).await;
    let per_round = (STEPS / rounds).max(1);
    let mut steps = 0;
    for round in 0..rounds {
        let next = (steps + per_round).min(STEPS);
        run.write(&node.http, steps, next).await;
        steps = next;
        let work = [Work::Delete, Work::Nothing, Work::Clean, Work::Snapshot][(round % 4) as usize];
        run.ask_and_kill(&mut node, work, steps).await;
        (node, _) = node.restart().await;
        run.check(&node, steps, &format!("round {round}, {work:?}")).await;
    }
    // What is owed is done, and nothing is left over.
    let settled = async {
        // What a merge left that was killed is given up when its lease is over.
        while is_sound(&node, folder.path()).is_none() {
            let clean = node.http.url("/api/v1/admin/tsdb/clean_tombstones");
            let asked = node.http.client().post(clean).timeout(Duration::from_secs(5)).send();
            let _ = asked.await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    let settled = tokio::time::timeout(SETTLED_WITHIN, settled).await;
    settled.expect("the bucket is as its catalogue says");
    run.check(&node, steps, "at the end").await;
    let snapshot = eventually("a snapshot", async || {
        let (code, text) = node.http.post("/api/v1/admin/tsdb/snapshot", FORM, Vec::new()).await;
        (code == 200).then_some(text)
    })
    .await;
    assert!(snapshot.contains("success"), "{snapshot}");
    let made = std::fs::read_dir(folder.path().join("data/snapshots")).expect("a folder");
    let half: Vec<_> = made
        .flatten()
        .map(|e| e.file_name())
        .filter(|n| n.to_string_lossy().ends_with(".tmp"))
        .collect();
    assert!(half.is_empty(), "left of snapshots that were not finished: {half:?}");
    let log = node.process.log();
    println!(
        "{} samples, {} merges, {} parts published; interrupted: {} deletes, {} cleanings, {} snapshots",
        run.ledger.count(),
        log.matches("merged blocks").count(),
        log.matches("part published").count(),
        run.interrupted[Work::Delete as usize],
        run.interrupted[Work::Clean as usize],
        run.interrupted[Work::Snapshot as usize],
    );
}
