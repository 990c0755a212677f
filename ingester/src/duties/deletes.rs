//! What the catalogue says and the shard has to keep to: deletes, and numbers of parts that are taken.

use super::Duties;
use crate::shard::entry::{Catalogue, Command};
use gnomon_cluster::deletes::{from_record, newest_revision};
use gnomon_model::ids::BLOCK_EXTRAS_FEATURE_LEVEL;
use gnomon_proto::ServiceError;
use gnomon_proto::v1::meta_command::Command as MetaChange;
use gnomon_proto::v1::{MetaCommand, MetaState, TombstoneRecord, TombstonesApplied};
use prost::Message;
use std::sync::Arc;

/// Deletes in one entry, bytes of their records; a record is much shorter.
const MAX_ENTRY_BYTES: usize = 512 << 10;
/// Deletes that wait in a shard for its sealed parts to become blocks, over all tenants.
const MAX_WAITING: usize = 4096;

impl Duties {
    /// Takes deletes that the shard does not know into its log, in their order, and tells the catalogue.
    pub(super) async fn take_deletes(&self) {
        if !self.shard.log.is_leader() || !self.shard.machine.is_sound() {
            return;
        }
        let state = self.context.states.borrow().clone();
        if let Err(error) = self.take_deletes_of(&state).await {
            let shard = self.shard.id().0;
            tracing::warn!(shard, %error, "deletes are not in the log of the shard yet; trying again");
        }
    }

    async fn take_deletes_of(&self, state: &MetaState) -> Result<(), ServiceError> {
        while let Some(catalogue) = self.missing(state)? {
            let (revision, deletes) = (catalogue.revision, catalogue.tombstones.len());
            self.propose_catalogue(catalogue).await?;
            tracing::info!(
                shard = self.shard.id().0,
                revision,
                deletes,
                "deletes are in the log of the shard"
            );
        }
        let shard = self.shard.id().0;
        let revision = self.known();
        let is_told = |t: &TombstoneRecord| t.revision > revision || t.pending_shards.binary_search(&shard).is_err();
        if state.tombstones.iter().all(is_told) {
            return Ok(());
        }
        let told = MetaCommand {
            proposed_at_ms: 0,
            command: Some(MetaChange::TombstonesApplied(TombstonesApplied { shard, revision })),
        };
        self.context.meta.propose(told).await.map(drop)
    }

    /// Up to which revision deletes are in the log.
    fn known(&self) -> u64 {
        self.shard.machine.read(|state| state.counters.tombstone_revision)
    }

    /// The next entry; none where the shard knows all.
    fn missing(&self, state: &MetaState) -> Result<Option<Catalogue>, ServiceError> {
        let known = self.known();
        let newest = newest_revision(state);
        if newest <= known {
            return Ok(None);
        }
        let waiting: usize = self.shard.machine.read(|state| {
            let deletes = state.tenants.values().map(|there| there.head.deletes.len());
            deletes.sum()
        });
        if waiting >= MAX_WAITING {
            return Err(ServiceError::LimitExceeded(format!(
                "{waiting} deletes wait for sealed parts to become blocks, {MAX_WAITING} may"
            )));
        }
        let mut catalogue = Catalogue {
            revision: newest,
            with_exemplars: state.feature_level >= BLOCK_EXTRAS_FEATURE_LEVEL.0,
            ..Catalogue::default()
        };
        let mut bytes = 0;
        let shard = self.shard.id().0;
        // One that does not wait for this shard is older than the shard: what it took is nothing that is here.
        let own = |t: &&TombstoneRecord| t.revision > known && t.pending_shards.binary_search(&shard).is_ok();
        for record in state.tombstones.iter().filter(own) {
            bytes += record.encoded_len();
            if bytes > MAX_ENTRY_BYTES
                && let Some(last) = catalogue.tombstones.last()
            {
                // The rest comes with the next entry.
                catalogue.revision = last.revision;
                break;
            }
            let read = from_record(record).map_err(|e| ServiceError::Internal(e.to_string()))?;
            catalogue.tombstones.push(Arc::new(read));
        }
        Ok(Some(catalogue))
    }

    async fn propose_catalogue(&self, catalogue: Catalogue) -> Result<(), ServiceError> {
        self.shard.propose(Command::Catalogue(catalogue)).await?;
        if self.shard.machine.is_sound() {
            return Ok(());
        }
        Err(ServiceError::Unavailable(format!(
            "shard {} is restarting",
            self.shard.id()
        )))
    }

    /// A shard that is new, in a cluster whose catalogue is not (it was read back from a bucket), numbers its parts after
    /// those that blocks cover already. False where that is not known yet: nothing may be sealed before.
    pub(super) async fn number_parts(&mut self) -> bool {
        if self.has_own_numbers {
            return true;
        }
        let shard = self.shard.id().0;
        let (next_part, known) = self
            .shard
            .machine
            .read(|state| (state.counters.next_part, state.counters.tombstone_revision));
        let state = self.context.states.borrow().clone();
        let first = state.first_parts.iter().find(|first| first.shard == shard);
        if let Some(first_part) = first.map(|first| first.part).filter(|first| *first > next_part) {
            let catalogue = Catalogue {
                revision: known,
                first_part,
                tombstones: Vec::new(),
                with_exemplars: false,
            };
            if let Err(error) = self.propose_catalogue(catalogue).await {
                tracing::warn!(shard, %error, "parts are not numbered after those of the catalogue yet");
                return false;
            }
            tracing::info!(shard, first_part, "parts are numbered after those there are");
        }
        self.has_own_numbers = true;
        true
    }
}
