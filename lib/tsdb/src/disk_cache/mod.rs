//! What is read of blocks in an object store, kept on the disk of whoever reads, below what is kept in memory.
//!
//! Blocks are written once under names that are never used again, so that what was read stays right for as long as anyone
//! asks for it. A block is kept in pages of 64 KiB. The cache never fails a read: what it does not give, the store does;
//! what the disk does not take is not kept.

mod segments;
#[cfg(test)]
mod tests;

use crate::bucket::BLOCK_SUFFIX;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use segments::{Key, Segments};
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Semaphore;
use xxhash_rust::xxh3::Xxh3;

/// Objects are kept in pages of this length.
const PAGE_BYTES: u64 = 64 << 10;
/// Answers that wait to be written, each of some MiB at most; further ones are not kept.
const WRITES_AT_ONCE: usize = 4;
/// Longer ranges are not kept: they are no reads of a query.
const MAX_RANGE_BYTES: u64 = 16 << 20;
/// The number of the "page" that holds an object's length.
const LENGTH: u64 = u64::MAX;

struct Metrics {
    pages: IntCounterVec,
    hit_bytes: IntCounter,
    bytes: IntGauge,
    errors: IntCounter,
}

impl Metrics {
    fn register(registry: &Registry) -> std::result::Result<Self, prometheus::Error> {
        let metrics = Self {
            pages: IntCounterVec::new(
                Opts::new(
                    "gnomon_block_disk_cache_pages_total",
                    "Pages of blocks that were looked for in the disk cache.",
                ),
                &["outcome"],
            )?,
            hit_bytes: IntCounter::new(
                "gnomon_block_disk_cache_hit_bytes_total",
                "Bytes of blocks that the disk cache gave.",
            )?,
            bytes: IntGauge::new("gnomon_block_disk_cache_bytes", "Bytes of the files of the disk cache.")?,
            errors: IntCounter::new(
                "gnomon_block_disk_cache_errors_total",
                "Reads and writes of the disk cache that the disk refused.",
            )?,
        };
        for outcome in ["hit", "miss"] {
            metrics.pages.with_label_values(&[outcome]);
        }
        registry.register(Box::new(metrics.pages.clone()))?;
        registry.register(Box::new(metrics.hit_bytes.clone()))?;
        registry.register(Box::new(metrics.bytes.clone()))?;
        registry.register(Box::new(metrics.errors.clone()))?;
        Ok(metrics)
    }
}

/// The cache's part that threads for the disk share.
struct Shared {
    segments: Segments,
    metrics: Metrics,
    /// The disk has refused something, and that was logged.
    is_refusing: AtomicBool,
}

impl Shared {
    fn note(&self, outcome: &io::Result<()>) {
        self.metrics
            .bytes
            .set(i64::try_from(self.segments.bytes()).unwrap_or(i64::MAX));
        let Err(error) = outcome else {
            self.is_refusing.store(false, Ordering::Relaxed);
            return;
        };
        self.metrics.errors.inc();
        if !self.is_refusing.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "the disk cache of blocks fails: blocks are read from the object store");
        }
    }

    fn get(&self, key: Key) -> Option<Bytes> {
        match self.segments.get(key) {
            Ok(Some(found)) => {
                if found.is_old {
                    self.note(&self.segments.put(key, &found.data));
                }
                Some(found.data)
            }
            Ok(None) => None,
            Err(error) => {
                self.note(&Err(error));
                None
            }
        }
    }
}

/// An object store of which blocks are kept on the disk as they are read.
pub struct CachedStore {
    store: Arc<dyn ObjectStore>,
    shared: Arc<Shared>,
    writes: Arc<Semaphore>,
}

/// Why there is no cache.
#[derive(Debug, thiserror::Error)]
pub enum DiskCacheError {
    #[error("folder {folder}: {source}")]
    Folder {
        folder: std::path::PathBuf,
        source: io::Error,
    },
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl CachedStore {
    /// Keeps at most about `max_bytes` (a MiB at least) in `folder`, which is the cache's alone. What is there from
    /// before is found again meanwhile, on a thread of its own.
    ///
    /// # Errors
    /// When the folder cannot be used, or the metrics are registered already.
    pub fn open(
        store: Arc<dyn ObjectStore>,
        folder: &std::path::Path,
        max_bytes: u64,
        registry: &Registry,
    ) -> std::result::Result<Self, DiskCacheError> {
        let segments = Segments::open(folder, max_bytes).map_err(|source| DiskCacheError::Folder {
            folder: folder.to_owned(),
            source,
        })?;
        let shared = Arc::new(Shared {
            segments,
            metrics: Metrics::register(registry)?,
            is_refusing: AtomicBool::new(false),
        });
        shared.note(&Ok(()));
        let reading = Arc::clone(&shared);
        std::thread::spawn(move || reading.segments.read_back());
        Ok(Self {
            store,
            shared,
            writes: Arc::new(Semaphore::new(WRITES_AT_ONCE)),
        })
    }

    /// Lets go what is kept of an object: it was found damaged, which may have been the answer of the store.
    pub fn forget(&self, location: &Path) {
        let length = key(location, LENGTH);
        let kept = self.shared.segments.get(length).ok().flatten();
        let pages = kept
            .and_then(|found| read_length(&found.data))
            .unwrap_or(0)
            .div_ceil(PAGE_BYTES);
        self.shared.segments.forget(length);
        for page in 0..pages {
            self.shared.segments.forget(key(location, page));
        }
    }

    /// The pages of a range of an object, as far as they are here, and the object's length if that is.
    async fn kept(&self, location: &Path, pages: Range<u64>) -> (Option<u64>, Vec<Option<Bytes>>) {
        let (shared, location) = (Arc::clone(&self.shared), location.clone());
        let looking = tokio::task::spawn_blocking(move || {
            let length = shared.get(key(&location, LENGTH)).and_then(|bytes| read_length(&bytes));
            (length, pages.map(|page| shared.get(key(&location, page))).collect())
        });
        looking.await.unwrap_or_default()
    }

    /// Keeps the whole pages of what was read, unless there is too much to write already.
    fn keep(&self, location: &Path, length: u64, start: u64, bytes: &Bytes) {
        let Ok(place) = Arc::clone(&self.writes).try_acquire_owned() else {
            return;
        };
        let (shared, location, bytes) = (Arc::clone(&self.shared), location.clone(), bytes.clone());
        tokio::task::spawn_blocking(move || {
            let write = || {
                shared.segments.put(key(&location, LENGTH), &length.to_le_bytes())?;
                let end = start + bytes.len() as u64;
                for page in start.div_ceil(PAGE_BYTES)..end.div_ceil(PAGE_BYTES) {
                    let (from, to) = (page * PAGE_BYTES, ((page + 1) * PAGE_BYTES).min(length));
                    if to <= end {
                        let page_bytes = &bytes[(from - start) as usize..(to - start) as usize];
                        shared.segments.put(key(&location, page), page_bytes)?;
                    }
                }
                Ok(())
            };
            shared.note(&write());
            drop(place);
        });
    }

    /// A range of an object of known length, from the pages that are here and one read of the store for those that are
    /// not.
    async fn range(&self, location: &Path, range: Range<u64>) -> Result<(Bytes, u64)> {
        let (first, last) = (range.start / PAGE_BYTES, range.end.div_ceil(PAGE_BYTES));
        let (length, mut pages) = self.kept(location, first..last).await;
        // What lies beyond the end is no page that is missing.
        let end = length.filter(|length| range.start < *length).unwrap_or(range.end);
        let range = range.start..range.end.min(end);
        pages.truncate((range.end.div_ceil(PAGE_BYTES) - first) as usize);
        let outcome = |is_hit: bool| {
            let pages = pages.iter().filter(|page| page.is_some() == is_hit).count() as u64;
            let outcome = if is_hit { "hit" } else { "miss" };
            self.shared.metrics.pages.with_label_values(&[outcome]).inc_by(pages);
        };
        outcome(true);
        outcome(false);
        let missing = |page: &Option<Bytes>| page.is_none() || length.is_none();
        let Some(from) = pages.iter().position(missing) else {
            let bytes = joined(&pages, first * PAGE_BYTES, &range);
            self.shared.metrics.hit_bytes.inc_by(bytes.len() as u64);
            return Ok((bytes, length.unwrap_or(range.end)));
        };
        let to = pages.iter().rposition(missing).unwrap_or(from) + 1;
        let read = (first + from as u64) * PAGE_BYTES..(first + to as u64) * PAGE_BYTES;
        let options = GetOptions {
            range: Some(GetRange::Bounded(read.clone())),
            ..GetOptions::default()
        };
        let result = self.store.get_opts(location, options).await?;
        let (length, start) = (result.meta.size, result.range.start);
        let bytes = result.bytes().await?;
        self.keep(location, length, start, &bytes);
        let mut parts = Vec::with_capacity(pages.len());
        parts.extend(pages[..from].iter().cloned());
        parts.push(Some(bytes));
        parts.extend(pages[to..].iter().cloned());
        let whole = joined(&parts, first * PAGE_BYTES, &range);
        Ok((whole, length))
    }
}

fn key(location: &Path, page: u64) -> Key {
    let mut hash = Xxh3::new();
    hash.update(location.as_ref().as_bytes());
    hash.update(&[0]);
    hash.update(&page.to_le_bytes());
    hash.digest128()
}

fn read_length(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// A range of what adjoining parts hold, of which the first begins at `start`; less where they end before.
fn joined(parts: &[Option<Bytes>], start: u64, range: &Range<u64>) -> Bytes {
    let skip = (range.start - start) as usize;
    let len = (range.end - range.start) as usize;
    if let [Some(only)] = parts {
        let from = skip.min(only.len());
        return only.slice(from..(skip + len).min(only.len()).max(from));
    }
    let mut whole = BytesMut::with_capacity(len + skip);
    for part in parts.iter().flatten() {
        whole.extend_from_slice(part);
    }
    let whole = whole.freeze();
    let from = skip.min(whole.len());
    whole.slice(from..(skip + len).min(whole.len()).max(from))
}

/// The range that a plain read of a part of a block asks for; none where it is another kind of request.
fn plain_range<'o>(location: &Path, options: &'o GetOptions) -> Option<&'o GetRange> {
    let is_plain = options.if_match.is_none()
        && options.if_none_match.is_none()
        && options.if_modified_since.is_none()
        && options.if_unmodified_since.is_none()
        && options.version.is_none()
        && !options.head;
    let range = options.range.as_ref()?;
    (is_plain && location.as_ref().ends_with(BLOCK_SUFFIX)).then_some(range)
}

fn result(location: &Path, length: u64, start: u64, bytes: Bytes) -> GetResult {
    let range = start..start + bytes.len() as u64;
    GetResult {
        payload: GetResultPayload::Stream(futures::stream::iter([Ok(bytes)]).boxed()),
        meta: ObjectMeta {
            location: location.clone(),
            // Nobody who reads blocks looks at it.
            last_modified: Default::default(),
            size: length,
            e_tag: None,
            version: None,
        },
        range,
        attributes: Attributes::new(),
        extensions: Default::default(),
    }
}

impl CachedStore {
    async fn suffix(&self, location: &Path, wanted: u64) -> Result<GetResult> {
        let (length, _) = self.kept(location, 0..0).await;
        if let Some(length) = length {
            let start = length.saturating_sub(wanted);
            let (bytes, _) = self.range(location, start..length).await?;
            if bytes.len() as u64 == length - start {
                return Ok(result(location, length, start, bytes));
            }
        }
        // A page more, so that all that was asked for is in whole pages.
        let options = GetOptions {
            range: Some(GetRange::Suffix(wanted + PAGE_BYTES)),
            ..GetOptions::default()
        };
        let read = self.store.get_opts(location, options).await?;
        let (length, start) = (read.meta.size, read.range.start);
        let bytes = read.bytes().await?;
        self.keep(location, length, start, &bytes);
        let skip = bytes
            .len()
            .saturating_sub(usize::try_from(wanted).unwrap_or(usize::MAX));
        Ok(result(location, length, start + skip as u64, bytes.slice(skip..)))
    }
}

impl fmt::Debug for CachedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedStore")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for CachedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with a disk cache", self.store)
    }
}

#[async_trait]
impl ObjectStore for CachedStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match plain_range(location, &options) {
            Some(GetRange::Bounded(range)) if range.start < range.end && range.end - range.start <= MAX_RANGE_BYTES => {
                let (bytes, length) = self.range(location, range.clone()).await?;
                Ok(result(location, length, range.start, bytes))
            }
            Some(GetRange::Suffix(wanted)) if (1..=MAX_RANGE_BYTES).contains(wanted) => {
                self.suffix(location, *wanted).await
            }
            _ => self.store.get_opts(location, options).await,
        }
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.store.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(location, opts).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }
}
