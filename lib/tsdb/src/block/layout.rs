//! Header, footer, and the two sparse tables that a reader holds in memory.

use bytes::Bytes;
use gnomon_model::labels::{get_uvarint, put_uvarint};
use std::ops::Range;

pub(super) const MAGIC: [u8; 8] = *b"GNOMBLK\x01";
pub(super) const HEADER_LEN: usize = 16;
/// Sections of the footer, in the order of the file.
pub(super) const SECTIONS: usize = 11;
pub(super) const FOOTER_LEN: usize = SECTIONS * 20 + 4 + 8 + 4 + 8;

/// A chunk of series is closed at so many, or so many bytes of labels, or so many pages.
pub(super) const SERIES_PER_CHUNK: usize = 1024;
/// What a reader accepts: a small table cannot claim billions of series.
pub(super) const MAX_SERIES_PER_CHUNK: u32 = 1 << 16;
pub(super) const LABEL_BYTES_PER_CHUNK: usize = 1 << 20;
pub(super) const PAGES_PER_CHUNK: usize = 16 << 10;
/// Or so many bytes of times that no chunk before had.
pub(super) const TIMES_BYTES_PER_CHUNK: usize = 1 << 20;
/// Longest label set that is taken.
pub(super) const MAX_LABELS_LEN: usize = 1 << 20;
/// No chunk is longer uncompressed: a bound on what a reader allocates.
pub(super) const MAX_CHUNK_LEN: u64 = 16 << 20;
/// Before version 3 sets of so few series are written within their value's entry.
pub(super) const INLINE_POSTINGS: usize = 8;

/// The parts of a block, in file order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Section {
    Pages = 0,
    Series = 1,
    Directory = 2,
    Values = 3,
    Postings = 4,
    Exemplars = 5,
    Metadata = 6,
    SeriesTable = 7,
    ValueTable = 8,
    Filter = 9,
    Meta = 10,
}

impl Section {
    pub(super) const ALL: [Self; SECTIONS] = [
        Self::Pages,
        Self::Series,
        Self::Directory,
        Self::Values,
        Self::Postings,
        Self::Exemplars,
        Self::Metadata,
        Self::SeriesTable,
        Self::ValueTable,
        Self::Filter,
        Self::Meta,
    ];
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SectionAt {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) crc: u32,
}

impl SectionAt {
    pub(super) const fn range(self) -> Range<u64> {
        self.offset..self.offset + self.len
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) sections: [SectionAt; SECTIONS],
    pub(super) version: u32,
    pub(super) file_len: u64,
}

pub(super) fn header(version: u32) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend(version.to_le_bytes());
    out.extend([0; 4]);
    out
}

impl Footer {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(FOOTER_LEN);
        for section in &self.sections {
            out.extend(section.offset.to_le_bytes());
            out.extend(section.len.to_le_bytes());
            out.extend(section.crc.to_le_bytes());
        }
        out.extend(self.version.to_le_bytes());
        out.extend(self.file_len.to_le_bytes());
        out.extend(crc32c::crc32c(&out).to_le_bytes());
        out.extend(MAGIC);
        out
    }

    /// Reads the last bytes of a file of `file_len` bytes. The version is checked by the caller.
    pub(super) fn read(tail: &[u8], file_len: u64) -> Result<Self, &'static str> {
        let start = tail
            .len()
            .checked_sub(FOOTER_LEN)
            .ok_or("it is shorter than a footer")?;
        let (body, end) = tail[start..].split_at(FOOTER_LEN - 12);
        let (crc, magic) = end.split_at(4);
        if magic != MAGIC {
            return Err("it does not end with a block's magic bytes");
        }
        if !super::has_crc(body, u32::from_le_bytes(crc.try_into().unwrap_or_default())) {
            return Err("checksum of the footer");
        }
        let mut input = Input(body);
        let mut sections = [SectionAt::default(); SECTIONS];
        let mut end = HEADER_LEN as u64;
        for section in &mut sections {
            let cut = "footer is cut short";
            section.offset = input.u64().ok_or(cut)?;
            section.len = input.u64().ok_or(cut)?;
            section.crc = input.u32().ok_or(cut)?;
            if section.offset != end {
                return Err("sections of the footer do not follow each other");
            }
            end = section.offset.checked_add(section.len).ok_or("section is too long")?;
        }
        let version = input.u32().ok_or("footer is cut short")?;
        let written_len = input.u64().ok_or("footer is cut short")?;
        if written_len != file_len || end.checked_add(FOOTER_LEN as u64) != Some(file_len) {
            return Err("file length is not the footer's");
        }
        Ok(Self {
            sections,
            version,
            file_len,
        })
    }

    pub(super) const fn section(&self, section: Section) -> SectionAt {
        self.sections[section as usize]
    }
}

/// Reads from the front of a slice; every read may fail, none panics.
pub(super) struct Input<'a>(pub(super) &'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn uvarint(&mut self) -> Option<u64> {
        let (value, rest) = get_uvarint(self.0)?;
        self.0 = rest;
        Some(value)
    }

    pub(super) fn length(&mut self) -> Option<usize> {
        usize::try_from(self.uvarint()?).ok()
    }

    pub(super) fn crc(&mut self) -> Option<u32> {
        u32::try_from(self.uvarint()?).ok()
    }

    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        let (bytes, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*bytes))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*bytes))
    }

    /// A text that shares its beginning with `last`, which it replaces.
    pub(super) fn front_coded(&mut self, last: &mut Vec<u8>) -> Option<()> {
        let shared = self.length()?;
        let len = self.length()?;
        let suffix = self.bytes(len)?;
        if shared > last.len() || shared + suffix.len() > MAX_LABELS_LEN + 16 {
            return None;
        }
        last.truncate(shared);
        last.extend_from_slice(suffix);
        Some(())
    }
}

/// Where a compressed chunk is within its section.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ChunkAt {
    /// Within the file.
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) crc: u32,
    pub(super) raw_len: u64,
}

impl ChunkAt {
    pub(super) const fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.len
    }

    /// Appends length, checksum and uncompressed length; the offset follows from the chunks before.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put_uvarint(out, self.len);
        put_uvarint(out, u64::from(self.crc));
        put_uvarint(out, self.raw_len);
    }

    pub(super) fn read(input: &mut Input<'_>, offset: &mut u64) -> Option<Self> {
        let chunk = Self {
            offset: *offset,
            len: input.uvarint()?,
            crc: input.crc()?,
            raw_len: input.uvarint()?,
        };
        *offset = offset.checked_add(chunk.len)?;
        Some(chunk)
    }

    /// Checks and decompresses what was read at [`Self::range`].
    pub(super) fn open(&self, compressed: &[u8]) -> Result<Vec<u8>, &'static str> {
        if compressed.len() as u64 != self.len || !super::has_crc(compressed, self.crc) {
            return Err("checksum of a chunk of the index");
        }
        if self.raw_len > MAX_CHUNK_LEN {
            return Err("a chunk of the index is too long");
        }
        let raw = if cfg!(fuzzing) {
            compressed.to_vec()
        } else {
            zstd::bulk::decompress(compressed, self.raw_len as usize).map_err(|_| "zstd")?
        };
        if raw.len() as u64 != self.raw_len {
            return Err("a chunk of the index has another length than its table says");
        }
        Ok(raw)
    }
}

/// A chunk of consecutive series: its labels, its page directory, and its pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SeriesChunk {
    pub(super) first_series: u32,
    pub(super) series: u32,
    pub(super) labels: ChunkAt,
    pub(super) directory: ChunkAt,
    /// Within the file.
    pub(super) pages_offset: u64,
    pub(super) pages_len: u64,
    /// Chunks of times that follow the pages.
    pub(super) times_chunks: u32,
}

/// A chunk of columns of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimesChunk {
    pub(super) first_column: u32,
    pub(super) columns: u32,
    pub(super) at: ChunkAt,
}

/// Since this version pages lie in groups, their times apart.
pub(super) const WITH_GROUPS: u32 = 3;
/// Since this version the labels of a chunk and its directory stand together.
const SERIES_TOGETHER: u32 = 3;

/// The chunks of series, and those of times, in the order of the file.
pub(super) fn write_series_table(chunks: &[SeriesChunk], times: &[TimesChunk]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut times = times.iter();
    put_uvarint(&mut out, chunks.len() as u64);
    for chunk in chunks {
        put_uvarint(&mut out, u64::from(chunk.series));
        chunk.labels.write(&mut out);
        chunk.directory.write(&mut out);
        put_uvarint(&mut out, chunk.pages_len);
        put_uvarint(&mut out, u64::from(chunk.times_chunks));
        for times in times.by_ref().take(chunk.times_chunks as usize) {
            put_uvarint(&mut out, u64::from(times.columns));
            times.at.write(&mut out);
        }
    }
    out
}

pub(super) fn read_series_table(bytes: &[u8], footer: &Footer) -> Option<(Vec<SeriesChunk>, Vec<TimesChunk>)> {
    let mut input = Input(bytes);
    let count = input.length()?;
    // Eight numbers each.
    if count > bytes.len() / 8 {
        return None;
    }
    let mut chunks = Vec::with_capacity(count);
    let mut times = Vec::new();
    let (mut first_series, mut first_column) = (0_u32, 0_u32);
    let is_together = footer.version >= SERIES_TOGETHER;
    let mut labels_at = footer.section(Section::Series).offset;
    let mut directory_at = footer.section(Section::Directory).offset;
    let mut pages_at = footer.section(Section::Pages).offset;
    for _ in 0..count {
        let series = u32::try_from(input.uvarint()?)
            .ok()
            .filter(|n| (1..=MAX_SERIES_PER_CHUNK).contains(n))?;
        let labels = ChunkAt::read(&mut input, &mut labels_at)?;
        let directory_at = if is_together { &mut labels_at } else { &mut directory_at };
        let mut chunk = SeriesChunk {
            first_series,
            series,
            labels,
            directory: ChunkAt::read(&mut input, directory_at)?,
            pages_offset: pages_at,
            pages_len: input.uvarint()?,
            times_chunks: 0,
        };
        first_series = first_series.checked_add(series)?;
        pages_at = pages_at.checked_add(chunk.pages_len)?;
        if footer.version >= WITH_GROUPS {
            chunk.times_chunks = u32::try_from(input.uvarint()?).ok()?;
        }
        for _ in 0..chunk.times_chunks {
            let columns = u32::try_from(input.uvarint()?).ok()?;
            let at = ChunkAt::read(&mut input, &mut pages_at)?;
            times.push(TimesChunk {
                first_column,
                columns,
                at,
            });
            first_column = first_column.checked_add(columns)?;
        }
        chunks.push(chunk);
    }
    let ends = [
        (labels_at, Section::Series),
        (directory_at, Section::Directory),
        (pages_at, Section::Pages),
    ];
    let complete = input.0.is_empty()
        && ends
            .iter()
            .all(|(end, section)| *end == footer.section(*section).range().end);
    complete.then_some((chunks, times))
}

/// A chunk of consecutive label values with the postings of those that have more than a few series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ValueChunk {
    /// Key of its first entry ([`value_key`]).
    pub(super) first_key: Bytes,
    pub(super) entries: ChunkAt,
    /// Within the file.
    pub(super) postings_offset: u64,
    pub(super) postings_len: u64,
}

impl ValueChunk {
    pub(super) const fn postings(&self) -> Range<u64> {
        self.postings_offset..self.postings_offset + self.postings_len
    }
}

/// What the entries of the values section are sorted by: values of one name are together, in order.
pub(super) fn value_key(name: &str, value: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.len() + value.len() + 2);
    put_uvarint(&mut key, name.len() as u64);
    key.extend_from_slice(name.as_bytes());
    key.extend_from_slice(value.as_bytes());
    key
}

/// Name and value of a key.
pub(super) fn split_key(key: &[u8]) -> Option<(&str, &str)> {
    let mut input = Input(key);
    let len = input.length()?;
    let name = input.bytes(len)?;
    Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(input.0).ok()?))
}

/// The table over the values section before version 3, and the label names with their number of values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ValueTable {
    /// Sorted.
    pub(super) names: Vec<(String, u64)>,
    pub(super) chunks: Vec<ValueChunk>,
}

impl ValueTable {
    pub(super) fn read(bytes: &[u8], footer: &Footer) -> Option<Self> {
        let mut input = Input(bytes);
        let mut table = Self::default();
        for _ in 0..input.length()? {
            let len = input.length()?;
            let name = std::str::from_utf8(input.bytes(len)?).ok()?.to_owned();
            table.names.push((name, input.uvarint()?));
        }
        let mut entries_at = footer.section(Section::Values).offset;
        let mut postings_at = footer.section(Section::Postings).offset;
        for _ in 0..input.length()? {
            let len = input.length()?;
            let chunk = ValueChunk {
                first_key: Bytes::copy_from_slice(input.bytes(len)?),
                entries: ChunkAt::read(&mut input, &mut entries_at)?,
                postings_offset: postings_at,
                postings_len: input.uvarint()?,
            };
            postings_at = postings_at.checked_add(chunk.postings_len)?;
            table.chunks.push(chunk);
        }
        let complete = input.0.is_empty()
            && entries_at == footer.section(Section::Values).range().end
            && postings_at == footer.section(Section::Postings).range().end;
        complete.then_some(table)
    }
}
