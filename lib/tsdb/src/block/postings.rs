//! From matchers to the series that satisfy them, in blocks before version 3: each value stands with a set of series.

use super::cache::Part;
use super::layout::{Input, ValueChunk, ValueTable, split_key, value_key};
use super::matching::Candidates;
use super::reader::Values;
use super::{BlockError, BlockReader, sets};
use gnomon_model::{MatchOp, Matcher};
use roaring::RoaringBitmap;
use std::ops::Range;
use std::sync::Arc;

/// With so few candidates left, reading their labels is cheaper than scanning the values of another label.
const FEW_CANDIDATES: u64 = 1024;
/// More alternatives than this are looked for by a scan.
const MAX_LOOKUPS: usize = 64;
/// Postings are read in portions of this size.
const POSTINGS_PORTION_BYTES: u64 = 8 << 20;

#[derive(Debug)]
pub(super) enum EntrySet {
    Inline(Vec<u32>),
    At { range: Range<u64>, crc: u32 },
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Vec<u8>,
    pub(super) set: EntrySet,
}

impl Entry {
    pub(super) fn value(&self) -> &str {
        split_key(&self.key).map_or("", |(_, value)| value)
    }

    /// Memory held, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        let inline = match &self.set {
            EntrySet::Inline(series) => series.capacity() * size_of::<u32>(),
            EntrySet::At { .. } => 0,
        };
        size_of::<Self>() + self.key.capacity() + inline
    }
}

fn read_entries(raw: &[u8], chunk: &ValueChunk) -> Option<Vec<Entry>> {
    let mut input = Input(raw);
    let mut entries = Vec::new();
    let mut key = Vec::new();
    let mut postings_at = chunk.postings_offset;
    while !input.0.is_empty() {
        input.front_coded(&mut key)?;
        split_key(&key)?;
        let cardinality = input.length()?;
        let set = if cardinality <= super::layout::INLINE_POSTINGS {
            let mut series = Vec::with_capacity(cardinality);
            let mut last = 0_u32;
            for _ in 0..cardinality {
                last = last.checked_add(u32::try_from(input.uvarint()?).ok()?)?;
                series.push(last);
            }
            EntrySet::Inline(series)
        } else {
            let start = postings_at;
            postings_at = postings_at.checked_add(input.uvarint()?)?;
            EntrySet::At {
                range: start..postings_at,
                crc: input.crc()?,
            }
        };
        entries.push(Entry { key: key.clone(), set });
    }
    (postings_at == chunk.postings().end).then_some(entries)
}

impl BlockReader {
    fn value_table(&self) -> Option<&ValueTable> {
        match &self.values {
            Values::Entries(table) => Some(table),
            Values::Symbols(_) => None,
        }
    }

    pub(super) fn all_series(&self) -> RoaringBitmap {
        let mut all = RoaringBitmap::new();
        all.insert_range(0..self.meta.stats.series.min(u64::from(u32::MAX)) as u32);
        all
    }

    pub(super) async fn value_chunk(&self, chunk: &ValueChunk) -> Result<Arc<Vec<Entry>>, BlockError> {
        if let Some(Part::Values(entries)) = self.kept(chunk.entries.offset) {
            return Ok(entries);
        }
        let bytes = self.fetch(std::slice::from_ref(&chunk.entries.range())).await?;
        let at = chunk.entries.offset;
        let raw = chunk
            .entries
            .open(&bytes[0])
            .map_err(|what| self.damaged_at(at, what))?;
        let entries = read_entries(&raw, chunk).ok_or_else(|| self.damaged_at(at, "chunk of label values"))?;
        let entries = Arc::new(entries);
        self.keep(chunk.entries.offset, &Part::Values(Arc::clone(&entries)));
        Ok(entries)
    }

    /// Chunks that may hold values of a label.
    pub(super) fn value_chunks_of(&self, name: &str) -> &[ValueChunk] {
        let Some(values) = self.value_table() else {
            return &[];
        };
        if values.names.binary_search_by(|(n, _)| n.as_str().cmp(name)).is_err() {
            return &[];
        }
        let first = value_key(name, "");
        let chunks = &values.chunks;
        let from = chunks
            .partition_point(|c| c.first_key.as_ref() <= first.as_slice())
            .saturating_sub(1);
        let is_past = |chunk: &ValueChunk| {
            chunk.first_key.as_ref() > first.as_slice() && split_key(&chunk.first_key).is_none_or(|(n, _)| n != name)
        };
        let len = chunks[from..].iter().take_while(|c| !is_past(c)).count();
        &chunks[from..from + len]
    }

    /// The union of sets of series.
    pub(super) async fn union<'e>(
        &self,
        entries: impl IntoIterator<Item = &'e Entry>,
    ) -> Result<RoaringBitmap, BlockError> {
        let mut union = RoaringBitmap::new();
        let mut wanted: Vec<(Range<u64>, u32)> = Vec::new();
        for entry in entries {
            match &entry.set {
                EntrySet::Inline(series) => union.extend(series.iter().copied()),
                EntrySet::At { range, crc } => match self.kept(range.start) {
                    Some(Part::Postings(set)) => union |= set.as_ref(),
                    _ => wanted.push((range.clone(), *crc)),
                },
            }
        }
        let mut rest = wanted.as_slice();
        while !rest.is_empty() {
            let mut size = 0;
            let portion = rest.iter().take_while(|(range, _)| {
                let before = size;
                size += range.end - range.start;
                before < POSTINGS_PORTION_BYTES
            });
            let (now, later) = rest.split_at(portion.count());
            rest = later;
            let ranges: Vec<Range<u64>> = now.iter().map(|(range, _)| range.clone()).collect();
            for (bytes, (range, crc)) in self.fetch(&ranges).await?.iter().zip(now) {
                if !super::has_crc(bytes, *crc) {
                    return Err(self.damaged_at(range.start, "checksum of postings"));
                }
                let set = sets::read(self.footer.version, bytes);
                let set = set.ok_or_else(|| self.damaged_at(range.start, "postings"))?;
                union |= &set;
                self.keep(range.start, &Part::Postings(Arc::new(set)));
            }
        }
        Ok(union)
    }

    /// Series with exactly this value.
    async fn lookup(&self, name: &str, value: &str) -> Result<RoaringBitmap, BlockError> {
        let key = value_key(name, value);
        let chunks = self.value_table().map_or(&[][..], |table| &table.chunks);
        let at = chunks.partition_point(|c| c.first_key.as_ref() <= key.as_slice());
        let Some(chunk) = at.checked_sub(1).and_then(|at| chunks.get(at)) else {
            return Ok(RoaringBitmap::new());
        };
        let entries = self.value_chunk(chunk).await?;
        let found = entries.binary_search_by(|entry| entry.key.cmp(&key)).ok();
        self.union(found.and_then(|at| entries.get(at))).await
    }

    /// Series that have the label with a value for which `wanted` holds.
    pub(super) async fn scan(
        &self,
        name: &str,
        wanted: impl Fn(&str) -> bool + Send + Sync,
    ) -> Result<RoaringBitmap, BlockError> {
        let mut union = RoaringBitmap::new();
        for chunk in self.value_chunks_of(name) {
            let entries = self.value_chunk(chunk).await?;
            let found = |entry: &&Entry| split_key(&entry.key).is_some_and(|(n, v)| n == name && wanted(v));
            let found: Vec<&Entry> = entries.iter().filter(found).collect();
            union |= self.union(found).await?;
        }
        Ok(union)
    }

    /// The series of a matcher that names its values; none when it does not.
    async fn by_lookup(&self, matcher: &Matcher) -> Result<Option<RoaringBitmap>, BlockError> {
        let values = match matcher.op() {
            MatchOp::Equal => vec![matcher.value().to_owned()],
            MatchOp::Regex => matcher.literal_alternatives().unwrap_or_default(),
            MatchOp::NotEqual | MatchOp::NotRegex => Vec::new(),
        };
        if values.is_empty() || values.len() > MAX_LOOKUPS || values.iter().any(String::is_empty) {
            return Ok(None);
        }
        let mut union = RoaringBitmap::new();
        for value in &values {
            union |= self.lookup(matcher.name(), value).await?;
        }
        Ok(Some(union))
    }

    pub(super) async fn candidates_by_postings(&self, matchers: &[Matcher]) -> Result<Candidates, BlockError> {
        let mut series = self.all_series();
        let mut others = Vec::new();
        for matcher in matchers {
            if series.is_empty() {
                break;
            }
            match self.by_lookup(matcher).await? {
                Some(found) => series &= found,
                None => others.push(matcher.clone()),
            }
        }
        let mut check = Vec::new();
        for matcher in others {
            if series.len() <= FEW_CANDIDATES {
                check.push(matcher);
            } else if matcher.matches_empty() {
                // Absent labels satisfy it: it is quicker to take away those that do not.
                series -= self.scan(matcher.name(), |value| !matcher.matches(value)).await?;
            } else {
                series &= self.scan(matcher.name(), |value| matcher.matches(value)).await?;
            }
        }
        Ok(Candidates {
            series,
            check,
            wanted: Vec::new(),
        })
    }
}
