//! All that one shard knows at one applied log index.

use super::apply::Deleting;
use crate::head::{Head, SealedPart};
use gnomon_model::ids::CURRENT_FEATURE_LEVEL;
use gnomon_model::{FeatureLevel, ShardId, TenantId};
use std::collections::{BTreeMap, VecDeque};

/// Dropped parts that are remembered one by one, for readers with an old view of the catalogue.
const REMEMBERED_DROPS: usize = 4096;

/// What counts on over the life of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    /// The next series' reference; references begin at 1.
    pub(crate) next_ref: u64,
    /// The next part's number; parts begin at 1.
    pub(crate) next_part: u64,
    /// The newest sample taken so far; the minimum where there is none.
    pub(crate) newest_ms: i64,
    /// Samples taken so far.
    pub(crate) samples: u64,
    pub(crate) feature_level: FeatureLevel,
    /// A view older than this catalogue revision may miss parts that are not remembered.
    pub(crate) forgotten_revision: u64,
    /// Deletes up to this revision are in the log: what is written from here on is not masked by them.
    pub(crate) tombstone_revision: u64,
    pub(crate) bounds: TimeBounds,
}

/// The samples that a shard owns, and since when it knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeBounds {
    /// Inclusive.
    pub(crate) from_ms: i64,
    /// Exclusive; the maximum is no end.
    pub(crate) until_ms: i64,
    /// Readers of what is beyond the end have to know this placement epoch; 0 while there is no end.
    pub(crate) next_epoch: u32,
    /// Revision of the metadata as of which it is so.
    pub(crate) revision: u64,
}

impl TimeBounds {
    pub(crate) const ALL: Self = Self {
        from_ms: i64::MIN,
        until_ms: i64::MAX,
        next_epoch: 0,
        revision: 0,
    };
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            next_ref: 1,
            next_part: 1,
            newest_ms: i64::MIN,
            samples: 0,
            feature_level: FeatureLevel(1),
            forgotten_revision: 0,
            tombstone_revision: 0,
            bounds: TimeBounds::ALL,
        }
    }
}

/// A part that was published and dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DroppedPart {
    pub(crate) tenant: TenantId,
    pub(crate) number: u64,
    /// First and last sample, inclusive.
    pub(crate) min_ms: i64,
    pub(crate) max_ms: i64,
    /// The first revision of the catalogue that has the part's block.
    pub(crate) catalogue_revision: u64,
}

#[derive(Debug)]
pub(crate) struct TenantHead {
    /// Stands for the tenant in keys; given in the order of first appearance, from 1.
    pub(crate) number: u32,
    /// Whether the number is durable.
    pub(crate) flushed: bool,
    pub(crate) head: Head,
}

#[derive(Debug)]
pub(crate) struct ShardState {
    pub(crate) shard: ShardId,
    /// What this build understands; no entry of a later level is applied.
    pub(crate) understands: FeatureLevel,
    /// Index of the last entry applied; 0 before any.
    pub(crate) applied: u64,
    pub(crate) counters: Counters,
    pub(crate) tenants: BTreeMap<TenantId, TenantHead>,
    /// Oldest first.
    pub(crate) dropped: VecDeque<DroppedPart>,
    /// Deletes of the entry that is being applied; none between two entries.
    pub(super) deleting: Option<Deleting>,
}

impl ShardState {
    pub(crate) fn new(shard: ShardId) -> Self {
        Self {
            shard,
            understands: CURRENT_FEATURE_LEVEL,
            applied: 0,
            counters: Counters::default(),
            tenants: BTreeMap::new(),
            dropped: VecDeque::new(),
            deleting: None,
        }
    }

    pub(crate) fn head(&self, tenant: &TenantId) -> Option<&Head> {
        self.tenants.get(tenant).map(|t| &t.head)
    }

    pub(crate) fn tenant_mut(&mut self, tenant: &TenantId) -> &mut TenantHead {
        let number = self.tenants.len() as u32 + 1;
        self.tenants.entry(tenant.clone()).or_insert_with(|| TenantHead {
            number,
            flushed: false,
            head: Head::new(),
        })
    }

    pub(crate) fn series_count(&self) -> u64 {
        self.tenants.values().map(|t| t.head.series_count()).sum()
    }

    /// Time of the newest sample, stale markers included; the minimum where there never was one. Looks at all series.
    pub(crate) fn newest_sample_ms(&self) -> i64 {
        let heads = self.tenants.values().map(|t| t.head.newest_ms());
        heads.fold(self.counters.newest_ms, i64::max)
    }

    /// Whether a part was sealed since the last flush.
    pub(crate) fn has_unflushed_parts(&self) -> bool {
        self.tenants.values().any(|t| !t.head.changes.new_parts.is_empty())
    }

    pub(crate) fn sealed_bytes(&self) -> u64 {
        self.tenants.values().map(|t| t.head.sealed_bytes()).sum()
    }

    pub(crate) fn remember_dropped(&mut self, tenant: TenantId, part: &SealedPart, catalogue_revision: u64) {
        if self.dropped.len() >= REMEMBERED_DROPS
            && let Some(oldest) = self.dropped.pop_front()
        {
            let forgotten = &mut self.counters.forgotten_revision;
            *forgotten = oldest.catalogue_revision.max(*forgotten);
        }
        self.dropped.push_back(DroppedPart {
            tenant,
            number: part.number,
            min_ms: part.min_ms,
            max_ms: part.max_ms,
            catalogue_revision,
        });
    }
}
