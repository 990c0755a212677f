//! Why the store could not do something.

/// Errors name the operation and what the storage engine or the system said.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The engine refused or failed; after a failed write it takes nothing until it is reopened.
    #[error("{operation}: {message}")]
    Engine { operation: &'static str, message: String },
    /// The engine found bytes that it did not write. Room does not help.
    #[error(
        "{operation}: {message}: files of the store are damaged; where the shards have other replicas, stop this node, move its \
         data folder away and start it: it is filled anew. Else start it with a backup of the folder, or keep what it still \
         answers (gnomon block export)"
    )]
    Damaged { operation: &'static str, message: String },
    /// An earlier write failed, and what was not synced before may be lost with it.
    #[error("the store failed earlier")]
    Failed,
    /// Free space is short of what a write and the engine's own work need.
    #[error("disk full: {free_bytes} bytes are free, {needed_bytes} are needed")]
    Full { free_bytes: u64, needed_bytes: u64 },
    #[error("the file system is read-only")]
    ReadOnly,
    /// The store was closed before a write could be made.
    #[error("nothing could be written any more: {0}")]
    Waiting(String),
    #[error("the data folder belongs to {found}, not to {expected}")]
    WrongIdentity { found: String, expected: String },
    #[error("stored record {what} cannot be understood: {why}")]
    Corrupt { what: String, why: String },
    #[error("data folder {path} (--storage.tsdb.path): {message}")]
    Folder { path: String, message: String },
    #[error("{path} is in use by another process: give each process a data folder (--storage.tsdb.path) of its own")]
    InUse { path: String },
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether more free space could be what is missing: not where files are damaged, missing, or another's. By the system's words,
    /// which is all that the engine passes on.
    pub(super) fn may_want_room(&self) -> bool {
        let Self::Engine { message, .. } = self else {
            return matches!(self, Self::Full { .. } | Self::Failed);
        };
        let has_other_cause = ["Permission denied", "Read-only file system", "No such file"];
        !has_other_cause.iter().any(|cause| message.contains(cause))
    }
}

impl From<StoreError> for std::io::Error {
    fn from(error: StoreError) -> Self {
        Self::other(error)
    }
}
