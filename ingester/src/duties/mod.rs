//! What a shard's leader does beside answering: seals windows, uploads parts, takes deletes into the log, gives up targets
//! that went silent, keeps the shard's time to what its placement epoch says.
//!
//! Nothing here decides anything by itself: every step is a log entry or a commit of the catalogue, which may fail
//! because another leader was faster, and is then looked at afresh.

mod deletes;
mod epochs;
mod expire;
mod extras;
mod seal;
#[cfg(test)]
mod tests;
mod upload;

pub use upload::UploadError;

use crate::metrics::IngesterMetrics;
use crate::service::Shard;
use crate::shard::entry::Limits;
use gnomon_cluster::node::{Claim, Jumps};
use gnomon_cluster::retention::Budget;
use gnomon_model::Clock;
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::MetaState;
use gnomon_tsdb::block::PART_BYTES;
use object_store::ObjectStore;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Debug)]
pub struct DutyOptions {
    /// How often a leader looks around.
    pub interval: Duration,
    /// A window is sealed this long after its end, by the shard's newest sample or the leader's clock.
    pub seal_after_ms: u64,
    /// A window that is due is sealed once nothing came for so long.
    pub quiet: Duration,
    /// A window that is due is sealed after so long, whatever comes.
    pub patience: Duration,
    /// A window with more samples than this is due before its end.
    pub max_window_samples: u64,
    /// After a failed upload; doubled with each further failure, up to 32 times.
    pub retry_after: Duration,
    /// Larger objects are uploaded in parts of so many bytes.
    pub part_bytes: usize,
}

impl Default for DutyOptions {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(5),
            seal_after_ms: Limits::default().out_of_order_ms,
            quiet: Duration::from_secs(60),
            patience: Duration::from_secs(15 * 60),
            max_window_samples: 500_000_000,
            retry_after: Duration::from_secs(2),
            part_bytes: PART_BYTES,
        }
    }
}

/// What the duties of a node's shards are done with.
#[derive(Clone)]
pub struct DutyContext {
    pub options: DutyOptions,
    pub meta: Arc<dyn MetaService>,
    /// The newest state of it that was seen.
    pub states: watch::Receiver<Arc<MetaState>>,
    pub bucket: Arc<dyn ObjectStore>,
    /// Whether it may be written to; none: it always may.
    pub claim: Option<Arc<Claim>>,
    pub budget: Budget,
    pub clock: Arc<dyn Clock>,
    pub metrics: IngesterMetrics,
}

/// The duties of one shard, as far as this node leads it.
pub struct Duties {
    context: DutyContext,
    shard: Arc<Shard>,
    /// Monotonic time at which this node was first seen leading.
    leading_since: Option<Duration>,
    /// Of this node's clock.
    jumps: Jumps,
    watched: seal::WatchedWindows,
    uploads: upload::Backoff,
    /// Whether this leader has seen to it that parts are numbered after those that the catalogue has.
    has_own_numbers: bool,
}

impl Duties {
    #[must_use]
    pub fn new(context: DutyContext, shard: Arc<Shard>) -> Self {
        Self {
            context,
            shard,
            leading_since: None,
            jumps: Jumps::default(),
            watched: seal::WatchedWindows::default(),
            uploads: upload::Backoff::default(),
            has_own_numbers: false,
        }
    }

    /// Runs until it is stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut states = self.context.states.clone();
        let mut is_watched = true;
        let interval = self.context.options.interval;
        let mut next_round = self.context.clock.monotonic() + interval;
        while !stop.is_cancelled() {
            let until_next = next_round.saturating_sub(self.context.clock.monotonic());
            let is_due = tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(until_next) => true,
                changed = states.changed(), if is_watched => {
                    is_watched = changed.is_ok();
                    false
                }
            };
            let work = async {
                // Whoever deletes waits for the logs of all shards.
                self.take_deletes().await;
                // And whoever writes, for what the shards of another epoch own.
                self.follow_epochs().await;
                if is_due {
                    self.round().await;
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = work => {}
            }
            if is_due {
                next_round = self.context.clock.monotonic() + interval;
            }
        }
    }

    /// Looks once at what is due.
    pub async fn round(&mut self) {
        self.show();
        self.follow_epochs().await;
        if !self.shard.log.is_leader() || !self.shard.machine.is_sound() {
            self.leading_since = None;
            self.watched = seal::WatchedWindows::default();
            self.has_own_numbers = false;
            return;
        }
        let now = self.context.clock.monotonic();
        self.expire_targets().await;
        self.take_deletes().await;
        if self.number_parts().await {
            self.seal_due_windows(now).await;
        }
        self.upload_parts(now).await;
        self.end_shard().await;
    }

    fn show(&self) {
        let (series, parts, bytes) = self.shard.machine.read(|state| {
            let parts: usize = state.tenants.values().map(|t| t.head.sealed.len()).sum();
            (state.series_count(), parts, state.sealed_bytes())
        });
        let shard = self.shard.id().to_string();
        let labels = &[shard.as_str()];
        let metrics = &self.context.metrics;
        metrics.series.with_label_values(labels).set(series as i64);
        metrics.sealed_parts.with_label_values(labels).set(parts as i64);
        metrics.sealed_bytes.with_label_values(labels).set(bytes as i64);
    }
}
