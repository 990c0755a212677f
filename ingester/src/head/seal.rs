//! Sealing: a window's pages become a part, which leaves memory with the next flush and the shard once it is published.

use super::{Head, Ordinal, WindowPages};
use gnomon_model::TimeRange;
use gnomon_tsdb::page::Page;
use roaring::RoaringBitmap;

/// Samples of one window, closed for good.
#[derive(Debug)]
pub(crate) struct SealedPart {
    pub(crate) number: u64,
    pub(crate) window: TimeRange,
    /// First and last sample, inclusive.
    pub(crate) min_ms: i64,
    pub(crate) max_ms: i64,
    pub(crate) samples: u64,
    /// Bytes of the pages.
    pub(crate) bytes: u64,
    pub(crate) members: RoaringBitmap,
    /// Newer deletes mask it.
    pub(crate) tombstone_revision: u64,
    /// Ascending by series; none once they are durable.
    pub(crate) pages: Option<Vec<(Ordinal, Box<[Page]>)>>,
}

impl SealedPart {
    /// Pages of a series that are still in memory.
    pub(crate) fn pages_of(&self, ordinal: Ordinal) -> &[Page] {
        let pages = self.pages.as_deref().unwrap_or_default();
        match pages.binary_search_by_key(&ordinal, |(o, _)| *o) {
            Ok(at) => &pages[at].1,
            Err(_) => &[],
        }
    }

    pub(crate) fn overlaps(&self, start_ms: i64, end_ms: i64) -> bool {
        self.min_ms <= end_ms && start_ms <= self.max_ms
    }
}

impl Head {
    /// Turns a window into a part; false where it has no samples.
    pub(crate) fn seal(
        &mut self,
        window: TimeRange,
        number: u64,
        tombstone_revision: u64,
    ) -> Result<bool, super::BadPage> {
        let start_ms = window.start.0;
        let Some(open) = self.windows.remove(&start_ms) else {
            return Ok(false);
        };
        let mut part = SealedPart {
            number,
            window,
            min_ms: i64::MAX,
            max_ms: i64::MIN,
            samples: 0,
            bytes: 0,
            members: open.members,
            tombstone_revision,
            pages: None,
        };
        let mut pages = Vec::with_capacity(usize::try_from(part.members.len()).unwrap_or(0));
        for ordinal in &part.members {
            let series = self.slots.get_mut(ordinal as usize).and_then(Option::as_mut);
            let Some(window) = series.and_then(|s| s.take_window(start_ms)) else {
                continue;
            };
            let taken = window.into_pages()?;
            for page in &taken {
                part.min_ms = part.min_ms.min(page.min_ts);
                part.max_ms = part.max_ms.max(page.max_ts);
                part.samples += u64::from(page.count);
                part.bytes += page.bytes.len() as u64;
            }
            pages.push((ordinal, taken.into_boxed_slice()));
            self.changes.series.insert(ordinal);
        }
        part.pages = Some(pages);
        self.sealed.insert(number, part);
        self.changes.pages.remove(&start_ms);
        self.changes.removed_windows.retain(|(start, _)| *start != start_ms);
        self.changes.sealed_windows.insert(start_ms);
        self.changes.new_parts.insert(number);
        Ok(true)
    }

    /// Drops a part that is in the bucket.
    pub(crate) fn drop_part(&mut self, number: u64) -> Option<SealedPart> {
        let part = self.sealed.remove(&number)?;
        self.changes.new_parts.remove(&number);
        self.changes.dropped_parts.insert(number);
        Some(part)
    }

    /// Pages of parts that are durable leave memory.
    pub(crate) fn release_sealed_pages(&mut self) {
        for part in self.sealed.values_mut() {
            if !self.changes.new_parts.contains(&part.number) {
                part.pages = None;
            }
        }
    }

    /// Removes targets that hold nothing and were not heard of since `before_ms`, and series without samples and
    /// without a target that would miss them.
    pub(crate) fn remove_unused(&mut self, before_ms: i64) {
        let idle: Vec<_> = self
            .targets
            .iter()
            .filter(|(_, t)| t.is_idle() && t.heard_ms < before_ms)
            .map(|(id, _)| *id)
            .collect();
        for id in idle {
            self.targets.remove(&id);
            self.changes.targets.insert(id);
        }
        let mut unused = self.index.all().clone();
        for window in self.windows.values() {
            unused -= &window.members;
        }
        for part in self.sealed.values() {
            unused -= &part.members;
        }
        for target in self.targets.values() {
            unused -= &target.live;
            if let Some(open) = &target.open {
                unused -= &open.seen;
            }
        }
        // In the order of references, so that what is written next does not depend on this process' numbers.
        let mut gone: Vec<_> = unused
            .iter()
            .filter_map(|o| self.series(o).map(|s| (s.reference, o)))
            .collect();
        gone.sort_unstable();
        for (_, ordinal) in gone {
            self.remove_series(ordinal);
        }
    }

    /// Bytes of sealed parts that are not published.
    pub(crate) fn sealed_bytes(&self) -> u64 {
        self.sealed.values().map(|p| p.bytes).sum()
    }
}

impl WindowPages {
    fn into_pages(self) -> Result<Vec<Page>, super::BadPage> {
        self.pages(i64::MIN, i64::MAX)
    }
}
