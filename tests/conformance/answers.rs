//! Answers of the HTTP API as values.

use gnomon_model::{Labels, LabelsBuilder};
use gnomon_promql::promqltest::{Answer, Answered, Point, PrintedHistogram};
use serde_json::Value;

/// Milliseconds as the seconds of a request's parameter.
pub(crate) fn seconds(ms: i64) -> String {
    let sign = if ms < 0 { "-" } else { "" };
    format!("{sign}{}.{:03}", ms.unsigned_abs() / 1000, ms.unsigned_abs() % 1000)
}

/// Reads an answer of `query` or `query_range`.
///
/// # Errors
/// The text of the error that the answer is, or what is odd about it.
pub(crate) fn read(body: &str) -> Result<Answer, String> {
    let answer: Value = serde_json::from_str(body).map_err(|e| format!("no JSON: {e}: {body}"))?;
    if answer["status"] != "success" {
        return Err(match answer["error"].as_str() {
            Some(error) => error.to_owned(),
            None => format!("an error without a text: {body}"),
        });
    }
    let data = &answer["data"];
    let odd = || format!("an odd result: {data}");
    let result = &data["result"];
    let value = match data["resultType"].as_str() {
        Some("scalar") => Answered::Scalar(float(&result[1]).ok_or_else(odd)?),
        Some("string") => Answered::String(result[1].as_str().ok_or_else(odd)?.to_owned()),
        Some("vector") => {
            let rows = result.as_array().ok_or_else(odd)?.iter();
            let row = |row: &Value| Some((labels(&row["metric"])?, point(row)?));
            Answered::Vector(rows.map(row).collect::<Option<_>>().ok_or_else(odd)?)
        }
        Some("matrix") => {
            let rows = result.as_array().ok_or_else(odd)?.iter();
            let row = |row: &Value| Some((labels(&row["metric"])?, points(row)?));
            Answered::Matrix(rows.map(row).collect::<Option<_>>().ok_or_else(odd)?)
        }
        _ => return Err(odd()),
    };
    Ok(Answer {
        value,
        warnings: texts(&answer["warnings"]),
        infos: texts(&answer["infos"]),
    })
}

fn texts(list: &Value) -> Vec<String> {
    let all = list.as_array().into_iter().flatten();
    all.filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

fn labels(metric: &Value) -> Option<Labels> {
    let mut builder = LabelsBuilder::default();
    for (name, value) in metric.as_object()? {
        builder.set(name, value.as_str()?);
    }
    Some(builder.build())
}

fn float(text: &Value) -> Option<f64> {
    match text.as_str()? {
        "NaN" => Some(f64::NAN),
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        number => number.parse().ok(),
    }
}

/// The time of a pair, milliseconds.
fn time(pair: &Value) -> Option<i64> {
    Some((pair[0].as_f64()? * 1000.0).round() as i64)
}

fn point(row: &Value) -> Option<Point> {
    match row.get("histogram") {
        Some(pair) => histogram(pair),
        None => float(&row["value"][1]).map(Point::Float),
    }
}

fn points(row: &Value) -> Option<Vec<(i64, Point)>> {
    let list = |name: &str| row.get(name).and_then(Value::as_array).into_iter().flatten();
    let mut all = Vec::new();
    for pair in list("values") {
        all.push((time(pair)?, Point::Float(float(&pair[1])?)));
    }
    for pair in list("histograms") {
        all.push((time(pair)?, histogram(pair)?));
    }
    all.sort_by_key(|(time, _)| *time);
    Some(all)
}

fn histogram(pair: &Value) -> Option<Point> {
    let printed = &pair[1];
    let bucket = |bucket: &Value| {
        let boundaries = u8::try_from(bucket[0].as_u64()?).ok()?;
        Some((boundaries, float(&bucket[1])?, float(&bucket[2])?, float(&bucket[3])?))
    };
    let buckets = printed.get("buckets").and_then(Value::as_array).into_iter().flatten();
    Some(Point::Printed(PrintedHistogram {
        count: float(&printed["count"])?,
        sum: float(&printed["sum"])?,
        buckets: buckets.map(bucket).collect::<Option<_>>()?,
    }))
}

#[test]
fn answers_are_read() {
    assert_eq!(seconds(-1_500), "-1.500");
    let body = r#"{"status":"success","data":{"resultType":"vector","result":[
        {"metric":{"a":"b"},"value":[1.5,"-Inf"]},
        {"metric":{},"histogram":[1.5,{"count":"2","sum":"3","buckets":[[3,"-1","1","2"]]}]}]},"infos":["i"]}"#;
    let answer = read(body).expect("an answer");
    assert_eq!(answer.infos, ["i"]);
    let Answered::Vector(vector) = answer.value else {
        panic!("no vector");
    };
    assert_eq!(
        vector[0],
        (Labels::from_pairs([("a", "b")]), Point::Float(f64::NEG_INFINITY))
    );
    let printed = PrintedHistogram {
        count: 2.0,
        sum: 3.0,
        buckets: vec![(3, -1.0, 1.0, 2.0)],
    };
    assert_eq!(vector[1], (Labels::empty(), Point::Printed(printed)));
    assert_eq!(
        read(r#"{"status":"error","errorType":"execution","error":"why"}"#),
        Err("why".to_owned())
    );
}
