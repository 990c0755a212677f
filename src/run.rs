//! One process: its roles started in order, and stopped in reverse.
//!
//! ```text
//! configuration -> listeners -> bucket -> HTTP (health only) -> node (identity, groups, metadata) -> ingester ->
//! router -> scraper, compactor -> gRPC -> shards are open -> querier and all of HTTP -> ready
//! ```
//!
//! A role that does not run here is reached through the directory; no role can tell the difference.

mod cluster_config;
mod config;
mod grpc;
mod roles;
mod web;
mod writers;

use crate::flags::Settings;
use crate::http;
use crate::leave;
use crate::lifecycle::{Lifecycle, Reload};
use crate::logging;
use crate::output;
use crate::status::{Status, hostname};
use anyhow::Context as _;
use gnomon_cluster::node::{Claim, NodeHandle, NodeOptions, start_node};
use gnomon_cluster::retention::{Budget, OwnBytes, Retention};
use gnomon_cluster::tls::{ClusterTls, HandshakeMetrics};
use gnomon_model::{Clock, SystemClock};
use gnomon_querier::{Notifications, ResultCache};
use gnomon_tsdb::bucket::Bucket;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long stopping may take before the process ends all the same; what is acknowledged is in the log anyway.
const STOP_WITHIN: Duration = Duration::from_secs(4);

/// How long a process waits for an ingester to join: it answers health checks meanwhile, and is not ready.
const JOIN_WITHIN: Duration = Duration::from_secs(600);

/// How often memory that was freed goes back to the system.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(30);

/// What every part of the process is given.
struct Process {
    settings: Settings,
    flags: BTreeMap<String, String>,
    clock: Arc<dyn Clock>,
    registry: prometheus::Registry,
    status: Arc<Status>,
    handshakes: HandshakeMetrics,
    /// What nodes show each other; none is plain text.
    cluster_tls: Option<Arc<ClusterTls>>,
    /// What is in force; a reload may change it.
    retention: watch::Sender<Retention>,
    /// Cancelled once others have what is handed over.
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
    let result = runtime.block_on(until_stopped(settings, flags));
    // A thread that is stuck in a disk's hands must not keep the process.
    runtime.shutdown_timeout(Duration::from_millis(500));
    result
}

async fn until_stopped(settings: Settings, flags: BTreeMap<String, String>) -> anyhow::Result<()> {
    let (lifecycle, wishes) = Lifecycle::new(settings.enable_lifecycle);
    lifecycle.listen_to_signals().context("cannot listen to signals")?;
    let (stop, drain_on_stop) = (lifecycle.stop.clone(), settings.drain_on_stop);
    let mut node = match Node::start(settings, flags, lifecycle.clone(), wishes).await {
        Err(error) if stop.is_cancelled() => {
            tracing::info!(state = logging::error_text(error.as_ref()), "stopped while starting");
            return Ok(());
        }
        started => started?,
    };
    node.announce();
    tokio::spawn(give_back_memory(stop));
    if drain_on_stop.is_some() {
        lifecycle.leave_on_term();
    }
    let ended = node.ended(&lifecycle, drain_on_stop.unwrap_or_default()).await;
    // The next signal ends it at once.
    lifecycle.stop.cancel();
    node.stop().await;
    ended
}

/// What flushes and queries have freed lies between what stays.
async fn give_back_memory(stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(GIVE_BACK_EVERY) => {}
        }
        if tokio::task::spawn_blocking(gnomon_malloc::give_back).await.is_err() {
            return;
        }
    }
}

/// A node with all roles that run in this process, ready.
pub struct Node {
    process: Process,
    handle: NodeHandle,
    running: roles::Running,
    servers: JoinSet<anyhow::Result<()>>,
    addresses: Vec<SocketAddr>,
    /// Serves HTTPS.
    is_secure: bool,
}

impl Node {
    /// Starts what `settings` say; returns once it is ready. Several nodes can run in one process.
    ///
    /// # Errors
    /// What kept it from starting.
    pub async fn start(
        settings: Settings,
        flags: BTreeMap<String, String>,
        lifecycle: Lifecycle,
        wishes: mpsc::Receiver<Reload>,
    ) -> anyhow::Result<Self> {
        let process = Process::new(settings, flags)?;
        let (stop, wish) = (process.stop.clone(), lifecycle.stop.clone());
        let mut starting = std::pin::pin!(Self::begin(process, lifecycle, wishes));
        tokio::select! {
            started = &mut starting => started,
            () = wish.cancelled() => {
                stop.cancel();
                starting.await
            }
        }
    }

    async fn begin(process: Process, lifecycle: Lifecycle, wishes: mpsc::Receiver<Reload>) -> anyhow::Result<Self> {
        let config = config::first(&process).await?;
        process
            .retention
            .send_replace(process.settings.retention(&config.storage));
        let web = web::open(&process)?;
        web::watch_certificates(&process, web.as_ref());
        let listeners = Listeners::bind(&process.settings).await?;
        let addresses = listeners.addresses.clone();
        let routes = http::Routes::new(web::early_routes(&process, lifecycle.clone()));
        let mut servers = JoinSet::new();
        let bucket = process.open_bucket()?;
        process.say_where_blocks_are(&bucket);
        if let Some(attempts) = bucket.attempts() {
            attempts.register(&process.registry).context("metrics")?;
        }
        let claim = process.claim(&bucket)?;
        let bucket = bucket.behind(claim.bucket());
        let mut options = process.node_options(&listeners, &bucket)?;
        options.claim = Some(claim);
        let (timeout, most) = (process.settings.read_timeout, process.settings.max_connections);
        let limits = http::ConnectionLimits::new(timeout, most);
        for (listener, address) in listeners.http {
            let (web, limits) = (web.clone(), limits.clone());
            servers.spawn(http::serve(listener, routes.clone(), web, limits, process.stop.clone()));
            tracing::info!(%address, "listening");
        }
        let services = grpc::Services::listen(&process, listeners.grpc, &mut servers)?;
        let early = Arc::clone(&services);
        options.serve_groups = Some(Arc::new(move |own| early.serve_groups(own)));
        process.status.set_waiting_for("the node joins its cluster");
        warn_of_prometheus_data(&options.data_folder);
        let handle = start_node(options).await?;
        process.status.set_waiting_for("shards are opened");
        let running = roles::start(&process, &handle, &bucket, &config).await?;
        let blocks = web::blocks(&process, &bucket)?;
        let results = web::results(&process, &handle);
        let outside = grpc::Outside {
            blocks: web::served_blocks(&process, &blocks),
            results: results.as_ref().map(ResultCache::service),
            writers: listeners.writers,
            web: web.clone(),
        };
        services
            .serve_all(&process, &handle, &running, outside, &mut servers)
            .await?;
        // Other nodes have to reach this one by then.
        if let Some(ingester) = &running.ingester {
            roles::until_shards_are_open(&process, &handle, ingester).await?;
        }
        web::count_targets(&process, &handle)?;
        routes.replace(web::routes(
            &process,
            &handle,
            &bucket,
            &running,
            &blocks,
            results,
            lifecycle.clone(),
        )?);
        process.status.set_waiting_for("the configuration is taken into force");
        let checksum = config::in_force(&process, &handle, &running, config, wishes).await?;
        config::follow(&process, lifecycle, checksum);
        if process.settings.roles.scraper {
            process.status.set_waiting_for("the ring of scrapers takes the node in");
            handle.begin_scraping().await;
        }
        process.status.set_ready();
        tracing::info!("ready to serve");
        let is_secure = web.is_some_and(|web| web.is_secure());
        Ok(Self {
            process,
            handle,
            running,
            servers,
            addresses,
            is_secure,
        })
    }

    /// Its place in the cluster, and its groups.
    #[must_use]
    pub fn handle(&self) -> &NodeHandle {
        &self.handle
    }

    /// Where it serves HTTP.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Waits until it was told to stop, or to leave and has done so, or a listener failed, or the cluster will not have it.
    async fn ended(&mut self, lifecycle: &Lifecycle, drain_within: Duration) -> anyhow::Result<()> {
        let (stop, leave) = (&lifecycle.stop, &lifecycle.leave);
        let left = async {
            leave.cancelled().await;
            leave::drain(&self.handle, &self.process.clock, drain_within).await;
        };
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            () = left => Ok(()),
            reason = self.handle.over() => Err(anyhow::anyhow!("the cluster does not take this node any more: {reason}")),
            Some(ended) = self.servers.join_next() => ended.unwrap_or_else(|e| Err(e.into())),
        }
    }

    fn announce(&self) {
        announce(&self.process, &self.addresses, self.is_secure);
    }

    /// Stops it in good order, within a few seconds.
    pub async fn stop(self) {
        let Self {
            process,
            handle,
            running,
            mut servers,
            ..
        } = self;
        process.status.set_stopping();
        running.hand_over(&handle).await;
        process.stop.cancel();
        let stopping = async {
            let served = async { while servers.join_next().await.is_some() {} };
            tokio::join!(running.stop(), served);
            process.tasks.close();
            process.tasks.wait().await;
            handle.shutdown().await;
        };
        match tokio::time::timeout(STOP_WITHIN, stopping).await {
            Ok(()) => tracing::info!("stopped"),
            Err(_) => tracing::warn!("stopping took too long: the next start replays more of the log"),
        }
    }
}

/// Data of a Prometheus are not seen: its flags lead to its folder.
fn warn_of_prometheus_data(folder: &Path) {
    let is_block =
        |entry: std::fs::DirEntry| entry.path().join("meta.json").exists() && entry.path().join("index").exists();
    let is_prometheus = || {
        let blocks = std::fs::read_dir(folder).into_iter().flatten().flatten().any(is_block);
        blocks || folder.join("wal").is_dir()
    };
    if !folder.join("node.json").exists() && is_prometheus() {
        tracing::warn!(
            folder = %folder.display(),
            "there are data of a Prometheus here, which are not read: gnomon block import takes its blocks over (docs/migrating.md)"
        );
    }
}

fn announce(process: &Process, addresses: &[SocketAddr], is_secure: bool) {
    if process.settings.roles.querier
        && let Some(address) = addresses.first()
    {
        let host = match address.ip() {
            ip if ip.is_unspecified() => "127.0.0.1".to_owned(),
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        output::announce(format_args!(
            "gnomon is ready: {}://{host}:{}{}",
            if is_secure { "https" } else { "http" },
            address.port(),
            process.settings.route_prefix
        ));
    }
}

struct Listeners {
    http: Vec<(TcpListener, SocketAddr)>,
    addresses: Vec<SocketAddr>,
    grpc: TcpListener,
    grpc_address: SocketAddr,
    /// For senders outside of the cluster.
    writers: Option<TcpListener>,
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
        let writers = match &settings.writers_listen_address {
            Some(address) => {
                let writers = http::bind(address, "--ingest.grpc-listen-address").await?;
                tracing::info!(address = %writers.local_addr()?, "listening for gRPC of senders");
                Some(writers)
            }
            None => None,
        };
        Ok(Self {
            addresses: bound.iter().map(|(_, a)| *a).collect(),
            http: bound,
            grpc_address: grpc.local_addr()?,
            grpc,
            writers,
        })
    }
}

impl Process {
    fn new(settings: Settings, flags: BTreeMap<String, String>) -> anyhow::Result<Self> {
        let clock = SystemClock::shared();
        let notifications =
            Notifications::new(Arc::clone(&clock), settings.max_notifications_subscribers).context("metrics")?;
        let registry = prometheus::Registry::new();
        let handshakes = HandshakeMetrics::register(&registry).context("metrics")?;
        let cluster_tls = crate::channel::options(settings.cluster_tls.as_ref(), &clock)?.tls;
        let mut roles = settings.roles.names();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            target = roles.join(","),
            "starting gnomon"
        );
        if settings.roles == crate::flags::Roles::ALL {
            roles.insert(0, "all".into());
        }
        Ok(Self {
            status: Arc::new(Status::new(clock.now(), roles, notifications)),
            retention: watch::Sender::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            settings,
            flags,
            clock,
            registry,
            handshakes,
            cluster_tls,
        })
    }

    /// A folder may be one that all nodes have mounted; this process cannot tell.
    fn say_where_blocks_are(&self, bucket: &Bucket) {
        let is_named = self.settings.object_store.is_some();
        if !self.settings.peers.is_empty() && is_named && bucket.attempts().is_none() {
            tracing::info!(
                folder = bucket.url(),
                "blocks are in a folder: every node of the cluster must have mounted the same one"
            );
        }
    }

    /// With the data folder made, where the bucket is unless another is named.
    fn open_bucket(&self) -> anyhow::Result<Bucket> {
        let settings = &self.settings;
        let place = || format!("data folder {} (--storage.tsdb.path)", settings.data_dir.display());
        std::fs::create_dir_all(&settings.data_dir).with_context(place)?;
        let bucket = Bucket::open(settings.object_store.as_deref(), &settings.data_dir.join("bucket"));
        match settings.object_store {
            Some(_) => Ok(bucket?),
            None => bucket.with_context(place),
        }
    }

    /// Keeps this process from the bucket once that is another cluster's.
    fn claim(&self, bucket: &Bucket) -> anyhow::Result<Arc<Claim>> {
        let (store, clock) = (Arc::clone(bucket.store()), Arc::clone(&self.clock));
        Claim::new(store, bucket.url(), clock, &self.registry).context("metrics")
    }

    /// What blocks may take. This node's own log and head count where it is all there is.
    fn budget(&self) -> Budget {
        let own = (self.settings.peers.is_empty() && self.settings.roles.ingester).then(|| {
            let own = OwnBytes::of(self.settings.data_dir.join("store"));
            self.tasks.spawn(Arc::clone(&own).follow(self.stop.clone()));
            own
        });
        Budget::new(self.retention.subscribe(), own)
    }

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
        options.channel.tls.clone_from(&self.cluster_tls);
        options.zone.clone_from(&settings.zone);
        env!("CARGO_PKG_VERSION").clone_into(&mut options.version);
        options.shards = settings.shards;
        options.replicas = settings.replicas;
        options.expect = settings.expect;
        options.replace_after = settings.replace_after;
        options.forget_after = settings.forget_after;
        options.feature_level = settings.feature_level;
        options.flush_log_bytes = settings.flush_bytes;
        if let Some(size) = self.retention.borrow().size_bytes {
            make_small(&mut options, size);
        }
        options.stop = self.stop.clone();
        options.join_timeout = JOIN_WITHIN;
        Ok(options)
    }
}

/// The log and the head count against the retention size: with a small one they are kept shorter.
fn make_small(options: &mut NodeOptions, size_bytes: u64) {
    let store = &mut options.store;
    store.ballast_bytes = store.ballast_bytes.min(size_bytes / 40);
    store.wal_bytes = store.wal_bytes.min((size_bytes / 16).max(4 << 20));
    let memtable = usize::try_from(size_bytes / 32).unwrap_or(usize::MAX).max(4 << 20);
    store.log_memtable_bytes = store.log_memtable_bytes.min(memtable);
    store.state_memtable_bytes = store.state_memtable_bytes.min(memtable);
    let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let shards = options.shards.map_or(processors, u64::from).max(1);
    options.flush_log_bytes = options.flush_log_bytes.min((size_bytes / 32 / shards).max(1 << 20));
}
