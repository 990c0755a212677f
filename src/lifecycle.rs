//! Reloading and stopping, by signal and by HTTP.

use crate::logging;
use axum::Router;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::header::ALLOW;
use http::{Method, StatusCode};
use serde::Deserialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Raises the limit on open files as far as it may be raised: connections, targets and files of the store count alike,
/// and what most systems start a process with (1024) is for programs that use `select`.
pub fn raise_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit on open files cannot be raised");
    }
}

/// A wish to reload; the answer is what was wrong, if anything.
pub type Reload = oneshot::Sender<Result<(), String>>;

/// What the lifecycle endpoints act on.
#[derive(Clone)]
pub struct Lifecycle {
    /// `--web.enable-lifecycle`.
    pub enabled: bool,
    /// One at a time: a wish that finds another under way waits for it.
    pub reloads: mpsc::Sender<Reload>,
    pub stop: CancellationToken,
    /// The node is to give away what others need, and to stop then.
    pub leave: CancellationToken,
    /// Whether SIGTERM means that; not before the node is ready.
    leaves: Arc<AtomicBool>,
}

/// `POST|PUT /-/reload`, `/-/quit` and `/-/log-level?level=` below the route prefix; `GET /-/log-level` says which it is.
pub fn routes(lifecycle: Lifecycle, prefix: &str) -> Router {
    let prefix = prefix.trim_end_matches('/');
    Router::new()
        .route(
            &format!("{prefix}/-/reload"),
            post(reload).put(reload).fallback(post_or_put),
        )
        .route(&format!("{prefix}/-/quit"), post(quit).put(quit).fallback(post_or_put))
        .route(
            &format!("{prefix}/-/log-level"),
            get(log_level).post(change_log_level).put(change_log_level),
        )
        .with_state(Arc::new(lifecycle))
}

fn forbidden() -> Response {
    (
        StatusCode::FORBIDDEN,
        "Lifecycle API is not enabled: start with --web.enable-lifecycle.\n",
    )
        .into_response()
}

/// As Prometheus' router, which has a handler for GET too that says this.
async fn post_or_put(method: Method) -> Response {
    if method == Method::OPTIONS {
        return [(ALLOW, "GET, OPTIONS, POST, PUT")].into_response();
    }
    (StatusCode::METHOD_NOT_ALLOWED, "Only POST or PUT requests allowed").into_response()
}

async fn reload(State(lifecycle): State<Arc<Lifecycle>>) -> Response {
    if !lifecycle.enabled {
        return forbidden();
    }
    match lifecycle.reload().await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(why) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("failed to reload config: {why}\n"),
        )
            .into_response(),
    }
}

async fn quit(State(lifecycle): State<Arc<Lifecycle>>) -> Response {
    if !lifecycle.enabled {
        return forbidden();
    }
    tracing::info!("stopping: asked to by /-/quit");
    lifecycle.stop.cancel();
    (StatusCode::OK, "Requesting termination... Goodbye!").into_response()
}

async fn log_level() -> Response {
    let level = logging::level().unwrap_or_default();
    (StatusCode::OK, format!("{level}\n")).into_response()
}

#[derive(Deserialize)]
struct WantedLevel {
    #[serde(default)]
    level: String,
}

/// For the life of the process: the next one goes by `--log.level`.
async fn change_log_level(State(lifecycle): State<Arc<Lifecycle>>, Query(wanted): Query<WantedLevel>) -> Response {
    if !lifecycle.enabled {
        return forbidden();
    }
    match logging::set_level(&wanted.level) {
        Ok(()) => log_level().await,
        Err(why) => (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
    }
}

impl Lifecycle {
    /// The wishes to reload come out at the other end.
    #[must_use]
    pub fn new(enabled: bool) -> (Self, mpsc::Receiver<Reload>) {
        let (reloads, wishes) = mpsc::channel(8);
        let lifecycle = Self {
            enabled,
            reloads,
            stop: CancellationToken::new(),
            leave: CancellationToken::new(),
            leaves: Arc::default(),
        };
        (lifecycle, wishes)
    }

    /// From now on SIGTERM lets the node leave before it stops.
    pub fn leave_on_term(&self) {
        self.leaves.store(true, Ordering::Relaxed);
    }

    /// Asks for a reload and waits for its end.
    ///
    /// # Errors
    /// What is wrong with the new configuration; the old one goes on.
    pub async fn reload(&self) -> Result<(), String> {
        let (answer, done) = oneshot::channel();
        let stopping = || "the node is stopping".to_owned();
        self.reloads.send(answer).await.map_err(|_| stopping())?;
        done.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Turns SIGHUP into reloads, SIGINT and SIGTERM into a stop. A second SIGINT or SIGTERM ends the process at once, or
    /// what the node does before it stops.
    ///
    /// # Errors
    /// When signals cannot be listened to.
    pub fn listen_to_signals(&self) -> std::io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let mut hangup = signal(SignalKind::hangup())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let lifecycle = self.clone();
        tokio::spawn(async move {
            loop {
                let name = tokio::select! {
                    _ = hangup.recv() => {
                        // The outcome is logged where the reload is done.
                        let _ = lifecycle.reload().await;
                        continue;
                    }
                    _ = interrupt.recv() => "SIGINT",
                    _ = terminate.recv() => "SIGTERM",
                };
                if lifecycle.stop.is_cancelled() {
                    tracing::warn!(signal = name, "stopping at once");
                    std::process::exit(1);
                }
                if name == "SIGTERM" && lifecycle.leaves.load(Ordering::Relaxed) && !lifecycle.leave.is_cancelled() {
                    tracing::info!(signal = name, "giving away what others need, then stopping");
                    lifecycle.leave.cancel();
                    continue;
                }
                tracing::info!(signal = name, "stopping");
                lifecycle.stop.cancel();
            }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{Resource, getrlimit, setrlimit};

    #[tokio::test]
    async fn other_methods_are_told_which_there_are() {
        use axum::body::Body;
        use http::Request;
        use tower::ServiceExt as _;
        let routes = super::routes(super::Lifecycle::new(true).0, "/prom");
        for path in ["/prom/-/reload", "/prom/-/quit"] {
            let ask = async |method: &str| {
                let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
                routes.clone().oneshot(request).await.unwrap()
            };
            let told = ask("OPTIONS").await;
            assert_eq!(
                (told.status().as_u16(), &told.headers()["allow"]),
                (200, &"GET, OPTIONS, POST, PUT".parse().unwrap())
            );
            assert_eq!(ask("GET").await.status(), 405);
        }
    }

    #[test]
    fn as_many_files_may_be_opened_as_is_allowed() {
        let mut low = getrlimit(Resource::Nofile);
        low.current = low.maximum.map_or(Some(1024), |most| Some(most.min(1024) - 1));
        setrlimit(Resource::Nofile, low).unwrap();
        super::raise_open_files();
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
    }
}
