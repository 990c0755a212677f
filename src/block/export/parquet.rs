//! Parquet files: one for each window, named by its beginning.

use super::window::for_each_series;
use super::{Source, tell_if_nothing};
use crate::block::progress::Progress;
use crate::output;
use anyhow::Context;
use gnomon_querier::Rfc3339;
use gnomon_tsdb::parquet::ParquetWriter;
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use tokio_util::sync::CancellationToken;

/// Writes all windows.
pub(super) async fn write(source: &Source<'_>, mut progress: Progress, stop: &CancellationToken) -> anyhow::Result<()> {
    let (mut files, mut rows) = (0_u64, 0);
    for (first_ms, last_ms) in source.windows() {
        let name = Rfc3339(first_ms).to_string().replace(':', "-");
        let path = source.what.output.join(format!("{name}.parquet"));
        let unfinished = path.with_extension("tmp");
        let written = window(source, first_ms, last_ms, &unfinished, &mut progress, stop).await;
        match written {
            Ok(0) => std::fs::remove_file(&unfinished).with_context(|| unfinished.display().to_string())?,
            Ok(count) => {
                std::fs::rename(&unfinished, &path).with_context(|| path.display().to_string())?;
                progress.say(&format!("{}: {count} rows", path.display()));
                files += 1;
                rows += count;
            }
            Err(error) => {
                // The first error is what is to be told.
                std::fs::remove_file(&unfinished).ok();
                return Err(error);
            }
        }
    }
    tell_if_nothing(rows);
    output::say(&format!("exported {rows} samples into {files} files\n"))
}

/// One file; how many rows it has.
async fn window(
    source: &Source<'_>,
    first_ms: i64,
    last_ms: i64,
    path: &Path,
    progress: &mut Progress,
    stop: &CancellationToken,
) -> anyhow::Result<u64> {
    let named = || path.display().to_string();
    let file = File::create(path).with_context(named)?;
    let mut writer = ParquetWriter::new(BufWriter::new(file)).with_context(named)?;
    let mut rows = 0;
    for_each_series(source, first_ms, last_ms, stop, |labels, samples| {
        let added = writer.add_series(labels, samples).with_context(named)?;
        rows += added;
        progress.add(added);
        Ok(())
    })
    .await?;
    let file = writer.finish().with_context(named)?;
    let file = file.into_inner().map_err(|e| e.into_error()).with_context(named)?;
    file.sync_all().with_context(named)?;
    Ok(rows)
}
