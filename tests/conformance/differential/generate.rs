//! Random queries that mean something: types are respected, labels and metrics exist, depth is bounded.
//!
//! Two kinds of vectors are told apart. *Exact* ones have values that are the same to the bit however they were summed
//! up; only these are rounded, compared, counted by value, or taken modulo, where the last bit would become a whole
//! element of the answer. Evaluation times are half seconds (whole ones within subqueries), where no sample lies.

#[path = "generate/histograms.rs"]
mod histograms;
#[path = "generate/selectors.rs"]
mod selectors;
#[path = "generate/vectors.rs"]
mod vectors;

use super::data::{END_MS, START_MS};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::fmt;

/// Deeper expressions are selectors.
const DEPTH: usize = 4;

/// One query, as it is asked of gnomon.
#[derive(Clone, Debug)]
pub(super) struct Query {
    pub(super) text: String,
    pub(super) start_ms: i64,
    pub(super) end_ms: i64,
    /// None is an instant query at the start.
    pub(super) step_ms: Option<i64>,
}

impl Query {
    /// In the words of 2.42.
    pub(super) fn for_reference(&self) -> String {
        self.text.replace("double_exponential_smoothing(", "holt_winters(")
    }
}

impl fmt::Display for Query {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step_ms {
            None => write!(f, "at {} ms: {}", self.start_ms, self.text),
            Some(step_ms) => {
                let (start, end) = (self.start_ms, self.end_ms);
                write!(f, "{start} to {end} ms by {step_ms}: {}", self.text)
            }
        }
    }
}

/// The query of that number, at an instant and over a range.
pub(super) fn queries(seed: u64, number: u64) -> [Query; 2] {
    // Each query can be had again without those before it.
    let random = StdRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut generator = Generator { random, subqueries: 0 };
    let text = generator.query();
    let at = generator.instant();
    let start = generator.instant();
    let steps = generator.random.random_range(3..15);
    let step_ms = 1_000 * generator.random.random_range(7..150);
    [
        Query {
            text: text.clone(),
            start_ms: at,
            end_ms: at,
            step_ms: None,
        },
        Query {
            text,
            start_ms: start,
            end_ms: start + steps * step_ms,
            step_ms: Some(step_ms),
        },
    ]
}

/// Makes one query.
struct Generator {
    random: StdRng,
    /// How many subqueries surround what is being made.
    subqueries: usize,
}

impl Generator {
    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.random.random_range(0..from.len())]
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.random.random_ratio(1, n)
    }

    /// A half second of the later part of the samples.
    fn instant(&mut self) -> i64 {
        let seconds = self.random.random_range(4_200..(END_MS - START_MS) / 1000 - 300);
        START_MS + seconds * 1000 + 500
    }

    fn query(&mut self) -> String {
        match self.random.random_range(0..20) {
            0 => self.scalar(2),
            1 => self.native_vector(2),
            2 => self.number_of_native(3),
            3 => {
                let sorted = self.exact(2);
                let function = self.pick(&["sort", "sort_desc"]);
                format!("{function}({sorted})")
            }
            4..8 => self.exact(DEPTH),
            _ => self.vector(DEPTH),
        }
    }

    /// A scalar whose value is exact.
    fn scalar(&mut self, depth: usize) -> String {
        let choices = if depth == 0 { 4 } else { 8 };
        match self.random.random_range(0..choices) {
            0 | 1 => self.number(),
            2 => self.pick(&["pi()", "time()", "-3", "0x10", "1e3", "+Inf"]).to_owned(),
            3 => format!("{}", f64::from(self.random.random_range(1..64_u8)) / 8.0),
            4 | 5 => {
                let (a, b) = (self.scalar(depth - 1), self.scalar(depth - 1));
                let operator = self.pick(&["+", "-", "*", "== bool", "< bool", ">= bool", "!= bool"]);
                format!("({a} {operator} {b})")
            }
            6 => format!("-({})", self.scalar(depth - 1)),
            _ => {
                let one = self.exact_aggregate(depth - 1, "");
                format!("scalar({one})")
            }
        }
    }

    fn number(&mut self) -> String {
        self.pick(&["0.5", "2", "3.25", "10", "64", "100.125", "1024", "0.125"])
            .to_owned()
    }

    /// A number that no value is equal to.
    fn threshold(&mut self) -> String {
        self.pick(&["0.3137", "7.77", "42.42", "1234.567", "55555.51", "-3.21", "0"])
            .to_owned()
    }
}

#[test]
fn the_same_seed_gives_the_same_queries() {
    for number in 0..200 {
        let [a, b] = queries(7, number);
        let [c, d] = queries(7, number);
        assert_eq!((a.to_string(), b.to_string()), (c.to_string(), d.to_string()));
        assert_eq!(a.step_ms, None);
        assert!(b.start_ms % 1000 == 500 && b.end_ms < END_MS + 3_600_000);
        let parsed = gnomon_promql::parse(&a.text, &gnomon_promql::ParseOptions::everything());
        assert!(parsed.is_ok(), "{a}: {parsed:?}");
    }
    assert_ne!(queries(7, 0)[0].to_string(), queries(8, 0)[0].to_string());
}
