//! The metadata group: what the whole cluster agrees on, and the rules by which it changes.

mod call_off;
mod catalogue;
pub(crate) mod changes;
mod checkpoint;
mod config;
mod epochs;
mod forget;
mod ha;
mod jobs;
mod machine;
mod nodes;
mod rebuild;
mod reshard;
mod scrapers;
mod service;
mod stored;
#[cfg(test)]
pub(crate) mod tests;
mod tombstones;

pub use call_off::call_off;
pub use checkpoint::{
    CheckpointError, keep_checkpoints, read_newest_checkpoint, remove_newer_checkpoints, write_checkpoint,
};
pub use config::MAX_CONFIG_BYTES;
pub use epochs::{EPOCH_GUARD_MS, MAX_SHARDS};
pub(crate) use forget::forgettable;
pub use forget::{CannotForget, FORGET_AFTER_MS, check_forget, forget_node};
pub use ha::{MAX_HA_NAME_BYTES, MAX_HA_PAIRS, fills_from_ms};
pub use machine::MetaMachine;
pub(crate) use nodes::FOUNDER_ID;
pub use nodes::MAX_LEASE_MS;
pub use rebuild::{FoundBlock, FoundDelete, rebuild};
pub use reshard::{
    Beginning, CannotReshard, RESHARD_LEAD_MS, Reshard, ReshardProgress, plan_reshard, reshard, reshard_progress,
    shards_in_force,
};
pub(crate) use scrapers::overdue as overdue_scrapers;
pub use service::{MetaLog, MetaNode};
pub use tombstones::{MAX_DELETE_BYTES, MAX_TOMBSTONES};
