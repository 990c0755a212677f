//! Names of objects, and what they say.

use gnomon_model::{BlockId, ShardId, TenantId, TimestampMs};
use object_store::path::Path;

/// Says which cluster a bucket belongs to.
pub const CLUSTER_MARKER: &str = "cluster.json";
/// What block objects end with.
pub const BLOCK_SUFFIX: &str = ".gnb";

/// What the name of a block object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockKey {
    pub tenant: TenantId,
    pub shard: ShardId,
    pub window_start: TimestampMs,
    pub block: BlockId,
}

impl BlockKey {
    #[must_use]
    pub fn path(&self) -> Path {
        block_path(&self.tenant, self.shard, self.window_start, self.block)
    }

    /// None for an object that is no block.
    #[must_use]
    pub fn parse(path: &Path) -> Option<Self> {
        let mut parts = path.as_ref().split('/');
        let tenant = parts.next()?.parse().ok()?;
        let (blocks, shard, start, file) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        if blocks != "blocks" || parts.next().is_some() {
            return None;
        }
        Some(Self {
            tenant,
            shard: ShardId(shard.parse().ok()?),
            window_start: TimestampMs(start.parse().ok()?),
            block: file.strip_suffix(BLOCK_SUFFIX)?.parse().ok()?,
        })
    }
}

#[must_use]
pub fn block_path(tenant: &TenantId, shard: ShardId, window_start: TimestampMs, block: BlockId) -> Path {
    Path::from(format!("{tenant}/blocks/{shard}/{window_start}/{block}{BLOCK_SUFFIX}"))
}

/// What tombstone objects end with.
pub const TOMBSTONE_SUFFIX: &str = ".gnt";

/// The object of a delete, by the id of the attempt.
#[must_use]
pub fn tombstone_path(tenant: &TenantId, id: BlockId) -> Path {
    Path::from(format!("{tenant}/tombstones/{id}{TOMBSTONE_SUFFIX}"))
}

/// Whether an object is that of a delete.
#[must_use]
pub fn is_tombstone(path: &Path) -> bool {
    let mut parts = path.as_ref().split('/');
    let tenant: Option<TenantId> = parts.next().and_then(|tenant| tenant.parse().ok());
    let id = |file: &str| file.strip_suffix(TOMBSTONE_SUFFIX)?.parse::<BlockId>().ok();
    tenant.is_some()
        && parts.next() == Some("tombstones")
        && parts.next().and_then(id).is_some()
        && parts.next().is_none()
}

/// What the names of the catalogue's copies begin with.
pub(super) const CHECKPOINT_PREFIX: &str = "checkpoint-";

/// Revisions are padded, so that a listing is in their order.
#[must_use]
pub fn checkpoint_path(revision: u64) -> Path {
    Path::from(format!("catalogue/checkpoint-{revision:020}"))
}

/// None for an object that is no checkpoint.
#[must_use]
pub fn checkpoint_revision(path: &Path) -> Option<u64> {
    path.as_ref().strip_prefix("catalogue/checkpoint-")?.parse().ok()
}
