//! Reads that miss nothing that was acknowledged before them: confirmed here, or by the leader elsewhere.

use super::{Absent, Group, GroupInner, GroupRaft, STARTING, leader_of};
use crate::raft::ReadError;
use crate::raft::types::TypeConfig;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use gnomon_model::NodeId;
use gnomon_proto::v1;
use openraft::ReadPolicy;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{LinearizableReadError, RaftError};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// How long a replica waits for somebody to lead before it says that nobody does.
const LEADER_WITHIN: Duration = Duration::from_secs(2);

/// How long a replica waits for news where the leader that it knows does not confirm.
const NEXT_WITHIN: Duration = Duration::from_millis(50);

type ReadRound = Shared<BoxFuture<'static, Result<u64, ReadError>>>;

/// Reads that arrive while a round is under way share the next one.
#[derive(Default)]
pub(super) struct Reads {
    next: Mutex<Option<ReadRound>>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// Who confirms that nothing acknowledged is missing.
#[derive(Clone, Copy)]
enum Confirmed {
    /// This node, as the leader.
    Here,
    /// The leader, elsewhere.
    ByLeader,
}

impl Confirmed {
    const fn reads(self, inner: &GroupInner) -> &Reads {
        match self {
            Self::Here => &inner.reads,
            Self::ByLeader => &inner.followed,
        }
    }
}

impl GroupInner {
    async fn read_round(&self) -> Result<u64, ReadError> {
        let asked = self.alone.now();
        let raft = self.raft().map_err(|absent| match absent {
            Absent::Closed => ReadError::Closed,
            Absent::Starting => ReadError::Unavailable(STARTING.into()),
        })?;
        let linearizer = raft
            .get_read_linearizer(ReadPolicy::ReadIndex)
            .await
            .map_err(read_error)?;
        let applied = self.until_applied(linearizer.read_log_id().index()).await?;
        if leads_alone(&raft) {
            self.alone.confirm(asked);
        }
        Ok(applied)
    }

    /// Asks the leader, and waits until this node has applied what it says. Where there is none, and where another takes
    /// over meanwhile, that one is waited for and asked.
    async fn followed_round(&self) -> Result<u64, ReadError> {
        let mut leadership = self.leadership.subscribe();
        loop {
            let known = async { leadership.wait_for(|now| now.leader.is_some()).await.ok()?.leader };
            let Ok(Some(leader)) = tokio::time::timeout(LEADER_WITHIN, known).await else {
                return Err(ReadError::NotLeader { leader: None });
            };
            if leader == self.host.options.node {
                return self.read_round().await;
            }
            let replaced = async { leadership.wait_for(|now| now.leader != Some(leader)).await.is_ok() };
            let index = tokio::select! {
                index = self.index_of(leader) => index,
                true = replaced => continue,
                else => return Err(ReadError::Closed),
            };
            match index {
                Ok(index) => return self.until_applied(index).await,
                Err(error) => {
                    // One that leads no more says so, mostly, a moment before this node hears of the next.
                    let next = leadership.wait_for(|now| now.leader != Some(leader));
                    if !matches!(tokio::time::timeout(NEXT_WITHIN, next).await, Ok(Ok(_))) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// What the leader says that a read has to have applied.
    async fn index_of(&self, leader: NodeId) -> Result<u64, ReadError> {
        let options = &self.host.options;
        let header = v1::RaftHeader {
            cluster_id: options.cluster.0.to_be_bytes().to_vec().into(),
            from: options.node.0,
            to: leader.0,
            group: self.id.0,
        };
        let request = v1::RaftReadIndexRequest { header: Some(header) };
        let answer = options.transport.read_index(leader, request).await;
        let answer = answer.map_err(|error| ReadError::Unavailable(format!("its leader does not confirm: {error}")))?;
        Ok(answer.index)
    }

    /// The index the state stands at, which is not before `index`.
    async fn until_applied(&self, index: u64) -> Result<u64, ReadError> {
        let mut applied = self.machine.applied_next.subscribe();
        let next = applied.wait_for(|next| *next > index).await;
        Ok(next.map_err(|_| ReadError::Closed)?.saturating_sub(1))
    }
}

impl Group {
    /// Confirms with a quorum that this node leads, and returns once everything acknowledged before the call is
    /// applied: the index the state stands at, at least. Calls at the same time share one round.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        if self.inner.alone.is_confirmed() && !self.inner.closed.is_cancelled() {
            return Ok(self.inner.machine.applied_next.borrow().saturating_sub(1));
        }
        self.round(Confirmed::Here).await
    }

    /// As [`Self::read_index`], on any replica: where another node leads, that one is asked to confirm it, and what it has
    /// acknowledged is waited for here.
    ///
    /// # Errors
    /// See [`ReadError`]; `NotLeader` only where no leader is known.
    pub async fn read_index_here(&self) -> Result<u64, ReadError> {
        match self.read_index().await {
            Err(ReadError::NotLeader { .. }) => self.round(Confirmed::ByLeader).await,
            confirmed => confirmed,
        }
    }

    async fn round(&self, by: Confirmed) -> Result<u64, ReadError> {
        let round = {
            let mut next = by.reads(&self.inner).next.lock();
            match &*next {
                Some(round) => round.clone(),
                None => next.insert(self.next_round(by)).clone(),
            }
        };
        round.await
    }

    fn next_round(&self, by: Confirmed) -> ReadRound {
        let inner = Arc::downgrade(&self.inner);
        let turn = by.reads(&self.inner).turn.clone();
        async move {
            let _turn = turn.lock_owned().await;
            let inner = inner.upgrade().ok_or(ReadError::Closed)?;
            // From here on, whoever arrives needs a later round.
            by.reads(&inner).next.lock().take();
            let confirmed = async {
                match by {
                    Confirmed::Here => inner.read_round().await,
                    Confirmed::ByLeader => inner.followed_round().await,
                }
            };
            match tokio::time::timeout(inner.host.options.read_timeout, confirmed).await {
                Ok(index) => index,
                Err(_) => Err(ReadError::Unavailable("no quorum confirmed the leader in time".into())),
            }
        }
        .boxed()
        .shared()
    }
}

fn leads_alone(raft: &GroupRaft) -> bool {
    let receiver = raft.metrics();
    let metrics = receiver.borrow_watched();
    let members = metrics.membership_config.membership();
    let sets = members.get_joint_config();
    metrics.state.is_leader() && sets.len() == 1 && sets[0].len() == 1 && sets[0].contains(&metrics.id)
}

fn read_error(error: RaftError<TypeConfig, LinearizableReadError<TypeConfig>>) -> ReadError {
    match error {
        RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)) => ReadError::NotLeader {
            leader: leader_of(&forward),
        },
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(error)) => ReadError::Unavailable(error.to_string()),
        RaftError::Fatal(fatal) => ReadError::Unavailable(fatal.to_string()),
    }
}
