//! The scraper's parsers take and refuse what a real Prometheus server takes and refuses, and count the same samples.
//! Skipped where there is no `prometheus` (`make peers` fetches it) or no shared cases.

#![allow(clippy::unwrap_used)]

#[allow(
    dead_code,
    unreachable_pub,
    reason = "the tests of the whole system have it as a part of their harness"
)]
#[path = "../../tests/harness/peers.rs"]
mod peers;

use gnomon_scraper::parse::{EntryKind, Format, parser_for};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// Expositions in Prometheus text that are near the edge of what is taken.
const TEXTS: &[(&str, &str)] = &[
    ("plain", "a 1\nb{x=\"y\"} 2\n"),
    ("no_newline", "a 1"),
    ("no_commas", "a{x=\"1\" y=\"2\"} 1\n"),
    ("trailing_comma", "a{x=\"1\",} 1\n"),
    ("two_commas", "a{x=\"1\",,y=\"2\"} 1\n"),
    ("leading_comma", "a{,x=\"1\"} 1\n"),
    ("blanks", " \t a {  x = \"1\"\t, y=\"2\" } \t 1  123 \n"),
    ("blank_lines", "\n\n  \na 1\n\n"),
    ("comments", "#\n#x\n# HELPX a b\n#HELP a b\n# TYPEx\na 1\n"),
    ("help_alone", "# HELP\na 1\n"),
    ("help_name_only", "# HELP a\na 1\n"),
    ("help_blank", "# HELP a \na 1\n"),
    ("type_name_only", "# TYPE a\na 1\n"),
    ("type_two_blanks", "# TYPE a  counter\na 1\n"),
    ("type_trailing_blank", "# TYPE a counter \na 1\n"),
    ("type_unknown", "# TYPE a unknown\na 1\n"),
    ("type_upper", "# TYPE a COUNTER\na 1\n"),
    ("carriage_return", "a 1\r\n"),
    ("negative_time", "a 1 -5\n"),
    ("float_time", "a 1 5.5\n"),
    ("third_word", "a 1 5 6\n"),
    ("hex", "a 0x1\n"),
    ("hex_float", "a 0x1p3\n"),
    ("underscore", "a 1_0\n"),
    ("overflow", "a 1e999\n"),
    ("underflow", "a 1e-999\n"),
    ("dot", "a .\n"),
    ("dots", "a .5\nb 5.\n"),
    ("infinities", "a +Inf\nb -inf\nc Infinity\nd INF\n"),
    ("nans", "a NaN\nb nan\n"),
    ("signed_nan", "a +NaN\n"),
    ("plus", "a +1\n"),
    ("escapes", "a{x=\"\\\\\\\"\\n\\t\"} 1\n"),
    ("newline_in_value", "a{x=\"1\n2\"} 1\n"),
    ("brace_in_value", "a{x=\"}{\"} 1\n"),
    ("empty_braces", "a{} 1\n"),
    ("no_value", "a\n"),
    ("no_closing", "a{x=\"1\" 1\n"),
    ("single_quotes", "a{x='1'} 1\n"),
    ("colon_label", "a{x:y=\"1\"} 1\n"),
    ("colon_name", ":a 1\n"),
    ("digit_name", "1a 1\n"),
    ("no_blank_before_value", "a{x=\"1\"}5\n"),
    ("brace_value", "a 1{x=\"2\"}\n"),
    ("repeated_label", "a{x=\"1\",x=\"2\"} 1\n"),
    ("repeated_series", "a 1\na 2\n"),
    ("empty_value", "a{x=\"\"} 1\n"),
    ("only_comment", "# x\n"),
    ("tab_separated", "a\t1\t5\n"),
];

/// Taken here, though Prometheus 2.42 refuses them.
const TAKEN_HERE: &[&str] = &[
    // 2.42 makes the blanks before a name part of it.
    "text_blanks",
    // Later versions: exemplars may stand on any sample.
    "bad_exemplars_on_unallowed_samples_1",
    "bad_exemplars_on_unallowed_metric_types_1",
    "bad_exemplars_on_unallowed_metric_types_2",
];

/// The folder of this package, as cargo says it now: what comes from a cache was built elsewhere, it may be.
fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

fn shared() -> Option<PathBuf> {
    let root = std::env::var_os("GNOMON_SHARED").map_or_else(|| package().join("../../shared"), PathBuf::from);
    root.join("openmetrics").is_dir().then_some(root)
}

/// Name, content type, body.
type Case = (String, &'static str, Vec<u8>);

fn cases(shared: &Path) -> Vec<Case> {
    let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let mut cases: Vec<Case> = TEXTS
        .iter()
        .map(|(name, body)| {
            (
                format!("text_{name}"),
                "text/plain; version=0.0.4",
                body.as_bytes().to_vec(),
            )
        })
        .collect();
    for entry in std::fs::read_dir(shared.join("openmetrics")).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        cases.push((name, open_metrics, std::fs::read(folder.join("metrics")).unwrap()));
    }
    cases
}

/// Whether the exposition is taken, and how many samples it has.
fn ours(content_type: &str, body: &[u8]) -> (bool, u64) {
    let format = if content_type.starts_with("text") {
        Format::Text
    } else {
        Format::OpenMetrics
    };
    let mut parser = parser_for(format, body, false, false);
    let mut samples = 0;
    loop {
        match parser.next_entry() {
            Ok(None) => return (true, samples),
            Err(_) => return (false, samples),
            Ok(Some(EntryKind::Sample)) => {
                if parser.write_labels(&mut Vec::new()).is_err() {
                    return (false, samples);
                }
                samples += 1;
            }
            Ok(Some(_)) => {}
        }
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn serve(cases: Arc<BTreeMap<String, (&'static str, Vec<u8>)>>) -> String {
    use axum::extract::{Path, State};
    use axum::http::header::CONTENT_TYPE;
    use axum::response::IntoResponse;
    type Cases = Arc<BTreeMap<String, (&'static str, Vec<u8>)>>;
    let answer = |State(cases): State<Cases>, Path(name): Path<String>| async move {
        match cases.get(&name) {
            Some((kind, body)) => ([(CONTENT_TYPE, *kind)], body.clone()).into_response(),
            None => axum::http::StatusCode::NOT_FOUND.into_response(),
        }
    };
    let routes = axum::Router::new()
        .route("/case/{name}", axum::routing::get(answer))
        .with_state(cases);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
    address
}

async fn get(url: &str) -> Option<serde_json::Value> {
    let answer = reqwest::get(url).await.ok()?;
    serde_json::from_slice(&answer.bytes().await.ok()?).ok()
}

/// Health and number of samples by case, asked of the server until all targets were scraped.
async fn theirs(api: &str, count: usize) -> BTreeMap<String, (bool, u64, String)> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    loop {
        assert!(
            tokio::time::Instant::now() < deadline,
            "prometheus did not scrape all targets"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
        let Some(targets) = get(&format!("{api}/targets")).await else {
            continue;
        };
        let active = targets["data"]["activeTargets"].as_array().unwrap().clone();
        let scraped = active.iter().filter(|t| t["health"] != "unknown").count();
        if scraped < count {
            continue;
        }
        let query = format!("{api}/query?query=scrape_samples_scraped");
        let Some(answer) = get(&query).await else { continue };
        let result = answer["data"]["result"].as_array().unwrap().clone();
        if result.len() < count {
            continue;
        }
        let samples: BTreeMap<String, u64> = result
            .iter()
            .map(|r| {
                let value = r["value"][1].as_str().unwrap().parse().unwrap();
                (r["metric"]["case"].as_str().unwrap().to_owned(), value)
            })
            .collect();
        return active
            .iter()
            .map(|t| {
                let case = t["labels"]["case"].as_str().unwrap().to_owned();
                let error = t["lastError"].as_str().unwrap().to_owned();
                let samples = samples[&case];
                (case, (t["health"] == "up", samples, error))
            })
            .collect();
    }
}

#[tokio::test]
async fn the_scraper_takes_what_prometheus_takes() {
    let Some(shared) = shared() else {
        println!("skipped: no shared cases");
        return;
    };
    let Some(prometheus) = peers::find("prometheus", "prometheus") else {
        return;
    };
    let cases = cases(&shared);
    let served = cases
        .iter()
        .map(|(name, kind, body)| (name.clone(), (*kind, body.clone())))
        .collect();
    let address = serve(Arc::new(served)).await;
    let folder = tempfile::tempdir().unwrap();
    let mut config = String::from(
        "global: {scrape_interval: 1s, scrape_timeout: 1s}\nscrape_configs:\n- job_name: cases\n  relabel_configs:\n  - {source_labels: [case], target_label: __metrics_path__, replacement: /case/$1}\n  static_configs:\n",
    );
    for (name, _, _) in &cases {
        config.push_str(&format!("  - {{targets: ['{address}'], labels: {{case: '{name}'}}}}\n"));
    }
    let file = folder.path().join("prometheus.yml");
    std::fs::write(&file, config).unwrap();
    let port = free_port();
    let child = Command::new(prometheus)
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _running = Running(child);
    let theirs = theirs(&format!("http://127.0.0.1:{port}/api/v1"), cases.len()).await;
    let mut differences = Vec::new();
    for (name, kind, body) in &cases {
        let (up, samples, error) = &theirs[name];
        let (taken, read) = ours(kind, body);
        if !up && taken && TAKEN_HERE.contains(&name.as_str()) {
            continue;
        }
        if *up != taken || (taken && *samples != read) {
            differences.push(format!(
                "{name}: prometheus {up} {samples} {error:?}, here {taken} {read}"
            ));
        }
    }
    let taken = theirs
        .iter()
        .filter(|(name, t)| name.starts_with("bad_") && t.0)
        .count();
    assert!(
        taken > 40,
        "only {taken} bad cases are taken by prometheus: were they served?"
    );
    println!("{} cases, {taken} bad ones that prometheus takes", cases.len());
    assert!(differences.is_empty(), "{differences:#?}");
}
