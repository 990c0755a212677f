//! Calling a placement epoch off that is not in force yet.
//!
//! No sample is placed by such an epoch, so that its shards are empty and go. A shard before it that has closed already
//! has no samples from the epoch's beginning on: it takes them again, by another entry of its log with a newer revision
//! (an older one that is on its way has no effect after it). So it does not matter how far the epoch is, or whether its
//! shards have a majority.

use super::machine::{Effect, Refusal};
use crate::clients::decide;
use crate::placement::{coming, epochs_in_force};
use gnomon_model::GroupId;
use gnomon_model::ids::OPERATIONS_FEATURE_LEVEL;
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{AbortEpoch, MetaState, PlacementEpoch, RaiseFeatureLevel};

/// Refused once the epoch is in force: then samples may be in its shards.
pub(super) fn abort(state: &mut MetaState, c: &AbortEpoch) -> Result<Effect, Refusal> {
    if state.feature_level < OPERATIONS_FEATURE_LEVEL.0 {
        return Err(format!(
            "the cluster is at feature level {}, calling a placement epoch off needs {OPERATIONS_FEATURE_LEVEL}",
            state.feature_level
        )
        .into());
    }
    let epoch = check(state, c.epoch)?.clone();
    let is_its = |shard: u32| epoch.shards.contains(&shard);
    if state.epochs.last().is_some_and(|last| last.epoch == epoch.epoch) {
        state.epochs.pop();
    }
    state.epoch_change = None;
    // Who has heard of it must not take another for it.
    state.called_off_epoch = epoch.epoch;
    state.shards.retain(|replicas| !is_its(replicas.shard));
    state.first_parts.retain(|first| !is_its(first.shard));
    let is_its_group = |group: u32| GroupId(group).shard().is_some_and(|shard| is_its(shard.0));
    state.members.retain(|members| !is_its_group(members.group));
    for tombstone in &mut state.tombstones {
        tombstone.pending_shards.retain(|shard| !is_its(*shard));
    }
    Ok(Effect::catalogue(true))
}

/// The epoch of that number, where it may be called off, whatever the feature level.
fn check(state: &MetaState, number: u32) -> Result<&PlacementEpoch, String> {
    let Some(epoch) = coming(state) else {
        return Err(match epochs_in_force(state).last() {
            Some(last) if last.epoch == number => {
                format!("placement epoch {number} is in force: it cannot be called off any more, another can follow it")
            }
            _ => "no placement epoch is on its way".to_owned(),
        });
    };
    if epoch.epoch != number {
        return Err(format!("placement epoch {} is on its way, not {number}", epoch.epoch));
    }
    match state.blocks.iter().find(|block| epoch.shards.contains(&block.shard)) {
        Some(block) => Err(format!("block {} is of shard {} of that epoch", block.id, block.shard)),
        None => Ok(epoch),
    }
}

/// Calls the change of shards off that is on its way, raising the feature level where it has to be. Gives the number of
/// the epoch.
///
/// # Errors
/// When there is none, it is in force, or the metadata group does not answer.
pub async fn call_off(meta: &dyn MetaService) -> Result<u32, super::CannotReshard> {
    use super::CannotReshard::{NothingToCancel, Refused};
    let state = meta.read().await?;
    let epoch = coming(&state).map(|epoch| epoch.epoch).ok_or(NothingToCancel)?;
    let level = OPERATIONS_FEATURE_LEVEL.0;
    if state.feature_level < level {
        // A level is never taken back: it is not raised for what would be refused.
        check(&state, epoch).map_err(Refused)?;
        let raise = Command::RaiseFeatureLevel(RaiseFeatureLevel { level });
        let refused = decide(meta, raise).await?.refused;
        if !refused.is_empty() {
            return Err(Refused(format!(
                "it needs feature level {level} of all nodes: {refused}"
            )));
        }
    }
    let answer = decide(meta, Command::AbortEpoch(AbortEpoch { epoch })).await?;
    if !answer.refused.is_empty() {
        return Err(Refused(answer.refused));
    }
    tracing::info!(epoch, "the placement epoch that was on its way is called off");
    Ok(epoch)
}
