//! `gnomon block export`: series of blocks, merged, for other programs.

mod parquet;
mod prometheus;
mod window;

use super::place::{Place, bucket};
use super::progress::Progress;
use super::stop::{INTERRUPTED, Interrupted, on_signals};
use crate::flags::{Export, ExportFormat};
use anyhow::{Context, bail};
use futures::TryStreamExt;
use gnomon_cluster::deletes::{BadRecord, KnownDeletes};
use gnomon_cluster::meta::read_newest_checkpoint;
use gnomon_model::{Matcher, TimeRange};
use gnomon_proto::v1::block_record::State;
use gnomon_proto::v1::{BlockRecord, TombstoneRecord};
use gnomon_tsdb::bucket::BlockKey;
use gnomon_tsdb::{BlockError, BlockMeta, BlockReader, Deletes, SeriesMerge, SeriesStream};
use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Runs the command; 130 where it was interrupted.
#[must_use]
pub fn run(what: &Export) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("gnomon block export: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(export(what)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("interrupted: what was finished stays");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            eprintln!("gnomon block export: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn export(what: &Export) -> anyhow::Result<()> {
    let stop = on_signals()?;
    let blocks = open_blocks(what, &stop).await?;
    let mut source = Source { blocks, what };
    let of_time = |block: &Block| block.reader.overlaps(what.start_ms, what.end_ms);
    source.blocks.retain(of_time);
    // Of two samples of one series and time the one in the earlier part counts.
    source.blocks.sort_by_key(|block| {
        let meta = block.reader.meta();
        (meta.shard, meta.parts.first().copied())
    });
    std::fs::create_dir_all(&what.output).with_context(|| what.output.display().to_string())?;
    let samples = source
        .blocks
        .iter()
        .map(|block| block.reader.meta().stats.samples)
        .sum();
    let progress = Progress::new("exported", samples);
    match what.format {
        ExportFormat::Prometheus => prometheus::write(&source, progress, &stop).await,
        ExportFormat::Parquet => parquet::write(&source, progress, &stop).await,
    }
}

/// A block that is read, without what is deleted of it.
struct Block {
    reader: Arc<BlockReader>,
    /// Those that it has not carried out itself.
    deletes: Deletes,
}

/// The named blocks, of which no deletes are known, or all live ones.
async fn open_blocks(what: &Export, stop: &CancellationToken) -> anyhow::Result<Vec<Block>> {
    let mut blocks = Vec::new();
    for name in &what.blocks {
        blocks.push(Block {
            reader: super::open(what.from.object_store.as_deref(), name).await?,
            deletes: Deletes::default(),
        });
    }
    if !blocks.is_empty() {
        return Ok(blocks);
    }
    let tenant = what.from.tenant.as_str();
    let known = KnownDeletes::default();
    if !what.from.peers.is_empty() {
        let place = Place::open(&what.from, stop).await?;
        let state = place.meta.read().await?;
        let live = state
            .blocks
            .iter()
            .filter(|b| b.state() == State::Live && b.tenant == tenant);
        for record in live.filter(|b| b.start_ms <= what.end_ms && what.start_ms < b.end_ms) {
            blocks.push(Block {
                reader: Arc::new(BlockReader::open_in(&place.bucket, &record.path).await?),
                deletes: known.masking(&state.tombstones, record)?,
            });
        }
        return Ok(blocks);
    }
    let bucket = bucket(&what.from)?;
    // Before the blocks: a delete that is forgotten in it masks none of those that are there afterwards.
    let checkpoint = read_newest_checkpoint(bucket.store().as_ref())
        .await
        .with_context(|| format!("{}: which deletes there are", bucket.url()))?;
    let objects: Vec<_> = bucket.store().list(None).try_collect().await?;
    let mut found = Vec::new();
    for object in objects {
        if BlockKey::parse(&object.location).is_some_and(|key| key.tenant.as_str() == tenant) {
            found.push(Arc::new(BlockReader::open_in(&bucket, object.location.as_ref()).await?));
        }
    }
    if found.is_empty() {
        bail!("{} has no blocks of tenant {tenant}", bucket.url());
    }
    if checkpoint.is_none() {
        eprintln!(
            "{} has no copy of the catalogue: deletes that are not carried out yet are not known",
            bucket.url()
        );
    }
    let tombstones = checkpoint.map(|state| state.tombstones).unwrap_or_default();
    let kept = not_superseded(&found.iter().map(|block| block.meta()).collect::<Vec<_>>());
    for (reader, _) in found.into_iter().zip(kept).filter(|(_, kept)| *kept) {
        let deletes = masking(&known, &tombstones, reader.meta())?;
        blocks.push(Block { reader, deletes });
    }
    Ok(blocks)
}

/// Those of `tombstones` that mask a block, by the block's own word.
fn masking(known: &KnownDeletes, tombstones: &[TombstoneRecord], meta: &BlockMeta) -> Result<Deletes, BadRecord> {
    let record = BlockRecord {
        tenant: meta.tenant.to_string(),
        start_ms: meta.window.start.0,
        end_ms: meta.window.end.0,
        tombstone_revision: meta.tombstone_revision,
        ..BlockRecord::default()
    };
    known.masking(tombstones, &record)
}

/// Which blocks of a bucket nobody replaces: one whose parts are all in another of a higher level, or of the same level
/// with more deletes carried out, waits to be deleted.
fn not_superseded(metas: &[&BlockMeta]) -> Vec<bool> {
    let covers = |other: &BlockMeta, meta: &BlockMeta| {
        let theirs: BTreeSet<_> = other.parts.iter().collect();
        (other.level, other.tombstone_revision) > (meta.level, meta.tombstone_revision)
            && other.shard == meta.shard
            && meta.parts.iter().all(|part| theirs.contains(part))
    };
    metas
        .iter()
        .map(|meta| !metas.iter().any(|other| covers(other, meta)))
        .collect()
}

/// What is exported.
struct Source<'a> {
    blocks: Vec<Block>,
    what: &'a Export,
}

impl Source<'_> {
    /// First and last sample of all, both inclusive, within what is asked for; none where there are none.
    fn span_ms(&self) -> Option<(i64, i64)> {
        let stats = || self.blocks.iter().map(|block| block.reader.meta().stats);
        let first = stats().map(|stats| stats.min_sample.0).min()?;
        let last = stats().map(|stats| stats.max_sample.0).max()?;
        Some((first.max(self.what.start_ms), last.min(self.what.end_ms)))
    }

    /// The series with samples in `first_ms..=last_ms`, or only their labels.
    async fn series(
        &self,
        first_ms: i64,
        last_ms: i64,
        labels_only: bool,
    ) -> Result<SeriesMerge<BlockError>, BlockError> {
        let every = [Vec::<Matcher>::new()];
        let sets = if self.what.matchers.is_empty() {
            &every[..]
        } else {
            &self.what.matchers
        };
        let mut streams: Vec<SeriesStream<BlockError>> = Vec::new();
        let overlapping = |block: &&Block| block.reader.overlaps(first_ms, last_ms);
        for block in self.blocks.iter().filter(overlapping) {
            for set in sets {
                let selected = if labels_only {
                    block.reader.select_labels(set, first_ms, last_ms).await?
                } else {
                    block.reader.select(set, first_ms, last_ms).await?
                };
                streams.push(selected.without(block.deletes.clone()).into_stream());
            }
        }
        Ok(SeriesMerge::new(streams))
    }

    /// Windows of the width that was asked for, oldest first, cut at what is exported: first and last time, inclusive.
    fn windows(&self) -> Vec<(i64, i64)> {
        let Some((first, last)) = self.span_ms() else {
            return Vec::new();
        };
        let mut windows: BTreeSet<i64> = BTreeSet::new();
        // Only where a block is: there may be years between two.
        for block in &self.blocks {
            let stats = block.reader.meta().stats;
            let mut at = stats.min_sample.0.max(first);
            while at <= stats.max_sample.0.min(last) {
                let window = TimeRange::window_of(gnomon_model::TimestampMs(at), self.what.width_ms);
                windows.insert(window.start.0);
                at = window.end.0;
            }
        }
        let window = |start: i64| {
            let end = start.saturating_add(self.what.width_ms - 1);
            (start.max(first), end.min(last))
        };
        windows.into_iter().map(window).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gnomon_cluster::deletes::from_record;
    use gnomon_model::{BlockId, ClusterId, PartId, ShardId, TenantId, TimestampMs};
    use gnomon_proto::matchers::sets_to_wire;

    #[test]
    fn a_block_that_another_replaces_is_left_out() {
        let meta = |id: u128, level, parts: &[u64]| {
            let window = TimeRange::new(TimestampMs(0), TimestampMs(1));
            let mut meta = BlockMeta::new(BlockId(id), ClusterId(1), TenantId::anonymous(), ShardId(0), window);
            meta.level = level;
            meta.parts = parts
                .iter()
                .map(|number| PartId {
                    shard: ShardId(0),
                    number: *number,
                })
                .collect();
            meta
        };
        let metas = [
            meta(1, 0, &[1]),
            meta(2, 0, &[2]),
            meta(3, 1, &[1, 2]),
            meta(4, 0, &[3]),
        ];
        let mut other = meta(5, 2, &[1, 2, 3]);
        other.shard = ShardId(1);
        // Written anew, with a delete carried out.
        let mut anew = meta(6, 0, &[3]);
        anew.tombstone_revision = 7;
        let all: Vec<&BlockMeta> = metas.iter().chain([&other, &anew]).collect();
        assert_eq!(not_superseded(&all), [false, false, true, false, true, true]);
    }

    #[test]
    fn deletes_mask_a_block_that_has_not_carried_them_out() {
        let window = TimeRange::new(TimestampMs(0), TimestampMs(100));
        let tenant = TenantId::anonymous();
        let mut meta = BlockMeta::new(BlockId(1), ClusterId(1), tenant.clone(), ShardId(0), window);
        let delete = |revision: u64, tenant: &str, start_ms: i64| TombstoneRecord {
            revision,
            tenant: tenant.to_owned(),
            series: sets_to_wire(&[vec![Matcher::equal("a", "b")]]),
            start_ms,
            end_ms: i64::MAX,
            ..TombstoneRecord::default()
        };
        let records = [
            delete(3, tenant.as_str(), 0),
            delete(4, "other", 0),
            delete(5, tenant.as_str(), 100),
            delete(6, tenant.as_str(), 50),
        ];
        let expected = |records: &[&TombstoneRecord]| -> Deletes {
            let read = records.iter().map(|record| Arc::new(from_record(record).unwrap()));
            read.collect()
        };
        let known = KnownDeletes::default();
        let mut masked = |carried_out: u64| {
            meta.tombstone_revision = carried_out;
            masking(&known, &records, &meta).unwrap()
        };
        assert_eq!(masked(0), expected(&[&records[0], &records[3]]));
        assert_eq!(masked(3), expected(&[&records[3]]));
        assert!(masked(6).is_empty());
    }
}
