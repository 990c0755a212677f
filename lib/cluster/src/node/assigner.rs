//! The leader of the metadata group places shards, and moves their replicas as nodes come and go.

use super::clocks::CLOCK_MAY_BE_OFF_MS;
use super::expiry::Judge;
use super::level::to_raise;
use crate::assign::{self, Change, Rules, Why};
use crate::meta::forgettable;
use crate::raft::Group;
use gnomon_model::ids::{CLUSTER_FEATURE_LEVEL, OPERATIONS_FEATURE_LEVEL};
use gnomon_model::{Clock, FeatureLevel};
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{ForgetNode, MetaCommand, MetaState, RaiseFeatureLevel, SetShardReplicas, ShardReplicas};
use prometheus::{IntCounterVec, Opts, Registry};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often it looks, if nothing changes.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a change, so that those that come together are looked at once.
const GATHER: Duration = Duration::from_millis(100);

/// Runs beside each replica of the metadata group; only its leader does something.
pub(super) struct Assigner {
    /// The replica here: it is its leader that decides, or nobody.
    pub(super) replica: Arc<dyn MetaService>,
    pub(super) group: Group,
    pub(super) states: watch::Receiver<Arc<MetaState>>,
    pub(super) clock: Arc<dyn Clock>,
    /// How long a new leader waits before it takes a node for gone.
    pub(super) lease: Duration,
    pub(super) replace_after: Duration,
    /// How long a node that nothing is needed of is remembered.
    pub(super) forget_after: Duration,
    pub(super) understands: FeatureLevel,
    pub(super) changes: IntCounterVec,
    /// What it judges by, for the metadata group's own voters.
    pub(super) rules: watch::Sender<Rules>,
    pub(super) heard: Heard,
}

/// When each node's lease was last seen to get longer: by the clock that does not jump, as leases are by the one that may.
#[derive(Debug, Default)]
pub(super) struct Heard(BTreeMap<u64, (i64, Duration)>);

impl Heard {
    pub(super) fn look(&mut self, state: &MetaState, now: Duration) -> BTreeMap<u64, i64> {
        self.0.retain(|id, _| state.nodes.iter().any(|node| node.id == *id));
        let ago = |node: &gnomon_proto::v1::Node| {
            let (lease, since) = self.0.entry(node.id).or_insert((node.lease_until_ms, now));
            // One that got much shorter was given by a clock that was wrong.
            let was_wrong = *lease > node.lease_until_ms.saturating_add(CLOCK_MAY_BE_OFF_MS);
            if node.lease_until_ms > *lease || was_wrong {
                (*lease, *since) = (node.lease_until_ms, now);
            }
            (
                node.id,
                i64::try_from(now.saturating_sub(*since).as_millis()).unwrap_or(i64::MAX),
            )
        };
        state.nodes.iter().map(ago).collect()
    }
}

/// How often replicas were placed and moved by this node, by why.
pub(super) fn register(registry: &Registry) -> prometheus::Result<IntCounterVec> {
    let opts = Opts::new(
        "gnomon_cluster_replica_changes_total",
        "Changes of shards' replicas that this node has decided as leader of the metadata group.",
    );
    let changes = IntCounterVec::new(opts, &["reason"])?;
    registry.register(Box::new(changes.clone()))?;
    Ok(changes)
}

/// As a label's value.
fn reason(why: Why) -> &'static str {
    match why {
        Why::Placed => "placed",
        Why::Gone => "gone",
        Why::Drained => "drained",
        Why::TooFew => "too_few",
        Why::TooMany => "too_many",
        Why::Zones => "zones",
        Why::Load => "load",
        Why::Leaders => "leaders",
    }
}

impl Assigner {
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut judge = Judge::new(self.lease);
        loop {
            let looked = async {
                tokio::select! {
                    changed = self.states.changed() => if changed.is_ok() { tokio::time::sleep(GATHER).await },
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
                let may_replace = judge.may(self.group.is_leader(), self.clock.monotonic());
                if self.group.is_leader() {
                    self.look(may_replace).await;
                } else {
                    self.rules.send_replace(Rules::after(i64::MAX));
                    self.heard = Heard::default();
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = looked => {}
            }
        }
    }

    async fn look(&mut self, may_replace: bool) {
        let state = self.states.borrow_and_update().clone();
        if state.epochs.is_empty() {
            return;
        }
        let replace_after_ms = i64::try_from(self.replace_after.as_millis()).unwrap_or(i64::MAX);
        let rules = Rules {
            replace_after_ms: if may_replace { replace_after_ms } else { i64::MAX },
            heard_ms_ago: self.heard.look(&state, self.clock.monotonic()),
        };
        self.rules.send_replace(rules.clone());
        if let Some(level) = to_raise(&state, self.understands, self.clock.now().0, &rules) {
            self.raise(level).await;
        }
        // Until then there is nobody to give anything to.
        if state.feature_level < CLUSTER_FEATURE_LEVEL.0 {
            return;
        }
        for change in assign::plan(&state, self.clock.now().0, &rules) {
            self.propose(change).await;
        }
        if may_replace {
            self.forget_nodes(&state, &rules).await;
        }
    }

    /// Nodes that do not come back, one at a time: there are few.
    async fn forget_nodes(&self, state: &MetaState, rules: &Rules) {
        let after_ms = i64::try_from(self.forget_after.as_millis()).unwrap_or(i64::MAX);
        let heard_ms_ago = |id: u64| rules.heard_ms_ago.get(&id).copied().unwrap_or(0);
        let least_ms = after_ms.min(rules.replace_after_ms);
        let goes = forgettable(state, self.clock.now().0, after_ms, heard_ms_ago, least_ms);
        let Some(node) = goes.first().copied() else { return };
        let level = OPERATIONS_FEATURE_LEVEL.0;
        if state.feature_level < level {
            if self.understands.0 < level {
                return;
            }
            let is_behind = |n: &gnomon_proto::v1::Node| n.incarnation > 0 && n.feature_level < level;
            // A node of an older build is away: it would not come back.
            if state.nodes.iter().any(|n| is_behind(n) && !goes.contains(&n.id)) {
                return;
            }
            let raise = Command::RaiseFeatureLevel(RaiseFeatureLevel { level });
            if let Err(why) = self.decide(raise).await {
                tracing::debug!(level, %why, "nodes that are gone are not forgotten yet");
                return;
            }
        }
        match self.decide(Command::ForgetNode(ForgetNode { node })).await {
            Ok(()) => tracing::info!(node, "a node was silent for so long that it is forgotten"),
            Err(error) => tracing::debug!(node, %error, "a node that is gone is not forgotten"),
        }
    }

    async fn raise(&self, level: u32) {
        match self
            .decide(Command::RaiseFeatureLevel(RaiseFeatureLevel { level }))
            .await
        {
            Ok(()) => tracing::info!(level, "all nodes understand it: the cluster's feature level is raised"),
            Err(why) => tracing::warn!(level, %why, "the feature level was not raised"),
        }
    }

    async fn propose(&self, change: Change) {
        let Change { shard, from, to, why } = change;
        let command = Command::SetShardReplicas(SetShardReplicas {
            shard: Some(ShardReplicas {
                shard,
                nodes: to.clone(),
            }),
            from_nodes: from.clone(),
        });
        match self.decide(command).await {
            Ok(()) => {
                self.changes.with_label_values(&[reason(why)]).inc();
                tracing::info!(shard, ?from, ?to, why = why.text(), "a shard's replicas change");
            }
            Err(error) => tracing::warn!(shard, ?from, ?to, %error, "a shard's replicas were not changed"),
        }
    }

    async fn decide(&self, command: Command) -> Result<(), String> {
        let command = MetaCommand {
            proposed_at_ms: 0,
            command: Some(command),
        };
        match self.replica.propose(command).await {
            Ok(answer) if answer.refused.is_empty() => Ok(()),
            Ok(answer) => Err(answer.refused),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_proto::v1::Node;

    #[test]
    fn a_node_is_heard_of_when_its_lease_gets_longer() {
        let state = |leases: &[i64]| MetaState {
            nodes: (1..)
                .zip(leases)
                .map(|(id, lease_until_ms)| Node {
                    id,
                    lease_until_ms: *lease_until_ms,
                    ..Node::default()
                })
                .collect(),
            ..MetaState::default()
        };
        let mut heard = Heard::default();
        let s = Duration::from_secs;
        assert_eq!(heard.look(&state(&[10, 10]), s(100)), [(1, 0), (2, 0)].into());
        assert_eq!(heard.look(&state(&[20, 10]), s(101)), [(1, 0), (2, 1000)].into());
        assert_eq!(heard.look(&state(&[20, 9]), s(103)), [(1, 2000), (2, 3000)].into());
        assert_eq!(heard.look(&state(&[20]), s(103)), [(1, 2000)].into());
        assert_eq!(heard.look(&state(&[300_000]), s(104)), [(1, 0)].into());
        assert_eq!(
            heard.look(&state(&[20]), s(105)),
            [(1, 0)].into(),
            "the clock was set back"
        );
    }
}
