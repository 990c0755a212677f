//! Building a batch.

use super::{KIND_ROWS, KIND_TICK, SeriesKey, TickHeader, VERSION, WITH_STARTS, zigzag};
use bytes::Bytes;
use gnomon_model::labels::put_uvarint;
use gnomon_model::{LabelsRef, PlacementEpoch, STALE_NAN, SeriesRef, TenantId};

/// Encodes items as they come; its buffers are the only allocations.
#[derive(Debug)]
pub struct BatchBuilder {
    tenant: TenantId,
    epoch: PlacementEpoch,
    new_count: u32,
    new_series: Vec<u8>,
    groups: Vec<u8>,
    /// Where the open group's length stands in `groups`; none before the first group.
    open: Option<usize>,
    last_ref: u64,
    last_ms: i64,
    /// Of the samples that come.
    start_ms: i64,
    /// The last one that was written in the group.
    last_start_ms: i64,
    with_starts: bool,
    items: usize,
}

impl BatchBuilder {
    #[must_use]
    pub fn new(tenant: &TenantId, epoch: PlacementEpoch) -> Self {
        Self {
            tenant: tenant.clone(),
            epoch,
            new_count: 0,
            new_series: Vec::new(),
            groups: Vec::new(),
            open: None,
            last_ref: 0,
            last_ms: 0,
            start_ms: 0,
            last_start_ms: 0,
            with_starts: false,
            items: 0,
        }
    }

    /// Adds a series that the shard may not know; the key is good for this batch only.
    pub fn new_series(&mut self, labels: LabelsRef<'_>) -> SeriesKey {
        put_text(&mut self.new_series, labels.as_bytes());
        let index = self.new_count;
        self.new_count += 1;
        SeriesKey::New(index)
    }

    pub fn begin_tick(&mut self, header: &TickHeader) {
        self.begin(KIND_TICK, header.tick_ms);
        let out = &mut self.groups;
        out.extend_from_slice(&header.target.0.to_le_bytes());
        put_uvarint(out, header.term);
        put_uvarint(out, zigzag(header.tick_ms));
        put_uvarint(out, header.interval_ms);
        out.push(
            u8::from(header.first)
                | u8::from(header.last) << 1
                | u8::from(header.home) << 2
                | u8::from(header.track_timestamps_staleness) << 3
                | u8::from(header.complete) << 4
                | u8::from(header.names_only) << 5,
        );
        put_uvarint(out, header.other_shards.len() as u64);
        for shard in &header.other_shards {
            put_uvarint(out, u64::from(shard.0));
        }
    }

    pub fn begin_rows(&mut self) {
        self.begin(KIND_ROWS, 0);
    }

    fn begin(&mut self, kind: u8, ms: i64) {
        self.end_group();
        self.groups.push(kind);
        self.open = Some(self.groups.len());
        self.groups.extend_from_slice(&[0; 4]);
        self.last_ref = 0;
        self.last_ms = ms;
        self.last_start_ms = 0;
    }

    fn end_group(&mut self) {
        if let Some(at) = self.open.take() {
            let length = u32::try_from(self.groups.len() - at - 4).unwrap_or(u32::MAX);
            self.groups[at..at + 4].copy_from_slice(&length.to_le_bytes());
        }
    }

    fn ensure_group(&mut self) {
        if self.open.is_none() {
            self.begin_rows();
        }
    }

    /// Says since when the counters of the samples and histograms count that are added from now on, in milliseconds; 0 where
    /// that is not known, as it is at first. Another one than that needs feature level 6.
    #[inline]
    pub const fn since(&mut self, start_ms: i64) {
        self.start_ms = start_ms;
    }

    #[inline]
    fn put_start(&mut self) {
        if self.start_ms != self.last_start_ms {
            put_uvarint(&mut self.groups, 7);
            let step = self.start_ms.wrapping_sub(self.last_start_ms);
            put_uvarint(&mut self.groups, zigzag(step));
            self.last_start_ms = self.start_ms;
            self.with_starts = true;
        }
    }

    /// Adds a float sample. Without a group begun it opens one of rows.
    pub fn sample(&mut self, key: SeriesKey, timestamp_ms: i64, value: f64) {
        self.ensure_group();
        self.put_start();
        let same_time = timestamp_ms == self.last_ms;
        let kind = u64::from(!same_time);
        match key {
            SeriesKey::Known(SeriesRef(reference)) => {
                let delta = zigzag(reference.wrapping_sub(self.last_ref) as i64);
                self.last_ref = reference;
                // References are far below 2^60, so that the shift loses nothing.
                put_uvarint(&mut self.groups, delta << 3 | kind);
            }
            SeriesKey::New(index) => put_uvarint(&mut self.groups, u64::from(index) << 3 | 2 | kind),
        }
        if !same_time {
            self.put_time(timestamp_ms);
        }
        put_value(&mut self.groups, value);
        self.items += 1;
    }

    /// Adds a histogram sample; `encoded` is remote write's `prometheus.Histogram`.
    pub fn histogram(&mut self, key: SeriesKey, timestamp_ms: i64, encoded: &[u8]) {
        self.ensure_group();
        self.put_start();
        put_uvarint(&mut self.groups, 4);
        self.put_key(key);
        self.put_time(timestamp_ms);
        put_text(&mut self.groups, encoded);
        self.items += 1;
    }

    pub fn exemplar(&mut self, key: SeriesKey, timestamp_ms: i64, value: f64, labels: LabelsRef<'_>) {
        self.ensure_group();
        put_uvarint(&mut self.groups, 5);
        self.put_key(key);
        self.put_time(timestamp_ms);
        self.groups.extend_from_slice(&value.to_le_bytes());
        put_text(&mut self.groups, labels.as_bytes());
        self.items += 1;
    }

    pub fn metadata(&mut self, metric: &str, kind: &str, unit: &str, help: &str) {
        self.ensure_group();
        put_uvarint(&mut self.groups, 6);
        for text in [metric, kind, unit, help] {
            put_text(&mut self.groups, text.as_bytes());
        }
        self.items += 1;
    }

    fn put_key(&mut self, key: SeriesKey) {
        let coded = match key {
            SeriesKey::Known(SeriesRef(reference)) => reference << 1,
            SeriesKey::New(index) => u64::from(index) << 1 | 1,
        };
        put_uvarint(&mut self.groups, coded);
    }

    fn put_time(&mut self, timestamp_ms: i64) {
        put_uvarint(&mut self.groups, zigzag(timestamp_ms.wrapping_sub(self.last_ms)));
        self.last_ms = timestamp_ms;
    }

    /// Items so far, of every kind.
    #[must_use]
    pub fn items(&self) -> usize {
        self.items
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items == 0 && self.groups.is_empty()
    }

    /// An upper bound of what [`Self::finish`] gives, in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        self.new_series.len() + self.groups.len() + self.tenant.as_str().len() + 32
    }

    #[must_use]
    pub fn finish(mut self) -> Bytes {
        self.end_group();
        let mut out = Vec::with_capacity(self.encoded_len());
        out.push(if self.with_starts { WITH_STARTS } else { VERSION });
        put_text(&mut out, self.tenant.as_str().as_bytes());
        put_uvarint(&mut out, u64::from(self.epoch.0));
        put_uvarint(&mut out, u64::from(self.new_count));
        out.extend_from_slice(&self.new_series);
        out.extend_from_slice(&self.groups);
        out.into()
    }
}

fn put_text(out: &mut Vec<u8>, bytes: &[u8]) {
    put_uvarint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_value(out: &mut Vec<u8>, value: f64) {
    const EXACT: f64 = 9_007_199_254_740_992.0; // 2^53
    let whole = value as i64;
    if value.abs() < EXACT && (whole as f64).to_bits() == value.to_bits() {
        put_uvarint(out, zigzag(whole) << 1);
    } else if value.to_bits() == STALE_NAN.to_bits() {
        out.push(3);
    } else {
        out.push(1);
        out.extend_from_slice(&value.to_le_bytes());
    }
}
