//! Service bodies behind a gRPC listener.

use super::MAX_MESSAGE_BYTES;
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use gnomon_proto::ServiceError;
use gnomon_proto::service::{
    BlockReadService, NodesService, ResultsService, ShardReadService, ShardWriteService, TargetsService,
};
use gnomon_proto::v1::block_read_server::{BlockRead, BlockReadServer};
use gnomon_proto::v1::nodes_server::{Nodes, NodesServer};
use gnomon_proto::v1::results_server::{Results, ResultsServer};
use gnomon_proto::v1::shard_read_server::{ShardRead, ShardReadServer};
use gnomon_proto::v1::shard_write_server::{ShardWrite, ShardWriteServer};
use gnomon_proto::v1::targets_server::{Targets, TargetsServer};
use gnomon_proto::v1::{
    AppendRequest, AppendResponse, AppendThroughRequest, BlockEvaluateRequest, BlockLabelsRequest, BlockSelectRequest,
    EvaluateBatch, EvaluateRequest, ExemplarsRequest, ExemplarsResponse, GroupsRequest, GroupsResponse,
    HeadStatsRequest, HeadStatsResponse, LabelsRequest, LabelsResponse, ListTargetsRequest, ListTargetsResponse,
    MetricMetadataRequest, MetricMetadataResponse, ResultGetRequest, ResultGetResponse, ResultPutRequest,
    ResultPutResponse, SelectBatch, SelectRequest, TargetMetadataRequest, TargetMetadataResponse,
};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// A body behind a listener.
pub struct Served<S: ?Sized>(Arc<S>);

macro_rules! serve {
    ($(#[$doc:meta])* $name:ident, $service:path, $server:ident) => {
        $(#[$doc])*
        #[must_use]
        pub fn $name(service: Arc<dyn $service>) -> $server<Served<dyn $service>> {
            $server::new(Served(service))
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .max_encoding_message_size(MAX_MESSAGE_BYTES)
        }
    };
}

serve!(
    /// Appending to the shards of this node.
    shard_write_server, ShardWriteService, ShardWriteServer
);
serve!(
    /// Reading the heads of this node.
    shard_read_server, ShardReadService, ShardReadServer
);
serve!(
    /// Reading blocks for other queriers.
    block_read_server, BlockReadService, BlockReadServer
);
serve!(
    /// Results that are kept for other queriers.
    results_server, ResultsService, ResultsServer
);
serve!(
    /// The targets of this node's scraper.
    targets_server, TargetsService, TargetsServer
);
serve!(
    /// What this node tells about itself.
    nodes_server, NodesService, NodesServer
);

type Stream<T> = BoxStream<'static, Result<T, Status>>;

fn answer<T>(result: Result<T, ServiceError>) -> Result<Response<T>, Status> {
    Ok(Response::new(result?))
}

#[async_trait]
impl ShardWrite for Served<dyn ShardWriteService> {
    async fn append(&self, request: Request<AppendRequest>) -> Result<Response<AppendResponse>, Status> {
        answer(self.0.append(request.into_inner()).await)
    }

    async fn append_through(&self, request: Request<AppendThroughRequest>) -> Result<Response<AppendResponse>, Status> {
        let AppendThroughRequest { append, leader } = request.into_inner();
        answer(self.0.append_through(append.unwrap_or_default(), leader).await)
    }
}

#[async_trait]
impl ShardRead for Served<dyn ShardReadService> {
    type SelectStream = Stream<SelectBatch>;

    async fn select(&self, request: Request<SelectRequest>) -> Result<Response<Self::SelectStream>, Status> {
        let stream = self.0.select(request.into_inner()).await?;
        Ok(Response::new(stream.map(|item| item.map_err(Status::from)).boxed()))
    }

    type EvaluateStream = Stream<EvaluateBatch>;

    async fn evaluate(&self, request: Request<EvaluateRequest>) -> Result<Response<Self::EvaluateStream>, Status> {
        let stream = self.0.evaluate(request.into_inner()).await?;
        Ok(Response::new(stream.map(|item| item.map_err(Status::from)).boxed()))
    }

    async fn labels(&self, request: Request<LabelsRequest>) -> Result<Response<LabelsResponse>, Status> {
        answer(self.0.labels(request.into_inner()).await)
    }

    async fn exemplars(&self, request: Request<ExemplarsRequest>) -> Result<Response<ExemplarsResponse>, Status> {
        answer(self.0.exemplars(request.into_inner()).await)
    }

    async fn metric_metadata(
        &self,
        request: Request<MetricMetadataRequest>,
    ) -> Result<Response<MetricMetadataResponse>, Status> {
        answer(self.0.metric_metadata(request.into_inner()).await)
    }

    async fn head_stats(&self, request: Request<HeadStatsRequest>) -> Result<Response<HeadStatsResponse>, Status> {
        answer(self.0.head_stats(request.into_inner()).await)
    }
}

#[async_trait]
impl BlockRead for Served<dyn BlockReadService> {
    type SelectStream = Stream<SelectBatch>;

    async fn select(&self, request: Request<BlockSelectRequest>) -> Result<Response<Self::SelectStream>, Status> {
        let stream = self.0.select(request.into_inner()).await?;
        Ok(Response::new(stream.map(|item| item.map_err(Status::from)).boxed()))
    }

    async fn labels(&self, request: Request<BlockLabelsRequest>) -> Result<Response<LabelsResponse>, Status> {
        answer(self.0.labels(request.into_inner()).await)
    }

    type EvaluateStream = Stream<EvaluateBatch>;

    async fn evaluate(&self, request: Request<BlockEvaluateRequest>) -> Result<Response<Self::EvaluateStream>, Status> {
        let stream = self.0.evaluate(request.into_inner()).await?;
        Ok(Response::new(stream.map(|item| item.map_err(Status::from)).boxed()))
    }
}

#[async_trait]
impl Results for Served<dyn ResultsService> {
    async fn get(&self, request: Request<ResultGetRequest>) -> Result<Response<ResultGetResponse>, Status> {
        answer(self.0.get(request.into_inner()).await)
    }

    async fn put(&self, request: Request<ResultPutRequest>) -> Result<Response<ResultPutResponse>, Status> {
        answer(self.0.put(request.into_inner()).await)
    }
}

#[async_trait]
impl Targets for Served<dyn TargetsService> {
    async fn list_targets(
        &self,
        request: Request<ListTargetsRequest>,
    ) -> Result<Response<ListTargetsResponse>, Status> {
        answer(self.0.list_targets(request.into_inner()).await)
    }

    async fn target_metadata(
        &self,
        request: Request<TargetMetadataRequest>,
    ) -> Result<Response<TargetMetadataResponse>, Status> {
        answer(self.0.target_metadata(request.into_inner()).await)
    }
}

#[async_trait]
impl Nodes for Served<dyn NodesService> {
    async fn groups(&self, _: Request<GroupsRequest>) -> Result<Response<GroupsResponse>, Status> {
        answer(self.0.groups().await)
    }
}
