//! A copy of all data in a folder of this node: blocks, what heads have as blocks of their own, and a catalogue of them.
//! The folder is a bucket: a node that is founded with it as its object store has the data.
//!
//! Invariant: a sample is in exactly one block of the copy. Heads are read in one view of the catalogue, without the parts
//! that the view's blocks cover, and it is these blocks that are copied; where one has gone meanwhile, all begins anew.

use crate::error::{ApiError, ErrorType};
use crate::fanout::{Fanout, exemplars_from_wire};
use crate::instant::Rfc3339;
use futures::TryStreamExt;
use gnomon_cluster::deletes::newest_revision;
use gnomon_cluster::meta::write_checkpoint;
use gnomon_cluster::placement::epochs_in_force;
use gnomon_model::ids::CURRENT_FEATURE_LEVEL;
use gnomon_model::{BlockId, FeatureLevel, LabelsRef, PartId, PlacementEpoch, ShardId, TimeRange, TimestampMs};
use gnomon_proto::ServiceError;
use gnomon_proto::v1::block_record::State;
use gnomon_proto::v1::{
    BlockRecord, ExemplarsRequest, HeadStatsRequest, MetaState, MetricMetadataRequest, SelectRequest, TombstoneRecord,
    View,
};
use gnomon_tsdb::bucket::block_path;
use gnomon_tsdb::{
    BlockMeta, BlockSink, BlockWriter, Bucket, Intervals, MetricMetadata, Page, UploadSink, deletes, merge_pages,
};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

/// Blocks that are made of heads hold so much time, aligned to UTC.
const WINDOW_MS: i64 = 2 * 60 * 60 * 1000;
/// Windows of one shard's head, at most: ten years.
const MAX_WINDOWS: i64 = 44_000;
/// How often it is begun anew where the catalogue changed meanwhile.
const ATTEMPTS: usize = 8;
const PAUSE: Duration = Duration::from_millis(100);
/// What the name of a folder ends with until it is whole.
const UNFINISHED: &str = ".tmp";

/// Why an attempt came to nothing.
enum Failed {
    /// What was to be copied has moved on.
    Moved(String),
    Ended(ApiError),
}

impl From<ApiError> for Failed {
    fn from(error: ApiError) -> Self {
        Self::Ended(error)
    }
}

impl From<ServiceError> for Failed {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::StaleView { .. } | ServiceError::StaleMap { .. } => Self::Moved(error.to_string()),
            error => Self::Ended(error.into()),
        }
    }
}

fn internal(why: impl std::fmt::Display) -> ApiError {
    ApiError::new(ErrorType::Internal, why.to_string())
}

/// One snapshot that is being made.
pub(crate) struct Snapshot<'a> {
    pub(crate) fanout: &'a Fanout,
    pub(crate) bucket: &'a Arc<dyn ObjectStore>,
    pub(crate) with_heads: bool,
}

/// The name of a snapshot that is made now, as Prometheus builds it.
pub(crate) fn name_at(now_ms: i64, random: u64) -> String {
    let seconds = Rfc3339(now_ms.div_euclid(1000) * 1000).to_string();
    let digits: String = seconds.chars().filter(|c| !matches!(c, '-' | ':')).collect();
    format!("{digits}-{:016x}", random >> 1)
}

impl Snapshot<'_> {
    /// Makes it as the folder `name` of `folder`; there is nothing of that name before it is whole.
    ///
    /// # Errors
    /// When data cannot be read or the folder not be written.
    pub(crate) async fn make(&self, folder: &FilePath, name: &str) -> Result<(), ApiError> {
        let unfinished = folder.join(format!("{name}{UNFINISHED}"));
        let made = self.make_in(&unfinished).await;
        let finished = folder.join(name);
        let done = match made {
            Ok(()) => std::fs::rename(&unfinished, &finished)
                .and_then(|()| std::fs::File::open(folder)?.sync_all())
                .map_err(|e| internal(format!("snapshot {}: {e}", finished.display()))),
            Err(error) => Err(error),
        };
        if done.is_err() {
            remove(&unfinished);
        }
        done
    }

    async fn make_in(&self, folder: &FilePath) -> Result<(), ApiError> {
        let mut why = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                remove(folder);
                tokio::time::sleep(PAUSE).await;
            }
            let copy = Bucket::folder(folder).map_err(internal)?;
            match self.attempt(copy.store()).await {
                Ok(()) => return Ok(()),
                Err(Failed::Ended(error)) => return Err(error),
                Err(Failed::Moved(what)) => why = what,
            }
        }
        Err(ApiError::new(
            ErrorType::Unavailable,
            format!("the data moved on {ATTEMPTS} times while it was copied: {why}"),
        ))
    }

    async fn attempt(&self, copy: &Arc<dyn ObjectStore>) -> Result<(), Failed> {
        let state = self.fanout.meta.read().await?;
        let tenant = self.fanout.tenant.as_str();
        let live = |b: &&BlockRecord| b.state() == State::Live && b.tenant == tenant;
        let mut blocks: Vec<BlockRecord> = state.blocks.iter().filter(live).cloned().collect();
        let of_catalogue = blocks.len();
        if self.with_heads {
            let epochs = epochs_in_force(&state);
            let mut shards: Vec<u32> = epochs.iter().flat_map(|e| &e.shards).copied().collect();
            shards.sort_unstable();
            shards.dedup();
            for shard in shards {
                let of_head = self.head(&state, ShardId(shard), &blocks[..of_catalogue], copy).await?;
                blocks.extend(of_head);
            }
        }
        for block in &blocks[..of_catalogue] {
            self.copy(&block.path, copy).await?;
        }
        for tombstone in &state.tombstones {
            self.copy(&tombstone.path, copy).await?;
        }
        for block in &mut blocks {
            block.inputs.clear();
        }
        blocks.sort_by(|a, b| a.id.cmp(&b.id));
        let settled = |t: &TombstoneRecord| TombstoneRecord {
            pending_shards: Vec::new(),
            ..t.clone()
        };
        let catalogue = MetaState {
            revision: state.revision,
            catalogue_revision: state.catalogue_revision,
            cluster_id: state.cluster_id.clone(),
            feature_level: state.feature_level,
            // One that is not in force has no samples.
            epochs: epochs_in_force(&state).to_vec(),
            blocks,
            tombstones: state.tombstones.iter().map(settled).collect(),
            forgotten_tombstone_revision: state.forgotten_tombstone_revision,
            ..MetaState::default()
        };
        let written = write_checkpoint(copy.as_ref(), &catalogue).await;
        Ok(written.map_err(internal)?)
    }

    /// Copies one object of the bucket.
    async fn copy(&self, path: &str, copy: &Arc<dyn ObjectStore>) -> Result<(), Failed> {
        let failed = |error: object_store::Error| match error {
            object_store::Error::NotFound { .. } => Failed::Moved(format!("{path} is gone")),
            error => Failed::Ended(internal(format!("copy {path}: {error}"))),
        };
        let path = Path::parse(path).map_err(|e| Failed::Ended(internal(e)))?;
        let mut bytes = self.bucket.get(&path).await.map_err(failed)?.into_stream();
        let mut sink = UploadSink::new(Arc::clone(copy), path.clone());
        loop {
            match bytes.try_next().await {
                Ok(Some(some)) => sink.write(&some).await.map_err(internal)?,
                Ok(None) => break,
                Err(error) => {
                    sink.abort().await;
                    return Err(failed(error));
                }
            }
        }
        Ok(sink.finish().await.map_err(internal)?)
    }

    /// What a shard's head has beside these blocks, as one block for each window.
    async fn head(
        &self,
        state: &MetaState,
        shard: ShardId,
        blocks: &[BlockRecord],
        copy: &Arc<dyn ObjectStore>,
    ) -> Result<Vec<BlockRecord>, Failed> {
        let request = HeadStatsRequest {
            shard: shard.0,
            limit: 0,
        };
        let stats = self.fanout.shards.head_stats(request).await?;
        let of_shard = || state.blocks.iter().filter(|b| b.shard == shard.0);
        let parts = of_shard().flat_map(|b| &b.parts).copied();
        let mut part = parts.filter(|part| *part < PartId::FIRST_IMPORTED).max().unwrap_or(0);
        let own = blocks.iter().filter(|b| b.shard == shard.0);
        let mut parts_from_blocks: Vec<u64> = own.flat_map(|b| &b.parts).copied().collect();
        parts_from_blocks.sort_unstable();
        parts_from_blocks.dedup();
        let view = View {
            catalogue_revision: state.catalogue_revision,
            parts_from_blocks,
            placement_epoch: state.epochs.last().map_or(0, |epoch| epoch.epoch),
        };
        let first = TimeRange::window_of(TimestampMs(stats.min_ms), WINDOW_MS).start.0;
        if stats.samples == 0 {
            self.nothing(shard, &view, i64::MIN, i64::MAX).await?;
            return Ok(Vec::new());
        }
        if stats.max_ms.saturating_sub(first) / WINDOW_MS > MAX_WINDOWS {
            let what = format!("the head of shard {shard} reaches over more than {MAX_WINDOWS} windows");
            return Err(Failed::Ended(internal(what)));
        }
        let mut made = Vec::new();
        let mut start_ms = first;
        while start_ms <= stats.max_ms {
            let window = TimeRange::new(TimestampMs(start_ms), TimestampMs(start_ms.saturating_add(WINDOW_MS)));
            if let Some(block) = self.window(state, shard, window, part + 1, &view, copy).await? {
                part += 1;
                made.push(block);
            }
            start_ms = window.end.0;
        }
        // The figures may be somewhat old, what is read is not.
        self.nothing(shard, &view, i64::MIN, first.saturating_sub(1)).await?;
        self.nothing(shard, &view, start_ms, i64::MAX).await?;
        Ok(made)
    }

    /// Sees to it that a head has nothing in a range.
    async fn nothing(&self, shard: ShardId, view: &View, start_ms: i64, end_ms: i64) -> Result<(), Failed> {
        let request = SelectRequest {
            tenant: self.fanout.tenant.to_string(),
            shard: shard.0,
            start_ms,
            end_ms,
            view: Some(view.clone()),
            max_bytes: u64::MAX,
            labels_only: true,
            ..SelectRequest::default()
        };
        match self.fanout.shards.select(request).await?.try_next().await? {
            None => Ok(()),
            Some(_) => Err(Failed::Moved(format!("shard {shard} has taken samples of other times"))),
        }
    }

    /// A head's samples of one window; none where there are none.
    async fn window(
        &self,
        state: &MetaState,
        shard: ShardId,
        window: TimeRange,
        part: u64,
        view: &View,
        copy: &Arc<dyn ObjectStore>,
    ) -> Result<Option<BlockRecord>, Failed> {
        let tenant = &self.fanout.tenant;
        let request = SelectRequest {
            tenant: tenant.to_string(),
            shard: shard.0,
            start_ms: window.start.0,
            end_ms: window.end.0 - 1,
            view: Some(view.clone()),
            max_bytes: u64::MAX,
            ..SelectRequest::default()
        };
        let mut outside = Intervals::default();
        outside.add(i64::MIN, window.start.0.saturating_sub(1));
        outside.add(window.end.0, i64::MAX);
        let mut batches = self.fanout.shards.select(request).await?;
        let id = BlockId(rand::random());
        let cluster = state.cluster_id.parse().map_err(internal)?;
        let mut meta = BlockMeta::new(id, cluster, tenant.clone(), shard, window);
        meta.feature_level = FeatureLevel(state.feature_level.clamp(1, CURRENT_FEATURE_LEVEL.0));
        let number = part;
        let epoch = state.epochs.iter().rfind(|epoch| epoch.shards.contains(&shard.0));
        meta.epoch = PlacementEpoch(epoch.map_or(1, |epoch| epoch.epoch));
        meta.parts = vec![PartId { shard, number }];
        // A head may not have carried out what its log does not have yet; it takes deletes in the order of revisions.
        let pending = state.tombstones.iter().filter(|t| t.pending_shards.contains(&shard.0));
        let first_pending = pending.map(|t| t.revision).min();
        meta.tombstone_revision = first_pending.map_or_else(|| newest_revision(state), |first| first - 1);
        let path = block_path(tenant, shard, window.start, id);
        let mut record = BlockRecord {
            id: id.to_string(),
            tenant: tenant.to_string(),
            shard: shard.0,
            start_ms: window.start.0,
            end_ms: window.end.0,
            state: State::Live as i32,
            parts: vec![part],
            path: path.to_string(),
            tombstone_revision: meta.tombstone_revision,
            ..BlockRecord::default()
        };
        let mut writer = BlockWriter::new(meta, UploadSink::new(Arc::clone(copy), path.clone()));
        let mut has_samples = false;
        while let Some(batch) = batches.try_next().await? {
            for series in batch.series {
                let labels = LabelsRef::checked(&series.labels).map_err(internal)?;
                let pages = series.pages.into_iter().map(|page| Page::parse(page.data));
                let pages = pages.collect::<Result<Vec<_>, _>>().map_err(internal)?;
                let pages = deletes::remove(pages, &outside).map_err(internal)?;
                let pages = merge_pages(vec![pages]).map_err(internal)?;
                if !pages.is_empty() {
                    has_samples = true;
                    writer.add_series(labels, pages).await.map_err(internal)?;
                }
            }
        }
        if !has_samples {
            writer.abort().await;
            return Ok(None);
        }
        self.extras(shard, window, view, &mut writer).await?;
        let written = writer.finish().await.map_err(internal)?;
        let stats = written.meta.stats;
        record.bytes = written.bytes;
        (record.series, record.samples) = (stats.series, stats.samples);
        record.min_sample_ms = stats.min_sample.0;
        record.max_sample_ms = stats.max_sample.0;
        Ok(Some(record))
    }

    /// What a head has beside samples, of one window.
    async fn extras(
        &self,
        shard: ShardId,
        window: TimeRange,
        view: &View,
        writer: &mut BlockWriter<UploadSink>,
    ) -> Result<(), Failed> {
        if !writer.keeps_extras() {
            return Ok(());
        }
        let tenant = self.fanout.tenant.to_string();
        let exemplars = ExemplarsRequest {
            tenant: tenant.clone(),
            shard: shard.0,
            start_ms: window.start.0,
            end_ms: window.end.0 - 1,
            placement_epoch: view.placement_epoch,
            ..ExemplarsRequest::default()
        };
        for series in self.fanout.shards.exemplars(exemplars).await?.series {
            let series = exemplars_from_wire(series)?;
            let added = writer.add_exemplars(series.labels.as_ref(), series.exemplars);
            added.map_err(internal)?;
        }
        let metadata = MetricMetadataRequest {
            tenant,
            shard: shard.0,
            placement_epoch: view.placement_epoch,
            ..MetricMetadataRequest::default()
        };
        for entry in self.fanout.shards.metric_metadata(metadata).await?.metadata {
            let known = MetricMetadata {
                at_ms: window.end.0 - 1,
                kind: entry.r#type,
                unit: entry.unit,
                help: entry.help,
            };
            writer.add_metadata(&entry.metric, known);
        }
        Ok(())
    }
}

/// Removes what snapshots have left that were being made when their process ended. None may be being made.
pub(crate) fn remove_unfinished(folder: &FilePath) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().ends_with(UNFINISHED) {
            tracing::info!(folder = %entry.path().display(), "removing a snapshot that was not finished");
            remove(&entry.path());
        }
    }
}

/// Of an attempt that came to nothing.
fn remove(folder: &FilePath) {
    if let Err(error) = std::fs::remove_dir_all(folder)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(folder = %folder.display(), %error, "an unfinished snapshot is left behind");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_finished_goes_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "20171210T211224Z-2b4be6b6d019eb54",
            "20171210T211225Z-2b4be6b6d019eb54.tmp",
        ] {
            std::fs::create_dir_all(folder.path().join(name).join("catalogue")).unwrap();
        }
        remove_unfinished(folder.path());
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        assert!(!left[0].file_name().to_string_lossy().ends_with(UNFINISHED));
        remove_unfinished(&folder.path().join("none"));
    }

    #[test]
    fn names_are_those_of_prometheus() {
        assert_eq!(
            name_at(1_512_940_344_999, 0x5697_cd6d_a033_d6a9),
            "20171210T211224Z-2b4be6b6d019eb54"
        );
    }
}
