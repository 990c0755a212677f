//! What was read of blocks, kept for the next query, within bounds of memory for all blocks together: parts of indexes
//! as they are after checking and decompressing, and stretches of pages as they are in the object.

use super::directory::{PageAt, Times};
use super::postings::Entry;
use super::rows::Rows;
use super::symbols::SymbolChunk;
use super::times::Column;
use crate::page::Starts;
use bytes::Bytes;
use gnomon_model::Labels;
use parking_lot::Mutex;
use roaring::RoaringBitmap;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// The series of one chunk, with where their pages are.
#[derive(Debug, Default)]
pub(super) struct SeriesPart {
    /// Made when they are first asked for, of blocks since version 3.
    labels: Vec<OnceLock<Labels>>,
    /// What they are made of.
    pub(super) rows: Option<Rows>,
    label_bytes: usize,
    /// What parts of columns of times take.
    slice_bytes: usize,
    /// Of all series, one after the other.
    pages: Vec<PageAt>,
    /// Where each series' pages begin, and the end of the last.
    begins: Vec<u32>,
}

impl SeriesPart {
    pub(super) fn of_labels(labels: Vec<Labels>, directory: Vec<Vec<PageAt>>) -> Self {
        let bytes = labels.iter().map(|labels| labels.as_bytes().len()).sum();
        Self::new(labels.into_iter().map(OnceLock::from).collect(), bytes, None, directory)
    }

    pub(super) fn of_rows(rows: Rows, directory: Vec<Vec<PageAt>>) -> Self {
        let mut labels = Vec::new();
        labels.resize_with(rows.len(), OnceLock::new);
        Self::new(labels, rows.label_bytes, Some(rows), directory)
    }

    fn new(labels: Vec<OnceLock<Labels>>, label_bytes: usize, rows: Option<Rows>, directory: Vec<Vec<PageAt>>) -> Self {
        let mut begins = Vec::with_capacity(directory.len() + 1);
        let mut pages = Vec::with_capacity(directory.iter().map(Vec::len).sum());
        begins.push(0);
        for its in directory {
            pages.extend(its);
            begins.push(pages.len() as u32);
        }
        Self {
            labels,
            rows,
            label_bytes,
            slice_bytes: slice_bytes(&pages),
            pages,
            begins,
        }
    }

    /// Labels of a series by its place in the chunk; none where they were not made so far.
    pub(super) fn labels(&self, at: usize) -> Option<&Labels> {
        self.labels.get(at)?.get()
    }

    pub(super) fn set_labels(&self, at: usize, labels: Labels) {
        if let Some(slot) = self.labels.get(at) {
            // Another reader may have made the same.
            let _ = slot.set(labels);
        }
    }

    /// Series.
    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }

    /// The pages of a series by its place in the chunk.
    pub(super) fn pages_of(&self, at: usize) -> &[PageAt] {
        match (self.begins.get(at), self.begins.get(at + 1)) {
            (Some(from), Some(to)) => &self.pages[*from as usize..*to as usize],
            _ => &[],
        }
    }

    fn bytes(&self) -> usize {
        // Whether they are made or not.
        let labels = self.label_bytes + self.labels.len() * (size_of::<OnceLock<Labels>>() + 16);
        let rows = self.rows.as_ref().map_or(0, Rows::memory_bytes);
        labels + rows + self.slice_bytes + self.pages.len() * size_of::<PageAt>() + self.begins.len() * 4
    }
}

/// Of parts of columns of times, and of starts, each of which several pages may share.
fn slice_bytes(pages: &[PageAt]) -> usize {
    let slices = pages.iter().filter_map(|page| match &page.times {
        Times::Of(slice) => Some((Arc::as_ptr(slice), slice.memory_bytes())),
        Times::Within | Times::Even => None,
    });
    let slices: usize = slices.collect::<HashMap<_, _>>().into_values().sum();
    let starts = pages.iter().filter_map(|page| page.starts.as_ref());
    let starts = starts.map(|starts| (Arc::as_ptr(starts), size_of::<Starts>() + starts.memory_bytes()));
    slices + starts.collect::<HashMap<_, _>>().into_values().sum::<usize>()
}

/// One part of a block.
#[derive(Clone, Debug)]
pub(super) enum Part {
    /// Bytes of the section of pages, or of a chunk of the dictionary that was not looked at so far.
    Stretch(Bytes),
    Series(Arc<SeriesPart>),
    Values(Arc<Vec<Entry>>),
    Postings(Arc<RoaringBitmap>),
    Times(Arc<Vec<Column>>),
    Symbols(Arc<SymbolChunk>),
}

impl Part {
    fn bytes(&self) -> usize {
        match self {
            Self::Stretch(bytes) => bytes.len(),
            Self::Series(part) => part.bytes(),
            Self::Values(entries) => entries.iter().map(Entry::memory_bytes).sum(),
            Self::Postings(set) => set.serialized_size() + 64,
            Self::Times(columns) => columns.iter().map(Column::memory_bytes).sum(),
            Self::Symbols(chunk) => chunk.memory_bytes(),
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

/// Parts of one kind.
struct Shelf {
    inner: Mutex<Inner>,
    max_bytes: usize,
}

/// Keeps parts within bounds; those not used for longest go first.
pub struct BlockCache {
    index: Shelf,
    pages: Shelf,
    readers: AtomicU64,
}

impl std::fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockCache")
            .field("index_bytes", &self.index.max_bytes)
            .field("page_bytes", &self.pages.max_bytes)
            .finish_non_exhaustive()
    }
}

impl BlockCache {
    /// Keeps about so many bytes of indexes, and so many of pages.
    #[must_use]
    pub fn new(index_bytes: usize, page_bytes: usize) -> Self {
        let shelf = |max_bytes| Shelf {
            inner: Mutex::default(),
            max_bytes,
        };
        Self {
            index: shelf(index_bytes),
            pages: shelf(page_bytes),
            readers: AtomicU64::new(0),
        }
    }

    /// Memory held, in bytes (an estimate).
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.index.inner.lock().bytes + self.pages.inner.lock().bytes
    }

    /// A number that no other reader has.
    pub(super) fn next_reader(&self) -> u64 {
        self.readers.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn part(&self, reader: u64, offset: u64) -> Option<Part> {
        self.index.get(reader, offset)
    }

    pub(super) fn keep_part(&self, reader: u64, offset: u64, part: &Part) {
        self.index.insert(reader, offset, part);
    }

    pub(super) fn stretch(&self, reader: u64, offset: u64) -> Option<Bytes> {
        match self.pages.get(reader, offset) {
            Some(Part::Stretch(bytes)) => Some(bytes),
            _ => None,
        }
    }

    pub(super) fn keep_stretch(&self, reader: u64, offset: u64, bytes: &Bytes) {
        self.pages.insert(reader, offset, &Part::Stretch(bytes.clone()));
    }

    /// Lets go what a reader has, which is closed.
    pub(super) fn remove(&self, reader: u64) {
        self.index.remove(reader);
        self.pages.remove(reader);
    }
}

impl Shelf {
    fn get(&self, reader: u64, offset: u64) -> Option<Part> {
        let mut inner = self.inner.lock();
        inner.uses += 1;
        let uses = inner.uses;
        let kept = inner.parts.get_mut(&(reader, offset))?;
        kept.used = uses;
        Some(kept.part.clone())
    }

    fn insert(&self, reader: u64, offset: u64, part: &Part) {
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

    fn remove(&self, reader: u64) {
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
        let cache = BlockCache::new(16 << 10, 16 << 10);
        // Some three hundred bytes each. The first is used again and again.
        for at in 0..200 {
            cache.keep_part(1, at, &part(100));
            assert!(cache.part(1, 0).is_some());
            assert!(cache.bytes() <= 16 << 10);
        }
        assert!(cache.part(1, 1).is_none());
        assert!(cache.part(1, 199).is_some());
        cache.keep_stretch(1, 0, &Bytes::from_static(&[7; 100]));
        assert_eq!(cache.stretch(1, 0).map(|bytes| bytes.len()), Some(100));
        assert!(cache.stretch(2, 0).is_none());
        cache.remove(1);
        assert_eq!(cache.bytes(), 0);
        cache.keep_part(2, 0, &part(20_000));
        assert!(cache.part(2, 0).is_none(), "too large to be kept");
    }
}
