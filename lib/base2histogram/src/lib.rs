//! Histograms of what openraft does: how long its batches are, and its stages take. It stands in for the crate of the same
//! name from crates.io, which makes tables of buckets in 16 precisions with the first histogram, 26 MB of memory, of which
//! openraft uses one kilobyte for figures that nobody asks for here (its feature `runtime-stats` is off). This one counts by
//! powers of two, and has of the other's interface what openraft calls. Why: `docs/decisions`, 0010.

use std::marker::PhantomData;

/// One for each number of bits that a value may have, from none to 64.
const BUCKETS: usize = 65;

/// Counts values by how many bits they have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: [u32; BUCKETS],
    of: PhantomData<T>,
}

impl<T> Histogram<T> {
    #[must_use]
    pub const fn new() -> Self {
        Self {
            counts: [0; BUCKETS],
            of: PhantomData,
        }
    }

    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// The same value `times` times. A bucket that is full stays so.
    pub fn record_n(&mut self, value: u64, times: u64) {
        let bits = u64::BITS - value.leading_zeros();
        if let Some(count) = self.counts.get_mut(bits as usize) {
            *count = count.saturating_add(u32::try_from(times).unwrap_or(u32::MAX));
        }
    }

    /// Values that were recorded.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }

    /// The least value of the bucket in which the value is that `share` (0 to 1) of all are not greater than; 0 where there
    /// is none.
    #[must_use]
    pub fn percentile(&self, share: f64) -> u64 {
        let rank = (self.total() as f64 * share).ceil().max(1.0) as u64;
        let mut below = 0;
        for (bits, count) in (0_u32..).zip(self.counts) {
            below += u64::from(count);
            if below >= rank {
                return bits.checked_sub(1).map_or(0, |bits| 1 << bits);
            }
        }
        0
    }

    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.percentile(0.001),
            p1: self.percentile(0.01),
            p5: self.percentile(0.05),
            p10: self.percentile(0.1),
            p50: self.percentile(0.5),
            p90: self.percentile(0.9),
            p99: self.percentile(0.99),
            p99_9: self.percentile(0.999),
        }
    }
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// How many values a histogram has, and which so many percent of them are not greater than.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl std::fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            samples, p50, p90, p99, ..
        } = self;
        write!(f, "{samples} samples, p50 {p50}, p90 {p90}, p99 {p99}")
    }
}

/// Histograms that are shown together. Nothing here shows any.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart(());

impl AsciiChart {
    #[must_use]
    pub const fn new() -> Self {
        Self(())
    }

    #[must_use]
    pub fn add(self, _name: impl AsRef<str>, _histogram: Histogram) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_by_their_bits() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats(), PercentileStats::default());
        for value in [0, 1, 2, 3, 4, 5, 6, 7, 8, u64::MAX] {
            histogram.record(value);
        }
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p0_1, stats.p50, stats.p90), (10, 0, 4, 8));
        assert_eq!(stats.p99_9, 1 << 63);
        let few = size_of::<Histogram>();
        assert!(few < 512, "{few} bytes: each group has some twenty");
    }
}
