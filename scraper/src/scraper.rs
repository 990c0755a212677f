//! The role: pools made to agree with the configuration, the ring and discovery.

use crate::buffer::{Buffer, BufferMetrics, BufferOptions};
use crate::client::{Carrier, ClientError};
use crate::config::ScrapeConfig;
use crate::discovery::Discovery;
use crate::hand_over::{Owners, after_leave, ahead};
use crate::metrics::ScraperMetrics;
use crate::pool::Pool;
use crate::ring::Members;
use crate::scrape::{PoolOptions, ScrapeEnv, TickSink};
use crate::status::{ExternalUrl, Status};
use gnomon_model::{Clock, NodeId, TenantId};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

/// Changes of the ring and of discovery that come together are acted on together.
const SETTLE: Duration = Duration::from_millis(50);
/// How long a new configuration waits for files with targets: those of files that take longer come when they are read.
const FIRST_READS: Duration = Duration::from_secs(5);
/// Ticks that are due just before a hand-over may begin so much later, on a machine that does much else.
const LAST_TICKS: Duration = Duration::from_millis(200);

/// What a scraper needs.
pub struct ScraperOptions {
    /// This node, as it stands in the ring.
    pub node: NodeId,
    pub clock: Arc<dyn Clock>,
    /// The network in production.
    pub carrier: Arc<dyn Carrier>,
    pub sink: Arc<dyn TickSink>,
    pub registry: prometheus::Registry,
    /// The scrapers that are alive.
    pub members: watch::Receiver<Members>,
    pub tenant: TenantId,
    /// None is Prometheus' 2 ms. At most a hundredth of the interval in any case.
    pub timestamp_tolerance: Option<Duration>,
    /// Stands for loopback addresses in `globalUrl`; none leaves them.
    pub external: Option<ExternalUrl>,
    /// For scrapes whose shards are slow or away.
    pub buffer: BufferOptions,
    /// Ends everything.
    pub cancel: CancellationToken,
}

/// The configuration that the scraper goes by: jobs with unique names.
pub type ScrapeConfigs = Vec<Arc<ScrapeConfig>>;

/// Why a configuration was not applied; nothing of it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    #[error("error creating new scrape pool for job {job:?}: {source}")]
    Client { job: String, source: ClientError },
    #[error("the scraper has stopped")]
    Stopped,
}

/// A configuration to be prepared. Told whether it can be; switched to once `go` says so, dropped with it.
struct Apply {
    configs: ScrapeConfigs,
    prepared: oneshot::Sender<Result<(), ApplyError>>,
    go: oneshot::Receiver<oneshot::Sender<()>>,
}

/// A configuration with which nothing can go wrong any more; without [`Self::switch`] everything stays as it was.
/// Discovery and the ring wait meanwhile, scrapes do not.
pub struct PreparedConfig {
    go: oneshot::Sender<oneshot::Sender<()>>,
}

impl PreparedConfig {
    /// Takes it into force; returns when it is.
    ///
    /// # Errors
    /// When the scraper has stopped.
    pub async fn switch(self) -> Result<(), ApplyError> {
        let (done, switched) = oneshot::channel();
        self.go.send(done).map_err(|_| ApplyError::Stopped)?;
        switched.await.map_err(|_| ApplyError::Stopped)
    }
}

/// A scraper that runs.
pub struct Scraper {
    apply: mpsc::Sender<Apply>,
    leave: mpsc::Sender<i64>,
    /// Until when it makes ticks for those who came last.
    given_until_ms: Arc<AtomicI64>,
    clock: Arc<dyn Clock>,
    status: Arc<Status>,
    buffer: Arc<Buffer>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

impl Scraper {
    /// Starts without any job; [`Scraper::apply_config`] gives it some.
    ///
    /// # Errors
    /// When the registry has a scraper's metrics already.
    pub fn start(options: ScraperOptions) -> Result<Self, prometheus::Error> {
        let metrics = Arc::new(ScraperMetrics::register(&options.registry)?);
        let cancel = options.cancel.child_token();
        let tasks = TaskTracker::new();
        let buffer = Arc::new(Buffer::new(
            options.buffer,
            Arc::clone(&options.sink),
            Arc::clone(&options.clock),
            BufferMetrics::register(&options.registry)?,
        ));
        buffer.start(&cancel, &tasks);
        let status = Arc::new(Status::new(options.external, Arc::clone(&buffer)));
        let (apply, applied) = mpsc::channel(1);
        let (changed, changes) = mpsc::unbounded_channel();
        let env = ScrapeEnv::new(
            options.clock,
            options.carrier,
            options.sink,
            Arc::clone(&metrics),
            Arc::clone(&buffer),
            options.tenant,
            options.timestamp_tolerance,
        );
        let owners = Owners::new(options.node, options.members.borrow().clone());
        let (leave, leaves) = mpsc::channel(1);
        let given_until_ms = Arc::new(AtomicI64::new(0));
        let clock = Arc::clone(&env.clock);
        let manager = Manager {
            env: Arc::new(env),
            owners,
            pools: BTreeMap::new(),
            is_configured: false,
            status: Arc::clone(&status),
            changed,
            given_until_ms: Arc::clone(&given_until_ms),
            cancel: cancel.clone(),
            tasks: tasks.clone(),
        };
        tasks.spawn(manager.run(applied, changes, options.members, leaves));
        Ok(Self {
            apply,
            leave,
            given_until_ms,
            clock,
            status,
            buffer,
            cancel,
            tasks,
        })
    }

    /// Makes the jobs those of `configs`. Targets that stay, with the same options, are not disturbed.
    ///
    /// # Errors
    /// When a job's HTTP client cannot be made: then everything stays as it was.
    pub async fn apply_config(&self, configs: ScrapeConfigs) -> Result<(), ApplyError> {
        self.prepare_config(configs).await?.switch().await
    }

    /// The first half of [`Self::apply_config`]: does everything that can fail, and changes nothing yet.
    ///
    /// # Errors
    /// When a job's HTTP client cannot be made.
    pub async fn prepare_config(&self, configs: ScrapeConfigs) -> Result<PreparedConfig, ApplyError> {
        let (prepared, answer) = oneshot::channel();
        let (go, wait) = oneshot::channel();
        let apply = Apply {
            configs,
            prepared,
            go: wait,
        };
        self.apply.send(apply).await.map_err(|_| ApplyError::Stopped)?;
        answer.await.map_err(|_| ApplyError::Stopped)??;
        Ok(PreparedConfig { go })
    }

    /// Targets as they are; also the body of the Targets service.
    #[must_use]
    pub fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status)
    }

    /// Goes on, after the node left the ring at `left_ms` (milliseconds of the metadata group's leader; now, where that is not
    /// known: it may have left all the same), until its targets are others': returns a little after that, some three seconds
    /// later at most. No configuration is applied any more.
    pub async fn hand_over(&self, left_ms: Option<i64>) {
        let now_ms = self.clock.now().0;
        let until_ms = after_leave(left_ms.unwrap_or(now_ms));
        if let Some(until_ms) = ahead(Some(until_ms), now_ms)
            && self.leave.send(until_ms).await.is_ok()
        {
            let given_ms = ahead(Some(self.given_until_ms.load(Ordering::Relaxed)), now_ms);
            let last_ms = given_ms.map_or(until_ms, |given| given.max(until_ms));
            let left_ms = last_ms.saturating_sub(now_ms).unsigned_abs();
            tokio::time::sleep(Duration::from_millis(left_ms) + LAST_TICKS).await;
        }
    }

    /// Ends all loops; scrapes under way get two seconds. What waits for its shards goes to disk.
    pub async fn stop(&self) {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        self.buffer.close().await;
    }
}

struct Manager {
    env: Arc<ScrapeEnv>,
    owners: Owners,
    pools: BTreeMap<String, Pool>,
    /// A configuration is or was in force.
    is_configured: bool,
    status: Arc<Status>,
    changed: mpsc::UnboundedSender<String>,
    given_until_ms: Arc<AtomicI64>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

/// How the pool of a job comes to its configuration.
enum Plan {
    Same,
    New(Arc<PoolOptions>),
    /// How targets are scraped differs.
    Change(Arc<PoolOptions>),
    /// Only how they are found does.
    Find,
}

/// One job of a new configuration.
struct Step {
    config: Arc<ScrapeConfig>,
    plan: Plan,
    /// Its sources are others than before.
    sources: bool,
}

impl Manager {
    async fn run(
        mut self,
        mut applied: mpsc::Receiver<Apply>,
        mut changes: mpsc::UnboundedReceiver<String>,
        mut members: watch::Receiver<Members>,
        mut leaves: mpsc::Receiver<i64>,
    ) {
        let cancel = self.cancel.clone();
        let mut members_live = true;
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                Some(until_ms) = leaves.recv() => {
                    self.pools.values().for_each(|pool| pool.hand_over(until_ms));
                    cancel.cancelled().await;
                    break;
                }
                apply = applied.recv() => {
                    let Some(apply) = apply else { break };
                    tokio::select! {
                        () = cancel.cancelled() => break,
                        () = self.apply(apply) => {}
                    }
                }
                changed = members.changed(), if members_live => {
                    members_live = changed.is_ok();
                    let now = members.borrow_and_update().clone();
                    self.regroup(now);
                }
                job = changes.recv() => {
                    let Some(job) = job else { break };
                    tokio::time::sleep(SETTLE).await;
                    let mut jobs = std::collections::BTreeSet::from([job]);
                    while let Ok(job) = changes.try_recv() {
                        jobs.insert(job);
                    }
                    jobs.retain(|job| self.pools.get(job).is_some_and(Pool::has_found));
                    jobs.iter().for_each(|job| self.sync(job));
                }
            }
        }
        for pool in self.pools.values() {
            pool.stop(&self.env);
        }
    }

    fn regroup(&mut self, members: Members) {
        info!(
            scrapers = members.nodes.len(),
            term = members.term,
            "target ring changed"
        );
        self.owners.change(members);
        if let Some(until_ms) = self.owners.given_until_ms() {
            self.given_until_ms.store(until_ms, Ordering::Relaxed);
        }
        let jobs: Vec<String> = self.pools.keys().cloned().collect();
        jobs.iter().for_each(|job| self.sync(job));
    }

    fn sync(&mut self, job: &str) {
        let Some(pool) = self.pools.get_mut(job) else { return };
        pool.sync(&self.env, &self.owners, &self.cancel, &self.tasks);
        self.status.set(job, pool.status());
    }

    async fn apply(&mut self, apply: Apply) {
        // Everything that can fail comes first, so that a failure changes nothing.
        let steps = self.steps(apply.configs).await;
        let (steps, outcome) = match steps {
            Ok(steps) => (steps, Ok(())),
            Err(error) => (Vec::new(), Err(error)),
        };
        let failed = outcome.is_err();
        // Where nobody waits for it any more, nobody says go.
        if apply.prepared.send(outcome).is_err() || failed {
            return;
        }
        if let Ok(done) = apply.go.await {
            self.switch(steps).await;
            let _ = done.send(());
        }
    }

    async fn steps(&self, configs: ScrapeConfigs) -> Result<Vec<Step>, ApplyError> {
        // Together: a job whose files are on a disk that hangs keeps the others waiting once.
        futures::future::try_join_all(configs.into_iter().map(|config| self.plan(config))).await
    }

    async fn switch(&mut self, steps: Vec<Step>) {
        self.is_configured = true;
        let jobs: Vec<&str> = steps.iter().map(|s| s.config.job_name.as_str()).collect();
        let gone: Vec<String> = self
            .pools
            .keys()
            .filter(|j| !jobs.contains(&j.as_str()))
            .cloned()
            .collect();
        for job in gone {
            if let Some(pool) = self.pools.remove(&job) {
                pool.stop(&self.env);
                self.status.remove(&job);
            }
        }
        let mut found: Vec<Option<Discovery>> = steps.iter().map(|step| self.discovery(step)).collect();
        let all = futures::future::join_all(found.iter_mut().flatten().map(Discovery::found));
        if tokio::time::timeout(FIRST_READS, all).await.is_err() {
            warn!("files with targets are not read yet, and the configuration goes into force without their targets");
        }
        for (step, discovery) in steps.into_iter().zip(found) {
            self.take(step, discovery);
            // Many jobs are much work.
            tokio::task::yield_now().await;
        }
    }

    /// The job's sources, started, where they are others than before.
    fn discovery(&self, step: &Step) -> Option<Discovery> {
        step.sources
            .then(|| Discovery::start(&step.config, &self.env.metrics, &self.changed, &self.cancel))
    }

    async fn plan(&self, config: Arc<ScrapeConfig>) -> Result<Step, ApplyError> {
        let pool = self.pools.get(&config.job_name);
        let old = pool.map(Pool::config);
        let sources = old.is_none_or(|old| {
            old.static_configs != config.static_configs || old.file_sd_configs != config.file_sd_configs
        });
        let plan = match old {
            Some(old) if **old == *config => Plan::Same,
            Some(old) if scraped_alike(old, &config) => Plan::Find,
            Some(_) => Plan::Change(self.options(&config, &self.env.metrics.pool_reloads_failed).await?),
            None => Plan::New(self.options(&config, &self.env.metrics.pools_failed).await?),
        };
        Ok(Step { config, plan, sources })
    }

    async fn options(
        &self,
        config: &Arc<ScrapeConfig>,
        failures: &prometheus::IntCounter,
    ) -> Result<Arc<PoolOptions>, ApplyError> {
        // Nothing is in force before the first configuration: the other jobs are not to wait for a secret that is mounted late.
        // Nor are their changes to be refused for one that is missing anyway.
        let present = self.pools.get(&config.job_name);
        let lacks_them = present.is_some_and(|pool| pool.lacks_files() && pool.config().http.tls == config.http.tls);
        let made = match self.is_configured && !lacks_them {
            true => PoolOptions::new(Arc::clone(config)).await,
            false => match PoolOptions::whatever_files(Arc::clone(config)).await {
                Ok((options, Some(error))) => {
                    failures.inc();
                    error!(job = %config.job_name, %error, "the job's targets are down until its files are good");
                    Ok(options)
                }
                Ok((options, None)) => Ok(options),
                Err(error) => Err(error),
            },
        };
        made.map(Arc::new).map_err(|source| {
            failures.inc();
            ApplyError::Client {
                job: config.job_name.clone(),
                source,
            }
        })
    }

    fn take(&mut self, step: Step, discovery: Option<Discovery>) {
        if matches!(step.plan, Plan::Same) {
            return;
        }
        let job = step.config.job_name.clone();
        match (self.pools.get_mut(&job), step.plan, discovery) {
            (Some(pool), plan, discovery) => {
                if let Some(discovery) = discovery {
                    pool.replace_discovery(discovery);
                }
                match plan {
                    Plan::Change(options) | Plan::New(options) => pool.replace_options(options),
                    Plan::Find | Plan::Same => pool.replace_config(step.config),
                }
                self.env.metrics.pool_reloads.inc();
            }
            (None, Plan::New(options) | Plan::Change(options), Some(discovery)) => {
                self.pools.insert(job.clone(), Pool::new(options, discovery));
                self.env.metrics.pools.inc();
            }
            (None, _, _) => {}
        }
        self.sync(&job);
    }
}

/// Whether two configurations of a job differ at most in how targets are found.
fn scraped_alike(old: &ScrapeConfig, new: &ScrapeConfig) -> bool {
    let mut found_alike = old.clone();
    found_alike.static_configs = new.static_configs.clone();
    found_alike.file_sd_configs = new.file_sd_configs.clone();
    found_alike.relabel_configs = Arc::clone(&new.relabel_configs);
    found_alike == *new
}

#[cfg(test)]
mod tests;
