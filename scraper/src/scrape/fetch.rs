//! One HTTP exchange with a target.

use super::body::{Body, BodyBudget, read_body};
use super::run::PoolOptions;
use crate::client::{Carrier, FetchError};
use crate::config::{NameEscaping, ScrapeConfig};
use crate::parse::accept_header;
use crate::target::Target;
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

const TIMEOUT_HEADER: HeaderName = HeaderName::from_static("x-prometheus-scrape-timeout-seconds");

/// How scrapes name themselves.
pub(crate) const AGENT: &str = concat!("gnomon/", env!("CARGO_PKG_VERSION"));

/// A whole answer.
pub(super) struct Fetched {
    pub(super) body: Body,
    pub(super) content_type: Option<String>,
}

/// The headers that every scrape of a job has.
pub(super) fn job_headers(config: &ScrapeConfig) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let escaping = if config.name_validation == crate::config::NameValidation::Legacy {
        match config.name_escaping {
            NameEscaping::AllowUtf8 => NameEscaping::Underscores,
            other => other,
        }
    } else {
        config.name_escaping
    };
    if let Ok(accept) = HeaderValue::from_str(&accept_header(&config.scrape_protocols, escaping)) {
        headers.insert(ACCEPT, accept);
    }
    let encoding = if config.enable_compression { "gzip" } else { "identity" };
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(encoding));
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    headers
}

/// Asks the target, within its timeout.
pub(super) async fn fetch(
    carrier: &dyn Carrier,
    target: &Target,
    options: &PoolOptions,
    budget: &Arc<BodyBudget>,
    reuse: Vec<u8>,
) -> Result<Fetched, FetchError> {
    let deadline = Instant::now() + target.timeout;
    let mut headers = options.headers.clone();
    if let Ok(seconds) = HeaderValue::from_str(&seconds(target.timeout)) {
        headers.insert(TIMEOUT_HEADER, seconds);
    }
    let late = || FetchError::Timeout {
        url: target.shown_url.clone(),
    };
    let asked = options.client.get(carrier, &target.url, &target.shown_url, headers);
    let response = timeout_at(deadline, asked).await.map_err(|_| late())??;
    let status = response.status();
    if status != reqwest::StatusCode::OK {
        return Err(FetchError::Status(status_line(&response)));
    }
    let content_type = response.headers().get(CONTENT_TYPE);
    let content_type = content_type.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
    let limit = options.config.limits.body_size_bytes;
    let body = timeout_at(deadline, read_body(response, limit, budget, reuse))
        .await
        .map_err(|_| FetchError::BodyTimeout)??;
    Ok(Fetched { body, content_type })
}

/// Code and words as the target sent them.
fn status_line(response: &reqwest::Response) -> String {
    let status = response.status();
    match response.extensions().get::<hyper::ext::ReasonPhrase>() {
        Some(phrase) => format!("{} {}", status.as_str(), String::from_utf8_lossy(phrase.as_bytes())),
        None => status.to_string(),
    }
}

/// As Go prints a float without an exponent.
fn seconds(duration: Duration) -> String {
    duration.as_secs_f64().to_string()
}
