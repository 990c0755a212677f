//! Pages of several sources as the columns that the engine reads.

use gnomon_promql::Samples;
use gnomon_promql::buffers::samples_of;
use gnomon_tsdb::{Coding, Page, PageError, decode_histograms_into, decode_started_within};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Decodes what of `runs` lies in `start_ms..=end_ms` (both inclusive). At equal times the earlier run's sample counts:
/// runs come in the order of parts, the head last, so the sample with the lowest log index wins.
pub(crate) fn decode(runs: &[Vec<Page>], start_ms: i64, end_ms: i64) -> Result<Samples, PageError> {
    if let Some(samples) = decode_ascending(runs, start_ms, end_ms)? {
        return Ok(samples);
    }
    let mut all = Samples::default();
    for run in runs {
        let mut samples = Samples::default();
        for page in run.iter().filter(|page| page.overlaps(start_ms, end_ms)) {
            decode_page(page, &mut samples)?;
        }
        if samples.histograms.is_empty() {
            cut(&mut samples, start_ms, end_ms);
        }
        all = merge(all, samples);
    }
    if !all.histograms.is_empty() {
        // While the samples before the first that is asked for are at hand, and after all that could come between.
        all.set_reset_hints();
        cut(&mut all, start_ms, end_ms);
    }
    Ok(all)
}

/// The usual case, decoded in place: floats only, each page after the one before. None where it is not so.
fn decode_ascending(runs: &[Vec<Page>], start_ms: i64, end_ms: i64) -> Result<Option<Samples>, PageError> {
    let pages = || runs.iter().flatten().filter(|page| page.overlaps(start_ms, end_ms));
    let mut last_ms = None;
    let mut count = 0;
    for page in pages() {
        if !page.coding.is_of_floats() || last_ms.is_some_and(|last| last >= page.min_ts) {
            return Ok(None);
        }
        last_ms = Some(page.max_ts);
        count += page.count as usize;
    }
    let mut samples = samples_of(count);
    for page in pages() {
        let (timestamps, values) = (&mut samples.timestamps, &mut samples.values);
        decode_started_within(page, (start_ms, end_ms), timestamps, values, &mut samples.start_times)?;
    }
    Ok(Some(samples))
}

/// The times of histograms whose counts were whole numbers when they were taken; at equal times the earlier run's
/// counts.
pub(crate) fn whole_numbers(runs: &[Vec<Page>], start_ms: i64, end_ms: i64) -> Result<HashSet<i64>, PageError> {
    let mut known = HashMap::new();
    for page in runs.iter().flatten() {
        if page.coding == Coding::Histogram && page.overlaps(start_ms, end_ms) {
            let mut histograms = Vec::new();
            decode_histograms_into(&page.bytes, &mut histograms)?;
            for sample in histograms {
                known.entry(sample.timestamp_ms).or_insert(sample.is_integer);
            }
        }
    }
    Ok(known
        .into_iter()
        .filter(|(_, whole)| *whole)
        .map(|(time, _)| time)
        .collect())
}

fn decode_page(page: &Page, into: &mut Samples) -> Result<(), PageError> {
    if into.timestamps.last().is_some_and(|last| *last >= page.min_ts) {
        return Err(PageError::Corrupt("pages of a series overlap"));
    }
    match page.coding {
        Coding::Float | Coding::Columns | Coding::Dense => {
            let (timestamps, values) = (&mut into.timestamps, &mut into.values);
            decode_started_within(page, (i64::MIN, i64::MAX), timestamps, values, &mut into.start_times)?;
            if !into.histograms.is_empty() {
                into.histograms.resize(into.timestamps.len(), None);
            }
        }
        Coding::Histogram => {
            let mut histograms = Vec::new();
            decode_histograms_into(&page.bytes, &mut histograms)?;
            for sample in histograms {
                into.push_histogram(sample.timestamp_ms, Arc::new(sample.histogram));
            }
        }
    }
    Ok(())
}

fn cut(samples: &mut Samples, start_ms: i64, end_ms: i64) {
    let from = samples.timestamps.partition_point(|t| *t < start_ms);
    let to = samples.timestamps.partition_point(|t| *t <= end_ms).max(from);
    samples.timestamps.truncate(to);
    samples.timestamps.drain(..from);
    samples.values.truncate(to);
    samples.values.drain(..from);
    if !samples.start_times.is_empty() {
        samples.start_times.truncate(to);
        samples.start_times.drain(..from);
    }
    if !samples.histograms.is_empty() {
        samples.histograms.truncate(to);
        samples.histograms.drain(..from);
    }
    if !samples.histograms.is_empty() && samples.histograms.iter().all(Option::is_none) {
        samples.histograms.clear();
    }
}

/// Both by time; `first` wins where both have a sample.
fn merge(first: Samples, second: Samples) -> Samples {
    match (first.timestamps.last(), second.timestamps.first()) {
        (None, _) => return second,
        (_, None) => return first,
        (Some(end), Some(start)) if end < start => return joined(first, &second),
        _ => {}
    }
    let mut merged = Samples::default();
    let (mut i, mut j) = (0, 0);
    loop {
        let (from, at) = match (first.timestamps.get(i), second.timestamps.get(j)) {
            (Some(a), Some(b)) if a <= b => {
                j += usize::from(a == b);
                (&first, &mut i)
            }
            (Some(_), None) => (&first, &mut i),
            (_, Some(_)) => (&second, &mut j),
            (None, None) => return merged,
        };
        push(&mut merged, from, *at);
        *at += 1;
    }
}

fn joined(mut first: Samples, second: &Samples) -> Samples {
    if first.histograms.is_empty() && second.histograms.is_empty() {
        first.timestamps.extend_from_slice(&second.timestamps);
        first.values.extend_from_slice(&second.values);
        if !first.start_times.is_empty() || !second.start_times.is_empty() {
            first.start_times.resize(first.len() - second.len(), 0);
            first.start_times.extend_from_slice(&second.start_times);
            first.start_times.resize(first.len(), 0);
        }
    } else {
        for at in 0..second.len() {
            push(&mut first, second, at);
        }
    }
    first
}

fn push(into: &mut Samples, from: &Samples, at: usize) {
    match from.histogram(at) {
        Some(histogram) => into.push_histogram(from.timestamps[at], Arc::clone(histogram)),
        None => into.push_float(from.timestamps[at], from.values[at]),
    }
    let start_ms = from.start_time(at);
    if start_ms != 0 {
        into.start_times.resize(into.len() - 1, 0);
        into.start_times.push(start_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_model::histogram::FloatHistogram;

    fn floats(points: &[(i64, f64)]) -> Samples {
        let mut samples = Samples::default();
        for (t, v) in points {
            samples.push_float(*t, *v);
        }
        samples
    }

    #[test]
    fn the_earlier_run_wins_at_equal_times() {
        let merged = merge(
            floats(&[(1, 1.0), (3, 3.0), (5, 5.0)]),
            floats(&[(2, 20.0), (3, 30.0), (9, 90.0)]),
        );
        assert_eq!(merged, floats(&[(1, 1.0), (2, 20.0), (3, 3.0), (5, 5.0), (9, 90.0)]));
        assert_eq!(
            merge(floats(&[(1, 1.0)]), floats(&[(2, 2.0)])),
            floats(&[(1, 1.0), (2, 2.0)])
        );
        assert_eq!(
            merge(floats(&[(5, 1.0)]), floats(&[(2, 2.0)])),
            floats(&[(2, 2.0), (5, 1.0)])
        );
    }

    #[test]
    fn samples_come_with_their_starts() {
        let started = |points: &[(i64, f64)], starts: &[i64]| Samples {
            start_times: starts.to_vec(),
            ..floats(points)
        };
        let first = started(&[(1, 1.0), (3, 3.0)], &[0, 7]);
        let merged = merge(first.clone(), floats(&[(2, 2.0), (3, 30.0)]));
        assert_eq!(merged, started(&[(1, 1.0), (2, 2.0), (3, 3.0)], &[0, 0, 7]));
        let joined = merge(floats(&[(0, 0.0)]), first);
        assert_eq!(joined, started(&[(0, 0.0), (1, 1.0), (3, 3.0)], &[0, 0, 7]));
        let mut page = gnomon_tsdb::FloatPageBuilder::new();
        (0..10).for_each(|at| page.append(at, at as f64).unwrap());
        let page = page.page().unwrap();
        let starts = gnomon_tsdb::Starts::of((0..10).map(|at| at / 5 * 40));
        let page = page.with_starts(&starts).unwrap();
        let expected = started(&[(4, 4.0), (5, 5.0)], &[0, 40]);
        let run = [page.clone()];
        assert_eq!(decode(&[run.to_vec()], 4, 5).unwrap(), expected);
        // As it is read where pages of several runs overlap.
        assert_eq!(decode(&[run.to_vec(), run.to_vec()], 4, 5).unwrap(), expected);
    }

    #[test]
    fn histograms_and_floats_of_one_series_keep_their_places() {
        let histogram = Arc::new(FloatHistogram {
            count: 2.0,
            ..FloatHistogram::default()
        });
        let mut second = floats(&[(1, 1.0)]);
        second.push_histogram(3, Arc::clone(&histogram));
        let merged = merge(floats(&[(2, 2.0)]), second.clone());
        assert_eq!(merged.timestamps, [1, 2, 3]);
        assert_eq!(merged.histogram(2), Some(&histogram));
        assert!(merged.histogram(1).is_none());
        let mut cut_before = merged;
        cut(&mut cut_before, 1, 2);
        assert_eq!(cut_before, floats(&[(1, 1.0), (2, 2.0)]));
        let joined = merge(floats(&[(0, 0.0)]), second);
        assert_eq!(joined.histograms.len(), 3);
    }

    #[test]
    fn pages_of_both_codings_become_columns_of_the_range() {
        let mut floats = gnomon_tsdb::FloatPageBuilder::new();
        let mut histograms = gnomon_tsdb::HistogramPageBuilder::new();
        let histogram = FloatHistogram {
            count: 1.0,
            sum: 2.0,
            positive_spans: vec![gnomon_model::histogram::Span { offset: 0, length: 1 }],
            positive_buckets: vec![1.0],
            ..FloatHistogram::default()
        };
        for at in 0..10 {
            floats.append(at, at as f64).unwrap();
            histograms.append(10 + at, &histogram, true).unwrap();
        }
        let run = vec![floats.page().unwrap(), histograms.page().unwrap()];
        let samples = decode(std::slice::from_ref(&run), 8, 11).unwrap();
        assert_eq!(samples.timestamps, [8, 9, 10, 11]);
        assert_eq!(samples.values[..2], [8.0, 9.0]);
        assert_eq!(samples.histogram(3).map(|h| h.sum), Some(2.0));
        assert!(decode(std::slice::from_ref(&run), 3, 5).unwrap().histograms.is_empty());
        let overlapping = vec![run[0].clone(), run[0].clone()];
        assert!(decode(&[overlapping], 0, 9).is_err());
    }
}
