//! One pass over a batch of series: its samples of one window become blocks of some shards.

use super::source::Batch;
use super::{Importer, TOLD};
use crate::block::stop::check;
use anyhow::{Context, bail};
use gnomon_cluster::deletes::newest_revision;
use gnomon_cluster::retention::{Room, room_for};
use gnomon_model::duration::format_duration_ms;
use gnomon_model::ids::CURRENT_FEATURE_LEVEL;
use gnomon_model::size::format_size_bytes;
use gnomon_model::{BlockId, FeatureLevel, Labels, PartId, PlacementEpoch, ShardId, TimeRange};
use gnomon_proto::v1::{BlockRecord, MetaState};
use gnomon_tsdb::bucket::block_path;
use gnomon_tsdb::page::Page;
use gnomon_tsdb::prometheus::{TsdbBlock, TsdbMeta};
use gnomon_tsdb::{BlockError, BlockMeta, BlockWriter, UploadSink, merge_pages};
use std::collections::BTreeMap;

/// For the first reservation: bytes of a sample, of a series, and of a block beside them. It is doubled where it is too
/// small.
const SAMPLE_BYTES: f64 = 4.0;
const SERIES_BYTES: u64 = 500;
const BLOCK_BYTES: u64 = 256 << 10;
const MOST_DOUBLINGS: u32 = 24;
/// Series between two looks at whether to stop.
const SERIES_PER_TURN: usize = 64;

/// What is gone through.
pub(super) struct Pass<'p> {
    pub(super) state: &'p MetaState,
    pub(super) meta: &'p TsdbMeta,
    pub(super) window: TimeRange,
    pub(super) part: u64,
    pub(super) epoch: PlacementEpoch,
    pub(super) batch: &'p Batch,
    /// Of each series of the batch.
    pub(super) owners: &'p [Option<ShardId>],
}

/// A block that is being written.
struct Open {
    record: BlockRecord,
    writer: BlockWriter<UploadSink>,
}

/// Shards whose blocks are to be written, each with the series it has in the batch.
type Shards = BTreeMap<ShardId, u64>;

impl Pass<'_> {
    /// What the block of a shard may take at most, by all likelihood.
    fn reservation(&self, series: u64) -> u64 {
        let stats = &self.meta.stats;
        let of_series = series as f64 / stats.num_series.max(series).max(1) as f64;
        let span = self.meta.max_time.saturating_sub(self.meta.min_time).max(1);
        let of_time = (self.window.width_ms() as f64 / span as f64).min(1.0);
        let samples = stats.num_samples as f64 * of_series * of_time;
        (samples * SAMPLE_BYTES) as u64 + series * SERIES_BYTES + BLOCK_BYTES
    }

    fn block_meta(&self, record: &BlockRecord, block: BlockId, tenant: &str) -> anyhow::Result<BlockMeta> {
        let cluster = self
            .state
            .cluster_id
            .parse()
            .context("the metadata group names no cluster")?;
        let shard = ShardId(record.shard);
        let mut meta = BlockMeta::new(block, cluster, tenant.parse()?, shard, self.window);
        meta.feature_level = FeatureLevel(self.state.feature_level.clamp(1, CURRENT_FEATURE_LEVEL.0));
        meta.epoch = self.epoch;
        meta.tombstone_revision = record.tombstone_revision;
        meta.parts = vec![PartId {
            shard,
            number: self.part,
        }];
        Ok(meta)
    }
}

impl Importer<'_> {
    /// Writes the blocks of `shards`, again with more room where one becomes larger than what was reserved.
    pub(super) async fn carry_out(
        &mut self,
        pass: &Pass<'_>,
        block: &mut TsdbBlock,
        mut shards: Shards,
    ) -> anyhow::Result<()> {
        for doublings in 0..MOST_DOUBLINGS {
            let mut open = BTreeMap::new();
            let chunks_before = self.counts.skipped_chunks;
            let mut done = self.write(pass, block, &shards, doublings, &mut open).await;
            while done.is_ok()
                && let Some((shard, next)) = open.pop_first()
            {
                done = self.publish(next).await;
                if done.is_ok() {
                    shards.remove(&shard);
                }
            }
            let Err(error) = done else { return Ok(()) };
            let left: Vec<_> = open
                .values()
                .map(|o| (o.record.id.clone(), o.record.path.clone()))
                .collect();
            for open in open.into_values() {
                open.writer.abort().await;
            }
            // Should this fail, the next import finds them.
            let cleared = if left.is_empty() {
                Ok(())
            } else {
                self.clear(&left).await.map(drop)
            };
            let is_too_small = error
                .downcast_ref::<BlockError>()
                .is_some_and(BlockError::is_over_reservation);
            if !is_too_small {
                return Err(error);
            }
            cleared?;
            self.counts.skipped_chunks = chunks_before;
        }
        bail!("a block becomes larger than anything that was reserved for it")
    }

    async fn write(
        &mut self,
        pass: &Pass<'_>,
        block: &mut TsdbBlock,
        shards: &Shards,
        doublings: u32,
        open: &mut BTreeMap<ShardId, Open>,
    ) -> anyhow::Result<()> {
        let all = pass.batch.series.iter().zip(pass.owners);
        let mut all = all
            .filter_map(|(series, owner)| Some((series, owner.as_ref()?)))
            .peekable();
        let mut looked = 0;
        while let Some(((labels, at), shard)) = all.next() {
            let Some(series) = shards.get(shard) else { continue };
            looked += 1;
            if looked % SERIES_PER_TURN == 0 {
                check(&self.stop).await?;
            }
            let mut sources = vec![self.pages(block, *at, pass.window)?];
            // Labels that are added may make two series one.
            while let Some(((_, at), _)) = all.next_if(|((next, _), _)| next == labels) {
                sources.push(self.pages(block, *at, pass.window)?);
            }
            let pages = match sources.len() {
                1 => sources.pop().unwrap_or_default(),
                _ => merge_pages(sources).with_context(|| format!("series {labels}"))?,
            };
            if pages.is_empty() {
                continue;
            }
            if !open.contains_key(shard) {
                open.insert(*shard, self.stage(pass, *shard, *series, doublings).await?);
            }
            if let Some(open) = open.get_mut(shard) {
                self.add(&mut open.writer, labels, pages).await?;
            }
        }
        Ok(())
    }

    async fn add(
        &mut self,
        writer: &mut BlockWriter<UploadSink>,
        labels: &Labels,
        pages: Vec<Page>,
    ) -> anyhow::Result<()> {
        let samples = pages.iter().map(|page| u64::from(page.count)).sum();
        writer.add_series(labels.as_ref(), pages).await?;
        self.progress.add(samples);
        Ok(())
    }

    fn pages(
        &mut self,
        block: &mut TsdbBlock,
        at: gnomon_tsdb::prometheus::SeriesAt,
        window: TimeRange,
    ) -> anyhow::Result<Vec<Page>> {
        let (skip, progress, chunks) = (self.what.skip_damaged, &self.progress, &mut self.counts.skipped_chunks);
        let mut damaged = |error: &gnomon_tsdb::prometheus::TsdbError| {
            if skip {
                *chunks += 1;
                if *chunks <= TOLD {
                    progress.say(&format!("left out: {error}"));
                }
            }
            skip
        };
        Ok(block.pages(at, window, &mut damaged)?)
    }

    /// Names the block in the catalogue, and begins it.
    async fn stage(&self, pass: &Pass<'_>, shard: ShardId, series: u64, doublings: u32) -> anyhow::Result<Open> {
        let bytes = pass.reservation(series).saturating_mul(1 << doublings);
        let state = self.catalogue.read().await?;
        let cap_bytes = self.budget.for_blocks(&state);
        if let Some(cap_bytes) = cap_bytes
            && room_for(&state.blocks, cap_bytes, bytes, pass.window.end.0) != Room::Free
        {
            bail!(
                "there is no room for more: {} are kept (--storage.tsdb.retention.size), a block of {} from {} on needs {} \
                 and would push out others; what is newer was imported",
                format_size_bytes(self.what.retention.size_bytes.unwrap_or(0)),
                format_duration_ms(pass.window.width_ms()),
                gnomon_querier::Rfc3339(pass.window.start.0),
                format_size_bytes(bytes),
            );
        }
        let id = BlockId(rand::random());
        let tenant = &self.what.to.tenant;
        let path = block_path(tenant, shard, pass.window.start, id);
        let record = BlockRecord {
            id: id.to_string(),
            tenant: tenant.to_string(),
            shard: shard.0,
            start_ms: pass.window.start.0,
            end_ms: pass.window.end.0,
            bytes,
            parts: vec![pass.part],
            // What was deleted before may be brought in again.
            tombstone_revision: newest_revision(&state),
            path: path.to_string(),
            ..BlockRecord::default()
        };
        let meta = pass.block_meta(&record, id, tenant.as_str())?;
        self.catalogue.stage(record.clone(), cap_bytes).await?;
        let sink = UploadSink::within(self.place.bucket.store().clone(), path, bytes);
        Ok(Open {
            record,
            writer: BlockWriter::new(meta, sink),
        })
    }

    async fn publish(&mut self, open: Open) -> anyhow::Result<()> {
        let mut record = open.record;
        let published = async {
            let finished = open.writer.finish().await?;
            let stats = finished.meta.stats;
            record.bytes = finished.bytes;
            (record.series, record.samples) = (stats.series, stats.samples);
            record.min_sample_ms = stats.min_sample.0;
            record.max_sample_ms = stats.max_sample.0;
            self.catalogue.publish(record.clone()).await?;
            anyhow::Ok(())
        };
        if let Err(error) = published.await {
            // Where only the answer was lost, it is live.
            let live = self.clear(&[(record.id.clone(), record.path.clone())]).await?;
            if !live.contains(&record.id) {
                return Err(error);
            }
        }
        self.counts.blocks += 1;
        self.counts.samples += record.samples;
        self.counts.bytes += record.bytes;
        Ok(())
    }
}
