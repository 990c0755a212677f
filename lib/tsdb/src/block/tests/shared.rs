//! What pages of a block have alike: times of a target, values, constants; and the codings of both efforts.

use super::super::directory::{GROUP_BYTES, Stored, Times};
use super::*;
use crate::block::dictionary::ChunkLimits;
use crate::page::{Coding, Effort, HistogramPageBuilder};
use gnomon_model::STALE_NAN;
use gnomon_model::histogram::FloatHistogram;

const TARGETS: usize = 8;

/// Numbers that are the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Times of a target that is scraped each 15 s, late by some milliseconds.
fn scrapes(target: usize, count: i64) -> Vec<i64> {
    let mut random = Random(target as u64);
    let start = target as i64 * 100;
    (0..count)
        .map(|i| start + i * 15_000 + random.below(40) as i64)
        .collect()
}

fn xor_page(times: &[i64], values: &[f64]) -> Page {
    let mut builder = FloatPageBuilder::new();
    for (at, value) in times.iter().zip(values) {
        builder.append(*at, *value).unwrap();
    }
    builder.page().unwrap()
}

fn histograms(times: &[i64]) -> Page {
    let mut builder = HistogramPageBuilder::new();
    for (at, n) in times.iter().zip(0..) {
        let histogram = FloatHistogram {
            count: f64::from(n),
            zero_count: f64::from(n),
            sum: f64::from(n) / 2.0,
            ..FloatHistogram::default()
        };
        builder.append(*at, &histogram, true).unwrap();
    }
    builder.page().unwrap()
}

/// Metrics of some targets, each of another kind.
fn fleet(metrics: usize, count: i64) -> Vec<SeriesPages> {
    let mut series = Vec::new();
    for metric in 0..metrics {
        for target in 0..TARGETS {
            let mut random = Random((metric * 1000 + target) as u64);
            let mut times = scrapes(target, count);
            match metric % 7 {
                1 => drop(times.drain(..count as usize / 3)),
                2 => times.truncate(count as usize / 2),
                3 => drop(times.drain(20..24)),
                _ => {}
            }
            let mut sum = 0.0;
            let mut value = |at: usize| match metric % 9 {
                // The values of another metric of the same target, and such of the same chunk.
                0 | 8 => (at * at % 97 + target) as f64,
                1 => 3.25,
                2 => f64::from_bits(random.below(u64::MAX).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                3 => [f64::NAN, STALE_NAN, 0.125][usize::from(at > 5) + usize::from(at > 50)],
                4 => {
                    sum += random.below(1000) as f64 / 1000.0;
                    sum
                }
                5 => [f64::INFINITY, -0.0, f64::MIN_POSITIVE / 4.0][random.below(3) as usize],
                6 => 1e9 + random.below(3) as f64,
                _ => (at * 15_000) as f64 + random.below(20) as f64,
            };
            let values: Vec<f64> = (0..times.len()).map(&mut value).collect();
            let page = match metric % 10 {
                9 => histograms(&times),
                7 => xor_page(&times, &values),
                _ => Page::of_floats(&times, &values).unwrap(),
            };
            let labels = Labels::from_pairs([
                ("__name__", format!("metric_{metric:03}")),
                ("instance", format!("host-{target}:9100")),
            ]);
            series.push(SeriesPages {
                labels,
                pages: vec![page],
            });
        }
    }
    series.sort_by(|a, b| a.labels.cmp(&b.labels));
    series
}

/// With small chunks: there are several of them.
async fn written(series: &[SeriesPages], effort: Effort) -> Bytes {
    let limits = ChunkLimits {
        series: 256,
        ..ChunkLimits::default()
    };
    let mut writer = BlockWriter::new(meta(), MemorySink::default()).with_limits(limits);
    if effort == Effort::Thorough {
        writer = writer.thorough();
    }
    for s in series {
        writer.add_series(s.labels.as_ref(), s.pages.clone()).await.unwrap();
    }
    writer.finish().await.unwrap().output
}

async fn pages_len(reader: &BlockReader) -> u64 {
    reader.sections().next().unwrap().1
}

#[tokio::test]
async fn what_is_written_once_comes_back_to_each_series() {
    let series = fleet(60, 120);
    let mut last_len = u64::MAX;
    for effort in [Effort::Cheap, Effort::Thorough] {
        let reader = open(written(&series, effort).await).await.unwrap();
        let found = collect(reader.select(&[], i64::MIN, i64::MAX).await.unwrap())
            .await
            .unwrap();
        assert!(decoded(&found) == decoded(&series), "{effort:?}");
        assert_eq!(reader.verify().await.unwrap().stats, reader.meta().stats);
        // Each alone, of a part of the time.
        for s in series.iter().step_by(13) {
            let matchers: Vec<_> = s
                .labels
                .iter()
                .map(|(n, v)| Matcher::new(n, MatchOp::Equal, v).unwrap())
                .collect();
            let (start, end) = (s.pages[0].min_ts + 1, s.pages[0].max_ts - 1);
            let alone = collect(reader.select(&matchers, start, end).await.unwrap())
                .await
                .unwrap();
            assert!(decoded(&alone) == decoded(std::slice::from_ref(s)));
        }
        let len = pages_len(&reader).await;
        assert!(len < last_len, "{len} bytes with {effort:?}, {last_len} with less");
        last_len = len;
    }
}

/// The kinds of places that the rest of the tests relies on.
#[tokio::test]
async fn pages_share_times_and_values_near_and_far() {
    let reader = open(written(&fleet(60, 120), Effort::Thorough).await).await.unwrap();
    let mut kinds = [0; 6];
    let mut places = std::collections::HashSet::new();
    for (number, part) in reader.series_parts(&reader.chunks).await.unwrap().iter().enumerate() {
        let chunk = &reader.chunks[number];
        for at in (0..part.len()).flat_map(|at| part.pages_of(at)) {
            let shared = match at.stored {
                Stored::One(_) => 0,
                Stored::At(place) if places.insert((place.group, place.from)) => 1,
                Stored::At(place) if place.group >= chunk.pages_offset => 2,
                Stored::At(_) => 3,
            };
            kinds[shared] += 1;
            if let Times::Of(slice) = &at.times {
                kinds[4 + usize::from(!slice.is_whole())] += 1;
            }
            if let Some(place) = at.place() {
                assert!(
                    place.group_len < GROUP_BYTES + 2000,
                    "a read of one page reads {}",
                    place.group_len
                );
            }
        }
    }
    assert!(kinds.iter().all(|n| *n > 0), "{kinds:?}");
    assert_eq!(
        reader.times.iter().map(|chunk| chunk.columns).sum::<u32>(),
        TARGETS as u32
    );
    assert!(reader.chunks.len() > 1);
}

#[tokio::test]
async fn scrapes_that_are_late_cost_next_to_nothing_a_series() {
    let lens = |late: bool| async move {
        let mut series = fleet(40, 120);
        series.retain(|s| {
            s.pages
                .iter()
                .all(|page| page.coding.is_of_floats() && page.count == 120)
        });
        for page in series.iter_mut().flat_map(|s| &mut s.pages) {
            let (mut times, mut values) = (Vec::new(), Vec::new());
            crate::decode_into(&page.bytes, &mut times, &mut values).unwrap();
            if !late {
                times = (0..120).map(|i| i * 15_000).collect();
            }
            *page = Page::of_floats(&times, &values).unwrap();
        }
        // What is XORed has its times among its values.
        series.retain(|s| s.pages[0].coding == Coding::Columns);
        let reader = open(written(&series, Effort::Cheap).await).await.unwrap();
        (series.len() as u64, reader.len_bytes())
    };
    let ((series, even), (_, late)) = (lens(false).await, lens(true).await);
    let column = 200 * TARGETS as u64;
    assert!(
        late - even < column + 4 * series,
        "{series} series: {even} bytes, late {late}"
    );
}

/// Pages of version 3 with all their kinds; see [`the_bytes_of_a_block_stay_as_they_are`].
#[tokio::test]
async fn the_bytes_of_shared_columns_stay_as_they_are() {
    let series = fleet(40, 40);
    let block = written(&series, Effort::Thorough).await;
    let golden = include_bytes!("../golden_shared.gnb");
    if std::env::var_os("GNOMON_WRITE_GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/block/golden_shared.gnb");
        std::fs::write(path, &block).unwrap();
        return;
    }
    let reader = open(Bytes::from_static(golden)).await.unwrap();
    let found = collect(reader.select(&[], i64::MIN, i64::MAX).await.unwrap())
        .await
        .unwrap();
    assert!(decoded(&found) == decoded(&series), "what was written once can be read");
    assert!(
        block == golden[..],
        "the format changed: raise FORMAT_VERSION and keep reading the old one"
    );
}

#[tokio::test]
async fn damage_of_pages_names_the_block_and_the_place() {
    let block = written(&fleet(12, 60), Effort::Thorough).await;
    let len = pages_len(open(block.clone()).await.unwrap().as_ref()).await as usize;
    for at in (layout::HEADER_LEN..layout::HEADER_LEN + len).step_by(17) {
        let mut damaged = block.to_vec();
        damaged[at] ^= 0x10;
        let reader = open(damaged.into()).await.unwrap();
        let error = collect(reader.select(&[], i64::MIN, i64::MAX).await.unwrap())
            .await
            .unwrap_err();
        let text = error.to_string();
        let place = text
            .rsplit_once("at byte ")
            .and_then(|(_, byte)| byte.parse::<usize>().ok());
        assert!(
            text.contains("b.gnb") && place.is_some_and(|place| place <= at),
            "byte {at}: {text}"
        );
        assert!(text.contains("checksum"), "byte {at}: {text}");
    }
}

/// A page whose values are damaged though no checksum says so passes through a merge, and is told of where it is read.
#[tokio::test]
async fn a_page_that_cannot_be_decoded_is_kept_as_it_is() {
    let times: Vec<i64> = (0..60).map(|i| i * 15_000).collect();
    let values: Vec<f64> = (0..60).map(|i| f64::from(i * i % 17)).collect();
    let mut page = Page::of_floats(&times, &values).unwrap();
    page.bytes = page.bytes.slice(..page.bytes.len() - 3);
    assert!(page.decode().is_err());
    let labels = Labels::from_pairs([("__name__", "m")]);
    let series = [SeriesPages {
        labels,
        pages: vec![page],
    }];
    let reader = open(written(&series, Effort::Thorough).await).await.unwrap();
    let found = collect(reader.select(&[], i64::MIN, i64::MAX).await.unwrap())
        .await
        .unwrap();
    assert_eq!(found, series);
    assert!(matches!(reader.verify().await, Err(BlockError::Page { .. })));
}

/// What one series is read of: its part of the directory apart, a group and a chunk of times.
#[tokio::test]
async fn a_page_is_read_of_two_places_at_most() {
    let series = fleet(60, 120);
    let reader = open(written(&series, Effort::Thorough).await).await.unwrap();
    let pages = reader.footer.section(layout::Section::Pages).range();
    for part in reader.series_parts(&reader.chunks).await.unwrap() {
        // Errors alone would say whose they are.
        let labels = Labels::default();
        for at in (0..part.len()).flat_map(|n| part.pages_of(n)) {
            let ranges = reader.ranges_of(&[(&labels, at)]).unwrap();
            let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
            assert!(ranges.len() <= 2 && bytes <= 16 << 10, "{ranges:?}");
            assert!(
                ranges
                    .iter()
                    .all(|range| range.start >= pages.start && range.end <= pages.end)
            );
        }
    }
}

fn any_value() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => (0..50_u32).prop_map(f64::from),
        2 => any::<u64>().prop_map(f64::from_bits),
        1 => (0..5000_u32).prop_map(|n| f64::from(n) / 1000.0),
        1 => prop::sample::select(vec![STALE_NAN, f64::NAN, -0.0, 0.0, f64::INFINITY, f64::NEG_INFINITY, 5e-324]),
    ]
}

/// Series whose times are those of one of three targets, with some left out, and whose values recur.
fn any_series() -> impl Strategy<Value = Vec<SeriesPages>> {
    let column = prop::collection::vec((any_value(), 1..20_usize), 1..30).prop_map(|runs| {
        runs.into_iter()
            .flat_map(|(value, n)| std::iter::repeat_n(value, n))
            .collect::<Vec<_>>()
    });
    let holes = prop::collection::vec(0..200_usize, 0..4);
    let one = (0..3_usize, any::<prop::sample::Index>(), 0..60_usize, holes, 0..3_u8);
    (prop::collection::vec(column, 1..6), prop::collection::vec(one, 1..40)).prop_map(|(columns, series)| {
        let made = |(number, (target, column, skip, holes, kind)): (
            usize,
            (usize, prop::sample::Index, usize, Vec<usize>, u8),
        )| {
            let values = column.get(&columns);
            let mut times = scrapes(target, 200);
            let mut at = 0;
            times.retain(|_| {
                at += 1;
                at > skip && !holes.contains(&(at - 1))
            });
            times.truncate(values.len());
            let values = &values[..times.len()];
            let page = if kind == 0 {
                xor_page(&times, values)
            } else {
                Page::of_floats(&times, values).unwrap()
            };
            SeriesPages {
                labels: Labels::from_pairs([("__name__", format!("m{number:03}"))]),
                pages: vec![page],
            }
        };
        series.into_iter().enumerate().map(made).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_series_come_back(series in any_series(), is_thorough in any::<bool>()) {
        let effort = if is_thorough { Effort::Thorough } else { Effort::Cheap };
        block_on(async {
            let reader = open(written(&series, effort).await).await.unwrap();
            let found = collect(reader.select(&[], i64::MIN, i64::MAX).await.unwrap()).await.unwrap();
            assert!(decoded(&found) == decoded(&series));
            reader.verify().await.unwrap();
            // And once more, as the compactor copies them.
            let again = open(written(&found, Effort::Thorough).await).await.unwrap();
            let found = collect(again.select(&[], i64::MIN, i64::MAX).await.unwrap()).await.unwrap();
            assert!(decoded(&found) == decoded(&series));
        });
    }

    #[test]
    fn a_damaged_block_of_shared_columns_is_an_error_or_the_same(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..3),
    ) {
        let golden = include_bytes!("../golden_shared.gnb");
        let mut bytes = golden.to_vec();
        for (at, with) in &flips {
            let at = at.index(bytes.len());
            bytes[at] ^= with;
        }
        let found = block_on(async {
            let reader = open(bytes.clone().into()).await?;
            collect(reader.select(&[], i64::MIN, i64::MAX).await?).await
        });
        if let Ok(found) = found {
            prop_assert!(decoded(&found) == decoded(&fleet(40, 40)));
        }
        let verified = block_on(async { open(bytes.clone().into()).await?.verify().await });
        prop_assert_eq!(verified.is_ok(), bytes == golden);
    }
}

/// Directories that are sound by their checksum and wrong otherwise.
#[test]
fn a_forged_directory_never_panics() {
    let golden = include_bytes!("../golden_shared.gnb");
    let reader = block_on(open(Bytes::from_static(golden))).unwrap();
    let chunk = reader.chunks[1];
    let range = chunk.directory.range();
    let raw = chunk
        .directory
        .open(&golden[range.start as usize..range.end as usize])
        .unwrap();
    let begin = reader.footer.section(layout::Section::Pages).offset;
    let sound = directory::read(&raw, &chunk, begin, false).unwrap();
    let mut others = 0;
    for at in 0..raw.len() {
        for with in [0x01, 0x90] {
            let mut forged = raw.clone();
            forged[at] ^= with;
            let Some(pages) = directory::read(&forged, &chunk, begin, false) else {
                continue;
            };
            others += usize::from(pages != sound);
            let labels = Labels::from_pairs([("a", "b")]);
            let all: Vec<_> = pages.iter().flatten().map(|at| (&labels, at)).collect();
            let Ok(fetched) = block_on(reader.fetch_parts(&all)) else {
                continue;
            };
            let mut whole = pages::Pages::new(&reader, fetched, &all);
            if all.iter().try_for_each(|(labels, at)| whole.add(at, labels)).is_ok() {
                whole.finish().for_each(|page| drop(page.decode()));
            }
        }
    }
    assert!(others > 50, "{others} forged directories were read");
}
