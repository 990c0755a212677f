//! Chunks of a block's dictionary that a reader has at hand, and the labels that they and a chunk's columns make.

use super::cache::{Part, SeriesPart};
use super::layout::SeriesChunk;
use super::rows::{Rows, Run};
use super::symbols::{Symbol, SymbolChunk, SymbolTable};
use super::{BlockError, BlockReader};
use bytes::Bytes;
use gnomon_model::labels::put_uvarint;
use gnomon_model::{Labels, LabelsRef};
use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// A dictionary that is not longer is read whole, by one request.
const WHOLE_BYTES: u64 = 1 << 20;
/// What is held beyond this, as it is in memory, is let go before more is read.
const VIEW_BYTES: usize = 16 << 20;

/// Chunks of the dictionary, by their places in the table.
#[derive(Default)]
pub(super) struct View {
    chunks: HashMap<usize, Arc<SymbolChunk>>,
    /// As they are in the object: read with others, and not looked at so far.
    unopened: HashMap<usize, Bytes>,
    bytes: usize,
}

impl View {
    pub(super) fn chunk(&self, at: usize) -> Option<&SymbolChunk> {
        self.chunks.get(&at).map(Arc::as_ref)
    }

    fn has(&self, at: usize) -> bool {
        self.chunks.contains_key(&at) || self.unopened.contains_key(&at)
    }

    fn insert(&mut self, at: usize, chunk: Arc<SymbolChunk>) {
        self.bytes += chunk.memory_bytes();
        self.chunks.insert(at, chunk);
    }

    /// Lets go what it holds if that is much: what is needed again is read again.
    fn trim(&mut self) {
        if self.bytes > VIEW_BYTES {
            *self = Self::default();
        }
    }

    pub(super) const fn resolver<'v>(&'v self, table: &'v SymbolTable) -> Resolver<'v> {
        Resolver {
            view: self,
            table,
            last: None,
        }
    }
}

/// Finds values by their places in the dictionary; quickest where the next is near the last.
pub(super) struct Resolver<'v> {
    view: &'v View,
    table: &'v SymbolTable,
    last: Option<(&'v SymbolChunk, Range<u64>)>,
}

impl<'v> Resolver<'v> {
    /// The chunk with a place, and where in it.
    fn find(&mut self, place: u64) -> Option<(&'v SymbolChunk, usize)> {
        if !self.last.as_ref().is_some_and(|(_, places)| places.contains(&place)) {
            let at = self.table.chunk_of(place)?;
            self.last = Some((self.view.chunk(at)?, self.table.chunks[at].places()));
        }
        let (chunk, places) = self.last.as_ref()?;
        Some((chunk, (place - places.start) as usize))
    }

    pub(super) fn symbol(&mut self, place: u64) -> Option<Symbol<'v>> {
        let (chunk, at) = self.find(place)?;
        chunk.symbol(at)
    }

    pub(super) fn text(&mut self, place: u64) -> Option<&'v str> {
        let (chunk, at) = self.find(place)?;
        chunk.text(at)
    }

    /// The number that the value at a place implies of another name.
    pub(super) fn implied(&mut self, name: u32, place: u64) -> Option<u32> {
        self.find(place)?.0.implied(name, place)
    }
}

impl BlockReader {
    /// Sees to it that the view has these chunks of the dictionary. Where one has to be read of a dictionary that is not
    /// large, all of it is: most of what follows needs more of it.
    pub(super) async fn load(
        &self,
        table: &SymbolTable,
        view: &mut View,
        chunks: impl IntoIterator<Item = usize>,
    ) -> Result<(), BlockError> {
        let mut last = None;
        let mut wanted = BTreeSet::new();
        for at in chunks {
            if last != Some(at) && !view.chunks.contains_key(&at) {
                self.take_kept(table, view, at);
                if !view.chunks.contains_key(&at) {
                    wanted.insert(at);
                }
            }
            last = Some(at);
        }
        let (Some(first), Some(end)) = (table.chunks.first(), table.chunks.last()) else {
            return Ok(());
        };
        let mut missing: Vec<usize> = wanted
            .iter()
            .copied()
            .filter(|at| !view.unopened.contains_key(at))
            .collect();
        if !missing.is_empty() && end.range().end - first.range().start <= WHOLE_BYTES {
            missing.clear();
            for at in 0..table.chunks.len() {
                if !view.has(at) {
                    self.take_kept(table, view, at);
                }
                if !view.has(at) {
                    missing.push(at);
                }
            }
        }
        let ranges: Vec<_> = missing.iter().map(|at| table.chunks[*at].range()).collect();
        for (at, bytes) in missing.into_iter().zip(self.fetch(&ranges).await?) {
            if !wanted.contains(&at) {
                // A copy of its own: what was read is more.
                let bytes = Bytes::copy_from_slice(&bytes);
                self.keep(table.chunks[at].texts.offset, &Part::Stretch(bytes));
            }
            view.unopened.insert(at, bytes);
        }
        for at in wanted {
            // Another read of the block may have opened and kept it since it was looked for.
            let Some(bytes) = view.unopened.remove(&at) else {
                continue;
            };
            let chunk = Arc::new(self.symbol_chunk(table, at, &bytes)?);
            self.keep(table.chunks[at].texts.offset, &Part::Symbols(Arc::clone(&chunk)));
            view.insert(at, chunk);
        }
        Ok(())
    }

    /// Puts what is kept of a chunk into the view.
    fn take_kept(&self, table: &SymbolTable, view: &mut View, at: usize) {
        match self.kept(table.chunks[at].texts.offset) {
            Some(Part::Symbols(chunk)) => view.insert(at, chunk),
            Some(Part::Stretch(bytes)) => drop(view.unopened.insert(at, bytes)),
            _ => {}
        }
    }

    fn symbol_chunk(&self, table: &SymbolTable, at: usize, bytes: &[u8]) -> Result<SymbolChunk, BlockError> {
        let at = &table.chunks[at];
        let damaged = |what: &str| self.damaged_at(at.texts.offset, what);
        let (texts, numbers) = bytes.split_at((at.texts.len as usize).min(bytes.len()));
        let texts = at.texts.open(texts).map_err(damaged)?;
        let numbers = at.numbers.open(numbers).map_err(damaged)?;
        let chunk = SymbolChunk::read(&texts, &numbers, at, table, self.chunks.len());
        chunk.ok_or_else(|| damaged("chunk of label values"))
    }

    /// A chunk of the dictionary is not what it should be.
    pub(super) fn bad_symbols(&self, table: &SymbolTable, at: usize) -> BlockError {
        match table.chunks.get(at) {
            Some(chunk) => self.damaged_at(chunk.texts.offset, "dictionary"),
            None => self.damaged("dictionary names a chunk that is not there"),
        }
    }

    /// The same of the one with this place.
    pub(super) fn bad_symbol(&self, table: &SymbolTable, place: u64) -> BlockError {
        self.bad_symbols(table, table.chunk_of(place).unwrap_or(usize::MAX))
    }

    /// The columns of a chunk.
    pub(super) fn chunk_rows(
        &self,
        table: &SymbolTable,
        chunk: &SeriesChunk,
        compressed: &[u8],
    ) -> Result<Rows, BlockError> {
        let damaged = |what: &str| self.damaged_at(chunk.labels.offset, what);
        let raw = chunk.labels.open(compressed).map_err(damaged)?;
        Rows::read(&raw, chunk.series, table).ok_or_else(|| damaged("chunk of labels"))
    }

    /// The labels of some rows (ascending), in their order.
    pub(super) async fn labels_of(
        &self,
        table: &SymbolTable,
        rows: &Rows,
        some: &[u32],
        view: &mut View,
    ) -> Result<Vec<Labels>, BlockError> {
        view.trim();
        let mut wanted = BTreeSet::new();
        for (run, its) in rows.runs_of(some) {
            for (nth, name) in rows.shapes[run.shape].iter().enumerate() {
                if table.names[*name as usize].source.is_none() {
                    let numbers = cells(rows, run, nth, its, table);
                    wanted_chunks(table, table.names[*name as usize].first, numbers, &mut wanted);
                }
            }
        }
        self.load(table, view, std::mem::take(&mut wanted)).await?;
        let mut symbols = view.resolver(table);
        for (run, its) in rows.runs_of(some) {
            for (nth, name) in rows.shapes[run.shape].iter().enumerate() {
                let of = &table.names[*name as usize];
                let Some(source) = of.source else { continue };
                let first = table.names[source as usize].first;
                let numbers = cells(rows, run, nth, its, table);
                let implied = numbers.map(|number| symbols.implied(*name, first + u64::from(number)));
                let implied: Option<Vec<u32>> = implied.collect();
                let implied = implied.ok_or_else(|| self.bad_symbol(table, first))?;
                wanted_chunks(table, of.first, implied.into_iter(), &mut wanted);
            }
        }
        self.load(table, view, wanted).await?;
        compose(table, rows, some, view).ok_or_else(|| self.damaged("label sets of a chunk, or its dictionary"))
    }

    /// Makes the labels of series of a part (ascending, by their places) that were not made so far.
    pub(super) async fn make_labels(&self, part: &SeriesPart, some: &[u32], view: &mut View) -> Result<(), BlockError> {
        let (Some(table), Some(rows)) = (self.symbol_table(), &part.rows) else {
            return Ok(());
        };
        let is_missing = |at: &u32| part.labels(*at as usize).is_none();
        let missing: Vec<u32> = some.iter().copied().filter(is_missing).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let made = self.labels_of(table, rows, &missing, view).await?;
        for (at, labels) in missing.into_iter().zip(made) {
            part.set_labels(at as usize, labels);
        }
        Ok(())
    }
}

/// What the `nth` column of a run has for some of its rows.
fn cells<'r>(
    rows: &'r Rows,
    run: &'r Run,
    nth: usize,
    some: &'r [u32],
    table: &'r SymbolTable,
) -> impl Iterator<Item = u32> + 'r {
    let numbers = rows.numbers(run, nth, table);
    let of = |row: &u32| numbers.get((*row as usize).checked_sub(run.rows.start)?).copied();
    some.iter().filter_map(of)
}

/// The chunks of the dictionary with these values of a name.
fn wanted_chunks(table: &SymbolTable, first: u64, numbers: impl Iterator<Item = u32>, wanted: &mut BTreeSet<usize>) {
    let mut last: Range<u64> = 0..0;
    for number in numbers {
        let place = first + u64::from(number);
        if !last.contains(&place)
            && let Some(at) = table.chunk_of(place)
        {
            last = table.chunks[at].places();
            wanted.insert(at);
        }
    }
}

/// None where the view lacks a value, or the labels are longer than the chunk says those of all its series are.
fn compose(table: &SymbolTable, rows: &Rows, some: &[u32], view: &View) -> Option<Vec<Labels>> {
    let mut out = Vec::with_capacity(some.len());
    let (mut bytes, mut total) = (Vec::new(), 0);
    for (run, its) in rows.runs_of(some) {
        let shape = rows.shapes.get(run.shape)?;
        let mut columns = Vec::with_capacity(shape.len());
        for (nth, number) in shape.iter().enumerate() {
            let name = table.names.get(*number as usize)?;
            let source = name.source.and_then(|source| table.names.get(source as usize));
            let numbers = rows.numbers(run, nth, table);
            // Two searches, so that neither loses the place of the other.
            columns.push((
                *number,
                name,
                source,
                numbers,
                view.resolver(table),
                view.resolver(table),
            ));
        }
        for row in its {
            bytes.clear();
            for (number, name, source, numbers, values, sources) in &mut columns {
                let mut value = *numbers.get(*row as usize - run.rows.start)?;
                if let Some(source) = source {
                    value = sources.implied(*number, source.first + u64::from(value))?;
                }
                for text in [name.text.as_str(), values.text(name.first + u64::from(value))?] {
                    put_uvarint(&mut bytes, text.len() as u64);
                    bytes.extend_from_slice(text.as_bytes());
                }
            }
            total += bytes.len();
            if total > rows.label_bytes {
                return None;
            }
            out.push(LabelsRef::from_canonical(&bytes).to_owned());
        }
    }
    Some(out)
}
