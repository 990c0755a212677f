//! Who this node is: kept in its data folder, and the cluster's mark in the bucket.
//!
//! `node.json` is written before the bucket's mark and says so (`founding`), so that a crash between the two leaves a
//! founder that goes on, not a cluster that nobody may start.

use super::{NodeError, store_folder};
use crate::store::give_up_ballast;
use gnomon_model::{ClusterId, NodeId};
use gnomon_tsdb::bucket::{self, Created};
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

const FILE: &str = "node.json";
const MARK: &str = "cluster.json";

/// What the data folder says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeIdentity {
    pub cluster_id: ClusterId,
    pub node_id: NodeId,
    /// Grows with each start of the node.
    pub incarnation: u64,
    /// The cluster's mark may not be in the bucket yet.
    #[serde(default)]
    pub founding: bool,
    /// How often the cluster had been recovered by one of its nodes, as far as this one knows. A build that knows nothing of
    /// it refuses the file then.
    #[serde(default, skip_serializing_if = "is_first")]
    pub generation: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
const fn is_first(generation: &u64) -> bool {
    *generation == 0
}

/// What the bucket says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMark {
    pub format: u32,
    pub cluster_id: ClusterId,
    pub created_ms: i64,
    /// Grows each time that the cluster is recovered by one of its nodes: ingesters of an earlier one were left behind.
    #[serde(default)]
    pub generation: u64,
}

/// The identity file of a data folder.
pub(super) struct IdentityFile {
    path: PathBuf,
}

impl IdentityFile {
    pub(super) fn of(data_folder: &Path) -> Self {
        Self {
            path: data_folder.join(FILE),
        }
    }

    fn error(&self, what: impl std::fmt::Display) -> NodeError {
        NodeError::Folder {
            path: self.path.display().to_string(),
            why: what.to_string(),
        }
    }

    /// None where the folder is new.
    pub(super) fn read(&self) -> Result<Option<NodeIdentity>, NodeError> {
        match fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| self.error(e)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.error(error)),
        }
    }

    /// Replaces the file in one step; it is durable when this returns. On a full disk the store's ballast
    /// makes room: the store cannot recover before the node is told who it is.
    pub(super) fn write(&self, identity: &NodeIdentity) -> Result<(), NodeError> {
        let mut written = self.replace(identity);
        if written.as_ref().is_err_and(|e| e.kind() == ErrorKind::StorageFull)
            && let Some(data_folder) = self.path.parent()
            && give_up_ballast(&store_folder(data_folder)).is_ok()
        {
            tracing::warn!(folder = %data_folder.display(), "disk full at the start: the ballast file was given up");
            written = self.replace(identity);
        }
        written.map_err(|e| self.error(e))
    }

    fn replace(&self, identity: &NodeIdentity) -> std::io::Result<()> {
        let folder = self.path.parent().unwrap_or(Path::new("."));
        fs::create_dir_all(folder)?;
        let new = self.path.with_extension("json.new");
        let mut file = File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(identity)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        File::open(folder)?.sync_all()
    }

    pub(super) fn remove(&self) -> Result<(), NodeError> {
        fs::remove_file(&self.path).map_err(|e| self.error(e))
    }
}

fn bucket_error(error: &object_store::Error) -> NodeError {
    NodeError::Bucket(error.to_string())
}

/// The mark in the bucket; none where no cluster was begun in it.
pub(super) async fn read_mark(bucket: &dyn ObjectStore) -> Result<Option<ClusterMark>, NodeError> {
    let bytes = match bucket.get(&ObjectPath::from(MARK)).await {
        Ok(found) => found.bytes().await.map_err(|e| bucket_error(&e))?,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(bucket_error(&error)),
    };
    let mark = serde_json::from_slice(&bytes);
    mark.map(Some)
        .map_err(|e| NodeError::Bucket(format!("{MARK} is not a cluster's mark: {e}")))
}

/// Puts the mark if there is none; gives the one that is there.
pub(super) async fn put_mark(store: &dyn ObjectStore, mark: &ClusterMark) -> Result<ClusterMark, NodeError> {
    let bytes = serde_json::to_vec_pretty(mark).map_err(|e| NodeError::Bucket(e.to_string()))?;
    match bucket::create(store, &ObjectPath::from(MARK), bytes.into()).await {
        Ok(Created::New) => Ok(mark.clone()),
        Ok(Created::Existing(_)) => {
            let there = read_mark(store).await?;
            there.ok_or_else(|| NodeError::Bucket(format!("{MARK} comes and goes")))
        }
        Err(error) => Err(bucket_error(&error)),
    }
}

/// Puts a mark in the place of the one that is there.
pub(super) async fn replace_mark(store: &dyn ObjectStore, mark: &ClusterMark) -> Result<(), NodeError> {
    let bytes = serde_json::to_vec_pretty(mark).map_err(|e| NodeError::Bucket(e.to_string()))?;
    let put = store.put(&ObjectPath::from(MARK), bytes.into()).await;
    put.map(drop).map_err(|error| bucket_error(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    #[test]
    fn the_identity_survives_and_damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = IdentityFile::of(&folder.path().join("new"));
        assert_eq!(file.read().unwrap(), None);
        let identity = NodeIdentity {
            cluster_id: ClusterId(7),
            node_id: NodeId(3),
            incarnation: 9,
            founding: true,
            generation: 0,
        };
        file.write(&identity).unwrap();
        assert!(!fs::read_to_string(&file.path).unwrap().contains("generation"));
        let recovered = NodeIdentity {
            generation: 2,
            ..identity.clone()
        };
        file.write(&recovered).unwrap();
        assert_eq!(file.read().unwrap(), Some(recovered));
        file.write(&identity).unwrap();
        assert_eq!(file.read().unwrap(), Some(identity));
        fs::write(&file.path, b"{").unwrap();
        let error = file.read().unwrap_err().to_string();
        assert!(error.contains("node.json"), "{error}");
    }

    #[tokio::test]
    async fn the_first_mark_stays() {
        let bucket = InMemory::new();
        assert_eq!(read_mark(&bucket).await.unwrap(), None);
        let mark = |id| ClusterMark {
            format: 1,
            cluster_id: ClusterId(id),
            created_ms: 5,
            generation: 0,
        };
        assert_eq!(put_mark(&bucket, &mark(1)).await.unwrap(), mark(1));
        assert_eq!(put_mark(&bucket, &mark(2)).await.unwrap(), mark(1));
    }
}
