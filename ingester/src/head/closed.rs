//! The closed pages of a series' window, which lie in the window's arena: each leads to the one before it, so that who
//! wants the newest reads no others.
//!
//! Short ones are joined once they are durable: of a page that counts steadily most is what goes with it. In the store they
//! stay as they are, so that the two differ in how samples are cut into pages, and in nothing else.

use super::arena::{PageArena, Place};
use super::window::BadPage;
use bytes::Bytes;
use gnomon_tsdb::page::{Page, PageError, PageHeader, Starts, decode_into};

/// So many pages are joined,
const JOINED: usize = 4;
/// if none of them is longer than this,
const SHORT_BYTES: usize = 160;
/// and they have no more samples than this together.
const JOINED_SAMPLES: u32 = 256;

/// Ascending by time, not overlapping.
#[derive(Debug)]
pub(crate) struct ClosedPages {
    last: Place,
    /// How many are in the store, where they may be more than here.
    stored: u32,
    /// How many, the newest, are not.
    not_stored: u32,
}

impl Default for ClosedPages {
    fn default() -> Self {
        Self {
            last: Place::NONE,
            stored: 0,
            not_stored: 0,
        }
    }
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClosedPage<'a> {
    pub(crate) header: PageHeader,
    pub(crate) bytes: &'a [u8],
    place: Place,
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
        self.not_stored += 1;
        Ok(())
    }

    pub(crate) fn len(&self, arena: &PageArena) -> usize {
        self.newest_first(arena).count()
    }

    pub(crate) const fn newest_first<'a>(&self, arena: &'a PageArena) -> NewestFirst<'a> {
        NewestFirst { arena, next: self.last }
    }

    /// Joins the newest ones where that is worth it and all are durable; to be called before each new one. Each is looked
    /// at once: there may be nothing to gain.
    pub(crate) fn join_short(&mut self, arena: &mut PageArena) -> Result<(), BadPage> {
        if self.not_stored > 0 || !(self.stored as usize).is_multiple_of(JOINED) {
            return Ok(());
        }
        let mut pages: [Option<ClosedPage<'_>>; JOINED] = [None; JOINED];
        let (mut samples, mut bytes) = (0, 0);
        let mut newest = self.newest_first(arena);
        for slot in pages.iter_mut().rev() {
            let Some(page) = newest.next().transpose()? else {
                return Ok(());
            };
            samples += page.header.count;
            bytes += page.bytes.len();
            if !page.header.coding.is_of_floats() || page.bytes.len() > SHORT_BYTES || samples > JOINED_SAMPLES {
                return Ok(());
            }
            *slot = Some(page);
        }
        let before = newest.next;
        let (mut timestamps, mut values) = (
            Vec::with_capacity(samples as usize),
            Vec::with_capacity(samples as usize),
        );
        let mut starts = Starts::default();
        for page in pages.iter().flatten() {
            let own = page.to_page().starts()?;
            let of_page = (timestamps.len() as u32..).zip(own.iter(page.header.count));
            of_page.for_each(|(place, start_ms)| starts.push(place, start_ms));
            decode_into(page.bytes, &mut timestamps, &mut values)?;
        }
        let released = pages.map(|page| page.map(|page| (page.place, page.bytes.len())));
        let joined = Page::of_floats(&timestamps, &values).map(|joined| joined.with_starts(&starts));
        let Some(joined) = joined.transpose()?.filter(|joined| joined.bytes.len() < bytes) else {
            return Ok(());
        };
        for (place, len) in released.into_iter().flatten() {
            arena.release(place, len);
        }
        self.last = arena.push(before, &joined.bytes).map_err(|_| BadPage::ArenaFull)?;
        Ok(())
    }

    /// The newest `most` of them, ascending.
    fn newest<'a>(&self, most: usize, arena: &'a PageArena) -> Result<Vec<ClosedPage<'a>>, PageError> {
        let mut pages = self.newest_first(arena).take(most).collect::<Result<Vec<_>, _>>()?;
        pages.reverse();
        Ok(pages)
    }

    /// Ascending.
    pub(crate) fn all<'a>(&self, arena: &'a PageArena) -> Result<Vec<ClosedPage<'a>>, PageError> {
        self.newest(usize::MAX, arena)
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

    /// Those that are not durable, ascending, and how many are stored before them.
    pub(crate) fn not_flushed<'a>(&self, arena: &'a PageArena) -> Result<(usize, Vec<ClosedPage<'a>>), PageError> {
        Ok((self.stored as usize, self.newest(self.not_stored as usize, arena)?))
    }

    /// All are durable but the newest `but`.
    pub(crate) fn set_flushed(&mut self, but: u32) {
        let left = self.not_stored.min(but);
        self.stored += self.not_stored - left;
        self.not_stored = left;
    }

    /// Takes the newest one out, which is not one of those that are durable.
    pub(crate) fn pop(&mut self, arena: &mut PageArena) -> Result<Option<Page>, PageError> {
        if self.not_stored == 0 {
            return Ok(None);
        }
        let (before, bytes) = arena.get(self.last)?;
        let page = Page::parse(Bytes::copy_from_slice(bytes))?;
        arena.release(self.last, page.bytes.len());
        self.last = before;
        self.not_stored -= 1;
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
        let records: Vec<(Place, usize)> = pages.map(|page| (page.place, page.bytes.len())).collect();
        records.into_iter().for_each(|(place, len)| arena.release(place, len));
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
}

impl<'a> Iterator for NewestFirst<'a> {
    type Item = Result<ClosedPage<'a>, PageError>;

    fn next(&mut self) -> Option<Self::Item> {
        // Also where what follows is damaged.
        let place = std::mem::replace(&mut self.next, Place::NONE);
        if place == Place::NONE {
            return None;
        }
        Some(self.arena.get(place).and_then(|(before, bytes)| {
            let header = PageHeader::read(bytes)?;
            self.next = before;
            Ok(ClosedPage { header, bytes, place })
        }))
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
        let figures = (closed.len(&arena), closed.samples(&arena), closed.first_ms(&arena));
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
    fn short_pages_are_joined_once_they_are_durable() {
        let mut arena = PageArena::default();
        let counting = |from: i64, samples: i64| {
            let numbers = from..from + samples;
            let timestamps: Vec<i64> = numbers.clone().map(|n| n * 15_000).collect();
            let values: Vec<f64> = numbers.clone().map(|n| n as f64).collect();
            let starts = Starts::of(numbers.map(|n| n / 70 * 70));
            Page::of_floats(&timestamps, &values)
                .unwrap()
                .with_starts(&starts)
                .unwrap()
        };
        let first = counting(0, 300);
        let pages: Vec<Page> = (0..13).map(|n| counting(300 + n * 50, 50)).collect();
        let mut closed = ClosedPages::of(std::slice::from_ref(&first), &mut arena).unwrap();
        let mut other = ClosedPages::of(&pages[..2], &mut arena).unwrap();
        let (mut all, mut lengths) = (vec![first], Vec::new());
        for (number, page) in (1..).zip(&pages) {
            closed.join_short(&mut arena).unwrap();
            closed.push(page, &mut arena).unwrap();
            all.push(page.clone());
            if number == 8 {
                // The new one is not durable yet.
                closed.join_short(&mut arena).unwrap();
            }
            let (stored, new) = closed.not_flushed(&arena).unwrap();
            assert_eq!(stored, if number == 1 { 0 } else { number });
            assert_eq!(to_pages(new).last(), Some(page));
            closed.set_flushed(0);
            lengths.push(closed.len(&arena));
            other.push(page, &mut arena).unwrap();
        }
        assert_eq!(lengths, [2, 3, 4, 5, 6, 7, 8, 6, 7, 8, 9, 7, 8]);
        let samples = |pages: &[Page]| {
            let (mut timestamps, mut values, mut starts) = (Vec::new(), Vec::new(), Vec::new());
            for page in pages {
                decode_into(&page.bytes, &mut timestamps, &mut values).unwrap();
                starts.extend(page.starts().unwrap().iter(page.count));
            }
            (timestamps, values, starts)
        };
        assert_eq!(samples(&to_pages(closed.all(&arena).unwrap())), samples(&all));
        assert_eq!((closed.samples(&arena), closed.first_ms(&arena)), (950, Some(0)));
        let others = to_pages(other.all(&arena).unwrap());
        assert!(
            others[..2] == pages[..2] && others[2..] == pages[..],
            "are as they were"
        );
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
