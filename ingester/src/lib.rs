//! The ingester role: routing, shard groups, the head, sealing and upload.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod duties;
mod head;
mod metrics;
pub mod remote_write;
mod service;
mod shard;
mod start;
#[cfg(test)]
mod testing;

pub use duties::{Duties, DutyContext, DutyOptions, UploadError};
pub use head::{BadPage, WINDOW_MS};
pub use metrics::{IngesterMetrics, RemoteWriteMetrics};
pub use service::{SeriesLimits, Shard, ShardLog, Shards, WriteOptions};
pub use shard::{ShardMachine, entry};
pub use start::{Ingester, IngesterError, IngesterOptions};
