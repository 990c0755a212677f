//! Instant vectors of floats.

use super::Generator;
use rand::RngExt;

/// Of ranges, with one argument; of samples that are exact, since differences are taken.
const OF_RANGE: &[&str] = &[
    "delta",
    "idelta",
    "irate",
    "deriv",
    "changes",
    "resets",
    "stddev_over_time",
    "stdvar_over_time",
];

/// Of ranges, with one argument; of whatever samples there are.
const STEADY_OF_RANGE: &[&str] = &[
    "min_over_time",
    "max_over_time",
    "sum_over_time",
    "count_over_time",
    "last_over_time",
    "present_over_time",
    "absent_over_time",
];

/// Of ranges, with values that are exact where the samples are.
const EXACT_OF_RANGE: &[&str] = &[
    "changes",
    "resets",
    "idelta",
    "min_over_time",
    "max_over_time",
    "sum_over_time",
    "count_over_time",
    "last_over_time",
    "present_over_time",
    "absent_over_time",
];

/// Of instant vectors, smooth.
const SMOOTH: &[&str] = &[
    "abs", "sqrt", "ln", "log2", "log10", "atan", "tanh", "asinh", "deg", "rad",
];

/// Of exact vectors, since they are steep; their last bits are each library's own.
const STEEP: &[&str] = &[
    "sin", "cos", "tan", "asin", "acos", "atanh", "acosh", "sinh", "cosh", "exp",
];

/// Of exact vectors, with values that are exact too.
const OF_EXACT: &[&str] = &[
    "abs",
    "ceil",
    "floor",
    "round",
    "sgn",
    "hour",
    "minute",
    "month",
    "year",
    "day_of_week",
    "day_of_month",
    "day_of_year",
    "days_in_month",
    "absent",
];

const GROUPINGS: &[&str] = &[
    "",
    " by (job)",
    " by (instance)",
    " by (job, instance)",
    " without (instance)",
    " without (job)",
    " without (path, zone, le)",
    " by (nothing)",
    " by ()",
    " without ()",
];

impl Generator {
    /// Any vector; its values may differ in the last bits.
    pub(super) fn vector(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.selector();
        }
        match self.random.random_range(0..24) {
            0..3 => self.exact(depth),
            3..6 => self.rate(depth),
            6..9 => self.over_range(depth),
            9..13 => self.aggregate(depth),
            13 => {
                let function = self.pick(SMOOTH);
                format!("{function}({})", self.positive(depth - 1))
            }
            14..17 => self.smooth_binary(depth),
            17 => self.set_operation(depth, Self::vector),
            18 => self.relabelled(depth, Self::vector),
            19 => self.classic_quantile(),
            20 => self.joined(depth),
            21 => {
                let function = self.pick(STEEP);
                format!("{function}({})", self.selector())
            }
            22 => {
                // Of what has no name: 2.42 keeps it.
                let grouping = self.pick(GROUPINGS);
                format!("({} atan2 {})", self.exact_aggregate(0, grouping), self.number())
            }
            _ => format!("clamp({}, -1e9, 1e9)", self.vector(depth - 1)),
        }
    }

    /// A vector of values above zero, so that sums do not cancel out.
    fn positive(&mut self, depth: usize) -> String {
        if depth == 0 || self.one_in(3) {
            let counter = self.counter();
            return format!("{counter}{}", self.shift());
        }
        match self.random.random_range(0..4) {
            0 => self.rate(depth),
            1 => {
                let range = self.distinct();
                let range = self.range_of(&range);
                let function = self.pick(&["avg_over_time", "max_over_time", "sum_over_time", "quantile_over_time"]);
                match function {
                    "quantile_over_time" => format!("quantile_over_time(0.75, {range})"),
                    function => format!("{function}({range})"),
                }
            }
            2 => {
                let operator = self.pick(&["sum", "avg", "max", "min", "count"]);
                let grouping = self.pick(GROUPINGS);
                format!("{operator}{grouping} ({})", self.positive(depth - 1))
            }
            _ => format!("({} + {})", self.positive(depth - 1), self.number()),
        }
    }

    fn rate(&mut self, depth: usize) -> String {
        let function = self.pick(&["rate", "increase", "rate", "irate"]);
        let range = if depth > 1 && self.one_in(6) {
            self.subquery(|generator| generator.counter())
        } else {
            let counter = self.counter();
            self.range_of(&counter)
        };
        format!("{function}({range})")
    }

    fn over_range(&mut self, depth: usize) -> String {
        let steady = self.one_in(2);
        if self.one_in(8) {
            // Means of what is below and above zero cancel out.
            let selector = self.distinct();
            return format!("avg_over_time({})", self.range_of(&selector));
        }
        let range = if self.one_in(3) {
            let inner = if steady { Self::vector } else { Self::exact };
            self.subquery(|generator| inner(generator, depth.min(3) - 1))
        } else {
            let selector = if self.one_in(2) { self.gauge() } else { self.counter() };
            self.range_of(&selector)
        };
        match self.random.random_range(0..20) {
            0 if steady => {
                let quantile = self.pick(&["0", "0.1", "0.5", "0.99", "1", "-1", "2"]);
                format!("quantile_over_time({quantile}, {range})")
            }
            1 if steady => {
                let (smoothing, trend) = (self.pick(&["0.1", "0.5", "0.9"]), self.pick(&["0.1", "0.6"]));
                format!("double_exponential_smoothing({range}, {smoothing}, {trend})")
            }
            2 => {
                // Without `@`, which 2.42 does not hold still at the steps of a range.
                let seconds = self.pick(&["0", "60", "-600", "3600"]);
                let selector = if self.one_in(2) { self.gauge() } else { self.counter() };
                let (width, offset) = (self.width(), self.random.random_range(1..600));
                format!("predict_linear({selector}[{width}] offset {offset}s, {seconds})")
            }
            _ => {
                let function = self.pick(if steady { STEADY_OF_RANGE } else { OF_RANGE });
                format!("{function}({range})")
            }
        }
    }

    fn aggregate(&mut self, depth: usize) -> String {
        let grouping = self.pick(GROUPINGS);
        match self.random.random_range(0..12) {
            0 => {
                let quantile = self.pick(&["0", "0.25", "0.5", "0.9", "1", "1.5"]);
                format!("quantile{grouping} ({quantile}, {})", self.vector(depth - 1))
            }
            1 | 2 => {
                // Equal values are told apart by the order of their series, which is each version's own.
                let operator = self.pick(&["topk", "bottomk"]);
                let k = self.random.random_range(1..6);
                let input = self.distinct();
                let input = match self.random.random_range(0..3) {
                    0 => input,
                    1 => format!("({input} * 2)"),
                    _ => format!("sum_over_time({})", self.range_of(&input)),
                };
                format!("{operator}{grouping} ({k}, {input})")
            }
            3 => {
                // Of what is finite and not far from zero: 2.42 gives other sums of squares.
                let operator = self.pick(&["stddev", "stdvar"]);
                let input = self.pick(&["size", "up", "latency_sum", "errors_total"]);
                let input = self.matched(input);
                format!("{operator}{grouping} ({input}{})", self.shift())
            }
            4 | 5 => {
                let operator = self.pick(&["min", "max", "count", "group"]);
                format!("{operator}{grouping} ({})", self.vector(depth - 1))
            }
            _ => {
                let operator = self.pick(&["sum", "avg"]);
                format!("{operator}{grouping} ({})", self.positive(depth - 1))
            }
        }
    }

    fn smooth_binary(&mut self, depth: usize) -> String {
        let operator = self.pick(&["+", "*", "/"]);
        match self.random.random_range(0..4) {
            0 => format!("({} {operator} {})", self.positive(depth - 1), self.number()),
            1 => format!("({} {operator} {})", self.number(), self.positive(depth - 1)),
            2 => format!("({} ^ {})", self.positive(depth - 1), self.pick(&["2", "0.5", "-1"])),
            _ => {
                let labels = self.pick(&["job", "instance", "job, instance"]);
                let (a, b) = (self.positive(depth - 1), self.positive(depth - 1));
                format!("(sum by ({labels}) ({a}) {operator} avg by ({labels}) ({b}))")
            }
        }
    }

    fn set_operation(&mut self, depth: usize, make: fn(&mut Self, usize) -> String) -> String {
        let operator = self.pick(&["and", "or", "unless"]);
        let matching = self.pick(&[
            "",
            " on (job)",
            " on (job, instance)",
            " ignoring (zone, path)",
            " on ()",
        ]);
        let (a, b) = (make(self, depth - 1), make(self, depth - 1));
        format!("({a} {operator}{matching} {b})")
    }

    fn relabelled(&mut self, depth: usize, make: fn(&mut Self, usize) -> String) -> String {
        let inner = make(self, depth - 1);
        match self.random.random_range(0..5) {
            0 => format!("label_replace({inner}, \"host\", \"$1-$2\", \"instance\", \"(.):(.*)\")"),
            1 => format!("label_replace({inner}, \"job\", \"x$1\", \"job\", \"(a.*)\")"),
            2 => format!("label_replace({inner}, \"zone\", \"\", \"zone\", \"x\")"),
            3 => format!("label_join({inner}, \"all\", \"-\", \"job\", \"instance\", \"nothing\")"),
            _ => format!("label_join({inner}, \"job\", \"\", \"path\")"),
        }
    }

    fn classic_quantile(&mut self) -> String {
        let quantile = self.pick(&["0.1", "0.5", "0.9", "0.99", "0", "1"]);
        let buckets = self.matched("latency_bucket");
        let shift = self.shift();
        match self.random.random_range(0..3) {
            0 => format!("histogram_quantile({quantile}, {buckets}{shift})"),
            1 => format!("histogram_quantile({quantile}, sum by (le, job) ({buckets}{shift}))"),
            _ => {
                let range = self.range_of(&buckets);
                format!("histogram_quantile({quantile}, sum by (le) (increase({range})))")
            }
        }
    }

    /// Many elements of one side, with labels of the other.
    fn joined(&mut self, depth: usize) -> String {
        let left = self.pick(&["requests_total", "size", "latency_bucket", "rate(requests_total[5m])"]);
        let right = self.pick(&["build_info", "errors_total", "latency_sum", "up"]);
        let operator = self.pick(&["*", "/", "+"]);
        let include = self.pick(&["", "version", "zone"]);
        let _ = depth;
        match self.random.random_range(0..3) {
            0 => format!("({left} {operator} on (job, instance) group_left ({include}) {right})"),
            1 => format!("({right} {operator} on (job, instance) group_right ({include}) {left})"),
            _ => format!("({left} {operator} ignoring (path, zone, le, version) group_left () {right})"),
        }
    }

    /// A vector whose values are the same to the bit.
    pub(super) fn exact(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.selector();
        }
        match self.random.random_range(0..20) {
            0 | 1 => self.selector(),
            2..4 => {
                let selector = if self.one_in(2) { self.gauge() } else { self.counter() };
                let range = if self.one_in(3) {
                    self.subquery(|generator| generator.exact(depth.min(3) - 1))
                } else {
                    self.range_of(&selector)
                };
                format!("{}({range})", self.pick(EXACT_OF_RANGE))
            }
            4..6 => {
                let grouping = self.pick(GROUPINGS);
                self.exact_aggregate(depth - 1, grouping)
            }
            6..8 => {
                let function = self.pick(OF_EXACT);
                format!("{function}({})", self.selector())
            }
            8 => {
                // `offset` or `@`, not both: 2.42 forgets the one for the other.
                let (selector, pinned) = (self.counter(), self.pinned());
                let shift = match self.random.random_range(0..3) {
                    0 => String::new(),
                    1 => format!(" offset {}s", self.random.random_range(1..900)),
                    _ => format!(" @ {pinned}"),
                };
                format!("timestamp({selector}{shift})")
            }
            9..11 => self.exact_binary(depth),
            11..13 => {
                let operator = self.pick(&["==", "!=", ">", "<", ">=", "<="]);
                let bool = self.pick(&["", " bool"]);
                format!("({} {operator}{bool} {})", self.exact(depth - 1), self.threshold())
            }
            13..15 => {
                let operator = self.pick(&["==", "!=", ">", "<", ">=", "<="]);
                let matching = self.pick(&["", " bool", " on (job, instance)", " bool ignoring (zone)"]);
                let (a, b) = (self.exact(depth - 1), self.exact(depth - 1));
                format!("({a} {operator}{matching} {b})")
            }
            15 => self.set_operation(depth, Self::exact),
            16 => self.relabelled(depth, Self::exact),
            17 => {
                let grouping = self.pick(&["", " by (job)", " without (instance)"]);
                format!("count_values{grouping} (\"value\", {})", self.exact(depth - 1))
            }
            18 => format!("vector({})", self.scalar(2)),
            _ => {
                let function = self.pick(&["clamp_min", "clamp_max"]);
                format!("{function}({}, {})", self.exact(depth - 1), self.scalar(1))
            }
        }
    }

    pub(super) fn exact_aggregate(&mut self, depth: usize, grouping: &str) -> String {
        let operator = self.pick(&["sum", "min", "max", "count", "group"]);
        // Sums of what was multiplied again and again would not be exact any more.
        let input = if operator == "sum" {
            self.selector()
        } else {
            self.exact(depth)
        };
        format!("{operator}{grouping} ({input})")
    }

    fn exact_binary(&mut self, depth: usize) -> String {
        match self.random.random_range(0..6) {
            0 => format!(
                "({} {} {})",
                self.exact(depth - 1),
                self.pick(&["+", "-", "*"]),
                self.number()
            ),
            1 => format!("({} % {})", self.selector(), self.number()),
            2 => format!("-{}", self.selector()),
            3 => format!("({} - {})", self.number(), self.selector()),
            4 => format!("({} - {})", self.selector(), self.selector()),
            _ => {
                let matching = self.pick(&[
                    "",
                    " on (job, instance)",
                    " ignoring (zone, path, version, le)",
                    " on (job)",
                ]);
                format!("({} +{matching} {})", self.selector(), self.selector())
            }
        }
    }
}
