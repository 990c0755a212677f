//! What all parts of one request share: its end, its limits, what it has to say beside its answer.

use super::Costs;
use crate::error::{ApiError, ErrorType};
use gnomon_promql::MemoryBudget;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio_util::sync::CancellationToken;

/// Bounds on what one request may fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchLimits {
    /// Encoded bytes of labels and samples; 0 is no limit.
    pub max_bytes: u64,
    /// Samples, over all selectors; 0 is no limit. (What is *held* at once is bounded by `--query.max-samples`.)
    pub max_samples: u64,
}

impl Amount {
    /// What is no samples.
    pub(crate) fn of_bytes(bytes: u64) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }
}

impl Default for FetchLimits {
    fn default() -> Self {
        Self {
            max_bytes: 4 << 30,
            max_samples: 0,
        }
    }
}

/// What a request has fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    /// As encoded.
    pub(crate) bytes: u64,
    /// Those that sources looked at, too.
    pub(crate) samples: u64,
    /// What this node has to look at: samples, those of them that are histograms,
    pub(crate) here: u64,
    pub(crate) histograms: u64,
    /// series of each source, and groups of what sources evaluated.
    pub(crate) series: u64,
}

/// One request.
#[derive(Debug)]
pub struct Scope {
    /// Cancelled when the client has gone or time is up.
    pub(crate) token: CancellationToken,
    /// Answer with an error rather than with a warning where something cannot be reached.
    strict: bool,
    limits: FetchLimits,
    /// Samples that may be held at once, where something is evaluated for the request; 0 is left to who does.
    held_samples: u64,
    bytes: AtomicU64,
    samples: AtomicU64,
    here: AtomicU64,
    histograms: AtomicU64,
    series: AtomicU64,
    warnings: Mutex<BTreeSet<String>>,
    moved: AtomicBool,
    /// Something that was pushed down has to be evaluated here after all.
    whole: AtomicBool,
    failure: Mutex<Option<ApiError>>,
    /// What is charged for bytes that the request holds.
    memory: MemoryBudget,
    /// Where costs are asked for.
    costs: Option<Costs>,
    /// Something else of the request is opened at the same time.
    others: AtomicBool,
}

impl Scope {
    #[must_use]
    pub fn new(strict: bool, limits: FetchLimits) -> Self {
        Self {
            token: CancellationToken::new(),
            strict,
            limits,
            held_samples: 0,
            bytes: AtomicU64::new(0),
            samples: AtomicU64::new(0),
            here: AtomicU64::new(0),
            histograms: AtomicU64::new(0),
            series: AtomicU64::new(0),
            warnings: Mutex::default(),
            moved: AtomicBool::new(false),
            whole: AtomicBool::new(false),
            failure: Mutex::default(),
            memory: MemoryBudget::default(),
            costs: None,
            others: AtomicBool::new(false),
        }
    }

    /// Charges what is held to `memory`.
    #[must_use]
    pub fn with_memory(mut self, memory: MemoryBudget) -> Self {
        self.memory = memory;
        self
    }

    /// Bounds the samples that are held at once, wherever a part of the request is evaluated.
    #[must_use]
    pub(crate) const fn with_held_samples(mut self, max: u64) -> Self {
        self.held_samples = max;
        self
    }

    pub(crate) const fn held_samples(&self) -> u64 {
        self.held_samples
    }

    /// Keeps account of what sources cost.
    #[must_use]
    pub(crate) fn with_costs(mut self, costs: Option<Costs>) -> Self {
        self.costs = costs;
        self
    }

    pub(crate) const fn costs(&self) -> Option<&Costs> {
        self.costs.as_ref()
    }

    pub(crate) const fn memory(&self) -> &MemoryBudget {
        &self.memory
    }

    /// Counts what was fetched.
    pub(crate) fn charge(&self, more: Amount) -> Result<(), ApiError> {
        let add = |to: &AtomicU64, more: u64| to.fetch_add(more, Ordering::Relaxed).saturating_add(more);
        let (bytes, samples) = (add(&self.bytes, more.bytes), add(&self.samples, more.samples));
        add(&self.here, more.here);
        add(&self.histograms, more.histograms);
        add(&self.series, more.series);
        let FetchLimits { max_bytes, max_samples } = self.limits;
        if max_bytes > 0 && bytes > max_bytes {
            return Err(ApiError::new(
                ErrorType::Execution,
                format!(
                    "query would fetch more than {max_bytes} bytes of series: narrow its selectors or its time range"
                ),
            ));
        }
        if max_samples > 0 && samples > max_samples {
            return Err(ApiError::new(
                ErrorType::Execution,
                format!("query would fetch more than {max_samples} samples: narrow its selectors or its time range"),
            ));
        }
        Ok(())
    }

    pub(crate) const fn limits(&self) -> FetchLimits {
        self.limits
    }

    /// Something is missing from the answer: a warning, or the end of a strict request.
    pub(crate) fn missing(&self, what: String) -> Result<(), ApiError> {
        if self.strict {
            return Err(ApiError::new(ErrorType::Unavailable, what));
        }
        self.warnings.lock().insert(what);
        Ok(())
    }

    /// Notes that several things are opened at the same time, each by a task of its own.
    pub(crate) fn note_others(&self) {
        self.others.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_others(&self) -> bool {
        self.others.load(Ordering::Relaxed)
    }

    /// Notes that a source went away while it was read, for another that has its samples: the request had better be
    /// made again.
    pub(crate) fn note_moved(&self) {
        self.moved.store(true, Ordering::Relaxed);
    }

    /// Notes that something that was pushed down has to be evaluated in one place: the request had better be made again
    /// without.
    pub(crate) fn note_whole(&self) {
        self.whole.store(true, Ordering::Relaxed);
    }

    pub(crate) fn must_be_whole(&self) -> bool {
        self.whole.load(Ordering::Relaxed)
    }

    pub(crate) fn has_moved(&self) -> bool {
        self.moved.load(Ordering::Relaxed)
    }

    /// What was missing, sorted.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().iter().cloned().collect()
    }

    /// Keeps the first failure, which explains those that follow from it.
    pub(crate) fn fail(&self, error: ApiError) {
        self.failure.lock().get_or_insert(error);
    }

    pub(crate) fn failure(&self) -> Option<ApiError> {
        self.failure.lock().clone()
    }

    pub(crate) fn fetched(&self) -> Amount {
        let read = |of: &AtomicU64| of.load(Ordering::Relaxed);
        Amount {
            bytes: read(&self.bytes),
            samples: read(&self.samples),
            here: read(&self.here),
            histograms: read(&self.histograms),
            series: read(&self.series),
        }
    }

    pub(crate) fn fetched_bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}
