//! Sealing: a window's pages become a part, which leaves memory with the next flush and the shard once it is published.

use super::arena::PageArena;
use super::{BadPage, Exemplar, Head, Ordinal, PlacedPage, Room, WindowPages};
use bytes::Bytes;
use gnomon_model::TimeRange;
use gnomon_model::labels::{get_uvarint, put_uvarint};
use gnomon_tsdb::page::{Page, PageError};
use roaring::RoaringBitmap;

/// What pages of a series take at least in a sealed part, roughly.
const SHORT_SERIES_BYTES: usize = 32;

/// Samples of one window, closed for good.
#[derive(Debug)]
pub(crate) struct SealedPart {
    pub(crate) number: u64,
    pub(crate) window: TimeRange,
    /// First and last sample, inclusive.
    pub(crate) min_ms: i64,
    pub(crate) max_ms: i64,
    pub(crate) samples: u64,
    /// Bytes of the pages.
    pub(crate) bytes: u64,
    pub(crate) members: RoaringBitmap,
    /// Newer deletes mask it.
    pub(crate) tombstone_revision: u64,
    /// None once they are durable.
    pub(crate) pages: Option<SealedPages>,
    /// Of its series and window, ascending by time; none once they are durable.
    pub(crate) exemplars: Vec<Exemplar>,
}

/// Pages of all series of a part, in one piece of memory.
///
/// ```text
/// bytes = (len: uvarint  page)*        series by series
/// ```
#[derive(Debug, Default)]
pub(crate) struct SealedPages {
    /// Ascending, with where each one's pages end.
    series: Vec<(Ordinal, usize)>,
    bytes: Bytes,
}

impl SealedPages {
    /// Pages of a series, ascending.
    fn of(&self, ordinal: Ordinal) -> Result<Vec<Page>, PageError> {
        let Ok(at) = self.series.binary_search_by_key(&ordinal, |(o, _)| *o) else {
            return Ok(Vec::new());
        };
        let from = at.checked_sub(1).map_or(0, |before| self.series[before].1);
        self.pages(from, self.series[at].1)
    }

    fn pages(&self, from: usize, to: usize) -> Result<Vec<Page>, PageError> {
        let mut rest = self.bytes.get(from..to).ok_or(PageError::Truncated)?;
        let mut pages = Vec::new();
        while !rest.is_empty() {
            let (len, after) = get_uvarint(rest).ok_or(PageError::Truncated)?;
            let (page, after) = usize::try_from(len)
                .ok()
                .and_then(|len| after.split_at_checked(len))
                .ok_or(PageError::Truncated)?;
            pages.push(Page::parse(self.bytes.slice_ref(page))?);
            rest = after;
        }
        Ok(pages)
    }

    /// All, series by series.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<(Ordinal, Vec<Page>), PageError>> {
        let begins = std::iter::once(0).chain(self.series.iter().map(|(_, end)| *end));
        let series = self.series.iter().zip(begins);
        series.map(|((ordinal, to), from)| Ok((*ordinal, self.pages(from, *to)?)))
    }
}

/// Sealed pages in the making.
struct Sealing {
    series: Vec<(Ordinal, usize)>,
    bytes: Vec<u8>,
    /// One series' pages.
    placed: Vec<PlacedPage>,
    written: Vec<u8>,
}

impl Sealing {
    fn new(series: u64, arena: &PageArena) -> Self {
        let series = usize::try_from(series).unwrap_or(0);
        Self {
            series: Vec::with_capacity(series),
            bytes: Vec::with_capacity(arena.used() + series * SHORT_SERIES_BYTES),
            placed: Vec::new(),
            written: Vec::new(),
        }
    }

    /// Takes the next series' window; gives its pages.
    fn add(&mut self, ordinal: Ordinal, window: &WindowPages, room: &Room) -> Result<&[PlacedPage], BadPage> {
        self.placed.clear();
        self.written.clear();
        window.place_pages(i64::MIN, i64::MAX, room, &mut self.placed, &mut self.written)?;
        for page in &self.placed {
            let page = page.within(&self.written);
            put_uvarint(&mut self.bytes, page.len() as u64);
            self.bytes.extend_from_slice(page);
        }
        self.series.push((ordinal, self.bytes.len()));
        Ok(&self.placed)
    }

    fn finish(mut self) -> SealedPages {
        self.bytes.shrink_to_fit();
        SealedPages {
            series: self.series,
            bytes: self.bytes.into(),
        }
    }
}

impl SealedPart {
    /// Pages of a series that are still in memory.
    pub(crate) fn pages_of(&self, ordinal: Ordinal) -> Result<Vec<Page>, PageError> {
        self.pages
            .as_ref()
            .map_or_else(|| Ok(Vec::new()), |pages| pages.of(ordinal))
    }

    pub(crate) fn overlaps(&self, start_ms: i64, end_ms: i64) -> bool {
        self.min_ms <= end_ms && start_ms <= self.max_ms
    }
}

impl Head {
    /// Turns a window into a part; false where it has no samples.
    pub(crate) fn seal(&mut self, window: TimeRange, number: u64, tombstone_revision: u64) -> Result<bool, BadPage> {
        let start_ms = window.start.0;
        let Some(open) = self.windows.remove(&start_ms) else {
            return Ok(false);
        };
        let mut part = SealedPart {
            number,
            window,
            min_ms: i64::MAX,
            max_ms: i64::MIN,
            samples: 0,
            bytes: 0,
            members: open.members.clone(),
            tombstone_revision,
            pages: None,
            exemplars: Vec::new(),
        };
        let mut sealing = Sealing::new(part.members.len(), &open.room.closed);
        for ordinal in &part.members {
            let series = self.slots.get_mut(ordinal as usize).and_then(Option::as_mut);
            let Some((series, pages)) = series.zip(open.pages_of(ordinal)) else {
                continue;
            };
            series.sealed_last_ms = series.sealed_last_ms.max(pages.last_ms);
            for page in sealing.add(ordinal, pages, &open.room)? {
                let header = page.header();
                part.min_ms = part.min_ms.min(header.min_ts);
                part.max_ms = part.max_ms.max(header.max_ts);
                part.samples += page.samples();
                part.bytes += page.len() as u64;
            }
            self.changes.series.insert(ordinal);
        }
        part.pages = Some(sealing.finish());
        self.sealed.insert(number, part);
        self.changes.pages.remove(&start_ms);
        self.changes.removed_windows.retain(|(start, _)| *start != start_ms);
        self.changes.sealed_windows.insert(start_ms);
        self.changes.new_parts.insert(number);
        Ok(true)
    }

    /// Puts the window's exemplars of a new part's series into it: newer ones may take their place among those that are kept
    /// before the part is in the bucket.
    pub(crate) fn seal_exemplars(&mut self, number: u64) {
        let Some(part) = self.sealed.get_mut(&number) else {
            return;
        };
        let window = part.window;
        let by_ref = &self.by_ref;
        let of_part = |e: &&Exemplar| by_ref.get(e.series).is_some_and(|o| part.members.contains(o));
        let within = self.exemplars.within(window.start.0, window.end.0 - 1);
        let mut exemplars: Vec<_> = within.filter(of_part).cloned().collect();
        exemplars.sort_by_key(|e| (e.timestamp_ms, e.series));
        part.exemplars = exemplars;
    }

    /// Drops a part that is in the bucket.
    pub(crate) fn drop_part(&mut self, number: u64) -> Option<SealedPart> {
        let part = self.sealed.remove(&number)?;
        self.changes.new_parts.remove(&number);
        self.changes.dropped_parts.insert(number);
        Some(part)
    }

    /// Pages of parts that are durable leave memory.
    pub(crate) fn release_sealed_pages(&mut self) {
        for part in self.sealed.values_mut() {
            if !self.changes.new_parts.contains(&part.number) {
                part.pages = None;
                part.exemplars = Vec::new();
            }
        }
    }

    /// Removes targets that hold nothing and were not heard of since `before_ms`, and series without samples and
    /// without a target that would miss them.
    pub(crate) fn remove_unused(&mut self, before_ms: i64) {
        let idle: Vec<_> = self
            .targets
            .iter()
            .filter(|(_, t)| t.is_idle() && t.heard_ms < before_ms)
            .map(|(id, _)| *id)
            .collect();
        for id in idle {
            self.targets.remove(&id);
            self.changes.targets.insert(id);
        }
        let mut unused = self.index.all().clone();
        for window in self.windows.values() {
            unused -= &window.members;
        }
        for part in self.sealed.values() {
            unused -= &part.members;
        }
        for target in self.targets.values() {
            unused -= &target.live;
            if let Some(open) = &target.open {
                unused -= &open.seen;
            }
        }
        // In the order of references, so that what is written next does not depend on this process' numbers.
        let mut gone: Vec<_> = unused
            .iter()
            .filter_map(|o| self.series(o).map(|s| (s.reference, o)))
            .collect();
        gone.sort_unstable();
        for (_, ordinal) in gone {
            self.remove_series(ordinal);
        }
    }

    /// Bytes of sealed parts that are not published.
    pub(crate) fn sealed_bytes(&self) -> u64 {
        self.sealed.values().map(|p| p.bytes).sum()
    }
}
