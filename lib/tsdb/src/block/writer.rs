//! Writing a block in one pass: pages go out as they come, the index follows.

use super::grouping::Grouping;
use super::layout::{
    ChunkAt, FOOTER_LEN, Footer, HEADER_LEN, INLINE_POSTINGS, LABEL_BYTES_PER_CHUNK, MAX_CHUNK_LEN, MAX_LABELS_LEN,
    PAGES_PER_CHUNK, SECTIONS, SERIES_PER_CHUNK, Section, SectionAt, SeriesChunk, TIMES_BYTES_PER_CHUNK, TimesChunk,
    VALUE_BYTES_PER_CHUNK, VALUES_PER_CHUNK, ValueChunk, ValueTable, header, put_front_coded, split_key, value_key,
    write_series_table,
};
use super::sink::BlockSink;
use super::{BlockError, BlockMeta, BlockStats, FORMAT_VERSION, bloom, sets};
use crate::page::{Effort, Page};
use bytes::Bytes;
use gnomon_model::labels::put_uvarint;
use gnomon_model::{LabelsRef, TimestampMs};
use roaring::RoaringBitmap;
use std::collections::{BTreeMap, HashMap};

const ZSTD_LEVEL: i32 = 3;

/// A block that was written.
#[derive(Debug)]
pub struct FinishedBlock<T> {
    /// With its statistics.
    pub meta: BlockMeta,
    /// Length of the object.
    pub bytes: u64,
    /// What the sink left: the object's bytes for [`super::MemorySink`].
    pub output: T,
}

/// Writes one block. Memory: one part of the sink and the index, some tens of bytes a series; and some tens of MiB at most
/// to find what pages have alike.
pub struct BlockWriter<S: BlockSink> {
    sink: S,
    meta: BlockMeta,
    sections: [SectionAt; SECTIONS],
    at: u64,
    started: bool,
    /// Labels of the last series; empty before the first.
    last: Vec<u8>,
    chunk: OpenChunk,
    chunks: Vec<SeriesChunk>,
    times: Vec<TimesChunk>,
    grouping: Grouping,
    labels_section: Vec<u8>,
    directory_section: Vec<u8>,
    postings: HashMap<Box<[u8]>, SeriesSet>,
}

/// The chunk of series that is being filled.
#[derive(Default)]
struct OpenChunk {
    labels: Vec<u8>,
    /// Front coding starts anew in each chunk.
    last: Vec<u8>,
    pages_len: u64,
}

/// Ordinals of series, ascending. Most label values have few.
enum SeriesSet {
    Few(Vec<u32>),
    Many(RoaringBitmap),
}

impl SeriesSet {
    fn push(&mut self, ordinal: u32) {
        match self {
            Self::Few(few) if few.len() < INLINE_POSTINGS => few.push(ordinal),
            Self::Few(few) => {
                let mut many: RoaringBitmap = few.iter().copied().collect();
                many.insert(ordinal);
                *self = Self::Many(many);
            }
            Self::Many(many) => {
                many.insert(ordinal);
            }
        }
    }
}

impl<S: BlockSink> BlockWriter<S> {
    /// `meta.stats` is filled in by the writer.
    pub fn new(meta: BlockMeta, sink: S) -> Self {
        Self {
            sink,
            meta: BlockMeta {
                format_version: FORMAT_VERSION,
                stats: BlockStats::default(),
                ..meta
            },
            sections: [SectionAt::default(); SECTIONS],
            at: HEADER_LEN as u64,
            started: false,
            last: Vec::new(),
            chunk: OpenChunk::default(),
            chunks: Vec::new(),
            times: Vec::new(),
            grouping: Grouping::new(Effort::Cheap),
            labels_section: Vec::new(),
            directory_section: Vec::new(),
            postings: HashMap::new(),
        }
    }

    /// Makes pages as short as they will be, at some 20 million samples a second: for blocks that are kept.
    #[must_use]
    pub fn thorough(mut self) -> Self {
        self.grouping.set_effort(Effort::Thorough);
        self
    }

    async fn start(&mut self) -> Result<(), BlockError> {
        if !self.started {
            self.started = true;
            self.sections[Section::Pages as usize].offset = HEADER_LEN as u64;
            self.sink.write(&header(FORMAT_VERSION)).await?;
        }
        Ok(())
    }

    /// Adds a series with its pages, which ascend by time and do not overlap. A series without pages is left out.
    ///
    /// # Errors
    /// When it does not come after the last one in the order of labels, when a page is outside of the block's window
    /// or overlaps the one before it, or when the sink fails. The writer is of no use after an error.
    pub async fn add_series(
        &mut self,
        labels: LabelsRef<'_>,
        pages: impl IntoIterator<Item = Page, IntoIter: Send>,
    ) -> Result<(), BlockError> {
        self.start().await?;
        if self.meta.stats.series > 0 && labels <= LabelsRef::from_canonical(&self.last) {
            return Err(BlockError::Unsorted {
                last: LabelsRef::from_canonical(&self.last).to_owned(),
                next: labels.to_owned(),
            });
        }
        let bad = |what| BlockError::BadSeries {
            labels: labels.to_owned(),
            what,
        };
        if labels.as_bytes().len() > MAX_LABELS_LEN {
            return Err(bad("label set is longer than 1 MiB"));
        }
        let ordinal = u32::try_from(self.meta.stats.series).map_err(|_| bad("block has 2^32 series"))?;
        let (mut count, mut last_ts) = (0, None);
        for page in pages {
            if last_ts.is_some_and(|last| page.min_ts <= last) {
                return Err(bad("pages overlap or are not in the order of time"));
            }
            let window = self.meta.window;
            if !window.contains(TimestampMs(page.min_ts)) || !window.contains(TimestampMs(page.max_ts)) {
                return Err(bad("page is outside of the block's window"));
            }
            last_ts = Some(page.max_ts);
            count += 1;
            self.count(&page);
            let added = self.grouping.add(page);
            if added.map_err(|_| bad("page is longer than 1 GiB, or damaged"))? {
                self.write_group().await?;
            }
        }
        if count == 0 {
            return Ok(());
        }
        self.grouping.directory().end_series(count);
        self.index_series(labels, ordinal);
        let directory = self.grouping.directory();
        let is_full = directory.series() >= SERIES_PER_CHUNK || directory.pages() >= PAGES_PER_CHUNK;
        if is_full
            || self.chunk.labels.len() >= LABEL_BYTES_PER_CHUNK
            || self.grouping.columns().waiting_bytes() >= TIMES_BYTES_PER_CHUNK
        {
            return self.close_chunk().await;
        }
        Ok(())
    }

    fn count(&mut self, page: &Page) {
        let stats = &mut self.meta.stats;
        let first = stats.samples == 0;
        stats.min_sample.0 = if first {
            page.min_ts
        } else {
            stats.min_sample.0.min(page.min_ts)
        };
        stats.max_sample.0 = if first {
            page.max_ts
        } else {
            stats.max_sample.0.max(page.max_ts)
        };
        stats.samples += u64::from(page.count);
        stats.pages += 1;
    }

    /// Writes the open group of pages, if there is one.
    async fn write_group(&mut self) -> Result<(), BlockError> {
        let Some(group) = self.grouping.close_group(self.at) else {
            return Ok(());
        };
        self.chunk.pages_len += group.len() as u64;
        self.write_pages(&group).await
    }

    /// Writes bytes of the section of pages.
    async fn write_pages(&mut self, bytes: &[u8]) -> Result<(), BlockError> {
        let section = &mut self.sections[Section::Pages as usize];
        section.crc = crc32c::crc32c_append(section.crc, bytes);
        section.len += bytes.len() as u64;
        self.at += bytes.len() as u64;
        self.sink.write(bytes).await
    }

    fn index_series(&mut self, labels: LabelsRef<'_>, ordinal: u32) {
        put_front_coded(&mut self.chunk.labels, &self.chunk.last, labels.as_bytes());
        for last in [&mut self.chunk.last, &mut self.last] {
            last.clear();
            last.extend_from_slice(labels.as_bytes());
        }
        for (name, value) in labels.iter() {
            let key = value_key(name, value);
            match self.postings.get_mut(key.as_slice()) {
                Some(set) => set.push(ordinal),
                None => drop(self.postings.insert(key.into(), SeriesSet::Few(vec![ordinal]))),
            }
        }
        self.meta.stats.series += 1;
    }

    async fn close_chunk(&mut self) -> Result<(), BlockError> {
        self.write_group().await?;
        let chunk = std::mem::take(&mut self.chunk);
        let directory = self.grouping.take_directory();
        if directory.series() == 0 {
            return Ok(());
        }
        let directory_bytes = directory.write(self.at - chunk.pages_len);
        let times = self.grouping.columns().take_chunks();
        let first_series = self.chunks.last().map_or(0, |last| last.first_series + last.series);
        self.chunks.push(SeriesChunk {
            first_series,
            series: directory.series() as u32,
            labels: compress_to(&mut self.labels_section, &chunk.labels)?,
            directory: compress_to(&mut self.directory_section, &directory_bytes)?,
            pages_offset: 0,
            pages_len: chunk.pages_len,
            times_chunks: times.len() as u32,
        });
        for (columns, raw) in times {
            let mut compressed = Vec::new();
            let at = compress_to(&mut compressed, &raw)?;
            self.times.push(TimesChunk {
                first_column: 0,
                columns,
                at,
            });
            self.write_pages(&compressed).await?;
        }
        Ok(())
    }

    async fn write_section(&mut self, section: Section, bytes: &[u8]) -> Result<(), BlockError> {
        self.sections[section as usize] = SectionAt {
            offset: self.at,
            len: bytes.len() as u64,
            crc: crc32c::crc32c(bytes),
        };
        self.at += bytes.len() as u64;
        self.sink.write(bytes).await
    }

    async fn write_index(&mut self) -> Result<(), BlockError> {
        self.start().await?;
        self.close_chunk().await?;
        let labels = std::mem::take(&mut self.labels_section);
        self.write_section(Section::Series, &labels).await?;
        let directory = std::mem::take(&mut self.directory_section);
        self.write_section(Section::Directory, &directory).await?;
        let values = Values::of(std::mem::take(&mut self.postings))?;
        self.write_section(Section::Values, &values.entries).await?;
        self.write_section(Section::Postings, &values.postings).await?;
        self.write_section(Section::Exemplars, &[]).await?;
        self.write_section(Section::Metadata, &[]).await?;
        let series_table = write_series_table(&self.chunks, &self.times);
        self.write_section(Section::SeriesTable, &series_table).await?;
        self.write_section(Section::ValueTable, &values.table.write()).await?;
        self.write_section(
            Section::Filter,
            &bloom::build(values.metrics.iter().map(String::as_str)),
        )
        .await?;
        let meta = serde_json::to_vec(&self.meta).map_err(|e| BlockError::Meta(e.to_string()))?;
        self.write_section(Section::Meta, &meta).await?;
        let footer = Footer {
            sections: self.sections,
            version: FORMAT_VERSION,
            file_len: self.at + FOOTER_LEN as u64,
        };
        self.at = footer.file_len;
        self.sink.write(&footer.write()).await
    }

    /// Writes the index and finishes the sink.
    ///
    /// # Errors
    /// When the sink fails.
    pub async fn finish(mut self) -> Result<FinishedBlock<S::Output>, BlockError> {
        if let Err(error) = self.write_index().await {
            self.sink.abort().await;
            return Err(error);
        }
        Ok(FinishedBlock {
            meta: self.meta,
            bytes: self.at,
            output: self.sink.finish().await?,
        })
    }

    /// Gives the block up.
    pub async fn abort(self) {
        self.sink.abort().await;
    }

    /// Bytes of pages written so far.
    #[must_use]
    pub fn pages_len(&self) -> u64 {
        self.sections[Section::Pages as usize].len
    }
}

fn compress_to(section: &mut Vec<u8>, raw: &[u8]) -> Result<ChunkAt, BlockError> {
    if raw.len() as u64 > MAX_CHUNK_LEN {
        return Err(BlockError::Index("one series has more than a million pages".to_owned()));
    }
    // A fuzzer is to change what is in a chunk, not to learn zstd.
    let compressed = if cfg!(fuzzing) {
        raw.to_vec()
    } else {
        zstd::bulk::compress(raw, ZSTD_LEVEL).map_err(|e| BlockError::Index(e.to_string()))?
    };
    section.extend_from_slice(&compressed);
    Ok(ChunkAt {
        offset: 0,
        len: compressed.len() as u64,
        crc: crc32c::crc32c(&compressed),
        raw_len: raw.len() as u64,
    })
}

/// The values and postings sections.
#[derive(Default)]
struct Values {
    entries: Vec<u8>,
    postings: Vec<u8>,
    table: ValueTable,
    metrics: Vec<String>,
    raw: Vec<u8>,
    raw_entries: usize,
    last: Vec<u8>,
    first_key: Vec<u8>,
    postings_start: usize,
}

impl Values {
    fn of(sets: HashMap<Box<[u8]>, SeriesSet>) -> Result<Self, BlockError> {
        let sets: BTreeMap<Box<[u8]>, SeriesSet> = sets.into_iter().collect();
        let mut values = Self::default();
        let failed = |e: std::io::Error| BlockError::Index(e.to_string());
        let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(failed)?;
        let mut names = BTreeMap::<String, u64>::new();
        for (key, mut set) in sets {
            if let Some((name, value)) = split_key(&key) {
                if name == gnomon_model::METRIC_NAME {
                    values.metrics.push(value.to_owned());
                }
                match names.get_mut(name) {
                    Some(count) => *count += 1,
                    None => drop(names.insert(name.to_owned(), 1)),
                }
            }
            values.add(&key, &mut set, &mut compressor).map_err(failed)?;
            if values.raw_entries >= VALUES_PER_CHUNK || values.raw.len() >= VALUE_BYTES_PER_CHUNK {
                values.close()?;
            }
        }
        values.close()?;
        values.table.names = names.into_iter().collect();
        Ok(values)
    }

    fn add(
        &mut self,
        key: &[u8],
        set: &mut SeriesSet,
        compressor: &mut zstd::bulk::Compressor<'_>,
    ) -> std::io::Result<()> {
        if self.raw_entries == 0 {
            self.first_key = key.to_vec();
            self.last.clear();
            self.postings_start = self.postings.len();
        }
        put_front_coded(&mut self.raw, &self.last, key);
        self.last.clear();
        self.last.extend_from_slice(key);
        match set {
            SeriesSet::Few(few) => {
                put_uvarint(&mut self.raw, few.len() as u64);
                let mut last = 0;
                for ordinal in &*few {
                    put_uvarint(&mut self.raw, u64::from(*ordinal - last));
                    last = *ordinal;
                }
            }
            SeriesSet::Many(many) => {
                let start = self.postings.len();
                sets::write(many, compressor, &mut self.postings)?;
                put_uvarint(&mut self.raw, many.len());
                put_uvarint(&mut self.raw, (self.postings.len() - start) as u64);
                put_uvarint(&mut self.raw, u64::from(crc32c::crc32c(&self.postings[start..])));
            }
        }
        self.raw_entries += 1;
        Ok(())
    }

    fn close(&mut self) -> Result<(), BlockError> {
        if self.raw_entries == 0 {
            return Ok(());
        }
        self.table.chunks.push(ValueChunk {
            first_key: Bytes::from(std::mem::take(&mut self.first_key)),
            entries: compress_to(&mut self.entries, &self.raw)?,
            postings_offset: 0,
            postings_len: (self.postings.len() - self.postings_start) as u64,
        });
        self.raw.clear();
        self.raw_entries = 0;
        Ok(())
    }
}
