//! Which ingesters are to have a replica of what: a pure function of the metadata state and the time.
//!
//! ```text
//! not placed yet -> once the expected ingesters are there, all at once
//! placed         -> one change at a time for each shard, in this order: a member that is gone or drained is replaced,
//!                   replicas are added or given up until there are as many as wanted, zones are told apart,
//!                   load is levelled, and who leads is
//! ```
//! What is decided here is a wish: the leader of a group brings a new member up to date before it gets a vote, and says
//! when it is done (`GroupMembers`). A shard whose members are not yet as wished is left alone, unless one of them will not
//! come.
//!
//! Invariant: repeated, and each time carried out, it comes to a state in which it wishes nothing (`tests`).

mod count;
#[cfg(test)]
mod tests;

use crate::node::CLOCK_MAY_BE_OFF_MS;
use count::Loads;
use gnomon_model::{GroupId, ShardId};
use gnomon_proto::v1::{MetaState, Node, ShardReplicas};
use std::collections::BTreeMap;

/// How long a node may be silent before its replicas are made anew elsewhere.
pub const REPLACE_AFTER_MS: i64 = 10 * 60 * 1000;
/// Voters of the metadata group at most.
const MOST_META_VOTERS: usize = 5;

/// What to judge by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A node silent for so long past its lease is gone, milliseconds.
    pub replace_after_ms: i64,
    /// How long ago a node was heard of, milliseconds, by a clock that does not jump: when the wall clock does, nobody is
    /// gone for it. By node; for those that are not in it the leases alone tell.
    pub heard_ms_ago: BTreeMap<u64, i64>,
}

impl Default for Rules {
    fn default() -> Self {
        Self::after(REPLACE_AFTER_MS)
    }
}

impl Rules {
    #[must_use]
    pub const fn after(replace_after_ms: i64) -> Self {
        Self {
            replace_after_ms,
            heard_ms_ago: BTreeMap::new(),
        }
    }
}

/// Why a shard's replicas are to change; for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Placed,
    Gone,
    Drained,
    TooFew,
    TooMany,
    Zones,
    Load,
    Leaders,
}

impl Why {
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Placed => "placed for the first time",
            Self::Gone => "a node is gone",
            Self::Drained => "a node is drained",
            Self::TooFew => "more replicas are wanted",
            Self::TooMany => "fewer replicas are wanted",
            Self::Zones => "two replicas are in one zone",
            Self::Load => "a node has more than others",
            Self::Leaders => "a node leads more than others",
        }
    }
}

/// A wish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub shard: u32,
    /// As the state has it.
    pub from: Vec<u64>,
    /// The first is to lead.
    pub to: Vec<u64>,
    pub why: Why,
}

/// How an ingester stands at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Live,
    /// Silent, but not for long.
    Away,
    Draining,
    Gone,
}

/// An ingester as it is counted here.
#[derive(Clone, Debug)]
struct Member<'a> {
    id: u64,
    zone: &'a str,
    standing: Standing,
}

fn is_ingester(node: &Node) -> bool {
    node.incarnation > 0 && node.roles.iter().any(|role| role == "ingester")
}

/// How a node stands. One whose address another node has taken since does not come back: its disk was replaced.
#[must_use]
pub fn standing(state: &MetaState, node: &Node, now_ms: i64, rules: &Rules) -> Standing {
    let silent_ms = now_ms.saturating_sub(node.lease_until_ms);
    let is_succeeded = || {
        let mut others = state.nodes.iter();
        others.any(|n| n.id > node.id && is_ingester(n) && n.address == node.address)
    };
    let heard_ms_ago = rules.heard_ms_ago.get(&node.id).copied();
    // A lease may be by a clock that was wrong: who is not heard of for long is gone whatever it says. (That of one who is
    // there may stand still for a minute, after its clock was set back.)
    let after_ms = rules.replace_after_ms;
    let is_unheard = after_ms < i64::MAX && heard_ms_ago.is_some_and(|ago| ago > after_ms.max(CLOCK_MAY_BE_OFF_MS));
    let is_silent = silent_ms.min(heard_ms_ago.unwrap_or(i64::MAX)) > after_ms;
    if is_unheard || is_silent || (silent_ms > 0 && is_succeeded()) {
        Standing::Gone
    } else if node.draining {
        Standing::Draining
    } else if silent_ms > 0 {
        Standing::Away
    } else {
        Standing::Live
    }
}

fn ingesters<'a>(state: &'a MetaState, now_ms: i64, rules: &Rules) -> Vec<Member<'a>> {
    let all = state.nodes.iter().filter(|node| is_ingester(node));
    all.map(|node| Member {
        id: node.id,
        zone: &node.zone,
        standing: standing(state, node, now_ms, rules),
    })
    .collect()
}

/// Who votes in a group, as its leader last told; empty before it has.
#[must_use]
pub fn voters(state: &MetaState, group: GroupId) -> &[u64] {
    let at = state.members.binary_search_by_key(&group.0, |m| m.group);
    at.map_or(&[], |at| &state.members[at].voters)
}

/// Whether a node has, or is to have, a replica of a shard.
#[must_use]
pub fn has_replica(state: &MetaState, shard: &ShardReplicas, node: u64) -> bool {
    shard.nodes.contains(&node) || voters(state, GroupId::of_shard(ShardId(shard.shard))).contains(&node)
}

/// Shards of which a node has a replica, or is to have one.
pub fn replicas_of(state: &MetaState, node: u64) -> impl Iterator<Item = &ShardReplicas> {
    state.shards.iter().filter(move |shard| has_replica(state, shard, node))
}

/// What is to change now. Empty where everything is as it should be, or has to wait.
#[must_use]
pub fn plan(state: &MetaState, now_ms: i64, rules: &Rules) -> Vec<Change> {
    let ingesters = ingesters(state, now_ms, rules);
    let mut loads = Loads::new(state, &ingesters);
    let mut changes = Vec::new();
    let present = loads.live();
    // Any replica of a shard of an epoch that is not open yet may found it, by the list as it is; and a shard that is not
    // known to be founded may be being founded now.
    let opening = state.epoch_change.as_ref().map_or(&[][..], |change| &change.opening);
    let may_be_new = |shard: &ShardReplicas| {
        let told = voters(state, GroupId::of_shard(ShardId(shard.shard)));
        !shard.nodes.is_empty() && (told.is_empty() || opening.contains(&shard.shard))
    };
    for shard in state.shards.iter().filter(|shard| !may_be_new(shard)) {
        let change = if shard.nodes.is_empty() {
            let enough = present >= (state.expect.max(1) as usize);
            enough.then(|| loads.place(shard, wanted(state, &loads))).flatten()
        } else if loads.is_settled(shard) {
            loads.mend(shard, wanted(state, &loads), asked(state))
        } else {
            loads.mend_coming(shard, voters(state, GroupId::of_shard(ShardId(shard.shard))))
        };
        if let Some(change) = change {
            loads.carry_out(&change);
            changes.push(change);
        }
    }
    if changes.is_empty() {
        let levelled = loads.level_zones(state).or_else(|| loads.level_load(state));
        match levelled {
            Some(change) => changes.push(change),
            None => changes = loads.level_leaders(state),
        }
    }
    changes
}

/// Replicas of shards that are not placed: for a new placement epoch, say. On those that live now, if they are fewer than
/// replicas are asked for; without nodes where none does.
#[must_use]
pub fn assign(state: &MetaState, shards: &[u32], now_ms: i64) -> Vec<ShardReplicas> {
    let ingesters = ingesters(state, now_ms, &Rules::default());
    let mut loads = Loads::new(state, &ingesters);
    let place = |shard: &u32| {
        let mut placed = ShardReplicas {
            shard: *shard,
            nodes: Vec::new(),
        };
        if let Some(change) = loads.place(&placed, asked(state).min(loads.live())) {
            loads.carry_out(&change);
            placed.nodes = change.to;
        }
        placed
    };
    shards.iter().map(place).collect()
}

fn asked(state: &MetaState) -> usize {
    state.replicas.max(1) as usize
}

/// As many as are asked for, or else the largest odd number that there are nodes for: an even one survives no more.
fn wanted(state: &MetaState, loads: &Loads<'_>) -> usize {
    match loads.present() {
        present if present >= asked(state) => asked(state),
        0 => 1,
        present => present - (1 - present % 2),
    }
}

/// Who is to vote in the metadata group: one, three from three ingesters on, five from five on. `now` are those who do, whoever
/// leads first: it stays, or another one would have to judge anew who is gone.
#[must_use]
pub fn meta_voters(state: &MetaState, now: &[u64], now_ms: i64, rules: &Rules) -> Vec<u64> {
    let ingesters = ingesters(state, now_ms, rules);
    let mut loads = Loads::of_group(now, &ingesters);
    let wanted = match loads.present().min(MOST_META_VOTERS) {
        present @ 1.. => present - (1 - present % 2),
        0 => 1,
    };
    let mut voters = ShardReplicas {
        shard: 0,
        nodes: now.to_vec(),
    };
    while let Some(change) = loads.mend(&voters, wanted, MOST_META_VOTERS) {
        loads.carry_out(&change);
        voters.nodes = change.to;
    }
    // A voter is never forgotten, and called for ever.
    while let Some(gone) = loads.gone_beyond(&voters.nodes, wanted) {
        voters.nodes.retain(|node| *node != gone);
    }
    if let Some(spare) = loads.spare_beyond(&voters.nodes, wanted) {
        voters.nodes.retain(|node| *node != spare);
    }
    voters.nodes.sort_unstable();
    voters.nodes
}
