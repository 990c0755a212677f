//! The ingester role: routing, shard groups, the head, sealing and upload.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod duties;
pub mod grpc;
mod ha;
mod head;
mod intake;
mod metrics;
pub mod otlp;
pub mod remote_write;
mod service;
mod shard;
mod start;
#[cfg(test)]
mod testing;

pub use duties::{Duties, DutyContext, DutyOptions, UploadError};
pub use ha::{HaOptions, HaTracker, fill_turns};
pub use head::{BadPage, WINDOW_MS};
pub use intake::Intake;
pub use metrics::{GrpcWriteMetrics, IngesterMetrics, OtlpMetrics, RemoteWriteMetrics};
pub use service::{SeriesLimits, Shard, ShardLog, Shards, WriteOptions};
pub use shard::{ShardMachine, entry};
pub use start::{Ingester, IngesterError, IngesterOptions};
