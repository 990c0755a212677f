//! A block: one immutable object with the samples of one shard for one window. The byte diagram is in `format.md`.
//!
//! Invariant: every byte is under a CRC-32C that is checked before the byte is used.

mod appendix;
mod bloom;
mod cache;
mod dictionary;
mod dictionary_view;
mod directory;
mod exemplars;
mod grouping;
mod labels;
mod layout;
mod matching;
mod meta;
mod metadata;
mod pages;
mod postings;
mod reader;
mod rows;
mod select;
mod sets;
mod sink;
mod starts;
mod symbols;
mod times;
mod verify;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

pub use cache::BlockCache;
pub use exemplars::{BlockExemplars, Exemplar, ExemplarFilter, ExemplarMerge, SeriesExemplars};
pub use meta::{BlockMeta, BlockStats};
pub use metadata::MetricMetadata;
pub use reader::BlockReader;
pub use select::Selection;
pub use sink::{BlockSink, MemorySink, PART_BYTES, UploadSink};
pub use verify::VerifyReport;
pub use writer::{BlockWriter, FinishedBlock};

use crate::page::PageError;
use gnomon_model::ids::{BLOCK_EXTRAS_FEATURE_LEVEL, START_TIMES_FEATURE_LEVEL};
use gnomon_model::{FeatureLevel, Labels};
use object_store::path::Path;

/// The newest version of the format; readers know all up to it.
pub const FORMAT_VERSION: u32 = 5;
/// Since this version a block has exemplars and metadata; nothing else is new in it.
const WITH_EXEMPLARS: u32 = 4;
/// Since this version a block has start timestamps; nothing else is new in it.
const WITH_STARTS: u32 = 5;

/// The version that is written where all nodes understand this level.
#[must_use]
pub fn version_at(level: FeatureLevel) -> u32 {
    if level >= START_TIMES_FEATURE_LEVEL {
        WITH_STARTS
    } else if level >= BLOCK_EXTRAS_FEATURE_LEVEL {
        WITH_EXEMPLARS
    } else {
        WITH_EXEMPLARS - 1
    }
}

/// Whether bytes have the checksum that is noted of them. For a fuzzer they always do: it would never get past
/// it.
pub(crate) fn has_crc(bytes: &[u8], crc: u32) -> bool {
    cfg!(fuzzing) || crc32c::crc32c(bytes) == crc
}

/// Why a block cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    /// The object store's error; the object may be gone ([`BlockError::is_not_found`]).
    #[error("object {path}: {source}")]
    Store { path: Path, source: object_store::Error },
    #[error("block {path} is damaged: {what}")]
    Damaged { path: Path, what: String },
    #[error("block {path} has format version {version}, this build reads up to {FORMAT_VERSION}")]
    Version { path: Path, version: u32 },
    #[error("block {path}, series {labels}: {source}")]
    Page {
        path: Path,
        labels: Labels,
        source: PageError,
    },
    #[error("series must be added in ascending order, each once: {next} came after {last}")]
    Unsorted { last: Labels, next: Labels },
    #[error("series {labels}: {what}")]
    BadSeries { labels: Labels, what: &'static str },
    #[error("block meta: {0}")]
    Meta(String),
    #[error("block index cannot be written: {0}")]
    Index(String),
    #[error("block {path} becomes larger than the {reserved_bytes} bytes that were reserved for it")]
    OverReservation { path: Path, reserved_bytes: u64 },
}

impl BlockError {
    /// The object that cannot be read, where it is one.
    #[must_use]
    pub const fn path(&self) -> Option<&Path> {
        match self {
            Self::Store { path, .. }
            | Self::Damaged { path, .. }
            | Self::Version { path, .. }
            | Self::Page { path, .. }
            | Self::OverReservation { path, .. } => Some(path),
            Self::Unsorted { .. } | Self::BadSeries { .. } | Self::Meta(_) | Self::Index(_) => None,
        }
    }

    /// Whether the object is not there (any more): the caller's view of the catalogue may be old.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(
            self,
            Self::Store {
                source: object_store::Error::NotFound { .. },
                ..
            }
        )
    }

    /// Whether more has to be reserved, and then it can be written.
    #[must_use]
    pub fn is_over_reservation(&self) -> bool {
        matches!(self, Self::OverReservation { .. })
    }

    /// Whether the bytes are wrong, so that asking again does not help.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Version { .. } | Self::Page { .. })
    }
}
