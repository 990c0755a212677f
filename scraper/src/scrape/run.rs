//! The loop of one target, and what all loops share.

use super::body::{BodyBudget, TOTAL_BODY_BYTES};
use super::collect::Scratch;
use super::failure_log::FailureLog;
use super::fetch::job_headers;
use super::sink::TickSink;
use super::timing;
use super::worker::Worker;
use crate::buffer::Buffer;
use crate::client::{Carrier, ClientError, HttpClient};
use crate::config::ScrapeConfig;
use crate::hand_over::still_makes;
use crate::metrics::ScraperMetrics;
use crate::status::TargetState;
use crate::target::Target;
use gnomon_model::{Clock, TenantId};
use parking_lot::Mutex;
use reqwest::header::HeaderMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// What is kept for the next scrapes.
const MAX_SPARES: usize = 32;
const MAX_SPARE_BODY_BYTES: usize = 4 << 20;
const MAX_SPARE_SAMPLES: usize = 1 << 16;
/// So many at the end of one stretch cost no more syncs than more of them would, and are far fewer than an ingester takes at
/// once.
const MOST_GATHERED: usize = 128;
/// How long a scrape under way may go on after its loop was told to end.
const GRACE: Duration = Duration::from_secs(2);
/// How long its push may: then it waits in the buffer, for whoever empties that.
pub(super) const PUSH_GRACE: Duration = Duration::from_secs(1);

/// What all loops share.
pub(crate) struct ScrapeEnv {
    pub clock: Arc<dyn Clock>,
    pub carrier: Arc<dyn Carrier>,
    pub sink: Arc<dyn TickSink>,
    pub metrics: Arc<ScraperMetrics>,
    pub budget: Arc<BodyBudget>,
    pub buffer: Arc<Buffer>,
    pub tenant: TenantId,
    /// A scrape that begins this little after its tick gets the tick's time.
    pub timestamp_tolerance: Duration,
    /// Scrapes that wait to be pushed together: so many more go at once.
    pub(super) gathered: Semaphore,
    spares: Mutex<Vec<Spare>>,
}

/// Memory of scrapes that are over, for those that come.
#[derive(Default)]
pub(super) struct Spare {
    pub(super) scratch: Scratch,
    pub(super) body: Vec<u8>,
}

impl ScrapeEnv {
    #[must_use]
    pub(crate) fn new(
        clock: Arc<dyn Clock>,
        carrier: Arc<dyn Carrier>,
        sink: Arc<dyn TickSink>,
        metrics: Arc<ScraperMetrics>,
        buffer: Arc<Buffer>,
        tenant: TenantId,
        timestamp_tolerance: Option<Duration>,
    ) -> Self {
        Self {
            clock,
            carrier,
            sink,
            metrics,
            budget: BodyBudget::new(TOTAL_BODY_BYTES),
            buffer,
            tenant,
            timestamp_tolerance: timestamp_tolerance.unwrap_or(timing::DEFAULT_TOLERANCE),
            gathered: Semaphore::new(MOST_GATHERED),
            spares: Mutex::default(),
        }
    }

    pub(super) fn take_spare(&self) -> Spare {
        self.spares.lock().pop().unwrap_or_default()
    }

    pub(super) fn give_back(&self, mut spare: Spare) {
        spare.scratch.clear();
        if spare.body.capacity() > MAX_SPARE_BODY_BYTES {
            spare.body = Vec::new();
        }
        let mut spares = self.spares.lock();
        if spares.len() < MAX_SPARES && spare.scratch.samples.capacity() <= MAX_SPARE_SAMPLES {
            spares.push(spare);
        }
    }
}

/// How the targets of one job are scraped; a new one is made when the configuration changes.
pub(crate) struct PoolOptions {
    pub config: Arc<ScrapeConfig>,
    pub client: HttpClient,
    pub(super) headers: HeaderMap,
    pub(super) failures: Option<Arc<FailureLog>>,
}

impl PoolOptions {
    /// # Errors
    /// When the job's HTTP client cannot be made.
    pub(crate) async fn new(config: Arc<ScrapeConfig>) -> Result<Self, ClientError> {
        let client = HttpClient::new(&config.http).await?;
        Ok(Self::with(client, config))
    }

    /// As [`Self::new`], also where files of the job cannot be used, and why not: its targets are down until they can.
    ///
    /// # Errors
    /// When it is not the files that are at fault.
    pub(crate) async fn whatever_files(config: Arc<ScrapeConfig>) -> Result<(Self, Option<ClientError>), ClientError> {
        let (client, error) = HttpClient::whatever_files(&config.http).await?;
        Ok((Self::with(client, config), error))
    }

    fn with(client: HttpClient, config: Arc<ScrapeConfig>) -> Self {
        Self {
            client,
            headers: job_headers(&config),
            failures: config
                .scrape_failure_log_file
                .as_deref()
                .map(|path| Arc::new(FailureLog::new(path))),
            config,
        }
    }
}

/// What a loop does at its next tick.
#[derive(Clone)]
pub(crate) struct LoopSpec {
    pub target: Arc<Target>,
    pub options: Arc<PoolOptions>,
    /// Of the ring that gave the target to this scraper.
    pub term: u64,
    /// Whether there are, or were under the ring before, other scrapers that may have had it.
    pub is_shared: bool,
    /// In place of scraping.
    pub forced_error: Option<Arc<str>>,
    /// From then on the target is another scraper's.
    pub until_ms: Option<i64>,
}

/// A running loop. Dropping it does not end it.
pub(crate) struct ScrapeLoop {
    spec: watch::Sender<Arc<LoopSpec>>,
    pub state: Arc<TargetState>,
    cancel: CancellationToken,
}

impl ScrapeLoop {
    /// Until `from_ms` the target is another scraper's.
    pub(crate) fn start(
        env: Arc<ScrapeEnv>,
        spec: LoopSpec,
        from_ms: Option<i64>,
        parent: &CancellationToken,
        tasks: &tokio_util::task::TaskTracker,
    ) -> Self {
        let (sender, receiver) = watch::channel(Arc::new(spec));
        let state = Arc::new(TargetState::default());
        let cancel = parent.child_token();
        tasks.spawn(run(env, receiver, from_ms, Arc::clone(&state), cancel.clone()));
        Self {
            spec: sender,
            state,
            cancel,
        }
    }

    /// What the loop does from its next tick on. What it knows of the target stays where the options stay the same.
    pub(crate) fn update(&self, spec: LoopSpec) {
        self.spec.send_replace(Arc::new(spec));
    }

    #[must_use]
    pub(crate) fn spec(&self) -> Arc<LoopSpec> {
        Arc::clone(&self.spec.borrow())
    }

    /// Only ticks before that time, under the term there is now; then it ends. It cannot be changed any more, and goes on
    /// when this is dropped.
    pub(crate) fn hand_over(&self, until_ms: i64) {
        self.spec.send_modify(|spec| {
            let until_ms = spec.until_ms.or(Some(until_ms));
            *spec = Arc::new(LoopSpec {
                until_ms,
                ..(**spec).clone()
            });
        });
    }

    /// No more ticks. The shards find out by themselves that the target is gone.
    pub(crate) fn stop(&self) {
        self.cancel.cancel();
    }
}

/// At least so late is what a process that stood still makes.
const LONG_OVER: Duration = Duration::from_secs(1);

async fn run(
    env: Arc<ScrapeEnv>,
    mut specs: watch::Receiver<Arc<LoopSpec>>,
    from_ms: Option<i64>,
    state: Arc<TargetState>,
    cancel: CancellationToken,
) {
    let mut worker = Worker::new(Arc::clone(&env), state, &specs.borrow().clone(), cancel.clone());
    let mut has_skipped = false;
    loop {
        let spec = Arc::clone(&specs.borrow_and_update());
        let tick_ms = worker.next_tick(&spec, from_ms);
        if spec
            .until_ms
            .is_some_and(|until| !still_makes(tick_ms, until, env.clock.now().0))
        {
            break;
        }
        tokio::select! {
            biased;
            () = cancel.cancelled() => break,
            // Before a change that came meanwhile: the tick was this scraper's when it was due.
            is_due = sleep_until(&*env.clock, tick_ms) => if !is_due {
                continue;
            },
            changed = specs.changed(), if spec.until_ms.is_none() => match changed {
                // Where only the timer is late, the tick is due.
                Ok(()) if env.clock.now().0 >= tick_ms => {}
                Ok(()) => continue,
                Err(_) => break,
            },
        }
        // A process that stood still: another scraper may have the target by now, of which more is known an instant later. Not
        // twice, or on a machine that is always so late nothing would be scraped.
        has_skipped = !has_skipped && is_long_over(tick_ms, &spec, env.clock.now().0);
        if has_skipped {
            worker.leave_out(&spec, tick_ms);
            continue;
        }
        let end = async {
            cancel.cancelled().await;
            tokio::time::sleep(GRACE).await;
        };
        tokio::select! {
            () = worker.scrape(&spec, tick_ms) => {}
            () = end => break,
        }
    }
    worker.forget();
}

/// Whether the next tick is due as well, and the machine is not just a little late.
fn is_long_over(tick_ms: i64, spec: &LoopSpec, now_ms: i64) -> bool {
    let late = Duration::from_millis(u64::try_from(now_ms.saturating_sub(tick_ms)).unwrap_or(0));
    late >= spec.target.interval.max(LONG_OVER)
}

/// Waits for a time of the wall clock. Whether it has come: else the clock was set back, and the time may be long after the
/// next tick.
async fn sleep_until(clock: &dyn Clock, at_ms: i64) -> bool {
    let mut least_ms = i64::MAX;
    loop {
        let left_ms = at_ms.saturating_sub(clock.now().0);
        if left_ms <= 0 || left_ms > least_ms {
            return left_ms <= 0;
        }
        least_ms = left_ms;
        tokio::time::sleep(Duration::from_millis(left_ms.unsigned_abs().min(60_000))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::{ManualClock, TimestampMs};

    #[tokio::test]
    async fn a_clock_that_is_set_back_keeps_no_tick_waiting_for_long() {
        let clock = Arc::new(ManualClock::at(TimestampMs(300_000)));
        let waiting = tokio::spawn({
            let clock = Arc::clone(&clock);
            async move { sleep_until(&*clock, 300_050).await }
        });
        tokio::task::yield_now().await;
        clock.set_wall(TimestampMs(0));
        assert!(!waiting.await.unwrap(), "five minutes are left");
        assert!(sleep_until(&*clock, 0).await, "that time has come");
    }
}
