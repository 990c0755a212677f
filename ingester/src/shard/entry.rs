//! The bytes of a shard's log entries; the byte diagram is in `ingester/format.md`.
//!
//! Whatever depends on a clock, on load or on configuration is decided by the leader before it proposes, and is in the
//! entry: limits in force, the time of the proposal, the feature level by which the entry is to be understood.

use bytes::Bytes;
use gnomon_model::ids::{
    BASE_FEATURE_LEVEL, BLOCK_EXTRAS_FEATURE_LEVEL, CLUSTER_FEATURE_LEVEL, DELETES_FEATURE_LEVEL,
    METRIC_LIMIT_FEATURE_LEVEL, OPERATIONS_FEATURE_LEVEL, START_TIMES_FEATURE_LEVEL,
};
use gnomon_model::{FeatureLevel, MatchOp, Matcher, TargetId, TenantId, TimeRange, TimestampMs};
use gnomon_proto::batch::has_starts;
use gnomon_tsdb::Tombstone;
use std::sync::Arc;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 2 + 4 + 8;
const LIMITS_BYTES: usize = 4 * 8;
const METRIC_LIMIT_BYTES: usize = 8;

/// Kinds, as the second byte says them.
const BATCH: u8 = 1;
const SEAL: u8 = 2;
const PUBLISHED: u8 = 3;
const EXPIRE_TARGETS: u8 = 4;
const FEATURE_LEVEL: u8 = 5;
const CATALOGUE: u8 = 6;
const BATCH_WITH_METRIC_LIMIT: u8 = 7;
const UNTIL: u8 = 8;
const FROM: u8 = 9;
const EXPIRE_BETWEEN_TICKS: u8 = 11;
const SEAL_WITH_EXEMPLARS: u8 = 12;
const CATALOGUE_WITH_EXEMPLARS: u8 = 13;
const BATCH_WITH_STARTS: u8 = 14;

/// What apply refuses by, as the leader had it configured when it proposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How far behind the shard's newest sample one may be that is older than its series' newest.
    pub out_of_order_ms: u64,
    /// How far behind the shard's newest sample one may be that is newer than its series' newest.
    pub late_ms: u64,
    /// How far ahead of the proposal a sample may be.
    pub future_ms: u64,
    /// Series the shard may hold; 0 is no limit.
    pub max_series: u64,
    /// Series that one metric may have in the shard; 0 is no limit.
    pub max_series_per_metric: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            out_of_order_ms: 30 * 60 * 1000,
            late_ms: 12 * 60 * 60 * 1000,
            future_ms: 10 * 60 * 1000,
            max_series: 0,
            max_series_per_metric: 0,
        }
    }
}

/// A target that the leader has not heard of for too long, as it stood in the leader's head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SilentTarget {
    pub tenant: TenantId,
    pub target: TargetId,
    pub term: u64,
    /// Proposal time of the target's newest entry: nothing happens where it was heard of since.
    pub heard_ms: i64,
}

/// What an entry does.
#[derive(Clone, Debug, PartialEq)]
pub enum Command<B = Bytes> {
    /// Samples, in the bytes of `gnomon_proto::batch`.
    Batch { limits: Limits, batch: B },
    /// Turns what the window holds into parts, one for each tenant; with its exemplars, where all replicas know how.
    Seal { window: TimeRange, with_exemplars: bool },
    /// A part is in the catalogue as of this revision of it: drop the samples.
    Published { part: u64, catalogue_revision: u64 },
    /// Markers for targets that are gone.
    ExpireTargets { targets: Vec<SilentTarget> },
    /// The same, with markers half an interval after the last tick: where the target was scraped all the same, and its ticks
    /// come late, none of them is in their place.
    ExpireBetweenTicks { targets: Vec<SilentTarget> },
    /// Entries from here on may need this level.
    FeatureLevel { level: FeatureLevel },
    /// What the catalogue says that a shard has to keep to.
    Catalogue(Catalogue),
    /// The shard takes no samples from a time on. Without effect where it has some.
    Until(Bound),
    /// The shard takes no samples before a time.
    From(Bound),
}

/// An end of the time that a shard owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    pub at_ms: i64,
    /// The placement epoch that owns what is beyond it; 0 where that is told of an end that is not there.
    pub epoch: u32,
    /// The metadata's, as of which it is so: an older one has no effect after it.
    pub revision: u64,
}

/// Deletes that a shard did not know, and parts that are not its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Catalogue {
    /// Deletes up to this revision are in the log with it.
    pub revision: u64,
    /// Parts with lower numbers are taken: by blocks that were there before the shard was.
    pub first_part: u64,
    /// Those the shard does not know, ascending by revision.
    pub tombstones: Vec<Arc<Tombstone>>,
    /// Whether they take exemplars too: where all replicas know how.
    pub with_exemplars: bool,
}

/// A log entry; `B` is how it has a batch's bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<B = Bytes> {
    pub feature_level: FeatureLevel,
    /// The leader's clock when it proposed.
    pub proposed_at: TimestampMs,
    pub command: Command<B>,
}

/// Bytes that are no entry of this version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    #[error("entry ends within its {0}")]
    Truncated(&'static str),
    #[error("entry version {0} is not known (1 is)")]
    Version(u8),
    #[error("entry of unknown kind {0}")]
    Kind(u8),
    #[error("entry: {0}")]
    Tenant(#[from] gnomon_model::ids::BadTenantId),
    #[error("entry has {0} bytes too many")]
    Rest(usize),
    #[error("entry: the delete of revision {revision}: {what}")]
    Delete { revision: u64, what: String },
}

impl<B: AsRef<[u8]>> Entry<B> {
    /// The entry's bytes. A batch's own bytes are copied behind the header as they are.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let batch = match &self.command {
            Command::Batch { batch, .. } => batch.as_ref().len(),
            _ => 0,
        };
        let mut out = Vec::with_capacity(HEADER_BYTES + LIMITS_BYTES + METRIC_LIMIT_BYTES + batch);
        out.push(VERSION);
        out.push(self.command.kind());
        out.extend_from_slice(&self.feature_level.0.to_le_bytes());
        out.extend_from_slice(&self.proposed_at.0.to_le_bytes());
        self.command.write_to(&mut out);
        out.into()
    }
}

impl<'a> Entry<&'a [u8]> {
    /// # Errors
    /// When the bytes are not an entry of a version this build knows.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, BadEntry> {
        let mut rest = Rest(bytes);
        let version = rest.u8("version")?;
        if version != VERSION {
            return Err(BadEntry::Version(version));
        }
        let kind = rest.u8("kind")?;
        let feature_level = FeatureLevel(rest.u32("feature level")?);
        let proposed_at = TimestampMs(rest.i64("time")?);
        let command = Command::read(kind, &mut rest)?;
        if !rest.0.is_empty() {
            return Err(BadEntry::Rest(rest.0.len()));
        }
        Ok(Self {
            feature_level,
            proposed_at,
            command,
        })
    }
}

impl<B: AsRef<[u8]>> Command<B> {
    fn kind(&self) -> u8 {
        match self {
            Self::Batch { batch, .. } if has_starts(batch.as_ref()) => BATCH_WITH_STARTS,
            Self::Batch { limits, .. } if limits.max_series_per_metric > 0 => BATCH_WITH_METRIC_LIMIT,
            Self::Batch { .. } => BATCH,
            Self::Seal {
                with_exemplars: true, ..
            } => SEAL_WITH_EXEMPLARS,
            Self::Seal { .. } => SEAL,
            Self::Published { .. } => PUBLISHED,
            Self::ExpireTargets { .. } => EXPIRE_TARGETS,
            Self::ExpireBetweenTicks { .. } => EXPIRE_BETWEEN_TICKS,
            Self::FeatureLevel { .. } => FEATURE_LEVEL,
            Self::Catalogue(catalogue) if catalogue.with_exemplars => CATALOGUE_WITH_EXEMPLARS,
            Self::Catalogue(_) => CATALOGUE,
            Self::Until(_) => UNTIL,
            Self::From(_) => FROM,
        }
    }

    /// What a replica has to understand.
    pub(crate) fn feature_level(&self) -> FeatureLevel {
        match self {
            Self::Batch { batch, .. } if has_starts(batch.as_ref()) => START_TIMES_FEATURE_LEVEL,
            Self::Batch { limits, .. } if limits.max_series_per_metric > 0 => METRIC_LIMIT_FEATURE_LEVEL,
            Self::Seal {
                with_exemplars: true, ..
            } => BLOCK_EXTRAS_FEATURE_LEVEL,
            Self::Catalogue(catalogue) if catalogue.with_exemplars => BLOCK_EXTRAS_FEATURE_LEVEL,
            Self::Catalogue(_) => DELETES_FEATURE_LEVEL,
            Self::Until(_) | Self::From(_) => CLUSTER_FEATURE_LEVEL,
            Self::ExpireBetweenTicks { .. } => OPERATIONS_FEATURE_LEVEL,
            _ => BASE_FEATURE_LEVEL,
        }
    }

    fn write_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Batch { limits, batch } => {
                for limit in [
                    limits.out_of_order_ms,
                    limits.late_ms,
                    limits.future_ms,
                    limits.max_series,
                ] {
                    out.extend_from_slice(&limit.to_le_bytes());
                }
                if self.kind() != BATCH {
                    out.extend_from_slice(&limits.max_series_per_metric.to_le_bytes());
                }
                out.extend_from_slice(batch.as_ref());
            }
            Self::Seal { window, .. } => {
                out.extend_from_slice(&window.start.0.to_le_bytes());
                out.extend_from_slice(&window.end.0.to_le_bytes());
            }
            Self::Published {
                part,
                catalogue_revision,
            } => {
                out.extend_from_slice(&part.to_le_bytes());
                out.extend_from_slice(&catalogue_revision.to_le_bytes());
            }
            Self::ExpireTargets { targets } | Self::ExpireBetweenTicks { targets } => {
                out.extend_from_slice(&(targets.len() as u32).to_le_bytes());
                for silent in targets {
                    let tenant = silent.tenant.as_str();
                    out.push(tenant.len() as u8);
                    out.extend_from_slice(tenant.as_bytes());
                    out.extend_from_slice(&silent.target.0.to_le_bytes());
                    out.extend_from_slice(&silent.term.to_le_bytes());
                    out.extend_from_slice(&silent.heard_ms.to_le_bytes());
                }
            }
            Self::FeatureLevel { level } => out.extend_from_slice(&level.0.to_le_bytes()),
            Self::Until(bound) | Self::From(bound) => {
                out.extend_from_slice(&bound.at_ms.to_le_bytes());
                out.extend_from_slice(&bound.epoch.to_le_bytes());
                out.extend_from_slice(&bound.revision.to_le_bytes());
            }
            Self::Catalogue(catalogue) => {
                out.extend_from_slice(&catalogue.revision.to_le_bytes());
                out.extend_from_slice(&catalogue.first_part.to_le_bytes());
                out.extend_from_slice(&(catalogue.tombstones.len() as u32).to_le_bytes());
                for tombstone in &catalogue.tombstones {
                    write_tombstone(tombstone, out);
                }
            }
        }
    }
}

/// The bytes of a delete, here and in the durable state.
pub(crate) fn write_tombstone(tombstone: &Tombstone, out: &mut Vec<u8>) {
    let text = |text: &str, out: &mut Vec<u8>| {
        out.extend_from_slice(&(text.len() as u32).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
    };
    out.extend_from_slice(&tombstone.revision.to_le_bytes());
    text(tombstone.tenant.as_str(), out);
    out.extend_from_slice(&tombstone.start_ms.to_le_bytes());
    out.extend_from_slice(&tombstone.end_ms.to_le_bytes());
    out.extend_from_slice(&(tombstone.sets.len() as u32).to_le_bytes());
    for set in &tombstone.sets {
        out.extend_from_slice(&(set.len() as u32).to_le_bytes());
        for matcher in set {
            out.push(match matcher.op() {
                MatchOp::Equal => 0,
                MatchOp::NotEqual => 1,
                MatchOp::Regex => 2,
                MatchOp::NotRegex => 3,
            });
            text(matcher.name(), out);
            text(matcher.value(), out);
        }
    }
}

/// Reads what [`write_tombstone`] wrote, and nothing else.
///
/// # Errors
/// When the bytes are something else.
pub(crate) fn read_tombstone(bytes: &[u8]) -> Result<Tombstone, BadEntry> {
    let mut rest = Rest(bytes);
    let tombstone = rest.tombstone()?;
    match rest.0.len() {
        0 => Ok(tombstone),
        more => Err(BadEntry::Rest(more)),
    }
}

impl<'a> Command<&'a [u8]> {
    fn read(kind: u8, rest: &mut Rest<'a>) -> Result<Self, BadEntry> {
        Ok(match kind {
            BATCH | BATCH_WITH_METRIC_LIMIT | BATCH_WITH_STARTS => Self::Batch {
                limits: Limits {
                    out_of_order_ms: rest.u64("limits")?,
                    late_ms: rest.u64("limits")?,
                    future_ms: rest.u64("limits")?,
                    max_series: rest.u64("limits")?,
                    max_series_per_metric: match kind {
                        BATCH => 0,
                        _ => rest.u64("limits")?,
                    },
                },
                batch: std::mem::take(&mut rest.0),
            },
            SEAL | SEAL_WITH_EXEMPLARS => Self::Seal {
                window: TimeRange::new(TimestampMs(rest.i64("window")?), TimestampMs(rest.i64("window")?)),
                with_exemplars: kind == SEAL_WITH_EXEMPLARS,
            },
            PUBLISHED => Self::Published {
                part: rest.u64("part")?,
                catalogue_revision: rest.u64("revision")?,
            },
            EXPIRE_TARGETS | EXPIRE_BETWEEN_TICKS => {
                let count = rest.u32("targets")?;
                let mut targets = Vec::new();
                for _ in 0..count {
                    targets.push(rest.silent_target()?);
                }
                match kind {
                    EXPIRE_TARGETS => Self::ExpireTargets { targets },
                    _ => Self::ExpireBetweenTicks { targets },
                }
            }
            FEATURE_LEVEL => Self::FeatureLevel {
                level: FeatureLevel(rest.u32("feature level")?),
            },
            CATALOGUE | CATALOGUE_WITH_EXEMPLARS => {
                let (revision, first_part) = (rest.u64("revision")?, rest.u64("part")?);
                let mut tombstones = Vec::new();
                for _ in 0..rest.u32("deletes")? {
                    tombstones.push(Arc::new(rest.tombstone()?));
                }
                Self::Catalogue(Catalogue {
                    revision,
                    first_part,
                    tombstones,
                    with_exemplars: kind == CATALOGUE_WITH_EXEMPLARS,
                })
            }
            UNTIL => Self::Until(rest.bound()?),
            FROM => Self::From(rest.bound()?),
            other => return Err(BadEntry::Kind(other)),
        })
    }
}

/// What of an entry's bytes is still to be read.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn take<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], BadEntry> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(BadEntry::Truncated(what))?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u8(&mut self, what: &'static str) -> Result<u8, BadEntry> {
        Ok(self.take::<1>(what)?[0])
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, BadEntry> {
        Ok(u32::from_le_bytes(self.take(what)?))
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, BadEntry> {
        Ok(u64::from_le_bytes(self.take(what)?))
    }

    fn i64(&mut self, what: &'static str) -> Result<i64, BadEntry> {
        Ok(i64::from_le_bytes(self.take(what)?))
    }

    fn bound(&mut self) -> Result<Bound, BadEntry> {
        Ok(Bound {
            at_ms: self.i64("bound")?,
            epoch: self.u32("epoch")?,
            revision: self.u64("revision")?,
        })
    }

    fn text(&mut self) -> Result<String, BadEntry> {
        let length = self.u32("delete")? as usize;
        let (text, rest) = self.0.split_at_checked(length).ok_or(BadEntry::Truncated("delete"))?;
        self.0 = rest;
        Ok(String::from_utf8_lossy(text).into_owned())
    }

    fn tombstone(&mut self) -> Result<Tombstone, BadEntry> {
        let revision = self.u64("delete")?;
        let bad = |what: String| BadEntry::Delete { revision, what };
        let tenant = TenantId::try_from(self.text()?)?;
        let (start_ms, end_ms) = (self.i64("delete")?, self.i64("delete")?);
        let mut sets = Vec::new();
        for _ in 0..self.u32("delete")? {
            let mut set = Vec::new();
            for _ in 0..self.u32("delete")? {
                let op = match self.u8("delete")? {
                    0 => MatchOp::Equal,
                    1 => MatchOp::NotEqual,
                    2 => MatchOp::Regex,
                    3 => MatchOp::NotRegex,
                    other => return Err(bad(format!("matcher operator {other}"))),
                };
                let (name, value) = (self.text()?, self.text()?);
                set.push(Matcher::new(name, op, value).map_err(|e| bad(e.to_string()))?);
            }
            sets.push(set);
        }
        Ok(Tombstone {
            revision,
            tenant,
            sets,
            start_ms,
            end_ms,
        })
    }

    fn silent_target(&mut self) -> Result<SilentTarget, BadEntry> {
        let length = usize::from(self.u8("tenant")?);
        let (tenant, rest) = self.0.split_at_checked(length).ok_or(BadEntry::Truncated("tenant"))?;
        self.0 = rest;
        let tenant = String::from_utf8_lossy(tenant).into_owned();
        Ok(SilentTarget {
            tenant: TenantId::try_from(tenant)?,
            target: TargetId(self.u64("target")?),
            term: self.u64("target term")?,
            heard_ms: self.i64("target time")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Vec<Entry> {
        let commands = [
            Command::Batch {
                limits: Limits {
                    max_series: 7,
                    ..Limits::default()
                },
                batch: Bytes::from_static(b"\x01batch"),
            },
            Command::Seal {
                window: TimeRange::window_of(TimestampMs(7_200_001), 7_200_000),
                with_exemplars: false,
            },
            Command::Published {
                part: 3,
                catalogue_revision: 0x0102,
            },
            Command::ExpireTargets {
                targets: vec![SilentTarget {
                    tenant: TenantId::anonymous(),
                    target: TargetId(0xfeed),
                    term: 2,
                    heard_ms: 15_000,
                }],
            },
            Command::ExpireBetweenTicks {
                targets: vec![SilentTarget {
                    tenant: TenantId::anonymous(),
                    target: TargetId(0xfeed),
                    term: 2,
                    heard_ms: 15_000,
                }],
            },
            Command::FeatureLevel { level: FeatureLevel(2) },
            Command::Catalogue(Catalogue {
                revision: 9,
                first_part: 4,
                tombstones: vec![Arc::new(Tombstone {
                    revision: 8,
                    tenant: TenantId::anonymous(),
                    sets: vec![vec![Matcher::new("a", MatchOp::Regex, "b+").unwrap()]],
                    start_ms: -1,
                    end_ms: 2,
                })],
                with_exemplars: false,
            }),
            Command::Batch {
                limits: Limits {
                    max_series: 7,
                    max_series_per_metric: 5,
                    ..Limits::default()
                },
                batch: Bytes::from_static(b"\x01batch"),
            },
            Command::Until(Bound {
                at_ms: 7_200_000,
                epoch: 2,
                revision: 9,
            }),
            Command::From(Bound {
                at_ms: i64::MIN,
                epoch: 0,
                revision: 10,
            }),
            Command::Seal {
                window: TimeRange::window_of(TimestampMs(7_200_001), 7_200_000),
                with_exemplars: true,
            },
            Command::Catalogue(Catalogue {
                revision: 9,
                first_part: 4,
                tombstones: Vec::new(),
                with_exemplars: true,
            }),
            Command::Batch {
                limits: Limits {
                    max_series: 7,
                    ..Limits::default()
                },
                batch: Bytes::from_static(b"\x02batch"),
            },
        ];
        let entry = |command: Command| Entry {
            feature_level: command.feature_level(),
            proposed_at: TimestampMs(1_700_000_000_000),
            command,
        };
        commands.into_iter().map(entry).collect()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// These bytes lie in logs: a change of them needs a new version, not a new golden text.
    #[test]
    fn bytes_are_the_documented_ones() {
        let head = |kind: &str| {
            let level = match kind {
                "06" => 2,
                "07" => 3,
                "08" | "09" => 4,
                "0b" | "0c" | "0d" => 5,
                "0e" => 6,
                _ => 1,
            };
            format!("01{kind}0{level}0000000068e5cf8b010000")
        };
        let golden = [
            head("01") + "40771b000000000000 2e930200000000 c027090000000000 0700000000000000 016261746368",
            head("02") + "00dd6d0000000000 00badb0000000000",
            head("03") + "0300000000000000 0201000000000000",
            head("04") + "01000000 09 616e6f6e796d6f7573 edfe000000000000 0200000000000000 983a000000000000",
            head("0b") + "01000000 09 616e6f6e796d6f7573 edfe000000000000 0200000000000000 983a000000000000",
            head("05") + "02000000",
            head("06")
                + "0900000000000000 0400000000000000 01000000 0800000000000000 09000000 616e6f6e796d6f7573"
                + "ffffffffffffffff 0200000000000000 01000000 01000000 02 01000000 61 02000000 622b",
            head("07")
                + "40771b000000000000 2e930200000000 c027090000000000 0700000000000000 0500000000000000 016261746368",
            head("08") + "00dd6d0000000000 02000000 0900000000000000",
            head("09") + "0000000000000080 00000000 0a00000000000000",
            head("0c") + "00dd6d0000000000 00badb0000000000",
            head("0d") + "0900000000000000 0400000000000000 00000000",
            head("0e")
                + "40771b000000000000 2e930200000000 c027090000000000 0700000000000000 0000000000000000 026261746368",
        ];
        assert_eq!(examples().len(), golden.len());
        for (entry, golden) in examples().iter().zip(golden) {
            assert_eq!(hex(&entry.encode()), golden.replace(' ', ""));
        }
    }

    #[test]
    fn entries_survive_and_cut_ones_are_refused() {
        for entry in examples() {
            let bytes = entry.encode();
            assert_eq!(Entry::decode(&bytes).map(|e| e.encode()), Ok(bytes.clone()));
            let body = matches!(entry.command, Command::Batch { .. });
            let shortest_whole = if body {
                bytes.len() - b"\x01batch".len()
            } else {
                bytes.len()
            };
            for cut in 0..shortest_whole {
                assert!(Entry::decode(&bytes[..cut]).is_err());
            }
        }
        assert_eq!(Entry::decode(&[9]), Err(BadEntry::Version(9)));
    }
}
