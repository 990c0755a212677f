//! The ingester role: routing, shard groups, the head, sealing and upload.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod head;
mod metrics;
pub mod remote_write;
mod service;
mod shard;
#[cfg(test)]
mod testing;

pub use head::{BadPage, WINDOW_MS};
pub use metrics::{IngesterMetrics, RemoteWriteMetrics};
pub use service::{Shard, ShardLog, Shards, WriteOptions};
pub use shard::{ShardMachine, entry};
