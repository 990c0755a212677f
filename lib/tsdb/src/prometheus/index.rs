//! `index`: symbols, series, and where their chunks are. Postings are not read: every series is.
//!
//! ```text
//! magic 0xBAAAD700: u32   version: u8
//! symbols  len: u32   n: u32   { len: uvarint  bytes }*   crc: u32
//! series   { padding   len: uvarint   labels: uvarint  { name: uvarint  value: uvarint }*
//!            chunks: uvarint  first: varint  last - first: uvarint  ref: uvarint
//!            { first - last of the one before: uvarint  last - first: uvarint  ref - ref before: varint }*   crc: u32 }*
//! …
//! contents  symbols u64  series u64  label indices u64  label offsets u64  postings u64  postings offsets u64   crc: u32
//! ```
//! In version 2 symbols are numbered from 0 and series begin at multiples of 16; in version 1 a symbol is known by its
//! place in the file. A series' number (tombstones name it) is its place in the file, in version 2 divided by 16.

use super::TsdbError;
use super::file::{Fields, Reader, has_crc};
use gnomon_model::{Labels, LabelsBuilder};
use std::path::Path;

const FILE: &str = "index";
const MAGIC: u32 = 0xBAAA_D700;
const CONTENTS_LEN: usize = 6 * 8 + 4;
const HEADER_LEN: u64 = 5;
/// One series with all its chunks: Prometheus makes none as long.
const MAX_SERIES_LEN: u64 = 64 << 20;
const CUT: &str = "a series is cut short";

/// Where a chunk is, and the times it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkAt {
    /// Milliseconds, inclusive.
    pub min_ms: i64,
    /// Milliseconds, inclusive.
    pub max_ms: i64,
    /// Segment in the upper half, offset in the lower.
    pub(super) reference: u64,
}

/// Where a series is in the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SeriesAt(pub(super) u64);

#[derive(Debug)]
pub(super) struct Index {
    file: Reader,
    version: u8,
    symbols: Symbols,
    /// Where the series are.
    series: std::ops::Range<u64>,
}

#[derive(Debug)]
struct Symbols {
    /// The section from its number of symbols on, which lies at `at`.
    bytes: Vec<u8>,
    at: u64,
    /// Where in `bytes` each one begins, at its length; ascending.
    begins: Vec<u32>,
}

impl Index {
    pub(super) fn open(folder: &Path) -> Result<Self, TsdbError> {
        let mut file = Reader::open(&folder.join(FILE))?;
        if file.u32(0)? != MAGIC {
            return Err(file.damaged(0, "it does not begin as an index does"));
        }
        let version = file.bytes(4, 1)?[0];
        if !matches!(version, 1 | 2) {
            return Err(TsdbError::Unsupported {
                file: file.path().to_owned(),
                what: format!("version {version} is unknown, 1 and 2 are known"),
            });
        }
        let contents_at = file.len().saturating_sub(CONTENTS_LEN as u64);
        let contents = file.bytes(contents_at, CONTENTS_LEN)?;
        let (contents, crc) = contents.split_at(CONTENTS_LEN - 4);
        if !has_crc(contents, crc) {
            return Err(file.damaged(contents_at, "the checksum of the table of contents is wrong"));
        }
        let mut fields = Fields(contents);
        let offsets: Vec<u64> = std::iter::from_fn(|| fields.u64()).collect();
        let [symbols, series, ..] = offsets[..] else {
            return Err(file.damaged(contents_at, "the table of contents is cut short"));
        };
        // The next section; without one the series go on to the contents.
        let after = offsets[2..].iter().copied().filter(|offset| *offset > series);
        let series_end = after.min().unwrap_or(contents_at).min(contents_at);
        let symbols = Symbols::read(&mut file, symbols)?;
        let series = if series == 0 {
            0..0
        } else {
            series.max(HEADER_LEN)..series_end
        };
        Ok(Self {
            file,
            version,
            symbols,
            series,
        })
    }

    /// The first series at or after `at`, or after the header; none at the end.
    pub(super) fn series_from(&mut self, at: Option<SeriesAt>) -> Result<Option<SeriesAt>, TsdbError> {
        let mut at = at.map_or(self.series.start, |at| at.0);
        // Zero bytes are padding: no series has a length of 0.
        loop {
            let left = self.series.end.saturating_sub(at).min(64) as usize;
            if left == 0 {
                return Ok(None);
            }
            let bytes = self.file.bytes(at, left)?;
            match bytes.iter().position(|byte| *byte != 0) {
                Some(padding) => return Ok(Some(SeriesAt(at + padding as u64))),
                None => at += left as u64,
            }
        }
    }

    /// Its labels, and where the next one may begin.
    pub(super) fn labels(&mut self, at: SeriesAt) -> Result<(Labels, SeriesAt), TsdbError> {
        let version = self.version;
        self.entry(at, |fields, symbols| read_labels(fields, symbols, version))
    }

    /// Its chunks, in the order of the index.
    pub(super) fn chunks(&mut self, at: SeriesAt) -> Result<Vec<ChunkAt>, TsdbError> {
        let (chunks, _) = self.entry(at, |fields, _| {
            let labels = fields.uvarint().ok_or(CUT)?;
            for _ in 0..labels.saturating_mul(2) {
                fields.uvarint().ok_or(CUT)?;
            }
            read_chunks(fields)
        })?;
        Ok(chunks)
    }

    /// What `read` makes of a series, and where the next one may begin.
    fn entry<T>(
        &mut self,
        at: SeriesAt,
        read: impl FnOnce(&mut Fields<'_>, &Symbols) -> Result<T, &'static str>,
    ) -> Result<(T, SeriesAt), TsdbError> {
        let head = self.file.up_to(at.0, 10)?;
        let mut fields = Fields(head);
        let len = fields.uvarint();
        let head_len = (head.len() - fields.0.len()) as u64;
        let Some(len) = len.filter(|len| *len <= MAX_SERIES_LEN) else {
            return Err(self.file.damaged(at.0, "a series has a length that none has"));
        };
        let begin = at.0 + head_len;
        let bytes = self.file.bytes(begin, len as usize + 4)?;
        let (body, crc) = bytes.split_at(len as usize);
        if !has_crc(body, crc) {
            return Err(self.file.damaged(begin, "the checksum of a series is wrong"));
        }
        match read(&mut Fields(body), &self.symbols) {
            Ok(read) => Ok((read, SeriesAt(begin + len + 4))),
            Err(what) => Err(self.file.damaged(begin, what)),
        }
    }

    /// The number by which tombstones name it.
    pub(super) const fn number(&self, at: SeriesAt) -> u64 {
        if self.version == 1 { at.0 } else { at.0 / 16 }
    }

    pub(super) fn damaged(&self, at: SeriesAt, what: impl Into<String>) -> TsdbError {
        self.file.damaged(at.0, what)
    }
}

fn read_labels(fields: &mut Fields<'_>, symbols: &Symbols, version: u8) -> Result<Labels, &'static str> {
    let count = fields.uvarint().ok_or(CUT)?;
    let mut labels = LabelsBuilder::default();
    for _ in 0..count {
        let name = symbols.get(fields.uvarint().ok_or(CUT)?, version)?;
        let value = symbols.get(fields.uvarint().ok_or(CUT)?, version)?;
        labels.set(name, value);
    }
    Ok(labels.build())
}

fn read_chunks(fields: &mut Fields<'_>) -> Result<Vec<ChunkAt>, &'static str> {
    let count = fields.uvarint().ok_or(CUT)?;
    let mut chunks: Vec<ChunkAt> = Vec::new();
    for _ in 0..count {
        let chunk = match chunks.last() {
            None => {
                let (min_ms, width) = (fields.varint().ok_or(CUT)?, fields.uvarint().ok_or(CUT)?);
                ChunkAt {
                    min_ms,
                    max_ms: min_ms.wrapping_add(width as i64),
                    reference: fields.uvarint().ok_or(CUT)?,
                }
            }
            Some(last) => {
                let (gap, width) = (fields.uvarint().ok_or(CUT)?, fields.uvarint().ok_or(CUT)?);
                // Chunks may overlap: the gap wraps then.
                let min_ms = last.max_ms.wrapping_add(gap as i64);
                ChunkAt {
                    min_ms,
                    max_ms: min_ms.wrapping_add(width as i64),
                    reference: last.reference.wrapping_add(fields.varint().ok_or(CUT)? as u64),
                }
            }
        };
        if chunk.max_ms < chunk.min_ms {
            return Err("a chunk of a series ends before it begins");
        }
        chunks.push(chunk);
    }
    Ok(chunks)
}

impl Symbols {
    fn read(file: &mut Reader, at: u64) -> Result<Self, TsdbError> {
        let len = file.u32(at)?;
        let begin = at.saturating_add(4);
        if file.len().saturating_sub(begin) < u64::from(len) + 4 {
            return Err(file.damaged(
                at,
                format!("{len} bytes of symbols should be there, the file ends before"),
            ));
        }
        let bytes = file.bytes(begin, len as usize + 4)?;
        let (body, crc) = bytes.split_at(len as usize);
        if !has_crc(body, crc) {
            return Err(file.damaged(begin, "the checksum of the symbols is wrong"));
        }
        match Self::parse(body, begin) {
            Ok(symbols) => Ok(symbols),
            Err(what) => Err(file.damaged(begin, what)),
        }
    }

    fn parse(body: &[u8], at: u64) -> Result<Self, &'static str> {
        let (count, _) = body.split_first_chunk::<4>().ok_or("the symbols are cut short")?;
        let mut fields = Fields(&body[4..]);
        let mut begins = Vec::new();
        for _ in 0..u32::from_be_bytes(*count) {
            begins.push((body.len() - fields.0.len()) as u32);
            let symbol = fields.text().ok_or("the symbols are cut short")?;
            std::str::from_utf8(symbol).map_err(|_| "a symbol is no UTF-8")?;
        }
        Ok(Self {
            bytes: body.to_vec(),
            at,
            begins,
        })
    }

    fn get(&self, symbol: u64, version: u8) -> Result<&str, &'static str> {
        let wrong = "a series has a symbol that is not there";
        let begin = if version == 1 {
            let begin = symbol.checked_sub(self.at).and_then(|begin| u32::try_from(begin).ok());
            begin.filter(|begin| self.begins.binary_search(begin).is_ok())
        } else {
            self.begins.get(usize::try_from(symbol).unwrap_or(usize::MAX)).copied()
        };
        let bytes = self.bytes.get(begin.ok_or(wrong)? as usize..);
        let text = bytes.and_then(|bytes| Fields(bytes).text());
        text.and_then(|text| std::str::from_utf8(text).ok()).ok_or(wrong)
    }
}
