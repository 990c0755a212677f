//! The keys and values of a shard's durable state, as `ingester/format.md` draws them.

use super::*;
use gnomon_model::ShardId;

/// One of each kind of record: a part that was dropped, one that waits, an open window with a histogram, out-of-order
/// samples, a target within a tick, exemplars of a part that waits and of others, metadata.
async fn filled() -> Rig {
    let mut rig = Rig::new(WriteOptions::default());
    rig.sample("dropped", NOW, 1.5).await.unwrap();
    rig.pass(Duration::from_millis(WINDOW_MS as u64 + 3_600_000)).await;
    assert_eq!(rig.blocks(State::Live).len(), 1);
    let outage = Faults {
        refused: 1.0,
        ..Faults::default()
    };
    rig.duties.context.bucket = Arc::new(FaultyStore::new(rig.bucket.clone(), 1, outage));
    let at = rig.node.clock.now().0;
    let mut waits = builder();
    waits.begin_rows();
    let key = waits.new_series(Labels::from_pairs([("__name__", "waits")]).as_ref());
    waits.sample(key, at, 2.5);
    waits.exemplar(key, at, 2.5, Labels::from_pairs([("trace_id", "def")]).as_ref());
    rig.append(waits).await.unwrap();
    rig.pass(Duration::from_millis(WINDOW_MS as u64 + 3_600_000)).await;
    assert_eq!(rig.sealed(), [2]);
    let at = rig.node.clock.now().0;
    let mut tick = builder();
    tick.begin_tick(&TickHeader {
        target: TargetId(77),
        term: 3,
        tick_ms: at,
        interval_ms: 15_000,
        first: true,
        last: false,
        complete: true,
        home: true,
        track_timestamps_staleness: false,
        names_only: false,
        other_shards: vec![ShardId(5)],
    });
    let key = tick.new_series(Labels::from_pairs([("__name__", "scraped"), ("job", "j")]).as_ref());
    tick.sample(key, at, 7.0);
    rig.append(tick).await.unwrap();
    let mut rows = builder();
    rows.begin_rows();
    let key = rows.new_series(Labels::from_pairs([("__name__", "rows")]).as_ref());
    for (ago, value) in [(3000, 1.0), (1000, 2.0), (2000, 9.0)] {
        rows.sample(key, at - ago, value);
    }
    rows.exemplar(key, at, 0.5, Labels::from_pairs([("trace_id", "abc")]).as_ref());
    rows.metadata("rows", "counter", "seconds", "What it is.");
    rig.append(rows).await.unwrap();
    rig.node.log.flush();
    rig
}

#[tokio::test]
async fn the_bytes_of_the_durable_state_stay_as_they_are() {
    let rig = filled().await;
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let mut text = String::new();
    for (key, value) in rig.node.log.store.pairs() {
        let kind = key.first().copied().map_or('?', char::from);
        text.push_str(&format!("{kind} {} {}\n", hex(&key), hex(&value)));
    }
    let kinds: std::collections::BTreeSet<char> = text.lines().filter_map(|l| l.chars().next()).collect();
    assert_eq!(
        kinds.into_iter().collect::<String>(),
        "cdmnpqrstwxy",
        "every kind of key that format.md names"
    );
    if std::env::var_os("GNOMON_WRITE_GOLDEN").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/duties/tests/golden_state.txt");
        std::fs::write(path, text).unwrap();
        return;
    }
    let golden = include_str!("golden_state.txt");
    for (is, was) in text.lines().zip(golden.lines()) {
        assert_eq!(
            is, was,
            "data folders hold these bytes: a change needs a new version and a reader of the old one"
        );
    }
    assert_eq!(text.lines().count(), golden.lines().count());
}
