//! Where a series lives and by which reference, by the hash of what the sender calls it. Bounded; losing an entry
//! costs one push with labels.

use gnomon_model::{SeriesRef, ShardId};
use hashbrown::HashMap;
use parking_lot::Mutex;
use std::hash::{BuildHasherDefault, Hasher};

/// The identity with tenant and epoch mixed in.
pub(super) type CacheKey = u128;

/// Locks; a power of two. Many more than cores, so that two pushes seldom meet.
const STRIPES: usize = 64;

/// 32 bytes with its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) reference: SeriesRef,
    pub(super) shard: ShardId,
}

/// The key is a hash already.
#[derive(Default)]
pub(super) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u128(&mut self, key: u128) {
        self.0 = key as u64;
    }
}

pub(super) type ByKey<V> = HashMap<CacheKey, V, BuildHasherDefault<KeyHasher>>;

/// Two generations: what is not used while the young one fills up is forgotten with the old one.
#[derive(Default)]
struct Generations {
    young: ByKey<Known>,
    old: ByKey<Known>,
}

pub(super) struct SeriesCache {
    stripes: Box<[Mutex<Generations>]>,
    /// Entries of one generation of one stripe.
    generation_len: usize,
}

impl SeriesCache {
    /// Holds `max_series` at most, and those used lately of at least half as many.
    pub(super) fn new(max_series: usize) -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            generation_len: (max_series / STRIPES / 2).max(1),
        }
    }

    fn stripe(&self, key: CacheKey) -> &Mutex<Generations> {
        &self.stripes[stripe_of(key)]
    }

    pub(super) fn get(&self, key: CacheKey) -> Option<Known> {
        self.stripe(key).lock().get(key, self.generation_len)
    }

    /// What is known of each key. Goes stripe by stripe: one lock for many, and no lookup waits for the memory that the
    /// one before it asked for.
    pub(super) fn get_many(&self, keys: &[CacheKey]) -> Vec<Option<Known>> {
        let mut starts = [0; STRIPES + 1];
        for key in keys {
            starts[stripe_of(*key) + 1] += 1;
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        let mut by_stripe = vec![0; keys.len()];
        let mut next = starts;
        for (number, key) in keys.iter().enumerate() {
            let at = &mut next[stripe_of(*key)];
            by_stripe[*at] = number;
            *at += 1;
        }
        let mut found = vec![None; keys.len()];
        for (stripe, bounds) in self.stripes.iter().zip(starts.windows(2)) {
            let numbers = &by_stripe[bounds[0]..bounds[1]];
            if numbers.is_empty() {
                continue;
            }
            let mut stripe = stripe.lock();
            for number in numbers {
                found[*number] = stripe.get(keys[*number], self.generation_len);
            }
        }
        found
    }

    pub(super) fn insert(&self, key: CacheKey, known: Known) {
        let mut stripe = self.stripe(key).lock();
        stripe.old.remove(&key);
        stripe.put(key, known, self.generation_len);
    }

    /// Forgets the entry if it still says `reference`.
    pub(super) fn forget(&self, key: CacheKey, reference: SeriesRef) {
        let mut stripe = self.stripe(key).lock();
        let Generations { young, old } = &mut *stripe;
        for generation in [young, old] {
            if generation.get(&key).is_some_and(|k| k.reference == reference) {
                generation.remove(&key);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        let len = |stripe: &Mutex<Generations>| {
            let stripe = stripe.lock();
            stripe.young.len() + stripe.old.len()
        };
        self.stripes.iter().map(len).sum()
    }
}

/// The map uses the low half of the key.
fn stripe_of(key: CacheKey) -> usize {
    (key >> 64) as usize % STRIPES
}

impl Generations {
    #[inline]
    fn get(&mut self, key: CacheKey, generation_len: usize) -> Option<Known> {
        if let Some(known) = self.young.get(&key) {
            return Some(*known);
        }
        let known = self.old.remove(&key)?;
        self.put(key, known, generation_len);
        Some(known)
    }

    fn put(&mut self, key: CacheKey, known: Known, generation_len: usize) {
        if self.young.len() >= generation_len && !self.young.contains_key(&key) {
            std::mem::swap(&mut self.young, &mut self.old);
            // Keeps its memory for the entries to come.
            self.young.clear();
        }
        self.young.insert(key, known);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(i: u64) -> CacheKey {
        xxhash_rust::xxh3::xxh3_128(&i.to_le_bytes())
    }

    fn known(i: u64) -> Known {
        Known {
            reference: SeriesRef(i),
            shard: ShardId(1),
        }
    }

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let cache = SeriesCache::new(64 * 200);
        for i in 0..1000 {
            cache.insert(key(i), known(i));
        }
        for round in 0..20u64 {
            for i in 0..1000 {
                assert_eq!(cache.get(key(i)), Some(known(i)));
            }
            for i in 0..1000 {
                let new = 1000 + round * 1000 + i;
                cache.insert(key(new), known(new));
            }
            assert!(cache.len() <= 64 * 200, "{}", cache.len());
        }
        assert_eq!(cache.get(key(1000)), None, "not used since");
    }

    #[test]
    fn many_are_found_as_one_by_one() {
        let cache = SeriesCache::new(64 * 20);
        for i in 0..900 {
            cache.insert(key(i), known(i));
        }
        let keys: Vec<_> = (0..1000).rev().map(key).collect();
        let found = cache.get_many(&keys);
        assert!(
            found.iter().filter(|f| f.is_some()).count() > 500,
            "of either generation"
        );
        for (i, found) in (0..1000).rev().zip(&found) {
            assert!(found.is_none_or(|found| found == known(i)), "{i}: {found:?}");
        }
        assert_eq!(found[..100], [None; 100], "never entered");
        assert!(cache.get_many(&[]).is_empty());
    }

    #[test]
    fn forgetting_spares_a_newer_reference() {
        let cache = SeriesCache::new(1000);
        cache.insert(key(1), known(1));
        cache.insert(key(1), known(2));
        cache.forget(key(1), SeriesRef(1));
        assert_eq!(cache.get(key(1)), Some(known(2)));
        cache.forget(key(1), SeriesRef(2));
        assert_eq!(cache.get(key(1)), None);
        assert_eq!(std::mem::size_of::<(CacheKey, Known)>(), 32);
    }
}
