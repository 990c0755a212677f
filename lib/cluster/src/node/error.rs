//! Why a node does not become a member.

use crate::layers::BadAddress;
use crate::meta::CheckpointError;
use crate::raft::GroupError;
use crate::store::StoreError;
use gnomon_model::{ClusterId, FeatureLevel, NodeId};
use gnomon_proto::ServiceError;

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("{path}: {why}")]
    Folder { path: String, why: String },
    #[error("object store: {0}")]
    Bucket(String),
    #[error("the catalogue that is in the bucket cannot be taken over: {0}")]
    Checkpoint(#[from] CheckpointError),
    #[error(
        "the catalogue in the bucket {bucket} is at feature level {found}, this build understands {understands} only: start \
         a newer one"
    )]
    NewerCatalogue {
        bucket: String,
        found: FeatureLevel,
        understands: FeatureLevel,
    },
    #[error(
        "the bucket {bucket} belongs to cluster {found}, and this data folder is new: a cluster is founded once. \
         Name its nodes in --cluster.peers to join it, give the data folder back that founded it, or use another \
         bucket. Where its data folders are lost: gnomon cluster recover"
    )]
    Taken { bucket: String, found: ClusterId },
    #[error(
        "the data folder {folder} belongs to cluster {ours}, the bucket {bucket} to cluster {found}: \
         use the folder and the bucket of one cluster"
    )]
    OtherCluster {
        folder: String,
        bucket: String,
        ours: ClusterId,
        found: ClusterId,
    },
    #[error(
        "the bucket {bucket} has no mark of cluster {cluster}, which this node is a member of: it is another bucket, or its \
         disk is not mounted. Where it is the right one and lost its mark, or blocks begin anew in an empty one, put this into \
         it as cluster.json: {mark}"
    )]
    Unmarked {
        bucket: String,
        cluster: ClusterId,
        mark: String,
    },
    #[error(
        "the data folder {folder} is of cluster {cluster} as it was before it was recovered without this node (generation \
         {ours}, the bucket says {found}): what it has must not come back. Start it with an empty data folder"
    )]
    LeftBehind {
        folder: String,
        cluster: ClusterId,
        ours: u64,
        found: u64,
    },
    #[error(
        "the data folder {folder} belongs to cluster {ours}, the peers are of cluster {found}: \
         check --cluster.peers and --storage.tsdb.path"
    )]
    OtherPeers {
        folder: String,
        ours: ClusterId,
        found: ClusterId,
    },
    #[error(
        "the data folder {folder} and the peers are of different clusters: {why}: check --cluster.peers and --storage.tsdb.path"
    )]
    Strangers { folder: String, why: String },
    #[error(
        "the peers are of cluster {cluster}, the bucket {bucket} {}: --storage.object-store has to name the cluster's own",
        found.map_or_else(|| "of none".to_owned(), |found| format!("of cluster {found}"))
    )]
    OtherBucket {
        bucket: String,
        cluster: ClusterId,
        /// None where the bucket is marked by no cluster.
        found: Option<ClusterId>,
    },
    #[error(
        "the data folder {folder} is a copy of node {node}'s, or an older state of it: the cluster knows of later starts, the \
         last at {address}. Start the node with the folder it ran with last; a further node begins with an empty one"
    )]
    Copied {
        folder: String,
        node: NodeId,
        address: String,
    },
    #[error("roles {0} need a cluster: name its ingesters in --cluster.peers")]
    NoPeers(String),
    #[error("--cluster.peers: {0}")]
    Peer(#[from] BadAddress),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("metadata group: {0}")]
    Group(#[from] GroupError),
    #[error("the cluster refused this node: {0}")]
    Refused(String),
    #[error("the metadata group does not answer: {0}")]
    Meta(#[from] ServiceError),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error("stopped while starting")]
    Stopped,
}
