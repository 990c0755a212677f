//! The seam below the store: what a storage engine must do. RocksDB does it on disk; the in-memory engine does it for
//! tests and simulation, with faults.

use super::StoreError;
use bytes::Bytes;
use std::sync::Arc;

/// Column families. Keys of different spaces never meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Space {
    /// Whose data folder this is.
    Node,
    /// Log entries: `group u32 BE, index u64 BE`.
    Log,
    /// Votes, committed and purged log ids, generations: `group u32 BE, tag u8`.
    Meta,
    /// Machine state: `group u32 BE, generation u64 BE, 0` for the head, `…, 1, key` for the machine's own keys.
    State,
}

impl Space {
    pub const ALL: [Self; 4] = [Self::Node, Self::Log, Self::Meta, Self::State];

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Log => "log",
            Self::Meta => "meta",
            Self::State => "state",
        }
    }
}

/// Visits keys and values; returns whether to go on.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> bool;

/// A storage engine: ordered keys in [`Space`]s, atomic batches.
pub trait Backend: Send + Sync + 'static {
    /// An empty batch for [`Self::write`] of this same backend.
    ///
    /// # Errors
    /// `Closed` while the engine is not open.
    fn batch(&self) -> Result<Batch, StoreError>;

    /// A batch again from [`Batch::saved`] of this same backend.
    ///
    /// # Errors
    /// `Closed` while the engine is not open.
    fn batch_of(&self, saved: &Saved) -> Result<Batch, StoreError>;

    /// Writes all of the batch or nothing. It is readable on return; with `sync` it, and everything written before
    /// it, survives the loss of power.
    ///
    /// # Errors
    /// When the engine fails; whether the batch was written is unknown then, until [`Self::reopen`].
    fn write(&self, batch: Batch, sync: bool) -> Result<(), StoreError>;

    /// # Errors
    /// When the engine fails.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Visits `from..to` (`to` exclusive) in ascending order over one consistent view, taken when the scan begins.
    ///
    /// # Errors
    /// When the engine fails.
    fn scan(&self, space: Space, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StoreError>;

    /// The greatest key of `from..to` and its value.
    ///
    /// # Errors
    /// When the engine fails.
    fn last(&self, space: Space, from: &[u8], to: &[u8]) -> Result<Option<(Vec<u8>, Bytes)>, StoreError>;

    /// Closes and opens the engine again; what was written with `sync` is there afterwards.
    ///
    /// # Errors
    /// When it cannot be opened, or readers still hold it; try again later. What was stored stays readable if it can.
    fn reopen(&self) -> Result<(), StoreError>;

    /// Memory that the engine holds, in bytes, by what it is of. Cheap.
    fn memory(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// Makes everything written durable and closes the engine. Later calls give `Closed`.
    fn close(&self);
}

/// Writes that happen together.
pub struct Batch(pub(super) BatchKind);

pub(super) enum BatchKind {
    Rocks(super::rocks::RocksBatch),
    Memory(Vec<Change>),
}

/// What a batch holds, for making it again.
pub struct Saved(pub(super) SavedKind);

pub(super) enum SavedKind {
    Rocks(Vec<u8>),
    Memory(Vec<Change>),
}

/// One write of an in-memory batch.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Put(Space, Vec<u8>, Bytes),
    Delete(Space, Vec<u8>),
    DeleteRange(Space, Vec<u8>, Vec<u8>),
}

impl Batch {
    pub fn put(&mut self, space: Space, key: &[u8], value: &[u8]) {
        match &mut self.0 {
            BatchKind::Rocks(batch) => batch.put(space, key, value),
            BatchKind::Memory(changes) => {
                changes.push(Change::Put(space, key.to_vec(), Bytes::copy_from_slice(value)));
            }
        }
    }

    pub fn delete(&mut self, space: Space, key: &[u8]) {
        match &mut self.0 {
            BatchKind::Rocks(batch) => batch.delete(space, key),
            BatchKind::Memory(changes) => changes.push(Change::Delete(space, key.to_vec())),
        }
    }

    /// Deletes `from..to`, `to` exclusive.
    pub fn delete_range(&mut self, space: Space, from: &[u8], to: &[u8]) {
        match &mut self.0 {
            BatchKind::Rocks(batch) => batch.delete_range(space, from, to),
            BatchKind::Memory(changes) => changes.push(Change::DeleteRange(space, from.to_vec(), to.to_vec())),
        }
    }

    /// A copy of what it holds.
    #[must_use]
    pub fn saved(&self) -> Saved {
        Saved(match &self.0 {
            BatchKind::Rocks(batch) => SavedKind::Rocks(batch.data().to_vec()),
            BatchKind::Memory(changes) => SavedKind::Memory(changes.clone()),
        })
    }

    /// Bytes the batch takes in memory and in the write-ahead log, roughly.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        match &self.0 {
            BatchKind::Rocks(batch) => batch.size_bytes(),
            BatchKind::Memory(changes) => changes.iter().map(Change::size_bytes).sum(),
        }
    }
}

impl Change {
    fn size_bytes(&self) -> usize {
        match self {
            Self::Put(_, key, value) => key.len() + value.len(),
            Self::Delete(_, key) => key.len(),
            Self::DeleteRange(_, from, to) => from.len() + to.len(),
        }
    }
}

/// A backend that many hold.
pub type SharedBackend = Arc<dyn Backend>;
