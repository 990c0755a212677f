//! Reading shards wherever their replicas are.

use super::Directory;
use super::replicas::Replicas;
use super::resume::{self, Series};
use async_trait::async_trait;
use gnomon_model::ShardId;
use gnomon_proto::ServiceError;
use gnomon_proto::service::{EvaluateStream, SelectStream, ShardReadService};
use gnomon_proto::v1::{
    EvaluateRequest, ExemplarsRequest, ExemplarsResponse, HeadStatsRequest, HeadStatsResponse, LabelsRequest,
    LabelsResponse, MetricMetadataRequest, MetricMetadataResponse, SelectRequest,
};
use std::sync::Arc;

/// A body that sends each request to the leader of the shard it names, or to another replica where that is away or slow,
/// also in the middle of a stream. What a shard answers comes through as it is; waiting for a replica takes about five
/// seconds, and one more attempt to connect, at most.
pub struct ShardReads {
    replicas: Arc<Replicas>,
}

impl ShardReads {
    #[must_use]
    pub fn new(directory: Arc<Directory>) -> Self {
        Self {
            replicas: Arc::new(Replicas::new(directory)),
        }
    }
}

/// One call that is answered at once.
macro_rules! at_replica {
    ($self:ident, $method:ident, $request:ident) => {{
        let ask = |service: Arc<dyn ShardReadService>, any_replica| {
            let mut request = $request.clone();
            request.any_replica = any_replica;
            async move { service.$method(request).await }
        };
        let asked = $self.replicas.ask(ShardId($request.shard), None, ask).await;
        asked.map(|(_, answer)| answer)
    }};
}

#[async_trait]
impl ShardReadService for ShardReads {
    async fn select(&self, request: SelectRequest) -> Result<SelectStream, ServiceError> {
        let (node, stream) = resume::select(&self.replicas, &request, None).await?;
        if !self.replicas.may_be_lost(ShardId(request.shard)) {
            return Ok(stream);
        }
        Ok(Series::new(Arc::clone(&self.replicas), request, node, stream).into_stream())
    }

    async fn evaluate(&self, request: EvaluateRequest) -> Result<EvaluateStream, ServiceError> {
        let shard = request.select.as_ref().map_or(0, |select| select.shard);
        let opened = resume::evaluate(&self.replicas, &request, None).await?;
        if !self.replicas.may_be_lost(ShardId(shard)) {
            return Ok(opened.1);
        }
        Ok(resume::evaluation(Arc::clone(&self.replicas), request, opened))
    }

    async fn labels(&self, request: LabelsRequest) -> Result<LabelsResponse, ServiceError> {
        at_replica!(self, labels, request)
    }

    async fn exemplars(&self, request: ExemplarsRequest) -> Result<ExemplarsResponse, ServiceError> {
        at_replica!(self, exemplars, request)
    }

    async fn metric_metadata(&self, request: MetricMetadataRequest) -> Result<MetricMetadataResponse, ServiceError> {
        at_replica!(self, metric_metadata, request)
    }

    async fn head_stats(&self, request: HeadStatsRequest) -> Result<HeadStatsResponse, ServiceError> {
        let ask = |service: Arc<dyn ShardReadService>, _| async move { service.head_stats(request).await };
        let asked = self.replicas.ask(ShardId(request.shard), None, ask).await;
        asked.map(|(_, answer)| answer)
    }
}
