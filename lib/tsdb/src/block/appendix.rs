//! Sections with a table of their own: chunks in the order of a key, and what is in each. They are read only by who wants
//! what is in them, so the table is not among those that are read when a block is opened.
//!
//! ```text
//! section = chunk*  table  length of the table: u32  crc of it: u32       empty where there is no chunk
//! table   = n: uvarint  n * { entries: uvarint  min: uvarint zigzag  max - min: uvarint  chunk  len: uvarint  first key }
//! ```

use super::layout::{ChunkAt, Input, MAX_LABELS_LEN, Section};
use super::writer::compress_to;
use super::{BlockError, BlockReader};
use crate::page::{unzigzag, zigzag};
use gnomon_model::labels::put_uvarint;

/// What is read first of a section: of all but large ones the table is in it.
const TAIL_BYTES: u64 = 64 << 10;
const TRAILER_LEN: usize = 8;
/// A table that is longer is none of ours: a bound on what a reader allocates.
const MAX_TABLE_LEN: u64 = 64 << 20;

/// One chunk of such a section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) entries: u32,
    /// First and last time of its entries, inclusive.
    pub(super) min_ms: i64,
    pub(super) max_ms: i64,
    /// The key of its first entry.
    pub(super) first: Vec<u8>,
    pub(super) at: ChunkAt,
}

/// Such a section in the making.
#[derive(Default)]
pub(super) struct Appendix {
    chunks: Vec<u8>,
    rows: Vec<Row>,
}

impl Appendix {
    /// Bytes of the chunks so far.
    pub(super) fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Adds a chunk; `row.at` is found here.
    pub(super) fn add(&mut self, row: Row, raw: &[u8]) -> Result<(), BlockError> {
        let at = compress_to(&mut self.chunks, raw)?;
        self.rows.push(Row { at, ..row });
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Vec<u8>, BlockError> {
        let mut out = self.chunks;
        if self.rows.is_empty() {
            return Ok(out);
        }
        let mut table = Vec::new();
        put_uvarint(&mut table, self.rows.len() as u64);
        for row in &self.rows {
            put_uvarint(&mut table, u64::from(row.entries));
            put_uvarint(&mut table, zigzag(row.min_ms));
            put_uvarint(&mut table, row.max_ms.wrapping_sub(row.min_ms) as u64);
            row.at.write(&mut table);
            put_uvarint(&mut table, row.first.len() as u64);
            table.extend_from_slice(&row.first);
        }
        if table.len() as u64 > MAX_TABLE_LEN {
            return Err(BlockError::Index(
                "a table of exemplars or metadata is too long".to_owned(),
            ));
        }
        let crc = crc32c::crc32c(&table);
        out.extend_from_slice(&table);
        out.extend_from_slice(&(table.len() as u32).to_le_bytes());
        out.extend_from_slice(&crc.to_le_bytes());
        Ok(out)
    }
}

/// Reads a table of chunks that lie in `offset..end`, and nowhere else.
fn read_rows(table: &[u8], mut offset: u64, end: u64) -> Option<Vec<Row>> {
    let mut input = Input(table);
    let count = input.length()?;
    // Seven numbers each.
    if count > table.len() / 7 {
        return None;
    }
    let mut rows = Vec::with_capacity(count);
    for _ in 0..count {
        let entries = u32::try_from(input.uvarint()?).ok().filter(|n| *n > 0)?;
        let min_ms = unzigzag(input.uvarint()?);
        let max_ms = min_ms.checked_add_unsigned(input.uvarint()?)?;
        let at = ChunkAt::read(&mut input, &mut offset)?;
        let len = input.length().filter(|len| *len <= MAX_LABELS_LEN)?;
        rows.push(Row {
            entries,
            min_ms,
            max_ms,
            first: input.bytes(len)?.to_vec(),
            at,
        });
    }
    (input.0.is_empty() && offset == end).then_some(rows)
}

impl BlockReader {
    /// What is in a section of this kind; nothing where it is empty.
    pub(super) async fn appendix(&self, section: Section) -> Result<Vec<Row>, BlockError> {
        let range = self.footer.section(section).range();
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let damaged = |what: &str| self.damaged_at(range.start, format!("{what} of section {section:?}"));
        let from = range.start.max(range.end.saturating_sub(TAIL_BYTES));
        let mut tail = self.fetch_one(from..range.end).await?;
        let trailer = tail.len().checked_sub(TRAILER_LEN).ok_or_else(|| damaged("end"))?;
        let mut input = Input(&tail[trailer..]);
        let (len, crc) = input.u32().zip(input.u32()).ok_or_else(|| damaged("end"))?;
        let table_end = range.end - TRAILER_LEN as u64;
        let table_start = table_end
            .checked_sub(u64::from(len))
            .filter(|start| *start >= range.start && u64::from(len) <= MAX_TABLE_LEN)
            .ok_or_else(|| damaged("length of the table"))?;
        if table_start < from {
            tail = self.fetch_one(table_start..range.end).await?;
        }
        let table_at = tail.len() - TRAILER_LEN - len as usize;
        let table = &tail[table_at..tail.len() - TRAILER_LEN];
        if !super::has_crc(table, crc) {
            return Err(damaged("checksum of the table"));
        }
        read_rows(table, range.start, table_start).ok_or_else(|| damaged("table"))
    }

    /// One of its chunks, uncompressed.
    pub(super) async fn appendix_chunk(&self, row: &Row) -> Result<Vec<u8>, BlockError> {
        let compressed = self.fetch_one(row.at.range()).await?;
        let raw = row.at.open(&compressed);
        raw.map_err(|what| self.damaged_at(row.at.offset, what))
    }

    async fn fetch_one(&self, range: std::ops::Range<u64>) -> Result<bytes::Bytes, BlockError> {
        let read = self.fetch(std::slice::from_ref(&range)).await?;
        let first = read.into_iter().next();
        first.ok_or_else(|| self.damaged("object store gave nothing"))
    }
}
