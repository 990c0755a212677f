//! Which of the blocks of a bucket are exported, and what becomes of those that are damaged.

use crate::output;
use anyhow::Context;
use gnomon_model::{PartId, ShardId};
use gnomon_proto::v1::BlockRecord;
use gnomon_proto::v1::block_record::State;
use gnomon_tsdb::{BlockError, BlockMeta, BlockReader};
use std::sync::Arc;

/// What a block is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Contents {
    shard: ShardId,
    /// Level, and the newest delete that is carried out.
    rank: (u32, u64),
    /// Ascending.
    parts: Vec<PartId>,
}

impl Contents {
    fn of_block(meta: &BlockMeta) -> Self {
        Self {
            shard: meta.shard,
            rank: (meta.level, meta.tombstone_revision),
            parts: meta.parts.clone(),
        }
    }

    fn of_record(record: &BlockRecord) -> Self {
        let shard = ShardId(record.shard);
        let parts = record.parts.iter().map(|number| PartId { shard, number: *number });
        Self {
            shard,
            rank: (record.level, record.tombstone_revision),
            parts: parts.collect(),
        }
    }

    /// Whether all parts of `other` are here, at a higher level, or at the same with more deletes carried out.
    fn replaces(&self, other: &Self) -> bool {
        let has = |part: &PartId| self.parts.binary_search(part).is_ok();
        self.rank > other.rank && self.shard == other.shard && other.parts.iter().all(has)
    }
}

/// Which blocks of a bucket nobody replaces: others wait to be deleted.
pub(super) fn not_superseded(metas: &[&BlockMeta]) -> Vec<bool> {
    let contents: Vec<_> = metas.iter().map(|meta| Contents::of_block(meta)).collect();
    let is_kept = |one: &Contents| !contents.iter().any(|other| other.replaces(one));
    contents.iter().map(is_kept).collect()
}

/// Whether a block that cannot be opened is missed: not where the catalogue knows that it was replaced, or one of `metas`
/// has all that was in it.
pub(super) fn is_missed(record: Option<&BlockRecord>, metas: &[&BlockMeta]) -> bool {
    record.is_none_or(|record| {
        let lost = Contents::of_record(record);
        let is_replaced = || metas.iter().any(|meta| Contents::of_block(meta).replaces(&lost));
        record.state() != State::Condemned && !is_replaced()
    })
}

/// Damaged blocks: the first one ends an export, or each is left out.
#[derive(Debug)]
pub(super) struct Damage {
    is_skipped: bool,
    left_out: usize,
}

impl Damage {
    pub(super) const fn new(is_skipped: bool) -> Self {
        Self {
            is_skipped,
            left_out: 0,
        }
    }

    /// None for a block that is left out.
    pub(super) fn opened(
        &mut self,
        opened: anyhow::Result<Arc<BlockReader>>,
    ) -> anyhow::Result<Option<Arc<BlockReader>>> {
        match opened {
            Ok(reader) => Ok(Some(reader)),
            Err(error) if is_damage(&error) => self.leave_out(error).map(|()| None),
            Err(error) => Err(error),
        }
    }

    /// A damaged block that is missed.
    pub(super) fn leave_out(&mut self, error: anyhow::Error) -> anyhow::Result<()> {
        if !self.is_skipped {
            let advice = "nothing is exported (with --skip-damaged it is left out, and all else goes on)";
            return Err(error).context(advice);
        }
        output::fail("left out", &error);
        self.left_out += 1;
        Ok(())
    }

    /// Says at the end what was left out.
    pub(super) fn tell(&self) {
        if self.left_out > 0 {
            output::tell(format_args!(
                "{} damaged or missing blocks were left out: what is only in them is missing",
                self.left_out
            ));
        }
    }
}

/// An object that the catalogue has and the bucket has not is as lost as one that cannot be read.
pub(super) fn is_damage(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<BlockError>();
    error.is_some_and(|error| error.is_damage() || error.is_not_found())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::{BlockId, ClusterId, TenantId, TimeRange, TimestampMs};

    fn meta(id: u128, level: u32, parts: &[u64]) -> BlockMeta {
        let window = TimeRange::new(TimestampMs(0), TimestampMs(1));
        let mut meta = BlockMeta::new(BlockId(id), ClusterId(1), TenantId::anonymous(), ShardId(0), window);
        meta.level = level;
        let part = |number: &u64| PartId {
            shard: ShardId(0),
            number: *number,
        };
        meta.parts = parts.iter().map(part).collect();
        meta
    }

    #[test]
    fn a_block_that_another_replaces_is_left_out() {
        let metas = [
            meta(1, 0, &[1]),
            meta(2, 0, &[2]),
            meta(3, 1, &[1, 2]),
            meta(4, 0, &[3]),
        ];
        let mut other = meta(5, 2, &[1, 2, 3]);
        other.shard = ShardId(1);
        // Written anew, with a delete carried out.
        let mut anew = meta(6, 0, &[3]);
        anew.tombstone_revision = 7;
        let all: Vec<&BlockMeta> = metas.iter().chain([&other, &anew]).collect();
        assert_eq!(not_superseded(&all), [false, false, true, false, true, true]);
    }

    #[test]
    fn a_damaged_block_is_missed_unless_another_has_what_it_had() {
        let record = |state: State, level: u32, parts: &[u64]| BlockRecord {
            state: state.into(),
            level,
            parts: parts.to_vec(),
            ..BlockRecord::default()
        };
        let merged = meta(3, 1, &[1, 2]);
        let missed = |record: Option<BlockRecord>| is_missed(record.as_ref(), &[&merged]);
        assert!(missed(None), "nobody knows what it had");
        assert!(!missed(Some(record(State::Live, 0, &[1]))));
        assert!(missed(Some(record(State::Live, 0, &[1, 3]))));
        assert!(missed(Some(record(State::Live, 1, &[1]))));
        assert!(missed(Some(record(State::Staged, 2, &[1, 2]))));
        assert!(!missed(Some(record(State::Condemned, 0, &[9]))));
    }
}
