//! The bytes of one write: what a router sends to a shard's leader, what the leader proposes behind its own header,
//! what lies in the Raft log and what every replica applies. Encoded once, never re-encoded on the way.
//!
//! ```text
//! batch  = version:u8(1, or 2 where there is an item of kind 7) tenant:text epoch:uvarint new:uvarint {labels:text}{new} group*
//! group  = kind:u8 (1 tick, 2 rows) length:u32le [tick-header] item*      length counts what follows it
//! tick-header = target:u64le term:uvarint tick_ms:svarint interval_ms:uvarint flags:u8 others:uvarint {shard:uvarint}
//!               flags: 1 first, 2 last, 4 home, 8 track timestamps' staleness, 16 complete, 32 names only
//! item   = head:uvarint body;  low 3 bits of head say what, the rest (k) which series:
//!          0 sample, known series   value                   k = svarint-coded ref - ref of the known item before
//!          1 sample, known series   time:svarint value      time = ms - ms of the item before
//!          2 sample, new series     value                   k = index among the batch's new series
//!          3 sample, new series     time:svarint value
//!          4 histogram              key:uvarint time:svarint length:uvarint prometheus.Histogram   key = ref<<1 | index<<1+1
//!          5 exemplar               key:uvarint time:svarint value:f64le labels:text
//!          6 metadata               metric:text type:text unit:text help:text
//!          7 start                  ms - ms of the start before:svarint       of the samples and histograms after it
//! value  = 0x01 f64le | 0x03 (staleness marker) | uvarint(zigzag(v) << 1) where v is an integer, |v| < 2^53, not -0
//! text   = length:uvarint bytes;  svarint = uvarint of the zigzag form
//! ```
//!
//! In a group the time before the first item is `tick_ms` for a tick and 0 for rows, and the start before the first is 0,
//! which is one that is not known. Labels are canonical
//! (`gnomon_model::labels`).

mod read;
mod write;

pub use read::{BadBatch, BatchView, Group, Groups, Items};
pub use write::BatchBuilder;

use crate::prometheus;
use gnomon_model::{LabelsRef, SeriesRef, ShardId, TargetId};

const VERSION: u8 = 1;
/// Of a batch with start timestamps. Needs feature level 6.
const WITH_STARTS: u8 = 2;
const KIND_TICK: u8 = 1;
const KIND_ROWS: u8 = 2;

/// The largest batch a shard takes: a Raft entry is at most 1 MiB, the leader's header included.
pub const MAX_BATCH_BYTES: usize = (1 << 20) - 256;

/// Which series an item is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SeriesKey {
    /// One the shard gave a reference for.
    Known(SeriesRef),
    /// Index among the batch's new series.
    New(u32),
}

/// One scrape of one target, or a piece of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TickHeader {
    pub target: TargetId,
    /// The scraper's ownership term of the target: an older one is refused.
    pub term: u64,
    pub tick_ms: i64,
    pub interval_ms: u64,
    /// The first piece of the tick for this shard.
    pub first: bool,
    /// The last piece of the tick for this shard.
    pub last: bool,
    /// All that the target exposes is in the tick's pieces, so that what is missing is gone.
    pub complete: bool,
    /// This shard keeps where the target's series are.
    pub home: bool,
    pub track_timestamps_staleness: bool,
    /// The tick is before the shard's first: it is said which series it has, for their staleness, and has no samples that
    /// are to be taken. Needs feature level 4.
    pub names_only: bool,
    /// For the home: the other shards that got samples of this tick.
    pub other_shards: Vec<ShardId>,
}

/// One item of a group.
#[derive(Clone, Debug, PartialEq)]
pub enum Item<'a> {
    Sample {
        key: SeriesKey,
        timestamp_ms: i64,
        /// Since when its counter counts, in milliseconds; 0 where that is not known.
        start_ms: i64,
        value: f64,
    },
    /// The histogram in remote write's protobuf; the times within it are not used.
    Histogram {
        key: SeriesKey,
        timestamp_ms: i64,
        /// As a sample's.
        start_ms: i64,
        encoded: &'a [u8],
    },
    Exemplar {
        key: SeriesKey,
        timestamp_ms: i64,
        value: f64,
        labels: LabelsRef<'a>,
    },
    Metadata {
        metric: &'a str,
        kind: &'a str,
        unit: &'a str,
        help: &'a str,
    },
}

/// Whether a batch has start timestamps: who takes it needs feature level 6.
#[must_use]
pub fn has_starts(batch: &[u8]) -> bool {
    batch.first() == Some(&WITH_STARTS)
}

impl Item<'_> {
    /// The decoded histogram of a histogram item.
    ///
    /// # Errors
    /// When the bytes are not a histogram message.
    pub fn decode_histogram(encoded: &[u8]) -> Result<prometheus::Histogram, prost::DecodeError> {
        prost::Message::decode(encoded)
    }
}

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

const fn unzigzag(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests;
