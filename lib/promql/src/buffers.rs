//! Columns of samples that are used again: a query decodes one series after another, evaluates it and lets it go, and what
//! decodes and what evaluates are mostly one thread.

use crate::source::Samples;
use std::cell::RefCell;

/// A thread keeps so many columns of each kind,
const KEPT: usize = 4;
/// none of which has room for more samples than this.
const MAX_SAMPLES: usize = 4096;

thread_local! {
    static TIMES: RefCell<Vec<Vec<i64>>> = const { RefCell::new(Vec::new()) };
    static VALUES: RefCell<Vec<Vec<f64>>> = const { RefCell::new(Vec::new()) };
}

type Shelf<T> = std::thread::LocalKey<RefCell<Vec<Vec<T>>>>;

fn take<T>(shelf: &'static Shelf<T>, samples: usize) -> Vec<T> {
    let kept = (samples <= MAX_SAMPLES)
        .then(|| shelf.with_borrow_mut(Vec::pop))
        .flatten();
    let mut column = kept.unwrap_or_default();
    column.reserve(samples);
    column
}

fn give<T>(shelf: &'static Shelf<T>, mut column: Vec<T>) {
    if (1..=MAX_SAMPLES).contains(&column.capacity()) {
        column.clear();
        // Where the thread ends, so does what it kept.
        let _ = shelf.try_with(|shelf| {
            let mut shelf = shelf.borrow_mut();
            if shelf.len() < KEPT {
                shelf.push(column);
            }
        });
    }
}

/// Empty columns with room for so many samples.
#[must_use]
pub fn samples_of(count: usize) -> Samples {
    Samples {
        timestamps: take(&TIMES, count),
        values: take(&VALUES, count),
        ..Samples::default()
    }
}

/// Columns that are not needed any more.
pub(crate) fn give_back(times: Vec<i64>, values: Vec<f64>) {
    give(&TIMES, times);
    give(&VALUES, values);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_come_again_empty_and_large_ones_do_not() {
        let mut samples = samples_of(100);
        samples.push_float(1, 2.0);
        let room = samples.timestamps.capacity();
        give_back(samples.timestamps, samples.values);
        let again = samples_of(10);
        assert!(again.is_empty() && again.timestamps.capacity() == room);
        give_back(again.timestamps, again.values);
        for _ in 0..2 * KEPT {
            let large = samples_of(MAX_SAMPLES + 1);
            give_back(large.timestamps, large.values);
        }
        TIMES.with_borrow(|kept| assert!(kept.len() == 1 && kept.iter().all(|k| k.capacity() <= MAX_SAMPLES)));
    }
}
