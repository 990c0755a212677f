//! One of the four dies or is started anew: the others go on, and nothing is marked stale that is not gone.

use super::cluster::{Four, config, now, now_ms};
use crate::harness::exporter::Exporter;
use crate::harness::{client, eventually, remote};

async fn send(four: &Four, name: &str, at: i64) -> bool {
    let labels = [("__name__", name), ("instance", "a:1"), ("job", "j")];
    let body = remote::body(vec![remote::time_series(&labels, &[(at, 1.0)])]);
    remote::send(four.http("ingester"), body)
        .await
        .is_ok_and(|(code, _)| code == 204)
}

/// Newest sample of a scraped series, in seconds.
async fn newest(four: &Four, selector: &str) -> Option<f64> {
    let query = format!("timestamp({selector})");
    let (code, text) = four
        .try_get(
            "querier",
            &format!("/api/v1/query?query={}&time={}", client::encode(&query), now()),
        )
        .await?;
    let answer: serde_json::Value = serde_json::from_str(&text).ok()?;
    (code == 200).then_some(())?;
    answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()
}

async fn until_newer(four: &Four, selector: &str, than: f64) {
    eventually(&format!("samples of {selector} after {than}"), async || {
        newest(four, selector).await.filter(|at| *at > than)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_others_go_on_when_one_is_killed() {
    let folder = tempfile::tempdir().expect("temp folder");
    let exporter = Exporter::start().await;
    exporter.say("steady 1\n");
    let mut four = Four::new(folder.path(), &config("1s", &[("app", &[exporter.address.as_str()])]));
    four.start().await;
    until_newer(&four, "steady", 0.0).await;
    let acknowledged = now_ms();
    assert!(send(&four, "kept", acknowledged).await);

    four.node("ingester").process.kill();
    // Nobody else ends, and an answer without the shards says so.
    let (code, text) = four.http("querier").get("/api/v1/query?query=kept").await;
    assert!(code != 200 || text.contains("warnings"), "{code} {text}");
    four.restart("ingester").await;
    let found = four.http("querier").query("kept", acknowledged as f64 / 1000.0).await;
    assert_eq!(client::series(&found).len(), 1, "{found}");
    until_newer(&four, "steady", now()).await;
    // The gap is a gap; no marker was written into it.
    let since = acknowledged as f64 / 1000.0;
    let steps = four.http("querier").query_range("steady", since, now(), 0.5).await;
    let steps = client::series(&steps);
    let shown = steps.values().next().map_or(0, Vec::len);
    assert!(
        shown as f64 >= (now() - since) / 0.5 - 3.0,
        "{shown} steps since {since}: {steps:?}"
    );

    for role in ["querier", "compactor"] {
        four.node(role).process.kill();
        let at = now_ms();
        assert!(send(&four, &format!("while_{role}_is_away"), at).await);
        four.restart(role).await;
        let query = format!("while_{role}_is_away");
        let found = four.http("querier").query(&query, at as f64 / 1000.0).await;
        assert_eq!(client::series(&found).len(), 1, "{found}");
    }
    until_newer(&four, "steady", now()).await;
    for role in ["scraper", "ingester"] {
        assert!(!four.node(role).process.has_ended(), "{role}");
    }
    four.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_scraper_marks_nothing_and_a_vanished_target_is_marked() {
    let folder = tempfile::tempdir().expect("temp folder");
    let (stays, goes) = (Exporter::start().await, Exporter::start().await);
    stays.say("steady 1\nfades 1\n");
    goes.say("gone 1\n");
    // Two intervals and 10 % are the time that a restart may take without a word about its targets.
    let both = [stays.address.as_str(), goes.address.as_str()];
    let mut four = Four::new(folder.path(), &config("5s", &[("app", &both)]));
    four.start().await;
    for name in ["steady", "gone"] {
        until_newer(&four, name, 0.0).await;
    }
    let before = newest(&four, "steady").await.expect("a sample");
    four.interrupt("scraper").await;
    four.restart("scraper").await;
    until_newer(&four, "steady", before + 6.0).await;
    let last = newest(&four, "steady").await.expect("a sample");
    let steps = client::series(&four.http("querier").query_range("steady", before, last, 1.0).await);
    let shown = steps.values().next().map_or(0, Vec::len);
    assert_eq!(shown as i64, (last - before + 0.001).floor() as i64 + 1, "{steps:?}");

    // A series that its exposition drops, and a target that the configuration drops.
    stays.say("steady 1\n");
    let file = four.node("scraper").config_file();
    std::fs::write(file, config("5s", &[("app", &both[..1])])).expect("configuration");
    four.node("scraper").process.signal("-HUP");
    for name in ["fades", "gone", &format!("up{{instance='{}'}}", goes.address)] {
        eventually(&format!("{name} to be gone"), async || {
            newest(&four, name).await.is_none().then_some(())
        })
        .await;
    }
    assert!(newest(&four, "steady").await.is_some());
    four.stop().await;
}
