//! What a request was converted to: series with labels, and their items; bounded.

use super::BadOtlp;
use crate::ha::HaOptions;
use crate::intake::put_canonical;
use gnomon_cluster::router::LabelSource;
use gnomon_model::labels::put_uvarint;
use gnomon_model::{LabelsRef, METRIC_NAME};
use std::borrow::Cow;

/// A range of [`Converted::bytes`].
type Span = (u32, u32);

/// Something of a series.
#[derive(Clone, Copy, Debug)]
pub(super) enum Item {
    Sample {
        timestamp_ms: i64,
        start_ms: i64,
        value: f64,
    },
    Histogram {
        timestamp_ms: i64,
        start_ms: i64,
        encoded: Span,
    },
    Exemplar {
        timestamp_ms: i64,
        value: f64,
        labels: Span,
    },
}

impl Item {
    pub(super) const fn timestamp_ms(self) -> i64 {
        match self {
            Self::Sample { timestamp_ms, .. }
            | Self::Histogram { timestamp_ms, .. }
            | Self::Exemplar { timestamp_ms, .. } => timestamp_ms,
        }
    }
}

/// Metadata of a metric.
#[derive(Clone, Debug)]
pub(super) struct Metadata<'a> {
    pub(super) metric: String,
    pub(super) kind: &'static str,
    pub(super) unit: String,
    pub(super) help: &'a str,
}

/// Labels in the order of their names.
pub(super) type Base<'a> = [(Cow<'a, str>, Cow<'a, str>)];

/// What points were not taken for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rejected {
    pub(super) why: String,
    pub(super) points: u64,
}

/// Reasons that are told.
const MAX_REASONS: usize = 8;

#[derive(Debug)]
pub(super) struct Converted<'a> {
    /// Canonical labels, encoded histograms, labels of exemplars.
    bytes: Vec<u8>,
    pub(super) series: Vec<Span>,
    /// With the number of the series.
    pub(super) items: Vec<(u32, Item)>,
    pub(super) metadata: Vec<Metadata<'a>>,
    pub(super) rejected: Vec<Rejected>,
    /// Points that were rejected for reasons beyond those.
    pub(super) rejected_more: u64,
    /// Bytes that may still be taken.
    room: usize,
    most: usize,
    pub(super) ha: Option<HaOptions>,
    /// Of the samples and histograms that come, in milliseconds; 0 where it is not known.
    pub(super) start_ms: i64,
}

impl<'a> Converted<'a> {
    pub(super) fn new(most_bytes: usize) -> Self {
        // Ranges have 32 bits.
        let most = most_bytes.min(1 << 30);
        Self {
            bytes: Vec::new(),
            series: Vec::new(),
            items: Vec::new(),
            metadata: Vec::new(),
            rejected: Vec::new(),
            rejected_more: 0,
            room: most,
            most,
            ha: None,
            start_ms: 0,
        }
    }

    /// Bytes that it holds, about.
    pub(super) const fn weight(&self) -> usize {
        self.most - self.room
    }

    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), BadOtlp> {
        self.room = self.room.checked_sub(bytes).ok_or(BadOtlp::TooLarge(self.most))?;
        Ok(())
    }

    pub(super) fn reject(&mut self, why: String, points: u64) {
        if points == 0 {
            return;
        }
        if let Some(known) = self.rejected.iter_mut().find(|r| r.why == why) {
            known.points += points;
        } else if self.rejected.len() < MAX_REASONS {
            self.rejected.push(Rejected { why, points });
        } else {
            self.rejected_more += points;
        }
    }

    /// Points that were rejected.
    pub(super) fn rejected_points(&self) -> u64 {
        self.rejected_more + self.rejected.iter().map(|r| r.points).sum::<u64>()
    }

    fn since(&self, start: usize) -> Span {
        (start as u32, self.bytes.len() as u32)
    }

    fn range(&self, (start, end): Span) -> &[u8] {
        self.bytes.get(start as usize..end as usize).unwrap_or(&[])
    }

    /// Begins a series: the base's labels, its name, and one label more. Its number.
    pub(super) fn series(&mut self, base: &Base<'_>, name: &str, more: Option<(&str, &str)>) -> Result<u32, BadOtlp> {
        let start = self.bytes.len();
        let mut extra = [Some((METRIC_NAME, name)), more];
        // There are two at most: by name.
        if more.is_some_and(|(label, _)| label < METRIC_NAME) {
            extra.swap(0, 1);
        }
        let mut extra = extra.into_iter().flatten().peekable();
        let mut base = base.iter().peekable();
        loop {
            let (label, value) = match (base.peek(), extra.peek()) {
                (None, None) => break,
                (Some((b, _)), Some((e, _))) if b.as_ref() == *e => {
                    base.next();
                    continue;
                }
                (Some((b, value)), e) if e.is_none_or(|(e, _)| b.as_ref() < *e) => {
                    base.next();
                    (b.as_ref(), value.as_ref())
                }
                _ => match extra.next() {
                    Some(pair) => pair,
                    None => break,
                },
            };
            if !value.is_empty() {
                for text in [label, value] {
                    put_uvarint(&mut self.bytes, text.len() as u64);
                    self.bytes.extend_from_slice(text.as_bytes());
                }
            }
        }
        let span = self.since(start);
        self.series.push(span);
        // A series has its range and its identity besides.
        self.charge(self.bytes.len() - start + 32)?;
        Ok(self.series.len() as u32 - 1)
    }

    pub(super) fn sample(&mut self, series: u32, timestamp_ms: i64, value: f64) -> Result<(), BadOtlp> {
        let item = Item::Sample {
            timestamp_ms,
            start_ms: self.start_ms,
            value,
        };
        self.items.push((series, item));
        self.charge(size_of::<(u32, Item)>())
    }

    pub(super) fn histogram(&mut self, series: u32, timestamp_ms: i64, encoded: &[u8]) -> Result<(), BadOtlp> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(encoded);
        let encoded = self.since(start);
        let item = Item::Histogram {
            timestamp_ms,
            start_ms: self.start_ms,
            encoded,
        };
        self.items.push((series, item));
        self.charge(self.bytes.len() - start + size_of::<(u32, Item)>())
    }

    /// `labels` are canonical.
    pub(super) fn exemplar(
        &mut self,
        series: u32,
        timestamp_ms: i64,
        value: f64,
        labels: &[u8],
    ) -> Result<(), BadOtlp> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(labels);
        let item = Item::Exemplar {
            timestamp_ms,
            value,
            labels: self.since(start),
        };
        self.items.push((series, item));
        self.charge(self.bytes.len() - start + size_of::<(u32, Item)>())
    }

    pub(super) fn labels(&self, series: u32) -> LabelsRef<'_> {
        let span = self.series.get(series as usize).copied().unwrap_or((0, 0));
        LabelsRef::from_canonical(self.range(span))
    }

    pub(super) fn encoded(&self, span: Span) -> &[u8] {
        self.range(span)
    }
}

impl LabelSource for Converted<'_> {
    fn write_labels(&self, series: u32, out: &mut Vec<u8>) {
        let labels = self.labels(series);
        match &self.ha {
            None => out.extend_from_slice(labels.as_bytes()),
            Some(ha) => {
                let pairs = labels.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
                // They are canonical already, so that it cannot fail but for an absent name, which the router refuses.
                let start = out.len();
                if put_canonical(pairs.collect(), Some(ha), out).is_none() {
                    out.truncate(start);
                }
            }
        }
    }
}
