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
    /// None; what scrapers scrape and do not hand on.
    Scrapers,
}

#[derive(Debug)]
struct Incident {
    place: Place,
    what: &'static str,
    began: Instant,
    ended: Option<Instant>,
}

impl Incident {
    /// When its effects are over; not yet, where it has not ended.
    fn until(&self) -> Instant {
        self.ended.unwrap_or_else(Instant::now) + AFTER
    }
}

#[derive(Debug, Default)]
pub(crate) struct Incidents(Mutex<Vec<Incident>>);

impl Incidents {
    pub(crate) fn begin(&self, place: Place, what: &'static str) {
        self.0.lock().push(Incident {
            place,
            what,
            began: Instant::now(),
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

    /// Whether something was wrong with a scraper between `from` and when it can have handed on what it had then: `within`
    /// that time, and longer while something is wrong with those who take it.
    pub(crate) fn has_troubled_scrapers(&self, from: Instant, within: Duration) -> bool {
        let incidents = self.0.lock();
        let of = |place: Place| incidents.iter().filter(move |i| i.place == place);
        let mut to = from + within;
        // In the order in which they began.
        for shards in of(Place::Shards).filter(|i| i.until() >= from) {
            if shards.began <= to {
                to = to.max(shards.until() + within);
            }
        }
        of(Place::Scrapers).any(|i| i.began <= to && i.until() >= from)
    }

    /// Why a read failed that a querier was asked for then, and that failed now: what went wrong at the querier itself
    /// comes first.
    pub(crate) fn cause(&self, querier: usize, asked: Instant) -> &'static str {
        let incidents = self.0.lock();
        let of = |place: Place| {
            let is_of_time = |i: &&Incident| asked <= i.until();
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

#[test]
fn what_a_scraper_had_is_lost_with_it_until_it_can_have_handed_it_on() {
    let incidents = Incidents::default();
    let (now, within) = (Instant::now(), Duration::from_secs(10));
    assert!(!incidents.has_troubled_scrapers(now, within));
    incidents.begin(Place::Scrapers, "killed");
    incidents.end_all();
    assert!(incidents.has_troubled_scrapers(now, within));
    assert!(!incidents.has_troubled_scrapers(now + 2 * AFTER, within));
    let earlier = now - Duration::from_secs(20);
    assert!(!incidents.has_troubled_scrapers(earlier, within));
    let away = Incident {
        place: Place::Shards,
        what: "killed",
        began: now - Duration::from_secs(15),
        ended: Some(now),
    };
    incidents.0.lock().insert(0, away);
    assert!(incidents.has_troubled_scrapers(earlier, within));
}
