//! Reading remote write 1.0's protobuf without building it: ranges of the body, numbers, and nothing on the heap for a
//! label or a sample.

use gnomon_model::labels::get_uvarint;

/// A body that is not the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBody {
    #[error("unexpected EOF")]
    Truncated,
    #[error("proto: illegal tag or wire type in {0}")]
    Tag(&'static str),
    #[error("proto: wrong wire type for field {field} of {message}")]
    WireType { message: &'static str, field: u32 },
    #[error("symbol {0} of a series is not in the request")]
    NoSymbol(u64),
    #[error("a series has a label name without a value")]
    OddLabels,
}

/// A field's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
    Group,
}

/// The fields of one message, in the order in which they stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
    message: &'static str,
}

impl<'a> Fields<'a> {
    pub(crate) const fn of(message: &'static str, bytes: &'a [u8]) -> Self {
        Self { rest: bytes, message }
    }

    /// Bytes that are not read yet.
    pub(crate) const fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next field's number and value; none at the end.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, BadBody> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (tag, rest) = get_uvarint(self.rest).ok_or(BadBody::Truncated)?;
        let field = u32::try_from(tag >> 3).ok().filter(|f| (1..1 << 29).contains(f));
        let field = field.ok_or(BadBody::Tag(self.message))?;
        let (value, rest) = match tag & 7 {
            3 => (Value::Group, skip_group(rest, self.message)?),
            _ => read_value(tag, rest, self.message)?,
        };
        self.rest = rest;
        Ok(Some((field, value)))
    }

    const fn wrong(&self, field: u32) -> BadBody {
        BadBody::WireType {
            message: self.message,
            field,
        }
    }

    pub(crate) fn bytes(&self, field: u32, value: Value<'a>) -> Result<&'a [u8], BadBody> {
        match value {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(self.wrong(field)),
        }
    }

    pub(crate) fn varint(&self, field: u32, value: Value<'a>) -> Result<u64, BadBody> {
        match value {
            Value::Varint(value) => Ok(value),
            _ => Err(self.wrong(field)),
        }
    }

    pub(crate) fn fixed64(&self, field: u32, value: Value<'a>) -> Result<u64, BadBody> {
        match value {
            Value::Fixed64(bits) => Ok(bits),
            _ => Err(self.wrong(field)),
        }
    }

    pub(crate) fn double(&self, field: u32, value: Value<'a>) -> Result<f64, BadBody> {
        match value {
            Value::Fixed64(bits) => Ok(f64::from_bits(bits)),
            _ => Err(self.wrong(field)),
        }
    }
}

/// The value behind a tag that begins no group, and what follows it.
#[inline]
fn read_value<'a>(tag: u64, rest: &'a [u8], message: &'static str) -> Result<(Value<'a>, &'a [u8]), BadBody> {
    Ok(match tag & 7 {
        0 => {
            let (value, rest) = get_uvarint(rest).ok_or(BadBody::Truncated)?;
            (Value::Varint(value), rest)
        }
        1 => {
            let (value, rest) = rest.split_first_chunk::<8>().ok_or(BadBody::Truncated)?;
            (Value::Fixed64(u64::from_le_bytes(*value)), rest)
        }
        2 => {
            let (length, rest) = get_uvarint(rest).ok_or(BadBody::Truncated)?;
            let length = usize::try_from(length).map_err(|_| BadBody::Truncated)?;
            let (value, rest) = rest.split_at_checked(length).ok_or(BadBody::Truncated)?;
            (Value::Bytes(value), rest)
        }
        5 => {
            let (_, rest) = rest.split_first_chunk::<4>().ok_or(BadBody::Truncated)?;
            (Value::Fixed32, rest)
        }
        _ => return Err(BadBody::Tag(message)),
    })
}

/// What follows a group, which Prometheus' decoder skips as well; nothing that is known has one.
#[cold]
fn skip_group<'a>(mut rest: &'a [u8], message: &'static str) -> Result<&'a [u8], BadBody> {
    let mut depth = 1_usize;
    while depth > 0 {
        let (tag, after) = get_uvarint(rest).ok_or(BadBody::Truncated)?;
        rest = match tag & 7 {
            3 => {
                depth += 1;
                after
            }
            4 => {
                depth -= 1;
                after
            }
            _ => read_value(tag, after, message)?.1,
        };
    }
    Ok(rest)
}

/// A range of the body.
pub(crate) type Span = (u32, u32);

/// Where a request's series and metadata are.
#[derive(Debug, Default)]
pub(crate) struct Outline {
    pub(crate) series: Vec<Span>,
    pub(crate) metadata: Vec<Span>,
}

impl Outline {
    /// Bodies are below 4 GiB: the caller's limit sees to it.
    pub(crate) fn of(body: &[u8]) -> Result<Self, BadBody> {
        let mut outline = Self::default();
        let mut fields = Fields::of("WriteRequest", body);
        while let Some((field, value)) = fields.next()? {
            let end = body.len() - fields.left();
            match field {
                1 | 3 => {
                    let length = fields.bytes(field, value)?.len();
                    let span = ((end - length) as u32, end as u32);
                    match field {
                        // One of two bytes, of which nothing is to be written.
                        1 if length == 0 => {}
                        1 => outline.series.push(span),
                        _ => outline.metadata.push(span),
                    }
                }
                _ => {}
            }
        }
        Ok(outline)
    }
}

/// What identifies a series: its label fields' bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum LabelBytes<'a> {
    /// They stand together, as senders write them.
    Together(&'a [u8]),
    /// Other fields stand between them.
    Apart,
}

/// Checks a series' fields and finds its labels; with them the bytes in which all its other fields are.
#[inline]
pub(crate) fn find_labels(series: &[u8]) -> Result<(LabelBytes<'_>, &[u8]), BadBody> {
    let mut rest = series;
    // Senders write labels first, and most are short: tag and length are one byte each.
    while let [0x0a, length @ ..0x80, after @ ..] = rest {
        rest = after.get(usize::from(*length)..).ok_or(BadBody::Truncated)?;
    }
    let mut fields = Fields::of("TimeSeries", rest);
    let first = series.len() - rest.len();
    let mut span = (first > 0).then_some((0, first));
    let mut together = true;
    loop {
        let start = series.len() - fields.left();
        let Some((field, value)) = fields.next()? else {
            break;
        };
        let end = series.len() - fields.left();
        match field {
            1 => {
                fields.bytes(field, value)?;
                together &= span.is_none_or(|(_, last)| last == start);
                span = Some((span.map_or(start, |(first, _)| first), end));
            }
            2..=4 => {
                fields.bytes(field, value)?;
            }
            _ => {}
        }
    }
    Ok(match span {
        None => (LabelBytes::Together(&[]), series),
        Some((0, end)) if together => {
            let (labels, others) = series.split_at(end);
            (LabelBytes::Together(labels), others)
        }
        Some((start, end)) if together => (LabelBytes::Together(&series[start..end]), series),
        Some(_) => (LabelBytes::Apart, series),
    })
}

/// Name and value of a label.
pub(crate) fn label(bytes: &[u8]) -> Result<(&[u8], &[u8]), BadBody> {
    let (mut name, mut text) = (&[][..], &[][..]);
    let mut fields = Fields::of("Label", bytes);
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => name = fields.bytes(field, value)?,
            2 => text = fields.bytes(field, value)?,
            _ => {}
        }
    }
    Ok((name, text))
}

/// Timestamp (ms) and value of a sample.
#[inline]
pub(crate) fn sample(bytes: &[u8]) -> Result<(i64, f64), BadBody> {
    let (mut timestamp_ms, mut number) = (0, 0.0);
    let mut fields = Fields::of("Sample", bytes);
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => number = fields.double(field, value)?,
            2 => timestamp_ms = fields.varint(field, value)? as i64,
            _ => {}
        }
    }
    Ok((timestamp_ms, number))
}

/// As [`sample`], of version 2.0, and the start timestamp (ms), 0 where there is none.
pub(crate) fn started_sample(bytes: &[u8]) -> Result<(i64, f64, i64), BadBody> {
    let (mut timestamp_ms, mut number, mut start_ms) = (0, 0.0, 0);
    let mut fields = Fields::of("Sample", bytes);
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => number = fields.double(field, value)?,
            2 => timestamp_ms = fields.varint(field, value)? as i64,
            3 => start_ms = fields.varint(field, value)? as i64,
            _ => {}
        }
    }
    Ok((timestamp_ms, number, start_ms))
}

/// What has to be known of a histogram before it is decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct HistogramHead {
    pub(crate) timestamp_ms: i64,
    /// 0 where there is none, as in version 1.0.
    pub(crate) start_ms: i64,
    pub(crate) schema: i32,
}

/// The head of a histogram; its other fields are checked where it is decoded.
pub(crate) fn histogram(bytes: &[u8]) -> Result<HistogramHead, BadBody> {
    let mut head = HistogramHead::default();
    let mut fields = Fields::of("Histogram", bytes);
    while let Some((field, value)) = fields.next()? {
        match field {
            4 => head.schema = unzigzag(fields.varint(field, value)?),
            15 => head.timestamp_ms = fields.varint(field, value)? as i64,
            17 => head.start_ms = fields.varint(field, value)? as i64,
            _ => {}
        }
    }
    Ok(head)
}

/// A `sint32`.
const fn unzigzag(coded: u64) -> i32 {
    (coded as u32 >> 1) as i32 ^ -((coded & 1) as i32)
}

/// An exemplar: timestamp (ms), value; its labels go to `each`.
pub(crate) fn exemplar(bytes: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Result<(i64, f64), BadBody> {
    let (mut timestamp_ms, mut number) = (0, 0.0);
    let mut fields = Fields::of("Exemplar", bytes);
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => {
                let (name, text) = label(fields.bytes(field, value)?)?;
                each(name, text);
            }
            2 => number = fields.double(field, value)?,
            3 => timestamp_ms = fields.varint(field, value)? as i64,
            _ => {}
        }
    }
    Ok((timestamp_ms, number))
}

/// Metadata of a metric family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Metadata<'a> {
    pub(crate) kind: u64,
    pub(crate) metric: &'a [u8],
    pub(crate) help: &'a [u8],
    pub(crate) unit: &'a [u8],
}

pub(crate) fn metadata(bytes: &[u8]) -> Result<Metadata<'_>, BadBody> {
    let mut metadata = Metadata::default();
    let mut fields = Fields::of("MetricMetadata", bytes);
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => metadata.kind = fields.varint(field, value)?,
            2 => metadata.metric = fields.bytes(field, value)?,
            4 => metadata.help = fields.bytes(field, value)?,
            5 => metadata.unit = fields.bytes(field, value)?,
            _ => {}
        }
    }
    Ok(metadata)
}
