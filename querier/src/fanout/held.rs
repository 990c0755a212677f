//! Whether all samples of a selection are in blocks: then nothing that is written changes what a query makes of them
//! without changing the blocks that it reads.

use super::open::{view, within};
use super::plan::{FanoutPlan, Selection};
use super::{Fanout, Scope};
use futures::future::join_all;
use futures::{FutureExt, TryStreamExt};
use gnomon_model::ShardId;
use gnomon_proto::ServiceError;
use std::time::Duration;

/// A shard that does not answer within this is taken to hold something.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

impl Fanout {
    /// Whether no head has a sample of the selection that is not in the plan's blocks, as of now: what was acknowledged
    /// before the call is seen. False where that cannot be told, also since the plan is old.
    pub(crate) async fn is_all_in_blocks(&self, scope: &Scope, selection: &Selection, plan: &FanoutPlan) -> bool {
        let selection = Selection {
            labels_only: true,
            ..selection.clone()
        };
        let holds = |(shard, parts): (&ShardId, &Vec<u64>)| {
            let request = self.shard_request(scope, &selection, *shard, view(plan, parts));
            let asked = within(ANSWER_WITHIN, async {
                let mut batches = self.shards.select(request).await?;
                while let Some(batch) = batches.try_next().await? {
                    if !batch.series.is_empty() {
                        return Ok(true);
                    }
                }
                Ok::<_, ServiceError>(false)
            });
            asked.boxed()
        };
        let asked = join_all(plan.shards.iter().map(holds)).await;
        asked.into_iter().all(|holds| holds == Ok(false))
    }
}
