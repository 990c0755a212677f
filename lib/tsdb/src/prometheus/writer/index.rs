//! The index, version 2. What lies where is drawn in `prometheus/index.rs`; here are the sections that are not read there:
//!
//! ```text
//! label index       len: u32   1: u32   n: u32   { value: u32 }*   crc: u32                            of each name
//! postings          len: u32   n: u32   { series: u32 }*   crc: u32                                    of each pair
//! label offsets     len: u32   n: u32   { 1: u8   name   offset: uvarint }*   crc: u32
//! postings offsets  len: u32   n: u32   { 2: u8   name   value   offset: uvarint }*   crc: u32
//! ```
//! The pair of two empty texts has all series. Label indices and postings begin at multiples of 4.

use crate::prometheus::TsdbError;
use crate::prometheus::bits::zigzag;
use gnomon_model::LabelsRef;
use gnomon_model::labels::put_uvarint;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

const FILE: &str = "index";
const MAGIC: u32 = 0xBAAA_D700;
const VERSION: u8 = 2;
const SERIES_ALIGNMENT: u64 = 16;

pub(super) struct IndexWriter {
    file: BufWriter<File>,
    path: PathBuf,
    at: u64,
    symbols: Vec<String>,
    numbers: HashMap<String, u32>,
    symbols_at: u64,
    series_at: u64,
    last: Vec<u8>,
    all: Vec<u32>,
    /// Series by the symbols of name and value, which sort as the texts do.
    postings: BTreeMap<(u32, u32), Vec<u32>>,
}

impl IndexWriter {
    pub(super) fn create(folder: &Path, symbols: &BTreeSet<String>) -> Result<Self, TsdbError> {
        let path = folder.join(FILE);
        let file = File::create(&path).map_err(TsdbError::io(&path))?;
        let mut index = Self {
            file: BufWriter::with_capacity(256 << 10, file),
            path,
            at: 0,
            symbols: symbols.iter().cloned().collect(),
            numbers: symbols.iter().cloned().zip(0..).collect(),
            symbols_at: 0,
            series_at: 0,
            last: Vec::new(),
            all: Vec::new(),
            postings: BTreeMap::new(),
        };
        index.write(&MAGIC.to_be_bytes())?;
        index.write(&[VERSION])?;
        index.symbols_at = index.at;
        let mut body = count(symbols.len()).to_vec();
        for symbol in symbols {
            put_text(&mut body, symbol);
        }
        index.write_section(&body)?;
        index.pad(SERIES_ALIGNMENT)?;
        index.series_at = index.at;
        Ok(index)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), TsdbError> {
        self.at += bytes.len() as u64;
        self.file.write_all(bytes).map_err(TsdbError::io(&self.path))
    }

    fn pad(&mut self, alignment: u64) -> Result<(), TsdbError> {
        let zeros = self.at.next_multiple_of(alignment) - self.at;
        self.write(&[0; 16][..zeros as usize])
    }

    fn limit(&self, what: impl Into<String>) -> TsdbError {
        TsdbError::Limit {
            file: self.path.clone(),
            what: what.into(),
        }
    }

    /// A section with its length before it and its checksum after it.
    fn write_section(&mut self, body: &[u8]) -> Result<(), TsdbError> {
        let len = u32::try_from(body.len());
        let len =
            len.map_err(|_| self.limit("a part of the index is longer than 4 GiB: export fewer series at a time"))?;
        self.write(&len.to_be_bytes())?;
        self.write(body)?;
        self.write(&crc32c::crc32c(body).to_be_bytes())
    }

    /// `chunks`: first sample, last sample, reference.
    pub(super) fn add_series(&mut self, labels: LabelsRef<'_>, chunks: &[(i64, i64, u64)]) -> Result<(), TsdbError> {
        if !self.all.is_empty() && labels <= LabelsRef::from_canonical(&self.last) {
            return Err(self.limit(format!("series {} comes out of order", labels.to_owned())));
        }
        self.last.clear();
        self.last.extend_from_slice(labels.as_bytes());
        self.pad(SERIES_ALIGNMENT)?;
        let number = u32::try_from(self.at / SERIES_ALIGNMENT);
        let number =
            number.map_err(|_| self.limit("the index is longer than 64 GiB: export fewer series at a time"))?;
        let mut body = Vec::new();
        let pairs: Vec<_> = labels.iter().collect();
        put_uvarint(&mut body, pairs.len() as u64);
        for (name, value) in pairs {
            let symbol = |text: &str| self.numbers.get(text).copied();
            let (Some(name), Some(value)) = (symbol(name), symbol(value)) else {
                return Err(self.limit(format!("label {name}={value:?} was not among the symbols")));
            };
            put_uvarint(&mut body, u64::from(name));
            put_uvarint(&mut body, u64::from(value));
            self.postings.entry((name, value)).or_default().push(number);
        }
        put_chunks(&mut body, chunks);
        let mut entry = Vec::with_capacity(body.len() + 10);
        put_uvarint(&mut entry, body.len() as u64);
        entry.extend_from_slice(&body);
        entry.extend_from_slice(&crc32c::crc32c(&body).to_be_bytes());
        self.all.push(number);
        self.write(&entry)
    }

    pub(super) fn finish(mut self) -> Result<(), TsdbError> {
        let label_indices_at = self.at;
        let label_offsets = self.write_label_indices()?;
        self.pad(4)?;
        let postings_at = self.at;
        let postings_offsets = self.write_postings()?;
        let label_offsets_at = self.at;
        self.write_section(&label_offsets)?;
        let postings_offsets_at = self.at;
        self.write_section(&postings_offsets)?;
        let offsets = [
            self.symbols_at,
            self.series_at,
            label_indices_at,
            label_offsets_at,
            postings_at,
            postings_offsets_at,
        ];
        let contents = offsets.map(u64::to_be_bytes).concat();
        self.write(&contents)?;
        self.write(&crc32c::crc32c(&contents).to_be_bytes())?;
        self.file.flush().map_err(TsdbError::io(&self.path))?;
        self.file.get_ref().sync_all().map_err(TsdbError::io(&self.path))
    }

    /// Gives the table of their offsets.
    fn write_label_indices(&mut self) -> Result<Vec<u8>, TsdbError> {
        let mut values: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (name, value) in self.postings.keys() {
            values.entry(*name).or_default().push(*value);
        }
        let mut offsets = count(values.len()).to_vec();
        for (name, values) in values {
            self.pad(4)?;
            offsets.push(1);
            put_text(&mut offsets, &self.symbols[name as usize]);
            put_uvarint(&mut offsets, self.at);
            let mut body = [1_u32.to_be_bytes(), count(values.len())].concat();
            body.extend(values.iter().flat_map(|value| value.to_be_bytes()));
            self.write_section(&body)?;
        }
        Ok(offsets)
    }

    /// Gives the table of their offsets.
    fn write_postings(&mut self) -> Result<Vec<u8>, TsdbError> {
        let (all, postings) = (std::mem::take(&mut self.all), std::mem::take(&mut self.postings));
        let mut offsets = count(postings.len() + 1).to_vec();
        offsets.push(2);
        put_text(&mut offsets, "");
        put_text(&mut offsets, "");
        put_uvarint(&mut offsets, self.at);
        self.write_list(&all)?;
        for ((name, value), series) in postings {
            offsets.push(2);
            put_text(&mut offsets, &self.symbols[name as usize]);
            put_text(&mut offsets, &self.symbols[value as usize]);
            put_uvarint(&mut offsets, self.at);
            self.write_list(&series)?;
        }
        Ok(offsets)
    }

    /// Lists are of whole words, so that the next one is aligned too.
    fn write_list(&mut self, series: &[u32]) -> Result<(), TsdbError> {
        let mut body = count(series.len()).to_vec();
        body.extend(series.iter().flat_map(|series| series.to_be_bytes()));
        self.write_section(&body)
    }
}

/// Never as many as 2^32: each has bytes of a section, the length of which is checked.
fn count(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes()
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_uvarint(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn put_chunks(body: &mut Vec<u8>, chunks: &[(i64, i64, u64)]) {
    put_uvarint(body, chunks.len() as u64);
    let mut before: Option<(i64, u64)> = None;
    for (min_ms, max_ms, reference) in chunks {
        let width = max_ms.wrapping_sub(*min_ms) as u64;
        match before {
            None => {
                put_uvarint(body, zigzag(*min_ms));
                put_uvarint(body, width);
                put_uvarint(body, *reference);
            }
            Some((last_ms, last)) => {
                put_uvarint(body, min_ms.wrapping_sub(last_ms) as u64);
                put_uvarint(body, width);
                put_uvarint(body, zigzag(reference.wrapping_sub(last) as i64));
            }
        }
        before = Some((*max_ms, *reference));
    }
}
