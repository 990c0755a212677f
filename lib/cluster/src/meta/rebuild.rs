//! A catalogue that is lost, from its newest checkpoint and what is in the bucket. Pure: who calls it reads and writes.
//!
//! Of blocks that cover the same parts the one of the highest level is kept, then the one in which more deletes are carried
//! out. An output is there before its inputs go, so that what is kept covers all that was covered; a delete is there
//! before any block that has carried it out, and goes after the last that it masks.

use crate::placement::{DEFAULT_PLACEMENT_LABELS, EPOCH_STEP_MS, epochs_in_force};
use gnomon_proto::v1::block_record::State;
use gnomon_proto::v1::{BlockRecord, MetaState, PlacementEpoch, TombstoneRecord};
use gnomon_tsdb::BlockMeta;
use gnomon_tsdb::deletes::TombstoneObject;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// A block object that can be read.
#[derive(Clone, Debug)]
pub struct FoundBlock {
    pub path: String,
    pub bytes: u64,
    pub meta: BlockMeta,
}

/// The object of a delete that can be read.
#[derive(Clone, Debug)]
pub struct FoundDelete {
    pub path: String,
    pub object: TombstoneObject,
}

/// The record of a block, by its own word.
fn record_of(found: &FoundBlock) -> BlockRecord {
    let FoundBlock { path, bytes, meta } = found;
    let mut parts: Vec<u64> = meta.parts.iter().map(|part| part.number).collect();
    parts.sort_unstable();
    BlockRecord {
        id: meta.block.to_string(),
        tenant: meta.tenant.to_string(),
        shard: meta.shard.0,
        start_ms: meta.window.start.0,
        end_ms: meta.window.end.0,
        level: meta.level,
        bytes: *bytes,
        state: State::Live as i32,
        parts,
        tombstone_revision: meta.tombstone_revision,
        path: path.clone(),
        series: meta.stats.series,
        samples: meta.stats.samples,
        min_sample_ms: meta.stats.min_sample.0,
        max_sample_ms: meta.stats.max_sample.0,
        ..BlockRecord::default()
    }
}

/// The catalogue of what was found. Without a checkpoint there are `shards` shards, or as many as blocks name.
#[must_use]
pub fn rebuild(
    checkpoint: Option<&MetaState>,
    blocks: &[FoundBlock],
    deletes: &[FoundDelete],
    shards: Option<u32>,
) -> MetaState {
    let empty = MetaState::default();
    let old = checkpoint.unwrap_or(&empty);
    let found = blocks;
    let blocks = keep(candidates(old, found));
    let tombstones = tombstones(old, deletes);
    let epochs = match epochs_in_force(old) {
        [] => epochs_of(found, &blocks, shards.unwrap_or(0)),
        // One that was not in force has no blocks.
        known => known.to_vec(),
    };
    let newest = tombstones.last().map_or(0, |t: &TombstoneRecord| t.revision);
    let carried_out = blocks.iter().map(|b| b.tombstone_revision).max().unwrap_or(0);
    MetaState {
        revision: old.revision + 1,
        catalogue_revision: old.catalogue_revision.max(newest).max(carried_out) + 1,
        cluster_id: old.cluster_id.clone(),
        feature_level: level_of(old, found, &blocks),
        epochs,
        blocks,
        tombstones,
        forgotten_tombstone_revision: old.forgotten_tombstone_revision,
        ..MetaState::default()
    }
}

/// What the cluster was at, or a block that came since was written at: builds that do not understand it cannot read all.
fn level_of(old: &MetaState, found: &[FoundBlock], kept: &[BlockRecord]) -> u32 {
    let kept: HashSet<&str> = kept.iter().map(|block| block.id.as_str()).collect();
    let metas = found.iter().map(|block| &block.meta);
    let needed = metas.filter(|meta| kept.contains(meta.block.to_string().as_str()));
    let newest = needed.map(|meta| meta.feature_level.0).max();
    old.feature_level.max(newest.unwrap_or(0))
}

/// The placement epochs that blocks name. Shards are numbered on from epoch to epoch, and an epoch begins with a window:
/// so each has the numbers up to the first of the next, from the first window that it has a block of. Which shards are
/// missing at its end, where no block tells, is not known, and with it which of them has which series: all shards of an
/// epoch but the newest are asked whatever is looked for.
fn epochs_of(found: &[FoundBlock], kept: &[BlockRecord], shards: u32) -> Vec<PlacementEpoch> {
    let kept: HashSet<&str> = kept.iter().map(|block| block.id.as_str()).collect();
    // By epoch: its first and last shard, and its first window.
    let mut named: BTreeMap<u32, (u32, u32, i64)> = BTreeMap::new();
    for block in found
        .iter()
        .filter(|found| kept.contains(found.meta.block.to_string().as_str()))
    {
        let (shard, from_ms) = (block.meta.shard.0, block.meta.stats.min_sample.0);
        let there = named.entry(block.meta.epoch.0).or_insert((shard, shard, from_ms));
        *there = (there.0.min(shard), there.1.max(shard), there.2.min(from_ms));
    }
    if named.is_empty() {
        named.insert(1, (0, 0, i64::MIN));
    }
    let mut epochs: Vec<PlacementEpoch> = Vec::with_capacity(named.len());
    for (epoch, (first, last, from_ms)) in named {
        let begins = match epochs.last_mut() {
            None => 0,
            Some(before) => {
                // What the next does not have is its.
                let end = before.shards.last().map_or(first, |last| last + 1).max(first);
                before.shards = (before.shards.first().copied().unwrap_or(0)..end).collect();
                before.by_labels.clear();
                end
            }
        };
        epochs.push(PlacementEpoch {
            epoch,
            from_ms: match epochs.is_empty() {
                true => i64::MIN,
                false => from_ms.div_euclid(EPOCH_STEP_MS) * EPOCH_STEP_MS,
            },
            shards: (begins..last.max(begins) + 1).collect(),
            by_labels: DEFAULT_PLACEMENT_LABELS.map(str::to_owned).into(),
            spreads: Vec::new(),
        });
    }
    if let Some(newest) = epochs.last_mut() {
        let begins = newest.shards.first().copied().unwrap_or(0);
        let most = newest.shards.len() as u32;
        newest.shards = (begins..begins.saturating_add(shards.max(most))).collect();
    }
    epochs
}

/// Blocks that may be kept: not those that retention let go, which are condemned without a block in their place.
fn candidates(old: &MetaState, found: &[FoundBlock]) -> Vec<BlockRecord> {
    let known: HashMap<&str, &BlockRecord> = old.blocks.iter().map(|b| (b.id.as_str(), b)).collect();
    let replaced: HashSet<&str> = old.blocks.iter().flat_map(|b| &b.inputs).map(String::as_str).collect();
    let shards: BTreeSet<u32> = epochs_in_force(old).iter().flat_map(|e| &e.shards).copied().collect();
    let mut out = Vec::new();
    for block in found {
        let record = record_of(block);
        let let_go = known
            .get(record.id.as_str())
            .is_some_and(|known| known.state() == State::Condemned && !replaced.contains(record.id.as_str()));
        let is_elsewhere = !shards.is_empty() && !shards.contains(&record.shard);
        if !let_go && !is_elsewhere && record.samples > 0 && !record.parts.is_empty() {
            out.push(record);
        }
    }
    out
}

/// A set in which no part is covered twice.
fn keep(mut candidates: Vec<BlockRecord>) -> Vec<BlockRecord> {
    candidates.sort_by(|a, b| {
        let rank = |block: &BlockRecord| Reverse((block.level, block.tombstone_revision, block.parts.len()));
        rank(a).cmp(&rank(b)).then_with(|| a.id.cmp(&b.id))
    });
    let mut covered: BTreeMap<(String, u32), BTreeSet<u64>> = BTreeMap::new();
    let mut kept = Vec::new();
    for block in candidates {
        let parts = covered.entry((block.tenant.clone(), block.shard)).or_default();
        if block.parts.iter().all(|part| !parts.contains(part)) {
            parts.extend(&block.parts);
            kept.push(block);
        }
    }
    kept.sort_by(|a, b| a.id.cmp(&b.id));
    kept
}

/// Those of the checkpoint, then those that came after it: by the revisions that their objects say. One that does not say
/// its own (whoever deleted ended in between, a moment after it was recorded) has the first that is free after the one it
/// began at.
fn tombstones(old: &MetaState, found: &[FoundDelete]) -> Vec<TombstoneRecord> {
    let mut all: BTreeMap<u64, TombstoneRecord> = BTreeMap::new();
    for tombstone in &old.tombstones {
        let settled = TombstoneRecord {
            pending_shards: Vec::new(),
            ..tombstone.clone()
        };
        all.insert(tombstone.revision, settled);
    }
    let named: HashSet<&str> = old.tombstones.iter().map(|t| t.path.as_str()).collect();
    // What the checkpoint knew and does not name was forgotten; its object may have been left.
    let is_newer = |delete: &&FoundDelete| {
        !named.contains(delete.path.as_str())
            && match delete.object.revision {
                Some(revision) => revision > old.catalogue_revision,
                None => delete.object.after_revision >= old.forgotten_tombstone_revision,
            }
    };
    let newer = || found.iter().filter(is_newer);
    for delete in newer() {
        if let Some(revision) = delete.object.revision {
            all.entry(revision).or_insert_with(|| tombstone_of(delete, revision));
        }
    }
    let mut without: Vec<_> = newer().filter(|delete| delete.object.revision.is_none()).collect();
    without.sort_by(|a, b| (a.object.after_revision, &a.path).cmp(&(b.object.after_revision, &b.path)));
    for delete in without {
        let first = delete.object.after_revision.max(old.forgotten_tombstone_revision) + 1;
        if let Some(free) = (first..).find(|revision| !all.contains_key(revision)) {
            all.insert(free, tombstone_of(delete, free));
        }
    }
    all.into_values().collect()
}

fn tombstone_of(delete: &FoundDelete, revision: u64) -> TombstoneRecord {
    let FoundDelete { path, object } = delete;
    TombstoneRecord {
        revision,
        path: path.clone(),
        tenant: object.tenant.to_string(),
        series: gnomon_proto::matchers::sets_to_wire(&object.sets),
        start_ms: object.start_ms,
        end_ms: object.end_ms,
        ..TombstoneRecord::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::{BlockId, ClusterId, FeatureLevel, Matcher, PartId, ShardId, TenantId, TimeRange, TimestampMs};

    fn found(id: u128, level: u32, parts: &[u64], revision: u64) -> FoundBlock {
        let window = TimeRange::new(TimestampMs(0), TimestampMs(100));
        let mut meta = BlockMeta::new(BlockId(id), ClusterId(1), TenantId::anonymous(), ShardId(0), window);
        meta.level = level;
        meta.tombstone_revision = revision;
        let shard = ShardId(0);
        meta.parts = parts.iter().map(|number| PartId { shard, number: *number }).collect();
        (meta.stats.samples, meta.stats.series) = (5, 1);
        FoundBlock {
            path: format!("block-{id}"),
            bytes: 10,
            meta,
        }
    }

    fn ids(state: &MetaState) -> Vec<u128> {
        let number = |b: &BlockRecord| b.id.parse::<BlockId>().unwrap().0;
        state.blocks.iter().map(number).collect()
    }

    fn delete_of(path: &str, after_revision: u64, revision: u64) -> FoundDelete {
        let mut found = delete(path, after_revision);
        found.object.revision = Some(revision);
        found
    }

    fn delete(path: &str, after_revision: u64) -> FoundDelete {
        FoundDelete {
            path: path.into(),
            object: TombstoneObject {
                cluster: ClusterId(1),
                after_revision,
                revision: None,
                tenant: TenantId::anonymous(),
                sets: vec![vec![Matcher::equal("a", "b")]],
                start_ms: 0,
                end_ms: 9,
            },
        }
    }

    #[test]
    fn higher_levels_and_more_deletes_win_and_no_part_is_twice() {
        let blocks = [
            found(1, 0, &[1], 0),
            found(2, 0, &[2], 0),
            found(3, 1, &[1, 2], 0),
            // Written anew, with a delete carried out.
            found(4, 1, &[1, 2], 7),
            found(5, 0, &[3], 0),
            found(6, 0, &[3], 0),
        ];
        let state = rebuild(None, &blocks, &[], Some(4));
        assert_eq!(ids(&state), [4, 5]);
        assert_eq!(state.epochs[0].shards, [0, 1, 2, 3]);
        assert!(state.catalogue_revision > 7);
    }

    #[test]
    fn the_level_is_what_the_checkpoint_and_all_kept_blocks_need() {
        let at = |id, level, parts: &[u64]| {
            let mut block = found(id, 0, parts, 0);
            block.meta.feature_level = FeatureLevel(level);
            block
        };
        // The last is not kept.
        let mut blocks = [at(1, 4, &[1]), at(2, 6, &[2]), at(3, 7, &[2])];
        assert_eq!(rebuild(None, &blocks, &[], None).feature_level, 6);
        blocks[1].meta.feature_level = FeatureLevel(4);
        assert_eq!(rebuild(None, &blocks, &[], None).feature_level, 4);
        let old = MetaState {
            feature_level: 5,
            ..MetaState::default()
        };
        assert_eq!(rebuild(Some(&old), &blocks, &[], None).feature_level, 5);
    }

    fn found_in(id: u128, epoch: u32, shard: u32, min_ms: i64) -> FoundBlock {
        let mut found = found(id, 0, &[id as u64], 0);
        found.meta.shard = ShardId(shard);
        found.meta.epoch.0 = epoch;
        (found.meta.stats.min_sample.0, found.meta.stats.max_sample.0) = (min_ms, min_ms + 5);
        found
    }

    #[test]
    fn without_a_checkpoint_epochs_are_those_that_blocks_name() {
        let t = 10 * EPOCH_STEP_MS;
        let blocks = [
            found_in(1, 1, 0, 5),
            found_in(2, 1, 2, t - 6),
            // Epoch 2 left none.
            found_in(3, 3, 7, t + 100),
            found_in(4, 3, 9, t + EPOCH_STEP_MS),
        ];
        let state = rebuild(None, &blocks, &[], None);
        let told = |state: &MetaState| -> Vec<(u32, i64, Vec<u32>)> {
            state
                .epochs
                .iter()
                .map(|e| (e.epoch, e.from_ms, e.shards.clone()))
                .collect()
        };
        // Whatever of 3 to 6 there was belongs to one of those before.
        assert_eq!(told(&state), [(1, i64::MIN, (0..7).collect()), (3, t, vec![7, 8, 9])]);
        assert!(
            state.epochs[0].by_labels.is_empty(),
            "which of its shards has a series is not known"
        );
        assert_eq!(state.epochs[1].by_labels, DEFAULT_PLACEMENT_LABELS);
        assert!(
            state
                .blocks
                .iter()
                .all(|block| crate::bounds::misplaced(&state, block).is_none())
        );
        let more = rebuild(None, &blocks, &[], Some(5));
        assert_eq!(told(&more)[1].2, [7, 8, 9, 10, 11]);
    }

    #[test]
    fn an_epoch_of_the_checkpoint_that_was_not_in_force_is_left_out() {
        let epoch = |epoch, shards: &[u32]| PlacementEpoch {
            epoch,
            from_ms: i64::from(epoch - 1) * EPOCH_STEP_MS,
            shards: shards.to_vec(),
            ..PlacementEpoch::default()
        };
        let checkpoint = MetaState {
            epochs: vec![epoch(1, &[0]), epoch(2, &[1])],
            epoch_change: Some(gnomon_proto::v1::EpochChange {
                epoch: Some(epoch(2, &[1])),
                ..gnomon_proto::v1::EpochChange::default()
            }),
            ..MetaState::default()
        };
        let state = rebuild(Some(&checkpoint), &[], &[], None);
        assert_eq!((state.epochs.len(), state.epochs[0].epoch), (1, 1));
    }

    #[test]
    fn what_retention_let_go_stays_away_and_inputs_stand_in_for_a_lost_output() {
        let blocks = [found(1, 0, &[1], 0), found(2, 0, &[2], 0), found(9, 0, &[9], 0)];
        let mut records: Vec<_> = blocks.iter().map(record_of).collect();
        for record in &mut records {
            record.set_state(State::Condemned);
        }
        let mut output = record_of(&found(3, 1, &[1, 2], 0));
        output.inputs = vec![records[0].id.clone(), records[1].id.clone()];
        records.push(output);
        let checkpoint = MetaState {
            blocks: records,
            epochs: vec![PlacementEpoch {
                shards: vec![0],
                ..PlacementEpoch::default()
            }],
            ..MetaState::default()
        };
        assert_eq!(ids(&rebuild(Some(&checkpoint), &blocks, &[], None)), [1, 2]);
        let with_output = [blocks[0].clone(), blocks[1].clone(), found(3, 1, &[1, 2], 0)];
        assert_eq!(ids(&rebuild(Some(&checkpoint), &with_output, &[], None)), [3]);
    }

    #[test]
    fn deletes_after_the_checkpoint_are_taken_up_in_their_order() {
        let checkpoint = MetaState {
            catalogue_revision: 20,
            forgotten_tombstone_revision: 6,
            tombstones: vec![TombstoneRecord {
                revision: 12,
                path: "known".into(),
                pending_shards: vec![0],
                ..TombstoneRecord::default()
            }],
            ..MetaState::default()
        };
        let deletes = [
            delete("late", 25),
            delete("known", 11),
            delete("old", 5),
            delete("next", 20),
        ];
        let state = rebuild(Some(&checkpoint), &[], &deletes, None);
        let found: Vec<_> = state.tombstones.iter().map(|t| (t.path.as_str(), t.revision)).collect();
        assert_eq!(found, [("known", 12), ("next", 21), ("late", 26)]);
        assert!(state.tombstones.iter().all(|t| t.pending_shards.is_empty()));
        assert_eq!(state.catalogue_revision, 27);
    }

    /// Two that were recorded at the same time: what one of them has carried out must not mask again, nor the other not.
    #[test]
    fn without_a_checkpoint_deletes_keep_the_revisions_that_their_objects_say() {
        let deletes = [delete_of("a", 4, 6), delete_of("b", 4, 5), delete("c", 4)];
        let state = rebuild(None, &[found(1, 0, &[1], 5)], &deletes, None);
        let found: Vec<_> = state.tombstones.iter().map(|t| (t.path.as_str(), t.revision)).collect();
        assert_eq!(found, [("b", 5), ("a", 6), ("c", 7)]);
        let masking = state
            .tombstones
            .iter()
            .map(|t| t.revision > state.blocks[0].tombstone_revision);
        assert_eq!(masking.collect::<Vec<_>>(), [false, true, true]);
        // A checkpoint that knew of it and does not name it says that it was forgotten.
        let checkpoint = MetaState {
            catalogue_revision: 6,
            forgotten_tombstone_revision: 6,
            ..MetaState::default()
        };
        let state = rebuild(Some(&checkpoint), &[], &deletes[..2], None);
        assert!(state.tombstones.is_empty());
    }
}
