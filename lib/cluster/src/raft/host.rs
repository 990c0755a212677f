//! All groups of a node.

use super::codec::{self, Tag};
use super::group::{Group, GroupInner, GroupStatus};
use super::log::GroupLog;
use super::metrics::HostMetrics;
use super::recover;
use super::state::Machine;
use super::supervisor;
use super::transport::{RaftService, RaftTransport};
use super::{GroupError, StateMachine};
use crate::blocking::blocking;
use crate::store::{Backend, Identity, NodeStore, Space, StoreError, Submission, Write};
use async_trait::async_trait;
use gnomon_model::{Clock, ClusterId, GroupId, NodeId};
use gnomon_proto::service::NodesService;
use gnomon_proto::{ServiceError, v1};
use openraft::{Config, SnapshotPolicy};
use parking_lot::{Mutex, RwLock};
use prometheus::Registry;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a [`GroupHost`] needs.
#[derive(Clone)]
pub struct HostOptions {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub store: Arc<NodeStore>,
    pub transport: Arc<dyn RaftTransport>,
    pub clock: Arc<dyn Clock>,
    pub registry: Registry,
    pub timing: RaftTiming,
    /// A group's state is flushed after this many bytes of log.
    pub flush_log_bytes: u64,
    /// A proposal that is not decided within this is answered `Unknown`.
    pub propose_timeout: Duration,
    /// A read that is not confirmed within this is answered `Unavailable`.
    pub read_timeout: Duration,
}

/// The default of [`HostOptions::flush_log_bytes`].
pub const FLUSH_LOG_BYTES: u64 = 32 << 20;

/// Raft's clockwork, in milliseconds (`docs/decisions/0011-when-a-leader-is-given-up.md`). A follower that has heard nothing
/// of its leader for `election_max_ms` would vote for another, and stands for election itself after `election_min_ms` to
/// `election_max_ms` more. No answer depends on it: reads ask a quorum.
#[derive(Clone, Copy, Debug)]
pub struct RaftTiming {
    pub heartbeat_ms: u64,
    /// A follower that was sent something within this is not sent a heartbeat: two messages are `heartbeat_ms` and this apart
    /// at most, and a fifth of `heartbeat_ms`.
    pub heartbeat_min_ms: u64,
    pub election_min_ms: u64,
    /// Of the time before an election, and what a leader without answers of a quorum goes on taking writes for.
    pub election_max_ms: u64,
}

impl Default for RaftTiming {
    fn default() -> Self {
        Self {
            heartbeat_ms: 250,
            heartbeat_min_ms: 200,
            election_min_ms: 550,
            election_max_ms: 800,
        }
    }
}

impl HostOptions {
    /// The defaults for everything that need not be said.
    #[must_use]
    pub fn new(
        identity: Identity,
        store: Arc<NodeStore>,
        transport: Arc<dyn RaftTransport>,
        clock: Arc<dyn Clock>,
        registry: Registry,
    ) -> Self {
        Self {
            cluster: identity.cluster,
            node: identity.node,
            store,
            transport,
            clock,
            registry,
            timing: RaftTiming::default(),
            flush_log_bytes: FLUSH_LOG_BYTES,
            propose_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(5),
        }
    }

    fn raft_config(&self) -> Result<Config, GroupError> {
        let config = Config {
            cluster_name: self.cluster.to_string(),
            heartbeat_interval: self.timing.heartbeat_ms,
            heartbeat_min_interval: Some(self.timing.heartbeat_min_ms),
            election_timeout_min: self.timing.election_min_ms,
            election_timeout_max: self.timing.election_max_ms,
            enable_pre_vote: Some(true),
            // A restarted leader is elected again: what it may serve then is what a quorum knows.
            enable_leader_restore: Some(false),
            // Flushes are snapshots, and come by bytes; the log is purged by the supervisor.
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: 1 << 60,
            replication_lag_threshold: 1 << 60,
            // Reads of the log are limited by bytes instead.
            max_payload_entries: 4096,
            api_channel_size: Some(4096),
            backoff: "100ms 200ms 400ms ...2s".into(),
            ..Config::default()
        };
        config.validate().map_err(|error| GroupError::Config(error.to_string()))
    }
}

/// The groups of one node: opens them, keeps them running, answers their peers.
#[derive(Clone)]
pub struct GroupHost {
    shared: Arc<HostShared>,
}

pub(crate) struct HostShared {
    pub(crate) options: HostOptions,
    pub(crate) config: Arc<Config>,
    pub(crate) metrics: HostMetrics,
    groups: RwLock<HashMap<GroupId, Arc<GroupInner>>>,
    /// Of which a replica was started here, and may still have something written.
    started: Mutex<HashSet<GroupId>>,
    closed: CancellationToken,
    tasks: TaskTracker,
}

impl GroupHost {
    /// Binds the store to the node and makes a host without groups.
    ///
    /// # Errors
    /// When the store belongs to another node, or the timing makes no sense.
    pub fn new(options: HostOptions) -> Result<Self, GroupError> {
        options.store.bind(Identity {
            cluster: options.cluster,
            node: options.node,
        })?;
        let config = Arc::new(options.raft_config()?);
        let metrics = HostMetrics::new(&options.registry).map_err(|error| GroupError::Config(error.to_string()))?;
        Ok(Self {
            shared: Arc::new(HostShared {
                options,
                config,
                metrics,
                groups: RwLock::default(),
                started: Mutex::default(),
                closed: CancellationToken::new(),
                tasks: TaskTracker::new(),
            }),
        })
    }

    /// Opens a group: restores its machine, replays its log up to what is known to be committed, and runs it from
    /// then on. A new group does nothing until it is initialized here or on another of its voters.
    ///
    /// # Errors
    /// When it is open already, or its stored state cannot be used.
    pub async fn open(&self, id: GroupId, machine: Arc<dyn StateMachine>) -> Result<Group, GroupError> {
        let shared = &self.shared;
        let options = &shared.options;
        if shared.closed.is_cancelled() {
            return Err(GroupError::Closed);
        }
        let metrics = shared.metrics.group(id);
        let (store, clock) = (options.store.clone(), options.clock.clone());
        let backend = store.backend().clone();
        let given_up = blocking(move || recover::given_up(backend.as_ref(), id)).await;
        let given_up = given_up.map_err(|error| GroupError::Unavailable(error.to_string()))??;
        let machine = Machine::new(id, store, machine, options.flush_log_bytes, metrics, clock);
        let inner = Arc::new(GroupInner::new(
            id,
            shared.clone(),
            machine,
            given_up,
            shared.closed.child_token(),
        ));
        {
            let mut groups = shared.groups.write();
            if groups.contains_key(&id) {
                return Err(GroupError::AlreadyOpen(id));
            }
            groups.insert(id, inner.clone());
        }
        match supervisor::start(&inner).await {
            Ok(running) => {
                inner.running.write().replace(running.clone());
                shared.tasks.spawn(supervisor::supervise(inner.clone(), running));
                Ok(Group { inner })
            }
            Err(error) => {
                shared.groups.write().remove(&id);
                // Whoever removes it meanwhile waits for that.
                inner.ended.cancel();
                Err(error)
            }
        }
    }

    /// Ends a group here, and removes what is stored of it once one of `ask` leads it and says that this node is no member;
    /// with nobody to ask, at once. Only its vote is kept, so that a node that comes back as a member does not vote twice in a
    /// term. Whether it is gone: else it may be a member, or nobody can say, and is to be opened again.
    ///
    /// The order is what makes it safe: what was acknowledged here counts for the leader as long as this node is a member, and
    /// after its end nothing is acknowledged. A leader that takes it in again begins at nothing.
    ///
    /// # Errors
    /// When the store cannot be written; what is left is removed by the next attempt.
    pub async fn remove(&self, id: GroupId, ask: &[NodeId]) -> Result<bool, GroupError> {
        let shared = &self.shared;
        if let Some(inner) = shared.group(id) {
            inner.closed.cancel();
            inner.ended.cancelled().await;
            inner.machine.retire().await;
            shared.groups.write().remove(&id);
        }
        if !ask.is_empty() && !self.is_no_member(id, ask).await {
            return Ok(false);
        }
        remove_stored(&shared.options.store, id).await?;
        shared.metrics.forget(id);
        Ok(true)
    }

    /// Whether a node that leads the group, as a quorum confirms, says that this one has no part in it.
    pub async fn is_no_member(&self, id: GroupId, ask: &[NodeId]) -> bool {
        let options = &self.shared.options;
        for node in ask.iter().filter(|node| **node != options.node) {
            let header = v1::RaftHeader {
                cluster_id: options.cluster.0.to_be_bytes().to_vec().into(),
                from: options.node.0,
                to: node.0,
                group: id.0,
            };
            let request = v1::RaftReadIndexRequest { header: Some(header) };
            match options.transport.read_index(*node, request).await {
                Ok(answer) if !answer.members.is_empty() => return !answer.members.contains(&options.node.0),
                // Of an older build, which does not say.
                Ok(_) => {}
                Err(error) => tracing::debug!(group = %id, %node, %error, "does not say who the members are"),
            }
        }
        false
    }

    /// Groups of which something is stored here besides a vote, ascending.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn stored(&self) -> Result<Vec<GroupId>, GroupError> {
        let store = self.shared.options.store.clone();
        let found = blocking(move || stored_groups(store.backend().as_ref())).await;
        Ok(found.map_err(|error| GroupError::Unavailable(error.to_string()))??)
    }

    /// Whose groups these are.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity {
            cluster: self.shared.options.cluster,
            node: self.shared.options.node,
        }
    }

    /// Where all groups of this node stand, ascending by id.
    #[must_use]
    pub fn statuses(&self) -> Vec<(GroupId, GroupStatus)> {
        let groups: BTreeMap<_, _> = self
            .shared
            .groups
            .read()
            .iter()
            .map(|(id, g)| (*id, g.clone()))
            .collect();
        let status = |(id, inner)| (id, Group { inner }.status());
        groups.into_iter().map(status).collect()
    }

    /// A group that is open on this node.
    #[must_use]
    pub fn group(&self, id: GroupId) -> Option<Group> {
        self.shared.group(id).map(|inner| Group { inner })
    }

    /// What answers this node's peers.
    #[must_use]
    pub fn service(&self) -> Arc<dyn RaftService> {
        self.shared.clone()
    }

    /// Flushes and stops every group, then closes the store.
    pub async fn shutdown(&self) {
        self.shared.closed.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
        // Groups hold the host, and the host its groups: let go of them.
        self.shared.groups.write().clear();
        self.shared.options.store.close().await;
    }
}

/// All keys of a group in a space.
fn keys_of(id: GroupId) -> (Vec<u8>, Vec<u8>) {
    (
        id.0.to_be_bytes().to_vec(),
        id.0.saturating_add(1).to_be_bytes().to_vec(),
    )
}

/// Behind what the group has submitted and nobody waited for: were that written afterwards, there would be an index up to
/// which the log is committed, and no log.
async fn remove_stored(store: &Arc<NodeStore>, id: GroupId) -> Result<(), StoreError> {
    let (from, to) = keys_of(id);
    // What it had acknowledged counts, and that may be told of what is still being written.
    store.written().await;
    let reading = store.clone();
    let newest = blocking(move || GroupLog::newest(reading, id)).await;
    let newest = newest.map_err(|_| StoreError::Closed)??;
    let mut writes = vec![
        Write::DeleteRange(Space::Log, from.clone(), to.clone()),
        Write::DeleteRange(Space::State, from, to),
    ];
    for tag in [Tag::Committed, Tag::Purged, Tag::Generation] {
        writes.push(Write::Delete(Space::Meta, codec::meta_key(id, tag)));
    }
    if let Some(newest) = newest {
        let value = codec::log_id_to(&newest).encode_to_vec();
        writes.push(Write::Put(Space::Meta, codec::meta_key(id, Tag::Left), value));
    }
    let (sender, written) = oneshot::channel();
    let submission = Submission {
        writes,
        sync: true,
        done: Box::new(move |result| drop(sender.send(result))),
    };
    store.submit(submission).await;
    written.await.unwrap_or(Err(StoreError::Closed))
}

pub(super) fn stored_groups(backend: &dyn Backend) -> Result<Vec<GroupId>, StoreError> {
    let mut found = BTreeSet::new();
    for space in [Space::Log, Space::State] {
        let mut from = Some(GroupId::METADATA.0);
        while let Some(first) = from {
            let mut next = None;
            backend.scan(space, &first.to_be_bytes(), &[0xff; 5], &mut |key, _| {
                next = key.first_chunk::<4>().map(|id| u32::from_be_bytes(*id));
                false
            })?;
            found.extend(next.map(GroupId));
            from = next.and_then(|id| id.checked_add(1));
        }
    }
    Ok(found.into_iter().collect())
}

impl HostShared {
    /// Whether nothing of the group was started here before.
    pub(crate) fn is_first_start(&self, id: GroupId) -> bool {
        self.started.lock().insert(id)
    }

    pub(crate) fn group(&self, id: GroupId) -> Option<Arc<GroupInner>> {
        self.groups.read().get(&id).cloned()
    }
}

#[async_trait]
impl NodesService for GroupHost {
    async fn groups(&self) -> Result<v1::GroupsResponse, ServiceError> {
        let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
        let told = |(group, status): (GroupId, GroupStatus)| v1::GroupStatus {
            group: group.0,
            term: status.term,
            leader: status.leader.map_or(0, |node| node.0),
            last_log: status.last_log,
            committed: status.committed,
            applied: status.applied,
            flushed: status.flushed,
            voters: ids(&status.voters),
            learners: ids(&status.learners),
        };
        Ok(v1::GroupsResponse {
            groups: self.statuses().into_iter().map(told).collect(),
        })
    }
}

#[cfg(test)]
impl GroupHost {
    pub(crate) fn shared_metrics(&self) -> &HostMetrics {
        &self.shared.metrics
    }
}
