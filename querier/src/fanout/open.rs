//! Opening all sources of a plan at once, and replanning.

use super::plan::{FanoutPlan, Selection};
use super::stream::{Merge, Source, ended_early, of_shard};
use super::{Fanout, MAX_REPLANS, OPEN_TIMEOUT, REPLAN_PAUSE, Scope, Skipped};
use crate::error::{ApiError, ErrorType};
use crate::instant::Rfc3339;
use futures::future::{BoxFuture, join_all};
use futures::{FutureExt, StreamExt};
use gnomon_cluster::deletes::BadRecord;
use gnomon_model::{PartId, ShardId};
use gnomon_promql::MemoryBudget;
use gnomon_proto::{ServiceError, matchers, v1};
use gnomon_tsdb::Deletes;
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

/// Blocks that are opened at the same time, for one selection.
const BLOCKS_AT_ONCE: usize = 16;

/// Why a plan cannot be gone on with.
pub(super) enum Replan {
    /// What this shard (by name) says needs a catalogue view at least this new.
    Newer {
        shard: ShardId,
        name: String,
        revision: u64,
    },
    /// The object of this block is gone.
    Missing(Box<v1::BlockRecord>),
    Failed(ApiError),
}

impl From<ApiError> for Replan {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}

/// What was said to be missing, so that it is not asked again.
#[derive(Default)]
struct LeftOut {
    shards: BTreeSet<ShardId>,
    blocks: BTreeSet<String>,
}

impl Fanout {
    /// The series of a selection in the order of their labels.
    ///
    /// # Errors
    /// When no view can be had, a limit is reached, or, for a strict request, something is missing.
    pub(crate) async fn select(&self, scope: &Arc<Scope>, selection: &Selection) -> Result<Merge, ApiError> {
        let sources = self
            .replanning(scope, selection, |plan| self.open_all(scope, selection, plan))
            .await?;
        Ok(Merge::new(sources, Arc::clone(scope)))
    }

    /// Runs `attempt` with plans of ever newer views until one holds.
    pub(super) async fn replanning<T, F: Future<Output = Result<T, Replan>>>(
        &self,
        scope: &Scope,
        selection: &Selection,
        attempt: impl Fn(FanoutPlan) -> F,
    ) -> Result<T, ApiError> {
        let mut state = self.state(0).await?;
        let mut left_out = LeftOut::default();
        for _ in 0..MAX_REPLANS {
            let mut plan = FanoutPlan::new(&state, &self.tenant, selection);
            plan.shards.retain(|shard, _| !left_out.shards.contains(shard));
            plan.blocks.retain(|block| !left_out.blocks.contains(&block.id));
            let replan = match attempt(plan).await {
                Ok(done) => return Ok(done),
                Err(replan) => replan,
            };
            state = self.newer_state(scope, selection, replan, state, &mut left_out).await?;
        }
        Err(ApiError::new(
            ErrorType::Unavailable,
            format!("the block catalogue changed {MAX_REPLANS} times while the query was planned; try again"),
        ))
    }

    /// The state to plan again with. Where there is none, what needs it is left out, and that is said.
    async fn newer_state(
        &self,
        scope: &Scope,
        selection: &Selection,
        replan: Replan,
        old: Arc<v1::MetaState>,
        left_out: &mut LeftOut,
    ) -> Result<Arc<v1::MetaState>, ApiError> {
        match replan {
            Replan::Failed(error) => Err(error),
            Replan::Newer { shard, name, revision } => {
                tracing::debug!(
                    old = old.catalogue_revision,
                    revision,
                    "catalogue view is old, planning again"
                );
                let newer = self.state(revision).await;
                match newer {
                    Ok(newer) if newer.revision > old.revision => Ok(newer),
                    Ok(same) => {
                        tokio::time::sleep(REPLAN_PAUSE).await;
                        Ok(same)
                    }
                    Err(error) => {
                        scope.missing(format!(
                            "{name} has moved samples to blocks that are not known here, the result is incomplete: {error}"
                        ))?;
                        left_out.shards.insert(shard);
                        Ok(old)
                    }
                }
            }
            Replan::Missing(block) => {
                let newer = self.state(old.catalogue_revision + 1).await;
                let gone = |why: &str| format!("{} {why}, the result is incomplete", block_name(&block));
                let what = match &newer {
                    Err(error) => Some(gone(&format!("is gone and what replaces it is not known: {error}"))),
                    Ok(newer) => FanoutPlan::new(newer, &self.tenant, selection)
                        .blocks
                        .iter()
                        .any(|b| b.id == block.id)
                        .then(|| gone("is in the catalogue but not in the object store")),
                };
                if let Some(what) = what {
                    scope.missing(what)?;
                    left_out.blocks.insert(block.id);
                }
                Ok(newer.unwrap_or(old))
            }
        }
    }

    /// Sources in the order in which they win at equal times: blocks by part, then heads, then what was imported and not
    /// merged with a shard's own blocks yet.
    pub(super) async fn open_all(
        &self,
        scope: &Arc<Scope>,
        selection: &Selection,
        plan: FanoutPlan,
    ) -> Result<Vec<Source>, Replan> {
        if !plan.blocks.is_empty() && scope.has_others() {
            // What is read at once ends here: indexes of blocks are long, and several selectors can look at theirs at
            // the same time.
            tokio::task::yield_now().await;
        }
        let open_block = |block| {
            let deletes = self.deletes.masking(&plan.deletes, block);
            self.open_block(scope, selection, block, deletes).boxed()
        };
        let blocks: Vec<BoxFuture<'_, _>> = plan.blocks.iter().map(open_block).collect();
        let blocks = futures::stream::iter(blocks).buffered(BLOCKS_AT_ONCE);
        let open_shard = |(shard, parts): (&ShardId, &Vec<u64>)| {
            self.open_shard(scope, selection, *shard, view(&plan, parts)).boxed()
        };
        let shards: Vec<BoxFuture<'_, _>> = plan.shards.iter().map(open_shard).collect();
        let (blocks, shards) = futures::join!(blocks.collect::<Vec<_>>(), join_all(shards));
        let asked = blocks.len() + shards.len();
        let mut sources = Vec::with_capacity(asked);
        let is_imported =
            |block: &v1::BlockRecord| block.parts.first().is_some_and(|part| *part >= PartId::FIRST_IMPORTED);
        let (imported, own): (Vec<_>, Vec<_>) = blocks
            .into_iter()
            .zip(&plan.blocks)
            .partition(|(_, block)| is_imported(block));
        let of = |opened: Vec<(_, _)>| opened.into_iter().map(|(opened, _)| opened);
        for opened in of(own).chain(shards).chain(of(imported)) {
            sources.extend(opened?);
        }
        if asked > 0 && sources.is_empty() {
            return Err(nothing_read(scope).into());
        }
        Ok(sources)
    }

    async fn open_block(
        &self,
        scope: &Scope,
        selection: &Selection,
        block: &v1::BlockRecord,
        deletes: Result<Deletes, BadRecord>,
    ) -> Result<Option<Source>, Replan> {
        let name = block_name(block);
        let deletes = deletes.map_err(|e| ApiError::new(ErrorType::Internal, e.to_string()))?;
        let opened = within(OPEN_TIMEOUT, async {
            let skipped = Skipped::default();
            let stream = self.blocks.select(block, selection, deletes, &skipped).await?;
            Source::open(name.clone(), stream, scope.memory(), skipped).await
        });
        match opened.await {
            Ok(source) => Ok(Some(source)),
            Err(ServiceError::NotFound(_)) => Err(Replan::Missing(Box::new(block.clone()))),
            Err(error) => Ok(ended_early(scope, &name, error).map(|()| None)?),
        }
    }

    pub(super) fn shard_request(
        &self,
        scope: &Scope,
        selection: &Selection,
        shard: ShardId,
        view: v1::View,
    ) -> v1::SelectRequest {
        let limits = scope.limits();
        v1::SelectRequest {
            tenant: self.tenant.to_string(),
            shard: shard.0,
            matchers: matchers::to_wire(&selection.matchers),
            start_ms: selection.start_ms,
            end_ms: selection.end_ms,
            view: Some(view),
            max_samples: limits.max_samples,
            max_bytes: at_once(limits.max_bytes, scope.memory()),
            labels_only: selection.labels_only,
            counting: None,
            any_replica: false,
        }
    }

    async fn open_shard(
        &self,
        scope: &Scope,
        selection: &Selection,
        shard: ShardId,
        view: v1::View,
    ) -> Result<Option<Source>, Replan> {
        let name = shard_name(shard, selection.start_ms, selection.end_ms);
        let request = self.shard_request(scope, selection, shard, view);
        let opened = within(OPEN_TIMEOUT, async {
            let stream = of_shard(self.shards.select(request).await?);
            Source::open(name.clone(), stream, scope.memory(), Skipped::default()).await
        })
        .await;
        shard_result(scope, shard, name, opened)
    }
}

/// No source at all could be read: that is no answer, not even an incomplete one.
pub(super) fn nothing_read(scope: &Scope) -> ApiError {
    let why = scope.warnings().into_iter().next().unwrap_or_default();
    ApiError::new(ErrorType::Unavailable, format!("nothing could be read: {why}"))
}

pub(super) fn view(plan: &FanoutPlan, parts: &[u64]) -> v1::View {
    v1::View {
        catalogue_revision: plan.catalogue_revision,
        parts_from_blocks: parts.to_vec(),
        placement_epoch: plan.placement_epoch,
    }
}

/// None where the shard did not answer and the request lives with that.
pub(super) fn shard_result<T>(
    scope: &Scope,
    shard: ShardId,
    name: String,
    result: Result<T, ServiceError>,
) -> Result<Option<T>, Replan> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(ServiceError::StaleView { revision }) => Err(Replan::Newer { shard, name, revision }),
        // No catalogue revision is known then: the state is read afresh, and is as new as what the shard knows.
        Err(ServiceError::StaleMap { .. }) => Err(Replan::Newer {
            shard,
            name,
            revision: u64::MAX,
        }),
        Err(error) => Ok(ended_early(scope, &name, error).map(|()| None)?),
    }
}

/// An answer that must come in time.
pub(super) async fn within<T>(
    limit: std::time::Duration,
    answer: impl Future<Output = Result<T, ServiceError>>,
) -> Result<T, ServiceError> {
    tokio::time::timeout(limit, answer)
        .await
        .unwrap_or_else(|_| Err(ServiceError::DeadlineExceeded(format!("no answer within {limit:?}"))))
}

/// What a shard may hold for a selection: no more than may be fetched, and no more than the query may hold.
fn at_once(max_bytes: u64, memory: &MemoryBudget) -> u64 {
    match (max_bytes, memory.limit_bytes()) {
        (0, Some(limit)) => limit,
        (max_bytes, limit) => max_bytes.min(limit.unwrap_or(max_bytes)),
    }
}

fn range_text(start_ms: i64, end_ms: i64) -> String {
    let all_time = start_ms <= crate::params::MIN_TIME.1 && end_ms >= crate::params::MAX_TIME.1;
    if all_time {
        "all samples".to_owned()
    } else {
        format!("samples from {} to {}", Rfc3339(start_ms), Rfc3339(end_ms))
    }
}

pub(super) fn shard_name(shard: ShardId, start_ms: i64, end_ms: i64) -> String {
    format!("shard {shard} ({})", range_text(start_ms, end_ms))
}

pub(super) fn block_name(block: &v1::BlockRecord) -> String {
    format!(
        "block {} of shard {} ({})",
        block.id,
        block.shard,
        range_text(block.min_sample_ms, block.max_sample_ms)
    )
}
