//! Which of founding, joining and coming back it is, and doing it.

use super::identity::{ClusterMark, IdentityFile, NodeIdentity, put_mark, read_mark};
use super::{NodeError, Starting, store_folder};
use crate::clients::MetaClient;
use crate::meta::{FOUNDER_ID, read_newest_checkpoint, shards_in_force};
use crate::placement::{DEFAULT_PLACEMENT_LABELS, epochs_in_force};
use crate::store::NodeStore;
use gnomon_model::{ClusterId, FeatureLevel, NodeId};
use gnomon_proto::ServiceError;
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{
    AdoptCatalogue, InitCluster, MetaCommand, MetaResponse, MetaState, Node, PlacementEpoch, RaiseFeatureLevel,
    RegisterNode, ShardReplicas, TombstoneRecord, block_record,
};
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// The node that founds a cluster.
pub(super) const FOUNDER: NodeId = NodeId(FOUNDER_ID);
/// How long a restart waits for the bucket to confirm what the folder says.
const MARK_PATIENCE: Duration = Duration::from_secs(2);
/// How long a node that is about to found a cluster listens whether its peers have one.
const PEERS_PATIENCE: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_millis(10);
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// Records of blocks in one command, bytes; an entry of the log may have a MiB.
const ADOPTED_BYTES: usize = 512 << 10;
/// One that waits says so this often.
const SAY_AGAIN: Duration = Duration::from_secs(15);
/// A cluster that runs answers in so much.
const ANSWER_SOON: Duration = Duration::from_secs(1);
/// A cluster that starts needs less.
const ASK_AFTER_S: u64 = 30;

impl Starting {
    /// The identity in the folder, or a founder's new one; none for a node that has to join.
    pub(super) async fn identity(&self, file: &IdentityFile) -> Result<Option<NodeIdentity>, NodeError> {
        let options = &self.options;
        match file.read()? {
            Some(mut identity) if !identity.founding => {
                identity.generation = self.confirm(&identity).await?;
                return Ok(Some(identity));
            }
            Some(identity) => return self.found(file, identity).await,
            None => {}
        }
        let may_join = !options.others().is_empty();
        if !options.is_ingester() {
            let no_peers = || NodeError::NoPeers(options.roles.join(","));
            return if may_join { Ok(None) } else { Err(no_peers()) };
        }
        match self.mark_within(options.join_timeout).await? {
            Some(_) if may_join => Ok(None),
            Some(mark) => Err(self.taken(mark.cluster_id)),
            None => {
                if may_join && let Some(cluster) = self.cluster_of_peers().await {
                    return self.mark_of_peers(cluster).await;
                }
                let identity = NodeIdentity {
                    cluster_id: ClusterId(rand::random()),
                    node_id: FOUNDER,
                    incarnation: 0,
                    founding: true,
                    generation: 0,
                };
                file.write(&identity)?;
                self.found(file, identity).await
            }
        }
    }

    /// The cluster that a peer is a member of, where one answers soon.
    async fn cluster_of_peers(&self) -> Option<ClusterId> {
        let client = self.meta_client(None).ok()?;
        let state = tokio::time::timeout(PEERS_PATIENCE, client.read()).await.ok()?.ok()?;
        state.cluster_id.parse().ok()
    }

    /// Whoever founded the peers' cluster marked its bucket before: by now the mark is here, or this is another bucket.
    async fn mark_of_peers(&self, cluster: ClusterId) -> Result<Option<NodeIdentity>, NodeError> {
        match self.mark_within(self.options.join_timeout).await? {
            Some(_) => Ok(None),
            None => Err(self.other_bucket(cluster, None)),
        }
    }

    fn other_bucket(&self, cluster: ClusterId, found: Option<ClusterId>) -> NodeError {
        NodeError::OtherBucket {
            bucket: self.options.bucket_name.clone(),
            cluster,
            found,
        }
    }

    fn taken(&self, found: ClusterId) -> NodeError {
        NodeError::Taken {
            bucket: self.options.bucket_name.clone(),
            found,
        }
    }

    /// Marks the bucket as this founder's. Where another has been faster, the folder is as new, and the node joins the
    /// other's cluster if it has peers.
    async fn found(&self, file: &IdentityFile, identity: NodeIdentity) -> Result<Option<NodeIdentity>, NodeError> {
        let mark = self.mark_of(&identity);
        let there = put_mark(self.options.bucket.as_ref(), &mark).await?;
        if there.cluster_id != identity.cluster_id {
            file.remove()?;
            return match self.options.others().is_empty() {
                true => Err(self.taken(there.cluster_id)),
                false => Ok(None),
            };
        }
        tracing::info!(cluster = %identity.cluster_id, bucket = %self.options.bucket_name, "founding a cluster");
        Ok(Some(identity))
    }

    fn mark_of(&self, identity: &NodeIdentity) -> ClusterMark {
        ClusterMark {
            format: 1,
            cluster_id: identity.cluster_id,
            created_ms: self.options.clock.now().0,
            generation: identity.generation,
        }
    }

    /// A folder that has been here before: the bucket must be its cluster's, where it answers, and an ingester must not have
    /// been left behind by a recovery. Gives the cluster's generation. A restart does not wait for a bucket that does not.
    async fn confirm(&self, identity: &NodeIdentity) -> Result<u64, NodeError> {
        let options = &self.options;
        let bucket = options.bucket.as_ref();
        let mark = tokio::time::timeout(MARK_PATIENCE, read_mark(bucket)).await;
        let found = match mark {
            Ok(Ok(Some(mark))) => {
                self.has_read_mark.store(true, Ordering::Relaxed);
                mark
            }
            // Its folder is a default that nothing is put into.
            Ok(Ok(None)) if !options.uses_bucket() => return Ok(identity.generation),
            Ok(Ok(None)) => {
                let mark = serde_json::to_string(&self.mark_of(identity));
                return Err(NodeError::Unmarked {
                    bucket: options.bucket_name.clone(),
                    cluster: identity.cluster_id,
                    mark: mark.unwrap_or_default(),
                });
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot confirm the bucket's cluster; going on without");
                return Ok(identity.generation);
            }
            Err(_) => {
                tracing::warn!(bucket = %options.bucket_name, "the bucket does not answer; going on without");
                return Ok(identity.generation);
            }
        };
        if found.cluster_id != identity.cluster_id {
            return Err(NodeError::OtherCluster {
                folder: options.data_folder.display().to_string(),
                bucket: options.bucket_name.clone(),
                ours: identity.cluster_id,
                found: found.cluster_id,
            });
        }
        // One without replicas has nothing that could be of before.
        if found.generation > identity.generation && options.is_ingester() {
            return Err(NodeError::LeftBehind {
                folder: options.data_folder.display().to_string(),
                cluster: found.cluster_id,
                ours: identity.generation,
                found: found.generation,
            });
        }
        Ok(found.generation.max(identity.generation))
    }

    /// Whether the folder says who the node is, and what it has stored as that is gone. Nobody knows for whom it voted and
    /// what it has acknowledged: it must not vote again as itself, and joins as a new node. A node alone is told to its
    /// user instead ([`Self::no_replica`]).
    pub(super) async fn has_lost_its_store(
        &self,
        identity: &NodeIdentity,
        store: &NodeStore,
    ) -> Result<bool, NodeError> {
        if store.identity().is_some() || identity.founding || self.options.others().is_empty() {
            return Ok(false);
        }
        self.options.channel.membership.learn(identity.cluster_id);
        let client = self.meta_client(None)?;
        let state = self.cluster_state(&client, |state| !state.epochs.is_empty()).await?;
        let known = state.nodes.iter().find(|node| node.id == identity.node_id.0);
        // One that was of other roles had none; one that is forgotten would not be let in.
        let is_lost = known.is_none_or(|node| node.roles.iter().any(|role| role == "ingester"));
        if is_lost {
            tracing::warn!(
                node = %identity.node_id, store = %store_folder(&self.options.data_folder).display(),
                "what this node had stored is gone: it joins as a new node, and its peers fill it"
            );
        }
        Ok(is_lost)
    }

    /// Asks the cluster for a new node's id.
    pub(super) async fn join(&self, client: &MetaClient) -> Result<NodeIdentity, NodeError> {
        let state = self.cluster_state(client, |state| !state.epochs.is_empty()).await?;
        let cluster_id = self.cluster_id_of(&state)?;
        let generation = self.generation_of(cluster_id).await?;
        let answer = self.propose(client, self.registration(NodeId(0), 0)).await?;
        Ok(NodeIdentity {
            cluster_id,
            node_id: NodeId(answer.node_id),
            incarnation: 0,
            founding: false,
            generation,
        })
    }

    /// How often the cluster that is joined has been recovered, as its bucket says: what a new node has is of now. The bucket
    /// has to be the cluster's; a node without replicas goes on without one that does not answer.
    async fn generation_of(&self, cluster: ClusterId) -> Result<u64, NodeError> {
        let is_ingester = self.options.is_ingester();
        let patience = if is_ingester {
            self.options.join_timeout
        } else {
            MARK_PATIENCE
        };
        match self.mark_within(patience).await {
            Ok(Some(mark)) if mark.cluster_id == cluster => Ok(mark.generation),
            Ok(found) if self.options.uses_bucket() => {
                Err(self.other_bucket(cluster, found.map(|mark| mark.cluster_id)))
            }
            Ok(_) => Ok(0),
            Err(error) if is_ingester => Err(error),
            Err(error) => {
                tracing::warn!(%error, "joining without having read the cluster's mark");
                Ok(0)
            }
        }
    }

    /// The mark in the bucket, or why it is not known after so long.
    async fn mark_within(&self, patience: Duration) -> Result<Option<ClusterMark>, NodeError> {
        let options = &self.options;
        match tokio::time::timeout(patience, read_mark(options.bucket.as_ref())).await {
            Ok(mark) => {
                self.has_read_mark.fetch_or(mark.is_ok(), Ordering::Relaxed);
                mark
            }
            Err(_) => Err(NodeError::Bucket(format!(
                "{} has not answered within {patience:?}: check --storage.object-store, and whether this node reaches it",
                options.bucket_name
            ))),
        }
    }

    fn cluster_id_of(&self, state: &MetaState) -> Result<ClusterId, NodeError> {
        let id = state.cluster_id.parse();
        id.map_err(|e: gnomon_model::ids::BadId| NodeError::Refused(format!("its cluster id: {e}")))
    }

    /// Makes this life of the node known; initializes the cluster where it is new.
    pub(super) async fn enter(&self, client: &Arc<MetaClient>, identity: &NodeIdentity) -> Result<(), NodeError> {
        let founding = identity.founding;
        let state = self
            .cluster_state(client, |state| founding || !state.epochs.is_empty())
            .await?;
        if state.epochs.is_empty() {
            let left = self.adopt(client).await?;
            let level = left.as_ref().map_or(0, |left| left.feature_level);
            self.propose(client, self.first_map(identity, left)).await?;
            // Older builds that understand the level refuse the one before, where they come to have this log.
            self.raise(client, level).await?;
        } else {
            let found = self.cluster_id_of(&state)?;
            if found != identity.cluster_id {
                return Err(NodeError::OtherPeers {
                    folder: self.options.data_folder.display().to_string(),
                    ours: identity.cluster_id,
                    found,
                });
            }
            if founding {
                // Where it ended before it could.
                self.raise(client, state.feature_level).await?;
            }
            self.note_shards(&state);
        }
        self.refuse_copy(&state, identity.node_id, identity.incarnation)?;
        let registration = self.registration(identity.node_id, identity.incarnation);
        self.propose(client, registration).await?;
        Ok(())
    }

    /// # Errors
    /// Where the cluster knows of a start with the identity that this folder has not counted: each is counted in the folder
    /// before the cluster hears of it. `life` is this one.
    fn refuse_copy(&self, state: &MetaState, node: NodeId, life: u64) -> Result<(), NodeError> {
        let known = state.nodes.iter().find(|known| known.id == node.0);
        match known.filter(|known| known.incarnation >= life) {
            None => Ok(()),
            Some(known) => Err(NodeError::Copied {
                folder: self.options.data_folder.display().to_string(),
                node,
                address: known.address.clone(),
            }),
        }
    }

    /// The same before anything that the folder has takes part in the cluster, where somebody answers soon.
    pub(super) async fn refuse_copy_early(&self, identity: &NodeIdentity) -> Result<(), NodeError> {
        if self.options.others().is_empty() {
            return Ok(());
        }
        let asked = self.meta_client(None)?;
        match tokio::time::timeout(ANSWER_SOON, asked.read()).await {
            Ok(Ok(state)) if state.cluster_id == identity.cluster_id.to_string() => {
                self.refuse_copy(&state, identity.node_id, identity.incarnation + 1)
            }
            _ => Ok(()),
        }
    }

    /// Takes over the catalogue that an earlier cluster, or a snapshot of one, left in the bucket.
    async fn adopt(&self, client: &MetaClient) -> Result<Option<MetaState>, NodeError> {
        let Some(left) = read_newest_checkpoint(self.options.bucket.as_ref()).await? else {
            return Ok(None);
        };
        if left.epochs.is_empty() {
            return Ok(None);
        }
        tracing::info!(
            bucket = %self.options.bucket_name, blocks = left.blocks.len(), revision = left.catalogue_revision,
            "taking over the catalogue that is in the bucket"
        );
        let understands = self.options.feature_level;
        if left.feature_level > understands.0 {
            return Err(NodeError::NewerCatalogue {
                bucket: self.options.bucket_name.clone(),
                found: FeatureLevel(left.feature_level),
                understands,
            });
        }
        for command in adoption(&left) {
            self.propose(client, Command::AdoptCatalogue(command)).await?;
        }
        // Before anybody can join: an older build could not read all blocks.
        self.raise(client, left.feature_level).await?;
        Ok(Some(left))
    }

    async fn raise(&self, client: &MetaClient, level: u32) -> Result<(), NodeError> {
        if level > 0 {
            let raise = Command::RaiseFeatureLevel(RaiseFeatureLevel { level });
            self.propose(client, raise).await?;
        }
        Ok(())
    }

    /// Each core of the expected nodes has a replica of about one shard.
    fn shards_wanted(&self) -> u32 {
        let cores = || std::thread::available_parallelism().map_or(1, |n| n.get().min(256) as u32);
        let by_nodes = || cores() * self.options.expect.clamp(1, 16) / self.replicas_wanted();
        self.options.shards.unwrap_or_else(by_nodes).max(1)
    }

    fn replicas_wanted(&self) -> u32 {
        let by_nodes = if self.options.expect >= 3 { 3 } else { 1 };
        self.options.replicas.unwrap_or(by_nodes).max(1)
    }

    /// The number of shards, and of their replicas, is the first start's.
    fn note_shards(&self, state: &MetaState) {
        let there = shards_in_force(state).len();
        let is_alone = self.options.peers.is_empty();
        // What was not said is not to be missed.
        let is_wanted = self.options.shards.is_some() || is_alone;
        if self.options.is_ingester() && is_wanted && there != self.shards_wanted() as usize {
            tracing::warn!(
                shards = there,
                wanted = self.shards_wanted(),
                "the number of shards was decided at the first start: gnomon cluster reshard changes it"
            );
        }
        if self.options.is_ingester() && !is_alone && self.options.replicas.is_none() && state.replicas <= 1 {
            tracing::warn!(
                "each shard has one replica: with the disk of a node goes what it has acknowledged and not uploaded. With three \
                 ingesters `gnomon cluster replicas 3` makes it three; --cluster.expect=3 does at the very first start"
            );
        }
        if let Some(wanted) = self.options.replicas
            && wanted != state.replicas.max(1)
        {
            tracing::warn!(
                replicas = state.replicas.max(1),
                wanted,
                "the number of replicas was decided at the first start; `gnomon cluster replicas` changes it"
            );
        }
    }

    fn first_map(&self, identity: &NodeIdentity, left: Option<MetaState>) -> Command {
        let own = || PlacementEpoch {
            epoch: 1,
            from_ms: i64::MIN,
            shards: (0..self.shards_wanted()).collect(),
            by_labels: DEFAULT_PLACEMENT_LABELS.map(str::to_owned).into(),
            spreads: Vec::new(),
        };
        // Series stay in the shards whose blocks have them.
        let mut epochs = left.map_or_else(Vec::new, |left| epochs_in_force(&left).to_vec());
        if epochs.is_empty() {
            epochs.push(own());
        }
        // Those of a cluster that is to have more nodes are placed when these are there.
        let (expect, wanted) = (self.options.expect.max(1), self.replicas_wanted());
        let nodes = if expect > 1 {
            Vec::new()
        } else {
            vec![identity.node_id.0]
        };
        let replicas = |shard: &u32| ShardReplicas {
            shard: *shard,
            nodes: nodes.clone(),
        };
        let shards = epochs.iter().flat_map(|epoch| &epoch.shards).map(replicas).collect();
        let later_epochs = epochs.split_off(1);
        Command::InitCluster(InitCluster {
            cluster_id: identity.cluster_id.to_string(),
            shards,
            epoch: epochs.pop(),
            later_epochs,
            replicas: wanted,
            expect,
            founder: FOUNDER.0,
        })
    }

    /// Of a scraper as one that cannot scrape yet.
    fn registration(&self, id: NodeId, incarnation: u64) -> Command {
        let mut node = self.as_node(id, incarnation);
        super::lease::scrape_as(&mut node, super::SCRAPER_STARTING);
        Command::RegisterNode(RegisterNode {
            node: Some(node),
            lease_ms: super::lease::asked_ms(self.options.lease),
        })
    }

    /// What this node says of itself.
    pub(super) fn as_node(&self, id: NodeId, incarnation: u64) -> Node {
        let options = &self.options;
        Node {
            id: id.0,
            address: options.address.clone(),
            roles: options.roles.clone(),
            zone: options.zone.clone(),
            lease_until_ms: 0,
            incarnation,
            feature_level: options.feature_level.0,
            version: options.version.clone(),
            draining: false,
            clock_off_ms: 0,
            ring_changed_ms: 0,
        }
    }

    async fn propose(&self, client: &MetaClient, command: Command) -> Result<MetaResponse, NodeError> {
        let command = MetaCommand {
            proposed_at_ms: 0,
            command: Some(command),
        };
        // Harmless to repeat: at worst an id is given that nobody uses.
        let answer = self.until_answered(|| client.propose(command.clone())).await?;
        if answer.refused.is_empty() {
            Ok(answer)
        } else {
            Err(NodeError::Refused(answer.refused))
        }
    }

    /// The state, once it is as the caller needs it.
    pub(super) async fn cluster_state(
        &self,
        client: &MetaClient,
        enough: impl Fn(&MetaState) -> bool + Copy,
    ) -> Result<Arc<MetaState>, NodeError> {
        let read = || async move {
            let state = client.read().await?;
            if enough(&state) {
                return Ok(state);
            }
            Err(ServiceError::Unavailable("the cluster is not initialized yet".into()))
        };
        self.until_answered(read).await
    }

    /// Asks again after passing errors, for [`super::NodeOptions::join_timeout`] at most.
    async fn until_answered<T, Asking>(&self, ask: impl Fn() -> Asking) -> Result<T, NodeError>
    where
        Asking: Future<Output = Result<T, ServiceError>>,
    {
        let mut last = None;
        let asking = async {
            let mut backoff = FIRST_BACKOFF;
            let clock = &self.options.clock;
            let (began, mut said) = (clock.monotonic(), None);
            loop {
                match ask().await {
                    Ok(answer) => return Ok(answer),
                    Err(ServiceError::OtherCluster(why)) => {
                        let folder = self.options.data_folder.display().to_string();
                        return Err(NodeError::Strangers { folder, why });
                    }
                    // Whoever leads the metadata group has a full or broken disk, and another takes over soon.
                    Err(error) if error.is_retryable() || matches!(error, ServiceError::LimitExceeded(_)) => {
                        let now = clock.monotonic();
                        if said.is_none_or(|said| now.saturating_sub(said) >= SAY_AGAIN) {
                            let waited_s = now.saturating_sub(began).as_secs();
                            let peers = self.options.others().join(",");
                            if waited_s < ASK_AFTER_S {
                                tracing::info!(%error, peers, waited_s, "waiting for the metadata group");
                            } else {
                                tracing::warn!(
                                    %error, peers, waited_s,
                                    "waiting for the metadata group: do most of its ingesters run, and are these their \
                                     --cluster.listen-address?"
                                );
                            }
                            said = Some(now);
                        }
                        last = Some(error);
                    }
                    Err(error) => return Err(error.into()),
                }
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(MAX_BACKOFF);
            }
        };
        match tokio::time::timeout(self.options.join_timeout, asking).await {
            Ok(result) => result,
            Err(_) => Err(NodeError::Meta(last.unwrap_or_else(|| {
                ServiceError::DeadlineExceeded(format!("no answer within {:?}", self.options.join_timeout))
            }))),
        }
    }
}

/// What the first commands of a cluster take over from a catalogue: live blocks only, in pieces, then the deletes.
fn adoption(left: &MetaState) -> Vec<AdoptCatalogue> {
    let mut commands = Vec::new();
    let mut piece = AdoptCatalogue::default();
    let mut bytes = 0;
    for block in left.blocks.iter().filter(|b| b.state() == block_record::State::Live) {
        let length = block.encoded_len();
        if bytes + length > ADOPTED_BYTES && bytes > 0 {
            commands.push(std::mem::take(&mut piece));
            bytes = 0;
        }
        bytes += length;
        piece.blocks.push(block.clone());
    }
    commands.push(piece);
    for tombstone in &left.tombstones {
        commands.push(AdoptCatalogue {
            tombstones: vec![TombstoneRecord {
                pending_shards: Vec::new(),
                ..tombstone.clone()
            }],
            ..AdoptCatalogue::default()
        });
    }
    commands.push(AdoptCatalogue {
        catalogue_revision: left.catalogue_revision,
        forgotten_tombstone_revision: left.forgotten_tombstone_revision,
        ..AdoptCatalogue::default()
    });
    commands
}
