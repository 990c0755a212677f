//! Opening a block, and reading its parts by range.

use super::cache::{BlockCache, Part};
use super::layout::{FOOTER_LEN, Footer, HEADER_LEN, Section, SeriesChunk, TimesChunk, ValueTable, read_series_table};
use super::symbols::SymbolTable;
use super::{BlockError, BlockMeta, FORMAT_VERSION, bloom};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use gnomon_model::TimestampMs;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use std::ops::Range;
use std::sync::Arc;

/// What is read first: of all but large blocks the footer, the meta, the filter and both tables.
const TAIL_BYTES: u64 = 128 << 10;
/// Ranges this close are read as one.
pub(super) const COALESCE_GAP_BYTES: u64 = 64 << 10;
/// Ranges are not joined beyond this length.
const COALESCE_MAX_BYTES: u64 = 4 << 20;
/// Pages are kept in stretches of this length.
const STRETCH_BYTES: u64 = 64 << 10;
/// Requests of one reader call under way at a time.
const CONCURRENT_READS: usize = 4;

/// The first version with a dictionary and columns of labels.
const WITH_SYMBOLS: u32 = 3;

/// The table over label values.
#[derive(Debug)]
pub(super) enum Values {
    /// Before version 3.
    Entries(ValueTable),
    Symbols(SymbolTable),
}

/// An open block. Holds the sparse tables of the index, the filter and the meta; everything else is read when needed.
#[derive(Debug)]
pub struct BlockReader {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) path: Path,
    pub(super) footer: Footer,
    pub(super) meta: BlockMeta,
    pub(super) chunks: Vec<SeriesChunk>,
    pub(super) times: Vec<TimesChunk>,
    pub(super) values: Values,
    filter: Bytes,
    /// Where parts of the index are kept between calls, and the reader's number there.
    cache: Option<(Arc<BlockCache>, u64)>,
}

impl Drop for BlockReader {
    fn drop(&mut self) {
        if let Some((cache, number)) = &self.cache {
            cache.remove(*number);
        }
    }
}

impl BlockReader {
    /// As [`Self::open`]; what is read is kept in `cache`.
    ///
    /// # Errors
    /// When the object cannot be read, is damaged, or is of a newer version.
    pub async fn open_cached(
        store: Arc<dyn ObjectStore>,
        path: Path,
        cache: &Arc<BlockCache>,
    ) -> Result<Self, BlockError> {
        let mut reader = Self::open(store, path).await?;
        reader.cache = Some((Arc::clone(cache), cache.next_reader()));
        Ok(reader)
    }

    /// Reads the footer, the meta and the sparse tables: one request, two for a large block.
    ///
    /// # Errors
    /// When the object cannot be read, is damaged, or is of a newer version.
    pub async fn open(store: Arc<dyn ObjectStore>, path: Path) -> Result<Self, BlockError> {
        let options = GetOptions {
            range: Some(GetRange::Suffix(TAIL_BYTES)),
            ..GetOptions::default()
        };
        let store_error = |source| BlockError::Store {
            path: path.clone(),
            source,
        };
        let result = store.get_opts(&path, options).await.map_err(store_error)?;
        let file_len = result.meta.size;
        let tail_start = result.range.start;
        let tail = result.bytes().await.map_err(store_error)?;
        let damaged = |what: &str| BlockError::Damaged {
            path: path.clone(),
            what: what.to_owned(),
        };
        let footer = Footer::read(&tail, file_len).map_err(damaged)?;
        if footer.version == 0 || footer.version > FORMAT_VERSION {
            let version = footer.version;
            return Err(BlockError::Version { path, version });
        }
        let tables_start = footer.section(Section::SeriesTable).offset;
        let tail = if tables_start < tail_start {
            let before = store
                .get_range(&path, tables_start..tail_start)
                .await
                .map_err(store_error)?;
            Bytes::from([before, tail].concat())
        } else {
            tail.slice((tables_start - tail_start) as usize..)
        };
        if tail.len() as u64 != file_len - tables_start {
            return Err(damaged("object store gave fewer bytes than it has"));
        }
        let section = |section: Section| {
            let at = footer.section(section);
            let start = (at.offset - tables_start) as usize;
            let bytes = tail.slice(start..start + at.len as usize);
            if !super::has_crc(&bytes, at.crc) {
                return Err(damaged(&format!("checksum of section {section:?}")));
            }
            Ok(bytes)
        };
        let chunks = read_series_table(&section(Section::SeriesTable)?, &footer);
        let values = section(Section::ValueTable)?;
        let values = if footer.version < WITH_SYMBOLS {
            ValueTable::read(&values, &footer).map(Values::Entries)
        } else {
            SymbolTable::read(&values, &footer).map(Values::Symbols)
        };
        let meta = section(Section::Meta)?;
        // Copied, so that the tail is not kept for it.
        let filter = Bytes::copy_from_slice(&section(Section::Filter)?);
        let meta: BlockMeta = serde_json::from_slice(&meta).map_err(|e| damaged(&format!("meta: {e}")))?;
        let (chunks, times) = chunks.ok_or_else(|| damaged("series table"))?;
        let values = values.ok_or_else(|| damaged("value table"))?;
        let series = chunks
            .last()
            .map_or(0, |last| u64::from(last.first_series) + u64::from(last.series));
        if series != meta.stats.series {
            return Err(damaged("number of series in the meta and in the table differ"));
        }
        Ok(Self {
            store,
            path,
            footer,
            meta,
            chunks,
            times,
            values,
            filter,
            cache: None,
        })
    }

    /// As [`Self::open`], of an object of a bucket.
    ///
    /// # Errors
    /// As [`Self::open`]; a path that none can have is one that is not found.
    pub async fn open_in(bucket: &crate::Bucket, path: &str) -> Result<Self, BlockError> {
        Self::open(Arc::clone(bucket.store()), Path::from(path)).await
    }

    /// The sections of the object in its order: what they are called in `format.md`, and how long they are.
    pub fn sections(&self) -> impl Iterator<Item = (String, u64)> {
        let len = |section| self.footer.section(section).len;
        Section::ALL
            .into_iter()
            .map(move |section| (format!("{section:?}"), len(section)))
    }

    /// What the object consists of, in its order, and how many bytes each part has.
    #[must_use]
    pub fn parts(&self) -> Vec<(&'static str, u64)> {
        let len = |section| self.footer.section(section).len;
        vec![
            ("pages", len(Section::Pages)),
            ("labels", self.chunks.iter().map(|chunk| chunk.labels.len).sum()),
            ("directory", self.chunks.iter().map(|chunk| chunk.directory.len).sum()),
            ("values", len(Section::Values)),
            ("postings", len(Section::Postings)),
            ("exemplars", len(Section::Exemplars)),
            ("metadata", len(Section::Metadata)),
            ("tables", len(Section::SeriesTable) + len(Section::ValueTable)),
            ("filter", len(Section::Filter)),
            ("meta", len(Section::Meta)),
            ("ends", (HEADER_LEN + FOOTER_LEN) as u64),
        ]
    }

    /// Label names, each with how many values it has.
    pub fn counts_of_label_values(&self) -> impl Iterator<Item = (&str, u64)> {
        let (entries, symbols) = match &self.values {
            Values::Entries(table) => (table.names.as_slice(), &[][..]),
            Values::Symbols(table) => (&[][..], table.names.as_slice()),
        };
        let entries = entries.iter().map(|(name, values)| (name.as_str(), *values));
        let symbols = symbols.iter().map(|name| (name.text.as_str(), u64::from(name.values)));
        entries.chain(symbols)
    }

    /// The table over the dictionary; none before version 3.
    pub(super) const fn symbol_table(&self) -> Option<&SymbolTable> {
        match &self.values {
            Values::Symbols(table) => Some(table),
            Values::Entries(_) => None,
        }
    }

    #[must_use]
    pub fn meta(&self) -> &BlockMeta {
        &self.meta
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the object.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.footer.file_len
    }

    /// Memory held by this reader between calls, in bytes (an estimate).
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let values = match &self.values {
            Values::Entries(table) => {
                let keys: usize = table.chunks.iter().map(|c| 96 + c.first_key.len()).sum();
                keys + table.names.iter().map(|(n, _)| 32 + n.len()).sum::<usize>()
            }
            Values::Symbols(table) => table.memory_bytes(),
        };
        let chunks = self.chunks.len() * size_of::<SeriesChunk>() + self.times.len() * size_of::<TimesChunk>();
        size_of::<Self>() + chunks + values + self.filter.len()
    }

    /// False only where the block has no series of this metric.
    #[must_use]
    pub fn may_have_metric(&self, name: &str) -> bool {
        bloom::may_contain(&self.filter, name)
    }

    /// Whether samples may lie in `start_ms..=end_ms`.
    #[must_use]
    pub fn overlaps(&self, start_ms: i64, end_ms: i64) -> bool {
        let stats = &self.meta.stats;
        stats.samples > 0 && stats.min_sample <= TimestampMs(end_ms) && TimestampMs(start_ms) <= stats.max_sample
    }

    pub(super) fn damaged(&self, what: impl Into<String>) -> BlockError {
        BlockError::Damaged {
            path: self.path.clone(),
            what: what.into(),
        }
    }

    /// Damage of the part of the object that begins at `offset`.
    pub(super) fn damaged_at(&self, offset: u64, what: impl std::fmt::Display) -> BlockError {
        self.damaged(format!("{what}, at byte {offset}"))
    }

    /// What is kept of the part of the index at `offset`.
    pub(super) fn kept(&self, offset: u64) -> Option<Part> {
        let (cache, number) = self.cache.as_ref()?;
        cache.part(*number, offset)
    }

    pub(super) fn keep(&self, offset: u64, part: &Part) {
        if let Some((cache, number)) = &self.cache {
            cache.keep_part(*number, offset, part);
        }
    }

    /// Reads ranges (ascending, not overlapping), joining those that are close; the answer is in their order.
    pub(super) async fn fetch(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, BlockError> {
        let joined = join(ranges);
        let reads = futures::stream::iter(joined.clone()).map(|range| async move {
            let expected = range.end - range.start;
            let bytes = self.store.get_range(&self.path, range).await;
            let bytes = bytes.map_err(|source| BlockError::Store {
                path: self.path.clone(),
                source,
            })?;
            if bytes.len() as u64 != expected {
                return Err(self.damaged("object is shorter than its index says"));
            }
            Ok(bytes)
        });
        let parts: Vec<Bytes> = reads.buffered(CONCURRENT_READS).try_collect().await?;
        let mut out = Vec::with_capacity(ranges.len());
        for range in ranges {
            let at = joined.partition_point(|j| j.end < range.end);
            let part = joined.get(at).zip(parts.get(at));
            let (whole, bytes) = part.ok_or_else(|| self.damaged("ranges are not ascending"))?;
            out.push(bytes.slice((range.start - whole.start) as usize..(range.end - whole.start) as usize));
        }
        Ok(out)
    }
}

impl BlockReader {
    /// As [`Self::fetch`], of pages: whole stretches are read, and kept.
    pub(super) async fn fetch_pages(&self, ranges: &[Range<u64>]) -> Result<Vec<Bytes>, BlockError> {
        let Some((cache, number)) = &self.cache else {
            return self.fetch(ranges).await;
        };
        let mut stretches: Vec<(u64, Option<Bytes>)> = Vec::new();
        for range in ranges {
            let first = range.start / STRETCH_BYTES * STRETCH_BYTES;
            let known = stretches.last().map_or(first, |(last, _)| last + STRETCH_BYTES);
            for begin in (first.max(known)..range.end).step_by(STRETCH_BYTES as usize) {
                stretches.push((begin, cache.stretch(*number, begin)));
            }
        }
        let missing = stretches.iter_mut().filter(|(_, bytes)| bytes.is_none());
        let (missing, wanted): (Vec<_>, Vec<_>) = missing
            .map(|(begin, bytes)| {
                let range = *begin..(*begin + STRETCH_BYTES).min(self.footer.file_len);
                (bytes, range)
            })
            .unzip();
        for ((slot, range), read) in missing.into_iter().zip(&wanted).zip(self.fetch(&wanted).await?) {
            // A copy of its own: what was read may be part of something larger.
            let bytes = Bytes::copy_from_slice(&read);
            cache.keep_stretch(*number, range.start, &bytes);
            *slot = Some(bytes);
        }
        let mut out = Vec::with_capacity(ranges.len());
        for range in ranges {
            out.push(cut(&stretches, range).ok_or_else(|| self.damaged("ranges are not ascending"))?);
        }
        Ok(out)
    }
}

/// The bytes of a range, out of ascending stretches that hold it.
fn cut(stretches: &[(u64, Option<Bytes>)], range: &Range<u64>) -> Option<Bytes> {
    let at = stretches
        .partition_point(|(begin, _)| *begin <= range.start)
        .checked_sub(1)?;
    let part = |(begin, bytes): &(u64, Option<Bytes>)| {
        let bytes = bytes.as_ref()?;
        let from = range.start.saturating_sub(*begin) as usize;
        let to = ((range.end - begin) as usize).min(bytes.len());
        (from <= to).then(|| bytes.slice(from..to))
    };
    let first = part(&stretches[at])?;
    let len = (range.end - range.start) as usize;
    if first.len() == len {
        return Some(first);
    }
    let mut whole = Vec::with_capacity(len);
    whole.extend_from_slice(&first);
    for stretch in stretches[at + 1..].iter().take_while(|(begin, _)| *begin < range.end) {
        whole.extend_from_slice(&part(stretch)?);
    }
    (whole.len() == len).then(|| whole.into())
}

/// Joins ascending ranges that are close.
pub(super) fn join(ranges: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last)
                if range.start >= last.end
                    && range.start - last.end <= COALESCE_GAP_BYTES
                    && range.end - last.start <= COALESCE_MAX_BYTES =>
            {
                last.end = range.end;
            }
            _ => joined.push(range.clone()),
        }
    }
    joined
}
