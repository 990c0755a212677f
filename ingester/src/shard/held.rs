//! What selections hold of heads: each copies what memory has of its series, and the copies of all are bounded.

use gnomon_promql::{MemoryBudget, QueryMemory, Reserved};
use gnomon_proto::ServiceError;
use std::sync::{Arc, OnceLock};

/// Of the process, for all shards.
static MEMORY: OnceLock<Arc<QueryMemory>> = OnceLock::new();

/// Sets what all selections of this process may hold; unlimited until then. Only the first call counts.
pub fn set_read_memory(memory: Arc<QueryMemory>) {
    let _ = MEMORY.set(memory);
}

/// The account of one more who reads heads.
pub(crate) fn read_budget() -> MemoryBudget {
    MEMORY
        .get()
        .map_or_else(MemoryBudget::default, |memory| memory.budget())
}

/// Bytes that a selection holds, given back when it is dropped.
pub(super) struct HeldBytes(Reserved);

impl HeldBytes {
    /// # Errors
    /// When all selections together would hold too much.
    pub(super) fn nothing() -> Result<Self, ServiceError> {
        read_budget().reserve(0).map(Self).map_err(over)
    }

    /// # Errors
    /// As [`Self::nothing`].
    pub(super) fn grow_to(&mut self, bytes: u64) -> Result<(), ServiceError> {
        self.0.grow(bytes.saturating_sub(self.0.bytes())).map_err(over)
    }
}

fn over(error: gnomon_promql::OverBudget) -> ServiceError {
    ServiceError::LimitExceeded(error.to_string())
}
