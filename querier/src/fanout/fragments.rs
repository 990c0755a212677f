//! Fragments of a query: what shards evaluate, and the samples of the steps that they cannot.

use super::block_parts::BlockParts;
use super::open::{Replan, nothing_read, shard_name, shard_result, view, within};
use super::plan::{FanoutPlan, Selection};
use super::scope::Amount;
use super::stream::{Merge, ended_early};
use super::{Costs, Fanout, OPEN_TIMEOUT, Scope, SourceCost};
use crate::error::ApiError;
use futures::future::join_all;
use futures::{FutureExt, StreamExt};
use gnomon_cluster::fragments;
use gnomon_model::ShardId;
use gnomon_promql::Fragment;
use gnomon_promql::partial::Partial;
use gnomon_proto::service::EvaluateStream;
use gnomon_proto::{ServiceError, v1};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// A fragment whose sources are open.
pub(super) struct Opened {
    /// Steps before this one are for the engine to evaluate, from the samples.
    pub(super) from_step: usize,
    /// Of the steps before.
    pub(super) early: Early,
    /// What shards make of the steps from it on.
    pub(super) partials: PartialMerge,
    /// A shard said that it cannot be evaluated apart.
    pub(super) is_whole: bool,
}

/// Who evaluates the steps that shards do not.
pub(super) enum Early {
    /// There are none.
    Nobody,
    /// This node, from samples.
    Samples(Merge, Selection),
    /// Those who have the blocks, and this node what lies between.
    Stretches(BlockParts),
}

impl Fanout {
    /// Opens all sources of a fragment, of which shards evaluate as many steps as they can.
    ///
    /// # Errors
    /// As [`Fanout::select`].
    pub(super) async fn open_fragment(
        &self,
        scope: &Arc<Scope>,
        part: &str,
        fragment: &Fragment,
    ) -> Result<Opened, ApiError> {
        let (start_ms, end_ms) = fragment.samples();
        let selection = Selection {
            matchers: fragment.matchers.clone(),
            start_ms,
            end_ms,
            labels_only: false,
        };
        let attempt = |plan: FanoutPlan| self.attempt(scope, fragment, &selection, plan).boxed();
        if let Some(mut opened) = self.replanning(scope, &selection, attempt).await? {
            opened.partials.part = part.to_owned();
            return Ok(opened);
        }
        let samples = self.select(scope, &selection).await?;
        Ok(Opened {
            from_step: fragment.steps,
            early: Early::Samples(samples, selection),
            partials: PartialMerge::new(Vec::new(), Arc::clone(scope)),
            is_whole: true,
        })
    }

    /// None where a shard cannot evaluate it: a histogram, an older version.
    async fn attempt(
        &self,
        scope: &Arc<Scope>,
        fragment: &Fragment,
        selection: &Selection,
        plan: FanoutPlan,
    ) -> Result<Option<Opened>, Replan> {
        let from_step = plan.first_step_of_heads(fragment);
        let late = fragment.from_step(from_step);
        let mut shards = Vec::new();
        if late.steps > 0 {
            for opened in self.open_evaluations(scope, &late, &plan).await {
                match opened? {
                    Some(Some(source)) => shards.push(source),
                    Some(None) => return Ok(None),
                    None => {}
                }
            }
            if from_step == 0 && shards.is_empty() && !plan.shards.is_empty() {
                return Err(nothing_read(scope).into());
            }
        }
        let early = match from_step.checked_sub(1) {
            None => Early::Nobody,
            Some(last) => {
                let early = Selection {
                    end_ms: fragment.samples_of_step(last).1,
                    ..selection.clone()
                };
                let plan = plan.within(early.start_ms, early.end_ms);
                match self
                    .open_stretches(scope, &fragment.first_steps(from_step), &early, &plan)
                    .await?
                {
                    Some(stretches) => Early::Stretches(stretches),
                    None => {
                        let sources = self.open_all(scope, &early, plan).await?;
                        Early::Samples(Merge::new(sources, Arc::clone(scope)), early)
                    }
                }
            }
        };
        Ok(Some(Opened {
            from_step,
            early,
            partials: PartialMerge::new(shards, Arc::clone(scope)),
            is_whole: false,
        }))
    }

    /// Asks every shard. Of each: none where it does not answer and the request lives with that, then none where it
    /// cannot evaluate the fragment.
    async fn open_evaluations(
        &self,
        scope: &Scope,
        late: &Fragment,
        plan: &FanoutPlan,
    ) -> Vec<Result<Option<Option<PartialSource>>, Replan>> {
        let (start_ms, end_ms) = late.samples();
        let selection = Selection {
            matchers: late.matchers.clone(),
            start_ms,
            end_ms,
            labels_only: false,
        };
        let wire = fragments::to_wire(late);
        let open = |(shard, parts): (&ShardId, &Vec<u64>)| {
            let request = v1::EvaluateRequest {
                select: Some(self.shard_request(scope, &selection, *shard, view(plan, parts))),
                fragment: Some(wire.clone()),
                max_held_samples: scope.held_samples(),
            };
            let (shard, name) = (*shard, shard_name(*shard, start_ms, end_ms));
            async move {
                let opened = within(OPEN_TIMEOUT, self.shards.evaluate(request)).await;
                let opened = match opened {
                    Ok(stream) => PartialSource::open(scope, name.clone(), stream, late.steps).await,
                    Err(error) => Err(error),
                };
                match opened {
                    Err(ServiceError::Invalid(why)) => {
                        tracing::debug!(%name, %why, "not evaluated by the shard");
                        Ok(Some(None))
                    }
                    opened => Ok(shard_result(scope, shard, name, opened)?.map(Some)),
                }
            }
        };
        join_all(plan.shards.iter().map(open)).await
    }
}

/// Whether another replica, or a newer view, may have what a source has not given.
pub(super) const fn begins_anew(error: &ServiceError) -> bool {
    matches!(
        error,
        ServiceError::NotFound(_)
            | ServiceError::StaleView { .. }
            | ServiceError::Unavailable(_)
            | ServiceError::Busy(_)
            | ServiceError::Unknown(_)
    )
}

/// One shard's answer.
struct PartialSource {
    name: String,
    stream: EvaluateStream,
    steps: usize,
    waiting: VecDeque<Partial>,
    read: SourceCost,
    /// What came and is not charged yet.
    uncharged: Amount,
    since: Duration,
}

impl PartialSource {
    /// Takes what is there at once; what is wrong from the beginning shows then.
    async fn open(scope: &Scope, name: String, stream: EvaluateStream, steps: usize) -> Result<Self, ServiceError> {
        let mut source = Self {
            name,
            stream,
            steps,
            waiting: VecDeque::new(),
            read: SourceCost::default(),
            uncharged: Amount::default(),
            since: scope.costs().map_or(Duration::ZERO, Costs::now),
        };
        if let Some(Some(batch)) = source.stream.next().now_or_never() {
            source.take(batch?)?;
        }
        Ok(source)
    }

    fn take(&mut self, batch: v1::EvaluateBatch) -> Result<(), ServiceError> {
        self.read.series += batch.series;
        self.read.samples += batch.samples;
        let bytes = prost::Message::encoded_len(&batch) as u64;
        self.read.bytes += bytes;
        self.uncharged.bytes += bytes;
        self.uncharged.samples += batch.samples;
        let waiting = self.waiting.len();
        self.waiting.extend(fragments::partials_from_wire(batch, self.steps)?);
        self.uncharged.series += (self.waiting.len() - waiting) as u64;
        Ok(())
    }

    /// Waits until there is a piece; false at the end.
    async fn fill(&mut self, scope: &Scope) -> Result<bool, ApiError> {
        while self.waiting.is_empty() {
            let taken = match self.stream.next().await {
                None => {
                    self.charge(scope)?;
                    return Ok(false);
                }
                Some(Ok(batch)) => self.take(batch),
                Some(Err(error)) => Err(error),
            };
            match taken {
                Ok(()) => {}
                Err(ServiceError::Invalid(why)) => {
                    scope.note_whole();
                    let name = &self.name;
                    return Err(ApiError::new(
                        crate::error::ErrorType::Internal,
                        format!("{name} cannot evaluate its part of the query: {why}"),
                    ));
                }
                Err(error) => {
                    // What came is of no use without the rest: the request is made anew, at another replica where one
                    // was lost.
                    if begins_anew(&error) {
                        scope.note_moved();
                    }
                    ended_early(scope, &self.name, error)?;
                    return Ok(false);
                }
            }
        }
        self.charge(scope)?;
        Ok(true)
    }

    fn charge(&mut self, scope: &Scope) -> Result<(), ApiError> {
        scope.charge(std::mem::take(&mut self.uncharged))
    }
}

/// The answers of several shards as one: columns in the order of their series, the rest as it comes.
pub(super) struct PartialMerge {
    /// Those that have not ended.
    sources: Vec<PartialSource>,
    scope: Arc<Scope>,
    /// The part of the plan that asked.
    part: String,
}

impl PartialMerge {
    fn new(sources: Vec<PartialSource>, scope: Arc<Scope>) -> Self {
        Self {
            sources,
            scope,
            part: String::new(),
        }
    }

    /// The next piece; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Partial>, ApiError> {
        let mut first: Option<usize> = None;
        let mut at = 0;
        while at < self.sources.len() {
            if !self.sources[at].fill(&self.scope).await? {
                let ended = self.sources.remove(at);
                if let Some(costs) = self.scope.costs() {
                    let cost = SourceCost {
                        of: self.part.clone(),
                        source: ended.name,
                        evaluated: true,
                        ..ended.read
                    };
                    costs.add(ended.since, cost);
                }
                continue;
            }
            let origin = |at: usize| match self.sources[at].waiting.front() {
                Some(Partial::Column(column)) => Some(&column.origin),
                _ => None,
            };
            // What is no column has no order.
            let Some(labels) = origin(at) else {
                return Ok(self.sources[at].waiting.pop_front());
            };
            if first.and_then(origin).is_none_or(|least| labels < least) {
                first = Some(at);
            }
            at += 1;
        }
        Ok(first.and_then(|first| self.sources[first].waiting.pop_front()))
    }
}
