//! A machine of the simulation: what it keeps over its lives, and the life it has now. A life is started by the functions
//! that the process starts by.

use super::bodies::{Peers, address};
use super::clock::{Origin, SimClock};
use super::network::{Sender, Served, SimNetwork};
use super::targets::{self, Scraping, SimScraper};
use super::trace::Trace;
use gnomon_cluster::clients::{LocalServices, PeerNetwork};
use gnomon_cluster::layers::ChannelOptions;
use gnomon_cluster::node::{IngesterNode, NodeError, NodeHandle, NodeOptions, start_node};
use gnomon_cluster::raft::GroupError;
use gnomon_cluster::retention::{Budget, Retention};
use gnomon_cluster::store::{Faults, MemoryBackend, NodeStore, StoreError};
use gnomon_ingester::{DutyOptions, Ingester, IngesterOptions, WriteOptions};
use gnomon_model::Clock;
use gnomon_model::ids::CURRENT_FEATURE_LEVEL;
use gnomon_promql::QueryMemory;
use object_store::ObjectStore;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What all machines of one run have alike.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) seed: u64,
    pub(crate) network: SimNetwork,
    pub(crate) trace: Trace,
    pub(crate) bucket: Arc<dyn ObjectStore>,
    pub(crate) folder: PathBuf,
    pub(crate) shards: u32,
    pub(crate) flush_log_bytes: u64,
    /// Ingesters that there are at first.
    pub(crate) first: usize,
    /// How many shards there are to be from the next window on, where that is to change.
    pub(crate) reshard: Option<u32>,
    /// Where there are scrapers.
    pub(crate) scraping: Option<Scraping>,
    /// How long a node counts as alive after its last sign of life.
    pub(crate) lease: Duration,
    /// Whether wall clocks jump.
    pub(crate) clocks_jump: bool,
}

/// Replicas are made anew elsewhere after the silence of so many leases.
const REPLACE_AFTER: u32 = 2;
const PREFER_AFTER: Duration = Duration::from_secs(2);
/// After what time a process that ended by itself is started again, as a service manager does.
const START_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// How slow a disk is.
pub(crate) struct Disk {
    random: Mutex<StdRng>,
    /// The longest that a write takes, microseconds.
    slowest_us: Mutex<u64>,
}

impl Disk {
    pub(crate) const USUAL_US: u64 = 4_000;

    fn takes(&self) -> Duration {
        let slowest = *self.slowest_us.lock();
        Duration::from_micros(self.random.lock().random_range(100..=slowest.max(100)))
    }
}

pub(crate) struct Machine {
    pub(crate) place: usize,
    roles: Vec<String>,
    pub(crate) clock: Arc<SimClock>,
    disk: Arc<Disk>,
    backend: Arc<MemoryBackend>,
    /// The disk takes no writes.
    is_failing: AtomicBool,
    /// Disks that it has had.
    disks: u32,
    /// Lives that it has had.
    lives: u32,
    around: Surroundings,
    life: Option<Life>,
}

/// What runs on a machine, from its start on.
struct Life {
    stop: CancellationToken,
    /// When the process ended by itself, if it did: its disk took no writes while it started.
    ended: Arc<OnceLock<Instant>>,
    /// The groups, as soon as they are open.
    groups: Arc<Mutex<Option<IngesterNode>>>,
    running: Arc<Mutex<Option<Running>>>,
}

/// What is there once the node is a member.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) node: Arc<NodeHandle>,
    pub(crate) ingester: Option<Arc<Ingester>>,
    pub(crate) scraper: Option<SimScraper>,
}

impl Machine {
    pub(crate) fn new(place: usize, roles: &[&str], drift_ppm: i64, origin: Origin, around: &Surroundings) -> Self {
        let seed = around.seed ^ (place as u64 + 1) << 32;
        Self {
            place,
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            clock: Arc::new(SimClock::new(origin, drift_ppm)),
            disk: Arc::new(Disk {
                random: Mutex::new(StdRng::seed_from_u64(seed)),
                slowest_us: Mutex::new(Disk::USUAL_US),
            }),
            backend: Arc::default(),
            is_failing: AtomicBool::new(false),
            disks: 0,
            lives: 0,
            around: around.clone(),
            life: None,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.life.is_some()
    }

    pub(crate) fn running(&self) -> Option<Running> {
        self.life.as_ref()?.running.lock().clone()
    }

    /// The groups, also where the node is no member yet.
    pub(crate) fn groups(&self) -> Option<IngesterNode> {
        self.life.as_ref()?.groups.lock().clone()
    }

    pub(crate) fn set_slow(&self, slowest_us: u64) {
        *self.disk.slowest_us.lock() = slowest_us;
    }

    pub(crate) fn set_failing(&self, fail_writes: bool) {
        self.is_failing.store(fail_writes, Ordering::Relaxed);
        self.backend.set_faults(Faults {
            fail_writes,
            ..Faults::default()
        });
    }

    fn options(&self, own: Sender, stop: &CancellationToken) -> NodeOptions {
        let around = &self.around;
        let folder = around.folder.join(format!("{}-{}", self.place, self.disks));
        let clock: Arc<dyn Clock> = self.clock.clone();
        let registry = prometheus::Registry::new();
        let network: Arc<dyn PeerNetwork> = Arc::new(Peers {
            network: around.network.clone(),
            own,
        });
        NodeOptions {
            peers: (0..around.first).map(address).collect(),
            zone: format!("z{}", self.place % 3),
            shards: Some(around.shards),
            replicas: Some(3),
            expect: 3,
            replace_after: around.lease * REPLACE_AFTER,
            lease: around.lease,
            join_timeout: Duration::from_secs(3600),
            flush_log_bytes: around.flush_log_bytes,
            channel: ChannelOptions {
                network: Some(network),
                ..ChannelOptions::default()
            },
            stop: stop.clone(),
            ..NodeOptions::new(
                folder,
                around.bucket.clone(),
                self.roles.clone(),
                address(self.place),
                clock,
                registry,
            )
        }
    }

    /// Begins a life. It goes on by itself.
    pub(crate) fn start(&mut self) {
        assert!(self.life.is_none(), "one life at a time");
        let (network, trace) = (self.around.network.clone(), self.around.trace.clone());
        let own = network.begin(self.place);
        let (stop, groups, running) = (CancellationToken::new(), Arc::default(), Arc::default());
        let ended = Arc::default();
        self.life = Some(Life {
            stop: stop.clone(),
            ended: Arc::clone(&ended),
            groups: Arc::clone(&groups),
            running: Arc::clone(&running),
        });
        self.next_folder();
        let mut options = self.options(own, &stop);
        let (disk, place) = (self.disk.clone(), self.place);
        if self.roles.iter().any(|role| role == "ingester") {
            let pace = Arc::new(move || disk.takes());
            let (clock, registry) = (options.clock.clone(), options.registry.clone());
            let store = NodeStore::simulated(self.backend.clone(), clock, &registry, pace);
            match store {
                Ok(store) => options.given_store = Some(store),
                Err(error) => trace.fail(format!("machine {place}: its store does not open: {error}")),
            }
        }
        let served = network.clone();
        options.serve_groups = Some(Arc::new(move |opened: &IngesterNode| {
            groups.lock().replace(opened.clone());
            served.serve(own, of_groups(opened));
        }));
        let is_scraper = self.roles.iter().any(|role| role == "scraper");
        let scraper = self.around.scraping.clone().filter(|_| is_scraper).map(|scraping| {
            let life = targets::Life {
                own,
                network: network.clone(),
                clock: self.clock.clone(),
                folder: self.waiting_scrapes(),
                stop,
            };
            (scraping, life)
        });
        let begun = Begun {
            own,
            network,
            trace,
            ended,
            running,
            scraper,
        };
        tokio::spawn(begun.run(options));
    }

    /// Of this life: what an earlier one would still write after its end is written nowhere.
    fn waiting_scrapes(&self) -> PathBuf {
        self.around
            .folder
            .join(format!("{}-scrapes-{}", self.place, self.lives))
    }

    fn next_folder(&mut self) {
        let before = self.waiting_scrapes();
        self.lives += 1;
        if before.is_dir() {
            let moved = std::fs::rename(before, self.waiting_scrapes());
            moved.expect("a folder in memory");
        }
    }

    /// Begins another life where the process ended by itself a while ago; its disk is as it was.
    pub(crate) fn start_again(&mut self) {
        let ended = self.life.as_ref().and_then(|life| life.ended.get());
        if ended.is_none_or(|at| at.elapsed() < START_AGAIN_AFTER) {
            return;
        }
        let is_failing = self.is_failing.load(Ordering::Relaxed);
        self.crash(usize::MAX);
        self.around
            .trace
            .event(format!("machine {} is started again", self.place));
        self.start();
        self.set_failing(is_failing);
    }

    /// Power is cut: what was not synced is lost but for the oldest `kept` writes.
    pub(crate) fn crash(&mut self, kept: usize) {
        let Some(life) = self.life.take() else { return };
        self.around.network.begin(self.place);
        self.backend = Arc::new(self.backend.after_power_cut(kept));
        self.is_failing.store(false, Ordering::Relaxed);
        self.next_folder();
        life.kill();
        // What is left of it reaches neither a disk nor a machine; it only has to end.
        tokio::spawn(bury(life));
    }

    /// A new disk, and so a new node.
    pub(crate) fn wipe(&mut self) {
        self.crash(0);
        self.backend = Arc::default();
        self.disks += 1;
    }

    /// As on SIGTERM, of one without a store; what is returned ends when the process would have.
    pub(crate) fn leave(&mut self) -> Option<JoinHandle<()>> {
        let life = self.life.take()?;
        let (network, place) = (self.around.network.clone(), self.place);
        Some(tokio::spawn(async move {
            let running = life.running.lock().take();
            if let Some(Running {
                node,
                scraper: Some(own),
                ..
            }) = &running
            {
                gnomon_scraper::leave(&own.scraper, node).await;
                life.stop.cancel();
                own.scraper.stop().await;
                node.shutdown().await;
            }
            network.begin(place);
            life.kill();
        }))
    }

    /// As on SIGTERM; returns when the process would have ended.
    pub(crate) async fn stop(&mut self) {
        let Some(life) = self.life.take() else { return };
        let running = life.running.lock().take();
        if let Some(running) = &running {
            if let Some(ingester) = &running.ingester {
                ingester.shutdown().await;
            }
            running.node.shutdown().await;
        }
        self.around.network.begin(self.place);
        self.backend = Arc::new(self.backend.after_power_cut(0));
        self.is_failing.store(false, Ordering::Relaxed);
        life.stop.cancel();
        tokio::spawn(bury(life));
    }
}

fn of_groups(opened: &IngesterNode) -> Served {
    Served {
        node: opened.host.identity().node,
        raft: Some(opened.raft_service()),
        meta: Some(opened.meta_replica.clone()),
        ..Served::default()
    }
}

/// Whether a node has not started since its disk took no writes.
fn is_of_the_disk(error: &NodeError) -> bool {
    let of_store = match error {
        NodeError::Store(error) | NodeError::Group(GroupError::Store(error)) => error,
        _ => return false,
    };
    matches!(of_store, StoreError::Engine { .. })
}

/// What a life begins with.
struct Begun {
    own: Sender,
    network: SimNetwork,
    trace: Trace,
    ended: Arc<OnceLock<Instant>>,
    running: Arc<Mutex<Option<Running>>>,
    scraper: Option<(Scraping, targets::Life)>,
}

impl Begun {
    /// Starts the node and its role, and has them served.
    async fn run(self, options: NodeOptions) {
        let Self {
            own,
            network,
            trace,
            ended,
            running,
            scraper,
        } = self;
        let place = own.place;
        let (clock, registry, bucket, stop) = (
            options.clock.clone(),
            options.registry.clone(),
            options.bucket.clone(),
            options.stop.clone(),
        );
        let node = match start_node(options).await {
            Ok(node) => node,
            Err(error) if stop.is_cancelled() => {
                tracing::debug!(%error, "ended while it started");
                return;
            }
            Err(error) if is_of_the_disk(&error) => {
                trace.event(format!("machine {place} ends, since it cannot start: {error}"));
                let _ = ended.set(Instant::now());
                return;
            }
            Err(error) => return trace.fail(format!("machine {place} does not start: {error}")),
        };
        let mut local = LocalServices::default();
        let mut served = node.ingester.as_ref().map(of_groups).unwrap_or_default();
        served.node = node.node_id;
        let ingester = node.ingester.as_ref().map(|opened| IngesterOptions {
            node: node.node_id,
            host: opened.host.clone(),
            meta: node.meta.clone(),
            meta_watch: node.meta_watch.clone(),
            bucket,
            claim: None,
            budget: Budget::fixed(Retention::default()),
            clock,
            registry,
            write: WriteOptions::default(),
            duties: DutyOptions::default(),
            read_memory: QueryMemory::unlimited(),
            prefer_after: PREFER_AFTER,
            feature_level: CURRENT_FEATURE_LEVEL,
            others: node.directory.others(),
            stop: stop.clone(),
        });
        let ingester = match ingester.map(Ingester::start).transpose() {
            Ok(ingester) => ingester.map(Arc::new),
            Err(error) => return trace.fail(format!("machine {place} has no ingester: {error}")),
        };
        if let Some(ingester) = &ingester {
            local.shard_write = Some(ingester.shards());
            local.shard_read = Some(ingester.shards());
            served.shard_write = Some(ingester.shards());
            served.shard_read = Some(ingester.shards());
        }
        node.directory.set_local(local);
        let scraper = match scraper {
            Some((scraping, life)) => match scraping.start(&node, life).await {
                Ok(scraper) => Some(scraper),
                Err(error) => return trace.fail(format!("machine {place} has no scraper: {error}")),
            },
            None => None,
        };
        if stop.is_cancelled() {
            if let Some(own) = &scraper {
                own.killed.cancel();
            }
            return;
        }
        network.serve(own, served);
        trace.event(format!("machine {place} runs as node {}", node.node_id));
        let (node, scrapes) = (Arc::new(node), scraper.is_some());
        running.lock().replace(Running {
            node: node.clone(),
            ingester,
            scraper,
        });
        if scrapes {
            node.begin_scraping().await;
        }
    }
}

impl Life {
    /// Nothing that it would still do is done.
    fn kill(&self) {
        self.stop.cancel();
        if let Some(Running { scraper: Some(own), .. }) = &*self.running.lock() {
            own.killed.cancel();
        }
    }
}

async fn bury(life: Life) {
    let running = life.running.lock().take();
    if let Some(running) = running {
        if let Some(ingester) = &running.ingester {
            ingester.shutdown().await;
        }
        running.node.shutdown().await;
    }
    let groups = life.groups.lock().take();
    if let Some(groups) = groups {
        groups.host.shutdown().await;
    }
}
