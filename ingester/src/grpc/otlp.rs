//! `opentelemetry.proto.collector.metrics.v1.MetricsService`.

use super::codec::{no_such_method, unary};
use crate::otlp::{Otlp, response};
use bytes::Bytes;
use futures::future::BoxFuture;
use prost::Message;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic::server::{NamedService, UnaryService};

/// OTLP's service for metrics.
#[derive(Clone)]
pub struct OtlpService(Arc<Otlp>);

impl OtlpService {
    #[must_use]
    pub const fn new(receiver: Arc<Otlp>) -> Self {
        Self(receiver)
    }
}

impl NamedService for OtlpService {
    const NAME: &'static str = "opentelemetry.proto.collector.metrics.v1.MetricsService";
}

impl Service<Request<Body>> for OtlpService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let receiver = Arc::clone(&self.0);
        Box::pin(async move {
            match request.uri().path() {
                "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => {
                    Ok(unary(Export(receiver), request).await)
                }
                path => Ok(no_such_method(path).into_http()),
            }
        })
    }
}

struct Export(Arc<Otlp>);

impl UnaryService<Bytes> for Export {
    type Response = Vec<u8>;
    type Future = BoxFuture<'static, Result<tonic::Response<Vec<u8>>, Status>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let receiver = Arc::clone(&self.0);
        Box::pin(async move {
            let exported = receiver.export_message(&request.into_inner()).await;
            let exported = exported.map_err(|failure| Status::new(failure.code(), failure.text))?;
            Ok(tonic::Response::new(response(&exported).encode_to_vec()))
        })
    }
}
