//! Where ticks go.

use async_trait::async_trait;
use gnomon_cluster::router::{Router, Tick, TickOutcome};
use gnomon_proto::ServiceError;
use std::time::Duration;

/// Takes scrapes; the router in production.
#[async_trait]
pub trait TickSink: Send + Sync + 'static {
    /// # Errors
    /// When the tick was not taken in time, or may not have been. Pushing it again is harmless.
    async fn push_tick(&self, tick: &Tick<'_>, deadline: Duration) -> Result<TickOutcome, ServiceError>;
}

#[async_trait]
impl TickSink for Router {
    async fn push_tick(&self, tick: &Tick<'_>, deadline: Duration) -> Result<TickOutcome, ServiceError> {
        Self::push_tick(self, tick, deadline).await
    }
}
