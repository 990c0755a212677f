//! The configuration at the start, and reloads.

use super::Process;
use super::cluster_config::{Known, compare};
use super::roles::{Running, write_limits};
use crate::config::{Config, Reading};
use crate::flags::{CREATED_ZERO, Settings, retention_text};
use crate::lifecycle::{Lifecycle, Reload};
use crate::logging::error_text;
use anyhow::Context as _;
use gnomon_cluster::node::NodeHandle;
use gnomon_cluster::retention::Retention;
use gnomon_ingester::otlp::OtlpSettings;
use gnomon_model::relabel::RelabelConfig;
use gnomon_proto::v1::{MetaCommand, ProposeConfig, meta_command};
use gnomon_querier::ConfigInfo;
use gnomon_scraper::config::ScrapeConfig;
use parking_lot::Mutex;
use prometheus::{Gauge, IntGauge, IntGaugeVec, Opts, Registry};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// After this time the metadata group is told of a configuration that it could not be told of.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// Reads the file; says what of it has no effect.
pub(super) async fn first(process: &Process) -> anyhow::Result<Config> {
    let reading = Reading::of(process.settings.config_file.clone());
    read(&reading, &process.settings).await
}

async fn read(reading: &Reading, settings: &Settings) -> anyhow::Result<Config> {
    let config = reading.load().await?;
    if settings.config_strict {
        config.require_supported()?;
    }
    report(&config);
    Ok(config)
}

fn report(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    for unsupported in &config.unsupported {
        tracing::warn!(section = unsupported.section, "{unsupported}");
    }
}

#[derive(Clone)]
pub(super) struct Metrics {
    successful: Gauge,
    reloaded_at: Gauge,
    unsupported: IntGaugeVec,
    revision: IntGauge,
    pub(super) differs: IntGauge,
    retention_bytes: Gauge,
    retention_seconds: Gauge,
}

impl Metrics {
    fn register(registry: &Registry) -> prometheus::Result<Self> {
        let metrics = Self {
            successful: Gauge::new(
                "prometheus_config_last_reload_successful",
                "Whether the last configuration reload attempt was successful.",
            )?,
            reloaded_at: Gauge::new(
                "prometheus_config_last_reload_success_timestamp_seconds",
                "Timestamp of the last successful configuration reload.",
            )?,
            unsupported: IntGaugeVec::new(
                Opts::new(
                    "gnomon_config_unsupported_section",
                    "1 for each kind of section in the configuration that has no effect yet.",
                ),
                &["section"],
            )?,
            revision: IntGauge::new(
                "gnomon_config_revision",
                "The cluster's revision of the configuration that this process goes by.",
            )?,
            differs: IntGauge::new(
                "gnomon_config_differs",
                "Whether this process goes by a configuration that is not the cluster's: reload it.",
            )?,
            retention_bytes: Gauge::new(
                "prometheus_tsdb_retention_limit_bytes",
                "Max number of bytes to be retained in the tsdb blocks, configured 0 means disabled",
            )?,
            retention_seconds: Gauge::new(
                "prometheus_tsdb_retention_limit_seconds",
                "How long to retain samples in storage.",
            )?,
        };
        registry.register(Box::new(metrics.revision.clone()))?;
        registry.register(Box::new(metrics.differs.clone()))?;
        registry.register(Box::new(metrics.retention_bytes.clone()))?;
        registry.register(Box::new(metrics.retention_seconds.clone()))?;
        registry.register(Box::new(metrics.successful.clone()))?;
        registry.register(Box::new(metrics.reloaded_at.clone()))?;
        registry.register(Box::new(metrics.unsupported.clone()))?;
        Ok(metrics)
    }

    pub(super) fn revised(&self, revision: u64) {
        self.revision.set(i64::try_from(revision).unwrap_or(i64::MAX));
    }

    fn retained(&self, retention: Retention) {
        self.retention_bytes.set(retention.size_bytes.unwrap_or(0) as f64);
        self.retention_seconds
            .set(retention.time_ms.unwrap_or(0) as f64 / 1000.0);
    }

    fn taken(&self, config: &Config, now_ms: i64) {
        self.successful.set(1.0);
        self.reloaded_at.set(now_ms as f64 / 1000.0);
        self.unsupported.reset();
        for section in &config.unsupported {
            self.unsupported.with_label_values(&[section.section.as_str()]).set(1);
        }
    }
}

/// Who takes a configuration into force.
struct Keeper {
    metrics: Metrics,
    status: Arc<crate::status::Status>,
    clock: Arc<dyn gnomon_model::Clock>,
    meta: Arc<dyn gnomon_proto::service::MetaService>,
    scraper: Option<Arc<gnomon_scraper::Scraper>>,
    shards: Option<Arc<gnomon_ingester::Shards>>,
    settings: Settings,
    reading: Reading,
    retention: watch::Sender<Retention>,
    otlp: watch::Sender<Arc<OtlpSettings>>,
    /// Of the texts of the configuration in force.
    checksum: watch::Sender<u128>,
    known: watch::Sender<Known>,
    /// What the cluster has not heard of yet.
    waiting: Mutex<Option<ProposeConfig>>,
}

impl Keeper {
    /// What is scraped, as the flags have it.
    fn jobs(&self, config: &Config) -> Vec<Arc<ScrapeConfig>> {
        let jobs = config.scrape_configs.iter();
        if self.settings.features.contains(CREATED_ZERO) {
            jobs.map(|job| Arc::new(job.with_zero_at_created())).collect()
        } else {
            jobs.cloned().collect()
        }
    }

    /// Prepares it, so that nothing can go wrong any more; makes it a revision of the cluster; and switches to it at
    /// that commit.
    async fn take(&self, config: &Config, explicit: bool) -> anyhow::Result<()> {
        let prepared = match &self.scraper {
            Some(scraper) => Some(scraper.prepare_config(self.jobs(config)).await?),
            None => None,
        };
        self.propose(config, explicit, self.clock.now().0).await;
        if let Some(prepared) = prepared {
            prepared.switch().await?;
        }
        if let Some(shards) = &self.shards {
            shards.set_limits(write_limits(config));
        }
        self.otlp.send_replace(Arc::new(config.otlp.clone()));
        self.take_retention(self.settings.retention(&config.storage));
        self.checksum.send_replace(config.checksum());
        let now = self.clock.now();
        self.metrics.taken(config, now.0);
        let evaluation = config.global.evaluation_interval.as_millis();
        self.status.set_config(ConfigInfo {
            external_labels: config.global.external_labels.clone(),
            yaml: config.redacted_yaml().to_owned(),
            reload_successful: true,
            reloaded_at_ms: now.0,
            evaluation_interval_ms: i64::try_from(evaluation).unwrap_or(0),
            relabelling: Arc::new(config.scrape_configs.iter().map(relabelling).collect()),
        });
        Ok(())
    }

    /// The ingester and the compactor follow.
    fn take_retention(&self, retention: Retention) {
        self.metrics.retained(retention);
        self.status.set_storage_retention(retention_text(retention));
        let changed = self.retention.send_if_modified(|in_force| {
            let changed = *in_force != retention;
            *in_force = retention;
            changed
        });
        if changed {
            tracing::info!(retention = retention_text(retention), "retention changed");
        }
    }

    /// Makes the configuration a numbered revision of the cluster. That the metadata group cannot be asked now does
    /// not undo what this node goes by.
    async fn propose(&self, config: &Config, explicit: bool, from_ms: i64) {
        let proposal = ProposeConfig {
            content_hash: format!("{:032x}", xxhash_rust::xxh3::xxh3_128(config.identity().as_bytes())),
            redacted_yaml: config.redacted_yaml().to_owned(),
            from_ms,
            explicit,
        };
        self.ask(proposal).await;
    }

    async fn ask(&self, proposal: ProposeConfig) {
        self.known.send_modify(|known| known.asking = true);
        let mut known = Known {
            content_hash: proposal.content_hash.clone(),
            revision: 0,
            is_clusters: true,
            asking: false,
        };
        let command = MetaCommand {
            proposed_at_ms: 0,
            command: Some(meta_command::Command::ProposeConfig(proposal.clone())),
        };
        let mut waiting = None;
        match self.meta.propose(command).await {
            Ok(answer) if answer.refused.is_empty() => {
                known.revision = answer.config_revision;
                self.metrics.revised(answer.config_revision);
                tracing::info!(revision = answer.config_revision, "configuration in force");
            }
            Ok(answer) => {
                known.is_clusters = false;
                tracing::warn!(why = answer.refused, "this node's configuration is not the cluster's");
            }
            Err(error) => {
                tracing::warn!(%error, "the configuration's revision is not known; asking again in {ASK_AGAIN:?}");
                waiting = Some(proposal);
            }
        }
        *self.waiting.lock() = waiting;
        self.metrics.differs.set(i64::from(!known.is_clusters));
        self.known.send_replace(known);
    }

    /// What the metadata group could not be asked of late.
    async fn ask_again(&self) {
        let waiting = self.waiting.lock().take();
        if let Some(proposal) = waiting {
            self.ask(proposal).await;
        }
    }

    fn waits(&self) -> bool {
        self.waiting.lock().is_some()
    }
}

/// Takes the first configuration into force, and from then on each one that is asked for. The checksum of the one in force.
pub(super) async fn in_force(
    process: &Process,
    node: &NodeHandle,
    running: &Running,
    config: Config,
    mut wishes: mpsc::Receiver<Reload>,
) -> anyhow::Result<watch::Receiver<u128>> {
    let keeper = Keeper {
        metrics: Metrics::register(&process.registry).context("metrics")?,
        status: Arc::clone(&process.status),
        clock: Arc::clone(&process.clock),
        meta: Arc::clone(&node.meta),
        scraper: running.scraper.clone(),
        shards: running.ingester.as_ref().map(gnomon_ingester::Ingester::shards),
        settings: process.settings.clone(),
        reading: Reading::of(process.settings.config_file.clone()),
        retention: process.retention.clone(),
        otlp: running.otlp_settings.clone(),
        checksum: watch::Sender::new(config.checksum()),
        known: watch::Sender::new(Known::default()),
        waiting: Mutex::default(),
    };
    let checksum = keeper.checksum.subscribe();
    keeper.take(&config, false).await?;
    let (metrics, status) = (keeper.metrics.clone(), Arc::clone(&keeper.status));
    let (known, states) = (keeper.known.subscribe(), node.meta_watch.clone());
    process
        .tasks
        .spawn(compare(metrics, status, known, states, process.stop.clone()));
    let stop = process.stop.clone();
    process.tasks.spawn(async move {
        loop {
            let wish = tokio::select! {
                () = stop.cancelled() => return,
                wish = wishes.recv() => wish,
                () = tokio::time::sleep(ASK_AGAIN), if keeper.waits() => {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = keeper.ask_again() => continue,
                    }
                }
            };
            let Some(wish) = wish else { return };
            let result = reload(&keeper).await.map_err(|error| error_text(error.as_ref()));
            match &result {
                Ok(()) => tracing::info!(file = %keeper.settings.config_file.display(), "configuration reloaded"),
                Err(error) => {
                    keeper.metrics.successful.set(0.0);
                    keeper.status.reload_failed();
                    tracing::error!(error, "reload refused, the old configuration goes on");
                }
            }
            // Whoever asked may have gone.
            let _ = wish.send(result);
        }
    });
    Ok(checksum)
}

/// `--enable-feature=auto-reload-config`: reads the configuration every so often, and asks for a reload where it is another
/// than the one in force, or cannot be read. As in Prometheus, what is refused is tried again.
pub(super) fn follow(process: &Process, lifecycle: Lifecycle, in_force: watch::Receiver<u128>) {
    let Some(every) = process.settings.auto_reload else {
        return;
    };
    let (reading, stop) = (Reading::of(process.settings.config_file.clone()), process.stop.clone());
    process.tasks.spawn(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
            let checksum = reading.load().await.ok().map(|config| config.checksum());
            if checksum != Some(*in_force.borrow()) {
                // What came of it is logged where the reload is done.
                let _ = lifecycle.reload().await;
            }
        }
    });
}

/// The name of a scrape pool, and its rules for targets.
fn relabelling(job: &Arc<ScrapeConfig>) -> (String, Arc<[RelabelConfig]>) {
    (job.job_name.clone(), Arc::clone(&job.relabel_configs))
}

async fn reload(keeper: &Keeper) -> anyhow::Result<()> {
    let config = read(&keeper.reading, &keeper.settings).await?;
    keeper.take(&config, true).await
}
