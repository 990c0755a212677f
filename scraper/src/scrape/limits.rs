//! Whether a series may be stored, in Prometheus' words where it may not.

use crate::config::{NameValidation, ScrapeConfig, ScrapeLimits};
use crate::parse::NativeHistogram;
use gnomon_cluster::router::MAX_ITEM_BYTES;
use gnomon_model::histogram::CUSTOM_BUCKETS_SCHEMA;
use gnomon_model::labels::{Quoted, is_legacy_label_name, is_legacy_metric_name};
use gnomon_model::{LabelsRef, METRIC_NAME};

pub(super) const SAMPLE_LIMIT: &str = "sample limit exceeded";
pub(super) const BUCKET_LIMIT: &str = "histogram bucket limit exceeded";

/// Samples that a scrape may have where the configuration sets no limit (Prometheus has none): what is known of so many
/// series takes about 600 MiB.
pub const DEFAULT_SAMPLE_LIMIT: u64 = 2_000_000;

/// Samples that a scrape of the job may have.
pub(super) fn sample_limit(limits: &ScrapeLimits) -> u64 {
    limits.samples.unwrap_or(DEFAULT_SAMPLE_LIMIT)
}

/// The coarsest resolution that buckets are merged to.
const COARSEST_SCHEMA: i32 = -4;
/// The finest that a histogram may have.
const FINEST_SCHEMA: i32 = 8;

/// Why the scrape fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Breach {
    Invalid(String),
    LabelLimit(String),
}

/// At most fifty characters, as in Prometheus' messages.
fn short(text: &str) -> &str {
    match text.char_indices().nth(50) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// Checks the final labels of a series.
pub(super) fn check_labels(labels: LabelsRef<'_>, config: &ScrapeConfig) -> Result<(), Breach> {
    let metric = labels.metric_name();
    if metric.is_empty() {
        return Err(Breach::Invalid("missing metric name (__name__ label)".to_owned()));
    }
    if config.name_validation == NameValidation::Legacy {
        let names = || labels.iter().filter(|(n, _)| *n != METRIC_NAME);
        if !is_legacy_metric_name(metric) || !names().all(|(n, _)| is_legacy_label_name(n)) {
            return Err(Breach::Invalid(format!("invalid metric name or label names: {labels}")));
        }
    }
    label_limits(labels, metric, &config.limits).map_err(Breach::LabelLimit)
}

fn label_limits(labels: LabelsRef<'_>, metric: &str, limits: &ScrapeLimits) -> Result<(), String> {
    let metric = short(metric);
    if let Some(limit) = limits.labels {
        let count = labels.iter().count() as u64;
        if count > limit {
            return Err(format!(
                "label_limit exceeded (metric: {metric}, number of labels: {count}, limit: {limit})"
            ));
        }
    }
    let bytes = labels.as_bytes().len();
    if bytes > MAX_ITEM_BYTES {
        return Err(format!(
            "labels of a series too long (metric: {metric}, bytes of all labels: {bytes}, limit: {MAX_ITEM_BYTES})"
        ));
    }
    if limits.label_name_bytes.is_none() && limits.label_value_bytes.is_none() {
        return Ok(());
    }
    for (name, value) in labels.iter() {
        if let Some(limit) = limits.label_name_bytes.filter(|l| name.len() as u64 > *l) {
            return Err(format!(
                "label_name_length_limit exceeded (metric: {metric}, label name: {}, length: {}, limit: {limit})",
                short(name),
                name.len()
            ));
        }
        if let Some(limit) = limits.label_value_bytes.filter(|l| value.len() as u64 > *l) {
            return Err(format!(
                "label_value_length_limit exceeded (metric: {metric}, label name: {}, value: {}, length: {}, limit: {limit})",
                short(name),
                Quoted(short(value)),
                value.len()
            ));
        }
    }
    Ok(())
}

/// Merges buckets until the histogram is within the limits; false where it cannot be.
pub(super) fn fit_histogram(native: &mut NativeHistogram, limits: &ScrapeLimits) -> bool {
    let exponential = native.histogram.schema != CUSTOM_BUCKETS_SCHEMA;
    if let Some(factor) = limits.native_histogram_min_bucket_factor.filter(|f| *f > 1.0)
        && exponential
    {
        let schema = schema_for(factor);
        if native.histogram.schema > schema {
            native.histogram = native.histogram.at_schema(schema);
        }
    }
    let Some(limit) = limits.native_histogram_buckets else {
        return true;
    };
    loop {
        let h = &native.histogram;
        if (h.positive_buckets.len() + h.negative_buckets.len()) as u64 <= limit {
            return true;
        }
        if !exponential || h.schema <= COARSEST_SCHEMA {
            return false;
        }
        native.histogram = h.at_schema(h.schema - 1);
    }
}

/// The finest schema whose buckets grow by `factor` (> 1) at least.
fn schema_for(factor: f64) -> i32 {
    let floor = factor.log2().log2().floor();
    (-(floor as i32)).clamp(COARSEST_SCHEMA, FINEST_SCHEMA)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config;
    use gnomon_model::Labels;
    use gnomon_model::histogram::{FloatHistogram, Span};

    #[test]
    fn limits_are_worded_as_prometheus_words_them() {
        let labels = Labels::from_pairs([("__name__", "metric"), ("long_name", "value"), ("x", "1")]);
        let with = |set: fn(&mut ScrapeLimits)| {
            let mut config = config("j");
            set(&mut config.limits);
            match check_labels(labels.as_ref(), &config) {
                Err(Breach::LabelLimit(message)) => message,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(
            with(|l| l.labels = Some(2)),
            "label_limit exceeded (metric: metric, number of labels: 3, limit: 2)"
        );
        assert_eq!(
            with(|l| l.label_name_bytes = Some(8)),
            "label_name_length_limit exceeded (metric: metric, label name: long_name, length: 9, limit: 8)"
        );
        assert_eq!(
            with(|l| l.label_value_bytes = Some(4)),
            "label_value_length_limit exceeded (metric: metric, label name: __name__, value: \"metric\", length: 6, limit: 4)"
        );
        let vast = "v".repeat(MAX_ITEM_BYTES);
        let vast = Labels::from_pairs([("__name__", "metric"), ("x", vast.as_str())]);
        let refused = check_labels(vast.as_ref(), &config("j")).unwrap_err();
        let text = "labels of a series too long (metric: metric, bytes of all labels: 491541, limit: 491520)";
        assert_eq!(refused, Breach::LabelLimit(text.to_owned()));
        let nameless = Labels::from_pairs([("a", "b")]);
        assert_eq!(
            check_labels(nameless.as_ref(), &config("j")),
            Err(Breach::Invalid("missing metric name (__name__ label)".to_owned()))
        );
        let mut legacy = config("j");
        legacy.name_validation = NameValidation::Legacy;
        let dotted = Labels::from_pairs([("__name__", "a.b")]);
        assert!(check_labels(dotted.as_ref(), &config("j")).is_ok());
        assert!(check_labels(dotted.as_ref(), &legacy).is_err());
    }

    #[test]
    fn buckets_are_merged_until_they_fit() {
        let mut native = NativeHistogram {
            histogram: FloatHistogram {
                schema: 3,
                count: 16.0,
                positive_spans: vec![Span { offset: 1, length: 16 }],
                positive_buckets: vec![1.0; 16],
                ..FloatHistogram::default()
            },
            is_integer: true,
        };
        let limits = ScrapeLimits {
            native_histogram_buckets: Some(5),
            ..ScrapeLimits::default()
        };
        assert!(fit_histogram(&mut native, &limits));
        assert_eq!(
            (native.histogram.schema, native.histogram.positive_buckets.len()),
            (1, 4)
        );
        assert_eq!(
            [schema_for(2.0), schema_for(1.1), schema_for(4.0), schema_for(65536.0)],
            [0, 3, -1, -4]
        );
    }
}
