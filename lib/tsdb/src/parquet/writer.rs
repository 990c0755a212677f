//! A file, row group by row group.

use super::columns::{Dictionary, Encoded, Runs, compressed, put_text};
use super::footer::{ColumnAt, RowGroup, data_header, dictionary_header, footer};
use crate::page::{HistogramSample, PageSamples, Starts};
use gnomon_model::histogram::{FloatHistogram, Span};
use gnomon_model::{LabelsRef, is_stale_nan};
use std::io::{self, Write};

const MAGIC: &[u8; 4] = b"PAR1";
/// A row group is closed at so many rows, or bytes of texts.
const GROUP_ROWS: usize = 256 << 10;
const GROUP_BYTES: usize = 64 << 20;

/// Writes one file. Memory: a row group, and some hundred bytes for each one before it.
pub struct ParquetWriter<W: Write> {
    out: W,
    at: u64,
    pub(super) groups: Vec<RowGroup>,
    open: Group,
}

/// The row group that is being filled.
#[derive(Default)]
struct Group {
    names: Dictionary,
    labels: Dictionary,
    timestamps: Vec<i64>,
    has_value: Runs,
    values: Vec<u8>,
    has_histogram: Runs,
    histograms: Vec<u8>,
    has_start: Runs,
    starts: Vec<u8>,
}

impl<W: Write> ParquetWriter<W> {
    /// # Errors
    /// When `out` fails.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(MAGIC)?;
        Ok(Self {
            out,
            at: MAGIC.len() as u64,
            groups: Vec::new(),
            open: Group::default(),
        })
    }

    /// Adds samples of a series, with their starts: one row each, but none for stale markers. Gives how many rows that were.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add_series(&mut self, labels: LabelsRef<'_>, samples: &[(PageSamples, Starts)]) -> io::Result<u64> {
        let name = labels.metric_name();
        let others = labels_json(labels)?;
        let mut rows = 0;
        for (page, starts) in samples {
            match page {
                PageSamples::Floats { timestamps, values } => {
                    let pairs = (0..).zip(timestamps.iter().zip(values));
                    for (place, (time, value)) in pairs.filter(|(_, (_, value))| !is_stale_nan(**value)) {
                        self.open.push(name, &others, *time, starts.get(place));
                        self.open.has_value.push(1);
                        self.open.has_histogram.push(0);
                        self.open.values.extend_from_slice(&value.to_le_bytes());
                        rows += 1;
                        self.close_if_full()?;
                    }
                }
                PageSamples::Histograms(all) => {
                    let samples = (0..).zip(all);
                    for (place, sample) in samples.filter(|(_, sample)| !sample.histogram.is_stale()) {
                        self.open.push(name, &others, sample.timestamp_ms, starts.get(place));
                        self.open.has_value.push(0);
                        self.open.has_histogram.push(1);
                        put_text(&mut self.open.histograms, &histogram_json(sample)?);
                        rows += 1;
                        self.close_if_full()?;
                    }
                }
            }
        }
        Ok(rows)
    }

    fn close_if_full(&mut self) -> io::Result<()> {
        let open = &self.open;
        let bytes = open.names.bytes() + open.labels.bytes() + open.histograms.len();
        if open.timestamps.len() >= GROUP_ROWS || bytes >= GROUP_BYTES {
            self.close_group()?;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn close_group(&mut self) -> io::Result<()> {
        let group = std::mem::take(&mut self.open);
        let rows = group.timestamps.len();
        if rows == 0 {
            return Ok(());
        }
        let times: Vec<u8> = group.timestamps.iter().flat_map(|time| time.to_le_bytes()).collect();
        let bounds = group.timestamps.iter().min().zip(group.timestamps.iter().max());
        let columns = vec![
            self.write_dictionary(&group.names, rows)?,
            self.write_dictionary(&group.labels, rows)?,
            ColumnAt {
                bounds: bounds.map(|(first, last)| (*first, *last)),
                ..self.write_values(&times, rows)?
            },
            self.write_values(&[group.has_value.levels(), group.values].concat(), rows)?,
            self.write_values(&[group.has_histogram.levels(), group.histograms].concat(), rows)?,
            self.write_values(&[group.has_start.levels(), group.starts].concat(), rows)?,
        ];
        self.groups.push(RowGroup {
            rows: rows as u64,
            columns,
        });
        Ok(())
    }

    /// Gives the length of the page, and what it would be without compression.
    fn write_page(&mut self, header: &[u8], page: &Encoded) -> io::Result<(u64, u64)> {
        self.write(header)?;
        self.write(&page.bytes)?;
        let lengths = [page.bytes.len(), page.raw_len].map(|len| (header.len() + len) as u64);
        Ok((lengths[0], lengths[1]))
    }

    fn write_values(&mut self, raw: &[u8], rows: usize) -> io::Result<ColumnAt> {
        let (values_at, page) = (self.at, compressed(raw)?);
        let (bytes, raw_bytes) = self.write_page(&data_header(&page, rows, false), &page)?;
        Ok(ColumnAt {
            dictionary_at: None,
            values_at,
            bytes,
            raw_bytes,
            bounds: None,
        })
    }

    fn write_dictionary(&mut self, column: &Dictionary, rows: usize) -> io::Result<ColumnAt> {
        let (dictionary_at, page) = (self.at, compressed(column.values())?);
        let dictionary = self.write_page(&dictionary_header(&page, column.len()), &page)?;
        let (values_at, page) = (self.at, compressed(&column.indices())?);
        let indices = self.write_page(&data_header(&page, rows, true), &page)?;
        Ok(ColumnAt {
            dictionary_at: Some(dictionary_at),
            values_at,
            bytes: dictionary.0 + indices.0,
            raw_bytes: dictionary.1 + indices.1,
            bounds: None,
        })
    }

    /// Writes the footer, and gives `out` back; it is to be flushed.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.close_group()?;
        let footer = footer(&self.groups);
        self.write(&footer)?;
        let len = u32::try_from(footer.len()).map_err(|_| io::Error::other("the footer is longer than 4 GiB"))?;
        self.write(&len.to_le_bytes())?;
        self.write(MAGIC)?;
        Ok(self.out)
    }
}

impl Group {
    fn push(&mut self, name: &str, labels: &str, time: i64, start_ms: i64) {
        self.names.push(name);
        self.labels.push(labels);
        self.timestamps.push(time);
        self.has_start.push(u32::from(start_ms != 0));
        if start_ms != 0 {
            self.starts.extend_from_slice(&start_ms.to_le_bytes());
        }
    }
}

/// All labels but the name.
fn labels_json(labels: LabelsRef<'_>) -> io::Result<String> {
    let others = labels.iter().filter(|(name, _)| *name != "__name__");
    let object: serde_json::Map<_, _> = others.map(|(name, value)| (name.to_owned(), value.into())).collect();
    Ok(serde_json::to_string(&object)?)
}

/// A histogram with its buckets as they are stored: spans, and absolute counts. JSON has no infinity and no NaN: numbers
/// that are such are texts.
fn histogram_json(sample: &HistogramSample) -> io::Result<String> {
    fn number(value: f64) -> serde_json::Value {
        serde_json::Number::from_f64(value).map_or_else(|| value.to_string().into(), Into::into)
    }
    let numbers = |values: &[f64]| values.iter().copied().map(number).collect::<Vec<_>>();
    let spans = |spans: &[Span]| {
        spans
            .iter()
            .map(|span| [i64::from(span.offset), i64::from(span.length)])
            .collect::<Vec<_>>()
    };
    let h: &FloatHistogram = &sample.histogram;
    let object = serde_json::json!({
        "count": number(h.count),
        "sum": number(h.sum),
        "schema": h.schema,
        "zero_threshold": number(h.zero_threshold),
        "zero_count": number(h.zero_count),
        "positive_spans": spans(&h.positive_spans),
        "positive_buckets": numbers(&h.positive_buckets),
        "negative_spans": spans(&h.negative_spans),
        "negative_buckets": numbers(&h.negative_buckets),
        "custom_values": numbers(&h.custom_values),
    });
    Ok(serde_json::to_string(&object)?)
}
