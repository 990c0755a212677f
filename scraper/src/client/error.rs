//! Why a scrape's HTTP exchange failed, in the words in which Prometheus shows it as a target's last error.

use super::tls_error;
use std::error::Error;
use std::io;
use url::Url;

/// Worded as Prometheus does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("Get {url:?}: {reason}")]
    Get { url: String, reason: String },
    /// The body was cut short, or the connection broke within it.
    #[error("{0}")]
    Body(String),
    #[error("server returned HTTP status {0}")]
    Status(String),
    #[error("body size limit exceeded")]
    BodySizeLimit,
    #[error("body size limit exceeded: more than {limit_bytes} bytes, and the job sets no body_size_limit")]
    DefaultBodySizeLimit { limit_bytes: u64 },
    /// Not the target's fault alone: all scrapes together hold too much.
    #[error("body size limit exceeded: all scrapes together hold more than {limit_bytes} bytes of bodies")]
    Budget { limit_bytes: u64 },
    #[error("Get {url:?}: context deadline exceeded")]
    Timeout { url: String },
    /// The time was over while the body came.
    #[error("context deadline exceeded")]
    BodyTimeout,
}

impl FetchError {
    /// Of a request to `url`, which messages show as `shown_url`.
    pub(super) fn of_request(url: &Url, shown_url: &str, error: &reqwest::Error) -> Self {
        Self::Get {
            url: shown_url.to_owned(),
            reason: reason(url, error),
        }
    }

    /// The words for an error while the body was read.
    #[must_use]
    pub(crate) fn of_body(error: &reqwest::Error) -> Self {
        let text = innermost(error);
        let cut = error.is_decode() || error.is_body();
        Self::Body(match find_io(error).map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionReset) => "read: connection reset by peer".to_owned(),
            // Also within a chunk's length, or before the next one.
            Some(io::ErrorKind::UnexpectedEof) => "unexpected EOF".to_owned(),
            _ if cut && text.contains("end of file") || text.contains("connection closed") => {
                "unexpected EOF".to_owned()
            }
            _ if text.contains("chunk size") => "invalid byte in chunk length".to_owned(),
            _ => text,
        })
    }
}

/// The last error of the chain: what happened, without where.
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

fn chain<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let this = next?;
        next = this.source();
        Some(this)
    })
}

fn find_io<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e io::Error> {
    chain(error).find_map(|e| e.downcast_ref::<io::Error>())
}

/// `host:port` as Go prints the address that it dials.
fn dialled(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

fn reason(url: &Url, error: &reqwest::Error) -> String {
    if error.is_redirect() {
        return "stopped after 10 redirects".to_owned();
    }
    if let Some(tls) = chain(error).find_map(find_tls) {
        return tls_error::words(tls);
    }
    let text = innermost(error);
    let Some(io) = find_io(error) else {
        let closed = chain(error).any(|e| e.to_string().contains("connection closed before message completed"));
        // What hyper calls what it cannot parse.
        let not_http = text.contains("invalid HTTP version") || text.contains("invalid HTTP status");
        return match (closed, not_http) {
            (true, _) => "EOF".to_owned(),
            (_, true) => format!("malformed HTTP response: {text}"),
            _ => text,
        };
    };
    let dns = chain(error).any(|e| e.to_string().contains("dns error"));
    if dns {
        return format!("dial tcp: lookup {}: no such host", url.host_str().unwrap_or_default());
    }
    let dial = |what: &str| format!("dial tcp {}: connect: {what}", dialled(url));
    match io.kind() {
        io::ErrorKind::ConnectionRefused => dial("connection refused"),
        io::ErrorKind::HostUnreachable => dial("no route to host"),
        io::ErrorKind::NetworkUnreachable => dial("network is unreachable"),
        io::ErrorKind::ConnectionReset => "read: connection reset by peer".to_owned(),
        io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        _ => text,
    }
}

/// The error of TLS at the bottom of I/O errors, which do not show what they wrap as their source.
fn find_tls<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(tls);
    }
    let wrapped = error.downcast_ref::<io::Error>()?.get_ref()?;
    find_tls(wrapped)
}
