//! Exporters that this process plays, for servers that scrape.

use super::load::{Load, SERIES_OF_EACH};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

pub(crate) const INTERVAL: Duration = Duration::from_secs(5);

/// They end when this is dropped.
pub(crate) struct Played {
    exporters: usize,
    port: u16,
    said: watch::Sender<Option<Arc<Load>>>,
    samples: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

/// What the exporters say; nothing once there is no load.
#[derive(Clone)]
struct Said {
    load: watch::Receiver<Option<Arc<Load>>>,
    samples: Arc<AtomicU64>,
}

async fn exposition(State(said): State<Said>, Path(exporter): Path<usize>) -> Result<String, StatusCode> {
    let load = said.load.borrow().clone().ok_or(StatusCode::SERVICE_UNAVAILABLE)?;
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
    let round = (now.as_secs() / INTERVAL.as_secs() % 10_000) as usize;
    let mut text = String::with_capacity(SERIES_OF_EACH * 80);
    for n in 0..SERIES_OF_EACH {
        let i = exporter * SERIES_OF_EACH + n;
        let value = load.value(i, round);
        let _ = writeln!(text, "{} {value}", Load::exposition_name(i));
    }
    said.samples.fetch_add(SERIES_OF_EACH as u64, Ordering::Relaxed);
    Ok(text)
}

impl Played {
    pub(crate) async fn start(load: &Arc<Load>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (said, watched) = watch::channel(Some(Arc::clone(load)));
        let samples = Arc::new(AtomicU64::new(0));
        let state = Said {
            load: watched,
            samples: Arc::clone(&samples),
        };
        let routes = Router::new().route("/exporter/{n}", get(exposition)).with_state(state);
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, routes).await;
        });
        Self {
            exporters: load.series / SERIES_OF_EACH,
            port,
            said,
            samples,
            task,
        }
    }

    /// Scrapes fail from here on.
    pub(crate) fn fall_silent(&self) {
        self.said.send_replace(None);
    }

    /// Samples that were asked for so far.
    pub(crate) fn samples(&self) -> u64 {
        self.samples.load(Ordering::Relaxed)
    }

    /// The part of a `prometheus.yml` that scrapes them.
    pub(crate) fn scrape_config(&self) -> String {
        let mut text = format!(
            "global: {{scrape_interval: {}s}}\nscrape_configs:\n- job_name: node\n  static_configs:\n",
            INTERVAL.as_secs(),
        );
        for exporter in 0..self.exporters {
            let (port, instance) = (self.port, Load::instance(exporter));
            let _ = writeln!(
                text,
                "  - {{targets: ['127.0.0.1:{port}'], labels: {{__metrics_path__: /exporter/{exporter}, instance: '{instance}'}}}}"
            );
        }
        text
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        self.task.abort();
    }
}
