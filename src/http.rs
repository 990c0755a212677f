//! The listeners: HTTP for users, gRPC for nodes. Both stop when told to and let running requests end.

mod connections;

pub use connections::ConnectionLimits;

use crate::targets::LenientListener;
use crate::web::Web;
use anyhow::Context as _;
use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::serve::{Listener, ListenerExt as _};
use futures::Stream;
use futures::future::BoxFuture;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::Connected;
use tower::{Service, ServiceExt as _};

/// How long requests under way may take after a stop was asked for.
const GRACE: Duration = Duration::from_secs(2);

/// Binds `address` (`host:port`, `:port` or `0.0.0.0:port` as in Prometheus' flag).
///
/// # Errors
/// When the address is not one or is taken; the message names it.
pub async fn bind(address: &str, what: &str) -> anyhow::Result<TcpListener> {
    let full = if address.starts_with(':') {
        format!("[::]{address}")
    } else {
        address.to_owned()
    };
    match TcpListener::bind(&full).await {
        // A host without IPv6 still has every address of its own.
        Err(_) if address.starts_with(':') => TcpListener::bind(format!("0.0.0.0{address}")).await,
        other => other,
    }
    .with_context(|| format!("cannot listen on {address} ({what})"))
}

/// Routes that are exchanged while requests come in: what a node can answer grows as it starts.
#[derive(Clone)]
pub struct Routes(Arc<ArcSwap<Router>>);

impl Routes {
    #[must_use]
    pub fn new(first: Router) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(first)))
    }

    pub fn replace(&self, next: Router) {
        self.0.store(Arc::new(next));
    }
}

impl Service<Request<Body>> for Routes {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let now = Router::clone(&self.0.load());
        Box::pin(now.oneshot(request))
    }
}

/// Serves until `stop`; running requests get [`GRACE`]. With a web configuration, to those whom it admits.
///
/// # Errors
/// When the listener has no address.
pub async fn serve(
    listener: TcpListener,
    routes: Routes,
    web: Option<Arc<Web>>,
    limits: ConnectionLimits,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    if let Some(web) = web {
        let routes = Router::new().fallback_service(web.guarded(routes));
        return serve_on(web.listen(listener)?, routes, limits, stop).await;
    }
    // Nagle's algorithm would hold small answers back for up to 40 ms.
    let listener = LenientListener(listener).tap_io(|io| {
        let _ = io.stream().set_nodelay(true);
    });
    serve_on(listener, Router::new().fallback_service(routes), limits, stop).await
}

async fn serve_on<L>(
    listener: L,
    routes: Router,
    limits: ConnectionLimits,
    stop: CancellationToken,
) -> anyhow::Result<()>
where
    L: Listener<Addr = SocketAddr>,
{
    let address = listener.local_addr()?;
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        () = connections::serve(listener, routes, limits, &stop) => {}
        () = overdue => tracing::warn!(%address, "requests were cut off at shutdown"),
    }
    Ok(())
}

/// The gRPC server of this node, over the connections of a listener, plain or inside TLS.
///
/// # Errors
/// When the listener fails for good.
pub async fn serve_grpc<I, C>(incoming: I, routes: Routes, stop: CancellationToken) -> anyhow::Result<()>
where
    I: Stream<Item = std::io::Result<C>>,
    C: Connected + AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let routes = tonic::service::Routes::from(Router::new().fallback_service(routes));
    let server = tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(16 << 20)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let overdue = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        ended = server => ended.context("serving gRPC"),
        // Long streams (watches, replication) have no end of their own.
        () = overdue => Ok(()),
    }
}
