//! Snapshots: a group's stored state as a stream of rows, and its installation under a new generation.
//!
//! The stream reads one iterator, which is one consistent view; its first row is the head, so what is sent is exactly
//! the last flush at the moment the stream began. A receiver writes the rows under a generation that nothing points to;
//! installing is one write of the pointer. What nothing points to is removed: at once when the receiver gives up, at
//! the next start after a crash.

use super::codec::{self, Malformed, Tag};
use super::types::Head;
use crate::blocking::is_at_once;
use crate::store::{Batch, NodeStore, Space, StoreError};
use bytes::Bytes;
use gnomon_model::GroupId;
use gnomon_proto::v1;
use prost::Message;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Rows are sent in chunks of this many bytes (a larger row is a chunk of its own).
const CHUNK_BYTES: usize = 512 << 10;

/// A snapshot as the library passes it around.
pub(crate) enum SnapshotData {
    /// The last flush of a group of this node, read when it is needed.
    Stored(SnapshotSource),
    /// Received, under a generation of its own, not yet installed.
    Staged(Staging),
}

/// Where a snapshot is read from. Costs nothing until it is.
#[derive(Clone)]
pub(crate) struct SnapshotSource {
    store: Arc<NodeStore>,
    group: GroupId,
}

/// A piece of a snapshot, in this order: one head, rows, one end.
#[derive(Debug)]
pub(crate) enum SnapshotPart {
    Head(Head),
    Rows(Vec<v1::RaftRow>),
    End { rows_total: u64 },
}

impl SnapshotSource {
    pub(crate) fn new(store: Arc<NodeStore>, group: GroupId) -> Self {
        Self { store, group }
    }

    /// Starts reading, as far ahead of the receiver as two chunks.
    pub(crate) fn read(&self) -> mpsc::Receiver<Part> {
        let (sender, receiver) = mpsc::channel(2);
        let source = self.clone();
        if is_at_once() {
            tokio::spawn(source.send_gathered(sender));
            return receiver;
        }
        tokio::task::spawn_blocking(move || {
            let send = |part| sender.blocking_send(part).is_ok();
            source.read_all(send);
        });
        receiver
    }

    /// All of it is in memory before it is sent: as only a simulation may.
    async fn send_gathered(self, sender: mpsc::Sender<Part>) {
        let mut parts = Vec::new();
        self.read_all(|part| {
            parts.push(part);
            true
        });
        for part in parts {
            if sender.send(part).await.is_err() {
                return;
            }
        }
    }

    /// `send` says whether somebody still listens.
    fn read_all(&self, send: impl FnMut(Part) -> bool) {
        let mut reading = Reading {
            send,
            rows: Vec::new(),
            bytes: 0,
            rows_total: 0,
        };
        if let Err(error) = self.read_into(&mut reading) {
            (reading.send)(Err(error));
        }
    }

    fn read_into<S: FnMut(Part) -> bool>(&self, reading: &mut Reading<S>) -> Result<(), StoreError> {
        let Some(generation) = read_generation(&self.store, self.group)? else {
            return Err(corrupt(self.group, "no snapshot was made yet"));
        };
        let (from, to) = generation_range(self.group, generation);
        let mut outcome: Result<bool, StoreError> = Ok(false);
        let head_key = codec::head_key(self.group, generation);
        self.store.backend().scan(Space::State, &from, &to, &mut |key, value| {
            outcome = if key == head_key {
                reading.head(self.group, value)
            } else if let Some(own) = key.get(head_key.len()..) {
                reading.row(own, value)
            } else {
                Err(corrupt(self.group, "a key that is too short"))
            };
            matches!(outcome, Ok(true))
        })?;
        match outcome {
            Err(error) => Err(error),
            Ok(false) => Ok(()),
            Ok(true) => {
                reading.end();
                Ok(())
            }
        }
    }
}

type Part = Result<SnapshotPart, StoreError>;

struct Reading<S> {
    send: S,
    rows: Vec<v1::RaftRow>,
    bytes: usize,
    rows_total: u64,
}

impl<S: FnMut(Part) -> bool> Reading<S> {
    /// Sends; false when nobody listens any more.
    fn send(&mut self, part: SnapshotPart) -> bool {
        (self.send)(Ok(part))
    }

    fn head(&mut self, group: GroupId, value: &[u8]) -> Result<bool, StoreError> {
        Ok(self.send(SnapshotPart::Head(decode_head(group, value)?)))
    }

    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<bool, StoreError> {
        self.bytes += key.len() + value.len();
        self.rows_total += 1;
        self.rows.push(v1::RaftRow {
            key: Bytes::copy_from_slice(key),
            value: Bytes::copy_from_slice(value),
        });
        if self.bytes < CHUNK_BYTES {
            return Ok(true);
        }
        self.bytes = 0;
        let rows = std::mem::take(&mut self.rows);
        Ok(self.send(SnapshotPart::Rows(rows)))
    }

    fn end(&mut self) {
        let rows = std::mem::take(&mut self.rows);
        let rows_total = self.rows_total;
        if rows.is_empty() || self.send(SnapshotPart::Rows(rows)) {
            self.send(SnapshotPart::End { rows_total });
        }
    }
}

fn corrupt(group: GroupId, why: &str) -> StoreError {
    StoreError::Corrupt {
        what: format!("state of group {group}"),
        why: why.into(),
    }
}

pub(crate) fn decode_head(group: GroupId, value: &[u8]) -> Result<Head, StoreError> {
    let wire = v1::RaftHead::decode(value).map_err(|e| Malformed::from(e).stored(format!("head of group {group}")))?;
    Ok(codec::head_from(wire))
}

/// The keys of one generation, head included.
pub(crate) fn generation_range(group: GroupId, generation: u64) -> (Vec<u8>, Vec<u8>) {
    let from = codec::state_prefix(group, generation);
    let to = codec::state_prefix(group, generation + 1);
    (from, to)
}

/// The generation that counts; none before the first flush.
pub(crate) fn read_generation(store: &NodeStore, group: GroupId) -> Result<Option<u64>, StoreError> {
    let Some(value) = store
        .backend()
        .get(Space::Meta, &codec::meta_key(group, Tag::Generation))?
    else {
        return Ok(None);
    };
    let bytes: Result<[u8; 8], _> = value.as_ref().try_into();
    bytes
        .map(|b| Some(u64::from_be_bytes(b)))
        .map_err(|_| corrupt(group, "a generation that is not 8 bytes"))
}

/// Removes every generation of the group but `keep`; writes nothing where there is none.
pub(crate) fn remove_other_generations(store: &NodeStore, group: GroupId, keep: u64) -> Result<(), StoreError> {
    let (keep_from, keep_to) = generation_range(group, keep);
    let start = codec::state_prefix(group, 0);
    let end = codec::state_prefix(group, u64::MAX);
    for (from, to) in [(start, keep_from), (keep_to, end)] {
        let mut found = false;
        store.backend().scan(Space::State, &from, &to, &mut |_, _| {
            found = true;
            false
        })?;
        if found {
            let mut batch = store.backend().batch()?;
            batch.delete_range(Space::State, &from, &to);
            store.write_now(store.epoch(), batch, false)?;
            tracing::info!(%group, keep, "removed state that nothing points to");
        }
    }
    Ok(())
}

/// A snapshot being received. Given up unless it is installed.
pub(crate) struct Staging {
    store: Arc<NodeStore>,
    epoch: u64,
    group: GroupId,
    generation: u64,
    head: Option<Head>,
    rows: u64,
    installed: bool,
    /// Held while it is received, so that few are at a time.
    _permit: Option<tokio::sync::OwnedSemaphorePermit>,
}

impl Staging {
    pub(crate) fn new(
        store: Arc<NodeStore>,
        epoch: u64,
        group: GroupId,
        generation: u64,
        permit: Option<tokio::sync::OwnedSemaphorePermit>,
    ) -> Self {
        Self {
            store,
            epoch,
            group,
            generation,
            head: None,
            rows: 0,
            installed: false,
            _permit: permit,
        }
    }

    /// Takes the next part; blocks. True after the end.
    ///
    /// # Errors
    /// When parts are missing or out of order, or the store fails.
    pub(crate) fn take(&mut self, part: SnapshotPart) -> Result<bool, StoreError> {
        match part {
            SnapshotPart::Head(head) => {
                let mut batch = self.store.backend().batch()?;
                let key = codec::head_key(self.group, self.generation);
                batch.put(Space::State, &key, &codec::head_to(&head).encode_to_vec());
                self.head = Some(head);
                self.write(batch)?;
                Ok(false)
            }
            SnapshotPart::Rows(rows) => {
                let mut batch = self.store.backend().batch()?;
                let mut key = codec::state_prefix(self.group, self.generation);
                key.push(1);
                let own = key.len();
                for row in &rows {
                    key.truncate(own);
                    key.extend_from_slice(&row.key);
                    batch.put(Space::State, &key, &row.value);
                }
                self.rows += rows.len() as u64;
                self.write(batch)?;
                Ok(false)
            }
            SnapshotPart::End { rows_total } if self.head.is_some() && rows_total == self.rows => Ok(true),
            SnapshotPart::End { rows_total } => Err(StoreError::Corrupt {
                what: format!("snapshot of group {}", self.group),
                why: format!("{} rows of {rows_total} arrived", self.rows),
            }),
        }
    }

    /// Not synced: the write that points to the generation is, and covers these.
    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        self.store.write_now(self.epoch, batch, false)
    }

    pub(crate) fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// Of the store, when it began.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn set_installed(&mut self) {
        self.installed = true;
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.installed || (self.head.is_none() && self.rows == 0) {
            return;
        }
        let (from, to) = generation_range(self.group, self.generation);
        let removed = self.store.backend().batch().and_then(|mut batch| {
            batch.delete_range(Space::State, &from, &to);
            self.store.write_now(self.epoch, batch, false)
        });
        if let Err(error) = removed {
            tracing::debug!(group = %self.group, %error, "a given-up snapshot stays until the next start");
        }
    }
}
