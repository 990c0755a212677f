//! A catalogue that is lost, from its newest checkpoint and what is in the bucket. Pure: who calls it reads and writes.
//!
//! Of blocks that cover the same parts the one of the highest level is kept, then the one in which more deletes are carried
//! out. An output is there before its inputs go, so that what is kept covers all that was covered; a delete is there
//! before any block that has carried it out, and goes after the last that it masks.

use crate::placement::DEFAULT_PLACEMENT_LABELS;
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
    let blocks = keep(candidates(old, blocks));
    let tombstones = tombstones(old, deletes);
    let most_shards = blocks.iter().map(|b| b.shard + 1).max().unwrap_or(1);
    let epochs = match old.epochs.is_empty() {
        false => old.epochs.clone(),
        true => vec![PlacementEpoch {
            epoch: 1,
            from_ms: i64::MIN,
            shards: (0..shards.unwrap_or(0).max(most_shards)).collect(),
            by_labels: DEFAULT_PLACEMENT_LABELS.map(str::to_owned).into(),
            spreads: Vec::new(),
        }],
    };
    let newest = tombstones.last().map_or(0, |t: &TombstoneRecord| t.revision);
    let carried_out = blocks.iter().map(|b| b.tombstone_revision).max().unwrap_or(0);
    MetaState {
        revision: old.revision + 1,
        catalogue_revision: old.catalogue_revision.max(newest).max(carried_out) + 1,
        cluster_id: old.cluster_id.clone(),
        feature_level: old.feature_level,
        epochs,
        blocks,
        tombstones,
        forgotten_tombstone_revision: old.forgotten_tombstone_revision,
        ..MetaState::default()
    }
}

/// Blocks that may be kept: not those that retention let go, which are condemned without a block in their place.
fn candidates(old: &MetaState, found: &[FoundBlock]) -> Vec<BlockRecord> {
    let known: HashMap<&str, &BlockRecord> = old.blocks.iter().map(|b| (b.id.as_str(), b)).collect();
    let replaced: HashSet<&str> = old.blocks.iter().flat_map(|b| &b.inputs).map(String::as_str).collect();
    let shards: BTreeSet<u32> = old.epochs.iter().flat_map(|e| &e.shards).copied().collect();
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
    use gnomon_model::{BlockId, ClusterId, Matcher, PartId, ShardId, TenantId, TimeRange, TimestampMs};

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
