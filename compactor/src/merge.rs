//! Carrying out one merge: stage, write, publish. Whatever fails leaves the inputs live and the output condemned.

use crate::CompactorError;
use crate::catalogue::{Catalogue, Lease};
use crate::plan::Merge;
use futures::TryStreamExt;
use gnomon_cluster::deletes::{KnownDeletes, newest_revision};
use gnomon_model::ids::CURRENT_FEATURE_LEVEL;
use gnomon_model::{BlockId, Clock, ClusterId, FeatureLevel, PartId, ShardId, TenantId, TimeRange, TimestampMs};
use gnomon_proto::v1::block_record::State;
use gnomon_proto::v1::{BlockRecord, MetaState};
use gnomon_tsdb::bucket::block_path;
use gnomon_tsdb::{
    BlockMeta, BlockReader, BlockWriter, Bucket, Deletes, ExemplarFilter, ExemplarMerge, FinishedBlock, SeriesMerge,
    SeriesStream, UploadSink,
};
use object_store::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two lines of progress in the log.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// Series between two looks at the clock, and two chances for other tasks.
const SERIES_PER_TURN: u64 = 64;
/// Attempts with twice the reservation each: pages that overlap code worse together than each by itself.
const RESERVATIONS: u32 = 4;

/// What one merge needs of its surroundings.
pub(crate) struct Merger<'a> {
    pub(crate) part_bytes: usize,
    pub(crate) catalogue: &'a Catalogue,
    pub(crate) bucket: &'a Bucket,
    pub(crate) clock: &'a Arc<dyn Clock>,
    pub(crate) deletes: &'a KnownDeletes,
    pub(crate) stop: &'a CancellationToken,
    pub(crate) lease_lasts: Duration,
    /// What all blocks together may take, the output included.
    pub(crate) cap_bytes: Option<u64>,
}

/// What is reserved for an output at first: hardly ever is one longer than its inputs together.
#[must_use]
pub(crate) const fn reservation(input_bytes: u64) -> u64 {
    input_bytes + input_bytes / 16 + (64 << 10)
}

/// Which job merges into this span: two nodes that plan alike ask for the same lease.
pub(crate) fn job_name(tenant: &str, shard: u32, start_ms: i64, end_ms: i64) -> String {
    format!("compact/{tenant}/{shard}/{start_ms}-{end_ms}")
}

fn bad_record(block: &str, what: impl std::fmt::Display) -> CompactorError {
    CompactorError::Record {
        block: block.to_owned(),
        what: what.to_string(),
    }
}

/// The inputs' records, in the order of precedence: where two have a sample for one instant, the lowest part wins.
fn inputs_of<'a>(state: &'a MetaState, merge: &Merge) -> Result<Vec<&'a BlockRecord>, CompactorError> {
    let mut inputs = Vec::with_capacity(merge.inputs.len());
    for id in &merge.inputs {
        let record = state.blocks.iter().find(|b| b.id == *id && b.state() == State::Live);
        inputs.push(record.ok_or_else(|| CompactorError::Refused(format!("input {id} is not live any more")))?);
    }
    inputs.sort_by(|a, b| (&a.parts, &a.id).cmp(&(&b.parts, &b.id)));
    Ok(inputs)
}

/// The record under which the output is staged.
fn output_record(
    merge: &Merge,
    inputs: &[&BlockRecord],
    id: BlockId,
    reserved_bytes: u64,
    tombstone_revision: u64,
) -> Result<BlockRecord, CompactorError> {
    let id_text = id.to_string();
    let tenant: TenantId = merge.tenant.parse().map_err(|e| bad_record(&id_text, e))?;
    let mut parts: Vec<u64> = inputs.iter().flat_map(|b| b.parts.iter().copied()).collect();
    parts.sort_unstable();
    Ok(BlockRecord {
        path: block_path(&tenant, ShardId(merge.shard), TimestampMs(merge.start_ms), id).to_string(),
        id: id_text,
        tenant: merge.tenant.clone(),
        shard: merge.shard,
        start_ms: merge.start_ms,
        end_ms: merge.end_ms,
        level: merge.level,
        bytes: reserved_bytes,
        state: State::Staged as i32,
        parts,
        tombstone_revision,
        inputs: merge.inputs.clone(),
        ..BlockRecord::default()
    })
}

fn meta_of(record: &BlockRecord, id: BlockId, state: &MetaState, epoch: u32) -> Result<BlockMeta, CompactorError> {
    let bad = |what: String| bad_record(&record.id, what);
    let cluster: ClusterId = state.cluster_id.parse().map_err(|e| bad(format!("cluster id: {e}")))?;
    let tenant: TenantId = record.tenant.parse().map_err(|e| bad(format!("{e}")))?;
    let window = TimeRange::new(TimestampMs(record.start_ms), TimestampMs(record.end_ms));
    let mut meta = BlockMeta::new(id, cluster, tenant, ShardId(record.shard), window);
    meta.level = record.level;
    meta.feature_level = FeatureLevel(state.feature_level.clamp(1, CURRENT_FEATURE_LEVEL.0));
    meta.epoch.0 = epoch;
    meta.tombstone_revision = record.tombstone_revision;
    meta.parts = record
        .parts
        .iter()
        .map(|n| PartId {
            shard: ShardId(record.shard),
            number: *n,
        })
        .collect();
    Ok(meta)
}

/// A block that is read, and what is not to be taken from it.
struct Input {
    block: Arc<BlockReader>,
    deletes: Deletes,
}

impl Merger<'_> {
    /// Merges and publishes; gives the published record.
    ///
    /// # Errors
    /// When any step fails. The inputs are live as before, unless somebody else let them go.
    pub(crate) async fn run(
        &self,
        state: &MetaState,
        merge: &Merge,
        lease: &Lease,
    ) -> Result<BlockRecord, CompactorError> {
        let inputs = inputs_of(state, merge)?;
        let mut reserved_bytes = reservation(merge.input_bytes);
        for attempt in 1.. {
            match self.attempt(state, merge, &inputs, reserved_bytes, lease).await {
                Err(CompactorError::Block(error)) if error.is_over_reservation() && attempt < RESERVATIONS => {
                    tracing::debug!(%error, "merging again with a larger reservation");
                    reserved_bytes = reserved_bytes.saturating_mul(2);
                }
                outcome => return outcome,
            }
        }
        Err(CompactorError::Stopped)
    }

    async fn attempt(
        &self,
        state: &MetaState,
        merge: &Merge,
        inputs: &[&BlockRecord],
        reserved_bytes: u64,
        lease: &Lease,
    ) -> Result<BlockRecord, CompactorError> {
        let id = BlockId(rand::random());
        let record = output_record(merge, inputs, id, reserved_bytes, newest_revision(state))?;
        let readers = self.open(state, inputs).await?;
        let epoch = readers.iter().map(|r| r.block.meta().epoch.0).max().unwrap_or(1);
        let mut meta = meta_of(&record, id, state, epoch)?;
        // Who reads the inputs can read it. A catalogue that was taken over may have blocks of a higher level than this
        // cluster's: what they have would be lost with them.
        let of_inputs = readers.iter().map(|r| r.block.meta().feature_level).max();
        let level = of_inputs.map_or(meta.feature_level, |level| level.max(meta.feature_level));
        meta.feature_level = level.min(CURRENT_FEATURE_LEVEL);
        self.catalogue.stage(record.clone(), self.cap_bytes).await?;
        let result = self.write_and_publish(record, meta, readers, lease).await;
        if result.is_err() {
            // Without effect where the block was published after all; else its object, if there is one, is collected.
            if let Err(error) = self.catalogue.give_up(&[id.to_string()]).await {
                tracing::warn!(block = %id, %error, "could not give up the block of a merge that failed");
            }
        }
        result
    }

    async fn open(&self, state: &MetaState, inputs: &[&BlockRecord]) -> Result<Vec<Input>, CompactorError> {
        let mut readers = Vec::with_capacity(inputs.len());
        for input in inputs {
            let reader = BlockReader::open(self.bucket.store().clone(), Path::from(input.path.as_str())).await?;
            let meta = reader.meta();
            let parts: Vec<u64> = meta.parts.iter().map(|p| p.number).collect();
            if meta.block.to_string() != input.id || meta.shard.0 != input.shard || parts != input.parts {
                return Err(bad_record(
                    &input.id,
                    "the object says that it is another block than its record says",
                ));
            }
            // By the object's word, where it says that it has less of them carried out than its record does.
            let carried_out = BlockRecord {
                tombstone_revision: input.tombstone_revision.min(meta.tombstone_revision),
                ..(*input).clone()
            };
            let deletes = self.deletes.masking(&state.tombstones, &carried_out);
            readers.push(Input {
                deletes: deletes.map_err(|e| bad_record(&input.id, e))?,
                block: Arc::new(reader),
            });
        }
        Ok(readers)
    }

    async fn write_and_publish(
        &self,
        mut record: BlockRecord,
        meta: BlockMeta,
        readers: Vec<Input>,
        lease: &Lease,
    ) -> Result<BlockRecord, CompactorError> {
        let most = readers.iter().map(|r| r.block.meta().stats.samples).sum::<u64>();
        let whole = readers.iter().filter(|r| r.deletes.is_empty());
        let least = whole.map(|r| r.block.meta().stats.samples).max().unwrap_or(0);
        let written = self.write(&record, meta, readers, lease).await?;
        let stats = written.meta.stats;
        if stats.samples > most || stats.samples < least {
            let what = format!(
                "merge has {} samples, its inputs between {least} and {most}",
                stats.samples
            );
            return Err(bad_record(&record.id, what));
        }
        if stats.samples == 0 {
            // Nothing is left: there is no block, and none is needed.
            self.catalogue.give_up(std::slice::from_ref(&record.id)).await?;
            self.catalogue.condemn(&record.inputs).await?;
            record.bytes = 0;
            return Ok(record);
        }
        record.bytes = written.bytes;
        record.series = stats.series;
        record.samples = stats.samples;
        record.min_sample_ms = stats.min_sample.0;
        record.max_sample_ms = stats.max_sample.0;
        self.catalogue.publish(record.clone()).await?;
        Ok(record)
    }

    async fn write(
        &self,
        record: &BlockRecord,
        meta: BlockMeta,
        readers: Vec<Input>,
        lease: &Lease,
    ) -> Result<FinishedBlock<()>, CompactorError> {
        let (store, path) = (self.bucket.store().clone(), Path::from(record.path.as_str()));
        let sink = UploadSink::within(store, path, record.bytes).in_parts_of(self.part_bytes);
        let mut writer = BlockWriter::new(meta, sink).thorough();
        match self.copy(&mut writer, &readers, &record.id, lease).await {
            Ok(()) => {
                let written = writer.finish().await?;
                if written.exemplars_left_out > 0 {
                    let (block, left_out) = (&record.id, written.exemplars_left_out);
                    tracing::warn!(
                        block,
                        left_out,
                        "a merged block has no room for all exemplars of its inputs"
                    );
                }
                Ok(written)
            }
            Err(error) => {
                writer.abort().await;
                Err(error)
            }
        }
    }

    async fn copy(
        &self,
        writer: &mut BlockWriter<UploadSink>,
        readers: &[Input],
        block: &str,
        lease: &Lease,
    ) -> Result<(), CompactorError> {
        let total: u64 = readers.iter().map(|r| r.block.meta().stats.samples).sum();
        let mut streams: Vec<SeriesStream<CompactorError>> = Vec::with_capacity(readers.len());
        for reader in readers {
            let all = reader.block.select(&[], i64::MIN, i64::MAX).await?;
            let all = all.without(reader.deletes.clone());
            streams.push(Box::pin(all.into_stream().map_err(CompactorError::from)));
        }
        let mut merge = SeriesMerge::new(streams);
        let (start, mut last) = (self.clock.monotonic(), self.clock.monotonic());
        let (mut series, mut samples) = (0_u64, 0_u64);
        while let Some(next) = merge.next().await? {
            let labels = next.labels.clone();
            let page_error = |source| CompactorError::Page {
                labels: labels.to_string(),
                source,
            };
            let merged = next.into_pages().map_err(page_error)?;
            samples += merged.pages.iter().map(|p| u64::from(p.count)).sum::<u64>();
            series += 1;
            writer.add_series(merged.labels.as_ref(), merged.pages).await?;
            if !series.is_multiple_of(SERIES_PER_TURN) {
                continue;
            }
            if self.keep_going(&mut last, lease).await? {
                let rate = samples as f64 / last.saturating_sub(start).as_secs_f64().max(1e-9);
                tracing::info!(
                    block,
                    series,
                    samples,
                    of = total,
                    samples_per_second = rate as u64,
                    "merging blocks"
                );
            }
        }
        self.copy_extras(writer, readers, lease).await
    }

    /// Exemplars that are not deleted, each once, and what the newest input says of each metric.
    async fn copy_extras(
        &self,
        writer: &mut BlockWriter<UploadSink>,
        readers: &[Input],
        lease: &Lease,
    ) -> Result<(), CompactorError> {
        if !writer.keeps_extras() {
            return Ok(());
        }
        // Who else gets the job takes the output for abandoned.
        self.catalogue.renew(lease, self.lease_lasts).await?;
        let mut last = self.clock.monotonic();
        let mut sources = Vec::with_capacity(readers.len());
        for reader in readers {
            let filter = ExemplarFilter {
                deletes: reader.deletes.clone(),
                ..ExemplarFilter::default()
            };
            sources.push(reader.block.exemplars(filter).await?);
            for (metric, metadata) in reader.block.metadata(None).await? {
                writer.add_metadata(&metric, metadata);
            }
            self.keep_going(&mut last, lease).await?;
        }
        let mut merge = ExemplarMerge::new(sources).await?;
        while let Some(series) = merge.next().await? {
            writer.add_exemplars(series.labels.as_ref(), series.exemplars)?;
            self.keep_going(&mut last, lease).await?;
        }
        Ok(())
    }

    /// Lets other tasks have their turn, and renews the lease every so often: whether it did so now, which `last` tells.
    ///
    /// # Errors
    /// `Stopped`; `Lost`; or when the lease cannot be renewed.
    async fn keep_going(&self, last: &mut Duration, lease: &Lease) -> Result<bool, CompactorError> {
        if self.stop.is_cancelled() {
            return Err(CompactorError::Stopped);
        }
        tokio::task::yield_now().await;
        let now = self.clock.monotonic();
        let is_due = now.saturating_sub(*last) >= PROGRESS_EVERY.min(self.lease_lasts / 3);
        if is_due {
            *last = now;
            self.catalogue.renew(lease, self.lease_lasts).await?;
        }
        Ok(is_due)
    }
}
