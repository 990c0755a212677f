//! The node's store: one RocksDB for all groups' logs, votes and state.

mod error;

pub use error::StoreError;
