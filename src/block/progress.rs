//! How far it has come: a bar on a terminal, else a line now and then.

use crate::output;
use gnomon_model::{Clock, SystemClock};
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

/// Between two changes of the bar, and between two lines.
const BAR_EVERY: Duration = Duration::from_millis(200);
const LINE_EVERY: Duration = Duration::from_secs(10);
const BAR_WIDTH: u64 = 30;

/// Samples that are done, of those that are expected.
pub(super) struct Progress {
    what: &'static str,
    total: u64,
    done: u64,
    clock: Arc<dyn Clock>,
    began: Duration,
    shown: Duration,
    is_terminal: bool,
}

impl Progress {
    /// `what`: `imported`, `exported`.
    pub(super) fn new(what: &'static str, total: u64) -> Self {
        let clock = SystemClock::shared();
        let now = clock.monotonic();
        Self {
            what,
            total,
            done: 0,
            clock,
            began: now,
            shown: now,
            is_terminal: std::io::stderr().is_terminal(),
        }
    }

    pub(super) fn add(&mut self, samples: u64) {
        self.done += samples;
        self.show();
    }

    /// Corrects what was only expected.
    pub(super) fn set(&mut self, samples: u64) {
        self.done = samples;
        self.show();
    }

    fn show(&mut self) {
        let now = self.clock.monotonic();
        let every = if self.is_terminal { BAR_EVERY } else { LINE_EVERY };
        if now.saturating_sub(self.shown) < every {
            return;
        }
        self.shown = now;
        let text = text(self.what, self.done, self.total, now.saturating_sub(self.began));
        if self.is_terminal {
            output::show(format_args!("\r\x1b[K{} {text}", bar(self.done, self.total)));
        } else {
            output::tell(format_args!("{text}"));
        }
    }

    /// A line of its own: the bar comes again below it.
    pub(super) fn say(&self, text: &str) {
        let clear = if self.is_terminal { "\r\x1b[K" } else { "" };
        output::tell(format_args!("{clear}{text}"));
    }
}

/// No bar is left behind, however it ends.
impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_terminal {
            output::show(format_args!("\r\x1b[K"));
        }
    }
}

fn percent(done: u64, total: u64) -> u64 {
    let share = u128::from(done) * 100 / u128::from(total.max(1));
    u64::try_from(share).unwrap_or(100).min(100)
}

fn bar(done: u64, total: u64) -> String {
    let full = (percent(done, total) * BAR_WIDTH / 100) as usize;
    format!("[{}{}]", "#".repeat(full), " ".repeat(BAR_WIDTH as usize - full))
}

fn text(what: &str, done: u64, total: u64, took: Duration) -> String {
    let rate = (done as f64 / took.as_secs_f64().max(1e-3)) as u64;
    let percent = percent(done, total);
    format!("{what} {done} of {total} samples ({percent} %), {rate} a second")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_how_far_and_how_fast() {
        let said = text("imported", 500, 2000, Duration::from_secs(2));
        assert_eq!(said, "imported 500 of 2000 samples (25 %), 250 a second");
        assert_eq!(bar(1, 3), format!("[{}{}]", "#".repeat(9), " ".repeat(21)));
        // More than was expected, and nothing at all.
        assert_eq!(
            (percent(7, 5), percent(0, 0), percent(u64::MAX, u64::MAX)),
            (100, 0, 100)
        );
    }
}
