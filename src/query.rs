//! `gnomon query`: asks a server, and shows the answer, the plan, and what each part of it took.

use crate::flags::Query;
use crate::output;
use anyhow::{Context, bail};
use gnomon_model::duration::format_duration_ms;
use gnomon_scraper::config::shape::without_credentials;
use reqwest::Url;
use serde_json::Value;
use std::fmt::Write as _;
use std::process::ExitCode;

/// Characters.
const SHOWN_OF_A_BODY: usize = 200;

/// Runs the command; 1 where there is no answer.
#[must_use]
pub fn run(what: &Query) -> ExitCode {
    match answer(what).and_then(|text| output::say(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::fail("gnomon query", &error);
            ExitCode::FAILURE
        }
    }
}

fn answer(what: &Query) -> anyhow::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let body = runtime.block_on(fetch(what))?;
    if what.json {
        return Ok(body + "\n");
    }
    let answer: Value = serde_json::from_str(&body).context("the server's answer is no JSON")?;
    shown(&answer)
}

/// The answer, where it is all there in time: a server that is stuck gives none.
async fn fetch(what: &Query) -> anyhow::Result<String> {
    match tokio::time::timeout(what.timeout, ask(what)).await {
        Ok(answer) => answer,
        Err(_) => {
            let waited_ms = i64::try_from(what.timeout.as_millis()).unwrap_or(i64::MAX);
            bail!(
                "{} has not answered within {} (--timeout)",
                shown_url(&what.server),
                format_duration_ms(waited_ms)
            )
        }
    }
}

async fn ask(what: &Query) -> anyhow::Result<String> {
    let url = url(what)?;
    let answer = reqwest::get(url.clone())
        .await
        .with_context(|| format!("{} cannot be asked", shown_url(&what.server)))?;
    let status = answer.status();
    let body = answer.text().await.context("the answer ended early")?;
    // Errors of the API say what is wrong in JSON; others are not the API's.
    if !body.starts_with('{') {
        bail!("{} answers {status}: {}", shown_url(url.as_str()), beginning(&body));
    }
    Ok(body)
}

/// Of a body that is no answer of the API's, a proxy's page, say: so much as tells what it is.
pub(crate) fn beginning(body: &str) -> String {
    let body = body.trim();
    match body.char_indices().nth(SHOWN_OF_A_BODY) {
        Some((end, _)) => format!("{}…", &body[..end]),
        None => body.to_owned(),
    }
}

/// A URL as it may stand in a log: without its password.
pub(crate) fn shown_url(url: &str) -> String {
    match Url::parse(url) {
        Ok(mut parsed) if parsed.password().is_some() => {
            // Fails only where there can be no password.
            let _ = parsed.set_password(Some("***"));
            parsed.into()
        }
        Ok(_) => url.to_owned(),
        Err(_) => without_credentials(url),
    }
}

fn url(what: &Query) -> anyhow::Result<Url> {
    let path = if what.is_range() { "query_range" } else { "query" };
    let base = format!("{}/api/v1/{path}", what.server.trim_end_matches('/'));
    let mut url = Url::parse(&base)
        .with_context(|| format!("--server {:?} is no URL like http://host:port", shown_url(&what.server)))?;
    {
        let mut pairs = url.query_pairs_mut();
        pairs.append_pair("query", &what.expr);
        for (name, value) in [
            ("time", &what.time),
            ("start", &what.start),
            ("end", &what.end),
            ("step", &what.step),
        ] {
            if let Some(value) = value {
                pairs.append_pair(name, value);
            }
        }
        if what.explain || what.analyze {
            pairs.append_pair("explain", "1");
        }
        if what.analyze {
            pairs.append_pair("analyze", "1");
        }
    }
    Ok(url)
}

/// An answer for people: the plan if there is one, the result, then what is to be said about it.
fn shown(answer: &Value) -> anyhow::Result<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if answer["status"] != "success" {
        bail!("{}: {}", text(&answer["errorType"]), text(&answer["error"]));
    }
    let data = &answer["data"];
    let mut out = String::new();
    if let Some(plan) = data["explain"].as_str() {
        out.push_str(plan);
        out.push('\n');
    }
    match data["resultType"].as_str() {
        Some("vector") => table(&mut out, rows(&data["result"], |series| vec![point(series)])),
        Some("matrix") => table(&mut out, rows(&data["result"], points)),
        _ => table(&mut out, vec![(String::new(), pair(&data["result"]))]),
    }
    for kind in ["warnings", "infos"] {
        for said in answer[kind].as_array().into_iter().flatten() {
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{}: {}", kind.trim_end_matches('s'), text(said));
        }
    }
    Ok(out)
}

/// Time and value.
type Point = (String, String);

fn pair(point: &Value) -> Point {
    let value = match &point[1] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    (point[0].to_string(), value)
}

fn point(series: &Value) -> Point {
    pair(if series["value"].is_array() {
        &series["value"]
    } else {
        &series["histogram"]
    })
}

fn points(series: &Value) -> Vec<Point> {
    let of = |name: &str| {
        series[name]
            .as_array()
            .into_iter()
            .flatten()
            .map(pair)
            .collect::<Vec<_>>()
    };
    [of("values"), of("histograms")].concat()
}

fn rows(result: &Value, points: impl Fn(&Value) -> Vec<Point>) -> Vec<(String, Point)> {
    let series = result.as_array().into_iter().flatten();
    let of = |series: &Value| {
        let name = labels(&series["metric"]);
        let points = points(series).into_iter();
        points.map(move |point| (name.clone(), point)).collect::<Vec<_>>()
    };
    series.flat_map(of).collect()
}

/// As in an exposition.
fn labels(metric: &Value) -> String {
    let pairs = metric.as_object().into_iter().flatten();
    let others: Vec<String> = pairs
        .filter(|(name, _)| *name != "__name__")
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let name = metric["__name__"].as_str().unwrap_or_default();
    if others.is_empty() && !name.is_empty() {
        return name.to_owned();
    }
    format!("{name}{{{}}}", others.join(", "))
}

fn table(out: &mut String, rows: Vec<(String, Point)>) {
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let times = rows.iter().map(|(_, (time, _))| time.len()).max().unwrap_or(0);
    for (name, (time, value)) in rows {
        let _ = writeln!(out, "{name:width$}  {time:>times$}  {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(
            shown_url("https://alice:wonder@host:9090"),
            "https://alice:***@host:9090/"
        );
        assert_eq!(shown_url("https://alice:wonder@bad:host:1"), "***@bad:host:1");
        for plain in ["http://host:9090", "https://alice@host/", "nonsense"] {
            assert_eq!(shown_url(plain), plain);
        }
    }

    #[test]
    fn of_a_page_the_beginning_is_shown() {
        assert_eq!(beginning(" <p>no\n"), "<p>no");
        let long = "ä".repeat(SHOWN_OF_A_BODY + 1);
        assert_eq!(beginning(&long), "ä".repeat(SHOWN_OF_A_BODY) + "…");
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_is_not_waited_for_for_ever() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let query = Query {
            server: format!("http://{}", listener.local_addr().unwrap()),
            expr: "up".to_owned(),
            timeout: Duration::from_millis(100),
            ..Query::default()
        };
        let error = fetch(&query).await.unwrap_err().to_string();
        assert!(error.contains("has not answered within 100ms (--timeout)"), "{error}");
    }

    #[test]
    fn answers_are_tables() {
        let answer = serde_json::json!({
            "status": "success",
            "data": {
                "resultType": "matrix",
                "result": [
                    {"metric": {"__name__": "up", "job": "a"}, "values": [[1, "1"], [61.5, "0"]]},
                    {"metric": {}, "values": [[1, "NaN"]]},
                ],
                "explain": "select\n",
            },
            "warnings": ["so"],
        });
        let expected = "select\n\n\
                        up{job=\"a\"}     1  1\n\
                        up{job=\"a\"}  61.5  0\n\
                        {}              1  NaN\n\
                        warning: so\n";
        assert_eq!(shown(&answer).unwrap(), expected);
        let scalar = serde_json::json!({"status": "success", "data": {"resultType": "scalar", "result": [1, "2"]}});
        assert_eq!(shown(&scalar).unwrap(), "  1  2\n");
        let failed = serde_json::json!({"status": "error", "errorType": "bad_data", "error": "no"});
        assert_eq!(shown(&failed).unwrap_err().to_string(), "bad_data: no");
    }

    #[test]
    fn what_is_asked_is_in_the_url() {
        let query = Query {
            server: "http://a:9090/prefix/".to_owned(),
            expr: "sum(up) > 1".to_owned(),
            time: Some("5".to_owned()),
            analyze: true,
            ..Query::default()
        };
        let expected = "http://a:9090/prefix/api/v1/query?query=sum%28up%29+%3E+1&time=5&explain=1&analyze=1";
        assert_eq!(url(&query).unwrap().as_str(), expected);
        let bad = Query {
            server: "a b".to_owned(),
            ..Query::default()
        };
        assert!(url(&bad).unwrap_err().to_string().contains("--server"));
    }
}
