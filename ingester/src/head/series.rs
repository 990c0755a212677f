//! One series of a head.

use super::arena::PageArena;
use super::index::PairId;
use super::value::Value;
use super::window::{BadPage, Put, WindowPages};
use crate::shard::entry::Limits;
use gnomon_model::SeriesRef;
use gnomon_proto::v1::rejection::Reason;

#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) reference: SeriesRef,
    /// In the order of the names.
    pub(crate) labels: Box<[PairId]>,
    /// Newest sample of windows that were sealed; the minimum where there is none.
    pub(crate) sealed_last_ms: i64,
    /// Ascending by start.
    pub(crate) windows: Vec<WindowPages>,
}

/// What bounds a sample's time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) limits: Limits,
    pub(crate) proposed_at_ms: i64,
    /// The shard's newest sample so far; the minimum where there is none.
    pub(crate) newest_ms: i64,
}

impl Bounds {
    /// Whether a sample may be taken at all, given the newest of its series.
    pub(crate) fn check(&self, timestamp_ms: i64, last_ms: i64) -> Result<(), Reason> {
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
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
    /// The window it went to, and whether that is new for the series.
    Taken {
        window: usize,
        is_new: bool,
    },
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
    /// The newest sample of `start_ms..=end_ms`, without reading pages.
    pub(crate) fn newest_in(&self, start_ms: i64, end_ms: i64) -> Newest {
        let last_ms = self.last_ms();
        if last_ms < start_ms {
            return Newest::None;
        }
        let newest = self
            .windows
            .last()
            .filter(|w| w.last_ms == last_ms && last_ms <= end_ms);
        match newest.and_then(WindowPages::ends_stale) {
            Some(true) => Newest::None,
            Some(false) => Newest::Sample,
            None => Newest::Unknown,
        }
    }

    pub(crate) fn new(reference: SeriesRef, labels: Box<[PairId]>) -> Self {
        Self {
            reference,
            labels,
            sealed_last_ms: i64::MIN,
            windows: Vec::new(),
        }
    }

    /// Newest sample that was taken; the minimum where there is none.
    pub(crate) fn last_ms(&self) -> i64 {
        self.windows
            .last()
            .map_or(self.sealed_last_ms, |w| w.last_ms.max(self.sealed_last_ms))
    }

    /// `arena` is the window's.
    pub(crate) fn put(
        &mut self,
        window_start_ms: i64,
        timestamp_ms: i64,
        value: Value,
        bounds: &Bounds,
        arena: &mut PageArena,
    ) -> Result<Outcome, BadPage> {
        let at = self.windows.iter().rposition(|w| w.start_ms <= window_start_ms);
        let there = at.filter(|at| self.windows[*at].start_ms == window_start_ms);
        if let Err(reason) = bounds.check(timestamp_ms, self.last_ms()) {
            // A sender that repeats itself is answered as the first time, as far back as pages are at hand.
            let known = match there {
                Some(at) if reason != Reason::TooFarInFuture => self.windows[at].value_at(timestamp_ms, arena)?,
                _ => None,
            };
            let same = known.is_some_and(|known| known.is_same(&value));
            return Ok(if same {
                Outcome::Duplicate
            } else {
                Outcome::Refused(reason)
            });
        }
        let Some(at) = there else {
            let window = at.map_or(0, |at| at + 1);
            if self.windows.is_empty() {
                self.windows.reserve_exact(1);
            }
            self.windows
                .insert(window, WindowPages::new(window_start_ms, timestamp_ms, &value)?);
            return Ok(Outcome::Taken { window, is_new: true });
        };
        Ok(match self.windows[at].put(timestamp_ms, value, arena)? {
            Put::Taken => Outcome::Taken {
                window: at,
                is_new: false,
            },
            Put::Duplicate => Outcome::Duplicate,
            Put::Conflict => Outcome::Refused(Reason::DuplicateTimestamp),
        })
    }

    /// Takes a window out.
    pub(crate) fn take_window(&mut self, start_ms: i64) -> Option<WindowPages> {
        let at = self.windows.iter().position(|w| w.start_ms == start_ms)?;
        let window = self.windows.remove(at);
        self.windows.shrink_to_fit();
        self.sealed_last_ms = self.sealed_last_ms.max(window.last_ms);
        Some(window)
    }

    pub(crate) fn window(&self, start_ms: i64) -> Option<&WindowPages> {
        self.windows.iter().find(|w| w.start_ms == start_ms)
    }
}
