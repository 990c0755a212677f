//! `gnomon block`: what is in a block, whether it is sound, and how two differ; blocks from and for other programs.

pub mod export;
mod extras;
pub mod import;
pub(crate) mod place;
mod progress;
mod stop;

use crate::bucket::open_as_it_is;
use crate::flags::{Block, BlockTask};
use crate::output::{self, say};
use anyhow::{Context, bail};
use gnomon_querier::Rfc3339;
use gnomon_tsdb::page::{HistogramSample, Page, PageSamples};
use gnomon_tsdb::{BlockReader, SeriesMerge, SeriesStream};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

/// Differences that are told one by one.
const TOLD: usize = 20;
/// Label names with the most values that are shown.
const LABELS_SHOWN: usize = 10;

/// Runs the command; 1 where a block is damaged or cannot be read, or two differ.
#[must_use]
pub fn run(what: &Block) -> ExitCode {
    match done(what) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            output::fail("gnomon block", &error);
            ExitCode::FAILURE
        }
    }
}

/// Whether all is well.
fn done(what: &Block) -> anyhow::Result<bool> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match what.task {
            BlockTask::Inspect => inspect_all(what).await,
            BlockTask::Verify => verify_all(what).await,
            BlockTask::Diff => differ(what).await.map(|differ| !differ),
        }
    })
}

/// A file, or an object of a store that is named.
async fn open(object_store: Option<&str>, block: &str) -> anyhow::Result<Arc<BlockReader>> {
    let path = Path::new(block);
    let (bucket, key) = if object_store.is_some() {
        (
            open_as_it_is(object_store, Path::new("."))?,
            without_dot(block).to_owned(),
        )
    } else {
        if !path.is_file() {
            bail!("{block}: there is no such file (for blocks in an object store: --storage.object-store)");
        }
        let path = std::path::absolute(path)?;
        let (folder, name) = path.parent().zip(path.file_name()).context("a file name")?;
        let name = name.to_str().context("the name of the file is no UTF-8")?;
        (open_as_it_is(None, folder)?, name.to_owned())
    };
    Ok(Arc::new(BlockReader::open_in(&bucket, &key).await?))
}

/// A path in an object store as a shell completes it for a folder.
fn without_dot(path: &str) -> &str {
    path.trim_start_matches("./")
}

async fn inspect_all(what: &Block) -> anyhow::Result<bool> {
    for block in &what.blocks {
        say(&inspected(block, &*open(what.object_store.as_deref(), block).await?)?)?;
    }
    Ok(true)
}

fn inspected(name: &str, block: &BlockReader) -> anyhow::Result<String> {
    let (meta, stats) = (block.meta(), block.meta().stats);
    let mut out = String::new();
    let parts: Vec<_> = meta.parts.iter().map(|part| part.number.to_string()).collect();
    let per = |bytes: u64, count: u64| bytes as f64 / count.max(1) as f64;
    writeln!(out, "{name}")?;
    writeln!(
        out,
        "  block        {} (format {}, level {})",
        meta.block, meta.format_version, meta.level
    )?;
    writeln!(
        out,
        "  cluster      {}, tenant {}, shard {}, epoch {}",
        meta.cluster, meta.tenant, meta.shard, meta.epoch.0
    )?;
    writeln!(out, "  parts        {}", parts.join(", "))?;
    writeln!(
        out,
        "  window       {} to {}",
        Rfc3339(meta.window.start.0),
        Rfc3339(meta.window.end.0)
    )?;
    writeln!(
        out,
        "  samples      {} of {} series, in {} pages",
        stats.samples, stats.series, stats.pages
    )?;
    if stats.exemplars + stats.metadata > 0 {
        writeln!(
            out,
            "  beside them  {} exemplars, type, unit and help of {} metrics",
            stats.exemplars, stats.metadata
        )?;
    }
    if stats.starts > 0 {
        writeln!(out, "  starts       of {} samples", stats.starts)?;
    }
    writeln!(
        out,
        "  first, last  {}, {}",
        Rfc3339(stats.min_sample.0),
        Rfc3339(stats.max_sample.0)
    )?;
    let length = block.len_bytes();
    writeln!(
        out,
        "  bytes        {length}, {:.3} a sample",
        per(length, stats.samples)
    )?;
    let mut index = length;
    for (section, bytes) in block.sections() {
        if section == "Pages" {
            index -= bytes;
        }
        if bytes > 0 {
            writeln!(out, "    {section:<12} {bytes:>12}  {:5.1} %", per(bytes * 100, length))?;
        }
    }
    writeln!(out, "  all but pages {:.1} bytes a series", per(index, stats.series))?;
    let mut labels: Vec<_> = block.counts_of_label_values().collect();
    labels.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
    writeln!(out, "  labels       {}", labels.len())?;
    for (label, values) in labels.iter().take(LABELS_SHOWN) {
        writeln!(out, "    {label:<28} {values:>10} values")?;
    }
    Ok(out)
}

async fn verify_all(what: &Block) -> anyhow::Result<bool> {
    let mut sound = true;
    let is_terminal = std::io::stderr().is_terminal();
    for name in &what.blocks {
        let verified = async {
            let block = open(what.object_store.as_deref(), name).await?;
            let length = block.len_bytes().max(1);
            let mut shown = u64::MAX;
            let mut progress = |bytes: u64| {
                // Every byte is read once for its checksum, and again for what it says.
                let percent = (bytes * 50 / length).min(100);
                if is_terminal && percent != shown {
                    shown = percent;
                    output::show(format_args!("\r{name}: {percent:3} %"));
                }
            };
            let report = block.verify_with(&mut progress).await;
            if is_terminal {
                output::show(format_args!("\r\x1b[K"));
            }
            anyhow::Ok(report?)
        };
        match verified.await {
            Ok(report) => say(&format!(
                "{name}: sound, {} series, {} samples, {} bytes\n",
                report.stats.series, report.stats.samples, report.bytes
            ))?,
            Err(error) => {
                output::fail(name, &error);
                sound = false;
            }
        }
    }
    Ok(sound)
}

/// Samples by time, each as text of all it is.
fn samples(pages: &[Page]) -> anyhow::Result<BTreeMap<i64, String>> {
    let mut all = BTreeMap::new();
    for page in pages {
        let starts = page.starts()?;
        let mut starts = starts.iter(page.count);
        let mut started = |text: String| match starts.next() {
            None | Some(0) => text,
            Some(start_ms) => format!("{text} since {start_ms}"),
        };
        match page.decode()? {
            PageSamples::Floats { timestamps, values } => {
                let text = |value: f64| started(format!("{value} ({:016x})", value.to_bits()));
                all.extend(timestamps.into_iter().zip(values.into_iter().map(text)));
            }
            PageSamples::Histograms(histograms) => {
                let text = |h: HistogramSample| (h.timestamp_ms, started(format!("{:?}", (h.is_integer, h.histogram))));
                all.extend(histograms.into_iter().map(text));
            }
        }
    }
    Ok(all)
}

/// What of one series two blocks do not have alike.
fn differences(sources: &[(usize, Vec<Page>)]) -> anyhow::Result<Vec<String>> {
    let of = |source: usize| sources.iter().find(|(at, _)| *at == source).map(|(_, pages)| pages);
    let (Some(first), Some(second)) = (of(0), of(1)) else {
        let only = if of(0).is_some() { "first" } else { "second" };
        return Ok(vec![format!("only the {only} block has it")]);
    };
    let (first, second) = (samples(first)?, samples(second)?);
    let mut out = Vec::new();
    let times: std::collections::BTreeSet<_> = first.keys().chain(second.keys()).collect();
    for time in times {
        let (a, b) = (first.get(time), second.get(time));
        if a != b {
            let text = |sample: Option<&String>| sample.map_or_else(|| "nothing".to_owned(), Clone::clone);
            out.push(format!("{}: {} and {}", Rfc3339(*time), text(a), text(b)));
        }
    }
    Ok(out)
}

/// Whether two blocks have other series, samples, exemplars or metadata; how they are written does not count.
async fn differ(what: &Block) -> anyhow::Result<bool> {
    let mut streams: Vec<SeriesStream<gnomon_tsdb::BlockError>> = Vec::new();
    let mut blocks = Vec::new();
    for name in &what.blocks {
        let block = open(what.object_store.as_deref(), name).await?;
        blocks.push(Arc::clone(&block));
        streams.push(block.select(&[], i64::MIN, i64::MAX).await?.into_stream());
    }
    let mut merge = SeriesMerge::new(streams);
    let (mut series, mut count) = (0_u64, 0);
    while let Some(next) = merge.next().await? {
        series += 1;
        for difference in differences(&next.sources).with_context(|| format!("series {}", next.labels))? {
            count += 1;
            if count <= TOLD {
                say(&format!("{}: {difference}\n", next.labels))?;
            }
        }
    }
    for difference in extras::differences(&blocks).await? {
        count += 1;
        if count <= TOLD {
            say(&format!("{difference}\n"))?;
        }
    }
    if count > TOLD {
        say(&format!("and {} more\n", count - TOLD))?;
    }
    if count == 0 {
        say(&format!("the same {series} series with the same samples\n"))?;
    }
    Ok(count > 0)
}
