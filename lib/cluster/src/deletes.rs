//! Deletes as the catalogue has them: which of them mask which blocks.

use gnomon_model::TenantId;
use gnomon_proto::matchers;
use gnomon_proto::v1::{BlockRecord, MatcherSet, MetaState, TombstoneRecord};
use gnomon_tsdb::{Deletes, Tombstone};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// As many as there may be in the catalogue.
const MAX_KNOWN: usize = crate::meta::MAX_TOMBSTONES;

/// A record of a delete that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the delete of revision {revision}: {what}")]
pub struct BadRecord {
    pub revision: u64,
    pub what: String,
}

/// Whether a block has samples of which a delete may take some, and has not carried it out.
#[must_use]
pub fn masks(tombstone: &TombstoneRecord, block: &BlockRecord) -> bool {
    block.tombstone_revision < tombstone.revision
        && block.tenant == tombstone.tenant
        && block.start_ms <= tombstone.end_ms
        && tombstone.start_ms < block.end_ms
}

/// Up to which revision deletes are carried out in a block that is made, by this state, without what they mask.
#[must_use]
pub fn newest_revision(state: &MetaState) -> u64 {
    let newest = state.tombstones.last().map_or(0, |tombstone| tombstone.revision);
    newest.max(state.forgotten_tombstone_revision)
}

/// Deletes whose records can go: all logs have them, and they mask no block of which there may be an object.
#[must_use]
pub fn forgettable(state: &MetaState) -> Vec<&TombstoneRecord> {
    let done = |t: &&TombstoneRecord| t.pending_shards.is_empty() && !state.blocks.iter().any(|b| masks(t, b));
    state.tombstones.iter().filter(done).collect()
}

/// # Errors
/// When an expression or the tenant's name is none here.
pub fn from_record(record: &TombstoneRecord) -> Result<Tombstone, BadRecord> {
    let bad = |what: String| BadRecord {
        revision: record.revision,
        what,
    };
    let set = |set: &MatcherSet| matchers::from_wire(&set.matchers).map_err(bad);
    let tenant: Result<TenantId, _> = record.tenant.parse();
    Ok(Tombstone {
        revision: record.revision,
        tenant: tenant.map_err(|e| bad(e.to_string()))?,
        sets: record.series.iter().map(set).collect::<Result<_, _>>()?,
        start_ms: record.start_ms,
        end_ms: record.end_ms,
    })
}

/// Deletes of the catalogue, ready to be used: their expressions are compiled once.
#[derive(Debug, Default)]
pub struct KnownDeletes {
    by_revision: Mutex<BTreeMap<u64, Arc<Tombstone>>>,
}

impl KnownDeletes {
    /// Those of `records` that mask a block.
    ///
    /// # Errors
    /// When a record cannot be understood.
    pub fn masking(&self, records: &[TombstoneRecord], block: &BlockRecord) -> Result<Deletes, BadRecord> {
        let masking = records.iter().filter(|t| masks(t, block));
        masking.map(|record| self.get(record)).collect()
    }

    fn get(&self, record: &TombstoneRecord) -> Result<Arc<Tombstone>, BadRecord> {
        if let Some(known) = self.by_revision.lock().get(&record.revision) {
            return Ok(Arc::clone(known));
        }
        let read = Arc::new(from_record(record)?);
        let mut known = self.by_revision.lock();
        // The oldest are those that are forgotten first.
        while known.len() >= MAX_KNOWN {
            known.pop_first();
        }
        known.insert(record.revision, Arc::clone(&read));
        Ok(read)
    }
}
