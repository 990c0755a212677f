//! Working new series into the order, a slice at a time. Series may come and go between slices: those that come wait for the
//! next time, those that go are noted.

use super::{NO_RANK, Ordinal};
use roaring::RoaringBitmap;
use std::cmp::Ordering;
use std::collections::VecDeque;

/// Lists that are sorted are joined by twos; the last one is merged with the series that have ranks.
#[derive(Debug, Default)]
pub(super) struct Work {
    unsorted: Vec<Ordinal>,
    runs: VecDeque<Run>,
    joining: Option<Joining>,
    /// What has become of the series with ranks, and of the last list, so far: the next order.
    sorted: Vec<Ordinal>,
    rank: Vec<u32>,
    /// Entries of the old order that have been gone through.
    from_old: usize,
    /// Series that went meanwhile: what lists have of them counts for nothing, also where an ordinal is used again.
    gone: RoaringBitmap,
    series: usize,
}

/// A sorted list, of which a part may have been taken.
#[derive(Debug, Default)]
struct Run {
    of: Vec<Ordinal>,
    taken: usize,
}

impl Run {
    /// The next series that is still there.
    fn next(&mut self, gone: &RoaringBitmap) -> Option<Ordinal> {
        while let Some(ordinal) = self.of.get(self.taken) {
            if gone.is_empty() || !gone.contains(*ordinal) {
                return Some(*ordinal);
            }
            self.taken += 1;
        }
        None
    }
}

#[derive(Debug)]
struct Joining {
    from: [Run; 2],
    into: Vec<Ordinal>,
}

impl Work {
    /// `ordinals` is how many there are.
    pub(super) fn begin(new: Vec<Ordinal>, ordinals: usize) -> Self {
        Self {
            series: new.len(),
            unsorted: new,
            rank: vec![NO_RANK; ordinals],
            ..Self::default()
        }
    }

    /// How many are worked in.
    pub(super) const fn series(&self) -> usize {
        self.series
    }

    pub(super) fn remove(&mut self, ordinal: Ordinal) {
        self.gone.insert(ordinal);
        if let Some(rank) = self.rank.get_mut(ordinal as usize) {
            *rank = NO_RANK;
        }
    }

    /// Sorts some of what is unsorted; whether nothing was left of it.
    pub(super) fn sort(
        &mut self,
        most: usize,
        is_new: impl Fn(Ordinal) -> bool,
        compare: impl Fn(Ordinal, Ordinal) -> Ordering,
    ) -> bool {
        if self.unsorted.is_empty() {
            return true;
        }
        let mut run = self.unsorted.split_off(self.unsorted.len().saturating_sub(most));
        run.retain(|ordinal| !self.gone.contains(*ordinal) && is_new(*ordinal));
        run.sort_unstable_by(|a, b| compare(*a, *b));
        self.runs.push_back(Run { of: run, taken: 0 });
        false
    }

    /// Joins a part of two lists; whether there were no two.
    pub(super) fn join(&mut self, most: usize, compare: impl Fn(Ordinal, Ordinal) -> Ordering) -> bool {
        let mut joining = match self.joining.take() {
            Some(joining) => joining,
            None if self.runs.len() < 2 => return true,
            None => {
                let mut next = || self.runs.pop_front().unwrap_or_default();
                let from = [next(), next()];
                let into = Vec::with_capacity(from[0].of.len() + from[1].of.len());
                Joining { from, into }
            }
        };
        let [left, right] = &mut joining.from;
        for _ in 0..most {
            let next = match (left.next(&self.gone), right.next(&self.gone)) {
                (Some(a), Some(b)) if compare(a, b).is_le() => &mut *left,
                (Some(_), None) => &mut *left,
                (_, Some(_)) => &mut *right,
                (None, None) => {
                    self.runs.push_back(Run {
                        of: joining.into,
                        taken: 0,
                    });
                    return false;
                }
            };
            joining.into.push(next.of[next.taken]);
            next.taken += 1;
        }
        self.joining = Some(joining);
        false
    }

    /// Merges a part of the last list with the series that have ranks; whether that was the last part.
    pub(super) fn merge(
        &mut self,
        most: usize,
        old: &[Ordinal],
        old_rank: &[u32],
        compare: impl Fn(Ordinal, Ordinal) -> Ordering,
    ) -> bool {
        let mut run = self.runs.pop_front().unwrap_or_default();
        if self.sorted.capacity() == 0 {
            self.sorted.reserve_exact(old.len() + run.of.len());
        }
        for _ in 0..most {
            let has_rank = |at: usize| old_rank.get(old[at] as usize).is_some_and(|rank| *rank as usize == at);
            let old_one = old.get(self.from_old).copied();
            if old_one.is_some() && !has_rank(self.from_old) {
                self.from_old += 1;
                continue;
            }
            let next = match (old_one, run.next(&self.gone)) {
                (Some(a), Some(b)) if compare(a, b).is_le() => {
                    self.from_old += 1;
                    a
                }
                (_, Some(b)) => {
                    run.taken += 1;
                    b
                }
                (Some(a), None) => {
                    self.from_old += 1;
                    a
                }
                (None, None) => return true,
            };
            self.push(next);
        }
        self.runs.push_front(run);
        false
    }

    /// One that went and came again is in a list twice.
    fn push(&mut self, ordinal: Ordinal) {
        let at = ordinal as usize;
        if self.rank.len() <= at {
            self.rank.resize(at + 1, NO_RANK);
        }
        if self.rank[at] == NO_RANK {
            self.rank[at] = self.sorted.len() as u32;
            self.sorted.push(ordinal);
        }
    }

    /// The new order and ranks.
    pub(super) fn done(self) -> (Vec<Ordinal>, Vec<u32>) {
        (self.sorted, self.rank)
    }
}
