//! Why a piece of the compactor's work was not done.

use gnomon_proto::ServiceError;
use gnomon_tsdb::{BlockError, PageError};

#[derive(Debug, thiserror::Error)]
pub enum CompactorError {
    /// The metadata group decided against it: the catalogue is not as the caller saw it.
    #[error("refused by the metadata group: {0}")]
    Refused(String),
    #[error("metadata group: {0}")]
    Metadata(#[from] ServiceError),
    #[error(transparent)]
    Block(#[from] BlockError),
    #[error("merging {labels}: {source}")]
    Page { labels: String, source: PageError },
    #[error("bucket: {0}")]
    Bucket(#[from] object_store::Error),
    /// A record of the catalogue, or a block and its record, contradict themselves.
    #[error("block {block}: {what}")]
    Record { block: String, what: String },
    /// This node said nothing for longer than its lease of the work, and another one had it since.
    #[error("another node took over the job {0}: it is planned anew")]
    Lost(String),
    #[error("the compactor is stopping")]
    Stopped,
}
