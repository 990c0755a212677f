//! The page of a series' window that grows.

use super::value::Value;
use super::window::BadPage;
use gnomon_tsdb::page::{AppendError, Coding, FloatPageBuilder, HistogramPageBuilder, Page, PageHeader, decode_into};

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
}

impl GrowingPage {
    pub(super) fn new(timestamp_ms: i64, value: &Value) -> Result<Self, BadPage> {
        let mut open = match value {
            Value::Float(_) => Self::Float(FloatPageBuilder::new()),
            Value::Histogram(_) => Self::Histogram(Box::new(HistogramPageBuilder::new())),
        };
        open.append(timestamp_ms, value)?;
        Ok(open)
    }

    /// Begins the next page, which such a value goes to.
    pub(super) fn restart(&mut self, value: &Value) {
        match (&mut *self, value) {
            (Self::Float(page), Value::Float(_)) => page.restart(),
            (_, Value::Float(_)) => *self = Self::Float(FloatPageBuilder::new()),
            (_, Value::Histogram(_)) => *self = Self::Histogram(Box::new(HistogramPageBuilder::new())),
        }
    }

    /// Continues a page.
    pub(super) fn resume(page: &Page) -> Result<Self, BadPage> {
        Ok(match page.coding {
            Coding::Float => Self::Float(FloatPageBuilder::resume(&page.bytes)?),
            Coding::Columns | Coding::Dense => return Self::reopen(page),
            Coding::Histogram => Self::Histogram(Box::new(HistogramPageBuilder::resume(&page.bytes)?)),
        })
    }

    /// Continues a page that was closed.
    pub(super) fn reopen(page: &Page) -> Result<Self, BadPage> {
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
        }
    }

    /// Memory beside this struct, in bytes.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Float(page) => page.memory_bytes() - size_of::<FloatPageBuilder>(),
            Self::Histogram(page) => size_of_val(&**page),
        }
    }

    /// None of histograms.
    pub(super) fn last_value(&self) -> Option<f64> {
        match self {
            Self::Float(page) => page.last_value(),
            Self::Histogram(_) => None,
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
        }
    }

    /// Whether the page goes on with such a value.
    pub(super) fn takes(&self, value: &Value) -> bool {
        let same_kind = matches!(
            (self, value),
            (Self::Float(_), Value::Float(_)) | (Self::Histogram(_), Value::Histogram(_))
        );
        let is_long = matches!(self, Self::Float(page) if page.data_len() >= PAGE_BYTES);
        same_kind && self.len() < if is_long { FEW_PAGE_SAMPLES } else { PAGE_SAMPLES }
    }

    pub(super) fn append(&mut self, timestamp_ms: i64, value: &Value) -> Result<(), AppendError> {
        match (self, value) {
            (Self::Float(page), Value::Float(value)) => page.append(timestamp_ms, *value),
            (Self::Histogram(page), Value::Histogram(value)) => {
                page.append(timestamp_ms, &value.histogram, value.is_integer)
            }
            _ => Err(AppendError::Full),
        }
    }
}
