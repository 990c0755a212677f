//! One tick of one target: ask, collect, push, note how it went.

use super::body::Body;
use super::cache::SeriesCache;
use super::collect::{Collector, Counts, Refusal, Scratch};
use super::fetch::{Fetched, fetch};
use super::refusals::{self, Refusals, Said, Say};
use super::report::{Extra, Report, report_series};
use super::run::{LoopSpec, PUSH_GRACE, PoolOptions, ScrapeEnv, Spare};
use super::timing::{self, Ownership};
use crate::buffer::Why;
use crate::client::FetchError;
use crate::hand_over::ticks_after;
use crate::parse::Format;
use crate::parse::content::{format_of_protocol, select_format};
use crate::status::TargetState;
use gnomon_cluster::router::{MetricInfo, Tick, TickOutcome};
use gnomon_model::duration::format_duration_ms;
use gnomon_proto::ServiceError;
use gnomon_proto::v1::rejection::Reason;
use parking_lot::Mutex;
use prometheus::Histogram;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Larger bodies are read on a thread of their own, so that other scrapes are not held up.
const LARGE_BODY_BYTES: usize = 256 << 10;

/// What is left of the interval for what comes after a push that was given up: the next scrape must not be late for it.
const MARGIN: Duration = Duration::from_millis(50);

/// What a push gets at least (of short intervals: half of one), also after a target that took all of its interval.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

/// How long a push may take after a scrape that took `duration`: until shortly before the next tick, and then it makes way
/// for that.
fn patience(interval: Duration, duration: Duration) -> Duration {
    left(interval, duration).max(LEAST_PATIENCE.min(interval / 2))
}

/// What is left of the interval then.
fn left(interval: Duration, duration: Duration) -> Duration {
    let margin = MARGIN.max(interval / 50);
    interval.saturating_sub(duration).saturating_sub(margin)
}

/// What a loop knows from tick to tick.
pub(super) struct Worker {
    env: Arc<ScrapeEnv>,
    state: Arc<TargetState>,
    /// None while a thread has it.
    cache: Option<SeriesCache>,
    /// What the cache was filled under.
    filled_under: Arc<PoolOptions>,
    counted_series: i64,
    last_tick_ms: i64,
    last_began: Option<Duration>,
    ownership: Ownership,
    /// Where the times between scrapes are observed, and of which configured interval.
    interval_lengths: Option<(Duration, Histogram)>,
    refusals: Mutex<Refusals>,
    /// The loop was told to end.
    cancel: CancellationToken,
}

/// A body to collect, with all that takes.
struct Job {
    spec: Arc<LoopSpec>,
    state: Arc<TargetState>,
    cache: SeriesCache,
    scratch: Scratch,
    fetched: Fetched,
    tick_ms: i64,
}

struct Collected {
    cache: SeriesCache,
    scratch: Scratch,
    body: Body,
    counts: Counts,
    tick_ms: i64,
    result: Result<(), Refusal>,
}

impl Job {
    fn run(mut self) -> Collected {
        let config = &self.spec.options.config;
        let mut collector = Collector {
            config,
            target: &self.spec.target.labels,
            tick_ms: self.tick_ms,
            cache: &mut self.cache,
            scratch: &mut self.scratch,
            metadata: &self.state.metadata,
            counts: Counts::default(),
        };
        let body = &self.fetched.body.bytes;
        let fallback = config.fallback_scrape_protocol.map(format_of_protocol);
        let format = select_format(self.fetched.content_type.as_deref(), fallback);
        let result = match format {
            // Needs no content type. It is most likely a failure in disguise: what is known of the target stays known. Only
            // OpenMetrics has an end that is missing then.
            Ok(Format::Text | Format::Protobuf) | Err(_) if body.is_empty() => Ok(()),
            Ok(format) => collector.collect(format, body),
            Err(message) => Err(Refusal::Parse(message)),
        };
        Collected {
            tick_ms: collector.tick_ms,
            counts: collector.counts,
            cache: self.cache,
            scratch: self.scratch,
            body: self.fetched.body,
            result,
        }
    }
}

/// How one scrape went, before it is pushed.
#[derive(Default)]
struct Outcome {
    tick_ms: i64,
    counts: Counts,
    error: Option<String>,
    body_bytes: f64,
}

/// Writes to the job's own log of failures, if it has one. Nobody waits for the disk.
fn log_failure(spec: &LoopSpec, at_ms: i64, error: &str) {
    let Some(log) = spec.options.failures.clone() else {
        return;
    };
    let (target, error) = (Arc::clone(&spec.target), error.to_owned());
    tokio::task::spawn_blocking(move || {
        if let Err(e) = log.write(at_ms, &target.pool, &target.shown_url, &error) {
            warn!(file = %log.path().display(), error = %e, "scrape failure log not written");
        }
    });
}

impl Worker {
    pub(super) fn new(
        env: Arc<ScrapeEnv>,
        state: Arc<TargetState>,
        spec: &LoopSpec,
        cancel: CancellationToken,
    ) -> Self {
        let ownership = Ownership::new(spec.term, env.clock.monotonic());
        Self {
            env,
            state,
            cache: None,
            filled_under: Arc::clone(&spec.options),
            counted_series: 0,
            last_tick_ms: i64::MIN,
            last_began: None,
            ownership,
            interval_lengths: None,
            refusals: Mutex::default(),
            cancel,
        }
    }

    /// The first tick that is still to come; none before `from_ms`, where that is near.
    pub(super) fn next_tick(&mut self, spec: &LoopSpec, from_ms: Option<i64>) -> i64 {
        let now = self.env.clock.now().0;
        let interval = spec.target.interval;
        let ahead = self.last_tick_ms.saturating_sub(now);
        if ahead > i64::try_from(interval.as_millis()).unwrap_or(i64::MAX) {
            // The clock was set back: the rhythm starts anew.
            self.last_tick_ms = now;
        }
        let after_ms = ticks_after(from_ms, now).max(self.last_tick_ms);
        timing::next_tick(after_ms, interval, spec.target.offset())
    }

    pub(super) async fn scrape(&mut self, spec: &Arc<LoopSpec>, tick_ms: i64) {
        let env = Arc::clone(&self.env);
        let (began, began_ms) = (env.clock.monotonic(), env.clock.now().0);
        self.note_interval(spec, began);
        let interval = spec.target.interval;
        let is_new = self.ownership.is_new(spec.term, began);
        let at_ms = if spec.is_shared && is_new {
            timing::align_to_other(tick_ms, began_ms, interval)
        } else {
            timing::align(tick_ms, began_ms, interval, env.timestamp_tolerance)
        };
        self.last_tick_ms = tick_ms.max(at_ms);
        let cache = self.cache_for(spec);
        let mut spare = env.take_spare();
        let (cache, outcome) = self.ask(spec, at_ms, cache, &mut spare).await;
        let at_ms = outcome.tick_ms;
        let duration = env.clock.monotonic().saturating_sub(began);
        let report = Report {
            up: outcome.error.is_none(),
            duration_seconds: duration.as_secs_f64(),
            counts: outcome.counts.clone(),
            extra: spec.options.config.extra_scrape_metrics.then(|| Extra {
                timeout_seconds: spec.target.timeout.as_secs_f64(),
                sample_limit: spec.options.config.limits.samples.unwrap_or(0),
                body_bytes: outcome.body_bytes,
            }),
        };
        report.add_to(&cache, at_ms, &mut spare.scratch);
        self.note(spec, at_ms, duration, &outcome);
        self.push(spec, at_ms, &cache, &spare.scratch, duration).await;
        env.give_back(spare);
        self.count_series(cache.len());
        self.cache = Some(cache);
        self.count_skipped(tick_ms, interval);
    }

    fn cache_for(&mut self, spec: &Arc<LoopSpec>) -> SeriesCache {
        let same = Arc::ptr_eq(&self.filled_under, &spec.options);
        self.filled_under = Arc::clone(&spec.options);
        let fresh = || SeriesCache::new(report_series(&spec.target));
        self.cache.take().filter(|_| same).unwrap_or_else(fresh)
    }

    /// Fetches and collects; the samples are in the scratch afterwards, none if anything failed.
    async fn ask(
        &mut self,
        spec: &Arc<LoopSpec>,
        tick_ms: i64,
        cache: SeriesCache,
        spare: &mut Spare,
    ) -> (SeriesCache, Outcome) {
        let failed = |error: String, body_bytes| Outcome {
            tick_ms,
            error: Some(error),
            body_bytes,
            ..Outcome::default()
        };
        if let Some(error) = &spec.forced_error {
            return (cache, failed(error.to_string(), 0.0));
        }
        let reuse = std::mem::take(&mut spare.body);
        let env = &self.env;
        let fetched = match fetch(&*env.carrier, &spec.target, &spec.options, &env.budget, reuse).await {
            Ok(fetched) => fetched,
            Err(e) => {
                let over = matches!(
                    e,
                    FetchError::BodySizeLimit | FetchError::DefaultBodySizeLimit { .. } | FetchError::Budget { .. }
                );
                if over {
                    self.env.metrics.exceeded_body_size_limit.inc();
                }
                return (cache, failed(e.to_string(), if over { -1.0 } else { 0.0 }));
            }
        };
        let job = Job {
            spec: Arc::clone(spec),
            state: Arc::clone(&self.state),
            cache,
            scratch: std::mem::take(&mut spare.scratch),
            fetched,
            tick_ms,
        };
        let body_bytes = job.fetched.body.bytes.len() as f64;
        let collected = if job.fetched.body.bytes.len() < LARGE_BODY_BYTES {
            job.run()
        } else {
            match tokio::task::spawn_blocking(move || job.run()).await {
                Ok(collected) => collected,
                Err(e) => {
                    let fresh = SeriesCache::new(report_series(&spec.target));
                    return (fresh, failed(format!("reading the body failed: {e}"), body_bytes));
                }
            }
        };
        spare.scratch = collected.scratch;
        spare.body = collected.body.bytes;
        let error = collected.result.err().map(|refusal| {
            spare.scratch.clear();
            self.count_refusal(&refusal);
            refusal.message(&spec.options.config.limits)
        });
        let outcome = Outcome {
            tick_ms: collected.tick_ms,
            counts: collected.counts,
            error,
            body_bytes,
        };
        (collected.cache, outcome)
    }

    /// After a scrape that took `duration`.
    async fn push(&self, spec: &LoopSpec, tick_ms: i64, cache: &SeriesCache, scratch: &Scratch, duration: Duration) {
        let unsent = self.state.metadata.unsent();
        let metadata: Vec<MetricInfo<'_>> = unsent
            .iter()
            .map(|(metric, family)| MetricInfo {
                metric,
                kind: family.kind.as_str(),
                unit: &family.unit,
                help: &family.help,
            })
            .collect();
        let tick = Tick {
            tenant: &self.env.tenant,
            target: spec.target.id,
            term: spec.term,
            tick_ms,
            interval_ms: u64::try_from(spec.target.interval.as_millis()).unwrap_or(u64::MAX),
            complete: true,
            track_timestamps_staleness: spec.options.config.track_timestamps_staleness,
            target_labels: spec.target.labels.as_ref(),
            samples: &scratch.samples,
            histograms: &scratch.histograms,
            exemplars: &scratch.exemplars,
            metadata: &metadata,
            labels: cache,
        };
        // What waits goes first.
        if self.env.buffer.holds(tick.target) {
            self.env.buffer.hold(&tick);
            return;
        }
        match self.try_push(&tick, spec.target.interval, duration).await {
            Ok(outcome) => {
                self.state.metadata.mark_sent(&unsent);
                self.note_pushed(spec, &tick, &outcome);
            }
            Err(e) if e.may_succeed_later() => {
                self.env.metrics.pushes_failed.inc();
                debug!(scrape_pool = %spec.target.pool, target = %spec.target.shown_url, error = %e, "scrape held back");
                self.env.buffer.hold(&tick);
            }
            Err(e) => {
                self.env.metrics.pushes_failed.inc();
                warn!(scrape_pool = %spec.target.pool, target = %spec.target.shown_url, error = %e, "scrape not stored");
                self.give_up(spec, &tick, 0, Why::Refused);
            }
        }
    }

    /// All but what was taken.
    fn give_up(&self, spec: &LoopSpec, tick: &Tick<'_>, taken: u64, why: Why) {
        let samples = (tick.samples.len() + tick.histograms.len()) as u64;
        let name = spec.target.labels.as_bytes().into();
        self.env
            .buffer
            .give_up(tick.target, &name, samples.saturating_sub(taken), why);
    }

    /// Within the time there is, which a loop that was told to end has less of.
    async fn try_push(
        &self,
        tick: &Tick<'_>,
        interval: Duration,
        duration: Duration,
    ) -> Result<TickOutcome, ServiceError> {
        let patience = patience(interval, duration);
        let pushed = async {
            self.gather(interval, left(interval, duration)).await;
            self.env.sink.push_tick(tick, patience).await
        };
        let ending = async {
            self.cancel.cancelled().await;
            tokio::time::sleep(PUSH_GRACE).await;
        };
        let late = || ServiceError::DeadlineExceeded(format!("the shards did not take it within {patience:?}"));
        tokio::select! {
            pushed = tokio::time::timeout(patience, pushed) => {
                pushed.unwrap_or_else(|_| Err(late()))
            }
            () = ending => Err(ServiceError::Cancelled),
        }
    }

    /// Waits for others that are pushed with this one, unless there are many already, or little time.
    async fn gather(&self, interval: Duration, left: Duration) {
        let Ok(_gathered) = self.env.gathered.try_acquire() else {
            return;
        };
        let wait = timing::until_pushed(self.env.clock.monotonic(), interval);
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = tokio::time::sleep(wait.min(left / 4)) => {}
        }
    }

    fn note_pushed(&self, spec: &LoopSpec, tick: &Tick<'_>, outcome: &TickOutcome) {
        let metrics = &self.env.metrics;
        metrics.samples.inc_by(outcome.samples_taken);
        if outcome.is_behind_newest() {
            let there = outcome.samples_taken + outcome.duplicates;
            self.give_up(spec, tick, there, Why::Clock);
        } else if !outcome.taken {
            metrics.ticks_refused.inc();
            debug!(target = %spec.target.shown_url, term = spec.term, "scrape refused: the target has another owner");
        }
        for refused in &outcome.refused {
            metrics
                .samples_refused
                .with_label_values(&[refusals::word(refused.reason).as_str()])
                .inc_by(refused.count);
            match refused.reason {
                Reason::OutOfOrder => metrics.out_of_order.inc_by(refused.count),
                Reason::TooOld | Reason::TooFarInFuture => metrics.out_of_bounds.inc_by(refused.count),
                Reason::DuplicateTimestamp => metrics.duplicate_timestamp.inc_by(refused.count),
                _ => {}
            }
        }
        let (pool, target) = (&spec.target.pool, &spec.target.shown_url);
        match self.refusals.lock().note(&outcome.refused, self.env.clock.monotonic()) {
            Some(Say::Refused(said)) => {
                let Said {
                    reasons,
                    count,
                    scrapes,
                    example,
                } = said;
                warn!(scrape_pool = %pool, target = %target, reasons, count, scrapes, example, "samples of scrapes refused");
            }
            Some(Say::Over { count }) => {
                info!(scrape_pool = %pool, target = %target, count, "samples of scrapes are refused no more");
            }
            None => {}
        }
    }

    fn note(&self, spec: &LoopSpec, at_ms: i64, duration: Duration, outcome: &Outcome) {
        let metrics = &self.env.metrics;
        let word = if outcome.error.is_none() { "up" } else { "down" };
        metrics.scrapes.with_label_values(&[word]).inc();
        metrics.scrape_seconds.observe(duration.as_secs_f64());
        metrics.duplicate_timestamp.inc_by(outcome.counts.duplicates);
        if outcome.counts.duplicates > 0 {
            debug!(target = %spec.target.shown_url, count = outcome.counts.duplicates, "duplicate samples dropped");
        }
        if let Some(error) = &outcome.error {
            debug!(scrape_pool = %spec.target.pool, target = %spec.target.shown_url, error, "scrape failed");
            log_failure(spec, at_ms, error);
        }
        self.state.note(at_ms, duration, outcome.error.as_deref());
    }

    fn count_refusal(&self, refusal: &Refusal) {
        let metrics = &self.env.metrics;
        match refusal {
            Refusal::SampleLimit => metrics.exceeded_sample_limit.inc(),
            Refusal::LabelLimit(_) => metrics.exceeded_label_limits.inc(),
            Refusal::BucketLimit => metrics.exceeded_bucket_limit.inc(),
            Refusal::Parse(_) => {}
        }
    }

    fn note_interval(&mut self, spec: &LoopSpec, began: Duration) {
        let Some(last) = self.last_began.replace(began) else {
            return;
        };
        let interval = spec.target.interval;
        let lengths = match self.interval_lengths.take() {
            Some((of, lengths)) if of == interval => lengths,
            _ => {
                let ms = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX);
                let all = &self.env.metrics.interval_length_seconds;
                all.with_label_values(&[format_duration_ms(ms).as_str()])
            }
        };
        lengths.observe(began.saturating_sub(last).as_secs_f64());
        self.interval_lengths = Some((interval, lengths));
    }

    fn count_series(&mut self, now: usize) {
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        self.env.metrics.cached_series.add(now - self.counted_series);
        self.counted_series = now;
    }

    /// Ticks that were due meanwhile, behind the one at work.
    fn count_skipped(&self, tick_ms: i64, interval: Duration) {
        let interval = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1);
        let late = self.env.clock.now().0.saturating_sub(tick_ms).max(0);
        self.env.metrics.ticks_skipped.inc_by((late / interval).unsigned_abs());
    }

    /// The tick is not made, nor are those that were due meanwhile.
    pub(super) fn leave_out(&self, spec: &LoopSpec, tick_ms: i64) {
        self.env.metrics.ticks_skipped.inc();
        self.count_skipped(tick_ms, spec.target.interval);
        let (pool, target) = (&spec.target.pool, &spec.target.shown_url);
        debug!(scrape_pool = %pool, %target, tick_ms, "scrape left out: this process stood still when it was due");
    }

    pub(super) fn forget(&mut self) {
        self.count_series(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_makes_way_for_the_next_scrape_and_has_some_time_after_one_that_timed_out() {
        let ms = Duration::from_millis;
        assert_eq!(patience(ms(15_000), ms(100)), ms(14_600));
        assert_eq!(patience(ms(15_000), ms(15_000)), ms(1_000));
        assert_eq!(patience(ms(1_000), ms(20)), ms(930));
        assert_eq!(patience(ms(1_000), ms(1_000)), ms(500));
        assert_eq!(patience(ms(100), ms(200)), ms(50));
    }
}
