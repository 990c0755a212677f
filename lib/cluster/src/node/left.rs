//! What is left of a cluster on one node, while nothing of it runs: the data folder, opened by a tool.

use super::identity::{ClusterMark, IdentityFile, NodeIdentity, read_mark, replace_mark};
use super::{NodeError, store_folder};
use crate::raft::{LeftGroup, left_groups, make_only_voter};
use crate::store::{NodeStore, StoreError, StoreOptions};
use gnomon_model::Clock;
use object_store::ObjectStore;
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

/// Whether no process has the store of a data folder open: by the lock that the engine holds. A folder without a store
/// has none.
///
/// # Errors
/// When a process has it open, or that cannot be told.
pub fn check_unused(data_folder: &Path) -> Result<(), NodeError> {
    let store = store_folder(data_folder).join("rocksdb");
    let lock = store.join("LOCK");
    let error = |why: String| NodeError::Folder {
        path: lock.display().to_string(),
        why,
    };
    let file = match File::options().read(true).write(true).open(&lock) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(error(cause.to_string())),
    };
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(Errno::AGAIN | Errno::ACCESS) => {
            let path = store.display().to_string();
            Err(StoreError::InUse { path }.into())
        }
        Err(cause) => Err(error(cause.to_string())),
    }
}

/// An ingester's data folder that no process uses. Blocks.
pub struct LeftNode {
    file: IdentityFile,
    identity: NodeIdentity,
    store: Arc<NodeStore>,
}

impl LeftNode {
    /// # Errors
    /// When the folder is not that of an ingester, or a process uses it.
    pub fn open(data_folder: &Path, clock: Arc<dyn Clock>) -> Result<Self, NodeError> {
        let folder = |why: &str| NodeError::Folder {
            path: data_folder.display().to_string(),
            why: why.to_owned(),
        };
        let file = IdentityFile::of(data_folder);
        let identity = file.read()?;
        let identity = identity.ok_or_else(|| folder("it is no node's data folder: node.json is not there"))?;
        let path = store_folder(data_folder);
        if !path.is_dir() {
            return Err(folder("it has no replicas: the folder store is not there"));
        }
        let store = NodeStore::open(&path, StoreOptions::default(), clock, &prometheus::Registry::new())?;
        Ok(Self { file, identity, store })
    }

    #[must_use]
    pub const fn identity(&self) -> &NodeIdentity {
        &self.identity
    }

    /// Ascending; the metadata group is the first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn groups(&self) -> Result<Vec<LeftGroup>, NodeError> {
        Ok(left_groups(&self.store, self.identity.node_id)?)
    }

    /// Begins a new generation of the cluster in its bucket, of which this node is: an ingester of an earlier one is refused
    /// when it starts. To be done before [`Self::make_only_voter`], and again where that was not reached.
    ///
    /// # Errors
    /// When the bucket does not answer, is another cluster's, or has no mark; or the folder cannot be written.
    pub async fn leave_others_behind(&mut self, bucket: &dyn ObjectStore) -> Result<u64, NodeError> {
        let mark = read_mark(bucket).await?;
        let ours = self.identity.cluster_id;
        let mark = mark.filter(|mark| mark.cluster_id == ours);
        let mark =
            mark.ok_or_else(|| NodeError::Bucket(format!("it is not that of cluster {ours}: name the cluster's own")))?;
        let generation = mark.generation.max(self.identity.generation) + 1;
        replace_mark(bucket, &ClusterMark { generation, ..mark }).await?;
        self.identity.generation = generation;
        self.file.write(&self.identity)?;
        Ok(generation)
    }

    /// Makes this node the only voter of all groups that can be recovered by it.
    ///
    /// # Errors
    /// When the store cannot be read or written: then nothing has changed.
    pub fn make_only_voter(&self) -> Result<(), NodeError> {
        let groups = self.groups()?;
        Ok(make_only_voter(&self.store, self.identity.node_id, &groups)?)
    }

    /// What was written is there when this returns, and the folder is free.
    pub async fn close(self) {
        self.store.close().await;
    }
}
