//! What goes wrong, by seed.

use super::clock::{Origin, WINDOW_MS};
use super::machine::{Disk, Machine, Surroundings};
use super::network::Weather;
use super::watch::{by_node, groups_of, leader, newest, unsettled};
use gnomon_cluster::clients::decide;
use gnomon_cluster::meta::{Beginning, Reshard, reshard};
use gnomon_model::{ManualClock, TimestampMs};
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{SetDraining, SetShardReplicas, ShardReplicas};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::time::Duration;
use tokio::time::Instant;

/// Ingesters that there are at most.
const MOST: usize = 5;

/// What is mended after a while.
#[derive(Clone, Copy, Debug)]
enum Mend {
    Start(usize),
    Links,
    Weather,
    Disk(usize),
}

pub(crate) struct Nemesis {
    random: StdRng,
    due: Vec<(Instant, Mend)>,
    /// Machines that clients are on.
    clients: Vec<usize>,
    around: Surroundings,
    draining: Vec<u64>,
    /// A disk was lost, and what was on it may not be on as many others as is wished yet.
    is_disk_lost: bool,
    origin: Origin,
    /// When the change of the number of shards is to be announced; none where it was, or is not to be.
    reshard_at: Option<Instant>,
}

impl Nemesis {
    pub(crate) fn new(clients: Vec<usize>, around: Surroundings, origin: Origin) -> Self {
        Self {
            random: StdRng::seed_from_u64(around.seed ^ 0x6e65_6d65),
            due: Vec::new(),
            clients,
            draining: Vec::new(),
            is_disk_lost: false,
            origin,
            reshard_at: around.reshard.map(|_| Instant::now()),
            around,
        }
    }

    fn tell(&self, text: impl Into<String>) {
        self.around.trace.event(text);
    }

    fn later(&mut self, from_ms: u64, to_ms: u64, mend: Mend) {
        let after = Duration::from_millis(self.random.random_range(from_ms..to_ms));
        self.due.push((Instant::now() + after, mend));
    }

    /// Until the next thing goes wrong.
    pub(crate) fn pause(&mut self) -> Duration {
        Duration::from_millis(self.random.random_range(200..3500))
    }

    /// Mends what is due.
    pub(crate) fn mend(&mut self, machines: &mut [Machine]) {
        self.is_disk_lost = self.is_disk_lost && unsettled(machines).is_some();
        let now = Instant::now();
        let (due, rest) = self.due.drain(..).partition(|(at, _)| *at <= now);
        self.due = rest;
        let due: Vec<(Instant, Mend)> = due;
        for (_, mend) in due {
            self.do_mend(mend, machines);
        }
    }

    fn do_mend(&mut self, mend: Mend, machines: &mut [Machine]) {
        match mend {
            Mend::Start(place) => {
                if let Some(machine) = machines.iter_mut().find(|m| m.place == place && !m.is_up()) {
                    self.around.trace.event(format!("machine {place} starts"));
                    machine.start();
                }
            }
            Mend::Links => {
                self.tell("all links are mended");
                self.around.network.heal();
            }
            Mend::Weather => self.around.network.set_weather(Weather::FINE),
            Mend::Disk(place) => {
                if let Some(machine) = machines.iter().find(|m| m.place == place) {
                    self.tell(format!("the disk of machine {place} is well"));
                    machine.set_failing(false);
                    machine.set_slow(Disk::USUAL_US);
                }
            }
        }
    }

    /// Everything is mended, and nothing more goes wrong.
    pub(crate) async fn end(&mut self, machines: &mut [Machine]) {
        self.tell("everything is mended");
        self.due.clear();
        for machine in machines.iter_mut() {
            let place = machine.place;
            self.do_mend(Mend::Disk(place), std::slice::from_mut(machine));
            self.do_mend(Mend::Start(place), std::slice::from_mut(machine));
        }
        self.do_mend(Mend::Links, machines);
        self.do_mend(Mend::Weather, machines);
    }

    /// Nodes that are being drained; they are to stay.
    pub(crate) fn take_draining(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.draining)
    }

    fn one(&mut self, machines: &[Machine], is: impl Fn(&Machine) -> bool) -> Option<usize> {
        let places: Vec<usize> = (0..machines.len()).filter(|at| is(&machines[*at])).collect();
        places.choose(&mut self.random).copied()
    }

    /// Announces the change of the number of shards, again until it is taken or its time has come.
    pub(crate) async fn reshard(&mut self, client: &Machine) {
        let due = self.reshard_at.is_some_and(|at| at <= Instant::now());
        let (Some(shards), Some(running), true) = (self.around.reshard, client.running(), due) else {
            return;
        };
        let wanted = Reshard {
            shards,
            spreads: None,
            beginning: Beginning::At(WINDOW_MS),
        };
        let now_ms = self.origin.true_ms();
        let clock = ManualClock::at(TimestampMs(now_ms));
        let announcing = reshard(running.node.meta.as_ref(), &wanted, &clock);
        let told = match tokio::time::timeout(Duration::from_secs(3), announcing).await {
            Ok(Ok(_)) => "announced".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "nobody has answered".to_owned(),
        };
        let is_over = told == "announced" || now_ms >= WINDOW_MS;
        self.reshard_at = (!is_over).then(|| Instant::now() + Duration::from_secs(1));
        self.tell(format!("{shards} shards from the next window on: {told}"));
    }

    /// One thing goes wrong. `client` decides commands of the metadata group.
    pub(crate) async fn strike(&mut self, machines: &mut Vec<Machine>, client: &Machine) {
        match self.random.random_range(0..100) {
            0..16 => self.crash_one(machines),
            16..19 => self.crash_all(machines),
            19..26 => self.restart(machines).await,
            26..40 => self.partition(machines),
            40..48 => self.bad_weather(),
            48..58 if self.around.clocks_jump => self.jump(machines),
            48..58 => {}
            58..65 => self.bad_disk(machines),
            65..71 => self.slow_disk(machines),
            71..77 => self.drain(machines, client).await,
            77..81 => self.join(machines),
            81..85 => self.wipe(machines),
            85..92 => self.move_replica(machines, client).await,
            _ => self.transfer(machines).await,
        }
    }

    fn crash_one(&mut self, machines: &mut [Machine]) {
        let Some(at) = self.one(machines, Machine::is_up) else {
            return;
        };
        let kept = self.random.random_range(0..20);
        let place = machines[at].place;
        self.tell(format!("machine {place} loses power"));
        machines[at].crash(kept);
        self.later(50, 9000, Mend::Start(place));
    }

    fn crash_all(&mut self, machines: &mut [Machine]) {
        self.tell("all machines lose power");
        for machine in machines.iter_mut().filter(|m| m.is_up()) {
            machine.crash(self.random.random_range(0..20));
        }
        for machine in machines.iter().filter(|m| !m.is_up()) {
            self.later(50, 4000, Mend::Start(machine.place));
        }
    }

    async fn restart(&mut self, machines: &mut [Machine]) {
        let Some(at) = self.one(machines, |m| m.running().is_some()) else {
            return;
        };
        let place = machines[at].place;
        self.tell(format!("machine {place} is stopped in good order"));
        machines[at].set_failing(false);
        machines[at].stop().await;
        self.tell(format!("machine {place} has stopped"));
        self.later(10, 3000, Mend::Start(place));
    }

    fn partition(&mut self, machines: &[Machine]) {
        let mut all: Vec<usize> = machines.iter().map(|m| m.place).collect();
        if self.random.random_bool(0.3) {
            all.extend(&self.clients);
        }
        let network = &self.around.network;
        let text = match self.random.random_range(0..3) {
            0 => {
                let (from, to) = (
                    all[self.random.random_range(0..all.len())],
                    all[self.random.random_range(0..all.len())],
                );
                network.cut(from, to);
                format!("from machine {from} to {to} nothing passes")
            }
            1 => {
                let alone = all[self.random.random_range(0..all.len())];
                for other in all.iter().filter(|other| **other != alone) {
                    network.cut(alone, *other);
                    network.cut(*other, alone);
                }
                format!("machine {alone} is cut off")
            }
            _ => {
                let sides: Vec<bool> = all.iter().map(|_| self.random.random_bool(0.5)).collect();
                for (a, one) in all.iter().zip(&sides) {
                    for (b, _) in all.iter().zip(&sides).filter(|(_, other)| *other != one) {
                        network.cut(*a, *b);
                    }
                }
                format!("machines {all:?} are split: {sides:?}")
            }
        };
        self.tell(text);
        self.later(300, 8000, Mend::Links);
    }

    fn bad_weather(&mut self) {
        let weather = Weather {
            lose: self.random.random_range(0.0..0.1),
            late: self.random.random_range(0.0..0.3),
            twice: self.random.random_range(0.0..0.2),
            usual_us: self.random.random_range(500..20_000),
            late_ms: self.random.random_range(10..1500),
        };
        self.tell(format!("the network: {weather:?}"));
        self.around.network.set_weather(weather);
        self.later(500, 6000, Mend::Weather);
    }

    fn jump(&mut self, machines: &[Machine]) {
        let Some(at) = self.one(machines, |_| true) else { return };
        let offset_ms = match self.random.random_range(0..3) {
            0 => 0,
            1 => self.random.random_range(-2000..2000),
            _ => self.random.random_range(-240_000..240_000),
        };
        self.tell(format!(
            "the wall clock of machine {} is off by {offset_ms} ms",
            machines[at].place
        ));
        machines[at].clock.jump_to(offset_ms);
    }

    fn bad_disk(&mut self, machines: &[Machine]) {
        let Some(at) = self.one(machines, Machine::is_up) else {
            return;
        };
        let place = machines[at].place;
        self.tell(format!("the disk of machine {place} takes no writes"));
        machines[at].set_failing(true);
        self.later(100, 4000, Mend::Disk(place));
    }

    fn slow_disk(&mut self, machines: &[Machine]) {
        let Some(at) = self.one(machines, Machine::is_up) else {
            return;
        };
        let (place, slowest_us) = (machines[at].place, self.random.random_range(10_000..900_000));
        self.tell(format!("the disk of machine {place} takes up to {slowest_us} us"));
        machines[at].set_slow(slowest_us);
        self.later(500, 6000, Mend::Disk(place));
    }

    /// Whether it is known to be decided.
    async fn decide(&mut self, client: &Machine, what: String, command: Command) -> bool {
        let Some(running) = client.running() else { return false };
        // What is not decided by then may be later.
        let deciding = tokio::time::timeout(Duration::from_secs(3), decide(running.node.meta.as_ref(), command));
        let (is_decided, told) = match deciding.await {
            Ok(Ok(answer)) if answer.refused.is_empty() => (true, "decided".to_owned()),
            Ok(Ok(answer)) => (false, format!("refused: {}", answer.refused)),
            Ok(Err(error)) => (false, error.to_string()),
            Err(_) => (false, "nobody has answered".to_owned()),
        };
        self.tell(format!("{what}: {told}"));
        is_decided
    }

    async fn drain(&mut self, machines: &[Machine], client: &Machine) {
        // With three, the other two are all that is left then: no group of two outlives the disk of one of them.
        if self.is_disk_lost && self.draining.is_empty() {
            return;
        }
        let nodes = by_node(machines);
        let (node, draining) = match self.draining.last() {
            Some(node) => (*node, false),
            None => {
                let all: Vec<u64> = nodes.keys().map(|node| node.0).collect();
                let Some(node) = all.choose(&mut self.random) else {
                    return;
                };
                (*node, true)
            }
        };
        if draining {
            self.draining.push(node);
        }
        let command = Command::SetDraining(SetDraining { node, draining });
        let is_decided = self
            .decide(client, format!("node {node}, draining {draining}"), command)
            .await;
        // One that may still be drained has its turn again, at the end at the latest.
        if is_decided && !draining {
            self.draining.pop();
        }
    }

    fn join(&mut self, machines: &mut Vec<Machine>) {
        if machines.len() >= MOST {
            return;
        }
        let mut machine = Machine::new(machines.len(), &["ingester"], 0, self.origin, &self.around);
        self.tell(format!("machine {} joins", machine.place));
        machine.start();
        machines.push(machine);
    }

    /// Only where nothing acknowledged is on this disk and too few others, now or once a node that is drained has left.
    fn wipe(&mut self, machines: &mut [Machine]) {
        if unsettled(machines).is_some() || !self.draining.is_empty() {
            return;
        }
        let Some(at) = self.one(machines, |m| m.running().is_some()) else {
            return;
        };
        let place = machines[at].place;
        self.tell(format!("machine {place} gets a new disk"));
        machines[at].wipe();
        self.is_disk_lost = true;
        self.later(50, 3000, Mend::Start(place));
    }

    async fn move_replica(&mut self, machines: &[Machine], client: &Machine) {
        let nodes = by_node(machines);
        let state = newest(&nodes);
        let Some(shard) = state.shards.choose(&mut self.random).cloned() else {
            return;
        };
        let mut wished = shard.nodes.clone();
        let others: Vec<u64> = nodes.keys().map(|n| n.0).filter(|n| !wished.contains(n)).collect();
        if wished.is_empty() {
            return;
        }
        let at = self.random.random_range(0..wished.len());
        match others.choose(&mut self.random) {
            Some(other) => wished[at] = *other,
            // Another one is to lead.
            None => wished.rotate_left(at.max(1)),
        }
        let what = format!("shard {}: {:?} -> {wished:?}", shard.shard, shard.nodes);
        let command = Command::SetShardReplicas(SetShardReplicas {
            shard: Some(ShardReplicas {
                shard: shard.shard,
                nodes: wished,
            }),
            from_nodes: shard.nodes,
        });
        self.decide(client, what, command).await;
    }

    async fn transfer(&mut self, machines: &[Machine]) {
        let nodes = by_node(machines);
        let groups: Vec<_> = groups_of(&newest(&nodes)).collect();
        let Some(group) = groups.choose(&mut self.random) else {
            return;
        };
        let Some((node, status)) = leader(&nodes, *group) else {
            return;
        };
        // Nobody hands over to himself; the library would let him lead no more.
        let others: Vec<_> = status.voters.iter().copied().filter(|voter| *voter != node).collect();
        let Some(heir) = others.choose(&mut self.random) else {
            return;
        };
        let own = nodes[&node]
            .node
            .ingester
            .as_ref()
            .and_then(|groups| groups.host.group(*group));
        if let Some(own) = own {
            self.tell(format!("group {group} is to be led by node {heir} rather than {node}"));
            let _ = own.transfer_leader(*heir).await;
        }
    }
}
