//! An in-memory storage engine that can fail, be slow, and lose power.

use super::StoreError;
use super::backend::{Backend, Batch, BatchKind, Change, Saved, SavedKind, Space, Visit};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;

type Rows = BTreeMap<(Space, Vec<u8>), Bytes>;

/// An engine for tests and simulation. What was written without `sync` is lost in a power cut.
#[derive(Default)]
pub struct MemoryBackend {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// What reads see.
    live: Rows,
    /// What survives a power cut.
    durable: Rows,
    /// Written since the last sync, oldest first.
    unsynced: Vec<Vec<Change>>,
    faults: Faults,
    closed: bool,
    /// After a failed write nothing is taken until reopened, as RocksDB does.
    failed: bool,
    syncs: u64,
    reopenings: u64,
}

/// What goes wrong in a [`MemoryBackend`].
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Writes fail, as on a full disk.
    pub fail_writes: bool,
    /// This many more writes succeed, later ones fail.
    pub fail_after_writes: Option<u64>,
    /// The same fail since files are damaged, and so does each opening.
    pub damaged: bool,
    /// Each sync takes this long.
    pub sync_delay: Duration,
}

impl MemoryBackend {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub fn set_faults(&self, faults: Faults) {
        self.inner.lock().faults = faults;
    }

    /// How often something was synced.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.inner.lock().syncs
    }

    /// How often it was tried to open it again.
    #[must_use]
    pub fn reopenings(&self) -> u64 {
        self.inner.lock().reopenings
    }

    /// Another engine with what would be found after a power cut now: everything synced, and the oldest `kept` of the
    /// batches that were not.
    #[must_use]
    pub fn after_power_cut(&self, kept: usize) -> Self {
        let inner = self.inner.lock();
        let mut rows = inner.durable.clone();
        for change in inner.unsynced.iter().take(kept).flatten() {
            make(&mut rows, change);
        }
        Self {
            inner: Mutex::new(Inner {
                live: rows.clone(),
                durable: rows,
                ..Inner::default()
            }),
        }
    }

    /// Batches written and not synced.
    #[must_use]
    pub fn unsynced(&self) -> usize {
        self.inner.lock().unsynced.len()
    }
}

fn make(rows: &mut Rows, change: &Change) {
    match change {
        Change::Put(space, key, value) => {
            rows.insert((*space, key.clone()), value.clone());
        }
        Change::Delete(space, key) => {
            rows.remove(&(*space, key.clone()));
        }
        Change::DeleteRange(space, from, to) => {
            let gone: Vec<_> = range(rows, *space, from, to).map(|(key, _)| key.clone()).collect();
            for key in gone {
                rows.remove(&key);
            }
        }
    }
}

fn range<'a>(
    rows: &'a Rows,
    space: Space,
    from: &[u8],
    to: &[u8],
) -> impl DoubleEndedIterator<Item = (&'a (Space, Vec<u8>), &'a Bytes)> {
    let to = if to < from { from } else { to };
    rows.range((space, from.to_vec())..(space, to.to_vec()))
}

impl Inner {
    fn readable(&self) -> Result<(), StoreError> {
        if self.closed { Err(StoreError::Closed) } else { Ok(()) }
    }

    fn fails(&mut self) -> bool {
        match &mut self.faults.fail_after_writes {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                self.faults.fail_writes
            }
            None => self.faults.fail_writes || self.faults.damaged,
        }
    }

    fn error(&self, operation: &'static str) -> StoreError {
        match self.faults.damaged {
            true => StoreError::Damaged {
                operation,
                message: "checksum mismatch (injected)".into(),
            },
            false => StoreError::Engine {
                operation,
                message: "no space left (injected)".into(),
            },
        }
    }
}

impl Backend for MemoryBackend {
    fn batch(&self) -> Result<Batch, StoreError> {
        self.inner.lock().readable()?;
        Ok(Batch(BatchKind::Memory(Vec::new())))
    }

    fn batch_of(&self, saved: &Saved) -> Result<Batch, StoreError> {
        self.inner.lock().readable()?;
        match &saved.0 {
            SavedKind::Memory(changes) => Ok(Batch(BatchKind::Memory(changes.clone()))),
            SavedKind::Rocks(_) => Err(StoreError::Closed),
        }
    }

    fn write(&self, batch: Batch, sync: bool) -> Result<(), StoreError> {
        let BatchKind::Memory(changes) = batch.0 else {
            return Err(StoreError::Closed);
        };
        let delay = self.inner.lock().faults.sync_delay;
        if sync && !delay.is_zero() {
            std::thread::sleep(delay);
        }
        let mut inner = self.inner.lock();
        inner.readable()?;
        if inner.failed || inner.fails() {
            inner.failed = true;
            return Err(inner.error("write"));
        }
        let inner = &mut *inner;
        for change in &changes {
            make(&mut inner.live, change);
        }
        inner.unsynced.push(changes);
        if sync {
            inner.syncs += 1;
            for change in inner.unsynced.drain(..).flatten() {
                make(&mut inner.durable, &change);
            }
        }
        Ok(())
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let inner = self.inner.lock();
        inner.readable()?;
        Ok(inner.live.get(&(space, key.to_vec())).cloned())
    }

    fn scan(&self, space: Space, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StoreError> {
        let rows: Vec<_> = {
            let inner = self.inner.lock();
            inner.readable()?;
            range(&inner.live, space, from, to)
                .map(|((_, key), value)| (key.clone(), value.clone()))
                .collect()
        };
        for (key, value) in rows {
            if !visit(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn last(&self, space: Space, from: &[u8], to: &[u8]) -> Result<Option<(Vec<u8>, Bytes)>, StoreError> {
        let inner = self.inner.lock();
        inner.readable()?;
        Ok(range(&inner.live, space, from, to)
            .next_back()
            .map(|((_, key), value)| (key.clone(), value.clone())))
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut inner = self.inner.lock();
        inner.reopenings += 1;
        if inner.faults.fail_writes || inner.faults.damaged || inner.faults.fail_after_writes == Some(0) {
            return Err(inner.error("reopen"));
        }
        inner.closed = false;
        inner.failed = false;
        Ok(())
    }

    fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        let rows = inner.live.clone();
        inner.durable = rows;
        inner.unsynced.clear();
    }
}
