//! Keeping a node's lease, and looking at its clock on the way.
//!
//! A scraper whose clock is wrong leaves its targets to others whose clocks are right: its scrapes would have times that no
//! shard takes. It says so by another role ([`SCRAPER_ASIDE`]), keeps its lease, and is a scraper again once its clock is
//! right, or nobody else's is. So does one that has just started ([`SCRAPER_STARTING`]): until it can scrape, its targets stay
//! where they are.

use super::clocks::{CLOCK_MAY_BE_OFF_MS, is_wrong, off_ms};
use gnomon_model::Clock;
use gnomon_model::ids::CLOCKS_FEATURE_LEVEL;
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{MetaCommand, MetaState, Node, RegisterNode, RenewLease};
use prometheus::{Gauge, Registry};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const SCRAPER: &str = "scraper";
/// The role of a scraper that takes no targets, since its clock is wrong: it is alive, and not in the ring. Every build
/// understands that, as a role of no meaning to it.
pub const SCRAPER_ASIDE: &str = "scraper-aside";
/// The role of a scraper that cannot scrape yet: its configuration is not in force, or its own shards are not open.
pub const SCRAPER_STARTING: &str = "scraper-starting";
/// The role of a scraper that is about to stop: others have its targets from a little after it came to be so.
pub const SCRAPER_LEAVING: &str = "scraper-leaving";

/// Whether a node is a scraper, whatever keeps it from taking targets for the time being.
#[must_use]
pub fn scrapes_or_may(node: &Node) -> bool {
    let all = [SCRAPER, SCRAPER_ASIDE, SCRAPER_STARTING, SCRAPER_LEAVING];
    node.roles.iter().any(|role| all.contains(&role.as_str()))
}

/// How long a lease a node asks for: a thirtieth less than the one that it and all others reckon with, so that others have
/// heard of its end, and scrape its targets, once that is over.
#[must_use]
pub fn asked_ms(lease: Duration) -> i64 {
    i64::try_from((lease - lease / 30).as_millis()).unwrap_or(i64::MAX)
}

/// Before a lease that could not be renewed is tried again: it is not to end by that.
const AGAIN: Duration = Duration::from_secs(1);

/// How many times a clock has to be found wrong, one after the other, before a scraper steps aside.
const SURE_AFTER: u32 = 3;

/// Renews one life's lease, three times in its length.
pub(super) struct Renewal {
    pub(super) meta: Arc<dyn MetaService>,
    /// With the roles that run here; a scraper is registered as what it is at the time.
    pub(super) node: Node,
    pub(super) lease: Duration,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) states: watch::Receiver<Arc<MetaState>>,
    /// How far its clock is off, seconds.
    pub(super) clock_off: Gauge,
    /// It has targets, and no replicas, which would be made anew elsewhere without its lease.
    pub(super) only_scrapes: bool,
    /// How far a scraper has come.
    pub(super) scraping: watch::Receiver<Scraping>,
    /// Why the cluster will not renew it any more.
    pub(super) over: watch::Sender<Option<String>>,
}

/// When a scraper came into the ring last, or left it. Clusters of an older feature level do not note it: it is taken from
/// the lease that it got with that, which is right until it renews that.
#[must_use]
pub fn ring_changed_ms(node: &Node, lease: Duration) -> i64 {
    let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
    match node.ring_changed_ms {
        0 => node.lease_until_ms.saturating_sub(lease_ms),
        noted => noted,
    }
}

/// When a scraper that is about to stop has left the ring.
#[must_use]
pub fn left_ring_ms(node: &Node, lease: Duration) -> Option<i64> {
    let is_leaving = node.roles.iter().any(|role| role == SCRAPER_LEAVING);
    is_leaving.then(|| ring_changed_ms(node, lease))
}

/// How far a scraper has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scraping {
    Starting,
    Begun,
    Leaving,
}

/// Gives a node that scrapes the role by which it does, or does not yet, or does not for the time being.
pub(super) fn scrape_as(node: &mut Node, role: &str) {
    for own in node.roles.iter_mut().filter(|own| *own == SCRAPER) {
        role.clone_into(own);
    }
}

/// How far this node's clock is from that of the metadata group's leader.
pub(super) fn register(registry: &Registry) -> prometheus::Result<Gauge> {
    let gauge = Gauge::new(
        "gnomon_cluster_clock_off_seconds",
        "How far this node's clock is ahead of that of the metadata group's leader, at least.",
    )?;
    registry.register(Box::new(gauge.clone()))?;
    Ok(gauge)
}

impl Renewal {
    /// Until `stop`, or until the cluster says that this life is over.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut scraping = self.scraping.clone();
        let mut clock_off_ms = 0;
        let mut steps_aside = false;
        let mut times_wrong = 0;
        // At once: who has just registered is taken for one whose clock is right.
        let mut wait = Duration::ZERO;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                // At once: nobody else scrapes its targets, it may be, or it waits until somebody does.
                Ok(()) = scraping.changed() => {}
            }
            if let Some(address) = self.is_lived_elsewhere() {
                self.end(&format!(
                    "a process at {address} has come in with this node's identity and life: one of the two data folders is a \
                     copy of the other"
                ));
                return;
            }
            wait = self.lease / 3;
            let role = match *scraping.borrow_and_update() {
                Scraping::Starting => SCRAPER_STARTING,
                Scraping::Begun if steps_aside => SCRAPER_ASIDE,
                Scraping::Begun => SCRAPER,
                Scraping::Leaving => SCRAPER_LEAVING,
            };
            let command = match self.is_known_as(role) {
                true => self.renewal(clock_off_ms),
                false => self.registration(role, clock_off_ms),
            };
            let before_ms = self.clock.now().0;
            let renewed = tokio::select! {
                () = stop.cancelled() => return,
                renewed = self.meta.propose(command) => renewed,
            };
            match renewed {
                Ok(answer) if answer.refused.is_empty() => {
                    let now_off_ms = match answer.proposed_at_ms {
                        0 => 0,
                        theirs_ms => off_ms(before_ms, self.clock.now().0, theirs_ms),
                    };
                    self.say(clock_off_ms, now_off_ms);
                    clock_off_ms = now_off_ms;
                    let goes = {
                        let (state, now_ms) = (self.states.borrow(), answer.proposed_at_ms);
                        times_wrong = match is_wrong(&state, clock_off_ms, now_ms) {
                            true => SURE_AFTER.min(times_wrong + 1),
                            false => 0,
                        };
                        let is_sure = steps_aside || times_wrong == SURE_AFTER;
                        self.only_scrapes && is_sure && has_to_go(&state, self.node.id, clock_off_ms, now_ms)
                    };
                    if times_wrong == 1 {
                        // That is told at once, and others tell it of theirs: whose clocks are wrong is known to all of them
                        // before one steps aside for another.
                        wait = Duration::ZERO;
                    }
                    if goes != steps_aside {
                        steps_aside = goes;
                        // At once: nobody scrapes its targets meanwhile.
                        wait = Duration::ZERO;
                        self.say_aside(steps_aside);
                    }
                }
                Ok(answer) => {
                    self.end(&answer.refused);
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot renew the node's lease; trying again");
                    wait = AGAIN;
                }
            }
        }
    }

    fn end(&self, reason: &str) {
        tracing::error!(
            node = self.node.id,
            reason,
            "the cluster does not renew this node's lease"
        );
        self.over.send_replace(Some(reason.to_owned()));
    }

    /// Where another process came in with the same identity and the same life: both data folders counted the same starts.
    fn is_lived_elsewhere(&self) -> Option<String> {
        let state = self.states.borrow();
        let known = state.nodes.iter().find(|node| node.id == self.node.id)?;
        let is_other = known.incarnation == self.node.incarnation && known.address != self.node.address;
        is_other.then(|| known.address.clone())
    }

    /// As the cluster has it: what was proposed may come to be after it was given up. Of one that does not scrape every role
    /// is right.
    fn is_known_as(&self, role: &str) -> bool {
        let mut wanted = self.node.clone();
        scrape_as(&mut wanted, role);
        let state = self.states.borrow();
        let own = state.nodes.iter().find(|node| node.id == self.node.id);
        own.is_none_or(|own| own.roles == wanted.roles)
    }

    /// The same life under other roles.
    fn registration(&self, role: &str, clock_off_ms: i64) -> MetaCommand {
        let mut node = self.node.clone();
        node.clock_off_ms = self.told(clock_off_ms);
        let known = self.states.borrow().nodes.iter().find(|n| n.id == node.id).cloned();
        node.draining = known.is_some_and(|known| known.draining);
        scrape_as(&mut node, role);
        command(Command::RegisterNode(RegisterNode {
            node: Some(node),
            lease_ms: asked_ms(self.lease),
        }))
    }

    fn say_aside(&self, aside: bool) {
        match aside {
            true => tracing::error!("this scraper's clock is wrong: others take its targets until it is set"),
            false => tracing::info!("this scraper takes targets again: its clock is right, or no other scraper's is"),
        }
    }

    fn renewal(&self, clock_off_ms: i64) -> MetaCommand {
        command(Command::RenewLease(RenewLease {
            node: self.node.id,
            incarnation: self.node.incarnation,
            lease_ms: asked_ms(self.lease),
            clock_off_ms: self.told(clock_off_ms),
        }))
    }

    /// How far the clock is off, as far as the cluster may be told.
    fn told(&self, clock_off_ms: i64) -> i64 {
        let may_tell = self.states.borrow().feature_level >= CLOCKS_FEATURE_LEVEL.0;
        if may_tell { clock_off_ms } else { 0 }
    }

    fn say(&self, before_ms: i64, now_ms: i64) {
        self.clock_off.set(now_ms as f64 / 1000.0);
        let is_wrong = |off_ms: i64| off_ms.unsigned_abs() > CLOCK_MAY_BE_OFF_MS.unsigned_abs();
        match (is_wrong(before_ms), is_wrong(now_ms)) {
            (false, true) => tracing::error!(
                off_ms = now_ms,
                "this node's clock is more than a minute from that of the metadata group's leader: whichever of the two \
                 most ingesters disagree with gives up its leadership; set the clocks, by NTP for example"
            ),
            (true, false) => tracing::info!("this node's clock agrees again with that of the metadata group's leader"),
            _ => {}
        }
    }
}

/// Whether a scraper's clock is wrong, and there is another in the ring whose clock is right: were it enough that there is
/// another, all would leave whose clocks are wrong, and come back since nobody is left. `now_ms` is the leader's time.
fn has_to_go(state: &MetaState, node: u64, clock_off_ms: i64, now_ms: i64) -> bool {
    let ring = state.scrapers.iter().flat_map(|ring| &ring.nodes);
    let record = |id: &u64| state.nodes.iter().find(|n| n.id == *id);
    let is_right = |n: &Node| n.lease_until_ms >= now_ms && !is_wrong(state, n.clock_off_ms, now_ms);
    let mut others = ring.filter(|id| **id != node).filter_map(record);
    is_wrong(state, clock_off_ms, now_ms) && others.any(is_right)
}

fn command(command: Command) -> MetaCommand {
    MetaCommand {
        proposed_at_ms: 0,
        command: Some(command),
    }
}

#[cfg(test)]
mod tests;
