//! Reading blocks from the object store through a small cache of open readers.

use super::cost::Skipped;
use super::plan::Selection;
use super::stream::SeriesStream;
use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use gnomon_model::Matcher;
use gnomon_proto::{ServiceError, v1};
use gnomon_tsdb::{BlockCache, BlockError, BlockReader};
use object_store::ObjectStore;
use object_store::path::Path;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Bytes of indexes that are kept for each byte of readers, and as many of pages.
const CACHE_SHARE: usize = 2;

/// What a querier asks of blocks. `NotFound` says that the block's object is gone.
#[async_trait]
pub trait BlockReads: Send + Sync + 'static {
    /// Series of a block, ascending by labels; pages that lie wholly outside of the range are left out, and counted.
    async fn select(
        &self,
        block: &v1::BlockRecord,
        selection: &Selection,
        skipped: &Skipped,
    ) -> Result<SeriesStream, ServiceError>;

    /// Names, or the values of one label, of series that match any of `sets` (all if there is none); in any order.
    async fn labels(
        &self,
        block: &v1::BlockRecord,
        name: Option<&str>,
        sets: &[Vec<Matcher>],
    ) -> Result<Vec<String>, ServiceError>;
}

/// Blocks in an object store. Readers stay open, and parts of indexes and of pages are kept, within bounds of memory; those not used
/// for longest go first.
pub struct StoredBlocks {
    store: Arc<dyn ObjectStore>,
    cached: Arc<BlockCache>,
    cache: Mutex<Cache>,
}

struct Cache {
    readers: HashMap<String, Cached>,
    max_bytes: usize,
    bytes: usize,
    uses: u64,
}

struct Cached {
    reader: Arc<BlockReader>,
    used: u64,
}

impl Cache {
    fn get(&mut self, path: &str) -> Option<Arc<BlockReader>> {
        self.uses += 1;
        let cached = self.readers.get_mut(path)?;
        cached.used = self.uses;
        Some(Arc::clone(&cached.reader))
    }

    fn remove(&mut self, path: &str) {
        if let Some(gone) = self.readers.remove(path) {
            self.bytes -= gone.reader.memory_bytes();
        }
    }

    fn insert(&mut self, path: &str, reader: &Arc<BlockReader>) {
        self.remove(path);
        self.uses += 1;
        self.bytes += reader.memory_bytes();
        let cached = Cached {
            reader: Arc::clone(reader),
            used: self.uses,
        };
        self.readers.insert(path.to_owned(), cached);
        while self.bytes > self.max_bytes && self.readers.len() > 1 {
            let oldest = self.readers.iter().min_by_key(|(_, cached)| cached.used);
            let Some(oldest) = oldest.map(|(path, _)| path.clone()) else {
                break;
            };
            self.remove(&oldest);
        }
    }
}

impl StoredBlocks {
    /// Keeps readers of at most about `cache_bytes`, one at least, and about twice as much of their indexes
    /// and of their pages each.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, cache_bytes: usize) -> Self {
        Self {
            store,
            cached: Arc::new(BlockCache::new(cache_bytes * CACHE_SHARE, cache_bytes * CACHE_SHARE)),
            cache: Mutex::new(Cache {
                readers: HashMap::new(),
                max_bytes: cache_bytes,
                bytes: 0,
                uses: 0,
            }),
        }
    }

    async fn reader(&self, block: &v1::BlockRecord) -> Result<Arc<BlockReader>, ServiceError> {
        if let Some(reader) = self.cache.lock().get(&block.path) {
            return Ok(reader);
        }
        let path = Path::parse(&block.path)
            .map_err(|e| ServiceError::Internal(format!("path {:?} of block {}: {e}", block.path, block.id)))?;
        let reader = BlockReader::open_cached(Arc::clone(&self.store), path, &self.cached)
            .await
            .map_err(service_error)?;
        let reader = Arc::new(reader);
        self.cache.lock().insert(&block.path, &reader);
        Ok(reader)
    }

    /// An object that has gone is asked for again the next time.
    fn forget_missing<T>(&self, block: &v1::BlockRecord, result: Result<T, BlockError>) -> Result<T, ServiceError> {
        if result.as_ref().is_err_and(BlockError::is_not_found) {
            self.cache.lock().remove(&block.path);
        }
        result.map_err(service_error)
    }
}

fn service_error(error: BlockError) -> ServiceError {
    if error.is_not_found() {
        ServiceError::NotFound(error.to_string())
    } else if error.is_damage() {
        ServiceError::Internal(error.to_string())
    } else {
        ServiceError::Unavailable(error.to_string())
    }
}

#[async_trait]
impl BlockReads for StoredBlocks {
    async fn select(
        &self,
        block: &v1::BlockRecord,
        selection: &Selection,
        skipped: &Skipped,
    ) -> Result<SeriesStream, ServiceError> {
        let reader = self.reader(block).await?;
        let Selection {
            matchers,
            start_ms,
            end_ms,
            ..
        } = selection;
        let selected = if selection.labels_only {
            reader.select_labels(matchers, *start_ms, *end_ms).await
        } else {
            reader.select(matchers, *start_ms, *end_ms).await
        };
        let selected = self.forget_missing(block, selected)?.counting(skipped.counter());
        Ok(selected.into_batches().map_err(service_error).boxed())
    }

    async fn labels(
        &self,
        block: &v1::BlockRecord,
        name: Option<&str>,
        sets: &[Vec<Matcher>],
    ) -> Result<Vec<String>, ServiceError> {
        let reader = self.reader(block).await?;
        let every = [Vec::new()];
        let mut all = BTreeSet::new();
        for set in if sets.is_empty() { &every } else { sets } {
            let found = match name {
                Some(name) => reader.label_values(name, set).await,
                None => reader.label_names(set).await,
            };
            all.extend(self.forget_missing(block, found)?);
        }
        Ok(all.into_iter().collect())
    }
}
