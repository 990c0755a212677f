//! The services of a simulated machine as another one reaches them.

use super::network::{Lost, Sender, Served, SimNetwork};
use async_trait::async_trait;
use futures::FutureExt;
use futures::stream::{self, BoxStream, StreamExt};
use gnomon_cluster::clients::PeerNetwork;
use gnomon_cluster::raft::{AppendAnswers, RaftService, RaftTransport, RpcError};
use gnomon_model::NodeId;
use gnomon_proto::ServiceError;
use gnomon_proto::service::{MetaService, SelectStream, ShardReadService, ShardWriteService};
use gnomon_proto::v1::{
    AppendRequest, AppendResponse, ExemplarsRequest, ExemplarsResponse, HeadStatsRequest, HeadStatsResponse,
    LabelsRequest, LabelsResponse, MetaCommand, MetaResponse, MetaState, MetricMetadataRequest, MetricMetadataResponse,
    RaftAppendRequest, RaftAppendResponse, RaftReadIndexRequest, RaftReadIndexResponse, RaftSnapshotChunk,
    RaftSnapshotResponse, RaftTransferRequest, RaftTransferResponse, RaftVoteRequest, RaftVoteResponse, SelectRequest,
};
use parking_lot::Mutex;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

/// Kinds of messages, for the trace.
const APPEND: u8 = 1;
const HEARTBEAT: u8 = 2;
const VOTE: u8 = 3;
const SNAPSHOT: u8 = 4;
const TRANSFER: u8 = 5;
const READ_INDEX: u8 = 6;
const META: u8 = 7;
const WRITE: u8 = 8;
const READ: u8 = 9;

const REFUSED_AFTER: Duration = Duration::from_millis(1);

/// The machine's address; only its number differs.
pub(crate) fn address(place: usize) -> String {
    format!("10.0.0.{}:9095", place + 1)
}

fn place_at(address: &str) -> usize {
    let last = address.trim_end_matches(":9095").rsplit('.').next();
    last.and_then(|n| n.parse::<usize>().ok()).map_or(usize::MAX, |n| n - 1)
}

/// The network as one life of a machine has it.
#[derive(Clone)]
pub(crate) struct Peers {
    pub(crate) network: SimNetwork,
    pub(crate) own: Sender,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.own)
    }
}

impl PeerNetwork for Peers {
    fn raft(&self, _: NodeId) -> Arc<dyn RaftTransport> {
        Arc::new(self.clone())
    }

    fn meta(&self, address: &str) -> Arc<dyn MetaService> {
        Arc::new(Peer::of(self, address, None))
    }

    fn shard_write(&self, address: &str, node: NodeId) -> Arc<dyn ShardWriteService> {
        Arc::new(Peer::of(self, address, Some(node)))
    }

    fn shard_read(&self, address: &str, node: NodeId) -> Arc<dyn ShardReadService> {
        Arc::new(Peer::of(self, address, Some(node)))
    }
}

fn rpc_error(to: NodeId) -> impl Fn(Lost) -> RpcError {
    move |lost| match lost {
        Lost::Nobody => RpcError::Unreachable {
            node: to,
            why: "it is not running".into(),
        },
        Lost::Broken => RpcError::Broken(format!("the connection to node {to} broke")),
    }
}

/// What is sent over a connection. It is let go of with that, also where a machine that lost its power would still hold it.
struct Connection<T>(Arc<Mutex<Option<BoxStream<'static, T>>>>);

impl<T> Drop for Connection<T> {
    fn drop(&mut self) {
        drop(self.0.lock().take());
    }
}

fn until_dropped<T: Send + 'static>(messages: BoxStream<'static, T>) -> (BoxStream<'static, T>, Connection<T>) {
    let sent = Arc::new(Mutex::new(Some(messages)));
    let connection = Connection(sent.clone());
    let messages = stream::poll_fn(move |cx| match sent.lock().as_mut() {
        Some(messages) => messages.poll_next_unpin(cx),
        None => Poll::Ready(None),
    });
    (messages.boxed(), connection)
}

impl Peers {
    /// Nobody is found out after a while, as with a connection that is refused.
    async fn place(&self, to: NodeId) -> Result<usize, RpcError> {
        if let Some(place) = self.network.place_of(to) {
            return Ok(place);
        }
        tokio::time::sleep(REFUSED_AFTER).await;
        Err(rpc_error(to)(Lost::Nobody))
    }

    async fn raft_call<T, Calling>(
        &self,
        kind: u8,
        to: NodeId,
        call: impl FnOnce(Arc<dyn RaftService>) -> Calling,
    ) -> Result<T, RpcError>
    where
        Calling: Future<Output = Result<T, RpcError>>,
    {
        let called = self
            .network
            .call(kind, self.own, self.place(to).await?, |served| async {
                match served.raft {
                    // What panics there is no harm of this process.
                    Some(raft) => match AssertUnwindSafe(call(raft)).catch_unwind().await {
                        Ok(answer) => answer,
                        Err(_) => Err(rpc_error(to)(Lost::Broken)),
                    },
                    None => Err(rpc_error(to)(Lost::Nobody)),
                }
            });
        called.await.map_err(rpc_error(to))?
    }

    /// Messages one way, until one is lost; that one is an error.
    fn way<T: Send + 'static>(
        &self,
        kind: u8,
        from: Sender,
        to: usize,
        messages: BoxStream<'static, T>,
    ) -> BoxStream<'static, Result<T, Lost>> {
        let network = self.network.clone();
        let passed = messages.then(move |message| {
            let network = network.clone();
            async move { network.pass(kind, from, to).await.map(|()| message) }
        });
        let until_lost = passed.scan(false, |ended, message| {
            let go = !*ended;
            *ended = message.is_err();
            std::future::ready(go.then_some(message))
        });
        until_lost.boxed()
    }

    fn there<T: Send + 'static>(&self, kind: u8, to: usize, messages: BoxStream<'static, T>) -> BoxStream<'static, T> {
        let arrived = self.way(kind, self.own, to, messages);
        arrived.filter_map(|message| std::future::ready(message.ok())).boxed()
    }

    /// Sends it once more, where the weather is so; nobody waits for the answer.
    fn perhaps_again<Calling>(&self, to: NodeId, call: impl FnOnce(Arc<dyn RaftService>) -> Calling + Send + 'static)
    where
        Calling: Future<Output = ()> + Send,
    {
        let Some(after) = self.network.comes_twice(self.own) else {
            return;
        };
        let network = self.network.clone();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let place = network.place_of(to);
            if let Some(raft) = place.and_then(|place| network.served(place)?.raft) {
                call(raft).await;
            }
        });
    }
}

#[async_trait]
impl RaftTransport for Peers {
    async fn append(
        &self,
        to: NodeId,
        requests: BoxStream<'static, RaftAppendRequest>,
    ) -> Result<AppendAnswers, RpcError> {
        let place = self.place(to).await?;
        let lost = rpc_error(to);
        self.network.pass(APPEND, self.own, place).await.map_err(&lost)?;
        let listening = self.network.listening(place);
        let Some((called, Served { raft: Some(raft), .. }, ended)) = listening else {
            return Err(lost(Lost::Nobody));
        };
        // Where a group ends under a call: between processes the caller would not panic.
        let panicked = || RpcError::Broken("it panicked".into());
        let (requests, connection) = until_dropped(requests);
        let answers = AssertUnwindSafe(raft.append(self.there(APPEND, place, requests))).catch_unwind();
        let answers = answers.await.map_err(|_| panicked())??;
        let answers = AssertUnwindSafe(answers).catch_unwind();
        let answers = answers.map(move |answer| answer.unwrap_or_else(|_| Err(panicked())));
        let answers = answers.take_until(ended.cancelled_owned()).boxed();
        let back = self.way(APPEND | 0x40, called, self.own.place, answers);
        let answers = back.map(move |answer| {
            let _open = &connection;
            answer.map_err(&lost).and_then(|inner| inner)
        });
        Ok(answers.boxed())
    }

    async fn heartbeat(&self, to: NodeId, request: RaftAppendRequest) -> Result<RaftAppendResponse, RpcError> {
        let again = request.clone();
        self.perhaps_again(to, |raft| async move { drop(raft.heartbeat(again).await) });
        self.raft_call(HEARTBEAT, to, |raft| async move { raft.heartbeat(request).await })
            .await
    }

    async fn vote(&self, to: NodeId, request: RaftVoteRequest) -> Result<RaftVoteResponse, RpcError> {
        let again = request.clone();
        self.perhaps_again(to, |raft| async move { drop(raft.vote(again).await) });
        self.raft_call(VOTE, to, |raft| async move { raft.vote(request).await })
            .await
    }

    async fn snapshot(
        &self,
        to: NodeId,
        chunks: BoxStream<'static, RaftSnapshotChunk>,
    ) -> Result<RaftSnapshotResponse, RpcError> {
        let chunks = self.there(SNAPSHOT, self.place(to).await?, chunks);
        self.raft_call(SNAPSHOT, to, |raft| async move { raft.snapshot(chunks).await })
            .await
    }

    async fn transfer_leader(
        &self,
        to: NodeId,
        request: RaftTransferRequest,
    ) -> Result<RaftTransferResponse, RpcError> {
        self.raft_call(TRANSFER, to, |raft| async move { raft.transfer_leader(request).await })
            .await
    }

    async fn read_index(&self, to: NodeId, request: RaftReadIndexRequest) -> Result<RaftReadIndexResponse, RpcError> {
        self.raft_call(READ_INDEX, to, |raft| async move { raft.read_index(request).await })
            .await
    }
}

/// One other machine.
struct Peer {
    peers: Peers,
    place: usize,
    /// Who is meant, where that is known.
    node: Option<NodeId>,
}

fn absent() -> ServiceError {
    ServiceError::Unavailable("nobody answers there".into())
}

fn lost(lost: Lost) -> ServiceError {
    match lost {
        Lost::Nobody => absent(),
        Lost::Broken => ServiceError::Unknown("the connection broke".into()),
    }
}

impl Peer {
    fn of(peers: &Peers, address: &str, node: Option<NodeId>) -> Self {
        Self {
            peers: peers.clone(),
            place: place_at(address),
            node,
        }
    }

    async fn call<T, Calling>(&self, kind: u8, call: impl FnOnce(Served) -> Calling) -> Result<T, ServiceError>
    where
        Calling: Future<Output = Result<T, ServiceError>>,
    {
        let peers = &self.peers;
        let called = peers.network.call(kind, peers.own, self.place, |served| async {
            if self.node.is_some_and(|meant| meant != served.node) {
                return Err(ServiceError::OtherCluster(format!("this is node {}", served.node)));
            }
            call(served).await
        });
        called.await.map_err(lost)?
    }

    /// Answers as they come back; the last one says so where the connection broke.
    fn back<T: Send + 'static>(
        &self,
        kind: u8,
        answers: BoxStream<'static, Result<T, ServiceError>>,
    ) -> BoxStream<'static, Result<T, ServiceError>> {
        let Some((called, _, ended)) = self.peers.network.listening(self.place) else {
            return stream::once(async { Err(absent()) }).boxed();
        };
        let broken = ended.clone();
        let end = stream::once(async move { broken.is_cancelled().then(|| Err(lost(Lost::Broken))) });
        let answers = answers.take_until(ended.cancelled_owned());
        let answers = answers.chain(end.filter_map(std::future::ready)).boxed();
        let back = self.peers.way(kind | 0x40, called, self.peers.own.place, answers);
        back.map(|answer| answer.map_err(lost)?).boxed()
    }
}

#[async_trait]
impl MetaService for Peer {
    async fn propose(&self, command: MetaCommand) -> Result<MetaResponse, ServiceError> {
        self.call(META, |served| async move {
            served.meta.ok_or_else(absent)?.propose(command).await
        })
        .await
    }

    async fn propose_through(&self, command: MetaCommand, leader: u64) -> Result<MetaResponse, ServiceError> {
        self.call(META, |served| async move {
            served.meta.ok_or_else(absent)?.propose_through(command, leader).await
        })
        .await
    }

    async fn read(&self) -> Result<Arc<MetaState>, ServiceError> {
        self.call(
            META,
            |served| async move { served.meta.ok_or_else(absent)?.read().await },
        )
        .await
    }

    async fn watch(
        &self,
        after_revision: u64,
    ) -> Result<BoxStream<'static, Result<Arc<MetaState>, ServiceError>>, ServiceError> {
        let states = self.call(META, |served| async move {
            served.meta.ok_or_else(absent)?.watch(after_revision).await
        });
        Ok(self.back(META, states.await?))
    }
}

#[async_trait]
impl ShardWriteService for Peer {
    async fn append(&self, request: AppendRequest) -> Result<AppendResponse, ServiceError> {
        self.call(WRITE, |served| async move {
            served.shard_write.ok_or_else(absent)?.append(request).await
        })
        .await
    }

    async fn append_through(&self, request: AppendRequest, leader: u64) -> Result<AppendResponse, ServiceError> {
        self.call(WRITE, |served| async move {
            served
                .shard_write
                .ok_or_else(absent)?
                .append_through(request, leader)
                .await
        })
        .await
    }
}

/// One read that is answered at once.
macro_rules! unary {
    ($self:ident, $method:ident, $request:ident) => {
        $self
            .call(READ, |served| async move {
                served.shard_read.ok_or_else(absent)?.$method($request).await
            })
            .await
    };
}

#[async_trait]
impl ShardReadService for Peer {
    async fn select(&self, request: SelectRequest) -> Result<SelectStream, ServiceError> {
        let batches = self.call(READ, |served| async move {
            served.shard_read.ok_or_else(absent)?.select(request).await
        });
        Ok(self.back(READ, batches.await?))
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
