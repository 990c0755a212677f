//! What a block knows of metrics beside samples: type, unit, help.
//!
//! ```text
//! chunk = n: uvarint
//!         n * { shared: uvarint  len: uvarint  suffix }       names of metrics, ascending, front-coded within the chunk
//!         n * { len: uvarint  type }  n * { len: uvarint  unit }  n * { len: uvarint  help }
//!         n * (time - time before: uvarint zigzag)            until when it was known to be so; 0 before the first
//! ```

use super::appendix::{Appendix, Row};
use super::layout::{Input, Section};
use super::{BlockError, BlockReader};
use crate::page::{unzigzag, zigzag};
use gnomon_model::labels::put_uvarint;
use std::collections::{BTreeMap, HashSet};

/// A chunk is closed at so many bytes.
const BYTES_PER_CHUNK: usize = 256 << 10;
/// What is longer is left out; what a scrape says is shorter by far.
const MAX_ENTRY_LEN: usize = 64 << 10;
/// What an entry takes in memory beside its texts.
const ENTRY_LEN: u64 = size_of::<(String, MetricMetadata)>() as u64;
/// A block knows no more than so many bytes of it.
const MAX_BYTES: usize = 32 << 20;
/// The series of a family `f` may be called `f`, or `f` with one of these.
const SUFFIXES: [&str; 8] = [
    "_total", "_bucket", "_count", "_sum", "_created", "_info", "_gcount", "_gsum",
];

/// What is known of a metric.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MetricMetadata {
    /// Until when it was known to be so, in milliseconds: of two that differ the later one holds.
    pub at_ms: i64,
    /// As `/api/v1/metadata` calls it: `counter`, `gauge`, ...
    pub kind: String,
    pub unit: String,
    pub help: String,
}

impl MetricMetadata {
    /// What metadata may be about that is a series' of this name: OpenMetrics says it of families.
    pub fn families_of(metric: &str) -> impl Iterator<Item = &str> {
        let families = SUFFIXES.iter().filter_map(move |suffix| metric.strip_suffix(suffix));
        std::iter::once(metric).chain(families)
    }

    fn len(&self) -> usize {
        self.kind.len() + self.unit.len() + self.help.len()
    }
}

/// By metric. Of what differs the newest is kept, whatever the order in which it comes.
#[derive(Clone, Debug, Default)]
pub(super) struct MetadataWriter {
    entries: BTreeMap<String, MetricMetadata>,
    bytes: usize,
}

impl MetadataWriter {
    /// Takes what is known of a metric, unless something newer is there, or it is longer than is kept.
    pub(super) fn add(&mut self, metric: &str, metadata: MetricMetadata) {
        let len = metric.len() + metadata.len();
        if metric.is_empty() || len > MAX_ENTRY_LEN {
            return;
        }
        match self.entries.get_mut(metric) {
            Some(there) if *there >= metadata => {}
            Some(there) => {
                self.bytes = self.bytes - there.len() + metadata.len();
                *there = metadata;
            }
            None if self.bytes + len > MAX_BYTES => {}
            None => {
                self.bytes += len;
                self.entries.insert(metric.to_owned(), metadata);
            }
        }
    }

    /// Keeps what is about the metrics of the block, and says how many those are.
    pub(super) fn keep(&mut self, metrics: &[String]) -> u64 {
        if !self.entries.is_empty() {
            let wanted = metrics.iter().flat_map(|metric| MetricMetadata::families_of(metric));
            let wanted: HashSet<&str> = wanted.collect();
            self.entries.retain(|family, _| wanted.contains(family.as_str()));
        }
        self.entries.len() as u64
    }

    pub(super) fn finish(self) -> Result<Vec<u8>, BlockError> {
        let mut appendix = Appendix::default();
        let mut open = Vec::new();
        let mut bytes = 0;
        for entry in self.entries {
            bytes += entry.0.len() + entry.1.len();
            open.push(entry);
            if bytes >= BYTES_PER_CHUNK {
                close(&mut appendix, &std::mem::take(&mut open))?;
                bytes = 0;
            }
        }
        close(&mut appendix, &open)?;
        appendix.finish()
    }
}

fn close(appendix: &mut Appendix, entries: &[(String, MetricMetadata)]) -> Result<(), BlockError> {
    let Some((first, _)) = entries.first() else {
        return Ok(());
    };
    let times = || entries.iter().map(|(_, metadata)| metadata.at_ms);
    let row = Row {
        entries: entries.len() as u32,
        min_ms: times().min().unwrap_or(0),
        max_ms: times().max().unwrap_or(0),
        first: first.clone().into_bytes(),
        at: Default::default(),
    };
    appendix.add(row, &encode(entries))
}

fn encode(entries: &[(String, MetricMetadata)]) -> Vec<u8> {
    let mut out = Vec::new();
    put_uvarint(&mut out, entries.len() as u64);
    let mut before: &[u8] = &[];
    for (metric, _) in entries {
        let text = metric.as_bytes();
        let shared = before.iter().zip(text).take_while(|(a, b)| a == b).count();
        put_uvarint(&mut out, shared as u64);
        put_uvarint(&mut out, (text.len() - shared) as u64);
        out.extend_from_slice(&text[shared..]);
        before = text;
    }
    let columns: [fn(&MetricMetadata) -> &str; 3] = [|m| &m.kind, |m| &m.unit, |m| &m.help];
    for column in columns {
        for (_, metadata) in entries {
            let text = column(metadata);
            put_uvarint(&mut out, text.len() as u64);
            out.extend_from_slice(text.as_bytes());
        }
    }
    let mut last = 0_i64;
    for (_, metadata) in entries {
        put_uvarint(&mut out, zigzag(metadata.at_ms.wrapping_sub(last)));
        last = metadata.at_ms;
    }
    out
}

fn text(input: &mut Input<'_>) -> Option<String> {
    let len = input.length().filter(|len| *len <= MAX_ENTRY_LEN)?;
    std::str::from_utf8(input.bytes(len)?).ok().map(str::to_owned)
}

/// None where the bytes are no chunk of so many entries in their order.
fn decode(raw: &[u8], row: &Row) -> Option<Vec<(String, MetricMetadata)>> {
    let mut input = Input(raw);
    let count = input.length()?;
    // Six bytes each at least.
    if count > raw.len() / 6 || count as u64 != u64::from(row.entries) {
        return None;
    }
    let mut last = Vec::new();
    let mut out: Vec<(String, MetricMetadata)> = Vec::with_capacity(count);
    for _ in 0..count {
        input.front_coded(&mut last)?;
        let metric = std::str::from_utf8(&last).ok()?.to_owned();
        if metric.is_empty() || out.last().is_some_and(|(before, _)| *before >= metric) {
            return None;
        }
        let metadata = MetricMetadata {
            at_ms: 0,
            kind: String::new(),
            unit: String::new(),
            help: String::new(),
        };
        out.push((metric, metadata));
    }
    for (_, metadata) in &mut out {
        metadata.kind = text(&mut input)?;
    }
    for (_, metadata) in &mut out {
        metadata.unit = text(&mut input)?;
    }
    for (_, metadata) in &mut out {
        metadata.help = text(&mut input)?;
    }
    let mut time = 0_i64;
    for (_, metadata) in &mut out {
        time = time.wrapping_add(unzigzag(input.uvarint()?));
        metadata.at_ms = time;
        if !(row.min_ms..=row.max_ms).contains(&time) {
            return None;
        }
    }
    (input.0.is_empty() && out.first()?.0.as_bytes() == row.first).then_some(out)
}

impl BlockReader {
    /// What the block knows of one metric, or of all, ascending by name; nothing before version 4.
    ///
    /// # Errors
    /// When the block cannot be read or is damaged.
    pub async fn metadata(&self, metric: Option<&str>) -> Result<Vec<(String, MetricMetadata)>, BlockError> {
        Ok(self.metadata_within(metric, &mut |_| true).await?.unwrap_or_default())
    }

    /// As [`Self::metadata`], where there is room: `room` is told how many bytes each chunk is going to take before it is
    /// read, and then what its entries take beyond that; where it says no, there is no answer.
    ///
    /// # Errors
    /// As [`Self::metadata`].
    pub async fn metadata_within(
        &self,
        metric: Option<&str>,
        room: &mut (dyn FnMut(u64) -> bool + Send),
    ) -> Result<Option<Vec<(String, MetricMetadata)>>, BlockError> {
        if self.footer.version < super::WITH_EXEMPLARS {
            return Ok(Some(Vec::new()));
        }
        let mut rows = self.appendix(Section::Metadata).await?;
        if let Some(metric) = metric {
            let at = rows.partition_point(|row| row.first.as_slice() <= metric.as_bytes());
            rows = at.checked_sub(1).map(|at| rows.swap_remove(at)).into_iter().collect();
        }
        let mut out = Vec::new();
        for row in rows {
            let expected = row
                .at
                .raw_len
                .saturating_add(u64::from(row.entries).saturating_mul(ENTRY_LEN));
            if !room(row.at.len.saturating_add(expected)) {
                return Ok(None);
            }
            let raw = self.appendix_chunk(&row).await?;
            let entries = decode(&raw, &row);
            let entries = entries.ok_or_else(|| self.damaged_at(row.at.offset, "chunk of metadata"))?;
            // What names have alike is written once.
            let taken = entries
                .iter()
                .map(|(name, known)| (name.len() + known.len()) as u64 + ENTRY_LEN);
            if !room(taken.sum::<u64>().saturating_sub(expected)) {
                return Ok(None);
            }
            let wanted = |(name, _): &(String, MetricMetadata)| metric.is_none_or(|metric| name == metric);
            out.extend(entries.into_iter().filter(wanted));
        }
        if !out.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(self.damaged("chunks of metadata are out of order"));
        }
        Ok(Some(out))
    }
}

#[cfg(test)]
#[path = "tests/metadata.rs"]
mod tests;
