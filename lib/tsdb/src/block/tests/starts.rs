//! Start timestamps of samples in blocks.

use super::*;
use crate::page::Starts;
use gnomon_model::ids::{BLOCK_EXTRAS_FEATURE_LEVEL, START_TIMES_FEATURE_LEVEL};

fn meta_of(level: FeatureLevel) -> BlockMeta {
    let mut meta = meta();
    meta.feature_level = level;
    meta
}

/// As [`example`], in which counters have the starts of their instances, some are reset, and gauges have none.
fn started() -> Vec<SeriesPages> {
    let mut series = example(4, 12);
    for (number, one) in series.iter_mut().enumerate() {
        let process = 1_000 + number as i64 % 12 * 60_000;
        let kind = number / 12;
        for page in &mut one.pages {
            let starts = match kind {
                0 => Starts::default(),
                1 => Starts::of((0..page.count).map(|_| process)),
                2 => Starts::of((0..page.count).map(|at| if at < 7 { process } else { process + 100_000 })),
                _ => Starts::of((0..page.count).map(|at| if at % 5 == 4 { 0 } else { -process })),
            };
            *page = page.clone().with_starts(&starts).unwrap();
        }
    }
    series
}

fn starts_of(series: &[SeriesPages]) -> Vec<Vec<i64>> {
    let all = series.iter().flat_map(|s| &s.pages);
    all.map(|page| page.starts().unwrap().iter(page.count).collect())
        .collect()
}

async fn all_of(reader: &Arc<BlockReader>) -> Vec<SeriesPages> {
    collect(reader.select(&[], i64::MIN, i64::MAX).await.unwrap())
        .await
        .unwrap()
}

/// As [`super::the_bytes_of_a_block_stay_as_they_are`], of a block with starts.
#[tokio::test]
async fn the_bytes_of_starts_stay_as_they_are() {
    let series = started();
    let block = write(meta_of(START_TIMES_FEATURE_LEVEL), &series).await;
    assert_eq!(block.meta.format_version, 5);
    assert_eq!(block.meta.stats.starts, 12 * (40 + 40 + 32));
    if std::env::var_os("GNOMON_WRITE_GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/block/golden_5.gnb");
        std::fs::write(path, &block.output).unwrap();
        return;
    }
    let golden = include_bytes!("../golden_5.gnb");
    assert!(
        block.output.as_ref() == golden,
        "the format changed: raise FORMAT_VERSION and keep reading the old one"
    );
    let reader = open(Bytes::from_static(golden)).await.unwrap();
    assert_eq!(reader.verify().await.unwrap().stats, block.meta.stats);
    let all = all_of(&reader).await;
    assert_eq!((decoded(&all), starts_of(&all)), (decoded(&series), starts_of(&series)));
    selection::selects_as_a_scan_does(&reader, &series).await;
}

#[tokio::test]
async fn starts_stay_through_merges_and_deletes() {
    let series = started();
    let block = write(meta_of(START_TIMES_FEATURE_LEVEL), &series).await;
    let reader = open(block.output).await.unwrap();
    let mut writer = BlockWriter::new(meta_of(START_TIMES_FEATURE_LEVEL), MemorySink::default()).thorough();
    for one in all_of(&reader).await {
        // The pages of a series become one, without what was deleted.
        let mut deleted = crate::Intervals::default();
        deleted.add(3 * 15_000, 5 * 15_000 - 1);
        let pages = crate::deletes::remove(one.pages, &deleted).unwrap();
        let pages = crate::merge_pages(vec![pages]).unwrap();
        assert_eq!(pages.iter().map(|page| page.count).collect::<Vec<_>>(), [38]);
        writer.add_series(one.labels.as_ref(), pages).await.unwrap();
    }
    let merged = writer.finish().await.unwrap();
    let reader = open(merged.output).await.unwrap();
    assert_eq!(reader.verify().await.unwrap().stats, merged.meta.stats);
    let expected = starts_of(&series);
    let expected = expected.chunks(2).map(|pages| {
        let mut all = pages.concat();
        all.drain(3..5);
        all
    });
    assert!(expected.eq(starts_of(&all_of(&reader).await)));
}

#[tokio::test]
async fn a_block_that_older_nodes_read_has_no_starts() {
    let series = started();
    let block = write(meta_of(BLOCK_EXTRAS_FEATURE_LEVEL), &series).await;
    assert_eq!((block.meta.format_version, block.meta.stats.starts), (4, 0));
    let plain: Vec<_> = example(4, 12);
    let same = write(meta_of(BLOCK_EXTRAS_FEATURE_LEVEL), &plain).await;
    assert!(block.output == same.output);
    let reader = open(block.output).await.unwrap();
    let all = all_of(&reader).await;
    assert_eq!(decoded(&all), decoded(&series));
    assert!(all.iter().flat_map(|s| &s.pages).all(|page| !page.has_starts()));
}

/// One byte a chunk where there are none; where all samples of a process have its start, less than a byte a series.
#[tokio::test]
async fn starts_take_next_to_nothing() {
    let with = |starts: bool| {
        let mut series = example(40, 25);
        for (number, one) in series.iter_mut().enumerate().filter(|_| starts) {
            let process = 1_700_000_000_000 + number as i64 % 25 * 61_234;
            for page in &mut one.pages {
                let all = Starts::of((0..page.count).map(|_| process));
                *page = page.clone().with_starts(&all).unwrap();
            }
        }
        series
    };
    let len = async |level, starts| write(meta_of(level), &with(starts)).await.bytes;
    let before = len(BLOCK_EXTRAS_FEATURE_LEVEL, false).await;
    let without = len(START_TIMES_FEATURE_LEVEL, false).await;
    let many = len(START_TIMES_FEATURE_LEVEL, true).await;
    assert!(without <= before + 16, "{without} {before}");
    assert!(many < without + 600, "{many} {without}");
}
