//! What the router tells about itself.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

#[derive(Clone, Debug)]
pub(super) struct RouterMetrics {
    pub(super) cache_hits: IntCounter,
    pub(super) cache_misses: IntCounter,
    pub(super) cache_series: IntGauge,
    pub(super) batches: IntCounter,
    pub(super) batch_bytes: IntCounter,
    pub(super) resends: IntCounter,
    /// By the reason of the attempt before.
    pub(super) retries: IntCounterVec,
}

impl RouterMetrics {
    /// # Errors
    /// When `registry` has metrics of these names already.
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let cache_series = IntGauge::new(
            "gnomon_router_cache_series",
            "Series whose shard and reference are known.",
        )?;
        registry.register(Box::new(cache_series.clone()))?;
        let retries = IntCounterVec::new(
            Opts::new("gnomon_router_retries_total", "Batches sent again, by why."),
            &["reason"],
        )?;
        registry.register(Box::new(retries.clone()))?;
        Ok(Self {
            cache_hits: counter("gnomon_router_cache_hits_total", "Series found in the router's cache.")?,
            cache_misses: counter("gnomon_router_cache_misses_total", "Series sent with labels.")?,
            cache_series,
            batches: counter(
                "gnomon_router_batches_total",
                "Batches sent to shards, retries not counted.",
            )?,
            batch_bytes: counter(
                "gnomon_router_batch_bytes_total",
                "Bytes of the batches sent to shards.",
            )?,
            resends: counter(
                "gnomon_router_resends_total",
                "Batches made again because the shard did not know a reference.",
            )?,
            retries,
        })
    }
}
