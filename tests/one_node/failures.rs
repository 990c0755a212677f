//! Targets that fail, each in its own way: gnomon's `/api/v1/targets` says of each what a real Prometheus 2.42 says.

use crate::harness::reference::Prometheus;
use crate::harness::{Http, Node, eventually, peers};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// How much of the outcome is the same. What is not is a row of `docs/compat.md`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Same {
    All,
    /// The error's words are those of 3.x.
    Health,
    /// 2.42 takes it; 3.x refuses it, with this in its words.
    Neither(&'static str),
}
use Same::{All, Health, Neither};

/// Job, further configuration, and what is the same.
const JOBS: &[(&str, &str, Same)] = &[
    ("status_500", "", All),
    ("status_404", "", All),
    ("status_odd", "", All),
    ("hang", "", All),
    ("endless", "", All),
    ("endless_limited", "body_size_limit: 100KB", All),
    ("cut_short", "", All),
    ("cut_chunk", "", All),
    ("bad_chunk", "", All),
    ("closes", "", All),
    ("not_http", "", Health),
    ("redirect_loop", "", Health),
    ("redirect_refused", "follow_redirects: false", All),
    ("plain_as_tls", "scheme: https", Health),
    ("cut_gzip", "", All),
    ("no_gzip", "", All),
    ("bomb", "body_size_limit: 1MB", All),
    ("samples", "sample_limit: 1", All),
    ("labels", "label_limit: 2", All),
    ("label_name", "label_name_length_limit: 10", All),
    ("label_value", "label_value_length_limit: 5", All),
    ("fine", "", All),
    ("empty", "", All),
    ("missing_eof", "", All),
    ("garbage", "", Health),
    ("half_line", "", Health),
    ("bad_utf8", "", Health),
    ("repeated_label", "", Health),
    (
        "web_page",
        "",
        Neither("received unsupported Content-Type \"text/html\""),
    ),
    (
        "no_type",
        "",
        Neither("non-compliant scrape target sending blank Content-Type"),
    ),
    ("many_targets", "target_limit: 1", All),
];

fn packed(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text).expect("gzip");
    encoder.finish().expect("gzip")
}

fn answer(headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

const TEXT: &str = "Content-Type: text/plain; version=0.0.4\r\n";
const GZIP: &str = "Content-Type: text/plain; version=0.0.4\r\nContent-Encoding: gzip\r\n";
const CHUNKED: &str =
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/plain; version=0.0.4\r\n\r\n";

/// What a job's target answers; none where it does not answer at all.
fn answer_of(job: &str) -> Option<Vec<u8>> {
    let status = |line: &str| format!("HTTP/1.1 {line}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes();
    Some(match job {
        "status_500" => status("500 Internal Server Error"),
        "status_404" => status("404 Not Found"),
        "status_odd" => status("418 Short and stout"),
        "redirect_loop" => status("302 Found\r\nLocation: /redirect_loop"),
        "redirect_refused" => status("302 Found\r\nLocation: /fine"),
        "cut_short" => format!("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n{TEXT}\r\na 1\n").into_bytes(),
        "cut_chunk" => format!("{CHUNKED}64\r\na 1\n").into_bytes(),
        "bad_chunk" => format!("{CHUNKED}zz\r\na 1\n").into_bytes(),
        "closes" => Vec::new(),
        "not_http" => b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n".to_vec(),
        "cut_gzip" => {
            let whole = packed(b"a 1\nb 2\n");
            answer(GZIP, &whole[..whole.len() - 6])
        }
        "no_gzip" => answer(GZIP, b"a 1\nb 2\nc 3\nd 4\n"),
        "bomb" => answer(GZIP, &packed(&vec![b'\n'; 4 << 20])),
        "samples" => answer(TEXT, b"a 1\nb 2\n"),
        "labels" | "fine" | "plain_as_tls" | "many_targets" => answer(TEXT, b"a 1\n"),
        "label_name" => answer(TEXT, b"a{a_long_label=\"1\"} 1\n"),
        "label_value" => answer(TEXT, b"a{x=\"a long value\"} 1\n"),
        "empty" => answer(TEXT, b""),
        "web_page" => answer("Content-Type: text/html\r\n", b"a 1\n"),
        "no_type" => answer("", b"a 1\n"),
        "missing_eof" => answer(
            "Content-Type: application/openmetrics-text; version=1.0.0\r\n",
            b"a 1\n",
        ),
        "garbage" => answer(TEXT, b"\x01\x02\x03\n"),
        "half_line" => answer(TEXT, b"a 1\nb{x=\"1"),
        "bad_utf8" => answer(TEXT, b"a{x=\"\xff\"} 1\n"),
        "repeated_label" => answer(TEXT, b"a{x=\"1\",x=\"2\"} 1\n"),
        _ => return None,
    })
}

/// Keeps writing good lines, or nothing, until the reader goes away.
async fn go_on(job: &str, socket: &mut TcpStream) {
    if job.starts_with("endless") {
        let lines = "a_metric_of_some_length 1\n".repeat(40);
        let chunk = format!("{:x}\r\n{lines}\r\n", lines.len());
        let mut sent = socket.write_all(CHUNKED.as_bytes()).await;
        while sent.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            sent = socket.write_all(chunk.as_bytes()).await;
        }
    }
    let _ = socket.read(&mut [0; 16]).await;
}

async fn serve(listener: TcpListener) {
    while let Ok((mut socket, _)) = listener.accept().await {
        tokio::spawn(async move {
            let (mut head, mut buffer) = (Vec::new(), [0; 2048]);
            while !head.windows(4).any(|w| w == b"\r\n\r\n") {
                match socket.read(&mut buffer).await {
                    Ok(read @ 1..) => head.extend_from_slice(&buffer[..read]),
                    _ => return,
                }
                // A TLS greeting has no end of lines.
                if head.first() == Some(&22) {
                    let _ = socket.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").await;
                    return;
                }
            }
            let text = String::from_utf8_lossy(&head).into_owned();
            let job = text.split([' ', '/']).nth(2).unwrap_or("");
            match answer_of(job) {
                Some(bytes) => {
                    let _ = socket.write_all(&bytes).await;
                    let _ = socket.shutdown().await;
                }
                None => go_on(job, &mut socket).await,
            }
        });
    }
}

/// Health and error by pool, once every target was scraped.
async fn outcome(http: &Http) -> BTreeMap<String, (String, String)> {
    eventually("every target to be scraped", async || {
        if !http.is_ready().await {
            return None;
        }
        let targets = http.api("/api/v1/targets").await;
        let active = targets["activeTargets"].as_array()?.clone();
        let text = |target: &Value, field: &str| target[field].as_str().unwrap_or("?").to_owned();
        let done = active.len() >= JOBS.len() && active.iter().all(|t| t["health"] != "unknown");
        let one = |t: &Value| (text(t, "scrapePool"), (text(t, "health"), text(t, "lastError")));
        done.then(|| active.iter().map(one).collect())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_targets_are_reported_in_prometheus_words() {
    let Some(prometheus) = peers::find("prometheus", "prometheus") else {
        return;
    };
    let folder = tempfile::tempdir().expect("temp folder");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::spawn(serve(listener));
    let mut yaml = "global: {scrape_interval: 3s, scrape_timeout: 2s}\nscrape_configs:\n".to_owned();
    for (job, config, _) in JOBS {
        let comma = if config.is_empty() { "" } else { ", " };
        let more = if *job == "many_targets" { ", '127.0.0.1:1'" } else { "" };
        yaml.push_str(&format!(
            "- {{job_name: {job}, metrics_path: /{job}, static_configs: [{{targets: ['{address}'{more}]}}]{comma}{config}}}\n"
        ));
    }
    yaml.push_str("- {job_name: portless, static_configs: [{targets: ['localhost']}]}\n");
    yaml.push_str("- {job_name: refused, static_configs: [{targets: ['127.0.0.1:1']}]}\n");
    let reference = Prometheus::launch(&prometheus, folder.path(), "reference", &yaml, &[]);
    let node = Node::start(folder.path(), &yaml, &[]).await;
    let ours = outcome(&node.http).await;
    let theirs = outcome(&reference.http).await;
    let mut wrong = Vec::new();
    for (job, theirs) in theirs.iter().filter(|(job, _)| *job != "portless") {
        let same = JOBS
            .iter()
            .find(|(name, ..)| name == job)
            .map_or(All, |(.., same)| *same);
        let Some(ours) = ours.get(job) else {
            wrong.push(format!("{job}: is missing here"));
            continue;
        };
        let fits = match same {
            All => ours == theirs,
            Health => ours.0 == theirs.0,
            Neither(words) => theirs.0 == "up" && ours.0 == "down" && ours.1.contains(words),
        };
        if !fits {
            wrong.push(format!("{job}, {same:?}: {ours:?}\n  Prometheus {theirs:?}"));
        }
        if same == Health {
            println!("{job}: {:?}\n  Prometheus {:?}", ours.1, theirs.1);
        }
        assert_eq!(ours.0 == "up", ours.1.is_empty(), "{job}: {ours:?}");
    }
    assert_eq!(theirs.len(), JOBS.len() + 2, "{theirs:?}");
    assert!(wrong.is_empty(), "{} differences:\n{}", wrong.len(), wrong.join("\n"));
    // A target without a port gets none any more, and goes by the name that it was given.
    let targets = node.http.api("/api/v1/targets?scrapePool=portless").await;
    let target = &targets["activeTargets"][0];
    assert_eq!(target["labels"]["instance"], "localhost");
    assert_eq!(target["scrapeUrl"], "http://localhost/metrics");
    let targets = reference.http.api("/api/v1/targets?scrapePool=portless").await;
    assert_eq!(targets["activeTargets"][0]["labels"]["instance"], "localhost:80");
}
