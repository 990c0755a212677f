//! What is written is read back; what is damaged is said to be, and where.

use super::chunk::{encode_floats, encode_histograms};
use super::*;
use crate::page::{HistogramSample, PageSamples, Starts};
use gnomon_model::histogram::{CUSTOM_BUCKETS_SCHEMA, FloatHistogram, ResetHint, Span};
use gnomon_model::{Labels, TimeRange, TimestampMs};
use proptest::prelude::*;

fn floats(samples: &[(i64, f64)]) -> PageSamples {
    let (timestamps, values) = samples.iter().copied().unzip();
    PageSamples::Floats { timestamps, values }
}

fn samples_of(samples: &PageSamples) -> Vec<(i64, u64)> {
    match samples {
        PageSamples::Floats { timestamps, values } => {
            let values = values.iter().map(|value| value.to_bits());
            timestamps.iter().copied().zip(values).collect()
        }
        PageSamples::Histograms(_) => panic!("floats"),
    }
}

fn histogram(time: i64, is_integer: bool, counts: &[f64], hint: ResetHint) -> HistogramSample {
    let (above, below) = counts.split_at(counts.len() / 2);
    HistogramSample {
        timestamp_ms: time,
        is_integer,
        histogram: FloatHistogram {
            reset_hint: hint,
            schema: 3,
            zero_threshold: 2_f64.powi(-128),
            zero_count: 2.0,
            count: counts.iter().sum::<f64>() + 2.0,
            sum: counts.iter().sum::<f64>() * 1.7,
            positive_spans: vec![
                Span { offset: -3, length: 1 },
                Span {
                    offset: 4,
                    length: above.len() as u32 - 1,
                },
            ],
            negative_spans: vec![Span {
                offset: 2,
                length: below.len() as u32,
            }],
            positive_buckets: above.to_vec(),
            negative_buckets: below.to_vec(),
            custom_values: Vec::new(),
        },
    }
}

fn decoded(chunks: &[chunk::Chunk]) -> Vec<HistogramSample> {
    let mut out = Vec::new();
    for chunk in chunks {
        match decode_chunk(chunk.encoding, &chunk.data).unwrap() {
            PageSamples::Histograms(all) => out.extend(all),
            PageSamples::Floats { .. } => panic!("histograms"),
        }
    }
    out
}

/// Without hints: they are the chunks' business.
fn plain(mut samples: Vec<HistogramSample>) -> String {
    for sample in &mut samples {
        sample.histogram.reset_hint = ResetHint::Unknown;
    }
    format!("{samples:?}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn floats_are_read_as_they_were_written(
        first in any::<i64>(),
        rest in prop::collection::vec((prop_oneof![Just(15_000_i64), 1..40_000_i64, 1..1_i64 << 40], any::<u64>(), any::<bool>()), 0..300),
    ) {
        let mut samples = vec![(first / 2, 1.5)];
        for (spacing, value, same) in rest {
            let (last, before) = *samples.last().unwrap();
            samples.push((last + spacing, if same { before } else { f64::from_bits(value) }));
        }
        let page = floats(&samples);
        let (timestamps, values): (Vec<_>, Vec<_>) = samples.iter().copied().unzip();
        let mut found = Vec::new();
        for chunk in encode_floats(&timestamps, &values, &[], 120) {
            prop_assert!(chunk.samples <= 120);
            found.extend(samples_of(&decode_chunk(chunk.encoding, &chunk.data).unwrap()));
        }
        prop_assert_eq!(found, samples_of(&page));
    }

    #[test]
    fn histograms_are_read_as_they_were_written(
        is_integer in any::<bool>(),
        is_gauge in any::<bool>(),
        all in prop::collection::vec((prop::collection::vec(0..5000_u32, 6), 2..5_usize, 1..100_000_i64), 1..60),
    ) {
        let mut time = -5;
        let mut samples = Vec::new();
        for (counts, width, spacing) in all {
            time += spacing;
            let scale = if is_integer { 1.0 } else { 0.37 };
            let counts: Vec<f64> = counts.iter().take(width + 2).map(|count| f64::from(*count) * scale).collect();
            let hint = if is_gauge { ResetHint::Gauge } else { ResetHint::Unknown };
            samples.push(histogram(time, is_integer, &counts, hint));
        }
        let chunks = encode_histograms(&samples, None, 120).unwrap();
        let found = decoded(&chunks);
        // Where a counter fell, the next chunk says so.
        if !is_gauge {
            for (pair, read) in samples.windows(2).zip(&found[1..]) {
                let is_reset = pair[1].histogram.is_reset_after(&pair[0].histogram);
                prop_assert_eq!(read.histogram.reset_hint == ResetHint::Reset, is_reset);
            }
        }
        prop_assert_eq!(plain(found), plain(samples));
    }

    #[test]
    fn no_bytes_make_decoders_panic(encoding in 0..6_u8, data in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_chunk(encoding, &data);
        let _ = tombstones::Tombstones::parse(&data);
    }
}

#[test]
fn bounds_resets_and_stale_markers_of_histograms_survive() {
    let bounds = |time, count: f64| HistogramSample {
        timestamp_ms: time,
        is_integer: true,
        histogram: FloatHistogram {
            schema: CUSTOM_BUCKETS_SCHEMA,
            count,
            sum: 3.5,
            positive_spans: vec![Span { offset: 0, length: 3 }],
            positive_buckets: vec![count, 0.0, 0.0],
            custom_values: vec![0.005, 0.1 + 0.2, 1e9],
            ..FloatHistogram::default()
        },
    };
    let stale = |time| HistogramSample {
        timestamp_ms: time,
        is_integer: true,
        histogram: FloatHistogram {
            sum: gnomon_model::STALE_NAN,
            ..FloatHistogram::default()
        },
    };
    let samples = vec![
        bounds(1, 5.0),
        bounds(2, 7.0),
        stale(3),
        stale(4),
        bounds(5, 9.0),
        bounds(6, 8.0),
    ];
    let chunks = encode_histograms(&samples, None, 120).unwrap();
    assert_eq!(chunks.iter().map(|chunk| chunk.samples).collect::<Vec<_>>(), [4, 1, 1]);
    let found = decoded(&chunks);
    let hints: Vec<_> = found.iter().map(|sample| sample.histogram.reset_hint).collect();
    assert_eq!(
        hints,
        [
            ResetHint::Unknown,
            ResetHint::NotReset,
            ResetHint::Unknown,
            ResetHint::Unknown,
            ResetHint::Unknown,
            ResetHint::Reset
        ]
    );
    assert_eq!(plain(found), plain(samples));
}

/// Series `m{n="…"}`, of floats or histograms, with `count` samples each, a minute apart from 0 on.
fn write_block(folder: &std::path::Path, series: usize, count: i64) -> WrittenBlock {
    let symbols = ["__name__", "m", "n"]
        .into_iter()
        .map(str::to_owned)
        .chain((0..series).map(|n| format!("{n:04}")));
    let mut writer = TsdbWriter::create(folder, Ulid::new(1, 7), &symbols.collect()).unwrap();
    for n in 0..series {
        let labels = Labels::from_pairs([("__name__", "m".to_owned()), ("n", format!("{n:04}"))]);
        let pages = if n % 3 == 2 {
            let one = |i: i64| histogram(i * 60_000, true, &[i as f64, 1.0, 2.0, 3.0], ResetHint::Unknown);
            vec![PageSamples::Histograms((0..count).map(one).collect())]
        } else {
            vec![floats(
                &(0..count)
                    .map(|i| (i * 60_000, (i * n as i64) as f64))
                    .collect::<Vec<_>>(),
            )]
        };
        let pages: Vec<_> = pages.into_iter().map(|page| (page, Starts::default())).collect();
        writer.add_series(labels.as_ref(), &pages).unwrap();
    }
    writer.finish(0, 7_200_000).unwrap()
}

fn everything(folder: &std::path::Path, window: TimeRange) -> Result<Vec<(Labels, u64)>, TsdbError> {
    let mut block = TsdbBlock::open(folder)?;
    let (mut out, mut from) = (Vec::new(), None);
    while let Some((at, labels, next)) = block.next_series(from)? {
        let pages = block.pages(at, window, &mut |_| false)?;
        out.push((labels, pages.iter().map(|page| u64::from(page.count)).sum()));
        from = Some(next);
    }
    Ok(out)
}

const ALL: TimeRange = TimeRange::new(TimestampMs(i64::MIN), TimestampMs(i64::MAX));

#[test]
fn a_block_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let written = write_block(folder.path(), 300, 500);
    assert_eq!((written.stats.num_series, written.stats.num_samples), (300, 150_000));
    assert_eq!(
        &blocks_below(folder.path()).unwrap()[..],
        std::slice::from_ref(&written.folder)
    );
    let found = everything(&written.folder, ALL).unwrap();
    assert_eq!(found.len(), 300);
    assert!(found.iter().all(|(_, samples)| *samples == 500));
    assert!(found.is_sorted_by(|a, b| a.0 < b.0));
    // Half-open.
    let window = TimeRange::new(TimestampMs(60_000), TimestampMs(600_000));
    assert!(
        everything(&written.folder, window)
            .unwrap()
            .iter()
            .all(|(_, samples)| *samples == 9)
    );
}

#[test]
fn tombstones_and_thanos_labels_are_applied() {
    let folder = tempfile::tempdir().unwrap();
    let written = write_block(folder.path(), 4, 100);
    let mut block = TsdbBlock::open(&written.folder).unwrap();
    let (first, ..) = block.next_series(None).unwrap().unwrap();
    let mut stones = Vec::new();
    // The first series: minutes 10 to 19, both inclusive.
    gnomon_model::labels::put_uvarint(&mut stones, first.0 / 16);
    gnomon_model::labels::put_uvarint(&mut stones, bits::zigzag(600_000));
    gnomon_model::labels::put_uvarint(&mut stones, bits::zigzag(19 * 60_000));
    let crc = crc32c::crc32c(&stones).to_be_bytes();
    let file = [&0x0130_BA30_u32.to_be_bytes()[..], &[1], &stones, &crc].concat();
    std::fs::write(written.folder.join("tombstones"), &file).unwrap();
    let meta = std::fs::read_to_string(written.folder.join("meta.json")).unwrap();
    let thanos = r#"{"thanos": {"labels": {"a": "1", "replica": "r0", "__org_id__": "x"}, "downsample": {"resolution": 0}, "source": "sidecar"},"#;
    std::fs::write(written.folder.join("meta.json"), meta.replacen('{', thanos, 1)).unwrap();
    let found = everything(&written.folder, ALL).unwrap();
    assert_eq!(found[0].1, 90);
    assert!(found[1..].iter().all(|(_, samples)| *samples == 100));
    assert_eq!(
        found[3].0,
        Labels::from_pairs([("__name__", "m"), ("a", "1"), ("n", "0003"), ("replica", "r0")])
    );
    let downsampled = meta.replacen('{', r#"{"thanos": {"downsample": {"resolution": 300000}},"#, 1);
    std::fs::write(written.folder.join("meta.json"), downsampled).unwrap();
    let error = TsdbBlock::open(&written.folder).unwrap_err().to_string();
    assert!(error.contains("meta.json") && error.contains("resolution 0"), "{error}");
}

/// Every byte of every file, changed: an error that names the file, or no difference.
#[test]
fn damage_is_found_and_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let written = write_block(folder.path(), 3, 5);
    let good = everything(&written.folder, ALL).unwrap();
    for name in ["index", "chunks/000001", "tombstones"] {
        let file = written.folder.join(name);
        let bytes = std::fs::read(&file).unwrap();
        let mut found = 0;
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x41;
            std::fs::write(&file, &bad).unwrap();
            match everything(&written.folder, ALL) {
                Ok(same) => assert_eq!(same, good, "{name}, byte {at}"),
                Err(error) => {
                    found += 1;
                    assert!(error.to_string().contains(name), "{name}, byte {at}: {error}");
                }
            }
        }
        // Postings and padding are not read.
        assert!(found > bytes.len() / 4, "{name}: {found} of {}", bytes.len());
        std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
        assert!(everything(&written.folder, ALL).is_err(), "{name} cut short");
        std::fs::write(&file, &bytes).unwrap();
    }
    assert_eq!(everything(&written.folder, ALL).unwrap(), good);
}

#[test]
fn a_block_whose_meta_is_missing_or_impossible_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let written = write_block(folder.path(), 3, 5);
    let file = written.folder.join("meta.json");
    let mut meta = TsdbMeta::read(&written.folder).unwrap();
    meta.max_time = i64::MAX;
    std::fs::write(&file, serde_json::to_vec(&meta).unwrap()).unwrap();
    let error = TsdbMeta::read(&written.folder).unwrap_err();
    assert!(
        error.is_damage() && error.to_string().contains("which none does"),
        "{error}"
    );
    std::fs::remove_file(&file).unwrap();
    let found = blocks_below(folder.path()).unwrap();
    assert_eq!(found, std::slice::from_ref(&written.folder), "not passed over");
    let error = TsdbMeta::read(&found[0]).unwrap_err();
    assert!(
        error.is_damage() && error.to_string().contains("it is missing"),
        "{error}"
    );
}

#[test]
fn a_damaged_chunk_can_be_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let written = write_block(folder.path(), 1, 300);
    let file = written.folder.join("chunks/000001");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[20] ^= 1;
    std::fs::write(&file, &bytes).unwrap();
    let mut block = TsdbBlock::open(&written.folder).unwrap();
    let (at, ..) = block.next_series(None).unwrap().unwrap();
    let error = block.pages(at, ALL, &mut |_| false).unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("at byte 9"), "{error}");
    let pages = block.pages(at, ALL, &mut |error| error.is_damage()).unwrap();
    assert_eq!(pages.iter().map(|page| page.count).sum::<u32>(), 180);
}

/// Chunks that lie over each other, as Prometheus' vertical compaction leaves none but Thanos' does.
#[test]
fn chunks_may_overlap() {
    let folder = tempfile::tempdir().unwrap();
    let symbols = ["a", "b"].into_iter().map(str::to_owned).collect();
    let mut writer = TsdbWriter::create(folder.path(), Ulid::new(1, 7), &symbols).unwrap();
    let pages = |from: i64| floats(&(from..from + 120).map(|i| (i * 10, i as f64)).collect::<Vec<_>>());
    let labels = Labels::from_pairs([("a", "b")]);
    let starts = |from: i64| Starts::of((from..from + 120).map(|i| if i < 90 { 0 } else { -7 }));
    let pages = [0, 60].map(|from| (pages(from), starts(from)));
    writer.add_series(labels.as_ref(), &pages).unwrap();
    let written = writer.finish(0, 10_000).unwrap();
    let mut block = TsdbBlock::open(&written.folder).unwrap();
    let (at, ..) = block.next_series(None).unwrap().unwrap();
    let pages = block.pages(at, ALL, &mut |_| false).unwrap();
    assert_eq!(pages.iter().map(|page| page.count).sum::<u32>(), 180);
    let starts = pages
        .iter()
        .flat_map(|page| page.starts().unwrap().iter(page.count).collect::<Vec<_>>());
    assert!(starts.eq((0..180).map(|i| if i < 90 { 0 } else { -7 })));
}

/// Writes XOR2 as the head of `xor2.rs` draws it: Prometheus' own writer chooses the same forms.
struct Xor2 {
    out: bits::BitWriter,
    base: u64,
    window: Option<(u32, u32)>,
}

impl Xor2 {
    /// `none`, `same` and `new` are what stands before an unchanged value, one in the last window, one in a new one.
    fn value(&mut self, value: f64, none: &[u64], same: &[u64], new: &[u64]) {
        let changed = self.base ^ value.to_bits();
        self.base = value.to_bits();
        let mut prefix = |bits: &[u64]| bits.iter().for_each(|bit| self.out.bits(*bit, 1));
        if changed == 0 {
            return prefix(none);
        }
        let (leading, trailing) = (changed.leading_zeros().min(31), changed.trailing_zeros());
        let (leading, trailing) = match self.window {
            Some((l, t)) if leading >= l && trailing >= t => {
                prefix(same);
                (l, t)
            }
            _ => {
                prefix(new);
                self.out.bits(u64::from(leading), 5);
                self.out.bits(u64::from(64 - leading - trailing) & 63, 6);
                self.window = Some((leading, trailing));
                (leading, trailing)
            }
        };
        self.out.bits(changed >> trailing, 64 - leading - trailing);
    }

    /// After a changed spacing, and in the second sample.
    fn any_value(&mut self, value: f64) {
        if gnomon_model::is_stale_nan(value) {
            return self.out.bits(0b111, 3);
        }
        self.value(value, &[0], &[1, 0], &[1, 1, 0]);
    }
}

/// Times, values, start timestamps (0 is none).
fn xor2(samples: &[(i64, f64, i64)]) -> Vec<u8> {
    let has_first = samples[0].2 != 0;
    let first_change = (1..samples.len())
        .find(|i| samples[*i].2 != samples[i - 1].2)
        .unwrap_or(0);
    let mut header = (samples.len() as u16).to_be_bytes().to_vec();
    header.push(u8::from(has_first) << 7 | first_change as u8);
    let mut to = Xor2 {
        out: bits::BitWriter::after(header),
        base: 0,
        window: None,
    };
    let (mut spacing, mut start_distance) = (0, 0);
    for (i, (time, value, start)) in samples.iter().copied().enumerate() {
        let before = if i == 0 { 0 } else { samples[i - 1].0 };
        let change = time - before - spacing;
        match i {
            0 => {
                to.out.varint(time);
                to.out.float(value);
                if !gnomon_model::is_stale_nan(value) {
                    to.base = value.to_bits();
                }
                if has_first {
                    to.out.varint(time - start);
                }
            }
            1 => {
                to.out.uvarint((time - before) as u64);
                to.any_value(value);
            }
            _ if change == 0 && gnomon_model::is_stale_nan(value) => to.out.bits(0b11111, 5),
            _ if change == 0 => to.value(value, &[0], &[1, 0, 0], &[1, 0, 1]),
            _ => {
                let (prefix, prefix_len, len) = match change {
                    -4096..=4095 => (0b110, 3, 13),
                    -524_288..=524_287 => (0b1110, 4, 20),
                    _ => (0b11110, 5, 64),
                };
                to.out.bits(prefix, prefix_len);
                to.out.bits(change as u64, len);
                to.any_value(value);
            }
        }
        if i > 0 {
            spacing = time - before;
        }
        if first_change > 0 && i >= first_change {
            let distance = before - start;
            to.out.varbit_int(distance - start_distance);
            start_distance = distance;
        }
    }
    to.out.finish()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn chunks_of_the_second_xor_are_read(
        starts in any::<bool>(),
        all in prop::collection::vec(
            (prop_oneof![Just(15_000_i64), 14_000..16_000_i64, 1..900_000_i64, 1..1_i64 << 40],
             prop_oneof![Just(1.5), Just(gnomon_model::STALE_NAN), any::<f64>(), (0..9_u8).prop_map(f64::from)],
             0..3_i64),
            1..120,
        ),
    ) {
        let mut time = 1_700_000_000_000;
        let mut samples = Vec::new();
        for (spacing, value, start) in all {
            time += spacing;
            samples.push((time, value, if starts { time / 1_000_000 * 1_000_000 + start } else { 0 }));
        }
        let expected: Vec<_> = samples.iter().map(|(time, value, _)| (*time, value.to_bits())).collect();
        let bytes = xor2(&samples);
        let (read, read_starts) = decode_started(4, &bytes).unwrap();
        let times: Vec<_> = samples.iter().map(|(time, ..)| *time).collect();
        let values: Vec<_> = samples.iter().map(|(_, value, _)| *value).collect();
        let starts: Vec<_> = samples.iter().map(|(.., start)| *start).collect();
        prop_assert_eq!(super::xor2::encode(&times, &values, &starts), bytes);
        prop_assert_eq!(samples_of(&read), expected);
        let expected = samples.iter().map(|(_, _, start)| *start);
        prop_assert!(read_starts.iter(samples.len() as u32).eq(expected));
    }
}
