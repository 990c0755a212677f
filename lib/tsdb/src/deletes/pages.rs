//! Pages without the samples that are deleted.

use super::Intervals;
use crate::page::{HistogramPageBuilder, Page, PageError, PageSamples, Starts};

/// The pages without what is deleted. Those that lose nothing are passed on as they are, those that lose all are dropped;
/// the others are decoded and written anew.
///
/// # Errors
/// When a page that must be decoded is damaged.
pub fn remove(pages: Vec<Page>, deleted: &Intervals) -> Result<Vec<Page>, PageError> {
    if deleted.is_empty() {
        return Ok(pages);
    }
    let mut left = Vec::with_capacity(pages.len());
    for page in pages {
        left.extend(remove_from(page, deleted)?);
    }
    Ok(left)
}

/// As [`remove`], of one page.
///
/// # Errors
/// When the page must be decoded and is damaged.
pub fn remove_from(page: Page, deleted: &Intervals) -> Result<Option<Page>, PageError> {
    if !deleted.overlaps(page.min_ts, page.max_ts) {
        return Ok(Some(page));
    }
    if deleted.covers(page.min_ts, page.max_ts) {
        return Ok(None);
    }
    let samples = page.decode()?;
    let starts = if page.has_starts() {
        let all = page.starts()?;
        let all = samples.times().into_iter().zip(all.iter(page.count));
        Starts::of(all.filter(|(at, _)| !deleted.contains(*at)).map(|(_, start)| start))
    } else {
        Starts::default()
    };
    let left = without(samples, deleted)?;
    left.map(|page| page.with_starts(&starts)).transpose()
}

/// A page of the samples that are not deleted, without starts.
fn without(samples: PageSamples, deleted: &Intervals) -> Result<Option<Page>, PageError> {
    match samples {
        PageSamples::Floats { timestamps, values } => {
            let left = timestamps.iter().zip(&values).filter(|(at, _)| !deleted.contains(**at));
            let (timestamps, values): (Vec<i64>, Vec<f64>) = left.map(|(at, value)| (*at, *value)).unzip();
            let page = Page::of_floats(&timestamps, &values);
            if page.is_none() && !values.is_empty() {
                return Err(PageError::Corrupt("times of a page do not ascend"));
            }
            Ok(page)
        }
        PageSamples::Histograms(samples) => {
            let mut page = HistogramPageBuilder::new();
            for sample in samples.iter().filter(|sample| !deleted.contains(sample.timestamp_ms)) {
                let appended = page.append(sample.timestamp_ms, &sample.histogram, sample.is_integer);
                appended.map_err(|_| PageError::Corrupt("times of a page do not ascend"))?;
            }
            Ok(page.page())
        }
    }
}
