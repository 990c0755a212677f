//! Why the store could not do something.

/// Errors name the operation and what the storage engine or the system said.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The engine refused or failed; after a failed write the store refuses writes until it is reopened.
    #[error("{operation}: {message}")]
    Engine { operation: &'static str, message: String },
    /// An earlier write failed; what is stored is whole, but nothing is taken until the store is reopened.
    #[error("the store failed earlier and was not reopened yet")]
    Failed,
    #[error("the data folder belongs to {found}, not to {expected}")]
    WrongIdentity { found: String, expected: String },
    #[error("stored record {what} cannot be understood: {why}")]
    Corrupt { what: String, why: String },
    #[error("data folder {path}: {message}")]
    Folder { path: String, message: String },
    #[error("the store is closed")]
    Closed,
}

impl From<StoreError> for std::io::Error {
    fn from(error: StoreError) -> Self {
        Self::other(error)
    }
}
