//! Which shards and blocks a selection must ask: a pure function of the metadata state.

use gnomon_cluster::deletes::masks;
use gnomon_cluster::placement::{Placement, TenantSeed, coming, epochs_in_force};
use gnomon_model::{Labels, MatchOp, Matcher, ShardId, TenantId, TimestampMs};
use gnomon_promql::Fragment;
use gnomon_proto::v1::{self, block_record};
use std::collections::{BTreeMap, BTreeSet};

/// What is looked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Selection {
    /// All must match; none is every series.
    pub matchers: Vec<Matcher>,
    /// Inclusive, milliseconds.
    pub start_ms: i64,
    /// Inclusive, milliseconds.
    pub end_ms: i64,
    /// Series without their samples.
    pub labels_only: bool,
}

/// What to ask, and in which view of the catalogue.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FanoutPlan {
    pub catalogue_revision: u64,
    /// The newest placement epoch that is known. A shard of one before which knows of a later one says so where that
    /// has what is asked for.
    pub placement_epoch: u32,
    /// How many epochs the range touches: in one a series is in one shard.
    pub epochs: usize,
    /// Each shard with the parts whose samples are taken from blocks, ascending.
    pub shards: BTreeMap<ShardId, Vec<u64>>,
    /// Blocks with samples in the range, by shard and first part: of two samples of one series and time the one in the
    /// earlier part counts.
    pub blocks: Vec<v1::BlockRecord>,
    /// What the blocks are to be read without. A shard that has taken a delete which is not in the view it is asked in
    /// says so, and the query is planned again.
    pub deletes: Vec<v1::TombstoneRecord>,
    /// When the last placement epoch in the range began, where another one is in the range too: series may have moved
    /// from shard to shard then. The maximum where it is not known for good.
    pub moved_ms: Option<i64>,
}

impl FanoutPlan {
    /// Plans `selection` in `state`.
    #[must_use]
    pub fn new(state: &v1::MetaState, tenant: &TenantId, selection: &Selection) -> Self {
        let epochs = epochs(state, selection);
        let mut plan = Self {
            catalogue_revision: state.catalogue_revision,
            placement_epoch: state.epochs.last().map_or(0, |epoch| epoch.epoch),
            epochs: epochs.len(),
            shards: shards(&epochs, tenant, selection)
                .into_iter()
                .map(|shard| (shard, Vec::new()))
                .collect(),
            blocks: Vec::new(),
            deletes: Vec::new(),
            moved_ms: moved_ms(state, &epochs),
        };
        for block in &state.blocks {
            let window_overlaps = block.start_ms <= selection.end_ms && selection.start_ms < block.end_ms;
            let live = block.state == block_record::State::Live as i32;
            if !live || !window_overlaps || block.tenant != tenant.as_str() {
                continue;
            }
            let Some(parts) = plan.shards.get_mut(&ShardId(block.shard)) else {
                continue;
            };
            parts.extend(&block.parts);
            if block.min_sample_ms <= selection.end_ms && selection.start_ms <= block.max_sample_ms {
                plan.blocks.push(block.clone());
            }
        }
        for parts in plan.shards.values_mut() {
            parts.sort_unstable();
            parts.dedup();
        }
        plan.blocks.sort_by_key(|b| (b.shard, b.parts.first().copied()));
        let masking = |delete: &&v1::TombstoneRecord| plan.blocks.iter().any(|block| masks(delete, block));
        plan.deletes = state.tombstones.iter().filter(masking).cloned().collect();
        plan
    }
}

impl FanoutPlan {
    /// The first step of a fragment from which on all samples that are looked at are in heads, each series' in one of
    /// them; the number of steps if there is none.
    #[must_use]
    pub fn first_step_of_heads(&self, fragment: &Fragment) -> usize {
        let newest_in_blocks = self.blocks.iter().map(|block| block.max_sample_ms.saturating_add(1));
        let from_ms = newest_in_blocks.chain(self.moved_ms).max();
        from_ms.map_or(0, |from_ms| fragment.first_step_after(from_ms))
    }

    /// The plan for a part of its time (inclusive).
    #[must_use]
    pub fn within(&self, start_ms: i64, end_ms: i64) -> Self {
        let mut plan = self.clone();
        plan.blocks
            .retain(|block| block.min_sample_ms <= end_ms && start_ms <= block.max_sample_ms);
        plan
    }
}

/// The epochs in a selection's range. One that is listed and not in force yet does not end the one before: what is of its
/// time may be in either.
fn epochs<'s>(state: &'s v1::MetaState, selection: &Selection) -> Vec<&'s v1::PlacementEpoch> {
    let mut found = Vec::new();
    let in_force = epochs_in_force(state);
    for (i, epoch) in state.epochs.iter().enumerate() {
        // The first epoch owns what is before it too.
        let from_ms = if i == 0 { i64::MIN } else { epoch.from_ms };
        let next_from_ms = in_force.get(i + 1).map(|next| next.from_ms);
        if from_ms <= selection.end_ms && next_from_ms.is_none_or(|next| next > selection.start_ms) {
            found.push(epoch);
        }
    }
    found
}

fn moved_ms(state: &v1::MetaState, in_range: &[&v1::PlacementEpoch]) -> Option<i64> {
    let [_, .., last] = in_range else {
        return None;
    };
    // One that is not in force may begin later still.
    let is_coming = coming(state).is_some_and(|coming| coming.epoch == last.epoch);
    Some(if is_coming { i64::MAX } else { last.from_ms })
}

/// The shards that own samples of the selection: those of every epoch in its range, narrowed to one where the matchers
/// fix all placement labels.
fn shards(epochs: &[&v1::PlacementEpoch], tenant: &TenantId, selection: &Selection) -> BTreeSet<ShardId> {
    let mut found = BTreeSet::new();
    for epoch in epochs {
        match single_owner(epoch, tenant, &selection.matchers) {
            Some(shard) => drop(found.insert(shard)),
            None => found.extend(epoch.shards.iter().copied().map(ShardId)),
        }
    }
    found
}

fn single_owner(epoch: &v1::PlacementEpoch, tenant: &TenantId, matchers: &[Matcher]) -> Option<ShardId> {
    if epoch.by_labels.is_empty() {
        return None;
    }
    let fixed = |name: &str| {
        let equal = |m: &&Matcher| m.name() == name && m.op() == MatchOp::Equal && !m.value().is_empty();
        matchers.iter().find(equal).map(|m| (m.name(), m.value()))
    };
    let by_labels = epoch.by_labels.iter().map(|name| fixed(name));
    let mut pairs = by_labels.collect::<Option<Vec<_>>>()?;
    if !epoch.spreads.is_empty() {
        // A spread job is in several shards; whether this is one, only its job says.
        let job = fixed("job")?;
        if epoch.spreads.iter().any(|rule| rule.job == job.1) {
            return None;
        }
        pairs.push(job);
    }
    let placement = Placement::from_records(std::slice::from_ref(epoch)).ok()?;
    let owner = placement.owner(
        TenantSeed::of(tenant),
        Labels::from_pairs(pairs).as_ref(),
        TimestampMs(epoch.from_ms),
    )?;
    Some(owner.shard)
}

#[cfg(test)]
mod tests {
    use super::*;
    use block_record::State;

    fn epoch(number: u32, from_ms: i64, shards: &[u32]) -> v1::PlacementEpoch {
        v1::PlacementEpoch {
            epoch: number,
            from_ms,
            shards: shards.to_vec(),
            by_labels: vec!["job".into(), "instance".into()],
            spreads: Vec::new(),
        }
    }

    fn block(shard: u32, parts: &[u64], start_ms: i64, state: State) -> v1::BlockRecord {
        v1::BlockRecord {
            id: format!("{shard}-{parts:?}"),
            tenant: "anonymous".into(),
            shard,
            start_ms,
            end_ms: start_ms + 100,
            min_sample_ms: start_ms + 10,
            max_sample_ms: start_ms + 90,
            parts: parts.to_vec(),
            state: state as i32,
            ..v1::BlockRecord::default()
        }
    }

    fn selection(start_ms: i64, end_ms: i64, matchers: Vec<Matcher>) -> Selection {
        Selection {
            matchers,
            start_ms,
            end_ms,
            labels_only: false,
        }
    }

    fn state() -> v1::MetaState {
        v1::MetaState {
            catalogue_revision: 7,
            epochs: vec![epoch(1, 0, &[0, 1]), epoch(2, 1000, &[2, 3])],
            blocks: vec![
                block(0, &[3], 0, State::Live),
                block(0, &[1, 2], 0, State::Live),
                block(1, &[1], 0, State::Condemned),
                block(1, &[2], 200, State::Live),
                block(2, &[1], 1000, State::Staged),
            ],
            ..v1::MetaState::default()
        }
    }

    #[test]
    fn live_blocks_in_range_are_taken_in_part_order_and_named_to_their_shard() {
        let plan = FanoutPlan::new(&state(), &TenantId::anonymous(), &selection(-50, 150, Vec::new()));
        assert_eq!(plan.catalogue_revision, 7);
        assert_eq!(
            plan.shards,
            BTreeMap::from([(ShardId(0), vec![1, 2, 3]), (ShardId(1), vec![])])
        );
        let ids: Vec<_> = plan.blocks.iter().map(|b| b.id.as_str()).collect();
        assert_eq!(ids, ["0-[1, 2]", "0-[3]"]);
    }

    #[test]
    fn parts_of_a_window_in_range_are_named_even_if_no_sample_of_it_is() {
        let plan = FanoutPlan::new(&state(), &TenantId::anonymous(), &selection(0, 5, Vec::new()));
        assert_eq!(plan.shards[&ShardId(0)], [1, 2, 3]);
        assert!(plan.blocks.is_empty());
    }

    #[test]
    fn epochs_out_of_range_are_not_asked() {
        let shards = |start, end| {
            let plan = FanoutPlan::new(&state(), &TenantId::anonymous(), &selection(start, end, Vec::new()));
            plan.shards.into_keys().map(|s| s.0).collect::<Vec<_>>()
        };
        assert_eq!(shards(0, 999), [0, 1]);
        assert_eq!(shards(1000, 2000), [2, 3]);
        assert_eq!(shards(999, 1000), [0, 1, 2, 3]);
        assert_eq!(shards(-10, -5), [0, 1]);
    }

    #[test]
    fn an_epoch_that_is_not_in_force_does_not_end_the_one_before() {
        let mut state = state();
        state.epochs.push(epoch(3, 2000, &[4]));
        let plan = |state: &v1::MetaState, start, end| {
            let plan = FanoutPlan::new(state, &TenantId::anonymous(), &selection(start, end, Vec::new()));
            let shards: Vec<_> = plan.shards.keys().map(|s| s.0).collect();
            (plan.placement_epoch, plan.epochs, shards, plan.moved_ms)
        };
        assert_eq!(plan(&state, 2000, 3000), (3, 1, vec![4], None));
        assert_eq!(plan(&state, 500, 3000), (3, 3, vec![0, 1, 2, 3, 4], Some(2000)));
        state.epoch_change = Some(v1::EpochChange {
            epoch: state.epochs.last().cloned(),
            ..v1::EpochChange::default()
        });
        assert_eq!(plan(&state, 2000, 3000), (3, 2, vec![2, 3, 4], Some(i64::MAX)));
        assert_eq!(plan(&state, 1500, 1999), (3, 1, vec![2, 3], None));
    }

    #[test]
    fn matchers_on_all_placement_labels_leave_one_shard() {
        let fixed = vec![Matcher::equal("job", "node"), Matcher::equal("instance", "a:9100")];
        let plan = FanoutPlan::new(&state(), &TenantId::anonymous(), &selection(0, 10, fixed.clone()));
        assert_eq!(plan.shards.len(), 1);
        let partly = vec![fixed[0].clone(), Matcher::equal("instance", "")];
        let plan = FanoutPlan::new(&state(), &TenantId::anonymous(), &selection(0, 10, partly));
        assert_eq!(plan.shards.len(), 2);
        let mut spread = state();
        spread.epochs[0].spreads.push(v1::SpreadRule {
            job: "node".into(),
            ways: 2,
        });
        let plan = FanoutPlan::new(&spread, &TenantId::anonymous(), &selection(0, 10, fixed));
        assert_eq!(plan.shards.len(), 2);
    }
}
