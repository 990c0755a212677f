//! `gnomon block import`: blocks of Prometheus, Thanos and Mimir become blocks of gnomon.
//!
//! ```text
//! source block -> batches of series, by labels -> windows, newest first -> shards, a few at a time
//!              -> stage, upload, publish: one part of its own for each batch, window and shard
//! ```
//! Nothing but the catalogue is agreed on: imported blocks are as those that shards upload, with parts of their own. So
//! queries merge them with what is there by series and sample, compaction takes them up, retention lets them go.

mod pass;
mod plan;
mod source;

use super::place::{Place, budget};
use super::progress::Progress;
use super::stop::{INTERRUPTED, Interrupted, check, on_signals};
use crate::flags::Import;
use crate::logging::error_text;
use crate::output;
use anyhow::Context;
use gnomon_cluster::placement::{Placement, TenantSeed, epochs_in_force};
use gnomon_cluster::retention::Budget;
use gnomon_compactor::Catalogue;
use gnomon_compactor::plan::Policy;
use gnomon_model::duration::format_duration_ms;
use gnomon_model::{Clock, NodeId, ShardId, SystemClock};
use gnomon_proto::v1::block_record::State;
use gnomon_querier::Rfc3339;
use gnomon_tsdb::bucket::delete_object;
use gnomon_tsdb::prometheus::{TsdbBlock, TsdbError, TsdbMeta, blocks_below};
use object_store::path::Path;
use pass::Pass;
use plan::Known;
use source::Batch;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Shards whose blocks are written at the same time: each holds 8 MiB and its index.
const SHARDS_AT_ONCE: usize = 8;
/// Damage that is told one by one.
const TOLD: u64 = 20;

/// Runs the command; 1 where something could not be imported, 130 where it was interrupted.
#[must_use]
pub fn run(what: &Import) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::tell(format_args!("gnomon block import: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(import(what)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Interrupted>() => {
            output::tell(format_args!(
                "interrupted: what was published stays; the same command goes on from there"
            ));
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            output::fail("gnomon block import", &error);
            ExitCode::FAILURE
        }
    }
}

async fn import(what: &Import) -> anyhow::Result<()> {
    let stop = on_signals()?;
    let mut folders: Vec<(PathBuf, TsdbMeta)> = Vec::new();
    let mut unreadable = 0;
    for source in &what.sources {
        for folder in blocks_below(source)? {
            match TsdbMeta::read(&folder) {
                Ok(meta) => folders.push((folder, meta)),
                Err(error) if what.skip_damaged => {
                    output::tell(format_args!("left out: {error}"));
                    unreadable += 1;
                }
                Err(error) => return Err(damage(error)),
            }
        }
    }
    // Where room is short, the newest are kept.
    folders.sort_by_key(|(_, meta)| std::cmp::Reverse((meta.max_time, meta.min_time)));
    let place = match Place::open(&what.to, &stop).await {
        // Why exactly it was not opened is of no interest then.
        Err(_) if stop.is_cancelled() => return Err(Interrupted.into()),
        opened => opened?,
    };
    let imported = async {
        let total = folders.iter().map(|(_, meta)| meta.stats.num_samples).sum();
        let mut importer = Importer::new(what, &place, total, stop);
        let mut seen = 0;
        for (folder, meta) in folders {
            importer.block(&folder, &meta).await?;
            seen += meta.stats.num_samples;
            importer.progress.set(seen);
        }
        importer.counts.skipped_blocks += unreadable;
        anyhow::Ok(importer.counts)
    };
    let counts = imported.await;
    place.close().await;
    output::say(&format!("{}\n", counts?.text()))
}

/// What damage there is, and what can be done.
fn damage(error: TsdbError) -> anyhow::Error {
    let is_damage = error.is_damage() || matches!(error, TsdbError::Unsupported { .. });
    let error = anyhow::Error::from(error);
    if is_damage {
        error.context("nothing more is imported (with --skip-damaged it is left out, and all else goes on)")
    } else {
        error
    }
}

/// What became of everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    blocks: u64,
    samples: u64,
    bytes: u64,
    known: u64,
    expired: u64,
    skipped_chunks: u64,
    skipped_blocks: u64,
}

impl Counts {
    fn text(&self) -> String {
        let mut text = format!(
            "imported {} samples into {} blocks, {} bytes",
            self.samples, self.blocks, self.bytes
        );
        for (count, what) in [
            (self.known, "parts were imported before"),
            (self.expired, "blocks are older than retention and were left out"),
            (self.skipped_chunks, "damaged chunks were left out"),
            (self.skipped_blocks, "damaged blocks were left out"),
        ] {
            if count > 0 {
                text.push_str(&format!("; {count} {what}"));
            }
        }
        text
    }
}

struct Importer<'a> {
    what: &'a Import,
    place: &'a Place,
    catalogue: Catalogue,
    budget: Budget,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
    progress: Progress,
    counts: Counts,
}

impl<'a> Importer<'a> {
    fn new(what: &'a Import, place: &'a Place, total: u64, stop: CancellationToken) -> Self {
        Self {
            what,
            place,
            // No job is taken, so nobody asks for the node.
            catalogue: Catalogue::new(Arc::clone(&place.meta), NodeId(0)),
            budget: budget(&what.to, what.retention),
            clock: SystemClock::shared(),
            stop,
            progress: Progress::new("imported", total),
            counts: Counts::default(),
        }
    }

    /// The oldest sample that retention keeps.
    fn oldest_ms(&self) -> Option<i64> {
        let time_ms = self.budget.retention().time_ms?;
        Some(self.clock.now().0.saturating_sub(time_ms))
    }

    /// Imports a block, or says why not.
    async fn block(&mut self, folder: &std::path::Path, meta: &TsdbMeta) -> anyhow::Result<()> {
        let name = folder.display();
        if let (Some(oldest_ms), Some(time_ms)) = (self.oldest_ms(), self.budget.retention().time_ms)
            && meta.max_time <= oldest_ms
        {
            self.counts.expired += 1;
            self.progress.say(&format!(
                "{name}: left out, its last sample is before {}, and {} are kept (--storage.tsdb.retention.time)",
                Rfc3339(meta.max_time),
                format_duration_ms(time_ms)
            ));
            return Ok(());
        }
        let done = async {
            let mut block = TsdbBlock::open(folder)?;
            let mut batches = source::Batches::default();
            while let Some(batch) = batches.next(&mut block)? {
                self.batch(&mut block, meta, &batch).await?;
            }
            anyhow::Ok(())
        };
        match done.await {
            Err(error) => {
                let is_bad = error
                    .downcast_ref::<TsdbError>()
                    .is_some_and(|error| error.is_damage() || matches!(error, TsdbError::Unsupported { .. }));
                if is_bad && self.what.skip_damaged {
                    self.counts.skipped_blocks += 1;
                    self.progress.say(&format!(
                        "{name}: the rest of it is left out: {}",
                        error_text(error.as_ref())
                    ));
                    return Ok(());
                }
                match error.downcast::<TsdbError>() {
                    Ok(error) => Err(damage(error)),
                    Err(error) if error.is::<Interrupted>() => Err(error),
                    Err(error) => Err(error.context(name.to_string())),
                }
            }
            Ok(()) => Ok(()),
        }
    }

    async fn batch(&mut self, block: &mut TsdbBlock, meta: &TsdbMeta, batch: &Batch) -> anyhow::Result<()> {
        let state = self.catalogue.read().await?;
        let placement = Placement::in_force(&state)?;
        let policy = Policy {
            window_ms: gnomon_ingester::WINDOW_MS,
            retention_ms: self.budget.retention().time_ms,
            retention_bytes: None,
            max_merge_bytes: u64::MAX,
            settle_ms: 0,
        };
        let epochs: Vec<i64> = epochs_in_force(&state).iter().map(|epoch| epoch.from_ms).collect();
        let windows = plan::windows(meta, &policy.widths_ms(), &epochs, self.oldest_ms());
        let seed = TenantSeed::of(&self.what.to.tenant);
        for window in windows.map_err(anyhow::Error::msg)? {
            check(&self.stop).await?;
            let epoch = placement
                .epoch_at(window.start)
                .context("the cluster is not initialized yet")?;
            let mut shards: BTreeMap<ShardId, u64> = BTreeMap::new();
            let owners = batch.owners(|labels| placement.owner(seed, labels, window.start).map(|owner| owner.shard));
            for shard in owners.iter().flatten() {
                *shards.entry(*shard).or_default() += 1;
            }
            let part = plan::part_number(meta, window, batch.number);
            let state = self.catalogue.read().await?;
            let mut missing = Vec::new();
            for (shard, series) in shards {
                match plan::known(&state, self.what.to.tenant.as_str(), shard, part) {
                    Known::Imported => self.counts.known += 1,
                    Known::No => missing.push((shard, series)),
                    Known::Begun(left) => {
                        if self.clear(&left).await?.is_empty() {
                            missing.push((shard, series));
                        } else {
                            self.counts.known += 1;
                        }
                    }
                }
            }
            for shards in missing.chunks(SHARDS_AT_ONCE) {
                let pass = Pass {
                    state: &state,
                    meta,
                    window,
                    part,
                    epoch,
                    batch,
                    owners: &owners,
                };
                self.carry_out(&pass, block, shards.iter().copied().collect()).await?;
            }
        }
        Ok(())
    }

    /// What an import that was broken off left, ids and paths: it goes before anything is reserved anew. Those that were
    /// published after all stay, and are given back.
    async fn clear(&self, left: &[(String, String)]) -> anyhow::Result<BTreeSet<String>> {
        let ids: Vec<String> = left.iter().map(|(id, _)| id.clone()).collect();
        self.catalogue.give_up(&ids).await?;
        // From here on none of them can be published any more: what is not live now never will be.
        let state = self.catalogue.read().await?;
        let (mut published, mut gone) = (BTreeSet::new(), Vec::new());
        for block in state.blocks.iter().filter(|block| ids.contains(&block.id)) {
            // Publication says how many samples there are.
            if block.state() == State::Live || block.samples > 0 {
                published.insert(block.id.clone());
            } else if block.state() == State::Condemned {
                delete_object(self.place.bucket.store().as_ref(), &Path::from(block.path.as_str())).await?;
                gone.push(block.id.clone());
            }
        }
        self.catalogue.forget(&gone).await?;
        Ok(published)
    }
}
