//! What `docs/compat.md` excepts of queries, each with both answers.

use crate::answers::{self, seconds};
use crate::harness::client::encode;
use crate::harness::reference::Prometheus;
use crate::harness::{peers, remote};
use crate::store::Store;
use gnomon_model::histogram::{FloatHistogram, Span};
use gnomon_promql::promqltest::{Answered, Point};
use gnomon_proto::histogram::to_wire;
use gnomon_proto::prometheus::TimeSeries;

/// 2024-01-01T00:00:00Z.
const START_MS: i64 = 1_704_067_200_000;
/// When queries are evaluated.
const AT_MS: i64 = START_MS + 600_500;
/// Of range queries: three steps of two minutes.
const STEP_MS: i64 = 120_000;

/// Query, answer of 2.42, answer of gnomon.
const ROWS: &[(&str, &str, &str)] = &[
    // 2 at 480 s, and 70 s later 7 more: it was zero 20 s before, and the range began 60 s before.
    ("increase(slow[180s])", "{} 10.434999999999999", "{} 10.185"),
    (
        "increase(native[2m])",
        "{} count 24 sum 36",
        "{} count 22.1 sum 33.150000000000006",
    ),
    ("histogram_quantile(0.25, native)", "{} 0.75", "{} 0.7071067811865476"),
    (
        "histogram_fraction(0.5, 1.5, native)",
        "{} 0.75",
        "{} 0.7924812503605781",
    ),
    (
        "last_over_time(native[5m])",
        "{__name__=\"native\"} 0",
        "{__name__=\"native\"} count 18 sum 27",
    ),
    ("stddev(infinite)", "{} 0", "{} NaN"),
    ("stdvar(infinite)", "{} 0", "{} NaN"),
    ("avg_over_time(cancelling[10m])", "{} 0", "{} 0.3333333333333333"),
    (
        "one atan2 2",
        "{__name__=\"one\"} 0.4636476090008061",
        "{} 0.4636476090008061",
    ),
    (
        "range: predict_linear(bent[6m] @ 1704067600.5, 0)",
        "{} 6.005",
        "{} 6.005 7.205 8.405000000000001",
    ),
    (
        "one offset 0s",
        "error: invalid parameter \"query\": 1:12: parse error: duration must be greater than 0",
        "{__name__=\"one\"} 1",
    ),
    ("timestamp(bent offset 100s @ 1704068050.5)", "", "{} 1704067700"),
    (
        "many == on () one",
        "{} 1",
        "error: multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)",
    ),
    (
        "holt_winters(bent[10m], 0.5, 0.5)",
        "{} 7",
        "error: invalid parameter \"query\": 1:1: parse error: unknown function with name \"holt_winters\"",
    ),
    (
        "double_exponential_smoothing(bent[10m], 0.5, 0.5)",
        "error: invalid parameter \"query\": 1:1: parse error: unknown function with name \"double_exponential_smoothing\"",
        "{} 7",
    ),
    (
        "one{x=~\"(?<n>.*)\"}",
        "error: invalid parameter \"query\": 1:5: parse error: error parsing regexp: invalid or unsupported Perl syntax: `(?<`",
        "{__name__=\"one\"} 1",
    ),
    (
        "label_replace(one, \"x\", \"y\", \"z\", \")(\")",
        "{__name__=\"one\", x=\"y\"} 1",
        "error: invalid regular expression in label_replace(): )(",
    ),
    (
        "one{x=~\"(\"}",
        "error: invalid parameter \"query\": 1:5: parse error: error parsing regexp: missing closing ): `^(?:()$`",
        "error: invalid parameter \"query\": 1:5: parse error: error parsing regexp: missing closing ): `(`",
    ),
    (
        "one{y=~\"\\\\Q\"}",
        "error: invalid parameter \"query\": 1:5: parse error: error parsing regexp: missing closing ): `^(?:\\Q)$`",
        "{__name__=\"one\"} 1",
    ),
];

fn floats(labels: &[(&str, &str)], samples: &[(i64, f64)]) -> TimeSeries {
    let at = |(second, value): &(i64, f64)| (START_MS + second * 1000, *value);
    remote::time_series(labels, &samples.iter().map(at).collect::<Vec<_>>())
}

fn histograms(name: &str, samples: &[(i64, f64)]) -> TimeSeries {
    let mut series = remote::time_series(&[("__name__", name)], &[]);
    for (second, count) in samples {
        let histogram = FloatHistogram {
            schema: 0,
            count: 2.0 * count,
            sum: 3.0 * count,
            positive_spans: vec![Span { offset: 0, length: 2 }],
            positive_buckets: vec![*count, *count],
            ..FloatHistogram::default()
        };
        series
            .histograms
            .push(to_wire(&histogram, true, START_MS + second * 1000));
    }
    series
}

fn data() -> Vec<TimeSeries> {
    vec![
        floats(&[("__name__", "slow")], &[(480, 2.0), (530, 6.0), (580, 9.0)]),
        floats(&[("__name__", "infinite")], &[(580, f64::INFINITY)]),
        floats(&[("__name__", "one")], &[(580, 1.0)]),
        floats(&[("__name__", "many"), ("a", "x")], &[(580, 1.0)]),
        floats(&[("__name__", "many"), ("a", "y")], &[(580, 2.0)]),
        floats(&[("__name__", "bent")], &[(100, 1.0), (300, 3.0), (500, 9.0)]),
        floats(&[("__name__", "cancelling")], &[(100, 1e16), (200, 1.0), (300, -1e16)]),
        histograms("native", &[(500, 1.0), (540, 5.0), (580, 9.0)]),
    ]
}

fn shown(point: &Point) -> String {
    match point {
        Point::Float(value) => value.to_string(),
        Point::Histogram(_) => "a histogram".to_owned(),
        Point::Printed(printed) => format!("count {} sum {}", printed.count, printed.sum),
    }
}

/// An answer in one line.
fn told(body: &str) -> String {
    let value = match answers::read(body) {
        Err(error) => return format!("error: {error}"),
        Ok(answer) => answer.value,
    };
    let rows: Vec<String> = match value {
        Answered::Scalar(value) => vec![value.to_string()],
        Answered::String(text) => vec![text],
        Answered::Vector(rows) => rows
            .iter()
            .map(|(labels, point)| format!("{labels} {}", shown(point)))
            .collect(),
        Answered::Matrix(rows) => rows
            .iter()
            .map(|(labels, points)| {
                let points: Vec<_> = points.iter().map(|(_, point)| shown(point)).collect();
                format!("{labels} {}", points.join(" "))
            })
            .collect(),
    };
    rows.join("; ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_excepted_is_so() {
    let Some(program) = peers::find("prometheus", "prometheus") else {
        return;
    };
    let folder = tempfile::tempdir().expect("temp folder");
    let reference = Prometheus::for_remote_write(&program, folder.path()).await;
    let store = Store::new(false);
    let body = remote::body(data());
    store.write(body.clone()).await.expect("gnomon takes it");
    let (code, text) = remote::send(&reference.http, body).await.expect("Prometheus is there");
    assert!((200..300).contains(&code), "Prometheus: {code}: {text}");
    let mut wrong = Vec::new();
    for (query, theirs, ours) in ROWS {
        let path = match query.strip_prefix("range: ") {
            None => format!("/api/v1/query?time={}&query={}", seconds(AT_MS), encode(query)),
            Some(query) => {
                let (start, end) = (seconds(AT_MS), seconds(AT_MS + 2 * STEP_MS));
                let step = seconds(STEP_MS);
                format!(
                    "/api/v1/query_range?start={start}&end={end}&step={step}&query={}",
                    encode(query)
                )
            }
        };
        let ((_, here), (_, there)) = tokio::join!(store.get(&path), reference.http.get(&path));
        for (of, expected, got) in [("Prometheus", theirs, told(&there)), ("gnomon", ours, told(&here))] {
            if *expected != got {
                wrong.push(format!("{of}: {query}: {got:?}, not {expected:?}"));
            }
        }
        if theirs == ours {
            wrong.push(format!("{query}: nothing is to be excepted"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
