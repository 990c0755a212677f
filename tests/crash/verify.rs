//! Whether bucket, catalogue and heads hold what they should, once each, and nothing else.

use crate::ledger::{Ledger, Samples};
use crate::node::Running;
use futures::TryStreamExt;
use gnomon_cluster::meta::read_newest_checkpoint;
use gnomon_proto::service::ShardReadService;
use gnomon_proto::v1::block_record::State;
use gnomon_proto::v1::{BlockRecord, SelectRequest, View};
use gnomon_tsdb::{BlockReader, Bucket, decode_into};
use object_store::ObjectStore;
use object_store::path::Path;
use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

/// What is wrong once everything is settled: in words.
pub async fn everything(running: &Running, ledger: &Ledger) -> Vec<String> {
    let state = running.state();
    let mut wrong: Vec<String> = state
        .blocks
        .iter()
        .filter(|b| b.state() != State::Live)
        .map(|b| format!("block {} is {:?}", b.id, b.state()))
        .collect();
    wrong.extend(
        state
            .tombstones
            .iter()
            .map(|t| format!("a delete is left: {}", t.revision)),
    );
    wrong.extend(bucket(&running.world.bucket_folder(), &state.blocks));
    let mut blocks = Samples::new();
    for block in &state.blocks {
        wrong.extend(read_block(&running.bucket, block, &mut blocks).await);
    }
    let in_head = head_samples(running).await;
    let (in_blocks, all) = (blocks.len(), ledger.count());
    if in_blocks + in_head != all {
        wrong.push(format!(
            "{in_blocks} samples are in blocks and {in_head} in the head, {all} should be"
        ));
    }
    wrong
}

fn files(folder: &FilePath, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// Every file is named by the catalogue, and as long as it says.
fn bucket(folder: &FilePath, blocks: &[BlockRecord]) -> Vec<String> {
    let mut found = Vec::new();
    files(folder, &mut found);
    let mut lengths: BTreeMap<String, u64> = found
        .iter()
        .map(|file| {
            let name = file.strip_prefix(folder).unwrap().display().to_string();
            (name, file.metadata().unwrap().len())
        })
        .collect();
    let mut wrong = Vec::new();
    for block in blocks {
        match lengths.remove(&block.path) {
            Some(bytes) if bytes == block.bytes => {}
            found => wrong.push(format!(
                "{} has {found:?} bytes, {} in the catalogue",
                block.path, block.bytes
            )),
        }
    }
    let orphans = lengths
        .keys()
        .filter(|name| !name.starts_with("catalogue/checkpoint-") || name.contains('#'));
    wrong.extend(orphans.map(|name| format!("{name} is nobody's")));
    wrong
}

/// Adds a block's samples to those of others; what is wrong with it.
async fn read_block(store: &Arc<dyn ObjectStore>, record: &BlockRecord, samples: &mut Samples) -> Vec<String> {
    let mut wrong = Vec::new();
    let path = Path::from(record.path.as_str());
    let reader = match BlockReader::open(store.clone(), path).await {
        Ok(reader) => Arc::new(reader),
        Err(error) => return vec![format!("{}: {error}", record.path)],
    };
    if let Err(error) = reader.verify().await {
        wrong.push(format!("{}: {error}", record.path));
    }
    let mut all = reader.select(&[], i64::MIN, i64::MAX).await.unwrap();
    let mut count = 0;
    while let Some(series) = all.next().await.unwrap() {
        for page in series.pages {
            let (mut times, mut values) = (Vec::new(), Vec::new());
            decode_into(&page.bytes, &mut times, &mut values).unwrap();
            count += times.len() as u64;
            for (at, value) in times.into_iter().zip(values) {
                let place = (series.labels.metric_name().to_owned(), at);
                if samples.insert(place.clone(), value).is_some() {
                    wrong.push(format!("{place:?} is in two blocks"));
                }
            }
        }
    }
    if count != record.samples {
        wrong.push(format!(
            "{} has {count} samples, {} in the catalogue",
            record.path, record.samples
        ));
    }
    wrong
}

/// Samples that the head has beside all blocks.
async fn head_samples(running: &Running) -> usize {
    let state = running.state();
    let mut parts: Vec<u64> = state.blocks.iter().flat_map(|b| b.parts.iter().copied()).collect();
    parts.sort_unstable();
    let request = SelectRequest {
        tenant: "anonymous".into(),
        start_ms: i64::MIN,
        end_ms: i64::MAX,
        max_bytes: u64::MAX,
        view: Some(View {
            catalogue_revision: state.catalogue_revision,
            parts_from_blocks: parts,
            ..View::default()
        }),
        ..SelectRequest::default()
    };
    let batches = running.shards.select(request).await.unwrap();
    let batches: Vec<_> = batches.try_collect().await.unwrap();
    let pages = batches
        .iter()
        .flat_map(|batch| &batch.series)
        .flat_map(|series| &series.pages);
    pages.map(|page| page.count as usize).sum()
}

/// A snapshot that was acknowledged has everything, once.
pub async fn snapshot(folder: &FilePath, ledger: &Ledger) -> Vec<String> {
    let copy = Bucket::folder(folder).unwrap();
    let catalogue = read_newest_checkpoint(copy.store().as_ref()).await.unwrap().unwrap();
    let mut samples = Samples::new();
    let mut wrong = Vec::new();
    for block in &catalogue.blocks {
        wrong.extend(read_block(copy.store(), block, &mut samples).await);
    }
    wrong.extend(ledger.differences(&samples));
    wrong
}
