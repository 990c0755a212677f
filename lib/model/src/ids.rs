//! Identities. Each is a newtype, so that one can never stand where another is meant.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id!(
    /// A node, by the number the metadata group gave it. Bound to one data folder, never reused.
    NodeId(u64)
);
number_id!(
    /// An ingest shard. Never reused: an incarnation of a shard that starts empty is a new number.
    ShardId(u32)
);
number_id!(
    /// A Raft group of a node's store: 0 is the metadata group, `shard + 1` the group of a shard.
    GroupId(u32)
);
number_id!(
    /// A series within one shard. Allocated in apply, from 1; never reused within the shard.
    SeriesRef(u64)
);
number_id!(
    /// A numbered configuration in the metadata group; 0 is "none yet".
    ConfigRevision(u64)
);
number_id!(
    /// The rule by which series are placed on shards; chosen by the sample's timestamp.
    PlacementEpoch(u32)
);
number_id!(
    /// What every replica of a group understands; raised by a log entry only.
    FeatureLevel(u32)
);
number_id!(
    /// Hash of a target's job, final labels and URL: two paths of one host are two targets.
    TargetId(u64)
);

impl GroupId {
    pub const METADATA: Self = Self(0);

    #[must_use]
    pub const fn of_shard(shard: ShardId) -> Self {
        Self(shard.0 + 1)
    }

    /// The shard whose group this is; none for the metadata group.
    #[must_use]
    pub const fn shard(self) -> Option<ShardId> {
        match self.0.checked_sub(1) {
            Some(shard) => Some(ShardId(shard)),
            None => None,
        }
    }
}

/// The newest feature level this build understands.
pub const CURRENT_FEATURE_LEVEL: FeatureLevel = HA_FILLS_FEATURE_LEVEL;
/// What every version understands.
pub const BASE_FEATURE_LEVEL: FeatureLevel = FeatureLevel(1);
/// Deletes in the catalogue and in the logs of shards.
pub const DELETES_FEATURE_LEVEL: FeatureLevel = FeatureLevel(2);
/// Batches that say how many series a metric may have.
pub const METRIC_LIMIT_FEATURE_LEVEL: FeatureLevel = FeatureLevel(3);
/// Several ingesters: who votes where is told to the metadata group, and replicas move; and what came with them: turns of
/// HA pairs, several placement epochs.
pub const CLUSTER_FEATURE_LEVEL: FeatureLevel = FeatureLevel(4);
/// Nodes tell how far their clocks are off.
pub const CLOCKS_FEATURE_LEVEL: FeatureLevel = FeatureLevel(5);
/// Placement epochs are called off, nodes forgotten; targets that were silent expire a moment before their next tick.
pub const OPERATIONS_FEATURE_LEVEL: FeatureLevel = FeatureLevel(5);
/// A cluster comes to it by itself, once all of its nodes understand it; from then on older builds are refused by what they
/// have stored, too.
pub const ROLLING_FEATURE_LEVEL: FeatureLevel = FeatureLevel(5);
/// Every call between nodes says which cluster it is for.
pub const NAMED_CALLS_FEATURE_LEVEL: FeatureLevel = CLUSTER_FEATURE_LEVEL;
/// Blocks of format version 4, which have exemplars and metadata; seals and deletes that mind exemplars.
pub const BLOCK_EXTRAS_FEATURE_LEVEL: FeatureLevel = FeatureLevel(5);
/// Start timestamps of samples: batches, log entries and pages that have them, blocks of format version 5.
pub const START_TIMES_FEATURE_LEVEL: FeatureLevel = FeatureLevel(6);
/// The metadata state says when a scraper came into the ring or left it.
pub const RING_TIMES_FEATURE_LEVEL: FeatureLevel = FeatureLevel(7);
/// Who takes over the turn of an HA pair fills the end of the turn before; batches of which only what is newer is taken.
pub const HA_FILLS_FEATURE_LEVEL: FeatureLevel = FeatureLevel(8);
/// A lease that a clock that was ahead gave gets shorter with the next one, also where it was ahead by less than a minute.
pub const SHORTER_LEASES_FEATURE_LEVEL: FeatureLevel = FeatureLevel(8);

/// 128 random bits, written as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterId(pub u128);

/// Names one object of the bucket and one record of the catalogue; unique to the attempt that writes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlockId(pub u128);

/// A text that should have been 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an id: 32 hexadecimal digits are expected")]
pub struct BadId(pub String);

macro_rules! hex_id {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }
        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                if text.len() != 32 {
                    return Err(BadId(text.to_owned()));
                }
                u128::from_str_radix(text, 16)
                    .map(Self)
                    .map_err(|_| BadId(text.to_owned()))
            }
        }
        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}
hex_id!(ClusterId);
hex_id!(BlockId);

/// Whose data it is: 1 to 64 bytes of `[A-Za-z0-9_-]`. Part of every key, entry and block name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantId(std::sync::Arc<str>);

impl TenantId {
    /// The one tenant there is until tenants are switched on.
    #[must_use]
    pub fn anonymous() -> Self {
        Self("anonymous".into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is no tenant id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a tenant id: 1 to 64 letters, digits, '-' or '_' are expected")]
pub struct BadTenantId(pub String);

impl TryFrom<String> for TenantId {
    type Error = BadTenantId;
    fn try_from(text: String) -> Result<Self, BadTenantId> {
        text.parse()
    }
}

impl FromStr for TenantId {
    type Err = BadTenantId;
    fn from_str(text: &str) -> Result<Self, BadTenantId> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if text.is_empty() || text.len() > 64 || !text.bytes().all(legal) {
            return Err(BadTenantId(text.to_owned()));
        }
        Ok(Self(text.into()))
    }
}

impl From<TenantId> for String {
    fn from(id: TenantId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The unit of hand-over from a shard to the bucket: the samples of one shard for one window up to one log id.
/// Numbers count from 1 within a shard; windows of one shard may have several parts (late samples). Those from
/// [`PartId::FIRST_IMPORTED`] on were imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartId {
    pub shard: ShardId,
    pub number: u64,
}

impl PartId {
    /// Shards never count so far: from here on are parts that were imported from other programs.
    pub const FIRST_IMPORTED: u64 = 1 << 63;
}

impl fmt::Display for PartId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.shard, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_survive_their_text_form() {
        let id = BlockId(0xab);
        assert_eq!(id.to_string().parse::<BlockId>(), Ok(id));
        assert!("xyz".parse::<ClusterId>().is_err());
        assert!("a/b".parse::<TenantId>().is_err());
        assert_eq!(GroupId::of_shard(ShardId(3)).shard(), Some(ShardId(3)));
        assert_eq!(GroupId::METADATA.shard(), None);
    }
}
