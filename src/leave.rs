//! A node that is told to stop and gives away first what others need (`--cluster.drain-on-stop`).

use gnomon_cluster::assign;
use gnomon_cluster::clients::decide;
use gnomon_cluster::node::NodeHandle;
use gnomon_model::{Clock, GroupId, NodeId};
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{MetaState, Node, SetDraining};
use std::sync::Arc;
use std::time::Duration;

/// How often it looks at what is left.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a node has that others need: replicas of shards, and a vote in the metadata group.
#[must_use]
pub(crate) fn left(state: &MetaState, node: NodeId) -> usize {
    let votes = assign::voters(state, GroupId::METADATA).contains(&node.0);
    assign::replicas_of(state, node.0).count() + usize::from(votes)
}

/// Whether there is an ingester to give anything to.
fn has_heir(state: &MetaState, node: NodeId, now_ms: i64) -> bool {
    let takes = |other: &Node| {
        let is_ingester = other.roles.iter().any(|role| role == "ingester");
        other.id != node.0 && is_ingester && !other.draining && other.lease_until_ms >= now_ms
    };
    state.nodes.iter().any(takes)
}

/// Drains the node, and returns once nothing is left on it, or `limit` is over. A restart ends the drain.
pub(crate) async fn drain(handle: &NodeHandle, clock: &Arc<dyn Clock>, limit: Duration) {
    match tokio::time::timeout(limit, emptied(handle, clock)).await {
        Ok(Ok(())) => tracing::info!("nothing is left on this node that others need"),
        Ok(Err(why)) => tracing::info!(why, "this node is not drained before it stops"),
        Err(_) => tracing::warn!(
            limit_seconds = limit.as_secs_f64(),
            left = left(&handle.meta_watch.borrow(), handle.node_id),
            "others have not taken everything over in time (--cluster.drain-on-stop): stopping all the same"
        ),
    }
}

async fn emptied(handle: &NodeHandle, clock: &Arc<dyn Clock>) -> Result<(), String> {
    let node = handle.node_id;
    let mut is_asked = false;
    loop {
        // As of now: what is followed may not show yet what was just given to this node.
        if let Ok(state) = handle.meta.read().await {
            if left(&state, node) == 0 {
                return Ok(());
            }
            if !has_heir(&state, node, clock.now().0) {
                return Err("there is no other ingester to give anything to".to_owned());
            }
            if !is_asked {
                let command = Command::SetDraining(SetDraining {
                    node: node.0,
                    draining: true,
                });
                match decide(handle.meta.as_ref(), command).await {
                    Ok(answer) if !answer.refused.is_empty() => return Err(answer.refused),
                    answer => is_asked = answer.is_ok(),
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_proto::v1::{GroupMembers, ShardReplicas};

    #[test]
    fn replicas_and_the_vote_are_left_until_others_have_them() {
        let mut state = MetaState {
            shards: vec![ShardReplicas {
                shard: 0,
                nodes: vec![1, 2],
            }],
            members: vec![GroupMembers {
                group: 0,
                voters: vec![1],
                at_index: 1,
            }],
            ..MetaState::default()
        };
        assert_eq!((left(&state, NodeId(1)), left(&state, NodeId(2))), (2, 1));
        state.shards[0].nodes = vec![2];
        state.members[0].voters = vec![2];
        assert_eq!(left(&state, NodeId(1)), 0);
    }

    #[test]
    fn only_a_live_ingester_takes_anything() {
        let node = |id, role: &str, lease_until_ms| Node {
            id,
            roles: vec![role.into()],
            lease_until_ms,
            ..Node::default()
        };
        let heir = |nodes| {
            let state = MetaState {
                nodes,
                ..MetaState::default()
            };
            has_heir(&state, NodeId(1), 100)
        };
        assert!(!heir(vec![node(1, "ingester", 200), node(2, "querier", 200)]));
        assert!(!heir(vec![node(2, "ingester", 99)]));
        assert!(heir(vec![node(1, "ingester", 200), node(2, "ingester", 100)]));
    }
}
