//! How much of the log is on its way to a node at once.
//!
//! What a link has under way delays the answers behind it, and the pings of its connection: over a slow link a part of the
//! log that is sent as it was read would be taken for lost before it could be answered, and be sent again for ever. So parts
//! of the log go out in pieces, and so many of them as are answered soon: [`Pace::most`] grows with each answer that comes
//! within a second, is halved by one that took two, and falls to its least where one did not come. An entry is not cut: one
//! that is larger than what may be under way goes alone, and its answer is waited for longer.
//!
//! One [`Pace`] is for all groups that send to a node, since they share its link.

use super::types::{Entry, TypeConfig};
use futures::stream::{self, Stream, StreamExt};
use gnomon_model::NodeId;
use openraft::EntryPayload;
use openraft::raft::AppendEntriesRequest;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

type Request = AppendEntriesRequest<TypeConfig>;

/// Bytes under way: at first,
const FIRST: usize = 512 << 10;
/// at least (13 KB/s are enough for an answer to that in time),
const LEAST: usize = 64 << 10;
/// and at most.
const MOST: usize = 8 << 20;
/// An answer within this lets more be sent,
const SOON: Duration = Duration::from_secs(1);
/// and one that takes longer than this less.
const SLOW: Duration = Duration::from_secs(2);
/// A node that owes an answer to what may be under way for longer is given up. A slow disk answers within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Of an entry, besides its payload.
const ENTRY_BYTES: usize = 32;

/// Of all nodes that are sent to.
#[derive(Clone, Default)]
pub(crate) struct Paces(Arc<Mutex<BTreeMap<NodeId, Arc<Pace>>>>);

impl Paces {
    pub(crate) fn of(&self, node: NodeId) -> Arc<Pace> {
        Arc::clone(self.0.lock().entry(node).or_default())
    }
}

#[derive(Default)]
pub(crate) struct Pace {
    state: Mutex<State>,
    /// Something was answered, or given up.
    freed: Notify,
}

struct State {
    most: usize,
    away: usize,
    /// When `most` was last made less: what was sent before says nothing of it.
    lessened: Option<Instant>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            most: FIRST,
            away: 0,
            lessened: None,
        }
    }
}

impl State {
    fn lessen(&mut self, most: usize) {
        self.most = most.max(LEAST);
        self.lessened = Some(Instant::now());
    }
}

impl Pace {
    fn most(&self) -> usize {
        self.state.lock().most
    }

    /// Waits until so many bytes may go. Something may always go where nothing is under way, and so may what is nothing.
    async fn until_free(&self, bytes: usize) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            {
                let mut state = self.state.lock();
                if bytes == 0 || state.away == 0 || state.away + bytes <= state.most {
                    state.away += bytes;
                    return;
                }
            }
            freed.await;
        }
    }

    fn answered(&self, bytes: usize, sent: Instant) {
        let mut state = self.state.lock();
        state.away -= bytes;
        let took = sent.elapsed();
        if took <= SOON {
            state.most = (state.most + bytes).min(MOST);
        } else if took > SLOW && state.lessened.is_none_or(|at| at <= sent) {
            let half = state.most / 2;
            state.lessen(half);
        }
        drop(state);
        self.freed.notify_waiters();
    }

    fn given_up(&self, bytes: usize) {
        self.state.lock().away -= bytes;
        self.freed.notify_waiters();
    }
}

/// What one stream of requests has under way.
pub(super) struct Away {
    pace: Arc<Pace>,
    under_way: Mutex<UnderWay>,
}

struct UnderWay {
    /// Bytes of each request that is not answered, and when it was handed out.
    sent: VecDeque<(usize, Instant)>,
    /// When something was answered last.
    answered: Instant,
}

impl Away {
    pub(super) fn new(pace: Arc<Pace>) -> Arc<Self> {
        Arc::new(Self {
            pace,
            under_way: Mutex::new(UnderWay {
                sent: VecDeque::new(),
                answered: Instant::now(),
            }),
        })
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
                    None => {
                        pieces = split(requests.next().await?, away.pace.most() / 2);
                        pieces.pop_front()?
                    }
                };
                let bytes = bytes_of(&piece);
                away.pace.until_free(bytes).await;
                away.under_way.lock().sent.push_back((bytes, Instant::now()));
                Some((piece, (requests, pieces)))
            }
        })
    }

    /// How much longer an answer may be owed: none when it is late. What nothing is owed for may come at any time.
    pub(super) fn patience(&self) -> Option<Duration> {
        let under_way = self.under_way.lock();
        let Some((bytes, sent)) = under_way.sent.front() else {
            return Some(ANSWER_WITHIN);
        };
        let times = bytes.div_ceil(self.pace.most()).max(1);
        let within = ANSWER_WITHIN * u32::try_from(times).unwrap_or(u32::MAX);
        // Each has its time once those before it were answered.
        let due = under_way.answered.max(*sent) + within;
        due.checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
    }

    /// The first of those that are under way was answered.
    pub(super) fn answered(&self) {
        let first = {
            let mut under_way = self.under_way.lock();
            under_way.answered = Instant::now();
            under_way.sent.pop_front()
        };
        if let Some((bytes, sent)) = first {
            self.pace.answered(bytes, sent);
        }
    }

    /// The stream has failed. Where an answer was owed for long, less is sent from now on.
    pub(super) fn failed(&self) {
        let first = self.under_way.lock().sent.front().copied();
        if first.is_some_and(|(bytes, sent)| bytes > 0 && sent.elapsed() > SLOW) {
            self.pace.state.lock().lessen(LEAST);
        }
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        let bytes = self.under_way.lock().sent.iter().map(|(bytes, _)| bytes).sum();
        self.pace.given_up(bytes);
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

    /// Sends so many streams of requests over one link, in which all that is under way waits for its turn; the longest that
    /// any was without an answer that was owed, and how many streams had to be begun anew.
    async fn over(bytes_per_s: usize, streams: u64, entry: usize) -> (Duration, usize) {
        const ALL: usize = 4 << 20;
        const REQUEST: usize = 2 << 20;
        let paces = Paces::default();
        let link = Arc::new(tokio::sync::Mutex::new(()));
        let one = |group: u64| {
            let (paces, link) = (paces.clone(), Arc::clone(&link));
            async move {
                let (mut done, mut longest, mut again) = (0usize, Duration::ZERO, 0);
                while done < ALL {
                    let away = Away::new(paces.of(NodeId(2)));
                    let left = (ALL - done).div_ceil(REQUEST);
                    let each = REQUEST / entry;
                    let requests = (0..left as u64).map(|n| request(1 + n * each as u64, each, entry));
                    // As much as may go is under way, whether or not something was answered.
                    let (away_sender, mut under_way) = tokio::sync::mpsc::unbounded_channel();
                    let sending = {
                        let requests = away.paced(stream::iter(requests.collect::<Vec<_>>()));
                        async move {
                            let mut requests = std::pin::pin!(requests);
                            while let Some(request) = requests.next().await {
                                if away_sender.send(request).is_err() {
                                    break;
                                }
                            }
                        }
                    };
                    let answering = async {
                        while let Some(request) = under_way.recv().await {
                            let bytes = bytes_of(&request);
                            let pass = async {
                                // Pieces of a stream stand behind each other, and streams share the link.
                                let mut left = bytes;
                                while left > 0 {
                                    let turn = left.min(1500);
                                    let _link = link.lock().await;
                                    let takes = Duration::from_secs_f64(turn as f64 / bytes_per_s as f64);
                                    tokio::time::sleep(takes).await;
                                    left -= turn;
                                }
                            };
                            let began = Instant::now();
                            let Some(patience) = away.patience() else { return };
                            if tokio::time::timeout(patience, pass).await.is_err() {
                                away.failed();
                                again += 1;
                                return;
                            }
                            longest = longest.max(began.elapsed());
                            done += request.entries.len() * entry;
                            away.answered();
                        }
                    };
                    let sending = async {
                        sending.await;
                        std::future::pending::<()>().await;
                    };
                    tokio::select! { () = answering => {} () = sending => {} }
                    assert!(again < 20, "group {group}: begun anew again and again");
                }
                (longest, again)
            }
        };
        let all = futures::future::join_all((0..streams).map(one)).await;
        assert_eq!(paces.of(NodeId(2)).state.lock().away, 0);
        let longest = all.iter().map(|(longest, _)| *longest).max().unwrap();
        (longest, all.iter().map(|(_, again)| again).sum())
    }

    #[tokio::test(start_paused = true)]
    async fn slow_links_are_sent_what_they_can_answer() {
        for (bytes_per_s, streams, entry) in [
            (30_000, 1, 8 << 10),
            (30_000, 1, 512 << 10),
            (100_000, 4, 8 << 10),
            (500_000, 8, 128 << 10),
        ] {
            let (longest, again) = over(bytes_per_s, streams, entry).await;
            let what =
                format!("{bytes_per_s} B/s, {streams} groups, entries of {entry}: {longest:?}, {again} begun anew");
            println!("{what}");
            assert!(again <= 2 * streams as usize, "{what}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn fast_links_are_sent_all_that_may_be_under_way() {
        let paces = Paces::default();
        let away = Away::new(paces.of(NodeId(2)));
        let requests = (0..40).map(|n| request(1 + n * 256, 256, 8 << 10));
        let mut requests = std::pin::pin!(away.paced(stream::iter(requests.collect::<Vec<_>>())));
        let mut pieces = 0;
        while requests.next().await.is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            away.answered();
            pieces += 1;
        }
        assert_eq!(paces.of(NodeId(2)).most(), MOST);
        assert!(pieces < 60, "{pieces} pieces of 40 requests");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_stream_had_under_way_ends_with_it() {
        let paces = Paces::default();
        let away = Away::new(paces.of(NodeId(2)));
        let large = || stream::iter([request(1, 4, FIRST / 2 - ENTRY_BYTES)]);
        {
            let mut first = std::pin::pin!(away.paced(large()));
            assert!(first.next().await.is_some() && first.next().await.is_some());
            let more = tokio::time::timeout(Duration::from_secs(60), first.next()).await;
            assert!(more.is_err(), "more than may be under way");
        }
        let other = Away::new(paces.of(NodeId(2)));
        let mut second = std::pin::pin!(other.paced(large()));
        let waits = tokio::time::timeout(Duration::from_secs(60), second.next()).await;
        assert!(waits.is_err(), "nodes share a link");
        drop(away);
        assert!(second.next().await.is_some());
    }
}
