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
    /// Consecutive numbers, from `first`.
    ring: VecDeque<Exemplar>,
    first: u64,
    /// Number of a series' newest exemplar; it may have left the ring.
    newest: HashMap<SeriesRef, u64>,
    /// Below this number all are durable, or gone.
    flushed: u64,
    /// Below this number none is stored.
    trimmed: u64,
}

impl Exemplars {
    fn next(&self) -> u64 {
        self.first + self.ring.len() as u64
    }

    fn at(&self, number: u64) -> Option<&Exemplar> {
        self.ring.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
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
            if self.newest.get(&oldest.series) == Some(&self.first) {
                self.newest.remove(&oldest.series);
            }
            self.first += 1;
        }
        self.newest.insert(exemplar.series, self.next());
        self.ring.push_back(exemplar);
    }

    /// Exemplars in the range (inclusive), in the order in which they came.
    pub(crate) fn within(&self, start_ms: i64, end_ms: i64) -> impl Iterator<Item = &Exemplar> {
        self.ring
            .iter()
            .filter(move |e| (start_ms..=end_ms).contains(&e.timestamp_ms))
    }

    /// The numbers that are stored and no longer wanted, and what is not stored yet.
    pub(crate) fn unflushed(&self) -> (std::ops::Range<u64>, impl Iterator<Item = (u64, &Exemplar)>) {
        let from = self.flushed.max(self.first);
        let skip = usize::try_from(from - self.first).unwrap_or(usize::MAX);
        (self.trimmed..self.first, (from..).zip(self.ring.iter().skip(skip)))
    }

    pub(crate) fn set_flushed(&mut self) {
        self.flushed = self.next();
        self.trimmed = self.first;
    }

    /// Puts back what was stored, in ascending numbers.
    pub(crate) fn restore(&mut self, number: u64, exemplar: Exemplar) {
        if self.ring.is_empty() {
            self.first = number;
            self.trimmed = number;
        }
        self.newest.insert(exemplar.series, number);
        self.ring.push_back(exemplar);
        self.flushed = self.next();
    }
}
