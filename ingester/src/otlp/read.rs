//! Reading OTLP's protobuf without building it: a data point of a few bytes costs no more than it says.
//!
//! Field numbers: <https://github.com/open-telemetry/opentelemetry-proto>, and `proto/opentelemetry`.

use super::BadOtlp;
use crate::remote_write::scan::{BadBody, Fields, Value};
use gnomon_model::labels::get_uvarint;

/// Buckets of one side of a histogram, and bounds, that are taken.
pub(super) const MAX_BUCKETS: usize = 16_384;

/// Calls `visit` with every sub-message of one field.
pub(super) fn each<'a>(
    message: &'static str,
    bytes: &'a [u8],
    wanted: u32,
    mut visit: impl FnMut(&'a [u8]) -> Result<(), BadOtlp>,
) -> Result<(), BadOtlp> {
    let mut fields = Fields::of(message, bytes);
    while let Some((field, value)) = fields.next()? {
        if field == wanted {
            visit(fields.bytes(field, value)?)?;
        }
    }
    Ok(())
}

/// The last sub-message of one field; an absent one is empty.
pub(super) fn last<'a>(message: &'static str, bytes: &'a [u8], wanted: u32) -> Result<&'a [u8], BadOtlp> {
    let mut found: &[u8] = &[];
    each(message, bytes, wanted, |sub| {
        found = sub;
        Ok(())
    })?;
    Ok(found)
}

/// A text of one field.
pub(super) fn text<'a>(message: &'static str, bytes: &'a [u8], wanted: u32) -> Result<&'a str, BadOtlp> {
    utf8(last(message, bytes, wanted)?)
}

pub(super) fn utf8(bytes: &[u8]) -> Result<&str, BadOtlp> {
    std::str::from_utf8(bytes).map_err(|_| BadOtlp::NotUtf8)
}

/// Numbers of a repeated field, packed or not. More than [`MAX_BUCKETS`] are counted and not kept.
#[derive(Debug)]
pub(super) struct Numbers<T> {
    pub(super) kept: Vec<T>,
    pub(super) too_many: bool,
}

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self {
            kept: Vec::new(),
            too_many: false,
        }
    }
}

impl<T> Numbers<T> {
    fn push(&mut self, value: T) {
        if self.kept.len() < MAX_BUCKETS {
            self.kept.push(value);
        } else {
            self.too_many = true;
        }
    }

    /// Of 8 bytes each.
    fn fixed(
        &mut self,
        fields: &Fields<'_>,
        field: u32,
        value: Value<'_>,
        of: impl Fn(u64) -> T,
    ) -> Result<(), BadBody> {
        let Value::Bytes(packed) = value else {
            self.push(of(fields.fixed64(field, value)?));
            return Ok(());
        };
        let (numbers, rest) = packed.as_chunks::<8>();
        if !rest.is_empty() {
            return Err(BadBody::Truncated);
        }
        for number in numbers {
            self.push(of(u64::from_le_bytes(*number)));
        }
        Ok(())
    }
}

impl Numbers<u64> {
    fn varints(&mut self, fields: &Fields<'_>, field: u32, value: Value<'_>) -> Result<(), BadBody> {
        let Value::Bytes(mut packed) = value else {
            self.push(fields.varint(field, value)?);
            return Ok(());
        };
        while !packed.is_empty() {
            let (number, rest) = get_uvarint(packed).ok_or(BadBody::Truncated)?;
            self.push(number);
            packed = rest;
        }
        Ok(())
    }
}

/// Of a `sint32`: what is beyond its 32 bits is cut off, as protobuf does.
const fn zigzag(value: u64) -> i64 {
    let value = value as u32;
    ((value >> 1) as i32 ^ -((value & 1) as i32)) as i64
}

/// What all data points have.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Point {
    pub(super) time_nanos: u64,
    /// 0 where it is not known.
    pub(super) start_nanos: u64,
    pub(super) no_recorded_value: bool,
}

impl Point {
    /// Milliseconds since the epoch.
    pub(super) const fn time_ms(self) -> i64 {
        (self.time_nanos / 1_000_000) as i64
    }

    /// Since when it counts, in milliseconds since the epoch; 0 where that is not known.
    pub(super) const fn start_ms(self) -> i64 {
        (self.start_nanos / 1_000_000) as i64
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NumberPoint {
    pub(super) point: Point,
    pub(super) value: Option<f64>,
}

impl NumberPoint {
    pub(super) const NAME: &'static str = "NumberDataPoint";
    pub(super) const ATTRIBUTES: u32 = 7;
    pub(super) const EXEMPLARS: u32 = 5;

    pub(super) fn of(bytes: &[u8]) -> Result<Self, BadOtlp> {
        let mut found = Self::default();
        let mut fields = Fields::of(Self::NAME, bytes);
        while let Some((field, value)) = fields.next()? {
            match field {
                2 => found.point.start_nanos = fields.fixed64(field, value)?,
                3 => found.point.time_nanos = fields.fixed64(field, value)?,
                4 => found.value = Some(fields.double(field, value)?),
                6 => found.value = Some(fields.fixed64(field, value)? as i64 as f64),
                8 => found.point.no_recorded_value = fields.varint(field, value)? & 1 != 0,
                _ => {}
            }
        }
        Ok(found)
    }
}

#[derive(Debug, Default)]
pub(super) struct HistogramPoint {
    pub(super) point: Point,
    pub(super) count: u64,
    pub(super) sum: Option<f64>,
    pub(super) counts: Numbers<u64>,
    pub(super) bounds: Numbers<f64>,
}

impl HistogramPoint {
    pub(super) const NAME: &'static str = "HistogramDataPoint";
    pub(super) const ATTRIBUTES: u32 = 9;
    pub(super) const EXEMPLARS: u32 = 8;

    pub(super) fn of(bytes: &[u8]) -> Result<Self, BadOtlp> {
        let mut found = Self::default();
        let mut fields = Fields::of(Self::NAME, bytes);
        while let Some((field, value)) = fields.next()? {
            match field {
                2 => found.point.start_nanos = fields.fixed64(field, value)?,
                3 => found.point.time_nanos = fields.fixed64(field, value)?,
                4 => found.count = fields.fixed64(field, value)?,
                5 => found.sum = Some(fields.double(field, value)?),
                6 => found.counts.fixed(&fields, field, value, |bits| bits)?,
                7 => found.bounds.fixed(&fields, field, value, f64::from_bits)?,
                10 => found.point.no_recorded_value = fields.varint(field, value)? & 1 != 0,
                _ => {}
            }
        }
        Ok(found)
    }
}

#[derive(Debug, Default)]
pub(super) struct Buckets {
    pub(super) offset: i64,
    pub(super) counts: Numbers<u64>,
}

impl Buckets {
    fn of(bytes: &[u8]) -> Result<Self, BadOtlp> {
        let mut found = Self::default();
        let mut fields = Fields::of("Buckets", bytes);
        while let Some((field, value)) = fields.next()? {
            match field {
                1 => found.offset = zigzag(fields.varint(field, value)?),
                2 => found.counts.varints(&fields, field, value)?,
                _ => {}
            }
        }
        Ok(found)
    }
}

#[derive(Debug, Default)]
pub(super) struct ExponentialPoint {
    pub(super) point: Point,
    pub(super) count: u64,
    pub(super) sum: Option<f64>,
    pub(super) scale: i64,
    pub(super) zero_count: u64,
    pub(super) zero_threshold: f64,
    pub(super) positive: Buckets,
    pub(super) negative: Buckets,
}

impl ExponentialPoint {
    pub(super) const NAME: &'static str = "ExponentialHistogramDataPoint";
    pub(super) const ATTRIBUTES: u32 = 1;
    pub(super) const EXEMPLARS: u32 = 11;

    pub(super) fn of(bytes: &[u8]) -> Result<Self, BadOtlp> {
        let mut found = Self::default();
        let mut fields = Fields::of(Self::NAME, bytes);
        while let Some((field, value)) = fields.next()? {
            match field {
                2 => found.point.start_nanos = fields.fixed64(field, value)?,
                3 => found.point.time_nanos = fields.fixed64(field, value)?,
                4 => found.count = fields.fixed64(field, value)?,
                5 => found.sum = Some(fields.double(field, value)?),
                6 => found.scale = zigzag(fields.varint(field, value)?),
                7 => found.zero_count = fields.fixed64(field, value)?,
                8 => found.positive = Buckets::of(fields.bytes(field, value)?)?,
                9 => found.negative = Buckets::of(fields.bytes(field, value)?)?,
                10 => found.point.no_recorded_value = fields.varint(field, value)? & 1 != 0,
                14 => found.zero_threshold = fields.double(field, value)?,
                _ => {}
            }
        }
        Ok(found)
    }
}

#[derive(Debug, Default)]
pub(super) struct SummaryPoint {
    pub(super) point: Point,
    pub(super) count: u64,
    pub(super) sum: f64,
}

impl SummaryPoint {
    pub(super) const NAME: &'static str = "SummaryDataPoint";
    pub(super) const ATTRIBUTES: u32 = 7;
    pub(super) const QUANTILES: u32 = 6;

    pub(super) fn of(bytes: &[u8]) -> Result<Self, BadOtlp> {
        let mut found = Self::default();
        let mut fields = Fields::of(Self::NAME, bytes);
        while let Some((field, value)) = fields.next()? {
            match field {
                2 => found.point.start_nanos = fields.fixed64(field, value)?,
                3 => found.point.time_nanos = fields.fixed64(field, value)?,
                4 => found.count = fields.fixed64(field, value)?,
                5 => found.sum = fields.double(field, value)?,
                8 => found.point.no_recorded_value = fields.varint(field, value)? & 1 != 0,
                _ => {}
            }
        }
        Ok(found)
    }
}

/// Quantile and value.
pub(super) fn quantile(bytes: &[u8]) -> Result<(f64, f64), BadOtlp> {
    let (mut quantile, mut number) = (0.0, 0.0);
    let mut fields = Fields::of("ValueAtQuantile", bytes);
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => quantile = fields.double(field, value)?,
            2 => number = fields.double(field, value)?,
            _ => {}
        }
    }
    Ok((quantile, number))
}

/// An exemplar without its attributes.
#[derive(Debug, Default)]
pub(super) struct ExemplarPoint<'a> {
    pub(super) time_nanos: u64,
    pub(super) value: Option<f64>,
    pub(super) span_id: &'a [u8],
    pub(super) trace_id: &'a [u8],
}

impl<'a> ExemplarPoint<'a> {
    pub(super) const NAME: &'static str = "Exemplar";
    pub(super) const ATTRIBUTES: u32 = 7;

    pub(super) fn of(bytes: &'a [u8]) -> Result<Self, BadOtlp> {
        let mut found = Self::default();
        let mut fields = Fields::of(Self::NAME, bytes);
        while let Some((field, value)) = fields.next()? {
            match field {
                2 => found.time_nanos = fields.fixed64(field, value)?,
                3 => found.value = Some(fields.double(field, value)?),
                4 => found.span_id = fields.bytes(field, value)?,
                5 => found.trace_id = fields.bytes(field, value)?,
                6 => found.value = Some(fields.fixed64(field, value)? as i64 as f64),
                _ => {}
            }
        }
        Ok(found)
    }
}

/// The data of a metric: its points, and what is said of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Data<'a> {
    pub(super) kind: DataKind,
    pub(super) bytes: &'a [u8],
    /// 1: delta, 2: cumulative, whatever else: not said.
    pub(super) temporality: u64,
    pub(super) is_monotonic: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DataKind {
    Gauge,
    Sum,
    Histogram,
    Exponential,
    Summary,
}

impl DataKind {
    pub(super) const fn message(self) -> &'static str {
        match self {
            Self::Gauge => "Gauge",
            Self::Sum => "Sum",
            Self::Histogram => "Histogram",
            Self::Exponential => "ExponentialHistogram",
            Self::Summary => "Summary",
        }
    }
}

/// A metric's texts and data; no data where it has none that is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Metric<'a> {
    pub(super) name: &'a str,
    pub(super) description: &'a str,
    pub(super) unit: &'a str,
    pub(super) data: Option<Data<'a>>,
}

impl<'a> Metric<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Result<Self, BadOtlp> {
        let mut found = Self {
            name: "",
            description: "",
            unit: "",
            data: None,
        };
        let mut fields = Fields::of("Metric", bytes);
        while let Some((field, value)) = fields.next()? {
            let kind = match field {
                1 => {
                    found.name = utf8(fields.bytes(field, value)?)?;
                    continue;
                }
                2 => {
                    found.description = utf8(fields.bytes(field, value)?)?;
                    continue;
                }
                3 => {
                    found.unit = utf8(fields.bytes(field, value)?)?;
                    continue;
                }
                5 => DataKind::Gauge,
                7 => DataKind::Sum,
                9 => DataKind::Histogram,
                10 => DataKind::Exponential,
                11 => DataKind::Summary,
                _ => continue,
            };
            found.data = Some(Data::of(kind, fields.bytes(field, value)?)?);
        }
        Ok(found)
    }
}

impl<'a> Data<'a> {
    fn of(kind: DataKind, bytes: &'a [u8]) -> Result<Self, BadOtlp> {
        let mut found = Self {
            kind,
            bytes,
            temporality: 0,
            is_monotonic: false,
        };
        if matches!(kind, DataKind::Gauge | DataKind::Summary) {
            return Ok(found);
        }
        let mut fields = Fields::of(kind.message(), bytes);
        while let Some((field, value)) = fields.next()? {
            match field {
                2 => found.temporality = fields.varint(field, value)?,
                3 if kind == DataKind::Sum => found.is_monotonic = fields.varint(field, value)? != 0,
                _ => {}
            }
        }
        Ok(found)
    }

    /// Calls `visit` with every data point.
    pub(super) fn points(self, visit: impl FnMut(&'a [u8]) -> Result<(), BadOtlp>) -> Result<(), BadOtlp> {
        each(self.kind.message(), self.bytes, 1, visit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_32_bits_are_cut_as_protobuf_does() {
        let expected = [(0, 0), (1, -1), (2, 1), (u64::from(u32::MAX), i64::from(i32::MIN))];
        for (coded, value) in expected {
            assert_eq!(zigzag(coded), value);
            assert_eq!(zigzag(coded | 0xabcd << 32), value);
        }
        assert_eq!(zigzag(u64::MAX - 1), i64::from(i32::MAX));
    }
}
