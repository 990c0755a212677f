//! Group commit: one thread writes what waits from all groups as one batch, with one sync.

use super::backend::{Batch, SharedBackend, Space};
use super::metrics::StoreMetrics;
use super::{Health, StoreError};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::mpsc;

/// A batch is closed at this size; what waits longer goes into the next.
const BATCH_BYTES: usize = 8 << 20;
/// Submissions that may wait; more make the groups wait, which makes their callers wait.
const QUEUE: usize = 4096;

/// Told how a write ended.
pub type Done = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Writes of one group that happen together, in the order of submission.
pub struct Submission {
    /// The epoch the group was opened in: what belongs to an earlier one is refused, since something before it may
    /// have been lost.
    pub epoch: u64,
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

pub(super) enum Message {
    Submit(Submission),
    Close(Done),
}

pub(super) struct Writer {
    backend: SharedBackend,
    health: Arc<Health>,
    metrics: StoreMetrics,
    queue: mpsc::Receiver<Message>,
    /// Values are put together here.
    scratch: Vec<u8>,
}

pub(super) fn spawn(
    backend: SharedBackend,
    health: Arc<Health>,
    metrics: StoreMetrics,
) -> std::io::Result<(mpsc::Sender<Message>, std::thread::JoinHandle<()>)> {
    let (sender, queue) = mpsc::channel(QUEUE);
    let writer = Writer {
        backend,
        health,
        metrics,
        queue,
        scratch: Vec::new(),
    };
    let thread = std::thread::Builder::new()
        .name("store-writer".into())
        .spawn(move || writer.run())?;
    Ok((sender, thread))
}

/// What one round has gathered.
#[derive(Default)]
struct Round {
    waiting: Vec<Done>,
    sync: bool,
    close: Option<Done>,
}

impl Writer {
    fn run(mut self) {
        while let Some(first) = self.queue.blocking_recv() {
            let close = self.round(first);
            if let Some(done) = close {
                done(Ok(()));
                return;
            }
        }
    }

    fn round(&mut self, first: Message) -> Option<Done> {
        let mut round = Round::default();
        match self.backend.batch() {
            Ok(mut batch) => {
                self.gather(first, &mut batch, &mut round);
                if !round.waiting.is_empty() {
                    self.commit(batch, round.sync, round.waiting);
                }
            }
            Err(error) => match first {
                Message::Submit(submission) => (submission.done)(Err(error)),
                Message::Close(done) => round.close = Some(done),
            },
        }
        round.close
    }

    fn gather(&mut self, first: Message, batch: &mut Batch, round: &mut Round) {
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Close(done) => {
                    round.close = Some(done);
                    return;
                }
                Message::Submit(submission) if !self.health.accepts(submission.epoch) => {
                    (submission.done)(Err(StoreError::Failed));
                }
                Message::Submit(submission) => {
                    for write in submission.writes {
                        self.add(batch, write);
                    }
                    round.sync |= submission.sync;
                    round.waiting.push(submission.done);
                }
            }
            if batch.size_bytes() >= BATCH_BYTES {
                return;
            }
            next = self.queue.try_recv().ok();
        }
    }

    fn add(&mut self, batch: &mut Batch, write: Write) {
        match write {
            Write::Put(space, key, value) => batch.put(space, &key, &value),
            Write::PutParts(space, key, head, body) => {
                self.scratch.clear();
                self.scratch.extend_from_slice(&head);
                self.scratch.extend_from_slice(&body);
                batch.put(space, &key, &self.scratch);
            }
            Write::Delete(space, key) => batch.delete(space, &key),
            Write::DeleteRange(space, from, to) => batch.delete_range(space, &from, &to),
        }
    }

    fn commit(&mut self, batch: Batch, sync: bool, waiting: Vec<Done>) {
        let bytes = batch.size_bytes();
        let result = self.metrics.timed(sync, || self.backend.write(batch, sync));
        self.metrics.batch(bytes, waiting.len());
        self.health.wrote(bytes);
        if let Err(error) = &result {
            self.health.fail(error);
        }
        for done in waiting {
            done(result.clone());
        }
    }
}
