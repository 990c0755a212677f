//! Removing objects that nobody may read any more.
//!
//! Invariant: the bucket is listed before the catalogue is read. An object is uploaded only after its name was staged,
//! so one that was listed and has no record is garbage, whatever else goes on meanwhile.

use crate::CompactorError;
use crate::catalogue::Catalogue;
use futures::TryStreamExt;
use gnomon_cluster::deletes::forgettable;
use gnomon_model::TimestampMs;
use gnomon_proto::v1::block_record::State;
use gnomon_proto::v1::{BlockRecord, MetaState};
use gnomon_tsdb::Bucket;
use gnomon_tsdb::bucket::{BlockKey, delete_object, is_tombstone};
use gnomon_tsdb::deletes::{MAX_TOMBSTONE_BYTES, TombstoneObject};
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parking_lot::Mutex;
use std::collections::HashSet;
use tokio_util::sync::CancellationToken;

/// How long garbage is left alone, to save readers with an old view a second attempt. Safety does not rest on these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grace {
    /// For objects of condemned blocks, milliseconds.
    pub condemned_ms: i64,
    /// The same while the retention size is short of room: long enough for a query that has begun.
    pub pressed_ms: i64,
    /// For objects without a record, milliseconds since they were written.
    pub unnamed_ms: i64,
    /// For records of blocks that were staged and never published, milliseconds.
    pub staged_ms: i64,
}

impl Default for Grace {
    fn default() -> Self {
        Self {
            condemned_ms: 5 * 60_000,
            pressed_ms: 10_000,
            unnamed_ms: 60 * 60_000,
            staged_ms: 60 * 60_000,
        }
    }
}

/// The object of a block or of a delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) path: Path,
    pub(crate) written_ms: i64,
}

/// Objects by why they are deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Collected {
    pub(crate) condemned: u64,
    pub(crate) unnamed: u64,
}

/// Condemned long enough for their objects to go.
pub(crate) fn expired(state: &MetaState, grace: &Grace, now_ms: i64) -> Vec<BlockRecord> {
    let oldest = now_ms.saturating_sub(grace.condemned_ms);
    state
        .blocks
        .iter()
        .filter(|b| b.state() == State::Condemned && b.since_ms <= oldest)
        .cloned()
        .collect()
}

/// Listed objects that no record names.
pub(crate) fn unnamed(listed: &[Listed], state: &MetaState, grace: &Grace, now_ms: i64) -> Vec<Path> {
    let blocks = state.blocks.iter().map(|b| b.path.as_str());
    let deletes = state.tombstones.iter().map(|t| t.path.as_str());
    let named: HashSet<&str> = blocks.chain(deletes).collect();
    let oldest = now_ms.saturating_sub(grace.unnamed_ms);
    let garbage = |o: &&Listed| !named.contains(o.path.as_ref()) && o.written_ms <= oldest;
    listed.iter().filter(garbage).map(|o| o.path.clone()).collect()
}

/// Staged blocks whose maker is gone: a merge whose lease has ended, or anything that took too long.
pub(crate) fn abandoned(state: &MetaState, grace: &Grace, now_ms: i64) -> Vec<String> {
    let has_lease = |block: &BlockRecord| {
        let job = crate::merge::job_name(&block.tenant, block.shard, block.start_ms, block.end_ms);
        state
            .jobs
            .iter()
            .any(|lease| lease.job == job && lease.until_ms > now_ms)
    };
    let is_abandoned = |block: &&BlockRecord| {
        block.state() == State::Staged
            && (block.since_ms <= now_ms.saturating_sub(grace.staged_ms)
                || (!block.inputs.is_empty() && !has_lease(block)))
    };
    state.blocks.iter().filter(is_abandoned).map(|b| b.id.clone()).collect()
}

async fn list(bucket: &Bucket) -> Result<Vec<Listed>, CompactorError> {
    let objects = bucket.store().list(None).try_filter_map(|object| {
        // Other objects (checkpoints, the cluster marker) are not ours to judge.
        let is_ours = BlockKey::parse(&object.location).is_some() || is_tombstone(&object.location);
        let listed = is_ours.then(|| Listed {
            written_ms: object.last_modified.timestamp_millis(),
            path: object.location,
        });
        std::future::ready(Ok(listed))
    });
    Ok(objects.try_collect().await?)
}

/// Forgets deletes that mask nothing any more, and removes their objects; how many.
///
/// An object that is left because this ends half way has no record, and goes as such.
pub(crate) async fn forget_deletes(
    catalogue: &Catalogue,
    bucket: &Bucket,
    state: &MetaState,
) -> Result<usize, CompactorError> {
    let done = forgettable(state);
    if done.is_empty() {
        return Ok(0);
    }
    catalogue
        .forget_deletes(done.iter().map(|t| t.revision).collect())
        .await?;
    for tombstone in &done {
        delete_object(bucket.store().as_ref(), &Path::from(tombstone.path.as_str())).await?;
    }
    Ok(done.len())
}

/// Sees to it that the objects of deletes say their revisions: whoever deleted may have ended before it could. `named` has
/// the paths of those that are known to.
///
/// Without them a catalogue that is lost could not be made anew with deletes in the order in which blocks have carried
/// them out.
pub(crate) async fn name_deletes(
    bucket: &Bucket,
    state: &MetaState,
    named: &Mutex<HashSet<String>>,
) -> Result<(), CompactorError> {
    named
        .lock()
        .retain(|path| state.tombstones.iter().any(|t| t.path == *path));
    for tombstone in &state.tombstones {
        if named.lock().contains(&tombstone.path) {
            continue;
        }
        let path = Path::from(tombstone.path.as_str());
        let object = match bucket.store().get(&path).await {
            Ok(object) if object.meta.size <= MAX_TOMBSTONE_BYTES as u64 => object.bytes().await?,
            // `gnomon bucket check` tells of both.
            Ok(_) | Err(object_store::Error::NotFound { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        if let Ok(read) = TombstoneObject::decode(&object)
            && read.revision != Some(tombstone.revision)
        {
            let revision = Some(tombstone.revision);
            if let Ok(bytes) = (TombstoneObject { revision, ..read }).encode() {
                bucket.store().put(&path, bytes.into()).await?;
            }
        }
        named.lock().insert(tombstone.path.clone());
    }
    Ok(())
}

/// One pass: lists, reads, deletes, forgets.
pub(crate) async fn collect(
    catalogue: &Catalogue,
    bucket: &Bucket,
    grace: &Grace,
    now: TimestampMs,
    stop: &CancellationToken,
) -> Result<Collected, CompactorError> {
    let listed = list(bucket).await?;
    let state = catalogue.read().await?;
    // A catalogue that is not set up yet (or is lost and about to be rebuilt) names nothing: that proves nothing.
    if state.cluster_id.is_empty() {
        return Ok(Collected::default());
    }
    let mut collected = Collected::default();
    for path in unnamed(&listed, &state, grace, now.0) {
        if stop.is_cancelled() {
            return Err(CompactorError::Stopped);
        }
        tracing::info!(%path, "deleting an object that no block record names");
        delete_object(bucket.store().as_ref(), &path).await?;
        collected.unnamed += 1;
    }
    collected.condemned = collect_condemned(catalogue, bucket, &state, grace, now, stop).await?;
    Ok(collected)
}

/// Deletes objects of condemned blocks, then their records: in this order, so that records never say less than the
/// bucket holds.
pub(crate) async fn collect_condemned(
    catalogue: &Catalogue,
    bucket: &Bucket,
    state: &MetaState,
    grace: &Grace,
    now: TimestampMs,
    stop: &CancellationToken,
) -> Result<u64, CompactorError> {
    let mut gone = Vec::new();
    let mut outcome = Ok(());
    for block in expired(state, grace, now.0) {
        if stop.is_cancelled() {
            break;
        }
        outcome = delete_object(bucket.store().as_ref(), &Path::from(block.path.as_str())).await;
        if outcome.is_err() {
            break;
        }
        gone.push(block.id);
    }
    if !gone.is_empty() {
        catalogue.forget(&gone).await?;
    }
    outcome?;
    Ok(gone.len() as u64)
}
