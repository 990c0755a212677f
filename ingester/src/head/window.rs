//! The samples of one series in one window: closed pages, one page that grows, and the few samples that came out of
//! order since.

use super::arena::PageArena;
use super::closed::{ClosedPage, ClosedPages};
use super::growing::GrowingPage;
use super::value::Value;
use bytes::Bytes;
use gnomon_model::is_stale_nan;
use gnomon_proto::histogram::Decoded;
use gnomon_tsdb::page::{AppendError, Page, PageError, PageHeader, PageSamples};
use gnomon_tsdb::{Intervals, deletes};
use std::ops::Range;

#[cfg(test)]
mod tests;

/// Out-of-order samples that wait before they are worked into the pages.
const LATE_SAMPLES: usize = 48;

/// What became of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    Taken,
    /// An equal sample was there.
    Duplicate,
    /// Another value was there.
    Conflict,
}

/// Out-of-order samples, ascending by time; none of the times is in a page.
#[derive(Debug, Default)]
struct Late(Vec<(i64, Value)>);

#[derive(Debug)]
pub(crate) struct WindowPages {
    /// Newest sample.
    pub(crate) last_ms: i64,
    /// All before the open page.
    closed: ClosedPages,
    open: GrowingPage,
    /// Most windows have none.
    late: Option<Box<Late>>,
    /// Whether it is in its head's list of windows that changed since the last flush.
    pub(crate) dirty: bool,
    /// Whether pages that are durable are not the window's any more.
    rewritten: bool,
}

/// A page in bytes that many share.
#[derive(Clone, Debug)]
pub(crate) struct PlacedPage {
    header: PageHeader,
    bytes: Range<usize>,
}

impl PlacedPage {
    pub(crate) fn page(&self, shared: &Bytes) -> Page {
        self.header.of(shared.slice(self.bytes.clone()))
    }

    pub(crate) const fn header(&self) -> PageHeader {
        self.header
    }

    /// Its bytes, where those of many are.
    pub(crate) fn within<'a>(&self, shared: &'a [u8]) -> &'a [u8] {
        shared.get(self.bytes.clone()).unwrap_or_default()
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn samples(&self) -> u64 {
        self.header.count.into()
    }

    pub(crate) const fn is_of_histograms(&self) -> bool {
        !self.header.coding.is_of_floats()
    }

    /// Copies a page to where others are.
    fn copy(header: PageHeader, page: &[u8], shared: &mut Vec<u8>) -> Self {
        let from = shared.len();
        shared.extend_from_slice(page);
        Self {
            header,
            bytes: from..shared.len(),
        }
    }
}

/// Pages of a window that cannot be read, or a sample that its page did not take: damage, or a defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPage {
    #[error(transparent)]
    Page(#[from] PageError),
    #[error("append to a page: {0}")]
    Append(#[from] AppendError),
    #[error("a stored window has no page that grows")]
    NoTail,
    #[error("a window of one shard has 16 GiB of pages: more shards are needed")]
    ArenaFull,
}

/// Appends the samples of a page.
fn read_page(page: &Page, samples: &mut Vec<(i64, Value)>) -> Result<(), PageError> {
    match page.decode()? {
        PageSamples::Floats { timestamps, values } => {
            samples.extend(timestamps.into_iter().zip(values.into_iter().map(Value::Float)));
        }
        PageSamples::Histograms(histograms) => samples.extend(histograms.into_iter().map(|h| {
            let (histogram, is_integer) = (h.histogram, h.is_integer);
            (
                h.timestamp_ms,
                Value::Histogram(Box::new(Decoded { histogram, is_integer })),
            )
        })),
    }
    Ok(())
}

fn find(page: &Page, timestamp_ms: i64) -> Result<Option<Value>, PageError> {
    if !page.overlaps(timestamp_ms, timestamp_ms) {
        return Ok(None);
    }
    let mut samples = Vec::new();
    read_page(page, &mut samples)?;
    let found = samples.binary_search_by_key(&timestamp_ms, |(t, _)| *t);
    Ok(found.ok().map(|at| samples.swap_remove(at).1))
}

/// One series' pages from several sources, made ascending and not overlapping; of samples at one time the one of the
/// page that stands first wins.
pub(crate) fn merge_pages(mut pages: Vec<Page>) -> Result<Vec<Page>, BadPage> {
    let disjoint = |pages: &[Page]| pages.windows(2).all(|w| w[0].max_ts < w[1].min_ts);
    if disjoint(&pages) {
        return Ok(pages);
    }
    let mut samples = Vec::new();
    for page in &pages {
        read_page(page, &mut samples)?;
    }
    pages.sort_by_key(|p| p.min_ts);
    if disjoint(&pages) {
        return Ok(pages);
    }
    samples.sort_by_key(|(t, _)| *t);
    samples.dedup_by_key(|(t, _)| *t);
    build(&samples)
}

/// Pages of samples that ascend in time.
fn build(samples: &[(i64, Value)]) -> Result<Vec<Page>, BadPage> {
    let mut pages = Vec::new();
    let mut open: Option<GrowingPage> = None;
    for (timestamp_ms, value) in samples {
        match &mut open {
            Some(page) if page.takes(value) => page.append(*timestamp_ms, value)?,
            _ => {
                pages.extend(open.take().and_then(|full| full.page()));
                open = Some(GrowingPage::new(*timestamp_ms, value)?);
            }
        }
    }
    pages.extend(open.and_then(|last| last.page()));
    Ok(pages)
}

impl WindowPages {
    pub(crate) fn new(timestamp_ms: i64, value: &Value) -> Result<Self, BadPage> {
        Ok(Self {
            last_ms: timestamp_ms,
            closed: ClosedPages::default(),
            open: GrowingPage::new(timestamp_ms, value)?,
            late: None,
            dirty: false,
            rewritten: false,
        })
    }

    /// Takes a sample of the window, in any order. The arena is the window's, here and below.
    pub(crate) fn put(&mut self, timestamp_ms: i64, value: Value, arena: &mut PageArena) -> Result<Put, BadPage> {
        if timestamp_ms > self.last_ms {
            self.push(timestamp_ms, &value, arena)?;
            return Ok(Put::Taken);
        }
        if let Some(there) = self.value_at(timestamp_ms, arena)? {
            let same = there.is_same(&value);
            return Ok(if same { Put::Duplicate } else { Put::Conflict });
        }
        let Late(late) = &mut **self.late.get_or_insert_default();
        let at = late.partition_point(|(t, _)| *t < timestamp_ms);
        late.insert(at, (timestamp_ms, value));
        if late.len() >= LATE_SAMPLES {
            self.rewrite(arena)?;
        }
        Ok(Put::Taken)
    }

    fn push(&mut self, timestamp_ms: i64, value: &Value, arena: &mut PageArena) -> Result<(), BadPage> {
        if !self.open.takes(value) {
            if let Some(page) = self.open.page() {
                self.closed.push(&page.closed()?, arena)?;
            }
            self.open.restart(value);
        }
        self.open.append(timestamp_ms, value)?;
        self.last_ms = timestamp_ms;
        Ok(())
    }

    /// The value at exactly this time.
    pub(crate) fn value_at(&self, timestamp_ms: i64, arena: &PageArena) -> Result<Option<Value>, BadPage> {
        if timestamp_ms == self.last_ms
            && let GrowingPage::Float(page) = &self.open
            && let Some(value) = page.last_value()
        {
            return Ok(Some(Value::Float(value)));
        }
        if let Ok(at) = self.late().binary_search_by_key(&timestamp_ms, |(t, _)| *t) {
            return Ok(Some(self.late()[at].1.clone()));
        }
        if let Some(page) = self.closed.within(timestamp_ms, timestamp_ms, arena).next() {
            return Ok(find(&page?.to_page(), timestamp_ms)?);
        }
        if timestamp_ms < self.open.first_ms() {
            return Ok(None);
        }
        Ok(self.open.page().map_or(Ok(None), |page| find(&page, timestamp_ms))?)
    }

    /// Works the out-of-order samples into the pages.
    fn rewrite(&mut self, arena: &mut PageArena) -> Result<(), BadPage> {
        let pages = self.merged(arena)?;
        self.replace(pages, arena).map(drop)
    }

    /// Takes out what is deleted; false where nothing is left, and the window is to go. Pages of which nothing is
    /// deleted stay as they are.
    pub(crate) fn remove(&mut self, deleted: &Intervals, arena: &mut PageArena) -> Result<bool, BadPage> {
        if self.late().iter().any(|(t, _)| deleted.contains(*t)) {
            self.rewrite(arena)?;
        }
        let overlaps = |header: &PageHeader| deleted.overlaps(header.min_ts, header.max_ts);
        let mut closed = Vec::with_capacity(self.closed.len());
        let mut is_changed = false;
        for page in self.closed.all(arena)? {
            if overlaps(&page.header) {
                is_changed = true;
                let left = deletes::remove_from(page.to_page(), deleted)?;
                closed.extend(left.map(Page::closed).transpose()?);
            } else {
                closed.push(page.to_page());
            }
        }
        let open = self
            .open
            .page()
            .filter(|page| deleted.overlaps(page.min_ts, page.max_ts));
        if let Some(page) = open {
            is_changed = true;
            // Where nothing of it is left, the last page before it grows again.
            let Some(last) = deletes::remove_from(page, deleted)?.or_else(|| closed.pop()) else {
                return self.keep_late(arena);
            };
            self.open = GrowingPage::resume(&last)?;
            self.last_ms = last.max_ts;
        }
        if is_changed {
            let closed = ClosedPages::of(&closed, arena)?;
            std::mem::replace(&mut self.closed, closed).release(arena);
            self.rewritten = true;
        }
        // Nothing out of order is newer than the page that grows.
        if self.late().last().is_some_and(|(t, _)| *t > self.last_ms) {
            self.rewrite(arena)?;
        }
        Ok(true)
    }

    /// There is no page any more: what came out of order, if anything did, is all that is left.
    fn keep_late(&mut self, arena: &mut PageArena) -> Result<bool, BadPage> {
        let late = build(self.late())?;
        self.replace(late, arena)
    }

    /// Puts other pages (ascending) in the place of all; without effect, and false, where there is none.
    fn replace(&mut self, mut pages: Vec<Page>, arena: &mut PageArena) -> Result<bool, BadPage> {
        let Some(last) = pages.pop() else {
            return Ok(false);
        };
        self.open = GrowingPage::resume(&last)?;
        self.last_ms = last.max_ts;
        let pages = pages.into_iter().map(Page::closed).collect::<Result<Vec<_>, _>>()?;
        let closed = ClosedPages::of(&pages, arena)?;
        std::mem::replace(&mut self.closed, closed).release(arena);
        self.late = None;
        self.rewritten = true;
        Ok(true)
    }

    /// All pages with the out-of-order samples worked in.
    fn merged(&self, arena: &PageArena) -> Result<Vec<Page>, BadPage> {
        build(&self.samples(arena)?)
    }

    /// All samples, ascending.
    fn samples(&self, arena: &PageArena) -> Result<Vec<(i64, Value)>, BadPage> {
        let mut samples = Vec::new();
        for page in self.closed.all(arena)? {
            read_page(&page.to_page(), &mut samples)?;
        }
        if let Some(page) = self.open.page() {
            read_page(&page, &mut samples)?;
        }
        samples.extend_from_slice(self.late());
        samples.sort_by_key(|(t, _)| *t);
        Ok(samples)
    }

    /// Nobody needs it any more.
    pub(crate) fn release(self, arena: &mut PageArena) {
        self.closed.release(arena);
    }

    /// Copies its closed pages to the arena that takes the place of the window's.
    pub(crate) fn move_to(&mut self, from: &PageArena, to: &mut PageArena) -> Result<(), BadPage> {
        self.closed.move_to(from, to)
    }

    fn late(&self) -> &[(i64, Value)] {
        self.late.as_ref().map_or(&[], |late| late.0.as_slice())
    }

    /// Pages that overlap the range (inclusive bounds), ascending and not overlapping each other.
    #[cfg(test)]
    pub(crate) fn pages(&self, start_ms: i64, end_ms: i64, arena: &PageArena) -> Result<Vec<Page>, BadPage> {
        let (mut placed, mut shared) = (Vec::new(), Vec::new());
        self.place_pages(start_ms, end_ms, arena, &mut placed, &mut shared)?;
        let shared = Bytes::from(shared);
        Ok(placed.iter().map(|page| page.page(&shared)).collect())
    }

    /// Says that there is a page that overlaps the range (inclusive bounds), without its bytes.
    pub(crate) fn place_header(
        &self,
        start_ms: i64,
        end_ms: i64,
        arena: &PageArena,
        placed: &mut Vec<PlacedPage>,
    ) -> Result<(), BadPage> {
        let header = if self.late().is_empty() {
            let open = self.open.header().filter(|page| page.overlaps(start_ms, end_ms));
            match open {
                Some(open) => Some(open),
                None => self
                    .closed
                    .within(start_ms, end_ms, arena)
                    .next()
                    .transpose()?
                    .map(|page| page.header),
            }
        } else {
            let pages = self.merged(arena)?;
            let mut overlapping = pages.iter().filter(|page| page.overlaps(start_ms, end_ms));
            overlapping.next().map(Page::header)
        };
        placed.extend(header.map(|header| PlacedPage { header, bytes: 0..0 }));
        Ok(())
    }

    /// Copies the pages that overlap the range (inclusive bounds) to the end of `shared`, ascending and not overlapping
    /// each other.
    pub(crate) fn place_pages(
        &self,
        start_ms: i64,
        end_ms: i64,
        arena: &PageArena,
        placed: &mut Vec<PlacedPage>,
        shared: &mut Vec<u8>,
    ) -> Result<(), BadPage> {
        if !self.late().is_empty() {
            let mut pages = self.merged(arena)?;
            pages.retain(|page| page.overlaps(start_ms, end_ms));
            placed.extend(
                pages
                    .iter()
                    .map(|page| PlacedPage::copy(page.header(), &page.bytes, shared)),
            );
            return Ok(());
        }
        let first = placed.len();
        for page in self.closed.within(start_ms, end_ms, arena) {
            let ClosedPage { header, bytes } = page?;
            placed.push(PlacedPage::copy(header, bytes, shared));
        }
        placed[first..].reverse();
        let Some(header) = self.open.header().filter(|page| page.overlaps(start_ms, end_ms)) else {
            return Ok(());
        };
        let from = shared.len();
        match &self.open {
            GrowingPage::Float(open) => open.write_to(shared),
            GrowingPage::Histogram(open) => shared.extend(open.page().iter().flat_map(|page| &page.bytes[..])),
        }
        placed.push(PlacedPage {
            header,
            bytes: from..shared.len(),
        });
        Ok(())
    }

    /// Whether the newest sample is a stale marker; none where it is a histogram, whose page would have to be read.
    pub(crate) fn ends_stale(&self) -> Option<bool> {
        match &self.open {
            GrowingPage::Float(page) => page.last_value().map(is_stale_nan),
            GrowingPage::Histogram(_) => None,
        }
    }

    pub(crate) fn ends_with_histogram(&self) -> bool {
        matches!(self.open, GrowingPage::Histogram(_))
    }

    /// First sample.
    pub(crate) fn first_ms(&self, arena: &PageArena) -> i64 {
        let late = self.late().first().map(|(t, _)| *t);
        [self.closed.first_ms(arena), late]
            .into_iter()
            .flatten()
            .fold(self.open.first_ms(), i64::min)
    }

    pub(crate) fn sample_count(&self, arena: &PageArena) -> u64 {
        self.closed.samples(arena) + (self.open.len() + self.late().len()) as u64
    }

    pub(crate) const fn page_count(&self) -> usize {
        1 + self.closed.len()
    }

    /// What a flush has to write: whether older pages of the window have to go first, closed pages with their numbers,
    /// and the tail, which is replaced each time.
    pub(crate) fn unflushed<'a>(&self, arena: &'a PageArena) -> Result<Unflushed<'a>, BadPage> {
        let (first_number, closed) = self.closed.not_flushed(arena)?;
        Ok(Unflushed {
            replace: self.rewritten,
            closed,
            first_number,
            tail: self.open.page().into_iter().chain(build(self.late())?).collect(),
        })
    }

    /// What `unflushed` gave is in the batch being written. (Where that batch fails, the state is lost with its
    /// process or restored: nothing is written on top of a failed flush.)
    pub(crate) fn set_flushed(&mut self) {
        self.dirty = false;
        self.rewritten = false;
        self.closed.set_flushed();
    }

    /// The window from what was flushed: closed pages in order, then the tail.
    pub(crate) fn restore(closed: &[Page], tail: &[Page], arena: &mut PageArena) -> Result<Self, BadPage> {
        let (open, late_pages) = tail.split_first().ok_or(BadPage::NoTail)?;
        let mut late = Vec::new();
        for page in late_pages {
            read_page(page, &mut late)?;
        }
        let mut closed = ClosedPages::of(closed, arena)?;
        closed.set_flushed();
        Ok(Self {
            last_ms: open.max_ts,
            closed,
            open: GrowingPage::resume(open)?,
            late: (!late.is_empty()).then(|| Box::new(Late(late))),
            dirty: false,
            rewritten: false,
        })
    }
}

/// See [`WindowPages::unflushed`].
pub(crate) struct Unflushed<'a> {
    pub(crate) replace: bool,
    pub(crate) closed: Vec<ClosedPage<'a>>,
    pub(crate) first_number: usize,
    pub(crate) tail: Vec<Page>,
}
