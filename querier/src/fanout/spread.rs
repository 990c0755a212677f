//! Blocks spread over the queriers: each is read by the one that owns it, so that what is kept of it is kept once. Where
//! that one is away, slow or busy, or breaks off, the block is read here; the series are the same. Small blocks are read
//! wherever they are asked for: to ask another querier takes longer.

use super::block_parts::BlockAnswer;
use super::blocks::{BlockReads, ExemplarStream};
use super::cost::Skipped;
use super::plan::Selection;
use super::stream::{SeriesStream, series_from_wire};
use async_trait::async_trait;
use futures::{StreamExt, TryFutureExt};
use gnomon_cluster::clients::Directory;
use gnomon_cluster::fragments;
use gnomon_cluster::owners::owner;
use gnomon_model::{Clock, Labels, Matcher, NodeId};
use gnomon_promql::{Fragment, Limits, MemoryBudget, Reserved};
use gnomon_proto::service::{BlockReadService, ResultsService, SelectStream};
use gnomon_proto::{ServiceError, matchers, v1};
use gnomon_tsdb::{Deletes, ExemplarFilter, MetricMetadata, SeriesPages};
use parking_lot::Mutex;
use prometheus::{IntCounterVec, Opts, Registry};
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tower::retry::budget::{Budget, TpsBudget};

/// Blocks read twice so: a fifth of all at most, and ten a second always.
const HEDGE_SHARE: f32 = 0.2;
const HEDGES_PER_SECOND: u32 = 10;
const HEDGE_WINDOW: Duration = Duration::from_secs(10);
/// After which a stream that stands still is given up.
const WAIT: Duration = READ.wait;
const READ: Patience = Patience {
    hedge_after: Duration::from_millis(500),
    wait: Duration::from_secs(5),
};
/// What is evaluated comes all at once.
const EVALUATED: Patience = Patience {
    hedge_after: Duration::from_secs(3),
    wait: Duration::from_secs(30),
};
/// For so long a querier that was away or slow, and one that has no such service, is not asked.
const AWAY_FOR: Duration = Duration::from_secs(5);
const UNABLE_FOR: Duration = Duration::from_secs(60);

/// How long another querier is waited for.
struct Patience {
    /// After which the block is read here beside.
    hedge_after: Duration,
    /// After which it is read here anyway.
    wait: Duration,
}

/// The queriers that there are.
pub trait Queriers: Send + Sync + 'static {
    fn own(&self) -> NodeId;
    /// Those whose leases hold, this one among them once it has joined.
    fn live(&self) -> Vec<NodeId>;
    /// # Errors
    /// `Unavailable` where the node is not known.
    fn block_read(&self, node: NodeId) -> Result<Arc<dyn BlockReadService>, ServiceError>;
    /// # Errors
    /// As `block_read`.
    fn results(&self, _node: NodeId) -> Result<Arc<dyn ResultsService>, ServiceError> {
        Err(ServiceError::Unavailable("results are not shared".to_owned()))
    }
}

impl Queriers for Directory {
    fn own(&self) -> NodeId {
        self.node_id()
    }

    fn live(&self) -> Vec<NodeId> {
        let nodes = self.live_nodes("querier");
        nodes.iter().map(|node| NodeId(node.id)).collect()
    }

    fn block_read(&self, node: NodeId) -> Result<Arc<dyn BlockReadService>, ServiceError> {
        Self::block_read(self, node)
    }

    fn results(&self, node: NodeId) -> Result<Arc<dyn ResultsService>, ServiceError> {
        Self::results(self, node)
    }
}

/// See the module.
pub struct SpreadBlocks {
    here: Arc<dyn BlockReads>,
    queriers: Arc<dyn Queriers>,
    small_bytes: u64,
    clock: Arc<dyn Clock>,
    budget: TpsBudget,
    /// Queriers that are not asked, until when by the monotonic clock.
    away: Mutex<HashMap<NodeId, Duration>>,
    /// By where blocks were read.
    reads: IntCounterVec,
}

/// Who has a block.
type Owner = (NodeId, Arc<dyn BlockReadService>);

impl SpreadBlocks {
    /// Blocks of up to `small_bytes` are read here, whomever they belong to.
    ///
    /// # Errors
    /// When its metrics are registered already.
    pub fn new(
        here: Arc<dyn BlockReads>,
        queriers: Arc<dyn Queriers>,
        small_bytes: u64,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let reads = IntCounterVec::new(
            Opts::new(
                "gnomon_querier_block_reads_total",
                "Blocks that were read for queries: here, since they belong to this querier or are small; elsewhere, by the \
                 querier they belong to; instead of that one, which was away, slow or busy.",
            ),
            &["read"],
        )?;
        for read in ["here", "elsewhere", "instead"] {
            reads.with_label_values(&[read]);
        }
        registry.register(Box::new(reads.clone()))?;
        Ok(Self {
            here,
            queriers,
            small_bytes,
            clock,
            budget: TpsBudget::new(HEDGE_WINDOW, HEDGES_PER_SECOND, HEDGE_SHARE),
            away: Mutex::default(),
            reads,
        })
    }

    fn count(&self, read: &str) {
        self.reads.with_label_values(&[read]).inc();
    }

    /// Read by whoever needs it. Records of old builds may not say how large a block is.
    fn is_small(&self, block: &v1::BlockRecord) -> bool {
        (1..=self.small_bytes).contains(&block.bytes)
    }

    /// The other one of the living that a block belongs to.
    fn other_owner(&self, block: &v1::BlockRecord, live: &[NodeId]) -> Option<NodeId> {
        let node = owner(block.id.as_bytes(), live);
        node.filter(|node| *node != self.queriers.own())
    }

    /// The other querier that is to read a block; none where it is to be read here.
    fn elsewhere(&self, block: &v1::BlockRecord) -> Option<Owner> {
        let owner = match self.is_small(block) {
            true => None,
            false => self.other_owner(block, &self.queriers.live()),
        };
        let Some(node) = owner else {
            self.count("here");
            return None;
        };
        if self.is_away(node) {
            self.count("instead");
            return None;
        }
        match self.queriers.block_read(node) {
            Ok(service) => Some((node, service)),
            Err(error) => {
                self.note(node, &error);
                None
            }
        }
    }

    fn is_away(&self, node: NodeId) -> bool {
        let mut away = self.away.lock();
        if away.is_empty() {
            return false;
        }
        let now = self.clock.monotonic();
        away.retain(|_, until| *until > now);
        away.contains_key(&node)
    }

    /// Another querier has not read a block.
    fn note(&self, node: NodeId, error: &ServiceError) {
        tracing::debug!(%node, %error, "a block is read here instead");
        self.count("instead");
        let lasts = match error {
            // Of an older version, mostly.
            ServiceError::Invalid(_) => UNABLE_FOR,
            ServiceError::Unavailable(_) | ServiceError::Unknown(_) | ServiceError::DeadlineExceeded(_) => AWAY_FOR,
            // Of the block, or of this moment: one that is busy takes the next one, perhaps.
            _ => return,
        };
        self.away.lock().insert(node, self.clock.monotonic() + lasts);
    }

    /// What the owner gives, unless it takes long, or fails: then what is read here.
    async fn hedged<T>(
        &self,
        node: NodeId,
        patience: Patience,
        there: impl Future<Output = Result<T, ServiceError>> + Send,
        here: impl Future<Output = Result<T, ServiceError>> + Send,
    ) -> (bool, Result<T, ServiceError>) {
        self.budget.deposit();
        let there = async {
            let wait = patience.wait;
            let answered = tokio::time::timeout(wait, there).await;
            answered.unwrap_or_else(|_| Err(ServiceError::DeadlineExceeded(format!("no answer within {wait:?}"))))
        };
        let (mut there, mut here) = (pin!(there), pin!(here));
        let early = tokio::select! {
            biased;
            answer = &mut there => Some(answer),
            () = tokio::time::sleep(patience.hedge_after) => None,
        };
        let answer = match early {
            Some(answer) => answer,
            None if !self.budget.withdraw() => there.await,
            None => tokio::select! {
                biased;
                answer = &mut there => answer,
                read = &mut here => match read {
                    Ok(read) => {
                        self.note(node, &ServiceError::DeadlineExceeded("it was slow".to_owned()));
                        return (false, Ok(read));
                    }
                    // The store may be slower here, or away.
                    Err(error) => match there.await {
                        Ok(answer) => return (true, Ok(answer)),
                        Err(_) => return (false, Err(error)),
                    },
                },
            },
        };
        match answer {
            Ok(answer) => {
                self.count("elsewhere");
                (true, Ok(answer))
            }
            Err(error) => {
                self.note(node, &error);
                (false, here.await)
            }
        }
    }
}

#[async_trait]
impl BlockReads for SpreadBlocks {
    async fn select(
        &self,
        block: &v1::BlockRecord,
        selection: &Selection,
        deletes: Deletes,
        skipped: &Skipped,
    ) -> Result<SeriesStream, ServiceError> {
        let Some((node, service)) = self.elsewhere(block) else {
            return self.here.select(block, selection, deletes, skipped).await;
        };
        let request = v1::BlockSelectRequest {
            block: Some(block.clone()),
            matchers: matchers::to_wire(&selection.matchers),
            start_ms: selection.start_ms,
            end_ms: selection.end_ms,
            labels_only: selection.labels_only,
            deletes: deletes.iter().map(record).collect(),
        };
        let again = Again {
            here: Arc::clone(&self.here),
            block: block.clone(),
            selection: selection.clone(),
            deletes,
            skipped: skipped.clone(),
        };
        let there = async { Ok(from_wire(service.select(request).await?, skipped.clone())) };
        let here = again.select();
        let (elsewhere, opened) = self.hedged(node, READ, there, here).await;
        let opened = opened?;
        if !elsewhere {
            return Ok(opened);
        }
        Ok(falling_back(opened, again))
    }

    async fn labels(
        &self,
        block: &v1::BlockRecord,
        name: Option<&str>,
        sets: &[Vec<Matcher>],
    ) -> Result<Vec<String>, ServiceError> {
        let Some((node, service)) = self.elsewhere(block) else {
            return self.here.labels(block, name, sets).await;
        };
        let request = v1::BlockLabelsRequest {
            block: Some(block.clone()),
            name: name.unwrap_or_default().to_owned(),
            matchers: matchers::sets_to_wire(sets),
        };
        let there = async { Ok(service.labels(request).await?.values) };
        let here = self.here.labels(block, name, sets);
        self.hedged(node, READ, there, here).await.1
    }

    async fn evaluate(
        &self,
        block: &v1::BlockRecord,
        fragment: &Fragment,
        deletes: Deletes,
        limits: &Limits,
    ) -> Result<BlockAnswer, ServiceError> {
        let Some((node, service)) = self.elsewhere(block) else {
            return self.here.evaluate(block, fragment, deletes, limits).await;
        };
        let request = v1::BlockEvaluateRequest {
            block: Some(block.clone()),
            matchers: matchers::to_wire(&fragment.matchers),
            fragment: Some(fragments::to_wire(fragment)),
            deletes: deletes.iter().map(record).collect(),
            max_samples: limits.max_samples,
        };
        let evaluate = async {
            let mut answer = BlockAnswer::new(limits)?;
            let mut batches = service.evaluate(request).await?;
            while let Some(batch) = batches.next().await {
                answer.add(batch?)?;
            }
            Ok::<_, ServiceError>(answer)
        };
        let there = async {
            match evaluate.await {
                Ok(answer) => Ok(Ok(answer)),
                // It is unfit here as well, and says nothing of reading blocks; an older build cannot, and then the query
                // is evaluated whole too.
                Err(ServiceError::Invalid(why)) => Ok(Err(why)),
                Err(error) => Err(error),
            }
        };
        let here = self.here.evaluate(block, fragment, deletes, limits).map_ok(Ok);
        let (_, evaluated) = self.hedged(node, EVALUATED, there, here).await;
        evaluated?.map_err(ServiceError::Invalid)
    }

    fn are_spread(&self, blocks: &[v1::BlockRecord]) -> bool {
        let mut large = blocks.iter().filter(|block| !self.is_small(block)).peekable();
        if large.peek().is_none() {
            return false;
        }
        let live = self.queriers.live();
        large.any(|block| self.other_owner(block, &live).is_some())
    }

    /// Read here: there are few, in a section of their own, and seldom are they asked for.
    async fn exemplars(&self, block: &v1::BlockRecord, filter: ExemplarFilter) -> Result<ExemplarStream, ServiceError> {
        self.here.exemplars(block, filter).await
    }

    /// As exemplars.
    async fn metadata(
        &self,
        block: &v1::BlockRecord,
        metric: Option<&str>,
        memory: &MemoryBudget,
    ) -> Result<(Vec<(String, MetricMetadata)>, Reserved), ServiceError> {
        self.here.metadata(block, metric, memory).await
    }
}

/// A delete as it travels; where its object lies is of no interest to who reads blocks.
fn record(delete: &gnomon_tsdb::Tombstone) -> v1::TombstoneRecord {
    v1::TombstoneRecord {
        revision: delete.revision,
        tenant: delete.tenant.to_string(),
        series: matchers::sets_to_wire(&delete.sets),
        start_ms: delete.start_ms,
        end_ms: delete.end_ms,
        ..v1::TombstoneRecord::default()
    }
}

fn from_wire(batches: SelectStream, skipped: Skipped) -> SeriesStream {
    let batch = move |batch: Result<v1::SelectBatch, ServiceError>| {
        let batch = batch?;
        skipped.add(batch.pages_skipped);
        batch.series.into_iter().map(series_from_wire).collect()
    };
    batches.map(batch).boxed()
}

/// What it takes to read a block here after all.
struct Again {
    here: Arc<dyn BlockReads>,
    block: v1::BlockRecord,
    selection: Selection,
    deletes: Deletes,
    skipped: Skipped,
}

impl Again {
    async fn select(&self) -> Result<SeriesStream, ServiceError> {
        let Self {
            here,
            block,
            selection,
            deletes,
            skipped,
        } = self;
        here.select(block, selection, deletes.clone(), skipped).await
    }
}

/// Another querier's stream; where it breaks off or stands still, what follows its last series is read here.
struct Fallback {
    stream: SeriesStream,
    /// None once it is read here.
    again: Option<Again>,
    /// The last series that was given.
    last: Option<Labels>,
}

fn falling_back(stream: SeriesStream, again: Again) -> SeriesStream {
    let fallback = Fallback {
        stream,
        again: Some(again),
        last: None,
    };
    futures::stream::unfold(Some(fallback), |fallback| async {
        let mut fallback = fallback?;
        let item = fallback.next().await?;
        let goes_on = item.is_ok();
        Some((item, goes_on.then_some(fallback)))
    })
    .boxed()
}

impl Fallback {
    async fn next(&mut self) -> Option<Result<Vec<SeriesPages>, ServiceError>> {
        loop {
            let item = match &self.again {
                None => self.stream.next().await,
                Some(_) => match tokio::time::timeout(WAIT, self.stream.next()).await {
                    Ok(item) => item,
                    Err(_) => Some(Err(ServiceError::DeadlineExceeded(format!(
                        "nothing came for {WAIT:?}"
                    )))),
                },
            };
            match (item?, self.again.take()) {
                (Ok(mut series), again) => {
                    if again.is_none()
                        && let Some(last) = &self.last
                    {
                        series.retain(|series| series.labels > *last);
                    }
                    self.again = again;
                    let Some(last) = series.last() else { continue };
                    self.last = Some(last.labels.clone());
                    return Some(Ok(series));
                }
                (Err(error), Some(again)) => {
                    tracing::debug!(block = again.block.id, %error, "the rest of a block is read here");
                    match again.select().await {
                        Ok(stream) => self.stream = stream,
                        Err(error) => return Some(Err(error)),
                    }
                }
                (Err(error), None) => return Some(Err(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
