//! Sorting and selecting that look, every so often, whether the query has been ended: over millions of elements either
//! takes far longer than a client that has gone should keep a processor busy.

use super::context::Evaluated;
use crate::limits::CancelFlag;
use std::cmp::Ordering;

/// Elements that are gone through without looking.
pub(crate) const STRIDE: usize = 16 << 10;

/// Sorts; equal elements keep their order.
pub(crate) fn sort_by<T>(items: &mut [T], cancel: &CancelFlag, compare: impl Fn(&T, &T) -> Ordering) -> Evaluated<()> {
    for run in items.chunks_mut(STRIDE) {
        cancel.check()?;
        run.sort_by(&compare);
    }
    let in_order = |at: usize| compare(&items[at - 1], &items[at]) != Ordering::Greater;
    if (STRIDE..items.len()).step_by(STRIDE).all(in_order) {
        return Ok(());
    }
    let mut order: Vec<usize> = (0..items.len()).collect();
    let mut merged = Vec::with_capacity(items.len());
    let mut width = STRIDE;
    while width < items.len() {
        for pair in order.chunks(2 * width) {
            let (left, right) = pair.split_at(width.min(pair.len()));
            merge(left, right, &mut merged, cancel, |a, b| compare(&items[a], &items[b]))?;
        }
        std::mem::swap(&mut order, &mut merged);
        merged.clear();
        width *= 2;
    }
    put_in_order(items, order);
    Ok(())
}

fn merge(
    mut left: &[usize],
    mut right: &[usize],
    out: &mut Vec<usize>,
    cancel: &CancelFlag,
    compare: impl Fn(usize, usize) -> Ordering,
) -> Evaluated<()> {
    while let (Some((a, rest_left)), Some((b, rest_right))) = (left.split_first(), right.split_first()) {
        if out.len().is_multiple_of(STRIDE) {
            cancel.check()?;
        }
        if compare(*a, *b) == Ordering::Greater {
            out.push(*b);
            right = rest_right;
        } else {
            out.push(*a);
            left = rest_left;
        }
    }
    out.extend_from_slice(left);
    out.extend_from_slice(right);
    Ok(())
}

/// Moves every element to its place: `order` says which one comes where.
fn put_in_order<T>(items: &mut [T], mut order: Vec<usize>) {
    for start in 0..items.len() {
        let mut at = start;
        loop {
            let from = std::mem::replace(&mut order[at], at);
            if from == start {
                break;
            }
            items.swap(at, from);
            at = from;
        }
    }
}

/// Bits whose order as integers is that of the numbers; not-a-number is before all.
fn key(value: f64) -> u64 {
    let bits = value.to_bits();
    if value.is_nan() {
        0
    } else if bits >> 63 == 1 {
        !bits
    } else {
        bits | 1 << 63
    }
}

fn of_key(key: u64) -> f64 {
    match key {
        0 => f64::NAN,
        positive if positive >> 63 == 1 => f64::from_bits(positive & !(1 << 63)),
        negative => f64::from_bits(!negative),
    }
}

/// The `rank`-th smallest number, counted from 0; not-a-number comes first. Sixteen bits of it are found in each of
/// four passes.
pub(crate) fn nth(values: &[f64], mut rank: usize, cancel: &CancelFlag) -> Evaluated<f64> {
    let mut prefix = 0u64;
    for shift in [48, 32, 16, 0] {
        let mut counts = vec![0usize; 1 << 16];
        for some in values.chunks(STRIDE) {
            cancel.check()?;
            for value in some {
                let key = key(*value);
                // What is above the sixteen bits: nothing in the first pass.
                if key.checked_shr(shift + 16).unwrap_or(0) == prefix {
                    counts[(key >> shift) as usize & 0xffff] += 1;
                }
            }
        }
        let mut found = 0;
        for (bits, count) in counts.iter().enumerate() {
            found = bits as u64;
            if rank < *count {
                break;
            }
            rank -= count;
        }
        prefix = prefix << 16 | found;
    }
    Ok(of_key(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers without a visible pattern.
    fn scattered(n: usize) -> Vec<f64> {
        let mut state = 1u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 - 8e6
        };
        (0..n).map(|_| next()).collect()
    }

    #[test]
    fn long_lists_are_sorted_as_short_ones_are() {
        for n in [0, 1, STRIDE, STRIDE + 1, 5 * STRIDE + 17] {
            let mut items: Vec<(i64, usize)> = scattered(n).iter().map(|v| *v as i64 % 100).zip(0..).collect();
            let mut expected = items.clone();
            expected.sort_by_key(|(key, _)| *key);
            sort_by(&mut items, &CancelFlag::new(), |a, b| a.0.cmp(&b.0)).unwrap();
            assert_eq!(items, expected);
        }
    }

    #[test]
    fn the_nth_is_that_of_the_sorted_list() {
        let mut values = scattered(3000);
        values.extend([f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e-310, -1e-310, 0.0]);
        let mut sorted = values.clone();
        sorted.sort_by(|a, b| crate::engine::arithmetic::nan_first(*a, *b));
        for rank in [0, 1, 2, 1500, 1501, 3004, 3005] {
            let found = nth(&values, rank, &CancelFlag::new()).unwrap();
            assert!(
                found == sorted[rank] || (found.is_nan() && sorted[rank].is_nan()),
                "{rank}"
            );
        }
    }

    #[test]
    fn both_end_with_the_query() {
        let cancel = CancelFlag::new();
        cancel.cancel();
        assert!(sort_by(&mut [2, 1], &cancel, |a: &i32, b| a.cmp(b)).is_err());
        assert!(nth(&[1.0], 0, &cancel).is_err());
    }
}
