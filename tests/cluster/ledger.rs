//! What was acknowledged, those who write it, and those who read it back all the time.

use crate::answers::{Answer, Gap, is_near, is_sum_of_some};
use crate::clocks::{Clocks, WINDOW_MS};
use crate::harness::{Http, PATIENCE, client, eventually, remote};
use crate::incidents::{Incidents, NO_CAUSE};
use crate::members::Cluster;
use crate::targets::ask;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
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
/// Steps that are asked for although they are still to come: what is said of them may be remembered, and has to be forgotten.
const TO_COME: i64 = 30;
/// A reader asks again what it asked this many questions before, at most: of the result cache.
const REMEMBERED: usize = 8;
/// Shorter stalls of a writer are not noted one by one.
const STALL: Duration = Duration::from_millis(500);
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
    /// The shards that may have a series in a window, by what parts of answers said was missing when it was not there:
    /// writer, series, the window's number.
    may_have: Mutex<BTreeMap<(usize, usize, i64), BTreeSet<u32>>>,
}

/// A writer waited for an acknowledgement.
#[derive(Debug)]
pub(crate) struct Stall {
    pub(crate) began: Instant,
    pub(crate) lasted: Duration,
    /// Those that failed: how long after the first, where, what became of it.
    pub(crate) attempts: Vec<String>,
}

/// What was seen while it ran.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) longest_stall: Duration,
    /// Those that are worth a word.
    pub(crate) stalls: Vec<Stall>,
    pub(crate) reads: u64,
    pub(crate) partial: u64,
    /// Reads that failed, by cause: what was wrong with the querier that was asked, or with what it asks.
    pub(crate) failed: BTreeMap<&'static str, u64>,
    /// When each read was asked for that failed or was partial.
    pub(crate) short: Vec<Instant>,
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

/// How a stretch is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// An instant query for the samples.
    Samples,
    /// A range query that has each sample at its step.
    Steps,
    /// The same, of the sums over all series: they are added up where the samples are.
    Sums,
}

/// Steps `from..to` of a writer.
#[derive(Clone, Copy, Debug)]
struct Question {
    writer: usize,
    from: i64,
    to: i64,
    form: Form,
    /// An error is wanted rather than a part.
    is_strict: bool,
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
            may_have: Mutex::default(),
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

    /// What to ask the API.
    fn path(&self, question: Question) -> String {
        let Question {
            writer,
            from,
            to,
            form,
            is_strict,
        } = question;
        let step_ms = PACES[writer].1;
        let (start_ms, end_ms) = (self.time_ms(writer, from), self.time_ms(writer, to - 1));
        let seconds = |ms: i64| ms as f64 / 1000.0;
        let of_step = format!("ledger{{writer=\"{writer}\"}}[{step_ms}ms]");
        let path = match form {
            Form::Samples => {
                let query = format!("ledger{{writer=\"{writer}\"}}[{}ms]", (to - from) * step_ms);
                format!(
                    "/api/v1/query?query={}&time={}",
                    client::encode(&query),
                    seconds(end_ms)
                )
            }
            Form::Steps | Form::Sums => {
                let query = match form {
                    Form::Sums => format!("sum by (writer) (sum_over_time({of_step}))"),
                    _ => format!("last_over_time({of_step})"),
                };
                format!(
                    "/api/v1/query_range?query={}&start={}&end={}&step={}",
                    client::encode(&query),
                    seconds(start_ms),
                    seconds(end_ms),
                    seconds(step_ms)
                )
            }
        };
        path + if is_strict { "&partial=false" } else { "" }
    }

    /// What one querier answers.
    async fn read(&self, http: &Http, question: Question) -> Read {
        let answer = match ask(http, &self.path(question)).await {
            Ok(answer) => answer,
            Err(text) => return Read::Failed(text),
        };
        let mut answered = Answer::default();
        for warning in answer["warnings"].as_array().into_iter().flatten() {
            let text = warning.as_str().unwrap_or_default();
            match Gap::read(text) {
                Some(gap) => answered.gaps.push(gap),
                None => answered.wrong = Some(format!("a warning that does not say what is missing: {text}")),
            }
        }
        for row in answer["data"]["result"].as_array().into_iter().flatten() {
            let series: usize = match row["metric"]["instance"].as_str() {
                Some(n) => n.parse().unwrap_or(usize::MAX),
                None => 0,
            };
            for pair in row["values"].as_array().into_iter().flatten() {
                let at = (pair[0].as_f64().unwrap_or_default() * 1000.0).round() as i64;
                let value: f64 = pair[1].as_str().and_then(|v| v.parse().ok()).unwrap_or(f64::NAN);
                if answered.found.insert((series, at), value).is_some() {
                    answered.wrong = Some(format!("series {series} at {at} is there twice"));
                }
            }
        }
        if question.is_strict && !answered.gaps.is_empty() {
            answered.wrong = Some(format!(
                "a part where all or an error was asked for: {:?}",
                answered.gaps
            ));
        }
        Read::Answer(answered)
    }

    /// Whether one shard may be that of a series, by this answer and all before in which it was missing.
    fn is_of_a_shard(&self, writer: usize, series: usize, at: i64, gaps: &[Gap]) -> bool {
        let said = gaps.iter().filter(|gap| gap.span_ms.contains(&at)).map(|gap| gap.shard);
        let said: BTreeSet<u32> = said.collect();
        let mut may_have = self.may_have.lock();
        let key = (writer, series, at.div_euclid(WINDOW_MS));
        let shards = may_have.entry(key).or_insert_with(|| said.clone());
        shards.retain(|shard| said.contains(shard));
        !shards.is_empty()
    }

    /// What is wrong with an answer: `sure` steps have to be there, further ones below `maybe` may be.
    fn compare(&self, question: Question, sure: i64, maybe: i64, answer: &Answer) -> Option<String> {
        let Question {
            writer, from, to, form, ..
        } = question;
        if answer.wrong.is_some() {
            return answer.wrong.clone();
        }
        let values = |step: i64| (0..SERIES).map(move |series| value(writer, series, step));
        let mut left = answer.found.clone();
        for step in from..to {
            let at = self.time_ms(writer, step);
            let may_be_short = step >= sure || answer.gaps.iter().any(|gap| gap.span_ms.contains(&at));
            let expected: Vec<f64> = match form {
                Form::Sums => vec![values(step).sum()],
                Form::Samples | Form::Steps => values(step).collect(),
            };
            for (series, expected) in expected.into_iter().enumerate() {
                let is_right = |read: f64| match form {
                    Form::Sums if may_be_short => is_sum_of_some(read, &values(step).collect::<Vec<_>>()),
                    Form::Sums => is_near(read, expected),
                    Form::Samples | Form::Steps => read == expected,
                };
                match left.remove(&(series, at)) {
                    Some(read) if step >= maybe || !is_right(read) => {
                        return Some(format!(
                            "{question:?}: series {series} step {step}: {read}, not {expected}; {sure} steps are \
                             acknowledged, {maybe} tried"
                        ));
                    }
                    None if !may_be_short => {
                        return Some(format!(
                            "{question:?}: series {series} step {step} is missing without a warning; {} samples were \
                             read, {sure} steps are acknowledged",
                            answer.found.len()
                        ));
                    }
                    None if step < sure
                        && form != Form::Sums
                        && !self.is_of_a_shard(writer, series, at, &answer.gaps) =>
                    {
                        return Some(format!(
                            "{question:?}: series {series} step {step} is missing, but of no shard that was said to be: {:?}",
                            answer.gaps
                        ));
                    }
                    _ => {}
                }
            }
        }
        left.first_key_value()
            .map(|(key, value)| format!("{question:?}: {value} at {key:?} was never written"))
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
                    for form in [Form::Samples, Form::Steps, Form::Sums] {
                        let question = Question {
                            writer,
                            from,
                            to,
                            form,
                            is_strict: false,
                        };
                        let answer = eventually("a whole answer", async || match self.read(http, question).await {
                            Read::Answer(answer) if answer.gaps.is_empty() => Some(answer),
                            _ => None,
                        })
                        .await;
                        let wrong = self.compare(question, acknowledged, attempted, &answer);
                        assert_eq!(wrong, None, "querier {at}, after all is over");
                    }
                }
            }
        }
        samples
    }
}

enum Read {
    Failed(String),
    Answer(Answer),
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
            all.stalls.extend(one.stalls);
            all.short.extend(one.short);
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
        let began = Instant::now();
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
        let stalled = began.elapsed();
        report.longest_stall = report.longest_stall.max(stalled);
        if stalled >= STALL {
            let attempts = std::mem::take(&mut ledger.writers[writer].lock().refused);
            report.stalls.push(Stall {
                began,
                lasted: stalled,
                attempts,
            });
        }
        ledger.writers[writer].lock().acknowledged = step + 1;
        tokio::time::sleep(Duration::from_millis(rng.random_range(20..80))).await;
    }
    report
}

/// A stretch at random, the newest more often.
fn any_question(ledger: &Ledger, rng: &mut StdRng) -> Option<Question> {
    let writer = rng.random_range(0..WRITERS);
    let sure = ledger.writers[writer].lock().acknowledged;
    if sure == 0 {
        return None;
    }
    let to = if rng.random_bool(0.5) {
        sure
    } else {
        rng.random_range(1..=sure)
    };
    let form = [Form::Samples, Form::Steps, Form::Sums][rng.random_range(0..3)];
    let is_ahead = form != Form::Samples && rng.random_bool(0.5);
    Some(Question {
        writer,
        from: (to - rng.random_range(1..=PIECE)).max(0),
        to: if is_ahead {
            to + rng.random_range(1..=TO_COME)
        } else {
            to
        },
        form,
        is_strict: rng.random_bool(0.15),
    })
}

/// Questions at random, some of them again, of any of the queriers (with the numbers of their members). An error or a part is
/// wrong unless something explains it.
async fn read(
    ledger: Arc<Ledger>,
    queriers: Vec<(usize, Http)>,
    incidents: Arc<Incidents>,
    mut rng: StdRng,
    stop: CancellationToken,
) -> Report {
    let mut report = Report::default();
    let mut asked_before: VecDeque<Question> = VecDeque::new();
    while !stop.is_cancelled() {
        tokio::time::sleep(Duration::from_millis(rng.random_range(20..200))).await;
        let again = rng.random_bool(0.4) && !asked_before.is_empty();
        let question = match again {
            true => Some(asked_before[rng.random_range(0..asked_before.len())]),
            false => any_question(&ledger, &mut rng),
        };
        let Some(question) = question else { continue };
        if !again {
            asked_before.push_back(question);
            if asked_before.len() > REMEMBERED {
                asked_before.pop_front();
            }
        }
        let sure = ledger.writers[question.writer].lock().acknowledged;
        let (querier, http) = &queriers[rng.random_range(0..queriers.len())];
        let asked = Instant::now();
        let answer = ledger.read(http, question).await;
        let maybe = ledger.writers[question.writer].lock().attempted;
        report.reads += 1;
        let cause = incidents.cause(*querier, asked);
        let wrong = match answer {
            Read::Failed(error) => {
                let count = report.failed.entry(cause).or_default();
                *count += 1;
                report.short.push(asked);
                let short: String = error.chars().take(300).collect();
                let what = format!("{cause}: querier {querier} after {:.1?}: {short}", asked.elapsed());
                if *count == 1 && cause != NO_CAUSE {
                    report.errors.push(what.clone());
                }
                (cause == NO_CAUSE).then_some(what)
            }
            Read::Answer(answer) => {
                let is_partial = !answer.gaps.is_empty();
                report.partial += u64::from(is_partial);
                if is_partial {
                    report.short.push(asked);
                }
                let is_unexplained = is_partial && cause == NO_CAUSE;
                let wrong = ledger.compare(question, sure, maybe, &answer);
                wrong.or_else(|| {
                    is_unexplained.then(|| format!("querier {querier}: a part without a cause: {:?}", answer.gaps))
                })
            }
        };
        if let Some(wrong) = &wrong {
            println!("{wrong}");
        }
        report.wrong.extend(wrong);
    }
    report
}
