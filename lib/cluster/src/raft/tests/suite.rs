//! The library's own suite for log stores and state machines.

use super::*;
use crate::raft::log::GroupLog;
use crate::raft::metrics::HostMetrics;
use crate::raft::state::{Machine, MachineAdapter};
use crate::raft::types::TypeConfig;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

struct OnDisk;
struct InMemory;

async fn build(store: Arc<NodeStore>) -> (GroupLog, MachineAdapter) {
    let metrics = HostMetrics::new(&Registry::new()).unwrap().group(GROUP);
    let log = GroupLog::open(store.clone(), GROUP).unwrap();
    let machine = Machine::new(
        GROUP,
        store,
        Arc::new(Kv::default()),
        1 << 20,
        metrics,
        SystemClock::shared(),
    );
    let adapter = machine.begin().await.unwrap();
    (log, adapter)
}

impl StoreBuilder<TypeConfig, GroupLog, MachineAdapter, tempfile::TempDir> for OnDisk {
    async fn build(&self) -> Result<(tempfile::TempDir, GroupLog, MachineAdapter), StorageError<TypeConfig>> {
        let folder = tempfile::tempdir().unwrap();
        let (log, adapter) = build(on_disk(folder.path())).await;
        Ok((folder, log, adapter))
    }
}

impl StoreBuilder<TypeConfig, GroupLog, MachineAdapter, ()> for InMemory {
    async fn build(&self) -> Result<((), GroupLog, MachineAdapter), StorageError<TypeConfig>> {
        let (log, adapter) = build(in_memory(Arc::default())).await;
        Ok(((), log, adapter))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_librarys_suite_passes_on_disk() {
    Suite::test_all(OnDisk).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_librarys_suite_passes_in_memory() {
    Suite::test_all(InMemory).await.unwrap();
}
