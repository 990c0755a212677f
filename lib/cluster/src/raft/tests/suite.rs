//! The library's own suite for log stores and state machines.

use super::*;
use crate::raft::codec;
use crate::raft::log::GroupLog;
use crate::raft::metrics::HostMetrics;
use crate::raft::state::{Machine, MachineAdapter};
use crate::raft::types::{Entry, LogId, TypeConfig, Vote};
use crate::store::{Space, Submission, Write};
use futures::StreamExt;
use openraft::StorageError;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
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

/// Entries go to a follower that has what is before them: later ones in place of what was purged would leave it with a hole.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_purged_is_not_skipped() {
    let id = LogId::new_term_index;
    let (mut log, _) = build(in_memory(Arc::default())).await;
    let entries = (0..20).map(|index| Entry::new_blank(id(1, index)));
    log.append(entries, IOFlushed::noop()).await.unwrap();
    log.purge(id(1, 9)).await.unwrap();
    let indexes = |entries: Vec<Entry>| entries.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>();

    let late = log.limited_get_log_entries(5, 20).await.unwrap();
    assert_eq!(indexes(late), Vec::<u64>::new());
    let there = log.limited_get_log_entries(10, 15).await.unwrap();
    assert_eq!(indexes(there), (10..15).collect::<Vec<_>>());
    let applied: Vec<_> = log.entries_stream(5..20).await.collect().await;
    assert!(matches!(applied.as_slice(), [Err(_)]), "{applied:?}");
    assert_eq!(
        indexes(log.try_get_log_entries(5..20).await.unwrap()),
        (10..20).collect::<Vec<_>>()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_missing_is_named() {
    for missing in [10, 12] {
        let store = in_memory(Arc::default());
        let (mut log, _) = build(store.clone()).await;
        let entries = (0..20).map(|index| Entry::new_blank(LogId::new_term_index(1, index)));
        log.append(entries, IOFlushed::noop()).await.unwrap();
        let (sender, written) = tokio::sync::oneshot::channel();
        let lose = Submission {
            writes: vec![Write::Delete(Space::Log, codec::log_key(GROUP, missing))],
            sync: true,
            done: Box::new(move |result| drop(sender.send(result))),
        };
        store.submit(lose).await;
        written.await.unwrap().unwrap();
        // Opened anew it keeps nothing in memory.
        let mut anew = GroupLog::open(store, GROUP).unwrap();
        let error = anew.limited_get_log_entries(10, 20).await.unwrap_err().to_string();
        assert!(error.contains(&format!("where entry {missing} is expected")), "{error}");
    }
}

/// What still holds the log of a replica that has been closed writes nothing more: not where it is removed, nor where it is
/// opened again.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_through_a_sealed_log() {
    let store = in_memory(Arc::default());
    let (mut log, _) = build(store.clone()).await;
    let entry = |index| Entry::new_blank(LogId::new_term_index(1, index));
    log.append([entry(0), entry(1)], IOFlushed::noop()).await.unwrap();
    log.seal();
    log.append([entry(2)], IOFlushed::noop()).await.unwrap();
    assert!(log.save_vote(&Vote::new(7, 1)).await.is_err());
    assert!(log.truncate_after(None).await.is_err());
    let (sender, written) = tokio::sync::oneshot::channel();
    let behind_them = Submission {
        writes: Vec::new(),
        sync: true,
        done: Box::new(move |result| drop(sender.send(result))),
    };
    store.submit(behind_them).await;
    written.await.unwrap().unwrap();

    let (log, _) = build(store).await;
    assert_eq!(log.bounds(), (0, Some(1)));
}
