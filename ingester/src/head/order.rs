//! The order of a head's series by their labels, so that what a query selects need not be sorted.
//!
//! It is brought up to date by who asks for it, in slices: between two of them nobody is kept from writing, and who does
//! not want the answer any more can leave. Series that came since are few mostly, and are sorted by themselves.
//! Invariant: `sorted[rank[ordinal]] == ordinal` exactly for the series that have a rank.

mod work;

use super::Ordinal;
use roaring::RoaringBitmap;
use std::cmp::Ordering;
use work::Work;

/// Of series that are new.
const NO_RANK: u32 = u32::MAX;
/// New series are worked in once there are so many, or a part of those that are sorted,
const MIN_NEW: usize = 256;
const NEW_PART: usize = 8;
/// but no later than with so many: sorting these takes some 50 ms.
const MOST_NEW: usize = 64 << 10;

/// How much one slice does at most: some milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice {
    /// Series that are sorted,
    pub(super) sorted: usize,
    /// or put from sorted lists into one.
    pub(super) merged: usize,
}

impl Default for Slice {
    fn default() -> Self {
        Self {
            sorted: 4 << 10,
            merged: 32 << 10,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Order {
    /// Of each ordinal; what is there of one that is gone counts for nothing.
    rank: Vec<u32>,
    /// Entries of series that are gone are left until the next time.
    sorted: Vec<Ordinal>,
    /// Series without a rank, and some that are gone, beside those that are being worked in.
    new: Vec<Ordinal>,
    work: Option<Work>,
    /// How many of the new ones were sorted for one query or another since any were worked in.
    sorted_alone: usize,
}

impl Order {
    pub(super) fn insert(&mut self, ordinal: Ordinal) {
        let at = ordinal as usize;
        if self.rank.len() <= at {
            self.rank.resize(at + 1, NO_RANK);
        }
        self.rank[at] = NO_RANK;
        self.new.push(ordinal);
        if self.new.len() > 2 * self.rank.len() + MIN_NEW {
            // Series come and go and nobody asks.
            self.new.sort_unstable();
            self.new.dedup();
        }
    }

    pub(super) fn remove(&mut self, ordinal: Ordinal) {
        if let Some(rank) = self.rank.get_mut(ordinal as usize) {
            *rank = NO_RANK;
        }
        if let Some(work) = &mut self.work {
            work.remove(ordinal);
        }
    }

    /// Memory of it, in bytes.
    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> usize {
        (self.rank.capacity() + self.sorted.capacity() + self.new.capacity()) * size_of::<Ordinal>()
    }

    fn rank_of(&self, ordinal: Ordinal) -> Option<u32> {
        let rank = *self.rank.get(ordinal as usize)?;
        (rank != NO_RANK).then_some(rank)
    }

    /// Whether who wants so many had better have the new ones worked in before. Who wants few of many new ones sorts those
    /// alone, until that has been as much work as sorting all.
    pub(super) fn is_due(&self, wanted: u64) -> bool {
        let new = self.new.len() + self.work.as_ref().map_or(0, Work::series);
        let most_new = MIN_NEW.max((self.sorted.len() / NEW_PART).min(MOST_NEW));
        let wants_many = wanted > (new / NEW_PART).min(MOST_NEW) as u64;
        new > most_new && (wants_many || self.sorted_alone > new)
    }

    /// Works in a slice of the new series; whether that was the last one. `compare` tells the order of any two that are
    /// there (`is_there`).
    pub(super) fn work_in(
        &mut self,
        slice: Slice,
        is_there: impl Fn(Ordinal) -> bool,
        compare: impl Fn(Ordinal, Ordinal) -> Ordering,
    ) -> bool {
        let mut work = match self.work.take() {
            Some(work) => work,
            None => Work::begin(std::mem::take(&mut self.new), self.rank.len()),
        };
        self.sorted_alone = 0;
        let is_new = |ordinal| is_there(ordinal) && self.rank_of(ordinal).is_none();
        let is_done = work.sort(slice.sorted, is_new, &compare)
            && work.join(slice.merged, &compare)
            && work.merge(slice.merged, &self.sorted, &self.rank, &compare);
        if !is_done {
            self.work = Some(work);
            return false;
        }
        let ranks = self.rank.len();
        (self.sorted, self.rank) = work.done();
        self.rank.resize(ranks, NO_RANK);
        true
    }

    /// These series in the order of their labels.
    pub(super) fn of(
        &mut self,
        wanted: &RoaringBitmap,
        compare: impl Fn(Ordinal, Ordinal) -> Ordering,
    ) -> Vec<Ordinal> {
        let mut ranks = Vec::with_capacity(usize::try_from(wanted.len()).unwrap_or(0));
        let mut new = Vec::new();
        for ordinal in wanted {
            match self.rank_of(ordinal) {
                Some(rank) => ranks.push(rank),
                None => new.push(ordinal),
            }
        }
        self.sorted_alone += new.len();
        sort_ranks(&mut ranks, self.sorted.len());
        new.sort_unstable_by(|a, b| compare(*a, *b));
        let mut out = Vec::with_capacity(ranks.len() + new.len());
        let mut rest = &ranks[..];
        for new in new {
            let before = rest.partition_point(|rank| compare(self.sorted[*rank as usize], new).is_lt());
            out.extend(rest[..before].iter().map(|rank| self.sorted[*rank as usize]));
            out.push(new);
            rest = &rest[before..];
        }
        out.extend(rest.iter().map(|rank| self.sorted[*rank as usize]));
        out
    }
}

/// Sorts distinct numbers below `end`.
fn sort_ranks(ranks: &mut Vec<u32>, end: usize) {
    if ranks.len() < end / 64 {
        ranks.sort_unstable();
        return;
    }
    let mut bits = vec![0_u64; end.div_ceil(64)];
    for rank in &*ranks {
        bits[*rank as usize / 64] |= 1 << (rank % 64);
    }
    ranks.clear();
    for (word, mut left) in (0_u32..).zip(bits) {
        while left != 0 {
            ranks.push(word * 64 + left.trailing_zeros());
            left &= left - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::collections::btree_map::Entry;

    #[derive(Clone, Debug)]
    enum Step {
        Add(u32, u16),
        Remove(u32),
        Work(usize),
        Ask(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            12 => (0..3000_u32, any::<u16>()).prop_map(|(ordinal, label)| Step::Add(ordinal, label)),
            4 => (0..3000_u32).prop_map(Step::Remove),
            1 => (0..40_usize).prop_map(Step::Work),
            1 => any::<u64>().prop_map(Step::Ask),
        ]
    }

    const SMALL: Slice = Slice { sorted: 7, merged: 11 };

    /// One slice; no comparison may be with what is not there.
    fn work(order: &mut Order, there: &BTreeMap<Ordinal, (u16, Ordinal)>) -> bool {
        order.work_in(SMALL, |o| there.contains_key(&o), |a, b| there[&a].cmp(&there[&b]))
    }

    #[test]
    fn a_slice_does_no_more_than_it_may() {
        let mut order = Order::default();
        // Some that are sorted already, and many more that are new.
        for ordinal in 0..1_000 {
            order.insert(ordinal);
        }
        let key = |ordinal: Ordinal| ordinal.wrapping_mul(2_654_435_761);
        let compared = std::cell::Cell::new(0_usize);
        let compare = |a: Ordinal, b: Ordinal| {
            compared.set(compared.get() + 1);
            key(a).cmp(&key(b))
        };
        let slice = Slice {
            sorted: 64,
            merged: 512,
        };
        while !order.work_in(slice, |_| true, compare) {}
        for ordinal in 1_000..20_000 {
            order.insert(ordinal);
        }
        let all: RoaringBitmap = (0..20_000).collect();
        assert!(order.is_due(all.len()));
        let mut slices = 0;
        loop {
            compared.set(0);
            let is_done = order.work_in(slice, |_| true, compare);
            // Sorting 64 takes some 64 times 6 comparisons.
            assert!(compared.get() <= 600, "{} comparisons", compared.get());
            slices += 1;
            if is_done {
                break;
            }
        }
        assert!(slices > 300, "{slices} slices");
        assert!(!order.is_due(all.len()));
        compared.set(0);
        let sorted = order.of(&all, compare);
        assert_eq!(compared.get(), 0, "nothing is left to be sorted");
        assert!(sorted.is_sorted_by_key(|ordinal| key(*ordinal)) && sorted.len() == 20_000);
    }

    #[test]
    fn few_of_many_new_ones_are_not_waited_for() {
        let mut order = Order::default();
        for ordinal in 0..10_000 {
            order.insert(ordinal);
        }
        assert!(!order.is_due(1_000) && order.is_due(2_000));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn series_come_in_order_whatever_came_and_went(steps in prop::collection::vec(step(), 1..4000)) {
            let mut order = Order::default();
            let mut there: BTreeMap<Ordinal, (u16, Ordinal)> = BTreeMap::new();
            for step in steps.into_iter().chain([Step::Ask(0), Step::Ask(u64::MAX)]) {
                match step {
                    Step::Add(ordinal, label) => {
                        if let Entry::Vacant(free) = there.entry(ordinal) {
                            free.insert((label, ordinal));
                            order.insert(ordinal);
                        }
                    }
                    Step::Remove(ordinal) => {
                        if there.remove(&ordinal).is_some() {
                            order.remove(ordinal);
                        }
                    }
                    // Series come and go between slices.
                    Step::Work(slices) => {
                        for _ in 0..slices {
                            work(&mut order, &there);
                        }
                    }
                    Step::Ask(mask) => {
                        let wanted: RoaringBitmap =
                            there.keys().copied().filter(|o| mask >> (o % 64) & 1 == 1).collect();
                        let mut expected: Vec<Ordinal> = wanted.iter().collect();
                        expected.sort_by_key(|o| there[o]);
                        while mask % 3 > 0 && order.is_due(wanted.len()) {
                            work(&mut order, &there);
                        }
                        let found = order.of(&wanted, |a, b| there[&a].cmp(&there[&b]));
                        prop_assert_eq!(found, expected);
                    }
                }
            }
        }
    }
}
