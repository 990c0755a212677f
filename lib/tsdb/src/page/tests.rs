use super::*;
use gnomon_model::histogram::{ResetHint, Span};
use gnomon_model::{NORMAL_NAN, STALE_NAN};
use proptest::prelude::*;

fn encode(samples: &[(i64, f64)]) -> Vec<u8> {
    let mut builder = FloatPageBuilder::new();
    for (ts, value) in samples {
        builder.append(*ts, *value).unwrap();
    }
    builder.bytes()
}

fn decode(bytes: &[u8]) -> Result<Vec<(i64, u64)>, PageError> {
    let (mut timestamps, mut values) = (Vec::new(), Vec::new());
    decode_into(bytes, &mut timestamps, &mut values)?;
    assert_eq!(timestamps.len(), values.len());
    Ok(timestamps
        .into_iter()
        .zip(values.into_iter().map(f64::to_bits))
        .collect())
}

fn to_bits(samples: &[(i64, f64)]) -> Vec<(i64, u64)> {
    samples.iter().map(|(t, v)| (*t, v.to_bits())).collect()
}

fn value() -> impl Strategy<Value = f64> {
    prop_oneof![
        3 => (-4_i64..100).prop_map(|v| v as f64),
        2 => any::<i64>().prop_map(|v| v as f64),
        2 => any::<u64>().prop_map(f64::from_bits),
        1 => (0..1000_u32).prop_map(|v| f64::from(v) / 100.0),
        1 => prop::sample::select(vec![STALE_NAN, NORMAL_NAN, -0.0, 0.0, f64::INFINITY, f64::MIN_POSITIVE, 9e15, -9e15]),
    ]
}

/// Runs, changes of spacing and jumps to the ends of time.
fn samples() -> impl Strategy<Value = Vec<(i64, f64)>> {
    let step = prop_oneof![
        6 => Just(15_000_u64), 2 => 14_990..15_010_u64, 1 => 1..100_000_u64, 1 => Just(1_u64), 1 => 1..u64::MAX / 8];
    let start = prop_oneof![Just(1_700_000_000_000_i64), any::<i64>(), Just(i64::MIN)];
    (
        start,
        prop::collection::vec((step, value(), 1..40_usize, any::<bool>()), 1..40),
    )
        .prop_map(|(start, items)| {
            let mut out: Vec<(i64, f64)> = Vec::new();
            let mut ts = Some(start);
            for (step, value, repeat, long) in items {
                for _ in 0..if long { repeat } else { 1 } {
                    let Some(now) = ts else { return out };
                    out.push((now, value));
                    ts = now.checked_add_unsigned(step);
                }
            }
            out
        })
}

/// What exporters send: decimals, sums of them, counters that begin anew, a marker now and then; scrapes missing.
fn decimals() -> impl Strategy<Value = Vec<(i64, f64)>> {
    let kind = (0..5_u32, any::<bool>(), 1..5000_u32);
    let item = (0..1000_u32, prop::bool::weighted(0.02), prop::bool::weighted(0.05));
    (kind, prop::collection::vec(item, 1..600)).prop_map(|((places, is_sum, unit), items)| {
        let mut sum = 0.0;
        let mut ts = 1_700_000_000_000;
        let step = |n: u32| f64::from(n * unit) / 10_f64.powi(places as i32);
        let one = |(n, special, gap): (u32, bool, bool)| {
            ts += if gap { 30_000 } else { 15_000 };
            sum = if special && n % 2 == 0 { 0.0 } else { sum + step(n) };
            let value = if special && n % 3 == 0 {
                STALE_NAN
            } else if is_sum {
                sum
            } else {
                step(n)
            };
            (ts, value)
        };
        items.into_iter().map(one).collect()
    })
}

proptest! {
    #[test]
    fn floats_come_back_to_the_bit(samples in samples()) {
        let bytes = encode(&samples);
        prop_assert_eq!(decode(&bytes), Ok(to_bits(&samples)));
        let page = Page::parse(bytes.into()).unwrap();
        prop_assert_eq!(page.count as usize, samples.len());
        prop_assert_eq!((Some(page.min_ts), Some(page.max_ts)), (samples.first().map(|s| s.0), samples.last().map(|s| s.0)));
    }

    #[test]
    fn columns_come_back_to_the_bit(
        samples in prop_oneof![samples(), decimals()],
        from in any::<prop::sample::Index>(), to in any::<prop::sample::Index>(), off in 0..20_000_i64
    ) {
        let (timestamps, values): (Vec<i64>, Vec<f64>) = samples.iter().copied().unzip();
        let bytes = column::encode(&timestamps, &values).unwrap();
        prop_assert_eq!(decode(&bytes), Ok(to_bits(&samples)));
        let page = Page::of_floats(&timestamps, &values).unwrap();
        prop_assert_eq!(Page::parse(page.bytes.clone()), Ok(page.clone()));
        prop_assert_eq!(decode(&page.bytes), Ok(to_bits(&samples)));
        let dense = [Effort::Cheap, Effort::Thorough].map(|effort| Page::dense(&timestamps, &values, effort).unwrap());
        for page in &dense {
            prop_assert_eq!(Page::parse(page.bytes.clone()), Ok(page.clone()));
            prop_assert_eq!(decode(&page.bytes), Ok(to_bits(&samples)));
        }
        for bytes in [&bytes, &encode(&samples), &dense[0].bytes.to_vec(), &dense[1].bytes.to_vec()] {
            let [a, b] = [from, to].map(|at| at.index(samples.len()));
            let (start, end) = (timestamps[a].saturating_sub(off), timestamps[b].saturating_add(off - 1));
            let within: Vec<_> = samples.iter().copied().filter(|(t, _)| (start..=end).contains(t)).collect();
            let (mut times, mut floats) = (vec![7], vec![7.0, 8.0]);
            decode_within(bytes, start, end, &mut times, &mut floats).unwrap();
            let found: Vec<_> = times[1..].iter().copied().zip(floats[2..].iter().copied()).collect();
            prop_assert_eq!(to_bits(&found), to_bits(&within));
            prop_assert_eq!(floats.len(), times.len() + 1);
        }
        let open = Page::parse(encode(&samples).into()).unwrap();
        for page in [&open, &page, &dense[0], &dense[1]] {
            let cheap = page.clone().recoded(Effort::Cheap).unwrap();
            let thorough = cheap.clone().recoded(Effort::Thorough).unwrap();
            let values_len = |page: &Page| page.parts().unwrap().values.len();
            prop_assert!(values_len(&thorough) <= values_len(&cheap));
            prop_assert_eq!(thorough.clone().recoded(Effort::Thorough), Ok(thorough.clone()));
            for recoded in [cheap, thorough] {
                prop_assert_eq!(decode(&recoded.bytes), Ok(to_bits(&samples)));
                prop_assert_eq!(recoded.header(), PageHeader { coding: recoded.coding, ..page.header() });
            }
        }
        prop_assert_eq!(decode(&open.closed().unwrap().bytes), Ok(to_bits(&samples)));
    }

    #[test]
    fn damaged_columns_are_errors_or_pages_never_panics(
        samples in prop_oneof![samples(), decimals()],
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>()
    ) {
        let (timestamps, values): (Vec<i64>, Vec<f64>) = samples.iter().copied().unzip();
        let dense = [Effort::Cheap, Effort::Thorough].map(|effort| Page::dense(&timestamps, &values, effort).unwrap());
        for mut bytes in [column::encode(&timestamps, &values).unwrap(), dense[0].bytes.to_vec(), dense[1].bytes.to_vec()] {
            for (at, with) in &flips {
                let at = at.index(bytes.len());
                bytes[at] ^= with;
            }
            for damaged in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
                let _ = decode(damaged);
                if let Ok(page) = Page::parse(Bytes::copy_from_slice(damaged)) {
                    let _ = page.recoded(Effort::Thorough);
                }
            }
        }
    }

    #[test]
    fn a_resumed_page_goes_on_as_if_it_had_never_stopped(samples in samples(), at in any::<prop::sample::Index>()) {
        let at = at.index(samples.len()).max(1);
        let mut resumed = FloatPageBuilder::resume(&encode(&samples[..at])).unwrap();
        prop_assert_eq!(resumed.len(), at);
        prop_assert_eq!(resumed.last_value().map(f64::to_bits), Some(samples[at - 1].1.to_bits()));
        for (ts, value) in &samples[at..] {
            resumed.append(*ts, *value).unwrap();
        }
        prop_assert_eq!(resumed.bytes(), encode(&samples));
    }

    #[test]
    fn damaged_pages_are_errors_or_pages_never_panics(
        samples in samples(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4), cut in any::<prop::sample::Index>()
    ) {
        let mut bytes = encode(&samples);
        for (at, with) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= with;
        }
        let _ = decode(&bytes);
        let _ = FloatPageBuilder::resume(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        let _ = decode(&bytes);
    }

    #[test]
    fn garbage_is_no_page(mut bytes in prop::collection::vec(any::<u8>(), 0..200), tag in 0..4_u8) {
        if let Some(first) = bytes.first_mut() {
            *first = tag;
        }
        let _ = decode(&bytes);
        let _ = FloatPageBuilder::resume(&bytes);
        let _ = HistogramPageBuilder::resume(&bytes);
    }

    #[test]
    fn histograms_come_back_to_the_bit(samples in histograms(), at in any::<prop::sample::Index>()) {
        let encode = |samples: &[HistogramSample], mut builder: HistogramPageBuilder| {
            for s in samples {
                builder.append(s.timestamp_ms, &s.histogram, s.is_integer).unwrap();
            }
            builder.bytes()
        };
        let bytes = encode(&samples, HistogramPageBuilder::new());
        let mut back = Vec::new();
        decode_histograms_into(&bytes, &mut back).unwrap();
        prop_assert_eq!(format!("{:?}", &back), format!("{:?}", &samples));
        let at = at.index(samples.len()).max(1);
        let resumed = HistogramPageBuilder::resume(&encode(&samples[..at], HistogramPageBuilder::new())).unwrap();
        prop_assert_eq!(encode(&samples[at..], resumed), bytes);
    }

    #[test]
    fn damaged_histogram_pages_never_panic(
        samples in histograms(), at in any::<prop::sample::Index>(), with in 1..=255_u8, cut in any::<prop::sample::Index>()
    ) {
        let mut builder = HistogramPageBuilder::new();
        for s in &samples {
            builder.append(s.timestamp_ms, &s.histogram, s.is_integer).unwrap();
        }
        let mut bytes = builder.bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= with;
        let mut out = Vec::new();
        let _ = decode_histograms_into(&bytes, &mut out);
        bytes.truncate(cut.index(bytes.len()));
        let _ = decode_histograms_into(&bytes, &mut out);
    }
}

fn histogram() -> impl Strategy<Value = (FloatHistogram, bool)> {
    let side = || prop::collection::vec((-3..4_i32, 0..4_u32), 0..3);
    let hint = prop::sample::select(vec![
        ResetHint::Unknown,
        ResetHint::Reset,
        ResetHint::NotReset,
        ResetHint::Gauge,
    ]);
    let sum = prop_oneof![3 => any::<f64>(), 1 => Just(STALE_NAN)];
    (
        side(),
        side(),
        any::<bool>(),
        0..1_000_000_u64,
        -4..9_i32,
        hint,
        sum,
        0..3_usize,
    )
        .prop_map(
            |(positive, negative, is_integer, seed, schema, reset_hint, sum, bounds)| {
                let spans = |side: Vec<(i32, u32)>| -> Vec<Span> {
                    side.into_iter()
                        .map(|(offset, length)| Span { offset, length })
                        .collect()
                };
                let fraction = if is_integer { 0.0 } else { 0.25 };
                let buckets = |spans: &[Span]| -> Vec<f64> {
                    (0..spans.iter().map(|s| u64::from(s.length)).sum::<u64>())
                        .map(|i| (seed % (97 + i)) as f64 + fraction)
                        .collect()
                };
                let (positive_spans, negative_spans) = (spans(positive), spans(negative));
                let h = FloatHistogram {
                    reset_hint,
                    schema,
                    zero_threshold: 1e-128,
                    zero_count: 3.0,
                    count: seed as f64 + fraction,
                    sum,
                    positive_buckets: buckets(&positive_spans),
                    negative_buckets: buckets(&negative_spans),
                    positive_spans,
                    negative_spans,
                    custom_values: (0..bounds).map(|b| b as f64).collect(),
                };
                (h, is_integer)
            },
        )
}

fn histograms() -> impl Strategy<Value = Vec<HistogramSample>> {
    prop::collection::vec((histogram(), 1..4_usize, 1..60_000_i64), 1..12).prop_map(|items| {
        let mut out = Vec::new();
        let mut ts = 1_700_000_000_000_i64;
        for ((histogram, is_integer), repeat, step) in items {
            for _ in 0..repeat {
                ts += step;
                out.push(HistogramSample {
                    timestamp_ms: ts,
                    is_integer,
                    histogram: histogram.clone(),
                });
            }
        }
        out
    })
}

#[test]
fn samples_out_of_order_and_beyond_the_limit_are_not_taken() {
    let mut builder = FloatPageBuilder::new();
    for i in 0..i64::from(MAX_PAGE_SAMPLES) {
        builder.append(i * 10, 1.0).unwrap();
    }
    assert_eq!(builder.append(i64::MAX, 1.0), Err(AppendError::Full));
    assert_eq!(builder.append(5, 1.0), Err(AppendError::OutOfOrder));
    let bytes = builder.bytes();
    assert!(bytes.len() < 24, "a constant costs {} bytes", bytes.len());
    assert_eq!(decode(&bytes).unwrap().len(), MAX_PAGE_SAMPLES as usize);
}

#[test]
fn an_empty_builder_has_no_page() {
    assert!(FloatPageBuilder::new().bytes().is_empty());
    assert_eq!(FloatPageBuilder::new().page(), None);
    assert_eq!(HistogramPageBuilder::new().page(), None);
}

#[test]
fn a_builder_is_small() {
    assert!(size_of::<FloatPageBuilder>() <= 88, "{}", size_of::<FloatPageBuilder>());
}

#[test]
fn a_claimed_count_does_not_allocate_beyond_the_limit() {
    let mut bytes = vec![1];
    gnomon_model::labels::put_uvarint(&mut bytes, u64::MAX);
    bytes.extend([0; 10]);
    assert!(matches!(decode(&bytes), Err(PageError::Corrupt(_))));
    bytes[0] = 9;
    assert_eq!(decode(&bytes), Err(PageError::UnknownCoding(9)));
}

#[test]
fn the_bytes_of_a_page_stay_as_they_are() {
    let bytes = encode(&[
        (0, 1.0),
        (15_000, 1.0),
        (30_000, 1.0),
        (45_000, 3.0),
        (60_001, 3.5),
        (75_000, STALE_NAN),
    ]);
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, "010600f8c904bfe003f0ea60382607340efb0bcfff00000000000080");
}

/// Every path of the coding: a new shape, the same one, floats, negative buckets, custom values.
#[test]
fn the_bytes_of_a_histogram_page_stay_as_they_are() {
    let span = |offset, length| gnomon_model::histogram::Span { offset, length };
    let first = FloatHistogram {
        schema: 3,
        zero_threshold: 1e-9,
        zero_count: 2.0,
        count: 12.0,
        sum: 18.5,
        positive_spans: vec![span(-2, 2), span(3, 1)],
        positive_buckets: vec![3.0, 4.0, 1.0],
        negative_spans: vec![span(0, 1)],
        negative_buckets: vec![2.0],
        ..FloatHistogram::default()
    };
    let mut grown = first.clone();
    (grown.count, grown.sum) = (15.0, 25.0);
    grown.positive_buckets[0] += 3.0;
    let mut fractions = grown.clone();
    fractions.zero_count = 0.25;
    let custom = FloatHistogram {
        schema: -53,
        count: 4.0,
        sum: f64::NAN,
        positive_spans: vec![span(0, 2)],
        positive_buckets: vec![1.0, 3.0],
        custom_values: vec![0.5, 2.5],
        ..FloatHistogram::default()
    };
    let mut page = HistogramPageBuilder::new();
    for (at, histogram, is_integer) in [
        (1000, &first, true),
        (16_000, &grown, true),
        (31_000, &fractions, false),
        (46_001, &custom, true),
    ] {
        page.append(at, histogram, is_integer).unwrap();
    }
    let bytes = page.page().unwrap().bytes;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    if std::env::var_os("GNOMON_WRITE_GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/page/golden_histograms.hex");
        std::fs::write(path, hex + "\n").unwrap();
        return;
    }
    let golden = include_str!("golden_histograms.hex");
    assert_eq!(hex, golden.trim(), "a change of meaning needs another coding tag");
}

/// Each way of writing times and values.
#[test]
fn the_bytes_of_columns_stay_as_they_are() {
    let hex = |samples: &[(i64, f64)]| -> String {
        let (timestamps, values): (Vec<i64>, Vec<f64>) = samples.iter().copied().unzip();
        let bytes = column::encode(&timestamps, &values).unwrap();
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    };
    let even = |n: i64, value: fn(i64) -> f64| (0..n).map(|i| (i * 15_000, value(i))).collect::<Vec<_>>();
    let mut gap = even(17, |_| -0.0);
    gap[16].0 += 15_000;
    let jitter: Vec<_> = even(5, |_| 0.0).into_iter().map(|(t, v)| (t + t % 7, v)).collect();
    let found = [
        even(20, |_| 1.5),
        even(9, |i| 0.5 + (i * i % 7) as f64 * 4.0),
        even(9, |i| if i == 5 { STALE_NAN } else { 10.0 * i as f64 }),
        even(9, |i| 0.1 * i as f64),
        gap,
        jitter,
    ];
    let expected = [
        "031400c8b2110000bff003",
        "030900c0a907000101010a280503745688",
        "030900c0a90700010009000a000255580105020000000000f07f",
        "030900c0a90700010303006402000001c800",
        "03110098c80f019875010eb0ea01008001",
        "030500e3d40302aeea010307000000",
    ];
    assert_eq!(found.map(|samples| hex(&samples)), expected.map(str::to_owned));
}

/// Each way of writing numbers and others that columns have not.
#[test]
fn the_bytes_of_dense_pages_stay_as_they_are() {
    let hex = |effort, value: fn(i64) -> f64| -> String {
        let (timestamps, values): (Vec<i64>, Vec<f64>) = (0..90).map(|i| (i * 15_000, value(i))).unzip();
        let page = Page::dense(&timestamps, &values, effort).unwrap();
        assert_eq!(Page::parse(page.bytes.clone()), Ok(page.clone()));
        page.bytes.iter().map(|b| format!("{b:02x}")).collect()
    };
    let found = [
        hex(Effort::Cheap, |_| 1.5),
        hex(Effort::Cheap, |i| {
            if (10..20).contains(&i) {
                STALE_NAN
            } else {
                10.0 * i as f64
            }
        }),
        hex(Effort::Thorough, |i| 7.0 + (i * i / 9 % 5) as f64 - (i % 3) as f64),
        hex(Effort::Thorough, |i| 1000.0 + (i * i) as f64 + (i % 2) as f64),
        hex(Effort::Thorough, |i| 0.1 * (i * i / 9 % 5) as f64),
    ];
    let expected = [
        "045a00d8bd510000bff003",
        "045a00d8bd51000209090080c8afa025000081ff01f8ffffffffffffffff01011305010a09020000000000f07f",
        "045a00d8bd51000200000e01000303c12447d6c6885a68cec53669633c7859a06092236b63442d34e7629bb4311ebc2c00",
        "045a00d8bd5100020011d00f0201070202010fedeb01508800884009800844004420",
        "045a00d8bd51000209020080c2d72f000003402242ccb2600ac88d443464592850090020112166593005e446221ab22c14a804000000010028c1200500002518a40000",
    ];
    assert_eq!(
        found,
        expected.map(str::to_owned),
        "a change of meaning needs another coding tag"
    );
}
