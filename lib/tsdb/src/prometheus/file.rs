//! Reading a file here and there, through a window of it in memory.

use super::TsdbError;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Read ahead so much: chunks and series are mostly asked for in their order.
const WINDOW_BYTES: usize = 256 << 10;

/// A file that is read only.
#[derive(Debug)]
pub(super) struct Reader {
    file: File,
    path: PathBuf,
    len: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl Reader {
    pub(super) fn open(path: &Path) -> Result<Self, TsdbError> {
        let file = File::open(path).map_err(TsdbError::io(path))?;
        let len = file.metadata().map_err(TsdbError::io(path))?.len();
        Ok(Self {
            file,
            path: path.to_owned(),
            len,
            window: Vec::new(),
            window_at: 0,
        })
    }

    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn damaged(&self, offset: u64, what: impl Into<String>) -> TsdbError {
        TsdbError::Damaged {
            file: self.path.clone(),
            offset,
            what: what.into(),
        }
    }

    /// At most `most` bytes from `at` on: fewer at the end of the file.
    pub(super) fn up_to(&mut self, at: u64, most: usize) -> Result<&[u8], TsdbError> {
        let there = self.len.saturating_sub(at).min(most as u64) as usize;
        let skip = at.checked_sub(self.window_at).map_or(usize::MAX, |skip| skip as usize);
        if skip.saturating_add(there) > self.window.len() {
            let wanted = there.max(WINDOW_BYTES).min(self.len.saturating_sub(at) as usize);
            // Nothing is kept where reading fails.
            let mut window = std::mem::take(&mut self.window);
            window.resize(wanted, 0);
            self.file
                .read_exact_at(&mut window, at)
                .map_err(TsdbError::io(&self.path))?;
            (self.window, self.window_at) = (window, at);
            return Ok(&self.window[..there]);
        }
        Ok(&self.window[skip..skip + there])
    }

    /// Exactly `len` bytes from `at` on.
    pub(super) fn bytes(&mut self, at: u64, len: usize) -> Result<&[u8], TsdbError> {
        if self.len.saturating_sub(at) < len as u64 {
            let what = format!("{len} bytes should be there, the file ends at {}", self.len);
            return Err(self.damaged(at, what));
        }
        self.up_to(at, len)
    }

    pub(super) fn u32(&mut self, at: u64) -> Result<u32, TsdbError> {
        let mut number = [0; 4];
        number.copy_from_slice(self.bytes(at, 4)?);
        Ok(u32::from_be_bytes(number))
    }
}

/// Whether bytes have the checksum that follows them. For a fuzzer they always do.
pub(super) fn has_crc(bytes: &[u8], crc: &[u8]) -> bool {
    cfg!(fuzzing) || crc32c::crc32c(bytes).to_be_bytes() == crc
}

/// Fields one after another; every call gives none where the bytes end before.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn uvarint(&mut self) -> Option<u64> {
        let (value, rest) = gnomon_model::labels::get_uvarint(self.0)?;
        self.0 = rest;
        Some(value)
    }

    pub(super) fn varint(&mut self) -> Option<i64> {
        self.uvarint().map(super::bits::unzigzag)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*number))
    }

    /// Bytes after their length.
    pub(super) fn text(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.uvarint()?).ok()?;
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(text)
    }
}
