//! Deletes in the catalogue: recorded, taken into the logs of all shards, carried out in blocks, forgotten.
//!
//! Invariant: the revision of a delete is greater than those of all before it, and a view of the catalogue knows it
//! exactly if it is not older.
//! Invariant: a record goes only when no log of a shard waits for it and no object of the bucket that it masks is named.

use super::machine::{Effect, Refusal};
use crate::deletes::masks;
use gnomon_model::TenantId;
use gnomon_model::ids::DELETES_FEATURE_LEVEL;
use gnomon_proto::v1::{MetaState, TombstoneRecord, TombstonesApplied};
use prost::Message;

/// Deletes that are not forgotten yet.
pub const MAX_TOMBSTONES: usize = 1000;
/// What a delete's record may have, bytes. It is part of a log entry.
pub const MAX_DELETE_BYTES: usize = 64 << 10;
/// The same of all together.
const MAX_TOTAL_BYTES: usize = 1 << 20;
const MAX_PATH_BYTES: usize = 1024;

fn adding(revision: u64, changed: bool) -> Effect {
    Effect {
        tombstone_revision: revision,
        ..Effect::catalogue(changed)
    }
}

pub(super) fn add(state: &mut MetaState, tombstone: &TombstoneRecord, now_ms: i64) -> Result<Effect, Refusal> {
    if state.feature_level < DELETES_FEATURE_LEVEL.0 {
        return Err(format!(
            "the cluster is at feature level {}, deletes need {DELETES_FEATURE_LEVEL}",
            state.feature_level
        )
        .into());
    }
    check(tombstone)?;
    if let Some(there) = state.tombstones.iter().find(|t| t.path == tombstone.path) {
        return Ok(adding(there.revision, false));
    }
    let bytes: usize = state.tombstones.iter().map(Message::encoded_len).sum();
    if state.tombstones.len() >= MAX_TOMBSTONES || bytes + tombstone.encoded_len() > MAX_TOTAL_BYTES {
        return Err(format!(
            "{} deletes of {bytes} bytes are not carried out yet, {MAX_TOMBSTONES} and {MAX_TOTAL_BYTES} are possible: \
             clean_tombstones carries them out",
            state.tombstones.len()
        )
        .into());
    }
    let mut shards: Vec<u32> = state.epochs.iter().flat_map(|e| &e.shards).copied().collect();
    shards.sort_unstable();
    shards.dedup();
    let revision = state.catalogue_revision + 1;
    state.tombstones.push(TombstoneRecord {
        revision,
        since_ms: now_ms,
        pending_shards: shards,
        ..tombstone.clone()
    });
    Ok(adding(revision, true))
}

fn check(tombstone: &TombstoneRecord) -> Result<(), Refusal> {
    tombstone
        .tenant
        .parse::<TenantId>()
        .map_err(|e| Refusal(e.to_string()))?;
    if tombstone.path.is_empty() || tombstone.path.len() > MAX_PATH_BYTES {
        return Err(format!("the path of a delete has not 1 to {MAX_PATH_BYTES} bytes").into());
    }
    if tombstone.start_ms > tombstone.end_ms {
        return Err("a delete ends before it begins".into());
    }
    if tombstone.series.is_empty() || tombstone.series.iter().any(|set| set.matchers.is_empty()) {
        return Err("a delete names no series".into());
    }
    let bytes = tombstone.encoded_len();
    if bytes > MAX_DELETE_BYTES {
        return Err(format!("a delete of {bytes} bytes: {MAX_DELETE_BYTES} are possible").into());
    }
    Ok(())
}

pub(super) fn applied(state: &mut MetaState, c: &TombstonesApplied) -> Effect {
    let mut changed = false;
    for tombstone in state.tombstones.iter_mut().filter(|t| t.revision <= c.revision) {
        let before = tombstone.pending_shards.len();
        tombstone.pending_shards.retain(|shard| *shard != c.shard);
        changed |= tombstone.pending_shards.len() != before;
    }
    Effect::catalogue(changed)
}

/// Drops records, all or none; those that are gone already are no matter.
pub(super) fn forget(state: &mut MetaState, revisions: &[u64]) -> Result<Effect, Refusal> {
    let goes = |t: &&TombstoneRecord| revisions.contains(&t.revision);
    for tombstone in state.tombstones.iter().filter(goes) {
        let revision = tombstone.revision;
        if let Some(shard) = tombstone.pending_shards.first() {
            return Err(format!("the log of shard {shard} does not have the delete of revision {revision} yet").into());
        }
        if let Some(block) = state.blocks.iter().find(|block| masks(tombstone, block)) {
            return Err(format!("the delete of revision {revision} masks block {}", block.id).into());
        }
    }
    let newest = state.tombstones.iter().filter(goes).map(|t| t.revision).max();
    let Some(newest) = newest else {
        return Ok(Effect::NONE);
    };
    state.tombstones.retain(|t| !revisions.contains(&t.revision));
    state.forgotten_tombstone_revision = state.forgotten_tombstone_revision.max(newest);
    Ok(Effect::catalogue(true))
}

/// Up to the newest delete there is.
pub(super) fn clean(state: &mut MetaState) -> Effect {
    let newest = state.tombstones.last().map_or(0, |t| t.revision);
    let changed = newest > state.clean_revision;
    state.clean_revision = state.clean_revision.max(newest);
    adding(newest, changed)
}
