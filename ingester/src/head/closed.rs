//! The closed pages of a series' window, which lie in the window's arena: each leads to the one before it, so that who
//! wants the newest reads no others.

use super::arena::{PageArena, Place};
use super::window::BadPage;
use bytes::Bytes;
use gnomon_tsdb::page::{Page, PageError, PageHeader};

/// Ascending by time, not overlapping.
#[derive(Debug)]
pub(crate) struct ClosedPages {
    last: Place,
    count: u32,
    /// How many of them are durable.
    flushed: u32,
}

impl Default for ClosedPages {
    fn default() -> Self {
        Self {
            last: Place::NONE,
            count: 0,
            flushed: 0,
        }
    }
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClosedPage<'a> {
    pub(crate) header: PageHeader,
    pub(crate) bytes: &'a [u8],
}

impl ClosedPage<'_> {
    pub(crate) fn to_page(self) -> Page {
        self.header.of(Bytes::copy_from_slice(self.bytes))
    }
}

impl ClosedPages {
    pub(crate) fn of(pages: &[Page], arena: &mut PageArena) -> Result<Self, BadPage> {
        let mut closed = Self::default();
        for page in pages {
            closed.push(page, arena)?;
        }
        Ok(closed)
    }

    /// Adds a page that lies after all others.
    pub(crate) fn push(&mut self, page: &Page, arena: &mut PageArena) -> Result<(), BadPage> {
        self.add(&page.bytes, arena)
    }

    /// As [`Self::push`], of bytes that may be no page.
    pub(crate) fn push_bytes(&mut self, page: &[u8], arena: &mut PageArena) -> Result<(), BadPage> {
        PageHeader::read(page)?;
        self.add(page, arena)
    }

    fn add(&mut self, page: &[u8], arena: &mut PageArena) -> Result<(), BadPage> {
        self.last = arena.push(self.last, page).map_err(|_| BadPage::ArenaFull)?;
        self.count += 1;
        Ok(())
    }

    pub(crate) const fn len(&self) -> usize {
        self.count as usize
    }

    pub(crate) const fn newest_first<'a>(&self, arena: &'a PageArena) -> NewestFirst<'a> {
        NewestFirst {
            arena,
            next: self.last,
            left: self.count,
        }
    }

    /// The newest `most` of them, ascending.
    fn newest<'a>(&self, most: u32, arena: &'a PageArena) -> Result<Vec<ClosedPage<'a>>, PageError> {
        let mut pages = self
            .newest_first(arena)
            .take(most as usize)
            .collect::<Result<Vec<_>, _>>()?;
        pages.reverse();
        Ok(pages)
    }

    /// Ascending.
    pub(crate) fn all<'a>(&self, arena: &'a PageArena) -> Result<Vec<ClosedPage<'a>>, PageError> {
        self.newest(self.count, arena)
    }

    /// Those that overlap the range (inclusive bounds), newest first.
    pub(crate) fn within<'a>(
        &self,
        start_ms: i64,
        end_ms: i64,
        arena: &'a PageArena,
    ) -> impl Iterator<Item = Result<ClosedPage<'a>, PageError>> {
        self.newest_first(arena)
            .skip_while(move |page| page.as_ref().is_ok_and(|page| page.header.min_ts > end_ms))
            .take_while(move |page| page.as_ref().map_or(true, |page| page.header.max_ts >= start_ms))
    }

    /// Those that are not durable, ascending, and how many there are before them.
    pub(crate) fn not_flushed<'a>(&self, arena: &'a PageArena) -> Result<(usize, Vec<ClosedPage<'a>>), PageError> {
        Ok((self.flushed as usize, self.newest(self.count - self.flushed, arena)?))
    }

    /// All are durable but the newest `but`.
    pub(crate) const fn set_flushed(&mut self, but: usize) {
        self.flushed = self.count.saturating_sub(but as u32);
    }

    /// Takes the newest one out, which is not one of those that are durable.
    pub(crate) fn pop(&mut self, arena: &mut PageArena) -> Result<Option<Page>, PageError> {
        if self.count == 0 {
            return Ok(None);
        }
        let (before, bytes) = arena.get(self.last)?;
        let page = Page::parse(Bytes::copy_from_slice(bytes))?;
        arena.release(page.bytes.len());
        self.last = before;
        self.count -= 1;
        Ok(Some(page))
    }

    pub(crate) fn first_ms(&self, arena: &PageArena) -> Option<i64> {
        self.newest_first(arena).last()?.ok().map(|page| page.header.min_ts)
    }

    /// Samples in all of them.
    pub(crate) fn samples(&self, arena: &PageArena) -> u64 {
        let pages = self.newest_first(arena).flatten();
        pages.map(|page| u64::from(page.header.count)).sum()
    }

    /// Nobody needs them any more.
    pub(crate) fn release(self, arena: &mut PageArena) {
        let pages = self.newest_first(arena).flatten();
        let lengths: Vec<usize> = pages.map(|page| page.bytes.len()).collect();
        lengths.into_iter().for_each(|len| arena.release(len));
    }

    /// Copies them to another arena.
    pub(crate) fn move_to(&mut self, from: &PageArena, to: &mut PageArena) -> Result<(), BadPage> {
        let mut last = Place::NONE;
        for page in self.all(from)? {
            last = to.push(last, page.bytes).map_err(|_| BadPage::ArenaFull)?;
        }
        self.last = last;
        Ok(())
    }
}

pub(crate) struct NewestFirst<'a> {
    arena: &'a PageArena,
    next: Place,
    left: u32,
}

impl<'a> Iterator for NewestFirst<'a> {
    type Item = Result<ClosedPage<'a>, PageError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let page = self.arena.get(self.next).and_then(|(before, bytes)| {
            self.next = before;
            PageHeader::read(bytes).map(|header| ClosedPage { header, bytes })
        });
        if page.is_err() {
            self.left = 0;
        }
        Some(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_tsdb::FloatPageBuilder;

    fn page(first_ms: i64, samples: i64) -> Page {
        let mut builder = FloatPageBuilder::new();
        for at in 0..samples {
            builder.append(first_ms + at * 15_000, at as f64).unwrap();
        }
        builder.page().unwrap().closed().unwrap()
    }

    fn to_pages(pages: Vec<ClosedPage<'_>>) -> Vec<Page> {
        pages.into_iter().map(ClosedPage::to_page).collect()
    }

    #[test]
    fn pages_come_back_as_they_were() {
        let mut arena = PageArena::default();
        let pages = [page(-7_000, 120), page(1_800_000, 1), page(1_900_000, 300)];
        let mut closed = ClosedPages::of(&pages[..1], &mut arena).unwrap();
        closed.set_flushed(0);
        // Somebody else's lie between them.
        let mut other = ClosedPages::of(&pages, &mut arena).unwrap();
        closed.push(&pages[1], &mut arena).unwrap();
        closed.push(&pages[2], &mut arena).unwrap();
        assert_eq!(to_pages(closed.all(&arena).unwrap()), pages);
        let (before, new) = closed.not_flushed(&arena).unwrap();
        assert_eq!((before, to_pages(new)), (1, pages[1..].to_vec()));
        let figures = (closed.len(), closed.samples(&arena), closed.first_ms(&arena));
        assert_eq!(figures, (3, 421, Some(-7_000)));
        closed.set_flushed(0);
        let (before, new) = closed.not_flushed(&arena).unwrap();
        assert!(before == 3 && new.is_empty());
        let within = |from, to| closed.within(from, to, &arena).map(|p| p.unwrap().to_page());
        assert!(within(1_800_000, 1_800_000).eq([pages[1].clone()]));
        assert!(within(0, 1_899_999).eq([pages[1].clone(), pages[0].clone()]));
        assert_eq!(within(1_800_001, 1_899_999).count(), 0);
        let mut moved = PageArena::default();
        other.move_to(&arena, &mut moved).unwrap();
        assert_eq!(to_pages(other.all(&moved).unwrap()), pages);
    }

    #[test]
    fn damage_ends_it() {
        let mut arena = PageArena::default();
        let closed = ClosedPages::of(&[page(0, 10), page(900_000, 10)], &mut arena).unwrap();
        let lost = PageArena::default();
        assert!(closed.all(&lost).is_err());
        assert_eq!(closed.newest_first(&lost).count(), 1);
        assert_eq!(closed.samples(&lost), 0);
    }
}
