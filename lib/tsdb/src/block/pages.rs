//! Pages as they lie in a block. Since version 2 they have no header but the coding: the directory has the rest, and a
//! reader puts it before them again.

use super::layout::PageAt;
use super::{BlockError, BlockReader};
use crate::page::{Coding, Page, PageError, PageHeader};
use bytes::Bytes;
use gnomon_model::Labels;
use std::ops::Range;

/// The first version without headers.
const WITHOUT_HEADERS: u32 = 2;
/// What a header may take, about.
const HEADER_BYTES: usize = 16;

/// Writes a page as version 2 has it, with its checksum.
///
/// # Errors
/// When it does not begin with a header.
pub(super) fn write(page: &Page, out: &mut Vec<u8>) -> Result<(), PageError> {
    out.clear();
    out.push(page.coding.tag());
    out.extend_from_slice(page.body()?);
    out.extend(crc32c::crc32c(out).to_le_bytes());
    Ok(())
}

enum Opened {
    Page(Page),
    /// Among the bytes that were put together.
    At(PageHeader, Range<usize>),
}

/// Pages that are read together.
pub(super) struct Pages<'r> {
    reader: &'r BlockReader,
    opened: Vec<Opened>,
    /// Pages with headers, one after the other.
    whole: Vec<u8>,
}

impl<'r> Pages<'r> {
    /// There will be so many, of so many bytes.
    pub(super) fn new(reader: &'r BlockReader, count: usize, bytes: usize) -> Self {
        let whole = if reader.footer.version < WITHOUT_HEADERS {
            Vec::new()
        } else {
            Vec::with_capacity(bytes + count * HEADER_BYTES)
        };
        Self {
            reader,
            opened: Vec::with_capacity(count),
            whole,
        }
    }

    /// Takes a page and its checksum apart.
    pub(super) fn add(&mut self, at: &PageAt, bytes: &Bytes, labels: &Labels) -> Result<(), BlockError> {
        let reader = self.reader;
        let (stored, crc) = bytes
            .split_at_checked(at.len as usize)
            .ok_or_else(|| reader.damaged_at(at.offset, format!("length of a page of {labels}")))?;
        let crc = <[u8; 4]>::try_from(crc).map(u32::from_le_bytes);
        if !crc.is_ok_and(|crc| super::has_crc(stored, crc)) {
            return Err(reader.damaged_at(at.offset, format!("checksum of a page of {labels}")));
        }
        let bad = |source| reader.bad_page(labels, source);
        if reader.footer.version < WITHOUT_HEADERS {
            let page = Page::parse(bytes.slice(..at.len as usize)).map_err(bad)?;
            if (page.count, page.min_ts, page.max_ts) != (at.count, at.min_ts, at.max_ts) {
                return Err(reader.damaged_at(at.offset, format!("directory and header of a page of {labels} differ")));
            }
            self.opened.push(Opened::Page(page));
            return Ok(());
        }
        let (&tag, body) = stored.split_first().ok_or_else(|| bad(PageError::Truncated))?;
        let header = PageHeader {
            coding: Coding::from_tag(tag).ok_or_else(|| bad(PageError::UnknownCoding(tag)))?,
            count: at.count,
            min_ts: at.min_ts,
            max_ts: at.max_ts,
        };
        let from = self.whole.len();
        header.write(&mut self.whole);
        // The directory's figures may be those of no page.
        PageHeader::read(&self.whole[from..]).map_err(bad)?;
        self.whole.extend_from_slice(body);
        self.opened.push(Opened::At(header, from..self.whole.len()));
        Ok(())
    }

    /// All of them, in the order in which they came.
    pub(super) fn finish(self) -> impl Iterator<Item = Page> {
        let whole = Bytes::from(self.whole);
        self.opened.into_iter().map(move |opened| match opened {
            Opened::Page(page) => page,
            Opened::At(header, range) => header.of(whole.slice(range)),
        })
    }
}

impl BlockReader {
    pub(super) fn bad_page(&self, labels: &Labels, source: PageError) -> BlockError {
        BlockError::Page {
            path: self.path.clone(),
            labels: labels.clone(),
            source,
        }
    }

    /// One page, of its bytes with the checksum.
    pub(super) fn open_page(&self, at: &PageAt, bytes: &Bytes, labels: &Labels) -> Result<Page, BlockError> {
        let mut pages = Pages::new(self, 1, bytes.len());
        pages.add(at, bytes, labels)?;
        let page = pages.finish().next();
        page.ok_or_else(|| self.damaged_at(at.offset, format!("page of {labels}")))
    }
}
