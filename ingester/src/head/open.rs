//! A window that takes samples.
//!
//! Pages of series lie in pieces of memory that are the window's and go with it, and so does where they are: series come
//! to each window in step, and what each would free of its own when a window is sealed would be left between what stays.

use super::arena::PageArena;
use super::index::Ordinal;
use super::room::Room;
use super::window::{BadPage, WindowPages};
use roaring::RoaringBitmap;

/// Series of a piece: 20 KiB.
const PIECE: usize = 512;
/// Of series that are not in the window.
const NOWHERE: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(crate) struct OpenWindow {
    /// Series with samples in it.
    pub(crate) members: RoaringBitmap,
    pub(crate) samples: u64,
    /// Where their pages are.
    pub(crate) room: Room,
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

    /// With the room that goes with them.
    #[inline]
    pub(crate) fn pages_mut(&mut self, ordinal: Ordinal) -> Option<(&mut WindowPages, &mut Room)> {
        let (piece, at) = self.place(ordinal)?;
        let pages = self.pieces.get_mut(piece)?.get_mut(at)?.as_mut()?;
        Some((pages, &mut self.room))
    }

    /// Closes the page of a series that grows, if it has one; whether its window is one more that has changed.
    pub(crate) fn put_by(&mut self, ordinal: Ordinal) -> Result<bool, BadPage> {
        let Some((pages, room)) = self.pages_mut(ordinal) else {
            return Ok(false);
        };
        Ok(pages.put_by(room)? && !std::mem::replace(&mut pages.dirty, true))
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
            pages.release(&mut self.room);
        }
    }

    /// Memory of where series are, and of their state, in bytes; the room is apart.
    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> [usize; 2] {
        let places = self.places.capacity() * size_of::<u32>() + self.members.serialized_size();
        let pieces: usize = self.pieces.iter().map(Vec::capacity).sum();
        let late: usize = self.all_pages().map(WindowPages::heap_bytes).sum();
        [places, pieces * size_of::<Option<WindowPages>>() + late]
    }

    pub(crate) fn all_pages(&self) -> impl Iterator<Item = &WindowPages> {
        self.pieces.iter().flatten().flatten()
    }

    /// Gives back the memory of pages that were rewritten or deleted, where that is much.
    pub(crate) fn tidy(&mut self) -> Result<(), BadPage> {
        if !self.room.closed.is_wasteful() {
            return Ok(());
        }
        let mut tidied = PageArena::default();
        for pages in self.pieces.iter_mut().flatten().flatten() {
            pages.move_to(&self.room.closed, &mut tidied)?;
        }
        self.room.closed = tidied;
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
        let add = |window: &mut OpenWindow, ordinal: Ordinal| {
            let pages = WindowPages::new(i64::from(ordinal), &Value::Float(0.0).into(), &mut window.room);
            window.add(ordinal, pages.unwrap());
        };
        let ordinals = |window: &OpenWindow| {
            let of = |ordinal| window.pages_of(ordinal).map(|p| (ordinal, p.last_ms));
            (0..5_000).filter_map(of).collect::<Vec<_>>()
        };
        for ordinal in (0..3_000).rev() {
            add(&mut window, ordinal);
        }
        for ordinal in (0..3_000).filter(|o| o % 3 == 0) {
            window.remove(ordinal);
            window.remove(ordinal);
        }
        for ordinal in 4_000..4_500 {
            add(&mut window, ordinal);
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
