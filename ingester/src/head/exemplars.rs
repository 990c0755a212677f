//! Exemplars of a head: the newest ones, up to a fixed number, in the order in which they came.

use gnomon_model::SeriesRef;
use std::collections::{HashMap, VecDeque};

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
    /// Number of a series' newest exemplar; it may have left the ring.
    newest: HashMap<SeriesRef, u64>,
    /// Below this number all are durable, or gone.
    flushed: u64,
    /// Below this number none is stored.
    trimmed: u64,
    /// Those that were deleted and may be stored.
    removed: Vec<u64>,
}

impl Exemplars {
    fn next(&self) -> u64 {
        self.first + self.ring.len() as u64
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

    /// Takes out those that are deleted. What comes for their series then may be as old as they were.
    pub(crate) fn remove(&mut self, is_deleted: impl Fn(&Exemplar) -> bool) {
        for (number, slot) in (self.first..).zip(&mut self.ring) {
            let Some(gone) = slot.take_if(|exemplar| is_deleted(exemplar)) else {
                continue;
            };
            if self.newest.get(&gone.series) == Some(&number) {
                self.newest.remove(&gone.series);
            }
            if number < self.flushed {
                self.removed.push(number);
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
}
