//! The dictionary of a block since version 3: label names, and the values of each in order. A value's number is its place
//! among those of its name. With a value stand the chunks of series that have it, and what it implies of other labels.

use super::layout::{ChunkAt, Footer, Input, MAX_CHUNK_LEN, MAX_LABELS_LEN, Section};
use gnomon_model::labels::put_uvarint;
use std::ops::Range;

/// A chunk of values is closed at so many, or so many bytes that are not shared with the value before, or so many of
/// values as they are.
pub(super) const VALUES_PER_CHUNK: usize = 1024;
/// What a reader accepts: a small table cannot claim billions of values.
const MAX_VALUES_PER_CHUNK: u32 = 1 << 16;
pub(super) const SUFFIX_BYTES_PER_CHUNK: usize = 64 << 10;
pub(super) const VALUE_BYTES_PER_CHUNK: usize = 1 << 20;

/// A label name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) text: String,
    /// Place of its first value in the dictionary.
    pub(super) first: u64,
    pub(super) values: u32,
    /// The name whose values imply those of this one: series that have it do not store its value.
    pub(super) source: Option<u32>,
}

impl Name {
    /// The places of its values in the dictionary.
    pub(super) fn places(&self) -> Range<u64> {
        self.first..self.first + u64::from(self.values)
    }
}

/// Where consecutive values of the dictionary are; they may be of several names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SymbolsAt {
    /// Place of its first value in the dictionary.
    pub(super) first: u64,
    pub(super) values: u32,
    pub(super) first_value: String,
    pub(super) texts: ChunkAt,
    pub(super) numbers: ChunkAt,
}

impl SymbolsAt {
    pub(super) fn places(&self) -> Range<u64> {
        self.first..self.first + u64::from(self.values)
    }

    /// Of both of its parts.
    pub(super) const fn range(&self) -> Range<u64> {
        self.texts.offset..self.numbers.range().end
    }
}

/// The table over the dictionary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SymbolTable {
    /// Sorted.
    pub(super) names: Vec<Name>,
    pub(super) chunks: Vec<SymbolsAt>,
}

impl SymbolTable {
    pub(super) fn write(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_uvarint(&mut out, self.names.len() as u64);
        for name in &self.names {
            put_uvarint(&mut out, name.text.len() as u64);
            out.extend_from_slice(name.text.as_bytes());
            put_uvarint(&mut out, u64::from(name.values));
            put_uvarint(&mut out, name.source.map_or(0, |source| u64::from(source) + 1));
        }
        put_uvarint(&mut out, self.chunks.len() as u64);
        for chunk in &self.chunks {
            put_uvarint(&mut out, u64::from(chunk.values));
            put_uvarint(&mut out, chunk.first_value.len() as u64);
            out.extend_from_slice(chunk.first_value.as_bytes());
            chunk.texts.write(&mut out);
            chunk.numbers.write(&mut out);
        }
        out
    }

    pub(super) fn read(bytes: &[u8], footer: &Footer) -> Option<Self> {
        let mut input = Input(bytes);
        let mut table = Self::default();
        let text = |input: &mut Input<'_>| {
            let len = input.length()?;
            Some(std::str::from_utf8(input.bytes(len)?).ok()?.to_owned())
        };
        let mut first = 0_u64;
        for _ in 0..input.length()? {
            let name = Name {
                text: text(&mut input)?,
                first,
                values: u32::try_from(input.uvarint()?).ok().filter(|n| *n > 0)?,
                source: match input.uvarint()? {
                    0 => None,
                    source => Some(u32::try_from(source - 1).ok()?),
                },
            };
            first += u64::from(name.values);
            if table.names.last().is_some_and(|last| last.text >= name.text) {
                return None;
            }
            table.names.push(name);
        }
        let values = first;
        let mut at = footer.section(Section::Values).offset;
        first = 0;
        for _ in 0..input.length()? {
            let values = u32::try_from(input.uvarint()?)
                .ok()
                .filter(|n| (1..=MAX_VALUES_PER_CHUNK).contains(n))?;
            let chunk = SymbolsAt {
                first,
                values,
                first_value: text(&mut input)?,
                texts: ChunkAt::read(&mut input, &mut at)?,
                numbers: ChunkAt::read(&mut input, &mut at)?,
            };
            first += u64::from(values);
            table.chunks.push(chunk);
        }
        // What implies others is not implied itself.
        let is_sound = |name: &Name| {
            name.source
                .is_none_or(|source| table.names.get(source as usize).is_some_and(|s| s.source.is_none()))
        };
        let complete = input.0.is_empty()
            && first == values
            && at == footer.section(Section::Values).range().end
            && table.names.iter().all(is_sound);
        complete.then_some(table)
    }

    /// The number of a name.
    pub(super) fn name(&self, text: &str) -> Option<u32> {
        let at = self.names.binary_search_by(|name| name.text.as_str().cmp(text));
        at.ok().map(|at| at as u32)
    }

    /// The chunk with a place of the dictionary.
    pub(super) fn chunk_of(&self, place: u64) -> Option<usize> {
        let at = self
            .chunks
            .partition_point(|chunk| chunk.first <= place)
            .checked_sub(1)?;
        self.chunks[at].places().contains(&place).then_some(at)
    }

    /// The chunks with values of a name.
    pub(super) fn chunks_of(&self, name: &Name) -> Range<usize> {
        let places = name.places();
        let from = self.chunks.partition_point(|chunk| chunk.places().end <= places.start);
        let to = self.chunks.partition_point(|chunk| chunk.first < places.end);
        from..to.max(from)
    }

    /// The chunk that has a value of a name if any has.
    pub(super) fn chunk_with(&self, name: &Name, value: &str) -> Option<usize> {
        let chunks = self.chunks_of(name);
        let its = &self.chunks[chunks.clone()];
        // The first may begin with another name's.
        let before = its.partition_point(|chunk| chunk.first < name.first || chunk.first_value.as_str() <= value);
        Some(chunks.start + before.checked_sub(1)?)
    }

    /// The names that others imply, with who does.
    fn implied_by(&self, source: u32) -> impl Iterator<Item = (u32, &Name)> {
        let names = (0_u32..).zip(&self.names);
        names.filter(move |(_, name)| name.source == Some(source))
    }

    /// The names with values in a chunk, each with the places of those values.
    pub(super) fn names_in(&self, chunk: &SymbolsAt) -> impl Iterator<Item = (u32, &Name, Range<u64>)> {
        let from = self.names.partition_point(|name| name.places().end <= chunk.first);
        let end = chunk.places().end;
        let names = (from as u32..).zip(&self.names[from..]);
        names
            .take_while(move |(_, name)| name.first < end)
            .map(move |(at, name)| {
                let places = name.places();
                (at, name, places.start.max(chunk.first)..places.end.min(end))
            })
    }

    /// Memory held, in bytes (an estimate).
    pub(super) fn memory_bytes(&self) -> usize {
        let names: usize = self.names.iter().map(|n| size_of::<Name>() + n.text.len()).sum();
        let chunks = self.chunks.iter().map(|c| size_of::<SymbolsAt>() + c.first_value.len());
        names + chunks.sum::<usize>()
    }
}

/// What a value says besides itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Symbol<'a> {
    pub(super) text: &'a str,
    /// The chunks of series that have it, ascending; none where it may be in any.
    pub(super) chunks: &'a [u32],
}

/// Numbers of another name's values, one for each value of some places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Implied {
    pub(super) name: u32,
    pub(super) first: u64,
    pub(super) numbers: Vec<u32>,
}

/// Consecutive values of the dictionary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SymbolChunk {
    pub(super) first: u64,
    /// All values, one after the other, and where each ends.
    texts: String,
    text_ends: Vec<u32>,
    /// The lists of chunks, likewise.
    lists: Vec<u32>,
    list_ends: Vec<u32>,
    pub(super) implied: Vec<Implied>,
}

/// What `cut` gives of the `at`th of the parts that end there.
fn between<T>(ends: &[u32], at: usize, cut: impl Fn(Range<usize>) -> Option<T>) -> Option<T> {
    let from = at.checked_sub(1).map_or(Some(0), |before| ends.get(before).copied())?;
    cut(from as usize..*ends.get(at)? as usize)
}

impl SymbolChunk {
    pub(super) fn begin(first: u64) -> Self {
        Self {
            first,
            ..Self::default()
        }
    }

    pub(super) fn push(&mut self, text: &str, chunks: &[u32]) {
        self.texts.push_str(text);
        self.text_ends.push(self.texts.len() as u32);
        self.lists.extend_from_slice(chunks);
        self.list_ends.push(self.lists.len() as u32);
    }

    pub(super) fn len(&self) -> usize {
        self.text_ends.len()
    }

    pub(super) fn text_bytes(&self) -> usize {
        self.texts.len()
    }

    /// By its place in the chunk.
    pub(super) fn text(&self, at: usize) -> Option<&str> {
        between(&self.text_ends, at, |range| self.texts.get(range))
    }

    pub(super) fn chunks(&self, at: usize) -> Option<&[u32]> {
        between(&self.list_ends, at, |range| self.lists.get(range))
    }

    pub(super) fn symbol(&self, at: usize) -> Option<Symbol<'_>> {
        Some(Symbol {
            text: self.text(at)?,
            chunks: self.chunks(at)?,
        })
    }

    /// The number of the implied value of `name` for the value at a place.
    pub(super) fn implied(&self, name: u32, place: u64) -> Option<u32> {
        let its = self.implied.iter().find(|implied| implied.name == name)?;
        let at = place.checked_sub(its.first)?;
        its.numbers.get(usize::try_from(at).ok()?).copied()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let numbers = self.text_ends.len() + self.lists.len() + self.list_ends.len();
        let implied: usize = self.implied.iter().map(|i| i.numbers.len() + 16).sum();
        size_of::<Self>() + self.texts.len() + 4 * (numbers + implied)
    }

    /// The two parts of the chunk, uncompressed: what of each text the one before does not begin with, and numbers.
    pub(super) fn write(&self, table: &SymbolTable, values: u32) -> (Vec<u8>, Vec<u8>) {
        let (mut texts, mut numbers) = (Vec::new(), Vec::new());
        let at = SymbolsAt {
            first: self.first,
            values,
            ..SymbolsAt::default()
        };
        for (_, _, places) in table.names_in(&at) {
            let mut last: &[u8] = &[];
            for text in places.filter_map(|place| self.text((place - self.first) as usize)) {
                let shared = last.iter().zip(text.as_bytes()).take_while(|(a, b)| a == b).count();
                put_uvarint(&mut numbers, shared as u64);
                put_uvarint(&mut numbers, (text.len() - shared) as u64);
                texts.extend_from_slice(&text.as_bytes()[shared..]);
                last = text.as_bytes();
            }
        }
        for chunks in (0..self.len()).filter_map(|at| self.chunks(at)) {
            put_uvarint(&mut numbers, chunks.len() as u64);
            let mut last = 0;
            for chunk in chunks {
                put_uvarint(&mut numbers, u64::from(chunk - last));
                last = *chunk;
            }
        }
        for implied in &self.implied {
            put_changes(&mut numbers, &implied.numbers);
        }
        (texts, numbers)
    }

    /// Of the two parts, uncompressed; `series_chunks` is how many the block has.
    pub(super) fn read(
        texts: &[u8],
        numbers: &[u8],
        at: &SymbolsAt,
        table: &SymbolTable,
        series_chunks: usize,
    ) -> Option<Self> {
        let (mut texts, mut input) = (Input(texts), Input(numbers));
        let mut chunk = Self::begin(at.first);
        // Two bytes each at least.
        if at.values as usize > numbers.len() / 2 {
            return None;
        }
        let mut all: Vec<u8> = Vec::with_capacity(texts.0.len());
        for (_, _, places) in table.names_in(at) {
            let mut last = all.len()..all.len();
            for nth in 0..places.end - places.start {
                let (shared, len) = (input.length()?, input.length()?);
                let suffix = texts.bytes(len)?;
                // Ascending, so that they can be searched; none is empty.
                let is_next = shared <= last.len() && (nth == 0 || &all[last.start + shared..last.end] < suffix);
                if !is_next || shared + len == 0 || shared + len > MAX_LABELS_LEN {
                    return None;
                }
                let begin = all.len();
                if (begin + shared + len) as u64 > MAX_CHUNK_LEN {
                    return None;
                }
                all.extend_from_within(last.start..last.start + shared);
                all.extend_from_slice(suffix);
                last = begin..all.len();
                chunk.text_ends.push(all.len() as u32);
            }
        }
        chunk.texts = String::from_utf8(all).ok()?;
        if !chunk
            .text_ends
            .iter()
            .all(|end| chunk.texts.is_char_boundary(*end as usize))
        {
            return None;
        }
        for _ in 0..at.values {
            let mut last = 0_u64;
            for nth in 0..input.length()? {
                let gap = input.uvarint()?;
                last = last.checked_add(gap)?;
                if (nth > 0 && gap == 0) || last >= series_chunks as u64 {
                    return None;
                }
                chunk.lists.push(last as u32);
            }
            chunk.list_ends.push(chunk.lists.len() as u32);
        }
        for (source, _, places) in table.names_in(at) {
            for (name, implied) in table.implied_by(source) {
                chunk.implied.push(Implied {
                    name,
                    first: places.start,
                    numbers: changes(&mut input, (places.end - places.start) as usize, implied.values)?,
                });
            }
        }
        let first_value = chunk.text(0)?;
        (texts.0.is_empty() && input.0.is_empty() && first_value == at.first_value).then_some(chunk)
    }
}

/// Numbers as differences to the one before, from 0.
pub(super) fn put_changes(out: &mut Vec<u8>, numbers: &[u32]) {
    let mut last = 0_i64;
    for number in numbers {
        let change = i64::from(*number) - last;
        put_uvarint(out, ((change << 1) ^ (change >> 63)) as u64);
        last = i64::from(*number);
    }
}

/// So many numbers, each below `limit`.
pub(super) fn changes(input: &mut Input<'_>, count: usize, limit: u32) -> Option<Vec<u32>> {
    // A byte each at least.
    if count > input.0.len() {
        return None;
    }
    let mut numbers = Vec::with_capacity(count);
    let mut last = 0_i64;
    for _ in 0..count {
        let change = input.uvarint()?;
        last = last.checked_add(((change >> 1) as i64) ^ -((change & 1) as i64))?;
        numbers.push(u32::try_from(last).ok().filter(|number| *number < limit)?);
    }
    Some(numbers)
}
