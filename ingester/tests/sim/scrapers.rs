//! Scrapers that come, go, die, stand still, and are cut off.

use super::clock::Origin;
use super::machine::{Machine, Surroundings};
use super::scraped::{Chronicle, Crash, RingSeen};
use super::targets::Scraping;
use gnomon_model::NodeId;
use gnomon_proto::v1::MetaState;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Machines with scrapers have the numbers from here on.
const PLACES: usize = 20;
const MOST: usize = 3;
/// How much behind others a scraper is that hears of nothing in time. What a follower shows is behind by a heartbeat.
const LAGS_MS: i64 = 1000;
/// Whatever was to be handed over is, so long after the last change of the ring.
const SETTLED: Duration = Duration::from_millis(3500);

/// What is mended after a while.
#[derive(Clone, Copy, Debug)]
enum Mend {
    Start(usize),
    GoOn(usize),
    Links,
}

/// One that is about to stop.
struct Leaving {
    place: usize,
    /// As it knows them.
    states: Option<watch::Receiver<Arc<MetaState>>>,
    stopped: JoinHandle<()>,
}

pub(crate) struct Scrapers {
    pub(crate) machines: Vec<Machine>,
    random: StdRng,
    leaving: Vec<Leaving>,
    /// The newest revisions of the metadata state that there were, and when.
    newest: Vec<(i64, u64)>,
    due: Vec<(Instant, Mend)>,
    around: Surroundings,
    scraping: Scraping,
    pub(crate) chronicle: Chronicle,
    /// Since when the ring is that of the scrapers that run.
    settled_since: Option<Instant>,
    next_strike: Instant,
    calm_from_ms: i64,
}

impl Scrapers {
    pub(crate) fn new(around: &Surroundings, scraping: Scraping, origin: Origin) -> Self {
        let mut random = StdRng::seed_from_u64(around.seed ^ 0x7363_7261);
        let mut machine = |number: usize| {
            let drift_ppm = random.random_range(-200..=200);
            Machine::new(PLACES + number, &["scraper"], drift_ppm, origin, around)
        };
        Self {
            machines: (0..MOST).map(&mut machine).collect(),
            leaving: Vec::new(),
            newest: Vec::new(),
            due: Vec::new(),
            around: around.clone(),
            scraping,
            chronicle: Chronicle::new(around.lease),
            settled_since: None,
            next_strike: Instant::now(),
            calm_from_ms: 0,
            random,
        }
    }

    pub(crate) fn places(&self) -> Vec<usize> {
        self.machines.iter().map(|machine| machine.place).collect()
    }

    fn tell(&self, text: impl Into<String>) {
        self.around.trace.event(text);
    }

    fn true_ms(&self) -> i64 {
        self.scraping.origin.true_ms()
    }

    fn later(&mut self, from_ms: u64, to_ms: u64, mend: Mend) {
        let after = Duration::from_millis(self.random.random_range(from_ms..to_ms));
        self.due.push((Instant::now() + after, mend));
    }

    fn pause(&mut self, from_ms: u64, to_ms: u64) -> Duration {
        Duration::from_millis(self.random.random_range(from_ms..to_ms))
    }

    /// A time begins in which all ticks are accounted for. How many changes there are to be.
    pub(crate) fn begin_calm(&mut self) -> usize {
        self.calm_from_ms = self.true_ms();
        self.random.random_range(1..=5)
    }

    /// Until the next change: at times before the last one is through.
    pub(crate) fn calm_pause(&mut self) -> Duration {
        match self.random.random_bool(0.4) {
            true => self.pause(100, 2500),
            false => self.pause(3000, 8000),
        }
    }

    pub(crate) fn end_calm(&mut self) {
        let calm = (self.calm_from_ms, self.true_ms());
        self.chronicle.calm.push(calm);
    }

    /// At first two or three.
    pub(crate) fn start_some(&mut self) {
        let count = self.random.random_range(2..=MOST);
        self.machines[..count].iter_mut().for_each(Machine::start);
    }

    fn is_leaving(&self, place: usize) -> bool {
        self.leaving.iter().any(|leaving| leaving.place == place)
    }

    /// One that stops, or runs, is left to that.
    fn start(&mut self, at: usize) -> bool {
        let place = self.machines[at].place;
        let may = !self.machines[at].is_up() && !self.is_leaving(place);
        if may {
            self.settled_since = None;
            self.tell(format!("scraper {place} starts"));
            self.machines[at].start();
        }
        may
    }

    /// What is due; and the ring as it is.
    pub(crate) fn look(&mut self, state: &MetaState) {
        self.leaving.retain(|leaving| !leaving.stopped.is_finished());
        let now = Instant::now();
        let (due, rest) = self.due.drain(..).partition(|(at, _)| *at <= now);
        self.due = rest;
        let due: Vec<(Instant, Mend)> = due;
        for (_, mend) in due {
            self.mend(mend);
        }
        self.note_ring(state);
        self.note_deaf(state);
    }

    fn mend(&mut self, mend: Mend) {
        match mend {
            Mend::Start(at) => {
                if self.is_leaving(self.machines[at].place) {
                    self.later(100, 101, mend);
                }
                self.start(at);
            }
            Mend::GoOn(at) => {
                let place = self.machines[at].place;
                self.tell(format!("scraper {place} goes on"));
                self.hold(at, false);
            }
            Mend::Links => {
                self.tell("all links are mended");
                self.around.network.heal();
            }
        }
    }

    fn hold(&self, at: usize, is_held: bool) {
        self.machines[at].clock.hold(is_held);
        self.around.network.hold(self.machines[at].place, is_held);
    }

    fn note_ring(&mut self, state: &MetaState) {
        let now_ms = self.true_ms();
        let ring = state.scrapers.iter().flat_map(|ring| &ring.nodes);
        let nodes: Vec<NodeId> = ring.copied().map(NodeId).collect();
        let wanted = self.nodes();
        let is_settled = self.leaving.is_empty()
            && wanted.is_some_and(|wanted| wanted == nodes.iter().copied().collect::<BTreeSet<_>>());
        let is_new = self.chronicle.rings.last().is_none_or(|last| last.nodes != nodes);
        if !is_settled {
            self.settled_since = None;
        } else if is_new || self.settled_since.is_none() {
            self.settled_since = Some(Instant::now());
        }
        let may_hold = ["scraper-starting", "scraper-leaving"];
        let mut live = state.nodes.iter().filter(|node| node.lease_until_ms >= now_ms);
        let is_alive = live.any(|node| {
            nodes.contains(&NodeId(node.id)) || node.roles.iter().any(|role| may_hold.contains(&role.as_str()))
        });
        if is_new || self.chronicle.rings.last().is_none_or(|last| last.is_alive != is_alive) {
            self.chronicle.rings.push(RingSeen {
                at_ms: now_ms,
                nodes,
                is_alive,
            });
        }
    }

    /// Nothing is settled where a scraper does not hear of what is decided: as with one that watches a replica which was left
    /// behind, for some seconds.
    fn note_deaf(&mut self, state: &MetaState) {
        let now_ms = self.true_ms();
        self.newest.push((now_ms, state.revision));
        let known = self.newest.partition_point(|(at_ms, _)| *at_ms <= now_ms - LAGS_MS);
        let of_before = self.newest[..known].last().map_or(0, |(_, revision)| *revision);
        self.newest.drain(..known.saturating_sub(1));
        let up = self.machines.iter().filter_map(Machine::running);
        let states = up.map(|running| running.node.meta_watch.clone());
        let leaving = self.leaving.iter().filter_map(|leaving| leaving.states.clone());
        let is_deaf = states.chain(leaving).any(|states| states.borrow().revision < of_before);
        if is_deaf {
            self.settled_since = None;
        }
    }

    /// Nodes of the scrapers that are up; none while one of them starts.
    fn nodes(&self) -> Option<BTreeSet<NodeId>> {
        let up = self.machines.iter().filter(|machine| machine.is_up());
        up.map(|machine| machine.running().map(|running| running.node.node_id))
            .collect()
    }

    /// Whether all that run have their targets, and nothing is being handed over.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled_since.is_some_and(|since| since.elapsed() >= SETTLED)
    }

    /// What each of them knows of the ring, a line for each.
    pub(crate) fn stand(&self) -> String {
        let ring = self.chronicle.rings.last().map(|ring| &ring.nodes);
        let of = |machine: &Machine| {
            let known = machine.running().map(|running| {
                let state = running.node.meta_watch.borrow().clone();
                (running.node.node_id, state.revision, state.scrapers.clone())
            });
            format!("\n  scraper {}: {known:?}", machine.place)
        };
        let newest = self.newest.last();
        let lines: String = self.machines.iter().map(of).collect();
        format!("; the ring is {ring:?}, of {newest:?}{lines}")
    }

    fn one(&mut self, is: impl Fn(&Machine) -> bool) -> Option<usize> {
        let all: Vec<usize> = (0..self.machines.len()).filter(|at| is(&self.machines[*at])).collect();
        all.choose(&mut self.random).copied()
    }

    fn leave(&mut self, at: usize) {
        let place = self.machines[at].place;
        self.tell(format!("scraper {place} is stopped in good order"));
        self.settled_since = None;
        let running = self.machines[at].running();
        let states = running.map(|running| running.node.meta_watch.clone());
        if let Some(stopped) = self.machines[at].leave() {
            self.leaving.push(Leaving { place, states, stopped });
        }
    }

    fn crash(&mut self, at: usize) {
        let place = self.machines[at].place;
        let node = self.machines[at].running().map(|running| running.node.node_id);
        self.tell(format!("scraper {place} is killed"));
        self.settled_since = None;
        self.hold(at, false);
        self.machines[at].crash(0);
        let at_ms = self.true_ms();
        self.chronicle.crashes.extend(node.map(|node| Crash { at_ms, node }));
    }

    /// Comes or goes as one does in good order, or dies where others are there to take over: nothing else is wrong.
    pub(crate) fn strike_calmly(&mut self) {
        let others_in_ring = |own: &Self, at: usize| {
            let ring = own.chronicle.rings.last();
            let me = own.machines[at].running().map(|running| running.node.node_id);
            let up = own
                .machines
                .iter()
                .filter_map(|machine| Some(machine.running()?.node.node_id));
            let heirs: Vec<NodeId> = up.filter(|node| Some(*node) != me).collect();
            ring.is_some_and(|ring| heirs.iter().any(|heir| ring.nodes.contains(heir)))
        };
        match self.random.random_range(0..10) {
            0..4 => {
                if let Some(at) = self.one(|machine| !machine.is_up()) {
                    self.start(at);
                }
            }
            4..8 => {
                if let Some(at) = self.one(|machine| machine.running().is_some())
                    && others_in_ring(self, at)
                {
                    self.leave(at);
                    if self.random.random_bool(0.5) {
                        self.later(10, 5000, Mend::Start(at));
                    }
                }
            }
            _ => {
                if let Some(at) = self.one(|machine| machine.running().is_some())
                    && others_in_ring(self, at)
                {
                    self.crash(at);
                    if self.random.random_bool(0.5) {
                        self.later(10, 9000, Mend::Start(at));
                    }
                }
            }
        }
    }

    pub(crate) fn strike_now_and_then(&mut self) {
        if Instant::now() >= self.next_strike {
            self.strike();
            self.next_strike = Instant::now() + self.pause(300, 5000);
        }
    }

    /// One thing goes wrong.
    fn strike(&mut self) {
        match self.random.random_range(0..100) {
            0..25 => {
                if let Some(at) = self.one(Machine::is_up) {
                    self.crash(at);
                    self.later(10, 9000, Mend::Start(at));
                }
            }
            25..45 => {
                if let Some(at) = self.one(|machine| machine.running().is_some()) {
                    self.leave(at);
                    self.later(10, 5000, Mend::Start(at));
                }
            }
            45..60 => self.stand_still(),
            60..80 => self.cut_off(),
            80..92 if self.around.clocks_jump => self.jump(),
            80..92 => {}
            _ => {
                if let Some(at) = self.one(|machine| !machine.is_up()) {
                    self.start(at);
                }
            }
        }
    }

    /// As with SIGSTOP: what it does once it goes on, it does by what it knew.
    fn stand_still(&mut self) {
        if let Some(at) = self.one(Machine::is_up) {
            let place = self.machines[at].place;
            self.tell(format!("scraper {place} stands still"));
            self.hold(at, true);
            self.later(200, 12_000, Mend::GoOn(at));
        }
    }

    fn cut_off(&mut self) {
        let Some(at) = self.one(Machine::is_up) else { return };
        let place = self.machines[at].place;
        let (others, whom) = match self.random.random_range(0..3) {
            0 => (self.scraping.targets.places(), "targets"),
            1 => ((0..PLACES).collect(), "all nodes"),
            _ => (
                (0..PLACES).filter(|_| self.random.random_bool(0.5)).collect(),
                "some nodes",
            ),
        };
        let (to, from) = [(true, true), (true, false), (false, true)][self.random.random_range(0..3)];
        for other in others {
            if to {
                self.around.network.cut(place, other);
            }
            if from {
                self.around.network.cut(other, place);
            }
        }
        self.tell(format!(
            "scraper {place} is cut off from {whom}: to them {to}, from them {from}"
        ));
        self.later(300, 12_000, Mend::Links);
    }

    fn jump(&mut self) {
        let Some(at) = self.one(|_| true) else { return };
        let offset_ms = match self.random.random_range(0..3) {
            0 => 0,
            1 => self.random.random_range(-2000..2000),
            _ => self.random.random_range(-240_000..240_000),
        };
        let place = self.machines[at].place;
        self.tell(format!("the wall clock of scraper {place} is off by {offset_ms} ms"));
        self.machines[at].clock.jump_to(offset_ms);
    }

    /// Everything is mended, and all scrapers start.
    pub(crate) fn end(&mut self) {
        self.due.clear();
        for at in 0..self.machines.len() {
            self.hold(at, false);
            self.machines[at].clock.jump_to(0);
            self.due.push((Instant::now(), Mend::Start(at)));
        }
    }

    /// All stop in good order, and return once they have.
    pub(crate) async fn stop(&mut self) {
        self.due.clear();
        for at in 0..self.machines.len() {
            if self.machines[at].running().is_some() {
                self.leave(at);
            }
        }
        for leaving in self.leaving.drain(..) {
            let _ = leaving.stopped.await;
        }
    }
}
