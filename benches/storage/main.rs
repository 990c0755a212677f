//! What a sample and a series take on disk: gnomon's blocks as they are uploaded and as they are merged, Debian's
//! Prometheus and VictoriaMetrics, all fed with the same data by remote write in one run. Prints Markdown tables for
//! docs/benchmarks.md, which says what they mean.
//!
//! `make bench-storage`. In the environment: REALDATA_DIR (recorded scrapes; default ../shared/realdata), ONLY (a part of
//! the names of data sets: real15, real1, fleet), SERVERS (a list), FLEET_SERIES, FLEET_ROUNDS (of each window),
//! FLEET_STEP (seconds), KEEP (a folder that gnomon's blocks are copied to).

#[path = "../../tests/harness/mod.rs"]
mod harness;
#[path = "../side_by_side/mod.rs"]
mod side_by_side;

mod blocks;
mod data;
mod disk;
mod fleet;
mod report;
mod scrapes;

use blocks::Sum;
use bytes::Bytes;
use data::{Data, Samples, Series, WINDOW_MS, encoded};
use gnomon_tsdb::BlockMeta;
use report::Row;
use scrapes::Spacing;
use side_by_side::course::Course;
use side_by_side::servers::Server;
use side_by_side::{number, setting, wanted_servers};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Windows that one merge makes one of.
const MERGED_WINDOWS: i64 = 3;
/// Merges begin so long after the last window's end, at the latest; Prometheus needs a sample as much later.
const SETTLED_MS: i64 = 2 * WINDOW_MS;

/// The begin of the newest three windows that one merge makes one of and that ended long enough ago.
fn start_ms() -> i64 {
    let now_ms = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
    let width = MERGED_WINDOWS * WINDOW_MS;
    (now_ms - SETTLED_MS).div_euclid(width) * width - width
}

fn data_of(name: &str) -> Option<Data> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/realdata");
    let folder = PathBuf::from(setting("REALDATA_DIR", beside));
    let recorded = |spacing, step_ms| {
        if !folder.is_dir() {
            println!("skipped: no recorded scrapes in {}", folder.display());
            return None;
        }
        let (series, rounds) = scrapes::read(&folder, spacing);
        Some((series, MERGED_WINDOWS as usize, rounds, step_ms))
    };
    let (title, (series, windows, rounds, step_ms)) = match name {
        "real15" => ("recorded scrapes, 15 s apart", recorded(Spacing::Even, 15_000)?),
        "real1" => (
            "recorded scrapes, as they were, 1 s apart",
            recorded(Spacing::Recorded, 1_000)?,
        ),
        _ => {
            let (rounds, step) = (number("FLEET_ROUNDS", 240), number("FLEET_STEP", 30));
            let step_ms = step as i64 * 1_000;
            let made = fleet::made(number("FLEET_SERIES", 100_000), 2 * rounds, step_ms);
            ("generated fleet", (made, 2, rounds, step_ms))
        }
    };
    Some(Data {
        name: title.to_owned(),
        series,
        windows,
        rounds,
        step_ms,
        start_ms: start_ms(),
    })
}

/// All files of blocks below a folder.
fn block_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            block_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "gnb") {
            found.push(path);
        }
    }
}

/// Of each shard the merged block with the most samples.
fn last_merged<'b>(
    seen: impl Iterator<Item = &'b (BlockMeta, Bytes)>,
) -> BTreeMap<gnomon_model::ShardId, &'b (BlockMeta, Bytes)> {
    let mut last: BTreeMap<_, &(BlockMeta, Bytes)> = BTreeMap::new();
    for block in seen.filter(|(meta, _)| meta.level > 0) {
        let known = last.entry(block.0.shard).or_insert(block);
        if known.0.stats.samples < block.0.stats.samples {
            *known = block;
        }
    }
    last
}

/// gnomon's blocks as they appear, until merged ones hold all samples: those of level 0, and of each shard the merged one
/// with the most samples, since a merge may be merged again.
async fn gnomon_blocks(folder: &Path, samples: u64) -> [Vec<Bytes>; 2] {
    let mut seen: BTreeMap<PathBuf, (BlockMeta, Bytes)> = BTreeMap::new();
    disk::until("blocks to be uploaded and merged", async || {
        let mut files = Vec::new();
        block_files(folder, &mut files);
        for path in files {
            if seen.contains_key(&path) {
                continue;
            }
            // It may be a file that is being written, or one that goes.
            let Ok(bytes) = std::fs::read(&path).map(Bytes::from) else {
                continue;
            };
            let whole = bytes.ends_with(b"GNOMBLK\x01");
            if whole {
                let meta = blocks::open(bytes.clone()).await.meta().clone();
                seen.insert(path, (meta, bytes));
            }
        }
        let merged = last_merged(seen.values());
        let merged: u64 = merged.values().map(|(meta, _)| meta.stats.samples).sum();
        (merged >= samples).then_some(())
    })
    .await;
    let uploaded = seen.values().filter(|(meta, _)| meta.level == 0);
    let merged = last_merged(seen.values());
    [
        uploaded.map(|(_, bytes)| bytes.clone()).collect(),
        merged.values().map(|(_, bytes)| bytes.clone()).collect(),
    ]
}

async fn row_of(name: &str, blocks: &[Bytes]) -> Row {
    let mut sum = Sum::default();
    for bytes in blocks {
        sum.add(&blocks::open(bytes.clone()).await);
    }
    Row {
        name: name.to_owned(),
        series: sum.series,
        samples: sum.samples,
        bytes: sum.bytes,
        index_bytes: sum.index_bytes(),
        note: format!("{} block(s)", sum.blocks),
        parts: sum.parts,
    }
}

fn keep(name: &str, blocks: &[Bytes]) {
    let folder = setting("KEEP", "");
    if folder.is_empty() {
        return;
    }
    std::fs::create_dir_all(&folder).expect("folder to keep blocks in");
    for (n, bytes) in blocks.iter().enumerate() {
        std::fs::write(Path::new(&folder).join(format!("{name}-{n}.gnb")), bytes).expect("a block");
    }
}

async fn run(set: &str, names: &[&'static str]) {
    let Some(data) = data_of(set).map(Arc::new) else {
        return;
    };
    let temporary = tempfile::tempdir().expect("temp folder");
    let (total, series) = (data.total(), data.series.len() as u64);
    println!("## {}: {series} series, {total} samples\n", data.name);
    let mut rows = Vec::new();
    let mut whole = None;
    // One after the other, so that each has the machine for itself.
    for name in names {
        let Some(mut server) = Server::new(name, temporary.path(), false) else {
            println!("skipped: no {name}\n");
            continue;
        };
        if server.is_gnomon() {
            for flag in [
                "--ingest.seal-quiet=1s",
                "--compactor.interval=2s",
                "--compactor.grace=60s",
            ] {
                server = server.with_flag(flag);
            }
        }
        let (process, _) = server.start(temporary.path()).await;
        let folder = temporary.path().join(name);
        data.write(std::slice::from_ref(&server.http)).await;
        if server.is_gnomon() {
            let [uploaded, merged] = gnomon_blocks(&folder, total).await;
            rows.push(row_of("gnomon, as uploaded", &uploaded).await);
            rows.push(row_of("gnomon, merged", &merged).await);
            keep(&format!("{set}-uploaded"), &uploaded);
            keep(&format!("{set}-merged"), &merged);
            whole = merged.into_iter().max_by_key(Bytes::len);
            continue;
        }
        let on_disk = if *name == "prometheus" {
            // Its head is cut when it spans enough time.
            let late = Data {
                name: String::new(),
                series: vec![Series {
                    labels: encoded(&[("__name__", "late")]),
                    samples: Samples::Made {
                        course: Course::Constant(1.0),
                        seed: 1,
                        alive: 0..1,
                        offset_ms: 1,
                        jitter_ms: 0,
                    },
                }],
                windows: 1,
                rounds: 1,
                step_ms: 1,
                start_ms: data.start_ms + data.windows as i64 * WINDOW_MS + SETTLED_MS - 1_000,
            };
            Arc::new(late).write(std::slice::from_ref(&server.http)).await;
            disk::prometheus(&folder, process.id(), total).await
        } else {
            disk::victoria_metrics(&server, &folder, process.id()).await
        };
        rows.push(Row {
            name: (*name).to_owned(),
            series: on_disk.series.unwrap_or(series),
            samples: total,
            bytes: on_disk.bytes,
            index_bytes: on_disk.index_bytes,
            note: on_disk.note,
            parts: Vec::new(),
        });
    }
    report::print(&rows);
    if let Some(block) = whole {
        let requests = blocks::ranges(block.clone()).await;
        report::print_speed(&blocks::speed(block).await, &requests);
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    // cargo passes --bench; there is nothing to choose.
    let names = wanted_servers();
    for set in ["real15", "real1", "fleet"] {
        if set.contains(&setting("ONLY", "")) {
            run(set, &names).await;
        }
    }
}
