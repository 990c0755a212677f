//! Where a window keeps the pages of its series: closed ones in an arena, those that grow in pieces of memory of their
//! own, which go once nothing grows there any more.

use super::arena::PageArena;
use super::growing::GrowingPage;

/// Pages of a piece: 44 KiB.
const PIECE: usize = 512;

#[derive(Debug, Default)]
pub(crate) struct Room {
    pub(super) closed: PageArena,
    pub(super) growing: GrowingPages,
}

/// Of a page that grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u32);

#[derive(Debug, Default)]
pub(super) struct GrowingPages {
    pieces: Vec<Vec<Option<GrowingPage>>>,
    free: Vec<u32>,
    len: usize,
}

impl Slot {
    const fn split(self) -> (usize, usize) {
        (self.0 as usize / PIECE, self.0 as usize % PIECE)
    }
}

impl GrowingPages {
    pub(super) fn insert(&mut self, page: GrowingPage) -> Slot {
        let slot = Slot(self.free.pop().unwrap_or_else(|| {
            if self.pieces.last().is_none_or(|piece| piece.len() == PIECE) {
                let few = self.pieces.is_empty();
                self.pieces.push(Vec::with_capacity(if few { 4 } else { PIECE }));
            }
            let number = self.pieces.len() - 1;
            self.pieces[number].push(None);
            (number * PIECE + self.pieces[number].len() - 1) as u32
        }));
        let (piece, at) = slot.split();
        self.pieces[piece][at] = Some(page);
        self.len += 1;
        slot
    }

    #[inline]
    pub(super) fn get(&self, slot: Slot) -> Option<&GrowingPage> {
        let (piece, at) = slot.split();
        self.pieces.get(piece)?.get(at)?.as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut GrowingPage> {
        let (piece, at) = slot.split();
        self.pieces.get_mut(piece)?.get_mut(at)?.as_mut()
    }

    /// Takes a page out.
    pub(super) fn take(&mut self, slot: Slot) -> Option<GrowingPage> {
        let (piece, at) = slot.split();
        let page = self.pieces.get_mut(piece)?.get_mut(at)?.take()?;
        self.len -= 1;
        if self.len == 0 {
            *self = Self::default();
        } else {
            self.free.push(slot.0);
        }
        Some(page)
    }

    /// Memory of it, and of what pages lead to, in bytes.
    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> [usize; 2] {
        let capacity: usize = self.pieces.iter().map(Vec::capacity).sum();
        let pages = self.pieces.iter().flatten().flatten();
        [
            capacity * size_of::<Option<GrowingPage>>() + self.free.capacity() * size_of::<u32>(),
            pages.map(GrowingPage::heap_bytes).sum(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::Value;

    #[test]
    fn places_are_used_again_and_go_with_the_last_page() {
        let mut pages = GrowingPages::default();
        let page = |at: i64| GrowingPage::new(at, &Value::Float(0.0).into()).unwrap();
        let mut slots: Vec<Slot> = (0..1_200).map(|at| pages.insert(page(at))).collect();
        for slot in slots.drain(..600) {
            assert!(pages.take(slot).is_some() && pages.get(slot).is_none() && pages.take(slot).is_none());
        }
        slots.extend((1_200..1_800).map(|at| pages.insert(page(at))));
        assert_eq!(pages.pieces.len(), 1_200usize.div_ceil(PIECE));
        let begins = slots.iter().map(|slot| pages.get(*slot).unwrap().first_ms());
        assert!(begins.eq(600..1_800));
        for slot in slots {
            assert!(pages.take(slot).is_some());
        }
        assert!(pages.pieces.is_empty() && pages.free.is_empty());
    }
}
