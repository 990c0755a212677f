//! `tombstones`: time ranges of series that are deleted.
//!
//! ```text
//! magic 0x0130BA30: u32   version 1: u8   { series: uvarint  first: varint  last: varint }*   crc: u32
//! ```
//! Both ends are inclusive. The checksum is of what follows the version.

use super::TsdbError;
use super::file::{Fields, has_crc};
use std::collections::HashMap;
use std::path::Path;

const FILE: &str = "tombstones";
const MAGIC: [u8; 4] = 0x0130_BA30_u32.to_be_bytes();
const VERSION: u8 = 1;
/// Prometheus reads the whole file into memory too; nobody has one like this.
const MAX_BYTES: u64 = 256 << 20;

/// Deleted ranges by series.
#[derive(Debug, Default)]
pub(super) struct Tombstones(HashMap<u64, Vec<(i64, i64)>>);

impl Tombstones {
    /// Of the block in `folder`; without the file there are none.
    pub(super) fn read(folder: &Path) -> Result<Self, TsdbError> {
        let file = folder.join(FILE);
        let len = match std::fs::metadata(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            found => found.map_err(TsdbError::io(&file))?.len(),
        };
        let damaged = |offset: usize, what: &str| TsdbError::Damaged {
            file: file.clone(),
            offset: offset as u64,
            what: what.to_owned(),
        };
        if len > MAX_BYTES {
            return Err(damaged(0, "it has more than 256 MiB, which no block has"));
        }
        let bytes = std::fs::read(&file).map_err(TsdbError::io(&file))?;
        Self::parse(&bytes).map_err(|(offset, what)| damaged(offset, what))
    }

    /// What is wrong, and where.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, (usize, &'static str)> {
        let body = bytes
            .strip_prefix(&MAGIC)
            .ok_or((0, "it does not begin as tombstones do"))?;
        let (&version, body) = body.split_first().ok_or((4, "it is cut short"))?;
        if version != VERSION {
            return Err((4, "its version is unknown, 1 is known"));
        }
        let (body, crc) = body.split_last_chunk::<4>().ok_or((5, "it is cut short"))?;
        if !has_crc(body, crc) {
            return Err((5, "its checksum is wrong"));
        }
        let mut fields = Fields(body);
        let mut all: HashMap<u64, Vec<(i64, i64)>> = HashMap::new();
        while !fields.0.is_empty() {
            let at = 5 + body.len() - fields.0.len();
            let mut one = || Some((fields.uvarint()?, fields.varint()?, fields.varint()?));
            let (series, first, last) = one().ok_or((at, "a tombstone is cut short"))?;
            all.entry(series).or_default().push((first, last));
        }
        Ok(Self(all))
    }

    /// The deleted ranges of a series, inclusive.
    pub(super) fn of(&self, series: u64) -> &[(i64, i64)] {
        self.0.get(&series).map_or(&[], Vec::as_slice)
    }

    /// Writes a file without tombstones.
    pub(super) fn write_none(folder: &Path) -> Result<(), TsdbError> {
        let file = folder.join(FILE);
        let bytes = [&MAGIC[..], &[VERSION], &crc32c::crc32c(&[]).to_be_bytes()].concat();
        std::fs::write(&file, bytes).map_err(TsdbError::io(&file))
    }
}
