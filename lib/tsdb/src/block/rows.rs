//! The labels of a chunk of series since version 3, column by column: which names each series has, and for each name the
//! numbers of its values ([`super::symbols`]).

use super::layout::{Input, MAX_CHUNK_LEN, MAX_SERIES_PER_CHUNK};
use super::symbols::{SymbolTable, changes, put_changes};
use gnomon_model::labels::put_uvarint;
use std::collections::HashMap;
use std::ops::Range;

/// Labels of all series of a chunk together: those that are implied take no bytes. A writer closes a chunk long before.
const MAX_CELLS: usize = 1 << 20;

/// Consecutive series with the same names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Place of the names in [`Rows::shapes`].
    pub(super) shape: usize,
    /// Within the chunk.
    pub(super) rows: Range<usize>,
    /// For each name of the shape, where the run begins in its column; of implied names, in that of their source.
    begins: Vec<usize>,
}

/// The labels of a chunk of series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rows {
    /// Of all label sets together, in canonical bytes.
    pub(super) label_bytes: usize,
    /// Names of series, ascending, by their numbers.
    pub(super) shapes: Vec<Vec<u32>>,
    pub(super) runs: Vec<Run>,
    /// By name: the numbers of all series that have it, in their order. Implied names have none.
    columns: HashMap<u32, Vec<u32>>,
}

/// The labels of a chunk of series as they are written, uncompressed. `rows` gives the names of each series, and the
/// numbers of their values.
pub(super) fn write<'a>(
    table: &SymbolTable,
    label_bytes: u64,
    rows: impl Iterator<Item = (&'a [u32], &'a [u32])>,
) -> Vec<u8> {
    let mut shapes: Vec<&[u32]> = Vec::new();
    let mut runs: Vec<(usize, u64)> = Vec::new();
    let mut columns = std::collections::BTreeMap::<u32, Vec<u32>>::new();
    for (names, numbers) in rows {
        match runs.last_mut() {
            Some((shape, rows)) if shapes[*shape] == names => *rows += 1,
            _ => {
                let known = shapes.iter().position(|shape| *shape == names);
                let shape = known.unwrap_or_else(|| {
                    shapes.push(names);
                    shapes.len() - 1
                });
                runs.push((shape, 1));
            }
        }
        for (name, number) in names.iter().zip(numbers) {
            if table.names[*name as usize].source.is_none() {
                columns.entry(*name).or_default().push(*number);
            }
        }
    }
    let mut out = Vec::new();
    put_uvarint(&mut out, label_bytes);
    put_uvarint(&mut out, shapes.len() as u64);
    for shape in shapes {
        put_uvarint(&mut out, shape.len() as u64);
        let mut last = 0;
        for name in shape {
            put_uvarint(&mut out, u64::from(name - last));
            last = *name;
        }
    }
    put_uvarint(&mut out, runs.len() as u64);
    for (shape, rows) in runs {
        put_uvarint(&mut out, shape as u64);
        put_uvarint(&mut out, rows);
    }
    for column in columns.values() {
        put_changes(&mut out, column);
    }
    out
}

impl Rows {
    /// Of the uncompressed bytes of a chunk of so many series.
    pub(super) fn read(raw: &[u8], series: u32, table: &SymbolTable) -> Option<Self> {
        let mut input = Input(raw);
        let mut rows = Self {
            label_bytes: input.length().filter(|len| *len as u64 <= MAX_CHUNK_LEN)?,
            ..Self::default()
        };
        for _ in 0..input.length().filter(|shapes| *shapes <= series as usize)? {
            rows.shapes.push(read_shape(&mut input, table)?);
        }
        // Rows of each column so far.
        let mut lengths = std::collections::BTreeMap::<u32, usize>::new();
        let (mut end, mut cells) = (0_usize, 0_usize);
        for _ in 0..input.length()? {
            let shape = input.length()?;
            let count = input
                .length()
                .filter(|n| (1..=MAX_SERIES_PER_CHUNK as usize).contains(n))?;
            let names = rows.shapes.get(shape)?;
            cells = cells.checked_add(names.len().checked_mul(count)?)?;
            if cells > MAX_CELLS {
                return None;
            }
            let of = |name: &u32| table.names[*name as usize].source.unwrap_or(*name);
            let begins = names.iter().map(|name| lengths.get(&of(name)).copied().unwrap_or(0));
            let run = Run {
                shape,
                rows: end..end + count,
                begins: begins.collect(),
            };
            for name in names.iter().filter(|name| of(name) == **name) {
                *lengths.entry(*name).or_default() += count;
            }
            end += count;
            if end > series as usize {
                return None;
            }
            rows.runs.push(run);
        }
        for (name, count) in lengths {
            let limit = table.names[name as usize].values;
            rows.columns.insert(name, changes(&mut input, count, limit)?);
        }
        (input.0.is_empty() && end == series as usize).then_some(rows)
    }

    /// Numbers of a run's rows for the `nth` of its names: of the name itself, or of the one that implies it.
    pub(super) fn numbers(&self, run: &Run, nth: usize, table: &SymbolTable) -> &[u32] {
        let cut = || {
            let name = *self.shapes.get(run.shape)?.get(nth)?;
            let column = table.names.get(name as usize)?.source.unwrap_or(name);
            let begin = *run.begins.get(nth)?;
            self.columns.get(&column)?.get(begin..begin + run.rows.len())
        };
        cut().unwrap_or_default()
    }

    /// Series.
    pub(super) fn len(&self) -> usize {
        self.runs.last().map_or(0, |run| run.rows.end)
    }

    /// The runs with some of `rows` (ascending), and which of them.
    pub(super) fn runs_of<'r>(&'r self, rows: &'r [u32]) -> impl Iterator<Item = (&'r Run, &'r [u32])> {
        let mut rest = rows;
        self.runs.iter().filter_map(move |run| {
            let its = rest.partition_point(|row| (*row as usize) < run.rows.end);
            let (its, after) = rest.split_at(its);
            rest = after;
            (!its.is_empty()).then_some((run, its))
        })
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let shapes: usize = self.shapes.iter().map(|s| 24 + 4 * s.len()).sum();
        let runs: usize = self.runs.iter().map(|r| size_of::<Run>() + 8 * r.begins.len()).sum();
        let columns: usize = self.columns.values().map(|c| 48 + 4 * c.len()).sum();
        shapes + runs + columns
    }
}

/// Names, ascending; those that are implied with the ones that imply them.
fn read_shape(input: &mut Input<'_>, table: &SymbolTable) -> Option<Vec<u32>> {
    let count = input.length().filter(|count| *count <= input.0.len())?;
    let mut names = Vec::with_capacity(count);
    let mut last = 0_u32;
    for nth in 0..count {
        let gap = u32::try_from(input.uvarint()?).ok()?;
        if nth > 0 && gap == 0 {
            return None;
        }
        last = last.checked_add(gap)?;
        table.names.get(last as usize)?;
        names.push(last);
    }
    let is_there = |name: &u32| names.binary_search(name).is_ok();
    let sources = names.iter().filter_map(|name| table.names[*name as usize].source);
    let complete = sources.into_iter().all(|source| is_there(&source));
    complete.then_some(names)
}
