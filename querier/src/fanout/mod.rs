//! From a selection to one sorted stream of series: every shard's head and the blocks that a view of the catalogue
//! names, replanned when the view turns out to be old.
//!
//! Invariant: a sample is in exactly one of the places asked. A shard is told which parts are taken from blocks; where
//! it has dropped one that is not named it answers `StaleView`, and so does, in effect, an object that is gone. Both
//! lead to a fresh view and a new plan, before anything was given out.

mod apart;
mod block_parts;
mod blocks;
mod cost;
mod count;
mod exemplars;
mod fragments;
mod held;
mod labels;
mod metadata;
mod open;
mod plan;
mod pump;
mod quarantine;
mod receive;
mod samples;
mod scope;
mod served;
mod source;
mod spread;
mod stream;
mod stretches;

pub(crate) use apart::Pushes;
pub use block_parts::BlockAnswer;
pub use blocks::{BlockReads, ExemplarStream, StoredBlocks};
pub use cost::Skipped;
pub(crate) use cost::{Costs, SourceCost};
pub(crate) use exemplars::exemplars_from_wire;
pub(crate) use metadata::Metadata;
pub use plan::{FanoutPlan, Selection};
pub(crate) use samples::{decode, whole_numbers};
pub use scope::{FetchLimits, Scope};
pub use served::ServedBlocks;
pub(crate) use source::Fetched;
pub use spread::{Queriers, SpreadBlocks};
pub use stream::SeriesStream;
pub(crate) use stream::{Merge, MergedSeries};

use crate::error::{ApiError, ErrorType};
use gnomon_cluster::deletes::KnownDeletes;
use gnomon_model::{ShardId, TenantId};
use gnomon_proto::service::{MetaService, ShardReadService};
use gnomon_proto::v1;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a source may take to give its first series.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a plan may turn out to be old before that is an error.
const MAX_REPLANS: usize = 8;
/// Before a view is asked for again that was not new enough.
const REPLAN_PAUSE: Duration = Duration::from_millis(50);

/// Everything that a querier reads samples from.
pub struct Fanout {
    pub tenant: TenantId,
    /// Sends each request to the leader of the shard it names, and waits a little where there is none.
    pub shards: Arc<dyn ShardReadService>,
    pub blocks: Arc<dyn BlockReads>,
    /// For a view that is newer than the one watched.
    pub meta: Arc<dyn MetaService>,
    /// The newest state seen.
    pub view: watch::Receiver<Arc<v1::MetaState>>,
    /// Those that mask blocks.
    pub deletes: KnownDeletes,
}

impl Fanout {
    /// The state, read afresh where the one watched is older than `catalogue_revision` or not initialized.
    async fn state(&self, catalogue_revision: u64) -> Result<Arc<v1::MetaState>, ApiError> {
        let watched = Arc::clone(&self.view.borrow());
        if watched.catalogue_revision >= catalogue_revision && !watched.epochs.is_empty() {
            return Ok(watched);
        }
        let read = tokio::time::timeout(OPEN_TIMEOUT, self.meta.read()).await;
        let unavailable = |why: String| {
            ApiError::new(
                ErrorType::Unavailable,
                format!("the metadata group cannot be asked which shards and blocks there are: {why}"),
            )
        };
        let state = match read {
            Ok(Ok(state)) => state,
            Ok(Err(error)) => return Err(unavailable(error.to_string())),
            Err(_) => return Err(unavailable(format!("no answer within {OPEN_TIMEOUT:?}"))),
        };
        if state.epochs.is_empty() {
            return Err(unavailable("the cluster is not initialized yet".into()));
        }
        Ok(state)
    }

    /// Blocks that queries read, by time, then by shard.
    pub(crate) async fn live_blocks(&self) -> Result<Vec<v1::BlockRecord>, ApiError> {
        let state = self.state(0).await?;
        let live = |block: &&v1::BlockRecord| {
            block.state == v1::block_record::State::Live as i32 && block.tenant == self.tenant.as_str()
        };
        let mut blocks: Vec<_> = state.blocks.iter().filter(live).cloned().collect();
        blocks.sort_by_key(|block| (block.start_ms, block.shard, block.parts.first().copied()));
        Ok(blocks)
    }

    /// Shards that exist in any epoch, ascending, and the newest epoch; as of `catalogue_revision` at least.
    async fn all_shards(&self, catalogue_revision: u64) -> Result<(Vec<ShardId>, u32), ApiError> {
        let state = self.state(catalogue_revision).await?;
        let epoch = state.epochs.last().map_or(0, |epoch| epoch.epoch);
        let mut shards: Vec<_> = state
            .epochs
            .iter()
            .flat_map(|e| &e.shards)
            .copied()
            .map(ShardId)
            .collect();
        shards.sort_unstable();
        shards.dedup();
        Ok((shards, epoch))
    }
}

impl std::fmt::Debug for Fanout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fanout")
            .field("tenant", &self.tenant)
            .finish_non_exhaustive()
    }
}
