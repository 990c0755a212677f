//! Who is to vote in a group, from the metadata state; and telling it who does.

use super::assigner::Heard;
use super::clocks::{known_off_ms, wrong_clocks};
use crate::assign::{self, Rules};
use crate::raft::{MemberWishes, Wish};
use async_trait::async_trait;
use gnomon_model::ids::CLUSTER_FEATURE_LEVEL;
use gnomon_model::{Clock, GroupId, NodeId};
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{GroupMembers, MetaCommand, MetaState, ReportMembers};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A node that was heard of within this is alive, whatever this node's wall clock says of its lease.
const HEARD_WITHIN_MS: i64 = 10_000;

/// When each node was last heard of; empty at first.
#[derive(Debug, Default)]
pub struct LastHeard(Mutex<Heard>);

/// The wishes for one group of this node.
pub struct GroupWishes {
    pub group: GroupId,
    pub node: NodeId,
    pub states: watch::Receiver<Arc<MetaState>>,
    pub meta: Arc<dyn MetaService>,
    pub clock: Arc<dyn Clock>,
    /// By what the metadata group's own voters are chosen.
    pub rules: watch::Receiver<Rules>,
    pub heard: LastHeard,
    pub prefer_after: Duration,
}

fn ids(nodes: &[u64]) -> Vec<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

/// `heard` is how long ago each node was heard of, milliseconds.
fn wish(
    state: &MetaState,
    group: GroupId,
    own: NodeId,
    now_ms: i64,
    heard: &BTreeMap<u64, i64>,
    rules: &Rules,
) -> Wish {
    let at = state.members.binary_search_by_key(&group.0, |m| m.group);
    let told = at.ok().map(|at| &state.members[at]);
    let voters = told.map_or(&[][..], |m| &m.voters);
    let mut nodes = match group.shard() {
        Some(shard) => {
            let of_shard = state.shards.iter().find(|s| s.shard == shard.0);
            of_shard.map(|s| s.nodes.clone()).unwrap_or_default()
        }
        // Before its leader has told there is nothing to begin with.
        None if voters.is_empty() => Vec::new(),
        None => {
            let mut now = voters.to_vec();
            now.sort_by_key(|node| *node != own.0);
            assign::meta_voters(state, &now, now_ms, rules)
        }
    };
    // Whoever leads the metadata group may go on.
    if group == GroupId::METADATA && nodes.contains(&own.0) {
        nodes.retain(|node| *node != own.0);
        nodes.insert(0, own.0);
    }
    let is_live = |node: &u64| {
        let mut known = state.nodes.iter();
        let is_heard = heard.get(node).is_some_and(|ago| *ago <= HEARD_WITHIN_MS);
        known.any(|n| n.id == *node && (n.lease_until_ms >= now_ms || is_heard) && !n.draining)
    };
    Wish {
        live: ids(&nodes.iter().copied().filter(is_live).collect::<Vec<_>>()),
        nodes: ids(&nodes),
        told: (ids(voters), told.map_or(0, |m| m.at_index)),
        unfit: wrong_clocks(state, now_ms),
    }
}

#[async_trait]
impl MemberWishes for GroupWishes {
    fn wish(&self) -> Wish {
        let state = self.states.borrow().clone();
        if state.feature_level < CLUSTER_FEATURE_LEVEL.0 {
            return Wish::default();
        }
        let heard = self.heard.0.lock().look(&state, self.clock.monotonic());
        // Leases are by another clock: where this one is known to be wrong it is put right.
        let now_ms = self.clock.now().0.saturating_sub(known_off_ms(&state, self.node));
        wish(&state, self.group, self.node, now_ms, &heard, &self.rules.borrow())
    }

    fn prefer_after(&self) -> Duration {
        self.prefer_after
    }

    async fn tell(&self, voters: &[NodeId], at_index: u64) {
        if self.states.borrow().feature_level < CLUSTER_FEATURE_LEVEL.0 {
            return;
        }
        let mut voters: Vec<u64> = voters.iter().map(|node| node.0).collect();
        voters.sort_unstable();
        let members = GroupMembers {
            group: self.group.0,
            voters,
            at_index,
        };
        let command = MetaCommand {
            proposed_at_ms: 0,
            command: Some(Command::ReportMembers(ReportMembers { members: Some(members) })),
        };
        match self.meta.propose(command).await {
            Ok(answer) if answer.refused.is_empty() => {}
            Ok(answer) => tracing::warn!(group = %self.group, refused = answer.refused, "voters were not noted"),
            Err(error) => tracing::debug!(group = %self.group, %error, "voters not told yet"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_proto::v1::{Node, ShardReplicas};

    #[test]
    fn a_shard_is_wished_as_the_state_has_it_and_the_leader_of_the_metadata_group_may_stay() {
        let node = |id| Node {
            id,
            roles: vec!["ingester".into()],
            incarnation: 1,
            lease_until_ms: if id == 3 { 0 } else { 100 },
            ..Node::default()
        };
        let state = MetaState {
            nodes: (1..=3).map(node).collect(),
            shards: vec![ShardReplicas {
                shard: 0,
                nodes: vec![2, 3, 1],
            }],
            members: vec![GroupMembers {
                group: 0,
                voters: vec![1],
                at_index: 7,
            }],
            ..MetaState::default()
        };
        let (silent, rules) = (BTreeMap::new(), Rules::default());
        let of_shard = wish(&state, GroupId(1), NodeId(1), 50, &silent, &rules);
        assert_eq!(of_shard.nodes, [NodeId(2), NodeId(3), NodeId(1)]);
        assert_eq!(of_shard.live, [NodeId(2), NodeId(1)]);
        assert_eq!(of_shard.told, (vec![], 0));
        assert_eq!(
            wish(&state, GroupId(9), NodeId(1), 50, &silent, &rules),
            Wish::default()
        );
        // The clock is ahead of whose leases are by: who renews them is alive.
        let heard = [(1, HEARD_WITHIN_MS + 1), (2, HEARD_WITHIN_MS)].into();
        let ahead = wish(&state, GroupId(1), NodeId(1), 1_000_000, &heard, &rules);
        assert_eq!(ahead.live, [NodeId(2)]);
        let meta = wish(&state, GroupId::METADATA, NodeId(1), 50, &silent, &rules);
        assert_eq!(meta.nodes, [NodeId(1)], "three are there only when they live");
        assert_eq!(meta.told, (vec![NodeId(1)], 7));
    }
}
