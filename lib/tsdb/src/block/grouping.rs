//! Pages on their way into a block: taken apart, what was there before left out, the rest put into groups.

use super::directory::{CRC_LEN, Directory, MOST_PAGE_BYTES, Place, Row, Times, Values, is_group_full};
use super::times::Columns;
use crate::page::times::EVEN;
use crate::page::{Effort, Page, PageError};
use std::collections::HashMap;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// Shorter values are not looked for in earlier chunks: to say where they are takes as much.
const LEAST_FAR_BYTES: usize = 24;
/// Values are looked for among so many; then it begins anew. Some 64 bytes each.
const MOST_FAR: usize = 1 << 17;

/// Takes pages series by series. Holds one group, the directory of one chunk, and what was seen, within bounds.
pub(super) struct Grouping {
    effort: Effort,
    keeps_starts: bool,
    /// Of hashes, so that nobody can prepare two columns with the same.
    seed: u64,
    columns: Columns,
    group: Vec<u8>,
    /// Pages of the open group: what they are found by, where they are in it, and their length.
    members: Vec<(u128, u32, u32)>,
    /// Values of the open chunk, with the number of their page.
    near: HashMap<u128, u32>,
    /// Values of groups that are closed.
    far: HashMap<u128, Place>,
    directory: Directory,
}

impl Grouping {
    /// Start timestamps are left out unless `keeps_starts`.
    pub(super) fn new(effort: Effort, keeps_starts: bool) -> Self {
        let seed = rand::random();
        Self {
            effort,
            keeps_starts,
            seed,
            columns: Columns::new(seed),
            group: Vec::new(),
            members: Vec::new(),
            near: HashMap::new(),
            far: HashMap::new(),
            directory: Directory::default(),
        }
    }

    pub(super) const fn set_effort(&mut self, effort: Effort) {
        self.effort = effort;
    }

    pub(super) fn columns(&mut self) -> &mut Columns {
        &mut self.columns
    }

    pub(super) const fn directory(&mut self) -> &mut Directory {
        &mut self.directory
    }

    /// The directory of the chunk, which begins anew.
    pub(super) fn take_directory(&mut self) -> Directory {
        self.near.clear();
        std::mem::take(&mut self.directory)
    }

    /// Adds a page of the series that is ended next; tells whether the group is full.
    ///
    /// # Errors
    /// When its times cannot be told from its values, or it is longer than 1 GiB.
    pub(super) fn add(&mut self, mut page: Page) -> Result<bool, PageError> {
        let mut starts = None;
        if page.has_starts() {
            starts = Some(Arc::new(page.starts()?)).filter(|starts| self.keeps_starts && !starts.is_empty());
            page = page.without_starts()?;
        }
        // One that cannot be decoded stays as it is: who reads it is told, and a merge does not fail for it.
        let page = page.clone().recoded(self.effort).unwrap_or(page);
        let parts = page.parts()?;
        let times = match parts.times {
            None => Times::Within,
            Some([EVEN]) => Times::Even,
            Some(bytes) => Times::Of(Arc::new(self.columns.place(&page, bytes)?)),
        };
        let row = Row {
            times,
            min_ts: page.min_ts,
            max_ts: page.max_ts,
            count: page.count,
            starts,
        };
        let values = match parts.one_value() {
            Some(bits) => Values::One(bits),
            None => self.place(page.coding.tag(), parts.values)?,
        };
        self.directory.add(row, page.coding, values);
        Ok(is_group_full(self.group.len() as u32, self.members.len() as u32))
    }

    fn place(&mut self, tag: u8, values: &[u8]) -> Result<Values, PageError> {
        let key = xxh3_128_with_seed(values, self.seed ^ u64::from(tag));
        if let Some(page) = self.near.get(&key) {
            return Ok(Values::Near(*page));
        }
        if values.len() >= LEAST_FAR_BYTES
            && let Some(place) = self.far.get(&key)
        {
            return Ok(Values::Far(*place));
        }
        let len = u32::try_from(values.len()).ok().filter(|len| *len <= MOST_PAGE_BYTES);
        let len = len.ok_or(PageError::Corrupt("it is longer than 1 GiB"))?;
        self.members.push((key, self.group.len() as u32, len));
        self.group.extend_from_slice(values);
        self.near.insert(key, self.directory.pages() as u32);
        Ok(Values::Own(len))
    }

    /// The open group with its checksum, which is written at `offset`; none where it is empty.
    pub(super) fn close_group(&mut self, offset: u64) -> Option<Vec<u8>> {
        if self.members.is_empty() {
            return None;
        }
        if self.far.len() >= MOST_FAR {
            self.far.clear();
        }
        let group_len = self.group.len() as u32;
        for (key, from, len) in self.members.drain(..) {
            let place = Place {
                group: offset,
                group_len,
                from,
                len,
            };
            if len as usize >= LEAST_FAR_BYTES {
                self.far.insert(key, place);
            }
        }
        let mut group = std::mem::take(&mut self.group);
        group.reserve_exact(CRC_LEN as usize);
        group.extend(crc32c::crc32c(&group).to_le_bytes());
        Some(group)
    }
}
