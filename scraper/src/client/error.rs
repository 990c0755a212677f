//! Why a scrape's HTTP exchange failed, in the words in which Prometheus shows it as a target's last error.

use super::tls_error;
use crate::config::http::ProxyConfig;
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

/// Through what requests go.
#[derive(Clone, Debug, Default)]
pub(super) enum Via {
    /// To the targets themselves.
    #[default]
    Nothing,
    /// All of them through this proxy.
    Proxy(Url),
    /// Through this one, or one of the environment, but for hosts that are spared: which these are, the client knows.
    Perhaps(Option<Url>),
}

impl Via {
    pub(super) fn of(config: &ProxyConfig) -> Self {
        match &config.url {
            _ if config.from_environment => Self::Perhaps(None),
            None => Self::Nothing,
            Some(url) if config.no_proxy.is_none() => Self::Proxy(url.clone()),
            Some(url) => Self::Perhaps(Some(url.clone())),
        }
    }

    /// That no connection came about, of whomever was to be dialled for `url`; `what` says it of one of them.
    fn not_dialled(&self, url: &Url, what: impl Fn(&Url) -> String) -> String {
        match self {
            Self::Nothing => what(url),
            Self::Proxy(proxy) => format!("proxyconnect tcp: {}", what(proxy)),
            Self::Perhaps(proxy) => {
                let proxy = match proxy {
                    Some(proxy) => format!("the proxy {}, unless no_proxy spares the target", dialled(proxy)),
                    None => "the environment's proxy, if it names one for the target".to_owned(),
                };
                format!("{} (through {proxy})", what(url))
            }
        }
    }
}

impl FetchError {
    /// Of a request to `url`, which messages show as `shown_url`.
    pub(super) fn of_request(url: &Url, shown_url: &str, via: &Via, error: &reqwest::Error) -> Self {
        Self::Get {
            url: shown_url.to_owned(),
            reason: reason(url, via, error),
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
    let of_socks = || url.scheme().starts_with("socks").then_some(1080);
    match url.port_or_known_default().or_else(of_socks) {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Why a request to `url` has no answer.
pub(super) fn reason(url: &Url, via: &Via, error: &reqwest::Error) -> String {
    if error.is_redirect() {
        return "stopped after 10 redirects".to_owned();
    }
    if let Some(tls) = chain(error).find_map(find_tls) {
        let words = tls_error::words(tls);
        return match via {
            // Nobody else speaks TLS.
            Via::Proxy(proxy) if proxy.scheme() == "https" && url.scheme() == "http" => {
                format!("proxyconnect tcp: {words}")
            }
            _ => words,
        };
    }
    if let Some(why) = chain(error).find_map(of_proxy) {
        return match via {
            Via::Proxy(proxy) => format!("proxyconnect tcp: {}: {why}", dialled(proxy)),
            _ => format!("proxyconnect tcp: {why}"),
        };
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
        return via.not_dialled(url, |url| {
            format!("dial tcp: lookup {}: no such host", url.host_str().unwrap_or_default())
        });
    }
    let dial = |what: &str| via.not_dialled(url, |url| format!("dial tcp {}: connect: {what}", dialled(url)));
    match io.kind() {
        io::ErrorKind::ConnectionRefused => dial("connection refused"),
        io::ErrorKind::HostUnreachable => dial("no route to host"),
        io::ErrorKind::NetworkUnreachable => dial("network is unreachable"),
        io::ErrorKind::ConnectionReset => "read: connection reset by peer".to_owned(),
        io::ErrorKind::UnexpectedEof => "EOF".to_owned(),
        _ => text,
    }
}

/// What a proxy said, or did, instead of leading to the target. None of other errors, nor where HTTP did not get to it: what
/// that error wraps tells more.
fn of_proxy(error: &(dyn Error + 'static)) -> Option<String> {
    let text = error.to_string();
    if text == "SOCKS error: failed to create underlying connection" {
        // It does not say why.
        return Some("cannot connect".to_owned());
    }
    if text.starts_with("SOCKS error: ") {
        return Some(text);
    }
    let what = text.strip_prefix("tunnel error: ")?;
    match what {
        "failed to create underlying connection" => None,
        "proxy authorization required" => Some("Proxy Authentication Required".to_owned()),
        "unsuccessful" => Some("the proxy refused to connect".to_owned()),
        _ => Some(innermost(error)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    /// Why `target` is not reached through `proxy`.
    async fn through(proxy: &str, no_proxy: Option<&str>, target: &str) -> String {
        let config = ProxyConfig {
            url: Some(url(proxy)),
            no_proxy: no_proxy.map(str::to_owned),
            ..ProxyConfig::default()
        };
        let client = reqwest::Client::builder();
        let client = super::super::with_proxy(client, &config).unwrap().build().unwrap();
        let error = client.get(target).send().await.unwrap_err();
        reason(&url(target), &Via::of(&config), &error)
    }

    #[tokio::test]
    async fn a_proxy_that_is_not_reached_is_to_blame() {
        let refused = "proxyconnect tcp: dial tcp 127.0.0.1:1: connect: connection refused";
        for target in ["http://target.example:9100/metrics", "https://target.example/metrics"] {
            assert_eq!(
                through("http://me:QSECRET@127.0.0.1:1", None, target).await,
                refused,
                "{target}"
            );
            let socks = through("socks5h://127.0.0.1:1", None, target).await;
            assert_eq!(socks, "proxyconnect tcp: 127.0.0.1:1: cannot connect", "{target}");
        }
        let perhaps = through("http://me:QSECRET@127.0.0.1:1", Some("a.example"), "http://10.1.1.1:9/").await;
        assert!(
            perhaps.contains("through the proxy 127.0.0.1:1, unless no_proxy") && !perhaps.contains("QSECRET"),
            "{perhaps}"
        );
    }

    #[tokio::test]
    async fn a_proxy_that_leads_nowhere_is_to_blame() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for status in ["403 Forbidden", "407 Proxy Authentication Required"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.unwrap_or(0) > 0 {}
                let answer = format!("HTTP/1.1 {status}\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        for why in ["the proxy refused to connect", "Proxy Authentication Required"] {
            let told = through(&format!("http://{address}"), None, "https://target.example/").await;
            assert_eq!(told, format!("proxyconnect tcp: {address}: {why}"));
        }
    }

    #[test]
    fn who_is_dialled_is_known_where_all_requests_go_through_the_proxy() {
        let config = |url: Option<&str>, no_proxy: Option<&str>, from_environment| ProxyConfig {
            url: url.map(self::url),
            no_proxy: no_proxy.map(str::to_owned),
            from_environment,
            ..ProxyConfig::default()
        };
        let said = |config: &ProxyConfig| Via::of(config).not_dialled(&url("http://t:1"), dialled);
        assert_eq!(said(&config(None, None, false)), "t:1");
        assert_eq!(
            said(&config(Some("socks5://p"), None, false)),
            "proxyconnect tcp: p:1080"
        );
        assert_eq!(
            said(&config(Some("http://p:2"), Some("x"), false)),
            "t:1 (through the proxy p:2, unless no_proxy spares the target)"
        );
        assert_eq!(
            said(&config(None, None, true)),
            "t:1 (through the environment's proxy, if it names one for the target)"
        );
    }
}
