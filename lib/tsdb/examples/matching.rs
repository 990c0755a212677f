//! How long matchers take over a block of a generated fleet: with nothing kept of its index, and with all of it.
//! `cargo run --release --workspace --example matching [series]`; the default is 100,000.

use gnomon_model::{
    BlockId, ClusterId, Labels, MatchOp, Matcher, ShardId, TenantId, TimeRange, TimestampMs, labels::METRIC_NAME,
};
use gnomon_tsdb::{BlockCache, BlockMeta, BlockReader, BlockWriter, FloatPageBuilder, MemorySink};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;

/// Series of one pod.
const METRICS: usize = 50;

fn mixed(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The series of a fleet, and one with a value of its own for each of them.
fn fleet(series: usize) -> Vec<Labels> {
    let mut all = Vec::with_capacity(series);
    for n in 0..series {
        let (pod, metric) = ((n / METRICS) as u64, n % METRICS);
        let seed = mixed(pod + 1);
        let app = format!("app-{:02}", pod / 20);
        let labels = [
            (METRIC_NAME, format!("metric_{:02}_total", metric / 5)),
            ("code", format!("{}00", metric % 5 + 1)),
            ("namespace", format!("team-{:02}", pod / 20 % 17)),
            ("pod", format!("{app}-{:08x}", seed >> 32)),
            (
                "instance",
                format!("10.{}.{}.{}:8080", seed & 3, seed >> 8 & 255, seed >> 16 & 255),
            ),
            ("node", format!("node-{:03}", seed >> 24 & 63)),
            ("container", app),
            ("id", format!("{n:06}-{:04x}", mixed(n as u64) & 0xffff)),
        ];
        all.push(Labels::from_pairs(labels));
    }
    all.sort_unstable();
    all
}

async fn block(series: &[Labels]) -> Result<Arc<InMemory>, Box<dyn Error>> {
    let window = TimeRange::new(TimestampMs(0), TimestampMs(7_200_000));
    let meta = BlockMeta::new(BlockId(1), ClusterId(1), TenantId::anonymous(), ShardId(0), window);
    let mut writer = BlockWriter::new(meta, MemorySink::default());
    for labels in series {
        let mut page = FloatPageBuilder::new();
        page.append(1, 1.0)?;
        writer.add_series(labels.as_ref(), page.page()).await?;
    }
    let store = Arc::new(InMemory::new());
    store
        .put(&Path::from("block"), writer.finish().await?.output.into())
        .await?;
    Ok(store)
}

async fn series_of(reader: &Arc<BlockReader>, matchers: &[Matcher]) -> Result<usize, Box<dyn Error>> {
    let mut selection = reader.select_labels(matchers, i64::MIN, i64::MAX).await?;
    let mut count = 0;
    while let Some(batch) = selection.next_batch().await? {
        count += batch.len();
    }
    Ok(count)
}

/// Microseconds, best of so many passes.
#[allow(clippy::disallowed_methods)]
async fn best<T>(
    passes: usize,
    mut run: impl AsyncFnMut() -> Result<T, Box<dyn Error>>,
) -> Result<(T, f64), Box<dyn Error>> {
    let (mut best, mut last) = (f64::INFINITY, None);
    for _ in 0..passes {
        let began = std::time::Instant::now();
        last = Some(run().await?);
        best = best.min(began.elapsed().as_secs_f64());
    }
    Ok((last.ok_or("no pass")?, best * 1e6))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let count = std::env::args().nth(1).map_or(Ok(100_000), |n| n.parse())?;
    let series = fleet(count);
    let store = block(&series).await?;
    let open = async || -> Result<Arc<BlockReader>, Box<dyn Error>> {
        let cache = Arc::new(BlockCache::new(256 << 20, 64 << 20));
        let reader = BlockReader::open_cached(store.clone(), Path::from("block"), &cache).await?;
        Ok(Arc::new(reader))
    };
    let reader = open().await?;
    println!("{} series, {} bytes; parts:", series.len(), reader.len_bytes());
    for (name, len) in reader.sections().filter(|(_, len)| *len > 0) {
        println!(
            "  {name:<12} {len:>9}  {:.2} a series",
            len as f64 / series.len() as f64
        );
    }
    let pod = series[series.len() / 2].get("pod").unwrap_or_default().to_owned();
    let name = |value: &str| Matcher::new(METRIC_NAME, MatchOp::Equal, value);
    let id = |op, value: &str| Matcher::new("id", op, value);
    let m = |name: &str, op, value: &str| Matcher::new(name, op, value);
    use MatchOp::{Equal, NotEqual, NotRegex, Regex};
    let rows: Vec<Vec<Matcher>> = vec![
        vec![
            name("metric_03_total")?,
            m("pod", Equal, &pod)?,
            m("code", Equal, "300")?,
        ],
        vec![m("pod", Equal, &pod)?],
        vec![name("metric_03_total")?],
        vec![name("metric_03_total")?, m("namespace", Equal, "team-03")?],
        vec![name("metric_03_total")?, m("namespace", NotEqual, "team-03")?],
        vec![m("pod", Regex, "app-0.*")?],
        vec![name("metric_03_total")?, m("pod", Regex, ".*-a.*")?],
        vec![id(Regex, "0123.*")?],
        vec![id(Regex, "000123-.{4}|05000[0-9].*|nothing")?],
        vec![id(Regex, ".*abc.*")?],
        vec![id(Regex, "[0-9]+")?],
        vec![id(Regex, "[0-9]+-[a-f]+")?],
        vec![name("metric_03_total")?, id(NotRegex, "0[0-4].*")?],
        vec![id(NotRegex, ".*[0-9]$")?],
        vec![],
    ];
    println!("| matchers | series | nothing kept, µs | all kept, µs |\n|---|---:|---:|---:|");
    for matchers in rows {
        let (found, cold) = best(3, async || series_of(&open().await?, &matchers).await).await?;
        let (_, warm) = best(7, async || series_of(&reader, &matchers).await).await?;
        println!("| `{matchers:?}` | {found} | {cold:.0} | {warm:.0} |");
    }
    // What aggregations by a label begin with: all label sets of a metric.
    let metric = [name("metric_03_total")?];
    let (groups, by) = best(7, async || {
        let mut selection = reader.select_labels(&metric, i64::MIN, i64::MAX).await?;
        let mut groups: BTreeMap<String, u64> = BTreeMap::new();
        while let Some(batch) = selection.next_batch().await? {
            for series in batch {
                let value = series.labels.get("namespace").unwrap_or_default();
                match groups.get_mut(value) {
                    Some(count) => *count += 1,
                    None => drop(groups.insert(value.to_owned(), 1)),
                }
            }
        }
        Ok(groups.len())
    })
    .await?;
    println!("| count by (namespace) of a metric | {groups} | | {by:.0} |");
    for (label, matchers) in [
        ("pod", vec![]),
        ("pod", vec![m("namespace", Equal, "team-03")?]),
        ("id", metric.to_vec()),
    ] {
        let (found, cold) = best(3, async || {
            Ok(open().await?.label_values(label, &matchers).await?.len())
        })
        .await?;
        let (_, warm) = best(7, async || Ok(reader.label_values(label, &matchers).await?.len())).await?;
        println!("| values of {label}, `{matchers:?}` | {found} | {cold:.0} | {warm:.0} |");
    }
    Ok(())
}
