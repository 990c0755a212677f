//! The series of one window, merged, with their samples in it.

use super::Source;
use crate::block::stop::check;
use anyhow::Context;
use gnomon_model::LabelsRef;
use gnomon_tsdb::Starts;
use gnomon_tsdb::page::{Page, PageSamples};
use tokio_util::sync::CancellationToken;

/// Series between two looks at whether to stop.
pub(super) const SERIES_PER_TURN: u64 = 64;

/// Gives each series with samples in `first_ms..=last_ms` to `take`, ascending by labels; samples come with their starts.
pub(super) async fn for_each_series(
    source: &Source<'_>,
    first_ms: i64,
    last_ms: i64,
    stop: &CancellationToken,
    mut take: impl FnMut(LabelsRef<'_>, &[(PageSamples, Starts)]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut merge = source.series(first_ms, last_ms, false).await?;
    let mut seen = 0_u64;
    while let Some(next) = merge.next().await? {
        let labels = next.labels.clone();
        let merged = next.into_pages().with_context(|| format!("series {labels}"))?;
        let samples = within(&merged.pages, first_ms, last_ms).with_context(|| format!("series {labels}"))?;
        take(labels.as_ref(), &samples)?;
        seen += 1;
        if seen.is_multiple_of(SERIES_PER_TURN) {
            check(stop).await?;
        }
    }
    Ok(())
}

pub(super) fn len(samples: &PageSamples) -> u64 {
    match samples {
        PageSamples::Floats { timestamps, .. } => timestamps.len() as u64,
        PageSamples::Histograms(all) => all.len() as u64,
    }
}

/// Samples of pages in `first_ms..=last_ms`.
fn within(pages: &[Page], first_ms: i64, last_ms: i64) -> Result<Vec<(PageSamples, Starts)>, gnomon_tsdb::PageError> {
    let mut out = Vec::new();
    for page in pages.iter().filter(|page| page.overlaps(first_ms, last_ms)) {
        let mut samples = page.decode()?;
        let mut starts = page.starts()?;
        let is_in = |time: i64| (first_ms..=last_ms).contains(&time);
        if !is_in(page.min_ts) || !is_in(page.max_ts) {
            let all = samples.times().into_iter().zip(starts.iter(page.count));
            starts = Starts::of(all.filter(|(time, _)| is_in(*time)).map(|(_, start)| start));
            match &mut samples {
                PageSamples::Floats { timestamps, values } => {
                    let from = timestamps.partition_point(|time| *time < first_ms);
                    let to = timestamps.partition_point(|time| *time <= last_ms);
                    *timestamps = timestamps[from..to].to_vec();
                    *values = values[from..to].to_vec();
                }
                PageSamples::Histograms(all) => all.retain(|sample| is_in(sample.timestamp_ms)),
            }
        }
        out.push((samples, starts));
    }
    Ok(out)
}
