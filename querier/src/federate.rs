//! `/federate`: the newest sample of every series that is asked for, as an exposition.

mod format;
mod protobuf;
mod text;

use crate::answer::{bytes_response, text_response};
use crate::error::ApiError;
use crate::fanout::{Scope, Selection, decode};
use crate::form::Form;
use crate::json::Json;
use crate::router::{Api, plain};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use format::{Format, accepted, content_type};
use gnomon_model::histogram::FloatHistogram;
use gnomon_model::{Labels, Matcher, is_stale_nan};
use gnomon_promql::Reserved;
use http::{HeaderMap, StatusCode};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What an entry takes beside its labels.
const ENTRY_BYTES: u64 = 104;

#[derive(Clone, Debug)]
enum Sample {
    Float(f64),
    Histogram(Arc<FloatHistogram>),
}

/// A series' newest sample.
#[derive(Clone, Debug)]
struct Newest {
    time_ms: i64,
    sample: Sample,
}

/// By name, then by labels.
type Found = Vec<(Labels, Newest)>;

pub(crate) async fn federate(State(api): State<Arc<Api>>, headers: HeaderMap, form: Form) -> Response {
    let (format, escaping) = accepted(&headers);
    let found = match found(&api, &form, format).await {
        Ok(found) => found,
        Err(refusal) => return refusal,
    };
    let (found, held) = found;
    let external = api.state.node.config().external_labels;
    let content_type = content_type(format, escaping);
    match format {
        Format::Text => {
            let write = move |out: &mut Json| text::write(out, found, held, &external, escaping);
            text_response(content_type, Box::new(write)).into_response()
        }
        Format::Protobuf => bytes_response(
            content_type,
            Box::new(move |sink| protobuf::write_all(sink, found, held, &external, escaping)),
        ),
    }
}

async fn found(api: &Api, form: &Form, format: Format) -> Result<(Found, Reserved), Response> {
    let bad = |why: &str| plain(StatusCode::BAD_REQUEST, format!("{why}\n"));
    let failed = |error: ApiError| {
        api.metrics.federation_errors.inc();
        plain(error.kind.status(), format!("{}\n", error.message))
    };
    form.require_whole().map_err(|error| bad(&error.message))?;
    let sets = api.selectors(form).await.map_err(failed)?.map_err(|why| bad(&why))?;
    api.gather(gather(api, sets, format)).await.map_err(failed)
}

/// Fails where anything is missing: who federates would take series that are not there for series that have ended.
async fn gather(api: &Api, sets: Vec<Vec<Matcher>>, format: Format) -> Result<(Found, Reserved), ApiError> {
    let scope = Scope::new(true, api.state.query.fetch).with_memory(api.memory.budget());
    let scope = Arc::new(scope);
    let now_ms = api.state.clock.now().0;
    let mut held = scope.memory().reserve(0)?;
    let mut found = BTreeMap::new();
    // Without matchers it is nothing that is asked for, as in Prometheus.
    for matchers in sets.into_iter().filter(|set| !set.is_empty()) {
        let selection = Selection {
            matchers,
            start_ms: now_ms.saturating_sub(api.state.query.lookback_ms),
            end_ms: now_ms,
            labels_only: false,
        };
        let mut merge = api.state.fanout.select(&scope, &selection).await?;
        while let Some(series) = merge.next().await? {
            let samples = decode(&series.runs, selection.start_ms, selection.end_ms)
                .map_err(|e| ApiError::new(crate::ErrorType::Internal, format!("series {}: {e}", series.labels)))?;
            let Some(last) = samples.len().checked_sub(1) else {
                continue;
            };
            let sample = match samples.histogram(last) {
                // There is no form for it.
                Some(_) if format == Format::Text => continue,
                // Nor for stale markers in any format.
                Some(histogram) if histogram.is_stale() => continue,
                Some(histogram) => Sample::Histogram(Arc::clone(histogram)),
                None if is_stale_nan(samples.values[last]) => continue,
                None => Sample::Float(samples.values[last]),
            };
            if series.labels.metric_name().is_empty() {
                tracing::warn!(labels = %series.labels, "a series without a name is not federated");
                continue;
            }
            let bytes = match &sample {
                Sample::Float(_) => 0,
                Sample::Histogram(histogram) => histogram_bytes(histogram),
            };
            held.grow(series.labels.as_bytes().len() as u64 + ENTRY_BYTES + bytes)?;
            let time_ms = samples.timestamps[last];
            found.insert(series.labels, Newest { time_ms, sample });
        }
    }
    let mut found: Found = found.into_iter().collect();
    found.sort_by(|(a, _), (b, _)| a.metric_name().cmp(b.metric_name()));
    Ok((found, held))
}

fn histogram_bytes(histogram: &FloatHistogram) -> u64 {
    let spans = histogram.positive_spans.len() + histogram.negative_spans.len();
    let floats = histogram.positive_buckets.len() + histogram.negative_buckets.len() + histogram.custom_values.len();
    (size_of::<FloatHistogram>() + 8 * (spans + floats)) as u64
}

/// The labels that a series gets on its way out: the external ones that it has not.
fn attached<'a>(labels: &Labels, external: &'a Labels) -> impl Iterator<Item = (&'a str, &'a str)> {
    // A federating server would otherwise take its own name for the target's.
    let instance = external.get("instance").is_none().then_some(("instance", ""));
    let mut more: Vec<_> = external.iter().chain(instance).collect();
    more.sort_unstable();
    more.retain(|(label, _)| labels.get(label).is_none());
    more.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::histogram::{ResetHint, Span};

    pub(super) fn float(labels: &[(&str, &str)], time_ms: i64, value: f64) -> (Labels, Newest) {
        let sample = Sample::Float(value);
        (Labels::from_pairs(labels.iter().copied()), Newest { time_ms, sample })
    }

    fn with_hint(labels: &[(&str, &str)], time_ms: i64, reset_hint: ResetHint) -> (Labels, Newest) {
        let sample = Sample::Histogram(Arc::new(FloatHistogram {
            reset_hint,
            schema: 2,
            zero_threshold: 0.001,
            zero_count: 1.0,
            count: 6.0,
            sum: 4.5,
            positive_spans: vec![Span { offset: -3, length: 2 }],
            positive_buckets: vec![2.0, 3.0],
            ..FloatHistogram::default()
        }));
        (Labels::from_pairs(labels.iter().copied()), Newest { time_ms, sample })
    }

    pub(super) fn histogram(labels: &[(&str, &str)], time_ms: i64) -> (Labels, Newest) {
        with_hint(labels, time_ms, ResetHint::Unknown)
    }

    pub(super) fn gauge_histogram(labels: &[(&str, &str)], time_ms: i64) -> (Labels, Newest) {
        with_hint(labels, time_ms, ResetHint::Gauge)
    }
}
