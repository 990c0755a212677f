//! A machine's clocks: both run at a rate of its own, and the wall clock jumps.

use gnomon_model::{Clock, TimestampMs};
use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// The middle of a window of two hours.
const MIDDLE_MS: i64 = 1_800_003_600_000;
/// A window begins.
pub(crate) const WINDOW_MS: i64 = 1_800_007_200_000;

/// When a simulation begins: by tokio's time, and by all clocks.
#[derive(Clone, Copy)]
pub(crate) struct Origin {
    at: Instant,
    beginning_ms: i64,
}

impl Origin {
    /// Now. A window begins so long after it; where nothing is said, none while the simulation runs.
    pub(crate) fn now(window_after: Option<Duration>) -> Self {
        Self {
            at: Instant::now(),
            beginning_ms: window_after.map_or(MIDDLE_MS, |after| WINDOW_MS - after.as_millis() as i64),
        }
    }

    /// What all clocks would say if they were right.
    pub(crate) fn true_ms(self) -> i64 {
        self.beginning_ms + self.at.elapsed().as_millis() as i64
    }
}

pub(crate) struct SimClock {
    origin: Origin,
    /// Parts per million that it runs too fast.
    drift_ppm: i64,
    /// The wall clock's error, milliseconds.
    offset_ms: Mutex<i64>,
    /// What a process that is paused saw last.
    held: Mutex<Option<Duration>>,
}

impl SimClock {
    pub(crate) fn new(origin: Origin, drift_ppm: i64) -> Self {
        Self {
            origin,
            drift_ppm,
            offset_ms: Mutex::new(0),
            held: Mutex::new(None),
        }
    }

    pub(crate) fn jump_to(&self, offset_ms: i64) {
        *self.offset_ms.lock() = offset_ms;
    }

    /// Stands still until it is let go, and is right at once then.
    pub(crate) fn hold(&self, is_held: bool) {
        let since = self.runs();
        *self.held.lock() = is_held.then_some(since);
    }

    fn runs(&self) -> Duration {
        let us = self.origin.at.elapsed().as_micros() as i64;
        Duration::from_micros((us + us / 1_000_000 * self.drift_ppm).unsigned_abs())
    }
}

impl Clock for SimClock {
    fn now(&self) -> TimestampMs {
        let since = self.monotonic().as_millis() as i64;
        TimestampMs(self.origin.beginning_ms + since + *self.offset_ms.lock())
    }

    fn monotonic(&self) -> Duration {
        let held = *self.held.lock();
        held.unwrap_or_else(|| self.runs())
    }
}
