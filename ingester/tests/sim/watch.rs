//! What must hold all the time, and when all is well again.

use super::machine::{Machine, Running};
use super::trace::Trace;
use gnomon_cluster::raft::GroupStatus;
use gnomon_model::{GroupId, NodeId, ShardId};
use gnomon_proto::v1::MetaState;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Replicas that each group is to have.
const REPLICAS: usize = 3;

/// Who led in which term of which group.
#[derive(Default)]
pub(crate) struct Terms(BTreeMap<(GroupId, u64), NodeId>);

impl Terms {
    /// No term has two leaders, whoever is asked.
    pub(crate) fn look(&mut self, machines: &[Machine], trace: &Trace) {
        for machine in machines {
            let Some(groups) = machine.groups() else { continue };
            for (group, status) in groups.host.statuses() {
                let Some(leader) = status.leader else { continue };
                let known = *self.0.entry((group, status.term)).or_insert_with(|| {
                    trace.event(format!("group {group}: node {leader} leads in term {}", status.term));
                    leader
                });
                if known != leader {
                    let term = status.term;
                    trace.fail(format!(
                        "group {group} has two leaders in term {term}: {known} and {leader}"
                    ));
                }
            }
        }
    }
}

/// Machines by the node that they are now.
pub(crate) fn by_node(machines: &[Machine]) -> BTreeMap<NodeId, Running> {
    let running = machines.iter().filter_map(Machine::running);
    running.map(|running| (running.node.node_id, running)).collect()
}

/// The newest metadata state that a running node knows.
pub(crate) fn newest(nodes: &BTreeMap<NodeId, Running>) -> Arc<MetaState> {
    let states = nodes.values().map(|running| running.node.meta_watch.borrow().clone());
    states.max_by_key(|state| state.revision).unwrap_or_default()
}

fn status(running: &Running, group: GroupId) -> Option<GroupStatus> {
    let groups = running.node.ingester.as_ref()?;
    Some(groups.host.group(group)?.status())
}

/// Where each replica of a group stands, a line for each.
pub(crate) fn stand(nodes: &BTreeMap<NodeId, Running>, group: GroupId) -> String {
    let replicas = nodes
        .iter()
        .filter_map(|(node, running)| Some((node, status(running, group)?)));
    replicas
        .map(|(node, status)| format!("\n  node {node}: {status:?}"))
        .collect()
}

/// The node that leads a group, by what it says itself, and where it stands.
pub(crate) fn leader(nodes: &BTreeMap<NodeId, Running>, group: GroupId) -> Option<(NodeId, GroupStatus)> {
    let all = nodes
        .iter()
        .filter_map(|(node, running)| Some((*node, status(running, group)?)));
    let leading = all.filter(|(node, status)| status.leader == Some(*node));
    leading.max_by_key(|(_, status)| status.term)
}

/// Of which groups there are replicas.
pub(crate) fn groups_of(state: &MetaState) -> impl Iterator<Item = GroupId> {
    let shards = state.shards.iter().map(|s| GroupId::of_shard(ShardId(s.shard)));
    std::iter::once(GroupId::METADATA).chain(shards)
}

/// Whether every group has a leader and as many voters as are wished, who run and have all of its log; if not, what lacks.
pub(crate) fn unsettled(machines: &[Machine]) -> Option<String> {
    if let Some(machine) = machines.iter().find(|m| m.running().is_none()) {
        return Some(format!("machine {} does not run", machine.place));
    }
    let nodes = by_node(machines);
    let state = newest(&nodes);
    if state.shards.is_empty() {
        return Some("there are no shards yet".into());
    }
    groups_of(&state).find_map(|group| lacks(&nodes, &state, group))
}

fn lacks(nodes: &BTreeMap<NodeId, Running>, state: &MetaState, group: GroupId) -> Option<String> {
    let Some((leader, status)) = leader(nodes, group) else {
        return Some(format!("group {group} has no leader"));
    };
    let wished = group.shard().map(|shard| {
        let of_shard = state.shards.iter().find(|s| s.shard == shard.0);
        of_shard.map(|s| s.nodes.iter().copied().map(NodeId).collect::<BTreeSet<_>>())
    });
    let voters: BTreeSet<NodeId> = status.voters.iter().copied().collect();
    // Whoever leads goes by the newest set of voters, also where nobody else has it yet.
    let lacks = if status.is_joint || !status.learners.is_empty() || status.members_at > status.committed {
        "changes its members"
    } else if voters.len() < REPLICAS {
        "has too few voters"
    } else if wished.is_some_and(|wished| wished.as_ref() != Some(&voters)) {
        "has not the voters that are wished"
    } else if !voters.iter().all(|node| nodes.contains_key(node)) {
        "has voters that do not run"
    } else if !voters
        .iter()
        .all(|node| self::status(&nodes[node], group).is_some_and(|s| s.applied + 20 >= status.last_log))
    {
        "has voters that are behind"
    } else {
        return None;
    };
    Some(format!(
        "group {group}, which node {leader} leads, {lacks}: {status:?}; wished {wished_text}",
        wished_text = wish_text(state, group)
    ))
}

fn wish_text(state: &MetaState, group: GroupId) -> String {
    let of_shard = group
        .shard()
        .and_then(|shard| state.shards.iter().find(|s| s.shard == shard.0));
    of_shard.map_or_else(|| "what the metadata group has".into(), |s| format!("{:?}", s.nodes))
}
