//! A group's log and vote in the node's store.
//!
//! Invariant: entries are readable when `append` returns and reported flushed after the sync. Until they are written
//! they are kept in `recent`, which is contiguous and ends at the last entry.

use super::codec::{self, Malformed, Tag};
use super::types::{Entry, LogId, TypeConfig, Vote};
use crate::store::{Backend, NodeStore, Space, StoreError, Submission, Write};
use futures::stream::{self, BoxStream, Stream, StreamExt};
use gnomon_model::GroupId;
use gnomon_proto::v1;
use openraft::errors::LeaderChanged;
use openraft::storage::{IOFlushed, LeaderBoundedStreamError, RaftLogReader, RaftLogStorage};
use openraft::{LogState, OptionalSend};
use parking_lot::Mutex;
use prost::Message;
use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Written entries kept in memory for followers and apply, in bytes.
const RECENT_BYTES: usize = 1 << 20;
/// A limited read ends at this many bytes (after at least one entry).
const READ_BYTES: usize = 2 << 20;
/// More entries than this are truncated by one range rather than one by one.
const SINGLE_DELETES: u64 = 1024;

/// The log of one group.
#[derive(Clone)]
pub(crate) struct GroupLog {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<NodeStore>,
    group: GroupId,
    tail: Mutex<Tail>,
    /// Held while something is handed to the store, so that nothing is once it has been set.
    is_sealed: Mutex<bool>,
}

#[derive(Default)]
struct Tail {
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    /// Of the last entry; of the last purged one where there is none.
    last: Option<LogId>,
    /// The newest entries, contiguous up to `last`.
    recent: VecDeque<Entry>,
    recent_bytes: usize,
    /// Entries below this index are in the engine.
    written: u64,
    /// How often entries were taken back since the log was opened.
    truncations: u64,
    /// Bytes appended since the log was opened.
    appended_bytes: u64,
}

impl Tail {
    /// First index that may be in the log.
    fn first(&self) -> u64 {
        self.purged.map_or(0, |id| id.index + 1)
    }

    fn next(&self) -> u64 {
        self.last.map_or(0, |id| id.index + 1)
    }

    fn push(&mut self, entry: Entry) {
        self.recent_bytes += codec::entry_bytes(&entry);
        self.last = Some(entry.log_id);
        self.recent.push_back(entry);
    }

    /// Forgets entries that can be read from the engine.
    fn trim(&mut self) {
        while self.recent_bytes > RECENT_BYTES {
            match self.recent.front() {
                Some(entry) if entry.log_id.index < self.written => self.pop_front(),
                _ => return,
            }
        }
    }

    fn pop_front(&mut self) {
        if let Some(entry) = self.recent.pop_front() {
            self.recent_bytes -= codec::entry_bytes(&entry);
        }
    }

    fn pop_back(&mut self) {
        if let Some(entry) = self.recent.pop_back() {
            self.recent_bytes -= codec::entry_bytes(&entry);
        }
    }
}

/// The newest entry that a replica had which was removed here; blocks.
///
/// # Errors
/// When the store cannot be read.
pub(crate) fn left_at(backend: &dyn Backend, group: GroupId) -> Result<Option<LogId>, StoreError> {
    let stored = backend.get(Space::Meta, &codec::meta_key(group, Tag::Left))?;
    let Some(value) = stored else { return Ok(None) };
    let wire = v1::RaftLogId::decode(value)
        .map_err(|e| Malformed::from(e).stored(format!("newest log id of the removed replica of group {group}")))?;
    Ok(Some(codec::log_id_from(wire)))
}

impl GroupLog {
    /// Opens the group's log; blocks.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn open(store: Arc<NodeStore>, group: GroupId) -> Result<Self, StoreError> {
        let backend = store.backend();
        let read = |tag: Tag| backend.get(Space::Meta, &codec::meta_key(group, tag));
        let name = |what: &str| format!("{what} of group {group}");
        let log_id = |value: Option<bytes::Bytes>, what: &str| -> Result<Option<LogId>, StoreError> {
            let Some(value) = value else { return Ok(None) };
            let wire = v1::RaftLogId::decode(value).map_err(|e| Malformed::from(e).stored(name(what)))?;
            Ok(Some(codec::log_id_from(wire)))
        };
        let vote = match read(Tag::Vote)? {
            Some(value) => Some(codec::vote_from(
                v1::RaftVote::decode(value).map_err(|e| Malformed::from(e).stored(name("vote")))?,
            )),
            None => None,
        };
        let committed = log_id(read(Tag::Committed)?, "committed log id")?;
        let purged = log_id(read(Tag::Purged)?, "purged log id")?;
        let first = purged.map_or(0, |id| id.index + 1);
        let end = codec::log_key(group, u64::MAX);
        let last = match backend.last(Space::Log, &codec::log_key(group, first), &end)? {
            Some((key, value)) => {
                let index = index_of(&key)?;
                let entry = codec::entry_from_stored(index, &value).map_err(|e| e.stored(entry_name(group, index)))?;
                Some(entry.log_id)
            }
            None => purged,
        };
        let tail = Tail {
            vote,
            committed,
            purged,
            last,
            written: last.map_or(0, |id| id.index + 1),
            ..Tail::default()
        };
        Ok(Self {
            inner: Arc::new(Inner {
                store,
                group,
                tail: Mutex::new(tail),
                is_sealed: Mutex::new(false),
            }),
        })
    }

    /// The newest entry that this node has, or had when its replica was removed; blocks.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) fn newest(store: Arc<NodeStore>, group: GroupId) -> Result<Option<LogId>, StoreError> {
        let left = left_at(store.backend().as_ref(), group)?;
        let log = Self::open(store, group)?;
        let last = log.inner.tail.lock().last;
        Ok(left.max(last))
    }

    /// From here on nothing is written through this handle, whoever still holds it: on a bad disk Raft cannot be waited for,
    /// and goes on where it stood once the disk is well. By then the replica may be removed, or opened again.
    pub(crate) fn seal(&self) {
        *self.inner.is_sealed.lock() = true;
    }

    /// Bytes appended since the log was opened; only grows.
    pub(crate) fn appended_bytes(&self) -> u64 {
        self.inner.tail.lock().appended_bytes
    }

    /// The newest entry that is there, or was before it was purged.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.inner.tail.lock().last
    }

    /// Index of the first entry that may be there, and of the last.
    pub(crate) fn bounds(&self) -> (u64, Option<u64>) {
        let tail = self.inner.tail.lock();
        (tail.first(), tail.last.map(|id| id.index))
    }
}

fn entry_name(group: GroupId, index: u64) -> String {
    format!("log entry {index} of group {group}")
}

pub(super) fn index_of(key: &[u8]) -> Result<u64, StoreError> {
    let index = key.last_chunk::<8>().filter(|_| key.len() == 12);
    index
        .map(|b| u64::from_be_bytes(*b))
        .ok_or_else(|| StoreError::Corrupt {
            what: "key of a log entry".into(),
            why: format!("{} bytes, 12 are expected", key.len()),
        })
}

impl Inner {
    async fn submit(&self, writes: Vec<Write>, sync: bool, done: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        let submission = Submission {
            writes,
            sync,
            done: Box::new(done),
        };
        let place = self.store.place().await;
        let is_sealed = self.is_sealed.lock();
        match place {
            Some(place) if !*is_sealed => place.submit(submission),
            _ => {
                drop(is_sealed);
                (submission.done)(Err(StoreError::Closed));
            }
        }
    }

    async fn write(&self, writes: Vec<Write>, sync: bool) -> io::Result<()> {
        let (sender, written) = oneshot::channel();
        self.submit(writes, sync, move |result| drop(sender.send(result))).await;
        match written.await {
            Ok(result) => Ok(result?),
            Err(_) => Err(StoreError::Closed.into()),
        }
    }

    /// Entries of `from..to`, up to a number of bytes after the first; from the first on that is not purged, if that is later.
    fn read(&self, from: u64, to: u64, limit_bytes: usize) -> Result<Vec<Entry>, StoreError> {
        loop {
            let first = self.tail.lock().first();
            if let Some(entries) = self.read_contiguous(from.max(first), to, limit_bytes)? {
                return Ok(entries);
            }
        }
    }

    /// Entries of `from..to` from the first of them on, up to a number of bytes after it; none where it was purged.
    fn read_from(&self, from: u64, to: u64, limit_bytes: usize) -> Result<Option<Vec<Entry>>, StoreError> {
        let entries = self.read_contiguous(from, to, limit_bytes)?;
        match entries.as_ref().and_then(|entries| entries.first()) {
            Some(first) if first.log_id.index != from => Err(self.hole(from, first.log_id.index)),
            _ => Ok(entries),
        }
    }

    /// Entries of `from..to`, each following the one before, up to a number of bytes after the first; none where `from` was
    /// purged.
    fn read_contiguous(&self, from: u64, to: u64, limit_bytes: usize) -> Result<Option<Vec<Entry>>, StoreError> {
        loop {
            let (to, recent, truncations) = {
                let tail = self.tail.lock();
                let to = to.min(tail.next());
                if from < tail.first() {
                    return Ok(None);
                }
                if from >= to {
                    return Ok(Some(Vec::new()));
                }
                let kept = tail.recent.front().map_or(u64::MAX, |entry| entry.log_id.index);
                if kept <= from {
                    let skip = usize::try_from(from - kept).unwrap_or(usize::MAX);
                    return Ok(Some(limited(tail.recent.iter().skip(skip), to, limit_bytes)));
                }
                // What is kept is taken now, together with the bounds, so that the whole is one view.
                let recent = limited(tail.recent.iter(), to, limit_bytes);
                (to.min(kept), recent, tail.truncations)
            };
            let (mut entries, whole) = self.read_stored(from, to, limit_bytes)?;
            let mut bytes: usize = entries.iter().map(codec::entry_bytes).sum();
            let more = recent.into_iter().take_while(|entry| {
                bytes += codec::entry_bytes(entry);
                bytes <= limit_bytes
            });
            entries.extend(more.filter(|_| whole));
            let tail = self.tail.lock();
            if tail.truncations != truncations {
                continue;
            }
            if from < tail.first() {
                return Ok(None);
            }
            drop(tail);
            if entries.is_empty() {
                return Err(StoreError::Corrupt {
                    what: format!("log of group {}", self.group),
                    why: format!("entry {from} is missing"),
                });
            }
            let mut pairs = entries
                .windows(2)
                .map(|pair| (pair[0].log_id.index + 1, pair[1].log_id.index));
            return match pairs.find(|(wanted, found)| wanted != found) {
                Some((wanted, found)) => Err(self.hole(wanted, found)),
                None => Ok(Some(entries)),
            };
        }
    }

    /// It would be applied, or sent to a follower, as if nothing had been there.
    fn hole(&self, wanted: u64, found: u64) -> StoreError {
        StoreError::Corrupt {
            what: format!("log of group {}", self.group),
            why: format!("entry {found} stands where entry {wanted} is expected"),
        }
    }

    /// The entries of the engine, and whether they are all it has of the range.
    fn read_stored(&self, from: u64, to: u64, limit_bytes: usize) -> Result<(Vec<Entry>, bool), StoreError> {
        let (mut entries, mut bytes, mut whole, mut failed) = (Vec::new(), 0, true, None);
        let (low, high) = (codec::log_key(self.group, from), codec::log_key(self.group, to));
        self.store.backend().scan(Space::Log, &low, &high, &mut |key, value| {
            let entry = index_of(key).and_then(|index| {
                codec::entry_from_stored(index, value).map_err(|e| e.stored(entry_name(self.group, index)))
            });
            match entry {
                Ok(entry) => {
                    bytes += codec::entry_bytes(&entry);
                    whole = bytes <= limit_bytes || entries.is_empty();
                    if whole {
                        entries.push(entry);
                    }
                    whole
                }
                Err(error) => {
                    failed = Some(error);
                    false
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        Ok((entries, whole))
    }
}

fn limited<'a>(entries: impl Iterator<Item = &'a Entry>, to: u64, limit_bytes: usize) -> Vec<Entry> {
    let mut bytes = 0;
    let mut taken = Vec::new();
    for entry in entries.take_while(|entry| entry.log_id.index < to) {
        bytes += codec::entry_bytes(entry);
        if bytes > limit_bytes && !taken.is_empty() {
            break;
        }
        taken.push(entry.clone());
    }
    taken
}

/// A range of indexes as start and exclusive end.
fn start_end(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(at) => *at,
        Bound::Excluded(at) => at.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(at) => at.saturating_add(1),
        Bound::Excluded(at) => *at,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl GroupLog {
    /// The range in pieces of limited size, so that memory does not grow with it. Ends where the log ends; an error where a
    /// part of it is purged.
    fn pieces(&self, start: u64, end: u64) -> impl Stream<Item = io::Result<Vec<Entry>>> + Send + use<> {
        let log = self.clone();
        stream::try_unfold(start, move |at| {
            let log = log.clone();
            async move {
                if at >= end {
                    return Ok(None);
                }
                let piece = log.inner.read_from(at, end, READ_BYTES)?;
                let piece =
                    piece.ok_or_else(|| io::Error::other(format!("log entry {at} was purged before it was read")))?;
                match piece.last() {
                    Some(last) => {
                        let next = last.log_id.index + 1;
                        Ok(Some((piece, next)))
                    }
                    None => Ok(None),
                }
            }
        })
    }
}

type LeaderId = openraft::type_config::alias::LeaderIdOf<TypeConfig>;
type BoundedItem = Result<Entry, LeaderBoundedStreamError<TypeConfig>>;

impl RaftLogReader<TypeConfig> for GroupLog {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (start, end) = start_end(&range);
        Ok(self.inner.read(start, end, usize::MAX)?)
    }

    /// None where the first one was purged, never later ones: they go to a follower that has what is before `start`, and it
    /// would have a hole. The library sends a heartbeat then, until it notices that the follower needs a snapshot.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        Ok(self.inner.read_from(start, end, READ_BYTES)?.unwrap_or_default())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.inner.tail.lock().vote)
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = start_end(&range);
        let entries: BoxStream<'static, _> = self
            .pieces(start, end)
            .flat_map(|piece| match piece {
                Ok(entries) => stream::iter(entries.into_iter().map(Ok).collect::<Vec<_>>()),
                Err(error) => stream::iter(vec![Err(error)]),
            })
            .boxed();
        entries
    }

    async fn leader_bounded_stream<RB>(
        &mut self,
        leader: LeaderId,
        range: RB,
    ) -> impl Stream<Item = BoundedItem> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = start_end(&range);
        let log = self.clone();
        let check = move || {
            let vote = log.inner.tail.lock().vote;
            match vote {
                Some(vote) if vote.leader_id == leader && vote.committed => Ok(()),
                other => Err(LeaderBoundedStreamError::LeaderChanged(LeaderChanged::new(
                    leader, other,
                ))),
            }
        };
        let first: Vec<BoundedItem> = check().err().map(Err).into_iter().collect();
        let refused = !first.is_empty();
        let pieces = self.pieces(start, if refused { start } else { end });
        // Truncation comes after a change of the vote, so entries read while the vote stands are the leader's.
        let checked = pieces.flat_map(move |piece| match (check(), piece) {
            (Err(changed), _) => stream::iter(vec![Err(changed)]),
            (Ok(()), Err(error)) => stream::iter(vec![Err(LeaderBoundedStreamError::IoError(error))]),
            (Ok(()), Ok(entries)) => stream::iter(entries.into_iter().map(Ok).collect::<Vec<_>>()),
        });
        let stop = checked.scan(false, |ended, item| {
            let go = !*ended;
            *ended = item.is_err();
            std::future::ready(go.then_some(item))
        });
        let all: BoxStream<'static, BoundedItem> = stream::iter(first).chain(stop).boxed();
        all
    }
}

impl RaftLogStorage<TypeConfig> for GroupLog {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let tail = self.inner.tail.lock();
        Ok(LogState {
            last_purged_log_id: tail.purged,
            last_log_id: tail.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let inner = &self.inner;
        let key = codec::meta_key(inner.group, Tag::Vote);
        let value = codec::vote_to(vote).encode_to_vec();
        inner.write(vec![Write::Put(Space::Meta, key, value)], true).await?;
        inner.tail.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let inner = &self.inner;
        let key = codec::meta_key(inner.group, Tag::Committed);
        let write = match &committed {
            Some(id) => Write::Put(Space::Meta, key, codec::log_id_to(id).encode_to_vec()),
            None => Write::Delete(Space::Meta, key),
        };
        inner.tail.lock().committed = committed;
        // It saves work after a restart; what is lost of it is found again, so it is not waited for.
        inner.submit(vec![write], false, |_| ()).await;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.inner.tail.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let inner = self.inner.clone();
        let mut writes = Vec::new();
        let next = {
            let mut tail = inner.tail.lock();
            for entry in entries {
                let key = codec::log_key(inner.group, entry.log_id.index);
                let (head, body) = codec::entry_to_stored(&entry);
                tail.appended_bytes += (head.len() + body.len()) as u64;
                writes.push(Write::PutParts(Space::Log, key, head, body));
                tail.push(entry);
            }
            tail.next()
        };
        let written = Arc::downgrade(&inner);
        inner
            .submit(writes, true, move |result| {
                if result.is_ok()
                    && let Some(inner) = written.upgrade()
                {
                    let mut tail = inner.tail.lock();
                    tail.written = next;
                    tail.trim();
                }
                callback.io_completed(result.map_err(io::Error::from));
            })
            .await;
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let inner = &self.inner;
        let keep = last_log_id.map_or(0, |id| id.index + 1);
        let end = {
            let mut tail = inner.tail.lock();
            let end = tail.next();
            if keep >= end {
                return Ok(());
            }
            while tail.recent.back().is_some_and(|entry| entry.log_id.index >= keep) {
                tail.pop_back();
            }
            tail.last = last_log_id.max(tail.purged);
            tail.written = tail.written.min(keep);
            tail.truncations += 1;
            end
        };
        let key = |index| codec::log_key(inner.group, index);
        let writes = if end - keep <= SINGLE_DELETES {
            (keep..end).map(|index| Write::Delete(Space::Log, key(index))).collect()
        } else {
            vec![Write::DeleteRange(Space::Log, key(keep), key(end))]
        };
        inner.write(writes, true).await?;
        let mut tail = inner.tail.lock();
        tail.written = tail.written.min(keep);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let inner = &self.inner;
        let first = {
            let mut tail = inner.tail.lock();
            let first = tail.first();
            if log_id.index < first {
                return Ok(());
            }
            while tail
                .recent
                .front()
                .is_some_and(|entry| entry.log_id.index <= log_id.index)
            {
                tail.pop_front();
            }
            tail.purged = Some(log_id);
            if tail.last.is_none_or(|last| last.index <= log_id.index) {
                tail.last = Some(log_id);
                tail.written = log_id.index + 1;
            }
            first
        };
        let key = codec::meta_key(inner.group, Tag::Purged);
        let writes = vec![
            Write::Put(Space::Meta, key, codec::log_id_to(&log_id).encode_to_vec()),
            Write::DeleteRange(
                Space::Log,
                codec::log_key(inner.group, first),
                codec::log_key(inner.group, log_id.index + 1),
            ),
        ];
        // Not waited for: while the disk takes no writes, reads must not wait either. What is lost of it is purged again.
        inner.submit(writes, false, |_| ()).await;
        Ok(())
    }
}
