//! Counting series at one instant, where the heads have all that is needed: their indexes tell.

use super::open::{Replan, shard_name, shard_result, view, within};
use super::plan::{FanoutPlan, Selection};
use super::samples::decode;
use super::scope::Amount;
use super::stream::series_from_wire;
use super::{Costs, Fanout, OPEN_TIMEOUT, Scope, SourceCost};
use crate::error::ApiError;
use futures::future::join_all;
use futures::{FutureExt, TryStreamExt};
use gnomon_model::{Labels, ShardId};
use gnomon_proto::{ServiceError, v1};
use gnomon_tsdb::SeriesPages;
use std::collections::BTreeMap;
use std::time::Duration;

impl Fanout {
    /// How many series of a selection have a sample at its end, by labels; none where blocks have to be read for it, or
    /// where a series can be in several shards. `part` is that of the plan which asks.
    pub(crate) async fn count(
        &self,
        scope: &Scope,
        part: &str,
        selection: &Selection,
        by: &[String],
    ) -> Result<Option<BTreeMap<Labels, u64>>, ApiError> {
        let since = scope.costs().map_or(Duration::ZERO, Costs::now);
        let attempt = |plan: FanoutPlan| async move {
            if !plan.blocks.is_empty() || plan.epochs != 1 {
                return Ok(None);
            }
            let ask = |(shard, parts): (&ShardId, &Vec<u64>)| {
                let mut request = self.shard_request(scope, selection, *shard, view(&plan, parts));
                request.counting = Some(v1::Counting { by: by.to_vec() });
                self.count_shard(scope, *shard, request).boxed()
            };
            let shards: Vec<_> = plan.shards.iter().map(ask).collect();
            let mut counts = BTreeMap::new();
            let mut told = Vec::new();
            for (shard, counted) in plan.shards.keys().zip(join_all(shards).await) {
                let Some(groups) = counted? else {
                    return Ok(None);
                };
                told.push((*shard, groups.iter().map(|(_, count)| count).sum()));
                for (labels, count) in groups {
                    *counts.entry(labels).or_insert(0) += count;
                }
            }
            if let Some(costs) = scope.costs() {
                for (shard, series) in told {
                    let cost = SourceCost {
                        of: part.to_owned(),
                        source: shard_name(shard, selection.start_ms, selection.end_ms),
                        counted: true,
                        series,
                        ..SourceCost::default()
                    };
                    costs.add(since, cost);
                }
            }
            Ok(Some(counts))
        };
        self.replanning(scope, selection, attempt).await
    }

    /// None where the shard's node does not count.
    async fn count_shard(
        &self,
        scope: &Scope,
        shard: ShardId,
        request: v1::SelectRequest,
    ) -> Result<Option<Vec<(Labels, u64)>>, Replan> {
        let end_ms = request.end_ms;
        let name = shard_name(shard, request.start_ms, end_ms);
        let answer = within(OPEN_TIMEOUT, async {
            let mut batches = self.shards.select(request).await?;
            let mut counts = Vec::new();
            while let Some(batch) = batches.try_next().await? {
                if !batch.counts {
                    return Ok(None);
                }
                for group in batch.series {
                    counts.push(number(series_from_wire(group)?, end_ms)?);
                }
            }
            Ok::<_, ServiceError>(Some(counts))
        });
        let Some(counts) = shard_result(scope, shard, name, answer.await)? else {
            // It did not answer, and the request lives with that.
            return Ok(Some(Vec::new()));
        };
        let groups = counts.iter().flatten();
        let bytes: usize = groups.map(|(labels, _)| labels.as_bytes().len() + 8).sum();
        scope.charge(Amount {
            samples: counts.as_ref().map_or(0, Vec::len) as u64,
            ..Amount::of_bytes(bytes as u64)
        })?;
        Ok(counts)
    }
}

fn number(group: SeriesPages, end_ms: i64) -> Result<(Labels, u64), ServiceError> {
    let samples =
        decode(&[group.pages], end_ms, end_ms).map_err(|e| ServiceError::Internal(format!("a shard's count: {e}")))?;
    let count = samples.values.first().copied().unwrap_or(0.0);
    Ok((group.labels, count as u64))
}
