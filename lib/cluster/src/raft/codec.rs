//! Between the library's types and bytes, in the store and on the wire.
//!
//! ```text
//! Log   key   group u32 BE | index u64 BE
//!       value kind u8 (0 blank, 1 normal, 2 membership) | term u64 LE | payload
//! Meta  key   group u32 BE | tag u8           value RaftVote, RaftLogId (protobuf), generation u64 BE
//! State key   group u32 BE | generation u64 BE | 0              value RaftHead (protobuf)
//!       key   group u32 BE | generation u64 BE | 1 | machine's key
//! ```

use super::types::{Command, Entry, Head, LogId, Members, StoredMembers, Vote};
use crate::store::StoreError;
use bytes::Bytes;
use gnomon_model::GroupId;
use gnomon_proto::v1;
use openraft::EntryPayload;
use prost::Message;
use std::collections::BTreeSet;

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// Bytes in front of a stored payload.
const ENTRY_HEAD: usize = 9;

/// A record that is not what it should be: what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Malformed(pub(crate) String);

impl Malformed {
    pub(crate) fn stored(self, what: impl Into<String>) -> StoreError {
        StoreError::Corrupt {
            what: what.into(),
            why: self.0,
        }
    }
}

impl From<prost::DecodeError> for Malformed {
    fn from(error: prost::DecodeError) -> Self {
        Self(error.to_string())
    }
}

pub(crate) fn log_key(group: GroupId, index: u64) -> Vec<u8> {
    let mut key = group.0.to_be_bytes().to_vec();
    key.extend_from_slice(&index.to_be_bytes());
    key
}

/// Keys of `Space::Meta`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tag {
    Vote = b'v' as isize,
    Committed = b'c' as isize,
    Purged = b'p' as isize,
    Generation = b'g' as isize,
    /// `RaftGivenUp`.
    GivenUp = b'x' as isize,
    /// The newest log id of a replica that was removed here.
    Left = b'l' as isize,
}

pub(crate) fn meta_key(group: GroupId, tag: Tag) -> Vec<u8> {
    let mut key = group.0.to_be_bytes().to_vec();
    key.push(tag as u8);
    key
}

/// The prefix of one generation of a group's state.
pub(crate) fn state_prefix(group: GroupId, generation: u64) -> Vec<u8> {
    let mut key = group.0.to_be_bytes().to_vec();
    key.extend_from_slice(&generation.to_be_bytes());
    key
}

pub(crate) fn head_key(group: GroupId, generation: u64) -> Vec<u8> {
    let mut key = state_prefix(group, generation);
    key.push(0);
    key
}

pub(crate) fn log_id_from(wire: v1::RaftLogId) -> LogId {
    LogId::new_term_index(wire.term, wire.index)
}

pub(crate) fn log_id_to(id: &LogId) -> v1::RaftLogId {
    v1::RaftLogId {
        term: **id.committed_leader_id(),
        index: id.index(),
    }
}

pub(crate) fn vote_from(wire: v1::RaftVote) -> Vote {
    if wire.committed {
        Vote::new_committed(wire.term, wire.node)
    } else {
        Vote::new(wire.term, wire.node)
    }
}

pub(crate) fn vote_to(vote: &Vote) -> v1::RaftVote {
    v1::RaftVote {
        term: vote.leader_id.term,
        node: vote.leader_id.voted_for,
        committed: vote.committed,
    }
}

/// A vote that must be there.
pub(crate) fn vote_of(wire: Option<v1::RaftVote>) -> Result<Vote, Malformed> {
    wire.map(vote_from)
        .ok_or_else(|| Malformed("a message without a vote".into()))
}

pub(crate) fn members_to(members: &Members) -> v1::RaftMembership {
    v1::RaftMembership {
        voters: members
            .get_joint_config()
            .iter()
            .map(|set| v1::RaftVoters {
                nodes: set.iter().copied().collect(),
            })
            .collect(),
        nodes: members.nodes().map(|(id, _)| *id).collect(),
    }
}

pub(crate) fn members_from(wire: v1::RaftMembership) -> Members {
    let voters = wire
        .voters
        .into_iter()
        .map(|set| set.nodes.into_iter().collect::<BTreeSet<_>>())
        .collect();
    Members::new_with_defaults(voters, wire.nodes)
}

pub(crate) fn head_to(head: &Head) -> v1::RaftHead {
    v1::RaftHead {
        applied: head.applied.as_ref().map(log_id_to),
        membership_at: head.membership.log_id().as_ref().map(log_id_to),
        membership: Some(members_to(head.membership.membership())),
    }
}

pub(crate) fn head_from(wire: v1::RaftHead) -> Head {
    Head {
        applied: wire.applied.map(log_id_from),
        membership: StoredMembers::new(
            wire.membership_at.map(log_id_from),
            members_from(wire.membership.unwrap_or_default()),
        ),
    }
}

/// The stored form in two pieces, so that the payload need not be copied.
pub(crate) fn entry_to_stored(entry: &Entry) -> (Vec<u8>, Bytes) {
    let (kind, payload) = payload_to(&entry.payload);
    let mut head = Vec::with_capacity(ENTRY_HEAD);
    head.push(kind);
    head.extend_from_slice(&(**entry.log_id.committed_leader_id()).to_le_bytes());
    (head, payload)
}

pub(crate) fn entry_from_stored(index: u64, value: &[u8]) -> Result<Entry, Malformed> {
    let short = || Malformed(format!("{} bytes, at least {ENTRY_HEAD} are expected", value.len()));
    let (kind, rest) = value.split_first().ok_or_else(short)?;
    let (term, payload) = rest.split_first_chunk::<8>().ok_or_else(short)?;
    Ok(Entry {
        log_id: LogId::new_term_index(u64::from_le_bytes(*term), index),
        payload: payload_from(*kind, Bytes::copy_from_slice(payload))?,
    })
}

/// Bytes an entry takes, roughly.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    let payload = match &entry.payload {
        EntryPayload::Normal(command) => command.0.len(),
        _ => 64,
    };
    ENTRY_HEAD + 32 + payload
}

fn payload_to(payload: &EntryPayload<Command, u64, openraft::EmptyNode>) -> (u8, Bytes) {
    match payload {
        EntryPayload::Blank => (BLANK, Bytes::new()),
        EntryPayload::Normal(command) => (NORMAL, command.0.clone()),
        EntryPayload::Membership(members) => (MEMBERSHIP, members_to(members).encode_to_vec().into()),
    }
}

fn payload_from(kind: u8, payload: Bytes) -> Result<EntryPayload<Command, u64, openraft::EmptyNode>, Malformed> {
    match kind {
        BLANK => Ok(EntryPayload::Blank),
        NORMAL => Ok(EntryPayload::Normal(Command(payload))),
        MEMBERSHIP => Ok(EntryPayload::Membership(members_from(v1::RaftMembership::decode(
            payload,
        )?))),
        other => Err(Malformed(format!(
            "entry of kind {other}, which this build does not know"
        ))),
    }
}

pub(crate) fn entry_to_wire(entry: &Entry) -> v1::RaftEntry {
    let (kind, payload) = payload_to(&entry.payload);
    v1::RaftEntry {
        id: Some(log_id_to(&entry.log_id)),
        kind: i32::from(kind),
        payload,
    }
}

pub(crate) fn entry_from_wire(wire: v1::RaftEntry) -> Result<Entry, Malformed> {
    let id = wire.id.ok_or_else(|| Malformed("an entry without a log id".into()))?;
    let kind = u8::try_from(wire.kind).map_err(|_| Malformed(format!("entry of kind {}", wire.kind)))?;
    Ok(Entry {
        log_id: log_id_from(id),
        payload: payload_from(kind, wire.payload)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(payload: EntryPayload<Command, u64, openraft::EmptyNode>) -> Entry {
        Entry {
            log_id: LogId::new_term_index(7, 9),
            payload,
        }
    }

    /// The bytes are on disks: a change of them is a new kind, not a new meaning.
    #[test]
    fn stored_entries_keep_their_bytes() {
        let members = Members::new_with_defaults(vec![[1, 2].into(), [2, 3].into()], [4]);
        for (payload, stored) in [
            (EntryPayload::Blank, "000700000000000000"),
            (EntryPayload::Normal(Command("ab".into())), "0107000000000000006162"),
            (
                EntryPayload::Membership(members),
                "0207000000000000000a040a0201020a040a020203120401020304",
            ),
        ] {
            let entry = entry(payload);
            let (mut bytes, body) = entry_to_stored(&entry);
            bytes.extend_from_slice(&body);
            let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hex, stored);
            assert_eq!(entry_from_stored(9, &bytes), Ok(entry));
        }
    }

    #[test]
    fn damage_is_named_rather_than_read() {
        assert!(entry_from_stored(1, &[]).is_err());
        assert!(entry_from_stored(1, &[1, 2, 3]).is_err());
        assert!(entry_from_stored(1, &[9; 20]).is_err());
        assert!(entry_from_stored(1, &[2, 0, 0, 0, 0, 0, 0, 0, 0, 0xff]).is_err());
    }

    #[test]
    fn heads_and_wire_entries_survive() {
        let head = Head {
            applied: Some(LogId::new_term_index(3, 12)),
            membership: StoredMembers::new(
                Some(LogId::new_term_index(1, 0)),
                Members::new_with_defaults(vec![[1, 2, 3].into()], [9]),
            ),
        };
        assert_eq!(head_from(head_to(&head)), head);
        assert_eq!(head_from(head_to(&Head::default())), Head::default());
        let entry = entry(EntryPayload::Normal(Command("x".into())));
        assert_eq!(entry_from_wire(entry_to_wire(&entry)), Ok(entry));
        let vote = Vote::new_committed(4, 2);
        assert_eq!(vote_from(vote_to(&vote)), vote);
    }
}
