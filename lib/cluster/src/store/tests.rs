//! One suite for every engine, then what only disks or only memory can show.

use super::*;
use gnomon_model::{ClusterId, NodeId, SystemClock};
use prometheus::Registry;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

fn open(folder: &std::path::Path) -> Arc<NodeStore> {
    NodeStore::open(folder, StoreOptions::default(), SystemClock::shared(), &Registry::new()).unwrap()
}

fn over(backend: MemoryBackend) -> (Arc<NodeStore>, Arc<MemoryBackend>) {
    let backend = Arc::new(backend);
    let store = NodeStore::over(backend.clone(), SystemClock::shared(), &Registry::new()).unwrap();
    (store, backend)
}

fn put(key: &str, value: &str) -> Write {
    Write::Put(Space::Meta, key.into(), value.into())
}

fn text(found: Option<bytes::Bytes>) -> Option<String> {
    found.map(|b| String::from_utf8(b.to_vec()).unwrap())
}

/// Submits and tells how it ended.
async fn write(store: &NodeStore, epoch: u64, writes: Vec<Write>, sync: bool) -> Result<(), StoreError> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let done: Done = Box::new(move |result| drop(sender.send(result)));
    store
        .submit(Submission {
            epoch,
            writes,
            sync,
            done,
        })
        .await;
    receiver.await.unwrap()
}

async fn engine_suite(store: &NodeStore) {
    let epoch = store.epoch().unwrap();
    let backend = store.backend();
    write(store, epoch, vec![put("a", "1"), put("b", "2"), put("c", "3")], true)
        .await
        .unwrap();
    write(
        store,
        epoch,
        vec![
            Write::PutParts(Space::Meta, b"d".to_vec(), b"he".to_vec(), "ad".into()),
            Write::Delete(Space::Meta, b"a".to_vec()),
            Write::Put(Space::Log, b"b".to_vec(), b"another space".to_vec()),
        ],
        false,
    )
    .await
    .unwrap();
    assert_eq!(backend.get(Space::Meta, b"a").unwrap(), None);
    assert_eq!(text(backend.get(Space::Meta, b"d").unwrap()), Some("head".into()));
    let mut seen = Vec::new();
    backend
        .scan(Space::Meta, b"b", b"d", &mut |key, _| {
            seen.push(key.to_vec());
            true
        })
        .unwrap();
    assert_eq!(seen, [b"b".to_vec(), b"c".to_vec()]);
    let (key, value) = backend.last(Space::Meta, b"a", b"d").unwrap().unwrap();
    assert_eq!((key.as_slice(), value.as_ref()), (&b"c"[..], &b"3"[..]));
    assert!(backend.last(Space::Meta, b"x", b"z").unwrap().is_none());
    let range = Write::DeleteRange(Space::Meta, b"b".to_vec(), b"d".to_vec());
    write(store, epoch, vec![range], true).await.unwrap();
    assert_eq!(backend.get(Space::Meta, b"c").unwrap(), None);
    assert_eq!(text(backend.get(Space::Meta, b"d").unwrap()), Some("head".into()));
    assert_eq!(
        text(backend.get(Space::Log, b"b").unwrap()),
        Some("another space".into())
    );
}

#[tokio::test]
async fn engines_read_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let disk = open(folder.path());
    engine_suite(&disk).await;
    disk.close().await;
    let (memory, _) = over(MemoryBackend::new());
    engine_suite(&memory).await;
}

#[tokio::test]
async fn a_data_folder_keeps_its_owner_and_its_data() {
    let folder = tempfile::tempdir().unwrap();
    let owner = |node| Identity {
        cluster: ClusterId(7),
        node: NodeId(node),
    };
    let store = open(folder.path());
    assert_eq!(store.identity(), None);
    store.bind(owner(1)).unwrap();
    write(&store, store.epoch().unwrap(), vec![put("k", "v")], true)
        .await
        .unwrap();
    store.close().await;
    assert!(matches!(
        write(&store, 0, vec![put("k", "w")], true).await,
        Err(StoreError::Closed)
    ));
    let store = open(folder.path());
    assert_eq!(store.identity(), Some(owner(1)));
    store.bind(owner(1)).unwrap();
    let refused = store.bind(owner(2)).unwrap_err();
    assert!(refused.to_string().contains("belongs to node 1"), "{refused}");
    assert_eq!(text(store.backend().get(Space::Meta, b"k").unwrap()), Some("v".into()));
    store.close().await;
}

/// While one batch is being synced, what arrives shares the next one.
#[tokio::test]
async fn what_waits_shares_one_sync() {
    let (store, backend) = over(MemoryBackend::new());
    backend.set_faults(Faults {
        sync_delay: Duration::from_millis(50),
        ..Faults::default()
    });
    let (sender, receiver) = mpsc::channel();
    for i in 0..200u32 {
        let sender = sender.clone();
        let submission = Submission {
            epoch: 0,
            writes: vec![put(&format!("{i}"), "x")],
            sync: true,
            done: Box::new(move |result| sender.send((i, result)).unwrap()),
        };
        store.submit(submission).await;
    }
    let order: Vec<u32> = tokio::task::spawn_blocking(move || {
        (0..200)
            .map(|_| receiver.recv_timeout(Duration::from_secs(10)).unwrap().0)
            .collect()
    })
    .await
    .unwrap();
    assert!(order.is_sorted());
    assert!(backend.syncs() <= 20, "{} syncs for 200 writes", backend.syncs());
}

#[tokio::test]
async fn a_power_cut_takes_what_was_not_synced() {
    let (store, backend) = over(MemoryBackend::new());
    write(&store, 0, vec![put("synced", "1")], true).await.unwrap();
    write(&store, 0, vec![put("later", "1")], false).await.unwrap();
    assert_eq!(backend.unsynced(), 1);
    let (after, _) = over(backend.after_power_cut(0));
    assert!(after.backend().get(Space::Meta, b"synced").unwrap().is_some());
    assert!(after.backend().get(Space::Meta, b"later").unwrap().is_none());
    let (lucky, _) = over(backend.after_power_cut(1));
    assert!(lucky.backend().get(Space::Meta, b"later").unwrap().is_some());
}

/// Nothing may be taken after a write that failed, or a log would have a hole.
#[tokio::test]
async fn after_a_failure_nothing_is_taken_until_recovered() {
    let (store, backend) = over(MemoryBackend::new());
    backend.set_faults(Faults {
        fail_writes: true,
        ..Faults::default()
    });
    assert!(matches!(
        write(&store, 0, vec![put("a", "1")], true).await,
        Err(StoreError::Engine { .. })
    ));
    assert!(matches!(store.epoch(), Err(StoreError::Failed)));
    assert!(store.recover().is_err());
    backend.set_faults(Faults::default());
    assert!(matches!(
        write(&store, 0, vec![put("b", "1")], true).await,
        Err(StoreError::Failed)
    ));
    store.recover().unwrap();
    assert!(matches!(
        write(&store, 0, vec![put("b", "1")], true).await,
        Err(StoreError::Failed)
    ));
    let epoch = store.epoch().unwrap();
    write(&store, epoch, vec![put("c", "1")], true).await.unwrap();
    assert!(store.backend().get(Space::Meta, b"b").unwrap().is_none());
}

#[tokio::test]
async fn a_disk_store_reopens_in_process() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    write(&store, 0, vec![put("a", "1")], true).await.unwrap();
    store.backend().reopen().unwrap();
    assert!(store.backend().get(Space::Meta, b"a").unwrap().is_some());
    write(&store, 0, vec![put("b", "1")], true).await.unwrap();
    store.close().await;
}

#[test]
fn low_disk_is_seen_and_the_ballast_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(gnomon_model::ManualClock::at(gnomon_model::TimestampMs(0)));
    let fine = disk::Disk::new(folder.path(), clock.clone(), 0, 1 << 20).unwrap();
    let (free, low) = fine.look();
    assert!(free > 0 && low.is_none());
    let ballast = folder.path().join("ballast");
    assert_eq!(std::fs::metadata(&ballast).unwrap().len(), 1 << 20);
    fine.drop_ballast();
    assert!(!ballast.exists());
}
