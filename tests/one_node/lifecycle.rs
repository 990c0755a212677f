//! Start, reload, stop; flags and files that users bring.

use crate::harness::{Node, binary, client, eventually};
use std::process::Command;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_stops_cleanly_and_nothing_is_lost() {
    let folder = tempfile::tempdir().expect("temp folder");
    let mut node = Node::start(folder.path(), "", &["--web.enable-remote-write-receiver"]).await;
    let at = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64;
    let labels = [("__name__", "kept"), ("instance", "a:1"), ("job", "j")];
    let body = crate::harness::remote::body(vec![crate::harness::remote::time_series(&labels, &[(at, 7.0)])]);
    assert_eq!(
        crate::harness::remote::send(&node.http, body).await.expect("send").0,
        204
    );
    assert_eq!(node.process.interrupt().await, Some(0), "{}", node.process.log());
    let (node, _) = node.restart().await;
    let found = client::series(&node.http.query("kept", at as f64 / 1000.0).await);
    assert_eq!(found.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_file_is_refused_on_reload_and_the_old_one_goes_on() {
    let folder = tempfile::tempdir().expect("temp folder");
    let old = "scrape_configs: [{job_name: first, static_configs: [{targets: ['127.0.0.1:1']}]}]\n";
    let node = Node::start(folder.path(), old, &["--web.enable-lifecycle"]).await;
    std::fs::write(node.config_file(), "scrape_configs: [{job_nam: typo}]\n").expect("write");
    let (code, text) = node.http.post("/-/reload", "text/plain", vec![]).await;
    assert_eq!(code, 500);
    assert!(text.contains("job_nam"), "the answer names the field: {text}");
    let config = node.http.api("/api/v1/status/config").await;
    assert!(config["yaml"].as_str().is_some_and(|y| y.contains("first")), "{config}");
    // One that is well formed, and whose client cannot be made.
    let unusable = old.replace("job_name: first", "job_name: third, tls_config: {ca_file: absent.pem}");
    std::fs::write(node.config_file(), unusable).expect("write");
    let (code, text) = node.http.post("/-/reload", "text/plain", vec![]).await;
    assert!(code == 500 && text.contains("absent.pem"), "{code} {text}");
    let targets = node.http.api("/api/v1/targets").await;
    assert_eq!(targets["activeTargets"][0]["scrapePool"], "first", "{targets}");
    assert_eq!(revision(&node).await, (1, 0), "what is refused is no revision");
    std::fs::write(node.config_file(), old.replace("first", "second")).expect("write");
    node.process.signal("-HUP");
    eventually("the new job's target", async || {
        let targets = node.http.api("/api/v1/targets").await;
        (targets["activeTargets"][0]["scrapePool"] == "second").then_some(())
    })
    .await;
    let (code, text) = node.http.post("/-/reload", "text/plain", vec![]).await;
    assert_eq!((code, text.as_str()), (200, ""));
    assert_eq!(
        revision(&node).await,
        (2, 0),
        "the same content again is the same revision"
    );
}

/// Of the file itself, and of one that it names; secrets too, which are not shown.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_configuration_is_taken_by_itself_where_that_is_asked_for() {
    let folder = tempfile::tempdir().expect("temp folder");
    let job = |name: &str| format!("{{job_name: {name}, static_configs: [{{targets: ['127.0.0.1:1']}}]}}");
    let file = |name: &str| format!("scrape_configs: [{}]\nscrape_config_files: [more.yml]\n", job(name));
    let flags = [
        "--enable-feature=auto-reload-config",
        "--config.auto-reload-interval=1s",
    ];
    let node = Node::start(folder.path(), &file("first"), &flags).await;
    let pools = async |wanted: &[&str]| {
        eventually("the jobs", async || {
            let targets = node.http.api("/api/v1/targets").await;
            let active = targets["activeTargets"].as_array().cloned().unwrap_or_default();
            let mut pools: Vec<_> = active
                .iter()
                .filter_map(|target| target["scrapePool"].as_str())
                .collect();
            pools.sort_unstable();
            (pools == wanted).then_some(())
        })
        .await;
    };
    pools(&["first"]).await;
    std::fs::write(node.config_file(), file("second")).expect("write");
    pools(&["second"]).await;
    let more = node.config_file().with_file_name("more.yml");
    std::fs::write(&more, format!("scrape_configs: [{}]\n", job("third"))).expect("write");
    pools(&["second", "third"]).await;
    // One that is refused is tried again, and changes nothing.
    std::fs::write(&more, "scrape_configs: [{job_nam: typo}]\n").expect("write");
    let is_taken = async || {
        let (_, metrics) = node.http.get("/metrics").await;
        metrics.contains("prometheus_config_last_reload_successful 1\n")
    };
    eventually("a refusal", async || (!is_taken().await).then_some(())).await;
    pools(&["second", "third"]).await;
    std::fs::write(&more, "").expect("write");
    pools(&["second"]).await;
    assert!(is_taken().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_level_is_changed_while_a_node_runs() {
    let folder = tempfile::tempdir().expect("temp folder");
    let flags = ["--web.enable-lifecycle", "--web.enable-remote-write-receiver"];
    let node = Node::start(folder.path(), "", &flags).await;
    // Of a request that is refused there is a line for those who look for the reason.
    let refused = async || {
        let answer = node.http.post("/api/v1/write", "application/x-protobuf", vec![1]).await;
        assert_eq!(answer.0, 400, "{answer:?}");
    };
    refused().await;
    assert_eq!(node.http.get("/-/log-level").await, (200, "info\n".to_owned()));
    assert!(!node.process.log().contains("level=DEBUG"), "{}", node.process.log());
    let set = async |level: &str| {
        let path = format!("/-/log-level?level={level}");
        node.http.post(&path, "text/plain", vec![]).await
    };
    let (code, text) = set("loud").await;
    assert!(
        code == 400 && text.contains("debug, info, warn, error"),
        "{code} {text}"
    );
    assert_eq!(set("debug").await, (200, "debug\n".to_owned()));
    refused().await;
    eventually("lines that were not written before", async || {
        node.process.log().contains("level=DEBUG").then_some(())
    })
    .await;
    assert_eq!(set("error").await, (200, "error\n".to_owned()));
    let log = node.process.log();
    assert!(log.contains("msg=\"log level changed\" from=debug to=error"), "{log}");
    // A reload has nothing to say about it.
    assert_eq!(node.http.post("/-/reload", "text/plain", vec![]).await.0, 200);
    assert_eq!(node.http.get("/-/log-level").await.1, "error\n");
    drop(node);
    let folder = tempfile::tempdir().expect("temp folder");
    let node = Node::start(folder.path(), "", &[]).await;
    assert_eq!(
        node.http.post("/-/log-level?level=debug", "text/plain", vec![]).await.0,
        403
    );
}

/// The configuration's revision, and whether the process goes by another.
async fn revision(node: &Node) -> (u64, u64) {
    let (_, metrics) = node.http.get("/metrics").await;
    let value = |name: &str| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse().ok())
            .unwrap_or_else(|| panic!("no {name}: {metrics}"))
    };
    (value("gnomon_config_revision "), value("gnomon_config_differs "))
}

/// An exporter with one series; its address.
async fn exporter() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    let text = || async { ([("content-type", "text/plain; version=0.0.4")], "a 1\n") };
    let routes = axum::Router::new().route("/metrics", axum::routing::get(text));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    address
}

fn now() -> f64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs_f64()
}

async fn value(node: &Node, query: &str) -> Option<String> {
    let found = client::series(&node.http.query(query, now()).await);
    found.into_values().next().map(|samples| samples[0].1.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_leaves_unchanged_targets_alone_and_ends_those_that_are_gone() {
    let folder = tempfile::tempdir().expect("temp folder");
    let address = exporter().await;
    let job = |name: &str| format!("- {{job_name: {name}, static_configs: [{{targets: ['{address}']}}]}}\n");
    let yaml = |jobs: &[&str]| {
        let jobs: String = jobs.iter().map(|name| job(name)).collect();
        format!("global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n{jobs}")
    };
    let node = Node::start(folder.path(), &yaml(&["kept", "gone"]), &["--web.enable-lifecycle"]).await;
    let scrapes = async |job: &str, more_than: f64| {
        eventually("scrapes", async || {
            let count = value(&node, &format!("count_over_time(up{{job='{job}'}}[1h])")).await?;
            count.parse::<f64>().ok().filter(|count| *count > more_than)
        })
        .await
    };
    let began = now();
    scrapes("kept", 1.0).await;
    scrapes("gone", 1.0).await;
    // Some reloads of each kind: of the same file, with a new job, without an old one, and of a bad file.
    for (text, code) in [
        (yaml(&["kept", "gone"]), 200),
        (yaml(&["kept", "gone", "new"]), 200),
        (yaml(&["new", "kept"]), 200),
        (yaml(&["kept", "kept"]), 500),
    ] {
        std::fs::write(node.config_file(), text).expect("write");
        assert_eq!(node.http.post("/-/reload", "text/plain", vec![]).await.0, code);
        node.process.signal("-HUP");
        let before = scrapes("kept", 0.0).await;
        scrapes("kept", before).await;
    }
    let info = node.http.api("/api/v1/status/runtimeinfo").await;
    assert_eq!(info["reloadConfigSuccess"], false);
    scrapes("new", 1.0).await;
    // The target that stayed: never gone, never new, one series each time it is looked at.
    assert_eq!(
        value(&node, "sum_over_time(scrape_series_added{job='kept'}[1h])").await,
        Some("1".to_owned())
    );
    assert_eq!(
        value(&node, "min_over_time(up{job='kept'}[1h])").await,
        Some("1".to_owned())
    );
    let steps = node.http.query_range("a{job='kept'}", began, now(), 0.25).await;
    let seen = client::series(&steps);
    let samples = seen.values().next().expect("the series");
    let gaps = samples.windows(2).filter(|pair| pair[1].0 - pair[0].0 > 0.3).count();
    assert_eq!((seen.len(), gaps), (1, 0), "{steps}");
    // The one that is gone ends, and the file that was refused did not end the others.
    eventually("the end of the target that is gone", async || {
        value(&node, "a{job='gone'} or up{job='gone'}")
            .await
            .is_none()
            .then_some(())
    })
    .await;
    assert_eq!(value(&node, "a{job='kept'}").await, Some("1".to_owned()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_flag_nobody_reloads_or_stops_by_http() {
    let folder = tempfile::tempdir().expect("temp folder");
    let mut node = Node::start(folder.path(), "", &[]).await;
    for path in ["/-/reload", "/-/quit"] {
        let (code, text) = node.http.post(path, "text/plain", vec![]).await;
        assert_eq!(code, 403, "{text}");
        assert!(text.starts_with("Lifecycle API is not enabled"), "{text}");
    }
    assert!(!node.process.has_ended());
}

#[test]
fn check_config_names_file_line_and_field() {
    let folder = tempfile::tempdir().expect("temp folder");
    let file = folder.path().join("bad.yml");
    std::fs::write(&file, "global:\n  scrape_interval: 5parsecs\n").expect("write");
    let out = Command::new(env!("CARGO_BIN_EXE_gnomon"))
        .args(["check", "config"])
        .arg(&file)
        .output()
        .expect("run");
    let text = String::from_utf8_lossy(&out.stderr).into_owned() + &String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(1), "{text}");
    for part in ["bad.yml", "2", "scrape_interval"] {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

#[test]
fn unknown_flags_and_impossible_promises_are_errors() {
    let run = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_gnomon"))
            .args(args)
            .output()
            .expect("run");
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, text) = run(&["--no.such.flag"]);
    assert!(code != Some(0) && text.contains("no.such.flag"), "{text}");
    let (code, text) = run(&["--enable-feature=agent"]);
    assert!(code != Some(0) && text.contains("agent"), "{text}");
}

#[test]
fn a_data_folder_that_is_none_is_named_with_its_flag() {
    let folder = tempfile::tempdir().expect("temp folder");
    let file = folder.path().join("file");
    std::fs::write(&file, "").expect("a file");
    let output = Command::new(binary())
        .arg(format!("--config.file={}", file.display()))
        .arg(format!("--storage.tsdb.path={}", file.display()))
        .args([
            "--web.listen-address=127.0.0.1:0",
            "--cluster.listen-address=127.0.0.1:0",
        ])
        .output();
    let output = output.expect("gnomon runs");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    let last = errors.lines().last().unwrap_or_default();
    let cause = "File exists (os error 17)";
    assert!(last.contains("--storage.tsdb.path"), "{errors}");
    assert_eq!(last.matches(cause).count(), 1, "{errors}");
}
