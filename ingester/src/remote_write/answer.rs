//! What a sender is told.

use crate::intake::Written;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use gnomon_cluster::router::{Refused, WriteOutcome};
use gnomon_proto::v1::rejection::Reason;

/// Seconds after which a sender may try again.
const RETRY_AFTER: &str = "1";

/// By remote write 2.0.
const STATISTICS: [&str; 3] = [
    "x-prometheus-remote-write-samples-written",
    "x-prometheus-remote-write-histograms-written",
    "x-prometheus-remote-write-exemplars-written",
];

/// Characters of the labels in an example.
pub(super) const MOST_EXAMPLE: usize = 500;

/// Status and text of an answer; the text is empty for a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
    /// Samples, histograms and exemplars that were written, for senders of version 2.0.
    statistics: Option<[u64; 3]>,
}

impl Answer {
    pub(crate) fn new(status: StatusCode, text: impl ToString) -> Self {
        Self {
            status,
            text: text.to_string(),
            statistics: None,
        }
    }

    /// Says what was written, where it is known: of samples and histograms that were refused only their sum is.
    pub(crate) fn with_statistics(mut self, written: &Written) -> Self {
        let refused = written.outcome.refused.iter().map(|r| r.count).sum::<u64>();
        let left = |all: u64| all.saturating_sub(refused);
        let (samples, histograms, exemplars) = (written.samples, written.histograms, written.exemplars);
        self.statistics = match self.status {
            StatusCode::NO_CONTENT => Some([samples, histograms, exemplars]),
            StatusCode::BAD_REQUEST if histograms == 0 => Some([left(samples), 0, exemplars]),
            StatusCode::BAD_REQUEST if samples == 0 => Some([0, left(histograms), exemplars]),
            StatusCode::BAD_REQUEST => None,
            _ => Some([0, 0, 0]),
        };
        self
    }

    /// Retry all of it where part of it may be missing; else tell what will never be taken; else it is all there.
    /// `first_bad` names a series whose labels are no label set.
    pub(crate) fn of(outcome: &WriteOutcome, first_bad: impl FnOnce() -> Option<String>) -> Self {
        if let Some(error) = &outcome.retryable {
            return Self::new(StatusCode::SERVICE_UNAVAILABLE, error);
        }
        if let Some(error) = &outcome.failed {
            return Self::new(StatusCode::INTERNAL_SERVER_ERROR, error);
        }
        if !outcome.refused.is_empty() {
            return Self::new(StatusCode::BAD_REQUEST, refusals_with(outcome, first_bad));
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
        let names = STATISTICS.into_iter();
        for (name, count) in names.zip(self.statistics.into_iter().flatten()) {
            headers.insert(HeaderName::from_static(name), HeaderValue::from(count));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        response
    }
}

pub(crate) fn refusals(outcome: &WriteOutcome) -> String {
    refusals_with(outcome, || None)
}

/// `first_bad` is asked where there are labels that cannot be an example, being no label set.
fn refusals_with(outcome: &WriteOutcome, first_bad: impl FnOnce() -> Option<String>) -> String {
    let refused: u64 = outcome.refused.iter().map(|r| r.count).sum();
    let taken = outcome.taken + outcome.duplicates;
    let mut text = format!("{refused} samples refused, {taken} committed");
    let mut first_bad = Some(first_bad);
    for one in &outcome.refused {
        text.push_str(&format!("; {}: {}", one.count, reason(one)));
        if let Some((labels, timestamp_ms)) = &one.example {
            text.push_str(&format!(" (such as {} at {timestamp_ms})", short(labels.to_string())));
        } else if one.reason == Reason::InvalidLabels
            && let Some(bad) = first_bad.take().and_then(|find| find())
        {
            text.push_str(&format!(" (such as {bad})"));
        }
    }
    text
}

/// As much of an example as is of use: labels may be what was too long.
pub(crate) fn short(mut labels: String) -> String {
    if let Some((end, _)) = labels.char_indices().nth(MOST_EXAMPLE) {
        labels.truncate(end);
        labels.push('…');
    }
    labels
}

/// In Prometheus' words where it has some.
pub(crate) fn reason(refused: &Refused) -> &'static str {
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
