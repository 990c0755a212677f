//! `gnomon.v1.Write`: samples by single calls, or over a stream.

use super::codec::{never_taken, no_such_method, server, unary};
use crate::intake::{Intake, NotWritten, Written};
use crate::metrics::GrpcWriteMetrics;
use crate::remote_write::version_2::{Request as WriteRequest, write_request};
use crate::remote_write::{reason, refusals, short};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use gnomon_model::{Clock, TenantId};
use gnomon_proto::v1::write_response::Outcome;
use gnomon_proto::v1::{WriteRefusal, WriteResponse};
use prost::Message;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic::server::{NamedService, StreamingService, UnaryService};
use tonic::{Status, Streaming};

/// Requests of all calls and streams that are worked on at a time. Each call and stream has one: what a sender has in order
/// is written in order, and a shard does not find the older samples to be too late.
const MAX_REQUESTS: usize = 64;
const RETRY_AFTER_MS: u32 = 1000;

/// The service.
#[derive(Clone)]
pub struct WriteService(Arc<Inner>);

struct Inner {
    intake: Arc<Intake>,
    metrics: GrpcWriteMetrics,
    clock: Arc<dyn Clock>,
    places: Semaphore,
}

impl WriteService {
    #[must_use]
    pub fn new(intake: Arc<Intake>, metrics: &crate::IngesterMetrics, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            intake,
            metrics: metrics.grpc_write.clone(),
            clock,
            places: Semaphore::new(MAX_REQUESTS),
        }))
    }
}

impl NamedService for WriteService {
    const NAME: &'static str = "gnomon.v1.Write";
}

impl Service<Request<Body>> for WriteService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            match request.uri().path() {
                "/gnomon.v1.Write/Write" => Ok(unary(Single(inner), request).await),
                "/gnomon.v1.Write/WriteStream" => Ok(server().streaming(Stream(inner), request).await),
                path => Ok(no_such_method(path).into_http()),
            }
        })
    }
}

impl Inner {
    /// Waits for a place: the sender feels it, since nothing more is read meanwhile.
    async fn answer_in_turn(&self, message: &[u8]) -> WriteResponse {
        match self.places.acquire().await {
            Ok(_place) => self.answer(message).await,
            // Nobody closes it.
            Err(_) => too_busy(),
        }
    }

    async fn answer(&self, message: &[u8]) -> WriteResponse {
        let started = self.clock.monotonic();
        self.metrics.bytes.inc_by(message.len() as u64);
        let answer = self.write(message).await;
        let elapsed = self.clock.monotonic().saturating_sub(started);
        self.metrics.seconds.observe(elapsed.as_secs_f64());
        answer
    }

    fn count(&self, answer: &WriteResponse) {
        let outcome = match answer.outcome() {
            Outcome::Taken => "taken",
            Outcome::PartlyRefused => "partly_refused",
            Outcome::Retry => "retry",
            Outcome::Malformed => "malformed",
            Outcome::Failed | Outcome::Unspecified => "failed",
        };
        self.metrics.requests.with_label_values(&[outcome]).inc();
    }

    async fn write(&self, message: &[u8]) -> WriteResponse {
        let request = match WriteRequest::of(message) {
            Ok(request) => request,
            Err(error) => return malformed(0, error.to_string()),
        };
        let id = request.id;
        if !request.tenant.is_empty() && request.tenant != TenantId::anonymous().as_str().as_bytes() {
            let tenant = String::from_utf8_lossy(request.tenant);
            let tenant = short(tenant.into_owned());
            return malformed(
                id,
                format!("tenant {tenant:?}: there is one tenant only, leave it empty"),
            );
        }
        match write_request(&self.intake, &TenantId::anonymous(), request).await {
            Err(NotWritten::Malformed(why)) => malformed(id, why),
            Err(NotWritten::Retry(why)) => WriteResponse {
                id,
                outcome: Outcome::Retry as i32,
                message: why,
                retry_after_ms: RETRY_AFTER_MS,
                ..WriteResponse::default()
            },
            Ok(written) => {
                self.metrics.samples.inc_by(written.samples + written.histograms);
                told(id, &written)
            }
        }
    }
}

fn too_busy() -> WriteResponse {
    WriteResponse {
        outcome: Outcome::Retry as i32,
        message: format!("{MAX_REQUESTS} requests are in flight already"),
        retry_after_ms: RETRY_AFTER_MS,
        ..WriteResponse::default()
    }
}

fn malformed(id: u64, message: String) -> WriteResponse {
    WriteResponse {
        id,
        outcome: Outcome::Malformed as i32,
        message,
        ..WriteResponse::default()
    }
}

/// Retry all of it where part of it may be missing; else tell what will never be taken; else it is all there.
fn told(id: u64, written: &Written) -> WriteResponse {
    let outcome = &written.outcome;
    let (kind, message) = match (&outcome.retryable, &outcome.failed) {
        (Some(error), _) => (Outcome::Retry, error.to_string()),
        (None, Some(error)) => (Outcome::Failed, error.to_string()),
        (None, None) if !outcome.refused.is_empty() => (Outcome::PartlyRefused, refusals(outcome)),
        (None, None) => (Outcome::Taken, String::new()),
    };
    let refusal = |refused: &gnomon_cluster::router::Refused| {
        let (labels, timestamp_ms) = match &refused.example {
            Some((labels, timestamp_ms)) => (short(labels.to_string()), *timestamp_ms),
            None => (String::new(), 0),
        };
        WriteRefusal {
            reason: reason(refused).to_owned(),
            samples: refused.count,
            example_labels: labels,
            example_timestamp_ms: timestamp_ms,
        }
    };
    WriteResponse {
        id,
        outcome: kind as i32,
        samples_taken: outcome.taken + outcome.duplicates,
        duplicates: outcome.duplicates,
        deduplicated: written.deduplicated,
        refusals: outcome.refused.iter().map(refusal).collect(),
        message,
        retry_after_ms: if kind == Outcome::Retry { RETRY_AFTER_MS } else { 0 },
    }
}

struct Single(Arc<Inner>);

impl UnaryService<Bytes> for Single {
    type Response = Vec<u8>;
    type Future = BoxFuture<'static, Result<tonic::Response<Vec<u8>>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let answer = match inner.places.try_acquire() {
                Ok(_place) => inner.answer(&request.into_inner()).await,
                Err(_) => too_busy(),
            };
            inner.count(&answer);
            match answer.outcome() {
                Outcome::Retry => Err(Status::unavailable(answer.message)),
                Outcome::Malformed => Err(Status::invalid_argument(answer.message)),
                Outcome::Failed | Outcome::Unspecified => Err(Status::internal(answer.message)),
                Outcome::Taken | Outcome::PartlyRefused => Ok(tonic::Response::new(answer.encode_to_vec())),
            }
        })
    }
}

struct Stream(Arc<Inner>);

impl StreamingService<Bytes> for Stream {
    type Response = Vec<u8>;
    type ResponseStream = BoxStream<'static, Result<Vec<u8>, Status>>;
    type Future = BoxFuture<'static, Result<tonic::Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, requests: tonic::Request<Streaming<Bytes>>) -> Self::Future {
        let inner = Arc::clone(&self.0);
        Box::pin(async move {
            let answers = requests.into_inner().then(move |message| {
                let inner = Arc::clone(&inner);
                async move {
                    let answer = inner.answer_in_turn(&message.map_err(never_taken)?).await;
                    inner.count(&answer);
                    Ok(answer.encode_to_vec())
                }
            });
            // No more is read while one is worked on, or while its answer is not taken.
            Ok(tonic::Response::new(answers.boxed()))
        })
    }
}
