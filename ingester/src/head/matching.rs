//! Which series satisfy a set of matchers.
//!
//! Matchers that the empty value satisfies can only take series away; the others are intersected, cheapest first, so
//! that an expression is run over a label's values only where that is less work than over the series that are left.

use super::Stop;
use super::index::{LabelIndex, Ordinal, PairId, Postings};
use gnomon_model::{MatchOp, Matcher};
use roaring::RoaringBitmap;

impl LabelIndex {
    /// Series that satisfy all matchers; all series where there are none. `pairs_of` gives a series' label pairs. Any
    /// series where `stop` is set meanwhile.
    pub(crate) fn select<'a>(
        &'a self,
        matchers: &[Matcher],
        stop: &Stop,
        pairs_of: impl Fn(Ordinal) -> &'a [PairId],
    ) -> RoaringBitmap {
        let (taking, keeping): (Vec<_>, Vec<_>) = matchers.iter().partition(|m| m.matches_empty());
        let mut listed = Vec::new();
        let mut scanned = Vec::new();
        for matcher in keeping {
            match self.listed(matcher) {
                Some(ids) => listed.push(ids),
                None => scanned.push(matcher),
            }
        }
        let size = |ids: &Vec<PairId>| {
            ids.iter()
                .filter_map(|id| self.postings(*id))
                .map(Postings::len)
                .sum::<u64>()
        };
        listed.sort_by_cached_key(size);
        let mut left: Option<RoaringBitmap> = None;
        for ids in listed {
            let set = self.union(ids.iter().copied());
            let narrowed = left.map_or_else(|| set.clone(), |left| left & &set);
            if narrowed.is_empty() {
                return narrowed;
            }
            left = Some(narrowed);
        }
        scanned.sort_by_cached_key(|m| self.pairs_of(m.name()).len());
        for matcher in scanned {
            left = Some(self.keep(left, matcher, stop, &pairs_of));
        }
        let mut left = left.unwrap_or_else(|| self.all().clone());
        for matcher in taking {
            if left.is_empty() {
                break;
            }
            self.take_away(&mut left, matcher, stop, &pairs_of);
        }
        left
    }

    /// How many series may satisfy all matchers, by those that name values; none where no matcher does. Takes little time.
    pub(crate) fn most(&self, matchers: &[Matcher]) -> Option<u64> {
        let narrow = matchers.iter().filter(|m| !m.matches_empty());
        let series = |ids: Vec<PairId>| ids.iter().filter_map(|id| self.postings(*id)).map(Postings::len).sum();
        narrow.filter_map(|m| self.listed(m)).map(series).min()
    }

    /// The pairs a matcher names outright; none where its expression has to be run.
    fn listed(&self, matcher: &Matcher) -> Option<Vec<PairId>> {
        match matcher.op() {
            MatchOp::Equal => Some(self.find(matcher.name(), matcher.value()).into_iter().collect()),
            MatchOp::Regex => {
                let values = matcher.literal_alternatives()?;
                let mut ids: Vec<_> = values.iter().filter_map(|v| self.find(matcher.name(), v)).collect();
                ids.sort_unstable();
                ids.dedup();
                Some(ids)
            }
            MatchOp::NotEqual | MatchOp::NotRegex => None,
        }
    }

    fn union(&self, ids: impl Iterator<Item = PairId>) -> RoaringBitmap {
        let mut out = RoaringBitmap::new();
        for postings in ids.filter_map(|id| self.postings(id)) {
            postings.add_to(&mut out);
        }
        out
    }

    fn matching<'a>(&'a self, matcher: &'a Matcher, stop: &'a Stop, wanted: bool) -> impl Iterator<Item = PairId> + 'a {
        let mut scan = matcher.scan();
        let matches = move |id: &PairId| scan.matches(self.text(*id).1) == wanted;
        let pairs = self.pairs_of(matcher.name()).iter().copied();
        pairs.take_while(|_| !stop.is_set()).filter(matches)
    }

    fn keep<'a>(
        &'a self,
        left: Option<RoaringBitmap>,
        matcher: &Matcher,
        stop: &Stop,
        pairs_of: &impl Fn(Ordinal) -> &'a [PairId],
    ) -> RoaringBitmap {
        let mut scan = matcher.scan();
        match left {
            Some(left) if left.len() < self.pairs_of(matcher.name()).len() as u64 => left
                .iter()
                .take_while(|_| !stop.is_set())
                .filter(|o| scan.matches(self.value_of(pairs_of(*o), matcher.name())))
                .collect(),
            Some(left) => left & self.union(self.matching(matcher, stop, true)),
            None => self.union(self.matching(matcher, stop, true)),
        }
    }

    fn take_away<'a>(
        &'a self,
        left: &mut RoaringBitmap,
        matcher: &Matcher,
        stop: &Stop,
        pairs_of: &impl Fn(Ordinal) -> &'a [PairId],
    ) {
        if matcher.op() == MatchOp::NotEqual {
            let pair = self.find(matcher.name(), matcher.value());
            if let Some(postings) = pair.and_then(|id| self.postings(id)) {
                postings.remove_from(left);
            }
        } else if left.len() < self.pairs_of(matcher.name()).len() as u64 {
            let mut scan = matcher.scan();
            *left = left
                .iter()
                .take_while(|_| !stop.is_set())
                .filter(|o| scan.matches(self.value_of(pairs_of(*o), matcher.name())))
                .collect();
        } else {
            *left -= self.union(self.matching(matcher, stop, false));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::{Labels, LabelsBuilder};
    use proptest::prelude::*;

    struct Table {
        index: LabelIndex,
        series: Vec<(Labels, Option<Box<[PairId]>>)>,
    }

    impl Table {
        fn of(sets: Vec<Labels>) -> Self {
            let mut index = LabelIndex::new();
            let mut series = Vec::new();
            for (i, labels) in sets.into_iter().enumerate() {
                let alike = series
                    .last()
                    .and_then(|(_, pairs): &(Labels, Option<Box<[PairId]>>)| pairs.as_deref());
                let pairs = index.insert(i as u32, labels.as_ref(), alike.unwrap_or_default());
                series.push((labels, Some(pairs)));
            }
            Self { index, series }
        }

        fn select(&self, matchers: &[Matcher]) -> Vec<u32> {
            let pairs_of = |o: Ordinal| self.series[o as usize].1.as_deref().unwrap();
            self.index.select(matchers, &Stop::default(), pairs_of).iter().collect()
        }

        fn naive(&self, matchers: &[Matcher]) -> Vec<u32> {
            let fits = |l: &Labels| matchers.iter().all(|m| m.matches_labels(l.as_ref()));
            let there = self
                .series
                .iter()
                .enumerate()
                .filter(|(_, (l, p))| p.is_some() && fits(l));
            there.map(|(i, _)| i as u32).collect()
        }

        fn remove(&mut self, ordinal: u32) {
            if let Some(pairs) = self.series[ordinal as usize].1.take() {
                self.index.remove(ordinal, &pairs);
            }
        }
    }

    fn labels() -> impl Strategy<Value = Labels> {
        proptest::collection::vec((0..4usize, 0..5usize), 0..4).prop_map(|pairs| {
            let mut builder = LabelsBuilder::default();
            for (name, value) in pairs {
                builder.set(["a", "b", "c", "d"][name], ["", "x", "y", "xy", "z1"][value]);
            }
            builder.build()
        })
    }

    fn matcher() -> impl Strategy<Value = Matcher> {
        (0..5usize, 0..4usize, 0..7usize).prop_map(|(name, op, value)| {
            let op = [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex][op];
            let value = ["", "x", "y", "x|y", ".*", "x.*", ".+"][value];
            Matcher::new(["a", "b", "c", "d", "nowhere"][name], op, value).unwrap()
        })
    }

    proptest! {
        #[test]
        fn selection_is_what_checking_every_series_gives(
            sets in proptest::collection::vec(labels(), 0..40),
            matchers in proptest::collection::vec(matcher(), 0..4),
            gone in proptest::collection::vec(0..40u32, 0..20),
        ) {
            let mut table = Table::of(sets);
            prop_assert_eq!(table.select(&matchers), table.naive(&matchers));
            for ordinal in gone {
                if (ordinal as usize) < table.series.len() {
                    table.remove(ordinal);
                }
            }
            prop_assert_eq!(table.select(&matchers), table.naive(&matchers));
        }
    }

    #[test]
    fn pairs_go_with_their_last_series() {
        let mut table = Table::of(vec![
            Labels::from_pairs([("a", "1"), ("b", "2")]),
            Labels::from_pairs([("a", "1")]),
        ]);
        table.remove(0);
        assert_eq!(table.index.pair_count(), 1);
        assert!(table.index.find("b", "2").is_none());
        table.remove(1);
        assert_eq!(table.index.pair_count(), 0);
        assert_eq!(table.index.names().count(), 0);
    }
}
