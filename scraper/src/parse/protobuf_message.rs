//! The messages of `io.prometheus.client` (`proto/prometheus/client/metrics.proto` lists their fields), borrowed from
//! the exposition. The vectors are kept between metrics.

use super::MetricKind;
use super::wire::{BadWire, Fields};
use gnomon_model::histogram::Span;

/// The head of a family; its metrics are read one by one from `body`.
#[derive(Debug, Default)]
pub(super) struct Family<'a> {
    pub(super) name: &'a str,
    pub(super) help: &'a str,
    pub(super) unit: &'a str,
    /// None where the number of the type is not known.
    pub(super) kind: Option<MetricKind>,
    pub(super) type_number: u64,
}

impl<'a> Family<'a> {
    pub(super) fn read(body: &'a [u8]) -> Result<Self, BadWire> {
        let mut family = Self {
            kind: Some(MetricKind::Counter),
            ..Self::default()
        };
        for field in Fields(body) {
            let field = field?;
            match field.number {
                1 => family.name = field.text()?,
                2 => family.help = field.text()?,
                3 => {
                    family.type_number = field.varint()?;
                    family.kind = match family.type_number {
                        0 => Some(MetricKind::Counter),
                        1 => Some(MetricKind::Gauge),
                        2 => Some(MetricKind::Summary),
                        3 => Some(MetricKind::Unknown),
                        4 => Some(MetricKind::Histogram),
                        5 => Some(MetricKind::GaugeHistogram),
                        _ => None,
                    };
                }
                5 => family.unit = field.text()?,
                _ => {}
            }
        }
        Ok(family)
    }
}

#[derive(Debug, Default)]
pub(super) struct Metric<'a> {
    pub(super) labels: Vec<(&'a str, &'a str)>,
    /// Counter, gauge and untyped.
    pub(super) value: f64,
    pub(super) timestamp_ms: i64,
    pub(super) created_ms: Option<i64>,
    /// Of a counter.
    pub(super) exemplar: Option<RawExemplar<'a>>,
    pub(super) count: u64,
    pub(super) count_float: f64,
    pub(super) sum: f64,
    /// (quantile, value)
    pub(super) quantiles: Vec<(f64, f64)>,
    pub(super) buckets: Vec<Bucket<'a>>,
    pub(super) native: Native<'a>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bucket<'a> {
    pub(super) cumulative: u64,
    pub(super) cumulative_float: f64,
    pub(super) upper: f64,
    pub(super) exemplar: Option<RawExemplar<'a>>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RawExemplar<'a> {
    /// The whole message: labels are read when they are asked for.
    pub(super) body: &'a [u8],
    pub(super) value: f64,
    pub(super) timestamp_ms: Option<i64>,
}

#[derive(Debug, Default)]
pub(super) struct Native<'a> {
    pub(super) schema: i32,
    pub(super) zero_threshold: f64,
    pub(super) zero_count: u64,
    pub(super) zero_count_float: f64,
    pub(super) positive_spans: Vec<Span>,
    pub(super) negative_spans: Vec<Span>,
    pub(super) positive_deltas: Vec<i64>,
    pub(super) negative_deltas: Vec<i64>,
    pub(super) positive_counts: Vec<f64>,
    pub(super) negative_counts: Vec<f64>,
    pub(super) exemplars: Vec<RawExemplar<'a>>,
}

impl Native<'_> {
    fn clear(&mut self) {
        self.schema = 0;
        self.zero_threshold = 0.0;
        self.zero_count = 0;
        self.zero_count_float = 0.0;
        self.positive_spans.clear();
        self.negative_spans.clear();
        self.positive_deltas.clear();
        self.negative_deltas.clear();
        self.positive_counts.clear();
        self.negative_counts.clear();
        self.exemplars.clear();
    }

    /// A histogram without spans, zero bucket and zero threshold is a classic one.
    pub(super) fn is_native(&self) -> bool {
        self.zero_threshold > 0.0
            || self.zero_count > 0
            || self.zero_count_float > 0.0
            || !self.positive_spans.is_empty()
            || !self.negative_spans.is_empty()
    }
}

impl<'a> Metric<'a> {
    fn clear(&mut self) {
        self.labels.clear();
        self.quantiles.clear();
        self.buckets.clear();
        self.native.clear();
        self.value = 0.0;
        self.timestamp_ms = 0;
        self.created_ms = None;
        self.exemplar = None;
        self.count = 0;
        self.count_float = 0.0;
        self.sum = 0.0;
    }

    /// Reads a `Metric` message of a family of this kind.
    pub(super) fn read(&mut self, body: &'a [u8], kind: MetricKind) -> Result<(), BadWire> {
        self.clear();
        for field in Fields(body) {
            let field = field?;
            match (field.number, kind) {
                (1, _) => self.labels.push(read_pair(field.bytes()?)?),
                (2, MetricKind::Gauge) | (5, MetricKind::Unknown) => self.read_value(field.bytes()?)?,
                (3, MetricKind::Counter) => self.read_counter(field.bytes()?)?,
                (4, MetricKind::Summary) => self.read_summary(field.bytes()?)?,
                (6, _) => self.timestamp_ms = field.varint()? as i64,
                (7, MetricKind::Histogram | MetricKind::GaugeHistogram) => self.read_histogram(field.bytes()?)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_value(&mut self, body: &'a [u8]) -> Result<(), BadWire> {
        for field in Fields(body) {
            let field = field?;
            if field.number == 1 {
                self.value = field.double()?;
            }
        }
        Ok(())
    }

    fn read_counter(&mut self, body: &'a [u8]) -> Result<(), BadWire> {
        for field in Fields(body) {
            let field = field?;
            match field.number {
                1 => self.value = field.double()?,
                2 => self.exemplar = Some(RawExemplar::read(field.bytes()?)?),
                3 => self.created_ms = Some(read_timestamp(field.bytes()?)?),
                _ => {}
            }
        }
        Ok(())
    }

    fn read_summary(&mut self, body: &'a [u8]) -> Result<(), BadWire> {
        for field in Fields(body) {
            let field = field?;
            match field.number {
                1 => self.count = field.varint()?,
                2 => self.sum = field.double()?,
                3 => {
                    let mut pair = (0.0, 0.0);
                    for part in Fields(field.bytes()?) {
                        let part = part?;
                        match part.number {
                            1 => pair.0 = part.double()?,
                            2 => pair.1 = part.double()?,
                            _ => {}
                        }
                    }
                    self.quantiles.push(pair);
                }
                4 => self.created_ms = Some(read_timestamp(field.bytes()?)?),
                _ => {}
            }
        }
        Ok(())
    }

    fn read_histogram(&mut self, body: &'a [u8]) -> Result<(), BadWire> {
        let native = &mut self.native;
        for field in Fields(body) {
            let field = field?;
            match field.number {
                1 => self.count = field.varint()?,
                2 => self.sum = field.double()?,
                3 => self.buckets.push(Bucket::read(field.bytes()?)?),
                4 => self.count_float = field.double()?,
                5 => native.schema = field.sint32()?,
                6 => native.zero_threshold = field.double()?,
                7 => native.zero_count = field.varint()?,
                8 => native.zero_count_float = field.double()?,
                9 => native.negative_spans.push(read_span(field.bytes()?)?),
                10 => field.push_sint64(&mut native.negative_deltas)?,
                11 => field.push_double(&mut native.negative_counts)?,
                12 => native.positive_spans.push(read_span(field.bytes()?)?),
                13 => field.push_sint64(&mut native.positive_deltas)?,
                14 => field.push_double(&mut native.positive_counts)?,
                15 => self.created_ms = Some(read_timestamp(field.bytes()?)?),
                16 => native.exemplars.push(RawExemplar::read(field.bytes()?)?),
                _ => {}
            }
        }
        Ok(())
    }

    /// The number of observations, whichever of the two fields has it.
    pub(super) fn observations(&self) -> f64 {
        if self.count_float == 0.0 {
            self.count as f64
        } else {
            self.count_float
        }
    }
}

impl<'a> Bucket<'a> {
    fn read(body: &'a [u8]) -> Result<Self, BadWire> {
        let mut bucket = Self::default();
        for field in Fields(body) {
            let field = field?;
            match field.number {
                1 => bucket.cumulative = field.varint()?,
                2 => bucket.upper = field.double()?,
                3 => bucket.exemplar = Some(RawExemplar::read(field.bytes()?)?),
                4 => bucket.cumulative_float = field.double()?,
                _ => {}
            }
        }
        Ok(bucket)
    }

    pub(super) fn observations(&self) -> f64 {
        if self.cumulative_float == 0.0 {
            self.cumulative as f64
        } else {
            self.cumulative_float
        }
    }
}

impl<'a> RawExemplar<'a> {
    fn read(body: &'a [u8]) -> Result<Self, BadWire> {
        let mut exemplar = Self {
            body,
            ..Self::default()
        };
        for field in Fields(body) {
            let field = field?;
            match field.number {
                2 => exemplar.value = field.double()?,
                3 => exemplar.timestamp_ms = Some(read_timestamp(field.bytes()?)?),
                _ => {}
            }
        }
        Ok(exemplar)
    }

    pub(super) fn labels(&self) -> Result<Vec<(&'a str, &'a str)>, BadWire> {
        let mut labels = Vec::new();
        for field in Fields(self.body) {
            let field = field?;
            if field.number == 1 {
                labels.push(read_pair(field.bytes()?)?);
            }
        }
        Ok(labels)
    }
}

fn read_pair(body: &[u8]) -> Result<(&str, &str), BadWire> {
    let mut pair = ("", "");
    for field in Fields(body) {
        let field = field?;
        match field.number {
            1 => pair.0 = field.text()?,
            2 => pair.1 = field.text()?,
            _ => {}
        }
    }
    Ok(pair)
}

fn read_span(body: &[u8]) -> Result<Span, BadWire> {
    let mut span = Span::default();
    for field in Fields(body) {
        let field = field?;
        match field.number {
            1 => span.offset = field.sint32()?,
            2 => span.length = u32::try_from(field.varint()?).map_err(|_| BadWire::Varint)?,
            _ => {}
        }
    }
    Ok(span)
}

/// `google.protobuf.Timestamp` in milliseconds; saturates.
fn read_timestamp(body: &[u8]) -> Result<i64, BadWire> {
    let (mut seconds, mut nanos) = (0i64, 0i64);
    for field in Fields(body) {
        let field = field?;
        match field.number {
            1 => seconds = field.varint()? as i64,
            2 => nanos = i64::from(field.varint()? as i32),
            _ => {}
        }
    }
    Ok(seconds.saturating_mul(1000).saturating_add(nanos / 1_000_000))
}
