//! Applying entries.
//!
//! Invariant: what is decided here follows from the log alone. No clock, no configuration, nothing random.

use super::batch_run::BatchRun;
use super::entry::{BadEntry, Bound, Catalogue, Command, Entry, Limits, SilentTarget};
use super::state::{ShardState, TenantHead};
use crate::head::{BadPage, Bounds, Deletion, MarkerPlace};
use bytes::Bytes;
use gnomon_model::{FeatureLevel, TenantId, TimeRange};
use gnomon_proto::batch::{BadBatch, BatchView, has_starts};
use gnomon_proto::v1::AppendResponse;
use gnomon_tsdb::Tombstone;
use prost::Message;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// An entry that cannot be applied: this replica must stop rather than differ from the others.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    #[error("log entry {index}: {source}")]
    Entry { index: u64, source: BadEntry },
    #[error(
        "log entry {index} needs feature level {needed}, this build understands {understands} only: start a newer one"
    )]
    FeatureLevel {
        index: u64,
        needed: FeatureLevel,
        understands: FeatureLevel,
    },
    #[error("log entry {index}: {source}")]
    Page { index: u64, source: BadPage },
}

/// Deletes of one entry, carried out one after the other and each in slices: many series take seconds.
#[derive(Debug)]
pub(super) struct Deleting {
    /// Up to which all are known once it is done.
    revision: u64,
    /// In their order.
    left: VecDeque<Arc<Tombstone>>,
    with_exemplars: bool,
    current: Option<Deletion>,
}

impl ShardState {
    /// Applies the entry at `index`; what comes back goes to the proposer.
    #[cfg(test)]
    pub(crate) fn apply(&mut self, index: u64, payload: &[u8]) -> Result<Bytes, ApplyError> {
        let answer = self.begin(index, payload)?;
        while self.go_on(index)? {}
        Ok(answer)
    }

    /// Begins with the entry at `index`, and comes to its end unless it says that there is more: [`Self::go_on`] does the
    /// rest, and is called until it is done, before anything else is applied or flushed. What comes back goes to the
    /// proposer then.
    pub(crate) fn begin(&mut self, index: u64, payload: &[u8]) -> Result<Bytes, ApplyError> {
        let entry = Entry::decode(payload).map_err(|source| ApplyError::Entry { index, source })?;
        if entry.feature_level > self.understands {
            return Err(ApplyError::FeatureLevel {
                index,
                needed: entry.feature_level,
                understands: self.understands,
            });
        }
        let proposed_at_ms = entry.proposed_at.0;
        let answer = match entry.command {
            Command::Batch { limits, batch } => {
                // What is stored of it older builds do not read.
                if has_starts(batch) {
                    self.counters.feature_level = self.counters.feature_level.max(entry.feature_level);
                }
                self.apply_batch(index, limits, proposed_at_ms, batch)
            }
            Command::Seal { window, with_exemplars } => {
                self.counters.feature_level = self.counters.feature_level.max(entry.feature_level);
                self.apply_seal(window, with_exemplars).map(|()| Bytes::new())
            }
            Command::Published {
                part,
                catalogue_revision,
            } => {
                self.apply_published(part, catalogue_revision);
                Ok(Bytes::new())
            }
            Command::ExpireTargets { targets } => {
                let place = MarkerPlace::NextTick;
                self.apply_expiry(&targets, place, proposed_at_ms)
                    .map(|()| Bytes::new())
            }
            Command::ExpireBetweenTicks { targets } => {
                self.counters.feature_level = self.counters.feature_level.max(entry.feature_level);
                let place = MarkerPlace::BetweenTicks;
                self.apply_expiry(&targets, place, proposed_at_ms)
                    .map(|()| Bytes::new())
            }
            Command::FeatureLevel { level } => {
                self.counters.feature_level = self.counters.feature_level.max(level);
                Ok(Bytes::new())
            }
            Command::Until(bound) => {
                self.counters.feature_level = self.counters.feature_level.max(entry.feature_level);
                self.apply_until(&bound);
                Ok(Bytes::new())
            }
            Command::From(bound) => {
                self.counters.feature_level = self.counters.feature_level.max(entry.feature_level);
                self.apply_from(&bound);
                Ok(Bytes::new())
            }
            Command::Catalogue(catalogue) => {
                self.counters.feature_level = self.counters.feature_level.max(entry.feature_level);
                self.begin_catalogue(&catalogue);
                Ok(Bytes::new())
            }
        };
        let answer = answer.map_err(|source| ApplyError::Page { index, source })?;
        if self.deleting.is_none() {
            self.applied = index;
        }
        Ok(answer)
    }

    /// Does some more of the entry that was begun; whether there is more. Readers may look at the state in between: what is
    /// half deleted is not acknowledged yet.
    pub(crate) fn go_on(&mut self, index: u64) -> Result<bool, ApplyError> {
        let Some(mut deleting) = self.deleting.take() else {
            return Ok(false);
        };
        let has_more = deleting.some(&mut self.tenants);
        if has_more.map_err(|source| ApplyError::Page { index, source })? {
            self.deleting = Some(deleting);
            return Ok(true);
        }
        let known = &mut self.counters.tombstone_revision;
        *known = deleting.revision.max(*known);
        self.applied = index;
        Ok(false)
    }

    fn apply_batch(&mut self, index: u64, limits: Limits, proposed_at_ms: i64, batch: &[u8]) -> Result<Bytes, BadPage> {
        let mut response = AppendResponse {
            log_index: index,
            ..AppendResponse::default()
        };
        // Leaders propose only what they have read; a batch that is bad all the same changes nothing more.
        let outcome: Result<(), BadBatch> = match BatchView::parse(batch) {
            Err(bad) => Err(bad),
            Ok(view) => self.run_batch(limits, proposed_at_ms, &view, &mut response)?,
        };
        if let Err(bad) = outcome {
            tracing::error!(shard = self.shard.0, index, error = %bad, "log entry holds a bad batch");
        }
        Ok(response.encode_to_vec().into())
    }

    fn run_batch(
        &mut self,
        limits: Limits,
        proposed_at_ms: i64,
        view: &BatchView<'_>,
        response: &mut AppendResponse,
    ) -> Result<Result<(), BadBatch>, BadPage> {
        let series_elsewhere = self.series_count() - self.head(view.tenant()).map_or(0, |h| h.series_count());
        self.tenant_mut(view.tenant());
        let Some(tenant) = self.tenants.get_mut(view.tenant()) else {
            return Ok(Ok(()));
        };
        let mut run = BatchRun::new(&mut tenant.head, &mut self.counters, view, response);
        run.bounds = Bounds {
            limits,
            proposed_at_ms,
            ..run.bounds
        };
        run.series_elsewhere = series_elsewhere;
        let outcome = run.groups(view)?;
        run.finish();
        Ok(outcome)
    }

    fn apply_seal(&mut self, window: TimeRange, with_exemplars: bool) -> Result<(), BadPage> {
        for tenant in self.tenants.values_mut() {
            let number = self.counters.next_part;
            let sealed = tenant.head.seal(window, number, self.counters.tombstone_revision)?;
            if sealed {
                if with_exemplars {
                    tenant.head.seal_exemplars(number);
                }
                self.counters.next_part += 1;
            }
            tenant.head.remove_unused(window.start.0);
        }
        Ok(())
    }

    fn apply_published(&mut self, part: u64, catalogue_revision: u64) {
        let mut dropped = None;
        for (tenant, there) in &mut self.tenants {
            if let Some(part) = there.head.drop_part(part) {
                there.head.remove_unused(i64::MIN);
                there.head.forget_deletes();
                dropped = Some((tenant.clone(), part));
            }
        }
        if let Some((tenant, part)) = dropped {
            self.remember_dropped(tenant, &part, catalogue_revision);
        }
    }

    /// Deletes act in the order of their revisions, each once.
    fn begin_catalogue(&mut self, catalogue: &Catalogue) {
        let counters = &mut self.counters;
        counters.next_part = counters.next_part.max(catalogue.first_part);
        let known = counters.tombstone_revision;
        self.deleting = Some(Deleting {
            revision: catalogue.revision,
            left: catalogue
                .tombstones
                .iter()
                .filter(|t| t.revision > known)
                .cloned()
                .collect(),
            with_exemplars: catalogue.with_exemplars,
            current: None,
        });
    }

    fn apply_expiry(
        &mut self,
        silent: &[SilentTarget],
        place: MarkerPlace,
        proposed_at_ms: i64,
    ) -> Result<(), BadPage> {
        for gone in silent {
            let Some(tenant) = self.tenants.get_mut(&gone.tenant) else {
                continue;
            };
            let Some(target) = tenant.head.targets.get_mut(&gone.target) else {
                continue;
            };
            if target.term != gone.term || target.heard_ms != gone.heard_ms {
                continue;
            }
            let owned = self.counters.bounds;
            let handed_over = proposed_at_ms >= owned.until_ms && !target.is_overdue_at(owned.until_ms);
            let (at_ms, series) = target.expire(owned.from_ms, place);
            tenant.head.changes.targets.insert(gone.target);
            if handed_over {
                // It was not silent: it is in the shards of the next epoch.
                continue;
            }
            let bounds = Bounds {
                limits: Limits::default(),
                proposed_at_ms: proposed_at_ms.max(at_ms),
                newest_ms: self.counters.newest_ms,
                from_ms: owned.from_ms,
                until_ms: owned.until_ms,
            };
            tenant.head.mark_stale(&series, at_ms, &bounds)?;
        }
        Ok(())
    }

    /// A shard that has samples there stays as it is: the leader sees that, and the epoch begins later. One that has
    /// come to its end stays so.
    fn apply_until(&mut self, bound: &Bound) {
        let newest_ms = self.newest_sample_ms();
        let owned = &mut self.counters.bounds;
        let is_late = newest_ms >= bound.at_ms && bound.at_ms > i64::MIN;
        if is_late || bound.revision < owned.revision || owned.until_ms == i64::MIN {
            return;
        }
        owned.until_ms = bound.at_ms;
        owned.next_epoch = bound.epoch;
        owned.revision = bound.revision;
    }

    fn apply_from(&mut self, bound: &Bound) {
        let owned = &mut self.counters.bounds;
        if bound.revision >= owned.revision {
            owned.from_ms = bound.at_ms;
            owned.revision = bound.revision;
        }
    }
}

impl Deleting {
    /// The next slice; whether there is more.
    fn some(&mut self, tenants: &mut BTreeMap<TenantId, TenantHead>) -> Result<bool, BadPage> {
        let Some(tombstone) = self.left.front() else {
            return Ok(false);
        };
        let head = tenants.get_mut(&tombstone.tenant).map(|there| &mut there.head);
        let has_more = match head {
            Some(head) => {
                let deletion = self
                    .current
                    .get_or_insert_with(|| head.begin_delete(tombstone, self.with_exemplars));
                head.delete_some(deletion)?
            }
            None => false,
        };
        if !has_more {
            self.current = None;
            self.left.pop_front();
        }
        Ok(true)
    }
}
