//! One series of a head.

use super::index::PairId;
use crate::shard::entry::Limits;
use gnomon_model::SeriesRef;
use gnomon_proto::v1::rejection::Reason;

#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) reference: SeriesRef,
    /// In the order of the names.
    pub(crate) labels: Box<[PairId]>,
    /// Newest sample that was taken; the minimum where there is none.
    pub(crate) last_ms: i64,
    /// The same of windows that were sealed.
    pub(crate) sealed_last_ms: i64,
}

/// What bounds a sample's time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) limits: Limits,
    pub(crate) proposed_at_ms: i64,
    /// The shard's newest sample so far; the minimum where there is none.
    pub(crate) newest_ms: i64,
    /// The times that the shard owns: half-open.
    pub(crate) from_ms: i64,
    pub(crate) until_ms: i64,
}

impl Bounds {
    /// Whether samples of this time are the shard's at all. The end of time is nobody's once there is an end.
    pub(crate) const fn owns(&self, timestamp_ms: i64) -> bool {
        self.from_ms <= timestamp_ms && (timestamp_ms < self.until_ms || self.until_ms == i64::MAX)
    }

    /// Why a sample is not taken that is beyond the shard's time. One that has ended has nobody to send it to: it was
    /// not before all that it had was too old.
    pub(crate) const fn not_owned(&self) -> Reason {
        match self.until_ms {
            i64::MIN => Reason::TooOld,
            _ => Reason::Misrouted,
        }
    }

    /// Whether a sample may be taken at all, given the newest of its series.
    pub(crate) fn check(&self, timestamp_ms: i64, last_ms: i64) -> Result<(), Reason> {
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        if !self.owns(timestamp_ms) {
            return Err(self.not_owned());
        }
        if timestamp_ms > self.proposed_at_ms.saturating_add(signed(self.limits.future_ms)) {
            return Err(Reason::TooFarInFuture);
        }
        if timestamp_ms > last_ms {
            let oldest = self.newest_ms.saturating_sub(signed(self.limits.late_ms));
            return if timestamp_ms < oldest {
                Err(Reason::TooOld)
            } else {
                Ok(())
            };
        }
        if timestamp_ms >= self.newest_ms.saturating_sub(signed(self.limits.out_of_order_ms)) {
            return Ok(());
        }
        Err(match self.limits.out_of_order_ms {
            0 => Reason::OutOfOrder,
            _ => Reason::TooOld,
        })
    }
}

/// What became of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Taken,
    Duplicate,
    Refused(Reason),
}

/// What a series' state says of its newest sample in a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Newest {
    /// It is there, and no stale marker.
    Sample,
    /// There is none, or it is a stale marker.
    None,
    /// Pages have to be read to know.
    Unknown,
}

impl Series {
    pub(crate) const fn new(reference: SeriesRef, labels: Box<[PairId]>) -> Self {
        Self {
            reference,
            labels,
            last_ms: i64::MIN,
            sealed_last_ms: i64::MIN,
        }
    }
}
