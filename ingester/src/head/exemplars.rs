//! Exemplars of a head: the newest ones, up to a fixed number, in the order in which they came.

use gnomon_model::SeriesRef;
use std::collections::{HashMap, HashSet, VecDeque};

/// Exemplars kept of one tenant in one shard. The same on every replica, since it decides what apply drops.
const KEPT: usize = 16 * 1024;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Exemplar {
    pub(crate) series: SeriesRef,
    pub(crate) timestamp_ms: i64,
    pub(crate) value: f64,
    /// Canonical bytes.
    pub(crate) labels: Box<[u8]>,
}

#[derive(Debug, Default)]
pub(crate) struct Exemplars {
    /// Consecutive numbers, from `first`; none where one was deleted.
    ring: VecDeque<Option<Exemplar>>,
    first: u64,
    /// Number of the newest exemplar that the ring has of a series.
    newest: HashMap<SeriesRef, u64>,
    /// Below this number all are durable, or gone.
    flushed: u64,
    /// Below this number none is stored.
    trimmed: u64,
    /// Those that were deleted and may be stored.
    removed: Vec<u64>,
    /// The ring's ends as they are stored; none where an earlier build stored it, or nothing was.
    stored_ends: Option<(u64, u64)>,
}

impl Exemplars {
    fn next(&self) -> u64 {
        self.first + self.ring.len() as u64
    }

    /// Numbers of the first place of the ring and the one behind the last. What stands there may be deleted: how long the
    /// ring is decides what it drops, on every replica alike.
    pub(crate) fn ends(&self) -> (u64, u64) {
        (self.first, self.next())
    }

    /// The ends, where they are to be stored.
    pub(crate) fn unflushed_ends(&self) -> Option<(u64, u64)> {
        let ends = self.ends();
        (ends.1 > 0 && self.stored_ends != Some(ends)).then_some(ends)
    }

    fn at(&self, number: u64) -> Option<&Exemplar> {
        self.ring
            .get(usize::try_from(number.checked_sub(self.first)?).ok()?)?
            .as_ref()
    }

    /// Takes an exemplar, unless it is the newest of its series again or older than that.
    pub(crate) fn push(&mut self, exemplar: Exemplar) {
        if let Some(last) = self.newest.get(&exemplar.series).and_then(|n| self.at(*n))
            && last.timestamp_ms >= exemplar.timestamp_ms
        {
            return;
        }
        if let Some(last) = self.newest.get(&exemplar.series).and_then(|n| self.at(*n))
            && last.labels == exemplar.labels
            && last.value.to_bits() == exemplar.value.to_bits()
        {
            return;
        }
        if self.ring.len() >= KEPT
            && let Some(oldest) = self.ring.pop_front()
        {
            if let Some(oldest) = oldest
                && self.newest.get(&oldest.series) == Some(&self.first)
            {
                self.newest.remove(&oldest.series);
            }
            self.first += 1;
        }
        self.newest.insert(exemplar.series, self.next());
        self.ring.push_back(Some(exemplar));
    }

    pub(crate) fn has_some(&self) -> bool {
        self.ring.iter().any(Option::is_some)
    }

    /// Exemplars in the range (inclusive), in the order in which they came.
    pub(crate) fn within(&self, start_ms: i64, end_ms: i64) -> impl Iterator<Item = &Exemplar> {
        self.ring
            .iter()
            .flatten()
            .filter(move |e| (start_ms..=end_ms).contains(&e.timestamp_ms))
    }

    /// Takes out those that are deleted. What comes for their series then may be as old as they were, and no older than what
    /// is left of it, as after a restart.
    pub(crate) fn remove(&mut self, is_deleted: impl Fn(&Exemplar) -> bool) {
        let mut without_newest = HashSet::new();
        for (number, slot) in (self.first..).zip(&mut self.ring) {
            let Some(gone) = slot.take_if(|exemplar| is_deleted(exemplar)) else {
                continue;
            };
            if self.newest.get(&gone.series) == Some(&number) {
                self.newest.remove(&gone.series);
                without_newest.insert(gone.series);
            }
            if number < self.flushed {
                self.removed.push(number);
            }
        }
        if without_newest.is_empty() {
            return;
        }
        // Ascending: the last one stays.
        for (number, slot) in (self.first..).zip(&self.ring) {
            if let Some(left) = slot
                && without_newest.contains(&left.series)
            {
                self.newest.insert(left.series, number);
            }
        }
    }

    /// Numbers that may be stored and are deleted.
    pub(crate) fn removed(&self) -> &[u64] {
        &self.removed
    }

    /// The numbers that are stored and no longer wanted, and what is not stored yet.
    pub(crate) fn unflushed(&self) -> (std::ops::Range<u64>, impl Iterator<Item = (u64, &Exemplar)>) {
        let from = self.flushed.max(self.first);
        let skip = usize::try_from(from - self.first).unwrap_or(usize::MAX);
        let unflushed = (from..).zip(self.ring.iter().skip(skip));
        let there = unflushed.filter_map(|(number, slot)| Some((number, slot.as_ref()?)));
        (self.trimmed..self.first, there)
    }

    pub(crate) fn set_flushed(&mut self) {
        self.flushed = self.next();
        self.trimmed = self.first;
        self.removed.clear();
        self.stored_ends = Some(self.ends());
    }

    /// Puts back what was stored, in ascending numbers; those between that are not there were deleted.
    pub(crate) fn restore(&mut self, number: u64, exemplar: Exemplar) {
        if self.ring.is_empty() {
            self.first = number;
            self.trimmed = number;
        }
        while self.next() < number && self.ring.len() < KEPT {
            self.ring.push_back(None);
        }
        self.newest.insert(exemplar.series, number);
        self.ring.push_back(Some(exemplar));
        self.flushed = self.next();
    }

    /// After all that was stored: the ring's ends as they were. What is not there between them was deleted.
    pub(crate) fn restore_ends(&mut self, first: u64, next: u64) {
        let is_damaged = next.checked_sub(first).is_none_or(|places| places > KEPT as u64);
        // An earlier build, which does not store them, has gone on since.
        let is_older = !self.ring.is_empty() && (first > self.first || next < self.next());
        if is_damaged || is_older {
            return;
        }
        if self.ring.is_empty() {
            self.first = first;
        }
        while self.first > first {
            self.ring.push_front(None);
            self.first -= 1;
        }
        while self.next() < next {
            self.ring.push_back(None);
        }
        self.trimmed = first;
        self.flushed = next;
        self.stored_ends = Some((first, next));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exemplar(series: u64, timestamp_ms: i64) -> Exemplar {
        Exemplar {
            series: SeriesRef(series),
            timestamp_ms,
            value: 1.0,
            labels: Box::default(),
        }
    }

    /// As one that starts again with what `from` has stored.
    fn restored(from: &Exemplars) -> Exemplars {
        let mut to = Exemplars::default();
        for (number, slot) in (from.first..).zip(&from.ring) {
            if let Some(there) = slot {
                to.restore(number, there.clone());
            }
        }
        to.restore_ends(from.first, from.next());
        to
    }

    fn there(ring: &Exemplars) -> Vec<Exemplar> {
        ring.within(i64::MIN, i64::MAX).cloned().collect()
    }

    #[test]
    fn a_restored_ring_drops_and_refuses_what_the_live_one_does() {
        let mut live = Exemplars::default();
        for n in 0..KEPT as u64 + 10 {
            live.push(exemplar(n % 50, n as i64));
        }
        // Places at both ends of the ring, and the newest of each series.
        live.remove(|e| e.timestamp_ms < 500 || e.timestamp_ms >= KEPT as i64 - 100);
        live.set_flushed();
        let mut again = restored(&live);
        assert_eq!((again.ends(), again.newest == live.newest), (live.ends(), true));
        for n in 0..1_000 {
            // Half of them are older than what is left of their series.
            let next = exemplar(n % 50, KEPT as i64 - 600 + n as i64);
            live.push(next.clone());
            again.push(next);
        }
        assert_eq!((again.ends(), there(&again)), (live.ends(), there(&live)));
        assert_eq!(again.unflushed_ends(), live.unflushed_ends());
    }

    #[test]
    fn ends_that_an_earlier_build_left_behind_are_not_taken() {
        let mut ring = Exemplars::default();
        ring.restore(5, exemplar(1, 1));
        ring.restore(9, exemplar(1, 2));
        for (first, next) in [(6, 10), (0, 9), (7, 3), (0, KEPT as u64 + 1)] {
            ring.restore_ends(first, next);
            assert_eq!(ring.ends(), (5, 10), "{first} {next}");
        }
        assert_eq!(ring.unflushed_ends(), Some((5, 10)));
        ring.restore_ends(3, 12);
        assert_eq!((ring.ends(), ring.unflushed_ends()), ((3, 12), None));
    }
}
