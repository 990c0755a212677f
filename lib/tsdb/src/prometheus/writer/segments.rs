//! Segments of chunks, one after another.

use crate::prometheus::TsdbError;
use crate::prometheus::chunk::Chunk;
use crate::prometheus::segments::{HEADER_LEN, MAGIC, VERSION, path};
use gnomon_model::labels::put_uvarint;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// A segment is at most this long.
const MAX_SEGMENT_BYTES: u64 = 512 << 20;

pub(super) struct SegmentWriter {
    folder: PathBuf,
    /// The segment that is written, from 0.
    number: u32,
    open: Option<(BufWriter<File>, PathBuf)>,
    at: u64,
}

impl SegmentWriter {
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            number: 0,
            open: None,
            at: 0,
        }
    }

    /// Writes a chunk, and gives its reference.
    pub(super) fn add(&mut self, chunk: &Chunk) -> Result<u64, TsdbError> {
        let mut bytes = Vec::with_capacity(chunk.data.len() + 10);
        put_uvarint(&mut bytes, chunk.data.len() as u64);
        let begin = bytes.len();
        bytes.push(chunk.encoding);
        bytes.extend_from_slice(&chunk.data);
        let crc = crc32c::crc32c(&bytes[begin..]);
        bytes.extend_from_slice(&crc.to_be_bytes());
        if self.open.is_some() && self.at + bytes.len() as u64 > MAX_SEGMENT_BYTES {
            self.close()?;
            self.number += 1;
        }
        if self.open.is_none() {
            self.begin()?;
        }
        if let Some((file, name)) = &mut self.open {
            file.write_all(&bytes).map_err(TsdbError::io(name))?;
        }
        let reference = u64::from(self.number) << 32 | self.at;
        self.at += bytes.len() as u64;
        Ok(reference)
    }

    fn begin(&mut self) -> Result<(), TsdbError> {
        let name = path(&self.folder, self.number);
        let mut file = File::create(&name).map_err(TsdbError::io(&name))?;
        let header = [&MAGIC.to_be_bytes()[..], &[VERSION, 0, 0, 0]].concat();
        file.write_all(&header).map_err(TsdbError::io(&name))?;
        self.open = Some((BufWriter::with_capacity(256 << 10, file), name));
        self.at = HEADER_LEN;
        Ok(())
    }

    fn close(&mut self) -> Result<(), TsdbError> {
        let Some((mut file, name)) = self.open.take() else {
            return Ok(());
        };
        file.flush().map_err(TsdbError::io(&name))?;
        file.get_ref().sync_all().map_err(TsdbError::io(&name))
    }

    pub(super) fn finish(mut self) -> Result<(), TsdbError> {
        self.close()
    }
}
