//! When to say that shards refuse samples of a target: the scrapes of one that is wrong are wrong at each interval.

use gnomon_cluster::router::Refused;
use gnomon_proto::v1::rejection::Reason;
use std::collections::BTreeSet;
use std::time::Duration;

/// While it goes on for the same reasons, it is said so seldom; it is over once so long nothing was refused.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// What was refused of a target, and what was said of it.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// None while nothing is refused.
    since: Option<Since>,
}

#[derive(Debug)]
struct Since {
    /// All of them since it began.
    reasons: BTreeSet<String>,
    said_at: Duration,
    last_at: Duration,
    unsaid: u64,
    unsaid_scrapes: u64,
    count: u64,
}

/// Samples refused since it was said last.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) reasons: String,
    pub(super) count: u64,
    pub(super) scrapes: u64,
    /// One of them and its time, where the shard told.
    pub(super) example: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Say {
    Refused(Said),
    /// `count` were refused since it began.
    Over {
        count: u64,
    },
}

/// As it stands in labels and logs.
pub(super) fn word(reason: Reason) -> String {
    reason.as_str_name().to_ascii_lowercase()
}

impl Refusals {
    /// What to say after a scrape of which `refused` was not taken, if anything. `now` is of a clock that does not jump.
    pub(super) fn note(&mut self, refused: &[Refused], now: Duration) -> Option<Say> {
        if refused.is_empty() {
            let is_over = |since: &mut Since| now.saturating_sub(since.last_at) >= SAY_EVERY;
            let since = self.since.take_if(is_over)?;
            return Some(Say::Over { count: since.count });
        }
        let begins = self.since.is_none();
        let since = self.since.get_or_insert_with(|| Since {
            reasons: BTreeSet::new(),
            said_at: now,
            last_at: now,
            unsaid: 0,
            unsaid_scrapes: 0,
            count: 0,
        });
        since.last_at = now;
        let mut is_new = begins;
        for one in refused {
            since.unsaid += one.count;
            since.count += one.count;
            is_new |= since.reasons.insert(word(one.reason));
        }
        since.unsaid_scrapes += 1;
        if !is_new && now.saturating_sub(since.said_at) < SAY_EVERY {
            return None;
        }
        since.said_at = now;
        let example = refused.iter().find_map(|one| one.example.as_ref());
        Some(Say::Refused(Said {
            reasons: since.reasons.iter().cloned().collect::<Vec<_>>().join(", "),
            count: std::mem::take(&mut since.unsaid),
            scrapes: std::mem::take(&mut since.unsaid_scrapes),
            example: example.map(|(labels, at)| format!("{labels} at {at}")),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_when_it_begins_changes_or_ends_and_each_minute() {
        let refused = |reason| Refused {
            reason,
            count: 2,
            example: None,
        };
        let (early, old) = (refused(Reason::OutOfOrder), refused(Reason::TooOld));
        let mut refusals = Refusals::default();
        let mut note = |refused: &[&Refused], at| {
            let refused: Vec<Refused> = refused.iter().map(|one| (*one).clone()).collect();
            refusals.note(&refused, Duration::from_secs(at))
        };
        let said = |reasons: &str, count, scrapes| {
            Some(Say::Refused(Said {
                reasons: reasons.to_owned(),
                count,
                scrapes,
                example: None,
            }))
        };
        assert_eq!(note(&[], 0), None);
        assert_eq!(note(&[&early], 15), said("out_of_order", 2, 1));
        assert_eq!(note(&[&early], 30), None);
        assert_eq!(note(&[&early, &old], 45), said("out_of_order, too_old", 6, 2));
        assert_eq!(note(&[&old], 60), None, "it has not become another by being less");
        assert_eq!(note(&[&early], 90), None);
        assert_eq!(note(&[&early], 105), said("out_of_order, too_old", 6, 3));
        assert_eq!(note(&[], 120), None, "the next may be refused again");
        assert_eq!(note(&[&early], 135), None);
        assert_eq!(note(&[], 195), Some(Say::Over { count: 16 }));
        assert_eq!(note(&[], 210), None);
        assert_eq!(note(&[&early], 225), said("out_of_order", 2, 1));
    }
}
