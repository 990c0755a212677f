//! Figures of the head by itself: `cargo test --release -p gnomon-ingester measure -- --ignored --nocapture`.

use super::entry::{Command, Entry, Limits};
use super::state::ShardState;
use super::tests::MemoryStore;
use crate::head::{Bounds, Head, Value};
use gnomon_model::{
    Clock, FeatureLevel, LabelsBuilder, PlacementEpoch, SeriesRef, ShardId, SystemClock, TenantId, TimestampMs,
};
use gnomon_proto::batch::{BatchBuilder, SeriesKey};

const SERIES: u64 = 100_000;
const ROUNDS: i64 = 100;
const PER_BATCH: u64 = 5_000;
const ORDERED: u64 = 1_000_000;

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

#[test]
#[ignore = "a measurement"]
fn measure_the_head() {
    let clock = SystemClock::new();
    let t0 = 1_700_006_400_000i64;
    let before = resident_kib();
    let mut state = ShardState::new(ShardId(0));
    let mut index = 0;
    let mut spent = [std::time::Duration::ZERO; 2];
    for round in 0..ROUNDS {
        for from in (0..SERIES).step_by(PER_BATCH as usize) {
            let mut batch = BatchBuilder::new(&TenantId::anonymous(), PlacementEpoch(1));
            let keys: Vec<_> = (from..from + PER_BATCH)
                .map(|i| {
                    if round > 0 {
                        return SeriesKey::Known(SeriesRef(i + 1));
                    }
                    let mut labels = LabelsBuilder::default();
                    labels.set("__name__", &format!("node_metric_with_a_name_{}", i % 500));
                    labels.set("instance", &format!("host-{}.example.com:9100", i / 500));
                    for (name, value) in [("job", "node"), ("cluster", "eu-west-1"), ("env", "production")] {
                        labels.set(name, value);
                    }
                    labels.set("device", &format!("sd{}", i % 7));
                    labels.set("mode", &format!("mode{}", i % 11));
                    batch.new_series(labels.build().as_ref())
                })
                .collect();
            batch.begin_rows();
            for (key, i) in keys.into_iter().zip(from..) {
                let value = if i % 2 == 0 {
                    1.0
                } else {
                    (round * (i as i64 % 97)) as f64
                };
                batch.sample(key, t0 + round * 15_000, value);
            }
            let batch = batch.finish();
            let limits = Limits::default();
            let entry = Entry {
                feature_level: FeatureLevel(1),
                proposed_at: TimestampMs(t0 + round * 15_000),
                command: Command::Batch { limits, batch },
            };
            let entry = entry.encode();
            index += 1;
            let started = clock.monotonic();
            state.apply(index, &entry).unwrap();
            spent[usize::from(round > 0)] += clock.monotonic() - started;
        }
    }
    let samples = (SERIES * (ROUNDS as u64 - 1)) as f64;
    println!(
        "new series: {:.2} µs each",
        spent[0].as_secs_f64() * 1e6 / SERIES as f64
    );
    println!(
        "known series: {:.0} ns a sample",
        spent[1].as_secs_f64() * 1e9 / samples
    );
    let used = resident_kib().saturating_sub(before);
    println!("{} bytes a series after {ROUNDS} samples each", used * 1024 / SERIES);
    let mut store = MemoryStore::default();
    let started = clock.monotonic();
    state.write_changes(&mut store).unwrap();
    println!("flush of everything (to a map): {:?}", clock.monotonic() - started);
    let started = clock.monotonic();
    let restored = ShardState::restore(ShardId(0), index, &store).unwrap();
    println!(
        "restore of {} series: {:?}",
        restored.series_count(),
        clock.monotonic() - started
    );
}

/// Where memory is, of series as `benches/ingest` writes them: a third constant, a third counting, a third moving.
#[test]
#[ignore = "a measurement"]
fn measure_the_memory_of_a_head() {
    let (series, rounds) = (100_000_u64, 480_i64);
    let t0 = 1_700_006_400_000i64;
    let before = resident_kib();
    let mut head = Head::new();
    let bounds = Bounds {
        limits: Limits::default(),
        proposed_at_ms: t0 + rounds * 15_000,
        newest_ms: i64::MIN,
        from_ms: i64::MIN,
        until_ms: i64::MAX,
    };
    let ordinals: Vec<_> = (0..series)
        .map(|i| {
            let mut labels = LabelsBuilder::default();
            let n = i % 1_000;
            labels.set("__name__", &format!("node_metric_{}_total", n / 10));
            labels.set("cpu", &(i % 8).to_string());
            labels.set("device", &format!("dev{}", n % 10));
            labels.set("instance", &format!("10.0.{}.{}:9100", i / 250_000, i / 1_000 % 250));
            labels.set("job", "node");
            labels.set(
                "mode",
                ["idle", "iowait", "irq", "nice", "softirq", "user"][(i % 6) as usize],
            );
            head.add_series(SeriesRef(i + 1), labels.build().as_ref())
        })
        .collect();
    for round in 0..rounds {
        for (i, ordinal) in (0_i64..).zip(&ordinals) {
            let value = match i % 3 {
                0 => i as f64,
                1 => (round * (i % 97 + 1)) as f64,
                _ => ((i * 31 + round * 17) % 1009) as f64 / 8.0,
            };
            let offset = (i / 1_000 * 7_919) % 15_000;
            let put = head.put(*ordinal, t0 + round * 15_000 + offset, Value::Float(value), &bounds);
            assert!(put.is_ok(), "sample {round} of series {i}");
        }
    }
    let mut all = 0;
    for (what, bytes) in head.memory() {
        println!("{:8.1} {what}", bytes as f64 / series as f64);
        all += bytes;
    }
    println!("{:8.1} all of it", all as f64 / series as f64);
    let used = resident_kib().saturating_sub(before) * 1024;
    println!("{:8.1} by the system's count", used as f64 / series as f64);
}

#[test]
#[ignore = "a measurement"]
fn measure_the_order() {
    let clock = SystemClock::new();
    let mut head = Head::new();
    for i in 0..ORDERED {
        let mut labels = LabelsBuilder::default();
        labels.set(
            "__name__",
            &format!("metric_{}_total", i.wrapping_mul(2_654_435_761) % 997),
        );
        labels.set("instance", &format!("host-{:05}:9100", i % 1013));
        labels.set("job", "node");
        labels.set("number", &i.to_string());
        head.add_series(SeriesRef(i + 1), labels.build().as_ref());
    }
    let (mut slices, mut longest) = (0, std::time::Duration::ZERO);
    let started = clock.monotonic();
    loop {
        let slice = clock.monotonic();
        let is_done = head.work_in();
        longest = longest.max(clock.monotonic() - slice);
        slices += 1;
        if is_done {
            break;
        }
    }
    let took = clock.monotonic() - started;
    println!("order of {ORDERED} new series: {took:?} in {slices} slices, the longest {longest:?}");
    let started = clock.monotonic();
    let ordered = head.in_order(&(0..ORDERED as u32).collect());
    println!("{} series in order: {:?}", ordered.len(), clock.monotonic() - started);
}
