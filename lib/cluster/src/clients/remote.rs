//! gRPC clients as service bodies.

use super::MAX_MESSAGE_BYTES;
use crate::layers::{Answering, Membership, PeerChannel, Retries};
use crate::meta::changes::Assembling;
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use gnomon_model::NodeId;
use gnomon_proto::ServiceError;
use gnomon_proto::service::{
    BlockReadService, EvaluateStream, MetaService, NodesService, ResultsService, SelectStream, ShardReadService,
    ShardWriteService, TargetsService,
};
use gnomon_proto::v1::block_read_client::BlockReadClient as BlockReadStub;
use gnomon_proto::v1::meta_client::MetaClient as MetaStub;
use gnomon_proto::v1::nodes_client::NodesClient as NodesStub;
use gnomon_proto::v1::results_client::ResultsClient as ResultsStub;
use gnomon_proto::v1::shard_read_client::ShardReadClient as ShardReadStub;
use gnomon_proto::v1::shard_write_client::ShardWriteClient as ShardWriteStub;
use gnomon_proto::v1::targets_client::TargetsClient as TargetsStub;
use gnomon_proto::v1::{
    AppendRequest, AppendResponse, AppendThroughRequest, BlockEvaluateRequest, BlockLabelsRequest, BlockSelectRequest,
    EvaluateRequest, ExemplarsRequest, ExemplarsResponse, GroupsRequest, GroupsResponse, HeadStatsRequest,
    HeadStatsResponse, LabelsRequest, LabelsResponse, ListTargetsRequest, ListTargetsResponse, MetaChangesRequest,
    MetaCommand, MetaReadRequest, MetaResponse, MetaState, MetaUpdate, MetaWatchRequest, MetricMetadataRequest,
    MetricMetadataResponse, ProposeThroughRequest, ResultGetRequest, ResultGetResponse, ResultPutRequest,
    ResultPutResponse, SelectRequest, TargetMetadataRequest, TargetMetadataResponse,
};
use std::sync::Arc;
use tonic::{Code, Status, Streaming};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

/// A stub that takes and sends messages up to our limit.
macro_rules! sized {
    ($stub:ident, $channel:expr) => {
        $stub::new($channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    };
}
/// The bodies of all services of one peer.
#[derive(Clone)]
pub struct Remote {
    channel: PeerChannel,
    retries: Retries,
}

impl Remote {
    #[must_use]
    pub fn new(channel: PeerChannel, retries: Retries) -> Self {
        Self { channel, retries }
    }

    /// For a peer that is known by its number: a node that has its address by now refuses the calls.
    #[must_use]
    pub fn to_node(self, node: NodeId) -> Self {
        let channel = self
            .channel
            .map_request(move |request| Membership::to_node(request, node));
        Self {
            channel: BoxCloneSyncService::new(channel),
            ..self
        }
    }

    /// Tells `answering` who answers.
    pub(super) fn telling(self, answering: Answering) -> Self {
        let channel = self.channel.map_response(move |response| {
            answering.note(&response);
            response
        });
        Self {
            channel: BoxCloneSyncService::new(channel),
            ..self
        }
    }

    #[must_use]
    pub fn shard_write(&self) -> RemoteShardWrite {
        RemoteShardWrite(sized!(ShardWriteStub, self.channel))
    }

    /// One that is busy is not asked again: who reads goes on to another replica, or comes back after a while.
    #[must_use]
    pub fn shard_read(&self) -> RemoteShardRead {
        RemoteShardRead {
            stub: sized!(ShardReadStub, self.channel),
            retries: self.retries.but_of_busy(),
        }
    }

    /// Without retries: who asks reads himself.
    #[must_use]
    pub fn block_read(&self) -> RemoteBlockRead {
        RemoteBlockRead(sized!(BlockReadStub, self.channel))
    }

    /// Without retries: what is not there is evaluated.
    #[must_use]
    pub fn results(&self) -> RemoteResults {
        RemoteResults(sized!(ResultsStub, self.channel))
    }

    #[must_use]
    pub fn meta(&self) -> RemoteMeta {
        RemoteMeta(sized!(MetaStub, self.channel))
    }

    #[must_use]
    pub fn nodes(&self) -> RemoteNodes {
        RemoteNodes {
            stub: sized!(NodesStub, self.channel),
            retries: self.retries.clone(),
        }
    }

    #[must_use]
    pub fn targets(&self) -> RemoteTargets {
        RemoteTargets {
            stub: sized!(TargetsStub, self.channel),
            retries: self.retries.clone(),
        }
    }
}

/// What a status means for the caller. One without our mark was made by a connection, not by the peer's service: then
/// all that is known is that there is no answer.
fn from_wire(status: Status) -> ServiceError {
    let marked = status.metadata().contains_key("gnomon-error");
    match status.code() {
        Code::Internal | Code::DataLoss | Code::Cancelled | Code::Unknown | Code::Aborted if !marked => {
            ServiceError::Unknown(format!("connection: {}", status.message()))
        }
        _ => ServiceError::from(status),
    }
}

/// Appending is repeated by the router, which knows what an unknown outcome means to it.
#[derive(Clone)]
pub struct RemoteShardWrite(ShardWriteStub<PeerChannel>);

#[async_trait]
impl ShardWriteService for RemoteShardWrite {
    async fn append(&self, request: AppendRequest) -> Result<AppendResponse, ServiceError> {
        let answer = self.0.clone().append(request).await;
        answer.map(tonic::Response::into_inner).map_err(from_wire)
    }

    async fn append_through(&self, request: AppendRequest, leader: u64) -> Result<AppendResponse, ServiceError> {
        let append = Some(request.clone());
        match self
            .0
            .clone()
            .append_through(AppendThroughRequest { append, leader })
            .await
        {
            Err(status) if status.code() == Code::Unimplemented => self.append(request).await,
            answer => answer.map(tonic::Response::into_inner).map_err(from_wire),
        }
    }
}

#[derive(Clone)]
pub struct RemoteShardRead {
    stub: ShardReadStub<PeerChannel>,
    retries: Retries,
}

/// One unary call, repeated where that may help.
macro_rules! unary {
    ($self:ident, $method:ident, $request:ident) => {{
        let stub = $self.stub.clone();
        let call = move |request| {
            let mut stub = stub.clone();
            async move {
                let answer = stub.$method(request).await;
                answer.map(tonic::Response::into_inner).map_err(from_wire)
            }
        };
        $self.retries.call(stringify!($method), $request, call).await
    }};
}

#[async_trait]
impl ShardReadService for RemoteShardRead {
    async fn select(&self, request: SelectRequest) -> Result<SelectStream, ServiceError> {
        let stream = unary!(self, select, request)?;
        Ok(stream.map(|item| item.map_err(from_wire)).boxed())
    }

    async fn evaluate(&self, request: EvaluateRequest) -> Result<EvaluateStream, ServiceError> {
        let stream = unary!(self, evaluate, request)?;
        Ok(stream.map(|item| item.map_err(from_wire)).boxed())
    }

    async fn labels(&self, request: LabelsRequest) -> Result<LabelsResponse, ServiceError> {
        unary!(self, labels, request)
    }

    async fn exemplars(&self, request: ExemplarsRequest) -> Result<ExemplarsResponse, ServiceError> {
        unary!(self, exemplars, request)
    }

    async fn metric_metadata(&self, request: MetricMetadataRequest) -> Result<MetricMetadataResponse, ServiceError> {
        unary!(self, metric_metadata, request)
    }

    async fn head_stats(&self, request: HeadStatsRequest) -> Result<HeadStatsResponse, ServiceError> {
        unary!(self, head_stats, request)
    }
}

#[derive(Clone)]
pub struct RemoteBlockRead(BlockReadStub<PeerChannel>);

#[async_trait]
impl BlockReadService for RemoteBlockRead {
    async fn select(&self, request: BlockSelectRequest) -> Result<SelectStream, ServiceError> {
        let stream = self.0.clone().select(request).await.map_err(from_wire)?.into_inner();
        Ok(stream.map(|item| item.map_err(from_wire)).boxed())
    }

    async fn labels(&self, request: BlockLabelsRequest) -> Result<LabelsResponse, ServiceError> {
        let answer = self.0.clone().labels(request).await;
        answer.map(tonic::Response::into_inner).map_err(from_wire)
    }

    async fn evaluate(&self, request: BlockEvaluateRequest) -> Result<EvaluateStream, ServiceError> {
        let stream = self.0.clone().evaluate(request).await.map_err(from_wire)?.into_inner();
        Ok(stream.map(|item| item.map_err(from_wire)).boxed())
    }
}

#[derive(Clone)]
pub struct RemoteResults(ResultsStub<PeerChannel>);

#[async_trait]
impl ResultsService for RemoteResults {
    async fn get(&self, request: ResultGetRequest) -> Result<ResultGetResponse, ServiceError> {
        let answer = self.0.clone().get(request).await;
        answer.map(tonic::Response::into_inner).map_err(from_wire)
    }

    async fn put(&self, request: ResultPutRequest) -> Result<ResultPutResponse, ServiceError> {
        let answer = self.0.clone().put(request).await;
        answer.map(tonic::Response::into_inner).map_err(from_wire)
    }
}

/// A peer without the service has no replica of the metadata group: another one may.
fn from_meta(status: Status) -> ServiceError {
    if status.code() == Code::Unimplemented {
        return ServiceError::Unavailable("a peer that is no ingester has no metadata: name ingesters as peers".into());
    }
    from_wire(status)
}

/// Whether a peer of an older build answers so, which does not know of changes: it knows no such call, or does not let one
/// who does not know his cluster yet make it.
fn may_be_older(status: &Status) -> bool {
    status.code() == Code::Unimplemented || matches!(from_wire(status.clone()), ServiceError::OtherCluster(_))
}

/// States from the changes that a peer tells, on what is here.
fn assembled(
    updates: Streaming<MetaUpdate>,
    base: Arc<MetaState>,
) -> BoxStream<'static, Result<Arc<MetaState>, ServiceError>> {
    let begin = (updates.map(|item| item.map_err(from_meta)), Assembling::on(base));
    futures::stream::try_unfold(begin, |(mut updates, mut assembling)| async move {
        loop {
            let Some(update) = StreamExt::next(&mut updates).await else {
                return Ok::<_, ServiceError>(None);
            };
            if let Some(state) = assembling.put(update?)? {
                return Ok(Some((state, (updates, assembling))));
            }
        }
    })
    .boxed()
}

/// One peer of the metadata group; [`super::MetaClient`] goes from peer to peer.
#[derive(Clone)]
pub struct RemoteMeta(MetaStub<PeerChannel>);

#[async_trait]
impl MetaService for RemoteMeta {
    async fn propose(&self, command: MetaCommand) -> Result<MetaResponse, ServiceError> {
        let answer = self.0.clone().propose(command).await;
        answer.map(tonic::Response::into_inner).map_err(from_meta)
    }

    async fn propose_through(&self, command: MetaCommand, leader: u64) -> Result<MetaResponse, ServiceError> {
        let request = ProposeThroughRequest {
            command: Some(command.clone()),
            leader,
        };
        match self.0.clone().propose_through(request).await {
            Err(status) if may_be_older(&status) => self.propose(command).await,
            answer => answer.map(tonic::Response::into_inner).map_err(from_meta),
        }
    }

    async fn read(&self) -> Result<Arc<MetaState>, ServiceError> {
        let answer = self.0.clone().read(MetaReadRequest {}).await;
        answer.map(|state| Arc::new(state.into_inner())).map_err(from_meta)
    }

    async fn watch(
        &self,
        after_revision: u64,
    ) -> Result<BoxStream<'static, Result<Arc<MetaState>, ServiceError>>, ServiceError> {
        let request = MetaWatchRequest { after_revision };
        let stream = self.0.clone().watch(request).await.map_err(from_meta)?.into_inner();
        Ok(stream.map(|item| item.map(Arc::new).map_err(from_meta)).boxed())
    }

    async fn read_from(&self, base: Arc<MetaState>) -> Result<Arc<MetaState>, ServiceError> {
        let request = MetaChangesRequest {
            have_revision: base.revision,
        };
        match self.0.clone().read_changes(request).await {
            Ok(updates) => {
                let mut states = assembled(updates.into_inner(), base);
                let ended = || ServiceError::Unknown("connection: the metadata state ended early".into());
                StreamExt::next(&mut states).await.ok_or_else(ended)?
            }
            Err(status) if may_be_older(&status) => self.read().await,
            Err(status) => Err(from_meta(status)),
        }
    }

    async fn watch_from(
        &self,
        base: Arc<MetaState>,
    ) -> Result<BoxStream<'static, Result<Arc<MetaState>, ServiceError>>, ServiceError> {
        let request = MetaChangesRequest {
            have_revision: base.revision,
        };
        match self.0.clone().watch_changes(request).await {
            Ok(updates) => Ok(assembled(updates.into_inner(), base)),
            Err(status) if may_be_older(&status) => self.watch(base.revision).await,
            Err(status) => Err(from_meta(status)),
        }
    }
}

#[derive(Clone)]
pub struct RemoteTargets {
    stub: TargetsStub<PeerChannel>,
    retries: Retries,
}

#[async_trait]
impl TargetsService for RemoteTargets {
    async fn list_targets(&self, request: ListTargetsRequest) -> Result<ListTargetsResponse, ServiceError> {
        unary!(self, list_targets, request)
    }

    async fn target_metadata(&self, request: TargetMetadataRequest) -> Result<TargetMetadataResponse, ServiceError> {
        unary!(self, target_metadata, request)
    }
}

#[derive(Clone)]
pub struct RemoteNodes {
    stub: NodesStub<PeerChannel>,
    retries: Retries,
}

#[async_trait]
impl NodesService for RemoteNodes {
    async fn groups(&self) -> Result<GroupsResponse, ServiceError> {
        let request = GroupsRequest {};
        unary!(self, groups, request)
    }
}
