//! From memory to the store and back: a flush writes exactly what changed since the one before, so that the store holds
//! the shard as it stood at one applied index.

use super::keys::{self, Key};
use super::records::{self, BadRecord};
use super::state::{ShardState, TenantHead};
use crate::head::{BadPage, ClosedPages, Head, Ordinal, Room, SealedPages, WindowPages};
use gnomon_model::{LabelsRef, SeriesRef, ShardId, TenantId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where a flush goes: one atomic batch, applied in the order of the calls.
pub(crate) trait StateSink {
    fn put(&mut self, key: &[u8], value: &[u8]);
    fn delete(&mut self, key: &[u8]);
    /// Half-open.
    fn delete_range(&mut self, from: &[u8], to: &[u8]);
}

/// Gets a stored pair.
pub(crate) type Visit<'v> = dyn FnMut(&[u8], &[u8]) -> Result<(), RestoreError> + 'v;

/// Where a restore comes from.
pub(crate) trait StateSource {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RestoreError>;
    /// Visits the pairs whose keys begin with `prefix`, ascending.
    fn scan(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), RestoreError>;
}

/// Why a shard's stored state cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    #[error(transparent)]
    Record(#[from] BadRecord),
    #[error(transparent)]
    Page(#[from] BadPage),
    #[error("state of shard {found} was found where that of shard {wanted} was expected")]
    OtherShard { found: ShardId, wanted: ShardId },
    #[error("a stored record belongs to {0} that is not stored")]
    Orphan(&'static str),
    #[error("read the store: {0}")]
    Store(String),
}

impl ShardState {
    /// Writes what changed since the last flush.
    pub(crate) fn write_changes(&self, sink: &mut dyn StateSink) -> Result<(), BadPage> {
        sink.put(keys::COUNTERS, &records::counters(&self.counters, self.shard));
        let parts_dropped = |t: &TenantHead| !t.head.changes.dropped_parts.is_empty();
        if self.tenants.values().any(parts_dropped) {
            sink.put(keys::DROPPED, &records::dropped(self.dropped.iter()));
        }
        for (tenant, there) in &self.tenants {
            if !there.flushed {
                sink.put(&keys::tenant(there.number), tenant.as_str().as_bytes());
            }
            write_series(there.number, &there.head, sink);
            write_pages(there.number, &there.head, sink)?;
            write_parts(there.number, &there.head, sink)?;
            write_rest(there.number, &there.head, sink);
        }
        Ok(())
    }

    /// What `write_changes` wrote is in the batch.
    pub(crate) fn set_flushed(&mut self) {
        for tenant in self.tenants.values_mut() {
            tenant.flushed = true;
            tenant.head.set_flushed();
        }
    }

    /// The batch is durable: sealed pages need no memory any more.
    pub(crate) fn release_flushed(&mut self) {
        for tenant in self.tenants.values_mut() {
            tenant.head.release_sealed_pages();
        }
    }

    /// The shard as it was flushed last, at `applied`; an empty one where nothing was.
    pub(crate) fn restore(shard: ShardId, applied: u64, source: &dyn StateSource) -> Result<Self, RestoreError> {
        let mut state = Self::new(shard);
        state.applied = applied;
        let Some(counters) = source.get(keys::COUNTERS)? else {
            return Ok(state);
        };
        let (found, counters) = records::read_counters(&counters)?;
        if found != shard {
            return Err(RestoreError::OtherShard { found, wanted: shard });
        }
        state.counters = counters;
        if let Some(dropped) = source.get(keys::DROPPED)? {
            state.dropped = records::read_dropped(&dropped)?.into();
        }
        let mut tenants: BTreeMap<u32, TenantId> = BTreeMap::new();
        source.scan(&keys::tenant(0)[..1], &mut |key, value| {
            if let Some(Key::Tenant(number)) = keys::parse(key) {
                tenants.insert(number, records::read_tenant(value)?);
            }
            Ok(())
        })?;
        for (number, tenant) in tenants {
            let head = restore_head(number, source)?;
            let there = TenantHead {
                number,
                flushed: true,
                head,
            };
            state.tenants.insert(tenant, there);
        }
        Ok(state)
    }
}

fn write_series(tenant: u32, head: &Head, sink: &mut dyn StateSink) {
    for reference in &head.changes.removed_series {
        sink.delete(&keys::series(tenant, *reference));
    }
    let (mut labels, mut record) = (Vec::new(), Vec::new());
    for ordinal in &head.changes.series {
        let Some(series) = head.series(ordinal) else {
            continue;
        };
        record.clear();
        head.write_labels(ordinal, &mut labels);
        records::series(series.sealed_last_ms, &mut labels, &mut record);
        sink.put(&keys::series(tenant, series.reference), &record);
    }
}

fn write_pages(tenant: u32, head: &Head, sink: &mut dyn StateSink) -> Result<(), BadPage> {
    for start_ms in &head.changes.sealed_windows {
        let prefix = keys::window(tenant, *start_ms);
        sink.delete_range(&prefix, &keys::after(prefix.clone()));
    }
    for (start_ms, reference) in &head.changes.removed_windows {
        let prefix = keys::window_series(tenant, *start_ms, *reference);
        sink.delete_range(&prefix, &keys::after(prefix.clone()));
    }
    for (start_ms, ordinals) in &head.changes.pages {
        let Some(window) = head.windows.get(start_ms) else {
            continue;
        };
        for ordinal in ordinals {
            if let Some((series, pages)) = head.series(ordinal).zip(window.pages_of(ordinal)) {
                let prefix = keys::window_series(tenant, *start_ms, series.reference);
                write_window(prefix, pages, &window.room, sink)?;
            }
        }
    }
    Ok(())
}

fn write_window(prefix: Vec<u8>, window: &WindowPages, room: &Room, sink: &mut dyn StateSink) -> Result<(), BadPage> {
    let unflushed = window.unflushed(room)?;
    if unflushed.replace {
        sink.delete_range(&prefix, &keys::after(prefix.clone()));
    }
    for (number, page) in (unflushed.first_number as u32..).zip(unflushed.closed) {
        sink.put(&keys::page(prefix.clone(), number), &records::pages([page.bytes]));
    }
    sink.put(
        &keys::tail(prefix),
        &records::pages(unflushed.tail.iter().map(|page| &page.bytes[..])),
    );
    Ok(())
}

fn write_parts(tenant: u32, head: &Head, sink: &mut dyn StateSink) -> Result<(), BadPage> {
    for number in &head.changes.dropped_parts {
        sink.delete(&keys::part(tenant, *number));
        sink.delete(&keys::part_exemplars(tenant, *number));
        let prefix = keys::part_pages(tenant, *number);
        sink.delete_range(&prefix, &keys::after(prefix.clone()));
    }
    for part in head.changes.new_parts.iter().filter_map(|n| head.sealed.get(n)) {
        sink.put(&keys::part(tenant, part.number), &records::part(part, head));
        if !part.exemplars.is_empty() {
            let key = keys::part_exemplars(tenant, part.number);
            sink.put(&key, &records::exemplars(&part.exemplars));
        }
        for series in part.pages.iter().flat_map(SealedPages::iter) {
            let (ordinal, pages) = series?;
            if let Some(series) = head.series(ordinal) {
                let key = keys::part_series(tenant, part.number, series.reference);
                sink.put(&key, &records::pages(pages.iter().map(|page| &page.bytes[..])));
            }
        }
    }
    Ok(())
}

fn write_rest(tenant: u32, head: &Head, sink: &mut dyn StateSink) {
    for id in &head.changes.targets {
        let key = keys::target(tenant, *id);
        match head.targets.get(id) {
            Some(target) => sink.put(&key, &records::target(target, head)),
            None => sink.delete(&key),
        }
    }
    for revision in &head.changes.deletes {
        let key = keys::delete(tenant, *revision);
        match head.deletes.get(revision) {
            Some(tombstone) => sink.put(&key, &records::delete(tombstone)),
            None => sink.delete(&key),
        }
    }
    for metric in &head.changes.metadata {
        if let Some(info) = head.metadata.get(metric) {
            sink.put(&keys::metadata(tenant, metric), &records::metadata(info));
        }
    }
    let (gone, new) = head.exemplars.unflushed();
    if !gone.is_empty() {
        sink.delete_range(&keys::exemplar(tenant, gone.start), &keys::exemplar(tenant, gone.end));
    }
    for number in head.exemplars.removed() {
        sink.delete(&keys::exemplar(tenant, *number));
    }
    for (number, exemplar) in new {
        sink.put(&keys::exemplar(tenant, number), &records::exemplar(exemplar));
    }
    if let Some(ends) = head.exemplars.unflushed_ends() {
        sink.put(&keys::exemplar_ends(tenant), &records::exemplar_ends(ends));
    }
}

fn restore_head(tenant: u32, source: &dyn StateSource) -> Result<Head, RestoreError> {
    let mut head = Head::new();
    source.scan(&keys::series(tenant, SeriesRef(0))[..5], &mut |key, value| {
        if let Some(Key::Series(_, reference)) = keys::parse(key) {
            let (sealed_last_ms, labels) = records::read_series(value)?;
            let labels = LabelsRef::checked(labels).map_err(|_| BadRecord("series"))?;
            head.restore_series(reference, labels, sealed_last_ms);
        }
        Ok(())
    })?;
    head.restored_series();
    source.scan(&keys::part(tenant, 0)[..5], &mut |key, value| {
        if let Some(Key::Part(_, number)) = keys::parse(key) {
            let part = records::read_part(number, value, &head)?;
            head.sealed.insert(number, part);
        }
        Ok(())
    })?;
    source.scan(&keys::delete(tenant, 0)[..5], &mut |key, value| {
        if let Some(Key::Delete(_, revision)) = keys::parse(key) {
            let tombstone = records::read_delete(value)?;
            head.deletes.insert(revision, Arc::new(tombstone));
        }
        Ok(())
    })?;
    restore_windows(tenant, source, &mut head)?;
    source.scan(
        &keys::target(tenant, gnomon_model::TargetId(0))[..5],
        &mut |key, value| {
            if let Some(Key::Target(_, id)) = keys::parse(key) {
                let target = records::read_target(value, &head)?;
                head.targets.insert(id, target);
            }
            Ok(())
        },
    )?;
    source.scan(&keys::metadata(tenant, ""), &mut |key, value| {
        if let Some(Key::Metadata(_, metric)) = keys::parse(key) {
            head.metadata.insert(metric.into(), records::read_metadata(value)?);
        }
        Ok(())
    })?;
    source.scan(&keys::exemplar(tenant, 0)[..5], &mut |key, value| {
        if let Some(Key::Exemplar(_, number)) = keys::parse(key) {
            head.exemplars.restore(number, records::read_exemplar(value)?);
        }
        Ok(())
    })?;
    if let Some(ends) = source.get(&keys::exemplar_ends(tenant))? {
        let (first, next) = records::read_exemplar_ends(&ends)?;
        head.exemplars.restore_ends(first, next);
    }
    Ok(head)
}

fn restore_windows(tenant: u32, source: &dyn StateSource, head: &mut Head) -> Result<(), RestoreError> {
    let mut closed = ClosedPages::default();
    let mut last: Option<(SeriesRef, Ordinal)> = None;
    source.scan(&keys::window(tenant, 0)[..5], &mut |key, value| {
        match keys::parse(key) {
            // A series' closed pages come before its tail.
            Some(Key::Page(_, start_ms, ..)) => {
                for page in records::page_bytes(value)? {
                    head.restore_closed(start_ms, &mut closed, page?)?;
                }
            }
            Some(Key::Tail(_, start_ms, reference)) => {
                let ordinal = match last {
                    Some((r, ordinal)) if r == reference => ordinal,
                    _ => head.find_ref(reference).ok_or(RestoreError::Orphan("a series"))?,
                };
                last = Some((reference, ordinal));
                let tail = records::read_pages(value)?;
                head.restore_window(ordinal, start_ms, std::mem::take(&mut closed), &tail)?;
            }
            _ => return Err(BadRecord("key").into()),
        }
        Ok(())
    })
}
