//! Coding 2: native histograms, byte-aligned. A sample says what changed since the one before it.
//!
//! ```text
//! body   = sample*
//! sample = time:uvarint(zigzag dod; the first has none)  flags:u8  shape?  sum:uvarint(byte-swapped XOR)  counts
//! flags  = bit 0 integer | bit 1 same shape as before | bits 2-3 reset hint
//! shape  = schema:uvarint(zigzag)  zero_threshold:uvarint(byte-swapped bits)
//!          spans(positive) spans(negative)  n:uvarint n*f64 little-endian (custom values)
//! spans  = n:uvarint  { offset:uvarint(zigzag) length:uvarint }*
//! counts = count zero_count positive buckets, negative buckets
//!          integer: uvarint(zigzag(now - before)); float: uvarint(byte-swapped XOR with before)
//! ```
//!
//! "before" is the same count of the previous sample when that has the same shape and kind, else 0 for `count` and
//! `zero_count` and the bucket to the left (0 for the first) for buckets.

use super::bits::{unzigzag, zigzag};
use super::{AppendError, Coding, HistogramSample, MAX_PAGE_SAMPLES, Page, PageError, PageHeader};
use gnomon_model::histogram::{FloatHistogram, ResetHint, Span};
use gnomon_model::labels::{get_uvarint, put_uvarint};

const INTEGER: u8 = 1;
const SAME_SHAPE: u8 = 2;

/// Spans, buckets and bounds of all samples of a page: bounds what its decoded form takes (8 bytes each, 16 MiB).
const MAX_PAGE_ELEMENTS: usize = 1 << 21;

fn elements(h: &FloatHistogram) -> usize {
    16 + h.positive_spans.len()
        + h.negative_spans.len()
        + h.positive_buckets.len()
        + h.negative_buckets.len()
        + h.custom_values.len()
}

fn bits_equal(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits())
}

fn same_shape(a: &FloatHistogram, b: &FloatHistogram) -> bool {
    a.schema == b.schema
        && a.zero_threshold.to_bits() == b.zero_threshold.to_bits()
        && a.positive_spans == b.positive_spans
        && a.negative_spans == b.negative_spans
        && a.positive_buckets.len() == b.positive_buckets.len()
        && a.negative_buckets.len() == b.negative_buckets.len()
        && bits_equal(&a.custom_values, &b.custom_values)
}

/// A count that an integer histogram can have.
fn whole(value: f64) -> Option<i64> {
    let number = value as i64;
    ((0..=1 << 53).contains(&number) && (number as f64).to_bits() == value.to_bits()).then_some(number)
}

fn all_whole(h: &FloatHistogram) -> bool {
    let buckets = h.positive_buckets.iter().chain(&h.negative_buckets);
    [h.count, h.zero_count]
        .iter()
        .chain(buckets)
        .all(|v| whole(*v).is_some())
}

fn bucket_total(spans: &[Span]) -> u64 {
    spans.iter().map(|s| u64::from(s.length)).sum()
}

/// A page of histograms that grows.
#[derive(Clone, Debug, Default)]
pub struct HistogramPageBuilder {
    body: Vec<u8>,
    first_ts: i64,
    last_delta: i64,
    count: u32,
    elements: usize,
    last: Option<Box<HistogramSample>>,
}

impl HistogramPageBuilder {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Continues a page that [`Self::bytes`] gave.
    ///
    /// # Errors
    /// When `bytes` are not a page of histograms or are damaged.
    pub fn resume(bytes: &[u8]) -> Result<Self, PageError> {
        let mut decoder = Decoder::new(bytes)?;
        while decoder.remaining > 0 {
            decoder.sample()?;
        }
        decoder.check_end()?;
        Ok(Self {
            body: decoder.body.to_vec(),
            first_ts: decoder.header.min_ts,
            last_delta: decoder.last_delta,
            count: decoder.header.count,
            elements: decoder.elements,
            last: decoder.last.map(Box::new),
        })
    }

    /// Adds a sample. `is_integer` is kept only where all counts are whole numbers from 0 to 2^53.
    ///
    /// # Errors
    /// When `ts_ms` is not after the last one or the page is full; the page is as before then.
    ///
    /// A histogram whose spans do not have as many buckets as it says is taken as if it had those it has.
    pub fn append(&mut self, ts_ms: i64, histogram: &FloatHistogram, is_integer: bool) -> Result<(), AppendError> {
        let elements = self.elements + elements(histogram);
        let last_ts = self.last.as_ref().map(|l| l.timestamp_ms);
        if last_ts.is_some_and(|last| ts_ms <= last) {
            return Err(AppendError::OutOfOrder);
        }
        if self.count >= MAX_PAGE_SAMPLES || elements > MAX_PAGE_ELEMENTS {
            return Err(AppendError::Full);
        }
        let mut sample = HistogramSample {
            timestamp_ms: ts_ms,
            is_integer: is_integer && all_whole(histogram),
            histogram: histogram.clone(),
        };
        fit_buckets(&mut sample.histogram);
        match last_ts {
            None => self.first_ts = ts_ms,
            Some(last) => {
                let delta = ts_ms.wrapping_sub(last);
                put_uvarint(&mut self.body, zigzag(delta.wrapping_sub(self.last_delta)));
                self.last_delta = delta;
            }
        }
        put_sample(&mut self.body, &sample, self.last.as_deref());
        self.count += 1;
        self.elements = elements;
        self.last = Some(Box::new(sample));
        Ok(())
    }

    #[must_use]
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    #[must_use]
    pub fn first_ts(&self) -> Option<i64> {
        (self.count > 0).then_some(self.first_ts)
    }

    #[must_use]
    pub fn last_ts(&self) -> Option<i64> {
        self.last.as_ref().map(|l| l.timestamp_ms)
    }

    #[must_use]
    pub fn last(&self) -> Option<&HistogramSample> {
        self.last.as_deref()
    }

    /// Memory held, in bytes, this struct included; an estimate for the last sample.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let last = self
            .last
            .as_ref()
            .map_or(0, |l| size_of::<HistogramSample>() + 8 * elements(&l.histogram));
        size_of::<Self>() + self.body.capacity() + last
    }

    /// A complete page of the samples so far; empty when there are none. The builder can go on.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.body.len() + 24);
        self.write_to(&mut out);
        out
    }

    /// Appends what [`Self::bytes`] returns to `out`.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        let Some(last) = &self.last else { return };
        let header = PageHeader {
            coding: Coding::Histogram,
            count: self.count,
            min_ts: self.first_ts,
            max_ts: last.timestamp_ms,
        };
        header.write(out);
        out.extend_from_slice(&self.body);
    }

    /// The samples so far as a page; none when there are none.
    #[must_use]
    pub fn page(&self) -> Option<Page> {
        self.last.as_ref().map(|last| Page {
            coding: Coding::Histogram,
            count: self.count,
            min_ts: self.first_ts,
            max_ts: last.timestamp_ms,
            bytes: self.bytes().into(),
        })
    }
}

/// Makes the last span end where the buckets end, so that what is written can be read back.
fn fit_buckets(h: &mut FloatHistogram) {
    for (spans, buckets) in [
        (&mut h.positive_spans, &mut h.positive_buckets),
        (&mut h.negative_spans, &mut h.negative_buckets),
    ] {
        let total = bucket_total(spans);
        if total > buckets.len() as u64 {
            let mut left = buckets.len() as u32;
            for span in spans.iter_mut() {
                span.length = span.length.min(left);
                left -= span.length;
            }
        } else {
            buckets.truncate(total as usize);
        }
    }
}

fn put_spans(out: &mut Vec<u8>, spans: &[Span]) {
    put_uvarint(out, spans.len() as u64);
    for span in spans {
        put_uvarint(out, zigzag(i64::from(span.offset)));
        put_uvarint(out, u64::from(span.length));
    }
}

fn put_count(out: &mut Vec<u8>, is_integer: bool, now: f64, before: f64) {
    if is_integer {
        put_uvarint(out, zigzag((now as i64).wrapping_sub(before as i64)));
    } else {
        put_uvarint(out, (now.to_bits() ^ before.to_bits()).swap_bytes());
    }
}

fn put_sample(out: &mut Vec<u8>, sample: &HistogramSample, last: Option<&HistogramSample>) {
    let h = &sample.histogram;
    let same = last.is_some_and(|last| same_shape(h, &last.histogram));
    let integer = if sample.is_integer { INTEGER } else { 0 };
    out.push(integer | if same { SAME_SHAPE } else { 0 } | (h.reset_hint as u8) << 2);
    if !same {
        put_uvarint(out, zigzag(i64::from(h.schema)));
        put_uvarint(out, h.zero_threshold.to_bits().swap_bytes());
        put_spans(out, &h.positive_spans);
        put_spans(out, &h.negative_spans);
        put_uvarint(out, h.custom_values.len() as u64);
        for value in &h.custom_values {
            out.extend_from_slice(&value.to_le_bytes());
        }
    }
    let last_sum = last.map_or(0, |last| last.histogram.sum.to_bits());
    put_uvarint(out, (h.sum.to_bits() ^ last_sum).swap_bytes());
    let basis = last
        .filter(|last| same && last.is_integer == sample.is_integer)
        .map(|l| &l.histogram);
    put_count(out, sample.is_integer, h.count, basis.map_or(0.0, |b| b.count));
    put_count(
        out,
        sample.is_integer,
        h.zero_count,
        basis.map_or(0.0, |b| b.zero_count),
    );
    put_buckets(
        out,
        sample.is_integer,
        &h.positive_buckets,
        basis.map(|b| b.positive_buckets.as_slice()),
    );
    put_buckets(
        out,
        sample.is_integer,
        &h.negative_buckets,
        basis.map(|b| b.negative_buckets.as_slice()),
    );
}

fn put_buckets(out: &mut Vec<u8>, is_integer: bool, buckets: &[f64], basis: Option<&[f64]>) {
    let mut left = 0.0;
    for (i, &bucket) in buckets.iter().enumerate() {
        put_count(
            out,
            is_integer,
            bucket,
            basis.and_then(|b| b.get(i)).copied().unwrap_or(left),
        );
        left = bucket;
    }
}

struct Decoder<'a> {
    header: PageHeader,
    body: &'a [u8],
    rest: &'a [u8],
    last: Option<HistogramSample>,
    last_delta: i64,
    remaining: u32,
    elements: usize,
}

impl<'a> Decoder<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, PageError> {
        let (header, body) = PageHeader::read_as(bytes, Coding::Histogram)?;
        // The smallest sample (same shape, no buckets) has five bytes, the first no fewer.
        if u64::from(header.count) > body.len() as u64 / 4 {
            return Err(PageError::Truncated);
        }
        Ok(Self {
            header,
            body,
            rest: body,
            last: None,
            last_delta: 0,
            remaining: header.count,
            elements: 0,
        })
    }

    fn uvarint(&mut self) -> Result<u64, PageError> {
        let (value, rest) = get_uvarint(self.rest).ok_or(PageError::Truncated)?;
        self.rest = rest;
        Ok(value)
    }

    fn sample(&mut self) -> Result<&HistogramSample, PageError> {
        let ts = match &self.last {
            None => self.header.min_ts,
            Some(last) => {
                let last_ts = last.timestamp_ms;
                self.last_delta = self.last_delta.wrapping_add(unzigzag(self.uvarint()?));
                let ts = last_ts.wrapping_add(self.last_delta);
                if ts <= last_ts {
                    return Err(PageError::Corrupt("timestamps do not increase"));
                }
                ts
            }
        };
        let (&flags, rest) = self.rest.split_first().ok_or(PageError::Truncated)?;
        self.rest = rest;
        let last = self.last.take();
        let same = flags & SAME_SHAPE != 0;
        let is_integer = flags & INTEGER != 0;
        let mut h = if same {
            self.same_shape(last.as_ref())?
        } else {
            self.shape()?
        };
        h.reset_hint = match flags >> 2 & 3 {
            1 => ResetHint::Reset,
            2 => ResetHint::NotReset,
            3 => ResetHint::Gauge,
            _ => ResetHint::Unknown,
        };
        let last_sum = last.as_ref().map_or(0, |last| last.histogram.sum.to_bits());
        h.sum = f64::from_bits(self.uvarint()?.swap_bytes() ^ last_sum);
        let basis = last
            .as_ref()
            .filter(|last| same && last.is_integer == is_integer)
            .map(|l| &l.histogram);
        h.count = self.count(is_integer, basis.map_or(0.0, |b| b.count))?;
        h.zero_count = self.count(is_integer, basis.map_or(0.0, |b| b.zero_count))?;
        h.positive_buckets = self.buckets(
            is_integer,
            bucket_total(&h.positive_spans),
            basis.map(|b| b.positive_buckets.as_slice()),
        )?;
        h.negative_buckets = self.buckets(
            is_integer,
            bucket_total(&h.negative_spans),
            basis.map(|b| b.negative_buckets.as_slice()),
        )?;
        self.elements += elements(&h);
        if self.elements > MAX_PAGE_ELEMENTS {
            return Err(PageError::Corrupt("more buckets than a page may have"));
        }
        self.remaining -= 1;
        let sample = HistogramSample {
            timestamp_ms: ts,
            is_integer,
            histogram: h,
        };
        Ok(self.last.insert(sample))
    }

    fn same_shape(&self, last: Option<&HistogramSample>) -> Result<FloatHistogram, PageError> {
        let last = &last
            .ok_or(PageError::Corrupt("the first sample refers to one before it"))?
            .histogram;
        Ok(FloatHistogram {
            schema: last.schema,
            zero_threshold: last.zero_threshold,
            positive_spans: last.positive_spans.clone(),
            negative_spans: last.negative_spans.clone(),
            custom_values: last.custom_values.clone(),
            ..FloatHistogram::default()
        })
    }

    fn shape(&mut self) -> Result<FloatHistogram, PageError> {
        let schema = i32::try_from(unzigzag(self.uvarint()?)).map_err(|_| PageError::Corrupt("schema"))?;
        let zero_threshold = f64::from_bits(self.uvarint()?.swap_bytes());
        let positive_spans = self.spans()?;
        let negative_spans = self.spans()?;
        let bounds = usize::try_from(self.uvarint()?).map_err(|_| PageError::Truncated)?;
        let bytes = bounds.checked_mul(8).ok_or(PageError::Truncated)?;
        let (values, rest) = self.rest.split_at_checked(bytes).ok_or(PageError::Truncated)?;
        self.rest = rest;
        let custom_values = values
            .as_chunks::<8>()
            .0
            .iter()
            .map(|b| f64::from_le_bytes(*b))
            .collect();
        Ok(FloatHistogram {
            schema,
            zero_threshold,
            positive_spans,
            negative_spans,
            custom_values,
            ..FloatHistogram::default()
        })
    }

    fn spans(&mut self) -> Result<Vec<Span>, PageError> {
        let count = self.uvarint()?;
        if count > self.rest.len() as u64 / 2 {
            return Err(PageError::Truncated);
        }
        let mut spans = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let offset = i32::try_from(unzigzag(self.uvarint()?)).map_err(|_| PageError::Corrupt("span offset"))?;
            let length = u32::try_from(self.uvarint()?).map_err(|_| PageError::Corrupt("span length"))?;
            spans.push(Span { offset, length });
        }
        Ok(spans)
    }

    fn count(&mut self, is_integer: bool, before: f64) -> Result<f64, PageError> {
        let change = self.uvarint()?;
        Ok(if is_integer {
            (before as i64).wrapping_add(unzigzag(change)) as f64
        } else {
            f64::from_bits(change.swap_bytes() ^ before.to_bits())
        })
    }

    fn buckets(&mut self, is_integer: bool, total: u64, basis: Option<&[f64]>) -> Result<Vec<f64>, PageError> {
        // Each has a byte at least.
        if total > self.rest.len() as u64 {
            return Err(PageError::Truncated);
        }
        let mut buckets = Vec::with_capacity(total as usize);
        let mut left = 0.0;
        for i in 0..total as usize {
            let before = basis.and_then(|b| b.get(i)).copied().unwrap_or(left);
            left = self.count(is_integer, before)?;
            buckets.push(left);
        }
        Ok(buckets)
    }

    fn check_end(&self) -> Result<(), PageError> {
        if self
            .last
            .as_ref()
            .is_none_or(|last| last.timestamp_ms != self.header.max_ts)
        {
            return Err(PageError::Corrupt("last timestamp is not the header's"));
        }
        if !self.rest.is_empty() {
            return Err(PageError::Corrupt("bytes after the last sample"));
        }
        Ok(())
    }
}

pub(super) fn decode_into(bytes: &[u8], samples: &mut Vec<HistogramSample>) -> Result<(), PageError> {
    let start = samples.len();
    let result = decode_all(bytes, samples);
    if result.is_err() {
        samples.truncate(start);
    }
    result
}

fn decode_all(bytes: &[u8], samples: &mut Vec<HistogramSample>) -> Result<(), PageError> {
    let mut decoder = Decoder::new(bytes)?;
    while decoder.remaining > 0 {
        samples.push(decoder.sample()?.clone());
    }
    decoder.check_end()
}
