//! OTLP's metrics: `POST /api/v1/otlp/v1/metrics` (protobuf or JSON), and `MetricsService/Export` over gRPC
//! (`crate::grpc`).
//!
//! ```text
//! body -> [gzip] -> [JSON -> protobuf] -> convert: points to series by Prometheus' rules -> HA pairs -> router
//! ```
//! Nothing of a request is built in memory but what it is converted to, which is bounded.
//!
//! Source: the OTLP specification (<https://opentelemetry.io/docs/specs/otlp/>).

mod answer;
mod attributes;
mod base64;
mod convert;
mod converted;
mod histogram;
mod json;
mod names;
mod read;
mod settings;
#[cfg(test)]
mod tests;

pub use names::Strategy;
pub use settings::OtlpSettings;

use crate::ha::{HaTracker, Replicas, Verdicts};
use crate::intake::{Intake, Memory, NoMemory, NotWritten, Rows, SetAside, body, keep, reading};
use crate::metrics::OtlpMetrics;
use crate::remote_write::refusals;
use crate::remote_write::scan::BadBody;
use answer::{Answer, Encoding};
pub(crate) use answer::{Failure, response};
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Request, Response, StatusCode, header};
use axum::routing::post;
use convert::{Rules, convert};
use converted::{Converted, Item};
use gnomon_cluster::router::{MetricInfo, RouterBatch};
use gnomon_model::{Clock, LabelsRef, TenantId};
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// The path that exporters are given, with `/v1/metrics` behind it.
pub const PATH: &str = "/api/v1/otlp/v1/metrics";

#[derive(Clone, Debug)]
pub struct OtlpOptions {
    /// Of a body as it is sent.
    pub max_compressed_bytes: usize,
    /// Of a body once it is decompressed, and of its protobuf where it was JSON.
    pub max_body_bytes: usize,
    /// Of what it is converted to.
    pub max_converted_bytes: usize,
    /// Of all requests in flight, bodies and what they are converted to.
    pub max_total_bytes: usize,
    /// Requests in flight; further ones are told to come again.
    pub max_requests: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// Points of delta temporality are taken as they are.
    pub deltas: bool,
    /// What queries look back for a sample: `target_info` comes twice as often.
    pub lookback_ms: i64,
}

impl Default for OtlpOptions {
    fn default() -> Self {
        Self {
            max_compressed_bytes: 16 << 20,
            max_body_bytes: 32 << 20,
            max_converted_bytes: 128 << 20,
            max_total_bytes: 512 << 20,
            max_requests: 256,
            body_timeout: Duration::from_secs(60),
            deltas: false,
            lookback_ms: 300_000,
        }
    }
}

/// A request that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadOtlp {
    #[error("{0}")]
    Body(#[from] BadBody),
    #[error("a text of the request is not UTF-8")]
    NotUtf8,
    #[error("an attribute's value is nested more than {0} deep")]
    Deep(u32),
    #[error("the request would be converted to series of more than {0} bytes: send fewer points in a request")]
    TooLarge(usize),
    #[error("JSON: {0}")]
    Json(String),
}

/// The receiver.
pub struct Otlp {
    intake: Arc<Intake>,
    options: OtlpOptions,
    settings: watch::Receiver<Arc<OtlpSettings>>,
    metrics: OtlpMetrics,
    clock: Arc<dyn Clock>,
    permits: Semaphore,
    memory: Memory,
}

/// Metrics are compressed to a thirtieth, or less well.
const LIKELY_RATIO: usize = 32;

/// Of a request that was taken, in part at least: points that never will be, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Exported {
    pub(crate) rejected_points: u64,
    /// Empty where there are none.
    pub(crate) message: String,
}

impl Otlp {
    #[must_use]
    pub fn new(
        intake: Arc<Intake>,
        options: OtlpOptions,
        settings: watch::Receiver<Arc<OtlpSettings>>,
        metrics: &crate::IngesterMetrics,
        clock: Arc<dyn Clock>,
    ) -> Arc<Self> {
        Arc::new(Self {
            intake,
            settings,
            metrics: metrics.otlp.clone(),
            clock,
            permits: Semaphore::new(options.max_requests),
            memory: Memory::new(options.max_total_bytes),
            options,
        })
    }

    /// `POST /api/v1/otlp/v1/metrics`.
    pub fn routes(self: &Arc<Self>) -> axum::Router {
        axum::Router::new().route(PATH, post(handle)).with_state(self.clone())
    }

    async fn handle(&self, request: Request<Body>) -> Response<Body> {
        let started = self.clock.monotonic();
        let encoding = Encoding::of(request.headers());
        let answer = match encoding {
            Some(encoding) => self.receive(request, encoding).await,
            None => Err(Failure::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "the content type is neither application/x-protobuf nor application/json",
            )),
        };
        let answer = Answer {
            encoding: encoding.unwrap_or(Encoding::Json),
            result: answer,
        };
        let elapsed = self.clock.monotonic().saturating_sub(started);
        self.metrics.seconds.observe(elapsed.as_secs_f64());
        self.metrics
            .requests
            .with_label_values(&["http", answer.status().as_str()])
            .inc();
        if let Err(failure) = &answer.result
            && failure.status.is_client_error()
        {
            tracing::debug!(code = failure.status.as_u16(), error = %failure.text, "OTLP refused");
        }
        answer.into_response()
    }

    async fn receive(&self, request: Request<Body>, encoding: Encoding) -> Result<Exported, Failure> {
        let compressed = is_gzip(request.headers())?;
        let _permit = self.permits.try_acquire().map_err(|_| self.too_busy())?;
        let (most, limit) = (self.options.max_compressed_bytes, self.options.body_timeout);
        let (sent, _sent) = body::read(request, most, limit, &self.memory)
            .await
            .map_err(|(status, text)| Failure::new(status, text))?;
        let most = self.options.max_body_bytes;
        let bad = |text: String| Failure::new(StatusCode::BAD_REQUEST, text);
        // The most it can be is set aside before it is made.
        let mut memory = self.set_aside(if compressed { most } else { 2 * sent.len() })?;
        let body = match compressed {
            true => reading(sent.len().saturating_mul(LIKELY_RATIO), || gunzip(&sent, most)).map_err(bad)?,
            false => sent.into(),
        };
        let body = match encoding {
            Encoding::Protobuf => body,
            Encoding::Json => reading(body.len(), || json::to_protobuf(&body, most)).map_err(|e| bad(e.to_string()))?,
        };
        // Others get what it is not, for as long as shards take.
        keep(&mut memory, body.len());
        self.export(&body).await
    }

    fn too_busy(&self) -> Failure {
        let text = format!("{} requests are in flight already", self.options.max_requests);
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, text)
    }

    fn set_aside(&self, bytes: usize) -> Result<SetAside, Failure> {
        let set_aside = self.memory.set_aside(bytes);
        set_aside.map_err(|error| {
            let status = match error {
                NoMemory::Now(_) => StatusCode::SERVICE_UNAVAILABLE,
                NoMemory::Ever(_) => StatusCode::BAD_REQUEST,
            };
            Failure::new(status, error.to_string())
        })
    }

    /// The same of a request that came over gRPC.
    pub(crate) async fn export_message(&self, body: &[u8]) -> Result<Exported, Failure> {
        let started = self.clock.monotonic();
        let result = match self.permits.try_acquire() {
            Ok(_permit) => self.export(body).await,
            Err(_) => Err(self.too_busy()),
        };
        let elapsed = self.clock.monotonic().saturating_sub(started);
        self.metrics.seconds.observe(elapsed.as_secs_f64());
        let code = result
            .as_ref()
            .map_or_else(|failure| failure.status, |_| StatusCode::OK);
        self.metrics.requests.with_label_values(&["grpc", code.as_str()]).inc();
        result
    }

    /// Writes an `ExportMetricsServiceRequest`: nothing of it where it is malformed.
    async fn export(&self, body: &[u8]) -> Result<Exported, Failure> {
        self.metrics.body_bytes.inc_by(body.len() as u64);
        let settings = Arc::clone(&self.settings.borrow());
        let rules = Rules {
            settings: &settings,
            deltas: self.options.deltas,
            lookback_ms: self.options.lookback_ms,
        };
        let bad = |text: String| Failure::new(StatusCode::BAD_REQUEST, text);
        let most = self.options.max_converted_bytes;
        let converted = reading(body.len(), || convert(body, rules, most));
        let mut converted = converted.map_err(|e| bad(e.to_string()))?;
        let _memory = self.set_aside(converted.weight())?;
        converted.ha = self.intake.ha_options().cloned();
        let outcome = self.write(&converted).await.map_err(|error| match error {
            NotWritten::Malformed(why) => bad(why),
            NotWritten::Retry(why) => Failure::new(StatusCode::SERVICE_UNAVAILABLE, why),
        })?;
        if let Some(error) = &outcome.retryable {
            return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, error));
        }
        if let Some(error) = &outcome.failed {
            return Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error));
        }
        let mut parts: Vec<_> = converted
            .rejected
            .iter()
            .map(|r| format!("{}: {}", r.points, r.why))
            .collect();
        if converted.rejected_more > 0 {
            parts.push(format!("{}: for other reasons", converted.rejected_more));
        }
        if !outcome.refused.is_empty() {
            parts.push(refusals(&outcome));
        }
        let refused = outcome.refused.iter().map(|r| r.count).sum::<u64>();
        let rejected_points = converted.rejected_points() + refused;
        self.metrics.rejected.inc_by(rejected_points);
        Ok(Exported {
            rejected_points,
            message: parts.join("; "),
        })
    }

    async fn write(&self, converted: &Converted<'_>) -> Result<gnomon_cluster::router::WriteOutcome, NotWritten> {
        let tenant = TenantId::anonymous();
        let series = 0..converted.series.len() as u32;
        let identity = |n| xxh3_128_with_seed(converted.labels(n).as_bytes(), self.intake.seed);
        let size = converted.weight();
        let identities: Vec<_> = reading(size, || series.map(identity).collect());
        let mut verdicts = match &self.intake.ha {
            Some(tracker) => replicas(converted, tracker)?.judge(tracker, &tenant, false).await?,
            None => Verdicts::default(),
        };
        let mut batch = self.intake.router.batch(&tenant, converted);
        let samples = reading(size, || add_to(&mut batch, converted, &identities, &mut verdicts));
        self.metrics.samples.inc_by(samples);
        self.intake.deduplicated(verdicts.dropped());
        Ok(batch.send(self.intake.timeout).await)
    }
}

/// Adds what counts; how many samples and histograms it had.
fn add_to(batch: &mut RouterBatch<'_>, converted: &Converted<'_>, identities: &[u128], verdicts: &mut Verdicts) -> u64 {
    batch.announce(identities);
    let (mut current, mut samples) = (None, 0);
    for (series, item) in &converted.items {
        if current != Some(*series) {
            current = Some(*series);
            let identity = identities.get(*series as usize).copied().unwrap_or(0);
            batch.series(identity, *series);
        }
        let mut rows = verdicts.rows(*series, batch);
        match *item {
            Item::Sample {
                timestamp_ms,
                start_ms,
                value,
            } => {
                rows.since(start_ms);
                rows.sample(timestamp_ms, value);
                samples += 1;
            }
            Item::Histogram {
                timestamp_ms,
                start_ms,
                encoded,
            } => {
                rows.since(start_ms);
                rows.histogram(timestamp_ms, converted.encoded(encoded));
                samples += 1;
            }
            Item::Exemplar {
                timestamp_ms,
                value,
                labels,
            } => {
                let labels = LabelsRef::from_canonical(converted.encoded(labels));
                rows.exemplar(timestamp_ms, value, labels);
            }
        }
    }
    for one in &converted.metadata {
        batch.metadata(&MetricInfo {
            metric: &one.metric,
            kind: one.kind,
            unit: &one.unit,
            help: one.help,
        });
    }
    samples
}

async fn handle(State(receiver): State<Arc<Otlp>>, request: Request<Body>) -> Response<Body> {
    receiver.handle(request).await
}

/// Whose series they are, where they have both labels: attributes of the points, or promoted ones of the resource.
fn replicas<'a>(converted: &'a Converted<'_>, tracker: &HaTracker) -> Result<Replicas<'a>, NotWritten> {
    let ha = tracker.options();
    let mut replicas = Replicas::with_capacity(converted.series.len());
    for series in 0..converted.series.len() as u32 {
        let labels = converted.labels(series);
        replicas.series(labels.get(&ha.cluster_label), labels.get(&ha.replica_label))?;
    }
    for (series, item) in &converted.items {
        if !matches!(item, Item::Exemplar { .. }) {
            replicas.sample_of_series(*series, item.timestamp_ms());
        }
    }
    Ok(replicas)
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, Failure> {
    let encoding = headers.get(header::CONTENT_ENCODING);
    let encoding = encoding.map(|v| String::from_utf8_lossy(v.as_bytes()).to_ascii_lowercase());
    match encoding.as_deref().map(str::trim) {
        None | Some("" | "identity" | "none") => Ok(false),
        Some("gzip") => Ok(true),
        Some(other) => Err(Failure::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("the content encoding {other:?} is not taken, gzip is"),
        )),
    }
}

/// Not more than `most` bytes.
fn gunzip(compressed: &[u8], most: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    let mut reader = flate2::read::MultiGzDecoder::new(compressed).take(most as u64 + 1);
    reader
        .read_to_end(&mut body)
        .map_err(|error| format!("gzip: {error}"))?;
    if body.len() > most {
        return Err(format!("the body has more than {most} bytes decompressed"));
    }
    Ok(body)
}

/// How much a body holds once it is converted, for fuzzing: samples, and points that are rejected.
///
/// # Errors
/// The words with which the receiver refuses it.
pub fn contents(body: &[u8], is_json: bool, most: usize) -> Result<(u64, u64), String> {
    let protobuf;
    let body = match is_json {
        false => body,
        true => {
            protobuf = json::to_protobuf(body, most).map_err(|e| e.to_string())?;
            &protobuf
        }
    };
    let settings = OtlpSettings {
        promote_all: true,
        promote_scope: true,
        ..OtlpSettings::default()
    };
    let rules = Rules {
        settings: &settings,
        deltas: true,
        lookback_ms: 300_000,
    };
    let converted = convert(body, rules, 4 * most).map_err(|e| e.to_string())?;
    for series in 0..converted.series.len() as u32 {
        let labels = LabelsRef::checked(converted.labels(series).as_bytes());
        labels.map_err(|error| format!("labels of a converted series: {error}"))?;
    }
    Ok((converted.items.len() as u64, converted.rejected_points()))
}
