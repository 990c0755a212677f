//! What each source of a request cost, where that is asked for.

use gnomon_model::Clock;
use parking_lot::Mutex;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What was read of a source.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SourceCost {
    /// The selector (`#0`) or fragment (`f0`) of the plan.
    pub(crate) of: String,
    /// A shard or a block.
    pub(crate) source: String,
    /// Whether the shard evaluated the fragment rather than gave samples.
    pub(crate) evaluated: bool,
    /// Whether the shard's index alone told how many series there are, and no series was read.
    pub(crate) counted: bool,
    /// From asking to the end.
    pub(crate) seconds: f64,
    pub(crate) series: u64,
    pub(crate) samples: u64,
    /// Encoded, as they came.
    pub(crate) bytes: u64,
    pub(crate) pages: u64,
    /// Pages of the series that the index told not to be needed.
    pub(crate) pages_skipped: u64,
}

impl fmt::Display for SourceCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match (self.evaluated, self.counted) {
            (true, _) => "evaluated by",
            (false, true) => "counted by the index of",
            (false, false) => "read from",
        };
        write!(
            f,
            "{} {how} {}: {:.3} ms, ",
            self.of,
            self.source,
            self.seconds * 1000.0
        )?;
        write!(
            f,
            "{} series, {} samples, {} bytes",
            self.series, self.samples, self.bytes
        )?;
        if self.pages + self.pages_skipped > 0 {
            write!(f, ", {} pages, {} skipped", self.pages, self.pages_skipped)?;
        }
        Ok(())
    }
}

/// Collects costs.
pub(crate) struct Costs {
    clock: Arc<dyn Clock>,
    all: Mutex<Vec<SourceCost>>,
}

impl fmt::Debug for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Costs").finish_non_exhaustive()
    }
}

impl Costs {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            all: Mutex::default(),
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    pub(crate) fn add(&self, since: Duration, cost: SourceCost) {
        let seconds = self.clock.monotonic().saturating_sub(since).as_secs_f64();
        self.all.lock().push(SourceCost { seconds, ..cost });
    }

    /// By part of the plan, then by source.
    pub(crate) fn sorted(&self) -> Vec<SourceCost> {
        let mut all = self.all.lock().clone();
        all.sort_by(|a, b| (&a.of, &a.source).cmp(&(&b.of, &b.source)));
        all
    }
}

/// Counts pages that are not read.
#[derive(Clone, Debug, Default)]
pub struct Skipped(Arc<AtomicU64>);

impl Skipped {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, pages: u64) {
        self.0.fetch_add(pages, Ordering::Relaxed);
    }

    /// The counter itself.
    #[must_use]
    pub fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.0)
    }
}
