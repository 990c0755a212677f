//! The HTTP client of a job: its connections, its TLS, and what it sends to authenticate.

mod auth;
mod error;
mod files;
mod tls;
mod tls_error;
mod verify;

pub use error::FetchError;

use crate::config::http::{HttpClientConfig, ProxyConfig};
use crate::config::shape::without_credentials;
use async_trait::async_trait;
use auth::Authenticator;
use error::Via;
use files::Files;
use parking_lot::Mutex;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, timeout};
use url::Url;

/// As long as Prometheus keeps connections that are not used.
const IDLE: Duration = Duration::from_secs(300);

/// As many as Go's client follows.
const MOST_REDIRECTS: usize = 10;

/// Headers that an answer may have; the client's own limit is 100. That on their bytes is its own.
const MOST_HEADERS: usize = 2000;

tokio::task_local! {
    /// Where the request under way was last redirected to.
    static HOP: Mutex<Option<Url>>;
    /// Through what the request under way goes.
    static VIA: Via;
}

/// A client that cannot be made from its configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ClientError(pub String);

/// Carries requests of scrapes to targets, and answers back.
#[async_trait]
pub trait Carrier: Send + Sync + 'static {
    /// `client` is that of the request's job. Errors name `shown_url`.
    ///
    /// # Errors
    /// When there is no answer.
    async fn carry(
        &self,
        client: reqwest::Client,
        request: reqwest::Request,
        shown_url: &str,
    ) -> Result<reqwest::Response, FetchError>;
}

/// The network: redirects are followed as the client has it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Http;

#[async_trait]
impl Carrier for Http {
    /// Errors are worded as Go's client does.
    async fn carry(
        &self,
        client: reqwest::Client,
        request: reqwest::Request,
        shown_url: &str,
    ) -> Result<reqwest::Response, FetchError> {
        let url = request.url().clone();
        let exchange = async {
            let sent = client.execute(request).await;
            let via = VIA.try_with(Via::clone).unwrap_or_default();
            sent.map_err(|e| match HOP.with(|hop| hop.lock().take()) {
                Some(hop) => FetchError::of_request(&hop, &shown(&hop), &via, &e),
                None => FetchError::of_request(&url, shown_url, &via, &e),
            })
        };
        HOP.scope(Mutex::new(None), exchange).await
    }
}

/// Speaks to the targets of one job. The files that it is made of are looked at as it is used.
pub(crate) struct HttpClient {
    config: HttpClientConfig,
    auth: Authenticator,
    built: Arc<Mutex<Built>>,
    files: Files,
    /// The files that it is made of are being looked at.
    is_looking: Arc<AtomicBool>,
}

/// Files that are not read within this hang.
const FILES_WITHIN: Duration = Duration::from_secs(10);

/// How often the files that a client is made of are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Says that something has ended, however it does.
struct Ended(Arc<AtomicBool>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

struct Built {
    /// Why there is none: one of the files is missing or bad.
    client: Result<reqwest::Client, ClientError>,
    looked_at: Instant,
    /// The files that the client was made of, as they were then.
    files: Vec<(PathBuf, FileState)>,
}

impl Built {
    fn none(why: ClientError) -> Self {
        Self {
            client: Err(why),
            looked_at: Instant::now(),
            files: Vec::new(),
        }
    }
}

/// Size and time of the last change; none where the file is not there.
type FileState = Option<(u64, Option<SystemTime>)>;

fn file_state(path: &Path) -> FileState {
    let found = std::fs::metadata(path).ok()?;
    Some((found.len(), found.modified().ok()))
}

impl HttpClient {
    /// # Errors
    /// When a certificate, key or proxy cannot be used.
    pub(crate) async fn new(config: &HttpClientConfig) -> Result<Self, ClientError> {
        let files = Files::default();
        let built = build(&files, config).await?;
        Ok(Self::of(built, files, config))
    }

    fn of(built: Built, files: Files, config: &HttpClientConfig) -> Self {
        Self {
            auth: Authenticator::new(config, files.clone()),
            built: Arc::new(Mutex::new(built)),
            files,
            is_looking: Arc::default(),
            config: config.clone(),
        }
    }

    /// As [`Self::new`], also where files cannot be used, and why: each request fails then, and says so, until they can.
    ///
    /// # Errors
    /// When it is not the files that are at fault.
    pub(crate) async fn whatever_files(config: &HttpClientConfig) -> Result<(Self, Option<ClientError>), ClientError> {
        let hangs = || ClientError(format!("its files are not read within {} s", FILES_WITHIN.as_secs()));
        let made = timeout(FILES_WITHIN, Self::new(config)).await;
        let error = match made.unwrap_or_else(|_| Err(hangs())) {
            Ok(client) => return Ok((client, None)),
            Err(error) => error,
        };
        let without = HttpClientConfig {
            tls: tls::without_files(&config.tls),
            ..config.clone()
        };
        let files = Files::default();
        if without == *config || build(&files, &without).await.is_err() {
            return Err(error);
        }
        let client = Self::of(Built::none(error.clone()), files, config);
        Ok((client, Some(error)))
    }

    /// Its files could not be used when that was last tried.
    pub(crate) fn lacks_files(&self) -> bool {
        self.built.lock().client.is_err()
    }

    /// The client, made anew where its files have changed, or could not be used until now. One request at a time looks at
    /// them, which may hang: the others have meanwhile what was there before.
    async fn current(&self) -> Result<reqwest::Client, ClientError> {
        let before = {
            let built = self.built.lock();
            let depends_on_files = built.client.is_err() || !built.files.is_empty();
            if !depends_on_files || built.looked_at.elapsed() < LOOK_EVERY {
                return built.client.clone();
            }
            built.client.clone()
        };
        if self.is_looking.swap(true, Ordering::AcqRel) {
            return before;
        }
        let (config, built) = (self.config.clone(), Arc::clone(&self.built));
        let is_looking = Ended(Arc::clone(&self.is_looking));
        // What is found is kept also where the request that looks has run out of time.
        let look = move || {
            let client = look(&config, &built);
            drop(is_looking);
            client
        };
        self.files.read(look).await?
    }

    /// Sends a GET and returns the answer with its body still to come. Errors name `shown_url`.
    ///
    /// # Errors
    /// When there is no answer.
    pub(crate) async fn get(
        &self,
        carrier: &dyn Carrier,
        url: &Url,
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
        self.auth.add_to(&mut all).await.map_err(own)?;
        let request = client.get(url.clone()).headers(all).build();
        let via = Via::of(&self.config.proxy);
        let request = request.map_err(|e| FetchError::of_request(url, shown_url, &via, &e))?;
        VIA.scope(via, carrier.carry(client, request, shown_url)).await
    }

    /// Reads the files that a request would be made with, and sends none.
    ///
    /// # Errors
    /// When one cannot be read, or holds what no header may hold.
    pub(crate) async fn read_files(&self) -> Result<(), ClientError> {
        self.auth.read().await?;
        self.add_headers(&mut HeaderMap::new()).await
    }

    async fn add_headers(&self, out: &mut HeaderMap) -> Result<(), ClientError> {
        for (name, values) in &self.config.headers {
            let header = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| ClientError(format!("header {name:?} is not a valid name")))?;
            let mut texts: Vec<String> = values.values.clone();
            texts.extend(values.secrets.iter().map(|s| s.expose().to_owned()));
            for file in &values.files {
                texts.push(self.files.text(file, "header").await?);
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

/// As Go shows it in errors.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    if url.password().is_some() {
        // Fails for URLs without a host only.
        let _ = url.set_password(Some("***"));
    }
    url.into()
}

/// The same of a text that may be no URL.
fn shown_text(text: &str) -> String {
    Url::parse(text).map_or_else(|_| without_credentials(text), |url| shown(&url))
}

fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    // Not there where a token is asked for.
    let _ = HOP.try_with(|hop| *hop.lock() = Some(attempt.url().clone()));
    if attempt.previous().len() >= MOST_REDIRECTS {
        return attempt.error(format!("stopped after {MOST_REDIRECTS} redirects"));
    }
    attempt.follow()
}

/// On a thread of its own: it takes a millisecond, and there may be hundreds of jobs.
async fn build(files: &Files, config: &HttpClientConfig) -> Result<Built, ClientError> {
    let config = config.clone();
    files.read(move || build_now(&config)).await?
}

/// Makes the client anew where that is due; blocks.
fn look(config: &HttpClientConfig, built: &Mutex<Built>) -> Result<reqwest::Client, ClientError> {
    let (before, files) = {
        let built = built.lock();
        (built.client.clone(), built.files.clone())
    };
    if before.is_ok() && files.iter().all(|(path, then)| file_state(path) == *then) {
        built.lock().looked_at = Instant::now();
        return before;
    }
    let anew = build_now(config).unwrap_or_else(Built::none);
    let client = anew.client.clone();
    *built.lock() = anew;
    client
}

fn build_now(config: &HttpClientConfig) -> Result<Built, ClientError> {
    let state = |path: PathBuf| {
        let state = file_state(&path);
        (path, state)
    };
    let files = tls::files(&config.tls).into_iter().map(state).collect();
    let mut builder = reqwest::Client::builder()
        .pool_idle_timeout(IDLE)
        .tcp_nodelay(true)
        .referer(false)
        .http1_max_headers(MOST_HEADERS)
        .redirect(if config.follow_redirects {
            redirect::Policy::custom(follow)
        } else {
            redirect::Policy::none()
        })
        .tls_backend_preconfigured(tls::client_config(&config.tls, config.enable_http2)?);
    if !config.enable_http2 {
        builder = builder.http1_only();
    }
    builder = with_proxy(builder, &config.proxy)?;
    let client = builder
        .build()
        .map_err(|e| ClientError(format!("error creating HTTP client: {}", error::innermost(&e))))?;
    Ok(Built {
        client: Ok(client),
        looked_at: Instant::now(),
        files,
    })
}

fn with_proxy(builder: reqwest::ClientBuilder, config: &ProxyConfig) -> Result<reqwest::ClientBuilder, ClientError> {
    if config.from_environment {
        return Ok(builder);
    }
    let Some(url) = &config.url else {
        return Ok(builder.no_proxy());
    };
    let mut proxy = reqwest::Proxy::all(url.clone())
        .map_err(|e| ClientError(format!("proxy_url {}: {}", shown(url), error::innermost(&e))))?;
    if let Some(hosts) = &config.no_proxy {
        // As Go's: this machine itself is never asked through a proxy then.
        let hosts = format!("{hosts},localhost,127.0.0.0/8,::1");
        proxy = proxy.no_proxy(reqwest::NoProxy::from_string(&hosts));
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    /// What the clients of so many jobs cost: `cargo nextest run ... --run-ignored only --no-capture`.
    #[tokio::test]
    #[ignore = "measures"]
    async fn the_cost_of_clients() {
        const JOBS: u32 = 500;
        let begin = Instant::now();
        for _ in 0..20 {
            reqwest::Client::builder().no_proxy().build().unwrap();
        }
        println!("each with the system's roots read: {:?}", begin.elapsed() / 20);
        let begin = Instant::now();
        let mut clients = Vec::new();
        for _ in 0..JOBS {
            clients.push(HttpClient::new(&HttpClientConfig::default()).await.unwrap());
        }
        println!("{JOBS} as they are: {:?}", begin.elapsed());
    }
}
