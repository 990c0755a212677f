//! `gnomon block export`: series of blocks, merged, for other programs.

mod needed;
mod parquet;
mod prometheus;
mod window;

use super::place::Place;
use super::progress::Progress;
use super::stop::{INTERRUPTED, Interrupted, on_signals};
use crate::bucket::open_as_it_is;
use crate::flags::{Export, ExportFormat};
use crate::logging::error_text;
use crate::output;
use anyhow::{Context, bail};
use futures::TryStreamExt;
use gnomon_cluster::deletes::{BadRecord, KnownDeletes};
use gnomon_cluster::meta::read_newest_checkpoint;
use gnomon_model::{Matcher, TimeRange};
use gnomon_proto::v1::block_record::State;
use gnomon_proto::v1::{BlockRecord, TombstoneRecord};
use gnomon_tsdb::bucket::BlockKey;
use gnomon_tsdb::{BlockError, BlockMeta, BlockReader, Bucket, Deletes, SeriesMerge, SeriesStream};
use needed::{Damage, is_damage, is_missed, not_superseded};
use std::collections::{BTreeSet, HashMap};
use std::process::ExitCode;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Runs the command; 130 where it was interrupted.
#[must_use]
pub fn run(what: &Export) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::tell(format_args!("gnomon block export: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(export(what)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => {
            output::tell(format_args!("interrupted: what was finished stays"));
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            output::fail("gnomon block export", &error);
            ExitCode::FAILURE
        }
    }
}

async fn export(what: &Export) -> anyhow::Result<()> {
    let stop = on_signals()?;
    let mut damage = Damage::new(what.skip_damaged);
    let blocks = open_blocks(what, &mut damage, &stop).await?;
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
        ExportFormat::Prometheus => prometheus::write(&source, progress, &stop).await?,
        ExportFormat::Parquet => parquet::write(&source, progress, &stop).await?,
    }
    damage.tell();
    Ok(())
}

/// Where nothing was written the place is the right one, it may be, and what is selected of it is not.
fn tell_if_nothing(samples: u64) {
    if samples == 0 {
        output::tell(format_args!(
            "nothing is exported: no block has samples of the time and the series that are meant (--start, --end, --match)"
        ));
    }
}

/// A block that is read, without what is deleted of it.
struct Block {
    reader: Arc<BlockReader>,
    /// Those that it has not carried out itself.
    deletes: Deletes,
}

/// The named blocks, of which no deletes are known, or all live ones.
async fn open_blocks(what: &Export, damage: &mut Damage, stop: &CancellationToken) -> anyhow::Result<Vec<Block>> {
    let mut blocks = Vec::new();
    for name in &what.blocks {
        let opened = super::open(what.from.object_store.as_deref(), name).await;
        blocks.extend(damage.opened(opened)?.map(|reader| Block {
            reader,
            deletes: Deletes::default(),
        }));
    }
    if !what.blocks.is_empty() {
        return Ok(blocks);
    }
    let tenant = what.from.tenant.as_str();
    if what.from.peers.is_empty() {
        let folder = what.from.data_dir.join("bucket");
        let bucket = open_as_it_is(what.from.object_store.as_deref(), &folder)?;
        return open_all(what, damage, &bucket).await;
    }
    let known = KnownDeletes::default();
    let place = Place::open(&what.from, stop).await?;
    let state = place.meta.read().await?;
    let live = state
        .blocks
        .iter()
        .filter(|b| b.state() == State::Live && b.tenant == tenant);
    for record in live.filter(|b| b.start_ms <= what.end_ms && what.start_ms < b.end_ms) {
        let opened = open_in(&place.bucket, &record.path).await;
        if let Some(reader) = damage.opened(opened)? {
            let deletes = known.masking(&state.tombstones, record)?;
            blocks.push(Block { reader, deletes });
        }
    }
    Ok(blocks)
}

async fn open_in(bucket: &Bucket, path: &str) -> anyhow::Result<Arc<BlockReader>> {
    Ok(Arc::new(BlockReader::open_in(bucket, path).await?))
}

/// The blocks of a bucket that nobody replaces, by their own word: the newest copy of the catalogue may be older than they
/// are. It says what was in those that cannot be opened.
async fn open_all(what: &Export, damage: &mut Damage, bucket: &Bucket) -> anyhow::Result<Vec<Block>> {
    let tenant = what.from.tenant.as_str();
    // Before the blocks: a delete that is forgotten in it masks none of those that are there afterwards.
    let checkpoint = read_newest_checkpoint(bucket.store().as_ref())
        .await
        .with_context(|| format!("{}: which deletes there are", bucket.url()))?;
    let objects: Vec<_> = bucket.store().list(None).try_collect().await?;
    if checkpoint.is_none() {
        output::tell(format_args!(
            "{} has no copy of the catalogue: deletes that are not carried out yet are not known",
            bucket.url()
        ));
    }
    let state = checkpoint.unwrap_or_default();
    let records: HashMap<&str, &BlockRecord> = state.blocks.iter().map(|b| (b.path.as_str(), b)).collect();
    let (mut is_empty, mut found, mut damaged) = (true, Vec::new(), Vec::new());
    for object in &objects {
        let Some(key) = BlockKey::parse(&object.location).filter(|key| key.tenant.as_str() == tenant) else {
            continue;
        };
        is_empty = false;
        let record = records.get(object.location.as_ref()).copied();
        // Nor does such a block replace one with something in the range: it would reach into it too.
        if key.window_start.0 > what.end_ms || record.is_some_and(|record| record.end_ms <= what.start_ms) {
            continue;
        }
        match open_in(bucket, object.location.as_ref()).await {
            Ok(reader) => found.push(reader),
            Err(error) if is_damage(&error) => damaged.push((record, error)),
            Err(error) => return Err(error),
        }
    }
    if is_empty {
        bail!("{} has no blocks of tenant {tenant}", bucket.url());
    }
    let metas: Vec<_> = found.iter().map(|block| block.meta()).collect();
    for (record, error) in damaged {
        if is_missed(record, &metas) {
            damage.leave_out(error)?;
        } else {
            output::tell(format_args!(
                "{}; others have all that was in it",
                error_text(error.as_ref())
            ));
        }
    }
    let kept = not_superseded(&metas);
    let known = KnownDeletes::default();
    let mut blocks = Vec::new();
    for (reader, _) in found.iter().zip(kept).filter(|(_, kept)| *kept) {
        let deletes = masking(&known, &state.tombstones, reader.meta())?;
        let reader = Arc::clone(reader);
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
    use gnomon_cluster::meta::write_checkpoint;
    use gnomon_model::{BlockId, ClusterId, Labels, PartId, ShardId, TenantId, TimestampMs};
    use gnomon_proto::matchers::sets_to_wire;
    use gnomon_proto::v1::MetaState;
    use gnomon_tsdb::{BlockWriter, FloatPageBuilder, MemorySink};
    use object_store::ObjectStoreExt as _;

    /// A block with one series of one sample in two hours' window, by its own path.
    async fn put(bucket: &Bucket, hour: i64, id: u128, level: u32, parts: &[u64]) -> BlockKey {
        let start_ms = hour * 3_600_000;
        let window = TimeRange::new(TimestampMs(start_ms), TimestampMs(start_ms + 7_200_000));
        let shard = ShardId(0);
        let mut meta = BlockMeta::new(BlockId(id), ClusterId(1), TenantId::anonymous(), shard, window);
        meta.level = level;
        meta.parts = parts.iter().map(|number| PartId { shard, number: *number }).collect();
        let key = BlockKey {
            tenant: meta.tenant.clone(),
            shard,
            window_start: window.start,
            block: meta.block,
        };
        let mut page = FloatPageBuilder::new();
        page.append(start_ms, 1.0).unwrap();
        let mut writer = BlockWriter::new(meta, MemorySink::default());
        let labels = Labels::from_pairs([("__name__", "m")]);
        writer.add_series(labels.as_ref(), page.page()).await.unwrap();
        let block = writer.finish().await.unwrap();
        bucket.store().put(&key.path(), block.output.into()).await.unwrap();
        key
    }

    #[tokio::test]
    async fn damaged_blocks_end_an_export_only_where_they_are_missed() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}", folder.path().display());
        let bucket = Bucket::open(Some(&url), folder.path()).unwrap();
        let parsed = crate::flags::parse([
            "gnomon",
            "block",
            "export",
            "--format=parquet",
            "--output=out",
            &format!("--storage.object-store={url}"),
        ]);
        let crate::flags::Command::Export(mut what) = parsed.unwrap().command else {
            panic!("no export")
        };
        let superseded = put(&bucket, 0, 1, 0, &[1]).await;
        let late = put(&bucket, 10, 2, 0, &[2]).await;
        put(&bucket, 0, 3, 1, &[1]).await;
        let record = |key: &BlockKey, parts: &[u64]| BlockRecord {
            path: key.path().to_string(),
            state: State::Live.into(),
            parts: parts.to_vec(),
            start_ms: key.window_start.0,
            end_ms: key.window_start.0 + 7_200_000,
            ..BlockRecord::default()
        };
        let state = MetaState {
            blocks: vec![record(&superseded, &[1]), record(&late, &[2])],
            ..MetaState::default()
        };
        write_checkpoint(bucket.store().as_ref(), &state).await.unwrap();
        let opened = async |what: &Export| {
            let mut damage = Damage::new(what.skip_damaged);
            let blocks = open_blocks(what, &mut damage, &CancellationToken::new()).await?;
            anyhow::Ok(
                blocks
                    .iter()
                    .map(|block| block.reader.meta().block.0)
                    .collect::<BTreeSet<_>>(),
            )
        };
        assert_eq!(opened(&what).await.unwrap(), BTreeSet::from([2, 3]));
        let rubbish = || vec![7u8; 4096];
        bucket.store().put(&superseded.path(), rubbish().into()).await.unwrap();
        assert_eq!(
            opened(&what).await.unwrap(),
            BTreeSet::from([2, 3]),
            "another has it all"
        );
        bucket.store().put(&late.path(), rubbish().into()).await.unwrap();
        let error = format!("{:#}", opened(&what).await.unwrap_err());
        assert!(
            error.contains("--skip-damaged") && error.contains(late.path().as_ref()),
            "{error}"
        );
        what.skip_damaged = true;
        assert_eq!(opened(&what).await.unwrap(), BTreeSet::from([3]));
        what.skip_damaged = false;
        what.end_ms = 3_600_000;
        assert_eq!(
            opened(&what).await.unwrap(),
            BTreeSet::from([3]),
            "it is of another time"
        );
        what.end_ms = i64::MAX;
        what.blocks = vec![late.path().to_string()];
        assert!(opened(&what).await.is_err());
        what.skip_damaged = true;
        assert!(opened(&what).await.unwrap().is_empty());
        bucket.store().delete(&late.path()).await.unwrap();
        assert!(opened(&what).await.unwrap().is_empty(), "it is missing");
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
