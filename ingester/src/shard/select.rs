//! Reading a shard: whatever a caller's view does not take from blocks.
//!
//! What is in memory is copied at one applied index, under the lock; pages of sealed parts come from the store as the
//! stream goes on. A part that is dropped meanwhile ends the stream with `StaleView`.

use super::held::HeldBytes;
use super::machine::ShardMachine;
use super::state::{ShardState, TenantHead};
use super::{keys, records};
use crate::head::{BadPage, Exemplar, FEW_IN_ORDER, Head, Ordinal, PlacedPage, SealedPart, Stop, merge_pages};
use bytes::Bytes;
use gnomon_cluster::raft::StateReader;
use gnomon_model::re2::is_costly;
use gnomon_model::{Matcher, SeriesRef, TenantId};
use gnomon_promql::MemoryBudget;
use gnomon_proto::ServiceError;
use gnomon_proto::v1::{LabelMatcher, Page as WirePage, SelectBatch, SelectRequest, Series, View};
use gnomon_tsdb::Intervals;
use gnomon_tsdb::deletes::remove_from;
use gnomon_tsdb::page::Page;
use roaring::RoaringBitmap;
use std::ops::Range;
use std::sync::Arc;

/// A batch of the stream is closed once it has so many bytes.
const BATCH_BYTES: usize = 512 * 1024;
/// So few series are read at once, without a thread of their own.
const FEW_SERIES: u64 = FEW_IN_ORDER;
/// Series by which it is estimated how long the labels and open pages of all are, and what is reserved for them at most.
const SAMPLED_SERIES: usize = 256;
const MOST_RESERVED: usize = 64 << 20;
/// What one selection may hold in memory where the caller sets no limit.
const DEFAULT_MAX_BYTES: u64 = 512 << 20;

pub(crate) fn matchers(wire: &[LabelMatcher]) -> Result<Vec<Matcher>, ServiceError> {
    gnomon_proto::matchers::from_wire(wire).map_err(ServiceError::Invalid)
}

pub(crate) fn tenant(text: &str) -> Result<TenantId, ServiceError> {
    text.parse()
        .map_err(|e: gnomon_model::ids::BadTenantId| ServiceError::Invalid(e.to_string()))
}

impl ShardState {
    /// Whether who knows of the placement epochs up to `known` asks those shards that have what is up to `end_ms`
    /// (inclusive).
    pub(crate) fn check_map(&self, known: u32, end_ms: i64) -> Result<(), ServiceError> {
        let owned = self.counters.bounds;
        if known < owned.next_epoch && end_ms >= owned.until_ms {
            return Err(ServiceError::StaleMap {
                epoch: owned.next_epoch,
            });
        }
        Ok(())
    }

    /// Whether the view knows of everything that was dropped in the range (inclusive).
    pub(crate) fn check_view(
        &self,
        tenant: &TenantId,
        view: &View,
        start_ms: i64,
        end_ms: i64,
    ) -> Result<(), ServiceError> {
        self.check_map(view.placement_epoch, end_ms)?;
        // A view that does not know of a delete would show what it masks in blocks.
        let oldest = self.counters.forgotten_revision.max(self.counters.tombstone_revision);
        if view.catalogue_revision < oldest {
            return Err(ServiceError::StaleView { revision: oldest });
        }
        // A view as new as the publication knows the part, even where its block was replaced or deleted since.
        let missing = self.dropped.iter().filter(|part| {
            part.tenant == *tenant
                && part.catalogue_revision > view.catalogue_revision
                && part.min_ms <= end_ms
                && start_ms <= part.max_ms
                && view.parts_from_blocks.binary_search(&part.number).is_err()
        });
        match missing.map(|part| part.catalogue_revision).max() {
            Some(revision) => Err(ServiceError::StaleView { revision }),
            None => Ok(()),
        }
    }
}

impl Head {
    /// Series that may have samples in the range (inclusive) which the view leaves to the head.
    pub(crate) fn members(&self, view: &View, start_ms: i64, end_ms: i64) -> RoaringBitmap {
        let mut members = RoaringBitmap::new();
        for (window_start, window) in &self.windows {
            if *window_start <= end_ms && start_ms < window_start.saturating_add(crate::head::WINDOW_MS) {
                members |= &window.members;
            }
        }
        for part in self.sealed.values().filter(|p| p.overlaps(start_ms, end_ms)) {
            if view.parts_from_blocks.binary_search(&part.number).is_err() {
                members |= &part.members;
            }
        }
        members
    }
}

/// # Errors
/// `Cancelled` where nobody waits for what is being read.
pub(crate) fn check(stop: &Stop) -> Result<(), ServiceError> {
    if stop.is_set() {
        Err(ServiceError::Cancelled)
    } else {
        Ok(())
    }
}

/// A series on its way out.
pub(super) struct Found {
    reference: SeriesRef,
    /// Within the selection's bytes.
    labels: Range<usize>,
    /// Of parts in memory, by part number ascending.
    parts: Vec<Page>,
    /// Of open windows, which come after those: that is the order of the log. Positions in the selection's list.
    open: Range<usize>,
    /// Which of the durable parts have pages of it.
    stored: Vec<Stored>,
}

/// Pages of a series in a durable part.
struct Stored {
    /// The part's position in the selection's list.
    at: u32,
    /// What is deleted of them.
    deleted: Intervals,
}

/// One selection at one applied index.
pub(crate) struct Selected {
    tenant: TenantId,
    tenant_number: u32,
    pub(super) start_ms: i64,
    pub(super) end_ms: i64,
    labels_only: bool,
    max_samples: u64,
    samples: u64,
    /// Numbers of durable parts that are read, ascending.
    parts: Vec<u64>,
    series: std::vec::IntoIter<Found>,
    held: HeldBytes,
    /// What is held, and how much of `written` is in that.
    held_bytes: u64,
    held_written: usize,
    /// Pages of open windows, of all series,
    open: Vec<PlacedPage>,
    /// and their bytes, and labels: written here one after the other,
    written: Vec<u8>,
    /// and shared from here once all are.
    bytes: Bytes,
}

impl ShardMachine {
    pub(super) fn check_sound(&self) -> Result<(), ServiceError> {
        if self.is_sound() {
            return Ok(());
        }
        let shard = self.shard();
        Err(ServiceError::Unavailable(format!("shard {shard} is restarting")))
    }

    /// Finds the series of a request and copies what memory has of them.
    pub(crate) fn find(&self, request: &SelectRequest, stop: &Stop) -> Result<Selected, ServiceError> {
        let query = Query::of(self, request)?;
        self.bring_into_order(&query, stop)?;
        let selected = self.read(|state| query.select(state, u64::MAX, stop))?;
        selected.map_or_else(|| query.nothing(), Ok)
    }

    /// Works in series that came since somebody asked for many, where a query is for many again: in slices, between which
    /// writers go on.
    fn bring_into_order(&self, query: &Query<'_>, stop: &Stop) -> Result<(), ServiceError> {
        if !self.read(|state| query.is_order_due(state, stop)) {
            return Ok(());
        }
        // What somebody else had begun, and what came until then.
        let mut rounds = 2;
        while rounds > 0 {
            check(stop)?;
            let is_done = self.read(|state| state.head(&query.tenant).is_none_or(Head::work_in));
            rounds -= u32::from(is_done);
            if is_done && !self.read(|state| query.is_order_due(state, stop)) {
                break;
            }
        }
        Ok(())
    }

    /// As [`Self::find`], where that takes some microseconds only and no waiting: few series, named by values of labels,
    /// all in memory. None otherwise.
    pub(crate) fn find_few(&self, request: &SelectRequest) -> Result<Option<Selected>, ServiceError> {
        if request.matchers.iter().any(|m| is_costly(&m.value)) {
            return Ok(None);
        }
        let query = Query::of(self, request)?;
        let selected = self
            .try_read(|state| query.select(state, FEW_SERIES, &Stop::default()))
            .transpose()?;
        Ok(selected.flatten().filter(|selected| selected.parts.is_empty()))
    }
}

/// A request, taken apart.
struct Query<'r> {
    request: &'r SelectRequest,
    tenant: TenantId,
    matchers: Vec<Matcher>,
    view: View,
    budget: MemoryBudget,
}

impl<'r> Query<'r> {
    fn of(machine: &ShardMachine, request: &'r SelectRequest) -> Result<Self, ServiceError> {
        machine.check_sound()?;
        Ok(Self {
            request,
            tenant: tenant(&request.tenant)?,
            matchers: matchers(&request.matchers)?,
            view: request.view.clone().unwrap_or_default(),
            budget: machine.read_budget(),
        })
    }

    fn nothing(&self) -> Result<Selected, ServiceError> {
        Selected::new(self.tenant.clone(), self.request, &self.budget)
    }

    fn is_order_due(&self, state: &ShardState, stop: &Stop) -> bool {
        let Some(head) = state.head(&self.tenant) else {
            return false;
        };
        // Mostly it is not, however many are wanted.
        let (start_ms, end_ms) = (self.request.start_ms, self.request.end_ms);
        head.may_be_out_of_order() && {
            let wanted = head.select(&self.matchers, stop) & head.members(&self.view, start_ms, end_ms);
            head.is_order_due(wanted.len())
        }
    }

    /// What a state has; none where that is more than so many series.
    fn select(&self, state: &ShardState, most: u64, stop: &Stop) -> Result<Option<Selected>, ServiceError> {
        let request = self.request;
        state.check_view(&self.tenant, &self.view, request.start_ms, request.end_ms)?;
        let mut selected = self.nothing()?;
        let Some(there) = state.tenants.get(&self.tenant) else {
            return Ok(Some(selected));
        };
        // Before anything that takes long is done: the index says how many there may be.
        if most < u64::MAX && there.head.index.most(&self.matchers).is_none_or(|there| there > most) {
            return Ok(None);
        }
        let members = there.head.members(&self.view, request.start_ms, request.end_ms);
        let wanted = there.head.select(&self.matchers, stop) & members;
        if wanted.len() > most {
            return Ok(None);
        }
        check(stop)?;
        selected.fill(there, &wanted, &self.view, request.max_bytes, stop)?;
        Ok(Some(selected))
    }
}

impl Selected {
    /// # Errors
    /// When selections hold all that they may.
    pub(super) fn new(tenant: TenantId, request: &SelectRequest, budget: &MemoryBudget) -> Result<Self, ServiceError> {
        Ok(Self {
            tenant,
            tenant_number: 0,
            start_ms: request.start_ms,
            end_ms: request.end_ms,
            labels_only: request.labels_only,
            max_samples: request.max_samples,
            samples: 0,
            parts: Vec::new(),
            series: Vec::new().into_iter(),
            held: HeldBytes::nothing(budget)?,
            held_bytes: 0,
            held_written: 0,
            open: Vec::new(),
            written: Vec::new(),
            bytes: Bytes::new(),
        })
    }

    /// The sealed parts of the range that the view leaves to the head, ascending; notes those that are in the store.
    pub(super) fn parts_of<'h>(&mut self, there: &'h TenantHead, view: &View) -> Vec<&'h SealedPart> {
        self.tenant_number = there.number;
        let from_head = |n: &u64| view.parts_from_blocks.binary_search(n).is_err();
        let parts = there.head.sealed.values();
        let parts = parts.filter(|p| p.overlaps(self.start_ms, self.end_ms) && from_head(&p.number));
        let parts: Vec<_> = parts.collect();
        self.parts = parts.iter().filter(|p| p.pages.is_none()).map(|p| p.number).collect();
        parts
    }

    /// All is written.
    pub(super) fn share(&mut self) {
        self.bytes = std::mem::take(&mut self.written).into();
    }

    /// Series that are left, and their samples in memory.
    pub(crate) fn size(&self) -> (usize, u64) {
        let of_parts = |found: &Found| found.parts.iter().map(|page| u64::from(page.count)).sum::<u64>();
        let of_open = |found: &Found| {
            self.open[found.open.clone()]
                .iter()
                .map(PlacedPage::samples)
                .sum::<u64>()
        };
        let samples = |found: &Found| of_parts(found) + of_open(found);
        let series = self.series.as_slice();
        (series.len(), series.iter().map(samples).sum())
    }

    /// Whether the rest is few series, all in memory.
    pub(crate) fn is_small(&self) -> bool {
        self.parts.is_empty() && self.series.len() as u64 <= FEW_SERIES
    }

    fn fill(
        &mut self,
        there: &TenantHead,
        wanted: &RoaringBitmap,
        view: &View,
        max_bytes: u64,
        stop: &Stop,
    ) -> Result<(), ServiceError> {
        let head = &there.head;
        let parts = self.parts_of(there, view);
        let mut series = Vec::with_capacity(usize::try_from(wanted.len()).unwrap_or(0));
        for ordinal in head.in_order(wanted) {
            check(stop)?;
            let Some(found) = self.series_of(head, ordinal, &parts)? else {
                continue;
            };
            self.hold(&found, 0, max_bytes)?;
            series.push(found);
            if series.len() == SAMPLED_SERIES {
                // The rest will be much like these: what is written is not to be moved again and again.
                let rest = usize::try_from(wanted.len())
                    .unwrap_or(0)
                    .saturating_sub(SAMPLED_SERIES);
                let likely = self.written.len() / SAMPLED_SERIES * rest / 16 * 17;
                self.written.reserve(likely.min(MOST_RESERVED));
            }
        }
        self.series = series.into_iter();
        self.share();
        Ok(())
    }

    /// Charges a series that was found, and `more` bytes that go with it. Without a limit of the caller's (0) there is one
    /// all the same.
    pub(super) fn hold(&mut self, found: &Found, more: u64, max_bytes: u64) -> Result<(), ServiceError> {
        let max_bytes = if max_bytes == 0 { DEFAULT_MAX_BYTES } else { max_bytes };
        let written = self.written.len() - std::mem::replace(&mut self.held_written, self.written.len());
        let placed = found.open.len() * size_of::<PlacedPage>();
        let of_parts: usize = found.parts.iter().map(|page| page.bytes.len()).sum();
        self.held_bytes += (written + placed + of_parts + size_of::<Found>()) as u64 + more;
        self.held.grow_to(self.held_bytes)?;
        if self.held_bytes > max_bytes {
            return Err(ServiceError::LimitExceeded(format!(
                "the selection has more than {max_bytes} bytes in the head: narrow its matchers or its range"
            )));
        }
        Ok(())
    }

    pub(super) fn series_of(
        &mut self,
        head: &Head,
        ordinal: Ordinal,
        parts: &[&SealedPart],
    ) -> Result<Option<Found>, ServiceError> {
        let Some(series) = head.series(ordinal) else {
            return Ok(None);
        };
        let mut found = Found {
            reference: series.reference,
            labels: 0..0,
            parts: Vec::new(),
            open: 0..0,
            stored: Vec::new(),
        };
        let internal = |e: BadPage| ServiceError::Internal(e.to_string());
        for part in parts.iter().filter(|p| p.members.contains(ordinal)) {
            let deleted = head.deleted_in(part, ordinal);
            let pages = part.pages_of(ordinal).map_err(|e| internal(e.into()))?;
            for page in pages.into_iter().filter(|p| p.overlaps(self.start_ms, self.end_ms)) {
                let left = remove_from(page, &deleted);
                found.parts.extend(left.map_err(|e| internal(e.into()))?);
            }
            if part.pages.is_none()
                && let Ok(at) = self.parts.binary_search(&part.number)
            {
                let at = at as u32;
                found.stored.push(Stored { at, deleted });
            }
        }
        let first = self.open.len();
        for (window, pages) in head.open_pages(ordinal) {
            let placed = if self.labels_only {
                pages.place_header(self.start_ms, self.end_ms, &window.room, &mut self.open)
            } else {
                pages.place_pages(
                    self.start_ms,
                    self.end_ms,
                    &window.room,
                    &mut self.open,
                    &mut self.written,
                )
            };
            placed.map_err(internal)?;
        }
        found.open = first..self.open.len();
        let in_memory = !found.open.is_empty() || !found.parts.is_empty();
        if !in_memory && found.stored.is_empty() {
            return Ok(None);
        }
        if self.labels_only && in_memory {
            found.stored.clear();
            found.parts.truncate(usize::from(found.open.is_empty()));
        }
        let from = self.written.len();
        head.write_labels(ordinal, &mut self.written);
        found.labels = from..self.written.len();
        Ok(Some(found))
    }

    /// Whether what memory has of the series is known to have histograms in it.
    pub(crate) fn has_histograms(&self) -> bool {
        let of_parts = |found: &Found| found.parts.iter().any(|page| !page.coding.is_of_floats());
        self.open.iter().any(PlacedPage::is_of_histograms) || self.series.as_slice().iter().any(of_parts)
    }

    /// The next batch; none at the end. Reads the store.
    pub(crate) fn next_batch(&mut self, machine: &ShardMachine) -> Result<Option<SelectBatch>, ServiceError> {
        let reader = machine.reader();
        let mut batch = SelectBatch::default();
        let mut bytes = 0;
        let mut read_parts = false;
        while bytes < BATCH_BYTES
            && let Some(found) = self.series.next()
        {
            read_parts |= !found.stored.is_empty();
            let labels = self.bytes.slice(found.labels.clone());
            let pages = self.pages_of(found, reader.as_deref())?;
            if pages.is_empty() {
                continue;
            }
            self.samples += pages.iter().map(|p| u64::from(p.count)).sum::<u64>();
            if self.max_samples > 0 && self.samples > self.max_samples && !self.labels_only {
                let max = self.max_samples;
                return Err(ServiceError::LimitExceeded(format!(
                    "the selection has more than {max} samples: narrow its matchers or its range"
                )));
            }
            let pages: Vec<_> = if self.labels_only {
                Vec::new()
            } else {
                pages.into_iter().map(wire_page).collect()
            };
            bytes += labels.len() + pages.iter().map(|p| p.data.len() + 32).sum::<usize>();
            batch.series.push(Series { labels, pages });
        }
        if read_parts {
            self.check_parts(machine)?;
        }
        Ok((!batch.series.is_empty()).then_some(batch))
    }

    /// What was read of parts is whole only where they are still there: their keys go after they are dropped.
    pub(super) fn check_parts(&self, machine: &ShardMachine) -> Result<(), ServiceError> {
        machine.read(|state| {
            let there = |n: &u64| state.head(&self.tenant).is_some_and(|h| h.sealed.contains_key(n));
            match self.parts.iter().find(|n| !there(n)) {
                None => Ok(()),
                Some(number) => {
                    let dropped = state.dropped.iter().find(|d| d.number == *number);
                    let revision = dropped.map_or(state.counters.forgotten_revision, |d| d.catalogue_revision);
                    Err(ServiceError::StaleView { revision })
                }
            }
        })
    }

    pub(super) fn pages_of(&self, found: Found, reader: Option<&dyn StateReader>) -> Result<Vec<Page>, ServiceError> {
        let mut pages = Vec::new();
        for Stored { at, deleted } in &found.stored {
            let part = self.parts.get(*at as usize).copied().unwrap_or(0);
            let key = keys::part_series(self.tenant_number, part, found.reference);
            let value = match reader.map(|r| r.get(&key)).transpose() {
                Ok(value) => value.flatten(),
                Err(error) => return Err(ServiceError::Internal(error.to_string())),
            };
            // Gone means dropped, which the end of the batch finds out.
            if let Some(value) = value {
                let stored = records::read_pages(&value).map_err(|e| ServiceError::Internal(e.to_string()))?;
                let wanted = stored.into_iter().filter(|p| p.overlaps(self.start_ms, self.end_ms));
                for page in wanted {
                    let left = remove_from(page, deleted).map_err(|e| ServiceError::Internal(e.to_string()))?;
                    pages.extend(left);
                }
            }
        }
        // Parts that are still in memory are newer than those in the store, open windows newer than both.
        if pages.is_empty() {
            pages = found.parts;
        } else {
            pages.extend(found.parts);
        }
        let open = &self.open[found.open];
        pages.reserve_exact(open.len());
        pages.extend(open.iter().map(|placed| placed.page(&self.bytes)));
        merge_pages(pages).map_err(|e| ServiceError::Internal(e.to_string()))
    }
}

pub(super) fn wire_page(page: Page) -> WirePage {
    WirePage {
        coding: u32::from(page.coding.tag()),
        count: page.count,
        min_ms: page.min_ts,
        max_ms: page.max_ts,
        data: page.bytes,
    }
}

/// Sealed pages of one part, series by series in the order of references, for upload.
pub(crate) fn stored_pages(
    reader: &Arc<dyn StateReader>,
    tenant_number: u32,
    part: u64,
    reference: SeriesRef,
) -> Result<Vec<Page>, ServiceError> {
    let key = keys::part_series(tenant_number, part, reference);
    let value = reader.get(&key).map_err(|e| ServiceError::Internal(e.to_string()))?;
    let pages = value.map(|v| records::read_pages(&v)).transpose();
    Ok(pages
        .map_err(|e| ServiceError::Internal(e.to_string()))?
        .unwrap_or_default())
}

/// A durable part's exemplars.
pub(crate) fn stored_exemplars(
    reader: &Arc<dyn StateReader>,
    tenant_number: u32,
    part: u64,
) -> Result<Vec<Exemplar>, ServiceError> {
    let value = reader.get(&keys::part_exemplars(tenant_number, part));
    let value = value.map_err(|e| ServiceError::Internal(e.to_string()))?;
    let exemplars = value.map(|v| records::read_exemplars(&v)).transpose();
    Ok(exemplars
        .map_err(|e| ServiceError::Internal(e.to_string()))?
        .unwrap_or_default())
}
