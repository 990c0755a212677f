//! gnomon's blocks: what their parts take, how fast they are read and written, and how many reads a series takes.

use gnomon_model::{MatchOp, Matcher};
use gnomon_tsdb::bucket::faults::{Faults, FaultyStore};
use gnomon_tsdb::{BlockCache, BlockReader, BlockWriter, Coding, MemorySink, Page, SeriesPages, decode_into};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use tokio::time::Instant;

/// Series that are looked for, one at a time.
const LOOKED_FOR: usize = 20;

/// Blocks of one kind together.
#[derive(Default)]
pub(crate) struct Sum {
    pub(crate) blocks: usize,
    pub(crate) series: u64,
    pub(crate) samples: u64,
    pub(crate) bytes: u64,
    /// Names of parts in the order of the file, with their bytes.
    pub(crate) parts: Vec<(&'static str, u64)>,
}

impl Sum {
    pub(crate) fn add(&mut self, reader: &BlockReader) {
        let stats = &reader.meta().stats;
        self.blocks += 1;
        self.series += stats.series;
        self.samples += stats.samples;
        self.bytes += reader.len_bytes();
        for (name, len) in reader.parts() {
            match self.parts.iter_mut().find(|(n, _)| *n == name) {
                Some((_, sum)) => *sum += len,
                None => self.parts.push((name, len)),
            }
        }
    }

    /// Bytes that grow with the series, not with their samples.
    pub(crate) fn index_bytes(&self) -> u64 {
        let samples = ["pages", "times"];
        self.parts
            .iter()
            .filter(|(n, _)| !samples.contains(n))
            .map(|(_, len)| len)
            .sum()
    }
}

/// Millions of samples a second on one core, best of three.
pub(crate) struct Speed {
    pub(crate) decode: f64,
    pub(crate) encode: f64,
    /// A whole block of pages that are there, with its index: millions of samples, and thousands of series a second.
    pub(crate) write: f64,
    pub(crate) write_series: f64,
}

async fn store_of(bytes: bytes::Bytes) -> (Arc<dyn ObjectStore>, FaultyStore) {
    let counting = FaultyStore::new(Arc::new(InMemory::new()), 1, Faults::default());
    let store: Arc<dyn ObjectStore> = Arc::new(counting.clone());
    store.put(&path(), bytes.into()).await.expect("memory");
    (store, counting)
}

fn path() -> Path {
    Path::from("block")
}

pub(crate) async fn open(bytes: bytes::Bytes) -> BlockReader {
    BlockReader::open(store_of(bytes).await.0, path())
        .await
        .expect("a sound block")
}

async fn all_of(reader: &Arc<BlockReader>) -> Vec<SeriesPages> {
    let mut selection = reader.select(&[], i64::MIN, i64::MAX).await.expect("a sound block");
    let mut all = Vec::new();
    while let Some(series) = selection.next().await.expect("a sound block") {
        all.push(series);
    }
    all
}

/// Requests of a read of one series by all its labels, of a block whose footer is known: the usual and the most.
pub(crate) async fn ranges(bytes: bytes::Bytes) -> BTreeMap<u64, usize> {
    let (store, counting) = store_of(bytes).await;
    let mut found = BTreeMap::new();
    let all = all_of(&Arc::new(
        BlockReader::open(Arc::clone(&store), path())
            .await
            .expect("a sound block"),
    ))
    .await;
    for series in all.iter().step_by((all.len() / LOOKED_FOR).max(1)) {
        let cache = Arc::new(BlockCache::new(64 << 20, 64 << 20));
        let reader = BlockReader::open_cached(Arc::clone(&store), path(), &cache).await;
        let reader = Arc::new(reader.expect("a sound block"));
        let before = counting.counts().0;
        let equal = |(name, value): (&str, &str)| Matcher::new(name, MatchOp::Equal, value).expect("a matcher");
        let matchers: Vec<_> = series.labels.iter().map(equal).collect();
        let mut selection = reader
            .select(&matchers, i64::MIN, i64::MAX)
            .await
            .expect("a sound block");
        let mut count = 0;
        while let Some(its) = selection.next().await.expect("a sound block") {
            count += usize::from(its.labels == series.labels);
        }
        assert_eq!(count, 1, "{}", series.labels);
        *found.entry(counting.counts().0 - before).or_default() += 1;
    }
    found
}

async fn best<T>(mut run: impl AsyncFnMut() -> T) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let began = Instant::now();
        black_box(run().await);
        best = best.min(began.elapsed().as_secs_f64());
    }
    best
}

pub(crate) async fn speed(bytes: bytes::Bytes) -> Speed {
    let reader = Arc::new(open(bytes).await);
    let all = all_of(&reader).await;
    let pages: Vec<&Page> = all.iter().flat_map(|s| &s.pages).collect();
    let floats = pages.iter().filter(|page| page.coding != Coding::Histogram);
    let mut columns = Vec::new();
    for page in floats {
        let (mut times, mut values) = (Vec::new(), Vec::new());
        decode_into(&page.bytes, &mut times, &mut values).expect("a sound page");
        columns.push((times, values));
    }
    let samples = columns.iter().map(|(times, _)| times.len()).sum::<usize>() as f64 / 1e6;
    let (mut times, mut values) = (Vec::new(), Vec::new());
    let decode = best(async || {
        for page in &pages {
            times.clear();
            values.clear();
            decode_into(&page.bytes, &mut times, &mut values).expect("a sound page");
            black_box((&times, &values));
        }
    });
    let decode = samples / decode.await;
    let encode = best(async || columns.iter().filter_map(|(t, v)| Page::of_floats(t, v)).count());
    let encode = samples / encode.await;
    let write = best(async || {
        let mut writer = BlockWriter::new(reader.meta().clone(), MemorySink::default());
        for series in &all {
            let added = writer.add_series(series.labels.as_ref(), series.pages.iter().cloned());
            added.await.expect("memory");
        }
        writer.finish().await.expect("memory").bytes
    });
    let write = write.await;
    Speed {
        decode,
        encode,
        write: samples / write,
        write_series: all.len() as f64 / write / 1e3,
    }
}
