//! Where the closed pages of a window lie: one after the other in large pieces of memory, which are given back together
//! when the window is sealed. Pieces of their own would cost more than many pages are long, and pages of all series grow
//! in step: what an allocator gets back is too short for what is wanted next, and stays with it. The places of short
//! records that nobody needs any more are used again by those of the same length.
//!
//! ```text
//! record = place of the series' page before: u32   len: uvarint   page          at a multiple of 4 bytes
//! place  = piece: u16   bytes from its begin, in fours: u16
//! ```

use gnomon_model::labels::{get_uvarint, put_uvarint};
use gnomon_tsdb::page::PageError;

/// As much as a place can name. A record that is longer has a piece of its own.
const PIECE_BYTES: usize = UNIT << 16;
const UNIT: usize = 4;
const PLACE_BYTES: usize = 4;
const MAX_UVARINT: usize = 10;
/// So much that nobody needs any more is left where it is, or as much as is needed.
const FEW_DEAD_BYTES: usize = 1 << 20;

/// Of records up to this length, places are used again.
const SHORT_UNITS: usize = 64;

/// Of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u32);

impl Place {
    /// Of no record: the last unit of the last piece, where none fits.
    pub(crate) const NONE: Self = Self(u32::MAX);

    /// The piece, and the bytes before it there.
    const fn split(self) -> (usize, usize) {
        ((self.0 >> 16) as usize, (self.0 & 0xffff) as usize * UNIT)
    }
}

#[derive(Debug, Default)]
pub(crate) struct PageArena {
    pieces: Vec<Vec<u8>>,
    used: usize,
    dead: usize,
    /// Of the dead bytes, those whose places are used again.
    reusable: usize,
    /// By length in units, the first of the places that are free; each record there says which is the next.
    free: Vec<Place>,
}

/// What the record of a page takes.
const fn units_of(page_len: usize) -> usize {
    (PLACE_BYTES + uvarint_len(page_len) + page_len).div_ceil(UNIT)
}

const fn uvarint_len(value: usize) -> usize {
    let bits = usize::BITS - (value | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// The arena has 16 GiB of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// Of a page.
fn len_bytes(page_len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(MAX_UVARINT);
    put_uvarint(&mut out, page_len as u64);
    out
}

impl PageArena {
    /// Adds a page; `before` is where its series' last one is.
    pub(crate) fn push(&mut self, before: Place, page: &[u8]) -> Result<Place, Full> {
        if let Some(place) = self.reuse(units_of(page.len())) {
            let mut record = self.record_mut(place);
            for part in [&before.0.to_le_bytes()[..], &len_bytes(page.len()), page] {
                let (to, rest) = std::mem::take(&mut record)
                    .split_at_mut_checked(part.len())
                    .ok_or(Full)?;
                to.copy_from_slice(part);
                record = rest;
            }
            return Ok(place);
        }
        let most = PLACE_BYTES + MAX_UVARINT + page.len() + UNIT;
        let fits = |piece: &Vec<u8>| piece.len() + most <= PIECE_BYTES;
        if !self.pieces.last().is_some_and(fits) {
            // None is of that number, so that no place is `NONE`.
            if self.pieces.len() >= usize::from(u16::MAX) {
                return Err(Full);
            }
            if let Some(full) = self.pieces.last_mut() {
                full.shrink_to_fit();
            }
            // Small windows are many; a long one gets whole pieces.
            let capacity = if self.pieces.is_empty() {
                most
            } else {
                PIECE_BYTES.max(most)
            };
            self.pieces.push(Vec::with_capacity(capacity));
        }
        let number = self.pieces.len() - 1;
        let piece = &mut self.pieces[number];
        let from = piece.len();
        piece.extend_from_slice(&before.0.to_le_bytes());
        put_uvarint(piece, page.len() as u64);
        piece.extend_from_slice(page);
        piece.resize(piece.len().next_multiple_of(UNIT), 0);
        self.used += piece.len() - from;
        Ok(Place(((number << 16) | (from / UNIT)) as u32))
    }

    /// A page, and the place of the one before it.
    pub(crate) fn get(&self, place: Place) -> Result<(Place, &[u8]), PageError> {
        let (piece, from) = place.split();
        let record = self.pieces.get(piece).and_then(|piece| piece.get(from..));
        let (before, rest) = record.and_then(|r| r.split_first_chunk()).ok_or(PageError::Truncated)?;
        let (len, rest) = get_uvarint(rest).ok_or(PageError::Truncated)?;
        let page = usize::try_from(len).ok().and_then(|len| rest.get(..len));
        Ok((Place(u32::from_le_bytes(*before)), page.ok_or(PageError::Truncated)?))
    }

    /// Nobody needs a record any more, whose page was so long.
    pub(crate) fn release(&mut self, place: Place, page_len: usize) {
        let units = units_of(page_len);
        self.dead += units * UNIT;
        if units > SHORT_UNITS {
            return;
        }
        self.reusable += units * UNIT;
        if self.free.is_empty() {
            self.free = vec![Place::NONE; SHORT_UNITS + 1];
        }
        let next = std::mem::replace(&mut self.free[units], place);
        if let Some(link) = self.record_mut(place).first_chunk_mut() {
            *link = next.0.to_le_bytes();
        }
    }

    /// A place that is free.
    fn reuse(&mut self, units: usize) -> Option<Place> {
        let place = *self.free.get(units).filter(|place| **place != Place::NONE)?;
        let next = self.record_mut(place).first_chunk().copied().map(u32::from_le_bytes);
        self.free[units] = next.map_or(Place::NONE, Place);
        self.dead = self.dead.saturating_sub(units * UNIT);
        self.reusable = self.reusable.saturating_sub(units * UNIT);
        Some(place)
    }

    /// From a place on; empty where there is none.
    fn record_mut(&mut self, place: Place) -> &mut [u8] {
        let (piece, from) = place.split();
        let record = self.pieces.get_mut(piece).and_then(|piece| piece.get_mut(from..));
        record.unwrap_or_default()
    }

    /// Whether most of it had better be given back: what is needed is then copied to another.
    pub(crate) const fn is_wasteful(&self) -> bool {
        let lost = self.dead.saturating_sub(self.reusable);
        self.dead > FEW_DEAD_BYTES && (lost > self.used / 2 || self.dead > self.used / 4 * 3)
    }

    /// Memory of it, in bytes.
    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> usize {
        self.pieces.iter().map(Vec::capacity).sum()
    }

    /// Bytes of all records, those that nobody needs included.
    pub(crate) const fn used(&self) -> usize {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_where_they_were_put_and_lead_to_those_before() {
        let mut arena = PageArena::default();
        let mut last = [Place::NONE; 3];
        let page = |series: usize, number: usize| vec![series as u8; number * 37 % 1_000];
        for number in 0..1_000 {
            for (series, last) in last.iter_mut().enumerate() {
                *last = arena.push(*last, &page(series, number)).unwrap();
            }
        }
        // Longer than a piece.
        last[0] = arena.push(last[0], &vec![7; PIECE_BYTES * 2]).unwrap();
        last[1] = arena.push(last[1], &[8; 10]).unwrap();
        let (before, long) = arena.get(last[0]).unwrap();
        assert_eq!((long.len(), long[0]), (PIECE_BYTES * 2, 7));
        let (next, short) = arena.get(last[1]).unwrap();
        assert_eq!(short, [8; 10]);
        for (series, mut place) in [(0, before), (1, next), (2, last[2])] {
            for number in (0..1_000).rev() {
                let (before, found) = arena.get(place).unwrap();
                assert_eq!(found, page(series, number), "{series} {number}");
                place = before;
            }
            assert_eq!(place, Place::NONE);
        }
        assert!(arena.get(Place::NONE).is_err());
        assert!(arena.get(Place(0x8000_0000)).is_err());
    }

    #[test]
    fn an_arena_is_wasteful_once_half_of_it_is_dead() {
        let mut arena = PageArena::default();
        let places = [0; 4].map(|_| arena.push(Place::NONE, &[0; 1 << 20]).unwrap());
        arena.release(places[0], 1 << 20);
        arena.release(places[2], 1 << 20);
        assert!(!arena.is_wasteful());
        arena.release(places[3], 1 << 20);
        assert!(arena.is_wasteful());
    }

    #[test]
    fn places_of_short_records_are_used_again() {
        let mut arena = PageArena::default();
        let page = |len: usize, with: u8| vec![with; len];
        let before = arena.push(Place::NONE, &page(7, 9)).unwrap();
        let places: Vec<Place> = (0..300).map(|len| arena.push(before, &page(len, 1)).unwrap()).collect();
        let used = arena.used();
        for (len, place) in places.iter().enumerate() {
            arena.release(*place, len);
        }
        let again: Vec<Place> = (0..300).map(|len| arena.push(before, &page(len, 2)).unwrap()).collect();
        for (len, place) in again.iter().enumerate() {
            assert_eq!(arena.get(*place), Ok((before, &page(len, 2)[..])), "{len}");
        }
        assert_eq!(arena.get(before), Ok((Place::NONE, &page(7, 9)[..])));
        let long: usize = (0..300).map(units_of).filter(|units| *units > SHORT_UNITS).sum();
        assert_eq!((arena.used() - used, arena.dead), (long * UNIT, long * UNIT));
    }
}
