//! Native histograms, as far as 2.42 knows them.

use super::Generator;
use rand::RngExt;

impl Generator {
    /// A vector of histograms.
    pub(super) fn native_vector(&mut self, depth: usize) -> String {
        let selector = self.matched("duration");
        match self.random.random_range(0..if depth == 0 { 3 } else { 5 }) {
            0 => format!("{selector}{}", self.shift()),
            1 | 2 => {
                let function = self.pick(&["rate", "increase"]);
                format!("{function}({})", self.range_of(&selector))
            }
            _ => {
                let grouping = self.pick(&["", " by (job)", " without (instance)", " by (instance)"]);
                format!("sum{grouping} ({})", self.native_vector(depth - 1))
            }
        }
    }

    /// A vector of floats that are told by histograms.
    pub(super) fn number_of_native(&mut self, depth: usize) -> String {
        let inner = self.native_vector(depth - 1);
        match self.random.random_range(0..6) {
            0 | 1 => format!("histogram_count({inner})"),
            2 | 3 => format!("histogram_sum({inner})"),
            4 => format!("count by (job) ({inner})"),
            _ => {
                // At the bounds of buckets nothing is interpolated, which 2.42 does in another way.
                let (lower, upper) = (self.pick(&["-Inf", "1", "0.5"]), self.pick(&["2", "4", "+Inf"]));
                format!("histogram_fraction({lower}, {upper}, {inner})")
            }
        }
    }
}
