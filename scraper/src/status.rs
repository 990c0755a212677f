//! What the scraper tells about its targets: the body of the Targets service.

use crate::buffer::Buffer;
use crate::pool::PoolStatus;
use crate::scrape::Metadata;
use crate::target::Target;
use async_trait::async_trait;
use gnomon_model::LabelsRef;
use gnomon_proto::ServiceError;
use gnomon_proto::service::TargetsService;
use gnomon_proto::v1::{
    ActiveTarget, DroppedTarget, ListTargetsRequest, ListTargetsResponse, TargetCount, TargetMetadata,
    TargetMetadataRequest, TargetMetadataResponse,
};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// How a target is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Health {
    /// Not scraped yet.
    #[default]
    Unknown,
    Up,
    Down,
}

impl Health {
    /// Each at the place of its number.
    const ALL: [Self; 3] = [Self::Unknown, Self::Up, Self::Down];

    /// The word of `/api/v1/targets`.
    #[must_use]
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// How the last scrape of a target went.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LastScrape {
    pub health: Health,
    /// Empty if it went well.
    pub error: String,
    /// 0 if there was none.
    pub at_ms: i64,
    pub duration: Duration,
}

/// What is known of a target beyond its configuration.
#[derive(Default)]
pub(crate) struct TargetState {
    last: Mutex<LastScrape>,
    pub metadata: Metadata,
}

impl TargetState {
    pub(crate) fn note(&self, at_ms: i64, duration: Duration, error: Option<&str>) {
        *self.last.lock() = LastScrape {
            health: if error.is_none() { Health::Up } else { Health::Down },
            error: error.unwrap_or_default().to_owned(),
            at_ms,
            duration,
        };
    }

    #[must_use]
    pub(crate) fn last(&self) -> LastScrape {
        self.last.lock().clone()
    }
}

/// Where this node is reached from outside: it stands for loopback addresses in `globalUrl`, as in Prometheus.
#[derive(Clone, Debug)]
pub struct ExternalUrl {
    url: Url,
    listen_port: u16,
}

impl ExternalUrl {
    /// `url` is where others reach this node, which listens on `listen_port`. None where it is no URL.
    #[must_use]
    pub fn new(url: &str, listen_port: u16) -> Option<Self> {
        let url = Url::parse(url).ok()?;
        Some(Self { url, listen_port })
    }

    /// A loopback URL as others reach it: this node itself by the whole external address, its neighbours by the host.
    /// None for one without a port, and where the parts do not fit together.
    fn instead_of(&self, url: &Url) -> Option<Url> {
        let mut global = url.clone();
        let port = url.port_or_known_default()?;
        global.set_host(self.url.host_str()).ok()?;
        if port == self.listen_port {
            global.set_scheme(self.url.scheme()).ok()?;
            global.set_port(self.url.port()).ok()?;
        }
        Some(global)
    }
}

/// The pools as they are, by job; the manager writes, the service reads.
pub struct Status {
    pools: RwLock<BTreeMap<String, Arc<PoolStatus>>>,
    external: Option<ExternalUrl>,
    buffer: Arc<Buffer>,
}

impl Status {
    pub(crate) fn new(external: Option<ExternalUrl>, buffer: Arc<Buffer>) -> Self {
        Self {
            pools: RwLock::default(),
            external,
            buffer,
        }
    }

    pub(crate) fn set(&self, job: &str, pool: PoolStatus) {
        self.pools.write().insert(job.to_owned(), Arc::new(pool));
    }

    pub(crate) fn remove(&self, job: &str) {
        self.pools.write().remove(job);
    }

    /// Names of all pools, in order.
    #[must_use]
    pub fn pools(&self) -> Vec<String> {
        self.pools.read().keys().cloned().collect()
    }

    fn chosen(&self, job: &str) -> Vec<(String, Arc<PoolStatus>)> {
        let pools = self.pools.read();
        let wanted = pools.iter().filter(|(name, _)| job.is_empty() || *name == job);
        wanted.map(|(name, pool)| (name.clone(), Arc::clone(pool))).collect()
    }

    fn global_url(&self, target: &Target) -> String {
        let loopback = matches!(target.url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let global = self.external.as_ref().filter(|_| loopback);
        let global = global.and_then(|external| external.instead_of(&target.url));
        global.map_or_else(|| target.shown_url.clone(), |url| url.to_string())
    }

    /// A snapshot of targets.
    #[must_use]
    pub fn list(&self, request: &ListTargetsRequest) -> ListTargetsResponse {
        let mut response = ListTargetsResponse::default();
        let mut counts = [0; Health::ALL.len()];
        for (job, pool) in self.chosen(&request.scrape_pool) {
            if request.active {
                response.active.extend(pool.active.iter().map(|(spec, state)| {
                    let (target, last) = (&spec.target, state.last());
                    let held = self.buffer.of(target.id);
                    ActiveTarget {
                        discovered_labels: target.discovered.as_bytes().to_vec().into(),
                        labels: target.labels.as_bytes().to_vec().into(),
                        scrape_pool: job.clone(),
                        scrape_url: target.shown_url.clone(),
                        global_url: self.global_url(target),
                        last_error: last.error,
                        last_scrape_ms: last.at_ms,
                        last_scrape_duration_seconds: last.duration.as_secs_f64(),
                        health: last.health.as_str().to_owned(),
                        scrape_interval_ms: u64::try_from(target.interval.as_millis()).unwrap_or(u64::MAX),
                        scrape_timeout_ms: u64::try_from(target.timeout.as_millis()).unwrap_or(u64::MAX),
                        scraper: String::new(),
                        held_scrapes: held.ticks,
                        held_since_ms: held.oldest_ms,
                        shed_samples: held.shed_samples,
                    }
                }));
            }
            if request.counts {
                for (_, state) in &pool.active {
                    counts[state.last.lock().health as usize] += 1;
                }
            }
            if request.dropped {
                response.dropped.extend(pool.dropped.iter().map(|labels| DroppedTarget {
                    discovered_labels: labels.as_bytes().to_vec().into(),
                    scrape_pool: job.clone(),
                }));
            }
            response.dropped_counts.insert(job, pool.dropped_count);
        }
        if request.counts {
            let counts = Health::ALL.iter().zip(counts).map(|(health, targets)| TargetCount {
                health: health.as_str().to_owned(),
                targets,
            });
            response.counts.extend(counts);
        }
        response
    }
}

#[async_trait]
impl TargetsService for Status {
    async fn list_targets(&self, request: ListTargetsRequest) -> Result<ListTargetsResponse, ServiceError> {
        Ok(self.list(&request))
    }

    async fn target_metadata(&self, request: TargetMetadataRequest) -> Result<TargetMetadataResponse, ServiceError> {
        let matcher = crate::matching::TargetMatcher::parse(&request.match_target)
            .map_err(|reason| ServiceError::Invalid(format!("match_target: {reason}")))?;
        let limit = usize::try_from(request.limit)
            .ok()
            .filter(|l| *l > 0)
            .unwrap_or(usize::MAX);
        let mut metadata = Vec::new();
        for (_, pool) in self.chosen("") {
            for (spec, state) in &pool.active {
                let labels: LabelsRef<'_> = spec.target.labels.as_ref();
                if !matcher.matches(labels) {
                    continue;
                }
                state.metadata.for_each(|metric, family| {
                    let wanted = request.metric.is_empty() || request.metric == metric;
                    if wanted && metadata.len() < limit {
                        metadata.push(TargetMetadata {
                            target_labels: labels.as_bytes().to_vec().into(),
                            metric: metric.to_owned(),
                            r#type: family.kind.as_str().to_owned(),
                            help: family.help.clone(),
                            unit: family.unit.clone(),
                        });
                    }
                });
            }
        }
        Ok(TargetMetadataResponse { metadata })
    }
}
