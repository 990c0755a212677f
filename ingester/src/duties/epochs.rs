//! Keeping the shard's log to the time that the metadata group says is the shard's, and saying that it is so.
//!
//! Invariant: what is told is applied: a shard says that it is closed after its log says so, and not before.

use super::Duties;
use crate::shard::TimeBounds;
use crate::shard::entry::{Bound, Command, Limits};
use gnomon_cluster::bounds::{ShardBounds, bounds_of, is_over};
use gnomon_cluster::meta::EPOCH_GUARD_MS;
use gnomon_cluster::placement::{coming, epochs_in_force};
use gnomon_model::ShardId;
use gnomon_model::ids::CLUSTER_FEATURE_LEVEL;
use gnomon_proto::ServiceError;
use gnomon_proto::v1::meta_command::Command as MetaChange;
use gnomon_proto::v1::shard_step::Step;
use gnomon_proto::v1::{MetaCommand, MetaState, PostponeEpoch, ShardStep};

/// What is to be done about a shard's bounds, in this order. A pure function of what is known.
#[derive(Clone, Debug, Default, PartialEq)]
struct Due {
    from: Option<Bound>,
    until: Option<Bound>,
}

/// The entries that the log lacks.
fn due(wanted: ShardBounds, known: TimeBounds, revision: u64) -> Due {
    let bound = |at_ms: i64, epoch: u32| Bound { at_ms, epoch, revision };
    let has_ended = known.until_ms == i64::MIN;
    Due {
        from: (known.from_ms != wanted.from_ms).then(|| bound(wanted.from_ms, 0)),
        until: (known.until_ms != wanted.until_ms && !has_ended).then(|| bound(wanted.until_ms, wanted.next_epoch)),
    }
}

/// What the shard's leader tells the metadata group, by what is applied here; none where nothing is waited for.
fn to_tell(state: &MetaState, shard: ShardId, known: TimeBounds, newest_ms: i64) -> Option<ShardStep> {
    let (change, epoch) = (state.epoch_change.as_ref()?, coming(state)?);
    let is_listed = state.epochs.last().is_some_and(|last| last.epoch == epoch.epoch);
    let from_ms = epoch.from_ms;
    let step = if change.opening.binary_search(&shard.0).is_ok() && known.from_ms == from_ms {
        Step::Opened
    } else if is_listed && change.closing.binary_search(&shard.0).is_ok() {
        match known.until_ms == from_ms {
            true => Step::Closed,
            false if newest_ms >= from_ms => Step::Late,
            false => return None,
        }
    } else {
        return None;
    };
    Some(ShardStep {
        step: step as i32,
        shard: shard.0,
        epoch: epoch.epoch,
        from_ms,
        newest_ms,
    })
}

/// The epoch that is not in force soon enough before its beginning.
fn too_late(state: &MetaState, now_ms: i64) -> Option<PostponeEpoch> {
    let moves = state.epoch_change.as_ref().is_some_and(|change| change.lead_ms > 0);
    let epoch = coming(state).filter(|_| moves)?;
    let due = now_ms.saturating_add(EPOCH_GUARD_MS) >= epoch.from_ms;
    due.then_some(PostponeEpoch {
        epoch: epoch.epoch,
        from_ms: epoch.from_ms,
    })
}

impl Duties {
    /// Takes what the epochs say of the shard's time into its log, and tells the metadata group.
    pub(super) async fn follow_epochs(&self) {
        let state = self.context.states.borrow().clone();
        let in_force = epochs_in_force(&state).last().map_or(0, |epoch| epoch.epoch);
        self.context.metrics.placement_epoch.set(i64::from(in_force));
        let leads = self.shard.log.is_leader() && self.shard.machine.is_sound();
        // Before that no node proposes such entries.
        if !leads || state.feature_level < CLUSTER_FEATURE_LEVEL.0 {
            return;
        }
        if let Err(error) = self.follow_epochs_of(&state).await {
            let shard = self.shard.id().0;
            tracing::warn!(shard, %error, "the shard does not keep to its placement epoch yet; trying again");
        }
    }

    async fn follow_epochs_of(&self, state: &MetaState) -> Result<(), ServiceError> {
        let shard = self.shard.id();
        let Some(wanted) = bounds_of(state, shard) else {
            return Ok(());
        };
        let Due { from, until } = due(wanted, self.time_bounds(), state.revision);
        if let Some(bound) = from {
            self.shard.propose(Command::From(bound)).await?;
            tracing::info!(
                shard = shard.0,
                from_ms = bound.at_ms,
                "the shard takes samples from here on"
            );
        }
        if let Some(bound) = until {
            self.shard.propose(Command::Until(bound)).await?;
            if self.time_bounds().until_ms == bound.at_ms {
                let (until_ms, epoch) = (bound.at_ms, bound.epoch);
                tracing::info!(shard = shard.0, until_ms, epoch, "the shard takes samples up to here");
            }
        }
        if state.epoch_change.is_none() {
            return Ok(());
        }
        let (known, newest_ms) = self
            .shard
            .machine
            .read(|state| (state.counters.bounds, state.newest_sample_ms()));
        if let Some(step) = to_tell(state, shard, known, newest_ms) {
            self.tell(MetaChange::ShardStep(step)).await?;
        }
        if let Some(postponed) = too_late(state, self.context.clock.now().0) {
            tracing::warn!(
                shard = shard.0,
                epoch = postponed.epoch,
                from_ms = postponed.from_ms,
                "the placement epoch is not in force in time: it begins later"
            );
            self.tell(MetaChange::PostponeEpoch(postponed)).await?;
        }
        Ok(())
    }

    /// Ends a shard of the first epoch once that is over and retention has let go of all that it had: then nothing comes
    /// any more, and nothing is here.
    pub(super) async fn end_shard(&self) {
        let state = self.context.states.borrow().clone();
        if !self.may_end(&state) {
            return;
        }
        let shard = self.shard.id();
        let ending = async {
            let end = Bound {
                at_ms: i64::MIN,
                epoch: bounds_of(&state, shard).map_or(0, |bounds| bounds.next_epoch),
                revision: state.revision,
            };
            if self.time_bounds().until_ms != i64::MIN {
                self.shard.propose(Command::Until(end)).await?;
                tracing::info!(
                    shard = shard.0,
                    "the shard has come to its end: its epoch is over, and it holds nothing"
                );
            }
            // One that came before the end is here now.
            if self.time_bounds().until_ms != i64::MIN || !self.is_empty() {
                return Ok(());
            }
            self.tell(MetaChange::ShardStep(ShardStep {
                step: Step::Ended as i32,
                shard: shard.0,
                ..ShardStep::default()
            }))
            .await
        };
        if let Err(error) = ending.await {
            tracing::warn!(shard = shard.0, %error, "the shard is not ended yet; trying again");
        }
    }

    fn may_end(&self, state: &MetaState) -> bool {
        let shard = self.shard.id();
        let is_first = state
            .epochs
            .first()
            .is_some_and(|first| first.shards.contains(&shard.0));
        let has_ended = |ended: &[u32]| ended.binary_search(&shard.0).is_ok();
        let known_ended = state.shard_lives.as_ref().is_some_and(|lives| has_ended(&lives.ended));
        if !is_first || known_ended || !is_over(state, shard) || state.feature_level < CLUSTER_FEATURE_LEVEL.0 {
            return false;
        }
        // What is later than that is refused by every shard.
        let late_ms = i64::try_from(Limits::default().late_ms).unwrap_or(i64::MAX);
        let until_ms = bounds_of(state, shard).map_or(i64::MAX, |bounds| bounds.until_ms);
        let is_old = until_ms.saturating_add(late_ms) < self.context.clock.now().0;
        let has_blocks = state.blocks.iter().any(|block| block.shard == shard.0);
        let awaited = state.tombstones.iter().any(|t| t.pending_shards.contains(&shard.0));
        is_old && !has_blocks && !awaited && self.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.shard.machine.read(|state| {
            let mut heads = state.tenants.values().map(|there| &there.head);
            heads.all(|head| head.windows.is_empty() && head.sealed.is_empty())
        })
    }

    fn time_bounds(&self) -> TimeBounds {
        self.shard.machine.read(|state| state.counters.bounds)
    }

    async fn tell(&self, change: MetaChange) -> Result<(), ServiceError> {
        let command = MetaCommand {
            proposed_at_ms: 0,
            command: Some(change),
        };
        let answer = self.context.meta.propose(command).await?;
        match answer.refused.is_empty() {
            true => Ok(()),
            false => Err(ServiceError::Unavailable(answer.refused)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_proto::v1::{EpochChange, PlacementEpoch};

    fn bounds(from_ms: i64, until_ms: i64, revision: u64) -> TimeBounds {
        TimeBounds {
            from_ms,
            until_ms,
            next_epoch: 2,
            revision,
        }
    }

    #[test]
    fn only_what_differs_goes_into_the_log() {
        let wanted = ShardBounds {
            from_ms: 0,
            until_ms: 100,
            next_epoch: 2,
        };
        let bound = |at_ms, epoch| {
            Some(Bound {
                at_ms,
                epoch,
                revision: 7,
            })
        };
        let all = due(wanted, TimeBounds::ALL, 7);
        assert_eq!((all.from, all.until), (bound(0, 0), bound(100, 2)));
        assert_eq!(due(wanted, bounds(0, 100, 5), 7), Due::default());
        assert_eq!(due(wanted, bounds(0, 50, 5), 7).until, bound(100, 2));
        assert_eq!(due(wanted, bounds(0, i64::MIN, 5), 7), Due::default(), "it has ended");
        assert_eq!(due(ShardBounds::ALL, TimeBounds::ALL, 7), Due::default());
    }

    #[test]
    fn a_shard_tells_what_its_log_says_and_nothing_else() {
        let epoch = |epoch, from_ms, shards: &[u32]| PlacementEpoch {
            epoch,
            from_ms,
            shards: shards.to_vec(),
            ..PlacementEpoch::default()
        };
        let mut state = MetaState {
            epochs: vec![epoch(1, i64::MIN, &[0, 1])],
            epoch_change: Some(EpochChange {
                epoch: Some(epoch(2, 100, &[2])),
                opening: vec![2],
                closing: vec![0],
                lead_ms: 1,
                ..EpochChange::default()
            }),
            ..MetaState::default()
        };
        let told = |state: &MetaState, shard, known, newest| {
            to_tell(state, ShardId(shard), known, newest).map(|step| step.step())
        };
        assert_eq!(told(&state, 2, TimeBounds::ALL, i64::MIN), None);
        assert_eq!(told(&state, 2, bounds(100, i64::MAX, 1), i64::MIN), Some(Step::Opened));
        // Not before it is listed.
        assert_eq!(told(&state, 0, bounds(i64::MIN, 100, 1), 50), None);
        state.epochs.push(epoch(2, 100, &[2]));
        assert_eq!(told(&state, 0, bounds(i64::MIN, 100, 1), 50), Some(Step::Closed));
        assert_eq!(told(&state, 0, TimeBounds::ALL, 50), None);
        assert_eq!(told(&state, 0, TimeBounds::ALL, 100), Some(Step::Late));
        assert_eq!(told(&state, 1, bounds(i64::MIN, 100, 1), 50), None, "told already");
        assert!(too_late(&state, 100 - EPOCH_GUARD_MS - 1).is_none());
        assert_eq!(too_late(&state, 100 - EPOCH_GUARD_MS).map(|p| p.from_ms), Some(100));
    }
}
