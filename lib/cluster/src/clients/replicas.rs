//! Which replica of a shard a read is made of: the leader, which needs not be waited for; another one where it is away, or
//! slow or busy, or was slow a moment ago. A replica that does not lead asks the leader what it has to have applied first.

use super::Directory;
use gnomon_model::{NodeId, ShardId};
use gnomon_proto::ServiceError;
use gnomon_proto::service::ShardReadService;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tower::retry::budget::{Budget, TpsBudget};

/// Attempts of one read, leaders followed and elections waited for. Going from one that is busy to the next is none.
const MAX_ATTEMPTS: u32 = 16;
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const MAX_BACKOFF: Duration = Duration::from_millis(500);
/// No further attempt is made after so long. A leader that is killed is replaced within three seconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// A replica that has not begun to answer after so long has another one asked beside it.
const HEDGE_AFTER: Duration = Duration::from_secs(1);
/// Second askings: a tenth of all reads at most, and five a second always.
const HEDGE_SHARE: f32 = 0.1;
const HEDGES_PER_SECOND: u32 = 5;
const HEDGE_WINDOW: Duration = Duration::from_secs(10);
/// For so long a node that was slower than another is asked after the others.
const SLOW_FOR: Duration = Duration::from_secs(5);

/// Whether another replica may do better.
pub(super) fn is_passing(error: &ServiceError) -> bool {
    matches!(
        error,
        ServiceError::Unavailable(_) | ServiceError::Busy(_) | ServiceError::Unknown(_) | ServiceError::OtherCluster(_)
    )
}

/// See the module.
pub(super) struct Replicas {
    pub(super) directory: Arc<Directory>,
    budget: TpsBudget,
    /// Nodes that were slow, until when by the monotonic clock.
    slow: Mutex<HashMap<NodeId, Duration>>,
}

impl Replicas {
    pub(super) fn new(directory: Arc<Directory>) -> Self {
        Self {
            directory,
            budget: TpsBudget::new(HEDGE_WINDOW, HEDGES_PER_SECOND, HEDGE_SHARE),
            slow: Mutex::default(),
        }
    }

    /// Whether a shard has another replica to go on with, or one that is reached over a connection, which may break.
    pub(super) fn may_be_lost(&self, shard: ShardId) -> bool {
        let own = self.directory.node_id();
        self.directory.replicas(shard).iter().any(|node| *node != own)
    }

    pub(super) fn note_slow(&self, node: NodeId) {
        let until = self.directory.clock.monotonic() + SLOW_FOR;
        self.slow.lock().insert(node, until);
    }

    /// Asks replicas of a shard until one answers, with a result or with an error that another would give as well; also
    /// tells which one. `ask` is given whether the replica may answer though it does not lead. `lost` is one that has just
    /// broken off.
    ///
    /// # Errors
    /// What the shard says; `Unavailable` where none has answered for about five seconds, `NotFound` where there is no
    /// such shard.
    pub(super) async fn ask<T, Asking>(
        &self,
        shard: ShardId,
        lost: Option<NodeId>,
        ask: impl Fn(Arc<dyn ShardReadService>, bool) -> Asking + Send + Sync,
    ) -> Result<(NodeId, T), ServiceError>
    where
        Asking: Future<Output = Result<T, ServiceError>> + Send,
        T: Send,
    {
        let mut backoff = FIRST_BACKOFF;
        let (mut attempt, mut failed) = (1, lost);
        // Replicas that had too much to do, since it was last waited.
        let mut busy = Vec::new();
        let patience = tokio::time::sleep(PATIENCE);
        tokio::pin!(patience);
        loop {
            let leader = self.directory.leader_of(shard)?;
            let node = self.choose(shard, leader, failed, &busy);
            // The first one learns from the answer who leads, for those who write as well.
            let any = failed.is_some() || !self.directory.is_taken_for_leader(shard, node);
            let (node, result) = self.hedged(shard, node, any, &ask).await;
            let (error, hint) = match result {
                Ok(answer) => return Ok((node, answer)),
                Err(ServiceError::NotLeader { leader }) => (ServiceError::NotLeader { leader }, leader.map(NodeId)),
                Err(error) if is_passing(&error) => (error, None),
                Err(error) => return Err(error),
            };
            // A timer says that it is over only once it was looked at.
            let impatient = futures::poll!(patience.as_mut()).is_ready();
            if attempt >= MAX_ATTEMPTS || impatient {
                return Err(ServiceError::Unavailable(format!(
                    "shard {shard} cannot be read: {error}"
                )));
            }
            failed = Some(node);
            if matches!(error, ServiceError::Busy(_)) {
                // It may lead all the same, and those who write go by that too. Another replica may have less to do.
                busy.push(node);
                if self.directory.replicas(shard).iter().any(|other| !busy.contains(other)) {
                    continue;
                }
            } else {
                self.directory.move_leader(shard, node, hint);
            }
            busy.clear();
            attempt += 1;
            let redirected = hint.is_some_and(|hint| hint != node) && attempt <= 3;
            if !redirected {
                tokio::time::sleep(backoff.mul_f64(rand::random_range(0.5..1.0))).await;
                backoff = (backoff * 2).min(MAX_BACKOFF);
            }
        }
    }

    /// The leader; another replica where it has just failed, is busy, or was slow.
    fn choose(&self, shard: ShardId, leader: NodeId, failed: Option<NodeId>, busy: &[NodeId]) -> NodeId {
        let usable = |node: &&NodeId| failed != Some(**node) && !busy.contains(node);
        if usable(&&leader) && !self.is_slow(leader) {
            return leader;
        }
        let others = self.after(shard, leader);
        let quick = others.iter().filter(usable).find(|node| !self.is_slow(**node));
        let leader = Some(&leader).filter(usable);
        let chosen = quick.or(leader).or_else(|| others.iter().find(usable));
        chosen.or(failed.as_ref()).copied().unwrap_or_default()
    }

    fn is_slow(&self, node: NodeId) -> bool {
        let mut slow = self.slow.lock();
        if slow.is_empty() {
            return false;
        }
        let now = self.directory.clock.monotonic();
        slow.retain(|_, until| *until > now);
        slow.contains_key(&node)
    }

    /// The other replicas, those after a node first.
    fn after(&self, shard: ShardId, node: NodeId) -> Vec<NodeId> {
        let mut nodes = self.directory.replicas(shard);
        if let Some(at) = nodes.iter().position(|n| *n == node) {
            nodes.rotate_left(at);
            nodes.remove(0);
        }
        nodes
    }

    async fn one<T, Asking>(
        &self,
        node: NodeId,
        any: bool,
        ask: &(impl Fn(Arc<dyn ShardReadService>, bool) -> Asking + Send + Sync),
    ) -> Result<T, ServiceError>
    where
        Asking: Future<Output = Result<T, ServiceError>> + Send,
    {
        ask(self.directory.shard_read(node)?, any).await
    }

    /// Asks one replica, and another beside it where that takes long; who answers first counts.
    async fn hedged<T, Asking>(
        &self,
        shard: ShardId,
        node: NodeId,
        any: bool,
        ask: &(impl Fn(Arc<dyn ShardReadService>, bool) -> Asking + Send + Sync),
    ) -> (NodeId, Result<T, ServiceError>)
    where
        Asking: Future<Output = Result<T, ServiceError>> + Send,
        T: Send,
    {
        self.budget.deposit();
        let mut first = pin!(self.one(node, any, ask));
        tokio::select! {
            biased;
            result = &mut first => return (node, result),
            () = tokio::time::sleep(HEDGE_AFTER) => {}
        }
        let other = self.after(shard, node).into_iter().find(|other| !self.is_slow(*other));
        let Some(other) = other.filter(|_| self.budget.withdraw()) else {
            return (node, first.await);
        };
        let mut second = pin!(self.one(other, true, ask));
        let may_wait = |error: &ServiceError| is_passing(error) || matches!(error, ServiceError::NotLeader { .. });
        let (answered, (by, result)) = tokio::select! {
            biased;
            result = &mut first => match result {
                Err(error) if may_wait(&error) => ("second", (other, second.await)),
                result => ("first", (node, result)),
            },
            result = &mut second => match result {
                Err(error) if may_wait(&error) => ("first", (node, first.await)),
                result => ("second", (other, result)),
            },
        };
        if answered == "second" && result.is_ok() {
            self.note_slow(node);
        }
        let hedges = &self.directory.metrics.hedges;
        hedges.with_label_values(&["ShardRead", answered]).inc();
        (by, result)
    }
}
