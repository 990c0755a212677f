//! What a node is put through, step by step. Each is done again until it is done, as whoever asks for it would.

use crate::injector::Case;
use crate::injector::Injector;
use crate::ledger::{Ledger, Place};
use crate::node::{HOUR_MS, Running, Setting, World};
use crate::verify;
use gnomon_cluster::meta::write_checkpoint;
use gnomon_model::{Clock, Labels, PlacementEpoch, TenantId};
use gnomon_proto::batch::BatchBuilder;
use gnomon_proto::service::ShardWriteService;
use gnomon_proto::v1::block_record::State;
use gnomon_proto::v1::{AppendRequest, MetaState};
use http::StatusCode;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const MINUTE_MS: i64 = 60_000;
/// Cycles of the compactor within one attempt of a step.
const LOOKS: usize = 80;
/// How long a step may take, with everything that goes wrong in it.
const STEP_WITHIN: Duration = Duration::from_secs(60);

/// Times are milliseconds from the beginning of the script.
enum Action {
    /// One sample of each series each minute; the values have the tag in them.
    Append {
        series: &'static [&'static str],
        from_ms: i64,
        to_ms: i64,
        tag: f64,
    },
    Flush,
    /// Until so many parts are in blocks, and none waits.
    Seal {
        parts: usize,
    },
    Delete {
        metric: &'static str,
        from_ms: i64,
        to_ms: i64,
    },
    /// Until there are so many blocks.
    Compact {
        live: usize,
    },
    Clean,
    /// Until nothing is condemned and no delete is left.
    Collect,
    Checkpoint,
    Snapshot,
}

struct Step {
    name: &'static str,
    /// It is this late, at least.
    at_ms: i64,
    action: Action,
}

const ALL: &[&str] = &["a", "b", "c", "d"];

fn script() -> Vec<Step> {
    let hour = HOUR_MS;
    let step = |name, at_ms, action| Step { name, at_ms, action };
    let append = |series, from_ms, minutes: i64, tag| Action::Append {
        series,
        from_ms,
        to_ms: from_ms + minutes * MINUTE_MS,
        tag,
    };
    let delete = |metric, from_ms, to_ms| Action::Delete { metric, from_ms, to_ms };
    vec![
        step("ingest", 30 * MINUTE_MS, append(ALL, 0, 30, 1.0)),
        step("flush", 30 * MINUTE_MS, Action::Flush),
        step("ingest", 40 * MINUTE_MS, append(ALL, 31 * MINUTE_MS, 9, 2.0)),
        step(
            "delete in the head",
            40 * MINUTE_MS,
            delete("a", 5 * MINUTE_MS, 20 * MINUTE_MS),
        ),
        step(
            "ingest what was deleted",
            40 * MINUTE_MS,
            append(&["a"], 15 * MINUTE_MS, 2, 3.0),
        ),
        step("flush", 40 * MINUTE_MS, Action::Flush),
        step("ingest", 2 * hour + 20 * MINUTE_MS, append(ALL, 2 * hour, 20, 4.0)),
        step("seal, upload", 2 * hour + 35 * MINUTE_MS, Action::Seal { parts: 1 }),
        step(
            "delete in a block and the head",
            3 * hour,
            delete("b", hour / 4, 2 * hour + 10 * MINUTE_MS),
        ),
        step("checkpoint", 3 * hour, Action::Checkpoint),
        step(
            "ingest",
            4 * hour + 20 * MINUTE_MS,
            append(&["a", "b", "e"], 4 * hour, 20, 5.0),
        ),
        step("seal, upload", 4 * hour + 35 * MINUTE_MS, Action::Seal { parts: 2 }),
        step("ingest", 6 * hour + 20 * MINUTE_MS, append(ALL, 6 * hour, 20, 6.0)),
        step("seal, upload", 6 * hour + 35 * MINUTE_MS, Action::Seal { parts: 3 }),
        step("compact", 8 * hour, Action::Compact { live: 1 }),
        step("delete in a merged block", 8 * hour, delete("c", 0, 3 * hour)),
        step("clean tombstones", 8 * hour, Action::Clean),
        step("collect garbage", 8 * hour, Action::Collect),
        step("ingest", 10 * hour + 20 * MINUTE_MS, append(ALL, 10 * hour, 20, 7.0)),
        step("seal, upload", 10 * hour + 35 * MINUTE_MS, Action::Seal { parts: 4 }),
        step("checkpoint", 10 * hour + 35 * MINUTE_MS, Action::Checkpoint),
        step("snapshot", 10 * hour + 35 * MINUTE_MS, Action::Snapshot),
        step("flush", 10 * hour + 35 * MINUTE_MS, Action::Flush),
    ]
}

/// What came of a run.
pub struct Outcome {
    /// Operations of each step and class.
    pub counts: BTreeMap<(&'static str, crate::injector::Class), u32>,
    pub fired: bool,
}

/// Runs the script with one fault, or none, and looks whether everything is as it should be.
pub async fn run(case: Option<Case>, setting: Setting) -> Outcome {
    let world = Arc::new(World::new(Injector::new(case), setting));
    let begin_ms = world.clock.now().0;
    let mut run = Run {
        begin_ms,
        ledger: Ledger::default(),
        running: Some(Running::start(world.clone()).await),
        world: world.clone(),
        what: case.map_or_else(|| "without a fault".into(), |case| case.to_string()),
    };
    for step in script() {
        world.injector.begin(Some(step.name));
        run.until_done(&step).await;
    }
    world.injector.begin(None);
    run.settle().await;
    Outcome {
        counts: world.injector.counts(),
        fired: world.injector.has_fired(),
    }
}

struct Run {
    world: Arc<World>,
    begin_ms: i64,
    ledger: Ledger,
    running: Option<Running>,
    /// For messages.
    what: String,
}

impl Run {
    async fn until_done(&mut self, step: &Step) {
        let attempts = async {
            loop {
                self.advance_to(step.at_ms);
                let Some(running) = &mut self.running else {
                    panic!("{}: no process", self.what);
                };
                let death = self.world.injector.death();
                let attempt = act(running, &mut self.ledger, self.begin_ms, &step.action);
                let done = tokio::select! {
                    biased;
                    () = death.cancelled() => Err("the process ended".to_owned()),
                    done = attempt => done,
                };
                if self.world.injector.is_dead() {
                    self.restart().await;
                    self.compare(&format!("{} after the crash in {}", self.what, step.name))
                        .await;
                    continue;
                }
                match done {
                    Ok(()) => return,
                    // Whoever asks waits a little before asking again.
                    Err(why) => {
                        assert!(self.world.injector.has_fired(), "{}: {}: {why}", self.what, step.name);
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
            }
        };
        if tokio::time::timeout(STEP_WITHIN, attempts).await.is_err() {
            panic!("{}: {} was not done within {STEP_WITHIN:?}", self.what, step.name);
        }
    }

    fn advance_to(&self, at_ms: i64) {
        let late_ms = self.begin_ms + at_ms - self.world.clock.now().0;
        self.world
            .clock
            .advance(Duration::from_millis(u64::try_from(late_ms).unwrap_or(0)));
    }

    async fn restart(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
        self.running = Some(Running::start(self.world.clone()).await);
    }

    /// What is read is possible.
    async fn compare(&self, what: &str) {
        let Some(running) = &self.running else {
            return;
        };
        let read = running.read().await.unwrap_or_else(|e| panic!("{what}: {e}"));
        let wrong = self.ledger.differences(&read);
        assert!(
            wrong.is_empty(),
            "{what}: {} are wrong: {:?}",
            wrong.len(),
            &wrong[..wrong.len().min(5)]
        );
    }

    /// Nothing goes wrong any more: everything that is owed is done, here and after another restart.
    async fn settle(&mut self) {
        let what = self.what.clone();
        for life in ["", " and a restart"] {
            if !life.is_empty() {
                self.restart().await;
            }
            let Some(running) = &mut self.running else { return };
            for action in [Action::Seal { parts: 4 }, Action::Clean, Action::Collect] {
                // What went wrong last may not be mended yet.
                let mut why = String::new();
                let done = async {
                    while let Err(error) = act(running, &mut self.ledger, self.begin_ms, &action).await {
                        why = error;
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                };
                if tokio::time::timeout(STEP_WITHIN, done).await.is_err() {
                    panic!("{what}: settling{life}: not done within {STEP_WITHIN:?}: {why}");
                }
            }
            self.compare(&format!("{what}: settled{life}")).await;
            if let Some(running) = &self.running {
                let wrong = verify::everything(running, &self.ledger).await;
                assert!(wrong.is_empty(), "{what}: settled{life}: {wrong:?}");
            }
        }
        if let Some(running) = self.running.take() {
            running.stop().await;
        }
    }
}

/// One attempt.
async fn act(running: &mut Running, ledger: &mut Ledger, begin_ms: i64, action: &Action) -> Result<(), String> {
    match action {
        Action::Append {
            series,
            from_ms,
            to_ms,
            tag,
        } => {
            let mut samples = Vec::new();
            for (number, name) in series.iter().enumerate() {
                let times = (*from_ms..=*to_ms).step_by(MINUTE_MS as usize);
                samples.extend(times.map(|at| {
                    let value = tag * 1e6 + number as f64 * 1e4 + (at / MINUTE_MS) as f64;
                    (((*name).to_owned(), begin_ms + at), value)
                }));
            }
            append(running, ledger, &samples).await
        }
        Action::Flush => {
            for group in &running.groups {
                group.flush().await.map_err(|e| e.to_string())?;
            }
            Ok(())
        }
        Action::Seal { parts } => seal(running, *parts).await,
        Action::Delete { metric, from_ms, to_ms } => {
            let range = begin_ms + from_ms..=begin_ms + to_ms;
            let hits = |place: &Place| place.0 == *metric && range.contains(&place.1);
            ledger.delete_sent(hits);
            delete(running, metric, begin_ms + from_ms, begin_ms + to_ms).await?;
            ledger.delete_acknowledged(hits);
            Ok(())
        }
        Action::Compact { live } => compact(running, |state| of_state(state, State::Live) == *live).await,
        Action::Clean => clean(running).await,
        Action::Collect => {
            let is_done =
                |state: &MetaState| state.blocks.len() == of_state(state, State::Live) && state.tombstones.is_empty();
            compact(running, is_done).await
        }
        Action::Checkpoint => {
            let state = running.meta.read().await.map_err(|e| e.to_string())?;
            let written = write_checkpoint(running.bucket.as_ref(), &state).await;
            written.map_err(|e| e.to_string())
        }
        Action::Snapshot => {
            let (status, body) = running.ask("POST", "/api/v1/admin/tsdb/snapshot").await;
            if status != StatusCode::OK {
                return Err(body);
            }
            let answer: serde_json::Value = serde_json::from_str(&body).map_err(|e| e.to_string())?;
            let name = answer["data"]["name"].as_str().ok_or("no name")?;
            let wrong = verify::snapshot(&running.world.snapshots().join(name), ledger).await;
            assert!(wrong.is_empty(), "snapshot: {wrong:?}");
            Ok(())
        }
    }
}

async fn append(running: &Running, ledger: &mut Ledger, samples: &[(Place, f64)]) -> Result<(), String> {
    let mut batch = BatchBuilder::new(&TenantId::anonymous(), PlacementEpoch(1));
    batch.begin_rows();
    let mut last = None;
    for ((name, at), value) in samples {
        let key = match &last {
            Some((known, key)) if *known == name => *key,
            _ => batch.new_series(Labels::from_pairs([("__name__", name)]).as_ref()),
        };
        last = Some((name, key));
        batch.sample(key, *at, *value);
    }
    let request = AppendRequest {
        shard: 0,
        batch: batch.finish(),
        starts_left_out: false,
        only_newer: false,
    };
    ledger.sent(samples);
    let answer = running.shards.append(request).await.map_err(|e| e.to_string())?;
    if answer.samples_taken + answer.duplicates != samples.len() as u64 {
        return Err(format!("not all was taken: {answer:?}"));
    }
    ledger.acknowledged(samples);
    Ok(())
}

/// What is sealed is uploaded once a flush in the background has made it durable.
async fn seal(running: &mut Running, parts: usize) -> Result<(), String> {
    loop {
        running.duties.round().await;
        let waiting = running.metric("gnomon_ingester_sealed_parts");
        let state = running.state();
        let live = state.blocks.iter().filter(|b| b.state() == State::Live);
        let covered: BTreeSet<u64> = live.flat_map(|b| b.parts.iter().copied()).collect();
        if covered.len() >= parts && waiting == 0.0 {
            return Ok(());
        }
        running.world.clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// While the duties of the shard go on.
async fn delete(running: &mut Running, metric: &str, from_ms: i64, to_ms: i64) -> Result<(), String> {
    let seconds = |ms: i64| ms as f64 / 1e3;
    let (from, to) = (seconds(from_ms), seconds(to_ms));
    let path = format!("/api/v1/admin/tsdb/delete_series?match[]={metric}&start={from}&end={to}");
    let Running { api, duties, .. } = running;
    let is_answered = AtomicBool::new(false);
    let asking = async {
        let answer = Running::ask_of(api, "POST", &path).await;
        is_answered.store(true, Ordering::Relaxed);
        answer
    };
    let working = async {
        while !is_answered.load(Ordering::Relaxed) {
            duties.round().await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let (answer, ()) = tokio::join!(asking, working);
    done(answer)
}

/// An answer without content says that it is done.
fn done((status, body): (StatusCode, String)) -> Result<(), String> {
    if status == StatusCode::NO_CONTENT {
        Ok(())
    } else {
        Err(body)
    }
}

async fn clean(running: &mut Running) -> Result<(), String> {
    let Running {
        api, compactor, world, ..
    } = running;
    let is_answered = AtomicBool::new(false);
    let asking = async {
        let answer = Running::ask_of(api, "POST", "/api/v1/admin/tsdb/clean_tombstones").await;
        is_answered.store(true, Ordering::Relaxed);
        answer
    };
    let working = async {
        let stop = CancellationToken::new();
        for turn in 1_u32.. {
            if is_answered.load(Ordering::Relaxed) {
                break;
            }
            // As its role does, which tries again what fails: what a merge left that did not come to its end is given
            // up by a whole cycle.
            let outcome = match turn.is_multiple_of(12) {
                true => compactor.cycle(&stop).await,
                false => compactor.look(&stop).await,
            };
            if outcome.is_ok() {
                world.clock.advance(Duration::from_secs(5));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let (answer, ()) = tokio::join!(asking, working);
    done(answer)
}

fn of_state(state: &MetaState, is: State) -> usize {
    state.blocks.iter().filter(|b| b.state() == is).count()
}

async fn compact(running: &mut Running, is_done: impl Fn(&MetaState) -> bool) -> Result<(), String> {
    let mut last = String::new();
    for _ in 0..LOOKS {
        let outcome = running.compactor.cycle(&CancellationToken::new()).await;
        if is_done(&running.state()) {
            return Ok(());
        }
        match outcome {
            Ok(()) => running.world.clock.advance(Duration::from_secs(61)),
            // What is out of order takes real time to be mended: the node's own time does not run away meanwhile.
            Err(error) => {
                last = error.to_string();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
    Err(format!("the compactor did not come to its end: {last}"))
}
