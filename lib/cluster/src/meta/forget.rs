//! Forgetting nodes that do not come back.
//!
//! Invariant: a node that has a replica, votes or is alive is never forgotten, and a forgotten id is never given again.

use super::machine::{Effect, Refusal};
use super::nodes::FOUNDER_ID;
use super::scrapers;
use crate::assign::replicas_of;
use gnomon_model::ids::OPERATIONS_FEATURE_LEVEL;
use gnomon_proto::v1::{ForgetNode, MetaState, Node};

/// How long a node that others need nothing of is remembered after its last sign of life, if no flag says otherwise.
pub const FORGET_AFTER_MS: i64 = 24 * 60 * 60 * 1000;

pub(super) fn forget(state: &mut MetaState, c: &ForgetNode, now_ms: i64) -> Result<Effect, Refusal> {
    if state.feature_level < OPERATIONS_FEATURE_LEVEL.0 {
        return Err(format!(
            "the cluster is at feature level {}, forgetting a node needs {OPERATIONS_FEATURE_LEVEL}",
            state.feature_level
        )
        .into());
    }
    let Some(node) = state.nodes.iter().find(|node| node.id == c.node) else {
        return Err(format!("there is no node {}", c.node).into());
    };
    if node.lease_until_ms >= now_ms {
        return Err(format!("node {} ({}) is alive: stop it first", node.id, node.address).into());
    }
    if let Some(why) = needed(state, node.id) {
        return Err(format!("node {} ({}) {why}", node.id, node.address).into());
    }
    let id = node.id;
    scrapers::leave(state, &[id]);
    state.nodes.retain(|node| node.id != id);
    state.founder_forgotten |= id == FOUNDER_ID;
    Ok(Effect::changed())
}

/// Why the cluster still needs a node; none where it does not.
fn needed(state: &MetaState, id: u64) -> Option<String> {
    if let Some(shard) = replicas_of(state, id).next() {
        return Some(format!(
            "is to have a replica of shard {}: drain it, or wait until its replicas are made anew",
            shard.shard
        ));
    }
    let voting = state.members.iter().find(|members| members.voters.contains(&id))?;
    let group = match voting.group {
        0 => "the metadata group".to_owned(),
        group => format!("shard {}", group - 1),
    };
    Some(format!("votes in {group}: another has to take its place first"))
}

/// Nodes that nothing is needed of, which have been silent for longer than `after_ms`. `heard_ms_ago` is how long, by the
/// clock that does not jump, as far as it is known: at least `least_ms` of it are asked for.
pub(crate) fn forgettable(
    state: &MetaState,
    now_ms: i64,
    after_ms: i64,
    heard_ms_ago: impl Fn(u64) -> i64,
    least_ms: i64,
) -> Vec<u64> {
    let goes = |node: &&Node| {
        let silent_ms = now_ms.saturating_sub(node.lease_until_ms);
        silent_ms > after_ms && heard_ms_ago(node.id) > least_ms && needed(state, node.id).is_none()
    };
    state.nodes.iter().filter(goes).map(|node| node.id).collect()
}
