//! Exporters that this process plays, for servers that scrape.

use super::harness::{Http, client, eventually_within};
use super::load::{Load, SERIES_OF_EACH};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderName, StatusCode};
use axum::routing::get;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;

pub(crate) const INTERVAL: Duration = Duration::from_secs(5);

/// VictoriaMetrics shows samples half a minute late.
const KNOWN_WITHIN: Duration = Duration::from_secs(90);

/// How answers are sent, to servers that understand both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Plain,
    Gzip,
}

/// They end when this is dropped.
pub(crate) struct Played {
    exporters: usize,
    address: SocketAddr,
    said: watch::Sender<Option<Arc<Load>>>,
    samples: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

/// What the exporters say; nothing once there is no load.
#[derive(Clone)]
struct Said {
    load: watch::Receiver<Option<Arc<Load>>>,
    samples: Arc<AtomicU64>,
    sent: Sent,
}

type Answer = ([(HeaderName, &'static str); 2], Vec<u8>);

async fn exposition(State(said): State<Said>, Path(exporter): Path<usize>) -> Result<Answer, StatusCode> {
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
    let (encoding, body) = match said.sent {
        Sent::Plain => ("identity", text.into_bytes()),
        Sent::Gzip => ("gzip", gzip(&text)),
    };
    Ok((
        [
            (CONTENT_TYPE, "text/plain; version=0.0.4"),
            (CONTENT_ENCODING, encoding),
        ],
        body,
    ))
}

/// At the level of Go's `promhttp`.
fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let written = encoder.write_all(text.as_bytes());
    written.and_then(|()| encoder.finish()).expect("a Vec has room")
}

impl Played {
    pub(crate) async fn start(load: &Arc<Load>) -> Self {
        Self::start_at("127.0.0.1", load, Sent::Plain).await
    }

    /// The same at another address of this machine.
    pub(crate) async fn start_at(host: &str, load: &Arc<Load>, sent: Sent) -> Self {
        let listener = tokio::net::TcpListener::bind((host, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (said, watched) = watch::channel(Some(Arc::clone(load)));
        let samples = Arc::new(AtomicU64::new(0));
        let state = Said {
            load: watched,
            samples: Arc::clone(&samples),
            sent,
        };
        let routes = Router::new().route("/exporter/{n}", get(exposition)).with_state(state);
        let task = tokio::spawn(async move {
            let _ = axum::serve(listener, routes).await;
        });
        Self {
            exporters: load.series / SERIES_OF_EACH,
            address,
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

    /// Waits until a server has all series of one scrape of each.
    pub(crate) async fn until_known(&self, server: &Http) {
        let path = format!(
            "/api/v1/query?query={}",
            client::encode("sum(scrape_samples_scraped{job=\"node\"})")
        );
        let all = format!("\"{}\"", self.exporters * SERIES_OF_EACH);
        eventually_within(KNOWN_WITHIN, "the series of all exporters", async || {
            let answer = server.client().get(server.url(&path)).send().await.ok()?;
            answer.text().await.ok()?.contains(&all).then_some(())
        })
        .await;
    }

    /// The part of a `prometheus.yml` that scrapes them.
    pub(crate) fn scrape_config(&self) -> String {
        let mut text = format!(
            "global: {{scrape_interval: {}s}}\nscrape_configs:\n- job_name: node\n  static_configs:\n",
            INTERVAL.as_secs(),
        );
        for exporter in 0..self.exporters {
            let (address, instance) = (self.address, Load::instance(exporter));
            let _ = writeln!(
                text,
                "  - {{targets: ['{address}'], labels: {{__metrics_path__: /exporter/{exporter}, instance: '{instance}'}}}}"
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
