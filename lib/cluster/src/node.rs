//! A node's beginning: who it is, which cluster it is of, and its place in it.
//!
//! ```text
//! data folder new, bucket without mark  -> founds a cluster (ingesters)
//! data folder new, bucket with mark     -> joins through its peers, as a new node; refused without peers
//! data folder of the bucket's cluster   -> the same node, its next life
//! data folder of another cluster        -> refused, naming both
//! ```
//! Invariant: a node id belongs to one data folder; a wiped folder is a new node.

mod assigner;
mod claim;
mod clocks;
mod error;
mod expiry;
mod found;
mod identity;
mod lease;
mod left;
mod level;
mod peers;
#[cfg(test)]
mod tests;
mod wishes;

pub use claim::Claim;
pub use clocks::{CLOCK_MAY_BE_OFF_MS, Jumps, is_clock_wrong};
pub use error::NodeError;
pub use identity::{ClusterMark, NodeIdentity};
use lease::Scraping;
pub use lease::{
    SCRAPER_ASIDE, SCRAPER_LEAVING, SCRAPER_STARTING, asked_ms, left_ring_ms, ring_changed_ms, scrapes_or_may,
};
pub use left::{LeftNode, check_unused};
use peers::KnownPeers;
pub use wishes::{GroupWishes, LastHeard};

use crate::assign::{REPLACE_AFTER_MS, Rules};
use crate::blocking::blocking;
use crate::clients::{Directory, DirectoryOptions, MetaClient, follow_meta};
use crate::layers::{CallMetrics, ChannelOptions};
use crate::meta::{FORGET_AFTER_MS, MetaLog, MetaMachine, MetaNode, keep_checkpoints};
use crate::raft::{
    Addresses, FLUSH_LOG_BYTES, Group, GroupHost, GrpcTransport, HostOptions, PREFER_AFTER, ProposeError, RaftService,
    RaftTransport, ReadError, StateMachine, keep_members,
};
use crate::store::{Identity, NodeStore, StoreOptions};
use async_trait::async_trait;
use bytes::Bytes;
use gnomon_model::ids::CURRENT_FEATURE_LEVEL;
use gnomon_model::{Clock, ClusterId, FeatureLevel, GroupId, NodeId};
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{EndLease, MetaCommand, MetaState};
use object_store::ObjectStore;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a node that stops tries to say so.
const FAREWELL: Duration = Duration::from_millis(700);
/// How long a scraper that has started waits to be in the ring before it is called ready.
const WELCOME: Duration = Duration::from_secs(5);

/// How long a node counts as alive after its last sign of life, unless its options say otherwise.
pub const LEASE: Duration = Duration::from_secs(15);

/// What a node is started with.
pub struct NodeOptions {
    pub data_folder: PathBuf,
    pub bucket: Arc<dyn ObjectStore>,
    /// As the user wrote it, for messages.
    pub bucket_name: String,
    /// What keeps the node from writing to the bucket once it is another cluster's; `bucket` is behind it then.
    pub claim: Option<Arc<Claim>>,
    /// Roles that run here: `scraper`, `ingester`, `querier`, `compactor`.
    pub roles: Vec<String>,
    /// host:port by which other nodes reach this one's gRPC listener.
    pub address: String,
    /// Nodes that may have a replica of the metadata group, host:port; none for one node alone.
    pub peers: Vec<String>,
    pub zone: String,
    pub version: String,
    /// What this node understands: less than the build does where it is to behave as an older one.
    pub feature_level: FeatureLevel,
    /// Shards of a cluster that is founded now; none: one per core of the expected nodes. Frozen then.
    pub shards: Option<u32>,
    /// Replicas of each shard of a cluster that is founded now; none: three where so many ingesters are expected.
    pub replicas: Option<u32>,
    /// Ingesters to wait for before shards are placed, where a cluster is founded now.
    pub expect: u32,
    /// After what silence a node's replicas are made anew elsewhere.
    pub replace_after: Duration,
    /// How long a node that nothing is needed of is remembered after its last sign of life.
    pub forget_after: Duration,
    /// How long the node counts as alive after its last sign of life.
    pub lease: Duration,
    /// How long to look for the cluster at the start.
    pub join_timeout: Duration,
    /// Between two copies of the catalogue in the bucket, which the leader of the metadata group makes.
    pub checkpoint_pause: Duration,
    pub store: StoreOptions,
    /// The store itself, of a simulated node; none: it is opened in the data folder.
    pub given_store: Option<Arc<NodeStore>>,
    /// A group's state is flushed, and its log becomes shorter, after this many bytes of log.
    pub flush_log_bytes: u64,
    pub channel: ChannelOptions,
    pub clock: Arc<dyn Clock>,
    pub registry: prometheus::Registry,
    pub stop: CancellationToken,
    /// Called once the groups are open, to let other nodes reach them: until enough of them do, none is a member.
    pub serve_groups: Option<ServeGroups>,
}

/// See [`NodeOptions::serve_groups`].
pub type ServeGroups = Arc<dyn Fn(&IngesterNode) + Send + Sync>;

impl NodeOptions {
    /// The defaults for everything that need not be said.
    #[must_use]
    pub fn new(
        data_folder: PathBuf,
        bucket: Arc<dyn ObjectStore>,
        roles: Vec<String>,
        address: String,
        clock: Arc<dyn Clock>,
        registry: prometheus::Registry,
    ) -> Self {
        Self {
            bucket_name: bucket.to_string(),
            claim: None,
            data_folder,
            bucket,
            roles,
            address,
            peers: Vec::new(),
            zone: String::new(),
            version: String::new(),
            feature_level: CURRENT_FEATURE_LEVEL,
            shards: None,
            replicas: None,
            expect: 1,
            replace_after: Duration::from_millis(REPLACE_AFTER_MS.unsigned_abs()),
            forget_after: Duration::from_millis(FORGET_AFTER_MS.unsigned_abs()),
            lease: LEASE,
            join_timeout: Duration::from_secs(60),
            checkpoint_pause: Duration::from_secs(30),
            store: StoreOptions::default(),
            given_store: None,
            flush_log_bytes: FLUSH_LOG_BYTES,
            channel: ChannelOptions::default(),
            clock,
            registry,
            stop: CancellationToken::new(),
            serve_groups: None,
        }
    }

    fn is_ingester(&self) -> bool {
        self.roles.iter().any(|role| role == "ingester")
    }

    /// Whether blocks are written or read here.
    fn uses_bucket(&self) -> bool {
        self.roles.iter().any(|role| role != "scraper")
    }

    /// Peers besides this node.
    fn others(&self) -> Vec<String> {
        self.peers.iter().filter(|p| **p != self.address).cloned().collect()
    }
}

/// A node that is ready: registered, its lease kept, the metadata state followed.
pub struct NodeHandle {
    pub node_id: NodeId,
    pub cluster_id: ClusterId,
    pub incarnation: u64,
    /// The metadata group, wherever its leader is.
    pub meta: Arc<dyn MetaService>,
    pub meta_watch: watch::Receiver<Arc<MetaState>>,
    pub directory: Arc<Directory>,
    /// On the bucket.
    pub claim: Option<Arc<Claim>>,
    /// What ingesters have besides.
    pub ingester: Option<IngesterNode>,
    lease: Duration,
    scraping: watch::Sender<Scraping>,
    over: watch::Receiver<Option<String>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// The groups of an ingester.
#[derive(Clone)]
pub struct IngesterNode {
    /// Opens shard groups.
    pub host: GroupHost,
    pub store: Arc<NodeStore>,
    /// The local replica of the metadata group, to be served to other nodes.
    pub meta_replica: Arc<MetaNode>,
    /// Its state, as far as it is applied here.
    pub meta_machine: Arc<MetaMachine>,
    pub meta_group: Group,
}

impl IngesterNode {
    /// To be served to other nodes.
    #[must_use]
    pub fn raft_service(&self) -> Arc<dyn RaftService> {
        self.host.service()
    }
}

impl NodeHandle {
    /// Stops the node's tasks, gives up its lease, then stops its groups and its store.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        // Where it is over the lease may be another process' by now, of the same life.
        if self.over.borrow().is_none() {
            self.end_lease().await;
        }
        if let Some(ingester) = &self.ingester {
            ingester.host.shutdown().await;
        }
    }
}

impl NodeHandle {
    /// Waits until the cluster will not have this process any more, and says why: it was forgotten, another process runs with
    /// its identity, or the cluster came to a feature level that it does not understand. Nothing it does is taken then.
    pub async fn over(&self) -> String {
        let mut over = self.over.clone();
        let reason = over
            .wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|reason| reason.clone());
        match reason {
            Some(reason) => reason,
            // The node was stopped.
            None => std::future::pending().await,
        }
    }

    /// A scraper comes into the ring now: its configuration is in force, and what it serves itself is ready. Returns when it is
    /// known there, or after a few seconds: it comes later then.
    pub async fn begin_scraping(&self) {
        self.scraping.send_replace(Scraping::Begun);
        let mut states = self.meta_watch.clone();
        let is_in = |state: &Arc<MetaState>| {
            let mut ring = state.scrapers.iter().flat_map(|ring| &ring.nodes);
            ring.any(|id| *id == self.node_id.0)
        };
        if tokio::time::timeout(WELCOME, states.wait_for(is_in)).await.is_err() {
            tracing::warn!("this scraper has no targets yet: it is not in the ring (`gnomon cluster status`)");
        }
    }

    /// A scraper leaves the ring, and lives on: others take its targets. When it left, milliseconds of the metadata group's
    /// leader; none where that is not known in time: it may have left all the same.
    pub async fn end_scraping(&self) -> Option<i64> {
        self.scraping.send_replace(Scraping::Leaving);
        let mut states = self.meta_watch.clone();
        let left_ms = |state: &Arc<MetaState>| {
            let own = state.nodes.iter().find(|own| own.id == self.node_id.0)?;
            left_ring_ms(own, self.lease)
        };
        let left = states.wait_for(|state| left_ms(state).is_some());
        let state = tokio::time::timeout(FAREWELL, left).await.ok()?.ok()?;
        left_ms(&state)
    }

    /// Lets others take over at once; nobody must renew it any more. A cluster that does not answer finds out by the lease.
    pub async fn end_lease(&self) {
        let command = MetaCommand {
            proposed_at_ms: 0,
            command: Some(Command::EndLease(EndLease {
                node: self.node_id.0,
                incarnation: self.incarnation,
            })),
        };
        match tokio::time::timeout(FAREWELL, self.meta.propose(command)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the lease ends by itself"),
            Err(_) => tracing::debug!("the lease ends by itself: the metadata group does not answer"),
        }
    }
}

#[async_trait]
impl MetaLog for Group {
    async fn propose(&self, entry: Bytes) -> Result<Bytes, ProposeError> {
        Self::propose(self, entry).await
    }

    /// Any replica will do: a node that looks for the leader may know the addresses of others only, and where the leader is
    /// is in the state.
    async fn read_index(&self) -> Result<(), ReadError> {
        Self::read_index_here(self).await.map(|_| ())
    }
}

/// Founds a cluster, joins one, or comes back to it; returns when the node is a member with a lease.
///
/// # Errors
/// When the data folder, the bucket and the peers do not fit together, or the cluster does not answer within
/// [`NodeOptions::join_timeout`].
pub async fn start_node(options: NodeOptions) -> Result<NodeHandle, NodeError> {
    let stop = options.stop.child_token();
    let starting = Starting {
        metrics: CallMetrics::register(&options.registry)?,
        tasks: TaskTracker::new(),
        stop: stop.clone(),
        has_read_mark: AtomicBool::new(false),
        options,
    };
    let tasks = starting.tasks.clone();
    let result = tokio::select! {
        () = starting.options.stop.cancelled() => Err(NodeError::Stopped),
        result = starting.run() => result,
    };
    if result.is_err() {
        stop.cancel();
        tasks.close();
        tasks.wait().await;
    }
    result
}

/// Where the node's store is.
fn store_folder(data_folder: &Path) -> PathBuf {
    data_folder.join("store")
}

struct Starting {
    options: NodeOptions,
    metrics: CallMetrics,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// A node without replicas goes on without it.
    has_read_mark: AtomicBool,
}

impl Starting {
    async fn run(&self) -> Result<NodeHandle, NodeError> {
        let options = &self.options;
        let file = identity::IdentityFile::of(&options.data_folder);
        let store = match options.is_ingester() {
            true => Some(self.open_store().await?),
            false => None,
        };
        let mut identity = self.identity(&file).await?;
        if let (Some(known), Some(store)) = (&identity, &store)
            && self.has_lost_its_store(known, store).await?
        {
            file.remove()?;
            identity = None;
        }
        let mut client = None;
        if identity.is_none() {
            let joining = self.meta_client(None)?;
            identity = Some(self.join(&joining).await?);
            client = Some(joining);
        }
        let mut identity = identity.ok_or(NodeError::Stopped)?;
        options.channel.membership.learn(identity.cluster_id);
        self.claim_bucket(&identity);
        if client.is_none() {
            self.refuse_copy_early(&identity).await?;
        }
        identity.incarnation += 1;
        file.write(&identity)?;
        let (states, meta_watch) = watch::channel(Arc::<MetaState>::default());
        let ingester = match store {
            Some(store) => Some(self.open_ingester(&identity, store, &meta_watch).await?),
            None => None,
        };
        if let (Some(own), Some(serve)) = (&ingester, &options.serve_groups) {
            serve(own);
        }
        let client = match client {
            Some(client) => client,
            None => self.meta_client(self.voting_replica(ingester.as_ref(), &identity).await?)?,
        };
        if let Err(error) = self.enter(&client, &identity).await {
            if matches!(error, NodeError::Copied { .. }) {
                // This start does not count, or one of the next would seem to be the newest.
                identity.incarnation -= 1;
                file.write(&identity)?;
            }
            return Err(error);
        }
        if identity.founding {
            identity.founding = false;
            file.write(&identity)?;
        }
        states.send_replace(self.cluster_state(&client, |_| true).await?);
        self.tasks
            .spawn(follow_meta(client.clone(), states, self.stop.child_token()));
        let (scraping, told) = watch::channel(Scraping::Starting);
        let (ends, over) = watch::channel(None);
        let lease = lease::Renewal {
            meta: client.clone(),
            node: self.as_node(identity.node_id, identity.incarnation),
            lease: options.lease,
            clock: options.clock.clone(),
            states: meta_watch.clone(),
            clock_off: lease::register(&options.registry)?,
            only_scrapes: options.roles.iter().any(|role| role == "scraper") && !options.is_ingester(),
            scraping: told,
            over: ends,
        };
        self.tasks.spawn(lease.run(self.stop.child_token()));
        let known = KnownPeers::of(&options.data_folder);
        let keeping = known.keep(options.address.clone(), meta_watch.clone(), self.stop.child_token());
        self.tasks.spawn(keeping);
        if let Some(own) = &ingester {
            let expiry = expiry::Expiry {
                replica: own.meta_replica.clone(),
                group: own.meta_group.clone(),
                states: meta_watch.clone(),
                clock: options.clock.clone(),
                lease: options.lease,
            };
            self.tasks.spawn(expiry.run(self.stop.child_token()));
            self.keep_groups(own, &identity, &client, &meta_watch)?;
        }
        let directory = Directory::new(DirectoryOptions {
            node_id: identity.node_id,
            states: meta_watch.clone(),
            channel: options.channel.clone(),
            metrics: self.metrics.clone(),
            clock: options.clock.clone(),
        });
        self.tasks.spawn(directory.clone().run(self.stop.child_token()));
        if let Some(own) = &ingester {
            own.meta_replica.pass_on_to(directory.others());
        }
        tracing::info!(
            cluster = %identity.cluster_id, node = %identity.node_id, incarnation = identity.incarnation,
            "member of the cluster"
        );
        Ok(NodeHandle {
            node_id: identity.node_id,
            cluster_id: identity.cluster_id,
            incarnation: identity.incarnation,
            lease: options.lease,
            scraping,
            over,
            claim: options.claim.clone(),
            meta: client,
            meta_watch,
            directory,
            ingester,
            stop: self.stop.clone(),
            tasks: self.tasks.clone(),
        })
    }

    /// Shards are placed by the leader of the metadata group, which keeps its own voters too.
    fn keep_groups(
        &self,
        own: &IngesterNode,
        identity: &NodeIdentity,
        client: &Arc<MetaClient>,
        states: &watch::Receiver<Arc<MetaState>>,
    ) -> Result<(), NodeError> {
        let options = &self.options;
        let (rules, judged_by) = watch::channel(Rules::after(i64::MAX));
        let assigner = assigner::Assigner {
            replica: own.meta_replica.clone(),
            group: own.meta_group.clone(),
            states: states.clone(),
            clock: options.clock.clone(),
            lease: options.lease,
            replace_after: options.replace_after,
            forget_after: options.forget_after,
            understands: options.feature_level,
            changes: assigner::register(&options.registry)?,
            rules,
            heard: assigner::Heard::default(),
        };
        self.tasks.spawn(assigner.run(self.stop.child_token()));
        let wishes = GroupWishes {
            group: GroupId::METADATA,
            node: identity.node_id,
            states: states.clone(),
            meta: client.clone(),
            clock: options.clock.clone(),
            rules: judged_by,
            heard: LastHeard::default(),
            prefer_after: PREFER_AFTER,
        };
        let (group, clock) = (own.meta_group.clone(), options.clock.clone());
        let keeping = keep_members(
            group,
            identity.node_id,
            Arc::new(wishes),
            clock,
            self.stop.child_token(),
        );
        self.tasks.spawn(keeping);
        Ok(())
    }

    async fn open_store(&self) -> Result<Arc<NodeStore>, NodeError> {
        let options = &self.options;
        if let Some(store) = &options.given_store {
            return Ok(store.clone());
        }
        let (folder, store_options) = (store_folder(&options.data_folder), options.store.clone());
        let (clock, registry) = (options.clock.clone(), options.registry.clone());
        let opening = blocking(move || NodeStore::open(&folder, store_options, clock, &registry));
        let opened = opening.await.map_err(|e| NodeError::Folder {
            path: options.data_folder.display().to_string(),
            why: e.to_string(),
        })?;
        Ok(opened?)
    }

    /// Opens the groups' host in a store, and the metadata group in it. Where nodes are is known from what is followed,
    /// and before that from what the replica of the metadata group has stored.
    async fn open_ingester(
        &self,
        identity: &NodeIdentity,
        store: Arc<NodeStore>,
        followed: &watch::Receiver<Arc<MetaState>>,
    ) -> Result<IngesterNode, NodeError> {
        let options = &self.options;
        let machine = Arc::new(MetaMachine::understanding(options.feature_level));
        let sources = [followed.clone(), machine.watch()];
        let address = move |node: NodeId| {
            sources.iter().find_map(|states| {
                let state = states.borrow();
                state.nodes.iter().find(|n| n.id == node.0).map(|n| n.address.clone())
            })
        };
        let addresses: Arc<dyn Addresses> = Arc::new(address);
        let transport: Arc<dyn RaftTransport> = match &options.channel.network {
            Some(network) => network.raft(identity.node_id),
            None => Arc::new(GrpcTransport::new(addresses, options.channel.tls.clone())),
        };
        let host = GroupHost::new(HostOptions {
            flush_log_bytes: options.flush_log_bytes,
            ..HostOptions::new(
                Identity {
                    cluster: identity.cluster_id,
                    node: identity.node_id,
                },
                store.clone(),
                transport,
                options.clock.clone(),
                options.registry.clone(),
            )
        })?;
        let as_machine: Arc<dyn StateMachine> = machine.clone();
        let meta_group = host.open(GroupId::METADATA, as_machine).await?;
        let group = meta_group.clone();
        self.tasks.spawn(keep_checkpoints(
            options.bucket.clone(),
            machine.watch(),
            move || group.is_leader(),
            options.checkpoint_pause,
            self.stop.child_token(),
        ));
        let log = Arc::new(meta_group.clone());
        let meta_replica = Arc::new(MetaNode::new(log, machine.clone(), options.clock.clone()));
        Ok(IngesterNode {
            host,
            store,
            meta_replica,
            meta_machine: machine,
            meta_group,
        })
    }

    /// The local replica where it votes; the founder's begins to here.
    async fn voting_replica(
        &self,
        ingester: Option<&IngesterNode>,
        identity: &NodeIdentity,
    ) -> Result<Option<Arc<dyn MetaService>>, NodeError> {
        let Some(ingester) = ingester else {
            return Ok(None);
        };
        let group = &ingester.meta_group;
        if !group.is_initialized().await? {
            if !identity.founding {
                return self.no_replica(identity);
            }
            group.initialize(&[identity.node_id]).await?;
        }
        Ok(Some(ingester.meta_replica.clone()))
    }

    /// Nodes that joined may have no replica; the founder has, unless its store was taken away.
    fn no_replica(&self, identity: &NodeIdentity) -> Result<Option<Arc<dyn MetaService>>, NodeError> {
        if identity.node_id != found::FOUNDER || !self.options.others().is_empty() {
            return Ok(None);
        }
        Err(NodeError::Folder {
            path: store_folder(&self.options.data_folder).display().to_string(),
            why: format!(
                "the store of cluster {} is gone: restore it from a backup, or begin anew with another data folder and \
                 another bucket; gnomon cluster recover makes a cluster of what is in the bucket",
                identity.cluster_id
            ),
        })
    }

    fn meta_client(&self, local: Option<Arc<dyn MetaService>>) -> Result<Arc<MetaClient>, NodeError> {
        let options = &self.options;
        let local = local.map(|replica| (options.address.clone(), replica));
        let client = MetaClient::new(
            local,
            &options.others(),
            options.channel.clone(),
            self.metrics.clone(),
            options.clock.clone(),
        )?;
        client.know(&KnownPeers::of(&options.data_folder).read());
        Ok(Arc::new(client))
    }
}
