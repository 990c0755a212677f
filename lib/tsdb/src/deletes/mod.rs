//! Deletes: which samples of which series are not there any more, though their bytes still are.
//!
//! A delete has a revision of the catalogue. Whatever holds samples (a block, a sealed part of a shard) says up to which
//! revision deletes are carried out in it; newer ones mask it. Samples that were written after a delete are in sources
//! that say at least its revision: it never masks them.

mod intervals;
mod object;
mod pages;

pub use intervals::Intervals;
pub use object::{BadTombstone, MAX_TOMBSTONE_BYTES, TombstoneObject};
pub use pages::{remove, remove_from};

use gnomon_model::{LabelsRef, Matcher, TenantId};
use std::sync::Arc;

/// One delete.
#[derive(Clone, Debug, PartialEq)]
pub struct Tombstone {
    /// The catalogue's, as of which it is there. Grows from one delete to the next.
    pub revision: u64,
    pub tenant: TenantId,
    /// Series that satisfy all matchers of any of these; none is no series.
    pub sets: Vec<Vec<Matcher>>,
    /// Inclusive, milliseconds.
    pub start_ms: i64,
    /// Inclusive, milliseconds.
    pub end_ms: i64,
}

impl Tombstone {
    #[must_use]
    pub fn matches(&self, labels: LabelsRef<'_>) -> bool {
        self.sets
            .iter()
            .any(|set| set.iter().all(|matcher| matcher.matches_labels(labels)))
    }

    /// Whether it takes something of `start_ms..=end_ms`.
    #[must_use]
    pub fn overlaps(&self, start_ms: i64, end_ms: i64) -> bool {
        self.start_ms <= end_ms && start_ms <= self.end_ms
    }

    /// Whether nothing of `start_ms..=end_ms` is left by it.
    #[must_use]
    pub fn covers(&self, start_ms: i64, end_ms: i64) -> bool {
        self.start_ms <= start_ms && end_ms <= self.end_ms
    }
}

/// Deletes that mask a source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Deletes(Vec<Arc<Tombstone>>);

impl Deletes {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Tombstone> {
        self.0.iter().map(Arc::as_ref)
    }

    /// What is deleted of a series.
    #[must_use]
    pub fn of(&self, labels: LabelsRef<'_>) -> Intervals {
        let mut intervals = Intervals::default();
        for tombstone in &self.0 {
            if !intervals.covers(tombstone.start_ms, tombstone.end_ms) && tombstone.matches(labels) {
                intervals.add(tombstone.start_ms, tombstone.end_ms);
            }
        }
        intervals
    }

    /// Those of them that are newer than what a source has carried out.
    #[must_use]
    pub fn newer_than(&self, revision: u64) -> Self {
        let newer = |tombstone: &&Arc<Tombstone>| tombstone.revision > revision;
        Self(self.0.iter().filter(newer).cloned().collect())
    }
}

impl FromIterator<Arc<Tombstone>> for Deletes {
    fn from_iter<T: IntoIterator<Item = Arc<Tombstone>>>(tombstones: T) -> Self {
        Self(tombstones.into_iter().collect())
    }
}

#[cfg(test)]
mod tests;
