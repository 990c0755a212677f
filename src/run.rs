//! One process: its roles started in order, and stopped in reverse.
//!
//! ```text
//! configuration -> listeners -> bucket -> node (identity, groups, metadata) -> ingester -> router -> scraper,
//! compactor -> gRPC -> querier and HTTP -> ready
//! ```
//!
//! A role that does not run here is reached through the directory; no role can tell the difference.

mod config;
mod grpc;
mod members;
mod roles;
mod web;

use crate::flags::Settings;
use crate::http;
use crate::lifecycle::Lifecycle;
use crate::status::Status;
use anyhow::Context as _;
use gnomon_cluster::node::{NodeHandle, NodeOptions, start_node};
use gnomon_model::{Clock, SystemClock};
use gnomon_tsdb::bucket::Bucket;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long stopping may take before the process ends all the same; what is acknowledged is in the log anyway.
const STOP_WITHIN: Duration = Duration::from_secs(4);

/// What every part of the process is given.
struct Process {
    settings: Settings,
    flags: BTreeMap<String, String>,
    clock: Arc<dyn Clock>,
    registry: prometheus::Registry,
    status: Arc<Status>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Runs until a signal or `/-/quit` ends it.
///
/// # Errors
/// What kept the process from starting, or ended it.
pub fn run(settings: Settings, flags: BTreeMap<String, String>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("gnomon")
        .build()?;
    let result = runtime.block_on(start(settings, flags));
    // A thread that is stuck in a disk's hands must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(500));
    result
}

async fn start(settings: Settings, flags: BTreeMap<String, String>) -> anyhow::Result<()> {
    let clock = SystemClock::shared();
    let registry = prometheus::Registry::new();
    let mut roles = settings.roles.names();
    if settings.roles == crate::flags::Roles::ALL {
        roles.insert(0, "all".into());
    }
    let process = Process {
        status: Arc::new(Status::new(clock.now(), settings.retention_text(), roles)),
        stop: CancellationToken::new(),
        tasks: TaskTracker::new(),
        settings,
        flags,
        clock,
        registry,
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        target = process.settings.roles.names().join(","),
        "starting gnomon"
    );
    let config = config::first(&process)?;
    web::check_web_config(&process.settings)?;
    let (reloads, wishes) = mpsc::channel(8);
    let lifecycle = Lifecycle {
        enabled: process.settings.enable_lifecycle,
        reloads,
        stop: process.stop.clone(),
    };
    lifecycle.listen_to_signals().context("cannot listen to signals")?;
    let listeners = Listeners::bind(&process.settings).await?;
    let bucket = Bucket::open(
        process.settings.object_store.as_deref(),
        &process.settings.data_dir.join("bucket"),
    )?;
    let node = start_node(process.node_options(&listeners, &bucket)?).await?;
    let running = roles::start(&process, &node, &bucket, &config).await?;
    let mut servers = grpc::serve(&process, &node, &running, listeners.grpc);
    let routes = web::routes(&process, &node, &bucket, &running, lifecycle)?;
    for (listener, address) in listeners.http {
        let serving = http::serve(listener, routes.clone(), process.stop.clone());
        servers.spawn(serving);
        tracing::info!(%address, "listening");
    }
    config::in_force(&process, &node, &running, config, wishes).await?;
    process.status.set_ready();
    tracing::info!("ready to serve");
    announce(&process, &listeners.addresses);
    let ended = tokio::select! {
        () = process.stop.cancelled() => Ok(()),
        Some(ended) = servers.join_next() => ended.unwrap_or_else(|e| Err(e.into())),
    };
    stop(&process, node, running, servers).await;
    ended
}

fn announce(process: &Process, addresses: &[std::net::SocketAddr]) {
    if process.settings.roles.querier
        && let Some(address) = addresses.first()
    {
        let host = if address.ip().is_unspecified() {
            "127.0.0.1".to_owned()
        } else {
            address.ip().to_string()
        };
        println!(
            "gnomon is ready: http://{host}:{}{}",
            address.port(),
            process.settings.route_prefix
        );
    }
}

async fn stop(
    process: &Process,
    node: NodeHandle,
    running: roles::Running,
    mut servers: tokio::task::JoinSet<anyhow::Result<()>>,
) {
    process.stop.cancel();
    process.status.set_waiting_for("the node is stopping");
    let stopping = async {
        running.stop().await;
        while servers.join_next().await.is_some() {}
        process.tasks.close();
        process.tasks.wait().await;
        node.shutdown().await;
    };
    match tokio::time::timeout(STOP_WITHIN, stopping).await {
        Ok(()) => tracing::info!("stopped"),
        Err(_) => tracing::warn!("stopping took too long: the next start replays more of the log"),
    }
}

struct Listeners {
    http: Vec<(TcpListener, std::net::SocketAddr)>,
    addresses: Vec<std::net::SocketAddr>,
    grpc: TcpListener,
    grpc_address: std::net::SocketAddr,
}

impl Listeners {
    async fn bind(settings: &Settings) -> anyhow::Result<Self> {
        let mut bound = Vec::new();
        for address in &settings.listen_addresses {
            let listener = http::bind(address, "--web.listen-address").await?;
            let address = listener.local_addr()?;
            bound.push((listener, address));
        }
        let grpc = http::bind(&settings.grpc_listen_address, "--cluster.listen-address").await?;
        Ok(Self {
            addresses: bound.iter().map(|(_, a)| *a).collect(),
            http: bound,
            grpc_address: grpc.local_addr()?,
            grpc,
        })
    }
}

impl Process {
    fn node_options(&self, listeners: &Listeners, bucket: &Bucket) -> anyhow::Result<NodeOptions> {
        let settings = &self.settings;
        let own = listeners.grpc_address;
        let address = match &settings.advertise_address {
            Some(address) => address.clone(),
            None if own.ip().is_unspecified() && !settings.peers.is_empty() => {
                format!("{}:{}", hostname(), own.port())
            }
            None if own.ip().is_unspecified() => format!("127.0.0.1:{}", own.port()),
            None => own.to_string(),
        };
        std::fs::create_dir_all(&settings.data_dir)
            .with_context(|| format!("data folder {}", settings.data_dir.display()))?;
        let mut options = NodeOptions::new(
            settings.data_dir.clone(),
            Arc::clone(bucket.store()),
            settings.roles.names(),
            address,
            Arc::clone(&self.clock),
            self.registry.clone(),
        );
        bucket.url().clone_into(&mut options.bucket_name);
        options.peers.clone_from(&settings.peers);
        options.zone.clone_from(&settings.zone);
        env!("CARGO_PKG_VERSION").clone_into(&mut options.version);
        options.shards = settings.shards;
        options.flush_log_bytes = settings.flush_bytes;
        options.stop = self.stop.clone();
        Ok(options)
    }
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}
