//! Label pairs of a head: each `(name, value)` is stored once, with the series that carry it.
//!
//! Invariant: a pair is there exactly as long as a series carries it. Numbers of names, pairs and series are this
//! process' own and never leave it.

use gnomon_model::LabelsRef;
use gnomon_model::labels::put_uvarint;
use hashbrown::HashTable;
use roaring::RoaringBitmap;
use std::cmp::Ordering;
use std::collections::HashMap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The place of a series in its head's table; reused after the series is gone.
pub(crate) type Ordinal = u32;
/// The place of a label pair in the index.
pub(crate) type PairId = u32;

/// Most series that come have a greater ordinal than all others.
fn insert(set: &mut RoaringBitmap, ordinal: Ordinal) {
    if set.try_push(ordinal).is_err() {
        set.insert(ordinal);
    }
}

/// Series that carry one pair. Most pairs of unique values have one series, which needs no bitmap.
#[derive(Debug)]
pub(crate) enum Postings {
    One(Ordinal),
    Many(Box<RoaringBitmap>),
}

impl Postings {
    fn insert(&mut self, ordinal: Ordinal) {
        match self {
            Self::One(only) if *only == ordinal => {}
            Self::One(only) => *self = Self::Many(Box::new(RoaringBitmap::from_iter([*only, ordinal]))),
            Self::Many(set) => insert(set, ordinal),
        }
    }

    /// Whether nothing is left.
    fn remove(&mut self, ordinal: Ordinal) -> bool {
        match self {
            Self::One(only) => *only == ordinal,
            Self::Many(set) => {
                set.remove(ordinal);
                set.is_empty()
            }
        }
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::One(_) => 1,
            Self::Many(set) => set.len(),
        }
    }

    pub(crate) fn add_to(&self, out: &mut RoaringBitmap) {
        match self {
            Self::One(only) => {
                out.insert(*only);
            }
            Self::Many(set) => *out |= set.as_ref(),
        }
    }

    pub(crate) fn remove_from(&self, out: &mut RoaringBitmap) {
        match self {
            Self::One(only) => {
                out.remove(*only);
            }
            Self::Many(set) => *out -= set.as_ref(),
        }
    }

    /// How many of `set` are among them.
    pub(crate) fn common(&self, set: &RoaringBitmap) -> u64 {
        match self {
            Self::One(only) => u64::from(set.contains(*only)),
            Self::Many(many) => many.intersection_len(set),
        }
    }

    pub(crate) fn intersects(&self, set: &RoaringBitmap) -> bool {
        match self {
            Self::One(only) => set.contains(*only),
            Self::Many(many) => !many.is_disjoint(set),
        }
    }
}

#[derive(Debug)]
struct Pair {
    name: u32,
    /// Where the pair stands in its name's list.
    place: u32,
    value: Box<str>,
    series: Postings,
}

#[derive(Debug)]
struct Name {
    text: Box<str>,
    pairs: Vec<PairId>,
}

/// Odd, with bits everywhere: a product has what a factor says in its upper half.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The pairs, by name and value.
#[derive(Debug)]
pub(crate) struct LabelIndex {
    names: Vec<Name>,
    name_numbers: HashMap<Box<str>, u32>,
    free_names: Vec<u32>,
    pairs: Vec<Option<Pair>>,
    free: Vec<PairId>,
    lookup: HashTable<PairId>,
    all: RoaringBitmap,
    /// Random, so that nobody outside can choose texts that collide.
    seed: u64,
}

impl LabelIndex {
    pub(crate) fn new() -> Self {
        Self {
            names: Vec::new(),
            name_numbers: HashMap::new(),
            free_names: Vec::new(),
            pairs: Vec::new(),
            free: Vec::new(),
            lookup: HashTable::new(),
            all: RoaringBitmap::new(),
            seed: rand::random(),
        }
    }

    fn hash(seed: u64, name: u32, value: &str) -> u64 {
        xxh3_64_with_seed(value.as_bytes(), seed ^ (u64::from(name) << 32))
    }

    /// Of the pairs of a series: no text is looked at.
    pub(crate) fn hash_pairs(&self, pairs: &[PairId]) -> u64 {
        pairs.iter().fold(self.seed, |hash, pair| {
            let mixed = (hash ^ u64::from(*pair)).wrapping_mul(SPREAD);
            mixed ^ (mixed >> 32)
        })
    }

    /// The pairs of labels; none where one of them is not there, so that no series has them all.
    pub(crate) fn find_pairs(&self, labels: LabelsRef<'_>) -> Option<Vec<PairId>> {
        labels.iter().map(|(name, value)| self.find(name, value)).collect()
    }

    pub(crate) fn find(&self, name: &str, value: &str) -> Option<PairId> {
        let name = *self.name_numbers.get(name)?;
        self.find_in(name, value)
    }

    fn find_in(&self, name: u32, value: &str) -> Option<PairId> {
        let same = |id: &PairId| self.pair(*id).is_some_and(|p| p.name == name && *p.value == *value);
        self.lookup.find(Self::hash(self.seed, name, value), same).copied()
    }

    fn pair(&self, id: PairId) -> Option<&Pair> {
        self.pairs.get(id as usize)?.as_ref()
    }

    /// Name and value of a pair.
    pub(crate) fn text(&self, id: PairId) -> (&str, &str) {
        self.pair(id).map_or(("", ""), |pair| {
            let name = self.names.get(pair.name as usize).map_or("", |n| &n.text);
            (name, &pair.value)
        })
    }

    pub(crate) fn postings(&self, id: PairId) -> Option<&Postings> {
        self.pair(id).map(|p| &p.series)
    }

    /// Every series there is.
    pub(crate) fn all(&self) -> &RoaringBitmap {
        &self.all
    }

    /// The pairs of one name, in no order.
    pub(crate) fn pairs_of(&self, name: &str) -> &[PairId] {
        self.name_numbers
            .get(name)
            .and_then(|n| self.names.get(*n as usize))
            .map_or(&[], |n| &n.pairs)
    }

    /// Names that some series carries, in no order, each with its pairs.
    pub(crate) fn names(&self) -> impl Iterator<Item = (&str, &[PairId])> {
        self.names
            .iter()
            .filter(|n| !n.pairs.is_empty())
            .map(|n| (&*n.text, &*n.pairs))
    }

    /// Memory of texts and tables, and of postings, in bytes.
    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> [usize; 2] {
        let pairs = || self.pairs.iter().flatten();
        let tables = self.pairs.capacity() * size_of::<Option<Pair>>() + self.lookup.allocation_size();
        let texts: usize = pairs().map(|pair| pair.value.len() + 16).sum();
        let sets = pairs().map(|pair| match &pair.series {
            Postings::One(_) => 0,
            Postings::Many(set) => set.serialized_size(),
        });
        [tables + texts, sets.sum::<usize>() + self.all.serialized_size()]
    }

    pub(crate) fn pair_count(&self) -> usize {
        self.lookup.len()
    }

    /// Enters a series; its pairs come back in the order of the labels. `alike` are those of a series that may have many
    /// of the same in the same places, as the one before has: what it shares is not looked up.
    pub(crate) fn insert(&mut self, ordinal: Ordinal, labels: LabelsRef<'_>, alike: &[PairId]) -> Box<[PairId]> {
        insert(&mut self.all, ordinal);
        let mut pairs = Vec::with_capacity(alike.len());
        for (at, (name, value)) in labels.iter().enumerate() {
            let shared = alike.get(at).filter(|id| self.text(**id) == (name, value));
            pairs.push(match shared {
                Some(id) => self.add_to_pair(ordinal, *id),
                None => self.insert_pair(ordinal, name, value),
            });
        }
        pairs.into()
    }

    fn add_to_pair(&mut self, ordinal: Ordinal, id: PairId) -> PairId {
        if let Some(Some(pair)) = self.pairs.get_mut(id as usize) {
            pair.series.insert(ordinal);
        }
        id
    }

    fn name_number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.name_numbers.get(name) {
            return *number;
        }
        let entry = Name {
            text: name.into(),
            pairs: Vec::new(),
        };
        let number = match self.free_names.pop() {
            Some(number) => {
                self.names[number as usize] = entry;
                number
            }
            None => {
                self.names.push(entry);
                self.names.len() as u32 - 1
            }
        };
        self.name_numbers.insert(name.into(), number);
        number
    }

    fn insert_pair(&mut self, ordinal: Ordinal, name: &str, value: &str) -> PairId {
        let name = self.name_number(name);
        if let Some(id) = self.find_in(name, value) {
            return self.add_to_pair(ordinal, id);
        }
        let list = &mut self.names[name as usize].pairs;
        let pair = Pair {
            name,
            place: list.len() as u32,
            value: value.into(),
            series: Postings::One(ordinal),
        };
        let id = match self.free.pop() {
            Some(id) => id,
            None => {
                self.pairs.push(None);
                self.pairs.len() as u32 - 1
            }
        };
        list.push(id);
        self.pairs[id as usize] = Some(pair);
        let (seed, pairs) = (self.seed, &self.pairs);
        let rehash = |id: &PairId| {
            pairs[*id as usize]
                .as_ref()
                .map_or(0, |p| Self::hash(seed, p.name, &p.value))
        };
        self.lookup.insert_unique(Self::hash(seed, name, value), id, rehash);
        id
    }

    /// Takes a series out.
    pub(crate) fn remove(&mut self, ordinal: Ordinal, pairs: &[PairId]) {
        self.all.remove(ordinal);
        for id in pairs {
            let Some(Some(pair)) = self.pairs.get_mut(*id as usize) else {
                continue;
            };
            if pair.series.remove(ordinal) {
                self.remove_pair(*id);
            }
        }
    }

    fn remove_pair(&mut self, id: PairId) {
        let Some(pair) = self.pairs.get_mut(id as usize).and_then(Option::take) else {
            return;
        };
        let hash = Self::hash(self.seed, pair.name, &pair.value);
        if let Ok(entry) = self.lookup.find_entry(hash, |other| *other == id) {
            entry.remove();
        }
        let list = &mut self.names[pair.name as usize].pairs;
        list.swap_remove(pair.place as usize);
        let now_empty = list.is_empty();
        if let Some(moved) = list.get(pair.place as usize)
            && let Some(Some(moved)) = self.pairs.get_mut(*moved as usize)
        {
            moved.place = pair.place;
        }
        if now_empty {
            let name = std::mem::take(&mut self.names[pair.name as usize].text);
            self.name_numbers.remove(&name);
            self.free_names.push(pair.name);
        }
        self.free.push(id);
    }

    /// Appends the canonical bytes of a series' labels.
    pub(crate) fn write_labels(&self, pairs: &[PairId], out: &mut Vec<u8>) {
        for id in pairs {
            let (name, value) = self.text(*id);
            for text in [name, value] {
                put_uvarint(out, text.len() as u64);
                out.extend_from_slice(text.as_bytes());
            }
        }
    }

    /// The canonical bytes of those of a series' labels whose names are in `names`.
    pub(crate) fn labels_of_group(&self, pairs: &[PairId], names: &[String]) -> Vec<u8> {
        let listed = |id: &PairId| names.iter().any(|name| name == self.text(*id).0);
        let kept: Vec<PairId> = pairs.iter().copied().filter(listed).collect();
        let mut out = Vec::new();
        self.write_labels(&kept, &mut out);
        out
    }

    /// Which of two series' labels come first, in the order of [`LabelsRef`].
    pub(crate) fn compare(&self, a: &[PairId], b: &[PairId]) -> Ordering {
        match a.iter().zip(b).find(|(a, b)| a != b) {
            Some((a, b)) => self.text(*a).cmp(&self.text(*b)),
            None => a.len().cmp(&b.len()),
        }
    }

    /// The value of a label of a series, or the empty text.
    pub(crate) fn value_of(&self, pairs: &[PairId], name: &str) -> &str {
        pairs
            .iter()
            .map(|id| self.text(*id))
            .find(|(n, _)| *n == name)
            .map_or("", |(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn hashes_of_pairs_are_spread() {
        let index = LabelIndex::new();
        let (mut whole, mut low, mut high) = (HashSet::new(), HashSet::new(), HashSet::new());
        for number in 0..100_000_u32 {
            // As series of targets have them: most pairs are those of many others.
            let hash = index.hash_pairs(&[number % 1_000, 2_000 + number % 8, 3_000 + number / 1_000, 4_000]);
            whole.insert(hash);
            low.insert(hash % (1 << 17));
            high.insert(hash >> 57);
        }
        // Random ones would be in some 70,000 of the 131,072 places.
        assert_eq!((whole.len(), high.len()), (100_000, 128));
        assert!(low.len() > 60_000, "{} places", low.len());
    }
}
