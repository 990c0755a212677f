//! Merging: series by labels, samples by time. Where sources have a sample for the same instant, the first source's is
//! taken, so sources are given in the order of their parts (the lowest log index wins).

use crate::SeriesPages;
use crate::page::{
    AppendError, HistogramPageBuilder, HistogramSample, Page, PageError, PageSamples, Starts, decode_into,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use gnomon_model::Labels;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Pages are filled up to so many samples: two hours at 15 s.
pub const TARGET_PAGE_SAMPLES: usize = 480;

/// Series ascending by labels.
pub type SeriesStream<E> = BoxStream<'static, Result<SeriesPages, E>>;

/// One series with the pages that each source has of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedSeries {
    pub labels: Labels,
    /// Ascending by source: position of the source, its pages.
    pub sources: Vec<(usize, Vec<Page>)>,
}

impl MergedSeries {
    /// The series with one list of pages.
    ///
    /// # Errors
    /// When a page is damaged.
    pub fn into_pages(self) -> Result<SeriesPages, PageError> {
        let sources = self.sources.into_iter().map(|(_, pages)| pages).collect();
        Ok(SeriesPages {
            labels: self.labels,
            pages: merge_pages(sources)?,
        })
    }
}

#[derive(PartialEq, Eq)]
struct Head {
    labels: Labels,
    source: usize,
    pages: Vec<Page>,
}

impl Ord for Head {
    fn cmp(&self, other: &Self) -> Ordering {
        self.labels.cmp(&other.labels).then(self.source.cmp(&other.source))
    }
}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A k-way merge by labels. Holds one series of each source.
pub struct SeriesMerge<E> {
    sources: Vec<SeriesStream<E>>,
    heads: BinaryHeap<Reverse<Head>>,
    is_started: bool,
}

async fn pull<E>(source: usize, stream: &mut SeriesStream<E>) -> Result<Option<Head>, E> {
    Ok(stream.next().await.transpose()?.map(|series| Head {
        labels: series.labels,
        source,
        pages: series.pages,
    }))
}

impl<E: Send + 'static> SeriesMerge<E> {
    /// Sources in the order of precedence: the first wins where samples are for the same instant.
    #[must_use]
    pub fn new(sources: Vec<SeriesStream<E>>) -> Self {
        Self {
            sources,
            heads: BinaryHeap::new(),
            is_started: false,
        }
    }

    /// The next series, of all sources that have it; none at the end.
    ///
    /// # Errors
    /// The first error of a source; the merge is of no use after it.
    pub async fn next(&mut self) -> Result<Option<MergedSeries>, E> {
        if !self.is_started {
            self.is_started = true;
            let first = self.sources.iter_mut().enumerate().map(|(i, stream)| pull(i, stream));
            let heads = futures::future::try_join_all(first).await?;
            self.heads.extend(heads.into_iter().flatten().map(Reverse));
        }
        let Some(Reverse(first)) = self.heads.pop() else {
            return Ok(None);
        };
        let labels = first.labels;
        let mut sources = vec![(first.source, first.pages)];
        while let Some(head) = self.heads.peek_mut().filter(|head| head.0.labels == labels) {
            let Reverse(head) = std::collections::binary_heap::PeekMut::pop(head);
            sources.push((head.source, head.pages));
        }
        for (source, _) in &sources {
            if let Some(stream) = self.sources.get_mut(*source)
                && let Some(head) = pull(*source, stream).await?
            {
                self.heads.push(Reverse(head));
            }
        }
        Ok(Some(MergedSeries { labels, sources }))
    }
}

/// Merges the pages of one series. Each source's pages ascend by time and do not overlap. Pages that overlap no other
/// and are reasonably full pass as they are; the others are decoded and written anew.
///
/// # Errors
/// When a page that must be decoded is damaged.
pub fn merge_pages(mut sources: Vec<Vec<Page>>) -> Result<Vec<Page>, PageError> {
    if sources.len() == 1 && sources[0].iter().all(is_full) {
        return Ok(sources.pop().unwrap_or_default());
    }
    let mut pages: Vec<(usize, Page)> = Vec::new();
    for (source, its) in sources.into_iter().enumerate() {
        pages.extend(its.into_iter().map(|page| (source, page)));
    }
    pages.sort_by_key(|(source, page)| (page.min_ts, *source));
    let mut out = PageChunker::default();
    let mut group: Vec<(usize, Page)> = Vec::new();
    let mut group_end = i64::MIN;
    for (source, page) in pages {
        if !group.is_empty() && page.min_ts > group_end {
            out.add_group(std::mem::take(&mut group))?;
            group_end = page.max_ts;
        }
        group_end = group_end.max(page.max_ts);
        group.push((source, page));
    }
    out.add_group(group)?;
    out.finish()
}

fn is_full(page: &Page) -> bool {
    page.count as usize >= TARGET_PAGE_SAMPLES / 4 * 3
}

#[derive(Clone, Debug)]
enum Sample {
    Float(f64),
    Histogram(Box<HistogramSample>),
}

/// A sample of one of the sources.
struct Found {
    ts: i64,
    source: usize,
    /// 0 where it is not known.
    start_ms: i64,
    sample: Sample,
}

fn decode(page: &Page, source: usize, out: &mut Vec<Found>) -> Result<(), PageError> {
    let starts = page.starts()?;
    let mut starts = starts.iter(page.count);
    let mut found = |ts, sample| Found {
        ts,
        source,
        start_ms: starts.next().unwrap_or(0),
        sample,
    };
    match page.decode()? {
        PageSamples::Floats { timestamps, values } => {
            let samples = timestamps.into_iter().zip(values);
            out.extend(samples.map(|(ts, v)| found(ts, Sample::Float(v))));
        }
        PageSamples::Histograms(samples) => out.extend(
            samples
                .into_iter()
                .map(|h| found(h.timestamp_ms, Sample::Histogram(Box::new(h)))),
        ),
    }
    Ok(())
}

/// Writes samples into pages of the target size; a change between floats and histograms begins a page.
#[derive(Default)]
struct PageChunker {
    pages: Vec<Page>,
    timestamps: Vec<i64>,
    values: Vec<f64>,
    histograms: HistogramPageBuilder,
    /// Of the samples of the open page; empty where no start is known.
    starts: Vec<i64>,
}

impl PageChunker {
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Samples of the open page.
    fn len(&self) -> usize {
        self.values.len() + self.histograms.len()
    }

    fn close(&mut self) -> Result<(), PageError> {
        let starts = Starts::of(self.starts.drain(..));
        for page in [Page::of_floats(&self.timestamps, &self.values), self.histograms.page()] {
            self.pages
                .extend(page.map(|page| page.with_starts(&starts)).transpose()?);
        }
        self.timestamps.clear();
        self.values.clear();
        self.histograms = HistogramPageBuilder::new();
        Ok(())
    }

    /// Pages that overlap each other, directly or through others, and none outside of the group.
    fn add_group(&mut self, group: Vec<(usize, Page)>) -> Result<(), PageError> {
        if let [(_, page)] = group.as_slice()
            && is_full(page)
        {
            self.close()?;
            self.pages.push(page.clone());
            return Ok(());
        }
        if let [(_, page)] = group.as_slice()
            && page.coding.is_of_floats()
        {
            return self.add_floats(page);
        }
        let mut samples = Vec::with_capacity(group.iter().map(|(_, p)| p.count as usize).sum());
        for (source, page) in &group {
            decode(page, *source, &mut samples)?;
        }
        if group.len() > 1 {
            samples.sort_by_key(|found| (found.ts, found.source));
            samples.dedup_by_key(|found| found.ts);
        }
        for found in &samples {
            self.push(found.ts, found.start_ms, &found.sample)?;
        }
        Ok(())
    }

    /// A page that comes after all before.
    fn add_floats(&mut self, page: &Page) -> Result<(), PageError> {
        if !self.histograms.is_empty() {
            self.close()?;
        }
        if self.timestamps.last().is_some_and(|last| *last >= page.min_ts) {
            return Err(PageError::Corrupt("samples lie outside of their page's time range"));
        }
        let before = self.values.len();
        decode_into(&page.bytes, &mut self.timestamps, &mut self.values)?;
        if self.timestamps.last() != Some(&page.max_ts) {
            return Err(PageError::Corrupt("samples lie outside of their page's time range"));
        }
        if page.has_starts() {
            self.starts.resize(before, 0);
            self.starts.extend(page.starts()?.iter(page.count));
        } else if !self.starts.is_empty() {
            self.starts.resize(self.values.len(), 0);
        }
        while self.values.len() > TARGET_PAGE_SAMPLES {
            let (timestamps, values) = (
                &self.timestamps[..TARGET_PAGE_SAMPLES],
                &self.values[..TARGET_PAGE_SAMPLES],
            );
            let page = Page::of_floats(timestamps, values);
            let starts = Starts::of(self.starts.drain(..TARGET_PAGE_SAMPLES.min(self.starts.len())));
            self.pages
                .extend(page.map(|page| page.with_starts(&starts)).transpose()?);
            self.timestamps.drain(..TARGET_PAGE_SAMPLES);
            self.values.drain(..TARGET_PAGE_SAMPLES);
        }
        Ok(())
    }

    fn push(&mut self, ts: i64, start_ms: i64, sample: &Sample) -> Result<(), PageError> {
        let has_room = match sample {
            Sample::Float(_) => self.histograms.is_empty() && self.values.len() < TARGET_PAGE_SAMPLES,
            Sample::Histogram(_) => self.values.is_empty() && self.histograms.len() < TARGET_PAGE_SAMPLES,
        };
        if !has_room {
            self.close()?;
        }
        if self.try_push(ts, start_ms, sample).is_err() && !self.is_empty() {
            // Samples ascend, so only a full page refuses one; an empty page takes any.
            self.close()?;
            let _ = self.try_push(ts, start_ms, sample);
        }
        Ok(())
    }

    fn try_push(&mut self, ts: i64, start_ms: i64, sample: &Sample) -> Result<(), AppendError> {
        let place = self.len();
        match sample {
            Sample::Float(_) if self.timestamps.last().is_some_and(|last| ts <= *last) => {
                return Err(AppendError::OutOfOrder);
            }
            Sample::Float(value) => {
                self.timestamps.push(ts);
                self.values.push(*value);
            }
            Sample::Histogram(h) => self.histograms.append(ts, &h.histogram, h.is_integer)?,
        }
        if start_ms != 0 || !self.starts.is_empty() {
            self.starts.resize(place, 0);
            self.starts.push(start_ms);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Vec<Page>, PageError> {
        self.close()?;
        Ok(self.pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::histogram::FloatHistogram;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// What a sample is, to the bit.
    type Value = (bool, u64);

    /// The counters of these tests began anew each 500 ms, and what came after 1 s has no start.
    fn start_of(ts: i64) -> i64 {
        if ts < 1_000 { 1 + ts / 500 * 500 } else { 0 }
    }

    fn samples_of(pages: &[Page]) -> Vec<(i64, Value)> {
        let mut out = Vec::new();
        for page in pages {
            let (from, starts) = (out.len(), page.starts().unwrap());
            match page.decode().unwrap() {
                PageSamples::Floats { timestamps, values } => {
                    out.extend(timestamps.into_iter().zip(values.iter().map(|v| (false, v.to_bits()))));
                }
                PageSamples::Histograms(samples) => {
                    out.extend(
                        samples
                            .iter()
                            .map(|h| (h.timestamp_ms, (true, h.histogram.sum.to_bits()))),
                    );
                }
            }
            let expected = out[from..].iter().map(|(ts, _): &(i64, Value)| start_of(*ts));
            assert!(starts.iter(page.count).eq(expected));
        }
        assert!(out.windows(2).all(|w| w[0].0 < w[1].0), "samples ascend over all pages");
        out
    }

    fn pages_of(samples: &BTreeMap<i64, Value>, per_page: usize) -> Vec<Page> {
        let mut pages = Vec::new();
        let mut chunker = PageChunker::default();
        for (i, (ts, (is_histogram, bits))) in samples.iter().enumerate() {
            if i % per_page == 0 {
                chunker.close().unwrap();
            }
            let value = f64::from_bits(*bits);
            let pushed = chunker.push(
                *ts,
                start_of(*ts),
                &if *is_histogram {
                    let histogram = FloatHistogram {
                        sum: value,
                        ..FloatHistogram::default()
                    };
                    Sample::Histogram(Box::new(HistogramSample {
                        timestamp_ms: *ts,
                        is_integer: true,
                        histogram,
                    }))
                } else {
                    Sample::Float(value)
                },
            );
            pushed.unwrap();
        }
        pages.append(&mut chunker.finish().unwrap());
        pages
    }

    fn source() -> impl Strategy<Value = (BTreeMap<i64, Value>, usize)> {
        let value = (prop::bool::weighted(0.1), any::<u64>());
        (prop::collection::btree_map(0..3000_i64, value, 0..400), 1..400_usize)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_first_source_wins_however_the_merge_is_grouped(sources in prop::collection::vec(source(), 1..5)) {
            let mut expected = BTreeMap::new();
            for (samples, _) in sources.iter().rev() {
                expected.extend(samples.clone());
            }
            let expected: Vec<_> = expected.into_iter().collect();
            let pages: Vec<Vec<Page>> = sources.iter().map(|(s, per_page)| pages_of(s, *per_page)).collect();
            prop_assert_eq!(samples_of(&merge_pages(pages.clone()).unwrap()), expected.clone());
            let left = pages.iter().cloned().reduce(|a, b| merge_pages(vec![a, b]).unwrap()).unwrap();
            prop_assert_eq!(samples_of(&left), expected.clone());
            let right = pages.iter().cloned().rev().reduce(|a, b| merge_pages(vec![b, a]).unwrap()).unwrap();
            prop_assert_eq!(samples_of(&right), expected);
        }
    }

    #[test]
    fn full_pages_pass_untouched_and_small_ones_are_joined() {
        let page = |start: i64, count: i64| {
            let samples = (0..count).map(|i| (start + i, (false, 1.5_f64.to_bits()))).collect();
            pages_of(&samples, 1000).remove(0)
        };
        let full = vec![page(0, 480), page(1000, 400)];
        assert_eq!(
            merge_pages(vec![vec![full[1].clone()], vec![full[0].clone()]]).unwrap(),
            full
        );
        let joined = merge_pages(vec![vec![page(0, 100), page(200, 100)], vec![page(400, 100)]]).unwrap();
        assert_eq!(joined.iter().map(|p| p.count).collect::<Vec<_>>(), [300]);
    }

    #[tokio::test]
    async fn series_come_in_order_with_all_their_sources() {
        let series = |names: &[&str]| -> SeriesStream<PageError> {
            let series: Vec<_> = names
                .iter()
                .map(|n| {
                    Ok(SeriesPages {
                        labels: Labels::from_pairs([("__name__", n)]),
                        pages: Vec::new(),
                    })
                })
                .collect();
            futures::stream::iter(series).boxed()
        };
        let mut merge = SeriesMerge::new(vec![series(&["a", "c"]), series(&[]), series(&["b", "c", "d"])]);
        let mut found = Vec::new();
        while let Some(s) = merge.next().await.unwrap() {
            let sources: Vec<usize> = s.sources.iter().map(|(i, _)| *i).collect();
            found.push((s.labels.metric_name().to_owned(), sources));
        }
        let expected = [("a", vec![0]), ("b", vec![2]), ("c", vec![0, 2]), ("d", vec![2])];
        assert_eq!(found, expected.map(|(n, s)| (n.to_owned(), s)));
    }
}
