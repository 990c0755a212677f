//! The HTTP API beside that of a real Prometheus 2.42 which scrapes the same target: the same requests, good and bad,
//! have the same answers. Where they differ, gnomon answers as Prometheus 3, and `docs/compat.md` has a row.

#[path = "api/requests.rs"]
mod requests;

use crate::harness::reference::Prometheus;
use crate::harness::{Http, Node, client, eventually, families, peers};
use requests::{DIFFERENT, EQUAL, LIKE};
use serde_json::Value;
use std::collections::BTreeSet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Samples with their own time, so that both servers store the same.
fn exposition(at_ms: i64) -> String {
    [
        "# HELP requests_total Requests <by> code & \\\"path\\\".\n# TYPE requests_total counter\n",
        "requests_total{code=\"200\",path=\"/a<b>\"} 10 T\nrequests_total{code=\"500\",path=\"/\"} 3.25 T\n",
        "# TYPE temp gauge\ntemp{room=\"a\"} 21.5 T\ntemp{room=\"b\"} -Inf T\ntemp{room=\"\u{fc}\\\"\\\\\"} NaN T\n",
        "# HELP lat Latency.\n# TYPE lat histogram\nlat_bucket{le=\"0.1\"} 1 T\nlat_bucket{le=\"1.0\"} 3 T\n",
        "lat_bucket{le=\"+Inf\"} 4 T\nlat_sum 2.5 T\nlat_count 4 T\n",
        "# TYPE only_type summary\nonly_type{quantile=\"0.5\"} 1e-300 T\n",
    ]
    .concat()
    .replace(" T\n", &format!(" {at_ms}\n"))
}

struct Answer {
    status: u16,
    content_type: String,
    allow: String,
    body: String,
}

/// `METHOD PATH[ FORM]`
async fn ask(http: &Http, request: &str) -> Answer {
    let mut parts = request.splitn(3, ' ');
    let (method, path) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
    let mut asked = http.client().request(method, http.url(path));
    if let Some(form) = parts.next() {
        asked = asked
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.to_owned());
    }
    let response = asked.send().await.unwrap_or_else(|e| panic!("{request}: {e}"));
    let header = |name: &str| {
        let value = response.headers().get(name);
        value.and_then(|v| v.to_str().ok()).unwrap_or("").to_owned()
    };
    Answer {
        status: response.status().as_u16(),
        content_type: header("content-type"),
        allow: header("allow"),
        body: response.text().await.unwrap_or_else(|e| panic!("{request}: {e}")),
    }
}

/// What a document is made of: names and types, whatever the values; a list is the set of its items' shapes.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, v)| (name.clone(), shape(v))).collect(),
        Value::Array(items) => {
            let shapes: BTreeSet<String> = items.iter().map(|v| shape(v).to_string()).collect();
            shapes.into_iter().collect()
        }
        Value::Null => "null".into(),
        Value::Bool(_) => "flag".into(),
        Value::Number(_) => "number".into(),
        Value::String(_) => "text".into(),
    }
}

/// Takes a field of `data` away: `name`, or `list[].name`.
fn strip(data: &mut Value, field: &str) {
    match field.split_once("[].") {
        Some((list, name)) => {
            for item in data[list].as_array_mut().into_iter().flatten() {
                strip(item, name);
            }
        }
        None => {
            let mut data = data;
            let mut names = field.split('.').peekable();
            while let Some(name) = names.next() {
                if names.peek().is_none() {
                    data.as_object_mut().map(|fields| fields.remove(name));
                    return;
                }
                data = &mut data[name];
            }
        }
    }
}

struct Both {
    gnomon: Node,
    prometheus: Prometheus,
    at_s: i64,
}

async fn both(folder: &std::path::Path, prometheus: &std::path::Path) -> Both {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let at_s = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs() as i64 - 60;
    let text = move || async move { ([("content-type", "text/plain; version=0.0.4")], exposition(at_s * 1000)) };
    let routes = axum::Router::new().route("/metrics", axum::routing::get(text));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let yaml = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n\
         - {{job_name: app, static_configs: [{{targets: ['{address}'], labels: {{env: dev}}}}]}}\n\
         - {{job_name: later, scrape_interval: 1000h, static_configs: [{{targets: ['{address}']}}]}}\n\
         - {{job_name: gone, static_configs: [{{targets: ['127.0.0.1:1']}}]}}\n\
         - job_name: none\n  static_configs: [{{targets: ['127.0.0.1:2'], labels: {{drop: me}}}}]\n  \
           relabel_configs: [{{source_labels: [drop], regex: me, action: drop}}]\n"
    );
    let flags = [
        "--web.enable-lifecycle",
        "--web.enable-remote-write-receiver",
        "--enable-feature=promql-per-step-stats",
    ];
    let reference = Prometheus::launch(prometheus, folder, "reference", &yaml, &flags);
    let gnomon = Node::start(folder, &yaml, &flags).await;
    for http in [&gnomon.http, &reference.http] {
        eventually("all three jobs to be known and scraped", async || {
            let at = at_s as f64 + 60.0;
            let (code, body) = http.get("/api/v1/query?query=count(scrape_samples_scraped)").await;
            let scraped = code == 200 && body.contains("\"2\"]");
            let stored = scraped && !client::series(&http.query("only_type", at).await).is_empty();
            stored.then_some(())
        })
        .await;
    }
    Both {
        gnomon,
        prometheus: reference,
        at_s,
    }
}

impl Both {
    async fn ask(&self, request: &str) -> (Answer, Answer) {
        let request = request.replace("{T}", &self.at_s.to_string());
        (
            ask(&self.gnomon.http, &request).await,
            ask(&self.prometheus.http, &request).await,
        )
    }
}

/// What is wrong with a pair of answers that should be equal.
fn unequal(ours: &Answer, theirs: &Answer) -> Option<String> {
    // Whether a time-out is noticed while a query waits or while it runs is chance.
    let body = |a: &Answer| {
        a.body
            .replace("timed out in query queue", "timed out in query execution")
    };
    // Newer servers say how names are escaped.
    let content_type = |a: &Answer| a.content_type.replace("; escaping=underscores", "");
    let parts = |a: &Answer| (a.status, content_type(a), a.allow.clone(), body(a));
    (parts(ours) != parts(theirs)).then(|| format!("{:?}\n  Prometheus {:?}", parts(ours), parts(theirs)))
}

fn unlike(ours: &Answer, theirs: &Answer, only_ours: &[&str]) -> Option<String> {
    let json = |answer: &Answer| serde_json::from_str::<Value>(&answer.body).unwrap_or(Value::Null);
    let (mut a, b) = (json(ours), json(theirs));
    for field in only_ours {
        strip(&mut a["data"], field);
    }
    let (a, b) = (shape(&a), shape(&b));
    let same = ours.status == theirs.status && ours.content_type == theirs.content_type && a == b;
    (!same).then(|| format!("{} {a}\n  Prometheus {} {b}", ours.status, theirs.status))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_answered_as_prometheus_answers_them() {
    let Some(prometheus) = peers::find("prometheus", "prometheus") else {
        return;
    };
    let folder = tempfile::tempdir().expect("temp folder");
    let both = both(folder.path(), &prometheus).await;
    let mut wrong = Vec::new();
    for request in EQUAL {
        let (ours, theirs) = both.ask(request).await;
        wrong.extend(unequal(&ours, &theirs).map(|why| format!("{request}: {why}")));
    }
    for (request, only_ours) in LIKE {
        let (ours, theirs) = both.ask(request).await;
        wrong.extend(unlike(&ours, &theirs, only_ours).map(|why| format!("{request}: {why}")));
    }
    for (request, status, part) in DIFFERENT {
        let (ours, theirs) = both.ask(request).await;
        if ours.status != *status || !ours.body.contains(part) {
            wrong.push(format!("{request}: {} {}", ours.status, ours.body));
        }
        if unequal(&ours, &theirs).is_none() {
            wrong.push(format!("{request}: is no difference any more"));
        }
    }
    println!(
        "API beside Prometheus 2.42: {} requests, {} equal byte for byte, {} equal in status and shape, {} by rows of \
         docs/compat.md, {} wrong",
        EQUAL.len() + LIKE.len() + DIFFERENT.len(),
        EQUAL.len(),
        LIKE.len(),
        DIFFERENT.len(),
        wrong.len()
    );
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    targets(&both).await;
    samples_are_counted(&both).await;
    flags_are_texts(&both).await;
    headers(&both).await;
    targets_as_typed(&both).await;
    multipart_forms(&both).await;
    federation_in_protobuf(&both).await;
    notifications(&both).await;
}

/// Both read the same of the same bodies.
async fn multipart_forms(both: &Both) {
    let field = |name: &str, value: &str| {
        format!("--x y\r\nContent-Disposition: form-data; name=\"{name}\"\r\nX: y\r\n\r\n{value}\r\n")
    };
    let time = both.at_s.to_string();
    let file = "--x y\r\nContent-Disposition: form-data; name=\"query\"; filename=\"a\"\r\n\r\n2\r\n";
    let temp = field("query", "temp") + &field("time", &time) + "--x y--\r\n";
    for (path, body) in [
        ("/api/v1/query", temp.clone()),
        ("/api/v1/query?query=1&time=3", temp),
        (
            "/api/v1/query",
            file.to_owned() + &field("query", "\r\n7") + &field("time", "1") + "--x y--",
        ),
        (
            "/api/v1/query_range",
            field("query", "1") + &field("start", "1") + &field("end", "2") + &field("step", "1") + "--x y--",
        ),
        (
            "/api/v1/labels",
            field("match[]", "temp") + &field("match[]", "lat_bucket") + "--x y--",
        ),
        (
            "/api/v1/format_query",
            format!("preamble\r\n{}--x y--\r\nepilogue", field("query", "a + b")),
        ),
    ] {
        let mut found = Vec::new();
        for http in [&both.gnomon.http, &both.prometheus.http] {
            let content_type = "multipart/form-data; boundary=\"x y\"";
            let asked = http.client().post(http.url(path)).header("content-type", content_type);
            let response = asked.body(body.clone()).send().await.expect("answer");
            found.push((response.status().as_u16(), response.text().await.expect("text")));
        }
        assert_eq!(found[0], found[1], "{path} {body}");
        assert_eq!(found[0].0, 200, "{path} {body}");
    }
}

/// The same messages.
async fn federation_in_protobuf(both: &Both) {
    let path = "/federate?match[]=temp&match[]={__name__=~\"lat_.*|requests_total\"}";
    let ours = families::federated(&both.gnomon.http, path).await;
    let theirs = families::federated(&both.prometheus.http, path).await;
    // As texts, in which not-a-number is itself.
    assert_eq!(format!("{ours:#?}"), format!("{theirs:#?}"));
    assert!(
        ours.iter()
            .any(|family| family.name() == "lat_bucket" && family.metric.len() == 3)
    );
}

/// What a reload that is refused does to the notifications of gnomon; the other server has none. Who watches
/// hears of the end, and does not hold it up.
async fn notifications(both: &Both) {
    let http = &both.gnomon.http;
    let path = "/api/v1/notifications";
    assert_eq!(http.api(path).await, serde_json::json!([]));
    let mut live = http
        .client()
        .get(http.url(&format!("{path}/live")))
        .send()
        .await
        .expect("answer");
    assert_eq!(live.status().as_u16(), 200);
    let text = "Configuration reload has failed.";
    let file = both.gnomon.config_file();
    let good = std::fs::read_to_string(&file).expect("the configuration");
    for (yaml, code) in [("nonsense: [", 500), (good.as_str(), 200)] {
        std::fs::write(&file, yaml).expect("written");
        let reload = http.client().post(http.url("/-/reload")).send().await.expect("answer");
        assert_eq!(reload.status().as_u16(), code);
        let listed = http.api(path).await;
        assert_eq!(
            listed.as_array().map(Vec::len),
            Some(usize::from(code == 500)),
            "{listed}"
        );
        let event = live.chunk().await.expect("event").expect("not the end");
        let event = String::from_utf8(event.to_vec()).expect("text");
        let event = event
            .strip_prefix("data: ")
            .and_then(|event| event.strip_suffix("\n\n"));
        let event: Value = serde_json::from_str(event.expect("an event")).expect("JSON");
        assert_eq!(
            (&event["text"], &event["active"]),
            (&text.into(), &(code == 500).into())
        );
    }
    let quit = http.client().post(http.url("/-/quit")).send().await.expect("answer");
    assert_eq!(quit.status().as_u16(), 200);
    let last = live.chunk().await.expect("event").expect("not the end");
    assert!(
        String::from_utf8_lossy(&last).contains("gnomon is shutting down"),
        "{last:?}"
    );
    assert_eq!(live.chunk().await.expect("the end"), None);
}

/// Request targets with characters that `curl` sends as they are, two requests on one connection.
async fn targets_as_typed(both: &Both) {
    let mut found = Vec::new();
    for http in [&both.gnomon.http, &both.prometheus.http] {
        let url = reqwest::Url::parse(&http.url("/")).expect("a URL");
        let host = format!("{}:{}", url.host_str().unwrap_or(""), url.port().unwrap_or(0));
        let mut socket = TcpStream::connect(&host).await.expect("connected");
        let get = |query: &str, more: &str| {
            let path = format!("/api/v1/query?time={}&query={query}", both.at_s);
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{more}\r\n")
        };
        let requests = [
            get("temp{room=\"a\"}>0", ""),
            get("requests_total{path=\"/a<b>\"}", "Connection: close\r\n"),
        ];
        socket.write_all(requests.concat().as_bytes()).await.expect("written");
        let mut answers = String::new();
        socket.read_to_string(&mut answers).await.expect("answers");
        let bodies = answers.lines().filter(|line| line.starts_with("{\"status\""));
        let bodies = bodies.map(|body| body.split("HTTP/1.1").next().unwrap_or(""));
        let bodies: Vec<Value> = bodies.map(|body| serde_json::from_str(body).expect("JSON")).collect();
        let one = |body: &Value| {
            body["data"]["result"]
                .as_array()
                .is_some_and(|series| series.len() == 1)
        };
        assert!(bodies.len() == 2 && bodies.iter().all(one), "{answers}");
        found.push(bodies);
    }
    assert_eq!(found[0], found[1]);
}

/// Every word about every target, but for when it was scraped; the one of `later` was not yet.
async fn targets(both: &Both) {
    let mut found = Vec::new();
    for http in [&both.gnomon.http, &both.prometheus.http] {
        let mut data = http.api("/api/v1/targets").await;
        for list in ["activeTargets", "droppedTargets"] {
            for target in data[list].as_array_mut().expect("a list") {
                let scraped = target["health"] != "unknown";
                for field in ["lastScrape", "lastScrapeDuration"] {
                    strip(target, if scraped { field } else { "" });
                }
                // Only in 3.x, of a dropped target.
                strip(target, if target["health"].is_null() { "scrapePool" } else { "" });
            }
        }
        let mut active = data["activeTargets"].as_array().expect("a list").clone();
        active.sort_by_key(|target| target["scrapePool"].to_string());
        found.push((active, data["droppedTargets"].clone()));
    }
    assert_eq!(found[0], found[1]);
    let pools: Vec<_> = found[0]
        .0
        .iter()
        .map(|t| (t["scrapePool"].clone(), t["health"].clone()))
        .collect();
    assert_eq!(
        serde_json::json!(pools),
        serde_json::json!([["app", "up"], ["gone", "down"], ["later", "unknown"]])
    );
}

/// The samples that a query looks at, in all and by step.
async fn samples_are_counted(both: &Both) {
    let at_s = both.at_s;
    for query in [
        format!("query?query=temp&time={at_s}"),
        format!("query?query=temp[1m]&time={at_s}"),
        format!("query?query=sort(temp+or+requests_total)&time={at_s}"),
        format!("query?query=1&time={at_s}"),
        format!("query_range?query=temp&start={at_s}&end={}&step=10", at_s + 30),
        format!(
            "query_range?query=count_over_time(temp[1m])&start={}&end={}&step=15",
            at_s - 30,
            at_s + 45
        ),
        format!(
            "query_range?query=max_over_time(temp[1m:10s])&start={at_s}&end={}&step=20",
            at_s + 40
        ),
        format!("query_range?query=temp+@+{at_s}&start={at_s}&end={}&step=20", at_s + 40),
    ] {
        let mut counted = Vec::new();
        for http in [&both.gnomon.http, &both.prometheus.http] {
            let data = http.api(&format!("/api/v1/{query}&stats=all")).await;
            let samples = &data["stats"]["samples"];
            counted.push((
                samples["totalQueryableSamples"].clone(),
                samples["totalQueryableSamplesPerStep"].clone(),
            ));
        }
        assert_eq!(counted[0], counted[1], "{query}");
    }
}

/// Flags are gnomon's own, but those of Prometheus are among them.
async fn flags_are_texts(both: &Both) {
    let path = "/api/v1/status/flags";
    let (ours, theirs) = (both.gnomon.http.api(path).await, both.prometheus.http.api(path).await);
    let names = |flags: &Value| -> BTreeSet<String> { flags.as_object().expect("a map").keys().cloned().collect() };
    assert!(
        ours.as_object()
            .into_iter()
            .flatten()
            .all(|(_, value)| value.is_string())
    );
    let missing: Vec<_> = names(&theirs).difference(&names(&ours)).cloned().collect();
    assert!(
        missing.is_empty(),
        "flags of Prometheus that are not shown: {missing:?}"
    );
}

/// CORS and compression.
async fn headers(both: &Both) {
    let cors = [
        "access-control-allow-headers",
        "access-control-allow-methods",
        "access-control-allow-origin",
        "access-control-expose-headers",
    ];
    for (method, path) in [
        ("GET", "/api/v1/query?query=1"),
        ("GET", "/api/v1/query?query=up{"),
        ("OPTIONS", "/api/v1/query"),
    ] {
        let mut found = Vec::new();
        for http in [&both.gnomon.http, &both.prometheus.http] {
            let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
            let asked = http.client().request(method, http.url(path));
            let response = asked.header("origin", "http://elsewhere").send().await.expect("answer");
            found.push(cors.map(|name| response.headers().get(name).cloned()));
        }
        assert_eq!(found[0], found[1], "{method} {path}");
        assert!(found[0].iter().all(Option::is_some), "{method} {path}: {found:?}");
    }
    for (accepted, ours, theirs) in [
        ("gzip", "gzip", "gzip"),
        ("gzip, deflate, br", "gzip", "gzip"),
        ("identity", "", ""),
        // Only gnomon and newer servers have zstd; it goes first where both are accepted.
        ("zstd", "zstd", ""),
        ("gzip, zstd", "zstd", "gzip"),
    ] {
        for (http, expected) in [(&both.gnomon.http, ours), (&both.prometheus.http, theirs)] {
            let asked = http.client().get(http.url("/api/v1/status/flags"));
            let response = asked.header("accept-encoding", accepted).send().await.expect("answer");
            let encoding = response.headers().get("content-encoding").cloned();
            let encoding = encoding.map_or(String::new(), |e| e.to_str().unwrap_or("?").to_owned());
            assert_eq!(encoding, expected, "{accepted}: {}", http.url(""));
            let packed = response.bytes().await.expect("body");
            let mut text = String::new();
            match expected {
                "gzip" => {
                    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&packed[..]), &mut text)
                        .expect("gzip");
                }
                "zstd" => {
                    let plain = zstd::stream::decode_all(&packed[..]).expect("zstd");
                    text = String::from_utf8(plain).expect("text");
                }
                _ => text = String::from_utf8(packed.to_vec()).expect("text"),
            }
            assert!(text.starts_with(r#"{"status":"success""#), "{accepted}: {text}");
        }
    }
}
