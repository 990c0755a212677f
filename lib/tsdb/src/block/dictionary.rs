//! Collects the labels of a block that is being written, and makes its dictionary and its columns of them.

use super::layout::SERIES_PER_CHUNK;
use super::rows;
use super::symbols::{
    Implied, Name, SUFFIX_BYTES_PER_CHUNK, SymbolChunk, SymbolTable, SymbolsAt, VALUE_BYTES_PER_CHUNK, VALUES_PER_CHUNK,
};
use gnomon_model::{LabelsRef, METRIC_NAME};
use std::collections::HashMap;
use std::ops::Range;

/// So many names with the most values are tried as sources of others.
const MAX_SOURCES: usize = 4;
/// A value that more chunks of series have, and more than one in [`LISTED_SHARE`], is not listed with its chunks.
const LISTED_CHUNKS: usize = 4;
const LISTED_SHARE: usize = 2;

/// Texts, numbered as they came.
#[derive(Default)]
struct Numbered {
    texts: Vec<Box<str>>,
    numbers: HashMap<Box<str>, u32>,
}

impl Numbered {
    fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.texts.len() as u32;
        self.texts.push(text.into());
        self.numbers.insert(text.into(), number);
        number
    }

    /// The texts in order, and the place there of each number.
    fn sorted(self) -> (Vec<Box<str>>, Vec<u32>) {
        let mut order: Vec<u32> = (0..self.texts.len() as u32).collect();
        order.sort_unstable_by(|a, b| self.texts[*a as usize].cmp(&self.texts[*b as usize]));
        let mut places = vec![0; order.len()];
        for (place, number) in (0_u32..).zip(&order) {
            places[*number as usize] = place;
        }
        let mut texts = self.texts;
        let sorted = order.iter().map(|number| std::mem::take(&mut texts[*number as usize]));
        (sorted.collect(), places)
    }
}

/// When chunks are closed, besides by their bytes; tests have smaller ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChunkLimits {
    pub(super) series: usize,
    pub(super) values: usize,
}

impl Default for ChunkLimits {
    fn default() -> Self {
        Self {
            series: SERIES_PER_CHUNK,
            values: VALUES_PER_CHUNK,
        }
    }
}

/// The labels of all series so far: texts once, and four bytes a label.
#[derive(Default)]
pub(super) struct Dictionary {
    names: Numbered,
    /// By the number of the name.
    values: Vec<Numbered>,
    shapes: Vec<Vec<u32>>,
    shape_numbers: HashMap<Vec<u32>, u32>,
    /// Of each series.
    shape_of: Vec<u32>,
    /// Numbers of values, series by series.
    cells: Vec<u32>,
}

/// What is to be written.
pub(super) struct Index {
    pub(super) table: SymbolTable,
    /// The dictionary in parts, in its order.
    pub(super) symbols: Vec<SymbolChunk>,
    /// The labels of each chunk of series, uncompressed.
    pub(super) labels: Vec<Vec<u8>>,
    pub(super) metrics: Vec<String>,
}

impl Dictionary {
    pub(super) fn add(&mut self, labels: LabelsRef<'_>) {
        let mut shape = Vec::new();
        for (name, value) in labels.iter() {
            let name = self.names.number(name);
            if self.values.len() <= name as usize {
                self.values.push(Numbered::default());
            }
            shape.push(name);
            self.cells.push(self.values[name as usize].number(value));
        }
        let number = self.shape_numbers.get(&shape).copied().unwrap_or_else(|| {
            self.shapes.push(shape.clone());
            let number = self.shape_numbers.len() as u32;
            self.shape_numbers.insert(shape, number);
            number
        });
        self.shape_of.push(number);
    }

    /// `chunks` are the series of each chunk, all together all that were added, and the bytes of their labels.
    pub(super) fn finish(mut self, chunks: &[(Range<usize>, u64)], limits: ChunkLimits) -> Index {
        self.renumber();
        let mut values = Vec::new();
        let mut table = SymbolTable::default();
        let mut first = 0;
        for (name, its) in std::mem::take(&mut self.names.texts).into_iter().zip(&mut self.values) {
            values.push(std::mem::take(&mut its.texts));
            let count = values.last().map_or(0, Vec::len) as u32;
            table.names.push(Name {
                text: name.into(),
                first,
                values: count,
                source: None,
            });
            first += u64::from(count);
        }
        let implied = self.find_sources(&mut table);
        let lists = self.lists(&table, chunks);
        let symbols = symbols(&mut table, &values, &lists, &implied, limits);
        let mut labels = Vec::with_capacity(chunks.len());
        let mut rows = self.rows();
        for (chunk, bytes) in chunks {
            labels.push(rows::write(&table, *bytes, rows.by_ref().take(chunk.len())));
        }
        drop(rows);
        let metrics = table.name(METRIC_NAME).and_then(|name| values.get(name as usize));
        Index {
            metrics: metrics.into_iter().flatten().map(|text| text.to_string()).collect(),
            table,
            symbols,
            labels,
        }
    }

    /// Names and values get the numbers of their places in order.
    fn renumber(&mut self) {
        let (names, name_places) = std::mem::take(&mut self.names).sorted();
        let mut values: Vec<Numbered> = Vec::new();
        values.resize_with(names.len(), Numbered::default);
        let mut value_places = Vec::with_capacity(names.len());
        for (its, place) in std::mem::take(&mut self.values).into_iter().zip(&name_places) {
            let (texts, places) = its.sorted();
            values[*place as usize].texts = texts;
            value_places.push(places);
        }
        let mut cells = self.cells.iter_mut();
        for shape in &self.shape_of {
            for (name, cell) in self.shapes[*shape as usize].iter().zip(&mut cells) {
                *cell = value_places[*name as usize][*cell as usize];
            }
        }
        // Labels are sorted by name, so that the new numbers ascend.
        for name in self.shapes.iter_mut().flatten() {
            *name = name_places[*name as usize];
        }
        self.names.texts = names;
        self.values = values;
    }

    /// Names and numbers of values of all series.
    fn rows(&self) -> impl Iterator<Item = (&[u32], &[u32])> {
        let mut rest = self.cells.as_slice();
        self.shape_of.iter().map(move |shape| {
            let names = self.shapes[*shape as usize].as_slice();
            let (cells, after) = rest.split_at(names.len());
            rest = after;
            (names, cells)
        })
    }

    /// Finds names whose values follow from those of another, as a pod's node does from the pod: what they are is stored
    /// once for each value of the other, instead of for each series.
    fn find_sources(&self, table: &mut SymbolTable) -> Vec<(u32, Vec<u32>)> {
        let metric = table.name(METRIC_NAME);
        let several = |name: u32| table.names[name as usize].values > 1 && Some(name) != metric;
        let names: Vec<u32> = (0..table.names.len() as u32).filter(|name| several(*name)).collect();
        let mut sources = names.clone();
        sources.sort_by_key(|name| std::cmp::Reverse(table.names[*name as usize].values));
        sources.truncate(MAX_SOURCES);
        let mut found: Vec<(u32, Vec<u32>)> = Vec::new();
        let counts = self.series_of_names(table.names.len());
        let mut is_source = vec![false; table.names.len()];
        for source in sources {
            if table.names[source as usize].source.is_some() {
                continue;
            }
            let values = table.names[source as usize].values;
            // Names may be many, and to look at one takes all series.
            let is_frequent = |name: u32| counts[name as usize] >= least_series(values);
            for name in names.iter().copied().filter(|name| is_frequent(*name)) {
                let is_free =
                    name != source && table.names[name as usize].source.is_none() && !is_source[name as usize];
                if is_free && let Some(numbers) = self.implied(source, name, values) {
                    table.names[name as usize].source = Some(source);
                    is_source[source as usize] = true;
                    found.push((name, numbers));
                }
            }
        }
        found.sort_unstable_by_key(|(name, _)| *name);
        found
    }

    /// How many series have each of so many names.
    fn series_of_names(&self, names: usize) -> Vec<u64> {
        let mut of_shapes = vec![0_u64; self.shapes.len()];
        for shape in &self.shape_of {
            of_shapes[*shape as usize] += 1;
        }
        let mut of_names = vec![0; names];
        for (shape, series) in self.shapes.iter().zip(of_shapes) {
            for name in shape {
                of_names[*name as usize] += series;
            }
        }
        of_names
    }

    /// The value of `name` for each value of `source`; none where there are several for one, or few series to gain by.
    fn implied(&self, source: u32, name: u32, values: u32) -> Option<Vec<u32>> {
        let places = |shape: &Vec<u32>| {
            let name = shape.binary_search(&name).ok()?;
            Some((shape.binary_search(&source).ok(), name))
        };
        let places: Vec<Option<(Option<usize>, usize)>> = self.shapes.iter().map(places).collect();
        let mut numbers = vec![u32::MAX; values as usize];
        let mut series = 0_u64;
        for (shape, (_, cells)) in self.shape_of.iter().zip(self.rows()) {
            let Some((source, name)) = places[*shape as usize] else {
                continue;
            };
            let number = &mut numbers[cells[source?] as usize];
            if *number == u32::MAX {
                *number = cells[name];
            } else if *number != cells[name] {
                return None;
            }
            series += 1;
        }
        if series < least_series(values) {
            return None;
        }
        // Where no series has the two, it does not matter: as before.
        let mut last = 0;
        for number in &mut numbers {
            if *number == u32::MAX {
                *number = last;
            }
            last = *number;
        }
        Some(numbers)
    }

    /// The chunks that have each value, by the value's place in the dictionary.
    fn lists(&self, table: &SymbolTable, chunks: &[(Range<usize>, u64)]) -> Vec<Vec<u32>> {
        let places = table.names.last().map_or(0, |last| last.places().end);
        let mut lists: Vec<Vec<u32>> = vec![Vec::new(); places as usize];
        let mut rows = self.rows();
        for (number, (chunk, _)) in (0_u32..).zip(chunks) {
            for (names, cells) in rows.by_ref().take(chunk.len()) {
                for (name, cell) in names.iter().zip(cells) {
                    let list = &mut lists[table.names[*name as usize].first as usize + *cell as usize];
                    if list.last() != Some(&number) {
                        list.push(number);
                    }
                }
            }
        }
        for list in &mut lists {
            if list.len() > LISTED_CHUNKS && list.len() * LISTED_SHARE > chunks.len() {
                list.clear();
            }
        }
        lists
    }
}

/// So many series have to have a name that one with so many values implies.
fn least_series(values: u32) -> u64 {
    2 * u64::from(values)
}

/// Cuts the dictionary into chunks.
fn symbols(
    table: &mut SymbolTable,
    values: &[Vec<Box<str>>],
    lists: &[Vec<u32>],
    implied: &[(u32, Vec<u32>)],
    limits: ChunkLimits,
) -> Vec<SymbolChunk> {
    let mut chunks: Vec<SymbolChunk> = Vec::new();
    let (mut open, mut suffixes, mut place) = (SymbolChunk::default(), 0, 0_u64);
    for texts in values {
        let mut last: &[u8] = &[];
        for text in texts {
            let is_full = open.len() >= limits.values
                || suffixes >= SUFFIX_BYTES_PER_CHUNK
                || open.text_bytes() >= VALUE_BYTES_PER_CHUNK;
            if is_full {
                chunks.push(std::mem::replace(&mut open, SymbolChunk::begin(place)));
                suffixes = 0;
            }
            let shared = last.iter().zip(text.as_bytes()).take_while(|(a, b)| a == b).count();
            suffixes += text.len() - shared;
            last = text.as_bytes();
            open.push(text, &lists[place as usize]);
            place += 1;
        }
    }
    if open.len() > 0 {
        chunks.push(open);
    }
    for chunk in &mut chunks {
        let at = SymbolsAt {
            first: chunk.first,
            values: chunk.len() as u32,
            first_value: chunk.text(0).unwrap_or_default().to_owned(),
            ..SymbolsAt::default()
        };
        for (source, name, places) in table.names_in(&at) {
            for (other, numbers) in implied {
                if table.names[*other as usize].source == Some(source) {
                    let its = (places.start - name.first) as usize..(places.end - name.first) as usize;
                    chunk.implied.push(Implied {
                        name: *other,
                        first: places.start,
                        numbers: numbers[its].to_vec(),
                    });
                }
            }
        }
        table.chunks.push(at);
    }
    chunks
}
