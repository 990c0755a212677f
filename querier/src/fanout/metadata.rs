//! Type, unit and help of metrics: what shards know of them now, and what the newest blocks know of those that no shard
//! does.

use super::labels::BLOCKS_AT_ONCE;
use super::open::{block_name, within};
use super::scope::Amount;
use super::stream::ended_early;
use super::{Fanout, OPEN_TIMEOUT, Scope};
use crate::error::ApiError;
use futures::{FutureExt, StreamExt};
use gnomon_promql::Reserved;
use gnomon_proto::{ServiceError, v1};
use gnomon_tsdb::MetricMetadata;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Blocks that are asked, the newest: with merged ones that is about a month of a few shards.
const MOST_BLOCKS: usize = 64;

/// What an entry takes beside its texts.
const ENTRY_BYTES: u64 = 160;

/// What is known of a metric.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub(crate) struct Metadata {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) help: String,
    pub(crate) unit: String,
}

/// By metric.
pub(crate) type AllMetadata = BTreeMap<String, BTreeSet<Metadata>>;

impl Fanout {
    /// Metadata by metric, of one metric if it is not empty; and what it occupies: to be kept as long as it is.
    pub(crate) async fn metadata(&self, scope: &Scope, metric: &str) -> Result<(AllMetadata, Reserved), ApiError> {
        let answers = self.ask_all(|shard, placement_epoch| {
            self.shards.metric_metadata(v1::MetricMetadataRequest {
                tenant: self.tenant.to_string(),
                shard,
                metric: metric.to_owned(),
                limit: 0,
                any_replica: false,
                placement_epoch,
            })
        });
        let mut all = AllMetadata::new();
        let mut held = scope.memory().reserve(0)?;
        for (shard, answer) in answers.await? {
            match answer {
                Ok(answer) => {
                    for entry in answer.metadata {
                        let bytes = (entry.metric.len() + entry.help.len()) as u64;
                        scope.charge(Amount::of_bytes(bytes))?;
                        held.grow(bytes + ENTRY_BYTES)?;
                        all.entry(entry.metric).or_default().insert(Metadata {
                            kind: entry.r#type,
                            help: entry.help,
                            unit: entry.unit,
                        });
                    }
                }
                Err(error) => ended_early(scope, &format!("shard {shard} (metadata)"), error)?,
            }
        }
        if metric.is_empty() || all.is_empty() {
            self.add_from_blocks(scope, metric, &mut all, &mut held).await?;
        }
        Ok((all, held))
    }

    /// Adds metrics that no shard knows; of each what the newest block says.
    async fn add_from_blocks(
        &self,
        scope: &Scope,
        metric: &str,
        all: &mut AllMetadata,
        held: &mut Reserved,
    ) -> Result<(), ApiError> {
        let mut blocks = self.live_blocks().await?;
        blocks.sort_by_key(|block| std::cmp::Reverse((block.end_ms, block.start_ms)));
        blocks.truncate(MOST_BLOCKS);
        let metric = Some(metric).filter(|metric| !metric.is_empty());
        let reads = blocks.iter().map(|block| {
            // Those that have been read wait for the ones before.
            let read = self.blocks.metadata(block, metric, scope.memory());
            async move { (within(OPEN_TIMEOUT, read).await, block) }.boxed()
        });
        let reads: Vec<_> = reads.collect();
        let mut reads = futures::stream::iter(reads).buffered(BLOCKS_AT_ONCE);
        let mut newest: HashMap<String, MetricMetadata> = HashMap::new();
        while let Some((read, block)) = reads.next().await {
            match read {
                Ok((entries, mut of_block)) => {
                    for entry in entries {
                        let bytes = entry_bytes(&entry);
                        of_block.shrink(bytes - ENTRY_BYTES);
                        let (metric, metadata) = entry;
                        if all.contains_key(&metric) || newest.get(&metric).is_some_and(|there| *there >= metadata) {
                            continue;
                        }
                        scope.charge(Amount::of_bytes((metric.len() + metadata.help.len()) as u64))?;
                        held.grow(bytes)?;
                        newest.insert(metric, metadata);
                    }
                }
                // It was merged meanwhile: what it knew, others know too.
                Err(ServiceError::NotFound(_)) => {}
                Err(error) => ended_early(scope, &block_name(block), error)?,
            }
        }
        for (metric, known) in newest {
            let MetricMetadata { kind, help, unit, .. } = known;
            all.entry(metric).or_default().insert(Metadata { kind, help, unit });
        }
        Ok(())
    }
}

/// What a block's entry of a metric occupies.
fn entry_bytes((metric, metadata): &(String, MetricMetadata)) -> u64 {
    (metric.len() + metadata.help.len()) as u64 + ENTRY_BYTES
}
