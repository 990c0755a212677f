//! The leader of the metadata group takes scrapers out of the ring whose lease has ended.

use super::clocks::Jumps;
use crate::meta::overdue_scrapers;
use crate::raft::Group;
use gnomon_model::Clock;
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{ExpireLeases, MetaCommand, MetaState};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often leases are looked at: others have the targets of a lease that has ended so much later.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// When a leader may judge leases: nodes get a time to come to it first, since nobody could renew while there was no leader.
#[derive(Debug)]
pub(super) struct Judge {
    grace: Duration,
    leading_since: Option<Duration>,
    /// Whoever leads meanwhile.
    not_before: Duration,
}

impl Judge {
    pub(super) fn new(grace: Duration) -> Self {
        Self {
            grace,
            leading_since: None,
            not_before: Duration::ZERO,
        }
    }

    pub(super) fn may(&mut self, leads: bool, now: Duration) -> bool {
        if !leads {
            self.leading_since = None;
            return false;
        }
        let since = *self.leading_since.get_or_insert(now);
        now.saturating_sub(since) >= self.grace && now >= self.not_before
    }

    /// Once more, whatever it has judged by so far.
    pub(super) fn wait(&mut self, now: Duration, at_least: Duration) {
        self.not_before = self.not_before.max(now + at_least);
    }
}

/// Whether anything is committed: a leader that lost its quorum leads on, as far as it knows, and nobody can renew a lease.
#[derive(Debug, Default)]
struct Commits {
    applied: u64,
    /// Monotonic time at which something was seen to be applied last.
    since: Option<Duration>,
}

impl Commits {
    /// Each node renews its lease three times within it, the leader's own does.
    fn go_on(&mut self, applied: u64, now: Duration, lease: Duration) -> bool {
        if self.since.is_none() || applied != self.applied {
            self.applied = applied;
            self.since = Some(now);
        }
        self.since.is_some_and(|since| now.saturating_sub(since) < lease / 2)
    }
}

/// Runs beside each replica of the metadata group; only its leader does something.
pub(super) struct Expiry {
    /// The replica here: an expiry is decided by the leader's clock, or not at all.
    pub(super) replica: Arc<dyn MetaService>,
    pub(super) group: Group,
    pub(super) states: watch::Receiver<Arc<MetaState>>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) lease: Duration,
}

impl Expiry {
    pub(super) async fn run(self, stop: CancellationToken) {
        // All that are alive have come by then, also where two whom they asked before were silent, 5 s each. Scrapers that
        // ended together with the leader are succeeded within their leases so: another leads after some two seconds.
        let mut judge = Judge::new(self.lease * 3 / 4);
        let mut jumps = Jumps::default();
        let mut commits = Commits::default();
        let applied = self.group.applied_next();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if jumps.look(self.clock.now().0, self.clock.monotonic()) {
                // Nodes get the length of a lease to renew theirs by the new time.
                judge.wait(self.clock.monotonic(), self.lease);
            }
            let now = self.clock.monotonic();
            // Once a majority is back, nodes get the time to renew theirs.
            let leads = commits.go_on(*applied.borrow(), now, self.lease) && self.group.is_leader();
            if !judge.may(leads, now) {
                continue;
            }
            let overdue = overdue_scrapers(&self.states.borrow(), self.clock.now().0);
            if overdue.is_empty() {
                continue;
            }
            let command = MetaCommand {
                proposed_at_ms: 0,
                command: Some(Command::ExpireLeases(ExpireLeases {})),
            };
            let proposed = tokio::select! {
                () = stop.cancelled() => return,
                proposed = self.replica.propose(command) => proposed,
            };
            match proposed {
                Ok(_) => {
                    tracing::warn!(nodes = ?overdue, "scrapers silent for longer than their lease: others take over")
                }
                Err(error) => tracing::warn!(nodes = ?overdue, %error, "leases not expired; trying again"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_without_a_quorum_begins_anew_once_it_has_one() {
        let (s, lease) = (Duration::from_secs, Duration::from_secs(15));
        let (mut commits, mut judge) = (Commits::default(), Judge::new(s(11)));
        let mut may = |applied, at| judge.may(commits.go_on(applied, s(at), lease), s(at));
        assert!(!may(5, 100) && !may(6, 105) && !may(7, 110) && may(8, 115));
        assert!(may(8, 122), "that may happen");
        assert!(!may(8, 123) && !may(8, 160), "nobody can have renewed anything");
        assert!(!may(9, 161) && !may(10, 166) && !may(11, 171) && may(12, 176));
    }

    #[test]
    fn a_new_leader_waits_for_the_nodes_to_come_to_it() {
        let s = Duration::from_secs;
        let mut judge = Judge::new(s(15));
        assert!(!judge.may(false, s(0)));
        assert!(!judge.may(true, s(100)) && !judge.may(true, s(114)));
        assert!(judge.may(true, s(115)));
        assert!(!judge.may(false, s(116)), "another leads");
        assert!(!judge.may(true, s(117)) && judge.may(true, s(132)));
        judge.wait(s(133), s(15));
        assert!(!judge.may(true, s(147)) && judge.may(true, s(148)), "the clock was set");
        judge.wait(s(150), s(40));
        assert!(!judge.may(false, s(151)) && !judge.may(true, s(152)) && !judge.may(true, s(189)));
        assert!(judge.may(true, s(190)));
    }
}
