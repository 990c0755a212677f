//! From matchers to the series that satisfy them: numbers of values, and chunks of series that have one of them. Which
//! series of a chunk it is, is seen in the chunk's columns when it is read.

use super::cache::SeriesPart;
use super::dictionary_view::View;
use super::symbols::{Name, SymbolTable};
use super::{BlockError, BlockReader};
use gnomon_model::{MatchOp, Matcher};
use roaring::RoaringBitmap;

/// Series that may match, and what is still to be asked of each.
#[derive(Default)]
pub(super) struct Candidates {
    pub(super) series: RoaringBitmap,
    /// Of blocks before version 3: matchers that were not looked at.
    pub(super) check: Vec<Matcher>,
    /// Of later blocks: what a series' numbers must be.
    pub(super) wanted: Vec<Wanted>,
}

/// Numbers of values of one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    /// None while there is one number at most: many values may be looked up one by one.
    bits: Vec<u64>,
    values: u32,
    /// The only one, if it is one.
    only: Option<u32>,
    count: u32,
}

/// So many numbers of a column are compared together.
const TOGETHER: usize = 32;

impl Numbers {
    pub(super) const fn none(values: u32) -> Self {
        Self {
            bits: Vec::new(),
            values,
            only: None,
            count: 0,
        }
    }

    pub(super) fn insert(&mut self, number: u32) {
        if number >= self.values || self.only == Some(number) {
            return;
        }
        if self.count == 0 {
            (self.only, self.count) = (Some(number), 1);
            return;
        }
        if let Some(first) = self.only.take() {
            self.bits = vec![0; (self.values as usize).div_ceil(64)];
            self.bits[first as usize / 64] |= 1 << (first % 64);
        }
        let bit = 1 << (number % 64);
        if let Some(word) = self.bits.get_mut(number as usize / 64)
            && *word & bit == 0
        {
            *word |= bit;
            self.count += 1;
        }
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        if let Some(only) = self.only {
            return number == only;
        }
        let word = self.bits.get(number as usize / 64).copied().unwrap_or(0);
        word >> (number % 64) & 1 == 1
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        let all = (0_u32..).zip(&self.bits).flat_map(|(at, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(at * 64 + bit)
            })
        });
        self.only.into_iter().chain(all)
    }

    /// The places in a column at which there is one of them, ascending.
    fn places_in(&self, column: &[u32]) -> Vec<u32> {
        let mut found = Vec::new();
        let Some(only) = self.only else {
            let places = (0_u32..).zip(column).filter(|(_, number)| self.contains(**number));
            found.extend(places.map(|(at, _)| at));
            return found;
        };
        // Most parts of a column do not have it, and to see that takes no branch for each number.
        for (nth, some) in column.chunks(TOGETHER).enumerate() {
            if some.iter().fold(false, |any, number| any | (*number == only)) {
                let places = (0_u32..).zip(some).filter(|(_, number)| **number == only);
                found.extend(places.map(|(at, _)| (nth * TOGETHER) as u32 + at));
            }
        }
        found
    }

    fn others(&self) -> Self {
        let mut others = Self::none(self.values);
        (0..self.values)
            .filter(|n| !self.contains(*n))
            .for_each(|n| others.insert(n));
        others
    }

    const fn is_all(&self) -> bool {
        self.count == self.values
    }
}

/// A condition on a series' numbers.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    name: u32,
    /// Of the name's values, or of those of the name that implies it.
    numbers: Numbers,
    /// Whether series without the name satisfy it.
    absent: bool,
}

enum Verdict {
    Everything,
    Nothing,
    Those(Wanted),
}

impl SeriesPart {
    /// Which of its series satisfy all of `wanted`, ascending.
    pub(super) fn satisfying(&self, wanted: &[Wanted], table: &SymbolTable) -> Vec<u32> {
        let Some(rows) = self.rows.as_ref().filter(|_| !wanted.is_empty()) else {
            return (0..self.len() as u32).collect();
        };
        let mut all = Vec::new();
        for run in &rows.runs {
            let shape = rows.shapes.get(run.shape).map_or(&[][..], Vec::as_slice);
            // Places within the run; all of them before the first condition that takes some away.
            let mut kept: Option<Vec<u32>> = None;
            for Wanted { name, numbers, absent } in wanted {
                let Ok(nth) = shape.binary_search(name) else {
                    if !absent {
                        kept = Some(Vec::new());
                    }
                    continue;
                };
                let its = rows.numbers(run, nth, table);
                match &mut kept {
                    Some(kept) => kept.retain(|at| its.get(*at as usize).is_some_and(|n| numbers.contains(*n))),
                    None => kept = Some(numbers.places_in(its)),
                }
            }
            let begin = run.rows.start as u32;
            match kept {
                Some(kept) => all.extend(kept.into_iter().map(|at| begin + at)),
                None => all.extend(begin..run.rows.end as u32),
            }
        }
        all
    }
}

impl BlockReader {
    /// The series that may satisfy all `matchers`.
    pub(super) async fn candidates(&self, matchers: &[Matcher], view: &mut View) -> Result<Candidates, BlockError> {
        let is_unknown = |m: &Matcher| {
            m.name() == gnomon_model::METRIC_NAME
                && m.op() == MatchOp::Equal
                && !m.value().is_empty()
                && !self.may_have_metric(m.value())
        };
        if matchers.iter().any(is_unknown) {
            return Ok(Candidates::default());
        }
        match self.symbol_table() {
            Some(table) => self.candidates_by_numbers(table, matchers, view).await,
            None => self.candidates_by_postings(matchers).await,
        }
    }

    async fn candidates_by_numbers(
        &self,
        table: &SymbolTable,
        matchers: &[Matcher],
        view: &mut View,
    ) -> Result<Candidates, BlockError> {
        let mut chunks = vec![true; self.chunks.len()];
        let mut wanted = Vec::new();
        for matcher in matchers {
            match self.verdict(table, matcher, &mut chunks, view).await? {
                Verdict::Everything => {}
                Verdict::Nothing => return Ok(Candidates::default()),
                Verdict::Those(those) => wanted.push(those),
            }
        }
        // What names one value leaves least.
        wanted.sort_by_key(|wanted| wanted.numbers.only.is_none());
        let mut series = RoaringBitmap::new();
        for (chunk, _) in self.chunks.iter().zip(chunks).filter(|(_, is_wanted)| *is_wanted) {
            series.insert_range(chunk.first_series..chunk.first_series + chunk.series);
        }
        Ok(Candidates {
            series,
            check: Vec::new(),
            wanted,
        })
    }

    /// What a matcher wants; chunks of series without it are struck out.
    async fn verdict(
        &self,
        table: &SymbolTable,
        matcher: &Matcher,
        chunks: &mut [bool],
        view: &mut View,
    ) -> Result<Verdict, BlockError> {
        let absent = matcher.matches_empty();
        let otherwise = if absent { Verdict::Everything } else { Verdict::Nothing };
        let Some(number) = table.name(matcher.name()) else {
            return Ok(otherwise);
        };
        let name = &table.names[number as usize];
        let mut numbers = self.numbers_of(table, name, matcher, view).await?;
        if matches!(matcher.op(), MatchOp::NotEqual | MatchOp::NotRegex) {
            numbers = numbers.others();
        }
        if numbers.count == 0 && !absent {
            return Ok(Verdict::Nothing);
        }
        if numbers.is_all() && absent {
            return Ok(Verdict::Everything);
        }
        // Many values are in most chunks.
        if !absent && numbers.count <= name.values / 2 + 1 {
            self.strike_out(table, name, &numbers, chunks, view).await?;
        }
        if let Some(source) = name.source {
            numbers = self.of_source(table, number, source, &numbers, view).await?;
        }
        Ok(Verdict::Those(Wanted {
            name: number,
            numbers,
            absent,
        }))
    }

    /// The values of a name that the matcher's value or expression names.
    async fn numbers_of(
        &self,
        table: &SymbolTable,
        name: &Name,
        matcher: &Matcher,
        view: &mut View,
    ) -> Result<Numbers, BlockError> {
        let mut numbers = Numbers::none(name.values);
        let Some(regex) = matcher.regex() else {
            self.look_up(table, name, &[matcher.value()], &mut numbers, view)
                .await?;
            return Ok(numbers);
        };
        if regex.matches_everything() || regex.matches_all_but_empty() {
            (0..name.values).for_each(|number| numbers.insert(number));
            return Ok(numbers);
        }
        if let Some(values) = regex.literal_alternatives() {
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            self.look_up(table, name, &values, &mut numbers, view).await?;
            return Ok(numbers);
        }
        let (prefix, its) = (regex.literal_prefix(), table.chunks_of(name));
        let from = table.chunk_with(name, prefix).unwrap_or(its.start);
        let is_past = |at: usize| {
            let first = &table.chunks[at].first_value;
            at > from && first.as_str() > prefix && !first.starts_with(prefix)
        };
        let chunks: Vec<usize> = (from..its.end).take_while(|at| !is_past(*at)).collect();
        self.load(table, view, chunks.iter().copied()).await?;
        let mut scan = regex.scan();
        for at in chunks {
            let (Some(chunk), places) = (view.chunk(at), name.places()) else {
                return Err(self.bad_symbols(table, at));
            };
            let begin = places.start.max(chunk.first);
            let end = places.end.min(table.chunks[at].places().end);
            let text_at = |nth: usize| chunk.text((begin - chunk.first) as usize + nth).unwrap_or_default();
            let first = (begin - places.start) as u32;
            scan.places(end.saturating_sub(begin) as usize, text_at, |nth| {
                numbers.insert(first + nth as u32);
            });
        }
        Ok(numbers)
    }

    /// Adds the numbers of those of the values (ascending) that are there.
    async fn look_up(
        &self,
        table: &SymbolTable,
        name: &Name,
        values: &[&str],
        numbers: &mut Numbers,
        view: &mut View,
    ) -> Result<(), BlockError> {
        let chunks = values.iter().filter_map(|value| table.chunk_with(name, value));
        self.load(table, view, chunks).await?;
        for value in values {
            let Some(at) = table.chunk_with(name, value) else {
                continue;
            };
            let (Some(chunk), places) = (view.chunk(at), name.places()) else {
                return Err(self.bad_symbols(table, at));
            };
            let begin = places.start.max(chunk.first);
            let (mut low, mut high) = (begin, places.end.min(table.chunks[at].places().end));
            while low < high {
                let middle = low + (high - low) / 2;
                match chunk
                    .text((middle - chunk.first) as usize)
                    .unwrap_or_default()
                    .cmp(value)
                {
                    std::cmp::Ordering::Less => low = middle + 1,
                    std::cmp::Ordering::Greater => high = middle,
                    std::cmp::Ordering::Equal => {
                        numbers.insert((middle - places.start) as u32);
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    async fn strike_out(
        &self,
        table: &SymbolTable,
        name: &Name,
        numbers: &Numbers,
        chunks: &mut [bool],
        view: &mut View,
    ) -> Result<(), BlockError> {
        let places = || numbers.iter().map(|number| name.first + u64::from(number));
        self.load(table, view, places().filter_map(|place| table.chunk_of(place)))
            .await?;
        let mut there = vec![false; chunks.len()];
        let mut symbols = view.resolver(table);
        for place in places() {
            let symbol = symbols.symbol(place).ok_or_else(|| self.bad_symbol(table, place))?;
            if symbol.chunks.is_empty() {
                return Ok(());
            }
            for chunk in symbol.chunks {
                if let Some(there) = there.get_mut(*chunk as usize) {
                    *there = true;
                }
            }
        }
        chunks.iter_mut().zip(there).for_each(|(chunk, there)| *chunk &= there);
        Ok(())
    }

    /// The values of `source` that imply one of `numbers`.
    async fn of_source(
        &self,
        table: &SymbolTable,
        name: u32,
        source: u32,
        numbers: &Numbers,
        view: &mut View,
    ) -> Result<Numbers, BlockError> {
        let implying = &table.names[source as usize];
        self.load(table, view, table.chunks_of(implying)).await?;
        let mut out = Numbers::none(implying.values);
        let chunks = table.chunks_of(implying).filter_map(|at| view.chunk(at));
        for implied in chunks.flat_map(|chunk| &chunk.implied).filter(|i| i.name == name) {
            for (place, number) in (implied.first..).zip(&implied.numbers) {
                if numbers.contains(*number) {
                    out.insert((place - implying.first) as u32);
                }
            }
        }
        Ok(out)
    }

    /// Values of one label of the series that satisfy all matchers, sorted.
    pub(super) async fn values_by_numbers(
        &self,
        table: &SymbolTable,
        label: &str,
        matchers: &[Matcher],
    ) -> Result<Vec<String>, BlockError> {
        let Some(number) = table.name(label) else {
            return Ok(Vec::new());
        };
        let name = &table.names[number as usize];
        let mut view = View::default();
        let candidates = self.candidates(matchers, &mut view).await?;
        let mut found = Numbers::none(name.values);
        if candidates.wanted.is_empty() && candidates.series.len() == self.meta.stats.series {
            (0..name.values).for_each(|number| found.insert(number));
        } else {
            let column = &table.names[name.source.unwrap_or(number) as usize];
            let mut seen = Numbers::none(column.values);
            self.for_each_part(candidates.series, |_, part| {
                let kept = part.satisfying(&candidates.wanted, table);
                let Some(rows) = &part.rows else { return };
                for (run, its) in rows.runs_of(&kept) {
                    let Ok(nth) = rows.shapes[run.shape].binary_search(&number) else {
                        continue;
                    };
                    let numbers = rows.numbers(run, nth, table);
                    let of = |row: &u32| numbers.get(*row as usize - run.rows.start).copied();
                    its.iter().filter_map(of).for_each(|number| seen.insert(number));
                }
            })
            .await?;
            match name.source {
                None => found = seen,
                Some(_) => {
                    let places = || seen.iter().map(|number| column.first + u64::from(number));
                    self.load(table, &mut view, places().filter_map(|place| table.chunk_of(place)))
                        .await?;
                    let mut symbols = view.resolver(table);
                    for place in places() {
                        let implied = symbols.implied(number, place);
                        found.insert(implied.ok_or_else(|| self.bad_symbol(table, place))?);
                    }
                }
            }
        }
        let places = || found.iter().map(|number| name.first + u64::from(number));
        self.load(table, &mut view, places().filter_map(|place| table.chunk_of(place)))
            .await?;
        let mut symbols = view.resolver(table);
        let text = |place| {
            let symbol = symbols.symbol(place).ok_or_else(|| self.bad_symbol(table, place))?;
            Ok::<_, BlockError>(symbol.text.to_owned())
        };
        places().map(text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_a_set() {
        let mut numbers = Numbers::none(130);
        for number in [129, 3, 64, 3] {
            numbers.insert(number);
        }
        assert_eq!(numbers.iter().collect::<Vec<_>>(), [3, 64, 129]);
        assert_eq!((numbers.count, numbers.only), (3, None));
        let others = numbers.others();
        assert_eq!(others.count, 127);
        assert!(!others.contains(64) && others.contains(65) && !others.contains(130));
        let mut one = Numbers::none(5);
        one.insert(4);
        one.insert(4);
        one.insert(5);
        assert_eq!((one.only, one.is_all(), one.bits.len()), (Some(4), false, 0));
        assert!(one.iter().eq([4]) && one.contains(4) && !one.contains(0));
        assert!(Numbers::none(0).is_all());
    }

    #[test]
    fn columns_are_searched_to_their_ends() {
        let column: Vec<u32> = (0..100).map(|at| at * 7 % 10).collect();
        for wanted in [vec![3], vec![3, 9], vec![11]] {
            let mut numbers = Numbers::none(12);
            wanted.iter().for_each(|number| numbers.insert(*number));
            let places = (0_u32..).zip(&column).filter(|(_, number)| wanted.contains(number));
            assert!(numbers.places_in(&column).into_iter().eq(places.map(|(at, _)| at)));
        }
        assert!(Numbers::none(12).places_in(&column).is_empty());
    }
}
