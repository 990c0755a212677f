//! Start, reload, stop; flags and files that users bring.

use crate::harness::{Node, client, eventually};
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
    std::fs::write(node.config_file(), old.replace("first", "second")).expect("write");
    node.process.signal("-HUP");
    eventually("the new job's target", async || {
        let targets = node.http.api("/api/v1/targets").await;
        (targets["activeTargets"][0]["scrapePool"] == "second").then_some(())
    })
    .await;
    let (code, text) = node.http.post("/-/reload", "text/plain", vec![]).await;
    assert_eq!((code, text.as_str()), (200, ""));
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
