//! What a request passes before it is answered: the rate limit, headers, passwords; in the order of the toolkit.

use super::config::{Current, WebConfig};
use super::limit::Tokens;
use super::logins::{Logins, Verdict};
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::future::BoxFuture;
use gnomon_cluster::tls::Reread;
use gnomon_model::Clock;
use http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use parking_lot::Mutex;
use prometheus::{IntCounterVec, Opts, Registry};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower::Service;

/// Of one process; its listeners share it.
pub(super) struct Guard {
    current: Arc<Reread<Current>>,
    logins: Logins,
    tokens: Mutex<Tokens>,
    requests: IntCounterVec,
    clock: Arc<dyn Clock>,
}

impl Guard {
    pub(super) fn new(
        current: Arc<Reread<Current>>,
        registry: &Registry,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, prometheus::Error> {
        let requests = IntCounterVec::new(
            Opts::new(
                "gnomon_web_guarded_total",
                "Requests that the web configuration was asked about, by outcome: admitted, unauthorized, limited (over the \
                 rate), busy (too many passwords are being checked).",
            ),
            &["outcome"],
        )?;
        registry.register(Box::new(requests.clone()))?;
        Ok(Self {
            current,
            logins: Logins::new(),
            tokens: Mutex::default(),
            requests,
            clock,
        })
    }

    /// None for a request that may go on.
    async fn turned_away(&self, config: &WebConfig, headers: &HeaderMap) -> Option<Response> {
        if let Some(rate) = config.rate
            && !self.tokens.lock().take(rate, self.clock.monotonic())
        {
            return self.answer("limited", StatusCode::TOO_MANY_REQUESTS);
        }
        if config.users.is_empty() {
            return self.admitted();
        }
        let verdict = match basic_auth(headers) {
            Some((name, password)) => self.logins.check(&config.users, &name, &password).await,
            None => Verdict::Refused,
        };
        match verdict {
            Verdict::Accepted => self.admitted(),
            Verdict::Refused => {
                let mut answer = self.answer("unauthorized", StatusCode::UNAUTHORIZED)?;
                let how = HeaderValue::from_static("Basic");
                answer.headers_mut().insert(WWW_AUTHENTICATE, how);
                Some(answer)
            }
            Verdict::Busy => {
                let mut answer = self.answer("busy", StatusCode::SERVICE_UNAVAILABLE)?;
                answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
                Some(answer)
            }
        }
    }

    fn admitted(&self) -> Option<Response> {
        self.requests.with_label_values(&["admitted"]).inc();
        None
    }

    fn answer(&self, outcome: &str, status: StatusCode) -> Option<Response> {
        self.requests.with_label_values(&[outcome]).inc();
        let text = format!("{}\n", status.canonical_reason().unwrap_or("refused"));
        Some((status, text).into_response())
    }
}

/// Name and password of `Authorization: Basic …` (RFC 7617).
fn basic_auth(headers: &HeaderMap) -> Option<(Vec<u8>, Vec<u8>)> {
    let text = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, coded) = text.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = BASE64_STANDARD.decode(coded.trim()).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some((pair[..colon].to_vec(), pair[colon + 1..].to_vec()))
}

/// A service behind the guard.
#[derive(Clone)]
pub struct Guarded<S> {
    inner: S,
    guard: Arc<Guard>,
}

impl<S> Guarded<S> {
    pub(super) fn new(inner: S, guard: Arc<Guard>) -> Self {
        Self { inner, guard }
    }
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that was found ready goes with the request.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let guard = Arc::clone(&self.guard);
        Box::pin(async move {
            let current = guard.current.newest().await;
            let mut answer = match guard.turned_away(&current.config, request.headers()).await {
                Some(refusal) => refusal,
                None => inner.call(request).await?,
            };
            for (name, value) in &current.config.headers {
                // What a handler sets itself, it means.
                answer.headers_mut().entry(name).or_insert_with(|| value.clone());
            }
            Ok(answer)
        })
    }
}
