//! What replicas that wait for their turn sent of a time that the one before may not have reached: kept in memory for as long as
//! that is not known.
//!
//! ```text
//! a request of a stand-by, dropped with success    -> kept, compressed
//! the other's turn goes on                         -> what it has passed goes
//! the turn goes over to the stand-by               -> what there is of the end of the turn before is written (`fill.rs`)
//! ```
//! Bounds: bytes of all together, the oldest go first. What a node has kept ends with it: a fail-over misses it then.

use super::tracker::find;
use super::turns::{fill_window, has_turn, held_window};
use gnomon_model::TenantId;
use gnomon_proto::v1::{HaPair, MetaState};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// As a request names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StandBy {
    pub(crate) cluster: String,
    pub(crate) replica: String,
    /// Of its samples in the request.
    pub(crate) oldest_ms: i64,
    pub(crate) newest_ms: i64,
}

/// How a body is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Remote write 1.0.
    Version1,
    /// Remote write 2.0, and `gnomon.v1.WriteRequest`.
    Version2,
}

/// A request with samples of stand-bys.
#[derive(Debug)]
pub(crate) struct HeldRequest {
    pub(crate) tenant: TenantId,
    pub(crate) form: Form,
    pub(crate) stand_by: StandBy,
    /// A snappy block, shared by the stand-bys of one request.
    pub(crate) body: Arc<[u8]>,
}

impl HeldRequest {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.stand_by.cluster.len() + self.stand_by.replica.len() + self.body.len()
    }
}

type Pair = (TenantId, String);

#[derive(Debug, Default)]
struct Kept {
    /// By pair, in the order in which they came.
    pairs: HashMap<Pair, VecDeque<HeldRequest>>,
    bytes: usize,
    /// Pairs of which some is being written.
    filling: HashSet<Pair>,
}

/// One per process.
#[derive(Debug)]
pub(crate) struct Held {
    kept: Mutex<Kept>,
    most_bytes: usize,
}

/// What a pair's turn that has begun waits for: to be written in this order.
#[derive(Debug)]
pub(crate) struct Fill {
    pub(crate) pair: HaPair,
    pub(crate) requests: VecDeque<HeldRequest>,
}

impl Held {
    pub(crate) fn new(most_bytes: usize) -> Self {
        Self {
            kept: Mutex::default(),
            most_bytes,
        }
    }

    /// Whether anything may be kept at all.
    pub(crate) const fn is_on(&self) -> bool {
        self.most_bytes > 0
    }

    pub(crate) fn bytes(&self) -> usize {
        self.kept.lock().bytes
    }

    /// Keeps a body for each of these; how many others went to make room.
    pub(crate) fn keep(&self, tenant: &TenantId, form: Form, stand_bys: Vec<StandBy>, body: &[u8]) -> u64 {
        let Ok(body) = snap::raw::Encoder::new().compress_vec(body) else {
            return 0;
        };
        let body: Arc<[u8]> = body.into();
        let mut kept = self.kept.lock();
        for stand_by in stand_bys {
            let pair = (tenant.clone(), stand_by.cluster.clone());
            let request = HeldRequest {
                tenant: tenant.clone(),
                form,
                stand_by,
                body: Arc::clone(&body),
            };
            kept.bytes += request.bytes();
            kept.pairs.entry(pair).or_default().push_back(request);
        }
        let mut gone = 0;
        while kept.bytes > self.most_bytes && kept.drop_one() {
            gone += 1;
        }
        gone
    }

    /// Whether something of this replica is kept that would fill the end of the turn that the pair has now.
    pub(crate) fn has(&self, tenant: &TenantId, pair: &HaPair, replica: &str, extend_ms: i64) -> bool {
        let (from_ms, until_ms) = held_window(pair, extend_ms);
        let kept = self.kept.lock();
        let requests = kept.pairs.get(&(tenant.clone(), pair.cluster.clone()));
        requests.into_iter().flatten().any(|request| {
            let one = &request.stand_by;
            one.replica == replica && one.newest_ms >= from_ms && one.oldest_ms < until_ms
        })
    }

    /// Lets go what the turns have passed, and gives what they wait for: [`Held::filled`] is to be called for each.
    pub(crate) fn due(&self, state: &MetaState, extend_ms: i64) -> Vec<Fill> {
        let mut fills = Vec::new();
        let mut kept = self.kept.lock();
        if kept.pairs.is_empty() {
            return fills;
        }
        kept.pairs.retain(|(tenant, cluster), requests| {
            let Some(pair) = find(state, tenant, cluster) else {
                return false;
            };
            if requests.iter().any(|request| has_turn(pair, &request.stand_by.replica)) {
                let mut requests = std::mem::take(requests);
                requests.retain(|request| is_wanted(pair, &request.stand_by));
                fills.push(Fill {
                    pair: pair.clone(),
                    requests,
                });
                return false;
            }
            let (from_ms, _) = held_window(pair, extend_ms);
            requests.retain(|request| request.stand_by.newest_ms >= from_ms);
            !requests.is_empty()
        });
        fills.retain(|fill| !fill.requests.is_empty());
        kept.bytes = kept.pairs.values().flatten().map(HeldRequest::bytes).sum();
        kept.filling.extend(fills.iter().map(Fill::key));
        fills
    }

    /// All of it was written, or will not be.
    pub(crate) fn filled(&self, fill: &Fill) {
        self.kept.lock().filling.remove(&fill.key());
    }

    /// Whether this node is writing what fills the end of the turn before.
    pub(crate) fn is_filling(&self, tenant: &TenantId, cluster: &str) -> bool {
        let kept = self.kept.lock();
        !kept.filling.is_empty() && kept.filling.contains(&(tenant.clone(), cluster.to_owned()))
    }
}

impl Fill {
    fn key(&self) -> Pair {
        let tenant = self
            .requests
            .front()
            .map_or_else(TenantId::anonymous, |first| first.tenant.clone());
        (tenant, self.pair.cluster.clone())
    }
}

/// Whether the turn is its own, and fills a time that this has samples of.
fn is_wanted(pair: &HaPair, one: &StandBy) -> bool {
    let window = fill_window(pair).filter(|_| has_turn(pair, &one.replica));
    window.is_some_and(|(from_ms, until_ms)| one.newest_ms >= from_ms && one.oldest_ms < until_ms)
}

impl Kept {
    /// The oldest of the pair that has most.
    fn drop_one(&mut self) -> bool {
        let most = self.pairs.values_mut().max_by_key(|requests| requests.len());
        let Some(gone) = most.and_then(VecDeque::pop_front) else {
            return false;
        };
        self.bytes = self.bytes.saturating_sub(gone.bytes());
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_proto::v1::HaTurn;

    const EXTEND_MS: i64 = 15_000;

    fn stand_by(replica: &str, oldest_ms: i64, newest_ms: i64) -> Vec<StandBy> {
        vec![StandBy {
            cluster: "shop".into(),
            replica: replica.into(),
            oldest_ms,
            newest_ms,
        }]
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
            &TenantId::anonymous(),
            Form::Version1,
            stand_by(replica, oldest_ms, newest_ms),
            &[7; 100],
        )
    }

    #[test]
    fn what_the_turn_has_passed_goes_and_the_rest_waits() {
        let held = Held::new(1 << 20);
        let tenant = TenantId::anonymous();
        keep(&held, "b", 60_000, 69_999);
        keep(&held, "b", 60_000, 70_000);
        let before = held.bytes();
        let now = state(&[("a", 0, None)], 100_000);
        assert!(held.due(&now, EXTEND_MS).is_empty());
        assert!(held.bytes() > 0 && held.bytes() < before);
        assert!(held.has(&tenant, &now.ha_pairs[0], "b", EXTEND_MS));
        assert!(!held.has(&tenant, &now.ha_pairs[0], "c", EXTEND_MS));
        held.due(&state(&[("a", 0, None)], 100_001), EXTEND_MS);
        assert_eq!(held.bytes(), 0);
        keep(&held, "b", 99_000, 99_000);
        held.due(&MetaState::default(), EXTEND_MS);
        assert_eq!(held.bytes(), 0, "of a pair that is forgotten");
    }

    #[test]
    fn who_has_the_turn_fills_and_others_go() {
        let held = Held::new(1 << 20);
        for (replica, oldest_ms, newest_ms) in [("b", 90_000, 90_500), ("c", 91_000, 91_000), ("b", 95_000, 99_000)] {
            keep(&held, replica, oldest_ms, newest_ms);
        }
        let over = state(&[("a", 0, None), ("b", 100_000, Some(90_501))], 115_000);
        let due = held.due(&over, EXTEND_MS);
        let times: Vec<i64> = due[0].requests.iter().map(|r| r.stand_by.newest_ms).collect();
        assert_eq!((due.len(), times), (1, vec![99_000]));
        assert_eq!(held.bytes(), 0);
        assert!(held.is_filling(&TenantId::anonymous(), "shop"));
        held.filled(&due[0]);
        assert!(!held.is_filling(&TenantId::anonymous(), "shop"));
        // Without a time to fill there is nothing to be done.
        keep(&held, "b", 95_000, 99_000);
        assert!(
            held.due(&state(&[("a", 0, None), ("b", 100_000, None)], 115_000), EXTEND_MS)
                .is_empty()
        );
        assert_eq!(held.bytes(), 0);
    }

    #[test]
    fn the_oldest_make_room() {
        let held = Held::new(1000);
        let gone: u64 = (0..100).map(|n| keep(&held, "b", n, n)).sum();
        assert!(gone > 0 && gone < 100 && held.bytes() <= 1000, "{gone}");
        let pair = &state(&[("a", 0, None)], 100).ha_pairs[0];
        assert!(held.has(&TenantId::anonymous(), pair, "b", 1), "the newest stay");
    }
}
