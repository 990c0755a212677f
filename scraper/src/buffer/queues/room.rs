//! What has to go to disk, and what has to be written again or given up there so that it fits.

use super::super::segment::EMPTY_BYTES;
use super::{Held, PLACE_BYTES, Pass, Place, Queues, Segment, Shed, Work, Written};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Of the disk's budget, what live scrapes may take; the rest is for those that are gone, whose segment is not.
const LIVE_OF_DISK: (u64, u64) = (3, 4);
/// Of a segment, how much has to be gone before it is written again: else that would bring less than it costs.
const DEAD_OF_SEGMENT: (u64, u64) = (1, 4);
/// Where there are more segments, small ones are put together.
const MANY_SEGMENTS: usize = 1_000;
/// What is put together at once, about.
const JOIN_BYTES: u64 = 4 << 20;

impl Segment {
    fn dead_bytes(&self) -> u64 {
        self.file_bytes.saturating_sub(EMPTY_BYTES + self.live_bytes)
    }

    fn is_mostly_dead(&self) -> bool {
        self.dead_bytes() > self.file_bytes / DEAD_OF_SEGMENT.1 * DEAD_OF_SEGMENT.0
    }
}

impl Queues {
    /// What live scrapes may take on disk.
    pub(in crate::buffer) fn live_share(&self) -> u64 {
        let budget = self.limits.disk_bytes.saturating_sub(self.kept);
        budget / LIVE_OF_DISK.1 * LIVE_OF_DISK.0
    }

    /// Whether there is a disk, and scrapes take a quarter of the memory. Places of those on disk do not count: however many
    /// there are, what is written at once is a segment and not a scrape.
    pub(in crate::buffer) fn wants_to_spill(&self) -> bool {
        self.live_share() > 0 && self.memory > self.limits.memory_bytes / 4
    }

    /// Whether so many bytes of so many scrapes more fit on disk, and their places in half of what these may take, without
    /// anything being given up or written again for it.
    pub(in crate::buffer) fn has_disk_room(&self, bytes: u64, ticks: u64) -> bool {
        self.live_disk + bytes <= self.live_share()
            && self.files + bytes <= self.limits.disk_bytes
            && (self.on_disk + ticks) * PLACE_BYTES <= self.limits.memory_bytes / 4
    }

    /// The oldest scrapes in memory of those that are wanted, of all targets, up to so many bytes (one at least). They stay
    /// where they are until [`Self::moved`] says where they are now.
    pub(in crate::buffer) fn oldest_in_memory(&self, most_bytes: u64, is_wanted: impl Fn(&Held) -> bool) -> Vec<Work> {
        let mut bytes = 0;
        let mut oldest = Vec::new();
        for (seq, target) in &self.in_memory {
            let Some(queue) = self.targets.get(target) else {
                continue;
            };
            let held = queue.position(*seq).and_then(|at| queue.held.get(at));
            let Some(held) = held.filter(|held| is_wanted(held)) else {
                continue;
            };
            bytes += held.memory();
            if bytes > most_bytes && !oldest.is_empty() {
                break;
            }
            oldest.push(Work {
                target: *target,
                name: Arc::clone(&queue.name),
                held: held.clone(),
                pass: Pass::default(),
            });
        }
        oldest
    }

    /// Scrapes are in a segment now. Those that went meanwhile are dead there.
    pub(in crate::buffer) fn moved(&mut self, segment: u64, file_bytes: u64, spots: &[Written]) {
        self.files += file_bytes;
        self.segments.insert(segment, Segment::of_file(file_bytes));
        for written in spots {
            let target = written.target;
            let Some(queue) = self.targets.get_mut(&target) else {
                continue;
            };
            let Some(at) = queue.position(written.seq) else {
                continue;
            };
            let before = queue.held[at].clone();
            let mut now = before.clone();
            now.place = Place::Disk(written.spot);
            // What is known once stays known, whatever terms are forgotten since.
            now.sole |= written.sole;
            queue.held[at] = now.clone();
            self.count(target, &before, false);
            self.count(target, &now, true);
            let by = |after: u64, before: u64| after as i64 - before as i64;
            self.weigh(target, by(now.memory(), before.memory()), by(now.disk(), before.disk()));
        }
        if self.segments.get(&segment).is_some_and(Segment::is_dead) {
            self.dead.push(segment);
        }
    }

    /// Gives up scrapes on disk until so many bytes more fit, live ones and their places in memory alike.
    pub(in crate::buffer) fn make_disk_room(&mut self, bytes: u64) -> Vec<Shed> {
        let live = self.live_share();
        let places = self.limits.memory_bytes / 2;
        let mut shed = Vec::new();
        while self.live_disk + bytes > live || self.on_disk * PLACE_BYTES > places {
            if !self.shed_one(false, &mut shed) {
                break;
            }
        }
        shed
    }

    /// Where files leave no room for so many bytes: the live scrapes of the segment that has most of others, to be written
    /// again.
    pub(in crate::buffer) fn to_rewrite(&self, bytes: u64) -> Vec<Work> {
        if self.files + bytes <= self.limits.disk_bytes {
            return Vec::new();
        }
        let all = self.own_segments().filter(|(_, segment)| segment.is_mostly_dead());
        let emptiest = all.max_by_key(|(_, segment)| segment.dead_bytes());
        self.works_of(&emptiest.map(|(id, _)| id).into_iter().collect())
    }

    /// Where there are many segments: the live scrapes of the smallest ones, as far as they make one together.
    pub(in crate::buffer) fn to_join(&self) -> Vec<Work> {
        if self.segments.len() <= MANY_SEGMENTS {
            return Vec::new();
        }
        let mut smallest: Vec<_> = self.own_segments().map(|(id, s)| (s.live_bytes, id)).collect();
        smallest.sort_unstable();
        let most_bytes = JOIN_BYTES.min(self.limits.disk_bytes / 8);
        let mut bytes = 0;
        let fits = |(live_bytes, _): &&(u64, u64)| {
            bytes += live_bytes;
            bytes <= most_bytes
        };
        let joined: BTreeSet<u64> = smallest.iter().take_while(fits).map(|(_, id)| *id).collect();
        if joined.len() < 2 {
            return Vec::new();
        }
        self.works_of(&joined)
    }

    /// Segments that hold something and may be written again.
    fn own_segments(&self) -> impl Iterator<Item = (u64, &Segment)> {
        let all = self.segments.iter().map(|(id, segment)| (*id, segment));
        all.filter(|(_, segment)| segment.live_bytes > 0 && !segment.is_kept)
    }

    fn works_of(&self, segments: &BTreeSet<u64>) -> Vec<Work> {
        if segments.is_empty() {
            return Vec::new();
        }
        let is_there = |held: &&Held| matches!(&held.place, Place::Disk(spot) if segments.contains(&spot.segment));
        let all = self.targets.iter().flat_map(|(target, queue)| {
            let held = queue.held.iter().filter(is_there);
            held.map(|held| Work {
                target: *target,
                name: Arc::clone(&queue.name),
                held: held.clone(),
                pass: Pass::default(),
            })
        });
        all.collect()
    }
}
