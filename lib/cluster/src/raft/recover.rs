//! Making one replica the only voter of its groups, where a majority is lost for good.
//!
//! What Raft promises ends here: what the lost majority had committed without this replica is lost, and what this one has
//! in its log becomes committed. And it must be the end of the others: replicas that come back with their disks are a
//! majority still, and go on without this one. So it is done offline, by a person, for all groups of a data folder at once.
//!
//! Each group gets one more entry in its log, a membership of this node alone, in a term of which nobody has heard, and the
//! vote of that term. It is applied as any other when the node starts. And it has the nodes that voted before noted as given
//! up: what comes from them is refused from then on, and nothing is sent to them.

use super::codec::{self, Tag};
use super::host::stored_groups;
use super::types::{Entry, Head, LogId, Members};
use crate::store::{Backend, NodeStore, Space, StoreError};
use gnomon_model::{GroupId, NodeId};
use gnomon_proto::v1;
use openraft::EntryPayload;
use prost::Message;
use std::collections::BTreeSet;

/// Added to the newest term that the replica has heard of: others may have come further without it.
const TERMS_AHEAD: u64 = 1_000;

/// What is known here of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftGroup {
    pub group: GroupId,
    /// As the replica last heard; two sets where a change was under way.
    pub voters: Vec<Vec<u64>>,
    /// Newest entry of its log, and what of it it knew to be committed; none where there is none.
    pub last: Option<u64>,
    pub committed: Option<u64>,
    /// Up to where its stored state has applied it. Behind the log's end where a snapshot was installed and the log of before
    /// is still there, or the log has lost its end: then it is this that counts.
    pub applied: Option<u64>,
    /// Newest term that it has heard of.
    pub term: u64,
    /// Whether it votes: a replica that only learns may lack anything.
    pub votes: bool,
}

impl LeftGroup {
    /// Whether it can be recovered by this replica.
    #[must_use]
    pub fn is_recoverable(&self) -> bool {
        self.votes && self.end().is_some()
    }

    /// The newest entry that is known to have been, by log or state.
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        self.last.max(self.applied)
    }
}

fn decoded<M: Message + Default>(value: Option<bytes::Bytes>, what: &str) -> Result<Option<M>, StoreError> {
    let Some(value) = value else { return Ok(None) };
    let decoded = M::decode(value).map_err(|e| codec::Malformed::from(e).stored(what));
    decoded.map(Some)
}

/// What its stored state stands at.
fn head_of(backend: &dyn Backend, group: GroupId) -> Result<Head, StoreError> {
    let generation = backend.get(Space::Meta, &codec::meta_key(group, Tag::Generation))?;
    let generation = generation.and_then(|value| Some(u64::from_be_bytes(*value.first_chunk::<8>()?)));
    let head = backend.get(Space::State, &codec::head_key(group, generation.unwrap_or(0)))?;
    let head = decoded::<v1::RaftHead>(head, "head of a group's state")?;
    Ok(codec::head_from(head.unwrap_or_default()))
}

/// The newest membership, of log and state.
fn members_of(backend: &dyn Backend, group: GroupId, head: &Head) -> Result<Members, StoreError> {
    let mut newest = None;
    let mut failed = None;
    let (from, to) = (codec::log_key(group, 0), codec::log_key(group, u64::MAX));
    backend.scan(Space::Log, &from, &to, &mut |key, value| {
        let entry = super::log::index_of(key).and_then(|index| {
            let entry = codec::entry_from_stored(index, value);
            entry.map_err(|error| error.stored(format!("log of group {group}")))
        });
        match entry {
            Ok(entry) => {
                if let EntryPayload::Membership(members) = entry.payload {
                    newest = Some((entry.log_id.index, members));
                }
                true
            }
            Err(error) => {
                failed = Some(error);
                false
            }
        }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let applied = head.index();
    Ok(match newest {
        Some((index, members)) if index >= applied || head.membership.log_id().is_none_or(|id| id.index <= index) => {
            members
        }
        _ => head.membership.membership().clone(),
    })
}

fn look(backend: &dyn Backend, group: GroupId, node: NodeId) -> Result<LeftGroup, StoreError> {
    let read = |tag: Tag| backend.get(Space::Meta, &codec::meta_key(group, tag));
    let vote = decoded::<v1::RaftVote>(read(Tag::Vote)?, "vote of a group")?;
    let committed = decoded::<v1::RaftLogId>(read(Tag::Committed)?, "committed log id of a group")?;
    let (last, head) = (last_of(backend, group)?, head_of(backend, group)?);
    let members = members_of(backend, group, &head)?;
    let voters: Vec<Vec<u64>> = members
        .get_joint_config()
        .iter()
        .map(|set| set.iter().copied().collect())
        .collect();
    Ok(LeftGroup {
        group,
        votes: voters.iter().any(|set| set.contains(&node.0)),
        voters,
        last: last.map(|id| id.index),
        committed: committed.map(|id| id.index),
        applied: head.applied.map(|id| id.index),
        term: vote
            .map_or(0, |vote| vote.term)
            .max(last.map_or(0, |id| **id.committed_leader_id()))
            .max(head.applied.map_or(0, |id| **id.committed_leader_id())),
    })
}

fn last_of(backend: &dyn Backend, group: GroupId) -> Result<Option<LogId>, StoreError> {
    let (from, to) = (codec::log_key(group, 0), codec::log_key(group, u64::MAX));
    if let Some((key, value)) = backend.last(Space::Log, &from, &to)? {
        let index = super::log::index_of(&key)?;
        let entry = codec::entry_from_stored(index, &value);
        let entry = entry.map_err(|e| e.stored(format!("log entry {index} of group {group}")))?;
        return Ok(Some(entry.log_id));
    }
    let purged = backend.get(Space::Meta, &codec::meta_key(group, Tag::Purged))?;
    let purged = decoded::<v1::RaftLogId>(purged, "purged log id of a group")?;
    Ok(purged.map(codec::log_id_from))
}

/// The groups of a store that nobody else uses; blocks.
///
/// # Errors
/// When the store cannot be read.
pub fn left_groups(store: &NodeStore, node: NodeId) -> Result<Vec<LeftGroup>, StoreError> {
    let backend = store.backend();
    let groups = stored_groups(backend.as_ref())?;
    groups
        .into_iter()
        .map(|group| look(backend.as_ref(), group, node))
        .collect()
}

/// Makes `node` the only voter of those of the groups that can be recovered, all in one durable write; blocks.
///
/// # Errors
/// When the store cannot be read or written: then nothing has changed.
pub fn make_only_voter(store: &NodeStore, node: NodeId, groups: &[LeftGroup]) -> Result<(), StoreError> {
    let backend = store.backend();
    let mut batch = backend.batch()?;
    for left in groups.iter().filter(|left| left.is_recoverable()) {
        let Some(end) = left.end() else { continue };
        if left.applied > left.last
            && let Some(applied) = head_of(backend.as_ref(), left.group)?.applied
        {
            // The log begins anew behind the state, as after a snapshot.
            let (from, to) = (codec::log_key(left.group, 0), codec::log_key(left.group, end + 1));
            batch.delete_range(Space::Log, &from, &to);
            let purged = codec::log_id_to(&applied).encode_to_vec();
            batch.put(Space::Meta, &codec::meta_key(left.group, Tag::Purged), &purged);
        }
        let term = left.term.saturating_add(TERMS_AHEAD);
        let entry = Entry {
            log_id: LogId::new_term_index(term, end + 1),
            payload: EntryPayload::Membership(Members::new_with_defaults(vec![[node.0].into()], [])),
        };
        let (mut value, payload) = codec::entry_to_stored(&entry);
        value.extend_from_slice(&payload);
        batch.put(Space::Log, &codec::log_key(left.group, end + 1), &value);
        let vote = v1::RaftVote {
            term,
            node: node.0,
            committed: false,
        };
        batch.put(
            Space::Meta,
            &codec::meta_key(left.group, Tag::Vote),
            &vote.encode_to_vec(),
        );
        let mut given_up = given_up(backend.as_ref(), left.group)?;
        given_up.extend(left.voters.iter().flatten().filter(|voter| **voter != node.0));
        let given_up = v1::RaftGivenUp {
            nodes: given_up.into_iter().collect(),
        };
        let key = codec::meta_key(left.group, Tag::GivenUp);
        batch.put(Space::Meta, &key, &given_up.encode_to_vec());
    }
    store.write_durably(batch)
}

/// Who had a part in a group before it was recovered here; none where it never was. Blocks.
///
/// # Errors
/// When the store cannot be read.
pub(super) fn given_up(backend: &dyn Backend, group: GroupId) -> Result<BTreeSet<u64>, StoreError> {
    let stored = backend.get(Space::Meta, &codec::meta_key(group, Tag::GivenUp))?;
    let stored = decoded::<v1::RaftGivenUp>(stored, "nodes that a group has given up")?;
    Ok(stored.unwrap_or_default().nodes.into_iter().collect())
}
