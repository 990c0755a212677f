//! What was acknowledged, those who write it, and those who read it back all the time.

use crate::clocks::Clocks;
use crate::harness::{Http, PATIENCE, client, eventually, remote};
use crate::incidents::{Incidents, NO_CAUSE};
use crate::members::Cluster;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const WRITERS: usize = 3;
const READERS: usize = 2;
/// Series of a writer; each request has one sample of each.
const SERIES: usize = 10;
/// When a writer's samples begin, before the cluster's clock, and the time between two of a series. The first are written
/// faster than the clock goes, so that windows are cut and uploaded meanwhile; the last comes up with the clock.
const PACES: [(i64, i64); WRITERS] = [(11 * 3_600_000, 5_000), (10 * 3_600_000, 5_000), (60_000, 500)];
/// Steps that one query asks for at most.
const PIECE: i64 = 200;
/// A request that takes longer is made again, elsewhere.
const REQUEST_WITHIN: Duration = Duration::from_secs(6);

/// Where a writer is.
#[derive(Clone, Debug, Default)]
struct Progress {
    /// Steps below are acknowledged.
    acknowledged: i64,
    /// Steps below may be there.
    attempted: i64,
    /// Attempts of the newest step that were not acknowledged: how long after the first, where, what became of it.
    refused: Vec<String>,
}

pub(crate) struct Ledger {
    clocks: Clocks,
    begun_ms: i64,
    writers: [Mutex<Progress>; WRITERS],
}

/// What was seen while it ran.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) longest_stall: Duration,
    pub(crate) reads: u64,
    pub(crate) partial: u64,
    /// Reads that failed, by cause: what was wrong with the querier that was asked, or with what it asks.
    pub(crate) failed: BTreeMap<&'static str, u64>,
    pub(crate) wrong: Vec<String>,
    /// Of each cause the first.
    pub(crate) errors: Vec<String>,
}

impl Report {
    /// How many reads were partial and how many failed, in percent.
    pub(crate) fn rates(&self) -> String {
        let percent = |count: u64| format!("{:.2} %", count as f64 * 100.0 / self.reads.max(1) as f64);
        let failed = self.failed.values().sum();
        let causes: Vec<_> = self
            .failed
            .iter()
            .map(|(cause, count)| format!("{cause} {}", percent(*count)))
            .collect();
        let causes = match causes.is_empty() {
            true => String::new(),
            false => format!(" ({})", causes.join(", ")),
        };
        format!(
            "{} reads: {} partial, {} errors{causes}",
            self.reads,
            percent(self.partial),
            percent(failed)
        )
    }
}

fn value(writer: usize, series: usize, step: i64) -> f64 {
    (step * 1_000 + (writer * SERIES + series) as i64) as f64 / 3.0
}

impl Ledger {
    pub(crate) fn new(clocks: &Clocks) -> Self {
        Self {
            clocks: clocks.clone(),
            begun_ms: clocks.now_ms(),
            writers: Default::default(),
        }
    }

    /// Samples that are acknowledged, and those that may be there.
    pub(crate) fn counts(&self) -> (i64, i64) {
        let counts = self.writers.iter().map(|writer| {
            let writer = writer.lock();
            (writer.acknowledged, writer.attempted)
        });
        counts.fold((0, 0), |(sure, maybe), (a, b)| {
            (sure + a * SERIES as i64, maybe + b * SERIES as i64)
        })
    }

    pub(crate) fn progress(&self) -> String {
        let steps: Vec<_> = self.writers.iter().map(|w| w.lock().acknowledged.to_string()).collect();
        format!("steps {}", steps.join(" "))
    }

    /// Each writer has something acknowledged that it has not had at the call.
    pub(crate) async fn until_written(&self, what: &str) {
        let before: Vec<_> = self.writers.iter().map(|w| w.lock().attempted).collect();
        let written = eventually(what, async || {
            let mut all = self.writers.iter().zip(&before);
            all.all(|(writer, before)| writer.lock().acknowledged > *before)
                .then_some(())
        });
        if tokio::time::timeout(PATIENCE / 2, written).await.is_err() {
            panic!("{what}: {:#?}", self.writers);
        }
    }

    fn time_ms(&self, writer: usize, step: i64) -> i64 {
        let (before_ms, step_ms) = PACES[writer];
        self.begun_ms - before_ms + step * step_ms
    }

    /// Nothing is written before its time.
    async fn until_due(&self, writer: usize, step: i64) {
        let early_ms = self.time_ms(writer, step) - self.clocks.now_ms();
        tokio::time::sleep(Duration::from_millis(u64::try_from(early_ms).unwrap_or(0))).await;
    }

    fn request(&self, writer: usize, step: i64) -> Vec<u8> {
        let at = self.time_ms(writer, step);
        let name = writer.to_string();
        let series = (0..SERIES).map(|i| {
            let n = i.to_string();
            let labels = [
                ("__name__", "ledger"),
                ("instance", n.as_str()),
                ("job", "j"),
                ("writer", name.as_str()),
            ];
            remote::time_series(&labels, &[(at, value(writer, i, step))])
        });
        remote::body(series.collect())
    }

    /// Steps `from..to` of a writer, read through one querier: none where it failed.
    async fn read(&self, http: &Http, writer: usize, from: i64, to: i64) -> Read {
        let range_ms = (to - from) * PACES[writer].1;
        let end_ms = self.time_ms(writer, to - 1);
        let query = format!("ledger{{writer=\"{writer}\"}}[{range_ms}ms]");
        let url = http.url(&format!(
            "/api/v1/query?query={}&time={}",
            client::encode(&query),
            end_ms as f64 / 1000.0
        ));
        let asked = async {
            let answer = http.client().get(url).send().await.ok()?;
            answer.text().await.ok()
        };
        let Ok(Some(text)) = tokio::time::timeout(Duration::from_secs(40), asked).await else {
            return Read::Failed("no answer".into());
        };
        let Ok(answer) = serde_json::from_str::<Value>(&text) else {
            return Read::Failed(text);
        };
        if answer["status"] != "success" {
            return Read::Failed(text);
        }
        let mut found = BTreeMap::new();
        let mut doubled = None;
        for row in answer["data"]["result"].as_array().into_iter().flatten() {
            let series: usize = row["metric"]["instance"]
                .as_str()
                .and_then(|n| n.parse().ok())
                .unwrap_or(SERIES);
            for pair in row["values"].as_array().into_iter().flatten() {
                let at = (pair[0].as_f64().unwrap_or_default() * 1000.0).round() as i64;
                let value: f64 = pair[1].as_str().and_then(|v| v.parse().ok()).unwrap_or(f64::NAN);
                if found.insert((series, at), value).is_some() {
                    doubled = Some(format!("series {series} at {at} is there twice"));
                }
            }
        }
        let is_partial = answer["warnings"].as_array().is_some_and(|w| !w.is_empty());
        Read::Answer {
            found,
            is_partial,
            doubled,
        }
    }

    /// What is wrong with an answer: `sure` steps have to be there, further ones below `maybe` may be.
    fn compare(&self, writer: usize, span: (i64, i64), sure: i64, maybe: i64, read: &Read) -> Option<String> {
        let Read::Answer {
            found,
            is_partial,
            doubled,
        } = read
        else {
            return None;
        };
        if let Some(doubled) = doubled {
            return Some(doubled.clone());
        }
        let (from, to) = span;
        let mut left = found.clone();
        for step in from..to {
            for series in 0..SERIES {
                let at = self.time_ms(writer, step);
                match left.remove(&(series, at)) {
                    Some(read) if read != value(writer, series, step) || step >= maybe => {
                        return Some(format!(
                            "writer {writer} series {series} step {step}: read {read}, never written"
                        ));
                    }
                    None if step < sure && !is_partial => {
                        return Some(format!(
                            "writer {writer} series {series} step {step} of {from}..{to} is missing without a warning; {} \
                             samples were read, {sure} steps are acknowledged",
                            found.len()
                        ));
                    }
                    _ => {}
                }
            }
        }
        left.first_key_value()
            .map(|(key, value)| format!("writer {writer}: {value} at {key:?} was never written"))
    }

    /// Everything that was acknowledged is there, once, and nothing else; how much it is.
    pub(crate) async fn check_all(&self, cluster: &Cluster) -> i64 {
        let mut samples = 0;
        for (writer, progress) in self.writers.iter().enumerate() {
            let Progress {
                acknowledged,
                attempted,
                ..
            } = progress.lock().clone();
            samples += acknowledged * SERIES as i64;
            for from in (0..attempted).step_by(PIECE as usize) {
                let to = (from + PIECE).min(attempted);
                for at in cluster.of("querier") {
                    let http = &cluster.members[at].http;
                    let read = eventually("a whole answer", async || {
                        let read = self.read(http, writer, from, to).await;
                        matches!(read, Read::Answer { is_partial: false, .. }).then_some(read)
                    })
                    .await;
                    let wrong = self.compare(writer, (from, to), acknowledged, attempted, &read);
                    assert_eq!(wrong, None, "querier {at}, after all is over");
                }
            }
        }
        samples
    }
}

enum Read {
    Failed(String),
    Answer {
        found: BTreeMap<(usize, i64), f64>,
        is_partial: bool,
        doubled: Option<String>,
    },
}

/// Writers and readers that run.
pub(crate) struct Load {
    stop: CancellationToken,
    tasks: JoinSet<Report>,
}

impl Load {
    pub(crate) fn start(cluster: &Cluster, ledger: &Arc<Ledger>, seed: u64) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let servers = |role: &str| cluster.https(role);
        for writer in 0..WRITERS {
            let (servers, ledger, stop) = (servers("ingester"), ledger.clone(), stop.clone());
            let rng = StdRng::seed_from_u64(seed + 100 + writer as u64);
            tasks.spawn(write(ledger, servers, writer, rng, stop));
        }
        for reader in 0..READERS {
            let (ledger, stop, incidents) = (ledger.clone(), stop.clone(), cluster.incidents.clone());
            let queriers = cluster.of("querier").into_iter().zip(servers("querier")).collect();
            let rng = StdRng::seed_from_u64(seed + 200 + reader as u64);
            tasks.spawn(read(ledger, queriers, incidents, rng, stop));
        }
        Self { stop, tasks }
    }

    pub(crate) async fn stop(self) -> Report {
        self.stop.cancel();
        let mut all = Report::default();
        for one in self.tasks.join_all().await {
            all.longest_stall = all.longest_stall.max(one.longest_stall);
            all.reads += one.reads;
            all.partial += one.partial;
            for (cause, count) in one.failed {
                *all.failed.entry(cause).or_default() += count;
            }
            all.wrong.extend(one.wrong);
            all.errors.extend(one.errors);
        }
        all
    }
}

/// One request after the other, each until it is acknowledged, as a sender does.
async fn write(
    ledger: Arc<Ledger>,
    servers: Vec<Http>,
    writer: usize,
    mut rng: StdRng,
    stop: CancellationToken,
) -> Report {
    let mut report = Report::default();
    let mut server = writer % servers.len();
    for step in 0.. {
        let body = ledger.request(writer, step);
        ledger.until_due(writer, step).await;
        {
            let mut writer = ledger.writers[writer].lock();
            writer.attempted = step + 1;
            writer.refused.clear();
        }
        let began = tokio::time::Instant::now();
        loop {
            if stop.is_cancelled() {
                return report;
            }
            let sent = tokio::time::timeout(REQUEST_WITHIN, remote::send(&servers[server], body.clone())).await;
            match sent {
                Ok(Ok((204, _))) => break,
                Ok(Ok((503, _)) | Err(_)) | Err(_) => {
                    let said = format!("{:.1?} by {server}: {sent:?}", began.elapsed());
                    ledger.writers[writer].lock().refused.push(said);
                    // In turn: at random it might be those over and over that do not reach a leader.
                    server = (server + 1) % servers.len();
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Ok(Ok((code, text))) => {
                    let wrong = format!("writer {writer} step {step} was answered {code}: {text}");
                    println!("{wrong}");
                    report.wrong.push(wrong);
                    return report;
                }
            }
        }
        report.longest_stall = report.longest_stall.max(began.elapsed());
        ledger.writers[writer].lock().acknowledged = step + 1;
        tokio::time::sleep(Duration::from_millis(rng.random_range(20..80))).await;
    }
    report
}

/// Random stretches, the newest more often, at any of the queriers (with the numbers of their members). An error is wrong
/// unless something explains it.
async fn read(
    ledger: Arc<Ledger>,
    queriers: Vec<(usize, Http)>,
    incidents: Arc<Incidents>,
    mut rng: StdRng,
    stop: CancellationToken,
) -> Report {
    let mut report = Report::default();
    while !stop.is_cancelled() {
        tokio::time::sleep(Duration::from_millis(rng.random_range(20..200))).await;
        let writer = rng.random_range(0..WRITERS);
        let sure = ledger.writers[writer].lock().acknowledged;
        if sure == 0 {
            continue;
        }
        let to = if rng.random_bool(0.5) {
            sure
        } else {
            rng.random_range(1..=sure)
        };
        let from = (to - rng.random_range(1..=PIECE)).max(0);
        let (querier, http) = &queriers[rng.random_range(0..queriers.len())];
        let asked = tokio::time::Instant::now();
        let answer = ledger.read(http, writer, from, to).await;
        let maybe = ledger.writers[writer].lock().attempted;
        report.reads += 1;
        match &answer {
            Read::Failed(error) => {
                let cause = incidents.cause(*querier, asked);
                let count = report.failed.entry(cause).or_default();
                *count += 1;
                let short: String = error.chars().take(300).collect();
                let what = format!("{cause}: querier {querier} after {:.1?}: {short}", asked.elapsed());
                if cause == NO_CAUSE {
                    println!("{what}");
                    report.wrong.push(what);
                } else if *count == 1 {
                    report.errors.push(what);
                }
            }
            Read::Answer { is_partial: true, .. } => report.partial += 1,
            Read::Answer { .. } => {}
        }
        let wrong = ledger.compare(writer, (from, to), sure, maybe, &answer);
        if let Some(wrong) = &wrong {
            println!("{wrong}");
        }
        report.wrong.extend(wrong);
    }
    report
}
