//! Label names and values, statistics of heads: small answers, gathered whole.

use super::open::{Replan, block_name, nothing_read, shard_name, shard_result, view, within};
use super::plan::{FanoutPlan, Selection};
use super::scope::Amount;
use super::stream::ended_early;
use super::{Fanout, MAX_REPLANS, OPEN_TIMEOUT, Scope};
use crate::error::ApiError;
use futures::future::{BoxFuture, join_all};
use futures::{FutureExt, StreamExt};
use gnomon_model::{Matcher, ShardId};
use gnomon_proto::{ServiceError, matchers, v1};
use std::collections::BTreeSet;

/// Blocks that are asked at the same time.
pub(super) const BLOCKS_AT_ONCE: usize = 16;

impl Fanout {
    /// Names, or the values of one label, of series that match any of `sets` (all series if there is none).
    pub(crate) async fn labels(
        &self,
        scope: &Scope,
        name: Option<&str>,
        sets: &[Vec<Matcher>],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<BTreeSet<String>, ApiError> {
        let selection = Selection {
            // Narrows the shards; with several sets all are asked.
            matchers: if let [set] = sets { set.clone() } else { Vec::new() },
            start_ms,
            end_ms,
            labels_only: true,
        };
        let attempt = |plan: FanoutPlan| async move {
            let of_block = |block| self.block_labels(scope, name, sets, block).boxed();
            let blocks: Vec<BoxFuture<'_, _>> = plan.blocks.iter().map(of_block).collect();
            let blocks = futures::stream::iter(blocks).buffered(BLOCKS_AT_ONCE);
            let of_shard = |(shard, parts): (&ShardId, &Vec<u64>)| {
                let request = v1::LabelsRequest {
                    tenant: self.tenant.to_string(),
                    shard: shard.0,
                    name: name.unwrap_or("").to_owned(),
                    matchers: matchers::sets_to_wire(sets),
                    start_ms,
                    end_ms,
                    view: Some(view(&plan, parts)),
                    limit: 0,
                    any_replica: false,
                };
                self.shard_labels(scope, *shard, request).boxed()
            };
            let shards: Vec<BoxFuture<'_, _>> = plan.shards.iter().map(of_shard).collect();
            let (blocks, shards) = futures::join!(blocks.collect::<Vec<_>>(), join_all(shards));
            let mut all = BTreeSet::new();
            let (asked, mut answered) = (blocks.len() + shards.len(), 0);
            for values in blocks.into_iter().chain(shards) {
                let Some(values) = values? else { continue };
                answered += 1;
                for value in values {
                    if !all.contains(&value) {
                        scope.charge(Amount::of_bytes(value.len() as u64))?;
                        all.insert(value);
                    }
                }
            }
            if asked > 0 && answered == 0 {
                return Err(nothing_read(scope).into());
            }
            Ok(all)
        };
        self.replanning(scope, &selection, attempt).await
    }

    async fn shard_labels(
        &self,
        scope: &Scope,
        shard: ShardId,
        request: v1::LabelsRequest,
    ) -> Result<Option<Vec<String>>, Replan> {
        let name = shard_name(shard, request.start_ms, request.end_ms);
        let answer = within(OPEN_TIMEOUT, self.shards.labels(request)).await;
        let answer = shard_result(scope, shard, name, answer)?;
        Ok(answer.map(|labels| labels.values))
    }

    async fn block_labels(
        &self,
        scope: &Scope,
        name: Option<&str>,
        sets: &[Vec<Matcher>],
        block: &v1::BlockRecord,
    ) -> Result<Option<Vec<String>>, Replan> {
        match within(OPEN_TIMEOUT, self.blocks.labels(block, name, sets)).await {
            Ok(values) => Ok(Some(values)),
            Err(ServiceError::NotFound(_)) => Err(Replan::Missing(Box::new(block.clone()))),
            Err(error) => Ok(ended_early(scope, &block_name(block), error).map(|()| None)?),
        }
    }

    /// Asks every shard at once, with the newest placement epoch that is known: once more where one knows of a later one.
    pub(super) async fn ask_all<'a, T>(
        &'a self,
        ask: impl Fn(u32, u32) -> BoxFuture<'a, Result<T, ServiceError>> + Send,
    ) -> Result<Vec<(ShardId, Result<T, ServiceError>)>, ApiError> {
        let mut revision = 0;
        let mut rounds = 1;
        loop {
            let (shards, epoch) = self.all_shards(revision).await?;
            let asked: Vec<_> = shards
                .iter()
                .map(|shard| within(OPEN_TIMEOUT, ask(shard.0, epoch)))
                .collect();
            let answers = join_all(asked).await;
            let is_old = |answer: &Result<T, ServiceError>| matches!(answer, Err(ServiceError::StaleMap { .. }));
            if rounds == MAX_REPLANS || !answers.iter().any(is_old) {
                return Ok(shards.into_iter().zip(answers).collect());
            }
            rounds += 1;
            revision = u64::MAX;
        }
    }

    /// Statistics of every head that answers.
    pub(crate) async fn head_stats(&self, scope: &Scope, limit: u32) -> Result<Vec<v1::HeadStatsResponse>, ApiError> {
        let answers = self.ask_all(|shard, _| self.shards.head_stats(v1::HeadStatsRequest { shard, limit }));
        let mut all = Vec::new();
        for (shard, answer) in answers.await? {
            match answer {
                Ok(stats) => all.push(stats),
                Err(error) => ended_early(scope, &format!("shard {shard} (head statistics)"), error)?,
            }
        }
        Ok(all)
    }
}
