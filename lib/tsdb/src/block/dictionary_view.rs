//! Chunks of a block's dictionary that a reader has at hand, and the labels that they and a chunk's columns make.

use super::cache::Part;
use super::layout::{MAX_CHUNK_LEN, SeriesChunk};
use super::rows::Rows;
use super::symbols::{Symbol, SymbolChunk, SymbolTable};
use super::{BlockError, BlockReader};
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
    bytes: usize,
}

impl View {
    pub(super) fn chunk(&self, at: usize) -> Option<&SymbolChunk> {
        self.chunks.get(&at).map(Arc::as_ref)
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
        let missing = |view: &mut View, at: usize| {
            if view.chunks.contains_key(&at) {
                return false;
            }
            let kept = self.kept(table.chunks[at].texts.offset);
            let Some(Part::Symbols(chunk)) = kept else {
                return true;
            };
            view.insert(at, chunk);
            false
        };
        let mut last = None;
        let mut wanted = BTreeSet::new();
        for at in chunks {
            if last != Some(at) && missing(view, at) {
                wanted.insert(at);
            }
            last = Some(at);
        }
        let (Some(first), Some(end)) = (table.chunks.first(), table.chunks.last()) else {
            return Ok(());
        };
        if wanted.is_empty() {
            return Ok(());
        }
        if end.range().end - first.range().start <= WHOLE_BYTES {
            wanted = (0..table.chunks.len()).filter(|at| missing(view, *at)).collect();
        }
        let ranges: Vec<_> = wanted.iter().map(|at| table.chunks[*at].range()).collect();
        for (at, bytes) in wanted.into_iter().zip(self.fetch(&ranges).await?) {
            let chunk = Arc::new(self.symbol_chunk(table, at, &bytes)?);
            self.keep(table.chunks[at].texts.offset, &Part::Symbols(Arc::clone(&chunk)));
            view.insert(at, chunk);
        }
        Ok(())
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

    /// The labels that columns stand for.
    pub(super) async fn labels_of(
        &self,
        table: &SymbolTable,
        rows: &Rows,
        view: &mut View,
    ) -> Result<Vec<Labels>, BlockError> {
        view.trim();
        let mut wanted = BTreeSet::new();
        for (name, numbers) in rows.columns() {
            wanted_chunks(
                table,
                table.names[name as usize].first,
                numbers.iter().copied(),
                &mut wanted,
            );
        }
        self.load(table, view, wanted).await?;
        let mut wanted = BTreeSet::new();
        let mut symbols = view.resolver(table);
        for (name, its) in (0_u32..).zip(&table.names) {
            let Some(source) = its.source else { continue };
            let Some((_, numbers)) = rows.columns().find(|(name, _)| *name == source) else {
                continue;
            };
            let first = table.names[source as usize].first;
            let implied = numbers.iter().map(|n| symbols.implied(name, first + u64::from(*n)));
            let implied: Option<Vec<u32>> = implied.collect();
            let implied = implied.ok_or_else(|| self.damaged("dictionary"))?;
            wanted_chunks(table, its.first, implied.into_iter(), &mut wanted);
        }
        self.load(table, view, wanted).await?;
        compose(table, rows, view).ok_or_else(|| self.damaged("label sets of a chunk, or its dictionary"))
    }
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

/// None where the view lacks a value, or the labels are too long together.
fn compose(table: &SymbolTable, rows: &Rows, view: &View) -> Option<Vec<Labels>> {
    let mut out = Vec::with_capacity(rows.runs.last().map_or(0, |run| run.rows.end));
    let (mut bytes, mut total) = (Vec::new(), 0_u64);
    for run in &rows.runs {
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
        for row in 0..run.rows.len() {
            bytes.clear();
            for (number, name, source, numbers, values, sources) in &mut columns {
                let mut value = *numbers.get(row)?;
                if let Some(source) = source {
                    value = sources.implied(*number, source.first + u64::from(value))?;
                }
                for text in [name.text.as_str(), values.text(name.first + u64::from(value))?] {
                    put_uvarint(&mut bytes, text.len() as u64);
                    bytes.extend_from_slice(text.as_bytes());
                }
            }
            total += bytes.len() as u64;
            if total > MAX_CHUNK_LEN {
                return None;
            }
            out.push(LabelsRef::from_canonical(&bytes).to_owned());
        }
    }
    Some(out)
}
