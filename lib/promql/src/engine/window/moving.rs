//! Ranges that move forward over the samples of a series, and what is kept up as they move.

use crate::engine::select::Points;
use crate::plan::{Extended, Window};
use std::collections::VecDeque;
use std::ops::Range;

/// Two ends that only move forward.
#[derive(Default)]
pub(super) struct Ends {
    from: End,
    to: End,
}

impl Ends {
    /// Samples after `start`, up to `end`, which is not before it.
    #[inline]
    pub(super) fn advance(&mut self, times: &[i64], start: i64, end: i64) -> Range<usize> {
        let to = self.to.advance(times, end);
        self.from.advance(times, start).min(to)..to
    }
}

#[derive(Default)]
struct End {
    at: usize,
    /// How far it moved the last time, which is how far it moves the next, mostly.
    stride: usize,
}

impl End {
    /// Moves to the first time after `until`.
    #[inline]
    fn advance(&mut self, times: &[i64], until: i64) -> usize {
        let guess = self.at + self.stride;
        let is_passed = |at: usize| times.get(at).is_some_and(|t| *t <= until);
        if guess > times.len() || is_passed(guess) || (self.stride > 0 && !is_passed(guess - 1)) {
            let before = self.at;
            while is_passed(self.at) {
                self.at += 1;
            }
            self.stride = self.at - before;
        } else {
            self.at = guess;
        }
        self.at
    }
}

/// The samples of a step.
pub(crate) struct Place {
    /// Left end of the range, exclusive; samples may lie before it where the range is extended.
    pub(crate) start_ms: i64,
    /// Right end, inclusive, likewise.
    pub(crate) end_ms: i64,
    pub(crate) floats: Range<usize>,
    pub(crate) histograms: Range<usize>,
}

pub(crate) struct Moving<'w> {
    window: &'w Window,
    lookback_ms: i64,
    floats: Ends,
    histograms: Ends,
}

impl<'w> Moving<'w> {
    pub(crate) fn new(window: &'w Window, lookback_ms: i64) -> Self {
        Self {
            window,
            lookback_ms,
            floats: Ends::default(),
            histograms: Ends::default(),
        }
    }

    /// Moves on to a step, which must not lie before the last.
    pub(crate) fn to(&mut self, step_ms: i64, points: &Points) -> Place {
        let end_ms = self.window.shift.apply(step_ms);
        let start_ms = end_ms.saturating_sub(self.window.range_ms);
        let before = start_ms.saturating_sub(self.lookback_ms);
        let (from, to) = match self.window.extended {
            Extended::No => (start_ms, end_ms),
            Extended::Anchored => (before, end_ms),
            Extended::Smoothed => (before, end_ms.saturating_add(self.lookback_ms)),
        };
        Place {
            start_ms,
            end_ms,
            floats: self.floats.advance(&points.float_times, from, to),
            histograms: self.histograms.advance(&points.histogram_times, from, to),
        }
    }
}

/// Whether a counter began anew between two samples, by the starts that they name (0: not known). A start at the very
/// time of the sample before is that of a delta, unless that sample names its own time too: then it is of a counter
/// whose true start nobody knows.
pub(crate) fn began_anew([before_ms, now_ms]: [i64; 2], [start_before_ms, start_ms]: [i64; 2]) -> bool {
    let valid = start_ms != 0 && start_ms < now_ms;
    let is_delta = start_ms == before_ms && start_before_ms != 0 && start_before_ms < before_ms;
    valid && (start_ms > before_ms || is_delta)
}

/// Samples that are looked at together.
const STRETCH: usize = 64;

/// Where a counter fell: so that a long range need not be gone through again at every step.
#[derive(Default)]
pub(crate) struct Falls {
    /// Positions of the samples that are less than the one before.
    at: Vec<i64>,
    /// The value before each.
    from: Vec<f64>,
    ends: Ends,
}

impl Falls {
    /// `starts` is empty, or says when the counter behind each sample began.
    pub(crate) fn of(values: &[f64], times: &[i64], starts: &[i64]) -> Self {
        let began_anew =
            |at: usize| !starts.is_empty() && began_anew([times[at - 1], times[at]], [starts[at - 1], starts[at]]);
        let mut falls = Self::default();
        // Most stretches have none: those are passed over many samples at a time.
        for begin in (1..values.len()).step_by(STRETCH) {
            let end = (begin + STRETCH).min(values.len());
            let (before, after) = (&values[begin - 1..end - 1], &values[begin..end]);
            let fell = before.iter().zip(after).fold(false, |fell, (a, b)| fell | (b < a));
            if !fell && starts.is_empty() {
                continue;
            }
            for at in begin..end {
                if values[at] < values[at - 1] || began_anew(at) {
                    falls.at.push(at as i64);
                    falls.from.push(values[at - 1]);
                }
            }
        }
        falls
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    /// The values from which the counter fell between samples of a range, in order. Ranges must not move back.
    pub(crate) fn within(&mut self, floats: &Range<usize>) -> &[f64] {
        match floats.end.checked_sub(1) {
            _ if self.at.is_empty() => &[],
            Some(last) => &self.from[self.ends.advance(&self.at, floats.start as i64, last as i64)],
            None => &[],
        }
    }
}

/// The greatest or least value of a moving range: the positions that are, or may yet become, it.
pub(crate) struct Extreme {
    greatest: bool,
    candidates: VecDeque<usize>,
    /// Positions before this one have been looked at.
    seen: usize,
}

impl Extreme {
    pub(crate) const fn new(greatest: bool) -> Self {
        Self {
            greatest,
            candidates: VecDeque::new(),
            seen: 0,
        }
    }

    /// Not-a-number only if the range has nothing else; none if it is empty.
    pub(crate) fn advance(&mut self, values: &[f64], range: Range<usize>) -> Option<f64> {
        if range.is_empty() {
            return None;
        }
        for at in self.seen.max(range.start)..range.end {
            let value = values[at];
            if value.is_nan() {
                continue;
            }
            let beaten = |old: &usize| {
                if self.greatest {
                    value > values[*old]
                } else {
                    value < values[*old]
                }
            };
            while self.candidates.back().is_some_and(beaten) {
                self.candidates.pop_back();
            }
            self.candidates.push_back(at);
        }
        self.seen = self.seen.max(range.end);
        while self.candidates.front().is_some_and(|at| *at < range.start) {
            self.candidates.pop_front();
        }
        Some(self.candidates.front().map_or(values[range.start], |at| values[*at]))
    }
}
