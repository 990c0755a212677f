//! The metadata state as what differs from an earlier one: how it travels to those who watch.
//!
//! ```text
//! states -> History -> Pieces -> MetaUpdate ... -> Assembling -> states
//! ```
//! A state is some long lists of records, each of which has a name, and the rest, which is small. An update has the records
//! that are new or not as they were, whole, and names those that are gone: put on a state that has some of it already, it
//! gives the same. So a [`History`] need only know which records changed after which revision.
//!
//! Invariant: what an update leads to is equal to the state it was made of, the order of lists included.

mod assembling;
mod history;
mod pieces;

pub(crate) use assembling::Assembling;
pub(crate) use history::History;
pub(crate) use pieces::Pieces;

use gnomon_proto::v1::{BlockRecord, GroupMembers, HaPair, JobLease, MetaState, Node, ShardReplicas, TombstoneRecord};
use prost::Message;
use std::cmp::Ordering;

/// A record of one of the long lists.
pub(crate) trait Listed: Message + Clone + PartialEq + Default {
    /// Whether the list ascends by name, each name once. Else it has the order in which its records came.
    const ASCENDS: bool;
    /// By name.
    fn order(&self, other: &Self) -> Ordering;
    /// A record that has the name only.
    fn named(&self) -> Self;
}

macro_rules! listed {
    ($record:ident, $ascends:literal, $($name:ident),+) => {
        impl Listed for $record {
            const ASCENDS: bool = $ascends;

            fn order(&self, other: &Self) -> Ordering {
                Ordering::Equal$(.then_with(|| self.$name.cmp(&other.$name)))+
            }

            fn named(&self) -> Self {
                Self {
                    $($name: self.$name.clone(),)+
                    ..Self::default()
                }
            }
        }
    };
}

// The founder may register after others.
listed!(Node, false, id);
listed!(ShardReplicas, true, shard);
listed!(BlockRecord, true, id);
listed!(JobLease, true, job);
listed!(GroupMembers, true, group);
listed!(TombstoneRecord, true, revision);
listed!(HaPair, true, tenant, cluster);

/// How many lists [`each_list`] names.
const LISTS: usize = 7;

/// Does the same with each of the long lists, by the name of its field.
macro_rules! each_list {
    ($with:ident) => {
        $with!(nodes);
        $with!(shards);
        $with!(blocks);
        $with!(jobs);
        $with!(members);
        $with!(tombstones);
        $with!(ha_pairs);
    };
}
use each_list;

/// All but the long lists and the revisions.
fn rest(state: &MetaState) -> MetaState {
    // A new field has to be thought of here: it is part of the rest, or a list above.
    let MetaState {
        revision: _,
        cluster_id,
        feature_level,
        nodes: _,
        epochs,
        shards: _,
        blocks: _,
        jobs: _,
        configs,
        tombstones: _,
        next_node_id,
        catalogue_revision: _,
        superseded_config_hashes,
        scrapers,
        forgotten_tombstone_revision,
        clean_revision,
        first_parts,
        replicas,
        expect,
        members: _,
        epoch_change,
        shard_lives,
        ha_pairs: _,
        founder_forgotten,
        called_off_epoch,
    } = state;
    MetaState {
        cluster_id: cluster_id.clone(),
        feature_level: *feature_level,
        epochs: epochs.clone(),
        configs: configs.clone(),
        next_node_id: *next_node_id,
        superseded_config_hashes: superseded_config_hashes.clone(),
        scrapers: scrapers.clone(),
        forgotten_tombstone_revision: *forgotten_tombstone_revision,
        clean_revision: *clean_revision,
        first_parts: first_parts.clone(),
        replicas: *replicas,
        expect: *expect,
        epoch_change: epoch_change.clone(),
        shard_lives: shard_lives.clone(),
        founder_forgotten: *founder_forgotten,
        called_off_epoch: *called_off_epoch,
        ..MetaState::default()
    }
}

/// Records of all long lists.
fn records(state: &MetaState) -> usize {
    let mut count = 0;
    macro_rules! add {
        ($list:ident) => {
            count += state.$list.len();
        };
    }
    each_list!(add);
    count
}
