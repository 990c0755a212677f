//! What every call from another node passes through before it comes to a service here: what is meant for another cluster
//! or node is refused, its trace goes on, calls are counted, and what is too much is turned away at once.

use super::trace::{outcome, service_and_method};
use super::{Members, ServeMetrics, TraceContext};
use futures::future::BoxFuture;
use gnomon_model::Clock;
use gnomon_proto::ServiceError;
use http_body_util::BodyExt;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tower::{Layer, Service};
use tracing::{Instrument, Span};

/// Put around each service of a node's gRPC listener.
#[derive(Clone)]
pub struct ServeLayer {
    metrics: ServeMetrics,
    clock: Arc<dyn Clock>,
    max_calls: usize,
    members: Option<Members>,
}

impl ServeLayer {
    /// Up to `max_calls` of each service at a time, answers that are still being streamed included.
    #[must_use]
    pub fn new(max_calls: usize, metrics: ServeMetrics, clock: Arc<dyn Clock>) -> Self {
        Self {
            metrics,
            clock,
            max_calls,
            members: None,
        }
    }

    /// Refuses calls that are not from this cluster, or mean another node. Without it, anyone is served.
    #[must_use]
    pub fn for_members(self, members: Members) -> Self {
        Self {
            members: Some(members),
            ..self
        }
    }
}

impl ServeLayer {
    /// Says in an answer which node gives it.
    fn signed(&self, mut response: Response<Body>) -> Response<Body> {
        if let Some(members) = &self.members {
            members.sign(&mut response);
        }
        response
    }
}

impl<S> Layer<S> for ServeLayer {
    type Service = Serve<S>;

    fn layer(&self, inner: S) -> Serve<S> {
        Serve {
            inner,
            layer: self.clone(),
            room: Arc::new(Semaphore::new(self.max_calls)),
        }
    }
}

/// See [`ServeLayer`].
#[derive(Clone)]
pub struct Serve<S> {
    inner: S,
    layer: ServeLayer,
    room: Arc<Semaphore>,
}

impl<S: NamedService> NamedService for Serve<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Serve<S> {
    fn turned_away(&self, path: &str) -> Response<Body> {
        let (service, method) = service_and_method(path);
        self.layer.metrics.count(service, method, "shed");
        let why = format!(
            "this node has {} calls of {service} under way already",
            self.layer.max_calls
        );
        self.layer.signed(Status::from(ServiceError::Busy(why)).into_http())
    }

    /// None for a call that is for this node.
    fn refused(&self, request: &Request<Body>) -> Option<Response<Body>> {
        let members = self.layer.members.as_ref()?;
        let error = members.check(request.uri().path(), request.headers()).err()?;
        let (service, method) = service_and_method(request.uri().path());
        self.layer.metrics.count(service, method, "refused");
        tracing::debug!(service, method, %error, "refused a call");
        // Numbers of nodes mean something within a cluster only.
        let is_stranger = matches!(error, ServiceError::OtherCluster(_));
        let refusal = Status::from(error).into_http();
        Some(if is_stranger {
            refusal
        } else {
            self.layer.signed(refusal)
        })
    }
}

/// Keeps the place until the answer has been sent, or given up.
fn holding(response: Response<Body>, place: OwnedSemaphorePermit) -> Response<Body> {
    response.map(|body| {
        Body::new(body.map_frame(move |frame| {
            let _held = &place;
            frame
        }))
    })
}

impl<S> Service<Request<Body>> for Serve<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if let Some(refusal) = self.refused(&request) {
            return Box::pin(async move { Ok(refusal) });
        }
        let path = request.uri().path().to_owned();
        let Ok(place) = self.room.clone().try_acquire_owned() else {
            let answer = self.turned_away(&path);
            return Box::pin(async move { Ok(answer) });
        };
        let context = TraceContext::of(request.headers()).map_or_else(TraceContext::begin, TraceContext::child);
        let (service, method) = service_and_method(&path);
        let span = tracing::debug_span!("serve", trace = %context, service, method, outcome = tracing::field::Empty);
        let layer = self.layer.clone();
        let started = layer.clock.monotonic();
        let call = span.in_scope(|| self.inner.call(request));
        let served = async move {
            let response = layer.signed(call.await?);
            let outcome = outcome(&response);
            Span::current().record("outcome", outcome);
            let (service, method) = service_and_method(&path);
            layer.metrics.count(service, method, outcome);
            let took = layer.clock.monotonic().saturating_sub(started);
            tracing::debug!(service, method, outcome, took_ms = took.as_millis() as u64, "answered");
            Ok(holding(response, place))
        };
        Box::pin(context.scope(served.instrument(span)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::TRACEPARENT;
    use super::super::trace::code_name;
    use super::*;
    use gnomon_model::SystemClock;
    use tokio::sync::mpsc;
    use tower::ServiceExt;

    /// Answers; tells for which request.
    #[derive(Clone)]
    struct Inner(mpsc::UnboundedSender<Option<TraceContext>>);

    impl Service<Request<Body>> for Inner {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Request<Body>) -> Self::Future {
            let told = self.0.clone();
            Box::pin(async move {
                told.send(TraceContext::current()).unwrap();
                let body = http_body_util::Full::new(bytes::Bytes::from_static(b"answer"));
                Ok(Response::new(Body::new(body)))
            })
        }
    }

    fn request(context: Option<TraceContext>) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = "/gnomon.v1.ShardRead/Select".parse().unwrap();
        if let Some(header) = context.and_then(TraceContext::header) {
            request.headers_mut().insert(TRACEPARENT, header);
        }
        request
    }

    fn layer(max_calls: usize) -> (ServeLayer, ServeMetrics) {
        let metrics = ServeMetrics::register(&prometheus::Registry::new()).unwrap();
        (
            ServeLayer::new(max_calls, metrics.clone(), SystemClock::shared()),
            metrics,
        )
    }

    #[tokio::test]
    async fn an_answer_keeps_its_place_until_it_is_sent() {
        let (told, _seen) = mpsc::unbounded_channel();
        let (layer, metrics) = layer(1);
        let service = layer.layer(Inner(told));
        let first = service.clone().oneshot(request(None)).await.unwrap();
        let second = service.clone().oneshot(request(None)).await.unwrap();
        let status = Status::from_header_map(second.headers()).unwrap();
        let refused = ServiceError::from(status);
        assert!(
            matches!(&refused, ServiceError::Busy(why) if why.contains("1 calls")),
            "{refused}"
        );
        first.into_body().collect().await.unwrap();
        let third = service.oneshot(request(None)).await.unwrap();
        assert!(Status::from_header_map(third.headers()).is_none());
        assert_eq!(metrics.of("ShardRead", "Select", "shed"), 1);
        assert_eq!(metrics.of("ShardRead", "Select", code_name(tonic::Code::Ok)), 2);
    }

    #[tokio::test]
    async fn what_is_for_another_cluster_or_node_does_not_come_through() {
        use super::super::{CLUSTER_HEADER, Membership, NODE_HEADER};
        use gnomon_model::{ClusterId, NodeId};
        let (told, mut seen) = mpsc::unbounded_channel();
        let (layer, metrics) = layer(8);
        let members = Members::new(Membership::of(ClusterId(7)), NodeId(3));
        let service = layer.for_members(members).layer(Inner(told));
        let ask = async |headers: &[(&'static str, String)]| {
            let mut request = request(None);
            for (name, value) in headers {
                request.headers_mut().insert(*name, value.parse().unwrap());
            }
            let answer = service.clone().oneshot(request).await.unwrap();
            Status::from_header_map(answer.headers()).map(|status| status.message().to_owned())
        };
        let of = |id: u128| (CLUSTER_HEADER, ClusterId(id).to_string());
        let to = |node: u64| (NODE_HEADER, node.to_string());
        let other = ask(&[of(8)]).await.unwrap();
        assert!(
            other.contains("the call is for cluster") && other.contains(&ClusterId(8).to_string()),
            "{other}"
        );
        let wrong = ask(&[of(7), to(4)]).await.unwrap();
        assert_eq!(wrong, "this is node 3, the call is for node 4");
        assert!(ask(&[]).await.unwrap().contains("does not say which cluster"));
        assert!(ask(&[of(7), (NODE_HEADER, "three".to_owned())]).await.is_some());
        assert_eq!(metrics.of("ShardRead", "Select", "refused"), 4);
        assert!(seen.try_recv().is_err(), "none came through");
        assert_eq!(ask(&[of(7), to(3)]).await, None);
        assert_eq!(ask(&[of(7)]).await, None);
        assert!(seen.recv().await.is_some());
    }

    #[tokio::test]
    async fn work_belongs_to_the_callers_request() {
        let (told, mut seen) = mpsc::unbounded_channel();
        let service = layer(8).0.layer(Inner(told));
        let callers = TraceContext::begin();
        service.clone().oneshot(request(Some(callers))).await.unwrap();
        let here = seen.recv().await.unwrap().unwrap();
        assert!(here.to_string() == callers.to_string() && here != callers);
        service.oneshot(request(None)).await.unwrap();
        let own = seen.recv().await.unwrap().unwrap();
        assert_ne!(own.to_string(), callers.to_string());
    }
}
