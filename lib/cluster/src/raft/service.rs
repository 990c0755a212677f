//! What this node answers its peers: the local body of [`RaftService`].

use super::codec::{self, Malformed};
use super::group::{Group, GroupInner, GroupRaft};
use super::host::HostShared;
use super::log::left_at;
use super::network::{answer_to, request_from};
use super::snapshot::{SnapshotData, SnapshotPart, Staging};
use super::transport::{AppendAnswers, RaftService, RpcError};
use super::types::{Head, Snapshot};
use crate::blocking::blocking;
use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use gnomon_model::GroupId;
use gnomon_proto::v1;
use openraft::raft::{AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, VoteRequest};
use std::sync::Arc;
use std::time::Duration;

/// A sender of a snapshot that sends nothing for longer is given up.
const CHUNK_WITHIN: Duration = Duration::from_secs(60);

impl From<Malformed> for RpcError {
    fn from(error: Malformed) -> Self {
        Self::Refused(error.0)
    }
}

fn stopped(error: impl std::fmt::Display) -> RpcError {
    RpcError::Broken(format!("the group is restarting: {error}"))
}

impl HostShared {
    /// The group a message is for, where sender and receiver are who they think they are.
    fn addressed(&self, header: Option<&v1::RaftHeader>) -> Result<(Arc<GroupInner>, GroupRaft), RpcError> {
        let refused = |why: String| Err(RpcError::Refused(why));
        let Some(header) = header else {
            return refused("a message without a header".into());
        };
        let (cluster, node) = (self.options.cluster, self.options.node);
        if header.cluster_id.as_ref() != cluster.0.to_be_bytes() {
            return refused(format!(
                "this is a node of cluster {cluster}, the message is of another"
            ));
        }
        if header.to != node.0 {
            return refused(format!("this is node {node}, the message is for node {}", header.to));
        }
        if header.from == node.0 {
            return refused(format!(
                "a message from node {node} to itself: another node uses its number"
            ));
        }
        let group = GroupId(header.group);
        let found = self.group(group);
        if found
            .as_ref()
            .is_some_and(|inner| inner.given_up.contains(&header.from))
        {
            return refused(format!(
                "node {} was given up when group {group} was recovered on node {node}: its data folder must not be used any more",
                header.from
            ));
        }
        match found.and_then(|inner| Some((inner.running()?.raft, inner))) {
            Some((raft, inner)) => Ok((inner, raft)),
            None => refused(format!("group {group} is not open on node {node}")),
        }
    }
}

#[async_trait]
impl RaftService for HostShared {
    async fn append(&self, mut requests: BoxStream<'static, v1::RaftAppendRequest>) -> Result<AppendAnswers, RpcError> {
        let Some(first) = requests.next().await else {
            return Ok(stream::empty().boxed());
        };
        let (_, raft) = self.addressed(first.header.as_ref())?;
        let header = first.header.clone();
        // What is malformed, or suddenly of another group, ends the stream; the leader opens another.
        let valid = stream::once(async { first })
            .chain(requests)
            .map(move |request| {
                if request.header == header {
                    request_from(request)
                } else {
                    Err(Malformed("an append stream changed its header".into()))
                }
            })
            .take_while(|request| {
                if let Err(error) = request {
                    tracing::warn!(%error, "an append stream was ended");
                }
                std::future::ready(request.is_ok())
            })
            .filter_map(|request| std::future::ready(request.ok()));
        let answers = raft.stream_append(valid.boxed());
        let answers = answers.map(|answer| answer.map(|a| answer_to(&a)).map_err(stopped));
        Ok(answers.boxed())
    }

    async fn heartbeat(&self, request: v1::RaftAppendRequest) -> Result<v1::RaftAppendResponse, RpcError> {
        let (group, raft) = self.addressed(request.header.as_ref())?;
        let request = request_from(request)?;
        let previous = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(previous);
        let answer = raft.append_entries(request).await.map_err(stopped)?;
        let result = match answer {
            AppendEntriesResponse::Conflict if previous.is_none() => {
                return Err(RpcError::Refused("a conflict before the first entry".into()));
            }
            answer => answer.into_stream_result(previous, last),
        };
        Ok(v1::RaftAppendResponse {
            takes_no_writes: group.takes_no_writes(),
            ..answer_to(&result)
        })
    }

    async fn vote(&self, request: v1::RaftVoteRequest) -> Result<v1::RaftVoteResponse, RpcError> {
        let (inner, raft) = self.addressed(request.header.as_ref())?;
        let last = request.last_log_id.map(codec::log_id_from);
        // What this node's last replica had taken counts, also for who does not know yet that it was removed: a vote of the new
        // one, which has nothing, for a candidate without it could lose what was acknowledged.
        let (store, id) = (self.options.store.clone(), inner.id);
        let left = blocking(move || left_at(store.backend().as_ref(), id)).await;
        let left = left.map_err(|error| RpcError::Broken(error.to_string()))?;
        let left = left.map_err(|error| RpcError::Broken(error.to_string()))?;
        if last < left {
            return Err(RpcError::Refused(format!(
                "a replica that was here had entries of group {id} which the candidate does not have"
            )));
        }
        let mut ask = VoteRequest::new(codec::vote_of(request.vote)?, last);
        ask.leadership_transfer = request.leadership_transfer;
        let answer = if request.pre_vote {
            raft.pre_vote(ask).await
        } else {
            raft.vote(ask).await
        };
        let answer = answer.map_err(stopped)?;
        Ok(v1::RaftVoteResponse {
            vote: Some(codec::vote_to(&answer.vote)),
            granted: answer.vote_granted,
            last_log_id: answer.last_log_id.as_ref().map(codec::log_id_to),
        })
    }

    async fn snapshot(
        &self,
        mut chunks: BoxStream<'static, v1::RaftSnapshotChunk>,
    ) -> Result<v1::RaftSnapshotResponse, RpcError> {
        let Some(first) = chunks.next().await else {
            return Err(RpcError::Refused("a snapshot without a chunk".into()));
        };
        let (inner, raft) = self.addressed(first.header.as_ref())?;
        let vote = codec::vote_of(first.vote)?;
        let staging = inner.machine.stage().map_err(stopped)?;
        let staging = tokio::select! {
            () = inner.closed.cancelled() => return Err(RpcError::Broken("the replica is being closed".into())),
            staging = receive(staging, first, chunks) => staging?,
        };
        let meta = staging.head().map(Head::meta).unwrap_or_default();
        tracing::info!(group = %inner.id, last = ?meta.last_log_id, "installing a snapshot");
        let snapshot = Snapshot {
            meta,
            snapshot: SnapshotData::Staged(staging),
        };
        let answer = raft.install_full_snapshot(vote, snapshot).await.map_err(stopped)?;
        self.metrics.snapshots_received.inc();
        Ok(v1::RaftSnapshotResponse {
            vote: Some(codec::vote_to(&answer.vote)),
        })
    }

    async fn transfer_leader(&self, request: v1::RaftTransferRequest) -> Result<v1::RaftTransferResponse, RpcError> {
        let (_, raft) = self.addressed(request.header.as_ref())?;
        let request = TransferLeaderRequest::new(
            codec::vote_of(request.from_leader)?,
            request.to_node,
            request.last_log_id.map(codec::log_id_from),
        );
        let answer = raft.handle_transfer_leader(request).await.map_err(stopped)?;
        Ok(match answer {
            Ok(()) => v1::RaftTransferResponse::default(),
            Err(error) => {
                let (expected_vote, actual_vote) = match &error {
                    TransferLeaderError::VoteChanged { expected, actual } => {
                        (Some(codec::vote_to(expected)), Some(codec::vote_to(actual)))
                    }
                    TransferLeaderError::LogNotFlushed { .. } => (None, None),
                };
                v1::RaftTransferResponse {
                    refused: error.to_string(),
                    expected_vote,
                    actual_vote,
                }
            }
        })
    }

    async fn read_index(&self, request: v1::RaftReadIndexRequest) -> Result<v1::RaftReadIndexResponse, RpcError> {
        let (inner, _) = self.addressed(request.header.as_ref())?;
        let group = Group { inner };
        let confirmed = group.read_index().await;
        let index = confirmed.map_err(|error| RpcError::Refused(error.to_string()))?;
        // After the confirmation: who is told that it is no member ended before it asked.
        let status = group.status();
        let members = status.voters.iter().chain(&status.learners).map(|node| node.0);
        Ok(v1::RaftReadIndexResponse {
            index,
            members: members.collect(),
        })
    }
}

/// Writes all chunks. What is given up is removed when the staging is dropped.
async fn receive(
    mut staging: Staging,
    first: v1::RaftSnapshotChunk,
    mut chunks: BoxStream<'static, v1::RaftSnapshotChunk>,
) -> Result<Staging, RpcError> {
    let mut next = Some(first);
    loop {
        let Some(chunk) = next.take() else {
            return Err(RpcError::Broken("a snapshot was given up by its sender".into()));
        };
        let (taken, result) = blocking(move || {
            let result = take_chunk(&mut staging, chunk);
            (staging, result)
        })
        .await
        .map_err(stopped)?;
        staging = taken;
        if result.map_err(stopped)? {
            return Ok(staging);
        }
        next = tokio::time::timeout(CHUNK_WITHIN, chunks.next())
            .await
            .map_err(|_| RpcError::Broken("a snapshot stood still".into()))?;
    }
}

fn take_chunk(staging: &mut Staging, chunk: v1::RaftSnapshotChunk) -> Result<bool, crate::store::StoreError> {
    if let Some(head) = chunk.head {
        staging.take(SnapshotPart::Head(codec::head_from(head)))?;
    }
    if !chunk.rows.is_empty() {
        staging.take(SnapshotPart::Rows(chunk.rows))?;
    }
    match chunk.rows_total {
        Some(rows_total) => staging.take(SnapshotPart::End { rows_total }),
        None => Ok(false),
    }
}
