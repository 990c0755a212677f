//! Encoding for one shard, cut into batches that fit an entry, with what is needed to do it again with labels.

use super::cache::{ByKey, CacheKey};
use bytes::Bytes;
use gnomon_model::{LabelsRef, PlacementEpoch, SeriesRef, TenantId};
use gnomon_proto::batch::{BatchBuilder, MAX_BATCH_BYTES, SeriesKey, TickHeader};

/// Where a batch is cut: well below what an entry may hold.
pub(super) const CHUNK_BYTES: usize = 900 * 1024;
/// The largest text (label set, histogram) that is tried at all: two of them fit a batch.
pub const MAX_ITEM_BYTES: usize = 480 * 1024;
/// What an item costs at most besides its texts: start 11, head 10, key 10, time 10, value 9, two lengths 5 each.
pub(super) const ITEM_BYTES: usize = 60;

/// For so many series of a batch at most room is made beforehand.
const MAX_EXPECTED: usize = CHUNK_BYTES / 12;

/// A series that a batch names by reference.
#[derive(Clone, Copy, Debug)]
pub(super) struct NamedSeries {
    pub(super) key: CacheKey,
    pub(super) reference: SeriesRef,
    /// The caller's number.
    pub(super) series: u32,
}

/// One encoded batch.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) bytes: Bytes,
    pub(super) known: Vec<NamedSeries>,
    /// By index among the batch's new series; references are 0.
    pub(super) new: Vec<NamedSeries>,
    /// Only what is newer than its series' newest sample is to be taken.
    pub(super) only_newer: bool,
}

/// Encodes rows, or one tick, for one shard.
#[derive(Debug)]
pub(super) struct ChunkWriter {
    tenant: TenantId,
    epoch: PlacementEpoch,
    tick: Option<TickHeader>,
    builder: BatchBuilder,
    known: Vec<NamedSeries>,
    new: Vec<NamedSeries>,
    new_index: ByKey<u32>,
    /// An upper bound of the bytes still to come; only kept for ticks, whose last piece has to say so at its start.
    to_come: usize,
    open_is_last: bool,
    only_newer: bool,
    done: Vec<Chunk>,
}

impl ChunkWriter {
    pub(super) fn rows(tenant: &TenantId, epoch: PlacementEpoch) -> Self {
        let mut builder = BatchBuilder::new(tenant, epoch);
        builder.begin_rows();
        Self {
            tenant: tenant.clone(),
            epoch,
            tick: None,
            builder,
            known: Vec::new(),
            new: Vec::new(),
            new_index: ByKey::default(),
            to_come: 0,
            open_is_last: true,
            only_newer: false,
            done: Vec::new(),
        }
    }

    /// Of which only what is newer is to be taken, or all.
    pub(super) fn only_newer(mut self, only_newer: bool) -> Self {
        self.only_newer = only_newer;
        self
    }

    /// `to_come` is an upper bound of the bytes of the items that will be added: [`ITEM_BYTES`] for each, and texts.
    /// `header.first` and `header.last` say what the pieces are of, taken together.
    pub(super) fn tick(tenant: &TenantId, epoch: PlacementEpoch, header: TickHeader, to_come: usize) -> Self {
        let mut writer = Self::rows(tenant, epoch);
        writer.tick = Some(header);
        writer.to_come = to_come;
        writer.open();
        writer
    }

    /// Of so many series that the shard knows, most likely.
    pub(super) fn expecting(mut self, known: usize) -> Self {
        self.known.reserve(known.min(MAX_EXPECTED));
        self
    }

    fn open(&mut self) {
        let mut builder = BatchBuilder::new(&self.tenant, self.epoch);
        match &self.tick {
            None => builder.begin_rows(),
            Some(header) => {
                let fits = self.to_come.saturating_add(4096) <= CHUNK_BYTES;
                let mut header = header.clone();
                header.first &= self.done.is_empty();
                header.last &= fits;
                self.open_is_last = header.last;
                builder.begin_tick(&header);
            }
        }
        self.builder = builder;
    }

    fn cut(&mut self) {
        let full = std::mem::replace(&mut self.builder, BatchBuilder::new(&self.tenant, self.epoch));
        self.done.push(Chunk {
            bytes: full.finish(),
            known: std::mem::take(&mut self.known),
            new: std::mem::take(&mut self.new),
            only_newer: self.only_newer,
        });
        self.new_index.clear();
    }

    /// Makes room for an item of `bytes` at most. True where that began another batch: keys of new series made before
    /// are not good any more.
    #[inline]
    pub(super) fn make_room(&mut self, bytes: usize) -> bool {
        let len = self.builder.encoded_len();
        // The piece that said it is the last one holds all that is to come.
        let may_cut = self.tick.is_none() || !self.open_is_last;
        let full = may_cut && (len >= CHUNK_BYTES || (len + bytes > MAX_BATCH_BYTES && self.builder.items() > 0));
        if full {
            self.cut();
            self.open();
        }
        self.to_come = self.to_come.saturating_sub(bytes);
        full
    }

    /// The key of a series that the shard gave a reference for.
    #[inline]
    pub(super) fn known(&mut self, series: NamedSeries) -> SeriesKey {
        self.known.push(series);
        SeriesKey::Known(series.reference)
    }

    /// The key of a series that the shard may not know; the same one when asked again within a batch.
    pub(super) fn new_series(&mut self, key: CacheKey, series: u32, labels: LabelsRef<'_>) -> SeriesKey {
        if let Some(index) = self.new_index.get(&key) {
            return SeriesKey::New(*index);
        }
        let made = self.builder.new_series(labels);
        if let SeriesKey::New(index) = made {
            self.new_index.insert(key, index);
            self.new.push(NamedSeries {
                key,
                reference: SeriesRef(0),
                series,
            });
        }
        made
    }

    #[inline]
    pub(super) fn items(&mut self) -> &mut BatchBuilder {
        &mut self.builder
    }

    /// The batches in order; a tick has one at least.
    pub(super) fn finish(mut self) -> Vec<Chunk> {
        match &self.tick {
            None => {
                if self.builder.items() > 0 {
                    self.cut();
                }
            }
            Some(header) => {
                let wants_last = header.last;
                self.cut();
                if wants_last && !self.open_is_last {
                    self.to_come = 0;
                    self.open();
                    self.cut();
                }
            }
        }
        self.done
    }
}
