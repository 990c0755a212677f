//! The ingester role: routing, shard groups, the head, sealing and upload.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod head;
mod shard;

pub use head::{BadPage, WINDOW_MS};
