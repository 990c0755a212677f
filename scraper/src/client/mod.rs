//! The HTTP client of a job: its connections, its TLS, and what it sends to authenticate.

mod auth;
mod error;
mod tls;

pub(crate) use error::FetchError;

use crate::config::http::{HttpClientConfig, ProxyConfig};
use auth::Authenticator;
use parking_lot::Mutex;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// As long as Prometheus keeps connections that are not used.
const IDLE: Duration = Duration::from_secs(300);

/// A client that cannot be made from its configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ClientError(pub String);

/// Speaks HTTP to the targets of one job. Files that it depends on are looked at before each use.
pub(crate) struct HttpClient {
    config: HttpClientConfig,
    auth: Authenticator,
    built: Mutex<Built>,
}

struct Built {
    client: reqwest::Client,
    /// The files that the client was made of, as they were then.
    files: Vec<(PathBuf, FileState)>,
}

/// Size and time of the last change; none where the file is not there.
type FileState = Option<(u64, Option<SystemTime>)>;

async fn file_state(path: &PathBuf) -> FileState {
    let found = tokio::fs::metadata(path).await.ok()?;
    Some((found.len(), found.modified().ok()))
}

impl HttpClient {
    /// # Errors
    /// When a certificate, key or proxy cannot be used.
    pub(crate) async fn new(config: &HttpClientConfig) -> Result<Self, ClientError> {
        Ok(Self {
            auth: Authenticator::new(config)?,
            built: Mutex::new(build(config).await?),
            config: config.clone(),
        })
    }

    /// The client, made anew if one of its files has changed.
    async fn current(&self) -> Result<reqwest::Client, ClientError> {
        let (client, files) = {
            let built = self.built.lock();
            (built.client.clone(), built.files.clone())
        };
        for (path, then) in &files {
            if file_state(path).await != *then {
                let built = build(&self.config).await?;
                let client = built.client.clone();
                *self.built.lock() = built;
                return Ok(client);
            }
        }
        Ok(client)
    }

    /// Sends a GET and returns the answer with its body still to come. Errors name `shown_url`. Redirects are followed as configured.
    ///
    /// # Errors
    /// When there is no answer, worded as Go's client does.
    pub(crate) async fn get(
        &self,
        url: &url::Url,
        shown_url: &str,
        headers: HeaderMap,
    ) -> Result<reqwest::Response, FetchError> {
        let own = |e: ClientError| FetchError::Get {
            url: shown_url.to_owned(),
            reason: e.0,
        };
        let client = self.current().await.map_err(own)?;
        let mut all = headers;
        self.add_headers(&mut all).await.map_err(own)?;
        self.auth.add_to(&client, &mut all).await.map_err(own)?;
        let sent = client.get(url.clone()).headers(all).send().await;
        sent.map_err(|e| FetchError::of_request(url, shown_url, &e))
    }

    async fn add_headers(&self, out: &mut HeaderMap) -> Result<(), ClientError> {
        for (name, values) in &self.config.headers {
            let header = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| ClientError(format!("header {name:?} is not a valid name")))?;
            let mut texts: Vec<String> = values.values.clone();
            texts.extend(values.secrets.iter().map(|s| s.expose().to_owned()));
            for file in &values.files {
                texts.push(auth::read_text(file, "header").await?);
            }
            out.remove(&header);
            for text in texts {
                let value = HeaderValue::from_str(text.trim()).map_err(|_| {
                    ClientError(format!("a value of header {name:?} has characters that none may have"))
                })?;
                out.append(&header, value);
            }
        }
        Ok(())
    }
}

async fn build(config: &HttpClientConfig) -> Result<Built, ClientError> {
    let mut files = Vec::new();
    for path in tls::files(&config.tls) {
        let state = file_state(&path).await;
        files.push((path, state));
    }
    let mut builder = reqwest::Client::builder()
        .pool_idle_timeout(IDLE)
        .tcp_nodelay(true)
        .referer(false)
        .redirect(if config.follow_redirects {
            redirect::Policy::limited(10)
        } else {
            redirect::Policy::none()
        });
    if let Some(tls) = tls::client_config(&config.tls, config.enable_http2).await? {
        builder = builder.tls_backend_preconfigured(tls);
    }
    if !config.enable_http2 {
        builder = builder.http1_only();
    }
    builder = with_proxy(builder, &config.proxy)?;
    let client = builder
        .build()
        .map_err(|e| ClientError(format!("error creating HTTP client: {}", error::innermost(&e))))?;
    Ok(Built { client, files })
}

fn with_proxy(builder: reqwest::ClientBuilder, config: &ProxyConfig) -> Result<reqwest::ClientBuilder, ClientError> {
    if config.from_environment {
        return Ok(builder);
    }
    let Some(url) = &config.url else {
        return Ok(builder.no_proxy());
    };
    let mut proxy = reqwest::Proxy::all(url.clone())
        .map_err(|e| ClientError(format!("proxy_url {url}: {}", error::innermost(&e))))?;
    if let Some(hosts) = &config.no_proxy {
        proxy = proxy.no_proxy(reqwest::NoProxy::from_string(hosts));
    }
    let mut headers = HeaderMap::new();
    for (name, values) in &config.connect_headers {
        let header = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| ClientError(format!("proxy_connect_header {name:?} is not a valid name")))?;
        for value in values {
            let value = HeaderValue::from_str(value.expose())
                .map_err(|_| ClientError(format!("a value of proxy_connect_header {name:?} has bad characters")))?;
            headers.append(&header, value);
        }
    }
    if !headers.is_empty() {
        proxy = proxy.headers(headers);
    }
    Ok(builder.proxy(proxy))
}
