//! A span and the metrics of each call on a connection; the trace that the call belongs to goes with it.

use super::{CallMetrics, TRACEPARENT, TraceContext};
use futures::future::BoxFuture;
use gnomon_model::Clock;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::codegen::http;
use tower::{Layer, Service};
use tracing::{Instrument, Span};

/// Wraps a connection to one peer.
#[derive(Clone)]
pub struct TraceLayer {
    pub peer: Arc<str>,
    pub metrics: CallMetrics,
    pub clock: Arc<dyn Clock>,
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace {
            inner,
            layer: self.clone(),
        }
    }
}

/// See [`TraceLayer`].
#[derive(Clone)]
pub struct Trace<S> {
    inner: S,
    layer: TraceLayer,
}

/// `/gnomon.v1.Meta/Propose` -> (`Meta`, `Propose`).
pub(super) fn service_and_method(path: &str) -> (&str, &str) {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    (service.rsplit('.').next().unwrap_or(service), method)
}

/// The name of the code in the head of an answer. A call that ends well, or fails late, has it in the trailers.
pub(super) fn outcome<B>(response: &http::Response<B>) -> &'static str {
    let code = response
        .headers()
        .get("grpc-status")
        .map(|v| tonic::Code::from_bytes(v.as_bytes()));
    code_name(code.unwrap_or(tonic::Code::Ok))
}

pub(super) fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => "invalid",
        Code::DeadlineExceeded => "deadline",
        Code::NotFound => "not-found",
        Code::ResourceExhausted => "limit",
        Code::FailedPrecondition => "not-leader-or-stale",
        Code::Aborted => "outcome-unknown",
        Code::Unavailable => "unavailable",
        _ => "internal",
    }
}

/// Counts down when the call ends, however it ends.
struct InFlight(prometheus::IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl<S, B, R> Service<http::Request<B>> for Trace<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    S::Error: std::fmt::Display,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let (service, method) = service_and_method(&path);
        let context = TraceContext::current().map_or_else(TraceContext::begin, TraceContext::child);
        if let Some(header) = context.header() {
            request.headers_mut().insert(TRACEPARENT, header);
        }
        let peer = &self.layer.peer;
        let span = tracing::debug_span!(
            "call", trace = %context, %peer, service, method, outcome = tracing::field::Empty
        );
        let in_flight = self.layer.metrics.in_flight.with_label_values(&[service]);
        in_flight.inc();
        let in_flight = InFlight(in_flight);
        let layer = self.layer.clone();
        let started = layer.clock.monotonic();
        let call = span.in_scope(|| self.inner.call(request));
        let traced = async move {
            let result = call.await;
            drop(in_flight);
            let outcome = match &result {
                Ok(response) => outcome(response),
                Err(_) => "unreachable",
            };
            Span::current().record("outcome", outcome);
            let (service, method) = service_and_method(&path);
            let took = layer.clock.monotonic().saturating_sub(started);
            let (took_ms, peer) = (took.as_millis() as u64, &layer.peer);
            match &result {
                Ok(_) => tracing::debug!(%peer, service, method, outcome, took_ms, "called"),
                Err(error) => tracing::debug!(%peer, service, method, took_ms, %error, "call failed"),
            }
            layer.metrics.calls.with_label_values(&[service, method, outcome]).inc();
            let seconds = layer.metrics.seconds.with_label_values(&[service, method]);
            seconds.observe(took.as_secs_f64());
            result
        };
        Box::pin(traced.instrument(span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        assert_eq!(
            service_and_method("/gnomon.v1.ShardWrite/Append"),
            ("ShardWrite", "Append")
        );
        assert_eq!(service_and_method("/odd"), ("/odd", ""));
    }
}
