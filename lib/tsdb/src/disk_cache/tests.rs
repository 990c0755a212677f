use super::*;
use crate::bucket::faults::{Fate, Fates, FaultyStore, Request};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::path::Path as FilePath;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

/// Counts reads of the store.
#[derive(Default)]
struct Gets(AtomicUsize);

impl Fates for Gets {
    fn next(&self, request: Request) -> (Fate, Duration) {
        self.0
            .fetch_add(usize::from(request == Request::Get), Ordering::Relaxed);
        (Fate::Sound, Duration::ZERO)
    }
}

struct Rig {
    plain: Arc<InMemory>,
    gets: Arc<Gets>,
    cache: CachedStore,
}

impl Rig {
    fn open(plain: &Arc<InMemory>, folder: &FilePath, max_bytes: u64) -> Self {
        let gets = Arc::new(Gets::default());
        let store = FaultyStore::by(Arc::clone(plain) as _, Arc::clone(&gets) as _);
        let store: Arc<FaultyStore> = Arc::new(store);
        let open = || CachedStore::open(Arc::clone(&store) as _, folder, max_bytes, &Registry::new());
        // Whoever had the folder before lets go of it when its last task has ended.
        let waiting = std::iter::repeat_with(|| {
            let opened = open();
            if opened.is_err() {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            opened
        });
        let cache = waiting.take(500).find_map(Result::ok).expect("the folder is free");
        // Not by a thread of its own, so that it is over.
        cache.shared.segments.read_back();
        Self {
            plain: Arc::clone(plain),
            gets,
            cache,
        }
    }

    fn gets(&self) -> usize {
        self.gets.0.load(Ordering::Relaxed)
    }

    /// All writes are done.
    async fn settle(&self) {
        drop(self.cache.writes.acquire_many(WRITES_AT_ONCE as u32).await.unwrap());
    }

    /// Reads a range from both; none is the last `suffix` bytes.
    async fn check(&self, name: &str, range: GetRange) {
        let options = || GetOptions {
            range: Some(range.clone()),
            ..GetOptions::default()
        };
        let path = Path::from(name);
        let expected = self.plain.get_opts(&path, options()).await.unwrap();
        let found = self.cache.get_opts(&path, options()).await.unwrap();
        assert_eq!(
            (found.range.clone(), found.meta.size),
            (expected.range.clone(), expected.meta.size),
            "{name} {range:?}"
        );
        let (found, expected) = (found.bytes().await.unwrap(), expected.bytes().await.unwrap());
        assert!(found == expected, "{name} {range:?}");
    }
}

const LENGTHS: [u64; 6] = [
    1,
    PAGE_BYTES - 1,
    PAGE_BYTES,
    PAGE_BYTES + 1,
    5 * PAGE_BYTES + 77,
    40 * PAGE_BYTES,
];

fn name(length: u64) -> String {
    format!("t/blocks/0/0/{length}.gnb")
}

async fn objects() -> Arc<InMemory> {
    let store = Arc::new(InMemory::new());
    let mut random = StdRng::seed_from_u64(1);
    for length in LENGTHS {
        let bytes: Vec<u8> = (0..length).map(|_| random.random()).collect();
        store.put(&Path::from(name(length)), bytes.into()).await.unwrap();
    }
    store
}

/// Some ranges of an object, the same each time.
fn ranges(length: u64) -> Vec<GetRange> {
    let mut random = StdRng::seed_from_u64(length);
    let mut ranges = vec![
        GetRange::Suffix(1),
        GetRange::Suffix(128 << 10),
        GetRange::Bounded(0..length),
        GetRange::Bounded(0..length + 10),
        GetRange::Bounded(length - 1..length),
    ];
    for _ in 0..20 {
        let (a, b) = (random.random_range(0..length), random.random_range(0..length));
        ranges.push(GetRange::Bounded(a.min(b)..a.max(b) + 1));
    }
    ranges
}

async fn check_all(rig: &Rig) {
    for length in LENGTHS {
        for range in ranges(length) {
            rig.check(&name(length), range).await;
            rig.settle().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_once_is_given_from_the_disk_also_after_a_restart() {
    let (store, folder) = (objects().await, tempfile::tempdir().unwrap());
    let rig = Rig::open(&store, folder.path(), 64 << 20);
    check_all(&rig).await;
    let first = rig.gets();
    assert!(first >= LENGTHS.len(), "{first}");
    check_all(&rig).await;
    assert_eq!(rig.gets(), first);
    assert!(rig.cache.shared.metrics.hit_bytes.get() > 0);
    drop(rig);
    let rig = Rig::open(&store, folder.path(), 64 << 20);
    check_all(&rig).await;
    assert_eq!(rig.gets(), 0);
    // What is no block, and what is no plain range, comes from the store.
    rig.plain.put(&Path::from("cluster.json"), "{}".into()).await.unwrap();
    for _ in 0..2 {
        rig.check("cluster.json", GetRange::Bounded(0..1)).await;
        rig.check(&name(1), GetRange::Offset(0)).await;
    }
    assert_eq!(rig.gets(), 4);
    assert!(rig.cache.get(&Path::from("t/none.gnb")).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_or_torn_is_read_from_the_store() {
    let (store, folder) = (objects().await, tempfile::tempdir().unwrap());
    let files = || {
        let all = std::fs::read_dir(folder.path()).unwrap();
        let segments = all.map(|f| f.unwrap().path()).filter(|p| p.extension().is_some());
        segments.collect::<Vec<_>>()
    };
    let mut random = StdRng::seed_from_u64(3);
    for round in 0..12 {
        let rig = Rig::open(&store, folder.path(), 64 << 20);
        check_all(&rig).await;
        // Under its hands, and between its lives.
        let damage = |random: &mut StdRng| {
            for path in files() {
                let mut bytes = std::fs::read(&path).unwrap();
                if bytes.is_empty() {
                    continue;
                }
                for _ in 0..40 {
                    let at = random.random_range(0..bytes.len());
                    bytes[at] ^= 1 << random.random_range(0..8);
                }
                let end = if round % 3 == 0 {
                    random.random_range(0..bytes.len())
                } else {
                    bytes.len()
                };
                std::fs::write(&path, &bytes[..end]).unwrap();
            }
        };
        if round % 2 == 0 {
            damage(&mut random);
        }
        check_all(&rig).await;
        drop(rig);
        damage(&mut random);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_takes_no_more_than_it_may_and_keeps_what_is_used() {
    let (store, folder) = (Arc::new(InMemory::new()), tempfile::tempdir().unwrap());
    let rig = Rig::open(&store, folder.path(), 16 << 20);
    let length = 10 * PAGE_BYTES;
    let put = async |i: usize| {
        let bytes = vec![i as u8; length as usize];
        store.put(&Path::from(format!("{i}.gnb")), bytes.into()).await.unwrap();
    };
    put(0).await;
    for i in 1..120 {
        put(i).await;
        rig.check(&format!("{i}.gnb"), GetRange::Bounded(0..length)).await;
        rig.settle().await;
        rig.check("0.gnb", GetRange::Bounded(0..length)).await;
        rig.settle().await;
    }
    // Some 75 MiB went through 16.
    let on_disk: u64 = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|f| f.unwrap().metadata().unwrap().len())
        .sum();
    assert!(on_disk <= 17 << 20, "{on_disk}");
    assert_eq!(rig.cache.shared.segments.bytes(), on_disk);
    assert_eq!(rig.gets(), 120, "what is used again and again was read once");
    drop(rig);
    // A smaller cap holds from the start.
    let rig = Rig::open(&store, folder.path(), 4 << 20);
    assert!(rig.cache.shared.segments.bytes() <= 4 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_refuses_costs_nothing_but_the_cache() {
    let (store, folder) = (objects().await, tempfile::tempdir().unwrap());
    let below = folder.path().join("cache");
    let rig = Rig::open(&store, &below, 64 << 20);
    std::fs::remove_dir_all(&below).unwrap();
    check_all(&rig).await;
    assert!(rig.cache.shared.metrics.errors.get() > 0);
    std::fs::create_dir_all(&below).unwrap();
    check_all(&rig).await;
    let gets = rig.gets();
    check_all(&rig).await;
    assert_eq!(rig.gets(), gets, "it goes on once the disk does");
    let second = CachedStore::open(store, &below, 64 << 20, &Registry::new());
    assert!(second.is_ok(), "the folder is another one");
    let third = CachedStore::open(Arc::new(InMemory::new()), &below, 64 << 20, &Registry::new());
    let why = third.err().unwrap().to_string();
    assert!(why.contains("another process uses it"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_found_damaged_is_asked_of_the_store_again() {
    let (store, folder) = (objects().await, tempfile::tempdir().unwrap());
    let rig = Rig::open(&store, folder.path(), 64 << 20);
    let (length, range) = (LENGTHS[4], GetRange::Bounded(0..10));
    rig.check(&name(length), range.clone()).await;
    rig.settle().await;
    rig.check(&name(length), range.clone()).await;
    assert_eq!(rig.gets(), 1);
    rig.cache.forget(&Path::from(name(length)));
    rig.check(&name(length), range).await;
    assert_eq!(rig.gets(), 2);
}
