//! OTLP's histograms as native histograms.
//!
//! Source: the OpenTelemetry specification, "Exponential Histograms" of its Prometheus compatibility. OTLP's bucket `i`
//! ends where the native one of number `i + 1` does.

use super::read::{Buckets, ExponentialPoint, HistogramPoint};
use gnomon_model::STALE_NAN;
use gnomon_model::histogram::CUSTOM_BUCKETS_SCHEMA;
use gnomon_proto::histogram::FINEST_SCHEMA;
use gnomon_proto::prometheus::histogram::{Count, ResetHint, ZeroCount};
use gnomon_proto::prometheus::{BucketSpan, Histogram};

const MIN_SCHEMA: i64 = -4;
const MAX_SCHEMA: i64 = FINEST_SCHEMA as i64;
/// Width of the zero bucket where a point does not say it, as Prometheus has it.
const ZERO_THRESHOLD: f64 = 1e-128;
/// Empty buckets that are written between others; a longer gap begins a span.
const MOST_EMPTY: i64 = 2;

/// Spans, and each count as its difference to the one before.
type Layout = (Vec<BucketSpan>, Vec<i64>);

/// From counts by number of bucket, ascending.
fn layout(counts: impl Iterator<Item = (i64, u64)>) -> Result<Layout, String> {
    let (mut spans, mut deltas) = (Vec::<BucketSpan>::new(), Vec::new());
    let (mut next, mut before) = (0, 0_i64);
    for (number, count) in counts.filter(|(_, count)| *count > 0) {
        let gap = number - next;
        match spans.last_mut() {
            Some(span) if gap <= MOST_EMPTY => {
                for _ in 0..gap {
                    deltas.push(-std::mem::take(&mut before));
                }
                span.length += gap as u32;
            }
            _ => {
                let offset = i32::try_from(gap).map_err(|_| format!("bucket {number} is too far from zero"))?;
                spans.push(BucketSpan { offset, length: 0 });
            }
        }
        if let Some(span) = spans.last_mut() {
            span.length += 1;
        }
        let count = i64::try_from(count).map_err(|_| format!("{count} observations in one bucket are too many"))?;
        deltas.push(count - before);
        before = count;
        next = number + 1;
    }
    Ok((spans, deltas))
}

/// Those of an exponential histogram, several made one where the scale is too fine.
fn exponential(buckets: &Buckets, scale_down: u32) -> Result<Layout, String> {
    if buckets.counts.too_many {
        return Err(too_many());
    }
    let mut merged: Vec<(i64, u64)> = Vec::with_capacity(buckets.counts.kept.len() >> scale_down.min(16));
    for (number, count) in (buckets.offset..).zip(&buckets.counts.kept) {
        let number = (number >> scale_down) + 1;
        match merged.last_mut() {
            Some((last, sum)) if *last == number => *sum = sum.saturating_add(*count),
            _ => merged.push((number, *count)),
        }
    }
    layout(merged.into_iter())
}

fn too_many() -> String {
    format!("a histogram has more than {} buckets", super::read::MAX_BUCKETS)
}

/// A marker that the series has ended.
fn stale(schema: i32) -> Histogram {
    Histogram {
        count: Some(Count::CountInt(0)),
        zero_count: Some(ZeroCount::ZeroCountInt(0)),
        sum: STALE_NAN,
        schema,
        ..Histogram::default()
    }
}

const fn hint(is_delta: bool) -> i32 {
    // Whether there was a reset is found by comparing: start times do not say it reliably.
    if is_delta {
        ResetHint::Gauge as i32
    } else {
        ResetHint::Unknown as i32
    }
}

/// # Errors
/// In words, where it cannot be one.
pub(super) fn of_exponential(point: &ExponentialPoint, is_delta: bool) -> Result<Histogram, String> {
    if point.scale < MIN_SCHEMA {
        return Err(format!(
            "an exponential histogram of scale {}: at least {MIN_SCHEMA} is possible",
            point.scale
        ));
    }
    let schema = point.scale.min(MAX_SCHEMA);
    if point.point.no_recorded_value {
        return Ok(stale(schema as i32));
    }
    // Numbers of buckets have 32 bits: shifting further changes nothing.
    let scale_down = u32::try_from(point.scale - schema).unwrap_or(u32::MAX).min(40);
    let (positive_spans, positive_deltas) = exponential(&point.positive, scale_down)?;
    let (negative_spans, negative_deltas) = exponential(&point.negative, scale_down)?;
    Ok(Histogram {
        count: Some(Count::CountInt(point.count)),
        sum: point.sum.unwrap_or(0.0),
        schema: schema as i32,
        zero_threshold: match point.zero_threshold {
            width if width > 0.0 => width,
            _ => ZERO_THRESHOLD,
        },
        zero_count: Some(ZeroCount::ZeroCountInt(point.zero_count)),
        negative_spans,
        negative_deltas,
        positive_spans,
        positive_deltas,
        reset_hint: hint(is_delta),
        ..Histogram::default()
    })
}

/// One with bounds of its own, where `convert_histograms_to_nhcb` asks for it.
///
/// # Errors
/// In words, where it cannot be one.
pub(super) fn of_explicit(point: &HistogramPoint, is_delta: bool) -> Result<Histogram, String> {
    if point.point.no_recorded_value {
        return Ok(stale(CUSTOM_BUCKETS_SCHEMA));
    }
    if point.counts.too_many || point.bounds.too_many {
        return Err(too_many());
    }
    // Without any bucket all observations are in the one that has no bound.
    let counts = match (point.counts.kept.as_slice(), point.bounds.kept.is_empty()) {
        ([], true) => &[point.count],
        (counts, _) => counts,
    };
    let (positive_spans, positive_deltas) = layout((0..).zip(counts.iter().copied()))?;
    Ok(Histogram {
        count: Some(Count::CountInt(point.count)),
        sum: point.sum.unwrap_or(0.0),
        schema: CUSTOM_BUCKETS_SCHEMA,
        zero_count: Some(ZeroCount::ZeroCountInt(0)),
        positive_spans,
        positive_deltas,
        custom_values: point.bounds.kept.clone(),
        reset_hint: hint(is_delta),
        ..Histogram::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::read::{Numbers, Point};

    fn buckets(offset: i64, counts: &[u64]) -> Buckets {
        Buckets {
            offset,
            counts: Numbers {
                kept: counts.to_vec(),
                too_many: false,
            },
        }
    }

    fn point(scale: i64, offset: i64, counts: &[u64]) -> ExponentialPoint {
        ExponentialPoint {
            count: counts.iter().sum(),
            sum: Some(1.0),
            scale,
            positive: buckets(offset, counts),
            ..ExponentialPoint::default()
        }
    }

    fn shape(h: &Histogram) -> (i32, Vec<(i32, u32)>, Vec<i64>) {
        let spans = h.positive_spans.iter().map(|s| (s.offset, s.length)).collect();
        (h.schema, spans, h.positive_deltas.clone())
    }

    #[test]
    fn buckets_are_one_further_and_gaps_are_spans() {
        let h = of_exponential(&point(0, 0, &[1, 2]), false).unwrap();
        assert_eq!(shape(&h), (0, vec![(1, 2)], vec![1, 1]));
        let h = of_exponential(&point(3, -5, &[4, 0, 0, 1, 0, 0, 0, 2]), false).unwrap();
        assert_eq!(shape(&h), (3, vec![(-4, 4), (3, 1)], vec![4, -4, 0, 1, 1]));
        let h = of_exponential(&point(0, 7, &[0, 0, 0]), true).unwrap();
        assert_eq!(
            (shape(&h), h.reset_hint),
            ((0, vec![], vec![]), ResetHint::Gauge as i32)
        );
        assert_eq!(h.zero_threshold, 1e-128);
    }

    #[test]
    fn what_is_too_fine_is_merged_and_too_coarse_refused() {
        // Of scale 10: four make one. -3..=-1 end in bucket 0, 0..=3 in 1, 4 in 2.
        let h = of_exponential(&point(10, -3, &[1, 1, 1, 2, 2, 2, 2, 5]), false).unwrap();
        assert_eq!(shape(&h), (8, vec![(0, 3)], vec![3, 5, -3]));
        let h = of_exponential(&point(i64::from(i32::MAX), i64::from(i32::MAX) - 1, &[1, 1]), false).unwrap();
        assert_eq!(shape(&h), (8, vec![(1, 1)], vec![2]));
        let told = of_exponential(&point(-5, 0, &[1]), false).unwrap_err();
        assert!(told.contains("scale -5"), "{told}");
        let told = of_exponential(&point(0, i64::from(i32::MAX), &[1]), false).unwrap_err();
        assert!(told.contains("too far"), "{told}");
    }

    #[test]
    fn nothing_recorded_is_a_marker() {
        let mut exponential = point(2, 0, &[1]);
        exponential.point = Point {
            time_nanos: 1,
            start_nanos: 0,
            no_recorded_value: true,
        };
        let h = of_exponential(&exponential, false).unwrap();
        assert_eq!(h.sum.to_bits(), STALE_NAN.to_bits());
        assert!(gnomon_proto::histogram::from_wire(&h).unwrap().histogram.is_stale());
    }

    #[test]
    fn explicit_bounds_are_custom_values() {
        let explicit = HistogramPoint {
            count: 6,
            sum: Some(9.5),
            counts: Numbers {
                kept: vec![0, 2, 0, 4],
                too_many: false,
            },
            bounds: Numbers {
                kept: vec![1.0, 2.0, 5.0],
                too_many: false,
            },
            ..HistogramPoint::default()
        };
        let h = of_explicit(&explicit, false).unwrap();
        assert_eq!(shape(&h), (-53, vec![(1, 3)], vec![2, -2, 4]));
        let model = gnomon_proto::histogram::from_wire(&h).unwrap().histogram;
        assert_eq!((model.custom_values.len(), model.count), (3, 6.0));
        let unbounded = HistogramPoint {
            count: 4,
            ..HistogramPoint::default()
        };
        let h = of_explicit(&unbounded, false).unwrap();
        assert_eq!(shape(&h), (-53, vec![(0, 1)], vec![4]));
        assert!(gnomon_proto::histogram::from_wire(&h).is_ok());
    }
}
