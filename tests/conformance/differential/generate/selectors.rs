//! Selectors, ranges, subqueries.

use super::super::data::{END_MS, START_MS};
use super::Generator;
use rand::RngExt;

const COUNTERS: &[&str] = &[
    "requests_total",
    "errors_total",
    "latency_count",
    "latency_sum",
    "latency_bucket",
];
const GAUGES: &[&str] = &["size", "temperature", "up", "build_info"];

const MATCHERS: &[&str] = &[
    "job=\"api\"",
    "job=\"web\"",
    "job!=\"api\"",
    "job=~\"a.*\"",
    "job!~\"w.+\"",
    "job=~\"api|web\"",
    "job=~\".+\"",
    "instance=\"a:1\"",
    "instance=~\".:1\"",
    "instance!=\"b:1\"",
    "instance=~\"a:1|c:2\"",
    "nothing=\"\"",
    "nothing!~\".+\"",
    "job!=\"\"",
];

fn matchers_of(metric: &str) -> &'static [&'static str] {
    match metric {
        "requests_total" => &["path=\"/\"", "path!=\"/b\"", "path=~\"/.+\"", "path=~\"/|/a\""],
        "latency_bucket" => &["le=\"0.5\"", "le!=\"+Inf\"", "le=~\"0.+|10\""],
        "size" | "temperature" => &["zone=\"x\"", "zone!=\"x\"", "zone=~\"[xz]\""],
        "build_info" => &["version=~\"1.[01]\"", "version!~\"1[.]0\""],
        _ => MATCHERS,
    }
}

impl Generator {
    pub(super) fn counter(&mut self) -> String {
        let metric = self.pick(COUNTERS);
        self.matched(metric)
    }

    pub(super) fn gauge(&mut self) -> String {
        let metric = self.pick(GAUGES);
        self.matched(metric)
    }

    /// Series whose values differ from each other.
    pub(super) fn distinct(&mut self) -> String {
        let metric = self.pick(&["requests_total", "errors_total", "latency_sum", "size"]);
        self.matched(metric)
    }

    pub(super) fn matched(&mut self, metric: &str) -> String {
        let mut matchers: Vec<&str> = Vec::new();
        for _ in 0..self.random.random_range(0..3) {
            let from = if self.one_in(2) { MATCHERS } else { matchers_of(metric) };
            matchers.push(self.pick(from));
        }
        if self.one_in(25) {
            return format!("{{__name__=~\"{metric}|nothing\",{}}}", matchers.join(","));
        }
        if matchers.is_empty() {
            metric.to_owned()
        } else {
            format!("{metric}{{{}}}", matchers.join(","))
        }
    }

    /// Any series of floats, perhaps at another time.
    pub(super) fn selector(&mut self) -> String {
        let selector = if self.one_in(2) { self.counter() } else { self.gauge() };
        format!("{selector}{}", self.shift())
    }

    /// `offset` and `@`, or nothing. Whole seconds, and pinned times are half seconds.
    pub(super) fn shift(&mut self) -> String {
        match self.random.random_range(0..24) {
            0 | 1 => format!(" offset {}s", self.random.random_range(1..900)),
            2 => format!(" offset -{}s", self.random.random_range(1..300)),
            3 => format!(" offset {}m", self.random.random_range(1..15)),
            4 => format!(" @ {}", self.pinned()),
            5 => " @ start()".to_owned(),
            6 => format!(" @ end() offset {}s", self.random.random_range(1..600)),
            7 => format!(" offset 1m @ {}", self.pinned()),
            _ => String::new(),
        }
    }

    pub(super) fn pinned(&mut self) -> String {
        let seconds = self.random.random_range(4_200..(END_MS - START_MS) / 1000 - 300);
        format!("{}.5", START_MS / 1000 + seconds)
    }

    pub(super) fn width(&mut self) -> String {
        self.pick(&["45s", "1m", "2m", "5m", "7m", "10m", "18m", "1m30s"])
            .to_owned()
    }

    /// `selector[5m]`.
    pub(super) fn range_of(&mut self, selector: &str) -> String {
        let (width, shift) = (self.width(), self.shift());
        format!("{selector}[{width}]{shift}")
    }

    /// `(vector)[10m:1m]`. Within another subquery it is looked at half a second off the grid.
    pub(super) fn subquery(&mut self, make: impl FnOnce(&mut Self) -> String) -> String {
        self.subqueries += 1;
        let inner = make(self);
        self.subqueries -= 1;
        let range = self.pick(&["3m", "5m", "10m", "12m"]);
        let step = self.pick(&["", "20s", "30s", "1m", "90s"]);
        let shift = match (self.subqueries, self.random.random_range(0..6)) {
            (0, 0) => format!(" offset {}s", self.random.random_range(1..600)),
            (0, 1) => format!(" @ {}", self.pinned()),
            (0, _) => String::new(),
            (_, _) => " offset 500ms".to_owned(),
        };
        format!("({inner})[{range}:{step}]{shift}")
    }
}
