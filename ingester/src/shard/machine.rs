//! The shard as a Raft group's state machine.

use super::apply::ApplyError;
use super::flush::{RestoreError, StateSink, StateSource, Visit};
use super::keys;
use super::state::ShardState;
use bytes::Bytes;
use gnomon_cluster::raft::{Applied, StateError, StateMachine, StateReader, StateWriter};
use gnomon_model::ids::CURRENT_FEATURE_LEVEL;
use gnomon_model::{FeatureLevel, ShardId};
use gnomon_promql::{MemoryBudget, QueryMemory};
use parking_lot::{RwLock, RwLockWriteGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One replica of a shard.
pub struct ShardMachine {
    shard: ShardId,
    understands: FeatureLevel,
    state: RwLock<ShardState>,
    reader: RwLock<Option<Arc<dyn StateReader>>>,
    /// A part was sealed: flush, so that its pages leave memory.
    wants_flush: AtomicBool,
    /// An entry could not be applied; nothing is until the state is restored.
    failed: AtomicBool,
    sealed_bytes: AtomicU64,
    series: AtomicU64,
    /// What all who read heads may hold.
    read_memory: Arc<QueryMemory>,
}

impl ShardMachine {
    #[must_use]
    pub fn new(shard: ShardId) -> Self {
        Self {
            shard,
            understands: CURRENT_FEATURE_LEVEL,
            state: RwLock::new(ShardState::new(shard)),
            reader: RwLock::new(None),
            wants_flush: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            sealed_bytes: AtomicU64::new(0),
            series: AtomicU64::new(0),
            read_memory: QueryMemory::unlimited(),
        }
    }

    /// As an older build, which understands no more than this.
    #[must_use]
    pub fn understanding(mut self, level: FeatureLevel) -> Self {
        self.understands = level;
        self.state.get_mut().understands = level;
        self
    }

    /// Bounds what selections of this shard, and of others with the same memory, may hold.
    #[must_use]
    pub fn with_read_memory(self, read_memory: Arc<QueryMemory>) -> Self {
        Self { read_memory, ..self }
    }

    /// The account of one more who reads the head.
    pub(crate) fn read_budget(&self) -> MemoryBudget {
        self.read_memory.budget()
    }

    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Looks at the state between two entries; applying waits meanwhile.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&ShardState) -> T) -> T {
        look(&self.state.read())
    }

    /// As [`Self::read`], if that needs no waiting.
    pub(crate) fn try_read<T>(&self, look: impl FnOnce(&ShardState) -> T) -> Option<T> {
        self.state.try_read().map(|state| look(&state))
    }

    /// Bytes of sealed parts that are not published.
    pub(crate) fn sealed_bytes(&self) -> u64 {
        self.sealed_bytes.load(Ordering::Relaxed)
    }

    /// As of the newest entries.
    pub(crate) fn series_count(&self) -> u64 {
        self.series.load(Ordering::Relaxed)
    }

    /// What flushes have made durable; none before the first restore.
    pub(crate) fn reader(&self) -> Option<Arc<dyn StateReader>> {
        self.reader.read().clone()
    }

    /// False after an entry that could not be applied: what is in memory is not to be read.
    pub(crate) fn is_sound(&self) -> bool {
        !self.failed.load(Ordering::Acquire)
    }

    fn apply_one(&self, state: &mut RwLockWriteGuard<'_, ShardState>, entry: &Applied<'_>) -> Bytes {
        if self.failed.load(Ordering::Acquire) {
            return Bytes::new();
        }
        match self.apply_whole(state, entry) {
            Ok(answer) => answer,
            Err(error) => {
                tracing::error!(shard = self.shard.0, %error, "the shard's replica stops applying");
                self.failed.store(true, Ordering::Release);
                Bytes::new()
            }
        }
    }

    /// An entry that takes long lets readers in now and then.
    fn apply_whole(
        &self,
        state: &mut RwLockWriteGuard<'_, ShardState>,
        entry: &Applied<'_>,
    ) -> Result<Bytes, ApplyError> {
        let answer = state.begin(entry.index, entry.payload)?;
        while state.go_on(entry.index)? {
            RwLockWriteGuard::bump(state);
        }
        Ok(answer)
    }
}

impl StateMachine for ShardMachine {
    /// An answer is empty only where the entry could not be applied.
    fn apply(&self, entries: &[Applied<'_>]) -> Vec<Bytes> {
        let mut state = self.state.write();
        let answers = entries.iter().map(|entry| self.apply_one(&mut state, entry)).collect();
        self.sealed_bytes.store(state.sealed_bytes(), Ordering::Relaxed);
        self.series.store(state.series_count(), Ordering::Relaxed);
        if state.has_unflushed_parts() {
            self.wants_flush.store(true, Ordering::Release);
        }
        answers
    }

    fn flush(&self, out: &mut dyn StateWriter) -> Result<(), StateError> {
        if !self.is_sound() {
            return Err(StateError::Corrupt(format!(
                "shard {} met a log entry it cannot apply",
                self.shard
            )));
        }
        self.wants_flush.store(false, Ordering::Release);
        // Reading goes on while the batch is filled; entries do not come meanwhile.
        let written = self.state.read().write_changes(&mut Sink(out));
        written.map_err(|error| StateError::Corrupt(format!("shard {}: {error}", self.shard)))?;
        self.state.write().set_flushed();
        Ok(())
    }

    fn flushed(&self, _index: u64) {
        self.state.write().release_flushed();
    }

    fn restore(&self, from: &dyn StateReader) -> Result<(), StateError> {
        let restored = ShardState::restore(self.shard, from.index(), &Source(from));
        let mut restored = restored.map_err(|error| StateError::Corrupt(format!("shard {}: {error}", self.shard)))?;
        if restored.counters.feature_level > self.understands {
            return Err(StateError::Newer {
                found: restored.counters.feature_level,
                understands: self.understands,
            });
        }
        restored.understands = self.understands;
        self.sealed_bytes.store(restored.sealed_bytes(), Ordering::Relaxed);
        self.series.store(restored.series_count(), Ordering::Relaxed);
        *self.reader.write() = Some(from.share());
        *self.state.write() = restored;
        self.failed.store(false, Ordering::Release);
        self.wants_flush.store(false, Ordering::Release);
        Ok(())
    }

    fn wants_flush(&self) -> bool {
        self.wants_flush.load(Ordering::Acquire)
    }
}

struct Sink<'a>(&'a mut dyn StateWriter);

impl StateSink for Sink<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.0.put(key, value);
    }
    fn delete(&mut self, key: &[u8]) {
        self.0.delete(key);
    }
    fn delete_range(&mut self, from: &[u8], to: &[u8]) {
        self.0.delete_range(from, to);
    }
}

struct Source<'a>(&'a dyn StateReader);

impl StateSource for Source<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RestoreError> {
        let value = self.0.get(key).map_err(|e| RestoreError::Store(e.to_string()))?;
        Ok(value.map(Into::into))
    }

    fn scan(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), RestoreError> {
        let mut outcome = Ok(());
        let end = keys::after(prefix.to_vec());
        let scanned = self.0.scan(prefix, Some(&end), &mut |key, value| {
            outcome = visit(key, value);
            outcome.is_ok()
        });
        scanned.map_err(|e| RestoreError::Store(e.to_string()))?;
        outcome
    }
}
