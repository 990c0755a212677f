//! Reading a batch without copying it.

use super::{Item, KIND_ROWS, KIND_TICK, SeriesKey, TickHeader, VERSION, WITH_STARTS, unzigzag};
use gnomon_model::labels::{BadLabels, get_uvarint};
use gnomon_model::{LabelsRef, PlacementEpoch, STALE_NAN, SeriesRef, ShardId, TargetId, TenantId};

/// Bytes that are not a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBatch {
    #[error("batch ends within its {0}")]
    Truncated(&'static str),
    #[error("batch version {0} is not known (1 and 2 are)")]
    Version(u8),
    #[error("batch tenant: {0}")]
    Tenant(#[from] gnomon_model::ids::BadTenantId),
    #[error("batch text is not UTF-8")]
    NotUtf8,
    #[error("batch labels: {0}")]
    Labels(#[from] BadLabels),
    #[error("batch number out of range: {0}")]
    Range(&'static str),
    #[error("batch group of unknown kind {0}")]
    GroupKind(u8),
    #[error("batch item of unknown kind {0}")]
    ItemKind(u8),
}

/// A batch whose head was checked; groups and items are checked as they are read.
#[derive(Clone, Debug)]
pub struct BatchView<'a> {
    with_starts: bool,
    tenant: TenantId,
    epoch: PlacementEpoch,
    new_series: Vec<LabelsRef<'a>>,
    groups: &'a [u8],
}

impl<'a> BatchView<'a> {
    /// # Errors
    /// When the head is not well formed. Allocates in proportion to `bytes` at most.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BadBatch> {
        let (&version, rest) = bytes.split_first().ok_or(BadBatch::Truncated("version"))?;
        if !matches!(version, VERSION | WITH_STARTS) {
            return Err(BadBatch::Version(version));
        }
        let (tenant, rest) = take_text(rest, "tenant")?;
        let tenant = std::str::from_utf8(tenant)
            .map_err(|_| BadBatch::NotUtf8)?
            .parse::<TenantId>()?;
        let (epoch, rest) = take_uvarint(rest, "epoch")?;
        let epoch = PlacementEpoch(u32::try_from(epoch).map_err(|_| BadBatch::Range("epoch"))?);
        let (count, mut rest) = take_uvarint(rest, "series count")?;
        // Each series takes a byte at least.
        let count = usize::try_from(count)
            .ok()
            .filter(|c| *c <= rest.len())
            .ok_or(BadBatch::Range("series count"))?;
        let mut new_series = Vec::with_capacity(count);
        for _ in 0..count {
            let (labels, after) = take_text(rest, "labels")?;
            new_series.push(LabelsRef::checked(labels)?);
            rest = after;
        }
        Ok(Self {
            with_starts: version == WITH_STARTS,
            tenant,
            epoch,
            new_series,
            groups: rest,
        })
    }

    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    #[must_use]
    pub fn epoch(&self) -> PlacementEpoch {
        self.epoch
    }

    /// Labels of the batch's new series, by index.
    #[must_use]
    pub fn new_series(&self) -> &[LabelsRef<'a>] {
        &self.new_series
    }

    #[must_use]
    pub fn groups(&self) -> Groups<'a> {
        Groups {
            rest: self.groups,
            with_starts: self.with_starts,
            new_count: self.new_series.len(),
        }
    }

    /// Reads everything once.
    ///
    /// # Errors
    /// The first thing that is not well formed.
    pub fn check(&self) -> Result<(), BadBatch> {
        for group in self.groups() {
            for item in group?.items() {
                item?;
            }
        }
        Ok(())
    }
}

/// The groups of a batch; ends after the first error.
#[derive(Clone, Debug)]
pub struct Groups<'a> {
    rest: &'a [u8],
    with_starts: bool,
    new_count: usize,
}

/// One tick (a piece of it) or some rows.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// None for rows.
    pub tick: Option<TickHeader>,
    items: &'a [u8],
    with_starts: bool,
    new_count: usize,
}

impl<'a> Group<'a> {
    #[must_use]
    pub fn items(&self) -> Items<'a> {
        Items {
            rest: self.items,
            with_starts: self.with_starts,
            new_count: self.new_count,
            last_ref: 0,
            last_ms: self.tick.as_ref().map_or(0, |t| t.tick_ms),
            start_ms: 0,
        }
    }
}

impl<'a> Iterator for Groups<'a> {
    type Item = Result<Group<'a>, BadBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let group = self.take();
        if group.is_err() {
            self.rest = &[];
        }
        Some(group)
    }
}

impl<'a> Groups<'a> {
    fn take(&mut self) -> Result<Group<'a>, BadBatch> {
        let (&kind, rest) = self.rest.split_first().ok_or(BadBatch::Truncated("group"))?;
        let (length, rest) = rest
            .split_first_chunk::<4>()
            .ok_or(BadBatch::Truncated("group length"))?;
        let length = u32::from_le_bytes(*length) as usize;
        let (body, rest) = rest.split_at_checked(length).ok_or(BadBatch::Truncated("group"))?;
        self.rest = rest;
        let (tick, items) = match kind {
            KIND_ROWS => (None, body),
            KIND_TICK => take_tick(body).map(|(tick, items)| (Some(tick), items))?,
            other => return Err(BadBatch::GroupKind(other)),
        };
        Ok(Group {
            tick,
            items,
            with_starts: self.with_starts,
            new_count: self.new_count,
        })
    }
}

fn take_tick(body: &[u8]) -> Result<(TickHeader, &[u8]), BadBatch> {
    let (target, rest) = body
        .split_first_chunk::<8>()
        .ok_or(BadBatch::Truncated("tick target"))?;
    let (term, rest) = take_uvarint(rest, "tick term")?;
    let (tick_ms, rest) = take_uvarint(rest, "tick time")?;
    let (interval_ms, rest) = take_uvarint(rest, "tick interval")?;
    let (&flags, rest) = rest.split_first().ok_or(BadBatch::Truncated("tick flags"))?;
    let (others, mut rest) = take_uvarint(rest, "tick shards")?;
    let others = usize::try_from(others)
        .ok()
        .filter(|n| *n <= rest.len())
        .ok_or(BadBatch::Range("tick shards"))?;
    let mut other_shards = Vec::with_capacity(others);
    for _ in 0..others {
        let (shard, after) = take_uvarint(rest, "tick shard")?;
        other_shards.push(ShardId(
            u32::try_from(shard).map_err(|_| BadBatch::Range("tick shard"))?,
        ));
        rest = after;
    }
    let header = TickHeader {
        target: TargetId(u64::from_le_bytes(*target)),
        term,
        tick_ms: unzigzag(tick_ms),
        interval_ms,
        first: flags & 1 != 0,
        last: flags & 2 != 0,
        home: flags & 4 != 0,
        track_timestamps_staleness: flags & 8 != 0,
        complete: flags & 16 != 0,
        names_only: flags & 32 != 0,
        other_shards,
    };
    Ok((header, rest))
}

/// The items of a group; ends after the first error.
#[derive(Clone, Debug)]
pub struct Items<'a> {
    rest: &'a [u8],
    with_starts: bool,
    new_count: usize,
    last_ref: u64,
    last_ms: i64,
    /// Of the samples that come.
    start_ms: i64,
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<Item<'a>, BadBatch>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let item = self.take();
        if item.is_err() {
            self.rest = &[];
        }
        Some(item)
    }
}

impl<'a> Items<'a> {
    #[inline]
    fn take(&mut self) -> Result<Item<'a>, BadBatch> {
        let mut head = self.uvarint("item")?;
        while self.with_starts && head & 7 == 7 {
            let step = unzigzag(self.uvarint("start")?);
            self.start_ms = self.start_ms.wrapping_add(step);
            head = self.uvarint("item")?;
        }
        match (head & 7) as u8 {
            kind @ 0..=3 => {
                let key = if kind & 2 == 0 {
                    self.last_ref = self.last_ref.wrapping_add(unzigzag(head >> 3) as u64);
                    SeriesKey::Known(SeriesRef(self.last_ref))
                } else {
                    self.new_key(head >> 3)?
                };
                if kind & 1 == 1 {
                    self.time()?;
                }
                let value = self.value()?;
                Ok(Item::Sample {
                    key,
                    timestamp_ms: self.last_ms,
                    start_ms: self.start_ms,
                    value,
                })
            }
            4 => {
                let key = self.key()?;
                let timestamp_ms = self.time()?;
                Ok(Item::Histogram {
                    key,
                    timestamp_ms,
                    start_ms: self.start_ms,
                    encoded: self.text("histogram")?,
                })
            }
            5 => {
                let key = self.key()?;
                let timestamp_ms = self.time()?;
                let value = self.f64()?;
                let labels = LabelsRef::checked(self.text("exemplar")?)?;
                Ok(Item::Exemplar {
                    key,
                    timestamp_ms,
                    value,
                    labels,
                })
            }
            6 => {
                let mut text = || std::str::from_utf8(self.text("metadata")?).map_err(|_| BadBatch::NotUtf8);
                Ok(Item::Metadata {
                    metric: text()?,
                    kind: text()?,
                    unit: text()?,
                    help: text()?,
                })
            }
            other => Err(BadBatch::ItemKind(other)),
        }
    }

    #[inline]
    fn uvarint(&mut self, what: &'static str) -> Result<u64, BadBatch> {
        let (value, rest) = take_uvarint(self.rest, what)?;
        self.rest = rest;
        Ok(value)
    }

    fn new_key(&self, index: u64) -> Result<SeriesKey, BadBatch> {
        let known = usize::try_from(index).is_ok_and(|i| i < self.new_count);
        let index = u32::try_from(index)
            .ok()
            .filter(|_| known)
            .ok_or(BadBatch::Range("series index"))?;
        Ok(SeriesKey::New(index))
    }

    fn key(&mut self) -> Result<SeriesKey, BadBatch> {
        let coded = self.uvarint("item series")?;
        if coded & 1 == 1 {
            self.new_key(coded >> 1)
        } else {
            Ok(SeriesKey::Known(SeriesRef(coded >> 1)))
        }
    }

    #[inline]
    fn time(&mut self) -> Result<i64, BadBatch> {
        self.last_ms = self.last_ms.wrapping_add(unzigzag(self.uvarint("item time")?));
        Ok(self.last_ms)
    }

    fn f64(&mut self) -> Result<f64, BadBatch> {
        let (bytes, rest) = self.rest.split_first_chunk::<8>().ok_or(BadBatch::Truncated("value"))?;
        self.rest = rest;
        Ok(f64::from_le_bytes(*bytes))
    }

    #[inline]
    fn value(&mut self) -> Result<f64, BadBatch> {
        match self.uvarint("value")? {
            1 => self.f64(),
            3 => Ok(STALE_NAN),
            coded if coded & 1 == 0 => Ok(unzigzag(coded >> 1) as f64),
            _ => Err(BadBatch::Range("value")),
        }
    }

    fn text(&mut self, what: &'static str) -> Result<&'a [u8], BadBatch> {
        let (text, rest) = take_text(self.rest, what)?;
        self.rest = rest;
        Ok(text)
    }
}

#[inline]
fn take_uvarint<'a>(bytes: &'a [u8], what: &'static str) -> Result<(u64, &'a [u8]), BadBatch> {
    get_uvarint(bytes).ok_or(BadBatch::Truncated(what))
}

fn take_text<'a>(bytes: &'a [u8], what: &'static str) -> Result<(&'a [u8], &'a [u8]), BadBatch> {
    let (length, rest) = take_uvarint(bytes, what)?;
    usize::try_from(length)
        .ok()
        .and_then(|n| rest.split_at_checked(n))
        .ok_or(BadBatch::Truncated(what))
}
