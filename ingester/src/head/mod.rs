//! The head: what one shard holds of one tenant's newest samples, in memory.
//!
//! Invariant: whatever apply decides here is a function of the log; ordinals, pair numbers and hash seeds are this
//! process' own, and no answer depends on them.

mod closed;
mod delete;
mod exemplars;
mod index;
mod matching;
mod order;
mod refs;
mod seal;
mod series;
mod stats;
mod stop;
mod targets;
mod value;
mod window;

pub(crate) use delete::Deletion;
pub(crate) use exemplars::{Exemplar, Exemplars};
use index::LabelIndex;
pub(crate) use index::{Ordinal, PairId};
pub(crate) use seal::SealedPart;
pub(crate) use series::{Bounds, Newest, Outcome, Series};
pub(crate) use stop::Stop;
pub(crate) use targets::{OpenTick, Target, Verdict};
pub(crate) use value::Value;
pub use window::BadPage;
pub(crate) use window::{PlacedPage, WindowPages, merge_pages};

use gnomon_model::histogram::FloatHistogram;
use gnomon_model::{LabelsRef, Matcher, STALE_NAN, SeriesRef, TargetId, TimeRange, TimestampMs};
use gnomon_proto::histogram::Decoded;
use gnomon_tsdb::Tombstone;
use hashbrown::HashTable;
use order::{Order, Slice};
use parking_lot::Mutex;
use refs::RefTable;
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Width of a window: two hours, aligned to UTC.
pub const WINDOW_MS: i64 = 2 * 60 * 60 * 1000;

/// Metrics whose metadata a tenant may have in one shard.
const MAX_METADATA: usize = 100_000;

/// So few series are put in order by themselves.
pub(crate) const FEW_IN_ORDER: u64 = 256;

/// What is known of a metric beside its samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MetricInfo {
    pub(crate) kind: Box<str>,
    pub(crate) unit: Box<str>,
    pub(crate) help: Box<str>,
}

/// A window that takes samples.
#[derive(Debug, Default)]
pub(crate) struct OpenWindow {
    /// Series with samples in it.
    pub(crate) members: RoaringBitmap,
    pub(crate) samples: u64,
}

/// What changed since the last flush.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Series that are new or whose record changed.
    pub(crate) series: RoaringBitmap,
    pub(crate) removed_series: Vec<SeriesRef>,
    /// Per window, series with new samples.
    pub(crate) pages: BTreeMap<i64, RoaringBitmap>,
    /// Windows that were sealed: none of their pages is wanted.
    pub(crate) sealed_windows: BTreeSet<i64>,
    /// Windows of series whose samples were all deleted: none of the pages that were there is wanted.
    pub(crate) removed_windows: BTreeSet<(i64, SeriesRef)>,
    /// Deletes that came or went.
    pub(crate) deletes: BTreeSet<u64>,
    pub(crate) targets: BTreeSet<TargetId>,
    pub(crate) metadata: BTreeSet<Box<str>>,
    pub(crate) new_parts: BTreeSet<u64>,
    pub(crate) dropped_parts: BTreeSet<u64>,
}

#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) index: LabelIndex,
    slots: Vec<Option<Series>>,
    free: Vec<Ordinal>,
    by_ref: RefTable,
    by_labels: HashTable<Ordinal>,
    order: Mutex<Order>,
    pub(crate) windows: BTreeMap<i64, OpenWindow>,
    pub(crate) targets: BTreeMap<TargetId, Target>,
    pub(crate) exemplars: Exemplars,
    pub(crate) metadata: BTreeMap<Box<str>, MetricInfo>,
    /// Sealed and not yet published, by number.
    pub(crate) sealed: BTreeMap<u64, SealedPart>,
    /// Those that mask a sealed part, by revision. What is in windows is taken out of them at once.
    pub(crate) deletes: BTreeMap<u64, Arc<Tombstone>>,
    pub(crate) changes: Changes,
}

/// The window that holds an instant.
pub(crate) fn window_of(timestamp_ms: i64) -> TimeRange {
    TimeRange::window_of(TimestampMs(timestamp_ms), WINDOW_MS)
}

impl Head {
    pub(crate) fn new() -> Self {
        Self {
            index: LabelIndex::new(),
            slots: Vec::new(),
            free: Vec::new(),
            by_ref: RefTable::default(),
            by_labels: HashTable::new(),
            order: Mutex::default(),
            windows: BTreeMap::new(),
            targets: BTreeMap::new(),
            exemplars: Exemplars::default(),
            metadata: BTreeMap::new(),
            sealed: BTreeMap::new(),
            deletes: BTreeMap::new(),
            changes: Changes::default(),
        }
    }

    pub(crate) fn series_count(&self) -> u64 {
        self.by_ref.len() as u64
    }

    #[inline]
    pub(crate) fn series(&self, ordinal: Ordinal) -> Option<&Series> {
        self.slots.get(ordinal as usize)?.as_ref()
    }

    #[inline]
    pub(crate) fn find_ref(&self, reference: SeriesRef) -> Option<Ordinal> {
        self.by_ref.get(reference)
    }

    pub(crate) fn find_labels(&self, labels: LabelsRef<'_>) -> Option<Ordinal> {
        let same = |o: &Ordinal| {
            self.series(*o)
                .is_some_and(|s| self.index.labels_are(&s.labels, labels))
        };
        self.by_labels
            .find(self.index.hash_labels(labels.as_bytes()), same)
            .copied()
    }

    /// Enters a series that is not there.
    pub(crate) fn add_series(&mut self, reference: SeriesRef, labels: LabelsRef<'_>) -> Ordinal {
        let ordinal = match self.free.pop() {
            Some(ordinal) => ordinal,
            None => {
                self.slots.push(None);
                self.slots.len() as Ordinal - 1
            }
        };
        let pairs = self.index.insert(ordinal, labels);
        let hash = self.index.hash_labels(labels.as_bytes());
        self.slots[ordinal as usize] = Some(Series::new(reference, pairs));
        let (slots, index) = (&self.slots, &self.index);
        let series = |o: &Ordinal| slots.get(*o as usize).and_then(Option::as_ref);
        self.by_ref.insert(reference, ordinal);
        self.by_labels.insert_unique(hash, ordinal, |o| {
            let mut bytes = Vec::with_capacity(256);
            if let Some(series) = series(o) {
                index.write_labels(&series.labels, &mut bytes);
            }
            index.hash_labels(&bytes)
        });
        self.order.get_mut().insert(ordinal);
        self.changes.series.insert(ordinal);
        ordinal
    }

    /// Takes a series out of everything.
    pub(crate) fn remove_series(&mut self, ordinal: Ordinal) {
        let mut bytes = Vec::new();
        self.write_labels(ordinal, &mut bytes);
        let Some(series) = self.slots.get_mut(ordinal as usize).and_then(Option::take) else {
            return;
        };
        self.by_ref.remove(series.reference);
        let same = |o: &Ordinal| *o == ordinal;
        if let Ok(entry) = self.by_labels.find_entry(self.index.hash_labels(&bytes), same) {
            entry.remove();
        }
        self.index.remove(ordinal, &series.labels);
        self.order.get_mut().remove(ordinal);
        self.changes.series.remove(ordinal);
        self.changes.removed_series.push(series.reference);
        self.free.push(ordinal);
    }

    /// Appends the canonical labels of a series.
    pub(crate) fn write_labels(&self, ordinal: Ordinal, out: &mut Vec<u8>) {
        if let Some(series) = self.series(ordinal) {
            self.index.write_labels(&series.labels, out);
        }
    }

    /// Series that are there, in the order of their labels.
    pub(crate) fn in_order(&self, wanted: &RoaringBitmap) -> Vec<Ordinal> {
        let labels = |ordinal| self.series(ordinal).map_or(&[][..], |series| &series.labels);
        let compare = |a, b| self.index.compare(labels(a), labels(b));
        if wanted.len() <= FEW_IN_ORDER {
            // Without waiting for somebody who sorts many.
            let mut few: Vec<Ordinal> = wanted.iter().collect();
            few.sort_unstable_by(|a, b| compare(*a, *b));
            return few;
        }
        self.order.lock().of(wanted, compare)
    }

    /// Whether there may be series that are not in the order yet, and too many to leave them so: without waiting for who
    /// works them in.
    pub(crate) fn may_be_out_of_order(&self) -> bool {
        self.order.try_lock().is_none_or(|order| order.is_due(u64::MAX))
    }

    /// Whether series had better be worked into the order before so many are asked for in it.
    pub(crate) fn is_order_due(&self, wanted: u64) -> bool {
        wanted > FEW_IN_ORDER && self.order.lock().is_due(wanted)
    }

    /// Works some new series into the order, for some milliseconds; whether all are.
    pub(crate) fn work_in(&self) -> bool {
        let labels = |ordinal| self.series(ordinal).map_or(&[][..], |series| &series.labels);
        let compare = |a, b| self.index.compare(labels(a), labels(b));
        let is_there = |ordinal| self.series(ordinal).is_some();
        let mut order = self.order.lock();
        // Somebody else may have done the rest.
        !order.is_due(u64::MAX) || order.work_in(Slice::default(), is_there, compare)
    }

    /// Series that satisfy all matchers, unless `stop` is set meanwhile.
    pub(crate) fn select(&self, matchers: &[Matcher], stop: &Stop) -> RoaringBitmap {
        self.index
            .select(matchers, stop, |o| self.series(o).map_or(&[], |s| &s.labels))
    }

    /// Puts a sample to a series, by the rules for its time.
    #[inline]
    pub(crate) fn put(
        &mut self,
        ordinal: Ordinal,
        timestamp_ms: i64,
        value: Value,
        bounds: &Bounds,
    ) -> Result<Outcome, BadPage> {
        let Some(series) = self.slots.get_mut(ordinal as usize).and_then(Option::as_mut) else {
            return Ok(Outcome::Duplicate);
        };
        let start_ms = window_of(timestamp_ms).start.0;
        let outcome = series.put(start_ms, timestamp_ms, value, bounds)?;
        if let Outcome::Taken { window, is_new } = outcome {
            let entry = self.windows.entry(start_ms).or_default();
            entry.samples += 1;
            if is_new {
                entry.members.insert(ordinal);
            }
            let pages = &mut series.windows[window];
            if !pages.dirty {
                pages.dirty = true;
                self.changes.pages.entry(start_ms).or_default().insert(ordinal);
            }
        }
        Ok(outcome)
    }

    /// Marks series as stale where they have nothing at that time or later.
    pub(crate) fn mark_stale(&mut self, gone: &RoaringBitmap, at_ms: i64, bounds: &Bounds) -> Result<(), BadPage> {
        for ordinal in gone {
            let Some(series) = self.series(ordinal).filter(|s| s.last_ms() < at_ms) else {
                continue;
            };
            let is_histogram = series.windows.last().is_some_and(WindowPages::ends_with_histogram);
            let marker = if is_histogram {
                stale_histogram()
            } else {
                Value::Float(STALE_NAN)
            };
            self.put(ordinal, at_ms, marker, bounds)?;
        }
        Ok(())
    }

    pub(crate) fn set_metadata(&mut self, metric: &str, info: MetricInfo) {
        let known = self.metadata.len();
        match self.metadata.get_mut(metric) {
            Some(there) if *there == info => return,
            Some(there) => *there = info,
            None if known >= MAX_METADATA => return,
            None => {
                self.metadata.insert(metric.into(), info);
            }
        }
        self.changes.metadata.insert(metric.into());
    }

    /// Restores: a series as it was stored.
    pub(crate) fn restore_series(&mut self, reference: SeriesRef, labels: LabelsRef<'_>, sealed_last_ms: i64) {
        let ordinal = self.add_series(reference, labels);
        self.changes.series.remove(ordinal);
        if let Some(Some(series)) = self.slots.get_mut(ordinal as usize) {
            series.sealed_last_ms = sealed_last_ms;
        }
    }

    /// Restores: a series' window as it was stored, after those that begin earlier.
    pub(crate) fn restore_window(&mut self, ordinal: Ordinal, pages: WindowPages) {
        let window = self.windows.entry(pages.start_ms).or_default();
        window.members.insert(ordinal);
        window.samples += pages.sample_count();
        if let Some(Some(series)) = self.slots.get_mut(ordinal as usize) {
            series.windows.reserve_exact(1);
            series.windows.push(pages);
        }
    }

    /// What changed is in the batch that is being written.
    pub(crate) fn set_flushed(&mut self) {
        let changes = std::mem::take(&mut self.changes);
        for (start_ms, ordinals) in &changes.pages {
            for ordinal in ordinals {
                let series = self.slots.get_mut(ordinal as usize).and_then(Option::as_mut);
                if let Some(pages) = series.and_then(|s| s.windows.iter_mut().find(|w| w.start_ms == *start_ms)) {
                    pages.set_flushed();
                }
            }
        }
        self.exemplars.set_flushed();
    }
}

fn stale_histogram() -> Value {
    let histogram = FloatHistogram {
        sum: STALE_NAN,
        ..FloatHistogram::default()
    };
    Value::Histogram(Box::new(Decoded {
        histogram,
        is_integer: false,
    }))
}
