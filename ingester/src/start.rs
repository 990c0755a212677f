//! The role: opens a group for each shard that the shard map gives to this node, and runs its leader's duties.

use crate::duties::{Duties, DutyContext, DutyOptions};
use crate::metrics::IngesterMetrics;
use crate::service::{Shard, ShardLog, Shards, WriteOptions};
use crate::shard::ShardMachine;
use async_trait::async_trait;
use bytes::Bytes;
use gnomon_cluster::assign::{Rules, has_replica, voters};
use gnomon_cluster::clients::decide;
use gnomon_cluster::node::{Claim, GroupWishes, LastHeard, is_clock_wrong};
use gnomon_cluster::others::OtherNodes;
use gnomon_cluster::raft::{Group, GroupError, GroupHost, ProposeError, ReadError, keep_members};
use gnomon_cluster::retention::Budget;
use gnomon_model::{Clock, FeatureLevel, GroupId, NodeId, ShardId};
use gnomon_promql::QueryMemory;
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{MetaState, RaiseFeatureLevel, ShardReplicas};
use object_store::ObjectStore;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// After a shard could not be opened.
const OPEN_AGAIN: Duration = Duration::from_secs(2);
/// How often gauges of the whole node are brought up to date.
const GAUGES: Duration = Duration::from_secs(10);

#[async_trait]
impl ShardLog for Group {
    async fn propose(&self, entry: Bytes) -> Result<Bytes, ProposeError> {
        Self::propose(self, entry).await
    }
    async fn read_index(&self) -> Result<u64, ReadError> {
        Self::read_index(self).await
    }
    async fn read_index_here(&self) -> Result<u64, ReadError> {
        Self::read_index_here(self).await
    }
    fn leader(&self) -> Option<NodeId> {
        Self::leader(self)
    }
    fn is_leader(&self) -> bool {
        Self::is_leader(self)
    }
}

/// What the role is given.
pub struct IngesterOptions {
    pub node: NodeId,
    pub host: GroupHost,
    /// The metadata group: catalogue reads must be linearizable.
    pub meta: Arc<dyn MetaService>,
    /// Its state, for the shard map.
    pub meta_watch: watch::Receiver<Arc<MetaState>>,
    pub bucket: Arc<dyn ObjectStore>,
    /// Whether it may be written to.
    pub claim: Option<Arc<Claim>>,
    pub budget: Budget,
    pub clock: Arc<dyn Clock>,
    pub registry: prometheus::Registry,
    pub write: WriteOptions,
    pub duties: DutyOptions,
    /// What all who read heads may hold.
    pub read_memory: Arc<QueryMemory>,
    /// How long a shard's preferred leader has to have been there before it is handed over to.
    pub prefer_after: Duration,
    /// What this node understands.
    pub feature_level: FeatureLevel,
    /// Where other ingesters are reached: they lead what may be passed on here.
    pub others: Arc<dyn OtherNodes>,
    pub stop: CancellationToken,
}

/// A running ingester.
pub struct Ingester {
    shards: Arc<Shards>,
    metrics: IngesterMetrics,
    opened: watch::Receiver<BTreeSet<ShardId>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Why an ingester does not start.
#[derive(Debug, thiserror::Error)]
pub enum IngesterError {
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl Ingester {
    /// Starts the role; shards are opened as the shard map names them, now and later.
    ///
    /// # Errors
    /// When the registry has an ingester's metrics already.
    pub fn start(options: IngesterOptions) -> Result<Self, IngesterError> {
        let metrics = IngesterMetrics::register(&options.registry)?;
        let shards = Shards::new(options.write.clone(), options.clock.clone(), metrics.clone());
        let shards = shards.among(options.others.clone());
        let shards = Arc::new(shards);
        let stop = options.stop.child_token();
        let tasks = TaskTracker::new();
        let (sender, opened) = watch::channel(BTreeSet::new());
        let context = DutyContext {
            options: options.duties.clone(),
            meta: options.meta.clone(),
            states: options.meta_watch.clone(),
            bucket: options.bucket.clone(),
            claim: options.claim.clone(),
            budget: options.budget.clone(),
            clock: options.clock.clone(),
            metrics: metrics.clone(),
        };
        let opener = Opener {
            node: options.node,
            host: options.host,
            clock: options.clock,
            context,
            shards: shards.clone(),
            read_memory: options.read_memory,
            prefer_after: options.prefer_after,
            feature_level: options.feature_level,
            tasks: tasks.clone(),
            stop: stop.clone(),
            running: Mutex::default(),
            is_tidy: AtomicBool::new(false),
            half_open: Mutex::default(),
            opened: sender,
        };
        tasks.spawn(opener.run(options.meta_watch));
        tasks.spawn(show_gauges(shards.clone(), metrics.clone(), stop.clone()));
        Ok(Self {
            shards,
            metrics,
            opened,
            stop,
            tasks,
        })
    }

    /// Both services of this node's shards, to be called or served.
    #[must_use]
    pub fn shards(&self) -> Arc<Shards> {
        self.shards.clone()
    }

    #[must_use]
    pub fn metrics(&self) -> &IngesterMetrics {
        &self.metrics
    }

    /// Shards that are open: those that the map gives to this node, once it is ready.
    #[must_use]
    pub fn opened(&self) -> watch::Receiver<BTreeSet<ShardId>> {
        self.opened.clone()
    }

    /// Stops the leader's duties. Groups are stopped by their host.
    pub async fn shutdown(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Opens shards, and removes those that have gone elsewhere.
struct Opener {
    node: NodeId,
    host: GroupHost,
    clock: Arc<dyn Clock>,
    context: DutyContext,
    shards: Arc<Shards>,
    read_memory: Arc<QueryMemory>,
    prefer_after: Duration,
    feature_level: FeatureLevel,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// What ends a shard's own tasks, and waits for them.
    running: Mutex<BTreeMap<ShardId, (CancellationToken, TaskTracker)>>,
    /// Nothing is left here that an earlier life of the node had and nobody knows any more.
    is_tidy: AtomicBool,
    /// Groups that run and could not be founded yet.
    half_open: Mutex<BTreeMap<ShardId, (Arc<ShardMachine>, Group)>>,
    opened: watch::Sender<BTreeSet<ShardId>>,
}

impl Opener {
    async fn run(self, mut states: watch::Receiver<Arc<MetaState>>) {
        // Whom a limit waits for, once told.
        let mut waits_for = None;
        loop {
            let state = states.borrow_and_update().clone();
            self.shards.set_feature_level(state.feature_level);
            let ingesters = state
                .nodes
                .iter()
                .filter(|node| node.roles.iter().any(|role| role == "ingester"));
            let believed = &self.shards.believed;
            believed.set_has_others(ingesters.count() > 1);
            // Looked at now and then, it is known before it jumps.
            let now = believed.now();
            believed.set_known_wrong(is_clock_wrong(&state, self.node, now.0));
            let failed = self.open_all(&state).await | self.remove_others(&state).await;
            let raised = tokio::select! {
                () = self.stop.cancelled() => return,
                raised = self.raise_feature_level(&state, &mut waits_for) => raised,
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.shards.level_wanted.notified() => {}
                changed = states.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(OPEN_AGAIN), if failed || !raised => {}
            }
        }
    }

    /// Whether the cluster is at the feature level that is wanted, or will be once this is decided.
    async fn raise_feature_level(&self, state: &MetaState, waits_for: &mut Option<u64>) -> bool {
        let Some((level, what)) = self.shards.wanted_feature_level() else {
            return true;
        };
        // The next change of a node is heard of.
        if let Some(node) = state.nodes.iter().find(|node| node.feature_level < level) {
            if waits_for.replace(node.id) != Some(node.id) {
                let (node, understands) = (node.id, node.feature_level);
                tracing::warn!(
                    node,
                    understands,
                    level,
                    "{what}: in force once all nodes understand it; start newer builds"
                );
            }
            return true;
        }
        let raise = Command::RaiseFeatureLevel(RaiseFeatureLevel { level });
        match decide(self.context.meta.as_ref(), raise).await {
            Ok(answer) if answer.refused.is_empty() => true,
            Ok(answer) => {
                tracing::warn!(
                    level,
                    refused = answer.refused,
                    "{what}: not in force before all nodes understand it"
                );
                false
            }
            Err(error) => {
                tracing::debug!(%error, level, "the feature level was not raised");
                false
            }
        }
    }

    /// Opens what is not open; whether something could not be.
    async fn open_all(&self, state: &MetaState) -> bool {
        // Also what is stored here and given to others: whether it is over is for the replica itself to say.
        let here = self.here(state).await;
        let is_here = |s: &&ShardReplicas| has_replica(state, s, self.node.0) || here.contains(&ShardId(s.shard));
        // At once: each replays its log on a core of its own.
        let opening = state
            .shards
            .iter()
            .filter(is_here)
            .filter(|s| !self.shards.has(ShardId(s.shard)))
            .map(|s| self.open_or_tell(s, self.founds(state, s)));
        futures::future::join_all(opening).await.contains(&false)
    }

    /// The first of the replicas founds a group, once: where it has voters, these bring this node up to date. Of a
    /// placement epoch that is not open yet any of the replicas may, all by the same list, so that one that is away does not
    /// keep the epoch waiting.
    fn founds(&self, state: &MetaState, replicas: &ShardReplicas) -> bool {
        let opening = state.epoch_change.as_ref().map_or(&[][..], |change| &change.opening);
        let is_new = voters(state, GroupId::of_shard(ShardId(replicas.shard))).is_empty();
        is_new && (replicas.nodes.first() == Some(&self.node.0) || opening.contains(&replicas.shard))
    }

    /// Removes what is here and belongs to others now; whether something could not be.
    async fn remove_others(&self, state: &MetaState) -> bool {
        // A state that is not known yet gives nothing away.
        if state.epochs.is_empty() {
            return false;
        }
        let mut failed = false;
        for shard in self.here(state).await {
            // Only a membership that is newer than its own says that it is no member any more.
            let is_over = match self.host.group(GroupId::of_shard(shard)) {
                // While it is starting again it cannot say what it knows.
                Some(group) => group
                    .members_known_at()
                    .is_some_and(|at| is_removed(state, shard, self.node, at)),
                None => !state.shards.iter().any(|s| s.shard == shard.0),
            };
            if is_over {
                failed |= !self.remove_or_tell(state, shard).await;
            }
        }
        failed
    }

    /// Shards that are here, open or not.
    async fn here(&self, state: &MetaState) -> BTreeSet<ShardId> {
        let mut here: BTreeSet<ShardId> = self.running.lock().keys().copied().collect();
        if !self.is_tidy.load(Ordering::Relaxed) {
            here.extend(self.left_behind(state).await);
        }
        here
    }

    /// What an earlier life of the node has left; looked for once.
    async fn left_behind(&self, state: &MetaState) -> Vec<ShardId> {
        match self.host.stored().await {
            Ok(groups) => {
                let shards: Vec<ShardId> = groups.into_iter().filter_map(GroupId::shard).collect();
                let all_known = shards
                    .iter()
                    .all(|shard| state.shards.iter().any(|s| s.shard == shard.0));
                self.is_tidy.store(all_known, Ordering::Relaxed);
                shards
            }
            Err(error) => {
                tracing::warn!(%error, "cannot see which shards are stored here");
                Vec::new()
            }
        }
    }

    /// Whether the shard is gone from here.
    async fn remove_or_tell(&self, state: &MetaState, shard: ShardId) -> bool {
        let group = GroupId::of_shard(shard);
        // A shard that is over has nobody to ask.
        let is_over = !state.shards.iter().any(|s| s.shard == shard.0);
        let ask: Vec<NodeId> = match is_over {
            true => Vec::new(),
            false => voters(state, group).iter().copied().map(NodeId).collect(),
        };
        // Before anything is closed that may have to be opened again.
        if !ask.is_empty() && !self.host.is_no_member(group, &ask).await {
            return false;
        }
        self.shards.remove(shard);
        self.opened.send_if_modified(|open| open.remove(&shard));
        let tasks = self.running.lock().get(&shard).cloned();
        if let Some((stop, tasks)) = tasks {
            stop.cancel();
            tasks.close();
            tasks.wait().await;
        }
        match self.host.remove(group, &ask).await {
            Ok(false) => {
                // It is looked for, and opened, with what else is stored here.
                self.running.lock().remove(&shard);
                self.is_tidy.store(false, Ordering::Relaxed);
                tracing::info!(%shard, "no leader says that the shard is not of this node any more; its replica stays");
                false
            }
            Ok(true) => {
                self.running.lock().remove(&shard);
                tracing::info!(%shard, "the shard is not of this node any more; its replica here is removed");
                true
            }
            Err(error) => {
                tracing::error!(%shard, %error, "the shard's replica was not removed, it will be tried again");
                false
            }
        }
    }

    /// Whether the shard is open.
    async fn open_or_tell(&self, replicas: &ShardReplicas, founds: bool) -> bool {
        let opened = self.open(replicas, founds).await;
        if let Err(error) = &opened {
            tracing::error!(shard = replicas.shard, %error, "shard not opened, it will be tried again");
        }
        opened.is_ok()
    }

    async fn open(&self, replicas: &ShardReplicas, founds: bool) -> Result<(), GroupError> {
        let shard = ShardId(replicas.shard);
        let started = self.clock.monotonic();
        let machine = ShardMachine::new(shard)
            .understanding(self.feature_level)
            .with_read_memory(Arc::clone(&self.read_memory));
        let machine = Arc::new(machine);
        let id = GroupId::of_shard(shard);
        let half_open = self.half_open.lock().remove(&shard);
        let (machine, group) = match half_open {
            Some(before) => before,
            None => (machine.clone(), self.host.open(id, machine).await?),
        };
        if founds && let Err(error) = found(&group, replicas).await {
            self.half_open.lock().insert(shard, (machine, group));
            return Err(error);
        }
        let stop = self.stop.child_token();
        let tasks = TaskTracker::new();
        let wishes = GroupWishes {
            group: id,
            node: self.node,
            states: self.context.states.clone(),
            meta: self.context.meta.clone(),
            clock: self.clock.clone(),
            rules: watch::channel(Rules::default()).1,
            heard: LastHeard::default(),
            prefer_after: self.prefer_after,
        };
        tasks.spawn(keep_members(
            group.clone(),
            self.node,
            Arc::new(wishes),
            self.clock.clone(),
            stop.clone(),
        ));
        let open = Arc::new(Shard::new(machine, Arc::new(group), self.clock.clone()));
        let series = open.machine.read(crate::shard::series_count);
        let took_ms = self.clock.monotonic().saturating_sub(started).as_millis() as u64;
        tracing::info!(shard = replicas.shard, series, took_ms, "shard opened");
        self.shards.add(open.clone());
        self.opened.send_modify(|all| {
            all.insert(shard);
        });
        tasks.spawn(Duties::new(self.context.clone(), open).run(stop.clone()));
        tasks.close();
        self.running.lock().insert(shard, (stop, tasks.clone()));
        self.tasks.spawn(async move { tasks.wait().await });
        Ok(())
    }
}

async fn found(group: &Group, replicas: &ShardReplicas) -> Result<(), GroupError> {
    if group.is_initialized().await? {
        return Ok(());
    }
    let nodes: Vec<_> = replicas.nodes.iter().copied().map(NodeId).collect();
    match group.initialize(&nodes).await {
        Ok(()) | Err(GroupError::Members(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whether a replica of this node that knows the membership as of a log index is one no more.
fn is_removed(state: &MetaState, shard: ShardId, node: NodeId, known_at: u64) -> bool {
    let Some(wished) = state.shards.iter().find(|s| s.shard == shard.0) else {
        return true;
    };
    let group = GroupId::of_shard(shard);
    let told = state.members.iter().find(|m| m.group == group.0);
    let is_news = told.is_some_and(|m| m.at_index > known_at && !m.voters.contains(&node.0));
    is_news && !wished.nodes.contains(&node.0)
}

async fn show_gauges(shards: Arc<Shards>, metrics: IngesterMetrics, stop: CancellationToken) {
    loop {
        shards.show(&metrics);
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(GAUGES) => {}
        }
    }
}

#[cfg(test)]
mod tests;
