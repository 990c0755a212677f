//! Routes, and what surrounds every request: readiness, CORS, compression, counting.

use crate::cors::{Cors, cors};
use crate::metrics::{Metrics, register};
use crate::results::Results;
use crate::snapshot::remove_unfinished;
use crate::state::{ApiState, MemoryLimits};
use crate::{api, federate, page};
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any, get};
use gnomon_promql::QueryMemory;
use http::{HeaderValue, Method, StatusCode, header};
use std::sync::Arc;
use tokio::sync::Semaphore;
use tower_http::compression::CompressionLayer;

/// A running API.
pub(crate) struct Api {
    pub(crate) state: ApiState,
    pub(crate) metrics: Metrics,
    /// `--query.max-concurrency`.
    pub(crate) gate: Arc<Semaphore>,
    /// Of the places those that range queries may take, so that alerts need not wait for dashboards.
    pub(crate) range_gate: Arc<Semaphore>,
    /// What queries hold, all together.
    pub(crate) memory: Arc<QueryMemory>,
    /// Queries whose reading takes long, at the same time.
    pub(crate) parsers: Arc<Semaphore>,
    /// Remote reads at the same time; none is no limit.
    pub(crate) read_gate: Option<Arc<Semaphore>>,
    /// Of range queries; none where none are kept.
    pub(crate) results: Option<Results>,
    /// One snapshot is made at a time.
    pub(crate) snapshots: tokio::sync::Mutex<()>,
}

/// Why the API cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ApiSetupError {
    #[error("--web.cors.origin: {0}")]
    CorsOrigin(#[from] gnomon_model::re2::Error),
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// The querier's part of the HTTP interface: `/api/v1`, `/-/healthy`, `/-/ready`, `/metrics` and the page at `/`, all
/// below the route prefix.
///
/// # Errors
/// When an option has no usable value.
pub fn api_router(state: ApiState) -> Result<Router, ApiSetupError> {
    let MemoryLimits {
        total_bytes,
        query_bytes,
    } = state.query.memory;
    let memory = QueryMemory::new(total_bytes, query_bytes, state.query.max_concurrency);
    let (metrics, collectors) = Metrics::new(state.query.max_concurrency, &memory)?;
    register(&state.registry, collectors);
    register(&state.registry, state.notifications.collectors());
    let places = state.query.max_concurrency.clamp(1, Semaphore::MAX_PERMITS);
    let prefix = prefix(&state.web.route_prefix);
    if state.admin.enabled {
        remove_unfinished(&state.admin.snapshots);
    }
    let api = Arc::new(Api {
        metrics,
        gate: Arc::new(Semaphore::new(places)),
        range_gate: Arc::new(Semaphore::new(range_places(places))),
        memory,
        parsers: Arc::new(Semaphore::new(2)),
        read_gate: match state.query.remote_read.concurrent {
            0 => None,
            most => Some(Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)))),
        },
        results: match state.results.clone() {
            Some(cache) => Some(Results::new(cache, &state.registry)?),
            None => None,
        },
        snapshots: tokio::sync::Mutex::default(),
        state,
    });
    let origins = Cors::new(&api.state.web.cors_origin)?;
    let mut router = Router::new();
    let queries = api.state.web.queries;
    let more = if queries { api::routes() } else { Vec::new() };
    for (path, method) in [api::own_routes(), api::cluster_routes(), more].into_iter().flatten() {
        router = router.route(&format!("{prefix}/api/v1{path}"), method.options(preflight));
    }
    router = router.route_layer(from_fn_with_state(Arc::clone(&api), ready_only));
    let early = if queries { api::early_routes() } else { Vec::new() };
    for (path, method) in early {
        router = router.route(&format!("{prefix}/api/v1{path}"), method.options(preflight));
    }
    router = router
        .route(&format!("{prefix}/api/v1/{{*path}}"), any(unknown))
        .route(&format!("{prefix}/api/v1/"), any(unknown))
        .route_layer(from_fn_with_state(origins, cors));
    let home = if queries { get(page::page) } else { get(no_page) };
    let home = home.fallback(only_get);
    if queries {
        let federation = get(federate::federate).head(only_get).fallback(only_get);
        let federation = federation.layer(from_fn_with_state(Arc::clone(&api), ready_only));
        router = router.route(&format!("{prefix}/federate"), federation);
    }
    router = router.route(&format!("{prefix}/"), home);
    for (path, method) in plain_routes() {
        router = router.route(&format!("{prefix}{path}"), method);
    }
    if !prefix.is_empty() {
        let home = format!("{prefix}/");
        for path in ["/", prefix.as_str()] {
            let home = home.clone();
            router = router.route(path, get(move || async move { found(&home) }));
        }
    }
    Ok(router
        .route_layer(from_fn_with_state((Arc::clone(&api), prefix), counted))
        .fallback(|| async { not_found() })
        .layer(CompressionLayer::new().gzip(true).zstd(true))
        .with_state(api))
}

/// Three quarters, and all but one at most; one where there is but one.
fn range_places(places: usize) -> usize {
    (places - (places / 4).max(1)).max(1)
}

/// For the methods that a page has no handler for.
async fn only_get(method: Method) -> Response {
    other_method(&method, "GET, OPTIONS")
}

async fn only_get_and_head(method: Method) -> Response {
    other_method(&method, "GET, HEAD, OPTIONS")
}

fn plain_routes() -> [(&'static str, MethodRouter<Arc<Api>>); 3] {
    let probe = |methods: MethodRouter<Arc<Api>>| methods.fallback(only_get_and_head);
    let page = |methods: MethodRouter<Arc<Api>>| methods.fallback(only_get);
    [
        ("/metrics", page(get(api::own_metrics))),
        (
            "/-/healthy",
            probe(get(|| async { plain(StatusCode::OK, "gnomon is Healthy.\n") }).head(|| async {})),
        ),
        ("/-/ready", probe(get(ready).head(head_ready))),
    ]
}

/// `/a/b`, without a slash at the end; empty for none.
pub(crate) fn prefix(flag: &str) -> String {
    match flag.trim_matches('/') {
        "" => String::new(),
        inner => format!("/{inner}"),
    }
}

pub(crate) fn plain(status: StatusCode, text: impl Into<String>) -> Response {
    let content_type = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    let mut response = (status, content_type, text.into()).into_response();
    if status.is_client_error() || status.is_server_error() {
        // As Go's `http.Error`.
        let nosniff = HeaderValue::from_static("nosniff");
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    }
    response
}

pub(crate) fn not_found() -> Response {
    plain(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// `allowed` lists the methods that there are.
pub(crate) fn not_allowed(allowed: &'static str) -> Response {
    let refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    ([(header::ALLOW, allowed)], refusal).into_response()
}

/// As Prometheus' router: OPTIONS is told what there is.
fn other_method(method: &Method, allowed: &'static str) -> Response {
    if method == Method::OPTIONS {
        return [(header::ALLOW, allowed)].into_response();
    }
    not_allowed(allowed)
}

/// 302, as Prometheus redirects.
fn found(location: &str) -> Response {
    (StatusCode::FOUND, [(header::LOCATION, location.to_owned())]).into_response()
}

async fn preflight() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// `/` of a process without a querier.
async fn no_page(State(api): State<Arc<Api>>) -> Response {
    let roles = api.state.node.runtime().roles.join(", ");
    let state = match api.state.node.readiness() {
        Ok(()) => "ready".to_owned(),
        Err(why) => format!("not ready: {why}"),
    };
    let text = format!(
        "gnomon {roles}: {state}\n\n\
         /metrics\n/-/healthy\n/-/ready\n/api/v1/status/config, flags, runtimeinfo, buildinfo\n\
         of the whole cluster: /api/v1/targets, scrape_pools, status/tsdb, cluster/nodes\n\n\
         Queries and the page are served by a process with --target=querier.\n"
    );
    plain(StatusCode::OK, text)
}

/// What is below `/api/v1` and no endpoint here.
async fn unknown(State(api): State<Arc<Api>>, method: Method) -> Response {
    if method == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    if !api.state.web.queries {
        let roles = api.state.node.runtime().roles.join(", ");
        let text =
            format!("404 page not found: this process runs {roles}; a process with --target=querier serves this\n");
        return plain(StatusCode::NOT_FOUND, text);
    }
    not_found()
}

async fn head_ready(State(api): State<Arc<Api>>) -> StatusCode {
    match api.state.node.readiness() {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}

async fn ready(State(api): State<Arc<Api>>) -> Response {
    match api.state.node.readiness() {
        Ok(()) => plain(StatusCode::OK, "gnomon is Ready.\n"),
        Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("Service Unavailable: {why}\n")),
    }
}

async fn ready_only(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    match api.state.node.readiness() {
        Ok(()) => next.run(request).await,
        Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("Service Unavailable: {why}\n")),
    }
}

async fn counted(State((api, prefix)): State<(Arc<Api>, String)>, request: Request, next: Next) -> Response {
    let matched = request
        .extensions()
        .get::<MatchedPath>()
        .map(|path| path.as_str().to_owned());
    let began = api.state.clock.monotonic();
    let response = next.run(request).await;
    let handler = matched
        .as_deref()
        .map_or("", |path| path.strip_prefix(prefix.as_str()).unwrap_or(path));
    // Parameters as Prometheus' router writes them.
    let handler = handler.replace("{*path}", "*path").replace("{name}", ":name");
    let took = api.state.clock.monotonic().saturating_sub(began);
    api.metrics
        .requests
        .with_label_values(&[handler.as_str(), response.status().as_str()])
        .inc();
    api.metrics
        .request_seconds
        .with_label_values(&[handler.as_str()])
        .observe(took.as_secs_f64());
    response
}
