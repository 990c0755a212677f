//! How many requests are taken: a bucket of tokens.

use super::config::Rate;
use std::time::Duration;

/// Full at first.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    rate: Option<Rate>,
    left: f64,
    /// On the monotonic clock.
    at: Duration,
}

impl Tokens {
    /// Takes one, if there is one. Another rate than the last call's begins with a full bucket.
    pub(super) fn take(&mut self, rate: Rate, now: Duration) -> bool {
        let full = rate.burst as f64;
        if self.rate == Some(rate) {
            let since = now.saturating_sub(self.at).as_secs_f64();
            self.left = (self.left + since / rate.interval.as_secs_f64()).min(full);
        } else {
            self.rate = Some(rate);
            self.left = full;
        }
        self.at = now;
        if self.left < 1.0 {
            return false;
        }
        self.left -= 1.0;
        true
    }
}
