//! The role against real servers on loopback.

mod answers;
mod hostile;
mod reload;
mod tls;

use super::*;
use crate::config::{ScrapeConfig, TargetGroup};
use crate::testing::{self, OwnedTick, RecordingSink, Server};
use gnomon_model::{Labels, SystemClock};
use gnomon_proto::v1::{ActiveTarget, ListTargetsRequest, ListTargetsResponse};

const INTERVAL: Duration = Duration::from_millis(150);

/// A scraper with a sink that keeps what it gets.
struct Rig {
    scraper: Scraper,
    sink: Arc<RecordingSink>,
    members: watch::Sender<Members>,
    registry: prometheus::Registry,
}

impl Rig {
    fn new() -> Self {
        let sink = RecordingSink::shared();
        let (members, receiver) = watch::channel(Members {
            term: 1,
            nodes: vec![NodeId(1)],
            since_ms: Vec::new(),
        });
        let registry = prometheus::Registry::new();
        let scraper = Scraper::start(ScraperOptions {
            carrier: Arc::new(crate::client::Http),
            node: NodeId(1),
            clock: SystemClock::shared(),
            sink: Arc::clone(&sink) as Arc<dyn TickSink>,
            registry: registry.clone(),
            members: receiver,
            tenant: TenantId::anonymous(),
            timestamp_tolerance: None,
            external: None,
            buffer: BufferOptions {
                memory_bytes: 1 << 20,
                ..BufferOptions::none()
            },
            cancel: CancellationToken::new(),
        })
        .unwrap();
        Self {
            scraper,
            sink,
            members,
            registry,
        }
    }

    /// Scrapes one target as configured.
    async fn scraping(config: ScrapeConfig) -> Self {
        let rig = Self::new();
        rig.apply([config]).await;
        rig
    }

    async fn apply(&self, configs: impl IntoIterator<Item = ScrapeConfig>) {
        let configs = configs.into_iter().map(Arc::new).collect();
        self.scraper.apply_config(configs).await.unwrap();
    }

    fn list(&self) -> ListTargetsResponse {
        self.scraper.status().list(&ListTargetsRequest {
            scrape_pool: String::new(),
            active: true,
            dropped: true,
            counts: true,
        })
    }

    /// Waits for a scrape that failed; the target as it is shown then.
    async fn failed(&self) -> ActiveTarget {
        let tick = self.sink.wait_for("up 0", |t| t.value("up") == Some(0.0)).await;
        assert!(tick.complete);
        assert_eq!(tick.samples.len(), 5, "a failed scrape has the report series only");
        let list = self.list();
        for health in ["unknown", "up", "down"] {
            let shown = list.active.iter().filter(|target| target.health == health).count();
            let counted: Vec<_> = list.counts.iter().filter(|count| count.health == health).collect();
            assert!(
                counted.len() == 1 && counted[0].targets == shown as u64,
                "{health}: {list:?}"
            );
        }
        let active = list.active;
        active
            .into_iter()
            .find(|t| t.health == "down")
            .expect("a target that is down")
    }

    async fn good(&self) -> OwnedTick {
        self.sink.wait_for("up 1", |t| t.value("up") == Some(1.0)).await
    }

    fn counter(&self, name: &str) -> f64 {
        self.counter_of(name, "")
    }

    /// Of those with this label value; of all where it is empty.
    fn counter_of(&self, name: &str, value: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|f| f.name() == name);
        let metrics = family.map(|f| f.get_metric()).into_iter().flatten();
        let all = metrics.filter(|m| value.is_empty() || m.get_label().iter().any(|l| l.value() == value));
        all.map(|m| m.get_counter().get_value()).sum()
    }
}

fn job(address: &str) -> ScrapeConfig {
    named("job", &[address])
}

fn named(name: &str, addresses: &[&str]) -> ScrapeConfig {
    let mut config = testing::config(name);
    config.scrape_interval = INTERVAL;
    config.scrape_timeout = Duration::from_millis(140);
    config.static_configs = vec![TargetGroup {
        targets: addresses.iter().map(|a| (*a).to_owned()).collect(),
        labels: Labels::empty(),
        source: "0".to_owned(),
    }];
    config
}
