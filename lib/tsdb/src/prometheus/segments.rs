//! `chunks/000001` and so on.
//!
//! ```text
//! magic 0x85BD40DD: u32   version 1: u8   0 0 0   { len: uvarint  encoding: u8  data  crc: u32 }*
//! ```
//! The checksum is of the encoding and the data. A reference has the segment (from 0) in its upper 32 bits, and the
//! offset in the file in its lower.

use super::TsdbError;
use super::chunk::{decode_started, is_known};
use super::file::{Fields, Reader, has_crc};
use super::index::ChunkAt;
use crate::page::{PageSamples, Starts};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(super) const FOLDER: &str = "chunks";
pub(super) const MAGIC: u32 = 0x85BD_40DD;
pub(super) const VERSION: u8 = 1;
pub(super) const HEADER_LEN: u64 = 8;
/// A chunk: Prometheus' have some KiB, histograms with many buckets a few hundred.
const MAX_CHUNK_LEN: u64 = 64 << 20;
/// Segments that are open at a time.
const MAX_OPEN: usize = 64;

/// The path of a segment, from 0.
pub(super) fn path(folder: &Path, segment: u32) -> PathBuf {
    folder.join(FOLDER).join(format!("{:06}", u64::from(segment) + 1))
}

/// The segments of a block, opened when they are needed.
#[derive(Debug)]
pub(super) struct Segments {
    folder: PathBuf,
    open: BTreeMap<u32, Reader>,
}

impl Segments {
    pub(super) fn of(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            open: BTreeMap::new(),
        }
    }

    fn segment(&mut self, number: u32) -> Result<&mut Reader, TsdbError> {
        if !self.open.contains_key(&number) {
            if self.open.len() >= MAX_OPEN {
                // Chunks are mostly asked for in their order.
                self.open.pop_first();
            }
            let name = path(&self.folder, number);
            let mut file = match Reader::open(&name) {
                Err(TsdbError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    return Err(TsdbError::Damaged {
                        file: name,
                        offset: 0,
                        what: "the index names this segment, and it is not there".into(),
                    });
                }
                opened => opened?,
            };
            if file.u32(0)? != MAGIC {
                return Err(file.damaged(0, "it does not begin as a segment of chunks does"));
            }
            let version = file.bytes(4, 1)?[0];
            if version != VERSION {
                return Err(TsdbError::Unsupported {
                    file: file.path().to_owned(),
                    what: format!("version {version} is unknown, {VERSION} is known"),
                });
            }
            self.open.insert(number, file);
        }
        let none = || TsdbError::Unsupported {
            file: path(&self.folder, number),
            what: "it is not open".into(),
        };
        self.open.get_mut(&number).ok_or_else(none)
    }

    /// The samples of a chunk with their starts, and how many bytes it has.
    pub(super) fn chunk(&mut self, at: &ChunkAt) -> Result<((PageSamples, Starts), u64), TsdbError> {
        let (number, offset) = ((at.reference >> 32) as u32, at.reference & 0xffff_ffff);
        let file = self.segment(number)?;
        let head = file.up_to(offset, 10)?;
        let mut fields = Fields(head);
        let len = fields.uvarint();
        let begin = offset + (head.len() - fields.0.len()) as u64;
        let Some(len) = len.filter(|len| *len <= MAX_CHUNK_LEN) else {
            return Err(file.damaged(offset, "a chunk has a length that none has"));
        };
        let bytes = file.bytes(begin, len as usize + 5)?;
        let (body, crc) = bytes.split_at(len as usize + 1);
        if !has_crc(body, crc) {
            return Err(file.damaged(begin, "the checksum of a chunk is wrong"));
        }
        let encoding = body[0];
        match decode_started(encoding, &body[1..]) {
            Ok(samples) => Ok((samples, len + 1)),
            Err(what) if is_known(encoding) => Err(file.damaged(begin, what)),
            Err(what) => Err(TsdbError::Unsupported {
                file: file.path().to_owned(),
                what: format!("the chunk at byte {offset} has encoding {encoding}: {what}"),
            }),
        }
    }
}
