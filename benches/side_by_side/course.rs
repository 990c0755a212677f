//! How generated values go, the same in every run.

/// How values go.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Course {
    Constant(f64),
    /// Counts about so many units a step (times a share), starts again now and then; `unit` is a unit's value.
    Counter {
        per_step: u64,
        share: f64,
        unit: f64,
    },
    /// Moves around a middle, in multiples of a quantum.
    Gauge {
        middle: f64,
        swing: f64,
        quantum: f64,
    },
}

/// Spreads the bits of a number over all of it.
pub(crate) fn mixed(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Course {
    /// The value at a step; series with one seed count the same events.
    pub(crate) fn value(&self, seed: u64, round: u64) -> f64 {
        match *self {
            Self::Constant(value) => value,
            Self::Counter { per_step, share, unit } => {
                // A restart about every ten hours, at its own time.
                let since = (round + seed % 2_400) % 2_400;
                let wave = (since as f64 / 97.0).sin() * 20.0 * per_step as f64;
                let events = since * per_step
                    + mixed(seed ^ round) % (per_step / 2 + 1)
                    + (wave as i64 + 20 * per_step as i64) as u64;
                (events as f64 * share).floor() * unit
            }
            Self::Gauge { middle, swing, quantum } => {
                let phase = (round + seed % 1_000) as f64;
                let noise = mixed(seed ^ round) % 1_000;
                let value = middle + swing * ((phase / 211.0).sin() + noise as f64 / 4_000.0);
                (value / quantum).round() * quantum
            }
        }
    }
}

pub(crate) const fn counter(per_step: u64, unit: f64) -> Course {
    Course::Counter {
        per_step,
        share: 1.0,
        unit,
    }
}

pub(crate) const fn gauge(middle: f64, swing: f64, quantum: f64) -> Course {
    Course::Gauge { middle, swing, quantum }
}
