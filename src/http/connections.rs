//! Connections of the HTTP listeners: how many there are at the same time, and how long one may be idle.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::serve::Listener;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

/// Of one request of HTTP/1; those of HTTP/2 are bounded by their bytes.
const MOST_HEADERS: usize = 1000;

/// What connections may take. Listeners with clones of one share its places.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    read_timeout: Option<Duration>,
    places: Arc<Semaphore>,
}

impl ConnectionLimits {
    /// `read_timeout` is how long the head of a request may take to come, and a connection may be idle; none is for
    /// ever. At most `connections` are served at the same time.
    #[must_use]
    pub fn new(read_timeout: Option<Duration>, connections: usize) -> Self {
        Self {
            read_timeout,
            places: Arc::new(Semaphore::new(connections.clamp(1, Semaphore::MAX_PERMITS))),
        }
    }
}

/// Accepts until `stop`, and returns once all connections have ended: requests under way are answered.
pub(super) async fn serve<L>(mut listener: L, routes: Router, limits: ConnectionLimits, stop: &CancellationToken)
where
    L: Listener<Addr = SocketAddr>,
{
    let connections = TaskTracker::new();
    loop {
        let next = async {
            let (io, _) = listener.accept().await;
            // Only then, so that a listener to which nobody comes takes no place from another.
            let place = Arc::clone(&limits.places).acquire_owned().await;
            (io, place)
        };
        let (io, place) = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            next = next => next,
        };
        let (routes, limit, stop) = (routes.clone(), limits.read_timeout, stop.clone());
        connections.spawn(async move {
            serve_connection(io, routes, limit, stop).await;
            drop(place);
        });
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

async fn serve_connection<I>(io: I, routes: Router, limit: Option<Duration>, stop: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let activity = Activity::new();
    let service = service_fn(|request: Request<Incoming>| {
        let (routes, under_way) = (routes.clone(), UnderWay::begin(&activity));
        async move {
            let answer = routes.oneshot(request.map(Body::new)).await?;
            Ok::<_, Infallible>(answer.map(|body| Answer {
                body,
                _under_way: under_way,
            }))
        }
    });
    let mut server = Builder::new(TokioExecutor::new());
    server.http1().max_headers(MOST_HEADERS);
    let io = TokioIo::new(Watched {
        io,
        activity: Arc::clone(&activity),
    });
    let mut connection = pin!(server.serve_connection(io, service));
    let mut stopped = pin!(stop.cancelled());
    let mut is_stopping = false;
    let mut idle = pin!(activity.idle(limit));
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::trace!(%error, "a connection broke off");
                }
                return;
            }
            () = &mut stopped, if !is_stopping => {
                is_stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = &mut idle => return,
        }
    }
}

/// What happens on a connection.
#[derive(Debug)]
struct Activity {
    /// Requests whose answers are not written yet.
    under_way: watch::Sender<usize>,
    /// Bytes that the client took.
    written: AtomicU64,
    /// Whether more could be written, if only it took them.
    is_blocked: AtomicBool,
}

impl Activity {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            under_way: watch::Sender::new(0),
            written: AtomicU64::new(0),
            is_blocked: AtomicBool::new(false),
        })
    }

    /// Whether it is the client's turn: to ask something, or to take what is there.
    fn waits_for_client(&self) -> bool {
        *self.under_way.borrow() == 0 || self.is_blocked.load(Ordering::Relaxed)
    }

    /// Returns once the client did nothing, for as long as the limit, where it was its turn.
    async fn idle(&self, limit: Option<Duration>) {
        let Some(limit) = limit else {
            return std::future::pending().await;
        };
        let mut changes = self.under_way.subscribe();
        loop {
            let (was_waiting, before) = (self.waits_for_client(), self.written.load(Ordering::Relaxed));
            // An error would be that the sender is gone, which is this one.
            let waited = tokio::time::timeout(limit, changes.changed()).await;
            let is_silent = self.waits_for_client() && self.written.load(Ordering::Relaxed) == before;
            if waited.is_err() && was_waiting && is_silent {
                return;
            }
        }
    }
}

/// Counts a request until its answer is done.
#[derive(Debug)]
struct UnderWay(Arc<Activity>);

impl UnderWay {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.under_way.send_modify(|count| *count += 1);
        Self(Arc::clone(activity))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.send_modify(|count| *count -= 1);
    }
}

/// The body of an answer.
struct Answer {
    body: Body,
    _under_way: UnderWay,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A connection whose written bytes are counted.
struct Watched<I> {
    io: I,
    activity: Arc<Activity>,
}

impl<I> Watched<I> {
    fn counted(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.activity.is_blocked.store(written.is_pending(), Ordering::Relaxed);
        if let Poll::Ready(Ok(bytes)) = &written {
            self.activity.written.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        written
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Watched<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Watched<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.counted(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, bytes);
        self.counted(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests;
