//! How many bytes a sample costs, on recorded scrapes of real targets: pages of several sizes, then a whole block with
//! its index. `cargo run --release -p gnomon-tsdb --example density [folder with *.scr.zst]`; the default folder is
//! `$GNOMON_SHARED/realdata`, or `shared/realdata` beside the repository.

use gnomon_model::{BlockId, ClusterId, Labels, LabelsBuilder, ShardId, TenantId, TimeRange, TimestampMs};
use gnomon_tsdb::{
    BlockMeta, BlockReader, BlockWriter, Coding, FloatPageBuilder, MemorySink, Page, SeriesPages, decode_into,
};
use object_store::ObjectStoreExt;
use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Series = BTreeMap<Labels, Vec<(i64, f64)>>;

fn folder() -> PathBuf {
    if let Some(folder) = std::env::args().nth(1) {
        return folder.into();
    }
    let shared = std::env::var_os("GNOMON_SHARED").map(PathBuf::from);
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared");
    shared.unwrap_or_else(|| beside.into()).join("realdata")
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = folder();
    if !folder.is_dir() {
        println!("skipped: no recorded scrapes in {}", folder.display());
        return Ok(());
    }
    for is_aligned in [true, false] {
        let mut series = Series::new();
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.to_string_lossy().ends_with(".scr.zst") {
                read_target(&path, is_aligned, &mut series)?;
            }
        }
        println!(
            "timestamps {}:",
            if is_aligned {
                "on a 15 s grid"
            } else {
                "as captured (1 s, jitter)"
            }
        );
        report(&series)?;
    }
    Ok(())
}

fn report(series: &Series) -> Result<(), Box<dyn Error>> {
    let samples: usize = series.values().map(Vec::len).sum();
    println!("  {} series, {samples} samples", series.len());
    for size in [120, 240, 480] {
        let pages: Vec<Page> = series.values().flat_map(|s| pages_of(s, size)).collect();
        let bytes: usize = pages.iter().map(|p| p.bytes.len()).sum();
        let memory: usize = series.values().map(|s| memory_of(s, size)).sum();
        println!(
            "  {size:4} a page: {:.4} bytes/sample; held while open {:.0} bytes/series; decode {:.0} M/s",
            bytes as f64 / samples as f64,
            memory as f64 / series.len() as f64,
            decode_rate(&pages, samples)?,
        );
        let (closed, encode) = closed(series, size);
        let bytes: usize = closed.iter().map(|p| p.bytes.len()).sum();
        let columns = closed.iter().filter(|p| p.coding == Coding::Columns).count();
        println!(
            "       closed: {:.4} bytes/sample; {:.1} % of pages in columns; encode {encode:.0} M/s; decode {:.0} M/s",
            bytes as f64 / samples as f64,
            columns as f64 * 100.0 / closed.len() as f64,
            decode_rate(&closed, samples)?,
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let block = runtime.block_on(block_of(series))?;
    let parts = block.parts();
    let pages = parts.first().map_or(0, |(_, len)| *len);
    println!(
        "  block: {} bytes, {:.4} bytes/sample; everything but pages {:.1} bytes/series",
        block.len_bytes(),
        block.len_bytes() as f64 / samples as f64,
        (block.len_bytes() - pages) as f64 / series.len() as f64,
    );
    for (part, len) in parts.iter().filter(|(_, len)| *len > 0) {
        println!(
            "    {part:<12} {len:>9}  {:.2} a series",
            *len as f64 / series.len() as f64
        );
    }
    Ok(())
}

fn pages_of(samples: &[(i64, f64)], size: usize) -> Vec<Page> {
    samples
        .chunks(size)
        .filter_map(|chunk| builder_of(chunk).page())
        .collect()
}

/// Pages as blocks have them, and millions of samples a second that were encoded, best of three passes.
#[allow(clippy::disallowed_methods)]
fn closed(series: &Series, size: usize) -> (Vec<Page>, f64) {
    let columns = |samples: &[(i64, f64)]| -> (Vec<i64>, Vec<f64>) {
        let mut samples = samples.to_vec();
        samples.dedup_by_key(|(ts, _)| *ts);
        samples.into_iter().unzip()
    };
    let chunks: Vec<_> = series.values().flat_map(|s| s.chunks(size)).map(columns).collect();
    let samples: usize = chunks.iter().map(|(times, _)| times.len()).sum();
    let (mut best, mut pages) = (f64::INFINITY, Vec::new());
    for _ in 0..3 {
        let start = std::time::Instant::now();
        pages = chunks
            .iter()
            .filter_map(|(times, values)| Page::of_floats(times, values))
            .collect();
        best = best.min(start.elapsed().as_secs_f64());
    }
    (pages, samples as f64 / best / 1e6)
}

fn builder_of(samples: &[(i64, f64)]) -> FloatPageBuilder {
    let mut builder = FloatPageBuilder::new();
    for (ts, value) in samples {
        // Captured timestamps may repeat; the second is left out.
        let _ = builder.append(*ts, *value);
    }
    builder
}

fn memory_of(samples: &[(i64, f64)], size: usize) -> usize {
    builder_of(&samples[..samples.len().min(size)]).memory_bytes()
}

/// Millions of samples a second, best of five passes.
#[allow(clippy::disallowed_methods)]
fn decode_rate(pages: &[Page], samples: usize) -> Result<f64, Box<dyn Error>> {
    let (mut timestamps, mut values) = (Vec::new(), Vec::new());
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let start = std::time::Instant::now();
        for page in pages {
            timestamps.clear();
            values.clear();
            decode_into(&page.bytes, &mut timestamps, &mut values)?;
            black_box((&timestamps, &values));
        }
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(samples as f64 / best / 1e6)
}

async fn block_of(series: &Series) -> Result<BlockReader, Box<dyn Error>> {
    let times = || series.values().flatten().map(|(ts, _)| *ts);
    let end = times().max().unwrap_or(0) + 1;
    let window = TimeRange::new(TimestampMs(times().min().unwrap_or(0)), TimestampMs(end));
    let meta = BlockMeta::new(BlockId(1), ClusterId(1), TenantId::anonymous(), ShardId(0), window);
    let mut writer = BlockWriter::new(meta, MemorySink::default());
    for (labels, samples) in series {
        let series = SeriesPages {
            labels: labels.clone(),
            pages: pages_of(samples, 480)
                .into_iter()
                .map(Page::closed)
                .collect::<Result<_, _>>()?,
        };
        writer.add_series(series.labels.as_ref(), series.pages).await?;
    }
    let store = Arc::new(object_store::memory::InMemory::new());
    let path = object_store::path::Path::from("block");
    store.put(&path, writer.finish().await?.output.into()).await?;
    Ok(BlockReader::open(store, path).await?)
}

fn read_target(path: &Path, is_aligned: bool, series: &mut Series) -> Result<(), Box<dyn Error>> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("");
    let job = name.trim_end_matches(".scr.zst").to_owned();
    let mut decoder = zstd::Decoder::new(std::fs::File::open(path)?)?;
    decoder.window_log_max(27)?;
    let mut text = String::new();
    decoder.read_to_string(&mut text)?;
    let mut rest = text.as_str();
    let mut tick = 0;
    while let Some(record) = rest.strip_prefix("#SCRAPE ") {
        let (head, after) = record.split_once('\n').ok_or("record without an end")?;
        let (ts, len) = head.split_once(' ').ok_or("record without a length")?;
        let (body, next) = after.split_at(len.parse()?);
        rest = next;
        let ts = if is_aligned {
            1_700_000_000_000 / 7_200_000 * 7_200_000 + tick * 15_000
        } else {
            ts.parse()?
        };
        tick += 1;
        for line in body.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
            let (labels, value) = read_line(line, &job).ok_or_else(|| format!("{job}: {line}"))?;
            series.entry(labels).or_default().push((ts, value));
        }
    }
    Ok(())
}

fn read_line(line: &str, job: &str) -> Option<(Labels, f64)> {
    let mut labels = LabelsBuilder::default();
    labels.set("job", job);
    labels.set("instance", "localhost:9100");
    let name_end = line.find(['{', ' '])?;
    labels.set("__name__", &line[..name_end]);
    let mut rest = &line[name_end..];
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            rest = rest.trim_start_matches([',', ' ']);
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (name, after) = rest.split_once("=\"")?;
            let end = end_of_quoted(after)?;
            labels.set(name, &after[..end]);
            rest = &after[end + 1..];
        }
    }
    let value = rest.split_whitespace().next()?;
    Some((labels.build(), value.parse().ok()?))
}

fn end_of_quoted(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|b| {
        let ends = b == b'"' && !escaped;
        escaped = b == b'\\' && !escaped;
        ends
    })
}
