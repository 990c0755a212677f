//! A group's state machine between the library and the store: apply, flush, snapshot, restore.
//!
//! Invariant: `apply`, `flush`, `flushed` and `restore` of the machine run under the lock of `core`, one at a time. A
//! flush that fails leaves the machine ahead of what is stored, so the incarnation ends there and a new one restores.

use super::codec::{self, Tag};
use super::metrics::GroupMetrics;
use super::snapshot::{self, SnapshotData, SnapshotSource, Staging};
use super::types::{Entry, Head, LogId, Snapshot, SnapshotMeta, StoredMembers, TypeConfig};
use super::{Applied, StateError, StateMachine, StateReader, StateWriter};
use crate::blocking::blocking;
use crate::store::{Batch, NodeStore, SharedBackend, Space, StoreError};
use bytes::Bytes;
use futures::stream::{Stream, StreamExt};
use gnomon_model::{Clock, GroupId};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use prost::Message;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::{Mutex, Notify, OwnedMutexGuard, Semaphore};

/// Entries are applied in pieces of about this many bytes.
const APPLY_BYTES: usize = 2 << 20;
/// Pieces below this are applied where they arrive; larger ones where blocking harms nobody.
const INLINE_BYTES: usize = 128 << 10;
/// Snapshots a group receives at the same time.
const STAGINGS: usize = 2;

/// The last that was given. Of the process, not of a machine: a replica may be closed and opened again while the snapshot that
/// was being received for the one before is still being given up.
static GENERATIONS: AtomicU64 = AtomicU64::new(0);

/// One group's machine and what is stored of it; lives as long as the group, across restarts.
pub(crate) struct Machine {
    pub(crate) group: GroupId,
    pub(crate) store: Arc<NodeStore>,
    machine: Arc<dyn StateMachine>,
    core: Arc<Mutex<Core>>,
    /// One flush or installation at a time.
    flushing: Arc<Mutex<()>>,
    stagings: Arc<Semaphore>,
    /// Snapshots being sent; the log is not purged meanwhile.
    pub(crate) sending: AtomicUsize,
    /// Told when a flush is due.
    pub(crate) flush_due: Notify,
    /// Index the stored state stands at.
    pub(crate) flushed_index: AtomicU64,
    /// Index the state in memory stands at, plus one.
    pub(crate) applied_next: tokio::sync::watch::Sender<u64>,
    flush_log_bytes: u64,
    pub(crate) metrics: GroupMetrics,
    clock: Arc<dyn Clock>,
}

/// What only the holder of the lock may touch.
#[derive(Default)]
struct Core {
    head: Head,
    flushed: Option<Head>,
    generation: u64,
    /// Bytes applied since the last flush.
    unflushed_bytes: u64,
    /// Adapters of earlier incarnations are refused.
    incarnation: u64,
}

fn retired() -> io::Error {
    io::Error::other("this incarnation of the group has ended")
}

impl Machine {
    pub(crate) fn new(
        group: GroupId,
        store: Arc<NodeStore>,
        machine: Arc<dyn StateMachine>,
        flush_log_bytes: u64,
        metrics: GroupMetrics,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        Arc::new(Self {
            group,
            store,
            machine,
            core: Arc::default(),
            flushing: Arc::default(),
            stagings: Arc::new(Semaphore::new(STAGINGS)),
            sending: AtomicUsize::new(0),
            flush_due: Notify::new(),
            flushed_index: AtomicU64::new(0),
            applied_next: tokio::sync::watch::Sender::new(0),
            flush_log_bytes,
            metrics,
            clock,
        })
    }

    /// Begins a new incarnation from what is stored; earlier ones are refused from here on.
    pub(crate) async fn begin(self: &Arc<Self>) -> Result<MachineAdapter, StateError> {
        let _one = self.flushing.clone().lock_owned().await;
        let mut core = self.core.clone().lock_owned().await;
        core.incarnation += 1;
        let this = self.clone();
        let incarnation = core.incarnation;
        blocking(move || this.load(&mut core)).await??;
        Ok(MachineAdapter {
            machine: self.clone(),
            incarnation,
        })
    }

    /// Refuses the last incarnation too, and waits until nothing is being flushed or installed: both go on by themselves where
    /// nobody waits for them.
    pub(crate) async fn retire(&self) {
        let _one = self.flushing.lock().await;
        self.core.lock().await.incarnation += 1;
    }

    fn load(self: &Arc<Self>, core: &mut Core) -> Result<(), StateError> {
        let stored = snapshot::read_generation(&self.store, self.group)?;
        core.generation = stored.unwrap_or(0);
        GENERATIONS.fetch_max(core.generation, Ordering::Relaxed);
        snapshot::remove_other_generations(&self.store, self.group, core.generation)?;
        let head = self
            .store
            .backend()
            .get(Space::State, &codec::head_key(self.group, core.generation))?;
        core.flushed = match head {
            Some(value) => Some(snapshot::decode_head(self.group, &value)?),
            None => None,
        };
        core.head = core.flushed.clone().unwrap_or_default();
        core.unflushed_bytes = 0;
        self.restore(core)
    }

    fn restore(&self, core: &Core) -> Result<(), StateError> {
        let reader = StoredState {
            backend: self.store.backend().clone(),
            prefix: own_prefix(self.group, core.generation),
            index: core.head.index(),
        };
        guarded(|| self.machine.restore(&reader))??;
        self.flushed_index.store(core.head.index(), Ordering::Release);
        self.publish_applied(core);
        Ok(())
    }

    fn publish_applied(&self, core: &Core) {
        let next = core.head.applied.map_or(0, |id| id.index + 1);
        self.applied_next.send_replace(next);
        self.metrics
            .applied
            .set(i64::try_from(core.head.index()).unwrap_or(i64::MAX));
    }

    async fn lock(self: &Arc<Self>, incarnation: u64) -> io::Result<OwnedMutexGuard<Core>> {
        let core = self.core.clone().lock_owned().await;
        if core.incarnation == incarnation {
            Ok(core)
        } else {
            Err(retired())
        }
    }

    /// Makes the state durable as it is now. Returns what is durable.
    async fn flush(self: &Arc<Self>, incarnation: u64) -> io::Result<Head> {
        let one = self.flushing.clone().lock_owned().await;
        let turn = self.store.flush_turn().await;
        let core = self.lock(incarnation).await?;
        if let Some(flushed) = &core.flushed
            && *flushed == core.head
        {
            return Ok(flushed.clone());
        }
        let this = self.clone();
        // A task: it goes on by itself where the disk takes no writes and nobody waits for it any more.
        let flushing = tokio::spawn(async move {
            let result = this.flush_now(core).await;
            drop((turn, one));
            result
        });
        let result = flushing.await.map_err(io::Error::other);
        let result = result.and_then(|inner| inner.map_err(io::Error::other));
        if result.is_err() {
            // The machine believes it was flushed: it has to be restored.
            self.core.lock().await.incarnation += 1;
        }
        result
    }

    async fn flush_now(self: &Arc<Self>, core: OwnedMutexGuard<Core>) -> Result<Head, StateError> {
        let start = self.clock.monotonic();
        let this = self.clone();
        let (batch, head, incarnation) = blocking(move || this.gather(core)).await??;
        let bytes = batch.size_bytes();
        // Apply goes on while the disk is busy, or takes no writes.
        self.store.write_through(batch).await?;
        let mut core = self.core.clone().lock_owned().await;
        if core.incarnation != incarnation {
            return Err(StoreError::Failed.into());
        }
        core.flushed = Some(head.clone());
        self.flushed_index.store(head.index(), Ordering::Release);
        let (this, index) = (self.clone(), head.index());
        blocking(move || {
            let _core = core;
            guarded(|| this.machine.flushed(index))
        })
        .await??;
        self.metrics
            .flushed(bytes, self.clock.monotonic().saturating_sub(start));
        Ok(head)
    }

    /// What has to be written for the state as it is now, which it is, and of which incarnation.
    fn gather(&self, mut core: OwnedMutexGuard<Core>) -> Result<(Batch, Head, u64), StateError> {
        let mut writer = BatchWriter {
            batch: self.store.backend().batch()?,
            key: own_prefix(self.group, core.generation),
            to: own_prefix(self.group, core.generation),
            own: own_prefix(self.group, core.generation).len(),
        };
        guarded(|| self.machine.flush(&mut writer))??;
        let mut batch = writer.batch;
        let head = core.head.clone();
        let key = codec::head_key(self.group, core.generation);
        batch.put(Space::State, &key, &codec::head_to(&head).encode_to_vec());
        let pointer = codec::meta_key(self.group, Tag::Generation);
        batch.put(Space::Meta, &pointer, &core.generation.to_be_bytes());
        core.unflushed_bytes = 0;
        Ok((batch, head, core.incarnation))
    }

    /// Applies what was gathered, in order, and answers.
    fn apply_now(&self, core: &mut Core, piece: Vec<Pending>) -> io::Result<()> {
        let mut normal = Vec::with_capacity(piece.len());
        for (entry, _) in &piece {
            match &entry.payload {
                EntryPayload::Normal(command) => normal.push(Applied {
                    index: entry.log_id.index,
                    term: **entry.log_id.committed_leader_id(),
                    payload: &command.0,
                }),
                EntryPayload::Membership(members) => {
                    core.head.membership = StoredMembers::new(Some(entry.log_id), members.clone());
                }
                EntryPayload::Blank => {}
            }
        }
        let responses = if normal.is_empty() {
            Vec::new()
        } else {
            guarded(|| self.machine.apply(&normal))?
        };
        if responses.len() != normal.len() {
            let (got, due) = (responses.len(), normal.len());
            return Err(io::Error::other(format!(
                "the state machine gave {got} responses to {due} entries"
            )));
        }
        for (entry, _) in &piece {
            core.unflushed_bytes += codec::entry_bytes(entry) as u64;
            core.head.applied = Some(entry.log_id);
        }
        // Before the answers: who has one finds it applied.
        self.publish_applied(core);
        let mut responses = responses.into_iter();
        for (entry, responder) in piece {
            let response = match entry.payload {
                EntryPayload::Normal(_) => responses.next().unwrap_or_default(),
                _ => Bytes::new(),
            };
            if let Some(responder) = responder {
                responder.send(response);
            }
        }
        if core.unflushed_bytes >= self.flush_log_bytes || guarded(|| self.machine.wants_flush())? {
            self.flush_due.notify_one();
        }
        Ok(())
    }

    async fn apply(self: &Arc<Self>, incarnation: u64, piece: Vec<Pending>) -> io::Result<()> {
        let mut core = self.lock(incarnation).await?;
        let bytes: usize = piece.iter().map(|(entry, _)| codec::entry_bytes(entry)).sum();
        if bytes < INLINE_BYTES {
            return self.apply_now(&mut core, piece);
        }
        let this = self.clone();
        blocking(move || this.apply_now(&mut core, piece)).await?
    }

    /// A place for a snapshot to be received into.
    ///
    /// # Errors
    /// When too many are being received, or the store does not take writes.
    pub(crate) fn stage(self: &Arc<Self>) -> Result<Staging, StoreError> {
        let permit = self
            .stagings
            .clone()
            .try_acquire_owned()
            .map_err(|_| StoreError::Engine {
                operation: "receive a snapshot",
                message: format!("{STAGINGS} are being received already"),
            })?;
        let generation = GENERATIONS.fetch_add(1, Ordering::Relaxed) + 1;
        let epoch = self.store.epoch();
        Ok(Staging::new(
            self.store.clone(),
            epoch,
            self.group,
            generation,
            Some(permit),
        ))
    }

    async fn install(self: &Arc<Self>, incarnation: u64, mut staging: Staging) -> io::Result<()> {
        let one = self.flushing.clone().lock_owned().await;
        let mut core = self.lock(incarnation).await?;
        let this = self.clone();
        let result = blocking(move || {
            let result = this.install_now(&mut core, &mut staging);
            drop(one);
            result
        })
        .await
        .and_then(|inner| inner.map_err(io::Error::other));
        if result.is_err() {
            self.core.lock().await.incarnation += 1;
        }
        result
    }

    fn install_now(self: &Arc<Self>, core: &mut Core, staging: &mut Staging) -> Result<(), StateError> {
        let head = staging
            .head()
            .cloned()
            .ok_or_else(|| StateError::Corrupt("a snapshot without a head".into()))?;
        let mut batch = self.store.backend().batch()?;
        let pointer = codec::meta_key(self.group, Tag::Generation);
        batch.put(Space::Meta, &pointer, &staging.generation().to_be_bytes());
        self.store.write_now(staging.epoch(), batch, true)?;
        staging.set_installed();
        let old = std::mem::replace(&mut core.generation, staging.generation());
        core.flushed = Some(head.clone());
        core.head = head;
        core.unflushed_bytes = 0;
        self.restore(core)?;
        let (from, to) = snapshot::generation_range(self.group, old);
        let mut batch = self.store.backend().batch()?;
        batch.delete_range(Space::State, &from, &to);
        self.store.write_now(self.store.epoch(), batch, false)?;
        Ok(())
    }
}

/// Runs the machine's code; a panic in it ends the incarnation, not the process.
fn guarded<T>(call: impl FnOnce() -> T) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(ToString::to_string)
            .or_else(|| panic.downcast_ref::<String>().cloned());
        io::Error::other(format!("the state machine panicked: {}", text.unwrap_or_default()))
    })
}

impl From<io::Error> for StateError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

fn own_prefix(group: GroupId, generation: u64) -> Vec<u8> {
    let mut key = codec::state_prefix(group, generation);
    key.push(1);
    key
}

struct BatchWriter {
    batch: Batch,
    key: Vec<u8>,
    to: Vec<u8>,
    own: usize,
}

impl StateWriter for BatchWriter {
    fn put(&mut self, key: &[u8], value: &[u8]) {
        self.key.truncate(self.own);
        self.key.extend_from_slice(key);
        self.batch.put(Space::State, &self.key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.key.truncate(self.own);
        self.key.extend_from_slice(key);
        self.batch.delete(Space::State, &self.key);
    }

    fn delete_range(&mut self, from: &[u8], to: &[u8]) {
        self.key.truncate(self.own);
        self.key.extend_from_slice(from);
        self.to.truncate(self.own);
        self.to.extend_from_slice(to);
        self.batch.delete_range(Space::State, &self.key, &self.to);
    }
}

#[derive(Clone)]
struct StoredState {
    backend: SharedBackend,
    prefix: Vec<u8>,
    index: u64,
}

impl StoredState {
    fn key(&self, own: &[u8]) -> Vec<u8> {
        let mut key = self.prefix.clone();
        key.extend_from_slice(own);
        key
    }
}

impl StateReader for StoredState {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StateError> {
        Ok(self.backend.get(Space::State, &self.key(key))?)
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StateError> {
        let end = match to {
            Some(to) => self.key(to),
            None => {
                // The prefix ends in 1: what follows it is 2.
                let mut end = self.prefix.clone();
                if let Some(last) = end.last_mut() {
                    *last += 1;
                }
                end
            }
        };
        let own = self.prefix.len();
        let from = self.key(from);
        self.backend.scan(Space::State, &from, &end, &mut |key, value| {
            visit(key.get(own..).unwrap_or_default(), value)
        })?;
        Ok(())
    }

    fn index(&self) -> u64 {
        self.index
    }

    fn share(&self) -> Arc<dyn StateReader> {
        Arc::new(self.clone())
    }
}

type Pending = (Entry, Option<ApplyResponder<TypeConfig>>);

/// The machine as one incarnation of the library sees it.
#[derive(Clone)]
pub(crate) struct MachineAdapter {
    machine: Arc<Machine>,
    incarnation: u64,
}

impl MachineAdapter {
    pub(crate) async fn flush(&self) -> io::Result<Head> {
        self.machine.flush(self.incarnation).await
    }

    fn source(&self) -> SnapshotData {
        SnapshotData::Stored(SnapshotSource::new(self.machine.store.clone(), self.machine.group))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for MachineAdapter {
    type SnapshotData = SnapshotData;

    /// A snapshot is a flush.
    async fn build_snapshot(&mut self) -> Result<Snapshot<SnapshotData>, io::Error> {
        let head = self.flush().await?;
        Ok(Snapshot {
            meta: head.meta(),
            snapshot: self.source(),
        })
    }
}

impl RaftStateMachine<TypeConfig> for MachineAdapter {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembers), io::Error> {
        let core = self.machine.lock(self.incarnation).await?;
        Ok((core.head.applied, core.head.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        let (mut piece, mut bytes) = (Vec::new(), 0);
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            bytes += codec::entry_bytes(&entry);
            piece.push((entry, responder));
            if bytes >= APPLY_BYTES {
                bytes = 0;
                self.machine.apply(self.incarnation, std::mem::take(&mut piece)).await?;
            }
        }
        if piece.is_empty() {
            return Ok(());
        }
        self.machine.apply(self.incarnation, piece).await
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> Result<(), io::Error> {
        let staging = match snapshot {
            SnapshotData::Staged(staging) => staging,
            SnapshotData::Stored(source) => copy(&source, self.machine.stage()?).await?,
        };
        if staging.head().map(Head::meta).as_ref() != Some(meta) {
            return Err(io::Error::other("a snapshot that is not what its head says"));
        }
        self.machine.install(self.incarnation, staging).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<SnapshotData>>, io::Error> {
        let core = self.machine.lock(self.incarnation).await?;
        Ok(core.flushed.as_ref().map(|head| Snapshot {
            meta: head.meta(),
            snapshot: self.source(),
        }))
    }
}

async fn copy(source: &SnapshotSource, mut staging: Staging) -> io::Result<Staging> {
    let mut parts = source.read();
    while let Some(part) = parts.recv().await {
        let part = part?;
        let (next, ended) = blocking(move || {
            let ended = staging.take(part);
            (staging, ended)
        })
        .await?;
        staging = next;
        if ended? {
            return Ok(staging);
        }
    }
    Err(io::Error::other("a snapshot that ended early"))
}
