//! Changing the number of shards: the command that begins it, and how far it is.

use super::epochs::{MAX_SHARDS, next_epoch, next_shard};
use crate::assign::assign;
use crate::clients::decide;
use crate::placement::{coming, epochs_in_force};
use gnomon_model::Clock;
use gnomon_model::ids::CLUSTER_FEATURE_LEVEL;
use gnomon_proto::ServiceError;
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{AddEpoch, MetaState, PlacementEpoch, RaiseFeatureLevel, SpreadRule};

/// How far ahead a new epoch begins at least: what [`super::EPOCH_GUARD_MS`] needs, and the time to open and close shards.
pub const RESHARD_LEAD_MS: i64 = 20 * 60 * 1000;

/// How many shards, and since when.
#[derive(Clone, Debug, PartialEq)]
pub struct Reshard {
    pub shards: u32,
    /// Ways by job, in place of those in force; none leaves them as they are, as far as there are shards enough.
    pub spreads: Option<Vec<SpreadRule>>,
    pub beginning: Beginning,
}

/// When the new epoch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// With the first window so many milliseconds ahead.
    Ahead(i64),
    /// With the window that begins then. For a cluster that has no samples from then on: one that is about to be filled
    /// with older ones, a test.
    At(i64),
}

impl Reshard {
    #[must_use]
    pub const fn to(shards: u32) -> Self {
        Self {
            shards,
            spreads: None,
            beginning: Beginning::Ahead(RESHARD_LEAD_MS),
        }
    }
}

/// Why the number of shards cannot be changed now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CannotReshard {
    #[error("the cluster is not initialized yet")]
    NoCluster,
    #[error("{0} shards: 1 to {MAX_SHARDS} are possible")]
    Number(u32),
    #[error("there are {0} shards already")]
    Same(u32),
    #[error(
        "placement epoch {epoch} with {shards} shards is on its way (it begins at {from_ms} ms): one at a time; \
         {waiting} shards are not ready for it"
    )]
    UnderWay {
        epoch: u32,
        shards: usize,
        from_ms: i64,
        waiting: usize,
    },
    #[error("no change of the number of shards is on its way")]
    NothingToCancel,
    #[error("no ingester is alive that could have the new shards")]
    NoIngester,
    #[error("the cluster did not take it: {0}")]
    Refused(String),
    #[error("the metadata group cannot be asked: {0}")]
    Meta(#[from] ServiceError),
}

/// The command that changes the number of shards, as of `now_ms`.
///
/// # Errors
/// When it cannot be changed, or need not be.
pub fn plan_reshard(state: &MetaState, wanted: &Reshard, now_ms: i64) -> Result<AddEpoch, CannotReshard> {
    let last = state.epochs.last().ok_or(CannotReshard::NoCluster)?;
    if wanted.shards == 0 || wanted.shards as usize > MAX_SHARDS {
        return Err(CannotReshard::Number(wanted.shards));
    }
    if let Some(progress) = reshard_progress(state) {
        return Err(CannotReshard::UnderWay {
            epoch: progress.epoch,
            shards: progress.shards,
            from_ms: progress.from_ms,
            waiting: progress.opening + progress.closing,
        });
    }
    let mut spreads = wanted.spreads.clone().unwrap_or_else(|| last.spreads.clone());
    for rule in &mut spreads {
        rule.ways = rule.ways.min(wanted.shards);
    }
    if last.shards.len() == wanted.shards as usize && spreads == last.spreads {
        return Err(CannotReshard::Same(wanted.shards));
    }
    let first = next_shard(state);
    let shards: Vec<u32> = (first..first.saturating_add(wanted.shards)).collect();
    let replicas = assign(state, &shards, now_ms);
    if replicas.iter().any(|placed| placed.nodes.is_empty()) {
        return Err(CannotReshard::NoIngester);
    }
    let (from_ms, lead_ms) = match wanted.beginning {
        Beginning::Ahead(lead_ms) => (0, lead_ms.max(1)),
        Beginning::At(from_ms) => (from_ms, 0),
    };
    Ok(AddEpoch {
        epoch: Some(PlacementEpoch {
            epoch: next_epoch(state),
            from_ms,
            shards,
            by_labels: last.by_labels.clone(),
            spreads,
        }),
        shards: replicas,
        lead_ms,
    })
}

/// Begins to change the number of shards: raises the feature level where it has to be, and announces the epoch. What
/// follows the shards' leaders do by themselves; [`reshard_progress`] says how far it is.
///
/// # Errors
/// When it cannot be changed, or the metadata group does not answer: asking again is harmless.
pub async fn reshard(meta: &dyn MetaService, wanted: &Reshard, clock: &dyn Clock) -> Result<AddEpoch, CannotReshard> {
    let state = meta.read().await?;
    let command = plan_reshard(&state, wanted, clock.now().0)?;
    if state.feature_level < CLUSTER_FEATURE_LEVEL.0 {
        let level = CLUSTER_FEATURE_LEVEL.0;
        let raise = Command::RaiseFeatureLevel(RaiseFeatureLevel { level });
        let refused = decide(meta, raise).await?.refused;
        if !refused.is_empty() {
            let why = format!("it needs feature level {level} of all nodes: {refused}");
            return Err(CannotReshard::Refused(why));
        }
    }
    let answer = decide(meta, Command::AddEpoch(command.clone())).await?;
    if !answer.refused.is_empty() {
        return Err(CannotReshard::Refused(answer.refused));
    }
    let epoch = command.epoch.as_ref().map_or(0, |epoch| epoch.epoch);
    tracing::info!(epoch, shards = wanted.shards, "another placement epoch is announced");
    Ok(command)
}

/// How far the coming epoch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReshardProgress {
    pub epoch: u32,
    /// How many it has.
    pub shards: usize,
    /// When it begins, milliseconds; later where it is not in force in time.
    pub from_ms: i64,
    /// New shards that are not open.
    pub opening: usize,
    /// Shards before it that are not closed.
    pub closing: usize,
}

/// None where no epoch is on its way.
#[must_use]
pub fn reshard_progress(state: &MetaState) -> Option<ReshardProgress> {
    let change = state.epoch_change.as_ref()?;
    let epoch = coming(state)?;
    Some(ReshardProgress {
        epoch: epoch.epoch,
        shards: epoch.shards.len(),
        from_ms: epoch.from_ms,
        opening: change.opening.len(),
        closing: change.closing.len(),
    })
}

/// The shards of the epoch in force, for whoever asks how many there are; empty before there is a cluster.
#[must_use]
pub fn shards_in_force(state: &MetaState) -> &[u32] {
    epochs_in_force(state).last().map_or(&[][..], |epoch| &epoch.shards)
}
