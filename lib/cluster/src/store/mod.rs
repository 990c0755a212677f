//! The node's store: one RocksDB for all groups' logs, votes and state.
//!
//! ```text
//! groups --submit--> writer thread --one synced batch--> Backend (RocksDB, or memory with faults)
//! flushes -----------write_now------one synced batch---->
//! ```
//! Invariant: after a failed write nothing is taken from any group that was open then ([`NodeStore::epoch`]), so that
//! no later write can stand where an earlier one is missing. Groups are opened again after [`NodeStore::recover`].

mod backend;
mod disk;
mod error;
mod memory;
pub(crate) mod metrics;
mod node;
mod rocks;
#[cfg(test)]
mod tests;
mod writer;

pub use backend::{Backend, Batch, SharedBackend, Space, Visit};
pub use disk::LowDisk;
pub use error::StoreError;
pub use memory::{Faults, MemoryBackend};
pub(crate) use node::Health;
pub use node::{Identity, NodeStore, StoreOptions};
pub use writer::{Done, Submission, Write};
