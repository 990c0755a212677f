//! RocksDB as the storage engine.

use super::backend::{Backend, Batch, BatchKind, Saved, SavedKind, SharedBackend, Space, Visit};
use super::{StoreError, StoreOptions};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use prometheus::IntCounter;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, LogLevel, Options,
    ReadOptions,
};
use rocksdb::{DBRecoveryMode, ErrorKind, WriteBatch, WriteOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(super) struct RocksBackend {
    folder: PathBuf,
    options: StoreOptions,
    damaged: IntCounter,
    db: RwLock<Option<Arc<DB>>>,
    /// Whether a write failed since the engine was opened. Held while writing: RocksDB must not be asked to write to
    /// a file that has failed before (where it is built with assertions, as Debian's is, that ends the process).
    failed: Mutex<bool>,
}

pub(super) struct RocksBatch {
    db: Arc<DB>,
    writes: WriteBatch,
}

fn engine(operation: &'static str) -> impl Fn(rocksdb::Error) -> StoreError {
    move |error| match error.kind() {
        ErrorKind::Corruption => StoreError::Damaged {
            operation,
            message: error.into_string(),
        },
        _ => StoreError::Engine {
            operation,
            message: error.into_string(),
        },
    }
}

/// All spaces are made when the database is opened, so this finds them.
fn family(db: &DB, space: Space) -> Result<&ColumnFamily, StoreError> {
    db.cf_handle(space.name()).ok_or(StoreError::Closed)
}

impl RocksBatch {
    pub(super) fn put(&mut self, space: Space, key: &[u8], value: &[u8]) {
        if let Some(cf) = self.db.cf_handle(space.name()) {
            self.writes.put_cf(cf, key, value);
        }
    }

    pub(super) fn delete(&mut self, space: Space, key: &[u8]) {
        if let Some(cf) = self.db.cf_handle(space.name()) {
            self.writes.delete_cf(cf, key);
        }
    }

    pub(super) fn delete_range(&mut self, space: Space, from: &[u8], to: &[u8]) {
        if let Some(cf) = self.db.cf_handle(space.name()) {
            self.writes.delete_range_cf(cf, from, to);
        }
    }

    pub(super) fn size_bytes(&self) -> usize {
        self.writes.size_in_bytes()
    }

    pub(super) fn data(&self) -> &[u8] {
        self.writes.data()
    }
}

/// RocksDB in a folder, for [`super::NodeStore::over`] with something between the two that sees every write.
///
/// # Errors
/// When the folder or the database in it cannot be used, or another process uses it.
pub fn open_rocksdb(folder: &Path, options: StoreOptions) -> Result<SharedBackend, StoreError> {
    let damaged = IntCounter::new("damaged", "Damaged write-ahead logs.").map_err(|error| StoreError::Engine {
        operation: "open",
        message: error.to_string(),
    })?;
    Ok(Arc::new(RocksBackend::open(folder, options, damaged)?))
}

impl RocksBackend {
    /// `damaged` counts the times that the write-ahead log was not whole before its end.
    pub(super) fn open(folder: &Path, options: StoreOptions, damaged: IntCounter) -> Result<Self, StoreError> {
        let db = open_db(folder, &options, &damaged)?;
        Ok(Self {
            folder: folder.to_owned(),
            options,
            damaged,
            db: RwLock::new(Some(Arc::new(db))),
            failed: Mutex::new(false),
        })
    }

    fn db(&self) -> Result<Arc<DB>, StoreError> {
        self.db.read().clone().ok_or(StoreError::Closed)
    }
}

impl Backend for RocksBackend {
    fn batch(&self) -> Result<Batch, StoreError> {
        Ok(Batch(BatchKind::Rocks(RocksBatch {
            db: self.db()?,
            writes: WriteBatch::default(),
        })))
    }

    fn batch_of(&self, saved: &Saved) -> Result<Batch, StoreError> {
        match &saved.0 {
            SavedKind::Rocks(data) => Ok(Batch(BatchKind::Rocks(RocksBatch {
                db: self.db()?,
                writes: WriteBatch::from_data(data),
            }))),
            SavedKind::Memory(_) => Err(StoreError::Closed),
        }
    }

    fn write(&self, batch: Batch, sync: bool) -> Result<(), StoreError> {
        let BatchKind::Rocks(batch) = batch.0 else {
            return Err(StoreError::Closed);
        };
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        let mut failed = self.failed.lock();
        if *failed {
            return Err(StoreError::Failed);
        }
        let written = batch.db.write_opt(batch.writes, &options);
        *failed = written.is_err();
        written.map_err(engine("write"))
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let db = self.db()?;
        let found = db.get_pinned_cf(family(&db, space)?, key).map_err(engine("read"))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, space: Space, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StoreError> {
        let db = self.db()?;
        // An iterator of RocksDB reads the state of the moment it was made.
        let mut rows = db.raw_iterator_cf_opt(family(&db, space)?, bounds(to));
        rows.seek(from);
        while let Some((key, value)) = rows.item() {
            if !visit(key, value) {
                return Ok(());
            }
            rows.next();
        }
        rows.status().map_err(engine("scan"))
    }

    fn last(&self, space: Space, from: &[u8], to: &[u8]) -> Result<Option<(Vec<u8>, Bytes)>, StoreError> {
        let db = self.db()?;
        let mut options = bounds(to);
        options.set_iterate_lower_bound(from);
        let mut rows = db.raw_iterator_cf_opt(family(&db, space)?, options);
        rows.seek_to_last();
        let found = rows
            .item()
            .map(|(key, value)| (key.to_vec(), Bytes::copy_from_slice(value)));
        rows.status().map_err(engine("seek"))?;
        Ok(found)
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut slot = self.db.write();
        if let Some(db) = slot.take() {
            // Reads and writes under way hold the engine a moment longer; its folder is locked until they are done.
            if let Err(db) = release(db) {
                *slot = Some(db);
                return Err(StoreError::Engine {
                    operation: "reopen",
                    message: "a reader still holds the store".into(),
                });
            }
        }
        match open_db(&self.folder, &self.options, &self.damaged) {
            Ok(db) => {
                *slot = Some(Arc::new(db));
                *self.failed.lock() = false;
                Ok(())
            }
            Err(error) => {
                // Reading needs no writable disk.
                match open_to_read(&self.folder, &self.options) {
                    Ok(db) => *slot = Some(Arc::new(db)),
                    Err(error) => tracing::warn!(%error, "the store cannot be read until it is reopened"),
                }
                Err(error)
            }
        }
    }

    fn memory(&self) -> Vec<(&'static str, u64)> {
        let Ok(db) = self.db() else {
            return Vec::new();
        };
        let of_all = |property: &str| {
            let families = Space::ALL.into_iter().filter_map(|space| family(&db, space).ok());
            let values = families.map(|family| db.property_int_value_cf(family, property).ok().flatten());
            values.flatten().sum()
        };
        let of = |space: Space, property: &str| {
            let family = family(&db, space).ok()?;
            db.property_int_value_cf(family, property).ok().flatten()
        };
        let memtables = |space| of(space, "rocksdb.cur-size-all-mem-tables").unwrap_or(0);
        vec![
            ("log", memtables(Space::Log)),
            ("state", memtables(Space::State)),
            ("blocks", of(Space::State, "rocksdb.block-cache-usage").unwrap_or(0)),
            ("tables", of_all("rocksdb.estimate-table-readers-mem")),
        ]
    }

    fn close(&self) {
        let Some(db) = self.db.write().take() else {
            return;
        };
        if !*self.failed.lock()
            && let Err(error) = db.flush_wal(true)
        {
            tracing::warn!(%error, "the write-ahead log could not be synced at shutdown");
        }
        if release(db).is_err() {
            tracing::warn!("the store is still being read at shutdown");
        }
    }
}

/// Waits up to two seconds for other holders.
fn release(mut db: Arc<DB>) -> Result<(), Arc<DB>> {
    for _ in 0..200 {
        match Arc::try_unwrap(db) {
            Ok(db) => {
                db.cancel_all_background_work(true);
                drop(db);
                return Ok(());
            }
            Err(held) => db = held,
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(db)
}

/// Who reads a range reads it once, and much of it: what is cached is left for those who read single values.
fn bounds(to: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(to);
    options.fill_cache(false);
    options
}

/// Opens without a word where the write-ahead log is whole. Where it is not, replay ends at the first gap: every synced
/// write lies before the gap that a power cut leaves, since a sync covers all that was written before it. A gap in the
/// middle takes acknowledged writes along, which has to be said: RocksDB itself keeps quiet about it.
fn open_db(folder: &Path, options: &StoreOptions, damaged: &IntCounter) -> Result<DB, StoreError> {
    let mut whole = whole_options(options);
    let open = |whole: &Options| DB::open_cf_descriptors(whole, folder, families(options));
    whole.set_wal_recovery_mode(DBRecoveryMode::AbsoluteConsistency);
    let damage = match open(&whole) {
        Err(error) if error.kind() == ErrorKind::Corruption => error.into_string(),
        Err(error) if is_locked(&error) => {
            let path = folder.display().to_string();
            return Err(StoreError::InUse { path });
        }
        other => return other.map_err(engine("open")),
    };
    whole.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    let db = open(&whole).map_err(engine("open"))?;
    if is_torn_end(&damage) {
        tracing::info!(%damage, "the last write before the end was not finished and is left out");
    } else {
        damaged.inc();
        tracing::error!(
            folder = %folder.display(),
            %damage,
            "the write-ahead log is damaged: what was written after that place is lost (after a power cut: only what was \
             not acknowledged yet)"
        );
    }
    Ok(db)
}

/// The record that was being written when the process ended.
fn is_torn_end(damage: &str) -> bool {
    [
        "truncated header",
        "truncated record body",
        "error reading trailing data",
    ]
    .iter()
    .any(|text| damage.contains(text))
}

fn is_locked(error: &rocksdb::Error) -> bool {
    let text = error.as_ref();
    error.kind() == ErrorKind::IOError && (text.contains("While lock file") || text.contains("lock hold by"))
}

fn open_to_read(folder: &Path, options: &StoreOptions) -> Result<DB, StoreError> {
    let opened = DB::open_cf_descriptors_read_only(&whole_options(options), folder, families(options), false);
    opened.map_err(engine("open for reading"))
}

fn whole_options(options: &StoreOptions) -> Options {
    let mut whole = Options::default();
    whole.create_if_missing(true);
    whole.create_missing_column_families(true);
    whole.set_max_total_wal_size(options.wal_bytes);
    whole.set_max_open_files(512);
    whole.set_keep_log_file_num(4);
    // RocksDB's own log file is on the same disk: built with assertions, as Debian's library is, 7.8 ends the process
    // when it logs once more after that file could not be written. At this level nothing is logged at all; what matters
    // comes back as errors of calls.
    whole.set_log_level(LogLevel::Header);
    whole.set_max_background_jobs(2);
    whole.set_wal_bytes_per_sync(1 << 20);
    whole.set_bytes_per_sync(1 << 20);
    whole
}

fn families(options: &StoreOptions) -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(options.cache_bytes);
    Space::ALL
        .into_iter()
        .map(|space| ColumnFamilyDescriptor::new(space.name(), family_options(space, options, &cache)))
        .chain([unused_family()])
        .collect()
}

/// Files of the log that wait to be merged.
const LOG_FILES: i32 = 16;

/// RocksDB insists on it. Space for each write-ahead log is reserved by the largest buffer of any family, so its must
/// be small (64 MiB is the default).
fn unused_family() -> ColumnFamilyDescriptor {
    let mut options = Options::default();
    options.set_write_buffer_size(64 << 10);
    ColumnFamilyDescriptor::new(rocksdb::DEFAULT_COLUMN_FAMILY_NAME, options)
}

fn family_options(space: Space, options: &StoreOptions, cache: &Cache) -> Options {
    let mut family = Options::default();
    // Two buffers: one is written to the disk while the other fills.
    family.set_max_write_buffer_number(2);
    family.set_write_buffer_size(match space {
        Space::Log => options.log_memtable_bytes / 2,
        Space::State => options.state_memtable_bytes / 2,
        Space::Node | Space::Meta => 1 << 20,
    });
    if space == Space::Log {
        // Its buffers are small and most of what is in their files is removed before it is merged: as many bytes wait for
        // that as with larger ones.
        family.set_level_zero_file_num_compaction_trigger(LOG_FILES);
        family.set_level_zero_slowdown_writes_trigger(3 * LOG_FILES);
        family.set_level_zero_stop_writes_trigger(5 * LOG_FILES);
    }
    // What is stored comes compressed: samples are coded, pages too.
    family.set_compression_type(rocksdb::DBCompressionType::None);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(16 << 10);
    table.set_cache_index_and_filter_blocks(true);
    table.set_format_version(5);
    if space == Space::State {
        // Index and filter in pieces: whole, those of a file of half a million keys are larger than what the cache takes, and were
        // read anew for each series of a part that was uploaded.
        table.set_bloom_filter(10.0, false);
        table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        table.set_partition_filters(true);
    }
    family.set_block_based_table_factory(&table);
    family
}
