//! What was made to go wrong, where and when: by it a read that failed is told from one that nothing explains.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// What is mended has effects for so long at most: connections that were cut are found out, leaders are chosen.
const AFTER: Duration = Duration::from_secs(5);
/// Of an error that has none.
pub(crate) const NO_CAUSE: &str = "no cause";

/// Whose reads it may make fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Those that are asked of this member.
    Querier(usize),
    /// All.
    Shards,
    Store,
}

#[derive(Debug)]
struct Incident {
    place: Place,
    what: &'static str,
    ended: Option<Instant>,
}

#[derive(Debug, Default)]
pub(crate) struct Incidents(Mutex<Vec<Incident>>);

impl Incidents {
    pub(crate) fn begin(&self, place: Place, what: &'static str) {
        self.0.lock().push(Incident {
            place,
            what,
            ended: None,
        });
    }

    /// All is in order.
    pub(crate) fn end_all(&self) {
        let now = Instant::now();
        for incident in &mut *self.0.lock() {
            incident.ended.get_or_insert(now);
        }
    }

    /// Why a read failed that a querier was asked for then, and that failed now: what went wrong at the querier itself
    /// comes first.
    pub(crate) fn cause(&self, querier: usize, asked: Instant) -> &'static str {
        let incidents = self.0.lock();
        let of = |place: Place| {
            let is_of_time = |i: &&Incident| i.ended.is_none_or(|ended| asked <= ended + AFTER);
            let mut found = incidents.iter().rev().filter(|i| i.place == place);
            found.find(is_of_time).map(|i| i.what)
        };
        of(Place::Querier(querier))
            .or_else(|| of(Place::Shards).map(|_| "shards away"))
            .or_else(|| of(Place::Store).map(|_| "store away"))
            .unwrap_or(NO_CAUSE)
    }
}

#[test]
fn an_error_has_a_cause_only_within_its_time() {
    let incidents = Incidents::default();
    let asked = Instant::now();
    assert_eq!(incidents.cause(3, asked), NO_CAUSE);
    incidents.begin(Place::Store, "slow");
    incidents.begin(Place::Querier(3), "killed");
    assert_eq!(incidents.cause(3, asked), "killed");
    assert_eq!(incidents.cause(4, asked), "store away");
    incidents.end_all();
    assert_eq!(incidents.cause(3, Instant::now()), "killed");
    assert_eq!(incidents.cause(3, Instant::now() + 2 * AFTER), NO_CAUSE);
}
