//! How much of a group's log is on its way to a follower at once.
//!
//! What a link has under way delays the answers behind it, and the pings of its connection: over a slow link a part of the
//! log that is sent as it was read would be taken for lost before it could be answered, and be sent again for ever. So parts
//! of the log go out in pieces, and so many of them as are answered soon: where that is tried, [`Pace`] grows with each answer
//! that comes within a second (and a little with one within two), is halved by one that takes longer, and falls to its least
//! where one does not come. An entry is not cut: one that is larger than what may be under way goes alone, and its answer is
//! waited for longer.
//!
//! Invariant: requests do not wait for room once nobody waits for their answers, whoever drives them (a connection's task may
//! outlive both).

use super::types::{Entry, TypeConfig};
use futures::stream::{self, Stream, StreamExt};
use openraft::EntryPayload;
use openraft::raft::AppendEntriesRequest;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

type Request = AppendEntriesRequest<TypeConfig>;

/// Bytes under way: at first,
const FIRST: usize = 512 << 10;
/// at least (of each group, and all share a link),
const LEAST: usize = 32 << 10;
/// or this, where answers are slow but come: a slow disk answers little no sooner than much.
const LEAST_ANSWERED: usize = 256 << 10;
/// and at most: what is read of a log at once is less than half of it, and goes out whole then.
const MOST: usize = 6 << 20;
/// An answer within this lets more be sent,
const SOON: Duration = Duration::from_secs(1);
/// and one that takes longer than this less.
const SLOW: Duration = Duration::from_secs(2);
/// A follower that owes an answer to what may be under way for longer is given up. A slow disk answers within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Of an entry, besides its payload.
const ENTRY_BYTES: usize = 32;

/// What is known of the link to a follower, from one stream of requests to the next.
#[derive(Clone, Debug)]
pub(super) struct Pace(Arc<Mutex<Known>>);

#[derive(Debug)]
struct Known {
    /// Bytes that may be under way.
    most: usize,
    /// When that was last made less: what was sent before says nothing of it.
    lessened: Option<Instant>,
}

impl Default for Pace {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Known {
            most: FIRST,
            lessened: None,
        })))
    }
}

impl Known {
    fn lessen(&mut self, most: usize) {
        self.most = most;
        self.lessened = Some(Instant::now());
    }

    /// So many bytes were answered, when so many were under way.
    fn answered(&mut self, bytes: usize, of: usize, sent: Instant) {
        let took = sent.elapsed();
        if took <= SLOW {
            // Little that is answered soon says nothing of much.
            let is_tried = of >= self.most / 2;
            let more = if took <= SOON { bytes } else { bytes.min(LEAST) };
            self.most = (self.most + if is_tried { more } else { 0 }).min(MOST);
        } else if self.lessened.is_none_or(|at| at <= sent) && self.most > LEAST_ANSWERED {
            self.lessen((self.most / 2).max(LEAST_ANSWERED));
        }
    }
}

/// What one stream of requests has under way.
#[derive(Debug)]
pub(super) struct Away {
    pace: Pace,
    state: Mutex<State>,
    /// Something was answered, or nobody waits for answers any more.
    freed: Notify,
}

#[derive(Debug)]
struct State {
    /// Of all in `sent`.
    bytes: usize,
    sent: VecDeque<Sent>,
    /// When something was answered last.
    answered: Instant,
    has_ended: bool,
}

impl State {
    /// Each has its time once those before it were answered.
    fn owed_since(&self, first: &Sent) -> Instant {
        self.answered.max(first.at)
    }
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    bytes: usize,
    at: Instant,
    /// In which it is to be answered.
    within: Duration,
}

/// Ends the requests when it is dropped: it goes with their answers.
#[derive(Debug)]
pub(super) struct EndsAway(Arc<Away>);

impl Drop for EndsAway {
    fn drop(&mut self) {
        self.0.state.lock().has_ended = true;
        self.0.freed.notify_waiters();
    }
}

impl Away {
    pub(super) fn new(pace: Pace) -> (Arc<Self>, EndsAway) {
        let away = Arc::new(Self {
            pace,
            state: Mutex::new(State {
                bytes: 0,
                sent: VecDeque::new(),
                answered: Instant::now(),
                has_ended: false,
            }),
            freed: Notify::new(),
        });
        (Arc::clone(&away), EndsAway(away))
    }

    /// The requests, in pieces, none before it may go.
    pub(super) fn paced(
        self: &Arc<Self>,
        requests: impl Stream<Item = Request> + Send + Unpin + 'static,
    ) -> impl Stream<Item = Request> + Send + 'static {
        let away = Arc::clone(self);
        stream::unfold((requests, VecDeque::new()), move |(mut requests, mut pieces)| {
            let away = Arc::clone(&away);
            async move {
                let piece = match pieces.pop_front() {
                    Some(piece) => piece,
                    // What is asked for next would be lost to whoever sends instead.
                    None if away.state.lock().has_ended => return None,
                    None => {
                        pieces = split(requests.next().await?, away.pace.0.lock().most / 2);
                        pieces.pop_front()?
                    }
                };
                away.send(bytes_of(&piece)).await?;
                Some((piece, (requests, pieces)))
            }
        })
    }

    /// Waits until so many bytes may go, and notes that they do; none once nobody waits for answers. Something may always go
    /// where nothing is under way, and so may what is nothing.
    async fn send(&self, bytes: usize) -> Option<()> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            {
                let most = self.pace.0.lock().most;
                let mut state = self.state.lock();
                if state.has_ended {
                    return None;
                }
                if bytes == 0 || state.bytes == 0 || state.bytes + bytes <= most {
                    let times = bytes.div_ceil(most).max(1);
                    state.bytes += bytes;
                    state.sent.push_back(Sent {
                        bytes,
                        at: Instant::now(),
                        within: ANSWER_WITHIN * u32::try_from(times).unwrap_or(u32::MAX),
                    });
                    return Some(());
                }
            }
            freed.await;
        }
    }

    /// How much longer an answer may be owed: zero when it is late. What nothing is owed for may come at any time.
    pub(super) fn patience(&self) -> Duration {
        let state = self.state.lock();
        let Some(first) = state.sent.front() else {
            return ANSWER_WITHIN;
        };
        first.within.saturating_sub(state.owed_since(first).elapsed())
    }

    /// For how long an answer has been owed.
    pub(super) fn owed_for(&self) -> Duration {
        let state = self.state.lock();
        let first = state.sent.front();
        first.map_or(Duration::ZERO, |first| state.owed_since(first).elapsed())
    }

    /// The first of those that are under way was answered.
    pub(super) fn answered(&self) {
        let (first, of) = {
            let mut state = self.state.lock();
            state.answered = Instant::now();
            let of = state.bytes;
            let first = state.sent.pop_front();
            state.bytes -= first.map_or(0, |first| first.bytes);
            (first, of)
        };
        if let Some(first) = first {
            self.pace.0.lock().answered(first.bytes, of, first.at);
        }
        self.freed.notify_waiters();
    }

    /// The stream has failed. Where an answer was owed for long, less is sent from now on.
    pub(super) fn failed(&self) {
        let state = self.state.lock();
        let is_slow = state.sent.front().is_some_and(|first| first.at.elapsed() > SLOW);
        if state.bytes > 0 && is_slow {
            self.pace.0.lock().lessen(LEAST);
        }
    }
}

fn bytes_of_entry(entry: &Entry) -> usize {
    let payload = match &entry.payload {
        EntryPayload::Normal(command) => command.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    };
    ENTRY_BYTES + payload
}

fn bytes_of(request: &Request) -> usize {
    request.entries.iter().map(bytes_of_entry).sum()
}

/// The same entries in requests of at most so many bytes, or of one entry. One without entries stays one.
fn split(request: Request, most: usize) -> VecDeque<Request> {
    if bytes_of(&request) <= most {
        return [request].into();
    }
    let mut pieces = VecDeque::new();
    let Request {
        vote,
        prev_log_id,
        leader_commit,
        entries,
    } = request;
    let piece = |prev_log_id, entries| Request {
        vote,
        prev_log_id,
        leader_commit,
        entries,
    };
    let (mut before, mut taken, mut bytes) = (prev_log_id, Vec::new(), 0);
    for entry in entries {
        let more = bytes_of_entry(&entry);
        if bytes + more > most && !taken.is_empty() {
            let entries: Vec<Entry> = std::mem::take(&mut taken);
            let last = entries.last().map(|entry| entry.log_id);
            pieces.push_back(piece(before, entries));
            (before, bytes) = (last, 0);
        }
        bytes += more;
        taken.push(entry);
    }
    if !taken.is_empty() || pieces.is_empty() {
        pieces.push_back(piece(before, taken));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::super::types::{Command, LogId, Vote};
    use super::*;

    fn most(pace: &Pace) -> usize {
        pace.0.lock().most
    }

    fn request(first: u64, entries: usize, bytes: usize) -> Request {
        let entry = |index| Entry {
            log_id: LogId::new_term_index(3, index),
            payload: EntryPayload::Normal(Command(vec![7; bytes].into())),
        };
        Request {
            vote: Vote::new_committed(3, 1),
            prev_log_id: first.checked_sub(1).map(|index| LogId::new_term_index(3, index)),
            leader_commit: Some(LogId::new_term_index(3, 5)),
            entries: (first..first + entries as u64).map(entry).collect(),
        }
    }

    #[test]
    fn pieces_follow_each_other_and_have_all() {
        for (entries, bytes, most, expected) in [
            (10, 100, 400, 4),
            (10, 100, 1, 10),
            (10, 100, 1 << 20, 1),
            (1, 5000, 400, 1),
            (0, 0, 400, 1),
        ] {
            let whole = request(1, entries, bytes);
            let pieces = split(whole.clone(), most);
            assert_eq!(pieces.len(), expected, "{entries} of {bytes} by {most}");
            let mut before = whole.prev_log_id;
            for piece in &pieces {
                assert_eq!(piece.prev_log_id, before);
                assert_eq!((piece.vote, piece.leader_commit), (whole.vote, whole.leader_commit));
                before = piece.entries.last().map(|entry| entry.log_id).or(before);
            }
            let entries: Vec<Entry> = pieces.into_iter().flat_map(|piece| piece.entries).collect();
            assert_eq!(entries, whole.entries);
        }
    }

    /// Sends as many streams of requests over one link, in which all that is under way waits for its turn, each with some
    /// small requests in between; how many streams had to be begun anew.
    async fn over(bytes_per_s: usize, streams: u64, entry: usize) -> usize {
        const ALL: usize = 4 << 20;
        const REQUEST: usize = 2 << 20;
        let link = Arc::new(tokio::sync::Mutex::new(()));
        let one = |group: u64| {
            let link = Arc::clone(&link);
            async move {
                let pace = Pace::default();
                let (mut done, mut again) = (0usize, 0);
                while done < ALL {
                    let (away, ends) = Away::new(pace.clone());
                    let (each, left) = (REQUEST / entry, (ALL - done).div_ceil(REQUEST) as u64);
                    let requests = (0..left).flat_map(move |n| {
                        [
                            request(1 + n * each as u64, each, entry),
                            request(1 + (n + 1) * each as u64, 0, 0),
                        ]
                    });
                    let requests = away.paced(stream::iter(requests.collect::<Vec<_>>()));
                    let mut sent = driven(requests);
                    while let Some(request) = sent.recv().await {
                        let pass = async {
                            let mut left = bytes_of(&request);
                            while left > 0 {
                                let turn = left.min(1500);
                                let _link = link.lock().await;
                                tokio::time::sleep(Duration::from_secs_f64(turn as f64 / bytes_per_s as f64)).await;
                                left -= turn;
                            }
                        };
                        if tokio::time::timeout(away.patience(), pass).await.is_err() {
                            away.failed();
                            again += 1;
                            break;
                        }
                        done += request.entries.len() * entry;
                        away.answered();
                    }
                    drop(ends);
                    assert!(again < 20, "group {group}: begun anew again and again");
                }
                again
            }
        };
        futures::future::join_all((0..streams).map(one)).await.iter().sum()
    }

    /// As a connection does it: a task of its own takes all that may go, whoever looks at the answers.
    fn driven(requests: impl Stream<Item = Request> + Send + 'static) -> tokio::sync::mpsc::UnboundedReceiver<Request> {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut requests = std::pin::pin!(requests);
            while let Some(request) = requests.next().await {
                // Nobody has to take it.
                let _ = sender.send(request);
            }
        });
        receiver
    }

    #[tokio::test(start_paused = true)]
    async fn slow_links_are_sent_what_they_can_answer() {
        for (bytes_per_s, streams, entry) in [
            (30_000, 1, 8 << 10),
            (30_000, 1, 512 << 10),
            (100_000, 4, 8 << 10),
            (500_000, 8, 128 << 10),
        ] {
            let again = over(bytes_per_s, streams, entry).await;
            let what = format!("{bytes_per_s} B/s, {streams} groups, entries of {entry}: {again} begun anew");
            println!("{what}");
            assert!(again <= 2 * streams as usize, "{what}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn fast_links_are_sent_all_that_may_be_under_way() {
        let pace = Pace::default();
        let (away, _ends) = Away::new(pace.clone());
        let requests = (0..40).map(|n| request(1 + n * 256, 256, 8 << 10));
        let mut sent = driven(away.paced(stream::iter(requests.collect::<Vec<_>>())));
        let mut pieces = 0;
        while let Some(_request) = sent.recv().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
            away.answered();
            pieces += 1;
        }
        assert_eq!(most(&pace), MOST);
        assert!(pieces < 60, "{pieces} pieces of 40 requests");
    }

    #[tokio::test(start_paused = true)]
    async fn little_that_is_answered_soon_says_nothing_of_much() {
        let pace = Pace::default();
        let (away, _ends) = Away::new(pace.clone());
        let requests = (0..1000).map(|n| request(1 + n, 1, 8 << 10));
        let mut requests = std::pin::pin!(away.paced(stream::iter(requests.collect::<Vec<_>>())));
        while requests.next().await.is_some() {
            away.answered();
        }
        assert_eq!(most(&pace), FIRST);
    }

    /// Where answers come so many milliseconds apart, each time all that are owed.
    async fn after_answers_of(each_ms: u64, first: usize) -> usize {
        let pace = Pace::default();
        pace.0.lock().lessen(first);
        let (away, _ends) = Away::new(pace.clone());
        let requests = (0..200).map(|n| request(1 + n * 16, 16, 8 << 10));
        let mut sent = driven(away.paced(stream::iter(requests.collect::<Vec<_>>())));
        while let Some(_request) = sent.recv().await {
            tokio::time::sleep(Duration::from_millis(each_ms)).await;
            // One write to the disk has all that came until then.
            away.answered();
            while sent.try_recv().is_ok() {
                away.answered();
            }
        }
        most(&pace)
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_disk_is_not_sent_little() {
        assert_eq!(after_answers_of(4_000, MOST).await, LEAST_ANSWERED);
        assert_eq!(after_answers_of(4_000, LEAST).await, LEAST);
        let most = after_answers_of(1_500, LEAST).await;
        assert!(most >= FIRST, "{most} bytes");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_end_with_their_answers_whoever_drives_them() {
        let pace = Pace::default();
        let (away, ends) = Away::new(pace.clone());
        let mut sent = driven(away.paced(stream::iter([request(1, 4, FIRST / 2 - ENTRY_BYTES)])));
        assert!(sent.recv().await.is_some() && sent.recv().await.is_some());
        let more = tokio::time::timeout(ANSWER_WITHIN, sent.recv()).await;
        assert!(more.is_err(), "more than may be under way");
        assert_eq!(away.patience(), Duration::ZERO, "and it is late");
        away.failed();
        drop(ends);
        assert!(sent.recv().await.is_none(), "it goes on");
        assert_eq!(most(&pace), LEAST);
        // The next one begins with nothing under way.
        let (next, _ends) = Away::new(pace);
        let mut sent = driven(next.paced(stream::iter([request(1, 4, LEAST / 4)])));
        assert!(sent.recv().await.is_some());
    }
}
