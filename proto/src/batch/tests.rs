use super::*;
use gnomon_model::{Labels, PlacementEpoch, STALE_NAN, TenantId};

fn sample_batch() -> bytes::Bytes {
    let mut batch = BatchBuilder::new(&TenantId::anonymous(), PlacementEpoch(1));
    let up = Labels::from_pairs([("__name__", "up"), ("job", "x")]);
    let new = batch.new_series(up.as_ref());
    batch.begin_tick(&tick());
    batch.sample(new, 1_700_000_000_000, 1.0);
    batch.sample(SeriesKey::Known(SeriesRef(7)), 1_700_000_000_000, 0.25);
    batch.sample(SeriesKey::Known(SeriesRef(8)), 1_700_000_000_000, -3.0);
    batch.sample(SeriesKey::Known(SeriesRef(2)), 1_699_999_999_000, STALE_NAN);
    batch.begin_rows();
    batch.sample(SeriesKey::Known(SeriesRef(9)), 5, -0.0);
    batch.histogram(new, 6, &[0x18, 0]);
    batch.exemplar(
        SeriesKey::Known(SeriesRef(9)),
        7,
        0.5,
        Labels::from_pairs([("trace_id", "a")]).as_ref(),
    );
    batch.metadata("up", "gauge", "", "Whether it is up.");
    batch.finish()
}

fn tick() -> TickHeader {
    TickHeader {
        target: TargetId(0x0102_0304_0506_0708),
        term: 3,
        tick_ms: 1_700_000_000_000,
        interval_ms: 15_000,
        first: true,
        last: true,
        complete: true,
        home: true,
        track_timestamps_staleness: false,
        names_only: false,
        other_shards: vec![ShardId(4)],
    }
}

#[test]
fn what_goes_in_comes_out() {
    let bytes = sample_batch();
    let view = BatchView::parse(&bytes).unwrap();
    assert_eq!(view.new_series().len(), 1);
    let groups = view.groups().collect::<Result<Vec<_>, _>>().unwrap();
    assert_eq!(groups.len(), 2);
    assert_eq!(groups[0].tick, Some(tick()));
    let values: Vec<_> = groups[0]
        .items()
        .map(|item| match item.unwrap() {
            Item::Sample {
                key,
                timestamp_ms,
                start_ms: 0,
                value,
            } => (key, timestamp_ms, value.to_bits()),
            other => panic!("{other:?}"),
        })
        .collect();
    let known = |r| SeriesKey::Known(SeriesRef(r));
    let at = 1_700_000_000_000;
    assert_eq!(
        values,
        [
            (SeriesKey::New(0), at, 1f64.to_bits()),
            (known(7), at, 0.25f64.to_bits()),
            (known(8), at, (-3f64).to_bits()),
            (known(2), at - 1000, STALE_NAN.to_bits()),
        ]
    );
    let rows = groups[1].items().collect::<Result<Vec<_>, _>>().unwrap();
    assert!(matches!(rows[0], Item::Sample { timestamp_ms: 5, value, .. } if value.to_bits() == (-0f64).to_bits()));
    assert!(matches!(
        rows[1],
        Item::Histogram {
            timestamp_ms: 6,
            encoded: [0x18, 0],
            ..
        }
    ));
    assert!(matches!(rows[2], Item::Exemplar { timestamp_ms: 7, .. }));
    assert!(matches!(
        rows[3],
        Item::Metadata {
            metric: "up",
            kind: "gauge",
            unit: "",
            ..
        }
    ));
}

/// Two groups with starts: of the process, of one series, unknown, at the ends of time.
fn started_batch() -> bytes::Bytes {
    let mut batch = BatchBuilder::new(&TenantId::anonymous(), PlacementEpoch(1));
    let known = |r| SeriesKey::Known(SeriesRef(r));
    batch.begin_tick(&tick());
    batch.since(1_699_000_000_000);
    batch.sample(known(1), 1_700_000_000_000, 1.0);
    batch.sample(known(2), 1_700_000_000_000, 2.0);
    batch.since(1_699_000_001_000);
    batch.histogram(known(3), 1_700_000_000_000, &[0x18, 0]);
    batch.since(0);
    batch.sample(known(4), 1_700_000_000_000, 4.0);
    batch.begin_rows();
    for (number, start_ms) in (5..).zip([i64::MAX, i64::MIN, -1]) {
        batch.since(start_ms);
        batch.sample(known(number), 7, 5.0);
    }
    batch.finish()
}

#[test]
fn samples_have_the_starts_that_were_said() {
    let bytes = started_batch();
    assert!(has_starts(&bytes) && !has_starts(&sample_batch()) && !has_starts(&[]));
    let view = BatchView::parse(&bytes).unwrap();
    let items = view
        .groups()
        .flat_map(|group| group.unwrap().items().collect::<Vec<_>>());
    let starts = items.map(|item| match item.unwrap() {
        Item::Sample { start_ms, .. } | Item::Histogram { start_ms, .. } => start_ms,
        other => panic!("{other:?}"),
    });
    let process = 1_699_000_000_000;
    let expected = [process, process, process + 1_000, 0, i64::MAX, i64::MIN, -1];
    assert_eq!(starts.collect::<Vec<_>>(), expected);
}

/// The log of every existing data folder is in these bytes: a change needs a new version, not a new golden text.
#[test]
fn the_bytes_do_not_change() {
    let hex: String = sample_batch().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, include_str!("golden.hex").trim());
    let hex: String = started_batch().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, include_str!("golden_starts.hex").trim());
}

#[test]
fn damaged_bytes_are_refused_or_read_but_never_panic() {
    for bytes in [sample_batch(), started_batch()] {
        damage(&bytes);
    }
}

fn damage(bytes: &[u8]) {
    for cut in 0..bytes.len() {
        if let Ok(view) = BatchView::parse(&bytes[..cut]) {
            let _ = view.check();
        }
    }
    for at in 0..bytes.len() {
        for flip in [1u8, 0x80, 0xff] {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= flip;
            if let Ok(view) = BatchView::parse(&damaged) {
                let _ = view.check();
            }
        }
    }
}
