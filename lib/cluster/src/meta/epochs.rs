//! Placement epochs: how the number of shards changes while samples come.
//!
//! ```text
//! AddEpoch                      announced: its shards have replicas; nobody reads or writes them
//! OPENED by all its shards      listed, the last of the epochs: who reads what is at or after its beginning asks its
//!                               shards and those before; from now on these may close
//! CLOSED by all before          in force: samples are placed by it, and readers ask its shards only
//! AbortEpoch                    it was not in force, and is called off (`call_off.rs`)
//! LATE, or not in force soon    it begins with a later window; all shards say anew that they keep to that
//! ENDED by all of the first     the first epoch is forgotten
//! ```
//! Invariant: a shard is closed only once the epoch after it is listed, and a sample is placed by an epoch only once all
//! shards before it are closed. So no time of a series has two owners, and a reader that does not know of the epoch is
//! told so by any of the shards that it asks.
//! Invariant: the beginning of an epoch in force never changes, except that the first gets what is before it.

use super::machine::{Effect, Refusal};
use crate::bounds::is_over;
use crate::placement::{EPOCH_STEP_MS, Placement, coming};
use gnomon_model::ids::CLUSTER_FEATURE_LEVEL;
use gnomon_model::{GroupId, ShardId};
use gnomon_proto::v1::block_record::State;
use gnomon_proto::v1::shard_step::Step;
use gnomon_proto::v1::{
    AddEpoch, BlockRecord, EpochChange, MetaState, PlacementEpoch, PostponeEpoch, ShardLives, ShardReplicas, ShardStep,
};

/// Shards that one epoch may have.
pub const MAX_SHARDS: usize = 4096;
/// Epochs that are not forgotten. Each costs who reads over all time a request to each of its shards.
const MAX_EPOCHS: usize = 64;
/// The furthest ahead that an epoch may be announced.
const MAX_LEAD_MS: i64 = 7 * 24 * 60 * 60 * 1000;
/// Samples may be ten minutes ahead of a shard leader's clock, and that a minute ahead of this one's: an epoch that is not
/// in force so long before its beginning moves on.
pub const EPOCH_GUARD_MS: i64 = 11 * 60 * 1000;

pub(super) fn add(state: &mut MetaState, c: &AddEpoch, now_ms: i64) -> Result<Effect, Refusal> {
    if state.feature_level < CLUSTER_FEATURE_LEVEL.0 {
        return Err(format!(
            "the cluster is at feature level {}, another placement epoch needs {CLUSTER_FEATURE_LEVEL}",
            state.feature_level
        )
        .into());
    }
    let wanted = c.epoch.as_ref().ok_or("no placement epoch")?;
    let is_same = |there: &PlacementEpoch| there.epoch == wanted.epoch && there.shards == wanted.shards;
    if coming(state).or(state.epochs.last()).is_some_and(is_same) {
        return Ok(Effect::NONE);
    }
    if let Some(coming) = coming(state) {
        return Err(format!("placement epoch {} is not in force yet: one at a time", coming.epoch).into());
    }
    let last = state.epochs.last().ok_or("there is no epoch yet")?;
    check(state, last, wanted)?;
    check_replicas(state, wanted, &c.shards)?;
    let from_ms = match c.lead_ms {
        0 => wanted.from_ms,
        lead_ms if (1..=MAX_LEAD_MS).contains(&lead_ms) => {
            next_window(now_ms.saturating_add(lead_ms).max(last.from_ms.saturating_add(1)))
        }
        lead_ms => {
            return Err(format!("an epoch that begins {lead_ms} ms ahead: up to {MAX_LEAD_MS} are possible").into());
        }
    };
    let epoch = PlacementEpoch {
        from_ms,
        ..wanted.clone()
    };
    check_beginning(state, last, from_ms)?;
    let change = EpochChange {
        opening: sorted(&epoch.shards),
        closing: sorted(&last.shards),
        since_ms: now_ms,
        lead_ms: c.lead_ms,
        epoch: Some(epoch.clone()),
    };
    let next_shard = epoch.shards.iter().max().map_or(0, |last| last + 1);
    state.epoch_change = Some(change);
    state.shard_lives.get_or_insert_with(ShardLives::default).next_shard = next_shard;
    state.shards.extend(c.shards.iter().cloned());
    state.shards.sort_by_key(|r| r.shard);
    Ok(Effect::changed())
}

fn sorted(shards: &[u32]) -> Vec<u32> {
    let mut shards = shards.to_vec();
    shards.sort_unstable();
    shards
}

/// The first beginning of a window that is not before `ms`.
fn next_window(ms: i64) -> i64 {
    let before = ms.saturating_sub(1).div_euclid(EPOCH_STEP_MS);
    before.saturating_add(1).saturating_mul(EPOCH_STEP_MS)
}

/// The number of a shard that never was: shards' numbers are not used again.
pub(super) fn next_shard(state: &MetaState) -> u32 {
    let named = state.epochs.iter().flat_map(|e| &e.shards).copied();
    let blocks = state.blocks.iter().map(|b| b.shard);
    let behind = named.chain(blocks).max().map_or(0, |last| last.saturating_add(1));
    state
        .shard_lives
        .as_ref()
        .map_or(0, |lives| lives.next_shard)
        .max(behind)
}

/// The number of the next epoch: one behind all that were ever announced.
pub(super) fn next_epoch(state: &MetaState) -> u32 {
    let last = state.epochs.last().map_or(0, |last| last.epoch);
    last.max(state.called_off_epoch).saturating_add(1)
}

fn check(state: &MetaState, last: &PlacementEpoch, wanted: &PlacementEpoch) -> Result<(), Refusal> {
    let next = next_epoch(state);
    if wanted.epoch != next {
        return Err(format!("the next placement epoch is {next}, not {}", wanted.epoch).into());
    }
    if state.epochs.len() >= MAX_EPOCHS {
        return Err(format!(
            "there are {MAX_EPOCHS} placement epochs, which is the limit: the first is forgotten once retention has let \
             go of all of its blocks"
        )
        .into());
    }
    if wanted.shards.is_empty() || wanted.shards.len() > MAX_SHARDS {
        return Err(format!("{} shards: 1 to {MAX_SHARDS} are possible", wanted.shards.len()).into());
    }
    let first = next_shard(state);
    if !wanted
        .shards
        .iter()
        .copied()
        .eq(first..first.saturating_add(wanted.shards.len() as u32))
    {
        return Err(format!("the shards of the next placement epoch are those from {first} on").into());
    }
    if wanted.by_labels != last.by_labels {
        return Err(format!("the placement labels are {:?} and stay", last.by_labels).into());
    }
    let placed = Placement::from_records(std::slice::from_ref(wanted));
    placed.map(drop).map_err(|e| Refusal(e.to_string()))
}

fn check_replicas(state: &MetaState, wanted: &PlacementEpoch, replicas: &[ShardReplicas]) -> Result<(), Refusal> {
    if replicas.len() != wanted.shards.len() {
        return Err(format!(
            "replicas of {} shards, of {} shards",
            replicas.len(),
            wanted.shards.len()
        )
        .into());
    }
    for shard in &wanted.shards {
        let nodes = replicas.iter().find(|r| r.shard == *shard).map(|r| &r.nodes);
        let nodes = nodes.filter(|nodes| !nodes.is_empty());
        let nodes = nodes.ok_or_else(|| Refusal(format!("shard {shard} has no replicas")))?;
        for (i, node) in nodes.iter().enumerate() {
            if nodes[..i].contains(node) || !state.nodes.iter().any(|n| n.id == *node) {
                return Err(format!("shard {shard}: node {node} is named twice or not registered").into());
            }
        }
    }
    Ok(())
}

fn check_beginning(state: &MetaState, last: &PlacementEpoch, from_ms: i64) -> Result<(), Refusal> {
    if from_ms.rem_euclid(EPOCH_STEP_MS) != 0 || from_ms <= last.from_ms {
        return Err(format!(
            "an epoch begins with a window of {EPOCH_STEP_MS} ms after the one before ({}), not at {from_ms}",
            last.from_ms
        )
        .into());
    }
    let is_after = |b: &&BlockRecord| b.state() == State::Live && b.max_sample_ms >= from_ms;
    if let Some(block) = state.blocks.iter().find(is_after) {
        return Err(format!(
            "block {} has samples up to {}: the epoch has to begin after it",
            block.id, block.max_sample_ms
        )
        .into());
    }
    Ok(())
}

/// Whether the coming epoch is one of the epochs already.
fn is_listed(state: &MetaState) -> bool {
    let coming = coming(state).map(|epoch| epoch.epoch);
    coming.is_some() && state.epochs.last().map(|epoch| epoch.epoch) == coming
}

pub(super) fn step(state: &mut MetaState, c: &ShardStep, now_ms: i64) -> Result<Effect, Refusal> {
    if c.step() == Step::Ended {
        return ended(state, c.shard);
    }
    let listed = is_listed(state);
    let Some(change) = &mut state.epoch_change else {
        return Ok(Effect::NONE);
    };
    let Some(epoch) = change.epoch.clone() else {
        return Ok(Effect::NONE);
    };
    if (epoch.epoch, epoch.from_ms) != (c.epoch, c.from_ms) {
        return Ok(Effect::NONE);
    }
    let waiting = match c.step() {
        Step::Opened => &mut change.opening,
        Step::Closed | Step::Late if listed => &mut change.closing,
        Step::Closed | Step::Late | Step::Unspecified | Step::Ended => return Ok(Effect::NONE),
    };
    let Ok(at) = waiting.binary_search(&c.shard) else {
        return Ok(Effect::NONE);
    };
    if c.step() == Step::Late {
        move_on(state, c.newest_ms.saturating_add(1), now_ms);
        return Ok(Effect::catalogue(true));
    }
    waiting.remove(at);
    let (opened, closed) = (change.opening.is_empty(), change.closing.is_empty());
    if opened && !listed {
        state.epochs.push(epoch);
        return Ok(Effect::catalogue(true));
    }
    if opened && closed {
        state.epoch_change = None;
        return Ok(Effect::catalogue(true));
    }
    Ok(Effect::changed())
}

/// An epoch that does not come in time would leave samples without a place.
pub(super) fn postpone(state: &mut MetaState, c: &PostponeEpoch, now_ms: i64) -> Effect {
    let due = coming(state).is_some_and(|e| {
        (e.epoch, e.from_ms) == (c.epoch, c.from_ms) && now_ms.saturating_add(EPOCH_GUARD_MS) >= e.from_ms
    });
    // What was given stays given.
    let moves = state.epoch_change.as_ref().is_some_and(|change| change.lead_ms > 0);
    if !due || !moves {
        return Effect::NONE;
    }
    move_on(state, i64::MIN, now_ms);
    Effect::catalogue(true)
}

/// Lets the coming epoch begin with a later window that is not before `at_ms`.
fn move_on(state: &mut MetaState, at_ms: i64, now_ms: i64) {
    let listed = is_listed(state);
    let before = match state.epochs.as_slice() {
        [.., before, _] if listed => Some(before),
        [.., before] if !listed => Some(before),
        _ => None,
    };
    let closing = before.map(|epoch| sorted(&epoch.shards)).unwrap_or_default();
    let Some(change) = &mut state.epoch_change else {
        return;
    };
    let Some(epoch) = &mut change.epoch else {
        return;
    };
    let later = epoch.from_ms.saturating_add(1);
    epoch.from_ms = next_window(now_ms.saturating_add(change.lead_ms).max(at_ms).max(later));
    change.opening = sorted(&epoch.shards);
    change.closing = closing;
    if listed && let Some(last) = state.epochs.last_mut() {
        last.from_ms = epoch.from_ms;
    }
}

/// A shard of an epoch that is over has come to its end; with the last of the first epoch that is forgotten.
fn ended(state: &mut MetaState, shard: u32) -> Result<Effect, Refusal> {
    let Some(first) = state.epochs.first().filter(|first| first.shards.contains(&shard)) else {
        return Ok(Effect::NONE);
    };
    if !is_over(state, ShardId(shard)) {
        return Err(format!("the placement epoch of shard {shard} is not over").into());
    }
    if let Some(block) = state.blocks.iter().find(|b| b.shard == shard) {
        return Err(format!("block {} is of shard {shard}", block.id).into());
    }
    if state.tombstones.iter().any(|t| t.pending_shards.contains(&shard)) {
        return Err(format!("a delete waits for shard {shard}").into());
    }
    let all = sorted(&first.shards);
    let lives = state.shard_lives.get_or_insert_with(ShardLives::default);
    let Err(at) = lives.ended.binary_search(&shard) else {
        return Ok(Effect::NONE);
    };
    lives.ended.insert(at, shard);
    if lives.ended != all {
        return Ok(Effect::changed());
    }
    forget_first(state);
    Ok(Effect::catalogue(true))
}

fn forget_first(state: &mut MetaState) {
    let next_shard = next_shard(state);
    let gone = state.epochs.remove(0).shards;
    if let Some(first) = state.epochs.first_mut() {
        first.from_ms = i64::MIN;
    }
    state.shards.retain(|r| !gone.contains(&r.shard));
    state.first_parts.retain(|f| !gone.contains(&f.shard));
    let is_gone = |group: u32| GroupId(group).shard().is_some_and(|shard| gone.contains(&shard.0));
    state.members.retain(|m| !is_gone(m.group));
    state.shard_lives = Some(ShardLives {
        next_shard,
        ended: Vec::new(),
    });
}
