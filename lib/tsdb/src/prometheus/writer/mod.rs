//! Writing one block: series come in the order of their labels, their chunks go out as they come, the index follows.

mod index;
mod segments;

use super::chunk::encode_chunks;
use super::meta::{Stats, TsdbMeta};
use super::tombstones::Tombstones;
use super::{TsdbError, Ulid};
use crate::page::{PageSamples, Starts};
use gnomon_model::LabelsRef;
use index::IndexWriter;
use segments::SegmentWriter;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What the folder of a block is called until it is whole; Prometheus deletes such ones when it starts.
const UNFINISHED: &str = ".tmp-for-creation";

/// A block that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenBlock {
    pub ulid: Ulid,
    pub folder: PathBuf,
    pub stats: Stats,
}

/// Writes one block. Memory: the symbols, and 4 bytes for each label of each series.
pub struct TsdbWriter {
    folder: PathBuf,
    finished: PathBuf,
    ulid: Ulid,
    index: IndexWriter,
    segments: SegmentWriter,
    stats: Stats,
}

impl TsdbWriter {
    /// Begins a block in a folder of its name below `parent`. `symbols` are all names and values of labels that will come.
    ///
    /// # Errors
    /// When the folder cannot be made or written to, or there are too many symbols.
    pub fn create(parent: &Path, ulid: Ulid, symbols: &BTreeSet<String>) -> Result<Self, TsdbError> {
        let folder = parent.join(format!("{ulid}{UNFINISHED}"));
        std::fs::create_dir_all(folder.join(super::segments::FOLDER)).map_err(TsdbError::io(&folder))?;
        Ok(Self {
            index: IndexWriter::create(&folder, symbols)?,
            segments: SegmentWriter::new(&folder),
            finished: parent.join(ulid.to_string()),
            folder,
            ulid,
            stats: Stats::default(),
        })
    }

    /// Adds a series with its samples, which ascend by time, and their starts: where floats have some their chunks are XOR2,
    /// which newer releases of Prometheus read; histograms are written without. A series without samples is left out.
    ///
    /// # Errors
    /// When it does not come after the last one, has a label that was not named, or a file cannot be written.
    pub fn add_series(&mut self, labels: LabelsRef<'_>, samples: &[(PageSamples, Starts)]) -> Result<(), TsdbError> {
        let chunks = encode_chunks(samples).map_err(|what| TsdbError::Limit {
            file: self.folder.clone(),
            what: format!("series {}: {what}", labels.to_owned()),
        })?;
        if chunks.is_empty() {
            return Ok(());
        }
        let mut written = Vec::with_capacity(chunks.len());
        for chunk in &chunks {
            written.push((chunk.min_ms, chunk.max_ms, self.segments.add(chunk)?));
            self.stats.num_samples += chunk.samples;
        }
        self.stats.num_chunks += chunks.len() as u64;
        self.stats.num_series += 1;
        self.index.add_series(labels, &written)
    }

    /// Finishes the block of samples from `min_ms` up to `max_ms` (exclusive), and gives its folder its name.
    ///
    /// # Errors
    /// When a file cannot be written, or a part of the index becomes longer than 4 GiB.
    pub fn finish(self, min_ms: i64, max_ms: i64) -> Result<WrittenBlock, TsdbError> {
        self.segments.finish()?;
        self.index.finish()?;
        Tombstones::write_none(&self.folder)?;
        TsdbMeta::new(self.ulid, min_ms, max_ms, self.stats.clone()).write(&self.folder)?;
        let sync = |folder: &Path| std::fs::File::open(folder).and_then(|folder| folder.sync_all());
        sync(&self.folder).map_err(TsdbError::io(&self.folder))?;
        std::fs::rename(&self.folder, &self.finished).map_err(TsdbError::io(&self.finished))?;
        if let Some(parent) = self.finished.parent() {
            sync(parent).map_err(TsdbError::io(parent))?;
        }
        Ok(WrittenBlock {
            ulid: self.ulid,
            folder: self.finished,
            stats: self.stats,
        })
    }

    /// Removes what was written.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn abort(self) -> Result<(), TsdbError> {
        let folder = self.folder.clone();
        drop(self);
        std::fs::remove_dir_all(&folder).map_err(TsdbError::io(&folder))
    }
}
