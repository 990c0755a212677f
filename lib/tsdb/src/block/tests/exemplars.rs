use super::super::appendix::Appendix;
use super::super::tests::{meta, open, page};
use super::super::{BlockReader, BlockWriter, FinishedBlock, MemorySink};
use super::*;
use crate::deletes::Tombstone;
use bytes::Bytes;
use gnomon_model::TenantId;
use gnomon_model::ids::BLOCK_EXTRAS_FEATURE_LEVEL;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// By series number: time, bits of the value, trace.
type Model = BTreeMap<u8, BTreeSet<(i64, u64, u16)>>;

fn labels_of(series: u8) -> Labels {
    Labels::from_pairs([
        ("__name__", "requests_bucket"),
        ("le", &format!("{}", series / 16)),
        ("pod", &format!("pod-{series}")),
    ])
}

fn exemplar(&(timestamp_ms, bits, trace): &(i64, u64, u16)) -> Exemplar {
    // Some have no labels at all.
    let trace = if trace.is_multiple_of(16) {
        String::new()
    } else {
        format!("{trace:032x}")
    };
    Exemplar {
        timestamp_ms,
        value: f64::from_bits(bits),
        labels: Labels::from_pairs([("trace_id", trace.as_str())]),
    }
}

fn listed(model: &Model) -> Vec<SeriesExemplars> {
    let mut all: Vec<_> = model
        .iter()
        .filter(|(_, its)| !its.is_empty())
        .map(|(series, its)| {
            let mut exemplars = its.iter().map(exemplar).collect();
            Exemplar::settle(&mut exemplars);
            SeriesExemplars {
                labels: labels_of(*series),
                exemplars,
            }
        })
        .collect();
    all.sort_by(|a, b| a.labels.cmp(&b.labels));
    all
}

async fn written(series: &[SeriesExemplars]) -> FinishedBlock<Bytes> {
    let mut meta = meta();
    meta.feature_level = BLOCK_EXTRAS_FEATURE_LEVEL;
    let mut writer = BlockWriter::new(meta, MemorySink::default());
    let labels = labels_of(0);
    writer.add_series(labels.as_ref(), [page(0, [1.0, 2.5])]).await.unwrap();
    for series in series {
        // Backwards and twice: the writer puts them right.
        let twice = series.exemplars.iter().rev().chain(&series.exemplars).cloned();
        writer.add_exemplars(series.labels.as_ref(), twice.collect()).unwrap();
    }
    writer.finish().await.unwrap()
}

/// Pieces of one series together.
async fn read(reader: &Arc<BlockReader>, filter: ExemplarFilter) -> Result<Vec<SeriesExemplars>, BlockError> {
    let mut cursor = reader.exemplars(filter).await?;
    let mut all: Vec<SeriesExemplars> = Vec::new();
    while let Some(mut next) = cursor.next().await? {
        match all.last_mut() {
            Some(last) if last.labels == next.labels => last.exemplars.append(&mut next.exemplars),
            _ => all.push(next),
        }
    }
    Ok(all)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(future)
}

fn models() -> impl Strategy<Value = Model> {
    let one = (0..7_200_000_i64, any::<u64>(), any::<u16>());
    prop::collection::btree_map(any::<u8>(), prop::collection::btree_set(one, 0..40), 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_was_written_is_read_and_filters_are_those_of_a_scan(
        model in models(), start in 0..7_200_000_i64, len in 0..3_600_000_i64, deleted in 0..7_200_000_i64, le in 0..16_u8,
    ) {
        let all = listed(&model);
        block_on(async {
            let block = written(&all).await;
            let reader = open(block.output).await.unwrap();
            assert_eq!(read(&reader, ExemplarFilter::default()).await.unwrap(), all);
            let verified = reader.verify().await.unwrap().stats;
            assert_eq!(verified.exemplars, all.iter().map(|s| s.exemplars.len() as u64).sum::<u64>());
            let sets = vec![vec![Matcher::equal("le", le.to_string())], vec![Matcher::equal("pod", "pod-7")]];
            let tombstone = Tombstone {
                revision: 1,
                tenant: TenantId::anonymous(),
                sets: vec![vec![Matcher::equal("pod", format!("pod-{}", le * 16))]],
                start_ms: deleted,
                end_ms: deleted + 600_000,
            };
            let filter = ExemplarFilter {
                sets: sets.clone(),
                range_ms: Some((start, start + len)),
                deletes: [Arc::new(tombstone.clone())].into_iter().collect(),
            };
            let mut expected = all.clone();
            expected.retain(|s| sets.iter().any(|set| set.iter().all(|m| m.matches_labels(s.labels.as_ref()))));
            for series in &mut expected {
                let is_deleted = |e: &Exemplar| {
                    tombstone.matches(series.labels.as_ref()) && tombstone.covers(e.timestamp_ms, e.timestamp_ms)
                };
                series.exemplars.retain(|e| (start..=start + len).contains(&e.timestamp_ms) && !is_deleted(e));
            }
            expected.retain(|s| !s.exemplars.is_empty());
            assert_eq!(read(&reader, filter).await.unwrap(), expected);
        });
    }

    #[test]
    fn a_merge_has_each_once_whatever_the_order(models in prop::collection::vec(models(), 1..5), turn in any::<prop::sample::Index>()) {
        let mut union = Model::new();
        for model in &models {
            for (series, its) in model {
                union.entry(*series).or_default().extend(its);
            }
        }
        block_on(async {
            let mut sources = Vec::new();
            for model in &models {
                let reader = open(written(&listed(model)).await.output).await.unwrap();
                sources.push(reader.exemplars(ExemplarFilter::default()).await.unwrap());
            }
            let by = turn.index(sources.len());
            sources.rotate_left(by);
            let mut merge = ExemplarMerge::new(sources).await.unwrap();
            let mut merged = Vec::new();
            while let Some(next) = merge.next().await.unwrap() {
                merged.push(next);
            }
            assert_eq!(merged, listed(&union));
        });
    }

    #[test]
    fn bytes_of_a_chunk_that_were_changed_never_panic(model in models(), at in any::<prop::sample::Index>(), with in 1..=255_u8) {
        let all = listed(&model);
        let Some(first) = all.first() else { return Ok(()) };
        let row = Row {
            entries: all.iter().map(|s| s.exemplars.len() as u32).sum(),
            min_ms: i64::MIN,
            max_ms: i64::MAX,
            first: first.labels.as_bytes().to_vec(),
            at: Default::default(),
        };
        let mut raw = encode(&all, row.entries);
        prop_assert_eq!(decode(&raw, &row), Some(all));
        let at = at.index(raw.len());
        raw[at] ^= with;
        let _ = decode(&raw, &row);
        prop_assert_eq!(decode(&raw[..at], &row), None);
    }
}

#[tokio::test]
async fn many_of_one_series_go_on_in_the_next_chunk() {
    let its: BTreeSet<_> = (0..10_000_i64).map(|i| (i * 7, i as u64, i as u16)).collect();
    let all = listed(&Model::from([(3, its), (4, BTreeSet::from([(5, 6, 7)]))]));
    let reader = open(written(&all).await.output).await.unwrap();
    assert!(reader.appendix(Section::Exemplars).await.unwrap().len() > 2);
    assert_eq!(read(&reader, ExemplarFilter::default()).await.unwrap(), all);
    assert_eq!(reader.verify().await.unwrap().stats.exemplars, 10_001);
    let late = ExemplarFilter {
        range_ms: Some((69_000, 70_000)),
        ..ExemplarFilter::default()
    };
    let found = read(&reader, late).await.unwrap();
    assert_eq!(found.iter().map(|s| s.exemplars.len()).collect::<Vec<_>>(), [142]);
}

#[tokio::test]
async fn a_block_for_older_nodes_has_none() {
    let mut writer = BlockWriter::new(meta(), MemorySink::default());
    let labels = labels_of(1);
    writer.add_series(labels.as_ref(), [page(0, [1.0, 2.5])]).await.unwrap();
    assert!(!writer.keeps_extras());
    writer
        .add_exemplars(labels.as_ref(), vec![exemplar(&(1, 2, 3))])
        .unwrap();
    let block = writer.finish().await.unwrap();
    assert_eq!((block.meta.format_version, block.meta.stats.exemplars), (3, 0));
    let reader = open(block.output).await.unwrap();
    assert!(read(&reader, ExemplarFilter::default()).await.unwrap().is_empty());
}

#[tokio::test]
async fn series_out_of_order_and_times_outside_of_the_window_are_refused() {
    let mut meta = meta();
    meta.feature_level = BLOCK_EXTRAS_FEATURE_LEVEL;
    let mut writer = BlockWriter::new(meta, MemorySink::default());
    let one = || vec![exemplar(&(1, 2, 3))];
    writer.add_exemplars(labels_of(17).as_ref(), one()).unwrap();
    for series in [17, 16] {
        let error = writer.add_exemplars(labels_of(series).as_ref(), one()).unwrap_err();
        assert!(matches!(error, BlockError::Unsorted { .. }), "{error}");
    }
    for at in [-1, 7_200_000] {
        let error = writer
            .add_exemplars(labels_of(18).as_ref(), vec![exemplar(&(at, 2, 3))])
            .unwrap_err();
        assert!(matches!(error, BlockError::BadSeries { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_flipped_bit_in_the_section_is_damage_that_says_where() {
    let its: BTreeSet<_> = (0..500_i64).map(|i| (i * 7, i as u64, i as u16)).collect();
    let block = written(&listed(&Model::from([(3, its)]))).await;
    let reader = open(block.output.clone()).await.unwrap();
    let section = reader.footer.section(Section::Exemplars);
    for at in [
        section.offset,
        section.offset + section.len / 2,
        section.range().end - 1,
    ] {
        let mut bytes = block.output.to_vec();
        bytes[at as usize] ^= 4;
        let reader = open(bytes.into()).await.unwrap();
        let error = read(&reader, ExemplarFilter::default()).await.unwrap_err();
        assert!(error.is_damage() && error.to_string().contains("at byte"), "{error}");
    }
    // Samples are read all the same.
    let mut bytes = block.output.to_vec();
    bytes[section.offset as usize] ^= 4;
    let reader = open(bytes.into()).await.unwrap();
    let all = super::super::tests::collect(reader.select(&[], 0, i64::MAX).await.unwrap()).await;
    assert_eq!(all.unwrap().len(), 1);
    assert!(reader.verify().await.is_err());
}

#[test]
fn a_section_without_chunks_is_empty() {
    assert!(Appendix::default().finish().unwrap().is_empty());
}
