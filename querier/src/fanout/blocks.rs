//! Reading blocks from the object store through a small cache of open readers.

use super::block_parts::{BlockAnswer, evaluate_here};
use super::cost::Skipped;
use super::plan::Selection;
use super::quarantine::Quarantine;
use super::stream::SeriesStream;
use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use gnomon_model::{Clock, Matcher};
use gnomon_promql::{Fragment, Limits, MemoryBudget, OverBudget, Reserved};
use gnomon_proto::{ServiceError, v1};
use gnomon_tsdb::{
    BlockCache, BlockError, BlockReader, CachedStore, Deletes, ExemplarFilter, MetricMetadata, SeriesExemplars,
};
use object_store::ObjectStore;
use object_store::path::Path;
use parking_lot::Mutex;
use prometheus::Registry;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Bytes of indexes that are kept for each byte of readers, and as many of pages.
const CACHE_SHARE: usize = 2;

/// What a querier asks of blocks. `NotFound` says that the block's object is gone.
#[async_trait]
pub trait BlockReads: Send + Sync + 'static {
    /// Series of a block, ascending by labels, without what is deleted; pages that lie wholly outside of the range are left
    /// out, and counted.
    async fn select(
        &self,
        block: &v1::BlockRecord,
        selection: &Selection,
        deletes: Deletes,
        skipped: &Skipped,
    ) -> Result<SeriesStream, ServiceError>;

    /// Names, or the values of one label, of series that match any of `sets` (all if there is none); in any order.
    async fn labels(
        &self,
        block: &v1::BlockRecord,
        name: Option<&str>,
        sets: &[Vec<Matcher>],
    ) -> Result<Vec<String>, ServiceError>;

    /// What comes of a fragment whose steps look at nothing beyond the block. `Invalid` where the samples have to be
    /// looked at in one place; `LimitExceeded` where that takes more than `limits`.
    async fn evaluate(
        &self,
        block: &v1::BlockRecord,
        fragment: &Fragment,
        deletes: Deletes,
        limits: &Limits,
    ) -> Result<BlockAnswer, ServiceError> {
        evaluate_here(self, block, fragment, deletes, limits).await
    }

    /// Whether another node has one of the blocks, and can evaluate fragments over it.
    fn are_spread(&self, _blocks: &[v1::BlockRecord]) -> bool {
        false
    }

    /// Exemplars of a block that `filter` lets through, by series; one with many comes in several pieces.
    async fn exemplars(&self, block: &v1::BlockRecord, filter: ExemplarFilter) -> Result<ExemplarStream, ServiceError>;

    /// What a block knows of one metric, or of all, and what is charged for it.
    ///
    /// # Errors
    /// When it cannot be read; `LimitExceeded` where `memory` has no room for it: then it is not read.
    async fn metadata(
        &self,
        block: &v1::BlockRecord,
        metric: Option<&str>,
        memory: &MemoryBudget,
    ) -> Result<(Vec<(String, MetricMetadata)>, Reserved), ServiceError>;
}

/// Exemplars of one block, by series.
pub type ExemplarStream = BoxStream<'static, Result<SeriesExemplars, ServiceError>>;

/// Blocks in an object store. Readers stay open, and parts of indexes and of pages are kept, within bounds of memory; those not used
/// for longest go first.
pub struct StoredBlocks {
    store: Arc<dyn ObjectStore>,
    cached: Arc<BlockCache>,
    open: Arc<Open>,
}

/// Open readers, and what is known to be damaged.
struct Open {
    cache: Mutex<Cache>,
    quarantine: Quarantine,
    /// What of the store is on this node's disk.
    disk: Option<Arc<CachedStore>>,
}

impl Open {
    /// What is said of a block that cannot be read. One that is damaged is left alone for a while; it, and an object that
    /// has gone, is asked for again the next time.
    fn failed(&self, block: &v1::BlockRecord, error: BlockError) -> ServiceError {
        if !error.is_not_found() && !error.is_damage() {
            return ServiceError::Unavailable(error.to_string());
        }
        self.cache.lock().remove(&block.path);
        if let Some(disk) = &self.disk {
            disk.forget(&Path::from(block.path.as_str()));
        }
        if error.is_not_found() {
            ServiceError::NotFound(error.to_string())
        } else {
            self.quarantine.note(block, &error)
        }
    }
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
    ///
    /// # Errors
    /// When its metrics are registered already.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        cache_bytes: usize,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self {
            store,
            cached: Arc::new(BlockCache::new(cache_bytes * CACHE_SHARE, cache_bytes * CACHE_SHARE)),
            open: Arc::new(Open {
                cache: Mutex::new(Cache {
                    readers: HashMap::new(),
                    max_bytes: cache_bytes,
                    bytes: 0,
                    uses: 0,
                }),
                quarantine: Quarantine::new(clock, registry)?,
                disk: None,
            }),
        })
    }

    /// Of a store that is kept on the disk.
    ///
    /// # Errors
    /// When its metrics are registered already.
    pub fn on_disk(
        disk: Arc<CachedStore>,
        cache_bytes: usize,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let mut blocks = Self::new(Arc::clone(&disk) as _, cache_bytes, clock, registry)?;
        if let Some(open) = Arc::get_mut(&mut blocks.open) {
            open.disk = Some(disk);
        }
        Ok(blocks)
    }

    async fn reader(&self, block: &v1::BlockRecord) -> Result<Arc<BlockReader>, ServiceError> {
        self.open.quarantine.check(block)?;
        if let Some(reader) = self.open.cache.lock().get(&block.path) {
            return Ok(reader);
        }
        let path = Path::parse(&block.path)
            .map_err(|e| ServiceError::Internal(format!("path {:?} of block {}: {e}", block.path, block.id)))?;
        let reader = BlockReader::open_cached(Arc::clone(&self.store), path, &self.cached)
            .await
            .map_err(|error| self.open.failed(block, error))?;
        // Whoever moved objects about, the answer of another block would be taken for this one's.
        let meta = reader.meta();
        let parts = meta.parts.iter().map(|part| part.number);
        if meta.block.to_string() != block.id || meta.shard.0 != block.shard || !parts.eq(block.parts.iter().copied()) {
            let error = BlockError::Damaged {
                path: Path::from(block.path.as_str()),
                what: format!("the object is block {}, its record says {}", meta.block, block.id),
            };
            return Err(self.open.failed(block, error));
        }
        let reader = Arc::new(reader);
        self.open.cache.lock().insert(&block.path, &reader);
        Ok(reader)
    }
}

#[async_trait]
impl BlockReads for StoredBlocks {
    async fn select(
        &self,
        block: &v1::BlockRecord,
        selection: &Selection,
        deletes: Deletes,
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
        let selected = selected.map_err(|error| self.open.failed(block, error))?;
        let (open, block) = (Arc::clone(&self.open), block.clone());
        let batches = selected.without(deletes).counting(skipped.counter()).into_batches();
        Ok(batches.map_err(move |error| open.failed(&block, error)).boxed())
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
            all.extend(found.map_err(|error| self.open.failed(block, error))?);
        }
        Ok(all.into_iter().collect())
    }

    async fn exemplars(&self, block: &v1::BlockRecord, filter: ExemplarFilter) -> Result<ExemplarStream, ServiceError> {
        let reader = self.reader(block).await?;
        let found = reader.exemplars(filter).await;
        let found = found.map_err(|error| self.open.failed(block, error))?;
        let (open, block) = (Arc::clone(&self.open), block.clone());
        let pieces = futures::stream::try_unfold(found, |mut found| async move {
            Ok(found.next().await?.map(|series| (series, found)))
        });
        Ok(pieces.map_err(move |error| open.failed(&block, error)).boxed())
    }

    async fn metadata(
        &self,
        block: &v1::BlockRecord,
        metric: Option<&str>,
        memory: &MemoryBudget,
    ) -> Result<(Vec<(String, MetricMetadata)>, Reserved), ServiceError> {
        let reader = self.reader(block).await?;
        let over = |error: OverBudget| ServiceError::LimitExceeded(error.to_string());
        let (mut held, mut refused) = (memory.reserve(0).map_err(over)?, None);
        let mut room = |bytes: u64| {
            refused = held.grow(bytes).err();
            refused.is_none()
        };
        let found = reader.metadata_within(metric, &mut room).await;
        if let Some(refused) = refused {
            return Err(over(refused));
        }
        let found = found.map_err(|error| self.open.failed(block, error))?;
        Ok((found.unwrap_or_default(), held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::{BlockId, ClusterId, Labels, ManualClock, ShardId, TenantId, TimeRange, TimestampMs};
    use gnomon_tsdb::{BlockMeta, BlockWriter, FloatPageBuilder, MemorySink};
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;
    use std::time::Duration;

    async fn block() -> Vec<u8> {
        let window = TimeRange::new(TimestampMs(0), TimestampMs(7_200_000));
        let meta = BlockMeta::new(BlockId(1), ClusterId(1), TenantId::anonymous(), ShardId(0), window);
        let mut writer = BlockWriter::new(meta, MemorySink::default());
        let mut page = FloatPageBuilder::new();
        // One value for all samples would be in the index.
        for (at, value) in [(1000, 1.5), (2000, 2.75), (3000, 4.0)] {
            page.append(at, value).unwrap();
        }
        let labels = Labels::from_pairs([("__name__", "m")]);
        writer.add_series(labels.as_ref(), page.page()).await.unwrap();
        writer.finish().await.unwrap().output.to_vec()
    }

    async fn read(blocks: &StoredBlocks, path: &str) -> Result<usize, ServiceError> {
        read_as(blocks, path, BlockId(1)).await
    }

    async fn read_as(blocks: &StoredBlocks, path: &str, id: BlockId) -> Result<usize, ServiceError> {
        let block = v1::BlockRecord {
            id: id.to_string(),
            path: path.into(),
            ..v1::BlockRecord::default()
        };
        let selection = Selection {
            matchers: Vec::new(),
            start_ms: 0,
            end_ms: i64::MAX,
            labels_only: false,
        };
        let stream = blocks
            .select(&block, &selection, Deletes::default(), &Skipped::default())
            .await?;
        Ok(stream.try_collect::<Vec<_>>().await?.len())
    }

    #[tokio::test]
    async fn an_object_that_is_another_block_is_not_answered_from() {
        let store = Arc::new(InMemory::new());
        store.put(&Path::from("there"), block().await.into()).await.unwrap();
        let blocks = StoredBlocks::new(
            store,
            1 << 20,
            Arc::new(ManualClock::at(TimestampMs(0))),
            &Registry::new(),
        )
        .unwrap();
        let found = read_as(&blocks, "there", BlockId(2)).await;
        assert!(
            matches!(&found, Err(ServiceError::Damaged(what)) if what.contains("its record says")),
            "{found:?}"
        );
    }

    #[tokio::test]
    async fn a_damaged_block_is_left_alone_and_looked_at_again() {
        let store = Arc::new(InMemory::new());
        let good = block().await;
        let put = async |path: &str, bytes: &[u8]| {
            let payload = object_store::PutPayload::from(bytes.to_vec());
            store.put(&Path::from(path), payload).await.unwrap();
        };
        let clock = Arc::new(ManualClock::at(TimestampMs(0)));
        let registry = Registry::new();
        let blocks = StoredBlocks::new(store.clone(), 1 << 20, clock.clone(), &registry).unwrap();
        put("good", &good).await;
        // In a page, in the index, at the end, and cut off.
        let length = good.len();
        for (name, at) in [("page", 20), ("index", 60), ("footer", length - 20), ("cut", length)] {
            let mut bad = good.clone();
            match bad.get_mut(at) {
                Some(byte) => *byte ^= 1,
                None => bad.truncate(length / 2),
            }
            put(name, &bad).await;
            let found = read(&blocks, name).await;
            assert!(matches!(found, Err(ServiceError::Damaged(_))), "{name}: {found:?}");
            put(name, &good).await;
            assert_eq!(read(&blocks, name).await, found, "{name}");
            assert_eq!(read(&blocks, "good").await, Ok(1));
        }
        let metric = |name: &str| {
            let all = registry.gather();
            let family = all.iter().find(|family| family.name() == name).unwrap();
            let metric = &family.get_metric()[0];
            metric.get_gauge().get_value() + metric.get_counter().get_value()
        };
        assert_eq!(metric("gnomon_querier_quarantined_blocks"), 4.0);
        clock.advance(Duration::from_secs(300));
        for name in ["page", "index", "footer", "cut"] {
            assert_eq!(read(&blocks, name).await, Ok(1), "{name}");
        }
        assert_eq!(metric("gnomon_querier_quarantined_blocks"), 0.0);
        assert_eq!(metric("gnomon_querier_damaged_blocks_total"), 4.0);
    }
}
