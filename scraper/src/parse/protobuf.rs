//! Prometheus protobuf: `io.prometheus.client.MetricFamily` messages, each behind its length as a varint. Classic
//! histograms and summaries become the series that the text formats have for them.

use super::labels::{write_exemplar_pairs, write_pairs};
use super::lexer::Quote;
use super::protobuf_message::{Family, Metric, RawExemplar};
use super::wire::{BadWire, Fields, take_varint};
use super::{EntryKind, Exemplar, MetricKind, NativeHistogram, ParseError, Parser, native, write_openmetrics_float};
use gnomon_model::METRIC_NAME;
use std::borrow::Cow;

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Family,
    Help,
    Type,
    Unit,
    Metric,
    /// The native histogram of a metric.
    Native,
    /// A series of a classic histogram or summary: 0 count, 1 sum, then buckets or quantiles.
    Series(usize),
}

/// Reads one exposition. See [`Parser`].
#[derive(Debug)]
pub struct ProtobufParser<'a> {
    input: &'a [u8],
    rest: &'a [u8],
    family: Family<'a>,
    metrics: Fields<'a>,
    metric: Metric<'a>,
    /// Native histograms are read; else what is classic in them.
    native: bool,
    classic_too: bool,
    state: State,
    entry: usize,
    /// The canonical labels of the current series: what it is known by, since there is no text.
    labels: Vec<u8>,
    value: f64,
    next_exemplar: usize,
}

impl<'a> ProtobufParser<'a> {
    #[must_use]
    pub fn new(input: &'a [u8], native: bool, classic_too: bool) -> Self {
        Self {
            input,
            rest: input,
            family: Family::default(),
            metrics: Fields(&[]),
            metric: Metric::default(),
            native,
            classic_too,
            state: State::Family,
            entry: 0,
            labels: Vec::new(),
            value: 0.0,
            next_exemplar: 0,
        }
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError::new(self.entry, message))
    }

    fn wire<T>(&self, result: Result<T, BadWire>) -> Result<T, ParseError> {
        result.map_err(|e| ParseError::new(self.entry, e.to_string()))
    }

    /// Reads the head of the next family that has metrics; false at the end.
    fn next_family(&mut self) -> Result<bool, ParseError> {
        while !self.rest.is_empty() {
            self.entry = self.input.len() - self.rest.len();
            let Ok((length, rest)) = take_varint(self.rest) else {
                return self.fail("protobufparse: invalid varint encountered");
            };
            let body = usize::try_from(length).ok().and_then(|n| rest.split_at_checked(n));
            let Some((body, rest)) = body else {
                return self.fail(format!(
                    "protobufparse: insufficient length of buffer, expected at least {length} bytes, got {} bytes",
                    rest.len()
                ));
            };
            self.rest = rest;
            self.family = self.wire(Family::read(body))?;
            self.metrics = Fields(body);
            if self.metrics.clone().any(|f| f.is_ok_and(|f| f.number == 4)) {
                self.check_family()?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn check_family(&self) -> Result<(), ParseError> {
        let Family { name, unit, .. } = self.family;
        if name.is_empty() {
            return self.fail("invalid metric name: ");
        }
        let Some(kind) = self.family.kind else {
            let message = format!(
                "unknown metric type for metric {}: {}",
                Quote(name.as_bytes()),
                self.family.type_number
            );
            return self.fail(message);
        };
        let stem = match kind {
            MetricKind::Counter => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        let fits = unit.is_empty() || stem.strip_suffix(unit).is_some_and(|s| s.ends_with('_'));
        if !fits {
            return self.fail(format!(
                "unit {} not a suffix of metric {}",
                Quote(unit.as_bytes()),
                Quote(name.as_bytes())
            ));
        }
        Ok(())
    }

    /// Reads the next metric of the family; false when there is none.
    fn next_metric(&mut self) -> Result<bool, ParseError> {
        let kind = self.kind_of_family();
        while let Some(field) = self.metrics.next() {
            let field = self.wire(field)?;
            if field.number == 4 {
                let body = self.wire(field.bytes())?;
                let read = self.metric.read(body, kind);
                self.wire(read)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn kind_of_family(&self) -> MetricKind {
        self.family.kind.unwrap_or_default()
    }

    /// What the metric just read begins with.
    fn first_state(&self) -> State {
        match self.kind_of_family() {
            MetricKind::Histogram | MetricKind::GaugeHistogram if self.native && self.metric.native.is_native() => {
                State::Native
            }
            _ => State::Series(0),
        }
    }

    fn after_native(&self) -> State {
        if self.classic_too && !self.metric.buckets.is_empty() {
            State::Series(0)
        } else {
            State::Metric
        }
    }

    /// Makes the series at `position` current. None: the metric has no more.
    fn series_at(&mut self, position: usize) -> Result<Option<()>, ParseError> {
        let kind = self.kind_of_family();
        let metric = &self.metric;
        let (suffix, extra, value) = match (kind, position) {
            (MetricKind::Histogram | MetricKind::GaugeHistogram | MetricKind::Summary, 0) => {
                ("_count", None, metric.observations())
            }
            (MetricKind::Histogram | MetricKind::GaugeHistogram | MetricKind::Summary, 1) => ("_sum", None, metric.sum),
            (MetricKind::Summary, n) => match metric.quantiles.get(n - 2) {
                Some((quantile, value)) => ("", Some(("quantile", *quantile)), *value),
                None => return Ok(None),
            },
            (MetricKind::Histogram | MetricKind::GaugeHistogram, n) => {
                let buckets = &metric.buckets;
                let has_infinite = buckets.last().is_some_and(|b| b.upper == f64::INFINITY);
                match buckets.get(n - 2) {
                    Some(bucket) => ("_bucket", Some(("le", bucket.upper)), bucket.observations()),
                    None if n - 2 == buckets.len() && !has_infinite => {
                        ("_bucket", Some(("le", f64::INFINITY)), metric.observations())
                    }
                    None => return Ok(None),
                }
            }
            (_, 0) => ("", None, metric.value),
            (_, _) => return Ok(None),
        };
        self.value = if value.is_nan() {
            gnomon_model::NORMAL_NAN
        } else {
            value
        };
        self.name_series(suffix, extra)?;
        self.next_exemplar = 0;
        Ok(Some(()))
    }

    /// Writes the canonical labels of the current series.
    fn name_series(&mut self, suffix: &str, extra: Option<(&str, f64)>) -> Result<(), ParseError> {
        let mut number = Vec::new();
        if let Some((_, value)) = extra {
            write_openmetrics_float(&mut number, value);
        }
        let number = String::from_utf8(number).unwrap_or_default();
        let mut name = Cow::Borrowed(self.family.name);
        if !suffix.is_empty() {
            name.to_mut().push_str(suffix);
        }
        let mut pairs: Vec<(&str, &str)> = Vec::with_capacity(self.metric.labels.len() + 2);
        pairs.push((METRIC_NAME, &name));
        pairs.extend_from_slice(&self.metric.labels);
        if let Some((label, _)) = extra {
            pairs.push((label, &number));
        }
        self.labels.clear();
        write_pairs(&mut pairs, self.entry, &mut self.labels)
    }

    fn advance(&mut self) -> Result<Option<EntryKind>, ParseError> {
        loop {
            match self.state {
                State::Family => {
                    if !self.next_family()? {
                        return Ok(None);
                    }
                    self.state = State::Help;
                    return Ok(Some(EntryKind::Help));
                }
                State::Help => {
                    self.state = State::Type;
                    return Ok(Some(EntryKind::Type));
                }
                State::Type => {
                    self.state = State::Unit;
                    if !self.family.unit.is_empty() {
                        return Ok(Some(EntryKind::Unit));
                    }
                }
                State::Unit | State::Metric => {
                    self.state = if self.next_metric()? {
                        self.first_state()
                    } else {
                        State::Family
                    };
                }
                State::Native => {
                    self.name_series("", None)?;
                    self.next_exemplar = 0;
                    self.state = self.after_native();
                    return Ok(Some(EntryKind::Histogram));
                }
                State::Series(position) => match self.series_at(position)? {
                    Some(()) => {
                        self.state = State::Series(position + 1);
                        return Ok(Some(EntryKind::Sample));
                    }
                    None => self.state = State::Metric,
                },
            }
        }
    }

    /// The exemplar of the current entry at `position` or after it, and the position after that.
    fn exemplar_from(&self, position: usize) -> Option<(RawExemplar<'a>, usize)> {
        if self.at_native() {
            return self.native_exemplar(position);
        }
        // A classic series has one at most: that of the counter, or of the bucket just given.
        let State::Series(next) = self.state else { return None };
        if position > 0 {
            return None;
        }
        let exemplar = match self.kind_of_family() {
            MetricKind::Counter => self.metric.exemplar,
            MetricKind::Histogram | MetricKind::GaugeHistogram => {
                next.checked_sub(3).and_then(|at| self.metric.buckets.get(at)?.exemplar)
            }
            _ => None,
        };
        exemplar.map(|e| (e, 1))
    }

    /// Whether the current entry is the native histogram (and not a classic series that follows it).
    fn at_native(&self) -> bool {
        matches!(self.state, State::Metric | State::Series(0))
            && matches!(
                self.kind_of_family(),
                MetricKind::Histogram | MetricKind::GaugeHistogram
            )
            && self.native
            && self.metric.native.is_native()
    }

    /// Native histograms take exemplars with a time only: their own list, or else those of the classic buckets.
    fn native_exemplar(&self, position: usize) -> Option<(RawExemplar<'a>, usize)> {
        let own = &self.metric.native.exemplars;
        let at = |i: usize| match own.is_empty() {
            false => own.get(i).copied(),
            true => self.metric.buckets.get(i).and_then(|b| b.exemplar),
        };
        let count = if own.is_empty() {
            self.metric.buckets.len()
        } else {
            own.len()
        };
        (position..count).find_map(|i| at(i).filter(|e| e.timestamp_ms.is_some()).map(|e| (e, i + 1)))
    }
}

impl Parser for ProtobufParser<'_> {
    fn next_entry(&mut self) -> Result<Option<EntryKind>, ParseError> {
        self.advance()
    }

    fn family(&self) -> Cow<'_, str> {
        Cow::Borrowed(self.family.name)
    }

    fn kind(&self) -> MetricKind {
        self.kind_of_family()
    }

    fn text(&self) -> Cow<'_, str> {
        Cow::Borrowed(match self.state {
            State::Help => self.family.help,
            State::Unit => self.family.unit,
            _ => "",
        })
    }

    fn series(&self) -> &[u8] {
        &self.labels
    }

    fn value(&self) -> f64 {
        self.value
    }

    fn timestamp_ms(&self) -> Option<i64> {
        // The format cannot tell 0 from absent.
        (self.metric.timestamp_ms != 0).then_some(self.metric.timestamp_ms)
    }

    fn write_labels(&self, out: &mut Vec<u8>) -> Result<(), ParseError> {
        out.extend_from_slice(&self.labels);
        Ok(())
    }

    fn exposes_empty(&self, name: &str) -> bool {
        self.metric.labels.iter().any(|(n, v)| *n == name && v.is_empty())
    }

    fn histogram(&self) -> Result<Option<NativeHistogram>, ParseError> {
        if !self.at_native() {
            return Ok(None);
        }
        match native::read(&self.metric, self.kind_of_family()) {
            Ok(histogram) => Ok(Some(histogram)),
            Err(message) => self.fail(format!(
                "invalid histogram of metric {}: {message}",
                Quote(self.family.name.as_bytes())
            )),
        }
    }

    fn exemplar(&mut self, labels: &mut Vec<u8>) -> Result<Option<Exemplar>, ParseError> {
        while let Some((raw, next)) = self.exemplar_from(self.next_exemplar) {
            self.next_exemplar = next.max(1);
            let mut pairs = self.wire(raw.labels())?;
            if write_exemplar_pairs(&mut pairs, self.entry, labels)? {
                return Ok(Some(Exemplar {
                    value: raw.value,
                    timestamp_ms: raw.timestamp_ms,
                }));
            }
        }
        Ok(None)
    }

    fn created_ms(&self) -> Option<i64> {
        self.metric.created_ms
    }
}
