//! How many bytes queries may hold: each of them, and all together.
//!
//! A query is charged for what it holds, in batches. Beside the bound of its own there is one for all: the heavy
//! queries share three quarters of it, the last quarter is kept for those that hold little, so that however many heavy
//! queries there are a light one has its bytes.

use gnomon_model::size::format_size_bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A charge that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OverBudget {
    #[error(
        "query processing would hold more than {} in memory in query execution (--query.max-bytes)",
        format_size_bytes(*.limit_bytes)
    )]
    Query { limit_bytes: u64 },
    #[error(
        "query processing would hold more memory than queries that run at the same time leave of {} \
         (--query.max-total-bytes)",
        format_size_bytes(*.limit_bytes)
    )]
    Total { limit_bytes: u64 },
}

/// What all queries of a process share.
#[derive(Debug)]
pub struct QueryMemory {
    limit_bytes: u64,
    query_limit_bytes: u64,
    /// What a query may hold even where the heavy ones hold all that is theirs.
    light_bytes: u64,
    used: AtomicU64,
}

impl QueryMemory {
    /// Bounds for all queries and for each; 0 is none. `concurrency` is how many may run at once: that many light
    /// queries have their share of the part that is kept for them.
    #[must_use]
    pub fn new(limit_bytes: u64, query_limit_bytes: u64, concurrency: usize) -> Arc<Self> {
        let or_none = |bytes: u64| if bytes == 0 { u64::MAX } else { bytes };
        let limit_bytes = or_none(limit_bytes);
        Arc::new(Self {
            limit_bytes,
            query_limit_bytes: or_none(query_limit_bytes),
            light_bytes: (limit_bytes / 4) / (concurrency as u64).max(1),
            used: AtomicU64::new(0),
        })
    }

    /// No bounds.
    #[must_use]
    pub fn unlimited() -> Arc<Self> {
        Self::new(0, 0, 1)
    }

    /// Bytes that all queries hold now.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The account of one more query.
    #[must_use]
    pub fn budget(self: &Arc<Self>) -> MemoryBudget {
        MemoryBudget(Arc::new(Account {
            memory: Arc::clone(self),
            used: AtomicU64::new(0),
            peak: AtomicU64::new(0),
        }))
    }
}

#[derive(Debug)]
struct Account {
    memory: Arc<QueryMemory>,
    used: AtomicU64,
    peak: AtomicU64,
}

/// What one query may hold; clones share one account.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Account>);

impl Default for MemoryBudget {
    /// No bounds.
    fn default() -> Self {
        QueryMemory::unlimited().budget()
    }
}

impl MemoryBudget {
    /// # Errors
    /// When the query, or all of them, would hold too much; nothing is charged then.
    pub fn charge(&self, bytes: u64) -> Result<(), OverBudget> {
        let memory = &self.0.memory;
        let own = self.0.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        if own > memory.query_limit_bytes {
            self.0.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(OverBudget::Query {
                limit_bytes: memory.query_limit_bytes,
            });
        }
        let all = memory.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let for_heavy = memory.limit_bytes - memory.limit_bytes / 4;
        if all > for_heavy && own > memory.light_bytes {
            self.0.used.fetch_sub(bytes, Ordering::Relaxed);
            memory.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(OverBudget::Total {
                limit_bytes: memory.limit_bytes,
            });
        }
        self.0.peak.fetch_max(own, Ordering::Relaxed);
        Ok(())
    }

    /// Gives back what was charged.
    pub fn release(&self, bytes: u64) {
        self.0.used.fetch_sub(bytes, Ordering::Relaxed);
        self.0.memory.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Charges until the reservation is dropped.
    ///
    /// # Errors
    /// As [`Self::charge`].
    pub fn reserve(&self, bytes: u64) -> Result<Reserved, OverBudget> {
        let mut reserved = Reserved {
            budget: self.clone(),
            bytes: 0,
        };
        reserved.grow(bytes)?;
        Ok(reserved)
    }

    /// What the query may hold; none is no limit.
    #[must_use]
    pub fn limit_bytes(&self) -> Option<u64> {
        let memory = &self.0.memory;
        let limit = memory.query_limit_bytes.min(memory.limit_bytes);
        (limit != u64::MAX).then_some(limit)
    }

    /// Most bytes that were held at once.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        self.0.peak.load(Ordering::Relaxed)
    }
}

/// Bytes that are charged; given back when dropped.
#[derive(Debug)]
pub struct Reserved {
    budget: MemoryBudget,
    bytes: u64,
}

impl Reserved {
    /// # Errors
    /// As [`MemoryBudget::charge`]; what was reserved before stays so.
    pub fn grow(&mut self, bytes: u64) -> Result<(), OverBudget> {
        self.budget.charge(bytes)?;
        self.bytes += bytes;
        Ok(())
    }

    /// Gives `bytes` back, or all there are if those are less.
    pub fn shrink(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.budget.release(bytes);
        self.bytes -= bytes;
    }

    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_held_to_its_bound_and_gives_back_what_it_took() {
        let memory = QueryMemory::new(0, 100, 1);
        let budget = memory.budget();
        let mut reserved = budget.reserve(60).unwrap();
        assert_eq!(reserved.grow(41), Err(OverBudget::Query { limit_bytes: 100 }));
        reserved.grow(40).unwrap();
        reserved.shrink(30);
        assert_eq!(
            (reserved.bytes(), memory.used_bytes(), budget.peak_bytes()),
            (70, 70, 100)
        );
        drop(reserved);
        assert_eq!(memory.used_bytes(), 0);
    }

    #[test]
    fn heavy_queries_leave_room_for_light_ones() {
        let memory = QueryMemory::new(800, 0, 10);
        let heavy: Vec<_> = (0..6).map(|_| memory.budget().reserve(100).unwrap()).collect();
        let over = memory.budget().reserve(100).unwrap_err();
        assert_eq!(over, OverBudget::Total { limit_bytes: 800 });
        let light: Vec<_> = (0..10).map(|_| memory.budget().reserve(20).unwrap()).collect();
        assert_eq!(memory.used_bytes(), 800);
        assert!(memory.budget().reserve(21).is_err());
        drop((heavy, light));
        assert_eq!(memory.used_bytes(), 0);
    }

    #[test]
    fn errors_name_the_limit() {
        let text = OverBudget::Query { limit_bytes: 512 << 20 }.to_string();
        assert_eq!(
            text,
            "query processing would hold more than 512MiB in memory in query execution (--query.max-bytes)"
        );
        let text = OverBudget::Total { limit_bytes: 1 << 30 }.to_string();
        assert!(text.contains("1GiB (--query.max-total-bytes)"), "{text}");
    }
}
