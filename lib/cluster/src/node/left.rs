//! What is left of a cluster on one node, while nothing of it runs: the data folder, opened by a tool.

use super::identity::{IdentityFile, NodeIdentity};
use super::{NodeError, store_folder};
use crate::raft::{LeftGroup, left_groups, make_only_voter};
use crate::store::{NodeStore, StoreOptions};
use gnomon_model::Clock;
use std::path::Path;
use std::sync::Arc;

/// An ingester's data folder that no process uses. Blocks.
pub struct LeftNode {
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
        let identity = IdentityFile::of(data_folder).read()?;
        let identity = identity.ok_or_else(|| folder("it is no node's data folder: node.json is not there"))?;
        let path = store_folder(data_folder);
        if !path.is_dir() {
            return Err(folder("it has no replicas: the folder store is not there"));
        }
        let store = NodeStore::open(&path, StoreOptions::default(), clock, &prometheus::Registry::new())?;
        Ok(Self { identity, store })
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
