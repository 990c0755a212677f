//! One form for histograms that mean the same, and their text.

use super::FloatHistogram;
use super::buckets::{Bucket, indexed, to_spans};
use crate::gofloat::General;
use std::fmt;

impl FloatHistogram {
    /// Leaves out empty buckets.
    #[must_use]
    pub fn compacted(mut self) -> Self {
        let full = |buckets: &(i32, f64)| buckets.1 != 0.0;
        let (spans, counts) = to_spans(indexed(&self.positive_spans, &self.positive_buckets).filter(full));
        (self.positive_spans, self.positive_buckets) = (spans, counts);
        let (spans, counts) = to_spans(indexed(&self.negative_spans, &self.negative_buckets).filter(full));
        (self.negative_spans, self.negative_buckets) = (spans, counts);
        self
    }

    /// Whether two histograms have the same layout and bit for bit the same counts; hints do not matter, and neither
    /// does how spans are cut. Two that are not-a-number at the same place are equal.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        let bits = |h: &Self| {
            let run = |spans, buckets| {
                indexed(spans, buckets)
                    .map(|(i, v): (i32, f64)| (i, v.to_bits()))
                    .collect::<Vec<_>>()
            };
            (
                [h.zero_threshold, h.zero_count, h.count, h.sum].map(f64::to_bits),
                run(&h.positive_spans, &h.positive_buckets),
                run(&h.negative_spans, &h.negative_buckets),
            )
        };
        self.schema == other.schema && self.custom_values == other.custom_values && bits(self) == bits(other)
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let open = if self.lower_inclusive { '[' } else { '(' };
        let close = if self.upper_inclusive { ']' } else { ')' };
        write!(
            f,
            "{open}{},{}{close}:{}",
            General(self.lower),
            General(self.upper),
            General(self.count)
        )
    }
}

/// As Prometheus' text of a histogram: `{count:4, sum:18.4, [-0.001,0.001]:1, (1,2]:3}`.
impl fmt::Display for FloatHistogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{count:{}, sum:{}", General(self.count), General(self.sum))?;
        let mut negative: Vec<Bucket> = self.negative().filter(|b| b.count != 0.0).collect();
        negative.reverse();
        for bucket in negative {
            write!(f, ", {bucket}")?;
        }
        if self.zero_count != 0.0 {
            write!(f, ", {}", self.zero_bucket())?;
        }
        for bucket in self.positive().filter(|b| b.count != 0.0) {
            write!(f, ", {bucket}")?;
        }
        f.write_str("}")
    }
}
