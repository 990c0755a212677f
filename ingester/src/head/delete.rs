//! Deletes in a head: windows that take samples lose theirs at once; parts that are sealed are masked, for as long as they
//! are here.
//!
//! Invariant: what a delete takes depends on the log alone: on what was taken before its entry.

use super::{BadPage, Head, Ordinal, Room, SealedPart, Stop, WINDOW_MS, WindowPages};
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

/// Series of one slice of a delete: some milliseconds, for which readers wait.
const SLICE_SERIES: u64 = 1024;

/// A delete that is being carried out.
#[derive(Debug)]
pub(crate) struct Deletion {
    by: Arc<Tombstone>,
    with_exemplars: bool,
    /// All series that it names.
    gone: RoaringBitmap,
    /// What is still to be done, the next one last: where, and in which series. All of `gone` come in the end.
    left: Vec<(Place, RoaringBitmap)>,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    /// The window that begins then.
    Window(i64),
    Sealed,
}

impl Head {
    /// Begins a delete that is newer than all before. Nothing else may change the head's samples until
    /// [`Self::delete_some`] says that it is done.
    pub(crate) fn begin_delete(&self, tombstone: &Arc<Tombstone>, with_exemplars: bool) -> Deletion {
        let mut gone = RoaringBitmap::new();
        for set in &tombstone.sets {
            gone |= self.select(set, &Stop::default());
        }
        let overlaps = |start_ms: i64| tombstone.overlaps(start_ms, start_ms.saturating_add(WINDOW_MS - 1));
        let mut left = vec![(Place::Sealed, gone.clone())];
        for (start_ms, window) in self.windows.iter().rev().filter(|(start, _)| overlaps(**start)) {
            left.push((Place::Window(*start_ms), &window.members & &gone));
        }
        Deletion {
            by: Arc::clone(tombstone),
            with_exemplars,
            gone,
            left,
        }
    }

    /// Carries out the next slice; whether there is more. Between two slices some series have lost their samples and
    /// others have not.
    pub(crate) fn delete_some(&mut self, deletion: &mut Deletion) -> Result<bool, BadPage> {
        let Some((place, series)) = deletion.left.last_mut() else {
            self.end_delete(deletion);
            return Ok(false);
        };
        let slice: Vec<Ordinal> = series.iter().take(SLICE_SERIES as usize).collect();
        series.remove_smallest(SLICE_SERIES);
        let (place, is_last) = (*place, series.is_empty());
        match place {
            Place::Window(start_ms) => self.delete_in_window(start_ms, &slice, &deletion.by)?,
            Place::Sealed => {
                for ordinal in slice {
                    self.delete_sealed(ordinal, &deletion.by);
                    self.find_last(ordinal);
                }
            }
        }
        if is_last {
            deletion.left.pop();
        }
        Ok(true)
    }

    fn end_delete(&mut self, deletion: &Deletion) {
        let Deletion {
            by,
            gone,
            with_exemplars,
            ..
        } = deletion;
        if *with_exemplars {
            let by_ref = &self.by_ref;
            let is_of = |series| by_ref.get(series).is_some_and(|ordinal| gone.contains(ordinal));
            self.exemplars
                .remove(|e| by.covers(e.timestamp_ms, e.timestamp_ms) && is_of(e.series));
        }
        let is_masked = |part: &SealedPart| part.is_masked_by(by) && !part.members.is_disjoint(gone);
        if self.sealed.values().any(is_masked) {
            self.deletes.insert(by.revision, Arc::clone(by));
            self.changes.deletes.insert(by.revision);
        }
        self.remove_unused(i64::MIN);
    }

    fn delete_in_window(&mut self, start_ms: i64, slice: &[Ordinal], by: &Tombstone) -> Result<(), BadPage> {
        let Some(window) = self.windows.get_mut(&start_ms) else {
            return Ok(());
        };
        let mut intervals = Intervals::default();
        intervals.add(by.start_ms, by.end_ms);
        for ordinal in slice.iter().copied() {
            let Some((pages, room)) = window.pages_mut(ordinal) else {
                continue;
            };
            match delete_from(pages, &intervals, room)? {
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
        // Its exemplars may lie before its first sample, and behind its last one.
        self.tombstone_revision < tombstone.revision && tombstone.overlaps(self.window.start.0, self.window.end.0 - 1)
    }
}

fn delete_from(window: &mut WindowPages, deleted: &Intervals, room: &mut Room) -> Result<Left, BadPage> {
    let (first_ms, before) = (window.first_ms(room), window.sample_count(room));
    if !deleted.overlaps(first_ms, window.last_ms) {
        return Ok(Left::AsItWas);
    }
    if deleted.covers(first_ms, window.last_ms) || !window.remove(deleted, room)? {
        return Ok(Left::Nothing(before));
    }
    Ok(match before - window.sample_count(room) {
        0 => Left::AsItWas,
        taken => Left::Less(taken),
    })
}
