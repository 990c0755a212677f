//! The role: one cycle after another until it is stopped.

use crate::CompactorError;
use crate::catalogue::Catalogue;
use crate::garbage::{self, Grace};
use crate::merge::{Merger, job_name, reservation};
use crate::metrics::Metrics;
use crate::plan::{self, Merge, Policy};
use gnomon_cluster::deletes::KnownDeletes;
use gnomon_cluster::node::Claim;
use gnomon_cluster::retention::{Budget, used_bytes};
use gnomon_model::{Clock, NodeId};
use gnomon_proto::service::MetaService;
use gnomon_proto::v1::{BlockRecord, MetaState};
use gnomon_tsdb::{BlockError, Bucket};
use parking_lot::Mutex;
use prometheus::Registry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How the role works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What it says of retention is replaced by what is in force.
    pub policy: Policy,
    pub grace: Grace,
    /// How long a job is this node's after each sign of life.
    pub lease: Duration,
    /// Between two cycles.
    pub interval: Duration,
    /// Larger objects are uploaded in parts of so many bytes.
    pub part_bytes: usize,
}

/// Merges, retention and garbage collection of one node. Several nodes may run it: each takes what it gets a lease for.
pub struct Compactor {
    catalogue: Catalogue,
    bucket: Bucket,
    /// Whether it may be written to; none: it always may.
    claim: Option<Arc<Claim>>,
    clock: Arc<dyn Clock>,
    settings: Settings,
    budget: Budget,
    metrics: Metrics,
    /// Blocks that were found damaged, by path, and when: they are not merged for a while.
    damaged: Mutex<HashMap<String, Duration>>,
    /// Merges that failed for what their inputs say, by job, and when: they are not tried for a while either.
    on_hold: Mutex<HashMap<String, Duration>>,
    deletes: KnownDeletes,
    /// Paths of deletes whose objects say their revisions.
    named_deletes: Mutex<HashSet<String>>,
}

/// After which a damaged block, or a merge that failed, is tried again.
const DAMAGED_FOR: Duration = Duration::from_secs(3600);

/// How often it is looked whether the retention size is short of room, between two cycles.
const LOOK_EVERY: Duration = Duration::from_secs(5);

impl Compactor {
    /// # Errors
    /// When `registry` has metrics of these names already.
    pub fn new(
        meta: Arc<dyn MetaService>,
        node: NodeId,
        bucket: Bucket,
        clock: Arc<dyn Clock>,
        settings: Settings,
        budget: Budget,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        Ok(Self {
            catalogue: Catalogue::new(meta, node),
            bucket,
            claim: None,
            clock,
            settings,
            budget,
            metrics: Metrics::register(registry)?,
            damaged: Mutex::default(),
            on_hold: Mutex::default(),
            deletes: KnownDeletes::default(),
            named_deletes: Mutex::default(),
        })
    }

    /// Nothing is merged, and no object deleted, where the node may not write to its bucket.
    #[must_use]
    pub fn with_claim(self, claim: Option<Arc<Claim>>) -> Self {
        Self { claim, ..self }
    }

    /// Before what the catalogue would keep for as long as the bucket is not written to.
    async fn check_bucket(&self) -> Result<(), CompactorError> {
        match &self.claim {
            Some(claim) => Ok(claim.may_write().await?),
            None => Ok(()),
        }
    }

    /// Runs until `stop`. A cycle that fails is tried again after the interval.
    pub async fn run(&self, stop: CancellationToken) {
        let mut next_cycle = self.clock.monotonic();
        while !stop.is_cancelled() {
            let is_due = self.clock.monotonic() >= next_cycle;
            let result = if is_due {
                next_cycle = self.clock.monotonic() + self.settings.interval;
                self.cycle(&stop).await
            } else {
                self.look(&stop).await
            };
            match &result {
                Err(CompactorError::Stopped) => break,
                Err(error) => tracing::warn!(%error, "compactor cycle failed; trying again"),
                Ok(()) => {}
            }
            if is_due {
                let outcome = if result.is_ok() { "success" } else { "failure" };
                self.metrics.cycles.with_label_values(&[outcome]).inc();
            }
            let until_next = next_cycle.saturating_sub(self.clock.monotonic());
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(until_next.min(LOOK_EVERY)) => {}
            }
        }
    }

    /// The policy by what is in force now.
    fn policy(&self, state: &MetaState) -> Policy {
        Policy {
            retention_ms: self.budget.retention().time_ms,
            retention_bytes: self.budget.for_blocks(state),
            ..self.settings.policy.clone()
        }
    }

    /// What is not put off until the next cycle.
    ///
    /// # Errors
    /// When the metadata group or the bucket does not answer.
    pub async fn look(&self, stop: &CancellationToken) -> Result<(), CompactorError> {
        self.relieve(stop).await?;
        self.clean(stop).await
    }

    /// Writes blocks anew whose deletes are to be carried out now.
    async fn clean(&self, stop: &CancellationToken) -> Result<(), CompactorError> {
        let state = self.catalogue.read().await?;
        let mut rewrites = plan::rewrites(&state);
        if rewrites.is_empty() {
            return Ok(());
        }
        let sound: HashSet<String> = self.sound(&state.blocks).into_iter().map(|b| b.id).collect();
        rewrites.retain(|rewrite| rewrite.inputs.iter().all(|id| sound.contains(id)));
        self.carry_out(rewrites, stop).await
    }

    /// Between cycles, where the retention size is short of room: lets the oldest go, and deletes what was let go.
    ///
    /// # Errors
    /// When the metadata group or the bucket does not answer.
    pub async fn relieve(&self, stop: &CancellationToken) -> Result<(), CompactorError> {
        if self.budget.retention().size_bytes.is_none() {
            return Ok(());
        }
        let state = self.catalogue.read().await?;
        if !self.policy(&state).is_pressed(&state.blocks) {
            return Ok(());
        }
        self.sweep().await?;
        let state = self.catalogue.read().await?;
        let (grace, now) = (self.grace(&state), self.clock.now());
        let deleted = garbage::collect_condemned(&self.catalogue, &self.bucket, &state, &grace, now, stop).await?;
        self.metrics.deleted.with_label_values(&["condemned"]).inc_by(deleted);
        Ok(())
    }

    fn grace(&self, state: &MetaState) -> Grace {
        let mut grace = self.settings.grace;
        if self.policy(state).is_pressed(&state.blocks) {
            grace.condemned_ms = grace.condemned_ms.min(grace.pressed_ms);
        }
        grace
    }

    /// Retention, then all merges that can be made, then garbage.
    ///
    /// # Errors
    /// The first step that fails, merges excepted: one that fails is logged and does not hold up the others.
    pub async fn cycle(&self, stop: &CancellationToken) -> Result<(), CompactorError> {
        self.sweep().await?;
        self.merge_all(stop).await?;
        self.clean(stop).await?;
        self.collect_garbage(stop).await?;
        let state = self.catalogue.read().await?;
        let used = used_bytes(&state.blocks);
        self.metrics.used_bytes.set(i64::try_from(used).unwrap_or(i64::MAX));
        Ok(())
    }

    /// Lets go what retention says, and records of work that was given up.
    async fn sweep(&self) -> Result<(), CompactorError> {
        let Some(lease) = self.catalogue.acquire("compactor/sweep", self.settings.lease).await? else {
            return Ok(());
        };
        let state = self.catalogue.read().await?;
        let now = self.clock.now().0;
        let abandoned = garbage::abandoned(&state, &self.settings.grace, now);
        for id in abandoned {
            tracing::info!(block = id, "giving up a block that was staged and never published");
            self.catalogue.give_up(&[id]).await?;
        }
        if self.budget.is_too_small() {
            tracing::warn!(
                "the node's log and head alone take more than half of the retention size: it holds for blocks, not for \
                 all; give it more, or fewer series"
            );
        }
        let policy = self.policy(&state);
        let evictions = plan::evictions(&state.blocks, &policy, now, policy.headroom_bytes());
        if !evictions.is_empty() {
            let (by_time, by_size) = (evictions.by_time.len(), evictions.by_size.len());
            tracing::info!(by_time, by_size, "retention lets blocks go");
            self.catalogue.condemn(&evictions.ids()).await?;
            self.metrics.evicted.with_label_values(&["time"]).inc_by(by_time as u64);
            self.metrics.evicted.with_label_values(&["size"]).inc_by(by_size as u64);
        }
        self.catalogue.release(&lease).await
    }

    /// Whether the output can be staged below the cap. A merge never evicts data to make room for itself.
    fn has_room(&self, state: &MetaState, merge: &Merge) -> bool {
        let cap = self.budget.for_blocks(state).unwrap_or(u64::MAX);
        used_bytes(&state.blocks).saturating_add(reservation(merge.input_bytes)) <= cap
    }

    async fn merge_all(&self, stop: &CancellationToken) -> Result<(), CompactorError> {
        let state = self.catalogue.read().await?;
        let merges = plan::merges(&self.sound(&state.blocks), &self.policy(&state), self.clock.now().0);
        self.carry_out(merges, stop).await
    }

    /// One merge after another; those that fail do not hold up the others.
    async fn carry_out(&self, merges: Vec<Merge>, stop: &CancellationToken) -> Result<(), CompactorError> {
        self.metrics
            .backlog
            .set(i64::try_from(merges.len()).unwrap_or(i64::MAX));
        for merge in merges {
            if stop.is_cancelled() {
                return Err(CompactorError::Stopped);
            }
            let job = job_name(&merge.tenant, merge.shard, merge.start_ms, merge.end_ms);
            if self.is_on_hold(&job) {
                continue;
            }
            if let Err(error) = self.check_bucket().await {
                tracing::debug!(%error, "nothing is merged");
                return Ok(());
            }
            let Some(lease) = self.catalogue.acquire(&job, self.settings.lease).await? else {
                continue;
            };
            // Read anew: others may have worked since the plan was made.
            let state = self.catalogue.read().await?;
            if self.has_room(&state, &merge) {
                match self.merge_one(&state, &merge, &lease, stop).await {
                    Ok(()) => {}
                    Err(CompactorError::Stopped) => {
                        self.catalogue.release(&lease).await?;
                        return Err(CompactorError::Stopped);
                    }
                    Err(CompactorError::Block(error)) if error.is_damage() => self.leave_alone(&error),
                    Err(error @ (CompactorError::Page { .. } | CompactorError::Record { .. })) => {
                        tracing::error!(job, %error, "merge of blocks failed: it is not tried again for an hour");
                        self.on_hold.lock().insert(job, self.clock.monotonic());
                    }
                    Err(error) => {
                        tracing::warn!(shard = merge.shard, start_ms = merge.start_ms, %error, "merge of blocks failed");
                    }
                }
            } else {
                tracing::debug!(shard = merge.shard, "no room below the retention size for a merge");
            }
            self.catalogue.release(&lease).await?;
            self.metrics.backlog.dec();
        }
        Ok(())
    }

    /// Blocks that are not known to be damaged, nor overlap one that is.
    fn sound(&self, blocks: &[BlockRecord]) -> Vec<BlockRecord> {
        let now = self.clock.monotonic();
        let mut damaged = self.damaged.lock();
        damaged.retain(|path, found| {
            now.saturating_sub(*found) < DAMAGED_FOR && blocks.iter().any(|block| block.path == *path)
        });
        self.metrics.damaged.set(damaged.len() as i64);
        let lame: Vec<_> = blocks
            .iter()
            .filter(|block| damaged.contains_key(&block.path))
            .collect();
        // Which of two samples for one instant wins is decided among all that cover it: they wait together.
        let waits = |block: &BlockRecord| {
            let beside = |other: &&BlockRecord| {
                (&block.tenant, block.shard) == (&other.tenant, other.shard)
                    && block.start_ms < other.end_ms
                    && other.start_ms < block.end_ms
            };
            lame.iter().any(beside)
        };
        blocks.iter().filter(|block| !waits(block)).cloned().collect()
    }

    fn is_on_hold(&self, job: &str) -> bool {
        let now = self.clock.monotonic();
        let mut on_hold = self.on_hold.lock();
        on_hold.retain(|_, since| now.saturating_sub(*since) < DAMAGED_FOR);
        on_hold.contains_key(job)
    }

    fn leave_alone(&self, error: &BlockError) {
        tracing::error!(%error, "block cannot be read: it is not merged with others, for an hour at least");
        if let Some(path) = error.path() {
            let now = self.clock.monotonic();
            self.damaged.lock().insert(path.to_string(), now);
        }
    }

    async fn merge_one(
        &self,
        state: &MetaState,
        merge: &Merge,
        lease: &crate::Lease,
        stop: &CancellationToken,
    ) -> Result<(), CompactorError> {
        let merger = Merger {
            part_bytes: self.settings.part_bytes,
            catalogue: &self.catalogue,
            bucket: &self.bucket,
            clock: &self.clock,
            deletes: &self.deletes,
            stop,
            lease_lasts: self.settings.lease,
            cap_bytes: self.budget.for_blocks(state),
        };
        let start = self.clock.monotonic();
        let result = merger.run(state, merge, lease).await;
        let outcome = if result.is_ok() { "success" } else { "failure" };
        self.metrics.merges.with_label_values(&[outcome]).inc();
        let output = result?;
        self.metrics.merged_samples.inc_by(output.samples);
        self.metrics.merged_bytes.inc_by(output.bytes);
        tracing::info!(
            block = output.id,
            shard = output.shard,
            level = output.level,
            inputs = merge.inputs.len(),
            series = output.series,
            samples = output.samples,
            bytes = output.bytes,
            input_bytes = merge.input_bytes,
            seconds = self.clock.monotonic().saturating_sub(start).as_secs_f64(),
            "merged blocks"
        );
        Ok(())
    }

    async fn collect_garbage(&self, stop: &CancellationToken) -> Result<(), CompactorError> {
        let Some(lease) = self.catalogue.acquire("compactor/garbage", self.settings.lease).await? else {
            return Ok(());
        };
        let now = self.clock.now();
        let state = self.catalogue.read().await?;
        let grace = self.grace(&state);
        let collected = garbage::collect(&self.catalogue, &self.bucket, &grace, now, stop).await?;
        self.metrics
            .deleted
            .with_label_values(&["condemned"])
            .inc_by(collected.condemned);
        self.metrics
            .deleted
            .with_label_values(&["unnamed"])
            .inc_by(collected.unnamed);
        let state = self.catalogue.read().await?;
        let forgotten = garbage::forget_deletes(&self.catalogue, &self.bucket, &state).await?;
        let state = self.catalogue.read().await?;
        garbage::name_deletes(&self.bucket, &state, &self.named_deletes).await?;
        if forgotten > 0 {
            tracing::info!(
                deletes = forgotten,
                "deletes are carried out in all blocks, and forgotten"
            );
        }
        if collected != garbage::Collected::default() {
            tracing::info!(
                condemned = collected.condemned,
                unnamed = collected.unnamed,
                "deleted garbage from the bucket"
            );
        }
        self.catalogue.release(&lease).await
    }
}
