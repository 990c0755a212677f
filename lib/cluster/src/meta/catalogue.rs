//! The life of blocks: staged before anything is uploaded, live when readers may use them, condemned when they must
//! not any more, forgotten when their objects are gone.
//!
//! Invariant: a part of a shard is covered by one live block at most, and by one staged block at most beside it.
//! Invariant: no state is ever gone back to.
//! Invariant: what an object may take of the bucket is reserved when it is staged, and counts until its record is
//! forgotten, which is after it was deleted: records never name less than the bucket holds.

use super::machine::{Effect, Refusal};
use crate::bounds::misplaced;
use crate::retention::{charged_bytes, used_bytes};
use gnomon_model::ids::DELETES_FEATURE_LEVEL;
use gnomon_model::{BlockId, PartId, TenantId};
use gnomon_proto::v1::block_record::State;
use gnomon_proto::v1::{AdoptCatalogue, BlockRecord, CondemnBlocks, FirstPart, MetaState, StageBlock};

const MAX_BLOCKS: usize = 500_000;
/// Parts and inputs of one block.
const MAX_MEMBERS: usize = 20_000;
const MAX_PATH_BYTES: usize = 1024;

fn find(state: &MetaState, id: &str) -> Result<usize, usize> {
    state.blocks.binary_search_by(|b| b.id.as_str().cmp(id))
}

pub(super) fn stage(state: &mut MetaState, command: &StageBlock, now_ms: i64) -> Result<Effect, Refusal> {
    let block = command.block.as_ref().ok_or("no block")?;
    check(state, block)?;
    let at = match find(state, &block.id) {
        Ok(at) if state.blocks[at].state() == State::Staged && same_block(&state.blocks[at], block) => {
            return Ok(Effect::NONE);
        }
        Ok(_) => return Err(format!("block {} is in the catalogue already", block.id).into()),
        Err(at) => at,
    };
    if state.blocks.len() >= MAX_BLOCKS {
        return Err(format!("the catalogue has {MAX_BLOCKS} blocks, which is the limit").into());
    }
    check_inputs(state, block)?;
    let rival = |b: &&BlockRecord| {
        b.state() != State::Condemned
            && b.shard == block.shard
            && b.tenant == block.tenant
            && !block.inputs.contains(&b.id)
            && b.parts.iter().any(|p| block.parts.binary_search(p).is_ok())
    };
    if let Some(rival) = state.blocks.iter().find(rival) {
        let part = rival.parts.iter().find(|p| block.parts.binary_search(p).is_ok());
        return Err(format!(
            "part {}/{} is covered by block {} ({})",
            block.shard,
            part.copied().unwrap_or(0),
            rival.id,
            rival.state().as_str_name().to_lowercase()
        )
        .into());
    }
    check_room(state, block, command.cap_bytes)?;
    let mut block = block.clone();
    block.set_state(State::Staged);
    block.since_ms = now_ms;
    state.blocks.insert(at, block);
    Ok(Effect::catalogue(true))
}

fn check(state: &MetaState, block: &BlockRecord) -> Result<(), Refusal> {
    check_itself(block)?;
    if let Some(why) = misplaced(state, block) {
        return Err(why.into());
    }
    check_deletes(state, block)
}

/// What can be said of a block by itself.
fn check_itself(block: &BlockRecord) -> Result<(), Refusal> {
    block.id.parse::<BlockId>().map_err(|e| Refusal(e.to_string()))?;
    block.tenant.parse::<TenantId>().map_err(|e| Refusal(e.to_string()))?;
    if block.start_ms >= block.end_ms {
        return Err(format!("the window of block {} is empty", block.id).into());
    }
    if block.path.is_empty() || block.path.len() > MAX_PATH_BYTES {
        return Err(format!("the path of block {} has not 1 to {MAX_PATH_BYTES} bytes", block.id).into());
    }
    if block.parts.is_empty() || block.parts.len() > MAX_MEMBERS || block.inputs.len() > MAX_MEMBERS {
        return Err(format!("block {} has not 1 to {MAX_MEMBERS} parts, or more inputs", block.id).into());
    }
    if !block.parts.is_sorted_by(|a, b| a < b) {
        return Err(format!("the parts of block {} do not ascend", block.id).into());
    }
    Ok(())
}

/// What forgotten deletes mask must not come back: whoever made the block has to begin again, with those carried out.
fn check_deletes(state: &MetaState, block: &BlockRecord) -> Result<(), Refusal> {
    let (forgotten, carried_out) = (state.forgotten_tombstone_revision, block.tombstone_revision);
    if carried_out >= forgotten {
        return Ok(());
    }
    Err(format!(
        "block {} has carried out deletes up to revision {carried_out}, those up to {forgotten} are forgotten",
        block.id
    )
    .into())
}

/// Two who stage at the same time cannot both take the last room: one of the commands is the later one.
fn check_room(state: &MetaState, block: &BlockRecord, cap_bytes: u64) -> Result<(), Refusal> {
    let (used, needed) = (used_bytes(&state.blocks), charged_bytes(block.bytes));
    if cap_bytes == 0 || used.saturating_add(needed) <= cap_bytes {
        return Ok(());
    }
    Err(format!(
        "block {} needs {needed} bytes, and {used} of the {cap_bytes} that retention allows are taken",
        block.id
    )
    .into())
}

/// All inputs are live, and the block covers what they cover, no more and no less.
fn check_inputs(state: &MetaState, block: &BlockRecord) -> Result<(), Refusal> {
    if block.inputs.is_empty() {
        return Ok(());
    }
    let mut parts = Vec::new();
    for (i, id) in block.inputs.iter().enumerate() {
        let input = find(state, id).map(|at| &state.blocks[at]);
        let input = input.map_err(|_| Refusal(format!("input {id} is not in the catalogue")))?;
        if input.state() != State::Live {
            return Err(format!("input {id} is {}, not live", input.state().as_str_name().to_lowercase()).into());
        }
        if input.shard != block.shard || input.tenant != block.tenant || block.inputs[..i].contains(id) {
            return Err(format!("input {id} is of another shard or tenant, or named twice").into());
        }
        parts.extend_from_slice(&input.parts);
    }
    parts.sort_unstable();
    if parts != block.parts {
        return Err(format!("block {} does not cover exactly the parts of its inputs", block.id).into());
    }
    Ok(())
}

/// Whether two records are of one attempt: what is fixed when a block is staged.
fn same_block(a: &BlockRecord, b: &BlockRecord) -> bool {
    (a.shard, a.start_ms, a.end_ms, a.level) == (b.shard, b.start_ms, b.end_ms, b.level)
        && a.id == b.id
        && a.tenant == b.tenant
        && a.path == b.path
        && a.parts == b.parts
        && a.inputs == b.inputs
}

pub(super) fn publish(state: &mut MetaState, block: &BlockRecord, now_ms: i64) -> Result<Effect, Refusal> {
    let at = find(state, &block.id).map_err(|_| Refusal(format!("block {} was never staged", block.id)))?;
    let record = &state.blocks[at];
    if !same_block(record, block) {
        return Err(format!("block {} is not what was staged by this id", block.id).into());
    }
    match record.state() {
        State::Staged => {}
        State::Live if (record.bytes, record.samples) == (block.bytes, block.samples) => return Ok(Effect::NONE),
        other => {
            return Err(format!(
                "block {} is {}, not staged",
                block.id,
                other.as_str_name().to_lowercase()
            )
            .into());
        }
    }
    if block.bytes > record.bytes {
        return Err(format!(
            "block {} has {} bytes, {} were reserved for it",
            block.id, block.bytes, record.bytes
        )
        .into());
    }
    // What was forgotten since it was staged masks nothing in it: its record, which is there, would have kept it.
    if block.tombstone_revision < record.tombstone_revision {
        return Err(format!(
            "block {} has carried out deletes up to revision {}, {} when it was staged",
            block.id, block.tombstone_revision, record.tombstone_revision
        )
        .into());
    }
    if let Some(why) = misplaced(state, block) {
        return Err(why.into());
    }
    check_inputs(state, block)?;
    for input in &block.inputs {
        if let Ok(at) = find(state, input) {
            condemn_at(state, at, now_ms);
        }
    }
    let record = &mut state.blocks[at];
    *record = block.clone();
    record.set_state(State::Live);
    record.since_ms = now_ms;
    Ok(Effect::catalogue(true))
}

/// Takes over blocks and deletes of an earlier cluster; those of the same name again.
pub(super) fn adopt(state: &mut MetaState, command: &AdoptCatalogue) -> Result<Effect, Refusal> {
    if !state.epochs.is_empty() {
        return Err(format!("this is cluster {} already", state.cluster_id).into());
    }
    if state.blocks.len() + command.blocks.len() > MAX_BLOCKS {
        return Err(format!("the catalogue has {MAX_BLOCKS} blocks at most").into());
    }
    for block in &command.blocks {
        check_itself(block)?;
        if block.state() != State::Live {
            return Err(format!("block {} is not live", block.id).into());
        }
    }
    for block in &command.blocks {
        match find(state, &block.id) {
            Ok(at) => state.blocks[at] = block.clone(),
            Err(at) => state.blocks.insert(at, block.clone()),
        }
    }
    for block in &command.blocks {
        let own = |part: &&u64| **part < PartId::FIRST_IMPORTED;
        let part = block.parts.iter().rev().find(own).map_or(1, |last| last + 1);
        let shard = block.shard;
        match state.first_parts.iter_mut().find(|first| first.shard == shard) {
            Some(first) => first.part = first.part.max(part),
            None => state.first_parts.push(FirstPart { shard, part }),
        }
    }
    for tombstone in &command.tombstones {
        match state
            .tombstones
            .binary_search_by_key(&tombstone.revision, |t| t.revision)
        {
            Ok(at) => state.tombstones[at] = tombstone.clone(),
            Err(at) => state.tombstones.insert(at, tombstone.clone()),
        }
    }
    // Of deletes that come, the revisions are greater than those of all that were there.
    let newest = state.tombstones.last().map_or(0, |tombstone| tombstone.revision);
    let revision = state.catalogue_revision.max(command.catalogue_revision).max(newest);
    state.catalogue_revision = revision;
    let forgotten = &mut state.forgotten_tombstone_revision;
    *forgotten = command.forgotten_tombstone_revision.max(*forgotten);
    // The first entry of each shard says which parts and deletes are older than it is.
    state.feature_level = state.feature_level.max(DELETES_FEATURE_LEVEL.0);
    Ok(Effect::catalogue(true))
}

fn condemn_at(state: &mut MetaState, at: usize, now_ms: i64) -> bool {
    let block = &mut state.blocks[at];
    if block.state() == State::Condemned {
        return false;
    }
    block.set_state(State::Condemned);
    block.since_ms = now_ms;
    true
}

/// Condemns what is not; ids that are not there are gone already.
pub(super) fn condemn(state: &mut MetaState, command: &CondemnBlocks, now_ms: i64) -> Result<Effect, Refusal> {
    let mut changed = false;
    for id in &command.ids {
        if let Ok(at) = find(state, id)
            && (!command.only_staged || state.blocks[at].state() == State::Staged)
        {
            changed |= condemn_at(state, at, now_ms);
        }
    }
    Ok(Effect::catalogue(changed))
}

/// Drops records of condemned blocks, all or none.
pub(super) fn forget(state: &mut MetaState, ids: &[String]) -> Result<Effect, Refusal> {
    for id in ids {
        if let Ok(at) = find(state, id)
            && state.blocks[at].state() != State::Condemned
        {
            let is = state.blocks[at].state().as_str_name().to_lowercase();
            return Err(format!("block {id} is {is}: condemn it first").into());
        }
    }
    let before = state.blocks.len();
    let ids: std::collections::HashSet<&str> = ids.iter().map(String::as_str).collect();
    state.blocks.retain(|b| !ids.contains(b.id.as_str()));
    Ok(Effect::catalogue(state.blocks.len() != before))
}
