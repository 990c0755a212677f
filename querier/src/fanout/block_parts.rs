//! Fragments over blocks: each block's part is evaluated by whom the block belongs to, so that of its samples nothing
//! travels but what comes of them. Steps that look at several blocks of a shard are evaluated here.

use super::apart::{Part, Pieces, Pushes, bytes_of};
use super::blocks::BlockReads;
use super::cost::Skipped;
use super::fragments::begins_anew;
use super::open::{Replan, block_name};
use super::plan::{FanoutPlan, Selection};
use super::pump::{Apart, Merged, evaluating, pump_some};
use super::scope::Amount;
use super::served::to_wire;
use super::stream::{Merge, ended_early};
use super::stretches::Stretches;
use super::{Costs, Fanout, Scope, SourceCost};
use crate::error::{ApiError, ErrorType};
use futures::StreamExt;
use gnomon_cluster::fragments::{self, PageSource};
use gnomon_promql::{CancelFlag, Fragment, Limits, Reserved};
use gnomon_proto::{ServiceError, v1};
use gnomon_tsdb::{Coding, Deletes};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

/// Parts that are asked for at a time, for one fragment.
const PARTS_AT_ONCE: usize = 16;

/// Blocks that this process evaluates fragments over at the same time. Each keeps a thread that waits for reads, which
/// take threads of the same pool: were all of them waiting, no read would ever be done.
static EVALUATIONS: Semaphore = Semaphore::const_new(64);

/// What comes of a fragment over a block.
pub struct BlockAnswer {
    pub batches: Vec<v1::EvaluateBatch>,
    /// What they occupy.
    pub held: Reserved,
}

fn over(error: impl std::fmt::Display) -> ServiceError {
    ServiceError::LimitExceeded(error.to_string())
}

impl BlockAnswer {
    /// # Errors
    /// `LimitExceeded`.
    pub(super) fn new(limits: &Limits) -> Result<Self, ServiceError> {
        Ok(Self {
            batches: Vec::new(),
            held: limits.memory.reserve(0).map_err(over)?,
        })
    }

    /// # Errors
    /// `LimitExceeded` where there is no room for it.
    pub(super) fn add(&mut self, batch: v1::EvaluateBatch) -> Result<(), ServiceError> {
        self.held
            .grow(prost::Message::encoded_len(&batch) as u64)
            .map_err(over)?;
        self.batches.push(batch);
        Ok(())
    }
}

/// Ends an evaluation that nobody waits for any more: between two looks at the flag, or while it waits for the store.
struct Canceling {
    flag: CancelFlag,
    waits: CancellationToken,
}

impl Drop for Canceling {
    fn drop(&mut self) {
        self.flag.cancel();
        self.waits.cancel();
    }
}

/// Evaluates on a thread of this process what is read of a block.
pub(super) async fn evaluate_here(
    blocks: &(impl BlockReads + ?Sized),
    block: &v1::BlockRecord,
    fragment: &Fragment,
    deletes: Deletes,
    limits: &Limits,
) -> Result<BlockAnswer, ServiceError> {
    let (start_ms, end_ms) = fragment.samples();
    let selection = Selection {
        matchers: fragment.matchers.clone(),
        start_ms,
        end_ms,
        labels_only: false,
    };
    // Closed never.
    let place = EVALUATIONS.acquire().await;
    let mut series = blocks.select(block, &selection, deletes, &Skipped::default()).await?;
    let (cancel, gone) = (CancelFlag::new(), CancellationToken::new());
    let _canceling = Canceling {
        flag: cancel.clone(),
        waits: gone.clone(),
    };
    let (runtime, fragment, limits) = (Handle::current(), fragment.clone(), limits.clone());
    let evaluating = spawn_blocking(move || {
        // The thread may live longer than who waits for it.
        let _place = place;
        let mut answer = BlockAnswer::new(&limits)?;
        let mut no_room = None;
        let source = PageSource::new(|| {
            let next = runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = gone.cancelled() => Some(Err(ServiceError::Cancelled)),
                    batch = series.next() => batch,
                }
            });
            let Some(batch) = next.transpose()? else {
                return Ok(None);
            };
            let mut pages = batch.iter().flat_map(|series| &series.pages);
            if pages.any(|page| page.coding == Coding::Histogram) {
                return Err(ServiceError::Invalid(
                    "histograms have to be evaluated in one place".to_owned(),
                ));
            }
            Ok(Some(to_wire(batch, 0)))
        });
        let done = fragments::evaluate(&fragment, &source, &limits, &cancel, &mut |batch| {
            no_room = answer.add(batch).err();
            no_room.is_none()
        });
        drop(source);
        match no_room {
            Some(error) => Err(error),
            None => done.map(|()| answer),
        }
    });
    let evaluated = evaluating.await;
    evaluated.unwrap_or_else(|panicked| Err(ServiceError::Internal(format!("evaluating over a block: {panicked}"))))
}

/// Steps of a fragment, each to be evaluated by who has the block, or here.
pub(super) struct BlockParts {
    /// All of the steps.
    fragment: Fragment,
    blocks: Vec<BlockPart>,
    merged: Vec<(Range<usize>, Merge)>,
}

struct BlockPart {
    block: v1::BlockRecord,
    deletes: Deletes,
    steps: Range<usize>,
}

impl Fanout {
    /// Opens the steps of a fragment that blocks can answer apart, and the sources of those between; none where that is
    /// not possible, or not worth it.
    pub(super) async fn open_stretches(
        &self,
        scope: &Arc<Scope>,
        fragment: &Fragment,
        selection: &Selection,
        plan: &FanoutPlan,
    ) -> Result<Option<BlockParts>, Replan> {
        // After a change of epochs a series may be in blocks of two shards.
        if !fragment.is_merging() || plan.epochs > 1 || !self.blocks.are_spread(&plan.blocks) {
            return Ok(None);
        }
        let Some(stretches) = Stretches::of(plan, fragment) else {
            return Ok(None);
        };
        let range = |steps: &Range<usize>| {
            let (start_ms, _) = fragment.samples_of_step(steps.start);
            let (_, end_ms) = fragment.samples_of_step(steps.end.saturating_sub(1));
            Selection {
                start_ms,
                end_ms,
                ..selection.clone()
            }
        };
        let alone = range(&stretches.alone(fragment.steps));
        if !self.is_all_in_blocks(scope, &alone, plan).await {
            return Ok(None);
        }
        let mut blocks = Vec::with_capacity(stretches.blocks.len());
        for (at, steps) in stretches.blocks {
            let Some(block) = plan.blocks.get(at) else { continue };
            let deletes = self.deletes.masking(&plan.deletes, block);
            blocks.push(BlockPart {
                block: block.clone(),
                deletes: deletes.map_err(|e| ApiError::new(ErrorType::Internal, e.to_string()))?,
                steps,
            });
        }
        let mut merged = Vec::with_capacity(stretches.merged.len());
        for steps in stretches.merged {
            let selection = range(&steps);
            let plan = plan.within(selection.start_ms, selection.end_ms);
            let sources = self.open_all(scope, &selection, plan).await?;
            merged.push((steps, Merge::new(sources, Arc::clone(scope))));
        }
        Ok(Some(BlockParts {
            fragment: fragment.clone(),
            blocks,
            merged,
        }))
    }

    /// Has a block's part evaluated; none where the block cannot be read and the request lives with that.
    async fn evaluate_part(
        &self,
        scope: &Scope,
        name: &str,
        fragment: &Fragment,
        part: BlockPart,
        limits: &Limits,
    ) -> Result<Option<Pieces>, ApiError> {
        let BlockPart { block, deletes, steps } = part;
        let since = scope.costs().map_or(Duration::ZERO, Costs::now);
        let source = block_name(&block);
        let own = fragment.some_steps(&steps);
        let answer = match self.blocks.evaluate(&block, &own, deletes, limits).await {
            Ok(answer) => answer,
            Err(ServiceError::Invalid(why)) => {
                scope.note_whole();
                let what = format!("{source} cannot be evaluated apart: {why}");
                return Err(ApiError::new(ErrorType::Internal, what));
            }
            Err(error) => {
                if begins_anew(&error) {
                    scope.note_moved();
                }
                return ended_early(scope, &source, error).map(|()| None);
            }
        };
        let mut cost = SourceCost {
            of: name.to_owned(),
            source,
            evaluated: true,
            ..SourceCost::default()
        };
        let (mut held, mut pieces) = (limits.memory.reserve(0)?, Vec::new());
        for batch in answer.batches {
            cost.series += batch.series;
            cost.samples += batch.samples;
            cost.bytes += prost::Message::encoded_len(&batch) as u64;
            let partials = fragments::partials_from_wire(batch, steps.len());
            let partials = partials.map_err(|e| ApiError::new(ErrorType::Internal, format!("{}: {e}", cost.source)))?;
            for piece in partials {
                held.grow(bytes_of(&piece))?;
                pieces.push(piece);
            }
        }
        scope.charge(Amount {
            samples: cost.samples,
            series: pieces.len() as u64,
            ..Amount::of_bytes(cost.bytes)
        })?;
        if let Some(costs) = scope.costs() {
            costs.add(since, cost);
        }
        Ok(Some(Pieces {
            pieces,
            held,
            before: steps.start,
            total: fragment.steps,
        }))
    }
}

/// Gives what comes of a fragment's parts, in any order, and then none.
pub(super) async fn pump_stretches(
    fanout: &Fanout,
    scope: &Arc<Scope>,
    (name, parts): (&str, BlockParts),
    pushes: &Pushes,
    give: &mpsc::Sender<Option<Apart>>,
) -> Result<(), ApiError> {
    let BlockParts {
        fragment,
        blocks,
        merged,
    } = parts;
    let of_blocks = async {
        let evaluate = |part| fanout.evaluate_part(scope, name, &fragment, part, &pushes.limits);
        let mut answers = std::pin::pin!(
            futures::stream::iter(blocks)
                .map(evaluate)
                .buffer_unordered(PARTS_AT_ONCE)
        );
        while let Some(answer) = answers.next().await {
            if let Some(pieces) = answer?
                && give.send(Some(Apart::Evaluated(pieces))).await.is_err()
            {
                break;
            }
        }
        Ok(())
    };
    let of_samples = async {
        for (steps, merge) in merged {
            let mut merge = merge.of(name.to_owned());
            let first = Merged::next(&mut merge, pushes.batch_samples).await?;
            let part = Part {
                fragment: fragment.some_steps(&steps),
                before: steps.start,
                total: fragment.steps,
            };
            let make = evaluating(scope, part, pushes);
            pump_some(make, (merge, first), pushes.batch_samples, give).await?;
        }
        Ok::<_, ApiError>(())
    };
    futures::try_join!(of_blocks, of_samples)?;
    let _ = give.send(None).await;
    Ok(())
}
