//! Start timestamps of a page's samples: since when the counter behind each of them counts. They are the same from one
//! reset to the next, so they are written as runs, after the header of the page; its coding has [`WITH_STARTS`] set then.
//!
//! ```text
//! starts = n:uvarint  n * start - start before (0 before the first):uvarint(zigzag)  (n - 1) * samples:uvarint
//! ```
//! The last run goes to the end of the page. A start of 0 is one that is not known.

use super::{Page, PageError, PageHeader, unzigzag, zigzag};
use gnomon_model::labels::{get_uvarint, put_uvarint};

/// Of a page's first byte: starts follow the header.
pub(super) const WITH_STARTS: u8 = 0x80;

/// Start timestamps in milliseconds, as runs; 0 where none is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Starts {
    /// The place of the first sample of each run, ascending from 0, and the start of its samples, which is another one than
    /// that of the run before. Without runs nothing is known of any sample.
    runs: Vec<(u32, i64)>,
}

impl Starts {
    /// Whether none is known.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many runs there are.
    #[must_use]
    pub const fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Says the start of the sample at a place, and of those after it. Places ascend from call to call.
    #[inline]
    pub fn push(&mut self, place: u32, start_ms: i64) {
        match self.runs.last() {
            Some((_, last)) if *last == start_ms => {}
            None if start_ms == 0 => {}
            None => {
                if place > 0 {
                    self.runs.push((0, 0));
                }
                self.runs.push((place, start_ms));
            }
            Some(_) => self.runs.push((place, start_ms)),
        }
    }

    /// That of the sample at a place.
    #[must_use]
    pub fn get(&self, place: u32) -> i64 {
        let at = self.runs.partition_point(|(from, _)| *from <= place);
        at.checked_sub(1).map_or(0, |at| self.runs[at].1)
    }

    /// Those of the first `count` samples.
    pub fn iter(&self, count: u32) -> impl Iterator<Item = i64> {
        let begin = self.runs.is_empty().then_some((count, 0));
        let ends = self.runs.iter().skip(1).map(|(from, _)| *from).chain([count]);
        let runs = self.runs.iter().zip(ends);
        let runs = runs.map(|((from, start), end)| (end.saturating_sub(*from), *start));
        let runs = begin.into_iter().chain(runs);
        runs.flat_map(|(samples, start)| std::iter::repeat_n(start, samples as usize))
            .take(count as usize)
    }

    /// Those of samples whose starts come one by one.
    #[must_use]
    pub fn of(starts: impl IntoIterator<Item = i64>) -> Self {
        let mut all = Self::default();
        for (place, start_ms) in (0..).zip(starts) {
            all.push(place, start_ms);
        }
        all
    }

    /// How many of the first `count` samples have a start that is known.
    #[must_use]
    pub fn known(&self, count: u32) -> u64 {
        let ends = self.runs.iter().skip(1).map(|(from, _)| *from).chain([count]);
        let runs = self.runs.iter().zip(ends).filter(|((_, start), _)| *start != 0);
        runs.map(|((from, _), end)| u64::from(end.min(count).saturating_sub(*from)))
            .sum()
    }

    /// Whether a page of so many samples can have them.
    #[must_use]
    pub(crate) fn fit(&self, count: u32) -> bool {
        self.runs.last().is_none_or(|(from, _)| *from < count)
    }

    /// Memory beside this struct, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.runs.capacity() * size_of::<(u32, i64)>()
    }

    /// Appends the bytes; the first start as its difference to `before`.
    pub(crate) fn write_after(&self, mut before: i64, out: &mut Vec<u8>) {
        put_uvarint(out, self.runs.len() as u64);
        for (_, start) in &self.runs {
            put_uvarint(out, zigzag(start.wrapping_sub(before)));
            before = *start;
        }
        for pair in self.runs.windows(2) {
            put_uvarint(out, u64::from(pair[1].0 - pair[0].0));
        }
    }

    /// Reads what [`Self::write_after`] wrote, and gives what follows; none where it is something else, or there is no run.
    pub(crate) fn read_after(mut before: i64, bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (count, mut rest) = get_uvarint(bytes)?;
        // Each takes a byte at least.
        let count = usize::try_from(count).ok().filter(|n| *n > 0 && *n <= rest.len())?;
        let mut runs = Vec::with_capacity(count);
        for _ in 0..count {
            let (step, after) = get_uvarint(rest)?;
            before = before.wrapping_add(unzigzag(step));
            runs.push((0, before));
            rest = after;
        }
        let mut from = 0_u32;
        for run in &mut runs[1..] {
            let (samples, after) = get_uvarint(rest)?;
            from = from.checked_add(u32::try_from(samples).ok().filter(|n| *n > 0)?)?;
            run.0 = from;
            rest = after;
        }
        Some((Self { runs }, rest))
    }

    /// The last start, by which those of the next list are written.
    pub(crate) fn last(&self) -> i64 {
        self.runs.last().map_or(0, |(_, start)| *start)
    }

    /// Puts them into a page that has none, and of which `out` has the bytes from `from` on. Without effect where there are
    /// none.
    pub fn put_into(&self, out: &mut Vec<u8>, from: usize) {
        if self.is_empty() {
            return;
        }
        let page = out.get(from..).unwrap_or_default();
        let Ok((_, body)) = PageHeader::split_header(page) else {
            return;
        };
        let at = out.len() - body.len();
        let mut bytes = Vec::new();
        self.write_after(0, &mut bytes);
        out[from] |= WITH_STARTS;
        out.splice(at..at, bytes);
    }
}

/// Reads over the starts of a page that has some.
pub(super) fn skip(bytes: &[u8]) -> Option<&[u8]> {
    let (count, mut rest) = get_uvarint(bytes)?;
    let numbers = count.checked_mul(2)?.checked_sub(1)?;
    for _ in 0..numbers {
        (_, rest) = get_uvarint(rest)?;
    }
    Some(rest)
}

/// As [`super::decode_within`], of a page of floats, with the start of each sample; nothing is appended on error. `starts` are
/// as many as `timestamps` afterwards, or none where none is known.
///
/// # Errors
/// When the page has no floats or is damaged.
pub fn decode_started_within(
    page: &Page,
    (start_ms, end_ms): (i64, i64),
    timestamps: &mut Vec<i64>,
    values: &mut Vec<f64>,
    starts: &mut Vec<i64>,
) -> Result<(), PageError> {
    let before = timestamps.len();
    if !page.has_starts() {
        super::decode_within(&page.bytes, start_ms, end_ms, timestamps, values)?;
        if !starts.is_empty() {
            starts.resize(timestamps.len(), 0);
        }
        return Ok(());
    }
    let its = page.starts()?;
    let (mut all, mut all_values) = (Vec::new(), Vec::new());
    super::decode_into(&page.bytes, &mut all, &mut all_values)?;
    let from = all.partition_point(|t| *t < start_ms);
    let to = all.partition_point(|t| *t <= end_ms).max(from);
    timestamps.extend_from_slice(&all[from..to]);
    values.extend_from_slice(&all_values[from..to]);
    starts.resize(before, 0);
    starts.extend(its.iter(to as u32).skip(from));
    Ok(())
}

impl Page {
    /// Whether the start of some sample is known.
    #[must_use]
    pub fn has_starts(&self) -> bool {
        self.bytes.first().is_some_and(|tag| tag & WITH_STARTS != 0)
    }

    /// The starts of its samples.
    ///
    /// # Errors
    /// When they are damaged.
    pub fn starts(&self) -> Result<Starts, PageError> {
        if !self.has_starts() {
            return Ok(Starts::default());
        }
        let (header, rest) = PageHeader::split_header(&self.bytes)?;
        let (starts, _) = Starts::read_after(0, rest).ok_or(PageError::Corrupt("its start timestamps are no such"))?;
        if !starts.fit(header.count) {
            return Err(PageError::Corrupt(
                "it has start timestamps of more samples than it has",
            ));
        }
        Ok(starts)
    }

    /// The page with these starts instead of those that it has.
    ///
    /// # Errors
    /// When the page is damaged.
    pub fn with_starts(self, starts: &Starts) -> Result<Self, PageError> {
        let page = self.without_starts()?;
        if starts.is_empty() {
            return Ok(page);
        }
        let mut bytes = page.bytes.to_vec();
        starts.put_into(&mut bytes, 0);
        Ok(page.header().of(bytes.into()))
    }

    /// The page without starts.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn without_starts(self) -> Result<Self, PageError> {
        if !self.has_starts() {
            return Ok(self);
        }
        let (header, body) = PageHeader::split(&self.bytes)?;
        let mut bytes = Vec::with_capacity(body.len() + 16);
        header.write(&mut bytes);
        bytes.extend_from_slice(body);
        Ok(header.of(bytes.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Coding, FloatPageBuilder, HistogramPageBuilder, PageSamples};
    use super::*;
    use gnomon_model::histogram::FloatHistogram;
    use proptest::prelude::*;

    fn floats(count: u32) -> Page {
        let mut builder = FloatPageBuilder::new();
        for at in 0..count {
            let value = f64::from(at).sin();
            builder
                .append(1_700_000_000_000 + i64::from(at) * 15_000, value)
                .unwrap();
        }
        builder.page().unwrap()
    }

    fn starts() -> impl Strategy<Value = Vec<i64>> {
        let start = prop_oneof![Just(0_i64), 1_699_000_000_000_i64..1_700_000_000_000, any::<i64>()];
        prop::collection::vec((start, 1..60_usize), 1..12).prop_map(|runs| {
            runs.into_iter()
                .flat_map(|(start, n)| std::iter::repeat_n(start, n))
                .collect()
        })
    }

    proptest! {
        #[test]
        fn starts_come_back_whatever_becomes_of_the_page(all in starts()) {
            let count = all.len() as u32;
            let starts = Starts::of(all.iter().copied());
            prop_assert_eq!(starts.is_empty(), all.iter().all(|start| *start == 0));
            prop_assert!(starts.iter(count).eq(all.iter().copied()));
            prop_assert_eq!(starts.known(count), all.iter().filter(|start| **start != 0).count() as u64);
            prop_assert!((0..count).all(|at| starts.get(at) == all[at as usize]));
            let plain = floats(count);
            let page = plain.clone().with_starts(&starts).unwrap();
            let closed = page.clone().closed().unwrap();
            let thorough = closed.clone().recoded(crate::page::Effort::Thorough).unwrap();
            for page in [&page, &closed, &thorough] {
                prop_assert_eq!(&page.starts().unwrap(), &starts);
                prop_assert_eq!(Page::parse(page.bytes.clone()).unwrap(), page.clone());
                prop_assert_eq!(page.decode().unwrap(), plain.decode().unwrap());
            }
            prop_assert_eq!(closed.without_starts().unwrap(), plain.clone().closed().unwrap());
            prop_assert_eq!(page.without_starts().unwrap(), plain);
        }

        #[test]
        fn damage_is_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..40), tag in 0x81_u8..0x85) {
            let mut page = vec![tag];
            page.extend(bytes);
            if let Ok(page) = Page::parse(page.into()) {
                let _ = (page.starts(), page.decode(), page.clone().closed(), page.without_starts());
            }
        }
    }

    #[test]
    fn one_start_of_all_samples_takes_few_bytes() {
        let plain = floats(240);
        let page = plain
            .clone()
            .with_starts(&Starts::of([1_699_999_000_000; 240]))
            .unwrap();
        assert_eq!(page.bytes.len() - plain.bytes.len(), 7);
        assert_eq!((page.coding, page.starts().unwrap().runs()), (Coding::Float, 1));
    }

    #[test]
    fn samples_of_a_range_come_with_their_starts() {
        let plain = floats(10);
        let page = plain
            .clone()
            .with_starts(&Starts::of((0..10).map(|at| at / 4)))
            .unwrap();
        let at = |place: i64| 1_700_000_000_000 + place * 15_000;
        let (mut timestamps, mut values, mut starts) = (Vec::new(), Vec::new(), Vec::new());
        let mut read = |page: &Page, from: i64, to: i64| {
            let range = (at(from), at(to) + 1);
            decode_started_within(page, range, &mut timestamps, &mut values, &mut starts).unwrap();
            (timestamps.len(), values.len(), starts.clone())
        };
        assert_eq!(read(&plain, 0, 1), (2, 2, vec![]));
        assert_eq!(read(&page, 3, 4), (4, 4, vec![0, 0, 0, 1]));
        assert_eq!(read(&page, 20, 30).2.len(), 4);
        assert_eq!(read(&plain, 9, 9), (5, 5, vec![0, 0, 0, 1, 0]));
    }

    #[test]
    fn histograms_have_starts_too() {
        let mut builder = HistogramPageBuilder::new();
        for at in 0..5 {
            builder.append(at, &FloatHistogram::default(), true).unwrap();
        }
        let plain = builder.page().unwrap();
        let starts = Starts::of([0, 0, 7, 7, 9]);
        let page = plain.clone().with_starts(&starts).unwrap().closed().unwrap();
        assert_eq!(page.starts().unwrap(), starts);
        assert_eq!(page.decode().unwrap(), plain.decode().unwrap());
        assert!(matches!(page.decode().unwrap(), PageSamples::Histograms(all) if all.len() == 5));
        let resumed = HistogramPageBuilder::resume(&page.bytes).unwrap();
        assert_eq!(resumed.page(), Some(plain));
    }

    #[test]
    fn the_bytes_stay_as_they_are() {
        let mut bytes = Vec::new();
        Starts::of([0, 0, 300, 300, 300, 299]).write_after(0, &mut bytes);
        assert_eq!(bytes, [3, 0, 0xd8, 4, 1, 2, 3]);
        assert_eq!(skip(&bytes), Some(&[][..]));
        assert!(Starts::read_after(0, &[0]).is_none() && skip(&[0]).is_none());
        // A run without samples.
        assert!(Starts::read_after(0, &[2, 1, 1, 0]).is_none());
    }
}
