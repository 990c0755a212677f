//! Native histograms between remote write's protobuf and the model, checked as Prometheus'
//! `model/histogram` `Validate` checks them.

use crate::prometheus::{
    BucketSpan, Histogram, histogram::Count, histogram::ResetHint as WireHint, histogram::ZeroCount,
};
use gnomon_model::histogram::{CUSTOM_BUCKETS_SCHEMA, FloatHistogram, ResetHint, Span};
use gnomon_model::is_stale_nan;
use prost::Message;

/// The finest exponential schema that is kept.
pub const FINEST_SCHEMA: i32 = 8;

/// The finest one that is read. What is finer than [`FINEST_SCHEMA`] is brought to it on its way in, as in Prometheus.
const FINEST_SENT_SCHEMA: i32 = 52;

/// Whether a histogram is read, and is finer than is kept.
#[must_use]
pub const fn is_too_fine(schema: i32) -> bool {
    FINEST_SCHEMA < schema && schema <= FINEST_SENT_SCHEMA
}

/// A histogram message that is no histogram.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BadHistogram {
    #[error("histogram schema {0} is not supported: -4 to 8, or -53 for custom buckets, are")]
    Schema(i32),
    #[error("{side} side: spans need {need} buckets, have {have} buckets")]
    Buckets { side: &'static str, need: u64, have: usize },
    #[error("{side} side: span number {number} with offset {offset}: negative offset")]
    NegativeOffset {
        side: &'static str,
        number: usize,
        offset: i32,
    },
    #[error("{side} side: bucket number {number} has observation count of {count}: negative bucket count")]
    NegativeCount {
        side: &'static str,
        number: usize,
        count: f64,
    },
    #[error("{observed} observations found in buckets, but the Count field is {count}")]
    CountMismatch { observed: f64, count: f64 },
    #[error("custom buckets: {0}")]
    Custom(&'static str),
}

/// A decoded histogram, and whether its counts were integers.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub histogram: FloatHistogram,
    pub is_integer: bool,
}

/// # Errors
/// When the message is inconsistent, or is finer than is kept. Allocates in proportion to the message only.
pub fn from_wire(wire: &Histogram) -> Result<Decoded, BadHistogram> {
    if !(-4..=FINEST_SCHEMA).contains(&wire.schema) && wire.schema != CUSTOM_BUCKETS_SCHEMA {
        return Err(BadHistogram::Schema(wire.schema));
    }
    from_wire_of_any_schema(wire)
}

/// A message that is too fine, at the finest resolution that is kept. None of another one, and of one that is
/// inconsistent, of which [`from_wire`] says what is wrong.
#[must_use]
pub fn made_coarser(encoded: &[u8]) -> Option<Vec<u8>> {
    let wire = Histogram::decode(encoded)
        .ok()
        .filter(|wire| is_too_fine(wire.schema))?;
    let Decoded { histogram, is_integer } = from_wire_of_any_schema(&wire).ok()?;
    let coarser = histogram.at_schema(FINEST_SCHEMA);
    Some(to_wire(&coarser, is_integer, wire.timestamp).encode_to_vec())
}

fn from_wire_of_any_schema(wire: &Histogram) -> Result<Decoded, BadHistogram> {
    let is_integer = !matches!(wire.count, Some(Count::CountFloat(_)));
    let count = match wire.count {
        Some(Count::CountInt(n)) => n as f64,
        Some(Count::CountFloat(n)) => n,
        None => 0.0,
    };
    let zero_count = match wire.zero_count {
        Some(ZeroCount::ZeroCountInt(n)) => n as f64,
        Some(ZeroCount::ZeroCountFloat(n)) => n,
        None => 0.0,
    };
    let buckets = |deltas: &[i64], counts: &[f64]| {
        if is_integer {
            let mut sum = 0i64;
            deltas
                .iter()
                .map(|d| (sum = sum.wrapping_add(*d), sum as f64).1)
                .collect()
        } else {
            counts.to_vec()
        }
    };
    let histogram = FloatHistogram {
        reset_hint: match WireHint::try_from(wire.reset_hint) {
            Ok(WireHint::Yes) => ResetHint::Reset,
            Ok(WireHint::No) => ResetHint::NotReset,
            Ok(WireHint::Gauge) => ResetHint::Gauge,
            Ok(WireHint::Unknown) | Err(_) => ResetHint::Unknown,
        },
        schema: wire.schema,
        zero_threshold: wire.zero_threshold,
        zero_count,
        count,
        sum: wire.sum,
        positive_spans: spans(&wire.positive_spans),
        negative_spans: spans(&wire.negative_spans),
        positive_buckets: buckets(&wire.positive_deltas, &wire.positive_counts),
        negative_buckets: buckets(&wire.negative_deltas, &wire.negative_counts),
        custom_values: wire.custom_values.clone(),
    };
    check(&histogram, is_integer)?;
    Ok(Decoded { histogram, is_integer })
}

/// The message of a histogram sample; `timestamp_ms` goes into it.
#[must_use]
pub fn to_wire(histogram: &FloatHistogram, is_integer: bool, timestamp_ms: i64) -> Histogram {
    let deltas = |buckets: &[f64]| {
        let mut last = 0i64;
        buckets
            .iter()
            .map(|b| (*b as i64, std::mem::replace(&mut last, *b as i64)))
            .map(|(b, l)| b - l)
            .collect()
    };
    let mut wire = Histogram {
        sum: histogram.sum,
        schema: histogram.schema,
        zero_threshold: histogram.zero_threshold,
        negative_spans: wire_spans(&histogram.negative_spans),
        positive_spans: wire_spans(&histogram.positive_spans),
        reset_hint: match histogram.reset_hint {
            ResetHint::Unknown => WireHint::Unknown,
            ResetHint::Reset => WireHint::Yes,
            ResetHint::NotReset => WireHint::No,
            ResetHint::Gauge => WireHint::Gauge,
        } as i32,
        timestamp: timestamp_ms,
        custom_values: histogram.custom_values.clone(),
        ..Histogram::default()
    };
    if is_integer {
        wire.count = Some(Count::CountInt(histogram.count as u64));
        wire.zero_count = Some(ZeroCount::ZeroCountInt(histogram.zero_count as u64));
        wire.negative_deltas = deltas(&histogram.negative_buckets);
        wire.positive_deltas = deltas(&histogram.positive_buckets);
    } else {
        wire.count = Some(Count::CountFloat(histogram.count));
        wire.zero_count = Some(ZeroCount::ZeroCountFloat(histogram.zero_count));
        wire.negative_counts.clone_from(&histogram.negative_buckets);
        wire.positive_counts.clone_from(&histogram.positive_buckets);
    }
    wire
}

fn spans(wire: &[BucketSpan]) -> Vec<Span> {
    wire.iter()
        .map(|s| Span {
            offset: s.offset,
            length: s.length,
        })
        .collect()
}

fn wire_spans(spans: &[Span]) -> Vec<BucketSpan> {
    spans
        .iter()
        .map(|s| BucketSpan {
            offset: s.offset,
            length: s.length,
        })
        .collect()
}

fn check(h: &FloatHistogram, is_integer: bool) -> Result<(), BadHistogram> {
    if h.schema == CUSTOM_BUCKETS_SCHEMA {
        check_custom(h)?;
    } else if !h.custom_values.is_empty() {
        return Err(BadHistogram::Custom("an exponential schema has custom values"));
    }
    let positive = check_side("positive", &h.positive_spans, &h.positive_buckets)?;
    let negative = check_side("negative", &h.negative_spans, &h.negative_buckets)?;
    // Float counts may be off by rounding, and observed NaNs are counted in no bucket.
    if is_integer && !is_stale_nan(h.sum) {
        let observed = positive + negative + h.zero_count;
        if observed > h.count || (observed < h.count && !h.sum.is_nan()) {
            return Err(BadHistogram::CountMismatch {
                observed,
                count: h.count,
            });
        }
    }
    Ok(())
}

fn check_custom(h: &FloatHistogram) -> Result<(), BadHistogram> {
    if h.custom_values.iter().any(|v| v.is_nan() || *v == f64::INFINITY) {
        return Err(BadHistogram::Custom("a bound is NaN or +Inf"));
    }
    if h.custom_values.windows(2).any(|w| w[0] >= w[1]) {
        return Err(BadHistogram::Custom("bounds are not strictly increasing"));
    }
    if !h.negative_spans.is_empty() || !h.negative_buckets.is_empty() {
        return Err(BadHistogram::Custom("there are negative buckets"));
    }
    if h.zero_count != 0.0 || h.zero_threshold != 0.0 {
        return Err(BadHistogram::Custom("there is a zero bucket"));
    }
    let reach = h
        .positive_spans
        .iter()
        .map(|s| i64::from(s.offset) + i64::from(s.length))
        .sum::<i64>();
    if reach > h.custom_values.len() as i64 + 1 {
        return Err(BadHistogram::Custom("spans reach beyond the bounds"));
    }
    Ok(())
}

fn check_side(side: &'static str, spans: &[Span], buckets: &[f64]) -> Result<f64, BadHistogram> {
    if let Some((number, span)) = spans.iter().enumerate().skip(1).find(|(_, s)| s.offset < 0) {
        return Err(BadHistogram::NegativeOffset {
            side,
            number: number + 1,
            offset: span.offset,
        });
    }
    let need = spans.iter().map(|s| u64::from(s.length)).sum::<u64>();
    if need != buckets.len() as u64 {
        return Err(BadHistogram::Buckets {
            side,
            need,
            have: buckets.len(),
        });
    }
    if let Some((number, count)) = buckets.iter().enumerate().find(|(_, c)| **c < 0.0) {
        return Err(BadHistogram::NegativeCount {
            side,
            number: number + 1,
            count: *count,
        });
    }
    Ok(buckets.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(is_integer: bool) -> FloatHistogram {
        FloatHistogram {
            schema: 2,
            zero_threshold: 0.001,
            zero_count: 2.0,
            count: if is_integer { 12.0 } else { 12.5 },
            sum: 18.4,
            positive_spans: vec![Span { offset: -1, length: 2 }, Span { offset: 1, length: 1 }],
            positive_buckets: vec![3.0, 4.0, 1.0],
            negative_spans: vec![Span { offset: 0, length: 1 }],
            negative_buckets: vec![2.0],
            ..FloatHistogram::default()
        }
    }

    #[test]
    fn histograms_survive_the_wire() {
        for is_integer in [true, false] {
            let histogram = example(is_integer);
            let decoded = from_wire(&to_wire(&histogram, is_integer, 7)).unwrap();
            assert_eq!(decoded, Decoded { histogram, is_integer });
        }
    }

    #[test]
    fn what_is_too_fine_is_made_coarser() {
        for (schema, is_integer) in [(9, true), (52, false)] {
            let fine = FloatHistogram {
                schema,
                ..example(is_integer)
            };
            let wire = to_wire(&fine, is_integer, 7);
            assert_eq!(from_wire(&wire), Err(BadHistogram::Schema(schema)));
            let coarser = made_coarser(&wire.encode_to_vec()).unwrap();
            let coarser = Histogram::decode(&coarser[..]).unwrap();
            let decoded = from_wire(&coarser).unwrap();
            let kept = (decoded.histogram.count, decoded.histogram.sum, coarser.timestamp);
            assert_eq!((kept, decoded.is_integer), ((fine.count, fine.sum, 7), is_integer));
            assert_eq!(decoded.histogram, fine.at_schema(8));
        }
        let kept = |schema: i32| {
            let histogram = FloatHistogram {
                schema,
                ..example(true)
            };
            made_coarser(&to_wire(&histogram, true, 0).encode_to_vec())
        };
        assert_eq!((kept(8), kept(53), made_coarser(b"\xff")), (None, None, None));
    }

    #[test]
    fn inconsistent_histograms_are_refused() {
        let refused = |change: fn(&mut FloatHistogram)| {
            let mut histogram = example(true);
            change(&mut histogram);
            from_wire(&to_wire(&histogram, true, 0)).unwrap_err()
        };
        assert!(matches!(refused(|h| h.schema = 9), BadHistogram::Schema(9)));
        assert!(matches!(
            refused(|h| h.positive_spans[0].length = u32::MAX),
            BadHistogram::Buckets { .. }
        ));
        assert!(matches!(
            refused(|h| h.positive_buckets[1] = -1.0),
            BadHistogram::NegativeCount { .. }
        ));
        assert!(matches!(refused(|h| h.count = 3.0), BadHistogram::CountMismatch { .. }));
        assert!(matches!(
            refused(|h| h.positive_spans[1].offset = -1),
            BadHistogram::NegativeOffset { .. }
        ));
    }
}
