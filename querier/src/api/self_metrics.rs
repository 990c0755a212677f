//! `status/self_metrics`: what `/metrics` shows, as JSON: messages of `io.prometheus.client` in protobuf's JSON form
//! (<https://protobuf.dev/programming-guides/json/>), in which 64-bit integers are texts.

use crate::answer::Answer;
use crate::error::ApiError;
use crate::form::Form;
use crate::router::Api;
use axum::extract::State;
use gnomon_model::re2::{Regex, is_costly};
use prometheus::proto::{self, MetricType};
use serde::{Serialize, Serializer};
use std::sync::Arc;

/// A float, of which JSON has not all.
#[derive(Clone, Copy)]
struct Number(f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            f64::INFINITY => serializer.serialize_str("Infinity"),
            f64::NEG_INFINITY => serializer.serialize_str("-Infinity"),
            nan if nan.is_nan() => serializer.serialize_str("NaN"),
            finite => serializer.serialize_f64(finite),
        }
    }
}

#[derive(Serialize)]
struct Family<'a> {
    name: &'a str,
    help: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    metric: Vec<Metric<'a>>,
}

#[derive(Serialize)]
struct Metric<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    label: Vec<Label<'a>>,
    #[serde(flatten)]
    value: Value,
    #[serde(rename = "timestampMs", skip_serializing_if = "Option::is_none")]
    timestamp_ms: Option<String>,
}

#[derive(Serialize)]
struct Label<'a> {
    name: &'a str,
    value: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Value {
    Gauge(Single),
    Counter(Single),
    Summary(Summary),
    Untyped(Single),
    Histogram(Histogram),
}

#[derive(Serialize)]
struct Single {
    value: Number,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    sample_count: String,
    sample_sum: Number,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    quantile: Vec<Quantile>,
}

#[derive(Serialize)]
struct Quantile {
    quantile: Number,
    value: Number,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Histogram {
    sample_count: String,
    sample_sum: Number,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bucket: Vec<Bucket>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Bucket {
    cumulative_count: String,
    upper_bound: Number,
}

fn family(family: &proto::MetricFamily) -> Family<'_> {
    let kind = family.get_field_type();
    Family {
        name: family.name(),
        help: family.help(),
        kind: match kind {
            MetricType::COUNTER => "COUNTER",
            MetricType::GAUGE => "GAUGE",
            MetricType::SUMMARY => "SUMMARY",
            MetricType::UNTYPED => "UNTYPED",
            MetricType::HISTOGRAM => "HISTOGRAM",
        },
        metric: family.get_metric().iter().map(|m| metric(m, kind)).collect(),
    }
}

fn metric(metric: &proto::Metric, kind: MetricType) -> Metric<'_> {
    let single = |value| Single { value: Number(value) };
    let value = match kind {
        MetricType::COUNTER => Value::Counter(single(metric.get_counter().get_value())),
        MetricType::GAUGE => Value::Gauge(single(metric.get_gauge().get_value())),
        MetricType::SUMMARY => Value::Summary(summary(metric.get_summary())),
        MetricType::UNTYPED => Value::Untyped(single(0.0)),
        MetricType::HISTOGRAM => Value::Histogram(histogram(metric.get_histogram())),
    };
    let labels = metric.get_label().iter().map(|label| Label {
        name: label.name(),
        value: label.value(),
    });
    Metric {
        label: labels.collect(),
        value,
        timestamp_ms: Some(metric.timestamp_ms())
            .filter(|ms| *ms != 0)
            .map(|ms| ms.to_string()),
    }
}

fn summary(summary: &proto::Summary) -> Summary {
    let quantile = |quantile: &proto::Quantile| Quantile {
        quantile: Number(quantile.quantile()),
        value: Number(quantile.value()),
    };
    Summary {
        sample_count: summary.sample_count().to_string(),
        sample_sum: Number(summary.sample_sum()),
        quantile: summary.get_quantile().iter().map(quantile).collect(),
    }
}

fn histogram(histogram: &proto::Histogram) -> Histogram {
    let bucket = |bucket: &proto::Bucket| Bucket {
        cumulative_count: bucket.cumulative_count().to_string(),
        upper_bound: Number(bucket.upper_bound()),
    };
    Histogram {
        sample_count: histogram.get_sample_count().to_string(),
        sample_sum: Number(histogram.get_sample_sum()),
        bucket: histogram.get_bucket().iter().map(bucket).collect(),
    }
}

/// Compiles `metric_name_pattern`; none where it is absent.
async fn pattern(api: &Api, form: &Form) -> Result<Option<Regex>, ApiError> {
    let pattern = form.get("metric_name_pattern").to_owned();
    if pattern.is_empty() {
        return Ok(None);
    }
    let (costly, timeout) = (is_costly(&pattern), api.state.query.timeout);
    let compile = move || Regex::anchored(&pattern).map_err(|error| error.between_anchors(&pattern));
    let compiled = api.reading(costly, timeout, compile).await?;
    let compiled = compiled.map_err(|mut error| {
        // The anchors that Prometheus puts around this one are others than around a matcher's.
        error.expression = error.expression.replacen("^(?s:", "^(?:", 1);
        ApiError::bad_data(format!("invalid metric_name_pattern: {error}"))
    });
    compiled.map(Some)
}

/// `/status/self_metrics`.
pub(super) async fn self_metrics(State(api): State<Arc<Api>>, form: Form) -> Result<Answer, ApiError> {
    let pattern = pattern(&api, &form).await?;
    let families = api.state.registry.gather();
    let wanted = families
        .iter()
        .filter(|family| pattern.as_ref().is_none_or(|pattern| pattern.is_match(family.name())));
    Answer::of(&wanted.map(family).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{Gauge, HistogramOpts, HistogramVec, IntCounter, Registry};

    #[test]
    fn families_are_as_protobuf_has_them_in_json() {
        let registry = Registry::new();
        let counter = IntCounter::new("a_total", "A <counter>.").unwrap();
        counter.inc();
        let gauge = Gauge::new("b", "B.").unwrap();
        gauge.set(f64::INFINITY);
        let options = HistogramOpts::new("c", "C.").buckets(vec![1e-7, 2.0]);
        let histogram = HistogramVec::new(options, &["x"]).unwrap();
        histogram.with_label_values(&["y"]).observe(1.5);
        registry.register(Box::new(counter)).unwrap();
        registry.register(Box::new(gauge)).unwrap();
        registry.register(Box::new(histogram)).unwrap();
        let mut families = registry.gather();
        let mut summary = proto::Summary::default();
        summary.set_sample_count(3);
        summary.set_sample_sum(f64::NAN);
        let mut quantile = proto::Quantile::default();
        quantile.set_quantile(0.5);
        quantile.set_value(f64::NEG_INFINITY);
        summary.set_quantile(vec![quantile]);
        let mut metric = proto::Metric::default();
        metric.set_summary(summary);
        metric.set_timestamp_ms(12);
        let mut last = proto::MetricFamily::default();
        last.set_name("d".to_owned());
        last.set_help("D.".to_owned());
        last.set_field_type(MetricType::SUMMARY);
        last.set_metric(vec![metric]);
        families.push(last);
        let shown = crate::gojson::to_string(&families.iter().map(family).collect::<Vec<_>>()).unwrap();
        assert_eq!(
            shown,
            [
                r#"[{"name":"a_total","help":"A \u003ccounter\u003e.","type":"COUNTER","metric":[{"counter":{"value":1}}]},"#,
                r#"{"name":"b","help":"B.","type":"GAUGE","metric":[{"gauge":{"value":"Infinity"}}]},"#,
                r#"{"name":"c","help":"C.","type":"HISTOGRAM","metric":[{"label":[{"name":"x","value":"y"}],"#,
                r#""histogram":{"sampleCount":"1","sampleSum":1.5,"bucket":[{"cumulativeCount":"0","upperBound":1e-7},"#,
                r#"{"cumulativeCount":"1","upperBound":2}]}}]},"#,
                r#"{"name":"d","help":"D.","type":"SUMMARY","metric":[{"summary":{"sampleCount":"3","sampleSum":"NaN","#,
                r#""quantile":[{"quantile":0.5,"value":"-Infinity"}]},"timestampMs":"12"}]}]"#,
            ]
            .concat()
        );
    }
}
