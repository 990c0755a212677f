//! From identified samples to shards: who calls it (scrapers, remote write) gives series by identity, the router finds
//! shard and reference, encodes one batch per shard, sends them to the shards' leaders and says what became of it.
//!
//! A series that is known costs a lookup (one that is scraped not even that, see `memo.rs`) and its bytes in the batch; one
//! that is not costs its labels once. Nothing here is durable: a router that starts empty sends labels.
//!
//! Invariant: a batch is encoded once; retries send the same bytes. Only references that a shard does not know make it
//! encode again.

mod cache;
mod chunk;
mod memo;
mod metrics;
mod names;
mod reroute;
mod resend;
mod rows;
mod send;
#[cfg(test)]
mod tests;
mod tick;
mod types;

pub use chunk::MAX_ITEM_BYTES;
pub use memo::TickMemo;
pub use rows::RouterBatch;
pub use send::{Heard, ShardWriter, ShardWriters};
pub use types::{
    LabelSource, MetricInfo, Refused, SeriesIdentity, Tick, TickExemplar, TickHistogram, TickOutcome, TickSample,
    WriteOutcome, is_exemplar_kept,
};

use crate::placement::Placement;
use cache::SeriesCache;
use gnomon_model::TenantId;
use gnomon_proto::ServiceError;
use metrics::RouterMetrics;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tick::{TargetShards, TickScratch};
use tokio::sync::watch;
use tower::retry::budget::TpsBudget;

/// What a router may use.
#[derive(Clone, Debug)]
pub struct RouterOptions {
    /// Series kept in the cache; about 40 bytes each.
    pub max_cached_series: usize,
    /// How long one attempt may take before another replica is asked.
    pub attempt_timeout: Duration,
    /// Retries per second that are always allowed; beyond them a fifth of all sends.
    pub retries_per_second: u32,
}

impl Default for RouterOptions {
    fn default() -> Self {
        Self {
            max_cached_series: 4 << 20,
            attempt_timeout: Duration::from_secs(5),
            retries_per_second: 20,
        }
    }
}

/// One per process, shared by all who write.
pub struct Router {
    options: RouterOptions,
    placement: watch::Receiver<Arc<Placement>>,
    writers: Arc<dyn ShardWriters>,
    cache: SeriesCache,
    targets: TargetShards,
    scratches: Mutex<Vec<TickScratch>>,
    budget: TpsBudget,
    metrics: RouterMetrics,
    /// Somebody gave start timestamps.
    has_starts: AtomicBool,
}

impl Router {
    /// # Errors
    /// When `registry` has a router's metrics already.
    pub fn new(
        options: RouterOptions,
        placement: watch::Receiver<Arc<Placement>>,
        writers: Arc<dyn ShardWriters>,
        registry: &prometheus::Registry,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self {
            cache: SeriesCache::new(options.max_cached_series),
            targets: TargetShards::default(),
            scratches: Mutex::default(),
            budget: TpsBudget::new(Duration::from_secs(10), options.retries_per_second, 0.2),
            metrics: RouterMetrics::register(registry)?,
            has_starts: AtomicBool::new(false),
            options,
            placement,
            writers,
        })
    }

    /// Begins a write of rows. `labels` answers for the series of this batch until it is sent.
    #[must_use]
    pub fn batch<'a>(&'a self, tenant: &'a TenantId, labels: &'a dyn LabelSource) -> RouterBatch<'a> {
        RouterBatch::new(self, tenant, labels)
    }

    /// Sends one scrape to every shard that has series of the target. Retries until `deadline` (which should be about
    /// the scrape interval).
    ///
    /// # Errors
    /// When a shard gave no answer in time or refused the call; other shards may have taken their part. Sending the
    /// same tick again is harmless, so is going on with the next.
    pub async fn push_tick(&self, tick: &Tick<'_>, deadline: Duration) -> Result<TickOutcome, ServiceError> {
        tick::push(self, tick, deadline).await
    }

    /// Notes that there are start timestamps.
    #[inline]
    fn saw_start(&self) {
        // Read mostly: whoever writes the flag anew would take the line from all others.
        if !self.has_starts.load(Ordering::Relaxed) {
            self.has_starts.store(true, Ordering::Relaxed);
        }
    }

    /// Whether all nodes understand start timestamps: they are left out of what is sent until then.
    #[must_use]
    pub fn keeps_starts(&self) -> bool {
        self.placement.borrow().keeps_starts()
    }

    /// Whether there were start timestamps, and they are left out.
    fn leaves_out_starts(&self) -> bool {
        self.has_starts.load(Ordering::Relaxed) && !self.keeps_starts()
    }

    fn count(&self, hits: u64, misses: u64) {
        self.metrics.cache_hits.inc_by(hits);
        self.metrics.cache_misses.inc_by(misses);
        if misses > 0 {
            self.metrics.cache_series.set(self.cache.len() as i64);
        }
    }
}
