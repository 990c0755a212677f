//! From references to ordinals. References are given one after the other, so those of one scrape or one request stand
//! together: small pages of neighbours keep them so, where a hash table of series would scatter them over memory.

use super::Ordinal;
use gnomon_model::SeriesRef;
use hashbrown::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// References of a page: what a page costs where one series of it is left is little more than the series.
const PAGE: u64 = 64;
/// No series has this ordinal: heads are far smaller.
const NONE: Ordinal = Ordinal::MAX;

#[derive(Debug)]
struct Page {
    used: u32,
    ordinals: [Ordinal; PAGE as usize],
}

/// Page numbers are consecutive: a multiplication by an odd constant spreads them over all bits.
#[derive(Default)]
struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0.rotate_left(8) ^ u64::from(*byte));
        }
    }
    fn write_u64(&mut self, number: u64) {
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[derive(Debug, Default)]
pub(super) struct RefTable {
    pages: HashMap<u64, Box<Page>, BuildHasherDefault<PageHasher>>,
    len: usize,
}

fn place(reference: SeriesRef) -> (u64, usize) {
    (reference.0 / PAGE, (reference.0 % PAGE) as usize)
}

impl RefTable {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn get(&self, reference: SeriesRef) -> Option<Ordinal> {
        let (page, at) = place(reference);
        let ordinal = self.pages.get(&page)?.ordinals[at];
        (ordinal != NONE).then_some(ordinal)
    }

    /// Memory of it, in bytes.
    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> usize {
        self.pages.len() * (size_of::<Page>() + 8) + self.pages.allocation_size()
    }

    /// `reference` is not there yet.
    pub(super) fn insert(&mut self, reference: SeriesRef, ordinal: Ordinal) {
        let (page, at) = place(reference);
        let page = self.pages.entry(page).or_insert_with(|| {
            Box::new(Page {
                used: 0,
                ordinals: [NONE; PAGE as usize],
            })
        });
        if std::mem::replace(&mut page.ordinals[at], ordinal) == NONE {
            page.used += 1;
            self.len += 1;
        }
    }

    pub(super) fn remove(&mut self, reference: SeriesRef) {
        let (number, at) = place(reference);
        let Some(page) = self.pages.get_mut(&number) else {
            return;
        };
        if std::mem::replace(&mut page.ordinals[at], NONE) != NONE {
            page.used -= 1;
            self.len -= 1;
            if page.used == 0 {
                self.pages.remove(&number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_entered_is_found_until_it_is_removed() {
        let mut table = RefTable::default();
        let refs: Vec<_> = (0..200).map(|i| SeriesRef(i * 37 + 1)).collect();
        for (ordinal, reference) in (0..).zip(&refs) {
            assert_eq!(table.get(*reference), None);
            table.insert(*reference, ordinal);
        }
        assert_eq!(table.len(), 200);
        for (ordinal, reference) in (0..).zip(&refs) {
            assert_eq!(table.get(*reference), Some(ordinal));
            assert_eq!(table.get(SeriesRef(reference.0 + 1)), None);
        }
        table.remove(SeriesRef(2));
        for reference in &refs {
            table.remove(*reference);
            assert_eq!(table.get(*reference), None);
        }
        assert_eq!(table.len(), 0);
        assert!(table.pages.is_empty(), "empty pages are given back");
    }
}
