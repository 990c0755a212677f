//! How fast held scrapes are sent: shards that have just come back have the new ones to take as well.

use std::time::Duration;

/// Always allowed.
const LEAST_PER_SECOND: f64 = 100_000.0;
/// Of what comes: held scrapes get fewer as long as more go than come.
const TIMES_WHAT_COMES: f64 = 3.0;
/// What may go at once.
const BURST: Duration = Duration::from_secs(1);
/// Over which what comes is measured.
const WINDOW: Duration = Duration::from_secs(10);

/// Samples that may go, by a clock that never goes back.
#[derive(Debug)]
pub(super) struct Pace {
    /// What may go now; below zero is a debt of one that was larger than the rest.
    left: f64,
    at: Duration,
    window_began: Duration,
    came: u64,
    /// Per second, in the window before.
    rate: f64,
}

impl Pace {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            left: LEAST_PER_SECOND,
            at: now,
            window_began: now,
            came: 0,
            rate: 0.0,
        }
    }

    /// Samples came to be held.
    pub(super) fn came(&mut self, samples: u64, now: Duration) {
        let passed = now.saturating_sub(self.window_began);
        if passed >= WINDOW {
            self.rate = self.came as f64 / passed.as_secs_f64();
            self.came = 0;
            self.window_began = now;
        }
        self.came += samples;
    }

    fn per_second(&self) -> f64 {
        let rate = self.rate.max(self.came as f64 / WINDOW.as_secs_f64());
        (TIMES_WHAT_COMES * rate).max(LEAST_PER_SECOND)
    }

    /// Takes the samples of one scrape, however many; how long to wait before it goes.
    pub(super) fn take(&mut self, samples: u64, now: Duration) -> Duration {
        let per_second = self.per_second();
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.left = (self.left + passed * per_second).min(BURST.as_secs_f64() * per_second);
        let wait = (-self.left / per_second).max(0.0);
        self.left -= samples as f64;
        Duration::from_secs_f64(wait)
    }

    /// What was taken did not go.
    pub(super) fn give_back(&mut self, samples: u64) {
        self.left = (self.left + samples as f64).min(BURST.as_secs_f64() * self.per_second());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples that go within so many seconds, in scrapes of 1,000.
    fn goes(pace: &mut Pace, from: Duration, seconds: u64) -> u64 {
        let (mut now, mut gone) = (from, 0);
        loop {
            now += pace.take(1_000, now);
            if now >= from + Duration::from_secs(seconds) {
                return gone;
            }
            gone += 1_000;
        }
    }

    #[test]
    fn a_burst_and_then_so_many_a_second() {
        let start = Duration::from_secs(1_000);
        let mut pace = Pace::new(start);
        let gone = goes(&mut pace, start, 10);
        assert!((1_090_000..1_110_000).contains(&gone), "{gone}");
    }

    #[test]
    fn what_does_not_go_costs_the_others_nothing() {
        let start = Duration::from_secs(1_000);
        let mut pace = Pace::new(start);
        for _ in 0..1_000 {
            assert_eq!(pace.take(50_000, start), Duration::ZERO);
            pace.give_back(50_000);
        }
        assert!((1_090_000..1_110_000).contains(&goes(&mut pace, start, 10)));
    }

    #[test]
    fn three_times_what_comes_is_enough_to_catch_up() {
        let start = Duration::from_secs(1_000);
        let mut pace = Pace::new(start);
        for second in 0..30 {
            pace.came(200_000, start + Duration::from_secs(second));
        }
        let gone = goes(&mut pace, start + Duration::from_secs(30), 10);
        assert!(gone > 5_500_000, "{gone}");
    }
}
