//! Which scrapes are held, in what order they go, and which are given up: decisions only, no I/O.
//!
//! ```text
//! add -> memory -> (a quarter full) a segment on disk -> sent, oldest first for each target, targets in turn
//!            \-> shed where a budget is full: the oldest of the target that holds most
//! ```
//!
//! Invariant: the scrapes of a target are held in the order in which they were made; one at a time is being sent.
//! Invariant: what is in memory, the places of what is on disk included, takes no more than `memory_bytes`; segments take
//! no more than `disk_bytes`.

mod room;

use super::lines::{Home, Lines, Pass};
use bytes::Bytes;
use gnomon_model::TargetId;
use hashbrown::HashMap;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// What an entry in memory takes beside its bytes, its places in the orders included.
const ENTRY_BYTES: u64 = 192;
/// What one on disk takes in memory.
const PLACE_BYTES: u64 = 128;
/// Targets of which it is remembered how much was shed.
const MAX_SHED_TARGETS: usize = 200_000;

#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) memory_bytes: u64,
    /// 0 is no disk.
    pub(super) disk_bytes: u64,
}

/// Where a record is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) segment: u64,
    pub(super) offset: u64,
    /// Of the whole record.
    pub(super) bytes: u32,
}

/// A scrape in a segment: whose it is, and where it lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) target: TargetId,
    pub(super) seq: u64,
    /// As of [`Held`], when it was written.
    pub(super) sole: bool,
    pub(super) spot: Spot,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Place {
    Memory(Bytes),
    Disk(Spot),
}

/// A scrape that is held.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Held {
    /// Ascending over all targets, over restarts too.
    pub(super) seq: u64,
    pub(super) term: u64,
    pub(super) tick_ms: i64,
    pub(super) samples: u64,
    /// It is known that nobody else scraped the target then.
    pub(super) sole: bool,
    pub(super) place: Place,
}

impl Held {
    fn memory(&self) -> u64 {
        match &self.place {
            Place::Memory(bytes) => bytes.len() as u64 + ENTRY_BYTES,
            Place::Disk(_) => 0,
        }
    }

    fn disk(&self) -> u64 {
        match &self.place {
            Place::Memory(_) => 0,
            Place::Disk(spot) => u64::from(spot.bytes),
        }
    }
}

/// A target's labels, as log lines name it.
pub(super) type Name = Arc<[u8]>;

#[derive(Debug)]
struct Queue {
    name: Name,
    /// Ascending by `seq`.
    held: VecDeque<Held>,
    memory: u64,
    disk: u64,
    /// In which line it stands.
    home: Home,
    /// One is being sent.
    is_sending: bool,
}

impl Queue {
    fn position(&self, seq: u64) -> Option<usize> {
        self.held.binary_search_by_key(&seq, |held| held.seq).ok()
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Segment {
    file_bytes: u64,
    live_bytes: u64,
    /// It has something of a newer build and is not removed.
    is_kept: bool,
}

impl Segment {
    fn of_file(file_bytes: u64) -> Self {
        Self {
            file_bytes,
            ..Self::default()
        }
    }

    fn is_dead(&self) -> bool {
        self.live_bytes == 0 && !self.is_kept
    }
}

/// Scrapes that were given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Shed {
    pub(super) target: TargetId,
    pub(super) name: Name,
    pub(super) ticks: u64,
    pub(super) samples: u64,
}

/// One to be sent.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) target: TargetId,
    pub(super) name: Name,
    pub(super) held: Held,
    /// Where it is to be sent.
    pub(super) pass: Pass,
}

/// What became of one that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It needs not be sent again.
    Done,
    /// It will not be taken: it counts as shed.
    Never,
    /// It may be taken later.
    Later,
    /// It could not be read, and may be later: that says nothing about its shard.
    Unread,
    /// It does not read back: it counts as shed.
    Lost,
    /// A newer build wrote it: it is left for one.
    Aside,
    /// It was not sent: it belongs into another line.
    Moves(Home),
}

/// What is held of one target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OfTarget {
    pub(crate) ticks: u64,
    /// Of the oldest; 0 where there is none.
    pub(crate) oldest_ms: i64,
    /// Samples that were given up since the start.
    pub(crate) shed_samples: u64,
}

/// What is held in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) memory_bytes: u64,
    pub(super) disk_bytes: u64,
    pub(super) ticks: u64,
    pub(super) samples: u64,
    pub(super) oldest_ms: Option<i64>,
}

#[derive(Debug)]
pub(super) struct Queues {
    limits: Limits,
    targets: HashMap<TargetId, Queue>,
    /// Targets that hold something in memory, by how much; and on disk.
    by_memory: BTreeSet<(u64, TargetId)>,
    by_disk: BTreeSet<(u64, TargetId)>,
    /// Scrapes in memory, by age.
    in_memory: BTreeMap<u64, TargetId>,
    segments: BTreeMap<u64, Segment>,
    /// Segments of which nothing is held any more.
    dead: Vec<u64>,
    lines: Lines,
    shed: HashMap<TargetId, u64>,
    next_seq: u64,
    memory: u64,
    live_disk: u64,
    files: u64,
    /// Of files that are not removed.
    kept: u64,
    on_disk: u64,
    ticks: u64,
    samples: u64,
}

impl Queues {
    /// `first_seq` is above all of what an earlier process held.
    pub(super) fn new(limits: Limits, first_seq: u64) -> Self {
        Self {
            limits,
            targets: HashMap::new(),
            by_memory: BTreeSet::new(),
            by_disk: BTreeSet::new(),
            in_memory: BTreeMap::new(),
            segments: BTreeMap::new(),
            dead: Vec::new(),
            lines: Lines::default(),
            shed: HashMap::new(),
            next_seq: first_seq,
            memory: 0,
            live_disk: 0,
            files: 0,
            kept: 0,
            on_disk: 0,
            ticks: 0,
            samples: 0,
        }
    }

    /// Whether scrapes of the target wait: later ones have to wait behind them.
    pub(super) fn holds(&self, target: TargetId) -> bool {
        self.targets.contains_key(&target)
    }

    pub(super) fn of(&self, target: TargetId) -> OfTarget {
        let queue = self.targets.get(&target);
        OfTarget {
            ticks: queue.map_or(0, |queue| queue.held.len() as u64),
            oldest_ms: queue
                .and_then(|queue| queue.held.front())
                .map_or(0, |held| held.tick_ms),
            shed_samples: self.shed.get(&target).copied().unwrap_or(0),
        }
    }

    pub(super) fn totals(&self) -> Totals {
        let oldest = self.targets.values().filter_map(|queue| queue.held.front());
        Totals {
            memory_bytes: self.memory + self.on_disk * PLACE_BYTES,
            disk_bytes: self.files,
            ticks: self.ticks,
            samples: self.samples,
            oldest_ms: oldest.map(|held| held.tick_ms).min(),
        }
    }

    fn memory_used(&self) -> u64 {
        self.memory + self.on_disk * PLACE_BYTES
    }

    /// Holds a scrape in memory; what had to go for it.
    pub(super) fn add(&mut self, target: TargetId, name: &Name, home: Home, mut held: Held) -> Vec<Shed> {
        held.seq = self.next_seq;
        self.next_seq += 1;
        self.insert(target, name, home, held);
        let mut shed = Vec::new();
        while self.memory_used() > self.limits.memory_bytes {
            if !self.shed_one(true, &mut shed) {
                break;
            }
        }
        shed
    }

    /// Takes over what was found on disk: it is older than all that is held. `newest` is the largest number of a file.
    pub(super) fn adopt(
        &mut self,
        segments: &[(u64, u64)],
        newest: u64,
        mut found: Vec<(TargetId, Name, Held)>,
    ) -> Vec<Shed> {
        for (segment, file_bytes) in segments {
            self.segments.insert(*segment, Segment::of_file(*file_bytes));
            self.files += file_bytes;
        }
        found.sort_by_key(|(_, _, held)| held.seq);
        // Segments and scrapes are numbered alike, and a file that cannot be read has its number all the same.
        let newest = found.last().map_or(newest, |(_, _, held)| held.seq.max(newest));
        self.next_seq = self.next_seq.max(newest.saturating_add(1));
        for (target, name, held) in found {
            // Its home is told by the scrape itself, once that is read.
            self.insert(target, &name, None, held);
        }
        let idle = self.segments.iter().filter(|(_, segment)| segment.is_dead());
        self.dead.extend(idle.map(|(id, _)| *id));
        self.make_disk_room(0)
    }

    fn insert(&mut self, target: TargetId, name: &Name, home: Home, held: Held) {
        self.count(target, &held, true);
        self.ticks += 1;
        self.samples += held.samples;
        let queue = self.targets.entry(target).or_insert_with(|| {
            self.lines.doubt(home, target);
            Queue {
                name: Arc::clone(name),
                held: VecDeque::new(),
                memory: 0,
                disk: 0,
                home,
                is_sending: false,
            }
        });
        let (memory, disk) = (held.memory(), held.disk());
        let at = queue.held.partition_point(|before| before.seq < held.seq);
        queue.held.insert(at, held);
        self.weigh(target, memory as i64, disk as i64);
    }

    /// Notes that a scrape is in its place, or is not any more.
    fn count(&mut self, target: TargetId, held: &Held, is_there: bool) {
        let change = |total: &mut u64, by: u64| {
            *total = if is_there {
                *total + by
            } else {
                total.saturating_sub(by)
            };
        };
        change(&mut self.memory, held.memory());
        match &held.place {
            Place::Memory(_) if is_there => {
                self.in_memory.insert(held.seq, target);
            }
            Place::Memory(_) => {
                self.in_memory.remove(&held.seq);
            }
            Place::Disk(spot) => {
                change(&mut self.live_disk, held.disk());
                change(&mut self.on_disk, 1);
                if let Some(segment) = self.segments.get_mut(&spot.segment) {
                    change(&mut segment.live_bytes, held.disk());
                    if segment.is_dead() {
                        self.dead.push(spot.segment);
                    }
                }
            }
        }
    }

    /// What the target holds has changed by so much.
    fn weigh(&mut self, target: TargetId, memory: i64, disk: i64) {
        let Some(queue) = self.targets.get_mut(&target) else {
            return;
        };
        self.by_memory.remove(&(queue.memory, target));
        self.by_disk.remove(&(queue.disk, target));
        queue.memory = queue.memory.saturating_add_signed(memory);
        queue.disk = queue.disk.saturating_add_signed(disk);
        if queue.memory > 0 {
            self.by_memory.insert((queue.memory, target));
        }
        if queue.disk > 0 {
            self.by_disk.insert((queue.disk, target));
        }
        if queue.held.is_empty() {
            self.targets.remove(&target);
        }
    }

    /// Takes a scrape out, wherever it is in its queue.
    fn remove(&mut self, target: TargetId, at: usize) -> Option<Held> {
        let held = self.targets.get_mut(&target)?.held.remove(at)?;
        self.count(target, &held, false);
        self.ticks = self.ticks.saturating_sub(1);
        self.samples = self.samples.saturating_sub(held.samples);
        self.weigh(target, -(held.memory() as i64), -(held.disk() as i64));
        Some(held)
    }

    /// Gives up the oldest scrape in memory (or on disk) of the target that holds most there. One that is being sent
    /// stays. Whether there was one.
    fn shed_one(&mut self, in_memory: bool, shed: &mut Vec<Shed>) -> bool {
        let order = if in_memory { &self.by_memory } else { &self.by_disk };
        let found = order.iter().rev().find_map(|(_, target)| {
            let queue = self.targets.get(target)?;
            let from = usize::from(queue.is_sending);
            let is_there = |held: &Held| matches!(held.place, Place::Memory(_)) == in_memory;
            let at = queue.held.iter().skip(from).position(is_there)? + from;
            Some((*target, Arc::clone(&queue.name), at))
        });
        let Some((target, name, at)) = found else {
            return false;
        };
        if let Some(held) = self.remove(target, at) {
            self.note_shed(target, name, held.samples, shed);
        }
        true
    }

    fn note_shed(&mut self, target: TargetId, name: Name, samples: u64, shed: &mut Vec<Shed>) {
        self.lost(target, samples);
        match shed.iter_mut().find(|one| one.target == target) {
            Some(one) => {
                one.ticks += 1;
                one.samples += samples;
            }
            None => shed.push(Shed {
                target,
                name,
                ticks: 1,
                samples,
            }),
        }
    }

    /// Notes that samples of the target were given up.
    pub(super) fn lost(&mut self, target: TargetId, samples: u64) {
        if self.shed.len() < MAX_SHED_TARGETS || self.shed.contains_key(&target) {
            *self.shed.entry(target).or_default() += samples;
        }
    }

    /// Segments whose files can be removed; they count no more.
    pub(super) fn take_dead(&mut self) -> Vec<u64> {
        let mut dead = std::mem::take(&mut self.dead);
        dead.sort_unstable();
        dead.dedup();
        // One that was begun anew meanwhile is not.
        dead.retain(|id| self.segments.get(id).is_some_and(Segment::is_dead));
        for id in &dead {
            if let Some(segment) = self.segments.remove(id) {
                self.files = self.files.saturating_sub(segment.file_bytes);
            }
        }
        dead
    }

    pub(super) fn has_dead(&self) -> bool {
        !self.dead.is_empty()
    }

    pub(super) fn has_memory(&self) -> bool {
        !self.in_memory.is_empty()
    }

    /// Scrapes on disk.
    pub(super) fn on_disk(&self) -> u64 {
        self.on_disk
    }

    /// A number that no file has.
    pub(super) fn next_segment(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }

    /// Takes out a scrape that cannot be sent. Whether it was there.
    pub(super) fn drop_one(&mut self, target: TargetId, seq: u64) -> bool {
        let at = self.targets.get(&target).and_then(|queue| queue.position(seq));
        at.is_some_and(|at| self.remove(target, at).is_some())
    }

    /// The oldest scrape of the target whose turn it is. `doubtful` also takes those of which it is not known whether their
    /// shard takes them.
    pub(super) fn next(&mut self, doubtful: bool) -> Option<Work> {
        loop {
            let (target, pass) = self.lines.next(doubtful)?;
            // It may have been given up whole since it was put in line, and come back under another home.
            let Some(queue) = self.targets.get_mut(&target).filter(|queue| !queue.is_sending) else {
                self.lines.ended(&pass);
                continue;
            };
            if queue.home != pass.home {
                self.lines.ended(&pass);
                self.lines.doubt(queue.home, target);
                continue;
            }
            let Some(held) = queue.held.front().cloned() else {
                self.lines.ended(&pass);
                continue;
            };
            queue.is_sending = true;
            return Some(Work {
                target,
                name: Arc::clone(&queue.name),
                held,
                pass,
            });
        }
    }

    /// Where a scrape is now, as long as it is held.
    pub(super) fn place_of(&self, target: TargetId, seq: u64) -> Option<&Place> {
        let queue = self.targets.get(&target)?;
        queue.held.get(queue.position(seq)?).map(|held| &held.place)
    }

    /// What became of what [`Self::next`] gave.
    pub(super) fn sent(&mut self, work: &Work, sent: Sent) {
        let target = work.target;
        match sent {
            Sent::Done | Sent::Never => self.lines.answered(&work.pass),
            Sent::Later => self.lines.failed(&work.pass),
            Sent::Unread | Sent::Lost | Sent::Aside | Sent::Moves(_) => self.lines.ended(&work.pass),
        }
        let Some(queue) = self.targets.get_mut(&target) else {
            return;
        };
        queue.is_sending = false;
        if let Sent::Moves(home) = sent {
            queue.home = home;
        }
        let home = queue.home;
        let at = queue.position(work.held.seq);
        match (sent, at) {
            (Sent::Aside, Some(at)) => self.set_aside(target, at),
            (Sent::Done | Sent::Never | Sent::Lost, Some(at)) => {
                self.remove(target, at);
            }
            _ => {}
        }
        if matches!(sent, Sent::Never | Sent::Lost) {
            self.lost(target, work.held.samples);
        }
        if !self.holds(target) {
            return;
        }
        match sent {
            Sent::Done | Sent::Never => self.lines.trust(home, target),
            _ => self.lines.doubt(home, target),
        }
    }

    /// Holds a scrape no more, and leaves it where it is on disk for a build that can read it.
    fn set_aside(&mut self, target: TargetId, at: usize) {
        let held = self.targets.get(&target).and_then(|queue| queue.held.get(at));
        if let Some(Place::Disk(spot)) = held.map(|held| &held.place)
            && let Some(segment) = self.segments.get_mut(&spot.segment)
            && !segment.is_kept
        {
            segment.is_kept = true;
            self.kept += segment.file_bytes;
        }
        self.remove(target, at);
    }
}

#[cfg(test)]
mod tests;
