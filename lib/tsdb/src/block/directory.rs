//! The directory of a chunk of series: where each page's bytes are, and which times its samples have.
//!
//! Since version 3 pages lie in groups with one checksum each, their times apart from their values; what several pages
//! have alike is there once. The bytes are drawn in `format.md`.

use super::layout::{Input, SeriesChunk};
use super::starts;
use super::times::{Slice, is_sound};
use crate::page::{Coding, Starts};
use gnomon_model::labels::put_uvarint;
use std::ops::Range;
use std::sync::Arc;

/// A group is closed at so many bytes or pages: a read of one page reads its group.
pub(super) const GROUP_BYTES: u32 = 4 << 10;
pub(super) const GROUP_PAGES: u32 = 64;
/// No page is longer.
pub(super) const MOST_PAGE_BYTES: u32 = 1 << 30;
/// The checksum that follows a group.
pub(super) const CRC_LEN: u64 = 4;

/// Where bytes of a page are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Of the group, within the file.
    pub(super) group: u64,
    /// Of the group, without its checksum.
    pub(super) group_len: u32,
    /// Within the group.
    pub(super) from: u32,
    pub(super) len: u32,
}

impl Place {
    /// The group and its checksum.
    pub(super) const fn range(&self) -> Range<u64> {
        self.group..self.group + self.group_len as u64 + CRC_LEN
    }
}

/// Where a page's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// All samples have the value of these bits.
    One(u64),
    At(Place),
}

/// Where a page's times are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Times {
    /// With its values.
    Within,
    /// Evenly spaced.
    Even,
    /// In a column of times.
    Of(Arc<Slice>),
}

/// Where a page is and which time it covers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PageAt {
    /// None where the bytes begin with it: up to version 2.
    pub(super) coding: Option<Coding>,
    pub(super) count: u32,
    pub(super) min_ts: i64,
    /// Inclusive.
    pub(super) max_ts: i64,
    pub(super) times: Times,
    pub(super) stored: Stored,
    /// None where no start is known.
    pub(super) starts: Option<Arc<Starts>>,
}

impl PageAt {
    /// Where the bytes are, if there are any but those of the directory.
    pub(super) const fn place(&self) -> Option<Place> {
        match self.stored {
            Stored::One(_) => None,
            Stored::At(place) => Some(place),
        }
    }
}

const WITHIN: u8 = 0;
const EVEN: u8 = 1;
const WHOLE: u8 = 2;
const PART: u8 = 3;

const OWN: u8 = 0;
const ONE: u8 = 1;
const NEAR: u8 = 2;
const FAR: u8 = 3;

/// What a page's values are to the writer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Values {
    /// Bytes of its own, so many.
    Own(u32),
    One(u64),
    /// Those of the page at this place in the chunk.
    Near(u32),
    /// Those of a page of a chunk before.
    Far(Place),
}

/// What pages of one target have alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Row {
    pub(super) times: Times,
    pub(super) min_ts: i64,
    pub(super) max_ts: i64,
    pub(super) count: u32,
    /// None where no start is known.
    pub(super) starts: Option<Arc<Starts>>,
}

/// The directory that is being written.
#[derive(Default)]
pub(super) struct Directory {
    rows: Vec<Row>,
    numbers: std::collections::HashMap<Row, u32>,
    pages_of_series: Vec<u32>,
    /// Row, coding and values of each page.
    pages: Vec<(u32, Coding, Values)>,
}

impl Directory {
    pub(super) fn series(&self) -> usize {
        self.pages_of_series.len()
    }

    pub(super) fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Adds a page of the series that is ended next.
    pub(super) fn add(&mut self, row: Row, coding: Coding, values: Values) {
        let number = match self.numbers.get(&row) {
            Some(number) => *number,
            None => {
                let number = self.rows.len() as u32;
                self.numbers.insert(row.clone(), number);
                self.rows.push(row);
                number
            }
        };
        self.pages.push((number, coding, values));
    }

    pub(super) fn end_series(&mut self, pages: u32) {
        self.pages_of_series.push(pages);
    }

    /// The bytes, `with_starts` since version 5; pages of the chunk begin at `pages_offset`.
    pub(super) fn write(&self, pages_offset: u64, with_starts: bool) -> Vec<u8> {
        let mut out = Vec::new();
        self.write_rows(&mut out);
        if with_starts {
            starts::write(self.rows.iter().map(|row| row.starts.as_ref()), &mut out);
        }
        self.pages_of_series
            .iter()
            .for_each(|n| put_uvarint(&mut out, u64::from(*n)));
        let mut newest = 0;
        for (row, _, _) in &self.pages {
            if *row == newest {
                put_uvarint(&mut out, 0);
                newest += 1;
            } else {
                put_uvarint(&mut out, u64::from(newest - row));
            }
        }
        for (_, coding, values) in &self.pages {
            let kind = match values {
                Values::Own(_) => OWN,
                Values::One(_) => ONE,
                Values::Near(_) => NEAR,
                Values::Far(_) => FAR,
            };
            out.push(coding.tag() | kind << 4);
        }
        for (_, _, values) in &self.pages {
            if let Values::Own(len) = values {
                put_uvarint(&mut out, u64::from(*len));
            }
        }
        for (_, _, values) in &self.pages {
            if let Values::One(bits) = values {
                put_uvarint(&mut out, bits.swap_bytes());
            }
        }
        for (at, (_, _, values)) in (0_u32..).zip(&self.pages) {
            if let Values::Near(page) = values {
                put_uvarint(&mut out, u64::from(at - page));
            }
        }
        for (_, _, values) in &self.pages {
            if let Values::Far(place) = values {
                put_uvarint(&mut out, pages_offset - place.group);
                for number in [place.group_len, place.from, place.len] {
                    put_uvarint(&mut out, u64::from(number));
                }
            }
        }
        out
    }

    fn write_rows(&self, out: &mut Vec<u8>) {
        put_uvarint(out, self.rows.len() as u64);
        for row in &self.rows {
            out.push(match &row.times {
                Times::Within => WITHIN,
                Times::Even => EVEN,
                Times::Of(slice) if slice.is_whole() => WHOLE,
                Times::Of(_) => PART,
            });
        }
        let mut last = 0_i64;
        for row in &self.rows {
            put_step(out, row.min_ts.wrapping_sub(last));
            last = row.min_ts;
        }
        for row in &self.rows {
            put_uvarint(out, row.max_ts.wrapping_sub(row.min_ts) as u64);
        }
        self.rows.iter().for_each(|row| put_uvarint(out, u64::from(row.count)));
        let slices = || {
            self.rows.iter().filter_map(|row| match &row.times {
                Times::Of(slice) => Some(slice),
                _ => None,
            })
        };
        let mut last = 0_i64;
        for slice in slices() {
            put_step(out, i64::from(slice.column) - last);
            last = i64::from(slice.column);
        }
        for slice in slices().filter(|slice| !slice.is_whole()) {
            put_uvarint(out, u64::from(slice.skip));
            put_uvarint(out, slice.holes.len() as u64);
            for (kept, left_out) in &slice.holes {
                put_uvarint(out, u64::from(*kept));
                put_uvarint(out, u64::from(*left_out));
            }
        }
    }
}

fn put_step(out: &mut Vec<u8>, step: i64) {
    put_uvarint(out, ((step << 1) ^ (step >> 63)) as u64);
}

fn step(input: &mut Input<'_>) -> Option<i64> {
    let step = input.uvarint()?;
    Some(((step >> 1) as i64) ^ -((step & 1) as i64))
}

fn number(input: &mut Input<'_>) -> Option<u32> {
    u32::try_from(input.uvarint()?).ok()
}

/// The pages of each series of a chunk, since version 3, `with_starts` since version 5. `pages_begin` is where the section
/// of pages begins.
pub(super) fn read(raw: &[u8], chunk: &SeriesChunk, pages_begin: u64, with_starts: bool) -> Option<Vec<Vec<PageAt>>> {
    let mut input = Input(raw);
    let mut rows = read_rows(&mut input)?;
    if with_starts {
        let counts: Vec<u32> = rows.iter().map(|row| row.count).collect();
        for (row, starts) in rows.iter_mut().zip(starts::read(&mut input, &counts)?) {
            row.starts = starts;
        }
    }
    let mut counts = Vec::with_capacity((chunk.series as usize).min(raw.len()));
    for _ in 0..chunk.series {
        counts.push(input.length()?);
    }
    let total = counts.iter().try_fold(0_usize, |sum, n| sum.checked_add(*n))?;
    // Two numbers a page.
    if total > input.0.len() / 2 {
        return None;
    }
    let mut pages = Vec::with_capacity(total);
    let mut newest = 0_usize;
    for _ in 0..total {
        let back = input.length()?;
        let row = rows.get(newest.checked_sub(back)?)?;
        newest += usize::from(back == 0);
        pages.push(PageAt {
            coding: None,
            count: row.count,
            min_ts: row.min_ts,
            max_ts: row.max_ts,
            times: row.times.clone(),
            stored: Stored::One(0),
            starts: row.starts.clone(),
        });
    }
    let forms = input.bytes(total)?;
    for (page, form) in pages.iter_mut().zip(forms) {
        let coding = Coding::from_tag(form & 15)?;
        // Times are apart from values in columns, and only there.
        let is_apart = page.times != Times::Within;
        if coding.is_of_columns() != is_apart || form >> 4 > FAR || (form >> 4 == ONE && !is_apart) {
            return None;
        }
        page.coding = Some(coding);
    }
    place_own(&mut pages, forms, &mut input, chunk)?;
    let of_kind = |kind| move |(_, form): &(usize, &u8)| *form >> 4 == kind;
    for (at, _) in forms.iter().enumerate().filter(of_kind(ONE)) {
        pages[at].stored = Stored::One(input.uvarint()?.swap_bytes());
    }
    for (at, _) in forms.iter().enumerate().filter(of_kind(NEAR)) {
        let page = at.checked_sub(input.length()?)?;
        if forms[page] >> 4 != OWN {
            return None;
        }
        pages[at].stored = pages[page].stored;
    }
    for (at, _) in forms.iter().enumerate().filter(of_kind(FAR)) {
        let place = Place {
            group: chunk.pages_offset.checked_sub(input.uvarint()?)?,
            group_len: number(&mut input)?,
            from: number(&mut input)?,
            len: number(&mut input)?,
        };
        let is_inside = place.from.checked_add(place.len)? <= place.group_len
            && place.group >= pages_begin
            && place.range().end <= chunk.pages_offset;
        if !is_inside {
            return None;
        }
        pages[at].stored = Stored::At(place);
    }
    if !input.0.is_empty() {
        return None;
    }
    Some(by_series(pages, counts))
}

/// Where pages with bytes of their own are: group by group, from the begin of the chunk's pages to their end.
fn place_own(pages: &mut [PageAt], forms: &[u8], input: &mut Input<'_>, chunk: &SeriesChunk) -> Option<()> {
    let mut open: Vec<(usize, u32)> = Vec::new();
    let (mut group, mut group_len) = (chunk.pages_offset, 0_u32);
    let mut own = (0..pages.len()).filter(|at| forms[*at] >> 4 == OWN).peekable();
    while let Some(at) = own.next() {
        let len = number(input).filter(|len| *len <= MOST_PAGE_BYTES)?;
        open.push((at, len));
        group_len = group_len.checked_add(len)?;
        if own.peek().is_some() && !is_group_full(group_len, open.len() as u32) {
            continue;
        }
        let mut from = 0;
        for (at, len) in open.drain(..) {
            pages[at].stored = Stored::At(Place {
                group,
                group_len,
                from,
                len,
            });
            from += len;
        }
        group = group.checked_add(u64::from(group_len) + CRC_LEN)?;
        group_len = 0;
    }
    (group == chunk.pages_offset.checked_add(chunk.pages_len)?).then_some(())
}

/// Whether a group of so many bytes and pages is closed.
pub(super) const fn is_group_full(bytes: u32, pages: u32) -> bool {
    bytes >= GROUP_BYTES || pages >= GROUP_PAGES
}

fn read_rows(input: &mut Input<'_>) -> Option<Vec<Row>> {
    let count = input.length()?;
    // Four numbers each.
    if count > input.0.len() / 4 {
        return None;
    }
    let kinds = input.bytes(count)?;
    let mut rows: Vec<Row> = Vec::with_capacity(count);
    let mut last = 0_i64;
    for kind in kinds {
        last = last.wrapping_add(step(input)?);
        rows.push(Row {
            times: if *kind == WITHIN { Times::Within } else { Times::Even },
            min_ts: last,
            max_ts: last,
            count: 0,
            starts: None,
        });
    }
    for row in &mut rows {
        row.max_ts = row.min_ts.wrapping_add(input.uvarint()? as i64);
    }
    for row in &mut rows {
        row.count = number(input).filter(|count| is_sound(*count, row.min_ts, row.max_ts))?;
    }
    let mut columns = Vec::new();
    let mut last = 0_i64;
    for _ in kinds.iter().filter(|kind| **kind >= WHOLE) {
        last = last.checked_add(step(input)?)?;
        columns.push(u32::try_from(last).ok()?);
    }
    let mut columns = columns.into_iter();
    for (row, kind) in rows.iter_mut().zip(kinds) {
        row.times = match *kind {
            WHOLE => Times::Of(Arc::new(Slice::whole(columns.next()?))),
            PART => Times::Of(Arc::new(read_part(input, columns.next()?, row.count)?)),
            WITHIN | EVEN => continue,
            _ => return None,
        };
    }
    Some(rows)
}

fn read_part(input: &mut Input<'_>, column: u32, count: u32) -> Option<Slice> {
    let skip = number(input)?;
    let holes = input.length()?;
    // Two numbers each.
    if holes > input.0.len() / 2 {
        return None;
    }
    let mut part = Slice {
        column,
        skip,
        count: Some(count),
        holes: Vec::with_capacity(holes),
    };
    for _ in 0..holes {
        part.holes.push((number(input)?, number(input)?));
    }
    Some(part)
}

fn by_series(pages: Vec<PageAt>, counts: Vec<usize>) -> Vec<Vec<PageAt>> {
    let mut rest = pages.into_iter();
    counts.into_iter().map(|n| rest.by_ref().take(n).collect()).collect()
}

/// As [`read`], up to version 2: each page with a checksum of its own.
pub(super) fn read_ungrouped(raw: &[u8], chunk: &SeriesChunk) -> Option<Vec<Vec<PageAt>>> {
    let mut input = Input(raw);
    let mut counts = Vec::with_capacity((chunk.series as usize).min(raw.len()));
    for _ in 0..chunk.series {
        counts.push(input.length()?);
    }
    let total = counts.iter().try_fold(0_usize, |sum, n| sum.checked_add(*n))?;
    // Four numbers a page.
    if total > raw.len() / 4 {
        return None;
    }
    let mut pages = Vec::with_capacity(total);
    let mut offset = chunk.pages_offset;
    for _ in 0..total {
        let len = number(&mut input).filter(|len| *len <= MOST_PAGE_BYTES)?;
        let place = Place {
            group: offset,
            group_len: len,
            from: 0,
            len,
        };
        pages.push(PageAt {
            coding: None,
            count: 0,
            min_ts: 0,
            max_ts: 0,
            times: Times::Within,
            stored: Stored::At(place),
            starts: None,
        });
        offset = place.range().end;
    }
    let mut last = 0_i64;
    for page in &mut pages {
        last = last.wrapping_add(step(&mut input)?);
        page.min_ts = last;
    }
    for page in &mut pages {
        page.max_ts = page.min_ts.wrapping_add(input.uvarint()? as i64);
    }
    for page in &mut pages {
        page.count = number(&mut input)?;
    }
    if !input.0.is_empty() || offset != chunk.pages_offset + chunk.pages_len {
        return None;
    }
    Some(by_series(pages, counts))
}
