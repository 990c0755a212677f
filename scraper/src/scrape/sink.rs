//! Where ticks go.

use async_trait::async_trait;
use gnomon_cluster::router::{Router, Tick, TickOutcome, WriteOutcome};
use gnomon_proto::ServiceError;
use std::time::Duration;

/// Takes scrapes; the router in production.
#[async_trait]
pub trait TickSink: Send + Sync + 'static {
    /// # Errors
    /// When the tick was not taken in time, or may not have been. Pushing it again is harmless.
    async fn push_tick(&self, tick: &Tick<'_>, deadline: Duration) -> Result<TickOutcome, ServiceError>;

    /// Hands in the samples of a tick as remote write's are: whether a series or the target is gone is not told by them,
    /// and those that are there already are taken for what they are.
    async fn push_rows(&self, tick: &Tick<'_>, deadline: Duration) -> WriteOutcome;

    /// The shard without which the tick is not taken, where that is known: ticks of one shard fail together.
    fn home(&self, _tick: &Tick<'_>) -> Option<u32> {
        None
    }

    /// Whether start timestamps are taken. Where they are not, some nodes may go back to a build that cannot read them: none
    /// are kept for later either.
    fn keeps_starts(&self) -> bool {
        true
    }
}

#[async_trait]
impl TickSink for Router {
    async fn push_tick(&self, tick: &Tick<'_>, deadline: Duration) -> Result<TickOutcome, ServiceError> {
        Self::push_tick(self, tick, deadline).await
    }

    async fn push_rows(&self, tick: &Tick<'_>, deadline: Duration) -> WriteOutcome {
        let mut batch = self.batch(tick.tenant, tick.labels);
        for sample in tick.samples {
            batch.series(sample.identity, sample.series);
            batch.since(sample.start_ms);
            batch.sample(sample.timestamp_ms, sample.value);
        }
        for histogram in tick.histograms {
            batch.series(histogram.identity, histogram.series);
            batch.since(histogram.start_ms);
            batch.histogram(histogram.timestamp_ms, &histogram.encoded);
        }
        for exemplar in tick.exemplars {
            batch.series(exemplar.identity, exemplar.series);
            batch.exemplar(exemplar.timestamp_ms, exemplar.value, exemplar.labels.as_ref());
        }
        batch.send(deadline).await
    }

    fn home(&self, tick: &Tick<'_>) -> Option<u32> {
        Self::home(self, tick).map(|shard| shard.0)
    }

    fn keeps_starts(&self) -> bool {
        Self::keeps_starts(self)
    }
}
