mod selection;

use super::*;
use crate::SeriesPages;
use crate::page::{FloatPageBuilder, HistogramSample, Page, PageSamples};
use bytes::Bytes;
use gnomon_model::{BlockId, ClusterId, Labels, MatchOp, Matcher, PartId, ShardId, TenantId, TimeRange, TimestampMs};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use proptest::prelude::*;
use std::sync::Arc;

mod shared;
mod starts;

const HOUR_MS: i64 = 3_600_000;

pub(crate) fn meta() -> BlockMeta {
    let window = TimeRange::new(TimestampMs(0), TimestampMs(2 * HOUR_MS));
    let mut meta = BlockMeta::new(BlockId(7), ClusterId(1), TenantId::anonymous(), ShardId(3), window);
    meta.parts = vec![PartId {
        shard: ShardId(3),
        number: 1,
    }];
    meta
}

pub(crate) fn page(start_ms: i64, values: impl IntoIterator<Item = f64>) -> Page {
    let mut builder = FloatPageBuilder::new();
    for (i, value) in values.into_iter().enumerate() {
        builder.append(start_ms + i as i64 * 15_000, value).unwrap();
    }
    builder.page().unwrap()
}

/// Of each series and page what it begins with, and the samples, to the bit: a block has them in a coding of its own.
pub(crate) fn decoded(series: &[SeriesPages]) -> Vec<(Labels, Vec<Decoded>)> {
    let one = |page: &Page| Decoded {
        times: (page.count, page.min_ts, page.max_ts),
        samples: match page.decode().unwrap() {
            PageSamples::Floats { timestamps, values } => {
                let bits = values.iter().map(|value| value.to_bits());
                timestamps.into_iter().zip(bits).collect()
            }
            PageSamples::Histograms(samples) => {
                let one =
                    |s: &HistogramSample| (s.timestamp_ms, s.histogram.sum.to_bits() ^ s.histogram.count.to_bits());
                samples.iter().map(one).collect()
            }
        },
    };
    let all = series.iter();
    all.map(|s| (s.labels.clone(), s.pages.iter().map(one).collect()))
        .collect()
}

#[derive(Debug, PartialEq)]
pub(crate) struct Decoded {
    times: (u32, i64, i64),
    samples: Vec<(i64, u64)>,
}

/// `metrics` names times `instances`, two pages each; every third series has a label more.
fn example(metrics: usize, instances: usize) -> Vec<SeriesPages> {
    let mut series = Vec::new();
    for m in 0..metrics {
        for i in 0..instances {
            let name = format!("metric_{m}");
            let instance = format!("host-{i}:9100");
            let mode = if (m + i) % 3 == 0 { "idle" } else { "" };
            let labels = Labels::from_pairs([
                ("__name__", name.as_str()),
                ("instance", &instance),
                ("job", if i % 2 == 0 { "node" } else { "other" }),
                ("mode", mode),
            ]);
            let value = (m * 1000 + i) as f64;
            let pages = vec![
                page(0, [value; 20]),
                page(HOUR_MS, (0..20).map(|k| value + f64::from(k))),
            ];
            series.push(SeriesPages { labels, pages });
        }
    }
    series.sort_by(|a, b| a.labels.cmp(&b.labels));
    series
}

pub(crate) async fn write(meta: BlockMeta, series: &[SeriesPages]) -> FinishedBlock<Bytes> {
    let mut writer = BlockWriter::new(meta, MemorySink::default());
    for s in series {
        writer.add_series(s.labels.as_ref(), s.pages.clone()).await.unwrap();
    }
    writer.finish().await.unwrap()
}

pub(crate) async fn open(bytes: Bytes) -> Result<Arc<BlockReader>, BlockError> {
    let store = Arc::new(InMemory::new());
    let path = Path::from("b.gnb");
    store.put(&path, PutPayload::from(bytes)).await.unwrap();
    BlockReader::open(store, path).await.map(Arc::new)
}

pub(crate) async fn collect(mut selection: Selection) -> Result<Vec<SeriesPages>, BlockError> {
    let mut out = Vec::new();
    while let Some(series) = selection.next().await? {
        out.push(series);
    }
    Ok(out)
}

#[tokio::test]
async fn only_pages_that_overlap_the_range_come() {
    let block = write(meta(), &example(2, 3)).await;
    let reader = open(block.output).await.unwrap();
    for (start, end, pages) in [
        (0, 0, 1),
        (HOUR_MS - 1, HOUR_MS - 1, 0),
        (HOUR_MS, HOUR_MS, 1),
        (19 * 15_000, HOUR_MS, 2),
    ] {
        let found = collect(reader.select(&[], start, end).await.unwrap()).await.unwrap();
        assert_eq!(found.len(), if pages == 0 { 0 } else { 6 });
        assert!(found.iter().all(|s| s.pages.len() == pages));
    }
    assert!(!reader.overlaps(2 * HOUR_MS, i64::MAX) && !reader.overlaps(i64::MIN, -1));
}

#[tokio::test]
async fn a_sound_block_verifies_and_an_empty_one_too() {
    for series in [example(5, 300), Vec::new()] {
        let block = write(meta(), &series).await;
        let report = open(block.output).await.unwrap().verify().await.unwrap();
        assert_eq!((report.stats, report.bytes), (block.meta.stats, block.bytes));
    }
}

#[tokio::test]
async fn series_and_pages_in_the_wrong_order_or_window_are_refused() {
    let labels = |n: &str| Labels::from_pairs([("__name__", n)]);
    let mut writer = BlockWriter::new(meta(), MemorySink::default());
    writer.add_series(labels("b").as_ref(), [page(0, [1.0])]).await.unwrap();
    for name in ["a", "b"] {
        let error = writer
            .add_series(labels(name).as_ref(), [page(0, [1.0])])
            .await
            .unwrap_err();
        assert!(matches!(error, BlockError::Unsorted { .. }), "{error}");
    }
    for pages in [
        vec![page(0, [1.0, 2.0]), page(15_000, [1.0])],
        vec![page(2 * HOUR_MS, [1.0])],
        vec![page(-1, [1.0])],
    ] {
        let error = writer.add_series(labels("c").as_ref(), pages).await.unwrap_err();
        assert!(matches!(error, BlockError::BadSeries { .. }), "{error}");
    }
}

#[tokio::test]
async fn an_upload_in_parts_is_the_same_object() {
    let store = Arc::new(InMemory::new());
    let path = Path::from("x/y.gnb");
    let mut writer = BlockWriter::new(meta(), UploadSink::new(store.clone(), path.clone()));
    let mut sum = 0;
    // Incompressible values: more than two parts.
    let mut state = 1_u64;
    for i in 0..500 {
        let labels = Labels::from_pairs([("__name__", format!("m{i:05}"))]);
        let values: Vec<f64> = (0..5000)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                f64::from_bits(state)
            })
            .collect();
        let mut builder = FloatPageBuilder::new();
        for (k, v) in values.iter().enumerate() {
            builder.append(k as i64, *v).unwrap();
        }
        sum += values.len() as u64;
        writer.add_series(labels.as_ref(), builder.page()).await.unwrap();
    }
    let block = writer.finish().await.unwrap();
    assert!(block.bytes > 16 << 20);
    let reader = BlockReader::open(store, path).await.unwrap();
    assert_eq!(reader.verify().await.unwrap().stats.samples, sum);
}

/// The meaning of every byte is fixed: a change needs another format version.
#[tokio::test]
async fn the_bytes_of_a_block_stay_as_they_are() {
    let block = write(meta(), &example(3, 12)).await;
    let golden = include_bytes!("golden.gnb");
    if std::env::var_os("GNOMON_WRITE_GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/block/golden.gnb");
        std::fs::write(path, &block.output).unwrap();
        return;
    }
    let same = block.output.iter().zip(golden).take_while(|(a, b)| a == b).count();
    assert!(
        block.output.as_ref() == golden,
        "the format changed at byte {same} of {}: raise FORMAT_VERSION and keep reading the old one",
        golden.len()
    );
    // Those of older versions are read too.
    for golden in [
        &golden[..],
        include_bytes!("golden_2.gnb"),
        include_bytes!("golden_1.gnb"),
    ] {
        let reader = open(Bytes::from_static(golden)).await.unwrap();
        assert_eq!(
            decoded(&collect(reader.select(&[], 0, i64::MAX).await.unwrap()).await.unwrap()),
            decoded(&example(3, 12))
        );
        assert_eq!(reader.verify().await.unwrap().stats, block.meta.stats);
        selection::selects_as_a_scan_does(&reader, &example(3, 12)).await;
    }
}

/// As [`the_bytes_of_a_block_stay_as_they_are`], of a block with exemplars and metadata.
#[tokio::test]
async fn the_bytes_of_exemplars_and_metadata_stay_as_they_are() {
    let mut meta = meta();
    meta.feature_level = gnomon_model::ids::BLOCK_EXTRAS_FEATURE_LEVEL;
    let mut writer = BlockWriter::new(meta, MemorySink::default());
    let series = example(3, 12);
    for s in &series {
        writer.add_series(s.labels.as_ref(), s.pages.clone()).await.unwrap();
    }
    let exemplar = |at: i64, value: f64| Exemplar {
        timestamp_ms: at,
        value,
        labels: Labels::from_pairs([
            ("span_id", format!("{at:x}")),
            ("trace_id", format!("{:032x}", at * 7919)),
        ]),
    };
    let with_exemplars = series.iter().step_by(5).map(|s| SeriesExemplars {
        labels: s.labels.clone(),
        exemplars: (0..6).map(|i| exemplar(i * i * 60_000 + 17, i as f64 / 3.0)).collect(),
    });
    let with_exemplars: Vec<_> = with_exemplars.collect();
    for s in &with_exemplars {
        writer.add_exemplars(s.labels.as_ref(), s.exemplars.clone()).unwrap();
    }
    let known = |metric: &str| MetricMetadata {
        at_ms: 2 * HOUR_MS - 1,
        kind: "gauge".to_owned(),
        unit: "seconds".to_owned(),
        help: format!("What {metric} is."),
    };
    for metric in ["metric_0", "metric_2", "none"] {
        writer.add_metadata(metric, known(metric));
    }
    let block = writer.finish().await.unwrap();
    if std::env::var_os("GNOMON_WRITE_GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/block/golden_4.gnb");
        std::fs::write(path, &block.output).unwrap();
        return;
    }
    let golden = include_bytes!("golden_4.gnb");
    let same = block.output.iter().zip(golden).take_while(|(a, b)| a == b).count();
    assert!(
        block.output.as_ref() == golden,
        "the format changed at byte {same} of {}: raise FORMAT_VERSION and keep reading the old one",
        golden.len()
    );
    let reader = open(Bytes::from_static(golden)).await.unwrap();
    assert_eq!(reader.verify().await.unwrap().stats, block.meta.stats);
    let all = collect(reader.select(&[], 0, i64::MAX).await.unwrap()).await.unwrap();
    assert_eq!(decoded(&all), decoded(&series));
    let mut found = reader.exemplars(ExemplarFilter::default()).await.unwrap();
    for expected in with_exemplars {
        assert_eq!(found.next().await.unwrap(), Some(expected));
    }
    assert_eq!(found.next().await.unwrap(), None);
    let expected = ["metric_0", "metric_2"].map(|metric| (metric.to_owned(), known(metric)));
    assert_eq!(reader.metadata(None).await.unwrap(), expected);
}

/// A build that is older than the block says so.
#[tokio::test]
async fn a_block_of_a_newer_version_is_a_clear_error() {
    let mut bytes = include_bytes!("golden_4.gnb").to_vec();
    let footer = layout::Footer::read(&bytes, bytes.len() as u64).unwrap();
    bytes.truncate(bytes.len() - layout::FOOTER_LEN);
    let newer = layout::Footer {
        version: FORMAT_VERSION + 1,
        ..footer
    };
    bytes.extend(newer.write());
    let error = open(bytes.into()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "block b.gnb has format version 6, this build reads up to 5"
    );
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}

/// A block with the same samples, as each version has them.
fn golden(version: u32) -> &'static [u8] {
    match version {
        2 => include_bytes!("golden_2.gnb"),
        3 => include_bytes!("golden.gnb"),
        _ => include_bytes!("golden_4.gnb"),
    }
}

async fn read_all(bytes: Bytes) -> Result<Vec<SeriesPages>, BlockError> {
    let reader = open(bytes).await?;
    let matchers = [Matcher::new("instance", MatchOp::NotRegex, "x").unwrap()];
    let found = collect(reader.select(&matchers, i64::MIN, i64::MAX).await?).await?;
    reader.label_names(&[]).await?;
    reader.label_values("instance", &matchers).await?;
    reader.metadata(None).await?;
    let mut exemplars = reader.exemplars(ExemplarFilter::default()).await?;
    while exemplars.next().await?.is_some() {}
    for page in found.iter().flat_map(|s| &s.pages) {
        page.decode().map_err(|_| reader.damaged("page"))?;
    }
    Ok(found)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn a_damaged_block_is_an_error_or_the_same_data(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 0..3),
        cut in prop::option::of(any::<prop::sample::Index>()), version in 2..=4_u32,
    ) {
        let golden = golden(version);
        let mut bytes = golden.to_vec();
        for (at, with) in &flips {
            let at = at.index(bytes.len());
            bytes[at] ^= with;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(found) = block_on(read_all(bytes.clone().into())) {
            prop_assert!(decoded(&found) == decoded(&example(3, 12)));
        }
        let verified = block_on(async { open(bytes.clone().into()).await?.verify().await });
        // The header is compared by verify only; everything else is under a checksum.
        prop_assert_eq!(verified.is_ok(), bytes == golden);
    }
}

proptest! {
    /// Footers that are sound by their checksum and wrong otherwise.
    #[test]
    fn forged_tables_never_panic(
        section in 0..layout::SECTIONS, at in any::<prop::sample::Index>(), with in 1..=255_u8, version in 2..=4_u32,
    ) {
        let golden = golden(version);
        let mut bytes = golden.to_vec();
        let len = bytes.len() as u64;
        let mut footer = layout::Footer::read(&bytes, len).unwrap();
        let range = footer.sections[section].range();
        if range.is_empty() {
            return Ok(());
        }
        let at = range.start as usize + at.index((range.end - range.start) as usize);
        bytes[at] ^= with;
        footer.sections[section].crc = crc32c::crc32c(&bytes[range.start as usize..range.end as usize]);
        let start = bytes.len() - layout::FOOTER_LEN;
        bytes.truncate(start);
        bytes.extend(footer.write());
        let _ = block_on(read_all(bytes.clone().into()));
        let _ = block_on(async { open(bytes.into()).await?.verify().await });
    }
}
