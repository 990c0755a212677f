//! Blocks of Prometheus': one for each window, series as they come out of the merge.

use super::window::{SERIES_PER_TURN, for_each_series, len};
use super::{Source, tell_if_nothing};
use crate::block::progress::Progress;
use crate::block::stop::check;
use crate::output;
use gnomon_model::{SystemClock, TimeRange, TimestampMs};
use gnomon_tsdb::Starts;
use gnomon_tsdb::prometheus::{TsdbWriter, Ulid, WrittenBlock};
use std::collections::BTreeSet;
use tokio_util::sync::CancellationToken;

/// Writes all windows.
pub(super) async fn write(source: &Source<'_>, mut progress: Progress, stop: &CancellationToken) -> anyhow::Result<()> {
    let (mut blocks, mut series, mut samples) = (0_u64, 0, 0);
    for (first_ms, last_ms) in source.windows() {
        if let Some(written) = window(source, first_ms, last_ms, &mut progress, stop).await? {
            blocks += 1;
            series = series.max(written.stats.num_series);
            samples += written.stats.num_samples;
            progress.say(&format!(
                "{}: {} series, {} samples",
                written.folder.display(),
                written.stats.num_series,
                written.stats.num_samples
            ));
        }
    }
    tell_if_nothing(samples);
    output::say(&format!(
        "exported {samples} samples into {blocks} blocks of at most {series} series\n"
    ))
}

/// One block; none where no series has a sample there.
async fn window(
    source: &Source<'_>,
    first_ms: i64,
    last_ms: i64,
    progress: &mut Progress,
    stop: &CancellationToken,
) -> anyhow::Result<Option<WrittenBlock>> {
    let symbols = symbols(source, first_ms, last_ms, stop).await?;
    if symbols.is_empty() {
        return Ok(None);
    }
    let now_ms = SystemClock::shared().now().0;
    let mut writer = TsdbWriter::create(&source.what.output, Ulid::new(now_ms, rand::random()), &symbols)?;
    drop(symbols);
    let mut samples = 0;
    let added = for_each_series(source, first_ms, last_ms, stop, |labels, pages| {
        let count: u64 = pages.iter().map(|(samples, _)| len(samples)).sum();
        if source.what.with_starts {
            writer.add_series(labels, pages)?;
        } else {
            let plain: Vec<_> = pages
                .iter()
                .map(|(samples, _)| (samples.clone(), Starts::default()))
                .collect();
            writer.add_series(labels, &plain)?;
        }
        samples += count;
        progress.add(count);
        Ok(())
    });
    match added.await.map(|()| samples) {
        Ok(0) => {
            writer.abort()?;
            Ok(None)
        }
        Ok(_) => {
            let width_ms = source.what.width_ms;
            let window = TimeRange::window_of(TimestampMs(first_ms), width_ms);
            Ok(Some(writer.finish(window.start.0, window.end.0)?))
        }
        Err(error) => {
            // The first error is what is to be told.
            writer.abort().ok();
            Err(error)
        }
    }
}

/// Names and values of all labels.
async fn symbols(
    source: &Source<'_>,
    first_ms: i64,
    last_ms: i64,
    stop: &CancellationToken,
) -> anyhow::Result<BTreeSet<String>> {
    let mut symbols = BTreeSet::new();
    let mut merge = source.series(first_ms, last_ms, true).await?;
    let mut seen = 0_u64;
    while let Some(next) = merge.next().await? {
        for (name, value) in next.labels.iter() {
            for text in [name, value] {
                if !symbols.contains(text) {
                    symbols.insert(text.to_owned());
                }
            }
        }
        seen += 1;
        if seen.is_multiple_of(SERIES_PER_TURN) {
            check(stop).await?;
        }
    }
    Ok(symbols)
}
