//! Random queries that mean something, and random series for them.

#![allow(dead_code, unreachable_pub)]

use gnomon_model::histogram::{FloatHistogram, Span};
use gnomon_model::{Labels, METRIC_NAME, STALE_NAN};
use gnomon_promql::{MemorySource, QueryResult, SampleValue, Value};
use proptest::prelude::*;
use std::sync::Arc;

/// How many cases a property is tried with; `GNOMON_CASES` says otherwise.
pub fn cases(default: u32) -> u32 {
    let given = std::env::var("GNOMON_CASES").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn one_of(texts: &'static [&'static str]) -> impl Strategy<Value = String> + Clone {
    prop::sample::select(texts).prop_map(str::to_owned)
}

fn selector() -> impl Strategy<Value = String> {
    let name = one_of(&["a", "b", "c_total", "h", "{__name__=~\"a|b\"}", "{__name__=~\".+\"}"]);
    let matchers = one_of(&[
        "",
        "",
        "x=\"1\"",
        "y=\"2\"",
        "x=~\"1|2\"",
        "x!=\"1\"",
        "z=\"\"",
        "x=\"1\",y=\"1\"",
    ]);
    (name, matchers).prop_map(|(name, matchers)| match (name.strip_suffix('}'), matchers.is_empty()) {
        (_, true) => name,
        (Some(open), false) => format!("{open},{matchers}}}"),
        (None, false) => format!("{name}{{{matchers}}}"),
    })
}

fn modifier() -> impl Strategy<Value = String> {
    one_of(&[
        "",
        "",
        "",
        " offset 1m",
        " offset -40s",
        " @ 300",
        " @ start()",
        " @ end() offset 30s",
    ])
}

fn ranged() -> impl Strategy<Value = String> {
    let func = one_of(&[
        "rate",
        "increase",
        "delta",
        "irate",
        "idelta",
        "resets",
        "changes",
        "deriv",
        "avg_over_time",
        "sum_over_time",
        "min_over_time",
        "max_over_time",
        "count_over_time",
        "last_over_time",
        "first_over_time",
        "present_over_time",
        "stddev_over_time",
        "quantile_over_time",
        "predict_linear",
        "absent_over_time",
    ]);
    let range = one_of(&["[1m]", "[2m]", "[5m]", "[90s]"]);
    (func, selector(), range, modifier()).prop_map(|(func, selector, range, modifier)| {
        let range = format!("{selector}{range}{modifier}");
        match func.as_str() {
            "quantile_over_time" => format!("{func}(0.{}, {range})", range.len() % 10),
            "predict_linear" => format!("{func}({range}, 60)"),
            _ => format!("{func}({range})"),
        }
    })
}

fn aggregated(inner: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    let op = one_of(&[
        "sum",
        "sum",
        "avg",
        "avg",
        "count",
        "min",
        "max",
        "group",
        "stddev",
        "topk(2, ",
        "bottomk(1, ",
        "quantile(0.5, ",
        "count_values(\"v\", ",
        "limitk(2, ",
    ]);
    let by = one_of(&[
        "",
        " by (x)",
        " by (x, y)",
        " without (y)",
        " by (__name__)",
        " without (x, y)",
    ]);
    (op, by, inner).prop_map(|(op, by, inner)| match op.split_once('(') {
        Some((op, param)) => format!("{op}{by}({param}{inner})"),
        None => format!("{op}{by}({inner})"),
    })
}

fn binary(left: String, op: &str, right: String) -> String {
    format!("({left}) {op} ({right})")
}

/// The same part in an aggregation and beside it, with another one in between.
fn again() -> impl Strategy<Value = String> {
    one_of(&[
        "sum by (x) (A) or (B) or (A)",
        "(A) or on (x) (B) or sum by (x, y) (A)",
        "(A) unless on (x) (sum by (x) (B) + on (x) group_left () avg by (x) (A))",
        "max by (x) (A) / on (x) min by (x) (A) or (B)",
        "count(A) + sum(B) - count(A)",
        "(sum by (x) (B) and on (x) (A)) or sum by (x) (B)",
    ])
}

/// Queries for instant vectors.
pub fn query() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        2 => (selector(), modifier()).prop_map(|(selector, modifier)| format!("{selector}{modifier}")),
        3 => ranged(),
        1 => aggregated(ranged()),
    ];
    leaf.prop_recursive(3, 12, 2, |inner| {
        let operator = one_of(&[
            "+",
            "-",
            "/",
            "*",
            "> ",
            "== bool",
            "+ on (x)",
            "/ ignoring (y)",
            "* on (x, y)",
            "- on (x) group_left ()",
            "and",
            "and on (x)",
            "unless",
            "unless on (y)",
            "or",
            "or on (x)",
            "+ fill (0)",
        ]);
        let function = one_of(&["abs", "-", "timestamp", "absent", "vector(scalar", "sort", "clamp_min"]);
        let number = one_of(&["2", "-1", "0.5", "1e300", "(1 + 1)"]);
        let scalar_operator = one_of(&["+", "*", "/", ">", "<= bool", "^"]);
        prop_oneof![
            4 => aggregated(inner.clone()),
            4 => (inner.clone(), operator, inner.clone()).prop_map(|(a, op, b)| binary(a, &op, b)),
            1 => (inner.clone(), one_of(&["/", "+", "and", "unless on (x)"])).prop_map(|(a, op)| binary(a.clone(), &op, a)),
            1 => (inner.clone(), again(), inner.clone()).prop_map(|(a, form, b)| form.replace('A', &a).replace('B', &b)),
            2 => (inner.clone(), scalar_operator.clone(), number.clone()).prop_map(|(a, op, n)| binary(a, &op, n)),
            1 => (number, scalar_operator, inner.clone()).prop_map(|(n, op, a)| binary(n, &op, a)),
            2 => (function, inner.clone()).prop_map(|(function, inner)| match function.as_str() {
                "-" => format!("-({inner})"),
                "clamp_min" => format!("clamp_min({inner}, 2)"),
                "vector(scalar" => format!("vector(scalar({inner}))"),
                function => format!("{function}({inner})"),
            }),
            1 => (inner, one_of(&["max", "sum", "last", "count"])).prop_map(|(inner, f)| format!("{f}_over_time(({inner})[3m:40s])")),
        ]
    })
}

/// What a series has after a gap.
#[derive(Clone, Copy, Debug)]
pub enum Sample {
    Float(f64),
    Stale,
    Histogram(u8),
}

pub type Series = (Labels, Vec<(i64, Sample)>);

pub fn labels(name: &str, x: &str, y: &str) -> Labels {
    Labels::from_pairs([(METRIC_NAME, name), ("x", x), ("y", y)])
}

fn sample(histograms: bool) -> impl Strategy<Value = Sample> {
    prop_oneof![
        10 => (-3i32..30).prop_map(|v| Sample::Float(f64::from(v) * 0.1)),
        1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, -0.0, 0.0, 1e17, -1e300, 1e-12]).prop_map(Sample::Float),
        1 => Just(Sample::Stale),
        u32::from(histograms) => (0u8..9).prop_map(Sample::Histogram),
    ]
}

/// Series of 0 to 10 minutes.
pub fn series() -> impl Strategy<Value = Vec<Series>> {
    let labels: Vec<Labels> = ["a", "b", "c_total", "h"]
        .iter()
        .flat_map(|name| ["1", "2", ""].map(|x| (name, x)))
        .flat_map(|(name, x)| ["1", "2"].map(|y| labels(name, x, y)))
        .collect();
    let one = |labels: Labels| {
        let samples = prop::collection::vec((5_000i64..45_000, sample(labels.metric_name() == "h")), 0..25);
        samples.prop_map(move |samples| {
            let mut time = 0;
            let at = |(gap, sample): &(i64, Sample)| {
                time += gap;
                (time, *sample)
            };
            (labels.clone(), samples.iter().map(at).collect())
        })
    };
    prop::sample::subsequence(labels, 1..12)
        .prop_flat_map(move |labels| labels.into_iter().map(one).collect::<Vec<_>>())
}

fn histogram(n: u8) -> FloatHistogram {
    FloatHistogram {
        schema: i32::from(n % 2),
        count: f64::from(n) * 2.0,
        sum: f64::from(n) * 0.3,
        positive_spans: vec![Span { offset: 0, length: 2 }],
        positive_buckets: vec![f64::from(n), f64::from(n)],
        ..FloatHistogram::default()
    }
}

pub fn add(source: &mut MemorySource, labels: &Labels, samples: &[(i64, Sample)]) {
    for (time, sample) in samples {
        match sample {
            Sample::Float(value) => source.add_float(labels, *time, *value),
            Sample::Stale => source.add_float(labels, *time, STALE_NAN),
            Sample::Histogram(n) => source.add_histogram(labels, *time, Arc::new(histogram(*n))),
        }
    }
}

fn float(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    format!("{:016x} {value}", value.to_bits())
}

/// A result, to the bit, as text; not-a-numbers are all the same.
pub fn text<E: std::fmt::Display>(result: &Result<QueryResult, E>) -> String {
    let result = match result {
        Ok(result) => result,
        Err(error) => return format!("error: {error}"),
    };
    let mut lines: Vec<String> = match &result.value {
        Value::Scalar { value, .. } => vec![float(*value)],
        Value::String { text, .. } => vec![text.clone()],
        Value::Vector(samples) => samples
            .iter()
            .map(|sample| match &sample.value {
                SampleValue::Float(value) => format!("{} {}", sample.labels, float(*value)),
                SampleValue::Histogram(value) => format!("{} {value:?}", sample.labels),
            })
            .collect(),
        Value::Matrix(series) => series
            .iter()
            .flat_map(|series| {
                let floats = series.floats.iter().map(|(t, v)| format!("{t} {}", float(*v)));
                let histograms = series.histograms.iter().map(|(t, v)| format!("{t} {v:?}"));
                let all: Vec<String> = floats.chain(histograms).collect();
                all.into_iter().map(|point| format!("{} {point}", series.labels))
            })
            .collect(),
    };
    lines.extend(result.warnings.iter().chain(&result.infos).cloned());
    lines.join("\n")
}
