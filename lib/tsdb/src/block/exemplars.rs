//! Exemplars of a block: by series, in chunks that are found by time.
//!
//! ```text
//! chunk    = n: uvarint  m: uvarint
//!            n * { shared: uvarint  len: uvarint  suffix }       labels of the series, front-coded within the chunk
//!            n * exemplars of the series: uvarint                m together
//!            m * (time - time before: uvarint zigzag)            0 before the first
//!            m * value: uvarint(byte-swapped IEEE 754 bits)
//!            m * { shared: uvarint  len: uvarint  suffix }       labels of the exemplar, front-coded
//! ```
//! Labels are in canonical bytes. A series' exemplars ascend by time; where there are many, they go on in the next chunk.

use super::appendix::{Appendix, Row};
use super::layout::{Input, Section};
use super::{BlockError, BlockReader};
use crate::deletes::Deletes;
use crate::page::{unzigzag, zigzag};
use gnomon_model::labels::put_uvarint;
use gnomon_model::{Labels, LabelsRef, Matcher};
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::sync::Arc;

/// A chunk is closed at so many exemplars, or so many bytes of labels.
const EXEMPLARS_PER_CHUNK: usize = 4096;
const LABEL_BYTES_PER_CHUNK: usize = 128 << 10;
/// A block keeps no more exemplars than take so many bytes, compressed: far more than its parts have, which a shard's head
/// bounds.
const MAX_BYTES: usize = 64 << 20;

/// A sample that stands for others, with what leads to its origin: mostly the id of a trace.
#[derive(Clone, Debug)]
pub struct Exemplar {
    pub timestamp_ms: i64,
    pub value: f64,
    pub labels: Labels,
}

impl Exemplar {
    /// Puts exemplars of one series into their order, each once.
    pub fn settle(exemplars: &mut Vec<Self>) {
        exemplars.sort();
        exemplars.dedup();
    }
}

/// By time, then by the bits of the value, then by labels.
impl Ord for Exemplar {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |e: &Self| (e.timestamp_ms, e.value.to_bits());
        key(self).cmp(&key(other)).then_with(|| self.labels.cmp(&other.labels))
    }
}

impl PartialOrd for Exemplar {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Exemplar {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Exemplar {}

/// The exemplars of one series.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeriesExemplars {
    pub labels: Labels,
    /// Ascending by time.
    pub exemplars: Vec<Exemplar>,
}

/// The section in the making.
#[derive(Default)]
pub(super) struct ExemplarsWriter {
    appendix: Appendix,
    open: Vec<SeriesExemplars>,
    open_count: usize,
    open_label_bytes: usize,
    /// Those that found no room.
    pub(super) left_out: u64,
    /// Those that did.
    pub(super) count: u64,
}

impl ExemplarsWriter {
    /// Adds a settled list of a series that comes after all before.
    pub(super) fn add(&mut self, labels: LabelsRef<'_>, exemplars: Vec<Exemplar>) -> Result<(), BlockError> {
        for exemplar in exemplars {
            if self.appendix.len() > MAX_BYTES {
                self.left_out += 1;
                continue;
            }
            self.count += 1;
            self.open_count += 1;
            self.open_label_bytes += exemplar.labels.as_bytes().len();
            match self.open.last_mut() {
                Some(last) if last.labels.as_ref() == labels => last.exemplars.push(exemplar),
                _ => {
                    self.open_label_bytes += labels.as_bytes().len();
                    self.open.push(SeriesExemplars {
                        labels: labels.to_owned(),
                        exemplars: vec![exemplar],
                    });
                }
            }
            if self.open_count >= EXEMPLARS_PER_CHUNK || self.open_label_bytes >= LABEL_BYTES_PER_CHUNK {
                self.close()?;
            }
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), BlockError> {
        let series = std::mem::take(&mut self.open);
        let entries = std::mem::take(&mut self.open_count) as u32;
        self.open_label_bytes = 0;
        let Some(first) = series.first().map(|series| series.labels.as_bytes().to_vec()) else {
            return Ok(());
        };
        let times = || series.iter().flat_map(|s| &s.exemplars).map(|e| e.timestamp_ms);
        let row = Row {
            entries,
            min_ms: times().min().unwrap_or(0),
            max_ms: times().max().unwrap_or(0),
            first,
            at: Default::default(),
        };
        self.appendix.add(row, &encode(&series, entries))
    }

    pub(super) fn finish(mut self) -> Result<Vec<u8>, BlockError> {
        self.close()?;
        self.appendix.finish()
    }
}

fn put_front_coded(out: &mut Vec<u8>, before: &[u8], text: &[u8]) {
    let shared = before.iter().zip(text).take_while(|(a, b)| a == b).count();
    put_uvarint(out, shared as u64);
    put_uvarint(out, (text.len() - shared) as u64);
    out.extend_from_slice(&text[shared..]);
}

fn encode(series: &[SeriesExemplars], exemplars: u32) -> Vec<u8> {
    let mut out = Vec::new();
    let all = || series.iter().flat_map(|s| &s.exemplars);
    put_uvarint(&mut out, series.len() as u64);
    put_uvarint(&mut out, u64::from(exemplars));
    let mut before: &[u8] = &[];
    for series in series {
        put_front_coded(&mut out, before, series.labels.as_bytes());
        before = series.labels.as_bytes();
    }
    for series in series {
        put_uvarint(&mut out, series.exemplars.len() as u64);
    }
    let mut last = 0_i64;
    for exemplar in all() {
        put_uvarint(&mut out, zigzag(exemplar.timestamp_ms.wrapping_sub(last)));
        last = exemplar.timestamp_ms;
    }
    for exemplar in all() {
        put_uvarint(&mut out, exemplar.value.to_bits().swap_bytes());
    }
    let mut before: &[u8] = &[];
    for exemplar in all() {
        put_front_coded(&mut out, before, exemplar.labels.as_bytes());
        before = exemplar.labels.as_bytes();
    }
    out
}

fn labels(input: &mut Input<'_>, last: &mut Vec<u8>) -> Option<Labels> {
    input.front_coded(last)?;
    Some(LabelsRef::checked(last).ok()?.to_owned())
}

/// None where the bytes are no chunk of so many exemplars, all in the row's time and in their order.
fn decode(raw: &[u8], row: &Row) -> Option<Vec<SeriesExemplars>> {
    let mut input = Input(raw);
    let (series, exemplars) = (input.length()?, input.length()?);
    // Three bytes for each of either at least.
    if series > raw.len() / 3 || exemplars > raw.len() / 3 || exemplars as u64 != u64::from(row.entries) {
        return None;
    }
    let mut out = Vec::with_capacity(series);
    let mut last = Vec::new();
    for _ in 0..series {
        out.push(SeriesExemplars {
            labels: labels(&mut input, &mut last)?,
            exemplars: Vec::new(),
        });
    }
    let mut counts = Vec::with_capacity(series);
    for _ in 0..series {
        counts.push(input.length().filter(|n| (1..=exemplars).contains(n))?);
    }
    let total = counts.iter().try_fold(0_usize, |sum, n| sum.checked_add(*n));
    if total != Some(exemplars) || !out.is_sorted_by(|a, b| a.labels < b.labels) {
        return None;
    }
    let mut times = Vec::with_capacity(exemplars);
    let mut time = 0_i64;
    for _ in 0..exemplars {
        time = time.wrapping_add(unzigzag(input.uvarint()?));
        times.push(time);
    }
    let mut values = Vec::with_capacity(exemplars);
    for _ in 0..exemplars {
        values.push(f64::from_bits(input.uvarint()?.swap_bytes()));
    }
    last.clear();
    let mut points = times.into_iter().zip(values);
    for (series, count) in out.iter_mut().zip(counts) {
        for (timestamp_ms, value) in points.by_ref().take(count) {
            series.exemplars.push(Exemplar {
                timestamp_ms,
                value,
                labels: labels(&mut input, &mut last)?,
            });
        }
        if !series.exemplars.is_sorted_by(|a, b| a < b) {
            return None;
        }
    }
    let is_within = |e: &Exemplar| (row.min_ms..=row.max_ms).contains(&e.timestamp_ms);
    let all_within = out.iter().flat_map(|s| &s.exemplars).all(is_within);
    (input.0.is_empty() && all_within && out.first()?.labels.as_bytes() == row.first).then_some(out)
}

/// What is wanted of a block's exemplars.
#[derive(Clone, Debug, Default)]
pub struct ExemplarFilter {
    /// Series that satisfy all matchers of any of these; all where there is none.
    pub sets: Vec<Vec<Matcher>>,
    /// Inclusive, milliseconds; all where there is none.
    pub range_ms: Option<(i64, i64)>,
    /// What is not to be given.
    pub deletes: Deletes,
}

impl ExemplarFilter {
    fn has_time_of(&self, row: &Row) -> bool {
        self.range_ms
            .is_none_or(|(start, end)| row.min_ms <= end && start <= row.max_ms)
    }

    /// What is left of a series; none where nothing is.
    fn apply(&self, mut series: SeriesExemplars) -> Option<SeriesExemplars> {
        let labels = series.labels.as_ref();
        let matches = |set: &Vec<Matcher>| set.iter().all(|m| m.matches_labels(labels));
        if !self.sets.is_empty() && !self.sets.iter().any(matches) {
            return None;
        }
        let deleted = self.deletes.of(labels);
        series.exemplars.retain(|e| {
            let is_in_time = |(start, end): (i64, i64)| (start..=end).contains(&e.timestamp_ms);
            self.range_ms.is_none_or(is_in_time) && !deleted.contains(e.timestamp_ms)
        });
        (!series.exemplars.is_empty()).then_some(series)
    }
}

/// Exemplars of one block, series by series ascending by labels. Holds one chunk.
pub struct BlockExemplars {
    reader: Arc<BlockReader>,
    rows: std::vec::IntoIter<Row>,
    filter: ExemplarFilter,
    ready: VecDeque<SeriesExemplars>,
}

impl BlockReader {
    /// The block's exemplars, as far as `filter` lets them through; none before version 4.
    ///
    /// # Errors
    /// When the block cannot be read or is damaged.
    pub async fn exemplars(self: &Arc<Self>, filter: ExemplarFilter) -> Result<BlockExemplars, BlockError> {
        let rows = if self.footer.version < super::WITH_EXEMPLARS {
            Vec::new()
        } else {
            self.appendix(Section::Exemplars).await?
        };
        Ok(BlockExemplars {
            reader: Arc::clone(self),
            rows: rows.into_iter(),
            filter,
            ready: VecDeque::new(),
        })
    }

    /// Reads all exemplars; how many there are.
    pub(super) async fn verify_exemplars(&self) -> Result<u64, BlockError> {
        if self.footer.version < super::WITH_EXEMPLARS {
            return Ok(0);
        }
        let (mut count, mut last): (u64, Option<SeriesExemplars>) = (0, None);
        for row in self.appendix(Section::Exemplars).await? {
            for series in self.exemplars_chunk(&row).await? {
                count += series.exemplars.len() as u64;
                let follows = |last: &SeriesExemplars| {
                    let of_last = last.exemplars.last().zip(series.exemplars.first());
                    let goes_on = of_last.is_some_and(|(a, b)| a < b);
                    last.labels < series.labels || (last.labels == series.labels && goes_on)
                };
                if last.as_ref().is_some_and(|last| !follows(last)) {
                    let what = format!("exemplars of {} are out of order", series.labels);
                    return Err(self.damaged_at(row.at.offset, what));
                }
                let window = self.meta.window;
                let is_within = |e: &Exemplar| window.contains(gnomon_model::TimestampMs(e.timestamp_ms));
                if !series.exemplars.iter().all(is_within) {
                    let what = format!("an exemplar of {} is outside of the window", series.labels);
                    return Err(self.damaged_at(row.at.offset, what));
                }
                last = Some(series);
            }
        }
        Ok(count)
    }

    async fn exemplars_chunk(&self, row: &Row) -> Result<Vec<SeriesExemplars>, BlockError> {
        let raw = self.appendix_chunk(row).await?;
        decode(&raw, row).ok_or_else(|| self.damaged_at(row.at.offset, "chunk of exemplars"))
    }
}

impl BlockExemplars {
    /// The next series; none at the end. One with many exemplars comes in several pieces.
    ///
    /// # Errors
    /// When the block cannot be read or is damaged.
    pub async fn next(&mut self) -> Result<Option<SeriesExemplars>, BlockError> {
        loop {
            if let Some(series) = self.ready.pop_front() {
                return Ok(Some(series));
            }
            let filter = &self.filter;
            let Some(row) = self.rows.by_ref().find(|row| filter.has_time_of(row)) else {
                return Ok(None);
            };
            let chunk = self.reader.exemplars_chunk(&row).await?;
            self.ready
                .extend(chunk.into_iter().filter_map(|series| filter.apply(series)));
        }
    }
}

/// Exemplars of several blocks, by series, each once. Holds a chunk of each.
pub struct ExemplarMerge {
    sources: Vec<(BlockExemplars, Option<SeriesExemplars>)>,
}

impl ExemplarMerge {
    /// # Errors
    /// When a block cannot be read or is damaged.
    pub async fn new(sources: Vec<BlockExemplars>) -> Result<Self, BlockError> {
        let mut all = Vec::with_capacity(sources.len());
        for mut source in sources {
            let first = source.next().await?;
            all.push((source, first));
        }
        Ok(Self { sources: all })
    }

    /// The next series with the exemplars of all blocks; none at the end.
    ///
    /// # Errors
    /// When a block cannot be read or is damaged.
    pub async fn next(&mut self) -> Result<Option<SeriesExemplars>, BlockError> {
        let heads = self.sources.iter().filter_map(|(_, head)| head.as_ref());
        let Some(labels) = heads.map(|head| &head.labels).min().cloned() else {
            return Ok(None);
        };
        let mut exemplars = Vec::new();
        for (source, head) in &mut self.sources {
            while let Some(mut its) = head.take_if(|head| head.labels == labels) {
                exemplars.append(&mut its.exemplars);
                *head = source.next().await?;
            }
        }
        Exemplar::settle(&mut exemplars);
        Ok(Some(SeriesExemplars { labels, exemplars }))
    }
}

#[cfg(test)]
#[path = "tests/exemplars.rs"]
mod tests;
