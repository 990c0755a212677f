//! The roles that run here.

use super::Process;
use crate::config::Config;
use crate::flags::Settings;
use anyhow::Context as _;
use gnomon_cluster::assign::replicas_of;
use gnomon_cluster::clients::LocalServices;
use gnomon_cluster::node::{IngesterNode, LEASE, NodeHandle};
use gnomon_cluster::retention::Budget;
use gnomon_cluster::router::{Router, RouterOptions};
use gnomon_compactor::plan::Policy;
use gnomon_compactor::{Compactor, Grace};
use gnomon_ingester::entry::Limits;
use gnomon_ingester::otlp::{Otlp, OtlpOptions, OtlpSettings};
use gnomon_ingester::{DutyOptions, HaTracker, Ingester, IngesterOptions, Intake, WINDOW_MS, WriteOptions};
use gnomon_model::{ShardId, TenantId};
use gnomon_promql::QueryMemory;
use gnomon_proto::service::TargetsService;
use gnomon_scraper::{BufferOptions, ExternalUrl, Http, Scraper, ScraperOptions, TickSink};
use gnomon_tsdb::bucket::Bucket;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A merge may not read and write more than this.
const MAX_MERGE_BYTES: u64 = 64 << 30;
/// Late parts of a window come within the out-of-order window, and a little.
const SETTLE_MS: i64 = 3_600_000;

/// What was started; none for a role that runs elsewhere.
pub(super) struct Running {
    pub(super) ingester: Option<Ingester>,
    pub(super) scraper: Option<Arc<Scraper>>,
    /// Where all receivers of samples hand them in.
    pub(super) intake: Arc<Intake>,
    /// None where it is not enabled.
    pub(super) otlp: Option<Arc<Otlp>>,
    /// Of the configuration file; a reload may change them.
    pub(super) otlp_settings: watch::Sender<Arc<OtlpSettings>>,
    compactor: TaskTracker,
}

impl Running {
    /// Gives the targets of a scraper to others, where there are some: they are scraped here until then.
    pub(super) async fn hand_over(&self, node: &NodeHandle) {
        if let Some(scraper) = &self.scraper {
            gnomon_scraper::leave(scraper, node).await;
        }
    }

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
    let budget = process.budget();
    let ingester = match &node.ingester {
        Some(own) => Some(start_ingester(process, node, own, bucket, &budget, config)?),
        None => None,
    };
    let mut local = LocalServices::default();
    if let Some(own) = &node.ingester {
        local.nodes = Some(Arc::new(own.host.clone()));
    }
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
    let compactor = start_compactor(process, node, bucket, &budget)?;
    let intake = start_intake(process, node, &router).context("metrics")?;
    let otlp_settings = watch::Sender::new(Arc::new(config.otlp.clone()));
    let otlp = ingester
        .as_ref()
        .filter(|_| process.settings.enable_otlp)
        .map(|ingester| {
            let options = OtlpOptions {
                deltas: process.settings.otlp_deltas,
                lookback_ms: process.settings.lookback_ms,
                ..OtlpOptions::default()
            };
            let (settings, clock) = (otlp_settings.subscribe(), Arc::clone(&process.clock));
            Otlp::new(Arc::clone(&intake), options, settings, ingester.metrics(), clock)
        });
    Ok(Running {
        ingester,
        scraper,
        intake,
        otlp,
        otlp_settings,
        compactor,
    })
}

/// Where samples are handed in; with HA pairs looked for where a flag says so.
fn start_intake(process: &Process, node: &NodeHandle, router: &Arc<Router>) -> prometheus::Result<Arc<Intake>> {
    let tracker = match process.settings.ha.clone() {
        Some(options) => {
            let (meta, states) = (Arc::clone(&node.meta), node.meta_watch.clone());
            let clock = Arc::clone(&process.clock);
            Some(HaTracker::new(options, meta, states, clock, &process.registry)?)
        }
        None => None,
    };
    let intake = Intake::new(Arc::clone(router), tracker);
    tokio::spawn(gnomon_ingester::fill_turns(Arc::clone(&intake), process.stop.clone()));
    Ok(intake)
}

fn start_ingester(
    process: &Process,
    node: &NodeHandle,
    own: &IngesterNode,
    bucket: &Bucket,
    budget: &Budget,
    config: &Config,
) -> anyhow::Result<Ingester> {
    let (defaults, quiet) = (DutyOptions::default(), process.settings.seal_quiet);
    let duties = DutyOptions {
        quiet,
        interval: defaults.interval.min(quiet),
        ..defaults
    };
    // What a selection copies of a head is held beside what its query holds: half as much of it.
    let memory = super::web::query_memory(&process.settings);
    let read_memory = QueryMemory::new(
        memory.total_bytes / 2,
        memory.query_bytes,
        process.settings.query_max_concurrency,
    );
    let options = IngesterOptions {
        node: node.node_id,
        host: own.host.clone(),
        meta: Arc::clone(&node.meta),
        meta_watch: node.meta_watch.clone(),
        bucket: Arc::clone(bucket.store()),
        claim: node.claim.clone(),
        budget: budget.clone(),
        clock: Arc::clone(&process.clock),
        registry: process.registry.clone(),
        write: WriteOptions {
            limits: write_limits(config),
            series: process.settings.series_limits,
            ..WriteOptions::default()
        },
        duties,
        read_memory,
        prefer_after: process.settings.prefer_after,
        feature_level: process.settings.feature_level,
        others: node.directory.others(),
        stop: process.stop.clone(),
    };
    Ok(Ingester::start(options)?)
}

/// Waits until all shards have their places, and those of this node are open. One whose stored state cannot be used keeps
/// the node from becoming ready; the log says which.
pub(super) async fn until_shards_are_open(
    process: &Process,
    node: &NodeHandle,
    ingester: &Ingester,
) -> anyhow::Result<()> {
    let (mut states, mut opened) = (node.meta_watch.clone(), ingester.opened());
    loop {
        let state = Arc::clone(&states.borrow_and_update());
        let is_placed = state.shards.iter().all(|shard| !shard.nodes.is_empty());
        let open = opened.borrow_and_update().clone();
        let is_open = replicas_of(&state, node.node_id.0).all(|shard| open.contains(&ShardId(shard.shard)));
        if is_placed && is_open {
            return Ok(());
        }
        process.status.set_waiting_for(match is_placed {
            true => "shards are opened",
            false => "the expected ingesters join (--cluster.expect)",
        });
        let changed = tokio::select! {
            changed = states.changed() => changed,
            changed = opened.changed() => changed,
        };
        changed.context("the node stopped before its shards were open")?;
    }
}

fn start_compactor(
    process: &Process,
    node: &NodeHandle,
    bucket: &Bucket,
    budget: &Budget,
) -> anyhow::Result<TaskTracker> {
    let tasks = TaskTracker::new();
    if process.settings.roles.compactor {
        let settings = gnomon_compactor::Settings {
            policy: Policy {
                window_ms: WINDOW_MS,
                retention_ms: budget.retention().time_ms,
                retention_bytes: budget.retention().size_bytes,
                max_merge_bytes: MAX_MERGE_BYTES,
                settle_ms: SETTLE_MS,
            },
            grace: Grace {
                condemned_ms: i64::try_from(process.settings.compactor_grace.as_millis()).unwrap_or(i64::MAX),
                ..Grace::default()
            },
            lease: process.settings.compactor_lease,
            interval: process.settings.compactor_interval,
            part_bytes: gnomon_tsdb::block::PART_BYTES,
        };
        let (meta, clock) = (Arc::clone(&node.meta), Arc::clone(&process.clock));
        let (bucket, budget) = (bucket.clone(), budget.clone());
        let compactor = Compactor::new(meta, node.node_id, bucket, clock, settings, budget, &process.registry)?;
        let compactor = compactor.with_claim(node.claim.clone());
        let stop = process.stop.clone();
        tasks.spawn(async move { compactor.run(stop).await });
    }
    tasks.close();
    Ok(tasks)
}

/// What the file says of late samples; at the start and at each reload.
pub(super) fn write_limits(config: &Config) -> Limits {
    let mut limits = Limits::default();
    if let Some(window) = config.storage.out_of_order_time_window {
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        limits.out_of_order_ms = window_ms;
        limits.late_ms = window_ms;
    }
    limits
}

/// As users reach this node; by its host's name where no flag says so.
fn external_url(settings: &Settings) -> Option<ExternalUrl> {
    let listen_port = settings.listen_addresses.first()?.rsplit_once(':')?.1.parse().ok()?;
    let url = match settings.external_url.as_str() {
        // A path alone, or nothing.
        path if path.is_empty() || path.starts_with('/') => {
            format!("http://{}:{listen_port}{path}", crate::status::hostname())
        }
        url => url.to_owned(),
    };
    ExternalUrl::new(&url, listen_port)
}

fn start_scraper(process: &Process, node: &NodeHandle, router: &Arc<Router>) -> anyhow::Result<Scraper> {
    let states = node.meta_watch.clone();
    let (ring, following) = gnomon_scraper::follow(states, node.node_id, LEASE, process.stop.clone());
    process.tasks.spawn(following);
    let options = ScraperOptions {
        node: node.node_id,
        clock: Arc::clone(&process.clock),
        carrier: Arc::new(Http),
        sink: Arc::clone(router) as Arc<dyn TickSink>,
        registry: process.registry.clone(),
        members: ring.members,
        tenant: TenantId::anonymous(),
        timestamp_tolerance: None,
        external: external_url(&process.settings),
        buffer: BufferOptions {
            memory_bytes: process.settings.scrape_buffer_memory,
            folder: Some(process.settings.data_dir.join("scrape-buffer")),
            disk_bytes: process.settings.scrape_buffer_disk,
            terms: ring.terms,
        },
        // It is told to stop once others have its targets.
        cancel: CancellationToken::new(),
    };
    Scraper::start(options).context("metrics")
}
