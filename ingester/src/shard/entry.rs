//! The bytes of a shard's log entries; the byte diagram is in `ingester/format.md`.
//!
//! Whatever depends on a clock, on load or on configuration is decided by the leader before it proposes, and is in the
//! entry: limits in force, the time of the proposal, the feature level by which the entry is to be understood.

use bytes::Bytes;
use gnomon_model::{FeatureLevel, TargetId, TenantId, TimeRange, TimestampMs};

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 2 + 4 + 8;
const LIMITS_BYTES: usize = 4 * 8;

/// Kinds, as the second byte says them.
const BATCH: u8 = 1;
const SEAL: u8 = 2;
const PUBLISHED: u8 = 3;
const EXPIRE_TARGETS: u8 = 4;
const FEATURE_LEVEL: u8 = 5;

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
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            out_of_order_ms: 30 * 60 * 1000,
            late_ms: 12 * 60 * 60 * 1000,
            future_ms: 10 * 60 * 1000,
            max_series: 0,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<B = Bytes> {
    /// Samples, in the bytes of `gnomon_proto::batch`.
    Batch { limits: Limits, batch: B },
    /// Turns what the window holds into parts, one for each tenant.
    Seal { window: TimeRange },
    /// A part is in the catalogue as of this revision of it: drop the samples.
    Published { part: u64, catalogue_revision: u64 },
    /// Markers for targets that are gone.
    ExpireTargets { targets: Vec<SilentTarget> },
    /// Entries from here on may need this level.
    FeatureLevel { level: FeatureLevel },
}

/// A log entry; `B` is how it has a batch's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
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
}

impl<B: AsRef<[u8]>> Entry<B> {
    /// The entry's bytes. A batch's own bytes are copied behind the header as they are.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let batch = match &self.command {
            Command::Batch { batch, .. } => batch.as_ref().len(),
            _ => 0,
        };
        let mut out = Vec::with_capacity(HEADER_BYTES + LIMITS_BYTES + batch);
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
            Self::Batch { .. } => BATCH,
            Self::Seal { .. } => SEAL,
            Self::Published { .. } => PUBLISHED,
            Self::ExpireTargets { .. } => EXPIRE_TARGETS,
            Self::FeatureLevel { .. } => FEATURE_LEVEL,
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
                out.extend_from_slice(batch.as_ref());
            }
            Self::Seal { window } => {
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
            Self::ExpireTargets { targets } => {
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
        }
    }
}

impl<'a> Command<&'a [u8]> {
    fn read(kind: u8, rest: &mut Rest<'a>) -> Result<Self, BadEntry> {
        Ok(match kind {
            BATCH => Self::Batch {
                limits: Limits {
                    out_of_order_ms: rest.u64("limits")?,
                    late_ms: rest.u64("limits")?,
                    future_ms: rest.u64("limits")?,
                    max_series: rest.u64("limits")?,
                },
                batch: std::mem::take(&mut rest.0),
            },
            SEAL => Self::Seal {
                window: TimeRange::new(TimestampMs(rest.i64("window")?), TimestampMs(rest.i64("window")?)),
            },
            PUBLISHED => Self::Published {
                part: rest.u64("part")?,
                catalogue_revision: rest.u64("revision")?,
            },
            EXPIRE_TARGETS => {
                let count = rest.u32("targets")?;
                let mut targets = Vec::new();
                for _ in 0..count {
                    targets.push(rest.silent_target()?);
                }
                Self::ExpireTargets { targets }
            }
            FEATURE_LEVEL => Self::FeatureLevel {
                level: FeatureLevel(rest.u32("feature level")?),
            },
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
            Command::FeatureLevel { level: FeatureLevel(2) },
        ];
        let entry = |command| Entry {
            feature_level: FeatureLevel(1),
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
        let head = |kind: &str| format!("01{kind}010000000068e5cf8b010000");
        let golden = [
            head("01") + "40771b000000000000 2e930200000000 c027090000000000 0700000000000000 016261746368",
            head("02") + "00dd6d0000000000 00badb0000000000",
            head("03") + "0300000000000000 0201000000000000",
            head("04") + "01000000 09 616e6f6e796d6f7573 edfe000000000000 0200000000000000 983a000000000000",
            head("05") + "02000000",
        ];
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
            let shortest_whole = if body { HEADER_BYTES + LIMITS_BYTES } else { bytes.len() };
            for cut in 0..shortest_whole {
                assert!(Entry::decode(&bytes[..cut]).is_err());
            }
        }
        assert_eq!(Entry::decode(&[9]), Err(BadEntry::Version(9)));
    }
}
