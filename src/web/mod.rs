//! What `--web.config.file` asks for: TLS, client certificates, passwords, headers and a rate limit of the HTTP port, in the
//! format of Prometheus' exporter toolkit
//! (<https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md>).
//!
//! The file, and those that it names, are followed while the process runs, within a second: connections and requests that
//! begin then go by what they hold. Where that cannot be used, the last good one stays in force.
//!
//! Invariant: what keeps others out (TLS, passwords, certificates that clients must have) goes by a restart, never by a file
//! that no longer has it.

mod clients;
mod config;
mod guard;
mod limit;
mod listener;
mod logins;
mod read;
mod san;
#[cfg(test)]
mod tests;
mod tls;

pub use config::{WebConfig, check};
pub use guard::Guarded;
pub(crate) use listener::WebListener;

use async_trait::async_trait;
use config::Current;
use gnomon_cluster::tls::{Files, HandshakeLimits, HandshakeMetrics, Made, Offer, Reread, TlsError, accept};
use gnomon_model::Clock;
use guard::Guard;
use rustls::ServerConfig;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;

/// The web configuration that is in force.
pub struct Web {
    current: Arc<Reread<Current>>,
    guard: Arc<Guard>,
    handshakes: HandshakeMetrics,
    clock: Arc<dyn Clock>,
}

impl Web {
    /// # Errors
    /// When the file, or one that it names, cannot be used now; the message says where it is wrong.
    pub fn open(
        path: PathBuf,
        handshakes: HandshakeMetrics,
        registry: &prometheus::Registry,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>, TlsError> {
        let times = Arc::clone(&clock);
        let make = move |before: Option<&Current>| {
            let mut files = Files::default();
            let read = Current::read(&path, &mut files);
            Made {
                value: read.and_then(|current| current.in_place_of(before, &path, times.now())),
                files,
            }
        };
        let current = Reread::first("web configuration", Arc::clone(&clock), make)?;
        let guard = Guard::new(Arc::clone(&current), registry, Arc::clone(&clock))
            .map_err(|error| TlsError::new(format!("metrics: {error}")))?;
        Ok(Arc::new(Self {
            current,
            guard: Arc::new(guard),
            handshakes,
            clock,
        }))
    }

    /// Looks at the files, so that what is wrong with them is in the log before it is needed.
    pub async fn look(&self) {
        self.current.newest().await;
    }

    /// Whether the port speaks TLS just now.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.current.last().tls.is_some()
    }

    /// What the file has that is taken, and not acted on.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.current.last().config.warnings.clone()
    }

    /// Whatever `inner` answers, to those who may ask.
    pub fn guarded<S>(&self, inner: S) -> Guarded<S> {
        Guarded::new(inner, Arc::clone(&self.guard))
    }

    /// # Errors
    /// When the listener has no address.
    pub(crate) fn listen(self: &Arc<Self>, listener: TcpListener) -> std::io::Result<WebListener> {
        let address = listener.local_addr()?;
        let offer: Arc<dyn Offer> = Arc::clone(self) as _;
        let (limits, clock) = (HandshakeLimits::default(), Arc::clone(&self.clock));
        let accepted = accept(listener, "web", offer, limits, self.handshakes.clone(), clock);
        Ok(WebListener::new(accepted, address))
    }
}

#[async_trait]
impl Offer for Web {
    async fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.current.newest().await.tls.clone()
    }

    fn is_for_browsers(&self) -> bool {
        true
    }
}
