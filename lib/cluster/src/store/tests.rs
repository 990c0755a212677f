//! One suite for every engine, then what only disks or only memory can show.

use super::*;
use gnomon_model::{ClusterId, ManualClock, NodeId, SystemClock, TimestampMs};
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
async fn write(store: &NodeStore, writes: Vec<Write>, sync: bool) -> Result<(), StoreError> {
    submit(store, writes, sync).await.await.unwrap()
}

/// Submits only.
async fn submit(
    store: &NodeStore,
    writes: Vec<Write>,
    sync: bool,
) -> tokio::sync::oneshot::Receiver<Result<(), StoreError>> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let done: Done = Box::new(move |result| drop(sender.send(result)));
    store.submit(Submission { writes, sync, done }).await;
    receiver
}

async fn engine_suite(store: &NodeStore) {
    let backend = store.backend();
    write(store, vec![put("a", "1"), put("b", "2"), put("c", "3")], true)
        .await
        .unwrap();
    write(
        store,
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
    write(store, vec![range], true).await.unwrap();
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
    write(&store, vec![put("k", "v")], true).await.unwrap();
    store.close().await;
    assert!(matches!(
        write(&store, vec![put("k", "w")], true).await,
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
    write(&store, vec![put("synced", "1")], true).await.unwrap();
    write(&store, vec![put("later", "1")], false).await.unwrap();
    assert_eq!(backend.unsynced(), 1);
    let (after, _) = over(backend.after_power_cut(0));
    assert!(after.backend().get(Space::Meta, b"synced").unwrap().is_some());
    assert!(after.backend().get(Space::Meta, b"later").unwrap().is_none());
    let (lucky, _) = over(backend.after_power_cut(1));
    assert!(lucky.backend().get(Space::Meta, b"later").unwrap().is_some());
}

fn failing() -> Faults {
    Faults {
        fail_writes: true,
        ..Faults::default()
    }
}

/// Nothing later may be written before a write that failed, or a log would have a hole.
#[tokio::test]
async fn a_write_that_fails_is_made_again_before_later_ones() {
    let (store, backend) = over(MemoryBackend::new());
    assert_eq!(store.trouble(), None);
    backend.set_faults(failing());
    let first = submit(&store, vec![put("a", "1")], true).await;
    let why = store.in_trouble(Duration::ZERO).await;
    assert!(why.contains("no space left"), "{why}");
    let second = submit(&store, vec![put("a", "2"), put("b", "2")], true).await;
    // What does not wait fails, and the engine is not asked again by it.
    let batch = |key: &str| {
        let mut batch = store.backend().batch().unwrap();
        batch.put(Space::Meta, key.as_bytes(), b"x");
        batch
    };
    assert!(store.write_now(0, batch("now"), true).is_err());
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| store.write_durably(batch("flush")));
        backend.set_faults(Faults::default());
        flush.join().unwrap().unwrap();
    });
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    let get = |key: &str| text(store.backend().get(Space::Meta, key.as_bytes()).unwrap());
    assert_eq!(get("a").as_deref(), Some("2"));
    assert_eq!(get("b").as_deref(), Some("2"));
    assert_eq!(get("flush").as_deref(), Some("x"));
    assert_eq!(get("now"), None);
    assert_eq!(store.trouble(), None);
    // What began before the engine was reopened cannot know what of it is left.
    assert!(store.epoch() > 0);
    assert!(matches!(
        store.write_now(0, batch("now"), true),
        Err(StoreError::Failed)
    ));
    store.write_now(store.epoch(), batch("now"), true).unwrap();
    store.close().await;
}

#[tokio::test]
async fn closing_gives_up_what_a_bad_disk_does_not_take() {
    let (store, backend) = over(MemoryBackend::new());
    backend.set_faults(failing());
    let waiting = submit(&store, vec![put("a", "1")], true).await;
    store.in_trouble(Duration::ZERO).await;
    store.close().await;
    let given_up = waiting.await.unwrap().unwrap_err();
    assert!(given_up.to_string().contains("no space left"), "{given_up}");
}

#[tokio::test]
async fn a_disk_store_reopens_in_process() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    write(&store, vec![put("a", "1")], true).await.unwrap();
    store.backend().reopen().unwrap();
    assert!(store.backend().get(Space::Meta, b"a").unwrap().is_some());
    write(&store, vec![put("b", "1")], true).await.unwrap();
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
    let for_start = folder.path().join("ballast.start");
    assert_eq!(std::fs::metadata(&for_start).unwrap().len(), 1 << 20);
    fine.drop_ballast();
    assert!(!ballast.exists() && for_start.exists());
    // Whoever fills the disk then leaves the next start its own.
    assert!(fine.drop_to_open());
    assert!(!for_start.exists());
    assert!(!fine.drop_to_open());
    clock.advance(std::time::Duration::from_secs(1));
    fine.look();
    assert!(ballast.exists() && for_start.exists());
}

#[test]
fn a_second_process_is_told_and_leaves_the_ballast() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let ballast = folder.path().join("ballast");
    std::fs::write(&ballast, "of the first").unwrap();
    let second = NodeStore::open(
        folder.path(),
        StoreOptions::default(),
        SystemClock::shared(),
        &Registry::new(),
    );
    let Err(StoreError::InUse { path }) = second else {
        panic!("the folder was opened twice");
    };
    assert!(path.contains(&folder.path().display().to_string()), "{path}");
    assert!(ballast.exists());
    drop(store);
}

/// The write-ahead log, of which there is one.
fn write_ahead_log(folder: &std::path::Path) -> std::path::PathBuf {
    let files = std::fs::read_dir(folder.join("rocksdb")).unwrap();
    let mut logs: Vec<_> = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .collect();
    assert_eq!(logs.len(), 1, "{logs:?}");
    logs.remove(0)
}

#[tokio::test]
async fn a_damaged_log_opens_with_what_lies_before_the_damage() {
    for torn in [false, true] {
        let (folder, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = open(folder.path());
        write(&store, vec![put("a", "first")], true).await.unwrap();
        let whole = std::fs::metadata(write_ahead_log(folder.path())).unwrap().len() as usize;
        write(&store, vec![put("b", "second")], true).await.unwrap();
        write(&store, vec![put("c", "third")], true).await.unwrap();
        // As a crash leaves it: closing would write more.
        std::fs::create_dir(copy.path().join("rocksdb")).unwrap();
        for file in std::fs::read_dir(folder.path().join("rocksdb")).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), copy.path().join("rocksdb").join(file.file_name())).unwrap();
        }
        let log = write_ahead_log(copy.path());
        let mut bytes = std::fs::read(&log).unwrap();
        if torn {
            bytes.truncate(bytes.len() - 3);
        } else {
            bytes[whole + 12] ^= 1;
        }
        std::fs::write(&log, bytes).unwrap();
        let registry = Registry::new();
        let reopened = NodeStore::open(copy.path(), StoreOptions::default(), SystemClock::shared(), &registry).unwrap();
        let get = |key: &[u8]| text(reopened.backend().get(Space::Meta, key).unwrap());
        assert_eq!(get(b"a").as_deref(), Some("first"));
        assert_eq!(get(b"b").as_deref(), torn.then_some("second"));
        assert_eq!(get(b"c"), None);
        let damaged = registry
            .gather()
            .iter()
            .find(|family| family.name() == "gnomon_store_wal_damaged_total")
            .map(|family| family.get_metric()[0].get_counter().get_value());
        assert_eq!(damaged, Some(f64::from(u8::from(!torn))));
    }
}

/// As a simulation has it: everything on one thread, which nothing may block.
#[test]
fn a_store_without_a_thread_waits_for_its_disk_as_one_with_a_thread_does() {
    simulate(without_a_thread);
}

#[test]
fn a_damaged_store_is_tried_again_now_and_then() {
    simulate(damaged);
}

fn simulate<Doing: Future<Output = ()> + 'static>(what: fn() -> Doing) {
    let simulation = std::thread::spawn(move || {
        crate::blocking::do_at_once_here();
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(what());
    });
    simulation.join().unwrap();
}

async fn damaged() {
    let (backend, clock) = (
        Arc::new(MemoryBackend::new()),
        Arc::new(ManualClock::at(TimestampMs(0))),
    );
    let pace: Pace = Arc::new(|| Duration::ZERO);
    let store = NodeStore::simulated(backend.clone(), clock.clone(), &Registry::new(), pace).unwrap();
    backend.set_faults(Faults {
        damaged: true,
        ..Faults::default()
    });
    let waiting = submit(&store, vec![put("a", "1")], true).await;
    let why = store.in_trouble(Duration::ZERO).await;
    assert!(why.contains("files of the store are damaged"), "{why}");
    for tried in 0..3 {
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(backend.reopenings(), tried, "not before its time");
        clock.advance(Duration::from_secs(31));
    }
    // Its files are put back in their place.
    backend.set_faults(Faults::default());
    waiting.await.unwrap().unwrap();
    assert_eq!(store.trouble(), None);
}

async fn without_a_thread() {
    let backend = Arc::new(MemoryBackend::new());
    let pace: Pace = Arc::new(|| Duration::from_millis(3));
    let store = NodeStore::simulated(backend.clone(), SystemClock::shared(), &Registry::new(), pace).unwrap();
    engine_suite(&store).await;
    let before = tokio::time::Instant::now();
    write(&store, vec![put("a", "0")], true).await.unwrap();
    assert!(before.elapsed() >= Duration::from_millis(3));
    backend.set_faults(failing());
    let first = submit(&store, vec![put("a", "1")], true).await;
    store.in_trouble(Duration::ZERO).await;
    let second = submit(&store, vec![put("a", "2")], true).await;
    let mut batch = store.backend().batch().unwrap();
    batch.put(Space::Meta, b"flush", b"x");
    let flushing = tokio::spawn({
        let store = store.clone();
        async move { store.write_through(batch).await }
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!flushing.is_finished());
    backend.set_faults(Faults::default());
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    flushing.await.unwrap().unwrap();
    let get = |key: &str| text(store.backend().get(Space::Meta, key.as_bytes()).unwrap());
    assert_eq!(get("a").as_deref(), Some("2"));
    assert_eq!(get("flush").as_deref(), Some("x"));
    assert_eq!(store.trouble(), None);
    backend.set_faults(failing());
    let waiting = submit(&store, vec![put("a", "3")], true).await;
    store.in_trouble(Duration::ZERO).await;
    store.close().await;
    assert!(waiting.await.unwrap().is_err(), "given up");
}
