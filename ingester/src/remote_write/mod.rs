//! Prometheus' remote write 1.0 and 2.0: `POST /api/v1/write`, a snappy block of protobuf.

mod answer;
mod contents;
mod labels;
pub(crate) mod scan;
#[cfg(test)]
mod tests;
pub(crate) mod version_1;
pub(crate) mod version_2;
#[cfg(test)]
mod version_2_tests;

pub use contents::Contents;
pub use scan::BadBody;

use crate::intake::{Intake, NotWritten, TIMES_BODY, body, reading};
use crate::metrics::RemoteWriteMetrics;
pub(crate) use answer::{Answer, reason, refusals, short};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::post;
use gnomon_model::{Clock, TenantId};
use std::sync::Arc;
use std::time::Duration;

const V1: &str = "prometheus.WriteRequest";
const V2: &str = "io.prometheus.write.v2.Request";
/// No snappy block is compressed more than this: a copy of 64 bytes takes three.
const MOST_COMPRESSION: usize = 22;

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
}

impl Default for RemoteWriteOptions {
    fn default() -> Self {
        Self {
            max_compressed_bytes: 16 << 20,
            max_body_bytes: 64 << 20,
            max_requests: 256,
            body_timeout: Duration::from_secs(60),
        }
    }
}

/// The receiver of remote write.
pub struct RemoteWrite {
    intake: Arc<Intake>,
    options: RemoteWriteOptions,
    metrics: RemoteWriteMetrics,
    clock: Arc<dyn Clock>,
    permits: tokio::sync::Semaphore,
}

impl RemoteWrite {
    #[must_use]
    pub fn new(
        intake: Arc<Intake>,
        options: RemoteWriteOptions,
        metrics: &crate::IngesterMetrics,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        Arc::new(Self {
            intake,
            permits: tokio::sync::Semaphore::new(options.max_requests),
            options,
            metrics: metrics.remote_write.clone(),
            clock,
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
        let version = check_headers(request.headers())?;
        let _permit = self.permits.try_acquire().map_err(|_| {
            let text = format!("{} requests are in flight already", self.options.max_requests);
            Answer::new(StatusCode::SERVICE_UNAVAILABLE, text)
        })?;
        let most = self.options.max_compressed_bytes;
        let memory = &self.intake.memory;
        let (compressed, sent) = body::read(request, most, self.options.body_timeout, memory)
            .await
            .map_err(|(status, text)| Answer::new(status, text))?;
        self.metrics.compressed_bytes.inc_by(compressed.len() as u64);
        let length = decompressed_length(&compressed, self.options.max_body_bytes)?;
        let _memory = memory
            .set_aside(TIMES_BODY * length)
            .map_err(|error| match NotWritten::from(error) {
                NotWritten::Malformed(why) => Answer::new(StatusCode::BAD_REQUEST, why),
                NotWritten::Retry(why) => Answer::new(StatusCode::SERVICE_UNAVAILABLE, why),
            })?;
        let body = reading(length, || decompress(&compressed))?;
        drop((compressed, sent));
        self.metrics.body_bytes.inc_by(body.len() as u64);
        self.write(version, &body).await
    }

    async fn write(&self, version: Version, body: &[u8]) -> Result<Answer, Answer> {
        let tenant = TenantId::anonymous();
        let written = match version {
            Version::One => version_1::write(&self.intake, &tenant, body).await,
            Version::Two => version_2::write(&self.intake, &tenant, body).await,
        };
        let written = written.map_err(|error| match error {
            NotWritten::Malformed(why) => Answer::new(StatusCode::BAD_REQUEST, why),
            NotWritten::Retry(why) => Answer::new(StatusCode::SERVICE_UNAVAILABLE, why),
        })?;
        self.metrics.count(&written);
        let first_bad = || match version {
            Version::One => labels::first_bad(body),
            Version::Two => version_2::first_bad(body),
        };
        let answer = Answer::of(&written.outcome, first_bad);
        Ok(match version {
            Version::One => answer,
            Version::Two => answer.with_statistics(&written),
        })
    }
}

/// Of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

async fn handle(State(receiver): State<Arc<RemoteWrite>>, request: Request<Body>) -> Response<Body> {
    receiver.handle(request).await
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
fn check_headers(headers: &HeaderMap) -> Result<Version, Answer> {
    let text = |name| {
        headers
            .get(name)
            .map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned())
    };
    let unsupported = |text: String| Answer::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
    let content_type = text(header::CONTENT_TYPE).unwrap_or_default();
    let version = check_content_type(content_type.trim()).map_err(unsupported)?;
    match text(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("snappy") => Err(unsupported(
            format!("{encoding} encoding (compression) is not accepted by this server; only snappy is acceptable"),
        )),
        _ => Ok(version),
    }
}

fn check_content_type(content_type: &str) -> Result<Version, String> {
    if content_type.is_empty() {
        return Ok(Version::One);
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
            ("proto", V1) => return Ok(Version::One),
            ("proto", V2) => return Ok(Version::Two),
            ("proto", other) => {
                return Err(format!(
                    "got {content_type} content type; unknown type for remote write protobuf message {other}, supported: {V1}, {V2}"
                ));
            }
            _ => {}
        }
    }
    Ok(Version::One)
}

fn bad(text: &str) -> Answer {
    Answer::new(StatusCode::BAD_REQUEST, text)
}

/// No more than `most` bytes, and not more than the compressed bytes can stand for.
fn decompressed_length(compressed: &[u8], most: usize) -> Result<usize, Answer> {
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
    Ok(length)
}

fn decompress_at_most(compressed: &[u8], most: usize) -> Result<Vec<u8>, Answer> {
    decompressed_length(compressed, most)?;
    decompress(compressed)
}

fn decompress(compressed: &[u8]) -> Result<Vec<u8>, Answer> {
    snap::raw::Decoder::new()
        .decompress_vec(compressed)
        .map_err(|_| bad("snappy: corrupt input"))
}
