//! The local engine with the injector before it.

use crate::injector::{Class, Injector};
use bytes::Bytes;
use gnomon_cluster::store::{Backend, Batch, Saved, SharedBackend, Space, StoreError, Visit};
use gnomon_tsdb::bucket::faults::Fate;
use std::sync::Arc;

/// After a crash it takes writes and forgets them: whoever still writes is not there.
pub struct CountedEngine {
    pub inner: SharedBackend,
    pub injector: Arc<Injector>,
    /// Whether a crash is a power cut: nothing is made durable on the way out.
    pub loses_power: bool,
}

fn injected() -> StoreError {
    StoreError::Engine {
        operation: "write",
        message: "injected".into(),
    }
}

impl Backend for CountedEngine {
    fn batch(&self) -> Result<Batch, StoreError> {
        self.inner.batch()
    }

    fn batch_of(&self, saved: &Saved) -> Result<Batch, StoreError> {
        self.inner.batch_of(saved)
    }

    fn write(&self, batch: Batch, sync: bool) -> Result<(), StoreError> {
        if self.injector.is_dead() {
            return Ok(());
        }
        match self.injector.next(Class::Write) {
            Fate::Sound => self.inner.write(batch, sync),
            Fate::Refused => Err(injected()),
            Fate::LostResponse | Fate::Torn => {
                let written = self.inner.write(batch, sync);
                self.injector.done();
                written.and(Err(injected()))
            }
        }
    }

    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.inner.get(space, key)
    }

    fn scan(&self, space: Space, from: &[u8], to: &[u8], visit: Visit<'_>) -> Result<(), StoreError> {
        self.inner.scan(space, from, to, visit)
    }

    fn last(&self, space: Space, from: &[u8], to: &[u8]) -> Result<Option<(Vec<u8>, Bytes)>, StoreError> {
        self.inner.last(space, from, to)
    }

    fn reopen(&self) -> Result<(), StoreError> {
        if self.injector.is_dead() {
            return Ok(());
        }
        self.inner.reopen()
    }

    fn close(&self) {
        if !(self.loses_power && self.injector.is_dead()) {
            self.inner.close();
        }
    }
}
