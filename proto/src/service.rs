//! The calls that roles make of each other. Each trait has a local body (the role itself), a remote one (a gRPC
//! channel, in `lib/cluster`), and doubles in tests; callers cannot tell which they hold.

use crate::ServiceError;
use crate::v1::{
    AppendRequest, AppendResponse, BlockEvaluateRequest, BlockLabelsRequest, BlockSelectRequest, EvaluateBatch,
    EvaluateRequest, ExemplarsRequest, ExemplarsResponse, GroupsResponse, HeadStatsRequest, HeadStatsResponse,
    LabelsRequest, LabelsResponse, ListTargetsRequest, ListTargetsResponse, MetaCommand, MetaResponse, MetaState,
    MetricMetadataRequest, MetricMetadataResponse, ResultGetRequest, ResultGetResponse, ResultPutRequest,
    ResultPutResponse, SelectBatch, SelectRequest, TargetMetadataRequest, TargetMetadataResponse,
};
use async_trait::async_trait;
use futures::stream::BoxStream;
use std::sync::Arc;

/// Appending to a shard. Only its leader takes it; the answer comes after the entry is committed and applied.
#[async_trait]
pub trait ShardWriteService: Send + Sync + 'static {
    async fn append(&self, request: AppendRequest) -> Result<AppendResponse, ServiceError>;
    /// As `append`, of whoever does not reach the leader: a replica that takes the same node for it passes the batch on.
    /// `NotLeader` where another leads, or it does not reach it either.
    async fn append_through(&self, request: AppendRequest, _leader: u64) -> Result<AppendResponse, ServiceError> {
        self.append(request).await
    }
}

/// A stream of series batches, ascending by labels over the whole stream.
pub type SelectStream = BoxStream<'static, Result<SelectBatch, ServiceError>>;

/// A stream of pieces of an answer.
pub type EvaluateStream = BoxStream<'static, Result<EvaluateBatch, ServiceError>>;

/// Reading a shard's head: whatever the caller's view does not take from blocks, at one applied index that is not
/// older than any acknowledgement given before the call.
#[async_trait]
pub trait ShardReadService: Send + Sync + 'static {
    /// # Errors
    /// `StaleView` where the head has dropped a part in the range that the view does not name.
    async fn select(&self, request: SelectRequest) -> Result<SelectStream, ServiceError>;
    /// Evaluates a part of a query; what is read is what `select` would give.
    ///
    /// # Errors
    /// As `select`; `Invalid`, also later on, where it cannot be evaluated apart.
    async fn evaluate(&self, _request: EvaluateRequest) -> Result<EvaluateStream, ServiceError> {
        Err(ServiceError::Invalid("fragments are not evaluated here".to_owned()))
    }
    async fn labels(&self, request: LabelsRequest) -> Result<LabelsResponse, ServiceError>;
    async fn exemplars(&self, request: ExemplarsRequest) -> Result<ExemplarsResponse, ServiceError>;
    async fn metric_metadata(&self, request: MetricMetadataRequest) -> Result<MetricMetadataResponse, ServiceError>;
    async fn head_stats(&self, request: HeadStatsRequest) -> Result<HeadStatsResponse, ServiceError>;
}

/// Reading blocks for other queriers. Whatever is refused can be read by whoever asked.
#[async_trait]
pub trait BlockReadService: Send + Sync + 'static {
    /// # Errors
    /// `NotFound` where the object is gone; `LimitExceeded` where this node reads as many as it can.
    async fn select(&self, request: BlockSelectRequest) -> Result<SelectStream, ServiceError>;
    /// # Errors
    /// As `select`.
    async fn labels(&self, request: BlockLabelsRequest) -> Result<LabelsResponse, ServiceError>;
    /// # Errors
    /// As `select`; `Invalid` where the fragment cannot be evaluated over a block alone.
    async fn evaluate(&self, request: BlockEvaluateRequest) -> Result<EvaluateStream, ServiceError>;
}

/// Results that a querier keeps for all of them.
#[async_trait]
pub trait ResultsService: Send + Sync + 'static {
    async fn get(&self, request: ResultGetRequest) -> Result<ResultGetResponse, ServiceError>;
    /// # Errors
    /// `Invalid` where it is malformed.
    async fn put(&self, request: ResultPutRequest) -> Result<ResultPutResponse, ServiceError>;
}

/// The metadata group.
#[async_trait]
pub trait MetaService: Send + Sync + 'static {
    /// Commits one command. A refusal is a response whose `refused` says why; an error means that it was not decided
    /// (`Unknown`: it may have been).
    async fn propose(&self, command: MetaCommand) -> Result<MetaResponse, ServiceError>;
    /// As `propose`, of whoever does not reach the leader: a replica that takes the same node for it passes the command on.
    /// `NotLeader` where another leads, or it does not reach it either.
    async fn propose_through(&self, command: MetaCommand, _leader: u64) -> Result<MetaResponse, ServiceError> {
        self.propose(command).await
    }
    /// Linearizable: not older than any response given before the call.
    async fn read(&self) -> Result<Arc<MetaState>, ServiceError>;
    /// The state now, and after every change; coalesced, revisions only grow. Ends with an error when the source is
    /// lost; callers open it again with what they have.
    async fn watch(
        &self,
        after_revision: u64,
    ) -> Result<BoxStream<'static, Result<Arc<MetaState>, ServiceError>>, ServiceError>;
    /// As `read`, for one who has `base`: what has to travel is what differs.
    async fn read_from(&self, _base: Arc<MetaState>) -> Result<Arc<MetaState>, ServiceError> {
        self.read().await
    }
    /// As `watch` after the revision of `base`, for one who has it.
    ///
    /// # Errors
    /// As `watch`; later on `Damaged`, where what came does not fit to what was there: begin anew, with nothing.
    async fn watch_from(
        &self,
        base: Arc<MetaState>,
    ) -> Result<BoxStream<'static, Result<Arc<MetaState>, ServiceError>>, ServiceError> {
        self.watch(base.revision).await
    }
}

/// What a node tells about itself.
#[async_trait]
pub trait NodesService: Send + Sync + 'static {
    /// Where its Raft groups stand.
    async fn groups(&self) -> Result<GroupsResponse, ServiceError>;
}

/// A scraper's targets.
#[async_trait]
pub trait TargetsService: Send + Sync + 'static {
    async fn list_targets(&self, request: ListTargetsRequest) -> Result<ListTargetsResponse, ServiceError>;
    async fn target_metadata(&self, request: TargetMetadataRequest) -> Result<TargetMetadataResponse, ServiceError>;
}
