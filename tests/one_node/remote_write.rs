//! Remote write: what is taken, and what is refused with which answer.

use crate::harness::{Node, client, free_port, peers, remote};
use std::process::Command;

fn now_ms() -> i64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as i64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_are_readable_once_acknowledged_and_bad_bodies_harm_nobody() {
    let folder = tempfile::tempdir().expect("temp folder");
    let node = Node::start(folder.path(), "", &["--web.enable-remote-write-receiver"]).await;
    let at = now_ms();
    let labels = [("__name__", "m"), ("instance", "a:1"), ("job", "j")];
    let good = || remote::body(vec![remote::time_series(&labels, &[(at, 42.5)])]);
    let (code, text) = remote::send(&node.http, good()).await.expect("send");
    assert_eq!((code, text.as_str()), (204, ""));
    let found = client::series(&node.http.query("m", at as f64 / 1000.0).await);
    assert_eq!(found.values().next().map(|s| s[0].1.as_str()), Some("42.5"));

    let mut truncated = good();
    truncated.truncate(truncated.len() - 3);
    let unsorted = remote::body(vec![remote::time_series(
        &[("job", "j"), ("__name__", "m")],
        &[(at, 1.0)],
    )]);
    let no_name_label = remote::body(vec![remote::time_series(&[("", "x")], &[(at, 1.0)])]);
    let lies = vec![0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2, 3];
    for (what, body, expected) in [
        ("truncated", truncated, 400),
        ("not snappy", b"garbage that is no snappy block".to_vec(), 400),
        ("claims 4 GiB", lies, 400),
        (
            "snappy of garbage",
            snap::raw::Encoder::new().compress_vec(&[0xff; 100]).expect("snappy"),
            400,
        ),
        ("empty label name", no_name_label, 400),
    ] {
        let (code, text) = remote::send(&node.http, body).await.expect("send");
        assert_eq!(code, expected, "{what}: {text}");
        assert!(!text.is_empty(), "{what}: an answer without a word");
    }
    // Prometheus takes labels in any order; so does gnomon (one series, whatever the order).
    let (code, text) = remote::send(&node.http, unsorted).await.expect("send");
    assert!(code == 204 || code == 400, "unsorted: {code} {text}");
    let (code, _) = node.http.post("/api/v1/write", "text/plain", good()).await;
    assert!(code == 415 || code == 400, "wrong content type: {code}");

    let (code, _) = remote::send(&node.http, good()).await.expect("send again");
    assert_eq!(code, 204, "an equal sample again is no error");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_prometheus_sends_what_it_scrapes() {
    let Some(prometheus) = peers::find("prometheus", "prometheus") else {
        return;
    };
    let folder = tempfile::tempdir().expect("temp folder");
    let node = Node::start(folder.path(), "", &["--web.enable-remote-write-receiver"]).await;
    let port = free_port();
    let config = folder.path().join("sender.yml");
    let yaml = format!(
        "global: {{scrape_interval: 1s}}\n\
         scrape_configs: [{{job_name: sender, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]\n\
         remote_write: [{{url: '{}', queue_config: {{batch_send_deadline: 1s}}}}]\n",
        node.http.url("/api/v1/write")
    );
    std::fs::write(&config, yaml).expect("configuration");
    let _sender = crate::harness::Process::start(
        "prometheus",
        Command::new(prometheus)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("sender").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}")),
        folder.path().join("sender.log"),
    );
    crate::harness::eventually("the sender's series to arrive", async || {
        let found = client::series(&node.http.query("{job='sender'}", now_ms() as f64 / 1000.0).await);
        (found.len() > 100).then_some(())
    })
    .await;
    let up = client::series(&node.http.query("up{job='sender'}", now_ms() as f64 / 1000.0).await);
    assert_eq!(up.values().next().map(|s| s[0].1.as_str()), Some("1"));
}
