//! A window that takes samples.
//!
//! Pages of series lie in pieces of memory that are the window's and go with it, and so does where they are: series come
//! to each window in step, and what each would free of its own when a window is sealed would be left between what stays.

use super::arena::PageArena;
use super::index::Ordinal;
use super::window::{BadPage, WindowPages};
use roaring::RoaringBitmap;

/// Series of a piece: 64 KiB.
const PIECE: usize = 512;
/// Of series that are not in the window.
const NOWHERE: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(crate) struct OpenWindow {
    /// Series with samples in it.
    pub(crate) members: RoaringBitmap,
    pub(crate) samples: u64,
    /// Their closed pages.
    pub(crate) arena: PageArena,
    /// The place of each, by ordinal.
    places: Vec<u32>,
    pieces: Vec<Vec<Option<WindowPages>>>,
    free: Vec<u32>,
}

const fn split(place: u32) -> (usize, usize) {
    (place as usize / PIECE, place as usize % PIECE)
}

impl OpenWindow {
    fn place(&self, ordinal: Ordinal) -> Option<(usize, usize)> {
        let place = *self.places.get(ordinal as usize)?;
        (place != NOWHERE).then(|| split(place))
    }

    #[inline]
    pub(crate) fn pages_of(&self, ordinal: Ordinal) -> Option<&WindowPages> {
        let (piece, at) = self.place(ordinal)?;
        self.pieces.get(piece)?.get(at)?.as_ref()
    }

    /// With the arena that goes with them.
    #[inline]
    pub(crate) fn pages_mut(&mut self, ordinal: Ordinal) -> Option<(&mut WindowPages, &mut PageArena)> {
        let (piece, at) = self.place(ordinal)?;
        let pages = self.pieces.get_mut(piece)?.get_mut(at)?.as_mut()?;
        Some((pages, &mut self.arena))
    }

    /// Enters a series that is not in it.
    pub(crate) fn add(&mut self, ordinal: Ordinal, pages: WindowPages) {
        let place = self.free.pop().unwrap_or_else(|| {
            if self.pieces.last().is_none_or(|piece| piece.len() == PIECE) {
                let few = self.pieces.is_empty();
                self.pieces.push(Vec::with_capacity(if few { 4 } else { PIECE }));
            }
            let number = self.pieces.len() - 1;
            let piece = &mut self.pieces[number];
            piece.push(None);
            (number * PIECE + piece.len() - 1) as u32
        });
        let (piece, at) = split(place);
        self.pieces[piece][at] = Some(pages);
        let at = ordinal as usize;
        if at >= self.places.len() {
            self.places.resize(at + 1, NOWHERE);
        }
        self.places[at] = place;
        self.members.insert(ordinal);
    }

    /// Takes a series out.
    pub(crate) fn remove(&mut self, ordinal: Ordinal) {
        let Some((piece, at)) = self.place(ordinal) else {
            return;
        };
        self.members.remove(ordinal);
        self.free
            .push(std::mem::replace(&mut self.places[ordinal as usize], NOWHERE));
        if let Some(pages) = self.pieces[piece][at].take() {
            pages.release(&mut self.arena);
        }
    }

    pub(crate) fn all_pages(&self) -> impl Iterator<Item = &WindowPages> {
        self.pieces.iter().flatten().flatten()
    }

    /// Gives back the memory of pages that were rewritten or deleted, where that is much.
    pub(crate) fn tidy(&mut self) -> Result<(), BadPage> {
        if !self.arena.is_wasteful() {
            return Ok(());
        }
        let mut tidied = PageArena::default();
        for pages in self.pieces.iter_mut().flatten().flatten() {
            pages.move_to(&self.arena, &mut tidied)?;
        }
        self.arena = tidied;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::Value;

    #[test]
    fn series_are_found_where_they_were_put() {
        let mut window = OpenWindow::default();
        let pages = |ordinal: Ordinal| WindowPages::new(i64::from(ordinal), &Value::Float(0.0)).unwrap();
        let ordinals = |window: &OpenWindow| {
            let of = |ordinal| window.pages_of(ordinal).map(|p| (ordinal, p.last_ms));
            (0..5_000).filter_map(of).collect::<Vec<_>>()
        };
        for ordinal in (0..3_000).rev() {
            window.add(ordinal, pages(ordinal));
        }
        for ordinal in (0..3_000).filter(|o| o % 3 == 0) {
            window.remove(ordinal);
            window.remove(ordinal);
        }
        for ordinal in 4_000..4_500 {
            window.add(ordinal, pages(ordinal));
        }
        let expected = (0..3_000).filter(|o| o % 3 > 0).chain(4_000..4_500);
        assert_eq!(
            ordinals(&window),
            expected.map(|o| (o, i64::from(o))).collect::<Vec<_>>()
        );
        assert_eq!((window.members.len(), window.all_pages().count()), (2_500, 2_500));
        assert!(window.pages_mut(4_499).is_some() && window.pages_mut(4_500).is_none());
        // Places are used again.
        assert_eq!(window.pieces.len(), 3_000usize.div_ceil(PIECE));
    }
}
