//! Writing a block in one pass: pages go out as they come, the index follows.

use super::dictionary::{ChunkLimits, Dictionary, Index};
use super::exemplars::{Exemplar, ExemplarsWriter};
use super::grouping::Grouping;
use super::layout::{
    ChunkAt, FOOTER_LEN, Footer, HEADER_LEN, LABEL_BYTES_PER_CHUNK, MAX_CHUNK_LEN, MAX_LABELS_LEN, PAGES_PER_CHUNK,
    SECTIONS, Section, SectionAt, SeriesChunk, TIMES_BYTES_PER_CHUNK, TimesChunk, header, write_series_table,
};
use super::metadata::{MetadataWriter, MetricMetadata};
use super::sink::BlockSink;
use super::{BlockError, BlockMeta, BlockStats, WITH_EXEMPLARS, WITH_STARTS, bloom, version_at};
use crate::page::{Effort, Page, PageError};
use gnomon_model::{LabelsRef, TimestampMs};

const ZSTD_LEVEL: i32 = 9;

/// A block that was written.
#[derive(Debug)]
pub struct FinishedBlock<T> {
    /// With its statistics.
    pub meta: BlockMeta,
    /// Length of the object.
    pub bytes: u64,
    /// Exemplars that found no room in it.
    pub exemplars_left_out: u64,
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
    /// Of the labels of each chunk, in canonical bytes.
    label_bytes: Vec<u64>,
    /// Compressed directories of closed chunks.
    directories: Vec<u8>,
    dictionary: Dictionary,
    exemplars: ExemplarsWriter,
    /// Labels of the last series with exemplars; empty before the first.
    last_exemplars: Vec<u8>,
    metadata: MetadataWriter,
    exemplars_left_out: u64,
    limits: ChunkLimits,
}

/// The chunk of series that is being filled.
#[derive(Default)]
struct OpenChunk {
    label_bytes: usize,
    pages_len: u64,
}

impl<S: BlockSink> BlockWriter<S> {
    /// `meta.stats` is filled in by the writer.
    pub fn new(meta: BlockMeta, sink: S) -> Self {
        let format_version = version_at(meta.feature_level);
        Self {
            sink,
            meta: BlockMeta {
                format_version,
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
            grouping: Grouping::new(Effort::Cheap, format_version >= WITH_STARTS),
            label_bytes: Vec::new(),
            directories: Vec::new(),
            dictionary: Dictionary::default(),
            exemplars: ExemplarsWriter::default(),
            last_exemplars: Vec::new(),
            metadata: MetadataWriter::default(),
            exemplars_left_out: 0,
            limits: ChunkLimits::default(),
        }
    }

    /// Makes pages as short as they will be, at some 20 million samples a second: for blocks that are kept.
    #[must_use]
    pub fn thorough(mut self) -> Self {
        self.grouping.set_effort(Effort::Thorough);
        self
    }

    /// With smaller chunks, so that few series have many.
    #[cfg(test)]
    pub(super) fn with_limits(mut self, limits: ChunkLimits) -> Self {
        self.limits = limits;
        self
    }

    async fn start(&mut self) -> Result<(), BlockError> {
        if !self.started {
            self.started = true;
            self.sections[Section::Pages as usize].offset = HEADER_LEN as u64;
            self.sink.write(&header(self.meta.format_version)).await?;
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
        if u32::try_from(self.meta.stats.series).is_err() {
            return Err(bad("block has 2^32 series"));
        }
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
            let starts = self.starts_of(&page).map_err(|_| bad("page is damaged"))?;
            self.count(&page, starts);
            let added = self.grouping.add(page);
            if added.map_err(|_| bad("page is longer than 1 GiB, or damaged"))? {
                self.write_group().await?;
            }
        }
        if count == 0 {
            return Ok(());
        }
        self.grouping.directory().end_series(count);
        self.index_series(labels);
        let directory = self.grouping.directory();
        let is_full = directory.series() >= self.limits.series || directory.pages() >= PAGES_PER_CHUNK;
        if is_full
            || self.chunk.label_bytes >= LABEL_BYTES_PER_CHUNK
            || self.grouping.columns().waiting_bytes() >= TIMES_BYTES_PER_CHUNK
        {
            return self.close_chunk().await;
        }
        Ok(())
    }

    /// Whether the block keeps the start timestamps of samples: not where older nodes read it.
    #[must_use]
    pub const fn keeps_starts(&self) -> bool {
        self.meta.format_version >= WITH_STARTS
    }

    /// Whether the block can have exemplars and metadata: not where older nodes read it.
    #[must_use]
    pub const fn keeps_extras(&self) -> bool {
        self.meta.format_version >= WITH_EXEMPLARS
    }

    /// Adds exemplars of a series, in any order, each kept once; without effect where the block keeps none. Series come in
    /// the order of their labels here too, each once, before, between or after those of [`Self::add_series`].
    ///
    /// # Errors
    /// When the series does not come after the last one, or an exemplar is outside of the block's window.
    pub fn add_exemplars(&mut self, labels: LabelsRef<'_>, mut exemplars: Vec<Exemplar>) -> Result<(), BlockError> {
        if !self.keeps_extras() || exemplars.is_empty() {
            return Ok(());
        }
        if self.exemplars.count > 0 && labels <= LabelsRef::from_canonical(&self.last_exemplars) {
            return Err(BlockError::Unsorted {
                last: LabelsRef::from_canonical(&self.last_exemplars).to_owned(),
                next: labels.to_owned(),
            });
        }
        let bad = |what| BlockError::BadSeries {
            labels: labels.to_owned(),
            what,
        };
        let is_too_long = |labels: LabelsRef<'_>| labels.as_bytes().len() > MAX_LABELS_LEN;
        if is_too_long(labels) || exemplars.iter().any(|e| is_too_long(e.labels.as_ref())) {
            return Err(bad("labels of the series or of an exemplar are longer than 1 MiB"));
        }
        let window = self.meta.window;
        if !exemplars.iter().all(|e| window.contains(TimestampMs(e.timestamp_ms))) {
            return Err(bad("exemplar is outside of the block's window"));
        }
        Exemplar::settle(&mut exemplars);
        self.last_exemplars.clear();
        self.last_exemplars.extend_from_slice(labels.as_bytes());
        self.exemplars.add(labels, exemplars)
    }

    /// Adds what is known of a metric, in any order; of what differs the newest is kept. Without effect where the block keeps
    /// none, or has no series of the metric in the end.
    pub fn add_metadata(&mut self, metric: &str, metadata: MetricMetadata) {
        if self.keeps_extras() {
            self.metadata.add(metric, metadata);
        }
    }

    /// How many samples of a page have a start that is kept.
    fn starts_of(&self, page: &Page) -> Result<u64, PageError> {
        if !self.keeps_starts() || !page.has_starts() {
            return Ok(0);
        }
        Ok(page.starts()?.known(page.count))
    }

    fn count(&mut self, page: &Page, starts: u64) {
        let stats = &mut self.meta.stats;
        stats.starts += starts;
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

    fn index_series(&mut self, labels: LabelsRef<'_>) {
        self.last.clear();
        self.last.extend_from_slice(labels.as_bytes());
        self.chunk.label_bytes += labels.as_bytes().len();
        self.dictionary.add(labels);
        self.meta.stats.series += 1;
    }

    async fn close_chunk(&mut self) -> Result<(), BlockError> {
        self.write_group().await?;
        let chunk = std::mem::take(&mut self.chunk);
        let directory = self.grouping.take_directory();
        if directory.series() == 0 {
            return Ok(());
        }
        let with_starts = self.meta.format_version >= WITH_STARTS;
        let directory_bytes = directory.write(self.at - chunk.pages_len, with_starts);
        let times = self.grouping.columns().take_chunks();
        let first_series = self.chunks.last().map_or(0, |last| last.first_series + last.series);
        self.label_bytes.push(chunk.label_bytes as u64);
        self.chunks.push(SeriesChunk {
            first_series,
            series: directory.series() as u32,
            labels: ChunkAt::default(),
            directory: compress_to(&mut self.directories, &directory_bytes)?,
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

    /// Of each chunk of series its labels, then its directory.
    fn series_section(&mut self, labels: &[Vec<u8>]) -> Result<Vec<u8>, BlockError> {
        let directories = std::mem::take(&mut self.directories);
        let mut rest = directories.as_slice();
        let mut section = Vec::new();
        for (chunk, labels) in self.chunks.iter_mut().zip(labels) {
            chunk.labels = compress_to(&mut section, labels)?;
            let (directory, after) = rest.split_at(chunk.directory.len as usize);
            section.extend_from_slice(directory);
            rest = after;
        }
        Ok(section)
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
        let series = |chunk: &SeriesChunk| chunk.first_series as usize..(chunk.first_series + chunk.series) as usize;
        let chunks = self.chunks.iter().map(series).zip(self.label_bytes.iter().copied());
        let chunks: Vec<_> = chunks.collect();
        let mut index = std::mem::take(&mut self.dictionary).finish(&chunks, self.limits);
        let labels = self.series_section(&index.labels)?;
        self.write_section(Section::Series, &labels).await?;
        self.write_section(Section::Directory, &[]).await?;
        let values = values_section(&mut index)?;
        self.write_section(Section::Values, &values).await?;
        self.write_section(Section::Postings, &[]).await?;
        let exemplars = std::mem::take(&mut self.exemplars);
        (self.meta.stats.exemplars, self.exemplars_left_out) = (exemplars.count, exemplars.left_out);
        self.write_section(Section::Exemplars, &exemplars.finish()?).await?;
        let mut metadata = std::mem::take(&mut self.metadata);
        self.meta.stats.metadata = metadata.keep(&index.metrics);
        self.write_section(Section::Metadata, &metadata.finish()?).await?;
        let series_table = write_series_table(&self.chunks, &self.times);
        self.write_section(Section::SeriesTable, &series_table).await?;
        self.write_section(Section::ValueTable, &index.table.write()).await?;
        self.write_section(Section::Filter, &bloom::build(index.metrics.iter().map(String::as_str)))
            .await?;
        let meta = serde_json::to_vec(&self.meta).map_err(|e| BlockError::Meta(e.to_string()))?;
        self.write_section(Section::Meta, &meta).await?;
        let footer = Footer {
            sections: self.sections,
            version: self.meta.format_version,
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
            exemplars_left_out: self.exemplars_left_out,
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

/// The dictionary; the table says where its chunks are.
fn values_section(index: &mut Index) -> Result<Vec<u8>, BlockError> {
    let mut section = Vec::new();
    for (nth, symbols) in index.symbols.iter().enumerate() {
        let (texts, numbers) = symbols.write(&index.table, symbols.len() as u32);
        let at = &mut index.table.chunks[nth];
        at.texts = compress_to(&mut section, &texts)?;
        at.numbers = compress_to(&mut section, &numbers)?;
    }
    Ok(section)
}

pub(super) fn compress_to(section: &mut Vec<u8>, raw: &[u8]) -> Result<ChunkAt, BlockError> {
    if raw.len() as u64 > MAX_CHUNK_LEN {
        return Err(BlockError::Index("a chunk of it is longer than 16 MiB".to_owned()));
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
