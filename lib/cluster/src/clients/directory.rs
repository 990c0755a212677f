//! Which body serves what: the role in this process where it is here, a connection where it is not.

use super::leaders::{Ask, Leaders};
use super::remote::Remote;
use super::shard_reads::ShardReads;
use crate::assign::voters;
use crate::layers::{BadAddress, CallMetrics, ChannelOptions, Retries, connect};
use crate::others::OtherNodes;
use crate::placement::Placement;
use crate::router::{Heard, ShardWriter, ShardWriters};
use gnomon_model::{Clock, GroupId, NodeId, ShardId};
use gnomon_proto::ServiceError;
use gnomon_proto::service::{
    BlockReadService, MetaService, NodesService, ResultsService, ShardReadService, ShardWriteService, TargetsService,
};
use gnomon_proto::v1::{MetaState, Node};
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What a directory is built from.
pub struct DirectoryOptions {
    pub node_id: NodeId,
    pub states: watch::Receiver<Arc<MetaState>>,
    pub channel: ChannelOptions,
    pub metrics: CallMetrics,
    pub clock: Arc<dyn Clock>,
}

/// The bodies of this process's own roles; none for a role that does not run here.
#[derive(Clone, Default)]
pub struct LocalServices {
    pub shard_write: Option<Arc<dyn ShardWriteService>>,
    pub shard_read: Option<Arc<dyn ShardReadService>>,
    pub targets: Option<Arc<dyn TargetsService>>,
    pub nodes: Option<Arc<dyn NodesService>>,
}

/// One per process. Follows the metadata state by itself.
pub struct Directory {
    node_id: NodeId,
    states: watch::Receiver<Arc<MetaState>>,
    channel: ChannelOptions,
    pub(super) metrics: CallMetrics,
    pub(super) clock: Arc<dyn Clock>,
    retries: Retries,
    local: RwLock<LocalServices>,
    /// By address: a node that moves gets another connection.
    peers: Mutex<HashMap<String, Remote>>,
    /// Who leads a shard, where an answer has told; else its first replica.
    leaders: RwLock<Leaders>,
    placement: watch::Sender<Arc<Placement>>,
}

impl Directory {
    #[must_use]
    pub fn new(options: DirectoryOptions) -> Arc<Self> {
        let DirectoryOptions {
            node_id,
            states,
            channel,
            metrics,
            clock,
        } = options;
        let directory = Self {
            node_id,
            states,
            channel,
            retries: Retries::new(3, metrics.clone()),
            metrics,
            clock,
            local: RwLock::default(),
            peers: Mutex::default(),
            leaders: RwLock::new(Leaders::new(node_id)),
            placement: watch::Sender::new(Arc::default()),
        };
        directory.follow_state();
        Arc::new(directory)
    }

    /// Says which roles run here. Call it before the roles make calls.
    pub fn set_local(&self, services: LocalServices) {
        *self.local.write() = services;
    }

    /// Keeps placement and connections in step with the metadata state until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut states = self.states.clone();
        loop {
            self.follow_state();
            tokio::select! {
                () = stop.cancelled() => return,
                changed = states.changed() => if changed.is_err() { return },
            }
        }
    }

    fn follow_state(&self) {
        let state = self.state();
        match Placement::in_force(&state) {
            Ok(placement) => {
                self.placement.send_if_modified(|shown| {
                    let changed = **shown != placement;
                    if changed {
                        if shown.is_ready() && shown.newest() != placement.newest() {
                            tracing::info!(epoch = ?placement.newest(), "another placement epoch is in force");
                        }
                        *shown = Arc::new(placement);
                    }
                    changed
                });
            }
            Err(error) => tracing::error!(%error, "the metadata state has an unusable placement epoch"),
        }
        let known = |address: &String| state.nodes.iter().any(|n| n.address == *address);
        self.peers.lock().retain(|address, _| known(address));
    }

    /// The newest metadata state this process knows.
    #[must_use]
    pub fn state(&self) -> Arc<MetaState> {
        self.states.borrow().clone()
    }

    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// The shard map, for a router.
    #[must_use]
    pub fn placement(&self) -> watch::Receiver<Arc<Placement>> {
        self.placement.subscribe()
    }

    /// Nodes with a role whose lease has not ended, by this node's clock.
    #[must_use]
    pub fn live_nodes(&self, role: &str) -> Vec<Node> {
        let now_ms = self.clock.now().0;
        let state = self.state();
        // Without a life there is nobody yet, only an id that was asked for.
        let live = state
            .nodes
            .iter()
            .filter(|n| n.lease_until_ms > now_ms && n.incarnation > 0);
        live.filter(|n| n.roles.iter().any(|r| r == role)).cloned().collect()
    }

    /// Who may have targets: each node that scrapes and whose lease holds, by this node's clock, and each that is in the ring.
    /// While nobody can renew a lease, and nobody ends one, these go on.
    #[must_use]
    pub fn scrapers(&self) -> Vec<Node> {
        let live: HashSet<u64> = self.live_nodes("scraper").iter().map(|node| node.id).collect();
        let state = self.state();
        let in_ring = |id: u64| state.scrapers.iter().any(|ring| ring.nodes.contains(&id));
        let scrapers = state
            .nodes
            .iter()
            .filter(|node| live.contains(&node.id) || in_ring(node.id));
        scrapers.cloned().collect()
    }

    /// Every shard of every epoch that is in force, ascending.
    #[must_use]
    pub fn shards(&self) -> Vec<ShardId> {
        self.placement.borrow().shards()
    }

    fn address_of(&self, node: NodeId) -> Result<String, ServiceError> {
        let state = self.state();
        let known = state.nodes.iter().find(|n| n.id == node.0).map(|n| n.address.clone());
        known.ok_or_else(|| ServiceError::Unavailable("the node's address is not known yet".into()))
    }

    fn remote(&self, node: NodeId) -> Result<Remote, ServiceError> {
        let address = self.address_of(node)?;
        self.remote_at(&address)
            .map(|remote| remote.to_node(node))
            .map_err(|e| ServiceError::Unavailable(e.to_string()))
    }

    /// The services at an address, whether or not the metadata group knows it.
    ///
    /// # Errors
    /// When the address cannot be one.
    pub fn remote_at(&self, address: &str) -> Result<Remote, BadAddress> {
        let mut peers = self.peers.lock();
        if let Some(remote) = peers.get(address) {
            return Ok(remote.clone());
        }
        let channel = connect(address, &self.channel, &self.metrics, &self.clock)?;
        let remote = Remote::new(channel, self.retries.clone());
        peers.insert(address.to_owned(), remote.clone());
        Ok(remote)
    }

    /// # Errors
    /// `Unavailable` where the node is not known, or is this one and has no such role.
    pub fn shard_write(&self, node: NodeId) -> Result<Arc<dyn ShardWriteService>, ServiceError> {
        if node != self.node_id {
            return Ok(match &self.channel.network {
                Some(network) => network.shard_write(&self.address_of(node)?, node),
                None => Arc::new(self.remote(node)?.shard_write()),
            });
        }
        self.local.read().shard_write.clone().ok_or_else(|| no_role("ingester"))
    }

    /// # Errors
    /// As [`Self::shard_write`].
    pub fn shard_read(&self, node: NodeId) -> Result<Arc<dyn ShardReadService>, ServiceError> {
        if node != self.node_id {
            return Ok(match &self.channel.network {
                Some(network) => network.shard_read(&self.address_of(node)?, node),
                None => Arc::new(self.remote(node)?.shard_read()),
            });
        }
        self.local.read().shard_read.clone().ok_or_else(|| no_role("ingester"))
    }

    /// # Errors
    /// As [`Self::shard_write`].
    pub fn targets(&self, node: NodeId) -> Result<Arc<dyn TargetsService>, ServiceError> {
        if node != self.node_id {
            return Ok(Arc::new(self.remote(node)?.targets()));
        }
        self.local.read().targets.clone().ok_or_else(|| no_role("scraper"))
    }

    /// What an ingester tells of its groups.
    ///
    /// # Errors
    /// As [`Self::shard_write`].
    pub fn groups(&self, node: NodeId) -> Result<Arc<dyn NodesService>, ServiceError> {
        if node != self.node_id {
            return Ok(Arc::new(self.remote(node)?.nodes()));
        }
        self.local.read().nodes.clone().ok_or_else(|| no_role("ingester"))
    }

    /// What another querier reads of blocks.
    ///
    /// # Errors
    /// `Unavailable` where the node is not known.
    pub fn block_read(&self, node: NodeId) -> Result<Arc<dyn BlockReadService>, ServiceError> {
        Ok(Arc::new(self.remote(node)?.block_read()))
    }

    /// What another querier keeps of results.
    ///
    /// # Errors
    /// `Unavailable` where the node is not known.
    pub fn results(&self, node: NodeId) -> Result<Arc<dyn ResultsService>, ServiceError> {
        Ok(Arc::new(self.remote(node)?.results()))
    }

    /// Reading any shard: at its leader, and where that is slow or away at another replica.
    #[must_use]
    pub fn shard_reads(self: &Arc<Self>) -> Arc<dyn ShardReadService> {
        Arc::new(ShardReads::new(Arc::clone(self)))
    }

    /// Nodes that have a replica of a shard, likely leaders first: who votes and is to, who votes still, who is to vote.
    #[must_use]
    pub fn replicas(&self, shard: ShardId) -> Vec<NodeId> {
        let state = self.state();
        let wished = state.shards.iter().find(|r| r.shard == shard.0);
        let wished = wished.map(|r| r.nodes.as_slice()).unwrap_or_default();
        let voters = voters(&state, GroupId::of_shard(shard));
        let both = wished.iter().filter(|node| voters.contains(node));
        let old = voters.iter().filter(|node| !wished.contains(node));
        let new = wished.iter().filter(|node| !voters.contains(node));
        both.chain(old).chain(new).copied().map(NodeId).collect()
    }

    /// The node that leads a shard, or passes on to its leader, as far as is known.
    ///
    /// # Errors
    /// `NotFound` where no such shard is.
    pub fn leader_of(&self, shard: ShardId) -> Result<NodeId, ServiceError> {
        if let Some(leader) = self.leaders.read().first_asked(shard) {
            return Ok(leader);
        }
        let nodes = self.replicas(shard);
        let first = nodes.first().copied();
        first.ok_or_else(|| ServiceError::NotFound(format!("there is no shard {shard}")))
    }

    /// Notes that `asked` does not lead the shard or does not answer: next is `hint`, or else the next replica.
    pub fn move_leader(&self, shard: ShardId, asked: NodeId, hint: Option<NodeId>) {
        let nodes = self.replicas(shard);
        let now = self.clock.monotonic();
        self.leaders.write().moved(shard, &nodes, asked, hint, now);
    }

    /// Whether a node answers for the shard as its leader, as far as is known, and does not only pass on to it.
    pub(super) fn is_taken_for_leader(&self, shard: ShardId, node: NodeId) -> bool {
        self.writer_known(shard) == Some(Ask::It(node))
    }

    /// None where it has to be found out.
    fn writer_known(&self, shard: ShardId) -> Option<Ask> {
        let leaders = self.leaders.read();
        match leaders.first_asked(shard) {
            Some(_) => leaders.ask(shard),
            None => self.replicas(shard).first().copied().map(Ask::It),
        }
    }

    /// Who is to be asked to write.
    fn writer_of(&self, shard: ShardId) -> Result<Ask, ServiceError> {
        if let Some(ask) = self.writer_known(shard) {
            return Ok(ask);
        }
        let first = self.leader_of(shard)?;
        Ok(self.leaders.write().turn(shard, first, self.clock.monotonic()))
    }

    /// Reaches the other nodes for as long as this directory is there.
    #[must_use]
    pub fn others(self: &Arc<Self>) -> Arc<dyn OtherNodes> {
        Arc::new(Others(Arc::downgrade(self)))
    }
}

/// What serves this node is held by its directory, and must not hold it.
struct Others(Weak<Directory>);

impl Others {
    fn directory(&self) -> Result<Arc<Directory>, ServiceError> {
        let directory = self.0.upgrade();
        directory.ok_or_else(|| ServiceError::Unavailable("this node is stopping".into()))
    }
}

impl OtherNodes for Others {
    fn shard_write(&self, node: NodeId) -> Result<Arc<dyn ShardWriteService>, ServiceError> {
        self.directory()?.shard_write(node)
    }

    fn meta(&self, node: NodeId) -> Result<Arc<dyn MetaService>, ServiceError> {
        let directory = self.directory()?;
        Ok(match &directory.channel.network {
            Some(network) => network.meta(&directory.address_of(node)?),
            None => Arc::new(directory.remote(node)?.meta()),
        })
    }
}

fn no_role(role: &str) -> ServiceError {
    ServiceError::Unavailable(format!("the {role} of this node is not running"))
}

impl ShardWriters for Directory {
    fn leader(&self, shard: ShardId) -> Result<ShardWriter, ServiceError> {
        let ask = self.writer_of(shard);
        // A shard that the state does not show yet may be there in a moment.
        let ask = ask.map_err(|e| ServiceError::Unavailable(e.to_string()))?;
        let client = self.shard_write(ask.node());
        if client.is_err() {
            self.heard_of(shard, ask, Heard::Nothing);
        }
        Ok(ShardWriter {
            node: ask.node(),
            client: client?,
            to: match ask {
                Ask::It(_) => None,
                Ask::Through { leader, .. } => Some(leader),
            },
        })
    }

    fn heard(&self, shard: ShardId, asked: &ShardWriter, heard: Heard) {
        let node = asked.node;
        let ask = asked.to.map_or(Ask::It(node), |leader| Ask::Through { node, leader });
        if heard != Heard::Answer || self.leaders.read().waits_for(node) {
            self.heard_of(shard, ask, heard);
        }
    }
}

impl Directory {
    fn heard_of(&self, shard: ShardId, asked: Ask, heard: Heard) {
        let (replicas, now) = (self.replicas(shard), self.clock.monotonic());
        self.leaders.write().heard(shard, &replicas, asked, heard, now);
    }
}
