//! The head: what one shard holds of one tenant's newest samples, in memory.
//!
//! Invariant: whatever apply decides here is a function of the log; ordinals, pair numbers and hash seeds are this
//! process' own, and no answer depends on them.

mod arena;
mod closed;
mod delete;
mod exemplars;
mod growing;
mod index;
mod matching;
#[cfg(test)]
mod memory;
mod open;
mod order;
mod refs;
mod room;
mod seal;
mod series;
mod stats;
mod stop;
mod targets;
mod value;
mod window;

pub(crate) use closed::ClosedPages;
pub(crate) use delete::Deletion;
pub(crate) use exemplars::{Exemplar, Exemplars};
use index::LabelIndex;
pub(crate) use index::{Ordinal, PairId};
pub(crate) use open::OpenWindow;
pub(crate) use room::Room;
pub(crate) use seal::{SealedPages, SealedPart};
pub(crate) use series::{Bounds, Newest, Outcome, Series};
pub(crate) use stop::Stop;
pub(crate) use targets::{MarkerPlace, OpenTick, Target, Verdict};
pub(crate) use value::{Sample, Value};
pub use window::BadPage;
use window::Put;
pub(crate) use window::{PlacedPage, WindowPages, merge_pages};

use gnomon_model::histogram::FloatHistogram;
use gnomon_model::{LabelsRef, METRIC_NAME, Matcher, STALE_NAN, SeriesRef, TargetId, TimeRange, TimestampMs};
use gnomon_proto::histogram::Decoded;
use gnomon_proto::v1::rejection::Reason;
use gnomon_tsdb::Tombstone;
use gnomon_tsdb::page::Page;
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
    /// The series that came last: the next one is of the same target, most likely.
    newest: Ordinal,
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
            newest: 0,
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
        let pairs = self.index.find_pairs(labels)?;
        let same = |o: &Ordinal| self.series(*o).is_some_and(|s| *s.labels == *pairs);
        self.by_labels.find(self.index.hash_pairs(&pairs), same).copied()
    }

    /// How many series have the metric name of these labels; none where they have no name.
    pub(crate) fn series_of_metric(&self, labels: LabelsRef<'_>) -> u64 {
        let name = labels.get(METRIC_NAME).unwrap_or_default();
        let pair = self.index.find(METRIC_NAME, name);
        pair.and_then(|pair| self.index.postings(pair))
            .map_or(0, |postings| postings.len())
    }

    /// Enters a series that is not there.
    pub(crate) fn add_series(&mut self, reference: SeriesRef, labels: LabelsRef<'_>) -> Ordinal {
        let ordinal = self.enter_series(reference, labels);
        self.find_by_labels([ordinal]);
        self.changes.series.insert(ordinal);
        ordinal
    }

    /// Has series found by their labels.
    fn find_by_labels(&mut self, ordinals: impl IntoIterator<Item = Ordinal>) {
        let (slots, index) = (&self.slots, &self.index);
        let hash = |ordinal: &Ordinal| {
            let series = slots.get(*ordinal as usize).and_then(Option::as_ref);
            index.hash_pairs(series.map_or(&[][..], |series| &series.labels))
        };
        let ordinals = ordinals.into_iter();
        self.by_labels.reserve(ordinals.size_hint().0, hash);
        for ordinal in ordinals {
            self.by_labels.insert_unique(hash(&ordinal), ordinal, hash);
        }
    }

    /// Enters a series, which is not found by its labels yet.
    fn enter_series(&mut self, reference: SeriesRef, labels: LabelsRef<'_>) -> Ordinal {
        let ordinal = match self.free.pop() {
            Some(ordinal) => ordinal,
            None => {
                self.slots.push(None);
                self.slots.len() as Ordinal - 1
            }
        };
        let newest = self.slots.get(self.newest as usize).and_then(Option::as_ref);
        let alike = newest.map_or(&[][..], |series| &series.labels);
        let pairs = self.index.insert(ordinal, labels, alike);
        self.slots[ordinal as usize] = Some(Series::new(reference, pairs));
        self.newest = ordinal;
        self.by_ref.insert(reference, ordinal);
        self.order.get_mut().insert(ordinal);
        ordinal
    }

    /// Takes a series out of everything.
    pub(crate) fn remove_series(&mut self, ordinal: Ordinal) {
        let Some(series) = self.slots.get_mut(ordinal as usize).and_then(Option::take) else {
            return;
        };
        self.by_ref.remove(series.reference);
        let same = |o: &Ordinal| *o == ordinal;
        if let Ok(entry) = self.by_labels.find_entry(self.index.hash_pairs(&series.labels), same) {
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

    /// Time of the newest sample of the series that are there; the minimum where there is none.
    pub(crate) fn newest_ms(&self) -> i64 {
        let series = self.slots.iter().flatten();
        series.map(|series| series.last_ms).max().unwrap_or(i64::MIN)
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
        sample: impl Into<Sample>,
        bounds: &Bounds,
    ) -> Result<Outcome, BadPage> {
        let sample = sample.into();
        let Some(series) = self.slots.get_mut(ordinal as usize).and_then(Option::as_mut) else {
            return Ok(Outcome::Duplicate);
        };
        let start_ms = window_of(timestamp_ms).start.0;
        if let Err(reason) = bounds.check(timestamp_ms, series.last_ms) {
            // The newest of a window that is sealed: it was taken, and whoever sends it again has not heard so.
            if timestamp_ms == series.sealed_last_ms && matches!(reason, Reason::TooOld | Reason::OutOfOrder) {
                return Ok(Outcome::Duplicate);
            }
            return self.refused(ordinal, timestamp_ms, &sample.value, reason);
        }
        let window = self.windows.entry(start_ms).or_default();
        let mut goes_on = false;
        let is_dirty = match window.pages_mut(ordinal) {
            Some((pages, room)) => match pages.put(timestamp_ms, sample, room)? {
                Put::Taken => std::mem::replace(&mut pages.dirty, true),
                Put::Duplicate => return Ok(Outcome::Duplicate),
                Put::Conflict => return Ok(Outcome::Refused(Reason::DuplicateTimestamp)),
            },
            None => {
                let mut pages = WindowPages::new(timestamp_ms, &sample, &mut window.room)?;
                pages.dirty = true;
                window.add(ordinal, pages);
                goes_on = timestamp_ms > series.last_ms;
                false
            }
        };
        series.last_ms = series.last_ms.max(timestamp_ms);
        window.samples += 1;
        if !is_dirty {
            self.changes.pages.entry(start_ms).or_default().insert(ordinal);
        }
        window.tidy()?;
        let before_ms = start_ms.saturating_sub(WINDOW_MS);
        // Nothing is expected to come there any more.
        if goes_on
            && let Some(before) = self.windows.get_mut(&before_ms)
            && before.put_by(ordinal)?
        {
            self.changes.pages.entry(before_ms).or_default().insert(ordinal);
        }
        Ok(Outcome::Taken)
    }

    /// A sender that repeats itself is answered as the first time, as far back as pages are at hand.
    fn refused(&self, ordinal: Ordinal, timestamp_ms: i64, value: &Value, reason: Reason) -> Result<Outcome, BadPage> {
        let window = self.windows.get(&window_of(timestamp_ms).start.0);
        let known = match window.and_then(|w| Some((w, w.pages_of(ordinal)?))) {
            Some((window, pages)) if reason != Reason::TooFarInFuture => pages.value_at(timestamp_ms, &window.room)?,
            _ => None,
        };
        let same = known.is_some_and(|known| known.is_same(value));
        Ok(if same {
            Outcome::Duplicate
        } else {
            Outcome::Refused(reason)
        })
    }

    /// A series' pages in open windows, ascending by window, each with the window.
    pub(crate) fn open_pages(&self, ordinal: Ordinal) -> impl DoubleEndedIterator<Item = (&OpenWindow, &WindowPages)> {
        let windows = self.windows.values();
        windows.filter_map(move |window| Some((window, window.pages_of(ordinal)?)))
    }

    /// The newest sample of `start_ms..=end_ms`, without reading pages.
    pub(crate) fn newest_in(&self, ordinal: Ordinal, start_ms: i64, end_ms: i64) -> Newest {
        let last_ms = self.series(ordinal).map_or(i64::MIN, |series| series.last_ms);
        if last_ms < start_ms {
            return Newest::None;
        }
        let newest = self.open_pages(ordinal).next_back();
        let newest = newest.filter(|(_, pages)| pages.last_ms == last_ms && last_ms <= end_ms);
        match newest.and_then(|(window, pages)| pages.ends_stale(&window.room)) {
            Some(true) => Newest::None,
            Some(false) => Newest::Sample,
            None => Newest::Unknown,
        }
    }

    /// Marks series as stale where they have nothing at that time or later.
    pub(crate) fn mark_stale(&mut self, gone: &RoaringBitmap, at_ms: i64, bounds: &Bounds) -> Result<(), BadPage> {
        for ordinal in gone {
            if self.series(ordinal).is_none_or(|s| s.last_ms >= at_ms) {
                continue;
            }
            let newest = self.open_pages(ordinal).next_back();
            let is_histogram = newest.is_some_and(|(window, pages)| pages.ends_with_histogram(&window.room));
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

    /// Restores: a series as it was stored. It is not found by its labels before [`Self::restored_series`].
    pub(crate) fn restore_series(&mut self, reference: SeriesRef, labels: LabelsRef<'_>, sealed_last_ms: i64) {
        let ordinal = self.enter_series(reference, labels);
        if let Some(Some(series)) = self.slots.get_mut(ordinal as usize) {
            series.sealed_last_ms = sealed_last_ms;
            series.last_ms = sealed_last_ms;
        }
    }

    /// Restores: all series are there. The table of their labels is made at once, as large as it has to be: one that grows
    /// hashes them again and again.
    pub(crate) fn restored_series(&mut self) {
        self.find_by_labels(0..self.slots.len() as Ordinal);
    }

    /// Restores: a closed page of a series' window, after those before it. (What is in front of the tail has no series yet.)
    pub(crate) fn restore_closed(
        &mut self,
        start_ms: i64,
        closed: &mut ClosedPages,
        page: &[u8],
    ) -> Result<(), BadPage> {
        let window = self.windows.entry(start_ms).or_default();
        closed.push_bytes(page, &mut window.room.closed)
    }

    /// Restores: a series' window as it was stored, after those that begin earlier.
    pub(crate) fn restore_window(
        &mut self,
        ordinal: Ordinal,
        start_ms: i64,
        closed: ClosedPages,
        tail: &[Page],
    ) -> Result<(), BadPage> {
        let window = self.windows.entry(start_ms).or_default();
        let pages = WindowPages::restore(closed, tail, &mut window.room)?;
        if let Some(Some(series)) = self.slots.get_mut(ordinal as usize) {
            series.last_ms = series.last_ms.max(pages.last_ms);
        }
        window.samples += pages.sample_count(&window.room);
        window.add(ordinal, pages);
        Ok(())
    }

    /// What changed is in the batch that is being written.
    pub(crate) fn set_flushed(&mut self) {
        let changes = std::mem::take(&mut self.changes);
        for (start_ms, ordinals) in &changes.pages {
            let Some(window) = self.windows.get_mut(start_ms) else {
                continue;
            };
            for ordinal in ordinals {
                if let Some((pages, _)) = window.pages_mut(ordinal) {
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
