//! A page: consecutive samples of one series within one window, in one coding.
//!
//! ```text
//! page = coding:u8  count:uvarint  min_ts:uvarint(zigzag)  max_ts-min_ts:uvarint  [starts, if coding has bit 7]  body
//! ```
//!
//! Timestamps are strictly increasing within a page. The codings' bodies are drawn in `format.md`.

mod bits;
mod coded;
mod column;
mod decimals;
mod dense;
mod float;
mod histogram;
mod packed;
mod recode;
mod starts;
#[cfg(test)]
mod tests;
pub(crate) mod times;

pub(crate) use column::ONE_VALUE;
pub use dense::Effort;
pub use float::FloatPageBuilder;
pub use histogram::HistogramPageBuilder;
pub use starts::{Starts, decode_started_within};

pub(crate) use bits::{unzigzag, zigzag};
use bytes::Bytes;
use gnomon_model::histogram::FloatHistogram;
use gnomon_model::labels::{get_uvarint, put_uvarint};

/// No page has more samples: a bound on what a decoder allocates, since a page of a constant is a few bytes long.
pub const MAX_PAGE_SAMPLES: u32 = 1 << 16;

/// How the samples of a page are written: its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Coding {
    /// Float samples: delta-of-delta timestamps, XOR or integer-delta values, runs.
    Float = 1,
    /// Native histogram samples.
    Histogram = 2,
    /// Float samples, times and values apart, as packed whole numbers: quickly decoded, written when a page is closed.
    Columns = 3,
    /// As columns, with the numbers in as few bytes as they will go: what merged blocks have.
    Dense = 4,
}

impl Coding {
    #[must_use]
    pub const fn from_tag(tag: u8) -> Option<Self> {
        match tag {
            1 => Some(Self::Float),
            2 => Some(Self::Histogram),
            3 => Some(Self::Columns),
            4 => Some(Self::Dense),
            _ => None,
        }
    }

    /// Whether pages of this coding hold floats.
    #[must_use]
    pub const fn is_of_floats(self) -> bool {
        matches!(self, Self::Float | Self::Columns | Self::Dense)
    }

    /// Whether its pages have times and values apart.
    #[must_use]
    pub(crate) const fn is_of_columns(self) -> bool {
        matches!(self, Self::Columns | Self::Dense)
    }

    #[must_use]
    pub const fn tag(self) -> u8 {
        self as u8
    }
}

/// Bytes that are no page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    #[error("page coding {0} is unknown to this version: 1 to 4 are known")]
    UnknownCoding(u8),
    #[error("a page of floats was expected, this one has histograms, or the reverse")]
    OtherCoding,
    #[error("page ends within a sample")]
    Truncated,
    #[error("page contradicts itself: {0}")]
    Corrupt(&'static str),
}

/// Why a builder did not take a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The timestamp is not after the last one.
    #[error("timestamp is not after the page's last")]
    OutOfOrder,
    /// Start another page.
    #[error("page is full")]
    Full,
}

/// One encoded page. The fields repeat what its header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub coding: Coding,
    pub count: u32,
    /// First timestamp, milliseconds.
    pub min_ts: i64,
    /// Last timestamp, milliseconds, inclusive.
    pub max_ts: i64,
    /// The whole page, header included.
    pub bytes: Bytes,
}

impl Page {
    /// Reads the header; the body is not looked at.
    ///
    /// # Errors
    /// When the header is cut short or no page has such a one.
    pub fn parse(bytes: Bytes) -> Result<Self, PageError> {
        Ok(PageHeader::read(&bytes)?.of(bytes))
    }

    /// What it begins with.
    #[must_use]
    pub const fn header(&self) -> PageHeader {
        PageHeader {
            coding: self.coding,
            count: self.count,
            min_ts: self.min_ts,
            max_ts: self.max_ts,
        }
    }

    /// Whether a sample of the page may lie in `start_ms..=end_ms`.
    #[must_use]
    pub const fn overlaps(&self, start_ms: i64, end_ms: i64) -> bool {
        self.header().overlaps(start_ms, end_ms)
    }

    /// Decodes a page of either coding.
    ///
    /// # Errors
    /// When the bytes are damaged.
    pub fn decode(&self) -> Result<PageSamples, PageError> {
        match self.coding {
            Coding::Float | Coding::Columns | Coding::Dense => {
                let (mut timestamps, mut values) = (Vec::new(), Vec::new());
                decode_into(&self.bytes, &mut timestamps, &mut values)?;
                Ok(PageSamples::Floats { timestamps, values })
            }
            Coding::Histogram => {
                let mut samples = Vec::new();
                decode_histograms_into(&self.bytes, &mut samples)?;
                Ok(PageSamples::Histograms(samples))
            }
        }
    }
}

impl Page {
    /// The page for keeping: one of floats in columns, unless that is a good deal longer.
    ///
    /// # Errors
    /// When the bytes are damaged.
    pub fn closed(self) -> Result<Self, PageError> {
        if self.coding != Coding::Float {
            return Ok(self);
        }
        if self.has_starts() {
            let starts = self.starts()?;
            return self.without_starts()?.closed()?.with_starts(&starts);
        }
        let (mut timestamps, mut values) = (Vec::new(), Vec::new());
        decode_into(&self.bytes, &mut timestamps, &mut values)?;
        let columns = column::encode(&timestamps, &values);
        Ok(match columns.filter(|bytes| is_short_enough(bytes, &self.bytes)) {
            Some(bytes) => Self {
                coding: Coding::Columns,
                bytes: bytes.into(),
                ..self
            },
            None => self,
        })
    }

    /// A closed page of floats; none where there are no samples, too many, or their times do not ascend.
    #[must_use]
    pub fn of_floats(timestamps: &[i64], values: &[f64]) -> Option<Self> {
        let columns = column::encode(timestamps, values)?;
        if columns.len() > SHORT_PAGE_BYTES + values.len() * SHORT_SAMPLE_BYTES {
            let mut builder = FloatPageBuilder::new();
            for (ts, value) in timestamps.iter().zip(values) {
                builder.append(*ts, *value).ok()?;
            }
            let page = builder.page()?;
            if !is_short_enough(&columns, &page.bytes) {
                return Some(page);
            }
        }
        Some(Self {
            coding: Coding::Columns,
            count: values.len() as u32,
            min_ts: *timestamps.first()?,
            max_ts: *timestamps.last()?,
            bytes: columns.into(),
        })
    }
}

/// Columns up to this length are not compared with the other coding.
const SHORT_PAGE_BYTES: usize = 24;
const SHORT_SAMPLE_BYTES: usize = 3;

/// Columns are decoded several times as fast: they may be somewhat longer.
fn is_short_enough(columns: &[u8], floats: &[u8]) -> bool {
    columns.len() <= floats.len() + floats.len() / 4 + 8
}

/// What was in a page.
#[derive(Clone, Debug, PartialEq)]
pub enum PageSamples {
    Floats { timestamps: Vec<i64>, values: Vec<f64> },
    Histograms(Vec<HistogramSample>),
}

impl PageSamples {
    /// Times of the samples, in milliseconds.
    #[must_use]
    pub fn times(&self) -> Vec<i64> {
        match self {
            Self::Floats { timestamps, .. } => timestamps.clone(),
            Self::Histograms(samples) => samples.iter().map(|sample| sample.timestamp_ms).collect(),
        }
    }
}

/// A histogram at an instant.
#[derive(Clone, Debug, PartialEq)]
pub struct HistogramSample {
    pub timestamp_ms: i64,
    /// It was sent with integer counts (all counts are then integers from 0 up to 2^53).
    pub is_integer: bool,
    pub histogram: FloatHistogram,
}

/// Decodes a page of floats of either coding, appending to both vectors; nothing is appended on error.
///
/// # Errors
/// When the bytes are not a page of floats or are damaged. Allocates for [`MAX_PAGE_SAMPLES`] samples at most.
pub fn decode_into(bytes: &[u8], timestamps: &mut Vec<i64>, values: &mut Vec<f64>) -> Result<(), PageError> {
    decode_within(bytes, i64::MIN, i64::MAX, timestamps, values)
}

/// As [`decode_into`], of samples in `start_ms..=end_ms` only. Damage of the others may go unnoticed.
///
/// # Errors
/// As [`decode_into`].
pub fn decode_within(
    bytes: &[u8],
    start_ms: i64,
    end_ms: i64,
    timestamps: &mut Vec<i64>,
    values: &mut Vec<f64>,
) -> Result<(), PageError> {
    let coding = bytes
        .first()
        .and_then(|tag| Coding::from_tag(tag & !starts::WITH_STARTS));
    if coding.is_some_and(Coding::is_of_columns) {
        return column::decode_into(bytes, (start_ms, end_ms), timestamps, values);
    }
    let begin = timestamps.len();
    float::decode_into(bytes, timestamps, values)?;
    let begin_of_values = values.len() + begin - timestamps.len();
    let all = &timestamps[begin..];
    let from = all.partition_point(|t| *t < start_ms);
    let to = all.partition_point(|t| *t <= end_ms).max(from);
    timestamps.truncate(begin + to);
    values.truncate(begin_of_values + to);
    if from > 0 {
        timestamps.drain(begin..begin + from);
        values.drain(begin_of_values..begin_of_values + from);
    }
    Ok(())
}

/// Decodes a page of histograms, appending; nothing is appended on error.
///
/// # Errors
/// When the bytes are not a page of histograms or are damaged.
pub fn decode_histograms_into(bytes: &[u8], samples: &mut Vec<HistogramSample>) -> Result<(), PageError> {
    histogram::decode_into(bytes, samples)
}

/// What a page begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageHeader {
    pub coding: Coding,
    pub count: u32,
    /// First timestamp, milliseconds.
    pub min_ts: i64,
    /// Last timestamp, milliseconds, inclusive.
    pub max_ts: i64,
}

impl PageHeader {
    /// Of a page; its body is not looked at.
    ///
    /// # Errors
    /// When it is cut short or no page has such a one.
    pub fn read(page: &[u8]) -> Result<Self, PageError> {
        Self::split_header(page).map(|(header, _)| header)
    }

    /// Whether a sample of the page may lie in `start_ms..=end_ms`.
    #[must_use]
    pub const fn overlaps(&self, start_ms: i64, end_ms: i64) -> bool {
        self.min_ts <= end_ms && start_ms <= self.max_ts
    }

    /// The page that has it.
    #[must_use]
    pub const fn of(self, bytes: Bytes) -> Page {
        Page {
            coding: self.coding,
            count: self.count,
            min_ts: self.min_ts,
            max_ts: self.max_ts,
            bytes,
        }
    }

    /// Of samples whose times are apart from their values; none where there are no samples, too many, or their times do
    /// not ascend.
    fn of_columns(coding: Coding, timestamps: &[i64], values: &[f64]) -> Option<Self> {
        let ascending = timestamps.windows(2).all(|w| w[0] < w[1]);
        let is_page = timestamps.len() == values.len() && values.len() <= MAX_PAGE_SAMPLES as usize && ascending;
        is_page.then_some(Self {
            coding,
            count: values.len() as u32,
            min_ts: *timestamps.first()?,
            max_ts: *timestamps.last()?,
        })
    }

    pub(crate) fn write(self, out: &mut Vec<u8>) {
        out.push(self.coding.tag());
        put_uvarint(out, u64::from(self.count));
        put_uvarint(out, zigzag(self.min_ts));
        put_uvarint(out, self.max_ts.wrapping_sub(self.min_ts) as u64);
    }

    /// The header, and the body that follows it and the starts.
    fn split(bytes: &[u8]) -> Result<(Self, &[u8]), PageError> {
        let (header, rest) = Self::split_header(bytes)?;
        if bytes[0] & starts::WITH_STARTS == 0 {
            return Ok((header, rest));
        }
        Ok((header, starts::skip(rest).ok_or(PageError::Truncated)?))
    }

    /// The header, and what follows it: the starts, where the page has some, and the body.
    fn split_header(bytes: &[u8]) -> Result<(Self, &[u8]), PageError> {
        let (&tag, rest) = bytes.split_first().ok_or(PageError::Truncated)?;
        let coding = Coding::from_tag(tag & !starts::WITH_STARTS).ok_or(PageError::UnknownCoding(tag))?;
        let (count, rest) = get_uvarint(rest).ok_or(PageError::Truncated)?;
        let (min, rest) = get_uvarint(rest).ok_or(PageError::Truncated)?;
        let (width, rest) = get_uvarint(rest).ok_or(PageError::Truncated)?;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if count == 0 || count > MAX_PAGE_SAMPLES {
            return Err(PageError::Corrupt("count is 0 or beyond 65536"));
        }
        let min_ts = unzigzag(min);
        let max_ts = min_ts.wrapping_add(width as i64);
        if max_ts < min_ts || (count == 1) != (width == 0) {
            return Err(PageError::Corrupt("time range does not fit the count"));
        }
        let header = Self {
            coding,
            count,
            min_ts,
            max_ts,
        };
        Ok((header, rest))
    }

    fn read_as(bytes: &[u8], coding: Coding) -> Result<(Self, &[u8]), PageError> {
        let (header, body) = Self::split(bytes)?;
        if header.coding != coding {
            return Err(PageError::OtherCoding);
        }
        Ok((header, body))
    }
}
