//! Deletes in a head: windows that take samples lose theirs at once; parts that are sealed are masked, for as long as they
//! are here.
//!
//! Invariant: what a delete takes depends on the log alone: on what was taken before its entry.

use super::{BadPage, Head, Ordinal, PageArena, SealedPart, Stop, WINDOW_MS, WindowPages};
use gnomon_model::LabelsRef;
use gnomon_tsdb::{Deletes, Intervals, Tombstone};
use roaring::RoaringBitmap;
use std::sync::Arc;

/// What became of a series' window.
enum Left {
    AsItWas,
    Less(u64),
    Nothing(u64),
}

impl Head {
    /// Carries out a delete that is newer than all before.
    pub(crate) fn delete(&mut self, tombstone: &Arc<Tombstone>) -> Result<(), BadPage> {
        let mut gone = RoaringBitmap::new();
        for set in &tombstone.sets {
            gone |= self.select(set, &Stop::default());
        }
        let overlaps = |start_ms: i64| tombstone.overlaps(start_ms, start_ms.saturating_add(WINDOW_MS - 1));
        let starts: Vec<i64> = self.windows.keys().copied().filter(|start| overlaps(*start)).collect();
        for start_ms in starts {
            self.delete_in_window(start_ms, &gone, tombstone)?;
        }
        for ordinal in &gone {
            self.delete_sealed(ordinal, tombstone);
            self.find_last(ordinal);
        }
        let is_masked = |part: &SealedPart| part.is_masked_by(tombstone) && !part.members.is_disjoint(&gone);
        if self.sealed.values().any(is_masked) {
            self.deletes.insert(tombstone.revision, Arc::clone(tombstone));
            self.changes.deletes.insert(tombstone.revision);
        }
        self.remove_unused(i64::MIN);
        Ok(())
    }

    fn delete_in_window(&mut self, start_ms: i64, gone: &RoaringBitmap, by: &Tombstone) -> Result<(), BadPage> {
        let Some(window) = self.windows.get_mut(&start_ms) else {
            return Ok(());
        };
        let mut intervals = Intervals::default();
        intervals.add(by.start_ms, by.end_ms);
        for ordinal in &window.members & gone {
            let Some((pages, arena)) = window.pages_mut(ordinal) else {
                continue;
            };
            match delete_from(pages, &intervals, arena)? {
                Left::AsItWas => continue,
                Left::Less(taken) => {
                    pages.dirty = true;
                    window.samples -= taken;
                    self.changes.pages.entry(start_ms).or_default().insert(ordinal);
                }
                Left::Nothing(taken) => {
                    window.samples -= taken;
                    window.remove(ordinal);
                    if let Some(changed) = self.changes.pages.get_mut(&start_ms) {
                        changed.remove(ordinal);
                    }
                    let series = self.slots.get(ordinal as usize).and_then(Option::as_ref);
                    let removed = series.map(|series| (start_ms, series.reference));
                    self.changes.removed_windows.extend(removed);
                }
            }
        }
        if window.members.is_empty() {
            self.windows.remove(&start_ms);
        } else {
            window.tidy()?;
        }
        Ok(())
    }

    /// A series whose newest sealed samples are gone takes older ones again.
    fn delete_sealed(&mut self, ordinal: Ordinal, by: &Tombstone) {
        let Some(series) = self.slots.get_mut(ordinal as usize).and_then(Option::as_mut) else {
            return;
        };
        if by.covers(series.sealed_last_ms, series.sealed_last_ms) && series.sealed_last_ms != i64::MIN {
            series.sealed_last_ms = by.start_ms.saturating_sub(1);
            self.changes.series.insert(ordinal);
        }
    }

    /// Says anew what a series' newest sample is.
    fn find_last(&mut self, ordinal: Ordinal) {
        let open = self.open_pages(ordinal).map(|(_, pages)| pages.last_ms).max();
        if let Some(series) = self.slots.get_mut(ordinal as usize).and_then(Option::as_mut) {
            series.last_ms = series.sealed_last_ms.max(open.unwrap_or(i64::MIN));
        }
    }

    /// Deletes that mask a part.
    pub(crate) fn deletes_of(&self, part: &SealedPart) -> Deletes {
        let masking = self.deletes.values().filter(|t| part.is_masked_by(t));
        masking.cloned().collect()
    }

    /// What of a series is deleted in a part.
    pub(crate) fn deleted_in(&self, part: &SealedPart, ordinal: Ordinal) -> Intervals {
        if self.deletes.is_empty() {
            return Intervals::default();
        }
        let deletes = self.deletes_of(part);
        if deletes.is_empty() {
            return Intervals::default();
        }
        let mut labels = Vec::new();
        self.write_labels(ordinal, &mut labels);
        deletes.of(LabelsRef::from_canonical(&labels))
    }

    /// Lets go of deletes that mask no part any more.
    pub(crate) fn forget_deletes(&mut self) {
        let sealed = &self.sealed;
        let changed = &mut self.changes.deletes;
        self.deletes.retain(|revision, tombstone| {
            let masks = sealed.values().any(|part| part.is_masked_by(tombstone));
            if !masks {
                changed.insert(*revision);
            }
            masks
        });
    }
}

impl SealedPart {
    pub(crate) fn is_masked_by(&self, tombstone: &Tombstone) -> bool {
        self.tombstone_revision < tombstone.revision && tombstone.overlaps(self.min_ms, self.max_ms)
    }
}

fn delete_from(window: &mut WindowPages, deleted: &Intervals, arena: &mut PageArena) -> Result<Left, BadPage> {
    let (first_ms, before) = (window.first_ms(arena), window.sample_count(arena));
    if !deleted.overlaps(first_ms, window.last_ms) {
        return Ok(Left::AsItWas);
    }
    if deleted.covers(first_ms, window.last_ms) || !window.remove(deleted, arena)? {
        return Ok(Left::Nothing(before));
    }
    Ok(match before - window.sample_count(arena) {
        0 => Left::AsItWas,
        taken => Left::Less(taken),
    })
}
