//! The closed pages of a series' window, one after the other in one piece of memory: a page is short, and what goes with a
//! piece of its own would be longer than many are.
//!
//! ```text
//! bytes = (len: uvarint  page)*
//! ```

use bytes::Bytes;
use gnomon_model::labels::{get_uvarint, put_uvarint};
use gnomon_tsdb::page::{Page, PageError, PageHeader};

/// Ascending by time, not overlapping.
#[derive(Debug, Default)]
pub(crate) struct ClosedPages {
    bytes: Box<[u8]>,
    count: u32,
    /// How many of them are durable, and how long those are.
    flushed: u32,
    flushed_len: u32,
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
    /// Pages that are durable already.
    pub(crate) fn flushed(pages: &[Page]) -> Self {
        let mut closed = Self::unflushed(pages);
        closed.set_flushed();
        closed
    }

    pub(crate) fn unflushed(pages: &[Page]) -> Self {
        let mut bytes = Vec::with_capacity(pages.iter().map(|p| p.bytes.len() + 2).sum());
        pages.iter().for_each(|page| put(&mut bytes, page));
        Self {
            bytes: bytes.into_boxed_slice(),
            count: pages.len() as u32,
            flushed: 0,
            flushed_len: 0,
        }
    }

    /// Adds a page that lies after all others.
    pub(crate) fn push(&mut self, page: &Page) {
        let mut bytes = std::mem::take(&mut self.bytes).into_vec();
        bytes.reserve_exact(page.bytes.len() + 3);
        put(&mut bytes, page);
        self.bytes = bytes.into_boxed_slice();
        self.count += 1;
    }

    pub(crate) const fn len(&self) -> usize {
        self.count as usize
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<ClosedPage<'_>, PageError>> {
        Pages(&self.bytes)
    }

    /// Those that are not durable, and how many there are before them.
    pub(crate) fn not_flushed(&self) -> (usize, impl Iterator<Item = Result<ClosedPage<'_>, PageError>>) {
        let rest = self.bytes.get(self.flushed_len as usize..).unwrap_or_default();
        (self.flushed as usize, Pages(rest))
    }

    pub(crate) fn set_flushed(&mut self) {
        self.flushed = self.count;
        self.flushed_len = self.bytes.len() as u32;
    }

    pub(crate) fn first_ms(&self) -> Option<i64> {
        self.iter().next()?.ok().map(|page| page.header.min_ts)
    }

    /// Samples in all of them.
    pub(crate) fn samples(&self) -> u64 {
        self.iter().flatten().map(|page| u64::from(page.header.count)).sum()
    }
}

fn put(bytes: &mut Vec<u8>, page: &Page) {
    put_uvarint(bytes, page.bytes.len() as u64);
    bytes.extend_from_slice(&page.bytes);
}

struct Pages<'a>(&'a [u8]);

impl<'a> Iterator for Pages<'a> {
    type Item = Result<ClosedPage<'a>, PageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let page = get_uvarint(self.0).and_then(|(len, rest)| rest.split_at_checked(usize::try_from(len).ok()?));
        let Some((bytes, rest)) = page else {
            self.0 = &[];
            return Some(Err(PageError::Truncated));
        };
        self.0 = rest;
        Some(PageHeader::read(bytes).map(|header| ClosedPage { header, bytes }))
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

    fn all<'a>(pages: impl Iterator<Item = Result<ClosedPage<'a>, PageError>>) -> Vec<Page> {
        pages.map(|page| page.unwrap().to_page()).collect()
    }

    #[test]
    fn pages_come_back_as_they_were() {
        let pages = [page(-7_000, 120), page(1_800_000, 1), page(1_900_000, 300)];
        let mut closed = ClosedPages::flushed(&pages[..1]);
        closed.push(&pages[1]);
        closed.push(&pages[2]);
        assert_eq!(all(closed.iter()), pages);
        let (before, new) = closed.not_flushed();
        assert_eq!((before, all(new)), (1, pages[1..].to_vec()));
        assert_eq!(
            (closed.len(), closed.samples(), closed.first_ms()),
            (3, 421, Some(-7_000))
        );
        closed.set_flushed();
        let (before, mut new) = closed.not_flushed();
        assert!(before == 3 && new.next().is_none());
    }

    #[test]
    fn damage_ends_it() {
        let mut closed = ClosedPages::unflushed(&[page(0, 10), page(900_000, 10)]);
        let cut = closed.bytes.len() - 3;
        closed.bytes = closed.bytes[..cut].into();
        assert_eq!(closed.iter().filter(Result::is_err).count(), 1);
        assert_eq!(closed.iter().count(), 2);
    }
}
