//! Reading the series that match, in the order of their labels.

use super::cache::{Part, SeriesPart};
use super::dictionary_view::View;
use super::directory::{self, PageAt};
use super::layout::{Input, Section, SeriesChunk, WITH_GROUPS};
use super::matching::Candidates;
use super::pages::{Load, Pages};
use super::reader::BlockReader;
use super::{BlockError, reader};
use crate::SeriesPages;
use crate::deletes::{self, Deletes, Intervals};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use gnomon_model::{Labels, LabelsRef, Matcher};
use roaring::RoaringBitmap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Series whose labels are read at a time, in chunks; at least one chunk.
const SERIES_AT_A_TIME: usize = 4096;
/// Of those that are still looked for among others, of which labels are not made.
const LOOKED_AT_A_TIME: usize = 64 << 10;
/// Pages (and gaps between them) that are read at a time; more only for one series with more.
const PAGE_BYTES_AT_A_TIME: u64 = 4 << 20;

/// Series of one block that match, ascending by labels. Holds a few MiB at most.
pub struct Selection {
    reader: Arc<BlockReader>,
    candidates: Candidates,
    /// What was read of the dictionary.
    view: View,
    start_ms: i64,
    end_ms: i64,
    labels_only: bool,
    /// What is not to be given.
    deletes: Deletes,
    /// Pages of the series that are not read.
    skipped: Arc<AtomicU64>,
    /// Series whose pages are still to be read, with what is deleted of them.
    planned: VecDeque<(Labels, Vec<PageAt>, Intervals)>,
    ready: VecDeque<SeriesPages>,
}

impl BlockReader {
    /// The series that satisfy all `matchers` and have a page that overlaps `start_ms..=end_ms`, with those pages.
    /// Pages are whole: samples outside of the range come with them.
    ///
    /// # Errors
    /// When the block cannot be read or is damaged.
    pub async fn select(
        self: &Arc<Self>,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Selection, BlockError> {
        self.selection(matchers, start_ms, end_ms, false).await
    }

    /// As [`Self::select`], but the series come without pages, and no pages are read.
    ///
    /// # Errors
    /// When the block cannot be read or is damaged.
    pub async fn select_labels(
        self: &Arc<Self>,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
    ) -> Result<Selection, BlockError> {
        self.selection(matchers, start_ms, end_ms, true).await
    }

    async fn selection(
        self: &Arc<Self>,
        matchers: &[Matcher],
        start_ms: i64,
        end_ms: i64,
        labels_only: bool,
    ) -> Result<Selection, BlockError> {
        let mut view = View::default();
        let candidates = if self.overlaps(start_ms, end_ms) {
            self.candidates(matchers, &mut view).await?
        } else {
            Candidates::default()
        };
        Ok(Selection {
            reader: Arc::clone(self),
            candidates,
            view,
            start_ms,
            end_ms,
            labels_only,
            deletes: Deletes::default(),
            skipped: Arc::default(),
            planned: VecDeque::new(),
            ready: VecDeque::new(),
        })
    }

    /// The compressed labels and directories of chunks.
    pub(super) async fn fetch_series(&self, chunks: &[SeriesChunk]) -> Result<Vec<(Bytes, Bytes)>, BlockError> {
        if self.symbol_table().is_none() {
            let labels: Vec<_> = chunks.iter().map(|c| c.labels.range()).collect();
            let directories: Vec<_> = chunks.iter().map(|c| c.directory.range()).collect();
            let (labels, directories) = futures::try_join!(self.fetch(&labels), self.fetch(&directories))?;
            return Ok(labels.into_iter().zip(directories).collect());
        }
        let both: Vec<_> = chunks
            .iter()
            .map(|c| c.labels.offset..c.directory.range().end)
            .collect();
        let read = self.fetch(&both).await?;
        let apart = |(mut labels, chunk): (Bytes, &SeriesChunk)| {
            let directory = labels.split_off((chunk.labels.len as usize).min(labels.len()));
            (labels, directory)
        };
        Ok(read.into_iter().zip(chunks).map(apart).collect())
    }

    /// Labels of the chunk's series, before version 3.
    pub(super) fn chunk_labels(&self, chunk: &SeriesChunk, compressed: &[u8]) -> Result<Vec<Labels>, BlockError> {
        let at = chunk.labels.offset;
        let raw = chunk
            .labels
            .open(compressed)
            .map_err(|what| self.damaged_at(at, what))?;
        let damaged = || self.damaged_at(at, "chunk of labels");
        let mut input = Input(&raw);
        let mut last = Vec::new();
        let mut out = Vec::with_capacity((chunk.series as usize).min(raw.len()));
        for _ in 0..chunk.series {
            input.front_coded(&mut last).ok_or_else(damaged)?;
            out.push(LabelsRef::checked(&last).map_err(|_| damaged())?.to_owned());
        }
        if input.0.is_empty() { Ok(out) } else { Err(damaged()) }
    }

    /// The series of chunks (ascending) with where their pages are.
    pub(super) async fn series_parts(&self, chunks: &[SeriesChunk]) -> Result<Vec<Arc<SeriesPart>>, BlockError> {
        let mut parts: Vec<Option<Arc<SeriesPart>>> = Vec::with_capacity(chunks.len());
        let mut missing = Vec::new();
        for chunk in chunks {
            match self.kept(chunk.labels.offset) {
                Some(Part::Series(part)) => parts.push(Some(part)),
                _ => {
                    parts.push(None);
                    missing.push(*chunk);
                }
            }
        }
        let read = self.fetch_series(&missing).await?;
        let mut read = missing.iter().zip(&read);
        let mut out = Vec::with_capacity(parts.len());
        for part in parts {
            if let Some(part) = part {
                out.push(part);
                continue;
            }
            let Some((chunk, (labels, directory))) = read.next() else {
                return Err(self.damaged("chunk of series"));
            };
            let directory = self.chunk_directory(chunk, directory)?;
            let part = match self.symbol_table() {
                None => SeriesPart::of_labels(self.chunk_labels(chunk, labels)?, directory),
                Some(table) => SeriesPart::of_rows(self.chunk_rows(table, chunk, labels)?, directory),
            };
            let part = Arc::new(part);
            self.keep(chunk.labels.offset, &Part::Series(Arc::clone(&part)));
            out.push(part);
        }
        Ok(out)
    }

    /// The pages of each series of a chunk.
    pub(super) fn chunk_directory(
        &self,
        chunk: &SeriesChunk,
        compressed: &[u8],
    ) -> Result<Vec<Vec<PageAt>>, BlockError> {
        let at = chunk.directory.offset;
        let raw = chunk
            .directory
            .open(compressed)
            .map_err(|what| self.damaged_at(at, what))?;
        let pages = if self.footer.version < WITH_GROUPS {
            directory::read_ungrouped(&raw, chunk)
        } else {
            let with_starts = self.footer.version >= super::WITH_STARTS;
            directory::read(&raw, chunk, self.footer.section(Section::Pages).offset, with_starts)
        };
        pages.ok_or_else(|| self.damaged_at(at, "page directory"))
    }

    /// How many chunks of series to read at a time; `is_search` where most of them may not be wanted.
    pub(super) fn chunks_at_a_time(&self, is_search: bool) -> usize {
        let series = self.chunks.first().map_or(1, |chunk| chunk.series.max(1) as usize);
        let most = if is_search { LOOKED_AT_A_TIME } else { SERIES_AT_A_TIME };
        (most / series).clamp(1, 64)
    }

    /// The chunks that hold the smallest of `series`, at most `limit`.
    pub(super) fn next_chunks(&self, series: &RoaringBitmap, limit: usize) -> Vec<SeriesChunk> {
        let mut chunks: Vec<SeriesChunk> = Vec::new();
        let mut next = series.min();
        while let Some(ordinal) = next.filter(|_| chunks.len() < limit) {
            let at = self.chunks.partition_point(|c| c.first_series <= ordinal);
            let Some(chunk) = at.checked_sub(1).and_then(|at| self.chunks.get(at)) else {
                break;
            };
            chunks.push(*chunk);
            next = series.range(chunk.first_series + chunk.series..).next();
        }
        chunks
    }
}

impl Selection {
    /// Counts pages of its series that lie outside of the range into `skipped`.
    #[must_use]
    pub fn counting(mut self, skipped: Arc<AtomicU64>) -> Self {
        self.skipped = skipped;
        self
    }

    /// Leaves out what is deleted: samples, and series of which no page is left.
    #[must_use]
    pub fn without(mut self, deletes: Deletes) -> Self {
        self.deletes = deletes;
        self
    }

    /// The next series; none at the end.
    ///
    /// # Errors
    /// When the block cannot be read or is damaged.
    pub async fn next(&mut self) -> Result<Option<SeriesPages>, BlockError> {
        loop {
            if let Some(series) = self.ready.pop_front() {
                return Ok(Some(series));
            }
            if !self.planned.is_empty() {
                self.read_pages().await?;
            } else if self.candidates.series.is_empty() {
                return Ok(None);
            } else {
                self.plan().await?;
            }
        }
    }

    /// The series that are next, several at a time; none at the end.
    ///
    /// # Errors
    /// When the block cannot be read or is damaged.
    pub async fn next_batch(&mut self) -> Result<Option<Vec<SeriesPages>>, BlockError> {
        let first = self.next().await?;
        Ok(first.map(|first| std::iter::once(first).chain(self.ready.drain(..)).collect()))
    }

    /// The rest as a stream.
    #[must_use]
    pub fn into_stream(self) -> BoxStream<'static, Result<SeriesPages, BlockError>> {
        futures::stream::try_unfold(self, |mut selection| async move {
            Ok(selection.next().await?.map(|series| (series, selection)))
        })
        .into_stream()
        .boxed()
    }

    /// The rest as a stream of several series at a time.
    #[must_use]
    pub fn into_batches(self) -> BoxStream<'static, Result<Vec<SeriesPages>, BlockError>> {
        futures::stream::try_unfold(self, |mut selection| async move {
            Ok(selection.next_batch().await?.map(|series| (series, selection)))
        })
        .into_stream()
        .boxed()
    }

    /// Finds the series of the next chunks.
    async fn plan(&mut self) -> Result<(), BlockError> {
        let reader = &self.reader;
        let Candidates { series, check, wanted } = &mut self.candidates;
        let chunks = reader.next_chunks(series, reader.chunks_at_a_time(!wanted.is_empty()));
        let Some(last) = chunks.last() else {
            return Err(reader.damaged("postings name a series that is not there"));
        };
        let end = last.first_series + last.series;
        let parts = reader.series_parts(&chunks).await?;
        for (chunk, part) in chunks.iter().zip(parts) {
            let overlaps = |p: &&PageAt| p.min_ts <= self.end_ms && self.start_ms <= p.max_ts;
            let places: Vec<u32> = match reader.symbol_table() {
                Some(table) => {
                    let mut places = part.satisfying(wanted, table);
                    let mut skipped = 0;
                    places.retain(|at| {
                        let pages = part.pages_of(*at as usize);
                        let is_read = pages.iter().any(|p| overlaps(&p));
                        skipped += if is_read || self.labels_only { 0 } else { pages.len() };
                        is_read
                    });
                    self.skipped.fetch_add(skipped as u64, Ordering::Relaxed);
                    places
                }
                None => {
                    let ordinals = series.range(chunk.first_series..chunk.first_series + chunk.series);
                    ordinals.map(|ordinal| ordinal - chunk.first_series).collect()
                }
            };
            reader.make_labels(&part, &places, &mut self.view).await?;
            for at in places {
                let at = at as usize;
                let Some(labels) = part.labels(at) else { continue };
                if !check.iter().all(|m| m.matches_labels(labels.as_ref())) {
                    continue;
                }
                let deleted = self.deletes.of(labels.as_ref());
                let pages = part.pages_of(at).iter();
                let mut pages = pages.filter(overlaps).filter(|p| !deleted.covers(p.min_ts, p.max_ts));
                if self.labels_only {
                    if pages.next().is_some() {
                        self.ready.push_back(SeriesPages {
                            labels: labels.clone(),
                            pages: Vec::new(),
                        });
                    }
                    continue;
                }
                let pages: Vec<PageAt> = pages.cloned().collect();
                let skipped = part.pages_of(at).len() - pages.len();
                self.skipped.fetch_add(skipped as u64, Ordering::Relaxed);
                if !pages.is_empty() {
                    self.planned.push_back((labels.clone(), pages, deleted));
                }
            }
        }
        series.remove_range(..end);
        Ok(())
    }

    /// Reads the pages of the next planned series.
    async fn read_pages(&mut self) -> Result<(), BlockError> {
        let mut load = Load::default();
        let (mut series, mut count) = (0, 0);
        for (_, pages, _) in &self.planned {
            let bytes = pages.iter().map(|at| load.add(at, reader::COALESCE_GAP_BYTES)).last();
            series += 1;
            count += pages.len();
            if bytes.is_some_and(|bytes| bytes >= PAGE_BYTES_AT_A_TIME) {
                break;
            }
        }
        let mut its = Vec::with_capacity(count);
        for (labels, directory, _) in self.planned.iter().take(series) {
            its.extend(directory.iter().map(|at| (labels, at)));
        }
        let fetched = self.reader.fetch_parts(&its).await?;
        let mut pages = Pages::new(&self.reader, fetched, &its);
        for (labels, at) in its {
            pages.add(at, labels)?;
        }
        let mut pages = pages.finish();
        for (labels, directory, deleted) in self.planned.drain(..series) {
            let pages = pages.by_ref().take(directory.len()).collect();
            let pages = deletes::remove(pages, &deleted).map_err(|source| self.reader.bad_page(&labels, source))?;
            if !pages.is_empty() {
                self.ready.push_back(SeriesPages { labels, pages });
            }
        }
        Ok(())
    }
}
