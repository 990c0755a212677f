//! Raft's messages over gRPC. Three connections per peer: one for logs, one for votes and heartbeats (which must not
//! wait behind logs), one for snapshots. Heartbeats of all groups to one node travel together.

use super::transport::{AppendAnswers, RaftService, RaftTransport, RpcError};
use crate::layers::explained;
use crate::tls::{ClusterTls, lazily};
use async_trait::async_trait;
use futures::future::join_all;
use futures::stream::{BoxStream, Stream, StreamExt};
use gnomon_model::NodeId;
use gnomon_proto::v1::raft_client::RaftClient;
use gnomon_proto::v1::raft_server::{Raft, RaftServer};
use gnomon_proto::v1::{
    RaftAppendRequest, RaftAppendResponse, RaftBeatResult, RaftHeartbeatRequest, RaftHeartbeatResponse,
    RaftReadIndexRequest, RaftReadIndexResponse, RaftSnapshotChunk, RaftSnapshotResponse, RaftTransferRequest,
    RaftTransferResponse, RaftVoteRequest, RaftVoteResponse, raft_beat_result,
};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

/// Largest message, in bytes: a chunk of a snapshot may be one large row.
const MESSAGE_BYTES: usize = 64 << 20;
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// The answer to a ping comes after what was sent before it: of logs, what `pace.rs` lets go, which may be one large entry of
/// each,
const LOGS_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// and of snapshots some megabytes.
const SNAPSHOTS_KEEP_ALIVE: Duration = Duration::from_secs(60);
/// Heartbeats of other groups are waited for this long.
const LINGER: Duration = Duration::from_millis(1);
/// Heartbeats in one message, and waiting for one.
const BEATS: usize = 1024;
/// A heartbeat is answered within this or not at all.
const BEAT_WITHIN: Duration = Duration::from_secs(1);
/// Votes and transfers are answered within this; a vote is written to the disk before.
const VOTE_WITHIN: Duration = Duration::from_secs(3);
/// A leader confirms that it leads within this, or somebody else soon does.
const READ_INDEX_WITHIN: Duration = Duration::from_secs(2);

/// Where nodes are now.
pub trait Addresses: Send + Sync + 'static {
    /// `host:port` of the node's gRPC; none where it is not known.
    fn address(&self, node: NodeId) -> Option<String>;
}

impl<F: Fn(NodeId) -> Option<String> + Send + Sync + 'static> Addresses for F {
    fn address(&self, node: NodeId) -> Option<String> {
        self(node)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Lane {
    Logs,
    Control,
    Snapshots,
}

type Beat = (RaftAppendRequest, oneshot::Sender<Result<RaftAppendResponse, RpcError>>);

/// The transport of a node in a real cluster.
pub struct GrpcTransport {
    peers: Arc<Peers>,
    /// One task per node gathers its heartbeats; it ends when the transport is dropped.
    beats: Mutex<HashMap<NodeId, mpsc::Sender<Beat>>>,
}

struct Peers {
    addresses: Arc<dyn Addresses>,
    tls: Option<Arc<ClusterTls>>,
    channels: Mutex<HashMap<(NodeId, Lane), (String, Channel)>>,
}

impl GrpcTransport {
    /// Plain text where `tls` is none.
    #[must_use]
    pub fn new(addresses: Arc<dyn Addresses>, tls: Option<Arc<ClusterTls>>) -> Self {
        Self {
            peers: Arc::new(Peers {
                addresses,
                tls,
                channels: Mutex::default(),
            }),
            beats: Mutex::default(),
        }
    }

    fn beats_to(&self, node: NodeId) -> mpsc::Sender<Beat> {
        let mut beats = self.beats.lock();
        if let Some(sender) = beats.get(&node)
            && !sender.is_closed()
        {
            return sender.clone();
        }
        let (sender, receiver) = mpsc::channel(BEATS);
        tokio::spawn(gather_beats(self.peers.clone(), node, receiver));
        beats.insert(node, sender.clone());
        sender
    }
}

impl Peers {
    fn client(&self, node: NodeId, lane: Lane) -> Result<RaftClient<Channel>, RpcError> {
        let unreachable = |why: String| RpcError::Unreachable { node, why };
        let address = self
            .addresses
            .address(node)
            .ok_or_else(|| unreachable("its address is not known".into()))?;
        let mut channels = self.channels.lock();
        let channel = match channels.get(&(node, lane)) {
            Some((known, channel)) if *known == address => channel.clone(),
            _ => {
                let endpoint = Endpoint::from_shared(format!("http://{address}"))
                    .map_err(|error| unreachable(format!("address {address:?}: {error}")))?;
                let answered_within = match lane {
                    Lane::Control => KEEP_ALIVE,
                    Lane::Logs => LOGS_KEEP_ALIVE,
                    Lane::Snapshots => SNAPSHOTS_KEEP_ALIVE,
                };
                let endpoint = endpoint
                    .connect_timeout(CONNECT_WITHIN)
                    .tcp_nodelay(true)
                    .http2_keep_alive_interval(KEEP_ALIVE)
                    .keep_alive_timeout(answered_within)
                    .keep_alive_while_idle(true)
                    .initial_stream_window_size(4 << 20)
                    .initial_connection_window_size(8 << 20);
                let channel = lazily(endpoint, &address, None, self.tls.as_ref())
                    .map_err(|error| unreachable(error.to_string()))?;
                channels.insert((node, lane), (address, channel.clone()));
                channel
            }
        };
        Ok(RaftClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES))
    }
}

fn from_status(node: NodeId, status: &Status) -> RpcError {
    let status = explained(status.clone());
    match status.code() {
        Code::Unavailable => RpcError::Unreachable {
            node,
            why: status.message().to_owned(),
        },
        Code::FailedPrecondition | Code::InvalidArgument | Code::Unimplemented => {
            RpcError::Refused(status.message().to_owned())
        }
        _ => RpcError::Broken(format!("node {node}: {}", status.message())),
    }
}

fn to_status(error: RpcError) -> Status {
    match error {
        RpcError::Refused(why) => Status::failed_precondition(why),
        RpcError::Unreachable { .. } => Status::unavailable(error.to_string()),
        RpcError::Broken(why) => Status::aborted(why),
    }
}

fn timed<T>(message: T, within: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(within);
    request
}

/// Sends what waits in one message; several messages may be under way.
async fn gather_beats(peers: Arc<Peers>, node: NodeId, mut waiting: mpsc::Receiver<Beat>) {
    while let Some(first) = waiting.recv().await {
        tokio::time::sleep(LINGER).await;
        let (mut beats, mut answers) = (vec![first.0], vec![first.1]);
        while beats.len() < BEATS
            && let Ok((beat, answer)) = waiting.try_recv()
        {
            beats.push(beat);
            answers.push(answer);
        }
        tokio::spawn(send_beats(peers.clone(), node, beats, answers));
    }
}

async fn send_beats(
    peers: Arc<Peers>,
    node: NodeId,
    beats: Vec<RaftAppendRequest>,
    answers: Vec<oneshot::Sender<Result<RaftAppendResponse, RpcError>>>,
) {
    let sent = async {
        let mut client = peers.client(node, Lane::Control)?;
        let request = timed(RaftHeartbeatRequest { beats }, BEAT_WITHIN);
        let response = client.heartbeat(request).await;
        response
            .map(Response::into_inner)
            .map_err(|status| from_status(node, &status))
    }
    .await;
    let mut results = match sent {
        Ok(response) => response.results.into_iter(),
        Err(error) => {
            for answer in answers {
                drop(answer.send(Err(error.clone())));
            }
            return;
        }
    };
    for answer in answers {
        let result = match results.next().and_then(|result| result.result) {
            Some(raft_beat_result::Result::Response(response)) => Ok(response),
            Some(raft_beat_result::Result::Unavailable(why)) => Err(RpcError::Refused(why)),
            None => Err(RpcError::Broken(format!("node {node} left a heartbeat unanswered"))),
        };
        drop(answer.send(result));
    }
}

/// A stream by name: the compiler cannot see that a boxed one may be sent from within an asynchronous trait.
struct Outgoing<T>(BoxStream<'static, T>);

impl<T> Stream for Outgoing<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        self.0.poll_next_unpin(context)
    }
}

#[async_trait]
impl RaftTransport for GrpcTransport {
    async fn append(
        &self,
        to: NodeId,
        requests: BoxStream<'static, RaftAppendRequest>,
    ) -> Result<AppendAnswers, RpcError> {
        let mut client = self.peers.client(to, Lane::Logs)?;
        let answers = client.append(Outgoing(requests)).await;
        let answers = answers.map_err(|status| from_status(to, &status))?;
        let answers = answers.into_inner();
        Ok(answers
            .map(move |answer| answer.map_err(|status| from_status(to, &status)))
            .boxed())
    }

    async fn heartbeat(&self, to: NodeId, request: RaftAppendRequest) -> Result<RaftAppendResponse, RpcError> {
        let (sender, answer) = oneshot::channel();
        let broken = || RpcError::Broken(format!("heartbeats to node {to} ended"));
        let queued = self.beats_to(to).send((request, sender)).await;
        queued.map_err(|_| broken())?;
        answer.await.map_err(|_| broken())?
    }

    async fn vote(&self, to: NodeId, request: RaftVoteRequest) -> Result<RaftVoteResponse, RpcError> {
        let mut client = self.peers.client(to, Lane::Control)?;
        let answer = client.vote(timed(request, VOTE_WITHIN)).await;
        answer
            .map(Response::into_inner)
            .map_err(|status| from_status(to, &status))
    }

    async fn snapshot(
        &self,
        to: NodeId,
        chunks: BoxStream<'static, RaftSnapshotChunk>,
    ) -> Result<RaftSnapshotResponse, RpcError> {
        let mut client = self.peers.client(to, Lane::Snapshots)?;
        let answer = client.snapshot(Outgoing(chunks)).await;
        answer
            .map(Response::into_inner)
            .map_err(|status| from_status(to, &status))
    }

    async fn transfer_leader(
        &self,
        to: NodeId,
        request: RaftTransferRequest,
    ) -> Result<RaftTransferResponse, RpcError> {
        let mut client = self.peers.client(to, Lane::Control)?;
        let answer = client.transfer_leader(timed(request, VOTE_WITHIN)).await;
        answer
            .map(Response::into_inner)
            .map_err(|status| from_status(to, &status))
    }

    async fn read_index(&self, to: NodeId, request: RaftReadIndexRequest) -> Result<RaftReadIndexResponse, RpcError> {
        let mut client = self.peers.client(to, Lane::Control)?;
        let answer = client.read_index(timed(request, READ_INDEX_WITHIN)).await;
        answer
            .map(Response::into_inner)
            .map_err(|status| from_status(to, &status))
    }
}

/// The gRPC service of a node, to be added to its server.
#[must_use]
pub fn raft_server(service: Arc<dyn RaftService>) -> RaftServer<RaftGrpc> {
    RaftServer::new(RaftGrpc { service })
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES)
}

/// gRPC in front of a [`RaftService`].
pub struct RaftGrpc {
    service: Arc<dyn RaftService>,
}

/// The messages of a stream up to its end or breach, which are the same to Raft.
fn messages<T: Send + 'static>(stream: Streaming<T>) -> BoxStream<'static, T> {
    stream
        .take_while(|message| std::future::ready(message.is_ok()))
        .filter_map(|message| std::future::ready(message.ok()))
        .boxed()
}

#[async_trait]
impl Raft for RaftGrpc {
    type AppendStream = BoxStream<'static, Result<RaftAppendResponse, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<RaftAppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let service = self.service.clone();
        let requests = messages(request.into_inner());
        // The answer begins at once: a client waits for it before it sends.
        let answers =
            futures::stream::once(async move { service.append(requests).await }).flat_map(|answers| match answers {
                Ok(answers) => answers.map(|answer| answer.map_err(to_status)).boxed(),
                Err(error) => futures::stream::once(async { Err(to_status(error)) }).boxed(),
            });
        Ok(Response::new(answers.boxed()))
    }

    async fn heartbeat(
        &self,
        request: Request<RaftHeartbeatRequest>,
    ) -> Result<Response<RaftHeartbeatResponse>, Status> {
        let beats = request.into_inner().beats;
        if beats.len() > BEATS {
            let message = format!(
                "{} heartbeats in one message: at most {BEATS} are possible",
                beats.len()
            );
            return Err(Status::invalid_argument(message));
        }
        let answers = join_all(beats.into_iter().map(|beat| self.service.heartbeat(beat))).await;
        let results = answers.into_iter().map(|answer| RaftBeatResult {
            result: Some(match answer {
                Ok(response) => raft_beat_result::Result::Response(response),
                Err(error) => raft_beat_result::Result::Unavailable(error.to_string()),
            }),
        });
        Ok(Response::new(RaftHeartbeatResponse {
            results: results.collect(),
        }))
    }

    async fn vote(&self, request: Request<RaftVoteRequest>) -> Result<Response<RaftVoteResponse>, Status> {
        let answer = self.service.vote(request.into_inner()).await;
        answer.map(Response::new).map_err(to_status)
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<RaftSnapshotChunk>>,
    ) -> Result<Response<RaftSnapshotResponse>, Status> {
        let answer = self.service.snapshot(messages(request.into_inner())).await;
        answer.map(Response::new).map_err(to_status)
    }

    async fn transfer_leader(
        &self,
        request: Request<RaftTransferRequest>,
    ) -> Result<Response<RaftTransferResponse>, Status> {
        let answer = self.service.transfer_leader(request.into_inner()).await;
        answer.map(Response::new).map_err(to_status)
    }

    async fn read_index(
        &self,
        request: Request<RaftReadIndexRequest>,
    ) -> Result<Response<RaftReadIndexResponse>, Status> {
        let answer = self.service.read_index(request.into_inner()).await;
        answer.map(Response::new).map_err(to_status)
    }
}
