//! Columns of times: what several pages have of them is there once. A target's series are scraped together, so a page's
//! times are mostly those of another page, or nearly: of a series that began later, ended earlier, or missed some.
//!
//! ```text
//! times chunk = column*                                       compressed as a chunk of the index is
//! column      = count:uvarint  first:uvarint(zigzag)  last - first:uvarint  len:uvarint  times of a page, len bytes
//! ```

use super::layout::Input;
use crate::page::times::{decode_times, put_times};
use crate::page::{Coding, MAX_PAGE_SAMPLES, Page, PageError, PageHeader};
use bytes::Bytes;
use gnomon_model::labels::put_uvarint;
use std::collections::HashMap;
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// Parts of columns have so many holes at most: they are in the directory, which is bounded.
const MOST_HOLES: usize = 64;

/// Part of a column.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Slice {
    /// Number of the column in the block.
    pub(super) column: u32,
    /// Times of the column before the first.
    pub(super) skip: u32,
    /// How many times; none where it is the whole column.
    pub(super) count: Option<u32>,
    /// Times that are in, then such that are left out, again and again; the rest is in.
    pub(super) holes: Vec<(u32, u32)>,
}

impl Slice {
    pub(super) fn memory_bytes(&self) -> usize {
        // With the counters of what shares it.
        size_of::<Self>() + 16 + self.holes.capacity() * size_of::<(u32, u32)>()
    }

    pub(super) const fn whole(column: u32) -> Self {
        Self {
            column,
            skip: 0,
            count: None,
            holes: Vec::new(),
        }
    }

    pub(super) const fn is_whole(&self) -> bool {
        self.count.is_none()
    }

    /// Its times of all of the column; none where the column has not so many.
    fn of(&self, all: &[i64]) -> Option<Vec<i64>> {
        let count = self.count.map_or(all.len(), |count| count as usize);
        let mut times = Vec::with_capacity(count.min(all.len()));
        let mut rest = all.get(self.skip as usize..)?;
        for (kept, left_out) in &self.holes {
            let (its, after) = rest.split_at_checked(*kept as usize)?;
            times.extend_from_slice(its);
            rest = after.get(*left_out as usize..)?;
        }
        let more = count.checked_sub(times.len())?;
        times.extend_from_slice(rest.get(..more)?);
        Some(times)
    }

    /// The part of `all` that `times` are; none where they are not, or with too many holes.
    fn find(column: u32, all: &[i64], times: &[i64]) -> Option<Self> {
        let skip = all.partition_point(|t| Some(t) < times.first());
        let most_holes = (1 + times.len() / 16).min(MOST_HOLES);
        let mut holes = Vec::new();
        let mut at = skip;
        let mut kept = 0;
        for time in times {
            let begin = at;
            while all.get(at)? < time {
                at += 1;
            }
            if all[at] > *time {
                return None;
            }
            if at > begin {
                holes.push((kept, (at - begin) as u32));
                kept = 0;
                if holes.len() > most_holes {
                    return None;
                }
            }
            kept += 1;
            at += 1;
        }
        Some(Self {
            column,
            skip: skip as u32,
            count: Some(times.len() as u32),
            holes,
        })
    }
}

/// Whether so many times can begin and end so.
pub(super) const fn is_sound(count: u32, min_ts: i64, max_ts: i64) -> bool {
    let is_one = count == 1;
    count > 0 && count <= MAX_PAGE_SAMPLES && min_ts <= max_ts && is_one == (min_ts == max_ts)
}

/// A column that was read.
#[derive(Debug)]
pub(super) struct Column {
    header: PageHeader,
    bytes: Bytes,
}

impl Column {
    /// All of a chunk that was decompressed; none where they are cut short.
    pub(super) fn read_all(raw: &Bytes, columns: u32) -> Option<Vec<Self>> {
        let mut input = Input(raw);
        let mut all = Vec::with_capacity((columns as usize).min(raw.len() / 4));
        for _ in 0..columns {
            let count = u32::try_from(input.uvarint()?).ok()?;
            let first = input.uvarint()?;
            let min_ts = ((first >> 1) as i64) ^ -((first & 1) as i64);
            let max_ts = min_ts.wrapping_add(input.uvarint()? as i64);
            let len = input.length()?;
            let bytes = input.bytes(len)?;
            if !is_sound(count, min_ts, max_ts) {
                return None;
            }
            all.push(Self {
                header: PageHeader {
                    coding: Coding::Columns,
                    count,
                    min_ts,
                    max_ts,
                },
                bytes: raw.slice_ref(bytes),
            });
        }
        input.0.is_empty().then_some(all)
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.bytes.len()
    }

    /// The times of a page, as they are written in it.
    ///
    /// # Errors
    /// When they are not those that the page's header says.
    pub(super) fn times_of(&self, slice: &Slice, page: &PageHeader) -> Result<Bytes, PageError> {
        const OTHER: PageError = PageError::Corrupt("its times are not those of its column");
        let is_page = |count: usize, first: i64, last: i64| {
            (count, first, last) == (page.count as usize, page.min_ts, page.max_ts)
        };
        let its = &self.header;
        if slice.is_whole() {
            let is_its = is_page(its.count as usize, its.min_ts, its.max_ts);
            return if is_its { Ok(self.bytes.clone()) } else { Err(OTHER) };
        }
        let mut all = Vec::new();
        decode_times(its, &self.bytes, (i64::MIN, i64::MAX), &mut all)?;
        let times = slice.of(&all).ok_or(OTHER)?;
        let (Some(first), Some(last)) = (times.first(), times.last()) else {
            return Err(OTHER);
        };
        if !is_page(times.len(), *first, *last) {
            return Err(OTHER);
        }
        let mut bytes = Vec::new();
        put_times(&times, &mut bytes);
        Ok(bytes.into())
    }
}

/// Columns are looked up among so many; then it begins anew.
const MOST_COLUMNS: usize = 1 << 17;
/// Columns of which a part may be found have so many times together (8 bytes each); then it begins anew.
const MOST_TIMES: usize = 1 << 21;
/// A chunk of columns is closed at so many bytes before compression.
const CHUNK_BYTES: usize = 8 << 10;
/// Times of a page that are looked up to find a column it is part of.
const TRIES: usize = 3;

/// The columns of a block that is being written.
pub(super) struct Columns {
    seed: u64,
    next: u32,
    /// By what they are.
    whole: HashMap<u128, u32>,
    /// The newest column that has a time, of some times.
    having: HashMap<i64, u32>,
    /// Their times.
    times: HashMap<u32, Vec<i64>>,
    times_count: usize,
    /// Chunks that are not written yet: how many columns, and the bytes.
    chunks: Vec<(u32, Vec<u8>)>,
}

impl Columns {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            next: 0,
            whole: HashMap::new(),
            having: HashMap::new(),
            times: HashMap::new(),
            times_count: 0,
            chunks: Vec::new(),
        }
    }

    /// Bytes that wait to be written.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.chunks.iter().map(|(_, raw)| raw.len()).sum()
    }

    /// The chunks since the last call.
    pub(super) fn take_chunks(&mut self) -> Vec<(u32, Vec<u8>)> {
        std::mem::take(&mut self.chunks)
    }

    /// Where the times of a page are, which `bytes` are.
    ///
    /// # Errors
    /// When the page is damaged.
    pub(super) fn place(&mut self, page: &Page, bytes: &[u8]) -> Result<Slice, PageError> {
        let mut column = Vec::with_capacity(bytes.len() + 24);
        put_uvarint(&mut column, u64::from(page.count));
        put_uvarint(&mut column, ((page.min_ts << 1) ^ (page.min_ts >> 63)) as u64);
        put_uvarint(&mut column, page.max_ts.wrapping_sub(page.min_ts) as u64);
        put_uvarint(&mut column, bytes.len() as u64);
        column.extend_from_slice(bytes);
        let key = xxh3_128_with_seed(&column, self.seed);
        if let Some(column) = self.whole.get(&key) {
            return Ok(Slice::whole(*column));
        }
        let mut times = Vec::new();
        decode_times(&page.header(), bytes, (i64::MIN, i64::MAX), &mut times)?;
        if let Some(slice) = self.find(&times) {
            return Ok(slice);
        }
        let number = self.next;
        self.next = number
            .checked_add(1)
            .ok_or(PageError::Corrupt("block has 2^32 columns of times"))?;
        if self.whole.len() >= MOST_COLUMNS {
            self.whole.clear();
        }
        self.whole.insert(key, number);
        self.remember(number, times);
        match self.chunks.last_mut() {
            Some((columns, raw)) if raw.len() < CHUNK_BYTES => {
                *columns += 1;
                raw.extend_from_slice(&column);
            }
            _ => self.chunks.push((1, column)),
        }
        Ok(Slice::whole(number))
    }

    /// Whether columns are found by a time: by one in eight.
    const fn is_mark(time: &i64) -> bool {
        (*time as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 61 == 0
    }

    fn find(&self, times: &[i64]) -> Option<Slice> {
        let columns = times.iter().filter(|t| Self::is_mark(t)).take(TRIES);
        let mut columns = columns.filter_map(|time| self.having.get(time));
        columns.find_map(|column| Slice::find(*column, self.times.get(column)?, times))
    }

    fn remember(&mut self, column: u32, times: Vec<i64>) {
        if self.times_count + times.len() > MOST_TIMES {
            self.having.clear();
            self.times.clear();
            self.times_count = 0;
        }
        self.times_count += times.len();
        self.having
            .extend(times.iter().filter(|t| Self::is_mark(t)).map(|time| (*time, column)));
        self.times.insert(column, times);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn parts_of_a_column_are_found_and_come_back(
            steps in prop::collection::vec(1..30_000_i64, 20..300), skip in 0..15_usize, end in any::<prop::sample::Index>(),
            holes in prop::collection::vec(any::<prop::sample::Index>(), 0..4), other in any::<prop::sample::Index>(),
        ) {
            let mut at = 0;
            let all: Vec<i64> = steps.iter().map(|step| { at += step; at }).collect();
            let end = skip + 1 + end.index(all.len() - skip);
            let mut times = all[skip..end.min(all.len())].to_vec();
            for hole in holes {
                if times.len() > 1 {
                    times.remove(hole.index(times.len()));
                }
            }
            if let Some(slice) = Slice::find(7, &all, &times) {
                prop_assert_eq!(slice.of(&all), Some(times.clone()));
            } else {
                prop_assert!(times.len() < 64, "few holes are taken");
            }
            // A time that the column has not.
            let at = other.index(times.len());
            times[at] += 1;
            if !all.contains(&times[at]) && times.windows(2).all(|w| w[0] < w[1]) {
                prop_assert_eq!(Slice::find(7, &all, &times), None);
            }
        }
    }

    #[test]
    fn a_part_that_no_column_has_is_none() {
        let part = |skip, count, holes: &[(u32, u32)]| Slice {
            column: 0,
            skip,
            count: Some(count),
            holes: holes.to_vec(),
        };
        let all = [1, 2, 3, 4, 5];
        assert_eq!(part(1, 3, &[(1, 1)]).of(&all), Some(vec![2, 4, 5]));
        for part in [
            part(6, 1, &[]),
            part(1, 5, &[]),
            part(0, 4, &[(5, 1)]),
            part(0, 1, &[(3, 0)]),
            part(0, 5, &[(1, u32::MAX)]),
        ] {
            assert_eq!(part.of(&all), None, "{part:?}");
        }
    }

    /// Their checksum is right, and no writer makes them: decoding would divide by their spacing.
    #[test]
    fn columns_that_cannot_be_are_refused() {
        let column = |count: u64, width: u64| {
            let mut raw = Vec::new();
            for number in [count, 0, width, 1] {
                gnomon_model::labels::put_uvarint(&mut raw, number);
            }
            raw.push(0);
            Column::read_all(&raw.into(), 1).is_some()
        };
        assert!(column(1, 0) && column(2, 15_000) && column(65_536, 65_535));
        assert!(!column(0, 0) && !column(2, 0) && !column(1, 5) && !column(65_537, 65_536));
    }
}
