//! The block reader and the page decoder. Checksums and compression are off where a fuzzer builds the crates (`cfg(fuzzing)`),
//! so what is changed in a good block gets as far as it can.
#![no_main]

use bytes::Bytes;
use futures::executor::block_on;
use gnomon_model::ids::START_TIMES_FEATURE_LEVEL;
use gnomon_model::{BlockId, ClusterId, Labels, MatchOp, Matcher, PartId, ShardId, TenantId, TimeRange, TimestampMs};
use gnomon_tsdb::{
    BlockError, BlockMeta, BlockReader, BlockWriter, Exemplar, ExemplarFilter, FloatPageBuilder, MemorySink,
    MetricMetadata, Page, Starts,
};
use libfuzzer_sys::fuzz_target;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use std::sync::{Arc, OnceLock};

/// A good block of a few series.
fn good() -> &'static [u8] {
    static BLOCK: OnceLock<Vec<u8>> = OnceLock::new();
    BLOCK.get_or_init(|| {
        let window = TimeRange::new(TimestampMs(0), TimestampMs(7_200_000));
        let shard = ShardId(1);
        let mut meta = BlockMeta::new(BlockId(7), ClusterId(1), TenantId::anonymous(), shard, window);
        meta.parts = vec![PartId { shard, number: 1 }];
        meta.feature_level = START_TIMES_FEATURE_LEVEL;
        let mut writer = BlockWriter::new(meta, MemorySink::default()).thorough();
        block_on(async {
            // The pod implies the node; one series has neither.
            for n in 0..12_i64 {
                let mut pairs = vec![("__name__", format!("m{}", n / 4)), ("n", (n % 4).to_string())];
                if n != 7 {
                    pairs.push(("node", format!("node-{}", n % 2)));
                    pairs.push(("pod", format!("pod-{}", n % 4)));
                }
                let labels = Labels::from_pairs(pairs);
                let mut page = FloatPageBuilder::new();
                // Times of two targets, of which some series miss some; numbers that recur, and others.
                for i in (0..40).filter(|i| n < 2 || (i + n) % 11 != 0) {
                    let value = if n < 4 {
                        (i * i / 9 % 5) as f64
                    } else {
                        (i * n) as f64 / 3.0
                    };
                    page.append(i * 15_000 + n % 2 + i * i % 7, value).expect("a sample");
                }
                let page = page.page().expect("a page");
                let starts = Starts::of((0..page.count).map(|at| match n % 4 {
                    0 => 0,
                    1 => -1_000,
                    _ => i64::from(at / 13) * 200_000,
                }));
                let page = page.with_starts(&starts).expect("a page");
                let pages = vec![if n % 2 == 0 {
                    page
                } else {
                    page.closed().expect("a page")
                }];
                writer.add_series(labels.as_ref(), pages).await.expect("a series");
                let exemplar = |at: i64| Exemplar {
                    timestamp_ms: at * at * 1000,
                    value: at as f64 / 7.0,
                    labels: Labels::from_pairs([("trace_id", format!("{:08x}", at * 7919))]),
                };
                let its = (0..n % 3 * 4).map(exemplar).collect();
                writer.add_exemplars(labels.as_ref(), its).expect("exemplars");
            }
            for (metric, help) in [("m0", "What it is."), ("m1", ""), ("m2", "Another.")] {
                let known = MetricMetadata {
                    at_ms: 7_199_999,
                    kind: "gauge".to_owned(),
                    unit: String::new(),
                    help: help.to_owned(),
                };
                writer.add_metadata(metric, known);
            }
            writer.finish().await.expect("a block").output.to_vec()
        })
    })
}

async fn read(bytes: Vec<u8>) -> Result<(), BlockError> {
    let store = Arc::new(InMemory::new());
    let path = Path::from("b");
    store.put(&path, PutPayload::from(bytes)).await.expect("memory");
    let reader = Arc::new(BlockReader::open(store, path).await?);
    let _ = reader.verify().await;
    for matchers in [
        vec![],
        vec![Matcher::new("n", MatchOp::Regex, "1|2").expect("a matcher")],
        vec![Matcher::new("node", MatchOp::NotRegex, ".*-1").expect("a matcher")],
    ] {
        let _ = reader.label_names(&matchers).await;
        let _ = reader.label_values("node", &matchers).await;
        let _ = reader.metadata(matchers.first().map(|_| "m1")).await;
        let filter = ExemplarFilter {
            sets: vec![matchers.clone()],
            ..ExemplarFilter::default()
        };
        if let Ok(mut exemplars) = reader.exemplars(filter).await {
            while let Ok(Some(_)) = exemplars.next().await {}
        }
        let mut selection = reader.select(&matchers, 0, i64::MAX).await?;
        while let Some(series) = selection.next().await? {
            for page in series.pages {
                let _ = page.decode();
            }
        }
    }
    Ok(())
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else {
        return;
    };
    match kind % 3 {
        0 => {
            if let Ok(page) = Page::parse(Bytes::copy_from_slice(rest)) {
                let _ = page.decode();
            }
        }
        1 => {
            let _ = block_on(read(rest.to_vec()));
        }
        // Changes of a good block: place (two bytes) and value.
        _ => {
            let mut block = good().to_vec();
            let length = block.len();
            for change in rest.as_chunks::<3>().0 {
                block[usize::from(u16::from_le_bytes([change[0], change[1]])) % length] = change[2];
            }
            let _ = block_on(read(block));
        }
    }
});
