//! How many bytes a sample costs, on recorded scrapes of real targets: pages of several sizes, then a whole block with
//! its index. `cargo run --release -p gnomon-tsdb --example density [folder with *.scr.zst]`; the default folder is
//! `$GNOMON_SHARED/realdata`, or `shared/realdata` beside the repository.

use gnomon_model::ids::START_TIMES_FEATURE_LEVEL;
use gnomon_model::{
    BlockId, ClusterId, Labels, LabelsBuilder, MatchOp, Matcher, ShardId, TenantId, TimeRange, TimestampMs,
};
use gnomon_tsdb::{
    BlockCache, BlockMeta, BlockReader, BlockWriter, Coding, Effort, FloatPageBuilder, MemorySink, Page, SeriesPages,
    Starts, decode_into,
};
use object_store::ObjectStoreExt;
use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Encoder = fn(&[i64], &[f64]) -> Option<Page>;
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
        let thorough = |times: &[i64], values: &[f64]| Page::dense(times, values, Effort::Thorough);
        for (name, encoder) in [("closed", Page::of_floats as Encoder), ("thorough", thorough)] {
            let (pages, encode) = encoded(series, size, encoder)?;
            let bytes: usize = pages.iter().map(|p| p.bytes.len()).sum();
            let open = pages.iter().filter(|p| p.coding == Coding::Float).count();
            println!(
                "       {name}: {:.4} bytes/sample; {open} of {} pages as while open; encode {encode:.0} M/s; decode {:.0} M/s",
                bytes as f64 / samples as f64,
                pages.len(),
                decode_rate(&pages, samples)?,
            );
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    for effort in [Effort::Cheap, Effort::Thorough] {
        let block = Arc::new(runtime.block_on(block_of(series, effort, false))?);
        report_block(&block, effort, samples, series.len());
        runtime.block_on(report_reads(&block, series))?;
        let started = runtime.block_on(block_of(series, effort, true))?;
        println!(
            "    with the start of its process at each sample: {} bytes more, {:.2} a series",
            started.len_bytes() - block.len_bytes(),
            (started.len_bytes() - block.len_bytes()) as f64 / series.len() as f64,
        );
        report_statistics(series, &block)?;
    }
    Ok(())
}

/// What statistics of each page would take, in columns and compressed as a directory is: of pages of one value everything
/// is known without.
fn report_statistics(series: &Series, block: &BlockReader) -> Result<(), Box<dyn Error>> {
    let (mut pages, mut constant, mut bytes) = (0, 0, [0; 5]);
    let all: Vec<&Vec<(i64, f64)>> = series.values().collect();
    for chunk in all.chunks(1024) {
        let mut columns: [Vec<u8>; 5] = Default::default();
        for samples in chunk.iter().flat_map(|samples| samples.chunks(480)) {
            let values = || samples.iter().map(|(_, value)| *value);
            let (first, last) = (values().next().unwrap_or(0.0), values().next_back().unwrap_or(0.0));
            pages += 1;
            if values().all(|value| value.to_bits() == first.to_bits()) {
                constant += 1;
                continue;
            }
            let (least, most) = (
                values().fold(f64::INFINITY, f64::min),
                values().fold(f64::NEG_INFINITY, f64::max),
            );
            let falls = samples.windows(2).filter(|pair| pair[1].1 < pair[0].1).count();
            // Each as what it differs from one that is known.
            let numbers = [
                first.to_bits().swap_bytes(),
                (last.to_bits() ^ first.to_bits()).swap_bytes(),
                (least.to_bits() ^ first.to_bits()).swap_bytes(),
                (most.to_bits() ^ last.to_bits()).swap_bytes(),
                falls as u64,
            ];
            for (column, number) in columns.iter_mut().zip(numbers) {
                gnomon_model::labels::put_uvarint(column, number);
            }
        }
        for (column, bytes) in columns.iter().zip(&mut bytes) {
            *bytes += zstd::bulk::compress(column, 9)?.len();
        }
    }
    let share = |bytes: usize| bytes as f64 * 100.0 / block.len_bytes() as f64;
    println!(
        "    statistics of {} of {pages} pages: {} bytes, {:.1} % of the block (first {:.1}, last {:.1}, least {:.1}, most {:.1}, resets {:.1} %)",
        pages - constant,
        bytes.iter().sum::<usize>(),
        share(bytes.iter().sum()),
        share(bytes[0]),
        share(bytes[1]),
        share(bytes[2]),
        share(bytes[3]),
        share(bytes[4]),
    );
    Ok(())
}

fn report_block(block: &BlockReader, effort: Effort, samples: usize, series: usize) {
    let parts = block.parts();
    let pages = parts.first().map_or(0, |(_, len)| *len);
    println!(
        "  block, {effort:?}: {} bytes, {:.4} bytes/sample, pages {:.4}; everything but pages {:.1} bytes/series",
        block.len_bytes(),
        block.len_bytes() as f64 / samples as f64,
        pages as f64 / samples as f64,
        (block.len_bytes() - pages) as f64 / series as f64,
    );
    for (part, len) in parts.iter().filter(|(_, len)| *len > 0) {
        println!("    {part:<12} {len:>9}  {:.2} a series", *len as f64 / series as f64);
    }
}

/// How fast it is read from memory, parts of the index and pages being kept: all series, and each tenth alone.
async fn report_reads(block: &Arc<BlockReader>, series: &Series) -> Result<(), Box<dyn Error>> {
    let mut read = 0;
    let start = cpu_seconds()?;
    for _ in 0..PASSES {
        read += read_all(block, &[]).await?;
    }
    let between = cpu_seconds()?;
    for _ in 0..PASSES {
        for labels in series.keys().step_by(10) {
            let matchers = labels
                .iter()
                .map(|(name, value)| Matcher::new(name, MatchOp::Equal, value));
            read_all(block, &matchers.collect::<Result<Vec<_>, _>>()?).await?;
        }
    }
    let alone = (cpu_seconds()? - between) / (series.len().div_ceil(10) * PASSES) as f64;
    println!(
        "    read: {:.0} M samples/s; one series alone {:.1} us",
        rate(read, start, between),
        alone * 1e6,
    );
    Ok(())
}

async fn read_all(block: &Arc<BlockReader>, matchers: &[Matcher]) -> Result<usize, Box<dyn Error>> {
    let mut selection = block.select(matchers, i64::MIN, i64::MAX).await?;
    let (mut timestamps, mut values, mut samples) = (Vec::new(), Vec::new(), 0);
    while let Some(series) = selection.next_batch().await? {
        for page in series.iter().flat_map(|series| &series.pages) {
            timestamps.clear();
            values.clear();
            decode_into(&page.bytes, &mut timestamps, &mut values)?;
            samples += black_box(&values).len();
        }
    }
    Ok(samples)
}

fn pages_of(samples: &[(i64, f64)], size: usize) -> Vec<Page> {
    samples
        .chunks(size)
        .filter_map(|chunk| builder_of(chunk).page())
        .collect()
}

/// Pages as blocks have them, and millions of samples a second that were encoded.
fn encoded(series: &Series, size: usize, encoder: Encoder) -> std::io::Result<(Vec<Page>, f64)> {
    let columns = |samples: &[(i64, f64)]| -> (Vec<i64>, Vec<f64>) {
        let mut samples = samples.to_vec();
        samples.dedup_by_key(|(ts, _)| *ts);
        samples.into_iter().unzip()
    };
    let chunks: Vec<_> = series.values().flat_map(|s| s.chunks(size)).map(columns).collect();
    let samples: usize = chunks.iter().map(|(times, _)| times.len()).sum();
    let mut pages = Vec::new();
    let start = cpu_seconds()?;
    for _ in 0..PASSES {
        pages = chunks
            .iter()
            .filter_map(|(times, values)| encoder(times, values))
            .collect();
    }
    Ok((pages, rate(samples * PASSES, start, cpu_seconds()?)))
}

fn builder_of(samples: &[(i64, f64)]) -> FloatPageBuilder {
    let mut builder = FloatPageBuilder::new();
    for (ts, value) in samples {
        // Captured timestamps may repeat; the second is left out.
        let _ = builder.append(*ts, *value);
    }
    builder
}

/// What this thread has had of a processor: what else is running does not count.
fn cpu_seconds() -> std::io::Result<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds = text.split_whitespace().next().and_then(|n| n.parse::<f64>().ok());
    nanoseconds
        .map(|n| n / 1e9)
        .ok_or_else(|| std::io::Error::other("schedstat without a number"))
}

/// What is measured is done so often: the clock ticks in milliseconds.
const PASSES: usize = 10;

/// Millions a second.
fn rate(samples: usize, start: f64, end: f64) -> f64 {
    samples as f64 / (end - start) / 1e6
}

fn memory_of(samples: &[(i64, f64)], size: usize) -> usize {
    builder_of(&samples[..samples.len().min(size)]).memory_bytes()
}

/// Millions of samples a second.
fn decode_rate(pages: &[Page], samples: usize) -> Result<f64, Box<dyn Error>> {
    let (mut timestamps, mut values) = (Vec::new(), Vec::new());
    let start = cpu_seconds()?;
    for _ in 0..PASSES {
        for page in pages {
            timestamps.clear();
            values.clear();
            decode_into(&page.bytes, &mut timestamps, &mut values)?;
            black_box((&timestamps, &values));
        }
    }
    Ok(rate(samples * PASSES, start, cpu_seconds()?))
}

async fn block_of(series: &Series, effort: Effort, with_starts: bool) -> Result<BlockReader, Box<dyn Error>> {
    let times = || series.values().flatten().map(|(ts, _)| *ts);
    let end = times().max().unwrap_or(0) + 1;
    let window = TimeRange::new(TimestampMs(times().min().unwrap_or(0)), TimestampMs(end));
    let mut meta = BlockMeta::new(BlockId(1), ClusterId(1), TenantId::anonymous(), ShardId(0), window);
    meta.feature_level = START_TIMES_FEATURE_LEVEL;
    let mut writer = BlockWriter::new(meta, MemorySink::default());
    if effort == Effort::Thorough {
        writer = writer.thorough();
    }
    for (labels, samples) in series {
        let series = SeriesPages {
            labels: labels.clone(),
            pages: pages_of(samples, 480)
                .into_iter()
                .map(|page| {
                    // One for each target.
                    let job = labels.get("job").map_or(0, str::len) as i64;
                    let start = if with_starts {
                        1_690_000_000_000 + job * 77_777
                    } else {
                        0
                    };
                    let starts = Starts::of((0..page.count).map(|_| start));
                    page.closed()?.with_starts(&starts)
                })
                .collect::<Result<_, _>>()?,
        };
        writer.add_series(series.labels.as_ref(), series.pages).await?;
    }
    let store = Arc::new(object_store::memory::InMemory::new());
    let path = object_store::path::Path::from("block");
    store.put(&path, writer.finish().await?.output.into()).await?;
    let cache = Arc::new(BlockCache::new(64 << 20, 64 << 20));
    Ok(BlockReader::open_cached(store, path, &cache).await?)
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
