//! What is known of a target's series from the scrapes before: exposed text -> final labels. In the steady state a
//! sample costs a hash and a comparison, since exporters say their series in the same order each time; labels are neither
//! parsed nor relabelled.
//!
//! Invariant: a key stands for one final label set as long as the options of the job do not change; the owner makes a
//! new cache when they do.

use crate::parse::TextKey;
use gnomon_cluster::router::{LabelSource, SeriesIdentity, TickMemo};
use gnomon_model::{Labels, LabelsRef};
use hashbrown::{HashMap, HashTable};
use std::hash::{BuildHasherDefault, Hasher};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// Keys are hashes already.
#[derive(Default)]
pub(super) struct Folded(u64);

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

type ByHash<V> = HashMap<u128, V, BuildHasherDefault<Folded>>;

/// In place of a series: relabelling dropped it.
const DROPPED: u32 = u32::MAX;

/// An exposed series.
#[derive(Clone, Copy)]
struct Text {
    /// Of its key. Keys are compared by these 128 bits alone.
    hash: u128,
    /// Of its key.
    bytes: u32,
    /// Or [`DROPPED`].
    series: u32,
    /// The last round in which it was exposed.
    round: u32,
}

struct Series {
    /// None in a slot that is free.
    labels: Option<Labels>,
    identity: SeriesIdentity,
    round: u32,
    /// Hash of when it began, as it was noted last.
    created: u32,
    /// Hash of the last exemplar sent.
    exemplar: u64,
}

/// What the cache says of an exposed series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Unknown,
    Dropped,
    Series(SeriesHit),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SeriesHit {
    pub(super) series: u32,
    pub(super) identity: SeriesIdentity,
    /// This round had it already, under this text or another.
    pub(super) again: bool,
    /// It was not known before this round.
    pub(super) new: bool,
}

#[derive(Default)]
pub(super) struct SeriesCache {
    /// In the order in which they were exposed first.
    texts: Vec<Text>,
    by_key: HashTable<u32>,
    /// The text after the one that was seen last.
    expected: usize,
    by_identity: ByHash<u32>,
    series: Vec<Series>,
    free: Vec<u32>,
    /// Slots at the front that are never let go: the report series.
    fixed: usize,
    round: u32,
    seen: usize,
    /// Texts in the last round that was whole.
    whole: usize,
    /// Where the series are.
    memo: TickMemo,
}

/// A cache may grow by this much before a refused scrape makes it forget.
const SLACK: usize = 1000;

impl SeriesCache {
    /// `fixed` are series that do not come from the exposition; their numbers are their indices.
    pub(super) fn new(fixed: Vec<Labels>) -> Self {
        let mut cache = Self {
            fixed: fixed.len(),
            ..Self::default()
        };
        for labels in fixed {
            let identity = xxh3_128(labels.as_bytes());
            cache.series.push(Series {
                labels: Some(labels),
                identity,
                round: 0,
                created: 0,
                exemplar: 0,
            });
        }
        cache
    }

    pub(super) fn fixed_identity(&self, series: u32) -> SeriesIdentity {
        self.series.get(series as usize).map_or(0, |s| s.identity)
    }

    /// Series and dropped texts.
    pub(super) fn len(&self) -> usize {
        self.texts.len()
    }

    /// A scrape begins.
    pub(super) fn begin_round(&mut self) {
        self.expected = 0;
        self.round = self.round.wrapping_add(1);
        self.seen = 0;
    }

    /// What came after the text that was seen last, when it was exposed first: most often it does so again.
    #[inline]
    pub(super) fn likely(&self) -> Option<TextKey> {
        self.texts.get(self.expected).map(|text| TextKey {
            hash: text.hash,
            bytes: text.bytes,
        })
    }

    #[inline]
    pub(super) fn see(&mut self, key: TextKey) -> Seen {
        let Some(at) = self.place(key) else {
            return Seen::Unknown;
        };
        self.expected = at + 1;
        let text = &mut self.texts[at];
        if text.round != self.round {
            text.round = self.round;
            self.seen += 1;
        }
        if text.series == DROPPED {
            return Seen::Dropped;
        }
        let series = text.series;
        Seen::Series(self.touch(series))
    }

    #[inline]
    fn place(&self, key: TextKey) -> Option<usize> {
        let is = |at: usize| self.texts.get(at).is_some_and(|text| text.hash == key.hash);
        if is(self.expected) {
            return Some(self.expected);
        }
        self.by_key
            .find(key.hash as u64, |at| is(*at as usize))
            .map(|at| *at as usize)
    }

    fn touch(&mut self, number: u32) -> SeriesHit {
        let round = self.round;
        let series = &mut self.series[number as usize];
        let again = series.round == round;
        series.round = round;
        SeriesHit {
            series: number,
            identity: series.identity,
            again,
            new: false,
        }
    }

    /// Notes a text that is unknown. Without a number left it is not remembered.
    pub(super) fn insert_dropped(&mut self, key: TextKey) {
        let _ = self.insert_text(key, DROPPED);
    }

    #[must_use]
    fn insert_text(&mut self, key: TextKey, series: u32) -> Option<()> {
        let at = u32::try_from(self.texts.len()).ok()?;
        let round = self.round;
        self.texts.push(Text {
            hash: key.hash,
            bytes: key.bytes,
            series,
            round,
        });
        let texts = &self.texts;
        self.by_key.insert_unique(key.hash as u64, at, |at| hash_of(texts, *at));
        self.seen += 1;
        Some(())
    }

    /// Notes the final labels of a text that is unknown. None where there is no number left.
    pub(super) fn insert(&mut self, key: TextKey, labels: LabelsRef<'_>) -> Option<SeriesHit> {
        let identity = xxh3_128(labels.as_bytes());
        if let Some(&series) = self.by_identity.get(&identity) {
            self.insert_text(key, series)?;
            // As in Prometheus, a text is what is new.
            return Some(SeriesHit {
                new: true,
                ..self.touch(series)
            });
        }
        let made = Series {
            labels: Some(labels.to_owned()),
            identity,
            round: self.round,
            created: 0,
            exemplar: 0,
        };
        let series = match self.free.pop() {
            Some(slot) => {
                self.series[slot as usize] = made;
                slot
            }
            None => {
                let slot = u32::try_from(self.series.len()).ok().filter(|n| *n < DROPPED)?;
                self.series.push(made);
                slot
            }
        };
        self.by_identity.insert(identity, series);
        self.insert_text(key, series)?;
        Some(SeriesHit {
            series,
            identity,
            again: false,
            new: true,
        })
    }

    /// Whether the exemplar differs from the last one of the series.
    pub(super) fn note_exemplar(&mut self, series: u32, hash: u64) -> bool {
        match self.series.get_mut(series as usize) {
            Some(known) => std::mem::replace(&mut known.exemplar, hash) != hash,
            None => false,
        }
    }

    /// Whether the series began at another time than was noted last.
    pub(super) fn note_created(&mut self, series: u32, created_ms: i64) -> bool {
        let hash = xxh3_64(&created_ms.to_le_bytes()) as u32;
        match self.series.get_mut(series as usize) {
            Some(known) => std::mem::replace(&mut known.created, hash) != hash,
            None => false,
        }
    }

    /// The scrape was whole: what it did not have is forgotten.
    pub(super) fn end_round(&mut self) {
        self.forget_unseen();
        self.whole = self.texts.len();
    }

    /// The scrape was refused: what it lacks may well come again. But scrapes that are refused every time, with other
    /// series each, must not fill the memory.
    pub(super) fn abandon_round(&mut self) {
        if self.texts.len() > 2 * self.whole + SLACK {
            self.forget_unseen();
        }
    }

    fn forget_unseen(&mut self) {
        if self.seen == self.texts.len() {
            return;
        }
        let round = self.round;
        self.texts.retain(|text| text.round == round);
        self.by_key.clear();
        let texts = &self.texts;
        for (at, text) in (0..).zip(texts) {
            self.by_key
                .insert_unique(text.hash as u64, at, |at| hash_of(texts, *at));
        }
        for (number, series) in self.series.iter_mut().enumerate().skip(self.fixed) {
            if series.labels.is_some() && series.round != round {
                series.labels = None;
                self.by_identity.remove(&series.identity);
                self.free.push(number as u32);
            }
        }
        if self.texts.capacity() > 4 * self.texts.len() + 64 {
            let texts = &self.texts;
            self.by_key.shrink_to_fit(|at| hash_of(texts, *at));
            self.texts.shrink_to_fit();
            self.by_identity.shrink_to_fit();
        }
    }
}

/// Keys are hashes.
fn hash_of(texts: &[Text], at: u32) -> u64 {
    texts.get(at as usize).map_or(0, |text| text.hash as u64)
}

impl LabelSource for SeriesCache {
    fn write_labels(&self, series: u32, out: &mut Vec<u8>) {
        if let Some(labels) = self.series.get(series as usize).and_then(|s| s.labels.as_ref()) {
            out.extend_from_slice(labels.as_bytes());
        }
    }

    fn memo(&self) -> Option<&TickMemo> {
        Some(&self.memo)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::FloatLabel;

    fn labels(name: &str) -> Labels {
        Labels::from_pairs([("__name__", name)])
    }

    #[test]
    fn two_texts_of_one_series_are_one_series() {
        let mut cache = SeriesCache::new(vec![labels("up")]);
        cache.begin_round();
        let (a, b) = (TextKey::of(b"a", FloatLabel::None), TextKey::of(b"b", FloatLabel::None));
        assert_eq!(cache.see(a), Seen::Unknown);
        let first = cache.insert(a, labels("x").as_ref()).unwrap();
        assert!(first.new && !first.again && first.series == 1);
        let second = cache.insert(b, labels("x").as_ref()).unwrap();
        assert!(second.again && second.series == 1);
        let mut out = Vec::new();
        cache.write_labels(1, &mut out);
        assert_eq!(out, labels("x").as_bytes());
    }

    #[test]
    fn refused_scrapes_with_ever_new_series_do_not_fill_the_memory() {
        let mut cache = SeriesCache::new(Vec::new());
        for round in 0..20 {
            cache.begin_round();
            for i in 0..SLACK {
                let name = format!("m{round}_{i}");
                cache
                    .insert(TextKey::of(name.as_bytes(), FloatLabel::None), labels(&name).as_ref())
                    .unwrap();
            }
            cache.abandon_round();
        }
        assert!(
            cache.len() <= 2 * SLACK && cache.series.len() <= 3 * SLACK,
            "{}",
            cache.len()
        );
    }

    #[test]
    fn what_a_whole_scrape_lacks_is_forgotten_and_its_number_used_again() {
        let mut cache = SeriesCache::new(vec![labels("up")]);
        let keys: Vec<_> = ["a", "b", "c"]
            .map(|t| TextKey::of(t.as_bytes(), FloatLabel::None))
            .into();
        cache.begin_round();
        cache.insert(keys[0], labels("a").as_ref()).unwrap();
        cache.insert(keys[1], labels("b").as_ref()).unwrap();
        cache.insert_dropped(keys[2]);
        cache.end_round();
        cache.begin_round();
        assert!(matches!(cache.see(keys[1]), Seen::Series(hit) if !hit.again && !hit.new));
        assert!(matches!(cache.see(keys[1]), Seen::Series(hit) if hit.again));
        assert_eq!(cache.see(keys[2]), Seen::Dropped);
        cache.end_round();
        cache.begin_round();
        assert_eq!(cache.see(keys[0]), Seen::Unknown);
        assert_eq!(cache.insert(keys[0], labels("a2").as_ref()).unwrap().series, 1);
        assert_eq!(cache.len(), 3);
    }

    #[test]
    fn texts_are_found_in_whatever_order_they_come() {
        let mut cache = SeriesCache::new(Vec::new());
        let key = |n: u32| TextKey::of(&n.to_le_bytes(), FloatLabel::None);
        let mut series = HashMap::new();
        let mut state = 1u32;
        for round in 0..50 {
            cache.begin_round();
            let mut exposed: Vec<u32> = (0..200).filter(|n| n % 7 != round % 7).collect();
            if round % 3 == 1 {
                for at in 1..exposed.len() {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    exposed.swap(at, (state >> 8) as usize % (at + 1));
                }
            }
            for &n in &exposed {
                let hit = match cache.see(key(n)) {
                    Seen::Series(hit) => hit,
                    _ => cache.insert(key(n), labels(&format!("m{n}")).as_ref()).unwrap(),
                };
                assert_eq!(hit.new, !series.contains_key(&n), "round {round}, {n}");
                assert_eq!(*series.entry(n).or_insert(hit.series), hit.series, "round {round}, {n}");
            }
            cache.end_round();
            series.retain(|n, _| exposed.contains(n));
            assert_eq!(cache.len(), exposed.len());
        }
    }
}
