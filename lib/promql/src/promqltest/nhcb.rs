//! `load_with_nhcb`: classic histograms once more as native ones with custom buckets.

use super::{LoadedSample, LoadedSeries};
use crate::value::SampleValue;
use gnomon_model::histogram::{CUSTOM_BUCKETS_SCHEMA, FloatHistogram, Span};
use gnomon_model::{Labels, LabelsBuilder, METRIC_NAME};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Default)]
struct Parts {
    /// Upper bound and cumulative count.
    buckets: Vec<(f64, f64)>,
    count: Option<f64>,
    sum: Option<f64>,
}

#[derive(Clone, Copy)]
enum Part {
    Bucket(f64),
    Count,
    Sum,
}

/// Which part of which histogram a series is.
fn part_of(labels: &Labels) -> Option<(Labels, Part)> {
    let name = labels.metric_name();
    let mut builder = LabelsBuilder::from_labels(labels.as_ref());
    let (base, part) = if let Some(base) = name.strip_suffix("_bucket") {
        let bound = crate::parse_float(labels.get("le")?)?;
        builder.remove("le");
        (base, Part::Bucket(bound))
    } else if let Some(base) = name.strip_suffix("_count") {
        (base, Part::Count)
    } else {
        (name.strip_suffix("_sum")?, Part::Sum)
    };
    builder.set(METRIC_NAME, base);
    Some((builder.build(), part))
}

/// The native histograms of the classic ones among `loaded`.
pub(super) fn converted(loaded: &[LoadedSeries]) -> Vec<LoadedSeries> {
    let mut histograms: BTreeMap<Labels, BTreeMap<i64, Parts>> = BTreeMap::new();
    for series in loaded {
        let Some((labels, part)) = part_of(&series.labels) else {
            continue;
        };
        let samples = histograms.entry(labels).or_default();
        for sample in &series.samples {
            let SampleValue::Float(value) = sample.value else {
                continue;
            };
            if gnomon_model::is_stale_nan(value) {
                continue;
            }
            let parts = samples.entry(sample.timestamp_ms).or_default();
            match part {
                Part::Bucket(bound) => parts.buckets.push((bound, value)),
                Part::Count => parts.count = Some(value),
                Part::Sum => parts.sum = Some(value),
            }
        }
    }
    let series = histograms.into_iter().map(|(labels, samples)| LoadedSeries {
        labels,
        samples: samples
            .into_iter()
            .filter(|(_, parts)| !parts.buckets.is_empty() || parts.count.is_some())
            .map(|(timestamp_ms, parts)| LoadedSample {
                timestamp_ms,
                start_ms: None,
                value: SampleValue::Histogram(Arc::new(convert(parts))),
            })
            .collect(),
    });
    series.filter(|series| !series.samples.is_empty()).collect()
}

fn convert(mut parts: Parts) -> FloatHistogram {
    parts.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    parts.buckets.dedup_by(|a, b| a.0 == b.0);
    let total = parts.count.or_else(|| parts.buckets.last().map(|b| b.1)).unwrap_or(0.0);
    if parts.buckets.last().is_none_or(|b| b.0 != f64::INFINITY) {
        parts.buckets.push((f64::INFINITY, total));
    }
    let mut before = 0.0;
    let mut counts = Vec::with_capacity(parts.buckets.len());
    for (_, count) in &parts.buckets {
        counts.push(count - before);
        before = *count;
    }
    let length = u32::try_from(counts.len()).unwrap_or(u32::MAX);
    FloatHistogram {
        schema: CUSTOM_BUCKETS_SCHEMA,
        count: before,
        sum: parts.sum.unwrap_or(0.0),
        positive_spans: vec![Span { offset: 0, length }],
        positive_buckets: counts,
        custom_values: parts.buckets.iter().map(|b| b.0).filter(|b| b.is_finite()).collect(),
        ..FloatHistogram::default()
    }
    .compacted()
}
