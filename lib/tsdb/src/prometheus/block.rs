//! A block's folder as one thing, and folders that have several.

use super::index::{ChunkAt, Index, SeriesAt};
use super::meta::TsdbMeta;
use super::segments::Segments;
use super::tombstones::Tombstones;
use super::{TsdbError, Ulid};
use crate::merge::{TARGET_PAGE_SAMPLES, merge_pages};
use crate::page::{HistogramPageBuilder, Page, PageError, PageSamples, Starts};
use gnomon_model::{Labels, LabelsBuilder, TimeRange, TimestampMs};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// An open block. Nothing is ever written to its folder.
#[derive(Debug)]
pub struct TsdbBlock {
    folder: PathBuf,
    meta: TsdbMeta,
    index: Index,
    segments: Segments,
    tombstones: Tombstones,
    /// Added to every series.
    external: Vec<(String, String)>,
}

impl TsdbBlock {
    /// # Errors
    /// When a file of it cannot be read, is damaged, or is of an unknown version.
    pub fn open(folder: &Path) -> Result<Self, TsdbError> {
        let meta = TsdbMeta::read(folder)?;
        let external = meta
            .external_labels()
            .map(|(n, v)| (n.to_owned(), v.to_owned()))
            .collect();
        Ok(Self {
            folder: folder.to_owned(),
            meta,
            index: Index::open(folder)?,
            segments: Segments::of(folder),
            tombstones: Tombstones::read(folder)?,
            external,
        })
    }

    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    #[must_use]
    pub const fn meta(&self) -> &TsdbMeta {
        &self.meta
    }

    /// The next series at or after `from` (the first where there is none) with its labels, those of Thanos among them,
    /// and where to go on. Series are in the order of the index. None at the end.
    ///
    /// # Errors
    /// When the index is damaged.
    pub fn next_series(&mut self, from: Option<SeriesAt>) -> Result<Option<(SeriesAt, Labels, SeriesAt)>, TsdbError> {
        let Some(at) = self.index.series_from(from)? else {
            return Ok(None);
        };
        let (labels, next) = self.index.labels(at)?;
        Ok(Some((at, self.with_external(labels), next)))
    }

    /// Thanos lets its labels win.
    fn with_external(&self, labels: Labels) -> Labels {
        if self.external.is_empty() {
            return labels;
        }
        let mut builder = LabelsBuilder::from_labels(labels.as_ref());
        for (name, value) in &self.external {
            builder.set(name, value);
        }
        builder.build()
    }

    /// Whether the series has a chunk that may have samples in `window`.
    ///
    /// # Errors
    /// When the index is damaged.
    pub fn may_have(&mut self, at: SeriesAt, window: TimeRange) -> Result<bool, TsdbError> {
        let chunks = self.index.chunks(at)?;
        Ok(chunks.iter().any(|chunk| overlaps(chunk, window)))
    }

    /// The samples of a series in `window` that are not deleted, as pages; `damaged` is asked about each chunk that is,
    /// and says whether to go on without it.
    ///
    /// # Errors
    /// When the index or a chunk cannot be read or is damaged.
    pub fn pages(
        &mut self,
        at: SeriesAt,
        window: TimeRange,
        damaged: &mut dyn FnMut(&TsdbError) -> bool,
    ) -> Result<Vec<Page>, TsdbError> {
        let chunks = self.index.chunks(at)?;
        let deleted = self.tombstones.of(self.index.number(at));
        let keep = |time: i64| {
            window.contains(TimestampMs(time)) && !deleted.iter().any(|(first, last)| *first <= time && time <= *last)
        };
        // One for each run of chunks that do not overlap.
        let mut runs: Vec<Run> = Vec::new();
        for chunk in chunks.iter().filter(|chunk| overlaps(chunk, window)) {
            let read = self
                .segments
                .chunk(chunk)
                .and_then(|((samples, starts), _)| Ok((self.checked(at, chunk, samples)?, starts)));
            let (samples, starts) = match read {
                Ok(samples) => samples,
                Err(error) if error.is_damage() && damaged(&error) => continue,
                Err(error) => return Err(error),
            };
            if runs.last().is_none_or(|run| run.last_ms >= chunk.min_ms) {
                runs.push(Run::default());
            }
            if let Some(run) = runs.last_mut() {
                let added = run.add(chunk.max_ms, samples, &starts, keep);
                added.map_err(|error| self.index.damaged(at, error.to_string()))?;
            }
        }
        let sources = runs.into_iter().map(Run::finish).collect::<Result<Vec<_>, _>>();
        let mut sources = sources.map_err(|error| self.index.damaged(at, error.to_string()))?;
        if sources.len() < 2 {
            return Ok(sources.pop().unwrap_or_default());
        }
        merge_pages(sources).map_err(|error| self.index.damaged(at, error.to_string()))
    }

    /// What a chunk has must be what the index says of it.
    fn checked(&self, at: SeriesAt, chunk: &ChunkAt, samples: PageSamples) -> Result<PageSamples, TsdbError> {
        let (first, last) = match &samples {
            PageSamples::Floats { timestamps, .. } => (timestamps.first(), timestamps.last()),
            PageSamples::Histograms(all) => (
                all.first().map(|sample| &sample.timestamp_ms),
                all.last().map(|sample| &sample.timestamp_ms),
            ),
        };
        let is_within = |time: Option<&i64>| time.is_none_or(|time| (chunk.min_ms..=chunk.max_ms).contains(time));
        if is_within(first) && is_within(last) {
            return Ok(samples);
        }
        let what = format!(
            "a chunk of this series has samples outside of {} to {}, which the index says",
            chunk.min_ms, chunk.max_ms
        );
        Err(self.index.damaged(at, what))
    }
}

fn overlaps(chunk: &ChunkAt, window: TimeRange) -> bool {
    chunk.min_ms < window.end.0 && window.start.0 <= chunk.max_ms
}

/// Samples of chunks one after another, on their way into pages.
struct Run {
    last_ms: i64,
    timestamps: Vec<i64>,
    values: Vec<f64>,
    /// Of the floats.
    starts: Starts,
    histograms: HistogramPageBuilder,
    pages: Vec<Page>,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            last_ms: i64::MIN,
            timestamps: Vec::new(),
            values: Vec::new(),
            starts: Starts::default(),
            histograms: HistogramPageBuilder::new(),
            pages: Vec::new(),
        }
    }
}

impl Run {
    fn add(
        &mut self,
        last_ms: i64,
        samples: PageSamples,
        starts: &Starts,
        keep: impl Fn(i64) -> bool,
    ) -> Result<(), PageError> {
        self.last_ms = last_ms;
        match samples {
            PageSamples::Floats { timestamps, values } => {
                self.close_histograms();
                let samples = (0..).zip(timestamps.into_iter().zip(values));
                for (place, (time, value)) in samples.filter(|(_, (time, _))| keep(*time)) {
                    if self.timestamps.len() >= TARGET_PAGE_SAMPLES {
                        self.close_floats()?;
                    }
                    self.starts.push(self.timestamps.len() as u32, starts.get(place));
                    self.timestamps.push(time);
                    self.values.push(value);
                }
            }
            PageSamples::Histograms(all) => {
                self.close_floats()?;
                for sample in all.iter().filter(|sample| keep(sample.timestamp_ms)) {
                    let (time, histogram) = (sample.timestamp_ms, &sample.histogram);
                    let is_full = self.histograms.len() >= TARGET_PAGE_SAMPLES;
                    if is_full || self.histograms.append(time, histogram, sample.is_integer).is_err() {
                        // Samples ascend, so only a full page refuses one.
                        self.close_histograms();
                        let _ = self.histograms.append(time, histogram, sample.is_integer);
                    }
                }
            }
        }
        Ok(())
    }

    fn close_floats(&mut self) -> Result<(), PageError> {
        let starts = std::mem::take(&mut self.starts);
        let page = Page::of_floats(&self.timestamps, &self.values);
        self.pages
            .extend(page.map(|page| page.with_starts(&starts)).transpose()?);
        self.timestamps.clear();
        self.values.clear();
        Ok(())
    }

    fn close_histograms(&mut self) {
        if !self.histograms.is_empty() {
            self.pages.extend(self.histograms.page());
            self.histograms = HistogramPageBuilder::new();
        }
    }

    fn finish(mut self) -> Result<Vec<Page>, PageError> {
        self.close_floats()?;
        self.close_histograms();
        Ok(self.pages)
    }
}

/// The folders of blocks: `folder` itself, or those in it, by name (which is by age). Those that others were made of
/// are left out, as Prometheus does; what is being written or deleted (`*.tmp-for-…`) is no block yet or any more.
///
/// # Errors
/// When a folder or a `meta.json` cannot be read; each with the folder it is about.
pub fn blocks_below(folder: &Path) -> Result<Vec<PathBuf>, TsdbError> {
    if folder.join("meta.json").is_file() {
        return Ok(vec![folder.to_owned()]);
    }
    let mut found = Vec::new();
    let mut replaced = HashSet::new();
    for entry in std::fs::read_dir(folder).map_err(TsdbError::io(folder))? {
        let path = entry.map_err(TsdbError::io(folder))?.path();
        let is_name = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|n| n.parse::<Ulid>().is_ok());
        // One without its meta.json is no whole block, which is said when it is opened; an empty folder is none.
        let is_block = ["meta.json", "index"].iter().any(|file| path.join(file).is_file());
        if !is_name || !is_block {
            continue;
        }
        // One that cannot be read is said to be so when it is opened.
        if let Ok(meta) = TsdbMeta::read(&path) {
            replaced.extend(meta.compaction.parents.into_iter().map(|parent| parent.ulid));
        }
        found.push(path);
    }
    found.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_none_or(|name| !replaced.contains(name))
    });
    found.sort();
    if found.is_empty() {
        return Err(TsdbError::Unsupported {
            file: folder.to_owned(),
            what: "no block is here: a block's folder (with meta.json), or a folder with several, is expected".into(),
        });
    }
    Ok(found)
}
