//! The reader of Prometheus' blocks: chunks of all encodings, and a good block's files with bytes changed. Checksums are not
//! looked at where a fuzzer builds the crates (`cfg(fuzzing)`).
#![no_main]

use gnomon_model::{Labels, TimeRange, TimestampMs};
use gnomon_tsdb::page::{PageSamples, Starts};
use gnomon_tsdb::prometheus::{TsdbBlock, TsdbError, TsdbWriter, Ulid, decode_chunk};
use libfuzzer_sys::fuzz_target;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const FILES: [&str; 3] = ["index", "chunks/000001", "tombstones"];

/// A good block of a few series in a folder of this process, and its files.
fn good() -> &'static (PathBuf, Vec<Vec<u8>>) {
    static BLOCK: OnceLock<(PathBuf, Vec<Vec<u8>>)> = OnceLock::new();
    BLOCK.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("gnomon-fuzz-tsdb-{}", std::process::id()));
        let symbols = ["__name__", "m", "n", "0", "1", "2"].map(str::to_owned).into();
        let mut writer = TsdbWriter::create(&folder, Ulid::new(1, 1), &symbols).expect("a folder");
        for n in 0..3_i64 {
            let labels = Labels::from_pairs([("__name__", "m".to_owned()), ("n", n.to_string())]);
            let samples = PageSamples::Floats {
                timestamps: (0..130).map(|i| i * 15_000 + n).collect(),
                values: (0..130).map(|i| (i * n) as f64 / 3.0).collect(),
            };
            let starts = Starts::of((0..130).map(|i| if n == 1 { i / 50 * 700_000 } else { 0 }));
            writer.add_series(labels.as_ref(), &[(samples, starts)]).expect("a series");
        }
        let block = writer.finish(0, 7_200_000).expect("a block").folder;
        let files = FILES.map(|name| std::fs::read(block.join(name)).expect("a file"));
        (block, files.into())
    })
}

fn read(folder: &Path) -> Result<(), TsdbError> {
    let mut block = TsdbBlock::open(folder)?;
    let window = TimeRange::new(TimestampMs(0), TimestampMs(i64::MAX));
    let mut from = None;
    while let Some((at, _, next)) = block.next_series(from)? {
        let _ = block.pages(at, window, &mut |_| true);
        from = Some(next);
    }
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    if kind % 8 < 6 {
        let _ = decode_chunk(kind % 8, rest);
        return;
    }
    // Changes of a file of a good block: place (two bytes) and value.
    let (folder, files) = good();
    let which = usize::from(kind / 8) % FILES.len();
    let mut file = files[which].clone();
    let length = file.len();
    for change in rest.as_chunks::<3>().0 {
        file[usize::from(u16::from_le_bytes([change[0], change[1]])) % length] = change[2];
    }
    let path = folder.join(FILES[which]);
    std::fs::write(&path, &file).expect("a file");
    let _ = read(folder);
    std::fs::write(&path, &files[which]).expect("a file");
});
