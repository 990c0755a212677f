//! What the store tells about itself.

use super::StoreError;
use gnomon_model::Clock;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntGauge, Registry, exponential_buckets};
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone)]
pub(super) struct StoreMetrics {
    clock: Arc<dyn Clock>,
    fsyncs: IntCounter,
    fsync_seconds: Histogram,
    batch_bytes: Histogram,
    batch_submissions: Histogram,
    bytes: IntCounter,
    pub(super) failures: IntCounter,
    pub(super) reopens: IntCounter,
    pub(super) damaged: IntCounter,
    pub(super) free_bytes: IntGauge,
    pub(super) low_disk: IntGauge,
    pub(super) trouble: IntGauge,
}

/// Registers a metric; one that is registered twice (two stores in one registry) is kept unregistered.
pub(crate) fn register<M: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    metric: prometheus::Result<M>,
) -> prometheus::Result<M> {
    let metric = metric?;
    if let Err(error) = registry.register(Box::new(metric.clone())) {
        tracing::debug!(%error, "metric is not registered");
    }
    Ok(metric)
}

fn histogram(name: &str, help: &str, start: f64, factor: f64, count: usize) -> prometheus::Result<Histogram> {
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(exponential_buckets(start, factor, count)?))
}

impl StoreMetrics {
    pub(super) fn new(registry: &Registry, clock: Arc<dyn Clock>) -> Result<Self, StoreError> {
        Self::register(registry, clock).map_err(|error| StoreError::Engine {
            operation: "metrics",
            message: error.to_string(),
        })
    }

    /// Monotonic.
    pub(super) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    fn register(registry: &Registry, clock: Arc<dyn Clock>) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| register(registry, IntCounter::new(name, help));
        let gauge = |name: &str, help: &str| register(registry, IntGauge::new(name, help));
        Ok(Self {
            clock,
            fsyncs: counter(
                "gnomon_store_fsyncs_total",
                "Synced batches written to the node's store.",
            )?,
            fsync_seconds: register(
                registry,
                histogram(
                    "gnomon_store_sync_seconds",
                    "Time to write and sync one batch.",
                    0.000_25,
                    2.0,
                    14,
                ),
            )?,
            batch_bytes: register(
                registry,
                histogram(
                    "gnomon_store_batch_bytes",
                    "Bytes of log and votes in one batch.",
                    256.0,
                    4.0,
                    9,
                ),
            )?,
            batch_submissions: register(
                registry,
                histogram(
                    "gnomon_store_batch_submissions",
                    "Writes of groups that shared one batch.",
                    1.0,
                    2.0,
                    11,
                ),
            )?,
            bytes: counter(
                "gnomon_store_log_bytes_total",
                "Bytes of log and votes written to the node's store.",
            )?,
            failures: counter("gnomon_store_failures_total", "Writes of the node's store that failed.")?,
            reopens: counter(
                "gnomon_store_reopens_total",
                "Times the node's store was reopened after a failure.",
            )?,
            damaged: counter(
                "gnomon_store_wal_damaged_total",
                "Times the write-ahead log was found damaged before its end when the node's store was opened.",
            )?,
            free_bytes: gauge(
                "gnomon_store_free_bytes",
                "Free bytes of the file system of the data folder.",
            )?,
            low_disk: gauge(
                "gnomon_store_low_disk",
                "1 while writes are refused since free space is below the watermark.",
            )?,
            trouble: gauge(
                "gnomon_store_unwritable",
                "1 while the data folder cannot be written: the disk is full, read-only or broken.",
            )?,
        })
    }

    pub(super) fn timed<T>(&self, sync: bool, write: impl FnOnce() -> T) -> T {
        let start = self.clock.monotonic();
        let result = write();
        if sync {
            self.fsyncs.inc();
            let taken = self.clock.monotonic().saturating_sub(start);
            self.fsync_seconds.observe(taken.as_secs_f64());
        }
        result
    }

    pub(super) fn batch(&self, bytes: usize, submissions: usize) {
        self.bytes.inc_by(bytes as u64);
        self.batch_bytes.observe(bytes as f64);
        self.batch_submissions.observe(submissions as f64);
    }
}
