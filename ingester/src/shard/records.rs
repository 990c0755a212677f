//! Values of a shard's durable state; drawn in `ingester/format.md`.

use super::entry::{read_tombstone, write_tombstone};
use super::state::{Counters, DroppedPart, TimeBounds};
use crate::head::{Exemplar, Head, MetricInfo, OpenTick, SealedPart, Target};
use bytes::Bytes;
use gnomon_model::labels::{get_uvarint, put_uvarint};
use gnomon_model::{FeatureLevel, SeriesRef, ShardId, TenantId, TimeRange, TimestampMs};
use gnomon_tsdb::Tombstone;
use gnomon_tsdb::page::Page;
use roaring::RoaringBitmap;

/// A stored value that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("stored {0} is damaged")]
pub(crate) struct BadRecord(pub(crate) &'static str);

const VERSION: u8 = 1;
/// Of records that know of deletes. Where there was none the first version is written: an older build reads it.
const WITH_DELETES: u8 = 2;
/// Of counters that say which time the shard owns, where that is not all.
const WITH_BOUNDS: u8 = 3;

fn put_i64(out: &mut Vec<u8>, value: i64) {
    put_uvarint(out, ((value << 1) ^ (value >> 63)) as u64);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_uvarint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// References of a set of series, ascending, as differences.
fn put_refs(out: &mut Vec<u8>, head: &Head, set: &RoaringBitmap) {
    let mut refs: Vec<_> = set
        .iter()
        .filter_map(|o| head.series(o))
        .map(|s| s.reference.0)
        .collect();
    refs.sort_unstable();
    put_uvarint(out, refs.len() as u64);
    let mut last = 0;
    for reference in refs {
        put_uvarint(out, reference - last);
        last = reference;
    }
}

/// Reads what the functions above wrote.
struct Fields<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Fields<'a> {
    fn of(bytes: &'a [u8], what: &'static str) -> Result<Self, BadRecord> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => Ok(Self { rest, what }),
            _ => Err(BadRecord(what)),
        }
    }

    /// Of either version; whether it is the second.
    fn of_either(bytes: &'a [u8], what: &'static str) -> Result<(Self, bool), BadRecord> {
        match bytes.split_first() {
            Some((&version @ (VERSION | WITH_DELETES), rest)) => Ok((Self { rest, what }, version == WITH_DELETES)),
            _ => Err(BadRecord(what)),
        }
    }

    fn u64(&mut self) -> Result<u64, BadRecord> {
        let (value, rest) = get_uvarint(self.rest).ok_or(BadRecord(self.what))?;
        self.rest = rest;
        Ok(value)
    }

    fn i64(&mut self) -> Result<i64, BadRecord> {
        let value = self.u64()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn bool(&mut self) -> Result<bool, BadRecord> {
        Ok(self.u64()? != 0)
    }

    fn bytes(&mut self) -> Result<&'a [u8], BadRecord> {
        let length = usize::try_from(self.u64()?).map_err(|_| BadRecord(self.what))?;
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(BadRecord(self.what))?;
        self.rest = rest;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<&'a str, BadRecord> {
        std::str::from_utf8(self.bytes()?).map_err(|_| BadRecord(self.what))
    }

    fn refs(&mut self, head: &Head) -> Result<RoaringBitmap, BadRecord> {
        let count = self.u64()?;
        let mut set = RoaringBitmap::new();
        let mut last = 0u64;
        for _ in 0..count {
            last = last.wrapping_add(self.u64()?);
            set.extend(head.find_ref(SeriesRef(last)));
        }
        Ok(set)
    }
}

pub(crate) fn series(sealed_last_ms: i64, labels: &mut Vec<u8>, out: &mut Vec<u8>) {
    out.push(VERSION);
    put_i64(out, sealed_last_ms);
    out.append(labels);
}

/// Time of the newest sealed sample, and the labels' canonical bytes.
pub(crate) fn read_series(bytes: &[u8]) -> Result<(i64, &[u8]), BadRecord> {
    let mut fields = Fields::of(bytes, "series")?;
    Ok((fields.i64()?, fields.rest))
}

pub(crate) fn pages<'p>(pages: impl IntoIterator<Item = &'p [u8]>) -> Vec<u8> {
    let mut out = vec![VERSION];
    for page in pages {
        put_bytes(&mut out, page);
    }
    out
}

pub(crate) fn read_pages(bytes: &[u8]) -> Result<Vec<Page>, BadRecord> {
    let mut pages = Vec::with_capacity(1);
    for page in page_bytes(bytes)? {
        let page = Page::parse(Bytes::copy_from_slice(page?));
        pages.push(page.map_err(|_| BadRecord("page"))?);
    }
    Ok(pages)
}

/// The bytes of each page, which may be none.
pub(crate) fn page_bytes(bytes: &[u8]) -> Result<impl Iterator<Item = Result<&[u8], BadRecord>>, BadRecord> {
    let mut fields = Fields::of(bytes, "page")?;
    Ok(std::iter::from_fn(move || {
        if fields.rest.is_empty() {
            return None;
        }
        let page = fields.bytes();
        if page.is_err() {
            fields.rest = &[];
        }
        Some(page)
    }))
}

fn version_for(tombstone_revision: u64) -> u8 {
    if tombstone_revision == 0 { VERSION } else { WITH_DELETES }
}

pub(crate) fn counters(counters: &Counters, shard: ShardId) -> Vec<u8> {
    let bounds = counters.bounds;
    let version = match bounds == TimeBounds::ALL {
        true => version_for(counters.tombstone_revision),
        false => WITH_BOUNDS,
    };
    let mut out = vec![version];
    put_uvarint(&mut out, u64::from(shard.0));
    put_uvarint(&mut out, counters.next_ref);
    put_uvarint(&mut out, counters.next_part);
    put_i64(&mut out, counters.newest_ms);
    put_uvarint(&mut out, counters.samples);
    put_uvarint(&mut out, u64::from(counters.feature_level.0));
    put_uvarint(&mut out, counters.forgotten_revision);
    if version != VERSION {
        put_uvarint(&mut out, counters.tombstone_revision);
    }
    if version == WITH_BOUNDS {
        put_i64(&mut out, bounds.from_ms);
        put_i64(&mut out, bounds.until_ms);
        put_uvarint(&mut out, u64::from(bounds.next_epoch));
        put_uvarint(&mut out, bounds.revision);
    }
    out
}

/// The shard whose state it is, and its counters.
pub(crate) fn read_counters(bytes: &[u8]) -> Result<(ShardId, Counters), BadRecord> {
    let (mut fields, version) = match bytes.split_first() {
        Some((&version @ (VERSION | WITH_DELETES | WITH_BOUNDS), rest)) => {
            let what = "counters";
            (Fields { rest, what }, version)
        }
        _ => return Err(BadRecord("counters")),
    };
    let small = |value: u64| u32::try_from(value).map_err(|_| BadRecord("counters"));
    let shard = ShardId(small(fields.u64()?)?);
    let counters = Counters {
        next_ref: fields.u64()?,
        next_part: fields.u64()?,
        newest_ms: fields.i64()?,
        samples: fields.u64()?,
        feature_level: FeatureLevel(small(fields.u64()?)?),
        forgotten_revision: fields.u64()?,
        tombstone_revision: if version == VERSION { 0 } else { fields.u64()? },
        bounds: match version {
            WITH_BOUNDS => TimeBounds {
                from_ms: fields.i64()?,
                until_ms: fields.i64()?,
                next_epoch: small(fields.u64()?)?,
                revision: fields.u64()?,
            },
            _ => TimeBounds::ALL,
        },
    };
    Ok((shard, counters))
}

pub(crate) fn dropped<'d>(parts: impl Iterator<Item = &'d DroppedPart>) -> Vec<u8> {
    let mut out = vec![VERSION];
    for part in parts {
        put_bytes(&mut out, part.tenant.as_str().as_bytes());
        put_uvarint(&mut out, part.number);
        put_i64(&mut out, part.min_ms);
        put_i64(&mut out, part.max_ms);
        put_uvarint(&mut out, part.catalogue_revision);
    }
    out
}

pub(crate) fn read_dropped(bytes: &[u8]) -> Result<Vec<DroppedPart>, BadRecord> {
    let mut fields = Fields::of(bytes, "list of dropped parts")?;
    let mut parts = Vec::new();
    while !fields.rest.is_empty() {
        parts.push(DroppedPart {
            tenant: read_tenant(fields.bytes()?)?,
            number: fields.u64()?,
            min_ms: fields.i64()?,
            max_ms: fields.i64()?,
            catalogue_revision: fields.u64()?,
        });
    }
    Ok(parts)
}

pub(crate) fn read_tenant(bytes: &[u8]) -> Result<TenantId, BadRecord> {
    let text = std::str::from_utf8(bytes).map_err(|_| BadRecord("tenant"))?;
    text.parse().map_err(|_| BadRecord("tenant"))
}

pub(crate) fn part(part: &SealedPart, head: &Head) -> Vec<u8> {
    let mut out = vec![version_for(part.tombstone_revision)];
    put_i64(&mut out, part.window.start.0);
    put_i64(&mut out, part.window.end.0);
    put_i64(&mut out, part.min_ms);
    put_i64(&mut out, part.max_ms);
    put_uvarint(&mut out, part.samples);
    put_uvarint(&mut out, part.bytes);
    if part.tombstone_revision > 0 {
        put_uvarint(&mut out, part.tombstone_revision);
    }
    put_refs(&mut out, head, &part.members);
    out
}

pub(crate) fn read_part(number: u64, bytes: &[u8], head: &Head) -> Result<SealedPart, BadRecord> {
    let (mut fields, with_deletes) = Fields::of_either(bytes, "part")?;
    Ok(SealedPart {
        number,
        window: TimeRange::new(TimestampMs(fields.i64()?), TimestampMs(fields.i64()?)),
        min_ms: fields.i64()?,
        max_ms: fields.i64()?,
        samples: fields.u64()?,
        bytes: fields.u64()?,
        tombstone_revision: if with_deletes { fields.u64()? } else { 0 },
        members: fields.refs(head)?,
        pages: None,
        exemplars: Vec::new(),
    })
}

pub(crate) fn delete(tombstone: &Tombstone) -> Vec<u8> {
    let mut out = vec![VERSION];
    write_tombstone(tombstone, &mut out);
    out
}

pub(crate) fn read_delete(bytes: &[u8]) -> Result<Tombstone, BadRecord> {
    let fields = Fields::of(bytes, "delete")?;
    read_tombstone(fields.rest).map_err(|_| BadRecord("delete"))
}

pub(crate) fn target(target: &Target, head: &Head) -> Vec<u8> {
    let mut out = vec![VERSION];
    put_uvarint(&mut out, target.term);
    put_uvarint(&mut out, u64::from(target.last_tick_ms.is_some()));
    put_i64(&mut out, target.last_tick_ms.unwrap_or(0));
    put_uvarint(&mut out, target.interval_ms);
    put_i64(&mut out, target.heard_ms);
    put_uvarint(&mut out, u64::from(target.home));
    put_uvarint(&mut out, target.others.len() as u64);
    for (shard, tick_ms) in &target.others {
        put_uvarint(&mut out, u64::from(shard.0));
        put_i64(&mut out, *tick_ms);
    }
    put_refs(&mut out, head, &target.live);
    put_uvarint(&mut out, u64::from(target.open.is_some()));
    if let Some(open) = &target.open {
        put_i64(&mut out, open.tick_ms);
        put_uvarint(&mut out, u64::from(open.from_first));
        put_refs(&mut out, head, &open.seen);
    }
    out
}

pub(crate) fn read_target(bytes: &[u8], head: &Head) -> Result<Target, BadRecord> {
    let mut fields = Fields::of(bytes, "target")?;
    let mut target = Target {
        term: fields.u64()?,
        last_tick_ms: fields.bool()?.then_some(0),
        ..Target::default()
    };
    let last_tick_ms = fields.i64()?;
    target.last_tick_ms = target.last_tick_ms.map(|_| last_tick_ms);
    target.interval_ms = fields.u64()?;
    target.heard_ms = fields.i64()?;
    target.home = fields.bool()?;
    for _ in 0..fields.u64()? {
        let shard = u32::try_from(fields.u64()?).map_err(|_| BadRecord("target"))?;
        target.others.push((ShardId(shard), fields.i64()?));
    }
    target.live = fields.refs(head)?;
    if fields.bool()? {
        target.open = Some(OpenTick {
            tick_ms: fields.i64()?,
            from_first: fields.bool()?,
            seen: fields.refs(head)?,
        });
    }
    Ok(target)
}

pub(crate) fn metadata(info: &MetricInfo) -> Vec<u8> {
    let mut out = vec![VERSION];
    for text in [&info.kind, &info.unit, &info.help] {
        put_bytes(&mut out, text.as_bytes());
    }
    out
}

pub(crate) fn read_metadata(bytes: &[u8]) -> Result<MetricInfo, BadRecord> {
    let mut fields = Fields::of(bytes, "metadata")?;
    Ok(MetricInfo {
        kind: fields.text()?.into(),
        unit: fields.text()?.into(),
        help: fields.text()?.into(),
    })
}

pub(crate) fn exemplar(exemplar: &Exemplar) -> Vec<u8> {
    let mut out = vec![VERSION];
    put_uvarint(&mut out, exemplar.series.0);
    put_i64(&mut out, exemplar.timestamp_ms);
    out.extend_from_slice(&exemplar.value.to_le_bytes());
    out.extend_from_slice(&exemplar.labels);
    out
}

/// The first number of the ring of exemplars, and the one behind its last.
pub(crate) fn exemplar_ends((first, next): (u64, u64)) -> Vec<u8> {
    let mut out = vec![VERSION];
    put_uvarint(&mut out, first);
    put_uvarint(&mut out, next);
    out
}

pub(crate) fn read_exemplar_ends(bytes: &[u8]) -> Result<(u64, u64), BadRecord> {
    let mut fields = Fields::of(bytes, "ring of exemplars")?;
    Ok((fields.u64()?, fields.u64()?))
}

/// Exemplars of a sealed part.
pub(crate) fn exemplars(exemplars: &[Exemplar]) -> Vec<u8> {
    let mut out = vec![VERSION];
    for one in exemplars {
        put_bytes(&mut out, &exemplar(one));
    }
    out
}

pub(crate) fn read_exemplars(bytes: &[u8]) -> Result<Vec<Exemplar>, BadRecord> {
    let mut fields = Fields::of(bytes, "exemplars of a part")?;
    let mut out = Vec::new();
    while !fields.rest.is_empty() {
        out.push(read_exemplar(fields.bytes()?)?);
    }
    Ok(out)
}

pub(crate) fn read_exemplar(bytes: &[u8]) -> Result<Exemplar, BadRecord> {
    let mut fields = Fields::of(bytes, "exemplar")?;
    let series = SeriesRef(fields.u64()?);
    let timestamp_ms = fields.i64()?;
    let (value, labels) = fields.rest.split_first_chunk::<8>().ok_or(BadRecord("exemplar"))?;
    Ok(Exemplar {
        series,
        timestamp_ms,
        value: f64::from_le_bytes(*value),
        labels: labels.into(),
    })
}
