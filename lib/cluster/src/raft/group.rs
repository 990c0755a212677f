//! The handle by which the rest of the node uses a group.

mod reads;

use super::host::HostShared;
use super::log::GroupLog;
use super::network::NoWrites;
use super::state::{Machine, MachineAdapter};
use super::types::{Command, LogId, TypeConfig};
use super::{GroupError, MAX_ENTRY_BYTES, ProposeError};
use bytes::Bytes;
use futures::stream::StreamExt;
use gnomon_model::{GroupId, NodeId};
use openraft::async_runtime::Instant as _;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, ForwardReason, ForwardToLeader, InitializeError, RaftError};
use openraft::raft::WriteResult;
use openraft::{ChangeMembers, EmptyNode, Raft};
use parking_lot::RwLock;
use reads::Reads;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio_util::sync::CancellationToken;

pub(crate) type GroupRaft = Raft<TypeConfig, MachineAdapter>;

/// Payload bytes a group takes in before their entries are applied; callers wait for room.
const INFLIGHT_BYTES: usize = 64 << 20;

/// One group on this node. Cheap to clone; all clones are the same group, also across its restarts.
#[derive(Clone)]
pub struct Group {
    pub(crate) inner: Arc<GroupInner>,
}

pub(crate) struct GroupInner {
    pub(crate) id: GroupId,
    pub(crate) host: Arc<HostShared>,
    pub(crate) machine: Arc<Machine>,
    /// Nodes that had a part in it before it was recovered here: what comes from them is refused, and they get nothing.
    pub(crate) given_up: BTreeSet<u64>,
    /// Other members whose disks take no writes.
    pub(crate) no_writes: NoWrites,
    pub(crate) running: RwLock<Option<Running>>,
    pub(crate) closed: CancellationToken,
    /// Nothing of it runs any more.
    pub(crate) ended: CancellationToken,
    pub(crate) leadership: watch::Sender<Leadership>,
    inflight: Semaphore,
    reads: Reads,
    /// Those for which the leader, another node, is asked.
    followed: Reads,
    pub(crate) alone: Alone,
}

/// Whether this node is the group's only voter and leads it: then whatever was acknowledged was so after it was applied
/// here, and a read need not ask Raft.
///
/// Nobody else can come to lead without a change of members that begins here, on this [`Group`]: from the first one on,
/// even an attempted one, every read asks.
#[derive(Debug, Default)]
pub(crate) struct Alone {
    /// How often the group has started again here.
    restarts: AtomicU64,
    /// 1 + the restarts when a read that Raft has answered found it so; 0 before the first.
    confirmed: AtomicU64,
}

impl Alone {
    const NEVER: u64 = u64::MAX;

    fn is_confirmed(&self) -> bool {
        self.confirmed.load(Ordering::SeqCst) == self.now()
    }

    fn now(&self) -> u64 {
        1 + self.restarts.load(Ordering::SeqCst)
    }

    /// `when` is what [`Self::now`] was before Raft was asked.
    fn confirm(&self, when: u64) {
        let unless_never = |known| (known != Self::NEVER).then_some(when);
        let _ = self
            .confirmed
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, unless_never);
    }

    /// The group starts again here, and has yet to apply what it had.
    pub(crate) fn ask_again(&self) {
        self.restarts.fetch_add(1, Ordering::SeqCst);
    }

    /// Before a change of members.
    fn end(&self) {
        self.confirmed.store(Self::NEVER, Ordering::SeqCst);
    }
}

/// One incarnation of a group.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) raft: GroupRaft,
    pub(crate) log: GroupLog,
    pub(crate) adapter: MachineAdapter,
    /// The newest entry of a replica that was removed here, where this one began with less.
    pub(crate) left: Option<LogId>,
}

/// Who leads, as this node knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    pub term: u64,
    pub leader: Option<NodeId>,
    /// This node leads.
    pub here: bool,
}

/// Where a group stands on this node. Indexes are 0 where there is nothing yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupStatus {
    pub term: u64,
    pub leader: Option<NodeId>,
    pub last_log: u64,
    pub committed: u64,
    pub applied: u64,
    /// A restart replays strictly after this.
    pub flushed: u64,
    /// Entries up to this were removed from the log.
    pub purged: u64,
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    /// Two sets of voters are in force: a change of them is under way, or was left so by a leader that is gone.
    pub is_joint: bool,
    /// The membership's own place in the log.
    pub members_at: u64,
    /// On the leader, up to where each other member has the log.
    pub matched: BTreeMap<NodeId, u64>,
    /// On the leader, other members that have acknowledged nothing, not even a heartbeat, for [`SILENT_AFTER`].
    pub silent: BTreeSet<NodeId>,
    /// On the leader, members whose disks take no writes, as they have said with their last heartbeats, or itself.
    pub no_writes: BTreeSet<NodeId>,
}

/// Four heartbeats.
const SILENT_AFTER: Duration = Duration::from_secs(1);

impl GroupInner {
    pub(crate) fn new(
        id: GroupId,
        host: Arc<HostShared>,
        machine: Arc<Machine>,
        given_up: BTreeSet<u64>,
        closed: CancellationToken,
    ) -> Self {
        Self {
            id,
            host,
            machine,
            given_up,
            no_writes: NoWrites::default(),
            running: RwLock::new(None),
            closed,
            ended: CancellationToken::new(),
            leadership: watch::Sender::new(Leadership::default()),
            inflight: Semaphore::new(INFLIGHT_BYTES),
            reads: Reads::default(),
            followed: Reads::default(),
            alone: Alone::default(),
        }
    }

    pub(crate) fn running(&self) -> Option<Running> {
        self.running.read().clone()
    }

    fn raft(&self) -> Result<GroupRaft, Absent> {
        if self.closed.is_cancelled() {
            return Err(Absent::Closed);
        }
        self.running().map(|running| running.raft).ok_or(Absent::Starting)
    }

    async fn room(&self, bytes: usize) -> Result<SemaphorePermit<'_>, ProposeError> {
        // At least a little, so that empty entries are bounded too; never more than there is.
        let wanted = u32::try_from(bytes.clamp(256, INFLIGHT_BYTES)).unwrap_or(u32::MAX);
        self.inflight
            .acquire_many(wanted)
            .await
            .map_err(|_| ProposeError::Closed)
    }

    /// For lack of space on this node's disk, or a fault of it. The metadata group writes little, and its writes make room:
    /// retention, for one.
    pub(crate) fn takes_no_writes(&self) -> bool {
        let store = &self.machine.store;
        store.trouble().is_some() || (self.id != GroupId::METADATA && store.low_disk().is_some())
    }

    /// What can be said without asking Raft.
    fn check(&self, payload: &Bytes) -> Result<GroupRaft, ProposeError> {
        if payload.len() > MAX_ENTRY_BYTES {
            return Err(ProposeError::TooLarge { bytes: payload.len() });
        }
        let store = &self.machine.store;
        if let Some(why) = store.trouble() {
            return Err(ProposeError::BadDisk(why.to_string()));
        }
        // The metadata group writes little, and its writes make room: retention, for one.
        if let Some(low) = store.low_disk()
            && self.id != GroupId::METADATA
        {
            return Err(ProposeError::LowDisk {
                folder: low.folder,
                free_bytes: low.free_bytes,
                needed_bytes: low.needed_bytes,
            });
        }
        self.raft().map_err(|absent| match absent {
            Absent::Closed => ProposeError::Closed,
            Absent::Starting => ProposeError::Unavailable(STARTING.into()),
        })
    }

    /// A leader that has not heard from a quorum yet (just elected) or for a while (cut off) takes nothing; it is asked
    /// again for a moment.
    async fn write(&self, payload: Bytes) -> Result<Bytes, ProposeError> {
        for _ in 0..LEASE_TRIES {
            let raft = self.check(&payload)?;
            match raft.client_write(Command(payload.clone())).await {
                Ok(response) => return Ok(response.data),
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))
                    if forward.reason == ForwardReason::LeaseExpired => {}
                Err(error) => return Err(propose_error(error)),
            }
            tokio::time::sleep(LEASE_WAIT).await;
        }
        Err(ProposeError::Unavailable(NO_QUORUM.into()))
    }

    /// What the work gives, or `Unknown` when that takes too long or the disk takes no writes.
    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, ProposeError> {
        tokio::select! {
            done = tokio::time::timeout(self.host.options.propose_timeout, work) => {
                done.map_err(|_| ProposeError::Unknown("no quorum answered in time".into()))
            }
            why = self.machine.store.in_trouble(TROUBLE_LASTS) => Err(ProposeError::Unknown(why.to_string())),
        }
    }
}

enum Absent {
    Starting,
    Closed,
}

const STARTING: &str = "it is starting on this node";
const NO_QUORUM: &str = "its leader has not heard from a quorum lately";

/// Trouble with the disk that is over within this (the ballast was given up, say) is not told to callers.
const TROUBLE_LASTS: Duration = Duration::from_millis(750);

/// How often and after what a leader without a confirmed lease is asked again.
const LEASE_TRIES: u32 = 50;
const LEASE_WAIT: Duration = Duration::from_millis(20);

impl Group {
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.inner.id
    }

    /// Proposes an entry; answers with the machine's response after it is committed and applied here. Waits while too
    /// much is under way.
    ///
    /// # Errors
    /// See [`ProposeError`]: all but `Unknown` say that nothing was done.
    pub async fn propose(&self, payload: Bytes) -> Result<Bytes, ProposeError> {
        let inner = &self.inner;
        inner.check(&payload)?;
        let _room = inner.room(payload.len()).await?;
        inner.machine.metrics.proposals.inc();
        inner.in_time(inner.write(payload)).await?
    }

    /// Proposes entries one after the other without waiting between them; answers in order, one per payload. Where one
    /// is too large, or the group takes nothing, none is proposed and all have that error.
    pub async fn propose_many(&self, payloads: Vec<Bytes>) -> Vec<Result<Bytes, ProposeError>> {
        let count = payloads.len();
        let mut answers = Vec::with_capacity(count);
        if let Err(error) = self.write_many(payloads, &mut answers).await {
            // What was not handed to Raft was not done; what was, but not answered, is unknown.
            answers.resize_with(count, || Err(error.clone()));
        }
        answers
    }

    async fn write_many(
        &self,
        payloads: Vec<Bytes>,
        answers: &mut Vec<Result<Bytes, ProposeError>>,
    ) -> Result<(), ProposeError> {
        let inner = &self.inner;
        let count = payloads.len();
        let mut raft = None;
        for payload in &payloads {
            raft = Some(inner.check(payload)?);
        }
        let Some(raft) = raft else { return Ok(()) };
        let _room = inner.room(payloads.iter().map(Bytes::len).sum()).await?;
        inner.machine.metrics.proposals.inc_by(payloads.len() as u64);
        let unknown = |_: Fatal<TypeConfig>| ProposeError::Unknown("the group is restarting".into());
        let commands = payloads.into_iter().map(Command);
        let mut results = raft.client_write_many(commands).await.map_err(unknown)?;
        loop {
            match inner.in_time(results.next()).await? {
                Some(result) => answers.push(write_result(result.map_err(unknown)?)),
                None => return Err(ProposeError::Unknown("the group is restarting".into())),
            }
            if answers.len() == count {
                return Ok(());
            }
        }
    }

    /// The leader, as far as this node knows.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.inner.leadership.borrow().leader
    }

    /// Whether this node leads, as far as it knows; another may have taken over already.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.inner.leadership.borrow().here
    }

    /// Changes of leadership.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.subscribe()
    }

    /// The index up to which the state in memory has applied the log, plus one; and its changes.
    #[must_use]
    pub fn applied_next(&self) -> watch::Receiver<u64> {
        self.inner.machine.applied_next.subscribe()
    }

    #[must_use]
    pub fn status(&self) -> GroupStatus {
        let flushed = self.inner.machine.flushed_index.load(Ordering::Acquire);
        let Some(running) = self.inner.running() else {
            return GroupStatus {
                flushed,
                ..GroupStatus::default()
            };
        };
        let receiver = running.raft.metrics();
        let metrics = receiver.borrow_watched();
        let members = metrics.membership_config.membership();
        let (first, last) = running.log.bounds();
        GroupStatus {
            term: metrics.current_term,
            leader: metrics.current_leader.map(NodeId),
            last_log: last.unwrap_or(0),
            committed: metrics.local_committed.map_or(0, |id| id.index),
            applied: self.inner.machine.applied_next.borrow().saturating_sub(1),
            flushed,
            purged: first.saturating_sub(1),
            voters: members.voter_ids().map(NodeId).collect(),
            learners: members.learner_ids().map(NodeId).collect(),
            is_joint: members.get_joint_config().len() > 1,
            members_at: metrics.membership_config.log_id().map_or(0, |id| id.index),
            matched: metrics
                .replication
                .iter()
                .flatten()
                .map(|(id, upto)| (NodeId(*id), upto.map_or(0, |id| id.index)))
                .collect(),
            silent: metrics
                .heartbeat
                .iter()
                .flatten()
                .filter(|(_, heard)| heard.as_ref().is_none_or(|at| at.elapsed() > SILENT_AFTER))
                .map(|(id, _)| NodeId(*id))
                .collect(),
            no_writes: {
                let mut nodes = self.inner.no_writes.nodes();
                if self.inner.takes_no_writes() {
                    nodes.insert(self.inner.host.options.node);
                }
                nodes
            },
        }
    }

    /// The log index of the membership that it knows, 0 where it knows none; none while it is starting again.
    #[must_use]
    pub fn members_known_at(&self) -> Option<u64> {
        let running = self.inner.running()?;
        let receiver = running.raft.metrics();
        let metrics = receiver.borrow_watched();
        Some(metrics.membership_config.log_id().map_or(0, |id| id.index))
    }

    /// Makes the state durable as it is now.
    ///
    /// # Errors
    /// When the group is not running or the store fails; the group restarts itself then.
    pub async fn flush(&self) -> Result<(), GroupError> {
        let running = self.running()?;
        let flushed = running.adapter.flush().await;
        flushed.map_err(|error| GroupError::Unavailable(error.to_string()))?;
        self.inner.machine.flush_due.notify_one();
        Ok(())
    }

    /// Whether the group has members, which it gets by [`Self::initialize`] on one of them.
    ///
    /// # Errors
    /// When the group is not running.
    pub async fn is_initialized(&self) -> Result<bool, GroupError> {
        let raft = self.running()?.raft;
        raft.is_initialized().await.map_err(fatal_error)
    }

    /// Gives a new group its voters. Done once, on one of them.
    ///
    /// # Errors
    /// `Members` where the group has members already, or this node is not among them.
    pub async fn initialize(&self, voters: &[NodeId]) -> Result<(), GroupError> {
        let nodes: BTreeMap<u64, EmptyNode> = voters.iter().map(|id| (id.0, EmptyNode::new())).collect();
        let result = self.running()?.raft.initialize(nodes).await;
        result.map_err(|error| match error {
            RaftError::Fatal(fatal) => fatal_error(fatal),
            RaftError::APIError(InitializeError::NotAllowed(_)) => {
                GroupError::Members(format!("group {} has members already", self.inner.id))
            }
            RaftError::APIError(other) => GroupError::Members(other.to_string()),
        })
    }

    /// Adds a member without a vote; returns once it is committed, before it has caught up.
    ///
    /// # Errors
    /// `NotLeader` elsewhere; `Members` when the change is not possible now.
    pub async fn add_learner(&self, node: NodeId) -> Result<(), GroupError> {
        self.inner.alone.end();
        let added = self.running()?.raft.add_learner(node.0, EmptyNode::new(), false).await;
        added.map(drop).map_err(members_error)
    }

    /// Makes exactly these members the voters; each must be a learner or voter already. Others are removed.
    ///
    /// # Errors
    /// `NotLeader` elsewhere; `Members` when the change is not possible now.
    pub async fn change_membership(&self, voters: &[NodeId]) -> Result<(), GroupError> {
        self.inner.alone.end();
        let ids: BTreeSet<u64> = voters.iter().map(|id| id.0).collect();
        let changed = self.running()?.raft.change_membership(ids, false).await;
        changed.map(drop).map_err(members_error)
    }

    /// Takes a member without a vote out of the group.
    ///
    /// # Errors
    /// `NotLeader` elsewhere; `Members` when the change is not possible now.
    pub async fn remove_learner(&self, node: NodeId) -> Result<(), GroupError> {
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([node.0]));
        let changed = self.running()?.raft.change_membership(change, false).await;
        changed.map(drop).map_err(members_error)
    }

    /// Asks a voter to take over leadership. Whether it did shows in [`Self::leadership`].
    ///
    /// # Errors
    /// When the group is not running.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), GroupError> {
        let raft = self.running()?.raft;
        raft.trigger().transfer_leader(to.0).await.map_err(fatal_error)
    }

    fn running(&self) -> Result<Running, GroupError> {
        if self.inner.closed.is_cancelled() {
            return Err(GroupError::Closed);
        }
        let starting = || GroupError::Unavailable(STARTING.into());
        self.inner.running().ok_or_else(starting)
    }
}

fn leader_of(forward: &ForwardToLeader<TypeConfig>) -> Option<NodeId> {
    forward.leader_id.map(NodeId)
}

fn propose_error(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> ProposeError {
    match error {
        RaftError::APIError(error) => write_error(&error),
        RaftError::Fatal(fatal) => ProposeError::Unknown(format!("the group is restarting: {fatal}")),
    }
}

fn write_error(error: &ClientWriteError<TypeConfig>) -> ProposeError {
    match error {
        ClientWriteError::ForwardToLeader(forward) if forward.reason == ForwardReason::LeaseExpired => {
            ProposeError::Unavailable(NO_QUORUM.into())
        }
        ClientWriteError::ForwardToLeader(forward) => ProposeError::NotLeader {
            leader: leader_of(forward),
        },
        other => ProposeError::Unknown(other.to_string()),
    }
}

fn write_result(result: WriteResult<TypeConfig>) -> Result<Bytes, ProposeError> {
    result
        .map(|written| written.response)
        .map_err(|error| write_error(&error))
}

fn fatal_error(fatal: Fatal<TypeConfig>) -> GroupError {
    GroupError::Unavailable(fatal.to_string())
}

fn members_error(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> GroupError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => GroupError::NotLeader {
            leader: leader_of(&forward),
        },
        RaftError::APIError(other) => GroupError::Members(other.to_string()),
        RaftError::Fatal(fatal) => fatal_error(fatal),
    }
}

#[cfg(test)]
mod tests {
    use super::Alone;

    #[test]
    fn being_alone_is_found_out_again_after_a_restart_and_never_after_a_change() {
        let alone = Alone::default();
        assert!(!alone.is_confirmed());
        let asked = alone.now();
        alone.confirm(asked);
        assert!(alone.is_confirmed());
        alone.ask_again();
        assert!(!alone.is_confirmed());
        // An answer that was under way when it started again.
        alone.confirm(asked);
        assert!(!alone.is_confirmed());
        let asked = alone.now();
        alone.confirm(asked);
        assert!(alone.is_confirmed());
        alone.end();
        alone.confirm(asked);
        alone.ask_again();
        alone.confirm(alone.now());
        assert!(!alone.is_confirmed());
    }
}
