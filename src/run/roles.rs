//! The roles that run here.

use super::{Process, members};
use crate::config::Config;
use anyhow::Context as _;
use gnomon_cluster::clients::LocalServices;
use gnomon_cluster::node::{IngesterNode, NodeHandle};
use gnomon_cluster::router::{Router, RouterOptions};
use gnomon_compactor::plan::Policy;
use gnomon_compactor::{Compactor, Grace};
use gnomon_ingester::{DutyOptions, Ingester, IngesterOptions, WINDOW_MS, WriteOptions};
use gnomon_model::TenantId;
use gnomon_proto::service::TargetsService;
use gnomon_scraper::{Scraper, ScraperOptions, TickSink};
use gnomon_tsdb::bucket::Bucket;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::TaskTracker;

/// A merge may not read and write more than this.
const MAX_MERGE_BYTES: u64 = 64 << 30;
/// Late parts of a window come within the out-of-order window, and a little.
const SETTLE_MS: i64 = 3_600_000;
const COMPACTOR_CYCLE: Duration = Duration::from_secs(60);

/// What was started; none for a role that runs elsewhere.
pub(super) struct Running {
    pub(super) ingester: Option<Ingester>,
    pub(super) scraper: Option<Arc<Scraper>>,
    pub(super) router: Arc<Router>,
    compactor: TaskTracker,
}

impl Running {
    /// In the order in which samples flow.
    pub(super) async fn stop(&self) {
        if let Some(scraper) = &self.scraper {
            scraper.stop().await;
        }
        // It was told to by the process' own token.
        self.compactor.wait().await;
        if let Some(ingester) = &self.ingester {
            ingester.shutdown().await;
        }
    }
}

/// Starts what runs here; what it calls elsewhere is found through the directory.
pub(super) async fn start(
    process: &Process,
    node: &NodeHandle,
    bucket: &Bucket,
    config: &Config,
) -> anyhow::Result<Running> {
    let ingester = match &node.ingester {
        Some(own) => Some(start_ingester(process, node, own, bucket, config)?),
        None => None,
    };
    let mut local = LocalServices::default();
    if let Some(ingester) = &ingester {
        local.shard_write = Some(ingester.shards());
        local.shard_read = Some(ingester.shards());
    }
    node.directory.set_local(local.clone());
    let directory = Arc::clone(&node.directory);
    let placement = directory.placement();
    let router = Arc::new(Router::new(
        RouterOptions::default(),
        placement,
        directory,
        &process.registry,
    )?);
    let scraper = match process.settings.roles.scraper {
        true => Some(Arc::new(start_scraper(process, node, &router)?)),
        false => None,
    };
    if let Some(scraper) = &scraper {
        let targets: Arc<dyn TargetsService> = scraper.status();
        local.targets = Some(targets);
        node.directory.set_local(local);
    }
    let compactor = start_compactor(process, node, bucket)?;
    if let Some(ingester) = &ingester {
        until_shards_are_open(node, ingester).await?;
    }
    Ok(Running {
        ingester,
        scraper,
        router,
        compactor,
    })
}

fn start_ingester(
    process: &Process,
    node: &NodeHandle,
    own: &IngesterNode,
    bucket: &Bucket,
    config: &Config,
) -> anyhow::Result<Ingester> {
    let mut duties = DutyOptions::default();
    duties.quiet = process.settings.seal_quiet;
    duties.interval = duties.interval.min(duties.quiet);
    let options = IngesterOptions {
        node: node.node_id,
        host: own.host.clone(),
        meta: Arc::clone(&node.meta),
        meta_watch: node.meta_watch.clone(),
        bucket: Arc::clone(bucket.store()),
        clock: Arc::clone(&process.clock),
        registry: process.registry.clone(),
        write: write_options(config),
        duties,
        stop: process.stop.clone(),
    };
    Ok(Ingester::start(options)?)
}

/// Waits for the shards that the map gives to this node. One whose stored state cannot be used keeps the node from
/// becoming ready; the log says which.
async fn until_shards_are_open(node: &NodeHandle, ingester: &Ingester) -> anyhow::Result<()> {
    let state = Arc::clone(&node.meta_watch.borrow());
    let mine = state
        .shards
        .iter()
        .filter(|s| s.nodes.contains(&node.node_id.0))
        .count();
    let mut opened = ingester.opened();
    opened
        .wait_for(|open| *open >= mine)
        .await
        .context("the node stopped before its shards were open")?;
    Ok(())
}

fn start_compactor(process: &Process, node: &NodeHandle, bucket: &Bucket) -> anyhow::Result<TaskTracker> {
    let tasks = TaskTracker::new();
    if process.settings.roles.compactor {
        let settings = gnomon_compactor::Settings {
            policy: Policy {
                window_ms: WINDOW_MS,
                retention_ms: process.settings.retention_ms,
                retention_bytes: process.settings.retention_bytes,
                max_merge_bytes: MAX_MERGE_BYTES,
                settle_ms: SETTLE_MS,
            },
            grace: Grace::default(),
            interval: COMPACTOR_CYCLE,
        };
        let (meta, clock) = (Arc::clone(&node.meta), Arc::clone(&process.clock));
        let compactor = Compactor::new(meta, node.node_id, bucket.clone(), clock, settings, &process.registry)?;
        let stop = process.stop.clone();
        tasks.spawn(async move { compactor.run(stop).await });
    }
    tasks.close();
    Ok(tasks)
}

fn write_options(config: &Config) -> WriteOptions {
    let mut options = WriteOptions::default();
    if let Some(window) = config.storage.out_of_order_time_window {
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        options.limits.out_of_order_ms = window_ms;
        options.limits.late_ms = window_ms;
    }
    options
}

fn start_scraper(process: &Process, node: &NodeHandle, router: &Arc<Router>) -> anyhow::Result<Scraper> {
    let states = node.meta_watch.clone();
    let (members, following) = members::follow(states, Arc::clone(&process.clock), process.stop.clone());
    process.tasks.spawn(following);
    let options = ScraperOptions {
        node: node.node_id,
        clock: Arc::clone(&process.clock),
        sink: Arc::clone(router) as Arc<dyn TickSink>,
        registry: process.registry.clone(),
        members,
        tenant: TenantId::anonymous(),
        timestamp_tolerance: None,
        external_host: None,
        cancel: process.stop.clone(),
    };
    Scraper::start(options).context("metrics")
}
