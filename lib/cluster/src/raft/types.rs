//! The library's types, as this cluster uses them.

use bytes::Bytes;
use openraft::impls::{EmptyNode, leader_id_std};
use openraft::type_config::alias::{EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf};
use std::fmt;

/// What is proposed: opaque to Raft.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Command(pub(crate) Bytes);

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[allow(deprecated)]
mod config {
    use super::{Bytes, Command, EmptyNode, leader_id_std};

    openraft::declare_raft_types!(
        /// Nodes are numbers; their addresses are the transport's business. One leader per term.
        pub(crate) TypeConfig:
            D = Command,
            R = Bytes,
            NodeId = u64,
            Node = EmptyNode,
            Term = u64,
            LeaderId = leader_id_std::LeaderId<Self::Term, Self::NodeId>,
    );
}
pub(crate) use config::TypeConfig;

pub(crate) type LogId = LogIdOf<TypeConfig>;
pub(crate) type Vote = VoteOf<TypeConfig>;
pub(crate) type Entry = EntryOf<TypeConfig>;
pub(crate) type Members = openraft::Membership<u64, EmptyNode>;
pub(crate) type StoredMembers = StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot<D> = SnapshotOf<TypeConfig, D>;

/// What a group's state stands at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: StoredMembers,
}

impl Head {
    pub(crate) fn index(&self) -> u64 {
        self.applied.map_or(0, |id| id.index)
    }

    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        }
    }
}
