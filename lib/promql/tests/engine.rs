//! The engine from outside: limits, cancelling, sources that fail, names, and that a range query is its instants.

#![allow(clippy::unwrap_used)]

use gnomon_model::Labels;
use gnomon_model::{METRIC_NAME, STALE_NAN};
use gnomon_promql::{
    CancelFlag, Engine, EvalError, EvalParams, Limits, MemorySource, ParseOptions, Plan, QueryMemory, QueryResult,
    SampleValue, SelectRequest, SeriesIter, SeriesSource, SourceError, Value, parse,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn execute(
    source: &dyn SeriesSource,
    query: &str,
    params: EvalParams,
    limits: &Limits,
) -> Result<QueryResult, EvalError> {
    let expr = parse(query, &ParseOptions::everything()).unwrap();
    let plan = Plan::new(query, &expr, params).unwrap();
    Engine::execute(&plan, source, limits, &CancelFlag::new())
}

fn series(name: &str, instance: &str) -> Labels {
    Labels::from_pairs([(METRIC_NAME, name), ("instance", instance)])
}

fn source() -> MemorySource {
    let mut source = MemorySource::new();
    for (name, instance) in [("a_total", "1"), ("a_total", "2"), ("b_total", "1")] {
        for i in 0..100 {
            source.add_float(&series(name, instance), i * 15_000, i as f64);
        }
    }
    source
}

#[test]
fn samples_are_limited() {
    let source = source();
    let few = Limits {
        max_samples: 20,
        ..Limits::default()
    };
    let result = execute(&source, "sum(rate(a_total[5m]))", EvalParams::instant(600_000), &few);
    assert_eq!(result.unwrap_err(), EvalError::TooManySamples);
    let enough = Limits {
        max_samples: 500,
        ..Limits::default()
    };
    assert!(execute(&source, "sum(rate(a_total[5m]))", EvalParams::instant(600_000), &enough).is_ok());
    // Whatever asks for more steps than fit is refused before they are made.
    for query in [
        "a_total[100y:1ms]",
        "max_over_time(a_total[100y:1ms])",
        "max_over_time(vector(1)[100y:1ms])",
    ] {
        let result = execute(&source, query, EvalParams::instant(600_000), &Limits::default());
        assert_eq!(result.unwrap_err(), EvalError::TooManySamples, "{query}");
    }
    for query in [
        "time()",
        "1",
        "a_total",
        "absent(a_total)",
        "a_total and a_total",
        "vector(1)",
        "-a_total @ 0",
    ] {
        let result = execute(
            &source,
            query,
            EvalParams::range(i64::MIN, i64::MAX, 1),
            &Limits::default(),
        );
        assert_eq!(result.unwrap_err(), EvalError::TooManySamples, "{query}");
    }
}

/// Many series and, where the query asks for it, many steps: whatever an operator keeps is counted in bytes.
#[test]
fn bytes_are_limited_and_given_back() {
    let mut source = MemorySource::new();
    for i in 0..3000 {
        let labels = Labels::from_pairs([(METRIC_NAME, "m"), ("instance", &format!("{i:0>200}"))]);
        source.add_float(&labels, 600_000, f64::from(i));
    }
    let memory = QueryMemory::new(0, 1 << 20, 1);
    let params = EvalParams::range(600_000, 660_000, 1_000);
    for query in [
        "m",
        "m + m",
        "m and m",
        "m or m",
        "topk(2, m)",
        "quantile(0.5, m)",
        "count_values(\"v\", m)",
        "sum by (instance) (m)",
        "sort_desc(m)",
        "label_replace(m, \"a\", \"$1\", \"instance\", \"(.*)\")",
        "timestamp(m)",
        "max_over_time(m[5m])",
        "max_over_time(vector(1)[1h:1s]) + on () group_left () sum(max_over_time(vector(1)[10d:1s]))",
        "vector(1)[10d:1s]",
        "sum_over_time(vector(time())[10d:1s])",
    ] {
        let limits = Limits {
            memory: memory.budget(),
            ..Limits::default()
        };
        let instant = query.ends_with(']');
        let params = if instant { EvalParams::instant(600_000) } else { params };
        let error = execute(&source, query, params, &limits).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("1MiB in memory in query execution (--query.max-bytes)"),
            "{query}: {error}"
        );
        assert_eq!(memory.used_bytes(), 0, "{query}");
    }
    for query in [
        "sum(m)",
        "count(m)",
        "absent_over_time(m[5m])",
        "avg_over_time(sum(m)[5m:1s])",
        "absent(m)",
        "scalar(m)",
    ] {
        let limits = Limits {
            memory: memory.budget(),
            ..Limits::default()
        };
        let done = execute(&source, query, params, &limits);
        assert!(done.is_ok(), "{query}: {done:?}");
    }
}

/// With delayed name removal an element that is to lose its name, whichever of them, makes its group lose it.
#[test]
fn groups_lose_the_name_with_one_of_their_elements() {
    let mut source = MemorySource::new();
    for at in 0..=10 {
        source.add_float(&series("m", "a"), at * 60_000, 600.0);
        source.add_float(&series("m", "b"), at * 60_000, at as f64 * 120.0);
    }
    let params = EvalParams {
        delayed_name_removal: true,
        ..EvalParams::instant(600_000)
    };
    let (kept, lost) = ("m{instance=\"a\"}", "rate(m{instance=\"b\"}[5m])");
    for (query, name, value) in [
        (format!("sum by (__name__) ({kept} or {lost})"), "", 602.0),
        (format!("sum by (__name__) ({lost} or {kept})"), "", 602.0),
        (format!("sum by (__name__) ({kept})"), "m", 600.0),
    ] {
        let Value::Vector(result) = execute(&source, &query, params, &Limits::default()).unwrap().value else {
            panic!("{query} is no vector");
        };
        assert_eq!(result.len(), 1, "{query}");
        assert_eq!(result[0].labels.metric_name(), name, "{query}");
        assert_eq!(result[0].value, SampleValue::Float(value), "{query}");
    }
}

/// Each nesting makes the label twice as long.
#[test]
fn labels_cannot_grow_without_bounds() {
    let mut query = "a_total".to_owned();
    for _ in 0..40 {
        query = format!("label_replace({query}, \"instance\", \"$1$1\", \"instance\", \"(.*)\")");
    }
    let memory = QueryMemory::new(0, 16 << 20, 1);
    let limits = Limits {
        memory: memory.budget(),
        ..Limits::default()
    };
    let error = execute(&source(), &query, EvalParams::instant(600_000), &limits).unwrap_err();
    assert!(matches!(error, EvalError::TooManyBytes(_)), "{error}");
}

#[test]
fn a_query_can_be_ended_from_outside() {
    let (expr, source) = (parse("a_total", &ParseOptions::default()).unwrap(), source());
    let plan = Plan::new("a_total", &expr, EvalParams::instant(0)).unwrap();
    let flag = CancelFlag::new();
    flag.clone().cancel();
    assert_eq!(
        Engine::execute(&plan, &source, &Limits::default(), &flag),
        Err(EvalError::Canceled)
    );
    flag.time_out();
    assert_eq!(
        Engine::execute(&plan, &source, &Limits::default(), &flag),
        Err(EvalError::TimedOut)
    );
}

struct Broken;

impl SeriesSource for Broken {
    fn select(&self, _: &SelectRequest) -> Result<Box<dyn SeriesIter + '_>, SourceError> {
        Err(SourceError("shard 3 has no leader".to_owned()))
    }
}

#[test]
fn what_ails_the_source_is_told() {
    let result = execute(&Broken, "up", EvalParams::instant(0), &Limits::default());
    assert_eq!(result.unwrap_err().to_string(), "shard 3 has no leader");
}

#[test]
fn equal_label_sets_are_refused_whenever_names_are_dropped() {
    let source = source();
    let same = "vector cannot contain metrics with the same labelset";
    for query in [
        r#"rate({instance="1"}[5m])"#,
        r#"abs({instance="1"})"#,
        r#"{instance="1"} + 1"#,
    ] {
        for delayed_name_removal in [false, true] {
            let params = EvalParams {
                delayed_name_removal,
                ..EvalParams::instant(600_000)
            };
            let error = execute(&source, query, params, &Limits::default()).unwrap_err();
            assert_eq!(error.to_string(), same, "{query}");
        }
    }
    let query = r#"sum(rate({instance="1"}[5m]))"#;
    let params = EvalParams {
        delayed_name_removal: true,
        ..EvalParams::instant(600_000)
    };
    assert!(execute(&source, query, params, &Limits::default()).is_ok());
    assert!(execute(&source, query, EvalParams::instant(600_000), &Limits::default()).is_err());
}

#[test]
fn range_queries_take_vectors_and_scalars_only() {
    for query in ["up[5m]", "\"text\""] {
        let expr = parse(query, &ParseOptions::default()).unwrap();
        assert!(Plan::new(query, &expr, EvalParams::range(0, 10, 1)).is_err(), "{query}");
        assert!(Plan::new(query, &expr, EvalParams::instant(0)).is_ok(), "{query}");
    }
}

#[test]
fn extreme_times_do_not_panic() {
    let mut source = MemorySource::new();
    for time in [i64::MIN, i64::MIN + 1, -1, 0, 1, i64::MAX - 1, i64::MAX] {
        source.add_float(&series("m", "1"), time, f64::MAX);
        source.add_float(&series("m", "2"), time, -1.0);
    }
    for query in QUERIES {
        for time in [i64::MIN, -1, 0, i64::MAX] {
            for params in [
                EvalParams::instant(time),
                EvalParams {
                    lookback_ms: i64::MAX,
                    ..EvalParams::instant(time)
                },
            ] {
                let _ = execute(&source, query, params, &Limits::default());
            }
        }
        let _ = execute(
            &source,
            query,
            EvalParams::range(i64::MIN, i64::MAX, i64::MAX / 2),
            &Limits::default(),
        );
    }
}

/// The result at one time, by labels.
fn at(value: &Value, time: i64) -> BTreeMap<Labels, u64> {
    let bits = |v: f64| if v.is_nan() { f64::NAN.to_bits() } else { v.to_bits() };
    match value {
        Value::Scalar { value, .. } => BTreeMap::from([(Labels::empty(), bits(*value))]),
        Value::Vector(vector) => vector
            .iter()
            .map(|sample| {
                let SampleValue::Float(value) = sample.value else {
                    panic!("no float")
                };
                (sample.labels.clone(), bits(value))
            })
            .collect(),
        Value::Matrix(matrix) => matrix
            .iter()
            .filter_map(|series| {
                let (_, value) = series.floats.iter().find(|(t, _)| *t == time)?;
                Some((series.labels.clone(), bits(*value)))
            })
            .collect(),
        Value::String { .. } => panic!("a string"),
    }
}

const QUERIES: &[&str] = &[
    "m",
    "m offset 40s",
    "m offset -40s",
    "m @ 100",
    "rate(m[1m])",
    "increase(m[90s] offset 20s)",
    "irate(m[1m])",
    "deriv(m[2m])",
    "predict_linear(m[2m], 60)",
    "avg_over_time(m[1m])",
    "max_over_time(m[1m]) - min_over_time(m[1m])",
    "quantile_over_time(0.7, m[2m])",
    "stddev_over_time(m[2m])",
    "changes(m[2m]) + resets(m[2m])",
    "last_over_time(m[30s])",
    "sum(m)",
    "avg by (g) (m)",
    "stddev without (i) (m)",
    "quantile(0.3, m)",
    "count_values(\"v\", round(m))",
    "topk(2, m)",
    "bottomk by (g) (1, m)",
    "m + on (g, i) m",
    "m / on (g) group_left sum by (g) (m)",
    "m > 3",
    "m > bool 3",
    "m and m > 2",
    "m unless on (g) (m < 1)",
    "m or vector(1)",
    "absent(m)",
    "absent_over_time(m[30s])",
    "scalar(sum(m)) * 2",
    "max_over_time(sum by (g) (rate(m[1m]))[3m:20s])",
    "sum_over_time(m[2m:25s] @ 200)",
    "timestamp(m)",
    "clamp(m, 1, 4)",
    "label_replace(m, \"h\", \"x$1\", \"i\", \"(.*)\")",
    "time() - timestamp(m)",
    "increase(m[1m] anchored)",
    "increase(m[1m] smoothed)",
    "m smoothed",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn every_step_of_a_range_is_an_instant(
        gaps in prop::collection::vec(prop::collection::vec((1_000i64..40_000, 0u8..12), 0..30), 1..5),
        start in 0i64..200_000,
        step in 1_000i64..60_000,
    ) {
        let mut source = MemorySource::new();
        for (n, gaps) in gaps.iter().enumerate() {
            let group = (n % 2).to_string();
            let labels = Labels::from_pairs([(METRIC_NAME, "m"), ("g", &group), ("i", &n.to_string())]);
            let mut time = 0;
            for (gap, value) in gaps {
                time += gap;
                source.add_float(&labels, time, match value {
                    10 => STALE_NAN,
                    11 => f64::NAN,
                    value => f64::from(*value),
                });
            }
        }
        let params = EvalParams { lookback_ms: 60_000, ..EvalParams::range(start, start + 7 * step, step) };
        for query in QUERIES {
            let range = execute(&source, query, params, &Limits::default()).unwrap();
            for i in 0..8 {
                let time = start + i * step;
                let instant = EvalParams { lookback_ms: 60_000, ..EvalParams::instant(time) };
                let instant = execute(&source, query, instant, &Limits::default()).unwrap();
                prop_assert_eq!(at(&range.value, time), at(&instant.value, time), "{} at {}", query, time);
            }
        }
    }
}
