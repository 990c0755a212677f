//! Prometheus' remote write 1.0: `POST /api/v1/write`, a snappy block of protobuf.

mod answer;
mod contents;
mod labels;
mod scan;
#[cfg(test)]
mod tests;

pub use contents::Contents;
pub use scan::BadBody;

use crate::metrics::RemoteWriteMetrics;
use answer::Answer;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::post;
use contents::Rows;
use futures::StreamExt;
use gnomon_cluster::router::{MetricInfo, Router};
use gnomon_model::{Clock, LabelsBuilder, LabelsRef, TenantId};
use labels::BodyLabels;
use scan::{Fields, Outline};
use std::sync::Arc;
use std::time::Duration;

const V1: &str = "prometheus.WriteRequest";
const V2: &str = "io.prometheus.write.v2.Request";
/// No snappy block is compressed more than this: a copy of 64 bytes takes three.
const MOST_COMPRESSION: usize = 22;

/// Of a body that is refused for its length, this much is read.
const MOST_DRAINED: usize = 256 << 20;

#[derive(Clone, Debug)]
pub struct RemoteWriteOptions {
    /// Of a body as it is sent.
    pub max_compressed_bytes: usize,
    /// Of a body once it is decompressed.
    pub max_body_bytes: usize,
    /// Requests in flight; further ones are told to come again.
    pub max_requests: usize,
    /// How long a body may take to arrive: a sender that went away without a word must not keep its place among the
    /// requests in flight.
    pub body_timeout: Duration,
    /// How long a request may wait for its shards.
    pub timeout: Duration,
}

impl Default for RemoteWriteOptions {
    fn default() -> Self {
        Self {
            max_compressed_bytes: 16 << 20,
            max_body_bytes: 64 << 20,
            max_requests: 256,
            body_timeout: Duration::from_secs(60),
            timeout: Duration::from_secs(25),
        }
    }
}

/// The receiver of remote write.
pub struct RemoteWrite {
    router: Arc<Router>,
    options: RemoteWriteOptions,
    metrics: RemoteWriteMetrics,
    clock: Arc<dyn Clock>,
    permits: tokio::sync::Semaphore,
    /// Random, so that no sender can choose labels whose identities collide.
    seed: u64,
}

impl RemoteWrite {
    #[must_use]
    pub fn new(
        router: Arc<Router>,
        options: RemoteWriteOptions,
        metrics: &crate::IngesterMetrics,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        Arc::new(Self {
            router,
            permits: tokio::sync::Semaphore::new(options.max_requests),
            options,
            metrics: metrics.remote_write.clone(),
            clock,
            seed: rand::random(),
        })
    }

    /// `POST /api/v1/write`.
    pub fn routes(self: &Arc<Self>) -> axum::Router {
        axum::Router::new()
            .route("/api/v1/write", post(handle).options(preflight).fallback(not_allowed))
            .with_state(self.clone())
    }

    /// Answers one request.
    pub async fn handle(&self, request: Request<Body>) -> Response<Body> {
        let started = self.clock.monotonic();
        let answer = match self.receive(request).await {
            Ok(answer) | Err(answer) => answer,
        };
        let elapsed = self.clock.monotonic().saturating_sub(started);
        self.metrics.seconds.observe(elapsed.as_secs_f64());
        self.metrics.requests.with_label_values(&[answer.status.as_str()]).inc();
        if answer.status.is_client_error() {
            tracing::debug!(code = answer.status.as_u16(), error = %answer.text, "remote write refused");
        }
        answer.into_response()
    }

    async fn receive(&self, request: Request<Body>) -> Result<Answer, Answer> {
        check_headers(request.headers())?;
        let _permit = self.permits.try_acquire().map_err(|_| {
            let text = format!("{} requests are in flight already", self.options.max_requests);
            Answer::new(StatusCode::SERVICE_UNAVAILABLE, text)
        })?;
        let limit = self.options.body_timeout;
        let compressed = tokio::time::timeout(limit, self.body_of(request)).await.map_err(|_| {
            let text = format!("the body did not arrive within {} s", limit.as_secs_f64());
            Answer::new(StatusCode::SERVICE_UNAVAILABLE, text)
        })??;
        self.metrics.compressed_bytes.inc_by(compressed.len() as u64);
        let body = decompress(&compressed, self.options.max_body_bytes)?;
        drop(compressed);
        self.metrics.body_bytes.inc_by(body.len() as u64);
        self.write(&body).await
    }

    /// The body as it was sent.
    async fn body_of(&self, request: Request<Body>) -> Result<Bytes, Answer> {
        let most = self.options.max_compressed_bytes;
        let declared = request.headers().get(header::CONTENT_LENGTH);
        let declared = declared.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if declared.is_some_and(|length| length > most) {
            drain(request.into_body()).await;
            return Err(Answer::new(StatusCode::BAD_REQUEST, too_long(most)));
        }
        axum::body::to_bytes(request.into_body(), most).await.map_err(|error| {
            let is_too_long =
                std::error::Error::source(&error).is_some_and(|e| e.is::<http_body_util::LengthLimitError>());
            if is_too_long {
                Answer::new(StatusCode::BAD_REQUEST, too_long(most))
            } else {
                Answer::new(StatusCode::BAD_REQUEST, error)
            }
        })
    }

    /// Writes a decompressed body: nothing of it where it is malformed.
    async fn write(&self, body: &[u8]) -> Result<Answer, Answer> {
        let bad = |error: BadBody| Answer::new(StatusCode::BAD_REQUEST, error);
        let outline = Outline::of(body).map_err(bad)?;
        let labels = BodyLabels {
            body,
            series: &outline.series,
        };
        let tenant = TenantId::anonymous();
        let mut batch = self.router.batch(&tenant, &labels);
        let count = outline.series.len();
        let (mut identities, mut items) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for number in 0..count as u32 {
            let (identity, others) = labels::identity(labels.bytes(number), self.seed).map_err(bad)?;
            identities.push(identity);
            items.push(others);
        }
        batch.announce(&identities);
        let mut samples = 0;
        for (number, (identity, items)) in identities.iter().zip(items).enumerate() {
            batch.series(*identity, number as u32);
            samples += add_items(&mut batch, items).map_err(bad)?;
        }
        for (start, end) in &outline.metadata {
            let bytes = body.get(*start as usize..*end as usize).unwrap_or(&[]);
            add_metadata(&mut batch, bytes).map_err(bad)?;
        }
        self.metrics.samples.inc_by(samples);
        let outcome = batch.send(self.options.timeout).await;
        let invalid = gnomon_proto::v1::rejection::Reason::InvalidLabels;
        let invalid = outcome.refused.iter().filter(|r| r.reason == invalid);
        self.metrics.invalid_labels.inc_by(invalid.map(|r| r.count).sum());
        Ok(Answer::of(&outcome))
    }
}

async fn handle(State(receiver): State<Arc<RemoteWrite>>, request: Request<Body>) -> Response<Body> {
    receiver.handle(request).await
}

fn too_long(most: usize) -> String {
    format!("the body has more than {most} bytes")
}

/// Reads what is sent and drops it, so that a sender which writes its whole request before it reads gets the answer;
/// not for ever.
async fn drain(body: Body) {
    let mut chunks = body.into_data_stream();
    let mut left = MOST_DRAINED;
    while let Some(Ok(chunk)) = chunks.next().await {
        match left.checked_sub(chunk.len()) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// What a browser asks before it posts; nothing else is to be said.
async fn preflight() -> StatusCode {
    StatusCode::NO_CONTENT
}

async fn not_allowed() -> impl IntoResponse {
    let headers = [
        (header::ALLOW, "OPTIONS, POST"),
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
    ];
    (StatusCode::METHOD_NOT_ALLOWED, headers, "Method Not Allowed\n")
}

/// Content type and encoding, absent ones as 1.0 senders mean them.
fn check_headers(headers: &HeaderMap) -> Result<(), Answer> {
    let text = |name| {
        headers
            .get(name)
            .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
    };
    let unsupported = |text: String| Answer::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
    let content_type = text(header::CONTENT_TYPE).unwrap_or_default();
    check_content_type(content_type.trim()).map_err(unsupported)?;
    match text(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("snappy") => Err(unsupported(
            format!("{encoding} encoding (compression) is not accepted by this server; only snappy is acceptable"),
        )),
        _ => Ok(()),
    }
}

fn check_content_type(content_type: &str) -> Result<(), String> {
    if content_type.is_empty() {
        return Ok(());
    }
    let mut parts = content_type.split(';');
    if parts.next() != Some("application/x-protobuf") {
        return Err(format!(
            "expected application/x-protobuf as the first (media) part, got {content_type} content-type"
        ));
    }
    for part in parts {
        let Some((name, value)) = part.split_once('=').filter(|(_, v)| !v.contains('=')) else {
            return Err(format!(
                "as per https://www.rfc-editor.org/rfc/rfc9110#parameter expected parameters to be key-values, got {part} in {content_type} content-type"
            ));
        };
        match (name.trim(), value) {
            ("proto", V1) => return Ok(()),
            ("proto", V2) => {
                return Err(format!(
                    "{V2} protobuf message is not accepted by this server; accepted [{V1}]"
                ));
            }
            ("proto", other) => {
                return Err(format!(
                    "got {content_type} content type; unknown type for remote write protobuf message {other}, supported: {V1}"
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Allocates no more than `most` bytes, and not more than the compressed bytes can stand for.
fn decompress(compressed: &[u8], most: usize) -> Result<Vec<u8>, Answer> {
    let bad = |text: &str| Answer::new(StatusCode::BAD_REQUEST, text);
    let length = snap::raw::decompress_len(compressed).map_err(|_| bad("snappy: corrupt input"))?;
    // A length that cannot be true is told from one that is too large.
    if length > compressed.len().saturating_mul(MOST_COMPRESSION) {
        return Err(bad("snappy: corrupt input"));
    }
    if length > most {
        return Err(bad(&format!(
            "the body has {length} bytes decompressed: at most {most} are taken"
        )));
    }
    snap::raw::Decoder::new()
        .decompress_vec(compressed)
        .map_err(|_| bad("snappy: corrupt input"))
}

/// Adds what a series has besides labels; the number of its samples and histograms.
fn add_items(batch: &mut impl Rows, series: &[u8]) -> Result<u64, BadBody> {
    let mut samples = 0;
    let mut fields = Fields::of("TimeSeries", series);
    while let Some((field, value)) = fields.next()? {
        match field {
            2 => {
                let (timestamp_ms, value) = scan::sample(fields.bytes(field, value)?)?;
                batch.sample(timestamp_ms, value);
                samples += 1;
            }
            3 => add_exemplar(batch, fields.bytes(field, value)?)?,
            4 => {
                let encoded = fields.bytes(field, value)?;
                batch.histogram(scan::histogram_time(encoded)?, encoded);
                samples += 1;
            }
            _ => {}
        }
    }
    Ok(samples)
}

/// An exemplar whose labels are no label set is left out, as Prometheus does.
fn add_exemplar(batch: &mut impl Rows, encoded: &[u8]) -> Result<(), BadBody> {
    let mut builder = LabelsBuilder::default();
    let mut valid = true;
    let (timestamp_ms, value) = scan::exemplar(encoded, |name, text| {
        match (std::str::from_utf8(name), std::str::from_utf8(text)) {
            (Ok(name), Ok(text)) if !name.is_empty() => builder.set(name, text),
            _ => valid = false,
        }
    })?;
    if valid {
        let mut labels = Vec::new();
        builder.write_to(&mut labels);
        batch.exemplar(timestamp_ms, value, LabelsRef::from_canonical(&labels));
    }
    Ok(())
}

fn add_metadata(batch: &mut impl Rows, encoded: &[u8]) -> Result<(), BadBody> {
    let metadata = scan::metadata(encoded)?;
    let kinds = [
        "unknown",
        "counter",
        "gauge",
        "histogram",
        "gaugehistogram",
        "summary",
        "info",
        "stateset",
    ];
    let kind = usize::try_from(metadata.kind).ok().and_then(|k| kinds.get(k));
    let text = |bytes| std::str::from_utf8(bytes).ok();
    if let (Some(metric), Some(help), Some(unit)) = (text(metadata.metric), text(metadata.help), text(metadata.unit))
        && !metric.is_empty()
    {
        batch.metadata(&MetricInfo {
            metric,
            kind: kind.copied().unwrap_or("unknown"),
            unit,
            help,
        });
    }
    Ok(())
}
