//! Reading a whole block and checking everything that can be checked.

use super::dictionary_view::View;
use super::directory::PageAt;
use super::layout::{FOOTER_LEN, HEADER_LEN, Section, header, split_key, value_key};
use super::pages::{Load, Pages};
use super::reader::Values;
use super::symbols::SymbolTable;
use super::{BlockError, BlockReader, BlockStats};
use crate::page::PageSamples;
use gnomon_model::{Labels, TimestampMs};
use roaring::RoaringBitmap;
use std::collections::HashMap;
use std::ops::Range;

/// Sections are read in portions of this size.
const PORTION_BYTES: u64 = 4 << 20;

/// What [`BlockReader::verify`] found, counted anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    pub stats: BlockStats,
    pub bytes: u64,
}

impl BlockReader {
    /// Reads every byte: checksums of all sections, order of series, every page decoded and compared with the
    /// directory, postings or the dictionary compared with the labels, counts with the meta. Memory: the postings of the whole block.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub async fn verify(&self) -> Result<VerifyReport, BlockError> {
        self.verify_with(&mut |_| {}).await
    }

    /// As [`Self::verify`]; `progress` is told how many bytes were read so far, which are twice as many as there are in
    /// the end, about.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub async fn verify_with(&self, progress: &mut (dyn FnMut(u64) + Send)) -> Result<VerifyReport, BlockError> {
        let mut read = 0;
        self.verify_header().await?;
        for section in Section::ALL {
            self.verify_section(section, &mut read, progress).await?;
        }
        let mut stats = BlockStats::default();
        let mut postings: HashMap<Vec<u8>, RoaringBitmap> = HashMap::new();
        self.verify_series(&mut stats, &mut postings, (&mut read, progress))
            .await?;
        stats.exemplars = self.verify_exemplars().await?;
        stats.metadata = self.metadata(None).await?.len() as u64;
        if stats != self.meta.stats {
            return Err(self.damaged(format!("meta says {:?}, there are {stats:?}", self.meta.stats)));
        }
        self.verify_postings(postings).await?;
        let bytes = self.footer.sections.iter().map(|s| s.len).sum::<u64>() + (HEADER_LEN + FOOTER_LEN) as u64;
        Ok(VerifyReport { stats, bytes })
    }

    /// Reads the first bytes, which are the same in every block of a version.
    ///
    /// # Errors
    /// When they are others.
    pub async fn verify_header(&self) -> Result<(), BlockError> {
        let start = self.fetch(std::slice::from_ref(&(0..HEADER_LEN as u64))).await?;
        if start[0] != header(self.footer.version) {
            return Err(self.damaged("header"));
        }
        Ok(())
    }

    async fn verify_section(
        &self,
        section: Section,
        read: &mut u64,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), BlockError> {
        let at = self.footer.section(section);
        let mut crc = 0;
        let mut offset = at.offset;
        while offset < at.range().end {
            let portion: Range<u64> = offset..(offset + PORTION_BYTES).min(at.range().end);
            offset = portion.end;
            let bytes = self.fetch(std::slice::from_ref(&portion)).await?;
            crc = crc32c::crc32c_append(crc, &bytes[0]);
            *read += bytes[0].len() as u64;
            progress(*read);
        }
        if crc != at.crc && !cfg!(fuzzing) {
            return Err(self.damaged_at(at.offset, format!("checksum of section {section:?}")));
        }
        Ok(())
    }

    async fn verify_series(
        &self,
        stats: &mut BlockStats,
        postings: &mut HashMap<Vec<u8>, RoaringBitmap>,
        (read, progress): (&mut u64, &mut (dyn FnMut(u64) + Send)),
    ) -> Result<(), BlockError> {
        let (mut last, mut view) = (None, View::default());
        for (number, chunk) in (0_u32..).zip(&self.chunks) {
            let index = self.fetch_series(std::slice::from_ref(chunk)).await?;
            let [(labels, directory)] = index.as_slice() else {
                return Err(self.damaged("chunk of series"));
            };
            let directory = self.chunk_directory(chunk, directory)?;
            let labels = match self.symbol_table() {
                None => self.chunk_labels(chunk, labels)?,
                Some(table) => {
                    let rows = self.chunk_rows(table, chunk, labels)?;
                    let all: Vec<u32> = (0..chunk.series).collect();
                    let labels = self.labels_of(table, &rows, &all, &mut view).await?;
                    if labels.iter().map(|labels| labels.as_bytes().len()).sum::<usize>() != rows.label_bytes {
                        return Err(self.damaged("length of the labels of a chunk"));
                    }
                    labels
                }
            };
            *read += chunk.pages_len;
            progress(*read);
            for (ordinal, labels) in (chunk.first_series..).zip(&labels) {
                if last.as_ref().is_some_and(|last| last >= labels) {
                    return Err(self.damaged(format!("series {labels} is out of order")));
                }
                for (name, value) in labels.iter() {
                    // Sets are of series, or of chunks of them.
                    let member = self.symbol_table().map_or(ordinal, |_| number);
                    postings.entry(value_key(name, value)).or_default().insert(member);
                }
                last = Some(labels.clone());
            }
            stats.series += labels.len() as u64;
            self.verify_pages(&labels, &directory, stats).await?;
        }
        Ok(())
    }

    /// The pages of a chunk's series, some at a time.
    async fn verify_pages(
        &self,
        labels: &[Labels],
        directory: &[Vec<PageAt>],
        stats: &mut BlockStats,
    ) -> Result<(), BlockError> {
        let all = labels.iter().zip(directory);
        let mut all: &[(&Labels, &PageAt)] = &all
            .flat_map(|(labels, pages)| pages.iter().map(move |at| (labels, at)))
            .collect::<Vec<_>>();
        let mut before: Option<(&Labels, i64)> = None;
        while !all.is_empty() {
            let mut load = Load::default();
            let fits = all.iter().take_while(|(_, at)| load.add(at, 0) < PORTION_BYTES).count();
            let (some, rest) = all.split_at(fits.clamp(1, all.len()));
            all = rest;
            let fetched = self.fetch_parts(some).await?;
            let mut pages = Pages::new(self, fetched, some);
            for (labels, at) in some {
                pages.add(at, labels)?;
            }
            for ((labels, _), page) in some.iter().zip(pages.finish()) {
                if before.is_some_and(|(of, last_ts)| of == *labels && page.min_ts <= last_ts) {
                    return Err(self.damaged(format!("pages of {labels} overlap")));
                }
                before = Some((labels, page.max_ts));
                self.verify_page(&page, labels, stats)?;
            }
        }
        Ok(())
    }

    fn verify_page(&self, page: &crate::Page, labels: &Labels, stats: &mut BlockStats) -> Result<(), BlockError> {
        let decoded = page.decode().map_err(|source| self.bad_page(labels, source))?;
        let starts = page.starts().map_err(|source| self.bad_page(labels, source))?;
        stats.starts += starts.known(page.count);
        let count = match decoded {
            PageSamples::Floats { timestamps, .. } => timestamps.len(),
            PageSamples::Histograms(samples) => samples.len(),
        };
        let inside = |ts| self.meta.window.contains(TimestampMs(ts));
        if count as u64 != u64::from(page.count) || !inside(page.min_ts) || !inside(page.max_ts) {
            return Err(self.damaged(format!("page of {labels} is not as its directory says")));
        }
        let (first, last) = (TimestampMs(page.min_ts), TimestampMs(page.max_ts));
        if stats.pages == 0 {
            (stats.min_sample, stats.max_sample) = (first, last);
        }
        stats.min_sample = stats.min_sample.min(first);
        stats.max_sample = stats.max_sample.max(last);
        stats.pages += 1;
        stats.samples += count as u64;
        Ok(())
    }

    async fn verify_postings(&self, mut expected: HashMap<Vec<u8>, RoaringBitmap>) -> Result<(), BlockError> {
        let chunks = match &self.values {
            Values::Entries(table) => &table.chunks,
            Values::Symbols(table) => return self.verify_symbols(table, expected).await,
        };
        for chunk in chunks {
            for entry in self.value_chunk(chunk).await?.iter() {
                let found = self.union([entry]).await?;
                if expected.remove(&entry.key) != Some(found) {
                    let label = split_key(&entry.key);
                    return Err(self.damaged(format!("postings of {label:?} are not those of the labels")));
                }
            }
        }
        if !expected.is_empty() {
            return Err(self.damaged("postings lack a label value"));
        }
        Ok(())
    }

    async fn verify_symbols(
        &self,
        table: &SymbolTable,
        mut expected: HashMap<Vec<u8>, RoaringBitmap>,
    ) -> Result<(), BlockError> {
        let mut view = View::default();
        for (number, at) in table.chunks.iter().enumerate() {
            self.load(table, &mut view, [number]).await?;
            let mut symbols = view.resolver(table);
            for (_, name, places) in table.names_in(at) {
                for place in places {
                    let symbol = symbols.symbol(place).ok_or_else(|| self.bad_symbol(table, place))?;
                    let found = expected.remove(&value_key(&name.text, symbol.text));
                    let is_listed = |found: &RoaringBitmap| found.iter().eq(symbol.chunks.iter().copied());
                    if found.is_none_or(|found| !symbol.chunks.is_empty() && !is_listed(&found)) {
                        let label = (&name.text, symbol.text);
                        return Err(self.damaged(format!("chunks of {label:?} are not those of the labels")));
                    }
                }
            }
        }
        if !expected.is_empty() {
            return Err(self.damaged("dictionary lacks a label value"));
        }
        Ok(())
    }
}
