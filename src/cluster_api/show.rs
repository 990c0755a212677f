//! The metadata state as JSON.

use gnomon_cluster::assign::{Rules, Standing, standing, voters};
use gnomon_cluster::meta::{ReshardProgress, reshard_progress};
use gnomon_model::{GroupId, ShardId};
use gnomon_proto::v1::block_record::State;
use gnomon_proto::v1::{GroupStatus, MetaState};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// By group, then by the node that tells.
pub(super) type Seen = BTreeMap<u32, BTreeMap<u64, GroupStatus>>;

const fn standing_text(standing: Standing) -> &'static str {
    match standing {
        Standing::Live => "live",
        Standing::Away => "silent",
        Standing::Draining => "draining",
        Standing::Gone => "gone",
    }
}

pub(super) fn nodes(state: &MetaState, now_ms: i64, rules: &Rules) -> Value {
    let votes = voters(state, GroupId::METADATA);
    let node = |node: &gnomon_proto::v1::Node| {
        let replicas = state.shards.iter().filter(|s| s.nodes.contains(&node.id)).count();
        let leads = state
            .shards
            .iter()
            .filter(|s| s.nodes.first() == Some(&node.id))
            .count();
        json!({
            "id": node.id,
            "address": node.address,
            "roles": node.roles,
            "zone": node.zone,
            "version": node.version,
            "life": node.incarnation,
            "state": standing_text(standing(state, node, now_ms, rules)),
            "leaseUntilMs": node.lease_until_ms,
            "featureLevel": node.feature_level,
            "metadataVoter": votes.contains(&node.id),
            "replicas": replicas,
            "preferredLeader": leads,
        })
    };
    let started = state.nodes.iter().filter(|node| node.incarnation > 0);
    json!({
        "clusterId": state.cluster_id,
        "featureLevel": state.feature_level,
        "revision": state.revision,
        "nodes": started.map(node).collect::<Vec<_>>(),
    })
}

/// One group: what is wished, what its leader told, what each member says.
fn group(state: &MetaState, id: GroupId, wished: &[u64], seen: &Seen) -> Value {
    let empty = BTreeMap::new();
    let told = seen.get(&id.0).unwrap_or(&empty);
    let term = told.values().map(|s| s.term).max().unwrap_or(0);
    let leader = told
        .values()
        .filter(|s| s.term == term)
        .map(|s| s.leader)
        .max()
        .unwrap_or(0);
    let of_leader = told.get(&leader);
    let committed = of_leader.map(|s| s.committed);
    // One that was removed while it was away does not know: its leader does.
    let is_removed = |node: &u64| of_leader.is_some_and(|s| !s.voters.contains(node) && !s.learners.contains(node));
    let member = |(node, s): (&u64, &GroupStatus)| {
        json!({
            "node": node,
            "role": match (leader == *node, s.voters.contains(node)) {
                (true, _) => "leader",
                _ if is_removed(node) => "removed",
                (false, true) => "follower",
                (false, false) => "learner",
            },
            "applied": s.applied,
            "behind": committed.filter(|_| !is_removed(node)).map(|committed| committed.saturating_sub(s.applied)),
            "flushed": s.flushed,
        })
    };
    let voters = match of_leader {
        Some(status) => status.voters.clone(),
        None => voters(state, id).to_vec(),
    };
    let mut wanted = wished.to_vec();
    wanted.sort_unstable();
    let is_settled = wished.is_empty() || voters == wanted;
    json!({
        "wished": wished,
        "voters": voters,
        "learners": of_leader.map(|s| s.learners.clone()).unwrap_or_default(),
        "leader": (leader != 0).then_some(leader),
        "term": term,
        "committed": committed,
        "settled": is_settled,
        "members": told.iter().map(member).collect::<Vec<_>>(),
    })
}

/// The placement epoch that is on its way; null if none is.
pub(super) fn epoch_change(state: &MetaState) -> Value {
    let change = |p: ReshardProgress| {
        json!({
            "epoch": p.epoch,
            "shards": p.shards,
            "fromMs": p.from_ms,
            "notOpen": p.opening,
            "notClosed": p.closing,
        })
    };
    reshard_progress(state).map_or(Value::Null, change)
}

pub(super) fn shards(state: &MetaState, seen: &Seen) -> Value {
    let shard = |replicas: &gnomon_proto::v1::ShardReplicas| {
        let mut shown = group(state, GroupId::of_shard(ShardId(replicas.shard)), &replicas.nodes, seen);
        let epochs = state.epochs.iter().filter(|e| e.shards.contains(&replicas.shard));
        shown["shard"] = json!(replicas.shard);
        shown["epochs"] = json!(epochs.map(|e| e.epoch).collect::<Vec<_>>());
        shown
    };
    let epoch = |e: &gnomon_proto::v1::PlacementEpoch| {
        json!({
            "epoch": e.epoch,
            "fromMs": (e.from_ms != i64::MIN).then_some(e.from_ms),
            "shards": e.shards,
            "byLabels": e.by_labels,
        })
    };
    json!({
        "replicas": state.replicas.max(1),
        "epochs": state.epochs.iter().map(epoch).collect::<Vec<_>>(),
        "epochChange": epoch_change(state),
        "metadata": group(state, GroupId::METADATA, &[], seen),
        "shards": state.shards.iter().map(shard).collect::<Vec<_>>(),
    })
}

pub(super) fn ring(state: &MetaState) -> Value {
    let ring = state.scrapers.clone().unwrap_or_default();
    let address = |id: &u64| state.nodes.iter().find(|n| n.id == *id).map(|n| n.address.clone());
    let node = |id: &u64| json!({"id": id, "address": address(id)});
    json!({"term": ring.term, "scrapers": ring.nodes.iter().map(node).collect::<Vec<_>>()})
}

pub(super) fn blocks(state: &MetaState) -> Value {
    let block = |b: &gnomon_proto::v1::BlockRecord| {
        json!({
            "id": b.id,
            "tenant": b.tenant,
            "shard": b.shard,
            "startMs": b.start_ms,
            "endMs": b.end_ms,
            "level": b.level,
            "bytes": b.bytes,
            "series": b.series,
            "samples": b.samples,
            "state": match b.state() {
                State::Staged => "staged",
                State::Live => "live",
                State::Condemned => "condemned",
                State::Unspecified => "unknown",
            },
            "path": b.path,
        })
    };
    json!({
        "revision": state.catalogue_revision,
        "bytes": state.blocks.iter().map(|b| b.bytes).sum::<u64>(),
        "blocks": state.blocks.iter().map(block).collect::<Vec<_>>(),
    })
}

pub(super) fn jobs(state: &MetaState, now_ms: i64) -> Value {
    let job = |j: &gnomon_proto::v1::JobLease| {
        json!({
            "job": j.job,
            "node": j.node,
            "term": j.term,
            "untilMs": j.until_ms,
            "held": j.until_ms >= now_ms,
        })
    };
    json!({"jobs": state.jobs.iter().map(job).collect::<Vec<_>>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(leader: u64, voters: &[u64], applied: u64) -> GroupStatus {
        GroupStatus {
            group: 1,
            term: 3,
            leader,
            committed: 50,
            applied,
            voters: voters.to_vec(),
            ..GroupStatus::default()
        }
    }

    #[test]
    fn only_what_the_leader_counts_is_behind() {
        let state = MetaState::default();
        // Node 4 was removed while it was away.
        let members = BTreeMap::from([
            (1, told(1, &[1, 2, 3], 50)),
            (2, told(1, &[1, 2, 3], 48)),
            (4, told(1, &[1, 2, 4], 7)),
        ]);
        let seen = Seen::from([(1, members.clone())]);
        let shown = group(&state, GroupId(1), &[1, 2, 3], &seen);
        assert_eq!(shown["committed"], 50);
        let of = |shown: &Value, at: usize, name: &str| shown["members"][at][name].clone();
        assert_eq!(
            (of(&shown, 1, "role"), of(&shown, 1, "behind")),
            (json!("follower"), json!(2))
        );
        assert_eq!(
            (of(&shown, 2, "role"), of(&shown, 2, "behind")),
            (json!("removed"), Value::Null)
        );
        // The leader does not answer: nobody knows how far it is.
        let without = members.into_iter().filter(|(node, _)| *node != 1).collect();
        let shown = group(&state, GroupId(1), &[1, 2, 3], &Seen::from([(1, without)]));
        assert_eq!(shown["leader"], 1);
        assert_eq!(
            (&shown["committed"], of(&shown, 0, "behind")),
            (&Value::Null, Value::Null)
        );
    }
}
