use super::super::tests::{meta, open, page};
use super::super::{BlockWriter, MemorySink};
use super::*;
use gnomon_model::Labels;
use gnomon_model::ids::BLOCK_EXTRAS_FEATURE_LEVEL;
use proptest::prelude::*;

fn known(at_ms: i64, help: &str) -> MetricMetadata {
    MetricMetadata {
        at_ms,
        kind: "counter".into(),
        unit: "seconds".into(),
        help: help.into(),
    }
}

async fn block(metrics: &[&str], entries: &[(&str, MetricMetadata)]) -> std::sync::Arc<BlockReader> {
    let mut meta = meta();
    meta.feature_level = BLOCK_EXTRAS_FEATURE_LEVEL;
    let mut writer = BlockWriter::new(meta, MemorySink::default());
    for metric in metrics {
        let labels = Labels::from_pairs([("__name__", metric)]);
        writer.add_series(labels.as_ref(), [page(0, [1.0])]).await.unwrap();
    }
    for (metric, metadata) in entries {
        writer.add_metadata(metric, metadata.clone());
    }
    open(writer.finish().await.unwrap().output).await.unwrap()
}

#[tokio::test]
async fn what_there_is_no_room_for_is_not_read() {
    let names: Vec<String> = (0..40).map(|n| format!("metric_{n:02}")).collect();
    let metrics: Vec<&str> = names.iter().map(String::as_str).collect();
    let help = "h".repeat(60 << 10);
    let entries: Vec<_> = metrics.iter().map(|metric| (*metric, known(1, &help))).collect();
    let reader = block(&metrics, &entries).await;
    let mut asked = 0;
    let mut all = |bytes| {
        asked += bytes;
        true
    };
    let whole = reader.metadata_within(None, &mut all).await.unwrap();
    assert_eq!(whole.unwrap().len(), 40);
    assert!(asked >= 40 * (60 << 10), "{asked}");
    let (mut asked, most) = (0, 512 << 10);
    let mut some = |bytes| {
        asked += bytes;
        asked <= most
    };
    assert!(reader.metadata_within(None, &mut some).await.unwrap().is_none());
    // Chunks have some 300 KiB: of two one was read.
    assert!(asked < 2 * most, "{asked}");
    let mut none = |_| false;
    assert!(reader.metadata_within(None, &mut none).await.unwrap().is_none());
}

#[tokio::test]
async fn the_newest_holds_and_only_metrics_of_the_block_have_any() {
    let metrics = ["a_bucket", "a_count", "b_total", "c", "d_total"];
    let entries = [
        ("a", known(1, "old")),
        ("a", known(3, "newest")),
        ("a", known(2, "new")),
        ("b", known(1, "of b_total")),
        ("c", known(i64::MIN, "")),
        ("d_total", known(5, "as scraped")),
        ("gone", known(9, "no series")),
        ("c_tota", known(9, "another")),
    ];
    let reader = block(&metrics, &entries).await;
    let expected = [
        ("a", known(3, "newest")),
        ("b", known(1, "of b_total")),
        ("c", known(i64::MIN, "")),
        ("d_total", known(5, "as scraped")),
    ];
    let expected: Vec<_> = expected.map(|(name, m)| (name.to_owned(), m)).into();
    assert_eq!(reader.metadata(None).await.unwrap(), expected);
    assert_eq!(reader.verify().await.unwrap().stats.metadata, 4);
    for (name, metadata) in expected {
        assert_eq!(reader.metadata(Some(&name)).await.unwrap(), [(name, metadata)]);
    }
    for name in ["", "A", "aa", "z"] {
        assert!(reader.metadata(Some(name)).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn many_are_in_several_chunks_and_what_is_too_long_is_left_out() {
    let metrics: Vec<String> = (0..3000).map(|i| format!("metric_{i:04}")).collect();
    let metrics: Vec<&str> = metrics.iter().map(String::as_str).collect();
    let help = "what it is ".repeat(30);
    let mut entries: Vec<_> = metrics.iter().map(|m| (*m, known(7, &help))).collect();
    entries.push(("metric_0000", known(8, &"x".repeat(MAX_ENTRY_LEN))));
    let reader = block(&metrics, &entries).await;
    assert!(reader.appendix(Section::Metadata).await.unwrap().len() > 2);
    let all = reader.metadata(None).await.unwrap();
    assert_eq!(all.len(), 3000);
    assert_eq!(all[0].1, known(7, &help));
    for at in [0, 1, 1499, 2999] {
        assert_eq!(reader.metadata(Some(metrics[at])).await.unwrap(), [all[at].clone()]);
    }
}

proptest! {
    #[test]
    fn joining_is_free_of_order(
        entries in prop::collection::vec(("[a-c]", -2..3_i64, "[x-z]{0,2}"), 0..20), turn in any::<prop::sample::Index>(),
    ) {
        let join = |entries: &[(String, i64, String)]| {
            let mut writer = MetadataWriter::default();
            for (metric, at_ms, help) in entries {
                writer.add(metric, known(*at_ms, help));
            }
            assert_eq!(writer.bytes, writer.entries.iter().map(|(m, e)| m.len() + e.len()).sum::<usize>());
            writer.entries
        };
        let mut turned = entries.clone();
        if !turned.is_empty() {
            let by = turn.index(turned.len());
            turned.rotate_left(by);
        }
        prop_assert_eq!(join(&entries), join(&turned));
    }

    #[test]
    fn bytes_of_a_chunk_that_were_changed_never_panic(
        entries in prop::collection::btree_map("[a-e]{1,4}", ("[a-z]{0,8}", any::<i64>()), 1..30),
        at in any::<prop::sample::Index>(), with in 1..=255_u8,
    ) {
        let entries: Vec<_> = entries.into_iter().map(|(m, (help, at))| (m, known(at, &help))).collect();
        let row = Row {
            entries: entries.len() as u32,
            min_ms: i64::MIN,
            max_ms: i64::MAX,
            first: entries[0].0.clone().into_bytes(),
            at: Default::default(),
        };
        let mut raw = encode(&entries);
        prop_assert_eq!(decode(&raw, &row), Some(entries));
        let at = at.index(raw.len());
        raw[at] ^= with;
        let _ = decode(&raw, &row);
        prop_assert_eq!(decode(&raw[..at], &row), None);
    }
}
