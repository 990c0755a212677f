//! Sending what waits. A few at a time, and no faster than [`Pace`](super::pace::Pace) says.
//!
//! Half of the senders take only targets whose shard answers; the others also ask shards of which that is not known, each
//! by one push at a time (`lines.rs`): shards that are still away, whose pushes take all the time they may, keep no others
//! waiting.

use super::queues::{Sent, Work};
use super::segment::is_damage;
use super::tick::{self, BadTick, HeldTick};
use super::{Buffer, Place, Why};
use gnomon_cluster::blocking::blocking;
use gnomon_cluster::node::CLOCK_MAY_BE_OFF_MS;
use gnomon_cluster::router::Refused;
use gnomon_proto::ServiceError;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// Pushes that may be under way.
pub(super) const SENDERS: usize = 16;
const OF_THEM_DOUBTFUL: usize = 8;
/// How long one push may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// After one that failed at once.
const AFTER_FAILURE: Duration = Duration::from_millis(250);

/// What became of a push.
enum Pushed {
    Taken,
    Given(Why),
    Failed(ServiceError),
}

/// Why a held scrape cannot be read.
enum Unread {
    /// It may be another time.
    Later(String),
    /// By a build that knows its version.
    Newer(String),
    Damaged(String),
}

impl From<std::io::Error> for Unread {
    fn from(error: std::io::Error) -> Self {
        match is_damage(&error) {
            true => Self::Damaged(error.to_string()),
            false => Self::Later(error.to_string()),
        }
    }
}

impl From<BadTick> for Unread {
    fn from(error: BadTick) -> Self {
        match error {
            BadTick::Newer(_) => Self::Newer(error.to_string()),
            _ => Self::Damaged(error.to_string()),
        }
    }
}

impl Buffer {
    /// One sender, until `stop`.
    pub(super) async fn send_all(self: Arc<Self>, lane: usize, stop: CancellationToken) {
        let doubtful = lane < OF_THEM_DOUBTFUL;
        loop {
            let more = self.work.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            let Some(work) = self.queues.lock().next(doubtful) else {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = more => continue,
                }
            };
            let wait = self.pace.lock().take(work.held.samples, self.clock.monotonic());
            let sending = async {
                tokio::time::sleep(wait).await;
                self.send(&work).await
            };
            let sent = tokio::select! {
                // It stays where it is, and goes to disk with the rest.
                () = stop.cancelled() => return,
                sent = sending => sent,
            };
            if !matches!(sent, Sent::Done | Sent::Never) {
                self.pace.lock().give_back(work.held.samples);
            }
            let has_dead = {
                let mut queues = self.queues.lock();
                queues.sent(&work, sent);
                queues.has_dead()
            };
            self.work.notify_waiters();
            if has_dead {
                self.chores.notify_one();
            }
            if matches!(sent, Sent::Later | Sent::Unread) {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(AFTER_FAILURE) => {}
                }
            }
        }
    }

    async fn send(self: &Arc<Self>, work: &Work) -> Sent {
        let tick = match self.read(work).await {
            Ok(tick) => tick,
            Err(unread) => return self.note_unread(work, unread),
        };
        // The clock was set back since, and all others' were: no shard takes it before its time has come, and all later ones
        // would wait behind it. As plain samples it would stand among those that are right, and be older than they.
        if self.is_ahead(work.held.tick_ms) {
            return self.never(work, Why::Clock);
        }
        // What an earlier process left, or the map has changed since.
        let home = self.sink.home(&tick.as_tick());
        if home.is_some() && home != work.pass.home {
            return Sent::Moves(home);
        }
        let pushed = match tokio::time::timeout(PATIENCE, self.push(work, &tick)).await {
            Ok(pushed) => pushed,
            Err(_) => Pushed::Failed(ServiceError::DeadlineExceeded("the shards took too long".into())),
        };
        match pushed {
            Pushed::Taken => {
                self.metrics.sent.inc();
                Sent::Done
            }
            Pushed::Given(why) => self.never(work, why),
            Pushed::Failed(error) if error.may_succeed_later() => {
                debug!(%error, "a held scrape is not taken yet");
                Sent::Later
            }
            Pushed::Failed(error) => {
                let target = gnomon_model::LabelsRef::from_canonical(&work.name).to_string();
                warn!(target, %error, "a held scrape will not be taken");
                self.never(work, Why::Refused)
            }
        }
    }

    /// Whether the time of a scrape is still to come, by this node's clock, which may be behind, and by that of the metadata
    /// group's leader as well.
    fn is_ahead(&self, tick_ms: i64) -> bool {
        let leaders_ms = self.leaders_now_ms().unwrap_or(i64::MIN);
        let newest_ms = self.clock.now().0.max(leaders_ms).saturating_add(CLOCK_MAY_BE_OFF_MS);
        tick_ms > newest_ms
    }

    fn note_unread(&self, work: &Work, unread: Unread) -> Sent {
        // It may have been written to another segment while it was read.
        let now = self.queues.lock().place_of(work.target, work.held.seq).cloned();
        if now.as_ref() != Some(&work.held.place) {
            return Sent::Unread;
        }
        let target = gnomon_model::LabelsRef::from_canonical(&work.name).to_string();
        match unread {
            Unread::Later(error) => {
                self.metrics.disk_errors.inc();
                debug!(target, error, "a held scrape cannot be read now");
                Sent::Unread
            }
            Unread::Newer(error) => {
                warn!(target, error, "a held scrape is left where it is");
                Sent::Aside
            }
            Unread::Damaged(error) => {
                warn!(target, error, "a held scrape does not read back");
                self.never(work, Why::Damaged);
                Sent::Lost
            }
        }
    }

    fn never(&self, work: &Work, why: Why) -> Sent {
        self.say_lost(work.target, &work.name, 1, work.held.samples, why);
        Sent::Never
    }

    async fn read(self: &Arc<Self>, work: &Work) -> Result<HeldTick, Unread> {
        let folder = self.folder.clone();
        let place = work.held.place.clone();
        let reading = blocking(move || -> Result<HeldTick, Unread> {
            let bytes = match (&place, &folder) {
                (Place::Memory(bytes), _) => bytes.clone(),
                (Place::Disk(spot), Some(folder)) => folder.read(spot)?,
                (Place::Disk(_), None) => return Err(Unread::Later("there is no folder".to_owned())),
            };
            Ok(tick::read(&bytes)?)
        });
        reading.await.map_err(|e| Unread::Later(e.to_string()))?
    }

    async fn push(&self, work: &Work, held: &HeldTick) -> Pushed {
        let tick = held.as_tick();
        let outcome = match self.sink.push_tick(&tick, PATIENCE).await {
            Ok(outcome) => outcome,
            Err(error) => return Pushed::Failed(error),
        };
        if outcome.taken {
            self.note_refused(work, &outcome.refused);
            return Pushed::Taken;
        }
        if outcome.doubled {
            return Pushed::Given(Why::OtherOwner);
        }
        // A tick that was there, or a later one, is of this scraper, or of whoever had the target before it.
        if outcome.older_term && !self.is_sole(&work.held) {
            return Pushed::Given(Why::OtherOwner);
        }
        if outcome.is_behind_newest() {
            return Pushed::Given(Why::Clock);
        }
        let rows = self.sink.push_rows(&tick, PATIENCE).await;
        if let Some(error) = rows.retryable.or(rows.failed) {
            return Pushed::Failed(error);
        }
        if rows.taken > 0 {
            self.metrics.sent_as_rows.inc();
        }
        self.note_refused(work, &rows.refused);
        Pushed::Taken
    }

    /// Samples that shards do not take are lost for the target.
    fn note_refused(&self, work: &Work, refused: &[Refused]) {
        let samples: u64 = refused.iter().map(|one| one.count).sum();
        if samples == 0 {
            return;
        }
        for one in refused {
            debug!(
                reason = one.reason.as_str_name(),
                count = one.count,
                "samples of a held scrape refused"
            );
        }
        self.queues.lock().lost(work.target, samples);
        self.say_lost(work.target, &work.name, 0, samples, Why::Refused);
    }
}
