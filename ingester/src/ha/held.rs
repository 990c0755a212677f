//! What replicas that wait for their turn sent of a time that the one before may not have reached: kept in memory for as long as
//! that is not known.
//!
//! ```text
//! a request of a stand-by, dropped with success    -> kept, compressed
//! the other's turn goes on                         -> what it has passed goes
//! the turn goes over to the stand-by               -> what there is of the end of the turn before is written (`fill.rs`)
//! ```
//! Bounds: bytes of all together, those that are being written too; the oldest of whoever has most go first. What a node has kept
//! ends with it: a fail-over misses it then.

use super::tracker::find;
use super::turns::{fill_windows, has_turn, held_window, overlaps};
use gnomon_model::TenantId;
use gnomon_proto::v1::{HaPair, MetaState};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// One replica of a pair.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StandBy {
    pub(crate) tenant: TenantId,
    pub(crate) cluster: String,
    pub(crate) replica: String,
}

/// How a body is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Remote write 1.0.
    Version1,
    /// Remote write 2.0, and `gnomon.v1.WriteRequest`.
    Version2,
}

/// A request with samples of a stand-by.
#[derive(Clone, Debug)]
pub(crate) struct HeldRequest {
    pub(crate) form: Form,
    /// A snappy block, shared by the stand-bys of one request.
    pub(crate) body: Arc<[u8]>,
    /// Of the stand-by's samples in it, as far as they may be wanted.
    pub(crate) times: (i64, i64),
}

impl HeldRequest {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.body.len()
    }

    fn is_within(&self, window: (i64, i64)) -> bool {
        overlaps(window, self.times.0, self.times.1)
    }
}

/// In the order in which they came.
#[derive(Debug, Default)]
struct Queue {
    requests: VecDeque<HeldRequest>,
    bytes: usize,
}

impl Queue {
    fn pop(&mut self) -> Option<HeldRequest> {
        let gone = self.requests.pop_front()?;
        self.bytes -= gone.bytes();
        Some(gone)
    }
}

#[derive(Debug, Default)]
struct Kept {
    queues: HashMap<StandBy, Queue>,
    /// Of all queues, and of what is being written.
    bytes: usize,
    /// Of whom some is being written.
    filling: HashSet<StandBy>,
}

/// One per process.
#[derive(Debug)]
pub(crate) struct Held {
    kept: Mutex<Kept>,
    most_bytes: usize,
    /// Something is to be written at once.
    pub(super) arrived: tokio::sync::Notify,
}

/// What a turn that has begun waits for: to be written in this order. When it is dropped, the turn waits no more.
#[derive(Debug)]
pub(crate) struct Fill {
    held: Arc<Held>,
    pub(crate) stand_by: StandBy,
    /// The end of the turn before, half-open.
    pub(crate) window: (i64, i64),
    pub(crate) requests: VecDeque<HeldRequest>,
    bytes: usize,
}

impl Drop for Fill {
    fn drop(&mut self) {
        let mut kept = self.held.kept.lock();
        kept.bytes -= self.bytes;
        kept.filling.remove(&self.stand_by);
    }
}

impl Held {
    pub(crate) fn new(most_bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            kept: Mutex::default(),
            most_bytes,
            arrived: tokio::sync::Notify::new(),
        })
    }

    /// Whether anything may be kept at all.
    pub(crate) const fn is_on(&self) -> bool {
        self.most_bytes > 0
    }

    pub(crate) fn bytes(&self) -> usize {
        self.kept.lock().bytes
    }

    /// Keeps a body for each of these, with times of theirs; how many requests went to make room.
    pub(crate) fn keep(&self, form: Form, stand_bys: Vec<(StandBy, (i64, i64))>, body: &[u8]) -> u64 {
        if body.len() > self.most_bytes {
            return stand_bys.len() as u64;
        }
        let Ok(body) = snap::raw::Encoder::new().compress_vec(body) else {
            return stand_bys.len() as u64;
        };
        let body: Arc<[u8]> = body.into();
        let mut kept = self.kept.lock();
        for (stand_by, times) in stand_bys {
            let body = Arc::clone(&body);
            let request = HeldRequest { form, body, times };
            kept.bytes += request.bytes();
            let queue = kept.queues.entry(stand_by).or_default();
            queue.bytes += request.bytes();
            queue.requests.push_back(request);
        }
        let mut gone = 0;
        while kept.bytes > self.most_bytes && kept.drop_one() {
            gone += 1;
        }
        gone
    }

    /// Whether something of this replica is kept that would fill the end of the turn that another has now.
    pub(crate) fn has(&self, stand_by: &StandBy, pair: &HaPair, extend_ms: i64) -> bool {
        let window = held_window(pair, extend_ms);
        let kept = self.kept.lock();
        let queue = kept.queues.get(stand_by);
        queue.is_some_and(|queue| queue.requests.iter().any(|request| request.is_within(window)))
    }

    /// Whether something of this replica, which has the turn, is still to be written of the end of the one before.
    pub(crate) fn is_waited_for(&self, stand_by: &StandBy, pair: &HaPair) -> bool {
        let kept = self.kept.lock();
        let is_kept = || {
            let window = fill_windows(pair, &stand_by.replica).last();
            let queue = kept.queues.get(stand_by).zip(window);
            queue.is_some_and(|(queue, window)| queue.requests.iter().any(|request| request.is_within(window)))
        };
        kept.filling.contains(stand_by) || is_kept()
    }

    /// Lets go what the turns have passed, and gives what they wait for.
    pub(crate) fn due(self: &Arc<Self>, state: &MetaState, extend_ms: i64) -> Vec<Fill> {
        let mut fills = Vec::new();
        let mut kept = self.kept.lock();
        let Kept { queues, bytes, filling } = &mut *kept;
        queues.retain(|stand_by, queue| {
            let before = queue.bytes;
            match find(state, &stand_by.tenant, &stand_by.cluster) {
                None => queue.requests.clear(),
                Some(pair) if has_turn(pair, &stand_by.replica) => {
                    // What comes while some of it is being written is written after that.
                    if filling.contains(stand_by) {
                        return true;
                    }
                    let mut requests = std::mem::take(&mut queue.requests);
                    if let Some(window) = fill_windows(pair, &stand_by.replica).last() {
                        requests.retain(|request| request.is_within(window));
                        let bytes = requests.iter().map(HeldRequest::bytes).sum();
                        fills.push((stand_by.clone(), window, requests, bytes));
                    }
                }
                Some(pair) => {
                    let (from_ms, _) = held_window(pair, extend_ms);
                    while queue.requests.front().is_some_and(|request| request.times.1 < from_ms) {
                        queue.pop();
                    }
                }
            }
            if queue.requests.is_empty() {
                queue.bytes = 0;
            }
            *bytes -= before - queue.bytes;
            !queue.requests.is_empty()
        });
        fills.retain(|(_, _, requests, _)| !requests.is_empty());
        for (stand_by, _, _, of_fill) in &fills {
            *bytes += of_fill;
            filling.insert(stand_by.clone());
        }
        drop(kept);
        let fill = |(stand_by, window, requests, bytes)| Fill {
            held: Arc::clone(self),
            stand_by,
            window,
            requests,
            bytes,
        };
        fills.into_iter().map(fill).collect()
    }
}

impl Kept {
    /// The oldest of whoever has most.
    fn drop_one(&mut self) -> bool {
        let most = self.queues.values_mut().max_by_key(|queue| queue.bytes);
        let Some(gone) = most.and_then(Queue::pop) else {
            return false;
        };
        self.bytes -= gone.bytes();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_proto::v1::HaTurn;

    const EXTEND_MS: i64 = 15_000;

    fn stand_by(replica: &str) -> StandBy {
        StandBy {
            tenant: TenantId::anonymous(),
            cluster: "shop".into(),
            replica: replica.into(),
        }
    }

    fn state(turns: &[(&str, i64, Option<i64>)], until_ms: i64) -> MetaState {
        let turn = |(replica, from_ms, fills_from_ms): &(&str, i64, Option<i64>)| HaTurn {
            replica: (*replica).to_owned(),
            from_ms: *from_ms,
            fills_from_ms: *fills_from_ms,
            claimed_ms: 0,
        };
        let pair = HaPair {
            tenant: "anonymous".into(),
            cluster: "shop".into(),
            turns: turns.iter().map(turn).collect(),
            until_ms,
            seen_ms: 0,
        };
        MetaState {
            ha_pairs: vec![pair],
            ..MetaState::default()
        }
    }

    fn keep(held: &Held, replica: &str, oldest_ms: i64, newest_ms: i64) -> u64 {
        held.keep(
            Form::Version1,
            vec![(stand_by(replica), (oldest_ms, newest_ms))],
            &[7; 100],
        )
    }

    #[test]
    fn what_the_turn_has_passed_goes_and_the_rest_waits() {
        let held = Held::new(1 << 20);
        keep(&held, "b", 10_000, 19_999);
        keep(&held, "b", 10_000, 20_000);
        let before = held.bytes();
        let now = state(&[("a", 0, None)], 100_000);
        assert!(held.due(&now, EXTEND_MS).is_empty());
        assert_eq!(held.bytes(), before / 2);
        assert!(held.has(&stand_by("b"), &now.ha_pairs[0], EXTEND_MS));
        assert!(!held.has(&stand_by("c"), &now.ha_pairs[0], EXTEND_MS));
        held.due(&state(&[("a", 0, None)], 100_001), EXTEND_MS);
        assert_eq!(held.bytes(), 0);
        keep(&held, "b", 99_000, 99_000);
        held.due(&MetaState::default(), EXTEND_MS);
        assert_eq!(held.bytes(), 0, "of a pair that is forgotten");
    }

    #[test]
    fn who_has_the_turn_fills_and_waits_for_it() {
        let held = Held::new(1 << 20);
        for (replica, oldest_ms, newest_ms) in [("b", 90_000, 90_500), ("c", 91_000, 91_000), ("b", 95_000, 99_000)] {
            keep(&held, replica, oldest_ms, newest_ms);
        }
        let one = held.bytes() / 3;
        let over = state(&[("a", 0, None), ("b", 100_000, Some(90_501))], 115_000);
        let pair = &over.ha_pairs[0];
        assert!(held.is_waited_for(&stand_by("b"), pair) && !held.is_waited_for(&stand_by("c"), pair));
        let due = held.due(&over, EXTEND_MS);
        let times: Vec<_> = due[0].requests.iter().map(|request| request.times).collect();
        assert_eq!((due.len(), times), (1, vec![(95_000, 99_000)]));
        assert_eq!(due[0].window, (90_501, 100_000));
        assert!(held.is_waited_for(&stand_by("b"), pair), "it is not written yet");
        assert_eq!(held.bytes(), one, "as long as it is written");
        // One more comes meanwhile.
        keep(&held, "b", 99_500, 99_500);
        assert!(held.due(&over, EXTEND_MS).is_empty());
        drop(due);
        assert!(held.is_waited_for(&stand_by("b"), pair));
        assert_eq!(held.due(&over, EXTEND_MS).len(), 1);
        assert!(!held.is_waited_for(&stand_by("b"), pair));
        assert_eq!(held.bytes(), 0);
        // Without a time to fill there is nothing to be done.
        keep(&held, "b", 95_000, 99_000);
        assert!(
            held.due(&state(&[("a", 0, None), ("b", 100_000, None)], 200_000), EXTEND_MS)
                .is_empty()
        );
        assert_eq!(held.bytes(), 0);
    }

    #[test]
    fn the_oldest_of_whoever_has_most_make_room() {
        let held = Held::new(1000);
        assert_eq!(keep(&held, "c", 1, 1), 0);
        let gone: u64 = (0..100).map(|n| keep(&held, "b", n, n)).sum();
        assert!(gone > 0 && gone < 100 && held.bytes() <= 1000, "{gone}");
        let pair = &state(&[("a", 0, None)], 100).ha_pairs[0];
        assert!(held.has(&stand_by("b"), pair, 1), "the newest stay");
        assert!(held.has(&stand_by("c"), pair, 50), "it had little");
        let too_large = held.keep(Form::Version1, vec![(stand_by("d"), (1, 1))], &[7; 1001]);
        assert_eq!(too_large, 1);
    }
}
