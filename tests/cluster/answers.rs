//! Answers about what writers wrote, and what they say is missing from them.

use gnomon_querier::parse_time;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Sums of the same numbers in another order are as near as this, in parts of the sum.
const NEAR: f64 = 1e-12;

#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) found: BTreeMap<(usize, i64), f64>,
    /// What it says is missing.
    pub(crate) gaps: Vec<Gap>,
    /// What is wrong with it, whatever was written.
    pub(crate) wrong: Option<String>,
}

/// What a warning says is missing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) shard: u32,
    /// Of samples, milliseconds.
    pub(crate) span_ms: RangeInclusive<i64>,
}

impl Gap {
    /// None where the text does not name a shard and the times of samples.
    pub(crate) fn read(warning: &str) -> Option<Self> {
        let (_, rest) = warning.split_once("shard ")?;
        let (shard, rest) = rest.split_once(" (")?;
        let (what, _) = rest.split_once(')')?;
        let span_ms = match what {
            "all samples" => i64::MIN..=i64::MAX,
            span => {
                let (from, to) = span.strip_prefix("samples from ")?.split_once(" to ")?;
                let ms = |text: &str| parse_time(text).ok();
                ms(from)?..=ms(to)?
            }
        };
        Some(Self {
            shard: shard.parse().ok()?,
            span_ms,
        })
    }
}

pub(crate) fn is_near(read: f64, expected: f64) -> bool {
    (read - expected).abs() <= expected.abs() * NEAR
}

/// Of one of the values at least.
pub(crate) fn is_sum_of_some(read: f64, values: &[f64]) -> bool {
    (1..1_u32 << values.len()).any(|some| {
        let chosen = values.iter().enumerate().filter(|(i, _)| some >> i & 1 == 1);
        is_near(read, chosen.map(|(_, value)| value).sum())
    })
}

#[test]
fn a_warning_says_of_which_shard_and_which_times() {
    let text = "shard 2 (samples from 2026-11-28T10:00:00Z to 2026-11-28T11:00:00.5Z) could not be read, the result is \
                incomplete: x (y)";
    let begin_ms = 1_795_860_000_000;
    let expected = Gap {
        shard: 2,
        span_ms: begin_ms..=begin_ms + 3_600_500,
    };
    assert_eq!(Gap::read(text), Some(expected));
    let block = Gap::read("block 01J of shard 3 (all samples) is gone, the result is incomplete");
    assert_eq!(block.map(|gap| gap.shard), Some(3));
    assert_eq!(Gap::read("something could not be read"), None);
}

#[test]
fn a_part_of_a_sum_is_that_of_some_of_its_values() {
    let values = [1.5, 2.0, 4.0];
    for some in [1.5, 2.0, 3.5, 6.0, 7.5] {
        assert!(is_sum_of_some(some, &values), "{some}");
    }
    for other in [0.0, -1.5, 3.0, 8.0, f64::NAN] {
        assert!(!is_sum_of_some(other, &values), "{other}");
    }
}
