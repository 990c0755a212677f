//! What selections hold of heads: each copies what memory has of its series, and the copies of all are bounded.

use gnomon_promql::{MemoryBudget, Reserved};
use gnomon_proto::ServiceError;

/// Bytes that a selection holds, given back when it is dropped.
pub(super) struct HeldBytes(Reserved);

impl HeldBytes {
    /// # Errors
    /// When all selections together would hold too much.
    pub(super) fn nothing(budget: &MemoryBudget) -> Result<Self, ServiceError> {
        budget.reserve(0).map(Self).map_err(over)
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
