//! The store of a node as its groups see it.

use super::StoreError;
use super::backend::{Backend, Batch, SharedBackend, Space};
use super::disk::{Disk, LowDisk};
use super::metrics::StoreMetrics;
use super::rocks::RocksBackend;
use super::writer::{self, Message, Submission};
use gnomon_model::{Clock, ClusterId, NodeId};
use parking_lot::Mutex;
use prometheus::Registry;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot, watch};

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
            log_memtable_bytes: 32 << 20,
            state_memtable_bytes: 32 << 20,
            cache_bytes: 16 << 20,
            wal_bytes: 128 << 20,
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

/// Whether the store takes writes.
pub(crate) struct Health {
    /// Grows with every failure; even: healthy, odd: failed.
    state: AtomicU64,
    /// Follows `state`, for those who wait for a failure.
    told: watch::Sender<u64>,
    metrics: StoreMetrics,
    disk: Option<Arc<Disk>>,
}

impl Health {
    pub(super) fn accepts(&self, epoch: u64) -> bool {
        self.state.load(Ordering::Acquire) == epoch
    }

    pub(super) fn wrote(&self, bytes: usize) {
        if let Some(disk) = &self.disk {
            disk.wrote(bytes);
        }
    }

    pub(super) fn fail(&self, error: &StoreError) {
        let now = self.state.load(Ordering::Acquire);
        if now.is_multiple_of(2)
            && self
                .state
                .compare_exchange(now, now + 1, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
        {
            self.told.send_replace(now + 1);
            self.metrics.failures.inc();
            tracing::error!(%error, "the store failed: nothing is written until it is reopened");
            if let Some(disk) = &self.disk {
                disk.drop_ballast();
            }
        }
    }
}

/// One node's store; all its groups share it.
pub struct NodeStore {
    backend: SharedBackend,
    health: Arc<Health>,
    metrics: StoreMetrics,
    disk: Option<Arc<Disk>>,
    queue: mpsc::Sender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
    recovering: Mutex<()>,
    identity: Mutex<Option<Identity>>,
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
        let backend = match RocksBackend::open(&folder.join("rocksdb"), options.clone()) {
            Ok(backend) => backend,
            Err(_) => {
                // A full disk forbids even opening; the ballast is for this.
                disk.drop_ballast();
                RocksBackend::open(&folder.join("rocksdb"), options)?
            }
        };
        // The names of the new folders are lost by a power cut until the folders that hold them are synced.
        for synced in [Some(folder), folder.parent()].into_iter().flatten() {
            let _ = std::fs::File::open(synced).and_then(|file| file.sync_all());
        }
        Self::build(Arc::new(backend), Some(Arc::new(disk)), clock, registry)
    }

    /// A store over any engine, without a watch on free space.
    ///
    /// # Errors
    /// When the engine fails.
    pub fn over(backend: SharedBackend, clock: Arc<dyn Clock>, registry: &Registry) -> Result<Arc<Self>, StoreError> {
        Self::build(backend, None, clock, registry)
    }

    fn build(
        backend: SharedBackend,
        disk: Option<Arc<Disk>>,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<Arc<Self>, StoreError> {
        let metrics = StoreMetrics::new(registry, clock).map_err(|error| StoreError::Engine {
            operation: "metrics",
            message: error.to_string(),
        })?;
        let health = Arc::new(Health {
            state: AtomicU64::new(0),
            told: watch::Sender::new(0),
            metrics: metrics.clone(),
            disk: disk.clone(),
        });
        let identity = read_identity(backend.as_ref())?;
        let (queue, thread) =
            writer::spawn(backend.clone(), health.clone(), metrics.clone()).map_err(|error| StoreError::Engine {
                operation: "start the writer thread",
                message: error.to_string(),
            })?;
        Ok(Arc::new(Self {
            backend,
            health,
            metrics,
            disk,
            queue,
            thread: Mutex::new(Some(thread)),
            recovering: Mutex::new(()),
            identity: Mutex::new(identity),
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

    /// What a group remembers when it is opened and says with every write.
    ///
    /// # Errors
    /// `Failed` while the store waits to be recovered.
    pub fn epoch(&self) -> Result<u64, StoreError> {
        let state = self.health.state.load(Ordering::Acquire);
        if state.is_multiple_of(2) {
            Ok(state)
        } else {
            Err(StoreError::Failed)
        }
    }

    /// Waits until the store has failed since `epoch`.
    pub async fn failed_since(&self, epoch: u64) {
        let mut told = self.health.told.subscribe();
        if told.wait_for(|now| *now > epoch).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Hands writes to the writer thread. `done` is told, from that thread, in the order of submission.
    pub async fn submit(&self, submission: Submission) {
        if let Err(mpsc::error::SendError(Message::Submit(submission))) =
            self.queue.send(Message::Submit(submission)).await
        {
            (submission.done)(Err(StoreError::Closed));
        }
    }

    /// Writes a batch now, from the calling thread; blocks.
    ///
    /// # Errors
    /// As [`Backend::write`], and `Failed` when the store failed since `epoch`.
    pub fn write_now(&self, epoch: u64, batch: Batch, sync: bool) -> Result<(), StoreError> {
        if !self.health.accepts(epoch) {
            return Err(StoreError::Failed);
        }
        self.health.wrote(batch.size_bytes());
        let result = self.metrics.timed(sync, || self.backend.write(batch, sync));
        if let Err(error) = &result {
            self.health.fail(error);
        }
        result
    }

    /// Reopens the engine after a failure, where there is space to go on with; blocks. Healthy stores stay as they are.
    ///
    /// # Errors
    /// When it cannot be reopened yet; try again later.
    pub fn recover(&self) -> Result<(), StoreError> {
        let _one = self.recovering.lock();
        let state = self.health.state.load(Ordering::Acquire);
        if state.is_multiple_of(2) {
            return Ok(());
        }
        if let Some(low) = self.low_disk() {
            return Err(StoreError::Engine {
                operation: "reopen",
                message: format!("{} bytes are free, {} are needed", low.free_bytes, low.needed_bytes),
            });
        }
        self.backend.reopen()?;
        self.metrics.reopens.inc();
        self.health.state.store(state + 1, Ordering::Release);
        tracing::info!("the store was reopened");
        Ok(())
    }

    /// Whether free space is below the watermark. Cheap.
    #[must_use]
    pub fn low_disk(&self) -> Option<LowDisk> {
        let (free, low) = self.disk.as_ref()?.look();
        self.metrics.free_bytes.set(i64::try_from(free).unwrap_or(i64::MAX));
        self.metrics.low_disk.set(i64::from(low.is_some()));
        low
    }

    /// Writes what waits, makes everything durable and closes the engine.
    pub async fn close(&self) {
        let (sender, closed) = oneshot::channel();
        let done = Box::new(move |_| {
            let _ = sender.send(());
        });
        if self.queue.send(Message::Close(done)).await.is_ok() {
            drop(closed.await);
        }
        let thread = self.thread.lock().take();
        let backend = self.backend.clone();
        let closing = tokio::task::spawn_blocking(move || {
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
