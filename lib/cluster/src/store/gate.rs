//! The gate before the engine: whether it may be written to now, and the wait until it may.
//!
//! A disk that fills up or turns read-only stops writing, nothing else: a write that fails waits here, the engine is
//! opened again once the disk takes writes, and the same write is made again. So no group has to be restarted, what is
//! in memory stays readable, and nothing later can stand where an earlier write is missing.

use super::StoreError;
use super::backend::{Batch, SharedBackend};
use super::disk::Disk;
use super::metrics::StoreMetrics;
use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// The disk is tried this often while it does not take writes.
const TRY_EVERY: Duration = Duration::from_millis(200);
/// Between two tries of a store that is damaged, which fails again as soon as it comes to the place.
const TRY_DAMAGED_EVERY: Duration = Duration::from_secs(30);
/// Room for this much more must be there before writing goes on, so that what waits finds it too.
const ROOM_BYTES: usize = 1 << 20;

/// Why nothing can be written now.
pub type Trouble = Option<Arc<str>>;

pub(crate) struct Gate {
    backend: SharedBackend,
    disk: Option<Arc<Disk>>,
    metrics: StoreMetrics,
    state: Mutex<State>,
    changed: Condvar,
    /// As in `state`, for those who wait or only look.
    told: watch::Sender<Trouble>,
    /// How often the engine was reopened: writes that were not synced may be gone then.
    epoch: AtomicU64,
}

#[derive(Default)]
struct State {
    trouble: Trouble,
    /// The engine itself failed, not only the look at the disk before it: it has to be reopened.
    engine_failed: bool,
    /// Monotonic time before which nothing is tried.
    not_before: Duration,
    /// One of those who wait is trying.
    trying: bool,
    /// Nobody waits any more.
    closing: bool,
}

impl Gate {
    pub(super) fn new(backend: SharedBackend, disk: Option<Arc<Disk>>, metrics: StoreMetrics) -> Self {
        Self {
            backend,
            disk,
            metrics,
            state: Mutex::default(),
            changed: Condvar::new(),
            told: watch::Sender::new(None),
            epoch: AtomicU64::new(0),
        }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(super) fn trouble(&self) -> Trouble {
        self.told.borrow().clone()
    }

    pub(super) fn watch(&self) -> watch::Receiver<Trouble> {
        self.told.subscribe()
    }

    /// From here on a write that fails is not made again.
    pub(super) fn close(&self) {
        self.state.lock().closing = true;
        self.changed.notify_all();
    }

    /// Writes what `make` makes, again and again until it is written; blocks.
    ///
    /// # Errors
    /// Only when the store is being closed.
    pub(super) fn write(
        &self,
        sync: bool,
        make: &mut dyn FnMut() -> Result<Batch, StoreError>,
    ) -> Result<(), StoreError> {
        loop {
            let batch = match make() {
                Ok(batch) => batch,
                Err(error) => {
                    self.fail(&error, true);
                    self.wait(0)?;
                    continue;
                }
            };
            let bytes = batch.size_bytes();
            match self.attempt(batch, bytes, sync) {
                Ok(()) => return Ok(()),
                Err(_) => self.wait(bytes)?,
            }
        }
    }

    /// As [`Self::write`], for a task where no thread may be blocked.
    ///
    /// # Errors
    /// Only when the store is being closed.
    pub(super) async fn write_in_task(
        &self,
        sync: bool,
        make: &mut (dyn FnMut() -> Result<Batch, StoreError> + Send),
    ) -> Result<(), StoreError> {
        loop {
            let bytes = match make() {
                Ok(batch) => {
                    let bytes = batch.size_bytes();
                    if self.attempt(batch, bytes, sync).is_ok() {
                        return Ok(());
                    }
                    bytes
                }
                Err(error) => {
                    self.fail(&error, true);
                    0
                }
            };
            while let Some(trouble) = self.trouble() {
                if self.state.lock().closing {
                    return Err(StoreError::Waiting(trouble.to_string()));
                }
                tokio::time::sleep(TRY_EVERY).await;
                let (is_over, engine_failed) = {
                    let state = self.state.lock();
                    (state.trouble.is_none() || state.closing, state.engine_failed)
                };
                if !is_over && self.recover(bytes, engine_failed).is_ok() {
                    self.set_well(&mut self.state.lock());
                }
            }
        }
    }

    /// Writes once.
    ///
    /// # Errors
    /// When the disk or the engine refuses, or the engine was reopened since `epoch`.
    pub(super) fn write_once(&self, epoch: u64, batch: Batch, sync: bool) -> Result<(), StoreError> {
        if self.epoch() != epoch {
            return Err(StoreError::Failed);
        }
        let bytes = batch.size_bytes();
        self.attempt(batch, bytes, sync)
    }

    fn attempt(&self, batch: Batch, bytes: usize, sync: bool) -> Result<(), StoreError> {
        if let Some(disk) = &self.disk
            && let Err(error) = disk.admit(bytes)
        {
            self.fail(&error, false);
            return Err(error);
        }
        let result = self.metrics.timed(sync, || self.backend.write(batch, sync));
        match &result {
            Ok(()) => {
                if let Some(disk) = &self.disk {
                    disk.wrote(bytes);
                }
            }
            Err(error) => self.fail(error, true),
        }
        result
    }

    fn fail(&self, error: &StoreError, engine_failed: bool) {
        let mut state = self.state.lock();
        state.engine_failed |= engine_failed;
        let is_damaged = self.put_off(&mut state, error);
        if state.trouble.is_some() {
            return;
        }
        let text: Arc<str> = match &self.disk {
            Some(disk) => disk.name(error).into(),
            None => error.to_string().into(),
        };
        tracing::error!(error = %text, "nothing can be written: writes wait or are refused until it can");
        self.metrics.failures.inc();
        self.metrics.trouble.set(1);
        state.trouble = Some(text.clone());
        self.told.send_replace(Some(text));
        if let Some(disk) = self.disk.as_ref().filter(|_| !is_damaged) {
            disk.drop_ballast();
        }
    }

    /// Whether the store is damaged: the next try is in a while then.
    fn put_off(&self, state: &mut State, error: &StoreError) -> bool {
        let is_damaged = matches!(error, StoreError::Damaged { .. });
        if is_damaged {
            state.not_before = self.metrics.now() + TRY_DAMAGED_EVERY;
        }
        is_damaged
    }

    /// Waits until the disk takes writes again; one of those who wait tries.
    fn wait(&self, bytes: usize) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        loop {
            let Some(trouble) = state.trouble.clone() else {
                return Ok(());
            };
            if state.closing {
                return Err(StoreError::Waiting(trouble.to_string()));
            }
            let mine = !std::mem::replace(&mut state.trying, true);
            self.changed.wait_for(&mut state, TRY_EVERY);
            if !mine {
                continue;
            }
            if state.closing {
                state.trying = false;
                continue;
            }
            let engine_failed = state.engine_failed;
            drop(state);
            let tried = self.recover(bytes, engine_failed);
            state = self.state.lock();
            state.trying = false;
            match tried {
                Ok(()) => self.set_well(&mut state),
                Err(error) => tracing::debug!(%error, "nothing can be written yet"),
            }
            self.changed.notify_all();
        }
    }

    fn set_well(&self, state: &mut State) {
        state.trouble = None;
        state.engine_failed = false;
        self.told.send_replace(None);
        self.metrics.trouble.set(0);
        tracing::info!("the disk takes writes again");
    }

    fn recover(&self, bytes: usize, engine_failed: bool) -> Result<(), StoreError> {
        if self.metrics.now() < self.state.lock().not_before {
            return Err(StoreError::Failed);
        }
        if let Some(disk) = &self.disk {
            disk.probe(bytes.max(ROOM_BYTES))?;
        }
        if engine_failed {
            self.backend.reopen().inspect_err(|error| {
                self.put_off(&mut self.state.lock(), error);
            })?;
            self.epoch.fetch_add(1, Ordering::AcqRel);
            self.metrics.reopens.inc();
            tracing::info!("the store was reopened");
        }
        Ok(())
    }
}
