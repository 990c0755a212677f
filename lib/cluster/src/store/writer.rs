//! Group commit: one thread writes what waits from all groups as one batch, with one sync.

use super::StoreError;
use super::backend::{Batch, SharedBackend, Space};
use super::gate::Gate;
use super::metrics::StoreMetrics;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// A batch is closed at this size; what waits longer goes into the next.
const BATCH_BYTES: usize = 8 << 20;
/// Submissions that may wait; more make the groups wait, which makes their callers wait.
const QUEUE: usize = 4096;

/// Told how a write ended.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// How long the next write takes: a simulated disk's.
pub type Pace = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Writes of one group that happen together, in the order of submission.
pub struct Submission {
    pub writes: Vec<Write>,
    /// Whether the writes must survive the loss of power before `done` is told.
    pub sync: bool,
    pub done: Done,
}

/// One write of a submission.
#[derive(Debug)]
pub enum Write {
    Put(Space, Vec<u8>, Vec<u8>),
    /// The value in two pieces, so that a large body is copied only once.
    PutParts(Space, Vec<u8>, Vec<u8>, Bytes),
    Delete(Space, Vec<u8>),
    /// From inclusive, to exclusive.
    DeleteRange(Space, Vec<u8>, Vec<u8>),
}

impl Write {
    fn size_bytes(&self) -> usize {
        match self {
            Self::Put(_, key, value) => key.len() + value.len(),
            Self::PutParts(_, key, head, body) => key.len() + head.len() + body.len(),
            Self::Delete(_, key) => key.len(),
            Self::DeleteRange(_, from, to) => from.len() + to.len(),
        }
    }
}

pub(super) enum Message {
    Submit(Submission),
    Close(Done),
}

pub(super) struct Writer {
    backend: SharedBackend,
    gate: Arc<Gate>,
    metrics: StoreMetrics,
    queue: mpsc::Receiver<Message>,
    /// Values are put together here.
    scratch: Vec<u8>,
}

pub(super) fn spawn(
    backend: SharedBackend,
    gate: Arc<Gate>,
    metrics: StoreMetrics,
) -> std::io::Result<(mpsc::Sender<Message>, std::thread::JoinHandle<()>)> {
    let (sender, queue) = mpsc::channel(QUEUE);
    let writer = Writer {
        backend,
        gate,
        metrics,
        queue,
        scratch: Vec::new(),
    };
    let thread = std::thread::Builder::new()
        .name("store-writer".into())
        .spawn(move || writer.run())?;
    Ok((sender, thread))
}

/// As [`spawn`], as a task of the runtime that this is called in. Each round takes `pace` before it is written.
pub(super) fn spawn_task(
    backend: SharedBackend,
    gate: Arc<Gate>,
    metrics: StoreMetrics,
    pace: Pace,
) -> mpsc::Sender<Message> {
    let (sender, queue) = mpsc::channel(QUEUE);
    let writer = Writer {
        backend,
        gate,
        metrics,
        queue,
        scratch: Vec::new(),
    };
    tokio::spawn(writer.run_in_task(pace));
    sender
}

/// What one round has gathered.
#[derive(Default)]
struct Round {
    writes: Vec<Write>,
    bytes: usize,
    waiting: Vec<Done>,
    sync: bool,
    close: Option<Done>,
}

impl Writer {
    fn run(mut self) {
        while let Some(first) = self.queue.blocking_recv() {
            let mut round = Round::default();
            self.gather(first, &mut round);
            if !round.waiting.is_empty() {
                self.commit(round.writes, round.sync, round.waiting);
            }
            if let Some(done) = round.close {
                done(Ok(()));
                return;
            }
        }
    }

    async fn run_in_task(mut self, pace: Pace) {
        while let Some(first) = self.queue.recv().await {
            let mut round = Round::default();
            self.gather(first, &mut round);
            if !round.waiting.is_empty() {
                tokio::time::sleep(pace()).await;
                self.commit_in_task(round.writes, round.sync, round.waiting).await;
            }
            if let Some(done) = round.close {
                done(Ok(()));
                return;
            }
        }
    }

    fn gather(&mut self, first: Message, round: &mut Round) {
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Close(done) => {
                    round.close = Some(done);
                    return;
                }
                Message::Submit(submission) => {
                    round.bytes += submission.writes.iter().map(Write::size_bytes).sum::<usize>();
                    round.writes.extend(submission.writes);
                    round.sync |= submission.sync;
                    round.waiting.push(submission.done);
                }
            }
            if round.bytes >= BATCH_BYTES {
                return;
            }
            next = self.queue.try_recv().ok();
        }
    }

    /// Returns once it is written, or the store is closed.
    fn commit(&mut self, writes: Vec<Write>, sync: bool, waiting: Vec<Done>) {
        if is_only_waited_for(&writes, sync) {
            return waiting.into_iter().for_each(|done| done(Ok(())));
        }
        let Self {
            backend,
            gate,
            metrics,
            scratch,
            ..
        } = self;
        let mut bytes = 0;
        let result = gate.write(sync, &mut || {
            let batch = batch_of(backend, &writes, scratch)?;
            bytes = batch.size_bytes();
            Ok(batch)
        });
        tell(metrics, bytes, waiting, &result);
    }

    async fn commit_in_task(&mut self, writes: Vec<Write>, sync: bool, waiting: Vec<Done>) {
        if is_only_waited_for(&writes, sync) {
            return waiting.into_iter().for_each(|done| done(Ok(())));
        }
        let Self {
            backend,
            gate,
            metrics,
            scratch,
            ..
        } = self;
        let mut bytes = 0;
        let mut make = || {
            let batch = batch_of(backend, &writes, scratch)?;
            bytes = batch.size_bytes();
            Ok(batch)
        };
        let result = gate.write_in_task(sync, &mut make).await;
        tell(metrics, bytes, waiting, &result);
    }
}

/// What came before is written: the disk need not take anything for that to be said.
const fn is_only_waited_for(writes: &[Write], sync: bool) -> bool {
    writes.is_empty() && !sync
}

fn batch_of(backend: &SharedBackend, writes: &[Write], scratch: &mut Vec<u8>) -> Result<Batch, StoreError> {
    let mut batch = backend.batch()?;
    for write in writes {
        add(&mut batch, write, scratch);
    }
    Ok(batch)
}

fn tell(metrics: &StoreMetrics, bytes: usize, waiting: Vec<Done>, result: &Result<(), StoreError>) {
    metrics.batch(bytes, waiting.len());
    for done in waiting {
        done(result.clone());
    }
}

fn add(batch: &mut Batch, write: &Write, scratch: &mut Vec<u8>) {
    match write {
        Write::Put(space, key, value) => batch.put(*space, key, value),
        Write::PutParts(space, key, head, body) => {
            scratch.clear();
            scratch.extend_from_slice(head);
            scratch.extend_from_slice(body);
            batch.put(*space, key, scratch);
        }
        Write::Delete(space, key) => batch.delete(*space, key),
        Write::DeleteRange(space, from, to) => batch.delete_range(*space, from, to),
    }
}
