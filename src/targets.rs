//! Request targets as people type them: `curl 'host:9090/api/v1/query?query=up{job="node"}'` sends the quotes as they
//! are, which Prometheus takes and which the URI type of Rust's HTTP stack refuses. On their way from the socket they
//! are percent-encoded.

use axum::serve::Listener;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// Of a header line so much is looked at: enough for those that say how long a body is. Where it is not, whatever
/// follows is left as it is.
const LINE_BYTES: usize = 128;

/// Accepts connections whose request targets are mended.
#[derive(Debug)]
pub(crate) struct LenientListener(pub(crate) TcpListener);

impl Listener for LenientListener {
    type Io = Lenient<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = Listener::accept(&mut self.0).await;
        (Lenient::new(stream), address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Lenient<S> {
    stream: S,
    requests: Requests,
    /// What was read and did not fit, being longer now.
    rest: Vec<u8>,
}

impl<S> Lenient<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            requests: Requests::default(),
            rest: Vec::new(),
        }
    }

    pub(crate) const fn stream(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lenient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.rest.is_empty() {
            let before = buffer.filled().len();
            let read = Pin::new(&mut this.stream).poll_read(context, buffer);
            if !matches!(read, Poll::Ready(Ok(()))) {
                return read;
            }
            let Some(mended) = this.requests.mend(&buffer.filled()[before..]) else {
                return Poll::Ready(Ok(()));
            };
            buffer.set_filled(before);
            this.rest = mended;
        }
        let fits = this.rest.len().min(buffer.remaining());
        buffer.put_slice(&this.rest[..fits]);
        this.rest.drain(..fits);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lenient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Where in the requests of a connection (RFC 9112) the next byte lies.
///
/// Invariant: whoever reads the requests afterwards finds their ends where this does, or gives the connection up. So
/// whatever could be read in more than one way ends the mending ([`At::Unknown`]).
#[derive(Debug, Default)]
struct Requests {
    at: At,
    body: Body,
    /// The beginning of what is being read: a method, a header line, a chunk's size.
    line: Vec<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// In the method, or before it.
    #[default]
    Method,
    /// After the method, in the request's line.
    Target,
    Headers,
    /// So many bytes of a body of known length are to come.
    Body(u64),
    ChunkSize,
    /// Of a chunk, the end of its line included.
    Chunk(u64),
    Trailers,
    /// Nothing is known of what follows: it is left as it is.
    Unknown,
}

/// What headers said of the body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Body {
    #[default]
    None,
    Length(u64),
    Chunked,
    Unclear,
}

impl Requests {
    /// Goes over the next bytes; the mended ones where that is others.
    fn mend(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut mended: Option<Vec<u8>> = None;
        let mut at = 0;
        while at < bytes.len() {
            let from = at;
            let byte = bytes[at];
            at += 1;
            let mut encoded = None;
            match self.at {
                At::Unknown => at = bytes.len(),
                At::Body(left) | At::Chunk(left) => {
                    let there = left.min((bytes.len() - from) as u64);
                    at = from + there as usize;
                    self.at = match (self.at, left - there) {
                        (At::Body(_), 0) => At::Method,
                        (At::Body(_), left) => At::Body(left),
                        (_, 0) => At::ChunkSize,
                        (_, left) => At::Chunk(left),
                    };
                }
                At::Method if byte == b' ' => {
                    let method = std::mem::take(&mut self.line);
                    // The begin of HTTP/2, which is not made of lines.
                    let other = method.trim_ascii() == b"PRI";
                    self.at = if other { At::Unknown } else { At::Target };
                }
                At::Method => self.note(byte),
                At::Target => match byte {
                    b'"' => encoded = Some("%22"),
                    b'<' => encoded = Some("%3C"),
                    b'>' => encoded = Some("%3E"),
                    b'\n' => (self.at, self.body) = (At::Headers, Body::None),
                    _ => {}
                },
                At::Headers | At::ChunkSize | At::Trailers if byte == b'\n' => self.line_ends(),
                At::Headers | At::ChunkSize | At::Trailers => self.note(byte),
            }
            match (encoded, &mut mended) {
                (Some(text), mended) => mended
                    .get_or_insert_with(|| bytes[..from].to_vec())
                    .extend_from_slice(text.as_bytes()),
                (None, Some(mended)) => mended.extend_from_slice(&bytes[from..at]),
                (None, None) => {}
            }
        }
        mended
    }

    fn note(&mut self, byte: u8) {
        if self.line.len() < LINE_BYTES {
            self.line.push(byte);
        }
    }

    fn line_ends(&mut self) {
        let line = std::mem::take(&mut self.line);
        let cut = line.len() == LINE_BYTES;
        let whole = line.strip_suffix(b"\r");
        self.at = match (self.at, whole.unwrap_or(&line)) {
            (At::ChunkSize, line) => {
                let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
                match number(size, 16).filter(|_| whole.is_some() && !cut) {
                    Some(0) => At::Trailers,
                    // With the end of the line after it.
                    Some(size) => size.checked_add(2).map_or(At::Unknown, At::Chunk),
                    None => At::Unknown,
                }
            }
            (At::Trailers, _) if whole.is_none() || cut => At::Unknown,
            (At::Trailers, []) => At::Method,
            (At::Headers, []) => match self.body {
                Body::None | Body::Length(0) => At::Method,
                Body::Length(length) => At::Body(length),
                Body::Chunked => At::ChunkSize,
                Body::Unclear => At::Unknown,
            },
            (At::Headers, line) => {
                self.header(line, cut);
                At::Headers
            }
            (at, _) => at,
        };
    }

    fn header(&mut self, line: &[u8], cut: bool) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let said = if name.eq_ignore_ascii_case(b"content-length") {
            number(value, 10).map_or(Body::Unclear, Body::Length)
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if value.eq_ignore_ascii_case(b"chunked") {
                Body::Chunked
            } else {
                Body::Unclear
            }
        } else {
            return;
        };
        // Two that say something else are a matter for whoever reads the request.
        self.body = if !cut && (self.body == Body::None || self.body == said) {
            said
        } else {
            Body::Unclear
        };
    }
}

/// Digits alone, without zeros before the others.
fn number(text: &[u8], radix: u32) -> Option<u64> {
    let digits = text.iter().all(|byte| char::from(*byte).is_digit(radix));
    let plain = text == b"0" || !text.starts_with(b"0");
    let text = std::str::from_utf8(text).ok().filter(|_| digits && plain)?;
    u64::from_str_radix(text, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    /// Read in pieces of `piece` bytes, into a buffer of `room`.
    async fn mended(bytes: &[u8], piece: usize, room: usize) -> Vec<u8> {
        let pieces = bytes.chunks(piece).map(|piece| Ok::<_, io::Error>(piece.to_vec()));
        let stream = tokio_stream::iter(pieces.map(|piece| piece.map(bytes::Bytes::from)).collect::<Vec<_>>());
        let mut lenient = Lenient::new(tokio_util::io::StreamReader::new(stream));
        let mut all = Vec::new();
        let mut buffer = vec![0; room];
        loop {
            match lenient.read(&mut buffer).await.unwrap() {
                0 => return all,
                read => all.extend_from_slice(&buffer[..read]),
            }
        }
    }

    const REQUESTS: &str = concat!(
        "GET /api/v1/query?query=up{job=\"node\"}<1 HTTP/1.1\r\nHost: \"a\"\r\n\r\n",
        "POST /x?a=\">\" HTTP/1.1\r\ncontent-LENGTH:  7\r\nX: Content-Length: 9\r\n\r\nGET \"<\"",
        "POST /y HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nGET \"\r\n7\r\n\r\n GET<\r\n0\r\nT: \" \"\r\n\r\n",
        "\r\nGET /\"z\" HTTP/1.1\n\n",
        "PUT /\" HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nGET \" \"",
    );

    const MENDED: &str = concat!(
        "GET /api/v1/query?query=up{job=%22node%22}%3C1 HTTP/1.1\r\nHost: \"a\"\r\n\r\n",
        "POST /x?a=%22%3E%22 HTTP/1.1\r\ncontent-LENGTH:  7\r\nX: Content-Length: 9\r\n\r\nGET \"<\"",
        "POST /y HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;a=\"b\"\r\nGET \"\r\n7\r\n\r\n GET<\r\n0\r\nT: \" \"\r\n\r\n",
        "\r\nGET /%22z%22 HTTP/1.1\n\n",
        "PUT /%22 HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nGET \" \"",
    );

    #[tokio::test]
    async fn targets_are_mended_and_nothing_else() {
        for piece in 1..=REQUESTS.len() {
            for room in [1, 2, 7, 4096] {
                let got = mended(REQUESTS.as_bytes(), piece, room).await;
                assert_eq!(
                    String::from_utf8_lossy(&got),
                    MENDED,
                    "in pieces of {piece}, room for {room}"
                );
            }
        }
    }

    #[tokio::test]
    async fn what_could_be_read_in_two_ways_is_left_as_it_is() {
        let zeros = "0".repeat(130);
        for head in [
            format!("POST / HTTP/1.1\r\nContent-Length: {zeros}40\r\n\r\n"),
            "POST / HTTP/1.1\r\nContent-Length: 040\r\n\r\n".to_owned(),
            "POST / HTTP/1.1\r\nContent-Length: +4\r\n\r\n".to_owned(),
            "POST / HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\n".to_owned(),
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n".to_owned(),
            format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{zeros}5\r\n"),
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\n".to_owned(),
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na: b\n\n".to_owned(),
            format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na: {zeros}\n\r\n"),
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        ] {
            let whole = format!("{head}GET /\"<\" HTTP/1.1\r\n\r\n");
            for piece in [1, 7, 4096] {
                assert_eq!(mended(whole.as_bytes(), piece, 64).await, whole.as_bytes(), "{head}");
            }
        }
    }
}
