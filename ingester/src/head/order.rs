//! The order of a head's series by their labels, so that what a query selects need not be sorted.
//!
//! It is brought up to date by who asks for it: series that came since are few mostly, and are sorted by themselves.
//! Invariant: `sorted[rank[ordinal]] == ordinal` exactly for the series that have a rank.

use super::Ordinal;
use roaring::RoaringBitmap;
use std::cmp::Ordering;

/// Of series that are new.
const NO_RANK: u32 = u32::MAX;
/// New series are worked in once there are so many, or a part of those that are sorted.
const MIN_NEW: usize = 256;
const NEW_PART: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Order {
    /// Of each ordinal; what is there of one that is gone counts for nothing.
    rank: Vec<u32>,
    /// Entries of series that are gone are left until the next time.
    sorted: Vec<Ordinal>,
    /// Series without a rank, and some that are gone.
    new: Vec<Ordinal>,
    /// How many of them were sorted for one query or another since they were worked in the last time.
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
    }

    fn rank_of(&self, ordinal: Ordinal) -> Option<u32> {
        let rank = *self.rank.get(ordinal as usize)?;
        (rank != NO_RANK).then_some(rank)
    }

    /// These series in the order of their labels, which `compare` tells for any two that are there (`is_there`).
    pub(super) fn of(
        &mut self,
        wanted: &RoaringBitmap,
        is_there: impl Fn(Ordinal) -> bool,
        compare: impl Fn(Ordinal, Ordinal) -> Ordering,
    ) -> Vec<Ordinal> {
        // Who wants few of many new ones sorts those alone, until that has been as much work as sorting all.
        let is_due = self.new.len() > MIN_NEW.max(self.sorted.len() / NEW_PART);
        let wants_many = wanted.len() > (self.new.len() / NEW_PART) as u64;
        if is_due && (wants_many || self.sorted_alone > self.new.len()) {
            self.work_in(is_there, &compare);
        }
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

    /// Gives every series that is there a rank.
    fn work_in(&mut self, is_there: impl Fn(Ordinal) -> bool, compare: impl Fn(Ordinal, Ordinal) -> Ordering) {
        let mut new = std::mem::take(&mut self.new);
        self.sorted_alone = 0;
        new.retain(|ordinal| is_there(*ordinal) && self.rank_of(*ordinal).is_none());
        // One that went and came again is in it twice.
        new.sort_unstable();
        new.dedup();
        new.sort_unstable_by(|a, b| compare(*a, *b));
        let mut old = std::mem::take(&mut self.sorted);
        // All of them before any rank is given: an ordinal that is used again may be given the one of its old entry.
        let mut ranks = 0..;
        old.retain(|ordinal| self.rank_of(*ordinal) == ranks.next());
        self.sorted.reserve_exact(old.len() + new.len());
        let mut new = new.into_iter().peekable();
        for ordinal in old {
            while let Some(before) = new.next_if(|new| compare(*new, ordinal).is_lt()) {
                self.push(before);
            }
            self.push(ordinal);
        }
        new.for_each(|ordinal| self.push(ordinal));
    }

    fn push(&mut self, ordinal: Ordinal) {
        self.rank[ordinal as usize] = self.sorted.len() as u32;
        self.sorted.push(ordinal);
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
        Ask(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            12 => (0..3000_u32, any::<u16>()).prop_map(|(ordinal, label)| Step::Add(ordinal, label)),
            4 => (0..3000_u32).prop_map(Step::Remove),
            1 => any::<u64>().prop_map(Step::Ask),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
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
                    Step::Ask(mask) => {
                        let wanted: RoaringBitmap =
                            there.keys().copied().filter(|o| mask >> (o % 64) & 1 == 1).collect();
                        let mut expected: Vec<Ordinal> = wanted.iter().collect();
                        expected.sort_by_key(|o| there[o]);
                        let found = order.of(
                            &wanted,
                            |o| there.contains_key(&o),
                            |a, b| there[&a].cmp(&there[&b]),
                        );
                        prop_assert_eq!(found, expected);
                    }
                }
            }
        }
    }
}
