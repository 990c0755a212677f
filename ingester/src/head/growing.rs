//! The page of a series' window that grows.

use super::value::{Sample, Value};
use super::window::BadPage;
use gnomon_tsdb::page::{
    AppendError, Coding, FloatPageBuilder, HistogramPageBuilder, Page, PageHeader, Starts, decode_into,
};

/// A page is closed at this many samples, so that what is flushed again and again stays small,
const PAGE_SAMPLES: usize = 240;
/// or at so many bytes of data, if it has some samples: closed pages are decoded several times as fast. What goes with
/// a page is a sixth of that.
const PAGE_BYTES: usize = 128;
const FEW_PAGE_SAMPLES: usize = 32;

/// The page that grows.
#[derive(Debug)]
pub(crate) enum GrowingPage {
    Float(FloatPageBuilder),
    Histogram(Box<HistogramPageBuilder>),
    /// Of either kind, with start timestamps: most have none, and take no room for them.
    Started(Box<StartedPage>),
}

#[derive(Debug)]
pub(crate) struct StartedPage {
    /// Without starts.
    page: GrowingPage,
    starts: Starts,
}

impl GrowingPage {
    pub(super) fn new(timestamp_ms: i64, sample: &Sample) -> Result<Self, BadPage> {
        let mut open = Self::of_kind(&sample.value);
        open.append(timestamp_ms, sample)?;
        Ok(open)
    }

    fn of_kind(value: &Value) -> Self {
        match value {
            Value::Float(_) => Self::Float(FloatPageBuilder::new()),
            Value::Histogram(_) => Self::Histogram(Box::new(HistogramPageBuilder::new())),
        }
    }

    /// Begins the next page, which such a value goes to.
    pub(super) fn restart(&mut self, value: &Value) {
        match (&mut *self, value) {
            (Self::Float(page), Value::Float(_)) => page.restart(),
            (Self::Started(there), _) => {
                there.page.restart(value);
                there.starts = Starts::default();
            }
            _ => *self = Self::of_kind(value),
        }
    }

    /// Continues a page.
    pub(super) fn resume(page: &Page) -> Result<Self, BadPage> {
        let open = match page.coding {
            Coding::Float => Self::Float(FloatPageBuilder::resume(&page.bytes)?),
            Coding::Columns | Coding::Dense => Self::reopen(page)?,
            Coding::Histogram => Self::Histogram(Box::new(HistogramPageBuilder::resume(&page.bytes)?)),
        };
        if !page.has_starts() {
            return Ok(open);
        }
        let starts = page.starts()?;
        Ok(Self::Started(Box::new(StartedPage { page: open, starts })))
    }

    /// Continues the values of a page that was closed.
    fn reopen(page: &Page) -> Result<Self, BadPage> {
        let (mut timestamps, mut values) = (Vec::new(), Vec::new());
        decode_into(&page.bytes, &mut timestamps, &mut values)?;
        let mut open = FloatPageBuilder::new();
        for (timestamp_ms, value) in timestamps.into_iter().zip(values) {
            open.append(timestamp_ms, value)?;
        }
        Ok(Self::Float(open))
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Float(page) => page.len(),
            Self::Histogram(page) => page.len(),
            Self::Started(there) => there.page.len(),
        }
    }

    /// Memory beside this struct, in bytes.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Float(page) => page.memory_bytes() - size_of::<FloatPageBuilder>(),
            Self::Histogram(page) => size_of_val(&**page),
            Self::Started(there) => size_of::<StartedPage>() + there.page.heap_bytes() + there.starts.memory_bytes(),
        }
    }

    pub(super) fn is_of_histograms(&self) -> bool {
        match self {
            Self::Float(_) => false,
            Self::Histogram(_) => true,
            Self::Started(there) => there.page.is_of_histograms(),
        }
    }

    /// None of histograms.
    pub(super) fn last_value(&self) -> Option<f64> {
        match self {
            Self::Float(page) => page.last_value(),
            Self::Histogram(_) => None,
            Self::Started(there) => there.page.last_value(),
        }
    }

    pub(super) fn first_ms(&self) -> i64 {
        self.header().map_or(i64::MAX, |header| header.min_ts)
    }

    /// What the page begins with; none before its first sample.
    pub(super) fn header(&self) -> Option<PageHeader> {
        let (coding, times) = match self {
            Self::Float(page) => (Coding::Float, page.first_ts().zip(page.last_ts())),
            Self::Histogram(page) => (Coding::Histogram, page.first_ts().zip(page.last_ts())),
            Self::Started(there) => return there.page.header(),
        };
        times.map(|(min_ts, max_ts)| PageHeader {
            coding,
            count: self.len() as u32,
            min_ts,
            max_ts,
        })
    }

    pub(super) fn page(&self) -> Option<Page> {
        match self {
            Self::Float(page) => page.page(),
            Self::Histogram(page) => page.page(),
            Self::Started(_) => {
                let header = self.header()?;
                let mut bytes = Vec::new();
                self.write_to(&mut bytes);
                Some(header.of(bytes.into()))
            }
        }
    }

    /// Appends the bytes of the page; nothing before its first sample.
    pub(super) fn write_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Float(page) => page.write_to(out),
            Self::Histogram(page) => page.write_to(out),
            Self::Started(there) => {
                let from = out.len();
                there.page.write_to(out);
                there.starts.put_into(out, from);
            }
        }
    }

    /// Whether the page goes on with such a value.
    pub(super) fn takes(&self, value: &Value) -> bool {
        let same_kind = match (self, value) {
            (Self::Started(there), _) => return there.page.takes(value),
            (Self::Float(_), Value::Float(_)) | (Self::Histogram(_), Value::Histogram(_)) => true,
            _ => false,
        };
        let is_long = matches!(self, Self::Float(page) if page.data_len() >= PAGE_BYTES);
        same_kind && self.len() < if is_long { FEW_PAGE_SAMPLES } else { PAGE_SAMPLES }
    }

    #[inline]
    pub(super) fn append(&mut self, timestamp_ms: i64, sample: &Sample) -> Result<(), AppendError> {
        let Sample { value, start_ms } = sample;
        if let Self::Started(there) = self {
            let place = there.page.len() as u32;
            there.page.append_value(timestamp_ms, value)?;
            there.starts.push(place, *start_ms);
            return Ok(());
        }
        self.append_value(timestamp_ms, value)?;
        if *start_ms != 0 {
            self.begin_starts(*start_ms);
        }
        Ok(())
    }

    /// To a page without starts.
    #[inline]
    fn append_value(&mut self, timestamp_ms: i64, value: &Value) -> Result<(), AppendError> {
        match (self, value) {
            (Self::Float(page), Value::Float(value)) => page.append(timestamp_ms, *value),
            (Self::Histogram(page), Value::Histogram(value)) => {
                page.append(timestamp_ms, &value.histogram, value.is_integer)
            }
            _ => Err(AppendError::Full),
        }
    }

    /// The last sample is the first with a start.
    #[cold]
    fn begin_starts(&mut self, start_ms: i64) {
        let page = std::mem::replace(self, Self::Float(FloatPageBuilder::new()));
        let mut starts = Starts::default();
        starts.push(page.len() as u32 - 1, start_ms);
        *self = Self::Started(Box::new(StartedPage { page, starts }));
    }
}
