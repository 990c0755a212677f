//! What matchers select, and what it takes to read it.

use super::*;
use crate::block::dictionary::ChunkLimits;
use crate::bucket::faults::{Faults, FaultyStore};
use std::collections::BTreeSet;

fn matcher(name: &str, op: MatchOp, value: &str) -> Matcher {
    Matcher::new(name, op, value).unwrap()
}

/// The series that are selected are those that a look at every series finds; these.
async fn finds_what_fits(reader: &Arc<BlockReader>, series: &[SeriesPages], matchers: &[Matcher]) -> Vec<SeriesPages> {
    let fits = |s: &&SeriesPages| matchers.iter().all(|m| m.matches_labels(s.labels.as_ref()));
    let expected: Vec<SeriesPages> = series.iter().filter(fits).cloned().collect();
    let found = collect(reader.select(matchers, i64::MIN, i64::MAX).await.unwrap())
        .await
        .unwrap();
    assert!(
        decoded(&found) == decoded(&expected),
        "{matchers:?}: {} of {}",
        found.len(),
        expected.len()
    );
    expected
}

/// Series, label names and label values are those that a look at every series finds.
async fn agrees(reader: &Arc<BlockReader>, series: &[SeriesPages], matchers: &[Matcher]) {
    let expected = finds_what_fits(reader, series, matchers).await;
    let labels = reader.select_labels(matchers, i64::MIN, i64::MAX).await.unwrap();
    let labels = collect(labels).await.unwrap();
    assert!(labels.iter().map(|s| &s.labels).eq(expected.iter().map(|s| &s.labels)));
    let names: BTreeSet<&str> = expected.iter().flat_map(|s| s.labels.iter()).map(|(n, _)| n).collect();
    let found = reader.label_names(matchers).await.unwrap();
    assert!(found.iter().eq(&names), "{matchers:?}: {found:?}");
    for name in names.into_iter().chain(["absent"]) {
        let values: BTreeSet<&str> = expected.iter().filter_map(|s| s.labels.get(name)).collect();
        let found = reader.label_values(name, matchers).await.unwrap();
        assert!(found.iter().eq(&values), "{name} {matchers:?}: {found:?}");
    }
}

/// Of series as [`example`] has them.
pub(super) async fn selects_as_a_scan_does(reader: &Arc<BlockReader>, series: &[SeriesPages]) {
    use MatchOp::{Equal, NotEqual, NotRegex, Regex};
    let m = matcher;
    for matchers in [
        vec![],
        vec![m("__name__", Equal, "metric_2")],
        vec![m("__name__", Equal, "absent")],
        vec![m("__name__", Equal, "metric_2"), m("mode", NotEqual, "idle")],
        vec![m("mode", Equal, "idle"), m("job", Equal, "node")],
        vec![m("mode", Equal, "")],
        vec![m("mode", NotEqual, "")],
        vec![m("mode", NotRegex, "i.*")],
        vec![m("instance", Regex, "host-1.*")],
        vec![m("instance", Regex, "[a-h]ost-(1|7).+")],
        vec![
            m("instance", Regex, "host-(3|77|500):9100"),
            m("__name__", Regex, "metric_1.*"),
        ],
        vec![m("instance", NotRegex, "host-.*")],
        vec![m("no_such_label", Equal, "")],
        vec![m("no_such_label", Regex, ".+")],
        vec![m("job", Regex, ".*"), m("__name__", NotEqual, "metric_0")],
    ] {
        agrees(reader, series, &matchers).await;
    }
}

#[tokio::test]
async fn what_is_selected_is_what_a_scan_of_all_series_finds() {
    let series = example(12, 150);
    let block = write(meta(), &series).await;
    assert_eq!((block.meta.stats.series, block.meta.stats.samples), (1800, 1800 * 40));
    let reader = open(block.output.clone()).await.unwrap();
    assert_eq!((reader.len_bytes(), reader.meta()), (block.bytes, &block.meta));
    selects_as_a_scan_does(&reader, &series).await;
}

/// Series whose labels depend on each other, or do not: the pod implies the node, mostly also the zone.
fn labels() -> impl Strategy<Value = Vec<Labels>> {
    let one = (0..4_u32, 0..12_u32, 0..3_u32, any::<bool>(), 0..20_u32);
    prop::collection::vec(one, 0..60).prop_map(|rows| {
        let set = |(metric, pod, code, has_node, odd): (u32, u32, u32, bool, u32)| {
            let mut pairs = vec![
                ("__name__", format!("m{metric}")),
                ("pod", format!("pod-{}", pod * 7 % 12)),
                ("code", ["", "200", "500"][code as usize].to_owned()),
            ];
            if has_node {
                pairs.push(("node", format!("node-{}", pod % 5)));
            }
            pairs.push((
                "zone",
                if odd == 0 {
                    "z".to_owned()
                } else {
                    format!("z{}", pod % 2)
                },
            ));
            if odd == 1 {
                // Not all that have a node have a pod.
                pairs.retain(|(name, _)| *name != "pod");
            }
            Labels::from_pairs(pairs)
        };
        let sets: BTreeSet<Labels> = rows.into_iter().map(set).collect();
        sets.into_iter().collect()
    })
}

fn any_matcher() -> impl Strategy<Value = Matcher> {
    let names = ["__name__", "pod", "code", "node", "zone", "absent"];
    let values = [
        "",
        "m1",
        "pod-3",
        "200",
        "node-2",
        "z",
        "z1",
        "pod-1.*",
        ".*-2",
        ".+",
        "m1|m3|z0",
        "[a-p]od-[0-9]",
        ".*od.*1.*",
        "z?",
    ];
    (0..names.len(), 0..4_usize, 0..values.len()).prop_map(move |(name, op, value)| {
        let op = [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex][op];
        matcher(names[name], op, values[value])
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn any_block_verifies_and_selects_as_a_scan_does(
        labels in labels(),
        matchers in prop::collection::vec(any_matcher(), 0..3),
        per_chunk in 1..9_usize,
        values in 1..9_usize,
    ) {
        let series: Vec<SeriesPages> = labels.into_iter().map(|labels| SeriesPages { labels, pages: vec![page(0, [1.0])] }).collect();
        block_on(async {
            let limits = ChunkLimits { series: per_chunk, values };
            let mut writer = BlockWriter::new(meta(), MemorySink::default()).with_limits(limits);
            for s in &series {
                writer.add_series(s.labels.as_ref(), s.pages.clone()).await.unwrap();
            }
            let block = writer.finish().await.unwrap();
            let reader = open(block.output).await.unwrap();
            assert_eq!(reader.verify().await.unwrap().stats, block.meta.stats);
            agrees(&reader, &series, &matchers).await;
        });
    }
}

/// Pods with the labels that Kubernetes gives them, some metrics each.
fn pods(count: u64, metrics: u64) -> Vec<SeriesPages> {
    let mut series = Vec::new();
    for metric in 0..metrics {
        for pod in 0..count {
            let labels = Labels::from_pairs([
                ("__name__", format!("metric_{metric:02}")),
                ("instance", format!("10.0.{}.{}:80", pod * 37 % 251, pod % 256)),
                ("namespace", format!("team-{}", pod % 7)),
                ("node", format!("node-{}", pod * 13 % 29)),
                (
                    "pod",
                    format!("pod-{:016x}", (pod + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                ),
                ("uid", format!("{:016x}", (pod + 3).wrapping_mul(0xbf58_476d_1ce4_e5b9))),
            ]);
            let pages = vec![page(0, [pod as f64])];
            series.push(SeriesPages { labels, pages });
        }
    }
    series.sort_by(|a, b| a.labels.cmp(&b.labels));
    series
}

#[tokio::test]
async fn what_a_pod_implies_is_stored_once() {
    let series = pods(500, 20);
    let block = write(meta(), &series).await;
    let reader = open(block.output).await.unwrap();
    assert_eq!(reader.verify().await.unwrap().stats, block.meta.stats);
    let parts = reader.parts();
    let of = |name: &str| parts.iter().find(|(n, _)| *n == name).unwrap().1;
    let index = of("labels") + of("values") + of("postings") + of("tables");
    // Without what pods imply, it is several bytes more: the order of instances is not that of pods or nodes.
    assert!(
        index < 3 * series.len() as u64,
        "{index} bytes for {} series: {parts:?}",
        series.len()
    );
    let pod = series[77].labels.get("pod").unwrap();
    for matchers in [
        vec![matcher("pod", MatchOp::Equal, pod)],
        vec![
            matcher("node", MatchOp::Equal, "node-3"),
            matcher("__name__", MatchOp::Regex, "metric_0.*"),
        ],
        vec![
            matcher("node", MatchOp::NotRegex, "node-[0-9]"),
            matcher("namespace", MatchOp::NotEqual, "team-1"),
        ],
    ] {
        agrees(&reader, &series, &matchers).await;
    }
}

#[tokio::test]
async fn a_series_is_read_by_three_ranges_once_the_footer_is_known() {
    let series = pods(800, 12);
    three_ranges(&series, 1500).await;
    // A metric of several chunks, in each of which every pod has a series.
    let mut series = Vec::new();
    for code in 0..6 {
        for mut pod in pods(1000, 1) {
            let pairs = pod.labels.iter().map(|(name, value)| (name, value.to_owned()));
            pod.labels = Labels::from_pairs(pairs.chain([("code", code.to_string())]));
            series.push(pod);
        }
    }
    series.sort_by(|a, b| a.labels.cmp(&b.labels));
    three_ranges(&series, 1100).await;
}

async fn three_ranges(series: &[SeriesPages], step: usize) {
    let block = write(meta(), series).await;
    let store = FaultyStore::new(Arc::new(InMemory::new()), 1, Faults::default());
    let path = Path::from("b.gnb");
    store.put(&path, PutPayload::from(block.output)).await.unwrap();
    let store: (Arc<dyn object_store::ObjectStore>, FaultyStore) = (Arc::new(store.clone()), store);
    for wanted in series.iter().step_by(step) {
        let all: Vec<&str> = wanted.labels.iter().map(|(name, _)| name).collect();
        let some: Vec<&str> = all
            .iter()
            .copied()
            .filter(|name| ["__name__", "code", "pod"].contains(name))
            .collect();
        for names in [some, all] {
            let cache = Arc::new(BlockCache::new(16 << 20, 16 << 20));
            let reader = BlockReader::open_cached(Arc::clone(&store.0), path.clone(), &cache);
            let reader = Arc::new(reader.await.unwrap());
            let before = store.1.counts().0;
            let equal = |name: &&str| matcher(name, MatchOp::Equal, wanted.labels.get(name).unwrap());
            let matchers: Vec<_> = names.iter().map(equal).collect();
            let found = collect(reader.select(&matchers, 0, i64::MAX).await.unwrap())
                .await
                .unwrap();
            assert!(decoded(&found) == decoded(std::slice::from_ref(wanted)));
            let ranges = store.1.counts().0 - before;
            assert!(ranges <= 3, "{ranges} ranges for {matchers:?}");
        }
    }
}

/// A dictionary of more than a MiB, of which only what is needed is read.
#[tokio::test]
async fn a_large_dictionary_is_read_in_part() {
    let mut state = 7_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state
    };
    let mut series: Vec<SeriesPages> = (0..12_000)
        .map(|n| {
            let id: String = (0..14).map(|_| format!("{:016x}", random())).collect();
            let labels = Labels::from_pairs([
                ("__name__", "m".to_owned()),
                ("id", id),
                ("host", format!("h{}", n % 9)),
            ]);
            let pages = vec![page(0, [1.0])];
            SeriesPages { labels, pages }
        })
        .collect();
    series.sort_by(|a, b| a.labels.cmp(&b.labels));
    let block = write(meta(), &series).await;
    let store = FaultyStore::new(Arc::new(InMemory::new()), 1, Faults::default());
    let path = Path::from("b.gnb");
    store.put(&path, PutPayload::from(block.output)).await.unwrap();
    let reader = Arc::new(BlockReader::open(Arc::new(store.clone()), path).await.unwrap());
    let values = reader.parts().iter().find(|(name, _)| *name == "values").unwrap().1;
    assert!(values > 1 << 20, "{values} bytes");
    let id = series[5000].labels.get("id").unwrap();
    let before = store.counts().0;
    let one = [matcher("id", MatchOp::Equal, id)];
    let found = collect(reader.select(&one, 0, i64::MAX).await.unwrap()).await.unwrap();
    assert!(decoded(&found) == decoded(&series[5000..=5000]));
    // The chunk with the value, that of names and hosts, the series, the page; without a cache some of it twice.
    let ranges = store.counts().0 - before;
    assert!(ranges <= 6, "{ranges} ranges");
    for matchers in [
        vec![matcher("id", MatchOp::Regex, &format!("{}.*", &id[..3]))],
        vec![
            matcher("id", MatchOp::Regex, "[0-4].*[a-f]{3}.*77"),
            matcher("host", MatchOp::NotEqual, "h3"),
        ],
    ] {
        assert!(!finds_what_fits(&reader, &series, &matchers).await.is_empty());
    }
    assert_eq!(reader.verify().await.unwrap().stats, block.meta.stats);
}
