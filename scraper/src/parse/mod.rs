//! Exposition formats: Prometheus text, OpenMetrics text and Prometheus protobuf, read from bytes.
//!
//! A [`Parser`] walks over an exposition entry by entry and keeps the current one; what an entry holds is asked for
//! afterwards. So a caller that knows a series by its raw text ([`Parser::series`]) never has its labels taken apart:
//! nothing is allocated, sorted or unescaped for it.
//!
//! Invariant: no input makes a parser panic, loop or take more memory than a small multiple of the input.

pub mod check;
pub mod content;
mod float;
mod labels;
mod lexer;
mod native;
mod openmetrics;
mod openmetrics_lexer;
mod protobuf;
mod protobuf_message;
mod strict;
mod strict_histogram;
mod text;
mod text_lexer;
mod wire;

pub use check::{Problem, Severity, check_metrics};
pub use content::{Format, accept_header, select_format};
pub use float::write_openmetrics_float;
pub use openmetrics::OpenMetricsParser;
pub use protobuf::ProtobufParser;
pub use text::TextParser;

use gnomon_model::histogram::FloatHistogram;
use std::borrow::Cow;

/// What the entry under the parser is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    Type,
    Help,
    Unit,
    Comment,
    /// A series with a float value.
    Sample,
    /// A series with a native histogram.
    Histogram,
}

/// What a metric family is declared to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MetricKind {
    #[default]
    Unknown,
    Counter,
    Gauge,
    Histogram,
    GaugeHistogram,
    Summary,
    Info,
    StateSet,
}

impl MetricKind {
    /// The word of expositions and of `/api/v1/metadata`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::GaugeHistogram => "gaugehistogram",
            Self::Summary => "summary",
            Self::Info => "info",
            Self::StateSet => "stateset",
        }
    }
}

/// Why an exposition was refused, worded as Prometheus does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParseError {
    pub message: String,
    /// Where the entry at fault begins, in bytes from the start of the exposition.
    pub offset: usize,
}

impl ParseError {
    pub(crate) fn new(offset: usize, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            offset,
        }
    }

    /// The line (from 1) that the entry at fault stands on.
    #[must_use]
    pub fn line(&self, input: &[u8]) -> usize {
        line_of(input, self.offset)
    }
}

fn line_of(input: &[u8], offset: usize) -> usize {
    let before = &input[..offset.min(input.len())];
    before.iter().filter(|b| **b == b'\n').count() + 1
}

/// An exemplar as it was exposed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    pub value: f64,
    /// None where the exposition gives no time: the sample's time stands in.
    pub timestamp_ms: Option<i64>,
}

/// A native histogram, and whether its counts were exposed as integers.
#[derive(Clone, Debug, PartialEq)]
pub struct NativeHistogram {
    pub histogram: FloatHistogram,
    pub is_integer: bool,
}

/// How values of `le` and `quantile` are rewritten, which depends on the family that the series stands in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FloatLabel {
    #[default]
    None,
    /// A classic histogram's series: `le`.
    Le,
    /// A summary's series: `quantile`.
    Quantile,
}

/// What names a series within expositions: its bytes, and how its labels are rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextKey {
    pub(crate) hash: u128,
    pub(crate) bytes: u32,
}

impl TextKey {
    #[inline]
    pub(crate) fn of(text: &[u8], float_label: FloatLabel) -> Self {
        Self {
            hash: xxhash_rust::xxh3::xxh3_128_with_seed(text, float_label as u64),
            bytes: u32::try_from(text.len()).unwrap_or(u32::MAX),
        }
    }
}

/// Walks over an exposition.
pub trait Parser: Send {
    /// Moves to the next entry: its kind, or none at the end.
    ///
    /// # Errors
    /// When the exposition is not well formed; the rest of it cannot be read.
    fn next_entry(&mut self) -> Result<Option<EntryKind>, ParseError>;

    /// The same, where the caller knows which series stood here in the scrape before. If it does again, its labels are not
    /// taken apart, and are not to be asked for.
    ///
    /// # Errors
    /// As above.
    fn next_entry_after(&mut self, likely: Option<TextKey>) -> Result<Option<EntryKind>, ParseError> {
        let _ = likely;
        self.next_entry()
    }

    /// Of Type, Help and Unit: the metric family's name.
    fn family(&self) -> Cow<'_, str>;
    /// Of Type and of samples: what the family is declared to be.
    fn kind(&self) -> MetricKind;
    /// Of Help, Unit and Comment: the text.
    fn text(&self) -> Cow<'_, str>;

    /// Of samples: bytes that name the series within this exposition; equal bytes and an equal
    /// [`Parser::float_label`] are the same labels.
    fn series(&self) -> &[u8];
    /// Of samples: how labels are rewritten.
    fn float_label(&self) -> FloatLabel {
        FloatLabel::None
    }
    /// Of samples: both of these.
    fn key(&self) -> TextKey {
        TextKey::of(self.series(), self.float_label())
    }
    /// Of float samples.
    fn value(&self) -> f64;
    /// Of samples: their own time.
    fn timestamp_ms(&self) -> Option<i64>;
    /// Of samples: appends the labels in canonical bytes (see `gnomon_model::labels`), sorted, without empty values.
    ///
    /// # Errors
    /// Label names that repeat, texts that are not UTF-8.
    fn write_labels(&self, out: &mut Vec<u8>) -> Result<(), ParseError>;
    /// Of samples: whether the series is exposed with this label and an empty value, which tells more than its absence
    /// where exposed labels win over the target's.
    fn exposes_empty(&self, name: &str) -> bool;
    /// Of Histogram. None where the current entry is none.
    ///
    /// # Errors
    /// When buckets and spans do not agree, or the schema is not known.
    fn histogram(&self) -> Result<Option<NativeHistogram>, ParseError> {
        Ok(None)
    }
    /// Of samples: the next exemplar, its labels appended to `labels` in canonical bytes; none when all were given. One whose
    /// label names repeat is left out.
    ///
    /// # Errors
    /// Texts that are not UTF-8, empty label names.
    fn exemplar(&mut self, labels: &mut Vec<u8>) -> Result<Option<Exemplar>, ParseError>;
    /// Of samples: when the series began, where the format says so beside the sample.
    fn created_ms(&self) -> Option<i64> {
        None
    }
}

/// Makes the parser of a format. `classic_too` keeps the classic series of histograms that are native as well.
#[must_use]
pub fn parser_for<'a>(
    format: Format,
    input: &'a [u8],
    native_histograms: bool,
    classic_too: bool,
) -> Box<dyn Parser + 'a> {
    match format {
        Format::Text => Box::new(TextParser::new(input)),
        Format::OpenMetrics => Box::new(OpenMetricsParser::new(input)),
        Format::Protobuf => Box::new(ProtobufParser::new(input, native_histograms, classic_too)),
    }
}

#[cfg(test)]
mod tests;
