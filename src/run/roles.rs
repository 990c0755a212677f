//! The roles that run here.

use super::ingester::Ingester;
use super::{Process, members};
use crate::config::Config;
use anyhow::Context as _;
use gnomon_cluster::clients::LocalServices;
use gnomon_cluster::node::NodeHandle;
use gnomon_cluster::router::{Router, RouterOptions};
use gnomon_ingester::WriteOptions;
use gnomon_model::TenantId;
use gnomon_proto::service::TargetsService;
use gnomon_scraper::{Scraper, ScraperOptions, TickSink};
use gnomon_tsdb::bucket::Bucket;
use std::sync::Arc;

/// What was started; none for a role that runs elsewhere.
pub(super) struct Running {
    pub(super) ingester: Option<Ingester>,
    pub(super) scraper: Option<Arc<Scraper>>,
    pub(super) router: Arc<Router>,
}

impl Running {
    /// In the order in which samples flow.
    pub(super) async fn stop(&self) {
        if let Some(scraper) = &self.scraper {
            scraper.stop().await;
        }
        if let Some(ingester) = &self.ingester {
            ingester.stop().await;
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
        Some(own) => Some(Ingester::start(process, node, own, write_options(config)).await?),
        None => None,
    };
    let mut local = LocalServices::default();
    if let Some(ingester) = &ingester {
        local.shard_write = Some(ingester.shards.clone());
        local.shard_read = Some(ingester.shards.clone());
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
    Ok(Running {
        ingester,
        scraper,
        router,
    })
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
