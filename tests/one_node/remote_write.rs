//! Remote write: what is taken, and what is refused with which answer.

use crate::harness::reference::Prometheus;
use crate::harness::{Node, client, free_port, peers, remote};

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
    let yaml = format!(
        "global: {{scrape_interval: 1s}}\n\
         scrape_configs: [{{job_name: sender, static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]\n\
         remote_write: [{{url: '{}', queue_config: {{batch_send_deadline: 1s}}}}]\n",
        node.http.url("/api/v1/write")
    );
    let _sender = Prometheus::launch_at(port, &prometheus, folder.path(), "sender", &yaml, &[]);
    crate::harness::eventually("the sender's series to arrive", async || {
        let found = client::series(&node.http.query("{job='sender'}", now_ms() as f64 / 1000.0).await);
        (found.len() > 100).then_some(())
    })
    .await;
    let up = client::series(&node.http.query("up{job='sender'}", now_ms() as f64 / 1000.0).await);
    assert_eq!(up.values().next().map(|s| s[0].1.as_str()), Some("1"));
}

/// A request that is odd in some way: headers, body.
struct Odd {
    what: &'static str,
    content_type: &'static str,
    encoding: &'static str,
    body: Vec<u8>,
    /// Status of gnomon, of 2.42. Where they differ, gnomon does as 3.x or by its design: rows of `docs/compat.md`.
    expected: (u16, u16),
}

fn odd_requests(at: i64) -> Vec<Odd> {
    let series = |name: &str, samples: &[(i64, f64)]| {
        let labels = [("__name__", name), ("instance", "a:1"), ("job", "j")];
        remote::body(vec![remote::time_series(&labels, samples)])
    };
    let labels = |labels: &[(&str, &str)]| remote::body(vec![remote::time_series(labels, &[(at, 1.0)])]);
    let snappy = |bytes: &[u8]| snap::raw::Encoder::new().compress_vec(bytes).expect("snappy");
    let odd = |what, body, expected| Odd {
        what,
        content_type: "application/x-protobuf",
        encoding: "snappy",
        body,
        expected,
    };
    let good = || series("good", &[(at, 1.0)]);
    let truncated = {
        let mut body = good();
        body.truncate(body.len() - 3);
        body
    };
    vec![
        odd("good", good(), (204, 204)),
        odd("again", good(), (204, 204)),
        odd("two samples", series("two", &[(at - 1000, 1.0), (at, 2.0)]), (204, 204)),
        odd("nothing", snappy(&[]), (204, 204)),
        odd("an empty body", Vec::new(), (400, 400)),
        odd("truncated", truncated, (400, 400)),
        odd("no snappy", b"garbage that is no snappy block".to_vec(), (400, 400)),
        odd(
            "a lie about its length",
            vec![0xff, 0xff, 0xff, 0x7f, 1, 2, 3],
            (400, 400),
        ),
        odd("snappy of garbage", snappy(&[0xff; 100]), (400, 400)),
        odd("snappy of a text", snappy(b"up 1\n"), (204, 204)),
        odd(
            "another value at the same time",
            series("good", &[(at, 2.0)]),
            (400, 400),
        ),
        odd("a second late", series("good", &[(at - 1000, 1.0)]), (204, 400)),
        odd("a day late", series("good", &[(at - 86_400_000, 1.0)]), (400, 400)),
        odd(
            "eleven minutes ahead",
            series("ahead", &[(at + 660_000, 1.0)]),
            (400, 204),
        ),
        odd(
            "labels in another order",
            labels(&[("job", "j"), ("__name__", "unsorted")]),
            (204, 204),
        ),
        odd(
            "an empty label name",
            labels(&[("", "x"), ("__name__", "m")]),
            (400, 204),
        ),
        odd(
            "a label twice",
            labels(&[("__name__", "m"), ("a", "1"), ("a", "2")]),
            (400, 500),
        ),
        odd("no metric name", labels(&[("a", "1")]), (400, 204)),
        Odd {
            content_type: "text/plain",
            ..odd("a text's content type", good(), (415, 204))
        },
        Odd {
            content_type: "application/x-protobuf;proto=io.prometheus.write.v2.Request",
            ..odd("version 1 said to be version 2", good(), (204, 204))
        },
        Odd {
            encoding: "gzip",
            ..odd("gzip", good(), (415, 204))
        },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_requests_get_the_answers_of_prometheus() {
    let Some(prometheus) = peers::find("prometheus", "prometheus") else {
        return;
    };
    let folder = tempfile::tempdir().expect("temp folder");
    let node = Node::start(folder.path(), "", &["--web.enable-remote-write-receiver"]).await;
    let flags = ["--web.enable-remote-write-receiver"];
    let reference = Prometheus::launch(&prometheus, folder.path(), "receiver", "", &flags);
    reference.until_ready().await;
    let reference = &reference.http;
    let mut wrong = Vec::new();
    for odd in odd_requests(now_ms()) {
        let mut got = Vec::new();
        for http in [&node.http, reference] {
            let sent = http
                .client()
                .post(http.url("/api/v1/write"))
                .header("content-type", odd.content_type)
                .header("content-encoding", odd.encoding)
                .header("x-prometheus-remote-write-version", "0.1.0")
                .body(odd.body.clone());
            let response = sent.send().await.expect("an answer");
            let code = response.status().as_u16();
            got.push((code, response.text().await.unwrap_or_default()));
        }
        if (got[0].0, got[1].0) != odd.expected {
            wrong.push(format!("{}: {got:?}, expected {:?}", odd.what, odd.expected));
        }
        // A refusal says why.
        if got[0].0 >= 400 && got[0].1.trim().is_empty() {
            wrong.push(format!("{}: refused without a word", odd.what));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // None of these harmed what was good.
    let found = client::series(&node.http.query("good", now_ms() as f64 / 1000.0).await);
    assert_eq!(found.values().next().map(|samples| samples[0].1.as_str()), Some("1"));
}
