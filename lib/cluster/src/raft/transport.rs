//! The seam of the network: Raft's messages between nodes, above gRPC.
//!
//! [`RaftService`] is what a node answers; [`RaftTransport`] carries the same calls to a node by number. Bodies: tonic
//! (`grpc.rs`), and one in the process that drops, delays and partitions (`local.rs`).

use async_trait::async_trait;
use futures::stream::BoxStream;
use gnomon_model::NodeId;
use gnomon_proto::v1::{
    RaftAppendRequest, RaftAppendResponse, RaftReadIndexRequest, RaftReadIndexResponse, RaftSnapshotChunk,
    RaftSnapshotResponse, RaftTransferRequest, RaftTransferResponse, RaftVoteRequest, RaftVoteResponse,
};

/// Why a message was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcError {
    /// The node cannot be reached now; it is asked again after a while.
    #[error("node {node} cannot be reached: {why}")]
    Unreachable { node: NodeId, why: String },
    /// The node answered that it will not: wrong cluster, wrong node, no such group, shutting down.
    #[error("refused: {0}")]
    Refused(String),
    /// The connection broke, or nothing came in time.
    #[error("{0}")]
    Broken(String),
}

/// Answers of one append stream, in the order of its requests.
pub type AppendAnswers = BoxStream<'static, Result<RaftAppendResponse, RpcError>>;

/// What a node does for its peers.
#[async_trait]
pub trait RaftService: Send + Sync + 'static {
    /// All requests of a stream are of one group; the first tells which.
    async fn append(&self, requests: BoxStream<'static, RaftAppendRequest>) -> Result<AppendAnswers, RpcError>;
    async fn heartbeat(&self, request: RaftAppendRequest) -> Result<RaftAppendResponse, RpcError>;
    /// Votes and pre-votes.
    async fn vote(&self, request: RaftVoteRequest) -> Result<RaftVoteResponse, RpcError>;
    /// A stream that ends without its last chunk was given up by the sender.
    async fn snapshot(&self, chunks: BoxStream<'static, RaftSnapshotChunk>) -> Result<RaftSnapshotResponse, RpcError>;
    async fn transfer_leader(&self, request: RaftTransferRequest) -> Result<RaftTransferResponse, RpcError>;
    /// Refused where this node does not lead the group.
    async fn read_index(&self, request: RaftReadIndexRequest) -> Result<RaftReadIndexResponse, RpcError>;
}

/// Carries calls to other nodes. Within one append stream order is kept; nothing else is promised.
#[async_trait]
pub trait RaftTransport: Send + Sync + 'static {
    async fn append(
        &self,
        to: NodeId,
        requests: BoxStream<'static, RaftAppendRequest>,
    ) -> Result<AppendAnswers, RpcError>;
    async fn heartbeat(&self, to: NodeId, request: RaftAppendRequest) -> Result<RaftAppendResponse, RpcError>;
    async fn vote(&self, to: NodeId, request: RaftVoteRequest) -> Result<RaftVoteResponse, RpcError>;
    async fn snapshot(
        &self,
        to: NodeId,
        chunks: BoxStream<'static, RaftSnapshotChunk>,
    ) -> Result<RaftSnapshotResponse, RpcError>;
    async fn transfer_leader(&self, to: NodeId, request: RaftTransferRequest)
    -> Result<RaftTransferResponse, RpcError>;
    async fn read_index(&self, to: NodeId, request: RaftReadIndexRequest) -> Result<RaftReadIndexResponse, RpcError>;
}
