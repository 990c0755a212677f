//! Native histograms from their exposed form: absolute counts, empty buckets left out.

use super::protobuf_message::Metric;
use super::{MetricKind, NativeHistogram};
use gnomon_model::histogram::{FloatHistogram, ResetHint, Span};

/// What may be exposed. Above [`FINEST`] buckets are merged, as Prometheus does.
const SCHEMAS: std::ops::RangeInclusive<i32> = -4..=52;

/// The finest resolution that is stored.
const FINEST: i32 = 8;

/// More buckets than any schema needs for all floats within reason; a span table may claim billions in a few bytes.
const MAX_BUCKETS: usize = 1 << 20;

/// The metric's native histogram.
pub(super) fn read(metric: &Metric<'_>, kind: MetricKind) -> Result<NativeHistogram, String> {
    let native = &metric.native;
    if !SCHEMAS.contains(&native.schema) {
        return Err(format!(
            "unsupported schema of a native histogram: {} (-4 to 52 are known)",
            native.schema
        ));
    }
    let float = metric.count_float > 0.0 || native.zero_count_float > 0.0;
    let side = |spans: &[Span], deltas: &[i64], counts: &[f64], name: &str| {
        if float {
            compact(spans, counts.iter().copied(), counts.len(), name)
        } else {
            compact(spans, absolute(deltas), deltas.len(), name)
        }
    };
    let (positive_spans, positive_buckets) = side(
        &native.positive_spans,
        &native.positive_deltas,
        &native.positive_counts,
        "positive",
    )?;
    let (negative_spans, negative_buckets) = side(
        &native.negative_spans,
        &native.negative_deltas,
        &native.negative_counts,
        "negative",
    )?;
    let histogram = FloatHistogram {
        reset_hint: if kind == MetricKind::GaugeHistogram {
            ResetHint::Gauge
        } else {
            ResetHint::Unknown
        },
        schema: native.schema,
        zero_threshold: native.zero_threshold,
        zero_count: if float {
            native.zero_count_float
        } else {
            native.zero_count as f64
        },
        count: if float { metric.count_float } else { metric.count as f64 },
        sum: metric.sum,
        positive_spans,
        negative_spans,
        positive_buckets,
        negative_buckets,
        custom_values: Vec::new(),
    };
    Ok(NativeHistogram {
        histogram: histogram.at_schema(FINEST),
        is_integer: !float,
    })
}

fn absolute(deltas: &[i64]) -> impl Iterator<Item = f64> {
    deltas.iter().scan(0i64, |count, delta| {
        *count = count.wrapping_add(*delta);
        Some(*count as f64)
    })
}

type Side = (Vec<Span>, Vec<f64>);

/// Buckets that are not empty, and spans that hold just those.
fn compact(spans: &[Span], counts: impl Iterator<Item = f64>, given: usize, side: &str) -> Result<Side, String> {
    let claimed: u64 = spans.iter().map(|s| u64::from(s.length)).sum();
    if claimed != given as u64 {
        return Err(format!(
            "{side} side: spans need {claimed} buckets, have {given} buckets: histogram spans specify different number of buckets than provided"
        ));
    }
    if given > MAX_BUCKETS {
        return Err(format!("{side} side: {given} buckets exceed {MAX_BUCKETS}"));
    }
    let mut out: Side = (Vec::new(), Vec::with_capacity(given));
    let mut counts = counts;
    let mut index = 0i64;
    let mut next = 0i64;
    for (at, span) in spans.iter().enumerate() {
        if at > 0 && span.offset < 0 {
            return Err(format!(
                "{side} side: span number {} with offset {}: histogram has a span whose offset is negative",
                at + 1,
                span.offset
            ));
        }
        index += i64::from(span.offset);
        for count in counts.by_ref().take(span.length as usize) {
            if count < 0.0 {
                return Err(format!(
                    "{side} side: bucket at index {index} has observation count {count}: histogram has a bucket whose observation count is negative"
                ));
            }
            if count != 0.0 {
                push_bucket(&mut out, index, next, count);
                next = index + 1;
            }
            index += 1;
        }
    }
    if i32::try_from(index).is_err() {
        return Err(format!("{side} side: bucket index {index} is out of range"));
    }
    Ok(out)
}

fn push_bucket(out: &mut Side, index: i64, next: i64, count: f64) {
    match out.0.last_mut() {
        Some(span) if index == next => span.length += 1,
        _ => out.0.push(Span {
            // Indices are sums of few 32-bit offsets; one out of range is refused by the caller.
            offset: i32::try_from(index - next).unwrap_or(i32::MAX),
            length: 1,
        }),
    }
    out.1.push(count);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_buckets_go_and_spans_say_where_the_others_are() {
        let spans = [Span { offset: -2, length: 3 }, Span { offset: 4, length: 2 }];
        let (spans, buckets) = compact(&spans, [0.0, 1.0, 2.0, 0.0, 5.0].into_iter(), 5, "positive").unwrap();
        assert_eq!(buckets, [1.0, 2.0, 5.0]);
        assert_eq!(spans, [Span { offset: -1, length: 2 }, Span { offset: 5, length: 1 }]);
        assert!(compact(&[Span { offset: 0, length: 2 }], [1.0].into_iter(), 1, "positive").is_err());
        assert!(compact(&[Span { offset: 0, length: 1 }], [-1.0].into_iter(), 1, "positive").is_err());
    }
}
