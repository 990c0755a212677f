//! The cluster's beginning, its nodes and their leases, who replicates what.

use super::machine::{Effect, Refusal};
use super::scrapers;
use crate::bounds::bounds_of;
use crate::node::CLOCK_MAY_BE_OFF_MS;
use crate::placement::Placement;
use gnomon_model::ids::{CLOCKS_FEATURE_LEVEL, CLUSTER_FEATURE_LEVEL, SHORTER_LEASES_FEATURE_LEVEL};
use gnomon_model::{GroupId, ShardId};
use gnomon_proto::v1::{
    EndLease, GroupMembers, InitCluster, MetaState, Node, RegisterNode, RenewLease, SetDraining, SetShardReplicas,
    ShardReplicas,
};

/// Longest lease a node may ask for, milliseconds.
pub const MAX_LEASE_MS: i64 = 10 * 60 * 1000;
/// A clock that has gone away by so much since it was told of last is news; by less it always has.
const CLOCK_NEWS_MS: u64 = 1000;
const MAX_NODES: usize = 10_000;
const MAX_SHARDS: usize = 4096;
const MAX_TEXT_BYTES: usize = 1024;
/// Who founds a cluster.
pub(crate) const FOUNDER_ID: u64 = 1;
/// What every node of a cluster understands at its beginning.
const FIRST_FEATURE_LEVEL: u32 = 1;

pub(super) fn init_cluster(state: &mut MetaState, c: &InitCluster) -> Result<Effect, Refusal> {
    if !state.epochs.is_empty() {
        if state.cluster_id == c.cluster_id {
            return Ok(Effect::NONE);
        }
        return Err(format!("this is cluster {} already", state.cluster_id).into());
    }
    c.cluster_id
        .parse::<gnomon_model::ClusterId>()
        .map_err(|e| Refusal(e.to_string()))?;
    let epoch = c.epoch.clone().ok_or("the first placement epoch is missing")?;
    // Of a cluster that is taken over those before it may be forgotten.
    if epoch.epoch == 0 || epoch.from_ms != i64::MIN {
        return Err("the first placement epoch has a number from 1 on and begins at the minimum of time".into());
    }
    if epoch.shards.len() > MAX_SHARDS {
        return Err(format!("{} shards: {MAX_SHARDS} are possible", epoch.shards.len()).into());
    }
    let mut epochs = vec![epoch];
    epochs.extend(c.later_epochs.iter().cloned());
    Placement::from_records(&epochs).map_err(|e| Refusal(e.to_string()))?;
    check_replicas(c.replicas.max(1))?;
    let shards: Vec<u32> = epochs.iter().flat_map(|epoch| &epoch.shards).copied().collect();
    for shard in &shards {
        let replicas = c.shards.iter().find(|r| r.shard == *shard);
        // Those of a cluster that waits for more nodes come later.
        if replicas.is_none_or(|r| r.nodes.is_empty() && c.expect <= 1) {
            return Err(format!("shard {shard} has no replicas").into());
        }
    }
    if let Some(block) = state.blocks.iter().find(|b| !shards.contains(&b.shard)) {
        return Err(format!("block {} is of shard {}, which there is not", block.id, block.shard).into());
    }
    state.cluster_id.clone_from(&c.cluster_id);
    let needs_more = c.expect > 1 || c.replicas > 1 || epochs.len() > 1;
    let needed = if needs_more {
        CLUSTER_FEATURE_LEVEL.0
    } else {
        FIRST_FEATURE_LEVEL
    };
    state.feature_level = state.feature_level.max(needed);
    state.epochs = epochs;
    state.shards.clone_from(&c.shards);
    state.shards.sort_by_key(|r| r.shard);
    state.replicas = c.replicas;
    state.expect = c.expect;
    // The founder is the first, also if others register before it does.
    state.next_node_id = c.founder.saturating_add(1);
    Ok(Effect::changed())
}

pub(super) fn register(state: &mut MetaState, c: &RegisterNode, now_ms: i64) -> Result<Effect, Refusal> {
    let node = c.node.as_ref().ok_or("no node")?;
    check_node(state, node)?;
    let lease_until_ms = lease_end(now_ms, c.lease_ms)?;
    let id = match node.id {
        0 => state.next_node_id,
        id => id,
    };
    let known = state.nodes.iter().find(|n| n.id == id);
    let before = known.map(|n| n.incarnation);
    let node = Node {
        id,
        lease_until_ms,
        ring_changed_ms: known.map_or(0, |n| n.ring_changed_ms),
        ..node.clone()
    };
    let (scrapes, incarnation) = (scrapers::may_scrape(&node), node.incarnation);
    match state.nodes.iter_mut().find(|n| n.id == id) {
        Some(old) if old.incarnation > node.incarnation => {
            return Err(format!(
                "node {id} was started again since, at {}: its present life is {}, not {}. A second process has its data \
                 folder, or a copy of it",
                old.address, old.incarnation, node.incarnation
            )
            .into());
        }
        Some(old) => *old = node,
        None if id < state.next_node_id && (id != FOUNDER_ID || state.founder_forgotten) => {
            return Err(format!("node {id} is not a member any more, and its id is never used again").into());
        }
        None => state.nodes.push(node),
    }
    state.next_node_id = state.next_node_id.max(id.saturating_add(1));
    if scrapes {
        scrapers::join(state, id, before != Some(incarnation), now_ms);
    } else {
        scrapers::leave(state, &[id], now_ms);
    }
    Ok(Effect {
        node_id: id,
        ..Effect::changed()
    })
}

fn check_node(state: &MetaState, node: &Node) -> Result<(), Refusal> {
    if state.nodes.len() >= MAX_NODES && node.id == 0 {
        return Err(format!("the cluster has {MAX_NODES} nodes, which is the limit").into());
    }
    if node
        .address
        .rsplit_once(':')
        .is_none_or(|(h, p)| h.is_empty() || p.parse::<u16>().is_err())
    {
        return Err(format!("node address {:?} is not host:port", node.address).into());
    }
    let texts = [&node.address, &node.zone, &node.version];
    if texts.iter().any(|t| t.len() > MAX_TEXT_BYTES)
        || node.roles.iter().map(String::len).sum::<usize>() > MAX_TEXT_BYTES
    {
        return Err(format!("a text of the node is longer than {MAX_TEXT_BYTES} bytes").into());
    }
    if node.feature_level < state.feature_level {
        return Err(format!(
            "the cluster is at feature level {}, this build understands {} only: start a newer one",
            state.feature_level, node.feature_level
        )
        .into());
    }
    Ok(())
}

pub(super) fn lease_end(now_ms: i64, lease_ms: i64) -> Result<i64, Refusal> {
    if !(1..=MAX_LEASE_MS).contains(&lease_ms) {
        return Err(format!("a lease of {lease_ms} ms: 1 to {MAX_LEASE_MS} are possible").into());
    }
    Ok(now_ms.saturating_add(lease_ms))
}

pub(super) fn renew_lease(state: &mut MetaState, c: &RenewLease, now_ms: i64) -> Result<Effect, Refusal> {
    let until = lease_end(now_ms, c.lease_ms)?;
    let node = state.nodes.iter_mut().find(|n| n.id == c.node);
    let node = node.ok_or_else(|| Refusal(format!("node {} is not registered", c.node)))?;
    if node.incarnation != c.incarnation {
        return Err(format!(
            "node {} was started again since, at {}: its present life is {}, not {}. A second process has its data folder, or a \
             copy of it",
            c.node, node.address, node.incarnation, c.incarnation
        )
        .into());
    }
    if node.feature_level < state.feature_level {
        return Err(format!(
            "the cluster came to feature level {} while node {} was away, which understands {} only: start a newer build",
            state.feature_level, c.node, node.feature_level
        )
        .into());
    }
    // Proposal times of two leaders may be out of order; a lease never gets shorter by that. One that is longer by more than itself
    // was given by a clock that was ahead: it would outlast a node that ends now.
    let knows_clocks = state.feature_level >= CLOCKS_FEATURE_LEVEL.0;
    let slack_ms = match state.feature_level >= SHORTER_LEASES_FEATURE_LEVEL.0 {
        true => until.saturating_sub(now_ms),
        false => CLOCK_MAY_BE_OFF_MS,
    };
    let was_wrong = knows_clocks && node.lease_until_ms > until.saturating_add(slack_ms);
    let changes = until > node.lease_until_ms || was_wrong;
    if changes {
        node.lease_until_ms = until;
    }
    let clock_off_ms = if knows_clocks {
        c.clock_off_ms
    } else {
        node.clock_off_ms
    };
    let is_off_otherwise = node.clock_off_ms != clock_off_ms;
    let is_news = is_clock_news(node.clock_off_ms, clock_off_ms);
    node.clock_off_ms = clock_off_ms;
    // One that was taken for dead and wakes up comes back under a new term.
    let back = scrapers::may_scrape(node) && scrapers::join(state, c.node, false, now_ms);
    Ok(Effect {
        changed: changes || is_off_otherwise || back,
        is_quiet: !(was_wrong || is_news || back),
        ..Effect::NONE
    })
}

/// Whether somebody waits to hear that a clock is off otherwise than before.
fn is_clock_news(before_ms: i64, now_ms: i64) -> bool {
    let is_wrong = |off_ms: i64| off_ms.unsigned_abs() > CLOCK_MAY_BE_OFF_MS.unsigned_abs();
    is_wrong(before_ms) != is_wrong(now_ms) || before_ms.abs_diff(now_ms) > CLOCK_NEWS_MS
}

/// Ends the lease of the life that asks; an earlier life has none to end.
pub(super) fn end_lease(state: &mut MetaState, c: &EndLease, now_ms: i64) -> Result<Effect, Refusal> {
    let node = state.nodes.iter_mut().find(|n| n.id == c.node);
    let node = node.ok_or_else(|| Refusal(format!("node {} is not registered", c.node)))?;
    if node.incarnation != c.incarnation {
        return Ok(Effect::NONE);
    }
    let shorter = node.lease_until_ms > now_ms;
    node.lease_until_ms = node.lease_until_ms.min(now_ms);
    let left = scrapers::leave(state, &[c.node], now_ms);
    Ok(Effect {
        changed: shorter || left,
        ..Effect::NONE
    })
}

pub(super) fn set_replicas(state: &mut MetaState, c: &SetShardReplicas) -> Result<Effect, Refusal> {
    let wish = c.shard.as_ref().ok_or("no shard replicas")?;
    if wish.nodes.is_empty() {
        return Err(format!("shard {} needs a replica", wish.shard).into());
    }
    for (i, node) in wish.nodes.iter().enumerate() {
        if wish.nodes[..i].contains(node) {
            return Err(format!("node {node} is named twice").into());
        }
        if !state.nodes.iter().any(|n| n.id == *node) {
            return Err(format!("node {node} is not registered").into());
        }
    }
    if bounds_of(state, ShardId(wish.shard)).is_none() {
        return Err(format!("no placement epoch has a shard {}", wish.shard).into());
    }
    match state.shards.binary_search_by_key(&wish.shard, |r| r.shard) {
        Ok(at) if state.shards[at] == *wish => return Ok(Effect::NONE),
        Ok(at) if state.shards[at].nodes != c.from_nodes => {
            return Err(format!("shard {} has other replicas by now", wish.shard).into());
        }
        Ok(at) => {
            check_founded(state, &state.shards[at])?;
            state.shards[at] = wish.clone();
        }
        Err(at) => state.shards.insert(at, wish.clone()),
    }
    Ok(Effect::changed())
}

/// A group is founded by the list of its replicas: as long as it may be being founded, another list could found another.
fn check_founded(state: &MetaState, shard: &ShardReplicas) -> Result<(), Refusal> {
    let group = GroupId::of_shard(ShardId(shard.shard));
    let is_told = state.members.binary_search_by_key(&group.0, |m| m.group).is_ok();
    let is_opening = state
        .epoch_change
        .iter()
        .any(|change| change.opening.contains(&shard.shard));
    if shard.nodes.is_empty() || (is_told && !is_opening) {
        return Ok(());
    }
    Err(format!(
        "shard {} is just being founded by nodes {:?}: it can be changed once its leader has told who votes",
        shard.shard, shard.nodes
    )
    .into())
}

/// What the leader of a group tells of its voters. An older membership than the known one is no news.
pub(super) fn report_members(state: &mut MetaState, told: &GroupMembers) -> Result<Effect, Refusal> {
    if told.voters.is_empty() || !told.voters.is_sorted() {
        return Err(format!("voters {:?} of group {} are not ascending ids", told.voters, told.group).into());
    }
    let group = GroupId(told.group);
    if let Some(shard) = group.shard()
        && !state.shards.iter().any(|r| r.shard == shard.0)
    {
        return Err(format!("there is no shard {shard}").into());
    }
    match state.members.binary_search_by_key(&told.group, |m| m.group) {
        Ok(at) if state.members[at].at_index >= told.at_index => return Ok(Effect::NONE),
        Ok(at) => state.members[at] = told.clone(),
        Err(at) => state.members.insert(at, told.clone()),
    }
    Ok(Effect::changed())
}

pub(super) fn set_draining(state: &mut MetaState, c: &SetDraining) -> Result<Effect, Refusal> {
    let node = state.nodes.iter_mut().find(|n| n.id == c.node);
    let node = node.ok_or_else(|| Refusal(format!("node {} is not registered", c.node)))?;
    let is_news = node.draining != c.draining;
    node.draining = c.draining;
    Ok(Effect {
        changed: is_news,
        ..Effect::NONE
    })
}

fn check_replicas(replicas: u32) -> Result<(), Refusal> {
    if matches!(replicas, 1 | 3 | 5) {
        return Ok(());
    }
    Err(format!("{replicas} replicas: 1, 3 and 5 are possible").into())
}

pub(super) fn set_replication(state: &mut MetaState, replicas: u32) -> Result<Effect, Refusal> {
    check_replicas(replicas)?;
    let is_news = state.replicas.max(1) != replicas;
    if is_news {
        state.replicas = replicas;
    }
    Ok(Effect {
        changed: is_news,
        ..Effect::NONE
    })
}

pub(super) fn raise_feature_level(state: &mut MetaState, level: u32, now_ms: i64) -> Result<Effect, Refusal> {
    if level <= state.feature_level {
        return Ok(Effect::NONE);
    }
    // Who has a shard comes back, however long it is away.
    let has_shard = |n: &Node| state.shards.iter().any(|s| s.nodes.contains(&n.id));
    let behind = |n: &&Node| n.feature_level < level && (n.lease_until_ms >= now_ms || has_shard(n));
    if let Some(node) = state.nodes.iter().find(behind) {
        return Err(format!(
            "node {} ({}) understands feature level {} only",
            node.id, node.address, node.feature_level
        )
        .into());
    }
    state.feature_level = level;
    Ok(Effect::changed())
}
