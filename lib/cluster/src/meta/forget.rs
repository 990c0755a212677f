//! Forgetting nodes that do not come back.
//!
//! Invariant: a node that has a replica, votes or is alive is never forgotten, and a forgotten id is never given again.

use super::machine::{Effect, Refusal};
use super::nodes::FOUNDER_ID;
use super::scrapers;
use crate::assign::replicas_of;
use crate::clients::decide;
use gnomon_model::ids::OPERATIONS_FEATURE_LEVEL;
use gnomon_proto::ServiceError;
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::meta_command::Command;
use gnomon_proto::v1::{ForgetNode, MetaResponse, MetaState, Node, RaiseFeatureLevel};

/// How long a node that others need nothing of is remembered after its last sign of life, if no flag says otherwise.
pub const FORGET_AFTER_MS: i64 = 24 * 60 * 60 * 1000;

/// Why a node was not forgotten.
#[derive(Debug, thiserror::Error)]
pub enum CannotForget {
    #[error("{0}")]
    Refused(String),
    #[error("the metadata group cannot be asked: {0}")]
    Meta(#[from] ServiceError),
}

pub(super) fn forget(state: &mut MetaState, c: &ForgetNode, now_ms: i64) -> Result<Effect, Refusal> {
    if state.feature_level < OPERATIONS_FEATURE_LEVEL.0 {
        return Err(format!(
            "the cluster is at feature level {}, forgetting a node needs {OPERATIONS_FEATURE_LEVEL}",
            state.feature_level
        )
        .into());
    }
    check_forget(state, c.node, now_ms)?;
    let id = c.node;
    scrapers::leave(state, &[id], now_ms);
    state.nodes.retain(|node| node.id != id);
    state.founder_forgotten |= id == FOUNDER_ID;
    Ok(Effect::changed())
}

/// Whether a node may be forgotten, whatever the feature level.
///
/// # Errors
/// Why it may not: there is none, it is alive, or the cluster needs it.
pub fn check_forget(state: &MetaState, node: u64, now_ms: i64) -> Result<(), String> {
    let found = state.nodes.iter().find(|n| n.id == node);
    let Some(found) = found else {
        return Err(format!("there is no node {node}"));
    };
    if found.lease_until_ms >= now_ms {
        return Err(format!("node {node} ({}) is alive: stop it first", found.address));
    }
    match needed(state, node) {
        Some(why) => Err(format!("node {node} ({}) {why}", found.address)),
        None => Ok(()),
    }
}

/// Has a node forgotten, raising the feature level where it has to be: a level is never taken back, so that it is not
/// raised for what would be refused. Whether the node is alive is judged by the clock of the metadata leader, never by that
/// of whoever asks.
///
/// # Errors
/// When it may not be forgotten, or the metadata group does not answer.
pub async fn forget_node(meta: &dyn MetaService, node: u64) -> Result<(), CannotForget> {
    let state = meta.read().await?;
    let level = OPERATIONS_FEATURE_LEVEL.0;
    if state.feature_level < level {
        // The level that is in force changes nothing; what comes back is when the leader heard of it.
        let asked = Command::RaiseFeatureLevel(RaiseFeatureLevel {
            level: state.feature_level,
        });
        let leader_ms = decide(meta, asked).await?.proposed_at_ms;
        // One of an older build says nothing, and takes the level no further.
        if leader_ms != 0 {
            check_forget(&state, node, leader_ms).map_err(CannotForget::Refused)?;
        }
        let raise = Command::RaiseFeatureLevel(RaiseFeatureLevel { level });
        refused(decide(meta, raise).await?)?;
    }
    refused(decide(meta, Command::ForgetNode(ForgetNode { node })).await?)
}

fn refused(answer: MetaResponse) -> Result<(), CannotForget> {
    match answer.refused.is_empty() {
        true => Ok(()),
        false => Err(CannotForget::Refused(answer.refused)),
    }
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
