//! Copies of the catalogue in the bucket, from which a cluster whose metadata group is lost can be rebuilt.
//!
//! ```text
//! catalogue/checkpoint-<catalogue revision, 20 digits>
//!
//! +--------------+-----------------+-----------------------+----------------------------+
//! | "GNMCKPT1" 8 | length: u64le 8 | MetaState (protobuf)  | XXH3-64 of it: u64le 8     |
//! +--------------+-----------------+-----------------------+----------------------------+
//! ```

use bytes::Bytes;
use futures::TryStreamExt;
use gnomon_proto::v1::MetaState;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: &[u8; 8] = b"GNMCKPT1";
const FOLDER: &str = "catalogue";
const KEPT: usize = 3;

#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    #[error("bucket: {0}")]
    Bucket(#[from] object_store::Error),
    #[error("{path} is not a catalogue checkpoint: {why}")]
    Bad { path: String, why: String },
}

fn path_of(catalogue_revision: u64) -> Path {
    Path::from(format!("{FOLDER}/checkpoint-{catalogue_revision:020}"))
}

fn encode(state: &MetaState) -> Bytes {
    let body = state.encode_to_vec();
    let mut out = Vec::with_capacity(body.len() + 24);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&(body.len() as u64).to_le_bytes());
    out.extend_from_slice(&body);
    out.extend_from_slice(&xxh3_64(&body).to_le_bytes());
    out.into()
}

fn decode(bytes: &[u8]) -> Result<MetaState, String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("it does not begin as one")?;
    let (length, rest) = rest.split_first_chunk::<8>().ok_or("it is cut short")?;
    let (body, sum) = usize::try_from(u64::from_le_bytes(*length))
        .ok()
        .and_then(|length| rest.split_at_checked(length))
        .ok_or("it is cut short")?;
    if sum != xxh3_64(body).to_le_bytes() {
        return Err("its checksum is wrong".into());
    }
    MetaState::decode(body).map_err(|e| e.to_string())
}

/// Writes a checkpoint and removes all but the newest three.
///
/// # Errors
/// When the bucket refuses. Writing the same revision again is harmless.
pub async fn write_checkpoint(bucket: &dyn ObjectStore, state: &MetaState) -> Result<(), CheckpointError> {
    let written = path_of(state.catalogue_revision);
    bucket.put(&written, encode(state).into()).await?;
    let mut all = checkpoints(bucket).await?;
    all.truncate(all.len().saturating_sub(KEPT));
    for old in all.into_iter().filter(|old| *old != written) {
        match bucket.delete(&old).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Ascending by revision.
async fn checkpoints(bucket: &dyn ObjectStore) -> Result<Vec<Path>, CheckpointError> {
    let folder = Path::from(FOLDER);
    let found: Vec<_> = bucket
        .list(Some(&folder))
        .map_ok(|meta| meta.location)
        .try_collect()
        .await?;
    let is_one = |path: &Path| path.filename().is_some_and(|name| name.starts_with("checkpoint-"));
    let mut all: Vec<Path> = found.into_iter().filter(is_one).collect();
    all.sort();
    Ok(all)
}

/// The newest checkpoint that can be read; none where there is none at all.
///
/// # Errors
/// When the bucket does not answer, or the newest one is damaged and no older one is whole.
pub async fn read_newest_checkpoint(bucket: &dyn ObjectStore) -> Result<Option<MetaState>, CheckpointError> {
    let mut first_error = None;
    for path in checkpoints(bucket).await?.into_iter().rev() {
        let bytes = bucket.get(&path).await?.bytes().await?;
        match decode(&bytes) {
            Ok(state) => return Ok(Some(state)),
            Err(why) => {
                tracing::warn!(%path, why, "skipping a damaged catalogue checkpoint");
                let path = path.to_string();
                first_error.get_or_insert(CheckpointError::Bad { path, why });
            }
        }
    }
    first_error.map_or(Ok(None), Err)
}

/// Writes a checkpoint whenever the catalogue has changed, `pause` apart at least, while `leads` says so. A bucket that
/// does not answer does not hold up the end.
pub async fn keep_checkpoints(
    bucket: Arc<dyn ObjectStore>,
    states: watch::Receiver<Arc<MetaState>>,
    leads: impl Fn() -> bool + Send,
    pause: Duration,
    stop: CancellationToken,
) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = follow(bucket.as_ref(), states, leads, pause) => {}
    }
}

/// Whether a state is to be written. A cluster that is not founded yet may be about to take over a catalogue, of which
/// what it has so far must not be taken for the newest.
fn is_due(state: &MetaState, written: u64) -> bool {
    state.catalogue_revision > written && !state.epochs.is_empty()
}

/// Removes the checkpoints whose revisions are greater: they are of a catalogue that another has replaced.
///
/// # Errors
/// When the bucket refuses.
pub async fn remove_newer_checkpoints(bucket: &dyn ObjectStore, revision: u64) -> Result<(), CheckpointError> {
    let newest = path_of(revision);
    for path in checkpoints(bucket).await?.into_iter().filter(|path| *path > newest) {
        match bucket.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Until the states end.
async fn follow(
    bucket: &dyn ObjectStore,
    mut states: watch::Receiver<Arc<MetaState>>,
    leads: impl Fn() -> bool,
    pause: Duration,
) {
    let mut written = 0;
    loop {
        let state = states.borrow_and_update().clone();
        if is_due(&state, written) && leads() {
            match write_checkpoint(bucket, &state).await {
                Ok(()) => written = state.catalogue_revision,
                Err(error) => tracing::warn!(%error, "cannot write a catalogue checkpoint; trying again"),
            }
        }
        tokio::time::sleep(pause).await;
        // What changed meanwhile, or could not be written, is looked at now; else with the next change. A node that
        // begins to lead renews its lease, which is one.
        let is_behind = is_due(&states.borrow(), written) && leads();
        if !is_behind && states.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_proto::v1::PlacementEpoch;
    use object_store::memory::InMemory;

    fn state(revision: u64) -> MetaState {
        MetaState {
            catalogue_revision: revision,
            cluster_id: "c".into(),
            epochs: vec![PlacementEpoch::default()],
            ..MetaState::default()
        }
    }

    #[tokio::test]
    async fn three_are_kept_and_a_damaged_one_is_passed_over() {
        let bucket = InMemory::new();
        assert!(read_newest_checkpoint(&bucket).await.unwrap().is_none());
        for revision in [1, 2, 9, 10, 100] {
            write_checkpoint(&bucket, &state(revision)).await.unwrap();
        }
        let names = checkpoints(&bucket).await.unwrap();
        assert_eq!(names, [9, 10, 100].map(path_of));
        assert_eq!(read_newest_checkpoint(&bucket).await.unwrap(), Some(state(100)));
        let mut damaged = encode(&state(100)).to_vec();
        let at = damaged.len() / 2;
        damaged[at] ^= 1;
        bucket.put(&path_of(100), damaged.into()).await.unwrap();
        assert_eq!(read_newest_checkpoint(&bucket).await.unwrap(), Some(state(10)));
        for revision in [9, 10] {
            bucket
                .put(&path_of(revision), Bytes::from_static(b"GNMCKPT1").into())
                .await
                .unwrap();
        }
        assert!(matches!(
            read_newest_checkpoint(&bucket).await,
            Err(CheckpointError::Bad { .. })
        ));
    }

    #[tokio::test]
    async fn what_was_just_written_stays_and_a_replaced_catalogue_goes() {
        let bucket = InMemory::new();
        for revision in [98, 99, 100, 1] {
            write_checkpoint(&bucket, &state(revision)).await.unwrap();
        }
        assert_eq!(checkpoints(&bucket).await.unwrap(), [1, 98, 99, 100].map(path_of));
        remove_newer_checkpoints(&bucket, 1).await.unwrap();
        assert_eq!(read_newest_checkpoint(&bucket).await.unwrap(), Some(state(1)));
    }

    #[test]
    fn a_catalogue_that_is_being_taken_over_is_not_copied() {
        let mut founding = state(7);
        assert!(is_due(&founding, 6) && !is_due(&founding, 7));
        founding.epochs.clear();
        assert!(!is_due(&founding, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_follows_the_catalogue() {
        let bucket = Arc::new(InMemory::new());
        let (states, watch) = watch::channel(Arc::new(state(1)));
        let stop = CancellationToken::new();
        let task = tokio::spawn(keep_checkpoints(
            bucket.clone(),
            watch,
            || true,
            Duration::from_secs(1),
            stop.clone(),
        ));
        for revision in [2, 5] {
            states.send_replace(Arc::new(state(revision)));
            let written = async {
                while read_newest_checkpoint(bucket.as_ref()).await.unwrap() != Some(state(revision)) {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), written).await.unwrap();
        }
        stop.cancel();
        task.await.unwrap();
    }
}
