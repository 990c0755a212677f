//! Blocks that were found damaged: they are left alone for a while, so that the rest is read without them, and looked at
//! again later, since what was damaged may have been the answer of the store.

use gnomon_model::Clock;
use gnomon_proto::{ServiceError, v1};
use gnomon_tsdb::BlockError;
use parking_lot::Mutex;
use prometheus::{IntCounter, IntGauge, Registry};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// After which a damaged block is looked at again.
const LOOK_AGAIN: Duration = Duration::from_secs(300);
/// Blocks that are remembered; more are looked at each time.
const MOST: usize = 10_000;

struct Damaged {
    what: String,
    since: Duration,
}

/// See the module.
pub(super) struct Quarantine {
    clock: Arc<dyn Clock>,
    /// By path.
    blocks: Mutex<HashMap<String, Damaged>>,
    now: IntGauge,
    found: IntCounter,
}

impl Quarantine {
    /// # Errors
    /// When its metrics are registered already.
    pub(super) fn new(clock: Arc<dyn Clock>, registry: &Registry) -> Result<Self, prometheus::Error> {
        let now = IntGauge::new(
            "gnomon_querier_quarantined_blocks",
            "Blocks that were found damaged, or of a newer version, in the last five minutes and are left out of answers.",
        )?;
        let found = IntCounter::new(
            "gnomon_querier_damaged_blocks_total",
            "How often a block was found damaged, or of a newer version.",
        )?;
        registry.register(Box::new(now.clone()))?;
        registry.register(Box::new(found.clone()))?;
        Ok(Self {
            clock,
            blocks: Mutex::default(),
            now,
            found,
        })
    }

    /// # Errors
    /// What is wrong with the block, where that was found out lately.
    pub(super) fn check(&self, block: &v1::BlockRecord) -> Result<(), ServiceError> {
        let mut blocks = self.blocks.lock();
        if blocks.is_empty() {
            return Ok(());
        }
        self.let_go(&mut blocks);
        match blocks.get(&block.path) {
            Some(damaged) => Err(ServiceError::Damaged(damaged.what.clone())),
            None => Ok(()),
        }
    }

    /// Forgets those that may be looked at again, or are not there any more.
    fn let_go(&self, blocks: &mut HashMap<String, Damaged>) {
        let now = self.clock.monotonic();
        blocks.retain(|_, damaged| now.saturating_sub(damaged.since) < LOOK_AGAIN);
        self.now.set(blocks.len() as i64);
    }

    /// Notes damage; gives what is said of it.
    pub(super) fn note(&self, block: &v1::BlockRecord, error: &BlockError) -> ServiceError {
        let what = error.to_string();
        self.found.inc();
        let mut blocks = self.blocks.lock();
        self.let_go(&mut blocks);
        let damaged = Damaged {
            what: what.clone(),
            since: self.clock.monotonic(),
        };
        let is_new = if blocks.len() < MOST || blocks.contains_key(&block.path) {
            blocks.insert(block.path.clone(), damaged).is_none()
        } else {
            true
        };
        self.now.set(blocks.len() as i64);
        drop(blocks);
        if is_new {
            tracing::error!(
                block = block.id,
                shard = block.shard,
                path = block.path,
                min_ms = block.min_sample_ms,
                max_ms = block.max_sample_ms,
                error = what,
                "block cannot be read: answers leave it out, and say so, for 5 minutes at least"
            );
        }
        ServiceError::Damaged(what)
    }
}
