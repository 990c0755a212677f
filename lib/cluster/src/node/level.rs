//! To which feature level a cluster is to be raised.

use crate::assign::{Rules, Standing, standing};
use gnomon_model::FeatureLevel;
use gnomon_proto::v1::{MetaState, Node};

/// The level that all nodes understand, where it is above the cluster's; none where it is not, or while there is one
/// ingester only: what is alone is raised by what it uses, and may go back to an older build until then.
///
/// A node that is silent counts until it is given up: it would be refused when it comes back. So does for ever one that is
/// to have a shard, or votes in a group.
pub(super) fn to_raise(state: &MetaState, understands: FeatureLevel, now_ms: i64, rules: &Rules) -> Option<u32> {
    let started = || state.nodes.iter().filter(|node| node.incarnation > 0);
    let ingesters = started().filter(|node| node.roles.iter().any(|role| role == "ingester"));
    if ingesters.count() < 2 {
        return None;
    }
    let votes = |node: &Node| state.members.iter().any(|group| group.voters.contains(&node.id));
    let has_shard = |node: &Node| votes(node) || state.shards.iter().any(|shard| shard.nodes.contains(&node.id));
    let counts = |node: &&Node| standing(state, node, now_ms, rules) != Standing::Gone || has_shard(node);
    let common = started().filter(counts).map(|node| node.feature_level).min()?;
    let level = common.min(understands.0);
    (level > state.feature_level).then_some(level)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_proto::v1::{GroupMembers, ShardReplicas};

    const NOW_MS: i64 = 1_000_000;

    /// Nodes by role, level, and for how long they have been silent.
    fn state(level: u32, nodes: &[(&str, u32, i64)]) -> MetaState {
        let node = |(id, (role, feature_level, silent_ms)): (u64, &(&str, u32, i64))| Node {
            id,
            address: format!("host-{id}:1"),
            roles: vec![(*role).to_owned()],
            incarnation: 1,
            feature_level: *feature_level,
            lease_until_ms: NOW_MS - silent_ms,
            ..Node::default()
        };
        MetaState {
            feature_level: level,
            nodes: (1..).zip(nodes).map(node).collect(),
            ..MetaState::default()
        }
    }

    fn raised(state: &MetaState, understands: u32) -> Option<u32> {
        to_raise(state, FeatureLevel(understands), NOW_MS, &Rules::after(60_000))
    }

    #[test]
    fn the_oldest_build_decides() {
        let nodes = [("ingester", 5, 0), ("ingester", 5, 0), ("querier", 5, 0)];
        assert_eq!(raised(&state(1, &nodes), 5), Some(5));
        assert_eq!(raised(&state(4, &nodes), 5), Some(5));
        assert_eq!(raised(&state(5, &nodes), 5), None);
        // The leader of the metadata group is the older one.
        assert_eq!(raised(&state(4, &nodes), 4), None);
        let one_behind = [("ingester", 5, 0), ("ingester", 5, 0), ("querier", 4, 0)];
        assert_eq!(raised(&state(4, &one_behind), 5), None);
        assert_eq!(raised(&state(1, &one_behind), 5), Some(4));
        let alone = [("ingester", 5, 0), ("querier", 5, 0)];
        assert_eq!(raised(&state(1, &alone), 5), None);
    }

    #[test]
    fn a_silent_node_counts_until_it_is_given_up() {
        let silent = |ms| state(4, &[("ingester", 5, 0), ("ingester", 5, 0), ("ingester", 4, ms)]);
        assert_eq!(raised(&silent(59_000), 5), None);
        assert_eq!(raised(&silent(61_000), 5), Some(5));
        let mut with_shard = silent(61_000);
        with_shard.shards = vec![ShardReplicas {
            shard: 0,
            nodes: vec![1, 3],
        }];
        assert_eq!(raised(&with_shard, 5), None);
        // One that votes in the metadata group has no shard.
        let mut with_vote = silent(61_000);
        with_vote.members = vec![GroupMembers {
            group: 0,
            voters: vec![1, 2, 3],
            at_index: 1,
        }];
        assert_eq!(raised(&with_vote, 5), None);
        // One that never started is not there.
        let mut never = silent(0);
        never.nodes[2].incarnation = 0;
        assert_eq!(raised(&never, 5), Some(5));
    }
}
