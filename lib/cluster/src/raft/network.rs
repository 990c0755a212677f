//! What the library calls to reach other nodes, on top of a [`RaftTransport`].

use super::codec::{self, Malformed};
use super::pace::{Away, EndsAway, Pace};
use super::snapshot::{SnapshotData, SnapshotPart};
use super::state::Machine;
use super::transport::{AppendAnswers, RaftTransport, RpcError};
use super::types::{Entry, Snapshot, TypeConfig, Vote};
use futures::FutureExt;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use gnomon_model::{ClusterId, GroupId, NodeId};
use gnomon_proto::v1;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{EmptyNode, OptionalSend};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// An append stream is opened within this.
const OPEN_WITHIN: Duration = Duration::from_secs(5);
/// Before an append stream that could not be opened is tried again; doubles up to the second.
const OPEN_AGAIN: Duration = Duration::from_millis(20);
const OPEN_AGAIN_MAX: Duration = Duration::from_millis(500);
/// A snapshot's receiver that takes no chunk (or, after the last, does not answer) for longer is given up.
const CHUNK_WITHIN: Duration = Duration::from_secs(60);

/// Makes clients of one group.
pub(crate) struct Network {
    pub(crate) transport: Arc<dyn RaftTransport>,
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) group: GroupId,
    pub(crate) machine: Arc<Machine>,
    pub(crate) snapshots_sent: prometheus::IntCounter,
    pub(crate) no_writes: NoWrites,
}

/// Nodes that have said, with their last heartbeat, that their disks take no writes.
#[derive(Clone, Default)]
pub(crate) struct NoWrites(Arc<Mutex<BTreeSet<NodeId>>>);

impl NoWrites {
    fn heard(&self, node: NodeId, takes_no_writes: bool) {
        let mut nodes = self.0.lock();
        if takes_no_writes {
            nodes.insert(node);
        } else {
            nodes.remove(&node);
        }
    }

    pub(crate) fn nodes(&self) -> BTreeSet<NodeId> {
        self.0.lock().clone()
    }
}

/// A client for one target, in one role.
pub(crate) struct Client {
    transport: Arc<dyn RaftTransport>,
    header: v1::RaftHeader,
    to: NodeId,
    /// Heartbeats travel together with those of other groups.
    heartbeats: bool,
    machine: Arc<Machine>,
    snapshots_sent: prometheus::IntCounter,
    no_writes: NoWrites,
    pace: Pace,
    /// Append streams that could not be opened, one after the other.
    unopened: u32,
}

impl Network {
    fn client(&self, to: u64, heartbeats: bool) -> Client {
        Client {
            transport: self.transport.clone(),
            header: v1::RaftHeader {
                cluster_id: self.cluster.0.to_be_bytes().to_vec().into(),
                from: self.node.0,
                to,
                group: self.group.0,
            },
            to: NodeId(to),
            heartbeats,
            machine: self.machine.clone(),
            snapshots_sent: self.snapshots_sent.clone(),
            no_writes: self.no_writes.clone(),
            pace: Pace::default(),
            unopened: 0,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: u64, _node: &EmptyNode) -> Client {
        self.client(target, false)
    }

    async fn new_heartbeat_client(&mut self, target: u64, _node: &EmptyNode) -> Client {
        self.client(target, true)
    }
}

type Rpc = RPCError<TypeConfig>;

fn rpc_error(error: &RpcError) -> Rpc {
    match error {
        RpcError::Unreachable { .. } | RpcError::Refused(_) => Rpc::Unreachable(Unreachable::new(error)),
        RpcError::Broken(_) => Rpc::Network(NetworkError::new(error)),
    }
}

fn broken(error: &Malformed) -> Rpc {
    Rpc::Network(NetworkError::new(error))
}

fn request_to(header: &v1::RaftHeader, request: AppendEntriesRequest<TypeConfig>) -> v1::RaftAppendRequest {
    v1::RaftAppendRequest {
        header: Some(header.clone()),
        vote: Some(codec::vote_to(&request.vote)),
        previous: request.prev_log_id.as_ref().map(codec::log_id_to),
        leader_commit: request.leader_commit.as_ref().map(codec::log_id_to),
        entries: request.entries.iter().map(codec::entry_to_wire).collect(),
    }
}

pub(crate) fn request_from(wire: v1::RaftAppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, Malformed> {
    let entries: Result<Vec<Entry>, Malformed> = wire.entries.into_iter().map(codec::entry_from_wire).collect();
    let request: AppendEntriesRequest<TypeConfig> = AppendEntriesRequest {
        vote: codec::vote_of(wire.vote)?,
        prev_log_id: wire.previous.map(codec::log_id_from),
        leader_commit: wire.leader_commit.map(codec::log_id_from),
        entries: entries?,
    };
    let due = request.prev_log_id.map_or(0, |id| id.index + 1)..;
    for (due, entry) in due.zip(&request.entries) {
        if entry.log_id.index != due {
            return Err(Malformed(format!("entry {} where {due} is due", entry.log_id.index)));
        }
    }
    Ok(request)
}

pub(crate) fn answer_to(answer: &StreamAppendResult<TypeConfig>) -> v1::RaftAppendResponse {
    use v1::raft_append_response::Result as Wire;
    let result = match answer {
        Ok(matched) => Wire::Matched(v1::RaftMatched {
            log_id: matched.as_ref().map(codec::log_id_to),
        }),
        Err(StreamAppendError::Conflict(id)) => Wire::Conflict(codec::log_id_to(id)),
        Err(StreamAppendError::HigherVote(vote)) => Wire::HigherVote(codec::vote_to(vote)),
    };
    v1::RaftAppendResponse {
        result: Some(result),
        ..Default::default()
    }
}

fn answer_from(wire: v1::RaftAppendResponse) -> Result<StreamAppendResult<TypeConfig>, Malformed> {
    use v1::raft_append_response::Result as Wire;
    match wire.result {
        Some(Wire::Matched(matched)) => Ok(Ok(matched.log_id.map(codec::log_id_from))),
        Some(Wire::Conflict(id)) => Ok(Err(StreamAppendError::Conflict(codec::log_id_from(id)))),
        Some(Wire::HigherVote(vote)) => Ok(Err(StreamAppendError::HigherVote(codec::vote_from(vote)))),
        None => Err(Malformed("an answer to an append without a result".into())),
    }
}

type Answers<'s> = BoxStream<'s, Result<StreamAppendResult<TypeConfig>, Rpc>>;

impl Client {
    /// One stream for all requests; answers are given up when one is owed for too long.
    ///
    /// The library waits between attempts where it makes the requests, which nobody asks for before there is a connection:
    /// where none can be made it is this that waits.
    async fn append_stream<S>(&mut self, input: S) -> Result<Answers<'static>, Rpc>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        if self.unopened > 0 {
            tokio::time::sleep(open_again_after(self.unopened)).await;
        }
        let (away, ends) = Away::new(self.pace.clone());
        let header = self.header.clone();
        let requests = away.paced(input).map(move |request| request_to(&header, request));
        let requests = requests.boxed();
        let answers = tokio::time::timeout(OPEN_WITHIN, self.transport.append(self.to, requests)).await;
        self.unopened += 1;
        let answers = answers.unwrap_or_else(|_| Err(late(self.to, OPEN_WITHIN)));
        let answers = answers.map_err(|error| {
            away.failed();
            rpc_error(&error)
        })?;
        self.unopened = 0;
        let next = next_answer(self.to, away);
        Ok(stream::unfold(Some((answers, ends)), next).boxed())
    }

    async fn beat(&self, request: AppendEntriesRequest<TypeConfig>) -> Result<StreamAppendResult<TypeConfig>, Rpc> {
        let request = request_to(&self.header, request);
        let answer = self
            .transport
            .heartbeat(self.to, request)
            .await
            .map_err(|e| rpc_error(&e))?;
        self.no_writes.heard(self.to, answer.takes_no_writes);
        answer_from(answer).map_err(|e| broken(&e))
    }
}

/// After so many streams that could not be opened.
fn open_again_after(unopened: u32) -> Duration {
    OPEN_AGAIN
        .saturating_mul(1 << unopened.saturating_sub(1).min(8))
        .min(OPEN_AGAIN_MAX)
}

fn late(node: NodeId, owed_for: Duration) -> RpcError {
    RpcError::Broken(format!("node {node} has not answered for {} s", owed_for.as_secs()))
}

/// Answers that are still to come.
type ToCome = Option<(AppendAnswers, EndsAway)>;
type NextAnswer = BoxFutureOf<Option<(Result<StreamAppendResult<TypeConfig>, Rpc>, ToCome)>>;
type BoxFutureOf<T> = futures::future::BoxFuture<'static, T>;

/// The next answer, or an error (which ends the stream) when one is owed and does not come.
fn next_answer(node: NodeId, away: Arc<Away>) -> impl FnMut(ToCome) -> NextAnswer {
    move |to_come| {
        let away = Arc::clone(&away);
        async move {
            let (mut answers, ends) = to_come?;
            let answer = loop {
                if let Ok(answer) = tokio::time::timeout(away.patience(), answers.next()).await {
                    break answer?;
                }
                if away.patience().is_zero() {
                    break Err(late(node, away.owed_for()));
                }
            };
            Some(match answer {
                Ok(answer) => {
                    away.answered();
                    match answer_from(answer) {
                        Ok(answer) => (Ok(answer), Some((answers, ends))),
                        Err(error) => (Err(broken(&error)), None),
                    }
                }
                Err(error) => {
                    away.failed();
                    (Err(rpc_error(&error)), None)
                }
            })
        }
        .boxed()
    }
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, Rpc> {
        Ok(self.beat(rpc).await?.into())
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _option: RPCOption,
    ) -> futures::future::BoxFuture<'s, Result<Answers<'s>, Rpc>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        if !self.heartbeats {
            return async move { self.append_stream(input).await }.boxed();
        }
        async move {
            let this: &'s Self = self;
            let answers: Answers<'s> = async move {
                match input.next().await {
                    Some(request) => vec![this.beat(request).await],
                    None => Vec::new(),
                }
            }
            .into_stream()
            .flat_map(stream::iter)
            .boxed();
            Ok(answers)
        }
        .boxed()
    }

    async fn vote(&mut self, rpc: VoteRequest<TypeConfig>, _: RPCOption) -> Result<VoteResponse<TypeConfig>, Rpc> {
        self.ask_vote(rpc, false).await
    }

    async fn pre_vote(&mut self, rpc: VoteRequest<TypeConfig>, _: RPCOption) -> Result<VoteResponse<TypeConfig>, Rpc> {
        self.ask_vote(rpc, true).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let _hold = PurgeHold::new(self.machine.clone());
        let taken = Arc::new(AtomicU64::new(0));
        let counter = taken.clone();
        let chunks = chunks(self.header.clone(), &vote, snapshot.snapshot)?
            .inspect(move |_| {
                counter.fetch_add(1, Ordering::AcqRel);
            })
            .boxed();
        let sending = self.transport.snapshot(self.to, chunks);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            () = stalled(&taken) => {
                let late = RpcError::Broken(format!("node {} takes no more of a snapshot", self.to));
                Err(rpc_error(&late).into())
            }
            sent = sending => {
                let answer = sent.map_err(|e| rpc_error(&e))?;
                let vote = codec::vote_of(answer.vote).map_err(|e| broken(&e))?;
                self.snapshots_sent.inc();
                Ok(SnapshotResponse::new(vote))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, Rpc> {
        let request = v1::RaftTransferRequest {
            header: Some(self.header.clone()),
            from_leader: Some(codec::vote_to(request.from_leader())),
            last_log_id: request.last_log_id().map(codec::log_id_to),
            to_node: *request.to_node_id(),
        };
        let answer = self
            .transport
            .transfer_leader(self.to, request)
            .await
            .map_err(|e| rpc_error(&e))?;
        if answer.refused.is_empty() {
            return Ok(Ok(()));
        }
        Ok(Err(match (answer.expected_vote, answer.actual_vote) {
            (Some(expected), Some(actual)) => TransferLeaderError::VoteChanged {
                expected: codec::vote_from(expected),
                actual: codec::vote_from(actual),
            },
            _ => TransferLeaderError::LogNotFlushed {
                expected: None,
                actual: None,
            },
        }))
    }
}

impl Client {
    async fn ask_vote(&self, rpc: VoteRequest<TypeConfig>, pre_vote: bool) -> Result<VoteResponse<TypeConfig>, Rpc> {
        let request = v1::RaftVoteRequest {
            header: Some(self.header.clone()),
            vote: Some(codec::vote_to(&rpc.vote)),
            last_log_id: rpc.last_log_id.as_ref().map(codec::log_id_to),
            leadership_transfer: rpc.leadership_transfer,
            pre_vote,
        };
        let answer = self.transport.vote(self.to, request).await.map_err(|e| rpc_error(&e))?;
        let vote = codec::vote_of(answer.vote).map_err(|e| broken(&e))?;
        Ok(VoteResponse::new(
            vote,
            answer.last_log_id.map(codec::log_id_from),
            answer.granted,
        ))
    }
}

/// Ends when the counter has stood still for too long.
async fn stalled(taken: &AtomicU64) {
    let mut before = None;
    loop {
        let now = taken.load(Ordering::Acquire);
        if before == Some(now) {
            return;
        }
        before = Some(now);
        tokio::time::sleep(CHUNK_WITHIN).await;
    }
}

/// While it lives the log is not purged: the follower needs what follows the snapshot.
struct PurgeHold(Arc<Machine>);

impl PurgeHold {
    fn new(machine: Arc<Machine>) -> Self {
        machine.sending.fetch_add(1, Ordering::AcqRel);
        Self(machine)
    }
}

impl Drop for PurgeHold {
    fn drop(&mut self) {
        self.0.sending.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The snapshot on the wire. Ends early, without the total, where it cannot be read to the end.
fn chunks(
    header: v1::RaftHeader,
    vote: &Vote,
    data: SnapshotData,
) -> Result<BoxStream<'static, v1::RaftSnapshotChunk>, StreamingError<TypeConfig>> {
    let SnapshotData::Stored(source) = data else {
        let error = NetworkError::from_string("a snapshot that was not installed cannot be sent");
        return Err(StreamingError::Network(error));
    };
    let vote = codec::vote_to(vote);
    let parts = source.read();
    Ok(
        stream::unfold((parts, Some((header, vote))), |(mut parts, mut first)| async move {
            let part = match parts.recv().await? {
                Ok(part) => part,
                Err(error) => {
                    tracing::warn!(%error, "a snapshot could not be read to its end");
                    return None;
                }
            };
            let mut chunk = v1::RaftSnapshotChunk::default();
            match part {
                SnapshotPart::Head(head) => {
                    let (header, vote) = first.take()?;
                    chunk.header = Some(header);
                    chunk.vote = Some(vote);
                    chunk.head = Some(codec::head_to(&head));
                }
                SnapshotPart::Rows(rows) => chunk.rows = rows,
                SnapshotPart::End { rows_total } => chunk.rows_total = Some(rows_total),
            }
            Some((chunk, (parts, first)))
        })
        .boxed(),
    )
}
