//! The samples of one series in one window: closed pages, one page that grows unless it was put by, and the few samples
//! that came out of order since.

use super::arena::PageArena;
use super::closed::{ClosedPage, ClosedPages};
use super::growing::GrowingPage;
use super::room::Room;
use super::value::{Sample, Value};
use gnomon_proto::histogram::Decoded;
use gnomon_tsdb::page::{AppendError, Page, PageError, PageHeader, PageSamples};
use gnomon_tsdb::{Intervals, deletes};

mod newest;
mod placed;
#[cfg(test)]
mod tests;

use newest::NewestPage;
pub(crate) use placed::PlacedPage;

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
struct Late(Vec<(i64, Sample)>);

#[derive(Debug)]
pub(crate) struct WindowPages {
    /// Newest sample.
    pub(crate) last_ms: i64,
    /// All before the page that grows.
    closed: ClosedPages,
    newest: NewestPage,
    /// Most windows have none.
    late: Option<Box<Late>>,
    /// Whether it is in its head's list of windows that changed since the last flush.
    pub(crate) dirty: bool,
    /// Whether pages that are durable are not the window's any more.
    rewritten: bool,
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
fn read_page(page: &Page, samples: &mut Vec<(i64, Sample)>) -> Result<(), PageError> {
    let starts = page.starts()?;
    let mut starts = starts.iter(page.count);
    let mut started = |value| Sample {
        value,
        start_ms: starts.next().unwrap_or(0),
    };
    match page.decode()? {
        PageSamples::Floats { timestamps, values } => {
            let values = values.into_iter().map(|value| started(Value::Float(value)));
            samples.extend(timestamps.into_iter().zip(values));
        }
        PageSamples::Histograms(histograms) => samples.extend(histograms.into_iter().map(|h| {
            let (histogram, is_integer) = (h.histogram, h.is_integer);
            let value = Value::Histogram(Box::new(Decoded { histogram, is_integer }));
            (h.timestamp_ms, started(value))
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
    Ok(found.ok().map(|at| samples.swap_remove(at).1.value))
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
fn build(samples: &[(i64, Sample)]) -> Result<Vec<Page>, BadPage> {
    let mut pages = Vec::new();
    let mut open: Option<GrowingPage> = None;
    for (timestamp_ms, sample) in samples {
        match &mut open {
            Some(page) if page.takes(&sample.value) => page.append(*timestamp_ms, sample)?,
            _ => {
                pages.extend(open.take().and_then(|full| full.page()));
                open = Some(GrowingPage::new(*timestamp_ms, sample)?);
            }
        }
    }
    pages.extend(open.and_then(|last| last.page()));
    Ok(pages)
}

impl WindowPages {
    pub(crate) fn new(timestamp_ms: i64, sample: &Sample, room: &mut Room) -> Result<Self, BadPage> {
        let open = GrowingPage::new(timestamp_ms, sample)?;
        let mut pages = Self {
            last_ms: timestamp_ms,
            closed: ClosedPages::default(),
            newest: NewestPage::Grows(room.growing.insert(open)),
            late: None,
            dirty: false,
            rewritten: false,
        };
        if sample.value.ends_series() {
            pages.put_by(room)?;
        }
        Ok(pages)
    }

    /// Takes a sample of the window, in any order; of two with the same time and value the first one's start counts. The
    /// room is the window's, here and below.
    pub(crate) fn put(&mut self, timestamp_ms: i64, sample: Sample, room: &mut Room) -> Result<Put, BadPage> {
        if timestamp_ms > self.last_ms {
            self.push(timestamp_ms, &sample, room)?;
            return Ok(Put::Taken);
        }
        if let Some(there) = self.value_at(timestamp_ms, room)? {
            let same = there.is_same(&sample.value);
            return Ok(if same { Put::Duplicate } else { Put::Conflict });
        }
        let Late(late) = &mut **self.late.get_or_insert_default();
        let at = late.partition_point(|(t, _)| *t < timestamp_ms);
        late.insert(at, (timestamp_ms, sample));
        if late.len() >= LATE_SAMPLES {
            self.rewrite(room)?;
        }
        Ok(Put::Taken)
    }

    fn push(&mut self, timestamp_ms: i64, sample: &Sample, room: &mut Room) -> Result<(), BadPage> {
        let value = &sample.value;
        let slot = self.grow(room)?;
        let open = room.growing.get_mut(slot).ok_or(BadPage::NoTail)?;
        if !open.takes(value) {
            if let Some(page) = open.page() {
                self.closed.join_short(&mut room.closed)?;
                self.closed.push(&page.closed()?, &mut room.closed)?;
            }
            open.restart(value);
        }
        open.append(timestamp_ms, sample)?;
        self.last_ms = timestamp_ms;
        if value.ends_series() {
            self.put_by(room)?;
        }
        Ok(())
    }

    /// The value at exactly this time.
    pub(crate) fn value_at(&self, timestamp_ms: i64, room: &Room) -> Result<Option<Value>, BadPage> {
        let open = self.growing(room);
        if timestamp_ms == self.last_ms
            && let Some(value) = open.and_then(GrowingPage::last_value)
        {
            return Ok(Some(Value::Float(value)));
        }
        if let Ok(at) = self.late().binary_search_by_key(&timestamp_ms, |(t, _)| *t) {
            return Ok(Some(self.late()[at].1.value.clone()));
        }
        if let Some(page) = self.closed.within(timestamp_ms, timestamp_ms, &room.closed).next() {
            return Ok(find(&page?.to_page(), timestamp_ms)?);
        }
        let open = open.filter(|open| timestamp_ms >= open.first_ms());
        let page = open.and_then(GrowingPage::page);
        Ok(page.map_or(Ok(None), |page| find(&page, timestamp_ms))?)
    }

    /// Works the out-of-order samples into the pages.
    fn rewrite(&mut self, room: &mut Room) -> Result<(), BadPage> {
        let pages = self.merged(room)?;
        self.replace(pages, room).map(drop)
    }

    /// Takes out what is deleted; false where nothing is left, and the window is to go. Pages of which nothing is
    /// deleted stay as they are.
    pub(crate) fn remove(&mut self, deleted: &Intervals, room: &mut Room) -> Result<bool, BadPage> {
        let was_put_by = self.is_put_by();
        let is_left = self.remove_growing(deleted, room)?;
        if is_left && was_put_by {
            self.put_by(room)?;
        }
        Ok(is_left)
    }

    /// As [`Self::remove`]; the newest page grows afterwards.
    fn remove_growing(&mut self, deleted: &Intervals, room: &mut Room) -> Result<bool, BadPage> {
        if self.late().iter().any(|(t, _)| deleted.contains(*t)) {
            self.rewrite(room)?;
        }
        let slot = self.grow(room)?;
        let overlaps = |header: &PageHeader| deleted.overlaps(header.min_ts, header.max_ts);
        let mut closed = Vec::with_capacity(self.closed.len(&room.closed));
        let mut is_changed = false;
        for page in self.closed.all(&room.closed)? {
            if overlaps(&page.header) {
                is_changed = true;
                let left = deletes::remove_from(page.to_page(), deleted)?;
                closed.extend(left.map(Page::closed).transpose()?);
            } else {
                closed.push(page.to_page());
            }
        }
        let open = room.growing.get_mut(slot).ok_or(BadPage::NoTail)?;
        let grown = open.page().filter(|page| deleted.overlaps(page.min_ts, page.max_ts));
        if let Some(page) = grown {
            is_changed = true;
            // Where nothing of it is left, the last page before it grows again.
            let Some(last) = deletes::remove_from(page, deleted)?.or_else(|| closed.pop()) else {
                return self.keep_late(room);
            };
            *open = GrowingPage::resume(&last)?;
            self.last_ms = last.max_ts;
        }
        if is_changed {
            let closed = ClosedPages::of(&closed, &mut room.closed)?;
            std::mem::replace(&mut self.closed, closed).release(&mut room.closed);
            self.rewritten = true;
        }
        // Nothing out of order is newer than the page that grows.
        if self.late().last().is_some_and(|(t, _)| *t > self.last_ms) {
            self.rewrite(room)?;
        }
        Ok(true)
    }

    /// There is no page any more: what came out of order, if anything did, is all that is left.
    fn keep_late(&mut self, room: &mut Room) -> Result<bool, BadPage> {
        let late = build(self.late())?;
        self.replace(late, room)
    }

    /// Puts other pages (ascending) in the place of all; without effect, and false, where there is none.
    fn replace(&mut self, mut pages: Vec<Page>, room: &mut Room) -> Result<bool, BadPage> {
        let Some(last) = pages.pop() else {
            return Ok(false);
        };
        let open = GrowingPage::resume(&last)?;
        if let NewestPage::Grows(slot) = self.newest {
            room.growing.take(slot);
        }
        self.newest = NewestPage::Grows(room.growing.insert(open));
        self.last_ms = last.max_ts;
        let pages = pages.into_iter().map(Page::closed).collect::<Result<Vec<_>, _>>()?;
        let closed = ClosedPages::of(&pages, &mut room.closed)?;
        std::mem::replace(&mut self.closed, closed).release(&mut room.closed);
        self.late = None;
        self.rewritten = true;
        Ok(true)
    }

    /// All pages with the out-of-order samples worked in.
    fn merged(&self, room: &Room) -> Result<Vec<Page>, BadPage> {
        build(&self.samples(room)?)
    }

    /// All samples, ascending.
    fn samples(&self, room: &Room) -> Result<Vec<(i64, Sample)>, BadPage> {
        let mut samples = Vec::new();
        for page in self.closed.all(&room.closed)? {
            read_page(&page.to_page(), &mut samples)?;
        }
        if let Some(page) = self.growing(room).and_then(GrowingPage::page) {
            read_page(&page, &mut samples)?;
        }
        samples.extend_from_slice(self.late());
        samples.sort_by_key(|(t, _)| *t);
        Ok(samples)
    }

    /// Nobody needs it any more.
    pub(crate) fn release(self, room: &mut Room) {
        if let NewestPage::Grows(slot) = self.newest {
            room.growing.take(slot);
        }
        self.closed.release(&mut room.closed);
    }

    /// Copies its closed pages to the arena that takes the place of the window's.
    pub(crate) fn move_to(&mut self, from: &PageArena, to: &mut PageArena) -> Result<(), BadPage> {
        self.closed.move_to(from, to)
    }

    fn late(&self) -> &[(i64, Sample)] {
        self.late.as_ref().map_or(&[], |late| late.0.as_slice())
    }

    /// Pages that overlap the range (inclusive bounds), ascending and not overlapping each other.
    #[cfg(test)]
    pub(crate) fn pages(&self, start_ms: i64, end_ms: i64, room: &Room) -> Result<Vec<Page>, BadPage> {
        let (mut placed, mut shared) = (Vec::new(), Vec::new());
        self.place_pages(start_ms, end_ms, room, &mut placed, &mut shared)?;
        let shared = bytes::Bytes::from(shared);
        Ok(placed.iter().map(|page| page.page(&shared)).collect())
    }

    /// Says that there is a page that overlaps the range (inclusive bounds), without its bytes.
    pub(crate) fn place_header(
        &self,
        start_ms: i64,
        end_ms: i64,
        room: &Room,
        placed: &mut Vec<PlacedPage>,
    ) -> Result<(), BadPage> {
        let header = if self.late().is_empty() {
            let open = self
                .growing(room)
                .and_then(GrowingPage::header)
                .filter(|page| page.overlaps(start_ms, end_ms));
            match open {
                Some(open) => Some(open),
                None => self
                    .closed
                    .within(start_ms, end_ms, &room.closed)
                    .next()
                    .transpose()?
                    .map(|page| page.header),
            }
        } else {
            let pages = self.merged(room)?;
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
        room: &Room,
        placed: &mut Vec<PlacedPage>,
        shared: &mut Vec<u8>,
    ) -> Result<(), BadPage> {
        if !self.late().is_empty() {
            let mut pages = self.merged(room)?;
            pages.retain(|page| page.overlaps(start_ms, end_ms));
            placed.extend(
                pages
                    .iter()
                    .map(|page| PlacedPage::copy(page.header(), &page.bytes, shared)),
            );
            return Ok(());
        }
        let first = placed.len();
        for page in self.closed.within(start_ms, end_ms, &room.closed) {
            let ClosedPage { header, bytes, .. } = page?;
            placed.push(PlacedPage::copy(header, bytes, shared));
        }
        placed[first..].reverse();
        let Some(open) = self.growing(room) else {
            return Ok(());
        };
        let Some(header) = open.header().filter(|page| page.overlaps(start_ms, end_ms)) else {
            return Ok(());
        };
        let from = shared.len();
        open.write_to(shared);
        placed.push(PlacedPage {
            header,
            bytes: from..shared.len(),
        });
        Ok(())
    }

    /// First sample.
    pub(crate) fn first_ms(&self, room: &Room) -> i64 {
        let late = self.late().first().map(|(t, _)| *t);
        let open = self.growing(room).map(GrowingPage::first_ms);
        let begins = [self.closed.first_ms(&room.closed), open, late].into_iter().flatten();
        begins.fold(i64::MAX, i64::min)
    }

    pub(crate) fn sample_count(&self, room: &Room) -> u64 {
        let open = self.growing(room).map_or(0, GrowingPage::len);
        self.closed.samples(&room.closed) + (open + self.late().len()) as u64
    }

    /// Memory of late samples, in bytes.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        self.late.as_ref().map_or(0, |late| size_of_val(&late.0[..]))
    }

    pub(crate) fn page_count(&self, room: &Room) -> usize {
        self.closed.len(&room.closed) + usize::from(!self.is_put_by())
    }

    /// What a flush has to write: whether older pages of the window have to go first, closed pages with their numbers,
    /// and the tail, which is replaced each time.
    pub(crate) fn unflushed<'a>(&self, room: &'a Room) -> Result<Unflushed<'a>, BadPage> {
        let (first_number, mut closed) = self.closed.not_flushed(&room.closed)?;
        let newest = match self.newest {
            NewestPage::Grows(slot) => room.growing.get(slot).and_then(GrowingPage::page),
            NewestPage::PutBy(_) => closed.pop().map(ClosedPage::to_page),
        };
        Ok(Unflushed {
            replace: self.rewritten,
            closed,
            first_number,
            tail: newest.into_iter().chain(build(self.late())?).collect(),
        })
    }

    /// What `unflushed` gave is in the batch being written. (Where that batch fails, the state is lost with its
    /// process or restored: nothing is written on top of a failed flush.)
    pub(crate) fn set_flushed(&mut self) {
        self.dirty = false;
        self.rewritten = false;
        self.closed.set_flushed(u32::from(self.is_put_by()));
    }

    /// The window from what was flushed: closed pages in order, then the tail, whose first page is the newest.
    pub(crate) fn restore(mut closed: ClosedPages, tail: &[Page], room: &mut Room) -> Result<Self, BadPage> {
        let (open, late_pages) = tail.split_first().ok_or(BadPage::NoTail)?;
        let mut late = Vec::new();
        for page in late_pages {
            read_page(page, &mut late)?;
        }
        closed.set_flushed(0);
        let newest = NewestPage::restore(open, &mut closed, room)?;
        Ok(Self {
            last_ms: open.max_ts,
            closed,
            newest,
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
