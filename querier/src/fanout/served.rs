//! What this querier reads of blocks for others.

use super::block_parts::BlockAnswer;
use super::blocks::BlockReads;
use super::cost::Skipped;
use super::plan::Selection;
use async_trait::async_trait;
use futures::StreamExt;
use gnomon_cluster::deletes::KnownDeletes;
use gnomon_cluster::fragments;
use gnomon_model::Matcher;
use gnomon_model::re2::is_costly;
use gnomon_promql::{Limits, QueryMemory};
use gnomon_proto::service::{BlockReadService, EvaluateStream, SelectStream};
use gnomon_proto::{ServiceError, matchers, v1};
use gnomon_tsdb::SeriesPages;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// About what one stream holds: pages that were read and not taken yet.
const STREAM_BYTES: u64 = 4 << 20;
/// Streams at a time, whatever the memory.
const STREAMS: std::ops::RangeInclusive<u64> = 16..=1024;

/// Serves [`BlockReads`] to other queriers, a bounded number of them at a time: those that find no place read themselves.
pub struct ServedBlocks {
    blocks: Arc<dyn BlockReads>,
    deletes: KnownDeletes,
    places: Arc<Semaphore>,
    /// Of what is evaluated.
    memory: Arc<QueryMemory>,
}

impl ServedBlocks {
    /// Streams, and what is evaluated, hold about so many bytes together.
    #[must_use]
    pub fn new(blocks: Arc<dyn BlockReads>, memory_bytes: u64) -> Self {
        // Half for pages that travel, half for what is evaluated. 0 is no bound: nothing is made 0 that is not.
        let memory_bytes = memory_bytes.div_ceil(2);
        let places = (memory_bytes / STREAM_BYTES).clamp(*STREAMS.start(), *STREAMS.end());
        Self {
            blocks,
            deletes: KnownDeletes::default(),
            places: Arc::new(Semaphore::new(places as usize)),
            memory: QueryMemory::new(memory_bytes, 0, places as usize),
        }
    }

    fn place(&self) -> Result<OwnedSemaphorePermit, ServiceError> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map_err(|_| {
            ServiceError::LimitExceeded("this querier reads as many blocks for others as it can".to_owned())
        })
    }
}

fn block(record: Option<v1::BlockRecord>) -> Result<v1::BlockRecord, ServiceError> {
    record.ok_or_else(|| ServiceError::Invalid("a request to read a block does not name it".to_owned()))
}

/// Compiles expressions, on a thread of its own where that takes long.
async fn compiled<T: Send + 'static>(
    costly: bool,
    read: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, ServiceError> {
    let read = if costly {
        let reading = tokio::task::spawn_blocking(read).await;
        reading.map_err(|e| ServiceError::Internal(format!("reading of matchers: {e}")))?
    } else {
        read()
    };
    read.map_err(ServiceError::Invalid)
}

fn are_costly<'m>(mut matchers: impl Iterator<Item = &'m v1::LabelMatcher>) -> bool {
    matchers.any(|matcher| is_costly(&matcher.value))
}

#[async_trait]
impl BlockReadService for ServedBlocks {
    async fn select(&self, request: v1::BlockSelectRequest) -> Result<SelectStream, ServiceError> {
        let place = self.place()?;
        let block = block(request.block)?;
        let deletes = self.deletes.masking(&request.deletes, &block);
        let deletes = deletes.map_err(|e| ServiceError::Invalid(e.to_string()))?;
        let wire = request.matchers;
        let matchers = compiled(are_costly(wire.iter()), move || matchers::from_wire(&wire)).await?;
        let selection = Selection {
            matchers,
            start_ms: request.start_ms,
            end_ms: request.end_ms,
            labels_only: request.labels_only,
        };
        let skipped = Skipped::default();
        let batches = self.blocks.select(&block, &selection, deletes, &skipped).await?;
        let mut told = 0;
        let mut newly_skipped = move || {
            let all = skipped.get();
            all - std::mem::replace(&mut told, all)
        };
        // What is skipped after the last series is told at the end.
        let ended = futures::stream::iter([None]);
        let wire = batches.map(Some).chain(ended).filter_map(move |batch| {
            let _held = &place;
            let pages_skipped = newly_skipped();
            let batch = match batch {
                Some(batch) => Some(batch.map(|series| to_wire(series, pages_skipped))),
                None => (pages_skipped > 0).then(|| Ok(to_wire(Vec::new(), pages_skipped))),
            };
            std::future::ready(batch)
        });
        Ok(wire.boxed())
    }

    async fn labels(&self, request: v1::BlockLabelsRequest) -> Result<v1::LabelsResponse, ServiceError> {
        let _place = self.place()?;
        let block = block(request.block)?;
        let wire = request.matchers;
        let costly = are_costly(wire.iter().flat_map(|set| &set.matchers));
        let read = move || -> Result<Vec<Vec<Matcher>>, String> {
            wire.iter().map(|set| matchers::from_wire(&set.matchers)).collect()
        };
        let sets = compiled(costly, read).await?;
        let name = Some(request.name.as_str()).filter(|name| !name.is_empty());
        let mut values = self.blocks.labels(&block, name, &sets).await?;
        values.sort_unstable();
        values.dedup();
        Ok(v1::LabelsResponse { values })
    }

    async fn evaluate(&self, request: v1::BlockEvaluateRequest) -> Result<EvaluateStream, ServiceError> {
        let place = self.place()?;
        let block = block(request.block)?;
        let deletes = self.deletes.masking(&request.deletes, &block);
        let deletes = deletes.map_err(|e| ServiceError::Invalid(e.to_string()))?;
        let wire = request.matchers;
        let matchers = compiled(are_costly(wire.iter()), move || matchers::from_wire(&wire)).await?;
        let fragment = request.fragment;
        let fragment =
            fragment.ok_or_else(|| ServiceError::Invalid("a request to evaluate has no fragment".to_owned()))?;
        let fragment = fragments::from_wire(&fragment, matchers)?;
        let mut limits = Limits {
            memory: self.memory.budget(),
            ..Limits::default()
        };
        if request.max_samples > 0 {
            limits.max_samples = limits.max_samples.min(request.max_samples);
        }
        let BlockAnswer { batches, held } = self.blocks.evaluate(&block, &fragment, deletes, &limits).await?;
        let batches = batches.into_iter().map(move |batch| {
            let _held = (&place, &held);
            Ok(batch)
        });
        Ok(futures::stream::iter(batches).boxed())
    }
}

pub(super) fn to_wire(series: Vec<SeriesPages>, pages_skipped: u64) -> v1::SelectBatch {
    let page = |page: gnomon_tsdb::Page| v1::Page {
        coding: u32::from(page.coding.tag()),
        count: page.count,
        min_ms: page.min_ts,
        max_ms: page.max_ts,
        data: page.bytes,
    };
    let series = series.into_iter().map(|series| v1::Series {
        labels: series.labels.as_bytes().to_vec().into(),
        pages: series.pages.into_iter().map(page).collect(),
    });
    v1::SelectBatch {
        series: series.collect(),
        pages_skipped,
        ..v1::SelectBatch::default()
    }
}
