//! The store of a node as its groups see it.

use super::StoreError;
use super::backend::{Backend, Batch, SharedBackend, Space};
use super::disk::{Disk, LowDisk};
use super::gate::{Gate, Trouble};
use super::held::HeldMemory;
use super::metrics::StoreMetrics;
use super::rocks::RocksBackend;
use super::writer::{self, Message, Pace, Submission};
use crate::blocking::{blocking, is_at_once};
use gnomon_model::{Clock, ClusterId, NodeId};
use parking_lot::Mutex;
use prometheus::Registry;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

/// How much the store may take.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Memory for log entries not yet in table files, in bytes.
    pub log_memtable_bytes: usize,
    /// Memory for machine state not yet in table files, in bytes.
    pub state_memtable_bytes: usize,
    /// Memory for blocks of table files, in bytes.
    pub cache_bytes: usize,
    /// The write-ahead log is cut above this, in bytes.
    pub wal_bytes: u64,
    /// Writes are refused with less free space than this, in bytes (a fifth of small file systems).
    pub watermark_bytes: u64,
    /// Space kept for recovering from a full disk, in bytes (a twentieth of small file systems).
    pub ballast_bytes: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            log_memtable_bytes: 8 << 20,
            state_memtable_bytes: 8 << 20,
            cache_bytes: 8 << 20,
            wal_bytes: 64 << 20,
            watermark_bytes: 256 << 20,
            ballast_bytes: 64 << 20,
        }
    }
}

/// Whose data folder it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: ClusterId,
    pub node: NodeId,
}

/// Room in the writer's queue: what is submitted there does not wait any more.
pub(crate) struct Place<'a>(mpsc::Permit<'a, Message>);

impl Place<'_> {
    pub(crate) fn submit(self, submission: Submission) {
        self.0.send(Message::Submit(submission));
    }
}

/// One node's store; all its groups share it.
pub struct NodeStore {
    backend: SharedBackend,
    gate: Arc<Gate>,
    metrics: StoreMetrics,
    disk: Option<Arc<Disk>>,
    queue: mpsc::Sender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
    identity: Mutex<Option<Identity>>,
    flushes: Arc<Semaphore>,
}

impl NodeStore {
    /// Opens (or makes) the store in `folder`. Blocks while the write-ahead log is replayed.
    ///
    /// # Errors
    /// When the folder or the database in it cannot be used, or another process uses it.
    pub fn open(
        folder: &Path,
        options: StoreOptions,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<Arc<Self>, StoreError> {
        std::fs::create_dir_all(folder).map_err(|error| StoreError::Folder {
            path: folder.display().to_string(),
            message: error.to_string(),
        })?;
        let disk = Disk::new(folder, clock.clone(), options.watermark_bytes, options.ballast_bytes)?;
        let metrics = StoreMetrics::new(registry, clock)?;
        let open = || RocksBackend::open(&folder.join("rocksdb"), options.clone(), metrics.damaged.clone());
        let backend = loop {
            match open() {
                Ok(backend) => break backend,
                // The ballast is that process' own.
                Err(error @ StoreError::InUse { .. }) => return Err(error),
                // A full disk forbids even opening; ballast is for this.
                Err(error) if error.may_want_room() && disk.drop_to_open() => {}
                Err(error) => {
                    return Err(StoreError::Folder {
                        path: folder.display().to_string(),
                        message: error.to_string(),
                    });
                }
            }
        };
        // The names of the new folders are lost by a power cut until the folders that hold them are synced.
        for synced in [Some(folder), folder.parent()].into_iter().flatten() {
            let _ = std::fs::File::open(synced).and_then(|file| file.sync_all());
        }
        let backend: SharedBackend = Arc::new(backend);
        let held = HeldMemory::of(&backend).map(|held| registry.register(Box::new(held)));
        if let Err(error) | Ok(Err(error)) = held {
            tracing::debug!(%error, "metric is not registered");
        }
        Self::build(backend, Some(Arc::new(disk)), metrics)
    }

    /// A store over any engine, without a watch on free space.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn over(backend: SharedBackend, clock: Arc<dyn Clock>, registry: &Registry) -> Result<Arc<Self>, StoreError> {
        Self::build(backend, None, StoreMetrics::new(registry, clock)?)
    }

    /// As [`Self::over`], with a task of this runtime as its writer: for the simulation, on a thread where
    /// [`crate::blocking::do_at_once_here`] was called. `pace` says how long each write takes.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn simulated(
        backend: SharedBackend,
        clock: Arc<dyn Clock>,
        registry: &Registry,
        pace: Pace,
    ) -> Result<Arc<Self>, StoreError> {
        let metrics = StoreMetrics::new(registry, clock)?;
        let gate = Arc::new(Gate::new(backend.clone(), None, metrics.clone()));
        let identity = read_identity(backend.as_ref())?;
        let queue = writer::spawn_task(backend.clone(), gate.clone(), metrics.clone(), pace);
        Ok(Arc::new(Self {
            backend,
            gate,
            metrics,
            disk: None,
            queue,
            thread: Mutex::new(None),
            identity: Mutex::new(identity),
            flushes: Arc::new(Semaphore::new(1)),
        }))
    }

    fn build(backend: SharedBackend, disk: Option<Arc<Disk>>, metrics: StoreMetrics) -> Result<Arc<Self>, StoreError> {
        let gate = Arc::new(Gate::new(backend.clone(), disk.clone(), metrics.clone()));
        let identity = read_identity(backend.as_ref())?;
        let (queue, thread) =
            writer::spawn(backend.clone(), gate.clone(), metrics.clone()).map_err(|error| StoreError::Engine {
                operation: "start the writer thread",
                message: error.to_string(),
            })?;
        Ok(Arc::new(Self {
            backend,
            gate,
            metrics,
            disk,
            queue,
            thread: Mutex::new(Some(thread)),
            identity: Mutex::new(identity),
            flushes: Arc::new(Semaphore::new(1)),
        }))
    }

    /// Whose store this is; none before [`Self::bind`].
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        *self.identity.lock()
    }

    /// Binds the store to a node of a cluster, for good.
    ///
    /// # Errors
    /// `WrongIdentity` when it belongs to another.
    pub fn bind(&self, identity: Identity) -> Result<(), StoreError> {
        let mut bound = self.identity.lock();
        match *bound {
            Some(found) if found == identity => Ok(()),
            Some(found) => Err(StoreError::WrongIdentity {
                found: found.to_string(),
                expected: identity.to_string(),
            }),
            None => {
                let mut value = identity.cluster.0.to_be_bytes().to_vec();
                value.extend_from_slice(&identity.node.0.to_be_bytes());
                let mut batch = self.backend.batch()?;
                batch.put(Space::Node, IDENTITY, &value);
                self.backend.write(batch, true)?;
                *bound = Some(identity);
                Ok(())
            }
        }
    }

    /// The engine, for reading.
    #[must_use]
    pub fn backend(&self) -> &SharedBackend {
        &self.backend
    }

    /// How often the engine was reopened: what was written before and not synced may be gone.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.gate.epoch()
    }

    /// Why nothing can be written now, and where; none while all is well. What is submitted meanwhile waits.
    #[must_use]
    pub fn trouble(&self) -> Trouble {
        self.gate.trouble()
    }

    /// [`Self::trouble`] and its changes.
    #[must_use]
    pub fn watch_trouble(&self) -> watch::Receiver<Trouble> {
        self.gate.watch()
    }

    /// Waits until there has been trouble for `lasting`; returns what it is.
    pub async fn in_trouble(&self, lasting: Duration) -> Arc<str> {
        let mut trouble = self.gate.watch();
        loop {
            if trouble.wait_for(Option::is_some).await.is_err() {
                std::future::pending::<()>().await;
            }
            let over = tokio::time::timeout(lasting, trouble.wait_for(Option::is_none)).await;
            if over.is_err()
                && let Some(why) = self.trouble()
            {
                return why;
            }
        }
    }

    /// Hands writes to the writer thread. `done` is told, from that thread, in the order of submission.
    pub async fn submit(&self, submission: Submission) {
        match self.place().await {
            Some(place) => place.submit(submission),
            None => (submission.done)(Err(StoreError::Closed)),
        }
    }

    /// Waits until all that was submitted before is written, so that reads see it; returns too when the store is closed.
    pub(crate) async fn written(&self) {
        let (sender, written) = oneshot::channel();
        let behind = Submission {
            writes: Vec::new(),
            sync: false,
            done: Box::new(move |_| {
                let _ = sender.send(());
            }),
        };
        self.submit(behind).await;
        let _ = written.await;
    }

    /// Waits for a place in the writer's queue; none once the store is closed.
    pub(crate) async fn place(&self) -> Option<Place<'_>> {
        self.queue.reserve().await.ok().map(Place)
    }

    /// Writes a batch now, from the calling thread; blocks, but does not wait for a bad disk.
    ///
    /// # Errors
    /// As [`Backend::write`], and `Failed` when the engine was reopened since `epoch`.
    pub fn write_now(&self, epoch: u64, batch: Batch, sync: bool) -> Result<(), StoreError> {
        self.gate.write_once(epoch, batch, sync)
    }

    /// Waits until no other group flushes its state: groups fill in step, and each flush is a batch in memory.
    pub async fn flush_turn(&self) -> Option<OwnedSemaphorePermit> {
        self.flushes.clone().acquire_owned().await.ok()
    }

    /// Writes and syncs a batch from the calling thread; blocks for as long as the disk does not take it.
    ///
    /// # Errors
    /// When the store is closed meanwhile.
    pub fn write_durably(&self, batch: Batch) -> Result<(), StoreError> {
        let saved = batch.saved();
        let mut first = Some(batch);
        self.gate.write(true, &mut || match first.take() {
            Some(batch) => Ok(batch),
            None => self.backend.batch_of(&saved),
        })
    }

    /// As [`Self::write_durably`], for tasks: it blocks none of the runtime's threads.
    ///
    /// # Errors
    /// When the store is closed meanwhile.
    pub async fn write_through(self: &Arc<Self>, batch: Batch) -> Result<(), StoreError> {
        if is_at_once() {
            let saved = batch.saved();
            let mut first = Some(batch);
            let mut make = || match first.take() {
                Some(batch) => Ok(batch),
                None => self.backend.batch_of(&saved),
            };
            return self.gate.write_in_task(true, &mut make).await;
        }
        let store = Arc::clone(self);
        let written = blocking(move || store.write_durably(batch)).await;
        written.unwrap_or(Err(StoreError::Closed))
    }

    /// Whether free space is below the watermark. Cheap.
    #[must_use]
    pub fn low_disk(&self) -> Option<LowDisk> {
        let (free, low) = self.disk.as_ref()?.look();
        self.metrics.free_bytes.set(i64::try_from(free).unwrap_or(i64::MAX));
        self.metrics.low_disk.set(i64::from(low.is_some()));
        low
    }

    /// Writes what waits, makes everything durable and closes the engine. What the disk does not take now is given up.
    pub async fn close(&self) {
        self.gate.close();
        let (sender, closed) = oneshot::channel();
        let done = Box::new(move |_| {
            let _ = sender.send(());
        });
        if self.queue.send(Message::Close(done)).await.is_ok() {
            drop(closed.await);
        }
        let thread = self.thread.lock().take();
        let backend = self.backend.clone();
        let closing = blocking(move || {
            if let Some(thread) = thread
                && thread.join().is_err()
            {
                tracing::error!("the store's writer thread panicked");
            }
            backend.close();
        });
        if closing.await.is_err() {
            tracing::error!("closing the store panicked");
        }
    }
}

impl Drop for NodeStore {
    /// A store that nobody closed: its writer ends before the engine goes, and both before the process does. RocksDB at
    /// work while the C++ library's own data is taken down crashes.
    fn drop(&mut self) {
        self.gate.close();
        // The writer ends once nobody can submit any more.
        self.queue = mpsc::channel(1).0;
        if let Some(thread) = self.thread.get_mut().take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the store's writer thread panicked");
        }
    }
}

const IDENTITY: &[u8] = b"identity";

fn read_identity(backend: &dyn Backend) -> Result<Option<Identity>, StoreError> {
    let Some(value) = backend.get(Space::Node, IDENTITY)? else {
        return Ok(None);
    };
    let parts = value.split_first_chunk::<16>().and_then(|(cluster, rest)| {
        let node: [u8; 8] = rest.try_into().ok()?;
        Some(Identity {
            cluster: ClusterId(u128::from_be_bytes(*cluster)),
            node: NodeId(u64::from_be_bytes(node)),
        })
    });
    parts.map(Some).ok_or_else(|| StoreError::Corrupt {
        what: "identity".into(),
        why: format!("{} bytes, 24 are expected", value.len()),
    })
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "node {} of cluster {}", self.node, self.cluster)
    }
}
