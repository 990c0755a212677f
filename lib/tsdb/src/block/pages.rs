//! Pages as they lie in a block, read and put together again: up to version 1 they are whole; in version 2 they have no
//! header but the coding, the directory has the rest; since version 3 times and values are apart, in groups.

use super::cache::Part;
use super::directory::{CRC_LEN, PageAt, Place, Stored, Times};
use super::layout::TimesChunk;
use super::times::{Column, Slice};
use super::{BlockError, BlockReader};
use crate::page::times::EVEN;
use crate::page::{Coding, Page, PageError, PageHeader};
use bytes::Bytes;
use gnomon_model::Labels;
use gnomon_model::labels::put_uvarint;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// The first version without headers.
const WITHOUT_HEADERS: u32 = 2;
/// What a header may take, about.
const HEADER_BYTES: usize = 16;
/// What times in a column take for each sample, about.
const TIME_BYTES: u64 = 2;

/// What pages take that are read together.
#[derive(Default)]
pub(super) struct Load {
    bytes: u64,
    last: Option<Range<u64>>,
}

impl Load {
    /// With one more; what lies between two groups is read too, where it is at most `gap_bytes`.
    pub(super) fn add(&mut self, page: &PageAt, gap_bytes: u64) -> u64 {
        if matches!(page.times, Times::Of(_)) {
            self.bytes += u64::from(page.count) * TIME_BYTES;
        }
        let Some(place) = page.place() else {
            return self.bytes;
        };
        // Each has its own bytes once they are put together.
        self.bytes += u64::from(place.len);
        let range = place.range();
        if self.last.as_ref() == Some(&range) {
            return self.bytes;
        }
        let end = self.last.as_ref().map_or(range.start, |last| last.end);
        let gap = range.start.saturating_sub(end);
        self.bytes += range.end - range.start + if gap <= gap_bytes { gap } else { 0 };
        self.last = Some(range);
        self.bytes
    }
}

/// Groups of pages and columns of times that were read, of which pages are put together.
pub(super) struct Fetched {
    groups: BTreeMap<u64, Bytes>,
    times: HashMap<u32, Arc<Vec<Column>>>,
}

impl BlockReader {
    /// The chunk that has a column of times.
    fn times_chunk(&self, column: u32) -> Option<&TimesChunk> {
        let at = self.times.partition_point(|chunk| chunk.first_column <= column);
        let chunk = self.times.get(at.checked_sub(1)?)?;
        (column - chunk.first_column < chunk.columns).then_some(chunk)
    }

    /// What pages consist of, by place: what is kept of it goes to `times`.
    fn wanted<'p>(
        &self,
        pages: &[(&'p Labels, &PageAt)],
        times: &mut HashMap<u32, Arc<Vec<Column>>>,
    ) -> Result<BTreeMap<u64, Wanted<'p>>, BlockError> {
        let mut wanted: BTreeMap<u64, Wanted<'p>> = BTreeMap::new();
        for &(labels, page) in pages {
            if let Some(place) = page.place() {
                wanted.entry(place.group).or_insert(Wanted::Group(place, labels));
            }
            if let Times::Of(slice) = &page.times {
                let chunk = self.times_chunk(slice.column).ok_or_else(|| {
                    self.damaged(format!(
                        "directory names a column of times that is not there, for {labels}"
                    ))
                })?;
                if times.contains_key(&chunk.first_column) || wanted.contains_key(&chunk.at.offset) {
                    continue;
                }
                match self.kept(chunk.at.offset) {
                    Some(Part::Times(columns)) => drop(times.insert(chunk.first_column, columns)),
                    _ => drop(wanted.insert(chunk.at.offset, Wanted::Times(*chunk))),
                }
            }
        }
        Ok(wanted)
    }

    /// What is read for some pages.
    #[cfg(test)]
    pub(super) fn ranges_of(&self, pages: &[(&Labels, &PageAt)]) -> Result<Vec<Range<u64>>, BlockError> {
        let wanted = self.wanted(pages, &mut HashMap::new())?;
        Ok(wanted.values().map(Wanted::range).collect())
    }

    /// Reads what pages consist of.
    pub(super) async fn fetch_parts(&self, pages: &[(&Labels, &PageAt)]) -> Result<Fetched, BlockError> {
        let mut times = HashMap::new();
        let wanted = self.wanted(pages, &mut times)?;
        let ranges: Vec<Range<u64>> = wanted.values().map(Wanted::range).collect();
        if let Some(pair) = ranges.windows(2).find(|pair| pair[0].end > pair[1].start) {
            return Err(self.damaged_at(pair[1].start, "groups of pages overlap"));
        }
        let read = self.fetch_pages(&ranges).await?;
        let mut groups = BTreeMap::new();
        for (wanted, bytes) in wanted.into_values().zip(read) {
            match wanted {
                Wanted::Group(place, labels) => {
                    groups.insert(place.group, self.checked(&place, &bytes, labels)?);
                }
                Wanted::Times(chunk) => {
                    let columns = Arc::new(self.times_of(&chunk, &bytes)?);
                    self.keep(chunk.at.offset, &Part::Times(Arc::clone(&columns)));
                    times.insert(chunk.first_column, columns);
                }
            }
        }
        Ok(Fetched { groups, times })
    }

    /// A group without its checksum, which is that of its bytes.
    fn checked(&self, place: &Place, bytes: &Bytes, labels: &Labels) -> Result<Bytes, BlockError> {
        let (group, crc) = bytes
            .split_at_checked(place.group_len as usize)
            .ok_or_else(|| self.damaged_at(place.group, format!("length of a page of {labels}")))?;
        let crc = <[u8; CRC_LEN as usize]>::try_from(crc).map(u32::from_le_bytes);
        if !crc.is_ok_and(|crc| super::has_crc(group, crc)) {
            return Err(self.damaged_at(place.group, format!("checksum of a page of {labels}")));
        }
        Ok(bytes.slice(..place.group_len as usize))
    }

    fn times_of(&self, chunk: &TimesChunk, compressed: &[u8]) -> Result<Vec<Column>, BlockError> {
        let raw = chunk.at.open(compressed);
        let raw = raw.map_err(|what| self.damaged_at(chunk.at.offset, format!("columns of times: {what}")))?;
        Column::read_all(&raw.into(), chunk.columns).ok_or_else(|| self.damaged_at(chunk.at.offset, "columns of times"))
    }

    pub(super) fn bad_page(&self, labels: &Labels, source: PageError) -> BlockError {
        BlockError::Page {
            path: self.path.clone(),
            labels: labels.clone(),
            source,
        }
    }
}

enum Wanted<'p> {
    Group(Place, &'p Labels),
    Times(TimesChunk),
}

impl Wanted<'_> {
    fn range(&self) -> Range<u64> {
        match self {
            Self::Group(place, _) => place.range(),
            Self::Times(chunk) => chunk.at.range(),
        }
    }
}

enum Opened {
    Page(Page),
    /// Among the bytes that were put together.
    At(PageHeader, Range<usize>),
}

/// Pages that are put together.
pub(super) struct Pages<'r> {
    reader: &'r BlockReader,
    fetched: Fetched,
    opened: Vec<Opened>,
    /// Pages with headers, one after the other.
    whole: Vec<u8>,
    /// Parts of columns, as they are written in pages: those of one target's series are the same.
    parts: HashMap<Arc<Slice>, Bytes>,
}

impl<'r> Pages<'r> {
    /// There will be these.
    pub(super) fn new(reader: &'r BlockReader, fetched: Fetched, pages: &[(&Labels, &PageAt)]) -> Self {
        let bytes = |page: &PageAt| {
            let times = matches!(page.times, Times::Of(_)).then(|| u64::from(page.count) * TIME_BYTES);
            HEADER_BYTES + page.place().map_or(0, |place| place.len as usize) + times.unwrap_or(0) as usize
        };
        // No more than they take: they may be kept for long.
        let whole = if reader.footer.version < WITHOUT_HEADERS {
            Vec::new()
        } else {
            Vec::with_capacity(pages.iter().map(|(_, page)| bytes(page)).sum())
        };
        Self {
            reader,
            fetched,
            opened: Vec::with_capacity(pages.len()),
            whole,
            parts: HashMap::new(),
        }
    }

    /// Puts a page together.
    pub(super) fn add(&mut self, at: &PageAt, labels: &Labels) -> Result<(), BlockError> {
        let reader = self.reader;
        let bad = |source| reader.bad_page(labels, source);
        let stored = match at.stored {
            Stored::One(_) => None,
            Stored::At(place) => Some((place, self.bytes_at(&place, labels)?)),
        };
        if let Some((place, bytes)) = &stored
            && reader.footer.version < WITHOUT_HEADERS
        {
            let page = Page::parse(bytes.clone()).map_err(bad)?;
            if (page.count, page.min_ts, page.max_ts) != (at.count, at.min_ts, at.max_ts) {
                let what = format!("directory and header of a page of {labels} differ");
                return Err(reader.damaged_at(place.group, what));
            }
            self.opened.push(Opened::Page(page));
            return Ok(());
        }
        let mut body = stored.as_ref().map_or(&[][..], |(_, bytes)| bytes);
        let coding = match at.coding {
            Some(coding) => coding,
            None => {
                let (&tag, rest) = body.split_first().ok_or_else(|| bad(PageError::Truncated))?;
                body = rest;
                Coding::from_tag(tag).ok_or_else(|| bad(PageError::UnknownCoding(tag)))?
            }
        };
        let header = PageHeader {
            coding,
            count: at.count,
            min_ts: at.min_ts,
            max_ts: at.max_ts,
        };
        let from = self.whole.len();
        header.write(&mut self.whole);
        // The directory's figures may be those of no page.
        PageHeader::read(&self.whole[from..]).map_err(bad)?;
        match &at.times {
            Times::Within => {}
            Times::Even => self.whole.push(EVEN),
            Times::Of(slice) => {
                let times = self.times(slice, &header).map_err(|source| {
                    let chunk = reader.times_chunk(slice.column);
                    let what = format!("times of a page of {labels}: {source}");
                    chunk.map_or_else(|| bad(source), |chunk| reader.damaged_at(chunk.at.offset, what))
                })?;
                self.whole.extend_from_slice(&times);
            }
        }
        match at.stored {
            Stored::One(bits) => {
                self.whole.push(crate::page::ONE_VALUE);
                put_uvarint(&mut self.whole, bits.swap_bytes());
            }
            Stored::At(_) => self.whole.extend_from_slice(body),
        }
        if let Some(starts) = &at.starts {
            starts.put_into(&mut self.whole, from);
        }
        self.opened.push(Opened::At(header, from..self.whole.len()));
        Ok(())
    }

    fn bytes_at(&self, place: &Place, labels: &Labels) -> Result<Bytes, BlockError> {
        let group = self.fetched.groups.get(&place.group);
        let bytes = group.and_then(|group| {
            let range = place.from as usize..(place.from as usize).checked_add(place.len as usize)?;
            (range.end <= group.len()).then(|| group.slice(range))
        });
        bytes.ok_or_else(|| {
            self.reader
                .damaged_at(place.group, format!("length of a page of {labels}"))
        })
    }

    fn times(&mut self, slice: &Arc<Slice>, header: &PageHeader) -> Result<Bytes, PageError> {
        if let Some(bytes) = self.parts.get(slice) {
            return Ok(bytes.clone());
        }
        let chunk = self.reader.times_chunk(slice.column);
        let column = chunk.and_then(|chunk| {
            let columns = self.fetched.times.get(&chunk.first_column)?;
            columns.get((slice.column - chunk.first_column) as usize)
        });
        let column = column.ok_or(PageError::Corrupt("its column is not there"))?;
        let bytes = column.times_of(slice, header)?;
        if !slice.is_whole() {
            self.parts.insert(Arc::clone(slice), bytes.clone());
        }
        Ok(bytes)
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
