//! What a sender is told.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use gnomon_cluster::router::{Refused, WriteOutcome};
use gnomon_proto::v1::rejection::Reason;

/// Seconds after which a sender may try again.
const RETRY_AFTER: &str = "1";

/// Characters of the labels in an example.
const MOST_EXAMPLE: usize = 500;

/// Status and text of an answer; the text is empty for a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn new(status: StatusCode, text: impl ToString) -> Self {
        Self {
            status,
            text: text.to_string(),
        }
    }

    /// Retry all of it where part of it may be missing; else tell what will never be taken; else it is all there.
    pub(crate) fn of(outcome: &WriteOutcome) -> Self {
        if let Some(error) = &outcome.retryable {
            return Self::new(StatusCode::SERVICE_UNAVAILABLE, error);
        }
        if let Some(error) = &outcome.failed {
            return Self::new(StatusCode::INTERNAL_SERVER_ERROR, error);
        }
        if !outcome.refused.is_empty() {
            return Self::new(StatusCode::BAD_REQUEST, refusals(outcome));
        }
        Self::new(StatusCode::NO_CONTENT, "")
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let mut text = self.text;
        if !text.is_empty() {
            text.push('\n');
        }
        let has_text = !text.is_empty();
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if has_text {
            let plain = HeaderValue::from_static("text/plain; charset=utf-8");
            headers.insert(header::CONTENT_TYPE, plain);
            headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        response
    }
}

fn refusals(outcome: &WriteOutcome) -> String {
    let refused: u64 = outcome.refused.iter().map(|r| r.count).sum();
    let taken = outcome.taken + outcome.duplicates;
    let mut text = format!("{refused} samples refused, {taken} committed");
    for one in &outcome.refused {
        text.push_str(&format!("; {}: {}", one.count, reason(one)));
        if let Some((labels, timestamp_ms)) = &one.example {
            text.push_str(&format!(" (such as {} at {timestamp_ms})", short(labels.to_string())));
        }
    }
    text
}

/// As much of an example as is of use: labels may be what was too long.
fn short(mut labels: String) -> String {
    if let Some((end, _)) = labels.char_indices().nth(MOST_EXAMPLE) {
        labels.truncate(end);
        labels.push('…');
    }
    labels
}

/// In Prometheus' words where it has some.
fn reason(refused: &Refused) -> &'static str {
    match refused.reason {
        Reason::OutOfOrder => "out of order sample",
        Reason::TooOld => "too old sample",
        Reason::TooFarInFuture => "out of bounds: more than 10 minutes in the future",
        Reason::DuplicateTimestamp => "duplicate sample for timestamp",
        Reason::SeriesLimit => "the limit of series is reached (--ingest.max-series, --ingest.max-series-per-shard)",
        Reason::MetricLimit => "the limit of series of one metric is reached (--ingest.max-series-per-metric)",
        Reason::InvalidLabels => "invalid metric name or labels",
        Reason::InvalidHistogram => "invalid histogram",
        Reason::Misrouted => "sample of another shard",
        Reason::Unspecified => "refused",
    }
}
