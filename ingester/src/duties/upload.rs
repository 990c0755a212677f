//! From a sealed part to a block in the catalogue.
//!
//! ```text
//! read the catalogue (linearizable) -> a block covers the part: Published
//!                                   -> retention has no place for the part: Published, without a block
//!                                   -> clear away what earlier attempts left
//!                                   -> no room below the retention size: condemn the oldest, wait for their bytes
//!                                   -> stage, upload, publish -> read the catalogue again -> Published
//! ```
//! Only the catalogue makes it safe: a leader that was deposed meanwhile finds the part covered, or its staged block
//! condemned.

use super::Duties;
use super::extras::Extras;
use crate::head::Head;
use crate::service::Shard;
use crate::shard::entry::Command;
use crate::shard::select::stored_pages;
use gnomon_cluster::blocking::blocking;
use gnomon_cluster::retention::{Room, room_for};
use gnomon_model::ids::CURRENT_FEATURE_LEVEL;
use gnomon_model::{BlockId, FeatureLevel, LabelsRef, PartId, PlacementEpoch, SeriesRef, ShardId, TenantId, TimeRange};
use gnomon_proto::ServiceError;
use gnomon_proto::v1::block_record::State;
use gnomon_proto::v1::{
    BlockRecord, CondemnBlocks, ForgetBlocks, MetaCommand, MetaState, PublishBlock, StageBlock,
    meta_command::Command as MetaChange,
};
use gnomon_tsdb::bucket::{block_path, delete_object};
use gnomon_tsdb::page::Page;
use gnomon_tsdb::{BlockError, BlockMeta, BlockStats, BlockWriter, Deletes, UploadSink, deletes, merge_pages};
use object_store::path::Path;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Series read from the store at once.
const READ_SERIES: usize = 256;
/// Beside its pages a block has about so many bytes for each series, and so many for itself: for the reservation.
const INDEX_BYTES_PER_SERIES: u64 = 300;
const BLOCK_BYTES: u64 = 64 << 10;
const MOST_DOUBLINGS: u32 = 5;
/// A reservation that turned out too small is doubled so often at most.
const MOST_WIDENINGS: u32 = 16;

/// Why a part is not published yet.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("the catalogue refused it: {0}")]
    Refused(String),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error(transparent)]
    Block(#[from] BlockError),
    #[error("bucket: {0}")]
    Bucket(#[from] object_store::Error),
    #[error("the part was dropped while it was read: another leader published it")]
    Dropped,
    #[error("the metadata group names no cluster")]
    NoCluster,
    /// Not a failure: what was let go is deleted in a while.
    #[error("there is no room below the retention size yet")]
    NoRoom,
}

/// What became of a part.
enum Outcome {
    Published,
    /// By retention, before it was uploaded.
    LetGo(&'static str),
    /// All its samples are deleted: there is no block of it.
    Deleted,
}

/// Parts that failed: when to try again, and with how much reserved.
#[derive(Debug, Default)]
pub(super) struct Backoff(BTreeMap<u64, Failed>);

#[derive(Clone, Copy, Debug, Default)]
struct Failed {
    times: u32,
    again_at: Duration,
    widenings: u32,
}

impl Backoff {
    fn is_due(&self, part: u64, now: Duration) -> bool {
        self.0.get(&part).is_none_or(|failed| failed.again_at <= now)
    }

    fn failed(&mut self, part: u64, now: Duration, first: Duration) {
        let failed = self.0.entry(part).or_default();
        failed.again_at = now + first * (1 << failed.times.min(MOST_DOUBLINGS));
        failed.times += 1;
    }

    fn widen(&mut self, part: u64) {
        let failed = self.0.entry(part).or_default();
        failed.widenings = (failed.widenings + 1).min(MOST_WIDENINGS);
    }

    fn widenings(&self, part: u64) -> u32 {
        self.0.get(&part).map_or(0, |failed| failed.widenings)
    }
}

/// A part that waits for its upload.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) tenant: TenantId,
    pub(super) tenant_number: u32,
    pub(super) number: u64,
    window: TimeRange,
    /// Newest sample.
    pub(super) max_ms: i64,
    bytes: u64,
    series: u64,
    /// What masks it, carried out in its block: up to this revision.
    pub(super) deletes: Deletes,
    tombstone_revision: u64,
    /// Read when it is uploaded.
    pub(super) extras: Extras,
}

impl Waiting {
    /// What its block may take at most, by all likelihood; the upload ends where it would take more.
    fn reservation(&self, widenings: u32) -> u64 {
        let likely = self.bytes + self.series * INDEX_BYTES_PER_SERIES + BLOCK_BYTES + self.extras.bytes();
        likely.saturating_mul(1 << widenings)
    }
}

impl Duties {
    pub(super) async fn upload_parts(&mut self, now: Duration) {
        let waiting = waiting(&self.shard);
        self.uploads
            .0
            .retain(|part, _| waiting.iter().any(|w| w.number == *part));
        let shard = self.shard.id().0;
        for mut part in waiting {
            if !self.uploads.is_due(part.number, now) || !self.shard.log.is_leader() {
                continue;
            }
            match self.publish(&mut part).await {
                Ok(Outcome::Published) => {}
                Ok(Outcome::Deleted) => tracing::info!(shard, part = part.number, "all of a part is deleted"),
                Ok(Outcome::LetGo(why)) => {
                    self.context.metrics.parts_let_go.with_label_values(&[why]).inc();
                    tracing::warn!(
                        shard,
                        part = part.number,
                        window_start_ms = part.window.start.0,
                        bytes = part.bytes,
                        "retention by {why} has no place for this part: it is let go without an upload"
                    );
                }
                Err(UploadError::NoRoom) => {
                    tracing::debug!(shard, part = part.number, "waiting for room below the retention size");
                }
                Err(error) => {
                    if matches!(&error, UploadError::Block(e) if e.is_over_reservation()) {
                        self.uploads.widen(part.number);
                    }
                    self.context.metrics.upload_failures.inc();
                    self.uploads.failed(part.number, now, self.context.options.retry_after);
                    tracing::warn!(shard, part = part.number, %error, "part not published, it will be tried again");
                }
            }
        }
    }

    /// Sees to it that the part is in the catalogue, and tells the shard.
    async fn publish(&self, part: &mut Waiting) -> Result<Outcome, UploadError> {
        let meta = &self.context.meta;
        let mut state = meta.read().await?;
        let mut outcome = Outcome::Published;
        if !is_covered(&state, self.shard.id(), part) {
            part.extras = self.extras(part).await?;
            let part = &*part;
            if let Some(why) = self.let_go_by(&state, part) {
                outcome = Outcome::LetGo(why);
            } else {
                // Or blocks would make room for what cannot be uploaded.
                if let Some(claim) = &self.context.claim {
                    claim.may_write().await?;
                }
                state = self.clear_leftovers(state, part).await?;
                self.make_room(&state, part).await?;
                if !self.upload(&state, part).await? {
                    outcome = Outcome::Deleted;
                }
                state = meta.read().await?;
                if matches!(outcome, Outcome::Published) && !is_covered(&state, self.shard.id(), part) {
                    return Err(UploadError::Refused(
                        "its block is not in the catalogue any more".into(),
                    ));
                }
            }
        }
        // A view from here on knows that the part is in a block, or is gone.
        let published = Command::Published {
            part: part.number,
            catalogue_revision: state.catalogue_revision,
        };
        self.shard.propose(published).await?;
        Ok(outcome)
    }

    /// Why a block of the part would be let go as soon as it is there.
    fn let_go_by(&self, state: &MetaState, part: &Waiting) -> Option<&'static str> {
        let now_ms = self.context.clock.now().0;
        let time_ms = self.context.budget.retention().time_ms;
        if time_ms.is_some_and(|time_ms| part.max_ms < now_ms.saturating_sub(time_ms)) {
            return Some("time");
        }
        let room = self.room(state, part)?;
        (room == Room::Never).then_some("size")
    }

    fn reservation(&self, part: &Waiting) -> u64 {
        part.reservation(self.uploads.widenings(part.number))
    }

    /// None where the size is not limited.
    fn room(&self, state: &MetaState, part: &Waiting) -> Option<Room> {
        let budget = self.context.budget.for_blocks(state)?;
        let needed = self.reservation(part);
        Some(room_for(&state.blocks, budget, needed, part.window.end.0))
    }

    /// Lets go the oldest blocks where there is no room: their bytes are gone once the compactor has deleted them.
    async fn make_room(&self, state: &MetaState, part: &Waiting) -> Result<(), UploadError> {
        match self.room(state, part) {
            None | Some(Room::Free) => Ok(()),
            Some(Room::After(ids)) => {
                if !ids.is_empty() {
                    let shard = self.shard.id().0;
                    tracing::info!(shard, part = part.number, blocks = ?ids, "the oldest blocks make room for a part");
                    self.condemn(ids, false).await?;
                }
                Err(UploadError::NoRoom)
            }
            Some(Room::Never) => Err(UploadError::NoRoom),
        }
    }

    /// Blocks of attempts that did not come to their end, this leader's or those of one before it: they are condemned,
    /// deleted and forgotten before anything else is reserved for the part, so that failed attempts do not add up.
    async fn clear_leftovers(&self, state: Arc<MetaState>, part: &Waiting) -> Result<Arc<MetaState>, UploadError> {
        // A merge's output has inputs, and whoever merges looks after it.
        let is_left = |b: &&BlockRecord| b.inputs.is_empty() && (b.state() == State::Staged || was_never_live(b));
        let ids = |state: &MetaState| -> Vec<(String, String)> {
            let left = covering(state, self.shard.id(), part).filter(is_left);
            left.map(|b| (b.id.clone(), b.path.clone())).collect()
        };
        let left = ids(&state);
        if left.is_empty() {
            return Ok(state);
        }
        tracing::info!(shard = self.shard.id().0, part = part.number, blocks = ?left, "unfinished uploads given up");
        // One that another leader published meanwhile stays live.
        self.condemn(left.into_iter().map(|(id, _)| id).collect(), true).await?;
        let state = self.context.meta.read().await?;
        if is_covered(&state, self.shard.id(), part) {
            return Err(UploadError::Refused("another leader published it just now".into()));
        }
        let mut gone = Vec::new();
        for (id, path) in ids(&state) {
            delete_object(self.context.bucket.as_ref(), &Path::from(path.as_str()))
                .await
                .map_err(|source| BlockError::Store {
                    path: Path::from(path.as_str()),
                    source,
                })?;
            gone.push(id);
        }
        self.change(MetaChange::ForgetBlocks(ForgetBlocks { ids: gone }))
            .await?;
        Ok(self.context.meta.read().await?)
    }

    async fn condemn(&self, ids: Vec<String>, only_staged: bool) -> Result<(), UploadError> {
        self.change(MetaChange::CondemnBlocks(CondemnBlocks { ids, only_staged }))
            .await
    }

    async fn change(&self, change: MetaChange) -> Result<(), UploadError> {
        let command = MetaCommand {
            command: Some(change),
            ..MetaCommand::default()
        };
        let response = self.context.meta.propose(command).await?;
        if response.refused.is_empty() {
            Ok(())
        } else {
            Err(UploadError::Refused(response.refused))
        }
    }

    /// False where nothing of the part is left.
    async fn upload(&self, state: &MetaState, part: &Waiting) -> Result<bool, UploadError> {
        let block = BlockId(rand::random());
        let shard = self.shard.id();
        let path = block_path(&part.tenant, shard, part.window.start, block);
        let mut record = BlockRecord {
            id: block.to_string(),
            tenant: part.tenant.to_string(),
            shard: shard.0,
            start_ms: part.window.start.0,
            end_ms: part.window.end.0,
            bytes: self.reservation(part),
            parts: vec![part.number],
            path: path.to_string(),
            tombstone_revision: part.tombstone_revision,
            ..BlockRecord::default()
        };
        let staged = StageBlock {
            block: Some(record.clone()),
            cap_bytes: self.context.budget.for_blocks(state).unwrap_or(0),
        };
        self.change(MetaChange::StageBlock(staged)).await?;
        let meta = block_meta(state, block, shard, part)?;
        let sink = UploadSink::within(self.context.bucket.clone(), path, record.bytes)
            .in_parts_of(self.context.options.part_bytes);
        let writer = BlockWriter::new(meta, sink);
        let finished = self.write(writer, part).await?;
        record.bytes = finished.bytes;
        let stats = finished.meta.stats;
        if stats.samples == 0 {
            self.condemn(vec![record.id], true).await?;
            return Ok(false);
        }
        (record.series, record.samples) = (stats.series, stats.samples);
        record.min_sample_ms = stats.min_sample.0;
        record.max_sample_ms = stats.max_sample.0;
        let publish = PublishBlock { block: Some(record) };
        self.change(MetaChange::PublishBlock(publish)).await?;
        self.context.metrics.parts_uploaded.inc();
        self.context.metrics.bytes_uploaded.inc_by(finished.bytes);
        tracing::info!(
            shard = shard.0,
            part = part.number,
            block = %block,
            series = stats.series,
            samples = stats.samples,
            bytes = finished.bytes,
            "part published"
        );
        Ok(true)
    }

    async fn write(
        &self,
        mut writer: BlockWriter<UploadSink>,
        part: &Waiting,
    ) -> Result<gnomon_tsdb::FinishedBlock<()>, UploadError> {
        if let Err(error) = self.write_series(&mut writer, part).await {
            writer.abort().await;
            return Err(error);
        }
        Ok(writer.finish().await?)
    }

    async fn write_series(&self, writer: &mut BlockWriter<UploadSink>, part: &Waiting) -> Result<(), UploadError> {
        let series = members(&self.shard, part).ok_or(UploadError::Dropped)?;
        let mut rest = series.into_iter().peekable();
        while rest.peek().is_some() {
            let some: Vec<_> = rest.by_ref().take(READ_SERIES).collect();
            let shard = self.shard.clone();
            let (tenant_number, number) = (part.tenant_number, part.number);
            let read = blocking(move || read_pages(&shard, tenant_number, number, some));
            let read = read.await.map_err(|e| ServiceError::Internal(e.to_string()))??;
            for (labels, pages) in read {
                let labels = LabelsRef::from_canonical(&labels);
                let left = deletes::remove(pages, &part.deletes.of(labels));
                let left = left.map_err(|e| ServiceError::Internal(e.to_string()))?;
                if !left.is_empty() {
                    writer.add_series(labels, left).await?;
                }
            }
        }
        self.write_extras(writer, part)?;
        // The keys of a part go after it is dropped: what was read is whole if it is still there.
        let there = |h: &Head| h.sealed.contains_key(&part.number);
        let there = self
            .shard
            .machine
            .read(|state| state.head(&part.tenant).is_some_and(there));
        if there { Ok(()) } else { Err(UploadError::Dropped) }
    }
}

type LabelBytes = Vec<u8>;

fn read_pages(
    shard: &Shard,
    tenant_number: u32,
    part: u64,
    series: Vec<(LabelBytes, SeriesRef)>,
) -> Result<Vec<(LabelBytes, Vec<Page>)>, ServiceError> {
    let reader = shard.machine.reader();
    let reader = reader.ok_or_else(|| ServiceError::Unavailable("the shard is starting".into()))?;
    let read = |(labels, reference)| {
        let pages = stored_pages(&reader, tenant_number, part, reference)?;
        // The head's pages are shorter than those of blocks.
        let pages = merge_pages(vec![pages]).map_err(|e| ServiceError::Internal(e.to_string()))?;
        Ok((labels, pages))
    };
    series.into_iter().map(read).collect()
}

/// Durable parts, oldest first.
fn waiting(shard: &Shard) -> Vec<Waiting> {
    shard.machine.read(|state| {
        let mut all: Vec<_> = state
            .tenants
            .iter()
            .flat_map(|(tenant, there)| {
                let durable = there.head.sealed.values().filter(|p| p.pages.is_none());
                durable.map(|p| Waiting {
                    tenant: tenant.clone(),
                    tenant_number: there.number,
                    number: p.number,
                    window: p.window,
                    max_ms: p.max_ms,
                    bytes: p.bytes,
                    series: p.members.len(),
                    deletes: there.head.deletes_of(p),
                    tombstone_revision: state.counters.tombstone_revision,
                    extras: Extras::default(),
                })
            })
            .collect();
        all.sort_unstable_by_key(|w| w.number);
        all
    })
}

/// The series of a part, ascending by labels; none where it was dropped.
fn members(shard: &Arc<Shard>, part: &Waiting) -> Option<Vec<(LabelBytes, SeriesRef)>> {
    let mut series = shard.machine.read(|state| {
        let head = state.head(&part.tenant)?;
        let members = &head.sealed.get(&part.number)?.members;
        let one = |ordinal| {
            let mut labels = Vec::new();
            head.write_labels(ordinal, &mut labels);
            Some((labels, head.series(ordinal)?.reference))
        };
        Some(members.iter().filter_map(one).collect::<Vec<_>>())
    })?;
    series.sort_unstable_by(|a, b| LabelsRef::from_canonical(&a.0).cmp(&LabelsRef::from_canonical(&b.0)));
    Some(series)
}

/// Blocks that name the part.
fn covering<'s>(state: &'s MetaState, shard: ShardId, part: &Waiting) -> impl Iterator<Item = &'s BlockRecord> {
    let (tenant, number) = (part.tenant.to_string(), part.number);
    state
        .blocks
        .iter()
        .filter(move |b| b.shard == shard.0 && b.tenant == tenant && b.parts.contains(&number))
}

/// Whether the part was published: its block is live, or was and has gone since.
fn is_covered(state: &MetaState, shard: ShardId, part: &Waiting) -> bool {
    covering(state, shard, part).any(|b| match b.state() {
        State::Live => true,
        State::Condemned => !was_never_live(b),
        State::Staged | State::Unspecified => false,
    })
}

/// Publication says how many samples there are; a part has some.
fn was_never_live(block: &BlockRecord) -> bool {
    block.state() == State::Condemned && block.samples == 0
}

fn block_meta(state: &MetaState, block: BlockId, shard: ShardId, part: &Waiting) -> Result<BlockMeta, UploadError> {
    let epoch = state.epochs.iter().rfind(|e| e.from_ms <= part.window.start.0);
    Ok(BlockMeta {
        format_version: 0,
        feature_level: FeatureLevel(state.feature_level.clamp(1, CURRENT_FEATURE_LEVEL.0)),
        block,
        cluster: state.cluster_id.parse().map_err(|_| UploadError::NoCluster)?,
        tenant: part.tenant.clone(),
        shard,
        epoch: PlacementEpoch(epoch.map_or(1, |e| e.epoch)),
        window: part.window,
        level: 0,
        parts: vec![PartId {
            shard,
            number: part.number,
        }],
        tombstone_revision: part.tombstone_revision,
        stats: BlockStats::default(),
    })
}
