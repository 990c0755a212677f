//! Reading a target's answer into memory, within bounds: its own limit, a limit for all scrapes together, and time.

use crate::client::FetchError;
use flate2::write::MultiGzDecoder;
use futures::StreamExt;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a body may grow to where the configuration sets no limit (Prometheus has none): some five million series.
pub const DEFAULT_BODY_LIMIT_BYTES: u64 = 512 << 20;

/// What the bodies of all scrapes under way may take together. A quarter more than one body may.
pub const TOTAL_BODY_BYTES: u64 = 640 << 20;

/// So much of a packed body is unpacked at once. It may grow a thousandfold: to half a MiB.
const PIECE_BYTES: usize = 512;

/// After so many unpacked bytes others get their turn, and the time is looked at.
const TURN_BYTES: usize = 256 << 10;

/// Bytes that all scrapes under way hold.
#[derive(Debug)]
pub(crate) struct BodyBudget {
    limit_bytes: u64,
    held_bytes: AtomicU64,
}

impl BodyBudget {
    #[must_use]
    pub(crate) fn new(limit_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            limit_bytes,
            held_bytes: AtomicU64::new(0),
        })
    }
}

/// One body's share of the budget; given back when it is dropped.
#[derive(Debug)]
struct Share {
    budget: Arc<BodyBudget>,
    bytes: u64,
}

impl Share {
    fn grow_to(&mut self, bytes: u64) -> Result<(), Stop> {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return Ok(());
        }
        let held = self.budget.held_bytes.fetch_add(more, Ordering::Relaxed);
        self.bytes += more;
        if held + more > self.budget.limit_bytes {
            return Err(Stop::Budget(self.budget.limit_bytes));
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.held_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Why no more of a body is taken.
#[derive(Clone, Copy, Debug)]
enum Stop {
    Limit,
    Budget(u64),
}

/// A body, its memory counted.
#[derive(Debug)]
pub(crate) struct Body {
    pub bytes: Vec<u8>,
    _share: Share,
}

/// Collects a body and refuses to grow past the limits; a decompressor writes into it.
struct Sink {
    bytes: Vec<u8>,
    limit_bytes: u64,
    limit_is_default: bool,
    share: Share,
    stopped: Option<Stop>,
}

impl Write for Sink {
    fn write(&mut self, chunk: &[u8]) -> io::Result<usize> {
        let wanted = (self.bytes.len() + chunk.len()) as u64;
        // As Prometheus has it, a body that reaches the limit is over it.
        let within = if wanted >= self.limit_bytes {
            Err(Stop::Limit)
        } else {
            self.bytes.reserve(chunk.len());
            self.share.grow_to(self.bytes.capacity() as u64)
        };
        if let Err(stop) = within {
            self.stopped = Some(stop);
            return Err(io::Error::other("limit"));
        }
        self.bytes.extend_from_slice(chunk);
        Ok(chunk.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Decoder {
    Plain(Sink),
    Gzip(Box<MultiGzDecoder<Sink>>),
}

impl Decoder {
    fn sink(&self) -> &Sink {
        match self {
            Self::Plain(sink) => sink,
            Self::Gzip(decoder) => decoder.get_ref(),
        }
    }

    fn take(&mut self, chunk: &[u8]) -> Result<(), FetchError> {
        let result = match self {
            Self::Plain(sink) => sink.write_all(chunk),
            Self::Gzip(decoder) => decoder.write_all(chunk),
        };
        result.map_err(|e| self.explain(&e))
    }

    fn explain(&self, error: &io::Error) -> FetchError {
        match self.sink().stopped {
            Some(Stop::Limit) if self.sink().limit_is_default => FetchError::DefaultBodySizeLimit {
                limit_bytes: DEFAULT_BODY_LIMIT_BYTES,
            },
            Some(Stop::Limit) => FetchError::BodySizeLimit,
            Some(Stop::Budget(limit_bytes)) => FetchError::Budget { limit_bytes },
            None if error.kind() == io::ErrorKind::UnexpectedEof => FetchError::Body("unexpected EOF".to_owned()),
            None => FetchError::Body(match error.to_string() {
                text if text.contains("header") => "gzip: invalid header".to_owned(),
                text if text.contains("checksum") => "gzip: invalid checksum".to_owned(),
                text => format!("gzip: {text}"),
            }),
        }
    }

    fn finish(mut self) -> Result<Sink, FetchError> {
        if let Self::Gzip(decoder) = &mut self
            && let Err(e) = decoder.try_finish()
        {
            return Err(match self.sink().stopped {
                Some(_) => self.explain(&e),
                // The decoder cannot tell a trailer that is missing from one that is wrong.
                None => FetchError::Body("unexpected EOF".to_owned()),
            });
        }
        match self {
            Self::Plain(sink) => Ok(sink),
            Self::Gzip(decoder) => decoder.finish().map_err(|e| FetchError::Body(format!("gzip: {e}"))),
        }
    }
}

/// Reads the whole body, unpacked. `reuse` is memory for it.
///
/// # Errors
/// When it grows past a limit (`limit_bytes` counts unpacked bytes), is cut short or is no gzip.
pub(crate) async fn read_body(
    response: reqwest::Response,
    limit_bytes: Option<u64>,
    budget: &Arc<BodyBudget>,
    reuse: Vec<u8>,
) -> Result<Body, FetchError> {
    let encoding = response.headers().get(reqwest::header::CONTENT_ENCODING);
    let gzip = encoding.is_some_and(|e| e.as_bytes().eq_ignore_ascii_case(b"gzip"));
    let mut bytes = reuse;
    bytes.clear();
    let sink = Sink {
        bytes,
        limit_bytes: limit_bytes.unwrap_or(DEFAULT_BODY_LIMIT_BYTES),
        limit_is_default: limit_bytes.is_none(),
        share: Share {
            budget: Arc::clone(budget),
            bytes: 0,
        },
        stopped: None,
    };
    let mut decoder = if gzip {
        Decoder::Gzip(Box::new(MultiGzDecoder::new(sink)))
    } else {
        Decoder::Plain(sink)
    };
    let mut stream = response.bytes_stream();
    let mut turn_begins = 0;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|e| FetchError::of_body(&e))?;
        let piece_bytes = if gzip { PIECE_BYTES } else { TURN_BYTES };
        for piece in chunk.chunks(piece_bytes) {
            decoder.take(piece)?;
            let unpacked = decoder.sink().bytes.len();
            if unpacked - turn_begins >= TURN_BYTES {
                turn_begins = unpacked;
                tokio::task::yield_now().await;
            }
        }
    }
    let sink = decoder.finish()?;
    Ok(Body {
        bytes: sink.bytes,
        _share: sink.share,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::write::GzEncoder;
    use std::time::Duration;

    #[tokio::test]
    async fn a_packed_bomb_that_came_at_once_ends_at_the_timeout_and_lets_others_run() {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        let zeros = vec![b'\n'; 1 << 20];
        for _ in 0..128 {
            encoder.write_all(&zeros).unwrap();
        }
        let response = http::Response::builder()
            .header("content-encoding", "gzip")
            .body(encoder.finish().unwrap())
            .unwrap();
        let other = tokio::spawn(std::future::ready(()));
        let budget = BodyBudget::new(TOTAL_BODY_BYTES);
        let read = read_body(response.into(), None, &budget, Vec::new());
        let read = tokio::time::timeout(Duration::from_millis(2), read).await;
        assert!(read.is_err(), "128 MiB are not unpacked in 2 ms");
        assert!(other.is_finished(), "another task had its turn meanwhile");
    }
}
