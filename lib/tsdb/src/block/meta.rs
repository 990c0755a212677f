//! What a block says about itself, as JSON within it.

use super::version_at;
use gnomon_model::ids::BASE_FEATURE_LEVEL;
use gnomon_model::{
    BlockId, ClusterId, FeatureLevel, PartId, PlacementEpoch, ShardId, TenantId, TimeRange, TimestampMs,
};
use serde::{Deserialize, Serialize};

/// Self-description of a block: enough to rebuild its catalogue record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockMeta {
    pub format_version: u32,
    /// What all nodes that read it understand: the version of the format depends on it.
    pub feature_level: FeatureLevel,
    pub block: BlockId,
    pub cluster: ClusterId,
    pub tenant: TenantId,
    pub shard: ShardId,
    pub epoch: PlacementEpoch,
    /// All samples lie in it; half-open.
    pub window: TimeRange,
    /// 0 as uploaded by an ingester, one more than its highest input for a merged one.
    pub level: u32,
    /// The parts whose samples it holds, ascending, all of `shard`.
    pub parts: Vec<PartId>,
    /// Deletes up to this revision are carried out in it.
    pub tombstone_revision: u64,
    /// Filled in by the writer.
    pub stats: BlockStats,
}

/// What a block holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockStats {
    pub series: u64,
    pub pages: u64,
    pub samples: u64,
    /// First sample; 0 in a block without samples.
    pub min_sample: TimestampMs,
    /// Last sample, **inclusive**; 0 in a block without samples.
    pub max_sample: TimestampMs,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub exemplars: u64,
    /// Metrics whose type, unit and help it knows.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub metadata: u64,
    /// Samples whose start timestamp it knows.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub starts: u64,
}

/// What blocks of older versions do not say.
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl BlockMeta {
    /// The description of a block of level 0, without samples yet, in epoch 1.
    #[must_use]
    pub fn new(block: BlockId, cluster: ClusterId, tenant: TenantId, shard: ShardId, window: TimeRange) -> Self {
        Self {
            format_version: version_at(BASE_FEATURE_LEVEL),
            feature_level: BASE_FEATURE_LEVEL,
            block,
            cluster,
            tenant,
            shard,
            epoch: PlacementEpoch(1),
            window,
            level: 0,
            parts: Vec::new(),
            tombstone_revision: 0,
            stats: BlockStats::default(),
        }
    }
}
