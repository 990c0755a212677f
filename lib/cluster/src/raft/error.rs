//! What callers of a group are told.

use gnomon_model::{GroupId, NodeId};
use gnomon_proto::ServiceError;

/// Largest payload of one entry, in bytes.
pub const MAX_ENTRY_BYTES: usize = 1 << 20;

/// Why a proposal was not answered with its response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was done; ask the leader, where it is known.
    #[error("this node is not the leader of the group{}", leader_hint(.leader))]
    NotLeader { leader: Option<NodeId> },
    #[error("an entry of {bytes} bytes was proposed: at most {MAX_ENTRY_BYTES} are possible")]
    TooLarge { bytes: usize },
    /// Nothing was done: free space is below the watermark.
    #[error(
        "low disk: {free_bytes} bytes are free in the data folder {folder}, writes are taken again above {needed_bytes}"
    )]
    LowDisk {
        folder: String,
        free_bytes: u64,
        needed_bytes: u64,
    },
    /// Nothing was done: the data folder cannot be written.
    #[error("{0}; writes are taken again once it can be written")]
    BadDisk(String),
    /// Nothing was done: the group is starting, restarting or overloaded.
    #[error("the group is not available: {0}")]
    Unavailable(String),
    /// It may be committed or not, now or later; asking again must be harmless.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// The group was shut down and will not come back in this process.
    #[error("the group is shut down")]
    Closed,
}

/// Why a read index could not be confirmed. Nothing was read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("this node is not the leader of the group{}", leader_hint(.leader))]
    NotLeader { leader: Option<NodeId> },
    /// No quorum confirmed the leader in time, or the group is starting.
    #[error("the group is not available: {0}")]
    Unavailable(String),
    #[error("the group is shut down")]
    Closed,
}

/// Why members could not be changed, or a group or the host could not be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    #[error(transparent)]
    State(#[from] super::StateError),
    #[error("group {0} is open already")]
    AlreadyOpen(GroupId),
    #[error("this node is not the leader of the group{}", leader_hint(.leader))]
    NotLeader { leader: Option<NodeId> },
    /// The change of members was refused; says why.
    #[error("members cannot be changed so: {0}")]
    Members(String),
    #[error("the group is not available: {0}")]
    Unavailable(String),
    #[error("raft configuration: {0}")]
    Config(String),
    #[error("the group is shut down")]
    Closed,
}

fn leader_hint(leader: &Option<NodeId>) -> String {
    leader.map_or_else(String::new, |id| format!(" (that is node {id})"))
}

impl From<ProposeError> for ServiceError {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::NotLeader { leader } => Self::NotLeader {
                leader: leader.map(|id| id.0),
            },
            // Asking again at once is of no use: the caller is told.
            ProposeError::LowDisk { .. } | ProposeError::BadDisk(_) => Self::LimitExceeded(error.to_string()),
            ProposeError::TooLarge { .. } => Self::Invalid(error.to_string()),
            ProposeError::Unknown(message) => Self::Unknown(message),
            ProposeError::Unavailable(_) | ProposeError::Closed => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<ReadError> for ServiceError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotLeader { leader } => Self::NotLeader {
                leader: leader.map(|id| id.0),
            },
            ReadError::Unavailable(_) | ReadError::Closed => Self::Unavailable(error.to_string()),
        }
    }
}
