//! The node's store: one RocksDB for all groups' logs, votes and state.
//!
//! ```text
//! groups --submit--> writer thread --one synced batch--> Backend (RocksDB, or memory with faults)
//! flushes ---------write_durably----one synced batch---->
//! ```
//! Invariant: a write that fails is made again before any later one of the writer thread (`gate.rs`), so that no later
//! write can stand where an earlier one is missing. What is not waited for ([`NodeStore::write_now`]) fails instead.

mod backend;
mod disk;
mod error;
mod gate;
mod held;
mod memory;
pub(crate) mod metrics;
mod node;
mod rocks;
#[cfg(test)]
mod tests;
mod writer;

pub use backend::{Backend, Batch, Saved, SharedBackend, Space, Visit};
pub use disk::LowDisk;
pub(crate) use disk::give_up_ballast;
pub use error::StoreError;
pub use gate::Trouble;
pub use memory::{Faults, MemoryBackend};
pub use node::{Identity, NodeStore, StoreOptions};
pub use rocks::open_rocksdb;
pub use writer::{Done, Pace, Submission, Write};
