//! A machine's clocks: both run at a rate of its own, and the wall clock jumps.

use gnomon_model::{Clock, TimestampMs};
use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// When simulations begin: in the middle of a window of two hours.
pub(crate) const BEGINNING_MS: i64 = 1_800_003_600_000;

pub(crate) struct SimClock {
    origin: Instant,
    /// Parts per million that it runs too fast.
    drift_ppm: i64,
    /// The wall clock's error, milliseconds.
    offset_ms: Mutex<i64>,
}

impl SimClock {
    /// `origin` is the simulation's beginning.
    pub(crate) fn new(origin: Instant, drift_ppm: i64) -> Self {
        Self {
            origin,
            drift_ppm,
            offset_ms: Mutex::new(0),
        }
    }

    pub(crate) fn jump_to(&self, offset_ms: i64) {
        *self.offset_ms.lock() = offset_ms;
    }
}

/// What all clocks would say if they were right.
pub(crate) fn true_ms(origin: Instant) -> i64 {
    BEGINNING_MS + origin.elapsed().as_millis() as i64
}

impl Clock for SimClock {
    fn now(&self) -> TimestampMs {
        let since = self.monotonic().as_millis() as i64;
        TimestampMs(BEGINNING_MS + since + *self.offset_ms.lock())
    }

    fn monotonic(&self) -> Duration {
        let us = self.origin.elapsed().as_micros() as i64;
        Duration::from_micros((us + us / 1_000_000 * self.drift_ppm).unsigned_abs())
    }
}
