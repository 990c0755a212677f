//! Reading shards wherever their leaders are.

use super::Directory;
use async_trait::async_trait;
use gnomon_model::{NodeId, ShardId};
use gnomon_proto::ServiceError;
use gnomon_proto::service::{EvaluateStream, SelectStream, ShardReadService};
use gnomon_proto::v1::{
    EvaluateRequest, ExemplarsRequest, ExemplarsResponse, HeadStatsRequest, HeadStatsResponse, LabelsRequest,
    LabelsResponse, MetricMetadataRequest, MetricMetadataResponse, SelectRequest,
};
use std::sync::Arc;
use std::time::Duration;

/// Attempts of one read, leaders followed and elections waited for.
const MAX_ATTEMPTS: u32 = 12;
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const MAX_BACKOFF: Duration = Duration::from_millis(500);
/// No further attempt is made after so long: an address that swallows connections would take two seconds each time.
const PATIENCE: Duration = Duration::from_secs(3);

/// A body that sends each request to the leader of the shard it names. What a shard answers comes through as it is;
/// waiting for a leader takes about three seconds, and one more attempt to connect, at most.
pub struct ShardReads {
    directory: Arc<Directory>,
}

impl ShardReads {
    #[must_use]
    pub fn new(directory: Arc<Directory>) -> Self {
        Self { directory }
    }

    async fn at_leader<T, Asking>(
        &self,
        shard: u32,
        ask: impl Fn(Arc<dyn ShardReadService>) -> Asking,
    ) -> Result<T, ServiceError>
    where
        Asking: Future<Output = Result<T, ServiceError>>,
    {
        let shard = ShardId(shard);
        let mut backoff = FIRST_BACKOFF;
        let mut attempt = 0;
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        loop {
            attempt += 1;
            let node = self.directory.leader_of(shard)?;
            let result = match self.directory.shard_read(node) {
                Ok(service) => ask(service).await,
                Err(error) => Err(error),
            };
            let (error, hint) = match result {
                Err(ServiceError::NotLeader { leader }) => (ServiceError::NotLeader { leader }, leader.map(NodeId)),
                Err(error @ (ServiceError::Unavailable(_) | ServiceError::Unknown(_))) => (error, None),
                other => return other,
            };
            // A timer says that it is over only once it was looked at.
            let impatient = futures::poll!(patience.as_mut()).is_ready();
            if attempt >= MAX_ATTEMPTS || impatient {
                return Err(ServiceError::Unavailable(format!(
                    "shard {shard} cannot be read: {error}"
                )));
            }
            self.directory.move_leader(shard, node, hint);
            let redirected = hint.is_some_and(|hint| hint != node) && attempt <= 3;
            if !redirected {
                tokio::time::sleep(backoff.mul_f64(rand::random_range(0.5..1.0))).await;
                backoff = (backoff * 2).min(MAX_BACKOFF);
            }
        }
    }
}

#[async_trait]
impl ShardReadService for ShardReads {
    async fn select(&self, request: SelectRequest) -> Result<SelectStream, ServiceError> {
        let ask = |service: Arc<dyn ShardReadService>| {
            let request = request.clone();
            async move { service.select(request).await }
        };
        self.at_leader(request.shard, ask).await
    }

    async fn evaluate(&self, request: EvaluateRequest) -> Result<EvaluateStream, ServiceError> {
        let shard = request.select.as_ref().map_or(0, |select| select.shard);
        let ask = |service: Arc<dyn ShardReadService>| {
            let request = request.clone();
            async move { service.evaluate(request).await }
        };
        self.at_leader(shard, ask).await
    }

    async fn labels(&self, request: LabelsRequest) -> Result<LabelsResponse, ServiceError> {
        let ask = |service: Arc<dyn ShardReadService>| {
            let request = request.clone();
            async move { service.labels(request).await }
        };
        self.at_leader(request.shard, ask).await
    }

    async fn exemplars(&self, request: ExemplarsRequest) -> Result<ExemplarsResponse, ServiceError> {
        let ask = |service: Arc<dyn ShardReadService>| {
            let request = request.clone();
            async move { service.exemplars(request).await }
        };
        self.at_leader(request.shard, ask).await
    }

    async fn metric_metadata(&self, request: MetricMetadataRequest) -> Result<MetricMetadataResponse, ServiceError> {
        let ask = |service: Arc<dyn ShardReadService>| {
            let request = request.clone();
            async move { service.metric_metadata(request).await }
        };
        self.at_leader(request.shard, ask).await
    }

    async fn head_stats(&self, request: HeadStatsRequest) -> Result<HeadStatsResponse, ServiceError> {
        let ask = |service: Arc<dyn ShardReadService>| async move { service.head_stats(request).await };
        self.at_leader(request.shard, ask).await
    }
}
