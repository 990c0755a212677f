//! Exemplars: those that shards have, and those of blocks.
//!
//! Shards are asked first, then the blocks of a view that is read afterwards: what a shard has given to a block meanwhile is
//! found there. What both have is given once.

use super::labels::BLOCKS_AT_ONCE;
use super::open::{block_name, nothing_read, shard_name, within};
use super::scope::Amount;
use super::stream::ended_early;
use super::{Fanout, MAX_REPLANS, OPEN_TIMEOUT, Scope};
use crate::error::ApiError;
use futures::{FutureExt, StreamExt, TryStreamExt};
use gnomon_model::{Labels, LabelsRef, Matcher};
use gnomon_promql::Reserved;
use gnomon_proto::v1::block_record::State;
use gnomon_proto::{ServiceError, matchers, v1};
use gnomon_tsdb::{Exemplar, ExemplarFilter, SeriesExemplars};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What an exemplar takes beside its labels.
const EXEMPLAR_BYTES: u64 = 24;

/// What the allocator takes of its own for each set of labels.
const ALLOCATION_BYTES: u64 = 16;

/// By series, each ascending by time.
pub(crate) type Exemplars = BTreeMap<Labels, Vec<Exemplar>>;

/// What was found until now, and what it occupies.
struct Found {
    all: Exemplars,
    held: Reserved,
}

/// What is asked for: series that match any of `sets`, times inclusive.
struct Wanted<'a> {
    sets: &'a [Vec<Matcher>],
    start_ms: i64,
    end_ms: i64,
}

impl Fanout {
    /// Exemplars of series that match any of `sets`, and what they occupy: to be kept as long as they are.
    pub(crate) async fn exemplars(
        &self,
        scope: &Scope,
        sets: &[Vec<Matcher>],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<(Exemplars, Reserved), ApiError> {
        let wanted = Wanted { sets, start_ms, end_ms };
        let mut found = Found {
            all: Exemplars::new(),
            held: scope.memory().reserve(0)?,
        };
        let (mut asked, mut answered) = self.exemplars_of_shards(scope, &wanted, &mut found).await?;
        let (of_blocks, read) = self.exemplars_of_blocks(scope, &wanted, &mut found).await?;
        asked += of_blocks;
        answered += read;
        if asked > 0 && answered == 0 {
            return Err(nothing_read(scope));
        }
        for exemplars in found.all.values_mut() {
            Exemplar::settle(exemplars);
        }
        Ok((found.all, found.held))
    }

    /// How many shards were asked, and how many have answered.
    async fn exemplars_of_shards(
        &self,
        scope: &Scope,
        wanted: &Wanted<'_>,
        found: &mut Found,
    ) -> Result<(usize, usize), ApiError> {
        let answers = self.ask_all(|shard, placement_epoch| {
            self.shards.exemplars(v1::ExemplarsRequest {
                tenant: self.tenant.to_string(),
                shard,
                matchers: matchers::sets_to_wire(wanted.sets),
                start_ms: wanted.start_ms,
                end_ms: wanted.end_ms,
                any_replica: false,
                placement_epoch,
            })
        });
        let answers = answers.await?;
        let (asked, mut answered) = (answers.len(), 0);
        for (shard, answer) in answers {
            let read = answer.and_then(|answer| {
                let read = answer.series.into_iter().map(exemplars_from_wire);
                read.collect::<Result<Vec<_>, _>>()
            });
            match read {
                Ok(series) => {
                    answered += 1;
                    for series in series {
                        found.add(scope, series)?;
                    }
                }
                Err(error) => ended_early(scope, &shard_name(shard, wanted.start_ms, wanted.end_ms), error)?,
            }
        }
        Ok((asked, answered))
    }

    /// How many blocks there are, and how many could be read. Where one has gone since the view was made, all are read anew.
    async fn exemplars_of_blocks(
        &self,
        scope: &Scope,
        wanted: &Wanted<'_>,
        found: &mut Found,
    ) -> Result<(usize, usize), ApiError> {
        for attempt in 1.. {
            // Not older than what was acknowledged: a delete, a part that has become a block.
            let state = match self.state(u64::MAX).await {
                Ok(state) => state,
                Err(error) => {
                    let error = ServiceError::Unavailable(error.to_string());
                    ended_early(scope, "blocks (exemplars)", error)?;
                    return Ok((1, 0));
                }
            };
            let blocks = self.blocks_of(&state, wanted.start_ms, wanted.end_ms);
            let asked = blocks.len();
            let reads = blocks.into_iter().map(|block| {
                let state = Arc::clone(&state);
                async move {
                    let read = self.exemplars_of_block(scope, &state, &block, wanted);
                    (within(OPEN_TIMEOUT, read).await, block)
                }
                .boxed()
            });
            let reads: Vec<_> = reads.collect();
            let mut reads = futures::stream::iter(reads).buffered(BLOCKS_AT_ONCE);
            let mut answered = 0;
            let mut has_gone = false;
            while let Some((read, block)) = reads.next().await {
                match read {
                    Ok((series, mut held)) => {
                        answered += 1;
                        for series in series {
                            // It passes to what is held of all.
                            held.shrink(held_bytes(&series));
                            found.add(scope, series)?;
                        }
                    }
                    Err(ServiceError::NotFound(_)) if attempt < MAX_REPLANS => {
                        has_gone = true;
                        break;
                    }
                    Err(error) => ended_early(scope, &block_name(&block), error)?,
                }
            }
            if !has_gone {
                return Ok((asked, answered));
            }
        }
        Ok((0, 0))
    }

    /// Live blocks whose windows are in the range. Exemplars may lie before and behind all samples of their block.
    fn blocks_of(&self, state: &v1::MetaState, start_ms: i64, end_ms: i64) -> Vec<v1::BlockRecord> {
        let is_wanted = |b: &&v1::BlockRecord| {
            let in_range = b.start_ms <= end_ms && start_ms < b.end_ms;
            b.state() == State::Live && b.tenant == self.tenant.as_str() && in_range
        };
        state.blocks.iter().filter(is_wanted).cloned().collect()
    }

    /// Of one block, and what that occupies: charged piece by piece, since a block may have a great many.
    async fn exemplars_of_block(
        &self,
        scope: &Scope,
        state: &v1::MetaState,
        block: &v1::BlockRecord,
        wanted: &Wanted<'_>,
    ) -> Result<(Vec<SeriesExemplars>, Reserved), ServiceError> {
        let deletes = self.deletes.masking(&state.tombstones, block);
        let filter = ExemplarFilter {
            sets: wanted.sets.to_vec(),
            range_ms: Some((wanted.start_ms, wanted.end_ms)),
            deletes: deletes.map_err(|e| ServiceError::Internal(e.to_string()))?,
        };
        let over = |error: gnomon_promql::OverBudget| ServiceError::LimitExceeded(error.to_string());
        let mut held = scope.memory().reserve(0).map_err(over)?;
        let mut pieces = self.blocks.exemplars(block, filter).await?;
        let mut all = Vec::new();
        while let Some(series) = pieces.try_next().await? {
            held.grow(held_bytes(&series)).map_err(over)?;
            all.push(series);
        }
        Ok((all, held))
    }
}

impl Found {
    fn add(&mut self, scope: &Scope, mut series: SeriesExemplars) -> Result<(), ApiError> {
        let of_exemplar = |e: &Exemplar| EXEMPLAR_BYTES + e.labels.as_bytes().len() as u64;
        let bytes: u64 = series.exemplars.iter().map(of_exemplar).sum();
        scope.charge(Amount::of_bytes(series.labels.as_bytes().len() as u64 + bytes))?;
        self.held.grow(held_bytes(&series))?;
        self.all.entry(series.labels).or_default().append(&mut series.exemplars);
        Ok(())
    }
}

/// What exemplars of a series occupy.
fn held_bytes(series: &SeriesExemplars) -> u64 {
    let of_labels = |labels: &Labels| labels.as_bytes().len() as u64 + ALLOCATION_BYTES;
    let of_exemplar = |e: &Exemplar| size_of::<Exemplar>() as u64 + of_labels(&e.labels);
    let exemplars: u64 = series.exemplars.iter().map(of_exemplar).sum();
    size_of::<SeriesExemplars>() as u64 + of_labels(&series.labels) + exemplars
}

/// Exemplars of a series as a shard gives them.
pub(crate) fn exemplars_from_wire(series: v1::SeriesExemplars) -> Result<SeriesExemplars, ServiceError> {
    let checked = |bytes: &[u8]| match LabelsRef::checked(bytes) {
        Ok(labels) => Ok(labels.to_owned()),
        Err(error) => Err(ServiceError::Internal(error.to_string())),
    };
    let exemplar = |exemplar: v1::Exemplar| {
        Ok::<_, ServiceError>(Exemplar {
            timestamp_ms: exemplar.timestamp_ms,
            value: exemplar.value,
            labels: checked(&exemplar.labels)?,
        })
    };
    Ok(SeriesExemplars {
        labels: checked(&series.labels)?,
        exemplars: series.exemplars.into_iter().map(exemplar).collect::<Result<_, _>>()?,
    })
}
