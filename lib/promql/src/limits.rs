//! What bounds a running query, and why one failed.

use crate::memory::{MemoryBudget, OverBudget};
use crate::source::SourceError;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Bounds on one query.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most samples that may be held in memory at once; a histogram counts as several, by its size.
    pub max_samples: u64,
    /// What is charged for the bytes that are held.
    pub memory: MemoryBudget,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_samples: 50_000_000,
            memory: MemoryBudget::default(),
        }
    }
}

const RUNNING: u8 = 0;
const CANCELED: u8 = 1;
const TIMED_OUT: u8 = 2;

/// Ends a running query from outside; clones share one state. Whoever runs the query keeps the clock and calls
/// [`CancelFlag::time_out`] at its deadline.
#[derive(Clone, Debug, Default)]
pub struct CancelFlag(Arc<AtomicU8>);

impl CancelFlag {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The query is no longer wanted.
    pub fn cancel(&self) {
        self.0.store(CANCELED, Ordering::Relaxed);
    }

    /// The query's time is up.
    pub fn time_out(&self) {
        self.0.store(TIMED_OUT, Ordering::Relaxed);
    }

    pub(crate) fn check(&self) -> Result<(), EvalError> {
        match self.0.load(Ordering::Relaxed) {
            RUNNING => Ok(()),
            CANCELED => Err(EvalError::Canceled),
            _ => Err(EvalError::TimedOut),
        }
    }
}

/// Why a query has no result; texts are those of Prometheus.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The data does not fit the expression (many-to-many matching, say). `errorType` "execution".
    #[error("{0}")]
    Execution(String),
    #[error("query processing would load too many samples into memory in query execution")]
    TooManySamples,
    /// `errorType` "execution".
    #[error(transparent)]
    TooManyBytes(#[from] OverBudget),
    /// `errorType` "timeout".
    #[error("query timed out in expression evaluation")]
    TimedOut,
    /// `errorType` "canceled".
    #[error("query was canceled in expression evaluation")]
    Canceled,
    /// `errorType` "internal" or "execution", as the source's owner knows.
    #[error(transparent)]
    Source(#[from] SourceError),
}

impl EvalError {
    pub(crate) fn execution(message: impl Into<String>) -> Self {
        Self::Execution(message.into())
    }
}
