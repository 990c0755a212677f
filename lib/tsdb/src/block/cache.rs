//! Parts of indexes as they are after reading, checking and decompressing, kept for the next query: within a bound of
//! memory for all blocks together.

use super::layout::PageAt;
use super::postings::Entry;
use gnomon_model::Labels;
use parking_lot::Mutex;
use roaring::RoaringBitmap;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The series of one chunk, with where their pages are.
#[derive(Debug, Default)]
pub(super) struct SeriesPart {
    pub(super) labels: Vec<Labels>,
    /// Of all series, one after the other.
    pages: Vec<PageAt>,
    /// Where each series' pages begin, and the end of the last.
    begins: Vec<u32>,
}

impl SeriesPart {
    pub(super) fn new(labels: Vec<Labels>, directory: Vec<Vec<PageAt>>) -> Self {
        let mut begins = Vec::with_capacity(directory.len() + 1);
        let mut pages = Vec::with_capacity(directory.iter().map(Vec::len).sum());
        begins.push(0);
        for its in directory {
            pages.extend(its);
            begins.push(pages.len() as u32);
        }
        Self { labels, pages, begins }
    }

    /// The pages of a series by its place in the chunk.
    pub(super) fn pages_of(&self, at: usize) -> &[PageAt] {
        match (self.begins.get(at), self.begins.get(at + 1)) {
            (Some(from), Some(to)) => &self.pages[*from as usize..*to as usize],
            _ => &[],
        }
    }

    fn bytes(&self) -> usize {
        let labels: usize = self.labels.iter().map(|l| l.as_bytes().len() + 40).sum();
        labels + self.pages.len() * size_of::<PageAt>() + self.begins.len() * 4
    }
}

/// One part of an index.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Series(Arc<SeriesPart>),
    Values(Arc<Vec<Entry>>),
    Postings(Arc<RoaringBitmap>),
}

impl Part {
    fn bytes(&self) -> usize {
        match self {
            Self::Series(part) => part.bytes(),
            Self::Values(entries) => entries.iter().map(Entry::memory_bytes).sum(),
            Self::Postings(set) => set.serialized_size() + 64,
        }
    }
}

/// The number of a reader, and where in its object the part is.
type Key = (u64, u64);

struct Kept {
    part: Part,
    bytes: usize,
    used: u64,
}

#[derive(Default)]
struct Inner {
    parts: HashMap<Key, Kept>,
    bytes: usize,
    uses: u64,
}

/// Keeps parts of at most so many bytes; those not used for longest go first.
pub struct IndexCache {
    inner: Mutex<Inner>,
    max_bytes: usize,
    readers: AtomicU64,
}

impl std::fmt::Debug for IndexCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IndexCache")
            .field("max_bytes", &self.max_bytes)
            .finish_non_exhaustive()
    }
}

impl IndexCache {
    #[must_use]
    pub fn new(max_bytes: usize) -> Self {
        Self {
            inner: Mutex::default(),
            max_bytes,
            readers: AtomicU64::new(0),
        }
    }

    /// Memory held, in bytes (an estimate).
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.inner.lock().bytes
    }

    /// A number that no other reader has.
    pub(super) fn next_reader(&self) -> u64 {
        self.readers.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn get(&self, reader: u64, offset: u64) -> Option<Part> {
        let mut inner = self.inner.lock();
        inner.uses += 1;
        let uses = inner.uses;
        let kept = inner.parts.get_mut(&(reader, offset))?;
        kept.used = uses;
        Some(kept.part.clone())
    }

    pub(super) fn insert(&self, reader: u64, offset: u64, part: &Part) {
        let bytes = part.bytes() + size_of::<Kept>() + size_of::<Key>();
        if bytes > self.max_bytes / 8 {
            return;
        }
        let mut inner = self.inner.lock();
        inner.uses += 1;
        let kept = Kept {
            part: part.clone(),
            bytes,
            used: inner.uses,
        };
        inner.bytes += bytes;
        if let Some(before) = inner.parts.insert((reader, offset), kept) {
            inner.bytes -= before.bytes;
        }
        if inner.bytes > self.max_bytes {
            inner.shrink_to(self.max_bytes / 4 * 3);
        }
    }

    /// Lets go what a reader has, which is closed.
    pub(super) fn remove(&self, reader: u64) {
        let mut inner = self.inner.lock();
        let mut freed = 0;
        inner.parts.retain(|(of, _), kept| {
            let stays = *of != reader;
            freed += if stays { 0 } else { kept.bytes };
            stays
        });
        inner.bytes -= freed;
    }
}

impl Inner {
    fn shrink_to(&mut self, bytes: usize) {
        let mut by_use: Vec<(u64, Key)> = self.parts.iter().map(|(key, kept)| (kept.used, *key)).collect();
        by_use.sort_unstable();
        for (_, key) in by_use {
            if self.bytes <= bytes {
                return;
            }
            if let Some(gone) = self.parts.remove(&key) {
                self.bytes -= gone.bytes;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(series: u32) -> Part {
        Part::Postings(Arc::new((0..series).map(|n| n * 3).collect()))
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let cache = IndexCache::new(16 << 10);
        let mut at = 0;
        while cache.bytes() < 12 << 10 {
            cache.insert(1, at, &part(100));
            at += 1;
        }
        assert!(cache.get(1, 0).is_some());
        while cache.get(1, 1).is_some() {
            // Looking keeps it, so it is inserted until the bound is passed and the oldest go.
            for _ in 0..20 {
                cache.insert(1, at, &part(100));
                at += 1;
            }
            if cache.get(1, 2).is_none() {
                break;
            }
        }
        assert!(cache.bytes() <= 16 << 10);
        assert!(cache.get(1, at - 1).is_some());
        cache.remove(1);
        assert_eq!(cache.bytes(), 0);
        cache.insert(2, 0, &part(20_000));
        assert!(cache.get(2, 0).is_none(), "too large to be kept");
    }
}
