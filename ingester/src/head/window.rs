//! The samples of one series in one window: closed pages, one page that grows, and the few samples that came out of
//! order since.

use super::closed::{ClosedPage, ClosedPages};
use super::value::Value;
use bytes::Bytes;
use gnomon_model::is_stale_nan;
use gnomon_proto::histogram::Decoded;
use gnomon_tsdb::Intervals;
use gnomon_tsdb::page::{
    AppendError, Coding, FloatPageBuilder, HistogramPageBuilder, Page, PageError, PageHeader, PageSamples, decode_into,
};
use std::ops::Range;

/// A page is closed at this many samples, so that what is flushed again and again stays small,
const PAGE_SAMPLES: usize = 240;
/// or at so many bytes of data, if it has some samples: closed pages are decoded several times as fast. What goes with
/// a page is a sixth of that.
const PAGE_BYTES: usize = 128;
const FEW_PAGE_SAMPLES: usize = 32;
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

/// The page that grows.
#[derive(Debug)]
pub(crate) enum Open {
    Float(FloatPageBuilder),
    Histogram(Box<HistogramPageBuilder>),
}

/// Out-of-order samples, ascending by time; none of the times is in a page.
#[derive(Debug, Default)]
struct Late(Vec<(i64, Value)>);

#[derive(Debug)]
pub(crate) struct WindowPages {
    pub(crate) start_ms: i64,
    /// Newest sample.
    pub(crate) last_ms: i64,
    /// All before the open page.
    closed: ClosedPages,
    open: Open,
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
}

impl Open {
    fn new(timestamp_ms: i64, value: &Value) -> Result<Self, BadPage> {
        let mut open = match value {
            Value::Float(_) => Self::Float(FloatPageBuilder::new()),
            Value::Histogram(_) => Self::Histogram(Box::new(HistogramPageBuilder::new())),
        };
        open.append(timestamp_ms, value)?;
        Ok(open)
    }

    /// Continues a page.
    fn resume(page: &Page) -> Result<Self, BadPage> {
        Ok(match page.coding {
            Coding::Float => Self::Float(FloatPageBuilder::resume(&page.bytes)?),
            Coding::Columns | Coding::Dense => return Self::reopen(page),
            Coding::Histogram => Self::Histogram(Box::new(HistogramPageBuilder::resume(&page.bytes)?)),
        })
    }

    /// Continues a page that was closed.
    fn reopen(page: &Page) -> Result<Self, BadPage> {
        let (mut timestamps, mut values) = (Vec::new(), Vec::new());
        decode_into(&page.bytes, &mut timestamps, &mut values)?;
        let mut open = FloatPageBuilder::new();
        for (timestamp_ms, value) in timestamps.into_iter().zip(values) {
            open.append(timestamp_ms, value)?;
        }
        Ok(Self::Float(open))
    }

    fn len(&self) -> usize {
        match self {
            Self::Float(page) => page.len(),
            Self::Histogram(page) => page.len(),
        }
    }

    fn first_ms(&self) -> i64 {
        self.header().map_or(i64::MAX, |header| header.min_ts)
    }

    /// What the page begins with; none before its first sample.
    fn header(&self) -> Option<PageHeader> {
        let (coding, times) = match self {
            Self::Float(page) => (Coding::Float, page.first_ts().zip(page.last_ts())),
            Self::Histogram(page) => (Coding::Histogram, page.first_ts().zip(page.last_ts())),
        };
        times.map(|(min_ts, max_ts)| PageHeader {
            coding,
            count: self.len() as u32,
            min_ts,
            max_ts,
        })
    }

    fn page(&self) -> Option<Page> {
        match self {
            Self::Float(page) => page.page(),
            Self::Histogram(page) => page.page(),
        }
    }

    /// Whether the page goes on with such a value.
    fn takes(&self, value: &Value) -> bool {
        let same_kind = matches!(
            (self, value),
            (Self::Float(_), Value::Float(_)) | (Self::Histogram(_), Value::Histogram(_))
        );
        let is_long = matches!(self, Self::Float(page) if page.data_len() >= PAGE_BYTES);
        same_kind && self.len() < if is_long { FEW_PAGE_SAMPLES } else { PAGE_SAMPLES }
    }

    fn append(&mut self, timestamp_ms: i64, value: &Value) -> Result<(), AppendError> {
        match (self, value) {
            (Self::Float(page), Value::Float(value)) => page.append(timestamp_ms, *value),
            (Self::Histogram(page), Value::Histogram(value)) => {
                page.append(timestamp_ms, &value.histogram, value.is_integer)
            }
            _ => Err(AppendError::Full),
        }
    }
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
    let mut open: Option<Open> = None;
    for (timestamp_ms, value) in samples {
        match &mut open {
            Some(page) if page.takes(value) => page.append(*timestamp_ms, value)?,
            _ => {
                pages.extend(open.take().and_then(|full| full.page()));
                open = Some(Open::new(*timestamp_ms, value)?);
            }
        }
    }
    pages.extend(open.and_then(|last| last.page()));
    Ok(pages)
}

impl WindowPages {
    pub(crate) fn new(start_ms: i64, timestamp_ms: i64, value: &Value) -> Result<Self, BadPage> {
        Ok(Self {
            start_ms,
            last_ms: timestamp_ms,
            closed: ClosedPages::default(),
            open: Open::new(timestamp_ms, value)?,
            late: None,
            dirty: false,
            rewritten: false,
        })
    }

    /// Takes a sample of the window, in any order.
    pub(crate) fn put(&mut self, timestamp_ms: i64, value: Value) -> Result<Put, BadPage> {
        if timestamp_ms > self.last_ms {
            self.push(timestamp_ms, &value)?;
            return Ok(Put::Taken);
        }
        if let Some(there) = self.value_at(timestamp_ms)? {
            let same = there.is_same(&value);
            return Ok(if same { Put::Duplicate } else { Put::Conflict });
        }
        let Late(late) = &mut **self.late.get_or_insert_default();
        let at = late.partition_point(|(t, _)| *t < timestamp_ms);
        late.insert(at, (timestamp_ms, value));
        if late.len() >= LATE_SAMPLES {
            self.rewrite()?;
        }
        Ok(Put::Taken)
    }

    fn push(&mut self, timestamp_ms: i64, value: &Value) -> Result<(), BadPage> {
        if self.open.takes(value) {
            self.open.append(timestamp_ms, value)?;
        } else {
            let full = std::mem::replace(&mut self.open, Open::new(timestamp_ms, value)?);
            if let Some(page) = full.page() {
                self.closed.push(&page.closed()?);
            }
        }
        self.last_ms = timestamp_ms;
        Ok(())
    }

    /// The value at exactly this time.
    pub(crate) fn value_at(&self, timestamp_ms: i64) -> Result<Option<Value>, BadPage> {
        if timestamp_ms == self.last_ms
            && let Open::Float(page) = &self.open
            && let Some(value) = page.last_value()
        {
            return Ok(Some(Value::Float(value)));
        }
        if let Ok(at) = self.late().binary_search_by_key(&timestamp_ms, |(t, _)| *t) {
            return Ok(Some(self.late()[at].1.clone()));
        }
        for page in self.closed.iter() {
            let page = page?;
            if page.header.overlaps(timestamp_ms, timestamp_ms) {
                return Ok(find(&page.to_page(), timestamp_ms)?);
            }
        }
        if timestamp_ms < self.open.first_ms() {
            return Ok(None);
        }
        Ok(self.open.page().map_or(Ok(None), |page| find(&page, timestamp_ms))?)
    }

    /// Works the out-of-order samples into the pages.
    fn rewrite(&mut self) -> Result<(), BadPage> {
        let pages = self.merged()?;
        self.replace(pages).map(drop)
    }

    /// Takes out what is deleted; false where nothing is left, and the window is to go.
    pub(crate) fn remove(&mut self, deleted: &Intervals) -> Result<bool, BadPage> {
        let mut samples = self.samples()?;
        let before = samples.len();
        samples.retain(|(t, _)| !deleted.contains(*t));
        if samples.len() == before {
            return Ok(true);
        }
        self.replace(build(&samples)?)
    }

    /// Puts other pages (ascending) in the place of all; without effect, and false, where there is none.
    fn replace(&mut self, mut pages: Vec<Page>) -> Result<bool, BadPage> {
        let Some(last) = pages.pop() else {
            return Ok(false);
        };
        self.open = Open::resume(&last)?;
        self.last_ms = last.max_ts;
        let pages = pages.into_iter().map(Page::closed).collect::<Result<Vec<_>, _>>()?;
        self.closed = ClosedPages::unflushed(&pages);
        self.late = None;
        self.rewritten = true;
        Ok(true)
    }

    /// All pages with the out-of-order samples worked in.
    fn merged(&self) -> Result<Vec<Page>, BadPage> {
        build(&self.samples()?)
    }

    /// All samples, ascending.
    fn samples(&self) -> Result<Vec<(i64, Value)>, BadPage> {
        let mut samples = Vec::new();
        for page in self.closed.iter() {
            read_page(&page?.to_page(), &mut samples)?;
        }
        if let Some(page) = self.open.page() {
            read_page(&page, &mut samples)?;
        }
        samples.extend_from_slice(self.late());
        samples.sort_by_key(|(t, _)| *t);
        Ok(samples)
    }

    fn late(&self) -> &[(i64, Value)] {
        self.late.as_ref().map_or(&[], |late| late.0.as_slice())
    }

    /// Pages that overlap the range (inclusive bounds), ascending and not overlapping each other.
    pub(crate) fn pages(&self, start_ms: i64, end_ms: i64) -> Result<Vec<Page>, BadPage> {
        if !self.late().is_empty() {
            let mut pages = self.merged()?;
            pages.retain(|page| page.overlaps(start_ms, end_ms));
            return Ok(pages);
        }
        let mut pages = Vec::with_capacity(self.closed.len() + 1);
        for page in self.closed.iter() {
            let page = page?;
            if page.header.overlaps(start_ms, end_ms) {
                pages.push(page.to_page());
            }
        }
        if self.last_ms >= start_ms && self.open.first_ms() <= end_ms {
            pages.extend(self.open.page());
        }
        Ok(pages)
    }

    /// Says that there is a page that overlaps the range (inclusive bounds), without its bytes.
    pub(crate) fn place_header(&self, start_ms: i64, end_ms: i64, placed: &mut Vec<PlacedPage>) -> Result<(), BadPage> {
        let mut header = None;
        if self.late().is_empty() {
            for page in self.closed.iter() {
                header = header.or(Some(page?.header).filter(|page| page.overlaps(start_ms, end_ms)));
            }
            header = header.or(self.open.header().filter(|page| page.overlaps(start_ms, end_ms)));
        } else {
            header = self.pages(start_ms, end_ms)?.first().map(Page::header);
        }
        placed.extend(header.map(|header| PlacedPage { header, bytes: 0..0 }));
        Ok(())
    }

    /// As [`Self::pages`], copied to the end of `shared`.
    pub(crate) fn place_pages(
        &self,
        start_ms: i64,
        end_ms: i64,
        placed: &mut Vec<PlacedPage>,
        shared: &mut Vec<u8>,
    ) -> Result<(), BadPage> {
        if !self.late().is_empty() {
            for page in self.pages(start_ms, end_ms)? {
                placed.push(PlacedPage::copy(page.header(), &page.bytes, shared));
            }
            return Ok(());
        }
        for page in self.closed.iter() {
            let ClosedPage { header, bytes } = page?;
            if header.overlaps(start_ms, end_ms) {
                placed.push(PlacedPage::copy(header, bytes, shared));
            }
        }
        let Some(header) = self.open.header().filter(|page| page.overlaps(start_ms, end_ms)) else {
            return Ok(());
        };
        let from = shared.len();
        match &self.open {
            Open::Float(open) => open.write_to(shared),
            Open::Histogram(open) => shared.extend(open.page().iter().flat_map(|page| &page.bytes[..])),
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
            Open::Float(page) => page.last_value().map(is_stale_nan),
            Open::Histogram(_) => None,
        }
    }

    pub(crate) fn ends_with_histogram(&self) -> bool {
        matches!(self.open, Open::Histogram(_))
    }

    /// First sample.
    pub(crate) fn first_ms(&self) -> i64 {
        let late = self.late().first().map(|(t, _)| *t);
        [self.closed.first_ms(), late]
            .into_iter()
            .flatten()
            .fold(self.open.first_ms(), i64::min)
    }

    pub(crate) fn sample_count(&self) -> u64 {
        self.closed.samples() + (self.open.len() + self.late().len()) as u64
    }

    pub(crate) const fn page_count(&self) -> usize {
        1 + self.closed.len()
    }

    /// What a flush has to write: whether older pages of the window have to go first, closed pages with their numbers,
    /// and the tail, which is replaced each time.
    pub(crate) fn unflushed(&self) -> Result<Unflushed<'_>, BadPage> {
        let (first_number, closed) = self.closed.not_flushed();
        Ok(Unflushed {
            replace: self.rewritten,
            closed: closed.collect::<Result<_, _>>()?,
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
    pub(crate) fn restore(start_ms: i64, closed: &[Page], tail: &[Page]) -> Result<Self, BadPage> {
        let (open, late_pages) = tail.split_first().ok_or(BadPage::NoTail)?;
        let mut late = Vec::new();
        for page in late_pages {
            read_page(page, &mut late)?;
        }
        Ok(Self {
            start_ms,
            last_ms: open.max_ts,
            closed: ClosedPages::flushed(closed),
            open: Open::resume(open)?,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(samples: i64, value: impl Fn(i64) -> f64) -> WindowPages {
        let mut window = WindowPages::new(0, 0, &Value::Float(value(0))).unwrap();
        for at in 1..samples {
            assert_eq!(window.put(at * 1000, Value::Float(value(at))).unwrap(), Put::Taken);
        }
        window
    }

    #[test]
    fn pages_are_closed_by_their_length_or_their_samples() {
        let constant = filled(480, |_| 1.0);
        assert_eq!((constant.page_count(), constant.sample_count()), (2, 480));
        let noise = filled(480, |at| (at as f64).sin());
        assert_eq!((noise.page_count(), noise.sample_count()), (480 / 32, 480));
    }

    #[test]
    fn placed_pages_are_those_of_the_range() {
        for mut window in [filled(300, |at| (at as f64).sqrt()), filled(300, |_| 5.0)] {
            for late in [false, true] {
                if late {
                    assert_eq!(window.put(1_500, Value::Float(7.0)).unwrap(), Put::Taken);
                }
                for (start_ms, end_ms) in [(0, 299_000), (40_000, 40_000), (250_000, i64::MAX), (300_000, i64::MAX)] {
                    let (mut placed, mut shared) = (Vec::new(), Vec::new());
                    window.place_pages(start_ms, end_ms, &mut placed, &mut shared).unwrap();
                    let shared = Bytes::from(shared);
                    let placed: Vec<Page> = placed.iter().map(|page| page.page(&shared)).collect();
                    let pages = window.pages(start_ms, end_ms).unwrap();
                    assert_eq!(placed, pages, "{start_ms} {end_ms}");
                    let mut first = Vec::new();
                    window.place_header(start_ms, end_ms, &mut first).unwrap();
                    assert_eq!(first.first().map(|page| page.header), pages.first().map(Page::header));
                }
            }
        }
    }
}
