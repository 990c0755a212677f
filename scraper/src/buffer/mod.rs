//! Scrapes that wait for their shards: what could not be pushed when it was made, and what came after it.
//!
//! A scrape loop pushes by itself as long as its shards take it. One that could not be pushed before the next tick is held
//! here, and so is all that the target exposes from then on, until it is its turn (`queues.rs`): first in memory, then on
//! disk (`segment.rs`, `spill.rs`), each within a budget. `drain.rs` sends it, oldest first for each target. A tick keeps
//! its own time, so that shards decide on staleness as they would have.
//!
//! Invariant: what is given up is counted, in all and by target.
//! Invariant: a scrape that shards refuse as a tick is offered as plain samples, which have no say in staleness, only
//! where nobody else can have scraped the target then ([`Terms`]), and the shards have no later one.
//! Invariant: none is given up for this node's clock alone, which may be wrong now as well as it may have been then.

mod drain;
mod lines;
mod metrics;
mod pace;
mod queues;
mod segment;
mod spill;
#[cfg(test)]
mod tests;
mod tick;

pub(crate) use metrics::{BufferMetrics, Why};
pub(crate) use queues::OfTarget;

use crate::ring::Terms;
use crate::scrape::TickSink;
use bytes::Bytes;
use gnomon_cluster::blocking::blocking;
use gnomon_cluster::router::Tick;
use gnomon_model::{Clock, LabelsRef, TargetId};
use hashbrown::HashMap;
use pace::Pace;
use parking_lot::Mutex;
use queues::{Held, Limits, Name, Place, Queues, Shed};
use segment::Folder;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

/// A target's log line says what was shed since the one before.
const LOG_EVERY: Duration = Duration::from_secs(60);
/// Targets whose last line is remembered.
const MAX_LOGGED: usize = 10_000;

/// What scrapes may take that wait for their shards.
#[derive(Clone, Debug)]
pub struct BufferOptions {
    /// 0: nothing waits, and what cannot be pushed is lost at once.
    pub memory_bytes: u64,
    /// Where what does not fit waits, and what is left at a stop; none: memory is all.
    pub folder: Option<PathBuf>,
    /// 0 is no disk.
    pub disk_bytes: u64,
    /// When this node was sure to be in the ring.
    pub terms: watch::Receiver<Terms>,
}

impl BufferOptions {
    /// Nothing waits.
    #[must_use]
    pub fn none() -> Self {
        Self {
            memory_bytes: 0,
            folder: None,
            disk_bytes: 0,
            terms: watch::channel(Terms::default()).1,
        }
    }
}

/// Samples that a target lost since its last log line.
struct Unsaid {
    said_at: Duration,
    samples: u64,
}

/// The scrapes of one process that wait.
pub(crate) struct Buffer {
    queues: Mutex<Queues>,
    pace: Mutex<Pace>,
    /// There is something to send.
    work: Notify,
    /// There is something to write to disk, or to remove.
    chores: Notify,
    /// What an earlier process left is not known yet: everything waits behind it.
    is_loading: AtomicBool,
    folder: Option<Folder>,
    spill_bytes: u64,
    sink: Arc<dyn TickSink>,
    clock: Arc<dyn Clock>,
    terms: watch::Receiver<Terms>,
    /// The latest time of the metadata group's leader that is known, and when, by the clock that does not jump, it was seen.
    leaders_time: Mutex<Option<(i64, Duration)>>,
    unsaid: Mutex<HashMap<TargetId, Unsaid>>,
    metrics: BufferMetrics,
}

impl Buffer {
    pub(crate) fn new(
        options: BufferOptions,
        sink: Arc<dyn TickSink>,
        clock: Arc<dyn Clock>,
        metrics: BufferMetrics,
    ) -> Self {
        let folder = options.folder.as_ref().filter(|_| options.disk_bytes > 0);
        let folder = folder.and_then(|path| match Folder::open(path) {
            Ok(folder) => Some(folder),
            Err(error) => {
                warn!(folder = %path.display(), %error, "scrapes that wait cannot be kept on disk: memory is all");
                metrics.disk_errors.inc();
                None
            }
        });
        let limits = Limits {
            memory_bytes: options.memory_bytes,
            disk_bytes: folder.as_ref().map_or(0, |_| options.disk_bytes),
        };
        // Above all that earlier processes gave, unless the clock was set back: then what is left is sent later.
        let first_seq = u64::try_from(clock.now().0).unwrap_or(0) << 20;
        Self {
            queues: Mutex::new(Queues::new(limits, first_seq)),
            pace: Mutex::new(Pace::new(clock.monotonic())),
            work: Notify::new(),
            chores: Notify::new(),
            is_loading: AtomicBool::new(folder.as_ref().is_some_and(Folder::has_segments)),
            spill_bytes: spill::segment_bytes(limits),
            folder,
            sink,
            clock,
            terms: options.terms,
            leaders_time: Mutex::new(None),
            unsaid: Mutex::default(),
            metrics,
        }
    }

    /// Starts what sends, and what writes to disk.
    pub(crate) fn start(self: &Arc<Self>, stop: &CancellationToken, tasks: &TaskTracker) {
        let (own, stop) = (Arc::clone(self), stop.clone());
        let senders = tasks.clone();
        tasks.spawn(async move {
            if own.is_loading.load(Ordering::Acquire) {
                own.load().await;
            }
            for lane in 0..drain::SENDERS {
                senders.spawn(Arc::clone(&own).send_all(lane, stop.clone()));
            }
            own.do_chores(stop).await;
        });
    }

    /// Whether scrapes of the target wait: then a new one has to wait behind them.
    pub(crate) fn holds(&self, target: TargetId) -> bool {
        self.is_loading.load(Ordering::Acquire) || self.queues.lock().holds(target)
    }

    pub(crate) fn of(&self, target: TargetId) -> OfTarget {
        self.queues.lock().of(target)
    }

    /// Holds a scrape until its shards take it.
    pub(crate) fn hold(&self, tick: &Tick<'_>) {
        let samples = (tick.samples.len() + tick.histograms.len()) as u64;
        let name: Name = tick.target_labels.as_bytes().into();
        let bytes = match tick::write(tick, self.sink.keeps_starts()) {
            Ok(bytes) => bytes,
            Err(error) => {
                warn!(target = %LabelsRef::from_canonical(&name), %error, "scrape not held");
                return self.give_up(tick.target, &name, samples, Why::Refused);
            }
        };
        self.metrics.held.inc();
        self.pace.lock().came(samples, self.clock.monotonic());
        let held = Held {
            seq: 0,
            term: tick.term,
            tick_ms: tick.tick_ms,
            samples,
            sole: false,
            place: Place::Memory(bytes),
        };
        let home = self.sink.home(tick);
        let (shed, spills) = {
            let mut queues = self.queues.lock();
            let shed = queues.add(tick.target, &name, home, held);
            (shed, queues.wants_to_spill() || queues.has_dead())
        };
        self.count_shed(&shed);
        self.work.notify_waiters();
        if spills {
            self.chores.notify_one();
        }
    }

    /// Counts a scrape that is not held any more, and never was.
    pub(crate) fn give_up(&self, target: TargetId, name: &Name, samples: u64, why: Why) {
        self.queues.lock().lost(target, samples);
        self.say_lost(target, name, 1, samples, why);
    }

    fn count_shed(&self, shed: &[Shed]) {
        for one in shed {
            self.say_lost(one.target, &one.name, one.ticks, one.samples, Why::Budget);
        }
    }

    /// Counts, and logs where the target's last line is long enough ago.
    fn say_lost(&self, target: TargetId, name: &Name, ticks: u64, samples: u64, why: Why) {
        let reason = [why.as_str()];
        self.metrics.shed_ticks.with_label_values(&reason).inc_by(ticks);
        self.metrics.shed_samples.with_label_values(&reason).inc_by(samples);
        let now = self.clock.monotonic();
        let mut unsaid = self.unsaid.lock();
        let samples = match unsaid.get_mut(&target) {
            Some(last) if now.saturating_sub(last.said_at) < LOG_EVERY => {
                last.samples += samples;
                return;
            }
            Some(last) => samples + last.samples,
            None => samples,
        };
        if unsaid.len() >= MAX_LOGGED {
            unsaid.retain(|_, last| now.saturating_sub(last.said_at) < LOG_EVERY);
        }
        let said = Unsaid {
            said_at: now,
            samples: 0,
        };
        if unsaid.len() < MAX_LOGGED {
            unsaid.insert(target, said);
        }
        let target = LabelsRef::from_canonical(name).to_string();
        warn!(target, samples, reason = why.as_str(), "samples of scrapes given up");
    }

    /// Writes what is left to disk; what cannot be is said. After everything else has ended.
    pub(crate) async fn close(self: &Arc<Self>) {
        self.save_all().await;
        let left = self.queues.lock().totals();
        let lost = left.ticks.saturating_sub(self.on_disk());
        if lost > 0 {
            warn!(
                ticks = lost,
                "scrapes that waited for their shards are lost with this process: they are not on disk"
            );
        } else if left.ticks > 0 {
            tracing::info!(
                ticks = left.ticks,
                "scrapes that wait for their shards are on disk: the next start sends them"
            );
        }
    }

    fn on_disk(&self) -> u64 {
        self.queues.lock().on_disk()
    }

    /// Whether nobody else can have scraped the target when this was made.
    fn is_sole(&self, held: &Held) -> bool {
        held.sole || self.terms.borrow().covers(held.term, held.tick_ms)
    }

    /// What the clock of the metadata group's leader shows now, milliseconds, or somewhat less: by when it last renewed this
    /// node's lease. None where it has not yet.
    fn leaders_now_ms(&self) -> Option<i64> {
        let latest_ms = self.terms.borrow().latest_ms()?;
        let now = self.clock.monotonic();
        let mut seen = self.leaders_time.lock();
        let (_, at) = match *seen {
            Some(known) if known.0 == latest_ms => known,
            _ => *seen.insert((latest_ms, now)),
        };
        let since_ms = i64::try_from(now.saturating_sub(at).as_millis()).unwrap_or(i64::MAX);
        Some(latest_ms.saturating_add(since_ms))
    }

    /// The bytes of a scrape, and from disk where they are there.
    async fn bytes_of(self: &Arc<Self>, place: &Place) -> std::io::Result<Bytes> {
        match place {
            Place::Memory(bytes) => Ok(bytes.clone()),
            Place::Disk(spot) => {
                let folder = self
                    .folder
                    .clone()
                    .ok_or_else(|| std::io::Error::other("there is no folder"))?;
                let spot = *spot;
                blocking(move || folder.read(&spot)).await?
            }
        }
    }
}
