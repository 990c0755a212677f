//! Results that are kept, within a bound of memory; those not used for longest go first.

use super::steps::Steps;
use gnomon_promql::RangeSeries;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// The results of consecutive steps.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) steps: Steps,
    /// Of what was looked at.
    pub(super) sources: u128,
    pub(super) series: Arc<Vec<RangeSeries>>,
}

impl Kept {
    fn bytes(&self, key: &str) -> u64 {
        let series: u64 = self.series.iter().map(RangeSeries::held_bytes).sum();
        series + (key.len() + size_of::<Entry>() + 64) as u64
    }
}

struct Entry {
    kept: Kept,
    bytes: u64,
    used: u64,
}

#[derive(Default)]
struct Inner {
    entries: HashMap<Arc<str>, Entry>,
    bytes: u64,
    uses: u64,
}

/// By query.
pub(super) struct Store {
    inner: Mutex<Inner>,
    max_bytes: u64,
}

impl Store {
    pub(super) fn new(max_bytes: u64) -> Self {
        Self {
            inner: Mutex::default(),
            max_bytes,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.inner.lock().bytes
    }

    pub(super) fn get(&self, key: &str) -> Option<Kept> {
        let mut inner = self.inner.lock();
        inner.uses += 1;
        let uses = inner.uses;
        let entry = inner.entries.get_mut(key)?;
        entry.used = uses;
        Some(entry.kept.clone())
    }

    /// Whether results are kept at all: those that take more than an eighth of all are not.
    pub(super) fn takes(&self, key: &str, kept: &Kept) -> bool {
        kept.bytes(key) <= self.max_bytes / 8
    }

    /// Keeps results in the place of what there was, where it takes them.
    pub(super) fn put(&self, key: &str, kept: Kept) {
        let is_taken = self.takes(key, &kept);
        let bytes = kept.bytes(key);
        let mut inner = self.inner.lock();
        inner.remove(key);
        if !is_taken {
            return;
        }
        inner.uses += 1;
        inner.bytes += bytes;
        let used = inner.uses;
        inner.entries.insert(key.into(), Entry { kept, bytes, used });
        if inner.bytes > self.max_bytes {
            inner.shrink_to(self.max_bytes / 4 * 3);
        }
    }
}

impl Inner {
    fn remove(&mut self, key: &str) {
        if let Some(gone) = self.entries.remove(key) {
            self.bytes -= gone.bytes;
        }
    }

    fn shrink_to(&mut self, bytes: u64) {
        let mut by_use: Vec<_> = self.entries.iter().map(|(key, e)| (e.used, Arc::clone(key))).collect();
        by_use.sort_unstable();
        for (_, key) in by_use {
            if self.bytes <= bytes {
                return;
            }
            self.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::Labels;

    fn kept(points: i64) -> Kept {
        let series = RangeSeries {
            labels: Labels::from_pairs([("__name__", "m")]),
            floats: (0..points).map(|t| (t, 0.0)).collect(),
            histograms: Vec::new(),
        };
        Kept {
            steps: Steps {
                first_ms: 0,
                last_ms: points,
                step_ms: 1,
            },
            sources: 7,
            series: Arc::new(vec![series]),
        }
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let store = Store::new(100_000);
        for i in 0..100 {
            store.put(&i.to_string(), kept(100));
            assert!(store.get("0").is_some() && store.bytes() <= 100_000);
        }
        assert!(store.get("1").is_none() && store.get("99").is_some());
        store.put("0", kept(10_000));
        assert!(store.get("0").is_none(), "too large to be kept");
        for i in 1..100 {
            store.put(&i.to_string(), kept(10_000));
        }
        assert_eq!(store.bytes(), 0);
    }
}
