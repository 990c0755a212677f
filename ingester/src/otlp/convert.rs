//! From OTLP's metrics to series, by Prometheus' rules.
//!
//! Source: the OpenTelemetry specification, "Prometheus and OpenMetrics Compatibility", and what Prometheus 3.x does
//! with the same request (`storage/remote/otlptranslator`).

use super::BadOtlp;
use super::attributes::{Attributes, attributes};
use super::converted::{Converted, Metadata};
use super::histogram;
use super::names::{self, NameKind};
use super::read::{
    Data, DataKind, ExemplarPoint, ExponentialPoint, HistogramPoint, Metric, NumberPoint, SummaryPoint, each, last,
    quantile, text,
};
use super::settings::OtlpSettings;
use gnomon_model::{LabelsBuilder, STALE_NAN};
use prost::Message;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Characters that the labels of an exemplar may have together (OpenMetrics 1.0).
const MAX_EXEMPLAR_CHARS: usize = 128;
/// Samples of `target_info` that one resource gets in a request, the newest.
const MAX_TARGET_INFO: i64 = 512;

const SERVICE_NAME: &str = "service.name";
const SERVICE_NAMESPACE: &str = "service.namespace";
const SERVICE_INSTANCE: &str = "service.instance.id";

/// How a request is read, besides the settings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules<'s> {
    pub(super) settings: &'s OtlpSettings,
    /// Delta points are taken as they are.
    pub(super) deltas: bool,
    /// Half of it lies between two samples of `target_info`.
    pub(super) lookback_ms: i64,
}

/// Labels of a point, by name.
type Labels<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// What all points of a resource, or of a scope in it, have alike.
struct Common<'a> {
    /// Where a point has no such attribute.
    promoted: Vec<(String, Cow<'a, str>)>,
    /// Whatever a point has.
    fixed: Vec<(String, Cow<'a, str>)>,
}

/// Converts an `ExportMetricsServiceRequest`.
pub(super) fn convert<'a>(body: &'a [u8], rules: Rules<'_>, most_bytes: usize) -> Result<Converted<'a>, BadOtlp> {
    let mut out = Converted::new(most_bytes);
    each("ExportMetricsServiceRequest", body, 1, |resource| {
        Resource::of(resource, rules)?.convert(resource, &mut out)
    })?;
    Ok(out)
}

/// The resource that metrics are of.
struct Resource<'a, 's> {
    rules: Rules<'s>,
    attributes: Attributes<'a>,
    promoted: Vec<(String, Cow<'a, str>)>,
    identity: Vec<(String, Cow<'a, str>)>,
    /// First and last time of its points, milliseconds.
    times: Option<(i64, i64)>,
}

impl<'a, 's> Resource<'a, 's> {
    fn of(bytes: &'a [u8], rules: Rules<'s>) -> Result<Self, BadOtlp> {
        let attributes = attributes("Resource", last("ResourceMetrics", bytes, 1)?, 1)?;
        let names = rules.settings.label_names();
        let mut promoted = Vec::new();
        for (key, value) in &attributes {
            if rules.settings.promotes(key)
                && !value.is_empty()
                && let Some(name) = names.label(key)
            {
                promoted.push((name, value.clone()));
            }
        }
        promoted.sort_by(|a, b| a.0.cmp(&b.0));
        let value = |wanted: &str| {
            attributes
                .iter()
                .find(|(key, _)| *key == wanted)
                .map(|(_, value)| value)
        };
        let mut identity = Vec::new();
        if let Some(name) = value(SERVICE_NAME) {
            let job = match value(SERVICE_NAMESPACE) {
                Some(namespace) => Cow::Owned(format!("{namespace}/{name}")),
                None => name.clone(),
            };
            identity.push(("job".to_owned(), job));
        }
        if let Some(instance) = value(SERVICE_INSTANCE) {
            identity.push(("instance".to_owned(), instance.clone()));
        }
        Ok(Self {
            rules,
            promoted,
            identity,
            attributes,
            times: None,
        })
    }

    fn convert(mut self, bytes: &'a [u8], out: &mut Converted<'a>) -> Result<(), BadOtlp> {
        each("ResourceMetrics", bytes, 2, |scope| {
            let common = self.common(scope)?;
            each("ScopeMetrics", scope, 2, |metric| {
                let metric = Metric::of(metric)?;
                MetricOf {
                    rules: self.rules,
                    common: &common,
                    times: &mut self.times,
                    out,
                }
                .convert(metric)
            })
        })?;
        self.target_info(out)
    }

    fn common(&self, scope_metrics: &'a [u8]) -> Result<Common<'a>, BadOtlp> {
        let mut fixed = Vec::new();
        let scope = last("ScopeMetrics", scope_metrics, 1)?;
        let name = text("InstrumentationScope", scope, 1)?;
        if self.rules.settings.promote_scope && !name.is_empty() {
            let version = text("InstrumentationScope", scope, 2)?;
            let schema = text("ScopeMetrics", scope_metrics, 3)?;
            let names = self.rules.settings.label_names();
            for (label, value) in [("name", name), ("version", version), ("schema_url", schema)] {
                fixed.push((format!("otel_scope_{label}"), Cow::Borrowed(value)));
            }
            for (key, value) in attributes("InstrumentationScope", scope, 3)? {
                let Some(label) = names.label(&format!("otel_scope_{key}")) else {
                    continue;
                };
                // The scope's own name is not an attribute's to say.
                if !fixed.iter().any(|(known, _)| *known == label) && !value.is_empty() {
                    fixed.push((label, value));
                }
            }
        }
        fixed.extend(self.identity.iter().cloned());
        Ok(Common {
            promoted: self.promoted.clone(),
            fixed,
        })
    }

    /// What else is known of the resource, as a metric of its own: over the time that the request is about, often enough
    /// to be found everywhere in it.
    fn target_info(self, out: &mut Converted<'a>) -> Result<(), BadOtlp> {
        let Some((first_ms, last_ms)) = self.times else {
            return Ok(());
        };
        let identifying = [SERVICE_NAME, SERVICE_NAMESPACE, SERVICE_INSTANCE];
        let says_more = self.attributes.iter().any(|(key, _)| !identifying.contains(key));
        if !says_more || self.identity.is_empty() {
            return Ok(());
        }
        let common = Common {
            promoted: Vec::new(),
            fixed: self.identity,
        };
        let keep = self.rules.settings.keep_identifying;
        let told = self.attributes.into_iter();
        let told = told.filter(|(key, _)| keep || !identifying.contains(key)).collect();
        let Some(labels) = labels(told, &common, self.rules.settings, out)? else {
            return Ok(());
        };
        let series = out.series(&labels, "target_info", None)?;
        out.start_ms = 0;
        let step_ms = (self.rules.lookback_ms / 2).max(1);
        let mut at_ms = first_ms.max(last_ms.saturating_sub(step_ms.saturating_mul(MAX_TARGET_INFO - 1)));
        while at_ms < last_ms {
            out.sample(series, at_ms, 1.0)?;
            at_ms = at_ms.saturating_add(step_ms);
        }
        out.sample(series, last_ms, 1.0)
    }
}

/// The labels of a point, by name; none where an attribute has no name that a label could have.
fn labels<'a>(
    mut attributes: Attributes<'a>,
    common: &Common<'a>,
    settings: &OtlpSettings,
    out: &mut Converted<'_>,
) -> Result<Option<Labels<'a>>, BadOtlp> {
    let names = settings.label_names();
    // Those that become one label are joined by the order of their keys.
    attributes.sort_by(|a, b| a.0.cmp(b.0));
    let mut found: BTreeMap<Cow<'a, str>, Cow<'a, str>> = BTreeMap::new();
    for (key, value) in attributes {
        let name = match settings.strategy.escape {
            true => match names.label(key) {
                Some(name) => Cow::Owned(name),
                None => return Ok(None),
            },
            false if key.is_empty() => return Ok(None),
            false => Cow::Borrowed(key),
        };
        out.charge(name.len() + value.len())?;
        match found.get_mut(&name) {
            None => {
                found.insert(name, value);
            }
            Some(known) => {
                let known = known.to_mut();
                known.push(';');
                known.push_str(&value);
            }
        }
    }
    for (name, value) in &common.promoted {
        out.charge(name.len() + value.len())?;
        found.entry(Cow::Owned(name.clone())).or_insert_with(|| value.clone());
    }
    for (name, value) in &common.fixed {
        out.charge(name.len() + value.len())?;
        found.insert(Cow::Owned(name.clone()), value.clone());
    }
    Ok(Some(found.into_iter().collect()))
}

/// Converts the metrics of a scope.
struct MetricOf<'c, 'a, 's> {
    rules: Rules<'s>,
    common: &'c Common<'a>,
    times: &'c mut Option<(i64, i64)>,
    out: &'c mut Converted<'a>,
}

impl<'a> MetricOf<'_, 'a, '_> {
    fn convert(&mut self, metric: Metric<'a>) -> Result<(), BadOtlp> {
        let Some(data) = metric.data else {
            // Whatever it has is not known to this version, its points cannot even be counted.
            self.out.reject(
                format!("metric {:?} has no data of a known type", short(metric.name)),
                1,
            );
            return Ok(());
        };
        if let Err(why) = self.check(&metric, data) {
            let mut points = 0;
            data.points(|_| {
                points += 1;
                Ok(())
            })?;
            self.out.reject(why, points);
            return Ok(());
        }
        let strategy = self.rules.settings.strategy;
        let kind = match data.kind {
            DataKind::Gauge => NameKind::Gauge,
            DataKind::Sum if data.is_monotonic => NameKind::Counter,
            _ => NameKind::Other,
        };
        let Some(name) = names::metric(strategy, metric.name, metric.unit, kind) else {
            let why = format!(
                "nothing is left of the metric name {:?} once it is translated",
                short(metric.name)
            );
            let mut points = 0;
            data.points(|_| {
                points += 1;
                Ok(())
            })?;
            self.out.reject(why, points);
            return Ok(());
        };
        let mut any = false;
        data.points(|point| {
            any = true;
            match data.kind {
                DataKind::Gauge | DataKind::Sum => self.number(&name, data, point),
                DataKind::Histogram if self.rules.settings.convert_histograms_to_nhcb => {
                    self.custom_buckets(&name, data, point)
                }
                DataKind::Histogram => self.classic(&name, point),
                DataKind::Exponential => self.exponential(&name, data, point),
                DataKind::Summary => self.summary(&name, point),
            }
        })?;
        if any {
            let unit = names::unit(strategy, metric.unit);
            self.out
                .charge(size_of::<Metadata<'_>>() + name.len() + unit.len() + metric.description.len())?;
            self.out.metadata.push(Metadata {
                metric: name,
                kind: type_of(data),
                unit,
                help: metric.description,
            });
        }
        Ok(())
    }

    /// Whether what it says of time goes together with what series are.
    fn check(&self, metric: &Metric<'_>, data: Data<'_>) -> Result<(), String> {
        if matches!(data.kind, DataKind::Gauge | DataKind::Summary) {
            return Ok(());
        }
        let name = short(metric.name);
        match data.temporality {
            2 => Ok(()),
            1 if self.rules.deltas => Ok(()),
            1 => Err(format!(
                "metric {name:?} has delta temporality: let the sender export cumulative values \
                 (OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=cumulative, or the collector's deltatocumulative \
                 processor), or start gnomon with --enable-feature=otlp-native-delta-ingestion"
            )),
            other => Err(format!(
                "metric {name:?} has the aggregation temporality {other}, which is none"
            )),
        }
    }

    fn labels(&mut self, message: &'static str, point: &'a [u8], field: u32) -> Result<Option<Labels<'a>>, BadOtlp> {
        let attributes = attributes(message, point, field)?;
        let labels = labels(attributes, self.common, self.rules.settings, self.out)?;
        if labels.is_none() {
            let why = "an attribute has an empty name, or one of which nothing is left once it is translated";
            self.out.reject(why.to_owned(), 1);
        }
        Ok(labels)
    }

    fn seen(&mut self, timestamp_ms: i64) {
        let (first, last) = self.times.unwrap_or((timestamp_ms, timestamp_ms));
        *self.times = Some((first.min(timestamp_ms), last.max(timestamp_ms)));
    }

    fn number(&mut self, name: &str, data: Data<'a>, bytes: &'a [u8]) -> Result<(), BadOtlp> {
        let number = NumberPoint::of(bytes)?;
        let value = match (number.point.no_recorded_value, number.value) {
            (true, _) => STALE_NAN,
            (false, Some(value)) => value,
            (false, None) => {
                self.out.reject(format!("a point of {:?} has no value", short(name)), 1);
                return Ok(());
            }
        };
        let Some(labels) = self.labels(NumberPoint::NAME, bytes, NumberPoint::ATTRIBUTES)? else {
            return Ok(());
        };
        let at_ms = number.point.time_ms();
        // What a gauge shows has not begun at any time.
        self.out.start_ms = match data.kind {
            DataKind::Sum => number.point.start_ms(),
            _ => 0,
        };
        self.seen(at_ms);
        let series = self.out.series(&labels, name, None)?;
        self.out.sample(series, at_ms, value)?;
        if data.kind == DataKind::Sum {
            self.exemplars(
                NumberPoint::NAME,
                bytes,
                NumberPoint::EXEMPLARS,
                &[(f64::INFINITY, series)],
            )?;
        }
        Ok(())
    }

    fn classic(&mut self, name: &str, bytes: &'a [u8]) -> Result<(), BadOtlp> {
        let point = HistogramPoint::of(bytes)?;
        if point.counts.too_many || point.bounds.too_many {
            let why = format!(
                "a histogram of {:?} has more than {} buckets",
                short(name),
                super::read::MAX_BUCKETS
            );
            self.out.reject(why, 1);
            return Ok(());
        }
        let Some(labels) = self.labels(HistogramPoint::NAME, bytes, HistogramPoint::ATTRIBUTES)? else {
            return Ok(());
        };
        let at_ms = point.point.time_ms();
        self.out.start_ms = point.point.start_ms();
        self.seen(at_ms);
        let marked = |value: f64| {
            if point.point.no_recorded_value {
                STALE_NAN
            } else {
                value
            }
        };
        if let Some(sum) = point.sum {
            let series = self.out.series(&labels, &format!("{name}_sum"), None)?;
            self.out.sample(series, at_ms, marked(sum))?;
        }
        let series = self.out.series(&labels, &format!("{name}_count"), None)?;
        self.out.sample(series, at_ms, marked(point.count as f64))?;
        let bucket = format!("{name}_bucket");
        let mut so_far = 0_u64;
        let mut buckets = Vec::new();
        for (bound, count) in point.bounds.kept.iter().zip(&point.counts.kept) {
            so_far = so_far.wrapping_add(*count);
            let le = gnomon_model::gofloat::Plain(*bound).to_string();
            let series = self.out.series(&labels, &bucket, Some(("le", &le)))?;
            self.out.sample(series, at_ms, marked(so_far as f64))?;
            buckets.push((*bound, series));
        }
        let series = self.out.series(&labels, &bucket, Some(("le", "+Inf")))?;
        self.out.sample(series, at_ms, marked(point.count as f64))?;
        buckets.push((f64::INFINITY, series));
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        self.exemplars(HistogramPoint::NAME, bytes, HistogramPoint::EXEMPLARS, &buckets)
    }

    fn custom_buckets(&mut self, name: &str, data: Data<'a>, bytes: &'a [u8]) -> Result<(), BadOtlp> {
        let point = HistogramPoint::of(bytes)?;
        let histogram = histogram::of_explicit(&point, data.temporality == 1);
        let at_ms = point.point.time_ms();
        self.out.start_ms = point.point.start_ms();
        let fields = (
            HistogramPoint::NAME,
            HistogramPoint::ATTRIBUTES,
            HistogramPoint::EXEMPLARS,
        );
        self.native(name, bytes, at_ms, histogram, fields)
    }

    fn exponential(&mut self, name: &str, data: Data<'a>, bytes: &'a [u8]) -> Result<(), BadOtlp> {
        let point = ExponentialPoint::of(bytes)?;
        let histogram = histogram::of_exponential(&point, data.temporality == 1);
        let at_ms = point.point.time_ms();
        self.out.start_ms = point.point.start_ms();
        let fields = (
            ExponentialPoint::NAME,
            ExponentialPoint::ATTRIBUTES,
            ExponentialPoint::EXEMPLARS,
        );
        self.native(name, bytes, at_ms, histogram, fields)
    }

    fn native(
        &mut self,
        name: &str,
        bytes: &'a [u8],
        at_ms: i64,
        histogram: Result<gnomon_proto::prometheus::Histogram, String>,
        (message, attributes, exemplars): (&'static str, u32, u32),
    ) -> Result<(), BadOtlp> {
        let mut histogram = match histogram {
            Ok(histogram) => histogram,
            Err(why) => {
                self.out.reject(format!("{:?}: {why}", short(name)), 1);
                return Ok(());
            }
        };
        histogram.timestamp = at_ms;
        let Some(labels) = self.labels(message, bytes, attributes)? else {
            return Ok(());
        };
        self.seen(at_ms);
        let series = self.out.series(&labels, name, None)?;
        self.out.histogram(series, at_ms, &histogram.encode_to_vec())?;
        self.exemplars(message, bytes, exemplars, &[(f64::INFINITY, series)])
    }

    fn summary(&mut self, name: &str, bytes: &'a [u8]) -> Result<(), BadOtlp> {
        let point = SummaryPoint::of(bytes)?;
        let Some(labels) = self.labels(SummaryPoint::NAME, bytes, SummaryPoint::ATTRIBUTES)? else {
            return Ok(());
        };
        let at_ms = point.point.time_ms();
        self.out.start_ms = point.point.start_ms();
        self.seen(at_ms);
        let marked = |value: f64| {
            if point.point.no_recorded_value {
                STALE_NAN
            } else {
                value
            }
        };
        let series = self.out.series(&labels, &format!("{name}_sum"), None)?;
        self.out.sample(series, at_ms, marked(point.sum))?;
        let series = self.out.series(&labels, &format!("{name}_count"), None)?;
        self.out.sample(series, at_ms, marked(point.count as f64))?;
        each(SummaryPoint::NAME, bytes, SummaryPoint::QUANTILES, |value| {
            let (part, value) = quantile(value)?;
            let part = gnomon_model::gofloat::Plain(part).to_string();
            let series = self.out.series(&labels, name, Some(("quantile", &part)))?;
            self.out.sample(series, at_ms, marked(value))
        })
    }

    /// Exemplars of a point go to the first of the buckets (ascending by bound) that holds their value.
    fn exemplars(
        &mut self,
        message: &'static str,
        point: &'a [u8],
        field: u32,
        buckets: &[(f64, u32)],
    ) -> Result<(), BadOtlp> {
        each(message, point, field, |bytes| {
            let exemplar = ExemplarPoint::of(bytes)?;
            let Some(value) = exemplar.value else {
                return Ok(());
            };
            let Some((_, series)) = buckets.iter().find(|(bound, _)| value <= *bound) else {
                return Ok(());
            };
            let mut labels = LabelsBuilder::default();
            let mut chars = 0;
            for (name, id) in [("trace_id", exemplar.trace_id), ("span_id", exemplar.span_id)] {
                if id.iter().any(|byte| *byte != 0) && id.len() <= 16 {
                    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
                    chars += name.len() + id.len();
                    labels.set(name, &id);
                }
            }
            let attributes = attributes(ExemplarPoint::NAME, bytes, ExemplarPoint::ATTRIBUTES)?;
            let more = attributes
                .iter()
                .map(|(key, value)| key.chars().count() + value.chars().count());
            // All of them or none: the trace is worth more.
            if chars + more.sum::<usize>() <= MAX_EXEMPLAR_CHARS {
                for (key, value) in attributes.iter().filter(|(key, _)| !key.is_empty()) {
                    labels.set(key, value);
                }
            }
            let mut encoded = Vec::new();
            labels.write_to(&mut encoded);
            let at_ms = (exemplar.time_nanos / 1_000_000) as i64;
            self.out.exemplar(*series, at_ms, value, &encoded)
        })
    }
}

/// The type that metadata says. There is none for deltas yet.
const fn type_of(data: Data<'_>) -> &'static str {
    match data.kind {
        DataKind::Gauge => "gauge",
        DataKind::Summary => "summary",
        _ if data.temporality == 1 => "unknown",
        DataKind::Sum if data.is_monotonic => "counter",
        DataKind::Sum => "gauge",
        DataKind::Histogram | DataKind::Exponential => "histogram",
    }
}

/// As much of a name as a message needs.
fn short(name: &str) -> &str {
    name.char_indices().nth(200).map_or(name, |(at, _)| &name[..at])
}
