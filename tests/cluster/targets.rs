//! Targets whose every answer is noted, and those who read back what was scraped of them.
//!
//! A target answers with the cluster's time of the answer. So each sample that is read has to be one of its answers, given
//! after the sample's time; none may be there twice, nor two of one tick.

use crate::clocks::Clocks;
use crate::harness::{Http, client, eventually};
use crate::incidents::Incidents;
use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub(crate) const TARGETS: usize = 12;
pub(crate) const INTERVAL_MS: i64 = 1_000;
/// An answer may be given so much later than the sample's time: a scraper was paused between the two.
const LATE_MS: i64 = 45_000;
/// What a scrape waits for an answer, and what it may be late besides.
const TIMEOUT_MS: i64 = 1_100;
/// After a scraper got an answer shards have it, where nothing is wrong with these.
const HANDED_ON_WITHIN: Duration = Duration::from_secs(15);
/// So long after the last scrape a shard takes a target for gone: two intervals and 10 %, less what a tick may be late.
const SILENT_MS: i64 = INTERVAL_MS * 2 - 100;
/// The machine's clock and the one that processes are given are read one after the other.
const CLOCKS_MS: i64 = 20;

/// Target, time in milliseconds.
type Samples = BTreeMap<(usize, i64), i64>;

pub(crate) struct Targets {
    clocks: Clocks,
    begun_ms: i64,
    /// What each has answered.
    answers: [Mutex<BTreeSet<i64>>; TARGETS],
    /// What was read, ever.
    seen: Mutex<Samples>,
}

/// The scrape configuration of the targets at `address`.
pub(crate) fn config(address: &str) -> String {
    let mut yaml = String::from("- job_name: known\n  static_configs:\n");
    for n in 0..TARGETS {
        let _ = writeln!(
            yaml,
            "  - {{targets: ['{address}'], labels: {{__metrics_path__: /known/{n}, instance: known-{n}}}}}"
        );
    }
    yaml
}

async fn answer(State(targets): State<Arc<Targets>>, Path(n): Path<usize>) -> String {
    let Some(given) = targets.answers.get(n) else {
        return String::new();
    };
    let mut given = given.lock();
    let now_ms = targets.clocks.now_ms();
    let value = given.last().map_or(now_ms, |last| now_ms.max(last + 1));
    given.insert(value);
    format!("known {value}\n")
}

impl Targets {
    pub(crate) fn new(clocks: &Clocks) -> Arc<Self> {
        Arc::new(Self {
            clocks: clocks.clone(),
            begun_ms: clocks.now_ms(),
            answers: Default::default(),
            seen: Mutex::default(),
        })
    }

    pub(crate) fn routes(self: &Arc<Self>) -> Router {
        Router::new().route("/known/{n}", get(answer)).with_state(self.clone())
    }

    /// Everything of the last so many seconds before `at_ms`, and whether it is whole.
    async fn read(http: &Http, at_ms: i64, seconds: i64) -> Result<(Samples, bool), String> {
        let path = format!(
            "/api/v1/query?query={}&time={}",
            client::encode(&format!("known[{seconds}s]")),
            at_ms as f64 / 1000.0
        );
        let answer = ask(http, &path).await?;
        let mut found = Samples::new();
        for row in answer["data"]["result"].as_array().into_iter().flatten() {
            let n = number(row).ok_or_else(|| format!("a series that is no target's: {row}"))?;
            for pair in row["values"].as_array().into_iter().flatten() {
                let at = (pair[0].as_f64().unwrap_or_default() * 1000.0).round() as i64;
                let value = pair[1].as_str().and_then(|v| v.parse::<f64>().ok());
                found.insert((n, at), value.unwrap_or_default() as i64);
            }
        }
        let is_whole = answer["warnings"].as_array().is_none_or(Vec::is_empty);
        Ok((found, is_whole))
    }

    /// What was read of a time so far.
    fn seen(&self, from_ms: i64, to_ms: i64) -> Vec<(usize, i64)> {
        let seen = self.seen.lock();
        let of_time = seen.keys().filter(|(_, at)| (from_ms + 1..to_ms).contains(at));
        of_time.copied().collect()
    }

    /// What is wrong with samples that were read: with any of them, or that some are not there which were seen `before`
    /// they were asked for.
    fn check(&self, found: &Samples, before: &[(usize, i64)]) -> Option<String> {
        for ((n, at), value) in found {
            if !self.answers[*n].lock().contains(value) {
                return Some(format!("target {n} at {at}: {value} was never answered"));
            }
            if !(at - CLOCKS_MS..=at + LATE_MS).contains(value) {
                return Some(format!("target {n} at {at}: {value} is not of this time"));
            }
        }
        if let Some((n, at)) = before.iter().find(|key| !found.contains_key(key)) {
            return Some(format!("target {n}: what was read at {at} is not there any more"));
        }
        let mut seen = self.seen.lock();
        for (key, value) in found {
            if let Some(before) = seen.insert(*key, *value).filter(|before| before != value) {
                return Some(format!("target {} at {}: {before}, later {value}", key.0, key.1));
            }
        }
        None
    }

    /// All targets have a sample that is newer than now; how long that took. Panics after `within`.
    pub(crate) async fn until_scraped(&self, queriers: &[Http], within: Duration) -> Duration {
        let began = Instant::now();
        let after_ms = self.clocks.now_ms();
        loop {
            for http in queriers {
                if let Ok((found, _)) = Self::read(http, self.clocks.now_ms(), 60).await {
                    let newer: BTreeSet<usize> =
                        found.keys().filter(|(_, at)| *at > after_ms).map(|(n, _)| *n).collect();
                    if newer.len() == TARGETS {
                        return began.elapsed();
                    }
                }
            }
            assert!(
                began.elapsed() < within,
                "targets are not scraped again within {within:?}"
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Whether something explains that an answer is not there: the scrape failed and says so, or something was wrong with
    /// a scraper then or before it can have handed the answer on.
    fn is_explained(&self, failed: &BTreeSet<i64>, given_ms: i64, incidents: &Incidents) -> bool {
        if failed
            .range(given_ms - TIMEOUT_MS..=given_ms + CLOCKS_MS)
            .next()
            .is_some()
        {
            return true;
        }
        let ago_ms = u64::try_from(self.clocks.now_ms() - given_ms).unwrap_or(0);
        let given = Instant::now().checked_sub(Duration::from_millis(ago_ms));
        given.is_some_and(|given| incidents.has_troubled_scrapers(given, HANDED_ON_WITHIN))
    }

    /// No scrape waits in a scraper for its shard.
    async fn until_handed_on(http: &Http) {
        eventually("scrapers to have handed on what they held", async || {
            let answer = ask(http, "/api/v1/targets?state=active").await.ok()?;
            let targets = answer["data"]["activeTargets"].as_array()?;
            let holds = |target: &Value| target["heldScrapes"].as_u64().is_some_and(|held| held > 0);
            (!targets.is_empty() && answer["warnings"].is_null() && !targets.iter().any(holds)).then_some(())
        })
        .await;
    }

    /// When scrapes of each target failed, as `up` says.
    async fn failed(&self, http: &Http, at_ms: i64, seconds: i64) -> Vec<BTreeSet<i64>> {
        let path = format!(
            "/api/v1/query?query={}&time={}",
            client::encode(&format!("up{{job=\"known\"}}[{seconds}s]")),
            at_ms as f64 / 1000.0
        );
        let answer = whole(http, &path, "a whole answer about scrapes that failed").await;
        let mut failed = vec![BTreeSet::new(); TARGETS];
        for row in answer["data"]["result"].as_array().into_iter().flatten() {
            let Some(n) = number(row) else { continue };
            for pair in row["values"].as_array().into_iter().flatten() {
                if pair[1] == "0" {
                    failed[n].insert((pair[0].as_f64().unwrap_or_default() * 1000.0).round() as i64);
                }
            }
        }
        failed
    }

    /// Everything, once all is in order: no tick twice, no marker of a target that is there, each answer that was given is
    /// there unless its scrape failed or something was wrong with a scraper. What was not scraped is said.
    pub(crate) async fn check_all(&self, queriers: &[Http], incidents: &Incidents) -> String {
        Self::until_handed_on(&queriers[0]).await;
        // What was scraped last may still be on its way when the first querier is asked, and there for the second.
        let now_ms = self.clocks.now_ms() - 3 * INTERVAL_MS;
        let seconds = (now_ms - self.begun_ms) / 1000 + 60;
        let mut whole = Samples::new();
        for http in queriers {
            let (found, _) = eventually("a whole answer about targets", async || {
                let read = Self::read(http, now_ms, seconds).await;
                read.ok().filter(|(_, is_whole)| *is_whole)
            })
            .await;
            let wrong = self.check(&found, &self.seen(now_ms - seconds * 1000, now_ms));
            assert_eq!(wrong, None, "after all is over");
            if !whole.is_empty() {
                assert!(whole == found, "two queriers differ about what was scraped");
            }
            whole = found;
        }
        let mut gaps = Vec::new();
        let all_failed = self.failed(&queriers[0], now_ms, seconds).await;
        let (mut given, mut lost) = (0, 0);
        let mut unexplained = Vec::new();
        for (n, failed) in all_failed.iter().enumerate() {
            let times: Vec<i64> = whole
                .range((n, i64::MIN)..=(n, i64::MAX))
                .map(|((_, at), _)| *at)
                .collect();
            let values: BTreeSet<i64> = whole.range((n, i64::MIN)..=(n, i64::MAX)).map(|(_, v)| *v).collect();
            assert_eq!(values.len(), times.len(), "target {n}: an answer is there twice");
            for value in self.answers[n].lock().range(..now_ms) {
                given += 1;
                if !values.contains(value) {
                    lost += 1;
                    if !self.is_explained(failed, *value, incidents) {
                        unexplained.push((n, *value));
                    }
                }
            }
            let offset = usual_offset(&times);
            let ticks: Vec<i64> = times.iter().map(|at| (at - offset).div_euclid(INTERVAL_MS)).collect();
            let doubled = ticks.windows(2).find(|pair| pair[0] == pair[1]);
            assert_eq!(doubled, None, "target {n} was scraped twice at one tick: {times:?}");
            let missed: i64 = ticks.windows(2).map(|pair| pair[1] - pair[0] - 1).sum();
            let longest = ticks.windows(2).map(|pair| pair[1] - pair[0] - 1).max().unwrap_or(0);
            gaps.push((missed, longest));
        }
        assert!(
            unexplained.is_empty(),
            "answers of targets (which, when) that were neither handed on nor explained: {unexplained:?}"
        );
        let between = self.no_false_markers(&queriers[0], &whole).await;
        format!(
            "{} scrapes of {TARGETS} targets, {lost} of {given} answers not there, {} ticks missed, {} at most one after the \
             other, for {between} quarters of a second a marker between two scrapes",
            whole.len(),
            gaps.iter().map(|(missed, _)| missed).sum::<i64>(),
            gaps.iter().map(|(_, longest)| longest).max().unwrap_or(&0)
        )
    }

    /// Wherever a target's series is not there it was scraped and did not answer, or nobody scraped it for so long that its
    /// shard takes it for gone. Or its shard heard nothing for so long, of scrapes that waited in the scraper: then its marker
    /// stands between two scrapes, and the series is there again from the next one on. At how many instants that was so.
    async fn no_false_markers(&self, http: &Http, scraped: &Samples) -> usize {
        let mut between = 0;
        const STEP_MS: i64 = 250;
        const STEPS: i64 = 4_000;
        let Some((first, last)) = bounds(scraped) else {
            panic!("nothing was scraped");
        };
        let mut from = first;
        while from < last {
            let to = (from + STEPS * STEP_MS).min(last);
            let series = present(http, "known", from, to, STEP_MS).await;
            let down = present(http, "up{job=\"known\"} == 0", from, to, STEP_MS).await;
            for n in 0..TARGETS {
                let times: Vec<i64> = scraped
                    .range((n, i64::MIN)..=(n, i64::MAX))
                    .map(|((_, at), _)| *at)
                    .collect();
                let begins = times.first().copied().unwrap_or(last);
                let mut at = from;
                while at < to {
                    let next = times.partition_point(|scraped| *scraped <= at);
                    let before = next
                        .checked_sub(1)
                        .and_then(|i| times.get(i))
                        .copied()
                        .unwrap_or(begins);
                    let silent_ms = times.get(next).copied().unwrap_or(i64::MAX).saturating_sub(before);
                    let is_there = series.contains(&(n, at)) || at <= begins || down.contains(&(n, at));
                    if !is_there && silent_ms <= SILENT_MS {
                        let again = times.get(next).map_or(to, |scraped| {
                            from + (scraped - from + STEP_MS - 1).div_euclid(STEP_MS) * STEP_MS
                        });
                        assert!(
                            again >= to || series.contains(&(n, again)) || down.contains(&(n, again)),
                            "target {n} has a marker between {before} and {at}, was neither down nor silent, and is not there \
                             after its scrape at {again}"
                        );
                        between += 1;
                    }
                    at += STEP_MS;
                }
            }
            from = to;
        }
        between
    }
}

fn bounds(samples: &Samples) -> Option<(i64, i64)> {
    let times = samples.keys().map(|(_, at)| *at);
    Some((times.clone().min()?, times.max()?))
}

/// Of which target a row is.
fn number(row: &Value) -> Option<usize> {
    let instance = row["metric"]["instance"].as_str()?;
    let n: usize = instance.strip_prefix("known-")?.parse().ok()?;
    (n < TARGETS).then_some(n)
}

/// A successful answer of the API.
pub(crate) async fn ask(http: &Http, path: &str) -> Result<Value, String> {
    let asked = async {
        let answer = http.client().get(http.url(path)).send().await?;
        answer.text().await
    };
    let answer = tokio::time::timeout(Duration::from_secs(40), asked).await;
    let text = answer.map_err(|_| "no answer in 40 s")?.map_err(|e| e.to_string())?;
    let answer: Value = serde_json::from_str(&text).map_err(|_| text.clone())?;
    if answer["status"] != "success" {
        return Err(text);
    }
    Ok(answer)
}

/// The same, waited for until nothing is missing from it.
async fn whole(http: &Http, path: &str, what: &str) -> Value {
    eventually(what, async || {
        let answer = ask(http, path).await.ok()?;
        answer["warnings"]
            .as_array()
            .is_none_or(Vec::is_empty)
            .then_some(answer)
    })
    .await
}

/// At which steps a query has something of which target.
async fn present(http: &Http, query: &str, from_ms: i64, to_ms: i64, step_ms: i64) -> BTreeSet<(usize, i64)> {
    let path = format!(
        "/api/v1/query_range?query={}&start={}&end={}&step={}",
        client::encode(query),
        from_ms as f64 / 1000.0,
        to_ms as f64 / 1000.0,
        step_ms as f64 / 1000.0
    );
    let answer = whole(http, &path, "a whole answer about markers").await;
    let mut found = BTreeSet::new();
    for row in answer["data"]["result"].as_array().into_iter().flatten() {
        let Some(n) = number(row) else { continue };
        for pair in row["values"].as_array().into_iter().flatten() {
            found.insert((n, (pair[0].as_f64().unwrap_or_default() * 1000.0).round() as i64));
        }
    }
    found
}

/// Where in the interval a target is scraped, unless it is late; of places that are as usual the earliest.
fn usual_offset(times: &[i64]) -> i64 {
    let mut counts = BTreeMap::<i64, usize>::new();
    for at in times {
        *counts.entry(at.rem_euclid(INTERVAL_MS)).or_default() += 1;
    }
    let most = counts
        .into_iter()
        .max_by_key(|(at, count)| (*count, std::cmp::Reverse(*at)));
    most.map_or(0, |(at, _)| at)
}

/// Reads random stretches until it is stopped; what was wrong.
pub(crate) fn watch(
    targets: Arc<Targets>,
    queriers: Vec<Http>,
    seed: u64,
    stop: CancellationToken,
) -> JoinHandle<Vec<String>> {
    let mut rng = StdRng::seed_from_u64(seed);
    tokio::spawn(async move {
        let mut wrong = Vec::new();
        while !stop.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(rng.random_range(200..800))).await;
            let now_ms = targets.clocks.now_ms();
            let back_ms = if rng.random_bool(0.5) {
                0
            } else {
                rng.random_range(0..=now_ms - targets.begun_ms)
            };
            let seconds = rng.random_range(5..90);
            let at_ms = now_ms - back_ms;
            let http = &queriers[rng.random_range(0..queriers.len())];
            let before = targets.seen(at_ms - seconds * 1000, at_ms);
            if let Ok((found, is_whole)) = Targets::read(http, at_ms, seconds).await {
                let found_wrong = targets.check(&found, if is_whole { &before } else { &[] });
                if let Some(text) = &found_wrong {
                    println!("{text}");
                }
                wrong.extend(found_wrong);
            }
        }
        wrong
    })
}
