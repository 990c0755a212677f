//! Pages that are copied out of a head.

use bytes::Bytes;
use gnomon_tsdb::page::{Page, PageHeader};
use std::ops::Range;

/// A page in bytes that many share.
#[derive(Clone, Debug)]
pub(crate) struct PlacedPage {
    pub(super) header: PageHeader,
    pub(super) bytes: Range<usize>,
}

impl PlacedPage {
    pub(crate) fn page(&self, shared: &Bytes) -> Page {
        self.header.of(shared.slice(self.bytes.clone()))
    }

    pub(crate) const fn header(&self) -> PageHeader {
        self.header
    }

    /// Its bytes, where those of many are.
    pub(crate) fn within<'a>(&self, shared: &'a [u8]) -> &'a [u8] {
        shared.get(self.bytes.clone()).unwrap_or_default()
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn samples(&self) -> u64 {
        self.header.count.into()
    }

    pub(crate) const fn is_of_histograms(&self) -> bool {
        !self.header.coding.is_of_floats()
    }

    /// Copies a page to where others are.
    pub(super) fn copy(header: PageHeader, page: &[u8], shared: &mut Vec<u8>) -> Self {
        let from = shared.len();
        shared.extend_from_slice(page);
        Self {
            header,
            bytes: from..shared.len(),
        }
    }
}
