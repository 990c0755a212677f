//! Connections for the HTTP server, whose requests' targets are mended where they are HTTP/1.

use crate::targets::Lenient;
use axum::serve::Listener;
use gnomon_cluster::tls::Secured;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;

/// What was accepted, plain or inside TLS.
pub(crate) struct WebListener {
    accepted: mpsc::Receiver<(Secured, SocketAddr)>,
    address: SocketAddr,
}

impl WebListener {
    pub(super) fn new(accepted: mpsc::Receiver<(Secured, SocketAddr)>, address: SocketAddr) -> Self {
        Self { accepted, address }
    }
}

impl Listener for WebListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.accepted.recv().await {
            Some((stream, address)) => (Connection::of(stream), address),
            // Accepting ends with the process only.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) enum Connection {
    Http1(Lenient<Secured>),
    /// As was agreed on in the handshake.
    Http2(Secured),
}

impl Connection {
    fn of(stream: Secured) -> Self {
        let agreed = stream.tls().and_then(|tls| tls.alpn_protocol());
        if agreed == Some(b"h2") {
            Self::Http2(stream)
        } else {
            Self::Http1(Lenient::new(stream))
        }
    }
}

macro_rules! delegate {
    ($self:ident, $method:ident, $($argument:expr),*) => {
        match $self.get_mut() {
            Connection::Http1(stream) => Pin::new(stream).$method($($argument),*),
            Connection::Http2(stream) => Pin::new(stream).$method($($argument),*),
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_read, context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write, context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write_vectored, context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Http1(stream) => stream.is_write_vectored(),
            Self::Http2(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_flush, context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_shutdown, context)
    }
}
