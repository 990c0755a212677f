//! What all receivers share: from the series of a request to the router, by way of HA pairs.

pub(crate) mod body;
mod labels;
mod memory;
mod rows;

pub(crate) use labels::{NO_LABELS, put_canonical};
pub(crate) use memory::{Memory, NoMemory, SetAside, keep, reading};
pub(crate) use rows::Rows;

use crate::ha::{HaError, HaOptions, HaTracker};
use gnomon_cluster::router::{Router, WriteOutcome};
use gnomon_proto::v1::rejection::Reason;
use std::sync::Arc;
use std::time::Duration;

/// One per process.
pub struct Intake {
    pub(crate) router: Arc<Router>,
    /// None where HA pairs are not looked for.
    pub(crate) ha: Option<Arc<HaTracker>>,
    /// Random, so that no sender can choose labels whose identities collide.
    pub(crate) seed: u64,
    /// How long a request may wait for its shards.
    pub(crate) timeout: Duration,
    /// For requests of remote write over HTTP; of those over gRPC, for what is noted of their series.
    pub(crate) memory: Memory,
}

/// Of all requests of remote write that are in flight: bodies as sent, as read, and what is noted of series.
const MOST_BYTES: usize = 512 << 20;

/// A body, and what is written of it, which takes about as much again.
pub(crate) const TIMES_BODY: usize = 2;

/// What is noted of a series while its request is written: where it is, who it is, and where it goes.
const BYTES_OF_SERIES: usize = 128;

impl Intake {
    #[must_use]
    pub fn new(router: Arc<Router>, ha: Option<Arc<HaTracker>>) -> Arc<Self> {
        Self::with_timeout(router, ha, Duration::from_secs(25))
    }

    /// The same where a request may wait longer, or not so long.
    #[must_use]
    pub fn with_timeout(router: Arc<Router>, ha: Option<Arc<HaTracker>>, timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            router,
            ha,
            seed: rand::random(),
            timeout,
            memory: Memory::new(MOST_BYTES),
        })
    }

    /// For what is noted of the series of a request, which has a body of so many bytes.
    pub(crate) fn set_aside_for(&self, series: usize, body_bytes: usize) -> Result<SetAside, NotWritten> {
        let bytes = series.saturating_mul(BYTES_OF_SERIES);
        Ok(self.memory.set_aside_besides(TIMES_BODY * body_bytes, bytes)?)
    }

    pub(crate) fn ha_options(&self) -> Option<&HaOptions> {
        self.ha.as_deref().map(HaTracker::options)
    }

    /// Counts what came of the samples that fill the end of the turn before, and leaves what whoever sent them has to hear of: what
    /// is not newer than what there is is dropped.
    pub(crate) fn filled(&self, mut outcome: WriteOutcome) -> WriteOutcome {
        let mut dropped = std::mem::take(&mut outcome.duplicates);
        outcome.refused.retain(|refused| {
            let is_dropped = matches!(refused.reason, Reason::OutOfOrder | Reason::DuplicateTimestamp);
            dropped += if is_dropped { refused.count } else { 0 };
            !is_dropped
        });
        self.deduplicated(dropped);
        if let Some(ha) = &self.ha {
            ha.count_filled(outcome.taken);
        }
        outcome
    }

    /// Counts what was dropped.
    pub(crate) fn deduplicated(&self, samples: u64) {
        if let Some(ha) = &self.ha {
            ha.count_deduplicated(samples);
        }
    }
}

/// What became of a request that was written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Written {
    pub(crate) outcome: WriteOutcome,
    /// Float samples, histograms and exemplars that it had.
    pub(crate) samples: u64,
    pub(crate) histograms: u64,
    pub(crate) exemplars: u64,
    /// Samples and histograms of replicas that do not have the turn, which were dropped.
    pub(crate) deduplicated: u64,
}

/// Why nothing of a request was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotWritten {
    /// It is not what it should be, or more than may be.
    #[error("{0}")]
    Malformed(String),
    /// Send it again.
    #[error("{0}")]
    Retry(String),
}

impl From<NoMemory> for NotWritten {
    fn from(error: NoMemory) -> Self {
        match error {
            NoMemory::Now(_) => Self::Retry(error.to_string()),
            NoMemory::Ever(_) => Self::Malformed(error.to_string()),
        }
    }
}

impl From<HaError> for NotWritten {
    fn from(error: HaError) -> Self {
        match error {
            HaError::Retry(why) => Self::Retry(why),
            HaError::Refused(why) => Self::Malformed(why),
        }
    }
}
